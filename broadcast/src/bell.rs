//! What wakes the task of one client: rung by its worker, on the same thread.

use std::cell::RefCell;
use std::task::Waker;

/// The place of a task's waker.
#[derive(Debug, Default)]
pub struct Bell {
    waker: RefCell<Option<Waker>>,
}

impl Bell {
    /// Where the task is to be woken.
    pub fn remember(&self, waker: &Waker) {
        let mut kept = self.waker.borrow_mut();
        if !kept.as_ref().is_some_and(|kept| kept.will_wake(waker)) {
            *kept = Some(waker.clone());
        }
    }

    /// Wakes the task, if it has ever waited.
    pub fn ring(&self) {
        if let Some(waker) = &*self.waker.borrow() {
            waker.wake_by_ref();
        }
    }
}
