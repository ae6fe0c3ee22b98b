//! `GET /events` as Server-Sent Events (WIRE 3.2).

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::client::{answer, code, fire, post};
use crate::event_stream::{EventStream, get, get_as};
use crate::gateway::{Gateway, House, TOKEN};
use crate::history::Cursor;
use crate::replay::{all_kept, cursor_of, fire_numbers};

const READER: &str = "0123456789abcdef-reader";

fn tokens(subscribe: &str) -> String {
    format!("{TOKEN} name=all\n{READER} name=reader publish=none subscribe={subscribe}\n")
}

/// The data of so many events.
async fn hear(stream: &mut EventStream, count: usize) -> Vec<String> {
    let mut heard = Vec::new();
    for _ in 0..count {
        heard.push(stream.event().await.text());
    }
    heard
}

#[tokio::test]
async fn a_stream_begins_at_once_with_its_headers_and_a_time_to_come_back() {
    let gateway = Gateway::open();
    for _ in 0..5 {
        let mut stream = EventStream::open(&gateway.broadcast, "").await;
        assert_eq!(stream.header("cache-control"), "no-cache, no-transform");
        assert_eq!(stream.header("x-accel-buffering"), "no");
        let retry = loop {
            let block = stream.next_block().await.expect("the stream has ended");
            assert_eq!(block.data, Vec::<String>::new());
            if let Some(retry) = block.retry {
                break retry;
            }
        };
        assert!((1_000..=5_000).contains(&retry), "{retry}");
    }
}

