//! A session that asks for kept events, and all that it is sent up to a moment.

use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::{Value, json};

use crate::client::{Subscriber, code, fire};
use crate::gateway::{Gateway, Process, TOKEN};

/// What a session gets that began with members of WIRE 1.3.
pub struct Replay {
    pub subscriber: Subscriber,
    /// The answer to its init, as it was written.
    pub text: String,
    pub answer: Value,
    fence: String,
}

impl Replay {
    /// Subscribes with these members beside `authentication` and `events`; it must be let in.
    pub async fn begin(broadcast: &Process, events: &[&str], members: Value) -> Self {
        Self::begin_as(broadcast, TOKEN, events, members).await
    }

    /// The same with a token, which needs a grant for `fence.>`.
    pub async fn begin_as(
        broadcast: &Process,
        token: &str,
        events: &[&str],
        members: Value,
    ) -> Self {
        static FENCES: AtomicU64 = AtomicU64::new(0);
        // A type of its own, so that no earlier event fits the subscription but for `events`.
        let fence = format!("fence.{}", FENCES.fetch_add(1, Ordering::SeqCst));
        let events = [events, &[&fence]].concat();
        let mut subscriber = Subscriber::connect(broadcast).await;
        let text = subscriber.ask(&init(token, &events, members)).await;
        let answer: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(answer["code"], "OK", "{text}");
        Self { subscriber, text, answer, fence }
    }

    /// The cursor that its answer names.
    pub fn cursor(&self) -> String {
        self.answer["cursor"].as_str().expect("an answer with a cursor").to_owned()
    }

    /// The next event, as it was written.
    pub async fn hear(&mut self) -> String {
        self.subscriber.hear().await
    }

    /// The next event.
    pub async fn hear_event(&mut self) -> Value {
        serde_json::from_str(&self.hear().await).unwrap()
    }

    /// All events that there are up to now.
    pub async fn rest(&mut self, gateway: &Gateway) -> Vec<Value> {
        let texts = self.rest_as_written(gateway).await;
        texts.iter().map(|text| serde_json::from_str(text).unwrap()).collect()
    }

    /// All events that there are up to now, as they were written.
    pub async fn rest_as_written(&mut self, gateway: &Gateway) -> Vec<String> {
        fire(gateway, &self.fence, "null").await;
        let mut texts = Vec::new();
        loop {
            let text = self.hear().await;
            // In either format the type stands in quotes.
            if text.contains(&format!("\"{}\"", self.fence)) {
                return texts;
            }
            texts.push(text);
        }
    }
}

/// An init message with further members.
pub fn init(token: &str, events: &[&str], members: Value) -> String {
    let mut message = json!({"authentication": format!("Basic {token}"), "events": events});
    let members = members.as_object().expect("members").clone();
    message.as_object_mut().unwrap().extend(members);
    message.to_string()
}

/// The numbers of events that `fire_numbers` or `fire_padded` fired.
pub fn numbers(events: &[Value]) -> Vec<u64> {
    let number = |data: &Value| data.as_u64().or(data["n"].as_u64()).expect("a number");
    events.iter().map(|event| number(&event["data"])).collect()
}

/// Fires events whose data are these numbers, one after the other.
pub async fn fire_numbers(gateway: &Gateway, event_type: &str, range: std::ops::Range<u64>) {
    fire_all(gateway, event_type, range, |number| number.to_string()).await;
}

/// The same, each with so many bytes beside its number.
pub async fn fire_padded(
    gateway: &Gateway,
    event_type: &str,
    range: std::ops::Range<u64>,
    bytes: usize,
) {
    let padding = "x".repeat(bytes);
    let data = |number| format!(r#"{{"n":{number},"padding":"{padding}"}}"#);
    fire_all(gateway, event_type, range, data).await;
}

async fn fire_all(
    gateway: &Gateway,
    event_type: &str,
    range: std::ops::Range<u64>,
    data: impl Fn(u64) -> String,
) {
    let client = reqwest::Client::new();
    for number in range {
        let request = client
            .post(gateway.event_url())
            .header("authorization", format!("Basic {TOKEN}"))
            .body(format!(r#"{{"event":"{event_type}","data":{}}}"#, data(number)));
        let response = request.send().await.unwrap();
        assert_eq!((response.status().as_u16(), response.text().await.unwrap()), (200, code("OK")));
    }
}

/// All that is kept of these types, from the first.
pub async fn all_kept(gateway: &Gateway, events: &[&str]) -> Vec<Value> {
    let mut replay = Replay::begin(&gateway.broadcast, events, json!({"after": "first"})).await;
    assert_eq!(replay.answer["recovered"], true, "{}", replay.text);
    replay.rest(gateway).await
}

/// The cursor of an event.
pub fn cursor_of(event: &Value) -> String {
    event["cursor"].as_str().expect("an event with a cursor").to_owned()
}
