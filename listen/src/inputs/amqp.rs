//! `AMQP_CONSUME`: takes messages from queues of RabbitMQ and fires them.
//!
//! A message is acknowledged to the broker when broadcast has given its receipt for the event, and
//! not before: what is not is delivered again. What can be no event is rejected, so that the queue's
//! dead letters get it and the others go on.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::rc::Rc;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{FutureExt as _, StreamExt as _};
use lapin::Acker;
use lapin::message::Delivery;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicQosOptions, BasicRejectOptions, QueueDeclareOptions,
};
use lapin::types::{FieldTable, ShortString};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use shared::amqp::{self, Full, Lane, Node, patient, refusal};
use shared::cloudevents::attributes::Faults;
use shared::link::IN_FLIGHT_BYTES_MAX;
use shared::link::sender::Sender;
use shared::memory::Memory;
use shared::pattern::Pattern;
use shared::principal::{Grant, Principal};
use shared::publisher::{Approved, PublishError, Publisher, make_id};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use crate::metrics::Metrics;

mod message;

/// Messages of one queue that are under way. They are fired together, and acknowledged together.
const PREFETCH: u16 = 64;
/// A batch takes no further message beyond so many bytes: all of it is to be on the link at once.
const BATCH_BYTES: usize = IN_FLIGHT_BYTES_MAX / 4;
/// RabbitMQ's code for a queue that is not there.
const NOT_FOUND: u16 = 404;
/// How long one waits before the next attempt.
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// Of messages that are no events one is told in so long.
const TELL_EVERY: Duration = Duration::from_secs(10);
/// What stands in a path as it is (RFC 3986 §2.3).
const NOT_IN_PATH: &AsciiSet =
    &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// The name of a queue.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct QueueName(ShortString);

impl FromStr for QueueName {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let name = ShortString::try_new(text).ok().filter(|name| !name.as_str().is_empty());
        name.map(Self).ok_or("the name of a queue has 1 to 255 bytes")
    }
}

/// What all queues are consumed with.
#[derive(Debug)]
pub struct Consuming {
    /// The connections.
    pub nodes: Vec<Node>,
    /// The way to broadcast.
    pub publisher: Publisher<Sender>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// The largest body.
    pub body_bytes_max: usize,
    /// The account of what waits.
    pub memory: Arc<Memory>,
}

/// One queue that is being consumed.
struct Consumer {
    consuming: Rc<Consuming>,
    queue: QueueName,
    principal: Principal,
    told: Option<Instant>,
    stop: watch::Receiver<bool>,
}

/// What became of an event.
enum Became {
    Kept,
    /// It is too large for broadcast, and always will be.
    TooLarge,
}

/// Why a queue is not consumed any more on a channel.
enum Interruption {
    /// The channel is gone, or the queue.
    Lost(String),
    /// We are to stop.
    Stopping,
}

