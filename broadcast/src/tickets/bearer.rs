//! Whom a signed token has proved, as it is kept beside a ticket: the claims, and never the token.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use shared::credentials::Digest;
use shared::pattern::Pattern;
use shared::principal::{Grant, Principal};

#[derive(Serialize, Deserialize)]
struct Kept {
    name: String,
    source: String,
    publish: Vec<String>,
    subscribe: Vec<String>,
    admin: bool,
    /// Milliseconds since 1970.
    expires: Option<i64>,
    digest: [u8; 32],
    key: [u8; 32],
}

/// The principal as text.
pub(super) fn write(principal: &Principal) -> String {
    let texts = |patterns: &[Pattern]| patterns.iter().map(|it| it.as_str().to_owned()).collect();
    let bytes = |digest: &Option<Digest>| digest.as_ref().map_or([0; 32], |it| *it.as_bytes());
    let kept = Kept {
        name: principal.name.to_string(),
        source: principal.source.to_string(),
        publish: texts(&principal.grant.publish),
        subscribe: texts(&principal.grant.subscribe),
        admin: principal.grant.admin,
        expires: principal.expires.map(Timestamp::as_millisecond),
        digest: bytes(&principal.digest),
        key: bytes(&principal.key),
    };
    // Such a struct can always be written.
    serde_json::to_string(&kept).unwrap_or_default()
}

/// Reads it back; `None` if it is damaged.
pub(super) fn read(text: &str) -> Option<Principal> {
    let kept: Kept = serde_json::from_str(text).ok()?;
    let patterns = |texts: Vec<String>| -> Option<Vec<Pattern>> {
        texts.into_iter().map(|text| Pattern::parse(text).ok()).collect()
    };
    let expires = match kept.expires {
        Some(millis) => Some(Timestamp::from_millisecond(millis).ok()?),
        None => None,
    };
    Some(Principal {
        source: kept.source.into(),
        name: kept.name.into(),
        grant: Grant {
            publish: patterns(kept.publish)?,
            subscribe: patterns(kept.subscribe)?,
            admin: kept.admin,
        },
        expires,
        digest: Some(Digest::from_bytes(kept.digest)),
        key: Some(Digest::from_bytes(kept.key)),
    })
}
