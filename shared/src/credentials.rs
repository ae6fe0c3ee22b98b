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
    /// A secret under a scheme that is enabled.
    Token(Presented),
    /// Something under a scheme that is not enabled.
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
        if !scheme.eq_ignore_ascii_case("Basic") {
            return Self::UnknownScheme;
        }
        let secret = secret.trim_start_matches(' ');
        if secret.is_empty() || secret.contains([' ', '\t']) {
            return Self::Malformed;
        }
        Self::Token(Presented::from_basic(secret))
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
    fn from_basic(secret: &str) -> Self {
        // A hashed line may hold the digest of anything: the length is judged here, or nowhere.
        let digest_of =
            |secret: &str| (secret.chars().count() >= SECRET_CHARS_MIN).then(|| Digest::of(secret));
        let decoded = decode_basic(secret).and_then(|decoded| digest_of(&decoded));
        Self { raw: digest_of(secret), decoded }
    }

    /// The digests to look for, in order: the text itself, then what base64 made of it.
    pub fn digests(&self) -> impl Iterator<Item = &Digest> {
        self.raw.iter().chain(&self.decoded)
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
        let mut bytes = [0; 32];
        bytes.copy_from_slice(digest(&SHA256, secret.as_bytes()).as_ref());
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
            ("Bearer 0123456789abcdef", Credentials::UnknownScheme),
            ("0123456789abcdef", Credentials::UnknownScheme),
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
        let shown = format!("{:?}", Credentials::read("Basic 0123456789abcdef"));
        assert!(
            !shown.contains("0123") && !shown.contains(&Digest::of("0123456789abcdef").to_hex())
        );
    }
}
