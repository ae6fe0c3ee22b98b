//! Tickets: what admits a stream whose client cannot set headers (WIRE §3.2).
//!
//! A ticket stands for a token, in a URL that may be seen by others: so it must open its stream soon,
//! and from then on it is good for that stream alone, for as long as its token lives. Kept as
//! digests; those of opened streams survive a restart, or every page would have to be loaded again.

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rusqlite::{Connection, params};
use shared::credentials::Digest;
use shared::principal::Principal;
use shared::tokens::Tokens;
use tokio::sync::{mpsc, oneshot};

use crate::fatal::Fatal;
use crate::log::store::StoreError;

/// The database's name in the folder of kept events.
pub const NAME: &str = "tickets.sqlite";
/// WIRE §3.2: so long a ticket waits for its stream.
const UNOPENED_MAX: Duration = Duration::from_secs(30);
/// Tickets that are remembered; beyond it the oldest is forgotten.
const TICKETS_MAX: usize = 100_000;
/// Changes that wait to be written; beyond it those who want a ticket wait.
const QUEUE_MAX: usize = 256;
/// Random bytes of a ticket.
const SECRET_BYTES: usize = 32;

/// All tickets.
#[derive(Debug)]
pub struct Tickets {
    known: Mutex<Known>,
    /// Where they are kept, if they are.
    clerk: Option<mpsc::Sender<Change>>,
}

#[derive(Debug, Default)]
struct Known {
    by_digest: HashMap<Digest, Ticket>,
    /// Numbers tickets in the order in which they were given.
    given: u64,
    order: std::collections::BTreeMap<u64, Digest>,
}

#[derive(Debug)]
struct Ticket {
    token: Option<Digest>,
    /// Since when it waits for its stream; none once that was opened.
    waits_since: Option<Instant>,
    /// Counts the openings of its stream: only the last one counts.
    openings: Arc<AtomicU64>,
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

#[derive(Debug)]
struct Change {
    what: What,
    done: oneshot::Sender<()>,
}

#[derive(Debug)]
enum What {
    Give(Digest, Option<Digest>),
    Open(Digest),
    Forget(Digest),
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
        let connection = Connection::open(path)?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "synchronous", "NORMAL")?;
        connection.execute_batch(
            "CREATE TABLE IF NOT EXISTS tickets (
                number INTEGER PRIMARY KEY, digest BLOB NOT NULL UNIQUE, token BLOB,
                is_open INTEGER NOT NULL
            ) STRICT",
        )?;
        let known = read(&connection)?;
        let (clerk, changes) = mpsc::channel(QUEUE_MAX);
        let thread = thread::Builder::new().name("tickets".to_owned());
        let started = thread.spawn(move || keep(&connection, changes));
        started.map_err(|error| StoreError::System(error.to_string()))?;
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
    pub async fn give(&self, principal: &Principal, now: Instant) -> Result<String, StoreError> {
        let mut secret = [0; SECRET_BYTES];
        let filled = rustix::rand::getrandom(&mut secret, rustix::rand::GetRandomFlags::empty());
        if filled != Ok(SECRET_BYTES) {
            return Err(StoreError::System("there is no randomness".to_owned()));
        }
        let text = URL_SAFE_NO_PAD.encode(secret);
        let digest = Digest::of(&text);
        let forgotten = self.known().give(digest, principal.digest, Some(now));
        for old in forgotten {
            self.note(What::Forget(old)).await;
        }
        self.note(What::Give(digest, principal.digest)).await;
        Ok(text)
    }

    /// Opens the stream of a ticket, for the first time or again.
    ///
    /// # Errors
    ///
    /// [`TicketError`] says why it does not admit.
    pub async fn admit(
        &self,
        text: &str,
        tokens: &Tokens,
        now: Instant,
    ) -> Result<(Arc<Principal>, Hold), TicketError> {
        let digest = Digest::of(text);
        let (principal, hold, is_first) = self.known().admit(&digest, tokens, now)?;
        if is_first {
            // A restart must not forget a stream that its client believes to be open.
            self.note(What::Open(digest)).await;
        }
        Ok((principal, hold))
    }

    async fn note(&self, what: What) {
        let Some(clerk) = &self.clerk else { return };
        let (done, is_done) = oneshot::channel();
        if clerk.send(Change { what, done }).await.is_ok() {
            // A change that could not be written is logged there: the stream goes on all the same.
            let _ = is_done.await;
        }
    }
}

impl Known {
    /// Takes a ticket in; gives those that had to go for it.
    fn give(
        &mut self,
        digest: Digest,
        token: Option<Digest>,
        waits_since: Option<Instant>,
    ) -> Vec<Digest> {
        self.given += 1;
        self.order.insert(self.given, digest);
        self.by_digest.insert(digest, Ticket { token, waits_since, openings: Arc::default() });
        let mut forgotten = Vec::new();
        while self.by_digest.len() > TICKETS_MAX
            && let Some((_, oldest)) = self.order.pop_first()
        {
            self.by_digest.remove(&oldest);
            forgotten.push(oldest);
        }
        forgotten
    }

