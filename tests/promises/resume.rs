//! Where a session begins that resumes (WIRE 1.3): `after`, `first`, `since`, `last`.

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use crate::client::{Subscriber, answer, code, fire, post, said};
use crate::gateway::{Gateway, House, TOKEN};
use crate::measures::until;
use crate::replay::{Replay, all_kept, cursor_of, fire_numbers, init, numbers};

/// The numbers that a session with these members gets of what is there.
async fn replayed(gateway: &Gateway, events: &[&str], members: Value) -> Vec<u64> {
    let mut replay = Replay::begin(&gateway.broadcast, events, members).await;
    numbers(&replay.rest(gateway).await)
}

fn range(numbers: std::ops::Range<u64>) -> Vec<u64> {
    numbers.collect()
}

#[tokio::test]
async fn after_a_cursor_comes_everything_behind_it_and_then_live() {
    let gateway = Gateway::open();
    fire_numbers(&gateway, "a", 0..20).await;
    let kept = all_kept(&gateway, &["a"]).await;
    for number in [0, 1, 10, 18, 19] {
        let after = json!({"after": cursor_of(&kept[number])});
        let mut replay = Replay::begin(&gateway.broadcast, &["a"], after).await;
        assert_eq!(replay.answer["recovered"], true, "{}", replay.text);
        let behind = replay.rest(&gateway).await;
        // With all its members, as it was: `after` implies `cursor`.
        assert_eq!(behind[..], kept[number + 1..]);
    }
    let after = json!({"after": cursor_of(&kept[17])});
    let mut replay = Replay::begin(&gateway.broadcast, &["a"], after).await;
    fire_numbers(&gateway, "a", 20..23).await;
    assert_eq!(numbers(&replay.rest(&gateway).await), range(18..23));
}

#[tokio::test]
async fn the_end_of_the_log_is_a_place_to_resume_from() {
    let gateway = Gateway::open();
    // An empty log has an end, too.
    for round in 0..3 {
        let live = Replay::begin(&gateway.broadcast, &["a"], json!({"cursor": true})).await;
        let after = json!({"after": live.cursor()});
        let mut replay = Replay::begin(&gateway.broadcast, &["a"], after).await;
        assert_eq!(replay.answer["recovered"], true, "{}", replay.text);
        assert_eq!(replay.cursor(), live.cursor());
        fire_numbers(&gateway, "a", round..round + 1).await;
        assert_eq!(numbers(&replay.rest(&gateway).await), [round]);
    }
}

#[tokio::test]
async fn a_replay_holds_what_matches_and_nothing_else() {
    let gateway = Gateway::open();
    let types = ["order.paid", "order.refunded", "user", "order.paid.twice", "order.*", "order.>"];
    for number in 0..60 {
        let event_type = types[number as usize % types.len()];
        fire_numbers(&gateway, event_type, number..number + 1).await;
    }
    for (patterns, matched) in [
        (vec!["order.paid"], vec![0]),
        (vec!["user", "order.refunded"], vec![1, 2]),
        (vec!["order.*"], vec![0, 1, 4, 5]),
        (vec!["order.>"], vec![0, 1, 3, 4, 5]),
        (vec!["*"], vec![2]),
        (vec!["nothing", "order"], vec![]),
        // Each event once, by however many patterns it is matched.
        (vec!["order.paid", "order.*", "order.>", "order.paid"], vec![0, 1, 3, 4, 5]),
        (vec!["order.>", "*.paid", "user"], vec![0, 1, 2, 3, 4, 5]),
    ] {
        let is_due = |number: &u64| matched.contains(&(*number as usize % types.len()));
        let due: Vec<u64> = (0..60).filter(is_due).collect();
        let first = replayed(&gateway, &patterns, json!({"after": "first"})).await;
        assert_eq!(first, due, "{patterns:?}");
        let last = replayed(&gateway, &patterns, json!({"last": 7})).await;
        assert_eq!(last, due[due.len().saturating_sub(7)..], "{patterns:?}");
    }
}

