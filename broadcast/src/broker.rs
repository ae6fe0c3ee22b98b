//! Durable queues in RabbitMQ (WIRE §7): a channel a client, on whichever connection has fewest.
//!
//! The broker keeps what waits, and knows who has which queue. While it is away requests wait, for a
//! 503 would stop an `EventSource` for good; streams end when it dies, and their reconnects wait.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lapin::options::{
    BasicConsumeOptions, BasicQosOptions, QueueDeclareOptions, QueueDeleteOptions,
};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use shared::amqp::{Full, Lane, Node, lane, patient, refusal};
use shared::credentials::Digest;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep};

use crate::broker::consumer::Consumer;

pub mod consumer;

/// AMQP 0-9-1 §1.2, and RabbitMQ's: codes of refusals.
const ACCESS_REFUSED: u16 = 403;
const NOT_FOUND: u16 = 404;
const RESOURCE_LOCKED: u16 = 405;
/// How often one looks whether a queue is free, or a broker there.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// How long one waits where a queue cannot be had for now.
const LOST_PAUSE: Duration = Duration::from_millis(200);
/// How long one waits for a consumer to be sent away: its connection may be dead, and is let go after
/// 15 s without a byte.
const LEAVING_MAX: Duration = Duration::from_secs(20);
/// How long the broker may take to hear that a consumer has gone.
const HEARING_MAX: Duration = Duration::from_secs(5);

/// The way to RabbitMQ.
#[derive(Debug)]
pub struct Broker {
    nodes: Vec<Node>,
    expires: Duration,
    seats: Mutex<HashMap<String, Seat>>,
}

/// Who has a queue, or had it a moment ago.
#[derive(Debug)]
enum Seat {
    Taken {
        /// Told when the consumer is to look whether it may stay.
        look: Arc<Notify>,
        ticket: Option<Digest>,
    },
    LeftAt(Instant),
}

/// Why a queue cannot be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BrokerError {
    /// It has a consumer.
    #[error("server: max consumers exceeded")]
    Taken,
    /// All connections have as many channels as they may.
    #[error("Exception (504) Reason: \"channel id space exhausted\"")]
    Full,
    /// There is no such queue.
    #[error("there is no such queue")]
    NotFound,
    /// The broker refuses, for a reason of its own.
    #[error("Exception ({0}) Reason: \"{1}\"")]
    Refused(u16, String),
}

impl From<Full> for BrokerError {
    fn from(_: Full) -> Self {
        Self::Full
    }
}

/// Why a seat cannot be had.
enum Refusal {
    Taken,
    /// By a consumer with the same ticket: its connection is gone, or about to be.
    TakenOver,
}

/// Whether to try again.
enum Attempt {
    Failed(BrokerError),
    /// The connection was lost under it.
    Lost,
}

impl From<lapin::Error> for Attempt {
    fn from(error: lapin::Error) -> Self {
        match refusal(&error) {
            Some((ACCESS_REFUSED | RESOURCE_LOCKED, text)) if text.contains("in exclusive use") => {
                Self::Failed(BrokerError::Taken)
            }
            Some((NOT_FOUND, text)) if text.contains("no queue") => {
                Self::Failed(BrokerError::NotFound)
            }
            // The node that has the queue is down, or about to be: it is as away as a broker.
            Some((NOT_FOUND, _)) => Self::Lost,
            Some((code, text)) => Self::Failed(BrokerError::Refused(code, text)),
            None => Self::Lost,
        }
    }
}

impl Broker {
    /// A way over these connections, to queues that live so long without a consumer.
    pub fn new(nodes: Vec<Node>, expires: Duration) -> Arc<Self> {
        Arc::new(Self { nodes, expires, seats: Mutex::default() })
    }

    fn seats(&self) -> MutexGuard<'_, HashMap<String, Seat>> {
        self.seats.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many connections there are.
    pub fn connections(&self) -> usize {
        self.nodes.iter().filter_map(Node::live).count()
    }

    /// The queues that are consumed through us, by name.
    pub fn list(&self) -> Vec<String> {
        let seats = self.seats();
        let taken = seats.iter().filter(|(_, seat)| matches!(seat, Seat::Taken { .. }));
        let mut names: Vec<String> = taken.map(|(name, _)| name.clone()).collect();
        names.sort();
        names
    }

    /// Becomes the consumer of a queue, and makes the queue where there is none. Waits while there is
    /// no broker, unless its place `is_taken_over`: a consumer that came by the same ticket is sent
    /// away, also while it waits.
    ///
    /// # Errors
    ///
    /// [`BrokerError`] says why not.
    pub async fn consume(
        self: &Arc<Self>,
        name: &str,
        ticket: Option<Digest>,
        is_taken_over: impl Fn() -> bool,
    ) -> Result<Consumer, BrokerError> {
        let deadline = Instant::now() + LEAVING_MAX;
        // From here on the seat is given back, whatever becomes of this.
        let (sitting, left_at) = loop {
            match self.sit(name, ticket) {
                Ok(sat) => break sat,
                Err(Refusal::TakenOver) if Instant::now() < deadline => sleep(LOOK_EVERY).await,
                Err(_) => return Err(BrokerError::Taken),
            }
        };
        let look = sitting.look();
        let sent_away = async {
            while !is_taken_over() {
                look.notified().await;
            }
        };
        tokio::select! {
            opened = self.open(name, left_at) => Ok(opened?.on(sitting)),
            () = sent_away => Err(BrokerError::Taken),
        }
    }

