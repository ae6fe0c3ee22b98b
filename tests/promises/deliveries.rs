//! What a session hears (WIRE §1.2): the very bytes, of what it asked for, and nothing less.

use crate::client::{Subscriber, answer, code, event, fire, post};
use crate::gateway::Gateway;

#[tokio::test]
async fn data_is_delivered_byte_for_byte() {
    let gateway = Gateway::open();
    let mut subscriber = Subscriber::subscribe(&gateway.broadcast, &["a"]).await;
    let large = format!(r#""{}""#, "x".repeat(100_000));
    for data in [
        "null",
        "true",
        "7",
        "7.00",
        "-0",
        "1E400",
        "1e-7",
        "123456789012345678901234567890.10",
        r#""""#,
        r#""\u00e9\/\ud83d\ude00\n""#,
        r#""\ud800""#,
        "\"é 😀 \u{2028} \u{7f}\"",
        r#"{"id": 7.00, "id":8}"#,
        "{ \"b\" :\t1,\r\n \"a\" : [ 1 , 2 ] }",
        r#"{"type":"event","data":{"event":"x"}}"#,
        "[]",
        &large,
    ] {
        fire(&gateway, "a", data).await;
        assert_eq!(subscriber.hear().await, event("a", data));
    }
}

#[tokio::test]
async fn absent_data_is_absent_and_null_is_null() {
    let gateway = Gateway::open();
    let mut subscriber = Subscriber::subscribe(&gateway.broadcast, &["a"]).await;
    for (body, expected) in [
        (r#"{"event":"a"}"#, r#"{"type":"event","event":"a"}"#),
        (r#"{"event":"a","data":null}"#, r#"{"type":"event","event":"a","data":null}"#),
        (r#"{ "data" : 1 , "event":"a" }"#, r#"{"type":"event","event":"a","data":1}"#),
        (r#"{"event":"a","id":"1","source":"/s"}"#, r#"{"type":"event","event":"a"}"#),
    ] {
        assert_eq!(answer(post(&gateway, body).send().await.unwrap()).await.1, code("OK"));
        assert_eq!(subscriber.hear().await, expected, "{body}");
    }
}

/// `JSON.stringify` is what the original used: only what must be is escaped.
#[tokio::test]
async fn the_type_is_delivered_as_a_json_string() {
    let gateway = Gateway::open();
    let mut subscriber = Subscriber::subscribe(&gateway.broadcast, &[">"]).await;
    for (sent, delivered) in [
        ("order\\u002epaid", "order.paid"),
        ("a\\\"b\\\\c", "a\\\"b\\\\c"),
        ("\\u00fc\\ud83d\\ude00\\/", "ü😀/"),
        (" ", " "),
    ] {
        fire(&gateway, sent, "1").await;
        assert_eq!(subscriber.hear().await, event(delivered, "1"));
    }
}

#[tokio::test]
async fn a_pattern_means_whole_tokens_and_always_itself() {
    let gateway = Gateway::open();
    let types = [
        "order",
        "order.paid",
        "order.paid.twice",
        "order.",
        "order.*",
        "order.>",
        "orders.paid",
        "Order.paid",
        "*",
        ">",
        ">.a",
        "order.x*",
    ];
    for (pattern, expected) in [
        ("order", vec!["order"]),
        ("order.paid", vec!["order.paid"]),
        ("order.*", vec!["order.paid", "order.", "order.*", "order.>", "order.x*"]),
        (
            "order.>",
            vec!["order.paid", "order.paid.twice", "order.", "order.*", "order.>", "order.x*"],
        ),
        ("*", vec!["order", "*", ">"]),
        ("*.paid", vec!["order.paid", "orders.paid", "Order.paid"]),
        ("*.*.twice", vec!["order.paid.twice"]),
        (">", types.to_vec()),
        // A wildcard only as a whole token, and `>` only as the last.
        ("order.x*", vec!["order.x*"]),
        (">.a", vec![">.a"]),
    ] {
        let mut subscriber = Subscriber::subscribe(&gateway.broadcast, &[pattern]).await;
        for event_type in types {
            fire(&gateway, event_type, "1").await;
        }
        for event_type in expected {
            assert_eq!(subscriber.hear().await, event(event_type, "1"), "{pattern}");
        }
        subscriber.assert_nothing_came().await;
    }
}

/// An event accepted after the client read `OK` reaches it.
#[tokio::test]
async fn after_ok_nothing_is_missed() {
    let gateway = Gateway::open();
    for round in 0..200 {
        let mut subscriber = Subscriber::subscribe(&gateway.broadcast, &["a"]).await;
        let data = round.to_string();
        fire(&gateway, "a", &data).await;
        assert_eq!(subscriber.hear().await, event("a", &data));
    }
}

/// Whoever comes later does not see what was before.
#[tokio::test]
async fn a_session_begins_live() {
    let gateway = Gateway::open();
    fire(&gateway, "a", "1").await;
    let mut subscriber = Subscriber::subscribe(&gateway.broadcast, &["a"]).await;
    fire(&gateway, "a", "2").await;
    assert_eq!(subscriber.hear().await, event("a", "2"));
}
