//! What is refused on Pipely's routes (WIRE 6): every fault with its status and its text, one before
//! the other.

use std::io::Write as _;
use std::time::{Duration, Instant};

use flate2::Compression;
use flate2::write::{GzEncoder, ZlibEncoder};
use reqwest::Method;
use reqwest::header::HeaderValue;

use crate::client::{answer, code};
use crate::event_stream::EventStream;
use crate::gateway::{House, Process};
use crate::pipely::{
    CHANNEL, connect, hears, house, join, list, message, publish, query, said, subscribe,
};
use crate::wire::{Wire, status, upgrade_request};

const SECRET: &str = "secret";

/// A text as it is told.
fn line(status: u16, text: &str) -> (u16, String) {
    (status, format!("{text}\n"))
}

async fn subscribed(broadcast: &Process, query: &str) -> (u16, String) {
    said(subscribe(broadcast, query).send().await.unwrap()).await
}

/// What is answered to a body; the password is right, or none.
async fn published(broadcast: &Process, body: &str) -> (u16, String) {
    let request = publish(broadcast, body.to_owned());
    said(request.header("authorization", "Password secret").send().await.unwrap()).await
}

/// A broadcast with one channel of one client, alice, who has heard herself.
async fn open() -> (House, Process, EventStream) {
    let house = house().set("MAX_BODY", "4KiB");
    let broadcast = house.broadcast();
    let mut alice = join(&broadcast, "alice", SECRET).await;
    hears(&mut alice, &[list(&["alice"]), connect("alice")]).await;
    (house, broadcast, alice)
}

#[tokio::test]
async fn each_pair_of_faults_of_a_subscriber_is_told_by_the_first() {
    let (_house, broadcast, _alice) = open().await;
    let faults = [
        (("channelId", "short"), line(400, "channel id must be twelve characters long")),
        (("clientId", "bo"), line(400, "client id must not be shorter than three characters")),
        (("password", "wrong"), line(401, "invalid channel password")),
        (("clientId", "aLICE"), line(400, "client id already used in channel")),
    ];
    for (first, ((name, value), due)) in faults.iter().enumerate() {
        for ((other, second), _) in &faults[first..] {
            let mut pairs = vec![("channelId", CHANNEL), ("clientId", "bob"), ("password", SECRET)];
            // Where both are of one parameter, the first of them stands.
            for (name, value) in [(other, second), (name, value)] {
                pairs.retain(|(it, _)| it != name);
                pairs.push((name, value));
            }
            let query: Vec<_> =
                pairs.iter().map(|(name, value)| format!("{name}={value}")).collect();
            assert_eq!(subscribed(&broadcast, &query.join("&")).await, *due, "{query:?}");
        }
    }
}

#[tokio::test]
async fn each_pair_of_faults_of_a_publisher_is_told_by_the_first() {
    let (_house, broadcast, _alice) = open().await;
    let due = [
        line(400, "request body is not a valid JSON event"),
        line(400, "channel id must be twelve characters long"),
        line(400, "invalid event type, must not be shorter than one character"),
        line(400, "origin id must not be shorter than three characters"),
        line(404, "channel with given id does not exist"),
        line(401, "invalid channel password"),
    ];
    for first in 0..due.len() {
        for second in first..due.len() {
            let has = |fault: usize| fault == first || fault == second;
            let channel = match (has(1), has(4)) {
                (true, _) => "short",
                (_, true) => "nobodyisher.",
                _ => CHANNEL,
            };
            let (kind, origin) = (if has(2) { "" } else { "t" }, if has(3) { "xy" } else { "xyz" });
            let mut body = message(kind, origin, "1").replace(CHANNEL, channel);
            if has(0) {
                body.pop();
            }
            let password = if has(5) { "wrong" } else { SECRET };
            let request = publish(&broadcast, body);
            let request = request.header("authorization", format!("Password {password}"));
            let answer = said(request.send().await.unwrap()).await;
            assert_eq!(answer, due[first], "{first} {second}");
        }
    }
}

