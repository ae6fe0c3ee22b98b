//! Patience with what is still on its way at the end: as long as something comes, it lasts.

use std::time::{Duration, Instant};

/// Patience that every progress renews, up to a bound.
#[derive(Debug)]
pub(crate) struct Patience {
    deadline: Instant,
    progress: u64,
    progressed: Instant,
}

impl Patience {
    /// It begins now.
    pub(crate) fn new(now: Instant) -> Self {
        Self { deadline: now + AT_MOST, progress: 0, progressed: now }
    }

    /// Whether to wait on; `progress` counts all that has come so far, whatever it is.
    pub(crate) fn lasts(&mut self, progress: u64, now: Instant) -> bool {
        if progress != self.progress {
            self.progress = progress;
            self.progressed = now;
        }
        now < self.deadline && now.saturating_duration_since(self.progressed) < WITHOUT_PROGRESS
    }
}

/// Nothing that is on its way takes so long by itself.
const WITHOUT_PROGRESS: Duration = Duration::from_secs(5);
const AT_MOST: Duration = Duration::from_secs(120);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patience_lasts_while_something_comes_and_not_for_ever() {
        let begun = Instant::now();
        let at = |seconds| begun + Duration::from_secs(seconds);
        let mut patience = Patience::new(begun);
        assert!(patience.lasts(0, at(4)));
        assert!(!patience.lasts(0, at(5)));
        let mut patience = Patience::new(begun);
        assert!((1..30).all(|step| patience.lasts(step, at(step * 4))));
        assert!(!patience.lasts(30, at(120)));
    }
}
