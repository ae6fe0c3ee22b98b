//! How much is kept (HARDENING, "Kept events"): by count, by bytes, by age; and what that does to
//! cursors.

use std::fs;
use std::path::Path;

use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::client::fire;
use crate::gateway::{Gateway, House, TOKEN};
use crate::measures::until;
use crate::replay::{Replay, all_kept, cursor_of, fire_numbers, fire_padded, numbers};

/// Fires so many numbered events, some at a time: in no order, and quickly.
async fn fire_quickly(gateway: &Gateway, range: std::ops::Range<u64>, bytes: usize) {
    let client = reqwest::Client::new();
    let mut firing = JoinSet::new();
    for lane in 0..16 {
        let (client, url, range) = (client.clone(), gateway.event_url(), range.clone());
        let padding = "x".repeat(bytes);
        firing.spawn(async move {
            for number in range.skip(lane).step_by(16) {
                let data = format!(r#"{{"n":{number},"padding":"{padding}"}}"#);
                let request = client
                    .post(&url)
                    .header("authorization", format!("Basic {TOKEN}"))
                    .body(format!(r#"{{"event":"a","data":{data}}}"#));
                assert_eq!(request.send().await.unwrap().status(), 200);
            }
        });
    }
    firing.join_all().await;
}

/// A bound may be exceeded by a tenth or by 1,000 events.
fn with_excess(bound: usize) -> usize {
    bound + (bound / 10).max(1000)
}

/// Waits until no more is kept than may be, and gives it.
async fn bounded(gateway: &Gateway, fits: impl Fn(&[Value]) -> bool) -> Vec<Value> {
    until("no more is kept than may be", async || {
        let kept = all_kept(gateway, &["a"]).await;
        fits(&kept).then_some(kept)
    })
    .await
}

#[tokio::test]
async fn no_more_events_are_kept_than_the_bound_and_first_gives_exactly_those() {
    let gateway = House::new().set("LOG_MAX_EVENTS", 1000).open();
    let mut live = Replay::begin(&gateway.broadcast, &["a"], json!({"cursor": true})).await;
    let oldest = live.cursor();
    let mut all = Vec::new();
    for round in 0..4 {
        fire_quickly(&gateway, round * 1000..(round + 1) * 1000, 10).await;
        all.extend(live.rest(&gateway).await);
    }
    assert_eq!(all.len(), 4000, "retention took something from a live session");
    let kept = bounded(&gateway, |kept| kept.len() <= with_excess(1000)).await;
    assert!(kept.len() >= 500, "only {} are kept", kept.len());
    // The newest, without a hole, as they were.
    assert!(all.ends_with(&kept));
    // What was freed is not recovered, and what is kept is.
    let gone = Replay::begin(&gateway.broadcast, &["a"], json!({"after": oldest})).await;
    assert_eq!(gone.answer["recovered"], false, "{}", gone.text);
    let newest = json!({"after": cursor_of(&all[3900])});
    let mut whole = Replay::begin(&gateway.broadcast, &["a"], newest).await;
    assert_eq!(whole.answer["recovered"], true, "{}", whole.text);
    assert_eq!(whole.rest(&gateway).await[..], all[3901..]);
    // `last` gives of them what there is.
    let mut last = Replay::begin(&gateway.broadcast, &["a"], json!({"last": 10_000})).await;
    let last = numbers(&last.rest(&gateway).await);
    assert!(numbers(&all).ends_with(&last) && last.len() >= 500, "{}", last.len());
}

#[tokio::test]
async fn no_more_bytes_are_kept_than_the_bound() {
    let bound = 4 * 1024 * 1024;
    let gateway = House::new().set("LOG_MAX_BYTES", "4MiB").open();
    let folder = |gateway: &Gateway| folder_bytes(Path::new(&gateway.house.settings["DATA_DIR"]));
    let excess = (bound / 10).max(1000 * 4096);
    for round in 0..3 {
        fire_quickly(&gateway, round * 2000..(round + 1) * 2000, 4096).await;
        bounded(&gateway, |kept| kept.len() * 4096 <= bound + excess).await;
    }
    // 24 MB were fired. Beside the events there are indexes, and what waits to be written back.
    // A slow disk is behind with that: it is begun anew by the events that come once it is done.
    until("less than 28 MiB are on the disk", async || {
        fire_quickly(&gateway, 6000..6001, 1).await;
        (folder(&gateway) < 28 * 1024 * 1024).then_some(())
    })
    .await;
    let kept = all_kept(&gateway, &["a"]).await;
    assert!(kept.len() >= 256, "only {} are kept", kept.len());
}

fn folder_bytes(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).unwrap().map(Result::unwrap);
    // A file may go while we look.
    entries.filter_map(|entry| entry.metadata().ok()).map(|it| it.len()).sum()
}

#[tokio::test]
async fn what_is_older_than_the_bound_is_freed_and_its_place_outlives_it() {
    let gateway = House::new().set("LOG_MAX_AGE", "2s").open();
    fire_numbers(&gateway, "a", 0..20).await;
    // Nothing else happens: it is the clock that frees them.
    bounded(&gateway, |kept| kept.is_empty()).await;
    let end = Replay::begin(&gateway.broadcast, &["c"], json!({"cursor": true})).await.cursor();
    // A log without events has its offsets still, after whatever end.
    let mut gateway = gateway;
    for signal in [Signal::KILL, Signal::TERM] {
        fire(&gateway, "b", "1").await;
        gateway = gateway.restart_broadcast(signal).await;
        let live = Replay::begin(&gateway.broadcast, &["c"], json!({"cursor": true})).await;
        let parsed = |cursor: &str| crate::history::Cursor::parse(cursor).unwrap();
        let (end, now) = (parsed(&end), parsed(&live.cursor()));
        assert_eq!(end.epoch, now.epoch);
        assert!(now.offset > end.offset, "{now:?} {end:?}");
    }
}

#[tokio::test]
async fn a_smaller_bound_is_kept_to_from_the_next_start() {
    let gateway = Gateway::open();
    fire_quickly(&gateway, 0..3000, 10).await;
    let all = all_kept(&gateway, &["a"]).await;
    assert_eq!(all.len(), 3000);
    let Gateway { listen, broadcast, house } = gateway;
    let house = house.set("LOG_MAX_EVENTS", 1000);
    let gateway = Gateway { listen, broadcast, house }.restart_broadcast(Signal::TERM).await;
    // Who reads what is being freed is told so, and closed: not here.
    until("what is beyond the bound is freed", async || {
        let kept = gateway.broadcast.metric("fanfare_log_events").await;
        (kept > 0.0 && kept <= 1000.0).then_some(())
    })
    .await;
    let kept = bounded(&gateway, |kept| kept.len() <= with_excess(1000)).await;
    assert!(all.ends_with(&kept) && kept.len() >= 500, "{}", kept.len());
}

/// With everything in memory the bounds are the same.
#[tokio::test]
async fn a_log_in_memory_has_its_bounds_too() {
    let gateway = House::new().set("DURABILITY", "memory").set("LOG_MAX_EVENTS", 1000).open();
    fire_quickly(&gateway, 0..4000, 10).await;
    let kept = bounded(&gateway, |kept| kept.len() <= with_excess(1000)).await;
    assert!(kept.len() >= 500, "only {} are kept", kept.len());
}

/// If retention frees the place of a session that still reads, it is told so, and comes back to the
/// truth (DESIGN, `CatchUp`).
#[tokio::test]
async fn a_session_whose_place_is_freed_is_closed_with_1013_and_not_served_with_a_gap() {
    let gateway = House::new().set("LOG_MAX_EVENTS", 1000).set("LOG_CACHE_BYTES", 65_536).open();
    fire_padded(&gateway, "a", 0..900, 16_384).await;
    let mut reading =
        crate::catch_up::narrow(&gateway.broadcast, TOKEN, &["a"], json!({"after": "first"})).await;
    // It has begun: until then it would begin with whatever is kept by now.
    let (_, first) = reading.read_frame().await;
    assert!(first.starts_with(br#"{"type":"event","event":"a","data":{"n":0,"#));
    fire_quickly(&gateway, 900..4000, 10).await;
    bounded(&gateway, |kept| kept.len() <= with_excess(1000)).await;
    // What it gets is whole, up to where it is closed: with 1013, or not so that it could read it.
    let (events, close) = frames(&reading.read_to_end().await);
    assert_eq!(numbers(&events), (1..=events.len() as u64).collect::<Vec<_>>());
    assert!(events.len() < 899, "it had been read already");
    assert!(close.is_none_or(|code| code == 1013), "{close:?} after {} events", events.len());
}

/// The events in what a server has sent, and the code of its Close.
fn frames(mut bytes: &[u8]) -> (Vec<Value>, Option<u16>) {
    let mut events = Vec::new();
    while let [first, length, rest @ ..] = bytes {
        let (length, rest) = match (length, rest) {
            (126, [high, low, rest @ ..]) => (u16::from_be_bytes([*high, *low]).into(), rest),
            (length, rest) => (usize::from(*length), rest),
        };
        // A reset may have come in the middle of one.
        let Some((payload, rest)) = rest.split_at_checked(length) else { break };
        match first {
            0x81 => events.push(serde_json::from_slice(payload).unwrap()),
            0x88 => return (events, Some(u16::from_be_bytes([payload[0], payload[1]]))),
            _ => {}
        }
        bytes = rest;
    }
    (events, None)
}
