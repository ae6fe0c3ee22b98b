//! The rules of one queue, as tables.

use super::*;
use crate::log::page::tests::event;

/// A queue that wants everything behind a place.
pub(crate) fn queue(place: u64, now: Instant) -> Queue {
    let all = Pattern::parse(">".to_owned()).unwrap();
    Queue::new(1, "q".into(), [all].into(), place, now)
}

fn bounds(events_max: u64, bytes_max: u64) -> Bounds {
    Bounds { events_max, bytes_max, ..Bounds::default() }
}

/// A queue at 0 in which the events 1 to `count` wait.
fn filled(count: u64) -> Queue {
    let mut queue = queue(0, Instant::now());
    (1..=count).for_each(|offset| queue.count(offset, &event("a", "1")));
    queue
}

/// What a consumer gets that acknowledges each event: offsets, and whether they are marked.
fn take_all(queue: &mut Queue, offsets: std::ops::RangeInclusive<u64>) -> Vec<(u64, bool)> {
    let end = *offsets.end();
    let mut given = Vec::new();
    for offset in offsets {
        if let Offer::Give { is_redelivered } =
            queue.offer(offset, &event("a", "1"), &Bounds::default(), end)
        {
            given.push((offset, is_redelivered));
            queue.acknowledge(offset, bytes(&event("a", "1")), end);
        }
    }
    given
}

fn waiting(queue: &Queue) -> (u64, u64) {
    (queue.listed().events, queue.listed().bytes)
}

#[test]
fn each_event_waits_once_until_it_is_acknowledged() {
    let mut queue = filled(3);
    // Two patterns that match it are one event.
    queue.count(3, &event("a", "1"));
    let one = bytes(&event("a", "1"));
    assert_eq!(waiting(&queue), (3, 3 * one));
    assert_eq!(take_all(&mut queue, 1..=3), [(1, false), (2, false), (3, false)]);
    assert_eq!((waiting(&queue), queue.place()), ((0, 0), 3));
    // What was acknowledged is not given, and not counted when the log says it late.
    assert_eq!(take_all(&mut queue, 1..=3), []);
    queue.count(3, &event("a", "1"));
    assert_eq!(waiting(&queue), (0, 0));
}

#[test]
fn an_event_that_is_acknowledged_before_it_is_counted_does_not_wait() {
    let mut queue = queue(0, Instant::now());
    queue.acknowledge(1, 100, 0);
    queue.count(1, &event("a", "1"));
    queue.count(2, &event("a", "1"));
    assert_eq!((queue.place(), waiting(&queue).0), (1, 1));
}

#[test]
fn the_oldest_are_dropped_down_to_the_bound_and_the_consumer_is_told() {
    let one = bytes(&event("a", "1"));
    for (bounds, due) in [
        (bounds(2, u64::MAX), 3),
        (bounds(u64::MAX, 2 * one), 3),
        (bounds(u64::MAX, 3 * one - 1), 3),
        // Any one event may wait.
        (bounds(u64::MAX, 1), 4),
        (bounds(5, 5 * one), 0),
    ] {
        let mut queue = filled(5);
        let offers = (1..=5).map(|offset| queue.offer(offset, &event("a", "1"), &bounds, 5));
        let dropped = offers.take_while(|offer| *offer == Offer::Drop).count();
        assert_eq!(dropped, due, "{bounds:?}");
        let listed = queue.listed();
        assert_eq!((listed.dropped, listed.place), (due as u64, due as u64));
        assert_eq!(queue.before_next() == Before::Gap, due > 0);
        queue.told();
        assert_eq!(queue.before_next(), Before::Nothing);
    }
}

#[test]
fn what_was_given_and_not_acknowledged_is_marked_and_nothing_else() {
    let now = Instant::now();
    let mut queue = filled(3);
    queue.release(None, now);
    assert_eq!(take_all(&mut queue, 1..=1), [(1, false)]);
    queue.release(Some(2), now);
    assert_eq!(take_all(&mut queue, 1..=3), [(2, true), (3, false)]);
}

#[test]
fn after_a_restart_the_next_event_is_marked_if_a_consumer_was_there() {
    for (has_consumer, marked) in [(true, true), (false, false)] {
        let mut queue = filled(3);
        assert_eq!(take_all(&mut queue, 1..=1), [(1, false)]);
        let look = Arc::new(Notify::new());
        queue.consumer = has_consumer.then_some(Seat { look, ticket: None });
        let mut restored = Queue::restore(queue.record(), 3, Instant::now());
        let due = [(2, marked), (3, false)];
        assert_eq!(take_all(&mut restored, 1..=3), due);
        // What was kept after the restart nobody can have been given before.
        let mut restored = Queue::restore(queue.record(), 1, Instant::now());
        assert_eq!(take_all(&mut restored, 2..=3), [(2, false), (3, false)]);
    }
}

