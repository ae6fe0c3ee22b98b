//! What a kept event shows of itself to whoever asks (WIRE 1.3), and that nobody else sees any of it.

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::client::{Subscriber, answer, event, fire, post, post_as, said};
use crate::gateway::{Gateway, House, TOKEN};
use crate::history::Cursor;
use crate::replay::{Replay, all_kept, cursor_of, fire_numbers, init, numbers};

const OTHER: &str = "0123456789abcdef-other";

#[tokio::test]
async fn with_cursor_an_event_carries_cursor_id_time_and_source_after_its_data() {
    let gateway = Gateway::open();
    let mut replay = Replay::begin(&gateway.broadcast, &["a"], json!({"cursor": true})).await;
    for (data, member) in [(r#","data":{"b":1,"a":2.50}"#, r#","data":{"b":1,"a":2.50}"#), ("", "")]
    {
        let before = Timestamp::now();
        let body = format!(r#"{{"event":"a"{data}}}"#);
        assert_eq!(answer(post(&gateway, body).send().await.unwrap()).await.0, 200);
        let text = replay.hear().await;
        let value: Value = serde_json::from_str(&text).unwrap();
        let shown = |name: &str| value[name].as_str().unwrap().to_owned();
        let (cursor, id, time) = (shown("cursor"), shown("id"), shown("time"));
        let due = format!(
            r#"{{"type":"event","event":"a"{member},"cursor":"{cursor}","id":"{id}","time":"{time}","source":"/all"}}"#
        );
        assert_eq!(text, due);
        assert!(Cursor::parse(&cursor).is_some(), "{cursor}");
        // A UUIDv7, and the time of acceptance.
        assert_eq!((id.len(), &id[14..15]), (36, "7"), "{id}");
        let time: Timestamp = time.parse().unwrap();
        // Both processes have one clock, but may round it.
        assert!(time.as_millisecond() >= before.as_millisecond() - 1, "{time} {before}");
        assert!(time <= Timestamp::now(), "{time}");
    }
}

#[tokio::test]
async fn what_the_publisher_gave_is_what_an_event_carries() {
    let gateway = Gateway::open();
    let mut replay = Replay::begin(&gateway.broadcast, &["a"], json!({"cursor": true})).await;
    let body = r#"{"event":"a","data":1,"id":"é-\"1\"","source":"/x?y=ö","time":"2020-02-29T23:59:59.123456Z","subject":"s"}"#;
    assert_eq!(answer(post(&gateway, body).send().await.unwrap()).await.0, 200);
    let live = replay.hear().await;
    let value: Value = serde_json::from_str(&live).unwrap();
    assert_eq!((&value["id"], &value["source"]), (&json!("é-\"1\""), &json!("/x?y=ö")));
    let time: Timestamp = value["time"].as_str().unwrap().parse().unwrap();
    assert_eq!(time, "2020-02-29T23:59:59.123456Z".parse().unwrap());
    // A native event has no subject.
    assert_eq!(value.as_object().unwrap().len(), 7, "{live}");
    let mut replayed = Replay::begin(&gateway.broadcast, &["a"], json!({"after": "first"})).await;
    assert_eq!(replayed.hear().await, live);
}

#[tokio::test]
async fn the_source_of_each_event_is_the_name_of_its_own_token() {
    let gateway =
        House::new().with_tokens(&format!("{TOKEN} name=all\n{OTHER} name=other\n")).open();
    for (token, number) in [(TOKEN, 1), (OTHER, 2), (TOKEN, 3)] {
        let body = format!(r#"{{"event":"a","data":{number}}}"#);
        let response = post_as(&gateway, token, body).send().await.unwrap();
        assert_eq!(answer(response).await.0, 200);
    }
    let kept = all_kept(&gateway, &["a"]).await;
    let sources: Vec<_> = kept.iter().map(|event| event["source"].as_str().unwrap()).collect();
    assert_eq!(sources, ["/all", "/other", "/all"]);
}

#[tokio::test]
async fn cursors_are_unique_and_grow_within_their_epoch() {
    let gateway = Gateway::open();
    let mut replay = Replay::begin(&gateway.broadcast, &["a"], json!({"cursor": true})).await;
    fire_numbers(&gateway, "a", 0..50).await;
    let events = replay.rest(&gateway).await;
    let cursors: Vec<_> =
        events.iter().map(|event| Cursor::parse(&cursor_of(event)).unwrap()).collect();
    assert_eq!(cursors.len(), 50);
    assert!(cursors.windows(2).all(|two| two[0].offset < two[1].offset), "{cursors:?}");
    let epochs: BTreeSet<_> = cursors.iter().map(|cursor| &cursor.epoch).collect();
    assert_eq!(epochs.len(), 1);
    let ids: BTreeSet<_> = events.iter().map(|event| event["id"].as_str().unwrap()).collect();
    assert_eq!(ids.len(), 50);
}

#[tokio::test]
async fn a_replayed_event_is_byte_for_byte_the_live_one() {
    let gateway = Gateway::open();
    let types = ["a", "b.c", "ü \\\"x"];
    let datas = ["1", "null", r#"{"a":1.0,"a":[ 2e0 ]}"#, r#""ü\u00fc\\""#, "\"\u{2028}\"", "[]"];
    let mut live = Replay::begin(&gateway.broadcast, &[">"], json!({"cursor": true})).await;
    for (event_type, data) in types.iter().flat_map(|it| datas.map(|data| (it, data))) {
        let body = format!(r#"{{"event":{},"data":{data}}}"#, json!(event_type));
        assert_eq!(answer(post(&gateway, body).send().await.unwrap()).await.0, 200);
    }
    let live = live.rest_as_written(&gateway).await;
    assert_eq!(live.len(), types.len() * datas.len());
    let mut kept = Replay::begin(&gateway.broadcast, &[">"], json!({"after": "first"})).await;
    let kept = kept.rest_as_written(&gateway).await;
    // `>` matches the fence of the first, too.
    assert_eq!(kept[..live.len()], live);
    let mut last = Replay::begin(&gateway.broadcast, &types, json!({"last": 100})).await;
    let last = last.rest_as_written(&gateway).await;
    for (last, live) in last.iter().zip(&live) {
        let (native, _) = live.split_once(r#","cursor":"#).unwrap();
        assert_eq!(*last, format!("{native}}}"));
    }
    assert_eq!(last.len(), live.len());
}

#[tokio::test]
async fn a_client_that_asks_for_nothing_sees_byte_for_byte_the_old_wire() {
    let gateway = Gateway::open();
    fire(&gateway, "a", "1").await;
    let mut curious = Replay::begin(&gateway.broadcast, &["a"], json!({"after": "first"})).await;
    let mut old = Subscriber::connect(&gateway.broadcast).await;
    assert_eq!(old.ask(&init(TOKEN, &["a"], json!({}))).await, said("init", "OK"));
    let body =
        r#"{"event":"a","data":{"x": 1},"id":"i","source":"s","time":"2020-01-01T00:00:00Z"}"#;
    assert_eq!(answer(post(&gateway, body).send().await.unwrap()).await.1, r#"{"code":"OK"}"#);
    assert_eq!(old.hear().await, event("a", r#"{"x": 1}"#));
    assert_eq!(old.ask(&init(TOKEN, &["a", "b"], json!({}))).await, said("init", "OK"));
    fire(&gateway, "b", "2").await;
    assert_eq!(old.hear().await, event("b", "2"));
    old.assert_nothing_came().await;
    // The other one was there beside it all the time.
    assert_eq!(curious.rest(&gateway).await.len(), 2);
}

#[tokio::test]
async fn cursor_false_is_the_old_wire() {
    let gateway = Gateway::open();
    let mut subscriber = Subscriber::connect(&gateway.broadcast).await;
    let message = init(TOKEN, &["a"], json!({"cursor": false}));
    assert_eq!(subscriber.ask(&message).await, said("init", "OK"));
    fire(&gateway, "a", "1").await;
    assert_eq!(subscriber.hear().await, event("a", "1"));
}

#[tokio::test]
async fn the_answer_to_an_init_has_its_members_in_their_order() {
    let gateway = House::new().set("LOG_MAX_EVENTS", 1000).open();
    let live = Replay::begin(&gateway.broadcast, &["a"], json!({"cursor": true})).await;
    let (text, cursor) = (&live.text, live.cursor());
    assert_eq!(*text, format!(r#"{{"type":"init","code":"OK","cursor":"{cursor}"}}"#));
    for members in [
        json!({"after": cursor}),
        json!({"after": cursor, "cursor": false}),
        json!({"after": "first"}),
        json!({"since": "2020-01-01T00:00:00Z"}),
    ] {
        let whole = Replay::begin(&gateway.broadcast, &["a"], members).await;
        let (text, cursor) = (&whole.text, whole.cursor());
        let due = format!(r#"{{"type":"init","code":"OK","cursor":"{cursor}","recovered":true}}"#);
        assert_eq!(*text, due);
    }
    let other = Gateway::open();
    let foreign = Replay::begin(&other.broadcast, &["a"], json!({"cursor": true})).await.cursor();
    let gap = Replay::begin(&gateway.broadcast, &["a"], json!({"after": foreign})).await;
    let (text, cursor) = (&gap.text, gap.cursor());
    let earliest = gap.answer["earliest"].as_str().unwrap();
    assert_eq!(
        *text,
        format!(
            r#"{{"type":"init","code":"OK","cursor":"{cursor}","recovered":false,"earliest":"{earliest}"}}"#
        )
    );
    let last = Replay::begin(&gateway.broadcast, &["a"], json!({"last": 5})).await;
    assert_eq!(last.text, said("init", "OK"));
}

/// The members of an init, and of so many kept events how many do not come.
type Case = (Value, fn(u64) -> u64);

#[tokio::test]
async fn the_cursor_of_an_answer_is_the_place_just_before_what_the_session_gets() {
    let gateway = Gateway::open();
    let mut fired = 10;
    fire_numbers(&gateway, "a", 0..fired).await;
    let cursors: Vec<_> = all_kept(&gateway, &["a"]).await.iter().map(cursor_of).collect();
    let cases: [Case; 7] = [
        (json!({"cursor": true}), |fired| fired),
        (json!({"after": cursors[3]}), |_| 4),
        (json!({"after": cursors[9]}), |_| 10),
        (json!({"after": "first"}), |_| 0),
        (json!({"since": "2020-01-01T00:00:00Z"}), |_| 0),
        (json!({"cursor": true, "last": 3}), |fired| fired - 3),
        (json!({"cursor": true, "last": 0}), |fired| fired),
    ];
    for (members, skipped) in cases {
        let due: Vec<_> = (skipped(fired)..fired + 2).collect();
        let mut first = Replay::begin(&gateway.broadcast, &["a"], members.clone()).await;
        fire_numbers(&gateway, "a", fired..fired + 2).await;
        fired += 2;
        let events = first.rest(&gateway).await;
        assert_eq!(numbers(&events), due, "{members}");
        // Whoever is cut off before the first of them has lost nothing.
        let again = json!({"after": first.cursor()});
        let mut second = Replay::begin(&gateway.broadcast, &["a"], again).await;
        assert_eq!(second.answer["recovered"], true, "{members}");
        assert_eq!(second.rest(&gateway).await, events, "{members}");
    }
}
