//! Which kept events somebody wants: by type, by source, by subject.
//!
//! The hub finds subscribers by type, and by source who wants one alone; who reads the log, or wants
//! anything else, is asked through this.

use bytestring::ByteString;
use shared::event::Event;
use shared::pattern::Pattern;

/// What somebody wants.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// Literal types, sorted, each with the offset behind which it is wanted.
    exact: Vec<(Pattern, u64)>,
    wild: Vec<(Pattern, u64)>,
    /// What is wanted of them.
    pub narrow: Narrow,
}

/// What is wanted of the events of some types: all, where nothing is named.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Narrow {
    /// Sources, exactly or by how they begin.
    pub sources: Vec<SourceRule>,
    /// A subject.
    pub subject: Option<ByteString>,
    /// No types that begin so: their events would mean something else on this wire.
    pub spared: &'static [&'static str],
    /// The types are names of channels, too: who publishes to one is heard by its name (WIRE §5).
    pub is_by_channel: bool,
}

/// A source that is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SourceRule {
    /// This one.
    Exact(String),
    /// Those that begin so.
    Prefix(String),
}

impl SourceRule {
    /// WIRE §3.2: exact, or a prefix that ends in `*`.
    pub fn parse(text: &str) -> Self {
        match text.strip_suffix('*') {
            Some(prefix) => Self::Prefix(prefix.to_owned()),
            None => Self::Exact(text.to_owned()),
        }
    }

    fn matches(&self, source: &str) -> bool {
        match self {
            Self::Exact(exact) => source == exact,
            Self::Prefix(prefix) => source.starts_with(prefix.as_str()),
        }
    }
}

impl Narrow {
    /// Whether it lets everything pass.
    pub fn is_open(&self) -> bool {
        self.sources.is_empty() && self.subject.is_none() && self.spared.is_empty()
    }

    /// Whether an event of a wanted type is wanted.
    pub fn admits(&self, event: &Event) -> bool {
        self.admits_source(&event.source)
            && (self.subject.is_none() || self.subject == event.subject)
            && !self.spared.iter().any(|start| event.event_type.as_str().starts_with(start))
    }

    fn admits_source(&self, source: &str) -> bool {
        self.sources.is_empty() || self.sources.iter().any(|rule| rule.matches(source))
    }
}

impl Filter {
    /// Wants what these patterns match.
    pub fn new<'a>(patterns: impl IntoIterator<Item = &'a Pattern>, narrow: Narrow) -> Self {
        let mut filter = Self { narrow, ..Self::default() };
        for pattern in patterns {
            filter.add(pattern, 0);
        }
        filter
    }

    /// Wants what a pattern matches behind an offset, too.
    pub fn add(&mut self, pattern: &Pattern, after: u64) {
        if pattern.is_wild() {
            self.wild.push((pattern.clone(), after));
        } else if let Err(place) = self.find(pattern.as_str()) {
            self.exact.insert(place, (pattern.clone(), after));
        }
    }

    /// The offset behind which this pattern itself is wanted; 0 if it is not.
    pub fn wanted_behind(&self, pattern: &Pattern) -> u64 {
        let mut all = self.exact.iter().chain(&self.wild);
        all.find(|(it, _)| it == pattern).map_or(0, |(_, after)| *after)
    }

    fn find(&self, event_type: &str) -> Result<usize, usize> {
        self.exact.binary_search_by(|(pattern, _)| pattern.as_str().cmp(event_type))
    }

    /// Whether the event of an offset is wanted.
    pub fn admits(&self, offset: u64, event: &Event) -> bool {
        let is_wanted = |name: &str| self.wants_from(name).is_some_and(|after| offset > after);
        let is_named = |event: &Event| event.channels().iter().any(|it| is_wanted(it.as_str()));
        (is_wanted(event.event_type.as_str()) || (self.narrow.is_by_channel && is_named(event)))
            && self.narrow.admits(event)
    }

    /// Whether any event of a type may be wanted.
    pub fn may_want_type(&self, event_type: &str) -> bool {
        self.narrow.is_by_channel || self.wants_from(event_type).is_some()
    }

    /// Whether any event of a source may be wanted.
    pub fn may_want_source(&self, source: &str) -> bool {
        self.narrow.admits_source(source)
    }

    /// Whether an index of types tells anything: one who wants them all need not look.
    pub fn wants_all_types(&self) -> bool {
        self.narrow.is_by_channel
            || self.wild.iter().any(|(pattern, after)| pattern.as_str() == ">" && *after == 0)
    }

    /// The offset behind which a type is wanted, if it is.
    fn wants_from(&self, event_type: &str) -> Option<u64> {
        let exact = self.find(event_type).ok().and_then(|place| self.exact.get(place));
        let wild = self.wild.iter().filter(|(pattern, _)| pattern.matches(event_type));
        exact.into_iter().chain(wild).map(|(_, after)| *after).min()
    }
}

