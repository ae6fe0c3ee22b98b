//! An event as the tests know it: what goes in by every mode, and what must come out.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::RequestBuilder;
use serde_json::{Map, Value};

use crate::cloudevents::{BATCH, STRUCTURED, bare};
use crate::gateway::Gateway;

/// What an event is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Payload {
    Absent,
    /// JSON text; its bytes must stay.
    Json(String),
    Text(String),
    Binary(Vec<u8>),
}

/// How an event is in its request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    Binary,
    Structured,
    Batch,
    /// As Relayman takes it.
    Plain,
}

impl Mode {
    pub const ALL: [Self; 4] = [Self::Binary, Self::Structured, Self::Batch, Self::Plain];
}

/// An event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    pub attributes: BTreeMap<String, Value>,
    pub data: Payload,
}

impl Event {
    pub fn content_type(&self) -> Option<&str> {
        self.attributes.get("datacontenttype").map(|it| it.as_str().unwrap())
    }

    /// As CloudEvents JSON.
    pub fn to_json(&self) -> String {
        let members = self.attributes.iter().map(|(name, value)| format!(r#""{name}":{value}"#));
        let data = match &self.data {
            Payload::Absent => None,
            Payload::Json(json) => Some(format!(r#""data":{json}"#)),
            Payload::Text(text) => Some(format!(r#""data":{}"#, Value::from(text.as_str()))),
            Payload::Binary(bytes) => {
                Some(format!(r#""data_base64":"{}""#, STANDARD.encode(bytes)))
            }
        };
        format!("{{{}}}", members.chain(data).collect::<Vec<_>>().join(","))
    }

    /// The body in binary mode.
    fn bytes(&self) -> Vec<u8> {
        match &self.data {
            Payload::Absent => Vec::new(),
            Payload::Json(text) | Payload::Text(text) => text.clone().into_bytes(),
            Payload::Binary(bytes) => bytes.clone(),
        }
    }

    /// Puts it into a request.
    pub fn request(&self, gateway: &Gateway, mode: Mode, token: &str) -> RequestBuilder {
        let request = bare(gateway).header("authorization", format!("Basic {token}"));
        match mode {
            Mode::Structured => request.header("content-type", STRUCTURED).body(self.to_json()),
            Mode::Batch => {
                request.header("content-type", BATCH).body(format!("[{}]", self.to_json()))
            }
            Mode::Plain => {
                let mut event = self.clone();
                event.attributes.remove("specversion");
                request.header("content-type", "application/json").body(event.to_json())
            }
            Mode::Binary => {
                let headers = self.attributes.iter().map(|(name, value)| match name.as_str() {
                    "datacontenttype" => ("content-type".to_owned(), text_of(value)),
                    _ => (format!("ce-{name}"), percent_encode(&text_of(value))),
                });
                headers.fold(request, |it, (name, value)| it.header(name, value)).body(self.bytes())
            }
        }
    }

    /// What must come out, as attributes, when it went in by a mode.
    pub fn attributes_out(&self, mode: Mode) -> Map<String, Value> {
        let attributes = self.attributes.iter().map(|(name, value)| match mode {
            // A header has no type.
            Mode::Binary => (name.clone(), text_of(value).into()),
            _ => (name.clone(), value.clone()),
        });
        let mut attributes: Map<String, Value> = attributes.collect();
        let is_json = matches!(self.data, Payload::Json(_)) && mode != Mode::Binary;
        if is_json && self.content_type().is_none() {
            // JSON event format §3.1.2: what was implied is said.
            attributes.insert("datacontenttype".into(), "application/json".into());
        }
        attributes
    }
}

/// A value as the specification writes it in text.
fn text_of(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// HTTP protocol binding §3.1.3.2, as a sender has to do it.
pub fn percent_encode(text: &str) -> String {
    let encode = |byte: u8| match byte {
        b'"' | b'%' | ..=b' ' | 0x7F.. => format!("%{byte:02X}"),
        plain => char::from(plain).to_string(),
    };
    text.bytes().map(encode).collect()
}
