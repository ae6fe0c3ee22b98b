//! Writes small things down beside the log: a thread of its own, for the disk is waited for.
//!
//! What waits is written in one transaction, and then those who wait are told.

use std::path::Path;
use std::thread;

use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};

use crate::fatal::Fatal;
use crate::log::store::StoreError;

/// Changes that wait to be written; beyond it those who want to change something wait.
const QUEUE_MAX: usize = 256;

/// How changes are written.
pub type Write<C> = fn(&Connection, &[C]) -> Result<(), rusqlite::Error>;

/// The way to a thread that writes changes. It ends with the last clone of this value.
#[derive(Debug)]
pub struct Clerk<C> {
    changes: mpsc::Sender<Noted<C>>,
}

/// A change that is to be written, and whom to tell whether it is.
#[derive(Debug)]
struct Noted<C> {
    change: C,
    done: oneshot::Sender<bool>,
}

/// Opens a file for a clerk, which only we read.
///
/// # Errors
///
/// The file is damaged, or cannot be written.
pub fn open(path: &Path) -> Result<Connection, StoreError> {
    let connection = Connection::open(path)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "NORMAL")?;
    Ok(connection)
}

impl<C: Send + 'static> Clerk<C> {
    /// Starts the thread; `complaint` is what is logged where a change cannot be written.
    ///
    /// # Errors
    ///
    /// There can be no thread.
    pub fn start(
        name: &'static str,
        connection: Connection,
        write: Write<C>,
        complaint: &'static str,
    ) -> Result<Self, StoreError> {
        let (changes, mut waiting) = mpsc::channel::<Noted<C>>(QUEUE_MAX);
        let thread = thread::Builder::new().name(name.to_owned());
        let started = thread.spawn(move || {
            let _fatal = Fatal(name);
            while let Some(first) = waiting.blocking_recv() {
                let (mut batch, mut told) = (vec![first.change], vec![first.done]);
                while let Ok(next) = waiting.try_recv() {
                    batch.push(next.change);
                    told.push(next.done);
                }
                let written = write(&connection, &batch);
                if let Err(error) = &written {
                    log::error!("{complaint}: {error}");
                }
                for done in told {
                    // Whoever asked may have left.
                    let _ = done.send(written.is_ok());
                }
            }
        });
        started.map_err(|error| StoreError::System(error.to_string()))?;
        Ok(Self { changes })
    }

    /// Writes a change; says whether it is written.
    pub async fn note(&self, change: C) -> bool {
        let (done, is_done) = oneshot::channel();
        let is_sent = self.changes.send(Noted { change, done }).await.is_ok();
        is_sent && is_done.await.unwrap_or(false)
    }
}
