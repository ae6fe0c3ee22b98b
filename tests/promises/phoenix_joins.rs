//! Phoenix channels (WIRE 4): what a join brings, where it goes on, who may come, and what they get.

use std::fs;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::net::TcpSocket;

use crate::channels::{ALL, assert_quiet, hear, join, join_ok, open, open_as, rest, shake_hands};
use crate::client::{Subscriber, fire, let_pass, post, wait_for_answer};
use crate::crashes::Doors;
use crate::event_stream::ticket;
use crate::gateway::{Gateway, House, TOKEN};
use crate::measures::until;
use crate::replay::{cursor_of, fire_numbers, fire_padded, numbers};
use crate::wire::{Wire, frame, upgrade_request};

const READER: &str = "0123456789abcdef-reader";
/// `READER` in base64 as browsers write it.
const READER_BASE64: &str = "MDEyMzQ1Njc4OWFiY2RlZi1yZWFkZXI";

fn messages(response: &Value) -> Vec<Value> {
    response["messages"].as_array().unwrap().clone()
}

#[tokio::test]
async fn a_join_brings_the_last_hundred_oldest_first_and_then_what_is_live() {
    let gateway = Gateway::open();
    fire_numbers(&gateway, "a", 0..130).await;
    let mut client = open(&gateway.broadcast).await;
    let response = join_ok(&mut client, ALL, json!({})).await;
    let messages = messages(&response);
    assert_eq!(numbers(&messages), Vec::from_iter(30..130));
    assert_eq!(response["cursor"], cursor_of(&messages[99]));
    assert_eq!(response.as_object().unwrap().len(), 2, "{response}");
    fire_numbers(&gateway, "a", 130..133).await;
    assert_eq!(numbers(&rest(&gateway, &mut client).await), [130, 131, 132]);
}

#[tokio::test]
async fn a_join_with_a_cursor_goes_on_behind_it_however_much_that_is() {
    let gateway = Gateway::open();
    fire_numbers(&gateway, "a", 0..10).await;
    let mut client = open(&gateway.broadcast).await;
    let first = messages(&join_ok(&mut client, ALL, json!({})).await);
    fire_numbers(&gateway, "a", 10..350).await;
    // Where it was, at its last event, at none, and at what is the newest.
    for (cursor, from) in
        [(cursor_of(&first[3]), 4), (cursor_of(&first[9]), 10), ("first".to_owned(), 0)]
    {
        let mut client = open(&gateway.broadcast).await;
        let response = join_ok(&mut client, ALL, json!({"cursor": cursor})).await;
        assert_eq!(response["recovered"], true);
        let mut heard = messages(&response);
        assert_eq!(heard.len(), 100);
        assert_eq!(response["cursor"], cursor_of(&heard[99]));
        for _ in 0..350 - from - 100 {
            heard.push(hear(&mut client).await.2);
        }
        assert_eq!(numbers(&heard), Vec::from_iter(from..350));
        assert_quiet(&mut client).await;
        let cursor = cursor_of(heard.last().unwrap());
        let mut client = open(&gateway.broadcast).await;
        let response = join_ok(&mut client, ALL, json!({"cursor": cursor})).await;
        let nothing = json!({"messages": [], "cursor": cursor, "recovered": true});
        assert_eq!(response, nothing);
    }
}

#[tokio::test]
async fn events_that_come_while_a_join_catches_up_come_once_and_in_their_order() {
    let gateway = Gateway::open();
    fire_padded(&gateway, "a", 0..300, 2_000).await;
    let mut client = open(&gateway.broadcast).await;
    let publishing = fire_padded(&gateway, "a", 300..500, 2_000);
    let hearing = async {
        let response = join_ok(&mut client, ALL, json!({"cursor": "first"})).await;
        let mut heard = messages(&response);
        while heard.len() < 500 {
            heard.push(hear(&mut client).await.2);
        }
        heard
    };
    let ((), heard) = tokio::join!(publishing, hearing);
    assert_eq!(numbers(&heard), Vec::from_iter(0..500));
    assert!(rest(&gateway, &mut client).await.is_empty());
}

