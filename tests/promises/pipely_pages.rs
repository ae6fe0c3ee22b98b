//! Pipely's own clients, unchanged: the `curl` of its readme, and a browser's `EventSource`.

use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::process::Command;

use crate::browser::Browser;
use crate::crashes::Doors;
use crate::gateway::{House, Process};
use crate::measures::until;
use crate::pipely::{CHANNEL, connect, hears, house, join, list, message, tell};

/// What curl writes: the body, and then the status.
async fn curl(broadcast: &Process, password: &str) -> String {
    let body = "{\n\t\"channel_id\":\"CHANNEL_ID\",\n\t\"type\": \"EVENT_TYPE\",\n\
                \t\"origin_id\": \"ORIGIN_ID\",\n\t\"payload\": {\n\t\t\"test\":\"Hello World!\"\n\t}\n}";
    let mut command = Command::new("curl");
    command.args(["-s", "-w", "%{http_code}", "-X", "POST"]);
    command.arg(format!("{}/publish", broadcast.url()));
    command.args(["-H", &format!("Authorization: Password {password}")]);
    command.args(["-H", "Content-Type: application/json", "-d"]);
    command.arg(body.replace("CHANNEL_ID", CHANNEL));
    String::from_utf8(command.output().await.unwrap().stdout).unwrap()
}

#[tokio::test]
async fn the_curl_of_pipelys_readme_publishes() {
    let house = house();
    let broadcast = house.broadcast();
    assert_eq!(
        curl(&broadcast, "CHANNEL_PASSWORD").await,
        "channel with given id does not exist\n404"
    );
    let mut alice = join(&broadcast, "CLIENT_ID", "CHANNEL_PASSWORD").await;
    hears(&mut alice, &[list(&["CLIENT_ID"]), connect("CLIENT_ID")]).await;
    assert_eq!(curl(&broadcast, "WRONG").await, "invalid channel password\n401");
    assert_eq!(curl(&broadcast, "CHANNEL_PASSWORD").await, "200");
    let payload = "{\n\t\t\"test\":\"Hello World!\"\n\t}";
    hears(&mut alice, &[message("EVENT_TYPE", "ORIGIN_ID", payload)]).await;
}

/// As in its readme, but for what a test has to see.
const PAGE: &str = r#"
    window.heard = [];
    window.opened = 0;
    window.base = "URL";
    const eventSource = new EventSource(
        'URL/subscribe?channelId=abcdefghijkl&clientId=CLIENT_ID&password=CHANNEL_PASSWORD');
    window.source = eventSource;
    eventSource.onopen = () => { window.opened += 1; };
    eventSource.onmessage = (e) => {
        const data = JSON.parse(e.data);

        const eventType = data['type'];
        const originId = data['origin_id'];
        const payload = data['payload'];

        window.heard.push([eventType, originId, payload]);
    }
"#;

const PUBLISH: &str = r#"
    window.told = null;
    fetch(window.base + "/publish", {
        method: "POST",
        headers: { "Authorization": "Password PASSWORD", "Content-Type": "application/json" },
        body: JSON.stringify(
            { channel_id: "abcdefghijkl", type: "t", origin_id: "CLIENT_ID", payload: { n: 1 } }),
    }).then(async response => { window.told = [response.status, await response.text()]; });
"#;

async fn heard(browser: &Browser, due: &Value) {
    until("what the page has to hear", async || {
        (browser.run("return window.heard;").await == *due).then_some(())
    })
    .await;
}

async fn publish(browser: &Browser, password: &str) -> Value {
    browser.run(&PUBLISH.replace("PASSWORD", password)).await;
    until("an answer", async || {
        let told = browser.run("return window.told;").await;
        (!told.is_null()).then_some(told)
    })
    .await
}

