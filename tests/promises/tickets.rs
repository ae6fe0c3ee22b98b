//! `POST /tickets`: a credential for what cannot set headers (WIRE 3.2).

use std::time::Duration;

use rustix::process::Signal;
use serde_json::json;
use tokio_tungstenite::connect_async;

use crate::client::{Subscriber, answer, code, fire, let_pass, said};
use crate::event_stream::{EventStream, by_ticket, ticket};
use crate::gateway::{Gateway, House, TOKEN};
use crate::replay::fire_numbers;

const READER: &str = "0123456789abcdef-reader";

fn tokens(subscribe: &str) -> String {
    format!("{TOKEN} name=all\n{READER} name=reader publish=none subscribe={subscribe}\n")
}

#[tokio::test]
async fn a_ticket_is_for_who_shows_a_token() {
    let gateway = Gateway::open();
    let url = format!("{}/tickets", gateway.broadcast.url());
    let client = reqwest::Client::new();
    assert_ne!(ticket(&gateway.broadcast, TOKEN).await, ticket(&gateway.broadcast, TOKEN).await);
    for authorization in [None, Some("Basic 0123456789abcdef-wrong")] {
        let mut request = client.post(&url);
        if let Some(authorization) = authorization {
            request = request.header("authorization", authorization);
        }
        let (status, body) = answer(request.send().await.unwrap()).await;
        assert!(matches!(status, 401 | 403), "{status}");
        assert_eq!(body, code("UNAUTHENTICATED"));
    }
    let request = client.get(&url).header("authorization", format!("Basic {TOKEN}"));
    let response = request.send().await.unwrap();
    assert_eq!(response.headers()["allow"], "POST");
    assert_eq!(answer(response).await, (405, code("METHOD_NOT_ALLOWED")));
}

#[tokio::test]
async fn a_ticket_opens_a_stream_with_the_grants_of_its_token() {
    let gateway = House::new().with_tokens(&tokens("a,b")).open();
    let first = ticket(&gateway.broadcast, READER).await;
    let mut stream = EventStream::open_by(&gateway.broadcast, &first, "").await;
    for (event_type, data) in [("secret", "0"), ("a", "1"), ("b", "2")] {
        fire(&gateway, event_type, data).await;
    }
    assert_eq!(stream.event().await.text(), "1");
    assert_eq!(stream.event().await.text(), "2");
    let second = ticket(&gateway.broadcast, READER).await;
    let refused = by_ticket(&gateway.broadcast, &second, "type=secret").send().await.unwrap();
    assert_eq!(answer(refused).await, (403, code("FORBIDDEN")));
}

#[tokio::test]
async fn a_ticket_admits_the_reconnects_of_its_stream_also_across_restarts() {
    let mut gateway = Gateway::open();
    let ticket = ticket(&gateway.broadcast, TOKEN).await;
    let mut last: Option<String> = None;
    let rounds = [None, None, Some(Signal::KILL), Some(Signal::TERM), None];
    for (number, signal) in (0..).zip(rounds) {
        let mut request = by_ticket(&gateway.broadcast, &ticket, "type=a");
        if let Some(last) = &last {
            request = request.header("last-event-id", last);
        }
        let mut stream = EventStream::of(request).await;
        if number > 0 {
            // What was fired while it was away.
            assert_eq!(stream.event().await.text(), format!("{}", number * 2 - 1));
        }
        fire_numbers(&gateway, "a", number * 2..number * 2 + 1).await;
        let event = stream.event().await;
        assert_eq!(event.text(), format!("{}", number * 2));
        last = event.id;
        drop(stream);
        if let Some(signal) = signal {
            gateway = gateway.restart_broadcast(signal).await;
        }
        fire_numbers(&gateway, "a", number * 2 + 1..number * 2 + 2).await;
    }
}

