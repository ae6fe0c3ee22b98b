//! `POST /event` (WIRE §1.1): what its head decides.

use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::client::{answer, code, post, post_as, post_with};
use crate::gateway::{Gateway, House, PATIENCE, TOKEN};
use crate::wire::{Wire, event_head, header_of, status};

const EVENT: &str = r#"{"event":"order.paid","data":{"id":7}}"#;

#[tokio::test]
async fn an_event_is_accepted() {
    let gateway = Gateway::open();
    let response = post(&gateway, EVENT).send().await.unwrap();
    assert_eq!(answer(response).await, (200, code("OK")));
}

#[tokio::test]
async fn the_path_may_have_any_case_and_one_slash_at_its_end() {
    let gateway = Gateway::open();
    for (path, expected) in [
        ("/event", (200, "OK")),
        ("/event/", (200, "OK")),
        ("/EVENT", (200, "OK")),
        ("/eVent/", (200, "OK")),
        ("/event?any=query", (200, "OK")),
        ("/event//", (404, "NOT_FOUND")),
        ("//event", (404, "NOT_FOUND")),
        ("/event/x", (404, "NOT_FOUND")),
        ("/eventful", (404, "NOT_FOUND")),
        ("/", (404, "NOT_FOUND")),
    ] {
        let request = reqwest::Client::new().post(gateway.listen.url() + path).body(EVENT);
        let request = request.header("authorization", format!("Basic {TOKEN}"));
        let answer = answer(request.send().await.unwrap()).await;
        assert_eq!(answer, (expected.0, code(expected.1)), "{path}");
    }
}

#[tokio::test]
async fn another_method_is_told_which_one_is_allowed() {
    let gateway = Gateway::open();
    for method in ["GET", "PUT", "PATCH", "DELETE", "OPTIONS", "BREW"] {
        let method = reqwest::Method::from_bytes(method.as_bytes()).unwrap();
        let request = reqwest::Client::new().request(method.clone(), gateway.event_url());
        let response = request.send().await.unwrap();
        assert_eq!(response.headers()["allow"], "POST", "{method}");
        assert_eq!(answer(response).await, (405, code("METHOD_NOT_ALLOWED")), "{method}");
    }
}

#[tokio::test]
async fn a_refused_credential_has_its_code() {
    let short = "0123456789abcde";
    let gateway = House::new().with_tokens(&format!("{TOKEN}\n{short}\n")).open();
    let basic = |text: &str| format!("Basic {}", STANDARD.encode(text));
    for (authorization, expected) in [
        (None, "UNAUTHENTICATED"),
        (Some(String::new()), "UNAUTHENTICATED"),
        (Some("Basic".to_owned()), "UNAUTHENTICATED"),
        (Some("Basic 0123456789abcdef-other".to_owned()), "UNAUTHENTICATED"),
        (Some(format!("Basic {short}")), "UNAUTHENTICATED"),
        (Some(format!("Basic {TOKEN} more")), "UNAUTHENTICATED"),
        (Some(format!("Basic {TOKEN}\tmore")), "UNAUTHENTICATED"),
        (Some(format!("Basic {TOKEN},")), "UNAUTHENTICATED"),
        (Some(format!("Basic {}", TOKEN.to_uppercase())), "UNAUTHENTICATED"),
        (Some(basic(&format!("{TOKEN}:not-the-password"))), "UNAUTHENTICATED"),
        (Some(basic(&format!(":{short}"))), "UNAUTHENTICATED"),
        (Some(format!("Bearer {TOKEN}")), "AUTH_UNRECOGNIZED_SCHEME"),
        (Some(format!("Password {TOKEN}")), "AUTH_UNRECOGNIZED_SCHEME"),
        (Some(TOKEN.to_owned()), "AUTH_UNRECOGNIZED_SCHEME"),
    ] {
        let request = post_with(&gateway, authorization.as_deref(), EVENT);
        let answer = answer(request.send().await.unwrap()).await;
        assert_eq!(answer, (403, code(expected)), "{authorization:?}");
    }
}

/// A hashed line can hold the digest of anything; what is presented is judged by its own length.
#[tokio::test]
async fn a_token_shorter_than_16_characters_is_refused_even_where_its_hash_is_in_the_file() {
    // printf %s short | sha256sum
    let line = "sha256:f9b0078b5df596d2ea19010c001bbd009e651de2c57e8fb7e355f31eb9d3f739";
    let gateway = House::new().with_tokens(&format!("{line}\n")).open();
    for secret in ["short".to_owned(), STANDARD.encode(":short")] {
        let response = post_as(&gateway, &secret, EVENT).send().await.unwrap();
        assert_eq!(answer(response).await, (403, code("UNAUTHENTICATED")), "{secret}");
    }
}

