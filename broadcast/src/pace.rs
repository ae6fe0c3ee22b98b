//! How often a client may do something.

use std::time::{Duration, Instant};

/// A rate with a burst (the generic cell rate algorithm): a client may save up to `burst` turns.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// When the next turn would be due at the plain rate.
    due: Instant,
    interval: Duration,
    burst: u32,
}

impl Pace {
    /// Allows `per_second` turns a second, and `burst` at once.
    pub fn new(per_second: u32, burst: u32, now: Instant) -> Self {
        Self { due: now, interval: Duration::from_secs(1) / per_second.max(1), burst }
    }

    /// Takes a turn; says whether it was allowed.
    pub fn take(&mut self, now: Instant) -> bool {
        let due = self.due.max(now);
        if due - now > self.interval * self.burst.saturating_sub(1) {
            return false;
        }
        self.due = due + self.interval;
        true
    }

    /// Changes the rate.
    pub fn set(&mut self, per_second: u32, burst: u32) {
        self.interval = Duration::from_secs(1) / per_second.max(1);
        self.burst = burst;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_allowed_and_then_the_rate() {
        let now = Instant::now();
        let mut pace = Pace::new(10, 5, now);
        let taken = (0..20).filter(|_| pace.take(now)).count();
        assert_eq!(taken, 5);
        assert!(!pace.take(now + Duration::from_millis(99)));
        assert!(pace.take(now + Duration::from_millis(100)));
        assert!(!pace.take(now + Duration::from_millis(100)));
        let later = now + Duration::from_secs(60);
        assert_eq!((0..20).filter(|_| pace.take(later)).count(), 5, "no more is saved up");
    }
}
