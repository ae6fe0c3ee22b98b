//! The examples do what they say, each with a real gateway: a newcomer begins with them.

use std::path::{Path, PathBuf};

use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::process::Command;

use crate::browser::Browser;
use crate::client::{fire, post};
use crate::crashes::Doors;
use crate::gateway::{Gateway, TOKEN};
use crate::measures::until;
use crate::node::{Program, folder};
use crate::replay::all_kept;

const READER: &str = "0123456789abcdef-reader";

fn examples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("examples")
}

/// A command of an example, with a token in its environment.
fn python(script: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new("python3");
    command.arg(examples().join(script)).args(arguments).env("FANFARE_TOKEN", TOKEN);
    command
}

/// Publishes by the example; what it prints.
async fn publish(gateway: &Gateway, arguments: &[&str]) -> Value {
    let url = gateway.listen.url();
    let mut program = Program::run(python("publish.py", &[&["--url", &url], arguments].concat()));
    let printed = program.hear().await;
    program.end().await;
    printed
}

/// The examples, with what their readme tells to put next to them.
fn installed() -> TempDir {
    let place = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(examples()).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), place.path().join(entry.file_name())).unwrap();
    }
    let modules = folder().join("node_modules");
    let bundle = modules.join("phoenix/priv/static/phoenix.js");
    std::fs::copy(bundle, place.path().join("phoenix.js")).unwrap();
    std::os::unix::fs::symlink(modules, place.path().join("node_modules")).unwrap();
    place
}

/// Serves a folder as the readme says; the program, and its origin.
async fn serve(place: &Path) -> (Program, String) {
    let mut command = Command::new("python3");
    let server = ["-u", "-m", "http.server", "--bind", "127.0.0.1", "0"];
    let mut program = Program::run({
        command.args(server).current_dir(place).stderr(std::process::Stdio::null());
        command
    });
    let line = program.next_line().await.unwrap();
    let (_, address) = line.split_once("(http://").expect("an address");
    (program, format!("http://{}", address.trim_end_matches("/) ...")))
}

/// Two tokens: one for what the tests fire, one for a page.
fn tokens() -> String {
    format!("{TOKEN} name=all\n{READER} name=reader publish=none subscribe=order.*\n")
}

#[tokio::test]
async fn publish_py_publishes_an_event_once_and_tells_what_is_refused() {
    let gateway = Gateway::open();
    let data = r#"{"id": 7, "text": "ü"}"#;
    let event = ["--source", "/s", "--id", "i", "order.paid", data];
    for _ in 0..2 {
        let printed = publish(&gateway, &event).await;
        assert_eq!((&printed["source"], &printed["id"]), (&json!("/s"), &json!("i")));
    }
    publish(&gateway, &["order.paid"]).await;
    let kept = all_kept(&gateway, &["order.paid"]).await;
    let data: Vec<_> = kept.iter().map(|event| &event["data"]).collect();
    assert_eq!(data, [&json!({"id": 7, "text": "ü"}), &json!(null)]);
    let url = gateway.listen.url();
    let mut refused = python("publish.py", &["--url", &url, "--token", "wrong", "a", "1"]);
    let output = refused.output().await.unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && text.contains("UNAUTHENTICATED"), "{text}");
}

#[tokio::test]
async fn subscribe_py_goes_on_where_it_was_over_restarts_of_broadcast_and_of_itself() {
    let doors = Doors::choose();
    let mut gateway = doors.house().open();
    fire(&gateway, "order.paid", "0").await;
    let place = gateway.house.folder.path().join("place").display().to_string();
    let url = gateway.broadcast.url();
    let arguments = ["--url", &url, "--after", "first", "--place", &place, "order.*", "other"];
    let mut program = Program::run(python("subscribe.py", &arguments));
    assert_eq!(program.hear().await["data"], 0);
    for (signal, number) in [(Signal::KILL, 1), (Signal::TERM, 2)] {
        gateway = gateway.restart_broadcast(signal).await;
        fire(&gateway, "order.paid", &number.to_string()).await;
        fire(&gateway, "nothing", "null").await;
        let event = program.hear().await;
        assert_eq!((&event["type"], &event["data"]), (&json!("order.paid"), &json!(number)));
    }
    until("a place that is written", async || {
        // After the event was printed, so there may be a moment.
        let kept = all_kept(&gateway, &["order.paid"]).await;
        let last = kept.last().unwrap()["cursor"].as_str().unwrap().to_owned();
        (std::fs::read_to_string(&place).is_ok_and(|place| place == last)).then_some(())
    })
    .await;
    drop(program);
    fire(&gateway, "other", "3").await;
    let mut program = Program::run(python("subscribe.py", &arguments));
    assert_eq!(program.hear().await["data"], 3);
    let mut refused = python("subscribe.py", &["--url", &url, "--token", "wrong", "a"]);
    let output = refused.output().await.unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && text.contains("UNAUTHENTICATED"), "{text}");
}

