//! Which mode a `Content-Type` means, and what is not taken (WIRE §3.1).

use serde_json::json;

use crate::cloudevents::{Reader, answer, bare, code, event, send, send_binary};
use crate::gateway::{Gateway, TOKEN};

#[tokio::test]
async fn the_mode_is_read_from_the_content_type_in_any_case_and_with_parameters() {
    let gateway = Gateway::open();
    let mut reader = Reader::open(&gateway).await;
    let table = [
        ("application/cloudevents+json", 201),
        ("Application/CloudEvents+JSON", 201),
        ("application/cloudevents+json;charset=utf-8", 201),
        ("application/cloudevents+json; charset=UTF-8", 201),
        ("application/cloudevents+json; charset=\"utf-8\"", 201),
        ("application/cloudevents+json; x=y; charset=utf-8", 201),
        ("application/cloudevents+json ; charset=utf-8", 201),
        ("application/cloudevents+json\t;charset=utf-8;", 201),
        // Without a suffix it is JSON.
        ("application/cloudevents", 201),
        ("Application/CloudEvents; charset=UTF-8", 201),
        ("application/cloudevents-batch", 200),
        ("application/cloudevents-batch; charset=utf-8", 200),
        ("application/cloudevents-batch+json", 200),
        ("APPLICATION/CLOUDEVENTS-BATCH+JSON; charset=utf-8", 200),
        ("application/json", 201),
        ("Application/JSON; charset=UTF-8", 201),
        ("application/json; charset=us-ascii", 201),
    ];
    for (number, (kind, status)) in table.into_iter().enumerate() {
        let id = number.to_string();
        let event = event(&id, "");
        let body = if status == 200 { format!("[{event}]") } else { event };
        let (answered, said) = answer(send(&gateway, kind, body)).await;
        assert_eq!(answered, status, "{kind}: {said}");
        reader.expect(&id).await;
    }
}

#[tokio::test]
async fn what_is_no_event_format_of_ours_is_unsupported() {
    let gateway = Gateway::open();
    let kinds = [
        "application/cloudevents+protobuf",
        "application/cloudevents+avro",
        "application/cloudevents+xml",
        "application/cloudevents-batch+protobuf",
        "application/cloudevents; charset=utf-16",
        "application/cloudeventsx",
        "application/cloudevents+json; charset=utf-16",
        "application/cloudevents+json; charset=iso-8859-1",
        "application/cloudevents-batch+json; charset=utf-16",
        "application/json; charset=utf-16",
        "application/x-www-form-urlencoded",
        "application/octet-stream",
        "text/plain",
        "text/json",
        "application/problem+json",
        "nonsense",
        "",
    ];
    let refused = (415, code("UNSUPPORTED_MEDIA"));
    for kind in kinds {
        assert_eq!(answer(send(&gateway, kind, event("i", ""))).await, refused, "{kind}");
    }
    let nothing = bare(&gateway).header("authorization", format!("Basic {TOKEN}"));
    assert_eq!(answer(nothing.body(event("i", ""))).await, refused, "no content type");
    let twice = send(&gateway, "application/json", event("i", ""));
    let twice = twice.header("content-type", "application/cloudevents+json");
    assert_eq!(answer(twice).await, refused, "two content types");
    for format in ["application/cloudevents+protobuf", "application/cloudevents+avro"] {
        let request = send_binary(&gateway, &[("content-type", format.as_bytes())]);
        assert_eq!(answer(request).await, refused, "{format} with attributes in headers");
    }
}

#[tokio::test]
async fn any_content_type_but_an_event_formats_is_the_datas_in_binary_mode() {
    let gateway = Gateway::open();
    let mut reader = Reader::open(&gateway).await;
    let table: [(&str, &[u8], &str, serde_json::Value); 13] = [
        ("application/json", b" [1, 2] ", "data", json!([1, 2])),
        ("application/json; charset=utf-8", b"\"text\"", "data", json!("text")),
        ("application/vnd.x+json", b"null", "data", json!(null)),
        ("text/json", b"{}", "data", json!({})),
        // JSON in another character set is no JSON to anybody here: it is kept as it is.
        ("application/json; charset=utf-16", b"\xfe\xff\x001", "data_base64", json!("/v8AMQ==")),
        ("application/vnd.x+json; charset=latin1", b"\"\xfc\"", "data_base64", json!("Ivwi")),
        ("text/json; charset=utf-16", b"{}", "data_base64", json!("e30=")),
        ("text/plain", b"1\r\n2", "data", json!("1\r\n2")),
        ("text/html; charset=UTF-8", "ü".as_bytes(), "data", json!("ü")),
        ("text/plain; charset=iso-8859-1", b"\xfc", "data_base64", json!("/A==")),
        ("text/plain", b"\xff", "data_base64", json!("/w==")),
        ("application/octet-stream", b"\x00\xff", "data_base64", json!("AP8=")),
        ("application/xml", b"<a/>", "data_base64", json!("PGEvPg==")),
    ];
    for (number, (kind, body, member, expected)) in table.into_iter().enumerate() {
        let id = number.to_string();
        let headers = [("ce-id", id.as_bytes()), ("content-type", kind.as_bytes())];
        let (status, said) = answer(send_binary(&gateway, &headers).body(body)).await;
        assert_eq!(status, 201, "{kind}: {said}");
        let out = reader.expect(&id).await;
        assert_eq!(out["datacontenttype"], kind);
        assert_eq!(out.get(member), Some(&expected), "{kind}");
    }
    let request = send_binary(&gateway, &[("ce-id", b"bare")]).body(vec![0_u8, 1]);
    assert_eq!(answer(request).await.0, 201);
    let out = reader.expect("bare").await;
    assert_eq!((out.get("datacontenttype"), &out["data_base64"]), (None, &json!("AAE=")));
    let request = send_binary(&gateway, &[("ce-id", b"none"), ("content-type", b"text/plain")]);
    assert_eq!(answer(request).await.0, 201);
    let out = reader.expect("none").await;
    assert!(out.get("data").is_none() && out.get("data_base64").is_none(), "{out}");
    assert_eq!(out["datacontenttype"], "text/plain");
}

#[tokio::test]
async fn an_event_format_goes_before_headers_that_say_the_same() {
    let gateway = Gateway::open();
    let mut reader = Reader::open(&gateway).await;
    let request = send(&gateway, "application/cloudevents+json", event("body", ""))
        .header("ce-id", "header")
        .header("ce-specversion", "1.0")
        .header("ce-ext", "ignored");
    assert_eq!(answer(request).await.0, 201);
    assert!(reader.expect("body").await.get("ext").is_none());
}
