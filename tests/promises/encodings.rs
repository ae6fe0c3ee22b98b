//! An event is written as bytes once for each format that somebody wants, not once for each
//! client: what many share is the price of the first.

use serde_json::Value;

use crate::client::{Subscriber, answer, fire, post};
use crate::event_stream::EventStream;
use crate::gateway::{Gateway, House, TOKEN};
use crate::measures::{ask_admin, until};

const EVENTS: u64 = 20;

/// How often events were written in a format.
async fn encoded(gateway: &Gateway, format: &str) -> u64 {
    let (_, text) = ask_admin(&gateway.broadcast, "/metrics").await;
    let name = format!(r#"fanfare_events_encoded_total{{format="{format}"}} "#);
    let value = text.lines().find_map(|line| line.strip_prefix(&name));
    value.expect("every format is there").parse().unwrap()
}

/// To how many sessions an event would be queued live.
async fn live(gateway: &Gateway) -> u64 {
    let mut request = post(gateway, r#"{"event":"a"}"#).build().unwrap();
    request.url_mut().set_query(Some("dry_run=true"));
    request.headers_mut().insert("prefer", "return=representation".parse().unwrap());
    let response = reqwest::Client::new().execute(request).await.unwrap();
    let (status, body) = answer(response).await;
    assert_eq!(status, 200, "{body}");
    let body: Value = serde_json::from_str(&body).unwrap();
    body["matched"].as_u64().unwrap()
}

async fn sessions(gateway: &Gateway, count: usize, wish: &str) -> Vec<Subscriber> {
    let mut sessions = Vec::new();
    for _ in 0..count {
        let mut session = Subscriber::connect(&gateway.broadcast).await;
        let init = format!(r#"{{"authentication":"Basic {TOKEN}","events":["a"]{wish}}}"#);
        let answer = session.ask(&init).await;
        assert!(answer.contains(r#""code":"OK""#), "{answer}");
        sessions.push(session);
    }
    sessions
}

#[tokio::test]
async fn an_event_is_written_once_for_each_format_however_many_clients_have_it() {
    let gateway = House::new().set("WORKERS", 2).open();
    let mut plain = sessions(&gateway, 100, "").await;
    plain.extend(sessions(&gateway, 10, r#","cursor":true"#).await);
    plain.extend(sessions(&gateway, 10, r#","cursor":true,"format":"cloudevents""#).await);
    let mut streams = Vec::new();
    for _ in 0..5 {
        streams.push(EventStream::open(&gateway.broadcast, "type=a").await);
        streams.push(EventStream::open(&gateway.broadcast, "type=a&format=cloudevents").await);
    }
    until("all live", async || (live(&gateway).await == 130).then_some(())).await;
    for number in 0..EVENTS {
        fire(&gateway, "a", &number.to_string()).await;
    }
    for session in &mut plain {
        for _ in 0..EVENTS {
            session.hear().await;
        }
    }
    for stream in &mut streams {
        for _ in 0..EVENTS {
            stream.event().await;
        }
    }
    for (format, expected) in [
        ("native", EVENTS),
        ("native-cursor", EVENTS),
        ("cloudevents", 0),
        ("cloudevents-cursor", EVENTS),
        ("sse", EVENTS),
        ("sse-cloudevents", EVENTS),
    ] {
        assert_eq!(encoded(&gateway, format).await, expected, "{format}");
    }
}
