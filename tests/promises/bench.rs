//! `fanfare bench`: every load ends by itself, loses nothing, and says what it has measured. How fast
//! anything is, is no matter here.

use std::fs;
use std::io::Read as _;
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::gateway::{Gateway, TOKEN, binary, wait_for};

/// What every report has, and what that of a load has beside it.
const EVERYWHERE: [&str; 3] = ["client_cores", "others_cores", "seconds"];
const LOADS: [(&str, &[&str], &[&str]); 5] = [
    (
        "fan-out",
        &["--clients", "8", "--types", "2", "--seconds", "0.2", "--warm-up", "0.1"],
        &["deliveries_per_s", "posts_per_s", "cpu_us_per_delivery", "lost", "repeated", "damaged"],
    ),
    (
        "rate",
        &["--clients", "5", "--rate", "50", "--seconds", "0.2", "--warm-up", "0.1"],
        &[
            "latency_p50_ms",
            "latency_p90_ms",
            "latency_p99_ms",
            "latency_p99_9_ms",
            "latency_max_ms",
            "deliveries_per_s",
            "posts_per_s",
            "cpu_us_per_delivery",
            "cpu_us_per_post",
            "lost",
            "unsent",
        ],
    ),
    (
        "ingest",
        &["--seconds", "0.2", "--warm-up", "0.1"],
        &["posts_per_s", "cpu_us_per_post", "refused", "unanswered"],
    ),
    (
        "idle",
        &["--clients", "20", "--hold", "0.1"],
        &["memory_bytes_per_session", "memory_bytes_after", "connects_per_s", "disconnected"],
    ),
    (
        "storm",
        &["--clients", "20", "--times", "2"],
        &["connects_per_s", "latency_p50_ms", "latency_max_ms", "failed_connects", "disconnected"],
    ),
];

