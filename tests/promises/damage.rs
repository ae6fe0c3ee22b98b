//! Damaged files of the log are reported with their names, nothing of them is deleted, and nothing
//! is invented (HARDENING, "Kept events").

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};

use rustix::process::Signal;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use crate::client::Subscriber;
use crate::gateway::{Gateway, House, Process, TOKEN};
use crate::measures::{degraded, until};
use crate::replay::{all_kept, fire_padded, init};

/// What is done to a file, given its length.
#[derive(Debug, Clone, Copy)]
enum Damage {
    Garbage { at: fn(u64) -> u64, count: usize },
    Truncated { to: fn(u64) -> u64 },
}

const DAMAGES: [Damage; 5] = [
    Damage::Garbage { at: |_| 0, count: 100 },
    Damage::Garbage { at: |length| length / 2, count: 20_000 },
    Damage::Garbage { at: |_| 4096, count: 4096 },
    Damage::Truncated { to: |length| length / 2 },
    Damage::Truncated { to: |_| 10 },
];

impl Damage {
    fn apply(self, path: &Path) {
        let file = OpenOptions::new().write(true).open(path).unwrap();
        let length = file.metadata().unwrap().len();
        match self {
            Self::Garbage { at, count } => file.write_all_at(&vec![0xa5; count], at(length)),
            Self::Truncated { to } => file.set_len(to(length)),
        }
        .unwrap();
    }
}

/// The files of a folder that hold something.
fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = entries.filter(|path| fs::metadata(path).unwrap().len() > 0).collect();
    files.sort();
    files
}

/// A folder with 300 events of 2 KiB, left by a process that ended in this way; and the events.
async fn left_by(signal: Signal) -> (House, PathBuf, Vec<Value>) {
    let gateway = Gateway::open();
    fire_padded(&gateway, "a", 0..300, 2048).await;
    let kept = all_kept(&gateway, &["a"]).await;
    let Gateway { listen, mut broadcast, house } = gateway;
    broadcast.signal(signal);
    tokio::task::spawn_blocking(move || broadcast.wait()).await.unwrap();
    drop(listen);
    let original = house.folder.path().join("original");
    fs::rename(&house.settings["DATA_DIR"], &original).unwrap();
    (house, original, kept)
}

/// What a session gets that begins at the first event: until all is there, or it is closed, or the
/// operator is told that something is wrong.
async fn readable(broadcast: &Process, count: usize) -> Vec<Value> {
    let mut subscriber = Subscriber::connect(broadcast).await;
    subscriber.say(&init(TOKEN, &["a"], json!({"after": "first"}))).await;
    let mut events = Vec::new();
    while events.len() < count {
        let told = until("a word on what is missing", async || {
            (!degraded(broadcast).await.is_empty()).then_some(())
        });
        let message = tokio::select! {
            message = subscriber.next() => message,
            () = told => return events,
        };
        let Message::Text(text) = message else { return events };
        let message: Value = serde_json::from_str(&text).unwrap();
        match message["type"] == "init" {
            true => assert_eq!(message["code"], "OK", "{text}"),
            false => events.push(message),
        }
    }
    events
}

/// Whether two are the same event, whatever their places.
fn is_same(event: &Value, other: &Value) -> bool {
    let of = |it: &Value| (it["id"].clone(), it["event"].clone(), it["data"].clone());
    of(event) == of(other)
}

