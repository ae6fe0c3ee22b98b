//! Where the log keeps its pages: on disk, or in memory alone.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use shared::event::Event;
use shared::process::StartError;

use crate::archive::Archive;
use crate::cursor::Epoch;
use crate::log::checkpoint::{Checkpoint, Pen};
use crate::log::clock::Clock;
use crate::log::identity::{DATABASE_NAME, Folder, FolderError, Identity, boot_id};
use crate::log::page::Page;
use crate::log::reader::Reader;
use crate::log::recent::Recent;
use crate::log::retention::{Reserve, Retention};
use crate::log::retries::{self, Known, Retries};
use crate::log::rows::Oldest;
use crate::log::store::{Store, StoreError};
use crate::queues::queue::Bounds;
use crate::queues::{self, Queues};
use crate::tickets::{self, Tickets};

/// Threads that read for those who are far behind.
const READERS: usize = 2;

/// What an acknowledged event survives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Durability {
    /// The end of the process, however it comes.
    Written,
    /// A loss of power, too.
    Synced,
    /// Nothing.
    Memory,
}

/// What is kept, and how.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The folder.
    pub folder: PathBuf,
    /// What events survive.
    pub durability: Durability,
    /// The most events.
    pub events_max: u64,
    /// The most bytes.
    pub bytes_max: u64,
    /// The greatest age.
    pub age_max: Duration,
    /// The most bytes of the newest events in memory.
    pub cache_bytes: usize,
    /// The durable queues.
    pub queues: Bounds,
}

impl Settings {
    /// What is kept beyond the bounds for the queues.
    fn reserve(&self, bytes_max: u64) -> Reserve {
        let Bounds { events_max, bytes_max: queue_bytes_max, .. } = self.queues;
        Reserve { events_max, bytes_max: queue_bytes_max.min(bytes_max), ..Reserve::default() }
    }

    fn queues(&self, reserve: &Reserve) -> queues::Settings {
        queues::Settings {
            bounds: self.queues.clone(),
            wanted_from: Arc::clone(&reserve.place),
            is_synced: self.durability == Durability::Synced,
        }
    }
}

/// Where the log keeps its pages.
#[derive(Debug)]
pub struct Keeper {
    place: Place,
    clock: Clock,
    archive: Arc<Archive>,
    pen: Pen,
}

#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "there is one a process")]
enum Place {
    Disk { store: Store, identity: Identity, checkpoint: Checkpoint },
    Memory { retention: Retention, pages: VecDeque<Oldest> },
}

/// An open log.
#[derive(Debug)]
pub struct Opened {
    /// Where it keeps its pages.
    pub keeper: Keeper,
    /// The kept events as others see them.
    pub archive: Arc<Archive>,
    /// The events that were accepted lately.
    pub retries: Retries,
    /// The last offset that may have been given.
    pub last: u64,
    /// The tickets, which are kept beside the events.
    pub tickets: Arc<Tickets>,
    /// The durable queues: places in the events.
    pub queues: Arc<Queues>,
}

impl Opened {
    /// Opens the log.
    ///
    /// # Errors
    ///
    /// It is damaged, or another process has it.
    pub fn open(settings: &Settings) -> Result<Self, StartError> {
        match settings.durability {
            Durability::Memory => Ok(Self::in_memory(settings)),
            Durability::Written | Durability::Synced => Self::on_disk(settings),
        }
    }

    fn in_memory(settings: &Settings) -> Self {
        let bytes_max =
            settings.cache_bytes.min(usize::try_from(settings.bytes_max).unwrap_or(usize::MAX));
        let bytes_max_u64 = u64::try_from(bytes_max).unwrap_or(u64::MAX);
        // What nobody has fetched may take as much again.
        let reserve = settings.reserve(bytes_max_u64);
        let queues = settings.queues(&reserve);
        let retention =
            Retention::new(settings.events_max, bytes_max_u64, settings.age_max, reserve);
        // What is kept is what is here: it is freed by the bounds, and not for want of room.
        let recent = Recent::new(usize::MAX, 0);
        let archive = Archive::new(Epoch::random(), (0, 0), 0, recent, Vec::new());
        let keeper = Keeper {
            place: Place::Memory { retention, pages: VecDeque::new() },
            clock: Clock::continuing(0),
            archive: Arc::clone(&archive),
            pen: Pen::default(),
        };
        let queues = Queues::in_memory(queues, &archive);
        let (retries, tickets) = (Retries::default(), Tickets::in_memory());
        Self { keeper, archive, retries, last: 0, tickets, queues }
    }

