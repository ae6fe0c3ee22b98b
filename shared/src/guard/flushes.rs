//! When what the HTTP server has of an answer is with the kernel.
//!
//! The server tells the body of an answer nothing of what became of its bytes. But it asks the stream
//! below to flush when, and only when, all that it has is written: so the guard knows, and whoever
//! acknowledges what was written can ask.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::task::{Poll, Waker};

/// The flushes of one connection.
#[derive(Debug, Default)]
pub struct Flushes {
    count: Cell<u64>,
    waiting: RefCell<Option<Waker>>,
}

impl Flushes {
    /// A moment in the life of the connection.
    pub fn now(&self) -> u64 {
        self.count.get()
    }

    /// Whether all is written that the server was given at such a moment.
    pub fn has_passed(&self, moment: u64) -> bool {
        self.count.get() > moment
    }

    /// Waits for that. One task at a time.
    pub async fn pass(&self, moment: u64) {
        poll_fn(|cx| {
            if self.has_passed(moment) {
                return Poll::Ready(());
            }
            self.waiting.replace(Some(cx.waker().clone()));
            Poll::Pending
        })
        .await;
    }

    /// All that the server had is written.
    pub(super) fn note(&self) {
        self.count.set(self.count.get() + 1);
        if let Some(waiting) = self.waiting.take() {
            waiting.wake();
        }
    }
}
