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
    /// What is written of queues that are there is not true any more; their places are in this epoch.
    Keep(Vec<Record>, Epoch),
    /// The queue of a number is gone. By name it could be one that was made since.
    Remove(u64),
}

/// A queue that was written down, and the epoch of its place.
pub(super) type Kept = (Record, Epoch);

/// Opens the file, and starts the thread.
pub(super) fn start(path: &Path) -> Result<(Vec<Kept>, Clerk<Change>), StoreError> {
    let connection = clerk::open(path)?;
    connection.execute_batch(
        "CREATE TABLE IF NOT EXISTS queues (
            number INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, patterns TEXT NOT NULL,
            epoch TEXT NOT NULL, place INTEGER NOT NULL, dropped INTEGER NOT NULL,
            has_gap INTEGER NOT NULL, given INTEGER NOT NULL, is_open INTEGER NOT NULL,
            acknowledged INTEGER NOT NULL
        ) STRICT",
    )?;
    let kept = read(&connection)?;
    let complaint = "places of queues cannot be kept, a restart will repeat what was acknowledged";
    Ok((kept, Clerk::start("queues", connection, write, complaint)?))
}

fn read(connection: &Connection) -> Result<Vec<Kept>, StoreError> {
    let sql = "SELECT name, patterns, place, dropped, has_gap, is_open, epoch, number, given, \
               acknowledged FROM queues";
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
            number: to_u64(row, 7)?,
            given: to_u64(row, 8)?,
            acknowledged: to_u64(row, 9)?,
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
            Change::Keep(records, epoch) => {
                records.iter().try_for_each(|record| keep(&transaction, record, epoch))?;
            }
            Change::Remove(number) => {
                transaction.execute("DELETE FROM queues WHERE number = ?1", [to_i64(*number)])?;
            }
        }
    }
    transaction.commit()
}

fn make(connection: &Connection, record: &Record, epoch: &Epoch) -> Result<(), rusqlite::Error> {
    let patterns: Vec<&str> = record.patterns.iter().map(Pattern::as_str).collect();
    // Texts can always be written.
    let patterns = serde_json::to_string(&patterns).unwrap_or_default();
    // The removal of one that had this name may still be waiting.
    let sql = "INSERT OR REPLACE INTO queues (number, name, patterns, epoch, place, dropped, \
               has_gap, given, is_open, acknowledged) \
               VALUES (?1, ?2, ?3, '', 0, 0, 0, 0, 0, 0)";
    connection.execute(sql, params![to_i64(record.number), &*record.name, patterns])?;
    keep(connection, record, epoch)
}

/// One that was removed meanwhile is not there, and stays away.
fn keep(connection: &Connection, record: &Record, epoch: &Epoch) -> Result<(), rusqlite::Error> {
    let sql = "UPDATE queues SET epoch = ?2, place = ?3, dropped = ?4, has_gap = ?5, given = ?6, \
               is_open = ?7, acknowledged = ?8 WHERE number = ?1";
    let Record { number, place, dropped, has_gap, given, is_open, acknowledged, .. } = record;
    let mut statement = connection.prepare_cached(sql)?;
    let values = params![
        to_i64(*number),
        epoch.as_str(),
        to_i64(*place),
        to_i64(*dropped),
        has_gap,
        to_i64(*given),
        is_open,
        to_i64(*acknowledged)
    ];
    statement.execute(values).map(|_| ())
}

#[cfg(test)]
mod tests;
