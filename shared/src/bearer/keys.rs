//! The keys that signed tokens are verified with, read from their files.

use std::fmt;
use std::path::PathBuf;

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ED25519, ParsedPublicKey, VerificationAlgorithm,
};
use jsonwebtoken::jwk::{
    AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, KeyOperations, PublicKeyUse,
};
use jsonwebtoken::{Algorithm, DecodingKey, DecodingKeyKind, Header};
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;
use x509_parser::prelude::FromDer as _;
use x509_parser::public_key::RSAPublicKey;

use crate::bearer::KeyFiles;
use crate::credentials::Digest;
use crate::reload::{Parsed, Source};

/// RFC 7518 §3.2: a secret for HS256 has at least as many bytes as its hash.
const SECRET_BYTES_WISE: usize = 32;
/// RFC 7518 §3.3: a key for RS256 has at least as many bits.
const RSA_BITS_MIN: usize = 2048;
/// A token that names no key is tried with each: there must not be too many.
const KEYS_MAX: usize = 64;

/// All keys.
#[derive(Debug, Default)]
pub struct Keys {
    keys: Vec<Key>,
}

/// A key, and the one algorithm that it is for.
pub struct Key {
    id: Option<String>,
    /// What it is known by.
    pub digest: Digest,
    /// What verifies.
    pub key: DecodingKey,
    /// RFC 8725 §3.1: a key is used with one algorithm only.
    pub algorithm: Algorithm,
}

impl Keys {
    /// All keys.
    pub fn iter(&self) -> impl Iterator<Item = &Key> {
        self.keys.iter()
    }

    /// The keys that a token may be made with: the ones it names, or all that have no name, or, where
    /// it names none, all.
    pub fn candidates<'a>(&'a self, header: &Header) -> impl Iterator<Item = &'a Key> {
        let named = header.kid.clone();
        self.keys.iter().filter(move |key| match (&named, &key.id) {
            (Some(named), Some(id)) => named == id,
            _ => true,
        })
    }
}

impl Source for KeyFiles {
    type Value = Keys;

    fn what(&self) -> &'static str {
        "keys of signed tokens"
    }

    fn paths(&self) -> Vec<PathBuf> {
        [&self.secret, &self.public].into_iter().flatten().cloned().collect()
    }

    fn parse(&self, contents: &[Vec<u8>]) -> Result<Parsed<Keys>, String> {
        let mut contents = contents.iter();
        let (mut keys, mut warnings) = (Vec::new(), Vec::new());
        if let Some(secret) = self.secret.as_ref().and_then(|_| contents.next()) {
            keys.push(read_secret(secret, &mut warnings)?);
        }
        if let Some(text) = self.public.as_ref().and_then(|_| contents.next()) {
            read_public(text, &mut keys, &mut warnings)?;
        }
        if keys.len() > KEYS_MAX {
            return Err(format!("there are more than {KEYS_MAX} keys"));
        }
        Ok(Parsed { value: Keys { keys }, warnings, is_cut_short: false })
    }

    fn withdraws_all(&self, old: &Keys, new: &Keys) -> bool {
        !old.keys.is_empty()
            && !old.iter().any(|old| new.iter().any(|new| new.digest == old.digest))
    }

    fn is_secret(&self, index: usize) -> bool {
        index == 0 && self.secret.is_some()
    }
}

/// The whole file is the secret, but for a line end behind it.
fn read_secret(text: &[u8], warnings: &mut Vec<String>) -> Result<Key, String> {
    let secret = text.trim_ascii_end();
    if secret.is_empty() {
        return Err("the secret is empty".to_owned());
    }
    if secret.len() < SECRET_BYTES_WISE {
        warnings.push(format!("the secret has fewer than {SECRET_BYTES_WISE} bytes"));
    }
    Ok(Key {
        id: None,
        digest: Digest::of_bytes(secret),
        key: DecodingKey::from_secret(secret),
        algorithm: Algorithm::HS256,
    })
}

fn read_public(text: &[u8], keys: &mut Vec<Key>, warnings: &mut Vec<String>) -> Result<(), String> {
    let text = std::str::from_utf8(text).map_err(|_| "the keys are not text".to_owned())?;
    if text.trim_start().starts_with('{') {
        read_jwks(text, keys, warnings)
    } else {
        read_pem(text, keys)
    }
}

#[derive(Deserialize)]
struct Jwks<'a> {
    #[serde(borrow)]
    keys: Vec<&'a RawValue>,
}

/// RFC 7517 §5: keys that are not understood are ignored.
fn read_jwks(text: &str, keys: &mut Vec<Key>, warnings: &mut Vec<String>) -> Result<(), String> {
    let jwks: Jwks<'_> = serde_json::from_str(text).map_err(|_| "not a JWKS".to_owned())?;
    for (number, text) in (1..).zip(jwks.keys) {
        let read = serde_json::from_str::<Jwk>(text.get()).map_err(|_| "it is no JWK");
        match read.and_then(|jwk| read_jwk(&jwk, text)) {
            Ok(key) => keys.push(key),
            Err(fault) => warnings.push(format!("key {number} is not used: {fault}")),
        }
    }
    Ok(())
}

