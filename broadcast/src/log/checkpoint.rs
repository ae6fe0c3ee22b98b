//! Moves what was written from the write-ahead log into the database, on a thread of its own.
//!
//! The log's thread would have to wait for the disk meanwhile. Where it writes without a pause, the
//! write-ahead log could never be begun anew: then, and only then, it has to stand aside for the
//! last few pages.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rusqlite::Connection;
use rusqlite::config::DbConfig;

use crate::fatal::Fatal;
use crate::log::store::StoreError;

/// How often one looks whether there is enough to do.
const EVERY: Duration = Duration::from_millis(200);
/// A checkpoint syncs two files: so much is worth it.
const ENOUGH_BYTES: u64 = 4 * 1024 * 1024;
/// From this size on, in pages of 4 KiB, the write-ahead log has to be begun anew.
const PAGES_MAX: i64 = 4 * 1024;
/// How long readers are waited for while the writer stands aside.
const READERS_PATIENCE: Duration = Duration::from_millis(100);
/// Passes beside the writer, each of which leaves less for the last one.
const PASSES_MAX: usize = 4;

/// Held by whoever writes.
pub type Pen = Arc<Mutex<()>>;

/// The running thread.
#[derive(Debug)]
pub struct Checkpoint {
    stop: mpsc::SyncSender<()>,
    thread: Option<JoinHandle<()>>,
}

impl Checkpoint {
    /// Starts the thread.
    ///
    /// # Errors
    ///
    /// The database cannot be opened.
    pub fn start(path: &Path, unsaved: Arc<AtomicU64>, pen: Pen) -> Result<Self, StoreError> {
        let connection = Connection::open(path)?;
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
        connection.pragma_update(None, "synchronous", "NORMAL")?;
        connection.busy_timeout(READERS_PATIENCE)?;
        let (stop, stopped) = mpsc::sync_channel(1);
        let thread = thread::Builder::new().name("checkpoint".to_owned()).spawn(move || {
            let _fatal = Fatal("the checkpoint");
            let mut is_failing = false;
            while stopped.recv_timeout(EVERY) == Err(RecvTimeoutError::Timeout) {
                let written = unsaved.load(Ordering::Relaxed);
                if written >= ENOUGH_BYTES {
                    match save(&connection, &pen) {
                        Ok(()) => {
                            unsaved.fetch_sub(written, Ordering::Relaxed);
                            is_failing = false;
                        }
                        // It is tried again and again, and said once.
                        Err(error) if !std::mem::replace(&mut is_failing, true) => {
                            log::warn!("a checkpoint failed, it is tried again: {error}");
                        }
                        Err(_) => {}
                    }
                }
            }
        });
        let thread = thread.map_err(|error| StoreError::System(error.to_string()))?;
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for Checkpoint {
    fn drop(&mut self) {
        // The thread waits for nothing else: it is there.
        let _ = self.stop.send(());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn save(connection: &Connection, pen: &Mutex<()>) -> Result<(), rusqlite::Error> {
    let mut pages = 0;
    for _ in 0..PASSES_MAX {
        let saved;
        (pages, saved) = pass(connection, "PASSIVE")?;
        if pages - saved < PAGES_MAX / 64 {
            break;
        }
    }
    if pages >= PAGES_MAX {
        let _pen = pen.lock().unwrap_or_else(PoisonError::into_inner);
        // Readers are waited for, too: each of them holds on for a moment only.
        pass(connection, "RESTART")?;
    }
    Ok(())
}

/// One checkpoint; gives the pages of the write-ahead log, and how many of them are saved.
fn pass(connection: &Connection, kind: &str) -> Result<(i64, i64), rusqlite::Error> {
    let sql = format!("PRAGMA wal_checkpoint({kind})");
    connection.query_row(&sql, [], |row| Ok((row.get(1)?, row.get(2)?)))
}
