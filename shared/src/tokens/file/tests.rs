use proptest::prelude::*;

use super::*;
use crate::credentials::Credentials;
use crate::reload::Source as _;
use crate::tokens::AuthError;

const SECRET: &str = "0123456789abcdef";

fn principal(tokens: &Tokens, secret: &str) -> Option<Arc<Principal>> {
    tokens.authenticate(&Credentials::read(&format!("Basic {secret}"))).ok()
}

fn faults(text: &str) -> Vec<(usize, Fault)> {
    parse(text.as_bytes()).1.into_iter().map(|it| (it.line, it.fault)).collect()
}

#[test]
fn a_plain_line_may_do_everything() {
    let (tokens, complaints) = parse(b"0123456789abcdef\n");
    assert!(complaints.is_empty());
    let principal = principal(&tokens, SECRET).unwrap();
    assert!(principal.grant.admin);
    assert!(principal.grant.may_subscribe(&Pattern::parse(">").unwrap()));
    assert_eq!(principal.name, "token-9f9f5111", "the first digits of the secret's SHA-256");
    assert_eq!(principal.source, "/token-9f9f5111");
}

#[test]
fn lines_end_in_lf_crlf_or_cr_and_blanks_comments_and_bom_are_skipped() {
    let text =
        b"\xef\xbb\xbfaaaaaaaaaaaaaaaa\r\n\r\n# short\r  bbbbbbbbbbbbbbbb\t\rcccccccccccccccc";
    let (tokens, complaints) = parse(text);
    assert!(complaints.is_empty(), "{complaints:?}");
    for secret in ["a", "b", "c"] {
        assert!(principal(&tokens, &secret.repeat(16)).is_some(), "{secret}");
    }
    let numbers: Vec<usize> = lines(b"a\r\nb\rc\nd").map(|(number, _)| number).collect();
    assert_eq!(numbers, [1, 2, 3, 4]);
}

#[test]
fn attributes_name_and_narrow_a_token() {
    let line = "0123456789abcdef expires=2099-01-01T00:00:00Z publish=order.*,invoice.> \
                name=billing subscribe=none";
    let (tokens, complaints) = parse(line.as_bytes());
    assert!(complaints.is_empty(), "{complaints:?}");
    let principal = principal(&tokens, SECRET).unwrap();
    assert_eq!(principal.name, "billing");
    assert!(!principal.grant.admin);
    assert_eq!(principal.grant.subscribe, []);
    assert_eq!(principal.grant.publish.len(), 2);
}

#[test]
fn admin_is_yes_by_default_only_without_grants() {
    let table = [
        ("", true),
        (" name=a", true),
        (" publish=>", false),
        (" subscribe=>", false),
        (" publish=> admin=yes", true),
        (" admin=no", false),
    ];
    for (attributes, expected) in table {
        let (tokens, _) = parse(format!("{SECRET}{attributes}").as_bytes());
        assert_eq!(principal(&tokens, SECRET).unwrap().grant.admin, expected, "{attributes}");
    }
}

#[test]
fn a_hashed_line_admits_the_secret_it_was_made_of() {
    for hex in [Digest::of(SECRET).to_hex(), Digest::of(SECRET).to_hex().to_uppercase()] {
        let (tokens, _) = parse(format!("sha256:{hex} name=wall").as_bytes());
        assert_eq!(principal(&tokens, SECRET).unwrap().name, "wall");
        assert!(principal(&tokens, &format!("sha256:{hex}")).is_none(), "the digest is no token");
    }
}

#[test]
fn a_bad_line_is_named_by_number_and_fault_and_leaves_the_others() {
    let text = "short\n\
                bbbbbbbbbbbbbbbb colour=red\n\
                cccccccccccccccc expires=tomorrow\n\
                dddddddddddddddd publish=\n\
                eeeeeeeeeeeeeeee admin=true\n\
                ffffffffffffffff name=\n\
                sha256:1234\n\
                gggggggggggggggg name=a name=b\n\
                hhhhhhhhhhhhhhhh word\n\
                iiiiiiiiiiiiiiii\n";
    assert_eq!(
        faults(text),
        [
            (1, Fault::TooShort),
            (2, Fault::UnknownAttribute),
            (3, Fault::BadValue("expires")),
            (4, Fault::BadValue("grant")),
            (5, Fault::BadValue("admin")),
            (6, Fault::BadValue("name")),
            (7, Fault::BadDigest),
            (8, Fault::TwiceGiven),
            (9, Fault::NotAnAttribute),
        ]
    );
    let (tokens, _) = parse(text.as_bytes());
    assert_eq!(tokens.principals().count(), 1);
    assert!(principal(&tokens, "iiiiiiiiiiiiiiii").is_some());
}

