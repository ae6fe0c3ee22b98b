//! Phoenix channels (WIRE 4): what a client may cost us, and what it gets all the same.

use std::time::Instant;

use serde_json::{Value, json};
use tokio::time::{Duration, timeout};

use crate::channels::{ALL, assert_quiet, hear, join, join_ok, open, open_as, rest, shake_hands};
use crate::client::{fire, post};
use crate::cloudevents::{BATCH, send};
use crate::gateway::{Gateway, House, PATIENCE, TOKEN};
use crate::replay::numbers;

const NOBODY: &str = "0123456789abcdef-nobody";
/// HARDENING: how long a refusal waits of an address that guesses.
const PENALTY: Duration = Duration::from_secs(1);

fn messages(response: &Value) -> Vec<Value> {
    response["messages"].as_array().unwrap().clone()
}

/// Publishes under a source.
async fn publish(gateway: &Gateway, source: &str, data: Value) {
    let body = json!({"event": "a", "source": source, "data": data}).to_string();
    assert_eq!(post(gateway, body).send().await.unwrap().status(), 200);
}

#[tokio::test]
async fn a_wrong_token_is_a_failure_of_its_address_once_however_often_it_joins() {
    let house = House::new();
    let broadcast = house.broadcast();
    let failures = async {
        for _ in 0..20 {
            let mut client = open_as(&broadcast, NOBODY).await;
            for _ in 0..5 {
                let (status, response) = join(&mut client, ALL, json!({})).await;
                assert_eq!(
                    (status.as_str(), &response["reason"]),
                    ("error", &json!("unauthenticated"))
                );
            }
        }
    };
    // If each join counted, eighty of them would wait for a second each.
    timeout(PATIENCE, failures).await.expect("its joins wait");
    let begun = Instant::now();
    open_as(&broadcast, NOBODY).await;
    assert!(begun.elapsed() >= PENALTY, "the upgrade is not counted: {:?}", begun.elapsed());
    // So are wrong ones in the subprotocol; and who shows none has guessed nothing.
    let begun = Instant::now();
    let wrong = [("sec-websocket-protocol", "phoenix, base64url.bearer.phx.bm9ib2R5")];
    assert!(shake_hands(&broadcast, "?vsn=2.0.0", &wrong).await.is_ok());
    assert!(begun.elapsed() >= PENALTY, "{:?}", begun.elapsed());
    let mut right = open(&broadcast).await;
    join_ok(&mut right, ALL, json!({})).await;
}