#[cfg(test)]
mod tests {
    use shared::event::{Attributes, EventType};

    use super::*;
    use crate::log::page::tests::event;

    fn pattern(text: &str) -> Pattern {
        Pattern::parse(text.to_owned()).unwrap()
    }

    #[test]
    fn a_type_is_wanted_by_any_pattern_from_the_earliest_of_them_on() {
        let mut filter = Filter::new(&[pattern("a.x"), pattern("b.*")], Narrow::default());
        filter.add(&pattern("a.>"), 10);
        filter.add(&pattern("a.x"), 20);
        let admits = |offset, event_type| filter.admits(offset, &event(event_type, "1"));
        assert!(admits(1, "a.x") && admits(1, "b.c"));
        assert!(!admits(10, "a.y") && admits(11, "a.y"));
        assert!(!admits(99, "c") && !filter.may_want_type("c") && filter.may_want_type("a.y"));
        assert!(!filter.wants_all_types());
        assert!(Filter::new(&[pattern(">")], Narrow::default()).wants_all_types());
    }

    #[test]
    fn a_channel_is_wanted_by_its_name_only_where_channels_are_asked_for() {
        let channels = vec![EventType::parse("room.1").unwrap()];
        let attributes = Attributes { channels, ..Attributes::default() };
        let event = Event { attributes: Some(attributes.into()), ..event("a", "1") };
        for (patterns, by_channel, by_type) in [
            (["room.1"], true, false),
            (["room.*"], true, false),
            (["a"], true, true),
            (["room"], false, false),
        ] {
            let patterns = patterns.map(pattern);
            let narrow = Narrow { is_by_channel: true, ..Narrow::default() };
            let filter = Filter::new(&patterns, narrow);
            assert_eq!(filter.admits(1, &event), by_channel, "{patterns:?}");
            // No index of types can tell whom an event was for.
            assert!(filter.wants_all_types() && filter.may_want_type("other"));
            let filter = Filter::new(&patterns, Narrow::default());
            assert_eq!(filter.admits(1, &event), by_type, "{patterns:?}");
        }
    }

    #[test]
    fn types_that_are_spared_are_not_wanted_whatever_matches_them() {
        let narrow = Narrow { spared: &["phx_"], ..Narrow::default() };
        assert!(!narrow.is_open());
        let filter = Filter::new(&[pattern(">")], narrow);
        assert!(!filter.admits(1, &event("phx_join", "1")));
        assert!(filter.admits(1, &event("phx", "1")) && filter.admits(1, &event("a.phx_", "1")));
    }

    #[test]
    fn sources_are_wanted_exactly_or_by_prefix_and_a_subject_exactly() {
        let narrow = |sources: &[&str], subject: Option<&str>| Narrow {
            sources: sources.iter().map(|it| SourceRule::parse(it)).collect(),
            subject: subject.map(Into::into),
            ..Narrow::default()
        };
        let event = Event { subject: Some("s".into()), ..event("a", "1") };
        let table = [
            (narrow(&[], None), true),
            (narrow(&["/tests"], None), true),
            (narrow(&["/test"], None), false),
            (narrow(&["/x", "/te*"], None), true),
            (narrow(&["*"], None), true),
            (narrow(&[], Some("s")), true),
            (narrow(&[], Some("t")), false),
            (narrow(&["/tests"], Some("t")), false),
        ];
        for (narrow, expected) in table {
            assert_eq!(narrow.admits(&event), expected, "{narrow:?}");
        }
    }
}
