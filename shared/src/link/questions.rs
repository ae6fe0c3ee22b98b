//! Questions to broadcast: those that wait for the link, and those that were asked on it.
//!
//! The rules of the [`sender`](crate::link::sender), without socket or clock. A question has no
//! effect on the other end: where a link breaks it is asked again on the next one, and there is
//! never doubt about what became of it.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::BytesMut;
use tokio::time::Instant;

use crate::event::EventType;
use crate::link::asker::{Asker, Reply};
use crate::link::frame::{Frame, Request};
use crate::link::{LinkError, UNANSWERED_MAX, WAITING_MAX};

/// The questions of one link.
#[derive(Debug)]
pub(super) struct Questions {
    timeout: Duration,
    /// Not asked on this connection, in order of their times.
    waiting: VecDeque<Count>,
    /// Asked and not answered, in order of their numbers.
    asked: VecDeque<(u64, Count)>,
    last_number: u64,
}

/// How many sessions would an event of this type be queued to?
#[derive(Debug)]
struct Count {
    event_type: EventType,
    asker: Asker<u32>,
}

impl Questions {
    /// None yet; each waits for at most `timeout`.
    pub(super) fn new(timeout: Duration) -> Self {
        Self { timeout, waiting: VecDeque::new(), asked: VecDeque::new(), last_number: 0 }
    }

    /// Puts a question at the end.
    ///
    /// # Errors
    ///
    /// [`LinkError::Unreachable`] if there is no room: who waits already goes first.
    pub(super) fn push(
        &mut self,
        event_type: EventType,
        reply: Reply<u32>,
        now: Instant,
    ) -> Result<(), LinkError> {
        if self.waiting.len() >= WAITING_MAX {
            return Err(LinkError::Unreachable);
        }
        self.waiting.push_back(Count { event_type, asker: Asker::new(reply, now) });
        Ok(())
    }

    /// Asks what there is room for.
    pub(super) fn send(&mut self, out: &mut BytesMut) {
        while self.asked.len() < UNANSWERED_MAX {
            let Some(count) = self.waiting.pop_front() else { return };
            if count.asker.is_gone() {
                continue;
            }
            self.last_number += 1;
            let request = Request::Count(count.event_type.clone());
            Frame::Request(self.last_number, request).encode(out);
            self.asked.push_back((self.last_number, count));
        }
    }

    /// Asks whether broadcast is there. Any word of it will do, so nobody waits for the answer.
    pub(super) fn ping(&mut self, out: &mut BytesMut) {
        self.last_number += 1;
        Frame::Request(self.last_number, Request::Ping).encode(out);
    }

    /// The answer to the question of this number has come.
    pub(super) fn answer(&mut self, answered: u64, sessions: u32) {
        // The number of a ping is not found.
        let Ok(at) = self.asked.binary_search_by_key(&answered, |(number, _)| *number) else {
            return;
        };
        if let Some((_, mut count)) = self.asked.remove(at) {
            count.asker.answer(Ok(sessions));
        }
    }

    /// The connection has ended: what was not answered is asked again on the next.
    pub(super) fn take_back(&mut self) {
        while let Some((_, count)) = self.asked.pop_back() {
            self.waiting.push_front(count);
        }
    }

    /// Answers those whose time is over. What was asked still takes up room at the other end, so
    /// it stays until it is answered there.
    pub(super) fn expire(&mut self, now: Instant) {
        let is_over = |count: &Count| count.asker.since() + self.timeout <= now;
        for (_, count) in self.asked.iter_mut().take_while(|(_, count)| is_over(count)) {
            count.asker.answer(Err(LinkError::Unreachable));
        }
        let over = self.waiting.iter().take_while(|count| is_over(count)).count();
        for mut count in self.waiting.drain(..over) {
            count.asker.answer(Err(LinkError::Unreachable));
        }
    }

    /// When the next time is over.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        let mut asked = self.asked.iter().map(|(_, count)| count);
        let unanswered = asked.find(|count| !count.asker.is_answered());
        let next = unanswered.into_iter().chain(self.waiting.front());
        next.map(|count| count.asker.since() + self.timeout).min()
    }
}

#[cfg(test)]
mod tests;
