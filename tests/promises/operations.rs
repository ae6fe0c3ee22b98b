//! What an operator sees (the operator's door, logs), and that everything is given back.

use std::collections::BTreeMap;
use std::fs;

use rustix::process::Signal;
use serde_json::Value;

use crate::client::{Subscriber, answer, fire, post, post_as};
use crate::gateway::{Gateway, House, Process};
use crate::measures::{ask_admin, degraded, descriptors, until};
use crate::wire::{Wire, event_request, frame, upgrade_request};

#[tokio::test]
async fn both_doors_say_that_they_are_healthy() {
    let gateway = Gateway::open();
    for process in [&gateway.listen, &gateway.broadcast] {
        for path in ["/healthz", "/healthz/", "/HEALTHZ"] {
            let response = reqwest::get(format!("{}{path}", process.url())).await.unwrap();
            let expected = (200, r#"{"status":200,"message":"OK"}"#.to_owned());
            assert_eq!(answer(response).await, expected, "{path}");
        }
        assert_eq!(ask_admin(process, "/livez").await, (200, r#"{"status":"alive"}"#.to_owned()));
        assert_eq!(ask_admin(process, "/readyz").await, (200, r#"{"status":"ready"}"#.to_owned()));
    }
}

#[tokio::test]
async fn the_operators_door_refuses_in_json() {
    let house = House::new();
    let broadcast = house.broadcast();
    let client = reqwest::Client::new();
    for (method, path, status) in [
        ("GET", "/", 404),
        ("GET", "/metrics/x", 404),
        ("POST", "/metrics", 405),
        ("DELETE", "/readyz", 405),
    ] {
        let url = format!("{}{path}", broadcast.admin_url());
        let response = client.request(method.parse().unwrap(), url).send().await.unwrap();
        assert_eq!(response.headers().contains_key("allow"), status == 405);
        let (seen, body) = answer(response).await;
        assert_eq!((seen, body.contains(r#"{"code":""#)), (status, true), "{method} {path} {body}");
    }
    // What the operator sees is for the operator: not at the door for everybody.
    for path in ["/metrics", "/readyz", "/livez"] {
        let response = reqwest::get(format!("{}{path}", broadcast.url())).await.unwrap();
        assert_eq!(response.status(), 426);
    }
}

#[tokio::test]
async fn broadcast_is_ready_without_a_listen_and_a_listen_is_not_without_broadcast() {
    let house = House::new();
    let listen = house.listen();
    let (status, body) = ask_admin(&listen, "/readyz").await;
    let expected = r#"{"reason":"no link to broadcast","status":"not ready"}"#;
    assert_eq!((status, body.as_str()), (503, expected));
    assert_eq!(ask_admin(&listen, "/livez").await.0, 200);
    let broadcast = house.broadcast();
    assert_eq!(ask_admin(&broadcast, "/readyz").await.0, 200);
    until("the link", async || (ask_admin(&listen, "/readyz").await.0 == 200).then_some(())).await;
    broadcast.kill();
    until("the loss", async || (ask_admin(&listen, "/readyz").await.0 == 503).then_some(())).await;
}

#[tokio::test]
async fn a_broadcast_that_drains_is_not_ready() {
    let gateway = House::new().set("DRAIN_TIMEOUT", "30s").open();
    // It answers no Close, so that the drain takes its time.
    let mut wire = Wire::upgrade(&gateway.broadcast).await;
    wire.log_in("[]").await;
    gateway.broadcast.signal(Signal::TERM);
    assert_eq!(wire.read_close().await, (1012, "restarting".to_owned()));
    let (status, body) = ask_admin(&gateway.broadcast, "/readyz").await;
    assert_eq!((status, body.contains("draining")), (503, true), "{body}");
    assert_eq!(ask_admin(&gateway.broadcast, "/livez").await.0, 200);
}

#[tokio::test]
async fn a_tokens_file_that_is_missing_is_degraded_and_serves_on() {
    let gateway = Gateway::open();
    fs::remove_file(gateway.house.tokens_file()).unwrap();
    for process in [&gateway.listen, &gateway.broadcast] {
        let said = until("a word", async || degraded(process).await.first().cloned()).await;
        assert!(said.starts_with("tokens file: "), "{said}");
        process.wait_for_log("the last good one stays");
    }
    fire(&gateway, "a", "1").await;
    gateway.house.write_tokens(&format!("{}\n", crate::gateway::TOKEN));
    for process in [&gateway.listen, &gateway.broadcast] {
        until("all is well", async || degraded(process).await.is_empty().then_some(())).await;
    }
}

/// All metrics with their labels, and their values.
async fn metrics(process: &Process) -> BTreeMap<String, f64> {
    let (status, text) = ask_admin(process, "/metrics").await;
    assert_eq!(status, 200);
    assert!(text.ends_with("# EOF\n"), "OpenMetrics ends so");
    let mut metrics = BTreeMap::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (name, value) = line.rsplit_once(' ').unwrap();
        assert!(name.starts_with("fanfare_"), "{line}");
        assert_eq!(metrics.insert(name.to_owned(), value.parse().unwrap()), None, "twice: {line}");
    }
    metrics
}

#[tokio::test]
async fn every_metric_is_there_and_moves() {
    let tokens = format!("{}\nreader-token-000001 publish=none\n", crate::gateway::TOKEN);
    let gateway = House::new().with_tokens(&tokens).set("WORKERS", 1).open();
    let mut subscriber = Subscriber::subscribe(&gateway.broadcast, &["a"]).await;
    let _stranger = Wire::upgrade(&gateway.broadcast).await;
    fire(&gateway, "a", "1").await;
    subscriber.hear().await;
    let response = post_as(&gateway, "reader-token-000001", r#"{"event":"a"}"#).send().await;
    assert_eq!(response.unwrap().status(), 403);
    assert_eq!(post(&gateway, "nonsense").send().await.unwrap().status(), 400);
    subscriber.ask("nonsense").await;
    let wrong = Wire::upgrade(&gateway.broadcast).await;
    let mut wrong = wrong;
    wrong.send(frame(0x83, b"")).await;
    wrong.read_close().await;
    wrong.read_to_end().await;
    drop(wrong);
    gateway.broadcast.wait_for_metric("fanfare_sessions", 2.0).await;
    gateway.house.write_tokens(&(tokens + "another-token-00001\n"));
    for process in [&gateway.listen, &gateway.broadcast] {
        process.wait_for_metric("fanfare_reloads_total", 1.0).await;
    }
    let listen = metrics(&gateway.listen).await;
    for (name, value) in [
        (r#"fanfare_events_accepted_total{worker="0"}"#, 1.0),
        (r#"fanfare_requests_refused_total{code="FORBIDDEN"}"#, 1.0),
        (r#"fanfare_requests_refused_total{code="INVALID_BODY"}"#, 1.0),
        ("fanfare_links_up", 1.0),
        ("fanfare_accept_to_queued_seconds_count", 1.0),
        (r#"fanfare_reloads_total{file="tokens",result="taken"}"#, 1.0),
        (r#"fanfare_reloads_total{file="tokens",result="refused"}"#, 0.0),
        ("fanfare_memory_held_bytes", 0.0),
        (r#"fanfare_build_info{version="0.1.0"}"#, 1.0),
    ] {
        assert_eq!(listen.get(name), Some(&value), "{name}: {listen:#?}");
    }
    assert!(listen["fanfare_accept_to_queued_seconds_sum"] > 0.0);
    let broadcast = metrics(&gateway.broadcast).await;
    for (name, value) in [
        ("fanfare_events_accepted_total", 1.0),
        ("fanfare_events_turned_away_total", 0.0),
        (r#"fanfare_events_delivered_total{worker="0"}"#, 1.0),
        (r#"fanfare_events_encoded_total{format="native"}"#, 1.0),
        ("fanfare_sessions", 2.0),
        ("fanfare_sessions_unauthenticated", 1.0),
        ("fanfare_connections", 2.0),
        ("fanfare_outbox_bytes", 0.0),
        ("fanfare_slow_consumers_total", 0.0),
        ("fanfare_session_panics_total", 0.0),
        (r#"fanfare_requests_refused_total{code="INVALID_SYNTAX"}"#, 1.0),
        (r#"fanfare_disconnects_total{reason="protocol error"}"#, 1.0),
        (r#"fanfare_reloads_total{file="tokens",result="taken"}"#, 1.0),
        (r#"fanfare_build_info{version="0.1.0"}"#, 1.0),
    ] {
        assert_eq!(broadcast.get(name), Some(&value), "{name}: {broadcast:#?}");
    }
}

#[tokio::test]
async fn every_line_of_a_json_log_is_json() {
    let house = House::new().set("RUST_LOG", "trace");
    let Gateway { listen, broadcast, house } = house.open();
    let mut subscriber = Subscriber::connect(&broadcast).await;
    subscriber.ask("a\nb\u{7f}\"").await;
    let mut wire = Wire::connect(&listen).await;
    wire.send("GET /\"\\x HTTP/1.1\r\nHost: \x01\r\n\r\n").await;
    wire.read_to_end().await;
    let gateway = Gateway { listen, broadcast, house };
    fire(&gateway, "a", "1").await;
    let Gateway { mut listen, mut broadcast, .. } = gateway;
    for process in [&mut listen, &mut broadcast] {
        process.signal(Signal::TERM);
        process.wait();
        process.wait_for_log("has stopped");
        for line in process.log().lines() {
            let line: Value = serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}"));
            for member in ["time", "level", "target", "message"] {
                assert!(line[member].is_string(), "{line}");
            }
        }
    }
}

#[tokio::test]
async fn a_text_log_has_one_line_a_record() {
    let house = House::new().set("LOG_FORMAT", "text");
    let broadcast = Process::spawn("broadcast", &house.settings);
    let line = broadcast.wait_for_log("broadcast is open");
    assert!(line.starts_with('[') && line.contains(" INFO "), "{line}");
    assert!(line.contains("address=127.0.0.1:"), "{line}");
}

/// Connects in one of many ways, and goes in one of many ways.
async fn come_and_go(gateway: &Gateway, number: usize) {
    let kinds = 10;
    let door = if number % kinds < 4 { &gateway.listen } else { &gateway.broadcast };
    let mut wire = Wire::connect(door).await;
    let init = format!(r#"{{"authentication":"Basic {}","events":["a"]}}"#, crate::gateway::TOKEN);
    let upgrade = upgrade_request("/", "");
    match number % kinds {
        // Says nothing; half a head; a whole request; a body that never comes.
        0 => {}
        1 => wire.send("POST /ev").await,
        2 => {
            wire.send(event_request(r#"{"event":"a","data":1}"#)).await;
            wire.read_answer().await;
        }
        3 => wire.send(&event_request(r#"{"event":"a"}"#)[..100]).await,
        // Half an upgrade; a session that says nothing; one that subscribes, and vanishes.
        4 => wire.send(&upgrade[..40]).await,
        5 => {
            wire.send(upgrade).await;
            wire.read_head().await;
        }
        6 => {
            wire.send(upgrade).await;
            wire.read_head().await;
            wire.log_in(r#"["a","b.*","c.>"]"#).await;
        }
        // One that closes; one that breaks the protocol; all in one packet, and gone.
        7 => {
            wire.send(upgrade).await;
            wire.read_head().await;
            wire.log_in(r#"["a"]"#).await;
            wire.send(frame(0x88, b"")).await;
            wire.read_to_end().await;
        }
        8 => {
            wire.send(upgrade).await;
            wire.read_head().await;
            wire.send(frame(0x83, init.as_bytes())).await;
            wire.read_close().await;
        }
        _ => wire.send([upgrade.as_bytes(), &frame(0x81, init.as_bytes())].concat()).await,
    }
}

#[tokio::test]
async fn after_2000_clients_of_all_kinds_everything_is_given_back() {
    let gateway = Gateway::open();
    // A first round makes what is made once.
    for number in 0..20 {
        come_and_go(&gateway, number).await;
    }
    let processes = [&gateway.listen, &gateway.broadcast];
    let all_gone = async || {
        for process in processes {
            process.wait_for_metric("fanfare_connections", 0.0).await;
            process.wait_for_metric("fanfare_memory_held_bytes", 0.0).await;
        }
        gateway.broadcast.wait_for_metric("fanfare_sessions", 0.0).await;
        gateway.broadcast.wait_for_metric("fanfare_sessions_unauthenticated", 0.0).await;
        gateway.broadcast.wait_for_metric("fanfare_outbox_bytes", 0.0).await;
    };
    all_gone().await;
    let before = processes.map(descriptors);
    for round in 0..20 {
        let clients = (0..100).map(|client| come_and_go(&gateway, round * 100 + client));
        futures_util::future::join_all(clients).await;
    }
    all_gone().await;
    for (process, before) in processes.iter().zip(before) {
        // The scrape's own connection may be there, or not.
        until("all descriptors", async || (descriptors(process) <= before + 1).then_some(())).await;
    }
    assert_eq!(gateway.broadcast.metric("fanfare_session_panics_total").await, 0.0);
    fire(&gateway, "a", "1").await;
}
