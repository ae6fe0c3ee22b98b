//! What the links hand to the log, and how they hear what became of it.

use std::mem;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use shared::event::{Event, EventType};
use shared::link::frame::Terms;
use tokio::sync::{Notify, mpsc};

use crate::log::tally::Tally;

/// Submissions that wait for the log; beyond it the links stop reading, and publishers wait.
const QUEUE_SUBMISSIONS_MAX: usize = 256;

/// What comes from one link, in order.
#[derive(Debug)]
pub enum Submission {
    /// Events.
    Events(Arrival),
    /// A question: how many would get an event of this type?
    Count(EventType, Arc<Tally>),
}

/// Events of one link, and up to which number they go.
#[derive(Debug)]
pub struct Arrival {
    /// The events.
    pub entries: Vec<Entry>,
    /// What they occupy, in bytes.
    pub bytes: usize,
    /// The number of the last.
    pub last_number: u64,
    /// Where to say that they are taken.
    pub progress: Arc<Progress>,
}

/// An event as it came.
#[derive(Debug)]
pub struct Entry {
    /// Its number on its link.
    pub number: u64,
    /// What its publisher asks for.
    pub terms: Terms,
    /// The event.
    pub event: Event,
}

/// How far the log has come with the events of one link.
#[derive(Debug, Default)]
pub struct Progress {
    taken: AtomicU64,
    news: Mutex<Vec<News>>,
    /// Told whenever there is something new.
    pub moved: Arc<Notify>,
}

/// What there is to say of one event, beside that it is taken.
#[derive(Debug)]
pub enum News {
    /// It is not taken: it could not be kept.
    Refused(u64),
    /// Its publisher wants to know what became of it.
    Placed {
        /// Its number on its link.
        number: u64,
        /// Its place.
        offset: u64,
        /// Whom it is queued to; unknown for one that was accepted before a restart.
        tally: Option<Arc<Tally>>,
    },
}

impl Progress {
    /// The number of the last event that was taken.
    pub fn taken(&self) -> u64 {
        self.taken.load(Ordering::Acquire)
    }

    /// What there is to say of single events. Whoever reads [`Self::taken`] reads it before this.
    pub fn take_news(&self) -> Vec<News> {
        mem::take(&mut *self.news.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Says that everything up to this number is taken, and what else there is to say.
    pub fn move_to(&self, number: u64, mut news: Vec<News>) {
        if !news.is_empty() {
            self.news.lock().unwrap_or_else(PoisonError::into_inner).append(&mut news);
        }
        self.taken.store(number, Ordering::Release);
        self.moved.notify_one();
    }
}

/// The way to the log.
#[derive(Debug, Clone)]
pub struct Inbox {
    submissions: mpsc::Sender<Submission>,
    workers: usize,
}

impl Inbox {
    /// A way to the log, whose counts have so many parts, and its other end.
    pub fn new(workers: usize) -> (Self, mpsc::Receiver<Submission>) {
        let (submissions, queue) = mpsc::channel(QUEUE_SUBMISSIONS_MAX);
        (Self { submissions, workers }, queue)
    }

    /// Hands events over; waits while the log has no room.
    ///
    /// # Errors
    ///
    /// The log has ended.
    pub async fn submit(&self, submission: Submission) -> Result<(), LogEnded> {
        self.submissions.send(submission).await.map_err(|_| LogEnded)
    }

    /// The same, for those who must not keep the log from ending.
    pub fn downgrade(&self) -> WeakInbox {
        WeakInbox { submissions: self.submissions.downgrade(), workers: self.workers }
    }

    /// A count to which every worker adds its part.
    pub fn tally(&self, complete: &Arc<Notify>) -> Arc<Tally> {
        Tally::new(self.workers, Arc::clone(complete))
    }
}

/// A way to the log as long as somebody else keeps it open.
#[derive(Debug, Clone)]
pub struct WeakInbox {
    submissions: mpsc::WeakSender<Submission>,
    workers: usize,
}

impl WeakInbox {
    /// The way, if it is still open. It is not to be held on to.
    pub fn upgrade(&self) -> Option<Inbox> {
        let submissions = self.submissions.upgrade()?;
        Some(Inbox { submissions, workers: self.workers })
    }
}

/// The log has ended: the process is about to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the log has ended")]
pub struct LogEnded;
