//! Tickets: what admits a stream whose client cannot set headers (WIRE §3.2).
//!
//! A ticket stands for a token, in a URL that may be seen by others: so it must open its stream soon,
//! and from then on it is good for that stream alone, for as long as its token lives. Kept as
//! digests; those of opened streams survive a restart, or every page would have to be loaded again.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use shared::credentials::Digest;
use shared::principal::Principal;
use shared::tokens::Tokens;

use crate::clerk::Clerk;
use crate::log::store::StoreError;
use crate::tickets::records::What;

mod bearer;
mod records;

/// The database's name in the folder of kept events.
pub const NAME: &str = "tickets.sqlite";
/// WIRE §3.2: so long a ticket waits for its stream.
const UNOPENED_MAX: Duration = Duration::from_secs(30);
/// Tickets that are remembered; beyond it the oldest is forgotten.
const TICKETS_MAX: usize = 100_000;
/// Random bytes of a ticket.
const SECRET_BYTES: usize = 32;

/// All tickets.
#[derive(Debug)]
pub struct Tickets {
    known: Mutex<Known>,
    /// Where they are kept, if they are.
    clerk: Option<Clerk<What>>,
}

#[derive(Debug, Default)]
struct Known {
    by_digest: HashMap<Digest, Ticket>,
    /// Numbers tickets in the order in which they were given or opened.
    last_number: u64,
    /// The one that was not used for longest first.
    order: BTreeMap<u64, Digest>,
    /// Those that wait for their streams, the oldest first.
    waiting: VecDeque<Digest>,
}

#[derive(Debug)]
struct Ticket {
    owner: Owner,
    use_of: Use,
    /// Its number in the order of use.
    number: u64,
    /// Counts the openings of its stream: only the last one counts.
    openings: Arc<AtomicU64>,
}

/// Whose a ticket is.
#[derive(Debug, Clone)]
enum Owner {
    /// Of who has the token with this digest; of `anonymous` without one.
    Token(Option<Digest>),
    /// Of who has shown a signed token: nobody has a list of those.
    Bearer(Arc<Principal>),
}

impl Owner {
    fn of(principal: &Arc<Principal>) -> Self {
        match principal.key {
            Some(_) => Self::Bearer(Arc::clone(principal)),
            None => Self::Token(principal.digest),
        }
    }

    /// Who that is now, if anybody.
    fn principal(&self, tokens: &Tokens) -> Option<Arc<Principal>> {
        match self {
            Self::Token(digest) => tokens.principal_of(digest.as_ref()),
            Self::Bearer(principal) => tokens.judge_again(principal),
        }
    }
}

/// What became of a ticket.
#[derive(Debug, Clone, Copy)]
enum Use {
    /// It waits for its stream since then.
    WaitsSince(Instant),
    /// It is good for this stream: the digest of what was asked for.
    Opened(Digest),
}

/// A stream's hold on its ticket.
#[derive(Debug, Clone)]
pub struct Hold {
    openings: Arc<AtomicU64>,
    opening: u64,
}

impl Hold {
    /// Whether the stream was opened again elsewhere: a reconnect, of which we hear before we hear
    /// that the old connection is gone.
    pub fn is_superseded(&self) -> bool {
        self.openings.load(Ordering::Relaxed) != self.opening
    }
}

/// What a stream has shown to be let in, and what it is: nothing has changed by that yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claim {
    ticket: Digest,
    stream: Digest,
}

impl Claim {
    /// What the ticket is told from others by.
    pub fn ticket(&self) -> Digest {
        self.ticket
    }
}

/// Why a ticket does not admit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TicketError {
    /// There is no such ticket, or it was not used in time.
    #[error("the ticket is unknown or too old")]
    Unknown,
    /// Its token is withdrawn or has expired.
    #[error("the ticket's token is no longer valid")]
    Withdrawn,
}

impl Tickets {
    /// Tickets that end with the process.
    pub fn in_memory() -> Arc<Self> {
        Arc::new(Self { known: Mutex::default(), clerk: None })
    }

