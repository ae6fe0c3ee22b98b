//! Who a folder of kept events is: its epoch, and which offsets it may have given.
//!
//! The law of cursors (WIRE §0) must hold through a power loss that took the log's tail and through
//! a restored backup, neither of which the database itself can notice. So a small file beside it
//! says up to where offsets may have been given (far ahead, synced before the first of them is
//! used), in which boot of the machine, and which file it is itself: a copy of the folder, or an
//! older file written over a newer one, does not know its own inode and time of birth.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use serde::{Deserialize, Serialize};

use crate::cursor::Epoch;
use crate::log::clock::Clock;

/// Offsets that are reserved at a time. Each reservation is a sync of two files.
const RESERVE: u64 = 1 << 20;
const NAME: &str = "identity.json";
const NEW_NAME: &str = "identity.json.new";
const LOCK_NAME: &str = "lock";
/// The database of kept events.
pub const DATABASE_NAME: &str = "log.sqlite";

/// A folder that is ours alone while this value lives.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    #[expect(dead_code, reason = "the lock, until it is dropped")]
    lock: File,
}

/// What the log begins with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Beginning {
    /// The life that it is in.
    pub epoch: Epoch,
    /// The last offset that was or may have been given.
    pub last: u64,
    /// Cursors below this one may miss events: what was between was lost with the power.
    pub whole_from: u64,
    /// The log's clock.
    pub clock: Clock,
}

/// What the database knows of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Kept {
    /// The offset of the last event.
    pub last: u64,
    /// The log's clock at that time.
    pub age_ms: i64,
    /// How often the log was opened.
    pub starts: u64,
}

/// The file's contents.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    epoch: String,
    /// How often the log was opened; the database counts, too.
    starts: u64,
    /// The last offset that the database had when it was opened.
    opened_at: u64,
    /// The offset behind which new ones were given from then on.
    begun_at: u64,
    /// Offsets up to this one may have been given.
    reserved: u64,
    /// Cursors below this one may miss events.
    whole_from: u64,
    /// The boot of the machine in which that was so.
    boot: String,
    clock_base_ms: i64,
    /// Whether every event was synced before it was acknowledged.
    is_synced: bool,
    /// The last offset, after a stop that left nothing unsynced.
    stopped_at: Option<u64>,
    /// Which file the database is.
    database: Birth,
    /// Which file this is.
    file: Birth,
}

/// What a copy of a file does not have in common with it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Birth {
    inode: u64,
    /// Nanoseconds since 1970; not every file system keeps it.
    born_ns: Option<u64>,
}

impl Birth {
    fn of(file: &File) -> io::Result<Self> {
        let metadata = file.metadata()?;
        let born = metadata.created().ok().and_then(|it| it.duration_since(UNIX_EPOCH).ok());
        let born_ns = born.and_then(|it| u64::try_from(it.as_nanos()).ok());
        Ok(Self { inode: metadata.ino(), born_ns })
    }
}

impl Folder {
    /// Makes the folder if there is none, and takes it for this process alone.
    ///
    /// # Errors
    ///
    /// [`FolderError`] says who is in the way.
    pub fn take(path: &Path) -> Result<Self, FolderError> {
        let fault = |error| FolderError::Io(path.to_owned(), error);
        // What is kept is as secret as the tokens that let it be read.
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true).mode(0o700).create(path).map_err(fault)?;
        let lock_path = path.join(LOCK_NAME);
        let lock = private().create(true).append(true).open(&lock_path);
        let lock = lock.map_err(|error| FolderError::Io(lock_path.clone(), error))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { path: path.to_owned(), lock }),
            Err(fs::TryLockError::WouldBlock) => Err(FolderError::Taken(path.to_owned())),
            Err(fs::TryLockError::Error(error)) => Err(FolderError::Io(lock_path, error)),
        }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// The path of a database in it, which others cannot read: what the database makes beside it has
    /// the same mode.
    ///
    /// # Errors
    ///
    /// The file cannot be made.
    pub fn database(&self, name: &str) -> io::Result<PathBuf> {
        let path = self.file(name);
        private().create(true).append(true).open(&path)?;
        Ok(path)
    }

    fn read(&self) -> Option<Record> {
        let path = self.file(NAME);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => {
                log::error!("{} cannot be read, so a new epoch begins: {error}", path.display());
                return None;
            }
        };
        let record: Record = serde_json::from_slice(&text)
            .inspect_err(|error| {
                log::error!("{} is damaged, so a new epoch begins: {error}", path.display());
            })
            .ok()?;
        let birth = File::open(&path).and_then(|file| Birth::of(&file)).ok()?;
        if record.file != birth {
            log::warn!("{} is a copy, so a new epoch begins", self.path.display());
            return None;
        }
        Some(record)
    }

    fn write(&self, record: &mut Record) -> io::Result<()> {
        let new = self.file(NEW_NAME);
        // A file that is left over could be one that somebody has copied here.
        let _ = fs::remove_file(&new);
        let mut file = private().create_new(true).write(true).open(&new)?;
        record.file = Birth::of(&file)?;
        serde_json::to_writer(&file, &record)?;
        file.write_all(b"\n")?;
        file.sync_all()?;
        fs::rename(&new, self.file(NAME))?;
        File::open(&self.path)?.sync_all()
    }
}

