//! The attributes of a CloudEvent and their rules (CloudEvents 1.0.2 §3), whatever wire they came by.
//!
//! Nothing ends at the first fault: who sends an event hears of all of them at once.

use std::collections::{BTreeMap, BTreeSet};
use std::str::FromStr as _;
use std::sync::Arc;

use bytes::Bytes;
use bytestring::ByteString;
use fluent_uri::{Uri, UriRef};
use mime::Mime;

use crate::cloudevents::SPECVERSION;
use crate::event::{Attributes, Data, Draft, EventType, EventTypeError, Json, Time};
use crate::json;

/// More faults of one event are not told.
const FAULTS_MAX: usize = 100;
/// An extension with a longer name is refused.
const NAME_BYTES_MAX: usize = 255;
/// So much is told of a name that is too long.
const NAME_SHOWN_CHARS: usize = 64;

/// What is wrong with an event, by attribute.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Faults {
    by_attribute: BTreeMap<String, Vec<&'static str>>,
    count: usize,
}

impl Faults {
    /// One fault.
    pub fn of(name: &str, fault: &'static str) -> Self {
        let mut faults = Self::default();
        faults.add(name, fault);
        faults
    }

    /// Takes another one.
    pub fn add(&mut self, name: &str, fault: &'static str) {
        if self.count < FAULTS_MAX {
            self.count += 1;
            let name = name.chars().take(NAME_SHOWN_CHARS).collect();
            self.by_attribute.entry(name).or_default().push(fault);
        }
    }

    /// As a JSON object: a list of sentences by attribute.
    pub fn to_json(&self) -> String {
        serde_json::json!(self.by_attribute).to_string()
    }
}

/// An event that is being read.
#[derive(Debug, Default)]
pub struct Reading {
    seen: BTreeSet<String>,
    faults: Faults,
    id: Option<ByteString>,
    source: Option<ByteString>,
    event_type: Option<EventType>,
    subject: Option<ByteString>,
    time: Option<Time>,
    attributes: Attributes,
    content_type: Option<ContentType>,
}

impl Reading {
    /// Takes note of a name. Says whether it stands there for the first time, and can be one.
    pub fn see(&mut self, name: &str) -> bool {
        let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        if name == "data" {
            self.faults.add(name, "is no attribute");
        } else if name.is_empty() || !name.bytes().all(is_plain) {
            self.faults.add(name, "is no attribute name: lower-case letters and digits only");
        } else if name.len() > NAME_BYTES_MAX {
            self.faults.add(name, "has a name of more than 255 characters");
        } else if !self.seen.insert(name.to_owned()) {
            self.faults.add(name, "is given twice");
        } else {
            return true;
        }
        false
    }

    /// Whether an attribute was there.
    pub fn has(&self, name: &str) -> bool {
        self.seen.contains(name)
    }

    /// Takes a fault.
    pub fn fault(&mut self, name: &str, fault: &'static str) {
        self.faults.add(name, fault);
    }

    /// Takes an attribute whose value is text. The name was [seen](Self::see).
    pub fn take_text(&mut self, name: &str, value: String) {
        // An extension of the public conformance events ends with a line feed. There it does no harm.
        let text = match value.strip_suffix('\n') {
            Some(line) if !is_known(name) && !line.is_empty() => line,
            _ => &value,
        };
        if text.chars().any(is_forbidden) {
            return self.fault(name, "holds a control character, or one that is none");
        }
        // Extensions may be empty.
        if value.is_empty() && is_known(name) {
            return self.fault(name, "is empty");
        }
        match name {
            "specversion" if value == SPECVERSION => {}
            "specversion" => self.fault(name, "is not supported: 1.0 is"),
            "id" => self.id = Some(value.into()),
            "source" if UriRef::parse(value.as_str()).is_err() => {
                self.fault(name, "is not a URI reference (RFC 3986)");
            }
            "source" => self.source = Some(value.into()),
            "type" => match EventType::parse(value) {
                Ok(event_type) => self.event_type = Some(event_type),
                Err(EventTypeError::TooLong) => self.fault(name, "is longer than 255 bytes"),
                Err(_) => self.fault(name, "holds a control character, or one that is none"),
            },
            "subject" => self.subject = Some(value.into()),
            "time" => match Time::parse(value) {
                Ok(time) => self.time = Some(time),
                Err(_) => self.fault(name, "is not RFC 3339"),
            },
            "datacontenttype" => match ContentType::parse(&value) {
                Some(content_type) => {
                    self.content_type = Some(content_type);
                    self.attributes.content_type = Some(value.into());
                }
                None => self.fault(name, "is not a media type (RFC 2046)"),
            },
            "dataschema" if Uri::parse(value.as_str()).is_err() => {
                self.fault(name, "is not a URI (RFC 3986)");
            }
            "dataschema" => self.attributes.schema = Some(value.into()),
            _ => {
                let quoted = serde_json::Value::from(value).to_string();
                self.take_extension(name, Json::from_checked(quoted.into()));
            }
        }
    }

    /// Takes an extension with the JSON text of its value. The name was [seen](Self::see).
    pub fn take_extension(&mut self, name: &str, value: Json) {
        if self.attributes.extensions.len() == Attributes::EXTENSIONS_MAX {
            return self.fault(name, "is one extension too many: 100 are taken");
        }
        self.attributes.extensions.push((name.into(), value));
    }

