//! The pages of `docs/protocols`: every example is run against a gateway, and what comes is what is
//! shown. How a block is marked: `play`.

use std::fs;
use std::path::Path;

use crate::gateway::{House, TOKEN};
use crate::play::Play;
use crate::rabbit::Rabbit;

/// A secret for signed tokens, as a page would have it in its environment.
const SECRET: &str = "a-secret-that-both-sides-know-and-nobody-else";

fn folder() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/protocols")
}

/// A house as the pages suppose it.
fn house() -> House {
    let few = "0123456789abcdef-few name=few publish=none subscribe=order.>";
    let tokens = format!("{TOKEN} name=shop\n{few}\n");
    let house = House::new().with_tokens(&tokens);
    let secret = house.folder.path().join("jwt.secret");
    fs::write(&secret, SECRET).unwrap();
    let house = house.set("JWT_SECRET_FILE", secret.display()).set("JWT_REQUIRE_EXP", "false");
    let house = house.set("CHANNELS_ENABLE", "true");
    house.set("JWT_DEFAULT_PUBLISH", ">").set("JWT_DEFAULT_SUBSCRIBE", ">")
}

/// Plays a page. Gives how many of its blocks were run.
async fn play(name: &str) -> usize {
    play_in(house(), name).await
}

async fn play_in(house: House, name: &str) -> usize {
    let page = fs::read_to_string(folder().join(name)).unwrap();
    let names = [("FANFARE_TOKEN", TOKEN), ("JWT_SECRET", SECRET)];
    let names = names.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    Play::with(house.open(), names).play(&format!("docs/protocols/{name}"), &page).await
}

#[tokio::test]
async fn the_examples_of_the_native_protocol_do_what_is_shown() {
    assert!(play("native.md").await >= 6);
}

#[tokio::test]
async fn the_examples_of_cloudevents_do_what_is_shown() {
    assert!(play("cloudevents.md").await >= 6);
}

#[tokio::test]
async fn the_examples_of_server_sent_events_do_what_is_shown() {
    assert!(play("sse.md").await >= 5);
}

#[tokio::test]
async fn the_examples_of_durable_queues_do_what_is_shown() {
    assert!(play("queues.md").await >= 6);
}

#[tokio::test]
async fn the_examples_of_phoenix_do_what_is_shown() {
    assert!(play("phoenix.md").await >= 4);
}

#[tokio::test]
async fn the_examples_of_the_eventual_agent_do_what_is_shown() {
    assert!(play("eventual-agent.md").await >= 4);
}

#[tokio::test]
async fn the_examples_of_signed_tokens_do_what_is_shown() {
    assert!(play("signed-tokens.md").await >= 4);
}

#[tokio::test]
async fn the_examples_of_channels_do_what_is_shown() {
    assert!(play("channels.md").await >= 2);
}

#[tokio::test]
async fn the_examples_of_rabbitmq_do_what_is_shown() {
    let house = house().set("QUEUE_ENGINE", "amqp").set("AMQP_URLS", Rabbit::shared().url());
    assert!(play_in(house, "rabbitmq.md").await >= 1);
}

/// A page that nobody plays could say anything.
#[test]
fn every_page_is_played_and_stands_in_the_index() {
    let source = include_str!("documents.rs");
    let index = fs::read_to_string(folder().join("README.md")).unwrap();
    let mut count = 0;
    for entry in fs::read_dir(folder()).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if name != "README.md" {
            assert!(source.contains(&format!("\"{name}\").await")), "{name} is not played");
            assert!(index.contains(&format!("({name})")), "{name} is not in the index");
            count += 1;
        }
    }
    assert_eq!(count, 9);
}
