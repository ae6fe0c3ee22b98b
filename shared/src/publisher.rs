//! The one gate for every way in: credentials and a draft become an event on its way.

use std::fmt;
use std::future::Future;
use std::num::NonZeroU32;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytestring::ByteString;
use governor::clock::{Clock as _, DefaultClock};
use governor::state::keyed::HashMapStateStore;
use governor::{Quota, RateLimiter};
use uuid::Uuid;

use crate::credentials::{Credentials, Digest};
use crate::event::{Draft, Event, Time};
use crate::link::frame::{Account, Terms};
use crate::link::sender::Sender;
use crate::link::{LinkError, Road, Underway};
use crate::principal::Principal;
use crate::reload::Reloaded;
use crate::tokens::{AuthError, Tokens};

/// The gate. One a worker thread; what it shares with the others is behind [`Arc`]s.
#[derive(Debug)]
pub struct Publisher<R> {
    tokens: Arc<Reloaded<Tokens>>,
    rates: Option<Arc<Rates>>,
    road: R,
}

impl<R: Road> Publisher<R> {
    /// Opens a gate in front of a road to the log.
    pub fn new(tokens: Arc<Reloaded<Tokens>>, rates: Option<Arc<Rates>>, road: R) -> Self {
        Self { tokens, rates, road }
    }

    /// Decides who shows these credentials, and whether they may ask for something now.
    ///
    /// # Errors
    ///
    /// [`AdmitError`], before a byte of a body is read.
    pub fn admit(&self, shown: &Credentials) -> Result<Arc<Principal>, AdmitError> {
        let principal = self.authenticate(shown)?;
        self.take_turn(&principal)?;
        Ok(principal)
    }

    /// The first half of [`admit`](Self::admit): decides who shows these credentials.
    ///
    /// # Errors
    ///
    /// [`AuthError`].
    pub fn authenticate(&self, shown: &Credentials) -> Result<Arc<Principal>, AuthError> {
        self.tokens.load().authenticate(shown)
    }

    /// The second half: takes one of the turns that a token has in a second.
    ///
    /// # Errors
    ///
    /// [`AdmitError::RateLimited`]; then none is taken.
    pub fn take_turn(&self, principal: &Principal) -> Result<(), AdmitError> {
        self.rates.as_ref().map_or(Ok(()), |rates| rates.check(principal))
    }

    /// Sends an event, behind all that were sent before. What becomes of it is waited for, and where
    /// `wants_account` is true, also whom it reached.
    ///
    /// # Errors
    ///
    /// [`PublishError`], for an event that was not sent.
    pub fn publish(
        &self,
        approved: Approved,
        wants_account: bool,
    ) -> Result<Publication, PublishError> {
        let Approved { event, may_be_retry } = approved;
        let identity = Identity { id: event.id.clone(), source: event.source.clone() };
        let underway = self.road.send(event, Terms { may_be_retry, wants_account });
        Ok(Publication { underway: underway.map_err(|_| PublishError::Unreachable)?, identity })
    }
}

impl Publisher<Sender> {
    /// Does all that [`publish`](Self::publish) does, but for sending the event: broadcast is
    /// asked how many sessions it would reach.
    ///
    /// # Errors
    ///
    /// [`PublishError`], as the event itself would have, but never that it may have been taken.
    pub async fn rehearse(&self, approved: Approved) -> Result<Rehearsed, PublishError> {
        let event = approved.event;
        let (event_type, id, bytes) = (event.event_type.clone(), event.id.clone(), event.size());
        // Nobody needs its data while the answer is waited for, and nobody has it on an account.
        drop(event);
        match self.road.count(event_type, bytes).await {
            Ok(matched) => Ok(Rehearsed { id, matched }),
            Err(LinkError::TooLarge) => Err(PublishError::TooLarge),
            Err(LinkError::Unreachable | LinkError::Undecided) => Err(PublishError::Unreachable),
        }
    }
}

/// An event on its way: ends with what broadcast says of it, or with a [`PublishError`] that says
/// whether it may have been taken.
#[derive(Debug)]
pub struct Publication {
    underway: Underway,
    identity: Identity,
}