#[tokio::test]
async fn references_that_are_too_long_end_the_connection_and_such_topics_are_unmatched() {
    let gateway = Gateway::open();
    let long = |count: usize| "x".repeat(count);
    let v2 = |join: usize, reference: usize, topic: usize| {
        let topic = format!("source:{}", long(topic));
        json!([long(join), long(reference), topic, "phx_join", {}]).to_string()
    };
    let v1 = |reference: usize, topic: usize| {
        let topic = format!("source:{}", long(topic));
        let (event, reference) = ("phx_join", long(reference));
        json!({"topic": topic, "event": event, "payload": {}, "ref": reference}).to_string()
    };
    let beat = json!([null, long(2000), "phoenix", "heartbeat", {}]).to_string();
    let (ok, unmatched) = (Some(r#""status":"ok""#), Some(r#"{"reason":"unmatched topic"}"#));
    for (query, message, answered) in [
        ("2.0.0", v2(1000, 1000, 4000), ok),
        ("2.0.0", v2(1025, 1, 1), None),
        ("2.0.0", v2(1, 1025, 1), None),
        ("2.0.0", v2(1, 1, 4096), unmatched),
        ("2.0.0", v2(40_000, 1, 1), None),
        ("2.0.0", beat, None),
        ("1.0.0", v1(1000, 4000), ok),
        ("1.0.0", v1(1025, 1), None),
        ("1.0.0", v1(1, 4096), unmatched),
    ] {
        let query = format!("?token={TOKEN}&vsn={query}");
        let (mut client, _) = shake_hands(&gateway.broadcast, &query, &[]).await.ok().unwrap();
        if let Some(expected) = answered {
            let answer = client.ask(&message).await;
            assert!(answer.contains(expected), "{answer}");
        } else {
            client.say(&message).await;
            assert_eq!(client.closed().await, (1011, "unreadable message".to_owned()));
        }
    }
}

/// One of them reads the log at a time; nobody is forgotten, and nobody's order is another's.
#[tokio::test]
async fn topics_that_catch_up_at_once_get_everything_each_in_its_order() {
    const TOPICS: u64 = 5;
    const EACH: u64 = 160;
    let gateway = House::new().set("OUTBOX_BYTES", "256KiB").open();
    let padding = "x".repeat(8_000);
    let numbered = |number: u64| json!({"n": number, "padding": padding});
    for number in 0..TOPICS * EACH {
        publish(&gateway, &format!("/{}", number % TOPICS), numbered(number)).await;
    }
    let mut client = open(&gateway.broadcast).await;
    for topic in 0..TOPICS {
        let payload = json!({"cursor": "first"});
        let topic = format!("source:/{topic}");
        client.say(&json!(["j", topic, topic, "phx_join", payload]).to_string()).await;
    }
    // Live ones come while it reads.
    let live = TOPICS * EACH..TOPICS * (EACH + 10);
    let publishing = async {
        for number in live.clone() {
            publish(&gateway, &format!("/{}", number % TOPICS), numbered(number)).await;
        }
    };
    let hearing = async {
        let mut heard: Vec<Vec<Value>> = vec![Vec::new(); TOPICS as usize];
        while heard.iter().map(Vec::len).sum::<usize>() < live.end as usize {
            let message: Value = serde_json::from_str(&client.hear().await).unwrap();
            let topic = message[2].as_str().unwrap().strip_prefix("source:/").unwrap();
            let topic = &mut heard[topic.parse::<usize>().unwrap()];
            if message[3] == "phx_reply" {
                assert!(topic.is_empty(), "an event has overtaken the answer to its join");
                topic.extend(messages(&message[4]["response"]));
                assert_eq!(topic.len(), 100);
            } else {
                topic.push(message[4].clone());
            }
        }
        heard
    };
    let ((), heard) = tokio::join!(publishing, hearing);
    for (topic, heard) in (0..TOPICS).zip(heard) {
        let due: Vec<u64> = (0..live.end).filter(|number| number % TOPICS == topic).collect();
        assert_eq!(numbers(&heard), due);
    }
    assert_quiet(&mut client).await;
}

/// What lies between them is more than is read for a page: its type is wanted and so is its source,
/// but no event has both, so no index helps.
#[tokio::test]
async fn a_join_is_answered_with_all_that_is_kept_however_far_apart_it_lies() {
    const READER: &str = "0123456789abcdef-reader";
    let lines = format!("{TOKEN} name=all\n{READER} name=reader subscribe=a\n");
    let gateway = House::new().set("LOG_CACHE_BYTES", 65_536).with_tokens(&lines).open();
    let padding = "x".repeat(28_000);
    let between = |number: u64| {
        let (kind, source) = if number.is_multiple_of(2) { ("a", "/near") } else { ("b", "/far") };
        json!({"specversion": "1.0", "id": number.to_string(), "source": source, "type": kind,
            "data": padding})
    };
    publish(&gateway, "/far", json!(0)).await;
    for batch in 0..45 {
        let events: Vec<Value> = (0..32).map(|number| between(batch * 32 + number)).collect();
        let request = send(&gateway, BATCH, json!(events).to_string());
        assert_eq!(request.send().await.unwrap().status(), 200);
    }
    publish(&gateway, "/far", json!(1)).await;
    let mut expected = vec![0, 1];
    for payload in [json!({}), json!({"cursor": "first"})] {
        let mut client = open_as(&gateway.broadcast, READER).await;
        let response = join_ok(&mut client, "source:/far", payload).await;
        assert_eq!(numbers(&messages(&response)), expected, "of {}", response["cursor"]);
        publish(&gateway, "/far", json!(9)).await;
        assert_eq!(hear(&mut client).await.2["data"], 9);
        expected.push(9);
    }
}

/// The official client calls the replies to itself `chan_reply_` and a reference.
#[tokio::test]
async fn types_that_a_client_would_take_for_a_reply_are_not_delivered_here() {
    let gateway = Gateway::open();
    let mut client = open(&gateway.broadcast).await;
    join_ok(&mut client, ALL, json!({})).await;
    for event_type in
        ["chan_reply_1", "chan_reply_", "chan_reply", "Chan_reply_1", "a.chan_reply_1"]
    {
        fire(&gateway, event_type, "1").await;
    }
    let names = |events: &[Value]| {
        let names = events.iter().map(|event| event["type"].as_str().unwrap().to_owned());
        names.filter(|name| name != "fence").collect::<Vec<_>>()
    };
    let due = ["chan_reply", "Chan_reply_1", "a.chan_reply_1"];
    assert_eq!(names(&rest(&gateway, &mut client).await), due);
    for payload in [json!({}), json!({"cursor": "first"})] {
        let mut client = open(&gateway.broadcast).await;
        assert_eq!(names(&messages(&join_ok(&mut client, ALL, payload).await)), due);
    }
}
