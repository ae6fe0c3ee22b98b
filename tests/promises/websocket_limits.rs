//! What a WebSocket client may not do (HARDENING, "WebSocket").

use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::gateway::{House, Process};
use crate::measures::{descriptors, peak_memory, until};
use crate::wire::{Wire, frame, header, upgrade_request};

const MIB: u64 = 1024 * 1024;

/// Sends bytes to a fresh connection, and gives the Close that comes of it.
async fn closed_by(broadcast: &Process, bytes: &[u8]) -> (u16, String) {
    let mut wire = Wire::upgrade(broadcast).await;
    wire.send(bytes).await;
    wire.read_close().await
}

fn too_big() -> (u16, String) {
    (1009, "message too big".to_owned())
}

fn policy() -> (u16, String) {
    (1008, "policy".to_owned())
}

#[tokio::test]
async fn a_frame_that_announces_512_mib_is_refused_from_its_header() {
    let house = House::new();
    let broadcast = house.broadcast();
    let before = peak_memory(&broadcast);
    let beginning = frame(0x01, b"x");
    for first in [header(0x81, 512 * MIB), header(0x82, 512 * MIB), header(0x82, 1 << 62)] {
        assert_eq!(closed_by(&broadcast, &first).await, too_big());
    }
    let continued = [beginning, header(0x80, 512 * MIB)].concat();
    assert_eq!(closed_by(&broadcast, &continued).await, too_big());
    let mut known = Wire::upgrade(&broadcast).await;
    known.log_in("[]").await;
    known.send(header(0x82, 512 * MIB)).await;
    assert_eq!(known.read_close().await, too_big());
    // Whoever sends on is not listened to, and is let go.
    let mut insistent = Wire::upgrade(&broadcast).await;
    insistent.send(header(0x82, 512 * MIB)).await;
    let piece = vec![0; 64 * 1024];
    for _ in 0..1024 {
        // The other side has ended the connection.
        if insistent.stream.write_all(&piece).await.is_err() {
            break;
        }
    }
    let grown = peak_memory(&broadcast) - before;
    assert!(grown < 6 * MIB, "{grown} bytes more");
}

#[tokio::test]
async fn a_message_has_at_most_64_kib_whole_or_in_pieces() {
    let house = House::new();
    let broadcast = house.broadcast();
    let largest = vec![b' '; 64 * 1024];
    let syntax = r#"{"type":"init","code":"INVALID_SYNTAX"}"#;
    let halves = [frame(0x01, &largest[..32 * 1024]), frame(0x80, &largest[32 * 1024..])];
    for allowed in [frame(0x81, &largest), halves.concat()] {
        let mut wire = Wire::upgrade(&broadcast).await;
        wire.send(allowed).await;
        assert_eq!(String::from_utf8(wire.read_frame().await.1).unwrap(), syntax);
    }
    let too_large = [largest.as_slice(), b" "].concat();
    assert_eq!(closed_by(&broadcast, &frame(0x81, &too_large)).await, too_big());
    let pieces = [frame(0x01, &largest), frame(0x00, b""), frame(0x80, b" ")].concat();
    assert_eq!(closed_by(&broadcast, &pieces).await, too_big());
}

#[tokio::test]
async fn the_largest_message_is_a_setting() {
    let house = House::new().set("MAX_MESSAGE", "1KiB");
    let broadcast = house.broadcast();
    assert_eq!(closed_by(&broadcast, &frame(0x81, &[b' '; 1025])).await, too_big());
}

