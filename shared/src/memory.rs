//! What queues and bodies hold in all, in bytes.
//!
//! Everything that waits for somebody else is accounted here, a shared buffer once. Publishers
//! are refused before sessions are closed: what was acknowledged goes before what comes.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// HARDENING: above this share of the limit publishers are refused.
const PUBLISH_PERCENT: usize = 60;

/// The account of one process.
#[derive(Debug)]
pub struct Memory {
    held: AtomicUsize,
    limit: usize,
}

impl Memory {
    /// Opens an account with a limit in bytes.
    pub fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { held: AtomicUsize::new(0), limit })
    }

    /// Enters `bytes` until the returned value is dropped.
    pub fn hold(self: &Arc<Self>, bytes: usize) -> Held {
        self.held.fetch_add(bytes, Ordering::Relaxed);
        Held { memory: Arc::clone(self), bytes }
    }

    /// What is held now, in bytes.
    pub fn held(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }

    /// Whether new events must be refused until clients have taken what waits for them.
    pub fn is_short(&self) -> bool {
        self.is_short_beside(0)
    }

    fn is_short_beside(&self, bytes: usize) -> bool {
        self.held().saturating_sub(bytes) > self.limit / 100 * PUBLISH_PERCENT
    }

    /// Whether something must be given back now.
    pub fn is_exceeded(&self) -> bool {
        self.held() > self.limit
    }
}

/// Some bytes on the account; dropping it takes them off.
#[derive(Debug)]
pub struct Held {
    memory: Arc<Memory>,
    bytes: usize,
}

impl Held {
    /// How many bytes they are.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether memory would be short without them: what is alone always has room.
    pub fn is_in_need(&self) -> bool {
        self.memory.is_short_beside(self.bytes)
    }

    /// Changes how many bytes they are.
    pub fn resize(&mut self, bytes: usize) {
        self.memory.held.fetch_add(bytes, Ordering::Relaxed);
        self.memory.held.fetch_sub(self.bytes, Ordering::Relaxed);
        self.bytes = bytes;
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.memory.held.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_dropped_is_given_back() {
        let memory = Memory::new(1000);
        let mut first = memory.hold(600);
        assert!(!memory.is_short());
        assert_eq!(first.bytes(), 600);
        let second = memory.hold(1);
        assert!(memory.is_short() && !memory.is_exceeded());
        assert!(!first.is_in_need() && !second.is_in_need());
        first.resize(999);
        assert!(!memory.is_exceeded(), "the limit itself is allowed");
        first.resize(1000);
        assert!(memory.is_exceeded());
        assert!(second.is_in_need() && !first.is_in_need());
        drop((first, second));
        assert_eq!(memory.held(), 0);
    }
}
