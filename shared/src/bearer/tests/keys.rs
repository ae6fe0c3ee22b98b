//! The keys: which are taken, which token is verified with which of them.

use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519};
use serde_json::Value;

use super::*;
use crate::bearer::keys::Keys;
use crate::bearer::tests::headers::sign_by_hand;

/// An RSA key of 1024 bits.
const SHORT_RSA: &str = "-----BEGIN PUBLIC KEY-----
MIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQCtOPPE0G5F1ygSG6zb5r4nbbo3
dQYiztTX+fVBguaf2zcjIySgoLkM9EAiwq7Ze8h6TDStiR3usJIdkY2RJyF7F3nf
HUT9XQ58rieICpUPg31wTzy5igZrWHDk4TO2rmBFgM0WReeT02c8eldMPO9iUnBC
Az1nW1y5DN4VsbaBrwIDAQAB
-----END PUBLIC KEY-----
";

/// A private key, and all that a test wants of it.
struct Pair {
    key: EncodingKey,
    algorithm: Algorithm,
    private_pem: String,
    public_pem: String,
    jwk: Value,
}

impl Pair {
    fn rsa() -> Self {
        let pair = KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).unwrap();
        let key = EncodingKey::from_rsa_pem(pair.serialize_pem().as_bytes()).unwrap();
        let jwk = jsonwebtoken::jwk::Jwk::from_encoding_key(&key, Algorithm::RS256).unwrap();
        Self::of(&pair, key, Algorithm::RS256, serde_json::to_value(jwk).unwrap())
    }

    fn ec() -> Self {
        let pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let key = EncodingKey::from_ec_pem(pair.serialize_pem().as_bytes()).unwrap();
        let (x, y) = pair.public_key_raw()[1..].split_at(32);
        let jwk = json!({"kty": "EC", "crv": "P-256", "x": encoded(x), "y": encoded(y)});
        Self::of(&pair, key, Algorithm::ES256, jwk)
    }

    fn ed() -> Self {
        let pair = KeyPair::generate_for(&PKCS_ED25519).unwrap();
        let key = EncodingKey::from_ed_pem(pair.serialize_pem().as_bytes()).unwrap();
        let x = encoded(pair.public_key_raw());
        Self::of(&pair, key, Algorithm::EdDSA, json!({"kty": "OKP", "crv": "Ed25519", "x": x}))
    }

    fn of(pair: &KeyPair, key: EncodingKey, algorithm: Algorithm, mut jwk: Value) -> Self {
        jwk.as_object_mut().unwrap().remove("alg");
        let (private_pem, public_pem) = (pair.serialize_pem(), pair.public_key_pem());
        Self { key, algorithm, private_pem, public_pem, jwk }
    }

    fn all() -> [Self; 3] {
        [Self::rsa(), Self::ec(), Self::ed()]
    }

    /// A good token.
    fn token(&self) -> String {
        self.token_with(Header::new(self.algorithm))
    }

    fn token_of(&self, kid: &str) -> String {
        self.token_with(Header { kid: Some(kid.to_owned()), ..Header::new(self.algorithm) })
    }

    fn token_with(&self, header: Header) -> String {
        encode(&header, &json!({"exp": LATER}), &self.key).unwrap()
    }

    /// The public key as a JWK with more members.
    fn jwk_with(&self, more: Value) -> Value {
        let mut jwk = self.jwk.clone();
        jwk.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        jwk
    }
}

fn encoded(bytes: &[u8]) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes)
}

fn jwks(keys: &[Value]) -> String {
    json!({ "keys": keys }).to_string()
}

fn court(public: &str) -> Court {
    Court::try_open(None, Some(public), rules()).unwrap()
}

/// What a keys file gives: how many keys, and what it warns of.
fn read(public: &str) -> Result<(usize, Vec<String>), String> {
    let files = KeyFiles { secret: None, public: Some("keys".into()) };
    let parsed = files.parse(&[public.as_bytes().to_vec()])?;
    let keys: Keys = parsed.value;
    Ok((keys.iter().count(), parsed.warnings))
}

#[test]
fn each_kind_of_key_verifies_its_tokens_and_no_others() {
    let (pairs, strangers) = (Pair::all(), Pair::all());
    for (pair, stranger) in pairs.iter().zip(&strangers) {
        for file in [pair.public_pem.clone(), jwks(std::slice::from_ref(&pair.jwk))] {
            let court = court(&file);
            assert!(court.verify(&pair.token()).is_some(), "{:?}", pair.algorithm);
            assert!(court.verify(&stranger.token()).is_none(), "{:?}", pair.algorithm);
        }
    }
    // All in one file.
    let pem: String = pairs.iter().map(|pair| format!("{}\n# next\n", pair.public_pem)).collect();
    let jwks = jwks(&pairs.each_ref().map(|pair| pair.jwk.clone()));
    for file in [pem, jwks] {
        let court = court(&file);
        for (pair, stranger) in pairs.iter().zip(&strangers) {
            assert!(court.verify(&pair.token()).is_some(), "{:?}", pair.algorithm);
            assert!(court.verify(&stranger.token()).is_none(), "{:?}", pair.algorithm);
        }
    }
}

