use std::time::Duration;

use tempfile::TempDir;

use super::*;
use crate::log::identity::DATABASE_NAME;
use crate::log::page::tests::{ACCEPTED, event};
use crate::log::retention::Reserve;

const AGE_MAX: Duration = Duration::from_secs(60);

fn bounds(events_max: u64) -> Retention {
    Retention::new(events_max, 1 << 30, AGE_MAX, Reserve::default())
}

struct House {
    folder: TempDir,
    store: Store,
    earliest: u64,
}

impl House {
    fn new(events_max: u64) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store =
            Store::open(&folder.path().join(DATABASE_NAME), false, bounds(events_max)).unwrap();
        Self { folder, store, earliest: 0 }
    }

    fn reopen(self, events_max: u64) -> Self {
        let Self { folder, store, earliest } = self;
        drop(store);
        let store =
            Store::open(&folder.path().join(DATABASE_NAME), false, bounds(events_max)).unwrap();
        Self { folder, store, earliest }
    }

    fn append(&mut self, count: u64) {
        let first = self.store.last() + 1;
        let events: Vec<Event> =
            (first..first + count).map(|it| event("a", &it.to_string())).collect();
        let pages = Page::split(first, &events, ACCEPTED);
        let earliest = &mut self.earliest;
        self.store.append(&pages, &events, ACCEPTED.age_ms, |it| *earliest = it).unwrap();
    }

    fn offsets(&self) -> Vec<u64> {
        let pages = self.store.pages_after(0).unwrap();
        pages.iter().flat_map(|it| it.events().unwrap()).map(|(offset, _)| offset).collect()
    }
}

#[test]
fn what_is_appended_is_there_after_another_opening() {
    let mut house = House::new(1000);
    house.append(3);
    house.append(100);
    let totals = house.store.totals();
    let house = house.reopen(1000);
    assert_eq!(house.offsets(), (1..=103).collect::<Vec<_>>());
    assert_eq!((house.store.last(), house.store.earliest()), (103, 0));
    assert_eq!((house.store.totals(), totals.0), (totals, 103));
    assert_eq!(house.store.kept().unwrap().age_ms, ACCEPTED.age_ms);
}

#[test]
fn the_oldest_are_freed_with_each_commit_and_readers_are_told_before() {
    let mut house = House::new(10);
    for _ in 0..30 {
        house.append(1);
    }
    assert_eq!(house.offsets(), (21..=30).collect::<Vec<_>>());
    assert_eq!((house.earliest, house.store.earliest()), (20, 20));
    assert_eq!(house.store.totals().0, 10);
}

#[test]
fn a_bound_that_was_lowered_is_reached_in_steps_while_nothing_comes() {
    let mut house = House::new(1000);
    for _ in 0..600 {
        house.append(1);
    }
    let mut house = house.reopen(10);
    let mut steps = 0;
    while house.store.free_some(ACCEPTED.age_ms, |_| {}).unwrap() {
        steps += 1;
    }
    assert_eq!((house.store.totals().0, steps), (10, 2));
}

#[test]
fn when_all_is_freed_for_its_age_offsets_are_still_remembered() {
    let mut house = House::new(1000);
    house.append(5);
    let later = ACCEPTED.age_ms + 62_000;
    let earliest = &mut house.earliest;
    assert!(!house.store.free_some(later, |it| *earliest = it).unwrap());
    assert_eq!((house.offsets(), house.earliest), (vec![], 5));
    let house = house.reopen(1000);
    assert_eq!((house.store.last(), house.store.earliest()), (5, 5));
    assert_eq!(house.store.kept().unwrap().age_ms, later);
}

#[test]
fn segments_are_counted_like_their_pages() {
    let mut house = House::new(20_000);
    for _ in 0..25 {
        house.append(1000);
    }
    let count =
        |sql: &str| -> i64 { house.store.connection.query_row(sql, [], |row| row.get(0)).unwrap() };
    assert!(count("SELECT count(*) FROM segments") > 0);
    let totals = house.store.totals();
    assert!(totals.0 <= 20_000);
    let house = house.reopen(20_000);
    assert_eq!(house.store.totals(), totals);
}

#[test]
fn another_programs_database_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(DATABASE_NAME);
    Connection::open(&path).unwrap().execute_batch("CREATE TABLE mine (a)").unwrap();
    assert!(matches!(Store::open(&path, false, bounds(1)), Err(StoreError::Foreign)));
    std::fs::write(&path, b"no database").unwrap();
    assert!(matches!(Store::open(&path, false, bounds(1)), Err(StoreError::Database(_))));
}

/// Rows that are lost are still counted by their segment: the bounds are kept by what is there,
/// and nobody frees for ever what is not.
#[test]
fn a_database_that_lost_rows_is_still_freed_to_an_end() {
    let mut house = House::new(1000);
    for _ in 0..300 {
        house.append(1);
    }
    house.store.connection.execute("DELETE FROM pages WHERE first BETWEEN 70 AND 120", []).unwrap();
    let mut house = house.reopen(10);
    let mut steps = 0;
    while house.store.free_some(ACCEPTED.age_ms, |_| {}).unwrap() {
        steps += 1;
        assert!(steps < 1000, "it ends");
    }
    house.append(3);
    assert_eq!(house.offsets(), [301, 302, 303]);
    assert_eq!((house.store.totals().0, house.store.earliest()), (3, 300));
}
