//! The short road to the log: for what clients publish here, which needs no link.
//!
//! One a worker. As the link does, it sends what waits in order, and hears up to which number the log
//! has come.

use std::cell::{OnceCell, RefCell};
use std::collections::{HashSet, VecDeque};
use std::mem;
use std::rc::Rc;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use shared::event::Event;
use shared::link::frame::Terms;
use shared::link::{LinkError, Receipt, Road, Underway};
use shared::memory::{Held, Memory};
use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, sleep_until, timeout_at};

use crate::log::submission::{Arrival, Entry, News, Progress, Submission, WeakInbox};

/// How long an event may wait for its receipt.
const PUBLISH_TIMEOUT: Duration = Duration::from_secs(5);
/// Events of one worker's clients that wait; beyond it one is refused at once.
const WAITING_MAX: usize = 10_000;

/// Where the log can be reached, once there is one. It does not keep the log from ending.
pub type Opening = Arc<OnceLock<WeakInbox>>;

/// The road.
#[derive(Debug)]
pub struct DirectRoad {
    log: Opening,
    memory: Arc<Memory>,
    /// There once something was sent.
    desk: OnceCell<Rc<Desk>>,
}

/// What those who send share with the task that hands over.
#[derive(Debug)]
struct Desk {
    log: Opening,
    waiting: RefCell<Waiting>,
    /// Something new waits.
    wake: Notify,
    progress: Arc<Progress>,
}

#[derive(Debug, Default)]
struct Waiting {
    last_number: u64,
    /// Not handed over yet.
    entries: Vec<Entry>,
    bytes: usize,
    /// In the order of their numbers.
    unanswered: VecDeque<Unanswered>,
}

#[derive(Debug)]
struct Unanswered {
    number: u64,
    deadline: Instant,
    reply: oneshot::Sender<Result<Receipt, LinkError>>,
    #[expect(dead_code, reason = "on the account of memory until it is dropped")]
    held: Held,
}

impl DirectRoad {
    /// A road to a log.
    pub fn new(log: Opening, memory: Arc<Memory>) -> Self {
        Self { log, memory, desk: OnceCell::new() }
    }

    fn desk(&self) -> &Rc<Desk> {
        self.desk.get_or_init(|| {
            let desk = Rc::new(Desk {
                log: Arc::clone(&self.log),
                waiting: RefCell::default(),
                wake: Notify::new(),
                progress: Arc::default(),
            });
            tokio::task::spawn_local(Rc::clone(&desk).run());
            desk
        })
    }
}

impl Road for DirectRoad {
    fn send(&self, event: Event, terms: Terms) -> Result<Underway, LinkError> {
        let desk = self.desk();
        let mut waiting = desk.waiting.borrow_mut();
        if self.memory.is_short() || waiting.unanswered.len() >= WAITING_MAX {
            return Err(LinkError::Unreachable);
        }
        let (reply, answer) = oneshot::channel();
        waiting.last_number += 1;
        let number = waiting.last_number;
        let deadline = Instant::now() + PUBLISH_TIMEOUT;
        let bytes = event.size();
        let held = self.memory.hold(bytes);
        waiting.bytes += bytes;
        waiting.entries.push(Entry { number, terms, event });
        waiting.unanswered.push_back(Unanswered { number, deadline, reply, held });
        drop(waiting);
        desk.wake.notify_one();
        Ok(Underway::new(answer))
    }
}

impl Desk {
    /// Hands over and answers until the thread ends. Arms: something is to be sent; the log has
    /// moved; the time of the first is over.
    async fn run(self: Rc<Self>) {
        const NOBODY_WAITS: Duration = Duration::from_secs(60);
        loop {
            let deadline = self.waiting.borrow().unanswered.front().map(|it| it.deadline);
            tokio::select! {
                () = self.wake.notified() => self.hand_over().await,
                () = self.progress.moved.notified() => {}
                () = sleep_until(deadline.unwrap_or_else(|| Instant::now() + NOBODY_WAITS)) => {}
            }
            self.answer();
        }
    }

    async fn hand_over(&self) {
        let (entries, bytes) = {
            let mut waiting = self.waiting.borrow_mut();
            (mem::take(&mut waiting.entries), mem::take(&mut waiting.bytes))
        };
        let (Some(first), Some(last)) = (entries.first(), entries.last()) else { return };
        let (first_number, last_number) = (first.number, last.number);
        let progress = Arc::clone(&self.progress);
        let arrival = Submission::Events(Arrival { entries, bytes, last_number, progress });
        // A process that stops takes no more events: its log is gone.
        let inbox = self.log.get().and_then(WeakInbox::upgrade);
        let is_sent = match inbox {
            Some(inbox) => {
                let deadline = Instant::now() + PUBLISH_TIMEOUT;
                matches!(timeout_at(deadline, inbox.submit(arrival)).await, Ok(Ok(())))
            }
            None => false,
        };
        if !is_sent {
            self.settle(|it| {
                let is_refused = (first_number..=last_number).contains(&it.number);
                is_refused.then_some(Err(LinkError::Unreachable))
            });
        }
    }

    fn answer(&self) {
        let (taken, now) = (self.progress.taken(), Instant::now());
        let refused: HashSet<u64> = self
            .progress
            .take_news()
            .iter()
            .filter_map(|news| match news {
                News::Refused(number) => Some(*number),
                News::Placed { .. } => None,
            })
            .collect();
        self.settle(|it| match it.number {
            number if refused.contains(&number) => Some(Err(LinkError::Unreachable)),
            number if number <= taken => Some(Ok(Receipt { account: None })),
            _ if it.deadline <= now => Some(Err(LinkError::Undecided)),
            _ => None,
        });
    }

    /// Answers those for whom there is an answer, wherever they stand: a number that was not handed
    /// over must not be taken for one that the log has gone past.
    fn settle(&self, decide: impl Fn(&Unanswered) -> Option<Result<Receipt, LinkError>>) {
        let mut waiting = self.waiting.borrow_mut();
        for unanswered in mem::take(&mut waiting.unanswered) {
            match decide(&unanswered) {
                // Whoever sent it may have left.
                Some(decided) => drop(unanswered.reply.send(decided)),
                None => waiting.unanswered.push_back(unanswered),
            }
        }
    }
}

#[cfg(test)]
mod tests;
