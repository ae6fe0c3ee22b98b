//! An event with the id and the source of an accepted one is a retry: answered like the first, and
//! delivered once (WIRE 1.1).

use std::collections::BTreeSet;

use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::client::{answer, code, fire, post, post_as};
use crate::gateway::{Gateway, House, Process, TOKEN};
use crate::replay::{Replay, all_kept, numbers};

const OTHER: &str = "0123456789abcdef-other";

fn body(event_type: &str, id: &str, source: &str, data: u64) -> String {
    json!({"event": event_type, "data": data, "id": id, "source": source}).to_string()
}

/// Sends an event, and expects that it is answered as one that is accepted.
async fn send(gateway: &Gateway, id: &str, source: &str, data: u64) {
    let response = post(gateway, body("a", id, source, data)).send().await.unwrap();
    assert_eq!(answer(response).await, (200, code("OK")), "{id} {source}");
}

/// The data of what a live session and the log have of the type `a`: the same.
async fn delivered(gateway: &Gateway, live: &mut Replay) -> Vec<u64> {
    let heard = live.rest(gateway).await;
    assert_eq!(all_kept(gateway, &["a"]).await, heard);
    numbers(&heard)
}

async fn live(gateway: &Gateway) -> Replay {
    Replay::begin(&gateway.broadcast, &["a"], json!({"cursor": true})).await
}

#[tokio::test]
async fn a_retry_is_answered_like_the_first_and_delivered_once() {
    let gateway = Gateway::open();
    let mut live = live(&gateway).await;
    // One client keeps its connection, the others have one each.
    let client = reqwest::Client::new();
    for data in [1, 1, 1] {
        let request = client.post(gateway.event_url());
        let request = request.header("authorization", format!("Basic {TOKEN}"));
        let response = request.body(body("a", "i", "s", data)).send().await.unwrap();
        assert_eq!(answer(response).await, (200, code("OK")));
    }
    send(&gateway, "i", "s", 1).await;
    fire(&gateway, "a", "2").await;
    send(&gateway, "i", "s", 1).await;
    assert_eq!(delivered(&gateway, &mut live).await, [1, 2]);
}

/// It is the id and the source that name an event: the first is the one that counts.
#[tokio::test]
async fn a_retry_with_other_data_or_another_type_is_still_a_retry() {
    let gateway = Gateway::open();
    let mut live = live(&gateway).await;
    send(&gateway, "i", "s", 1).await;
    send(&gateway, "i", "s", 2).await;
    let response = post(&gateway, body("b", "i", "s", 3)).send().await.unwrap();
    assert_eq!(answer(response).await, (200, code("OK")));
    assert_eq!(delivered(&gateway, &mut live).await, [1]);
    assert_eq!(all_kept(&gateway, &["b"]).await, Vec::<Value>::new());
}

#[tokio::test]
async fn a_retry_by_another_listen_is_a_retry() {
    let gateway = Gateway::open();
    let mut live = live(&gateway).await;
    send(&gateway, "i", "s", 1).await;
    let second = gateway.house.listen();
    second.wait_for_log("the link is up");
    let Gateway { listen, broadcast, house } = gateway;
    let gateway = Gateway { listen: second, broadcast, house };
    send(&gateway, "i", "s", 1).await;
    send(&gateway, "j", "s", 2).await;
    assert!(stopped(listen).await);
    assert_eq!(delivered(&gateway, &mut live).await, [1, 2]);
}

async fn stopped(process: Process) -> bool {
    tokio::task::spawn_blocking(move || process.stop().success()).await.unwrap()
}

#[tokio::test]
async fn a_retry_after_a_restart_of_broadcast_is_a_retry() {
    let mut gateway = Gateway::open();
    send(&gateway, "i", "s", 1).await;
    for signal in [Signal::KILL, Signal::TERM, Signal::KILL] {
        gateway = gateway.restart_broadcast(signal).await;
        send(&gateway, "i", "s", 1).await;
    }
    assert_eq!(numbers(&all_kept(&gateway, &["a"]).await), [1]);
}

