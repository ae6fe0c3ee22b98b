//! The table of routes: path, method and credential are judged here, once for every way in.

use std::sync::Arc;
use std::time::{Duration, Instant};

use actix_http::body::BoxBody;
use actix_http::{ConnectionType, Request, RequestHead, Response};
use actix_web::http::header::{ALLOW, AUTHORIZATION, HeaderValue, UPGRADE};
use actix_web::http::{Method, StatusCode};
use actix_web::web::{Data, Payload};
use actix_web::{HttpMessage as _, HttpRequest, HttpResponse};
use prometheus_client::metrics::counter::Counter;
use shared::address::Network;
use shared::credentials::Credentials;
use shared::failures::Failures;
use shared::http::{HEALTHY, client_address, is_refused, json, refusal, retry_after};
use shared::memory::Memory;
use shared::occupancy::Occupancy;
use shared::principal::Principal;
use shared::publisher::{AdmitError, Publisher};

use crate::metrics::Metrics;

pub mod event;

/// Who may ask for what, as far as the head tells.
enum Admitted {
    Event(Arc<Principal>),
    Health,
}

/// What one worker's ways in have in common.
#[derive(Debug)]
pub struct Inputs {
    /// The gate.
    pub publisher: Publisher,
    /// The largest body, unpacked.
    pub body_bytes_max: usize,
    /// The account of bodies and queues.
    pub memory: Arc<Memory>,
    /// This worker's count of events that were taken.
    pub accepted: Counter,
    /// What all workers count.
    pub metrics: Arc<Metrics>,
    /// Wrong credentials by address.
    pub failures: Arc<Failures>,
    /// Proxies that are believed.
    pub trusted_proxies: Arc<[Network]>,
    /// The door's state.
    pub occupancy: Arc<Occupancy>,
}

/// A path, the one method it takes, and what is behind it.
struct Route {
    path: &'static str,
    method: Method,
    handler: Handler,
}

enum Handler {
    Event,
    Health,
}

/// Every path of this process.
const ROUTES: &[Route] = &[
    Route { path: "/event", method: Method::POST, handler: Handler::Event },
    Route { path: "/healthz", method: Method::GET, handler: Handler::Health },
];

/// Answers any request.
pub async fn answer(request: HttpRequest, payload: Payload, inputs: Data<Inputs>) -> HttpResponse {
    let mut response = route(&request, payload, &inputs).await;
    if inputs.occupancy.is_draining() || is_refused(&request) || offers_upgrade(&request) {
        response.head_mut().set_connection_type(ConnectionType::Close);
    }
    response
}

async fn route(request: &HttpRequest, payload: Payload, inputs: &Inputs) -> HttpResponse {
    if is_refused(request) {
        return inputs.refuse_for_now("TOO_MANY_CONNECTIONS");
    }
    let judged = request.extensions_mut().remove::<Admitted>();
    let admitted = match judged {
        Some(admitted) => Ok(admitted),
        None => inputs.judge(request.head()).await,
    };
    match admitted {
        Ok(Admitted::Event(principal)) => event::post(request, payload, inputs, &principal).await,
        Ok(Admitted::Health) => json(StatusCode::OK, HEALTHY),
        Err(response) => response,
    }
}

/// Judges a request that waits for a word before it sends its body (RFC 9110 §10.1.1): a
/// stranger is refused without one.
pub async fn expect(request: Request, inputs: Data<Inputs>) -> Result<Request, Response<BoxBody>> {
    match inputs.judge(request.head()).await {
        Ok(admitted) => {
            // It is not judged twice: that would take two turns of its token's rate.
            request.extensions_mut().insert(admitted);
            Ok(request)
        }
        Err(response) => Err(response.into()),
    }
}

/// As the original's router did: any case, and one slash at the end.
fn find(path: &str) -> Option<&'static Route> {
    let trimmed = path.strip_suffix('/').unwrap_or(path);
    ROUTES.iter().find(|route| route.path.eq_ignore_ascii_case(trimmed))
}

/// What is behind such an upgrade is the HTTP server's guess: nothing more is read from there.
fn offers_upgrade(request: &HttpRequest) -> bool {
    request.headers().contains_key(UPGRADE)
}

impl Inputs {
    /// Judges path, method and credential, in this order.
    async fn judge(&self, head: &RequestHead) -> Result<Admitted, HttpResponse> {
        let Some(route) = find(head.uri.path()) else {
            return Err(self.refuse(StatusCode::NOT_FOUND, "NOT_FOUND"));
        };
        let is_head = route.method == Method::GET && head.method == Method::HEAD;
        if route.method != head.method && !is_head {
            let mut response = self.refuse(StatusCode::METHOD_NOT_ALLOWED, "METHOD_NOT_ALLOWED");
            let allow = if route.method == Method::GET { "GET, HEAD" } else { "POST" };
            response.headers_mut().insert(ALLOW, HeaderValue::from_static(allow));
            return Err(response);
        }
        match route.handler {
            Handler::Health => Ok(Admitted::Health),
            Handler::Event => self.admit(head).await.map(Admitted::Event),
        }
    }

    /// Decides who asks, from the head alone: a stranger cannot make us read a body.
    async fn admit(&self, head: &RequestHead) -> Result<Arc<Principal>, HttpResponse> {
        let shown = head.headers.get_all(AUTHORIZATION).map(HeaderValue::as_bytes);
        let Ok(shown) = Credentials::from_headers(shown) else {
            return Err(self.refuse(StatusCode::BAD_REQUEST, "INVALID_REQUEST"));
        };
        match self.publisher.admit(&shown) {
            Ok(principal) => Ok(principal),
            Err(AdmitError::RateLimited(wait)) => {
                let response = self.refuse(StatusCode::TOO_MANY_REQUESTS, "RATE_LIMITED");
                Err(retry_after(response, wait))
            }
            Err(AdmitError::Refused(error)) => {
                let client = client_address(head, &self.trusted_proxies);
                if let Some(penalty) = self.failures.record(client, Instant::now()) {
                    tokio::time::sleep(penalty).await;
                }
                Err(self.refuse(StatusCode::FORBIDDEN, error.code()))
            }
        }
    }

    /// Refuses, and counts it.
    pub fn refuse(&self, status: StatusCode, code: &'static str) -> HttpResponse {
        self.metrics.refuse(code);
        refusal(status, code)
    }

    /// Refuses what may be asked again soon.
    pub fn refuse_for_now(&self, code: &'static str) -> HttpResponse {
        let response = self.refuse(StatusCode::SERVICE_UNAVAILABLE, code);
        retry_after(response, Duration::from_secs(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_found_in_any_case_and_with_one_slash_at_its_end() {
        for path in ["/event", "/event/", "/EVENT", "/Event/"] {
            assert!(find(path).is_some_and(|route| route.path == "/event"), "{path}");
        }
        for path in ["/", "", "/event//", "//event", "/events", "/event/x", "event"] {
            assert!(find(path).is_none(), "{path}");
        }
    }
}
