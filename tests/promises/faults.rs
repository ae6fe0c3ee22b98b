//! Faults of the link and of whoever runs the processes (HARDENING, "Faults we are measured by").

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;
use tokio::task::JoinSet;

use crate::client::{Subscriber, answer, fire, let_pass, post};
use crate::gateway::{Gateway, House, Process};
use crate::link_proxy::open_with_proxy;
use crate::measures::until;

/// Begins to publish numbered events; each gives its number, its status and its body.
fn publish(gateway: &Gateway, numbers: std::ops::Range<u64>) -> JoinSet<(u64, u16, String)> {
    let mut publishing = JoinSet::new();
    for number in numbers {
        let request = post(gateway, format!(r#"{{"event":"a","data":{number}}}"#));
        publishing.spawn(async move {
            let (status, body) = answer(request.send().await.unwrap()).await;
            (number, status, body)
        });
    }
    publishing
}

async fn expect_200(mut publishing: JoinSet<(u64, u16, String)>) {
    while let Some(published) = publishing.join_next().await {
        let (number, status, body) = published.unwrap();
        assert_eq!(status, 200, "event {number}: {body}");
    }
}

async fn expect_each_once(subscriber: &mut Subscriber, numbers: std::ops::Range<u64>) {
    let heard = subscriber.hear_numbers(numbers.clone().count()).await;
    let set: BTreeSet<u64> = heard.iter().copied().collect();
    assert_eq!(set.len(), heard.len(), "twice: {heard:?}");
    assert_eq!(set, numbers.collect());
    subscriber.assert_nothing_came().await;
}

/// Waits until the events that were begun are at the door, whatever becomes of them.
async fn wait_until_held(process: &Process) {
    until("events that wait", async || {
        (process.metric("fanfare_memory_held_bytes").await > 0.0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn broadcast_stopped_for_2_seconds_costs_time_and_nothing_else() {
    let gateway = House::new().set("PUBLISH_TIMEOUT", "30s").open();
    let mut subscriber = Subscriber::subscribe(&gateway.broadcast, &["a"]).await;
    gateway.broadcast.signal(Signal::STOP);
    let publishing = publish(&gateway, 0..100);
    let_pass(Duration::from_secs(2)).await;
    gateway.broadcast.signal(Signal::CONT);
    expect_200(publishing).await;
    expect_each_once(&mut subscriber, 0..100).await;
    assert!(!gateway.listen.log().contains("the link is down"));
}

#[tokio::test]
async fn broadcast_stopped_for_longer_than_the_time_out_is_an_unknown_outcome() {
    let gateway = House::new().set("PUBLISH_TIMEOUT", "1s").open();
    let mut subscriber = Subscriber::subscribe(&gateway.broadcast, &["a"]).await;
    gateway.broadcast.signal(Signal::STOP);
    let begun = Instant::now();
    let mut publishing = publish(&gateway, 0..20);
    while let Some(published) = publishing.join_next().await {
        let (number, status, body) = published.unwrap();
        let body: Value = serde_json::from_str(&body).unwrap();
        assert_eq!((status, &body["accepted"]), (503, &"unknown".into()), "event {number}: {body}");
        assert_eq!(body["source"], "/all");
        assert!(body["id"].as_str().is_some_and(|id| id.len() == 36), "{body}");
    }
    assert!(begun.elapsed() >= Duration::from_millis(950), "{:?}", begun.elapsed());
    gateway.broadcast.signal(Signal::CONT);
    // They were sent, and they come: unknown was the truth.
    expect_each_once(&mut subscriber, 0..20).await;
    fire(&gateway, "a", "20").await;
}

#[tokio::test]
async fn listen_stopped_beyond_its_time_out_believes_the_receipts_that_have_come() {
    let house = House::new().set("PUBLISH_TIMEOUT", "2s");
    let (gateway, proxy) = open_with_proxy(house);
    let mut subscriber = Subscriber::subscribe(&gateway.broadcast, &["a"]).await;
    let before = proxy.manners().receipts_seen.load(Ordering::SeqCst);
    proxy.manners().holds_receipts.store(true, Ordering::SeqCst);
    let publishing = publish(&gateway, 0..20);
    expect_each_once(&mut subscriber, 0..20).await;
    until("a receipt", async || {
        (proxy.manners().receipts_seen.load(Ordering::SeqCst) > before).then_some(())
    })
    .await;
    // The receipts come while it is stopped; when it goes on, the time-out is over, too.
    gateway.listen.signal(Signal::STOP);
    proxy.manners().holds_receipts.store(false, Ordering::SeqCst);
    let_pass(Duration::from_secs(3)).await;
    gateway.listen.signal(Signal::CONT);
    expect_200(publishing).await;
}

#[tokio::test]
async fn a_link_that_is_cut_is_up_again_at_once() {
    let house = House::new().set("PUBLISH_TIMEOUT", "10s");
    let (gateway, proxy) = open_with_proxy(house);
    let mut subscriber = Subscriber::subscribe(&gateway.broadcast, &["a"]).await;
    for round in 0..5 {
        let cut = Instant::now();
        proxy.cut();
        expect_200(publish(&gateway, round * 10..round * 10 + 10)).await;
        // HARDENING: half a second; the rest is for a busy machine.
        assert!(cut.elapsed() < Duration::from_secs(2), "{:?}", cut.elapsed());
        expect_each_once(&mut subscriber, round * 10..round * 10 + 10).await;
    }
}

#[tokio::test]
async fn a_link_that_is_cut_inside_a_frame_invents_nothing() {
    let house = House::new().set("PUBLISH_TIMEOUT", "10s");
    let (gateway, proxy) = open_with_proxy(house);
    let mut subscriber = Subscriber::subscribe(&gateway.broadcast, &["a"]).await;
    let mut expected = 0;
    for bytes_left in [1, 3, 4, 5, 13, 20, 60, 100] {
        proxy.manners().events_left.store(bytes_left, Ordering::SeqCst);
        let (number, status, body) =
            publish(&gateway, expected..expected + 1).join_next().await.unwrap().unwrap();
        // It was sent in part: whether it was taken, listen cannot know.
        assert_eq!((status, body.contains("unknown")), (503, true), "event {number}: {body}");
        expected += 1;
        expect_200(publish(&gateway, expected..expected + 1)).await;
        expect_each_once(&mut subscriber, expected..expected + 1).await;
        expected += 1;
    }
    assert_eq!(gateway.broadcast.metric("fanfare_sessions").await, 1.0);
}

#[tokio::test]
async fn a_link_that_comes_one_byte_at_a_time_is_slow_and_whole() {
    let house = House::new().set("PUBLISH_TIMEOUT", "30s");
    let (gateway, proxy) = open_with_proxy(house);
    let mut subscriber = Subscriber::subscribe(&gateway.broadcast, &["a"]).await;
    proxy.manners().dribbles.store(true, Ordering::SeqCst);
    expect_200(publish(&gateway, 0..20)).await;
    expect_each_once(&mut subscriber, 0..20).await;
    assert!(!gateway.listen.log().contains("the link is down"));
}

#[tokio::test]
async fn a_link_with_a_delay_keeps_many_events_in_flight() {
    let house = House::new().set("PUBLISH_TIMEOUT", "30s");
    let (gateway, proxy) = open_with_proxy(house);
    proxy.manners().delay.store(200, Ordering::SeqCst);
    let begun = Instant::now();
    expect_200(publish(&gateway, 0..100)).await;
    // One after the other they would take 40 s.
    assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_link_that_swallows_everything_is_given_up_and_made_anew() {
    let house = House::new().set("PUBLISH_TIMEOUT", "2s");
    let (gateway, proxy) = open_with_proxy(house);
    let manners = proxy.manners();
    manners.holds_events.store(true, Ordering::SeqCst);
    manners.holds_receipts.store(true, Ordering::SeqCst);
    let begun = Instant::now();
    let mut publishing = publish(&gateway, 0..20);
    while let Some(published) = publishing.join_next().await {
        let (number, status, body) = published.unwrap();
        assert_eq!((status, body.contains("unknown")), (503, true), "event {number}: {body}");
    }
    assert!((1..8).contains(&begun.elapsed().as_secs()), "{:?}", begun.elapsed());
    // Both have the same limit of silence, and either may be the first to see it.
    gateway.listen.wait_for_log("the link is down");
    assert!((9..25).contains(&begun.elapsed().as_secs()), "{:?}", begun.elapsed());
    assert_eq!(gateway.listen.metric("fanfare_memory_held_bytes").await, 0.0);
    proxy.cut();
    manners.holds_events.store(false, Ordering::SeqCst);
    manners.holds_receipts.store(false, Ordering::SeqCst);
    let up = async || (gateway.listen.metric("fanfare_links_up").await == 1.0).then_some(());
    until("the link", up).await;
    fire(&gateway, "a", "21").await;
}

#[tokio::test]
async fn publishers_wait_for_room_on_the_link_and_get_503_beyond_their_time() {
    let house = House::new().set("PUBLISH_TIMEOUT", "2s");
    let (gateway, proxy) = open_with_proxy(house);
    proxy.manners().holds_events.store(true, Ordering::SeqCst);
    // 8 MiB are in flight; what comes then is never sent.
    let data = "x".repeat(900 * 1024);
    let mut publishing = JoinSet::new();
    for _ in 0..14 {
        let request = post(&gateway, format!(r#"{{"event":"a","data":"{data}"}}"#));
        publishing.spawn(async move { answer(request.send().await.unwrap()).await });
    }
    let (mut unknown, mut unsent) = (0, 0);
    while let Some(published) = publishing.join_next().await {
        let (status, body) = published.unwrap();
        assert_eq!(status, 503, "{body}");
        if body.contains("unknown") { unknown += 1 } else { unsent += 1 }
    }
    assert_eq!((unknown, unsent), (9, 5), "8 MiB hold nine of them");
    proxy.manners().holds_events.store(false, Ordering::SeqCst);
    let recovered = async || {
        let response = post(&gateway, r#"{"event":"a"}"#).send().await.unwrap();
        (response.status() == 200).then_some(())
    };
    until("the link has room again", recovered).await;
}

#[tokio::test]
async fn when_broadcast_is_killed_no_200_is_false() {
    let house = House::new().set("PUBLISH_TIMEOUT", "30s");
    let gateway = house.open();
    let mut subscriber = Subscriber::subscribe(&gateway.broadcast, &["a"]).await;
    fire(&gateway, "a", "0").await;
    assert_eq!(subscriber.hear_numbers(1).await, [0]);
    let Gateway { listen, broadcast, house } = gateway;
    broadcast.signal(Signal::STOP);
    let gateway = Gateway { listen, broadcast, house };
    let mut publishing = publish(&gateway, 1..21);
    wait_until_held(&gateway.listen).await;
    let Gateway { listen, broadcast, house } = gateway;
    broadcast.kill();
    let broadcast = house.broadcast();
    let mut subscriber = Subscriber::subscribe(&broadcast, &["b"]).await;
    let mut statuses = BTreeSet::new();
    while let Some(published) = publishing.join_next().await {
        let (number, status, body) = published.unwrap();
        // What had been sent is undecided; what had not waits for the new one.
        let is_unknown = status == 503 && body.contains("unknown");
        assert!(is_unknown || status == 200, "event {number}: {status} {body}");
        statuses.insert(status);
    }
    assert!(statuses.contains(&503), "nothing was in flight");
    subscriber.assert_nothing_came().await;
    drop(listen);
}
