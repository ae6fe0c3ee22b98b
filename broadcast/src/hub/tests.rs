use std::io::IoSlice;

use proptest::prelude::*;
use shared::event::{Attributes, Event, EventType, Time};
use shared::memory::Memory;

use super::*;
use crate::publication::Slot;

static PLAIN: Format = Format::new(Slot::Native, |placed, bytes| {
    let event = placed.event;
    bytes.extend_from_slice(format!("{}:{} ", event.event_type, event.id).as_bytes());
});

fn event(event_type: &str, number: u64) -> Event {
    Event {
        event_type: EventType::parse(event_type.to_owned()).unwrap(),
        data: None,
        id: number.to_string().into(),
        source: "/test".into(),
        subject: None,
        time: Time::now(),
        publisher: "test".into(),
        attributes: None,
    }
}

struct House {
    hub: Hub,
    memory: Arc<Memory>,
    next_offset: u64,
}

impl House {
    fn new() -> Self {
        Self { hub: Hub::default(), memory: Memory::new(1 << 30), next_offset: 1 }
    }

    fn client(&mut self, patterns: &[&str], bytes_max: usize) -> (SessionId, Rc<Outbox>) {
        let outbox = Rc::new(Outbox::new(bytes_max, &self.memory));
        let id = self.hub.enter(Rc::clone(&outbox), &PLAIN);
        for text in patterns {
            self.hub.subscribe(id, &pattern(text));
        }
        (id, outbox)
    }

    fn publish(&mut self, event_types: &[&str]) {
        let from = self.next_offset;
        let events = (from - 1..).zip(event_types).map(|(number, it)| event(it, number)).collect();
        let epoch = "epoch".parse().unwrap();
        let batch = Publication::new(epoch, from, events, &self.memory);
        self.next_offset += event_types.len() as u64;
        self.hub.publish(&batch);
    }

    fn due(&mut self) -> Vec<SessionId> {
        let mut due = Vec::new();
        self.hub.take_due(&mut due);
        due
    }
}

fn pattern(text: &str) -> Pattern {
    Pattern::parse(text.to_owned()).unwrap()
}

fn read(outbox: &Outbox) -> String {
    let text: String = outbox.with_slices(|slices: &[IoSlice<'_>]| {
        slices.iter().map(|it| String::from_utf8(it.to_vec()).unwrap()).collect()
    });
    outbox.advance(text.len());
    text.trim_end().to_owned()
}

/// One client stops reading: it alone overflows, and its neighbour misses nothing.
#[test]
fn a_slow_consumer_overflows_alone() {
    let mut house = House::new();
    let (slow, unread) = house.client(&["a"], 4);
    unread.set_stuck(true);
    let (quick, inbox) = house.client(&["a"], 100);
    house.publish(&["a", "a", "a"]);
    assert!(unread.is_overflown());
    assert!(!inbox.is_overflown());
    assert_eq!(read(&inbox), "a:0 a:1 a:2");
    assert_eq!(house.due(), [slow, quick]);
}

#[test]
fn an_event_reaches_those_whose_patterns_match_it_once() {
    let mut house = House::new();
    let (_, exact) = house.client(&["order.paid"], 1000);
    let (_, wild) = house.client(&["order.*", "order.>", "order.paid", ">"], 1000);
    let (_, other) = house.client(&["invoice.>"], 1000);
    house.publish(&["order.paid", "order.paid.late", "order"]);
    assert_eq!(read(&exact), "order.paid:0");
    assert_eq!(read(&wild), "order.paid:0 order.paid.late:1 order:2");
    assert_eq!(read(&other), "");
    assert_eq!(house.hub.take_deliveries(), 4);
    assert_eq!(house.hub.take_deliveries(), 0);
}

#[test]
fn what_was_unsubscribed_or_left_gets_nothing_more() {
    let mut house = House::new();
    let (id, outbox) = house.client(&["a", "b.*", "b.>"], 1000);
    house.hub.unsubscribe(id, &pattern("b.*"));
    house.publish(&["b.c"]);
    assert_eq!(read(&outbox), "b.c:0", "the other pattern still stands");
    house.hub.unsubscribe(id, &pattern("b.>"));
    house.publish(&["a", "b.c"]);
    assert_eq!(read(&outbox), "a:1");
    house.hub.unsubscribe(id, &pattern("a"));
    house.hub.leave(id);
    house.publish(&["a"]);
    assert_eq!(read(&outbox), "");
    assert!(!house.hub.subscribers.contains(id.0));
    assert!(house.hub.types.is_bare(), "nothing stays behind");
    assert!(!house.hub.interest.is_any());
}

