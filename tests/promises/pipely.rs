//! Pipely's channels (WIRE 6): who joins hears what is told, byte for byte and in one order.

use reqwest::{RequestBuilder, Response, Url};
use rustix::process::Signal;
use serde_json::json;

use crate::crashes::Doors;
use crate::event_stream::EventStream;
use crate::gateway::{House, Process};
use crate::wire::{Wire, header_of, status};

/// A channel's id, as Pipely's readme would have it.
pub const CHANNEL: &str = "abcdefghijkl";

/// A house with channels.
pub fn house() -> House {
    House::new().set("CHANNELS_ENABLE", "true")
}

/// `GET /subscribe` with this query.
pub fn subscribe(broadcast: &Process, query: &str) -> RequestBuilder {
    reqwest::Client::new().get(format!("{}/subscribe?{query}", broadcast.url()))
}

/// `POST /publish` with this body, and no password.
pub fn publish(broadcast: &Process, body: impl Into<reqwest::Body>) -> RequestBuilder {
    reqwest::Client::new().post(format!("{}/publish", broadcast.url())).body(body)
}

/// The query of a client.
pub fn query(client: &str, password: &str) -> String {
    let pairs = [("channelId", CHANNEL), ("clientId", client), ("password", password)];
    Url::parse_with_params("http://x/", pairs).unwrap().query().unwrap().to_owned()
}

/// What is published.
pub fn message(kind: &str, origin: &str, payload: &str) -> String {
    format!(
        r#"{{"channel_id":"{CHANNEL}","type":"{kind}","origin_id":"{origin}","payload":{payload}}}"#
    )
}

/// The status and the text of an answer, which every page may read.
pub async fn said(response: Response) -> (u16, String) {
    let headers = response.headers().clone();
    assert_eq!(headers["access-control-allow-origin"], "*", "{headers:?}");
    let status = response.status().as_u16();
    let text = response.text().await.unwrap();
    let kind = (!text.is_empty()).then_some("text/plain; charset=utf-8");
    let told = headers.get("content-type").map(|it| it.to_str().unwrap());
    assert_eq!(told, kind, "{status} {text:?}");
    (status, text)
}

/// A client of the channel, which it makes with this password if it is not there.
pub async fn join(broadcast: &Process, client: &str, password: &str) -> EventStream {
    EventStream::of(subscribe(broadcast, &query(client, password))).await
}

/// Tells something to the channel, which must be taken.
pub async fn tell(broadcast: &Process, password: &str, body: String) {
    let request = publish(broadcast, body).header("authorization", format!("Password {password}"));
    assert_eq!(said(request.send().await.unwrap()).await, (200, String::new()));
}

/// Hears exactly these.
pub async fn hears(stream: &mut EventStream, due: &[String]) {
    for due in due {
        let block = stream.event().await;
        assert_eq!((block.id, block.event, block.retry), (None, None, None));
        assert_eq!(block.data.join("\n"), *due);
    }
}

/// A client has come.
pub fn connect(client: &str) -> String {
    message("CONNECT", client, "null")
}

/// A client has gone.
pub fn disconnect(client: &str) -> String {
    message("DISCONNECT", client, "null")
}

/// Who is there.
pub fn list(clients: &[&str]) -> String {
    message("CLIENT_LIST", "server", &json!(clients).to_string())
}

