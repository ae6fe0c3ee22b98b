use std::rc::Rc;

use actix_http::ws::OpCode;
use bytes::Bytes;
use shared::event::{Data, Event, EventType, Json, Time};
use shared::memory::Memory;
use shared::tokens::file;

use super::*;
use crate::outbox::Outbox;
use crate::websocket::frame::frame;

const ALL: &str = "0123456789abcdef\nnarrow-token-0001 subscribe=order.>\nold-token-0000001 \
                   expires=2001-01-01T00:00:00Z\n";

/// One client before its first message.
struct Talk {
    native: Native,
    hub: Hub,
    tokens: Tokens,
    epoch: Epoch,
}

impl Talk {
    fn new(tokens: &str) -> Self {
        let mut hub = Hub::default();
        let id = hub.enter(Rc::new(Outbox::new(1, &Memory::new(1))), &PLAIN);
        Self {
            native: Native::new(id, None),
            hub,
            tokens: file::parse(tokens.as_bytes()).0,
            epoch: "k3f9a2".parse().unwrap(),
        }
    }

    fn say(&mut self, text: &str) -> Outcome {
        let court =
            Court { tokens: &self.tokens, patterns_max: 3, hub: &mut self.hub, epoch: &self.epoch };
        self.native.receive(text, court)
    }

    fn code(&mut self, text: &str) -> &'static str {
        self.say(text).code()
    }

    fn subscribed(&self) -> Vec<&str> {
        self.native.session().map_or(vec![], |it| it.patterns().map(Pattern::as_str).collect())
    }
}

