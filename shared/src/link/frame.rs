//! What one message on the link looks like.
//!
//! A 4-byte big-endian length `n`, then `n` bytes: a byte that names the kind, and its fields.
//! Requests and answers travel beside events, so that a later version can ask broadcast something
//! without another connection.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use bytestring::ByteString;
use tokio_util::codec::LengthDelimitedCodec;

use crate::event::{Event, EventType, Json, Time};

/// The version of everything in this file.
pub const VERSION: u16 = 1;

/// What a hello begins with, so that a stranger's bytes are not taken for one.
const MAGIC: &[u8] = b"fanfare";

/// One message.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "nearly every frame is an event")]
pub enum Frame {
    /// The first message of each side.
    Hello(Hello),
    /// An event, numbered by its sender from 1 on.
    Event(u64, Event),
    /// All events up to this number are taken, but for those that were refused.
    Receipt(u64),
    /// The event of this number is not taken, for want of room; it may come again.
    Refusal(u64),
    /// A question; the number comes back with its answer.
    Request(u64, Request),
    /// The answer to the question of this number.
    Answer(u64),
    /// No further event is taken on this connection; what has no receipt was not taken.
    Goodbye,
}

/// What each side says first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hello {
    /// The version that the side speaks.
    pub version: u16,
    /// The largest frame that it takes, in bytes.
    pub frame_bytes_max: u32,
}

/// What can be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request {
    /// Are you there?
    Ping,
}

const KIND_HELLO: u8 = 1;
const KIND_EVENT: u8 = 2;
const KIND_RECEIPT: u8 = 3;
const KIND_REFUSAL: u8 = 4;
const KIND_REQUEST: u8 = 5;
const KIND_ANSWER: u8 = 6;
const KIND_GOODBYE: u8 = 7;

const REQUEST_PING: u8 = 1;

const REQUIRED_FIELDS: u8 = 5;
const FIELD_TYPE: u8 = 1;
const FIELD_DATA: u8 = 2;
const FIELD_ID: u8 = 3;
const FIELD_SOURCE: u8 = 4;
const FIELD_SUBJECT: u8 = 5;
const FIELD_TIME: u8 = 6;
const FIELD_PUBLISHER: u8 = 7;

/// Splits a stream into frames; a longer one is an error before any of it is kept.
pub fn splitter(frame_bytes_max: usize) -> LengthDelimitedCodec {
    LengthDelimitedCodec::builder().max_frame_length(frame_bytes_max).new_codec()
}

impl Frame {
    /// Appends the frame with its length.
    pub fn encode(&self, out: &mut BytesMut) {
        match self {
            Self::Event(number, event) => encode_event(*number, event, out),
            Self::Hello(hello) => enclose(out, |out| {
                out.put_u8(KIND_HELLO);
                out.put_slice(MAGIC);
                out.put_u16(hello.version);
                out.put_u32(hello.frame_bytes_max);
            }),
            Self::Receipt(number) => enclose(out, |out| put_numbered(out, KIND_RECEIPT, *number)),
            Self::Refusal(number) => enclose(out, |out| put_numbered(out, KIND_REFUSAL, *number)),
            Self::Request(number, Request::Ping) => enclose(out, |out| {
                put_numbered(out, KIND_REQUEST, *number);
                out.put_u8(REQUEST_PING);
            }),
            Self::Answer(number) => enclose(out, |out| put_numbered(out, KIND_ANSWER, *number)),
            Self::Goodbye => enclose(out, |out| out.put_u8(KIND_GOODBYE)),
        }
    }

    /// Reads a frame from the bytes behind its length. Fields share those bytes.
    ///
    /// # Errors
    ///
    /// [`FrameError`]: the other end is damaged or not ours; the caller ends the connection.
    pub fn decode(mut bytes: Bytes) -> Result<Self, FrameError> {
        let frame = match bytes.try_get_u8()? {
            KIND_HELLO => {
                if !bytes.starts_with(MAGIC) {
                    return Err(FrameError::Malformed);
                }
                bytes.advance(MAGIC.len());
                let version = bytes.try_get_u16()?;
                // What a later version adds to its hello is not ours to judge.
                let frame_bytes_max = bytes.try_get_u32()?;
                return Ok(Self::Hello(Hello { version, frame_bytes_max }));
            }
            KIND_EVENT => {
                let number = bytes.try_get_u64()?;
                return Ok(Self::Event(number, decode_event(bytes)?));
            }
            KIND_RECEIPT => Self::Receipt(bytes.try_get_u64()?),
            KIND_REFUSAL => Self::Refusal(bytes.try_get_u64()?),
            KIND_REQUEST => {
                let number = bytes.try_get_u64()?;
                match bytes.try_get_u8()? {
                    REQUEST_PING => Self::Request(number, Request::Ping),
                    _ => return Err(FrameError::Malformed),
                }
            }
            KIND_ANSWER => Self::Answer(bytes.try_get_u64()?),
            KIND_GOODBYE => Self::Goodbye,
            _ => return Err(FrameError::Malformed),
        };
        if bytes.is_empty() { Ok(frame) } else { Err(FrameError::Malformed) }
    }
}

