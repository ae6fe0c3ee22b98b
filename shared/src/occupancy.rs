//! How full a door is: the count of its connections, and the place of each.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use slab::Slab;

use crate::guard::Leash;
use crate::guard::follower::Violation;

/// Beyond the total, so many connections at a time are told so; more are closed without a word.
const REFUSED_MAX: usize = 64;

/// The number of connections, and whether the door is closing. Shared by all workers.
#[derive(Debug)]
pub struct Occupancy {
    connections: AtomicUsize,
    connections_max: usize,
    is_draining: AtomicBool,
    violations: [AtomicU64; Violation::ALL.len()],
}

impl Occupancy {
    /// An empty door.
    pub fn new(connections_max: usize) -> Arc<Self> {
        Arc::new(Self {
            connections: AtomicUsize::new(0),
            connections_max,
            is_draining: AtomicBool::new(false),
            violations: Default::default(),
        })
    }

    /// Connections of all kinds, now.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    /// Whether answers must be the last ones on their connections.
    pub fn is_draining(&self) -> bool {
        self.is_draining.load(Ordering::Relaxed)
    }

    /// How often clients were let go for this.
    pub fn violations(&self, violation: Violation) -> u64 {
        self.violation(violation).map_or(0, |count| count.load(Ordering::Relaxed))
    }

    /// From now on answers are the last ones.
    pub(crate) fn drain(&self) {
        self.is_draining.store(true, Ordering::Relaxed);
    }

    /// Counts a connection. Says whether it may only be told that there is no room; `None`, and
    /// not counted, if not even that.
    pub fn enter(&self) -> Option<bool> {
        let before = self.connections.fetch_add(1, Ordering::Relaxed);
        if before >= self.connections_max + REFUSED_MAX {
            self.leave();
            return None;
        }
        Some(before >= self.connections_max)
    }

    /// Takes a connection off the count.
    pub(crate) fn leave(&self) {
        self.connections.fetch_sub(1, Ordering::Relaxed);
    }

    fn violation(&self, violation: Violation) -> Option<&AtomicU64> {
        let at = Violation::ALL.iter().position(|other| *other == violation)?;
        self.violations.get(at)
    }
}

/// The connections of one worker that the server can still end.
pub type Leashes = Rc<RefCell<Slab<Rc<Leash>>>>;

/// A connection's place among all; given back when it is dropped.
#[derive(Debug)]
pub struct Admission {
    occupancy: Arc<Occupancy>,
    leash: Option<(Leashes, usize)>,
    /// There was no room: the connection may only be told so.
    pub is_refused: bool,
}

impl Admission {
    /// The place of a connection that was counted, and the leash on it.
    pub fn new(
        occupancy: Arc<Occupancy>,
        leashes: &Leashes,
        is_refused: bool,
    ) -> (Self, Rc<Leash>) {
        let leash = Rc::<Leash>::default();
        let key = leashes.borrow_mut().insert(Rc::clone(&leash));
        (Self { occupancy, leash: Some((Rc::clone(leashes), key)), is_refused }, leash)
    }

    /// Counts a client that is let go.
    pub fn note(&self, violation: Violation) {
        if let Some(count) = self.occupancy.violation(violation) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Makes the place one that the server no longer ends by itself.
    pub fn unleash(&mut self) {
        if let Some((leashes, key)) = self.leash.take() {
            leashes.borrow_mut().remove(key);
        }
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        self.unleash();
        self.occupancy.leave();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_let_go_is_counted_by_reason_and_a_drain_shows() {
        let occupancy = Occupancy::new(2);
        assert_eq!(occupancy.enter(), Some(false));
        let (place, _leash) = Admission::new(Arc::clone(&occupancy), &Leashes::default(), false);
        for (count, violation) in (1..).zip(Violation::ALL) {
            (0..count).for_each(|_| place.note(violation));
        }
        assert_eq!(Violation::ALL.map(|violation| occupancy.violations(violation)), [1, 2, 3]);
        assert!(!occupancy.is_draining());
        occupancy.drain();
        assert!(occupancy.is_draining());
    }

    #[test]
    fn beyond_the_total_64_are_told_so_and_then_none() {
        let occupancy = Occupancy::new(2);
        let leashes = Leashes::default();
        let mut places = Vec::new();
        for expected in [Some(false); 2].into_iter().chain([Some(true); 64]) {
            assert_eq!(occupancy.enter(), expected);
            places.push(Admission::new(Arc::clone(&occupancy), &leashes, expected.unwrap()).0);
        }
        assert_eq!(occupancy.enter(), None);
        assert_eq!((occupancy.connections(), leashes.borrow().len()), (66, 66));
        places[0].unleash();
        assert_eq!((occupancy.connections(), leashes.borrow().len()), (66, 65));
        drop(places);
        assert_eq!((occupancy.connections(), leashes.borrow().len()), (0, 0));
        assert_eq!(occupancy.enter(), Some(false));
    }
}
