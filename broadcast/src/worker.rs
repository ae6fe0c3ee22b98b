//! One thread's share of the sessions: its hub, its outputs, and the task that feeds them.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use prometheus_client::metrics::counter::Counter;
use shared::failures::Failures;
use shared::memory::Memory;
use shared::publisher::Publisher;
use shared::reload::Reloaded;
use shared::tokens::Tokens;
use tokio::sync::{mpsc, watch};
use tokio::time::{MissedTickBehavior, sleep};

use crate::archive::Archive;
use crate::census::Census;
use crate::direct::{self, DirectRoad};
use crate::disconnect::Disconnect;
use crate::fatal::Fatal;
use crate::hub::{Hub, SessionId};
use crate::interest::Interest;
use crate::log::Feed;
use crate::metrics::Metrics;
use crate::queues::Queues;
use crate::tickets::Tickets;

/// Bytes that are published before what is due is written, but for the batch that passes them: a
/// burst leaves in few writes, and an outbox never holds more than this beyond its bound.
const BYTES_A_TURN: usize = 1024 * 1024;
/// Outboxes that are emptied before the other tasks of the thread have a turn.
const FLUSHES_A_TURN: usize = 64;
/// How often somebody is let go while there is too little memory, though nothing is published.
const RELIEVE_EVERY: Duration = Duration::from_millis(50);
/// How often expiring credentials are judged.
const JUDGE_EVERY: Duration = Duration::from_millis(500);

/// The worker's hold on one client's connection.
pub trait Output {
    /// Writes what the client's socket takes of its outbox.
    fn flush(&self);

    /// Ends the session: nothing more is offered to it, and it is told why.
    fn hang_up(&self, disconnect: Disconnect);

    /// Judges the session by a table of tokens.
    fn judge(&self, tokens: &Tokens, now: Timestamp) -> Option<Disconnect>;
}

/// One thread's share of the sessions.
pub struct Worker {
    hub: RefCell<Hub>,
    /// By the numbers of their ids, which the hub gives again when they are free.
    outputs: RefCell<Vec<Option<Rc<dyn Output>>>>,
    /// Sessions without a credential, the oldest first.
    newcomers: RefCell<BTreeMap<u64, SessionId>>,
    arrivals: Cell<u64>,
    is_closed: Cell<bool>,
    /// What the worker shares with the others.
    pub shared: Shared,
    /// The gate for what its clients publish.
    pub publisher: Publisher<DirectRoad>,
    delivered: Counter,
    scratch: RefCell<Box<[u8]>>,
}

/// What all workers share.
#[derive(Debug, Clone)]
pub struct Shared {
    /// Who may come in.
    pub tokens: Arc<Reloaded<Tokens>>,
    /// The account of what waits.
    pub memory: Arc<Memory>,
    /// All sessions.
    pub census: Arc<Census>,
    /// Wrong credentials by address.
    pub failures: Arc<Failures>,
    /// The kept events.
    pub archive: Arc<Archive>,
    /// What admits streams whose clients cannot set headers.
    pub tickets: Arc<Tickets>,
    /// The durable queues.
    pub queues: Arc<Queues>,
    /// The way to the log for what clients publish.
    pub log: direct::Opening,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// The limits of sessions.
    pub limits: Arc<Limits>,
}

/// The limits of one session.
#[derive(Debug)]
pub struct Limits {
    /// How long a client may take to show a credential.
    pub init_timeout: Option<Duration>,
    /// What may wait for it.
    pub outbox_bytes_max: usize,
    /// Its patterns.
    pub patterns_max: usize,
    /// Its messages.
    pub message_bytes_max: usize,
    /// Its frames a second, once it has shown a credential.
    pub frames_per_second: u32,
}

