//! Many events in one request (JSON batch format §4): each is judged, taken and answered for alone.

use actix_web::HttpResponse;
use actix_web::http::StatusCode;
use bytes::Bytes;
use bytestring::ByteString;
use serde_json::value::RawValue;
use shared::cloudevents::attributes::Faults;
use shared::cloudevents::reader::{self, Dialect, Invalid};
use shared::http::{json, retry_after};
use shared::json::{is_shallow, push_member, push_name};
use shared::principal::Principal;
use shared::publisher::{Approved, Publication, PublishError};

use crate::inputs::Inputs;
use crate::inputs::cloudevents::{TOO_DEEP, refuse_faults};

/// Events of one batch that wait for their receipts; the next ones wait for these.
const UNDERWAY_MAX: usize = 256;

/// What became of one event.
enum Outcome {
    Sent(ByteString, Publication),
    /// Sent and answered for, or never to be sent.
    Decided(Option<ByteString>, Result<(), Fault>),
}

/// Why an event was not taken.
enum Fault {
    Invalid(Faults),
    Refused(PublishError),
}

/// Takes the events that are good, and answers with one result for each.
pub(super) async fn post(
    inputs: &Inputs,
    principal: &Principal,
    body: &Bytes,
    is_dry_run: bool,
) -> HttpResponse {
    let items = match read(body) {
        Ok(items) => items,
        Err(faults) => return refuse_faults(inputs, &faults),
    };
    let mut results = Results::default();
    for items in items.chunks(UNDERWAY_MAX) {
        let mut outcomes = Vec::with_capacity(items.len());
        for item in items {
            outcomes.push(send(inputs, principal, item.get(), is_dry_run).await);
        }
        for outcome in outcomes {
            let (id, result) = match outcome {
                Outcome::Decided(id, result) => (id, result),
                Outcome::Sent(id, publication) => {
                    (Some(id), publication.await.map(|_| ()).map_err(Fault::Refused))
                }
            };
            if result.is_ok() && !is_dry_run {
                inputs.accepted.inc();
            }
            results.push(inputs, id.as_deref(), result);
        }
    }
    results.into_response()
}

fn read(body: &Bytes) -> Result<Vec<&RawValue>, Faults> {
    let text = std::str::from_utf8(body).map_err(|_| Faults::of("body", "is not UTF-8"))?;
    if !is_shallow(body) {
        return Err(Faults::of("body", TOO_DEEP));
    }
    let any: Result<&RawValue, _> = serde_json::from_str(text);
    let any = any.map_err(|_| Faults::of("body", "is not JSON"))?;
    serde_json::from_str(any.get()).map_err(|_| Faults::of("body", "is not a list"))
}

async fn send(inputs: &Inputs, principal: &Principal, item: &str, is_dry_run: bool) -> Outcome {
    let draft = match reader::read(item, Dialect::Strict) {
        Ok(draft) => draft,
        Err(Invalid { id, faults }) => return Outcome::Decided(id, Err(Fault::Invalid(faults))),
    };
    let id = draft.id.clone();
    let refused = |error| Outcome::Decided(id.clone(), Err(Fault::Refused(error)));
    let approved = match Approved::new(principal, draft) {
        Ok(approved) => approved,
        Err(error) => return refused(error),
    };
    if is_dry_run {
        let rehearsed = inputs.publisher.rehearse(approved).await;
        return rehearsed.map_or_else(refused, |it| Outcome::Decided(Some(it.id), Ok(())));
    }
    let id = approved.event().id.clone();
    inputs.publisher.publish(approved, false).map_or_else(refused, |it| Outcome::Sent(id, it))
}

/// The answer that is being written.
#[derive(Default)]
struct Results {
    body: Vec<u8>,
    /// Something may be, or was, not taken that would be another time.
    is_unavailable: bool,
}

impl Results {
    fn push(&mut self, inputs: &Inputs, id: Option<&str>, result: Result<(), Fault>) {
        let out = &mut self.body;
        out.extend_from_slice(if out.is_empty() { b"[{" } else { b",{" });
        out.extend_from_slice(br#""id":"#);
        match id {
            Some(id) => shared::json::push_string(id, out),
            None => out.extend_from_slice(b"null"),
        }
        let (code, is_unavailable) = match &result {
            Ok(()) => ("OK", false),
            Err(Fault::Invalid(_)) => ("INVALID", false),
            Err(Fault::Refused(PublishError::Forbidden)) => ("FORBIDDEN", false),
            Err(Fault::Refused(PublishError::TooLarge)) => ("BODY_TOO_LARGE", false),
            Err(Fault::Refused(PublishError::Unreachable | PublishError::Undecided(_))) => {
                ("UNAVAILABLE", true)
            }
        };
        push_member("code", code, out);
        self.is_unavailable |= is_unavailable;
        match result {
            Ok(()) => {}
            Err(fault) => {
                inputs.metrics.refuse(code);
                match fault {
                    Fault::Invalid(faults) => {
                        push_name("errors", out);
                        out.extend_from_slice(faults.to_json().as_bytes());
                    }
                    Fault::Refused(PublishError::Undecided(_)) => {
                        push_member("accepted", "unknown", out);
                    }
                    Fault::Refused(_) => {}
                }
            }
        }
        out.push(b'}');
    }

    /// A success is said only of what broadcast has: if it could not take one of them, the sender
    /// has to come again, and what it had is not taken twice.
    fn into_response(mut self) -> HttpResponse {
        self.body.extend_from_slice(if self.body.is_empty() { b"[]" } else { b"]" });
        if self.is_unavailable {
            let response = json(StatusCode::SERVICE_UNAVAILABLE, self.body);
            return retry_after(response, std::time::Duration::from_secs(1));
        }
        json(StatusCode::OK, self.body)
    }
}
