//! What else a signed token is worth: its tickets end with the rules that it was judged by, and its
//! events are not those of a token of the file (WIRE 1.1, 2, 3.2).

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::client::{answer, code, post_with};
use crate::event_stream::{EventStream, by_ticket};
use crate::gateway::{Gateway, House, TOKEN};
use crate::jwt::ticket;
use crate::replay::{all_kept, numbers};
use crate::signed::{LATER, SECRET, Signer};

/// A ticket that has opened a stream outlives its process only where nothing else is judged anew.
#[tokio::test]
async fn a_ticket_of_a_signed_token_ends_with_the_rules_that_it_was_judged_by() {
    let signer = Signer::shared(SECRET);
    let claims = json!({"sub": "mary", "exp": LATER, "aud": "wall", "iss": "login"});
    let shown = format!("Bearer {}", signer.sign(&claims));
    for (setting, value) in [
        ("JWT_AUDIENCE", "elsewhere"),
        // The token itself is good under these, but nobody has judged it.
        ("JWT_AUDIENCE", "wall,elsewhere"),
        ("JWT_ISSUER", "other"),
        ("JWT_DEFAULT_SUBSCRIBE", "b"),
        ("JWT_DEFAULT_SUBSCRIBE", "a,b"),
        ("JWT_DEFAULT_PUBLISH", "a"),
        ("JWT_REQUIRE_EXP", "true"),
    ] {
        let house = House::new().with_secret(SECRET).set("JWT_REQUIRE_EXP", false);
        let house = house.set("JWT_AUDIENCE", "wall").set("JWT_ISSUER", "login");
        let house = house.set("JWT_DEFAULT_SUBSCRIBE", "a,c.>");
        let broadcast = house.broadcast();
        let ticket = ticket(&broadcast, &shown).await;
        EventStream::open_by(&broadcast, &ticket, "type=a").await;
        let broadcast = broadcast.restart(Signal::TERM, &house.settings).await;
        EventStream::open_by(&broadcast, &ticket, "type=a").await;
        let house = house.set(setting, value);
        let broadcast = broadcast.restart(Signal::TERM, &house.settings).await;
        let stopped = by_ticket(&broadcast, &ticket, "type=a").send().await.unwrap();
        assert_eq!(stopped.status(), 204, "{setting}={value}");
    }
}

async fn send(gateway: &Gateway, shown: &str, data: u64) {
    let body = json!({"event": "a", "id": "i", "source": "/s", "data": data}).to_string();
    let response = post_with(gateway, Some(shown), &body).send().await.unwrap();
    assert_eq!(answer(response).await, (200, code("OK")), "{shown}");
}

/// Whoever signs tokens may give them the name of a line of the file.
#[tokio::test]
async fn a_signed_token_and_one_of_the_file_of_the_same_name_are_two_publishers() {
    let lines = format!("{TOKEN} name=all\n0123456789abcdef-mary name=mary\n");
    let other = Signer::new();
    let house = House::new().with_secret(SECRET).with_keys(&crate::signed::jwks([&other]));
    let gateway = house.with_tokens(&lines).open();
    let signer = Signer::shared(SECRET);
    let of_the_file = "Basic 0123456789abcdef-mary".to_owned();
    for (shown, data) in [
        (of_the_file.clone(), 1),
        (signer.bearer("mary", LATER), 2),
        (signer.bearer("john", LATER), 3),
        // A subject is the same whoever has signed: keys change.
        (other.bearer("mary", LATER), 4),
        // The same ones again, also with a token that is not the same text: these are retries.
        (of_the_file, 5),
        (signer.bearer("mary", LATER), 6),
        (signer.bearer("mary", LATER + 1), 7),
        (signer.bearer("john", LATER - 1), 8),
        (other.bearer("mary", LATER + 1), 9),
    ] {
        send(&gateway, &shown, data).await;
    }
    let kept: Vec<Value> = all_kept(&gateway, &["a"]).await;
    assert_eq!(numbers(&kept), [1, 2, 3]);
}