    /// The channels that the publisher names.
    pub fn set_channels(&mut self, channels: Vec<EventType>) {
        self.attributes.channels = channels;
    }

    /// What the data are, as far as it was said.
    pub fn content_type(&self) -> Option<&ContentType> {
        self.content_type.as_ref()
    }

    /// The identity that it has given, be the rest good or not.
    pub fn id(&self) -> Option<ByteString> {
        self.id.clone()
    }

    /// Ends with the event, or with all that is wrong with it.
    ///
    /// # Errors
    ///
    /// [`Faults`], by attribute.
    pub fn finish(self, data: Option<Data>) -> Result<Draft, Faults> {
        self.finish_with(&["specversion", "id", "source", "type"], data)
    }

    /// The same, where only these attributes have to be there: what else an event needs is given to it.
    ///
    /// # Errors
    ///
    /// [`Faults`], by attribute.
    pub fn finish_with(mut self, needed: &[&str], data: Option<Data>) -> Result<Draft, Faults> {
        for name in needed {
            if !self.has(name) {
                self.fault(name, "is missing");
            }
        }
        let Self { faults, id, source, event_type, subject, time, attributes, .. } = self;
        match event_type {
            Some(event_type) if faults == Faults::default() => Ok(Draft {
                event_type,
                data,
                id,
                source,
                subject,
                time,
                attributes: (!attributes.is_empty()).then(|| Arc::new(attributes)),
            }),
            _ => Err(faults),
        }
    }
}

/// Whether it is an attribute of the specification itself, and no extension. All are strings.
pub fn is_known(name: &str) -> bool {
    matches!(
        name,
        "specversion"
            | "id"
            | "source"
            | "type"
            | "subject"
            | "time"
            | "datacontenttype"
            | "dataschema"
    )
}

/// CloudEvents 1.0.2 §2.5: what a string must not hold. Surrogates are no characters of ours.
fn is_forbidden(character: char) -> bool {
    let code = u32::from(character);
    character.is_control() || code & 0xFFFE == 0xFFFE || (0xFDD0..=0xFDEF).contains(&code)
}

/// What a media type says of the data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ContentType {
    /// JSON, by its subtype or its suffix, in its only character set.
    Json,
    /// `text/*`, in UTF-8.
    Text,
    /// `text/*`, in another character set.
    OtherText,
    /// Anything else.
    Other,
}

impl ContentType {
    /// Reads a media type; `None` if it is none.
    pub fn parse(text: &str) -> Option<Self> {
        let mime = parse_media_type(text)?;
        // A range is for asking, not for saying; and the library lets a name be empty.
        let is_name = |name: mime::Name<'_>| name != mime::STAR && !name.as_str().is_empty();
        if !is_name(mime.type_()) || !is_name(mime.subtype()) {
            return None;
        }
        let is_json = mime.subtype() == mime::JSON || mime.suffix() == Some(mime::JSON);
        let is_utf_8 = is_utf_8(&mime);
        Some(match mime.type_() {
            _ if is_json && is_utf_8 => Self::Json,
            mime::TEXT if is_utf_8 => Self::Text,
            mime::TEXT => Self::OtherText,
            _ => Self::Other,
        })
    }

    /// What bytes of this type are, where they say so; `None` for JSON that is none.
    pub fn read(content_type: Option<&Self>, bytes: Bytes) -> Option<Data> {
        match content_type {
            Some(Self::Json) => {
                json::check(&bytes).ok()?;
                let value = bytes.trim_ascii();
                Some(Data::Json(Json::from_checked(bytes.slice_ref(value))))
            }
            Some(Self::Text) => Some(match ByteString::try_from(bytes.clone()) {
                Ok(text) => Data::Text(text),
                Err(_) => Data::Binary(bytes),
            }),
            Some(Self::OtherText | Self::Other) | None => Some(Data::Binary(bytes)),
        }
    }
}

/// Reads a media type. RFC 9110 §5.6.6 allows blanks around each semicolon, and nothing behind it;
/// the library allows neither.
pub fn parse_media_type(text: &str) -> Option<Mime> {
    let mut tight = String::with_capacity(text.len());
    let (mut is_quoted, mut is_escaped) = (false, false);
    for character in text.trim_matches(BLANKS).chars() {
        let is_blank = BLANKS.contains(&character);
        if !is_quoted && character == ';' {
            tight.truncate(tight.trim_end_matches(BLANKS).trim_end_matches(';').len());
        }
        if is_quoted || !is_blank || !tight.ends_with(';') {
            tight.push(character);
        }
        is_quoted ^= character == '"' && !is_escaped;
        is_escaped = is_quoted && character == '\\' && !is_escaped;
    }
    Mime::from_str(tight.trim_end_matches(';')).ok()
}

/// RFC 9110 §5.6.3: optional blanks.
const BLANKS: [char; 2] = [' ', '\t'];

/// Whether text of this type is in UTF-8, as it is where nothing else is said.
pub fn is_utf_8(mime: &Mime) -> bool {
    mime.get_param(mime::CHARSET).is_none_or(|it| it == mime::UTF_8 || it == "us-ascii")
}
