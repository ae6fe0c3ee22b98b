//! Sessions that read the log while more is fired: nothing is missed, nobody waits for them, and
//! what they may see is what their token may do now (WIRE 1.3, DESIGN `CatchUp`).

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::net::TcpSocket;

use crate::agents::publishing;
use crate::client::{Subscriber, event, fire, said};
use crate::gateway::{Gateway, House, Process, TOKEN};
use crate::history::History;
use crate::publishers::{Manner, Publishers};
use crate::replay::{Replay, fire_numbers, fire_padded, init, numbers};
use crate::resuming::{Begin, FENCE, Resuming};
use crate::wire::{Wire, frame, upgrade_request};

const READER: &str = "0123456789abcdef-reader";

/// A session with a narrow socket, which has just sent its init.
pub async fn narrow(broadcast: &Process, token: &str, events: &[&str], members: Value) -> Wire {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(1).unwrap();
    let mut wire = Wire { stream: socket.connect(broadcast.address()).await.unwrap() };
    wire.send(upgrade_request("/", "")).await;
    assert!(wire.read_head().await.starts_with("HTTP/1.1 101 "));
    wire.send(frame(0x81, init(token, events, members).as_bytes())).await;
    let (_, answer) = wire.read_frame().await;
    let answer: Value = serde_json::from_slice(&answer).unwrap();
    assert_eq!(answer["code"], "OK");
    wire
}

fn tokens(reader: &str) -> String {
    format!("{TOKEN} name=all\n{reader}\n")
}