    fn on_disk(settings: &Settings) -> Result<Self, StartError> {
        let folder = Folder::take(&settings.folder).map_err(|error| match error {
            FolderError::Taken(path) => {
                StartError::Log { path, fault: "another process has it open".to_owned() }
            }
            FolderError::Io(..) => {
                StartError::Setting { setting: "DATA_DIR".to_owned(), fault: error.to_string() }
            }
        })?;
        let cannot = |error: std::io::Error| StartError::Log {
            path: settings.folder.clone(),
            fault: error.to_string(),
        };
        let path = folder.database(DATABASE_NAME).map_err(cannot)?;
        let tickets_path = folder.database(tickets::NAME).map_err(cannot)?;
        // A page can ask for another ticket: no reason to keep events from anybody.
        let tickets = Tickets::open(&tickets_path).unwrap_or_else(|error| {
            log::error!(
                "{} is left as it is, tickets end with us: {error}",
                tickets_path.display()
            );
            Tickets::in_memory()
        });
        let damaged =
            |error: StoreError| StartError::Log { path: path.clone(), fault: error.to_string() };
        let is_synced = settings.durability == Durability::Synced;
        let reserve = settings.reserve(u64::MAX);
        let queues = settings.queues(&reserve);
        let queues_path = folder.database(queues::NAME).map_err(cannot)?;
        let bounds =
            Retention::new(settings.events_max, settings.bytes_max, settings.age_max, reserve);
        let mut store = Store::open(&path, is_synced, bounds).map_err(damaged)?;
        let kept = store.kept().map_err(damaged)?;
        let (identity, beginning) = Identity::begin(folder, kept, is_synced, &boot_id())
            .map_err(|error| damaged(StoreError::System(error.to_string())))?;
        store.begin(identity.starts()).map_err(damaged)?;
        let mut recent = Recent::new(settings.cache_bytes, store.last());
        let retries = remember(&store, &mut recent, beginning.clock).map_err(damaged)?;
        let readers: Result<Vec<Reader>, _> = (0..READERS).map(|_| Reader::start(&path)).collect();
        let pen = Pen::default();
        let checkpoint = Checkpoint::start(&path, store.unsaved_bytes(), Arc::clone(&pen));
        let checkpoint = checkpoint.map_err(damaged)?;
        // After a loss of power the next offset is far behind the last one that is kept.
        let ends = (store.earliest(), store.last().max(beginning.last));
        let readers = readers.map_err(damaged)?;
        let archive = Archive::new(beginning.epoch, ends, beginning.whole_from, recent, readers);
        // Without its places, a queue would go on with a gap that nobody is told of.
        let queues = Queues::open(&queues_path, queues, &archive);
        let queues = queues
            .map_err(|error| StartError::Log { path: queues_path, fault: error.to_string() })?;
        let (events, _) = store.totals();
        log::info!(events, earliest = ends.0, last = ends.1; "the log is open");
        let keeper = Keeper {
            place: Place::Disk { store, identity, checkpoint },
            clock: beginning.clock,
            archive: Arc::clone(&archive),
            pen,
        };
        Ok(Self { keeper, archive, retries, last: beginning.last, tickets, queues })
    }
}

/// Reads what was accepted lately, and holds on to it.
fn remember(store: &Store, recent: &mut Recent, clock: Clock) -> Result<Retries, StoreError> {
    let now_ms = clock.now_ms();
    let mut retries = Retries::default();
    // The newest first, and of each only what it is known by.
    let mut lately = Vec::new();
    let (mut is_held, mut damaged) = (true, None);
    store.for_newest(|page| {
        let age_ms = page.accepted.age_ms;
        if now_ms - age_ms > retries::AGE_MS_MAX || lately.len() >= retries::EVENTS_MAX {
            return false;
        }
        match page.events() {
            Ok(events) => lately.extend(events.iter().rev().map(|(offset, event)| {
                (retries.digest(event), Known { offset: *offset, tally: None }, age_ms)
            })),
            Err(_) => damaged = Some(page.first),
        }
        is_held = is_held && recent.push_older(page);
        damaged.is_none()
    })?;
    if let Some(offset) = damaged {
        return Err(StoreError::Damaged(offset));
    }
    for (digest, known, age_ms) in lately.into_iter().rev() {
        retries.remember(digest, known, age_ms);
    }
    Ok(retries)
}

