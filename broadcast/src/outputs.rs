//! The table of routes: path, method, Origin, 405 and 426 are judged here, once, for plain and for
//! upgraded requests alike.

use std::rc::Rc;
use std::sync::Arc;

use actix_http::ConnectionType;
use actix_web::http::{Method, StatusCode};
use actix_web::web::{Data, Payload};
use actix_web::{HttpMessage as _, HttpRequest, HttpResponse};
use shared::address::Network;
use shared::http::{client_address, is_refused, json};
use shared::occupancy::Occupancy;

use crate::admission::{Refusing, Shown};
use crate::channels::Channels;
use crate::disconnect::Disconnect;
use crate::origins::Origins;
use crate::outputs::events::page::PageError;
use crate::outputs::events::{page, socket, sse};
use crate::outputs::native::rules;
use crate::places::Behind;
use crate::publication::Format;
use crate::query::{Query, QueryError, without_start};
use crate::refusal::Refusal;
use crate::tickets::Claim;
use crate::websocket::dialect::Begin;
use crate::websocket::{self, CanUpgrade, formats};
use crate::worker::Worker;

pub mod channels;
pub mod events;
pub mod native;
pub mod phoenix;
pub mod queue;
pub mod queues;
pub mod tickets;

/// Every format in which events are written.
pub static FORMATS: [&Format; 8] = [
    &rules::PLAIN,
    &rules::WITH_CURSOR,
    &formats::CLOUDEVENTS,
    &formats::CLOUDEVENTS_WITH_CURSOR,
    &sse::DATA,
    &sse::CLOUDEVENTS,
    &phoenix::V1,
    &phoenix::V2,
];

/// What one worker's ways out have in common.
#[derive(Debug)]
pub struct Outputs {
    /// The worker.
    pub worker: Rc<Worker>,
    /// Whose pages may come.
    pub origins: Origins,
    /// How queues are served.
    pub queue: Arc<queue::Rules>,
    /// Pipely's channels, where they are enabled.
    pub channels: Option<Arc<Channels>>,
    /// The largest body.
    pub body_bytes_max: usize,
    /// Proxies that are believed.
    pub trusted_proxies: Arc<[Network]>,
    /// The door's state.
    pub occupancy: Arc<Occupancy>,
}

/// Answers any request. A 101 carries in its extensions what the session begins with.
pub async fn answer(
    request: HttpRequest,
    payload: Payload,
    outputs: Data<Outputs>,
) -> HttpResponse {
    let place = Behind::of(&request, &outputs.queue.path, outputs.channels.is_some());
    let mut response = match route(place, &request, payload, &outputs).await {
        Ok(response) => response,
        Err(refusal) => outputs.refuse(refusal),
    };
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        outputs.origins.share(&request, &mut response);
    }
    if place == Behind::Queue
        && let Some(origin) = &outputs.queue.allow_origin
    {
        queue::headers::share(origin, response.headers_mut());
    }
    if place.is_of_channels() {
        channels::share(response.headers_mut());
    }
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
    place: Behind,
    request: &HttpRequest,
    payload: Payload,
    outputs: &Outputs,
) -> Result<HttpResponse, Refusal> {
    if is_refused(request) {
        return Err(Refusal::TooManySessions);
    }
    let is_upgrade = websocket::is_asked_for(request.headers());
    let method = request.method();
    if let Behind::Open(text) = place
        && place.takes(method)
    {
        return Ok(json(StatusCode::OK, text));
    }
    if !matches!(place, Behind::Open(_)) {
        if outputs.worker.is_closed() {
            return Err(Refusal::Restarting);
        }
        if place.is_socket() && !is_upgrade {
            return Err(Refusal::UpgradeRequired);
        }
        outputs.origins.judge(request)?;
        if method == Method::OPTIONS && place == Behind::Queue {
            // eventsourced's answer, whoever asks (WIRE §7).
            return Ok(HttpResponse::new(StatusCode::NO_CONTENT));
        }
        if method == Method::OPTIONS && place.is_of_channels() {
            return Ok(channels::preflight());
        }
        if method == Method::OPTIONS && !place.is_socket() {
            return outputs.origins.preflight(request, place.methods());
        }
    }
    if let Some(open) = outputs.channels.as_ref().filter(|_| place.is_of_channels()) {
        return match place {
            _ if !place.takes(method) => Ok(channels::refuse_method(place.methods())),
            // A stream of messages is no WebSocket.
            _ if is_upgrade => Err(Refusal::InvalidRequest),
            Behind::Subscribe => channels::subscribe(request, outputs, open).await,
            _ => Ok(channels::publish(request, payload, outputs, open).await),
        };
    }
    if !place.takes(method) {
        return Err(Refusal::MethodNotAllowed(place.methods()));
    }
    match place {
        Behind::Tickets => tickets::give(request, outputs).await,
        // A stream of messages is no WebSocket.
        Behind::Queue if is_upgrade => Err(Refusal::InvalidRequest),
        Behind::Queue => queue::open(request, outputs).await,
        Behind::Queues => queues::list(request, outputs).await,
        Behind::QueueByName => queues::remove(request, outputs).await,
        Behind::Events => events(request, payload, outputs, is_upgrade).await,
        Behind::WebSocket | Behind::Open(_) | Behind::Subscribe | Behind::Publish => {
            let (principal, claim) = outputs.shown(request).await?;
            // The 2018 service echoed whatever came first.
            let subprotocol = websocket::offered(request.headers()).next();
            let begin = native::begin(principal);
            outputs.upgrade(request, payload, claim, subprotocol, begin).await
        }
        Behind::Phoenix => {
            let asked = phoenix::Asked::read(request).ok_or(Refusal::Forbidden)?;
            let (principal, claim) = outputs.shown(request).await?;
            let tokens = outputs.worker.shared.tokens.load_full();
            let principal = principal.or_else(|| asked.authenticate(&tokens).ok());
            // It is told so when it joins; that it guesses is counted here.
            if principal.is_none() && asked.has_shown() {
                outputs.penalise(request).await;
            }
            let subprotocol = asked.subprotocol;
            let begin = phoenix::begin(asked, principal);
            outputs.upgrade(request, payload, claim, subprotocol, begin).await
        }
    }
}