#[tokio::test]
async fn channels_are_off_unless_they_are_enabled() {
    let house = House::new();
    for (name, value) in [("", ""), ("CHANNELS_ENABLE", "false"), ("CHANNELS_ENABLE", "true")] {
        let mut settings = house.settings.clone();
        if !name.is_empty() {
            settings.insert(name.to_owned(), value.to_owned());
        }
        let broadcast = Process::start("broadcast", &settings);
        let asked = subscribe(&broadcast, &query("alice", "")).send().await.unwrap();
        let told = publish(&broadcast, message("t", "xyz", "1")).send().await.unwrap();
        let statuses = [asked.status(), told.status()].map(|it| it.as_u16());
        // Every path that nobody else has is the WebSocket's.
        let due = if value == "true" { [200, 200] } else { [426, 426] };
        assert_eq!(statuses, due, "{name}={value}");
        if value != "true" {
            assert_eq!(asked.headers().get("access-control-allow-origin"), None);
            assert_eq!(told.text().await.unwrap(), r#"{"code":"UPGRADE_REQUIRED"}"#);
        }
    }
}

#[tokio::test]
async fn the_first_bytes_of_a_stream_are_the_list_and_the_newcomer() {
    let house = house();
    let broadcast = house.broadcast();
    for path in ["/subscribe", "/Subscribe/"] {
        let mut wire = Wire::connect(&broadcast).await;
        let target = format!("{path}?clientId=alice&channelId={CHANNEL}&unknown=x");
        wire.send(format!("GET {target} HTTP/1.1\r\nHost: test\r\n\r\n")).await;
        let head = wire.read_head().await;
        assert_eq!(status(&head), 200, "{head}");
        for (name, value) in [
            ("content-type", "text/event-stream"),
            ("cache-control", "no-cache, no-transform"),
            ("x-accel-buffering", "no"),
            ("access-control-allow-origin", "*"),
        ] {
            assert_eq!(header_of(&head, name), Some(value), "{head}");
        }
        let due = format!(
            "data: {{\"channel_id\":\"{CHANNEL}\",\"type\":\"CLIENT_LIST\",\
             \"origin_id\":\"server\",\"payload\":[\"alice\"]}}\n\n\
             data: {{\"channel_id\":\"{CHANNEL}\",\"type\":\"CONNECT\",\
             \"origin_id\":\"alice\",\"payload\":null}}\n\n"
        );
        let chunk = format!("{:X}\r\n{due}", due.len());
        let bytes = wire.read_exact(chunk.len()).await;
        assert_eq!(String::from_utf8(bytes).unwrap(), chunk);
        drop(wire);
        broadcast.wait_for_metric("fanfare_channels", 0.0).await;
    }
}

#[tokio::test]
async fn who_comes_and_who_goes_is_told_to_all() {
    let house = house();
    let broadcast = house.broadcast();
    let mut alice = join(&broadcast, "alice", "").await;
    hears(&mut alice, &[list(&["alice"]), connect("alice")]).await;
    let mut bob = join(&broadcast, "Bob", "").await;
    hears(&mut bob, &[list(&["alice", "Bob"]), connect("Bob")]).await;
    hears(&mut alice, &[connect("Bob")]).await;
    let mut carol = join(&broadcast, "carol", "").await;
    hears(&mut carol, &[list(&["alice", "Bob", "carol"]), connect("carol")]).await;
    hears(&mut alice, &[connect("carol")]).await;
    drop(bob);
    hears(&mut alice, &[disconnect("Bob")]).await;
    hears(&mut carol, &[disconnect("Bob")]).await;
}

#[tokio::test]
async fn a_payload_is_delivered_byte_for_byte() {
    let house = house();
    let broadcast = house.broadcast();
    let mut alice = join(&broadcast, "alice", "").await;
    hears(&mut alice, &[list(&["alice"]), connect("alice")]).await;
    let nested = format!("{}1{}", "[".repeat(127), "]".repeat(127));
    for payload in [
        r#"{"test":"Hello World!"}"#,
        "1.0",
        "-0.0",
        "1E+400",
        "12345678901234567890",
        "123456789012345678901234567890.12345678901234567890",
        r#"{"b":1,"a":2,"b":3}"#,
        r#"{ "a" : [ 1,2 ,3 ] }"#,
        r#""<script>&\u003c\u2028\/""#,
        "\"\u{2028}ü\u{1f600}\"",
        r#""\ud800""#,
        r#""id: 1\n\ndata: x""#,
        "true",
        "null",
        "[]",
        &nested,
    ] {
        tell(&broadcast, "", message("t", "xyz", payload)).await;
        hears(&mut alice, &[message("t", "xyz", payload)]).await;
    }
    // Lines of the text are lines of the event; whatever ends them, LF joins them.
    for end in ["\n", "\r\n", "\r"] {
        let payload = format!("{{{end}\t\"a\": 1,{end}{end}\"b\":2}}");
        tell(&broadcast, "", message("t", "xyz", &payload)).await;
        hears(&mut alice, &[message("t", "xyz", "{\n\t\"a\": 1,\n\n\"b\":2}")]).await;
    }
    // Absent, in any order, beside what nobody knows.
    let body = format!(r#" {{"type":"t","x":[1],"origin_id":"xyz","channel_id":"{CHANNEL}"}} "#);
    tell(&broadcast, "", body).await;
    hears(&mut alice, &[message("t", "xyz", "null")]).await;
}

#[tokio::test]
async fn anybody_with_the_password_may_say_anything_and_hears_itself() {
    let house = house();
    let broadcast = house.broadcast();
    let mut alice = join(&broadcast, "alice", "secret").await;
    hears(&mut alice, &[list(&["alice"]), connect("alice")]).await;
    for (kind, origin) in [
        ("t", "alice"),
        ("t", "ALICE"),
        ("t", "nobody"),
        ("CONNECT", "nobody"),
        ("CLIENT_LIST", "server"),
        ("ü", "öö"),
        ("\u{2028}", "\u{2028}"),
    ] {
        tell(&broadcast, "secret", message(kind, origin, "[7]")).await;
        hears(&mut alice, &[message(kind, origin, "[7]")]).await;
    }
    // Names that need escapes get them.
    tell(&broadcast, "secret", message(r#"\"\n\u0041"#, r"\\\t\u00e4", "1")).await;
    hears(&mut alice, &[message(r#"\"\nA"#, r"\\\tä", "1")]).await;
}

/// Clients are on both workers: each new connection goes to the next.
#[tokio::test]
async fn all_clients_hear_one_order() {
    const PUBLISHERS: usize = 4;
    const EACH: usize = 50;
    let house = house();
    let broadcast = house.broadcast();
    let mut members = Vec::new();
    for number in 0..8 {
        members.push(join(&broadcast, &format!("member-{number}"), "").await);
    }
    let publishers = (0..PUBLISHERS).map(async |publisher| {
        for number in 0..EACH {
            tell(&broadcast, "", message("t", "xyz", &format!("[{publisher},{number}]"))).await;
        }
    });
    futures_util::future::join_all(publishers).await;
    let mut orders = Vec::new();
    for member in &mut members {
        let mut order = Vec::new();
        while order.len() < PUBLISHERS * EACH {
            let event = member.event().await.json();
            if event["type"] == "t" {
                order.push(event["payload"].to_string());
            }
        }
        orders.push(order);
    }
    for order in &orders {
        assert_eq!(*order, orders[0]);
    }
    for publisher in 0..PUBLISHERS {
        let own: Vec<_> =
            orders[0].iter().filter(|it| it.starts_with(&format!("[{publisher},"))).collect();
        let due: Vec<_> = (0..EACH).map(|number| format!("[{publisher},{number}]")).collect();
        assert_eq!(own, due.iter().collect::<Vec<_>>());
    }
}

#[tokio::test]
async fn a_channel_that_is_left_by_all_is_made_anew() {
    let house = house();
    let broadcast = house.broadcast();
    for password in ["one", "two words", "", "dreißig"] {
        let mut alice = join(&broadcast, "alice", password).await;
        let bob = join(&broadcast, "bob", password).await;
        drop(bob);
        let due = [list(&["alice"]), connect("alice"), connect("bob"), disconnect("bob")];
        hears(&mut alice, &due).await;
        tell(&broadcast, password, message("t", "xyz", "1")).await;
        hears(&mut alice, &[message("t", "xyz", "1")]).await;
        drop(alice);
        broadcast.wait_for_metric("fanfare_channels", 0.0).await;
        let gone = publish(&broadcast, message("t", "xyz", "1")).send().await.unwrap();
        let due = (404, "channel with given id does not exist\n".to_owned());
        assert_eq!(said(gone).await, due);
    }
}

#[tokio::test]
async fn a_stop_ends_every_stream_when_all_that_was_told_is_there() {
    let doors = Doors::choose();
    let house = doors.house().set("CHANNELS_ENABLE", "true");
    let mut broadcast = house.broadcast();
    for signal in [Signal::TERM, Signal::KILL] {
        let mut alice = join(&broadcast, "alice", "secret").await;
        hears(&mut alice, &[list(&["alice"]), connect("alice")]).await;
        for number in 0..50 {
            tell(&broadcast, "secret", message("t", "xyz", &number.to_string())).await;
        }
        let stopped = broadcast.restart(signal, &house.settings);
        let heard = async {
            if signal == Signal::TERM {
                for number in 0..50 {
                    hears(&mut alice, &[message("t", "xyz", &number.to_string())]).await;
                }
            }
            alice.ended().await;
        };
        (broadcast, ()) = tokio::join!(stopped, heard);
        // Nothing of it is kept, the password neither.
        assert_eq!(broadcast.metric("fanfare_channels").await, 0.0);
        let mut alice = join(&broadcast, "alice", "other").await;
        hears(&mut alice, &[list(&["alice"]), connect("alice")]).await;
        drop(alice);
        broadcast.wait_for_metric("fanfare_channels", 0.0).await;
    }
}
