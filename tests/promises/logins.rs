//! Upgrade and init on the native WebSocket (WIRE §1.2): who gets in, and what is answered.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tokio_tungstenite::tungstenite::Message;

use futures_util::SinkExt as _;

use crate::client::{Subscriber, code, event, fire, init, let_pass, said};
use crate::gateway::{Gateway, House, TOKEN};
use crate::wire::{Wire, header_of, status, upgrade_request};

const NARROW: &str = "0123456789abcdef-narrow";

/// A gateway with a token that may subscribe `order.>` only.
fn gateway_with_narrow() -> Gateway {
    let tokens = format!("{TOKEN} name=all\n{NARROW} subscribe=order.>\n");
    House::new().with_tokens(&tokens).set("MAX_PATTERNS", 3).open()
}

#[tokio::test]
async fn any_path_accepts_the_upgrade() {
    let gateway = Gateway::open();
    for path in ["/", "/any/path/at/all", "/event", "/?query=x"] {
        let request = upgrade_request(path, "");
        let (head, _) = Wire::exchange(&gateway.broadcast, request).await;
        assert_eq!(status(&head), 101, "{path}");
        // RFC 6455 §4.2.2: the hash of the key in `upgrade_request`.
        let accept = header_of(&head, "sec-websocket-accept");
        assert_eq!(accept, Some("ICX+Yqv66kxgM0FcWaLWlFLwTAI="), "{path}");
    }
}

#[tokio::test]
async fn a_plain_request_is_told_to_upgrade() {
    let gateway = Gateway::open();
    for request in ["GET / HTTP/1.1", "GET /any/path HTTP/1.1", "POST / HTTP/1.1"] {
        let request = format!("{request}\r\nHost: test\r\n\r\n");
        let (head, body) = Wire::exchange(&gateway.broadcast, &request).await;
        assert_eq!((status(&head), body), (426, code("UPGRADE_REQUIRED")), "{request}");
        assert_eq!(header_of(&head, "upgrade"), Some("websocket"), "{request}");
        let kind = header_of(&head, "content-type");
        assert_eq!(kind, Some("application/json; charset=utf-8"));
    }
}

#[tokio::test]
async fn the_first_subprotocol_is_echoed() {
    let gateway = Gateway::open();
    for (offered, expected) in [
        ("", None),
        ("Sec-WebSocket-Protocol: one\r\n", Some("one")),
        ("Sec-WebSocket-Protocol: b, a\r\n", Some("b")),
        ("Sec-WebSocket-Protocol: b\r\nSec-WebSocket-Protocol: a\r\n", Some("b")),
    ] {
        let request = upgrade_request("/", offered);
        let (head, _) = Wire::exchange(&gateway.broadcast, request).await;
        assert_eq!(status(&head), 101, "{offered}");
        assert_eq!(header_of(&head, "sec-websocket-protocol"), expected, "{offered}");
    }
}

