use std::ops::RangeInclusive;
use std::time::Duration;

use fastrand::Rng;
use shared::pattern::Pattern;
use tempfile::TempDir;

use super::*;
use crate::filter::{Narrow, SourceRule};
use crate::log::identity::DATABASE_NAME;
use crate::log::page::Acceptance;
use crate::log::page::tests::event;
use crate::log::retention::{Reserve, Retention};
use crate::log::store::Store;

mod damage;

const TYPES: [&str; 6] = ["a", "a.b", "a.b.c", "b", "b.x", "c.d"];
const SOURCES: [&str; 4] = ["/x", "/x/1", "/x/2", "/y"];
const PATTERNS: [&str; 10] = ["a", "a.b", "a.*", "a.>", "*", "b.x", "c.>", "rare", "never", ">"];
const RULES: [&str; 6] = ["/x", "/x/*", "/x*", "/y", "*", "/none"];

/// A log of random events, and what it must have.
struct House {
    folder: TempDir,
    store: Store,
    reading: Reading,
    kept: Vec<Kept>,
}

struct Kept {
    offset: u64,
    event: Event,
    wall_us: i64,
}

/// What somebody wants, said in the simplest way.
#[derive(Debug)]
struct Wish {
    patterns: Vec<(&'static str, u64)>,
    sources: Vec<&'static str>,
    subject: Option<&'static str>,
}

impl House {
    fn open(events_max: u64) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(DATABASE_NAME);
        let store = Store::open(&path, false, bounds(events_max)).unwrap();
        let reading = Reading { connection: Connection::open(&path).unwrap() };
        Self { folder, store, reading, kept: Vec::new() }
    }

    /// Some thousand events over many segments: commits of one event and of many, some that failed
    /// in between, a large range that was never kept, and the oldest freed.
    fn random(rng: &mut Rng) -> Self {
        let mut house = Self::open(4000);
        let mut wall_us = 1_000_000_000;
        for commit in 0..400 {
            let count = if rng.bool() { 1 } else { rng.u64(1..60) };
            let gap = match commit {
                300 => 1 << 20,
                _ => u64::from(rng.u8(0..10) == 0) * rng.u64(1..5),
            };
            wall_us += rng.i64(-300..600) * if rng.u8(0..20) == 0 { 1000 } else { 1 };
            house.append(gap, (0..count).map(|_| random_event(rng)).collect(), wall_us);
            if rng.u8(0..40) == 0 {
                house.store = Store::open(&house.path(), false, bounds(4000)).unwrap();
            }
        }
        let earliest = house.store.earliest();
        house.kept.retain(|it| it.offset > earliest);
        assert!(earliest > 0 && house.kept.len() > 3000, "{}", house.kept.len());
        house
    }

    fn path(&self) -> std::path::PathBuf {
        self.folder.path().join(DATABASE_NAME)
    }

    fn append(&mut self, gap: u64, events: Vec<Event>, wall_us: i64) {
        let first = self.store.last() + 1 + gap;
        let pages = Page::split(first, &events, Acceptance { wall_us, age_ms: 1000 });
        self.store.append(&pages, &events, 1000, |_| {}).unwrap();
        let kept = (first..).zip(events);
        self.kept.extend(kept.map(|(offset, event)| Kept { offset, event, wall_us }));
    }

    /// Walks from a place to the end; gives what was found.
    fn walk(
        &mut self,
        after: u64,
        filter: &Filter,
        bytes_max: usize,
    ) -> Result<Vec<(u64, Event)>, StoreError> {
        let (mut place, mut found) = (after, Vec::new());
        loop {
            let excerpt = self.reading.read(place, filter, bytes_max)?;
            assert!(excerpt.events.iter().all(|(at, _)| (place + 1..=excerpt.place).contains(at)));
            found.extend(excerpt.events);
            if excerpt.place == place {
                assert_eq!(place, after.max(self.store.last()), "it ends at the end alone");
                return Ok(found);
            }
            assert!(excerpt.place > place, "it goes forward");
            place = excerpt.place;
        }
    }

    /// Looks back from a place for so many; gives how many there were, and the earliest.
    fn walk_back(&mut self, from: u64, wanted: usize, filter: &Filter) -> (usize, Option<u64>) {
        let (mut found, mut earliest, mut rest) = (0, None, Some(from));
        while let Some(place) = rest.filter(|_| found < wanted) {
            let back = self.reading.look_back(place, wanted - found, filter).unwrap();
            assert!(back.rest.is_none_or(|rest| rest < place), "it goes back");
            found += back.found;
            earliest = back.earliest.or(earliest);
            rest = back.rest;
        }
        (found, earliest)
    }

    /// A place: of an event, between events, before the first or behind the last.
    fn some_place(&self, rng: &mut Rng) -> u64 {
        match rng.u8(0..8) {
            0 => 0,
            1 => self.store.last() + rng.u64(0..3),
            2 => rng.u64(0..self.store.last()),
            3 => self.store.earliest(),
            _ => self.kept[rng.usize(0..self.kept.len())].offset,
        }
    }
}

