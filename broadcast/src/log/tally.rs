//! A count that every worker adds its part to: how many sessions an event was queued to, or how
//! many would have got it.

use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

/// The count, and how many parts are missing.
#[derive(Debug)]
pub struct Tally {
    matched: AtomicU32,
    missing: AtomicUsize,
    /// Who is told when the last part is there.
    waiting: Mutex<Vec<Arc<Notify>>>,
}

impl Tally {
    /// A count of so many parts.
    pub fn new(parts: usize, complete: Arc<Notify>) -> Arc<Self> {
        let (matched, missing) = (AtomicU32::new(0), AtomicUsize::new(parts));
        Arc::new(Self { matched, missing, waiting: Mutex::new(vec![complete]) })
    }

    /// Tells somebody else, too, who has not looked yet.
    pub fn tell(&self, complete: &Arc<Notify>) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if !waiting.iter().any(|it| Arc::ptr_eq(it, complete)) {
            waiting.push(Arc::clone(complete));
        }
    }

    /// Adds one part.
    pub fn add(&self, matched: u32) {
        self.matched.fetch_add(matched, Ordering::AcqRel);
        if self.missing.fetch_sub(1, Ordering::AcqRel) == 1 {
            let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            waiting.iter().for_each(|it| it.notify_one());
        }
    }

    /// The count, once all parts are there.
    pub fn total(&self) -> Option<u32> {
        let is_complete = self.missing.load(Ordering::Acquire) == 0;
        is_complete.then(|| self.matched.load(Ordering::Acquire))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_count_is_complete_with_its_last_part() {
        let complete = Arc::new(Notify::new());
        let tally = Tally::new(2, Arc::clone(&complete));
        tally.add(3);
        assert_eq!(tally.total(), None);
        tally.add(0);
        complete.notified().await;
        assert_eq!(tally.total(), Some(3));
    }
}