#[tokio::test]
async fn phoenix_mjs_follows_a_source_over_restarts_of_broadcast() {
    let doors = Doors::choose();
    let mut gateway = doors.house().open();
    let place = installed();
    publish(&gateway, &["--source", "/shop", "order.paid", "0"]).await;
    let mut command = Command::new("node");
    command.arg(place.path().join("phoenix.mjs")).arg("/shop");
    command.env("FANFARE_TOKEN", TOKEN).env("FANFARE_WATCH_URL", gateway.broadcast.url());
    let mut program = Program::run(command);
    assert_eq!(program.hear().await["data"], 0);
    for (signal, number) in [(Signal::KILL, 1), (Signal::TERM, 2)] {
        gateway = gateway.restart_broadcast(signal).await;
        publish(&gateway, &["--source", "/shop", "order.paid", &number.to_string()]).await;
        fire(&gateway, "order.paid", "null").await;
        assert_eq!(program.hear().await["data"], number);
    }
    let mut command = Command::new("node");
    command.arg(place.path().join("phoenix.mjs")).args(["--token", "wrong", "/shop"]);
    command.env("FANFARE_WATCH_URL", gateway.broadcast.url());
    let output = command.output().await.unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && text.contains("refused: unauthenticated"), "{text}");
}

/// What a page shows: its state, and its events.
async fn shown(browser: &Browser) -> (String, Vec<String>) {
    let script = "return [document.querySelector('#state').textContent,
                          [...document.querySelectorAll('li')].map(item => item.textContent)];";
    serde_json::from_value(browser.run(script).await).unwrap()
}

async fn expect_shown(browser: &Browser, state: &str, events: &[&str]) {
    until(state, async || {
        let (now, all) = shown(browser).await;
        (now == state && all == events).then_some(())
    })
    .await;
}

#[tokio::test]
async fn both_pages_follow_over_restarts_of_broadcast_and_end_with_their_token() {
    let place = installed();
    let (_server, origin) = serve(place.path()).await;
    let doors = Doors::choose();
    let house = doors.house().set("ALLOWED_ORIGINS", &origin).with_tokens(&tokens());
    let mut gateway = house.open();
    let (ws_url, url) = (gateway.broadcast.ws_url(), gateway.broadcast.url());
    let phoenix = format!("{origin}/phoenix.html#url={ws_url}&token={READER}&source=/shop");
    let stream = format!("{origin}/eventsource.html#url={url}&token={READER}&types=order.paid");
    let (phoenix, stream) = (Browser::open(&phoenix).await, Browser::open(&stream).await);
    expect_shown(&phoenix, "following /shop", &[]).await;
    expect_shown(&stream, "connected", &[]).await;
    let events = ["order.paid 0", "order.paid 1", "order.paid 2"];
    for (signal, number) in [(None, 0), (Some(Signal::KILL), 1), (Some(Signal::TERM), 2)] {
        if let Some(signal) = signal {
            gateway = gateway.restart_broadcast(signal).await;
        }
        let body = json!({"event": "order.paid", "source": "/shop", "data": number}).to_string();
        assert_eq!(post(&gateway, body).send().await.unwrap().status(), 200);
        expect_shown(&phoenix, "following /shop", &events[..=number]).await;
        expect_shown(&stream, "connected", &events[..=number]).await;
    }
    gateway.house.write_tokens(&format!("{TOKEN} name=all\n"));
    expect_shown(&phoenix, "refused: unauthenticated", &events).await;
    expect_shown(&stream, "ended: the token is good no more", &events).await;
    phoenix.close().await;
    stream.close().await;
}
