//! Settings: what stops a process, and what it says then.

use std::process::{Command, Output};

use crate::gateway::{House, Process, Settings, binary};

/// Runs a process that is expected to end by itself.
fn run(name: &str, settings: &Settings, arguments: &[&str]) -> (Option<i32>, String, String) {
    let mut command = Command::new(binary(name));
    let Output { status, stdout, stderr } =
        command.env_clear().envs(settings).args(arguments).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code(), text(stdout), text(stderr))
}

/// Settings of both processes, a wrong value for each.
const COMMON: [(&str, &str); 26] = [
    ("LINK", "./sockets/link.sock"),
    ("LINK", "nats:host"),
    ("LINK_UIDS", "1,root"),
    ("TOKENS_FILE", "/no/such/file"),
    ("TOKENS_FILE", "/dev"),
    ("JWT_SECRET_FILE", "/no/such/file"),
    ("JWT_SECRET_FILE", "/dev"),
    ("JWT_SECRET_FILE", "/dev/null"),
    ("JWT_KEYS_FILE", "/no/such/file"),
    ("JWT_KEYS_FILE", ""),
    ("JWT_REQUIRE_EXP", "maybe"),
    ("JWT_ISSUER", ""),
    ("JWT_DEFAULT_PUBLISH", "order.paid,a\u{7}b"),
    ("JWT_DEFAULT_SUBSCRIBE", "order.>,a\u{2028}b"),
    ("HTTPS_ENABLE", "maybe"),
    ("MAX_BODY", "0"),
    ("MAX_BODY", "1 parsec"),
    ("MEMORY_LIMIT", "-1"),
    ("TRUSTED_PROXIES", "10.0.0.0/33"),
    ("TRUSTED_PROXIES", "localhost"),
    ("WORKERS", "0"),
    ("WORKERS", "many"),
    ("DRAIN_TIMEOUT", "10"),
    ("DRAIN_TIMEOUT", "0s"),
    ("LOG_FORMAT", "xml"),
    ("RUST_LOG", "listen=loud"),
];

const LISTEN: [(&str, &str); 6] = [
    ("LISTEN_ADDR", "8080"),
    ("LISTEN_ADDR", "localhost:http"),
    ("LISTEN_ADMIN_ADDR", "127.0.0.1:65536"),
    ("PUBLISH_TIMEOUT", "5"),
    ("RATE_LIMIT", "100"),
    ("RATE_LIMIT", "0/s"),
];

const BROADCAST: [(&str, &str); 20] = [
    ("BROADCAST_ADDR", ""),
    ("BROADCAST_ADMIN_ADDR", "here"),
    ("LINK_GROUP", "no-such-group"),
    ("INIT_TIMEOUT", "never"),
    ("INIT_TIMEOUT", "2 days"),
    ("OUTBOX_BYTES", "4 MB and a bit"),
    ("OUTBOX_BYTES", "0"),
    ("MAX_SESSIONS", "0"),
    ("MAX_SESSIONS", "-1"),
    ("MAX_SESSIONS_PER_ADDRESS", "0"),
    ("MAX_PATTERNS", "0"),
    ("MAX_MESSAGE", "big"),
    ("MAX_FRAME_RATE", "0"),
    ("MAX_FRAME_RATE", "1.5"),
    ("DATA_DIR", "/dev/null/data"),
    ("DURABILITY", "paper"),
    ("LOG_MAX_EVENTS", "0"),
    ("LOG_MAX_BYTES", "1 parsec"),
    ("LOG_MAX_AGE", "a while"),
    ("LOG_CACHE_BYTES", "0"),
];

