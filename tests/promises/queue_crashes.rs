//! Durable queues over deaths and restarts (WIRE 7), judged as every other way out is.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::process::Signal;
use serde_json::value::RawValue;
use tokio::task::JoinHandle;

use crate::client::fire;
use crate::crashes::{Doors, restart_listen};
use crate::gateway::{Gateway, House, PATIENCE, TOKEN};
use crate::history::{Hearing, History, Note};
use crate::measures::until;
use crate::publishers::{Manner, Publishers};
use crate::queue_stream::{QueueStream, again, data, listed, make, numbered, wait_for_listing};
use crate::replay::fire_numbers;
use crate::resuming::FENCE;

/// A consumer that comes back until it has heard the fence.
struct Consuming {
    heard: Arc<AtomicU64>,
    task: JoinHandle<Hearing>,
}

/// The members of a CloudEvent, each as it was written.
type Heard = BTreeMap<String, Box<RawValue>>;

impl Consuming {
    /// Consumes what `Publishers` fire; with places it says what it has seen last.
    async fn begin(url: &str, has_places: bool) -> Self {
        let heard = Arc::<AtomicU64>::default();
        let url = format!(
            "{url}/queue?id=load-{has_places}&type=load.*&type={FENCE}&format=cloudevents&\
             cursor={has_places}"
        );
        let (counted, (is_open, opened)) = (Arc::clone(&heard), tokio::sync::oneshot::channel());
        let task = tokio::spawn(consume(url, counted, is_open));
        opened.await.unwrap();
        Self { heard, task }
    }

    async fn wait_for_more(&self, count: u64) {
        let due = self.heard.load(Ordering::SeqCst) + count;
        let enough = async || (self.heard.load(Ordering::SeqCst) >= due).then_some(());
        until("events that are consumed", enough).await;
    }

    async fn hear_the_fence(mut self) -> Hearing {
        let ended = tokio::time::timeout(PATIENCE, &mut self.task).await;
        ended.expect("the fence is consumed").unwrap()
    }
}

