//! Writes tickets down, and reads them at the start: a thread of its own, for the disk is waited for.

use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use rusqlite::{Connection, params};
use shared::credentials::Digest;
use tokio::sync::{mpsc, oneshot};

use crate::fatal::Fatal;
use crate::log::store::StoreError;
use crate::tickets::{Claim, Known, Owner, Use, bearer};

/// Changes that wait to be written; beyond it those who want a ticket wait.
const QUEUE_MAX: usize = 256;

/// A change that is to be written, and whom to tell.
#[derive(Debug)]
pub(super) struct Change {
    pub(super) what: What,
    pub(super) done: oneshot::Sender<()>,
}

/// What changes.
#[derive(Debug)]
pub(super) enum What {
    Give(Digest, Owner),
    Open(Claim),
    Forget(Vec<Digest>),
}

/// Opens the file, and starts the thread.
pub(super) fn start(path: &Path) -> Result<(Known, mpsc::Sender<Change>), StoreError> {
    let connection = Connection::open(path)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "NORMAL")?;
    connection.execute_batch(
        "CREATE TABLE IF NOT EXISTS tickets (
            number INTEGER PRIMARY KEY, digest BLOB NOT NULL UNIQUE, token BLOB, stream BLOB,
            bearer TEXT
        ) STRICT",
    )?;
    if !has_bearers(&connection)? {
        connection.execute_batch("ALTER TABLE tickets ADD COLUMN bearer TEXT")?;
    }
    let known = read(&connection)?;
    let (clerk, changes) = mpsc::channel(QUEUE_MAX);
    let thread = thread::Builder::new().name("tickets".to_owned());
    let started = thread.spawn(move || keep(&connection, changes));
    started.map_err(|error| StoreError::System(error.to_string()))?;
    Ok((known, clerk))
}

/// Whether the file is of a version that knows signed tokens.
fn has_bearers(connection: &Connection) -> Result<bool, rusqlite::Error> {
    let sql = "SELECT count(*) FROM pragma_table_info('tickets') WHERE name = 'bearer'";
    connection.query_row(sql, [], |row| row.get(0))
}

/// Reads what was kept. A ticket that waited for its stream waits anew.
fn read(connection: &Connection) -> Result<Known, StoreError> {
    let mut known = Known::default();
    let mut statement =
        connection.prepare("SELECT digest, token, stream, bearer FROM tickets ORDER BY number")?;
    let mut rows = statement.query([])?;
    let now = Instant::now();
    let mut forgotten = Vec::new();
    while let Some(row) = rows.next()? {
        let digest = Digest::from_bytes(row.get(0)?);
        let token: Option<[u8; 32]> = row.get(1)?;
        let stream: Option<[u8; 32]> = row.get(2)?;
        let use_of = stream.map_or(Use::WaitsSince(now), |it| Use::Opened(Digest::from_bytes(it)));
        let bearer: Option<String> = row.get(3)?;
        let owner = match bearer.map(|text| bearer::read(&text)) {
            None => Owner::Token(token.map(Digest::from_bytes)),
            Some(Some(principal)) => Owner::Bearer(Arc::new(principal)),
            Some(None) => {
                log::warn!("a ticket cannot be read, and is forgotten");
                forgotten.push(digest);
                continue;
            }
        };
        forgotten.extend(known.give(digest, owner, use_of, now));
    }
    delete(connection, &forgotten)?;
    Ok(known)
}

fn delete(connection: &Connection, digests: &[Digest]) -> Result<(), rusqlite::Error> {
    let mut delete = connection.prepare("DELETE FROM tickets WHERE digest = ?1")?;
    digests.iter().try_for_each(|digest| delete.execute([digest.as_bytes()]).map(|_| ()))
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
            What::Give(digest, owner) => {
                let sql =
                    "INSERT OR REPLACE INTO tickets (digest, token, bearer) VALUES (?1, ?2, ?3)";
                let (token, bearer) = match owner {
                    Owner::Token(token) => (token.as_ref().map(Digest::as_bytes), None),
                    Owner::Bearer(principal) => (None, Some(bearer::write(principal))),
                };
                transaction.execute(sql, params![digest.as_bytes(), token, bearer])?;
            }
            What::Open(Claim { ticket, stream }) => {
                let sql = "UPDATE tickets SET stream = ?2 WHERE digest = ?1";
                transaction.execute(sql, params![ticket.as_bytes(), stream.as_bytes()])?;
            }
            What::Forget(digests) => delete(&transaction, digests)?,
        }
    }
    transaction.commit()
}