#[tokio::test]
async fn a_cursor_that_says_nothing_here_is_told_so_and_a_malformed_one_is_refused() {
    let gateway = Gateway::open();
    fire_numbers(&gateway, "a", 0..3).await;
    let mut client = open(&gateway.broadcast).await;
    let kept = messages(&join_ok(&mut client, ALL, json!({})).await);
    let (epoch, _) = kept[0]["cursor"].as_str().unwrap().rsplit_once('-').unwrap();
    let earliest = format!("{epoch}-0");
    for cursor in ["zzzzzz-3".to_owned(), format!("{epoch}-999")] {
        let response = join_ok(&mut client, ALL, json!({"cursor": cursor})).await;
        client.hear().await;
        assert_eq!(response["recovered"], false, "{response}");
        assert_eq!(response["earliest"], earliest, "{response}");
        assert_eq!(response["messages"], json!([]), "{response}");
    }
    for cursor in [json!("nowhere"), json!(""), json!(3), json!(["a"]), json!({})] {
        let (status, response) = join(&mut client, ALL, json!({"cursor": cursor})).await;
        assert_eq!((status.as_str(), &response), ("error", &json!({"reason": "invalid cursor"})));
        // The first of these has ended what was joined.
        if cursor == "nowhere" {
            client.hear().await;
        }
    }
    assert_quiet(&mut client).await;
}

#[tokio::test]
async fn a_topic_is_one_source_and_each_has_its_own_events_in_their_order() {
    let gateway = Gateway::open();
    let sources = ["/outlets/1", "/outlets/1/orders", "/outlets/*", "urn:x"];
    let publish = async |source: &str, number: u64| {
        let body = json!({"event": "a", "source": source, "data": number}).to_string();
        assert_eq!(post(&gateway, body).send().await.unwrap().status(), 200);
    };
    for (source, number) in sources.iter().zip(0..) {
        publish(source, number).await;
    }
    let mut client = open(&gateway.broadcast).await;
    for (source, number) in sources.iter().zip(0..) {
        let topic = format!("source:{source}");
        let response = join_ok(&mut client, &topic, json!({})).await;
        assert_eq!(numbers(&messages(&response)), [number]);
    }
    // Whoever has left one hears the others.
    let left = format!("source:{}", sources[3]);
    client.ask(&json!(["j", "l", left, "phx_leave", {}]).to_string()).await;
    client.hear().await;
    for number in 0..40 {
        publish(sources[number % 4], number as u64).await;
    }
    for number in (0..40).filter(|number| number % 4 != 3) {
        let (topic, name, event) = hear(&mut client).await;
        assert_eq!(topic, format!("source:{}", sources[number % 4]));
        assert_eq!((name.as_str(), &event["data"]), ("a", &json!(number)));
    }
    assert_quiet(&mut client).await;
}

#[tokio::test]
async fn types_that_a_client_would_take_for_control_are_not_delivered_here() {
    let gateway = Gateway::open();
    let mut client = open(&gateway.broadcast).await;
    join_ok(&mut client, ALL, json!({})).await;
    for event_type in ["phx_close", "phx_error", "phx_reply", "phx_", "phx", "Phx_a", "a.phx_b"] {
        fire(&gateway, event_type, "1").await;
    }
    let names = |events: &[Value]| {
        let names = events.iter().map(|event| event["type"].as_str().unwrap().to_owned());
        names.filter(|name| name != "fence").collect::<Vec<_>>()
    };
    let due = ["phx", "Phx_a", "a.phx_b"];
    assert_eq!(names(&rest(&gateway, &mut client).await), due);
    for payload in [json!({}), json!({"cursor": "first"})] {
        let mut client = open(&gateway.broadcast).await;
        assert_eq!(names(&messages(&join_ok(&mut client, ALL, payload).await)), due);
    }
    let mut native = Subscriber::subscribe(&gateway.broadcast, &["phx_close"]).await;
    fire(&gateway, "phx_close", "2").await;
    assert!(native.hear().await.contains("phx_close"));
}

#[tokio::test]
async fn versions_are_those_of_the_two_serializers_and_all_else_is_refused() {
    let gateway = Gateway::open();
    for vsn in ["", "?vsn=1.0.0", "?vsn=1.0.7", "?vsn=2.0.0", "?vsn=2.0.12", "?vsn=9&vsn=2.0.0"] {
        assert!(shake_hands(&gateway.broadcast, vsn, &[]).await.is_ok(), "{vsn}");
    }
    for vsn in ["", "1", "1.0", "1.1.0", "2", "2.0", "2.0.", "2.1.0", "3.0.0", "2.0.0-rc.1", "x"] {
        let refused = shake_hands(&gateway.broadcast, &format!("?vsn={vsn}"), &[]).await;
        assert_eq!(refused.err(), Some(403), "{vsn}");
    }
}