/// Files for us alone.
fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.mode(0o600);
    options
}

/// The identity of an open log.
#[derive(Debug)]
pub struct Identity {
    folder: Folder,
    record: Record,
}

impl Identity {
    /// Finds out which life of the log this is. `kept` is what the database has; its count of
    /// starts is raised after this, and before an offset is given.
    ///
    /// # Errors
    ///
    /// The file cannot be written.
    pub fn begin(
        folder: Folder,
        kept: Kept,
        is_synced: bool,
        boot: &str,
    ) -> io::Result<(Self, Beginning)> {
        let database = File::open(folder.file(DATABASE_NAME)).and_then(|it| Birth::of(&it))?;
        let known = folder.read().filter(|record| record.is_of(kept, &database));
        let beginning = match &known {
            Some(record) => record.go_on(kept, boot),
            None => Beginning {
                epoch: Epoch::random(),
                last: kept.last,
                whole_from: 0,
                clock: Clock::continuing(kept.age_ms),
            },
        };
        let mut record = Record {
            epoch: beginning.epoch.as_str().to_owned(),
            starts: kept.starts + 1,
            opened_at: kept.last,
            begun_at: beginning.last,
            reserved: beginning.last + RESERVE,
            whole_from: beginning.whole_from,
            boot: boot.to_owned(),
            clock_base_ms: beginning.clock.base_ms(),
            is_synced,
            stopped_at: None,
            database,
            file: Birth::default(),
        };
        folder.write(&mut record)?;
        Ok((Self { folder, record }, beginning))
    }

    /// How often the log was opened, this time included.
    pub fn starts(&self) -> u64 {
        self.record.starts
    }

    /// Makes sure that offsets up to `last` may be given.
    ///
    /// # Errors
    ///
    /// The file cannot be written, and offsets are running out.
    pub fn reserve(&mut self, last: u64) -> io::Result<()> {
        if last + RESERVE / 2 <= self.record.reserved {
            return Ok(());
        }
        let mut record = Record { reserved: last + RESERVE, ..self.record.clone() };
        match self.folder.write(&mut record) {
            Ok(()) => self.record = record,
            Err(error) if last > self.record.reserved => return Err(error),
            // There is time to try again.
            Err(error) => log::warn!("no further offsets can be reserved for now: {error}"),
        }
        Ok(())
    }

    /// Notes that all is written and synced up to `last`.
    ///
    /// # Errors
    ///
    /// The file cannot be written; the next start is then as after a crash.
    pub fn end(mut self, last: u64) -> io::Result<()> {
        self.record.stopped_at = Some(last);
        self.folder.write(&mut self.record)
    }
}

impl Record {
    /// Whether the database is the one that this file was written for, and no older one. Its count
    /// is raised after the file's: it is one behind where a start was cut short.
    fn is_of(&self, kept: Kept, database: &Birth) -> bool {
        let has_all = self.stopped_at.map_or(kept.last >= self.opened_at, |at| kept.last == at);
        let is_same = kept.starts == self.starts && has_all && *database == self.database;
        let was_cut_short = kept.starts + 1 == self.starts && kept.last == self.opened_at;
        if !is_same && !was_cut_short {
            log::warn!("the log is not the one that was left here, so a new epoch begins");
        }
        is_same || was_cut_short
    }

    /// The same epoch goes on, behind every offset that may have been given.
    fn go_on(&self, kept: Kept, boot: &str) -> Beginning {
        let epoch = self.epoch.parse().unwrap_or_else(|_| Epoch::random());
        let is_same_boot = boot == self.boot;
        // Without a power loss nothing that was written is lost; and what was synced never is.
        let is_whole = is_same_boot || self.is_synced || self.stopped_at == Some(kept.last);
        let clock = match is_same_boot {
            true => Clock::with_base(self.clock_base_ms),
            false => Clock::continuing(kept.age_ms),
        };
        let lost = (!is_whole).then_some(self.reserved);
        // After a loss new offsets begin far behind the last one that is kept.
        let last = lost.unwrap_or(kept.last.max(self.begun_at));
        Beginning { epoch, last, whole_from: lost.unwrap_or(self.whole_from), clock }
    }
}

/// The boot of the machine; one of our own where the system does not tell.
pub fn boot_id() -> String {
    let told = fs::read_to_string("/proc/sys/kernel/random/boot_id");
    told.map_or_else(|_| Epoch::random().as_str().to_owned(), |text| text.trim().to_owned())
}

/// Why a folder cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// Another process keeps its events there.
    #[error("{} is in use by another process", .0.display())]
    Taken(PathBuf),
    /// The system refuses.
    #[error("{}: {}", .0.display(), .1)]
    Io(PathBuf, io::Error),
}

#[cfg(test)]
mod tests;
