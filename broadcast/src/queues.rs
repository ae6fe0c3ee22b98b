//! Durable queues (WIRE §7): a name, some patterns, and a place in the log, written down.
//!
//! A queue is no second store: what waits in it is what the log keeps behind its place, and while it
//! does the log frees nothing of that, within bounds. Asked by consumers on every worker, told by the
//! log of what is kept, looked after by one task.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use shared::credentials::Digest;
use shared::event::Event;
use shared::pattern::Pattern;
use tokio::time::{Instant, MissedTickBehavior};

use crate::archive::{Archive, ReadError, Recovery};
use crate::clerk::Clerk;
use crate::cursor::Cursor;
use crate::filter::Filter;
use crate::log::reader::Excerpt;
use crate::log::retention::WantedFrom;
use crate::log::store::StoreError;
use crate::metrics::Metrics;
use crate::queues::book::{Book, Lease, OpenError};
use crate::queues::ledger::{Change, Kept};
use crate::queues::queue::{Before, Bounds, Listed, Queue, Record};

pub mod book;
pub mod consumer;
mod ledger;
pub mod queue;

/// The database's name in the folder of kept events.
pub const NAME: &str = "queues.sqlite";
/// How often queues are looked after.
const TEND_EVERY: Duration = Duration::from_millis(500);
/// What is read at a time.
const EXCERPT_BYTES: usize = 64 * 1024;
/// How long one waits for a consumer that is leaving.
///
/// Longer than a connection may stall whose other end is gone: a browser's `EventSource` that is
/// refused comes back no more.
const LEAVING_MAX: Duration = Duration::from_secs(20);
/// How often one looks whether it has left.
const LEAVING_LOOK: Duration = Duration::from_millis(5);

/// What is needed to open the queues.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Their bounds.
    pub bounds: Bounds,
    /// Told of the place behind which nothing is to be freed.
    pub wanted_from: Arc<WantedFrom>,
    /// Whether a queue must survive a loss of power.
    pub is_synced: bool,
}

/// All queues.
#[derive(Debug)]
pub struct Queues {
    book: Mutex<Book>,
    /// Whether there is any: mostly there is none, and the log need not count.
    is_any: AtomicBool,
    /// Where they are written down, if they are.
    clerk: Option<Clerk<Change>>,
    archive: Arc<Archive>,
    wanted_from: Arc<WantedFrom>,
    is_synced: bool,
    /// Removed, but still in the file.
    unforgotten: Mutex<Vec<u64>>,
}

impl Queues {
    /// Queues that end with the process.
    pub fn in_memory(settings: Settings, archive: &Arc<Archive>) -> Arc<Self> {
        Self::with(settings, archive, Vec::new(), None)
    }

    /// Queues that are written down.
    ///
    /// # Errors
    ///
    /// The file is damaged, or cannot be written.
    pub fn open(
        path: &Path,
        settings: Settings,
        archive: &Arc<Archive>,
    ) -> Result<Arc<Self>, StoreError> {
        let (kept, clerk) = ledger::start(path)?;
        Ok(Self::with(settings, archive, kept, Some(clerk)))
    }

    fn with(
        settings: Settings,
        archive: &Arc<Archive>,
        kept: Vec<Kept>,
        clerk: Option<Clerk<Change>>,
    ) -> Arc<Self> {
        let Settings { bounds, wanted_from, is_synced } = settings;
        let end = archive.end();
        let mut book = Book::new(bounds, end);
        for (mut record, epoch) in kept {
            let cursor = Cursor { epoch, offset: record.place };
            // As for any other client that comes back (WIRE §1.3).
            let opening = archive.resume(&cursor, archive.kept_from());
            record.place = opening.place;
            record.has_gap |= opening.recovered != Some(Recovery::Whole);
            if cursor.epoch != archive.epoch {
                // Of this log nobody was given anything.
                (record.given, record.is_open, record.acknowledged) = (0, false, 0);
            }
            book.restore(record, Instant::now());
        }
        wanted_from.set(book.wanted_from());
        let is_any = AtomicBool::new(!book.is_empty());
        let archive = Arc::clone(archive);
        let (book, unforgotten) = (Mutex::new(book), Mutex::default());
        Arc::new(Self { book, is_any, clerk, archive, wanted_from, is_synced, unforgotten })
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts what was committed where it is wanted; `first` is the offset of the first event. The
    /// log says so before anybody else hears of them.
    pub fn count<'a>(&self, first: u64, events: impl Iterator<Item = &'a Event>) {
        // A queue that is made at this moment begins behind the archive's end, and these are there.
        if self.is_any.load(Ordering::SeqCst) {
            self.book().count(first, events);
        }
    }