impl Future for Publication {
    type Output = Result<Published, PublishError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let ended = std::task::ready!(Pin::new(&mut self.underway).poll(cx));
        let identity = &self.identity;
        Poll::Ready(match ended {
            Ok(receipt) => Ok(Published { id: identity.id.clone(), account: receipt.account }),
            Err(LinkError::Unreachable) => Err(PublishError::Unreachable),
            Err(LinkError::TooLarge) => Err(PublishError::TooLarge),
            Err(LinkError::Undecided) => Err(PublishError::Undecided(identity.clone())),
        })
    }
}

/// An event that its publisher may publish: whoever holds one can send it.
#[derive(Debug, Clone)]
pub struct Approved {
    event: Event,
    may_be_retry: bool,
}

impl Approved {
    /// Makes an event of a draft, if the principal may publish it, and to all its channels; what the
    /// draft leaves out is filled in.
    ///
    /// # Errors
    ///
    /// [`PublishError::Forbidden`].
    pub fn new(principal: &Principal, draft: Draft) -> Result<Self, PublishError> {
        let may_be_retry = draft.id.is_some() && draft.source.is_some();
        let mut channels = draft.attributes.iter().flat_map(|it| &it.channels);
        if !principal.grant.may_publish(&draft.event_type)
            || !channels.all(|channel| principal.grant.may_publish_to(channel))
        {
            return Err(PublishError::Forbidden);
        }
        let event = Event {
            event_type: draft.event_type,
            data: draft.data,
            id: draft.id.unwrap_or_else(make_id),
            source: draft.source.unwrap_or_else(|| principal.source.clone()),
            subject: draft.subject,
            time: draft.time.unwrap_or_else(Time::now),
            publisher: principal.publisher(),
            attributes: draft.attributes,
        };
        Ok(Self { event, may_be_retry })
    }

    /// The event, complete.
    pub fn event(&self) -> &Event {
        &self.event
    }
}

/// WIRE §0: a native event's id is a UUIDv7 made at the door.
pub fn make_id() -> ByteString {
    let mut text = [0; uuid::fmt::Hyphenated::LENGTH];
    ByteString::from(&*Uuid::now_v7().as_hyphenated().encode_lower(&mut text))
}

/// With more than this, those are forgotten whose turns are all back.
const TOKENS_MANY: usize = 10_000;

/// How often each token may ask, for all workers of a process.
pub struct Rates {
    limiter: RateLimiter<Option<Digest>, HashMapStateStore<Option<Digest>>, DefaultClock>,
    clock: DefaultClock,
}

impl Rates {
    /// Allows so many requests a second of each token, and as many at once.
    pub fn per_second(count: NonZeroU32) -> Self {
        let limiter = RateLimiter::hashmap(Quota::per_second(count));
        Self { limiter, clock: DefaultClock::default() }
    }

    /// The table has an entry for each valid token that was used lately, and no other.
    fn check(&self, principal: &Principal) -> Result<(), AdmitError> {
        if self.limiter.len() > TOKENS_MANY {
            self.limiter.retain_recent();
        }
        self.limiter.check_key(&principal.digest).map_err(|not_until| {
            AdmitError::RateLimited(not_until.wait_time_from(self.clock.now()))
        })
    }
}

impl fmt::Debug for Rates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Rates")
    }
}

/// Why a request is not listened to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AdmitError {
    /// The credentials are no good.
    #[error(transparent)]
    Refused(#[from] AuthError),
    /// The token asks too often; it may ask again after this time.
    #[error("too many requests of one token")]
    RateLimited(Duration),
}

/// An event that broadcast has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Published {
    /// What it is called, within its source.
    pub id: ByteString,
    /// What became of it, where the publisher asked for that.
    pub account: Option<Account>,
}

/// An event that was not sent, and could have been.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rehearsed {
    /// What it would have been called, within its source.
    pub id: ByteString,
    /// The sessions that it would have been queued to.
    pub matched: u32,
}

/// What names one event among all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Unique within `source`.
    pub id: ByteString,
    /// Where the event comes from.
    pub source: ByteString,
}

/// Why an event was not taken in.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    /// The token may not publish this type.
    #[error("the token may not publish this type")]
    Forbidden,
    /// Broadcast cannot be reached now. The same event may be sent again.
    #[error("broadcast cannot be reached")]
    Unreachable,
    /// The event was sent and may have been taken. It may be sent again under the same identity.
    #[error("broadcast did not answer for the event")]
    Undecided(Identity),
    /// Broadcast takes no event as large as this one.
    #[error("the event is too large for broadcast")]
    TooLarge,
}
