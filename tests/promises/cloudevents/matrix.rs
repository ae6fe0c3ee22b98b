//! One event, every protocol: each way in, with each kind of data, read by each way out.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::client::{Subscriber, post};
use crate::cloudevents::answer;
use crate::cloudevents::event::{Event, Mode, Payload};
use crate::cloudevents::ways_out::{Begin, Output, Way};
use crate::gateway::{Gateway, TOKEN};

/// A way in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Door {
    /// `POST /event`.
    Native,
    /// `POST /events`.
    Events(Mode),
    /// `publish` of an Eventual Agent.
    Agent,
}

const DOORS: [Door; 6] = [
    Door::Native,
    Door::Events(Mode::Structured),
    Door::Events(Mode::Binary),
    Door::Events(Mode::Batch),
    Door::Events(Mode::Plain),
    Door::Agent,
];

/// The kinds of data, and what they are called.
fn kinds() -> [(&'static str, Option<&'static str>, Payload); 4] {
    let json = r#"{"n":1.50,"big":12345678901234567890,"s":"\u00fc","twice":1,"twice":[ ]}"#;
    let text = "first line\n\n  \"third\" line: ü 😀";
    let bytes = vec![0, 10, 13, 34, 127, 128, 254, 255];
    [
        ("json", Some("application/json"), Payload::Json(json.to_owned())),
        ("text", Some("text/plain; charset=utf-8"), Payload::Text(text.to_owned())),
        ("binary", Some("application/octet-stream"), Payload::Binary(bytes)),
        ("absent", None, Payload::Absent),
    ]
}

/// The event that goes through a door; none where the door cannot take it.
fn event(door: Door, name: &str, content_type: Option<&str>, data: Payload) -> Option<Event> {
    let mut attributes: BTreeMap<String, Value> = [
        ("specversion", json!("1.0")),
        ("id", json!(format!("{door:?} {name}"))),
        ("source", json!("/matrix")),
        ("type", json!("matrix.event")),
        ("subject", json!("a \"subject\" 😀")),
        ("time", json!("2026-11-21T12:00:00.5+01:00")),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into();
    if door == Door::Native {
        // It has no other data than JSON, and no other attributes.
        let is_possible = matches!(data, Payload::Json(_) | Payload::Absent);
        return is_possible.then_some(Event { attributes, data });
    }
    let more = [
        ("dataschema", json!("https://x.test/schema.json")),
        ("word", json!("ä % \"b\"")),
        ("number", json!(-42)),
        ("yes", json!(true)),
    ];
    attributes.extend(more.map(|(name, value)| (name.to_owned(), value)));
    if let Some(content_type) = content_type {
        attributes.insert("datacontenttype".to_owned(), content_type.into());
    }
    Some(Event { attributes, data })
}

/// Puts an event through its door.
async fn put(gateway: &Gateway, agent: &mut Subscriber, door: Door, event: &Event) {
    let mut event = event.clone();
    match door {
        Door::Native => {
            event.attributes.remove("specversion");
            let event_type = event.attributes.remove("type").unwrap();
            event.attributes.insert("event".to_owned(), event_type);
            assert_eq!(answer(post(gateway, event.to_json())).await.0, 200);
        }
        Door::Events(mode) => {
            let (status, said) = answer(event.request(gateway, mode, TOKEN)).await;
            let expected = if mode == Mode::Batch { 200 } else { 201 };
            assert_eq!(status, expected, "{event:?}: {said}");
        }
        Door::Agent => {
            event.attributes.remove("specversion");
            if matches!(event.data, Payload::Json(_)) {
                event.attributes.remove("datacontenttype");
            }
            // Its subscribers of a channel have tests of their own: here it goes by its type.
            let event = event.to_json();
            agent
                .say(&format!(r#"{{"type":"publish","channel":"elsewhere","event":{event}}}"#))
                .await;
        }
    }
}

/// How an event came in, as far as it matters for what comes out.
fn mode_of(door: Door) -> Mode {
    match door {
        Door::Events(mode) => mode,
        Door::Native | Door::Agent => Mode::Structured,
    }
}

async fn open_all(gateway: &Gateway, begin: Begin) -> Vec<Output> {
    let mut outputs = Vec::new();
    for way in Way::ALL {
        outputs.push(Output::open(&gateway.broadcast, way, begin).await);
    }
    outputs
}

async fn read_by_all(outputs: &mut [Output], door: Door, event: &Event) -> usize {
    for output in outputs.iter_mut() {
        let expected = output.way.expected(event, mode_of(door));
        let way = output.way;
        assert_eq!(
            output.next().await,
            expected,
            "{door:?} to {way:?}: {}",
            event.attributes["id"]
        );
    }
    outputs.len()
}

#[tokio::test]
async fn an_event_is_the_same_by_every_way_in_and_every_way_out_live_and_kept() {
    let gateway = Gateway::open();
    let credential = format!("Basic {TOKEN}");
    let mut agent = Subscriber::connect_as(&gateway.broadcast, "/", &credential).await;
    let mut outputs = open_all(&gateway, Begin::Live).await;
    let mut fired = Vec::new();
    let mut walked = 0;
    for door in DOORS {
        for (name, content_type, data) in kinds() {
            let Some(event) = event(door, name, content_type, data) else { continue };
            put(&gateway, &mut agent, door, &event).await;
            walked += read_by_all(&mut outputs, door, &event).await;
            fired.push((door, event));
        }
    }
    drop(outputs);
    let mut outputs = open_all(&gateway, Begin::Kept).await;
    for (door, event) in &fired {
        walked += read_by_all(&mut outputs, *door, event).await;
    }
    // Six ways in, four kinds of data, but for two that the native one has not; twelve ways out.
    assert_eq!(walked, (6 * 4 - 2) * 12 * 2);
}
