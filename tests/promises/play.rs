//! Plays a page of the documents: runs its blocks against a gateway, and compares what comes with
//! what is shown.
//!
//! Used by `documents` and `migrations`. A block is marked by a comment on the line before it:
//! `start` starts the gateway, `run` a program, `browser` a script in Chromium; `hears` is what it
//! then says, `websocket PATH` is a conversation, `shown: …` says why a block is not run. Among what
//! is heard, `POST …` is an event that is fired, `AMQP …` a message that is put on a queue.

use std::path::PathBuf;

use tokio::process::Command;
use tokio_tungstenite::connect_async;

use crate::browser::Browser;
use crate::client::Subscriber;
use crate::gateway::{Gateway, House, Process, binary};
use crate::measures::until;
use crate::node::{self, Program};
use crate::rabbit::Rabbit;
use crate::rabbit_desk::Desk;
use crate::transcript::{Fence, Names, fences, fill, fits, lines};

/// A page that is being played.
pub struct Play {
    house: House,
    broadcast: Option<Process>,
    listen: Option<Process>,
    /// Addresses as the page has them, and as they are here.
    addresses: Vec<(String, String)>,
    /// Where shells run.
    folder: PathBuf,
    names: Names,
    speaker: Option<Speaker>,
    broker: Option<Rabbit>,
}

/// What runs, and is listened to.
enum Speaker {
    Program(Box<Program>),
    /// A browser, and how many lines of it have been heard.
    Browser(Box<Browser>, usize),
}

impl Play {
    /// For a page that supposes a gateway.
    pub fn with(gateway: Gateway, names: Names) -> Self {
        let Gateway { listen, broadcast, house } = gateway;
        let mut play = Self::of(house, node::folder(), names);
        play.opened(listen, "8080");
        play.opened(broadcast, "8081");
        play
    }

    /// For a page that starts a gateway, in a folder of its own, by its defaults.
    pub fn before(names: Names) -> Self {
        let mut house = House::new();
        for name in ["LINK", "TOKENS_FILE", "CERT_FILE", "KEY_FILE", "DATA_DIR"] {
            house.settings.remove(name);
        }
        let folder = house.folder.path().join("here");
        std::fs::create_dir(&folder).unwrap();
        Self::of(house, folder, names)
    }

    fn of(house: House, folder: PathBuf, names: Names) -> Self {
        let addresses = Vec::new();
        let (broadcast, listen, speaker, broker) = (None, None, None, None);
        Self { house, broadcast, listen, addresses, folder, names, speaker, broker }
    }

    /// Puts a broker where the page has one.
    pub fn beside(mut self, broker: Rabbit) -> Self {
        self.stands_for("amqp://guest:guest@127.0.0.1:5672/", &broker.url());
        self.broker = Some(broker);
        self
    }

    /// Says what an address of the page is here.
    fn stands_for(&mut self, shown: &str, address: &str) {
        // What was said last counts.
        self.addresses.insert(0, (shown.to_owned(), address.to_owned()));
    }

    /// Plays all of it. Gives how many of its blocks were run.
    pub async fn play(mut self, name: &str, page: &str) -> usize {
        let mut count = 0;
        for fence in fences(page) {
            eprintln!("{name}:{}", fence.line);
            self.play_fence(&fence).await;
            let marker = fence.marker.split(' ').next().unwrap();
            count += usize::from(["start", "run", "browser", "websocket"].contains(&marker));
        }
        self.end_speaker().await;
        count
    }

