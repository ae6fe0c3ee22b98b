use bytes::Bytes;
use proptest::prelude::*;
use serde_json::Value;

use super::attributes::{ContentType, Faults};
use super::reader::{Flavour, Invalid, read, read_for};
use super::*;
use crate::event::{Attributes, Draft, EventType, Json, Time};

const FLAVOURS: [Flavour; 3] = [Flavour::Strict, Flavour::Relayman, Flavour::Agent];

fn text(more: &str) -> String {
    format!(r#"{{"specversion":"1.0","id":"i","source":"/s","type":"t"{more}}}"#)
}

fn taken(text: &str, flavour: Flavour) -> Draft {
    read(text, flavour).unwrap_or_else(|invalid| panic!("{text}: {invalid:?}"))
}

fn faults(text: &str, flavour: Flavour) -> Value {
    let invalid = read(text, flavour).err().unwrap_or_else(|| panic!("{text} was taken"));
    serde_json::from_str(&invalid.faults.to_json()).unwrap()
}

fn names(faults: &Value) -> Vec<&str> {
    faults.as_object().unwrap().keys().map(String::as_str).collect()
}

/// What the publisher would make of a draft.
fn event(draft: Draft) -> Event {
    Event {
        event_type: draft.event_type,
        data: draft.data,
        id: draft.id.unwrap(),
        source: draft.source.unwrap(),
        subject: draft.subject,
        time: draft.time.unwrap_or_else(Time::now),
        publisher: "p".into(),
        attributes: draft.attributes,
    }
}

fn encoded(event: &Event, cursor: Option<&str>) -> String {
    let mut out = Vec::new();
    encode(event, cursor, &mut out);
    String::from_utf8(out).unwrap()
}

#[test]
fn a_media_type_says_what_the_data_are() {
    let table = [
        ("application/json", Some(ContentType::Json)),
        ("Application/JSON; charset=utf-8", Some(ContentType::Json)),
        ("text/json", Some(ContentType::Json)),
        ("a/b+json", Some(ContentType::Json)),
        ("application/vnd.x+JSON;v=1", Some(ContentType::Json)),
        ("application/json ; charset=utf-8", Some(ContentType::Json)),
        (" application/json\t;\tcharset=utf-8 ;; x=\"a ; b\" ; ", Some(ContentType::Json)),
        ("text/plain;charset=\"utf-16\" ", Some(ContentType::OtherText)),
        ("text/plain;x=\"; charset=utf-16\"", Some(ContentType::Text)),
        ("text/plain;", Some(ContentType::Text)),
        ("application/jsonp", Some(ContentType::Other)),
        ("application/json-seq", Some(ContentType::Other)),
        ("text/plain", Some(ContentType::Text)),
        ("TEXT/HTML;charset=\"UTF-8\"", Some(ContentType::Text)),
        ("text/plain; charset=us-ascii", Some(ContentType::Text)),
        ("text/plain; charset=utf-16", Some(ContentType::OtherText)),
        ("application/xml", Some(ContentType::Other)),
        ("application/octet-stream", Some(ContentType::Other)),
        ("json", None),
        ("", None),
        ("text/", None),
        ("/plain", None),
        ("/", None),
        ("*/*", None),
        ("text/*", None),
        ("text/plain text/html", None),
        ("a b/c", None),
    ];
    for (text, expected) in table {
        assert_eq!(ContentType::parse(text), expected, "{text}");
    }
}

#[test]
fn bytes_are_what_their_type_says_where_they_can_be() {
    let read = |kind: Option<ContentType>, bytes: &'static [u8]| {
        ContentType::read(kind.as_ref(), Bytes::from_static(bytes))
    };
    let json = |text: &'static [u8]| Some(Data::Json(Json::from_checked(Bytes::from_static(text))));
    let binary = |bytes: &'static [u8]| Some(Data::Binary(Bytes::from_static(bytes)));
    assert_eq!(read(Some(ContentType::Json), b" [1] \n"), json(b"[1]"));
    assert_eq!(read(Some(ContentType::Json), b"[1"), None);
    assert_eq!(read(Some(ContentType::Json), b"\"\xff\""), None);
    assert_eq!(read(Some(ContentType::Text), b"[1]"), Some(Data::Text("[1]".into())));
    assert_eq!(read(Some(ContentType::Text), b"\xff"), binary(b"\xff"));
    for kind in [Some(ContentType::OtherText), Some(ContentType::Other), None] {
        assert_eq!(read(kind, b"{}"), binary(b"{}"), "{kind:?}");
    }
}

