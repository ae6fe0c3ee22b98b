use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use futures_util::FutureExt as _;
use shared::event::Event;
use shared::pattern::Pattern;
use tempfile::TempDir;
use tokio::runtime;

use super::*;
use crate::filter::Narrow;
use crate::log::keeper::{Durability, Keeper, Opened, Settings};
use crate::log::page::Acceptance;
use crate::log::page::tests::event;
use crate::queues::queue::Bounds;

/// An archive of epoch `now` that has 11 to 20, all in memory.
fn archive(whole_from: u64) -> Arc<Archive> {
    Archive::new("now".parse().unwrap(), (10, 20), whole_from, Recent::new(1, 20), Vec::new())
}

#[test]
fn a_cursor_is_recovered_where_all_that_follows_it_is_kept() {
    const WHOLE: Option<Recovery> = Some(Recovery::Whole);
    const BROKEN: Option<Recovery> = Some(Recovery::Broken { earliest: 10 });
    let table = [
        ("now-10", 10, WHOLE),
        ("now-15", 15, WHOLE),
        ("now-20", 20, WHOLE),
        // Older than the log: what is kept follows.
        ("now-9", 10, BROKEN),
        ("now-0", 10, BROKEN),
        // Beyond its end, or of another epoch: only what is live follows.
        ("now-21", 18, BROKEN),
        ("then-15", 18, BROKEN),
    ];
    for (cursor, place, recovered) in table {
        let opening = archive(0).resume(&cursor.parse().unwrap(), 18);
        assert_eq!(opening, Opening { place, recovered }, "{cursor}");
    }
}

#[test]
fn a_cursor_before_a_loss_is_not_whole_but_what_is_kept_follows() {
    let broken = Some(Recovery::Broken { earliest: 15 });
    let archive = archive(15);
    for (offset, place, recovered) in
        [(15, 15, Some(Recovery::Whole)), (14, 14, broken), (10, 10, broken), (3, 10, broken)]
    {
        let cursor = archive.epoch.at(offset);
        assert_eq!(archive.resume(&cursor, 20), Opening { place, recovered }, "{offset}");
    }
}

/// A keeper and its archive, of small bounds.
struct House {
    keeper: Keeper,
    archive: Arc<Archive>,
    _folder: TempDir,
}

impl House {
    fn open(durability: Durability, events_max: u64, cache_bytes: usize) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let settings = Settings {
            folder: folder.path().to_owned(),
            durability,
            events_max,
            bytes_max: 1 << 30,
            age_max: Duration::from_secs(3600),
            cache_bytes,
            queues: Bounds::default(),
        };
        let Opened { keeper, archive, .. } = Opened::open(&settings).unwrap();
        Self { keeper, archive, _folder: folder }
    }

    fn append(&mut self, wall_us: i64, types: &[&str]) {
        append(&mut self.keeper, &self.archive, wall_us, types);
    }
}

fn append(keeper: &mut Keeper, archive: &Archive, wall_us: i64, types: &[&str]) {
    let first = archive.end() + 1;
    let events: Vec<Event> =
        (first..).zip(types).map(|(offset, it)| event(it, &offset.to_string())).collect();
    let accepted = Acceptance { wall_us, age_ms: keeper.clock().now_ms() };
    keeper.append(Page::split(first, &events, accepted), &events).unwrap();
}

fn wanting(pattern: &str) -> Arc<Filter> {
    let pattern = Pattern::parse(pattern.to_owned()).unwrap();
    Arc::new(Filter::new([&pattern], Narrow::default()))
}

/// Walks to the end that there is when it comes there.
async fn walk(archive: &Archive, after: u64, filter: &Arc<Filter>) -> Result<Vec<u64>, ReadError> {
    let (mut place, mut found) = (after, Vec::new());
    while place < archive.end() {
        let excerpt = archive.read(place, filter, 2000).await?;
        assert!(excerpt.place > place, "it goes forward");
        assert!(
            excerpt.events.iter().all(|(_, event)| filter.may_want_type(event.event_type.as_str()))
        );
        found.extend(excerpt.events.iter().map(|(offset, _)| *offset));
        place = excerpt.place;
    }
    Ok(found)
}

