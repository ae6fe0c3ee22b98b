//! Events on their way over one link: those that wait, those that are in flight, and those that
//! are taken and whose publishers wait to hear what became of them.
//!
//! The rules of the [`sender`](crate::link::sender), without socket or clock.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use tokio::time::Instant;

use crate::event::Event;
use crate::link::asker::{Asker, Reply};
use crate::link::frame::{self, Account, Terms};
use crate::link::{
    FRAME_BYTES_BESIDE_BODY, IN_FLIGHT_BYTES_MAX, IN_FLIGHT_EVENTS_MAX, LinkError, Receipt,
    WAITING_MAX,
};
use crate::memory::{Held, Memory};

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
    /// Taken; their publishers wait for an [`Account`]. By number, which is the order of times.
    unaccounted: BTreeMap<u64, Asker<Receipt>>,
    last_number: u64,
    frame_bytes_max: usize,
}

#[derive(Debug)]
struct Entry {
    event: Event,
    terms: Terms,
    #[expect(dead_code, reason = "on the account until it is dropped")]
    held: Held,
    bytes: usize,
    /// Answered before the event is decided, if its time is over.
    publisher: Asker<Receipt>,
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
            unaccounted: BTreeMap::new(),
            last_number: 0,
            frame_bytes_max: usize::MAX,
        }
    }

    /// Takes the other end's word on how large a frame may be.
    pub(super) fn set_frame_bytes_max(&mut self, frame_bytes_max: usize) {
        self.frame_bytes_max = frame_bytes_max;
    }

    /// Whether the other end takes no event of so many bytes.
    pub(super) fn is_too_large(&self, bytes: usize) -> bool {
        bytes + FRAME_BYTES_BESIDE_BODY / 2 > self.frame_bytes_max
    }

    /// Puts an event at the end.
    ///
    /// # Errors
    ///
    /// [`LinkError::Unreachable`] if there is no room: who waits already goes first.
    pub(super) fn push(
        &mut self,
        event: Event,
        terms: Terms,
        reply: Reply<Receipt>,
        now: Instant,
    ) -> Result<(), LinkError> {
        let is_full = self.waiting.len() + self.unaccounted.len() >= WAITING_MAX;
        if is_full || self.memory.is_short() {
            return Err(LinkError::Unreachable);
        }
        let bytes = event.size();
        let held = self.memory.hold(bytes);
        let publisher = Asker::new(reply, now);
        self.waiting.push_back(Entry { event, terms, held, bytes, publisher });
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
            if entry.publisher.is_gone() {
                continue;
            }
            if self.is_too_large(entry.bytes) {
                entry.publisher.answer(Err(LinkError::TooLarge));
                continue;
            }
            self.last_number += 1;
            frame::encode_event(self.last_number, entry.terms, &entry.event, out);
            self.in_flight_bytes += entry.bytes;
            self.in_flight.push_back((self.last_number, entry));
        }
    }

    /// Broadcast has all events up to this number; says when the first of them came. Publishers
    /// who wait for more than that go on waiting, without their events.
    pub(super) fn acknowledge(&mut self, highest: u64) -> Option<Instant> {
        let oldest = self.in_flight.front().map(|(_, entry)| entry.publisher.since());
        while self.in_flight.front().is_some_and(|(number, _)| *number <= highest) {
            let Some((number, mut entry)) = self.in_flight.pop_front() else { break };
            self.in_flight_bytes -= entry.bytes;
            if !entry.terms.wants_account {
                entry.publisher.answer(Ok(Receipt { account: None }));
            } else if !entry.publisher.is_gone() {
                self.unaccounted.insert(number, entry.publisher);
            }
        }
        oldest
    }

    /// Broadcast says what became of the event of this number. For one that it knew already, that
    /// may come before any receipt.
    pub(super) fn account(&mut self, number: u64, account: Account) {
        if let Some(mut publisher) = self.remove(number) {
            publisher.answer(Ok(Receipt { account: Some(account) }));
        }
    }

    /// Broadcast has no room for the event of this number.
    pub(super) fn refuse(&mut self, number: u64) {
        if let Some(mut publisher) = self.remove(number) {
            publisher.answer(Err(LinkError::Unreachable));
        }
    }

    /// Takes out the event of this number, which is decided, wherever it is.
    fn remove(&mut self, wanted: u64) -> Option<Asker<Receipt>> {
        let Ok(at) = self.in_flight.binary_search_by_key(&wanted, |(number, _)| *number) else {
            return self.unaccounted.remove(&wanted);
        };
        let (_, entry) = self.in_flight.remove(at)?;
        self.in_flight_bytes -= entry.bytes;
        Some(entry.publisher)
    }

    /// Broadcast took none of what is in flight: it goes again, in the same order.
    pub(super) fn take_back(&mut self) {
        self.in_flight_bytes = 0;
        while let Some((_, entry)) = self.in_flight.pop_back() {
            self.waiting.push_front(entry);
        }
    }

    /// The connection broke: nobody knows whether broadcast has what was in flight, and nobody
    /// will say what became of the rest.
    pub(super) fn lose(&mut self) {
        self.in_flight_bytes = 0;
        let in_flight = self.in_flight.drain(..).map(|(_, entry)| entry.publisher);
        let unaccounted = std::mem::take(&mut self.unaccounted).into_values();
        for mut publisher in in_flight.chain(unaccounted) {
            publisher.answer(Err(LinkError::Undecided));
        }
    }

    /// Answers publishers whose time is over. What is in flight stays there until it is decided,
    /// for it still takes up room at the other end.
    pub(super) fn expire(&mut self, now: Instant) {
        let is_over = |publisher: &Asker<Receipt>| publisher.since() + self.publish_timeout <= now;
        while let Some(mut first) = self.unaccounted.first_entry() {
            if !is_over(first.get()) {
                break;
            }
            first.get_mut().answer(Err(LinkError::Undecided));
            first.remove();
        }
        let in_flight = self.in_flight.iter_mut().map(|(_, entry)| &mut entry.publisher);
        for publisher in in_flight.take_while(|publisher| is_over(publisher)) {
            publisher.answer(Err(LinkError::Undecided));
        }
        let over = self.waiting.iter().take_while(|entry| is_over(&entry.publisher)).count();
        for mut entry in self.waiting.drain(..over) {
            entry.publisher.answer(Err(LinkError::Unreachable));
        }
    }

    /// When the next publisher's time is over. All have the same time-out, so each queue is in
    /// order of it.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        let unaccounted = self.unaccounted.values().next();
        let mut in_flight = self.in_flight.iter().map(|(_, entry)| &entry.publisher);
        let undecided = in_flight.find(|publisher| !publisher.is_answered());
        let waiting = self.waiting.front().map(|entry| &entry.publisher);
        let next = [unaccounted, undecided, waiting].into_iter().flatten();
        next.map(|publisher| publisher.since() + self.publish_timeout).min()
    }
}

#[cfg(test)]
mod tests;
