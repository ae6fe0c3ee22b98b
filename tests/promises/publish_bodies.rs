//! `POST /event` (WIRE §1.1): what its body may be.

use std::io::Write as _;
use std::time::{Duration, Instant};

use flate2::Compression;
use flate2::write::{GzEncoder, ZlibEncoder};

use crate::client::{Subscriber, answer, code, event, post};
use crate::gateway::{Gateway, House, TOKEN};
use crate::wire::{Wire, event_head, header_of, status};

const MIB: usize = 1024 * 1024;

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn deflate(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// An event whose data are arrays inside each other, so that all nests so deep.
fn nested(depth: usize) -> String {
    format!(r#"{{"event":"a","data":{}{}}}"#, "[".repeat(depth - 1), "]".repeat(depth - 1))
}

/// An event of exactly so many bytes.
fn of_bytes(length: usize) -> String {
    let frame = r#"{"event":"a","data":""}"#.len();
    format!(r#"{{"event":"a","data":"{}"}}"#, "x".repeat(length - frame))
}

#[tokio::test]
async fn what_is_no_event_is_refused() {
    let gateway = Gateway::open();
    let texts = [
        "",
        "rubbish",
        "null",
        "7",
        r#""event""#,
        "[]",
        r#"["a",1]"#,
        "{}",
        "{",
        r#"{"data":1}"#,
        r#"{"Event":"a"}"#,
        r#"{"event":7}"#,
        r#"{"event":null}"#,
        r#"{"event":["a"]}"#,
        r#"{"event":""}"#,
        &format!(r#"{{"event":"{}"}}"#, "x".repeat(256)),
        &format!(r#"{{"event":"{}"}}"#, "é".repeat(128)),
        r#"{"event":"a\u0000"}"#,
        r#"{"event":"a\n"}"#,
        r#"{"event":"\u001f"}"#,
        r#"{"event":"a\u007f"}"#,
        "{\"event\":\"a\u{7f}\"}",
        r#"{"event":"\u0085"}"#,
        "{\"event\":\"\u{9f}\"}",
        r#"{"event":"\u2028"}"#,
        "{\"event\":\"\u{2029}\"}",
        r#"{"event":"\ud800"}"#,
        r#"{"event":"a","event":"a"}"#,
        r#"{"event":"a","data":1,"data":1}"#,
        &nested(129),
        r#"{"event":"a","data":NaN}"#,
        r#"{"event":"a","data":Infinity}"#,
        r#"{"event":"a","data":01}"#,
        r#"{"event":"a","data":[1,]}"#,
        r#"{"event":"a","data":}"#,
        r#"{"event":"a",}"#,
        r#"{"event":"a"} x"#,
        r#"{"event":"a"}{"event":"a"}"#,
        "{'event':'a'}",
        "\u{feff}{\"event\":\"a\"}",
        r#"{"event":"a","id":""}"#,
        r#"{"event":"a","source":""}"#,
        r#"{"event":"a","time":""}"#,
        r#"{"event":"a","time":"yesterday"}"#,
        r#"{"event":"a","time":"2026-11-21"}"#,
        r#"{"event":"a","time":"2026-11-21 12:00:00Z"}"#,
        r#"{"event":"a","time":"2026-11-21T12:00:00"}"#,
        r#"{"event":"a","time":"2026-02-30T12:00:00Z"}"#,
    ];
    let bytes = [&b"{\"event\":\"\xff\"}"[..], b"{\"event\":\"a\",\"data\":\"\xff\"}", b"{\0}\0"];
    for body in texts.map(str::as_bytes).into_iter().chain(bytes) {
        let answer = answer(post(&gateway, body.to_vec()).send().await.unwrap()).await;
        let shown = String::from_utf8_lossy(body);
        assert_eq!(answer, (400, code("INVALID_BODY")), "{shown}");
    }
}

#[tokio::test]
async fn what_is_an_event_is_taken() {
    let gateway = Gateway::open();
    for body in [
        r#"{"event":"a"}"#,
        " \r\n\t{ \"event\" : \"a\" , \"data\" : null } \n",
        r#"{"data":{},"event":"a"}"#,
        &format!(r#"{{"event":"{}"}}"#, "x".repeat(255)),
        &format!(r#"{{"event":"{}x"}}"#, "é".repeat(127)),
        r#"{"event":" "}"#,
        r#"{"event":"order\u002epaid"}"#,
        r#"{"event":"\ud83d\ude00"}"#,
        &nested(128),
        r#"{"event":"a","unknown":{"deep":[1]},"unknown":2}"#,
        r#"{"event":"a","id":"1","source":"/s","subject":"","time":"2026-11-21T12:00:00Z"}"#,
        r#"{"event":"a","time":"2026-11-21t12:00:00.123456789+05:30"}"#,
        r#"{"event":"a","id":7,"source":null,"subject":[],"time":{}}"#,
    ] {
        let answer = answer(post(&gateway, body.to_owned()).send().await.unwrap()).await;
        assert_eq!(answer, (200, code("OK")), "{body}");
    }
}

#[tokio::test]
async fn a_body_is_read_as_json_whatever_its_content_type_says() {
    let gateway = Gateway::open();
    for kind in ["application/json", "text/plain", "application/xml", "rubbish"] {
        let request = post(&gateway, r#"{"event":"a"}"#).header("content-type", kind);
        let answer = answer(request.send().await.unwrap()).await;
        assert_eq!(answer, (200, code("OK")), "{kind}");
    }
}

#[tokio::test]
async fn a_body_has_at_most_1_mib() {
    let gateway = Gateway::open();
    let response = post(&gateway, of_bytes(MIB)).send().await.unwrap();
    assert_eq!(answer(response).await, (200, code("OK")));
    let head = event_head(TOKEN, &format!("Content-Length: {}\r\n", MIB + 1));
    let (head, body) = Wire::exchange(&gateway.listen, head).await;
    assert_eq!((status(&head), body), (413, code("BODY_TOO_LARGE")));
}

/// Nothing of the body has come, and nothing is waited for.
#[tokio::test]
async fn an_announced_length_over_the_limit_is_refused_from_the_head() {
    let gateway = House::new().set("MAX_BODY", "1KiB").open();
    for length in ["1025", "99999999999999999999"] {
        let head = event_head(TOKEN, &format!("Content-Length: {length}\r\n"));
        let begin = Instant::now();
        let (head, body) = Wire::exchange(&gateway.listen, head).await;
        // Beyond 64 bits it is no length at all.
        let expected = if length == "1025" { 413 } else { 400 };
        assert_eq!(status(&head), expected, "{length}: {body}");
        assert!(begin.elapsed() < Duration::from_secs(8), "{length}");
    }
}

/// The last chunk never comes.
#[tokio::test]
async fn a_chunked_body_is_refused_as_soon_as_it_is_over_the_limit() {
    let gateway = House::new().set("MAX_BODY", "1KiB").open();
    let mut wire = Wire::connect(&gateway.listen).await;
    wire.send(event_head(TOKEN, "Transfer-Encoding: chunked\r\n")).await;
    for _ in 0..3 {
        wire.send(format!("190\r\n{}\r\n", "x".repeat(0x190))).await;
    }
    let (head, body) = wire.read_answer().await;
    assert_eq!((status(&head), body), (413, code("BODY_TOO_LARGE")));
    assert_eq!(header_of(&head, "content-type"), Some("application/json; charset=utf-8"));
}

#[tokio::test]
async fn a_packed_body_is_unpacked() {
    let gateway = Gateway::open();
    let mut subscriber = Subscriber::subscribe(&gateway.broadcast, &["a"]).await;
    let body = br#"{"event":"a","data":[1.0]}"#;
    for (encoding, body) in [
        ("gzip", gzip(body)),
        ("GZip", gzip(body)),
        ("deflate", deflate(body)),
        ("DEFLATE", deflate(body)),
        ("identity", body.to_vec()),
    ] {
        let request = post(&gateway, body).header("content-encoding", encoding);
        let answer = answer(request.send().await.unwrap()).await;
        assert_eq!(answer, (200, code("OK")), "{encoding}");
        assert_eq!(subscriber.hear().await, event("a", "[1.0]"), "{encoding}");
    }
}

#[tokio::test]
async fn the_limit_counts_what_a_body_unpacks_to() {
    let gateway = Gateway::open();
    let (fits, bomb) = (of_bytes(MIB), of_bytes(16 * MIB));
    let (fits, bomb) = (fits.as_bytes(), bomb.as_bytes());
    for (encoding, body, expected) in [
        ("gzip", gzip(fits), (200, "OK")),
        ("deflate", deflate(fits), (200, "OK")),
        ("gzip", gzip(bomb), (413, "BODY_TOO_LARGE")),
        ("deflate", deflate(bomb), (413, "BODY_TOO_LARGE")),
        ("gzip", b"rubbish".to_vec(), (400, "INVALID_BODY")),
        ("deflate", b"rubbish".to_vec(), (400, "INVALID_BODY")),
    ] {
        assert!(body.len() < 100_000, "a bomb is small");
        let request = post(&gateway, body).header("content-encoding", encoding);
        let answer = answer(request.send().await.unwrap()).await;
        assert_eq!(answer, (expected.0, code(expected.1)), "{encoding}");
    }
}

#[tokio::test]
async fn another_encoding_is_refused_from_the_head() {
    let gateway = Gateway::open();
    for encoding in [
        "Content-Encoding: br\r\n",
        "Content-Encoding: zstd\r\n",
        "Content-Encoding: compress\r\n",
        "Content-Encoding: gzip, gzip\r\n",
        "Content-Encoding: gzip, br\r\n",
        "Content-Encoding: gzip\r\nContent-Encoding: gzip\r\n",
    ] {
        let head = event_head(TOKEN, &format!("{encoding}Content-Length: 100\r\n"));
        let (head, body) = Wire::exchange(&gateway.listen, head).await;
        assert_eq!((status(&head), body), (415, code("UNSUPPORTED_MEDIA")), "{encoding}");
    }
}

/// Reads a 408 and the end behind it; says how long it took.
async fn await_timeout(mut wire: Wire, begin: Instant) -> Duration {
    let (head, body) = wire.read_answer().await;
    let waited = begin.elapsed();
    assert_eq!((status(&head), body), (408, code("BODY_TIMEOUT")));
    assert_eq!(header_of(&head, "content-type"), Some("application/json; charset=utf-8"));
    assert_eq!(wire.read_to_end().await, b"");
    waited
}

/// This one takes its 10 s.
#[tokio::test]
async fn a_body_that_stalls_is_answered_408_after_10_s_and_the_connection_closed() {
    let gateway = Gateway::open();
    let stall = async |bytes: &str| {
        let mut wire = Wire::connect(&gateway.listen).await;
        let begin = Instant::now();
        wire.send(bytes).await;
        await_timeout(wire, begin).await
    };
    let never = event_head(TOKEN, "Content-Length: 100\r\n");
    let part = never.clone() + r#"{"event":"#;
    let chunked = event_head(TOKEN, "Transfer-Encoding: chunked\r\n") + "5\r\n{\"eve\r\n";
    let waited = tokio::join!(stall(&never), stall(&part), stall(&chunked));
    for waited in [waited.0, waited.1, waited.2] {
        assert!(waited >= Duration::from_secs(10), "{waited:?}");
        assert!(waited < Duration::from_secs(20), "{waited:?}");
    }
}

/// This one takes its 10 s.
#[tokio::test]
async fn a_body_that_dribbles_under_1_kib_a_second_is_answered_408() {
    let gateway = Gateway::open();
    let mut wire = Wire::connect(&gateway.listen).await;
    let begin = Instant::now();
    wire.send(event_head(TOKEN, "Content-Length: 100000\r\n")).await;
    // A byte now and then is no silence; only the average is too low.
    while wire.is_quiet_for(Duration::from_millis(200)).await {
        wire.send(" ").await;
        assert!(begin.elapsed() < Duration::from_secs(20), "it may dribble for ever");
    }
    let waited = await_timeout(wire, begin).await;
    assert!(waited >= Duration::from_secs(10), "{waited:?}");
}
