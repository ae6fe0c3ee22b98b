//! The log's own clock: it goes forward while the machine runs, and never jumps.
//!
//! Ages are measured by it. The wall clock may be set by a year, and nothing must be freed for
//! that; the time that a machine is off does not count, for only the wall clock could tell it.

use rustix::time::{ClockId, clock_gettime};

/// A clock that goes on from boot to boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Clock {
    base_ms: i64,
}

impl Clock {
    /// The clock as it was kept in this boot of the machine.
    pub fn with_base(base_ms: i64) -> Self {
        Self { base_ms }
    }

    /// A clock that goes on where another boot left it.
    pub fn continuing(last_ms: i64) -> Self {
        Self { base_ms: last_ms - since_boot_ms() }
    }

    /// What is to be kept, to have the same clock again in this boot.
    pub fn base_ms(self) -> i64 {
        self.base_ms
    }

    /// The time now, in milliseconds.
    pub fn now_ms(self) -> i64 {
        self.base_ms + since_boot_ms()
    }
}

fn since_boot_ms() -> i64 {
    let now = clock_gettime(ClockId::Boottime);
    now.tv_sec * 1000 + now.tv_nsec / 1_000_000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_boot_goes_on_where_the_last_one_ended() {
        let clock = Clock::continuing(5000);
        assert!((5000..6000).contains(&clock.now_ms()));
        assert_eq!(Clock::with_base(clock.base_ms()), clock);
    }
}
