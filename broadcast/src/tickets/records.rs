//! How tickets are written down, and read at the start.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use rusqlite::{Connection, params};
use shared::credentials::Digest;

use crate::clerk::{self, Clerk};
use crate::log::store::StoreError;
use crate::tickets::{Claim, Known, Owner, Use, bearer};

/// What changes.
#[derive(Debug)]
pub(super) enum What {
    Give(Digest, Owner),
    Open(Claim),
    Forget(Vec<Digest>),
}

/// Opens the file, and starts the thread.
pub(super) fn start(path: &Path) -> Result<(Known, Clerk<What>), StoreError> {
    let connection = clerk::open(path)?;
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
    let complaint = "tickets cannot be kept, a restart will forget some";
    Ok((known, Clerk::start("tickets", connection, write, complaint)?))
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

fn write(connection: &Connection, changes: &[What]) -> Result<(), rusqlite::Error> {
    let transaction = connection.unchecked_transaction()?;
    for change in changes {
        match change {
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