/// Whether the process ends with a word that names the file, or serves and hides nothing.
async fn assert_reported(house: &House, path: &Path, kept: &[Value], what: &str) {
    let settings = house.settings.clone();
    let damaged = fs::read(path).unwrap();
    let start = move || Process::try_start("broadcast", &settings);
    match tokio::task::spawn_blocking(start).await.unwrap() {
        Ok(broadcast) => {
            let events = readable(&broadcast, kept.len()).await;
            // A copy is another epoch: the cursors differ, the events must not.
            let is_known = |event: &Value| kept.iter().any(|it| is_same(event, it));
            assert!(events.iter().all(is_known), "{what}: invented");
            let is_told = !degraded(&broadcast).await.is_empty();
            let is_whole = events.len() == kept.len();
            assert!(is_whole || is_told, "{what}: {} events, and no word", events.len());
            assert!(path.exists(), "{what}: it is gone");
            assert!(!broadcast.log().contains("panicked"), "{what}: {}", broadcast.log());
        }
        Err((ended, log)) => {
            assert_eq!(ended.signal(), None, "{what}: {ended}");
            assert_ne!(ended.code(), Some(0), "{what}");
            let name = path.file_name().unwrap().to_str().unwrap();
            let is_named = |line: &str| line.contains(r#""level":"error""#) && line.contains(name);
            assert!(log.lines().any(is_named), "{what}: {log}");
            assert!(!log.contains("panicked"), "{what}: {log}");
            assert!(fs::read(path).unwrap() == damaged, "{what}: it was changed");
        }
    }
}

async fn assert_all_damage_is_reported(signal: Signal) {
    let (house, original, kept) = left_by(signal).await;
    let data = PathBuf::from(&house.settings["DATA_DIR"]);
    let databases: Vec<_> = files(&original).into_iter().filter(|it| is_database(it)).collect();
    assert!(!databases.is_empty(), "no database in {:?}", files(&original));
    for (file, damage) in databases.iter().flat_map(|it| DAMAGES.map(|damage| (it, damage))) {
        let name = file.file_name().unwrap();
        fs::create_dir(&data).unwrap();
        for file in files(&original) {
            fs::copy(&file, data.join(file.file_name().unwrap())).unwrap();
        }
        damage.apply(&data.join(name));
        assert_reported(&house, &data.join(name), &kept, &format!("{name:?} {damage:?}")).await;
        fs::remove_dir_all(&data).unwrap();
    }
}

/// What SQLite keeps for good: what stands beside it may be dropped without a loss.
fn is_database(path: &Path) -> bool {
    fs::read(path).unwrap().starts_with(b"SQLite format 3\0")
}

#[tokio::test]
async fn damage_after_a_stop_is_reported_by_name_and_nothing_is_deleted_or_invented() {
    assert_all_damage_is_reported(Signal::TERM).await;
}

#[tokio::test]
async fn damage_after_kill_9_is_reported_by_name_and_nothing_is_deleted_or_invented() {
    assert_all_damage_is_reported(Signal::KILL).await;
}

/// A tail that a power loss has torn is no damage: what was there before it is served.
#[tokio::test]
async fn a_torn_tail_costs_the_tail_and_neither_the_rest_nor_the_start() {
    let (house, original, kept) = left_by(Signal::KILL).await;
    let Some(wal) = files(&original).into_iter().find(|it| it.to_str().unwrap().ends_with("-wal"))
    else {
        panic!("no write-ahead log in {:?}", files(&original));
    };
    let file = OpenOptions::new().write(true).open(&wal).unwrap();
    file.set_len(file.metadata().unwrap().len() - 1000).unwrap();
    fs::rename(&original, &house.settings["DATA_DIR"]).unwrap();
    let gateway = house.open();
    let now = all_kept(&gateway, &["a"]).await;
    assert!(now.len() <= kept.len());
    let all_same = now.iter().zip(&kept).all(|(now, before)| is_same(now, before));
    assert!(all_same, "not a beginning of what was kept");
    // No offset is given twice: what the tail held names nothing else now.
    fire_padded(&gateway, "a", 1000..1020, 10).await;
    let reused: Vec<_> = all_kept(&gateway, &["a"])
        .await
        .into_iter()
        .filter(|event| {
            kept.iter().any(|it| it["cursor"] == event["cursor"] && it["id"] != event["id"])
        })
        .collect();
    assert!(reused.is_empty(), "given twice: {reused:?}");
}