#[tokio::test]
async fn a_token_is_taken_raw_and_as_base64_under_basic_in_any_case() {
    let gateway = Gateway::open();
    let base64 = |text: String| STANDARD.encode(text);
    for authorization in [
        format!("Basic {TOKEN}"),
        format!("basic {TOKEN}"),
        format!("BASIC {TOKEN}"),
        format!("Basic   {TOKEN}"),
        format!("Basic {}", base64(format!(":{TOKEN}"))),
        format!("Basic {}", base64(format!("user:{TOKEN}"))),
        format!("bAsIc {}", base64(format!("{TOKEN}:"))),
    ] {
        let request = post_with(&gateway, Some(&authorization), EVENT);
        let answer = answer(request.send().await.unwrap()).await;
        assert_eq!(answer, (200, code("OK")), "{authorization}");
    }
}

#[tokio::test]
async fn two_authorization_headers_are_refused_even_if_both_are_good() {
    let gateway = Gateway::open();
    let good = format!("Authorization: Basic {TOKEN}\r\n");
    for second in [&good, "authorization: Basic wrong\r\n", "Authorization:\r\n"] {
        let more = format!("{second}Content-Length: {}\r\n", EVENT.len());
        let request = event_head(TOKEN, &more) + EVENT;
        let (head, body) = Wire::exchange(&gateway.listen, request).await;
        assert_eq!((status(&head), body), (400, code("INVALID_REQUEST")), "{second}");
        let kind = header_of(&head, "content-type");
        assert_eq!(kind, Some("application/json; charset=utf-8"));
    }
}

/// A stranger cannot make the service buffer, nor wait.
#[tokio::test]
async fn the_credential_is_judged_before_the_body_comes() {
    let gateway = Gateway::open();
    for more in ["Content-Length: 1000\r\n", "Transfer-Encoding: chunked\r\n"] {
        let mut wire = Wire::connect(&gateway.listen).await;
        let begin = Instant::now();
        wire.send(event_head("0123456789abcdef-unknown", more)).await;
        let (head, body) = wire.read_answer().await;
        assert_eq!((status(&head), body), (403, code("UNAUTHENTICATED")), "{more}");
        // A body is waited for 10 s.
        assert!(begin.elapsed() < Duration::from_secs(8), "{more}");
    }
}

/// What is wrong with a token is for nobody to learn.
#[tokio::test]
async fn refused_tokens_look_alike() {
    let tokens = "0123456789abcdef-expired expires=2020-01-01T00:00:00Z\nshort\n";
    let gateway = House::new().with_tokens(tokens).open();
    let mut seen = Vec::new();
    for token in ["0123456789abcdef-unknown", "0123456789abcdef-expired", "short", "a b"] {
        let request = event_head(token, "Content-Length: 2\r\n") + "{}";
        let (head, body) = Wire::exchange(&gateway.listen, request).await;
        let lines = head.lines().filter(|line| !line.to_lowercase().starts_with("date: "));
        seen.push((lines.map(str::to_owned).collect::<Vec<_>>(), body));
    }
    assert!(seen.iter().all(|answer| *answer == seen[0]), "{seen:#?}");
    assert!(!seen[0].0.iter().any(|line| line.to_lowercase().starts_with("www-authenticate")));
}

/// The HTTP library asks for the body before anybody has judged the head (RFC 9110 §10.1.1 lets
/// it); the refusal does not wait for it.
#[tokio::test]
async fn a_stranger_that_expects_100_continue_is_refused_without_its_body() {
    let gateway = Gateway::open();
    let more = "Content-Length: 1000\r\nExpect: 100-continue\r\n";
    let mut wire = Wire::connect(&gateway.listen).await;
    wire.send(event_head("0123456789abcdef-unknown", more)).await;
    let (head, body) = wire.read_answer().await;
    assert_eq!((status(&head), body), (403, code("UNAUTHENTICATED")));
}