    /// Lets a consumer in whom `may_have` knows, and makes the queue where there is none. A consumer
    /// that came by the same ticket is waited for until it has left.
    ///
    /// # Errors
    ///
    /// [`OpenError`] says why not.
    pub async fn admit(
        &self,
        name: &str,
        patterns: &[Pattern],
        ticket: Option<Digest>,
        may_have: impl Fn(&[Pattern]) -> bool,
    ) -> Result<Lease, OpenError> {
        let deadline = Instant::now() + LEAVING_MAX;
        let lease = loop {
            let opened = {
                let mut book = self.book();
                self.is_any.store(true, Ordering::SeqCst);
                let now = (self.archive.end(), Instant::now());
                let opened = book.open(name, patterns, ticket, now, &may_have);
                if let Ok(lease) = &opened {
                    self.wanted_from.include(book.get(lease.number).map_or(u64::MAX, Queue::place));
                }
                opened
            };
            match opened {
                Err(OpenError::TakenOver) if Instant::now() < deadline => {
                    tokio::time::sleep(LEAVING_LOOK).await;
                }
                opened => break opened?,
            }
        };
        // Whoever asks may leave while it is written: then the lease goes with the consumer.
        let admission = Admission { queues: self, number: Some(lease.number) };
        if !self.write_down(&lease).await {
            return Err(OpenError::Unwritten);
        }
        admission.keep();
        Ok(lease)
    }

    /// Writes down that a queue is open. Who was to write it when it was made may have left before.
    async fn write_down(&self, lease: &Lease) -> bool {
        let is_written = self.save(lease.number).await;
        let is_known = self.book().get(lease.number).is_some_and(|queue| queue.saved.is_some());
        if !is_written && !is_known {
            // Nobody shall believe in a queue that a restart would forget.
            self.book().remove(lease.number);
        }
        // One that is there goes on: a restart would repeat some of it.
        is_written || is_known
    }

    /// What writes down a queue that is there in the file, or is not yet.
    fn change(&self, record: Record, is_known: bool) -> Change {
        let epoch = self.archive.epoch.clone();
        match is_known {
            true => Change::Keep(vec![record], epoch),
            false => Change::Make(record, epoch, self.is_synced),
        }
    }

    /// Writes down what is to be known of one queue; says whether it is.
    async fn save(&self, number: u64) -> bool {
        let record = self.book().get(number).map(|queue| (queue.record(), queue.saved.is_some()));
        let (Some(clerk), Some((record, is_known))) = (&self.clerk, record) else { return true };
        let is_written = clerk.note(self.change(record.clone(), is_known)).await;
        if is_written {
            self.book().note_saved(vec![record]);
        }
        is_written
    }

    fn release(&self, number: u64, unacknowledged: Option<u64>) {
        if let Some(queue) = self.book().get_mut(number) {
            queue.release(unacknowledged, Instant::now());
        }
    }

    /// Counts what waits up to an offset, before the process began or behind a step back.
    async fn count_up(
        &self,
        number: u64,
        up_to: u64,
        filter: &Arc<Filter>,
    ) -> Result<(), ReadError> {
        let Some(begin) = self.place(number) else { return Ok(()) };
        let (mut place, mut events, mut bytes) = (begin, 0, 0);
        while place < up_to {
            let excerpt = self.read(number, place, filter).await?;
            for (_, event) in excerpt.events.iter().filter(|(offset, _)| *offset <= up_to) {
                events += 1;
                bytes += queue::bytes(event);
            }
            place = excerpt.place;
        }
        if let Some(queue) = self.book().get_mut(number) {
            queue.note_counted(begin, up_to, events, bytes);
        }
        Ok(())
    }

    fn place(&self, number: u64) -> Option<u64> {
        self.book().get(number).map(Queue::place)
    }

    /// Reads on for a queue. What was freed before it could be read is a gap for it.
    async fn read(
        &self,
        number: u64,
        place: u64,
        filter: &Arc<Filter>,
    ) -> Result<Excerpt, ReadError> {
        let read = self.archive.read(place, filter, EXCERPT_BYTES).await;
        if read == Err(ReadError::Freed) {
            self.book().lose(number, self.archive.kept_from());
        }
        read
    }

