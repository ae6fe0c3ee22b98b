//! Readings of the log on disk, on threads of their own.
//!
//! Each reading is small and bounded, and holds no transaction beyond its end: a resume of any
//! length is many of them, between which others have their turn, and checkpoints can go on.

use std::path::Path;
use std::thread;

use rusqlite::{Connection, OpenFlags, OptionalExtension as _, Transaction, params};
use shared::event::Event;
use tokio::sync::{mpsc, oneshot};

use crate::fatal::Fatal;
use crate::filter::Filter;
use crate::log::page::Page;
use crate::log::reader::indexes::{indexed_page, segment_around, segment_behind};
use crate::log::rows::{PAGE, read_page, to_i64, to_u64};
use crate::log::store::StoreError;

mod indexes;

/// Readings that wait for one thread; beyond it those who want to read wait.
const QUEUE_MAX: usize = 1024;
/// What one reading looks at, at most: segments by their index, and bytes of pages.
const SEGMENTS_MAX: usize = 32;
const SCAN_BYTES_MAX: usize = 512 * 1024;

/// Some wanted events, and how far one has looked for them.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Excerpt {
    /// The events with their offsets, in order.
    pub events: Vec<(u64, Event)>,
    /// There is no other wanted event up to this offset.
    pub place: u64,
}

impl Excerpt {
    /// Where nothing at all was found behind `after`, there is nothing up to the end that there was
    /// before one looked: the last offsets may have been reserved, and never given.
    pub fn or_nothing_up_to(self, end: u64, after: u64) -> Self {
        let place = if self.place == after { end.max(after) } else { self.place };
        Self { place, ..self }
    }
}

/// How far one has looked back.
#[derive(Debug, PartialEq, Eq)]
pub struct LookBack {
    /// Wanted events that were found.
    pub found: usize,
    /// The offset of the earliest of them.
    pub earliest: Option<u64>,
    /// The offset from which to look on, if there is anything before.
    pub rest: Option<u64>,
}

type Job = Box<dyn FnOnce(&mut Reading) + Send>;

/// A thread that reads.
#[derive(Debug, Clone)]
pub struct Reader {
    jobs: mpsc::Sender<Job>,
}

impl Reader {
    /// Starts a thread. It ends with the last clone of this value.
    ///
    /// # Errors
    ///
    /// The database cannot be opened.
    pub fn start(path: &Path) -> Result<Self, StoreError> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let mut reading = Reading { connection: Connection::open_with_flags(path, flags)? };
        let (jobs, mut waiting) = mpsc::channel::<Job>(QUEUE_MAX);
        let thread = thread::Builder::new().name("reader".to_owned());
        let started = thread.spawn(move || {
            let _fatal = Fatal("a reader");
            while let Some(job) = waiting.blocking_recv() {
                job(&mut reading);
            }
        });
        started.map_err(|error| StoreError::System(error.to_string()))?;
        Ok(Self { jobs })
    }

    /// Reads; waits while others do.
    ///
    /// # Errors
    ///
    /// The log cannot be read.
    pub async fn ask<T: Send + 'static>(
        &self,
        read: impl FnOnce(&mut Reading) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (answer, answered) = oneshot::channel();
        let job = move |reading: &mut Reading| {
            // Whoever asked may have left.
            let _ = answer.send(read(reading));
        };
        let gone = || StoreError::System("its reader has gone".to_owned());
        self.jobs.send(Box::new(job)).await.map_err(|_| gone())?;
        answered.await.map_err(|_| gone())?
    }
}

/// A connection that only reads.
#[derive(Debug)]
pub struct Reading {
    connection: Connection,
}

