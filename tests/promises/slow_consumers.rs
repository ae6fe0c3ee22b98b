//! Clients that read too slowly, and what they cost the others (HARDENING, "WebSocket").

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::client::{Subscriber, fire};
use crate::gateway::{Gateway, House};
use crate::measures::peak_memory;
use crate::wire::Wire;

const MIB: u64 = 1024 * 1024;

/// Publishes events of 64 KiB, numbered from 0, until `is_enough`; says how many.
async fn fire_until(gateway: &Gateway, mut is_enough: impl AsyncFnMut() -> bool) -> u64 {
    let padding = "x".repeat(64 * 1024 - 200);
    for number in 0..2048 {
        if is_enough().await {
            return number;
        }
        fire(gateway, "big", &format!(r#"{{"n":{number},"padding":"{padding}"}}"#)).await;
    }
    panic!("it is never enough");
}

/// Publishes until so many slow consumers were ended, while `quick` gets each event before the next
/// one is fired.
async fn fire_until_ended(gateway: &Gateway, quick: &mut Subscriber, slow: f64) {
    let mut fired = 0;
    fire_until(gateway, async || {
        if fired > 0 {
            assert!(quick.hear().await.contains(&format!(r#""n":{},"#, fired - 1)));
        }
        fired += 1;
        gateway.broadcast.metric("fanfare_slow_consumers_total").await == slow
    })
    .await;
}

#[tokio::test]
async fn a_slow_consumer_is_disconnected_alone_and_gives_its_memory_back() {
    let gateway = House::new().set("OUTBOX_BYTES", "64KiB").open();
    let mut slow = Wire::subscribe_narrow(&gateway.broadcast, r#"["big"]"#).await;
    let mut quick = Subscriber::subscribe(&gateway.broadcast, &["big"]).await;
    fire_until_ended(&gateway, &mut quick, 1.0).await;
    // Its Close cannot be written: after 5 s the connection is reset.
    gateway.broadcast.wait_for_metric("fanfare_sessions", 1.0).await;
    gateway.broadcast.wait_for_metric("fanfare_outbox_bytes", 0.0).await;
    slow.read_to_end().await;
    fire(&gateway, "big", "1").await;
    assert_eq!(quick.hear().await, r#"{"type":"event","event":"big","data":1}"#);
}

#[tokio::test]
async fn a_slow_consumer_that_reads_on_is_told_1013() {
    // It has 5 s from its end on to read the Close: a disk that other tests keep busy must not take
    // them from it.
    let house = House::new().set("OUTBOX_BYTES", "64KiB").set("DURABILITY", "memory");
    let gateway = house.open();
    let mut slow = Wire::subscribe_narrow(&gateway.broadcast, r#"["big"]"#).await;
    fire_until(&gateway, async || {
        gateway.broadcast.metric("fanfare_slow_consumers_total").await == 1.0
    })
    .await;
    // What comes before the Close is whole, and without a gap.
    let mut expected = 0;
    loop {
        let (first, payload) = slow.read_frame().await;
        if first == 0x88 {
            assert_eq!(&payload[2..], b"slow consumer");
            assert_eq!(payload[..2], 1013_u16.to_be_bytes());
            break;
        }
        let event: Value = serde_json::from_slice(&payload).unwrap();
        assert_eq!(event["data"]["n"], expected);
        expected += 1;
    }
}

#[tokio::test]
async fn an_outbox_of_which_no_byte_moves_for_15_seconds_ends_its_session() {
    let gateway = Gateway::open();
    let _frozen = Wire::subscribe_narrow(&gateway.broadcast, r#"["big"]"#).await;
    // More than the sockets hold, and less than the outbox does.
    let begun = Instant::now();
    fire_until(&gateway, async || {
        gateway.broadcast.metric("fanfare_outbox_bytes").await > 500_000.0
    })
    .await;
    assert_eq!(gateway.broadcast.metric("fanfare_slow_consumers_total").await, 0.0);
    gateway.broadcast.wait_for_metric("fanfare_slow_consumers_total", 1.0).await;
    assert!(begun.elapsed() >= Duration::from_secs(14), "{:?}", begun.elapsed());
    gateway.broadcast.wait_for_metric("fanfare_sessions", 0.0).await;
    gateway.broadcast.wait_for_metric("fanfare_outbox_bytes", 0.0).await;
}

#[tokio::test]
async fn two_hundred_frozen_subscribers_cost_their_bound_and_their_neighbour_nothing() {
    let gateway = House::new().set("OUTBOX_BYTES", "64KiB").open();
    let mut frozen = Vec::new();
    for _ in 0..200 {
        frozen.push(Wire::subscribe_narrow(&gateway.broadcast, r#"["big"]"#).await);
    }
    let mut quick = Subscriber::subscribe(&gateway.broadcast, &["big"]).await;
    let before = peak_memory(&gateway.broadcast);
    fire_until_ended(&gateway, &mut quick, 200.0).await;
    let grown = peak_memory(&gateway.broadcast) - before;
    assert!(grown < 200 * 2 * 64 * 1024 + 16 * MIB, "{grown} bytes more");
    gateway.broadcast.wait_for_metric("fanfare_sessions", 1.0).await;
    gateway.broadcast.wait_for_metric("fanfare_outbox_bytes", 0.0).await;
}