    /// All queues, by name.
    pub fn list(&self) -> Vec<Listed> {
        self.book().list()
    }

    /// How long a queue lives without a consumer.
    pub fn expires(&self) -> Duration {
        self.book().bounds().expires
    }

    /// Removes a queue; says whether there was one.
    pub async fn remove(&self, name: &str) -> bool {
        let removed = {
            let mut book = self.book();
            let number = book.find(name);
            number.and_then(|number| book.remove(number))
        };
        let Some(queue) = removed else { return false };
        self.forget(queue.number).await;
        true
    }

    /// Takes a queue out of the file; where that cannot be written, it is tried again.
    async fn forget(&self, number: u64) {
        let Some(clerk) = &self.clerk else { return };
        // Noted before it is waited for: whoever asked may leave.
        self.unforgotten().push(number);
        if clerk.note(Change::Remove(number)).await {
            self.unforgotten().retain(|other| *other != number);
        }
    }

    fn unforgotten(&self) -> MutexGuard<'_, Vec<u64>> {
        self.unforgotten.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks after the queues until the process ends.
    pub async fn tend(self: Arc<Self>, metrics: Arc<Metrics>) {
        let mut ticks = tokio::time::interval(TEND_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.expire().await;
            self.see_to_neglected().await;
            self.save_all().await;
            let book = self.book();
            metrics.tell_queues(book.len(), book.dropped());
        }
    }

    async fn expire(&self) {
        // All at once: a consumer that comes meanwhile finds its queue, or makes another.
        let expired = self.book().expire(Instant::now());
        for queue in &expired {
            log::info!(queue:% = queue.name; "a queue without consumer has expired");
        }
        let again = std::mem::take(&mut *self.unforgotten());
        for number in expired.iter().map(|queue| queue.number).chain(again) {
            self.forget(number).await;
        }
    }

    /// Counts, and takes off what is too much, where no consumer does.
    async fn see_to_neglected(&self) {
        let neglected = self.book().neglected();
        for (number, filter) in neglected {
            // What cannot be read is reported by the archive, and looked at again.
            let _ = self.see_to(number, &filter).await;
        }
    }

    async fn see_to(&self, number: u64, filter: &Arc<Filter>) -> Result<(), ReadError> {
        loop {
            let (place, before) = {
                let book = self.book();
                let queue = book.get(number).filter(|queue| queue.is_neglected(book.bounds()));
                let Some(queue) = queue else { return Ok(()) };
                (queue.place(), queue.before_next())
            };
            if let Before::Count(up_to) = before {
                self.count_up(number, up_to, filter).await?;
                continue;
            }
            let excerpt = self.read(number, place, filter).await?;
            self.book().trim(number, place, &excerpt.events);
            // What was counted is there to be found, unless it is damaged.
            if excerpt.events.is_empty() && excerpt.place >= self.archive.end() {
                return Ok(());
            }
            if let Some(queue) = self.book().get_mut(number).filter(|_| excerpt.events.is_empty()) {
                queue.advance_from(place, excerpt.place);
            }
        }
    }

    /// Writes down all that is not yet, and lets the log free what nobody wants any more.
    pub async fn save_all(&self) {
        let unsaved = self.book().unsaved();
        // One that its opener could not write down any more is written as it was opened.
        let (known, new): (Vec<_>, Vec<_>) = unsaved.into_iter().partition(|(_, it)| *it);
        for (record, _) in new {
            self.save(record.number).await;
        }
        let known: Vec<Record> = known.into_iter().map(|(record, _)| record).collect();
        if !known.is_empty() {
            let change = Change::Keep(known.clone(), self.archive.epoch.clone());
            let is_saved = match &self.clerk {
                Some(clerk) => clerk.note(change).await,
                None => true,
            };
            if is_saved {
                self.book().note_saved(known);
            }
        }
        let book = self.book();
        self.is_any.store(!book.is_empty(), Ordering::SeqCst);
        self.wanted_from.set(book.wanted_from());
    }
}

/// A consumer that is not there yet.
struct Admission<'a> {
    queues: &'a Queues,
    number: Option<u64>,
}

impl Admission<'_> {
    fn keep(mut self) {
        self.number = None;
    }
}

impl Drop for Admission<'_> {
    fn drop(&mut self) {
        if let Some(number) = self.number {
            self.queues.release(number, None);
        }
    }
}
