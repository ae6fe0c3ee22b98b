//! How many there may be, and what happens at the edge (HARDENING, "Connections and memory").

use std::time::{Duration, Instant};

use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};

use crate::client::{Subscriber, answer, fire, post};
use crate::gateway::{Gateway, House, Process, TOKEN};
use crate::measures::{processor_time, until};
use crate::wire::{Wire, event_request, upgrade_request};

const OK: &str = r#"{"code":"OK"}"#;

/// Tries to open a session: its head, and the body of a refusal.
async fn knock(broadcast: &Process, headers: &str) -> (Wire, String, String) {
    let mut wire = Wire::connect(broadcast).await;
    wire.send(upgrade_request("/", headers)).await;
    let (head, body) = wire.read_answer().await;
    (wire, head, body)
}

fn assert_is_full((_, head, body): (Wire, String, String)) {
    assert!(head.starts_with("HTTP/1.1 503 "), "{head}");
    assert!(head.to_lowercase().contains("\r\nretry-after: 1\r\n"), "{head}");
    assert_eq!(body, r#"{"code":"TOO_MANY_SESSIONS"}"#);
}

#[tokio::test]
async fn beyond_the_most_sessions_one_is_told_to_come_later() {
    let house = House::new().set("MAX_SESSIONS", 2);
    let broadcast = house.broadcast();
    let first = Subscriber::subscribe(&broadcast, &["a"]).await;
    let (second, head, _) = knock(&broadcast, "").await;
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    assert_is_full(knock(&broadcast, "").await);
    // A credential makes no room.
    let credential = format!("Authorization: Basic {TOKEN}\r\n");
    assert_is_full(knock(&broadcast, &credential).await);
    drop(second);
    broadcast.wait_for_metric("fanfare_sessions", 1.0).await;
    let (_third, head, _) = knock(&broadcast, "").await;
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    drop(first);
}

#[tokio::test]
async fn an_address_may_have_a_limit_of_its_own() {
    let house = House::new().set("MAX_SESSIONS_PER_ADDRESS", 2).set("TRUSTED_PROXIES", "127.0.0.1");
    let broadcast = house.broadcast();
    let from = |address: &str| format!("X-Forwarded-For: {address}\r\n");
    let mut kept = Vec::new();
    for address in ["10.0.0.1", "10.0.0.1", "10.0.0.2", "[2001:db8::1]", "2001:db8::2"] {
        let knocked = knock(&broadcast, &from(address)).await;
        assert!(knocked.1.starts_with("HTTP/1.1 101 "), "{address}: {}", knocked.1);
        kept.push(knocked);
    }
    // A /64 of IPv6 is one address.
    for address in ["10.0.0.1", "2001:db8::3", "6.6.6.6, 10.0.0.1"] {
        assert_is_full(knock(&broadcast, &from(address)).await);
    }
    kept.remove(0);
    broadcast.wait_for_metric("fanfare_sessions", 4.0).await;
    let (_, head, _) = knock(&broadcast, &from("10.0.0.1")).await;
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
}

#[tokio::test]
async fn the_limit_of_an_address_is_not_evaded_by_a_header() {
    let house = House::new().set("MAX_SESSIONS_PER_ADDRESS", 1);
    let broadcast = house.broadcast();
    let first = knock(&broadcast, "X-Forwarded-For: 10.0.0.1\r\n").await;
    assert!(first.1.starts_with("HTTP/1.1 101 "), "{}", first.1);
    assert_is_full(knock(&broadcast, "X-Forwarded-For: 10.0.0.2\r\n").await);
}

#[tokio::test]
async fn beyond_100_strangers_the_oldest_goes_and_the_new_one_is_taken() {
    for workers in [1, 4] {
        let house = House::new().set("WORKERS", workers).set("MAX_SESSIONS", 500);
        let broadcast = house.broadcast();
        let mut known = Subscriber::subscribe(&broadcast, &["a"]).await;
        let mut strangers = Vec::new();
        for _ in 0..100 {
            strangers.push(Wire::upgrade(&broadcast).await);
        }
        assert_eq!(broadcast.metric("fanfare_sessions_unauthenticated").await, 100.0);
        let mut newest = Wire::upgrade(&broadcast).await;
        // One of the oldest: each worker knows the ages of its own.
        let oldest = strangers.drain(..workers);
        let mut told = 0;
        for mut stranger in oldest {
            if !stranger.is_quiet_for(Duration::from_millis(if told == 0 { 2000 } else { 1 })).await
            {
                assert_eq!(stranger.read_close().await, (1013, "try again later".to_owned()));
                told += 1;
            }
        }
        assert_eq!(told, 1);
        newest.log_in("[]").await;
        for stranger in &mut strangers {
            assert!(stranger.is_quiet_for(Duration::from_micros(1)).await);
        }
        known.assert_nothing_came().await;
    }
}

#[tokio::test]
async fn a_hundred_strangers_who_say_nothing_keep_nobody_out() {
    let gateway = House::new().set("MAX_SESSIONS", 300).open();
    let mut strangers = Vec::new();
    for _ in 0..250 {
        strangers.push(Wire::upgrade(&gateway.broadcast).await);
    }
    let mut known = Subscriber::subscribe(&gateway.broadcast, &["a"]).await;
    fire(&gateway, "a", "1").await;
    assert_eq!(known.hear().await, r#"{"type":"event","event":"a","data":1}"#);
}

#[tokio::test]
async fn beyond_the_descriptors_a_connection_is_told_so_and_not_left_in_silence() {
    let house = House::new();
    // HARDENING: the descriptors less 128.
    let listen = Process::start_limited("listen", &house.settings, 140);
    let mut kept = Vec::new();
    for _ in 0..12 {
        let mut wire = Wire::connect(&listen).await;
        wire.send("GET /healthz HTTP/1.1\r\nHost: test\r\n\r\n").await;
        assert!(wire.read_answer().await.0.starts_with("HTTP/1.1 200 "));
        kept.push(wire);
    }
    let mut refused = Wire::connect(&listen).await;
    refused.send("GET /healthz HTTP/1.1\r\nHost: test\r\n\r\n").await;
    let (head, body) = refused.read_answer().await;
    assert!(head.starts_with("HTTP/1.1 503 "), "{head}");
    assert!(head.to_lowercase().contains("\r\nretry-after: 1\r\n"), "{head}");
    assert_eq!(body, r#"{"code":"TOO_MANY_CONNECTIONS"}"#);
    assert_eq!(refused.read_to_end().await, b"");
    kept.pop();
    listen.wait_for_metric("fanfare_connections", 11.0).await;
    let mut wire = Wire::connect(&listen).await;
    wire.send("GET /healthz HTTP/1.1\r\nHost: test\r\n\r\n").await;
    assert!(wire.read_answer().await.0.starts_with("HTTP/1.1 200 "));
}

#[tokio::test]
async fn the_limit_of_descriptors_is_raised_at_start_and_logged() {
    let house = House::new();
    let listen = house.listen();
    let line = listen.wait_for_log(r#""message":"descriptors""#);
    let pid = Pid::from_raw(i32::try_from(listen.pid()).unwrap());
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", pid.unwrap())).unwrap();
    let limit = limits.lines().find_map(|line| line.strip_prefix("Max open files")).unwrap();
    let limit: Vec<&str> = limit.split_whitespace().collect();
    assert_eq!(limit[0], limit[1], "the soft limit is the hard one");
    assert!(line.contains(&format!(r#""descriptors":"{}""#, limit[0])), "{line}");
}

/// Lets the process have at most so many descriptors, or as many as it may.
fn limit_descriptors(process: &Process, count: Option<u64>) {
    let pid = Pid::from_raw(i32::try_from(process.pid()).unwrap());
    // The child of this test has its hard limit.
    let maximum = getrlimit(Resource::Nofile).maximum;
    let current = count.or(maximum);
    prlimit(pid, Resource::Nofile, Rlimit { current, maximum }).unwrap();
}

#[tokio::test]
async fn out_of_descriptors_the_served_are_served_and_all_are_soon_after() {
    let gateway = Gateway::open();
    let mut subscriber = Subscriber::subscribe(&gateway.broadcast, &["a"]).await;
    let mut publisher = Wire::connect(&gateway.listen).await;
    publisher.send(event_request(r#"{"event":"a","data":0}"#)).await;
    assert_eq!(publisher.read_answer().await.1, OK);
    subscriber.hear().await;
    for process in [&gateway.listen, &gateway.broadcast] {
        // Fewer than it has: those stay, and no further one can be had.
        limit_descriptors(process, Some(3));
        let used = processor_time(process);
        let mut shut_out = Wire::connect(process).await;
        shut_out.send("GET /healthz HTTP/1.1\r\nHost: test\r\n\r\n").await;
        process.wait_for_log("no connection can be accepted for now");
        for number in 1..10 {
            publisher.send(event_request(&format!(r#"{{"event":"a","data":{number}}}"#))).await;
            assert_eq!(publisher.read_answer().await.1, OK);
            assert!(subscriber.hear().await.ends_with(&format!(r#""data":{number}}}"#)));
        }
        assert!(shut_out.is_quiet_for(Duration::from_secs(1)).await);
        let used = processor_time(process) - used;
        assert!(used < Duration::from_millis(600), "it spins: {used:?}");
        limit_descriptors(process, None);
        let relieved = Instant::now();
        assert!(shut_out.read_answer().await.0.starts_with("HTTP/1.1 200 "));
        assert!(relieved.elapsed() < Duration::from_secs(2), "{:?}", relieved.elapsed());
    }
}

#[tokio::test]
async fn with_memory_short_publishers_are_refused_until_it_is_given_back() {
    let gateway = House::new().set("MEMORY_LIMIT", "1MiB").open();
    let frozen = Wire::subscribe_narrow(&gateway.broadcast, r#"["big"]"#).await;
    let mut other = Subscriber::subscribe(&gateway.broadcast, &["small"]).await;
    let data = "x".repeat(64 * 1024);
    let body = format!(r#"{{"event":"big","data":"{data}"}}"#);
    let refused = until("a refusal", async || {
        let response = post(&gateway, body.clone()).send().await.unwrap();
        (response.status() != 200).then_some(response)
    })
    .await;
    assert_eq!(refused.headers()["retry-after"], "1");
    assert_eq!(answer(refused).await, (503, r#"{"code":"UNAVAILABLE"}"#.to_owned()));
    let held = gateway.broadcast.metric("fanfare_memory_held_bytes").await;
    assert!((600_000.0..1_200_000.0).contains(&held), "{held}");
    // Small ones are refused as well, and nobody is disconnected for it.
    let response = post(&gateway, r#"{"event":"small"}"#).send().await.unwrap();
    assert_eq!(answer(response).await.0, 503);
    assert_eq!(gateway.broadcast.metric("fanfare_sessions").await, 2.0);
    assert!(gateway.broadcast.metric("fanfare_events_turned_away_total").await >= 2.0);
    drop(frozen);
    let relieved = Instant::now();
    gateway.broadcast.wait_for_metric("fanfare_sessions", 1.0).await;
    fire(&gateway, "small", "1").await;
    assert!(relieved.elapsed() < Duration::from_secs(2), "{:?}", relieved.elapsed());
    assert_eq!(other.hear().await, r#"{"type":"event","event":"small","data":1}"#);
}

#[tokio::test]
async fn above_the_limit_of_memory_the_fullest_queue_is_closed() {
    let gateway = House::new().set("MEMORY_LIMIT", "1MiB").set("WORKERS", 1).open();
    let mut fullest = Wire::subscribe_narrow(&gateway.broadcast, r#"["big"]"#).await;
    let mut other = Subscriber::subscribe(&gateway.broadcast, &["small"]).await;
    // Some of the limit waits, then one event of nearly all of it comes. In few steps: who takes no
    // byte for 15 s is closed for that.
    let some = "x".repeat(300 * 1024);
    let mut fired = 0.0;
    until("some of it waits", async || {
        fire(&gateway, "big", &format!("\"{some}\"")).await;
        fired += 1.0;
        // In step, so that what is held waits for the client alone.
        gateway.broadcast.wait_for_metric("fanfare_events_delivered_total", fired).await;
        let held = gateway.broadcast.metric("fanfare_memory_held_bytes").await;
        (held > 200_000.0).then_some(())
    })
    .await;
    let most = "x".repeat(1000 * 1024);
    fire(&gateway, "big", &format!("\"{most}\"")).await;
    let count = "fanfare_disconnects_total";
    until("a disconnection", async || (gateway.broadcast.metric(count).await == 1.0).then_some(()))
        .await;
    // The event that it was in the middle of is still whole, and is held until it was read.
    assert_eq!(fullest.read_close().await, (1013, "try again later".to_owned()));
    until("room for a small one", async || {
        let response = post(&gateway, r#"{"event":"small","data":1}"#).send().await.unwrap();
        (response.status() == 200).then_some(())
    })
    .await;
    assert_eq!(other.hear().await, r#"{"type":"event","event":"small","data":1}"#);
}
