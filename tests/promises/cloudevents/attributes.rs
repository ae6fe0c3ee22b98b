//! The rules of attributes (CloudEvents 1.0.2 §2 and §3), each broken alone and all at once.

use serde_json::{Value, json};

use crate::cloudevents::event::percent_encode;
use crate::cloudevents::{BATCH, Reader, STRUCTURED, answer, event, faulty, send, send_binary};
use crate::gateway::Gateway;

/// An event in which one member is this; without it, if it is nothing.
fn with(name: &str, value: Option<&Value>) -> String {
    let mut event: Value = serde_json::from_str(&event("i", "")).unwrap();
    let members = event.as_object_mut().unwrap();
    match value {
        Some(value) => members.insert(name.to_owned(), value.clone()),
        None => members.remove(name),
    };
    event.to_string()
}

/// That an event is refused for this attribute alone, in every mode that can carry it.
async fn refused(gateway: &Gateway, name: &str, value: Option<&Value>) {
    let event = with(name, value);
    let (status, said) = answer(send(gateway, STRUCTURED, event.clone())).await;
    assert_eq!((status, faulty(&said)), (400, vec![name]), "structured {event}");

    let (status, said) = answer(send(gateway, BATCH, format!("[{event}]"))).await;
    assert_eq!((status, &said[0]["code"]), (200, &json!("INVALID")), "batch {event}");
    let errors = said[0]["errors"].as_object().unwrap();
    assert_eq!(errors.keys().collect::<Vec<_>>(), [name], "batch {event}");

    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
    // A header has a name of such characters, and no types.
    let is_header = name.bytes().all(is_token) && !name.bytes().any(|it| it.is_ascii_uppercase());
    let (true, Some(Value::String(text))) = (is_header && !name.is_empty(), value) else { return };
    let (header, value) = match name {
        // An empty one is none.
        "datacontenttype" if text.is_empty() => return,
        "datacontenttype" => ("content-type".to_owned(), text.clone()),
        _ => (format!("ce-{name}"), percent_encode(text)),
    };
    let request = send_binary(gateway, &[(&header, value.as_bytes())]);
    let (status, said) = answer(request).await;
    assert_eq!((status, faulty(&said)), (400, vec![name]), "binary {header}: {value}");
}

#[tokio::test]
async fn a_broken_rule_is_told_by_its_attribute_in_every_mode() {
    let gateway = Gateway::open();
    let (long, name) = ("x".repeat(256), "x".repeat(256));
    let table: Vec<(&str, Vec<Value>)> = vec![
        ("specversion", vec![json!("0.3"), json!("1"), json!("1.0.2"), json!(""), json!(1.0)]),
        ("id", vec![json!(""), json!(7), json!(true), json!({}), json!("a\u{0}b"), json!("\n")]),
        ("id", vec![json!("\u{7f}"), json!("\u{85}"), json!("\u{fffe}"), json!("\u{1ffff}")]),
        ("source", vec![json!(""), json!("a b"), json!("http://[x"), json!("%zz"), json!([])]),
        ("type", vec![json!(""), json!(long), json!("a\u{2028}"), json!("a\tb"), json!(true)]),
        ("subject", vec![json!(""), json!(1), json!("\u{1}"), json!("\u{fdd0}"), json!(["s"])]),
        ("time", vec![json!("yesterday"), json!("2026-11-21"), json!(""), json!(1_795_000_000)]),
        ("time", vec![json!("2026-02-30T00:00:00Z"), json!("2026-11-21T12:00:00")]),
        ("time", vec![json!("2026-11-21 12:00:00Z"), json!("2026-11-21T12:00:00+0100")]),
        ("time", vec![json!("2026-11-21T12:00:00+24:00"), json!("2026-11-21T12:00:00+01:60")]),
        ("datacontenttype", vec![json!("json"), json!("*/*"), json!("text/*"), json!("a b/c")]),
        ("datacontenttype", vec![json!(""), json!(3), json!("text/")]),
        ("dataschema", vec![json!("schema.json"), json!("/a"), json!(""), json!("http://[x")]),
        ("dataschema", vec![json!(false), json!("https://x.test/a b")]),
        ("myExt", vec![json!("v")]),
        ("my-ext", vec![json!("v")]),
        ("my_ext", vec![json!("v")]),
        ("é", vec![json!("v")]),
        ("", vec![json!("v")]),
        ("ext", vec![json!(1.5), json!(2_147_483_648_u32), json!(-2_147_483_649_i64), json!(1e3)]),
        ("ext", vec![json!({}), json!({"a": 1}), json!([]), json!(["a"])]),
        ("ext", vec![json!("\u{1}"), json!("a\nb"), json!("\u{9f}"), json!("\u{ffff}")]),
        // One line feed may end an extension, and nothing else like it.
        ("ext", vec![json!("\n"), json!("a\n\n"), json!("a\r\n"), json!("a\t"), json!("\na")]),
        ("id", vec![json!("a\n")]),
        ("subject", vec![json!("a\n")]),
        ("type", vec![json!("a\n")]),
    ];
    let mut count = 0;
    for (name, values) in &table {
        for value in values {
            refused(&gateway, name, Some(value)).await;
            count += 1;
        }
    }
    assert!(count >= 60, "{count}");
    for name in ["specversion", "id", "source", "type"] {
        refused(&gateway, name, None).await;
        refused(&gateway, name, Some(&Value::Null)).await;
    }
    // So much of a long name is told that it can be found.
    let (status, said) = answer(send(&gateway, STRUCTURED, with(&name, Some(&json!("v"))))).await;
    assert_eq!((status, faulty(&said)), (400, vec![&name[..64]]));
    let nothing = answer(send(&gateway, STRUCTURED, event("only", ""))).await;
    assert_eq!(nothing.0, 201);
    Reader::open(&gateway).await.expect("only").await;
}