#[tokio::test]
async fn the_subprotocol_is_answered_when_it_is_offered_and_a_token_never_is() {
    let gateway = House::new().with_tokens(&format!("{READER} name=reader\n")).open();
    let bearer = format!("base64url.bearer.phx.{READER_BASE64}");
    let with = |first: &str| format!("{first}, {bearer}");
    for (offered, chosen, status) in [
        ("phoenix".to_owned(), Some("phoenix"), "error"),
        ("other, phoenix".to_owned(), Some("phoenix"), "error"),
        (with("phoenix"), Some("phoenix"), "ok"),
        (format!("{bearer}=, phoenix"), Some("phoenix"), "ok"),
        // Which of two would be meant is a guess; and what is no base64 is no token.
        (with(&with("phoenix")), Some("phoenix"), "error"),
        ("phoenix, base64url.bearer.phx.!".to_owned(), Some("phoenix"), "error"),
    ] {
        let headers = [("sec-websocket-protocol", offered.as_str())];
        let shaken = shake_hands(&gateway.broadcast, "?vsn=2.0.0", &headers).await;
        let (mut client, answered) = shaken.unwrap_or_else(|status| panic!("{status}"));
        assert_eq!(answered.as_deref(), chosen, "{offered}");
        assert_eq!(join(&mut client, ALL, json!({})).await.0, status, "{offered}");
    }
    let (_, answered) = shake_hands(&gateway.broadcast, "", &[]).await.ok().unwrap();
    assert_eq!(answered, None);
    assert!(!gateway.broadcast.log().contains(READER_BASE64));
    assert!(!gateway.broadcast.log().contains(READER));
}

#[tokio::test]
async fn a_refused_credential_is_the_answer_to_a_join_and_not_a_refused_upgrade() {
    let tokens = format!("{TOKEN} name=all\n{READER} name=reader subscribe=none\n");
    let gateway = House::new().with_tokens(&tokens).open();
    let unknown = "0123456789abcdef-nobody";
    for (query, headers, due) in [
        (format!("&token={TOKEN}"), None, Ok("ok")),
        (format!("&token=Basic%20{TOKEN}"), None, Ok("ok")),
        (format!("&token=Basic+{TOKEN}"), None, Ok("ok")),
        (String::new(), Some(format!("Basic {TOKEN}")), Ok("ok")),
        // The header is the gateway's own: it is judged before the upgrade, as on every path.
        (String::new(), Some(format!("Basic {unknown}")), Err(403)),
        (format!("&token={READER}"), None, Ok("forbidden")),
        (format!("&token={unknown}"), None, Ok("unauthenticated")),
        (format!("&token=Other%20{TOKEN}"), None, Ok("unauthenticated")),
        (format!("&token={TOKEN}%20more"), None, Ok("unauthenticated")),
        ("&token=".to_owned(), None, Ok("unauthenticated")),
        (String::new(), None, Ok("unauthenticated")),
    ] {
        let headers: Vec<_> = headers.iter().map(|it| ("authorization", it.as_str())).collect();
        let shaken = shake_hands(&gateway.broadcast, &format!("?vsn=2.0.0{query}"), &headers).await;
        let answer = match shaken {
            Err(status) => Err(status),
            Ok((mut client, _)) => match join(&mut client, ALL, json!({})).await {
                (status, _) if status == "ok" => Ok("ok".to_owned()),
                (_, response) => Ok(response["reason"].as_str().unwrap().to_owned()),
            },
        };
        assert_eq!(answer.as_deref(), due.as_deref(), "{query} {headers:?}");
    }
}

