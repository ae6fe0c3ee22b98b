//! Sessions by pattern: literal ones by their text, the others along their tokens.

use std::collections::HashMap;

use bytestring::ByteString;
use shared::pattern::Pattern;

use crate::hub::SessionId;
use crate::hub::tree::PatternTree;

/// Who is subscribed, by pattern.
#[derive(Debug, Default)]
pub(super) struct Index {
    pub(super) exact: HashMap<ByteString, Vec<SessionId>>,
    pub(super) wild: PatternTree,
}

impl Index {
    /// Puts a session in.
    pub(super) fn insert(&mut self, pattern: &Pattern, id: SessionId) {
        if pattern.is_wild() {
            self.wild.insert(pattern, id);
        } else {
            self.exact.entry(pattern.as_str().into()).or_default().push(id);
        }
    }

    /// Takes a session out, which must be there.
    pub(super) fn remove(&mut self, pattern: &Pattern, id: SessionId) {
        if pattern.is_wild() {
            self.wild.remove(pattern, id);
        } else if let Some(ids) = self.exact.get_mut(pattern.as_str()) {
            take_out(ids, id);
            if ids.is_empty() {
                self.exact.remove(pattern.as_str());
            }
        }
    }

    /// Whether nobody is subscribed to anything.
    pub(super) fn is_bare(&self) -> bool {
        self.exact.is_empty() && self.wild.is_bare()
    }

    /// Calls `visit` for each session with a pattern that matches; more than once for one that has
    /// several.
    pub(super) fn for_each_match(&self, name: &str, visit: &mut impl FnMut(SessionId)) {
        self.exact.get(name).into_iter().flatten().for_each(|&id| visit(id));
        self.wild.for_each_match(name, visit);
    }
}

/// Takes one id out; the order of the others does not matter. Sessions that end together are
/// mostly found at the front.
pub(super) fn take_out(ids: &mut Vec<SessionId>, id: SessionId) {
    if let Some(at) = ids.iter().position(|other| *other == id) {
        ids.swap_remove(at);
    }
}
