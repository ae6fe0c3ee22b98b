//! How a process stops (HARDENING, "Stop, restart, herd").

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::client::{Subscriber, answer, fire};
use crate::gateway::{Gateway, House, Process, TOKEN};
use crate::measures::{ask_admin, until};
use crate::wire::{Wire, event_request};

fn restarting() -> (u16, String) {
    (1012, "restarting".to_owned())
}

/// The numbers of the events that got 200, and what the others got.
type Published = (BTreeSet<u64>, Vec<(u16, String)>);

/// Publishes numbered events, one after the other, until `is_over`: the numbers that got 200.
async fn publish_until(
    url: String,
    numbers: Arc<AtomicU64>,
    is_over: Arc<AtomicBool>,
) -> Published {
    let client = reqwest::Client::new();
    let (mut accepted, mut refused) = (BTreeSet::new(), Vec::new());
    while !is_over.load(Ordering::SeqCst) {
        let number = numbers.fetch_add(1, Ordering::SeqCst);
        let request = client.post(&url).header("authorization", format!("Basic {TOKEN}"));
        let request = request.body(format!(r#"{{"event":"a","data":{number}}}"#));
        match answer(request.send().await.unwrap()).await {
            (200, _) => assert!(accepted.insert(number)),
            other => refused.push(other),
        }
    }
    (accepted, refused)
}

/// All numbers up to the Close, and the Close.
async fn hear_to_the_end(mut subscriber: Subscriber) -> (Vec<u64>, (u16, String)) {
    use tokio_tungstenite::tungstenite::Message;
    let mut numbers = Vec::new();
    loop {
        match subscriber.next().await {
            Message::Text(text) => {
                let event: Value = serde_json::from_str(&text).unwrap();
                numbers.push(event["data"].as_u64().unwrap());
            }
            Message::Close(Some(close)) => {
                return (numbers, (close.code.into(), close.reason.to_string()));
            }
            other => panic!("{other:?}"),
        }
    }
}

/// So many tasks that publish.
struct Load {
    is_over: Arc<AtomicBool>,
    tasks: JoinSet<Published>,
}

impl Load {
    fn begin(gateway: &Gateway, count: usize) -> Self {
        let (numbers, is_over) = (Arc::<AtomicU64>::default(), Arc::<AtomicBool>::default());
        let mut tasks = JoinSet::new();
        for _ in 0..count {
            let url = gateway.event_url();
            tasks.spawn(publish_until(url, Arc::clone(&numbers), Arc::clone(&is_over)));
        }
        Self { is_over, tasks }
    }

    async fn end(self) -> Published {
        self.is_over.store(true, Ordering::SeqCst);
        let (mut accepted, mut refused) = (BTreeSet::new(), Vec::new());
        for (more, other) in self.tasks.join_all().await {
            accepted.extend(more);
            refused.extend(other);
        }
        (accepted, refused)
    }
}

#[tokio::test]
async fn broadcast_delivers_all_it_acknowledged_and_then_closes_every_session() {
    let house = House::new().set("PUBLISH_TIMEOUT", "2s").set("DRAIN_TIMEOUT", "5s");
    let gateway = house.open();
    let mut hearing = JoinSet::new();
    for _ in 0..20 {
        let subscriber = Subscriber::subscribe(&gateway.broadcast, &["a"]).await;
        hearing.spawn(hear_to_the_end(subscriber));
    }
    let mut strangers = Vec::new();
    for _ in 0..20 {
        strangers.push(Subscriber::connect(&gateway.broadcast).await);
    }
    let load = Load::begin(&gateway, 10);
    until("some events", async || {
        (gateway.broadcast.metric("fanfare_events_accepted_total").await > 200.0).then_some(())
    })
    .await;
    gateway.broadcast.signal(Signal::TERM);
    let begun = Instant::now();
    let heard = hearing.join_all().await;
    for stranger in strangers {
        assert_eq!(stranger.closed().await, restarting());
    }
    let (accepted, _) = load.end().await;
    let Gateway { mut broadcast, .. } = gateway;
    let ended = tokio::task::spawn_blocking(move || broadcast.wait()).await.unwrap();
    assert!(ended.success(), "{ended}");
    assert!(begun.elapsed() < Duration::from_secs(6), "{:?}", begun.elapsed());
    let (first, _) = heard.first().unwrap();
    for (numbers, close) in &heard {
        assert_eq!(*close, restarting());
        assert_eq!(numbers, first, "not one and the same order");
    }
    let first: BTreeSet<u64> = first.iter().copied().collect();
    let lost: Vec<_> = accepted.difference(&first).collect();
    assert!(lost.is_empty(), "acknowledged and not delivered: {lost:?}");
}

#[tokio::test]
async fn a_client_that_lags_gets_all_that_was_acknowledged_before_its_close() {
    let gateway = Gateway::open();
    let mut lagging = Wire::subscribe_narrow(&gateway.broadcast, r#"["a"]"#).await;
    let padding = "x".repeat(64 * 1024);
    let mut fired = 0;
    until("much of it waits", async || {
        fire(&gateway, "a", &format!(r#"{{"n":{fired},"padding":"{padding}"}}"#)).await;
        fired += 1;
        (gateway.broadcast.metric("fanfare_outbox_bytes").await > 1_000_000.0).then_some(())
    })
    .await;
    gateway.broadcast.signal(Signal::TERM);
    gateway.broadcast.wait_for_log("hanging up: restarting");
    for number in 0..fired {
        let (first, payload) = lagging.read_frame().await;
        assert_eq!(first, 0x81, "event {number} is missing");
        let event: Value = serde_json::from_slice(&payload).unwrap();
        assert_eq!(event["data"]["n"], number);
    }
    assert_eq!(lagging.read_close().await, restarting());
}

#[tokio::test]
async fn a_client_that_reads_nothing_does_not_hold_up_the_stop() {
    let house = House::new().set("DRAIN_TIMEOUT", "2s");
    let gateway = house.open();
    let _frozen = Wire::subscribe_narrow(&gateway.broadcast, r#"["a"]"#).await;
    let data = "x".repeat(256 * 1024);
    until("some of it waits", async || {
        fire(&gateway, "a", &format!("\"{data}\"")).await;
        (gateway.broadcast.metric("fanfare_outbox_bytes").await > 0.0).then_some(())
    })
    .await;
    gateway.broadcast.signal(Signal::TERM);
    let begun = Instant::now();
    let Gateway { mut broadcast, listen, house } = gateway;
    let ended = tokio::task::spawn_blocking(move || broadcast.wait()).await.unwrap();
    assert!(ended.success(), "{ended}");
    // The drain window and 1 s; the rest is for a busy machine.
    assert!(begun.elapsed() < Duration::from_millis(4500), "{:?}", begun.elapsed());
    drop((listen, house));
}

#[tokio::test]
async fn publishers_are_held_over_restarts_of_broadcast_and_all_get_200() {
    let house = House::new().set("PUBLISH_TIMEOUT", "30s");
    let gateway = house.open();
    let load = Load::begin(&gateway, 40);
    let Gateway { listen, mut broadcast, house } = gateway;
    let mut logs = String::new();
    for _ in 0..12 {
        until("some events", async || {
            (broadcast.metric("fanfare_events_accepted_total").await > 100.0).then_some(())
        })
        .await;
        broadcast.signal(Signal::TERM);
        let settings = house.settings.clone();
        let restart = move || {
            assert!(broadcast.wait().success());
            (broadcast.log(), Process::start("broadcast", &settings))
        };
        let (log, restarted) = tokio::task::spawn_blocking(restart).await.unwrap();
        logs.push_str(&log);
        broadcast = restarted;
    }
    let (accepted, refused) = load.end().await;
    let (refused, all) = (refused.len(), accepted.len());
    assert_eq!(refused, 0, "refused, and {all} were not; {logs}{}", listen.log());
    drop(listen);
}

/// What became of one request.
#[derive(Debug, PartialEq)]
enum Outcome {
    /// A whole answer: its status, and whether it is the last one on its connection.
    Answer(u16, bool),
    /// Nobody listens any more.
    Refused,
    /// Anything else: the client cannot know what became of it.
    Broken(String),
}

/// Sends one request and reads its answer.
async fn ask(stream: &mut TcpStream, request: &str) -> std::io::Result<Outcome> {
    stream.write_all(request.as_bytes()).await?;
    let mut heard = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&heard).to_lowercase();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.split("content-length: ").nth(1).unwrap().lines().next().unwrap();
            if body.len() >= length.parse().unwrap() {
                let status = head.split(' ').nth(1).unwrap().parse().unwrap();
                return Ok(Outcome::Answer(status, head.contains("connection: close")));
            }
        }
        if stream.read_buf(&mut heard).await? == 0 {
            return Err(std::io::Error::other(format!("cut after {text:?}")));
        }
    }
}

/// Asks again and again until nobody listens: what became of each request.
async fn ask_until_refused(address: SocketAddr, keeps: bool) -> Vec<Outcome> {
    let mut request = event_request(r#"{"event":"a"}"#);
    if !keeps {
        request = request.replacen("\r\n", "\r\nConnection: close\r\n", 1);
    }
    let mut outcomes = Vec::new();
    let mut kept: Option<TcpStream> = None;
    loop {
        let mut stream = match kept.take() {
            Some(stream) => stream,
            None => match TcpStream::connect(address).await {
                Ok(stream) => stream,
                Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
                    outcomes.push(Outcome::Refused);
                    return outcomes;
                }
                Err(error) => {
                    outcomes.push(Outcome::Broken(format!("connect: {error}")));
                    return outcomes;
                }
            },
        };
        match ask(&mut stream, &request).await {
            Ok(outcome) => {
                if outcome == Outcome::Answer(200, false) {
                    kept = Some(stream);
                }
                outcomes.push(outcome);
            }
            Err(error) => outcomes.push(Outcome::Broken(error.to_string())),
        }
    }
}

#[tokio::test]
async fn listen_under_load_answers_every_request_that_it_does_not_refuse() {
    for _ in 0..5 {
        let gateway = Gateway::open();
        let address = gateway.listen.address();
        let mut asking = JoinSet::new();
        for number in 0..40 {
            asking.spawn(ask_until_refused(address, number % 2 == 0));
        }
        until("some events", async || {
            (gateway.listen.metric("fanfare_events_accepted_total").await > 200.0).then_some(())
        })
        .await;
        gateway.listen.signal(Signal::TERM);
        let begun = Instant::now();
        for outcomes in asking.join_all().await {
            let (last, answered) = outcomes.split_last().unwrap();
            assert_eq!(*last, Outcome::Refused);
            for outcome in answered {
                assert!(matches!(outcome, Outcome::Answer(200, _)), "{outcome:?}");
            }
        }
        let Gateway { mut listen, broadcast, house } = gateway;
        let ended = tokio::task::spawn_blocking(move || listen.wait()).await.unwrap();
        assert!(ended.success(), "{ended}");
        assert!(begun.elapsed() < Duration::from_secs(6), "{:?}", begun.elapsed());
        drop((broadcast, house));
    }
}

#[tokio::test]
async fn a_herd_that_waits_at_the_door_when_it_closes_is_answered() {
    let gateway = Gateway::open();
    gateway.listen.signal(Signal::STOP);
    // The kernel has accepted them; the process has not.
    let mut herd = Vec::new();
    for _ in 0..200 {
        let mut wire = Wire::connect(&gateway.listen).await;
        wire.send(event_request(r#"{"event":"a"}"#)).await;
        herd.push(wire);
    }
    gateway.listen.signal(Signal::TERM);
    gateway.listen.signal(Signal::CONT);
    for mut wire in herd {
        let answer = String::from_utf8(wire.read_to_end().await).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    }
}

/// Begins an event whose body does not come yet.
async fn begin_event(gateway: &Gateway) -> Wire {
    let mut wire = Wire::connect(&gateway.listen).await;
    let request = event_request(r#"{"event":"a"}"#);
    let (begun, _) = request.split_at(request.len() - 12);
    wire.send(begun).await;
    gateway.listen.wait_for_metric("fanfare_connections", 1.0).await;
    wire
}

#[tokio::test]
async fn listen_finishes_what_is_in_flight_and_takes_nothing_new() {
    let gateway = Gateway::open();
    let mut subscriber = Subscriber::subscribe(&gateway.broadcast, &["a"]).await;
    let mut begun = begin_event(&gateway).await;
    gateway.listen.signal(Signal::TERM);
    gateway.listen.wait_for_log("stopping");
    until("the door is closed", async || {
        let refused = TcpStream::connect(gateway.listen.address()).await.err()?;
        (refused.kind() == ErrorKind::ConnectionRefused).then_some(())
    })
    .await;
    let (status, body) = ask_admin(&gateway.listen, "/readyz").await;
    assert_eq!((status, body.contains("draining")), (503, true), "{body}");
    begun.send(r#""event":"a"}"#).await;
    let (head, body) = begun.read_answer().await;
    assert!(head.to_lowercase().contains("connection: close\r\n"), "{head}");
    assert_eq!(body, r#"{"code":"OK"}"#);
    assert_eq!(subscriber.hear().await, r#"{"type":"event","event":"a"}"#);
    let Gateway { mut listen, broadcast, house } = gateway;
    let ended = tokio::task::spawn_blocking(move || listen.wait()).await.unwrap();
    assert!(ended.success(), "{ended}");
    drop((broadcast, house));
}

#[tokio::test]
async fn what_does_not_finish_in_5_seconds_is_cut_off_at_a_stop() {
    let gateway = Gateway::open();
    let _begun = begin_event(&gateway).await;
    let begun = Instant::now();
    let Gateway { listen, broadcast, house } = gateway;
    let ended = tokio::task::spawn_blocking(move || listen.stop()).await.unwrap();
    assert!(ended.success(), "{ended}");
    assert!((4..9).contains(&begun.elapsed().as_secs()), "{:?}", begun.elapsed());
    drop((broadcast, house));
}

#[tokio::test]
async fn a_second_signal_ends_the_process_at_once() {
    for (first, second) in [(Signal::TERM, Signal::TERM), (Signal::INT, Signal::TERM)] {
        let gateway = Gateway::open();
        let _begun = begin_event(&gateway).await;
        gateway.listen.signal(first);
        gateway.listen.wait_for_log("stopping");
        // A word to reload is none to stop.
        gateway.listen.signal(Signal::HUP);
        gateway.listen.signal(second);
        let begun = Instant::now();
        let Gateway { mut listen, broadcast, house } = gateway;
        let ended = tokio::task::spawn_blocking(move || listen.wait()).await.unwrap();
        assert_eq!(ended.code(), Some(1));
        assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
        drop((broadcast, house));
    }
}

#[tokio::test]
async fn sigint_stops_as_sigterm_does() {
    let gateway = Gateway::open();
    let subscriber = Subscriber::subscribe(&gateway.broadcast, &["a"]).await;
    gateway.broadcast.signal(Signal::INT);
    assert_eq!(subscriber.closed().await, restarting());
    let Gateway { mut broadcast, listen, house } = gateway;
    let ended = tokio::task::spawn_blocking(move || broadcast.wait()).await.unwrap();
    assert!(ended.success(), "{ended}");
    drop((listen, house));
}
