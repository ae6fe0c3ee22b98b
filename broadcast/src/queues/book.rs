//! All queues, by name and by what they want. No clock, no await, no disk.

use std::collections::HashMap;
use std::sync::Arc;

use shared::credentials::Digest;
use shared::event::Event;
use shared::pattern::Pattern;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::filter::Filter;
use crate::index::Index;
use crate::queues::queue::{Bounds, Listed, Offer, Queue, Record, Seat};

/// All queues. Each has a number, and one that is made again has another.
#[derive(Debug)]
pub struct Book {
    bounds: Bounds,
    queues: HashMap<u64, Queue>,
    numbers: HashMap<Arc<str>, u64>,
    /// Who counts an event, by its type.
    index: Index<u64>,
    last_number: u64,
    /// Every event up to this offset is counted.
    end: u64,
    /// Events that were dropped since the process began.
    dropped: u64,
}

/// What a consumer holds of its queue.
#[derive(Debug, Clone)]
pub struct Lease {
    /// Which queue.
    pub number: u64,
    /// What it wants.
    pub patterns: Arc<[Pattern]>,
    /// The same.
    pub filter: Arc<Filter>,
    /// Told when the consumer is to look whether it may stay.
    pub look: Arc<Notify>,
}

/// Why a queue cannot be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// It has a consumer.
    #[error("the queue has a consumer")]
    Taken,
    /// It has one, whose ticket is that of who asks: its connection is gone, or about to be.
    #[error("the queue's consumer is about to leave")]
    TakenOver,
    /// There are too many.
    #[error("there are too many queues")]
    TooMany,
    /// Who asks may not have what is in it.
    #[error("what is in the queue is not granted")]
    Forbidden,
    /// It cannot be written down.
    #[error("the queue cannot be written down")]
    Unwritten,
}

impl Book {
    /// A book without queues, in front of a log that ends there.
    pub fn new(bounds: Bounds, end: u64) -> Self {
        Self {
            bounds,
            queues: HashMap::new(),
            numbers: HashMap::new(),
            index: Index::default(),
            last_number: 0,
            end,
            dropped: 0,
        }
    }

    /// Takes in a queue that was written down.
    pub fn restore(&mut self, record: Record, now: Instant) {
        self.last_number = self.last_number.max(record.number);
        self.insert(Queue::restore(record, self.end, now));
    }

    fn insert(&mut self, queue: Queue) -> u64 {
        let number = queue.number;
        for pattern in &*queue.patterns {
            self.index.insert(pattern, number);
        }
        self.numbers.insert(Arc::clone(&queue.name), number);
        self.queues.insert(number, queue);
        number
    }

    /// Takes out a queue. Its consumer has to go.
    pub fn remove(&mut self, number: u64) -> Option<Queue> {
        let queue = self.queues.remove(&number)?;
        self.numbers.remove(&queue.name);
        for pattern in &*queue.patterns {
            self.index.remove(pattern, number);
        }
        if let Some(seat) = &queue.consumer {
            seat.look.notify_one();
        }
        Some(queue)
    }

    /// The bounds.
    pub fn bounds(&self) -> &Bounds {
        &self.bounds
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.queues.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.queues.is_empty()
    }

    /// Events that were dropped since the process began.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// The number of the queue of a name.
    pub fn find(&self, name: &str) -> Option<u64> {
        self.numbers.get(name).copied()
    }

    /// A queue, if it is still there.
    pub fn get(&self, number: u64) -> Option<&Queue> {
        self.queues.get(&number)
    }

    /// The same, to change it.
    pub fn get_mut(&mut self, number: u64) -> Option<&mut Queue> {
        self.queues.get_mut(&number)
    }

    /// Lets a consumer in, whom `may_have` knows. A queue that is not there is made, with these
    /// patterns and the log's end as its place.
    ///
    /// # Errors
    ///
    /// [`OpenError`] says why not.
    pub fn open(
        &mut self,
        name: &str,
        patterns: &[Pattern],
        ticket: Option<Digest>,
        (end, now): (u64, Instant),
        may_have: impl FnOnce(&[Pattern]) -> bool,
    ) -> Result<Lease, OpenError> {
        let number = match self.find(name) {
            Some(number) => number,
            None if self.len() >= self.bounds.queues_max => return Err(OpenError::TooMany),
            None => {
                self.last_number += 1;
                let number = self.last_number;
                self.insert(Queue::new(number, name.into(), patterns.into(), end, now))
            }
        };
        let queue = self.queues.get_mut(&number).ok_or(OpenError::Unwritten)?;
        if !may_have(&queue.patterns) {
            return Err(OpenError::Forbidden);
        }
        if let Some(Seat { look, ticket: taken_by }) = &queue.consumer {
            if ticket.is_none() || ticket != *taken_by {
                return Err(OpenError::Taken);
            }
            look.notify_one();
            return Err(OpenError::TakenOver);
        }
        let look = Arc::new(Notify::new());
        queue.consumer = Some(Seat { look: Arc::clone(&look), ticket });
        let (patterns, filter) = (Arc::clone(&queue.patterns), Arc::clone(&queue.filter));
        Ok(Lease { number, patterns, filter, look })
    }