#[tokio::test]
async fn a_walk_over_the_seam_between_disk_and_memory_finds_everything_once() {
    // What of the newest is in memory: nothing, one page, some, all.
    for cache_bytes in [0, 200, 5000, 1 << 20] {
        let mut house = House::open(Durability::Written, 1 << 20, cache_bytes);
        for number in 0..150 {
            house.append(number, &["a", "b", "a"][..usize::try_from(number % 3).unwrap() + 1]);
        }
        let all: Vec<u64> = (1..=house.archive.end()).collect();
        for after in [0, 1, 100, 290, 299, 300] {
            let found = walk(&house.archive, after, &wanting(">")).await.unwrap();
            assert_eq!(
                found,
                all[usize::try_from(after).unwrap()..],
                "{cache_bytes} after {after}"
            );
        }
        let some = walk(&house.archive, 0, &wanting("b")).await.unwrap();
        assert_eq!(some.len(), 100, "{cache_bytes}");
    }
}

#[tokio::test]
async fn whoever_reads_what_was_freed_is_told() {
    for durability in [Durability::Written, Durability::Memory] {
        let mut house = House::open(durability, 10, 1 << 20);
        for number in 0..50 {
            house.append(number, &["a"]);
        }
        let (earliest, end) = (house.archive.earliest(), house.archive.end());
        assert_eq!((earliest, end), (40, 50));
        for after in [0, 1, 39] {
            let read = walk(&house.archive, after, &wanting("a")).await;
            assert_eq!(read, Err(ReadError::Freed), "{durability:?} after {after}");
            // One who wants none of it has missed nothing that he could know of: he is told, too.
            assert_eq!(walk(&house.archive, after, &wanting("b")).await, Err(ReadError::Freed));
        }
        let found = walk(&house.archive, 40, &wanting("a")).await.unwrap();
        assert_eq!(found, (41..=50).collect::<Vec<_>>(), "{durability:?}");
        assert_eq!(walk(&house.archive, 50, &wanting("a")).await, Ok(vec![]));
        assert!(!house.archive.health().is_damaged.load(Ordering::Relaxed));
    }
}

#[tokio::test]
async fn each_start_finds_its_place_on_disk_and_in_memory() {
    for (durability, cache_bytes) in
        [(Durability::Written, 0), (Durability::Written, 1 << 20), (Durability::Memory, 1 << 20)]
    {
        let mut house = House::open(durability, 20, cache_bytes);
        // 11 to 30 are left; the wall clock was set back at 21.
        for number in 1..=30 {
            let wall_us = if number > 20 { number - 10 } else { number };
            house.append(1000 * wall_us, &[if number % 10 == 0 { "b" } else { "a" }]);
        }
        let epoch = house.archive.epoch.clone();
        let whole = Some(Recovery::Whole);
        let broken = Some(Recovery::Broken { earliest: 10 });
        let table = [
            (Start::Live, 29, None),
            (Start::First, 10, whole),
            (Start::After(epoch.at(10)), 10, whole),
            (Start::After(epoch.at(30)), 30, whole),
            (Start::After(epoch.at(9)), 10, broken),
            (Start::After(epoch.at(31)), 29, broken),
            (Start::Since(0), 10, whole),
            (Start::Since(15_000), 14, whole),
            (Start::Since(15_001), 15, whole),
            (Start::Since(20_000), 19, whole),
            (Start::Since(20_001), 30, whole),
            (Start::Last(0), 30, None),
            (Start::Last(1), 29, None),
            (Start::Last(2), 19, None),
            (Start::Last(3), 19, None),
            (Start::Last(10_000), 19, None),
        ];
        for (start, place, recovered) in table {
            let opening = house.archive.open(&start, &wanting("b"), 29).await.unwrap();
            assert_eq!(opening, Opening { place, recovered }, "{durability:?}, {start:?}");
        }
        let opening = house.archive.open(&Start::Last(5), &wanting("c"), 29).await.unwrap();
        assert_eq!(opening.place, 30, "nothing of it is kept");
    }
}

#[tokio::test]
async fn each_start_of_an_empty_log_is_its_beginning() {
    for durability in [Durability::Written, Durability::Memory] {
        let house = House::open(durability, 20, 1 << 20);
        for start in [Start::Live, Start::First, Start::Since(7), Start::Last(3)] {
            let opening = house.archive.open(&start, &wanting("a"), 0).await.unwrap();
            assert_eq!(opening.place, 0, "{durability:?}, {start:?}");
        }
    }
}

