//! Phoenix channels (WIRE 4), text for text: what each message of a client is answered, in both
//! versions of the serializer.

use rustix::process::Signal;

use crate::channels::{assert_quiet, masked, open, open_as, shake_hands};
use crate::client::{Subscriber, fire, post};
use crate::gateway::{Gateway, House, TOKEN};
use crate::wire::{Wire, frame, upgrade_request};

/// What is said, and all that is answered.
type Step = (&'static str, &'static [&'static str]);

async fn open_v1(gateway: &Gateway) -> Subscriber {
    let query = format!("?token={TOKEN}");
    shake_hands(&gateway.broadcast, &query, &[]).await.unwrap_or_else(|it| panic!("{it}")).0
}

/// Plays a conversation; after each step comes nothing but what stands there.
async fn play(client: &mut Subscriber, beat: Step, steps: &[Step]) {
    for (said, answers) in steps {
        client.say(said).await;
        client.say(beat.0).await;
        for answer in answers.iter().chain(beat.1) {
            assert_eq!(masked(&client.hear().await), *answer, "to {said}");
        }
    }
}

const BEAT_2: Step = (
    r#"[null,"b","phoenix","heartbeat",{}]"#,
    &[r#"[null,"b","phoenix","phx_reply",{"status":"ok","response":{}}]"#],
);

const BEAT_1: Step = (
    r#"{"topic":"phoenix","event":"heartbeat","payload":{},"ref":"b"}"#,
    &[
        r#"{"topic":"phoenix","event":"phx_reply","ref":"b","payload":{"status":"ok","response":{}}}"#,
    ],
);

const HEARTBEATS_2: [Step; 4] = [
    (
        r#"["9","1","phoenix","heartbeat",{"any":1}]"#,
        &[r#"[null,"1","phoenix","phx_reply",{"status":"ok","response":{}}]"#],
    ),
    (
        r#"[null,17,"phoenix","heartbeat",null]"#,
        &[r#"[null,17,"phoenix","phx_reply",{"status":"ok","response":{}}]"#],
    ),
    (
        r#"[null,null,"phoenix","heartbeat",{},"more","than five"]"#,
        &[r#"[null,null,"phoenix","phx_reply",{"status":"ok","response":{}}]"#],
    ),
    (
        r#"[null,"1","phoenix","other",{}]"#,
        &[
            r#"[null,"1","phoenix","phx_reply",{"status":"error","response":{"reason":"unmatched topic"}}]"#,
        ],
    ),
];

const UNMATCHED_2: [Step; 9] = [
    (
        r#"["1","2","phoenix","phx_join",{}]"#,
        &[
            r#"[null,"2","phoenix","phx_reply",{"status":"error","response":{"reason":"unmatched topic"}}]"#,
        ],
    ),
    (
        r#"["1","2","room:lobby","phx_join",{}]"#,
        &[
            r#"[null,"2","room:lobby","phx_reply",{"status":"error","response":{"reason":"unmatched topic"}}]"#,
        ],
    ),
    (
        r#"["1","2","source:","phx_join",{}]"#,
        &[
            r#"[null,"2","source:","phx_reply",{"status":"error","response":{"reason":"unmatched topic"}}]"#,
        ],
    ),
    (
        r#"["1","2",123,"phx_join",{}]"#,
        &[
            r#"[null,"2",123,"phx_reply",{"status":"error","response":{"reason":"unmatched topic"}}]"#,
        ],
    ),
    (
        r#"["1","2",null,null,null]"#,
        &[
            r#"[null,"2",null,"phx_reply",{"status":"error","response":{"reason":"unmatched topic"}}]"#,
        ],
    ),
    // A push to what was not joined, and words that only a server says.
    (
        r#"["1","3","source:/s","shout",{}]"#,
        &[
            r#"[null,"3","source:/s","phx_reply",{"status":"error","response":{"reason":"unmatched topic"}}]"#,
        ],
    ),
    (
        r#"["1","3","source:/s","phx_close",{}]"#,
        &[
            r#"[null,"3","source:/s","phx_reply",{"status":"error","response":{"reason":"unmatched topic"}}]"#,
        ],
    ),
    // To leave where one never was, or what cannot be, is done at once.
    (
        r#"["5","4","source:/s","phx_leave",{}]"#,
        &[r#"["5","4","source:/s","phx_reply",{"status":"ok","response":{}}]"#],
    ),
    (
        r#"["5",4,"room:lobby","phx_leave",{}]"#,
        &[r#"["5",4,"room:lobby","phx_reply",{"status":"ok","response":{}}]"#],
    ),
];

const CHANNEL_2: [Step; 13] = [
    (
        r#"["7","8","source:/s","phx_join",{}]"#,
        &[
            r#"["7","8","source:/s","phx_reply",{"status":"ok","response":{"messages":[],"cursor":"_"}}]"#,
        ],
    ),
    (
        r#"["7","9","source:/s","shout",{"x":1}]"#,
        &[
            r#"["7","9","source:/s","phx_reply",{"status":"error","response":{"reason":"unsupported"}}]"#,
        ],
    ),
    // As in 1.7 a stale push is answered by the channel that there is.
    (
        r#"["6","10","source:/s","shout",{}]"#,
        &[
            r#"["7","10","source:/s","phx_reply",{"status":"error","response":{"reason":"unsupported"}}]"#,
        ],
    ),
    (
        r#"[null,"11","source:/s","shout",{}]"#,
        &[
            r#"["7","11","source:/s","phx_reply",{"status":"error","response":{"reason":"unsupported"}}]"#,
        ],
    ),
    // A stale leave has raced with a join, and is nothing.
    (r#"["6","12","source:/s","phx_leave",{}]"#, &[]),
    // A number is not the text of it.
    (r#"[7,"12","source:/s","phx_leave",{}]"#, &[]),
    // A join of what is joined: its answer, then the end of the one before.
    (
        r#"["13","14","source:/s","phx_join",{}]"#,
        &[
            r#"["13","14","source:/s","phx_reply",{"status":"ok","response":{"messages":[],"cursor":"_"}}]"#,
            r#"["7","7","source:/s","phx_close",{}]"#,
        ],
    ),
    // One that is refused has ended the one before, too.
    (
        r#"["15","16","source:/s","phx_join",{"cursor":"nowhere"}]"#,
        &[
            r#"["15","16","source:/s","phx_reply",{"status":"error","response":{"reason":"invalid cursor"}}]"#,
            r#"["13","13","source:/s","phx_close",{}]"#,
        ],
    ),
    (
        r#"["15","17","source:/s","shout",{}]"#,
        &[
            r#"[null,"17","source:/s","phx_reply",{"status":"error","response":{"reason":"unmatched topic"}}]"#,
        ],
    ),
    (
        r#"[18,19,"source:/s","phx_join",null]"#,
        &[
            r#"[18,19,"source:/s","phx_reply",{"status":"ok","response":{"messages":[],"cursor":"_"}}]"#,
        ],
    ),
    (
        r#"[18,20,"source:/s","phx_leave",{}]"#,
        &[
            r#"[18,20,"source:/s","phx_reply",{"status":"ok","response":{}}]"#,
            r#"[18,18,"source:/s","phx_close",{}]"#,
        ],
    ),
    (
        r#"["21","21","source:/s","phx_join",{"cursor":null,"other":[]}]"#,
        &[
            r#"["21","21","source:/s","phx_reply",{"status":"ok","response":{"messages":[],"cursor":"_"}}]"#,
        ],
    ),
    // Newer servers take a leave without a join_ref, which clients do send.
    (
        r#"[null,"22","source:/s","phx_leave",{}]"#,
        &[
            r#"["21","22","source:/s","phx_reply",{"status":"ok","response":{}}]"#,
            r#"["21","21","source:/s","phx_close",{}]"#,
        ],
    ),
];

#[tokio::test]
async fn version_2_is_answered_in_lists_with_every_reference_as_it_was() {
    let gateway = Gateway::open();
    let mut client = open(&gateway.broadcast).await;
    play(&mut client, BEAT_2, &HEARTBEATS_2).await;
    play(&mut client, BEAT_2, &UNMATCHED_2).await;
    play(&mut client, BEAT_2, &CHANNEL_2).await;
}

const STEPS_1: [Step; 9] = [
    (
        r#"{"topic":"phoenix","event":"other","payload":{},"ref":1}"#,
        &[
            r#"{"topic":"phoenix","event":"phx_reply","ref":1,"payload":{"status":"error","response":{"reason":"unmatched topic"}}}"#,
        ],
    ),
    (
        r#"{"topic":"room:lobby","event":"phx_join","payload":{},"ref":"2"}"#,
        &[
            r#"{"topic":"room:lobby","event":"phx_reply","ref":"2","payload":{"status":"error","response":{"reason":"unmatched topic"}}}"#,
        ],
    ),
    (
        r#"{"topic":"source:/s","event":"phx_leave","payload":{},"ref":null}"#,
        &[
            r#"{"topic":"source:/s","event":"phx_reply","ref":null,"payload":{"status":"ok","response":{}}}"#,
        ],
    ),
    (
        r#"{"topic":"source:/s","event":"phx_join","payload":{},"ref":"3"}"#,
        &[
            r#"{"topic":"source:/s","event":"phx_reply","ref":"3","payload":{"status":"ok","response":{"messages":[],"cursor":"_"}}}"#,
        ],
    ),
    (
        r#" {"ref":"4","payload":[],"event":"shout","topic":"source:/s","more":1}"#,
        &[
            r#"{"topic":"source:/s","event":"phx_reply","ref":"4","payload":{"status":"error","response":{"reason":"unsupported"}}}"#,
        ],
    ),
    (
        r#"{"topic":"source:/s","event":"phx_join","payload":{},"ref":"5","join_ref":"5"}"#,
        &[
            r#"{"topic":"source:/s","event":"phx_reply","ref":"5","payload":{"status":"ok","response":{"messages":[],"cursor":"_"}}}"#,
            r#"{"topic":"source:/s","event":"phx_close","ref":null,"payload":{}}"#,
        ],
    ),
    (r#"{"topic":"source:/s","event":"phx_leave","payload":{},"ref":"6","join_ref":"3"}"#, &[]),
    (
        r#"{"topic":"source:/s","event":"phx_join","payload":{"cursor":5},"ref":"7"}"#,
        &[
            r#"{"topic":"source:/s","event":"phx_reply","ref":"7","payload":{"status":"error","response":{"reason":"invalid cursor"}}}"#,
            r#"{"topic":"source:/s","event":"phx_close","ref":"5","payload":{}}"#,
        ],
    ),
    (
        r#"{"topic":"source:/s","event":"phx_leave","payload":{},"ref":"8"}"#,
        &[
            r#"{"topic":"source:/s","event":"phx_reply","ref":"8","payload":{"status":"ok","response":{}}}"#,
        ],
    ),
];

#[tokio::test]
async fn version_1_is_answered_in_objects_without_a_join_ref() {
    let gateway = Gateway::open();
    let mut client = open_v1(&gateway).await;
    play(&mut client, BEAT_1, &[BEAT_1]).await;
    play(&mut client, BEAT_1, &STEPS_1).await;
}

#[tokio::test]
async fn an_event_is_its_type_and_the_cloudevent_and_belongs_to_no_join() {
    let gateway = Gateway::open();
    let (mut first, mut second) = (open_v1(&gateway).await, open(&gateway.broadcast).await);
    first.ask(r#"{"topic":"source:/\"ü\"","event":"phx_join","payload":{},"ref":1}"#).await;
    second.ask(r#"["1","1","source:\/\"\u00fc\"","phx_join",{}]"#).await;
    let body = r#"{"event":"order.\"paid\"","data":{"n": 1.00},"id":"7","source":"/\"ü\"",
                   "time":"2026-11-21T12:00:00.5Z","subject":"s"}"#;
    assert_eq!(post(&gateway, body).send().await.unwrap().status(), 200);
    let event = r#"{"specversion":"1.0","id":"7","source":"/\"ü\"","type":"order.\"paid\"","subject":"s","time":"2026-11-21T12:00:00.5Z","cursor":"_","datacontenttype":"application/json","data":{"n": 1.00}}"#;
    let due = format!(
        r#"{{"topic":"source:/\"ü\"","event":"order.\"paid\"","ref":null,"payload":{event}}}"#
    );
    assert_eq!(masked(&first.hear().await), due);
    let due = format!(r#"[null,null,"source:/\"ü\"","order.\"paid\"",{event}]"#);
    assert_eq!(masked(&second.hear().await), due);
    // What is kept is the same text in the answer to a join.
    let answer = second.ask(r#"["2","2","source:/\"ü\"","phx_join",{}]"#).await;
    let due = format!(
        r#"["2","2","source:/\"ü\"","phx_reply",{{"status":"ok","response":{{"messages":[{event}],"cursor":"_"}}}}]"#
    );
    assert_eq!(masked(&answer), due);
}

const UNREADABLE_2: [&str; 12] = [
    "",
    "not JSON",
    "{}",
    "null",
    "\"text\"",
    "7",
    "[]",
    r#"["1","1","phoenix","heartbeat"]"#,
    r#"["1","1","phoenix","heartbeat",{}"#,
    r#"["1","1","phoenix","heartbeat",{}]]"#,
    r#"{"topic":"phoenix","event":"heartbeat","payload":{},"ref":"1"}"#,
    "\u{0}\u{1}\u{1}\u{7}\u{9}11phoenixheartbeat",
];

const UNREADABLE_1: [&str; 8] = [
    "not JSON",
    "[]",
    "null",
    r#"{"event":"heartbeat","payload":{},"ref":"1"}"#,
    r#"{"topic":"phoenix","payload":{},"ref":"1"}"#,
    r#"{"topic":"phoenix","event":"heartbeat","ref":"1"}"#,
    r#"{"topic":"phoenix","event":"heartbeat","payload":{}}"#,
    r#"[null,"1","phoenix","heartbeat",{}]"#,
];

#[tokio::test]
async fn a_message_that_cannot_be_read_ends_the_connection_with_1011() {
    let gateway = Gateway::open();
    let unreadable = (1011, "unreadable message".to_owned());
    for text in UNREADABLE_2 {
        let mut client = open(&gateway.broadcast).await;
        client.say(text).await;
        assert_eq!(client.closed().await, unreadable, "{text}");
    }
    for text in UNREADABLE_1 {
        let mut client = open_v1(&gateway).await;
        client.say(text).await;
        assert_eq!(client.closed().await, unreadable, "{text}");
    }
    let deep =
        format!(r#"[null,"1","phoenix","heartbeat",{}1{}]"#, "[".repeat(200), "]".repeat(200));
    let mut client = open(&gateway.broadcast).await;
    client.say(&deep).await;
    assert_eq!(client.closed().await, unreadable);
}

#[tokio::test]
async fn bytes_are_judged_as_on_every_socket() {
    let gateway = House::new().set("MAX_MESSAGE", "1KiB").open();
    let beat = br#"[null,"1","phoenix","heartbeat",{}]"#;
    let long = format!(r#"[null,"1","phoenix","heartbeat","{}"]"#, "x".repeat(1024));
    for (bytes, due) in [
        (frame(0x82, b"\xff\xfe"), (1011, "unreadable message")),
        (frame(0x81, b"\xff\xfe"), (1007, "not UTF-8")),
        (frame(0x81, long.as_bytes()), (1009, "message too big")),
    ] {
        let mut wire = Wire::connect(&gateway.broadcast).await;
        wire.send(upgrade_request(&format!("/socket/websocket?vsn=2.0.0&token={TOKEN}"), "")).await;
        assert!(wire.read_head().await.starts_with("HTTP/1.1 101 "));
        // The opcode is not looked at, where it is text.
        wire.send(frame(0x82, beat)).await;
        let (_, answer) = wire.read_frame().await;
        assert!(answer.starts_with(br#"[null,"1","phoenix","phx_reply""#));
        wire.send(bytes).await;
        assert_eq!(wire.read_close().await, (due.0, due.1.to_owned()));
    }
}

#[tokio::test]
async fn there_are_no_more_topics_on_a_connection_than_patterns() {
    let gateway = House::new().set("MAX_PATTERNS", 2).open();
    let mut client = open(&gateway.broadcast).await;
    for (topic, status) in [("a", "ok"), ("b", "ok"), ("c", "error"), ("b", "ok")] {
        let answer = client.ask(&format!(r#"["1","1","source:{topic}","phx_join",{{}}]"#)).await;
        assert!(answer.contains(&format!(r#"{{"status":"{status}""#)), "{answer}");
        assert_eq!(answer.contains("too many channels joined"), status == "error");
    }
    assert_eq!(client.hear().await, r#"["1","1","source:b","phx_close",{}]"#);
    // Whoever leaves makes room.
    client.ask(r#"["1","2","source:a","phx_leave",{}]"#).await;
    client.hear().await;
    let answer = client.ask(r#"["1","1","source:c","phx_join",{}]"#).await;
    assert!(answer.contains(r#"{"status":"ok""#), "{answer}");
    assert_quiet(&mut client).await;
}

#[tokio::test]
async fn a_stopping_broadcast_closes_with_1012_and_says_nothing_else() {
    let gateway = Gateway::open();
    let mut joined = open(&gateway.broadcast).await;
    joined.ask(r#"["1","1","source:/all","phx_join",{}]"#).await;
    let idle = open_as(&gateway.broadcast, "nobody-0123456789").await;
    fire(&gateway, "last", "1").await;
    gateway.broadcast.signal(Signal::TERM);
    assert!(joined.hear().await.starts_with(r#"[null,null,"source:/all","last",{"#));
    let close = joined.next().await;
    assert!(close.is_close(), "{close:?}");
    assert_eq!(idle.closed().await, (1012, "restarting".to_owned()));
}
