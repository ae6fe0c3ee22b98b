//! The table of routes: path, method, Origin, 405 and 426 are judged here, once, for plain and for
//! upgraded requests alike.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use actix_http::ConnectionType;
use actix_web::http::header::{AUTHORIZATION, HeaderValue};
use actix_web::http::{Method, StatusCode};
use actix_web::web::{Data, Payload};
use actix_web::{HttpMessage as _, HttpRequest, HttpResponse};
use shared::address::Network;
use shared::credentials::Credentials;
use shared::documents;
use shared::http::{HEALTHY, client_address, is_refused, json};
use shared::occupancy::Occupancy;
use shared::principal::Principal;

use crate::census::Place;
use crate::disconnect::Disconnect;
use crate::origins::Origins;
use crate::outputs::events::page::PageError;
use crate::outputs::events::{Query, QueryError, page, socket, sse};
use crate::outputs::native::rules;
use crate::publication::Format;
use crate::refusal::Refusal;
use crate::tickets::{Claim, TicketError};
use crate::websocket::dialect::Begin;
use crate::websocket::{self, CanUpgrade, formats};
use crate::worker::Worker;

pub mod events;
pub mod native;
pub mod phoenix;
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
    let mut response = match route(&request, payload, &outputs).await {
        Ok(response) => response,
        Err(refusal) => outputs.refuse(refusal),
    };
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        outputs.origins.share(&request, &mut response);
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
    request: &HttpRequest,
    payload: Payload,
    outputs: &Outputs,
) -> Result<HttpResponse, Refusal> {
    if is_refused(request) {
        return Err(Refusal::TooManySessions);
    }
    let path = request.path();
    let path = path.strip_suffix('/').unwrap_or(path);
    let place = PLACES.iter().find(|(known, _)| known.eq_ignore_ascii_case(path));
    // Every path that nobody else has is the WebSocket's.
    let place = place.map_or(Behind::WebSocket, |(_, behind)| *behind);
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
        if method == Method::OPTIONS && !place.is_socket() {
            return outputs.origins.preflight(request, place.methods());
        }
    }
    if !place.takes(method) {
        return Err(Refusal::MethodNotAllowed(place.methods()));
    }
    match place {
        Behind::Tickets => tickets::give(request, outputs).await,
        Behind::Events => events(request, payload, outputs, is_upgrade).await,
        Behind::WebSocket | Behind::Open(_) => {
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
        let (rule, link) = (query.page()?, events::without_start(request.query_string()));
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
}

/// The paths that are not the WebSocket's.
const PLACES: &[(&str, Behind)] = &[
    ("/healthz", Behind::Open(HEALTHY)),
    (documents::OPENAPI_PATH, Behind::Open(documents::OPENAPI)),
    (documents::ASYNCAPI_PATH, Behind::Open(documents::ASYNCAPI)),
    ("/events", Behind::Events),
    ("/tickets", Behind::Tickets),
    ("/socket/websocket", Behind::Phoenix),
];

impl Behind {
    /// Whether there is nothing for a request without an upgrade.
    fn is_socket(self) -> bool {
        matches!(self, Self::WebSocket | Self::Phoenix)
    }

    fn takes(self, method: &Method) -> bool {
        self.methods().split(", ").any(|it| it == method.as_str())
    }

    fn methods(self) -> &'static str {
        match self {
            Self::Open(_) => "GET, HEAD",
            Self::WebSocket | Self::Phoenix | Self::Events => "GET",
            Self::Tickets => "POST",
        }
    }
}

/// Who has shown a credential in the request.
#[derive(Debug)]
pub struct Shown {
    /// Who it is.
    pub principal: Arc<Principal>,
    /// The claim of a stream to its ticket, if it was one.
    pub claim: Option<Claim>,
}

/// How a credential is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusing {
    /// Before an upgrade, as the native protocol does (WIRE §1.2).
    Upgrade,
    /// A plain request (WIRE §3.2).
    Request,
}

