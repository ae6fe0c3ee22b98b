//! The table of routes: path, method and credential are judged here, once for every way in.

use std::num::NonZeroU32;
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
use shared::documents;
use shared::failures::Failures;
use shared::http::{HEALTHY, client_address, is_refused, json, refusal, retry_after};
use shared::link::sender::Sender;
use shared::memory::Memory;
use shared::occupancy::Occupancy;
use shared::principal::Principal;
use shared::publisher::{AdmitError, Identity, PublishError, Publisher};

use crate::metrics::Metrics;
use shared::body::{self, Body, BodyError, Encoding};

pub mod amqp;
pub mod cloudevents;
pub mod event;

/// What everybody is answered who did not ask for more.
pub(crate) const ACCEPTED: &str = r#"{"code":"OK"}"#;

/// Who may ask for what, as far as the head tells.
enum Admitted {
    Publisher(Publishing, Arc<Principal>),
    Anybody(Open),
}

/// What one worker's ways in have in common.
#[derive(Debug)]
pub struct Inputs {
    /// The gate.
    pub publisher: Publisher<Sender>,
    /// How long an event may wait for broadcast to take it.
    pub publish_timeout: Duration,
    /// How many requests a second a token may make, if that is limited.
    pub rate: Option<NonZeroU32>,
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

/// A path, and what is behind it.
struct Route {
    path: &'static str,
    /// By method; a GET answers HEAD, too.
    behind: &'static [(Method, Behind)],
    /// All of its methods.
    allow: &'static str,
}

/// What is behind a path and a method.
#[derive(Debug, Clone, Copy)]
enum Behind {
    Publishing(Publishing),
    Open(Open),
}

/// What needs a credential.
#[derive(Debug, Clone, Copy)]
enum Publishing {
    Event,
    CloudEvents,
}

/// What needs none.
#[derive(Debug, Clone, Copy)]
enum Open {
    Health,
    WebHook,
    Document(&'static str),
}

const fn get(open: Open) -> (Method, Behind) {
    (Method::GET, Behind::Open(open))
}

/// Every path of this process.
const ROUTES: &[Route] = &[
    Route {
        path: "/event",
        behind: &[(Method::POST, Behind::Publishing(Publishing::Event))],
        allow: "POST",
    },
    Route {
        path: "/events",
        behind: &[
            (Method::POST, Behind::Publishing(Publishing::CloudEvents)),
            (Method::OPTIONS, Behind::Open(Open::WebHook)),
        ],
        allow: "POST, OPTIONS",
    },
    Route { path: "/healthz", behind: &[get(Open::Health)], allow: "GET, HEAD" },
    Route {
        path: documents::OPENAPI_PATH,
        behind: &[get(Open::Document(documents::OPENAPI))],
        allow: "GET, HEAD",
    },
    Route {
        path: documents::ASYNCAPI_PATH,
        behind: &[get(Open::Document(documents::ASYNCAPI))],
        allow: "GET, HEAD",
    },
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
        Ok(Admitted::Publisher(Publishing::Event, principal)) => {
            event::post(request, payload, inputs, &principal).await
        }
        Ok(Admitted::Publisher(Publishing::CloudEvents, principal)) => {
            cloudevents::post(request, payload, inputs, &principal).await
        }
        Ok(Admitted::Anybody(Open::Health)) => json(StatusCode::OK, HEALTHY),
        Ok(Admitted::Anybody(Open::WebHook)) => cloudevents::allow_webhook(request, inputs),
        Ok(Admitted::Anybody(Open::Document(text))) => json(StatusCode::OK, text),
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
        let method = if head.method == Method::HEAD { &Method::GET } else { &head.method };
        match route.behind.iter().find(|(it, _)| it == method) {
            None => {
                let code = "METHOD_NOT_ALLOWED";
                let mut response = self.refuse(StatusCode::METHOD_NOT_ALLOWED, code);
                response.headers_mut().insert(ALLOW, HeaderValue::from_static(route.allow));
                Err(response)
            }
            Some((_, Behind::Open(open))) => Ok(Admitted::Anybody(*open)),
            Some((_, Behind::Publishing(publishing))) => {
                Ok(Admitted::Publisher(*publishing, self.admit(head).await?))
            }
        }
    }

    /// Reads the body of a request, unpacked.
    async fn read_body(
        &self,
        request: &HttpRequest,
        payload: Payload,
    ) -> Result<Body, HttpResponse> {
        let read = match Encoding::of(request) {
            Ok(encoding) => {
                body::read(request, payload, encoding, self.body_bytes_max, &self.memory).await
            }
            Err(error) => Err(error),
        };
        read.map_err(|error| match error {
            BodyError::NoRoom => self.refuse_for_now("UNAVAILABLE"),
            BodyError::UnsupportedEncoding => {
                self.refuse(StatusCode::UNSUPPORTED_MEDIA_TYPE, "UNSUPPORTED_MEDIA")
            }
            BodyError::TooLarge => self.refuse(StatusCode::PAYLOAD_TOO_LARGE, "BODY_TOO_LARGE"),
            BodyError::Corrupt | BodyError::Broken => {
                self.refuse(StatusCode::BAD_REQUEST, "INVALID_BODY")
            }
        })
    }

    /// Answers for an event that was not taken, or may not have been.
    pub fn refuse_event(&self, error: PublishError) -> HttpResponse {
        match error {
            PublishError::Forbidden => self.refuse(StatusCode::FORBIDDEN, "FORBIDDEN"),
            PublishError::Unreachable => self.refuse_for_now("UNAVAILABLE"),
            PublishError::TooLarge => self.refuse(StatusCode::PAYLOAD_TOO_LARGE, "BODY_TOO_LARGE"),
            PublishError::Undecided(Identity { id, source }) => {
                self.metrics.refuse("UNAVAILABLE");
                let (id, source) = (quote(&id), quote(&source));
                let body = format!(
                    r#"{{"code":"UNAVAILABLE","accepted":"unknown","id":{id},"source":{source}}}"#
                );
                let response = json(StatusCode::SERVICE_UNAVAILABLE, body);
                retry_after(response, Duration::from_secs(1))
            }
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

/// A JSON string.
fn quote(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_found_in_any_case_and_with_one_slash_at_its_end() {
        for path in ["/event", "/event/", "/EVENT", "/Event/"] {
            assert!(find(path).is_some_and(|route| route.path == "/event"), "{path}");
        }
        for path in ["/", "", "/event//", "//event", "/eventss", "/event/x", "event"] {
            assert!(find(path).is_none(), "{path}");
        }
    }
}
