//! The lines of the tokens file (WIRE §2).
//!
//! A line that is wrong is left out with a complaint that names its number and never its content;
//! the others work all the same.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use bytestring::ByteString;
use jiff::Timestamp;

use crate::credentials::{Digest, SECRET_CHARS_MIN};
use crate::event::Time;
use crate::pattern::Pattern;
use crate::principal::{Grant, Principal};
use crate::tokens::Tokens;

/// A name is shown in logs and metrics and becomes part of `source`.
const NAME_CHARS_MAX: usize = 128;

/// Reads the whole file.
pub fn parse(text: &[u8]) -> (Tokens, Vec<Complaint>) {
    let mut complaints = Vec::new();
    let mut entries: HashMap<Option<Digest>, Entry> = HashMap::new();
    for (number, line) in lines(text) {
        match parse_line(line) {
            Ok(None) => {}
            Ok(Some(principal)) => admit(&mut entries, number, principal, &mut complaints),
            Err(fault) => complaints.push(Complaint { line: number, fault }),
        }
    }
    let mut tokens = Tokens::default();
    for (digest, entry) in entries {
        match (entry.is_contradicted, digest) {
            (true, _) => {}
            (false, Some(digest)) => {
                tokens.by_digest.insert(digest, Arc::new(entry.principal));
            }
            (false, None) => tokens.anonymous = Some(Arc::new(entry.principal)),
        }
    }
    (tokens, complaints)
}

/// Splits at LF, CRLF and CR, numbers from 1, skips a byte order mark.
pub fn lines(text: &[u8]) -> impl Iterator<Item = (usize, &[u8])> {
    let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
    let mut rest = Some(text);
    std::iter::from_fn(move || {
        let text = rest?;
        let Some(end) = memchr::memchr2(b'\n', b'\r', text) else {
            rest = None;
            return Some(text);
        };
        let (line, ending) = text.split_at(end);
        rest = ending.strip_prefix(b"\r\n").or_else(|| ending.get(1..));
        Some(line)
    })
    .enumerate()
    .map(|(index, line)| (index + 1, line))
}

/// Reads one line; `None` for a blank one or a comment.
///
/// # Errors
///
/// [`Fault`] says why the line does not work.
pub fn parse_line(line: &[u8]) -> Result<Option<Principal>, Fault> {
    let line = std::str::from_utf8(line).map_err(|_| Fault::NotUtf8)?.trim();
    if line.is_empty() || line.starts_with('#') {
        return Ok(None);
    }
    let mut words = line.split_whitespace();
    let secret = words.next().unwrap_or_default();
    let attributes = Attributes::parse(words)?;
    let digest = match (secret, secret.strip_prefix("sha256:")) {
        ("anonymous", _) => None,
        (_, Some(hex)) => Some(parse_digest(hex).ok_or(Fault::BadDigest)?),
        _ if secret.chars().count() < SECRET_CHARS_MIN => return Err(Fault::TooShort),
        _ => Some(Digest::of(secret)),
    };
    Ok(Some(attributes.into_principal(digest)))
}

fn parse_digest(hex: &str) -> Option<Digest> {
    let mut bytes = [0_u8; 32];
    if hex.len() != 64 || !hex.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    for (byte, at) in bytes.iter_mut().zip((0..64).step_by(2)) {
        *byte = u8::from_str_radix(hex.get(at..at + 2)?, 16).ok()?;
    }
    Some(Digest::from_bytes(bytes))
}

/// The same secret twice with the same attributes is one token; with different ones it is none.
fn admit(
    entries: &mut HashMap<Option<Digest>, Entry>,
    line: usize,
    principal: Principal,
    complaints: &mut Vec<Complaint>,
) {
    let key = principal.digest;
    match entries.get_mut(&key) {
        None => {
            entries.insert(key, Entry { line, principal, is_contradicted: false });
        }
        Some(entry) if entry.principal == principal => {}
        Some(entry) => {
            entry.is_contradicted = true;
            complaints.push(Complaint { line, fault: Fault::Contradicts { line: entry.line } });
        }
    }
}

struct Entry {
    line: usize,
    principal: Principal,
    is_contradicted: bool,
}