/// Consumes a queue until told to stop: from then on nothing more is taken, and what is under way is
/// waited for.
pub async fn consume(consuming: Rc<Consuming>, queue: QueueName, stop: watch::Receiver<bool>) {
    let principal = principal_of(&queue);
    let mut consumer = Consumer { consuming, queue, principal, told: None, stop };
    let mut pause = PAUSE_MIN;
    loop {
        let begun = Instant::now();
        let Err(interruption) = consumer.run().await;
        match interruption {
            Interruption::Stopping => return,
            Interruption::Lost(reason) => {
                let queue = consumer.queue.0.as_str();
                log::warn!(queue; "a queue is not consumed for now: {reason}");
            }
        }
        if begun.elapsed() > PAUSE_MAX {
            pause = PAUSE_MIN;
        }
        tokio::select! {
            () = sleep(pause.mul_f64(0.5 + fastrand::f64() / 2.0)) => {}
            _ = consumer.stop.wait_for(|is_stopping| *is_stopping) => return,
        }
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

/// Whoever may put messages into the queue may fire them: the operator has named it. No token has such
/// a name.
fn principal_of(queue: &QueueName) -> Principal {
    let name = queue.0.as_str();
    Principal {
        name: format!("queue {name}").into(),
        grant: Grant {
            publish: Pattern::parse(">").into_iter().collect(),
            subscribe: Vec::new(),
            admin: false,
        },
        expires: None,
        digest: None,
        key: None,
        source: format!("/amqp/{}", utf8_percent_encode(name, NOT_IN_PATH)).into(),
    }
}

impl Consumer {
    async fn run(&mut self) -> Result<Infallible, Interruption> {
        let mut stop = self.stop.clone();
        let stopping = async move {
            // Without whoever tells us we are to stop, too.
            let _ = stop.wait_for(|is_stopping| *is_stopping).await;
        };
        tokio::pin!(stopping);
        let (lane, mut deliveries) = tokio::select! {
            opened = self.open() => opened?,
            () = &mut stopping => return Err(Interruption::Stopping),
        };
        log::info!(queue = self.queue.0.as_str(); "a queue is being consumed");
        loop {
            let first = tokio::select! {
                biased;
                () = &mut stopping => return Err(Interruption::Stopping),
                first = deliveries.next() => first,
            };
            let mut batch = vec![delivered(first)?];
            let mut bytes = batch.iter().map(|it| it.data.len()).sum::<usize>();
            while bytes < BATCH_BYTES
                && let Some(next) = deliveries.next().now_or_never()
            {
                let next = delivered(next)?;
                bytes += next.data.len();
                batch.push(next);
            }
            self.take(batch, &lane).await?;
        }
    }

    async fn open(&self) -> Result<(Lane, lapin::Consumer), Interruption> {
        let lost = |error: lapin::Error| {
            let text = refusal(&error).map(|(_, text)| text);
            Interruption::Lost(text.unwrap_or_else(|| error.to_string()))
        };
        let full = |error: Full| Interruption::Lost(error.to_string());
        let mut lane = amqp::lane(&self.consuming.nodes).await.map_err(full)?;
        let looked = QueueDeclareOptions::default().passive();
        let looked =
            lane.channel.queue_declare(self.queue.0.clone(), looked, FieldTable::default());
        match patient(looked).await {
            Ok(_) => {}
            Err(error) if refusal(&error).is_some_and(|(code, _)| code == NOT_FOUND) => {
                // The broker has closed the channel over it.
                lane = amqp::lane(&self.consuming.nodes).await.map_err(full)?;
                let durable = QueueDeclareOptions::durable();
                let made = lane.channel.queue_declare(
                    self.queue.0.clone(),
                    durable,
                    FieldTable::default(),
                );
                patient(made).await.map_err(lost)?;
            }
            Err(error) => return Err(lost(error)),
        }
        let prefetch = lane.channel.basic_qos(PREFETCH, BasicQosOptions::default());
        patient(prefetch).await.map_err(lost)?;
        let deliveries = lane.channel.basic_consume(
            self.queue.0.clone(),
            "".into(),
            BasicConsumeOptions::default(),
            FieldTable::default(),
        );
        let deliveries = patient(deliveries).await.map_err(lost)?;
        Ok((lane, deliveries))
    }

    /// Fires what can be fired, rejects what cannot, and acknowledges it all when it is kept.
    async fn take(&mut self, batch: Vec<Delivery>, lane: &Lane) -> Result<(), Interruption> {
        let mut waiting = VecDeque::new();
        let bytes = batch.iter().map(|it| it.data.len()).sum();
        let held = self.consuming.memory.hold(bytes);
        for mut delivery in batch {
            match self.read(&mut delivery) {
                Ok(event) => waiting.push_back((event, delivery.acker)),
                Err(faults) => self.reject(&delivery.acker, &faults).await?,
            }
        }
        // From here on the link has on its account what is sent.
        drop(held);
        let (mut pause, mut taken) = (PAUSE_MIN, (0, None));
        while !waiting.is_empty() {
            for became in self.fire(&waiting).await {
                let Some((_, acker)) = waiting.pop_front() else { break };
                pause = PAUSE_MIN;
                match became {
                    Became::Kept => taken = (taken.0 + 1, Some(acker)),
                    Became::TooLarge => {
                        self.reject(&acker, &Faults::of("body", "is too large")).await?;
                    }
                }
            }
            if !waiting.is_empty() {
                // The broker will deliver what we cannot acknowledge any more.
                if !lane.channel.status().connected() {
                    return Err(Interruption::Lost("the channel was lost".to_owned()));
                }
                if *self.stop.borrow() {
                    break;
                }
                tokio::select! {
                    () = sleep(pause) => {}
                    _ = self.stop.wait_for(|is_stopping| *is_stopping) => {}
                }
                pause = (pause * 2).min(PAUSE_MAX);
            }
        }
        let (count, Some(last)) = taken else { return Ok(()) };
        self.consuming.metrics.consumed(self.queue.0.as_str(), count);
        sent(last.ack(BasicAckOptions { multiple: true }).await)
    }

    fn read(&self, delivery: &mut Delivery) -> Result<Approved, Faults> {
        let body = Bytes::from(std::mem::take(&mut delivery.data));
        if body.len() > self.consuming.body_bytes_max {
            return Err(Faults::of("body", "is too large"));
        }
        let read = message::read(&delivery.properties, delivery.routing_key.as_str(), &body);
        let mut draft = read?;
        // With an identity it can be fired again, should nobody know whether it was taken.
        draft.source.get_or_insert_with(|| self.principal.source.clone());
        draft.id.get_or_insert_with(make_id);
        Approved::new(&self.principal, draft).map_err(|_| Faults::of("type", "is not granted"))
    }

    /// Fires events in order, and says what became of the first ones. They go to broadcast together,
    /// and what follows one that is not kept is fired again behind it: the order holds when the link
    /// breaks. Where broadcast alone refuses one, for want of room, it may have kept the next.
    async fn fire(&self, events: &VecDeque<(Approved, Acker)>) -> Vec<Became> {
        let mut underway = Vec::with_capacity(events.len());
        for (event, _) in events {
            let Ok(publication) = self.consuming.publisher.publish(event.clone(), false) else {
                break;
            };
            underway.push(publication);
        }
        let mut became = Vec::with_capacity(underway.len());
        // With the first that is not kept the others are given up: what still waits is not sent then.
        for publication in underway {
            match publication.await {
                Ok(_) => became.push(Became::Kept),
                Err(PublishError::TooLarge) => became.push(Became::TooLarge),
                Err(_) => break,
            }
        }
        became
    }

    async fn reject(&mut self, acker: &Acker, faults: &Faults) -> Result<(), Interruption> {
        let queue = self.queue.0.as_str();
        self.consuming.metrics.rejected(queue);
        if self.told.is_none_or(|told| told.elapsed() > TELL_EVERY) {
            self.told = Some(Instant::now());
            log::warn!(queue; "a message is no event, and is rejected: {}", faults.to_json());
        }
        sent(acker.reject(BasicRejectOptions { requeue: false }).await)
    }
}

fn delivered(next: Option<Result<Delivery, lapin::Error>>) -> Result<Delivery, Interruption> {
    match next {
        Some(Ok(delivery)) => Ok(delivery),
        Some(Err(error)) => Err(Interruption::Lost(error.to_string())),
        None => Err(Interruption::Lost("the queue was removed".to_owned())),
    }
}

/// Whether the broker could be told: a channel that is gone takes nothing, and says so.
fn sent(told: Result<bool, lapin::Error>) -> Result<(), Interruption> {
    match told {
        Ok(true) => Ok(()),
        Ok(false) => Err(Interruption::Lost("the channel was lost".to_owned())),
        Err(error) => Err(Interruption::Lost(error.to_string())),
    }
}
