//! `POST /event`: the native way in (WIRE §1.1), as the 2018 service had it.

use std::borrow::Cow;
use std::time::Duration;

use actix_web::http::StatusCode;
use actix_web::http::header::{HeaderName, HeaderValue};
use actix_web::web::Payload;
use actix_web::{HttpRequest, HttpResponse};
use bytes::Bytes;
use bytestring::ByteString;
use serde::Deserialize;
use serde_json::value::RawValue;
use shared::event::{Draft, EventType, Json, Time};
use shared::http::{json, retry_after};
use shared::json::{is_shallow, present};
use shared::link::frame::Account;
use shared::principal::Principal;
use shared::publisher::{Identity, PublishError, Rehearsed};

use crate::body::{self, BodyError, Encoding};
use crate::inputs::Inputs;
use crate::prefer;

/// What everybody is answered who did not ask for more.
pub(crate) const ACCEPTED: &str = r#"{"code":"OK"}"#;

/// Takes one event, or rehearses that. The credential is judged already.
pub async fn post(
    request: &HttpRequest,
    payload: Payload,
    inputs: &Inputs,
    principal: &Principal,
) -> HttpResponse {
    let Ok(is_dry_run) = read_dry_run(request.query_string()) else {
        return inputs.refuse(StatusCode::BAD_REQUEST, "INVALID_REQUEST");
    };
    let wants_more = prefer::wants_representation(request.headers());
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
    let answer = if is_dry_run {
        rehearse(inputs, principal, draft, wants_more).await
    } else {
        publish(inputs, principal, draft, wants_more).await
    };
    answer.unwrap_or_else(|error| refuse_event(inputs, error))
}

async fn publish(
    inputs: &Inputs,
    principal: &Principal,
    draft: Draft,
    wants_more: bool,
) -> Result<HttpResponse, PublishError> {
    let published = inputs.publisher.publish(principal, draft, wants_more)?.await?;
    inputs.accepted.inc();
    Ok(match published.account {
        None => json(StatusCode::OK, ACCEPTED),
        Some(Account { cursor, matched }) => {
            let (id, cursor) = (quote(&published.id), quote(&cursor));
            represent(format!(r#"{{"code":"OK","id":{id},"cursor":{cursor},"matched":{matched}}}"#))
        }
    })
}

async fn rehearse(
    inputs: &Inputs,
    principal: &Principal,
    draft: Draft,
    wants_more: bool,
) -> Result<HttpResponse, PublishError> {
    let Rehearsed { id, matched } = inputs.publisher.rehearse(principal, draft).await?;
    if !wants_more {
        return Ok(json(StatusCode::OK, ACCEPTED));
    }
    Ok(represent(format!(r#"{{"code":"OK","id":{},"matched":{matched}}}"#, quote(&id))))
}

/// RFC 7240 §3: says that the preference was honoured, which cannot be seen from every body.
fn represent(body: String) -> HttpResponse {
    let mut response = json(StatusCode::OK, body);
    let applied = HeaderValue::from_static("return=representation");
    response.headers_mut().insert(HeaderName::from_static("preference-applied"), applied);
    response
}

/// Whether the query asks for a dry run. A client that means one and writes it in another way must
/// not fire by accident, so that is refused.
fn read_dry_run(query: &str) -> Result<bool, InvalidQuery> {
    let mut named = form_urlencoded::parse(query.as_bytes()).filter(|(name, _)| name == "dry_run");
    match (named.next().as_ref().map(|(_, value)| value.as_ref()), named.next()) {
        (None | Some("false"), None) => Ok(false),
        (Some("true"), None) => Ok(true),
        _ => Err(InvalidQuery),
    }
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

/// Answers for an event that was not taken, or may not have been.
pub(crate) fn refuse_event(inputs: &Inputs, error: PublishError) -> HttpResponse {
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
pub(crate) fn read_draft(body: &Bytes) -> Result<Draft, InvalidBody> {
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

/// The query says something of a dry run, and neither yes nor no.
#[derive(Debug, PartialEq, Eq)]
struct InvalidQuery;

/// The body is no event. Which fault it is the client's log can tell better than we.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct InvalidBody;

#[cfg(test)]
mod tests;
