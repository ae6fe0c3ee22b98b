//! The one place in which events get their order, and are kept.
//!
//! One task, on a thread of its own, takes all that waits, gives the offsets, keeps the batch, hands
//! it to every worker, and then tells the links up to where they may send receipts. No client sees
//! an event that a restart could forget, and no publisher is told of one that is not kept.

use std::mem;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use shared::event::{Event, EventType};
use shared::memory::Memory;
use tokio::sync::mpsc;

use crate::archive::Archive;
use crate::fatal::Fatal;
use crate::interest::Interest;
use crate::log::keeper::{Keeper, Opened};
use crate::log::page::{Acceptance, Page};
use crate::log::retries::{Known, Retries};
use crate::log::store::StoreError;
use crate::log::submission::{Arrival, Entry, Inbox, News, Progress, Submission};
use crate::log::tally::Tally;
use crate::metrics::Metrics;
use crate::publication::Publication;
use crate::queues::Queues;

pub mod checkpoint;
pub mod clock;
pub mod identity;
pub mod keeper;
pub mod page;
pub mod reader;
pub mod recent;
pub mod retention;
pub mod retries;
pub mod rows;
pub mod segment;
pub mod store;
pub mod submission;
pub mod tally;

/// Batches that wait for one worker; beyond it the log waits, and everything behind it.
pub const QUEUE_BATCHES_MAX: usize = 64;
/// A batch takes no further submission beyond so many events, or so many bytes.
const BATCH_EVENTS_MAX: usize = 1024;
const BATCH_BYTES_MAX: usize = 1024 * 1024;
/// How often the log looks after itself while nothing comes.
const TIDY_EVERY: Duration = Duration::from_millis(500);

/// What a worker gets from the log, in order.
#[derive(Debug, Clone)]
pub enum Feed {
    /// Events.
    Batch(Arc<Publication>),
    /// To count those who would get an event of a type.
    Count(EventType, Arc<Tally>),
    /// There are no more events: the sessions are to be closed.
    End,
}

/// The log. It ends, and the workers' sessions with it, when all inboxes are gone.
#[derive(Debug)]
pub struct Log {
    submissions: mpsc::Receiver<Submission>,
    workers: Vec<Seat>,
    memory: Arc<Memory>,
    metrics: Arc<Metrics>,
    archive: Arc<Archive>,
    keeper: Keeper,
    retries: Retries,
    queues: Arc<Queues>,
    last_offset: u64,
    is_failing: bool,
}

/// A worker as the log sees it.
#[derive(Debug)]
pub struct Seat {
    /// Its queue.
    pub feed: mpsc::Sender<Feed>,
    /// What it is subscribed to.
    pub interest: Arc<Interest>,
}

/// What one commit takes.
#[derive(Debug, Default)]
struct Gathered {
    events: Vec<Event>,
    bytes: usize,
    /// The tallies of those events whose publishers ask, by their index.
    tallies: Vec<(usize, Arc<Tally>)>,
    reports: Vec<Report>,
    /// How many of the events were not known yet.
    remembered: usize,
}

/// What there is to tell one link.
#[derive(Debug)]
struct Report {
    progress: Arc<Progress>,
    last_number: u64,
    news: Vec<News>,
    /// The numbers of events that are kept only if this commit succeeds.
    hanging: Vec<u64>,
}

impl Log {
    /// A log that goes on where it was.
    pub fn new(
        opened: Opened,
        workers: Vec<Seat>,
        memory: Arc<Memory>,
        metrics: Arc<Metrics>,
    ) -> (Self, Inbox) {
        let (inbox, submissions) = Inbox::new(workers.len());
        let Opened { keeper, archive, retries, last: last_offset, queues, .. } = opened;
        let is_failing = false;
        let log = Self {
            submissions,
            workers,
            memory,
            metrics,
            archive,
            keeper,
            retries,
            queues,
            last_offset,
            is_failing,
        };
        (log, inbox)
    }

    /// Takes events until all inboxes are gone, and then says so to the workers. Arms: something
    /// comes; time to look after the log.
    pub async fn run(mut self) {
        let _fatal = Fatal("the log");
        let mut rest = TIDY_EVERY;
        loop {
            tokio::select! {
                biased;
                submission = self.submissions.recv() => match submission {
                    Some(first) => self.commit(first).await,
                    None => break,
                },
                () = tokio::time::sleep(rest) => {
                    rest = if self.tidy() { Duration::ZERO } else { TIDY_EVERY };
                }
            }
        }
        for worker in &self.workers {
            // A worker that is gone has no sessions to close.
            let _ = worker.feed.send(Feed::End).await;
        }
        self.keeper.end();
    }

    /// Frees what is beyond the bounds, one step at a time; says whether there is more.
    fn tidy(&mut self) -> bool {
        if self.is_failing {
            let probed = self.keeper.probe();
            self.judge(&probed);
            if probed.is_err() {
                return false;
            }
        }
        let tidied = self.keeper.tidy();
        self.judge(&tidied);
        self.report_totals();
        tidied.unwrap_or(false)
    }

    async fn count(&self, event_type: EventType, tally: Arc<Tally>) {
        for worker in &self.workers {
            let feed = Feed::Count(event_type.clone(), Arc::clone(&tally));
            if !worker.interest.is_any() || worker.feed.send(feed).await.is_err() {
                tally.add(0);
            }
        }
    }