#[tokio::test]
async fn what_is_asked_for_is_read_as_queries_are() {
    let (_house, broadcast, _alice) = open().await;
    let short = line(400, "channel id must be twelve characters long");
    let nameless = line(400, "client id must not be shorter than three characters");
    let wrong = line(401, "invalid channel password");
    let taken = line(400, "client id already used in channel");
    let long = "x".repeat(256);
    let umlauts = "%C3%A4".repeat(6);
    for (query, due) in [
        (String::new(), &short),
        (format!("channelid={CHANNEL}&clientId=bob"), &short),
        ("channelId=abcdefghijklm&clientId=bob".to_owned(), &short),
        ("channelId=%C3%A4%C3%A4%C3%A4%C3%A4%C3%A4&clientId=bob".to_owned(), &short),
        // Twelve bytes that are six letters.
        (format!("channelId={umlauts}&clientId=bo"), &nameless),
        (format!("channelId={CHANNEL}"), &nameless),
        // The first of several counts, also where it is empty.
        (format!("channelId={CHANNEL}&clientId=&clientId=bob&password=secret"), &nameless),
        (format!("channelId=&channelId={CHANNEL}&clientId=bob"), &short),
        (format!("channelId={CHANNEL}&clientId=bob&password=&password=secret"), &wrong),
        (format!("channelId={CHANNEL}&clientId=bob&password=Secret"), &wrong),
        (format!("channelId={CHANNEL}&clientId=bob&password=secret+"), &wrong),
        (format!("channelId={CHANNEL}&clientId=bob"), &wrong),
        (format!("channelId={CHANNEL}&clientId=%41lice&password=%73ecret"), &taken),
        (
            format!("channelId={CHANNEL}&clientId={long}"),
            &line(400, "client id must not be longer than 255 characters"),
        ),
        (
            format!("channelId={CHANNEL}&clientId=bob&password={long}"),
            &line(400, "channel password must not be longer than 255 characters"),
        ),
    ] {
        assert_eq!(subscribed(&broadcast, &query).await, *due, "{query}");
    }
}

#[tokio::test]
async fn a_client_id_is_taken_whatever_its_case() {
    let (_house, broadcast, _alice) = open().await;
    for (one, other) in [("bob", "BOB"), ("jürgen", "JÜRGEN"), ("οδος", "ΟΔΟΣ"), ("яков", "ЯКОВ")]
    {
        let _one = join(&broadcast, one, SECRET).await;
        let taken = subscribed(&broadcast, &query(other, SECRET)).await;
        assert_eq!(taken, line(400, "client id already used in channel"), "{one} {other}");
    }
}