fn init(token: &str, events: &str) -> String {
    format!(r#"{{"authentication":"Basic {token}","events":{events}}}"#)
}

#[test]
fn a_valid_init_is_answered_and_subscribes() {
    let mut talk = Talk::new(ALL);
    let reaction = talk.say(&init("0123456789abcdef", r#"["a","order.*","a"]"#));
    assert_eq!(reaction.answer.as_deref(), Some(r#"{"type":"init","code":"OK"}"#));
    assert_eq!((reaction.disconnect, reaction.is_refused), (None, false));
    assert_eq!(talk.subscribed(), ["a", "order.*"]);
}

#[test]
fn each_fault_has_its_code_and_the_first_in_order_wins() {
    let deep = format!("{}{}", "[".repeat(129), "]".repeat(129));
    let token = "0123456789abcdef";
    let table = [
        ("", "INVALID_SYNTAX"),
        ("nonsense", "INVALID_SYNTAX"),
        ("{", "INVALID_SYNTAX"),
        (&deep, "INVALID_SYNTAX"),
        (r#"{"events":[],"events":[]}"#, "INVALID_SYNTAX"),
        ("[]", "INVALID_EVENTS_MISSING"),
        ("\"x\"", "INVALID_EVENTS_MISSING"),
        ("null", "INVALID_EVENTS_MISSING"),
        ("7", "INVALID_EVENTS_MISSING"),
        ("{}", "INVALID_EVENTS_MISSING"),
        (r#"{"events":null}"#, "INVALID_EVENTS_MISSING"),
        (r#"{"events":"a"}"#, "INVALID_EVENTS_MISSING"),
        (r#"{"events":["a",1]}"#, "INVALID_EVENTS_MISSING"),
        (r#"{"authentication":7,"events":1}"#, "INVALID_EVENTS_MISSING"),
        (r#"{"authentication":7,"events":[]}"#, "UNAUTHENTICATED"),
        (r#"{"authentication":null,"events":[]}"#, "UNAUTHENTICATED"),
        (r#"{"events":[]}"#, "UNAUTHENTICATED"),
        (r#"{"authentication":"Bearer 0123456789abcdef","events":[]}"#, "AUTH_UNRECOGNIZED_SCHEME"),
        (&init("unknown-unknown-1", r#"["a","b","c","d"]"#), "UNAUTHENTICATED"),
        (&init("old-token-0000001", "[]"), "UNAUTHENTICATED"),
        (&init("short", "[]"), "UNAUTHENTICATED"),
        (&init(token, r#"["a","b","c",""]"#), "TOO_MANY_EVENTS"),
        (&init(token, r#"["a","b",""]"#), "INVALID_EVENTS"),
        (&init(token, r#"["a\n"]"#), "INVALID_EVENTS"),
        (&init(token, r#"["a","\ud800"]"#), "INVALID_EVENTS"),
        (&init("unknown-unknown-1", r#"["\ud800"]"#), "UNAUTHENTICATED"),
        (&init("narrow-token-0001", r#"["invoice",""]"#), "INVALID_EVENTS"),
        (&init("narrow-token-0001", r#"["order.paid",">"]"#), "FORBIDDEN"),
        (&init("narrow-token-0001", r#"["order.>"]"#), "OK"),
        (&init(token, "[]"), "OK"),
    ];
    for (text, expected) in table {
        let mut talk = Talk::new(ALL);
        assert_eq!(talk.code(text), expected, "{text}");
        let is_subscribed = !talk.subscribed().is_empty();
        assert!(expected == "OK" || !is_subscribed, "a refusal subscribes nothing: {text}");
    }
}

#[test]
fn a_list_at_the_limit_of_types_is_taken_and_repetition_is_not_counted() {
    let mut talk = Talk::new(ALL);
    assert_eq!(talk.code(&init("0123456789abcdef", r#"["a","b","c","a"]"#)), "OK");
    assert_eq!(talk.code(r#"{"events":["b"]}"#), "OK");
    assert_eq!(talk.code(r#"{"events":["d"]}"#), "TOO_MANY_EVENTS");
    assert_eq!(talk.subscribed(), ["a", "b", "c"]);
}

#[test]
fn a_later_init_adds_and_needs_no_credential() {
    let mut talk = Talk::new(ALL);
    talk.say(&init("0123456789abcdef", r#"["a"]"#));
    assert_eq!(talk.code(r#"{"events":["b"]}"#), "OK");
    assert_eq!(talk.subscribed(), ["a", "b"]);
    assert_eq!(talk.code(&init("unknown-unknown-1", r#"["c"]"#)), "UNAUTHENTICATED");
    assert_eq!(talk.subscribed(), ["a", "b"], "a refused one changes nothing");
}

#[test]
fn another_token_judges_what_was_subscribed_before() {
    let mut talk = Talk::new(ALL);
    talk.say(&init("0123456789abcdef", r#"["order.paid"]"#));
    assert_eq!(talk.say(&init("narrow-token-0001", "[]")).disconnect, None);
    assert_eq!(talk.code(r#"{"events":["invoice"]}"#), "FORBIDDEN");

    let mut talk = Talk::new(ALL);
    talk.say(&init("0123456789abcdef", r#"["invoice"]"#));
    let reaction = talk.say(&init("narrow-token-0001", r#"["order.paid"]"#));
    assert_eq!((reaction.code(), reaction.disconnect), ("OK", Some(Disconnect::Forbidden)));
}

#[test]
fn the_third_failure_is_answered_and_then_ends_the_connection() {
    let mut talk = Talk::new(ALL);
    talk.say(&init("0123456789abcdef", "[]"));
    let wrong = [
        init("unknown-unknown-1", "[]"),
        r#"{"type":"auth","authentication":"Bearer x"}"#.to_owned(),
        r#"{"type":"auth"}"#.to_owned(),
    ];
    for (number, text) in (1..).zip(wrong) {
        talk.say("nonsense");
        talk.say(r#"{"events":7}"#);
        let reaction = talk.say(&text);
        assert!(reaction.is_refused);
        let expected = (number == 3).then_some(Disconnect::Unauthenticated);
        assert_eq!(reaction.disconnect, expected, "failure {number}");
    }
}

#[test]
fn unsubscribe_takes_exactly_what_is_named() {
    let mut talk = Talk::new(ALL);
    talk.say(&init("0123456789abcdef", r#"["a","order.*","order.>"]"#));
    let reaction = talk.say(r#"{"type":"unsubscribe","events":["order.*","never",""]}"#);
    assert_eq!(reaction.answer.as_deref(), Some(r#"{"type":"unsubscribe","code":"OK"}"#));
    assert_eq!(talk.subscribed(), ["a", "order.>"]);
    for text in [r#"{"type":"unsubscribe"}"#, r#"{"type":"unsubscribe","events":[1]}"#] {
        let expected = r#"{"type":"unsubscribe","code":"INVALID_EVENTS_MISSING"}"#;
        assert_eq!(talk.say(text).answer.as_deref(), Some(expected));
    }
}

#[test]
fn auth_renews_the_credential() {
    let mut talk = Talk::new(ALL);
    let reaction = talk.say(r#"{"type":"auth","authentication":"Basic 0123456789abcdef"}"#);
    assert_eq!(reaction.answer.as_deref(), Some(r#"{"type":"auth","code":"OK"}"#));
    assert_eq!(talk.code(r#"{"events":["invoice"]}"#), "OK");
    let narrow = r#"{"type":"auth","authentication":"Basic narrow-token-0001"}"#;
    let reaction = talk.say(narrow);
    assert_eq!((reaction.code(), reaction.disconnect), ("OK", Some(Disconnect::Forbidden)));
}

#[test]
fn an_anonymous_line_admits_who_shows_nothing() {
    let mut talk = Talk::new("anonymous subscribe=public.>\n");
    assert_eq!(talk.code(r#"{"events":["public.news"]}"#), "OK");
    assert_eq!(talk.code(r#"{"events":["order.paid"]}"#), "FORBIDDEN");
    let mut talk = Talk::new("anonymous subscribe=public.>\n");
    assert_eq!(talk.code(&init("unknown-unknown-1", r#"["public.news"]"#)), "UNAUTHENTICATED");
}

#[test]
fn unknown_members_and_types_are_an_init() {
    let mut talk = Talk::new(ALL);
    let text = r#"{"type":"x","authentication":"Basic 0123456789abcdef","events":["a"],"more":{}}"#;
    assert_eq!(talk.say(text).answer.as_deref(), Some(r#"{"type":"init","code":"OK"}"#));
}

#[test]
fn an_event_is_written_as_the_2018_service_wrote_it() {
    let long = format!("\"{}\"", "x".repeat(70_000));
    let medium = format!("\"{}\"", "x".repeat(200));
    let table = [
        (
            "order.paid",
            Some(r#"{"id": 7.00}"#),
            r#"{"type":"event","event":"order.paid","data":{"id": 7.00}}"#.to_owned(),
        ),
        ("a\"b\\ü/", None, r#"{"type":"event","event":"a\"b\\ü/"}"#.to_owned()),
        ("a", Some("null"), r#"{"type":"event","event":"a","data":null}"#.to_owned()),
        ("a", Some(&medium), format!(r#"{{"type":"event","event":"a","data":{medium}}}"#)),
        ("a", Some(&long), format!(r#"{{"type":"event","event":"a","data":{long}}}"#)),
    ];
    for (event_type, data, expected) in table {
        let event = Event {
            event_type: EventType::parse(event_type.to_owned()).unwrap(),
            data: data
                .map(|it| Data::Json(Json::from_checked(Bytes::copy_from_slice(it.as_bytes())))),
            id: "1".into(),
            source: "/x".into(),
            subject: None,
            time: Time::now(),
            publisher: "x".into(),
            attributes: None,
        };
        let mut out = Vec::new();
        let epoch = "k3f9a2".parse().unwrap();
        encode_plain(&Placed { epoch: &epoch, offset: 7, event: &event }, &mut out);
        assert_eq!(out, frame(OpCode::Text, expected.as_bytes()));
    }
}
