//! What `listen` counts.

use std::sync::Arc;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use shared::link::sender::LinkState;
use shared::metrics::Label;

/// Counters of all workers.
#[derive(Debug, Default)]
pub struct Metrics {
    accepted: Family<Label, Counter>,
    refused: Family<Label, Counter>,
    consumed: Family<Label, Counter>,
    rejected: Family<Label, Counter>,
    /// Workers that have their link.
    pub links_up: Gauge,
}

impl Metrics {
    /// Registers them.
    pub fn register(registry: &mut Registry, link: &LinkState) -> Arc<Self> {
        let metrics = Self::default();
        registry.register(
            "events_accepted",
            "Events that were answered with success",
            metrics.accepted.clone(),
        );
        registry.register(
            "requests_refused",
            "Requests that were refused, by code",
            metrics.refused.clone(),
        );
        registry.register(
            "amqp_messages_fired",
            "Messages of queues of RabbitMQ that were fired and are kept",
            metrics.consumed.clone(),
        );
        registry.register(
            "amqp_messages_rejected",
            "Messages of queues of RabbitMQ that are no events, and were rejected",
            metrics.rejected.clone(),
        );
        registry.register(
            "links_up",
            "Workers whose connection to broadcast stands",
            metrics.links_up.clone(),
        );
        registry.register(
            "accept_to_queued_seconds",
            "From the acceptance of an event to broadcast's receipt, the oldest of each receipt",
            link.receipt_seconds.clone(),
        );
        Arc::new(metrics)
    }

    /// The counter of one worker: its own, so that no two threads write to one place.
    pub fn accepted_by(&self, worker: usize) -> Counter {
        self.accepted.get_or_create(&Label("worker", worker.to_string())).clone()
    }

    /// Counts a refusal.
    pub fn refuse(&self, code: &str) {
        self.refused.get_or_create(&Label("code", code.to_owned())).inc();
    }

    /// Counts messages of a queue that were fired.
    pub fn consumed(&self, queue: &str, count: usize) {
        let count = u64::try_from(count).unwrap_or(u64::MAX);
        self.consumed.get_or_create(&Label("queue", queue.to_owned())).inc_by(count);
    }

    /// Counts a message of a queue that is no event.
    pub fn rejected(&self, queue: &str) {
        self.rejected.get_or_create(&Label("queue", queue.to_owned())).inc();
    }
}