impl Keeper {
    /// The log's clock.
    pub fn clock(&self) -> Clock {
        self.clock
    }

    /// Makes sure that offsets up to `last` may be given.
    ///
    /// # Errors
    ///
    /// They must not.
    pub fn reserve(&mut self, last: u64) -> Result<(), StoreError> {
        match &mut self.place {
            Place::Disk { identity, .. } => {
                identity.reserve(last).map_err(|error| StoreError::System(error.to_string()))
            }
            Place::Memory { .. } => Ok(()),
        }
    }

    /// Keeps the events of one commit, and frees what is beyond the bounds.
    ///
    /// # Errors
    ///
    /// Nothing is changed.
    pub fn append(&mut self, pages: Vec<Page>, events: &[Event]) -> Result<(), StoreError> {
        let now_ms = self.clock.now_ms();
        let Some(last) = pages.last().map(|page| page.last) else { return Ok(()) };
        match &mut self.place {
            Place::Disk { store, .. } => {
                let _pen = self.pen.lock().unwrap_or_else(PoisonError::into_inner);
                let appended =
                    store.append(&pages, events, now_ms, |it| self.archive.free_up_to(it));
                // What was said to be freed is not, if it was in vain.
                appended.inspect_err(|_| self.archive.free_up_to(store.earliest()))?;
                self.archive.extend(pages, last);
            }
            Place::Memory { retention, pages: kept } => {
                retention.add(&pages);
                kept.extend(pages.iter().map(Oldest::of));
                self.archive.extend(pages, last);
                forget(retention, kept, now_ms, &self.archive);
            }
        }
        Ok(())
    }

    /// Frees one step of what is beyond the bounds while nothing comes. Says whether there is more.
    ///
    /// # Errors
    ///
    /// Nothing is changed.
    pub fn tidy(&mut self) -> Result<bool, StoreError> {
        let now_ms = self.clock.now_ms();
        match &mut self.place {
            Place::Disk { store, .. } => {
                let _pen = self.pen.lock().unwrap_or_else(PoisonError::into_inner);
                let freed = store.free_some(now_ms, |it| self.archive.free_up_to(it));
                freed.inspect_err(|_| self.archive.free_up_to(store.earliest()))
            }
            Place::Memory { retention, pages } => {
                forget(retention, pages, now_ms, &self.archive);
                Ok(false)
            }
        }
    }

    /// Learns whether writing works again.
    ///
    /// # Errors
    ///
    /// It does not.
    pub fn probe(&mut self) -> Result<(), StoreError> {
        match &mut self.place {
            Place::Disk { store, .. } => {
                let _pen = self.pen.lock().unwrap_or_else(PoisonError::into_inner);
                store.probe()
            }
            Place::Memory { .. } => Ok(()),
        }
    }

    /// The kept events and their bytes.
    pub fn totals(&self) -> (u64, u64) {
        match &self.place {
            Place::Disk { store, .. } => store.totals(),
            Place::Memory { retention, .. } => retention.totals(),
        }
    }

    /// Leaves nothing unsynced.
    pub fn end(self) {
        let Place::Disk { store, identity, checkpoint } = self.place else { return };
        drop(checkpoint);
        let ended = store.end(self.clock.now_ms());
        let ended = ended.map_err(|error| error.to_string());
        let noted = ended.and_then(|last| identity.end(last).map_err(|error| error.to_string()));
        if let Err(error) = noted {
            log::warn!("the log could not be closed as it should, nothing is lost: {error}");
        }
    }
}

/// Frees the oldest pages while the bounds ask for it.
fn forget(retention: &mut Retention, pages: &mut VecDeque<Oldest>, now_ms: i64, archive: &Archive) {
    let mut freed = None;
    while retention.is_due(now_ms)
        && let Some(page) = pages.pop_front()
    {
        retention.remove(page);
        retention.set_oldest(pages.front().copied());
        freed = Some(page.last);
    }
    if let Some(last) = freed {
        archive.free_up_to(last);
        archive.forget_up_to(last);
    }
}
