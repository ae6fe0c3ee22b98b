//! The kept events as everybody but the log sees them: where they begin and end, and what they are.
//!
//! Told by the log at each commit, asked by sessions on every thread. What is new is answered from
//! memory; the rest is read from the disk, by threads that do nothing else.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use shared::event::Time;

use crate::cursor::{Cursor, Epoch};
use crate::disconnect::Disconnect;
use crate::filter::Filter;
use crate::log::page::Page;
use crate::log::reader::{Backward, Excerpt, Gathering, LookBack, Reader, Reading};
use crate::log::recent::Recent;
use crate::log::store::StoreError;

/// What one look into memory goes through, at most: it is done on a thread that serves others.
const RECENT_BYTES_MAX: usize = 128 * 1024;

/// WIRE §1.3: so many events can be asked for as the last ones.
const LAST_MAX: usize = 10_000;

/// The kept events of one epoch.
#[derive(Debug)]
pub struct Archive {
    /// The life of the log.
    pub epoch: Epoch,
    /// The offset of the last event.
    end: Arc<AtomicU64>,
    /// The place before the oldest kept event.
    earliest: AtomicU64,
    /// Behind this offset nothing was ever lost.
    whole_from: u64,
    recent: Mutex<Recent>,
    readers: Vec<Reader>,
    next_reader: AtomicUsize,
    health: Health,
}

/// What is wrong with the log now.
#[derive(Debug, Default)]
pub struct Health {
    /// Events cannot be written.
    pub is_failing: AtomicBool,
    /// Something that was written cannot be read.
    pub is_damaged: AtomicBool,
}

/// Where a stream of events begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Start {
    /// With what comes from now on.
    Live,
    /// With the oldest kept event.
    First,
    /// Behind a place.
    After(Cursor),
    /// With the first that was accepted at or after a time: microseconds since 1970.
    Since(i64),
    /// With the last so many that are wanted.
    Last(usize),
}

impl Start {
    /// Reads where to begin, which may be said in one way at most; `None` if nothing is said.
    ///
    /// # Errors
    ///
    /// [`StartError`]: something is malformed, or too much is said.
    pub fn read(
        after: Option<&str>,
        since: Option<&str>,
        last: Option<&str>,
    ) -> Result<Option<Self>, StartError> {
        match (after, since, last) {
            (None, None, None) => Ok(None),
            (Some("first"), None, None) => Ok(Some(Self::First)),
            (Some(cursor), None, None) => {
                cursor.parse().map(|cursor| Some(Self::After(cursor))).map_err(|_| StartError)
            }
            (None, Some(since), None) => {
                let since = Time::parse(since).map_err(|_| StartError)?;
                Ok(Some(Self::Since(since.wall_us())))
            }
            (None, None, Some(last)) if last.bytes().all(|byte| byte.is_ascii_digit()) => {
                let last = last.parse().ok().filter(|last| *last <= LAST_MAX);
                last.map(|last| Some(Self::Last(last))).ok_or(StartError)
            }
            _ => Err(StartError),
        }
    }
}

/// Nobody can begin there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("where to begin is malformed, or said in two ways")]
pub struct StartError;

/// Where a stream begins, found out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opening {
    /// The place before the first event that it can have.
    pub place: u64,
    /// Whether it has all that was asked for, if a place was asked for.
    pub recovered: Option<Recovery>,
}

/// Whether a stream has all that was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recovery {
    /// It has.
    Whole,
    /// It may not; the oldest place after which all is there is this one.
    Broken {
        /// That place.
        earliest: u64,
    },
}

impl Archive {
    /// What is kept up to `end`.
    pub fn new(
        epoch: Epoch,
        (earliest, end): (u64, u64),
        whole_from: u64,
        recent: Recent,
        readers: Vec<Reader>,
    ) -> Arc<Self> {
        Arc::new(Self {
            epoch,
            end: Arc::new(AtomicU64::new(end)),
            earliest: AtomicU64::new(earliest),
            whole_from,
            recent: Mutex::new(recent),
            readers,
            next_reader: AtomicUsize::new(0),
            health: Health::default(),
        })
    }

