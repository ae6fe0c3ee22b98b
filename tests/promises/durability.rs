//! What outlives a process, and what makes a log another one (WIRE 0 "cursor", HARDENING "Kept
//! events").

use std::fs;
use std::path::Path;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::client::{Subscriber, event, fire};
use crate::gateway::{Gateway, House, Process};
use crate::history::Cursor;
use crate::replay::{Replay, all_kept, cursor_of, fire_numbers, numbers};

fn epoch_of(cursor: &str) -> String {
    Cursor::parse(cursor).unwrap().epoch
}

async fn live_cursor(gateway: &Gateway) -> String {
    Replay::begin(&gateway.broadcast, &["a"], json!({"cursor": true})).await.cursor()
}

/// Whether a resume is whole, and what comes.
async fn resumed(gateway: &Gateway, after: &str) -> (Value, Vec<u64>) {
    let after = json!({"after": after});
    let mut replay = Replay::begin(&gateway.broadcast, &["a"], after).await;
    let recovered = replay.answer["recovered"].clone();
    (recovered, numbers(&replay.rest(gateway).await))
}

/// Copies the files of a folder, over those that are there.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy(&entry.path(), &to),
            false => drop(fs::copy(entry.path(), to).unwrap()),
        }
    }
}

/// Stops `broadcast`, does something to its folder, and starts it.
async fn stopped_for(gateway: Gateway, change: impl FnOnce(&Path)) -> Gateway {
    let Gateway { listen, broadcast, house } = gateway;
    let stopped = tokio::task::spawn_blocking(move || broadcast.stop()).await.unwrap();
    assert!(stopped.success(), "{stopped}");
    change(Path::new(&house.settings["DATA_DIR"]));
    let broadcast = house.broadcast();
    Gateway { listen, broadcast, house }
}

#[tokio::test]
async fn a_restart_keeps_every_event_its_cursor_and_the_epoch() {
    for durability in ["written", "synced"] {
        let mut gateway = House::new().set("DURABILITY", durability).open();
        fire_numbers(&gateway, "a", 0..10).await;
        let mut kept = all_kept(&gateway, &["a"]).await;
        for (number, signal) in (10..).zip([Signal::TERM, Signal::KILL, Signal::KILL, Signal::INT])
        {
            gateway = gateway.restart_broadcast(signal).await;
            assert_eq!(all_kept(&gateway, &["a"]).await, kept, "{durability} {signal:?}");
            let (recovered, behind) = resumed(&gateway, &cursor_of(&kept[3])).await;
            assert_eq!((recovered, behind), (json!(true), (4..number).collect()));
            fire_numbers(&gateway, "a", number..number + 1).await;
            let now = all_kept(&gateway, &["a"]).await;
            let cursors: Vec<_> =
                now.iter().map(|event| Cursor::parse(&cursor_of(event)).unwrap()).collect();
            assert!(cursors.windows(2).all(|two| two[0] < two[1]), "{cursors:?}");
            assert_eq!(cursors[0].epoch, cursors.last().unwrap().epoch);
            kept = now;
        }
    }
}

/// Whoever was cut off by the restart and has heard all has nothing to fear.
#[tokio::test]
async fn the_last_cursor_before_a_restart_is_recovered_behind_it() {
    let mut gateway = Gateway::open();
    for (number, signal) in [Signal::KILL, Signal::TERM, Signal::KILL].into_iter().enumerate() {
        let mut replay = Replay::begin(&gateway.broadcast, &["a"], json!({"cursor": true})).await;
        let number = number as u64 * 2;
        let empty_handed = replay.cursor();
        fire_numbers(&gateway, "a", number..number + 1).await;
        let last = cursor_of(&replay.hear_event().await);
        gateway = gateway.restart_broadcast(signal).await;
        assert_eq!(resumed(&gateway, &last).await, (json!(true), vec![]));
        assert_eq!(resumed(&gateway, &empty_handed).await, (json!(true), vec![number]));
        fire_numbers(&gateway, "a", number + 1..number + 2).await;
        assert_eq!(resumed(&gateway, &last).await, (json!(true), vec![number + 1]));
    }
}

