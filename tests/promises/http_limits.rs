//! What a client of plain HTTP may not do (HARDENING, "HTTP").

use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::io::AsyncWriteExt as _;

use crate::client::let_pass;
use crate::gateway::{Gateway, House, PATIENCE, Process, TOKEN};
use crate::wire::{Wire, event_request};

const OK: &str = r#"{"code":"OK"}"#;
const HEALTH: &str = "GET /healthz HTTP/1.1\r\nHost: test\r\n";

/// Both processes, for what holds at both doors.
fn doors(gateway: &Gateway) -> [&Process; 2] {
    [&gateway.listen, &gateway.broadcast]
}

/// Reads one answer, and checks that the connection ends after it.
async fn read_last_answer(wire: &mut Wire) -> (String, String) {
    let (head, body) = wire.read_answer().await;
    assert!(head.to_lowercase().contains("connection: close\r\n"), "{head}");
    assert_eq!(wire.read_to_end().await, b"", "{head}");
    (head, body)
}

/// Writes a byte each half second, until the other side answers.
async fn dribble(wire: &mut Wire, bytes: impl Iterator<Item = u8>) {
    let deadline = Instant::now() + PATIENCE;
    for byte in bytes.take_while(|_| Instant::now() < deadline) {
        // The answer may be there and the connection ended.
        if wire.stream.write_all(&[byte]).await.is_err() {
            return;
        }
        if !wire.is_quiet_for(Duration::from_millis(500)).await {
            return;
        }
    }
}

