use actix_web::http::header::HeaderName;
use shared::event::Data;

use super::*;

fn headers(lines: &[(&str, &[u8])]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in lines {
        let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
        headers.append(name, HeaderValue::from_bytes(value).unwrap());
    }
    headers
}

fn mode(content_type: &str, has_attributes: bool) -> Option<Mode> {
    let mut lines = vec![("content-type", content_type.as_bytes())];
    lines.extend(has_attributes.then_some(("ce-specversion", &b"1.0"[..])));
    Mode::of(&headers(&lines))
}

#[test]
fn the_content_type_says_the_mode_and_else_the_headers_do() {
    let strict = Some(Mode::Structured(Flavour::Strict));
    let relayman = Some(Mode::Structured(Flavour::Relayman));
    // With and without attributes in headers.
    let table = [
        ("application/cloudevents+json", strict, strict),
        (" Application/CloudEvents+Json ; charset=UTF-8 ", strict, strict),
        ("application/cloudevents-batch+json", Some(Mode::Batch), Some(Mode::Batch)),
        ("application/cloudevents+avro", None, None),
        ("application/cloudevents+protobuf", None, None),
        ("application/cloudevents-batch+avro", None, None),
        ("application/cloudevents+json; charset=utf-16", None, None),
        ("application/json", Some(Mode::Binary), relayman),
        ("application/json; charset=utf-16", Some(Mode::Binary), None),
        ("text/plain", Some(Mode::Binary), None),
        ("nonsense", Some(Mode::Binary), None),
        ("", Some(Mode::Binary), None),
    ];
    for (content_type, with, without) in table {
        assert_eq!(mode(content_type, true), with, "{content_type}");
        assert_eq!(mode(content_type, false), without, "{content_type}");
    }
    assert_eq!(Mode::of(&headers(&[])), None);
    assert_eq!(Mode::of(&headers(&[("ce-specversion", b"1.0")])), Some(Mode::Binary));
    let twice = [("content-type", &b"application/json"[..]), ("content-type", b"application/json")];
    assert_eq!(Mode::of(&headers(&twice)), None);
}

fn read(more: &[(&str, &[u8])], body: &'static [u8]) -> Result<Draft, Faults> {
    let required: [(&str, &[u8]); 4] =
        [("ce-specversion", b"1.0"), ("ce-id", b"i"), ("ce-source", b"/s"), ("ce-type", b"t")];
    binary::read(&headers(&[&required[..], more].concat()), &Bytes::from_static(body))
}

fn extension(value: &[u8]) -> Option<String> {
    let draft = read(&[("ce-ext", value)], b"").ok()?;
    let attributes = draft.attributes?;
    let (name, value) = attributes.extensions.first()?;
    assert_eq!(name, "ext");
    serde_json::from_slice(value.as_bytes()).ok()
}

#[test]
fn a_value_is_unquoted_first_and_then_decoded_once() {
    let table: [(&[u8], Option<&str>); 14] = [
        (b"a", Some("a")),
        (b"", Some("")),
        (b"%20", Some(" ")),
        (b"%2520", Some("%20")),
        (b"100%", Some("100%")),
        (b"%4", Some("%4")),
        (b"\"a\\\"%20\\b\"", Some("a\" b")),
        (b"\"", Some("\"")),
        (b"\"a", Some("\"a")),
        (b"%22a%22", Some("\"a\"")),
        (b"\xc3\xbc%C3%BC", Some("üü")),
        (b"%ff", None),
        (b"\xff", None),
        (b"%0a", None),
    ];
    for (value, expected) in table {
        assert_eq!(extension(value).as_deref(), expected, "{}", String::from_utf8_lossy(value));
    }
}

#[test]
fn headers_of_others_are_no_attributes() {
    let draft = read(&[("x-ce-ext", b"1"), ("cookie", b"ce-a=1"), ("cex", b"1")], b"").unwrap();
    assert!(draft.attributes.is_none());
}

#[test]
fn a_body_is_what_its_content_type_says() {
    let of = |kind: &'static str, body: &'static [u8]| {
        read(&[("content-type", kind.as_bytes())], body).unwrap().data
    };
    assert_eq!(of("application/json", b""), None);
    assert!(
        matches!(of("application/json", b" {} "), Some(Data::Json(json)) if **json.as_bytes() == *b"{}")
    );
    assert_eq!(of("text/plain", b"{}"), Some(Data::Text("{}".into())));
    assert_eq!(of("", b"{}"), Some(Data::Binary(Bytes::from_static(b"{}"))));
    let faults = read(&[("content-type", b"application/json")], b"{").unwrap_err();
    assert!(faults.to_json().starts_with(r#"{"data":["#), "{faults:?}");
}

#[test]
fn text_that_is_no_event_is_a_fault_of_the_body() {
    let deep = format!("{}{}", "[".repeat(129), "]".repeat(129));
    for body in ["", "[]", "nonsense", &deep] {
        let faults = read_structured(&Bytes::from(body.to_owned()), Flavour::Strict).unwrap_err();
        assert!(faults.to_json().starts_with(r#"{"body":["#), "{body}: {faults:?}");
    }
    let faults = read_structured(&Bytes::from_static(b"\xff"), Flavour::Strict).unwrap_err();
    assert_eq!(faults, Faults::of("body", "is not UTF-8"));
}
