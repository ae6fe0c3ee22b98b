//! What signed tokens are judged by: their claims here, their keys in `keys`.

use jsonwebtoken::{EncodingKey, encode};
use serde_json::json;
use serde_json::value::RawValue;
use tempfile::TempDir;

use super::*;
use crate::credentials::Credentials;
use crate::reload::Source as _;
use crate::tokens::TokensFile;

mod headers;
mod keys;

const SECRET: &str = "a shared secret of more than 32 bytes";
/// Long after this test.
const LATER: u64 = 4_102_444_800;

/// A folder with key files, and what follows them.
struct Court {
    bearer: Arc<Bearer>,
    #[expect(dead_code, reason = "the files are there as long as it is")]
    folder: TempDir,
}

impl Court {
    fn try_open(
        secret: Option<&str>,
        public: Option<&str>,
        rules: Rules,
    ) -> Result<Self, LoadError> {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let files = KeyFiles {
            secret: secret.map(|text| write("secret", text)),
            public: public.map(|text| write("keys", text)),
        };
        Ok(Self { bearer: Bearer::follow(files, rules)?, folder })
    }

    /// Shared secret alone.
    fn open(rules: Rules) -> Self {
        Self::try_open(Some(SECRET), None, rules).unwrap()
    }

    fn verify(&self, token: &str) -> Option<Arc<Principal>> {
        match Credentials::read(&format!("Bearer {token}")) {
            Credentials::Bearer(jwt) => self.bearer.verify(&jwt),
            other => panic!("{other:?}"),
        }
    }

    fn verify_claims(&self, claims: &str) -> Option<Arc<Principal>> {
        self.verify(&sign(claims))
    }
}

fn rules() -> Rules {
    Rules {
        requires_exp: true,
        audiences: Vec::new(),
        issuer: None,
        default_publish: Vec::new(),
        default_subscribe: Vec::new(),
    }
}

/// A token with these claims, as they are written.
fn sign(claims: &str) -> String {
    let claims = RawValue::from_string(claims.to_owned()).unwrap();
    encode(&Header::default(), &claims, &EncodingKey::from_secret(SECRET.as_bytes())).unwrap()
}