/// For a single round: on a busy machine nothing may happen in the fifth of a second that is enough
/// where the median of three rounds counts.
fn longer(arguments: &[&'static str]) -> Vec<&'static str> {
    arguments.iter().map(|it| if *it == "0.2" { "1" } else { it }).collect()
}

/// Runs a load to its end; it has to be a success. Gives its report.
fn bench(load: &str, arguments: &[&str], environment: &[(&str, &str)]) -> Value {
    let mut command = command(load, arguments, environment);
    let output = command.output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{load} {arguments:?}: {errors}");
    serde_json::from_slice(&output.stdout).unwrap()
}

fn command(load: &str, arguments: &[&str], environment: &[(&str, &str)]) -> Command {
    let mut command = Command::new(binary("fanfare"));
    command.args(["bench", load, "--json", "--quiet", "0"]).args(arguments).env_clear();
    command.envs(environment.iter().copied()).stdin(Stdio::null());
    command
}

fn names(report: &Value) -> Vec<&str> {
    let servers = report["servers"].as_array().unwrap();
    servers.iter().map(|server| server["name"].as_str().unwrap()).collect()
}

/// Checks that a report has these figures, for all servers and rounds, and no fault.
fn check(report: &Value, keys: &[&str], rounds: usize) {
    assert_eq!(report["faults"], serde_json::json!([]), "{report:#}");
    for server in report["servers"].as_array().unwrap() {
        assert_eq!(server["rounds"].as_array().unwrap().len(), rounds);
        for round in server["rounds"].as_array().unwrap() {
            assert!(round["is_client_bound"].is_boolean() && round["is_disturbed"].is_boolean());
        }
        for key in keys.iter().chain(&EVERYWHERE) {
            let median = server["median"][key].as_f64();
            let median = median.unwrap_or_else(|| panic!("no {key} in {report:#}"));
            assert!(server["spread"][key][0].as_f64().unwrap() <= median, "{key}");
            let is_sum = key == &"failed_connects";
            assert!(is_sum || server["spread"][key][1].as_f64().unwrap() >= median, "{key}");
            let is_rate = key.ends_with("_per_s") || key.starts_with("latency_");
            assert!(!is_rate || median > 0.0, "{key} is {median}");
        }
        // Each is the sum over the rounds, so that nothing hides in one of them.
        for fault in
            ["lost", "repeated", "damaged", "refused", "unanswered", "disconnected", "unsent"]
        {
            assert!(matches!(server["median"][fault].as_f64(), None | Some(0.0)), "{report:#}");
        }
    }
}

#[test]
fn every_load_measures_a_gateway_of_its_own_and_loses_nothing() {
    for (load, arguments, keys) in LOADS {
        let arguments = longer(arguments);
        let report = bench(load, &[&["--spawn", "--rounds", "1"], &*arguments].concat(), &[]);
        check(&report, keys, 1);
        assert_eq!(names(&report), ["fanfare"]);
        assert_eq!(report["benchmark"], load);
        assert!(report["machine"]["cores"].as_u64().unwrap() > 0);
        for key in ["cpu", "kernel", "profile"] {
            assert!(!report["machine"][key].as_str().unwrap().is_empty());
        }
        assert_eq!(report["arguments"]["rounds"], 1);
        let asked = arguments.iter().position(|it| *it == "--seconds").map(|at| arguments[at + 1]);
        let told = report["arguments"]["seconds"].as_f64().map(|it| it.to_string());
        assert_eq!(asked, told.as_deref());
    }
}

#[test]
fn a_gateway_that_runs_is_measured_and_its_processes_are_found_by_their_ports() {
    let gateway = Gateway::open();
    let (listen, broadcast) = (gateway.listen.url(), gateway.broadcast.ws_url());
    let environment =
        [("FANFARE_URL", &*listen), ("FANFARE_WATCH_URL", &*broadcast), ("FANFARE_TOKEN", TOKEN)];
    for (load, arguments, keys) in LOADS {
        let arguments = longer(arguments);
        let report = bench(load, &[&["--rounds", "2"], &*arguments].concat(), &environment);
        check(&report, keys, 2);
        assert!(report["servers"][0]["median"]["server_cores"].is_f64());
        let processes = report["servers"][0]["processes"].as_array().unwrap();
        assert_eq!(processes.len(), 2, "{report:#}");
    }
}

#[test]
fn a_gateway_of_its_own_speaks_tls_and_takes_settings() {
    let spawn = ["--spawn", "--tls", "--set", "DURABILITY=memory", "--rounds", "1"];
    for (load, arguments, keys) in LOADS {
        let report = bench(load, &[&spawn, &*longer(arguments)].concat(), &[]);
        check(&report, keys, 1);
        assert_eq!(report["arguments"]["tls"], true);
        assert_eq!(report["arguments"]["set"]["DURABILITY"], "memory");
    }
}

#[test]
fn the_limit_is_measured_beside_the_gateway() {
    for (load, arguments, keys) in LOADS {
        let report = bench(load, &[&["--spawn", "--limit"], arguments].concat(), &[]);
        check(&report, keys, 3);
        let is_ingest = load == "ingest";
        let expected: &[&str] =
            if is_ingest { &["fanfare", "limit", "bare"] } else { &["fanfare", "limit"] };
        assert_eq!(names(&report), expected);
        assert_eq!(report["servers"][1]["workers"], 1);
        let rate = keys.iter().find(|key| key.ends_with("_per_s"));
        let rate = rate.unwrap_or(&"latency_p50_ms");
        assert!(report["ratios"]["limit"][rate].as_f64().unwrap() > 0.0, "{report:#}");
    }
}

#[test]
fn peers_that_are_installed_are_measured_beside_the_gateway() {
    let installed = [
        ("nchan", "/usr/lib/nginx/modules/ngx_nchan_module.so"),
        ("nats", "/usr/sbin/nats-server"),
    ];
    for (peer, file) in installed {
        let arguments = ["--spawn", "--peer", peer];
        if !Path::new(file).exists() {
            let output = command("ingest", &arguments, &[]).output().unwrap();
            assert_eq!(output.status.code(), Some(1));
            assert!(String::from_utf8(output.stderr).unwrap().contains("Debian package"));
            continue;
        }
        for (load, own, keys) in LOADS.iter().filter(|(load, ..)| *load != "storm") {
            let report = bench(load, &[&arguments[..], own].concat(), &[]);
            check(&report, keys, 3);
            assert_eq!(names(&report), ["fanfare", peer]);
        }
    }
}

#[test]
fn what_cannot_be_measured_is_said_and_is_no_success() {
    let table: [(&[&str], i32, &str); 8] = [
        (&["--spawn", "--limit", "--rounds", "2"], 1, "3 at least"),
        (&["--listen", "http://127.0.0.1:9"], 1, "127.0.0.1:9"),
        (&["--spawn", "--set", "DURABILITY=perhaps"], 1, "DURABILITY"),
        (&["--spawn", "--set", "DURABILITY"], 78, "NAME=VALUE"),
        (&["--spawn", "--seconds", "0"], 78, "seconds"),
        (&["--spawn", "--tls", "--limit"], 78, "without TLS"),
        (&["--spawn", "--set", "LINK=unix:x"], 78, "LINK"),
        (&["--pid", "4194305"], 1, "no such process"),
    ];
    for (arguments, code, said) in table {
        let output = command("ingest", arguments, &[]).output().unwrap();
        let errors = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {errors}");
        assert!(errors.contains(said), "{arguments:?}: {errors}");
    }
}

#[test]
fn a_token_that_may_not_publish_is_no_success() {
    let gateway = Gateway::open();
    let url = gateway.listen.url();
    let arguments = ["--listen", &url, "--rounds", "1", "--seconds", "0.1", "--warm-up", "0.1"];
    let environment = [("FANFARE_TOKEN", "0123456789abcdef-unknown")];
    let output = command("ingest", &arguments, &environment).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8(output.stderr).unwrap().contains("UNAUTHENTICATED"));
}

/// Ended by a signal, it leaves no process behind, and no folder; killed, no process.
#[test]
fn nobody_is_left_behind_whatever_way_the_benchmark_ends() {
    for (signal, code) in [
        (Signal::INT, Some(130)),
        (Signal::TERM, Some(130)),
        (Signal::HUP, Some(130)),
        (Signal::KILL, None),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let temporary = folder.path().display().to_string();
        let arguments = ["--spawn", "--limit", "--seconds", "60"];
        let mut bench = command("ingest", &arguments, &[("TMPDIR", &temporary)])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let children = wait_for("both processes", || {
            let children = children(bench.id());
            (children.len() == 2).then_some(children)
        });
        let pid = Pid::from_raw(i32::try_from(bench.id()).unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
        assert_eq!(bench.wait().unwrap().code(), code);
        wait_for("the end of the children", || {
            let is_alive = |pid: &u32| Path::new(&format!("/proc/{pid}/exe")).exists();
            (!children.iter().any(is_alive)).then_some(())
        });
        if code.is_some() {
            assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        }
    }
}

/// The connections that break say little: what is said is who ended, and how.
#[test]
fn a_process_that_dies_under_the_load_is_named() {
    let mut bench = command("fan-out", &["--spawn", "--seconds", "60"], &[])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let broadcast = wait_for("broadcast under load", || {
        let is_it = |pid: &u32| {
            let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            words.split(|byte| *byte == 0).any(|word| word == b"broadcast")
        };
        let pid = children(bench.id()).into_iter().find(is_it)?;
        let sockets = fs::read_dir(format!("/proc/{pid}/fd")).ok()?.count();
        (sockets > 100).then_some(pid)
    });
    let pid = Pid::from_raw(i32::try_from(broadcast).unwrap()).unwrap();
    kill_process(pid, Signal::KILL).unwrap();
    let mut said = String::new();
    bench.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!(bench.wait().unwrap().code(), Some(1), "{said}");
    assert!(said.contains("broadcast ended (signal 9)"), "{said}");
}

fn children(pid: u32) -> Vec<u32> {
    let path = format!("/proc/{pid}/task/{pid}/children");
    let text = fs::read_to_string(path).unwrap_or_default();
    text.split_whitespace().map(|child| child.parse().unwrap()).collect()
}
