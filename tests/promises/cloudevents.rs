//! CloudEvents over HTTP in, and every way out (WIRE §3): what the tests of this folder share.

mod accepted;
mod attributes;
mod batch_bounds;
mod batches;
mod conformance;
mod content_types;
mod credentials;
mod data;
mod emitter;
mod event;
mod gherkin;
mod headers;
mod limits;
mod matrix;
mod ways_out;
mod webhooks;
mod yaml;

use reqwest::{RequestBuilder, Response};
use serde_json::Value;

use crate::client::Subscriber;
use crate::gateway::{Gateway, TOKEN};

/// The media type of one event.
pub const STRUCTURED: &str = "application/cloudevents+json";
/// The media type of many.
pub const BATCH: &str = "application/cloudevents-batch+json";

/// An event that is good; `more` are members, each with a comma before it.
pub fn event(id: &str, more: &str) -> String {
    format!(r#"{{"specversion":"1.0","id":"{id}","source":"/s","type":"t"{more}}}"#)
}

/// `POST /events` with the token that may do everything.
pub fn send(gateway: &Gateway, kind: &str, body: impl Into<reqwest::Body>) -> RequestBuilder {
    bare(gateway)
        .header("authorization", format!("Basic {TOKEN}"))
        .header("content-type", kind)
        .body(body)
}

/// `POST /events` with nothing but what is added.
pub fn bare(gateway: &Gateway) -> RequestBuilder {
    reqwest::Client::new().post(format!("{}/events", gateway.listen.url()))
}

/// `POST /events` in binary mode: what every event must have, but for what `headers` name.
pub fn send_binary(gateway: &Gateway, headers: &[(&str, &[u8])]) -> RequestBuilder {
    let mut request = bare(gateway).header("authorization", format!("Basic {TOKEN}"));
    let required: [(&str, &[u8]); 4] =
        [("ce-specversion", b"1.0"), ("ce-id", b"i"), ("ce-source", b"/s"), ("ce-type", b"t")];
    let is_other = |name: &str| !headers.iter().any(|(it, _)| it.eq_ignore_ascii_case(name));
    for (name, value) in required.into_iter().filter(|(name, _)| is_other(name)) {
        request = request.header(name, value);
    }
    headers.iter().fold(request, |request, (name, value)| request.header(*name, *value))
}

/// What was answered: a status, and JSON where there is a body.
pub async fn answer(request: RequestBuilder) -> (u16, Value) {
    read(request.send().await.unwrap()).await
}

/// The status of an answer, and its JSON.
pub async fn read(response: Response) -> (u16, Value) {
    let status = response.status().as_u16();
    let kind = response.headers().get("content-type").cloned();
    let body = response.text().await.unwrap();
    if body.is_empty() {
        return (status, Value::Null);
    }
    assert_eq!(kind.unwrap(), "application/json; charset=utf-8", "{body}");
    (status, serde_json::from_str(&body).unwrap_or_else(|_| panic!("not JSON: {body}")))
}

/// A refusal that says nothing but a code.
pub fn code(code: &str) -> Value {
    serde_json::json!({ "code": code })
}

/// The attributes that an answer finds fault with.
pub fn faulty(answer: &Value) -> Vec<&str> {
    assert_eq!(answer["code"], "INVALID_EVENT", "{answer}");
    let errors = answer["errors"].as_object().unwrap();
    let is_told = |faults: &Value| {
        let faults = faults.as_array().unwrap();
        !faults.is_empty() && faults.iter().all(|it| it.as_str().is_some_and(|it| !it.is_empty()))
    };
    assert!(errors.values().all(is_told), "{answer}");
    errors.keys().map(String::as_str).collect()
}

/// Reads all that was taken, from the first event on, as CloudEvents.
pub struct Reader(Subscriber);

impl Reader {
    pub async fn open(gateway: &Gateway) -> Self {
        let credential = format!("Basic {TOKEN}");
        Self(Subscriber::connect_as(&gateway.broadcast, "/events?after=first", &credential).await)
    }

    /// The next event as it was given out, and as JSON, both with the cursor taken out of the latter.
    pub async fn next_text(&mut self) -> (String, Value) {
        let text = self.0.hear().await;
        let mut event: Value = serde_json::from_str(&text).unwrap();
        event.as_object_mut().unwrap().remove("cursor").expect("a cursor goes with every event");
        (text, event)
    }

    /// The next event as JSON, without its cursor.
    pub async fn next(&mut self) -> Value {
        self.next_text().await.1
    }

    /// The next event, which must be this one: nothing that was refused stands before it.
    pub async fn expect(&mut self, id: &str) -> Value {
        let event = self.next().await;
        assert_eq!(event["id"], id, "{event}");
        event
    }
}
