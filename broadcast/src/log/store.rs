//! The kept events on disk: one SQLite database, to which one thread writes.
//!
//! A commit appends pages to one table, and frees as much at the other end as the bounds ask for.
//! Checkpoints are the [`checkpoint`](crate::log::checkpoint)'s, readings the
//! [`reader`](crate::log::reader)'s, each on a connection of its own.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OptionalExtension as _, Row, params};
use shared::event::Event;

use crate::log::identity::Kept;
use crate::log::page::Page;
use crate::log::retention::Retention;
use crate::log::rows::{PAGE, SCHEMA, free, insert, oldest, read_page, set, to_i64, to_u64};
use crate::log::segment::{self, Segment};

/// "Fanf": so that no other program's database is taken for ours.
const APPLICATION_ID: i64 = 0x4661_6e66;
/// 2: events may have the attributes of CloudEvents, which version 1 could not read. The tables are
/// the same.
const VERSION: i64 = 2;
/// Pages that a commit frees for each that it appends, and at least: more than come, so that bounds
/// that were lowered are reached.
const FREED_PER_PAGE: usize = 2;
const FREED_MIN: usize = 16;
/// Pages that are freed in one step while nothing comes.
pub const FREED_IDLE: usize = 256;
/// What a commit writes at least, whatever it holds: two pages of the database.
const COMMIT_BYTES_MIN: u64 = 8192;

/// What the write-ahead log may keep of the disk when it is begun anew.
const WAL_BYTES_KEPT: i64 = 16 * 1024 * 1024;

/// The writing end of the database.
#[derive(Debug)]
pub struct Store {
    connection: Connection,
    retention: Retention,
    /// The segment that is not indexed yet.
    open: Segment,
    /// How much was written since the last checkpoint, about.
    unsaved_bytes: Arc<AtomicU64>,
    last: u64,
}