    /// The offset of the last event that was committed.
    pub fn end(&self) -> u64 {
        self.end.load(Ordering::SeqCst)
    }

    /// The same, to be looked at by those who know nothing else of the log.
    pub fn watch_end(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.end)
    }

    /// The oldest place after which everything is there.
    pub fn earliest(&self) -> u64 {
        self.kept_from().max(self.whole_from)
    }

    /// The place before the oldest kept event, whatever was lost behind it.
    pub fn kept_from(&self) -> u64 {
        self.earliest.load(Ordering::SeqCst)
    }

    /// What is wrong.
    pub fn health(&self) -> &Health {
        &self.health
    }

    fn recent(&self) -> MutexGuard<'_, Recent> {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes what was committed.
    pub fn extend(&self, pages: Vec<Page>, end: u64) {
        let mut recent = self.recent();
        for page in pages {
            recent.push(page);
        }
        drop(recent);
        self.end.store(end, Ordering::SeqCst);
    }

    /// What is kept begins behind this offset from now on.
    pub fn free_up_to(&self, earliest: u64) {
        self.earliest.store(earliest, Ordering::SeqCst);
    }

    /// Drops freed pages from memory, where nothing else keeps them.
    pub fn forget_up_to(&self, earliest: u64) {
        let mut recent = self.recent();
        while recent.oldest().is_some_and(|page| page.last <= earliest) {
            recent.free_oldest();
        }
    }

    /// Looks for wanted events behind an offset in memory; `None` if they are not all there.
    ///
    /// # Errors
    ///
    /// [`ReadError`] says what became of them.
    pub fn read_recent(
        &self,
        after: u64,
        filter: &Filter,
        bytes_max: usize,
    ) -> Result<Option<Excerpt>, ReadError> {
        let end = self.end();
        let Some(pages) = self.recent().behind(after, RECENT_BYTES_MAX) else { return Ok(None) };
        if after < self.kept_from() {
            return Err(ReadError::Freed);
        }
        let mut gathering = Gathering::new(after, filter, bytes_max);
        for page in &pages {
            if !gathering.take(page).map_err(|error| self.report(&error))? {
                break;
            }
        }
        Ok(Some(gathering.excerpt().or_nothing_up_to(end, after)))
    }

    /// Looks for wanted events behind an offset, wherever they are.
    ///
    /// # Errors
    ///
    /// [`ReadError`] says what became of them.
    pub async fn read(
        &self,
        after: u64,
        filter: &Arc<Filter>,
        bytes_max: usize,
    ) -> Result<Excerpt, ReadError> {
        if let Some(excerpt) = self.read_recent(after, filter, bytes_max)? {
            return Ok(excerpt);
        }
        let filter = Arc::clone(filter);
        let end = self.end();
        let excerpt = self.ask(move |reading| reading.read(after, &filter, bytes_max)).await?;
        // What was freed meanwhile may be missing: the log says so before it frees.
        if after < self.kept_from() {
            return Err(ReadError::Freed);
        }
        Ok(excerpt.or_nothing_up_to(end, after))
    }

    /// Finds out where a stream begins. `live` is where one begins that asks for nothing kept.
    ///
    /// # Errors
    ///
    /// [`ReadError`]: the log cannot be read.
    pub async fn open(
        &self,
        start: &Start,
        filter: &Arc<Filter>,
        live: u64,
    ) -> Result<Opening, ReadError> {
        let whole = |place| Opening { place, recovered: Some(Recovery::Whole) };
        Ok(match start {
            Start::Live => Opening { place: live, recovered: None },
            Start::First => whole(self.kept_from()),
            Start::After(cursor) => self.resume(cursor, live),
            Start::Since(wall_us) => {
                // What is committed while we look is behind this end.
                let end = self.end();
                let place = self.place_since(*wall_us).await?.unwrap_or(end);
                whole(place.max(self.kept_from()))
            }
            Start::Last(count) => {
                Opening { place: self.place_of_last(*count, filter).await?, recovered: None }
            }
        })
    }

    /// WIRE §1.3: what follows a cursor that is not ours, or not whole, is what is kept after it.
    pub fn resume(&self, cursor: &Cursor, live: u64) -> Opening {
        let (end, kept_from) = (self.end(), self.kept_from());
        let earliest = self.earliest();
        let broken = |place| Opening { place, recovered: Some(Recovery::Broken { earliest }) };
        if cursor.epoch != self.epoch || cursor.offset > end {
            return broken(live);
        }
        match cursor.offset {
            offset if offset >= earliest => {
                Opening { place: offset, recovered: Some(Recovery::Whole) }
            }
            offset => broken(offset.max(kept_from)),
        }
    }

    async fn place_since(&self, wall_us: i64) -> Result<Option<u64>, ReadError> {
        if self.readers.is_empty() {
            let recent = self.recent();
            let pages = recent.newest_first();
            let found = pages.filter(|page| page.accepted.wall_us >= wall_us).last();
            return Ok(found.map(|page| page.first - 1));
        }
        self.ask(move |reading| reading.since(wall_us)).await
    }

    async fn place_of_last(&self, count: usize, filter: &Arc<Filter>) -> Result<u64, ReadError> {
        let end = self.end();
        let (mut wanted, mut place, mut rest) = (count, end, Some(end));
        while let Some(from) = rest.filter(|_| wanted > 0) {
            let back = self.look_back(from, wanted, filter).await?;
            wanted -= back.found;
            place = back.earliest.map_or(place, |offset| offset - 1);
            rest = back.rest;
        }
        Ok(place)
    }

    async fn look_back(
        &self,
        from: u64,
        wanted: usize,
        filter: &Arc<Filter>,
    ) -> Result<LookBack, ReadError> {
        if !self.readers.is_empty() {
            let filter = Arc::clone(filter);
            return self.ask(move |reading| reading.look_back(from, wanted, &filter)).await;
        }
        // Others on this thread have their turn between the steps.
        tokio::task::yield_now().await;
        let pages = self.recent().before(from, RECENT_BYTES_MAX);
        let mut back = Backward::new(from, wanted, filter);
        for page in &pages {
            if !back.take(page).map_err(|error| self.report(&error))? {
                return Ok(back.result());
            }
        }
        let is_end = pages.is_empty();
        let result = back.result();
        Ok(LookBack { rest: result.rest.filter(|_| !is_end), ..result })
    }

    async fn ask<T: Send + 'static>(
        &self,
        read: impl FnOnce(&mut Reading) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, ReadError> {
        let next = self.next_reader.fetch_add(1, Ordering::Relaxed);
        let reader = self.readers.get(next % self.readers.len().max(1));
        // Without readers everything that is kept is in memory.
        let reader = reader.ok_or(ReadError::Freed)?;
        reader.ask(read).await.map_err(|error| self.report(&error))
    }

    fn report(&self, error: &StoreError) -> ReadError {
        let is_known = self.health.is_damaged.swap(true, Ordering::Relaxed);
        // Once: whoever meets it will come back and meet it again.
        let level = if is_known { log::Level::Debug } else { log::Level::Error };
        log::log!(level, "the log cannot be read: {error}");
        ReadError::Damaged
    }
}

/// Why kept events cannot be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// They are not kept any more.
    #[error("the events are not kept any more")]
    Freed,
    /// The log is damaged, or its disk is.
    #[error("the log cannot be read")]
    Damaged,
}

impl From<ReadError> for Disconnect {
    fn from(error: ReadError) -> Self {
        match error {
            // It may come back, and be told that it has missed something.
            ReadError::Freed => Self::SlowConsumer,
            ReadError::Damaged => Self::Internal,
        }
    }
}

#[cfg(test)]
mod tests;