#[derive(Default)]
struct Attributes {
    name: Option<ByteString>,
    publish: Option<Vec<Pattern>>,
    subscribe: Option<Vec<Pattern>>,
    admin: Option<bool>,
    expires: Option<Timestamp>,
}

impl Attributes {
    fn parse<'a>(words: impl Iterator<Item = &'a str>) -> Result<Self, Fault> {
        let mut attributes = Self::default();
        for word in words {
            let (key, value) = word.split_once('=').ok_or(Fault::NotAnAttribute)?;
            let is_first = match key {
                "name" => attributes.name.replace(parse_name(value)?).is_none(),
                "publish" => attributes.publish.replace(parse_grant(value)?).is_none(),
                "subscribe" => attributes.subscribe.replace(parse_grant(value)?).is_none(),
                "admin" => attributes.admin.replace(parse_yes_no(value)?).is_none(),
                "expires" => attributes.expires.replace(parse_expires(value)?).is_none(),
                _ => return Err(Fault::UnknownAttribute),
            };
            if !is_first {
                return Err(Fault::TwiceGiven);
            }
        }
        Ok(attributes)
    }

    fn into_principal(self, digest: Option<Digest>) -> Principal {
        let default_name = || match &digest {
            Some(digest) => format!("token-{}", digest.to_hex().get(..8).unwrap_or_default()),
            None => "anonymous".to_owned(),
        };
        let name = self.name.unwrap_or_else(|| default_name().into());
        let is_plain = self.publish.is_none() && self.subscribe.is_none();
        let everything = || Pattern::parse(">").into_iter().collect();
        Principal {
            source: format!("/{name}").into(),
            name,
            grant: Grant {
                publish: self.publish.unwrap_or_else(everything),
                subscribe: self.subscribe.unwrap_or_else(everything),
                admin: digest.is_some() && self.admin.unwrap_or(is_plain),
            },
            expires: self.expires,
            digest,
            key: None,
        }
    }
}

fn parse_name(value: &str) -> Result<ByteString, Fault> {
    let is_fit = (1..=NAME_CHARS_MAX).contains(&value.chars().count())
        && !value.chars().any(char::is_control);
    if is_fit { Ok(value.into()) } else { Err(Fault::BadValue("name")) }
}

fn parse_grant(value: &str) -> Result<Vec<Pattern>, Fault> {
    if value == "none" {
        return Ok(Vec::new());
    }
    value
        .split(',')
        .map(|text| Pattern::parse(text).map_err(|_| Fault::BadValue("grant")))
        .collect()
}

fn parse_yes_no(value: &str) -> Result<bool, Fault> {
    match value {
        "yes" => Ok(true),
        "no" => Ok(false),
        _ => Err(Fault::BadValue("admin")),
    }
}

fn parse_expires(value: &str) -> Result<Timestamp, Fault> {
    let time = Time::parse(value).map_err(|_| Fault::BadValue("expires"))?;
    Ok(time.timestamp())
}

/// What is wrong with the file, by line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Complaint {
    /// The line's number, from 1.
    pub line: usize,
    /// What is wrong with it.
    pub fault: Fault,
}

impl fmt::Display for Complaint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.fault)
    }
}

/// Why a line does not work. Never holds any of its content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// The line is not UTF-8.
    #[error("not UTF-8")]
    NotUtf8,
    /// The secret is too short to be one.
    #[error("the token has fewer than {SECRET_CHARS_MIN} characters")]
    TooShort,
    /// `sha256:` is not followed by 64 hexadecimal digits.
    #[error("sha256: is not followed by 64 hexadecimal digits")]
    BadDigest,
    /// A word after the secret is not of the form `key=value`.
    #[error("a word after the token is not of the form key=value")]
    NotAnAttribute,
    /// The key is none that we know.
    #[error("an attribute is unknown (known: name, publish, subscribe, admin, expires)")]
    UnknownAttribute,
    /// The same key stands twice on the line.
    #[error("an attribute is given twice")]
    TwiceGiven,
    /// The value does not fit its key.
    #[error("the value of {0} is not valid")]
    BadValue(&'static str),
    /// The same secret stands on another line with other attributes.
    #[error("the token of line {line} stands here again with other attributes: none of them works")]
    Contradicts {
        /// The line on which the secret came first.
        line: usize,
    },
}

#[cfg(test)]
mod tests;
