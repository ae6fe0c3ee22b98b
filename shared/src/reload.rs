//! A value that follows its file: the tokens, the certificate.
//!
//! One thread a value looks at the files, off every event loop. A change is acted on when it has
//! been stable for a while; what cannot be read or parsed never replaces the last good value.

use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::watch;

use crate::reload::file::{Identity, ReadError};

pub mod file;

/// How often the files are looked at where the file system tells of no changes (NFS, VM mounts).
const POLL: Duration = Duration::from_millis(500);
/// How often they are looked at while a change settles.
const POLL_SETTLING: Duration = Duration::from_millis(40);
/// WIRE §2: a change must have been stable for so long.
const STABLE: Duration = Duration::from_millis(200);
/// WIRE §2: the same, for a write in place that looks half done.
const STABLE_IF_SUSPICIOUS: Duration = Duration::from_millis(800);
/// A file of rubbish must not fill the log.
const WARNINGS_MAX: usize = 100;

/// A thing made of files: which they are, and how to read them.
pub trait Source: fmt::Debug + Send + Sync + 'static {
    /// What the files hold.
    type Value: fmt::Debug + Send + Sync;

    /// What it is called in logs.
    fn what(&self) -> &'static str;

    /// The files, in the order in which `parse` gets their contents.
    fn paths(&self) -> Vec<PathBuf>;

    /// Makes the value of the files' contents.
    ///
    /// # Errors
    ///
    /// One sentence without secrets, if they are no good.
    fn parse(&self, contents: &[Vec<u8>]) -> Result<Parsed<Self::Value>, String>;

    /// Whether the new value takes everything away, as a half-written file may.
    fn withdraws_all(&self, old: &Self::Value, new: &Self::Value) -> bool;

    /// Whether nobody but the owner and group should be able to read this one of the files.
    fn is_secret(&self, index: usize) -> bool;
}

/// What reading the files gave.
#[derive(Debug)]
pub struct Parsed<T> {
    /// The value.
    pub value: T,
    /// What is odd in the files, a sentence each.
    pub warnings: Vec<String>,
    /// The text ends as if its writer were not done yet.
    pub is_cut_short: bool,
}

/// A value that follows its files. Cheap to read from every thread.
#[derive(Debug)]
pub struct Reloaded<T> {
    value: ArcSwap<T>,
    version: watch::Sender<u64>,
    fault: Mutex<Option<String>>,
    counts: Counts,
    is_asked: AtomicBool,
    wake: SyncSender<()>,
}

/// How often the files were read, by result.
#[derive(Debug, Default)]
pub struct Counts {
    /// A new value was taken.
    pub taken: AtomicU64,
    /// The files were no good and the old value stayed.
    pub refused: AtomicU64,
}

impl<T: fmt::Debug + Send + Sync + 'static> Reloaded<T> {
    /// Reads the files and begins to follow them.
    ///
    /// # Errors
    ///
    /// [`LoadError`] if the files are no good now: at start there is no last good value.
    pub fn follow(source: impl Source<Value = T>) -> Result<Arc<Self>, LoadError> {
        let (wake, woken) = sync_channel(1);
        let (seen, contents) = file::read_all(&source.paths())?;
        let parsed = source.parse(&contents).map_err(LoadError::Parse)?;
        warn_of(&source, &parsed.warnings, &seen);
        let watcher = watch_folders(&source.paths(), wake.clone());
        let reloaded = Arc::new(Self {
            value: ArcSwap::from_pointee(parsed.value),
            version: watch::Sender::new(0),
            fault: Mutex::new(None),
            counts: Counts::default(),
            is_asked: AtomicBool::new(false),
            wake,
        });
        let follower = Follower {
            source,
            reloaded: Arc::downgrade(&reloaded),
            last_read: Some(seen),
            is_last_good: true,
            is_forced: false,
            watcher,
        };
        std::thread::Builder::new()
            .name("reload".to_owned())
            .spawn(move || follower.run(&woken))
            .map_err(LoadError::Thread)?;
        Ok(reloaded)
    }

    /// The value of now.
    pub fn load(&self) -> arc_swap::Guard<Arc<T>> {
        self.value.load()
    }

    /// The value of now, to keep.
    pub fn load_full(&self) -> Arc<T> {
        self.value.load_full()
    }

    /// How often the value was replaced. Whoever reads it before the value has one that is not older.
    pub fn version(&self) -> u64 {
        *self.version.borrow()
    }

    /// Wakes its holder whenever the value was replaced.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }

    /// Reads the files soon, even if they look unchanged (SIGHUP).
    pub fn ask(&self) {
        self.is_asked.store(true, Ordering::Relaxed);
        // Full: a look is due already.
        let _ = self.wake.try_send(());
    }

    /// What is wrong with the files now, while the last good value is used.
    pub fn fault(&self) -> Option<String> {
        self.fault.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }

    /// How often the files were read, by result.
    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    fn set_fault(&self, fault: Option<String>) {
        *self.fault.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = fault;
    }

    fn replace(&self, value: T) {
        self.value.store(Arc::new(value));
        self.set_fault(None);
        self.counts.taken.fetch_add(1, Ordering::Relaxed);
        self.version.send_modify(|version| *version += 1);
    }

    fn refuse(&self, what: &str, fault: String) {
        log::error!("the {what} was not taken, the last good one stays: {fault}");
        self.counts.refused.fetch_add(1, Ordering::Relaxed);
        self.set_fault(Some(fault));
    }
}

