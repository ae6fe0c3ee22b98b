//! Which events were accepted lately, so that one that is sent again is not taken twice.
//!
//! WIRE §1.1: the same principal, `source` and `id`, within 2 minutes or 200,000 events. Kept as
//! digests, in memory; after a restart it is made again from the log.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher as _, BuildHasherDefault, Hasher, RandomState};
use std::sync::Arc;

use shared::event::Event;

use crate::log::tally::Tally;

/// How long an event is remembered, in milliseconds.
pub const AGE_MS_MAX: i64 = 120_000;
/// How many are remembered at most.
pub const EVENTS_MAX: usize = 200_000;

/// The events that were accepted lately.
#[derive(Debug)]
pub struct Retries {
    /// Two independent hashes make a digest that no two events share by chance.
    hashers: (RandomState, RandomState),
    known: HashMap<Digest, Known, BuildHasherDefault<AsIs>>,
    /// The oldest first.
    order: VecDeque<(Digest, i64)>,
    events_max: usize,
    evicted_early: u64,
}

/// What an event is known by.
pub type Digest = (u64, u64);

/// The hash of a digest, which is one already: its last number.
#[derive(Debug, Default)]
struct AsIs(u64);

impl Hasher for AsIs {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        // A digest is made of whole numbers, which come the other way.
        self.0 = bytes.iter().fold(self.0, |hash, byte| hash.rotate_left(8) ^ u64::from(*byte));
    }

    fn write_u64(&mut self, number: u64) {
        self.0 = number;
    }
}

/// What is remembered of an event.
#[derive(Debug, Clone)]
pub struct Known {
    /// Its place.
    pub offset: u64,
    /// Whom it was queued to, if its publisher asked.
    pub tally: Option<Arc<Tally>>,
}

impl Default for Retries {
    fn default() -> Self {
        Self::with_room_for(EVENTS_MAX)
    }
}

impl Retries {
    fn with_room_for(events_max: usize) -> Self {
        Self {
            hashers: (RandomState::new(), RandomState::new()),
            known: HashMap::default(),
            order: VecDeque::new(),
            events_max,
            evicted_early: 0,
        }
    }

    /// What an event is known by.
    pub fn digest(&self, event: &Event) -> Digest {
        let identity = (&*event.publisher, &*event.source, &*event.id);
        (self.hashers.0.hash_one(identity), self.hashers.1.hash_one(identity))
    }

    /// The event that this one repeats, if the time in which it may is not over.
    pub fn find(&mut self, digest: Digest, now_ms: i64) -> Option<&Known> {
        self.forget(now_ms, usize::MAX);
        self.known.get(&digest)
    }

    /// Forgets those whose time is over, and the oldest until there are fewer than so many.
    fn forget(&mut self, now_ms: i64, count: usize) {
        while let Some((digest, at_ms)) = self.order.front() {
            let is_over = now_ms - at_ms > AGE_MS_MAX;
            if !is_over && self.order.len() < count {
                break;
            }
            self.evicted_early += u64::from(!is_over);
            self.known.remove(digest);
            self.order.pop_front();
        }
    }

    /// Remembers an event that is accepted now; forgets those whose time is over. Says whether it
    /// is news: an identity that is used again, without the wish to be recognised, stays the one
    /// that came first.
    pub fn remember(&mut self, digest: Digest, known: Known, now_ms: i64) -> bool {
        self.forget(now_ms, self.events_max);
        let Entry::Vacant(place) = self.known.entry(digest) else { return false };
        place.insert(known);
        self.order.push_back((digest, now_ms));
        true
    }

    /// Forgets the newest event, which was not accepted after all.
    pub fn forget_newest(&mut self) {
        if let Some((digest, _)) = self.order.pop_back() {
            self.known.remove(&digest);
        }
    }

    /// Takes the number of events that had to be forgotten before their time.
    pub fn take_evicted_early(&mut self) -> u64 {
        std::mem::take(&mut self.evicted_early)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::page::tests::event;

    fn offset(retries: &mut Retries, event: &Event) -> Option<u64> {
        retries.find(retries.digest(event), 0).map(|known| known.offset)
    }

    fn remember(retries: &mut Retries, event: &Event, offset: u64, now_ms: i64) {
        retries.remember(retries.digest(event), Known { offset, tally: None }, now_ms);
    }

    #[test]
    fn an_event_is_known_by_principal_source_and_id() {
        let mut retries = Retries::default();
        let first = event("a", "1");
        remember(&mut retries, &first, 7, 0);
        assert_eq!(offset(&mut retries, &Event { subject: None, ..event("other", "1") }), Some(7));
        for other in [
            Event { publisher: "other".into(), ..first.clone() },
            Event { source: "/other".into(), ..first.clone() },
            Event { id: "2".into(), ..first.clone() },
        ] {
            assert_eq!(offset(&mut retries, &other), None);
        }
        retries.forget_newest();
        assert_eq!((offset(&mut retries, &first), retries.order.len()), (None, 0));
    }

    #[test]
    fn the_first_of_two_with_one_identity_is_the_one_that_is_known() {
        let mut retries = Retries::default();
        remember(&mut retries, &event("a", "1"), 1, 0);
        remember(&mut retries, &event("a", "1"), 2, 0);
        assert_eq!((offset(&mut retries, &event("a", "1")), retries.order.len()), (Some(1), 1));
    }

    #[test]
    fn they_are_forgotten_after_2_minutes_or_when_there_are_too_many() {
        let mut retries = Retries::with_room_for(2);
        remember(&mut retries, &event("a", "1"), 1, 0);
        remember(&mut retries, &event("a", "2"), 2, AGE_MS_MAX);
        assert_eq!(retries.order.len(), 2);
        remember(&mut retries, &event("a", "3"), 3, AGE_MS_MAX + 1);
        assert_eq!((retries.order.len(), retries.take_evicted_early()), (2, 0));
        remember(&mut retries, &event("a", "4"), 4, AGE_MS_MAX + 1);
        assert_eq!((retries.order.len(), retries.take_evicted_early()), (2, 1));
        assert_eq!(offset(&mut retries, &event("a", "2")), None);
        assert_eq!(offset(&mut retries, &event("a", "4")), Some(4));
    }

    /// On a quiet gateway nothing else makes it forget.
    #[test]
    fn what_comes_again_after_2_minutes_is_another_event() {
        let mut retries = Retries::default();
        remember(&mut retries, &event("a", "1"), 1, 1000);
        for (now_ms, expected) in [(1000 + AGE_MS_MAX, Some(1)), (1001 + AGE_MS_MAX, None)] {
            let found =
                retries.find(retries.digest(&event("a", "1")), now_ms).map(|known| known.offset);
            assert_eq!(found, expected, "{now_ms}");
        }
        assert_eq!(retries.take_evicted_early(), 0);
    }
}
