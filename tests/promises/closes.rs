//! Close codes (WIRE §1.4), and the silence after which a session ends.

use std::time::{Duration, Instant};

use futures_util::SinkExt as _;
use tokio_tungstenite::tungstenite::Message;

use crate::client::{Subscriber, answer, event, init, post, said};
use crate::gateway::{Gateway, House, Process, TOKEN};
use crate::wire::{Wire, frame, header};

/// Upgrades, and logs in for these events.
async fn session(broadcast: &Process, events: &str) -> Wire {
    let mut wire = Wire::upgrade(broadcast).await;
    wire.send(frame(0x81, init(TOKEN, events).as_bytes())).await;
    assert_eq!(wire.read_frame().await, (0x81, said("init", "OK").into_bytes()));
    wire
}

/// This one takes its 60 s. A client that answers the ping is not silent.
#[tokio::test]
async fn a_silent_client_is_pinged_after_30_s_and_let_go_after_60_s() {
    let gateway = Gateway::open();
    let mut silent = session(&gateway.broadcast, "[]").await;
    let mut alive = session(&gateway.broadcast, "[]").await;
    let begin = Instant::now();
    let (ping, alive_ping) = tokio::join!(silent.read_frame(), alive.read_frame());
    assert_eq!((ping.0, alive_ping.0), (0x89, 0x89));
    let pinged = begin.elapsed();
    assert!(pinged > Duration::from_secs(29) && pinged < Duration::from_secs(45), "{pinged:?}");
    alive.send(frame(0x8a, &alive_ping.1)).await;
    assert_eq!(silent.read_close().await, (1001, "silent".to_owned()));
    let closed = begin.elapsed();
    assert!(closed > Duration::from_secs(59) && closed < Duration::from_secs(75), "{closed:?}");
    assert_eq!(silent.read_to_end().await, b"");
    // The other one is pinged again instead, 30 s after its answer.
    assert_eq!(alive.read_frame().await.0, 0x89);
}

#[tokio::test]
async fn a_clients_ping_is_answered_with_its_payload() {
    let gateway = Gateway::open();
    let mut wire = Wire::upgrade(&gateway.broadcast).await;
    for payload in [&b""[..], b"payload", &[0xff; 125]] {
        wire.send(frame(0x89, payload)).await;
        assert_eq!(wire.read_frame().await, (0x8a, payload.to_vec()));
    }
}

#[tokio::test]
async fn a_clients_close_is_answered_and_the_connection_ends() {
    let gateway = Gateway::open();
    for payload in [&b""[..], &[0x03, 0xe8], b"\x03\xe8bye", &[0x0f, 0xa0]] {
        let mut wire = Wire::upgrade(&gateway.broadcast).await;
        wire.send(frame(0x88, payload)).await;
        let (first, answer) = wire.read_frame().await;
        assert_eq!((first, &answer[..]), (0x88, &payload[..payload.len().min(2)]));
        assert_eq!(wire.read_to_end().await, b"");
    }
}

#[tokio::test]
async fn a_restart_closes_every_session_with_1012() {
    let Gateway { broadcast, .. } = Gateway::open();
    let subscribed = Subscriber::subscribe(&broadcast, &["a"]).await;
    let newcomer = Subscriber::connect(&broadcast).await;
    broadcast.signal(rustix::process::Signal::TERM);
    for subscriber in [subscribed, newcomer] {
        assert_eq!(subscriber.closed().await, (1012, "restarting".to_owned()));
    }
}

/// 64 KiB by default; from the header alone, and across fragments.
#[tokio::test]
async fn a_message_that_is_too_big_is_closed_with_1009_and_the_largest_is_read() {
    const MAX: usize = 64 * 1024;
    let gateway = Gateway::open();
    let mut wire = Wire::upgrade(&gateway.broadcast).await;
    let padded = init(TOKEN, "[]") + &" ".repeat(MAX - init(TOKEN, "[]").len());
    wire.send(frame(0x81, padded.as_bytes())).await;
    assert_eq!(wire.read_frame().await, (0x81, said("init", "OK").into_bytes()));
    let announced = header(0x81, MAX as u64 + 1);
    let fragments = [frame(0x01, &[b' '; MAX]), header(0x80, 1)].concat();
    for bytes in [announced, fragments, header(0x82, 1 << 40)] {
        let mut wire = Wire::upgrade(&gateway.broadcast).await;
        wire.send(bytes).await;
        assert_eq!(wire.read_close().await, (1009, "message too big".to_owned()));
        assert_eq!(wire.read_to_end().await, b"");
    }
}

