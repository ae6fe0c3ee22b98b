//! Requests of one connection that come before the answers to those before them (RFC 9112 §9.3.2).

use std::time::Duration;

use rustix::process::Signal;

use crate::client::{Subscriber, fire};
use crate::gateway::{Gateway, House, TOKEN};
use crate::measures::until;
use crate::wire::{Wire, event_head, event_request};

fn numbered(range: std::ops::Range<u64>) -> String {
    range.map(|number| event_request(&format!(r#"{{"event":"a","data":{number}}}"#))).collect()
}

/// The statuses of the next answers, and their bodies.
async fn read_answers(wire: &mut Wire, count: usize) -> Vec<(String, String)> {
    let mut answers = Vec::new();
    for _ in 0..count {
        let (head, body) = wire.read_answer().await;
        answers.push((head[9..12].to_owned(), body));
    }
    answers
}

fn is_ok((status, body): &(String, String)) -> bool {
    status == "200" && body == r#"{"code":"OK"}"#
}

#[tokio::test]
async fn events_that_come_at_once_are_answered_and_delivered_in_their_order() {
    let gateway = Gateway::open();
    let mut subscriber = Subscriber::subscribe(&gateway.broadcast, &["a"]).await;
    let mut wire = Wire::connect(&gateway.listen).await;
    // More than may be under way at a time.
    wire.send(numbered(0..1000)).await;
    assert!(read_answers(&mut wire, 1000).await.iter().all(is_ok));
    // And in pieces that end anywhere.
    let requests = numbered(1000..1050);
    for piece in requests.as_bytes().chunks(77) {
        wire.send(piece).await;
        tokio::task::yield_now().await;
    }
    assert!(read_answers(&mut wire, 50).await.iter().all(is_ok));
    // Large ones, too.
    let padding = "x".repeat(200_000);
    let large = event_request(&format!(r#"{{"event":"b","data":"{padding}"}}"#));
    wire.send(large.repeat(4)).await;
    for _ in 0..4 {
        let (head, _) = wire.read_answer().await;
        assert!(head.starts_with("HTTP/1.1 200 ") && !head.contains("connection"), "{head}");
    }
    let numbers = subscriber.hear_numbers(1050).await;
    assert_eq!(numbers, (0..1050).collect::<Vec<_>>());
}

/// They do not wait for one another's receipts.
#[tokio::test]
async fn events_of_one_connection_are_under_way_together() {
    let gateway = House::new().set("PUBLISH_TIMEOUT", "60s").open();
    let mut subscriber = Subscriber::subscribe(&gateway.broadcast, &["a"]).await;
    gateway.broadcast.signal(Signal::STOP);
    let mut wire = Wire::connect(&gateway.listen).await;
    wire.send(numbered(0..50)).await;
    until("all of them are held", async || {
        // An event is some 300 bytes in memory.
        (gateway.listen.metric("fanfare_memory_held_bytes").await > 3000.0).then_some(())
    })
    .await;
    gateway.broadcast.signal(Signal::CONT);
    assert!(read_answers(&mut wire, 50).await.iter().all(is_ok));
    assert_eq!(subscriber.hear_numbers(50).await, (0..50).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_fault_among_events_that_come_at_once_is_answered_in_its_place() {
    let stranger = event_head("0123456789abcdef-nobody", "Content-Length: 13\r\n");
    let faults = [
        (event_request("[]"), "400", r#"{"code":"INVALID_BODY"}"#),
        (format!("{stranger}{{\"event\":\"a\"}}"), "403", r#"{"code":"UNAUTHENTICATED"}"#),
        (event_request(r#"{"event":"b"}"#), "403", r#"{"code":"FORBIDDEN"}"#),
        ("GET /event HTTP/1.1\r\nHost: test\r\n\r\n".into(), "405", ""),
        ("GET /healthz HTTP/1.1\r\nHost: test\r\n\r\n".into(), "200", ""),
    ];
    let gateway = House::new().with_tokens(&format!("{TOKEN} name=all publish=a\n")).open();
    let mut subscriber = Subscriber::subscribe(&gateway.broadcast, &["a"]).await;
    for (request, status, body) in faults {
        let mut wire = Wire::connect(&gateway.listen).await;
        wire.send(numbered(0..20) + &request + &numbered(20..30)).await;
        let answers = read_answers(&mut wire, 31).await;
        for (at, answer) in answers.iter().enumerate() {
            if at == 20 {
                assert!(answer.0 == status && answer.1.contains(body), "{request}: {answer:?}");
            } else {
                assert!(is_ok(answer), "{request}: {at}: {answer:?}");
            }
        }
        assert_eq!(subscriber.hear_numbers(30).await, (0..30).collect::<Vec<_>>());
    }
}

#[tokio::test]
async fn a_request_without_a_host_or_with_two_ends_the_connection_behind_events_too() {
    let gateway = Gateway::open();
    for host in ["", "Host: test\r\nHost: other\r\n"] {
        let request = event_request(r#"{"event":"a"}"#).replace("Host: test\r\n", host);
        let mut wire = Wire::connect(&gateway.listen).await;
        wire.send(numbered(0..3) + &request + &numbered(3..5)).await;
        let answers = String::from_utf8(wire.read_to_end().await).unwrap();
        let statuses: Vec<_> =
            answers.match_indices("HTTP/1.1 ").map(|(at, _)| &answers[at + 9..at + 12]).collect();
        assert_eq!(statuses, ["200", "200", "200", "400"], "{answers}");
    }
}

/// What the overlapping way answers is what the HTTP server would.
#[tokio::test]
async fn answers_look_the_same_however_an_event_came() {
    let lines = |head: &str| {
        let mut lines: Vec<_> = head.to_lowercase().lines().map(str::to_owned).collect();
        let date = lines.iter_mut().find(|line| line.starts_with("date: ")).unwrap();
        assert!(date.ends_with(" gmt") && date.len() == 35, "{date}");
        date.clear();
        lines.sort();
        lines
    };
    let compare = async |gateway: &Gateway| {
        let body = r#"{"event":"a","id":"1","source":"/s"}"#;
        let plain = Wire::exchange(&gateway.listen, event_request(body)).await;
        // The HTTP server has everything that asks for more.
        let more = format!("TE: trailers\r\nContent-Length: {}\r\n", body.len());
        let asking = event_head(TOKEN, &more) + body;
        let asked = Wire::exchange(&gateway.listen, asking).await;
        assert_eq!((lines(&plain.0), &plain.1), (lines(&asked.0), &asked.1));
        plain.0
    };
    assert!(compare(&Gateway::open()).await.starts_with("HTTP/1.1 200 OK\r\n"));
    let gateway = House::new().set("PUBLISH_TIMEOUT", "2s").open();
    gateway.broadcast.signal(Signal::STOP);
    assert!(compare(&gateway).await.starts_with("HTTP/1.1 503 Service Unavailable\r\n"));
    gateway.broadcast.signal(Signal::CONT);
}

#[tokio::test]
async fn each_of_many_that_come_at_once_takes_one_turn_of_its_tokens_rate() {
    let gateway = House::new().set("RATE_LIMIT", "10/s").open();
    let mut wire = Wire::connect(&gateway.listen).await;
    wire.send(numbered(0..30)).await;
    let answers = read_answers(&mut wire, 30).await;
    let taken = answers.iter().take_while(|answer| is_ok(answer)).count();
    // Turns come back while they are answered, but not many.
    assert!((10..20).contains(&taken), "{taken}");
    assert_eq!(answers[taken], ("429".to_owned(), r#"{"code":"RATE_LIMITED"}"#.to_owned()));
}

#[tokio::test]
async fn the_last_answer_of_a_stop_says_so() {
    let gateway = House::new().set("PUBLISH_TIMEOUT", "60s").open();
    fire(&gateway, "a", "1").await;
    gateway.broadcast.signal(Signal::STOP);
    let mut wire = Wire::connect(&gateway.listen).await;
    wire.send(numbered(0..3)).await;
    until("they are held", async || {
        (gateway.listen.metric("fanfare_memory_held_bytes").await > 0.0).then_some(())
    })
    .await;
    gateway.listen.signal(Signal::TERM);
    gateway.listen.wait_for_log("stopping");
    gateway.broadcast.signal(Signal::CONT);
    let answers = String::from_utf8(wire.read_to_end().await).unwrap();
    let (before, last) = answers.rsplit_once("HTTP/1.1 200 OK").unwrap();
    assert_eq!(before.matches("HTTP/1.1 200 OK").count(), 2, "{answers}");
    assert!(
        !before.contains("connection: close") && last.contains("connection: close"),
        "{answers}"
    );
}

/// A client that closes its side still gets its answers.
#[tokio::test]
async fn events_before_the_end_of_the_stream_are_taken_and_answered() {
    let gateway = Gateway::open();
    let mut wire = Wire::connect(&gateway.listen).await;
    wire.send(numbered(0..200)).await;
    tokio::io::AsyncWriteExt::shutdown(&mut wire.stream).await.unwrap();
    let answers = String::from_utf8(wire.read_to_end().await).unwrap();
    assert_eq!(answers.matches("HTTP/1.1 200 OK").count(), 200, "{answers}");
    // In the middle of one: it was never asked for.
    let mut wire = Wire::connect(&gateway.listen).await;
    let requests = numbered(0..2);
    wire.send(&requests[..requests.len() - 1]).await;
    tokio::io::AsyncWriteExt::shutdown(&mut wire.stream).await.unwrap();
    let answers = String::from_utf8(wire.read_to_end().await).unwrap();
    assert_eq!(answers.matches("HTTP/1.1 200 OK").count(), 1, "{answers}");
    tokio::time::timeout(Duration::from_secs(5), async {
        gateway.listen.wait_for_metric("fanfare_connections", 0.0).await;
    })
    .await
    .unwrap();
}

/// What does not come, or is none, is answered in its place: behind all that came before it.
#[tokio::test]
async fn a_violation_behind_events_that_wait_is_answered_behind_them() {
    let gateway = House::new().set("PUBLISH_TIMEOUT", "12s").open();
    gateway.broadcast.signal(Signal::STOP);
    let event = event_request(r#"{"event":"a"}"#);
    let behind = [
        (event[..event.len() - 5].to_owned(), "408", "BODY_TIMEOUT"),
        (event[..20].to_owned(), "408", "HEAD_TIMEOUT"),
        (format!("POST /event HTTP/1.1\r\nx: {}", "x".repeat(17_000)), "431", "HEAD_TOO_LARGE"),
    ];
    let mut wires = Vec::new();
    for (request, ..) in &behind {
        let mut wire = Wire::connect(&gateway.listen).await;
        wire.send(numbered(0..3) + request).await;
        wires.push(wire);
    }
    for (mut wire, (_, status, code)) in wires.into_iter().zip(behind) {
        let answers = read_answers(&mut wire, 4).await;
        for (status, body) in &answers[..3] {
            assert_eq!(status, "503", "{code}: {answers:?}");
            assert!(body.contains(r#""accepted":"unknown""#), "{code}: {answers:?}");
        }
        assert_eq!(answers[3].0, status, "{answers:?}");
        assert!(answers[3].1.contains(code), "{answers:?}");
        assert_eq!(wire.read_to_end().await, b"");
    }
    gateway.broadcast.signal(Signal::CONT);
}

#[tokio::test]
async fn a_body_that_stalls_behind_an_answered_event_is_told_so() {
    let gateway = Gateway::open();
    let mut wire = Wire::connect(&gateway.listen).await;
    let event = event_request(r#"{"event":"a"}"#);
    wire.send(event.clone() + "\r\n" + &event[..event.len() - 1]).await;
    let answers = read_answers(&mut wire, 2).await;
    assert!(is_ok(&answers[0]), "{answers:?}");
    assert_eq!(answers[1], ("408".to_owned(), r#"{"code":"BODY_TIMEOUT"}"#.to_owned()));
}
