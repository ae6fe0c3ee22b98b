//! Who a credential turned out to be, and what they may do.
//!
//! Holding a [`Principal`] is the proof of having been authenticated; only
//! [`Tokens`](crate::tokens::Tokens) makes them.

use bytestring::ByteString;
use jiff::Timestamp;

use crate::credentials::Digest;
use crate::event::EventType;
use crate::pattern::Pattern;

/// WIRE §5: the channel that is every event.
pub const GLOBAL: &str = "global";

/// Who a credential turned out to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    /// Shown in logs and metrics in place of the secret.
    pub name: ByteString,
    /// What they may do.
    pub grant: Grant,
    /// When the credential ends, if it does.
    pub expires: Option<Timestamp>,
    /// What tells its requests from those of others; none for `anonymous`.
    pub digest: Option<Digest>,
    /// The mark of the key and the rules that its signed token was judged by, if it was one. The token
    /// is gone with either.
    pub key: Option<Digest>,
    /// The `source` of their events that name none: `/` and the name.
    pub source: ByteString,
}

impl Principal {
    /// What its events are told from those of others by: a signed token may have any name.
    pub fn publisher(&self) -> ByteString {
        // No name in the tokens file has a blank. The key is not part of it: it may change.
        match &self.key {
            None => self.name.clone(),
            Some(_) => format!("{} jwt", self.name).into(),
        }
    }

    /// Whether the credential's time is over.
    pub fn is_expired(&self, now: Timestamp) -> bool {
        self.expires.is_some_and(|expires| expires <= now)
    }
}

/// What a principal may do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// Types that may be published.
    pub publish: Vec<Pattern>,
    /// Types that may be subscribed.
    pub subscribe: Vec<Pattern>,
    /// Whether the operator's own functions are open.
    pub admin: bool,
}

impl Grant {
    /// Whether an event of this type may be published.
    pub fn may_publish(&self, event_type: &EventType) -> bool {
        self.publish.iter().any(|granted| granted.matches(event_type.as_str()))
    }

    /// Whether events may be published to this channel (WIRE §5): `global` is every event.
    pub fn may_publish_to(&self, channel: &EventType) -> bool {
        match channel.as_str() {
            GLOBAL => self.publish.iter().any(|granted| granted.as_str() == ">"),
            _ => self.may_publish(channel),
        }
    }

    /// Whether all that `pattern` can match may be subscribed: one grant must cover it whole.
    pub fn may_subscribe(&self, pattern: &Pattern) -> bool {
        self.subscribe.iter().any(|granted| granted.covers(pattern))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grant_is_for_what_it_names_and_for_nothing_else() {
        let pattern = |text: &str| Pattern::parse(text.to_owned()).unwrap();
        let grant =
            Grant { publish: vec![pattern("a.*")], subscribe: vec![pattern("b.>")], admin: false };
        let event_type = |text: &str| EventType::parse(text.to_owned()).unwrap();
        assert!(grant.may_publish(&event_type("a.x")) && !grant.may_publish(&event_type("b.x")));
        assert!(grant.may_subscribe(&pattern("b.*")) && !grant.may_subscribe(&pattern("a.*")));
    }
}
