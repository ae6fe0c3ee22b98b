//! The form of a token: its header, its parts, the secret that it is signed with.

use serde_json::Value;
use serde_json::value::to_raw_value;

use super::*;

/// A token of a header that is written by hand.
pub(super) fn sign_by_hand(header: &Value, claims: &Value, secret: &[u8]) -> String {
    use aws_lc_rs::hmac;
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let text = format!("{}.{}", part(header), part(claims));
    let signature = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), text.as_bytes());
    format!("{text}.{}", URL_SAFE_NO_PAD.encode(signature))
}

#[test]
fn what_must_be_understood_and_is_not_makes_a_token_invalid() {
    let court = Court::open(rules());
    let claims = json!({"exp": LATER});
    let verify =
        |header: Value| court.verify(&sign_by_hand(&header, &claims, SECRET.as_bytes())).is_some();
    for header in [
        json!({"alg": "HS256"}),
        json!({"alg": "HS256", "typ": "at+jwt", "cty": "x", "odd": {"a": 1}}),
    ] {
        assert!(verify(header.clone()), "{header}");
    }
    for header in [
        json!({"alg": "HS256", "crit": ["exp"], "exp": 1}),
        json!({"alg": "HS256", "crit": []}),
        json!({"alg": "HS256", "crit": ["b64"], "b64": true}),
        json!({"alg": "hs256"}),
        json!({"typ": "JWT"}),
        json!({"alg": ["HS256"]}),
        json!([]),
    ] {
        assert!(!verify(header.clone()), "{header}");
    }
}

#[test]
fn what_is_no_token_is_refused() {
    let court = Court::open(rules());
    let good = sign(&format!(r#"{{"exp":{LATER}}}"#));
    assert!(court.verify(&good).is_some());
    let (text, signature) = good.rsplit_once('.').unwrap();
    let claims = to_raw_value(&json!({"exp": LATER, "pad": "x".repeat(9000)})).unwrap();
    for bad in [
        String::new(),
        ".".to_owned(),
        "..".to_owned(),
        text.to_owned(),
        format!("{text}."),
        format!("{good}."),
        format!("{good}.{signature}"),
        format!("{good}="),
        format!("{good} "),
        format!("{good} more"),
        format!(" {good}.x"),
        format!("{text}.{}", &signature[1..]),
        format!("x{good}"),
        good.to_uppercase(),
        // Larger than any token may be.
        sign(claims.get()),
    ] {
        let shown = Credentials::read(&format!("Bearer {bad}"));
        let is_good = match &shown {
            Credentials::Bearer(jwt) => court.bearer.verify(jwt).is_some(),
            _ => false,
        };
        // Blanks at the ends are not the credential's.
        assert_eq!(is_good, bad.trim() == good, "{}", &bad[..bad.len().min(200)]);
    }
}

#[test]
fn a_secret_is_the_whole_file_but_for_its_line_end() {
    let token = sign(&format!(r#"{{"exp":{LATER}}}"#));
    for (file, is_good) in [
        (format!("{SECRET}\n"), true),
        (format!("{SECRET}\r\n"), true),
        (SECRET.to_owned(), true),
        (format!(" {SECRET}"), false),
        (format!("{SECRET}\nmore\n"), false),
    ] {
        let court = Court::try_open(Some(&file), None, rules()).unwrap();
        assert_eq!(court.verify(&token).is_some(), is_good, "{file:?}");
    }
    for empty in ["", "\n", " \n"] {
        let error = Court::try_open(Some(empty), None, rules()).err().unwrap();
        assert_eq!(error.to_string(), "the secret is empty");
    }
}
