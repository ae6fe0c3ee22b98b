use std::collections::VecDeque;
use std::rc::Rc;

use shared::memory::Memory;
use shared::pattern::Pattern;

use super::*;
use crate::hub::{Hub, SessionId};
use crate::log::page::tests::event;
use crate::outbox::Outbox;
use crate::publication::{Format, Publication, Slot};

static OFFSETS: Format = Format::new(Slot::Native, |placed, bytes| {
    bytes.extend_from_slice(format!("{} ", placed.offset).as_bytes());
});

/// Batches of one event that the log commits.
const BATCHES: u64 = 3;

/// One thing that one side does while the other does nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// The log moves its end.
    Commit,
    /// The log asks who wants the batch, and hands it over.
    HandOver,
    /// The worker notes that somebody reads the log, or takes it back.
    Attend,
    Neglect,
    /// A session is subscribed, or no longer.
    Subscribe,
    Unsubscribe,
    /// The worker takes a batch that has come.
    Publish,
}

use Step::{Attend, Commit, HandOver, Neglect, Publish, Subscribe, Unsubscribe};

/// The log and one worker, one step at a time.
struct House {
    end: Arc<AtomicU64>,
    interest: Arc<Interest>,
    hub: Hub,
    session: SessionId,
    outbox: Rc<Outbox>,
    memory: Arc<Memory>,
    fed: VecDeque<Publication>,
    handed_over: u64,
    received: Vec<u64>,
    /// Offsets that the session must get, and those that it may get: it was subscribed when the
    /// event got its place, or when the worker had the batch.
    due: Vec<u64>,
    allowed: Vec<u64>,
    is_subscribed: bool,
}

impl House {
    fn new() -> Self {
        let end = Arc::<AtomicU64>::default();
        let interest = Arc::new(Interest::new(Arc::clone(&end)));
        let memory = Memory::new(1 << 20);
        let mut hub = Hub::new(Arc::clone(&interest));
        let outbox = Rc::new(Outbox::new(1 << 20, &memory));
        let session = hub.enter(Rc::clone(&outbox), &OFFSETS);
        Self {
            end,
            interest,
            hub,
            session,
            outbox,
            memory,
            fed: VecDeque::new(),
            handed_over: 0,
            received: Vec::new(),
            due: Vec::new(),
            allowed: Vec::new(),
            is_subscribed: false,
        }
    }

    fn take(&mut self, step: Step) {
        let pattern = Pattern::parse("a").unwrap();
        match step {
            Commit => {
                let offset = self.end.fetch_add(1, Ordering::SeqCst) + 1;
                if self.is_subscribed {
                    self.due.push(offset);
                }
            }
            HandOver => {
                self.handed_over += 1;
                if self.interest.is_any() {
                    let (epoch, events) = ("e".parse().unwrap(), vec![event("a", "1")]);
                    let batch = Publication::new(epoch, self.handed_over, events, &self.memory);
                    self.fed.push_back(batch);
                }
            }
            Attend => self.hub.attend(),
            Neglect => self.hub.neglect(),
            Subscribe => {
                self.hub.subscribe(self.session, &pattern);
                self.is_subscribed = true;
                // What is behind the position may still be on its way.
                self.allowed.extend(self.hub.position() + 1..=BATCHES);
            }
            Unsubscribe => {
                self.hub.unsubscribe(self.session, &pattern);
                self.is_subscribed = false;
                let position = self.hub.position();
                self.due.retain(|offset| *offset <= position);
                self.allowed.retain(|offset| *offset <= position);
            }
            Publish => {
                if let Some(batch) = self.fed.pop_front() {
                    self.hub.publish(&batch);
                    assert!(self.hub.position() >= batch.last_offset());
                }
            }
        }
        assert!(self.hub.position() <= self.end.load(Ordering::SeqCst));
        let text = self
            .outbox
            .with_slices(|slices| slices.iter().flat_map(|it| it.to_vec()).collect::<Vec<u8>>());
        self.outbox.advance(text.len());
        let text = String::from_utf8(text).unwrap();
        self.received.extend(text.split_whitespace().map(|it| it.parse::<u64>().unwrap()));
    }

    /// The worker has had all: what was due is there, once and in order, and nothing else is.
    fn judge(mut self, taken: &[Step]) {
        while !self.fed.is_empty() {
            self.take(Publish);
        }
        let Self { received, due, allowed, .. } = &self;
        assert!(received.is_sorted_by(|one, next| one < next), "{received:?} by {taken:?}");
        assert!(due.iter().all(|it| received.contains(it)), "{due:?}, {received:?} by {taken:?}");
        assert!(received.iter().all(|it| allowed.contains(it)), "{received:?} by {taken:?}");
        if self.interest.is_any() {
            // Who reads the log up to the position has all that the hub will not offer.
            assert_eq!(self.hub.position(), BATCHES, "{taken:?}");
        }
    }
}

/// Every order in which the steps of the log and those of a worker can come.
fn for_each_order(
    log: &[Step],
    worker: &[Step],
    taken: &mut Vec<Step>,
    judge: &mut impl FnMut(&[Step]),
) {
    if log.is_empty() && worker.is_empty() {
        return judge(taken);
    }
    for (log, worker, step) in [
        log.split_first().map(|(step, rest)| (rest, worker, *step)),
        worker.split_first().map(|(step, rest)| (log, rest, *step)),
    ]
    .into_iter()
    .flatten()
    {
        taken.push(step);
        for_each_order(log, worker, taken, judge);
        taken.pop();
    }
}

/// However the log's steps and a worker's come between each other: an event that gets its place
/// while a session is subscribed is offered to it once, and none from before.
#[test]
fn a_subscription_gets_what_is_committed_from_then_on_in_every_order_of_steps() {
    let log = [Commit, HandOver].repeat(BATCHES as usize);
    let lives: [&[Step]; 5] = [
        &[Subscribe, Publish, Publish],
        &[Attend, Publish, Subscribe, Neglect, Publish],
        &[Subscribe, Unsubscribe, Subscribe, Publish, Publish],
        &[Attend, Neglect, Publish, Subscribe, Attend, Publish, Neglect],
        &[Subscribe, Publish, Unsubscribe, Publish, Attend, Publish, Subscribe, Neglect],
    ];
    let mut orders = 0;
    for life in lives {
        for_each_order(&log, life, &mut Vec::new(), &mut |taken| {
            orders += 1;
            let mut house = House::new();
            taken.iter().for_each(|step| house.take(*step));
            house.judge(taken);
        });
    }
    assert_eq!(orders, 84 + 462 + 462 + 1716 + 3003);
}