/// Appends an event as a frame, without the need to own it.
pub fn encode_event(number: u64, event: &Event, out: &mut BytesMut) {
    enclose(out, |out| {
        put_numbered(out, KIND_EVENT, number);
        // Without the count, an event that lost its last field would still look whole.
        let optional = u8::from(event.subject.is_some()) + u8::from(event.data.is_some());
        out.put_u8(REQUIRED_FIELDS + optional);
        put_field(out, FIELD_TYPE, event.event_type.as_str().as_bytes());
        put_field(out, FIELD_ID, event.id.as_bytes());
        put_field(out, FIELD_SOURCE, event.source.as_bytes());
        put_field(out, FIELD_TIME, event.time.as_str().as_bytes());
        put_field(out, FIELD_PUBLISHER, event.publisher.as_bytes());
        if let Some(subject) = &event.subject {
            put_field(out, FIELD_SUBJECT, subject.as_bytes());
        }
        if let Some(data) = &event.data {
            put_field(out, FIELD_DATA, data.as_bytes());
        }
    });
}

/// Appends what `put` appends, behind its length.
fn enclose(out: &mut BytesMut, put: impl FnOnce(&mut BytesMut)) {
    let start = out.len();
    out.put_u32(0);
    put(out);
    let length = u32::try_from(out.len() - start - 4).unwrap_or(u32::MAX);
    if let Some(prefix) = out.get_mut(start..start + 4) {
        prefix.copy_from_slice(&length.to_be_bytes());
    }
}

fn put_numbered(out: &mut BytesMut, kind: u8, number: u64) {
    out.put_u8(kind);
    out.put_u64(number);
}

fn put_field(out: &mut BytesMut, tag: u8, value: &[u8]) {
    out.put_u8(tag);
    out.put_u32(u32::try_from(value.len()).unwrap_or(u32::MAX));
    out.put_slice(value);
}

fn decode_event(mut bytes: Bytes) -> Result<Event, FrameError> {
    let (mut event_type, mut id, mut source, mut time) = (None, None, None, None);
    let (mut subject, mut data, mut publisher) = (None, None, None);
    for _ in 0..bytes.try_get_u8()? {
        let tag = bytes.try_get_u8()?;
        let length = usize::try_from(bytes.try_get_u32()?).map_err(|_| FrameError::Malformed)?;
        if length > bytes.remaining() {
            return Err(FrameError::Malformed);
        }
        let value = bytes.split_to(length);
        let is_first = match tag {
            FIELD_TYPE => event_type.replace(decode_type(value)?).is_none(),
            FIELD_DATA => data.replace(Json::from_checked(value)).is_none(),
            FIELD_ID => id.replace(decode_text(value)?).is_none(),
            FIELD_SOURCE => source.replace(decode_text(value)?).is_none(),
            FIELD_SUBJECT => subject.replace(decode_text(value)?).is_none(),
            FIELD_TIME => time.replace(Time::from_checked(decode_text(value)?)).is_none(),
            FIELD_PUBLISHER => publisher.replace(decode_text(value)?).is_none(),
            _ => false,
        };
        if !is_first {
            return Err(FrameError::Malformed);
        }
    }
    if bytes.has_remaining() {
        return Err(FrameError::Malformed);
    }
    Ok(Event {
        event_type: event_type.ok_or(FrameError::Malformed)?,
        data,
        id: id.ok_or(FrameError::Malformed)?,
        source: source.ok_or(FrameError::Malformed)?,
        subject,
        time: time.ok_or(FrameError::Malformed)?,
        publisher: publisher.ok_or(FrameError::Malformed)?,
    })
}

fn decode_text(value: Bytes) -> Result<ByteString, FrameError> {
    ByteString::try_from(value).map_err(|_| FrameError::Malformed)
}

fn decode_type(value: Bytes) -> Result<EventType, FrameError> {
    EventType::parse(decode_text(value)?).map_err(|_| FrameError::Malformed)
}

/// The bytes are no frame of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// A field is missing, unknown, too long, or given twice.
    #[error("a frame is malformed")]
    Malformed,
}

impl From<bytes::TryGetError> for FrameError {
    fn from(_: bytes::TryGetError) -> Self {
        Self::Malformed
    }
}

#[cfg(test)]
mod tests;