#[tokio::test]
async fn a_head_has_at_most_16_kib() {
    let gateway = Gateway::open();
    for door in doors(&gateway) {
        let request = |bytes: usize| {
            let fields = format!("X-A: {}\r\n", "a".repeat(1017)).repeat(bytes / 1024);
            format!("{HEALTH}{fields}\r\n")
        };
        let mut wire = Wire::connect(door).await;
        wire.send(request(15 * 1024)).await;
        let (head, _) = wire.read_answer().await;
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
        wire.send(request(17 * 1024)).await;
        let (head, body) = read_last_answer(&mut wire).await;
        assert!(head.starts_with("HTTP/1.1 431 "), "{head}");
        assert_eq!(body, r#"{"code":"HEAD_TOO_LARGE"}"#);
        // It need not even be complete, and no line needs an end.
        let mut wire = Wire::connect(door).await;
        wire.send(format!("GET /{}", "a".repeat(17 * 1024))).await;
        let (head, _) = read_last_answer(&mut wire).await;
        assert!(head.starts_with("HTTP/1.1 431 "), "{head}");
    }
}

fn assert_head_timeout((head, body): (String, String), waited: Duration) {
    assert!(head.starts_with("HTTP/1.1 408 "), "{head}");
    assert_eq!(body, r#"{"code":"HEAD_TIMEOUT"}"#);
    assert!((9..25).contains(&waited.as_secs()), "{waited:?}");
}

#[tokio::test]
async fn the_first_head_is_due_10_seconds_after_the_accept() {
    let gateway = Gateway::open();
    let [listen, broadcast] = doors(&gateway).map(async |door| {
        let begun = Instant::now();
        let (mut silent, mut slow) = (Wire::connect(door).await, Wire::connect(door).await);
        let head = HEALTH.bytes().cycle();
        tokio::join!(dribble(&mut slow, head), silent.is_quiet_for(Duration::from_secs(60)));
        for wire in [&mut silent, &mut slow] {
            assert_head_timeout(read_last_answer(wire).await, begun.elapsed());
        }
    });
    tokio::join!(listen, broadcast);
}

#[tokio::test]
async fn a_later_head_is_due_10_seconds_after_its_first_byte() {
    let gateway = Gateway::open();
    let [listen, broadcast] = doors(&gateway).map(async |door| {
        let mut wire = Wire::connect(door).await;
        wire.send(format!("{HEALTH}\r\n")).await;
        wire.read_answer().await;
        // A connection may be kept idle for longer than a head may take.
        assert!(wire.is_quiet_for(Duration::from_secs(11)).await);
        let begun = Instant::now();
        dribble(&mut wire, HEALTH.bytes().cycle()).await;
        assert_head_timeout(read_last_answer(&mut wire).await, begun.elapsed());
    });
    tokio::join!(listen, broadcast);
}

#[tokio::test]
async fn a_later_head_is_due_also_if_it_began_behind_the_request_before_it() {
    let gateway = Gateway::open();
    let [listen, broadcast] = doors(&gateway).map(async |door| {
        let mut wire = Wire::connect(door).await;
        let begun = Instant::now();
        wire.send(format!("{HEALTH}\r\nGET /hea")).await;
        let (head, _) = wire.read_answer().await;
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
        wire.is_quiet_for(Duration::from_secs(60)).await;
        assert_head_timeout(read_last_answer(&mut wire).await, begun.elapsed());
    });
    tokio::join!(listen, broadcast);
}

fn body_head(framing: &str) -> String {
    format!(
        "POST /event HTTP/1.1\r\nHost: test\r\nAuthorization: Basic {TOKEN}\r\n{framing}\r\n\r\n"
    )
}

#[tokio::test]
async fn a_body_comes_with_1_kib_a_second_on_average() {
    let gateway = Gateway::open();
    let slow = async |framing: &str, bytes: &[u8]| {
        let mut wire = Wire::connect(&gateway.listen).await;
        let begun = Instant::now();
        wire.send(body_head(framing)).await;
        dribble(&mut wire, bytes.iter().copied().cycle()).await;
        let (head, body) = read_last_answer(&mut wire).await;
        assert!(head.starts_with("HTTP/1.1 408 "), "{head}");
        assert_eq!(body, r#"{"code":"BODY_TIMEOUT"}"#);
        assert!((9..25).contains(&begun.elapsed().as_secs()), "{:?}", begun.elapsed());
    };
    let steady = async {
        let data = "x".repeat(24 * 1024);
        let body = format!(r#"{{"event":"a","data":"{data}"}}"#);
        let mut wire = Wire::connect(&gateway.listen).await;
        wire.send(body_head(&format!("Content-Length: {}", body.len()))).await;
        // Longer than any fixed time for a body, and fast enough.
        for piece in body.as_bytes().chunks(2 * 1024) {
            wire.send(piece).await;
            let_pass(Duration::from_secs(1)).await;
        }
        assert_eq!(wire.read_answer().await.1, OK);
    };
    tokio::join!(
        steady,
        slow("Content-Length: 100000", b"x"),
        slow("Transfer-Encoding: chunked", b"1\r\nx\r\n"),
    );
}

#[tokio::test]
async fn what_could_smuggle_a_request_is_refused_and_the_connection_ends() {
    let gateway = Gateway::open();
    let begin = |method: &str| {
        format!("{method} /event HTTP/1.1\r\nHost: test\r\nAuthorization: Basic {TOKEN}\r\n")
    };
    let post = begin("POST");
    let body = r#"{"event":"a"}"#;
    let smuggled = format!("{HEALTH}\r\n");
    let chunked = "Transfer-Encoding: chunked\r\n";
    let table = [
        (
            "both lengths",
            format!("{post}Content-Length: 13\r\n{chunked}\r\nd\r\n{body}\r\n0\r\n\r\n"),
        ),
        ("both, the other way", format!("{post}{chunked}Content-Length: 5\r\n\r\n0\r\n\r\n")),
        ("two lengths", format!("{post}Content-Length: 13\r\nContent-Length: 0\r\n\r\n{body}")),
        ("a list of lengths", format!("{post}Content-Length: 13, 13\r\n\r\n{body}")),
        ("a signed length", format!("{post}Content-Length: +13\r\n\r\n{body}")),
        ("a negative length", format!("{post}Content-Length: -1\r\n\r\n{body}")),
        ("a length in hex", format!("{post}Content-Length: 0xd\r\n\r\n{body}")),
        ("an empty length", format!("{post}Content-Length: \r\n\r\n{body}")),
        ("a chunk of no size", format!("{post}{chunked}\r\nzz\r\n{body}\r\n0\r\n\r\n")),
        ("a chunk of a negative size", format!("{post}{chunked}\r\n-d\r\n{body}\r\n0\r\n\r\n")),
        ("a chunk too large to count", format!("{post}{chunked}\r\nfffffffffffffffff\r\n{body}")),
        ("a chunk longer than it says", format!("{post}{chunked}\r\n3\r\n{body}\r\n0\r\n\r\n")),
        ("a folded line", format!("{post}X-A: a\r\n b\r\nContent-Length: 13\r\n\r\n{body}")),
        ("a folded coding", format!("{post}Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n")),
        ("an unknown coding", format!("{post}Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n")),
        ("a coding in quotes", format!("{post}Transfer-Encoding: \"chunked\"\r\n\r\n0\r\n\r\n")),
        (
            "chunked is not last",
            format!("{post}Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n"),
        ),
        ("chunked twice", format!("{post}Transfer-Encoding: chunked\r\n{chunked}\r\n0\r\n\r\n")),
        ("a blank before the colon", format!("{post}Content-Length : 13\r\n\r\n{body}")),
        ("a name of two words", format!("{post}Content Length: 13\r\n\r\n{body}")),
        ("a NUL in a value", format!("{post}X-A: a\0b\r\nContent-Length: 13\r\n\r\n{body}")),
        ("a lone CR in a value", format!("{post}X-A: a\rb\r\nContent-Length: 13\r\n\r\n{body}")),
    ];
    let mut wrong = Vec::new();
    for (what, request) in table {
        let mut wire = Wire::connect(&gateway.listen).await;
        wire.send(format!("{request}{smuggled}")).await;
        let answers = String::from_utf8(wire.read_to_end().await).unwrap();
        let is_refused = answers.starts_with("HTTP/1.1 400 ");
        if !is_refused || answers.matches("HTTP/1.1 ").count() != 1 {
            wrong.push(format!("{what}: {answers}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[tokio::test]
async fn two_requests_in_one_packet_get_two_answers_in_order() {
    let gateway = Gateway::open();
    let mut wire = Wire::connect(&gateway.listen).await;
    let first = event_request(r#"{"event":"a"}"#);
    wire.send(format!("{first}{}{HEALTH}\r\n", event_request("{}"))).await;
    assert_eq!(wire.read_answer().await.1, OK);
    assert_eq!(wire.read_answer().await.1, r#"{"code":"INVALID_BODY"}"#);
    assert_eq!(wire.read_answer().await.1, r#"{"status":200,"message":"OK"}"#);
}

#[tokio::test]
async fn every_refusal_is_json_with_a_code_and_names_no_software() {
    let gateway = Gateway::open();
    let listen = [
        ("GET /event", 405),
        ("DELETE /event", 405),
        ("OPTIONS /event", 405),
        ("POST /healthz", 405),
        ("GET /", 404),
        ("GET /events", 405),
        ("GET /event/x", 404),
        ("GET /%00", 404),
        ("POST /event", 403),
        ("POST /event?dry_run=true", 403),
    ];
    let broadcast =
        [("GET /", 426), ("POST /", 426), ("GET /any/path", 426), ("PUT /healthz", 405)];
    let table = listen.map(|row| (&gateway.listen, row)).into_iter();
    for (door, (request, status)) in table.chain(broadcast.map(|row| (&gateway.broadcast, row))) {
        let mut wire = Wire::connect(door).await;
        wire.send(format!("{request} HTTP/1.1\r\nHost: test\r\n\r\n")).await;
        let (head, body) = wire.read_answer().await;
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{request}: {head}");
        let head = head.to_lowercase();
        assert!(head.contains("content-type: application/json; charset=utf-8\r\n"), "{head}");
        assert!(!head.contains("\r\nserver:") && !head.contains("actix"), "{head}");
        let body: Value = serde_json::from_str(&body).unwrap();
        assert!(body["code"].as_str().is_some_and(|code| !code.is_empty()), "{body}");
    }
}

#[tokio::test]
async fn an_event_whose_request_offers_an_upgrade_is_taken_all_the_same() {
    let gateway = Gateway::open();
    let body = r#"{"event":"a","data":1}"#;
    for upgrade in ["websocket", "h2c", "x"] {
        let mut wire = Wire::connect(&gateway.listen).await;
        let more = format!("Connection: Upgrade\r\nUpgrade: {upgrade}\r\nContent-Length: 22");
        wire.send(body_head(&more) + body).await;
        let (head, answer) = wire.read_answer().await;
        assert!(head.starts_with("HTTP/1.1 200 "), "{upgrade}: {head}");
        assert_eq!(answer, OK);
    }
}

#[tokio::test]
async fn whoever_asks_before_sending_a_body_is_told_to_go_on() {
    let gateway = Gateway::open();
    let mut wire = Wire::connect(&gateway.listen).await;
    wire.send(body_head("Content-Length: 13\r\nExpect: 100-continue")).await;
    assert!(wire.read_head().await.starts_with("HTTP/1.1 100 "));
    wire.send(r#"{"event":"a"}"#).await;
    assert_eq!(wire.read_answer().await.1, OK);
}

#[tokio::test]
async fn a_thousand_slow_clients_cost_the_good_ones_nothing() {
    let gateway = Gateway::open();
    let mut slow = Vec::new();
    for number in 0..1000 {
        let mut wire = Wire::connect(&gateway.listen).await;
        let begun = if number % 2 == 0 { "POST /ev" } else { &body_head("Content-Length: 1000") };
        wire.send(begun).await;
        slow.push(wire);
    }
    let mut wire = Wire::connect(&gateway.listen).await;
    for _ in 0..20 {
        let begun = Instant::now();
        wire.send(event_request(r#"{"event":"a"}"#)).await;
        assert_eq!(wire.read_answer().await.1, OK);
        assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    }
    drop(slow);
    gateway.listen.wait_for_metric("fanfare_connections", 1.0).await;
}

#[tokio::test]
async fn a_body_is_judged_by_what_it_unpacks_to() {
    let house = House::new().set("MAX_BODY", "64KiB");
    let gateway = house.open();
    let body = format!(r#"{{"event":"a","data":"{}"}}"#, "x".repeat(1024 * 1024));
    let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    std::io::Write::write_all(&mut packer, body.as_bytes()).unwrap();
    let packed = packer.finish().unwrap();
    assert!(packed.len() < 64 * 1024);
    let mut wire = Wire::connect(&gateway.listen).await;
    let framing = format!("Content-Encoding: gzip\r\nContent-Length: {}", packed.len());
    wire.send([body_head(&framing).into_bytes(), packed].concat()).await;
    let (head, body) = wire.read_answer().await;
    assert!(head.starts_with("HTTP/1.1 413 "), "{head}");
    assert_eq!(body, r#"{"code":"BODY_TOO_LARGE"}"#);
}
