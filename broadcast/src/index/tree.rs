//! Subscribers by wildcard pattern, found by walking along the tokens of a type.

use std::collections::HashMap;

use shared::pattern::{Pattern, Token};

use crate::index::take_out;

/// One step into the patterns: what may follow, and who is subscribed here.
#[derive(Debug)]
pub(super) struct PatternTree<Id> {
    literal: HashMap<Box<str>, PatternTree<Id>>,
    one: Option<Box<PatternTree<Id>>>,
    /// Subscribed to all that goes on from here.
    rest: Vec<Id>,
    /// Subscribed to what ends here.
    here: Vec<Id>,
}

impl<Id> Default for PatternTree<Id> {
    fn default() -> Self {
        Self { literal: HashMap::new(), one: None, rest: Vec::new(), here: Vec::new() }
    }
}

impl<Id: Copy + PartialEq> PatternTree<Id> {
    /// Puts a subscriber in.
    pub(super) fn insert(&mut self, pattern: &Pattern, id: Id) {
        let mut tree = self;
        for token in pattern.tokens() {
            tree = match token {
                Token::Literal(text) => tree.literal.entry(text.into()).or_default(),
                Token::One => tree.one.get_or_insert_default(),
                Token::Rest => return tree.rest.push(id),
            };
        }
        tree.here.push(id);
    }

    /// Takes a subscriber out, and the branches that are bare then.
    pub(super) fn remove(&mut self, pattern: &Pattern, id: Id) {
        self.remove_along(&mut pattern.tokens(), id);
    }

    fn remove_along<'a>(&mut self, tokens: &mut impl Iterator<Item = Token<'a>>, id: Id) {
        match tokens.next() {
            None => take_out(&mut self.here, id),
            Some(Token::Rest) => take_out(&mut self.rest, id),
            Some(Token::One) => {
                if let Some(one) = &mut self.one {
                    one.remove_along(tokens, id);
                    if one.is_bare() {
                        self.one = None;
                    }
                }
            }
            Some(Token::Literal(text)) => {
                if let Some(literal) = self.literal.get_mut(text) {
                    literal.remove_along(tokens, id);
                    if literal.is_bare() {
                        self.literal.remove(text);
                    }
                }
            }
        }
    }

    /// Whether nobody is subscribed to anything here.
    pub(super) fn is_bare(&self) -> bool {
        self.literal.is_empty()
            && self.one.is_none()
            && self.rest.is_empty()
            && self.here.is_empty()
    }

    /// Calls `visit` for each subscriber with a pattern that matches; more than once for one that
    /// has several.
    pub(super) fn for_each_match(&self, event_type: &str, visit: &mut impl FnMut(Id)) {
        if !self.is_bare() {
            self.walk(Some(event_type), visit);
        }
    }

    /// `rest` is what of the type is left; `None` after its last token.
    fn walk(&self, rest: Option<&str>, visit: &mut impl FnMut(Id)) {
        let Some(rest) = rest else {
            self.here.iter().for_each(|&id| visit(id));
            return;
        };
        self.rest.iter().for_each(|&id| visit(id));
        let (token, rest) = match rest.split_once('.') {
            Some((token, rest)) => (token, Some(rest)),
            None => (rest, None),
        };
        if let Some(literal) = self.literal.get(token) {
            literal.walk(rest, visit);
        }
        if let Some(one) = &self.one {
            one.walk(rest, visit);
        }
    }
}