/// No client sees an event that a restart could forget: what was heard is kept.
#[tokio::test]
async fn what_a_client_has_seen_is_there_after_kill_9() {
    let mut gateway = Gateway::open();
    for round in 0..5 {
        let mut replay = Replay::begin(&gateway.broadcast, &["a"], json!({"cursor": true})).await;
        let url = gateway.event_url();
        let firing = tokio::spawn(async move {
            let client = reqwest::Client::new();
            // Until nobody answers, or nobody hears.
            for number in 0..200 {
                let request = client.post(&url).body(format!(r#"{{"event":"a","data":{number}}}"#));
                let authorization = format!("Basic {}", crate::gateway::TOKEN);
                if request.header("authorization", authorization).send().await.is_err() {
                    return;
                }
            }
        });
        let mut seen = Vec::new();
        for _ in 0..20 + round * 10 {
            seen.push(replay.hear_event().await);
        }
        gateway = gateway.restart_broadcast(Signal::KILL).await;
        firing.abort();
        let kept = all_kept(&gateway, &["a"]).await;
        assert!(seen.iter().all(|event| kept.contains(event)), "round {round}");
    }
}

#[tokio::test]
async fn a_log_that_was_removed_begins_another_epoch() {
    let gateway = Gateway::open();
    fire_numbers(&gateway, "a", 0..5).await;
    let old = cursor_of(&all_kept(&gateway, &["a"]).await[2]);
    let gateway = stopped_for(gateway, |data| fs::remove_dir_all(data).unwrap()).await;
    assert_ne!(epoch_of(&live_cursor(&gateway).await), epoch_of(&old));
    assert_eq!(resumed(&gateway, &old).await, (json!(false), vec![]));
    fire_numbers(&gateway, "a", 5..8).await;
    // Even where an event now has the old one's number.
    assert_eq!(resumed(&gateway, &old).await, (json!(false), vec![]));
    assert_eq!(resumed(&gateway, "first").await, (json!(true), vec![5, 6, 7]));
}

/// A copy of the log was put in its place: what was fired since then has gone, and its cursors name
/// other events now.
async fn assert_a_copy_is_another_epoch(restore: impl FnOnce(&Path, &Path)) {
    let gateway = Gateway::open();
    fire_numbers(&gateway, "a", 0..5).await;
    let backup = gateway.house.folder.path().join("backup");
    let gateway = stopped_for(gateway, |data| copy(data, &backup)).await;
    fire_numbers(&gateway, "a", 5..10).await;
    let before = all_kept(&gateway, &["a"]).await;
    let gateway = stopped_for(gateway, |data| restore(data, &backup)).await;
    fire_numbers(&gateway, "a", 20..25).await;
    let epoch = epoch_of(&live_cursor(&gateway).await);
    assert_ne!(epoch, epoch_of(&cursor_of(&before[7])));
    assert_eq!(resumed(&gateway, &cursor_of(&before[7])).await, (json!(false), vec![]));
    let now = all_kept(&gateway, &["a"]).await;
    let reused = now.iter().find(|event| {
        let same = before.iter().find(|it| it["cursor"] == event["cursor"]);
        same.is_some_and(|same| same != *event)
    });
    assert_eq!(reused, None, "a cursor names two events");
    assert!(numbers(&now).ends_with(&[20, 21, 22, 23, 24]));
}

#[tokio::test]
async fn a_copy_of_the_log_that_is_renamed_into_its_place_is_another_epoch() {
    assert_a_copy_is_another_epoch(|data, backup| {
        fs::rename(data, data.with_extension("old")).unwrap();
        fs::rename(backup, data).unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_copy_of_the_log_that_is_written_over_it_is_another_epoch() {
    assert_a_copy_is_another_epoch(|data, backup| copy(backup, data)).await;
}

#[tokio::test]
async fn in_memory_a_run_can_be_resumed_and_the_next_one_is_another_epoch() {
    let mut gateway = House::new().set("DURABILITY", "memory").open();
    let mut old: Option<String> = None;
    for signal in [Signal::TERM, Signal::KILL, Signal::TERM] {
        let first = live_cursor(&gateway).await;
        if let Some(old) = old {
            assert_ne!(epoch_of(&first), epoch_of(&old));
            assert_eq!(resumed(&gateway, &old).await, (json!(false), vec![]));
        }
        fire_numbers(&gateway, "a", 0..50).await;
        assert_eq!(resumed(&gateway, &first).await, (json!(true), (0..50).collect()));
        let kept = all_kept(&gateway, &["a"]).await;
        let (recovered, behind) = resumed(&gateway, &cursor_of(&kept[39])).await;
        assert_eq!((recovered, behind), (json!(true), (40..50).collect()));
        old = Some(cursor_of(&kept[39]));
        gateway = gateway.restart_broadcast(signal).await;
    }
}

/// It ends by itself, and its message names the setting.
fn assert_refused_for_its_folder(house: &House) {
    let Err((ended, log)) = Process::try_start("broadcast", &house.settings) else {
        panic!("it serves");
    };
    assert!(ended.code().is_some_and(|code| code != 0), "{ended}: {log}");
    assert!(log.contains("DATA_DIR") && !log.contains("panicked"), "{log}");
}

#[tokio::test]
async fn a_second_broadcast_on_the_same_folder_ends_with_a_clear_message() {
    let gateway = Gateway::open();
    let mut subscriber = Subscriber::subscribe(&gateway.broadcast, &["a"]).await;
    fire(&gateway, "a", "1").await;
    subscriber.hear().await;
    // A link of its own: it is the folder alone that they share.
    let other = House::new().set("DATA_DIR", &gateway.house.settings["DATA_DIR"]);
    assert_refused_for_its_folder(&other);
    fire(&gateway, "a", "2").await;
    assert_eq!(subscriber.hear().await, event("a", "2"));
    let gateway = gateway.restart_broadcast(Signal::KILL).await;
    assert_eq!(resumed(&gateway, "first").await, (json!(true), vec![1, 2]));
}

#[test]
fn a_folder_that_cannot_be_written_stops_the_process_with_a_clear_message() {
    let house = House::new();
    let file = house.folder.path().join("file");
    fs::write(&file, "no folder").unwrap();
    let house = house.set("DATA_DIR", file.join("data").display());
    assert_refused_for_its_folder(&house);
}