#[tokio::test]
async fn required_headers_that_are_missing_are_all_named() {
    let gateway = Gateway::open();
    let request = crate::cloudevents::bare(&gateway)
        .header("authorization", format!("Basic {}", crate::gateway::TOKEN))
        .header("ce-specversion", "1.0");
    let (status, said) = answer(request).await;
    assert_eq!((status, faulty(&said)), (400, vec!["id", "source", "type"]));
}

#[tokio::test]
async fn all_faults_of_an_event_are_told_at_once() {
    let gateway = Gateway::open();
    let body = r#"{"specversion":"1.0","source":"a b","type":"t","time":"now","subject":3,
        "datacontenttype":"x","dataschema":"y","Bad":1,"ext":[],"data":1,"data_base64":"AA=="}"#;
    let (status, said) = answer(send(&gateway, STRUCTURED, body)).await;
    assert_eq!(status, 400);
    let expected = [
        "Bad",
        "data_base64",
        "datacontenttype",
        "dataschema",
        "ext",
        "id",
        "source",
        "subject",
        "time",
    ];
    assert_eq!(faulty(&said), expected, "{said}");
    assert_eq!(said["errors"]["id"], json!(["is missing"]));
    assert_eq!(said["errors"]["time"], json!(["is not RFC 3339"]));

    let headers: [(&str, &[u8]); 5] = [
        ("ce-id", b""),
        ("ce-time", b"now"),
        ("ce-specversion", b"2.0"),
        ("ce-a-b", b"1"),
        ("content-type", b"application/json"),
    ];
    let (status, said) = answer(send_binary(&gateway, &headers).body("{")).await;
    assert_eq!(status, 400);
    assert_eq!(faulty(&said), ["a-b", "data", "id", "specversion", "time"], "{said}");
}

#[tokio::test]
async fn a_member_that_stands_twice_is_a_fault_and_so_is_a_header() {
    let gateway = Gateway::open();
    let table = [
        (r#","id":"j""#, "id"),
        (r#","type":"t""#, "type"),
        (r#","ext":1,"ext":1"#, "ext"),
        (r#","data":1,"data":1"#, "data"),
        (r#","data_base64":"","data_base64":"""#, "data_base64"),
    ];
    for (more, name) in table {
        let (status, said) = answer(send(&gateway, STRUCTURED, event("i", more))).await;
        assert_eq!((status, faulty(&said)), (400, vec![name]), "{more}");
    }
    for name in ["ce-id", "ce-specversion", "ce-ext"] {
        let request = send_binary(&gateway, &[(name, b"1.0")]).header(name, "1.0");
        let (status, said) = answer(request).await;
        assert_eq!((status, faulty(&said)), (400, vec![&name[3..]]), "{name}");
    }
    let request = send_binary(&gateway, &[("ce-datacontenttype", b"text/plain")]);
    let (status, said) = answer(request).await;
    assert_eq!((status, faulty(&said)), (400, vec!["datacontenttype"]));
}
