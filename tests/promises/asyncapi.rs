//! The document of streams, held against what is said on them: each protocol is played, every
//! message is judged, and every message that is documented comes.

use std::sync::atomic::{AtomicU32, Ordering};

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use crate::event_stream::{EventStream, get};
use crate::gateway::{Gateway, House, TOKEN};
use crate::pipely;
use crate::queue_stream::{BANNER, QueueStream, ask, wait_for_listing};
use crate::recorder::{Recorded, Recorder, Way, read_to};

const SHORT_LIVED: &str = "0123456789abcdef-short";
const FEW: &str = "0123456789abcdef-few";
/// A place of another log: what follows it nobody knows.
const FOREIGN: &str = "zzzzzz-7";

fn tokens() -> String {
    let ends = Timestamp::now() + SignedDuration::from_secs(29);
    format!(
        "{TOKEN} name=all\n{FEW} name=few publish=none subscribe=a\n\
         {SHORT_LIVED} name=short expires={ends:.0}\n"
    )
}

fn basic(token: &str) -> String {
    format!("Basic {token}")
}

/// One event of each kind of data: JSON, text, bytes, none; with an extension of each kind. Gives
/// their identities, which are new: the same again would be retries.
async fn fire_all_kinds(gateway: &Gateway) -> [String; 4] {
    static ROUND: AtomicU32 = AtomicU32::new(0);
    let round = ROUND.fetch_add(1, Ordering::Relaxed);
    let ids = ["json", "text", "bytes", "none"].map(|kind| format!("{kind}-{round}"));
    let events = json!([
        {"specversion": "1.0", "id": ids[0], "source": "/s", "type": "a", "data": {"n": 1.50},
         "subject": "s", "dataschema": "http://example.com/schema"},
        {"specversion": "1.0", "id": ids[1], "source": "/s", "type": "a", "data": "text\nof two lines",
         "datacontenttype": "text/plain", "text": "x", "yes": true, "number": -7},
        {"specversion": "1.0", "id": ids[2], "source": "/s", "type": "a", "data_base64": "AAEC",
         "datacontenttype": "application/octet-stream"},
        {"specversion": "1.0", "id": ids[3], "source": "/s", "type": "a"},
    ]);
    let response = reqwest::Client::new()
        .post(format!("{}/events", gateway.listen.url()))
        .header("authorization", basic(TOKEN))
        .header("content-type", "application/cloudevents-batch+json")
        .body(events.to_string());
    assert_eq!(response.send().await.unwrap().status(), 200);
    ids
}