/// What a public key does not have.
#[derive(Deserialize)]
struct Private {
    d: Option<IgnoredAny>,
}

fn read_jwk(jwk: &Jwk, text: &RawValue) -> Result<Key, &'static str> {
    let (algorithm, meant) = match &jwk.algorithm {
        AlgorithmParameters::RSA(_) => (Algorithm::RS256, KeyAlgorithm::RS256),
        AlgorithmParameters::EllipticCurve(it) if it.curve == EllipticCurve::P256 => {
            (Algorithm::ES256, KeyAlgorithm::ES256)
        }
        AlgorithmParameters::OctetKeyPair(it) if it.curve == EllipticCurve::Ed25519 => {
            (Algorithm::EdDSA, KeyAlgorithm::EdDSA)
        }
        _ => return Err("it is not for RS256, ES256 or EdDSA"),
    };
    if serde_json::from_str::<Private>(text.get()).is_ok_and(|it| it.d.is_some()) {
        return Err("it is a private key");
    }
    let common = &jwk.common;
    if common.key_algorithm.as_ref().is_some_and(|alg| *alg != meant) {
        return Err("it is for another algorithm than RS256, ES256 or EdDSA");
    }
    let is_for_others = |uses: &Vec<KeyOperations>| !uses.contains(&KeyOperations::Verify);
    if common.public_key_use.as_ref().is_some_and(|it| *it != PublicKeyUse::Signature)
        || common.key_operations.as_ref().is_some_and(is_for_others)
    {
        return Err("it is not for signatures");
    }
    let key = DecodingKey::from_jwk(jwk).map_err(|_| "its numbers cannot be read")?;
    let digest = judge(&key, algorithm)?;
    Ok(Key { id: common.key_id.clone(), digest, key, algorithm })
}

/// Public keys, one behind the other.
fn read_pem(text: &str, keys: &mut Vec<Key>) -> Result<(), String> {
    const BEGIN: &str = "-----BEGIN ";
    let mut blocks = (1..).zip(text.split(BEGIN).skip(1)).peekable();
    if blocks.peek().is_none() {
        return Err("there is no key in it: neither a JWKS nor PEM".to_owned());
    }
    for (number, rest) in blocks {
        let pem = format!("{BEGIN}{rest}");
        let pem = pem.trim().as_bytes();
        let rsa = || DecodingKey::from_rsa_pem(pem).map(|key| (key, Algorithm::RS256));
        let ec = || DecodingKey::from_ec_pem(pem).map(|key| (key, Algorithm::ES256));
        let ed = || DecodingKey::from_ed_pem(pem).map(|key| (key, Algorithm::EdDSA));
        let is_public = rest.starts_with("PUBLIC KEY") || rest.starts_with("RSA PUBLIC KEY");
        let read = is_public.then(|| rsa().or_else(|_| ec()).or_else(|_| ed()).ok()).flatten();
        let judged = read.ok_or("it is no public key for RS256, ES256 or EdDSA");
        let judged = judged.and_then(|(key, algorithm)| {
            let digest = judge(&key, algorithm)?;
            Ok(Key { id: None, digest, key, algorithm })
        });
        keys.push(judged.map_err(|fault| format!("PEM block {number} cannot be used: {fault}"))?);
    }
    Ok(())
}

/// Whether a key can verify anything: a token would find it out too late. Gives what it is known by,
/// which does not depend on how it is written.
fn judge(key: &DecodingKey, algorithm: Algorithm) -> Result<Digest, &'static str> {
    let point = |bytes: &[u8], algorithm: &'static dyn VerificationAlgorithm| {
        ParsedPublicKey::new(algorithm, bytes).map_err(|_| "it is on no curve that is used")?;
        Ok(Digest::of_bytes(bytes))
    };
    match (algorithm, key.kind()) {
        (Algorithm::ES256, DecodingKeyKind::SecretOrDer(bytes)) => {
            point(bytes, &ECDSA_P256_SHA256_FIXED)
        }
        (Algorithm::EdDSA, DecodingKeyKind::SecretOrDer(bytes)) => point(bytes, &ED25519),
        (_, DecodingKeyKind::RsaModulusExponent { n, e }) => judge_rsa(n, e),
        (_, DecodingKeyKind::SecretOrDer(der)) => {
            let (_, rsa) = RSAPublicKey::from_der(der).map_err(|_| "its numbers cannot be read")?;
            judge_rsa(rsa.modulus, rsa.exponent)
        }
    }
}

fn judge_rsa(modulus: &[u8], exponent: &[u8]) -> Result<Digest, &'static str> {
    let zeros = modulus.iter().take_while(|byte| **byte == 0).count();
    let modulus = modulus.get(zeros..).unwrap_or_default();
    let spare = modulus.first().map_or(0, |byte| byte.leading_zeros());
    let bits = (modulus.len() * 8).saturating_sub(usize::try_from(spare).unwrap_or_default());
    match bits {
        RSA_BITS_MIN.. => Ok(Digest::of_bytes(&[modulus, b".", exponent].concat())),
        _ => Err("it has fewer than 2048 bits"),
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key").field("algorithm", &self.algorithm).finish_non_exhaustive()
    }
}
