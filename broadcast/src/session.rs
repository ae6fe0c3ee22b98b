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
    /// Whether the hub has them. A session that still reads the log has not joined it yet.
    is_live: bool,
}

impl Session {
    /// Begins with nothing subscribed.
    pub fn new(id: SessionId, principal: Arc<Principal>) -> Self {
        Self { id, principal, patterns: Vec::new(), is_live: true }
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
    }

    /// Who it is.
    pub fn principal(&self) -> &Arc<Principal> {
        &self.principal
    }

    /// What it is subscribed to.
    pub fn patterns(&self) -> impl Iterator<Item = &Pattern> {
        self.patterns.iter()
    }

    /// How many patterns there would be with these.
    pub fn count_with<'a>(&self, added: impl Iterator<Item = &'a str>) -> usize {
        let known: BTreeSet<&str> = self.patterns.iter().map(Pattern::as_str).collect();
        let added: BTreeSet<&str> = added.filter(|text| !known.contains(text)).collect();
        known.len() + added.len()
    }

    /// Subscribes to patterns that were found to be granted. One that is subscribed already
    /// changes nothing.
    pub fn subscribe(&mut self, patterns: Vec<Pattern>, hub: &mut Hub) {
        for pattern in patterns {
            if let Err(place) = self.patterns.binary_search(&pattern) {
                if self.is_live {
                    hub.subscribe(self.id, &pattern);
                }
                self.patterns.insert(place, pattern);
            }
        }
    }

    /// Takes exactly these patterns away.
    pub fn unsubscribe<'a>(&mut self, patterns: impl Iterator<Item = &'a Pattern>, hub: &mut Hub) {
        for pattern in patterns {
            if let Ok(place) = self.patterns.binary_search(pattern) {
                if self.is_live {
                    hub.unsubscribe(self.id, pattern);
                }
                self.patterns.remove(place);
            }
        }
    }

    /// Takes all subscriptions away.
    pub fn unsubscribe_all(&mut self, hub: &mut Hub) {
        for pattern in self.patterns.drain(..) {
            if self.is_live {
                hub.unsubscribe(self.id, &pattern);
            }
        }
    }

    /// Takes another credential, which from now on judges all subscriptions.
    #[must_use = "the session may have to end"]
    pub fn renew(&mut self, principal: Arc<Principal>) -> Option<Disconnect> {
        self.principal = principal;
        let is_covered =
            self.patterns.iter().all(|pattern| self.principal.grant.may_subscribe(pattern));
        (!is_covered).then_some(Disconnect::Forbidden)
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

#[cfg(test)]
mod tests;
