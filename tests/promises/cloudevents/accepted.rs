//! Events that are good, at the edges of what is: taken, echoed, and given out as they are.

use serde_json::{Value, json};

use crate::cloudevents::event::percent_encode;
use crate::cloudevents::{Reader, STRUCTURED, answer, event, send, send_binary};
use crate::gateway::Gateway;

#[tokio::test]
async fn what_an_attribute_may_be_is_kept_as_it_is_in_every_mode() {
    let gateway = Gateway::open();
    let mut reader = Reader::open(&gateway).await;
    let (type_255, name_255) = ("t".repeat(255), "x".repeat(255));
    let table: Vec<(&str, Value)> = vec![
        ("source", json!("urn:uuid:6e8bc430-9c3a-11d9-9669-0800200c9a66")),
        ("source", json!("mailto:cncf-wg-serverless@lists.cncf.io")),
        ("source", json!("../up")),
        ("source", json!("#fragment")),
        ("source", json!("https://x.test/%C3%BC?q=1")),
        ("type", json!(type_255)),
        ("type", json!("ünï cödé 😀")),
        ("subject", json!("my\"file\\new.jpg")),
        ("time", json!("1985-04-12T23:20:50.52Z")),
        ("time", json!("2026-11-21t12:00:00z")),
        ("time", json!("1990-12-31T23:59:60Z")),
        ("time", json!("1996-12-19T16:39:57-08:00")),
        ("time", json!("9999-12-31T23:59:59Z")),
        ("time", json!("2018-04-05T17:31:00.123456789012Z")),
        ("datacontenttype", json!("application/vnd.x+json; charset=\"utf-8\"")),
        ("dataschema", json!("https://x.test/schema#a")),
        ("ext", json!("")),
        ("ext", json!("Euro € 😀")),
        ("ext", json!("a line, as in the public conformance events\n")),
        ("ext", json!(true)),
        ("ext", json!(false)),
        ("ext", json!(0)),
        ("ext", json!(2_147_483_647)),
        ("ext", json!(-2_147_483_648)),
        ("ext", json!("7")),
        (&name_255, json!("v")),
        ("0", json!("a name of one digit")),
    ];
    for (number, (name, value)) in table.iter().enumerate() {
        let more = match *name {
            "source" | "type" => String::new(),
            _ => format!(r#","{name}":{value}"#),
        };
        let mut sent: Value = serde_json::from_str(&event(&format!("s{number}"), &more)).unwrap();
        sent[*name] = value.clone();
        let (status, echo) = answer(send(&gateway, STRUCTURED, sent.to_string())).await;
        assert_eq!(status, 201, "{sent}: {echo}");
        let out = reader.next().await;
        assert_eq!(echo, out, "what is echoed is what is given out");
        for (name, value) in sent.as_object().unwrap() {
            assert_eq!(&out[name], value, "{sent}");
        }

        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let id = format!("b{number}");
        let header = match *name {
            "datacontenttype" => ("content-type".to_owned(), text.clone()),
            name => (format!("ce-{name}"), percent_encode(&text)),
        };
        let headers = [("ce-id", id.as_bytes()), (&*header.0, header.1.as_bytes())];
        let response = send_binary(&gateway, &headers).send().await.unwrap();
        assert_eq!(response.status(), 201, "{headers:?}");
        assert_eq!(response.text().await.unwrap(), "", "binary mode has no echo");
        assert_eq!(reader.expect(&id).await[*name], text);
    }
}

#[tokio::test]
async fn what_is_left_out_is_filled_in_and_told() {
    let gateway = Gateway::open();
    let mut reader = Reader::open(&gateway).await;
    let (status, echo) = answer(send(&gateway, STRUCTURED, event("i", r#","data":{}"#))).await;
    assert_eq!(status, 201);
    assert_eq!(echo, reader.next().await);
    assert_eq!(echo["datacontenttype"], "application/json");
    assert!(echo["time"].as_str().unwrap().ends_with('Z'), "{echo}");
    let names: Vec<&String> = echo.as_object().unwrap().keys().collect();
    let expected = ["data", "datacontenttype", "id", "source", "specversion", "time", "type"];
    assert_eq!(names, expected);
}

#[tokio::test]
async fn a_null_is_no_value() {
    let gateway = Gateway::open();
    let mut reader = Reader::open(&gateway).await;
    let more = r#","subject":null,"time":null,"datacontenttype":null,"dataschema":null,"ext":null,
        "data_base64":null,"data":null"#;
    let (status, echo) = answer(send(&gateway, STRUCTURED, event("i", more))).await;
    assert_eq!(status, 201, "{echo}");
    let out = reader.next().await;
    for absent in ["subject", "dataschema", "ext", "data_base64"] {
        assert!(out.get(absent).is_none(), "{absent}");
    }
    assert_eq!(out.get("data"), Some(&Value::Null), "of data it is the data");
}

#[tokio::test]
async fn relaymans_json_needs_no_specversion_and_the_specifications_does() {
    let gateway = Gateway::open();
    let mut reader = Reader::open(&gateway).await;
    let table = [
        ("application/json", r#"{"id":"a","source":"/s","type":"t"}"#, 201),
        ("application/json; charset=utf-8", r#"{"id":"b","source":"/s","type":"t"}"#, 201),
        ("application/json", r#"{"specversion":null,"id":"c","source":"/s","type":"t"}"#, 201),
        ("application/json", r#"{"specversion":"1.0","id":"d","source":"/s","type":"t"}"#, 201),
        ("application/json", r#"{"specversion":"0.3","id":"e","source":"/s","type":"t"}"#, 400),
        ("application/json", r#"{"id":"f","source":"/s"}"#, 400),
        (STRUCTURED, r#"{"id":"g","source":"/s","type":"t"}"#, 400),
        ("application/json", r#"{"id":"h","source":"/s","type":"t","ext":{}}"#, 400),
    ];
    for (kind, body, status) in table {
        let (answered, said) = answer(send(&gateway, kind, body)).await;
        assert_eq!(answered, status, "{kind} {body}: {said}");
        if status == 201 {
            assert_eq!(said["specversion"], "1.0");
            assert_eq!(reader.next().await, said);
        }
    }
}
