//! What a stranger shows: the value of an `Authorization` header, or the absence of one.
//!
//! Read by every way in and out, judged by [`Tokens`](crate::tokens::Tokens) alone. The secret is
//! turned into its digest here, at the door; no type behind it ever holds the text.

use std::fmt;

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use subtle::ConstantTimeEq;

/// WIRE §1.1: a shorter token is no token.
pub const SECRET_CHARS_MIN: usize = 16;

/// What was shown as a proof of identity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Credentials {
    /// Nothing at all. Only an `anonymous` line admits this.
    Absent,
    /// A secret.
    Token(Presented),
    /// A signed token. Whether such are taken, [`Tokens`](crate::tokens::Tokens) knows.
    Bearer(Jwt),
    /// Something without a scheme, which may be either.
    Bare(Presented, Jwt),
    /// Something under a scheme that we do not know.
    UnknownScheme,
    /// Something that can be no credential: no secret, or words after it.
    Malformed,
}

impl Credentials {
    /// Reads the value of an `Authorization` header, or of `authentication` in a message.
    ///
    /// `Basic` takes the token raw, as the 2018 service did, or as base64 of `user:password`.
    /// The scheme's name is compared without regard to case (RFC 9110 §11.1).
    pub fn read(authorization: &str) -> Self {
        let authorization = authorization.trim_matches([' ', '\t']);
        if authorization.is_empty() {
            return Self::Malformed;
        }
        let (scheme, secret) = authorization.split_once(' ').unwrap_or((authorization, ""));
        let is_bearer = scheme.eq_ignore_ascii_case("Bearer");
        if !is_bearer && !scheme.eq_ignore_ascii_case("Basic") {
            return Self::UnknownScheme;
        }
        let secret = secret.trim_start_matches(' ');
        if is_bearer {
            return Self::Bearer(Jwt::new(secret));
        }
        if secret.is_empty() || secret.contains([' ', '\t']) {
            return Self::Malformed;
        }
        Self::Token(Presented::from_basic(secret))
    }

    /// Reads the value of an `Authorization` header, or a token without a scheme: for clients that
    /// know no schemes.
    pub fn read_bare(text: &str) -> Self {
        let text = text.trim_matches([' ', '\t']);
        if text.is_empty() || text.contains([' ', '\t']) {
            return Self::read(text);
        }
        Self::Bare(Presented::from_raw(text), Jwt::new(text))
    }

    /// Reads the `Authorization` headers of a request.
    ///
    /// # Errors
    ///
    /// [`TwoCredentials`] if there is more than one: which of them counts would be a guess.
    pub fn from_headers<'a>(
        mut values: impl Iterator<Item = &'a [u8]>,
    ) -> Result<Self, TwoCredentials> {
        let Some(value) = values.next() else { return Ok(Self::Absent) };
        if values.next().is_some() {
            return Err(TwoCredentials);
        }
        Ok(std::str::from_utf8(value).map_or(Self::Malformed, Self::read))
    }
}

/// The digests of what a secret that was shown can mean.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Presented {
    raw: Option<Digest>,
    decoded: Option<Digest>,
}

impl Presented {
    fn from_raw(secret: &str) -> Self {
        Self { raw: digest_of(secret), decoded: None }
    }

    fn from_basic(secret: &str) -> Self {
        let decoded = decode_basic(secret).and_then(|decoded| digest_of(&decoded));
        Self { decoded, ..Self::from_raw(secret) }
    }

    /// The digests to look for, in order: the text itself, then what base64 made of it.
    pub fn digests(&self) -> impl Iterator<Item = &Digest> {
        self.raw.iter().chain(&self.decoded)
    }
}

/// A hashed line may hold the digest of anything: the length is judged here, or nowhere.
fn digest_of(secret: &str) -> Option<Digest> {
    (secret.chars().count() >= SECRET_CHARS_MIN).then(|| Digest::of(secret))
}

/// A signed token as it was shown. It is verified, and not kept.
#[derive(Clone, PartialEq, Eq)]
pub struct Jwt(String);

impl Jwt {
    /// More is no token, whatever it says.
    const BYTES_MAX: usize = 8 * 1024;

    fn new(text: &str) -> Self {
        Self(if text.len() > Self::BYTES_MAX { String::new() } else { text.to_owned() })
    }

    /// The text, to be verified.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Jwt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// RFC 7617 §2: base64 of `user:password`. The secret is the password, or the user name where
/// the password is empty (`curl -u TOKEN:`).
fn decode_basic(secret: &str) -> Option<String> {
    const LENIENT: GeneralPurposeConfig =
        GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    let decoded = GeneralPurpose::new(&STANDARD, LENIENT).decode(secret).ok()?;
    let decoded = String::from_utf8(decoded).ok()?;
    let (user, password) = decoded.split_once(':')?;
    Some(if password.is_empty() { user } else { password }.to_owned())
}

/// The SHA-256 of a secret: the only form in which secrets are kept in memory.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Digest([u8; 32]);

impl Digest {
    /// Hashes a secret.
    pub fn of(secret: &str) -> Self {
        Self::of_bytes(secret.as_bytes())
    }

