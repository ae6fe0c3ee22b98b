//! The pages of `docs/protocols`: every example is run against a gateway, and what comes is what is
//! shown.
//!
//! A block is marked by a comment on the line before it: `run` starts a program, `hears` is what it
//! then says, `websocket PATH` is a conversation, `shown: …` says why a block is not run.

use std::fs;
use std::path::Path;

use tokio::process::Command;
use tokio_tungstenite::connect_async;

use crate::client::Subscriber;
use crate::gateway::{Gateway, House, TOKEN, binary};
use crate::node::{self, Program};
use crate::transcript::{Fence, Names, fences, fill, fits, lines};

/// A secret for signed tokens, as a page would have it in its environment.
const SECRET: &str = "a-secret-that-both-sides-know-and-nobody-else";

fn folder() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/protocols")
}

/// A page that is being played.
struct Play<'a> {
    gateway: &'a Gateway,
    names: Names,
    program: Option<Program>,
}

impl Play<'_> {
    /// Puts the addresses of this gateway in the place of the default ones.
    fn address(&self, text: &str) -> String {
        let text = text.replace("127.0.0.1:8080", &self.gateway.listen.address().to_string());
        text.replace("127.0.0.1:8081", &self.gateway.broadcast.address().to_string())
    }

    async fn play(&mut self, fence: &Fence) {
        if fence.marker != "hears" {
            self.end_program().await;
        }
        match fence.marker.split_once(' ').unwrap_or((&fence.marker, "")) {
            ("run", _) => self.program = Some(Program::run(self.command(fence))),
            ("hears", _) => self.hear(&fence.text).await,
            ("websocket", path) => self.converse(path, &fence.text).await,
            ("shown:", reason) => assert!(!reason.is_empty()),
            (marker, _) => {
                assert_eq!(marker, "", "an unknown marker");
                let is_program = ["sh", "javascript", "python"].contains(&&*fence.language);
                assert!(!is_program, "it could be run");
            }
        }
    }

    fn command(&self, fence: &Fence) -> Command {
        let text = self.address(&fence.text);
        let mut command = match fence.language.as_str() {
            "javascript" => {
                let mut node = Command::new("node");
                // Newer ones have it without being told.
                // What browsers have, and older versions of Node have not.
                let socket = "globalThis.WebSocket = (await import('ws')).default;";
                node.args(["--input-type=module", "-e"]).arg(format!("{socket}\n{text}"));
                node
            }
            "sh" => {
                let mut shell = Command::new("bash");
                shell.args(["-euo", "pipefail", "-c"]).arg(text);
                shell
            }
            other => panic!("{other} cannot be run"),
        };
        let ours = binary("fanfare").parent().unwrap().display().to_string();
        let path = std::env::var("PATH").unwrap();
        command.current_dir(node::folder()).env("PATH", format!("{ours}:{path}"));
        command.env("FANFARE_URL", self.gateway.listen.url());
        command.env("FANFARE_WATCH_URL", self.gateway.broadcast.url());
        command.envs(&self.names);
        command
    }

    /// Compares what the program says, line by line; empty ones do not count.
    async fn hear(&mut self, text: &str) {
        let mut program = self.program.take().expect("a program runs");
        for shown in lines(text) {
            if self.fire(&shown).await {
                continue;
            }
            let heard = loop {
                let line = program.next_line().await;
                let line = line.unwrap_or_else(|| panic!("it ended before it said {shown}"));
                if !line.is_empty() {
                    break line;
                }
            };
            assert!(fits(&shown, &heard, &mut self.names), "shown: {shown}\nheard: {heard}");
        }
        // One that goes on for ever is ended here.
        drop(program);
    }

    async fn converse(&mut self, path: &str, text: &str) {
        let url = self.gateway.broadcast.ws_url() + &fill(path, &self.names);
        let mut session = Some(Subscriber { socket: connect_async(url).await.unwrap().0 });
        for shown in lines(text) {
            if self.fire(&shown).await {
                continue;
            }
            let (way, shown) = shown.split_once(' ').unwrap();
            match way {
                ">" => session.as_mut().unwrap().say(&fill(shown, &self.names)).await,
                "<" => {
                    let heard = session.as_mut().unwrap().hear().await;
                    let is_shown = fits(shown, &heard, &mut self.names);
                    assert!(is_shown, "shown: {shown}\nheard: {heard}");
                }
                "closed" => {
                    let (code, reason) = session.take().unwrap().closed().await;
                    assert_eq!(format!("{code} {reason}"), shown);
                }
                other => panic!("{other} is none of >, <, closed, POST"),
            }
        }
    }

    /// Publishes, where a line says so: `POST /event …` or `POST /events …`.
    async fn fire(&self, line: &str) -> bool {
        let Some(rest) = line.strip_prefix("POST ") else { return false };
        let (path, body) = rest.split_once(' ').unwrap();
        let response = reqwest::Client::new()
            .post(self.gateway.listen.url() + path)
            .header("authorization", format!("Basic {TOKEN}"))
            .header("content-type", "application/json")
            .body(fill(body, &self.names))
            .send();
        assert!(response.await.unwrap().status().is_success(), "{line}");
        true
    }

    /// A program that nobody has listened to ends by itself, and well.
    async fn end_program(&mut self) {
        if let Some(mut program) = self.program.take() {
            while program.next_line().await.is_some() {}
            program.end().await;
        }
    }
}

/// A gateway as the pages suppose it.
fn gateway() -> Gateway {
    let few = "0123456789abcdef-few name=few publish=none subscribe=order.>";
    let tokens = format!("{TOKEN} name=shop\n{few}\n");
    let house = House::new().with_tokens(&tokens);
    let secret = house.folder.path().join("jwt.secret");
    fs::write(&secret, SECRET).unwrap();
    let house = house.set("JWT_SECRET_FILE", secret.display()).set("JWT_REQUIRE_EXP", "false");
    let house = house.set("CHANNELS_ENABLE", "true");
    house.set("JWT_DEFAULT_PUBLISH", ">").set("JWT_DEFAULT_SUBSCRIBE", ">").open()
}

/// Plays a page. Gives how many of its blocks were run.
async fn play(name: &str) -> usize {
    let page = fs::read_to_string(folder().join(name)).unwrap();
    let gateway = gateway();
    let names = [("FANFARE_TOKEN", TOKEN), ("JWT_SECRET", SECRET)];
    let names = names.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    let mut play = Play { gateway: &gateway, names, program: None };
    let mut count = 0;
    for fence in fences(&page) {
        eprintln!("docs/protocols/{name}:{}", fence.line);
        play.play(&fence).await;
        count += usize::from(fence.marker == "run" || fence.marker.starts_with("websocket "));
    }
    play.end_program().await;
    count
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

/// A page that nobody plays could say anything.
#[test]
fn every_page_is_played_and_stands_in_the_index() {
    let source = include_str!("documents.rs");
    let index = fs::read_to_string(folder().join("README.md")).unwrap();
    let mut count = 0;
    for entry in fs::read_dir(folder()).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if name != "README.md" {
            assert!(source.contains(&format!("play(\"{name}\")")), "{name} is not played");
            assert!(index.contains(&format!("({name})")), "{name} is not in the index");
            count += 1;
        }
    }
    assert_eq!(count, 8);
}
