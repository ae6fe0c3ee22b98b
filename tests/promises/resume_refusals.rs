//! What of WIRE 1.3 is refused with `INVALID_RESUME`, and what that leaves behind.

use serde_json::{Value, json};

use crate::client::{Subscriber, event, fire, said};
use crate::gateway::{Gateway, House, TOKEN};
use crate::replay::{Replay, init};

const NARROW: &str = "0123456789abcdef-narrow";

fn refused() -> String {
    said("init", "INVALID_RESUME")
}

/// Members that nobody can mean.
fn malformed() -> Vec<Value> {
    let mut all: Vec<Value> = Vec::new();
    for (member, values) in [
        ("after", json!(["", "-", "nonsense", "FIRST", "last", "-1", "k3f9a2-", "k3f9a2-x"])),
        ("after", json!(["k3f9a2-1 ", " k3f9a2-1", "k3f9a2--1", "k3f9a2-1-1", "k3f9a2-1.5"])),
        ("after", json!([1, 1.5, true, [], {}, ["first"]])),
        ("since", json!(["", "yesterday", "2026-11-21", "12:00:00Z", "2026-11-21T12:00:00"])),
        ("since", json!(["2026-13-21T12:00:00Z", "2026-11-31T12:00:00Z", "1795262400", "first"])),
        ("since", json!([1_795_262_400, true, [], {}])),
        ("last", json!([-1, 1.5, 10_001, 1e30, "5", "", true, [], {}])),
        ("format", json!(["", "xml", "CloudEvents!", 1, true, [], {}])),
        ("cursor", json!(["true", "", 1, 0, [], {}])),
    ] {
        let values = values.as_array().unwrap().clone();
        all.extend(values.into_iter().map(|value| json!({ member: value })));
    }
    all
}

#[tokio::test]
async fn what_is_malformed_is_an_invalid_resume_and_subscribes_nothing() {
    let gateway = Gateway::open();
    fire(&gateway, "a", "1").await;
    let mut subscriber = Subscriber::connect(&gateway.broadcast).await;
    for members in malformed() {
        let answered = subscriber.ask(&init(TOKEN, &["a"], members.clone())).await;
        assert_eq!(answered, refused(), "{members}");
    }
    fire(&gateway, "a", "2").await;
    subscriber.assert_nothing_came().await;
    // The connection is as open as after any refusal.
    let answered = subscriber.ask(&init(TOKEN, &["a"], json!({"last": 1}))).await;
    assert_eq!(answered, said("init", "OK"));
    assert_eq!(subscriber.hear().await, event("a", "2"));
}

#[tokio::test]
async fn one_malformed_member_is_enough() {
    let gateway = Gateway::open();
    let mut subscriber = Subscriber::connect(&gateway.broadcast).await;
    for members in [
        json!({"after": "first", "cursor": "yes"}),
        json!({"last": 5, "format": "xml"}),
        json!({"cursor": true, "last": 10_001}),
        json!({"cursor": true, "since": "now"}),
    ] {
        let answered = subscriber.ask(&init(TOKEN, &["a"], members.clone())).await;
        assert_eq!(answered, refused(), "{members}");
    }
}

#[tokio::test]
async fn after_since_and_last_exclude_each_other() {
    let gateway = Gateway::open();
    let cursor = Replay::begin(&gateway.broadcast, &["a"], json!({"cursor": true})).await.cursor();
    let mut subscriber = Subscriber::connect(&gateway.broadcast).await;
    let since = "2026-11-21T12:00:00Z";
    for members in [
        json!({"after": "first", "since": since}),
        json!({"after": cursor, "last": 5}),
        json!({"since": since, "last": 0}),
        json!({"after": cursor, "since": since, "last": 5}),
    ] {
        let answered = subscriber.ask(&init(TOKEN, &["a"], members.clone())).await;
        assert_eq!(answered, refused(), "{members}");
    }
}

#[tokio::test]
async fn the_largest_last_and_every_way_to_write_a_time_are_taken() {
    let gateway = Gateway::open();
    for members in [
        json!({"last": 10_000}),
        json!({"last": 0}),
        json!({"since": "2026-11-21T12:00:00Z"}),
        json!({"since": "2026-11-21T12:00:00.123456789+14:00"}),
        json!({"since": "2026-11-21t12:00:00z"}),
        json!({"cursor": true, "last": 1, "format": "cloudevents"}),
        json!({"after": "first", "format": "cloudevents"}),
        json!({"unknown": 1, "After": "nonsense"}),
    ] {
        Replay::begin(&gateway.broadcast, &["a"], members).await;
    }
}

#[tokio::test]
async fn in_a_later_init_every_such_member_is_refused_and_changes_nothing() {
    let gateway = Gateway::open();
    fire(&gateway, "b", "1").await;
    let mut subscriber = Subscriber::subscribe(&gateway.broadcast, &["a"]).await;
    for members in [
        json!({"cursor": true}),
        json!({"after": "first"}),
        json!({"since": "2026-11-21T12:00:00Z"}),
        json!({"last": 1}),
        json!({"format": "cloudevents"}),
        json!({"last": "nonsense"}),
    ] {
        let answered = subscriber.ask(&init(TOKEN, &["a", "b"], members.clone())).await;
        assert_eq!(answered, refused(), "{members}");
    }
    fire(&gateway, "b", "2").await;
    fire(&gateway, "a", "3").await;
    assert_eq!(subscriber.hear().await, event("a", "3"));
    subscriber.assert_nothing_came().await;
}

#[tokio::test]
async fn an_init_that_was_refused_and_an_auth_are_no_first_init() {
    let gateway = Gateway::open();
    fire(&gateway, "a", "1").await;
    let mut subscriber = Subscriber::connect(&gateway.broadcast).await;
    let auth = format!(r#"{{"type":"auth","authentication":"Basic {TOKEN}"}}"#);
    assert_eq!(subscriber.ask(&auth).await, said("auth", "OK"));
    let refused = subscriber.ask(r#"{"events":[""],"last":1}"#).await;
    assert_eq!(refused, said("init", "INVALID_EVENTS"));
    assert_eq!(subscriber.ask(r#"{"events":["a"],"last":1}"#).await, said("init", "OK"));
    assert_eq!(subscriber.hear().await, event("a", "1"));
}

#[tokio::test]
async fn an_invalid_resume_is_the_last_of_the_checks() {
    let tokens = format!("{TOKEN} name=all\n{NARROW} name=narrow subscribe=a\n");
    let gateway = House::new().with_tokens(&tokens).open();
    let mut subscriber = Subscriber::connect(&gateway.broadcast).await;
    let wrong = json!({"last": -1});
    let long = "x".repeat(256);
    for (message, code) in [
        (r#"{"last":-1}"#.to_owned(), "INVALID_EVENTS_MISSING"),
        (init("0123456789abcdef-wrong", &["a"], wrong.clone()), "UNAUTHENTICATED"),
        (init(NARROW, &[&long], wrong.clone()), "INVALID_EVENTS"),
        (init(NARROW, &["b"], wrong.clone()), "FORBIDDEN"),
        (init(NARROW, &["a"], wrong), "INVALID_RESUME"),
    ] {
        assert_eq!(subscriber.ask(&message).await, said("init", code), "{message}");
    }
}