/// How a session ends that still reads the log when the tokens file becomes this.
async fn ends_when(becomes: &str) -> (u16, String) {
    let reader = format!("{READER} name=reader subscribe=a,b publish=none");
    let gateway = House::new().with_tokens(&tokens(&reader)).open();
    // More than all the buffers on the way hold.
    fire_padded(&gateway, "a", 0..200, 60_000).await;
    let after = json!({"after": "first"});
    let mut catching_up = narrow(&gateway.broadcast, READER, &["a"], after.clone()).await;
    let mut other = Replay::begin(&gateway.broadcast, &["a"], after).await;
    let (_, first) = catching_up.read_frame().await;
    assert!(first.starts_with(br#"{"type":"event","event":"a","data":{"n":0,"#));
    let reloads = gateway.broadcast.metric("fanfare_reloads_total").await;
    gateway.house.write_tokens(&tokens(becomes));
    // It reads nothing meanwhile: it can only be in the middle of the log.
    gateway.broadcast.wait_for_metric("fanfare_reloads_total", reloads + 1.0).await;
    let close = catching_up.read_close().await;
    // Whoever has another token notices nothing.
    let all: Vec<u64> = (0..200).collect();
    assert_eq!(numbers(&other.rest(&gateway).await), all);
    close
}

#[tokio::test]
async fn a_token_that_is_narrowed_while_its_session_catches_up_ends_it_with_4403() {
    let becomes = format!("{READER} name=reader subscribe=b publish=none");
    assert_eq!(ends_when(&becomes).await, (4403, "forbidden".to_owned()));
}

#[tokio::test]
async fn a_token_that_is_withdrawn_while_its_session_catches_up_ends_it_with_4401() {
    assert_eq!(ends_when("# nobody").await, (4401, "token withdrawn".to_owned()));
}

#[tokio::test]
async fn what_is_replayed_is_judged_by_what_the_token_may_do_now() {
    let reader = format!("{READER} name=reader subscribe=a,b publish=none");
    let gateway = House::new().with_tokens(&tokens(&reader)).open();
    fire_numbers(&gateway, "a", 0..3).await;
    let mut session = Subscriber::connect(&gateway.broadcast).await;
    let whole = init(READER, &["a", "b"], json!({"cursor": true}));
    let answered: Value = serde_json::from_str(&session.ask(&whole).await).unwrap();
    let cursor = answered["cursor"].as_str().unwrap().to_owned();
    fire_numbers(&gateway, "a", 3..6).await;
    gateway.house.write_tokens(&tokens(&format!("{READER} name=reader subscribe=b publish=none")));
    assert_eq!(session.closed().await, (4403, "forbidden".to_owned()));
    // The cursor is a place and no permission.
    let mut again = Subscriber::connect(&gateway.broadcast).await;
    for members in [json!({"after": cursor}), json!({"after": "first"}), json!({"last": 10})] {
        let answered = again.ask(&init(READER, &["a", "b"], members)).await;
        assert_eq!(answered, said("init", "FORBIDDEN"));
    }
    let answered = again.ask(&init(READER, &["b"], json!({"after": cursor}))).await;
    assert!(answered.contains(r#""recovered":true"#), "{answered}");
    fire_numbers(&gateway, "b", 6..7).await;
    assert!(again.hear().await.starts_with(r#"{"type":"event","event":"b","data":6,"#));
}

/// Only what a pattern of the grants covers may be asked for, whatever is in the log.
#[tokio::test]
async fn a_replay_by_patterns_shows_nothing_that_is_not_granted() {
    let reader = format!("{READER} name=reader subscribe=open.>,fence.> publish=none");
    let gateway = House::new().with_tokens(&tokens(&reader)).open();
    for (number, event_type) in ["open.a", "secret.a", "open.b.c", "open"].iter().enumerate() {
        fire(&gateway, event_type, &number.to_string()).await;
    }
    for members in [json!({"after": "first"}), json!({"last": 100})] {
        let mut replay =
            Replay::begin_as(&gateway.broadcast, READER, &["open.>"], members.clone()).await;
        assert_eq!(numbers(&replay.rest(&gateway).await), [0, 2]);
        let mut refused = Subscriber::connect(&gateway.broadcast).await;
        let answered = refused.ask(&init(READER, &[">"], members)).await;
        assert_eq!(answered, said("init", "FORBIDDEN"));
    }
}

/// What waits for a reader is read from the log at its own pace, not heaped up before it.
#[tokio::test]
async fn a_slow_reader_that_catches_up_misses_nothing_and_delays_nobody() {
    let gateway = House::new().set("LOG_CACHE_BYTES", 65_536).open();
    let (url, ws_url) = (gateway.event_url(), gateway.broadcast.ws_url());
    let quick = Resuming::begin(&ws_url, &Begin::Now { is_whole: true });
    quick.wait_for_inits(1).await;
    let manner = Manner { count: 2, pace: Some(Duration::from_millis(5)), size: 8192 };
    let publishers = Publishers::begin(&url, &manner);
    publishers.wait_for_more(200).await;
    // It gets through about half of what is fired while it reads.
    let slow = Resuming::begin_at_pace(&ws_url, &Begin::First, Duration::from_millis(8));
    slow.wait_for_events(200).await;
    // Whoever comes now is served at once.
    let begun = Instant::now();
    let mut neighbour = Subscriber::subscribe(&gateway.broadcast, &["neighbour"]).await;
    fire(&gateway, "neighbour", "1").await;
    neighbour.hear().await;
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    let fired = publishers.stop().await;
    fire(&gateway, FENCE, "null").await;
    let hearings = vec![quick.hear_the_fence().await, slow.hear_the_fence().await];
    History { fired, hearings }.expect_faultless();
    assert_eq!(gateway.broadcast.metric("fanfare_slow_consumers_total").await, 0.0);
}

/// With next to no cache everything comes from the disk: thousands of events, to several at a time.
#[tokio::test]
async fn thousands_of_kept_events_are_read_from_the_disk_by_many_at_a_time() {
    let gateway = House::new().set("LOG_CACHE_BYTES", 65_536).open();
    let (url, ws_url) = (gateway.event_url(), gateway.broadcast.ws_url());
    let live = Resuming::begin(&ws_url, &Begin::Now { is_whole: true });
    live.wait_for_inits(1).await;
    let publishers = Publishers::begin(&url, &Manner { count: 16, pace: None, size: 300 });
    publishers.wait_for_more(3_000).await;
    let readers: Vec<_> = (0..5).map(|_| Resuming::begin(&ws_url, &Begin::First)).collect();
    let fired = publishers.stop().await;
    fire(&gateway, FENCE, "null").await;
    let mut hearings = vec![live.hear_the_fence().await];
    for reader in readers {
        hearings.push(reader.hear_the_fence().await);
    }
    History { fired, hearings }.expect_faultless();
    // From a place in the middle the same is read as by the one that was there.
    let kept = Replay::begin(&gateway.broadcast, &["load.*"], json!({"after": "first"})).await;
    let mut kept = kept;
    let whole = kept.rest_as_written(&gateway).await;
    let middle: Value = serde_json::from_str(&whole[whole.len() / 2]).unwrap();
    let after = json!({"after": middle["cursor"]});
    let mut half = Replay::begin(&gateway.broadcast, &["load.*"], after).await;
    assert_eq!(half.rest_as_written(&gateway).await, whole[whole.len() / 2 + 1..]);
}

/// Between what is read and what comes live there is neither a gap nor a repeat.
#[tokio::test]
async fn sessions_that_join_while_events_are_fired_have_no_gap_and_no_repeat() {
    let gateway = Gateway::open();
    let (url, ws_url) = (gateway.event_url(), gateway.broadcast.ws_url());
    let whole = Resuming::begin(&ws_url, &Begin::Now { is_whole: true });
    whole.wait_for_inits(1).await;
    let manner = Manner { count: 4, pace: Some(Duration::from_millis(5)), size: 64 };
    let publishers = Publishers::begin(&url, &manner);
    let mut joined = Vec::new();
    for round in 0..40 {
        publishers.wait_for_more(10).await;
        let begin = if round % 2 == 0 { Begin::First } else { Begin::Now { is_whole: false } };
        joined.push(Resuming::begin(&ws_url, &begin));
    }
    for session in &joined {
        session.wait_for_inits(1).await;
    }
    let fired = publishers.stop().await;
    fire(&gateway, FENCE, "null").await;
    let mut hearings = vec![whole.hear_the_fence().await];
    for session in joined {
        hearings.push(session.hear_the_fence().await);
    }
    assert_eq!(hearings.len(), 41);
    History { fired, hearings }.expect_faultless();
}

#[tokio::test]
async fn a_session_that_goes_while_it_catches_up_leaves_nothing_behind() {
    let gateway = Gateway::open();
    fire_padded(&gateway, "a", 0..100, 60_000).await;
    for _ in 0..10 {
        let after = json!({"after": "first"});
        let mut leaving = narrow(&gateway.broadcast, TOKEN, &["a"], after).await;
        leaving.read_frame().await;
    }
    gateway.broadcast.wait_for_metric("fanfare_sessions", 0.0).await;
    gateway.broadcast.wait_for_metric("fanfare_outbox_bytes", 0.0).await;
    gateway.broadcast.wait_for_metric("fanfare_memory_held_bytes", 0.0).await;
}

/// An Eventual Agent with a narrow socket, which has just begun to hear all that is kept.
async fn narrow_agent(broadcast: &Process) -> Wire {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(1).unwrap();
    let mut wire = Wire { stream: socket.connect(broadcast.address()).await.unwrap() };
    wire.send(upgrade_request("/", "")).await;
    assert!(wire.read_head().await.starts_with("HTTP/1.1 101 "));
    let subscribe =
        json!({"type": "subscribe", "channel": "global", "after": "first", "token": TOKEN});
    wire.send(frame(0x81, subscribe.to_string().as_bytes())).await;
    wire
}

/// Neither has to do with what it reads, and both may be urgent: an event of its own, and another
/// credential.
#[tokio::test]
async fn an_agent_that_catches_up_publishes_at_once_and_renews_its_credential() {
    let gateway = Gateway::open();
    // More than all the buffers on the way hold.
    fire_padded(&gateway, "a", 0..200, 60_000).await;
    let mut native = Subscriber::subscribe(&gateway.broadcast, &["own"]).await;
    let mut agent = narrow_agent(&gateway.broadcast).await;
    let mut heard: Vec<Value> = Vec::new();
    heard.push(serde_json::from_slice(&agent.read_frame().await.1).unwrap());
    // It is in the middle of the log, and stays there while it reads nothing.
    let own = publishing(json!("own"), "own", json!(200));
    agent.send(frame(0x81, own.to_string().as_bytes())).await;
    assert_eq!(native.hear().await, event("own", "200"));
    let auth = json!({"type": "auth", "authentication": format!("Basic {TOKEN}")});
    agent.send(frame(0x81, auth.to_string().as_bytes())).await;
    let mut answered = None;
    while heard.len() < 201 {
        let (_, text) = agent.read_frame().await;
        if text == said("auth", "OK").as_bytes() {
            answered = Some(heard.len());
        } else {
            heard.push(serde_json::from_slice(&text).unwrap());
        }
    }
    assert_eq!(numbers(&heard), Vec::from_iter(0..201));
    assert!(answered.is_some_and(|it| it < 200), "answered only when all was read: {answered:?}");
}

/// What succeeds is not answered, so the client cannot wait for it: an event goes behind what it has
/// subscribed before, and is not lost behind its Close either.
#[tokio::test]
async fn an_event_waits_behind_a_subscription_that_waits_and_keeps_a_close_waiting() {
    let gateway = Gateway::open();
    fire_padded(&gateway, "a", 0..200, 60_000).await;
    let mut agent = narrow_agent(&gateway.broadcast).await;
    let mut heard: Vec<Value> = Vec::new();
    heard.push(serde_json::from_slice(&agent.read_frame().await.1).unwrap());
    let unheard = json!({"type": "unsubscribe", "channel": "global"});
    let mine = json!({"type": "subscribe", "channel": "mine"});
    let own = publishing(json!("mine"), "own", json!(200));
    for message in [unheard, mine, own] {
        agent.send(frame(0x81, message.to_string().as_bytes())).await;
    }
    agent.send(frame(0x88, &1000_u16.to_be_bytes())).await;
    let mut is_closed = false;
    while !is_closed {
        let (opcode, text) = agent.read_frame().await;
        is_closed = opcode & 0x0f == 8;
        if !is_closed {
            heard.push(serde_json::from_slice(&text).unwrap());
        }
    }
    assert_eq!(numbers(&heard)[..200], *Vec::from_iter(0..200));
    let mut native = Subscriber::connect(&gateway.broadcast).await;
    let kept = json!({"authentication": format!("Basic {TOKEN}"), "events": ["own"], "last": 1});
    assert_eq!(native.ask(&kept.to_string()).await, said("init", "OK"));
    assert_eq!(native.hear().await, event("own", "200"));
}