impl Store {
    /// Opens the database in a folder, or makes it.
    ///
    /// # Errors
    ///
    /// It is damaged, not ours, or of a later version.
    pub fn open(path: &Path, is_synced: bool, bounds: Retention) -> Result<Self, StoreError> {
        let connection = Connection::open(path)?;
        // What is found damaged is left as it is: a close must not write.
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
        let found: i64 = connection.pragma_query_value(None, "application_id", |row| row.get(0))?;
        let tables: i64 =
            connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
        if tables > 0 && found != APPLICATION_ID {
            return Err(StoreError::Foreign);
        }
        let version: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
        if version > VERSION {
            return Err(StoreError::Newer(version));
        }
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "wal_autocheckpoint", 0)?;
        // What a burst has made of it is given back when it is begun anew.
        connection.pragma_update(None, "journal_size_limit", WAL_BYTES_KEPT)?;
        if tables == 0 {
            connection.execute_batch(&format!(
                "BEGIN; {SCHEMA} PRAGMA application_id = {APPLICATION_ID}; \
                 PRAGMA user_version = {VERSION}; COMMIT;"
            ))?;
        } else if version < VERSION {
            connection.pragma_update(None, "user_version", VERSION)?;
        }
        let synchronous = if is_synced { "FULL" } else { "NORMAL" };
        connection.pragma_update(None, "synchronous", synchronous)?;
        let mut store = Self {
            connection,
            retention: bounds,
            open: Segment::default(),
            unsaved_bytes: Arc::default(),
            last: 0,
        };
        store.take_stock()?;
        Ok(store)
    }

    /// Learns what is there.
    fn take_stock(&mut self) -> Result<(), StoreError> {
        let count = |sql: &str| -> Result<(u64, u64), rusqlite::Error> {
            self.connection.query_row(sql, [], |row| Ok((to_u64(row, 0)?, to_u64(row, 1)?)))
        };
        // Of the oldest segment some pages may be freed, and the newest is not closed: these two
        // are counted page by page.
        let whole = "FROM segments WHERE first >= (SELECT ifnull(min(first), 0) FROM pages)";
        let (events, bytes) =
            count(&format!("SELECT ifnull(sum(events), 0), ifnull(sum(bytes), 0) {whole}"))?;
        let (first_whole, last_whole) =
            count(&format!("SELECT ifnull(min(first), 0), ifnull(max(last), 0) {whole}"))?;
        let (rest_events, rest_bytes) = count(&format!(
            "SELECT ifnull(sum(last - first + 1), 0), ifnull(sum(length(events)), 0) FROM pages \
             WHERE first < {first_whole} OR first > {last_whole}"
        ))?;
        self.retention.begin(events + rest_events, bytes + rest_bytes);
        let ends = "SELECT ifnull(max(last), 0), ifnull(max(value), 0) FROM \
            (SELECT last, 0 AS value FROM pages WHERE first = (SELECT max(first) FROM pages) \
             UNION ALL SELECT 0, value FROM state WHERE name = 'last')";
        let (last_page, last_known) = count(ends)?;
        self.last = last_page.max(last_known);
        self.note_oldest()?;
        let sealed =
            self.connection
                .query_row("SELECT ifnull(max(last), 0) FROM segments", [], |row| to_u64(row, 0))?;
        for page in self.pages_after(sealed)? {
            let events = page.events().map_err(|_| StoreError::Damaged(page.first))?;
            self.add_to_segment(&page, events.iter().map(|(_, event)| event));
        }
        Ok(())
    }

    /// What the database knows of itself.
    ///
    /// # Errors
    ///
    /// It cannot be read.
    pub fn kept(&self) -> Result<Kept, StoreError> {
        let newest = "SELECT age_ms FROM pages ORDER BY first DESC LIMIT 1";
        let newest = self.connection.query_row(newest, [], |row| row.get(0)).optional()?;
        let starts = u64::try_from(self.state("starts")?).unwrap_or_default();
        let age_ms = i64::max(newest.unwrap_or_default(), self.state("age_ms")?);
        Ok(Kept { last: self.last, age_ms, starts })
    }

    fn state(&self, name: &str) -> Result<i64, StoreError> {
        let sql = "SELECT value FROM state WHERE name = ?1";
        let value = self.connection.query_row(sql, [name], |row| row.get(0)).optional()?;
        Ok(value.unwrap_or_default())
    }

    /// Notes the count of starts, and syncs it.
    ///
    /// # Errors
    ///
    /// The database cannot be written.
    pub fn begin(&mut self, starts: u64) -> Result<(), StoreError> {
        set(&self.connection, "starts", to_i64(starts))?;
        self.checkpoint()
    }

    /// How much was written since the last checkpoint, about; set back by whoever makes one.
    pub fn unsaved_bytes(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.unsaved_bytes)
    }

    /// The offset of the last event that was ever kept.
    pub fn last(&self) -> u64 {
        self.last
    }

    /// The place before the oldest kept event.
    pub fn earliest(&self) -> u64 {
        self.retention.oldest().map_or(self.last, |oldest| oldest.first - 1)
    }

    /// The kept events and their bytes.
    pub fn totals(&self) -> (u64, u64) {
        self.retention.totals()
    }

    /// All pages behind an offset; for the start, when they are few.
    fn pages_after(&self, offset: u64) -> Result<Vec<Page>, StoreError> {
        let sql = format!("{PAGE} WHERE first > ?1 ORDER BY first");
        let mut statement = self.connection.prepare(&sql)?;
        let pages = statement.query_map([to_i64(offset)], read_page)?;
        Ok(pages.collect::<Result<_, _>>()?)
    }

    /// Hands the newest pages over, the newest first, until that is enough.
    ///
    /// # Errors
    ///
    /// The database cannot be read.
    pub fn for_newest(&self, mut take: impl FnMut(Page) -> bool) -> Result<(), StoreError> {
        let sql = format!("{PAGE} ORDER BY first DESC");
        let mut statement = self.connection.prepare(&sql)?;
        let pages = statement.query_map([], read_page)?;
        for page in pages {
            if !take(page?) {
                break;
            }
        }
        Ok(())
    }

    fn add_to_segment<'a>(&mut self, page: &Page, events: impl Iterator<Item = &'a Event>) {
        let names = events.map(|event| (event.event_type.as_str(), &*event.source));
        self.open.add(page, names);
    }

    /// Keeps the pages of one commit, and frees what is beyond the bounds. `before_commit` is told
    /// the place before the oldest event that is kept then: readers must know before it is gone.
    ///
    /// # Errors
    ///
    /// Nothing is changed.
    pub fn append(
        &mut self,
        pages: &[Page],
        events: &[Event],
        now_ms: i64,
        before_commit: impl FnOnce(u64),
    ) -> Result<(), StoreError> {
        let mut retention = self.retention.clone();
        retention.add(pages);
        match pages {
            // Most commits are one page: one statement is a transaction of its own.
            [page] if !retention.is_due(now_ms) => insert(&self.connection, page)?,
            _ => {
                let transaction = self.connection.transaction()?;
                pages.iter().try_for_each(|page| insert(&transaction, page))?;
                let pages_max = FREED_MIN.max(FREED_PER_PAGE * pages.len());
                let first = pages.first().map_or(u64::MAX, |page| page.first);
                if let Some(freed) = free(&transaction, &mut retention, first, pages_max, now_ms)? {
                    before_commit(freed);
                }
                transaction.commit()?;
            }
        }
        let bytes: usize = pages.iter().map(|page| page.bytes.len()).sum();
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        self.retention = retention;
        self.last = pages.last().map_or(self.last, |page| page.last);
        self.unsaved_bytes.fetch_add(bytes.max(COMMIT_BYTES_MIN), Ordering::Relaxed);
        let mut rest = events;
        for page in pages {
            let count = usize::try_from(page.count()).unwrap_or(usize::MAX);
            let (of_page, others) = rest.split_at_checked(count).unwrap_or((rest, &[]));
            rest = others;
            self.add_to_segment(page, of_page.iter());
        }
        if self.open.is_full() {
            self.seal();
        }
        Ok(())
    }

    /// Writes the index of the open segment. If that fails it is tried again with the next events:
    /// nothing that was acknowledged hangs on it.
    fn seal(&mut self) {
        let Segment { first, last, events, bytes, wall_us_max, types, sources } = &self.open;
        let sql = "INSERT INTO segments \
            (first, last, wall_us_max, events, bytes, checksum, types, sources) \
            VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)";
        let (types, sources) = (types.encode(*first), sources.encode(*first));
        let values = params![
            to_i64(*first),
            to_i64(*last),
            wall_us_max,
            to_i64(*events),
            to_i64(*bytes),
            segment::checksum((*first, *last), &types, &sources),
            types,
            sources,
        ];
        let sealed = self.connection.prepare_cached(sql).and_then(|mut it| it.execute(values));
        match sealed {
            Ok(_) => self.open = Segment::default(),
            Err(error) => log::warn!("a segment could not be indexed yet: {error}"),
        }
    }

    /// Frees one step of what is beyond the bounds while nothing comes. Says whether there is more.
    ///
    /// # Errors
    ///
    /// Nothing is changed.
    pub fn free_some(
        &mut self,
        now_ms: i64,
        before_commit: impl FnOnce(u64),
    ) -> Result<bool, StoreError> {
        if !self.retention.is_due(now_ms) {
            return Ok(false);
        }
        let transaction = self.connection.transaction()?;
        let mut retention = self.retention.clone();
        let freed = free(&transaction, &mut retention, u64::MAX, FREED_IDLE, now_ms)?;
        // When no event is left, this is all that remembers which offsets were given.
        set(&transaction, "last", to_i64(self.last))?;
        set(&transaction, "age_ms", now_ms)?;
        if let Some(freed) = freed {
            before_commit(freed);
        }
        transaction.commit()?;
        self.retention = retention;
        if self.retention.oldest().is_none() {
            self.open = Segment::default();
        }
        self.unsaved_bytes.fetch_add(COMMIT_BYTES_MIN, Ordering::Relaxed);
        Ok(self.retention.is_due(now_ms))
    }

    /// Writes something that changes nothing: to learn whether writing works again.
    ///
    /// # Errors
    ///
    /// It does not.
    pub fn probe(&mut self) -> Result<(), StoreError> {
        Ok(set(&self.connection, "last", to_i64(self.last))?)
    }

    fn note_oldest(&mut self) -> Result<(), StoreError> {
        let oldest = oldest(&self.connection, 1)?;
        self.retention.set_oldest(oldest.first().copied());
        Ok(())
    }

    /// Writes all that is in the write-ahead log into the database, and syncs it.
    fn checkpoint(&self) -> Result<(), StoreError> {
        let run = |row: &Row<'_>| row.get(0);
        let is_busy: bool =
            self.connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], run)?;
        if is_busy {
            return Err(StoreError::System("somebody else reads the database".to_owned()));
        }
        Ok(())
    }

    /// Leaves nothing unsynced; gives the last offset.
    ///
    /// # Errors
    ///
    /// The database cannot be written.
    pub fn end(self, age_ms: i64) -> Result<u64, StoreError> {
        set(&self.connection, "age_ms", age_ms)?;
        self.checkpoint()?;
        Ok(self.last)
    }
}

/// Why kept events cannot be had, or none can be kept.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database refuses.
    #[error("{0}")]
    Database(#[from] rusqlite::Error),
    /// A page is damaged.
    #[error("the page of offset {0} is damaged")]
    Damaged(u64),
    /// The system refuses.
    #[error("{0}")]
    System(String),
    /// It is another program's database.
    #[error("it is not a log of ours")]
    Foreign,
    /// It was written by a later version.
    #[error("it was written by a later version ({0}) of this program")]
    Newer(i64),
}

#[cfg(test)]
mod tests;
