//! The one place in which events get their order.
//!
//! One task, on the thread that also reads the links, takes all that waits, gives the offsets, hands
//! the batch to every worker, and then tells the links up to where they may send receipts. Nothing
//! is kept yet: what a client has not got when the process dies is lost.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

use shared::event::Event;
use shared::memory::Memory;
use tokio::sync::{Notify, mpsc};

use crate::fatal::Fatal;
use crate::interest::Interest;
use crate::publication::Batch;

/// Submissions that wait for the log; beyond it the links stop reading, and publishers wait.
const QUEUE_SUBMISSIONS_MAX: usize = 256;
/// Batches that wait for one worker; beyond it the log waits, and everything behind it.
pub const QUEUE_BATCHES_MAX: usize = 64;
/// A batch takes no further submission beyond so many events, or so many bytes.
const BATCH_EVENTS_MAX: usize = 1024;
const BATCH_BYTES_MAX: usize = 1024 * 1024;

/// What a worker gets from the log, in order.
#[derive(Debug, Clone)]
pub enum Feed {
    /// Events.
    Batch(Arc<Batch>),
    /// There are no more events: the sessions are to be closed.
    End,
}

/// Events from one link, in the order in which they came, and up to which number they go.
#[derive(Debug)]
pub struct Submission {
    /// The events.
    pub events: Vec<Event>,
    /// What they occupy, in bytes.
    pub bytes: usize,
    /// The number of the last.
    pub last_number: u64,
    /// Where to say that they are taken.
    pub progress: Rc<Progress>,
}

/// How far the log has come with the events of one link.
#[derive(Debug, Default)]
pub struct Progress {
    taken: Cell<u64>,
    moved: Notify,
}

impl Progress {
    /// The number of the last event that was taken.
    pub fn taken(&self) -> u64 {
        self.taken.get()
    }

    /// Waits until it has moved since the last time.
    pub async fn moved(&self) {
        self.moved.notified().await;
    }

    fn move_to(&self, number: u64) {
        self.taken.set(number);
        self.moved.notify_one();
    }
}

/// The way to the log.
#[derive(Debug, Clone)]
pub struct Inbox {
    submissions: mpsc::Sender<Submission>,
}

impl Inbox {
    /// Hands events over; waits while the log has no room.
    ///
    /// # Errors
    ///
    /// The log has ended.
    pub async fn submit(&self, submission: Submission) -> Result<(), LogEnded> {
        self.submissions.send(submission).await.map_err(|_| LogEnded)
    }
}

/// The log. It ends, and the workers' sessions with it, when all inboxes are gone.
#[derive(Debug)]
pub struct Log {
    submissions: mpsc::Receiver<Submission>,
    workers: Vec<Seat>,
    memory: Arc<Memory>,
    next_offset: u64,
}

/// A worker as the log sees it.
#[derive(Debug)]
pub struct Seat {
    /// Its queue.
    pub feed: mpsc::Sender<Feed>,
    /// What it is subscribed to.
    pub interest: Arc<Interest>,
}

impl Log {
    /// A log that begins with no event.
    pub fn new(workers: Vec<Seat>, memory: Arc<Memory>) -> (Self, Inbox) {
        let (inbox, submissions) = mpsc::channel(QUEUE_SUBMISSIONS_MAX);
        (Self { submissions, workers, memory, next_offset: 1 }, Inbox { submissions: inbox })
    }

    /// Takes events until all inboxes are gone, and then says so to the workers.
    pub async fn run(mut self) {
        let _fatal = Fatal("the log");
        while let Some(first) = self.submissions.recv().await {
            self.commit(first).await;
        }
        for worker in &self.workers {
            // A worker that is gone has no sessions to close.
            let _ = worker.feed.send(Feed::End).await;
        }
    }

    /// Takes what waits into one batch, and says so when every worker has it.
    async fn commit(&mut self, first: Submission) {
        let mut bytes = first.bytes;
        let mut moves = vec![(first.progress, first.last_number)];
        let mut events = first.events;
        while events.len() < BATCH_EVENTS_MAX && bytes < BATCH_BYTES_MAX {
            let Ok(mut next) = self.submissions.try_recv() else { break };
            bytes += next.bytes;
            events.append(&mut next.events);
            moves.push((next.progress, next.last_number));
        }
        let first_offset = self.next_offset;
        self.next_offset += u64::try_from(events.len()).unwrap_or(u64::MAX);
        let batch = Arc::new(Batch::new(first_offset, events, &self.memory));
        // A worker without any subscription is not woken. One that begins while we look answers
        // its client only after it has said so, and what is accepted after that finds it here.
        for worker in self.workers.iter().filter(|worker| worker.interest.is_any()) {
            // Full: we wait, the links fill, and publishers wait up to their time-out.
            if worker.feed.send(Feed::Batch(Arc::clone(&batch))).await.is_err() {
                log::error!("a worker has gone");
            }
        }
        for (progress, number) in moves {
            progress.move_to(number);
        }
    }
}

/// The log has ended: the process is about to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the log has ended")]
pub struct LogEnded;