    /// Tickets that are kept in a file.
    ///
    /// # Errors
    ///
    /// The file is damaged, or cannot be written.
    pub fn open(path: &Path) -> Result<Arc<Self>, StoreError> {
        let (known, clerk) = records::start(path)?;
        Ok(Arc::new(Self { known: Mutex::new(known), clerk: Some(clerk) }))
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives a ticket to a principal.
    ///
    /// # Errors
    ///
    /// The system has no randomness.
    pub async fn give(
        &self,
        principal: &Arc<Principal>,
        now: Instant,
    ) -> Result<String, StoreError> {
        let mut secret = [0; SECRET_BYTES];
        let filled = rustix::rand::getrandom(&mut secret, rustix::rand::GetRandomFlags::empty());
        if filled != Ok(SECRET_BYTES) {
            return Err(StoreError::System("there is no randomness".to_owned()));
        }
        let text = URL_SAFE_NO_PAD.encode(secret);
        let digest = Digest::of(&text);
        let owner = Owner::of(principal);
        let forgotten = self.known().give(digest, owner.clone(), Use::WaitsSince(now), now);
        if !forgotten.is_empty() {
            self.note(What::Forget(forgotten)).await;
        }
        self.note(What::Give(digest, owner)).await;
        Ok(text)
    }

    /// Decides whether a ticket admits a stream, for the first time or again. `stream` is what is
    /// asked for, but for where to begin: that moves from reconnect to reconnect. Nothing changes
    /// yet, for the request may still be refused.
    ///
    /// # Errors
    ///
    /// [`TicketError`] says why it does not admit.
    pub fn admit(
        &self,
        text: &str,
        stream: &str,
        tokens: &Tokens,
        now: Instant,
    ) -> Result<(Arc<Principal>, Claim), TicketError> {
        let claim = Claim { ticket: Digest::of(text), stream: Digest::of(stream) };
        Ok((self.known().admit(claim, tokens, now)?, claim))
    }

    /// Opens the stream that has a claim. An older one on the same ticket ends.
    pub async fn open_claimed(&self, claim: Option<Claim>) -> Option<Hold> {
        let claim = claim?;
        let (hold, is_first) = self.known().open(claim)?;
        if is_first {
            // A restart must not forget a stream that its client believes to be open.
            self.note(What::Open(claim)).await;
        }
        Some(hold)
    }

    async fn note(&self, what: What) {
        if let Some(clerk) = &self.clerk {
            // What could not be written is logged there: the stream goes on all the same.
            let _ = clerk.note(what).await;
        }
    }
}

impl Known {
    /// Takes a ticket in; gives those that had to go: for their time is over, or for it.
    fn give(&mut self, digest: Digest, owner: Owner, use_of: Use, now: Instant) -> Vec<Digest> {
        let mut forgotten = Vec::new();
        while let Some(oldest) = self.waiting.front().copied() {
            let ticket = self.by_digest.get(&oldest).map(|ticket| ticket.use_of);
            let is_over = |since| now.saturating_duration_since(since) > UNOPENED_MAX;
            match ticket {
                Some(Use::WaitsSince(since)) if !is_over(since) => break,
                Some(Use::WaitsSince(_)) => forgotten.extend(self.forget(&oldest)),
                Some(Use::Opened(_)) | None => {}
            }
            self.waiting.pop_front();
        }
        while self.by_digest.len() >= TICKETS_MAX
            && let Some((_, unused)) = self.order.first_key_value()
        {
            let unused = *unused;
            forgotten.extend(self.forget(&unused));
        }
        if matches!(use_of, Use::WaitsSince(_)) {
            self.waiting.push_back(digest);
        }
        let number = self.next_number(digest);
        let openings = Arc::default();
        self.by_digest.insert(digest, Ticket { owner, use_of, number, openings });
        forgotten
    }

    fn next_number(&mut self, digest: Digest) -> u64 {
        self.last_number += 1;
        self.order.insert(self.last_number, digest);
        self.last_number
    }

    fn forget(&mut self, digest: &Digest) -> Option<Digest> {
        let ticket = self.by_digest.remove(digest)?;
        self.order.remove(&ticket.number);
        Some(*digest)
    }

    fn admit(
        &self,
        claim: Claim,
        tokens: &Tokens,
        now: Instant,
    ) -> Result<Arc<Principal>, TicketError> {
        let ticket = self.by_digest.get(&claim.ticket).ok_or(TicketError::Unknown)?;
        match ticket.use_of {
            Use::WaitsSince(since) if now.saturating_duration_since(since) <= UNOPENED_MAX => {}
            Use::Opened(opened) if opened == claim.stream => {}
            Use::WaitsSince(_) | Use::Opened(_) => return Err(TicketError::Unknown),
        }
        let now = jiff::Timestamp::now();
        let principal = ticket.owner.principal(tokens).filter(|it| !it.is_expired(now));
        principal.ok_or(TicketError::Withdrawn)
    }

    /// Says whether it is the first opening; `None` if the ticket was forgotten meanwhile.
    fn open(&mut self, claim: Claim) -> Option<(Hold, bool)> {
        let number = self.by_digest.get(&claim.ticket)?.number;
        self.order.remove(&number);
        let number = self.next_number(claim.ticket);
        let ticket = self.by_digest.get_mut(&claim.ticket)?;
        ticket.number = number;
        let is_first = matches!(ticket.use_of, Use::WaitsSince(_));
        ticket.use_of = Use::Opened(claim.stream);
        let opening = ticket.openings.fetch_add(1, Ordering::Relaxed) + 1;
        Some((Hold { openings: Arc::clone(&ticket.openings), opening }, is_first))
    }
}

#[cfg(test)]
mod tests;
