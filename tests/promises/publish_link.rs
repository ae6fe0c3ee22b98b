//! `POST /event` (WIRE §1.1): what broadcast's being there or away makes of it.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use reqwest::Response;
use rustix::process::Signal;
use serde_json::Value;

use crate::client::{Subscriber, answer, code, fire, post, post_as};
use crate::gateway::{Gateway, House, Process, wait_for};
use crate::wire::{Wire, event_request, status};

const EVENT: &str = r#"{"event":"order.paid","data":{"id":7}}"#;

/// One worker: one link, whose end is one line in the log.
fn house(publish_timeout: &str) -> House {
    House::new().set("WORKERS", 1).set("PUBLISH_TIMEOUT", publish_timeout)
}

/// The answer `accepted: unknown`: its `id` and `source`.
async fn undecided(response: Response) -> (String, String) {
    let seconds: u64 = response.headers()["retry-after"].to_str().unwrap().parse().unwrap();
    assert!(seconds >= 1);
    let (status, body) = answer(response).await;
    let read: Value = serde_json::from_str(&body).unwrap();
    let text = |name: &str| read[name].as_str().unwrap().to_owned();
    let (id, source) = (text("id"), text("source"));
    let expected = format!(
        r#"{{"code":"UNAVAILABLE","accepted":"unknown","id":{},"source":{}}}"#,
        read["id"], read["source"]
    );
    assert_eq!((status, body), (503, expected));
    (id, source)
}

#[tokio::test]
async fn without_broadcast_the_answer_after_the_publish_timeout_is_unavailable() {
    let Gateway { listen, broadcast, house } = house("300ms").open();
    broadcast.kill();
    listen.wait_for_log("the link is down");
    let gateway = Gateway { listen, broadcast: nobody(&house), house };
    let begin = Instant::now();
    let response = post(&gateway, EVENT).send().await.unwrap();
    assert!(begin.elapsed() >= Duration::from_millis(300));
    assert_eq!(response.headers()["retry-after"], "1");
    assert_eq!(answer(response).await, (503, code("UNAVAILABLE")));
}

/// A broadcast on another link, for what needs only a `listen`.
fn nobody(house: &House) -> Process {
    let mut settings = house.settings.clone();
    let elsewhere = house.folder.path().join("elsewhere/link.sock");
    settings.insert("LINK".to_owned(), format!("unix:{}", elsewhere.display()));
    Process::start("broadcast", &settings)
}

#[tokio::test]
async fn an_event_without_a_receipt_in_time_is_answered_with_what_names_it() {
    let gateway = house("300ms").open();
    gateway.broadcast.signal(Signal::STOP);
    let response = post(&gateway, EVENT).send().await.unwrap();
    let (id, source) = undecided(response).await;
    // WIRE §0: a UUIDv7, and the name of the token.
    assert_eq!((id.len(), &id[14..15], source.as_str()), (36, "7", "/all"), "{id}");
}