#[tokio::test]
async fn a_replay_goes_on_live_with_the_same_patterns() {
    let gateway = Gateway::open();
    fire_numbers(&gateway, "a", 0..3).await;
    let mut replay = Replay::begin(&gateway.broadcast, &["a"], json!({"after": "first"})).await;
    fire_numbers(&gateway, "b", 3..4).await;
    fire_numbers(&gateway, "a", 4..5).await;
    assert_eq!(numbers(&replay.rest(&gateway).await), [0, 1, 2, 4]);
    // A later init adds its types from then on, and what was asked for at first stays.
    let later = init(TOKEN, &["b"], json!({}));
    let answered = replay.subscriber.ask(&later).await;
    assert!(answered.starts_with(r#"{"type":"init","code":"OK""#), "{answered}");
    fire_numbers(&gateway, "b", 5..6).await;
    let event = replay.hear_event().await;
    assert_eq!(event["data"], 5);
    cursor_of(&event);
    let unsubscribe = r#"{"type":"unsubscribe","events":["b"]}"#;
    assert_eq!(replay.subscriber.ask(unsubscribe).await, said("unsubscribe", "OK"));
    fire_numbers(&gateway, "b", 6..7).await;
    assert_eq!(replay.rest(&gateway).await, Vec::<Value>::new());
}

#[tokio::test]
async fn first_is_the_oldest_kept_event() {
    let gateway = Gateway::open();
    let mut empty = Replay::begin(&gateway.broadcast, &["a"], json!({"after": "first"})).await;
    assert_eq!(empty.answer["recovered"], true);
    fire_numbers(&gateway, "a", 0..5).await;
    assert_eq!(numbers(&empty.rest(&gateway).await), range(0..5));
    assert_eq!(replayed(&gateway, &["a"], json!({"after": "first"})).await, range(0..5));
}

#[tokio::test]
async fn since_begins_at_the_first_event_that_was_accepted_at_or_after_a_time() {
    let gateway = Gateway::open();
    let mut times = Vec::new();
    let mut fired = 0;
    for _ in 0..3 {
        times.push((Timestamp::now(), fired));
        fire_numbers(&gateway, "a", fired..fired + 4).await;
        fired += 4;
        let fired_at = Timestamp::now();
        // A server may count in milliseconds: between two groups there is one at least.
        let later = fired_at + SignedDuration::from_millis(3);
        until("later", async || (Timestamp::now() > later).then_some(())).await;
    }
    times.push((Timestamp::now(), fired));
    for (time, first) in times {
        // A server may count in milliseconds, and what is fired now may come in the same one.
        let time = Timestamp::from_millisecond(time.as_millisecond()).unwrap();
        let utc = time.to_string();
        for since in [utc.clone(), utc.replace('Z', "+00:00")] {
            let members = json!({"since": since});
            let mut replay = Replay::begin(&gateway.broadcast, &["a"], members).await;
            assert_eq!(replay.answer["recovered"], true, "{}", replay.text);
            let events = replay.rest(&gateway).await;
            assert_eq!(numbers(&events), range(first..fired), "{since}");
            // `since` implies `cursor`.
            events.iter().for_each(|event| drop(cursor_of(event)));
        }
    }
    let long_ago =
        replayed(&gateway, &["a"], json!({"since": "1969-12-31T23:59:59.5-12:00"})).await;
    assert_eq!(long_ago, range(0..fired));
    let in_future = replayed(&gateway, &["a"], json!({"since": "2199-01-01T00:00:00Z"})).await;
    assert_eq!(in_future, range(0..0));
}

/// It is the acceptance that counts, whatever the publisher says of the time of an event.
#[tokio::test]
async fn since_does_not_go_by_the_time_that_an_event_names() {
    let gateway = Gateway::open();
    for (number, time) in [(0, "2099-01-01T00:00:00Z"), (1, "1999-01-01T00:00:00Z")] {
        let body = format!(r#"{{"event":"a","data":{number},"time":"{time}"}}"#);
        assert_eq!(answer(post(&gateway, body).send().await.unwrap()).await, (200, code("OK")));
    }
    let since = json!({"since": "2020-01-01T00:00:00Z"});
    assert_eq!(replayed(&gateway, &["a"], since).await, [0, 1]);
    let in_future = json!({"since": "2098-01-01T00:00:00Z"});
    assert_eq!(replayed(&gateway, &["a"], in_future).await, range(0..0));
}

#[tokio::test]
async fn last_gives_the_last_matching_events_in_their_order_and_then_live() {
    let gateway = Gateway::open();
    for number in 0..30 {
        let event_type = if number % 3 == 0 { "a" } else { "b" };
        fire_numbers(&gateway, event_type, number..number + 1).await;
    }
    for (last, due) in [
        (0, vec![]),
        (1, vec![27]),
        (3, vec![21, 24, 27]),
        (10, (0..30).step_by(3).collect()),
        (11, (0..30).step_by(3).collect()),
        (10_000, (0..30).step_by(3).collect()),
    ] {
        assert_eq!(replayed(&gateway, &["a"], json!({"last": last})).await, due, "{last}");
    }
    let mut replay = Replay::begin(&gateway.broadcast, &["a"], json!({"last": 2})).await;
    // It implies neither `cursor` nor `recovered`.
    assert_eq!(replay.text, said("init", "OK"));
    fire_numbers(&gateway, "a", 30..31).await;
    let texts = replay.rest_as_written(&gateway).await;
    let due = [24, 27, 30].map(|it| format!(r#"{{"type":"event","event":"a","data":{it}}}"#));
    assert_eq!(texts, due);
    let with_cursor = json!({"last": 2, "cursor": true});
    let mut replay = Replay::begin(&gateway.broadcast, &["a"], with_cursor).await;
    assert_eq!(replay.answer.get("recovered"), None, "{}", replay.text);
    let events = replay.rest(&gateway).await;
    assert_eq!(numbers(&events), [27, 30]);
    events.iter().for_each(|event| drop(cursor_of(event)));
}

#[tokio::test]
async fn last_finds_few_events_among_many_others() {
    let gateway = Gateway::open();
    fire_numbers(&gateway, "rare", 0..2).await;
    fire_numbers(&gateway, "common", 2..1500).await;
    assert_eq!(replayed(&gateway, &["rare"], json!({"last": 5})).await, [0, 1]);
    assert_eq!(replayed(&gateway, &["common"], json!({"last": 1000})).await, range(500..1500));
}

/// A cursor of another log: nothing that is kept comes, only what is fired from now on.
#[tokio::test]
async fn a_cursor_of_another_epoch_is_not_recovered_and_begins_live() {
    let (gateway, other) = (Gateway::open(), Gateway::open());
    fire_numbers(&other, "a", 0..3).await;
    fire_numbers(&gateway, "a", 0..5).await;
    let foreign = cursor_of(&all_kept(&other, &["a"]).await[0]);
    let mut replay = Replay::begin(&gateway.broadcast, &["a"], json!({"after": foreign})).await;
    assert_eq!(replay.answer["recovered"], false, "{}", replay.text);
    fire_numbers(&gateway, "a", 5..6).await;
    assert_eq!(numbers(&replay.rest(&gateway).await), [5]);
    assert_earliest_is_recovered(&gateway, &foreign).await;
}

#[tokio::test]
async fn a_cursor_beyond_the_end_is_not_recovered_and_begins_live() {
    let gateway = Gateway::open();
    fire_numbers(&gateway, "a", 0..5).await;
    let last = cursor_of(all_kept(&gateway, &["a"]).await.last().unwrap());
    let (epoch, offset) = last.split_once('-').unwrap();
    let offset: u64 = offset.parse().unwrap();
    for beyond in [offset + 1_000, offset + 1_000_000_000] {
        let beyond = format!("{epoch}-{beyond}");
        let after = json!({"after": beyond});
        let mut replay = Replay::begin(&gateway.broadcast, &["a"], after).await;
        assert_eq!(replay.answer["recovered"], false, "{}", replay.text);
        fire(&gateway, "a", "5").await;
        assert_eq!(numbers(&replay.rest(&gateway).await), [5]);
        assert_earliest_is_recovered(&gateway, &beyond).await;
    }
}

#[tokio::test]
async fn a_cursor_older_than_the_log_is_not_recovered_and_begins_at_what_is_kept() {
    let house = House::new().set("LOG_MAX_EVENTS", 1000);
    let gateway = house.open();
    fire_numbers(&gateway, "a", 0..3).await;
    let old = cursor_of(&all_kept(&gateway, &["a"]).await[0]);
    let mut fired = 3;
    let freed = until("the first events are freed", async || {
        fire_numbers(&gateway, "a", fired..fired + 500).await;
        fired += 500;
        let after = json!({"after": old});
        let replay = Replay::begin(&gateway.broadcast, &["a"], after).await;
        (replay.answer["recovered"] == false).then_some(replay)
    });
    let mut replay = freed.await;
    let kept = numbers(&replay.rest(&gateway).await);
    let first = *kept.first().unwrap();
    assert!(first > 1, "{first}");
    assert_eq!(kept, range(first..fired), "only what is kept, but all of that");
    assert_earliest_is_recovered(&gateway, &old).await;
}

/// `earliest` is the oldest cursor whose use as `after` is recovered: all that is kept follows.
async fn assert_earliest_is_recovered(gateway: &Gateway, lost: &str) {
    let earliest = async || {
        let after = json!({"after": lost});
        let refused = Replay::begin(&gateway.broadcast, &["a"], after).await;
        refused.answer["earliest"].as_str().expect("an earliest").to_owned()
    };
    until("an earliest that does not move meanwhile", async || {
        let before = earliest().await;
        let kept = numbers(&all_kept(gateway, &["a"]).await);
        let after = json!({"after": before});
        let mut replay = Replay::begin(&gateway.broadcast, &["a"], after).await;
        let replayed = numbers(&replay.rest(gateway).await);
        let (epoch, offset) = before.split_once('-').unwrap();
        let older = offset.parse::<u64>().unwrap().saturating_sub(1);
        let is_first = offset == "0" || {
            let after = json!({"after": format!("{epoch}-{older}")});
            let older = Replay::begin(&gateway.broadcast, &["a"], after).await;
            older.answer["recovered"] == false
        };
        // Retention may be at work behind what a test has fired.
        if earliest().await != before {
            return None;
        }
        assert_eq!(replay.answer["recovered"], true, "{}", replay.text);
        assert_eq!(replayed, kept);
        assert!(is_first, "{before} is not the oldest that is recovered");
        Some(())
    })
    .await;
}

#[tokio::test]
async fn format_cloudevents_gives_cloudevents_with_the_cursor_where_it_is_asked_for() {
    let gateway = Gateway::open();
    let body = r#"{"event":"a","data":{"n": 1.0},"id":"i","source":"/s","subject":"sub","time":"2020-01-01T00:00:00Z"}"#;
    assert_eq!(answer(post(&gateway, body).send().await.unwrap()).await, (200, code("OK")));
    let due = json!({
        "specversion": "1.0", "type": "a", "id": "i", "source": "/s", "subject": "sub",
        "time": "2020-01-01T00:00:00Z", "datacontenttype": "application/json", "data": {"n": 1.0},
    });
    for (members, has_cursor) in [
        (json!({"format": "cloudevents", "last": 1}), false),
        (json!({"format": "cloudevents", "last": 1, "cursor": true}), true),
        (json!({"format": "cloudevents", "after": "first"}), true),
    ] {
        let mut replay = Replay::begin(&gateway.broadcast, &["a"], members).await;
        let text = replay.hear().await;
        assert!(text.contains(r#"{"n": 1.0}"#), "{text}");
        let mut event: Value = serde_json::from_str(&text).unwrap();
        let cursor = event.as_object_mut().unwrap().remove("cursor");
        assert_eq!(cursor.is_some_and(|it| it.is_string()), has_cursor, "{text}");
        // An event that says nothing of its content type is JSON all the same.
        if event.get("datacontenttype").is_none() {
            event["datacontenttype"] = "application/json".into();
        }
        assert_eq!(event, due, "{text}");
    }
}

#[tokio::test]
async fn a_credential_in_the_upgrade_resumes_as_one_in_the_init() {
    let gateway = Gateway::open();
    fire(&gateway, "a", "1").await;
    let authorization = format!("Basic {TOKEN}");
    let mut subscriber = Subscriber::connect_as(&gateway.broadcast, "/", &authorization).await;
    let answered = subscriber.ask(r#"{"events":["a"],"after":"first"}"#).await;
    let answered: Value = serde_json::from_str(&answered).unwrap();
    assert_eq!((&answered["code"], &answered["recovered"]), (&json!("OK"), &json!(true)));
    assert!(
        subscriber.hear().await.starts_with(r#"{"type":"event","event":"a","data":1,"cursor""#)
    );
}
