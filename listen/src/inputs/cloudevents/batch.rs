//! Many events in one request (JSON batch format §4): each is judged, taken and answered for alone.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use actix_web::HttpResponse;
use actix_web::http::StatusCode;
use bytes::Bytes;
use bytestring::ByteString;
use futures_util::future::join_all;
use serde_json::value::RawValue;
use shared::cloudevents::attributes::Faults;
use shared::cloudevents::reader::{self, Flavour, Invalid};
use shared::http::{held_json, retry_after};
use shared::json::{push_member, push_name};
use shared::principal::Principal;
use shared::publisher::{Approved, Publication, PublishError, Rehearsed};
use tokio::time::Instant;

use crate::inputs::Inputs;
use crate::inputs::cloudevents::{refuse_faults, shallow_text};

/// Events of one batch that wait for their receipts; the next ones wait for these.
const UNDERWAY_MAX: usize = 256;
/// In place of faults that are not told.
const TOO_MANY: &str = "is one of too many: what is wrong with it is not told";
/// A batch of more events is refused: each has its result, and a small body may hold very many.
const EVENTS_MAX: usize = 10_000;
/// With so much of an answer no further faults are told in it.
const FAULTS_BYTES_MAX: usize = 512 * 1024;

/// What becomes of one event.
enum Outcome<'a> {
    Sent(Option<ByteString>, Publication),
    Rehearsed(
        Option<ByteString>,
        Pin<Box<dyn Future<Output = Result<Rehearsed, PublishError>> + 'a>>,
    ),
    /// Never to be sent.
    Decided(Option<ByteString>, Result<(), Fault>),
}

impl Outcome<'_> {
    /// Waits for what is said of it.
    async fn decided(self) -> (Option<ByteString>, Result<(), Fault>) {
        match self {
            Self::Decided(id, result) => (id, result),
            Self::Sent(id, sent) => (id, sent.await.map(|_| ()).map_err(Fault::Refused)),
            Self::Rehearsed(id, asked) => (id, asked.await.map(|_| ()).map_err(Fault::Refused)),
        }
    }
}

/// What is said of those that are not sent any more.
const UNREACHABLE: Fault = Fault::Refused(PublishError::Unreachable);

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
    let deadline = Instant::now() + inputs.publish_timeout;
    for items in items.chunks(UNDERWAY_MAX) {
        // Where one could not be taken the next ones could not either, and all would wait as long.
        let is_over = results.is_unavailable || Instant::now() >= deadline;
        let sent = items.iter().map(|item| match is_over {
            true => Outcome::Decided(id_of(item.get()), Err(UNREACHABLE)),
            false => send(inputs, principal, item.get(), is_dry_run),
        });
        // All of them are on their way before the first is waited for.
        let sent: Vec<Outcome<'_>> = sent.collect();
        let awaited = sent.into_iter().map(Outcome::decided);
        for (id, result) in join_all(awaited).await {
            if result.is_ok() && !is_dry_run {
                inputs.accepted.inc();
            }
            results.push(inputs, id.as_deref(), result);
        }
        // Others have their turn.
        tokio::task::yield_now().await;
    }
    results.into_response(inputs)
}

/// The identity of an event that is not sent, if it can be read.
fn id_of(item: &str) -> Option<ByteString> {
    reader::read(item, Flavour::Strict).map_or_else(|invalid| invalid.id, |draft| draft.id)
}

fn read(body: &Bytes) -> Result<Vec<&RawValue>, Faults> {
    let text = shallow_text(body)?;
    let items: Vec<&RawValue> = serde_json::from_str(text).map_err(|_| {
        // Only who sends something else has it read again, to be told what it is not.
        let any: Result<&RawValue, _> = serde_json::from_str(text);
        Faults::of("body", any.map_or("is not JSON", |_| "is not a list"))
    })?;
    match items.len() {
        0..=EVENTS_MAX => Ok(items),
        _ => Err(Faults::of("body", "has more than 10000 events")),
    }
}

fn send<'a>(
    inputs: &'a Inputs,
    principal: &Principal,
    item: &str,
    is_dry_run: bool,
) -> Outcome<'a> {
    let draft = match reader::read(item, Flavour::Strict) {
        Ok(draft) => draft,
        Err(Invalid { id, faults }) => return Outcome::Decided(id, Err(Fault::Invalid(faults))),
    };
    let id = draft.id.clone();
    match Approved::new(principal, draft) {
        Err(error) => Outcome::Decided(id, Err(Fault::Refused(error))),
        Ok(approved) if is_dry_run => {
            Outcome::Rehearsed(id, Box::pin(inputs.publisher.rehearse(approved)))
        }
        Ok(approved) => match inputs.publisher.publish(approved, false) {
            Ok(publication) => Outcome::Sent(id, publication),
            Err(error) => Outcome::Decided(id, Err(Fault::Refused(error))),
        },
    }
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
                        let is_long = out.len() > FAULTS_BYTES_MAX;
                        let told = if is_long { Faults::of("body", TOO_MANY) } else { faults };
                        out.extend_from_slice(told.to_json().as_bytes());
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
    fn into_response(mut self, inputs: &Inputs) -> HttpResponse {
        self.body.extend_from_slice(if self.body.is_empty() { b"[]" } else { b"]" });
        let held = inputs.memory.hold(self.body.len());
        let body = self.body.into();
        if self.is_unavailable {
            let response = held_json(StatusCode::SERVICE_UNAVAILABLE, body, held);
            return retry_after(response, Duration::from_secs(1));
        }
        held_json(StatusCode::OK, body, held)
    }
}