#[tokio::test]
async fn an_event_whose_link_breaks_before_the_receipt_is_answered_at_once() {
    let gateway = house("60s").open();
    gateway.broadcast.signal(Signal::STOP);
    let mut wire = Wire::connect(&gateway.listen).await;
    wire.send(event_request(EVENT)).await;
    // It has one thread: what it answers now was asked after the event was read and sent.
    for _ in 0..10 {
        reqwest::get(gateway.listen.url() + "/healthz").await.unwrap();
    }
    let begin = Instant::now();
    gateway.broadcast.kill();
    let (head, body) = wire.read_answer().await;
    assert_eq!(status(&head), 503);
    assert!(body.starts_with(r#"{"code":"UNAVAILABLE","accepted":"unknown","id":""#), "{body}");
    assert!(begin.elapsed() < Duration::from_secs(30));
}

#[tokio::test]
async fn the_undecided_answer_names_the_id_and_source_that_the_body_gave() {
    let gateway = house("300ms").open();
    gateway.broadcast.signal(Signal::STOP);
    let table = [
        (r#""id":"7\"","source":"/ü""#, Some("7\""), "/ü"),
        (r#""id":"only""#, Some("only"), "/all"),
        (r#""source":"/only""#, None, "/only"),
        // Of another kind they are ignored.
        (r#""id":7,"source":["/x"]"#, None, "/all"),
    ];
    for (members, expected_id, expected_source) in table {
        let body = format!(r#"{{"event":"a",{members}}}"#);
        let (id, source) = undecided(post(&gateway, body).send().await.unwrap()).await;
        assert_eq!(source, expected_source, "{members}");
        match expected_id {
            Some(expected) => assert_eq!(id, expected, "{members}"),
            None => assert_eq!(id.len(), 36, "{members}"),
        }
    }
}

/// WIRE §2: the name is given, or made of the secret's digest.
#[tokio::test]
async fn the_source_of_an_event_is_the_name_of_its_token() {
    let (named, plain) = ("0123456789abcdef-named", "0123456789abcdef-plain");
    let tokens = format!("{named} name=billing\n{plain}\nanonymous\n");
    let gateway = house("300ms").with_tokens(&tokens).open();
    gateway.broadcast.signal(Signal::STOP);
    // printf %s 0123456789abcdef-plain | sha256sum | cut -c 1-8
    for (token, expected) in [(named, "/billing"), (plain, "/token-e2968026")] {
        let (_, source) = undecided(post_as(&gateway, token, EVENT).send().await.unwrap()).await;
        assert_eq!(source, expected);
    }
    let request = reqwest::Client::new().post(gateway.event_url()).body(EVENT);
    assert_eq!(undecided(request.send().await.unwrap()).await.1, "/anonymous");
}

#[tokio::test]
async fn publishers_that_come_while_broadcast_restarts_wait_and_are_taken() {
    let Gateway { listen, broadcast, house } = house("60s").open();
    broadcast.kill();
    listen.wait_for_log("the link is down");
    let url = listen.url() + "/event";
    let requests: Vec<_> = (0..20)
        .map(|_| {
            let request = reqwest::Client::new().post(&url).body(EVENT);
            let token = format!("Basic {}", crate::gateway::TOKEN);
            tokio::spawn(request.header("authorization", token).send())
        })
        .collect();
    let _broadcast = house.broadcast();
    for response in join_all(requests).await {
        assert_eq!(answer(response.unwrap().unwrap()).await, (200, code("OK")));
    }
}

#[tokio::test]
async fn several_listen_processes_share_one_broadcast() {
    let mut gateway = Gateway::open();
    let second = gateway.house.listen();
    second.wait_for_log("the link is up");
    let mut subscriber = Subscriber::subscribe(&gateway.broadcast, &["a"]).await;
    fire(&gateway, "a", "1").await;
    let first = std::mem::replace(&mut gateway.listen, second);
    fire(&gateway, "a", "2").await;
    // One of them goes, and the other does not notice.
    first.kill();
    fire(&gateway, "a", "3").await;
    for number in ["1", "2", "3"] {
        assert_eq!(subscriber.hear().await, crate::client::event("a", number));
    }
}

/// Concurrent publishers on two `listen` processes: every session sees one and the same order, all
/// of it, and the events of one publisher in the order in which they were taken.
#[tokio::test]
async fn every_session_sees_all_events_in_one_order() {
    const PUBLISHERS: usize = 8;
    const EVENTS: usize = 50;
    let gateway = Gateway::open();
    let second = gateway.house.listen();
    wait_for("a second link", || second.log().contains("the link is up").then_some(()));
    let mut sessions = Vec::new();
    for events in [&["n.>"][..], &["n.>", "n.*"], &["n.>"], &[">"], &["n.*", "n.1", "n.2"]] {
        sessions.push(Subscriber::subscribe(&gateway.broadcast, events).await);
    }
    let urls = [gateway.event_url(), second.url() + "/event"];
    let publishers = (0..PUBLISHERS).map(|publisher| {
        let url = urls[publisher % 2].clone();
        tokio::spawn(async move {
            let client = reqwest::Client::new();
            let token = format!("Basic {}", crate::gateway::TOKEN);
            for number in 0..EVENTS {
                let body = format!(r#"{{"event":"n.{publisher}","data":{number}}}"#);
                let request = client.post(&url).header("authorization", &token).body(body);
                assert_eq!(request.send().await.unwrap().status(), 200);
            }
        })
    });
    let publishers: Vec<_> = publishers.collect();
    let mut orders = Vec::new();
    for session in &mut sessions {
        let mut order = Vec::new();
        for _ in 0..PUBLISHERS * EVENTS {
            order.push(session.hear().await);
        }
        session.assert_nothing_came().await;
        orders.push(order);
    }
    join_all(publishers).await.into_iter().for_each(Result::unwrap);
    for order in &orders {
        assert_eq!(order, &orders[0]);
    }
    for publisher in 0..PUBLISHERS {
        let begin = format!(r#"{{"type":"event","event":"n.{publisher}","data":"#);
        let numbers = orders[0].iter().filter_map(|event| event.strip_prefix(&begin));
        let numbers: Vec<usize> =
            numbers.map(|it| it.trim_end_matches('}').parse().unwrap()).collect();
        assert_eq!(numbers, (0..EVENTS).collect::<Vec<_>>());
    }
}
