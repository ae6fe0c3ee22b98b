//! `POST /event` (WIRE §1.1): what a publisher may hear beside `OK`, and what it may ask without
//! firing anything.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use reqwest::{RequestBuilder, Response};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::channels::{join_ok, open};
use crate::client::{Subscriber, answer, code, event, fire, post};
use crate::gateway::{Gateway, House, TOKEN};
use crate::publish::faults_in_order;
use crate::wire::{Wire, status};

const EVENT: &str = r#"{"event":"order.paid","data":{"id":7}}"#;

/// Asks for more than `OK`.
fn prefer(request: RequestBuilder) -> RequestBuilder {
    request.header("prefer", "return=representation")
}

/// `POST /event` with a query.
fn post_query(gateway: &Gateway, query: &str, body: &str) -> RequestBuilder {
    reqwest::Client::new()
        .post(format!("{}?{query}", gateway.event_url()))
        .header("authorization", format!("Basic {TOKEN}"))
        .body(body.to_owned())
}

fn dry_run(gateway: &Gateway, body: &str) -> RequestBuilder {
    post_query(gateway, "dry_run=true", body)
}

/// An answer that says what became of an event.
struct Account {
    id: String,
    epoch: String,
    offset: u64,
    matched: u64,
}

impl Account {
    async fn of(response: Response) -> Self {
        assert_eq!(response.headers()["preference-applied"], "return=representation");
        let (status, body) = answer(response).await;
        let read: Value = serde_json::from_str(&body).unwrap();
        let (id, cursor, matched) = (&read["id"], &read["cursor"], &read["matched"]);
        let expected =
            format!(r#"{{"code":"OK","id":{id},"cursor":{cursor},"matched":{matched}}}"#);
        assert_eq!((status, body), (200, expected));
        let (epoch, offset) = cursor.as_str().unwrap().rsplit_once('-').unwrap();
        Self {
            id: id.as_str().unwrap().to_owned(),
            epoch: epoch.to_owned(),
            offset: offset.parse().unwrap(),
            matched: matched.as_u64().unwrap(),
        }
    }
}

/// What a dry run says that was asked for more than `OK`: the id, and how many sessions.
async fn rehearsed(response: Response) -> (String, u64) {
    assert_eq!(response.headers()["preference-applied"], "return=representation");
    let (status, body) = answer(response).await;
    let read: Value = serde_json::from_str(&body).unwrap();
    let expected = format!(r#"{{"code":"OK","id":{},"matched":{}}}"#, read["id"], read["matched"]);
    assert_eq!((status, body), (200, expected));
    (read["id"].as_str().unwrap().to_owned(), read["matched"].as_u64().unwrap())
}

/// Sessions on as many workers as there are: some with several patterns for the same event, one
/// with none for it.
async fn subscribe(gateway: &Gateway, matching: usize) -> Vec<Subscriber> {
    let patterns = [&["order.paid"][..], &["order.paid", "order.*", "order.>", ">"], &["order.>"]];
    let mut sessions = Vec::new();
    for events in &patterns[..matching] {
        sessions.push(Subscriber::subscribe(&gateway.broadcast, events).await);
    }
    sessions.push(Subscriber::subscribe(&gateway.broadcast, &["order", "order.paid.*"]).await);
    sessions
}

#[tokio::test]
async fn a_publisher_that_prefers_it_hears_the_id_and_the_cursor_of_its_event() {
    let gateway = Gateway::open();
    let first = Account::of(prefer(post(&gateway, EVENT)).send().await.unwrap()).await;
    // WIRE §0: a UUIDv7 where the body gave no id.
    assert_eq!((first.id.len(), &first.id[14..15]), (36, "7"));
    fire(&gateway, "order.paid", "1").await;
    let named = r#"{"event":"order.paid","id":"7\"ü"}"#;
    let third = Account::of(prefer(post(&gateway, named)).send().await.unwrap()).await;
    assert_eq!(third.id, "7\"ü");
    assert_eq!(third.epoch, first.epoch);
    assert!(third.offset > first.offset + 1, "{} {}", first.offset, third.offset);
}

#[tokio::test]
async fn an_event_counts_each_session_once_that_it_was_queued_to() {
    for matching in [0, 1, 3] {
        let gateway = Gateway::open();
        let mut sessions = subscribe(&gateway, matching).await;
        let response = prefer(post(&gateway, EVENT)).send().await.unwrap();
        assert_eq!(Account::of(response).await.matched, matching as u64);
        for session in &mut sessions[..matching] {
            assert_eq!(session.hear().await, event("order.paid", r#"{"id":7}"#));
            session.assert_nothing_came().await;
        }
        sessions[matching].assert_nothing_came().await;
    }
}

/// Each of many that are in flight together hears of its own event.
#[tokio::test]
async fn publishers_at_once_hear_each_of_its_own_event() {
    let gateway = House::new().set("WORKERS", 1).open();
    let _sessions = subscribe(&gateway, 3).await;
    let requests = (0..100).map(|number| {
        let event_type = if number % 2 == 0 { "order.paid" } else { "other" };
        let body = format!(r#"{{"event":"{event_type}","id":"{number}"}}"#);
        let request = post(&gateway, body);
        let request = if number % 5 == 0 { request } else { prefer(request) };
        async move { (number, request.send().await.unwrap()) }
    });
    let mut offsets = Vec::new();
    for (number, response) in join_all(requests).await {
        if number % 5 == 0 {
            assert_eq!(answer(response).await, (200, code("OK")));
            continue;
        }
        let account = Account::of(response).await;
        assert_eq!(account.id, number.to_string());
        // The second session has `>`.
        assert_eq!(account.matched, if number % 2 == 0 { 3 } else { 1 });
        offsets.push(account.offset);
    }
    offsets.sort_unstable();
    offsets.dedup();
    assert_eq!(offsets.len(), 80, "no two events have one place");
}

#[tokio::test]
async fn a_representation_may_be_one_preference_among_others() {
    let gateway = Gateway::open();
    for lines in [
        &["respond-async, return=representation"][..],
        &["Return = \"representation\"; x=1, wait=10"],
        &["x=\"a, return=minimal\"", "return=representation", "return=minimal"],
    ] {
        let mut request = post(&gateway, EVENT);
        for line in lines {
            request = request.header("prefer", *line);
        }
        Account::of(request.send().await.unwrap()).await;
    }
}

#[tokio::test]
async fn whoever_prefers_anything_else_is_answered_as_ever() {
    let gateway = Gateway::open();
    for line in
        ["return=minimal", "respond-async, wait=10", "return=minimal, return=representation"]
    {
        let response = post(&gateway, EVENT).header("prefer", line).send().await.unwrap();
        assert!(!response.headers().contains_key("preference-applied"), "{line}");
        assert_eq!(answer(response).await, (200, code("OK")), "{line}");
    }
}

#[tokio::test]
async fn a_publisher_that_prefers_more_and_hears_nothing_in_time_is_undecided() {
    let gateway = House::new().set("PUBLISH_TIMEOUT", "300ms").open();
    gateway.broadcast.signal(Signal::STOP);
    let body = r#"{"event":"a","id":"i","source":"/s"}"#;
    let response = prefer(post(&gateway, body)).send().await.unwrap();
    assert!(!response.headers().contains_key("preference-applied"));
    assert_eq!(response.headers()["retry-after"], "1");
    let expected =
        r#"{"code":"UNAVAILABLE","accepted":"unknown","id":"i","source":"/s"}"#.to_owned();
    assert_eq!(answer(response).await, (503, expected));
}

#[tokio::test]
async fn a_dry_run_delivers_nothing_and_says_how_many_it_would_reach() {
    for matching in [0, 1, 3] {
        let gateway = Gateway::open();
        let mut sessions = subscribe(&gateway, matching).await;
        let response = dry_run(&gateway, EVENT).send().await.unwrap();
        assert!(!response.headers().contains_key("preference-applied"));
        assert_eq!(answer(response).await, (200, code("OK")));
        let (id, matched) = rehearsed(prefer(dry_run(&gateway, EVENT)).send().await.unwrap()).await;
        assert_eq!((id.len(), matched), (36, matching as u64));
        let named = r#"{"event":"order.paid","id":"7","source":"/s"}"#;
        let (id, _) = rehearsed(prefer(dry_run(&gateway, named)).send().await.unwrap()).await;
        assert_eq!(id, "7");
        for session in &mut sessions {
            session.assert_nothing_came().await;
        }
        // Nor is it remembered: the event itself is the first of its name.
        assert_eq!(answer(post(&gateway, named).send().await.unwrap()).await.0, 200);
        for session in &mut sessions[..matching] {
            assert_eq!(session.hear().await, r#"{"type":"event","event":"order.paid"}"#);
        }
        assert_eq!(gateway.listen.metric("fanfare_events_accepted_total").await, 1.0);
    }
}

#[tokio::test]
async fn a_dry_run_counts_a_connection_once_that_has_joined_several_topics() {
    let gateway = Gateway::open();
    let mut clients = [open(&gateway.broadcast).await, open(&gateway.broadcast).await];
    for client in &mut clients {
        for topic in ["source:/a", "source:/b", "source:/all"] {
            join_ok(client, topic, json!({})).await;
        }
    }
    let (_, matched) = rehearsed(prefer(dry_run(&gateway, EVENT)).send().await.unwrap()).await;
    assert_eq!(matched, 2);
}

#[tokio::test]
async fn a_dry_run_is_refused_as_the_event_itself_would_be() {
    let (gateway, _, table) = faults_in_order();
    for (method, path, token, encoding, body, expected) in table {
        let request = format!(
            "{method} {path}?dry_run=true HTTP/1.1\r\nHost: test\r\nAuthorization: Basic {token}\r\n\
             Prefer: return=representation\r\nContent-Encoding: {encoding}\r\n\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let (head, body) = Wire::exchange(&gateway.listen, request).await;
        assert_eq!((status(&head), body), (expected.0, code(expected.1)));
    }
}

/// Who means a dry run and writes it in another way must not fire by accident.
#[tokio::test]
async fn a_dry_run_that_is_neither_true_nor_false_is_refused_before_the_body_comes() {
    let gateway = Gateway::open();
    let mut session = Subscriber::subscribe(&gateway.broadcast, &[">"]).await;
    for query in ["dry_run", "dry_run=", "dry_run=1", "dry_run=TRUE", "dry%5Frun=true&dry_run=true"]
    {
        for (token, expected) in [
            (TOKEN, (400, "INVALID_REQUEST")),
            ("0123456789abcdef-unknown", (403, "UNAUTHENTICATED")),
        ] {
            let mut wire = Wire::connect(&gateway.listen).await;
            wire.send(format!(
                "POST /event?a=b&{query} HTTP/1.1\r\nHost: test\r\nAuthorization: Basic {token}\r\n\
                 Content-Encoding: br\r\nContent-Length: 1000\r\n\r\n"
            ))
            .await;
            let (head, body) = wire.read_answer().await;
            assert_eq!((status(&head), body), (expected.0, code(expected.1)), "{query}");
        }
    }
    session.assert_nothing_came().await;
    for query in ["dry_run=false", "DRY_RUN=true", "dryrun=true", "a=dry_run"] {
        let response = post_query(&gateway, query, EVENT).send().await.unwrap();
        assert_eq!(answer(response).await, (200, code("OK")), "{query}");
        assert_eq!(session.hear().await, event("order.paid", r#"{"id":7}"#), "{query}");
    }
}

/// Nothing was sent that has an effect, so nothing is unknown.
#[tokio::test]
async fn a_dry_run_that_broadcast_does_not_answer_is_unavailable_and_never_unknown() {
    let house = House::new().set("WORKERS", 1).set("PUBLISH_TIMEOUT", "300ms");
    let gateway = house.open();
    let unavailable = async || {
        let begin = Instant::now();
        let response = prefer(dry_run(&gateway, EVENT)).send().await.unwrap();
        assert!(begin.elapsed() >= Duration::from_millis(300));
        assert_eq!(response.headers()["retry-after"], "1");
        assert!(!response.headers().contains_key("preference-applied"));
        assert_eq!(answer(response).await, (503, code("UNAVAILABLE")));
    };
    // It is asked and does not answer; then it is not even there to be asked.
    gateway.broadcast.signal(Signal::STOP);
    unavailable().await;
    gateway.broadcast.signal(Signal::KILL);
    gateway.listen.wait_for_log("the link is down");
    unavailable().await;
}

#[tokio::test]
async fn a_dry_run_that_comes_while_broadcast_restarts_waits_and_is_answered() {
    let house = House::new().set("WORKERS", 1).set("PUBLISH_TIMEOUT", "60s");
    let mut gateway = house.open();
    gateway.broadcast.signal(Signal::STOP);
    let asked = tokio::spawn(prefer(dry_run(&gateway, EVENT)).send());
    // It has one thread: what it answers now was asked after the dry run was read.
    for _ in 0..10 {
        reqwest::get(gateway.listen.url() + "/healthz").await.unwrap();
    }
    gateway.broadcast.signal(Signal::KILL);
    gateway.listen.wait_for_log("the link is down");
    gateway.broadcast = gateway.house.broadcast();
    assert_eq!(rehearsed(asked.await.unwrap().unwrap()).await.1, 0);
}
