//! An event in a message of RabbitMQ: the AMQP protocol binding of CloudEvents 1.0.2, and what the
//! message's own properties say where it names no attribute.

use bytes::Bytes;
use jiff::Timestamp;
use lapin::BasicProperties;
use lapin::types::AMQPValue;
use shared::cloudevents::attributes::{
    ContentType, Faults, Reading, is_known, is_utf_8, parse_media_type,
};
use shared::cloudevents::reader::{self, Flavour};
use shared::event::{Data, Draft, Json};
use shared::json;

/// What the header of an attribute begins with (AMQP protocol binding §3.1.3.1).
const PREFIXES: [&str; 2] = ["cloudEvents:", "cloudEvents_"];
/// Encodings of a body that leave it as it is; some clients name its character set there.
const PLAIN_ENCODINGS: [&str; 4] = ["", "identity", "binary", "utf-8"];

/// Reads an event; the body is its data, or the whole event.
///
/// # Errors
///
/// [`Faults`] names every one.
pub(super) fn read(
    properties: &BasicProperties,
    routing_key: &str,
    body: &Bytes,
) -> Result<Draft, Faults> {
    let encoding = properties.content_encoding().as_ref().map_or("", |it| it.as_str());
    if !PLAIN_ENCODINGS.iter().any(|plain| plain.eq_ignore_ascii_case(encoding)) {
        return Err(Faults::of("content-encoding", "is none that we unpack"));
    }
    let content_type = properties.content_type().as_ref().map_or("", |it| it.as_str()).trim();
    match Mode::of(content_type) {
        Some(Mode::Structured) => read_structured(body),
        Some(Mode::Binary) => read_binary(properties, content_type, routing_key, body),
        None => Err(Faults::of("content-type", "is no format of events that we read")),
    }
}

/// How an event is in its message.
enum Mode {
    Binary,
    Structured,
}

impl Mode {
    fn of(content_type: &str) -> Option<Self> {
        let lower = content_type.to_ascii_lowercase();
        if !lower.starts_with("application/cloudevents") {
            return Some(Self::Binary);
        }
        let mime = parse_media_type(&lower).filter(is_utf_8)?;
        let is_json = ["application/cloudevents+json", "application/cloudevents"];
        is_json.contains(&mime.essence_str()).then_some(Self::Structured)
    }
}

fn read_structured(body: &Bytes) -> Result<Draft, Faults> {
    let text = std::str::from_utf8(body).map_err(|_| Faults::of("body", "is not UTF-8"))?;
    if !json::is_shallow(body) {
        return Err(Faults::of("body", "is nested deeper than 128"));
    }
    reader::read(text, Flavour::Strict).map_err(|invalid| invalid.faults)
}

fn read_binary(
    properties: &BasicProperties,
    content_type: &str,
    routing_key: &str,
    body: &Bytes,
) -> Result<Draft, Faults> {
    let mut reading = Reading::default();
    for (name, value) in properties.headers().iter().flat_map(|table| table.inner()) {
        let name = name.as_str();
        let Some(name) = PREFIXES.iter().find_map(|prefix| name.strip_prefix(prefix)) else {
            continue;
        };
        if name == "datacontenttype" {
            reading.fault(name, "is the property content-type here");
        } else if reading.see(name) {
            take(&mut reading, name, value);
        }
    }
    let own_type = properties.kind().as_ref().map(|kind| kind.as_str());
    let own_type = own_type.filter(|it| !it.is_empty()).unwrap_or(routing_key);
    let id = properties.message_id().as_ref().map(|id| id.as_str().to_owned());
    let time = properties.timestamp().map(rfc_3339);
    take_default(&mut reading, "type", own_type);
    if let Some(id) = id.filter(|id| !id.is_empty()) {
        take_default(&mut reading, "id", &id);
    }
    if let Some(Ok(time)) = time {
        take_default(&mut reading, "time", &time);
    }
    let data = read_data(&mut reading, content_type, body);
    reading.finish_with(&["type"], data)
}

/// What the message says of itself, where no header does.
fn take_default(reading: &mut Reading, name: &str, value: &str) {
    if !reading.has(name) && reading.see(name) {
        reading.take_text(name, value.to_owned());
    }
}

fn take(reading: &mut Reading, name: &str, value: &AMQPValue) {
    let integer = match value {
        AMQPValue::LongString(text) => return take_bytes(reading, name, text.as_bytes()),
        AMQPValue::ShortString(text) => return take_bytes(reading, name, text.as_str().as_bytes()),
        AMQPValue::Timestamp(seconds) => match rfc_3339(*seconds) {
            Ok(time) => return reading.take_text(name, time),
            Err(fault) => return reading.fault(name, fault),
        },
        AMQPValue::Boolean(value) if !is_known(name) => {
            let text = if *value { "true" } else { "false" };
            return reading.take_extension(name, Json::from_checked(text.into()));
        }
        AMQPValue::ShortShortInt(value) => i64::from(*value),
        AMQPValue::ShortShortUInt(value) => i64::from(*value),
        AMQPValue::ShortInt(value) => i64::from(*value),
        AMQPValue::ShortUInt(value) => i64::from(*value),
        AMQPValue::LongInt(value) => i64::from(*value),
        AMQPValue::LongUInt(value) => i64::from(*value),
        AMQPValue::LongLongInt(value) => *value,
        _ => return reading.fault(name, "has a value that no attribute can have"),
    };
    // CloudEvents 1.0.2 §2.5: an integer has 32 bits, and the attributes of its own are no integers.
    if is_known(name) || i32::try_from(integer).is_err() {
        return reading.fault(name, "is a number, but no integer of 32 bits");
    }
    reading.take_extension(name, Json::from_checked(integer.to_string().into()));
}

fn take_bytes(reading: &mut Reading, name: &str, bytes: &[u8]) {
    match std::str::from_utf8(bytes) {
        Ok(text) => reading.take_text(name, text.to_owned()),
        Err(_) => reading.fault(name, "is not UTF-8"),
    }
}

fn rfc_3339(seconds: u64) -> Result<String, &'static str> {
    let seconds = i64::try_from(seconds).ok().and_then(|it| Timestamp::from_second(it).ok());
    seconds.map(|it| it.to_string()).ok_or("is no time")
}

/// An empty body is no data. Where nothing says what it is, it is what it looks like.
fn read_data(reading: &mut Reading, content_type: &str, body: &Bytes) -> Option<Data> {
    let looks_like = match content_type {
        "" if body.is_empty() => return None,
        "" if json::check(body).is_ok() => "application/json",
        "" if std::str::from_utf8(body).is_ok() => "text/plain",
        "" => "application/octet-stream",
        said => said,
    };
    take_default(reading, "datacontenttype", looks_like);
    if body.is_empty() {
        return None;
    }
    let data = ContentType::read(reading.content_type(), body.clone());
    if data.is_none() {
        reading.fault("data", "is not JSON, which content-type says it is");
    }
    data
}