    /// Counts events where they are wanted; `first` is the offset of the first of them.
    pub fn count<'a>(&mut self, first: u64, events: impl Iterator<Item = &'a Event>) {
        let Self { queues, index, end, .. } = self;
        for (offset, event) in (first..).zip(events) {
            *end = offset;
            index.for_each_match(event.event_type.as_str(), &mut |number| {
                if let Some(queue) = queues.get_mut(&number) {
                    queue.count(offset, event);
                }
            });
        }
    }

    /// Decides on an event that a consumer has found.
    pub fn offer(&mut self, number: u64, offset: u64, event: &Event) -> Offer {
        let Some(queue) = self.queues.get_mut(&number) else { return Offer::Skip };
        let offer = queue.offer(offset, event, &self.bounds, self.end);
        self.dropped += u64::from(offer == Offer::Drop);
        offer
    }

    /// The consumer has had an event.
    pub fn acknowledge(&mut self, number: u64, offset: u64, bytes: u64) {
        if let Some(queue) = self.queues.get_mut(&number) {
            queue.acknowledge(offset, bytes, self.end);
        }
    }

    /// What a queue has not had was freed up to a place.
    pub fn lose(&mut self, number: u64, kept_from: u64) {
        if let Some(queue) = self.queues.get_mut(&number) {
            queue.lose(kept_from, self.end);
        }
    }

    /// Queues without a consumer that somebody has to count, or to take the oldest events from.
    pub fn neglected(&self) -> Vec<(u64, Arc<Filter>)> {
        let queues = self.queues.iter().filter(|(_, queue)| queue.is_neglected(&self.bounds));
        queues.map(|(number, queue)| (*number, Arc::clone(&queue.filter))).collect()
    }

    /// Takes the oldest events from a queue that has too many of them, and no consumer: what was
    /// found behind its place, if it is still there.
    pub fn trim(&mut self, number: u64, place: u64, found: &[(u64, Event)]) {
        if self.queues.get(&number).is_none_or(|queue| queue.place() != place) {
            return;
        }
        for (offset, event) in found {
            let queue = self.queues.get(&number);
            if !queue.is_some_and(|queue| queue.is_neglected(&self.bounds)) {
                return;
            }
            self.offer(number, *offset, event);
        }
    }

    /// Takes out the queues whose time is over.
    pub fn expire(&mut self, now: Instant) -> Vec<Queue> {
        let over = self.queues.iter().filter(|(_, queue)| queue.has_expired(&self.bounds, now));
        let over: Vec<u64> = over.map(|(number, _)| *number).collect();
        over.into_iter().filter_map(|number| self.remove(number)).collect()
    }

    /// What is to be written down, where it is not what is written; and whether anything is.
    pub fn unsaved(&mut self) -> Vec<(Record, bool)> {
        let mut unsaved = Vec::new();
        for queue in self.queues.values_mut() {
            queue.rest(self.end);
            let record = queue.record();
            if queue.saved.as_ref() != Some(&record) {
                unsaved.push((record, queue.saved.is_some()));
            }
        }
        unsaved
    }

    /// These are written.
    pub fn note_saved(&mut self, records: Vec<Record>) {
        for record in records {
            if let Some(queue) = self.queues.get_mut(&record.number) {
                queue.saved = Some(record);
            }
        }
    }

    /// The place of whoever is furthest behind, as it is written down.
    pub fn wanted_from(&self) -> Option<u64> {
        let places = self.queues.values().map(|queue| {
            let place = queue.place();
            queue.saved.as_ref().map_or(place, |record| record.place.min(place))
        });
        places.min()
    }

    /// All queues, by name.
    pub fn list(&self) -> Vec<Listed> {
        let mut list: Vec<Listed> = self.queues.values().map(Queue::listed).collect();
        list.sort_by(|one, other| one.name.cmp(&other.name));
        list
    }
}

#[cfg(test)]
mod tests;