impl Wish {
    fn random(rng: &mut Rng, places: RangeInclusive<u64>) -> Self {
        let mut some = |from: &[&'static str], count| -> Vec<&'static str> {
            (0..count).map(|_| from[rng.usize(0..from.len())]).collect()
        };
        let (patterns, sources) = (some(&PATTERNS, 3), some(&RULES, 2));
        let mut patterns: Vec<(&str, u64)> =
            patterns.into_iter().map(|text| (text, 0)).take(rng.usize(1..4)).collect();
        patterns.dedup();
        patterns.sort_unstable();
        patterns.dedup_by_key(|(text, _)| *text);
        for (_, after) in &mut patterns {
            *after = if rng.u8(0..4) == 0 { rng.u64(places.clone()) } else { 0 };
        }
        let sources = sources.into_iter().take(rng.usize(0..6).saturating_sub(3)).collect();
        let subject = (rng.u8(0..4) == 0).then_some("s");
        Self { patterns, sources, subject }
    }

    fn filter(&self) -> Filter {
        let sources = self.sources.iter().map(|it| SourceRule::parse(it)).collect();
        let narrow = Narrow { sources, subject: self.subject.map(Into::into), ..Narrow::default() };
        let mut filter = Filter::new([], narrow);
        for (text, after) in &self.patterns {
            filter.add(&Pattern::parse(*text).unwrap(), *after);
        }
        filter
    }

    fn wants(&self, kept: &Kept) -> bool {
        let Kept { offset, event, .. } = kept;
        let matches = |text: &str| Pattern::parse(text).unwrap().matches(event.event_type.as_str());
        let comes_from = |rule: &&str| match rule.strip_suffix('*') {
            Some(prefix) => event.source.starts_with(prefix),
            None => *event.source == **rule,
        };
        self.patterns.iter().any(|(text, after)| offset > after && matches(text))
            && (self.sources.is_empty() || self.sources.iter().any(comes_from))
            && self.subject.is_none_or(|subject| event.subject.as_deref() == Some(subject))
    }
}

fn bounds(events_max: u64) -> Retention {
    Retention::new(events_max, 1 << 40, Duration::from_secs(60), Reserve::default())
}

fn random_event(rng: &mut Rng) -> Event {
    let event_type = if rng.u16(0..500) == 0 { "rare" } else { TYPES[rng.usize(0..TYPES.len())] };
    let length = if rng.u8(0..40) == 0 { rng.usize(0..100_000) } else { rng.usize(0..50) };
    Event {
        source: SOURCES[rng.usize(0..SOURCES.len())].into(),
        subject: ["s", "t"].get(rng.usize(0..4)).map(|it| (*it).into()),
        ..event(event_type, &format!("\"{}\"", "x".repeat(length)))
    }
}

/// What is read from any place on is what a look at every single event finds: all of it, in order,
/// once; and it ends.
#[test]
fn a_walk_finds_what_a_naive_scan_finds() {
    for seed in 0..4 {
        let mut rng = Rng::with_seed(seed);
        let mut house = House::random(&mut rng);
        for _ in 0..60 {
            let wish = Wish::random(&mut rng, 0..=house.store.last());
            let after = house.some_place(&mut rng);
            let bytes_max = rng.usize(1..200_000);
            let found = house.walk(after, &wish.filter(), bytes_max).unwrap();
            let wanted = house.kept.iter().filter(|it| it.offset > after && wish.wants(it));
            let expected: Vec<_> = wanted.map(|it| (it.offset, it.event.clone())).collect();
            assert!(found == expected, "seed {seed}, {wish:?} after {after}");
        }
    }
}

#[test]
fn a_look_back_finds_the_place_that_a_naive_search_finds() {
    for seed in 10..14 {
        let mut rng = Rng::with_seed(seed);
        let mut house = House::random(&mut rng);
        for _ in 0..60 {
            let wish = Wish::random(&mut rng, 0..=house.store.last());
            let from = house.some_place(&mut rng);
            let most = if rng.bool() { 20 } else { 3000 };
            let wanted = rng.usize(0..most);
            let found = house.walk_back(from, wanted, &wish.filter());
            let before = house.kept.iter().rev().filter(|it| it.offset <= from && wish.wants(it));
            let expected: Vec<u64> = before.map(|it| it.offset).take(wanted).collect();
            let expected = (expected.len(), expected.last().copied());
            assert_eq!(found, expected, "seed {seed}, {wanted} of {wish:?} from {from}");
        }
    }
}

/// The wall clock may have been set back and forth: the first event at or after a time is meant,
/// whatever was said of those behind it.
#[test]
fn since_a_time_is_since_the_first_event_of_it_though_the_clock_jumped() {
    for seed in 20..24 {
        let mut rng = Rng::with_seed(seed);
        let mut house = House::random(&mut rng);
        let walls: Vec<i64> = house.kept.iter().map(|it| it.wall_us).collect();
        let (low, high) = (walls.iter().min().unwrap(), walls.iter().max().unwrap());
        for _ in 0..200 {
            let wall_us = match rng.bool() {
                true => walls[rng.usize(0..walls.len())] + rng.i64(-1..2),
                false => rng.i64(low - 2..high + 3),
            };
            let expected = house.kept.iter().find(|it| it.wall_us >= wall_us);
            let expected = expected.map(|it| it.offset - 1);
            assert_eq!(house.reading.since(wall_us).unwrap(), expected, "seed {seed}, {wall_us}");
        }
    }
}

#[test]
fn an_empty_log_is_read_to_its_end_at_once() {
    let mut house = House::open(10);
    let all = Wish { patterns: vec![(">", 0)], sources: vec![], subject: None }.filter();
    assert_eq!(house.walk(0, &all, 100).unwrap(), []);
    assert_eq!(house.walk_back(0, 3, &all), (0, None));
    assert_eq!(house.walk_back(7, 3, &all), (0, None));
    assert_eq!(house.reading.since(0).unwrap(), None);
}
