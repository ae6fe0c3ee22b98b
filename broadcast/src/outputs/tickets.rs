//! `POST /tickets`: what admits a stream whose client cannot set headers (WIRE §3.2).

use std::time::Instant;

use actix_web::http::StatusCode;
use actix_web::{HttpRequest, HttpResponse};
use shared::http::json;

use crate::admission::Refusing;
use crate::outputs::Outputs;
use crate::refusal::Refusal;

/// Gives a ticket to whoever shows a credential.
pub async fn give(request: &HttpRequest, outputs: &Outputs) -> Result<HttpResponse, Refusal> {
    let shown = outputs.authenticate(request, Refusing::Request).await?;
    // A ticket buys no other ticket: it is good for one stream.
    let shown = shown.filter(|shown| shown.claim.is_none()).or_else(|| outputs.anonymous());
    let shown = shown.ok_or(Refusal::Unauthorized("UNAUTHENTICATED"))?;
    let tickets = &outputs.worker.shared.tickets;
    let ticket = tickets.give(&shown.principal, Instant::now()).await.map_err(|error| {
        log::error!("no ticket can be given: {error}");
        Refusal::Unreadable
    })?;
    // It is letters, digits, `-` and `_`: nothing that JSON would escape.
    Ok(json(StatusCode::OK, format!(r#"{{"ticket":"{ticket}"}}"#)))
}
