//! What all HTTP doors have in common: the server's settings, and how a refusal looks.

use std::convert::Infallible;
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use actix_http::{HttpServiceBuilder, KeepAlive, Protocol, Request, RequestHead};
use actix_web::body::{BodySize, BoxBody, MessageBody};
use actix_web::dev::{Service, ServiceFactory};
use actix_web::http::StatusCode;
use actix_web::http::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use actix_web::{HttpRequest, HttpResponse};
use bytes::Bytes;

use crate::address::{self, Network};
use crate::guard::Guard;
use crate::guard::flushes::Flushes;
use crate::memory::Held;

/// HARDENING: how long a kept connection may be idle.
pub const KEEP_ALIVE: Duration = Duration::from_secs(75);

/// A builder with no expectation and no upgrade yet.
pub type Builder<S> =
    HttpServiceBuilder<Guard, S, actix_http::h1::ExpectHandler, actix_http::h1::UpgradeHandler>;

/// The settings of every HTTP server. `linger` is how long the answer to a request whose body was
/// not read may take to reach the client before the connection ends.
pub fn builder<S>(linger: Duration) -> Builder<S>
where
    S: ServiceFactory<Request, Config = ()>,
    S::Error: Into<actix_http::Response<actix_http::body::BoxBody>> + 'static,
    S::InitError: std::fmt::Debug,
    <S::Service as Service<Request>>::Future: 'static,
{
    HttpServiceBuilder::default()
        .keep_alive(KeepAlive::Timeout(KEEP_ALIVE))
        // The guard has the deadlines: these time the first head of a connection only.
        .client_request_timeout(Duration::ZERO)
        .client_disconnect_timeout(linger)
        .on_connect_ext(|guard: &Guard, extensions| {
            if guard.admission().is_refused {
                extensions.insert(Refused);
            }
            extensions.insert(Rc::clone(guard.flushes()));
        })
}

/// Serves guarded connections with what a builder made.
pub fn serve<S>(service: S) -> impl Fn(Guard) -> Pin<Box<dyn Future<Output = ()>>>
where
    S: Service<(Guard, Protocol, Option<SocketAddr>), Response = ()> + 'static,
    S::Error: std::fmt::Display,
{
    let service = Rc::new(service);
    move |guard| {
        let service = Rc::clone(&service);
        Box::pin(async move {
            let peer = guard.socket().peer();
            if let Err(error) = service.call((guard, Protocol::Http1, Some(peer))).await {
                log::debug!("a connection ended: {error}");
            }
        })
    }
}

const JSON: &str = "application/json; charset=utf-8";

/// What `GET /healthz` answers on both doors.
pub const HEALTHY: &str = r#"{"status":200,"message":"OK"}"#;

/// Marks the requests of a connection for which there was no room.
#[derive(Debug, Clone, Copy)]
struct Refused;

/// Whether the request came on a connection for which there was no room.
pub fn is_refused(request: &HttpRequest) -> bool {
    request.conn_data::<Refused>().is_some()
}

/// When what is written on the connection of a request is with the kernel.
pub fn flushes(request: &HttpRequest) -> Rc<Flushes> {
    request.conn_data::<Rc<Flushes>>().cloned().unwrap_or_default()
}

/// The address of the client, behind the proxies that are trusted.
pub fn client_address(head: &RequestHead, trusted: &[Network]) -> IpAddr {
    let peer = head.peer_addr.map_or(IpAddr::from([0, 0, 0, 0]), |peer| peer.ip());
    let named =
        |name: &'static str| head.headers.get_all(name).filter_map(|value| value.to_str().ok());
    // A proxy that sets one of the two passes the other on as the client wrote it, so they are not
    // mixed: the one that nearly every proxy sets counts.
    if head.headers.contains_key("x-forwarded-for") {
        return address::of_client(peer, named("x-forwarded-for"), trusted);
    }
    address::of_client(peer, named("forwarded"), trusted)
}

/// Says when the request may be repeated (RFC 9110 §10.2.3): whole seconds, rounded up.
pub fn retry_after(mut response: HttpResponse, wait: Duration) -> HttpResponse {
    let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
    response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds.max(1)));
    response
}

/// An answer in JSON.
pub fn json(status: StatusCode, body: impl Into<Bytes>) -> HttpResponse {
    let mut response = HttpResponse::with_body(status, BoxBody::new(body.into()));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(JSON));
    response
}

/// An answer in JSON that may be large: it is on the account of memory until the client has it.
pub fn held_json(status: StatusCode, body: Bytes, held: Held) -> HttpResponse {
    let body = HeldBody { bytes: Some(body), held };
    let mut response = HttpResponse::with_body(status, BoxBody::new(body));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(JSON));
    response
}

/// A body on its way, on the account of memory until the client has it.
struct HeldBody {
    bytes: Option<Bytes>,
    held: Held,
}

impl MessageBody for HeldBody {
    type Error = Infallible;

    fn size(&self) -> BodySize {
        BodySize::Sized(self.bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
    }

    fn poll_next(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, Infallible>>> {
        let bytes = self.bytes.take();
        self.held.resize(bytes.as_ref().map_or(0, Bytes::len));
        Poll::Ready(bytes.map(Ok))
    }
}

/// A refusal with its stable code, which needs no escaping.
pub fn refusal(status: StatusCode, code: &'static str) -> HttpResponse {
    json(status, format!("{{\"code\":\"{code}\"}}"))
}
