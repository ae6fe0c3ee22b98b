//! The rules of the house that can be checked are checked here, so that nobody has to ask for them.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// The crates whose code ships.
const CRATES: [&str; 6] = ["shared", "listen", "broadcast", "gateway", "bench", "cli"];

/// A file that is longer holds more than one noun.
const LINES_MAX: usize = 400;

/// Drawers: nobody could say what does not belong into them.
const DRAWERS: [&str; 9] =
    ["utils", "util", "helpers", "helper", "common", "types", "misc", "manager", "mod"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// All Rust files below a folder, by their paths from the root.
fn rust_files(folder: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let path = path.strip_prefix(root()).unwrap();
                found.push(path.to_str().unwrap().to_owned());
            }
        }
    }
    found.sort();
    assert!(!found.is_empty(), "{folder} holds no Rust file");
    found
}

/// All files of the crates that ship, with their texts.
fn sources() -> Vec<(String, String)> {
    let paths = CRATES.iter().flat_map(|name| rust_files(&format!("{name}/src")));
    paths.map(|path| (path.clone(), read(&path))).collect()
}

fn everything() -> Vec<(String, String)> {
    let beside = ["tests", "broadcast/tests", "broadcast/benches"].into_iter().flat_map(rust_files);
    sources().into_iter().chain(beside.map(|path| (path.clone(), read(&path)))).collect()
}

fn complain(faults: Vec<String>) {
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

/// Lines of code, without comments, that hold `text`.
fn uses<'a>(source: &'a str, text: &'a str) -> impl Iterator<Item = (usize, &'a str)> {
    let code = |line: &&str| !line.trim_start().starts_with("//");
    (1..).zip(source.lines()).filter(move |(_, line)| code(line) && line.contains(text))
}

#[test]
fn crates_import_only_downwards() {
    let forbidden = [
        ("shared/", "listen::"),
        ("shared/", "broadcast::"),
        ("listen/", "broadcast::"),
        ("broadcast/", "listen::"),
        ("gateway/", "bench::"),
        ("bench/", "listen::"),
        ("bench/", "broadcast::"),
    ];
    let mut faults = Vec::new();
    for (path, source) in sources() {
        for (folder, import) in forbidden {
            if path.starts_with(folder) {
                let lines =
                    uses(&source, import).filter(|(_, line)| line.trim_start().starts_with("use "));
                faults.extend(lines.map(|(number, _)| format!("{path}:{number} uses {import}")));
            }
        }
    }
    complain(faults);
}

#[test]
fn no_way_in_or_out_imports_its_sibling() {
    let mut faults = Vec::new();
    for (path, source) in sources() {
        for (folder, module) in
            [("listen/src/inputs/", "inputs"), ("broadcast/src/outputs/", "outputs")]
        {
            let Some(inner) = path.strip_prefix(folder) else { continue };
            let own = inner.split(['/', '.']).next().unwrap();
            for (number, line) in uses(&source, &format!("crate::{module}::")) {
                let import = line.split(&format!("crate::{module}::")).nth(1).unwrap();
                let other = import.split([':', ';', '{', ' ']).next().unwrap();
                let is_module = other.starts_with(|first: char| first.is_ascii_lowercase());
                if is_module && other != own {
                    faults.push(format!("{path}:{number} imports its sibling {other}"));
                }
            }
        }
    }
    complain(faults);
}

#[test]
fn only_main_and_lib_see_the_whole_configuration() {
    let mut faults = Vec::new();
    for (path, source) in sources() {
        let is_inside = path.starts_with("listen/") || path.starts_with("broadcast/");
        let may_see = ["/main.rs", "/lib.rs", "/config.rs"].iter().any(|it| path.ends_with(it));
        if is_inside && !may_see {
            let is_ours =
                |line: &str| !["AppConfig", "DbConfig"].iter().any(|it| line.contains(it));
            let lines = uses(&source, "Config").filter(|(_, line)| is_ours(line));
            faults.extend(lines.map(|(number, _)| format!("{path}:{number} sees Config")));
        }
    }
    complain(faults);
}

#[test]
fn every_file_says_at_its_head_what_it_is() {
    let heads = everything().into_iter().filter(|(path, source)| {
        // The tests of a file are explained by it.
        !path.ends_with("/tests.rs") && !source.starts_with("//! ")
    });
    complain(heads.map(|(path, _)| format!("{path} does not begin with //!")).collect());
}

#[test]
fn no_file_is_a_drawer() {
    let mut faults = Vec::new();
    for (path, _) in everything() {
        let stem = Path::new(&path).file_stem().unwrap().to_str().unwrap();
        if DRAWERS.contains(&stem) {
            faults.push(format!("{path} is a drawer"));
        }
    }
    complain(faults);
}

#[test]
fn no_file_grows_too_long() {
    let long = everything().into_iter().filter(|(_, source)| source.lines().count() > LINES_MAX);
    let say = |(path, source): (String, String)| {
        format!("{path} has {} lines, more than {LINES_MAX}", source.lines().count())
    };
    complain(long.map(say).collect());
}

