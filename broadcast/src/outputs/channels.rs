//! Pipely's two routes (WIRE §6): `GET /subscribe` joins a channel as Server-Sent Events, `POST
//! /publish` tells something to all who have joined.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use actix_web::body::{BodySize, BoxBody, MessageBody};
use actix_web::http::StatusCode;
use actix_web::http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN, ALLOW,
    AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue, WWW_AUTHENTICATE,
};
use actix_web::web::Payload;
use actix_web::{HttpRequest, HttpResponse};
use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;
use shared::body::{self, BodyError, Encoding};
use shared::http::retry_after;
use shared::json;
use tokio::time::{Instant, Sleep, sleep_until};

use crate::census::Place;
use crate::channels::{Candidate, ChannelError, Channels, Membership, Message};
use crate::disconnect::Disconnect;
use crate::event_stream::{self, COMMENT, COMMENT_EVERY};
use crate::metrics::Metrics;
use crate::outputs::Outputs;
use crate::refusal::Refusal;
use crate::watch::Watch;

/// What is published, as it is sent. What we do not know is ignored.
#[derive(Debug, Deserialize)]
struct Published<'a> {
    #[serde(default)]
    channel_id: String,
    #[serde(default, rename = "type")]
    kind: String,
    #[serde(default)]
    origin_id: String,
    #[serde(borrow)]
    payload: Option<&'a RawValue>,
}

/// A fault in Pipely's own words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    status: StatusCode,
    text: String,
}

/// Joins a channel.
pub async fn subscribe(
    request: &HttpRequest,
    outputs: &Outputs,
    channels: &Arc<Channels>,
) -> Result<HttpResponse, Refusal> {
    let (mut channel, mut client, mut password) = (None, None, None);
    for (name, value) in form_urlencoded::parse(request.query_string().as_bytes()) {
        let place = match &*name {
            "channelId" => &mut channel,
            "clientId" => &mut client,
            "password" => &mut password,
            _ => continue,
        };
        // The first of each counts, as it did.
        place.get_or_insert_with(|| value.into_owned());
    }
    let candidate = Candidate {
        channel: channel.unwrap_or_default(),
        client: client.unwrap_or_default(),
        password: password.unwrap_or_default(),
    };
    let place = outputs.enter(request)?;
    let watch = Watch::stay(&outputs.worker);
    match channels.join(candidate) {
        Ok(membership) => {
            let metrics = &outputs.worker.shared.metrics;
            Ok(Stream::new(membership, metrics, watch, place).into_response())
        }
        Err(error) => {
            // Whoever has to wait for the answer takes no place from others.
            drop((place, watch));
            Ok(refuse(request, outputs, error.into()).await)
        }
    }
}

/// Tells something to a channel.
pub async fn publish(
    request: &HttpRequest,
    payload: Payload,
    outputs: &Outputs,
    channels: &Channels,
) -> HttpResponse {
    match tell(request, payload, outputs, channels).await {
        Ok(()) => HttpResponse::new(StatusCode::OK),
        Err(fault) => refuse(request, outputs, fault).await,
    }
}

async fn tell(
    request: &HttpRequest,
    payload: Payload,
    outputs: &Outputs,
    channels: &Channels,
) -> Result<(), Fault> {
    let encoding = Encoding::of(request)?;
    let memory = &outputs.worker.shared.memory;
    let body = body::read(request, payload, encoding, outputs.body_bytes_max, memory).await?;
    json::check(&body.bytes).map_err(|_| Fault::malformed())?;
    // serde would take a list for a struct, member by member.
    if body.bytes.trim_ascii_start().first() != Some(&b'{') {
        return Err(Fault::malformed());
    }
    let published = serde_json::from_slice(&body.bytes);
    let published: Published<'_> = published.map_err(|_| Fault::malformed())?;
    let Published { channel_id, kind, origin_id, payload } = &published;
    let payload = payload.map_or("null", RawValue::get);
    let message = Message { kind, origin: origin_id, payload };
    let password = password_of(request.headers())?;
    Ok(channels.publish(channel_id, password, &message)?)
}

/// The password in the head; nothing is as good as an empty one.
fn password_of(headers: &HeaderMap) -> Result<&str, Fault> {
    let mut shown = headers.get_all(AUTHORIZATION);
    let Some(value) = shown.next() else { return Ok("") };
    if shown.next().is_some() {
        return Err(Fault::new(StatusCode::BAD_REQUEST, "two Authorization headers"));
    }
    // What cannot be read is no channel's password.
    let value = std::str::from_utf8(value.as_bytes()).unwrap_or_default();
    let (scheme, password) = value.split_once(' ').unwrap_or_default();
    Ok(if scheme.eq_ignore_ascii_case("Password") { password } else { "" })
}

/// Answers with a fault. Whoever guesses passwords waits for each answer.
async fn refuse(request: &HttpRequest, outputs: &Outputs, fault: Fault) -> HttpResponse {
    if fault.status == StatusCode::UNAUTHORIZED {
        outputs.penalise(request).await;
    }
    outputs.worker.shared.metrics.refuse("CHANNEL");
    let response = fault.into_response();
    match response.status() {
        StatusCode::SERVICE_UNAVAILABLE => retry_after(response, Duration::from_secs(1)),
        _ => response,
    }
}