#[tokio::test]
async fn a_credential_in_the_upgrade_is_the_sessions_on_any_path() {
    let gateway = Gateway::open();
    let base64 = STANDARD.encode(format!(":{TOKEN}"));
    for (path, authorization) in [
        ("/", format!("Basic {TOKEN}")),
        ("/any/path", format!("basic {TOKEN}")),
        ("/", format!("Basic {base64}")),
    ] {
        let broadcast = &gateway.broadcast;
        let mut subscriber = Subscriber::connect_as(broadcast, path, &authorization).await;
        assert_eq!(subscriber.ask(r#"{"events":["a"]}"#).await, said("init", "OK"));
        fire(&gateway, "a", "1").await;
        assert_eq!(subscriber.hear().await, event("a", "1"));
    }
}

#[tokio::test]
async fn a_wrong_credential_in_the_upgrade_is_refused_before_it_on_any_path() {
    let gateway = Gateway::open();
    let good = format!("Authorization: Basic {TOKEN}\r\n");
    for (header, expected) in [
        ("Authorization: Basic 0123456789abcdef-x\r\n", (403, "UNAUTHENTICATED")),
        ("Authorization: Basic short\r\n", (403, "UNAUTHENTICATED")),
        ("Authorization:\r\n", (403, "UNAUTHENTICATED")),
        (&format!("Authorization: Basic {TOKEN} more\r\n"), (403, "UNAUTHENTICATED")),
        (&format!("Authorization: Bearer {TOKEN}\r\n"), (403, "AUTH_UNRECOGNIZED_SCHEME")),
        (&good.repeat(2), (400, "INVALID_REQUEST")),
    ] {
        for path in ["/", "/any/path"] {
            let request = upgrade_request(path, header);
            let (head, body) = Wire::exchange(&gateway.broadcast, request).await;
            let expected = (expected.0, code(expected.1));
            assert_eq!((status(&head), body), expected, "{path} {header}");
        }
    }
}

#[tokio::test]
async fn the_init_deadline_does_not_apply_with_a_credential_in_the_upgrade() {
    let gateway = House::new().set("INIT_TIMEOUT", "300ms").open();
    let authorization = format!("Basic {TOKEN}");
    let mut subscriber = Subscriber::connect_as(&gateway.broadcast, "/", &authorization).await;
    let_pass(Duration::from_secs(1)).await;
    assert_eq!(subscriber.ask(r#"{"events":["a"]}"#).await, said("init", "OK"));
}

#[tokio::test]
async fn each_faulty_init_has_its_code() {
    let gateway = gateway_with_narrow();
    let long = "x".repeat(256);
    for (message, expected) in [
        ("".to_owned(), "INVALID_SYNTAX"),
        ("rubbish".to_owned(), "INVALID_SYNTAX"),
        ("{".to_owned(), "INVALID_SYNTAX"),
        (init(TOKEN, "[]") + "x", "INVALID_SYNTAX"),
        ("\u{feff}{}".to_owned(), "INVALID_SYNTAX"),
        ("[".repeat(129) + &"]".repeat(129), "INVALID_SYNTAX"),
        ("[]".to_owned(), "INVALID_EVENTS_MISSING"),
        (format!(r#"["Basic {TOKEN}",["a"]]"#), "INVALID_EVENTS_MISSING"),
        ("null".to_owned(), "INVALID_EVENTS_MISSING"),
        (r#""events""#.to_owned(), "INVALID_EVENTS_MISSING"),
        ("{}".to_owned(), "INVALID_EVENTS_MISSING"),
        (init(TOKEN, "null"), "INVALID_EVENTS_MISSING"),
        (init(TOKEN, r#""a""#), "INVALID_EVENTS_MISSING"),
        (init(TOKEN, r#"{"0":"a"}"#), "INVALID_EVENTS_MISSING"),
        (init(TOKEN, r#"["a",7]"#), "INVALID_EVENTS_MISSING"),
        (init(TOKEN, r#"["a",null]"#), "INVALID_EVENTS_MISSING"),
        (r#"{"events":["a"]}"#.to_owned(), "UNAUTHENTICATED"),
        (r#"{"authentication":null,"events":["a"]}"#.to_owned(), "UNAUTHENTICATED"),
        (r#"{"authentication":7,"events":["a"]}"#.to_owned(), "UNAUTHENTICATED"),
        (r#"{"authentication":"","events":["a"]}"#.to_owned(), "UNAUTHENTICATED"),
        (init("0123456789abcdef-unknown", "[]"), "UNAUTHENTICATED"),
        (init(&format!("{TOKEN} more"), "[]"), "UNAUTHENTICATED"),
        (init(TOKEN, "[]").replace("Basic", "Bearer"), "AUTH_UNRECOGNIZED_SCHEME"),
        (init(TOKEN, "[]").replace("Basic ", ""), "AUTH_UNRECOGNIZED_SCHEME"),
        (init(TOKEN, r#"["a","b","c","d"]"#), "TOO_MANY_EVENTS"),
        (init(TOKEN, r#"["a",""]"#), "INVALID_EVENTS"),
        (init(TOKEN, &format!(r#"["{long}"]"#)), "INVALID_EVENTS"),
        (init(TOKEN, r#"["a\u0000"]"#), "INVALID_EVENTS"),
        (init(TOKEN, r#"["\u2028"]"#), "INVALID_EVENTS"),
        (init(NARROW, r#"["order.paid","other"]"#), "FORBIDDEN"),
        (init(NARROW, r#"[">"]"#), "FORBIDDEN"),
        (init(NARROW, r#"["order"]"#), "FORBIDDEN"),
        (init(NARROW, r#"["*.paid"]"#), "FORBIDDEN"),
        (init(NARROW, r#"["order.paid","order.*","order.>"]"#), "OK"),
        (init(TOKEN, "[]"), "OK"),
        (init(TOKEN, r#"["a","a","a","a"]"#), "OK"),
        (init(TOKEN, "[]").replace("Basic", "bASIC"), "OK"),
        (init(&STANDARD.encode(format!("user:{TOKEN}")), "[]"), "OK"),
        (init(TOKEN, "[]").replace('}', r#","unknown":{"a":1}}"#), "OK"),
    ] {
        let mut subscriber = Subscriber::connect(&gateway.broadcast).await;
        assert_eq!(subscriber.ask(&message).await, said("init", expected), "{message}");
    }
}

/// A message with every fault loses them one by one, and each answer names the next.
#[tokio::test]
async fn the_checks_of_an_init_stand_in_order() {
    let gateway = gateway_with_narrow();
    let unknown = "0123456789abcdef-unknown";
    for (message, expected) in [
        (r#"{"authentication":7,"events":[7}"#.to_owned(), "INVALID_SYNTAX"),
        (r#"{"authentication":7,"events":[7]}"#.to_owned(), "INVALID_EVENTS_MISSING"),
        (r#"{"authentication":7,"events":["","b","c","d"]}"#.to_owned(), "UNAUTHENTICATED"),
        (
            init(unknown, r#"["","b","c","d"]"#).replace("Basic", "Bearer"),
            "AUTH_UNRECOGNIZED_SCHEME",
        ),
        (init(unknown, r#"["","b","c","d"]"#), "UNAUTHENTICATED"),
        (init(NARROW, r#"["","b","c","d"]"#), "TOO_MANY_EVENTS"),
        (init(NARROW, r#"["","b"]"#), "INVALID_EVENTS"),
        (init(NARROW, r#"["b"]"#), "FORBIDDEN"),
        (init(NARROW, r#"["order.b"]"#), "OK"),
    ] {
        let mut subscriber = Subscriber::connect(&gateway.broadcast).await;
        assert_eq!(subscriber.ask(&message).await, said("init", expected), "{message}");
    }
}

#[tokio::test]
async fn a_session_has_at_most_1000_patterns() {
    let gateway = Gateway::open();
    let list = |count: usize| {
        let names: Vec<String> = (0..count).map(|number| format!("n.{number}")).collect();
        serde_json::to_string(&names).unwrap()
    };
    let mut subscriber = Subscriber::connect(&gateway.broadcast).await;
    let answer = subscriber.ask(&init(TOKEN, &list(1001))).await;
    assert_eq!(answer, said("init", "TOO_MANY_EVENTS"));
    assert_eq!(subscriber.ask(&init(TOKEN, &list(1000))).await, said("init", "OK"));
    // It counts what the session has, not what the message names.
    let answer = subscriber.ask(r#"{"events":["one.more"]}"#).await;
    assert_eq!(answer, said("init", "TOO_MANY_EVENTS"));
    assert_eq!(subscriber.ask(r#"{"events":["n.0"]}"#).await, said("init", "OK"));
}

#[tokio::test]
async fn binary_that_holds_utf_8_is_read_as_text_and_other_binary_is_no_json() {
    let gateway = Gateway::open();
    let mut subscriber = Subscriber::connect(&gateway.broadcast).await;
    subscriber.socket.send(Message::binary(&b"\xff\xfe"[..])).await.unwrap();
    assert_eq!(subscriber.hear().await, said("init", "INVALID_SYNTAX"));
    subscriber.socket.send(Message::binary(init(TOKEN, r#"["ü"]"#))).await.unwrap();
    assert_eq!(subscriber.hear().await, said("init", "OK"));
    fire(&gateway, "ü", "1").await;
    assert_eq!(subscriber.hear().await, event("ü", "1"));
}

#[tokio::test]
async fn after_a_refusal_the_client_may_try_again() {
    let gateway = gateway_with_narrow();
    let mut subscriber = Subscriber::connect(&gateway.broadcast).await;
    for (message, expected) in [
        ("rubbish".to_owned(), "INVALID_SYNTAX"),
        ("{}".to_owned(), "INVALID_EVENTS_MISSING"),
        (init("0123456789abcdef-unknown", "[]"), "UNAUTHENTICATED"),
        (init(TOKEN, "[]").replace("Basic", "Bearer"), "AUTH_UNRECOGNIZED_SCHEME"),
        (init(TOKEN, r#"[""]"#), "INVALID_EVENTS"),
        (init(TOKEN, r#"["a","b","c","d"]"#), "TOO_MANY_EVENTS"),
        (init(NARROW, r#"["other"]"#), "FORBIDDEN"),
        (init(TOKEN, r#"["a"]"#), "OK"),
    ] {
        assert_eq!(subscriber.ask(&message).await, said("init", expected), "{message}");
    }
}

/// The third is answered, then the connection is closed; they count in `auth` too, and after a
/// success.
#[tokio::test]
async fn three_failed_authentications_end_the_connection() {
    let gateway = Gateway::open();
    let wrong = "0123456789abcdef-unknown";
    let auth = |text: &str| format!(r#"{{"type":"auth","authentication":"{text}"}}"#);
    let init_wrong = (init(wrong, "[]"), said("init", "UNAUTHENTICATED"));
    let bearer = init(TOKEN, "[]").replace("Basic", "Bearer");
    let init_bearer = (bearer, said("init", "AUTH_UNRECOGNIZED_SCHEME"));
    let auth_wrong = (auth(&format!("Basic {wrong}")), said("auth", "UNAUTHENTICATED"));
    let auth_bearer = (auth("Bearer x"), said("auth", "AUTH_UNRECOGNIZED_SCHEME"));
    let missing = (r#"{"events":[]}"#.to_owned(), said("init", "UNAUTHENTICATED"));
    let good = (init(TOKEN, r#"["a"]"#), said("init", "OK"));
    let not_counted = ("{}".to_owned(), said("init", "INVALID_EVENTS_MISSING"));
    for conversation in [
        vec![&init_wrong, &init_wrong, &init_wrong],
        vec![&missing, &init_bearer, &not_counted, &auth_wrong],
        vec![&good, &auth_wrong, &good, &auth_bearer, &init_wrong],
    ] {
        let mut subscriber = Subscriber::connect(&gateway.broadcast).await;
        for (message, expected) in conversation {
            assert_eq!(&subscriber.ask(message).await, expected, "{message}");
        }
        assert_eq!(subscriber.closed().await, (4401, "unauthenticated".to_owned()));
    }
}

/// Neither pings nor refused messages buy time.
#[tokio::test]
async fn without_a_credential_by_the_init_deadline_the_connection_is_closed() {
    let gateway = House::new().set("INIT_TIMEOUT", "300ms").with_tokens(NARROW).open();
    let silent = Subscriber::connect(&gateway.broadcast).await;
    let mut busy = Subscriber::connect(&gateway.broadcast).await;
    busy.say("rubbish").await;
    busy.say(r#"{"events":[]}"#).await;
    busy.socket.send(Message::Ping(Vec::new().into())).await.unwrap();
    for subscriber in [silent, busy] {
        assert_eq!(subscriber.closed().await, (4401, "init timeout".to_owned()));
    }
}

#[tokio::test]
async fn an_accepted_credential_ends_the_init_deadline() {
    let gateway = House::new().set("INIT_TIMEOUT", "2s").open();
    let mut by_init = Subscriber::connect(&gateway.broadcast).await;
    assert_eq!(by_init.ask(&init(TOKEN, "[]")).await, said("init", "OK"));
    let mut by_auth = Subscriber::connect(&gateway.broadcast).await;
    let auth = format!(r#"{{"type":"auth","authentication":"Basic {TOKEN}"}}"#);
    assert_eq!(by_auth.ask(&auth).await, said("auth", "OK"));
    let_pass(Duration::from_secs(3)).await;
    by_init.assert_nothing_came().await;
    by_auth.assert_nothing_came().await;
}

/// The default is 10 s. This one takes longer.
#[tokio::test]
async fn with_the_init_deadline_off_a_client_may_log_in_later() {
    let gateway = House::new().set("INIT_TIMEOUT", "off").open();
    let mut subscriber = Subscriber::connect(&gateway.broadcast).await;
    let_pass(Duration::from_secs(11)).await;
    assert_eq!(subscriber.ask(&init(TOKEN, r#"["a"]"#)).await, said("init", "OK"));
}