impl Drop for Consuming {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn consume(
    url: String,
    heard: Arc<AtomicU64>,
    is_open: tokio::sync::oneshot::Sender<()>,
) -> Hearing {
    let (mut hearing, mut seen) = (Hearing { is_whole: true, notes: Vec::new() }, BTreeSet::new());
    let (mut last, mut is_open) = (String::new(), Some(is_open));
    loop {
        let request = reqwest::Client::new().get(&url).header("last-event-id", &last);
        let request = request.header("authorization", format!("Basic {TOKEN}"));
        let Ok(response) = request.send().await.and_then(reqwest::Response::error_for_status)
        else {
            // As a client would: not at once, where there may be nobody.
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        };
        if let Some(is_open) = is_open.take() {
            is_open.send(()).unwrap();
        }
        let mut stream = QueueStream::begin(response).await;
        while let Some(block) = stream.block().await {
            if block == ":\n\n" {
                continue;
            }
            let (head, json) = block.split_once("data: ").unwrap();
            assert!(!head.contains("event:"), "{block}");
            let event: Heard = serde_json::from_str(json).unwrap();
            let cursor = event["cursor"].get().trim_matches('"');
            if let Some((_, id)) = head.trim_end().rsplit_once("id: ") {
                assert_eq!(id, cursor);
                last = id.to_owned();
            }
            if event["type"].get().trim_matches('"') == FENCE {
                return hearing;
            }
            // What comes again says so; what does not say so is for the judge.
            let is_new = seen.insert(cursor.to_owned());
            if is_new || !head.starts_with(": redelivered\n") {
                hearing.notes.push(Note::Event(as_native(&event)));
                heard.fetch_add(1, Ordering::SeqCst);
            }
        }
    }
}

/// An event as a native session would have heard it.
fn as_native(event: &Heard) -> String {
    let member = |name: &str| event[name].get();
    let [event_type, data, cursor] = ["type", "data", "cursor"].map(member);
    let [id, time, source] = ["id", "time", "source"].map(member);
    format!(
        r#"{{"type":"event","event":{event_type},"data":{data},"cursor":{cursor},"id":{id},"time":{time},"source":{source}}}"#
    )
}

/// Fires under the deaths of processes; every event comes once, or again with its mark.
async fn play(mut deaths: impl AsyncFnMut(Gateway) -> Gateway) {
    let doors = Doors::choose();
    let mut gateway = doors.house().open();
    let url = gateway.broadcast.url();
    let consumers = [false, true].map(|has_places| Consuming::begin(&url, has_places));
    let consumers = futures_util::future::join_all(consumers).await;
    let publishers = Publishers::begin(&gateway.event_url(), &Manner::modest());
    for _ in 0..3 {
        publishers.wait_for_more(16).await;
        gateway = deaths(gateway).await;
        publishers.wait_for_more(16).await;
        for consumer in &consumers {
            consumer.wait_for_more(16).await;
        }
    }
    let fired = publishers.stop().await;
    fire(&gateway, FENCE, "null").await;
    let hearings = consumers.into_iter().map(Consuming::hear_the_fence);
    let hearings = futures_util::future::join_all(hearings).await;
    History { fired, hearings }.expect_faultless();
}

#[tokio::test]
async fn broadcast_killed_under_load_takes_nothing_from_a_queue_and_marks_what_comes_again() {
    play(async |gateway| gateway.restart_broadcast(Signal::KILL).await).await;
}

#[tokio::test]
async fn listen_killed_under_load_takes_nothing_from_a_queue() {
    play(async |gateway| restart_listen(gateway, Signal::KILL).await).await;
}

#[tokio::test]
async fn a_restart_under_load_takes_nothing_from_a_queue() {
    play(async |gateway| gateway.restart_broadcast(Signal::TERM).await).await;
}

#[tokio::test]
async fn what_waits_in_a_queue_survives_kill_9_of_both() {
    let gateway = Gateway::open();
    make(&gateway, "q", "type=a").await;
    fire_numbers(&gateway, "a", 0..10).await;
    let mut stream = QueueStream::open(&gateway.broadcast, "id=q").await;
    assert_eq!(stream.messages(4).await, numbered(0..4));
    drop(stream);
    wait_for_listing(&gateway.broadcast, "q", &[("consumers", 0)]).await;
    let gateway = restart_listen(gateway, Signal::KILL).await;
    let gateway = gateway.restart_broadcast(Signal::KILL).await;
    let queue = listed(&gateway.broadcast).await.remove(0);
    let left = wait_for_listing(&gateway.broadcast, "q", &[("consumers", 0)]).await;
    assert_eq!(queue["types"], left["types"]);
    let mut stream = QueueStream::open(&gateway.broadcast, "id=q").await;
    let mut last = stream.message().await;
    let mut numbers = vec![last.clone()];
    while last != data("9") && last != again("9") {
        last = stream.message().await;
        numbers.push(last.clone());
    }
    // What the client had in its hands when it left may be more than it has looked at.
    let rest = numbered(0..10).split_off(10 - numbers.len());
    let unmarked: Vec<_> =
        numbers.iter().map(|it| it.trim_start_matches(": redelivered\n").to_owned()).collect();
    assert_eq!(unmarked, rest);
    assert!(numbers[1..].iter().all(|it| !it.starts_with(": redelivered")), "{numbers:?}");
}

/// Nobody was given what came after the end of the process.
#[tokio::test]
async fn an_idle_consumer_over_kill_9_gets_what_follows_unmarked() {
    let gateway = Gateway::open();
    let mut stream = QueueStream::open(&gateway.broadcast, "id=q&type=a").await;
    fire_numbers(&gateway, "a", 0..1).await;
    assert_eq!(stream.message().await, data("0"));
    wait_for_listing(&gateway.broadcast, "q", &[("events", 0)]).await;
    let gateway = gateway.restart_broadcast(Signal::KILL).await;
    while stream.block().await.is_some() {}
    fire_numbers(&gateway, "a", 1..2).await;
    let mut stream = QueueStream::open(&gateway.broadcast, "id=q").await;
    let first = stream.message().await;
    // Its acknowledgement may not have been written yet.
    let next = if first == again("0") { stream.message().await } else { first };
    assert_eq!(next, data("1"));
}

#[tokio::test]
async fn a_stop_ends_a_queues_stream_cleanly_and_what_it_had_does_not_come_again() {
    let gateway = Gateway::open();
    let mut stream = QueueStream::open(&gateway.broadcast, "id=q&type=a").await;
    fire_numbers(&gateway, "a", 0..3).await;
    assert_eq!(stream.messages(3).await, numbered(0..3));
    let ended = tokio::spawn(stream.ended());
    let gateway = gateway.restart_broadcast(Signal::TERM).await;
    assert_eq!(ended.await.unwrap(), Vec::<String>::new());
    fire_numbers(&gateway, "a", 3..6).await;
    let mut stream = QueueStream::open(&gateway.broadcast, "id=q").await;
    assert_eq!(stream.messages(3).await, numbered(3..6));
}

#[tokio::test]
async fn a_new_log_is_a_gap_for_every_queue_once() {
    let mut gateway = Gateway::open();
    make(&gateway, "q", "type=a").await;
    fire_numbers(&gateway, "a", 0..5).await;
    let Gateway { listen, broadcast, house } = gateway;
    assert!(tokio::task::spawn_blocking(move || broadcast.stop()).await.unwrap().success());
    for entry in fs::read_dir(house.folder.path().join("data")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if name.starts_with("log.") || name == "identity.json" {
            fs::remove_file(path).unwrap();
        }
    }
    gateway = Gateway { broadcast: house.broadcast(), listen, house };
    fire_numbers(&gateway, "a", 5..8).await;
    let mut stream = QueueStream::open(&gateway.broadcast, "id=q").await;
    assert!(stream.message().await.starts_with("event: gateway.gap\n"));
    assert_eq!(stream.messages(3).await, numbered(5..8));
    drop(stream);
    wait_for_listing(&gateway.broadcast, "q", &[("consumers", 0)]).await;
    let mut stream = QueueStream::open(&gateway.broadcast, "id=q").await;
    fire_numbers(&gateway, "a", 8..9).await;
    assert_eq!(stream.message().await, data("8"));
    drop(stream);
    wait_for_listing(&gateway.broadcast, "q", &[("consumers", 0)]).await;
    fire_numbers(&gateway, "a", 9..11).await;
    // The log is the same from now on: nothing is missing.
    for signal in [Signal::KILL, Signal::TERM] {
        gateway = gateway.restart_broadcast(signal).await;
        wait_for_listing(&gateway.broadcast, "q", &[("events", 2)]).await;
    }
    let mut stream = QueueStream::open(&gateway.broadcast, "id=q").await;
    // Killed before it was written that the consumer has left, it may have given the next one.
    let first = stream.message().await;
    assert_eq!(first.trim_start_matches(": redelivered\n"), data("9"));
    assert_eq!(stream.message().await, data("10"));
}

#[tokio::test]
async fn in_memory_a_queue_works_within_a_run_and_leaves_no_file() {
    let gateway = House::new().set("DURABILITY", "memory").open();
    make(&gateway, "q", "type=a").await;
    fire_numbers(&gateway, "a", 0..20).await;
    wait_for_listing(&gateway.broadcast, "q", &[("events", 20)]).await;
    let mut stream = QueueStream::open(&gateway.broadcast, "id=q").await;
    assert_eq!(stream.messages(20).await, numbered(0..20));
    drop(stream);
    let gateway = gateway.restart_broadcast(Signal::TERM).await;
    assert!(listed(&gateway.broadcast).await.is_empty());
    assert!(!gateway.house.folder.path().join("data/queues.sqlite").exists());
}

#[tokio::test]
async fn a_list_of_queues_that_is_damaged_stops_the_start_and_says_where() {
    let gateway = Gateway::open();
    make(&gateway, "q", "type=a").await;
    let Gateway { listen, broadcast, house } = gateway;
    assert!(tokio::task::spawn_blocking(move || broadcast.stop()).await.unwrap().success());
    drop(listen);
    let path = house.folder.path().join("data/queues.sqlite");
    // From what was not in the file yet all of it could be made again.
    for beside in ["-wal", "-shm"] {
        let _ = fs::remove_file(format!("{}{beside}", path.display()));
    }
    fs::write(&path, "this is no database".repeat(500)).unwrap();
    let refused = crate::gateway::Process::try_start("broadcast", &house.settings);
    let (ended, log) = refused.err().expect("it does not start");
    assert_eq!(ended.code(), Some(1), "{log}");
    assert!(log.contains("queues.sqlite"), "{log}");
}
