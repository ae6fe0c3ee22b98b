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
    /// Told when the last part is there: one for each link that has the event or a retry of it.
    complete: Mutex<Vec<Arc<Notify>>>,
}

impl Tally {
    /// A count of so many parts.
    pub fn new(parts: usize, complete: Arc<Notify>) -> Arc<Self> {
        let (matched, missing) = (AtomicU32::new(0), AtomicUsize::new(parts));
        Arc::new(Self { matched, missing, complete: Mutex::new(vec![complete]) })
    }

    /// Adds one part.
    pub fn add(&self, matched: u32) {
        self.matched.fetch_add(matched, Ordering::AcqRel);
        if self.missing.fetch_sub(1, Ordering::AcqRel) == 1 {
            let complete = self.complete.lock().unwrap_or_else(PoisonError::into_inner);
            complete.iter().for_each(|it| it.notify_one());
        }
    }

    /// Tells somebody else, too. Whoever asks looks for the total after this.
    pub fn tell_too(&self, other: &Arc<Notify>) {
        let mut complete = self.complete.lock().unwrap_or_else(PoisonError::into_inner);
        if self.total().is_none() && !complete.iter().any(|it| Arc::ptr_eq(it, other)) {
            complete.push(Arc::clone(other));
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
