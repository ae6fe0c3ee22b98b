//! One queue: a place in the log, what of the rest of it is wanted, and the rules of that place.
//! No clock, no await, no disk.

use std::sync::Arc;
use std::time::Duration;

use shared::credentials::Digest;
use shared::event::Event;
use shared::pattern::Pattern;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::filter::{Filter, Narrow};

/// The bounds of queues.
#[derive(Debug, Clone)]
pub struct Bounds {
    /// The most queues.
    pub queues_max: usize,
    /// The most events that wait in one.
    pub events_max: u64,
    /// The most bytes of them.
    pub bytes_max: u64,
    /// How long a queue lives without a consumer.
    pub expires: Duration,
}

impl Default for Bounds {
    /// What the settings say where nothing is given.
    fn default() -> Self {
        Self {
            queues_max: 10_000,
            events_max: 1_000_000,
            bytes_max: 1 << 30,
            expires: Duration::from_secs(1800),
        }
    }
}

/// One queue.
#[derive(Debug)]
pub struct Queue {
    /// Its number: one that is made again has another.
    pub number: u64,
    /// Its name.
    pub name: Arc<str>,
    /// What it wants.
    pub patterns: Arc<[Pattern]>,
    /// The same.
    pub filter: Arc<Filter>,
    /// Who takes what is in it.
    pub consumer: Option<Seat>,
    /// Since when nobody does.
    pub idle_since: Instant,
    /// What is written down.
    pub saved: Option<Record>,
    /// Up to here everything wanted is acknowledged, or was dropped.
    place: u64,
    /// The last event that was counted: each is once, whatever patterns match it.
    counted: u64,
    /// What follows the place up to here is not counted yet: after a start, or a step back.
    uncounted: Option<u64>,
    events: u64,
    bytes: u64,
    dropped: u64,
    /// The consumer is still to be told that something was dropped.
    has_gap: bool,
    given: Given,
    /// The last event that was acknowledged.
    acknowledged: u64,
}

/// The place of a consumer.
#[derive(Debug)]
pub struct Seat {
    /// Told when the consumer is to look whether it may stay.
    pub look: Arc<Notify>,
    /// The ticket that it came by, if it did.
    pub ticket: Option<Digest>,
}

/// What was given to a consumer before, and is not acknowledged, or is to be given again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Given {
    /// What is wanted up to here was.
    up_to: u64,
    /// The next one behind that may have been, if it is not behind this: a process ended meanwhile,
    /// and what came after its end nobody was given.
    or_next_within: u64,
}

/// What is written down of a queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Its number.
    pub number: u64,
    /// Its name.
    pub name: Arc<str>,
    /// What it wants.
    pub patterns: Arc<[Pattern]>,
    /// Its place.
    pub place: u64,
    /// Events that were dropped.
    pub dropped: u64,
    /// Whether the consumer is to be told.
    pub has_gap: bool,
    /// What is wanted up to here was given to a consumer.
    pub given: u64,
    /// Whether the next one may have been, too.
    pub is_open: bool,
    /// The last event that was acknowledged.
    pub acknowledged: u64,
}

/// What becomes of an event that a consumer has found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offer {
    /// The consumer gets it.
    Give {
        /// It was given before, and not acknowledged.
        is_redelivered: bool,
    },
    /// It is dropped: there is too much.
    Drop,
    /// It is not in the queue any more.
    Skip,
}

/// What stands between a consumer and its next event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Before {
    /// Nothing.
    Nothing,
    /// To be told that something was dropped.
    Gap,
    /// To count what waits up to an offset.
    Count(u64),
}

/// A queue as an operator sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Its name.
    pub name: Arc<str>,
    /// What it wants.
    pub patterns: Arc<[Pattern]>,
    /// Its place.
    pub place: u64,
    /// Events that wait.
    pub events: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Events that were dropped.
    pub dropped: u64,
    /// Since when there has been no consumer; none if there is one.
    pub idle_since: Option<Instant>,
}

impl Queue {
    /// A queue in which nothing waits, behind a place.
    pub fn new(
        number: u64,
        name: Arc<str>,
        patterns: Arc<[Pattern]>,
        place: u64,
        now: Instant,
    ) -> Self {
        Self {
            number,
            name,
            filter: Arc::new(Filter::new(&*patterns, Narrow::default())),
            patterns,
            consumer: None,
            idle_since: now,
            saved: None,
            place,
            counted: place,
            uncounted: None,
            events: 0,
            bytes: 0,
            dropped: 0,
            has_gap: false,
            given: Given::default(),
            acknowledged: 0,
        }
    }

    /// A queue that was written down, in front of a log that ends there.
    pub fn restore(record: Record, end: u64, now: Instant) -> Self {
        let (name, patterns) = (Arc::clone(&record.name), Arc::clone(&record.patterns));
        let or_next_within = if record.is_open { end } else { 0 };
        Self {
            uncounted: (record.place < end).then_some(end),
            dropped: record.dropped,
            has_gap: record.has_gap,
            given: Given { up_to: record.given, or_next_within },
            acknowledged: record.acknowledged,
            ..Self::new(record.number, name, patterns, record.place, now)
        }
    }

    /// Its place.
    pub fn place(&self) -> u64 {
        self.place
    }

    /// Whether it is to be counted, or to lose its oldest events, and has no consumer that does so.
    pub fn is_neglected(&self, bounds: &Bounds) -> bool {
        self.consumer.is_none() && (self.uncounted.is_some() || self.is_over(bounds))
    }

    /// Whether its time is over.
    pub fn has_expired(&self, bounds: &Bounds, now: Instant) -> bool {
        let idle = now.saturating_duration_since(self.idle_since);
        self.consumer.is_none() && idle >= bounds.expires
    }

