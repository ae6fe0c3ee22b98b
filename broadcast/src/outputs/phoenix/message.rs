//! What Phoenix clients and servers write to each other, in both versions of their serializer.
//!
//! Version 1 writes objects, version 2 lists: `[join_ref, ref, topic, event, payload]`.

use serde::Deserialize;
use serde_json::value::RawValue;
use shared::json::{is_shallow, present, push_string};

/// A reference, or what else a client has put in its place: it comes back as it was.
pub(super) type Ref = Box<str>;

/// No reference.
pub(super) const NO_REF: &str = "null";

/// How messages are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// Objects.
    V1,
    /// Lists.
    V2,
}

impl Version {
    /// The one that is asked for by the parameter `vsn`; `None` for one that we do not speak.
    pub(super) fn of(vsn: Option<&str>) -> Option<Self> {
        let Some(vsn) = vsn else { return Some(Self::V1) };
        let (version, patch) = match vsn.strip_prefix("1.0.") {
            Some(patch) => (Self::V1, patch),
            None => (Self::V2, vsn.strip_prefix("2.0.")?),
        };
        let is_number = !patch.is_empty() && patch.bytes().all(|byte| byte.is_ascii_digit());
        is_number.then_some(version)
    }
}

/// A message of a client, read. References and topic are JSON texts.
#[derive(Debug)]
pub(super) struct Message<'a> {
    pub(super) join_ref: &'a str,
    pub(super) reference: &'a str,
    pub(super) raw_topic: &'a str,
    /// The topic and the event, where they are text; nothing is called by an empty one.
    pub(super) topic: String,
    pub(super) event: String,
    pub(super) payload: &'a RawValue,
}

#[derive(Deserialize)]
struct Object<'a> {
    #[serde(borrow, default, deserialize_with = "present")]
    join_ref: Option<&'a RawValue>,
    #[serde(borrow, rename = "ref")]
    reference: &'a RawValue,
    #[serde(borrow)]
    topic: &'a RawValue,
    #[serde(borrow)]
    event: &'a RawValue,
    #[serde(borrow)]
    payload: &'a RawValue,
}

impl<'a> Message<'a> {
    /// Reads a text message; `None` if it is none of this version.
    pub(super) fn read(version: Version, text: &'a str) -> Option<Self> {
        if !is_shallow(text.as_bytes()) {
            return None;
        }
        let (join_ref, reference, topic, event, payload) = match version {
            Version::V1 => {
                // serde would take a list for a struct, member by member.
                let is_object = text.trim_start_matches([' ', '\t', '\r', '\n']).starts_with('{');
                let object: Object<'a> = serde_json::from_str(text).ok().filter(|_| is_object)?;
                let Object { join_ref, reference, topic, event, payload } = object;
                (join_ref.map_or(NO_REF, RawValue::get), reference, topic, event, payload)
            }
            Version::V2 => {
                let parts: Vec<&'a RawValue> = serde_json::from_str(text).ok()?;
                let [join_ref, reference, topic, event, payload, ..] = *parts.as_slice() else {
                    return None;
                };
                (join_ref.get(), reference, topic, event, payload)
            }
        };
        let read = |raw: &RawValue| serde_json::from_str(raw.get()).unwrap_or_default();
        Some(Self {
            join_ref,
            reference: reference.get(),
            raw_topic: topic.get(),
            topic: read(topic),
            event: read(event),
            payload,
        })
    }
}

impl Message<'_> {
    /// Whether its references are longer than any client has reason for.
    pub(super) fn has_long_refs(&self) -> bool {
        const REF_BYTES_MAX: usize = 1024;
        self.join_ref.len().max(self.reference.len()) > REF_BYTES_MAX
    }

    /// Whether its topic is longer than one that is kept.
    pub(super) fn has_long_topic(&self) -> bool {
        const TOPIC_BYTES_MAX: usize = 4 * 1024;
        self.raw_topic.len() > TOPIC_BYTES_MAX
    }
}

/// Appends a message of ours. Everything but the event is JSON text; `put` appends the payload.
pub(super) fn write(
    version: Version,
    (join_ref, reference): (&str, &str),
    raw_topic: &str,
    event: &str,
    put: impl FnOnce(&mut Vec<u8>),
    out: &mut Vec<u8>,
) {
    match version {
        Version::V1 => {
            out.extend_from_slice(br#"{"topic":"#);
            out.extend_from_slice(raw_topic.as_bytes());
            out.extend_from_slice(br#","event":"#);
            push_string(event, out);
            out.extend_from_slice(br#","ref":"#);
            out.extend_from_slice(reference.as_bytes());
            out.extend_from_slice(br#","payload":"#);
            put(out);
            out.push(b'}');
        }
        Version::V2 => {
            out.push(b'[');
            for part in [join_ref, reference, raw_topic] {
                out.extend_from_slice(part.as_bytes());
                out.push(b',');
            }
            push_string(event, out);
            out.push(b',');
            put(out);
            out.push(b']');
        }
    }
}

/// An answer to a message.
pub(super) fn reply(
    version: Version,
    refs: (&str, &str),
    raw_topic: &str,
    status: &str,
    response: &[u8],
) -> String {
    let mut out = Vec::with_capacity(response.len() + 128);
    let put = |out: &mut Vec<u8>| {
        out.extend_from_slice(format!(r#"{{"status":"{status}","response":"#).as_bytes());
        out.extend_from_slice(response);
        out.push(b'}');
    };
    write(version, refs, raw_topic, "phx_reply", put, &mut out);
    // All of it was text.
    String::from_utf8(out).unwrap_or_default()
}

/// The refusal of what a message asks for.
pub(super) fn refusal(
    version: Version,
    refs: (&str, &str),
    raw_topic: &str,
    reason: &str,
) -> String {
    let response = format!(r#"{{"reason":"{reason}"}}"#);
    reply(version, refs, raw_topic, "error", response.as_bytes())
}

/// The word that a channel has ended: by itself (`phx_close`), or by a fault (`phx_error`).
pub(super) fn end(version: Version, join_ref: &str, raw_topic: &str, event: &str) -> String {
    let mut out = Vec::new();
    let put = |out: &mut Vec<u8>| out.extend_from_slice(b"{}");
    write(version, (join_ref, join_ref), raw_topic, event, put, &mut out);
    String::from_utf8(out).unwrap_or_default()
}