#[tokio::test]
async fn a_client_that_overdoes_it_is_closed_with_1008() {
    let gateway = Gateway::open();
    let too_many_frames = frame(0x8a, b"").repeat(2000);
    let too_many_pings = frame(0x89, b"").repeat(90);
    let too_many_fragments = [frame(0x01, b" "), frame(0x00, b" ").repeat(1100)].concat();
    for (bytes, is_known) in
        [(&too_many_frames, false), (&too_many_pings, false), (&too_many_fragments, true)]
    {
        let mut wire = match is_known {
            true => session(&gateway.broadcast, "[]").await,
            false => Wire::upgrade(&gateway.broadcast).await,
        };
        wire.send(bytes).await;
        assert_eq!(wire.read_close().await, (1008, "policy".to_owned()));
    }
}

#[tokio::test]
async fn a_client_that_reads_too_slowly_is_closed_with_1013_alone() {
    let gateway = House::new().set("OUTBOX_BYTES", "64KiB").open();
    let mut slow = session(&gateway.broadcast, r#"["a"]"#).await;
    let mut quick = Subscriber::subscribe(&gateway.broadcast, &["a"]).await;
    let data = format!(r#""{}""#, "x".repeat(500_000));
    let body = format!(r#"{{"event":"a","data":{data}}}"#);
    let mut count = 0;
    // First the socket's buffers fill up, then the outbox.
    while !gateway.broadcast.log().contains("hanging up: slow consumer") {
        let response = post(&gateway, body.clone()).send().await.unwrap();
        assert_eq!(answer(response).await.0, 200);
        count += 1;
        assert!(count < 500, "it holds {count} half megabytes for a client that does not read");
        assert_eq!(quick.hear().await.len(), event("a", &data).len());
    }
    assert_eq!(slow.read_close().await, (1013, "slow consumer".to_owned()));
    quick.assert_nothing_came().await;
}

/// HARDENING: of 100 places for clients without a credential, the oldest's goes to the newest.
#[tokio::test]
async fn the_oldest_of_too_many_strangers_is_closed_with_1013() {
    let house = House::new().set("WORKERS", 1).set("MAX_SESSIONS", 200);
    let gateway = house.set("INIT_TIMEOUT", "off").open();
    let known = Subscriber::subscribe(&gateway.broadcast, &["a"]).await;
    let oldest = Subscriber::connect(&gateway.broadcast).await;
    let mut others = Vec::new();
    for _ in 0..100 {
        others.push(Subscriber::connect(&gateway.broadcast).await);
    }
    assert_eq!(oldest.closed().await, (1013, "try again later".to_owned()));
    let mut newest = others.pop().unwrap();
    assert_eq!(newest.ask(&init(TOKEN, "[]")).await, said("init", "OK"));
    let mut known = known;
    known.assert_nothing_came().await;
}

/// A close handshake that the client does not finish does not hold the process.
#[tokio::test]
async fn a_client_that_does_not_answer_the_close_is_cut_off() {
    let gateway = House::new().set("INIT_TIMEOUT", "300ms").open();
    let mut wire = Wire::upgrade(&gateway.broadcast).await;
    assert_eq!(wire.read_close().await, (4401, "init timeout".to_owned()));
    assert_eq!(wire.read_to_end().await, b"");
}

#[tokio::test]
async fn what_breaks_the_protocol_has_its_close_code() {
    let gateway = Gateway::open();
    let unmasked = vec![0x81, 0x00];
    for (bytes, expected) in [
        (unmasked, (1002, "protocol error")),
        (frame(0xc1, b"{}"), (1002, "protocol error")),
        (frame(0x83, b""), (1002, "protocol error")),
        (frame(0x80, b""), (1002, "protocol error")),
        (frame(0x09, b""), (1002, "protocol error")),
        (frame(0x81, b"\xff"), (1007, "not UTF-8")),
    ] {
        let mut wire = Wire::upgrade(&gateway.broadcast).await;
        wire.send(&bytes).await;
        let (code, reason) = wire.read_close().await;
        assert_eq!((code, reason.as_str()), expected, "{bytes:?}");
    }
}

#[tokio::test]
async fn a_client_that_leaves_is_forgotten_whether_it_says_so_or_not() {
    let gateway = Gateway::open();
    let rude = session(&gateway.broadcast, r#"["a"]"#).await;
    let mut polite = Subscriber::subscribe(&gateway.broadcast, &["a"]).await;
    gateway.broadcast.wait_for_metric("fanfare_sessions", 2.0).await;
    drop(rude);
    gateway.broadcast.wait_for_metric("fanfare_sessions", 1.0).await;
    polite.socket.send(Message::Close(None)).await.unwrap();
    gateway.broadcast.wait_for_metric("fanfare_sessions", 0.0).await;
}
