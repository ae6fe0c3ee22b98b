//! Somebody who waits for word from broadcast.
//!
//! Held by the [`queue`](crate::link::queue) for each event, and by the
//! [`questions`](crate::link::questions) for each question. It is answered at most once, and may
//! leave at any time.

use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::link::LinkError;

/// Where the word goes, and since when it is waited for.
#[derive(Debug)]
pub(super) struct Asker<T> {
    since: Instant,
    /// Taken by the answer.
    reply: Option<Reply<T>>,
}

impl<T> Asker<T> {
    /// Waits from now on.
    pub(super) fn new(reply: Reply<T>, now: Instant) -> Self {
        Self { since: now, reply: Some(reply) }
    }

    /// Says the word, if it was not said before.
    pub(super) fn answer(&mut self, answer: Result<T, LinkError>) {
        if let Some(reply) = self.reply.take() {
            // Who has left needs no answer.
            let _ = reply.send(answer);
        }
    }

    /// Since when it waits.
    pub(super) fn since(&self) -> Instant {
        self.since
    }

    /// Whether it has its answer.
    pub(super) fn is_answered(&self) -> bool {
        self.reply.is_none()
    }

    /// Whether no answer is of use any more.
    pub(super) fn is_gone(&self) -> bool {
        self.reply.as_ref().is_none_or(oneshot::Sender::is_closed)
    }
}

/// The way to whoever waits.
pub(super) type Reply<T> = oneshot::Sender<Result<T, LinkError>>;