/// RFC 8725 §3.1: whoever may choose the algorithm may make a public key a shared secret.
#[test]
fn a_public_key_is_no_shared_secret() {
    for pair in Pair::all() {
        let file = jwks(std::slice::from_ref(&pair.jwk));
        let der = pair.public_pem.lines().filter(|it| !it.starts_with('-')).collect::<String>();
        let texts = [
            pair.public_pem.as_str(),
            pair.public_pem.trim_end(),
            &file,
            &pair.jwk.to_string(),
            pair.jwk["x"].as_str().unwrap_or_default(),
            pair.jwk["n"].as_str().unwrap_or_default(),
            &der,
            "",
        ];
        for (secret, public) in
            [(None, &pair.public_pem), (None, &file), (Some(SECRET), &pair.public_pem)]
        {
            let court = Court::try_open(secret, Some(public), rules()).unwrap();
            for text in texts {
                let claims = json!({"exp": LATER});
                let header = json!({"alg": "HS256"});
                let forged = sign_by_hand(&header, &claims, text.as_bytes());
                assert!(court.verify(&forged).is_none(), "{:?} {text}", pair.algorithm);
            }
            let honest = sign(&format!(r#"{{"exp":{LATER}}}"#));
            assert_eq!(court.verify(&honest).is_some(), secret.is_some());
        }
    }
}

#[test]
fn a_token_without_a_signature_is_none() {
    let ec = Pair::ec();
    let courts = [Court::open(rules()), court(&ec.public_pem), court(&jwks(&[ec.jwk]))];
    for alg in ["none", "None", "NONE", ""] {
        let claims = json!({"exp": LATER});
        let token = sign_by_hand(&json!({"alg": alg}), &claims, SECRET.as_bytes());
        let (text, _) = token.rsplit_once('.').unwrap();
        for court in &courts {
            for token in [&token, &format!("{text}."), text] {
                assert!(court.verify(token).is_none(), "{alg}: {token}");
            }
        }
    }
}

/// A key is used with one algorithm only.
#[test]
fn other_algorithms_of_the_same_key_are_refused() {
    let rsa = Pair::rsa();
    let file = court(&rsa.public_pem);
    for other in [Algorithm::RS384, Algorithm::RS512, Algorithm::PS256, Algorithm::PS512] {
        assert!(file.verify(&rsa.token_with(Header::new(other))).is_none(), "{other:?}");
    }
    let shared = Court::open(rules());
    let secret = EncodingKey::from_secret(SECRET.as_bytes());
    for other in [Algorithm::HS384, Algorithm::HS512] {
        let token = encode(&Header::new(other), &json!({"exp": LATER}), &secret).unwrap();
        assert!(shared.verify(&token).is_none(), "{other:?}");
    }
}

#[test]
fn a_token_that_names_its_key_is_verified_with_that_one_alone() {
    let (first, second, nameless) = (Pair::ec(), Pair::ec(), Pair::ed());
    let first_key = first.jwk_with(json!({"kid": "1", "use": "sig", "alg": "ES256"}));
    let second_key = second.jwk_with(json!({"kid": "2", "key_ops": ["verify"]}));
    let named = court(&jwks(&[first_key.clone(), second_key.clone()]));
    let mixed = court(&jwks(&[first_key, second_key, nameless.jwk.clone()]));
    for (what, court) in [("named", &named), ("mixed", &mixed)] {
        for (token, is_good) in [
            (first.token(), true),
            (second.token(), true),
            (first.token_of("1"), true),
            (second.token_of("2"), true),
            (first.token_of("2"), false),
            (first.token_of("3"), false),
            (first.token_of(""), false),
        ] {
            assert_eq!(court.verify(&token).is_some(), is_good, "{what}");
        }
    }
    // A key without a name may be meant by any.
    for token in [nameless.token(), nameless.token_of("1"), nameless.token_of("3")] {
        assert!(named.verify(&token).is_none());
        assert!(mixed.verify(&token).is_some());
    }
}

/// RFC 7517 §5: keys that are not understood are ignored; the others work.
#[test]
fn keys_of_a_jwks_that_cannot_be_used_are_left_out_with_a_warning() {
    let (good, rsa, ec, ed) = (Pair::ec(), Pair::rsa(), Pair::ec(), Pair::ed());
    let off_curve = ec.jwk_with(json!({"y": encoded(&[1; 32])}));
    let short_rsa = json!({"kty": "RSA", "n": encoded(&[0xff; 128]), "e": "AQAB"});
    for bad in [
        json!({"kty": "unheard-of", "kid": "1"}),
        json!({"kty": "oct", "k": encoded(SECRET.as_bytes())}),
        json!({"kty": "EC", "crv": "P-384", "x": encoded(&[1; 48]), "y": encoded(&[1; 48])}),
        json!({"kty": "EC", "crv": "secp256k1", "x": encoded(&[1; 32]), "y": encoded(&[1; 32])}),
        json!({"kty": "EC", "crv": "P-256"}),
        json!({"kty": "OKP", "crv": "Ed448", "x": encoded(&[1; 57])}),
        json!({"kty": "OKP", "crv": "X25519", "x": encoded(&[1; 32])}),
        json!({}),
        json!("text"),
        json!(null),
        rsa.jwk_with(json!({"use": "enc"})),
        ec.jwk_with(json!({"use": "enc"})),
        ed.jwk_with(json!({"key_ops": ["encrypt"]})),
        rsa.jwk_with(json!({"alg": "RS512"})),
        rsa.jwk_with(json!({"alg": "PS256"})),
        rsa.jwk_with(json!({"alg": "ES256"})),
        rsa.jwk_with(json!({"alg": "RSA-OAEP"})),
        ec.jwk_with(json!({"alg": "ES384"})),
        ed.jwk_with(json!({"alg": "ES256"})),
        rsa.jwk_with(json!({"n": "not base64!"})),
        ed.jwk_with(json!({"x": encoded(&[1; 31])})),
        ec.jwk_with(json!({"d": encoded(&[1; 32])})),
        off_curve,
        short_rsa,
    ] {
        let file = jwks(&[bad.clone(), good.jwk.clone()]);
        let (count, warnings) = read(&file).unwrap();
        assert_eq!((count, warnings.len()), (1, 1), "{bad}: {warnings:?}");
        assert!(warnings[0].starts_with("key 1 is not used: "), "{}", warnings[0]);
        assert!(court(&file).verify(&good.token()).is_some(), "{bad}");
    }
    assert_eq!(read(&jwks(&[])), Ok((0, vec![])));
}

#[test]
fn what_is_neither_a_jwks_nor_public_keys_in_pem_is_refused() {
    let [rsa, ec, ed] = Pair::all();
    let p384 = KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap().public_key_pem();
    let certificate = rcgen::generate_simple_self_signed(["a".to_owned()]).unwrap().cert.pem();
    let broken = ec.public_pem.replace("MF", "MG");
    let mut table: Vec<String> =
        ["", "\n", "text", "{}", "{", r#"{"keys":{}}"#, "[]"].map(str::to_owned).into();
    table.extend([p384, certificate, broken, SHORT_RSA.to_owned(), SECRET.to_owned()]);
    for private in [&rsa, &ec, &ed].map(|pair| pair.private_pem.clone()) {
        // Not even beside a good one.
        table.push(format!("{}{private}", ec.public_pem));
        table.push(private);
    }
    for text in table {
        let fault = read(&text).expect_err(&text);
        assert!(!fault.contains('\n') && fault.len() < 100, "{fault}");
        // And not beside a shared secret either.
        assert!(Court::try_open(Some(SECRET), Some(&text), rules()).is_err(), "{text}");
    }
}

#[test]
fn too_many_keys_are_refused() {
    let ec = Pair::ec();
    assert_eq!(read(&jwks(&vec![ec.jwk.clone(); 64])).unwrap().0, 64);
    assert!(read(&jwks(&vec![ec.jwk.clone(); 65])).is_err());
}

#[test]
fn a_short_secret_works_with_a_warning() {
    let files = KeyFiles { secret: Some("secret".into()), public: None };
    for (secret, warnings) in [("x".repeat(31), 1), ("x".repeat(32), 0)] {
        let parsed = files.parse(&[secret.into_bytes()]).unwrap();
        assert_eq!((parsed.value.iter().count(), parsed.warnings.len()), (1, warnings));
        assert!(!format!("{parsed:?}").contains("xxx"));
    }
}

/// Sessions live as long as the key of their tokens: to write the same key in another way takes
/// nothing from anybody.
#[test]
fn a_key_is_the_same_however_it_is_written() {
    for pair in Pair::all() {
        let verified = court(&pair.public_pem).verify(&pair.token()).unwrap();
        let key = verified.key.unwrap();
        let other = Pair::ec();
        for file in [
            pair.public_pem.replace('\n', "\r\n"),
            format!("# first\n{}# and last\n", pair.public_pem),
            format!("{}{}", pair.public_pem, other.public_pem),
            jwks(&[other.jwk.clone(), pair.jwk_with(json!({"kid": "7"}))]),
        ] {
            assert!(court(&file).bearer.holds(&key), "{:?}: {file}", pair.algorithm);
        }
        assert!(!court(&other.public_pem).bearer.holds(&key));
    }
}
