//! What waits for one client of a channel.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::task::AtomicWaker;
use shared::memory::{Held, Memory};

/// What waits for one client. Bounded by bytes: who reads too slowly is let go, and the others are
/// told that it has left.
#[derive(Debug)]
pub struct Mailbox {
    waiting: Mutex<Waiting>,
    bytes_max: usize,
    waker: AtomicWaker,
}

#[derive(Debug, Default)]
struct Waiting {
    messages: VecDeque<Arc<Posted>>,
    bytes: usize,
    is_overflown: bool,
}

/// A client did not read what was sent to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the client reads too slowly")]
pub struct TooSlow;

impl Mailbox {
    pub(super) fn new(bytes_max: usize) -> Self {
        Self { waiting: Mutex::default(), bytes_max, waker: AtomicWaker::new() }
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn put(&self, posted: &Arc<Posted>) {
        let mut waiting = self.waiting();
        let bytes = waiting.bytes + posted.bytes.len();
        if waiting.is_overflown || (waiting.bytes > 0 && bytes > self.bytes_max) {
            waiting.is_overflown = true;
            waiting.messages.clear();
        } else {
            waiting.bytes = bytes;
            waiting.messages.push_back(Arc::clone(posted));
        }
        drop(waiting);
        self.waker.wake();
    }

    /// Whether some were thrown away.
    pub fn is_overflown(&self) -> bool {
        self.waiting().is_overflown
    }

    /// Takes the next message.
    ///
    /// # Errors
    ///
    /// [`TooSlow`]: some were thrown away, and the client must go.
    pub fn poll_take(&self, cx: &mut Context<'_>) -> Poll<Result<Bytes, TooSlow>> {
        self.waker.register(cx.waker());
        let mut waiting = self.waiting();
        if waiting.is_overflown {
            return Poll::Ready(Err(TooSlow));
        }
        let Some(posted) = waiting.messages.pop_front() else { return Poll::Pending };
        waiting.bytes -= posted.bytes.len();
        Poll::Ready(Ok(posted.bytes.clone()))
    }
}

/// A message on its way, on the account of memory until the last client has it.
#[derive(Debug)]
pub(super) struct Posted {
    bytes: Bytes,
    #[expect(dead_code, reason = "on the accounts until it is dropped")]
    held: [Held; 2],
}

impl Posted {
    /// One for all clients of a channel.
    pub(super) fn of(bytes: Vec<u8>, account: &Account) -> Arc<Self> {
        let held = [account.memory.hold(bytes.len()), account.share.hold(bytes.len())];
        Arc::new(Self { bytes: bytes.into(), held })
    }
}

/// What waits is on two accounts: that of the process, and that of all channels, which is a part of it.
/// Strangers who do not read must not keep events from anybody.
#[derive(Debug)]
pub(super) struct Account {
    pub(super) memory: Arc<Memory>,
    pub(super) share: Arc<Memory>,
}
