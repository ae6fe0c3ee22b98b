//! Reads a CloudEvent from its JSON (CloudEvents 1.0.2, JSON event format).

use std::fmt;

use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use bytes::Bytes;
use bytestring::ByteString;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use crate::cloudevents::attributes::{ContentType, Faults, Reading, is_known};
use crate::event::{Data, Draft, EventType, Json};

/// Whose JSON it is: what they leave out, and what they put in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flavour {
    /// As the specification says.
    Strict,
    /// Relayman's (WIRE §3.1): `specversion` may be left out.
    Relayman,
    /// Eventual Agent's (WIRE §5): that, and a `time` that is no string is none, and objects pass.
    Agent,
}

/// An event that is none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invalid {
    /// Its identity, if that could be read.
    pub id: Option<ByteString>,
    /// What is wrong with it.
    pub faults: Faults,
}

/// Reads an event from text that was found to be shallow. Its data are copied.
///
/// # Errors
///
/// [`Invalid`] names every fault.
pub fn read(text: &str, flavour: Flavour) -> Result<Draft, Invalid> {
    read_for(text, flavour, Vec::new())
}

/// Reads an event that is also for these channels.
///
/// # Errors
///
/// [`Invalid`] names every fault.
pub fn read_for(text: &str, flavour: Flavour, channels: Vec<EventType>) -> Result<Draft, Invalid> {
    let no_event = |fault| Invalid { id: None, faults: Faults::of("body", fault) };
    let trimmed = text.trim_start_matches([' ', '\t', '\r', '\n']);
    if !trimmed.starts_with('{') {
        let any: Result<&RawValue, _> = serde_json::from_str(text);
        return Err(no_event(any.map_or("is not JSON", |_| "is not an object")));
    }
    let members: Members<'_> = serde_json::from_str(text).map_err(|_| no_event("is not JSON"))?;
    let mut reading = Reading::default();
    let (mut data, mut base64) = (None, None);
    for (name, value) in members.0 {
        let twice = match &*name {
            "data" => data.replace(value).is_some(),
            // A null is no value (JSON event format §2.2): of `data` it is the data.
            "data_base64" => value.get() != "null" && base64.replace(value).is_some(),
            _ => {
                take_member(&mut reading, &name, value, flavour);
                false
            }
        };
        if twice {
            reading.fault(&name, "is given twice");
        }
    }
    if flavour != Flavour::Strict && !reading.has("specversion") {
        reading.see("specversion");
    }
    let data = read_data(&mut reading, data, base64);
    reading.set_channels(channels);
    let id = reading.id();
    reading.finish(data).map_err(|faults| Invalid { id, faults })
}

fn take_member(reading: &mut Reading, name: &str, value: &RawValue, flavour: Flavour) {
    let text = value.get();
    if text == "null" || (flavour == Flavour::Agent && name == "time" && !text.starts_with('"')) {
        return;
    }
    if !reading.see(name) {
        return;
    }
    match text.as_bytes().first() {
        Some(b'"') => match serde_json::from_str(text) {
            Ok(text) => reading.take_text(name, text),
            Err(_) => reading.fault(name, "holds half a character"),
        },
        _ if is_known(name) => reading.fault(name, "is not a string"),
        Some(b't' | b'f') => reading.take_extension(name, keep(text)),
        Some(b'{') if flavour == Flavour::Agent => reading.take_extension(name, keep(text)),
        Some(b'{' | b'[') => {
            reading.fault(name, "is neither a string nor a boolean nor an integer");
        }
        // CloudEvents 1.0.2 §2.5: an integer has 32 bits.
        _ => match text.parse::<i32>() {
            Ok(_) => reading.take_extension(name, keep(text)),
            Err(_) => reading.fault(name, "is a number, but no integer of 32 bits"),
        },
    }
}

fn read_data(
    reading: &mut Reading,
    data: Option<&RawValue>,
    base64: Option<&RawValue>,
) -> Option<Data> {
    let content_type = reading.content_type().copied();
    match (data, base64) {
        (None, None) => None,
        (Some(_), Some(_)) => {
            reading.fault("data_base64", "excludes data");
            None
        }
        (Some(data), None) => {
            let read = read_json(data, content_type);
            if read.is_none() {
                reading.fault("data", "holds half a character");
            }
            read
        }
        (None, Some(text)) => {
            let Some(bytes) = decode(text) else {
                reading.fault("data_base64", "is not a string in base64");
                return None;
            };
            let data = ContentType::read(content_type.as_ref(), bytes);
            if data.is_none() {
                reading.fault("data_base64", "is not JSON, which datacontenttype says it is");
            }
            data
        }
    }
}

/// A string under another type than JSON means its characters, not its JSON text (§3.1).
fn read_json(data: &RawValue, content_type: Option<ContentType>) -> Option<Data> {
    let is_json = matches!(content_type, None | Some(ContentType::Json));
    if is_json || !data.get().starts_with('"') {
        return Some(Data::Json(keep(data.get())));
    }
    let text: String = serde_json::from_str(data.get()).ok()?;
    Some(match content_type {
        Some(ContentType::Text | ContentType::OtherText) => Data::Text(text.into()),
        _ => Data::Binary(text.into()),
    })
}

fn keep(text: &str) -> Json {
    Json::from_checked(Bytes::copy_from_slice(text.as_bytes()))
}

fn decode(text: &RawValue) -> Option<Bytes> {
    const LENIENT: GeneralPurposeConfig =
        GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    let text: String = serde_json::from_str(text.get()).ok()?;
    Some(GeneralPurpose::new(&STANDARD, LENIENT).decode(text).ok()?.into())
}

/// The members of an object, in order, none left out.
struct Members<'a>(Vec<(String, &'a RawValue)>);

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(MembersVisitor)
    }
}

struct MembersVisitor;

impl<'de> Visitor<'de> for MembersVisitor {
    type Value = Members<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut members = Vec::new();
        while let Some(member) = map.next_entry()? {
            members.push(member);
        }
        Ok(Members(members))
    }
}
