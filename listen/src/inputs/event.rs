//! `POST /event`: the native way in (WIRE §1.1), as the 2018 service had it.

use std::borrow::Cow;
use std::time::Duration;

use actix_web::http::StatusCode;
use actix_web::web::Payload;
use actix_web::{HttpRequest, HttpResponse};
use bytes::Bytes;
use bytestring::ByteString;
use serde::Deserialize;
use serde_json::value::RawValue;
use shared::event::{Draft, EventType, Json, Time};
use shared::http::{json, retry_after};
use shared::json::{is_shallow, present};
use shared::principal::Principal;
use shared::publisher::{Identity, PublishError};

use crate::body::{self, BodyError, Encoding};
use crate::inputs::Inputs;

/// Takes one event. The credential is judged already.
pub async fn post(
    request: &HttpRequest,
    payload: Payload,
    inputs: &Inputs,
    principal: &Principal,
) -> HttpResponse {
    // A dry run needs broadcast's answer, which the link does not carry yet. To take the event
    // instead would be the one thing that the client asked us not to do.
    if asks_for_dry_run(request.query_string()) {
        return inputs.refuse(StatusCode::BAD_REQUEST, "INVALID_REQUEST");
    }
    let (limit, memory) = (inputs.body_bytes_max, &inputs.memory);
    let encoding = match Encoding::of(request) {
        Ok(encoding) => encoding,
        Err(error) => return refuse_body(inputs, error),
    };
    let body = match body::read(request, payload, encoding, limit, memory).await {
        Ok(body) => body,
        Err(error) => return refuse_body(inputs, error),
    };
    let Ok(draft) = read_draft(&body.bytes) else {
        return inputs.refuse(StatusCode::BAD_REQUEST, "INVALID_BODY");
    };
    // From here on the link has on its account what the draft has kept.
    drop(body);
    match inputs.publisher.publish(principal, draft).await {
        Ok(_receipt) => {
            inputs.accepted.inc();
            json(StatusCode::OK, Bytes::from_static(br#"{"code":"OK"}"#))
        }
        Err(error) => refuse_event(inputs, error),
    }
}

fn asks_for_dry_run(query: &str) -> bool {
    query.split('&').any(|pair| pair.split('=').next() == Some("dry_run"))
}

fn refuse_body(inputs: &Inputs, error: BodyError) -> HttpResponse {
    let (status, code) = match error {
        BodyError::NoRoom => return inputs.refuse_for_now("UNAVAILABLE"),
        BodyError::UnsupportedEncoding => (StatusCode::UNSUPPORTED_MEDIA_TYPE, "UNSUPPORTED_MEDIA"),
        BodyError::TooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "BODY_TOO_LARGE"),
        BodyError::Corrupt | BodyError::Broken => (StatusCode::BAD_REQUEST, "INVALID_BODY"),
    };
    inputs.refuse(status, code)
}

fn refuse_event(inputs: &Inputs, error: PublishError) -> HttpResponse {
    match error {
        PublishError::Forbidden => inputs.refuse(StatusCode::FORBIDDEN, "FORBIDDEN"),
        PublishError::Unreachable => inputs.refuse_for_now("UNAVAILABLE"),
        PublishError::TooLarge => inputs.refuse(StatusCode::PAYLOAD_TOO_LARGE, "BODY_TOO_LARGE"),
        PublishError::Undecided(Identity { id, source }) => {
            inputs.metrics.refuse("UNAVAILABLE");
            let (id, source) = (quote(&id), quote(&source));
            let body = format!(
                r#"{{"code":"UNAVAILABLE","accepted":"unknown","id":{id},"source":{source}}}"#
            );
            let response = json(StatusCode::SERVICE_UNAVAILABLE, body);
            retry_after(response, Duration::from_secs(1))
        }
    }
}

fn quote(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// The members that we read. Of these none may stand twice; all others are ignored.
#[derive(Deserialize)]
struct NativeBody<'a> {
    #[serde(borrow)]
    event: Cow<'a, str>,
    #[serde(borrow, default, deserialize_with = "present")]
    data: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    id: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    source: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    subject: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    time: Option<&'a RawValue>,
}

/// Reads a body; `data` stays the very bytes of it.
fn read_draft(body: &Bytes) -> Result<Draft, InvalidBody> {
    let text = std::str::from_utf8(body).map_err(|_| InvalidBody)?;
    if !is_shallow(body) {
        return Err(InvalidBody);
    }
    // serde would take a list for a struct, member by member.
    if !text.trim_start_matches([' ', '\t', '\r', '\n']).starts_with('{') {
        return Err(InvalidBody);
    }
    let read: NativeBody<'_> = serde_json::from_str(text).map_err(|_| InvalidBody)?;
    let time = read_text(read.time)?;
    Ok(Draft {
        event_type: EventType::parse(read.event.into_owned()).map_err(|_| InvalidBody)?,
        data: read.data.map(|data| Json::from_checked(keep(body, data.get().as_bytes()))),
        id: read_name(read.id)?,
        source: read_name(read.source)?,
        subject: read_text(read.subject)?,
        time: time.map(Time::parse).transpose().map_err(|_| InvalidBody)?,
    })
}

/// The data as a part of the body. Where it is a small part, a copy: the event may wait, and must
/// not hold on to a large body on the account of a small one.
fn keep(body: &Bytes, data: &[u8]) -> Bytes {
    const PART_MIN: usize = 2;
    if data.len() >= body.len() / PART_MIN {
        body.slice_ref(data)
    } else {
        Bytes::copy_from_slice(data)
    }
}

/// A string; a value of another kind is ignored, as a member that we do not know would be.
fn read_text(value: Option<&RawValue>) -> Result<Option<ByteString>, InvalidBody> {
    let Some(value) = value.filter(|value| value.get().starts_with('"')) else { return Ok(None) };
    let text: String = serde_json::from_str(value.get()).map_err(|_| InvalidBody)?;
    Ok(Some(text.into()))
}

/// A string that is not empty.
fn read_name(value: Option<&RawValue>) -> Result<Option<ByteString>, InvalidBody> {
    match read_text(value)? {
        Some(name) if name.is_empty() => Err(InvalidBody),
        name => Ok(name),
    }
}

/// The body is no event. Which fault it is the client's log can tell better than we.
#[derive(Debug, PartialEq, Eq)]
struct InvalidBody;

#[cfg(test)]
mod tests;