    fn is_over(&self, bounds: &Bounds) -> bool {
        // Any one event may wait.
        self.events > bounds.events_max || (self.bytes > bounds.bytes_max && self.events > 1)
    }

    /// Counts an event that is wanted. What was had already does not wait.
    pub fn count(&mut self, offset: u64, event: &Event) {
        if offset > self.counted.max(self.place) {
            self.counted = offset;
            self.events += 1;
            self.bytes += bytes(event);
        }
    }

    /// What stands between a consumer and its next event.
    pub fn before_next(&self) -> Before {
        match self.uncounted {
            Some(up_to) => Before::Count(up_to),
            None if self.has_gap => Before::Gap,
            None => Before::Nothing,
        }
    }

    /// The consumer was told of the gap.
    pub fn told(&mut self) {
        self.has_gap = false;
    }

    /// Decides on the oldest event that waits, where every event is counted up to `end`.
    pub fn offer(&mut self, offset: u64, event: &Event, bounds: &Bounds, end: u64) -> Offer {
        if offset <= self.place {
            return Offer::Skip;
        }
        if self.is_over(bounds) {
            self.pass(offset, bytes(event), end);
            self.dropped += 1;
            self.has_gap = true;
            return Offer::Drop;
        }
        let Given { up_to, or_next_within } = self.given;
        Offer::Give { is_redelivered: offset <= up_to || offset <= or_next_within }
    }

    /// The consumer has had the oldest event that waits, where every event is counted up to `end`.
    pub fn acknowledge(&mut self, offset: u64, bytes: u64, end: u64) {
        if offset > self.place {
            self.pass(offset, bytes, end);
            self.acknowledged = self.acknowledged.max(offset);
        }
    }

    /// The oldest event that waits does so no more.
    fn pass(&mut self, offset: u64, bytes: u64, end: u64) {
        if offset <= end {
            self.events = self.events.saturating_sub(1);
            self.bytes = if self.events == 0 { 0 } else { self.bytes.saturating_sub(bytes) };
        }
        self.place = offset;
        if offset > self.given.up_to {
            self.given.or_next_within = 0;
        }
    }

    /// There is nothing wanted up to a place that is not acknowledged.
    pub fn advance(&mut self, place: u64) {
        self.place = self.place.max(place);
    }

    /// There is nothing wanted between its place, if that is still this one, and another.
    pub fn advance_from(&mut self, from: u64, to: u64) {
        if self.place == from {
            self.advance(to);
        }
    }

    /// Where nothing waits, the place is where every event is counted up to.
    pub fn rest(&mut self, end: u64) {
        if self.consumer.is_none() && self.events == 0 && self.uncounted.is_none() {
            self.advance(end);
        }
    }

    /// Goes back behind what the consumer says it has seen last, or from where on there is
    /// something, if what was written to it since did not all arrive.
    pub fn step_back(&mut self, seen: u64, kept_from: u64) {
        let place = seen.max(kept_from);
        if seen >= self.acknowledged || place >= self.place {
            self.has_gap |= seen < self.acknowledged.min(kept_from);
            return;
        }
        self.has_gap |= seen < kept_from;
        self.given.up_to = self.given.up_to.max(self.acknowledged);
        self.counted = self.counted.max(self.place);
        self.uncounted = self.uncounted.or(Some(self.place));
        self.place = place;
    }

    /// The consumer has seen last what nobody has any more.
    pub fn note_gap(&mut self) {
        self.has_gap = true;
    }

    /// What follows the place was freed up to another.
    pub fn lose(&mut self, kept_from: u64, end: u64) {
        if self.place < kept_from {
            (self.place, self.has_gap) = (kept_from, true);
            // What is left has to be counted anew.
            self.uncounted = (kept_from < end).then_some(end);
            (self.events, self.bytes) = (0, 0);
        }
    }

    /// Takes note of what was counted between a place and an offset, if that is still to be known.
    pub fn note_counted(&mut self, place: u64, up_to: u64, events: u64, bytes: u64) {
        if self.place == place && self.uncounted == Some(up_to) {
            self.uncounted = None;
            self.events += events;
            self.bytes += bytes;
        }
    }

    /// The consumer leaves, perhaps with an event that it has not acknowledged.
    pub fn release(&mut self, unacknowledged: Option<u64>, now: Instant) {
        self.consumer = None;
        self.idle_since = now;
        if let Some(offset) = unacknowledged.filter(|offset| *offset > self.given.up_to) {
            // It was the next one.
            self.given = Given { up_to: offset, or_next_within: 0 };
        }
    }

    /// What is to be written down of it.
    pub fn record(&self) -> Record {
        let Given { up_to, or_next_within } = self.given;
        let is_next_given = self.consumer.is_some() && up_to <= self.place;
        Record {
            number: self.number,
            name: Arc::clone(&self.name),
            patterns: Arc::clone(&self.patterns),
            place: self.place,
            dropped: self.dropped,
            has_gap: self.has_gap,
            given: if up_to > self.place { up_to } else { 0 },
            is_open: is_next_given || or_next_within > self.place,
            acknowledged: self.acknowledged,
        }
    }

    /// As an operator sees it.
    pub fn listed(&self) -> Listed {
        Listed {
            name: Arc::clone(&self.name),
            patterns: Arc::clone(&self.patterns),
            place: self.place,
            events: self.events,
            bytes: self.bytes,
            dropped: self.dropped,
            idle_since: self.consumer.is_none().then_some(self.idle_since),
        }
    }
}

/// What an event counts for.
pub fn bytes(event: &Event) -> u64 {
    u64::try_from(event.size()).unwrap_or(u64::MAX)
}

#[cfg(test)]
pub(crate) mod tests;
