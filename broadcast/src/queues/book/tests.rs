//! All queues together.

use std::time::Duration;

use super::*;
use crate::log::page::tests::event;
use crate::queues::queue::Before;

fn patterns(texts: &[&str]) -> Vec<Pattern> {
    texts.iter().map(|text| Pattern::parse((*text).to_owned()).unwrap()).collect()
}

fn book(bounds: Bounds) -> Book {
    Book::new(bounds, 0)
}

fn open(book: &mut Book, name: &str, wanted: &[&str]) -> Result<Lease, OpenError> {
    book.open(name, &patterns(wanted), None, (0, Instant::now()), |_| true)
}

/// How much waits in each queue, by name.
fn waiting(book: &Book) -> Vec<(String, u64)> {
    book.list().into_iter().map(|it| (it.name.to_string(), it.events)).collect()
}

#[test]
fn events_are_counted_where_they_are_wanted_and_once() {
    let mut book = book(Bounds::default());
    for (name, wanted) in
        [("all", &[">", "a.*", "a.b"][..]), ("some", &["a.*"]), ("one", &["c"]), ("none", &["d"])]
    {
        open(&mut book, name, wanted).unwrap();
    }
    let events = [event("a.b", "1"), event("c", "1"), event("a.c", "1"), event("x", "1")];
    book.count(1, events.iter());
    let due = [("all", 4), ("none", 0), ("one", 1), ("some", 2)];
    assert_eq!(waiting(&book), due.map(|(name, count)| (name.to_owned(), count)));
}

#[test]
fn one_consumer_is_let_in_at_a_time_and_the_patterns_stay_those_of_the_first() {
    let mut book = book(Bounds::default());
    let first = open(&mut book, "q", &["a"]).unwrap();
    assert_eq!(open(&mut book, "q", &["b"]).unwrap_err(), OpenError::Taken);
    book.get_mut(first.number).unwrap().release(None, Instant::now());
    let second = open(&mut book, "q", &["b"]).unwrap();
    assert_eq!(second.number, first.number);
    assert_eq!(*second.patterns, *patterns(&["a"]));
}

#[test]
fn who_may_not_have_what_is_in_it_is_not_let_in() {
    let mut book = book(Bounds::default());
    let lease = open(&mut book, "q", &["a", "b"]).unwrap();
    book.get_mut(lease.number).unwrap().release(None, Instant::now());
    let may_have = |wanted: &[Pattern]| wanted == patterns(&["a"]);
    let opened =
        book.open("q", &patterns(&["a"]), None, (0, Instant::now()), may_have).map(|it| it.number);
    assert_eq!(opened, Err(OpenError::Forbidden));
    assert!(book.get(lease.number).unwrap().consumer.is_none());
}

#[test]
fn only_the_same_ticket_takes_a_place_over() {
    let [one, other] = ["one", "other"].map(|text| Some(Digest::of(text)));
    for (holds, shows, due) in [
        (one, one, OpenError::TakenOver),
        (one, other, OpenError::Taken),
        (one, None, OpenError::Taken),
        (None, one, OpenError::Taken),
        (None, None, OpenError::Taken),
    ] {
        let mut book = book(Bounds::default());
        let now = (0, Instant::now());
        book.open("q", &patterns(&["a"]), holds, now, |_| true).unwrap();
        let opened = book.open("q", &patterns(&["a"]), shows, now, |_| true);
        assert_eq!(opened.unwrap_err(), due);
    }
}

#[test]
fn there_are_no_more_queues_than_may_be() {
    let mut book = book(Bounds { queues_max: 2, ..Bounds::default() });
    let first = open(&mut book, "a", &["a"]).unwrap();
    open(&mut book, "b", &["a"]).unwrap();
    assert_eq!(open(&mut book, "c", &["a"]).unwrap_err(), OpenError::TooMany);
    // One that is there is no further one.
    assert_eq!(open(&mut book, "a", &["a"]).unwrap_err(), OpenError::Taken);
    book.remove(first.number).unwrap();
    open(&mut book, "c", &["a"]).unwrap();
}

