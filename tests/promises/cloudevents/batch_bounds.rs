//! What a batch may cost: events, bytes of its answer, time, and the turns of others (WIRE 3.1).

use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::net::TcpSocket;

use crate::cloudevents::{BATCH, Reader, answer, bare, event, faulty, send};
use crate::gateway::{Gateway, House, PATIENCE, TOKEN};
use crate::measures::until;
use crate::wire::{Wire, status};

/// So many events a batch may have.
const EVENTS_MAX: usize = 10_000;
/// So many of them are on their way at a time.
const UNDERWAY_MAX: usize = 256;

/// A batch of so many events, named by their numbers.
fn batch(count: usize) -> String {
    let events: Vec<String> = (0..count).map(|number| event(&number.to_string(), "")).collect();
    format!("[{}]", events.join(","))
}

/// A batch of one item, over and over.
fn repeated(item: &str, count: usize) -> String {
    format!("[{}]", vec![item; count].join(","))
}

/// The results that say this.
fn with_code(said: &Value, code: &str) -> usize {
    said.as_array().unwrap().iter().filter(|it| it["code"] == code).count()
}

#[tokio::test]
async fn a_batch_of_more_than_10000_events_is_refused_whole() {
    let gateway = Gateway::open();
    let mut reader = Reader::open(&gateway).await;
    for body in [batch(EVENTS_MAX + 1), repeated("7", EVENTS_MAX + 1)] {
        let (status, said) = answer(send(&gateway, BATCH, body)).await;
        assert_eq!((status, faulty(&said)), (400, vec!["body"]));
    }
    let (status, said) = answer(send(&gateway, BATCH, repeated("7", EVENTS_MAX))).await;
    assert_eq!((status, with_code(&said, "INVALID")), (200, EVENTS_MAX));
    assert_eq!(answer(send(&gateway, BATCH, format!("[{}]", event("i", "")))).await.0, 200);
    reader.expect("i").await;
}

/// A small item may have many faults; what is told of all of them is bounded.
#[tokio::test]
async fn the_answer_to_a_batch_of_faults_is_bounded_and_has_a_result_for_each() {
    let gateway = Gateway::open();
    let names: String = ('A'..='P').map(|name| format!(r#","{name}":0"#)).collect();
    for item in ["{}".to_owned(), format!("{{{}}}", &names[1..])] {
        let request = send(&gateway, BATCH, repeated(&item, EVENTS_MAX));
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), 200);
        let body = response.text().await.unwrap();
        assert!(body.len() < 2 * 1024 * 1024, "{} bytes", body.len());
        let said: Value = serde_json::from_str(&body).unwrap();
        assert_eq!(with_code(&said, "INVALID"), EVENTS_MAX);
        let told = |at: usize| said[at]["errors"].as_object().unwrap();
        assert!(told(0).len() >= 4 && told(EVENTS_MAX - 1).len() == 1, "{item}");
    }
}

/// It has one thread: whoever is answered between two faults was served in between.
#[tokio::test]
async fn others_are_served_while_a_batch_is_judged() {
    let gateway = House::new().set("WORKERS", 1).open();
    let refused = async || gateway.listen.metric("fanfare_requests_refused_total").await as usize;
    let health = format!("{}/healthz", gateway.listen.url());
    until("an answer in the middle of a batch", async || {
        let before = refused().await;
        let request = send(&gateway, BATCH, repeated("{}", EVENTS_MAX));
        let judging = tokio::spawn(request.send());
        let mut is_between = false;
        while !judging.is_finished() {
            let begun = refused().await > before;
            assert_eq!(reqwest::get(&health).await.unwrap().status(), 200);
            is_between |= begun && refused().await < before + EVENTS_MAX;
        }
        assert_eq!(judging.await.unwrap().unwrap().status(), 200);
        is_between.then_some(())
    })
    .await;
}

#[tokio::test]
async fn the_answer_to_a_batch_is_on_the_account_of_memory_until_it_is_taken() {
    /// More answers than all the buffers on the way hold; the bodies alone are far smaller.
    const BATCHES: usize = 8;
    let gateway = Gateway::open();
    let body = repeated("{}", EVENTS_MAX);
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(1).unwrap();
    let mut wire = Wire { stream: socket.connect(gateway.listen.address()).await.unwrap() };
    let head = format!(
        "POST /events HTTP/1.1\r\nHost: test\r\nAuthorization: Basic {TOKEN}\r\n\
         Content-Type: {BATCH}\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    wire.send((head + &body).repeat(BATCHES)).await;
    until("a large answer on the account", async || {
        let held = gateway.listen.metric("fanfare_memory_held_bytes").await;
        (held > 700_000.0).then_some(())
    })
    .await;
    for _ in 0..BATCHES {
        let (head, body) = wire.read_answer().await;
        assert_eq!(status(&head), 200);
        assert!(body.len() > 700_000, "{}", body.len());
    }
    gateway.listen.wait_for_metric("fanfare_memory_held_bytes", 0.0).await;
}

/// What is not sent is not kept: only the first could have been on their way.
#[tokio::test]
async fn what_a_batch_has_not_sent_when_broadcast_falls_silent_it_does_not_send() {
    let gateway = House::new().set("PUBLISH_TIMEOUT", "1s").open();
    gateway.broadcast.signal(Signal::STOP);
    let (status, said) = answer(send(&gateway, BATCH, batch(1000))).await;
    assert_eq!((status, with_code(&said, "UNAVAILABLE")), (503, 1000), "{said}");
    for (number, result) in said.as_array().unwrap().iter().enumerate() {
        assert_eq!(result["id"], number.to_string());
        let is_unknown = result["accepted"] == "unknown";
        assert!(!is_unknown || number < UNDERWAY_MAX, "{result}");
    }
    gateway.broadcast.signal(Signal::CONT);
    let again = async || answer(send(&gateway, BATCH, format!("[{}]", event("end", "")))).await;
    until("the link", async || (again().await.0 == 200).then_some(())).await;
    let mut reader = Reader::open(&gateway).await;
    loop {
        let event = reader.next().await;
        let id = event["id"].as_str().unwrap();
        if id == "end" {
            return;
        }
        assert!(id.parse::<usize>().unwrap() < UNDERWAY_MAX, "{id} was sent");
    }
}

/// Were each of the forty groups of events waited for, this would never come to an end in time.
#[tokio::test]
async fn a_batch_waits_once_for_a_broadcast_that_is_silent_and_so_does_its_dry_run() {
    let gateway = House::new().set("PUBLISH_TIMEOUT", "2s").open();
    gateway.broadcast.signal(Signal::STOP);
    for query in ["", "?dry_run=true"] {
        let request = reqwest::Client::new()
            .post(format!("{}/events{query}", gateway.listen.url()))
            .header("authorization", format!("Basic {TOKEN}"))
            .header("content-type", BATCH)
            .body(batch(EVENTS_MAX));
        let answered = tokio::time::timeout(PATIENCE, answer(request)).await;
        let (status, said) = answered.expect("it waits again and again");
        assert_eq!((status, with_code(&said, "UNAVAILABLE")), (503, EVENTS_MAX), "{query}");
        if !query.is_empty() {
            let is_unknown = |it: &Value| it.get("accepted").is_some();
            assert!(!said.as_array().unwrap().iter().any(is_unknown), "a dry run keeps nothing");
        }
    }
    gateway.broadcast.signal(Signal::CONT);
    let request = bare(&gateway).header("authorization", format!("Basic {TOKEN}"));
    let request = request.header("content-type", BATCH).body("[]");
    assert_eq!(answer(request).await, (200, json!([])));
}
