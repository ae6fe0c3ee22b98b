//! `token`, `check`: the commands that look after files.

use super::*;
use crate::signed::{SECRET, Signer, jwks};

/// A shared secret has no place among public keys.
const SECRET_JWK: &str = r#"{"keys":[{"kty":"oct","k":"c2VjcmV0"}]}"#;

#[test]
fn a_new_token_is_shown_once_and_works_at_once() {
    for hash in [&[] as &[&str], &["--hash"]] {
        let gateway = Gateway::open();
        let new = [&["token", "new", "--name", "wall", "--publish", "a"], hash].concat();
        let (code, secret, err) = run(&mut fanfare(&gateway.house, &new));
        assert_eq!(code, 0, "{err}");
        let secret = secret.trim_end();
        assert!(secret.len() >= 32 && !err.contains(secret), "{secret} {err}");
        let url = gateway.listen.url();
        wait_for("the token to work", || {
            let mut fire = fanfare(&gateway.house, &["fire", "--url", &url, "a"]);
            (run(fire.env("FANFARE_TOKEN", secret)).0 == 0).then_some(())
        });
        let text = fs::read_to_string(gateway.house.tokens_file()).unwrap();
        assert_eq!(text.contains(secret), hash.is_empty(), "{text}");
        assert_eq!(text.contains("sha256:"), !hash.is_empty(), "{text}");
        let (_, listed, _) = run(&mut fanfare(&gateway.house, &["token", "list"]));
        assert!(listed.contains("wall") && !listed.contains(secret), "{listed}");
        assert!(!listed.contains(TOKEN), "{listed}");
        assert_eq!(run(&mut fanfare(&gateway.house, &["token", "revoke", "wall"])).0, 0);
        let text = fs::read_to_string(gateway.house.tokens_file()).unwrap();
        assert_eq!(text, format!("{TOKEN} name=all\n"));
    }
}

#[test]
fn a_tokens_file_that_is_made_is_for_its_owner_alone() {
    let house = House::new();
    fs::remove_file(house.tokens_file()).unwrap();
    assert_eq!(run(&mut fanfare(&house, &["token", "new"])).0, 0);
    let mode = fs::metadata(house.tokens_file()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn tokens_made_at_once_are_all_there() {
    let house = House::new();
    let start = |_| fanfare(&house, &["token", "new"]).stdout(Stdio::null()).spawn().unwrap();
    let children: Vec<Child> = (0..8).map(start).collect();
    for mut child in children {
        assert!(child.wait().unwrap().success());
    }
    assert_eq!(fs::read_to_string(house.tokens_file()).unwrap().lines().count(), 9);
}

#[test]
fn what_cannot_be_done_to_the_tokens_file_leaves_it_as_it_was() {
    let house = House::new();
    let before = fs::read(house.tokens_file()).unwrap();
    for arguments in [
        &["token", "new", "--admin", "maybe"] as &[&str],
        &["token", "new", "--expires", "tomorrow"],
        &["token", "new", "--name", "two words"],
        &["token", "new", "--publish", ""],
        &["token", "revoke", "nobody"],
        &["token", "revoke", ""],
    ] {
        assert_eq!(run(&mut fanfare(&house, arguments)).0, 1, "{arguments:?}");
        assert_eq!(fs::read(house.tokens_file()).unwrap(), before, "{arguments:?}");
    }
}

#[test]
fn check_says_that_all_is_well() {
    let signed = House::new().with_secret(SECRET).with_keys(&jwks([&Signer::new()]));
    for house in [House::new(), house_with_tls(), signed] {
        let (code, out, err) = run(&mut fanfare(&house, &["check"]));
        assert_eq!((code, out.as_str()), (0, "all is well\n"), "{err}");
    }
}

#[test]
fn check_names_what_is_wrong_and_exits_with_78() {
    let wrong = |name: &str, value: &str| House::new().set(name, value);
    let other_key = house_with_tls();
    let key = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap().signing_key;
    fs::write(other_key.folder.path().join("cert.key"), key.serialize_pem()).unwrap();
    let readable = House::new().with_secret(SECRET);
    let path = readable.folder.path().join("jwt-secret");
    fs::set_permissions(path, fs::Permissions::from_mode(0o644)).unwrap();
    let table = [
        (wrong("PUBLISH_TIMEOUT", "5"), "PUBLISH_TIMEOUT (--publish-timeout): "),
        (wrong("INIT_TIMEOUT", "soon"), "INIT_TIMEOUT (--init-timeout): "),
        (wrong("MAX_BODY", "0"), "MAX_BODY (--max-body): "),
        (wrong("TOKENS_FILE", "/nowhere/tokens"), "TOKENS_FILE: "),
        (wrong("HTTPS_ENABLE", "true"), "CERT_FILE: "),
        (wrong("LINK", "unix:/dev/null/link.sock"), "LINK: "),
        (House::new().with_tokens(&format!("{TOKEN}\nshort\n")), "/tokens:2: "),
        (other_key, "do not fit"),
        (wrong("JWT_SECRET_FILE", "/nowhere/secret"), "JWT_SECRET_FILE: "),
        (wrong("JWT_KEYS_FILE", "/nowhere/keys"), "JWT_KEYS_FILE: "),
        (wrong("JWT_REQUIRE_EXP", "perhaps"), "JWT_REQUIRE_EXP (--jwt-require-exp): "),
        (wrong("JWT_ISSUER", ""), "JWT_ISSUER (--jwt-issuer): "),
        (House::new().with_secret("\n"), "JWT_SECRET_FILE: the secret is empty"),
        (House::new().with_secret("too short"), "/jwt-secret: the secret has fewer than 32"),
        (House::new().with_keys("rubbish"), "JWT_KEYS_FILE: there is no key in it"),
        (House::new().with_keys(SECRET_JWK), "/jwt-keys: key 1 is not used: "),
        (readable, "/jwt-secret: others can read it"),
    ];
    for (house, expected) in table {
        let (code, out, err) = run(&mut fanfare(&house, &["check"]));
        assert_eq!(code, 78, "{expected}: {out}{err}");
        assert!(out.contains(expected), "{expected}: {out}{err}");
        assert_eq!(out.lines().count(), 1, "{out}");
        assert!(!out.contains(SECRET) && !out.contains("too short"), "{out}");
    }
}
