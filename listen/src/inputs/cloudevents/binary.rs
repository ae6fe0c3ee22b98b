//! An event whose attributes are headers (HTTP protocol binding §3.1).

use actix_web::http::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use bytes::Bytes;
use percent_encoding::percent_decode;
use shared::cloudevents::attributes::{ContentType, Faults, Reading};
use shared::event::{Data, Draft};

use crate::prefer::unquote;

/// What the header of an attribute begins with.
const PREFIX: &str = "ce-";

/// Reads an event; the body is its data.
pub(super) fn read(headers: &HeaderMap, body: &Bytes) -> Result<Draft, Faults> {
    let mut reading = Reading::default();
    for (name, value) in headers {
        let Some(name) = name.as_str().strip_prefix(PREFIX) else { continue };
        if name == "datacontenttype" {
            reading.fault(name, "is the header Content-Type here");
        } else if reading.see(name) {
            take(&mut reading, name, value);
        }
    }
    if let Some(value) = headers.get(CONTENT_TYPE).filter(|value| !value.is_empty()) {
        reading.see("datacontenttype");
        match value.to_str() {
            Ok(text) => reading.take_text("datacontenttype", text.to_owned()),
            Err(_) => reading.fault("datacontenttype", "is not a media type (RFC 2046)"),
        }
    }
    let data = read_data(&mut reading, body);
    reading.finish(data)
}

fn take(reading: &mut Reading, name: &str, value: &HeaderValue) {
    match String::from_utf8(decode(value.as_bytes())) {
        Ok(text) => reading.take_text(name, text),
        Err(_) => reading.fault(name, "is not UTF-8"),
    }
}

/// An empty body is no data.
fn read_data(reading: &mut Reading, body: &Bytes) -> Option<Data> {
    if body.is_empty() {
        return None;
    }
    let data = ContentType::read(reading.content_type(), body.clone());
    if data.is_none() {
        reading.fault("data", "is not JSON, which Content-Type says it is");
    }
    data
}

/// §3.1.3.2: first the quotes are undone, then the percent signs, once.
fn decode(value: &[u8]) -> Vec<u8> {
    percent_decode(&unquote(value.trim_ascii())).collect()
}
