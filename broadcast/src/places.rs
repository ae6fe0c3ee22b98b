//! What is behind a path, and which methods it takes.

use actix_web::HttpRequest;
use actix_web::http::Method;
use shared::documents;
use shared::http::HEALTHY;

use crate::websocket;

/// What is behind a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Behind {
    /// What we tell everybody.
    Open(&'static str),
    /// The native protocol.
    WebSocket,
    /// Phoenix channels.
    Phoenix,
    /// Kept and live events.
    Events,
    /// Tickets for clients that cannot set headers.
    Tickets,
    /// A durable queue.
    Queue,
    /// The list of them.
    Queues,
    /// One of them, for an operator.
    QueueByName,
    /// A client's stream of a channel.
    Subscribe,
    /// What is told to a channel.
    Publish,
}

/// Where one queue is, for operators.
const QUEUE: &str = "/queues/";

/// The paths that are not the WebSocket's.
const PLACES: &[(&str, Behind)] = &[
    ("/healthz", Behind::Open(HEALTHY)),
    (documents::OPENAPI_PATH, Behind::Open(documents::OPENAPI)),
    (documents::ASYNCAPI_PATH, Behind::Open(documents::ASYNCAPI)),
    ("/events", Behind::Events),
    ("/tickets", Behind::Tickets),
    ("/queues", Behind::Queues),
    ("/subscribe", Behind::Subscribe),
    ("/publish", Behind::Publish),
    ("/socket/websocket", Behind::Phoenix),
];

impl Behind {
    /// Whether there is nothing for a request without an upgrade.
    pub fn is_socket(self) -> bool {
        matches!(self, Self::WebSocket | Self::Phoenix)
    }

    /// Whether a method may be asked for there.
    pub fn takes(self, method: &Method) -> bool {
        self.methods().split(", ").any(|it| it == method.as_str())
    }

    /// The methods that may be asked for there.
    pub fn methods(self) -> &'static str {
        match self {
            Self::Open(_) => "GET, HEAD",
            Self::WebSocket | Self::Phoenix | Self::Events | Self::Queues => "GET",
            Self::Queue | Self::Subscribe => "GET, OPTIONS",
            Self::Publish => "POST, OPTIONS",
            Self::Tickets => "POST",
            Self::QueueByName => "DELETE",
        }
    }

    /// Whether it is one of Pipely's routes.
    pub fn is_of_channels(self) -> bool {
        matches!(self, Self::Subscribe | Self::Publish)
    }

    /// What is behind the path of a request, where queues are at `queue_path`, and channels where there
    /// are any.
    pub fn of(request: &HttpRequest, queue_path: &str, has_channels: bool) -> Self {
        let path = request.path();
        let path = path.strip_suffix('/').unwrap_or(path);
        let mut known = PLACES.iter().filter(|(_, it)| has_channels || !it.is_of_channels());
        if let Some((_, behind)) = known.find(|(it, _)| it.eq_ignore_ascii_case(path)) {
            return *behind;
        }
        if queue_in(path).is_some() {
            return Behind::QueueByName;
        }
        // At the root queues are whatever is no WebSocket, as eventsourced had it.
        let is_queue = match queue_path {
            "/" => !websocket::is_asked_for(request.headers()),
            place => place.eq_ignore_ascii_case(path),
        };
        // Every path that nobody else has is the WebSocket's.
        if is_queue { Behind::Queue } else { Behind::WebSocket }
    }
}

/// Whether something else is at a path, so that queues cannot be.
pub fn is_taken(path: &str) -> bool {
    PLACES.iter().any(|(it, _)| it.eq_ignore_ascii_case(path)) || queue_in(path).is_some()
}

/// The name in the path of a queue, as it stands there. Its case counts.
pub fn queue_in(path: &str) -> Option<&str> {
    let (start, name) = path.split_at_checked(QUEUE.len())?;
    (start.eq_ignore_ascii_case(QUEUE) && !name.is_empty()).then_some(name)
}
