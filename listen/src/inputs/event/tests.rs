use super::*;

fn draft(body: &str) -> Option<Draft> {
    read_draft(&Bytes::copy_from_slice(body.as_bytes())).ok()
}

fn data(body: &str) -> Option<String> {
    let data = draft(body).unwrap().data?;
    Some(String::from_utf8(data.as_bytes().to_vec()).unwrap())
}

#[test]
fn data_is_the_very_bytes_of_the_body() {
    for text in [
        "null",
        "1e400",
        "12345678901234567890.000",
        r#"{"b":1,"a":2,"b":3}"#,
        r#""\u00e9\/""#,
        r#"[ 1 ,  2 ]"#,
        r#""\ud800""#,
    ] {
        let body = format!(r#" {{ "event" : "a" , "data" :  {text} , "more": [] }} "#);
        assert_eq!(data(&body).as_deref(), Some(text));
    }
    assert_eq!(data(r#"{"event":"a"}"#), None);
}

#[test]
fn what_is_no_event_is_refused() {
    let deep = format!(r#"{{"event":"a","data":{}{}}}"#, "[".repeat(128), "]".repeat(128));
    let long = format!(r#"{{"event":"{}"}}"#, "x".repeat(256));
    for body in [
        "",
        "nonsense",
        "[]",
        r#"["a"]"#,
        "\"a\"",
        "null",
        "{}",
        r#"{"event":1}"#,
        r#"{"event":null}"#,
        r#"{"event":""}"#,
        r#"{"event":"a\n"}"#,
        r#"{"event":"\u2028"}"#,
        r#"{"event":"\ud800"}"#,
        r#"{"event":"a","event":"a"}"#,
        r#"{"event":"a","data":1,"data":1}"#,
        r#"{"event":"a","data":NaN}"#,
        r#"{"event":"a","data":Infinity}"#,
        r#"{"event":"a"} x"#,
        r#"{"event":"a","data":}"#,
        r#"{"event":"a","id":""}"#,
        r#"{"event":"a","source":""}"#,
        r#"{"event":"a","time":"yesterday"}"#,
        "\u{feff}{\"event\":\"a\"}",
        &deep,
        &long,
    ] {
        assert!(draft(body).is_none(), "{body}");
    }
    assert!(read_draft(&Bytes::from_static(b"{\"event\":\"a\xff\"}")).is_err());
    assert!(read_draft(&Bytes::from_static(b"{\"event\":\"a\",\"x\":\"\xff\"}")).is_err());
}

#[test]
fn nesting_is_counted_from_the_outer_object() {
    let nested = |depth: usize| {
        format!(r#"{{"event":"a","data":{}{}}}"#, "[".repeat(depth), "]".repeat(depth))
    };
    assert!(draft(&nested(127)).is_some());
    assert!(draft(&nested(128)).is_none());
}

#[test]
fn optional_members_of_another_kind_are_ignored() {
    let draft = draft(r#"{"event":"a","id":7,"source":{},"subject":[],"time":null}"#).unwrap();
    assert!(draft.id.is_none() && draft.source.is_none());
    assert!(draft.subject.is_none() && draft.time.is_none());
}

#[test]
fn optional_members_are_taken() {
    let body = r#"{"event":"a","id":"i","source":"/s","subject":"","time":"2026-11-21T12:00:00Z"}"#;
    let draft = draft(body).unwrap();
    assert_eq!(draft.id.unwrap(), "i");
    assert_eq!(draft.source.unwrap(), "/s");
    assert_eq!(draft.subject.unwrap(), "");
    assert_eq!(draft.time.unwrap().as_str(), "2026-11-21T12:00:00Z");
}