/// As Pipely's readme has it, from a page of another origin, which its own server never let publish.
#[tokio::test]
async fn a_browsers_event_source_hears_a_channel_and_comes_back_after_a_restart() {
    let doors = Doors::choose();
    let house = doors.house().set("CHANNELS_ENABLE", "true");
    let mut broadcast = house.broadcast();
    // Another door, for its origin alone.
    let elsewhere = House::new();
    let elsewhere = elsewhere.broadcast();
    let browser = Browser::open(&format!("{}/healthz", elsewhere.url())).await;
    browser.run(&PAGE.replace("URL", &broadcast.url())).await;
    let mut due = vec![
        json!(["CLIENT_LIST", "server", ["CLIENT_ID"]]),
        json!(["CONNECT", "CLIENT_ID", null]),
    ];
    heard(&browser, &json!(due)).await;
    assert_eq!(publish(&browser, "CHANNEL_PASSWORD").await, json!([200, ""]));
    let wrong = publish(&browser, "WRONG").await;
    assert_eq!(wrong, json!([401, "invalid channel password\n"]));
    due.push(json!(["t", "CLIENT_ID", {"n": 1}]));
    heard(&browser, &json!(due)).await;
    for signal in [Signal::KILL, Signal::TERM] {
        broadcast = broadcast.restart(signal, &house.settings).await;
        // The channel is made anew, with the password of the page.
        due.push(json!(["CLIENT_LIST", "server", ["CLIENT_ID"]]));
        due.push(json!(["CONNECT", "CLIENT_ID", null]));
        heard(&browser, &json!(due)).await;
        tell(&broadcast, "CHANNEL_PASSWORD", message("t", "xyz", "2")).await;
        due.push(json!(["t", "xyz", 2]));
        heard(&browser, &json!(due)).await;
    }
    browser.run("window.source.close();").await;
    broadcast.wait_for_metric("fanfare_channels", 0.0).await;
    browser.close().await;
}

/// What the example shows: its state, and its lines.
async fn expect_shown(browser: &Browser, state: &str, lines: &[&str]) {
    let script = "return [document.querySelector('#state').textContent,
                          [...document.querySelectorAll('li')].map(item => item.textContent)];";
    until(state, async || (browser.run(script).await == json!([state, lines])).then_some(())).await;
}

async fn say(browser: &Browser, text: &str) {
    let script = "document.querySelector('#say input').value = TEXT;
                  document.querySelector('#say').requestSubmit();";
    browser.run(&script.replace("TEXT", &json!(text).to_string())).await;
}

#[tokio::test]
async fn two_pages_of_the_example_talk_with_each_other_and_come_back_after_a_restart() {
    let doors = Doors::choose();
    let house = doors.house().set("CHANNELS_ENABLE", "true");
    let broadcast = house.broadcast();
    let page = concat!("file://", env!("CARGO_MANIFEST_DIR"), "/../examples/channels.html");
    let url = |name: &str, password: &str| {
        let to = broadcast.url();
        format!("{page}#url={to}&channel={CHANNEL}&password={password}&name={name}")
    };
    let alice = Browser::open(&url("alice", "secret")).await;
    expect_shown(&alice, "here: alice", &[]).await;
    let bob = Browser::open(&url("bob", "secret")).await;
    expect_shown(&bob, "here: alice, bob", &[]).await;
    say(&alice, "hello <b>").await;
    expect_shown(&bob, "here: alice, bob", &["alice: hello <b>"]).await;
    expect_shown(&alice, "here: alice, bob", &["bob has come", "alice: hello <b>"]).await;
    let stranger = Browser::open(&url("carol", "wrong")).await;
    expect_shown(&stranger, "refused: another password, or no room", &[]).await;
    stranger.close().await;
    bob.close().await;
    let lines = ["bob has come", "alice: hello <b>", "bob has gone"];
    expect_shown(&alice, "here: alice", &lines).await;
    let _broadcast = broadcast.restart(Signal::KILL, &house.settings).await;
    until("an answer that somebody hears", async || {
        say(&alice, "again").await;
        let script = "return document.querySelector('#events').lastChild.textContent;";
        (alice.run(script).await == "alice: again").then_some(())
    })
    .await;
    alice.close().await;
}
