//! Who comes: a credential in the head, or a ticket in the query, is decided here for every way out.

use std::sync::Arc;
use std::time::Instant;

use actix_web::HttpRequest;
use actix_web::http::header::{AUTHORIZATION, HeaderValue};
use shared::credentials::Credentials;
use shared::http::client_address;
use shared::principal::Principal;

use crate::census::Place;
use crate::outputs::Outputs;
use crate::query::without_start;
use crate::refusal::Refusal;
use crate::tickets::{Claim, TicketError};

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
    pub(super) fn unauthenticated(self, code: &'static str) -> Refusal {
        match self {
            Self::Upgrade => Refusal::Unauthenticated(code),
            Self::Request => Refusal::Unauthorized(code),
        }
    }
}

impl Outputs {
    /// Who has shown a credential in the head of an upgrade, if one was shown.
    pub(super) async fn shown(
        &self,
        request: &HttpRequest,
    ) -> Result<(Option<Arc<Principal>>, Option<Claim>), Refusal> {
        let shown = self.authenticate(request, Refusing::Upgrade).await?;
        let (principal, claim) = shown.map(|it| (it.principal, it.claim)).unzip();
        Ok((principal, claim.flatten()))
    }

    /// Gives a session its place, which it has shown a credential for.
    pub(super) fn enter(&self, request: &HttpRequest) -> Result<Place, Refusal> {
        let client = client_address(request.head(), &self.trusted_proxies);
        let place = self.worker.shared.census.enter(client);
        let mut place = place.ok_or(Refusal::TooManySessions)?;
        place.settle();
        Ok(place)
    }

    /// Who those are that show nothing.
    pub(super) fn anonymous(&self) -> Option<Shown> {
        let tokens = self.worker.shared.tokens.load();
        let principal = tokens.authenticate(&Credentials::Absent).ok()?;
        Some(Shown { principal, claim: None })
    }

    /// Decides who asks by a credential in the head, or a ticket in the query, where there is one.
    pub(super) async fn authenticate(
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
                let stream = format!("{path}?{}", without_start(query));
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
    pub(super) async fn penalise(&self, request: &HttpRequest) {
        let client = client_address(request.head(), &self.trusted_proxies);
        if let Some(penalty) = self.worker.shared.failures.record(client, Instant::now()) {
            tokio::time::sleep(penalty).await;
        }
    }
}

/// The ticket in a query, if there is one.
fn ticket_of(query: &str) -> Option<String> {
    let mut pairs = form_urlencoded::parse(query.as_bytes());
    pairs.find(|(name, _)| name == "ticket").map(|(_, ticket)| ticket.into_owned())
}
