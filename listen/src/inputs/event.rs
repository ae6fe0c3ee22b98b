//! `POST /event`: the native way in (WIRE §1.1), as the 2018 service had it.

use std::borrow::Cow;

use actix_web::http::StatusCode;
use actix_web::http::header::{HeaderName, HeaderValue};
use actix_web::web::Payload;
use actix_web::{HttpRequest, HttpResponse};
use bytes::Bytes;
use bytestring::ByteString;
use serde::Deserialize;
use serde_json::value::RawValue;
use shared::event::{Data, Draft, EventType, Json, Time};
use shared::http::json;
use shared::json::{is_shallow, present};
use shared::link::frame::Account;
use shared::principal::Principal;
use shared::publisher::{Approved, PublishError, Rehearsed};

use crate::inputs::{ACCEPTED, Inputs, quote};
use crate::prefer;

/// Takes one event, or rehearses that. The credential is judged already.
pub async fn post(
    request: &HttpRequest,
    payload: Payload,
    inputs: &Inputs,
    principal: &Principal,
) -> HttpResponse {
    let Ok(is_dry_run) = prefer::wants_dry_run(request.query_string()) else {
        return inputs.refuse(StatusCode::BAD_REQUEST, "INVALID_REQUEST");
    };
    let wants_more = prefer::wants_representation(request.headers());
    let body = match inputs.read_body(request, payload).await {
        Ok(body) => body,
        Err(refusal) => return refusal,
    };
    let Ok(draft) = read_draft(&body.bytes) else {
        return inputs.refuse(StatusCode::BAD_REQUEST, "INVALID_BODY");
    };
    // From here on the link has on its account what the draft has kept.
    drop(body);
    let answer = match Approved::new(principal, draft) {
        Ok(approved) if is_dry_run => rehearse(inputs, approved, wants_more).await,
        Ok(approved) => publish(inputs, approved, wants_more).await,
        Err(error) => Err(error),
    };
    answer.unwrap_or_else(|error| inputs.refuse_event(error))
}

async fn publish(
    inputs: &Inputs,
    approved: Approved,
    wants_more: bool,
) -> Result<HttpResponse, PublishError> {
    let published = inputs.publisher.publish(approved, wants_more)?.await?;
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
    approved: Approved,
    wants_more: bool,
) -> Result<HttpResponse, PublishError> {
    let Rehearsed { id, matched } = inputs.publisher.rehearse(approved).await?;
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
        data: read
            .data
            .map(|data| Data::Json(Json::from_checked(keep(body, data.get().as_bytes())))),
        id: read_name(read.id)?,
        source: read_name(read.source)?,
        subject: read_text(read.subject)?,
        time: time.map(Time::parse).transpose().map_err(|_| InvalidBody)?,
        attributes: None,
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
pub(crate) struct InvalidBody;

#[cfg(test)]
mod tests;
