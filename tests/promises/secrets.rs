//! What a wrong credential learns, and where secrets never appear (HARDENING, "Credentials and
//! secrets").

use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::client::{Subscriber, answer, fire, post, post_as};
use crate::gateway::{Gateway, House, Process, TOKEN};
use crate::measures::ask_admin;
use crate::signed::{LATER, SECRET, Signer, in_seconds};
use crate::wire::{Wire, frame, upgrade_request};

const WITHDRAWN: &str = "withdrawn-token-9aa1";
/// An answer that waits, waits for a second.
const PENALTY: Duration = Duration::from_secs(1);

/// Credentials that are wrong, each in its own way.
fn wrong_credentials() -> Vec<String> {
    let encoded = STANDARD.encode(":no-such-token-000000");
    let wrong = [
        "no-such-token-000000",
        "short",
        &TOKEN[..TOKEN.len() - 1],
        &format!("{TOKEN}x"),
        &TOKEN.to_uppercase(),
        &format!("{TOKEN} more"),
        "",
        WITHDRAWN,
        &encoded,
        "%00%ff",
    ];
    wrong.iter().map(|secret| format!("Authorization: Basic {secret}\r\n")).collect()
}

fn post_head(headers: &str) -> String {
    format!("POST /event HTTP/1.1\r\nHost: test\r\n{headers}Content-Length: 13\r\n\r\n")
}

/// The answer to a request, but for its date.
async fn answer_without_date(process: &Process, request: String) -> String {
    let mut wire = Wire::connect(process).await;
    wire.send(request).await;
    let (head, body) = wire.read_answer().await;
    let lines = head.lines().filter(|line| !line.to_lowercase().starts_with("date:"));
    lines.collect::<Vec<_>>().join("\n") + &body
}