#[test]
fn one_that_is_made_again_is_another() {
    let mut book = book(Bounds::default());
    let first = open(&mut book, "q", &["a"]).unwrap();
    let record = book.get(first.number).unwrap().record();
    book.remove(first.number).unwrap();
    assert!(book.get(first.number).is_none() && book.find("q").is_none());
    let second = open(&mut book, "q", &["b"]).unwrap();
    assert_ne!(second.number, first.number);
    // What was written of the first says nothing of the second.
    book.note_saved(vec![record]);
    assert!(book.get(second.number).unwrap().saved.is_none());
    book.count(1, [event("a", "1"), event("b", "1")].iter());
    assert_eq!(waiting(&book), [("q".to_owned(), 1)]);
    // Nor after a restart.
    let mut restarted = self::book(Bounds::default());
    restarted.restore(book.get(second.number).unwrap().record(), Instant::now());
    let third = open(&mut restarted, "other", &["a"]).unwrap();
    assert!(third.number > second.number);
}

#[test]
fn what_is_too_much_is_taken_off_where_nobody_consumes_and_is_counted() {
    let mut book = book(Bounds { events_max: 2, ..Bounds::default() });
    let lease = open(&mut book, "q", &["a"]).unwrap();
    let events: Vec<_> = (0..5).map(|_| event("a", "1")).collect();
    book.count(1, events.iter());
    let found: Vec<_> = (1..).zip(events).collect();
    // Its consumer does so itself.
    assert!(book.neglected().is_empty());
    book.trim(lease.number, 0, &found);
    assert_eq!(book.dropped(), 0);
    book.get_mut(lease.number).unwrap().release(None, Instant::now());
    assert_eq!(book.neglected().len(), 1);
    // What was found from another place is not what comes next.
    book.trim(lease.number, 1, &found[1..]);
    assert_eq!(book.dropped(), 0);
    book.trim(lease.number, 0, &found);
    let queue = book.get(lease.number).unwrap();
    assert_eq!((queue.place(), queue.before_next()), (3, Before::Gap));
    assert_eq!((book.dropped(), waiting(&book)), (3, vec![("q".to_owned(), 2)]));
    assert!(book.neglected().is_empty());
}

#[test]
fn what_is_wanted_begins_at_the_furthest_place_that_is_written_down() {
    let mut book = book(Bounds::default());
    assert_eq!(book.wanted_from(), None);
    let lease = open(&mut book, "q", &["a"]).unwrap();
    assert_eq!(book.wanted_from(), Some(0));
    book.note_saved(vec![book.get(lease.number).unwrap().record()]);
    assert!(book.unsaved().is_empty());
    book.count(1, [event("a", "1"), event("a", "1")].iter());
    book.acknowledge(lease.number, 1, 1);
    // A restart would begin at the place that is written.
    assert_eq!(book.wanted_from(), Some(0));
    let unsaved = book.unsaved();
    assert_eq!(unsaved.len(), 1);
    book.note_saved(unsaved.into_iter().map(|(record, _)| record).collect());
    assert_eq!(book.wanted_from(), Some(1));
}

#[test]
fn queues_expire_by_their_own_time() {
    let begun = Instant::now();
    let mut book = book(Bounds { expires: Duration::from_secs(9), ..Bounds::default() });
    let [kept, idle] = ["kept", "idle"].map(|name| open(&mut book, name, &["a"]).unwrap().number);
    book.get_mut(idle).unwrap().release(None, begun);
    book.get_mut(kept).unwrap().release(None, begun + Duration::from_secs(5));
    let mut expire = |after| -> Vec<u64> {
        let expired = book.expire(begun + Duration::from_secs(after));
        expired.iter().map(|queue| queue.number).collect()
    };
    for (after, expired) in [(8, vec![]), (9, vec![idle]), (13, vec![]), (14, vec![kept])] {
        assert_eq!(expire(after), expired, "{after}");
    }
    assert!(book.is_empty());
}
