//! Patterns over event types, as NATS writes them: `order.*`, `order.>`.
//!
//! Used by grants (what a token may do) and by subscriptions (what a session wants). A `*` stands
//! for one token between dots, a `>` at the end for one or more; both only as a whole token.

use std::fmt;
use std::str::FromStr;

use bytestring::ByteString;

use crate::event::{EventType, EventTypeError};

/// An event type, or a pattern over types.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Pattern(EventType);

impl Pattern {
    /// Takes text that can be an event type or a pattern.
    ///
    /// # Errors
    ///
    /// [`EventTypeError`]: a pattern is written with the characters of a type.
    pub fn parse(text: impl Into<ByteString>) -> Result<Self, EventTypeError> {
        EventType::parse(text).map(Self)
    }

    /// The pattern as text.
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }

    /// The tokens, in order.
    pub fn tokens(&self) -> impl Iterator<Item = Token<'_>> {
        let last = self.as_str().split('.').count();
        self.as_str().split('.').enumerate().map(move |(at, text)| match text {
            "*" => Token::One,
            ">" if at + 1 == last => Token::Rest,
            text => Token::Literal(text),
        })
    }

    /// Whether it can match more than the type that is written like it.
    pub fn is_wild(&self) -> bool {
        self.tokens().any(|token| !matches!(token, Token::Literal(_)))
    }

    /// Whether an event of this type is meant.
    pub fn matches(&self, event_type: &str) -> bool {
        let mut parts = event_type.split('.');
        for token in self.tokens() {
            match (token, parts.next()) {
                (Token::Rest, Some(_)) => return true,
                (Token::One, Some(_)) => {}
                (Token::Literal(text), Some(part)) if text == part => {}
                _ => return false,
            }
        }
        parts.next().is_none()
    }

    /// Whether it matches every type that `other` can match: the law of grants (WIRE §0).
    pub fn covers(&self, other: &Self) -> bool {
        let mut theirs = other.tokens();
        for ours in self.tokens() {
            match (ours, theirs.next()) {
                (Token::Rest, Some(_)) => return true,
                (Token::One, Some(Token::One | Token::Literal(_))) => {}
                (Token::Literal(our), Some(Token::Literal(their))) if our == their => {}
                _ => return false,
            }
        }
        theirs.next().is_none()
    }
}

impl FromStr for Pattern {
    type Err = EventTypeError;

    fn from_str(text: &str) -> Result<Self, EventTypeError> {
        Self::parse(text)
    }
}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

/// One part of a pattern, between dots.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Token<'a> {
    /// Only this text.
    Literal(&'a str),
    /// `*`: any one token.
    One,
    /// `>` at the end: one token or more.
    Rest,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pattern(text: &str) -> Pattern {
        Pattern::parse(text.to_owned()).unwrap()
    }

    #[test]
    fn a_pattern_matches_by_whole_tokens() {
        let table = [
            ("order.paid", "order.paid", true),
            ("order.paid", "order.paid.late", false),
            ("order.paid", "order", false),
            ("order.*", "order.paid", true),
            ("order.*", "order", false),
            ("order.*", "order.paid.late", false),
            ("order.*", "orders.paid", false),
            ("*.paid", "order.paid", true),
            ("order.>", "order.paid", true),
            ("order.>", "order.paid.late", true),
            ("order.>", "order", false),
            (">", "order", true),
            (">", "a.b.c", true),
            ("*", "order", true),
            ("*", "a.b", false),
            ("ord*", "order", false),
            ("ord*", "ord*", true),
            ("a.>.b", "a.x.b", false),
            ("a.>.b", "a.>.b", true),
            ("a>", "a>", true),
            ("order.*", "order.*", true),
            ("order.>", "order.>", true),
            ("a.*", "a.", true),
        ];
        for (text, event_type, expected) in table {
            assert_eq!(pattern(text).matches(event_type), expected, "{text} on {event_type}");
        }
    }

    #[test]
    fn a_grant_covers_only_what_it_matches_whole() {
        let table = [
            (">", "order.>", true),
            (">", ">", true),
            ("order.>", "order.>", true),
            ("order.>", "order.*", true),
            ("order.>", "order.paid", true),
            ("order.>", "order.*.late", true),
            ("order.>", ">", false),
            ("order.>", "order", false),
            ("order.*", "order.>", false),
            ("order.*", "order.*", true),
            ("order.*", "order.paid", true),
            ("*.paid", "order.*", false),
            ("*.*", "order.*", true),
            ("order.paid", "order.*", false),
            ("order.paid", "order.paid", true),
            ("order.paid", "order.late", false),
            ("*", "order.paid", false),
            ("*.>", "a.>", true),
            ("*.>", ">", false),
        ];
        for (grant, asked, expected) in table {
            assert_eq!(pattern(grant).covers(&pattern(asked)), expected, "{grant} over {asked}");
        }
    }

    #[test]
    fn only_whole_tokens_make_a_pattern_wild() {
        for (text, expected) in [("a.*", true), ("a.>", true), ("a*", false), ("a.>.b", false)] {
            assert_eq!(pattern(text).is_wild(), expected, "{text}");
        }
    }

    fn text() -> impl Strategy<Value = String> {
        prop::collection::vec(prop::sample::select(vec!["a", "b", "*", ">", ""]), 1..5)
            .prop_map(|tokens| tokens.join("."))
            .prop_filter("a type is not empty", |text| !text.is_empty())
    }

    proptest! {
        #[test]
        fn a_pattern_matches_itself_literally(text in text()) {
            prop_assert!(pattern(&text).matches(&text));
        }

        #[test]
        fn what_covers_a_pattern_matches_all_that_it_matches(
            grant in text(), asked in text(), event_type in text()
        ) {
            let (grant, asked) = (pattern(&grant), pattern(&asked));
            if grant.covers(&asked) && asked.matches(&event_type) {
                prop_assert!(grant.matches(&event_type), "{grant:?} {asked:?} {event_type}");
            }
        }

        #[test]
        fn a_pattern_covers_itself(text in text()) {
            prop_assert!(pattern(&text).covers(&pattern(&text)));
        }
    }
}
