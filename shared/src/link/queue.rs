//! Events on their way over one link: those that wait, and those that are in flight.
//!
//! The rules of the [`sender`](crate::link::sender), without socket or clock.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::event::Event;
use crate::link::{
    FRAME_BYTES_BESIDE_BODY, IN_FLIGHT_BYTES_MAX, IN_FLIGHT_EVENTS_MAX, LinkError, Receipt, frame,
};
use crate::memory::{Held, Memory};

/// Events that wait for the link on one worker; beyond it a publisher is refused at once.
const WAITING_EVENTS_MAX: usize = 10_000;

/// Where the word on an event goes.
pub(super) type Publisher = oneshot::Sender<Result<Receipt, LinkError>>;

/// The events of one link.
#[derive(Debug)]
pub(super) struct Queue {
    publish_timeout: Duration,
    memory: Arc<Memory>,
    /// Not sent yet, in order.
    waiting: VecDeque<Entry>,
    /// Sent and not decided, in order of their numbers.
    in_flight: VecDeque<(u64, Entry)>,
    in_flight_bytes: usize,
    last_number: u64,
    frame_bytes_max: usize,
}

#[derive(Debug)]
struct Entry {
    event: Event,
    #[expect(dead_code, reason = "on the account until it is dropped")]
    held: Held,
    bytes: usize,
    accepted: Instant,
    /// Taken when the publisher was answered before the event was decided.
    publisher: Option<Publisher>,
}

impl Entry {
    fn answer(&mut self, answer: Result<Receipt, LinkError>) {
        if let Some(publisher) = self.publisher.take() {
            // A publisher that has left needs no answer.
            let _ = publisher.send(answer);
        }
    }

    fn is_given_up(&self) -> bool {
        self.publisher.as_ref().is_none_or(oneshot::Sender::is_closed)
    }
}

impl Queue {
    /// An empty queue, whose events wait for at most `publish_timeout`.
    pub(super) fn new(publish_timeout: Duration, memory: Arc<Memory>) -> Self {
        Self {
            publish_timeout,
            memory,
            waiting: VecDeque::new(),
            in_flight: VecDeque::new(),
            in_flight_bytes: 0,
            last_number: 0,
            frame_bytes_max: usize::MAX,
        }
    }

    /// Takes the other end's word on how large a frame may be.
    pub(super) fn set_frame_bytes_max(&mut self, frame_bytes_max: usize) {
        self.frame_bytes_max = frame_bytes_max;
    }

    /// Puts an event at the end.
    ///
    /// # Errors
    ///
    /// [`LinkError::Unreachable`] if there is no room: who waits already goes first.
    pub(super) fn push(
        &mut self,
        event: Event,
        publisher: Publisher,
        now: Instant,
    ) -> Result<(), LinkError> {
        if self.waiting.len() >= WAITING_EVENTS_MAX || self.memory.is_short() {
            return Err(LinkError::Unreachable);
        }
        let bytes = event.size();
        let held = self.memory.hold(bytes);
        let publisher = Some(publisher);
        self.waiting.push_back(Entry { event, held, bytes, accepted: now, publisher });
        Ok(())
    }

    /// Moves what there is room for into flight, and appends its frames.
    pub(super) fn send(&mut self, out: &mut BytesMut) {
        while let Some(entry) = self.waiting.front() {
            let has_room = self.in_flight.len() < IN_FLIGHT_EVENTS_MAX
                && self.in_flight_bytes + entry.bytes <= IN_FLIGHT_BYTES_MAX;
            if !has_room && !self.in_flight.is_empty() {
                return;
            }
            let Some(mut entry) = self.waiting.pop_front() else { return };
            if entry.is_given_up() {
                continue;
            }
            if entry.bytes + FRAME_BYTES_BESIDE_BODY / 2 > self.frame_bytes_max {
                entry.answer(Err(LinkError::TooLarge));
                continue;
            }
            self.last_number += 1;
            frame::encode_event(self.last_number, frame::Terms::default(), &entry.event, out);
            self.in_flight_bytes += entry.bytes;
            self.in_flight.push_back((self.last_number, entry));
        }
    }

    /// Answers all publishers up to this number; says when the first of them came.
    pub(super) fn acknowledge(&mut self, highest: u64) -> Option<Instant> {
        let oldest = self.in_flight.front().map(|(_, entry)| entry.accepted);
        while self.in_flight.front().is_some_and(|(number, _)| *number <= highest) {
            let Some((_, mut entry)) = self.in_flight.pop_front() else { break };
            self.in_flight_bytes -= entry.bytes;
            entry.answer(Ok(Receipt));
        }
        oldest
    }

    /// Broadcast has no room for the event of this number.
    pub(super) fn refuse(&mut self, refused: u64) {
        let Ok(at) = self.in_flight.binary_search_by_key(&refused, |(number, _)| *number) else {
            return;
        };
        if let Some((_, mut entry)) = self.in_flight.remove(at) {
            self.in_flight_bytes -= entry.bytes;
            entry.answer(Err(LinkError::Unreachable));
        }
    }

    /// Broadcast took none of what is in flight: it goes again, in the same order.
    pub(super) fn take_back(&mut self) {
        self.in_flight_bytes = 0;
        while let Some((_, entry)) = self.in_flight.pop_back() {
            self.waiting.push_front(entry);
        }
    }

    /// The connection broke: nobody knows whether broadcast has what was in flight.
    pub(super) fn lose(&mut self) {
        self.in_flight_bytes = 0;
        for (_, mut entry) in self.in_flight.drain(..) {
            entry.answer(Err(LinkError::Undecided));
        }
    }

    /// Answers publishers whose time is over. What is in flight stays there until it is decided,
    /// for it still takes up room at the other end.
    pub(super) fn expire(&mut self, now: Instant) {
        let is_over = |entry: &Entry| entry.accepted + self.publish_timeout <= now;
        for (_, entry) in self.in_flight.iter_mut().take_while(|(_, entry)| is_over(entry)) {
            entry.answer(Err(LinkError::Undecided));
        }
        let over = self.waiting.iter().take_while(|entry| is_over(entry)).count();
        for mut entry in self.waiting.drain(..over) {
            entry.answer(Err(LinkError::Unreachable));
        }
    }

    /// When the next publisher's time is over. All have the same time-out, so both queues are in
    /// order of it.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        let mut in_flight = self.in_flight.iter().map(|(_, entry)| entry);
        let undecided = in_flight.find(|entry| entry.publisher.is_some());
        let next = undecided.into_iter().chain(self.waiting.front());
        next.map(|entry| entry.accepted + self.publish_timeout).min()
    }
}

#[cfg(test)]
mod tests;
