//! `GET /queues`, `DELETE /queues/{name}`: durable queues as an operator sees them (WIRE §7).

use std::borrow::Cow;

use actix_web::http::StatusCode;
use actix_web::{HttpRequest, HttpResponse};
use percent_encoding::percent_decode_str;
use shared::amqp::PATIENCE;
use shared::http::json;
use shared::json::push_string;
use tokio::time::Instant;

use crate::admission::Refusing;
use crate::broker::BrokerError;
use crate::outputs::Outputs;
use crate::places::queue_in;
use crate::queues::queue::Listed;
use crate::refusal::Refusal;

/// Lists all queues.
pub async fn list(request: &HttpRequest, outputs: &Outputs) -> Result<HttpResponse, Refusal> {
    admit(request, outputs).await?;
    if let Some(broker) = &outputs.queue.broker {
        return Ok(list_of(&broker.list()));
    }
    let shared = &outputs.worker.shared;
    let (epoch, expires, now) = (&shared.archive.epoch, shared.queues.expires(), Instant::now());
    let mut body = b"{\"queues\":[".to_vec();
    for (index, queue) in shared.queues.list().iter().enumerate() {
        let Listed { name, patterns, place, events, bytes, dropped, idle_since } = queue;
        body.extend_from_slice(if index == 0 { b"{\"name\":" } else { b",{\"name\":" });
        push_string(name, &mut body);
        body.extend_from_slice(b",\"types\":[");
        for (index, pattern) in patterns.iter().enumerate() {
            if index > 0 {
                body.push(b',');
            }
            push_string(pattern.as_str(), &mut body);
        }
        let (cursor, consumers) = (epoch.at(*place), u8::from(idle_since.is_none()));
        body.extend_from_slice(
            format!(
                "],\"cursor\":\"{cursor}\",\"events\":{events},\"bytes\":{bytes},\
                 \"dropped\":{dropped},\"consumers\":{consumers}"
            )
            .as_bytes(),
        );
        if let Some(since) = idle_since {
            let left = expires.saturating_sub(now.saturating_duration_since(*since)).as_secs();
            body.extend_from_slice(format!(",\"expires_in\":\"{left}s\"").as_bytes());
        }
        body.push(b'}');
    }
    body.extend_from_slice(b"]}");
    Ok(json(StatusCode::OK, body))
}

/// Lists those queues of the broker that are consumed here: it tells nobody of the others.
fn list_of(names: &[String]) -> HttpResponse {
    let mut body = b"{\"queues\":[".to_vec();
    for (index, name) in names.iter().enumerate() {
        body.extend_from_slice(if index == 0 { b"{\"name\":" } else { b",{\"name\":" });
        push_string(name, &mut body);
        body.extend_from_slice(b",\"consumers\":1}");
    }
    body.extend_from_slice(b"]}");
    json(StatusCode::OK, body)
}

/// Removes a queue. Its consumer, if there is one, is sent away.
pub async fn remove(request: &HttpRequest, outputs: &Outputs) -> Result<HttpResponse, Refusal> {
    admit(request, outputs).await?;
    let name = queue_in(request.path()).and_then(decode).ok_or(Refusal::NotFound)?;
    let is_removed = match &outputs.queue.broker {
        None => outputs.worker.shared.queues.remove(&name).await,
        Some(broker) => match tokio::time::timeout(PATIENCE, broker.remove(&name)).await {
            Ok(Ok(())) => true,
            Ok(Err(BrokerError::NotFound)) => false,
            Ok(Err(_)) | Err(_) => return Err(Refusal::Unreadable),
        },
    };
    if is_removed {
        return Ok(json(StatusCode::OK, "{\"code\":\"OK\"}"));
    }
    Err(Refusal::NotFound)
}

/// Undoes percent-encoding (RFC 3986 §2.1); `None` where that gives no text.
fn decode(name: &str) -> Option<String> {
    percent_decode_str(name).decode_utf8().ok().map(Cow::into_owned)
}

/// Lets operators pass.
async fn admit(request: &HttpRequest, outputs: &Outputs) -> Result<(), Refusal> {
    let shown = outputs.authenticate(request, Refusing::Request).await?;
    // A ticket is good for a stream.
    let shown = shown.filter(|shown| shown.claim.is_none()).or_else(|| outputs.anonymous());
    let shown = shown.ok_or(Refusal::Unauthorized("UNAUTHENTICATED"))?;
    if shown.principal.grant.admin { Ok(()) } else { Err(Refusal::Forbidden) }
}