#[test]
fn each_dialect_has_its_own_liberties() {
    let bare = r#"{"id":"i","source":"/s","type":"t"}"#;
    let timed = text(r#","time":17"#);
    let meta = text(r#","meta":{"a":[1]}"#);
    let list = text(r#","meta":[1]"#);
    let table = [
        (bare, [false, true, true]),
        (&timed, [false, false, true]),
        (&meta, [false, false, true]),
        (&list, [false, false, false]),
    ];
    for (text, expected) in table {
        let taken = FLAVOURS.map(|flavour| read(text, flavour).is_ok());
        assert_eq!(taken, expected, "{text}");
    }
    let draft = taken(&meta, Flavour::Agent);
    let extensions = draft.attributes.unwrap().extensions.clone();
    assert_eq!(extensions, [("meta".into(), Json::from_checked(Bytes::from(r#"{"a":[1]}"#)))]);
    assert_eq!(names(&faults(r#"{"type":1}"#, Flavour::Agent)), ["id", "source", "type"]);
}

#[test]
fn an_identity_is_told_though_the_rest_is_no_good() {
    let id = |text: &str| read(text, Flavour::Strict).unwrap_err().id;
    assert_eq!(id(r#"{"id":"i"}"#).as_deref(), Some("i"));
    for text in [r#"{"id":7}"#, r#"{"id":""}"#, "{}", "[]", "7", "nonsense", r#"{"id":"i""#] {
        assert_eq!(id(text), None, "{text}");
    }
}

#[test]
fn every_fault_is_told_by_its_attribute_and_no_more_than_a_hundred() {
    let broken = r#"{"specversion":"2","id":"","type":"\u0000","ext":null,"X":null,"Y":1}"#;
    let faults = faults(broken, Flavour::Strict);
    assert_eq!(names(&faults), ["Y", "id", "source", "specversion", "type"]);
    assert_eq!(faults["source"], serde_json::json!(["is missing"]));
    let mut many = Faults::default();
    for number in 0..1000 {
        many.add(&format!("a{number}"), "is bad");
    }
    let many: Value = serde_json::from_str(&many.to_json()).unwrap();
    assert_eq!(many.as_object().unwrap().len(), 100);
    let long = Faults::of(&"ü".repeat(1000), "is long").to_json();
    assert_eq!(long, format!(r#"{{"{}":["is long"]}}"#, "ü".repeat(64)));
}

#[test]
fn half_a_character_is_a_fault_of_its_attribute_alone() {
    for name in ["id", "subject", "ext"] {
        let body = r#"{"specversion":"1.0","id":"i","source":"/s","type":"t"}"#;
        let broken = match name {
            "id" => body.replace(r#""id":"i""#, r#""id":"\ud800""#),
            _ => body.replace('}', &format!(r#","{name}":"\ud800"}}"#)),
        };
        assert_eq!(names(&faults(&broken, Flavour::Strict)), [name], "{broken}");
    }
}

#[test]
fn channels_are_kept_with_the_event_and_are_no_attributes() {
    let channels = vec![EventType::parse("a").unwrap(), EventType::parse("b").unwrap()];
    let draft = read_for(&text(""), Flavour::Agent, channels.clone()).unwrap();
    let event = event(draft);
    assert_eq!(event.channels(), channels);
    let out: Value = serde_json::from_str(&encoded(&event, None)).unwrap();
    assert_eq!(names(&out), ["id", "source", "specversion", "time", "type"]);
}

#[test]
fn the_cursor_is_ours_where_it_is_asked_for_and_the_publishers_elsewhere() {
    let event = event(taken(&text(r#","cursor":"theirs""#), Flavour::Strict));
    let cursor = |text: String| serde_json::from_str::<Value>(&text).unwrap()["cursor"].clone();
    assert_eq!(cursor(encoded(&event, None)), "theirs");
    let text = encoded(&event, Some("e-1"));
    assert_eq!(text.matches("cursor").count(), 1, "{text}");
    assert_eq!(cursor(text), "e-1");
}

#[test]
fn an_event_is_found_whole_between_blanks_and_nowhere_else() {
    let good = text(r#","data":1"#);
    assert!(read(&format!(" \r\n\t{good}\n "), Flavour::Strict).is_ok());
    for bad in [format!("{good},"), format!("{good}{good}"), format!("\u{a0}{good}"), String::new()]
    {
        let Invalid { faults, .. } = read(&bad, Flavour::Strict).unwrap_err();
        assert_eq!(faults, Faults::of("body", "is not JSON"), "{bad:?}");
    }
}

fn word() -> impl Strategy<Value = String> {
    // Whatever an attribute may hold: no control characters, none that is no character.
    let forbidden = |it: &char| {
        it.is_control()
            || u32::from(*it) & 0xFFFE == 0xFFFE
            || ('\u{fdd0}'..='\u{fdef}').contains(it)
            || matches!(it, '\u{2028}' | '\u{2029}')
    };
    let character = any::<char>().prop_filter("allowed", move |it| !forbidden(it));
    prop::collection::vec(character, 1..20).prop_map(String::from_iter)
}

fn extension() -> impl Strategy<Value = Value> {
    prop_oneof![
        word().prop_map(Value::from),
        any::<i32>().prop_map(Value::from),
        any::<bool>().prop_map(Value::from),
        Just(Value::from("")),
    ]
}

fn data() -> impl Strategy<Value = (Option<&'static str>, Option<Data>)> {
    let json = |value: Value| Data::Json(Json::from_checked(value.to_string().into()));
    prop_oneof![
        Just((None, None)),
        Just((Some("text/plain"), None)),
        extension().prop_map(move |it| (Some("application/json"), Some(json(it)))),
        any::<String>().prop_map(|it| (Some("text/plain"), Some(Data::Text(it.into())))),
        any::<Vec<u8>>().prop_map(|it| (Some("image/png"), Some(Data::Binary(it.into())))),
        any::<Vec<u8>>().prop_map(|it| (None, Some(Data::Binary(it.into())))),
    ]
}

proptest! {
    /// What is written is read as what it was.
    #[test]
    fn what_is_written_is_read_as_the_same_event(
        id in word(),
        event_type in word(),
        subject in prop::option::of(word()),
        has_schema in any::<bool>(),
        extensions in prop::collection::btree_map("x[a-z0-9]{1,8}", extension(), 0..5),
        (content_type, data) in data(),
    ) {
        let extension = |(name, value): (String, Value)| {
            (name.into(), Json::from_checked(value.to_string().into()))
        };
        let attributes = Attributes {
            content_type: content_type.map(Into::into),
            schema: has_schema.then(|| "https://x.test/s".into()),
            extensions: extensions.into_iter().map(extension).collect(),
            channels: Vec::new(),
        };
        let written = Event {
            event_type: EventType::parse(event_type).unwrap(),
            data,
            id: id.into(),
            source: "/s".into(),
            subject: subject.map(Into::into),
            time: Time::now(),
            publisher: "p".into(),
            attributes: (!attributes.is_empty()).then(|| attributes.into()),
        };
        for flavour in FLAVOURS {
            let read = event(taken(&encoded(&written, None), flavour));
            prop_assert_eq!(&read, &written);
        }
    }
}
