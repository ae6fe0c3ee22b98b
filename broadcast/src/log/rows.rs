//! How pages stand in the database, and how they are read and freed there.

use rusqlite::types::Type;
use rusqlite::{Connection, Row, params};

use crate::log::page::{Acceptance, Page};
use crate::log::retention::Retention;

/// The tables. A commit of events appends to the first alone.
pub const SCHEMA: &str = "
    CREATE TABLE pages (
        first INTEGER PRIMARY KEY, last INTEGER NOT NULL,
        wall_us INTEGER NOT NULL, age_ms INTEGER NOT NULL, checksum INTEGER NOT NULL,
        events BLOB NOT NULL
    ) STRICT;
    CREATE TABLE segments (
        first INTEGER PRIMARY KEY, last INTEGER NOT NULL, wall_us_max INTEGER NOT NULL,
        events INTEGER NOT NULL, bytes INTEGER NOT NULL, checksum INTEGER NOT NULL,
        types BLOB NOT NULL, sources BLOB NOT NULL
    ) STRICT;
    CREATE TABLE state (name TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT, WITHOUT ROWID;
";

/// One of the oldest pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Oldest {
    /// The offset of its first event.
    pub first: u64,
    /// The offset of its last event.
    pub last: u64,
    /// When its events were accepted, by the log's clock.
    pub age_ms: i64,
    /// What they occupy.
    pub bytes: u64,
}

/// Appends a page.
///
/// # Errors
///
/// The database refuses.
pub fn insert(connection: &Connection, page: &Page) -> Result<(), rusqlite::Error> {
    let sql = "INSERT INTO pages (first, last, wall_us, age_ms, checksum, events) \
        VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
    let Acceptance { wall_us, age_ms } = page.accepted;
    let (first, last) = (to_i64(page.first), to_i64(page.last));
    let values = params![first, last, wall_us, age_ms, page.checksum(), &*page.bytes];
    connection.prepare_cached(sql)?.execute(values).map(|_| ())
}

impl Oldest {
    /// What is remembered of a page.
    pub fn of(page: &Page) -> Self {
        let bytes = u64::try_from(page.bytes.len()).unwrap_or(u64::MAX);
        Self { first: page.first, last: page.last, age_ms: page.accepted.age_ms, bytes }
    }
}

/// The oldest pages, at most so many.
///
/// # Errors
///
/// They cannot be read.
pub fn oldest(connection: &Connection, count: usize) -> Result<Vec<Oldest>, rusqlite::Error> {
    let sql = "SELECT first, last, age_ms, length(events) FROM pages ORDER BY first LIMIT ?1";
    let mut statement = connection.prepare_cached(sql)?;
    let pages = statement.query_map([i64::try_from(count).unwrap_or(i64::MAX)], |row| {
        let (first, last, bytes) = (to_u64(row, 0)?, to_u64(row, 1)?, to_u64(row, 3)?);
        Ok(Oldest { first, last, age_ms: row.get(2)?, bytes })
    })?;
    pages.collect()
}

/// Frees the oldest pages, at most so many and none from `keep_from` on, while the bounds ask for
/// it. Gives the last offset that was freed.
///
/// # Errors
///
/// The database refuses.
pub fn free(
    connection: &Connection,
    retention: &mut Retention,
    keep_from: u64,
    pages_max: usize,
    now_ms: i64,
) -> Result<Option<u64>, rusqlite::Error> {
    if !retention.is_due(now_ms) {
        return Ok(None);
    }
    let mut freed = None;
    retention.set_oldest(None);
    // One more than may be freed, to know the oldest of those that stay.
    for page in oldest(connection, pages_max + 1)? {
        retention.set_oldest(Some(page));
        let is_last = page.first >= keep_from || freed.is_some_and(|(_, count)| count == pages_max);
        if is_last || !retention.is_due(now_ms) {
            break;
        }
        retention.remove(page);
        freed = Some((page.last, freed.map_or(1, |(_, count)| count + 1)));
    }
    if retention.oldest().is_none() {
        // A damaged database may have fewer than were counted: what is not there is not freed.
        retention.begin(0, 0);
    }
    let Some((last, _)) = freed else { return Ok(None) };
    connection.prepare_cached("DELETE FROM pages WHERE first <= ?1")?.execute([to_i64(last)])?;
    connection.prepare_cached("DELETE FROM segments WHERE last <= ?1")?.execute([to_i64(last)])?;
    Ok(Some(last))
}

/// Notes a number under a name.
///
/// # Errors
///
/// It cannot be written.
pub fn set(connection: &Connection, name: &str, value: i64) -> Result<(), rusqlite::Error> {
    let sql = "INSERT INTO state (name, value) VALUES (?1, ?2) \
        ON CONFLICT (name) DO UPDATE SET value = excluded.value";
    connection.prepare_cached(sql)?.execute(params![name, value]).map(|_| ())
}

/// What [`read_page`] reads.
pub const PAGE: &str = "SELECT first, last, wall_us, age_ms, checksum, events FROM pages";

/// Reads a page from a row of its six columns. SQLite itself would not notice a changed byte.
///
/// # Errors
///
/// The row is damaged.
pub fn read_page(row: &Row<'_>) -> Result<Page, rusqlite::Error> {
    let accepted = Acceptance { wall_us: row.get(2)?, age_ms: row.get(3)? };
    let bytes: Vec<u8> = row.get(5)?;
    let (first, last) = (to_u64(row, 0)?, to_u64(row, 1)?);
    let page = Page { first, last, accepted, bytes: bytes.into() };
    if row.get::<_, u32>(4)? != page.checksum() {
        let fault = format!("the page of offset {first} is damaged");
        return Err(rusqlite::Error::FromSqlConversionFailure(5, Type::Blob, fault.into()));
    }
    Ok(page)
}

/// SQLite has no unsigned numbers; offsets never come near the end of the signed ones.
pub fn to_i64(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// A number that is never negative.
///
/// # Errors
///
/// It is not there, or negative.
pub fn to_u64(row: &Row<'_>, column: usize) -> Result<u64, rusqlite::Error> {
    let number: i64 = row.get(column)?;
    u64::try_from(number).map_err(|_| rusqlite::Error::IntegralValueOutOfRange(column, number))
}