#[tokio::test]
async fn without_a_credential_one_is_what_the_anonymous_line_says() {
    let tokens = format!("{TOKEN} name=all\nanonymous subscribe=public.> publish=none\n");
    let gateway = House::new().with_tokens(&tokens).open();
    fire(&gateway, "public.a", "1").await;
    fire(&gateway, "secret.a", "2").await;
    let shaken = shake_hands(&gateway.broadcast, "?vsn=2.0.0", &[]).await;
    let (mut client, _) = shaken.ok().unwrap();
    assert_eq!(numbers(&messages(&join_ok(&mut client, ALL, json!({})).await)), [1]);
    fire(&gateway, "secret.a", "3").await;
    fire(&gateway, "public.b", "4").await;
    assert_eq!(hear(&mut client).await.2["data"], 4);
    // A wrong credential is never none.
    let mut wrong = open_as(&gateway.broadcast, "0123456789abcdef-nobody").await;
    assert_eq!(join(&mut wrong, ALL, json!({})).await.1["reason"], "unauthenticated");
}

#[tokio::test]
async fn a_join_has_what_is_granted_and_narrowed_grants_end_it_and_a_withdrawn_token_too() {
    let lines = |more: &str| format!("{TOKEN} name=all\n{more}");
    let line = |grants: &str| lines(&format!("{READER} name=reader subscribe={grants}\n"));
    let gateway = House::new().with_tokens(&line("order.>,fence")).open();
    let open = async || open_as(&gateway.broadcast, READER).await;
    for (event_type, data) in [("order.paid", "1"), ("invoice.paid", "2"), ("order.a.b", "3")] {
        fire(&gateway, event_type, data).await;
    }
    let mut client = open().await;
    let response = join_ok(&mut client, ALL, json!({})).await;
    assert_eq!(numbers(&messages(&response)), [1, 3]);
    fire(&gateway, "invoice.paid", "4").await;
    fire(&gateway, "order.paid", "5").await;
    assert_eq!(numbers(&rest(&gateway, &mut client).await), [5]);
    let mut neighbour = open_as(&gateway.broadcast, TOKEN).await;
    join_ok(&mut neighbour, ALL, json!({})).await;
    let idle = open().await;
    gateway.house.write_tokens(&line("order.paid"));
    assert_eq!(client.closed().await, (4403, "forbidden".to_owned()));
    let mut client = open().await;
    let cursor = json!({"cursor": cursor_of(&messages(&response)[0])});
    assert_eq!(numbers(&messages(&join_ok(&mut client, ALL, cursor).await)), [5]);
    gateway.house.write_tokens(&lines(""));
    let withdrawn = (4401, "token withdrawn".to_owned());
    assert_eq!(client.closed().await, withdrawn);
    assert_eq!(idle.closed().await, withdrawn);
    wait_for_answer(&gateway, READER, 403).await;
    let mut client = open().await;
    assert_eq!(join(&mut client, ALL, json!({})).await.1["reason"], "unauthenticated");
    fire(&gateway, "order.paid", "6").await;
    assert_eq!(numbers(&rest(&gateway, &mut neighbour).await), [6]);
}

#[tokio::test]
async fn who_shows_no_good_credential_is_let_go_when_its_time_is_over() {
    let gateway = House::new().set("INIT_TIMEOUT", "500ms").open();
    let mut stranger = open_as(&gateway.broadcast, "0123456789abcdef-nobody").await;
    assert_eq!(join(&mut stranger, ALL, json!({})).await.1["reason"], "unauthenticated");
    // A good one is proof enough, joined or not.
    let mut idle = open(&gateway.broadcast).await;
    assert_eq!(stranger.closed().await, (4401, "init timeout".to_owned()));
    assert_quiet(&mut idle).await;
}

