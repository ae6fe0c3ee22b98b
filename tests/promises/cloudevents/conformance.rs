//! The public conformance data (`tests/cloudevents`), played: every example of the feature, and every
//! event, in every mode in which it can be sent.

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};

use crate::cloudevents::event::{Event, Mode, Payload};
use crate::cloudevents::gherkin::{self, Example, Step};
use crate::cloudevents::{Reader, answer, yaml};
use crate::gateway::{Gateway, House, TOKEN};
use crate::wire::Wire;

fn file(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("cloudevents").join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The same event is here sent more than once, and a retry is known by its sender: so each sending has
/// a sender of its own.
fn sender(number: usize) -> String {
    format!("conformance-sender-{number:04}")
}

fn gateway() -> Gateway {
    let lines = (0..100).map(|number| format!("{}\n", sender(number)));
    House::new().with_tokens(&format!("{TOKEN}\n{}", lines.collect::<String>())).open()
}

/// The data of an event that came out: JSON in one way of writing it, so that it can be compared.
fn data_of(event: &mut Map<String, Value>) -> Option<Vec<u8>> {
    let is_json = event.get("datacontenttype").is_none_or(|it| it.to_string().contains("json"));
    match (event.remove("data"), event.remove("data_base64")) {
        (None, None) => None,
        (None, Some(base64)) => {
            Some(canonical(&STANDARD.decode(base64.as_str().unwrap()).unwrap()))
        }
        (Some(Value::String(text)), None) if !is_json => Some(text.into_bytes()),
        (Some(json), None) => Some(json.to_string().into_bytes()),
        (Some(_), Some(_)) => panic!("both data and data_base64"),
    }
}

fn canonical(bytes: &[u8]) -> Vec<u8> {
    let json: Result<Value, _> = serde_json::from_slice(bytes);
    json.map_or_else(|_| bytes.to_vec(), |it| it.to_string().into_bytes())
}

/// Sends an event in every mode, and compares what comes out. Says how many times it was sent.
async fn play(gateway: &Gateway, reader: &mut Reader, event: &Event, first: usize) -> usize {
    let expected = match &event.data {
        Payload::Absent => None,
        Payload::Json(text) | Payload::Text(text) => Some(canonical(text.as_bytes())),
        Payload::Binary(bytes) => Some(bytes.clone()),
    };
    for (number, mode) in (first..).zip(Mode::ALL) {
        let request = event.request(gateway, mode, &sender(number));
        let (status, answer) = answer(request).await;
        assert!([200, 201].contains(&status), "{mode:?} {event:?}: {status} {answer}");
        let mut out = reader.next().await.as_object().unwrap().clone();
        assert_eq!(data_of(&mut out), expected, "{mode:?} {event:?}");
        if !event.attributes.contains_key("time") {
            out.remove("time").expect("the time of acceptance");
        }
        assert_eq!(out, event.attributes_out(mode), "{mode:?}");
    }
    Mode::ALL.len()
}

fn step<'a>(example: &'a Example, start: &str) -> &'a Step {
    let step = example.steps.iter().find(|it| it.text.starts_with(start));
    step.unwrap_or_else(|| panic!("{} has no step {start:?}", example.name))
}

/// What an example says that the event is.
fn event_of(example: &Example) -> Event {
    let rows = step(example, "the attributes are").table.iter();
    let attributes =
        rows.filter(|row| row[0] != "key").map(|row| (row[0].clone(), row[1].clone().into()));
    let data = step(example, "the data is equal to the following JSON").doc_string.clone();
    Event { attributes: attributes.collect(), data: Payload::Json(data) }
}

/// The request of an example to our path and with a credential; all else as it stands there.
fn request_of(example: &Example, token: &str) -> String {
    let text = &step(example, "an HTTP request").doc_string;
    let (head, body) = text.split_once("\n\n").unwrap();
    let lines = head.lines().skip(1).filter(|it| !it.starts_with("Content-Length:"));
    let head = lines.map(|line| format!("{line}\r\n")).collect::<String>();
    let length = body.len();
    format!(
        "POST /events HTTP/1.1\r\n{head}Authorization: Basic {token}\r\n\
         Content-Length: {length}\r\n\r\n{body}"
    )
}

#[tokio::test]
async fn every_example_of_the_conformance_feature_is_understood_in_every_mode() {
    let gateway = gateway();
    let mut reader = Reader::open(&gateway).await;
    let examples = gherkin::examples(&file("http-protocol-binding.feature"));
    assert_eq!(examples.len(), 4);
    let mut sent = 0;
    for example in &examples {
        let event = event_of(example);
        let (head, body) =
            Wire::exchange(&gateway.listen, request_of(example, &sender(sent))).await;
        assert!(head.starts_with("HTTP/1.1 201 "), "{}: {head}{body}", example.name);
        let mut out = reader.next().await.as_object().unwrap().clone();
        let Payload::Json(data) = &event.data else { unreachable!() };
        assert_eq!(data_of(&mut out), Some(canonical(data.as_bytes())), "{}", example.name);
        assert_eq!(out, event.attributes_out(Mode::Structured), "{}", example.name);
        sent += 1;
        sent += play(&gateway, &mut reader, &event, sent).await;
    }
}

/// Every event of a file.
fn events_of(name: &str) -> Vec<Event> {
    let read = |document: yaml::Document| {
        let attribute = |(path, value): (&String, &String)| {
            let name = path.strip_prefix("ContextAttributes.")?;
            let name = name.strip_prefix("Extensions.").unwrap_or(name);
            Some((name.to_owned(), Value::from(value.as_str())))
        };
        let attributes = document.iter().filter_map(attribute).collect();
        let mut event = Event { attributes, data: Payload::Absent };
        let Some(data) = document.get("Data").cloned() else { return event };
        event.data = match event.content_type().is_none_or(|it| it.contains("json")) {
            true => Payload::Json(data),
            false => Payload::Text(data),
        };
        event
    };
    yaml::documents(&file(name)).into_iter().map(read).collect()
}

#[tokio::test]
async fn every_conformance_event_comes_out_as_it_went_in_in_every_mode() {
    let gateway = gateway();
    let mut reader = Reader::open(&gateway).await;
    let files = [("v1.yaml", 2), ("v1.0/v1_minimum.yaml", 6)];
    let mut sent = 0;
    for (name, count) in files {
        let events = events_of(name);
        assert_eq!(events.len(), count, "{name}");
        for event in &events {
            assert!(event.attributes.len() >= 4 && event.data != Payload::Absent, "{event:?}");
            sent += play(&gateway, &mut reader, event, sent).await;
        }
    }
    assert_eq!(sent, 32);
}
