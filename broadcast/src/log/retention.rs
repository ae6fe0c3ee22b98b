//! How much is kept: events, bytes, age. Rules only; the [`store`](crate::log::store) carries them
//! out.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::log::page::Page;
use crate::log::rows::Oldest;

/// The bounds, and what there is.
#[derive(Debug, Clone)]
pub struct Retention {
    events_max: u64,
    bytes_max: u64,
    age_ms_max: u64,
    events: u64,
    bytes: u64,
    oldest: Option<Oldest>,
    reserve: Reserve,
    /// A bound was passed by so much that it was worth it: what is beyond is being freed.
    is_freeing: bool,
}

/// What is kept beyond the bounds for those who have not had it.
#[derive(Debug, Clone, Default)]
pub struct Reserve {
    /// What is behind this place is wanted.
    pub place: Arc<WantedFrom>,
    /// The most events.
    pub events_max: u64,
    /// The most bytes.
    pub bytes_max: u64,
}

/// The place of whoever is furthest behind.
#[derive(Debug)]
pub struct WantedFrom(AtomicU64);

impl Default for WantedFrom {
    /// Nobody is behind.
    fn default() -> Self {
        Self(AtomicU64::new(u64::MAX))
    }
}

impl WantedFrom {
    /// Says which place that is; `None` if nobody is behind.
    pub fn set(&self, place: Option<u64>) {
        self.0.store(place.unwrap_or(u64::MAX), Ordering::SeqCst);
    }

    /// Somebody wants what is behind this place, too.
    pub fn include(&self, place: u64) {
        self.0.fetch_min(place, Ordering::SeqCst);
    }
}

/// What is beyond a bound is freed when it is this part of it: in steps, for each touches the
/// database's other end.
const STEP: u64 = 32;

impl Retention {
    /// Bounds, with nothing kept yet.
    pub fn new(events_max: u64, bytes_max: u64, age_max: Duration, reserve: Reserve) -> Self {
        let age_ms_max = u64::try_from(age_max.as_millis()).unwrap_or(u64::MAX);
        Self {
            events_max,
            bytes_max,
            age_ms_max,
            events: 0,
            bytes: 0,
            oldest: None,
            reserve,
            is_freeing: false,
        }
    }

    /// Takes note of what was found.
    pub fn begin(&mut self, events: u64, bytes: u64) {
        (self.events, self.bytes) = (events, bytes);
    }

    /// The oldest page that is kept.
    pub fn oldest(&self) -> Option<Oldest> {
        self.oldest
    }

    /// Takes note of the oldest page.
    pub fn set_oldest(&mut self, oldest: Option<Oldest>) {
        self.oldest = oldest;
    }

    /// The kept events and their bytes.
    pub fn totals(&self) -> (u64, u64) {
        (self.events, self.bytes)
    }

    /// Takes note of new pages.
    pub fn add(&mut self, pages: &[Page]) {
        for page in pages {
            let page = Oldest::of(page);
            self.events += page.last + 1 - page.first;
            self.bytes += page.bytes;
            self.oldest.get_or_insert(page);
        }
    }

    /// Takes note that the oldest page is gone; the next is not known yet.
    pub fn remove(&mut self, page: Oldest) {
        self.events = self.events.saturating_sub(page.last + 1 - page.first);
        self.bytes = self.bytes.saturating_sub(page.bytes);
        self.oldest = None;
    }

    /// Whether the oldest page is to be freed.
    pub fn is_due(&mut self, now_ms: i64) -> bool {
        let age_ms = self.oldest.map_or(0, |it| u64::try_from(now_ms - it.age_ms).unwrap_or(0));
        let wanted_from = self.reserve.place.0.load(Ordering::SeqCst);
        let (events_max, bytes_max, age_ms_max) =
            match self.oldest.is_some_and(|it| it.last > wanted_from) {
                true => (
                    self.events_max.saturating_add(self.reserve.events_max),
                    self.bytes_max.saturating_add(self.reserve.bytes_max),
                    u64::MAX,
                ),
                false => (self.events_max, self.bytes_max, self.age_ms_max),
            };
        let slack = |max: u64| if self.is_freeing { 0 } else { max / STEP };
        let is_beyond = |count: u64, max: u64| count > max.saturating_add(slack(max));
        self.is_freeing = is_beyond(self.events, events_max)
            || is_beyond(self.bytes, bytes_max)
            || is_beyond(age_ms, age_ms_max);
        self.is_freeing
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::page::tests::{ACCEPTED, event};

    fn bounds(events_max: u64, bytes_max: u64, age_max: Duration) -> Retention {
        Retention::new(events_max, bytes_max, age_max, Reserve::default())
    }

    #[test]
    fn each_bound_is_passed_alone() {
        let page = Page::split(1, &[event("a", "1"), event("a", "2")], ACCEPTED).remove(0);
        let bytes = u64::try_from(page.bytes.len()).unwrap();
        let with = |events, bytes, age_ms| {
            let mut retention = bounds(events, bytes, Duration::from_millis(age_ms));
            retention.add(std::slice::from_ref(&page));
            retention
        };
        assert!(!with(2, bytes, 500).is_due(1500));
        assert!(with(1, bytes, 500).is_due(1500));
        assert!(with(2, bytes / 2, 500).is_due(1500));
        assert!(with(2, bytes, 400).is_due(1500));
        let mut retention = with(1, 1, 0);
        retention.remove(retention.oldest().unwrap());
        assert_eq!((retention.totals(), retention.oldest()), ((0, 0), None));
        assert!(!retention.is_due(i64::MAX));
    }

    #[test]
    fn it_begins_a_step_beyond_the_bound_and_ends_at_it() {
        let mut retention = bounds(64, 1 << 30, Duration::from_secs(60));
        for (events, due) in [(64, false), (66, false), (67, true), (65, true), (64, false)] {
            retention.begin(events, 0);
            assert_eq!(retention.is_due(0), due, "{events}");
        }
    }

    #[test]
    fn what_is_wanted_is_kept_up_to_the_reserve() {
        let reserve = Reserve { events_max: 6, bytes_max: 1000, ..Reserve::default() };
        let place = Arc::clone(&reserve.place);
        let age_max = Duration::from_millis(500);
        let mut retention = Retention::new(4, 1000, age_max, reserve);
        retention.add(&Page::split(1, &[event("a", "1"), event("a", "2")], ACCEPTED));
        for (wanted_from, events, bytes, now_ms, due) in [
            (None, 4, 1, 1400, false),
            (None, 5, 1, 1400, true),
            (None, 4, 1, 1501, true),
            (Some(1), 10, 2000, 999_999, false),
            (Some(1), 11, 1, 1400, true),
            (Some(1), 4, 2001, 1400, true),
            (Some(2), 5, 1, 1400, true),
        ] {
            place.set(wanted_from);
            place.include(9);
            // Slack is for the way there only.
            retention.is_freeing = true;
            retention.begin(events, bytes);
            assert_eq!(retention.is_due(now_ms), due, "{wanted_from:?} {events} {bytes} {now_ms}");
        }
    }
}
