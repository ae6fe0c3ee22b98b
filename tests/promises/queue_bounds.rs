//! What a durable queue holds, and how much (WIRE 7): kept and counted, given again, dropped, freed.

use std::time::Duration;

use crate::client::{answer, code, let_pass};
use crate::event_stream::ticket;
use crate::gateway::{Gateway, House, Process, TOKEN};
use crate::measures::until;
use crate::queue_stream::{
    BANNER, QueueStream, ask, ask_plainly, data, listed, make, numbered, refusal, wait_for_listing,
};
use crate::replay::{fire_numbers, fire_padded};
use crate::wire::Wire;

async fn delete(broadcast: &Process, name: &str) {
    let url = format!("{}/queues/{name}", broadcast.url());
    let request = reqwest::Client::new().delete(url);
    let response = request.header("authorization", format!("Basic {TOKEN}")).send().await.unwrap();
    assert_eq!(answer(response).await, (200, code("OK")));
}

/// What tells a consumer that events were dropped.
fn is_gap(message: &str) -> bool {
    let rest =
        message.strip_prefix("event: gateway.gap\ndata: {\"recovered\":false,\"earliest\":\"");
    rest.is_some_and(|rest| rest.ends_with("\"}\n\n"))
}

/// The `id:` of a message.
fn id(message: &str) -> String {
    let line = message.lines().find_map(|line| line.strip_prefix("id: "));
    line.expect("a message with its place").to_owned()
}

#[tokio::test]
async fn what_comes_while_nobody_consumes_is_kept_counted_and_given_in_order() {
    let gateway = Gateway::open();
    // It begins when it is made.
    fire_numbers(&gateway, "a", 90..95).await;
    make(&gateway, "q", "type=a").await;
    fire_numbers(&gateway, "a", 0..25).await;
    fire_numbers(&gateway, "b", 0..3).await;
    wait_for_listing(&gateway.broadcast, "q", &[("events", 25), ("dropped", 0)]).await;
    let mut stream = QueueStream::open(&gateway.broadcast, "id=q").await;
    assert_eq!(stream.messages(25).await, numbered(0..25));
    let queue = wait_for_listing(&gateway.broadcast, "q", &[("events", 0), ("bytes", 0)]).await;
    assert_eq!(queue["consumers"], 1);
    fire_numbers(&gateway, "a", 25..30).await;
    assert_eq!(stream.messages(5).await, numbered(25..30));
}

#[tokio::test]
async fn queues_do_not_take_from_one_another() {
    let gateway = Gateway::open();
    make(&gateway, "late", "type=a").await;
    let mut streams = Vec::new();
    for name in ["one", "two"] {
        streams.push(QueueStream::open(&gateway.broadcast, &format!("id={name}&type=a")).await);
    }
    fire_numbers(&gateway, "a", 0..10).await;
    for stream in &mut streams {
        assert_eq!(stream.messages(10).await, numbered(0..10));
    }
    streams.push(QueueStream::open(&gateway.broadcast, "id=late").await);
    assert_eq!(streams[2].messages(10).await, numbered(0..10));
}

#[tokio::test]
async fn who_leaves_right_after_a_message_does_not_get_it_again() {
    let gateway = Gateway::open();
    make(&gateway, "q", "type=a").await;
    for number in 0..20 {
        fire_numbers(&gateway, "a", number..number + 1).await;
        let mut stream = QueueStream::open(&gateway.broadcast, "id=q").await;
        assert_eq!(stream.message().await, data(&number.to_string()));
        drop(stream);
        // What is written to one that is about to leave may be lost.
        wait_for_listing(&gateway.broadcast, "q", &[("consumers", 0), ("events", 0)]).await;
    }
}

/// The message is larger than what the kernel takes for a client that does not read.
const LARGE: usize = 16 << 20;

/// A consumer on a plain socket who has seen the beginning of a large message, and no more.
async fn stuck(gateway: &Gateway, target: &str, head: &str) -> Wire {
    let mut wire = Wire::connect(&gateway.broadcast).await;
    wire.send(format!("GET {target} HTTP/1.1\r\nHost: test\r\n{head}\r\n")).await;
    assert!(wire.read_head().await.starts_with("HTTP/1.1 200 "));
    let mut seen = String::new();
    while !seen.ends_with("data: {\"n\":") {
        seen += std::str::from_utf8(&wire.read_exact(1).await).unwrap();
    }
    assert!(seen.contains(BANNER), "{seen}");
    wire
}

fn large_house() -> House {
    let house = House::new().set("MAX_BODY", "32MiB").set("MEMORY_LIMIT", "4GiB");
    house.set("PUBLISH_TIMEOUT", "60s")
}