#[test]
fn no_queue_is_unbounded_and_nothing_is_left_over() {
    let words = ["unbounded", "dbg!(", "todo!(", "unimplemented!(", "TODO", "FIXME", "XXX"];
    let mut faults = Vec::new();
    for (path, source) in sources() {
        for word in words {
            let lines = (1..).zip(source.lines()).filter(|(_, line)| line.contains(word));
            faults.extend(lines.map(|(number, _)| format!("{path}:{number} has {word}")));
        }
    }
    complain(faults);
}

#[test]
fn a_relaxed_lint_carries_its_reason() {
    let mut faults = Vec::new();
    for (path, source) in sources() {
        for (number, line) in uses(&source, "#[allow(") {
            faults.push(format!("{path}:{number} allows for ever: {}", line.trim()));
        }
        for (number, _) in uses(&source, "#[expect(") {
            let attribute: String =
                source.lines().skip(number - 1).take(4).collect::<Vec<_>>().join(" ");
            if !attribute.split(']').next().unwrap().contains("reason = ") {
                faults.push(format!("{path}:{number} gives no reason"));
            }
        }
    }
    complain(faults);
}

#[test]
fn every_crate_that_ships_keeps_the_lints_of_the_house() {
    let house = read("Cargo.toml");
    for lint in ["unsafe_code = \"forbid\"", "unwrap_used = \"deny\"", "panic = \"deny\""] {
        assert!(house.contains(lint), "{lint} is gone");
    }
    let manifests = CRATES.map(|name| format!("{name}/Cargo.toml"));
    let loose = manifests.iter().filter(|path| !read(path).contains("[lints]\nworkspace = true"));
    complain(loose.map(|path| format!("{path} does not keep them")).collect());
}

/// The settings that a file of the crates declares.
fn declared(path: &str) -> Vec<String> {
    let source = read(path);
    let names = source.split("env = \"").skip(1);
    names.map(|rest| rest.split('"').next().unwrap().to_owned()).collect()
}

#[test]
fn the_readme_names_every_setting_and_no_other() {
    let files = [
        "shared/src/settings.rs",
        "listen/src/config.rs",
        "broadcast/src/config.rs",
        "broadcast/src/config/queues.rs",
        "shared/src/amqp/settings.rs",
        "broadcast/src/config/channels.rs",
    ];
    let declared: BTreeSet<String> = files
        .iter()
        .flat_map(|path| declared(path))
        .filter(|name| !name.starts_with("TEST_"))
        .collect();
    let readme = read("README.md");
    let table = readme.split("## Settings").nth(1).expect("README has a section on settings");
    let rows = table.split("\n## ").next().unwrap().lines();
    let named: BTreeSet<String> = rows
        .filter_map(|row| row.strip_prefix("| `")?.split('`').next())
        .map(str::to_owned)
        .collect();
    assert_eq!(named, declared);
}

/// Whoever runs containers need not edit their files for these.
#[test]
fn the_compose_files_pass_on_every_setting_of_queues_channels_and_signed_tokens() {
    let files = [
        "broadcast/src/config/queues.rs",
        "shared/src/amqp/settings.rs",
        "broadcast/src/config/channels.rs",
    ];
    let common = ["shared/src/settings.rs", "listen/src/config.rs"].into_iter().flat_map(declared);
    let more = common.filter(|it| it.starts_with("JWT_") || it.starts_with("AMQP_"));
    let names: Vec<String> = files.into_iter().flat_map(declared).chain(more).collect();
    assert!(names.len() >= 20);
    for path in ["docker-compose.yml", "docker-compose.dev.yml"] {
        let file = read(path);
        let missing = names.iter().filter(|name| !file.contains(&format!("\n    {name}:\n")));
        complain(missing.map(|name| format!("{path} does not pass on {name}")).collect());
    }
}

#[test]
fn the_architecture_stays_a_page_to_be_read() {
    let lines = read("ARCHITECTURE.md").lines().count();
    assert!(lines <= 200, "ARCHITECTURE.md has {lines} lines");
}

/// A promise in the papers names the tests that keep it; a name without a test is a broken one.
#[test]
fn every_test_that_the_papers_name_exists() {
    let code: String = everything().into_iter().map(|(_, source)| source).collect();
    let paper = read("docs/promises.md");
    let named = paper.split('`').skip(1).step_by(2).filter(|name| {
        let is_name = |character: char| character.is_ascii_lowercase() || character == '_';
        let is_digit = |character: char| character.is_ascii_digit();
        name.matches('_').count() >= 2 && name.chars().all(|it| is_name(it) || is_digit(it))
    });
    let missing = named.filter(|name| !code.contains(&format!("fn {name}(")));
    complain(missing.map(|name| format!("docs/promises.md names {name}")).collect());
}