#[test]
fn who_has_not_seen_all_that_was_written_gets_it_again_marked() {
    for (seen, kept_from, due, has_gap) in [
        (4, 0, vec![5], false),
        (9, 0, vec![5], false),
        (2, 0, vec![3, 4, 5], false),
        (0, 0, vec![1, 2, 3, 4, 5], false),
        // What it has not seen is not kept any more.
        (1, 2, vec![3, 4, 5], true),
        (1, 7, vec![5], true),
        // It has seen all that was.
        (4, 4, vec![5], false),
    ] {
        let mut queue = filled(5);
        take_all(&mut queue, 1..=4);
        queue.step_back(seen, kept_from);
        let record = queue.record();
        if let Before::Count(up_to) = queue.before_next() {
            assert_eq!(up_to, 4);
            queue.note_counted(queue.place(), up_to, up_to - queue.place(), 1);
            assert_eq!(waiting(&queue).0, 5 - queue.place());
        }
        assert_eq!(queue.before_next() == Before::Gap, has_gap, "{seen} {kept_from}");
        let marked: Vec<_> = due.iter().map(|offset| (*offset, *offset < 5)).collect();
        assert_eq!(take_all(&mut queue, 1..=5), marked, "{seen} {kept_from}");
        // The same after a restart in between.
        let mut restored = Queue::restore(record, 5, Instant::now());
        assert_eq!(take_all(&mut restored, 1..=5), marked, "{seen} {kept_from}");
    }
}

#[test]
fn a_step_back_while_the_rest_is_not_counted_yet_is_not_forgotten() {
    let mut queue = filled(5);
    take_all(&mut queue, 1..=3);
    let mut restored = Queue::restore(queue.record(), 5, Instant::now());
    assert_eq!(restored.before_next(), Before::Count(5));
    restored.step_back(1, 0);
    // A count that began at the old place is not true any more.
    restored.note_counted(3, 5, 2, 2);
    assert_eq!(restored.before_next(), Before::Count(5));
    restored.note_counted(1, 5, 4, 4);
    assert_eq!((restored.before_next(), waiting(&restored).0), (Before::Nothing, 4));
    let due = [(2, true), (3, true), (4, false), (5, false)];
    assert_eq!(take_all(&mut restored, 1..=5), due);
}

#[test]
fn a_mark_survives_a_step_back() {
    let mut queue = filled(5);
    take_all(&mut queue, 1..=3);
    queue.release(Some(4), Instant::now());
    queue.step_back(2, 0);
    assert_eq!(take_all(&mut queue, 1..=5), [(3, true), (4, true), (5, false)]);
}

#[test]
fn what_was_freed_is_a_gap_and_the_rest_is_counted_anew() {
    let mut queue = filled(5);
    queue.lose(3, 5);
    assert_eq!(
        (queue.place(), queue.before_next(), waiting(&queue)),
        (3, Before::Count(5), (0, 0))
    );
    queue.note_counted(3, 5, 2, 20);
    assert_eq!((queue.before_next(), waiting(&queue)), (Before::Gap, (2, 20)));
    // Of what is behind its place nothing was lost.
    let mut queue = filled(5);
    queue.lose(0, 5);
    assert_eq!((queue.place(), queue.before_next()), (0, Before::Nothing));
}

#[test]
fn an_empty_queue_rests_at_the_end_and_one_that_holds_something_stays() {
    for (count, place) in [(0, 9), (2, 0)] {
        let mut queue = filled(count);
        queue.rest(9);
        assert_eq!(queue.place(), place);
    }
    let mut queue = filled(0);
    queue.advance_from(1, 7);
    assert_eq!(queue.place(), 0);
    queue.advance_from(0, 7);
    assert_eq!(queue.place(), 7);
}

#[test]
fn a_queue_expires_only_without_a_consumer() {
    let begun = Instant::now();
    let bounds = Bounds { expires: Duration::from_secs(5), ..Bounds::default() };
    let mut queue = queue(0, begun);
    for (seconds, has_expired) in [(4, false), (5, true)] {
        let now = begun + Duration::from_secs(seconds);
        assert_eq!(queue.has_expired(&bounds, now), has_expired);
    }
    queue.consumer = Some(Seat { look: Arc::new(Notify::new()), ticket: None });
    let later = begun + Duration::from_secs(60);
    assert!(!queue.has_expired(&bounds, later));
    queue.release(None, later);
    assert!(!queue.has_expired(&bounds, later + Duration::from_secs(4)));
    assert!(queue.has_expired(&bounds, later + Duration::from_secs(5)));
}