#[tokio::test]
async fn what_was_not_written_whole_is_given_again_first_and_marked() {
    let gateway = large_house().open();
    make(&gateway, "q", "type=a").await;
    fire_padded(&gateway, "a", 1..2, LARGE).await;
    fire_numbers(&gateway, "a", 2..4).await;
    let head = format!("Authorization: Basic {TOKEN}\r\n");
    for round in 0..2 {
        let wire = stuck(&gateway, "/queue?id=q", &head).await;
        // What is not read turns the end into a reset.
        wire.stream.set_zero_linger().unwrap();
        drop(wire);
        let queue = wait_for_listing(&gateway.broadcast, "q", &[("consumers", 0)]).await;
        assert_eq!(queue["events"], 3, "{round}");
    }
    let mut stream = QueueStream::open(&gateway.broadcast, "id=q").await;
    let first = stream.message().await;
    assert!(first.starts_with(": redelivered\ndata: {\"n\":1,"), "{}", &first[..40]);
    assert_eq!(stream.messages(2).await, numbered(2..4));
}

/// A browser that is refused comes back no more: it has to wait until the dead connection is let go.
#[tokio::test]
async fn a_tickets_reconnect_waits_for_a_dead_connection_that_is_full() {
    let gateway = large_house().open();
    make(&gateway, "q", "type=a").await;
    fire_padded(&gateway, "a", 1..2, LARGE).await;
    let ticket = ticket(&gateway.broadcast, TOKEN).await;
    let query = format!("id=q&ticket={ticket}");
    let _stuck = stuck(&gateway, &format!("/queue?{query}"), "").await;
    let mut stream = QueueStream::of(ask_plainly(&gateway.broadcast, &query)).await;
    assert!(stream.message().await.starts_with(": redelivered\ndata: {\"n\":1,"));
}

#[tokio::test]
async fn a_consumer_that_asks_for_places_goes_back_to_the_last_it_has_seen() {
    let gateway = Gateway::open();
    let query = "id=q&type=a&cursor=true";
    let mut stream = QueueStream::open(&gateway.broadcast, query).await;
    fire_numbers(&gateway, "a", 0..6).await;
    let first = stream.messages(6).await;
    for (number, message) in first.iter().enumerate() {
        assert_eq!(*message, format!("id: {}\ndata: {number}\n\n", id(message)));
    }
    drop(stream);
    wait_for_listing(&gateway.broadcast, "q", &[("consumers", 0)]).await;
    fire_numbers(&gateway, "a", 6..8).await;
    let request = ask(&gateway.broadcast, query).header("last-event-id", id(&first[2]));
    let mut stream = QueueStream::of(request).await;
    for message in &first[3..] {
        assert_eq!(stream.message().await, format!(": redelivered\n{message}"));
    }
    for number in 6..8 {
        let message = stream.message().await;
        assert_eq!(message, format!("id: {}\ndata: {number}\n\n", id(&message)));
    }
    wait_for_listing(&gateway.broadcast, "q", &[("events", 0)]).await;
    // Who has seen all of it gets nothing again.
    drop(stream);
    wait_for_listing(&gateway.broadcast, "q", &[("consumers", 0)]).await;
    let request = ask(&gateway.broadcast, "id=q").header("last-event-id", id(&first[2]));
    let mut stream = QueueStream::of(request).await;
    fire_numbers(&gateway, "a", 9..10).await;
    assert_eq!(stream.message().await, data("9"));
}

#[tokio::test]
async fn a_queue_expires_without_a_consumer_and_not_with_one() {
    let gateway = House::new().set("QUEUE_EXPIRES", 1).open();
    let mut held = QueueStream::open(&gateway.broadcast, "id=held&type=a").await;
    make(&gateway, "left", "type=a").await;
    fire_numbers(&gateway, "a", 0..3).await;
    until("one queue", async || {
        let names: Vec<_> =
            listed(&gateway.broadcast).await.into_iter().map(|it| it["name"].clone()).collect();
        (names == ["held"]).then_some(())
    })
    .await;
    assert_eq!(held.messages(3).await, numbered(0..3));
    let mut stream = QueueStream::open(&gateway.broadcast, "id=left&type=a").await;
    fire_numbers(&gateway, "a", 3..4).await;
    assert_eq!(stream.message().await, data("3"));
}

#[tokio::test]
async fn there_are_as_many_queues_as_are_allowed() {
    let gateway = House::new().set("MAX_QUEUES", 2).open();
    make(&gateway, "one", "").await;
    make(&gateway, "two", "").await;
    let refused = ask(&gateway.broadcast, "id=three").send().await.unwrap();
    let told = (503, "server: max queues exceeded", "TOO_MANY_QUEUES");
    assert_eq!(refusal(refused).await, told);
    QueueStream::open(&gateway.broadcast, "id=two").await;
    delete(&gateway.broadcast, "one").await;
    QueueStream::open(&gateway.broadcast, "id=three").await;
}

