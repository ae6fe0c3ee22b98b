//! `POST /events`: CloudEvents in (WIRE §3.1; CloudEvents 1.0.2, HTTP protocol binding), alone or many
//! at once, and the question of a webhook's sender whether it may come.

use actix_web::http::StatusCode;
use actix_web::http::header::{ALLOW, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use actix_web::web::Payload;
use actix_web::{HttpRequest, HttpResponse};
use bytes::Bytes;
use shared::cloudevents::attributes::{Faults, is_utf_8, parse_media_type};
use shared::cloudevents::reader::{self, Flavour};
use shared::event::Draft;
use shared::http::json;
use shared::json::is_shallow;
use shared::principal::Principal;
use shared::publisher::{Approved, PublishError};

use crate::inputs::{ACCEPTED, Inputs};
use crate::prefer;

mod batch;
mod binary;

/// How an event is in its request (HTTP protocol binding §3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// Its attributes are headers.
    Binary,
    /// It is the body.
    Structured(Flavour),
    /// The body is a list of events.
    Batch,
}

/// Takes what comes. The credential is judged already.
pub async fn post(
    request: &HttpRequest,
    payload: Payload,
    inputs: &Inputs,
    principal: &Principal,
) -> HttpResponse {
    let Ok(is_dry_run) = prefer::wants_dry_run(request.query_string()) else {
        return inputs.refuse(StatusCode::BAD_REQUEST, "INVALID_REQUEST");
    };
    let Some(mode) = Mode::of(request.headers()) else {
        return inputs.refuse(StatusCode::UNSUPPORTED_MEDIA_TYPE, "UNSUPPORTED_MEDIA");
    };
    let body = match inputs.read_body(request, payload).await {
        Ok(body) => body,
        Err(refusal) => return refusal,
    };
    let read = match mode {
        Mode::Batch => return batch::post(inputs, principal, &body.bytes, is_dry_run).await,
        Mode::Binary => binary::read(request.headers(), &body.bytes),
        Mode::Structured(flavour) => read_structured(&body.bytes, flavour),
    };
    // From here on the link has on its account what the draft has kept.
    drop(body);
    let taken = match read.map(|draft| Approved::new(principal, draft)) {
        Ok(Ok(approved)) => take(inputs, approved, mode, is_dry_run).await,
        Ok(Err(error)) => Err(error),
        Err(faults) => return refuse_faults(inputs, &faults),
    };
    taken.unwrap_or_else(|error| inputs.refuse_event(error))
}

fn read_structured(body: &Bytes, flavour: Flavour) -> Result<Draft, Faults> {
    reader::read(shallow_text(body)?, flavour).map_err(|invalid| invalid.faults)
}

/// The text of a body that is JSON, as far as serde does not see for itself.
fn shallow_text(body: &Bytes) -> Result<&str, Faults> {
    let text = std::str::from_utf8(body).map_err(|_| Faults::of("body", "is not UTF-8"))?;
    match is_shallow(body) {
        true => Ok(text),
        false => Err(Faults::of("body", "is nested deeper than 128")),
    }
}

async fn take(
    inputs: &Inputs,
    approved: Approved,
    mode: Mode,
    is_dry_run: bool,
) -> Result<HttpResponse, PublishError> {
    if is_dry_run {
        inputs.publisher.rehearse(approved).await?;
        return Ok(json(StatusCode::OK, ACCEPTED));
    }
    let echo = (mode != Mode::Binary).then(|| {
        let mut echo = Vec::new();
        shared::cloudevents::encode(approved.event(), None, &mut echo);
        echo
    });
    inputs.publisher.publish(approved, false)?.await?;
    inputs.accepted.inc();
    Ok(match echo {
        Some(echo) => json(StatusCode::CREATED, echo),
        None => HttpResponse::new(StatusCode::CREATED),
    })
}

fn refuse_faults(inputs: &Inputs, faults: &Faults) -> HttpResponse {
    const CODE: &str = "INVALID_EVENT";
    inputs.metrics.refuse(CODE);
    let body = format!(r#"{{"code":"{CODE}","errors":{}}}"#, faults.to_json());
    json(StatusCode::BAD_REQUEST, body)
}

impl Mode {
    /// Reads it from a request's head; `None` for what we do not take.
    fn of(headers: &HeaderMap) -> Option<Self> {
        let mut types = headers.get_all(CONTENT_TYPE);
        let (first, second) = (types.next(), types.next());
        if second.is_some() {
            return None;
        }
        let text = first.map_or("", |it| it.to_str().unwrap_or_default()).trim();
        let lower = text.to_ascii_lowercase();
        // Who names no format means the one that everybody has.
        let is = |essence| is_in_utf_8(&lower, essence);
        if is("application/cloudevents-batch+json") || is("application/cloudevents-batch") {
            Some(Self::Batch)
        } else if is("application/cloudevents+json") || is("application/cloudevents") {
            Some(Self::Structured(Flavour::Strict))
        } else if lower.starts_with("application/cloudevents") {
            None
        } else if headers.contains_key("ce-specversion") {
            Some(Self::Binary)
        } else if is("application/json") {
            Some(Self::Structured(Flavour::Relayman))
        } else {
            None
        }
    }
}

/// Whether a media type is this one, and its text is in no other character set than JSON has.
fn is_in_utf_8(text: &str, essence: &str) -> bool {
    parse_media_type(text).is_some_and(|mime| mime.essence_str() == essence && is_utf_8(&mime))
}

/// Answers a sender that asks before it comes (HTTP 1.1 Web Hooks for Event Delivery 1.0.2 §4): any
/// may, who then shows a credential with each event.
pub fn allow_webhook(request: &HttpRequest, inputs: &Inputs) -> HttpResponse {
    let mut response = HttpResponse::new(StatusCode::OK);
    let headers = response.headers_mut();
    headers.insert(ALLOW, HeaderValue::from_static("POST"));
    if let Some(origin) = request.headers().get("webhook-request-origin") {
        headers.insert(HeaderName::from_static("webhook-allowed-origin"), origin.clone());
        // §4.2.2: requests a minute.
        let per_minute = inputs.rate.map(|rate| u64::from(rate.get()) * 60);
        let rate = per_minute.map_or(HeaderValue::from_static("*"), HeaderValue::from);
        headers.insert(HeaderName::from_static("webhook-allowed-rate"), rate);
    }
    response
}

#[cfg(test)]
mod tests;
