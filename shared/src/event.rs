//! What a publisher proposes and what then happened: [`Draft`] and [`Event`].
//!
//! Built by the ways in, carried by the link, given out by `broadcast`. Neither speaks any wire:
//! each protocol has private structs in the one file that speaks it, so that a change of one wire
//! cannot silently change another.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use bytestring::ByteString;
use jiff::Timestamp;
use jiff::civil::DateTime;

pub mod encoding;

/// The media type of JSON (RFC 8259 §11).
pub const JSON: &str = "application/json";

/// WIRE §0: an event type has 1–255 bytes.
pub const TYPE_BYTES_MAX: usize = 255;

/// What a publisher proposes. The [`Publisher`](crate::publisher::Publisher) makes it an [`Event`].
#[derive(Debug, Clone)]
pub struct Draft {
    /// The type, which decides who gets the event.
    pub event_type: EventType,
    /// The data; `None` where the request had none (which is not the same as `null`).
    pub data: Option<Data>,
    /// The identity given by the publisher; one is made at the door where it is absent.
    pub id: Option<ByteString>,
    /// Where the event comes from; `/` and the name of the token where it is absent.
    pub source: Option<ByteString>,
    /// What the event is about.
    pub subject: Option<ByteString>,
    /// When it happened; the time of acceptance where it is absent.
    pub time: Option<Time>,
    /// What a native event does not have.
    pub attributes: Option<Arc<Attributes>>,
}

/// What happened: always valid, complete, and cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// The type, which decides who gets the event.
    pub event_type: EventType,
    /// The data, byte for byte as the publisher sent it.
    pub data: Option<Data>,
    /// Unique within `source`.
    pub id: ByteString,
    /// Where the event comes from.
    pub source: ByteString,
    /// What the event is about.
    pub subject: Option<ByteString>,
    /// When it happened.
    pub time: Time,
    /// Which principal published it: its name, or that and a mark for a signed token's.
    pub publisher: ByteString,
    /// What a native event does not have.
    pub attributes: Option<Arc<Attributes>>,
}

/// The attributes of a CloudEvent that a native event does not have, and where else it is to go.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Attributes {
    /// The media type of the data; `application/json` where it is absent and the data are JSON.
    pub content_type: Option<ByteString>,
    /// The URI of the data's schema.
    pub schema: Option<ByteString>,
    /// Further attributes, each with the JSON text of its value, as it was given.
    pub extensions: Vec<(ByteString, Json)>,
    /// The channels that an Eventual Agent has named (WIRE §5).
    pub channels: Vec<EventType>,
}

impl Attributes {
    /// More extensions are refused: every count has a limit.
    pub const EXTENSIONS_MAX: usize = 100;
    /// More channels are refused.
    pub const CHANNELS_MAX: usize = 100;

    /// Whether there is nothing to keep.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    fn size(&self) -> usize {
        let text = |text: &Option<ByteString>| text.as_ref().map_or(0, |it| it.len());
        let extension = |(name, value): &(ByteString, Json)| {
            size_of::<(ByteString, Json)>() + name.len() + value.as_bytes().len()
        };
        let channel = |it: &EventType| size_of::<EventType>() + it.as_str().len();
        size_of::<Self>()
            + text(&self.content_type)
            + text(&self.schema)
            + self.extensions.iter().map(extension).sum::<usize>()
            + self.channels.iter().map(channel).sum::<usize>()
    }
}

impl Event {
    /// The media type of the data, if one is known.
    pub fn content_type(&self) -> Option<&str> {
        let given = self.attributes.as_ref().and_then(|it| it.content_type.as_deref());
        given.or_else(|| matches!(self.data, Some(Data::Json(_))).then_some(JSON))
    }

    /// The channels that its publisher has named.
    pub fn channels(&self) -> &[EventType] {
        self.attributes.as_ref().map_or(&[], |it| &it.channels)
    }

    /// Roughly what the event occupies in a queue, in bytes.
    pub fn size(&self) -> usize {
        let fixed = size_of::<Self>() + self.event_type.as_str().len() + self.time.as_str().len();
        let named = self.id.len() + self.source.len() + self.publisher.len();
        let optional = self.subject.as_ref().map_or(0, |subject| subject.len());
        let attributes = self.attributes.as_ref().map_or(0, |it| it.size());
        let data = self.data.as_ref().map_or(0, |data| data.as_bytes().len());
        fixed + named + optional + attributes + data
    }
}

/// The type of an event: 1–255 bytes of UTF-8 without control characters.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EventType(ByteString);

impl EventType {
    /// Takes text that is a valid event type.
    ///
    /// # Errors
    ///
    /// [`EventTypeError`] names the fault; the caller's own code goes to the client.
    pub fn parse(text: impl Into<ByteString>) -> Result<Self, EventTypeError> {
        let text = text.into();
        if text.is_empty() {
            return Err(EventTypeError::Empty);
        }
        if text.len() > TYPE_BYTES_MAX {
            return Err(EventTypeError::TooLong);
        }
        if text.chars().any(is_forbidden) {
            return Err(EventTypeError::ControlCharacter);
        }
        Ok(Self(text))
    }