/// Watches the folders, not the files: a rename or a symlink swap ends the watch of a file. No
/// watcher at all is no fault, for the files are polled too.
fn watch_folders(paths: &[PathBuf], wake: SyncSender<()>) -> Option<RecommendedWatcher> {
    let on_event = move |_| {
        // Full: a look is due already.
        let _ = wake.try_send(());
    };
    let mut watcher = notify::recommended_watcher(on_event).ok()?;
    for path in paths {
        let folder = path.parent().filter(|it| !it.as_os_str().is_empty());
        let folder = folder.unwrap_or(std::path::Path::new("."));
        if let Err(error) = watcher.watch(folder, RecursiveMode::NonRecursive) {
            log::warn!("{} cannot be watched and is polled instead: {error}", folder.display());
        }
    }
    Some(watcher)
}

fn warn_of(source: &impl Source, warnings: &[String], seen: &[Identity]) {
    let paths = source.paths();
    let name = paths.first().map(|path| path.display().to_string()).unwrap_or_default();
    for warning in warnings.iter().take(WARNINGS_MAX) {
        log::warn!("{} {name}: {warning}", source.what());
    }
    if let more @ 1.. = warnings.len().saturating_sub(WARNINGS_MAX) {
        log::warn!("{} {name}: and {more} more like these", source.what());
    }
    for (index, (identity, path)) in seen.iter().zip(&paths).enumerate() {
        if source.is_secret(index) && identity.is_readable_by_others() {
            log::warn!("{} can be read by everybody on this machine", path.display());
        }
    }
}

/// The thread behind a [`Reloaded`]; it ends when nobody holds the value any more.
struct Follower<S: Source> {
    source: S,
    reloaded: Weak<Reloaded<S::Value>>,
    last_read: Option<Vec<Identity>>,
    is_last_good: bool,
    /// The files are to be read even if they look unchanged.
    is_forced: bool,
    #[expect(dead_code, reason = "watches until it is dropped")]
    watcher: Option<RecommendedWatcher>,
}

/// A change that was seen and is not acted on yet.
struct Change {
    seen: Option<Vec<Identity>>,
    since: Instant,
    is_suspicious: bool,
}

impl<S: Source> Follower<S> {
    fn run(mut self, woken: &Receiver<()>) {
        let mut change: Option<Change> = None;
        loop {
            if change.is_some() {
                // Not woken by events: a storm of them must not turn into a busy loop.
                std::thread::sleep(POLL_SETTLING);
            } else if woken.recv_timeout(POLL) == Err(RecvTimeoutError::Disconnected) {
                return;
            }
            let Some(reloaded) = self.reloaded.upgrade() else { return };
            self.is_forced |= reloaded.is_asked.swap(false, Ordering::Relaxed);
            change = self.look(change, &reloaded);
        }
    }

    /// Compares the files with what was read last, and reads them when a change has settled.
    /// A look is a `stat`: reading wakes whoever else watches the files, for ever in turns.
    fn look(&mut self, change: Option<Change>, reloaded: &Reloaded<S::Value>) -> Option<Change> {
        let seen = file::identify_all(&self.source.paths()).ok();
        if seen.is_some() && seen == self.last_read && !self.is_forced {
            if self.is_last_good && reloaded.fault().is_some() {
                log::info!("the {} is back as it was", self.source.what());
                reloaded.set_fault(None);
            }
            return None;
        }
        let mut change = match change {
            Some(change) if change.seen == seen => change,
            _ => Change { seen, since: Instant::now(), is_suspicious: false },
        };
        let patience = if change.is_suspicious { STABLE_IF_SUSPICIOUS } else { STABLE };
        if change.since.elapsed() < patience {
            return Some(change);
        }
        match self.read(reloaded, change.is_suspicious) {
            Outcome::Done => None,
            Outcome::Suspicious => {
                change.is_suspicious = true;
                Some(change)
            }
        }
    }

    fn read(&mut self, reloaded: &Reloaded<S::Value>, is_waited_for: bool) -> Outcome {
        let (seen, contents) = match file::read_all(&self.source.paths()) {
            Ok(read) => read,
            Err(ReadError::Changing) => return Outcome::Done,
            Err(error) => {
                // The same fault is found again at every look, and told once.
                if reloaded.fault().is_none_or(|fault| fault != error.to_string()) {
                    reloaded.refuse(self.source.what(), error.to_string());
                }
                return Outcome::Done;
            }
        };
        let parsed = self.source.parse(&contents);
        if let Ok(parsed) = &parsed
            && !is_waited_for
            && self.is_same_file(&seen)
            && (parsed.is_cut_short || self.source.withdraws_all(&reloaded.load(), &parsed.value))
        {
            return Outcome::Suspicious;
        }
        self.is_last_good = parsed.is_ok();
        match parsed {
            Ok(parsed) => {
                warn_of(&self.source, &parsed.warnings, &seen);
                reloaded.replace(parsed.value);
                log::info!("the {} was read again", self.source.what());
            }
            Err(fault) => reloaded.refuse(self.source.what(), fault),
        }
        self.last_read = Some(seen);
        self.is_forced = false;
        Outcome::Done
    }

    /// Written in place, not put in place: its writer may still be at it.
    fn is_same_file(&self, seen: &[Identity]) -> bool {
        self.last_read.as_ref().is_some_and(|before| {
            before.iter().zip(seen).any(|(before, now)| before.is_same_file(now))
        })
    }
}

enum Outcome {
    Done,
    Suspicious,
}

/// Why the files could not be loaded at start.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// A file cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The files can be read and are no good.
    #[error("{0}")]
    Parse(String),
    /// The thread that follows them cannot be started.
    #[error("no thread can be started")]
    Thread(#[source] std::io::Error),
}

#[cfg(test)]
mod tests;
