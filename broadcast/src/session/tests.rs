use std::rc::Rc;

use shared::credentials::Credentials;
use shared::memory::Memory;
use shared::tokens::file;

use super::*;
use crate::interest::Interest;
use crate::outbox::Outbox;
use crate::publication::{Format, Slot};

static NOTHING: Format = Format::new(Slot::Native, |_, _| {});

fn tokens(text: &str) -> Tokens {
    file::parse(text.as_bytes()).0
}

fn principal(tokens: &Tokens) -> Arc<Principal> {
    tokens.authenticate(&Credentials::read("Basic 0123456789abcdef")).unwrap()
}

fn session(line: &str, patterns: &[&str]) -> (Session, Hub) {
    let mut hub = Hub::default();
    let outbox = Rc::new(Outbox::new(1, &Memory::new(1)));
    let id = hub.enter(outbox, &NOTHING);
    let mut session = Session::new(id, principal(&tokens(line)));
    session.subscribe(patterns.iter().map(|it| pattern(it)).collect(), &mut hub);
    (session, hub)
}

fn pattern(text: &str) -> Pattern {
    Pattern::parse(text.to_owned()).unwrap()
}

const LATER: Timestamp = Timestamp::UNIX_EPOCH;

#[test]
fn a_session_notices_a_new_table_only_if_it_loses_something() {
    let (mut session, _hub) = session("0123456789abcdef", &["order.*", "order.paid"]);
    let table = [
        ("0123456789abcdef", None),
        ("0123456789abcdef name=other", None),
        ("0123456789abcdef subscribe=order.>", None),
        ("0123456789abcdef subscribe=order.paid", Some(Disconnect::Forbidden)),
        ("0123456789abcdef subscribe=none", Some(Disconnect::Forbidden)),
        ("fedcba9876543210", Some(Disconnect::TokenWithdrawn)),
        ("", Some(Disconnect::TokenWithdrawn)),
        ("0123456789abcdef colour=red", Some(Disconnect::TokenWithdrawn)),
        ("0123456789abcdef expires=1969-01-01T00:00:00Z", Some(Disconnect::TokenExpired)),
        ("0123456789abcdef expires=1970-01-01T00:00:01Z", None),
    ];
    for (line, expected) in table {
        assert_eq!(session.judge(&tokens(line), LATER), expected, "{line}");
    }
}

#[test]
fn a_session_without_subscriptions_survives_narrower_grants() {
    let (mut session, _hub) = session("0123456789abcdef", &[]);
    assert_eq!(session.judge(&tokens("0123456789abcdef subscribe=none"), LATER), None);
}

#[test]
fn another_credential_judges_what_is_subscribed() {
    let (mut session, mut hub) = session("0123456789abcdef", &["order.>", "invoice"]);
    let narrow = principal(&tokens("0123456789abcdef subscribe=order.>"));
    assert_eq!(session.renew(Arc::clone(&narrow)), Some(Disconnect::Forbidden));
    session.unsubscribe([pattern("invoice"), pattern("never")].iter(), &mut hub);
    assert_eq!(session.renew(narrow), None);
    assert_eq!(session.patterns().collect::<Vec<_>>(), [&pattern("order.>")]);
}

#[test]
fn a_credential_expires_at_its_instant() {
    let (session, _hub) = session("0123456789abcdef expires=2999-01-01T00:00:00Z", &[]);
    let end: Timestamp = "2999-01-01T00:00:00Z".parse().unwrap();
    assert_eq!(session.expire(end - jiff::SignedDuration::from_millis(1)), None);
    assert_eq!(session.expire(end), Some(Disconnect::TokenExpired));
}

#[test]
fn the_same_pattern_counts_once() {
    let (session, _hub) = session("0123456789abcdef", &["a", "b"]);
    assert_eq!(session.count_with(["a", "c", "c"].into_iter()), 3);
}

#[test]
fn a_session_that_ends_is_subscribed_to_nothing_in_its_hub_either() {
    let interest: Arc<Interest> = Arc::default();
    let mut hub = Hub::new(Arc::clone(&interest));
    let id = hub.enter(Rc::new(Outbox::new(1, &Memory::new(1))), &NOTHING);
    let mut session = Session::new(id, principal(&tokens("0123456789abcdef")));
    session.subscribe(vec![pattern("a"), pattern("b.>")], &mut hub);
    assert!(interest.is_any());
    session.unsubscribe_all(&mut hub);
    assert!(!interest.is_any());
    assert_eq!(session.patterns().count(), 0);
}

#[test]
fn channels_are_judged_counted_and_taken_away_as_patterns_are() {
    let interest: Arc<Interest> = Arc::default();
    let mut hub = Hub::new(Arc::clone(&interest));
    let id = hub.enter(Rc::new(Outbox::new(1, &Memory::new(1))), &NOTHING);
    let mut session = Session::new(id, principal(&tokens("0123456789abcdef")));
    session.subscribe(vec![pattern("a")], &mut hub);
    session.subscribe_channels(vec![pattern("a"), pattern("b.>"), pattern("a")], &mut hub);
    assert_eq!(session.channels().collect::<Vec<_>>(), [&pattern("a"), &pattern("b.>")]);
    assert_eq!(session.count_with_channels(["a", "c"].into_iter()), 1 + 3);
    assert_eq!(session.count_with(["a", "c"].into_iter()), 2 + 2);

    let narrow = principal(&tokens("0123456789abcdef subscribe=a"));
    assert_eq!(session.renew(Arc::clone(&narrow)), Some(Disconnect::Forbidden));
    session.unsubscribe_channels([pattern("b.>"), pattern("never")].iter(), &mut hub);
    assert_eq!(session.renew(narrow), None);

    session.unsubscribe([pattern("a")].iter(), &mut hub);
    assert!(interest.is_any(), "the channel of the same name still stands");
    session.unsubscribe_all(&mut hub);
    assert!(!interest.is_any());
    assert_eq!(session.channels().count(), 0);
}