    async fn play_fence(&mut self, fence: &Fence) {
        if fence.marker != "hears" {
            self.end_speaker().await;
        }
        match fence.marker.split_once(' ').unwrap_or((&fence.marker, "")) {
            ("start", _) => self.start(&fence.text).await,
            ("run", _) => {
                let program = Box::new(Program::run(self.command(fence)));
                self.speaker = Some(Speaker::Program(program));
            }
            ("browser", _) => self.browse(&fence.text).await,
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

    /// Puts the addresses that are here in the place of those of the page.
    fn address(&self, text: &str) -> String {
        let (mut out, mut rest) = (String::new(), text);
        while let Some(first) = rest.chars().next() {
            let found = self.addresses.iter().find_map(|(shown, here)| {
                // Port 4000 is not the beginning of port 40001.
                let after = rest.strip_prefix(shown)?;
                (!after.starts_with(|next: char| next.is_ascii_digit())).then_some((here, after))
            });
            match found {
                Some((here, after)) => {
                    out.push_str(here);
                    rest = after;
                }
                None => {
                    out.push(first);
                    rest = &rest[first.len_utf8()..];
                }
            }
        }
        out
    }

    /// Starts what the block leaves running, with the settings that it exports.
    async fn start(&mut self, text: &str) {
        (self.listen, self.broadcast) = (None, None);
        let is_setting = |line: &&str| line.starts_with("export ");
        let (settings, commands): (Vec<_>, Vec<_>) = text.lines().partition(is_setting);
        let settings = self.address(&settings.join("\n"));
        let ports = [("LISTEN_ADDR=", "8080"), ("BROADCAST_ADDR=", "8081")];
        let ports = ports.map(|(name, port)| address_in(&settings, name).unwrap_or(port));
        let mut script = settings.clone();
        for port in ports {
            // The system chooses another one.
            script = script.replace(&format!("_ADDR=0.0.0.0:{port}"), "_ADDR=127.0.0.1:0");
        }
        assert!(!script.contains("0.0.0.0"), "{script}");
        for command in commands {
            let (name, port) = match command {
                "fanfare broadcast &" => ("broadcast", ports[1]),
                "fanfare listen &" => ("listen", ports[0]),
                other => panic!("{other} starts nothing"),
            };
            let mut shell = std::process::Command::new("bash");
            shell.arg("-euc").arg(format!("{script}\nexec fanfare {name}"));
            shell.current_dir(&self.folder);
            let mut settings = self.house.settings.clone();
            settings.insert("PATH".to_owned(), path());
            self.opened(Process::run(name, shell, &settings).opened(), port);
        }
        if let Some(listen) = &self.listen {
            listen.wait_for_readiness("ready", |status, _| status == 200).await;
        }
    }

    /// Notes a process whose door is open, and its port as the page has it.
    fn opened(&mut self, process: Process, port: &str) {
        let address = process.address().to_string();
        for host in ["127.0.0.1", "localhost"] {
            self.stands_for(&format!("{host}:{port}"), &address);
        }
        let place = if process.is_listen() { &mut self.listen } else { &mut self.broadcast };
        *place = Some(process);
    }

    fn listen(&self) -> &Process {
        self.listen.as_ref().expect("listen runs")
    }

    fn broadcast(&self) -> &Process {
        self.broadcast.as_ref().expect("broadcast runs")
    }

    fn command(&self, fence: &Fence) -> Command {
        let text = self.address(&fence.text);
        let mut command = match fence.language.as_str() {
            "javascript" => {
                let mut node = Command::new("node");
                // What browsers have, and older versions of Node have not.
                let socket = "globalThis.WebSocket = (await import('ws')).default;";
                node.args(["--input-type=module", "-e"]).arg(format!("{socket}\n{text}"));
                // Here are the packages that it imports.
                node.current_dir(node::folder());
                node
            }
            "sh" => {
                let mut shell = Command::new("bash");
                shell.args(["-euo", "pipefail", "-c"]).arg(text).current_dir(&self.folder);
                shell
            }
            other => panic!("{other} cannot be run"),
        };
        command.env("PATH", path());
        let urls = [("FANFARE_URL", &self.listen), ("FANFARE_WATCH_URL", &self.broadcast)];
        for (name, process) in urls {
            command.envs(process.iter().map(|process| (name, process.url())));
        }
        command.envs(&self.names);
        command
    }

    /// Runs a script in a page of another origin than the gateway has.
    async fn browse(&mut self, text: &str) {
        let port = self.broadcast().address().port();
        let browser = Browser::open(&format!("http://localhost:{port}/healthz")).await;
        let text = fill(&self.address(text), &self.names);
        let said = "window.said = []; \
                    const console = { log: (...all) => window.said.push(all.join(' ')) };";
        browser.run(&format!("{said} (async () => {{ {text} }})();")).await;
        self.speaker = Some(Speaker::Browser(Box::new(browser), 0));
    }

    /// Compares what is said, line by line; empty ones do not count.
    async fn hear(&mut self, text: &str) {
        let mut speaker = self.speaker.take().expect("something runs");
        for shown in lines(text) {
            if self.fire(&shown).await {
                continue;
            }
            let heard = loop {
                let line = speaker.next_line().await;
                let line = line.unwrap_or_else(|| panic!("it ended before it said {shown}"));
                if !line.is_empty() {
                    break line;
                }
            };
            assert!(fits(&shown, &heard, &mut self.names), "shown: {shown}\nheard: {heard}");
        }
        // One that goes on for ever is ended here.
        if let Speaker::Browser(browser, _) = speaker {
            browser.close().await;
        }
    }

    async fn converse(&mut self, path: &str, text: &str) {
        let url = self.broadcast().ws_url() + &fill(path, &self.names);
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

    /// Publishes, where a line says so: `POST /event …`, `POST /events …`, or `AMQP QUEUE …`.
    async fn fire(&self, line: &str) -> bool {
        if let Some((queue, body)) = line.strip_prefix("AMQP ").and_then(|it| it.split_once(' ')) {
            let url = self.broker.as_ref().expect("a broker runs").url();
            Desk::open(&url).await.put(queue, body).await;
            return true;
        }
        let Some(rest) = line.strip_prefix("POST ") else { return false };
        let (path, body) = rest.split_once(' ').unwrap();
        let mut request = reqwest::Client::new()
            .post(self.listen().url() + path)
            .header("content-type", "application/json")
            .body(fill(body, &self.names));
        if let Some(token) = self.names.get("FANFARE_TOKEN") {
            request = request.header("authorization", format!("Basic {token}"));
        }
        assert!(request.send().await.unwrap().status().is_success(), "{line}");
        true
    }

    /// A program that nobody has listened to ends by itself, and well.
    async fn end_speaker(&mut self) {
        match self.speaker.take() {
            Some(Speaker::Program(mut program)) => {
                while program.next_line().await.is_some() {}
                program.end().await;
            }
            Some(Speaker::Browser(browser, _)) => browser.close().await,
            None => {}
        }
    }
}

impl Speaker {
    async fn next_line(&mut self) -> Option<String> {
        let (browser, heard) = match self {
            Self::Program(program) => return program.next_line().await,
            Self::Browser(browser, heard) => (browser, heard),
        };
        let script = format!("return window.said[{heard}];");
        let line = until("what the page says", async || {
            browser.run(&script).await.as_str().map(str::to_owned)
        });
        *heard += 1;
        Some(line.await)
    }
}

/// The port of an address among settings.
fn address_in<'a>(settings: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = settings.split_once(name)?;
    let address = rest.split_whitespace().next()?;
    Some(address.rsplit_once(':')?.1)
}

/// Where programs are; ours before all others.
fn path() -> String {
    let ours = binary("fanfare").parent().unwrap().display().to_string();
    format!("{ours}:{}", std::env::var("PATH").unwrap())
}
