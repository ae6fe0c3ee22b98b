//! Signed tokens, and the files with the keys that they are made with.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::{Value, json};

use crate::gateway::House;

/// A secret that both ends of a test know.
pub const SECRET: &str = "Lw5kJq1xSharedSecretOfTheTests-0001";
/// Long after any test.
pub const LATER: i64 = 4_102_444_800;

/// Somebody who makes tokens.
pub struct Signer {
    key: EncodingKey,
    algorithm: Algorithm,
    /// The public key, if it is not a shared secret.
    pub jwk: Value,
}

impl Signer {
    /// HS256.
    pub fn shared(secret: &str) -> Self {
        let key = EncodingKey::from_secret(secret.as_bytes());
        Self { key, algorithm: Algorithm::HS256, jwk: Value::Null }
    }

    /// ES256, with a key of its own that has no name.
    pub fn new() -> Self {
        let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        let key = EncodingKey::from_ec_pem(pair.serialize_pem().as_bytes()).unwrap();
        let encoded = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        let (x, y) = pair.public_key_raw()[1..].split_at(32);
        let jwk = json!({"kty": "EC", "crv": "P-256", "x": encoded(x), "y": encoded(y)});
        Self { key, algorithm: Algorithm::ES256, jwk }
    }

    /// A token with these claims and no others.
    pub fn sign(&self, claims: &Value) -> String {
        encode(&Header::new(self.algorithm), claims, &self.key).unwrap()
    }

    /// The value of an `Authorization` header: a token of a subject that may do everything, up to
    /// then.
    pub fn bearer(&self, subject: &str, ends: i64) -> String {
        let claims = json!({"sub": subject, "exp": ends, "publish": [">"], "subscribe": [">"]});
        format!("Bearer {}", self.sign(&claims))
    }
}

/// So many seconds from now.
pub fn in_seconds(seconds: i64) -> i64 {
    Timestamp::now().as_second() + seconds
}

/// A JWKS of these keys.
pub fn jwks<'a>(signers: impl IntoIterator<Item = &'a Signer>) -> String {
    let keys: Vec<&Value> = signers.into_iter().map(|signer| &signer.jwk).collect();
    json!({ "keys": keys }).to_string()
}

impl House {
    /// Takes tokens that are signed with a secret.
    pub fn with_secret(self, secret: &str) -> Self {
        self.write_secret(secret);
        let path = self.folder.path().join("jwt-secret");
        self.set("JWT_SECRET_FILE", path.display())
    }

    /// Takes tokens that are signed with keys.
    pub fn with_keys(self, text: &str) -> Self {
        self.write_keys(text);
        let path = self.folder.path().join("jwt-keys");
        self.set("JWT_KEYS_FILE", path.display())
    }

    /// Puts another secret in place, by rename.
    pub fn write_secret(&self, secret: &str) {
        self.put("jwt-secret", secret);
    }

    /// Puts other keys in place, by rename.
    pub fn write_keys(&self, text: &str) {
        self.put("jwt-keys", text);
    }

    fn put(&self, name: &str, text: &str) {
        let (path, new) = (self.folder.path().join(name), self.folder.path().join("jwt-new"));
        fs::write(&new, text).unwrap();
        fs::set_permissions(&new, fs::Permissions::from_mode(0o600)).unwrap();
        fs::rename(new, path).unwrap();
    }
}
