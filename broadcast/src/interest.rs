//! Whether anybody on a worker wants anything: told by its hub, asked by the log.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// The number of subscriptions of one worker.
#[derive(Debug, Default)]
pub struct Interest {
    subscriptions: AtomicUsize,
    /// The offset of the last event that was committed.
    end: Arc<AtomicU64>,
}

impl Interest {
    /// No subscription yet, in front of a log that ends there.
    pub fn new(end: Arc<AtomicU64>) -> Self {
        Self { subscriptions: AtomicUsize::new(0), end }
    }

    /// Whether there is any subscription.
    pub fn is_any(&self) -> bool {
        self.subscriptions.load(Ordering::SeqCst) > 0
    }

    /// Counts a subscription; from now on every batch is handed over. For the first one gives the
    /// end of the log: what is committed after that will come. The log moves its end before it asks
    /// who wants a batch, so that none is behind this end and not handed over.
    pub fn begin(&self) -> Option<u64> {
        let before = self.subscriptions.fetch_add(1, Ordering::SeqCst);
        (before == 0).then(|| self.end.load(Ordering::SeqCst))
    }

    /// Takes a subscription off the count.
    pub fn end(&self) {
        self.subscriptions.fetch_sub(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests;
