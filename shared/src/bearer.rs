//! Signed tokens that carry their own grants: JWTs (RFC 7519) under the scheme `Bearer` (RFC 6750).
//!
//! Held by [`Tokens`](crate::tokens::Tokens), which decides every credential. The algorithm is
//! pinned by the key, never taken from the token's header (RFC 8725 §3.1).

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytestring::ByteString;
use jiff::Timestamp;
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, Header, Validation, decode, decode_header};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;

use crate::bearer::keys::{Key, Keys};
use crate::credentials::{Digest, Jwt};
use crate::event::is_forbidden;
use crate::pattern::Pattern;
use crate::principal::{Grant, Principal};
use crate::reload::{LoadError, Reloaded};

pub mod keys;

/// The name of a principal whose token has none.
const NAMELESS: &str = "jwt";
/// A name is shown in logs and metrics and becomes part of `source`.
const NAME_CHARS_MAX: usize = 128;
/// Verified tokens that are remembered; beyond it all are verified anew.
const VERIFIED_MAX: usize = 10_000;
/// RFC 3986 §3.3: what a segment of a path does not hold as it is.
const NOT_IN_PATH: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~')
    .remove(b'@')
    .remove(b':')
    .remove(b'+');
/// More patterns in a claim are refused.
const PATTERNS_MAX: usize = 1000;

/// What signed tokens are judged by, beside their keys.
#[derive(Debug, Clone)]
pub struct Rules {
    /// Whether a token must say when it ends.
    pub requires_exp: bool,
    /// Whom a token must be meant for, if it must: one of these.
    pub audiences: Vec<String>,
    /// Who must have made it, if that matters.
    pub issuer: Option<String>,
    /// What a token may publish that says nothing of it.
    pub default_publish: Vec<Pattern>,
    /// What a token may subscribe that says nothing of it.
    pub default_subscribe: Vec<Pattern>,
}

/// Where the keys are.
#[derive(Debug, Clone, Default)]
pub struct KeyFiles {
    /// A shared secret, for HS256.
    pub secret: Option<PathBuf>,
    /// Public keys: a JWKS (RFC 7517 §5), or PEM.
    pub public: Option<PathBuf>,
}

/// The keys of now and the rules.
#[derive(Debug)]
pub struct Bearer {
    /// The keys; they follow their files.
    pub keys: Arc<Reloaded<Keys>>,
    rules: Rules,
    rules_digest: Digest,
    verified: Mutex<Verified>,
}

/// Tokens that were verified lately: a publisher shows the same one with each event, and a signature
/// costs more to verify than all the rest of an event.
#[derive(Debug, Default)]
struct Verified {
    /// Of the keys that they were verified with.
    version: u64,
    principals: HashMap<Digest, Arc<Principal>>,
}

impl Bearer {
    /// Begins to follow the files.
    ///
    /// # Errors
    ///
    /// A file is no good, or the library that verifies does not work here.
    pub fn follow(files: KeyFiles, rules: Rules) -> Result<Arc<Self>, LoadError> {
        self_test().map_err(LoadError::Parse)?;
        let keys = Reloaded::follow(files)?;
        let rules_digest = Digest::of(&format!("{rules:?}"));
        Ok(Arc::new(Self { keys, rules, rules_digest, verified: Mutex::default() }))
    }

    /// Decides who shows a token; `None` if nobody. Whether its time is over is judged by the caller.
    pub fn verify(&self, jwt: &Jwt) -> Option<Arc<Principal>> {
        let digest = Digest::of(jwt.as_str());
        // Read before the keys: these are never older than that.
        let version = self.keys.version();
        let known = self.verified(version).principals.get(&digest).cloned();
        if known.is_some() {
            return known;
        }
        let principal = self.verify_anew(jwt)?;
        let mut verified = self.verified(version);
        // With newer keys it might not have been.
        if verified.version == version {
            if verified.principals.len() >= VERIFIED_MAX {
                verified.principals.clear();
            }
            verified.principals.insert(digest, Arc::clone(&principal));
        }
        Some(principal)
    }

