//! An event as CloudEvents JSON (WIRE §3.3; CloudEvents 1.0.2, JSON event format §3).

use shared::cloudevents::{CURSOR, begin};
use shared::event::{JSON, Time};
use shared::json::{push_member, push_name};

use crate::archive::{Opening, Recovery};
use crate::cursor::Epoch;
use crate::publication::Placed;

/// WIRE §3.2: the type of an event that tells of a gap.
pub const GAP: &str = "gateway.gap";

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
    let cursor = (extension == Extension::Cursor).then(|| placed.cursor().to_string());
    shared::cloudevents::encode(placed.event, cursor.as_deref(), out);
}

/// An event of our own that tells of a gap: what follows begins behind `place`.
pub fn gap(epoch: &Epoch, place: u64, earliest: u64) -> String {
    let (place, earliest) = (epoch.at(place).to_string(), epoch.at(earliest).to_string());
    let mut out = Vec::new();
    begin(&format!("gap-{place}"), "/gateway", GAP, &mut out);
    push_member("time", Time::now().as_str(), &mut out);
    push_member(CURSOR, &place, &mut out);
    push_member("datacontenttype", JSON, &mut out);
    push_name("data", &mut out);
    push_gap(&earliest, &mut out);
    out.push(b'}');
    // All of it is text.
    String::from_utf8(out).unwrap_or_default()
}

/// Appends, behind other members, whether a stream has all that was asked for.
pub fn push_recovery(opening: &Opening, epoch: &Epoch, out: &mut Vec<u8>) {
    match opening.recovered {
        Some(Recovery::Whole) => out.extend_from_slice(br#","recovered":true"#),
        Some(Recovery::Broken { earliest }) => {
            out.extend_from_slice(br#","recovered":false"#);
            push_member("earliest", &epoch.at(earliest).to_string(), out);
        }
        None => {}
    }
}

/// Appends what there is to say of a gap.
pub fn push_gap(earliest: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(br#"{"recovered":false"#);
    push_member("earliest", earliest, out);
    out.push(b'}');
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