#[tokio::test]
async fn retries_at_the_same_moment_are_delivered_once() {
    let gateway = Gateway::open();
    let mut live = live(&gateway).await;
    let mut sending = JoinSet::new();
    for number in 0..200 {
        let id = (number % 4).to_string();
        let request = post(&gateway, body("a", &id, "s", number % 4));
        sending.spawn(async move { answer(request.send().await.unwrap()).await });
    }
    for answered in sending.join_all().await {
        assert_eq!(answered, (200, code("OK")));
    }
    let heard = delivered(&gateway, &mut live).await;
    assert_eq!(heard.len(), 4);
    assert_eq!(heard.into_iter().collect::<BTreeSet<_>>(), (0..4).collect());
}

#[tokio::test]
async fn another_principals_event_is_another_one() {
    let gateway =
        House::new().with_tokens(&format!("{TOKEN} name=all\n{OTHER} name=other\n")).open();
    let mut live = live(&gateway).await;
    for (token, data) in [(TOKEN, 1), (OTHER, 2), (TOKEN, 1), (OTHER, 2)] {
        let response = post_as(&gateway, token, body("a", "i", "s", data)).send().await.unwrap();
        assert_eq!(answer(response).await, (200, code("OK")));
    }
    assert_eq!(delivered(&gateway, &mut live).await, [1, 2]);
}

#[tokio::test]
async fn another_id_or_source_is_another_event() {
    let gateway = Gateway::open();
    let mut live = live(&gateway).await;
    let names = [
        ("i", "s"),
        ("j", "s"),
        ("i", "t"),
        ("I", "s"),
        ("i ", "s"),
        ("ab", "c"),
        ("a", "bc"),
        ("s", "i"),
        ("i\u{301}", "s"),
        ("\u{ed}", "s"),
    ];
    for _ in 0..2 {
        for (number, (id, source)) in (0..).zip(names) {
            send(&gateway, id, source, number).await;
        }
    }
    assert_eq!(delivered(&gateway, &mut live).await, (0..10).collect::<Vec<_>>());
}

/// With one of both alone nobody has said that it is the same event.
#[tokio::test]
async fn an_id_or_a_source_alone_makes_no_retry() {
    let gateway = Gateway::open();
    let mut live = live(&gateway).await;
    for members in [r#""id":"i""#, r#""id":"i""#, r#""source":"s""#, r#""source":"s""#] {
        let response = post(&gateway, format!(r#"{{"event":"a","data":1,{members}}}"#));
        assert_eq!(answer(response.send().await.unwrap()).await, (200, code("OK")));
    }
    assert_eq!(delivered(&gateway, &mut live).await, [1, 1, 1, 1]);
}

#[tokio::test]
async fn what_was_refused_was_not_accepted_and_its_name_is_free() {
    let tokens = format!("{TOKEN} name=all\n{OTHER} name=other publish=a subscribe=none\n");
    let gateway = House::new().with_tokens(&tokens).open();
    let mut live = live(&gateway).await;
    for (event_type, status) in [("b", 403), ("a", 200), ("b", 403), ("a", 200)] {
        let request = post_as(&gateway, OTHER, body(event_type, "i", "s", 1));
        assert_eq!(answer(request.send().await.unwrap()).await.0, status);
    }
    assert_eq!(delivered(&gateway, &mut live).await, [1]);
}

#[tokio::test]
async fn in_memory_a_retry_is_a_retry_within_a_run() {
    let gateway = House::new().set("DURABILITY", "memory").open();
    let mut live = live(&gateway).await;
    send(&gateway, "i", "s", 1).await;
    send(&gateway, "i", "s", 1).await;
    assert_eq!(delivered(&gateway, &mut live).await, [1]);
}