    fn admit(
        &mut self,
        digest: &Digest,
        tokens: &Tokens,
        now: Instant,
    ) -> Result<(Arc<Principal>, Hold, bool), TicketError> {
        let ticket = self.by_digest.get_mut(digest).ok_or(TicketError::Unknown)?;
        if ticket.waits_since.is_some_and(|since| now - since > UNOPENED_MAX) {
            return Err(TicketError::Unknown);
        }
        let principal = tokens.principal_of(ticket.token.as_ref());
        let principal = principal.filter(|it| !it.is_expired(jiff::Timestamp::now()));
        let principal = principal.ok_or(TicketError::Withdrawn)?;
        let is_first = ticket.waits_since.take().is_some();
        let opening = ticket.openings.fetch_add(1, Ordering::Relaxed) + 1;
        let hold = Hold { openings: Arc::clone(&ticket.openings), opening };
        Ok((principal, hold, is_first))
    }
}

/// Reads what was kept. A ticket that waited for its stream waits anew.
fn read(connection: &Connection) -> Result<Known, StoreError> {
    let mut known = Known::default();
    let mut statement =
        connection.prepare("SELECT digest, token, is_open FROM tickets ORDER BY number")?;
    let mut rows = statement.query([])?;
    let now = Instant::now();
    while let Some(row) = rows.next()? {
        let digest = Digest::from_bytes(row.get(0)?);
        let token: Option<[u8; 32]> = row.get(1)?;
        let is_open: bool = row.get(2)?;
        known.give(digest, token.map(Digest::from_bytes), (!is_open).then_some(now));
    }
    Ok(known)
}

/// Writes what changes, all that waits at once.
fn keep(connection: &Connection, mut changes: mpsc::Receiver<Change>) {
    let _fatal = Fatal("the tickets");
    while let Some(first) = changes.blocking_recv() {
        let mut waiting = vec![first];
        while let Ok(next) = changes.try_recv() {
            waiting.push(next);
        }
        if let Err(error) = write(connection, &waiting) {
            log::error!("tickets cannot be kept: a restart will forget some: {error}");
        }
        for change in waiting {
            // Whoever asked may have left.
            let _ = change.done.send(());
        }
    }
}

fn write(connection: &Connection, changes: &[Change]) -> Result<(), rusqlite::Error> {
    let transaction = connection.unchecked_transaction()?;
    for Change { what, .. } in changes {
        match what {
            What::Give(digest, token) => {
                let sql = "INSERT OR REPLACE INTO tickets (digest, token, is_open) \
                    VALUES (?1, ?2, 0)";
                let token = token.as_ref().map(Digest::as_bytes);
                transaction.execute(sql, params![digest.as_bytes(), token])?;
            }
            What::Open(digest) => {
                let sql = "UPDATE tickets SET is_open = 1 WHERE digest = ?1";
                transaction.execute(sql, params![digest.as_bytes()])?;
            }
            What::Forget(digest) => {
                let sql = "DELETE FROM tickets WHERE digest = ?1";
                transaction.execute(sql, params![digest.as_bytes()])?;
            }
        }
    }
    transaction.commit()
}

#[cfg(test)]
mod tests {
    use shared::credentials::Credentials;
    use shared::tokens::file;

    use super::*;

    const LINE: &str = "0123456789abcdef name=all";

    fn tokens(text: &str) -> Tokens {
        file::parse(text.as_bytes()).0
    }

    async fn ticket(tickets: &Tickets, now: Instant) -> String {
        let shown = Credentials::read("Basic 0123456789abcdef");
        let principal = tokens(LINE).authenticate(&shown).unwrap();
        tickets.give(&principal, now).await.unwrap()
    }

    #[tokio::test]
    async fn a_ticket_opens_its_stream_within_30_s_and_again_as_long_as_its_token_lives() {
        let tickets = Tickets::in_memory();
        let now = Instant::now();
        let (good, late) = (ticket(&tickets, now).await, ticket(&tickets, now).await);
        let tokens = tokens(LINE);
        let (principal, first) = tickets.admit(&good, &tokens, now).await.unwrap();
        assert_eq!(&*principal.name, "all");
        let later = now + Duration::from_secs(31);
        assert_eq!(tickets.admit(&late, &tokens, later).await.unwrap_err(), TicketError::Unknown);
        assert!(!first.is_superseded());
        let (_, second) = tickets.admit(&good, &tokens, later).await.unwrap();
        assert!(first.is_superseded() && !second.is_superseded());
        let none = Tokens::default();
        assert_eq!(tickets.admit(&good, &none, later).await.unwrap_err(), TicketError::Withdrawn);
        assert_eq!(tickets.admit("x", &none, later).await.unwrap_err(), TicketError::Unknown);
    }

    #[tokio::test]
    async fn an_opened_stream_is_remembered_by_the_next_process() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(NAME);
        let now = Instant::now();
        let tickets = Tickets::open(&path).unwrap();
        let text = ticket(&tickets, now).await;
        let tokens = tokens(LINE);
        tickets.admit(&text, &tokens, now).await.unwrap();
        drop(tickets);
        let again = Tickets::open(&path).unwrap();
        let later = now + Duration::from_secs(3600);
        assert!(again.admit(&text, &tokens, later).await.is_ok());
    }

    #[test]
    fn the_oldest_is_forgotten_when_there_are_too_many() {
        let mut known = Known::default();
        let digest = |number: usize| Digest::of(&number.to_string());
        for number in 0..TICKETS_MAX {
            assert!(known.give(digest(number), None, None).is_empty());
        }
        assert_eq!(known.give(digest(TICKETS_MAX), None, None), [digest(0)]);
    }
}
