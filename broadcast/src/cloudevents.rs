//! An event as CloudEvents JSON (WIRE §3.3; CloudEvents 1.0.2, JSON event format §3).

use shared::event::Time;

use crate::cursor::Epoch;
use crate::publication::Placed;

/// WIRE §3.2: the type of an event that tells of a gap.
pub const GAP: &str = "gateway.gap";

/// What the data of a native event are.
const JSON: &str = "application/json";

/// Whether the place goes with the event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extension {
    /// As the extension `cursor`.
    Cursor,
    /// It does not.
    None,
}

/// Appends an event as a JSON object; `data` are the publisher's own bytes.
pub fn encode(placed: &Placed<'_>, extension: Extension, out: &mut Vec<u8>) {
    let event = placed.event;
    out.extend_from_slice(br#"{"specversion":"1.0""#);
    push_member("id", &event.id, out);
    push_member("source", &event.source, out);
    push_member("type", event.event_type.as_str(), out);
    if let Some(subject) = &event.subject {
        push_member("subject", subject, out);
    }
    push_member("time", event.time.as_str(), out);
    if extension == Extension::Cursor {
        push_member("cursor", &placed.cursor().to_string(), out);
    }
    if let Some(data) = &event.data {
        push_member("datacontenttype", JSON, out);
        out.extend_from_slice(br#","data":"#);
        out.extend_from_slice(data.as_bytes());
    }
    out.push(b'}');
}

/// Appends an event of our own that tells of a gap: what follows begins behind `place`.
pub fn encode_gap(epoch: &Epoch, place: u64, earliest: u64, out: &mut Vec<u8>) {
    let (place, earliest) = (epoch.at(place).to_string(), epoch.at(earliest).to_string());
    out.extend_from_slice(br#"{"specversion":"1.0""#);
    push_member("id", &format!("gap-{place}"), out);
    push_member("source", "/gateway", out);
    push_member("type", GAP, out);
    push_member("time", Time::now().as_str(), out);
    push_member("cursor", &place, out);
    push_member("datacontenttype", JSON, out);
    out.extend_from_slice(br#","data":"#);
    push_gap(&earliest, out);
    out.push(b'}');
}

/// Appends what there is to say of a gap.
pub fn push_gap(earliest: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(br#"{"recovered":false"#);
    push_member("earliest", earliest, out);
    out.push(b'}');
}

/// Appends a comma, a name that needs no escapes, and a string.
pub fn push_member(name: &str, value: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(b",\"");
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"\":");
    push_string(value, out);
}

/// Appends a JSON string.
pub fn push_string(value: &str, out: &mut Vec<u8>) {
    // Writing into memory does not fail, and a string has no key that is none.
    let _ = serde_json::to_writer(&mut *out, value);
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use shared::event::{Event, Time};

    use super::*;
    use crate::log::page::tests::event;

    fn encoded(event: &Event, extension: Extension) -> Value {
        let mut out = Vec::new();
        let epoch = "k3f9a2".parse().unwrap();
        encode(&Placed { epoch: &epoch, offset: 7, event }, extension, &mut out);
        serde_json::from_slice(&out).unwrap()
    }

    #[test]
    fn all_attributes_are_there() {
        let time = Time::parse("2026-11-21T12:00:00Z").unwrap();
        let event = Event { subject: Some("\"s\"".into()), time, ..event("a.b", "{\"x\":1.00}") };
        let expected = json!({
            "specversion": "1.0", "id": "{\"x\":1.00}", "source": "/tests", "type": "a.b",
            "subject": "\"s\"", "time": "2026-11-21T12:00:00Z", "cursor": "k3f9a2-7",
            "datacontenttype": "application/json", "data": { "x": 1.0 }
        });
        assert_eq!(encoded(&event, Extension::Cursor), expected);
    }

    #[test]
    fn what_is_absent_is_not_there() {
        let event = Event { data: None, ..event("a", "1") };
        let encoded = encoded(&event, Extension::None);
        for absent in ["data", "datacontenttype", "subject", "cursor"] {
            assert!(encoded.get(absent).is_none(), "{absent}");
        }
    }
}
