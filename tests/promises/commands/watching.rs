//! `watch`: that nothing is missed and nothing comes twice, whoever dies meanwhile.

use std::net::TcpListener;
use std::ops::RangeInclusive;
use std::thread::{self, JoinHandle};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio_tungstenite::tungstenite::{Message, accept};

use super::*;
use crate::gateway::Process;

/// Begins to publish numbers, one after the other, each until it is taken and the same each time.
fn fire_numbers(gateway: &Gateway, numbers: RangeInclusive<u64>) -> JoinHandle<()> {
    let url = gateway.listen.url();
    let command = |number: u64| {
        let number = number.to_string();
        let named = ["--retry", "30", "--source", "/numbers", "--id", &number];
        let arguments = [&["fire", "--url", &url, "a", &number] as &[&str], &named].concat();
        fanfare(&gateway.house, &arguments)
    };
    let commands: Vec<Command> = numbers.map(command).collect();
    thread::spawn(move || {
        for mut command in commands {
            let (code, out, err) = run(&mut command);
            assert_eq!(code, 0, "{out}{err}");
        }
    })
}

/// Publishes numbers, and returns when all are taken.
fn fire_all(gateway: &Gateway, numbers: RangeInclusive<u64>) {
    fire_numbers(gateway, numbers).join().unwrap();
}

/// Ends broadcast, does something without it, and starts another one at the same address.
fn restart(gateway: Gateway, end: fn(Process), meanwhile: impl FnOnce(&House)) -> Gateway {
    let Gateway { listen, broadcast, house } = gateway;
    let house = house.set("BROADCAST_ADDR", broadcast.address());
    end(broadcast);
    meanwhile(&house);
    Gateway { broadcast: house.broadcast(), listen, house }
}

fn kill(broadcast: Process) {
    broadcast.kill();
}

fn stop(broadcast: Process) {
    assert!(broadcast.stop().success());
}

fn signal(watch: &Running, signal: Signal) {
    let pid = Pid::from_raw(i32::try_from(watch.child.id()).unwrap()).unwrap();
    kill_process(pid, signal).unwrap();
}

