//! The data of an event in JSON (JSON event format §3.1): what goes in is what comes out.

use serde_json::json;

use crate::cloudevents::{Reader, STRUCTURED, answer, event, faulty, send};
use crate::gateway::Gateway;

#[tokio::test]
async fn data_come_out_as_the_bytes_that_they_were() {
    let gateway = Gateway::open();
    let mut reader = Reader::open(&gateway).await;
    let table = [
        "null",
        "true",
        "12345678901234567890.000",
        "1E+5",
        "-0",
        r#"{"b":1,"a":2,"b":3}"#,
        r#"[ 1 ,  2 ]"#,
        r#""\u00e9\/""#,
        r#""{\"not\":\"an object\"}""#,
        r#"{"data":1,"data_base64":2,"specversion":"9"}"#,
    ];
    let kinds =
        ["", r#","datacontenttype":"application/json""#, r#","datacontenttype":"a/b+json""#];
    for (number, data) in table.into_iter().enumerate() {
        for (kind_number, kind) in kinds.into_iter().enumerate() {
            let id = format!("{number}-{kind_number}");
            let body = event(&id, &format!(r#"{kind},"data":  {data} "#));
            assert_eq!(answer(send(&gateway, STRUCTURED, body)).await.0, 201, "{data}");
            let (text, out) = reader.next_text().await;
            assert_eq!(out["id"], id);
            assert!(text.contains(&format!(r#""data":{data}}}"#)), "{data} became {text}");
        }
    }
}

#[tokio::test]
async fn data_are_shown_as_their_type_asks() {
    let gateway = Gateway::open();
    let mut reader = Reader::open(&gateway).await;
    let typed = |kind: &str, rest: &str| format!(r#","datacontenttype":"{kind}",{rest}"#);
    let table = [
        (typed("text/plain", r#""data":"a\nü""#), "data", json!("a\nü")),
        (typed("text/plain", r#""data_base64":"aGk=""#), "data", json!("hi")),
        (
            typed("text/plain; charset=utf-8", r#""data_base64":"/w==""#),
            "data_base64",
            json!("/w=="),
        ),
        (typed("text/csv;charset=latin1", r#""data_base64":"/A==""#), "data_base64", json!("/A==")),
        (
            typed("application/xml", r#""data":"<a b=\"c\"/>""#),
            "data_base64",
            json!("PGEgYj0iYyIvPg=="),
        ),
        (typed("image/png", r#""data_base64":"AP8=""#), "data_base64", json!("AP8=")),
        (typed("image/png", r#""data_base64":"AP8""#), "data_base64", json!("AP8=")),
        (typed("image/png", r#""data_base64":"""#), "data_base64", json!("")),
        (typed("application/json", r#""data_base64":"eyJhIjoxfQ==""#), "data", json!({"a": 1})),
        (r#","data_base64":"AP8=""#.to_owned(), "data_base64", json!("AP8=")),
        (typed("application/json", r#""data":"1""#), "data", json!("1")),
    ];
    for (number, (more, member, expected)) in table.into_iter().enumerate() {
        let id = number.to_string();
        let (status, echo) = answer(send(&gateway, STRUCTURED, event(&id, &more))).await;
        assert_eq!(status, 201, "{more}: {echo}");
        let out = reader.expect(&id).await;
        assert_eq!(out, echo);
        assert_eq!(out.get(member), Some(&expected), "{more}");
        let other = if member == "data" { "data_base64" } else { "data" };
        assert!(out.get(other).is_none(), "{more}");
    }
}

#[tokio::test]
async fn data_that_are_no_data_are_a_fault() {
    let gateway = Gateway::open();
    let deep = format!(r#","data":{}{}"#, "[".repeat(128), "]".repeat(128));
    let table = [
        (r#","data":1,"data_base64":"AA==""#, "data_base64"),
        (r#","data":null,"data_base64":"AA==""#, "data_base64"),
        (r#","data_base64":1"#, "data_base64"),
        (r#","data_base64":{}"#, "data_base64"),
        (r#","data_base64":"%%%""#, "data_base64"),
        (r#","data_base64":"A""#, "data_base64"),
        (r#","data_base64":"_-8=""#, "data_base64"),
        (r#","datacontenttype":"application/json","data_base64":"ew==""#, "data_base64"),
        (&deep, "body"),
        (r#","data":NaN"#, "body"),
        (r#","data":{"#, "body"),
    ];
    for (more, name) in table {
        let (status, said) = answer(send(&gateway, STRUCTURED, event("i", more))).await;
        assert_eq!((status, faulty(&said)), (400, vec![name]), "{more}");
    }
    let bodies: [&[u8]; 10] = [
        b"",
        b"nonsense",
        b"[]",
        b"\"text\"",
        b"null",
        b"7",
        b"{} {}",
        b"\xef\xbb\xbf{}",
        b"{\"id\":\"\xff\"}",
        b"{\x00\"id\":\x001}",
    ];
    for body in bodies {
        let (status, said) = answer(send(&gateway, STRUCTURED, body)).await;
        let expected = (400, vec!["body"]);
        assert_eq!((status, faulty(&said)), expected, "{}", String::from_utf8_lossy(body));
    }
}

#[tokio::test]
async fn data_nest_as_deep_as_anywhere() {
    let gateway = Gateway::open();
    let deepest = format!(r#","data":{}{}"#, "[".repeat(127), "]".repeat(127));
    let response = send(&gateway, STRUCTURED, event("i", &deepest)).send().await.unwrap();
    assert_eq!(response.status(), 201);
    // Deeper than the tests' own reader goes.
    let echo = response.text().await.unwrap();
    assert!(echo.contains(&deepest), "{echo}");
}