/// Nothing of that time is there yet, and it comes while the answer is on its way: it is behind the
/// place all the same.
#[tokio::test]
async fn what_comes_while_a_time_is_looked_for_is_behind_its_place() {
    let mut house = House::open(Durability::Written, 100, 1 << 20);
    house.append(1000, &["a"]);
    let archive = Arc::clone(&house.archive);
    let (filter, start) = (wanting("a"), Start::Since(2000));
    let mut opening = Box::pin(archive.open(&start, &filter, 1));
    // The readers have something else to do until the question is put.
    let gates = archive.readers.iter().map(|reader| {
        let (open, gate) = mpsc::channel::<()>();
        let held = reader.ask(move |_| {
            let _ = gate.recv();
            Ok(())
        });
        assert!(Box::pin(held).as_mut().now_or_never().is_none());
        open
    });
    let gates: Vec<_> = gates.collect();
    assert!(opening.as_mut().now_or_never().is_none(), "the disk is asked");
    drop(gates);
    // When each reader has done one more thing, the first is done, too.
    for _ in &archive.readers {
        archive.place_since(0).await.unwrap();
    }
    house.append(2000, &["a"]);
    let opening = opening.await.unwrap();
    assert_eq!(walk(&archive, opening.place, &filter).await.unwrap(), [2]);
}

/// One thread keeps and frees as fast as it can; whoever walks meanwhile has every event behind
/// his place, or is told that some are gone.
#[test]
fn a_reader_beside_a_log_that_frees_has_no_gap_that_he_is_not_told_of() {
    for (durability, cache_bytes) in
        [(Durability::Written, 3000), (Durability::Written, 0), (Durability::Memory, 1 << 20)]
    {
        const COMMITS: usize = 1500;
        let House { mut keeper, archive, _folder } = House::open(durability, 300, cache_bytes);
        let appending = Arc::clone(&archive);
        let log = thread::spawn(move || {
            for commit in 0..COMMITS {
                append(&mut keeper, &appending, 0, &["a", "b", "a", "a", "b"][..commit % 5 + 1]);
                if commit % 50 == 0 {
                    keeper.tidy().unwrap();
                }
            }
        });
        let walkers: Vec<_> = [">", "a", "b"]
            .map(|text| {
                let (archive, filter) = (Arc::clone(&archive), wanting(text));
                let runtime = runtime::Builder::new_current_thread().build().unwrap();
                thread::spawn(move || runtime.block_on(beside(&archive, &filter)))
            })
            .into_iter()
            .collect();
        log.join().unwrap();
        let ended: Vec<(u64, u64)> = walkers.into_iter().map(|it| it.join().unwrap()).collect();
        assert!(ended.iter().all(|(read, _)| *read > 0), "{durability:?}: {ended:?}");
    }
}

/// Reads until 4,500 are kept; gives how many events were read, and how often some were gone.
async fn beside(archive: &Archive, filter: &Arc<Filter>) -> (u64, u64) {
    let (mut place, mut read, mut freed) = (0, 0, 0);
    while place < 4500 {
        match archive.read(place, filter, 500).await {
            Ok(excerpt) => {
                let expected = (place + 1..=excerpt.place)
                    .filter(|offset| filter.may_want_type(type_of(*offset)));
                let found = excerpt.events.iter().map(|(offset, _)| *offset);
                assert!(found.eq(expected), "behind {place}: {:?}", excerpt.place);
                read += u64::try_from(excerpt.events.len()).unwrap();
                place = excerpt.place;
            }
            Err(ReadError::Freed) => {
                assert!(place < archive.earliest(), "only what is gone is told as gone");
                place = archive.earliest();
                freed += 1;
            }
            Err(ReadError::Damaged) => panic!("nothing is damaged"),
        }
    }
    (read, freed)
}

/// Commits of one to five events, over and over: "a", "b", "a", "a", "b" as far as they go.
fn type_of(offset: u64) -> &'static str {
    match (offset - 1) % 15 {
        2 | 4 | 7 | 11 | 14 => "b",
        _ => "a",
    }
}