    /// Takes events into the next commit, but for those that were accepted already.
    fn gather(
        &mut self,
        Arrival { entries, bytes, last_number, progress }: Arrival,
        gathered: &mut Gathered,
    ) {
        let now_ms = self.keeper.clock().now_ms();
        let mut report = Report { progress, last_number, news: Vec::new(), hanging: Vec::new() };
        gathered.bytes += bytes;
        for Entry { number, terms, event } in entries {
            let digest = self.retries.digest(&event);
            let known = self.retries.find(digest, now_ms).filter(|_| terms.may_be_retry).cloned();
            if known.as_ref().is_none_or(|known| known.offset > self.last_offset) {
                report.hanging.push(number);
            }
            let Known { offset, tally } = match known {
                Some(known) => {
                    self.metrics.retries.inc();
                    if let Some(tally) = &known.tally {
                        // The link may be another one than that of the first.
                        tally.tell_too(&report.progress.moved);
                    }
                    known
                }
                None => {
                    let tally = terms.wants_account.then(|| {
                        Tally::new(self.workers.len(), Arc::clone(&report.progress.moved))
                    });
                    let index = gathered.events.len();
                    let offset = self.last_offset + 1 + u64::try_from(index).unwrap_or(u64::MAX);
                    let known = Known { offset, tally };
                    gathered.tallies.extend(known.tally.clone().map(|tally| (index, tally)));
                    gathered.remembered +=
                        usize::from(self.retries.remember(digest, known.clone(), now_ms));
                    gathered.events.push(event);
                    known
                }
            };
            if terms.wants_account {
                report.news.push(News::Placed { number, offset, tally });
            }
        }
        gathered.reports.push(report);
    }

    /// Takes what else waits into the same batch, keeps it, and says so when every worker has it.
    async fn commit(&mut self, first: Submission) {
        let (mut gathered, mut counts) = (Gathered::default(), Vec::new());
        let mut next = Some(first);
        while let Some(submission) = next {
            match submission {
                Submission::Events(arrival) => self.gather(arrival, &mut gathered),
                // What comes behind a question is not kept before it.
                Submission::Count(event_type, tally) if gathered.reports.is_empty() => {
                    self.count(event_type, tally).await;
                }
                Submission::Count(event_type, tally) => counts.push((event_type, tally)),
            }
            let has_room =
                gathered.events.len() < BATCH_EVENTS_MAX && gathered.bytes < BATCH_BYTES_MAX;
            next = if has_room { self.submissions.try_recv().ok() } else { None };
        }
        let first = self.last_offset + 1;
        if !gathered.events.is_empty() {
            let kept = self.keep(first, &gathered.events);
            self.judge(&kept);
            if kept.is_err() {
                self.refuse(gathered);
            } else {
                self.publish(first, gathered).await;
            }
        } else {
            gathered.report();
        }
        for (event_type, tally) in counts {
            self.count(event_type, tally).await;
        }
        self.report_totals();
    }

    fn keep(&mut self, first: u64, events: &[Event]) -> Result<(), StoreError> {
        let begun = Instant::now();
        // An offset is given once, even if what it was given to could not be kept.
        self.last_offset += u64::try_from(events.len()).unwrap_or(u64::MAX);
        self.keeper.reserve(self.last_offset)?;
        let wall_us = Timestamp::now().as_microsecond();
        let accepted = Acceptance { wall_us, age_ms: self.keeper.clock().now_ms() };
        self.keeper.append(Page::split(first, events, accepted), events)?;
        self.metrics.commit_seconds.observe(begun.elapsed().as_secs_f64());
        Ok(())
    }

    /// Tells the publishers that their events could not be kept.
    fn refuse(&mut self, mut gathered: Gathered) {
        for _ in 0..gathered.remembered {
            self.retries.forget_newest();
        }
        for report in &mut gathered.reports {
            let Report { hanging, news, .. } = report;
            self.metrics.turned_away.inc_by(u64::try_from(hanging.len()).unwrap_or_default());
            news.retain(
                |it| !matches!(it, News::Placed { number, .. } if hanging.contains(number)),
            );
            news.extend(hanging.drain(..).map(News::Refused));
        }
        gathered.report();
    }

    async fn publish(&self, first: u64, mut gathered: Gathered) {
        let events = mem::take(&mut gathered.events);
        self.queues.count(first, events.iter());
        self.metrics.taken.inc_by(u64::try_from(events.len()).unwrap_or_default());
        let tallies = mem::take(&mut gathered.tallies);
        let epoch = self.archive.epoch.clone();
        let publication =
            Arc::new(Publication::new(epoch, first, events, &self.memory).with_tallies(tallies));
        for worker in &self.workers {
            // A worker without any subscription is not woken. One that begins while we look finds
            // this batch in the archive: it was there before we looked.
            let feed = Feed::Batch(Arc::clone(&publication));
            // Full: we wait, the links fill, and publishers wait up to their time-out.
            if !worker.interest.is_any() || worker.feed.send(feed).await.is_err() {
                publication.count_none();
            }
        }
        gathered.report();
    }

    /// Takes note of whether writing works.
    fn judge<T>(&mut self, result: &Result<T, StoreError>) {
        let is_failing = result.is_err();
        match result {
            Err(error) if !self.is_failing => {
                log::error!("events cannot be kept, publishers are refused: {error}");
            }
            Ok(_) if self.is_failing => log::info!("events can be kept again"),
            _ => {}
        }
        self.is_failing = is_failing;
        self.archive.health().is_failing.store(is_failing, Ordering::Relaxed);
    }

    fn report_totals(&mut self) {
        let (events, bytes) = self.keeper.totals();
        let to_i64 = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
        self.metrics.log_events.set(to_i64(events));
        self.metrics.log_bytes.set(to_i64(bytes));
        self.metrics.retries_forgotten.inc_by(self.retries.take_evicted_early());
    }
}

impl Gathered {
    fn report(self) {
        for Report { progress, last_number, news, .. } in self.reports {
            progress.move_to(last_number, news);
        }
    }
}

#[cfg(test)]
mod tests;