#[tokio::test]
async fn all_wrong_credentials_get_one_and_the_same_answer() {
    let gateway = House::new().with_tokens(&format!("{TOKEN}\n{WITHDRAWN}\n")).open();
    let body = r#"{"event":"a"}"#;
    assert_eq!(answer(post_as(&gateway, WITHDRAWN, body).send().await.unwrap()).await.0, 200);
    gateway.house.write_tokens(&format!("{TOKEN}\n"));
    for process in [&gateway.listen, &gateway.broadcast] {
        process.wait_for_metric("fanfare_reloads_total", 1.0).await;
    }
    // The body is not sent: whoever is refused was refused by the head alone.
    let refused = answer_without_date(&gateway.listen, post_head("")).await;
    assert!(refused.starts_with("HTTP/1.1 403 "), "{refused}");
    assert!(refused.ends_with(r#"{"code":"UNAUTHENTICATED"}"#), "{refused}");
    let upgrade = |headers: &str| upgrade_request("/", headers);
    let refused_upgrade = upgrade(&wrong_credentials()[0]);
    let refused_upgrade = answer_without_date(&gateway.broadcast, refused_upgrade).await;
    assert!(refused_upgrade.ends_with(r#"{"code":"UNAUTHENTICATED"}"#), "{refused_upgrade}");
    for headers in wrong_credentials() {
        let other = answer_without_date(&gateway.listen, post_head(&headers)).await;
        assert_eq!(other, refused, "{headers}");
        let other = answer_without_date(&gateway.broadcast, upgrade(&headers)).await;
        assert_eq!(other, refused_upgrade, "{headers}");
    }
    for answer in [refused, refused_upgrade] {
        assert!(!answer.to_lowercase().contains("www-authenticate: basic"), "{answer}");
    }
}

/// Makes so many refusals that the next one waits.
async fn fail_20_times(process: &Process, headers: &str) {
    for _ in 0..20 {
        let request = match process.is_listen() {
            true => post_head(&format!("Authorization: Basic no-such-token-000000\r\n{headers}")),
            false => upgrade_request("/", &format!("Authorization: Basic no-such\r\n{headers}")),
        };
        let begun = Instant::now();
        let refused = answer_without_date(process, request).await;
        assert!(refused.starts_with("HTTP/1.1 403 "), "{refused}");
        assert!(begun.elapsed() < PENALTY, "the first 20 are answered at once");
    }
}

#[tokio::test]
async fn after_20_failures_a_publishers_refusal_waits_and_the_right_token_does_not() {
    let gateway = Gateway::open();
    fail_20_times(&gateway.listen, "").await;
    let begun = Instant::now();
    let mut wrong = Wire::connect(&gateway.listen).await;
    wrong.send(post_head("Authorization: Basic no-such-token-000000\r\n")).await;
    fire(&gateway, "a", "1").await;
    assert!(begun.elapsed() < PENALTY, "the right token has waited, too");
    let (head, _) = wrong.read_answer().await;
    assert!(head.starts_with("HTTP/1.1 403 "), "{head}");
    assert!(begun.elapsed() >= PENALTY, "{:?}", begun.elapsed());
}

#[tokio::test]
async fn after_20_failures_a_sessions_refusal_waits_and_the_right_token_does_not() {
    let house = House::new();
    let broadcast = house.broadcast();
    fail_20_times(&broadcast, "").await;
    let begun = Instant::now();
    let mut wrong = Subscriber::connect(&broadcast).await;
    wrong.say(r#"{"authentication":"Basic no-such-token-000000","events":[]}"#).await;
    Subscriber::subscribe(&broadcast, &["a"]).await;
    assert!(begun.elapsed() < PENALTY, "the right token has waited, too");
    assert_eq!(wrong.hear().await, r#"{"type":"init","code":"UNAUTHENTICATED"}"#);
    assert!(begun.elapsed() >= PENALTY, "{:?}", begun.elapsed());
    // A refused one may still do better.
    assert_eq!(wrong.init(TOKEN, &["a"]).await, r#"{"type":"init","code":"OK"}"#);
}

#[tokio::test]
async fn failures_are_counted_by_the_address_that_a_trusted_proxy_names() {
    let house = House::new().set("TRUSTED_PROXIES", "127.0.0.0/8,::1");
    let listen = house.listen();
    fail_20_times(&listen, "X-Forwarded-For: 10.0.0.1\r\n").await;
    let begun = Instant::now();
    let wrong = "Authorization: Basic no-such-token-000000\r\n";
    let mut known = Wire::connect(&listen).await;
    known.send(post_head(&format!("{wrong}X-Forwarded-For: 10.0.0.1\r\n"))).await;
    for other in ["X-Forwarded-For: 10.0.0.1, 10.0.0.2\r\n", "Forwarded: for=10.0.0.3\r\n", ""] {
        answer_without_date(&listen, post_head(&format!("{wrong}{other}"))).await;
    }
    assert!(begun.elapsed() < PENALTY, "others have waited, too");
    known.read_answer().await;
    assert!(begun.elapsed() >= PENALTY);
}

#[tokio::test]
async fn nobody_else_is_believed_to_name_an_address() {
    let house = House::new();
    let listen = house.listen();
    fail_20_times(&listen, "X-Forwarded-For: 10.0.0.1\r\n").await;
    let begun = Instant::now();
    let request = "Authorization: Basic no-such-token-000000\r\nX-Forwarded-For: 10.0.0.2\r\n";
    answer_without_date(&listen, post_head(request)).await;
    assert!(begun.elapsed() >= PENALTY, "a header has hidden who it is");
}

/// Each is unlike any word that a log could hold by chance.
const ALL: &str = "Zq7vKx2mRightToken01";
const GONE: &str = "Wj4nTb9sWithdrawn002";
const UNKNOWN: &str = "Hy6rLc3pUnknown00003";
const BEARER: &str = "Ue8dMf5gBearer000004";
const TOO_SHORT: &str = "Ok1sXv7tShort";
const FAULTY: &str = "Pb2wQz8yFaultyLine05";
const DATA: &str = "Gd3hVn6jDataOfAnEvent";
const SECRETS: [&str; 7] = [ALL, GONE, UNKNOWN, BEARER, TOO_SHORT, FAULTY, DATA];

/// How credentials can be written in an `Authorization` header.
fn written(token: &str) -> Vec<String> {
    let encode = |text: String| STANDARD.encode(text);
    vec![
        format!("Basic {token}"),
        format!("bAsIc {token} word"),
        format!("Bearer {token}"),
        token.to_owned(),
        format!("Basic {}", encode(format!(":{token}"))),
        format!("Basic {}", encode(format!("{token}:"))),
        format!("Basic {}", encode(format!("user:{token}"))),
    ]
}

async fn show_secrets_everywhere(gateway: &Gateway, token: &str) {
    let body = format!(r#"{{"event":"a","data":"{DATA}"}}"#);
    let length = body.len();
    for (number, credential) in written(token).into_iter().enumerate() {
        // Each from an address of its own, or they would be made to wait.
        let from = format!("X-Forwarded-For: 10.0.{}.{number}\r\n", token.as_bytes()[0]);
        let one = format!("Authorization: {credential}\r\n");
        for headers in [format!("{from}{one}"), format!("{from}{one}{one}")] {
            let mut wire = Wire::connect(&gateway.listen).await;
            wire.send(format!(
                "POST /event HTTP/1.1\r\nHost: test\r\n{headers}Content-Length: {length}\r\n\r\n{body}"
            ))
            .await;
            wire.read_answer().await;
            let mut wire = Wire::connect(&gateway.broadcast).await;
            wire.send(upgrade_request("/", &headers)).await;
            wire.read_answer().await;
        }
        for message in [
            format!(r#"{{"authentication":"{credential}","events":["a"]}}"#),
            format!(r#"{{"type":"auth","authentication":"{credential}"}}"#),
            format!(r#"{{"authentication":"{credential}","events":["#),
            credential.clone(),
        ] {
            let mut wire = Wire::connect(&gateway.broadcast).await;
            wire.send(upgrade_request("/", &from)).await;
            wire.read_head().await;
            wire.send(frame(0x81, message.as_bytes())).await;
            wire.read_frame().await;
        }
    }
}

#[tokio::test]
async fn no_log_line_and_no_metric_ever_holds_a_secret_or_an_events_data() {
    let tokens = format!("{ALL} name=all\n{GONE}\n{TOO_SHORT}\n{FAULTY} colour=red\n");
    let house = House::new().with_tokens(&tokens).set("RUST_LOG", "trace");
    let gateway = house.set("TRUSTED_PROXIES", "127.0.0.1").open();
    let mut subscriber = Subscriber::connect(&gateway.broadcast).await;
    subscriber.init(ALL, &["a"]).await;
    for token in [ALL, GONE, UNKNOWN, BEARER, TOO_SHORT, FAULTY] {
        show_secrets_everywhere(&gateway, token).await;
    }
    assert!(subscriber.hear().await.contains(DATA), "the events have passed");
    gateway.house.write_tokens(&format!("{ALL} name=all\n"));
    gateway.broadcast.wait_for_metric("fanfare_reloads_total", 1.0).await;
    let body = format!(r#"{{"event":"a","data":"{DATA}""#);
    assert_eq!(answer(post_as(&gateway, ALL, body).send().await.unwrap()).await.0, 400);
    let mut told = String::new();
    for process in [&gateway.listen, &gateway.broadcast] {
        told += &ask_admin(process, "/metrics").await.1;
        told += &ask_admin(process, "/readyz").await.1;
    }
    let Gateway { mut listen, mut broadcast, .. } = gateway;
    for process in [&mut listen, &mut broadcast] {
        process.signal(rustix::process::Signal::TERM);
        process.wait();
        process.wait_for_log("has stopped");
        told += &process.log();
    }
    assert!(told.contains(r#""level":"trace""#), "nothing was searched");
    for secret in SECRETS {
        assert!(!told.contains(&secret[..8]), "{}", line_with(&told, &secret[..8]));
        for credential in written(secret) {
            let shown = credential.trim_start_matches("Basic ");
            assert!(!told.contains(shown), "{}", line_with(&told, shown));
        }
        let encoded = STANDARD.encode(secret);
        let encoded = encoded.trim_end_matches('=');
        assert!(!told.contains(encoded), "{}", line_with(&told, encoded));
    }
}

/// Shows a credential wherever one may be shown, and where a request is in error besides.
async fn show_signed_everywhere(gateway: &Gateway, number: usize, token: &str) {
    let from = format!("X-Forwarded-For: 10.1.0.{number}\r\n");
    let header = format!("{from}Authorization: Bearer {token}\r\n");
    let encoded = STANDARD.encode(token);
    let encoded = encoded.trim_end_matches('=');
    let offered = format!("Sec-WebSocket-Protocol: phoenix, base64url.bearer.phx.{encoded}\r\n");
    let phoenix = |rest: &str| format!("/socket/websocket?token={token}{rest}");
    let plain = |method: &str, path: &str, headers: &str| {
        format!(
            "{method} {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n{headers}\
             Content-Length: 0\r\n\r\n"
        )
    };
    let socket = "/socket/websocket?vsn=2.0.0";
    for request in [
        upgrade_request("/", &header),
        upgrade_request("/events?type=a", &header),
        upgrade_request(&phoenix("&vsn=2.0.0"), &from),
        upgrade_request(&phoenix("&vsn=7"), &from),
        upgrade_request(&phoenix("&vsn=2.0.0"), &format!("{from}Origin: http://\u{1}\r\n")),
        upgrade_request(&phoenix(" broken"), &from),
        upgrade_request(socket, &format!("{from}{offered}")),
        upgrade_request(socket, &format!("{from}{offered}{offered}")),
        upgrade_request(&format!("/events?token={token}&ticket={token}"), &from),
        plain("GET", &phoenix(""), &from),
        plain("DELETE", &phoenix(""), &from),
        plain("GET", &phoenix(""), &format!("{from}broken header\r\n")),
        plain("GET", &format!("/events?type=a&ticket={token}"), &from),
        plain("GET", "/events?type=a", &header),
        plain("POST", "/tickets", &header),
    ] {
        let mut wire = Wire::connect(&gateway.broadcast).await;
        wire.send(request).await;
        wire.read_head().await;
    }
    for path in ["/event", "/events", "/nowhere"] {
        for headers in [header.clone(), format!("{header}{header}")] {
            Wire::exchange(&gateway.listen, plain("POST", path, &headers)).await;
        }
    }
    let join = r#"["1","1","source:/a","phx_join",{}]"#.to_owned();
    for (path, message) in [
        ("/", format!(r#"{{"authentication":"Bearer {token}","events":[]}}"#)),
        ("/", format!(r#"{{"type":"auth","authentication":"Bearer {token}"}}"#)),
        ("/", format!(r#"{{"type":"subscribe","channel":7,"token":"{token}"}}"#)),
        ("/", format!(r#"{{"type":"other","channel":"a","token":"{token}"}}"#)),
        (&phoenix("&vsn=2.0.0"), join),
        (&phoenix("&vsn=2.0.0"), format!("not json {token}")),
    ] {
        let mut wire = Wire::connect(&gateway.broadcast).await;
        wire.send(upgrade_request(path, &from)).await;
        wire.read_head().await;
        wire.send(frame(0x81, message.as_bytes())).await;
        wire.read_frame().await;
    }
}

/// Not the parts of a signed token, not the secret that it was signed with, not a key that is bad.
#[tokio::test]
async fn no_log_line_and_no_metric_ever_holds_a_signed_token_or_its_secret() {
    const SHORT: &str = "Xb4mShort";
    let house = House::new().set("RUST_LOG", "trace").set("TRUSTED_PROXIES", "127.0.0.1");
    let gateway = house.with_secret(SECRET).open();
    let (good, stranger) = (Signer::shared(SECRET), Signer::shared(SHORT));
    let tokens = [
        good.bearer("mary", LATER),
        good.bearer("mary", in_seconds(-1)),
        stranger.bearer("mary", LATER),
        "Bearer x.Fn6rNoTokenAtAll.y".to_owned(),
    ];
    for (number, token) in tokens.iter().enumerate() {
        show_signed_everywhere(&gateway, number, token.trim_start_matches("Bearer ")).await;
    }
    // A secret that is warned of, and files that are refused.
    for (secret, said) in [(SHORT, "fewer than 32 bytes"), ("\n", "the secret is empty")] {
        gateway.house.write_secret(secret);
        for process in [&gateway.listen, &gateway.broadcast] {
            process.wait_for_log(said);
        }
    }
    let Gateway { mut listen, mut broadcast, .. } = gateway;
    let mut told = String::new();
    for process in [&mut listen, &mut broadcast] {
        told += &ask_admin(process, "/metrics").await.1;
        told += &ask_admin(process, "/readyz").await.1;
        process.signal(rustix::process::Signal::TERM);
        process.wait();
        process.wait_for_log("has stopped");
        told += &process.log();
    }
    assert!(told.contains(r#""level":"trace""#), "nothing was searched");
    let mut secrets = vec![SECRET[..8].to_owned(), SHORT.to_owned()];
    for token in &tokens {
        // What all of them begin with is no secret.
        for part in token.split('.').skip(1).filter(|part| part.len() > 8) {
            secrets.push(part[..part.len().min(16)].to_owned());
        }
        let encoded = STANDARD.encode(token.trim_start_matches("Bearer "));
        secrets.push(encoded[8..].trim_end_matches('=').to_owned());
    }
    for secret in secrets {
        assert!(!told.contains(&secret), "{}", line_with(&told, &secret));
    }
}

fn line_with(text: &str, secret: &str) -> String {
    text.lines().find(|line| line.contains(secret)).unwrap_or_default().to_owned()
}

#[tokio::test]
async fn two_authorization_headers_are_refused_even_if_they_are_equal_and_right() {
    let gateway = Gateway::open();
    let two = format!("Authorization: Basic {TOKEN}\r\nauthorization: Basic {TOKEN}\r\n");
    for (process, request) in
        [(&gateway.listen, post_head(&two)), (&gateway.broadcast, upgrade_request("/", &two))]
    {
        let refused = answer_without_date(process, request).await;
        assert!(refused.starts_with("HTTP/1.1 400 "), "{refused}");
        assert!(refused.ends_with(r#"{"code":"INVALID_REQUEST"}"#), "{refused}");
    }
}

#[tokio::test]
async fn a_stranger_cannot_make_us_read_a_body() {
    let gateway = Gateway::open();
    let mut wire = Wire::connect(&gateway.listen).await;
    let announced = "Authorization: Basic no-such-token-000000\r\nContent-Length: 1000000\r\n\r\n";
    wire.send(format!("POST /event HTTP/1.1\r\nHost: test\r\n{announced}")).await;
    let (head, body) = wire.read_answer().await;
    assert!(head.starts_with("HTTP/1.1 403 "), "{head}");
    assert_eq!(body, r#"{"code":"UNAUTHENTICATED"}"#);
    // A right token is asked for its body.
    let response = post(&gateway, r#"{"event":"a"}"#).send().await.unwrap();
    assert_eq!(answer(response).await.0, 200);
}
