//! A client that has proved who it is: what it may have, and what it is subscribed to.
//!
//! Rules without socket or clock, the same for every way out. Holding a [`Session`] is the proof.

use std::collections::BTreeSet;
use std::sync::Arc;

use jiff::Timestamp;
use shared::pattern::Pattern;
use shared::principal::Principal;
use shared::tokens::Tokens;

use crate::disconnect::Disconnect;
use crate::hub::{Hub, SessionId};

/// A client that has proved who it is.
#[derive(Debug)]
pub struct Session {
    id: SessionId,
    principal: Arc<Principal>,
    /// Sorted. Most sessions have a handful, and there are many sessions: a tree costs too much.
    patterns: Vec<Pattern>,
    /// Sorted. What it hears by channel as well as by type (WIRE §5).
    channels: Vec<Pattern>,
    /// Whether the hub has them. A session that still reads the log has not joined it yet.
    is_live: bool,
}

impl Session {
    /// Begins with nothing subscribed.
    pub fn new(id: SessionId, principal: Arc<Principal>) -> Self {
        Self { id, principal, patterns: Vec::new(), channels: Vec::new(), is_live: true }
    }

    /// Its place in the hub.
    pub fn id(&self) -> SessionId {
        self.id
    }

    /// Leaves what is live aside until it [joins](Self::join): it reads the log first.
    pub fn hold_back(&mut self) {
        self.is_live = false;
    }

    /// Joins what is live, behind an offset up to which it has had all.
    pub fn join(&mut self, offset: u64, hub: &mut Hub) {
        self.is_live = true;
        hub.skip_up_to(self.id, offset);
        for pattern in &self.patterns {
            hub.subscribe(self.id, pattern);
        }
        for pattern in &self.channels {
            hub.subscribe_channel(self.id, pattern);
        }
    }

    /// Who it is.
    pub fn principal(&self) -> &Arc<Principal> {
        &self.principal
    }

    /// What it is subscribed to.
    pub fn patterns(&self) -> impl Iterator<Item = &Pattern> {
        self.patterns.iter()
    }

    /// What it hears by channel as well as by type.
    pub fn channels(&self) -> impl Iterator<Item = &Pattern> {
        self.channels.iter()
    }

    /// How many patterns there would be with these.
    pub fn count_with<'a>(&self, added: impl Iterator<Item = &'a str>) -> usize {
        count(&self.patterns, added) + self.channels.len()
    }

    /// How many patterns there would be with these channels.
    pub fn count_with_channels<'a>(&self, added: impl Iterator<Item = &'a str>) -> usize {
        count(&self.channels, added) + self.patterns.len()
    }

    /// Subscribes to patterns that were found to be granted. One that is subscribed already
    /// changes nothing.
    pub fn subscribe(&mut self, patterns: Vec<Pattern>, hub: &mut Hub) {
        let (id, is_live) = (self.id, self.is_live);
        for pattern in add(&mut self.patterns, patterns).filter(|_| is_live) {
            hub.subscribe(id, &pattern);
        }
    }

    /// Takes exactly these patterns away.
    pub fn unsubscribe<'a>(&mut self, patterns: impl Iterator<Item = &'a Pattern>, hub: &mut Hub) {
        let (id, is_live) = (self.id, self.is_live);
        for pattern in remove(&mut self.patterns, patterns).filter(|_| is_live) {
            hub.unsubscribe(id, pattern);
        }
    }

    /// Subscribes to channels, as to patterns.
    pub fn subscribe_channels(&mut self, channels: Vec<Pattern>, hub: &mut Hub) {
        let (id, is_live) = (self.id, self.is_live);
        for pattern in add(&mut self.channels, channels).filter(|_| is_live) {
            hub.subscribe_channel(id, &pattern);
        }
    }

    /// Takes exactly these channels away.
    pub fn unsubscribe_channels<'a>(
        &mut self,
        channels: impl Iterator<Item = &'a Pattern>,
        hub: &mut Hub,
    ) {
        let (id, is_live) = (self.id, self.is_live);
        for pattern in remove(&mut self.channels, channels).filter(|_| is_live) {
            hub.unsubscribe_channel(id, pattern);
        }
    }

    /// Takes all subscriptions away.
    pub fn unsubscribe_all(&mut self, hub: &mut Hub) {
        let (patterns, channels) = (self.patterns.drain(..), self.channels.drain(..));
        if self.is_live {
            patterns.for_each(|pattern| hub.unsubscribe(self.id, &pattern));
            channels.for_each(|pattern| hub.unsubscribe_channel(self.id, &pattern));
        }
    }

    /// Takes another credential, which from now on judges all subscriptions.
    #[must_use = "the session may have to end"]
    pub fn renew(&mut self, principal: Arc<Principal>) -> Option<Disconnect> {
        self.principal = principal;
        let is_covered = self.wanted().all(|pattern| self.principal.grant.may_subscribe(pattern));
        (!is_covered).then_some(Disconnect::Forbidden)
    }

    fn wanted(&self) -> impl Iterator<Item = &Pattern> {
        self.patterns.iter().chain(&self.channels)
    }

    /// Judges the session by another table of tokens.
    #[must_use = "the session may have to end"]
    pub fn judge(&mut self, tokens: &Tokens, now: Timestamp) -> Option<Disconnect> {
        let Some(principal) = tokens.judge_again(&self.principal) else {
            return Some(Disconnect::TokenWithdrawn);
        };
        if Arc::ptr_eq(&principal, &self.principal) {
            return self.expire(now);
        }
        self.renew(principal).or_else(|| self.expire(now))
    }

    /// Whether the credential's time is over.
    #[must_use = "the session may have to end"]
    pub fn expire(&self, now: Timestamp) -> Option<Disconnect> {
        self.principal.is_expired(now).then_some(Disconnect::TokenExpired)
    }
}

/// How many there would be with these.
fn count<'a>(known: &[Pattern], added: impl Iterator<Item = &'a str>) -> usize {
    let known: BTreeSet<&str> = known.iter().map(Pattern::as_str).collect();
    let added: BTreeSet<&str> = added.filter(|text| !known.contains(text)).collect();
    known.len() + added.len()
}

/// Puts in what is not there; gives back what is new.
fn add(known: &mut Vec<Pattern>, patterns: Vec<Pattern>) -> impl Iterator<Item = Pattern> {
    patterns.into_iter().filter(|pattern| {
        let place = known.binary_search(pattern);
        place.map_err(|place| known.insert(place, pattern.clone())).is_err()
    })
}

/// Takes out what is there; gives back what was.
fn remove<'a>(
    known: &mut Vec<Pattern>,
    patterns: impl Iterator<Item = &'a Pattern>,
) -> impl Iterator<Item = &'a Pattern> {
    patterns.filter(|pattern| {
        let place = known.binary_search(pattern);
        place.map(|place| known.remove(place)).is_ok()
    })
}

#[cfg(test)]
mod tests;