async fn play_native(recorder: &Recorder, gateway: &Gateway) {
    let broadcast = &gateway.broadcast;
    let open = async || Recorded::open(recorder, "native", broadcast, "/").await;
    for wish in [
        json!({}),
        json!({"cursor": true}),
        json!({"format": "cloudevents"}),
        json!({"format": "cloudevents", "cursor": true}),
        json!({"after": "first"}),
        json!({"since": "2026-01-31T12:00:00Z"}),
        json!({"last": 2}),
        json!({"after": FOREIGN}),
    ] {
        let mut session = open().await;
        let mut init = json!({"authentication": basic(TOKEN), "events": ["a", "b.>"]});
        init.as_object_mut().unwrap().extend(wish.as_object().unwrap().clone());
        assert_eq!(session.ask(init).await["code"], "OK", "{wish}");
        fire_all_kinds(gateway).await;
        for _ in 0..4 {
            session.hear().await;
        }
    }
    let mut session = open().await;
    for text in ["{", "7", "[]", r#"{"events":7}"#] {
        session.blurt(text).await;
        assert_ne!(session.hear().await["code"], "OK", "{text}");
    }
    let init = json!({"authentication": basic(FEW), "events": ["a"]});
    assert_eq!(session.ask(init).await["code"], "OK");
    for (message, code) in [
        (json!({"events": ["b"]}), "FORBIDDEN"),
        (json!({"events": ["a"], "cursor": true}), "INVALID_RESUME"),
        (json!({"authentication": "Digest x", "events": []}), "AUTH_UNRECOGNIZED_SCHEME"),
        (
            json!({"events": (0..1001).map(|n| n.to_string()).collect::<Vec<_>>()}),
            "TOO_MANY_EVENTS",
        ),
        (json!({"type": "unsubscribe", "events": ["a"]}), "OK"),
        (json!({"type": "auth", "authentication": basic(TOKEN)}), "OK"),
        (json!({"type": "auth", "authentication": "Basic wrong"}), "UNAUTHENTICATED"),
    ] {
        assert_eq!(session.ask(message.clone()).await["code"], code, "{message}");
    }
    for (text, code) in [
        (r#"{"type":"unsubscribe"}"#, "INVALID_EVENTS_MISSING"),
        (r#"{"events":[""]}"#, "INVALID_EVENTS"),
    ] {
        session.blurt(text).await;
        assert_eq!(session.hear().await["code"], code);
    }
}

/// Who asked for places is told 30 s before the end of the credential.
async fn play_expiring(recorder: &Recorder, gateway: &Gateway) {
    let mut session = Recorded::open(recorder, "native", &gateway.broadcast, "/").await;
    let init = json!({"authentication": basic(SHORT_LIVED), "events": ["never"], "cursor": true});
    assert_eq!(session.ask(init).await["code"], "OK");
    assert_eq!(session.hear().await["type"], "expiring");
}

async fn play_agent(recorder: &Recorder, gateway: &Gateway) {
    let open = async || Recorded::open(recorder, "native", &gateway.broadcast, "/").await;
    let event = json!({"id": "7", "source": "/s", "type": "b", "data": {"n": 1}, "time": 7,
                       "meta": {"trace": [1, "x"]}});
    let mut session = open().await;
    session.say(json!({"type": "subscribe", "channels": ["a", "room"], "token": TOKEN})).await;
    session.say(json!({"type": "subscribe", "channel": "global"})).await;
    session.say(json!({"type": "publish", "channel": "room", "event": event})).await;
    let heard = session.hear().await;
    assert_eq!((&heard["type"], &heard["meta"]), (&json!("b"), &event["meta"]));
    session.say(json!({"type": "unsubscribe", "channels": ["global", "a"]})).await;
    session.blurt(r#"{"type":"shout","channel":"a"}"#).await;
    assert_eq!(session.hear().await, "Invalid Request");
    // One that comes too late to say where it begins.
    let late = json!({"type": "subscribe", "channels": "a", "after": "first"});
    assert_eq!(session.ask(late).await, "Invalid Request");
    for (start, first) in [("first", json!("a")), (FOREIGN, json!("gateway.gap"))] {
        let mut session = open().await;
        let subscribe = json!({"type": "subscribe", "channels": ["a"], "token": TOKEN});
        let mut subscribe = subscribe.as_object().unwrap().clone();
        subscribe.insert("after".to_owned(), json!(start));
        let heard = session.ask(Value::Object(subscribe)).await;
        assert_eq!(heard["type"], first);
    }
}

async fn play_cloudevents(recorder: &Recorder, gateway: &Gateway) {
    let ticket = crate::event_stream::ticket(&gateway.broadcast, TOKEN).await;
    let path = format!("/events?type=a&after={FOREIGN}&ticket={ticket}");
    let mut session = Recorded::open(recorder, "cloudevents", &gateway.broadcast, &path).await;
    assert_eq!(session.hear().await["type"], "gateway.gap");
    for id in fire_all_kinds(gateway).await {
        assert_eq!(session.hear().await["id"], id);
    }
}

async fn play_sse(recorder: &Recorder, gateway: &Gateway) {
    for query in ["type=a", "type=a&format=cloudevents", "type=a&after=zzzzzz-7"] {
        let request = get(&gateway.broadcast, query).header("accept", "text/event-stream");
        let mut stream = EventStream::of(request).await;
        fire_all_kinds(gateway).await;
        for _ in 0..4 {
            let is_event = |block: &crate::event_stream::Block| block.event.as_deref() == Some("a");
            read_to(recorder, "sse", &mut stream, is_event).await;
        }
    }
    let mut quiet = EventStream::open(&gateway.broadcast, "type=never").await;
    read_to(recorder, "sse", &mut quiet, |block| block.comments > 0).await;
}

/// The other streams are played meanwhile, so that nobody waits twice for a comment.
async fn play_channels(recorder: &Recorder, gateway: &Gateway) {
    let broadcast = &gateway.broadcast;
    let mut alice = pipely::join(broadcast, "alice", "").await;
    drop(pipely::join(broadcast, "bob", "").await);
    pipely::tell(broadcast, "", pipely::message("t", "xyz", "[1,\n2]")).await;
    play_sse(recorder, gateway).await;
    read_to(recorder, "pipely", &mut alice, |block| block.comments > 0).await;
}

/// A block of a queue as the document writes it: its fields as members.
fn as_message(block: &str) -> Value {
    let mut message = json!({});
    let mut data = Vec::new();
    for line in block.trim_end_matches('\n').lines() {
        match line.split_once(':').unwrap() {
            ("", comment) => message["comment"] = json!(comment.trim_start()),
            ("data", line) => data.push(line.strip_prefix(' ').unwrap()),
            (name, value) => message[name] = json!(value.trim_start()),
        }
    }
    if !data.is_empty() {
        message["data"] = json!(data.join("\n"));
    }
    message
}

async fn play_queue(recorder: &Recorder, gateway: &Gateway) {
    let broadcast = &gateway.broadcast;
    let record = |block: &str| recorder.record("queue", Way::Sent, &as_message(block));
    // What every stream of a queue has to begin with.
    record(BANNER);
    for query in ["id=q&type=a", "id=w&type=a&format=cloudevents&cursor=true"] {
        let mut stream = QueueStream::open(broadcast, query).await;
        fire_all_kinds(gateway).await;
        let messages = stream.messages(4).await;
        messages.iter().for_each(|block| record(block));
        drop(stream);
        let name = &query[3..4];
        wait_for_listing(broadcast, name, &[("consumers", 0)]).await;
    }
    // Another log's place is a gap; what was seen first is followed by what came again.
    let page = get(broadcast, "type=a&limit=1").send().await.unwrap().text().await.unwrap();
    let page: Value = serde_json::from_str(&page).unwrap();
    for seen in [FOREIGN, page[0]["cursor"].as_str().unwrap()] {
        let request = ask(broadcast, "id=w&cursor=true").header("last-event-id", seen);
        let mut stream = QueueStream::of(request).await;
        record(&stream.message().await);
        drop(stream);
        wait_for_listing(broadcast, "w", &[("consumers", 0)]).await;
    }
    let mut quiet = QueueStream::open(broadcast, "id=quiet&type=never").await;
    record(&quiet.block().await.unwrap());
}

/// A message of a Phoenix client in its version.
fn phoenix(version: u8, (reference, topic, event): (&str, &str, &str), payload: Value) -> Value {
    match version {
        1 => json!({"topic": topic, "event": event, "ref": reference, "payload": payload}),
        _ => json!(["1", reference, topic, event, payload]),
    }
}

async fn play_phoenix(recorder: &Recorder, gateway: &Gateway, version: u8) {
    let channel = if version == 1 { "phoenixV1" } else { "phoenixV2" };
    let path = format!("/socket/websocket?vsn={version}.0.0&token={TOKEN}");
    let mut session = Recorded::open(recorder, channel, &gateway.broadcast, &path).await;
    let body = |message: &Value| match version {
        1 => message["payload"].clone(),
        _ => message[4].clone(),
    };
    let say = |of, payload| phoenix(version, of, payload);
    let joined = session.ask(say(("1", "source:/s", "phx_join"), json!({}))).await;
    assert_eq!(body(&joined)["status"], "ok");
    assert!(!body(&joined)["response"]["messages"].as_array().unwrap().is_empty());
    for id in fire_all_kinds(gateway).await {
        assert_eq!(body(&session.hear().await)["id"], id);
    }
    let beat = session.ask(say(("2", "phoenix", "heartbeat"), json!({}))).await;
    assert_eq!(body(&beat)["status"], "ok");
    for (of, payload, reason) in [
        (("3", "source:/s", "hello"), json!({"x": 1}), "unsupported"),
        (("4", "room:1", "phx_join"), json!({}), "unmatched topic"),
        (("5", "source:/t", "hello"), json!({}), "unmatched topic"),
        (("6", "source:/t", "phx_join"), json!({"cursor": "x"}), "invalid cursor"),
    ] {
        let refused = session.ask(say(of, payload)).await;
        assert_eq!(body(&refused)["response"]["reason"], reason);
    }
    let gap = session.ask(say(("7", "source:/t", "phx_join"), json!({"cursor": FOREIGN}))).await;
    assert_eq!(body(&gap)["response"]["recovered"], false);
    let left = session.ask(say(("8", "source:/s", "phx_leave"), json!({}))).await;
    assert_eq!(body(&left)["status"], "ok");
    // The word that the channel has ended.
    session.hear().await;
    let path = format!("/socket/websocket?vsn={version}.0.0&token=wrong");
    let mut stranger = Recorded::open(recorder, channel, &gateway.broadcast, &path).await;
    let refused = stranger.ask(say(("1", "source:/s", "phx_join"), json!({}))).await;
    assert_eq!(body(&refused)["response"]["reason"], "unauthenticated");
}

#[tokio::test]
async fn every_message_is_documented_and_every_documented_message_comes() {
    let house = House::new().with_tokens(&tokens()).set("CHANNELS_ENABLE", "true");
    let gateway = house.open();
    let recorder = Recorder::new();
    play_expiring(&recorder, &gateway).await;
    fire_all_kinds(&gateway).await;
    play_native(&recorder, &gateway).await;
    play_agent(&recorder, &gateway).await;
    play_cloudevents(&recorder, &gateway).await;
    play_queue(&recorder, &gateway).await;
    play_channels(&recorder, &gateway).await;
    play_phoenix(&recorder, &gateway, 1).await;
    play_phoenix(&recorder, &gateway, 2).await;
    assert_eq!(recorder.missing(), []);
}

/// The recorder does judge: what nobody has documented fails.
#[test]
fn a_message_that_is_not_documented_is_not_taken() {
    let recorder = Recorder::new();
    for (channel, way, message) in [
        ("native", Way::Sent, json!({"type": "init"})),
        ("native", Way::Sent, json!({"type": "init", "code": "NEW"})),
        ("native", Way::Sent, json!({"type": "event", "event": "a", "data": 1, "more": 1})),
        ("native", Way::Sent, json!("Bad Request")),
        ("native", Way::Received, json!({"type": "shout", "channel": "a"})),
        ("cloudevents", Way::Sent, json!({"specversion": "1.0", "id": "1", "type": "a"})),
        ("sse", Way::Sent, json!({"event": "a", "data": "1"})),
        ("queue", Way::Sent, json!({"comment": "other", "data": "1"})),
        ("queue", Way::Sent, json!({"id": "k-1", "event": "a", "data": "1"})),
        ("pipely", Way::Sent, json!({"data": "{}"})),
        ("pipely", Way::Sent, json!({"event": "t", "data": "{\"channel_id\":\"a\"}"})),
        ("phoenixV1", Way::Sent, json!([null, null, "source:/s", "a", {}])),
        ("phoenixV2", Way::Sent, json!([null, null, "source:/s", "phx_new", {}])),
    ] {
        assert!(!recorder.knows(channel, way, &message), "{channel}: {message}");
    }
}
