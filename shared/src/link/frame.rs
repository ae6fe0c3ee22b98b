//! What one message on the link looks like.
//!
//! A 4-byte big-endian length `n`, then `n` bytes: a byte that names the kind, and its fields.
//! Requests and answers travel beside events, so that a later version can ask broadcast something
//! without another connection.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use bytestring::ByteString;
use tokio_util::codec::LengthDelimitedCodec;

use crate::event::encoding::{self, Malformed};
use crate::event::{Event, EventType};

/// The version of everything in this file.
pub const VERSION: u16 = 3;

/// What a hello begins with, so that a stranger's bytes are not taken for one.
const MAGIC: &[u8] = b"fanfare";

/// One message.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "nearly all are events")]
pub enum Frame {
    /// The first message of each side.
    Hello(Hello),
    /// An event, numbered by its sender from 1 on, and what its publisher asks for.
    Event(u64, Terms, Event),
    /// All events up to this number are taken, but for those that were refused.
    Receipt(u64),
    /// The event of this number is not taken, for want of room; it may come again.
    Refusal(u64),
    /// What became of the event of this number, whose publisher wants to know. Comes when every
    /// worker has had the event: mostly after its receipt.
    Account(u64, Account),
    /// A question; the number comes back with its answer.
    Request(u64, Request),
    /// The answer to the question of this number: a count, 0 where none was asked for.
    Answer(u64, u32),
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

/// What the publisher of an event asks for beside its delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Terms {
    /// The publisher gave `id` and `source`: if the log has the event already, it is a retry.
    pub may_be_retry: bool,
    /// The publisher waits for an [`Account`].
    pub wants_account: bool,
}

impl Terms {
    const MAY_BE_RETRY: u8 = 1;
    const WANTS_ACCOUNT: u8 = 2;

    fn to_bits(self) -> u8 {
        u8::from(self.may_be_retry) * Self::MAY_BE_RETRY
            + u8::from(self.wants_account) * Self::WANTS_ACCOUNT
    }

    fn from_bits(bits: u8) -> Result<Self, FrameError> {
        if bits & !(Self::MAY_BE_RETRY | Self::WANTS_ACCOUNT) != 0 {
            return Err(FrameError::Malformed);
        }
        let has = |bit| bits & bit != 0;
        Ok(Self { may_be_retry: has(Self::MAY_BE_RETRY), wants_account: has(Self::WANTS_ACCOUNT) })
    }
}

/// What became of an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// Its place in the log.
    pub cursor: ByteString,
    /// The sessions that it was queued to.
    pub matched: u32,
}

/// What can be asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// Are you there?
    Ping,
    /// How many sessions would an event of this type be queued to?
    Count(EventType),
}

const KIND_HELLO: u8 = 1;
const KIND_EVENT: u8 = 2;
const KIND_RECEIPT: u8 = 3;
const KIND_REFUSAL: u8 = 4;
const KIND_REQUEST: u8 = 5;
const KIND_ANSWER: u8 = 6;
const KIND_GOODBYE: u8 = 7;
const KIND_ACCOUNT: u8 = 8;

const REQUEST_PING: u8 = 1;
const REQUEST_COUNT: u8 = 2;

/// Splits a stream into frames; a longer one is an error before any of it is kept.
pub fn splitter(frame_bytes_max: usize) -> LengthDelimitedCodec {
    LengthDelimitedCodec::builder().max_frame_length(frame_bytes_max).new_codec()
}

impl Frame {
    /// Appends the frame with its length.
    pub fn encode(&self, out: &mut BytesMut) {
        match self {
            Self::Event(number, terms, event) => encode_event(*number, *terms, event, out),
            Self::Hello(hello) => enclose(out, |out| {
                out.put_u8(KIND_HELLO);
                out.put_slice(MAGIC);
                out.put_u16(hello.version);
                out.put_u32(hello.frame_bytes_max);
            }),
            Self::Receipt(number) => enclose(out, |out| put_numbered(out, KIND_RECEIPT, *number)),
            Self::Refusal(number) => enclose(out, |out| put_numbered(out, KIND_REFUSAL, *number)),
            Self::Account(number, account) => enclose(out, |out| {
                put_numbered(out, KIND_ACCOUNT, *number);
                out.put_u32(account.matched);
                out.put_slice(account.cursor.as_bytes());
            }),
            Self::Request(number, request) => enclose(out, |out| {
                put_numbered(out, KIND_REQUEST, *number);
                match request {
                    Request::Ping => out.put_u8(REQUEST_PING),
                    Request::Count(event_type) => {
                        out.put_u8(REQUEST_COUNT);
                        out.put_slice(event_type.as_str().as_bytes());
                    }
                }
            }),
            Self::Answer(number, count) => enclose(out, |out| {
                put_numbered(out, KIND_ANSWER, *number);
                out.put_u32(*count);
            }),
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
                let terms = Terms::from_bits(bytes.try_get_u8()?)?;
                return Ok(Self::Event(number, terms, encoding::decode(bytes)?));
            }
            KIND_RECEIPT => Self::Receipt(bytes.try_get_u64()?),
            KIND_REFUSAL => Self::Refusal(bytes.try_get_u64()?),
            KIND_REQUEST => {
                let number = bytes.try_get_u64()?;
                match bytes.try_get_u8()? {
                    REQUEST_PING => Self::Request(number, Request::Ping),
                    REQUEST_COUNT => {
                        let text = std::mem::take(&mut bytes);
                        let text = ByteString::try_from(text).map_err(|_| FrameError::Malformed)?;
                        let event_type = EventType::parse(text);
                        let event_type = event_type.map_err(|_| FrameError::Malformed)?;
                        Self::Request(number, Request::Count(event_type))
                    }
                    _ => return Err(FrameError::Malformed),
                }
            }
            KIND_ANSWER => Self::Answer(bytes.try_get_u64()?, bytes.try_get_u32()?),
            KIND_ACCOUNT => {
                let number = bytes.try_get_u64()?;
                let matched = bytes.try_get_u32()?;
                let cursor = std::mem::take(&mut bytes);
                let cursor = ByteString::try_from(cursor).map_err(|_| FrameError::Malformed)?;
                return Ok(Self::Account(number, Account { cursor, matched }));
            }
            KIND_GOODBYE => Self::Goodbye,
            _ => return Err(FrameError::Malformed),
        };
        if bytes.is_empty() { Ok(frame) } else { Err(FrameError::Malformed) }
    }
}

/// Appends an event as a frame, without the need to own it.
pub fn encode_event(number: u64, terms: Terms, event: &Event, out: &mut BytesMut) {
    enclose(out, |out| {
        put_numbered(out, KIND_EVENT, number);
        out.put_u8(terms.to_bits());
        encoding::encode(event, out);
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

/// The bytes are no frame of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// A field is missing, unknown, too long, or given twice.
    #[error("a frame is malformed")]
    Malformed,
}

impl From<Malformed> for FrameError {
    fn from(_: Malformed) -> Self {
        Self::Malformed
    }
}

impl From<bytes::TryGetError> for FrameError {
    fn from(_: bytes::TryGetError) -> Self {
        Self::Malformed
    }
}

#[cfg(test)]
mod tests;
