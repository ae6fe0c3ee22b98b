//! The sending end of the link: one connection a worker thread, many events in flight.
//!
//! Ways in hand over an [`Event`] and wait for its [`Receipt`](crate::link::Receipt), or ask how many sessions one would
//! reach. One task owns the socket: what waits leaves in one write, and one number acknowledges all
//! that came before it. While broadcast is away, all wait here, each until its time-out.

use std::cell::RefCell;
use std::future::Future;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, sleep_until};

use crate::event::{Event, EventType};
use crate::link::frame::Terms;
use crate::link::questions::Questions;
use crate::link::queue::Queue;
use crate::link::sender::conversation::Conversation;
use crate::link::{LinkAddress, LinkError, Road, Underway};
use crate::memory::Memory;

mod conversation;

/// HARDENING: the pause before another try to connect, doubled each time.
const BACKOFF_MIN: Duration = Duration::from_millis(20);
const BACKOFF_MAX: Duration = Duration::from_millis(250);

/// What a sender needs to know.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where broadcast is.
    pub address: LinkAddress,
    /// Users, beside our own, that broadcast may run as.
    pub uids: Vec<u32>,
    /// How long an event may wait for its receipt, and a question for its answer.
    pub publish_timeout: Duration,
    /// The largest body that ways in let pass.
    pub body_bytes_max: usize,
}

/// The state of all links of a process, for `/readyz` and metrics.
#[derive(Debug)]
pub struct LinkState {
    connected: AtomicUsize,
    /// From the acceptance of an event to its receipt, in seconds: the oldest of each receipt.
    pub receipt_seconds: Histogram,
}

impl Default for LinkState {
    fn default() -> Self {
        let receipt_seconds = Histogram::new(exponential_buckets(0.000_1, 2.0, 17));
        Self { connected: AtomicUsize::new(0), receipt_seconds }
    }
}

impl LinkState {
    /// How many workers have their link.
    pub fn connected(&self) -> usize {
        self.connected.load(Ordering::Relaxed)
    }
}

/// The sending end of the link. Lives on one thread.
#[derive(Debug, Clone)]
pub struct Sender {
    desk: Rc<Desk>,
}

/// What ways in and the link's task share.
#[derive(Debug)]
struct Desk {
    settings: Settings,
    state: Arc<LinkState>,
    queue: RefCell<Queue>,
    questions: RefCell<Questions>,
    /// Something new waits.
    waiting: Notify,
}

impl Sender {
    /// Starts the task that keeps the connection. It ends when the thread does.
    pub fn start(settings: Settings, memory: Arc<Memory>, state: Arc<LinkState>) -> Self {
        let queue = RefCell::new(Queue::new(settings.publish_timeout, memory));
        let questions = RefCell::new(Questions::new(settings.publish_timeout));
        let desk = Rc::new(Desk { settings, state, queue, questions, waiting: Notify::new() });
        tokio::task::spawn_local(keep_connected(Rc::clone(&desk)));
        Self { desk }
    }

    /// Asks to how many sessions an event of this type and of so many bytes would be queued, and
    /// waits for the answer for at most the publish time-out.
    ///
    /// Cancel-safe: nothing becomes of a question.
    ///
    /// # Errors
    ///
    /// [`LinkError::Unreachable`] or [`LinkError::TooLarge`], as the event itself would have.
    pub async fn count(&self, event_type: EventType, bytes: usize) -> Result<u32, LinkError> {
        let (reply, answer) = oneshot::channel();
        self.desk.questions.borrow_mut().push(event_type, reply, Instant::now())?;
        self.desk.waiting.notify_one();
        let sessions = answer.await.unwrap_or(Err(LinkError::Unreachable))?;
        // Only a broadcast that has said hello has said what it takes.
        if self.desk.queue.borrow().is_too_large(bytes) {
            return Err(LinkError::TooLarge);
        }
        Ok(sessions)
    }
}

impl Road for Sender {
    /// The receipt is waited for, and the account if the terms say so, in all for at most the publish
    /// time-out. An event is not sent if what is returned was dropped before.
    fn send(&self, event: Event, terms: Terms) -> Result<Underway, LinkError> {
        let (reply, answer) = oneshot::channel();
        self.desk.queue.borrow_mut().push(event, terms, reply, Instant::now())?;
        self.desk.waiting.notify_one();
        Ok(Underway::new(answer))
    }
}

impl Desk {
    /// Answers those whose time is over.
    fn expire(&self, now: Instant) {
        self.queue.borrow_mut().expire(now);
        self.questions.borrow_mut().expire(now);
    }

    /// When the next time is over.
    fn next_deadline(&self) -> Option<Instant> {
        let next = [self.queue.borrow().next_deadline(), self.questions.borrow().next_deadline()];
        next.into_iter().flatten().min()
    }

    /// The connection has ended.
    fn lose(&self) {
        self.queue.borrow_mut().lose();
        self.questions.borrow_mut().take_back();
    }
}

/// Connects, converses, and comes again, for as long as the thread lives.
async fn keep_connected(desk: Rc<Desk>) {
    let mut backoff = BACKOFF_MIN;
    let mut is_reported = false;
    loop {
        match expire_while(&desk, Conversation::begin(&desk)).await {
            Ok(conversation) => {
                log::info!("the link is up");
                (backoff, is_reported) = (BACKOFF_MIN, false);
                desk.state.connected.fetch_add(1, Ordering::Relaxed);
                let ended = conversation.run().await;
                desk.state.connected.fetch_sub(1, Ordering::Relaxed);
                log::warn!("the link is down: {ended}");
                desk.lose();
            }
            Err(error) if !is_reported => {
                is_reported = true;
                log::warn!("broadcast cannot be reached, trying on: {error}");
            }
            Err(_) => {}
        }
        let pause = backoff.mul_f64(0.5 + fastrand::f64() / 2.0);
        expire_while(&desk, tokio::time::sleep(pause)).await;
        backoff = (backoff * 2).min(BACKOFF_MAX);
    }
}

/// Waits for something else, and answers those whose time is over meanwhile. Arms: what is waited
/// for; somebody new, whose time may be the next to be over; the next time that is over.
async fn expire_while<T>(desk: &Desk, awaited: impl Future<Output = T>) -> T {
    const NOBODY_WAITS: Duration = Duration::from_secs(60);
    tokio::pin!(awaited);
    loop {
        let next = desk.next_deadline();
        tokio::select! {
            biased;
            output = &mut awaited => return output,
            () = desk.waiting.notified() => {}
            () = sleep_until(next.unwrap_or_else(|| Instant::now() + NOBODY_WAITS)) => {
                desk.expire(Instant::now());
            }
        }
    }
}

#[cfg(test)]
mod tests;