#[test]
fn a_worker_is_interested_while_anybody_is_subscribed() {
    let mut house = House::new();
    let (first, _outbox) = house.client(&["a", "b.>"], 1000);
    let (second, _outbox) = house.client(&["a"], 1000);
    house.hub.unsubscribe(first, &pattern("a"));
    house.hub.unsubscribe(second, &pattern("a"));
    assert!(house.hub.interest.is_any());
    house.hub.unsubscribe(first, &pattern("b.>"));
    assert!(!house.hub.interest.is_any());
}

#[test]
fn a_session_is_due_once_until_it_was_taken() {
    let mut house = House::new();
    let (id, _outbox) = house.client(&["a"], 1000);
    house.publish(&["a", "a"]);
    assert_eq!(house.due(), [id]);
    assert_eq!(house.due(), []);
    house.publish(&["a"]);
    assert_eq!(house.due(), [id]);
}

#[test]
fn the_fullest_is_the_one_for_whom_most_bytes_wait() {
    let mut house = House::new();
    assert_eq!(house.hub.fullest(), None);
    let (first, _outbox) = house.client(&["a"], 1000);
    let (second, outbox) = house.client(&["a", "b"], 1000);
    assert_eq!(house.hub.fullest(), None, "nobody has anything");
    house.publish(&["a", "b"]);
    assert_eq!(house.hub.fullest(), Some(second));
    outbox.close_with(b"last".to_vec());
    assert_eq!(house.hub.fullest(), Some(first), "one that is ending gives no more back");
}

#[test]
fn a_place_that_was_left_is_free_for_another() {
    let mut house = House::new();
    let (first, _) = house.client(&["a"], 1000);
    house.hub.unsubscribe(first, &pattern("a"));
    house.hub.leave(first);
    let (_, outbox) = house.client(&["b"], 1000);
    house.publish(&["a", "b"]);
    assert_eq!(read(&outbox), "b:1");
    assert_eq!(house.hub.subscribers.len(), 1);
}

fn text() -> impl Strategy<Value = String> {
    prop::collection::vec(prop::sample::select(vec!["a", "b", "*", ">"]), 1..4)
        .prop_map(|tokens| tokens.join("."))
}

/// A session that hears channels, in a format of its own.
fn listener(house: &mut House, channels: &[&str]) -> (SessionId, Rc<Outbox>) {
    let (id, outbox) = house.client(&[], 1000);
    house.hub.set_channel_format(id, &LOUD);
    for text in channels {
        house.hub.subscribe_channel(id, &pattern(text));
    }
    (id, outbox)
}

static LOUD: Format = Format::new(Slot::CloudEvents, |placed, bytes| {
    bytes.extend_from_slice(format!("{}! ", placed.event.id).as_bytes());
});

/// Publishes one event of a type, for channels.
fn publish_to(house: &mut House, event_type: &str, channels: &[&str]) {
    let channel = |text: &&str| EventType::parse((*text).to_owned()).unwrap();
    let channels = channels.iter().map(channel).collect();
    let attributes = Attributes { channels, ..Attributes::default() };
    let offset = house.next_offset;
    let event = Event { attributes: Some(Arc::new(attributes)), ..event(event_type, offset) };
    let epoch = "epoch".parse().unwrap();
    house.next_offset += 1;
    house.hub.publish(&Publication::new(epoch, offset, vec![event], &house.memory));
}

#[test]
fn an_event_is_heard_once_by_its_type_or_by_any_of_its_channels() {
    let mut house = House::new();
    let (_, by_type) = listener(&mut house, &["order.paid"]);
    let (_, by_channel) = listener(&mut house, &["room.1", "room.2"]);
    let (_, by_all) = listener(&mut house, &["room.*", "order.>", ">"]);
    let (_, native) = house.client(&["room.>"], 1000);
    let (_, other) = listener(&mut house, &["room"]);
    publish_to(&mut house, "order.paid", &["room.1", "room.2"]);
    assert_eq!(read(&by_type), "1!");
    assert_eq!(read(&by_channel), "1!");
    assert_eq!(read(&by_all), "1!");
    assert_eq!(read(&native), "", "every other way out goes by the type alone");
    assert_eq!(read(&other), "");
    assert_eq!(house.hub.take_deliveries(), 3);
}

