//! An event as bytes: the same on the link and in the log, so that what was taken from the one is
//! kept in the other as it is read back.
//!
//! A byte with the number of fields, then each field: a byte that names it, a 4-byte big-endian
//! length, its bytes. Later versions may add fields, but never change one.

use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes};
use bytestring::ByteString;

use crate::event::{Attributes, Data, Event, EventType, Json, Time};

const REQUIRED_FIELDS: u8 = 5;
const FIELD_TYPE: u8 = 1;
const FIELD_DATA: u8 = 2;
const FIELD_ID: u8 = 3;
const FIELD_SOURCE: u8 = 4;
const FIELD_SUBJECT: u8 = 5;
const FIELD_TIME: u8 = 6;
const FIELD_PUBLISHER: u8 = 7;
const FIELD_TEXT: u8 = 8;
const FIELD_BINARY: u8 = 9;
const FIELD_CONTENT_TYPE: u8 = 10;
const FIELD_SCHEMA: u8 = 11;
/// A byte with the length of the name, the name, the JSON text of the value. May stand often.
const FIELD_EXTENSION: u8 = 12;
/// May stand often.
const FIELD_CHANNEL: u8 = 13;

/// Appends an event.
pub fn encode(event: &Event, out: &mut impl BufMut) {
    // Without the count, an event that lost its last field would still look whole.
    let optional = u8::from(event.subject.is_some()) + u8::from(event.data.is_some());
    let attributes = event.attributes.as_deref();
    out.put_u8(REQUIRED_FIELDS + optional + attributes.map_or(0, count));
    put_field(out, FIELD_TYPE, event.event_type.as_str().as_bytes());
    put_field(out, FIELD_ID, event.id.as_bytes());
    put_field(out, FIELD_SOURCE, event.source.as_bytes());
    put_field(out, FIELD_TIME, event.time.as_str().as_bytes());
    put_field(out, FIELD_PUBLISHER, event.publisher.as_bytes());
    if let Some(subject) = &event.subject {
        put_field(out, FIELD_SUBJECT, subject.as_bytes());
    }
    if let Some(data) = &event.data {
        let tag = match data {
            Data::Json(_) => FIELD_DATA,
            Data::Text(_) => FIELD_TEXT,
            Data::Binary(_) => FIELD_BINARY,
        };
        put_field(out, tag, data.as_bytes());
    }
    if let Some(attributes) = attributes {
        put_attributes(out, attributes);
    }
}

/// How many fields these are. The limits of their counts leave room for all others.
fn count(attributes: &Attributes) -> u8 {
    let Attributes { content_type, schema, extensions, channels } = attributes;
    let single = usize::from(content_type.is_some()) + usize::from(schema.is_some());
    u8::try_from(single + extensions.len() + channels.len()).unwrap_or(u8::MAX)
}

fn put_attributes(out: &mut impl BufMut, attributes: &Attributes) {
    if let Some(content_type) = &attributes.content_type {
        put_field(out, FIELD_CONTENT_TYPE, content_type.as_bytes());
    }
    if let Some(schema) = &attributes.schema {
        put_field(out, FIELD_SCHEMA, schema.as_bytes());
    }
    for (name, value) in &attributes.extensions {
        let length = u8::try_from(name.len()).unwrap_or(u8::MAX);
        put_field(
            out,
            FIELD_EXTENSION,
            &[&[length], &name.as_bytes()[..], value.as_bytes()].concat(),
        );
    }
    for channel in &attributes.channels {
        put_field(out, FIELD_CHANNEL, channel.as_str().as_bytes());
    }
}

fn put_field(out: &mut impl BufMut, tag: u8, value: &[u8]) {
    out.put_u8(tag);
    out.put_u32(u32::try_from(value.len()).unwrap_or(u32::MAX));
    out.put_slice(value);
}

/// Reads an event, which must end with the bytes. Its fields share them.
///
/// # Errors
///
/// [`Malformed`]: the bytes are damaged, or not ours.
pub fn decode(mut bytes: Bytes) -> Result<Event, Malformed> {
    let (mut event_type, mut id, mut source, mut time) = (None, None, None, None);
    let (mut subject, mut data, mut publisher) = (None, None, None);
    let mut attributes = Attributes::default();
    for _ in 0..bytes.try_get_u8()? {
        let tag = bytes.try_get_u8()?;
        let length = usize::try_from(bytes.try_get_u32()?).map_err(|_| Malformed)?;
        if length > bytes.remaining() {
            return Err(Malformed);
        }
        let value = bytes.split_to(length);
        let is_first = match tag {
            FIELD_TYPE => event_type.replace(decode_type(value)?).is_none(),
            FIELD_DATA => data.replace(Data::Json(Json::from_checked(value))).is_none(),
            FIELD_TEXT => data.replace(Data::Text(decode_text(value)?)).is_none(),
            FIELD_BINARY => data.replace(Data::Binary(value)).is_none(),
            FIELD_ID => id.replace(decode_text(value)?).is_none(),
            FIELD_SOURCE => source.replace(decode_text(value)?).is_none(),
            FIELD_SUBJECT => subject.replace(decode_text(value)?).is_none(),
            FIELD_TIME => time.replace(Time::from_checked(decode_text(value)?)).is_none(),
            FIELD_PUBLISHER => publisher.replace(decode_text(value)?).is_none(),
            _ => take_attribute(&mut attributes, tag, value)?,
        };
        if !is_first {
            return Err(Malformed);
        }
    }
    if bytes.has_remaining() {
        return Err(Malformed);
    }
    Ok(Event {
        event_type: event_type.ok_or(Malformed)?,
        data,
        id: id.ok_or(Malformed)?,
        source: source.ok_or(Malformed)?,
        subject,
        time: time.ok_or(Malformed)?,
        publisher: publisher.ok_or(Malformed)?,
        attributes: (!attributes.is_empty()).then(|| Arc::new(attributes)),
    })
}

/// Says whether the field may stand there.
fn take_attribute(attributes: &mut Attributes, tag: u8, value: Bytes) -> Result<bool, Malformed> {
    Ok(match tag {
        FIELD_CONTENT_TYPE => attributes.content_type.replace(decode_text(value)?).is_none(),
        FIELD_SCHEMA => attributes.schema.replace(decode_text(value)?).is_none(),
        FIELD_EXTENSION => {
            attributes.extensions.push(decode_extension(value)?);
            true
        }
        FIELD_CHANNEL => {
            attributes.channels.push(decode_type(value)?);
            true
        }
        _ => false,
    })
}

fn decode_extension(mut value: Bytes) -> Result<(ByteString, Json), Malformed> {
    let length = usize::from(value.try_get_u8()?);
    if length > value.len() {
        return Err(Malformed);
    }
    let name = decode_text(value.split_to(length))?;
    Ok((name, Json::from_checked(value)))
}

fn decode_text(value: Bytes) -> Result<ByteString, Malformed> {
    ByteString::try_from(value).map_err(|_| Malformed)
}

fn decode_type(value: Bytes) -> Result<EventType, Malformed> {
    EventType::parse(decode_text(value)?).map_err(|_| Malformed)
}

/// The bytes are no event: a field is missing, unknown, too long, or given twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an event is malformed")]
pub struct Malformed;

impl From<bytes::TryGetError> for Malformed {
    fn from(_: bytes::TryGetError) -> Self {
        Self
    }
}

#[cfg(test)]
mod tests;