#[tokio::test]
async fn a_client_that_reads_slowly_may_join_as_many_topics_as_another() {
    let gateway = House::new().set("OUTBOX_BYTES", "64KiB").open();
    let padding = "x".repeat(10_000);
    for number in 0..200 {
        let source = format!("/{}", number % 10);
        let data = json!({"n": number, "padding": padding});
        let body = json!({"event": "a", "source": source, "data": data}).to_string();
        assert_eq!(post(&gateway, body).send().await.unwrap().status(), 200);
    }
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(1).unwrap();
    let mut wire = Wire { stream: socket.connect(gateway.broadcast.address()).await.unwrap() };
    wire.send(upgrade_request(&format!("/socket/websocket?vsn=2.0.0&token={TOKEN}"), "")).await;
    assert!(wire.read_head().await.starts_with("HTTP/1.1 101 "));
    for number in 0..10 {
        let join = json!(["j", number, format!("source:/{number}"), "phx_join", {}]).to_string();
        wire.send(frame(0x81, join.as_bytes())).await;
    }
    wire.send(frame(0x81, br#"[null,"last","phoenix","heartbeat",{}]"#)).await;
    // It has long been able to answer more than this client has taken.
    let delivered = async || gateway.broadcast.metric("fanfare_events_delivered_total").await;
    until("an answer", async || (delivered().await > 0.0).then_some(())).await;
    let_pass(Duration::from_millis(300)).await;
    for number in 0..10 {
        let (_, answer) = wire.read_frame().await;
        let answer: Value = serde_json::from_slice(&answer).unwrap_or_else(|_| {
            panic!("{}", String::from_utf8_lossy(&answer));
        });
        assert_eq!((&answer[1], &answer[4]["status"]), (&json!(number), &json!("ok")));
        assert_eq!(messages(&answer[4]["response"]).len(), 20);
    }
    let answer = loop {
        // It has said nothing for a while, and may be asked whether it is there.
        let (kind, answer) = wire.read_frame().await;
        if kind != 0x89 {
            break String::from_utf8_lossy(&answer).into_owned();
        }
    };
    assert!(answer.starts_with(r#"[null,"last","phoenix""#), "{answer}");
}

/// After a power loss a cursor from before it is not whole; what is kept behind it is all there.
#[tokio::test]
async fn a_join_that_cannot_be_whole_is_told_so_and_gets_all_that_is_kept() {
    let doors = Doors::choose();
    let gateway = doors.house().open();
    fire_numbers(&gateway, "a", 0..250).await;
    let mut client = open(&gateway.broadcast).await;
    let first = messages(&join_ok(&mut client, ALL, json!({"cursor": "first"})).await);
    let Gateway { listen, broadcast, house } = gateway;
    broadcast.kill();
    // It was another boot of the machine in which that was written, as far as anyone can tell.
    let identity = Path::new(&house.settings["DATA_DIR"]).join("identity.json");
    let mut record: Value = serde_json::from_slice(&fs::read(&identity).unwrap()).unwrap();
    record["boot"] = json!("another");
    fs::write(&identity, record.to_string()).unwrap();
    let gateway = Gateway { broadcast: house.broadcast(), listen, house };
    for (cursor, begun) in [(cursor_of(&first[3]), 4), ("first".to_owned(), 0)] {
        let mut client = open(&gateway.broadcast).await;
        let response = join_ok(&mut client, ALL, json!({"cursor": cursor})).await;
        assert_eq!(response["recovered"], cursor == "first", "{response}");
        let mut heard = messages(&response);
        while heard.len() < 250 - begun {
            heard.push(hear(&mut client).await.2);
        }
        assert_eq!(numbers(&heard), Vec::from_iter(begun as u64..250));
        fire(&gateway, "b", "7").await;
        assert_eq!(hear(&mut client).await.2["data"], 7);
    }
}

#[tokio::test]
async fn a_ticket_opens_one_connection_and_goes_with_its_token() {
    let lines = |more: &str| format!("{TOKEN} name=all\n{more}");
    let reader = lines(&format!("{READER} name=reader subscribe=a\n"));
    let gateway = House::new().with_tokens(&reader).open();
    fire_numbers(&gateway, "a", 0..2).await;
    fire(&gateway, "b", "7").await;
    let query = format!("?ticket={}&vsn=2.0.0", ticket(&gateway.broadcast, READER).await);
    let (mut client, _) = shake_hands(&gateway.broadcast, &query, &[]).await.ok().unwrap();
    let response = join_ok(&mut client, ALL, json!({})).await;
    assert_eq!(numbers(&messages(&response)), [0, 1]);
    // A reconnect: the one before, if it is still there, is over.
    let (mut again, _) = shake_hands(&gateway.broadcast, &query, &[]).await.ok().unwrap();
    client.say(r#"[null,"1","phoenix","heartbeat",{}]"#).await;
    assert_eq!(client.closed().await, (1008, "policy".to_owned()));
    let cursor = json!({"cursor": response["cursor"]});
    assert_eq!(join_ok(&mut again, ALL, cursor).await["messages"], json!([]));
    gateway.house.write_tokens(&lines(""));
    assert_eq!(again.closed().await, (4401, "token withdrawn".to_owned()));
    let refused = shake_hands(&gateway.broadcast, &query, &[]).await;
    assert_eq!(refused.err(), Some(403));
}