#[test]
fn the_limit_of_16_counts_characters() {
    assert_eq!(faults("üüüüüüüüüüüüüüü"), [(1, Fault::TooShort)]);
    assert_eq!(faults("üüüüüüüüüüüüüüüü"), []);
}

#[test]
fn a_repeated_secret_is_one_token_and_a_contradicted_one_none() {
    let hashed = format!("sha256:{} name=a", Digest::of(SECRET).to_hex());
    let (tokens, complaints) = parse(format!("{SECRET} name=a\n{hashed}\n").as_bytes());
    assert!(complaints.is_empty() && principal(&tokens, SECRET).is_some());

    let text = format!("{SECRET} name=a\n{SECRET} name=b\n{SECRET} name=a\nzzzzzzzzzzzzzzzz\n");
    let (tokens, complaints) = parse(text.as_bytes());
    assert_eq!(complaints.len(), 1);
    assert!(principal(&tokens, SECRET).is_none());
    assert!(principal(&tokens, "zzzzzzzzzzzzzzzz").is_some());
}

#[test]
fn anonymous_admits_who_shows_nothing_and_is_never_admin() {
    let (tokens, _) = parse(b"anonymous subscribe=public.> publish=none admin=yes\n");
    let anonymous = tokens.authenticate(&Credentials::Absent).unwrap();
    assert_eq!(anonymous.name, "anonymous");
    assert!(!anonymous.grant.admin);
    let wrong = Credentials::read("Basic 0123456789abcdef");
    assert_eq!(tokens.authenticate(&wrong), Err(AuthError::Unauthenticated));
    let (tokens, _) = parse(b"0123456789abcdef\n");
    assert_eq!(tokens.authenticate(&Credentials::Absent), Err(AuthError::Unauthenticated));
}

#[test]
fn an_expired_token_is_like_an_unknown_one() {
    let (tokens, _) = parse(b"0123456789abcdef expires=2001-01-01T00:00:00Z\n");
    assert!(principal(&tokens, SECRET).is_none());
}

#[test]
fn a_principal_is_found_again_in_a_later_table() {
    let (old, _) = parse(b"0123456789abcdef name=a\nanonymous\n");
    let (new, _) = parse(b"0123456789abcdef name=b\n");
    let principal = principal(&old, SECRET).unwrap();
    assert_eq!(new.judge_again(&principal).unwrap().name, "b");
    let anonymous = old.authenticate(&Credentials::Absent).unwrap();
    assert!(new.judge_again(&anonymous).is_none());
    assert!(Tokens::default().judge_again(&principal).is_none());
}

#[test]
fn only_a_table_that_admitted_somebody_can_withdraw_all() {
    let file = crate::tokens::TokensFile::new("tokens".into(), None);
    let withdraws = |old: &str, new: &str| {
        file.withdraws_all(&parse(old.as_bytes()).0, &parse(new.as_bytes()).0)
    };
    assert!(withdraws("0123456789abcdef", ""));
    assert!(withdraws("anonymous", ""));
    assert!(!withdraws("", "0123456789abcdef") && !withdraws("", ""));
    assert!(!withdraws("0123456789abcdef\nfedcba9876543210", "0123456789abcdef"));
}

#[test]
fn no_complaint_and_no_debug_output_shows_a_secret() {
    let text = "topsecrettopsecret colour=red\ntiny\nvisible-secret-1 name=x\n";
    let (tokens, complaints) = parse(text.as_bytes());
    let shown = format!("{tokens:?} {complaints:?} {}", complaints.first().unwrap());
    for secret in ["topsecret", "tiny", "visible-secret", "red"] {
        assert!(!shown.contains(secret), "{shown}");
    }
}

proptest! {
    #[test]
    fn any_bytes_are_parsed_without_panic(text in prop::collection::vec(any::<u8>(), 0..400)) {
        let _ = parse(&text);
    }

    #[test]
    fn every_secret_of_16_characters_works(
        secrets in prop::collection::hash_set("[!-~]{16,40}", 1..8), ending in "\n|\r|\r\n"
    ) {
        let fit = |it: &&String| {
            !it.starts_with('#') && !it.starts_with("sha256:")
        };
        let secrets: Vec<&String> = secrets.iter().filter(fit).collect();
        let text: String = secrets.iter().flat_map(|it| [it.as_str(), ending.as_str()]).collect();
        let (tokens, complaints) = parse(text.as_bytes());
        prop_assert!(complaints.is_empty());
        for secret in secrets {
            prop_assert!(principal(&tokens, secret).is_some(), "{}", secret);
        }
    }
}
