//! How a header's value is read (HTTP protocol binding §3.1.3.2): quotes undone, then one percent-decoding.

use crate::cloudevents::{Reader, answer, faulty, send_binary};
use crate::gateway::{Gateway, TOKEN};
use crate::wire::Wire;

#[tokio::test]
async fn a_header_is_unquoted_and_then_percent_decoded_once() {
    let gateway = Gateway::open();
    let mut reader = Reader::open(&gateway).await;
    let table: [(&[u8], &str); 24] = [
        (b"plain", "plain"),
        (b"Euro%20%E2%82%AC%20%F0%9F%98%80", "Euro € 😀"),
        (b"%c3%bc", "ü"),
        (b"%C3%bc", "ü"),
        (b"a b", "a b"),
        (b"a+b", "a+b"),
        (b"%41%62c", "Abc"),
        (b"%2520", "%20"),
        (b"%25", "%"),
        (b"%22", "\""),
        (b"%5C", "\\"),
        (b"\"quoted\"", "quoted"),
        (b"\"a b\"", "a b"),
        (b"\"a\\\"b\"", "a\"b"),
        (b"\"a\\\\b\"", "a\\b"),
        (b"\"a%20b\"", "a b"),
        (b"\"a\\%20b\"", "a b"),
        (b"\"%22a%22\"", "\"a\""),
        (b"%22a%22", "\"a\""),
        (b"\"\"", ""),
        (b"a\"b\"c", "a\"b\"c"),
        (b"a\\b", "a\\b"),
        ("ü".as_bytes(), "ü"),
        (b"(a comment)", "(a comment)"),
    ];
    for (number, (value, expected)) in table.into_iter().enumerate() {
        let id = number.to_string();
        let headers = [("ce-id", id.as_bytes()), ("ce-ext", value)];
        let (status, said) = answer(send_binary(&gateway, &headers)).await;
        assert_eq!(status, 201, "{}: {said}", String::from_utf8_lossy(value));
        let out = reader.expect(&id).await;
        assert_eq!(out["ext"], expected, "{}", String::from_utf8_lossy(value));
    }
}

#[tokio::test]
async fn a_header_that_is_not_utf_8_or_holds_a_control_character_is_a_fault() {
    let gateway = Gateway::open();
    let table: [&[u8]; 10] = [
        b"%ff",
        b"%C0%A0",
        b"%E2%82",
        b"%ED%A0%80",
        b"\xff",
        b"\"\xc3\"",
        b"%00",
        b"%0A",
        b"%7f",
        b"%C2%85",
    ];
    for value in table {
        for name in ["id", "subject", "ext"] {
            let (status, said) =
                answer(send_binary(&gateway, &[(&format!("ce-{name}"), value)])).await;
            let expected = (400, vec![name]);
            assert_eq!((status, faulty(&said)), expected, "{}", String::from_utf8_lossy(value));
        }
    }
}

#[tokio::test]
async fn a_headers_name_has_any_case_and_its_value_blanks_around_it() {
    let gateway = Gateway::open();
    let mut reader = Reader::open(&gateway).await;
    let request = format!(
        "POST /Events/ HTTP/1.1\r\nHost: test\r\nauthorization: basic {TOKEN}\r\n\
         CE-SpecVersion:1.0\r\nCe-Id:  i \t\r\ncE-SOURCE: /s\r\nce-type: t\r\nCE-MyExt: v\r\n\
         ce-empty:\r\nnot-ce-ext: x\r\ncookie: ce-x=1\r\nCONTENT-type: Text/Plain\r\n\
         Content-Length: 2\r\n\r\nok"
    );
    let (head, body) = Wire::exchange(&gateway.listen, request).await;
    assert!(head.starts_with("HTTP/1.1 201 "), "{head}{body}");
    let mut out = reader.expect("i").await;
    out.as_object_mut().unwrap().remove("time");
    let expected = serde_json::json!({
        "specversion": "1.0", "id": "i", "source": "/s", "type": "t", "myext": "v", "empty": "",
        "datacontenttype": "Text/Plain", "data": "ok"
    });
    assert_eq!(out, expected);
}
