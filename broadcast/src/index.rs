//! Who is subscribed, by pattern: literal ones by their text, the others along their tokens.

use std::collections::HashMap;

use bytestring::ByteString;
use shared::pattern::Pattern;

use crate::index::tree::PatternTree;

mod tree;

/// Who is subscribed, by pattern.
#[derive(Debug)]
pub struct Index<Id> {
    exact: HashMap<ByteString, Vec<Id>>,
    wild: PatternTree<Id>,
}

impl<Id> Default for Index<Id> {
    fn default() -> Self {
        Self { exact: HashMap::new(), wild: PatternTree::default() }
    }
}

impl<Id: Copy + PartialEq> Index<Id> {
    /// Puts a subscriber in.
    pub fn insert(&mut self, pattern: &Pattern, id: Id) {
        if pattern.is_wild() {
            self.wild.insert(pattern, id);
        } else {
            self.exact.entry(pattern.as_str().into()).or_default().push(id);
        }
    }

    /// Takes a subscriber out, which must be there.
    pub fn remove(&mut self, pattern: &Pattern, id: Id) {
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
    pub fn is_bare(&self) -> bool {
        self.exact.is_empty() && self.wild.is_bare()
    }

    /// Calls `visit` for each subscriber with a pattern that matches; more than once for one that has
    /// several.
    pub fn for_each_match(&self, name: &str, visit: &mut impl FnMut(Id)) {
        self.exact.get(name).into_iter().flatten().for_each(|&id| visit(id));
        self.wild.for_each_match(name, visit);
    }
}

/// Takes one id out; the order of the others does not matter. Those that end together are
/// mostly found at the front.
fn take_out<Id: PartialEq>(ids: &mut Vec<Id>, id: Id) {
    if let Some(at) = ids.iter().position(|other| *other == id) {
        ids.swap_remove(at);
    }
}
