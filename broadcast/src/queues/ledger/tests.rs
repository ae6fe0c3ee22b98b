//! Queues that are written down, and read again.

use std::fs;

use super::*;

const EPOCH: &str = "k3f9a2";

fn epoch(text: &str) -> Epoch {
    text.parse().unwrap()
}

fn record(number: u64, name: &str, place: u64) -> Record {
    let patterns: Vec<_> =
        ["a.>", "b\"\\ü"].map(|it| Pattern::parse(it.to_owned()).unwrap()).into();
    Record {
        number,
        name: name.into(),
        patterns: patterns.into(),
        place,
        dropped: 3,
        has_gap: true,
        given: place + 1,
        is_open: true,
        acknowledged: place,
    }
}

/// Writes changes with a clerk, and reads what is kept then.
async fn written(path: &Path, changes: Vec<Change>) -> Vec<Kept> {
    let (_, clerk) = start(path).unwrap();
    for change in changes {
        assert!(clerk.note(change).await);
    }
    drop(clerk);
    start(path).unwrap().0
}

#[tokio::test]
async fn what_is_written_is_read_again_whole() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("queues.sqlite");
    let made = [record(7, "ü \"'; --", 1), record(8, "b", 9)];
    for is_synced in [false, true] {
        let make = |it: &Record| Change::Make(it.clone(), epoch(EPOCH), is_synced);
        let kept = written(&path, made.iter().map(make).collect()).await;
        assert_eq!(kept, made.clone().map(|it| (it, epoch(EPOCH))));
    }
}

#[tokio::test]
async fn what_changes_is_written_with_its_epoch_and_what_is_gone_stays_away() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("queues.sqlite");
    let moved = Record { has_gap: false, is_open: false, ..record(7, "a", 20) };
    let make = |it: Record| Change::Make(it, epoch(EPOCH), false);
    let changes = vec![
        make(record(7, "a", 1)),
        make(record(8, "b", 2)),
        Change::Keep(
            vec![moved.clone(), record(8, "b", 3), record(9, "never made", 1)],
            epoch("x"),
        ),
        Change::Remove(8),
        Change::Keep(vec![record(8, "b", 4)], epoch("x")),
    ];
    assert_eq!(written(&path, changes).await, [(moved, epoch("x"))]);
}

/// Whoever removes a queue and whoever makes it again do not wait for one another.
#[tokio::test]
async fn a_late_removal_does_not_take_the_queue_that_was_made_since() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("queues.sqlite");
    let make = |it: Record| Change::Make(it, epoch(EPOCH), false);
    let again = record(2, "a", 5);
    let late = Change::Keep(vec![record(1, "a", 1)], epoch(EPOCH));
    let changes = vec![make(record(1, "a", 1)), make(again.clone()), Change::Remove(1), late];
    assert_eq!(written(&path, changes).await, [(again, epoch(EPOCH))]);
}

#[tokio::test]
async fn a_file_that_is_damaged_is_not_taken_for_an_empty_one() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("queues.sqlite");
    fs::write(&path, "this is no database, and long enough to be seen as none".repeat(99)).unwrap();
    assert!(start(&path).is_err());
    for column in ["patterns = '[\"\"]'", "patterns = 'x'", "epoch = '-'", "place = -1"] {
        let path = folder.path().join(format!("{}.sqlite", column.len()));
        let make = Change::Make(record(1, "a", 1), epoch(EPOCH), false);
        assert_eq!(written(&path, vec![make]).await.len(), 1);
        let connection = Connection::open(&path).unwrap();
        connection.execute(&format!("UPDATE queues SET {column}"), []).unwrap();
        drop(connection);
        assert!(start(&path).is_err(), "{column}");
    }
}