    /// Consumes a queue whose seat is ours, which somebody left a moment ago.
    async fn open(&self, name: &str, left_at: Option<Instant>) -> Result<Opened, BrokerError> {
        loop {
            let lane = lane(&self.nodes).await?;
            // Whoever was there may have left just now, or with a connection before this one.
            let left_at = left_at.max(Some(lane.begun()));
            match self.begin(lane, name).await {
                Ok(opened) => return Ok(opened),
                // The broker has not heard yet that the one before has gone.
                Err(Attempt::Failed(BrokerError::Taken))
                    if left_at.is_some_and(|at| at.elapsed() < HEARING_MAX) =>
                {
                    sleep(LOOK_EVERY).await;
                }
                Err(Attempt::Failed(error)) => return Err(error),
                Err(Attempt::Lost) => sleep(LOST_PAUSE).await,
            }
        }
    }

    /// Takes the seat at a queue; says when the last one left it.
    fn sit(
        self: &Arc<Self>,
        name: &str,
        ticket: Option<Digest>,
    ) -> Result<(Sitting, Option<Instant>), Refusal> {
        let mut seats = self.seats();
        // Who has left long ago is forgotten by whoever comes next.
        seats.retain(|_, seat| match seat {
            Seat::Taken { .. } => true,
            Seat::LeftAt(at) => at.elapsed() < HEARING_MAX,
        });
        let left_at = match seats.get(name) {
            None => None,
            Some(Seat::LeftAt(at)) => Some(*at),
            Some(Seat::Taken { look, ticket: taken_by }) => {
                if ticket.is_none() || ticket != *taken_by {
                    return Err(Refusal::Taken);
                }
                look.notify_one();
                return Err(Refusal::TakenOver);
            }
        };
        let look = Arc::new(Notify::new());
        seats.insert(name.to_owned(), Seat::Taken { look: Arc::clone(&look), ticket });
        Ok((Sitting { broker: Arc::clone(self), name: name.to_owned(), look }, left_at))
    }

    async fn begin(&self, lane: Lane, name: &str) -> Result<Opened, Attempt> {
        let invalid = |_| Attempt::Failed(BrokerError::NotFound);
        let name = ShortString::try_new(name).map_err(invalid)?;
        let channel = &lane.channel;
        patient(channel.basic_qos(1, BasicQosOptions::default())).await?;
        let mut arguments = FieldTable::default();
        let expires_ms = i32::try_from(self.expires.as_millis()).unwrap_or(i32::MAX);
        arguments.insert("x-expires".into(), AMQPValue::LongInt(expires_ms));
        let declared =
            channel.queue_declare(name.clone(), QueueDeclareOptions::durable(), arguments);
        let queue = patient(declared).await?;
        // Another program's consumer counts; an exclusive one of ours is refused by the broker.
        if queue.consumer_count() > 0 {
            return Err(Attempt::Failed(BrokerError::Taken));
        }
        let options = BasicConsumeOptions { exclusive: true, ..BasicConsumeOptions::default() };
        let consuming = channel.basic_consume(name, "".into(), options, FieldTable::default());
        let deliveries = patient(consuming).await?;
        Ok(Opened { deliveries, lane })
    }

    /// Removes a queue with what waits in it; waits while there is no broker.
    ///
    /// # Errors
    ///
    /// [`BrokerError`] says why not.
    pub async fn remove(&self, name: &str) -> Result<(), BrokerError> {
        let name = ShortString::try_new(name).map_err(|_| BrokerError::NotFound)?;
        loop {
            let lane = lane(&self.nodes).await?;
            let removed = async {
                // To remove one that is not there is no fault for RabbitMQ.
                let looked = QueueDeclareOptions::default().passive();
                let looked =
                    lane.channel.queue_declare(name.clone(), looked, FieldTable::default());
                patient(looked).await?;
                let options = QueueDeleteOptions::default();
                patient(lane.channel.queue_delete(name.clone(), options)).await?;
                Ok::<_, Attempt>(())
            };
            match removed.await {
                Ok(()) => return Ok(()),
                Err(Attempt::Failed(error)) => return Err(error),
                Err(Attempt::Lost) => sleep(LOST_PAUSE).await,
            }
        }
    }
}

/// A queue that is being consumed.
struct Opened {
    deliveries: lapin::Consumer,
    lane: Lane,
}

impl Opened {
    fn on(self, sitting: Sitting) -> Consumer {
        Consumer::new(self.deliveries, self.lane, sitting)
    }
}

/// The seat at a queue, until it is dropped.
#[derive(Debug)]
pub struct Sitting {
    broker: Arc<Broker>,
    name: String,
    look: Arc<Notify>,
}

impl Sitting {
    /// Told when the consumer is to look whether it may stay.
    pub fn look(&self) -> Arc<Notify> {
        Arc::clone(&self.look)
    }
}

impl Drop for Sitting {
    fn drop(&mut self) {
        let left = Seat::LeftAt(Instant::now());
        self.broker.seats().insert(std::mem::take(&mut self.name), left);
    }
}