    /// The type as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for EventType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

impl fmt::Display for EventType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// C0, DEL and C1, and the two characters that end a line in JavaScript: any of them in a type
/// could break a line-based wire (SSE) or a log.
pub(crate) fn is_forbidden(character: char) -> bool {
    character.is_control() || matches!(character, '\u{2028}' | '\u{2029}')
}

/// What an event is about, in one of the three ways in which a wire can show it.
#[derive(Clone, PartialEq, Eq)]
pub enum Data {
    /// A JSON value.
    Json(Json),
    /// Text that is no JSON.
    Text(ByteString),
    /// Bytes that may be anything.
    Binary(Bytes),
}

impl Data {
    /// The bytes, as they came.
    pub fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Json(json) => json.as_bytes(),
            Self::Text(text) => text.as_bytes(),
            Self::Binary(bytes) => bytes,
        }
    }
}

impl fmt::Debug for Data {
    /// Never the data: it may be anything, and it may be secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self {
            Self::Json(_) => "Json",
            Self::Text(_) => "Text",
            Self::Binary(_) => "Binary",
        };
        write!(f, "{kind}({} bytes)", self.as_bytes().len())
    }
}

/// JSON text, checked once at the door and never parsed again.
#[derive(Clone, PartialEq, Eq)]
pub struct Json(Bytes);

impl Json {
    /// Takes bytes that the caller has found to be one JSON value, nested at most 128 deep.
    pub fn from_checked(bytes: Bytes) -> Self {
        Self(bytes)
    }

    /// The text, byte for byte as it came.
    pub fn as_bytes(&self) -> &Bytes {
        &self.0
    }
}

impl fmt::Debug for Json {
    /// Never the data: it may be anything, and it may be secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Json({} bytes)", self.0.len())
    }
}

/// A time in RFC 3339 text, as it was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Time(ByteString);

impl Time {
    /// The present, to the microsecond, in UTC.
    pub fn now() -> Self {
        Self(format!("{:.6}", Timestamp::now()).into())
    }

    /// Takes text that is an RFC 3339 date-time (§5.6).
    ///
    /// # Errors
    ///
    /// [`TimeError`] if it is not one.
    pub fn parse(text: impl Into<ByteString>) -> Result<Self, TimeError> {
        let text = text.into();
        read_rfc_3339(&text).ok_or(TimeError)?;
        Ok(Self(text))
    }

    /// The moment, as near as one can be told: the last day of the year 9999 is cut short.
    pub fn timestamp(&self) -> Timestamp {
        // It was found to be a time when it was taken.
        read_rfc_3339(&self.0).unwrap_or_default()
    }

    /// Microseconds since 1970.
    pub fn wall_us(&self) -> i64 {
        self.timestamp().as_microsecond()
    }

    /// Takes text that was parsed before it crossed the link.
    pub fn from_checked(text: ByteString) -> Self {
        Self(text)
    }

    /// The time as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// RFC 3339 §5.6: `YYYY-MM-DDTHH:MM:SS[.s…](Z|±HH:MM)`. The date library reads much more than
/// that (weeks, zone names, hours alone), so the shape is judged here and the values there. It reads
/// less of two things: a second has nine digits, and the last timestamp is in the year 9999.
fn read_rfc_3339(text: &str) -> Option<Timestamp> {
    const DIGITS_MAX: usize = 9;
    const SHAPE: &[u8] = b"dddd-dd-ddTdd:dd:dd";
    let (stem, rest) = text.split_at_checked(SHAPE.len())?;
    let fits = |(byte, &shape): (u8, &u8)| match shape {
        b'd' => byte.is_ascii_digit(),
        b'T' => matches!(byte, b'T' | b't'),
        other => byte == other,
    };
    if !stem.bytes().zip(SHAPE).all(fits) {
        return None;
    }
    let (fraction, zone) = match rest.strip_prefix('.') {
        Some(rest) => {
            let zone = rest.trim_start_matches(|it: char| it.is_ascii_digit());
            let fraction = rest.strip_suffix(zone).filter(|it| !it.is_empty())?;
            (fraction.get(..DIGITS_MAX).unwrap_or(fraction), zone)
        }
        None => ("0", rest),
    };
    if !is_zone(zone.as_bytes()) {
        return None;
    }
    let moment = format!("{stem}.{fraction}{zone}").parse();
    moment.ok().or_else(|| {
        let date: DateTime = stem.parse().ok()?;
        (date.year() == DateTime::MAX.year()).then_some(Timestamp::MAX)
    })
}

fn is_zone(zone: &[u8]) -> bool {
    match zone {
        [b'Z' | b'z'] => true,
        [b'+' | b'-', hours @ .., b':', b'0'..=b'5', b'0'..=b'9'] => {
            matches!(hours, [b'0' | b'1', b'0'..=b'9'] | [b'2', b'0'..=b'3'])
        }
        _ => false,
    }
}

/// Why text is no event type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EventTypeError {
    /// It has no characters.
    #[error("the event type is empty")]
    Empty,
    /// It has more than [`TYPE_BYTES_MAX`] bytes.
    #[error("the event type is longer than 255 bytes")]
    TooLong,
    /// It holds a control character.
    #[error("the event type holds a control character")]
    ControlCharacter,
}

/// The text is not an RFC 3339 date-time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the time is not RFC 3339")]
pub struct TimeError;

#[cfg(test)]
mod tests;