impl Reading {
    /// Reads wanted events behind an offset: so many bytes of them, or as far as one reading goes.
    ///
    /// # Errors
    ///
    /// The log cannot be read.
    pub fn read(
        &mut self,
        after: u64,
        filter: &Filter,
        bytes_max: usize,
    ) -> Result<Excerpt, StoreError> {
        let transaction = self.connection.transaction()?;
        let mut gathering = Gathering::new(after, filter, bytes_max);
        let is_indexed = !filter.wants_all_types() || !filter.narrow.sources.is_empty();
        let mut segments = 0;
        while is_indexed && segments < SEGMENTS_MAX {
            let Some(found) = segment_behind(&transaction, gathering.place, filter)? else { break };
            segments += 1;
            // All but the last of those that begin before the place end before it, too.
            let before = found.pages.partition_point(|first| *first <= gathering.place);
            for first in found.pages.into_iter().skip(before.saturating_sub(1)) {
                if let Some(page) = indexed_page(&transaction, first, gathering.place)?
                    && !gathering.take(&page)?
                {
                    return Ok(gathering.excerpt());
                }
            }
            gathering.place = gathering.place.max(found.last);
        }
        if segments == SEGMENTS_MAX {
            return Ok(gathering.excerpt());
        }
        // What is not indexed yet, or not asked for by an index.
        let sql = format!(
            "{PAGE} WHERE first >= (SELECT ifnull(max(first), 0) FROM pages WHERE first <= ?1 + 1) \
             AND last > ?1 ORDER BY first"
        );
        {
            let mut statement = transaction.prepare_cached(&sql)?;
            let mut rows = statement.query([to_i64(gathering.place)])?;
            while let Some(row) = rows.next()? {
                if !gathering.take(&read_page(row)?)? {
                    break;
                }
            }
        }
        Ok(gathering.excerpt())
    }

    /// The place before the first event that was accepted at or after a time, by the wall clock;
    /// `None` if there is none.
    ///
    /// # Errors
    ///
    /// The log cannot be read.
    pub fn since(&mut self, wall_us: i64) -> Result<Option<u64>, StoreError> {
        let transaction = self.connection.transaction()?;
        let sql = "SELECT first FROM segments WHERE wall_us_max >= ?1 ORDER BY first LIMIT 1";
        let segment = transaction.query_row(sql, [wall_us], |row| to_u64(row, 0)).optional()?;
        let start = match segment {
            Some(first) => first,
            None => {
                transaction.query_row("SELECT ifnull(max(last), 0) FROM segments", [], |row| {
                    to_u64(row, 0)
                })?
            }
        };
        let sql = "SELECT first FROM pages WHERE first >= ?1 AND wall_us >= ?2 \
            ORDER BY first LIMIT 1";
        let first = transaction
            .query_row(sql, params![to_i64(start), wall_us], |row| to_u64(row, 0))
            .optional()?;
        Ok(first.map(|first| first - 1))
    }

    /// Looks back from an offset for wanted events: so many, or as far as one reading goes.
    ///
    /// # Errors
    ///
    /// The log cannot be read.
    pub fn look_back(
        &mut self,
        from: u64,
        wanted: usize,
        filter: &Filter,
    ) -> Result<LookBack, StoreError> {
        let transaction = self.connection.transaction()?;
        let mut back = Backward { filter, from, wanted, found: 0, earliest: None, bytes: 0 };
        for _ in 0..SEGMENTS_MAX {
            match segment_around(&transaction, back.from, filter)? {
                Some((first, pages)) => {
                    let until = back.from;
                    for page in pages.into_iter().rev().filter(|page| *page <= until) {
                        if let Some(page) = indexed_page(&transaction, page, 0)?
                            && !back.take(&page)?
                        {
                            return Ok(back.result());
                        }
                    }
                    back.from = first - 1;
                }
                None => {
                    // Not indexed yet: page by page, down to where the index ends.
                    let sql = format!(
                        "{PAGE} WHERE first <= ?1 \
                         AND first > (SELECT ifnull(max(last), 0) FROM segments WHERE last < ?1) \
                         ORDER BY first DESC"
                    );
                    let mut statement = transaction.prepare_cached(&sql)?;
                    let mut rows = statement.query([to_i64(back.from)])?;
                    let mut is_any = false;
                    while let Some(row) = rows.next()? {
                        is_any = true;
                        if !back.take(&read_page(row)?)? {
                            return Ok(back.result());
                        }
                    }
                    if !is_any && !back.skip_gap(&transaction)? {
                        return Ok(LookBack { rest: None, ..back.result() });
                    }
                }
            }
        }
        Ok(back.result())
    }
}