/// The lines of a watch as JSON, those that are whole.
fn events(out: &str) -> Vec<Value> {
    out.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn numbers(events: &[Value]) -> Vec<u64> {
    events.iter().map(|event| event["data"].as_u64().unwrap()).collect()
}

fn wait_for_numbers(watch: &Running, count: usize) {
    wait_for(&format!("{count} events"), || (watch.out().lines().count() >= count).then_some(()));
}

/// That a watch ends by itself, and what it has shown then; gives what it said.
fn assert_ends_with(watch: &mut Running, expected: RangeInclusive<u64>) -> String {
    let (code, out, err) = watch.end();
    assert_eq!((code, numbers(&events(&out))), (0, expected.collect()), "{err}");
    err
}

#[test]
fn a_watch_misses_and_repeats_nothing_while_broadcast_is_killed_and_stopped() {
    let mut gateway = House::new().set("PUBLISH_TIMEOUT", "30s").open();
    let mut watch = watch(&gateway, &["a", "--count", "200"]);
    let firing = fire_numbers(&gateway, 1..=200);
    for (seen, end) in [(20, kill as fn(Process)), (60, stop), (100, kill), (140, kill)] {
        wait_for_numbers(&watch, seen);
        gateway = restart(gateway, end, |_| ());
    }
    firing.join().unwrap();
    let said = assert_ends_with(&mut watch, 1..=200);
    assert!(!said.contains("were lost"), "{said}");
}

/// The watch is held still while broadcast is another one already and takes events.
#[test]
fn what_is_fired_while_a_watch_is_away_is_shown_when_it_is_back() {
    for end in [kill as fn(Process), stop] {
        let mut gateway = Gateway::open();
        let mut watch = watch(&gateway, &["a", "--count", "3"]);
        fire_all(&gateway, 1..=1);
        wait_for_numbers(&watch, 1);
        signal(&watch, Signal::STOP);
        gateway = restart(gateway, end, |_| ());
        fire_all(&gateway, 2..=3);
        signal(&watch, Signal::CONT);
        assert_ends_with(&mut watch, 1..=3);
    }
}

/// It has shown nothing yet: the answer to its first init told it where it stands.
#[test]
fn a_watch_that_has_shown_nothing_yet_misses_nothing_either() {
    let mut gateway = Gateway::open();
    fire_all(&gateway, 1..=1);
    let mut watch = watch(&gateway, &["a", "--count", "2"]);
    signal(&watch, Signal::STOP);
    gateway = restart(gateway, kill, |_| ());
    fire_all(&gateway, 2..=3);
    signal(&watch, Signal::CONT);
    assert_ends_with(&mut watch, 2..=3);
}

#[test]
fn a_watch_begins_where_it_is_told() {
    let gateway = Gateway::open();
    fire_all(&gateway, 1..=5);
    let shown = |start: &[&str], count: usize| {
        let count = count.to_string();
        let arguments = [&["a", "--count", &count], start].concat();
        let (code, out, err) = watch(&gateway, &arguments).end();
        assert_eq!(code, 0, "{start:?}: {err}");
        events(&out)
    };
    let all = shown(&["--since", "first"], 5);
    let third = |member: &str| all[2][member].as_str().unwrap().to_owned();
    let (cursor, time) = (third("cursor"), third("time"));
    let table: [(&[&str], RangeInclusive<u64>); 7] = [
        (&["--since", "first"], 1..=5),
        (&["--since", "1h"], 1..=5),
        (&["--since", &cursor], 4..=5),
        (&["--since", &time], 3..=5),
        (&["--last", "2"], 4..=5),
        (&["--last", "5"], 1..=5),
        (&["--last", "10000"], 1..=5),
    ];
    for (start, expected) in table {
        let shown = shown(start, expected.clone().count());
        assert_eq!(numbers(&shown), expected.collect::<Vec<_>>(), "{start:?}");
    }
}

/// What is kept comes first, and then what is fired: no seam is to be seen.
#[test]
fn a_watch_goes_on_from_what_is_kept_to_what_is_fired() {
    for start in [["--since", "first"], ["--last", "3"]] {
        let gateway = Gateway::open();
        fire_all(&gateway, 1..=3);
        let mut watch = watch(&gateway, &[&["a", "--count", "6"], &start as &[&str]].concat());
        fire_all(&gateway, 4..=6);
        assert_ends_with(&mut watch, 1..=6);
    }
}

#[test]
fn a_watch_that_cannot_recover_says_so_and_goes_on() {
    let mut gateway = Gateway::open();
    let mut watch = watch(&gateway, &["a", "--count", "2"]);
    fire_all(&gateway, 1..=1);
    wait_for_numbers(&watch, 1);
    let shown = events(&watch.out())[0]["cursor"].as_str().unwrap().to_owned();
    gateway = restart(gateway, kill, |house| {
        fs::remove_dir_all(house.folder.path().join("data")).unwrap();
    });
    watch.wait_for_err("events were lost", 1);
    fire_all(&gateway, 2..=2);
    let said = assert_ends_with(&mut watch, 1..=2);
    let sentence = said.lines().find(|line| line.contains("events were lost")).unwrap();
    assert!(sentence.contains(&format!("cannot resume after {shown};")), "{sentence}");
    let earliest = sentence.rsplit(' ').next().unwrap();
    let epoch = |cursor: &str| cursor.split_once('-').unwrap().0.to_owned();
    assert_ne!(epoch(earliest), epoch(&shown), "{sentence}");
    // What it named is true: from there on nothing is missing.
    let mut again = self::watch(&gateway, &["a", "--count", "1", "--since", earliest]);
    let said = assert_ends_with(&mut again, 2..=2);
    assert!(!said.contains("were lost"), "{said}");
}

/// As by Ctrl-Z and `fg`.
#[test]
fn a_watch_that_was_stopped_and_goes_on_keeps_its_connection() {
    for house in [House::new(), house_with_tls()] {
        let gateway = house.open();
        let mut watch = watch(&gateway, &["a", "--count", "1"]);
        signal(&watch, Signal::STOP);
        wait_for("its rest", || {
            let state = fs::read_to_string(format!("/proc/{}/stat", watch.child.id())).unwrap();
            state.rsplit(") ").next().unwrap().starts_with('T').then_some(())
        });
        signal(&watch, Signal::CONT);
        fire_all(&gateway, 1..=1);
        let said = assert_ends_with(&mut watch, 1..=1);
        assert_eq!(said.lines().count(), 1, "{said}");
    }
}

/// A server that lets in one client after the other: each gets its answer and one event, and is cut
/// off. Gives its URL, and in the end the init messages that it got.
fn server(script: &[[String; 2]]) -> (String, JoinHandle<Vec<Value>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("ws://{}", listener.local_addr().unwrap());
    let serve = move |[answer, event]: [String; 2]| {
        let mut socket = accept(listener.accept().unwrap().0).unwrap();
        let init = socket.read().unwrap().into_text().unwrap();
        socket.send(Message::text(answer)).unwrap();
        socket.send(Message::text(event)).unwrap();
        serde_json::from_str(&init).unwrap()
    };
    let script = script.to_vec();
    (url, thread::spawn(move || script.into_iter().map(serve).collect()))
}

/// Watches until such a server has done its part: the lines, what was said, the init messages.
fn watch_server(script: &[[String; 2]], start: &[&str]) -> (String, String, Vec<Value>) {
    let (url, server) = server(script);
    let count = script.len().to_string();
    let arguments = [&["watch", "--url", &url, "a", "--count", &count], start].concat();
    let (code, out, err) = Running::start(&mut fanfare(&House::new(), &arguments)).end();
    assert_eq!(code, 0, "{err}");
    (out, err, server.join().unwrap())
}

#[test]
fn a_watch_comes_back_after_the_last_event_that_it_has_shown() {
    let script = [
        (r#""cursor":"k-1""#, "k-2"),
        (r#""cursor":"k-2","recovered":true"#, "k-4"),
        (r#""cursor":"m-0","recovered":false,"earliest":"m-0""#, "m-1"),
    ]
    .map(|(members, cursor)| {
        let answer = format!(r#"{{"type":"init","code":"OK",{members}}}"#);
        [answer, format!(r#"{{"type":"event","event":"a","data":1,"cursor":"{cursor}"}}"#)]
    });
    let (out, err, inits) = watch_server(&script, &[]);
    assert_eq!(out.lines().collect::<Vec<_>>(), script.each_ref().map(|[_, event]| event));
    let after: Vec<Option<&str>> = inits.iter().map(|init| init["after"].as_str()).collect();
    assert_eq!(after, [None, Some("k-2"), Some("k-4")]);
    let lost = "cannot resume after k-4; the earliest cursor that it can resume after is m-0\n";
    assert!(err.contains(lost) && err.matches("were lost").count() == 1, "{err}");
}

/// Such as the 2018 service.
#[test]
fn a_server_without_cursors_is_watched_and_what_may_be_missing_is_told() {
    for (start, expected) in [
        (&[] as &[&str], &["gave no cursor"] as &[&str]),
        (&["--since", "first"], &["keeps no events", "gave no cursor"]),
    ] {
        let script = [1, 2].map(|number| {
            let answer = r#"{"type":"init","code":"OK"}"#.to_owned();
            [answer, format!(r#"{{"type":"event","event":"a","data":{number}}}"#)]
        });
        let (out, err, inits) = watch_server(&script, start);
        assert_eq!(out.lines().collect::<Vec<_>>(), script.each_ref().map(|[_, event]| event));
        let doubts = ["keeps no events", "gave no cursor", "were lost"];
        let told: Vec<&str> = doubts.into_iter().filter(|doubt| err.contains(doubt)).collect();
        assert_eq!(told, expected, "{err}");
        for init in inits {
            assert_eq!(init["cursor"], true, "{init}");
            assert_eq!(init["after"].as_str(), start.last().copied(), "{init}");
        }
    }
}

#[test]
fn a_beginning_that_cannot_be_read_is_told_at_the_start() {
    let house = House::new();
    let since = "a duration of at most a day such as 10m, the word first, a cursor";
    let table: [(&[&str], &str); 6] = [
        (&["--since", "yesterday"], since),
        (&["--since", "2 days"], since),
        (&["--since", "2026-01-31"], since),
        (&["--last", "10001"], "a number from 0 to 10000"),
        (&["--last", "many"], "a number from 0 to 10000"),
        (&["--last", "1", "--since", "first"], "cannot be used with"),
    ];
    for (start, expected) in table {
        // Nobody is there: a start that were taken would never end.
        let url = ["watch", "a", "--url", "ws://127.0.0.1:1"];
        let arguments = [&url as &[&str], start].concat();
        let (code, out, err) = Running::start(&mut fanfare(&house, &arguments)).end();
        assert_eq!((code, out.as_str()), (78, ""), "{start:?}: {err}");
        assert!(err.contains(expected) && err.contains(start[0]), "{start:?}: {err}");
    }
}
