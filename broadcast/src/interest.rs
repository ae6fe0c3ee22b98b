//! Whether anybody on a worker wants anything: told by its hub, asked by the log.

use std::sync::atomic::{AtomicUsize, Ordering};

/// The number of subscriptions of one worker.
#[derive(Debug, Default)]
pub struct Interest {
    subscriptions: AtomicUsize,
}

impl Interest {
    /// Whether there is any subscription.
    pub fn is_any(&self) -> bool {
        self.subscriptions.load(Ordering::SeqCst) > 0
    }

    /// Counts a subscription; from now on every batch is handed over.
    pub fn begin(&self) {
        self.subscriptions.fetch_add(1, Ordering::SeqCst);
    }

    /// Takes a subscription off the count.
    pub fn end(&self) {
        self.subscriptions.fetch_sub(1, Ordering::SeqCst);
    }
}
