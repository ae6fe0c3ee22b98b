//! The table of routes: path, method, Origin, 405 and 426 are judged here, once, for plain and for
//! upgraded requests alike.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix_http::ConnectionType;
use actix_web::http::header::{ALLOW, AUTHORIZATION, HeaderValue, ORIGIN};
use actix_web::http::{Method, StatusCode};
use actix_web::web::{Data, Payload};
use actix_web::{HttpMessage as _, HttpRequest, HttpResponse};
use shared::address::Network;
use shared::credentials::Credentials;
use shared::http::{HEALTHY, client_address, is_refused, json, refusal, retry_after};
use shared::occupancy::Occupancy;
use shared::principal::Principal;

use crate::worker::Worker;

pub mod websocket;

/// What one worker's ways out have in common.
#[derive(Debug)]
pub struct Outputs {
    /// The worker.
    pub worker: Rc<Worker>,
    /// Web origins whose pages may come; all where it is empty.
    pub allowed_origins: Arc<[String]>,
    /// Proxies that are believed.
    pub trusted_proxies: Arc<[Network]>,
    /// The door's state.
    pub occupancy: Arc<Occupancy>,
}

/// Marks a request whose connection can be taken over.
#[derive(Debug, Clone, Copy)]
pub struct CanUpgrade;

/// Answers any request. A 101 carries in its extensions what the session begins with.
pub async fn answer(
    request: HttpRequest,
    payload: Payload,
    outputs: Data<Outputs>,
) -> HttpResponse {
    let mut response = match route(&request, payload, &outputs).await {
        Ok(response) => response,
        Err(refusal) => outputs.refuse(refusal),
    };
    // A 101 and a 426 name `upgrade` in Connection, as they must.
    let names_upgrade =
        matches!(response.status(), StatusCode::SWITCHING_PROTOCOLS | StatusCode::UPGRADE_REQUIRED);
    // Whoever asks to upgrade has left the HTTP server: there is no next request.
    let is_last = request.extensions().get::<CanUpgrade>().is_some();
    if !names_upgrade && (is_last || outputs.occupancy.is_draining() || is_refused(&request)) {
        response.head_mut().set_connection_type(ConnectionType::Close);
    }
    response
}

async fn route(
    request: &HttpRequest,
    payload: Payload,
    outputs: &Outputs,
) -> Result<HttpResponse, Refusal> {
    if is_refused(request) {
        return Err(Refusal::TooManySessions);
    }
    let path = request.path();
    if path.strip_suffix('/').unwrap_or(path).eq_ignore_ascii_case("/healthz") {
        return match *request.method() {
            Method::GET | Method::HEAD => Ok(json(StatusCode::OK, HEALTHY)),
            _ => Err(Refusal::MethodNotAllowed("GET, HEAD")),
        };
    }
    if outputs.worker.is_closed() {
        return Err(Refusal::Restarting);
    }
    // Every other path is the WebSocket's.
    if !websocket::is_asked_for(request.headers()) {
        return Err(Refusal::UpgradeRequired);
    }
    if request.method() != Method::GET {
        return Err(Refusal::MethodNotAllowed("GET"));
    }
    outputs.judge_origin(request)?;
    let principal = outputs.authenticate(request).await?;
    websocket::upgrade(request, payload, outputs, principal, None).await
}

impl Outputs {
    /// Only browsers send an Origin, and they let no page choose it.
    fn judge_origin(&self, request: &HttpRequest) -> Result<(), Refusal> {
        let mut origins = request.headers().get_all(ORIGIN);
        let Some(origin) = origins.next().filter(|_| !self.allowed_origins.is_empty()) else {
            return Ok(());
        };
        let is_allowed =
            |allowed: &String| origin.as_bytes().eq_ignore_ascii_case(allowed.as_bytes());
        if origins.next().is_none() && self.allowed_origins.iter().any(is_allowed) {
            return Ok(());
        }
        Err(Refusal::Forbidden)
    }

    /// Decides who asks by a credential in the head, where there is one.
    async fn authenticate(&self, request: &HttpRequest) -> Result<Option<Arc<Principal>>, Refusal> {
        let shown = request.headers().get_all(AUTHORIZATION).map(HeaderValue::as_bytes);
        let shown = Credentials::from_headers(shown).map_err(|_| Refusal::InvalidRequest)?;
        if shown == Credentials::Absent {
            return Ok(None);
        }
        let authenticated = self.worker.shared.tokens.load().authenticate(&shown);
        match authenticated {
            Ok(principal) => Ok(Some(principal)),
            Err(error) => {
                let client = client_address(request.head(), &self.trusted_proxies);
                if let Some(penalty) = self.worker.shared.failures.record(client, Instant::now()) {
                    tokio::time::sleep(penalty).await;
                }
                Err(Refusal::Unauthenticated(error.code()))
            }
        }
    }

    fn refuse(&self, refusal: Refusal) -> HttpResponse {
        self.worker.shared.metrics.refuse(refusal.code());
        refusal.into_response()
    }
}

/// Why a request is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The request breaks the rules of its protocol.
    InvalidRequest,
    /// The credential is no good, with the code that says how.
    Unauthenticated(&'static str),
    /// The page may not come.
    Forbidden,
    /// There is nothing here for a request without an upgrade.
    UpgradeRequired,
    /// Another version of WebSocket than 13.
    WrongVersion,
    /// Another method than these.
    MethodNotAllowed(&'static str),
    /// There is no room now.
    TooManySessions,
    /// The process is stopping.
    Restarting,
}

impl Refusal {
    fn code(self) -> &'static str {
        match self {
            Self::InvalidRequest => "INVALID_REQUEST",
            Self::Unauthenticated(code) => code,
            Self::Forbidden => "FORBIDDEN",
            Self::UpgradeRequired | Self::WrongVersion => "UPGRADE_REQUIRED",
            Self::MethodNotAllowed(_) => "METHOD_NOT_ALLOWED",
            Self::TooManySessions => "TOO_MANY_SESSIONS",
            Self::Restarting => "UNAVAILABLE",
        }
    }

    fn status(self) -> StatusCode {
        match self {
            Self::InvalidRequest => StatusCode::BAD_REQUEST,
            Self::Unauthenticated(_) | Self::Forbidden => StatusCode::FORBIDDEN,
            Self::UpgradeRequired | Self::WrongVersion => StatusCode::UPGRADE_REQUIRED,
            Self::MethodNotAllowed(_) => StatusCode::METHOD_NOT_ALLOWED,
            Self::TooManySessions | Self::Restarting => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    fn into_response(self) -> HttpResponse {
        let mut response = refusal(self.status(), self.code());
        let headers = response.headers_mut();
        match self {
            Self::UpgradeRequired | Self::WrongVersion => {
                websocket::name_protocol(headers);
                // RFC 9110 §7.8: whoever sends Upgrade names it in Connection.
                response.head_mut().set_connection_type(ConnectionType::Upgrade);
            }
            Self::MethodNotAllowed(methods) => {
                headers.insert(ALLOW, HeaderValue::from_static(methods));
            }
            Self::TooManySessions | Self::Restarting => {
                return retry_after(response, Duration::from_secs(1));
            }
            Self::InvalidRequest | Self::Unauthenticated(_) | Self::Forbidden => {}
        }
        response
    }
}

/// Marks a request as one whose connection can be taken over.
pub fn mark_can_upgrade(request: &actix_http::Request) {
    request.extensions_mut().insert(CanUpgrade);
}