#[tokio::test]
async fn the_oldest_are_dropped_from_a_full_queue_and_its_consumer_is_told() {
    for (setting, value, padding) in
        [("QUEUE_MAX_EVENTS", "3", 0), ("QUEUE_MAX_BYTES", "64KiB", 20_000)]
    {
        let gateway = House::new().set(setting, value).open();
        make(&gateway, "q", "type=a").await;
        fire_padded(&gateway, "a", 0..3, padding).await;
        wait_for_listing(&gateway.broadcast, "q", &[("events", 3), ("dropped", 0)]).await;
        fire_padded(&gateway, "a", 3..10, padding).await;
        wait_for_listing(&gateway.broadcast, "q", &[("events", 3), ("dropped", 7)]).await;
        gateway.broadcast.wait_for_metric("fanfare_queue_events_dropped_total", 7.0).await;
        // It is told once, and after a restart, too.
        let gateway = gateway.restart_broadcast(rustix::process::Signal::KILL).await;
        wait_for_listing(&gateway.broadcast, "q", &[("events", 3), ("dropped", 7)]).await;
        let mut stream = QueueStream::open(&gateway.broadcast, "id=q").await;
        assert!(is_gap(&stream.message().await), "{setting}");
        for number in 7..10 {
            let message = stream.message().await;
            assert!(message.starts_with(&format!("data: {{\"n\":{number},")), "{message}");
        }
        fire_numbers(&gateway, "a", 10..11).await;
        assert_eq!(stream.message().await, data("10"));
        drop(stream);
        wait_for_listing(&gateway.broadcast, "q", &[("consumers", 0)]).await;
        fire_numbers(&gateway, "a", 11..12).await;
        let mut stream = QueueStream::open(&gateway.broadcast, "id=q").await;
        assert_eq!(stream.message().await, data("11"));
    }
}

#[tokio::test]
async fn with_places_a_gap_has_the_place_behind_which_it_goes_on() {
    let gateway = House::new().set("QUEUE_MAX_EVENTS", 1).open();
    make(&gateway, "q", "type=a").await;
    fire_numbers(&gateway, "a", 0..3).await;
    wait_for_listing(&gateway.broadcast, "q", &[("dropped", 2)]).await;
    let mut stream = QueueStream::open(&gateway.broadcast, "id=q&cursor=true").await;
    let gap = stream.message().await;
    let rest = gap.strip_prefix(&format!("id: {}\n", id(&gap))).unwrap();
    assert!(is_gap(rest), "{gap}");
    assert!(stream.message().await.ends_with("\ndata: 2\n\n"));
    drop(stream);
    wait_for_listing(&gateway.broadcast, "q", &[("consumers", 0)]).await;
    // Of another log: nobody knows what it has missed. It hears so, and goes on.
    let request = ask(&gateway.broadcast, "id=q&cursor=true").header("last-event-id", "zzzzzz-7");
    let mut stream = QueueStream::of(request).await;
    assert!(stream.message().await.contains("event: gateway.gap\n"));
    fire_numbers(&gateway, "a", 3..4).await;
    assert!(stream.message().await.ends_with("\ndata: 3\n\n"));
}

#[tokio::test]
async fn a_queue_holds_back_what_waits_in_it_and_no_longer() {
    let house = House::new().set("LOG_MAX_EVENTS", 20).set("LOG_MAX_AGE", "2s");
    let gateway = house.open();
    let freed = async || wait_until_freed(&gateway).await;
    let held = async |name: &str| {
        make(&gateway, name, "type=a").await;
        fire_numbers(&gateway, "a", 0..100).await;
        // Longer than anything is kept for others.
        let_pass(Duration::from_secs(3)).await;
        wait_for_listing(&gateway.broadcast, name, &[("events", 100), ("dropped", 0)]).await;
        assert!(gateway.broadcast.metric("fanfare_log_events").await >= 100.0);
    };
    held("consumed").await;
    let mut stream = QueueStream::open(&gateway.broadcast, "id=consumed").await;
    assert_eq!(stream.messages(100).await, numbered(0..100));
    freed().await;
    drop(stream);
    held("deleted").await;
    delete(&gateway.broadcast, "consumed").await;
    delete(&gateway.broadcast, "deleted").await;
    freed().await;
}

#[tokio::test]
async fn a_queue_that_has_expired_holds_nothing_back() {
    let gateway = House::new().set("LOG_MAX_EVENTS", 20).set("QUEUE_EXPIRES", 1).open();
    make(&gateway, "q", "type=a").await;
    fire_numbers(&gateway, "a", 0..100).await;
    wait_until_freed(&gateway).await;
    assert!(listed(&gateway.broadcast).await.is_empty());
}

async fn wait_until_freed(gateway: &Gateway) {
    until("a log within its bounds", async || {
        (gateway.broadcast.metric("fanfare_log_events").await <= 20.0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn what_a_queue_holds_beyond_the_log_is_bounded() {
    let house = House::new().set("LOG_MAX_EVENTS", 10).set("QUEUE_MAX_EVENTS", 30);
    let gateway = house.open();
    make(&gateway, "q", "type=a").await;
    fire_numbers(&gateway, "a", 0..10).await;
    // These are not for it, but it holds the log back at its place.
    fire_numbers(&gateway, "b", 0..200).await;
    until("a log that is freed", async || {
        (gateway.broadcast.metric("fanfare_log_events").await <= 41.0).then_some(())
    })
    .await;
    let mut stream = QueueStream::open(&gateway.broadcast, "id=q").await;
    // What it lost it is told of.
    assert!(is_gap(&stream.message().await));
    fire_numbers(&gateway, "a", 10..11).await;
    assert_eq!(stream.message().await, data("10"));
}