#[tokio::test]
async fn a_body_that_is_no_event_is_refused() {
    let (_house, broadcast, mut alice) = open().await;
    let deep = message("t", "xyz", &format!("{}{}", "[".repeat(128), "]".repeat(128)));
    for body in [
        "",
        " ",
        "{",
        "null",
        "7",
        "\"text\"",
        "[]",
        &format!(r#"["{CHANNEL}","t","xyz",1]"#),
        &format!("[{}]", message("t", "xyz", "1")),
        &format!("{}x", message("t", "xyz", "1")),
        &message("t", "xyz", "1").repeat(2),
        &message("t", "xyz", ""),
        &message("t", "xyz", "01"),
        &message("t", "xyz", "NaN"),
        &message("t", "xyz", "1,\"payload\":2"),
        &message("t", "xyz", "1,\"type\":\"t\""),
        &message("t\n", "xyz", "1"),
        &message(r"\ud800", "xyz", "1"),
        &message("t", "xyz", "1").replace("\"t\"", "7"),
        &message("t", "xyz", "1").replace("\"xyz\"", "[\"xyz\"]"),
        &format!("\u{feff}{}", message("t", "xyz", "1")),
        &deep,
    ] {
        let due = line(400, "request body is not a valid JSON event");
        assert_eq!(published(&broadcast, body).await, due, "{body}");
    }
    let not_text = [message("t", "xyz", "1").as_bytes(), b"\xff"].concat();
    let request = publish(&broadcast, not_text).send().await.unwrap();
    assert_eq!(said(request).await.0, 400);
    for (body, due) in [
        ("{}", "channel id must be twelve characters long"),
        (
            &format!(r#"{{"channel_id":"{CHANNEL}"}}"#),
            "invalid event type, must not be shorter than one character",
        ),
        (
            &format!(r#"{{"channel_id":"{CHANNEL}","type":"t"}}"#),
            "origin id must not be shorter than three characters",
        ),
    ] {
        assert_eq!(published(&broadcast, body).await, line(400, due), "{body}");
    }
    assert_eq!(published(&broadcast, &message("t", "xyz", "1")).await, (200, String::new()));
    hears(&mut alice, &[message("t", "xyz", "1")]).await;
}

#[tokio::test]
async fn a_publishers_password_follows_its_scheme() {
    let house = house();
    let broadcast = house.broadcast();
    let wrong = line(401, "invalid channel password");
    for (password, shown, is_right) in [
        ("secret", "Password secret", true),
        ("secret", "password secret", true),
        ("secret", "PASSWORD secret", true),
        ("secret", "Password  secret", false),
        ("secret", "Password secret more", false),
        ("secret", "Password Secret", false),
        ("secret", "Password", false),
        ("secret", "Basic secret", false),
        ("secret", "secret", false),
        ("secret", "", false),
        ("two words", "Password two words", true),
        ("two words", "Password two", false),
        ("ümläut", "Password ümläut", true),
        ("", "Password anything", true),
        ("", "Basic anything", true),
        ("", "", true),
    ] {
        let alice = join(&broadcast, "alice", password).await;
        let request = publish(&broadcast, message("t", "xyz", "1"));
        let request = match shown {
            "" => request,
            // As UTF-8, as it is.
            _ => {
                request.header("authorization", HeaderValue::from_bytes(shown.as_bytes()).unwrap())
            }
        };
        let due = if is_right { (200, String::new()) } else { wrong.clone() };
        let response = request.send().await.unwrap();
        let scheme = response.headers().get("www-authenticate").map(|it| it.to_str().unwrap());
        assert_eq!(scheme, (!is_right).then_some("Password"), "{password:?} {shown:?}");
        assert_eq!(said(response).await, due, "{password:?} {shown:?}");
        drop(alice);
        broadcast.wait_for_metric("fanfare_channels", 0.0).await;
    }
    let request = publish(&broadcast, message("t", "xyz", "1"));
    let request = request.header("authorization", "Password a").header("authorization", "Basic b");
    let due = line(400, "two Authorization headers");
    assert_eq!(said(request.send().await.unwrap()).await, due);
}

#[tokio::test]
async fn other_methods_are_told_which_there_are_and_a_preflight_is_204_for_everybody() {
    let house = house();
    let broadcast = house.broadcast();
    for (path, own, allow) in
        [("subscribe", "GET", "GET, OPTIONS"), ("publish", "POST", "POST, OPTIONS")]
    {
        let url = format!("{}/{path}", broadcast.url());
        for method in ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "TRACE", "BREW"] {
            let method = Method::from_bytes(method.as_bytes()).unwrap();
            if method == own {
                continue;
            }
            let response =
                reqwest::Client::new().request(method.clone(), &url).send().await.unwrap();
            assert_eq!(response.headers()["allow"], allow);
            assert_eq!(response.headers()["access-control-allow-origin"], "*");
            assert_eq!(response.status(), 405);
            if method != "HEAD" {
                assert_eq!(response.text().await.unwrap(), "method not allowed\n");
            }
        }
        for origin in [None, Some("https://any.example"), Some("null")] {
            let mut request = reqwest::Client::new().request(Method::OPTIONS, &url);
            if let Some(origin) = origin {
                request = request.header("origin", origin);
            }
            let response = request.send().await.unwrap();
            assert_eq!(response.headers()["access-control-allow-methods"], "GET, POST, OPTIONS");
            let allowed = &response.headers()["access-control-allow-headers"];
            assert_eq!(allowed, "Authorization, Content-Type, Cache-Control");
            assert_eq!(said(response).await, (204, String::new()));
        }
    }
}

#[tokio::test]
async fn with_a_list_of_origins_only_their_pages_and_programs_have_channels() {
    let house = house().set("ALLOWED_ORIGINS", "https://good.example");
    let broadcast = house.broadcast();
    for (origin, is_allowed) in
        [(None, true), (Some("https://good.example"), true), (Some("https://bad.example"), false)]
    {
        let with = |request: reqwest::RequestBuilder| match origin {
            Some(origin) => request.header("origin", origin),
            None => request,
        };
        let alice = with(subscribe(&broadcast, &query("alice", ""))).send().await.unwrap();
        let told = with(publish(&broadcast, message("t", "xyz", "1"))).send().await.unwrap();
        let url = format!("{}/publish", broadcast.url());
        let asked =
            with(reqwest::Client::new().request(Method::OPTIONS, url)).send().await.unwrap();
        let due = if is_allowed { [200, 200, 204] } else { [403; 3] };
        assert_eq!([&alice, &told, &asked].map(|it| it.status().as_u16()), due, "{origin:?}");
        for response in [&alice, &told, &asked] {
            assert_eq!(response.headers()["access-control-allow-origin"], "*", "{origin:?}");
        }
        match is_allowed {
            true => drop(alice),
            false => assert_eq!(answer(alice).await, (403, code("FORBIDDEN"))),
        }
        broadcast.wait_for_metric("fanfare_channels", 0.0).await;
    }
}

#[tokio::test]
async fn bodies_are_unpacked_and_bounded() {
    let (_house, broadcast, mut alice) = open().await;
    let plain = message("t", "xyz", "1");
    let mut gzip = GzEncoder::new(Vec::new(), Compression::best());
    gzip.write_all(plain.as_bytes()).unwrap();
    let mut zlib = ZlibEncoder::new(Vec::new(), Compression::best());
    zlib.write_all(plain.as_bytes()).unwrap();
    let mut bomb = GzEncoder::new(Vec::new(), Compression::best());
    bomb.write_all(message("t", "xyz", &format!("\"{}\"", "x".repeat(8192))).as_bytes()).unwrap();
    let (gzip, zlib) = (gzip.finish().unwrap(), zlib.finish().unwrap());
    let room = 4096 - message("t", "xyz", "\"\"").len();
    let padded = |bytes: usize| message("t", "xyz", &format!("\"{}\"", "x".repeat(bytes)));
    let ok = (200, String::new());
    for (encoding, body, due) in [
        ("identity", plain.clone().into_bytes(), &ok),
        ("gzip", gzip.clone(), &ok),
        ("GZip", gzip.clone(), &ok),
        ("deflate", zlib, &ok),
        ("identity", padded(room).into_bytes(), &ok),
        ("identity", padded(room + 1).into_bytes(), &line(413, "the body is too large")),
        ("gzip", bomb.finish().unwrap(), &line(413, "the body is too large")),
        ("gzip", plain.clone().into_bytes(), &line(400, "the body cannot be unpacked")),
        ("br", gzip.clone(), &line(415, "the content encoding is not supported")),
        ("gzip, gzip", gzip, &line(415, "the content encoding is not supported")),
    ] {
        let request = publish(&broadcast, body).header("content-encoding", encoding);
        let request = request.header("authorization", "Password secret");
        assert_eq!(said(request.send().await.unwrap()).await, *due, "{encoding}");
        if *due == ok {
            assert_eq!(alice.event().await.json()["type"], "t");
        }
    }
}

#[tokio::test]
async fn an_upgrade_is_no_way_into_a_channel() {
    let house = house();
    let broadcast = house.broadcast();
    let path = format!("/subscribe?{}", query("alice", ""));
    let (head, body) = Wire::exchange(&broadcast, upgrade_request(&path, "")).await;
    assert_eq!((status(&head), body), (400, code("INVALID_REQUEST")));
    assert_eq!(broadcast.metric("fanfare_channels").await, 0.0);
    // One that may be ignored is.
    let alice = subscribe(&broadcast, &query("alice", "")).header("upgrade", "h2c");
    let alice = alice.header("connection", "upgrade").send().await.unwrap();
    assert_eq!(alice.status(), 200);
    let told = publish(&broadcast, message("t", "xyz", "1")).header("upgrade", "h2c");
    let told = told.header("connection", "upgrade").send().await.unwrap();
    assert_eq!(said(told).await, (200, String::new()));
}

/// HARDENING: 20 failures of an address in a minute are answered at once.
#[tokio::test]
async fn wrong_passwords_are_failures_of_their_address() {
    let (_house, broadcast, _alice) = open().await;
    let wrong = line(401, "invalid channel password");
    let request = async || {
        let request = publish(&broadcast, message("t", "xyz", "1"));
        said(request.send().await.unwrap()).await
    };
    for _ in 0..10 {
        assert_eq!(subscribed(&broadcast, &query("bob", "wrong")).await, wrong);
        assert_eq!(request().await, wrong);
    }
    let begun = Instant::now();
    assert_eq!(request().await, wrong);
    assert!(begun.elapsed() >= Duration::from_secs(1), "{:?}", begun.elapsed());
    let begun = Instant::now();
    assert_eq!(subscribed(&broadcast, &query("bob", "wrong")).await, wrong);
    assert!(begun.elapsed() >= Duration::from_secs(1), "{:?}", begun.elapsed());
    assert_eq!(broadcast.metric("fanfare_requests_refused_total").await, 22.0);
    // Who waits for an answer, and whoever is right, is in nobody's way.
    assert_eq!(published(&broadcast, &message("t", "xyz", "1")).await, (200, String::new()));
}