impl Worker {
    /// A worker without sessions.
    pub fn new(shared: Shared, interest: Arc<Interest>, delivered: Counter) -> Rc<Self> {
        const SCRATCH_BYTES: usize = 16 * 1024;
        let road = DirectRoad::new(Arc::clone(&shared.log), Arc::clone(&shared.memory));
        Rc::new(Self {
            publisher: Publisher::new(Arc::clone(&shared.tokens), None, road),
            hub: RefCell::new(Hub::new(interest)),
            outputs: RefCell::default(),
            newcomers: RefCell::default(),
            arrivals: Cell::new(0),
            is_closed: Cell::new(false),
            shared,
            delivered,
            scratch: RefCell::new(vec![0; SCRATCH_BYTES].into_boxed_slice()),
        })
    }

    /// Uses the hub.
    pub fn with_hub<R>(&self, use_hub: impl FnOnce(&mut Hub) -> R) -> R {
        use_hub(&mut self.hub.borrow_mut())
    }

    /// A buffer to read into, for the time of one read.
    pub fn with_scratch<R>(&self, use_it: impl FnOnce(&mut [u8]) -> R) -> R {
        use_it(&mut self.scratch.borrow_mut())
    }

    /// Counts events that were queued to a client by another way than the hub.
    pub fn count_deliveries(&self, count: usize) {
        self.delivered.inc_by(u64::try_from(count).unwrap_or_default());
    }

    /// Whether no session may begin any more.
    pub fn is_closed(&self) -> bool {
        self.is_closed.get()
    }

    /// Takes in a connection; says which arrival it was.
    pub fn enter(&self, id: SessionId, output: Rc<dyn Output>) -> u64 {
        let arrival = self.arrivals.get();
        self.arrivals.set(arrival + 1);
        let mut outputs = self.outputs.borrow_mut();
        if outputs.len() <= id.number() {
            outputs.resize_with(id.number() + 1, || None);
        }
        if let Some(place) = outputs.get_mut(id.number()) {
            *place = Some(Rc::clone(&output));
        }
        drop(outputs);
        // It makes up for what all sessions were told while this one was let in.
        let judged = || output.judge(&self.shared.tokens.load_full(), Timestamp::now());
        let disconnect = if self.is_closed() { Some(Disconnect::Restarting) } else { judged() };
        if let Some(disconnect) = disconnect {
            output.hang_up(disconnect);
        }
        arrival
    }

    /// Takes note of a connection that has shown no credential yet. With too many of them, the
    /// oldest goes.
    pub fn expect(&self, arrival: u64, id: SessionId) {
        if self.shared.census.has_too_many_newcomers() {
            let oldest = self.newcomers.borrow_mut().pop_first();
            if let Some((_, oldest)) = oldest {
                self.hang_up(oldest, Disconnect::TryAgainLater);
            }
        }
        self.newcomers.borrow_mut().insert(arrival, id);
    }

    /// The connection has shown a credential.
    pub fn settle(&self, arrival: u64) {
        self.newcomers.borrow_mut().remove(&arrival);
    }

    /// The connection has ended.
    pub fn leave(&self, id: SessionId, arrival: u64) {
        self.settle(arrival);
        if let Some(place) = self.outputs.borrow_mut().get_mut(id.number()) {
            *place = None;
        }
    }

    /// Feeds the hub until the thread ends. Arms: the log has something; the tokens changed, or the
    /// keys of signed ones; time to judge what expires; time to win memory back.
    pub async fn run(self: Rc<Self>, mut feed: mpsc::Receiver<Feed>) {
        let _fatal = Fatal("a worker");
        let mut changes = self.shared.tokens.changes();
        let mut keys = self.shared.tokens.load().bearer().map(|bearer| bearer.keys.changes());
        let mut judging = tokio::time::interval(JUDGE_EVERY);
        judging.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut due = Vec::new();
        loop {
            tokio::select! {
                fed = feed.recv() => match fed {
                    Some(first) => {
                        let is_end = self.publish(first, &mut feed).await;
                        self.flush(&mut due).await;
                        if is_end {
                            self.close();
                        }
                    }
                    // The log has gone; the process is about to.
                    None => std::future::pending().await,
                },
                changed = changes.changed() => if changed.is_ok() {
                    self.judge();
                },
                () = changed(&mut keys) => self.judge(),
                _ = judging.tick() => self.judge_expiring(),
                () = sleep(RELIEVE_EVERY), if self.shared.memory.is_exceeded() => self.relieve(),
            }
        }
    }