/// Another method than that of the route.
pub fn refuse_method(allowed: &'static str) -> HttpResponse {
    let mut response =
        Fault::new(StatusCode::METHOD_NOT_ALLOWED, "method not allowed").into_response();
    response.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed));
    response
}

/// What a browser is told before it lets a page of another origin ask (CORS).
pub fn preflight() -> HttpResponse {
    let mut response = HttpResponse::new(StatusCode::NO_CONTENT);
    let headers = response.headers_mut();
    let methods = HeaderValue::from_static("GET, POST, OPTIONS");
    headers.insert(ACCESS_CONTROL_ALLOW_METHODS, methods);
    let allowed = HeaderValue::from_static("Authorization, Content-Type, Cache-Control");
    headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, allowed);
    response
}

/// Lets every page read the answer: who is in a channel is known by its password.
pub fn share(headers: &mut HeaderMap) {
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
}

impl Fault {
    fn new(status: StatusCode, text: impl Into<String>) -> Self {
        Self { status, text: text.into() }
    }

    fn malformed() -> Self {
        Self::new(StatusCode::BAD_REQUEST, "request body is not a valid JSON event")
    }

    fn into_response(self) -> HttpResponse {
        let text = self.text + "\n";
        let mut response = HttpResponse::with_body(self.status, BoxBody::new(text));
        let kind = HeaderValue::from_static("text/plain; charset=utf-8");
        response.headers_mut().insert(CONTENT_TYPE, kind);
        if self.status == StatusCode::UNAUTHORIZED {
            // RFC 9110 §15.5.2: it names a scheme.
            let scheme = HeaderValue::from_static("Password");
            response.headers_mut().insert(WWW_AUTHENTICATE, scheme);
        }
        response
    }
}

impl From<ChannelError> for Fault {
    fn from(error: ChannelError) -> Self {
        let status = match error {
            ChannelError::WrongPassword => StatusCode::UNAUTHORIZED,
            ChannelError::NoChannel => StatusCode::NOT_FOUND,
            ChannelError::TooManyChannels
            | ChannelError::TooManyClients
            | ChannelError::TooManyClientsInAll
            | ChannelError::NoRoom => StatusCode::SERVICE_UNAVAILABLE,
            ChannelError::BadChannel
            | ChannelError::BadClient
            | ChannelError::LongClient
            | ChannelError::LongPassword
            | ChannelError::TakenClient
            | ChannelError::BadType
            | ChannelError::BadOrigin => StatusCode::BAD_REQUEST,
        };
        Self::new(status, error.to_string())
    }
}

impl From<BodyError> for Fault {
    fn from(error: BodyError) -> Self {
        let status = match error {
            BodyError::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            BodyError::UnsupportedEncoding => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            BodyError::NoRoom => StatusCode::SERVICE_UNAVAILABLE,
            BodyError::Corrupt | BodyError::Broken => StatusCode::BAD_REQUEST,
        };
        Self::new(status, error.to_string())
    }
}

/// The body of a response that is a client's stream.
struct Stream {
    membership: Membership,
    metrics: Arc<Metrics>,
    /// The end of the session.
    end: Pin<Box<dyn Future<Output = ()>>>,
    comment: Pin<Box<Sleep>>,
    #[expect(dead_code, reason = "the session's place until it is dropped")]
    place: Place,
}

impl Stream {
    fn new(membership: Membership, metrics: &Arc<Metrics>, watch: Watch, place: Place) -> Self {
        let end = Box::pin(async move {
            watch.end().await;
        });
        let comment = Box::pin(sleep_until(Instant::now() + COMMENT_EVERY));
        Self { membership, metrics: Arc::clone(metrics), end, comment, place }
    }

    fn into_response(self) -> HttpResponse {
        event_stream::respond("text/event-stream", BoxBody::new(self))
    }
}

impl MessageBody for Stream {
    type Error = io::Error;

    fn size(&self) -> BodySize {
        BodySize::Stream
    }

    fn poll_next(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, io::Error>>> {
        let this = self.get_mut();
        let mut out = match this.membership.mailbox.poll_take(cx) {
            Poll::Ready(Ok(bytes)) => Some(bytes),
            // Cut off, or the client would take what it has for all there was.
            Poll::Ready(Err(_)) => {
                return Poll::Ready(Some(Err(io::ErrorKind::ConnectionAborted.into())));
            }
            // What was told before the end comes before it.
            Poll::Pending if this.end.as_mut().poll(cx).is_ready() => return Poll::Ready(None),
            Poll::Pending => None,
        };
        if out.is_none() && this.comment.as_mut().poll(cx).is_ready() {
            out = Some(Bytes::from_static(COMMENT));
        }
        let Some(out) = out else { return Poll::Pending };
        this.comment.as_mut().reset(Instant::now() + COMMENT_EVERY);
        Poll::Ready(Some(Ok(out)))
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        // The HTTP server asks nothing more of a stream whose client takes nothing: so it is counted
        // when it has ended, and not when it is cut off.
        if self.membership.mailbox.is_overflown() {
            self.metrics.disconnect(Disconnect::SlowConsumer);
        }
    }
}
