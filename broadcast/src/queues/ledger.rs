//! How queues are written down, and read at the start.

use std::path::Path;
use std::sync::Arc;

use rusqlite::{Connection, params};
use shared::pattern::Pattern;

use crate::clerk::{self, Clerk};
use crate::cursor::Epoch;
use crate::log::rows::{to_i64, to_u64};
use crate::log::store::StoreError;
use crate::queues::queue::Record;

/// What changes.
#[derive(Debug, Clone)]
pub(super) enum Change {
    /// A queue is made, in this epoch. With `synced` it must survive a loss of power.
    Make(Record, Epoch, bool),
    /// What is written of queues that are there is not true any more.
    Keep(Vec<Record>),
    Remove(Arc<str>),
}

/// A queue that was written down, and the epoch of its place.
pub(super) type Kept = (Record, Epoch);

/// Opens the file, and starts the thread.
pub(super) fn start(path: &Path) -> Result<(Vec<Kept>, Clerk<Change>), StoreError> {
    let connection = clerk::open(path)?;
    connection.execute_batch(
        "CREATE TABLE IF NOT EXISTS queues (
            name TEXT PRIMARY KEY, patterns TEXT NOT NULL, epoch TEXT NOT NULL,
            place INTEGER NOT NULL, dropped INTEGER NOT NULL, has_gap INTEGER NOT NULL,
            is_open INTEGER NOT NULL
        ) STRICT",
    )?;
    let kept = read(&connection)?;
    let complaint = "places of queues cannot be kept, a restart will repeat what was acknowledged";
    Ok((kept, Clerk::start("queues", connection, write, complaint)?))
}

fn read(connection: &Connection) -> Result<Vec<Kept>, StoreError> {
    let sql = "SELECT name, patterns, place, dropped, has_gap, is_open, epoch FROM queues";
    let mut statement = connection.prepare(sql)?;
    let mut rows = statement.query([])?;
    let mut kept = Vec::new();
    while let Some(row) = rows.next()? {
        let name: String = row.get(0)?;
        let damaged = || StoreError::System(format!("the queue {name:?} is damaged"));
        let patterns: String = row.get(1)?;
        let patterns: Vec<String> = serde_json::from_str(&patterns).map_err(|_| damaged())?;
        let patterns: Result<Arc<[Pattern]>, _> =
            patterns.into_iter().map(Pattern::parse).collect();
        let epoch: String = row.get(6)?;
        let epoch = epoch.parse().map_err(|_| damaged())?;
        let record = Record {
            patterns: patterns.map_err(|_| damaged())?,
            place: to_u64(row, 2)?,
            dropped: to_u64(row, 3)?,
            has_gap: row.get(4)?,
            is_open: row.get(5)?,
            name: name.into(),
        };
        kept.push((record, epoch));
    }
    Ok(kept)
}

/// Writes what changes, all that waits at once.
fn write(connection: &Connection, changes: &[Change]) -> Result<(), rusqlite::Error> {
    let must_sync = changes.iter().any(|change| matches!(change, Change::Make(_, _, true)));
    // A place that a loss of power takes is repeated; a queue that it takes would be a silent gap.
    connection.pragma_update(None, "synchronous", if must_sync { "FULL" } else { "NORMAL" })?;
    let transaction = connection.unchecked_transaction()?;
    for change in changes {
        match change {
            Change::Make(record, epoch, _) => make(&transaction, record, epoch)?,
            Change::Keep(records) => {
                records.iter().try_for_each(|record| keep(&transaction, record))?;
            }
            Change::Remove(name) => {
                transaction.execute("DELETE FROM queues WHERE name = ?1", [&**name])?;
            }
        }
    }
    transaction.commit()
}

fn make(connection: &Connection, record: &Record, epoch: &Epoch) -> Result<(), rusqlite::Error> {
    let patterns: Vec<&str> = record.patterns.iter().map(Pattern::as_str).collect();
    // Texts can always be written.
    let patterns = serde_json::to_string(&patterns).unwrap_or_default();
    let sql = "INSERT OR REPLACE INTO queues VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)";
    let Record { name, place, dropped, has_gap, is_open, .. } = record;
    let (place, dropped) = (to_i64(*place), to_i64(*dropped));
    let values = params![&**name, patterns, epoch.as_str(), place, dropped, has_gap, is_open];
    connection.execute(sql, values).map(|_| ())
}

/// One that was removed meanwhile is not there, and stays away.
fn keep(connection: &Connection, record: &Record) -> Result<(), rusqlite::Error> {
    let sql = "UPDATE queues SET place = ?2, dropped = ?3, has_gap = ?4, is_open = ?5 \
               WHERE name = ?1";
    let Record { name, place, dropped, has_gap, is_open, .. } = record;
    let mut statement = connection.prepare_cached(sql)?;
    let (place, dropped) = (to_i64(*place), to_i64(*dropped));
    statement.execute(params![&**name, place, dropped, has_gap, is_open]).map(|_| ())
}