#[test]
fn who_subscribed_to_a_type_and_a_channel_gets_an_event_once() {
    let mut house = House::new();
    let (id, outbox) = listener(&mut house, &["room"]);
    house.hub.subscribe(id, &pattern("a"));
    publish_to(&mut house, "a", &["room"]);
    publish_to(&mut house, "b", &["room"]);
    assert_eq!(read(&outbox), "a:1 2!", "by its type as it asked for types, else as for channels");
    assert_eq!(house.hub.count("a"), 1);
    assert_eq!(house.hub.count("room"), 1);
}

#[test]
fn a_channel_that_was_left_is_heard_no_more_and_leaves_nothing_behind() {
    let mut house = House::new();
    let (id, outbox) = listener(&mut house, &["room", "hall.>"]);
    house.hub.unsubscribe_channel(id, &pattern("room"));
    publish_to(&mut house, "a", &["room"]);
    assert_eq!(read(&outbox), "");
    publish_to(&mut house, "a", &["hall.1"]);
    assert_eq!(read(&outbox), "2!");
    house.hub.unsubscribe_channel(id, &pattern("hall.>"));
    assert!(house.hub.channels.is_bare());
    assert!(!house.hub.interest.is_any());
}

proptest! {
    /// The tree and the table find just what the patterns themselves say.
    #[test]
    fn the_hub_agrees_with_the_patterns(
        patterns in prop::collection::hash_set(text(), 1..8),
        removed in prop::collection::vec(any::<bool>(), 8),
        event_type in text(),
    ) {
        let mut house = House::new();
        let texts: Vec<&str> = patterns.iter().map(String::as_str).collect();
        let (id, outbox) = house.client(&texts, 1000);
        let mut kept = Vec::new();
        for (text, removed) in texts.iter().zip(removed) {
            if removed {
                house.hub.unsubscribe(id, &pattern(text));
            } else {
                kept.push(pattern(text));
            }
        }
        house.publish(&[&event_type]);
        let expected = kept.iter().any(|it| it.matches(&event_type));
        prop_assert_eq!(!read(&outbox).is_empty(), expected);
    }
}

/// A connection with several topics is one that is reached.
#[test]
fn a_connection_is_counted_once_however_many_subscribers_it_has() {
    let mut house = House::new();
    for (own, beside) in [(&["a"][..], 3), (&[], 2), (&["b"], 1), (&["b"], 0)] {
        let (owner, outbox) = house.client(own, 1000);
        for _ in 0..beside {
            let id = house.hub.enter_beside(owner, Rc::clone(&outbox), &PLAIN);
            house.hub.subscribe(id, &pattern("a"));
            house.hub.subscribe(id, &pattern(">"));
        }
    }
    assert_eq!(house.hub.count("a"), 3);
    assert_eq!(house.hub.count("b"), 4);
    assert_eq!(house.hub.count("c"), 3);
}

/// Who wants one source is not even looked at for the events of another.
#[test]
fn one_source_is_found_by_its_name() {
    let mut house = House::new();
    let narrow = |source: &str| Narrow {
        sources: vec![SourceRule::Exact(source.to_owned())],
        ..Narrow::default()
    };
    let outboxes = ["/test", "/other"].map(|source| {
        let (id, outbox) = house.client(&[], 1000);
        house.hub.narrow(id, &narrow(source));
        house.hub.subscribe(id, &pattern("a"));
        house.hub.subscribe(id, &pattern("b.*"));
        (id, outbox)
    });
    house.publish(&["a", "b.c", "c"]);
    let [(meant, inbox), (_, other)] = &outboxes;
    assert_eq!(read(inbox), "a:0 b.c:1");
    assert_eq!(read(other), "");
    assert_eq!((house.due(), house.hub.count("a")), (vec![*meant], 2));
    for (id, _) in &outboxes {
        house.hub.unsubscribe(*id, &pattern("a"));
        house.hub.unsubscribe(*id, &pattern("b.*"));
    }
    assert!(house.hub.sources.is_empty(), "nothing stays behind");
}

/// Two subscribers with one outbox are due once, under the name of its owner.
#[test]
fn who_enters_beside_another_is_due_as_that_one() {
    let mut house = House::new();
    let (owner, outbox) = house.client(&["a"], 1000);
    let beside = house.hub.enter_beside(owner, Rc::clone(&outbox), &PLAIN);
    house.hub.subscribe(beside, &pattern("b"));
    house.publish(&["b", "a", "b"]);
    assert_eq!(house.due(), [owner]);
    assert_eq!(read(&outbox), "b:0 a:1 b:2");
    house.publish(&["b"]);
    assert_eq!((house.due(), house.hub.fullest()), (vec![owner], Some(owner)));
}
