//! What `broadcast` counts.

use std::sync::Arc;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;
use shared::metrics::Label;

use crate::disconnect::Disconnect;
use crate::publication::Format;

/// Counters of all workers.
#[derive(Debug, Default)]
pub struct Metrics {
    /// Events that went to the log.
    pub taken: Counter,
    /// Events for which there was no room.
    pub turned_away: Counter,
    /// Sessions that are open.
    pub sessions: Gauge,
    /// Those of them that have shown no credential yet.
    pub newcomers: Gauge,
    /// Bytes that wait for clients, a shared buffer counted once.
    pub outbox_bytes: Gauge,
    /// Events that were accepted before, and came again.
    pub retries: Counter,
    /// Events that could not be remembered for as long as a retry may come.
    pub retries_forgotten: Counter,
    /// How long the log takes to keep a batch, in seconds.
    pub commit_seconds: CommitSeconds,
    /// Events that are kept.
    pub log_events: Gauge,
    /// What they occupy.
    pub log_bytes: Gauge,
    /// Sessions that ended by a panic.
    pub panics: Counter,
    /// Pipely's channels.
    pub channels: Gauge,
    queues: Gauge,
    /// Connections to RabbitMQ.
    pub amqp_connections: Gauge,
    queue_dropped: Counter,
    slow_consumers: Counter,
    delivered: Family<Label, Counter>,
    refused: Family<Label, Counter>,
    disconnects: Family<Label, Counter>,
    encoded: Family<Label, Counter>,
}

/// A histogram of short times: observed once a batch, for it takes a lock.
#[derive(Debug, Clone)]
pub struct CommitSeconds(Histogram);

impl Default for CommitSeconds {
    fn default() -> Self {
        Self(Histogram::new(exponential_buckets(0.000_02, 2.0, 17)))
    }
}

impl CommitSeconds {
    /// Takes note of one.
    pub fn observe(&self, seconds: f64) {
        self.0.observe(seconds);
    }
}

impl Metrics {
    /// Registers them.
    pub fn register(registry: &mut Registry) -> Arc<Self> {
        let metrics = Self::default();
        let mut add = |name: &str, help: &str, metric: Counter| {
            registry.register(name, help, metric);
        };
        add("events_accepted", "Events that got their place in the order", metrics.taken.clone());
        add("events_turned_away", "Events refused for want of room", metrics.turned_away.clone());
        add("events_repeated", "Events accepted before that came again", metrics.retries.clone());
        let forgotten = metrics.retries_forgotten.clone();
        add("events_forgotten_early", "Events whose retry would not be recognised", forgotten);
        let dropped = metrics.queue_dropped.clone();
        add("queue_events_dropped", "Events dropped from queues that were full", dropped);
        add("slow_consumers", "Sessions ended for slow reading", metrics.slow_consumers.clone());
        add("session_panics", "Sessions that ended by a panic", metrics.panics.clone());
        let mut add = |name: &str, help: &str, metric: Family<Label, Counter>| {
            registry.register(name, help, metric);
        };
        add("events_delivered", "Events queued to a client", metrics.delivered.clone());
        add("requests_refused", "Requests and messages refused", metrics.refused.clone());
        add("disconnects", "Sessions that we ended, by reason", metrics.disconnects.clone());
        add("events_encoded", "Events written in a format, once for all", metrics.encoded.clone());
        let mut add = |name: &str, help: &str, metric: Gauge| {
            registry.register(name, help, metric);
        };
        add("log_events", "Events that are kept", metrics.log_events.clone());
        add("log_bytes", "Bytes of the events that are kept", metrics.log_bytes.clone());
        add("sessions", "Sessions that are open", metrics.sessions.clone());
        add("sessions_unauthenticated", "Sessions without credential", metrics.newcomers.clone());
        add("outbox_bytes", "Bytes that wait for clients", metrics.outbox_bytes.clone());
        add("queues", "Durable queues in the log", metrics.queues.clone());
        let connections = metrics.amqp_connections.clone();
        add("amqp_connections", "Connections to RabbitMQ, for its queues", connections);
        add("channels", "Channels that somebody has joined", metrics.channels.clone());
        let commits = metrics.commit_seconds.0.clone();
        registry.register("log_commit_seconds", "Time to keep one batch", commits);
        Arc::new(metrics)
    }

    /// The counter of one worker: its own, so that no two threads write to one place.
    pub fn delivered_by(&self, worker: usize) -> Counter {
        self.delivered.get_or_create(&Label("worker", worker.to_string())).clone()
    }

    /// Brings the count of a format up to now.
    pub fn refresh_encoded(&self, format: &Format) {
        let counter = self.encoded.get_or_create(&Label("format", format.name().to_owned()));
        counter.inc_by(format.encoded().saturating_sub(counter.get()));
    }

    /// Brings the counts of queues up to now.
    pub fn tell_queues(&self, count: usize, dropped: u64) {
        self.queues.set(i64::try_from(count).unwrap_or(i64::MAX));
        self.queue_dropped.inc_by(dropped.saturating_sub(self.queue_dropped.get()));
    }

    /// Counts a refusal.
    pub fn refuse(&self, code: &str) {
        self.refused.get_or_create(&Label("code", code.to_owned())).inc();
    }

    /// Counts a session that we ended.
    pub fn disconnect(&self, disconnect: Disconnect) {
        let (_, reason) = disconnect.code_and_reason();
        self.disconnects.get_or_create(&Label("reason", reason.to_owned())).inc();
        if disconnect == Disconnect::SlowConsumer {
            self.slow_consumers.inc();
        }
    }
}
