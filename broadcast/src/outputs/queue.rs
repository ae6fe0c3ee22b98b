//! `GET /queue`: a durable queue as Server-Sent Events, one message after the other (WIRE §7).

use std::sync::Arc;

use actix_web::{HttpRequest, HttpResponse};
use shared::credentials::Digest;
use shared::http::flushes;
use shared::pattern::Pattern;
use shared::principal::Principal;

use crate::admission::Refusing;
use crate::cursor::Cursor;
use crate::outputs::Outputs;
use crate::outputs::queue::headers::ExtraHeaders;
use crate::outputs::queue::name::{NameError, NamePattern};
use crate::outputs::queue::stream::{Carrying, Source, Stream};
use crate::query::{Query, seen_last};
use crate::queues::book::OpenError;
use crate::queues::consumer::Consumer;
use crate::refusal::{QueueFault, Refusal};

pub mod headers;
pub mod name;
pub mod stream;

/// How queues are served.
#[derive(Debug)]
pub struct Rules {
    /// Where they are.
    pub path: String,
    /// How a request names one.
    pub pattern: NamePattern,
    /// Whose pages may read them.
    pub allow_origin: Option<String>,
    /// What goes with a stream's headers.
    pub headers: ExtraHeaders,
}

/// Opens the stream of a queue, and makes the queue where there is none.
pub async fn open(request: &HttpRequest, outputs: &Outputs) -> Result<HttpResponse, Refusal> {
    let shown = outputs.authenticate(request, Refusing::Request).await?;
    let shown = shown.or_else(|| outputs.anonymous());
    let shown = shown.ok_or(Refusal::Unauthorized("UNAUTHENTICATED"))?;
    let name = outputs.queue.pattern.name(request.query_string(), request.headers())?;
    let query = Query::read(request.query_string())?;
    let shared = &outputs.worker.shared;
    let patterns = query.patterns(&shown.principal, shared.limits.patterns_max)?;
    if patterns.is_empty() {
        return Err(Refusal::Forbidden);
    }
    let carrying = Carrying { carried: query.carried()?, has_ids: query.has_cursor()? };
    // Without places on the wire, what stands in the header is not of this stream.
    let seen = if carrying.has_ids { seen_last(request)? } else { None };
    let place = outputs.enter(request)?;
    let ticket = shown.claim.map(|claim| claim.ticket());
    let hold = shared.tickets.open_claimed(shown.claim).await;
    let consumer = consume(outputs, &name, &patterns, ticket, shown.principal, seen).await?;
    let stream = Stream::new(Source::Log(consumer), carrying, flushes(request), hold, place);
    Ok(stream.into_response(&outputs.queue.headers))
}

/// Becomes the consumer of a queue in the log.
async fn consume(
    outputs: &Outputs,
    name: &str,
    patterns: &[Pattern],
    ticket: Option<Digest>,
    principal: Arc<Principal>,
    seen: Option<Cursor>,
) -> Result<Consumer, Refusal> {
    let queues = &outputs.worker.shared.queues;
    let grant = &principal.grant;
    let lease = queues.admit(name, patterns, ticket, |wanted| {
        wanted.iter().all(|pattern| grant.may_subscribe(pattern))
    });
    let consumer = Consumer::new(queues, lease.await?, &outputs.worker, principal);
    if let Some(cursor) = seen {
        consumer.step_back(&cursor);
    }
    Ok(consumer)
}

impl From<NameError> for Refusal {
    fn from(error: NameError) -> Self {
        Self::Queue(match error {
            NameError::Missing => QueueFault::ParameterMissing,
            NameError::Invalid => QueueFault::InvalidName,
        })
    }
}

impl From<OpenError> for Refusal {
    fn from(error: OpenError) -> Self {
        match error {
            OpenError::Taken | OpenError::TakenOver => Self::Queue(QueueFault::Taken),
            OpenError::TooMany => Self::Queue(QueueFault::TooMany),
            OpenError::Forbidden => Self::Forbidden,
            OpenError::Unwritten => Self::Unreadable,
        }
    }
}
