//! `GET /events` in pages, with long polls, and as CloudEvents on a WebSocket (WIRE 3.2).

use std::time::{Duration, Instant};

use reqwest::{Response, Url};
use serde_json::{Value, json};
use tokio_tungstenite::connect_async;
use tokio_tungstenite::tungstenite::Error;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;

use crate::client::{Subscriber, fire, let_pass, post};
use crate::event_stream::get;
use crate::gateway::{Gateway, Process, TOKEN};
use crate::history::Cursor;
use crate::replay::{all_kept, cursor_of, fire_numbers, numbers};
use crate::wire::{Wire, event_request, header_of, status, upgrade_request};

/// The address of the next page.
fn next(response: &Response) -> Option<Url> {
    let link = response.headers().get("link")?.to_str().unwrap();
    let (address, rest) = link.strip_prefix('<').unwrap().split_once('>').unwrap();
    assert_eq!(rest, r#"; rel="next""#);
    Some(response.url().join(address).unwrap())
}

async fn events(response: Response) -> Vec<Value> {
    assert_eq!(response.status(), 200);
    let kind = response.headers()["content-type"].to_str().unwrap().to_owned();
    assert!(kind.starts_with("application/cloudevents-batch+json"), "{kind}");
    serde_json::from_str(&response.text().await.unwrap()).unwrap()
}

async fn follow(url: Url) -> Response {
    let request = reqwest::Client::new().get(url);
    request.header("authorization", format!("Basic {TOKEN}")).send().await.unwrap()
}

#[tokio::test]
async fn pages_follow_one_another_and_hold_everything_once() {
    let gateway = Gateway::open();
    fire_numbers(&gateway, "a", 0..250).await;
    for (query, sizes) in [
        ("type=a", vec![100, 100, 50]),
        ("type=a&after=first&limit=90", vec![90, 90, 70]),
        ("type=a&limit=1000", vec![250]),
    ] {
        let mut response = get(&gateway.broadcast, query).send().await.unwrap();
        let (mut all, mut seen) = (Vec::new(), Vec::new());
        loop {
            let next = next(&response);
            let page = events(response).await;
            let Some(next) = next.filter(|_| !page.is_empty()) else { break };
            seen.push(page.len());
            all.extend(page);
            response = follow(next).await;
        }
        assert_eq!(numbers(&all), (0..250).collect::<Vec<_>>(), "{query}");
        // A limit may be lower than what was asked for.
        assert!(query.contains("1000") || seen == sizes, "{query}: {seen:?}");
        let cursors: Vec<_> = all.iter().map(cursor_of).collect();
        let kept: Vec<_> = all_kept(&gateway, &["a"]).await.iter().map(cursor_of).collect();
        assert_eq!(cursors, kept);
    }
}

/// A page looks through so much and no more: what it has not come to is on the next one, however long
/// one was ready to wait.
#[tokio::test]
async fn a_page_that_is_waited_for_skips_nothing_that_it_has_not_looked_at() {
    let gateway = Gateway::open();
    let padding = "x".repeat(100_000);
    for number in 0..90 {
        let subject = if number == 80 { "needle" } else { "hay" };
        let body = json!({"event": "a", "subject": subject, "data": {"n": number, "p": padding}});
        let response = post(&gateway, body.to_string()).send().await.unwrap();
        assert_eq!(response.status(), 200);
    }
    let mut response = get(&gateway.broadcast, "subject=needle&wait=1").send().await.unwrap();
    loop {
        let next = next(&response).expect("a next page");
        let page = events(response).await;
        if let [event] = &page[..] {
            assert_eq!(event["data"]["n"], 80);
            return;
        }
        assert!(page.is_empty(), "{}", page.len());
        response = follow(next).await;
    }
}

#[tokio::test]
async fn an_event_of_a_page_is_a_cloudevent_with_its_cursor() {
    let gateway = Gateway::open();
    fire(&gateway, "a", r#"{"n": 1.0}"#).await;
    let text = get(&gateway.broadcast, "").send().await.unwrap().text().await.unwrap();
    assert!(text.contains(r#"{"n": 1.0}"#), "{text}");
    let page: Vec<Value> = serde_json::from_str(&text).unwrap();
    let kept = &all_kept(&gateway, &["a"]).await[0];
    let event = &page[0];
    assert_eq!((&event["specversion"], &event["type"]), (&json!("1.0"), &json!("a")));
    for name in ["cursor", "id", "time", "source", "data"] {
        assert_eq!(event[name], kept[name], "{name}");
    }
}

#[tokio::test]
async fn a_page_of_the_last_events_holds_so_many() {
    let gateway = Gateway::open();
    fire_numbers(&gateway, "a", 0..10).await;
    let page = events(get(&gateway.broadcast, "type=a&last=3").send().await.unwrap()).await;
    assert_eq!(numbers(&page), [7, 8, 9]);
    let last = cursor_of(&page[1]);
    let after = get(&gateway.broadcast, &format!("type=a&after={last}")).send().await.unwrap();
    assert_eq!(numbers(&events(after).await), [9]);
}

#[tokio::test]
async fn a_poll_waits_for_an_event_and_no_longer() {
    let gateway = Gateway::open();
    fire(&gateway, "a", "1").await;
    let first = get(&gateway.broadcast, "type=a&wait=30").send().await.unwrap();
    let next = next(&first).expect("a next page");
    assert_eq!(numbers(&events(first).await), [1]);
    let begun = Instant::now();
    let polling = tokio::spawn(follow(with_wait(&next, 30)));
    // Where it has not begun to wait yet, less is shown.
    let_pass(Duration::from_millis(300)).await;
    fire(&gateway, "other", "2").await;
    fire(&gateway, "a", "3").await;
    assert_eq!(numbers(&events(polling.await.unwrap()).await), [3]);
    assert!(begun.elapsed() < Duration::from_secs(25), "{:?}", begun.elapsed());
    // What was fired between two polls is there at once.
    fire(&gateway, "a", "4").await;
    assert_eq!(numbers(&events(follow(with_wait(&next, 30)).await).await), [3, 4]);
}

#[tokio::test]
async fn a_poll_that_has_waited_in_vain_is_an_empty_page_that_can_be_followed() {
    let gateway = Gateway::open();
    let begun = Instant::now();
    let empty = get(&gateway.broadcast, "type=a&wait=2").send().await.unwrap();
    let next = next(&empty).expect("a next page");
    assert_eq!(events(empty).await, Vec::<Value>::new());
    assert!(begun.elapsed() >= Duration::from_millis(1900), "{:?}", begun.elapsed());
    fire(&gateway, "a", "1").await;
    assert_eq!(numbers(&events(follow(next).await).await), [1]);
}

/// The same address with another time to wait.
fn with_wait(url: &Url, seconds: u32) -> Url {
    let mut url = url.clone();
    let others: Vec<_> =
        url.query_pairs().into_owned().filter(|(name, _)| name != "wait").collect();
    let mut pairs = url.query_pairs_mut();
    pairs.clear().extend_pairs(others).append_pair("wait", &seconds.to_string());
    drop(pairs);
    url
}

#[tokio::test]
async fn a_page_that_cannot_be_resumed_whole_says_so_in_its_headers() {
    let (gateway, other) = (Gateway::open(), Gateway::open());
    fire_numbers(&gateway, "a", 0..3).await;
    fire(&other, "a", "0").await;
    let foreign = cursor_of(&all_kept(&other, &["a"]).await[0]);
    let query = format!("type=a&after={foreign}");
    let response = get(&gateway.broadcast, &query).send().await.unwrap();
    assert_eq!(response.headers()["gateway-recovered"], "false");
    let earliest = response.headers()["gateway-earliest"].to_str().unwrap().to_owned();
    assert!(Cursor::parse(&earliest).is_some(), "{earliest}");
    // Nothing, for another epoch.
    assert_eq!(events(response).await, Vec::<Value>::new());
    let query = format!("type=a&after={earliest}");
    let response = get(&gateway.broadcast, &query).send().await.unwrap();
    assert_ne!(
        response.headers().get("gateway-recovered").map(|it| it.as_bytes()),
        Some(&b"false"[..])
    );
    assert_eq!(numbers(&events(response).await), [0, 1, 2]);
}

/// A WebSocket on `/events`, and the subprotocol that was chosen.
async fn upgrade(
    broadcast: &Process,
    query: &str,
    protocol: Option<&str>,
) -> (Subscriber, Option<String>) {
    let mut request =
        format!("{}/events?{query}", broadcast.ws_url()).into_client_request().unwrap();
    let authorization = format!("Basic {TOKEN}").parse().unwrap();
    request.headers_mut().insert("authorization", authorization);
    if let Some(protocol) = protocol {
        request.headers_mut().insert("sec-websocket-protocol", protocol.parse().unwrap());
    }
    let (socket, response) = connect_async(request).await.unwrap();
    let chosen = response.headers().get("sec-websocket-protocol");
    let chosen = chosen.map(|it| it.to_str().unwrap().to_owned());
    (Subscriber { socket }, chosen)
}

#[tokio::test]
async fn a_websocket_gets_one_cloudevent_a_message_and_begins_live() {
    let gateway = Gateway::open();
    fire(&gateway, "a", "0").await;
    for protocol in [None, Some("cloudevents.json")] {
        let (mut socket, chosen) = upgrade(&gateway.broadcast, "type=a", protocol).await;
        assert_eq!(chosen.as_deref(), protocol);
        fire(&gateway, "b", "1").await;
        fire(&gateway, "a", r#"{"n": 2}"#).await;
        let text = socket.hear().await;
        assert!(text.contains(r#"{"n": 2}"#), "{text}");
        let event: Value = serde_json::from_str(&text).unwrap();
        assert_eq!((&event["specversion"], &event["type"]), (&json!("1.0"), &json!("a")));
        let kept = all_kept(&gateway, &["a"]).await;
        assert_eq!(cursor_of(&event), cursor_of(kept.last().unwrap()));
    }
}

/// RFC 6455 §4.2.2: one of those that the client has offered, and that is spoken here, or none.
#[tokio::test]
async fn a_websocket_is_answered_with_the_subprotocol_that_it_speaks_wherever_it_is_offered() {
    let gateway = Gateway::open();
    for (offered, chosen) in [
        (&[][..], None),
        (&["cloudevents.json"], Some("cloudevents.json")),
        (&["cloudevents.json, other"], Some("cloudevents.json")),
        (&["cloudevents.avro, other,cloudevents.json"], Some("cloudevents.json")),
        (&["other", "cloudevents.json"], Some("cloudevents.json")),
        (&["other"], None),
        (&["cloudevents.avro, phoenix"], None),
        (&["xcloudevents.json, cloudevents.jsonx"], None),
    ] {
        let mut headers = format!("Authorization: Basic {TOKEN}\r\n");
        headers.extend(offered.iter().map(|it| format!("Sec-WebSocket-Protocol: {it}\r\n")));
        let mut wire = Wire::connect(&gateway.broadcast).await;
        wire.send(upgrade_request("/events?type=a", &headers)).await;
        let head = wire.read_head().await;
        assert_eq!(status(&head), 101, "{offered:?}");
        assert_eq!(header_of(&head, "sec-websocket-protocol"), chosen, "{offered:?}");
        fire(&gateway, "a", "1").await;
        assert!(wire.read_frame().await.1.starts_with(br#"{"specversion":"1.0""#));
    }
}

/// Who has its 101 is there: what is accepted from then on reaches it.
#[tokio::test]
async fn a_websocket_gets_what_is_accepted_once_it_has_its_101() {
    let gateway = Gateway::open();
    let mut publisher = Wire::connect(&gateway.listen).await;
    let upgrade = upgrade_request("/events?type=a", &format!("Authorization: Basic {TOKEN}\r\n"));
    for number in 0..300 {
        let mut wire = Wire::connect(&gateway.broadcast).await;
        wire.send(&upgrade).await;
        assert!(wire.read_head().await.starts_with("HTTP/1.1 101 "));
        publisher.send(event_request(&format!(r#"{{"event":"a","data":{number}}}"#))).await;
        assert_eq!(status(&publisher.read_answer().await.0), 200);
        let event: Value = serde_json::from_slice(&wire.read_frame().await.1).unwrap();
        assert_eq!(event["data"], number);
    }
}

#[tokio::test]
async fn a_websocket_resumes_and_tells_of_a_gap_by_a_cloudevent() {
    let (gateway, other) = (Gateway::open(), Gateway::open());
    fire_numbers(&gateway, "a", 0..4).await;
    fire(&other, "a", "0").await;
    let kept = all_kept(&gateway, &["a"]).await;
    let after = format!("type=a&after={}", cursor_of(&kept[1]));
    let (mut whole, _) = upgrade(&gateway.broadcast, &after, None).await;
    for number in [2, 3] {
        let event: Value = serde_json::from_str(&whole.hear().await).unwrap();
        assert_eq!(event["data"], number);
    }
    let foreign = cursor_of(&all_kept(&other, &["a"]).await[0]);
    let after = format!("type=a&after={foreign}");
    let (mut gap, _) = upgrade(&gateway.broadcast, &after, None).await;
    let told: Value = serde_json::from_str(&gap.hear().await).unwrap();
    assert_eq!((&told["specversion"], &told["type"]), (&json!("1.0"), &json!("gateway.gap")));
    assert_eq!(told["data"]["recovered"], false, "{told}");
    assert!(Cursor::parse(told["data"]["earliest"].as_str().unwrap()).is_some(), "{told}");
    for name in ["id", "source"] {
        assert!(told[name].as_str().is_some_and(|it| !it.is_empty()), "no CloudEvent: {told}");
    }
}

#[tokio::test]
async fn a_websocket_that_is_refused_is_refused_before_the_upgrade() {
    let gateway = Gateway::open();
    for (query, authorization, status) in [
        ("", None, 403),
        ("", Some("Basic 0123456789abcdef-wrong"), 403),
        ("ticket=nonsense", None, 403),
        ("after=nonsense", Some("Basic 0123456789abcdef-all"), 400),
    ] {
        let url = format!("{}/events?{query}", gateway.broadcast.ws_url());
        let mut request = url.into_client_request().unwrap();
        if let Some(authorization) = authorization {
            let authorization = authorization.parse().unwrap();
            request.headers_mut().insert("authorization", authorization);
        }
        let Err(Error::Http(response)) = connect_async(request).await else {
            panic!("{query} is let in");
        };
        assert_eq!(response.status().as_u16(), status, "{query}");
    }
}