/// `GET /events`: who asks, what for, and which of its representations.
async fn events(
    request: &HttpRequest,
    payload: Payload,
    outputs: &Outputs,
    is_upgrade: bool,
) -> Result<HttpResponse, Refusal> {
    let refusing = if is_upgrade { Refusing::Upgrade } else { Refusing::Request };
    let shown = outputs.authenticate(request, refusing).await?;
    let Some(Shown { principal, claim }) = shown.or_else(|| outputs.anonymous()) else {
        return Err(refusing.unauthenticated("UNAUTHENTICATED"));
    };
    let query = Query::read(request.query_string())?;
    let worker = &outputs.worker;
    let patterns_max = worker.shared.limits.patterns_max;
    let is_stream = is_upgrade || events::wants_sse(request.headers());
    let subscription = query.subscription(request, &principal, patterns_max, is_stream)?;
    if is_upgrade {
        let mut offered = websocket::offered(request.headers());
        let subprotocol = offered.find(|it| *it == socket::SUBPROTOCOL);
        let begin = socket::begin(&worker.shared.archive, principal, subscription);
        return outputs.upgrade(request, payload, claim, subprotocol, begin).await;
    }
    if !is_stream {
        // A ticket is good for a stream.
        if claim.is_some() {
            return Err(Refusal::Unauthorized("UNAUTHENTICATED"));
        }
        let (rule, link) = (query.page()?, without_start(request.query_string()));
        // Who waits is a session as long.
        let place = (!rule.wait.is_zero()).then(|| outputs.enter(request)).transpose()?;
        let page = page::answer(worker, principal, subscription, rule, &link).await;
        drop(place);
        return Ok(page?);
    }
    let carried = query.carried()?;
    let place = outputs.enter(request)?;
    let hold = worker.shared.tickets.open_claimed(claim).await;
    let stream = sse::Stream::new(worker, principal, subscription, carried, place, hold);
    Ok(stream.into_response())
}

impl Outputs {
    async fn upgrade(
        &self,
        request: &HttpRequest,
        payload: Payload,
        claim: Option<Claim>,
        subprotocol: Option<&str>,
        begin: Begin,
    ) -> Result<HttpResponse, Refusal> {
        let client = client_address(request.head(), &self.trusted_proxies);
        let asked = websocket::Asked { client, claim, subprotocol, begin };
        websocket::upgrade(request, payload, &self.worker, asked).await
    }

    fn refuse(&self, refusal: Refusal) -> HttpResponse {
        self.worker.shared.metrics.refuse(refusal.code());
        refusal.into_response()
    }
}

impl From<QueryError> for Refusal {
    fn from(error: QueryError) -> Self {
        match error {
            QueryError::Invalid => Self::InvalidRequest,
            QueryError::Resume => Self::InvalidResume,
            QueryError::Events => Self::InvalidEvents,
            QueryError::TooManyEvents => Self::TooManyEvents,
            QueryError::Forbidden => Self::Forbidden,
        }
    }
}

impl From<PageError> for Refusal {
    fn from(error: PageError) -> Self {
        match error {
            PageError::Unreadable => Self::Unreadable,
            PageError::Ended(disconnect) => disconnect.into(),
        }
    }
}

impl From<Disconnect> for Refusal {
    /// The end of a session that has not been answered yet.
    fn from(disconnect: Disconnect) -> Self {
        match disconnect {
            Disconnect::TokenWithdrawn | Disconnect::TokenExpired => {
                Self::Unauthorized("UNAUTHENTICATED")
            }
            Disconnect::Forbidden => Self::Forbidden,
            _ => Self::Restarting,
        }
    }
}