/// Method, path, token, encoding and body of a request, and its answer.
pub type Judged =
    (&'static str, &'static str, &'static str, &'static str, String, (u16, &'static str));

/// A gateway, a token that may publish `order.>` to it, and a request with every fault that loses
/// them one by one.
pub fn faults_in_order() -> (Gateway, &'static str, Vec<Judged>) {
    let token = "0123456789abcdef-narrow";
    let tokens = format!("{token} publish=order.>\n");
    let gateway = House::new().set("MAX_BODY", "50").with_tokens(&tokens).open();
    let (unknown, long) = ("0123456789abcdef-unknown", "x".repeat(51));
    let secret = r#"{"event":"secret"}"#.to_owned();
    let table = vec![
        ("GET", "/other", unknown, "br", long.clone(), (404, "NOT_FOUND")),
        ("GET", "/event", unknown, "br", long.clone(), (405, "METHOD_NOT_ALLOWED")),
        ("POST", "/event", unknown, "br", long.clone(), (403, "UNAUTHENTICATED")),
        ("POST", "/event", token, "br", long.clone(), (415, "UNSUPPORTED_MEDIA")),
        ("POST", "/event", token, "identity", long, (413, "BODY_TOO_LARGE")),
        ("POST", "/event", token, "identity", "x".to_owned(), (400, "INVALID_BODY")),
        ("POST", "/event", token, "identity", secret, (403, "FORBIDDEN")),
    ];
    (gateway, token, table)
}

/// A request with every fault loses them one by one, and each answer names the next.
#[tokio::test]
async fn checks_stand_in_order_path_method_credential_encoding_size_body_grant() {
    let (gateway, token, mut table) = faults_in_order();
    let good = r#"{"event":"order.paid"}"#.to_owned();
    table.push(("POST", "/event", token, "identity", good, (200, "OK")));
    for (method, path, token, encoding, body, expected) in table {
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: test\r\nAuthorization: Basic {token}\r\n\
             Content-Encoding: {encoding}\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let (head, body) = Wire::exchange(&gateway.listen, request).await;
        assert_eq!((status(&head), body), (expected.0, code(expected.1)));
    }
}

#[tokio::test]
async fn a_token_publishes_what_one_of_its_grants_covers_and_nothing_else() {
    let token = "0123456789abcdef-narrow";
    let tokens = format!("{token} publish=order.*,invoice.>,plain subscribe=none\n");
    let gateway = House::new().with_tokens(&tokens).open();
    for (event_type, expected) in [
        ("order.paid", (200, "OK")),
        ("invoice.a.b", (200, "OK")),
        ("plain", (200, "OK")),
        ("order.*", (200, "OK")),
        ("order", (403, "FORBIDDEN")),
        ("order.paid.twice", (403, "FORBIDDEN")),
        ("invoice", (403, "FORBIDDEN")),
        ("Order.paid", (403, "FORBIDDEN")),
        ("plain.not", (403, "FORBIDDEN")),
        (">", (403, "FORBIDDEN")),
    ] {
        let body = format!(r#"{{"event":"{event_type}"}}"#);
        let answer = answer(post_as(&gateway, token, body).send().await.unwrap()).await;
        assert_eq!(answer, (expected.0, code(expected.1)), "{event_type}");
    }
}

#[tokio::test]
async fn a_token_that_asks_too_often_is_told_when_to_come_again_and_others_are_not_hindered() {
    let other = "0123456789abcdef-other";
    let tokens = format!("{TOKEN}\n{other}\n");
    let gateway = House::new().set("RATE_LIMIT", "1/s").with_tokens(&tokens).open();
    let deadline = Instant::now() + PATIENCE;
    let refused = loop {
        let response = post(&gateway, EVENT).send().await.unwrap();
        if response.status() != 200 {
            break response;
        }
        assert!(Instant::now() < deadline, "never refused");
    };
    assert_eq!(refused.headers()["retry-after"], "1");
    assert_eq!(answer(refused).await, (429, code("RATE_LIMITED")));
    let response = post_as(&gateway, other, EVENT).send().await.unwrap();
    assert_eq!(answer(response).await, (200, code("OK")));
    crate::client::wait_for_answer(&gateway, TOKEN, 200).await;
}

#[tokio::test]
async fn healthz_answers_on_both_doors() {
    let gateway = Gateway::open();
    for door in [&gateway.listen, &gateway.broadcast] {
        let response = reqwest::get(door.url() + "/healthz").await.unwrap();
        let expected = r#"{"status":200,"message":"OK"}"#.to_owned();
        assert_eq!(answer(response).await, (200, expected));
    }
}