#[test]
fn a_wrong_value_stops_the_process_with_78_and_one_sentence_that_names_the_setting() {
    let rows = |name, table: &'static [(&str, &str)]| table.iter().map(move |row| (name, row));
    let common = ["listen", "broadcast"].into_iter().flat_map(|name| rows(name, &COMMON));
    let own = rows("listen", &LISTEN).chain(rows("broadcast", &BROADCAST));
    let house = House::new();
    for (process, (setting, value)) in common.chain(own) {
        let flag = format!("--{}={value}", setting.to_lowercase().replace('_', "-"));
        let mut settings = house.settings.clone();
        let by_flag = run(process, &settings, &[&flag]);
        settings.insert((*setting).to_owned(), (*value).to_owned());
        let by_environment = run(process, &settings, &[]);
        for (code, stdout, stderr) in [by_flag, by_environment] {
            let what = format!("{process} {setting}={value}: {stderr}");
            assert_eq!(code, Some(78), "{what}");
            assert_eq!(stdout, "", "{what}");
            let last = stderr.trim_end().lines().last().unwrap_or_default();
            assert!(last.contains(setting), "{what}");
            // A start that comes as far as its files has already logged something.
            let said = stderr.lines().filter(|line| !line.contains(r#""level":"info""#));
            assert_eq!(said.count(), 1, "{what}");
        }
    }
}

#[test]
fn no_argument_is_ever_printed() {
    let house = House::new();
    let secret = "Hy6rLc3pASecretByMistake";
    let table: [&[&str]; 5] = [
        &[secret],
        &["--token", secret],
        &[&format!("--{secret}")],
        &["--max-body", secret],
        &["--log-format", secret],
    ];
    for process in ["listen", "broadcast"] {
        for arguments in table {
            let (code, stdout, stderr) = run(process, &house.settings, arguments);
            assert_eq!(code, Some(78), "{stderr}");
            assert!(!(stdout + &stderr).contains(secret), "{arguments:?}: {stderr}");
            assert_eq!(stderr.lines().count(), 1, "{stderr}");
        }
    }
}

#[test]
fn why_a_process_does_not_start_is_said_even_where_nothing_is_logged() {
    let house = House::new();
    for process in ["listen", "broadcast"] {
        let mut settings = house.settings.clone();
        settings.insert("RUST_LOG".to_owned(), "off".to_owned());
        settings.insert("TOKENS_FILE".to_owned(), "/no/such/file".to_owned());
        let (code, _, stderr) = run(process, &settings, &[]);
        assert_eq!(code, Some(78), "{stderr}");
        assert!(stderr.starts_with("TOKENS_FILE: "), "{stderr}");
    }
}

#[test]
fn a_link_whose_path_is_too_long_is_told_at_start() {
    let house = House::new();
    for process in ["listen", "broadcast"] {
        let mut settings = house.settings.clone();
        settings.insert("LINK".to_owned(), format!("unix:/tmp/{}", "x".repeat(108)));
        let (code, _, stderr) = run(process, &settings, &[]);
        assert_eq!(code, Some(78), "{stderr}");
        assert!(stderr.contains("LINK") && stderr.contains("107 bytes"), "{stderr}");
    }
}

#[test]
fn an_address_that_cannot_be_had_is_named() {
    let house = House::new();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    for (process, setting) in [
        ("listen", "LISTEN_ADDR"),
        ("listen", "LISTEN_ADMIN_ADDR"),
        ("broadcast", "BROADCAST_ADDR"),
        ("broadcast", "BROADCAST_ADMIN_ADDR"),
    ] {
        let mut settings = house.settings.clone();
        settings.insert(setting.to_owned(), taken.clone());
        let (code, _, stderr) = run(process, &settings, &[]);
        assert_eq!(code, Some(1), "{stderr}");
        let said = format!("{setting}: {taken} cannot be had");
        assert!(stderr.contains(&said), "{stderr}");
    }
}

#[test]
fn a_flag_wins_over_the_environment() {
    let house = House::new();
    let mut settings = house.settings.clone();
    for (process, setting) in [("listen", "LISTEN_ADDR"), ("broadcast", "BROADCAST_ADDR")] {
        // By the flag alone can it start: the process ends at once where this value counts.
        settings.insert(setting.to_owned(), "nonsense".to_owned());
        let flag = format!("--{}=nonsense-too", setting.to_lowercase().replace('_', "-"));
        assert_eq!(run(process, &settings, &[&flag]).0, Some(78));
        let flag = flag.replace("nonsense-too", "127.0.0.1:0");
        let (code, stdout, _) = run(process, &settings, &[&flag, "--help"]);
        assert_eq!((code, stdout.is_empty()), (Some(0), false));
        let mut settings = house.settings.clone();
        settings.insert("TOKENS_FILE".to_owned(), "/no/such/file".to_owned());
        let flag = format!("--tokens-file={}", house.tokens_file().display());
        let started = Process::start_with(process, &settings, &[&flag]);
        assert!(started.log().contains("is open"));
    }
}

#[test]
fn the_help_names_every_setting_with_its_default() {
    let common = [
        ("LINK", "unix:./sockets/link.sock"),
        ("LINK_UIDS", ""),
        ("TOKENS_FILE", "./tokens/tokens"),
        ("JWT_SECRET_FILE", ""),
        ("JWT_KEYS_FILE", ""),
        ("JWT_REQUIRE_EXP", "true"),
        ("JWT_AUDIENCE", ""),
        ("JWT_ISSUER", ""),
        ("JWT_DEFAULT_PUBLISH", ""),
        ("JWT_DEFAULT_SUBSCRIBE", ""),
        ("HTTPS_ENABLE", "false"),
        ("CERT_FILE", "./certs/cert.crt"),
        ("KEY_FILE", "./certs/cert.key"),
        ("MAX_BODY", "1MiB"),
        ("MEMORY_LIMIT", "1GiB"),
        ("TRUSTED_PROXIES", ""),
        ("WORKERS", ""),
        ("DRAIN_TIMEOUT", "10s"),
        ("LOG_FORMAT", "text"),
        ("RUST_LOG", "info"),
    ];
    let listen = [
        ("LISTEN_ADDR", "0.0.0.0:8080"),
        ("LISTEN_ADMIN_ADDR", "127.0.0.1:8082"),
        ("PUBLISH_TIMEOUT", "5s"),
        ("RATE_LIMIT", "off"),
    ];
    let broadcast = [
        ("BROADCAST_ADDR", "0.0.0.0:8081"),
        ("BROADCAST_ADMIN_ADDR", "127.0.0.1:8083"),
        ("LINK_GROUP", ""),
        ("INIT_TIMEOUT", "10s"),
        ("OUTBOX_BYTES", "4MiB"),
        ("MAX_SESSIONS", ""),
        ("MAX_SESSIONS_PER_ADDRESS", ""),
        ("MAX_PATTERNS", "1000"),
        ("MAX_MESSAGE", "64KiB"),
        ("MAX_FRAME_RATE", "1000"),
        ("ALLOWED_ORIGINS", ""),
        ("DATA_DIR", "./data"),
        ("DURABILITY", "written"),
        ("LOG_MAX_EVENTS", "1000000"),
        ("LOG_MAX_BYTES", "1GiB"),
        ("LOG_MAX_AGE", "24h"),
        ("LOG_CACHE_BYTES", "32MiB"),
    ];
    for (process, own) in [("listen", &listen[..]), ("broadcast", &broadcast[..])] {
        // No settings: what the environment holds would be shown in the place of nothing.
        let (code, help, _) = run(process, &Settings::new(), &["--help"]);
        assert_eq!(code, Some(0));
        let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
        for (setting, default) in common.iter().chain(own) {
            let name = format!("[env: {setting}=]");
            let (_, rest) = help.split_once(&name).unwrap_or_else(|| panic!("{setting}: {help}"));
            if !default.is_empty() {
                let shown = format!(" [default: {default}]");
                assert!(rest.starts_with(&shown), "{setting}: {rest}");
            }
        }
    }
}
