//! Why a request is refused, and how that looks.

use std::time::Duration;

use actix_http::ConnectionType;
use actix_web::HttpResponse;
use actix_web::http::StatusCode;
use actix_web::http::header::{
    ALLOW, HeaderMap, HeaderName, HeaderValue, SEC_WEBSOCKET_VERSION, UPGRADE, WWW_AUTHENTICATE,
};
use shared::http::{refusal, retry_after};

/// Where eventsourced says why there is no queue (WIRE §7).
pub const STATUS_REASON: HeaderName = HeaderName::from_static("x-status-reason");

/// Why a request is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The request breaks the rules of its protocol.
    InvalidRequest,
    /// The credential is no good, with the code that says how.
    Unauthenticated(&'static str),
    /// The same, where no upgrade was asked for.
    Unauthorized(&'static str),
    /// The token of a stream's ticket is gone: its client is to come no more.
    TicketWithdrawn,
    /// The page may not come, or what is asked for is not granted.
    Forbidden,
    /// Something that is asked for can be no type and no pattern.
    InvalidEvents,
    /// More patterns than a session may have.
    TooManyEvents,
    /// Where to begin is malformed.
    InvalidResume,
    /// The log cannot be read.
    Unreadable,
    /// There is nothing here for a request without an upgrade.
    UpgradeRequired,
    /// Another version of WebSocket than 13.
    WrongVersion,
    /// Another method than these.
    MethodNotAllowed(&'static str),
    /// There is no such thing.
    NotFound,
    /// There is no queue for the request.
    Queue(QueueFault),
    /// There is no room now.
    TooManySessions,
    /// The process is stopping.
    Restarting,
}

/// Why there is no queue for a request (WIRE §7).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QueueFault {
    /// It has a consumer.
    Taken,
    /// Something that its name is made of is not in the request.
    ParameterMissing,
    /// No queue can have that name.
    InvalidName,
    /// There are too many.
    TooMany,
}

impl QueueFault {
    fn code(self) -> &'static str {
        match self {
            Self::Taken => "MAX_CONSUMERS_EXCEEDED",
            Self::ParameterMissing => "PARAMETER_MISSING",
            Self::InvalidName => "INVALID_QUEUE_NAME",
            Self::TooMany => "TOO_MANY_QUEUES",
        }
    }

    /// What eventsourced says in a header.
    fn reason(self) -> &'static str {
        match self {
            Self::Taken => "server: max consumers exceeded",
            Self::ParameterMissing => "request parameter(s) missing",
            Self::InvalidName => "invalid queue name",
            Self::TooMany => "server: max queues exceeded",
        }
    }
}

impl Refusal {
    /// The stable code that the client gets.
    pub fn code(self) -> &'static str {
        match self {
            Self::InvalidRequest => "INVALID_REQUEST",
            Self::Unauthenticated(code) | Self::Unauthorized(code) => code,
            Self::TicketWithdrawn => "TICKET_WITHDRAWN",
            Self::Forbidden => "FORBIDDEN",
            Self::InvalidEvents => "INVALID_EVENTS",
            Self::TooManyEvents => "TOO_MANY_EVENTS",
            Self::InvalidResume => "INVALID_RESUME",
            Self::Unreadable => "UNAVAILABLE",
            Self::UpgradeRequired | Self::WrongVersion => "UPGRADE_REQUIRED",
            Self::MethodNotAllowed(_) => "METHOD_NOT_ALLOWED",
            Self::NotFound => "NOT_FOUND",
            Self::Queue(fault) => fault.code(),
            Self::TooManySessions => "TOO_MANY_SESSIONS",
            Self::Restarting => "UNAVAILABLE",
        }
    }

    fn status(self) -> StatusCode {
        match self {
            Self::InvalidRequest
            | Self::InvalidEvents
            | Self::TooManyEvents
            | Self::InvalidResume => StatusCode::BAD_REQUEST,
            Self::Unauthorized(_) => StatusCode::UNAUTHORIZED,
            Self::TicketWithdrawn => StatusCode::NO_CONTENT,
            Self::Unauthenticated(_) | Self::Forbidden => StatusCode::FORBIDDEN,
            Self::UpgradeRequired | Self::WrongVersion => StatusCode::UPGRADE_REQUIRED,
            Self::MethodNotAllowed(_) => StatusCode::METHOD_NOT_ALLOWED,
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::TooManySessions | Self::Restarting | Self::Unreadable | Self::Queue(_) => {
                StatusCode::SERVICE_UNAVAILABLE
            }
        }
    }

    /// The answer.
    pub fn into_response(self) -> HttpResponse {
        if self == Self::TicketWithdrawn {
            // RFC 9110 §15.3.5: it has no body.
            return HttpResponse::new(self.status());
        }
        let mut response = refusal(self.status(), self.code());
        let headers = response.headers_mut();
        match self {
            Self::UpgradeRequired | Self::WrongVersion => {
                name_protocol(headers);
                // RFC 9110 §7.8: whoever sends Upgrade names it in Connection.
                response.head_mut().set_connection_type(ConnectionType::Upgrade);
            }
            Self::MethodNotAllowed(methods) => {
                headers.insert(ALLOW, HeaderValue::from_static(methods));
            }
            // RFC 9110 §15.5.2: it names a scheme. Not `Basic`: a browser would ask its user.
            Self::Unauthorized(_) => {
                headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            Self::Queue(fault) => {
                let reason = HeaderValue::from_static(fault.reason());
                headers.insert(STATUS_REASON, reason);
            }
            Self::TooManySessions | Self::Restarting | Self::Unreadable => {
                return retry_after(response, Duration::from_secs(1));
            }
            Self::InvalidRequest
            | Self::Unauthenticated(_)
            | Self::NotFound
            | Self::TicketWithdrawn
            | Self::Forbidden
            | Self::InvalidEvents
            | Self::TooManyEvents
            | Self::InvalidResume => {}
        }
        response
    }
}

/// Names the protocol (RFC 9110 §15.5.22) and its version (RFC 6455 §4.4) that we speak.
fn name_protocol(headers: &mut HeaderMap) {
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
}
