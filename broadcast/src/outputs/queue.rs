//! `GET /queue`: a durable queue as Server-Sent Events, one message after the other (WIRE §7).

use std::rc::Rc;
use std::sync::Arc;

use actix_web::http::StatusCode;
use actix_web::http::header::HeaderValue;
use actix_web::{HttpRequest, HttpResponse};
use shared::credentials::Digest;
use shared::http::{flushes, refusal};
use shared::pattern::Pattern;
use shared::principal::Principal;

use crate::admission::{Refusing, Shown};
use crate::broker::{Broker, BrokerError};
use crate::cursor::Cursor;
use crate::disconnect::Disconnect;
use crate::outputs::Outputs;
use crate::outputs::queue::headers::ExtraHeaders;
use crate::outputs::queue::name::{NameError, NamePattern};
use crate::outputs::queue::stream::{Carrying, Source, Stream};
use crate::query::{Query, seen_last};
use crate::queues::book::OpenError;
use crate::queues::consumer::Consumer;
use crate::refusal::{QueueFault, Refusal, STATUS_REASON};
use crate::tickets::Hold;
use crate::watch::Watch;

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
    /// Where they are, if not in the log.
    pub broker: Option<Arc<Broker>>,
}

/// Opens the stream of a queue, and makes the queue where there is none.
pub async fn open(request: &HttpRequest, outputs: &Outputs) -> Result<HttpResponse, Refusal> {
    let shown = outputs.authenticate(request, Refusing::Request).await?;
    let shown = shown.or_else(|| outputs.anonymous());
    let Shown { principal, claim } = shown.ok_or(Refusal::Unauthorized("UNAUTHENTICATED"))?;
    let name = outputs.queue.pattern.name(request.query_string(), request.headers())?;
    let tickets = &outputs.worker.shared.tickets;
    let ticket = claim.map(|claim| claim.ticket());
    if let Some(broker) = &outputs.queue.broker {
        // What a queue of the broker holds is no event: who may have it is known by its name.
        let wanted = Pattern::parse(name.as_str()).or_else(|_| Pattern::parse(">"));
        let wanted = wanted.map_err(|_| Refusal::Forbidden)?;
        if !principal.grant.may_subscribe(&wanted) {
            return Err(Refusal::Forbidden);
        }
        let place = outputs.enter(request)?;
        let hold = tickets.open_claimed(claim).await;
        let watch = Rc::new(Watch::judged(&outputs.worker, principal, vec![wanted]));
        let is_superseded = || hold.as_ref().is_some_and(Hold::is_superseded);
        let consuming = broker.consume(&name, ticket, is_superseded);
        let consumer = tokio::select! {
            consumer = consuming => consumer,
            // It may have waited for long. A 503 would stop an `EventSource` for good: while we stop,
            // its stream ends as it begins.
            disconnect = watch.end() => return match disconnect {
                Disconnect::Restarting => Ok(stream::ended(&outputs.queue.headers)),
                disconnect => Err(disconnect.into()),
            },
        };
        let consumer = match consumer {
            Ok(consumer) => consumer,
            Err(error) => return refuse(error),
        };
        let source = Source::Broker(Box::new(consumer), watch);
        let stream = Stream::new(source, Carrying::default(), flushes(request), hold, place);
        return Ok(stream.into_response(&outputs.queue.headers));
    }
    let query = Query::read(request.query_string())?;
    let patterns = query.patterns(&principal, outputs.worker.shared.limits.patterns_max)?;
    if patterns.is_empty() {
        return Err(Refusal::Forbidden);
    }
    let carrying = Carrying { carried: query.carried()?, has_ids: query.has_cursor()? };
    // Without places on the wire, what stands in the header is not of this stream.
    let seen = if carrying.has_ids { seen_last(request)? } else { None };
    let place = outputs.enter(request)?;
    let hold = tickets.open_claimed(claim).await;
    let consumer = consume(outputs, &name, &patterns, ticket, principal, seen).await?;
    let stream = Stream::new(Source::Log(consumer), carrying, flushes(request), hold, place);
    Ok(stream.into_response(&outputs.queue.headers))
}

/// What the broker says, as eventsourced passed it on.
fn refuse(error: BrokerError) -> Result<HttpResponse, Refusal> {
    let code = match error {
        BrokerError::Taken => return Err(Refusal::Queue(QueueFault::Taken)),
        BrokerError::Full => "TOO_MANY_CHANNELS",
        BrokerError::NotFound | BrokerError::Refused(..) => "QUEUE_REFUSED",
    };
    let mut response = refusal(StatusCode::SERVICE_UNAVAILABLE, code);
    // It may be in any language, but not on several lines.
    let reason = error.to_string().replace(char::is_control, " ");
    if let Ok(reason) = HeaderValue::from_bytes(reason.as_bytes()) {
        response.headers_mut().insert(STATUS_REASON, reason);
    }
    Ok(response)
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