    /// Hashes a secret that may be no text.
    pub fn of_bytes(secret: &[u8]) -> Self {
        let mut bytes = [0; 32];
        bytes.copy_from_slice(digest(&SHA256, secret).as_ref());
        Self(bytes)
    }

    /// Takes a digest that was made elsewhere.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The digest's bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Compares in a time that does not depend on the contents.
    pub fn matches(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }

    /// The digest in lower-case hexadecimal.
    pub fn to_hex(&self) -> String {
        self.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// A request showed more than one `Authorization` header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("two Authorization headers")]
pub struct TwoCredentials;

#[cfg(test)]
mod tests {
    use super::*;

    fn digests(authorization: &str) -> Vec<Digest> {
        match Credentials::read(authorization) {
            Credentials::Token(presented) => presented.digests().copied().collect(),
            _ => Vec::new(),
        }
    }

    #[test]
    fn a_basic_token_is_read_raw_whatever_the_case_of_the_scheme() {
        for authorization in
            ["Basic 0123456789abcdef", "basic  0123456789abcdef", " BASIC 0123456789abcdef "]
        {
            assert_eq!(digests(authorization).first(), Some(&Digest::of("0123456789abcdef")));
        }
    }

    #[test]
    fn standard_basic_means_the_password_or_else_the_user() {
        // base64 of ":0123456789abcdef", "user:0123456789abcdef", "0123456789abcdef:"
        for secret in
            ["OjAxMjM0NTY3ODlhYmNkZWY=", "dXNlcjowMTIzNDU2Nzg5YWJjZGVm", "MDEyMzQ1Njc4OWFiY2RlZjo="]
        {
            let digests = digests(&format!("Basic {secret}"));
            assert_eq!(digests, [Digest::of(secret), Digest::of("0123456789abcdef")]);
        }
    }

    #[test]
    fn a_secret_under_16_characters_has_no_digest() {
        // base64 of ":0123456789abcde"
        let (raw, base64) = ("Basic 0123456789abcde", "Basic OjAxMjM0NTY3ODlhYmNkZQ==");
        assert_eq!(digests(raw), []);
        let only_raw = Digest::of("OjAxMjM0NTY3ODlhYmNkZQ==");
        assert_eq!(digests(base64), [only_raw]);
    }

    #[test]
    fn what_is_no_credential_is_told_apart() {
        let table = [
            ("Digest 0123456789abcdef", Credentials::UnknownScheme),
            ("0123456789abcdef", Credentials::UnknownScheme),
            ("bearer  a.b.c", Credentials::Bearer(Jwt::new("a.b.c"))),
            ("", Credentials::Malformed),
            ("Basic", Credentials::Malformed),
            ("Basic ", Credentials::Malformed),
            ("Basic 0123456789abcdef more", Credentials::Malformed),
        ];
        for (authorization, expected) in table {
            assert_eq!(Credentials::read(authorization), expected, "{authorization:?}");
        }
    }

    #[test]
    fn without_a_scheme_it_may_be_a_token_or_a_signed_one() {
        let Credentials::Bare(presented, jwt) = Credentials::read_bare(" 0123456789abcdef ") else {
            panic!("it is bare");
        };
        assert_eq!(presented.digests().next(), Some(&Digest::of("0123456789abcdef")));
        assert_eq!(jwt.as_str(), "0123456789abcdef");
        let with_scheme = "Basic 0123456789abcdef";
        assert_eq!(Credentials::read_bare(with_scheme), Credentials::read(with_scheme));
        assert_eq!(Credentials::read_bare(""), Credentials::Malformed);
        let long = format!("Bearer {}", "x".repeat(8 * 1024 + 1));
        assert_eq!(Credentials::read(&long), Credentials::Bearer(Jwt::new("")));
    }

    #[test]
    fn two_headers_are_refused_even_if_they_are_equal() {
        let values: [&[u8]; 2] = [b"Basic 0123456789abcdef", b"Basic 0123456789abcdef"];
        assert_eq!(Credentials::from_headers(values.into_iter()), Err(TwoCredentials));
        assert_eq!(Credentials::from_headers(std::iter::empty()), Ok(Credentials::Absent));
    }

    #[test]
    fn a_digest_matches_only_itself() {
        let digest = Digest::of("0123456789abcdef");
        assert!(digest.matches(&Digest::of("0123456789abcdef")));
        assert!(!digest.matches(&Digest::of("0123456789abcdeg")));
        assert_eq!(format!("{digest:?}"), "***");
    }

    #[test]
    fn debug_shows_no_secret_and_no_digest() {
        for shown in ["Basic 0123456789abcdef", "Bearer 0123456789abcdef"] {
            let shown = format!("{:?}", Credentials::read(shown));
            assert!(
                !shown.contains("0123")
                    && !shown.contains(&Digest::of("0123456789abcdef").to_hex())
            );
        }
    }
}