    /// Publishes what has come; says whether the end was among it.
    async fn publish(&self, first: Feed, feed: &mut mpsc::Receiver<Feed>) -> bool {
        let mut turn = Turn::default();
        self.take(first, &mut turn);
        // Under load more comes while the other tasks have their turn, and leaves in the same
        // write; without load, this costs a look at the sockets.
        tokio::task::yield_now().await;
        while turn.bytes < BYTES_A_TURN
            && let Ok(next) = feed.try_recv()
        {
            self.take(next, &mut turn);
        }
        self.delivered.inc_by(self.with_hub(Hub::take_deliveries));
        turn.is_end
    }

    fn take(&self, fed: Feed, turn: &mut Turn) {
        match fed {
            Feed::Batch(batch) => {
                turn.bytes += batch.bytes();
                self.with_hub(|hub| hub.publish(&batch));
            }
            Feed::Count(event_type, tally) => {
                tally.add(self.with_hub(|hub| hub.count(event_type.as_str())));
            }
            Feed::End => turn.is_end = true,
        }
    }

    /// Writes what is due, in turns with the other tasks of the thread.
    async fn flush(&self, due: &mut Vec<SessionId>) {
        self.with_hub(|hub| hub.take_due(due));
        for (count, id) in due.drain(..).enumerate() {
            if let Some(output) = self.output(id) {
                output.flush();
            }
            if count % FLUSHES_A_TURN == FLUSHES_A_TURN - 1 {
                tokio::task::yield_now().await;
            }
        }
        self.relieve();
    }

    /// The full rule of memory: who holds most goes first. One at a time: what a session held may
    /// be held by others, too, and what they give back shows only when they have had a turn.
    fn relieve(&self) {
        if self.shared.memory.is_exceeded()
            && let Some(fullest) = self.with_hub(|hub| hub.fullest())
        {
            self.hang_up(fullest, Disconnect::TryAgainLater);
        }
    }

    fn output(&self, id: SessionId) -> Option<Rc<dyn Output>> {
        self.outputs.borrow().get(id.number()).cloned().flatten()
    }

    fn hang_up(&self, id: SessionId, disconnect: Disconnect) {
        if let Some(output) = self.output(id) {
            output.hang_up(disconnect);
        }
    }

    fn outputs(&self) -> Vec<Rc<dyn Output>> {
        self.outputs.borrow().iter().flatten().map(Rc::clone).collect()
    }

    /// Judges all sessions by the tokens of now.
    fn judge(&self) {
        let tokens = self.shared.tokens.load_full();
        let now = Timestamp::now();
        for output in self.outputs() {
            if let Some(disconnect) = output.judge(&tokens, now) {
                output.hang_up(disconnect);
            }
        }
    }

    /// Judges only where there is something that can expire.
    fn judge_expiring(&self) {
        if self.shared.tokens.load().can_expire() {
            self.judge();
        }
    }

    /// The end of all sessions.
    fn close(&self) {
        self.is_closed.set(true);
        for output in self.outputs() {
            output.hang_up(Disconnect::Restarting);
        }
    }
}

/// Waits until followed files have changed, if there are any.
async fn changed(changes: &mut Option<watch::Receiver<u64>>) {
    if let Some(changes) = changes
        && changes.changed().await.is_ok()
    {
        return;
    }
    std::future::pending().await
}

/// What was published since the outboxes were written.
#[derive(Debug, Default)]
struct Turn {
    bytes: usize,
    is_end: bool,
}

impl std::fmt::Debug for Worker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Worker")
    }
}
