//! What a client wants that asks once, in its request: the same for every way out.

use shared::pattern::Pattern;

use crate::archive::Start;
use crate::filter::Narrow;

/// Patterns, and where to begin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subscription {
    /// The types; each is granted.
    pub patterns: Vec<Pattern>,
    /// What is wanted of them.
    pub narrow: Narrow,
    /// Where to begin.
    pub start: Start,
}
