//! A real browser's `EventSource` (WIRE 3.2): it comes back by itself, and stops when it is told to.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use fantoccini::{Client, ClientBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::client::{fire, let_pass};
use crate::crashes::Doors;
use crate::event_stream::ticket;
use crate::gateway::TOKEN;
use crate::measures::until;
use crate::queue_stream::wait_for_listing;
use crate::replay::{all_kept, cursor_of};

const READER: &str = "0123456789abcdef-reader";

/// Chromium without a screen, and the driver that it listens to.
pub struct Browser {
    driver: Child,
    profile: TempDir,
    client: Client,
}

impl Browser {
    pub async fn open(url: &str) -> Self {
        let mut driver = Command::new("chromedriver")
            .arg("--port=0")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("chromedriver; on Debian: sudo apt-get install chromium chromium-driver");
        let lines = BufReader::new(driver.stdout.take().unwrap()).lines();
        let port = lines.map_while(Result::ok).find_map(|line| {
            let (_, port) = line.split_once("started successfully on port ")?;
            Some(port.trim_end_matches('.').to_owned())
        });
        let port = port.expect("the port of chromedriver");
        let profile = tempfile::tempdir().unwrap();
        let folder = format!("--user-data-dir={}", profile.path().display());
        let arguments = ["--headless=new", "--no-sandbox", "--disable-gpu", &folder];
        let capabilities = json!({"goog:chromeOptions": {"args": arguments}});
        let client = ClientBuilder::new(HttpConnector::new())
            .capabilities(capabilities.as_object().unwrap().clone())
            .connect(&format!("http://127.0.0.1:{port}"))
            .await
            .unwrap();
        client.goto(url).await.unwrap();
        Self { driver, profile, client }
    }

    pub async fn run(&self, script: &str) -> Value {
        self.client.execute(script, Vec::new()).await.unwrap()
    }

    pub async fn close(self) {
        self.client.clone().close().await.unwrap();
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // Of a test that failed the browser is there still; its number is in its own folder.
        let lock = fs::read_link(self.profile.path().join("SingletonLock")).ok();
        let number = lock.and_then(|it| it.to_str()?.rsplit_once('-')?.1.parse().ok());
        if let Some(pid) = number.and_then(Pid::from_raw) {
            let _ = kill_process(pid, Signal::KILL);
        }
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}

/// Waits until the page has heard so much.
async fn heard(browser: &Browser, data: &[&str]) {
    until("what the page has to hear", async || {
        let heard = browser.run("return window.heard.map(event => event[1]);").await;
        (heard == json!(data)).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_browsers_event_source_resumes_across_restarts_and_stops_when_it_is_told_to() {
    let doors = Doors::choose();
    let tokens = format!("{TOKEN} name=all\n{READER} name=reader publish=none subscribe=a\n");
    let mut gateway = doors.house().with_tokens(&tokens).open();
    // Any page of this door will do: it is its origin that counts.
    let browser = Browser::open(&format!("{}/healthz", gateway.broadcast.url())).await;
    let ticket = ticket(&gateway.broadcast, READER).await;
    let script = r#"
        window.heard = [];
        window.opened = 0;
        window.errors = 0;
        window.source = new EventSource("/events?type=a&ticket=TICKET");
        window.source.onopen = () => { window.opened += 1; };
        window.source.onerror = () => { window.errors += 1; };
        window.source.addEventListener("a", event => {
            window.heard.push([event.lastEventId, event.data]);
        });
    "#;
    browser.run(&script.replace("TICKET", &ticket)).await;
    until("an open stream", async || {
        (browser.run("return window.opened;").await == 1).then_some(())
    })
    .await;
    fire(&gateway, "a", "1").await;
    heard(&browser, &["1"]).await;
    for (signal, data) in [(Signal::KILL, "2"), (Signal::TERM, "3")] {
        gateway = gateway.restart_broadcast(signal).await;
        // Before it is back, in all likelihood: it is what it resumes by that brings it.
        fire(&gateway, "a", data).await;
        heard(&browser, &["1", "2", "3"][..data.parse().unwrap()]).await;
    }
    let ids = browser.run("return window.heard.map(event => event[0]);").await;
    let kept: Vec<_> = all_kept(&gateway, &["a"]).await.iter().map(cursor_of).collect();
    assert_eq!(ids, json!(kept));
    gateway.house.write_tokens(&format!("{TOKEN} name=all\n# nobody else\n"));
    let state = "return window.source.readyState;";
    until("a source that is closed", async || (browser.run(state).await == 2).then_some(())).await;
    let counts =
        "return [window.opened, window.errors, performance.getEntriesByType('resource').length];";
    let before = browser.run(counts).await;
    // The longest time to come back is 5 s.
    let_pass(Duration::from_secs(6)).await;
    assert_eq!(browser.run(counts).await, before);
    assert_eq!(browser.run(state).await, 2);
    browser.close().await;
}

/// As a page of eventsourced's would: unnamed messages, no ids; the ticket is its credential.
#[tokio::test]
async fn a_browsers_event_source_has_all_of_a_queue_once_across_restarts() {
    let doors = Doors::choose();
    let mut gateway = doors.house().open();
    let browser = Browser::open(&format!("{}/healthz", gateway.broadcast.url())).await;
    let ticket = ticket(&gateway.broadcast, TOKEN).await;
    let script = r#"
        window.heard = [];
        window.opened = 0;
        window.source = new EventSource("/queue?id=wall&type=a&ticket=TICKET");
        window.source.onopen = () => { window.opened += 1; };
        window.source.onmessage = event => { window.heard.push([event.lastEventId, event.data]); };
    "#;
    browser.run(&script.replace("TICKET", &ticket)).await;
    until("an open stream", async || {
        (browser.run("return window.opened;").await == 1).then_some(())
    })
    .await;
    let data = ["1", "2", "3", "4", "5"];
    fire(&gateway, "a", data[0]).await;
    heard(&browser, &data[..1]).await;
    for (signal, count) in [(Signal::TERM, 2), (Signal::KILL, 4)] {
        // What it has is acknowledged, and that is written: nothing of it comes again.
        wait_for_listing(&gateway.broadcast, "wall", &[("events", 0)]).await;
        gateway = gateway.restart_broadcast(signal).await;
        fire(&gateway, "a", data[count - 1]).await;
        heard(&browser, &data[..count]).await;
        fire(&gateway, "a", data[count]).await;
        heard(&browser, &data[..=count]).await;
    }
    let ids = browser.run("return window.heard.map(event => event[0]);").await;
    assert_eq!(ids, json!(["", "", "", "", ""]));
    browser.close().await;
}
