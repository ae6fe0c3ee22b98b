//! Who may send CloudEvents, and what becomes of those who send the same again.

use serde_json::json;

use crate::cloudevents::{
    Reader, STRUCTURED, answer, bare, code, event, faulty, send, send_binary,
};
use crate::gateway::{Gateway, House, TOKEN};

#[tokio::test]
async fn a_credential_is_judged_before_anything_else_of_the_request() {
    let gateway = Gateway::open();
    let table = [
        (None, 403, "UNAUTHENTICATED"),
        (Some("Basic unknown-0123456789abcdef".to_owned()), 403, "UNAUTHENTICATED"),
        (Some("Basic short".to_owned()), 403, "UNAUTHENTICATED"),
        (Some("Basic".to_owned()), 403, "UNAUTHENTICATED"),
        (Some(format!("Basic {TOKEN} more")), 403, "UNAUTHENTICATED"),
        (Some(format!("Bearer {TOKEN}")), 403, "AUTH_UNRECOGNIZED_SCHEME"),
        (Some(format!("Digest {TOKEN}")), 403, "AUTH_UNRECOGNIZED_SCHEME"),
    ];
    for (authorization, status, told) in table {
        for kind in [STRUCTURED, "application/cloudevents-batch+json", "text/plain"] {
            let mut request = bare(&gateway).header("content-type", kind).body("nonsense");
            if let Some(authorization) = &authorization {
                request = request.header("authorization", authorization);
            }
            assert_eq!(answer(request).await, (status, code(told)), "{authorization:?} {kind}");
        }
    }
    let twice = send(&gateway, STRUCTURED, event("i", ""));
    let twice = twice.header("authorization", format!("Basic {TOKEN}"));
    assert_eq!(answer(twice).await, (400, code("INVALID_REQUEST")));
}

#[tokio::test]
async fn an_event_is_forbidden_whose_type_is_not_granted_in_every_mode() {
    const NARROW: &str = "narrow-0123456789abcdef";
    let tokens = format!("{TOKEN}\n{NARROW} publish=t.*\n");
    let gateway = House::new().with_tokens(&tokens).open();
    let post = |kind: &str, body: String| {
        let request = bare(&gateway).header("authorization", format!("Basic {NARROW}"));
        request.header("content-type", kind.to_owned()).body(body)
    };
    let forbidden = (403, code("FORBIDDEN"));
    for kind in [STRUCTURED, "application/json"] {
        assert_eq!(answer(post(kind, event("i", ""))).await, forbidden, "{kind}");
    }
    let headers =
        [("ce-specversion", "1.0"), ("ce-id", "i"), ("ce-source", "/s"), ("ce-type", "t")];
    let request = bare(&gateway).header("authorization", format!("Basic {NARROW}"));
    let request = headers.into_iter().fold(request, |it, (name, value)| it.header(name, value));
    assert_eq!(answer(request).await, forbidden, "binary");
    // What is no event has no type that could be granted.
    let (status, said) = answer(post(STRUCTURED, r#"{"type":"secret"}"#.to_owned())).await;
    assert_eq!((status, faulty(&said)), (400, vec!["id", "source", "specversion"]));
    let granted = event("granted", "").replace(r#""type":"t""#, r#""type":"t.x""#);
    assert_eq!(answer(post(STRUCTURED, granted)).await.0, 201);
    Reader::open(&gateway).await.expect("granted").await;
}

#[tokio::test]
async fn who_shows_no_credential_has_what_the_anonymous_line_grants() {
    let tokens = format!("{TOKEN}\nanonymous publish=t subscribe=none\n");
    let gateway = House::new().with_tokens(&tokens).open();
    let post = |body: String| bare(&gateway).header("content-type", STRUCTURED).body(body);
    assert_eq!(answer(post(event("i", ""))).await.0, 201);
    let other = event("j", "").replace(r#""type":"t""#, r#""type":"u""#);
    assert_eq!(answer(post(other)).await, (403, code("FORBIDDEN")));
    let wrong = post(event("k", "")).header("authorization", "Basic unknown-0123456789abcdef");
    assert_eq!(answer(wrong).await, (403, code("UNAUTHENTICATED")), "never taken for none");
    Reader::open(&gateway).await.expect("i").await;
}

#[tokio::test]
async fn the_same_identity_is_delivered_once_whatever_the_mode() {
    let gateway = Gateway::open();
    let mut reader = Reader::open(&gateway).await;
    for _ in 0..2 {
        assert_eq!(answer(send(&gateway, STRUCTURED, event("i", ""))).await.0, 201);
        assert_eq!(answer(send(&gateway, "application/json", event("i", ""))).await.0, 201);
        assert_eq!(answer(send_binary(&gateway, &[("ce-id", b"i")])).await.0, 201);
    }
    let native = crate::client::post(&gateway, r#"{"event":"t","id":"i","source":"/s"}"#);
    assert_eq!(answer(native).await.0, 200);
    assert_eq!(answer(send_binary(&gateway, &[("ce-source", b"/other")])).await.0, 201);
    assert_eq!(reader.expect("i").await["source"], "/s");
    assert_eq!(reader.expect("i").await["source"], "/other");
}

#[tokio::test]
async fn a_dry_run_judges_and_delivers_nothing() {
    let gateway = Gateway::open();
    let post = |query: &str, body: String| {
        let url = format!("{}/events?{query}", gateway.listen.url());
        let request = reqwest::Client::new().post(url).header("content-type", STRUCTURED);
        request.header("authorization", format!("Basic {TOKEN}")).body(body)
    };
    assert_eq!(answer(post("dry_run=true", event("dry", ""))).await, (200, json!({"code": "OK"})));
    let (status, said) = answer(post("dry_run=true", r#"{"id":""}"#.to_owned())).await;
    assert_eq!((status, faulty(&said)), (400, vec!["id", "source", "specversion", "type"]));
    for query in ["dry_run=yes", "dry_run", "dry_run=true&dry_run=false"] {
        let refused = (400, code("INVALID_REQUEST"));
        assert_eq!(answer(post(query, event("dry", ""))).await, refused, "{query}");
    }
    assert_eq!(answer(post("dry_run=false", event("wet", ""))).await.0, 201);
    Reader::open(&gateway).await.expect("wet").await;
}