    /// What was verified with these keys, or newer ones.
    fn verified(&self, version: u64) -> MutexGuard<'_, Verified> {
        let mut verified = self.verified.lock().unwrap_or_else(PoisonError::into_inner);
        if verified.version < version {
            *verified = Verified { version, principals: HashMap::new() };
        }
        verified
    }

    fn verify_anew(&self, jwt: &Jwt) -> Option<Arc<Principal>> {
        let header = decode_header(jwt.as_str()).ok()?;
        // RFC 7515 §4.1.11: what must be understood and is not makes a token invalid.
        if header.crit.is_some() {
            return None;
        }
        let keys = self.keys.load();
        let (claims, key) =
            keys.candidates(&header).find_map(|key| Some((self.read(jwt, &header, key)?, key)))?;
        self.principal(claims, key).map(Arc::new)
    }

    /// Whether the key that made a principal is still there, and the rules are the same.
    pub fn holds(&self, mark: &Digest) -> bool {
        self.keys.load().iter().any(|key| self.mark(key) == *mark)
    }

    /// What says by which key and by which rules a principal was made: a ticket outlives the process, and
    /// must not outlive either.
    fn mark(&self, key: &Key) -> Digest {
        let mut bytes = *key.digest.as_bytes();
        bytes.iter_mut().zip(self.rules_digest.as_bytes()).for_each(|(byte, rule)| *byte ^= rule);
        Digest::from_bytes(bytes)
    }

    fn read(&self, jwt: &Jwt, header: &Header, key: &Key) -> Option<Claims> {
        if header.alg != key.algorithm {
            return None;
        }
        let validation = self.rules.validation(key.algorithm);
        Some(decode::<Claims>(jwt.as_str(), &key.key, &validation).ok()?.claims)
    }

    fn principal(&self, claims: Claims, key: &Key) -> Option<Principal> {
        let name = claims.sub.unwrap_or_else(|| NAMELESS.to_owned());
        let is_fit = (1..=NAME_CHARS_MAX).contains(&name.chars().count());
        if !is_fit || name.chars().any(is_forbidden) {
            return None;
        }
        let grant = Grant {
            publish: patterns(claims.publish, &self.rules.default_publish)?,
            subscribe: patterns(claims.subscribe, &self.rules.default_subscribe)?,
            admin: claims.admin.unwrap_or(false),
        };
        Some(Principal {
            source: format!("/{}", utf8_percent_encode(&name, NOT_IN_PATH)).into(),
            grant,
            expires: claims.exp.map(expiry),
            // The same for all tokens that one subject gets from one key.
            digest: Some(Digest::of(&format!("{} {name}", key.digest.to_hex()))),
            key: Some(self.mark(key)),
            name: ByteString::from(name),
        })
    }
}

impl Rules {
    fn validation(&self, algorithm: Algorithm) -> Validation {
        let mut validation = Validation::new(algorithm);
        validation.leeway = 0;
        validation.validate_nbf = true;
        validation.validate_aud = !self.audiences.is_empty();
        let mut required = Vec::new();
        if self.requires_exp {
            required.push("exp");
        }
        if !self.audiences.is_empty() {
            validation.set_audience(&self.audiences);
            required.push("aud");
        }
        if let Some(issuer) = &self.issuer {
            validation.set_issuer(&[issuer]);
            required.push("iss");
        }
        validation.set_required_spec_claims(&required);
        validation
    }
}

/// The claims that we read. All others are ignored (RFC 7519 §4).
#[derive(Deserialize)]
struct Claims {
    sub: Option<String>,
    exp: Option<f64>,
    publish: Option<Vec<String>>,
    subscribe: Option<Vec<String>>,
    admin: Option<bool>,
}

/// The patterns of a claim, or what stands in its place; `None` if one of them is none.
fn patterns(claimed: Option<Vec<String>>, otherwise: &[Pattern]) -> Option<Vec<Pattern>> {
    let Some(claimed) = claimed else { return Some(otherwise.to_vec()) };
    if claimed.len() > PATTERNS_MAX {
        return None;
    }
    claimed.into_iter().map(|text| Pattern::parse(text).ok()).collect()
}

/// RFC 7519 §2: seconds since 1970, which may have a fraction.
fn expiry(seconds: f64) -> Timestamp {
    let millis = (seconds * 1000.0).round();
    // A float that is larger than any time is the last time there is.
    #[expect(clippy::cast_possible_truncation, reason = "`as` saturates")]
    Timestamp::from_millisecond(millis as i64).unwrap_or(Timestamp::MAX)
}

/// The library panics at the first token where it was built without the means to verify any: that
/// must show at the start, not at a stranger's first try.
fn self_test() -> Result<(), String> {
    const WRONG: &str = "eyJhbGciOiJIUzI1NiJ9.e30.AAAA";
    let verified = std::panic::catch_unwind(|| {
        let key = jsonwebtoken::DecodingKey::from_secret(b"self-test");
        decode::<Claims>(WRONG, &key, &Validation::new(Algorithm::HS256))
    });
    let error = verified.ok().and_then(Result::err);
    match error.map(jsonwebtoken::errors::Error::into_kind) {
        Some(ErrorKind::InvalidSignature) => Ok(()),
        _ => Err("signed tokens cannot be verified by this build".to_owned()),
    }
}

#[cfg(test)]
mod tests;