/// Only a stream opens a ticket: whatever else shows it is refused, and leaves it and its stream as
/// they are.
#[tokio::test]
async fn a_ticket_is_good_for_its_stream_and_for_nothing_else() {
    let gateway = Gateway::open();
    let ticket = ticket(&gateway.broadcast, TOKEN).await;
    let refused = async |open: bool| {
        let page =
            reqwest::get(format!("{}/events?type=a&ticket={ticket}", gateway.broadcast.url()));
        assert_eq!(page.await.unwrap().status(), 401);
        let other = format!("{}/tickets?ticket={ticket}", gateway.broadcast.url());
        let other = reqwest::Client::new().post(other).send().await.unwrap();
        assert_eq!(other.status(), 401);
        let bad = by_ticket(&gateway.broadcast, &ticket, "type=a&last=x").send().await.unwrap();
        assert_eq!(bad.status(), 400);
        if open {
            let another = by_ticket(&gateway.broadcast, &ticket, "type=b").send().await.unwrap();
            assert_eq!(another.status(), 401);
        }
    };
    refused(false).await;
    let mut stream = EventStream::open_by(&gateway.broadcast, &ticket, "type=a").await;
    refused(true).await;
    fire(&gateway, "a", "1").await;
    assert_eq!(stream.event().await.text(), "1");
}

#[tokio::test]
async fn a_ticket_is_good_for_one_stream_at_a_time() {
    let gateway = Gateway::open();
    let ticket = ticket(&gateway.broadcast, TOKEN).await;
    let mut first = EventStream::open_by(&gateway.broadcast, &ticket, "type=a").await;
    let second = by_ticket(&gateway.broadcast, &ticket, "type=a").send().await.unwrap();
    // Either the new one is refused, or the old one ends: it may be dead, and only seem alive.
    if second.status() == 200 {
        first.ended().await;
    } else {
        fire(&gateway, "a", "1").await;
        assert_eq!(first.event().await.text(), "1");
    }
}

#[tokio::test]
async fn a_ticket_that_is_not_used_within_30_seconds_is_none() {
    let gateway = Gateway::open();
    let unused = ticket(&gateway.broadcast, TOKEN).await;
    let used = ticket(&gateway.broadcast, TOKEN).await;
    let stream = EventStream::open_by(&gateway.broadcast, &used, "").await;
    let_pass(Duration::from_secs(32)).await;
    let refused = by_ticket(&gateway.broadcast, &unused, "").send().await.unwrap();
    assert!(matches!(refused.status().as_u16(), 204 | 401), "{}", refused.status());
    // What has been opened in time may come back later.
    drop(stream);
    EventStream::open_by(&gateway.broadcast, &used, "").await;
}

#[tokio::test]
async fn when_its_token_is_withdrawn_a_ticket_gets_204() {
    let gateway = House::new().with_tokens(&tokens("a")).open();
    let used = ticket(&gateway.broadcast, READER).await;
    let stream = EventStream::open_by(&gateway.broadcast, &used, "").await;
    gateway.house.write_tokens(&format!("{TOKEN} name=all\n# nobody else\n"));
    stream.ended().await;
    for _ in 0..3 {
        let stopped = by_ticket(&gateway.broadcast, &used, "").send().await.unwrap();
        assert_eq!(stopped.status(), 204);
    }
    let gateway = gateway.restart_broadcast(Signal::TERM).await;
    let stopped = by_ticket(&gateway.broadcast, &used, "").send().await.unwrap();
    assert_eq!(stopped.status(), 204);
}

#[tokio::test]
async fn a_ticket_opens_a_websocket_too() {
    let gateway = Gateway::open();
    for path in ["/events?type=a&ticket=", "/?ticket="] {
        let ticket = ticket(&gateway.broadcast, TOKEN).await;
        let url = format!("{}{path}{ticket}", gateway.broadcast.ws_url());
        let (socket, _) = connect_async(url).await.unwrap();
        let mut session = Subscriber { socket };
        if path.starts_with("/?") {
            // The ticket is the session's credential.
            let init = json!({"events": ["a"]}).to_string();
            assert_eq!(session.ask(&init).await, said("init", "OK"));
        }
        fire(&gateway, "a", "\"by ticket\"").await;
        assert!(session.hear().await.contains("by ticket"));
    }
}

#[tokio::test]
async fn a_ticket_reaches_no_log() {
    let gateway = House::new().set("RUST_LOG", "trace").open();
    let ticket = ticket(&gateway.broadcast, TOKEN).await;
    let mut stream = EventStream::open_by(&gateway.broadcast, &ticket, "").await;
    fire(&gateway, "a", "1").await;
    stream.event().await;
    by_ticket(&gateway.broadcast, &format!("{ticket}x"), "").send().await.unwrap();
    drop(stream);
    gateway.broadcast.wait_for_metric("fanfare_sessions", 0.0).await;
    assert!(gateway.broadcast.log().contains(r#""level":"trace""#), "nothing was searched");
    assert!(!gateway.broadcast.log().contains(&ticket));
}