/// Wanted events, as they are found.
#[derive(Debug)]
pub struct Gathering<'a> {
    filter: &'a Filter,
    bytes_max: usize,
    events: Vec<(u64, Event)>,
    bytes: usize,
    scanned_bytes: usize,
    place: u64,
}

impl<'a> Gathering<'a> {
    /// Begins behind an offset.
    pub fn new(after: u64, filter: &'a Filter, bytes_max: usize) -> Self {
        Self { filter, bytes_max, events: Vec::new(), bytes: 0, scanned_bytes: 0, place: after }
    }

    /// Takes what is wanted of a page; says whether there is room for another.
    ///
    /// # Errors
    ///
    /// The page is damaged.
    pub fn take(&mut self, page: &Page) -> Result<bool, StoreError> {
        for (offset, event) in page.events().map_err(|_| StoreError::Damaged(page.first))? {
            if offset > self.place && self.filter.admits(offset, &event) {
                self.bytes += event.size();
                self.events.push((offset, event));
            }
        }
        self.place = self.place.max(page.last);
        self.scanned_bytes += page.bytes.len();
        Ok(self.bytes < self.bytes_max && self.scanned_bytes < SCAN_BYTES_MAX)
    }

    /// What was found.
    pub fn excerpt(self) -> Excerpt {
        Excerpt { events: self.events, place: self.place }
    }
}

/// Wanted events, as one looks back for them.
#[derive(Debug)]
pub struct Backward<'a> {
    filter: &'a Filter,
    /// Everything from here on was looked at, this offset not.
    from: u64,
    wanted: usize,
    found: usize,
    earliest: Option<u64>,
    bytes: usize,
}

impl<'a> Backward<'a> {
    /// Looks back from an offset for so many events.
    pub fn new(from: u64, wanted: usize, filter: &'a Filter) -> Self {
        Self { filter, from, wanted, found: 0, earliest: None, bytes: 0 }
    }

    /// Looks at a page; says whether to look further back.
    ///
    /// # Errors
    ///
    /// The page is damaged.
    pub fn take(&mut self, page: &Page) -> Result<bool, StoreError> {
        let events = page.events().map_err(|_| StoreError::Damaged(page.first))?;
        for (offset, event) in events.iter().rev() {
            if self.found < self.wanted
                && *offset <= self.from
                && self.filter.admits(*offset, event)
            {
                self.found += 1;
                self.earliest = Some(*offset);
            }
        }
        self.from = self.from.min(page.first - 1);
        self.bytes += page.bytes.len();
        Ok(self.found < self.wanted && self.bytes < SCAN_BYTES_MAX)
    }

    /// Goes to the last page before a range that was never kept; says whether there is one.
    fn skip_gap(&mut self, transaction: &Transaction<'_>) -> Result<bool, StoreError> {
        let sql = "SELECT ifnull(max(last), 0) FROM pages WHERE first = \
            (SELECT max(first) FROM pages WHERE first <= ?1)";
        self.from = transaction.query_row(sql, [to_i64(self.from)], |row| to_u64(row, 0))?;
        Ok(self.from > 0)
    }

    /// How far one has come.
    pub fn result(&self) -> LookBack {
        let is_more = self.found < self.wanted && self.from > 0;
        LookBack { found: self.found, earliest: self.earliest, rest: is_more.then_some(self.from) }
    }
}

#[cfg(test)]
mod tests;