#[tokio::test]
async fn a_quiet_stream_has_a_comment_every_15_seconds() {
    let gateway = Gateway::open();
    let mut stream = EventStream::open(&gateway.broadcast, "").await;
    fire(&gateway, "a", "1").await;
    stream.event().await;
    let begun = Instant::now();
    let block = stream.next_block().await.expect("the stream has ended");
    assert!(block.comments > 0 && block.data.is_empty(), "{block:?}");
    assert!((1..40).contains(&begun.elapsed().as_secs()), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn an_event_has_its_cursor_as_id_its_type_and_its_data() {
    let gateway = Gateway::open();
    let mut stream = EventStream::open(&gateway.broadcast, "type=order.*").await;
    fire(&gateway, "order.paid", r#"{"n": 1.0, "ü":"x"}"#).await;
    let block = stream.event().await;
    assert_eq!(block.event.as_deref(), Some("order.paid"));
    assert_eq!(block.data, [r#"{"n": 1.0, "ü":"x"}"#]);
    let kept = all_kept(&gateway, &["order.paid"]).await;
    assert_eq!(block.id, Some(cursor_of(&kept[0])));
}

#[tokio::test]
async fn data_of_several_lines_is_a_data_line_for_each() {
    let gateway = Gateway::open();
    let mut stream = EventStream::open(&gateway.broadcast, "type=a").await;
    for end in ["\n", "\r\n", "\r"] {
        let data = format!("{{{end}  \"a\": 1,{end}{end}  \"b\": \"id: x\"{end}}}");
        fire(&gateway, "a", &data).await;
        let block = stream.event().await;
        assert_eq!(block.data, ["{", "  \"a\": 1,", "", "  \"b\": \"id: x\"", "}"], "{end:?}");
    }
    // What looks like the end of an event, inside a string, is none.
    fire(&gateway, "a", r#""x\n\nid: 1\n\n""#).await;
    assert_eq!(stream.event().await.text(), r#""x\n\nid: 1\n\n""#);
    let response = post(&gateway, r#"{"event":"a"}"#).send().await.unwrap();
    assert_eq!(answer(response).await, (200, code("OK")));
    // An event without data is an event: a client must be told.
    assert_eq!(stream.event().await.event.as_deref(), Some("a"));
}

#[tokio::test]
async fn format_cloudevents_gives_the_whole_event() {
    let gateway = Gateway::open();
    let mut stream = EventStream::open(&gateway.broadcast, "type=a&format=cloudevents").await;
    let body = r#"{"event":"a","data":{"n": 1.0},"id":"i","source":"/s","subject":"sub","time":"2020-01-01T00:00:00Z"}"#;
    let response = post(&gateway, body).send().await.unwrap();
    assert_eq!(answer(response).await.0, 200);
    let block = stream.event().await;
    assert_eq!(block.event.as_deref(), Some("a"));
    assert!(block.text().contains(r#"{"n": 1.0}"#), "{block:?}");
    let event = block.json();
    for (name, value) in [
        ("specversion", json!("1.0")),
        ("type", json!("a")),
        ("id", json!("i")),
        ("source", json!("/s")),
        ("subject", json!("sub")),
        ("time", json!("2020-01-01T00:00:00Z")),
        ("data", json!({"n": 1.0})),
    ] {
        assert_eq!(event[name], value, "{name}");
    }
}

#[tokio::test]
async fn a_stream_begins_live_or_where_it_is_told() {
    let gateway = Gateway::open();
    fire_numbers(&gateway, "a", 0..5).await;
    let kept = all_kept(&gateway, &["a"]).await;
    let second = cursor_of(&kept[1]);
    let all = ["0", "1", "2", "3", "4"];
    for (query, skipped) in [
        ("type=a".to_owned(), 5),
        ("type=a&after=first".to_owned(), 0),
        (format!("type=a&after={second}"), 2),
        ("type=a&last=2".to_owned(), 3),
        ("type=a&last=0".to_owned(), 5),
    ] {
        // A type of its own for what comes live, so that the next one finds the same.
        let live = format!("live.{skipped}.{}", query.len());
        let query = format!("{query}&type={live}");
        let mut stream = EventStream::open(&gateway.broadcast, &query).await;
        assert_eq!(hear(&mut stream, 5 - skipped).await, all[skipped..], "{query}");
        fire(&gateway, "other", "6").await;
        fire(&gateway, &live, "7").await;
        assert_eq!(stream.event().await.text(), "7", "{query}");
    }
}

#[tokio::test]
async fn last_event_id_resumes_and_beats_after() {
    let gateway = Gateway::open();
    fire_numbers(&gateway, "a", 0..5).await;
    let kept = all_kept(&gateway, &["a"]).await;
    for query in ["type=a", "type=a&after=first", "type=a&last=5"] {
        let request = get(&gateway.broadcast, query)
            .header("accept", "text/event-stream")
            .header("last-event-id", cursor_of(&kept[2]));
        let mut stream = EventStream::of(request).await;
        let mut heard = Vec::new();
        for _ in 0..2 {
            heard.push(stream.event().await);
        }
        let ids: Vec<_> = heard.iter().map(|block| block.id.clone().unwrap()).collect();
        assert_eq!(ids, [cursor_of(&kept[3]), cursor_of(&kept[4])], "{query}");
    }
}

#[tokio::test]
async fn a_stream_that_cannot_be_resumed_whole_says_so_first() {
    let (gateway, other) = (Gateway::open(), Gateway::open());
    fire_numbers(&gateway, "a", 0..3).await;
    fire(&other, "a", "0").await;
    let foreign = cursor_of(&all_kept(&other, &["a"]).await[0]);
    let request = get(&gateway.broadcast, "type=a").header("accept", "text/event-stream");
    let mut stream = EventStream::of(request.header("last-event-id", &foreign)).await;
    let gap = stream.event().await;
    assert_eq!(gap.event.as_deref(), Some("gateway.gap"));
    let told = gap.json();
    assert_eq!((&told["recovered"], told.as_object().unwrap().len()), (&json!(false), 2));
    let earliest = told["earliest"].as_str().unwrap();
    assert!(Cursor::parse(earliest).is_some(), "{earliest}");
    fire(&gateway, "a", "3").await;
    assert_eq!(stream.event().await.text(), "3");
    let mut whole =
        EventStream::open(&gateway.broadcast, &format!("type=a&after={earliest}")).await;
    assert_eq!(hear(&mut whole, 4).await, ["0", "1", "2", "3"]);
}

#[tokio::test]
async fn a_stream_holds_what_fits_its_types_sources_and_subject() {
    let gateway = Gateway::open();
    let events = [
        ("a", "/x/1", "s"),
        ("a", "/x/2", "t"),
        ("b.c", "/x/1", "s"),
        ("b.c.d", "/y", "s"),
        ("b", "/x", "st"),
    ];
    for (number, (event_type, source, subject)) in events.iter().enumerate() {
        let body =
            json!({"event": event_type, "source": source, "subject": subject, "data": number});
        let response = post(&gateway, body.to_string()).send().await.unwrap();
        assert_eq!(answer(response).await.0, 200);
    }
    fire(&gateway, "end", "\"end\"").await;
    for (query, due) in [
        ("type=a", vec![0, 1]),
        ("type=a&type=b", vec![0, 1, 4]),
        ("type=b.*", vec![2]),
        ("type=b.%3E", vec![2, 3]),
        ("source=/x/1", vec![0, 2]),
        ("source=/x/*", vec![0, 1, 2]),
        ("source=/x*&source=/y", vec![0, 1, 2, 3, 4]),
        ("subject=s", vec![0, 2, 3]),
        ("type=a&source=/x/*&subject=s", vec![0]),
        ("type=b.*&subject=nothing", vec![]),
    ] {
        let response =
            get(&gateway.broadcast, &format!("{query}&after=first")).send().await.unwrap();
        let page: Vec<Value> = serde_json::from_str(&response.text().await.unwrap()).unwrap();
        let numbers: Vec<_> = page.iter().filter_map(|event| event["data"].as_u64()).collect();
        assert_eq!(numbers, due, "{query}");
        let query = format!("{query}&after=first");
        let mut stream = EventStream::open(&gateway.broadcast, &query).await;
        let texts: Vec<_> = due.iter().map(u64::to_string).collect();
        assert_eq!(hear(&mut stream, due.len()).await, texts, "{query}");
    }
}

#[tokio::test]
async fn without_a_type_a_stream_is_filtered_to_what_is_granted() {
    let gateway = House::new().with_tokens(&tokens("open.>,also")).open();
    for (event_type, data) in [("secret", "0"), ("open.a", "1"), ("open", "2"), ("also", "3")] {
        fire(&gateway, event_type, data).await;
    }
    let request = get_as(&gateway.broadcast, READER, "after=first");
    let mut stream = EventStream::of(request.header("accept", "text/event-stream")).await;
    assert_eq!(hear(&mut stream, 2).await, ["1", "3"]);
    fire(&gateway, "secret", "4").await;
    fire(&gateway, "also", "5").await;
    assert_eq!(stream.event().await.text(), "5");
}

#[tokio::test]
async fn what_is_wrong_with_a_request_is_said_in_json() {
    let gateway = House::new().with_tokens(&tokens("a")).open();
    for accept in ["text/event-stream", "*/*"] {
        for (query, status, told) in [
            ("type=b", 403, "FORBIDDEN"),
            ("type=%3E", 403, "FORBIDDEN"),
            ("type=a&type=b", 403, "FORBIDDEN"),
            ("type=a&after=nonsense", 400, "INVALID_RESUME"),
            ("type=a&after=", 400, "INVALID_RESUME"),
            ("type=a&last=10001", 400, "INVALID_RESUME"),
            ("type=a&last=-1", 400, "INVALID_RESUME"),
        ] {
            let request = get_as(&gateway.broadcast, READER, query).header("accept", accept);
            let (answered, body) = answer(request.send().await.unwrap()).await;
            assert_eq!((answered, body), (status, code(told)), "{accept} {query}");
        }
    }
    let request = get(&gateway.broadcast, "type=a").header("accept", "text/event-stream");
    let request = request.header("last-event-id", "nonsense");
    assert_eq!(answer(request.send().await.unwrap()).await, (400, code("INVALID_RESUME")));
}

#[tokio::test]
async fn a_refused_credential_gets_401_and_a_token_in_the_query_is_none() {
    let gateway = Gateway::open();
    let url = format!("{}/events", gateway.broadcast.url());
    let client = reqwest::Client::new();
    for request in [
        client.get(&url),
        client.get(format!("{url}?token={TOKEN}")),
        client.get(format!("{url}?authorization=Basic%20{TOKEN}")),
        client.get(format!("{url}?ticket={TOKEN}")),
        client.get(format!("{url}?ticket=")),
        client.get(&url).header("authorization", "Basic 0123456789abcdef-wrong"),
    ] {
        for accept in ["text/event-stream", "*/*"] {
            let request = request.try_clone().unwrap().header("accept", accept);
            let response = request.send().await.unwrap();
            assert_eq!(answer(response).await, (401, code("UNAUTHENTICATED")), "{accept}");
        }
    }
}

#[tokio::test]
async fn a_stream_ends_when_its_token_is_withdrawn_and_is_then_refused_with_401() {
    let gateway = House::new().with_tokens(&tokens("a")).open();
    let request = get_as(&gateway.broadcast, READER, "").header("accept", "text/event-stream");
    let stream = EventStream::of(request.try_clone().unwrap()).await;
    let mut other = EventStream::open(&gateway.broadcast, "type=a").await;
    gateway.house.write_tokens(&format!("{TOKEN} name=all\n# nobody else\n"));
    stream.ended().await;
    let response = request.send().await.unwrap();
    assert_eq!(answer(response).await, (401, code("UNAUTHENTICATED")));
    fire(&gateway, "a", "1").await;
    assert_eq!(other.event().await.text(), "1");
}

#[tokio::test]
async fn a_stream_that_is_left_is_given_back() {
    let gateway = Gateway::open();
    for _ in 0..20 {
        drop(EventStream::open(&gateway.broadcast, "after=first").await);
    }
    gateway.broadcast.wait_for_metric("fanfare_sessions", 0.0).await;
    gateway.broadcast.wait_for_metric("fanfare_outbox_bytes", 0.0).await;
}

#[tokio::test]
async fn a_stop_ends_every_stream_when_all_that_was_acknowledged_is_there() {
    let gateway = Gateway::open();
    let mut stream = EventStream::open(&gateway.broadcast, "type=a").await;
    fire_numbers(&gateway, "a", 0..50).await;
    let begun = Instant::now();
    let Gateway { listen, broadcast, house } = gateway;
    let stopped = tokio::task::spawn_blocking(move || broadcast.stop()).await.unwrap();
    assert!(stopped.success(), "{stopped}");
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    let due: Vec<_> = (0..50).map(|number| number.to_string()).collect();
    assert_eq!(hear(&mut stream, 50).await, due);
    stream.ended().await;
    drop((listen, house));
}
