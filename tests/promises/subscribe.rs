//! The native WebSocket (WIRE §1.2 and 1.3): what a session is subscribed to, and how it changes.

use crate::client::{Subscriber, event, fire, init, said};
use crate::gateway::{Gateway, House, TOKEN};

const ORDERS: &str = "0123456789abcdef-orders";
const INVOICES: &str = "0123456789abcdef-invoices";
const WIDE: &str = "0123456789abcdef-wide";

fn gateway() -> Gateway {
    let tokens = format!(
        "{TOKEN} name=all\n{ORDERS} subscribe=order.>\n{INVOICES} subscribe=invoice.>\n\
         {WIDE} subscribe=order.>,invoice.>\n"
    );
    House::new().with_tokens(&tokens).open()
}

fn auth(token: &str) -> String {
    format!(r#"{{"type":"auth","authentication":"Basic {token}"}}"#)
}

fn unsubscribe(events: &str) -> String {
    format!(r#"{{"type":"unsubscribe","events":{events}}}"#)
}

#[tokio::test]
async fn a_later_init_adds_its_types_and_needs_no_credential() {
    let gateway = gateway();
    let mut subscriber = Subscriber::subscribe(&gateway.broadcast, &["a"]).await;
    assert_eq!(subscriber.ask(r#"{"events":["b"]}"#).await, said("init", "OK"));
    for event_type in ["a", "b"] {
        fire(&gateway, event_type, "1").await;
        assert_eq!(subscriber.hear().await, event(event_type, "1"));
    }
}

#[tokio::test]
async fn a_type_subscribed_twice_is_delivered_once() {
    let gateway = gateway();
    let mut subscriber = Subscriber::connect(&gateway.broadcast).await;
    for events in [r#"["a.b","a.b"]"#, r#"["a.b"]"#, r#"["a.*","a.>",">","*.b"]"#] {
        assert_eq!(subscriber.ask(&init(TOKEN, events)).await, said("init", "OK"));
    }
    fire(&gateway, "a.b", "1").await;
    assert_eq!(subscriber.hear().await, event("a.b", "1"));
    subscriber.assert_nothing_came().await;
}

#[tokio::test]
async fn an_empty_list_is_ok_and_subscribes_nothing() {
    let gateway = gateway();
    let mut subscriber = Subscriber::subscribe(&gateway.broadcast, &[]).await;
    fire(&gateway, "a", "1").await;
    subscriber.assert_nothing_came().await;
}

#[tokio::test]
async fn a_forbidden_init_subscribes_nothing() {
    let gateway = gateway();
    let mut subscriber = Subscriber::connect(&gateway.broadcast).await;
    let answer = subscriber.init(ORDERS, &["order.paid", "invoice.paid"]).await;
    assert_eq!(answer, said("init", "FORBIDDEN"));
    assert_eq!(subscriber.init(ORDERS, &["order.other"]).await, said("init", "OK"));
    fire(&gateway, "order.paid", "1").await;
    subscriber.assert_nothing_came().await;
}

#[tokio::test]
async fn a_refused_later_init_changes_nothing() {
    let gateway = gateway();
    let mut subscriber =
        Subscriber::subscribe_as(&gateway.broadcast, ORDERS, &["order.paid"]).await;
    for (message, expected) in [
        (init("0123456789abcdef-unknown", r#"["order.b"]"#), "UNAUTHENTICATED"),
        (init(INVOICES, r#"["order.b"]"#), "FORBIDDEN"),
        (init(WIDE, r#"["order.b",""]"#), "INVALID_EVENTS"),
        // Had the wide token become the session's, this were granted.
        (r#"{"events":["invoice.paid"]}"#.to_owned(), "FORBIDDEN"),
        (init(WIDE, r#"["order.b",7]"#), "INVALID_EVENTS_MISSING"),
    ] {
        assert_eq!(subscriber.ask(&message).await, said("init", expected), "{message}");
    }
    fire(&gateway, "order.b", "1").await;
    fire(&gateway, "order.paid", "2").await;
    assert_eq!(subscriber.hear().await, event("order.paid", "2"));
}

#[tokio::test]
async fn another_valid_token_in_a_later_init_becomes_the_sessions() {
    let gateway = gateway();
    let mut subscriber =
        Subscriber::subscribe_as(&gateway.broadcast, ORDERS, &["order.paid"]).await;
    assert_eq!(subscriber.init(WIDE, &["invoice.paid"]).await, said("init", "OK"));
    // From now on it needs no credential for what the new one grants.
    let answer = subscriber.ask(r#"{"events":["invoice.late"]}"#).await;
    assert_eq!(answer, said("init", "OK"));
    for event_type in ["order.paid", "invoice.paid", "invoice.late"] {
        fire(&gateway, event_type, "1").await;
        assert_eq!(subscriber.hear().await, event(event_type, "1"));
    }
}

#[tokio::test]
async fn a_later_init_whose_token_may_not_have_what_is_subscribed_ends_the_session() {
    let gateway = gateway();
    let mut subscriber =
        Subscriber::subscribe_as(&gateway.broadcast, ORDERS, &["order.paid"]).await;
    assert_eq!(subscriber.init(INVOICES, &["invoice.paid"]).await, said("init", "OK"));
    assert_eq!(subscriber.closed().await, (4403, "forbidden".to_owned()));
}

#[tokio::test]
async fn unsubscribe_takes_exactly_the_named_patterns_away() {
    let gateway = gateway();
    let events = ["order.paid", "order.*", "invoice.paid"];
    let mut subscriber = Subscriber::subscribe(&gateway.broadcast, &events).await;
    for (taken, hears_paid, hears_other) in [
        // Never subscribed, or no pattern at all: nothing is taken, and that is no fault.
        (r#"["order.>",">","order.other","never","",""]"#, true, true),
        (r#"["order.paid","order.paid"]"#, true, true),
        (r#"["order.*"]"#, false, false),
    ] {
        let answer = subscriber.ask(&unsubscribe(taken)).await;
        assert_eq!(answer, said("unsubscribe", "OK"), "{taken}");
        for (event_type, hears) in [("order.paid", hears_paid), ("order.other", hears_other)] {
            fire(&gateway, event_type, "1").await;
            if hears {
                assert_eq!(subscriber.hear().await, event(event_type, "1"), "{taken}");
            }
        }
        subscriber.assert_nothing_came().await;
    }
    fire(&gateway, "invoice.paid", "2").await;
    assert_eq!(subscriber.hear().await, event("invoice.paid", "2"));
    assert_eq!(subscriber.ask(r#"{"events":["order.paid"]}"#).await, said("init", "OK"));
    fire(&gateway, "order.paid", "3").await;
    assert_eq!(subscriber.hear().await, event("order.paid", "3"));
}

#[tokio::test]
async fn a_malformed_unsubscribe_is_refused_and_takes_nothing_away() {
    let gateway = gateway();
    let mut subscriber = Subscriber::subscribe(&gateway.broadcast, &["a"]).await;
    let no_events = r#"{"type":"unsubscribe"}"#.to_owned();
    for message in
        [no_events, unsubscribe("null"), unsubscribe(r#""a""#), unsubscribe(r#"["a",7]"#)]
    {
        let answer = subscriber.ask(&message).await;
        assert_eq!(answer, said("unsubscribe", "INVALID_EVENTS_MISSING"), "{message}");
    }
    fire(&gateway, "a", "1").await;
    assert_eq!(subscriber.hear().await, event("a", "1"));
}

#[tokio::test]
async fn auth_renews_the_credential() {
    let gateway = gateway();
    let mut subscriber =
        Subscriber::subscribe_as(&gateway.broadcast, ORDERS, &["order.paid"]).await;
    let more = r#"{"events":["invoice.paid"]}"#;
    assert_eq!(subscriber.ask(more).await, said("init", "FORBIDDEN"));
    assert_eq!(subscriber.ask(&auth(WIDE)).await, said("auth", "OK"));
    assert_eq!(subscriber.ask(more).await, said("init", "OK"));
    for event_type in ["order.paid", "invoice.paid"] {
        fire(&gateway, event_type, "1").await;
        assert_eq!(subscriber.hear().await, event(event_type, "1"));
    }
}

#[tokio::test]
async fn auth_before_any_init_is_a_login() {
    let gateway = gateway();
    let mut subscriber = Subscriber::connect(&gateway.broadcast).await;
    assert_eq!(subscriber.ask(&auth(ORDERS)).await, said("auth", "OK"));
    let answer = subscriber.ask(r#"{"events":["order.paid"]}"#).await;
    assert_eq!(answer, said("init", "OK"));
}

#[tokio::test]
async fn a_refused_auth_has_its_code_and_changes_nothing() {
    let gateway = gateway();
    for (message, expected) in [
        (auth("0123456789abcdef-unknown"), "UNAUTHENTICATED"),
        (auth(WIDE).replace("Basic", "Bearer"), "AUTH_UNRECOGNIZED_SCHEME"),
        (r#"{"type":"auth"}"#.to_owned(), "UNAUTHENTICATED"),
        (r#"{"type":"auth","authentication":7}"#.to_owned(), "UNAUTHENTICATED"),
    ] {
        let mut subscriber =
            Subscriber::subscribe_as(&gateway.broadcast, ORDERS, &["order.paid"]).await;
        assert_eq!(subscriber.ask(&message).await, said("auth", expected), "{message}");
        let answer = subscriber.ask(r#"{"events":["invoice.paid"]}"#).await;
        assert_eq!(answer, said("init", "FORBIDDEN"), "{message}");
        fire(&gateway, "order.paid", "1").await;
        assert_eq!(subscriber.hear().await, event("order.paid", "1"), "{message}");
    }
}

#[tokio::test]
async fn auth_with_a_token_that_may_not_have_what_is_subscribed_ends_the_session() {
    let gateway = gateway();
    let mut subscriber =
        Subscriber::subscribe_as(&gateway.broadcast, ORDERS, &["order.paid"]).await;
    assert_eq!(subscriber.ask(&auth(INVOICES)).await, said("auth", "OK"));
    assert_eq!(subscriber.closed().await, (4403, "forbidden".to_owned()));
}
