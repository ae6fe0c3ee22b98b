//! WebSocket sessions: the upgrade, and the way of the connection out of the HTTP server.
//!
//! The server would keep its buffers for the life of a connection. So after the handshake the
//! connection is ours alone: one small task that reads, and a socket that the worker writes to.

use std::net::IpAddr;
use std::panic::AssertUnwindSafe;
use std::rc::Rc;

use actix_codec::Framed;
use actix_http::body::{BoxBody, MessageBody as _};
use actix_http::h1::{Codec, SendResponse};
use actix_http::{Request, Response};
use actix_web::dev::{Service, ServiceResponse};
use actix_web::http::Version;
use actix_web::http::header::{
    HeaderMap, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, UPGRADE,
};
use actix_web::web::Payload;
use actix_web::{HttpMessage as _, HttpRequest, HttpResponse};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures_util::FutureExt as _;
use shared::guard::Guard;
use tokio::io::AsyncWriteExt as _;

use crate::census::Place;
use crate::refusal::Refusal;
use crate::tickets::{Claim, Hold};
use crate::websocket::client::Client;
use crate::websocket::dialect::Begin;
use crate::worker::Worker;

pub mod client;
mod connection;
pub mod dialect;
pub mod formats;
pub mod frame;
pub mod reader;

/// Marks a request whose connection can be taken over.
#[derive(Debug, Clone, Copy)]
pub struct CanUpgrade;

/// What a session begins with; travels from the handshake to the taking over of the connection.
pub struct Beginning {
    /// Its place among all sessions.
    pub place: Place,
    /// Its hold on the ticket that let it in, if one did.
    pub hold: Option<Hold>,
    /// What it is to be said on it.
    pub begin: Begin,
}

/// Whether a request asks for this protocol, and not for none or another (RFC 9110 §7.8).
pub fn is_asked_for(headers: &HeaderMap) -> bool {
    let protocols = headers.get_all(UPGRADE).filter_map(|value| value.to_str().ok());
    let mut protocols = protocols.flat_map(|value| value.split(','));
    protocols.any(|protocol| protocol.trim().eq_ignore_ascii_case("websocket"))
}

/// What a client has shown and asked for in its request.
pub struct Asked<'a> {
    /// Its address.
    pub client: IpAddr,
    /// Its claim to the ticket that it has shown, if it was one.
    pub claim: Option<Claim>,
    /// Which of the subprotocols that it offers it gets.
    pub subprotocol: Option<&'a str>,
    /// What is to be said on the connection.
    pub begin: Begin,
}

/// Judges a handshake (RFC 6455 §4.2.1) and answers it.
pub async fn upgrade(
    request: &HttpRequest,
    payload: Payload,
    worker: &Worker,
    asked: Asked<'_>,
) -> Result<HttpResponse, Refusal> {
    let Asked { client, claim, subprotocol, begin } = asked;
    let is_takeable = request.extensions().get::<CanUpgrade>().is_some();
    if !is_takeable || request.version() < Version::HTTP_11 {
        return Err(Refusal::InvalidRequest);
    }
    judge_headers(request.headers())?;
    let place = worker.shared.census.enter(client).ok_or(Refusal::TooManySessions)?;
    let (mut response, _, _) =
        actix_ws::handle_with_protocols(request, payload, subprotocol.as_slice())
            .map_err(|_| Refusal::InvalidRequest)?;
    // The library's way to write is not ours: its body would be polled for ever.
    response = response.set_body(BoxBody::new(()));
    let hold = worker.shared.tickets.open_claimed(claim).await;
    response.extensions_mut().insert(Beginning { place, hold, begin });
    Ok(response)
}

/// The subprotocols that a client offers, in its order.
pub fn offered(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let lines = headers.get_all(SEC_WEBSOCKET_PROTOCOL).filter_map(|value| value.to_str().ok());
    lines.flat_map(|line| line.split(',')).map(str::trim).filter(|it| !it.is_empty())
}

fn judge_headers(headers: &HeaderMap) -> Result<(), Refusal> {
    let one = |name| {
        let mut values = headers.get_all(name);
        let value = values.next();
        if values.next().is_some() { None } else { value }
    };
    if one(SEC_WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
        return Err(Refusal::WrongVersion);
    }
    let key = one(SEC_WEBSOCKET_KEY).and_then(|key| STANDARD.decode(key.as_bytes()).ok());
    if key.is_none_or(|key| key.len() != 16) {
        return Err(Refusal::InvalidRequest);
    }
    Ok(())
}

/// Answers a request that asks to upgrade, through the same table as every other, and takes its
/// connection over if the answer is a 101.
pub async fn take_over<S>(
    app: Rc<S>,
    worker: Rc<Worker>,
    request: Request,
    framed: Framed<Guard, Codec>,
) -> Result<(), actix_web::Error>
where
    S: Service<Request, Response = ServiceResponse, Error = actix_web::Error>,
{
    request.extensions_mut().insert(CanUpgrade);
    let mut response: Response<BoxBody> = app.call(request).await?.into();
    let beginning = response.extensions_mut().remove::<Beginning>();
    // No answer of ours is a stream.
    let response = response.map_body(|_, body| body.try_into_bytes().unwrap_or_default());
    let Ok(mut framed) = SendResponse::new(framed, response).await else {
        log::debug!("a client left before its upgrade was answered");
        return Ok(());
    };
    let Some(beginning) = beginning else {
        // The client may be gone; the connection ends anyway.
        let _ = framed.io_mut().shutdown().await;
        return Ok(());
    };
    let parts = framed.into_parts();
    let first = parts.read_buf.freeze();
    let client = Client::new(worker, parts.io.into_parts(), &first, beginning);
    // A task of its own: the one that we are in holds on to what the HTTP server needed.
    tokio::task::spawn_local(run(client));
    Ok(())
}

impl std::fmt::Debug for Asked<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Asked")
    }
}

impl std::fmt::Debug for Beginning {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Beginning")
    }
}

/// Runs a session. A panic ends it alone.
async fn run(client: Client) {
    let (output, worker) = (client.output(), client.worker());
    if AssertUnwindSafe(client).catch_unwind().await.is_err() {
        log::error!("a session has failed");
        worker.shared.metrics.panics.inc();
        Client::apologise(&*output);
    }
}
