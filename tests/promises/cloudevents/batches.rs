//! Many events in one request (HTTP protocol binding §3.3): each is judged and answered for alone.

use serde_json::{Value, json};

use crate::cloudevents::{BATCH, Reader, answer, code, event, faulty, send};
use crate::gateway::{Gateway, House, TOKEN};

async fn post(gateway: &Gateway, body: impl Into<reqwest::Body>) -> (u16, Value) {
    answer(send(gateway, BATCH, body)).await
}

#[tokio::test]
async fn an_invalid_or_forbidden_item_does_not_stop_the_others() {
    const NARROW: &str = "narrow-0123456789abcdef";
    let tokens = format!("{TOKEN}\n{NARROW} publish=t,other\n");
    let gateway = House::new().with_tokens(&tokens).open();
    let mut reader = Reader::open(&gateway).await;
    let forbidden = event("no", "").replace(r#""type":"t""#, r#""type":"secret""#);
    let body = format!(
        r#"[{},{},{},7,null,"x",[],{{}},{},{}]"#,
        event("a", r#","data":1"#),
        event("b", r#","time":"now","ext":1.5"#),
        forbidden,
        event("c", r#","datacontenttype":"text/plain","data":"x""#),
        event("d", ""),
    );
    let request = crate::cloudevents::bare(&gateway)
        .header("authorization", format!("Basic {NARROW}"))
        .header("content-type", BATCH);
    let (status, said) = answer(request.body(body)).await;
    assert_eq!(status, 200);
    let results = said.as_array().unwrap();
    let brief = |it: &Value| (it["id"].as_str().map(str::to_owned), it["code"].clone());
    let brief: Vec<_> = results.iter().map(brief).collect();
    let told = |id: &str, code: &str| (Some(id.to_owned()), Value::from(code));
    let nameless = (None, Value::from("INVALID"));
    let expected = [
        told("a", "OK"),
        told("b", "INVALID"),
        told("no", "FORBIDDEN"),
        nameless.clone(),
        nameless.clone(),
        nameless.clone(),
        nameless.clone(),
        nameless,
        told("c", "OK"),
        told("d", "OK"),
    ];
    assert_eq!(brief, expected);
    let names = |it: &Value| it["errors"].as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&results[1]), ["ext", "time"]);
    assert_eq!(names(&results[7]), ["id", "source", "specversion", "type"]);
    assert_eq!(results[0], json!({ "id": "a", "code": "OK" }));
    assert_eq!(results[2], json!({ "id": "no", "code": "FORBIDDEN" }));
    for id in ["a", "c", "d"] {
        reader.expect(id).await;
    }
}

#[tokio::test]
async fn a_batch_may_be_empty_or_large_and_keeps_its_order() {
    let gateway = Gateway::open();
    let mut reader = Reader::open(&gateway).await;
    assert_eq!(post(&gateway, "[]").await, (200, json!([])));
    assert_eq!(post(&gateway, " [ ] ").await, (200, json!([])));
    let events: Vec<String> = (0..1000).map(|number| event(&number.to_string(), "")).collect();
    let (status, said) = post(&gateway, format!("[{}]", events.join(","))).await;
    assert_eq!(status, 200);
    for number in 0..1000 {
        assert_eq!(said[number], json!({ "id": number.to_string(), "code": "OK" }));
        reader.expect(&number.to_string()).await;
    }
    assert_eq!(said.as_array().unwrap().len(), 1000);
}

#[tokio::test]
async fn what_is_no_list_is_no_batch() {
    let gateway = Gateway::open();
    let good = event("i", "");
    let deep = format!("[{}{}]", "[".repeat(128), "]".repeat(128));
    for body in ["", "nonsense", "{}", "null", "\"x\"", &good, &format!("[{good}"), "[] []", &deep]
    {
        let (status, said) = post(&gateway, body.to_owned()).await;
        assert_eq!((status, faulty(&said)), (400, vec!["body"]), "{body}");
    }
    let (status, said) = post(&gateway, &b"[\"\xff\"]"[..]).await;
    assert_eq!((status, faulty(&said)), (400, vec!["body"]));
}

#[tokio::test]
async fn an_event_that_stands_twice_in_a_batch_is_delivered_once() {
    let gateway = Gateway::open();
    let mut reader = Reader::open(&gateway).await;
    let body = format!("[{},{},{}]", event("a", ""), event("a", ""), event("b", ""));
    let expected = json!([
        { "id": "a", "code": "OK" }, { "id": "a", "code": "OK" }, { "id": "b", "code": "OK" }
    ]);
    for _ in 0..2 {
        assert_eq!(post(&gateway, body.clone()).await, (200, expected.clone()));
    }
    assert_eq!(answer(send(&gateway, BATCH, format!("[{}]", event("c", "")))).await.0, 200);
    for id in ["a", "b", "c"] {
        reader.expect(id).await;
    }
}

#[tokio::test]
async fn a_dry_run_of_a_batch_judges_every_item_and_delivers_none() {
    let gateway = Gateway::open();
    let url = format!("{}/events?dry_run=true", gateway.listen.url());
    let request = || {
        let request = reqwest::Client::new().post(&url).header("content-type", BATCH);
        request.header("authorization", format!("Basic {TOKEN}"))
    };
    let body = format!(r#"[{},{{"id":"x"}}]"#, event("dry", ""));
    let (status, said) = answer(request().body(body)).await;
    assert_eq!(status, 200);
    assert_eq!(said[0], json!({ "id": "dry", "code": "OK" }));
    assert_eq!((&said[1]["id"], &said[1]["code"]), (&json!("x"), &json!("INVALID")));
    assert_eq!(post(&gateway, format!("[{}]", event("wet", ""))).await.0, 200);
    Reader::open(&gateway).await.expect("wet").await;
}

#[tokio::test]
async fn a_batch_over_the_limit_is_too_large_as_a_whole() {
    let gateway = House::new().set("MAX_BODY", "4KiB").open();
    let events: Vec<String> = (0..100).map(|number| event(&number.to_string(), "")).collect();
    let refused = post(&gateway, format!("[{}]", events.join(","))).await;
    assert_eq!(refused, (413, code("BODY_TOO_LARGE")));
    assert_eq!(post(&gateway, format!("[{}]", event("i", ""))).await.0, 200);
    Reader::open(&gateway).await.expect("i").await;
}