/// Claims that are good, and one more.
fn with(name: &str, value: &str) -> String {
    format!(r#"{{"exp":{LATER},"{name}":{value}}}"#)
}

fn texts(patterns: &[Pattern]) -> Vec<&str> {
    patterns.iter().map(Pattern::as_str).collect()
}

fn now() -> i64 {
    Timestamp::now().as_second()
}

#[test]
fn a_token_says_when_it_ends_unless_that_is_lifted() {
    let (strict, lenient) =
        (Court::open(rules()), Court::open(Rules { requires_exp: false, ..rules() }));
    for (claims, is_good_when_strict, is_good_when_lenient) in [
        (format!(r#"{{"exp":{LATER}}}"#), true, true),
        (format!(r#"{{"exp":{LATER}.5}}"#), true, true),
        (format!(r#"{{"exp":{}}}"#, now() + 60), true, true),
        (r#"{"exp":4.1024448e9}"#.to_owned(), true, true),
        ("{}".to_owned(), false, true),
        (r#"{"exp":null}"#.to_owned(), false, false),
        (format!(r#"{{"exp":{}}}"#, now()), false, false),
        (format!(r#"{{"exp":{}}}"#, now() - 1), false, false),
        (r#"{"exp":0}"#.to_owned(), false, false),
        (r#"{"exp":-1}"#.to_owned(), false, false),
        (r#"{"exp":1e300}"#.to_owned(), false, false),
        (format!(r#"{{"exp":"{LATER}"}}"#), false, false),
        (r#"{"exp":true}"#.to_owned(), false, false),
        (r#"{"exp":[]}"#.to_owned(), false, false),
        (format!(r#"{{"exp":{LATER},"exp":{LATER}}}"#), false, false),
        ("[]".to_owned(), false, false),
        ("null".to_owned(), false, false),
    ] {
        // What has ended this second is refused by whoever has asked for the principal.
        let is_good = |court: &Court| {
            court.verify_claims(&claims).is_some_and(|it| !it.is_expired(Timestamp::now()))
        };
        assert_eq!(is_good(&strict), is_good_when_strict, "{claims}");
        assert_eq!(is_good(&lenient), is_good_when_lenient, "{claims}");
    }
}

#[test]
fn a_fraction_of_a_second_counts() {
    let court = Court::open(rules());
    let expires = |exp: &str| court.verify_claims(&format!(r#"{{"exp":{exp}}}"#)).unwrap().expires;
    for (exp, millis) in [("4102444800", 0), ("4102444800.25", 250), ("4102444799.9996", 0)] {
        let expected = Timestamp::from_millisecond(4_102_444_800_000 + millis).unwrap();
        assert_eq!(expires(exp), Some(expected), "{exp}");
    }
    // Later than any time there is.
    assert_eq!(expires("18000000000000000000"), Some(Timestamp::MAX));
}

#[test]
fn a_token_is_good_from_its_nbf_on() {
    let court = Court::open(rules());
    let (past, future) = ((now() - 1).to_string(), (now() + 60).to_string());
    let text = format!("\"{past}\"");
    for (nbf, is_good) in [
        (past.as_str(), true),
        ("0", true),
        ("null", false),
        (&future, false),
        ("1e300", false),
        (&text, false),
        ("{}", false),
    ] {
        assert_eq!(court.verify_claims(&with("nbf", nbf)).is_some(), is_good, "{nbf}");
    }
}

#[test]
fn a_token_is_meant_for_one_of_the_audiences_where_there_are_any() {
    let some = Rules { audiences: vec!["fanfare".to_owned(), "wall".to_owned()], ..rules() };
    let (any, some) = (Court::open(rules()), Court::open(some));
    assert!(some.verify_claims(&format!(r#"{{"exp":{LATER}}}"#)).is_none());
    for (aud, is_good) in [
        (r#""fanfare""#, true),
        (r#""wall""#, true),
        (r#"["other","wall"]"#, true),
        (r#""other""#, false),
        (r#""FANFARE""#, false),
        (r#""fanfare,wall""#, false),
        (r#"["other"]"#, false),
        ("[]", false),
        (r#""""#, false),
        ("null", false),
        ("7", false),
        (r#"["wall",7]"#, false),
        (r#"{"wall":true}"#, false),
    ] {
        assert_eq!(some.verify_claims(&with("aud", aud)).is_some(), is_good, "{aud}");
        assert!(any.verify_claims(&with("aud", aud)).is_some(), "{aud}");
    }
}

#[test]
fn a_token_is_made_by_the_issuer_where_one_is_named() {
    let one = Rules { issuer: Some("https://login".to_owned()), ..rules() };
    let (any, one) = (Court::open(rules()), Court::open(one));
    assert!(one.verify_claims(&format!(r#"{{"exp":{LATER}}}"#)).is_none());
    for (iss, is_good) in [
        (r#""https://login""#, true),
        (r#""https://login/""#, false),
        (r#""""#, false),
        ("null", false),
        ("7", false),
        (r#"["another"]"#, false),
    ] {
        assert_eq!(one.verify_claims(&with("iss", iss)).is_some(), is_good, "{iss}");
        assert!(any.verify_claims(&with("iss", iss)).is_some(), "{iss}");
    }
}

#[test]
fn sub_is_the_name_and_what_can_be_no_name_is_no_token() {
    let court = Court::open(rules());
    let long = |chars: usize| json!("ä".repeat(chars)).to_string();
    for (sub, name) in [
        (r#""mary""#, Some("mary")),
        (r#""mary smith <m@example>""#, Some("mary smith <m@example>")),
        ("null", Some("jwt")),
        (&long(128), Some(&*"ä".repeat(128))),
        (&long(129), None),
        (r#""""#, None),
        (r#""a\nb""#, None),
        (r#""a\u0000""#, None),
        (r#""a\u007f""#, None),
        (r#""a\u0085""#, None),
        (r#""a\u2028b""#, None),
        (r#""a\u2029b""#, None),
        ("7", None),
        (r#"["mary"]"#, None),
    ] {
        let principal = court.verify_claims(&with("sub", sub));
        assert_eq!(principal.as_ref().map(|it| &*it.name), name, "{sub}");
        if let Some(principal) = principal {
            assert!(fluent_uri::UriRef::parse(&*principal.source).is_ok(), "{}", principal.source);
        }
    }
    let named = court.verify_claims(&with("sub", r#""mary smith <m@example>""#)).unwrap();
    assert_eq!(&*named.source, "/mary%20smith%20%3Cm@example%3E");
    assert_eq!(court.verify_claims(&format!(r#"{{"exp":{LATER}}}"#)).unwrap().name, "jwt");
}

/// What tells its requests from those of others: rates and retries go by it.
#[test]
fn all_tokens_of_a_subject_count_as_one() {
    let court = Court::open(rules());
    let digest = |claims: &str| court.verify_claims(claims).unwrap().digest.unwrap();
    let mary = digest(&with("sub", r#""mary""#));
    let again = digest(&format!(r#"{{"exp":{LATER}.5,"sub":"mary","publish":["a"]}}"#));
    assert_eq!(mary, again);
    assert_ne!(mary, digest(&with("sub", r#""john""#)));
    let other = Court::try_open(Some(&"x".repeat(40)), None, rules()).unwrap();
    let key = EncodingKey::from_secret("x".repeat(40).as_bytes());
    let claims = json!({"exp": LATER, "sub": "mary"});
    let token = encode(&Header::default(), &claims, &key).unwrap();
    assert_ne!(mary, other.verify(&token).unwrap().digest.unwrap());
}

#[test]
fn grants_are_lists_of_patterns_and_the_settings_stand_in_for_those_that_are_missing() {
    let parse = |text: &str| Pattern::parse(text.to_owned()).unwrap();
    let defaults = Rules {
        default_publish: vec![parse("in.>")],
        default_subscribe: vec![parse("out.*"), parse("b")],
        ..rules()
    };
    let (bare, defaults) = (Court::open(rules()), Court::open(defaults));
    let many = |count: usize| json!(vec!["a"; count]).to_string();
    // The claim, what it grants, and what it grants where there are defaults.
    type Row<'a> = (&'a str, Option<Vec<&'a str>>, Option<Vec<&'a str>>);
    for claim in ["publish", "subscribe"] {
        let otherwise = if claim == "publish" { vec!["in.>"] } else { vec!["out.*", "b"] };
        let same = |list: Vec<&'static str>| (Some(list.clone()), Some(list));
        let (many, too_many) = (many(1000), many(1001));
        let long = json!(["x".repeat(256)]).to_string();
        let mut table: Vec<Row<'_>> = vec![("null", Some(vec![]), Some(otherwise.clone()))];
        for (value, list) in [
            ("[]", vec![]),
            (r#"["a"]"#, vec!["a"]),
            (r#"["a","order.*",">"]"#, vec!["a", "order.*", ">"]),
            (&many, vec!["a"; 1000]),
        ] {
            let (without, with) = same(list);
            table.push((value, without, with));
        }
        let wrong =
            [r#""a""#, "7", "true", r#"{"a":1}"#, r#"["a",7]"#, r#"[""]"#, r#"["a\n"]"#, "[null]"];
        for value in wrong.into_iter().chain([long.as_str(), &too_many]) {
            table.push((value, None, None));
        }
        for (value, without, with_defaults) in table {
            for (court, expected) in [(&bare, without), (&defaults, with_defaults)] {
                let principal = court.verify_claims(&with(claim, value));
                let grant = principal.as_ref().map(|it| match claim {
                    "publish" => texts(&it.grant.publish),
                    _ => texts(&it.grant.subscribe),
                });
                assert_eq!(grant, expected, "{claim}: {}", &value[..value.len().min(40)]);
            }
        }
        let silent = defaults.verify_claims(&format!(r#"{{"exp":{LATER}}}"#)).unwrap();
        let silent =
            if claim == "publish" { &silent.grant.publish } else { &silent.grant.subscribe };
        assert_eq!(texts(silent), otherwise);
    }
}

#[test]
fn nobody_is_admin_who_is_not_said_to_be() {
    let court = Court::open(rules());
    for (admin, expected) in [
        ("true", Some(true)),
        ("false", Some(false)),
        ("null", Some(false)),
        (r#""true""#, None),
        (r#""yes""#, None),
        ("1", None),
        ("[true]", None),
    ] {
        let principal = court.verify_claims(&with("admin", admin));
        assert_eq!(principal.map(|it| it.grant.admin), expected, "{admin}");
    }
    // Not by being granted everything either.
    let all = format!(r#"{{"exp":{LATER},"publish":[">"],"subscribe":[">"]}}"#);
    assert!(!court.verify_claims(&all).unwrap().grant.admin);
}

/// What the operator's functions ask is decided with everything else, whatever the credential is.
#[test]
fn admin_is_decided_for_every_kind_of_credential() {
    let court = Court::open(rules());
    let text = "0123456789abcdef-all\n0123456789abcdef-no admin=no\n\
        0123456789abcdef-some publish=a\n0123456789abcdef-yes publish=a admin=yes\nanonymous\n";
    let file = TokensFile::new("tokens".into(), Some(Arc::clone(&court.bearer)));
    let tokens = file.parse(&[text.as_bytes().to_vec()]).unwrap().value;
    let basic = |name: &str| Credentials::read(&format!("Basic 0123456789abcdef-{name}"));
    let bearer = |claims: &str| Credentials::read(&format!("Bearer {}", sign(claims)));
    for (shown, is_admin) in [
        (basic("all"), true),
        (basic("no"), false),
        (basic("some"), false),
        (basic("yes"), true),
        (bearer(&with("admin", "true")), true),
        (bearer(&with("admin", "false")), false),
        (bearer(&with("publish", r#"[">"]"#)), false),
        (Credentials::read_bare(&sign(&with("admin", "true"))), true),
        (Credentials::read_bare("0123456789abcdef-all"), true),
        (Credentials::Absent, false),
    ] {
        let principal = tokens.authenticate(&shown).unwrap();
        assert_eq!(principal.grant.admin, is_admin, "{}", principal.name);
    }
}

#[test]
fn claims_that_we_do_not_know_change_nothing() {
    let court = Court::open(rules());
    let claims = json!({"exp": LATER, "jti": [1], "scope": "admin", "iat": "soon", "Admin": true});
    let principal = court.verify_claims(&claims.to_string()).unwrap();
    assert!(!principal.grant.admin && principal.grant.publish.is_empty());
}
