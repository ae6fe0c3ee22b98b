//! An event as CloudEvents JSON (WIRE §3; CloudEvents 1.0.2, JSON event format §3).
//!
//! Read wherever publishers may send it, written wherever it is given out or echoed.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::event::{Data, Event};
use crate::json::{push_member, push_name, push_string};

pub mod attributes;
pub mod reader;

/// The version of the specification that we speak.
pub const SPECVERSION: &str = "1.0";

/// The extension that carries an event's place, where that is asked for.
pub const CURSOR: &str = "cursor";

/// Appends an event as a JSON object. `data` are the publisher's own bytes. With `cursor` that
/// extension says where it is kept, whatever the publisher has put there.
pub fn encode(event: &Event, cursor: Option<&str>, out: &mut Vec<u8>) {
    begin(&event.id, &event.source, event.event_type.as_str(), out);
    if let Some(subject) = &event.subject {
        push_member("subject", subject, out);
    }
    push_member("time", event.time.as_str(), out);
    if let Some(cursor) = cursor {
        push_member(CURSOR, cursor, out);
    }
    if let Some(content_type) = event.content_type() {
        push_member("datacontenttype", content_type, out);
    }
    if let Some(attributes) = &event.attributes {
        if let Some(schema) = &attributes.schema {
            push_member("dataschema", schema, out);
        }
        for (name, value) in &attributes.extensions {
            if cursor.is_none() || name != CURSOR {
                push_name(name, out);
                out.extend_from_slice(value.as_bytes());
            }
        }
    }
    push_data(event.data.as_ref(), out);
    out.push(b'}');
}

/// Appends the beginning of an object, with the attributes that every event has.
pub fn begin(id: &str, source: &str, event_type: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"specversion\":\"");
    out.extend_from_slice(SPECVERSION.as_bytes());
    out.push(b'"');
    push_member("id", id, out);
    push_member("source", source, out);
    push_member("type", event_type, out);
}

/// Appends the data as a member: JSON as it is, text as a string, all else in base64.
pub fn push_data(data: Option<&Data>, out: &mut Vec<u8>) {
    match data {
        None => {}
        Some(Data::Json(json)) => {
            push_name("data", out);
            out.extend_from_slice(json.as_bytes());
        }
        Some(Data::Text(text)) => {
            push_name("data", out);
            push_string(text, out);
        }
        Some(Data::Binary(bytes)) => push_member("data_base64", &STANDARD.encode(bytes), out),
    }
}

#[cfg(test)]
mod tests;
