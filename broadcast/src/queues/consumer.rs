//! Who takes the events of one queue, one after the other.

use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use shared::event::Event;
use shared::principal::Principal;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::archive::ReadError;
use crate::cursor::Cursor;
use crate::disconnect::Disconnect;
use crate::filter::Narrow;
use crate::queues::Queues;
use crate::queues::book::Lease;
use crate::queues::queue::{self, Before, Offer};
use crate::watch::Watch;
use crate::worker::Worker;

/// How often one looks though nobody was told: events of other types tell nobody, and the place has
/// to move on behind them.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// The consumer of a queue. While it lives nobody else is let in.
#[derive(Debug)]
pub struct Consumer {
    queues: Arc<Queues>,
    lease: Lease,
    watch: Rc<Watch>,
    found: VecDeque<(u64, Event)>,
    /// There is nothing else wanted up to here than what was found.
    found_up_to: u64,
    given: Option<Given>,
}

/// What was given, and is not acknowledged.
#[derive(Debug, Clone, Copy)]
enum Given {
    Event { offset: u64, bytes: u64 },
    Gap,
}

/// What a consumer gets.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "nearly all are the large one")]
pub enum Delivery {
    /// An event.
    Event {
        /// It was given before, and was not acknowledged.
        is_redelivered: bool,
        /// Its place.
        cursor: Cursor,
        /// The event.
        event: Event,
    },
    /// Something was dropped, or freed, before it was given.
    Gap {
        /// The place behind which what follows is.
        place: Cursor,
        /// The oldest place after which all is kept.
        earliest: Cursor,
    },
}

impl Consumer {
    /// Takes a queue's events from now on, as a session of a worker.
    pub fn new(
        queues: &Arc<Queues>,
        lease: Lease,
        worker: &Rc<Worker>,
        principal: Arc<Principal>,
    ) -> Self {
        let watch = Watch::begin(worker, principal, &lease.patterns, &Narrow::default());
        Self {
            queues: Arc::clone(queues),
            lease,
            watch: Rc::new(watch),
            found: VecDeque::new(),
            found_up_to: 0,
            given: None,
        }
    }

    /// The session.
    pub fn watch(&self) -> Rc<Watch> {
        Rc::clone(&self.watch)
    }

    /// How long the consumer may stay.
    pub fn tenure(&self) -> Tenure {
        let (number, look) = (self.lease.number, Arc::clone(&self.lease.look));
        Tenure { queues: Arc::clone(&self.queues), number, look }
    }

    /// Goes back to the last event that the client says it has had: what was written to it since did
    /// not all arrive.
    pub fn step_back(&self, cursor: &Cursor) {
        let (archive, mut book) = (&self.queues.archive, self.queues.book());
        let Some(queue) = book.get_mut(self.lease.number) else { return };
        if cursor.epoch == archive.epoch {
            queue.step_back(cursor.offset, archive.earliest());
            self.queues.wanted_from.include(queue.place());
        } else {
            queue.note_gap();
        }
    }

    /// The next event, when there is one. What was given before is to be acknowledged first.
    ///
    /// # Errors
    ///
    /// [`Disconnect`]: the consumer has to go.
    pub async fn next(&mut self) -> Result<Delivery, Disconnect> {
        let number = self.lease.number;
        loop {
            let before =
                self.queues.book().get(number).map(|queue| (queue.before_next(), queue.place()));
            let (before, place) = before.ok_or(Disconnect::TryAgainLater)?;
            match before {
                Before::Count(up_to) => {
                    let counted = self.queues.count_up(number, up_to, &self.lease.filter).await;
                    self.forgive(counted)?;
                    continue;
                }
                Before::Gap => {
                    self.given = Some(Given::Gap);
                    let archive = &self.queues.archive;
                    let earliest = archive.earliest();
                    let [place, earliest] = [place, earliest].map(|it| archive.epoch.at(it));
                    return Ok(Delivery::Gap { place, earliest });
                }
                Before::Nothing => {}
            }
            match self.found.pop_front() {
                Some((offset, event)) => {
                    let offer = self.queues.book().offer(number, offset, &event);
                    match offer {
                        Offer::Skip | Offer::Drop => {}
                        Offer::Give { is_redelivered } => {
                            self.watch.count_delivery();
                            let bytes = queue::bytes(&event);
                            self.given = Some(Given::Event { offset, bytes });
                            let cursor = self.queues.archive.epoch.at(offset);
                            return Ok(Delivery::Event { is_redelivered, cursor, event });
                        }
                    }
                }
                None => self.look_on().await?,
            }
        }
    }

    /// Finds what follows; waits where there is nothing.
    async fn look_on(&mut self) -> Result<(), Disconnect> {
        let number = self.lease.number;
        let place = self.queues.book().get_mut(number).map(|queue| {
            queue.advance(self.found_up_to);
            queue.place()
        });
        let Some(place) = place else { return Ok(()) };
        let read = self.queues.read(number, place, &self.lease.filter).await;
        let Some(excerpt) = self.forgive(read)? else { return Ok(()) };
        self.found_up_to = excerpt.place;
        if excerpt.events.is_empty() && excerpt.place <= place {
            return self.watch.wait_until(Instant::now() + LOOK_EVERY).await;
        }
        self.found.extend(excerpt.events);
        Ok(())
    }

    /// What was freed is a gap, and no reason to go.
    fn forgive<T>(&self, read: Result<T, ReadError>) -> Result<Option<T>, Disconnect> {
        match read {
            Ok(read) => self.watch.ended().map_or(Ok(Some(read)), Err),
            Err(ReadError::Freed) => Ok(None),
            Err(error @ ReadError::Damaged) => Err(error.into()),
        }
    }

    /// What was given last is written to the client: it is not given again.
    pub async fn acknowledge(&mut self) {
        if self.settle() {
            self.queues.save(self.lease.number).await;
        }
    }

    /// The same, without waiting until it is written down. Says whether something was to be settled.
    pub fn settle(&mut self) -> bool {
        let Some(given) = self.given.take() else { return false };
        let (number, mut book) = (self.lease.number, self.queues.book());
        match given {
            Given::Event { offset, bytes } => book.acknowledge(number, offset, bytes),
            Given::Gap => {
                if let Some(queue) = book.get_mut(number) {
                    queue.told();
                }
            }
        }
        true
    }
}

/// How long a consumer may stay: as long as there is the queue, and nobody has taken its place over.
#[derive(Debug)]
pub struct Tenure {
    queues: Arc<Queues>,
    number: u64,
    look: Arc<Notify>,
}

impl Tenure {
    /// Waits until it has to go.
    pub async fn end(&self, is_taken_over: impl Fn() -> bool) {
        while self.queues.book().get(self.number).is_some() && !is_taken_over() {
            self.look.notified().await;
        }
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        let unacknowledged = match self.given {
            Some(Given::Event { offset, .. }) => Some(offset),
            Some(Given::Gap) | None => None,
        };
        self.queues.release(self.lease.number, unacknowledged);
    }
}
