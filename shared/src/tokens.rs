//! The tokens file, parsed: who may come in, and as whom.
//!
//! Held by both processes as a [`Reloaded`](crate::reload::Reloaded) value. This is the one place
//! that decides every credential.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use jiff::Timestamp;

use crate::bearer::Bearer;
use crate::credentials::{Credentials, Digest, Presented};
use crate::principal::Principal;
use crate::reload::{Parsed, Source};
use crate::tokens::file::Complaint;

pub mod file;

/// The table of all tokens, and what verifies signed ones.
#[derive(Debug, Default)]
pub struct Tokens {
    by_digest: HashMap<Digest, Arc<Principal>>,
    anonymous: Option<Arc<Principal>>,
    bearer: Option<Arc<Bearer>>,
}

impl Tokens {
    /// Decides who shows these credentials.
    ///
    /// # Errors
    ///
    /// - [`AuthError::UnknownScheme`] under a scheme that is not enabled.
    /// - [`AuthError::Unauthenticated`] for all else, without saying why: unknown, malformed,
    ///   expired and withdrawn tokens must look alike.
    pub fn authenticate(&self, shown: &Credentials) -> Result<Arc<Principal>, AuthError> {
        let known =
            |presented: &Presented| presented.digests().find_map(|digest| self.find(digest));
        let found = match shown {
            Credentials::Absent => self.anonymous.clone(),
            Credentials::Token(presented) => known(presented).cloned(),
            Credentials::Bearer(jwt) => {
                self.bearer.as_ref().ok_or(AuthError::UnknownScheme)?.verify(jwt)
            }
            Credentials::Bare(presented, jwt) => {
                known(presented).cloned().or_else(|| self.bearer.as_ref()?.verify(jwt))
            }
            Credentials::UnknownScheme => return Err(AuthError::UnknownScheme),
            Credentials::Malformed => None,
        };
        let principal = found.ok_or(AuthError::Unauthenticated)?;
        if principal.expires.is_some() && principal.is_expired(Timestamp::now()) {
            return Err(AuthError::Unauthenticated);
        }
        Ok(principal)
    }

    /// Who a principal of an earlier table is in this one; `None` if the token was withdrawn, or the
    /// key that it was made with.
    pub fn judge_again(&self, principal: &Arc<Principal>) -> Option<Arc<Principal>> {
        let Some(key) = &principal.key else { return self.principal_of(principal.digest.as_ref()) };
        let is_held = self.bearer.as_ref().is_some_and(|bearer| bearer.holds(key));
        is_held.then(|| Arc::clone(principal))
    }

    /// Who has the token with this digest; who has none is `anonymous`.
    pub fn principal_of(&self, digest: Option<&Digest>) -> Option<Arc<Principal>> {
        let found = match digest {
            Some(digest) => self.find(digest),
            None => self.anonymous.as_ref(),
        };
        found.map(Arc::clone)
    }

    /// What verifies signed tokens, if such are taken.
    pub fn bearer(&self) -> Option<&Arc<Bearer>> {
        self.bearer.as_ref()
    }

    /// Whether a credential that is good now may be over by itself later.
    pub fn can_expire(&self) -> bool {
        self.bearer.is_some() || self.principals().any(|principal| principal.expires.is_some())
    }

    /// All principals of the table, in no order.
    pub fn principals(&self) -> impl Iterator<Item = &Arc<Principal>> {
        self.by_digest.values().chain(&self.anonymous)
    }

    /// Whether nobody at all can come in.
    pub fn is_empty(&self) -> bool {
        self.by_digest.is_empty() && self.anonymous.is_none()
    }

    /// The map is keyed by digest, so that a search tells nothing about a secret; the last
    /// comparison is in constant time all the same.
    fn find(&self, digest: &Digest) -> Option<&Arc<Principal>> {
        let (kept, principal) = self.by_digest.get_key_value(digest)?;
        kept.matches(digest).then_some(principal)
    }
}

/// The tokens file as a thing to follow.
#[derive(Debug)]
pub struct TokensFile {
    path: PathBuf,
    bearer: Option<Arc<Bearer>>,
}

impl TokensFile {
    /// Names the file to follow; with it goes what verifies signed tokens, if such are taken.
    pub fn new(path: PathBuf, bearer: Option<Arc<Bearer>>) -> Self {
        Self { path, bearer }
    }
}

impl Source for TokensFile {
    type Value = Tokens;

    fn what(&self) -> &'static str {
        "tokens file"
    }

    fn paths(&self) -> Vec<PathBuf> {
        vec![self.path.clone()]
    }

    fn parse(&self, contents: &[Vec<u8>]) -> Result<Parsed<Tokens>, String> {
        let text = contents.first().map(Vec::as_slice).unwrap_or_default();
        let (tokens, complaints) = file::parse(text);
        let warnings = complaints.iter().map(Complaint::to_string).collect();
        let is_cut_short = !text.is_empty() && !text.ends_with(b"\n") && !text.ends_with(b"\r");
        let value = Tokens { bearer: self.bearer.clone(), ..tokens };
        Ok(Parsed { value, warnings, is_cut_short })
    }

    /// An editor that truncates and then writes shows an empty file for a moment.
    fn withdraws_all(&self, old: &Tokens, new: &Tokens) -> bool {
        !old.is_empty() && old.principals().all(|principal| new.judge_again(principal).is_none())
    }

    fn is_secret(&self, _: usize) -> bool {
        true
    }
}

/// Why credentials were refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    /// No token, or one that is not in the table now.
    #[error("the token is missing or unknown")]
    Unauthenticated,
    /// The scheme is not enabled.
    #[error("the authentication scheme is not enabled")]
    UnknownScheme,
}

impl AuthError {
    /// The code that the client gets.
    pub fn code(self) -> &'static str {
        match self {
            Self::Unauthenticated => "UNAUTHENTICATED",
            Self::UnknownScheme => "AUTH_UNRECOGNIZED_SCHEME",
        }
    }
}