impl Refusing {
    fn unauthenticated(self, code: &'static str) -> Refusal {
        match self {
            Self::Upgrade => Refusal::Unauthenticated(code),
            Self::Request => Refusal::Unauthorized(code),
        }
    }
}

impl Outputs {
    /// Who has shown a credential in the head of an upgrade, if one was shown.
    async fn shown(
        &self,
        request: &HttpRequest,
    ) -> Result<(Option<Arc<Principal>>, Option<Claim>), Refusal> {
        let shown = self.authenticate(request, Refusing::Upgrade).await?;
        let (principal, claim) = shown.map(|it| (it.principal, it.claim)).unzip();
        Ok((principal, claim.flatten()))
    }

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

    /// Gives a session its place, which it has shown a credential for.
    fn enter(&self, request: &HttpRequest) -> Result<Place, Refusal> {
        let client = client_address(request.head(), &self.trusted_proxies);
        let place = self.worker.shared.census.enter(client);
        let mut place = place.ok_or(Refusal::TooManySessions)?;
        place.settle();
        Ok(place)
    }

    /// Who those are that show nothing.
    fn anonymous(&self) -> Option<Shown> {
        let tokens = self.worker.shared.tokens.load();
        let principal = tokens.authenticate(&Credentials::Absent).ok()?;
        Some(Shown { principal, claim: None })
    }

    /// Decides who asks by a credential in the head, or a ticket in the query, where there is one.
    async fn authenticate(
        &self,
        request: &HttpRequest,
        refusing: Refusing,
    ) -> Result<Option<Shown>, Refusal> {
        let shown = request.headers().get_all(AUTHORIZATION).map(HeaderValue::as_bytes);
        let shown = Credentials::from_headers(shown).map_err(|_| Refusal::InvalidRequest)?;
        let tokens = self.worker.shared.tokens.load_full();
        let refusal = match (&shown, ticket_of(request.query_string())) {
            (Credentials::Absent, None) => return Ok(None),
            (Credentials::Absent, Some(ticket)) => {
                let tickets = &self.worker.shared.tickets;
                let (path, query) = (request.path(), request.query_string());
                let stream = format!("{path}?{}", events::without_start(query));
                match tickets.admit(&ticket, &stream, &tokens, Instant::now()) {
                    Ok((principal, claim)) => {
                        return Ok(Some(Shown { principal, claim: Some(claim) }));
                    }
                    // Nobody guesses: it was a good one.
                    Err(TicketError::Withdrawn) if refusing == Refusing::Request => {
                        return Err(Refusal::TicketWithdrawn);
                    }
                    Err(_) => refusing.unauthenticated("UNAUTHENTICATED"),
                }
            }
            (shown, _) => match tokens.authenticate(shown) {
                Ok(principal) => return Ok(Some(Shown { principal, claim: None })),
                Err(error) => refusing.unauthenticated(error.code()),
            },
        };
        self.penalise(request).await;
        Err(refusal)
    }

    /// Counts a wrong credential; whoever shows many waits for each answer.
    async fn penalise(&self, request: &HttpRequest) {
        let client = client_address(request.head(), &self.trusted_proxies);
        if let Some(penalty) = self.worker.shared.failures.record(client, Instant::now()) {
            tokio::time::sleep(penalty).await;
        }
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
            PageError::Ended(Disconnect::TokenWithdrawn | Disconnect::TokenExpired) => {
                Self::Unauthorized("UNAUTHENTICATED")
            }
            PageError::Ended(Disconnect::Forbidden) => Self::Forbidden,
            PageError::Ended(_) => Self::Restarting,
        }
    }
}

/// The ticket in a query, if there is one.
fn ticket_of(query: &str) -> Option<String> {
    let mut pairs = form_urlencoded::parse(query.as_bytes());
    pairs.find(|(name, _)| name == "ticket").map(|(_, ticket)| ticket.into_owned())
}
