//! Counts that do not depend on the machine: what is written to sockets while there is a burst.
//!
//! A process that is stopped makes the burst: what was sent to it meanwhile is all there when it
//! goes on. So each count has a bound that a slow machine does not move much.

use futures_util::future::join_all;
use rustix::process::Signal;

use crate::client::{Subscriber, said};
use crate::gateway::{Gateway, House, Process};
use crate::trace::{LINK, Trace, taken_at};
use crate::wire::{Wire, event_request, status};

/// Events of a burst. Their frames are less than one of the link's reads.
const EVENTS: usize = 150;
const SESSIONS: usize = 40;

/// One worker, so that what one connection was answered stands behind what others were.
fn house() -> House {
    House::new().set("WORKERS", 1).set("PUBLISH_TIMEOUT", "60s")
}

/// Publishers that have their connections, and each fired an event before.
async fn publishers(listen: &Process) -> Vec<Wire> {
    let mut wires = Vec::new();
    for _ in 0..EVENTS {
        let mut wire = Wire::connect(listen).await;
        wire.send(event_request(r#"{"event":"before"}"#)).await;
        assert_eq!(status(&wire.read_answer().await.0), 200);
        wires.push(wire);
    }
    wires
}

/// Each publisher sends one event more, while a process is stopped.
async fn burst(wires: &mut [Wire], gateway: &Gateway, stopped: &Process) {
    stopped.signal(Signal::STOP);
    for wire in wires.iter_mut() {
        wire.send(event_request(r#"{"event":"a","data":{"number":1}}"#)).await;
    }
    if !stopped.is_listen() {
        // It has one thread: what it answers now was asked after the events were read and sent on.
        for _ in 0..10 {
            reqwest::get(gateway.listen.url() + "/healthz").await.unwrap();
        }
    }
    stopped.signal(Signal::CONT);
    for (head, body) in join_all(wires.iter_mut().map(Wire::read_answer)).await {
        assert_eq!(status(&head), 200, "{body}");
    }
}

/// What is queued to a session at once leaves in one write: a burst costs a write a session and a
/// turn, not one a delivery. Its publishers' receipts are as few.
#[tokio::test]
async fn a_burst_reaches_its_sessions_in_less_than_a_write_for_ten_deliveries() {
    let house = house();
    let (broadcast, trace) = Trace::start("broadcast", &house);
    let listen = house.listen();
    listen.wait_for_log("the link is up");
    let gateway = Gateway { listen, broadcast, house };
    let mut wires = publishers(&gateway.listen).await;
    let mut sessions = Vec::new();
    for _ in 0..SESSIONS {
        sessions.push(Subscriber::subscribe(&gateway.broadcast, &["a"]).await);
    }
    trace.wait_for(r#"{\"type\":\"init\""#, SESSIONS);
    let clients = taken_at(&gateway.broadcast);
    let before = (trace.calls(&clients).len(), trace.calls(LINK).len());
    burst(&mut wires, &gateway, &gateway.broadcast).await;
    for session in &mut sessions {
        for _ in 0..EVENTS {
            session.hear().await;
        }
    }
    let last = sessions[0].ask(r#"{"type":"unsubscribe","events":[]}"#).await;
    assert_eq!(last, said("unsubscribe", "OK"));
    trace.wait_for(r#"{\"type\":\"unsubscribe\""#, 1);
    // Without the answer to the unsubscribe.
    let writes = trace.calls(&clients).len() - before.0 - 1;
    let receipts = trace.calls(LINK).len() - before.1;
    let deliveries = EVENTS * SESSIONS;
    eprintln!(
        "{writes} writes for {deliveries} deliveries, {receipts} receipts for {EVENTS} events"
    );
    assert!(writes >= SESSIONS, "strace has not seen all: {writes}");
    assert!(writes * 10 < deliveries, "{writes} writes for {deliveries} deliveries");
    assert!(receipts * 10 < EVENTS, "{receipts} receipts for {EVENTS} events");
}

/// What waits for the link leaves in one write, however many publishers it came from.
#[tokio::test]
async fn a_burst_goes_over_the_link_in_less_than_a_write_for_ten_events() {
    let house = house();
    let broadcast = house.broadcast();
    let (listen, trace) = Trace::start("listen", &house);
    listen.wait_for_log("the link is up");
    let gateway = Gateway { listen, broadcast, house };
    let mut wires = publishers(&gateway.listen).await;
    trace.wait_for("HTTP/1.1 200 OK", EVENTS);
    let before = trace.calls(LINK).len();
    assert!(before >= EVENTS, "one event after the other is a write each: {before}");
    burst(&mut wires, &gateway, &gateway.listen).await;
    trace.wait_for("HTTP/1.1 200 OK", 2 * EVENTS);
    let writes = trace.calls(LINK).len() - before;
    eprintln!("{writes} writes to the link for {EVENTS} events");
    assert!(writes > 0, "strace has not seen all");
    assert!(writes * 10 < EVENTS, "{writes} writes for {EVENTS} events");
}
