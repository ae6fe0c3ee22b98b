//! Signed tokens (WIRE 1.1, 1.2, 2, 5): when they are taken, how long they hold, and what becomes of
//! live sessions when their keys change.

use jiff::Timestamp;
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio_tungstenite::connect_async;
use tokio_tungstenite::tungstenite::Message;

use crate::client::{Subscriber, answer, code, event, fire, post_with, said};
use crate::event_stream::EventStream;
use crate::gateway::{Gateway, House, Process, TOKEN};
use crate::measures::{degraded, until};
use crate::signed::{LATER, SECRET, Signer, in_seconds, jwks};
use crate::wire::{Wire, upgrade_request};

/// Connects, and subscribes to type `a`.
async fn session(broadcast: &Process, authorization: &str, members: Value) -> Subscriber {
    let mut session = Subscriber::connect(broadcast).await;
    let mut init = json!({"authentication": authorization, "events": ["a"]});
    init.as_object_mut().unwrap().extend(members.as_object().unwrap().clone());
    let answer = session.ask(&init.to_string()).await;
    assert!(answer.starts_with(r#"{"type":"init","code":"OK""#), "{answer}");
    session
}

/// The code that a publisher gets.
async fn published(gateway: &Gateway, authorization: &str) -> String {
    let response = post_with(gateway, Some(authorization), r#"{"event":"a"}"#).send().await;
    answer(response.unwrap()).await.1
}

/// The code that somebody gets who logs in.
async fn logged_in(broadcast: &Process, authorization: &str) -> String {
    let init = json!({"authentication": authorization, "events": []}).to_string();
    Subscriber::connect(broadcast).await.ask(&init).await
}

fn auth(authorization: &str) -> String {
    json!({"type": "auth", "authentication": authorization}).to_string()
}

/// Waits until a credential is good on both doors, or is not.
async fn wait_until_good(gateway: &Gateway, authorization: &str, is_good: bool) {
    let expected = if is_good { "OK" } else { "UNAUTHENTICATED" };
    until("another judgement of a token", async || {
        let is_so = published(gateway, authorization).await == code(expected)
            && logged_in(&gateway.broadcast, authorization).await == said("init", expected);
        is_so.then_some(())
    })
    .await;
}

fn by_header(broadcast: &Process, path: &str, authorization: &str) -> reqwest::RequestBuilder {
    let request = reqwest::Client::new().get(format!("{}{path}", broadcast.url()));
    request.header("authorization", authorization).header("accept", "text/event-stream")
}

pub async fn ticket(broadcast: &Process, authorization: &str) -> String {
    let request = reqwest::Client::new().post(format!("{}/tickets", broadcast.url()));
    let response = request.header("authorization", authorization).send().await.unwrap();
    let answer: Value = serde_json::from_str(&answer(response).await.1).unwrap();
    answer["ticket"].as_str().unwrap().to_owned()
}

fn by_ticket(broadcast: &Process, ticket: &str) -> reqwest::RequestBuilder {
    crate::event_stream::by_ticket(broadcast, ticket, "type=a")
}

#[tokio::test]
async fn without_its_settings_bearer_is_a_scheme_that_is_not_enabled() {
    let unknown = "AUTH_UNRECOGNIZED_SCHEME";
    let plain = Gateway::open();
    let enabled = House::new().with_secret(SECRET).open();
    let signed = Signer::shared(SECRET).bearer("mary", LATER);
    for (gateway, authorization, expected) in [
        (&plain, signed.as_str(), unknown),
        (&plain, &format!("Bearer {TOKEN}"), unknown),
        (&plain, "Bearer", unknown),
        // A static token is none under this scheme, nor a signed one under the other.
        (&enabled, &format!("Bearer {TOKEN}"), "UNAUTHENTICATED"),
        (&enabled, "Bearer", "UNAUTHENTICATED"),
        (&enabled, "Bearer x.y.z", "UNAUTHENTICATED"),
        (&enabled, &signed.replace("Bearer", "Basic"), "UNAUTHENTICATED"),
        (&enabled, &format!("{signed} more"), "UNAUTHENTICATED"),
        (&enabled, &signed.replace("Bearer", "Digest"), unknown),
        (&enabled, &signed, "OK"),
        (&enabled, &signed.replace("Bearer", "bEARER "), "OK"),
    ] {
        assert_eq!(published(gateway, authorization).await, code(expected), "{authorization}");
        let broadcast = &gateway.broadcast;
        assert_eq!(logged_in(broadcast, authorization).await, said("init", expected));
        let mut late = Subscriber::connect(broadcast).await;
        assert_eq!(late.ask(&auth(authorization)).await, said("auth", expected));
        let header = format!("Authorization: {authorization}\r\n");
        let mut wire = Wire::connect(broadcast).await;
        wire.send(upgrade_request("/", &header)).await;
        let head = wire.read_head().await;
        assert_eq!(&head[9..12], if expected == "OK" { "101" } else { "403" }, "{authorization}");
        match EventStream::try_of(by_header(broadcast, "/events?type=a", authorization)).await {
            Ok(_) => assert_eq!(expected, "OK"),
            Err(refused) => assert_eq!(refused, (401, code(expected))),
        }
    }
}

/// WIRE 1.1: the events of one connection are judged each by its own credential, in their order.
#[tokio::test]
async fn events_that_come_at_once_are_each_judged_by_their_token() {
    let signer = Signer::new();
    let gateway = House::new().with_secret(SECRET).with_keys(&jwks([&signer])).open();
    let good = signer.bearer("mary", LATER);
    let claims = json!({"exp": LATER, "publish": ["b"]});
    let narrow = format!("Bearer {}", Signer::shared(SECRET).sign(&claims));
    let stranger = Signer::new().bearer("mary", LATER);
    let shown = [
        (good.as_str(), "OK"),
        (&good, "OK"),
        (&narrow, "FORBIDDEN"),
        (&good, "OK"),
        (&stranger, "UNAUTHENTICATED"),
        (&good, "OK"),
    ];
    let body = r#"{"event":"a"}"#;
    let requests = shown.map(|(authorization, _)| {
        let length = body.len();
        format!(
            "POST /event HTTP/1.1\r\nHost: test\r\nAuthorization: {authorization}\r\n\
             Content-Length: {length}\r\n\r\n{body}"
        )
    });
    let mut wire = Wire::connect(&gateway.listen).await;
    wire.send(requests.concat()).await;
    for (authorization, expected) in shown {
        assert_eq!(wire.read_answer().await.1, code(expected), "{authorization}");
    }
}

#[tokio::test]
async fn a_ticket_of_a_signed_token_survives_a_restart_and_ends_with_its_key() {
    let signer = Signer::new();
    let mut gateway = House::new().with_secret(SECRET).with_keys(&jwks([&signer])).open();
    let ticket = ticket(&gateway.broadcast, &signer.bearer("mary", LATER)).await;
    let mut stream = EventStream::of(by_ticket(&gateway.broadcast, &ticket)).await;
    fire(&gateway, "a", "1").await;
    assert_eq!(stream.event().await.text(), "1");
    for signal in [Signal::KILL, Signal::TERM] {
        gateway = gateway.restart_broadcast(signal).await;
        stream = EventStream::of(by_ticket(&gateway.broadcast, &ticket)).await;
        fire(&gateway, "a", "2").await;
        assert_eq!(stream.event().await.text(), "2");
    }
    gateway.house.write_keys(&jwks([&Signer::new()]));
    stream.ended().await;
    for signal in [None, Some(Signal::TERM)] {
        if let Some(signal) = signal {
            gateway = gateway.restart_broadcast(signal).await;
        }
        let stopped = by_ticket(&gateway.broadcast, &ticket).send().await.unwrap();
        assert_eq!(stopped.status(), 204);
    }
}

#[tokio::test]
async fn a_ticket_ends_with_the_time_of_its_signed_token() {
    let gateway = House::new().with_secret(SECRET).open();
    let ends = in_seconds(5);
    let ticket = ticket(&gateway.broadcast, &Signer::shared(SECRET).bearer("mary", ends)).await;
    EventStream::of(by_ticket(&gateway.broadcast, &ticket)).await.ended().await;
    assert!(Timestamp::now().as_second() >= ends, "it has ended too early");
    let mut gateway = gateway;
    for _ in 0..2 {
        let stopped = by_ticket(&gateway.broadcast, &ticket).send().await.unwrap();
        assert_eq!(stopped.status(), 204);
        gateway = gateway.restart_broadcast(Signal::TERM).await;
    }
}

#[tokio::test]
async fn keys_are_followed_and_sessions_end_with_theirs() {
    let (old, new) = (Signer::new(), Signer::new());
    let gateway = House::new().with_secret(SECRET).with_keys(&jwks([&old])).open();
    let [by_old, by_new] = [&old, &new].map(|signer| signer.bearer("mary", LATER));
    let by_secret = Signer::shared(SECRET).bearer("mary", LATER);
    let mut of_old = session(&gateway.broadcast, &by_old, json!({})).await;
    let mut of_secret = session(&gateway.broadcast, &by_secret, json!({})).await;
    let mut of_static = Subscriber::subscribe(&gateway.broadcast, &["a"]).await;
    assert_eq!(published(&gateway, &by_new).await, code("UNAUTHENTICATED"));
    // One more: its tokens work, and nobody notices anything.
    gateway.house.write_keys(&jwks([&old, &new]));
    wait_until_good(&gateway, &by_new, true).await;
    wait_until_good(&gateway, &by_old, true).await;
    let mut of_new = session(&gateway.broadcast, &by_new, json!({})).await;
    fire(&gateway, "a", "\"rotated\"").await;
    for session in [&mut of_old, &mut of_secret, &mut of_static] {
        while session.hear().await != event("a", "\"rotated\"") {}
    }
    assert_eq!(of_new.hear().await, event("a", "\"rotated\""));
    // One less: its sessions end, and all others go on.
    gateway.house.write_keys(&jwks([&new]));
    assert_eq!(of_old.closed().await, (4401, "token withdrawn".to_owned()));
    wait_until_good(&gateway, &by_old, false).await;
    fire(&gateway, "a", "\"removed\"").await;
    for session in [&mut of_new, &mut of_secret, &mut of_static] {
        while session.hear().await != event("a", "\"removed\"") {}
    }
    // The secret likewise.
    gateway.house.write_secret("another secret of more than 32 bytes");
    assert_eq!(of_secret.closed().await, (4401, "token withdrawn".to_owned()));
    wait_until_good(&gateway, &by_secret, false).await;
    of_new.assert_nothing_came().await;
    of_static.assert_nothing_came().await;
}

#[tokio::test]
async fn a_bad_keys_file_keeps_the_last_good_keys_until_it_is_good_again() {
    let (signer, next) = (Signer::new(), Signer::new());
    let gateway = House::new().with_keys(&jwks([&signer])).open();
    let good = signer.bearer("mary", LATER);
    let mut session = session(&gateway.broadcast, &good, json!({})).await;
    let path = gateway.house.folder.path().join("jwt-keys");
    for bad in [Some("rubbish"), Some(""), Some(r#"{"keys":7}"#), None] {
        match bad {
            Some(text) => gateway.house.write_keys(text),
            None => std::fs::remove_file(&path).unwrap(),
        }
        for process in [&gateway.listen, &gateway.broadcast] {
            let is_told = async || (!degraded(process).await.is_empty()).then_some(());
            until("a degraded process", is_told).await;
            let told = degraded(process).await.join(" ");
            assert!(told.contains("keys of signed tokens"), "{told}");
        }
        assert_eq!(published(&gateway, &good).await, code("OK"));
        assert_eq!(logged_in(&gateway.broadcast, &good).await, said("init", "OK"));
        assert_eq!(session.hear().await, r#"{"type":"event","event":"a"}"#);
        gateway.house.write_keys(&jwks([&signer]));
        for process in [&gateway.listen, &gateway.broadcast] {
            let is_ready = |status, body: &str| status == 200 && body == r#"{"status":"ready"}"#;
            process.wait_for_readiness("ready", is_ready).await;
        }
    }
    session.assert_nothing_came().await;
    gateway.house.write_keys(&jwks([&next]));
    assert_eq!(session.closed().await, (4401, "token withdrawn".to_owned()));
}

#[tokio::test]
async fn a_hangup_signal_reads_the_keys_again_and_harms_nobody() {
    let signer = Signer::new();
    let gateway = House::new().with_keys(&jwks([&signer])).open();
    let good = signer.bearer("mary", LATER);
    let mut session = session(&gateway.broadcast, &good, json!({})).await;
    for process in [&gateway.listen, &gateway.broadcast] {
        process.signal(Signal::HUP);
        process.wait_for_log("the keys of signed tokens was read again");
    }
    assert_eq!(published(&gateway, &good).await, code("OK"));
    assert_eq!(session.hear().await, r#"{"type":"event","event":"a"}"#);
}

/// The next message must be this Close: nothing comes before it.
async fn assert_ends_unwarned(mut session: Subscriber, ends: i64) {
    match session.next().await {
        Message::Close(Some(close)) => {
            assert_eq!((u16::from(close.code), close.reason.as_str()), (4401, "token expired"));
        }
        other => panic!("{other:?}"),
    }
    assert!(Timestamp::now().as_second() >= ends, "it has ended too early");
}

/// The seconds that are left, as a notice says them.
fn notice(text: &str) -> u64 {
    let seconds = text.strip_prefix(r#"{"type":"expiring","in":""#);
    let seconds = seconds.and_then(|rest| rest.strip_suffix(r#"s"}"#));
    seconds.and_then(|it| it.parse().ok()).unwrap_or_else(|| panic!("{text}"))
}

#[tokio::test]
async fn a_session_ends_with_its_token_and_only_who_asked_for_places_is_warned() {
    let gateway = House::new().with_secret(SECRET).open();
    let broadcast = &gateway.broadcast;
    let ends = in_seconds(8);
    let signer = Signer::shared(SECRET);
    let good = signer.bearer("mary", ends);
    let plain = session(broadcast, &good, json!({})).await;
    let cloudevents = session(broadcast, &good, json!({"format": "cloudevents"})).await;
    let last = session(broadcast, &good, json!({"last": 5})).await;
    let mut agent = Subscriber::connect(broadcast).await;
    let token = good.trim_start_matches("Bearer ");
    agent.say(&json!({"type": "subscribe", "channel": "a", "token": token}).to_string()).await;
    let by_upgrade = Subscriber::connect_as(broadcast, "/", &good).await;
    let events = Subscriber::connect_as(broadcast, "/events?type=a", &good).await;
    let url = format!("{}/socket/websocket?vsn=2.0.0&token={token}", broadcast.ws_url());
    let mut phoenix = Subscriber { socket: connect_async(url).await.unwrap().0 };
    let join = json!(["1", "1", "source:/a", "phx_join", {}]).to_string();
    assert!(phoenix.ask(&join).await.contains(r#""status":"ok""#));
    let stream = EventStream::of(by_header(broadcast, "/events?type=a", &good)).await;
    let mut warned = Vec::new();
    for members in [json!({"cursor": true}), json!({"after": "first", "format": "cloudevents"})] {
        let mut session = session(broadcast, &good, members).await;
        assert!((1..=8).contains(&notice(&session.hear().await)));
        warned.push(session);
    }
    // It is renewed in time, and goes on.
    let mut renewed = warned.pop().unwrap();
    assert_eq!(renewed.ask(&auth(&signer.bearer("mary", LATER))).await, said("auth", "OK"));
    for session in [plain, cloudevents, last, agent, by_upgrade, events, phoenix] {
        assert_ends_unwarned(session, ends).await;
    }
    // Told once.
    assert_ends_unwarned(warned.pop().unwrap(), ends).await;
    stream.ended().await;
    fire(&gateway, "a", "1").await;
    assert!(renewed.hear().await.contains(r#""data":1"#));
}

#[tokio::test]
async fn the_warning_comes_half_a_minute_before_and_anew_for_each_end() {
    let gateway = House::new().with_secret(SECRET).open();
    let signer = Signer::shared(SECRET);
    let good = signer.bearer("mary", in_seconds(33));
    let mut session = session(&gateway.broadcast, &good, json!({"cursor": true})).await;
    // Not before an event that is fired earlier.
    fire(&gateway, "a", "1").await;
    assert!(session.hear().await.contains(r#""data":1"#));
    // A busy machine tells it a little later.
    assert!((20..=30).contains(&notice(&session.hear().await)));
    for ends in [20, 25] {
        session.say(&auth(&signer.bearer("mary", in_seconds(ends)))).await;
        assert_eq!(session.hear().await, said("auth", "OK"));
        assert!(notice(&session.hear().await) <= ends.unsigned_abs());
    }
}

#[tokio::test]
async fn a_renewal_that_is_refused_changes_nothing_and_one_that_narrows_ends_the_session() {
    let gateway = House::new().with_secret(SECRET).open();
    let signer = Signer::shared(SECRET);
    let mut session = session(&gateway.broadcast, &signer.bearer("mary", LATER), json!({})).await;
    let expired = signer.bearer("mary", in_seconds(-1));
    for wrong in [&expired, &Signer::shared("of a stranger").bearer("mary", LATER)] {
        assert_eq!(session.ask(&auth(wrong)).await, said("auth", "UNAUTHENTICATED"));
    }
    fire(&gateway, "a", "1").await;
    assert_eq!(session.hear().await, event("a", "1"));
    let narrow = signer.sign(&json!({"exp": LATER, "subscribe": ["b"]}));
    assert_eq!(session.ask(&auth(&format!("Bearer {narrow}"))).await, said("auth", "OK"));
    assert_eq!(session.closed().await, (4403, "forbidden".to_owned()));
}

#[tokio::test]
async fn a_rate_is_of_a_subject_whatever_tokens_it_has() {
    let house = House::new().with_secret(SECRET).set("RATE_LIMIT", "1/s").set("WORKERS", 1);
    let gateway = house.open();
    let signer = Signer::shared(SECRET);
    let body = r#"{"event":"a"}"#;
    let post = |authorization: &str| {
        format!(
            "POST /event HTTP/1.1\r\nHost: test\r\nAuthorization: {authorization}\r\n\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        )
    };
    let shown = [("mary", LATER), ("mary", LATER + 1), ("john", LATER), ("mary", LATER)];
    let requests = shown.map(|(subject, ends)| post(&signer.bearer(subject, ends)));
    // A machine that is held up for a second between two of them proves nothing.
    until("a rate that is kept", async || {
        let mut wire = Wire::connect(&gateway.listen).await;
        wire.send(requests.concat()).await;
        let mut statuses = Vec::new();
        for _ in shown {
            statuses.push(wire.read_answer().await.0[9..12].to_owned());
        }
        (statuses == ["200", "429", "200", "429"]).then_some(())
    })
    .await;
}

/// WIRE 5: tokens of the original say neither when they end nor what they may do.
#[tokio::test]
async fn the_settings_say_what_a_token_may_do_that_does_not_say_it() {
    let house = House::new().with_secret(SECRET).set("JWT_REQUIRE_EXP", false);
    let house = house.set("JWT_DEFAULT_PUBLISH", "a,order.>").set("JWT_DEFAULT_SUBSCRIBE", "a");
    let gateway = house.set("JWT_AUDIENCE", "wall,fanfare").set("JWT_ISSUER", "login").open();
    let signer = Signer::shared(SECRET);
    for (claims, expected) in [
        (json!({"aud": "wall", "iss": "login"}), "OK"),
        (json!({"aud": ["x", "fanfare"], "iss": "login"}), "OK"),
        (json!({"aud": "wall", "iss": "login", "publish": ["b"]}), "FORBIDDEN"),
        (json!({"aud": "wall", "iss": "login", "exp": in_seconds(-1)}), "UNAUTHENTICATED"),
        (json!({"aud": "other", "iss": "login"}), "UNAUTHENTICATED"),
        (json!({"aud": "wall", "iss": "other"}), "UNAUTHENTICATED"),
        (json!({"aud": "wall"}), "UNAUTHENTICATED"),
        (json!({}), "UNAUTHENTICATED"),
    ] {
        let authorization = format!("Bearer {}", signer.sign(&claims));
        assert_eq!(published(&gateway, &authorization).await, code(expected), "{claims}");
    }
}