#[tokio::test]
async fn a_message_has_at_most_1024_pieces() {
    let house = House::new().set("MAX_FRAME_RATE", 1_000_000);
    let broadcast = house.broadcast();
    let pieces = |count: usize| {
        let middle = frame(0x00, b"").repeat(count - 2);
        [frame(0x01, b""), middle, frame(0x80, b"")].concat()
    };
    let mut wire = Wire::upgrade(&broadcast).await;
    wire.log_in("[]").await;
    wire.send(pieces(1024)).await;
    let (_, answer) = wire.read_frame().await;
    assert_eq!(String::from_utf8(answer).unwrap(), r#"{"type":"init","code":"INVALID_SYNTAX"}"#);
    wire.send(pieces(1025)).await;
    assert_eq!(wire.read_close().await, policy());
}

#[tokio::test]
async fn before_a_credential_there_are_100_frames_a_second() {
    let house = House::new();
    let broadcast = house.broadcast();
    let mut wire = Wire::upgrade(&broadcast).await;
    wire.send(frame(0x8a, b"").repeat(99)).await;
    wire.log_in("[]").await;
    assert_eq!(closed_by(&broadcast, &frame(0x8a, b"").repeat(1000)).await, policy());
}

#[tokio::test]
async fn with_a_credential_there_are_1000_frames_a_second() {
    let house = House::new();
    let broadcast = house.broadcast();
    let mut wire = Wire::upgrade(&broadcast).await;
    wire.log_in("[]").await;
    wire.send(frame(0x8a, b"").repeat(900)).await;
    wire.log_in("[]").await;
    wire.send(frame(0x8a, b"").repeat(20_000)).await;
    assert_eq!(wire.read_close().await, policy());
}

#[tokio::test]
async fn fifty_pings_at_once_are_answered_and_many_more_are_not() {
    let house = House::new();
    let broadcast = house.broadcast();
    let mut wire = Wire::upgrade(&broadcast).await;
    wire.log_in("[]").await;
    wire.send(frame(0x89, b"here?").repeat(50)).await;
    for _ in 0..50 {
        assert_eq!(wire.read_frame().await, (0x8a, b"here?".to_vec()));
    }
    wire.send(frame(0x89, b"").repeat(500)).await;
    assert_eq!(wire.read_close().await, policy());
}

#[tokio::test]
async fn whoever_breaks_the_protocol_is_told_1002() {
    let house = House::new();
    let broadcast = house.broadcast();
    let close = |code: u16| frame(0x88, &code.to_be_bytes());
    let table = [
        ("first reserved bit", frame(0xc1, b"x")),
        ("second reserved bit", frame(0xa1, b"x")),
        ("third reserved bit", frame(0x91, b"x")),
        ("reserved bit of a ping", frame(0xc9, b"x")),
        ("opcode 3", frame(0x83, b"x")),
        ("opcode 7", frame(0x87, b"x")),
        ("opcode 11", frame(0x8b, b"x")),
        ("opcode 15", frame(0x8f, b"x")),
        ("no mask", vec![0x81, 0x01, b'x']),
        ("no mask on a ping", vec![0x89, 0x00]),
        ("a continuation of nothing", frame(0x80, b"x")),
        ("a message inside a message", [frame(0x01, b"a"), frame(0x81, b"b")].concat()),
        ("a ping in pieces", frame(0x09, b"")),
        ("a close in pieces", frame(0x08, b"")),
        ("a ping of 126 bytes", frame(0x89, &[0; 126])),
        ("a close of 126 bytes", frame(0x88, &[b'x'; 126])),
        ("a length in 2 bytes that fits 7 bits", vec![0x81, 0xfe, 0, 5, 0, 0, 0, 0]),
        ("a length in 8 bytes that fits 2", vec![0x81, 0xff, 0, 0, 0, 0, 0, 0, 1, 0]),
        ("a length beyond 63 bits", vec![0x81, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 0]),
        ("a close of one byte", frame(0x88, b"x")),
        ("close 0", close(0)),
        ("close 999", close(999)),
        ("close 1004", close(1004)),
        ("close 1005", close(1005)),
        ("close 1006", close(1006)),
        ("close 1015", close(1015)),
        ("close 2999", close(2999)),
        ("close 5000", close(5000)),
    ];
    for (what, bytes) in table {
        assert_eq!(closed_by(&broadcast, &bytes).await.0, 1002, "{what}");
    }
}

#[tokio::test]
async fn text_that_is_not_utf_8_is_told_1007() {
    let house = House::new();
    let broadcast = house.broadcast();
    let table = [
        frame(0x81, b"\xff"),
        frame(0x81, b"\xed\xa0\x80"),
        frame(0x81, b"\xc0\xaf"),
        frame(0x81, b"\xf0\x9f"),
        [frame(0x01, b"\xf0\x9f"), frame(0x80, b"x")].concat(),
        frame(0x88, b"\x03\xe8\xff"),
    ];
    for bytes in table {
        assert_eq!(closed_by(&broadcast, &bytes).await.0, 1007, "{bytes:x?}");
    }
    // A character may be cut in two by the pieces of its message.
    let mut wire = Wire::upgrade(&broadcast).await;
    wire.send([frame(0x01, b"\xc3"), frame(0x80, b"\xa9")].concat()).await;
    let (_, answer) = wire.read_frame().await;
    assert_eq!(String::from_utf8(answer).unwrap(), r#"{"type":"init","code":"INVALID_SYNTAX"}"#);
}

#[tokio::test]
async fn after_the_close_handshake_the_connection_ends_at_once() {
    let house = House::new();
    let broadcast = house.broadcast();
    let before = descriptors(&broadcast);
    // Our side stays open: that the other's is ended does not depend on it.
    let assert_ended = async |mut wire: Wire| {
        let begun = Instant::now();
        assert_eq!(wire.read_to_end().await, b"");
        broadcast.wait_for_metric("fanfare_connections", 0.0).await;
        assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    };
    for payload in [&b""[..], &1000_u16.to_be_bytes(), &4999_u16.to_be_bytes()] {
        let mut wire = Wire::upgrade(&broadcast).await;
        wire.send(frame(0x88, payload)).await;
        assert_eq!(wire.read_frame().await, (0x88, payload.to_vec()));
        assert_ended(wire).await;
    }
    // The same when we were first.
    let mut wire = Wire::upgrade(&broadcast).await;
    let wrong = frame(0x81, br#"{"authentication":"Basic no-such-token-000000","events":[]}"#);
    wire.send(wrong.repeat(3)).await;
    assert_eq!(wire.read_close().await, (4401, "unauthenticated".to_owned()));
    wire.send(frame(0x88, &4401_u16.to_be_bytes())).await;
    assert_ended(wire).await;
    until("the sockets are given back", async || {
        (descriptors(&broadcast) <= before + 1).then_some(())
    })
    .await;
}

#[tokio::test]
async fn whoever_never_answers_a_close_is_let_go_after_5_seconds() {
    let house = House::new().set("INIT_TIMEOUT", "100ms");
    let broadcast = house.broadcast();
    let mut wire = Wire::upgrade(&broadcast).await;
    assert_eq!(wire.read_close().await, (4401, "init timeout".to_owned()));
    let begun = Instant::now();
    assert_eq!(wire.read_to_end().await, b"");
    assert!((4..15).contains(&begun.elapsed().as_secs()), "{:?}", begun.elapsed());
    broadcast.wait_for_metric("fanfare_sessions", 0.0).await;
}

#[tokio::test]
async fn a_handshake_that_breaks_the_rules_is_refused() {
    let house = House::new();
    let broadcast = house.broadcast();
    let good = upgrade_request("/", "");
    let key = "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n";
    let version = "Sec-WebSocket-Version: 13\r\n";
    let invalid = r#"{"code":"INVALID_REQUEST"}"#;
    let required = r#"{"code":"UPGRADE_REQUIRED"}"#;
    let table = [
        (good.replace("HTTP/1.1", "HTTP/1.0"), 400, invalid),
        (good.replace(key, ""), 400, invalid),
        (good.replace(key, "Sec-WebSocket-Key: short\r\n"), 400, invalid),
        (good.replace(key, "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAAAA\r\n"), 400, invalid),
        (good.replace(key, &key.repeat(2)), 400, invalid),
        (good.replace(version, ""), 426, required),
        (good.replace("Version: 13", "Version: 8"), 426, required),
        (good.replace("Version: 13", "Version: 14"), 426, required),
        (good.replace("Version: 13", "Version: 13, 8"), 426, required),
        (good.replace("GET", "POST"), 405, r#"{"code":"METHOD_NOT_ALLOWED"}"#),
        ("GET / HTTP/1.1\r\nHost: test\r\n\r\n".to_owned(), 426, required),
    ];
    for (request, status, expected) in table {
        let mut wire = Wire::connect(&broadcast).await;
        wire.send(&request).await;
        let (head, body) = wire.read_answer().await;
        assert_eq!(head.split(' ').nth(1), Some(status.to_string().as_str()), "{request}{head}");
        assert_eq!(body, expected, "{request}");
        let head = head.to_lowercase();
        // A 426 names `upgrade` in Connection, as it must.
        let is_last = request.contains("HTTP/1.1") && request.contains("Upgrade") && status != 426;
        assert!(head.contains("connection: close\r\n") || !is_last, "{request}{head}");
        let names_version = head.contains("sec-websocket-version: 13\r\n");
        let asks_for_upgrade = head.contains("upgrade: websocket\r\n");
        assert_eq!(names_version || asks_for_upgrade, status == 426, "{request}{head}");
        if status == 426 && request.contains("Key") {
            assert!(names_version, "{request}{head}");
        }
    }
}

#[tokio::test]
async fn no_extension_is_echoed() {
    let house = House::new();
    let broadcast = house.broadcast();
    let mut wire = Wire::connect(&broadcast).await;
    let offer = "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits, x-other\r\n";
    wire.send(upgrade_request("/", offer)).await;
    let head = wire.read_head().await;
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    assert!(!head.to_lowercase().contains("sec-websocket-extensions"), "{head}");
}

#[tokio::test]
async fn the_init_deadline_is_renewed_by_nothing() {
    let house = House::new().set("INIT_TIMEOUT", "1500ms");
    let broadcast = house.broadcast();
    let init = frame(0x81, br#"{"authentication":"Basic 0123456789abcdef-all","events":[]}"#);
    let table = [
        ("pings", frame(0x89, b"")),
        ("pongs", frame(0x8a, b"")),
        ("fragments", frame(0x01, b"")),
        ("refused messages", frame(0x81, b"{}")),
        ("a dribbled init", init),
    ];
    for (what, bytes) in table {
        let mut wire = Wire::upgrade(&broadcast).await;
        let begun = Instant::now();
        let (mut reading, mut writing) = wire.stream.split();
        let dribble = async {
            for turn in 0.. {
                let piece = match what {
                    "fragments" if turn > 0 => frame(0x00, b""),
                    "a dribbled init" => vec![bytes[turn]],
                    _ => bytes.clone(),
                };
                // It ends with the connection.
                if writing.write_all(&piece).await.is_err() {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            std::future::pending::<()>().await;
        };
        let heard = async {
            let mut heard = Vec::new();
            // The reason stands in the last frame.
            while !heard.ends_with(b"init timeout") {
                let count = reading.read_buf(&mut heard).await;
                assert_ne!(count.unwrap_or(0), 0, "{what}: ended without a Close");
            }
        };
        tokio::select! {
            () = dribble => {}
            () = heard => {}
            () = tokio::time::sleep(Duration::from_secs(20)) => panic!("{what} renew it"),
        }
        assert!(begun.elapsed() >= Duration::from_millis(1400), "{what}: {:?}", begun.elapsed());
    }
}
