//! A gateway of a test's own: a folder, two processes, and what they say.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

/// A token that may do everything.
pub const TOKEN: &str = "0123456789abcdef-all";

/// How long a test waits for something that must come. Only a test that fails ever waits so long.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Settings, by the names of their environment variables.
pub type Settings = BTreeMap<String, String>;

/// A folder with tokens, and settings that point into it.
pub struct House {
    pub folder: TempDir,
    pub settings: Settings,
}

impl House {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name).display().to_string();
        let settings = [
            ("LISTEN_ADDR", "127.0.0.1:0".to_owned()),
            ("BROADCAST_ADDR", "127.0.0.1:0".to_owned()),
            ("LISTEN_ADMIN_ADDR", "127.0.0.1:0".to_owned()),
            ("BROADCAST_ADMIN_ADDR", "127.0.0.1:0".to_owned()),
            ("LINK", format!("unix:{}", path("sockets/link.sock"))),
            ("TOKENS_FILE", path("tokens")),
            ("CERT_FILE", path("cert.crt")),
            ("KEY_FILE", path("cert.key")),
            ("DATA_DIR", path("data")),
            // So that there is more than one on every machine.
            ("WORKERS", "2".to_owned()),
            ("LOG_FORMAT", "json".to_owned()),
            ("RUST_LOG", "debug".to_owned()),
        ];
        let settings = settings.map(|(name, value)| (name.to_owned(), value));
        let house = Self { folder, settings: settings.into() };
        house.write_tokens(&format!("{TOKEN} name=all\n"));
        house
    }

    pub fn set(mut self, name: &str, value: impl ToString) -> Self {
        self.settings.insert(name.to_owned(), value.to_string());
        self
    }

    /// Puts other tokens in place, by rename, before or while processes run.
    pub fn write_tokens(&self, text: &str) {
        let new = self.folder.path().join("tokens.new");
        fs::write(&new, text).unwrap();
        fs::set_permissions(&new, fs::Permissions::from_mode(0o600)).unwrap();
        fs::rename(new, self.tokens_file()).unwrap();
    }

    pub fn with_tokens(self, text: &str) -> Self {
        self.write_tokens(text);
        self
    }

    pub fn tokens_file(&self) -> PathBuf {
        self.folder.path().join("tokens")
    }

    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("sockets/link.sock")
    }

    pub fn broadcast(&self) -> Process {
        Process::start("broadcast", &self.settings)
    }

    pub fn listen(&self) -> Process {
        Process::start("listen", &self.settings)
    }

    /// Starts both, and waits until they have each other.
    pub fn open(self) -> Gateway {
        let broadcast = self.broadcast();
        let listen = self.listen();
        // Each worker has a link of its own.
        let workers: usize = self.settings["WORKERS"].parse().unwrap();
        wait_for("all links", || {
            (listen.log().matches("the link is up").count() >= workers).then_some(())
        });
        Gateway { broadcast, listen, house: self }
    }
}

/// Both processes, with their link up.
pub struct Gateway {
    pub listen: Process,
    pub broadcast: Process,
    pub house: House,
}

impl Gateway {
    pub fn open() -> Self {
        House::new().open()
    }

    /// Ends `broadcast` by a signal and starts it anew, while what else runs here goes on.
    pub async fn restart_broadcast(self, signal: Signal) -> Self {
        let Self { listen, broadcast, house } = self;
        let broadcast = broadcast.restart(signal, &house.settings).await;
        Self { listen, broadcast, house }
    }

    pub fn event_url(&self) -> String {
        format!("{}/event", self.listen.url())
    }
}

/// A process of ours, and what it has logged so far.
pub struct Process {
    name: &'static str,
    child: Child,
    log: Arc<Mutex<Vec<String>>>,
    reader: Option<JoinHandle<()>>,
    address: SocketAddr,
    admin: SocketAddr,
    is_tls: bool,
}

impl Process {
    /// Starts it, and waits until its doors are open.
    pub fn start(name: &'static str, settings: &Settings) -> Self {
        Self::spawn(name, settings).opened()
    }

    /// Starts it, and waits until its doors are open; or until it has ended, and gives its log.
    pub fn try_start(
        name: &'static str,
        settings: &Settings,
    ) -> Result<Self, (ExitStatus, String)> {
        let mut process = Self::spawn(name, settings);
        let opened = format!("{name} is open");
        let ended =
            wait_for("an open door, or an end", || match process.child.try_wait().unwrap() {
                Some(ended) => Some(Some(ended)),
                None => process.log().contains(&opened).then_some(None),
            });
        match ended {
            Some(ended) => Err((ended, process.whole_log())),
            None => Ok(process.opened()),
        }
    }

    /// Starts it with flags, and waits until its doors are open.
    pub fn start_with(name: &'static str, settings: &Settings, flags: &[&str]) -> Self {
        let mut command = Command::new(binary(name));
        command.args(flags);
        Self::run(name, command, settings).opened()
    }

    /// Starts it under a limit of descriptors, and waits until its doors are open.
    pub fn start_limited(name: &'static str, settings: &Settings, descriptors: u32) -> Self {
        Self::start_behind(name, settings, &format!("ulimit -n {descriptors}"))
    }

    /// Starts it with what a shell has prepared, and waits until its doors are open.
    pub fn start_behind(name: &'static str, settings: &Settings, preparation: &str) -> Self {
        let mut shell = Command::new("/bin/sh");
        shell.arg("-c").arg(format!("{preparation}; exec \"$0\"")).arg(binary(name));
        Self::run(name, shell, settings).opened()
    }

    /// Waits until its doors are open.
    pub fn opened(mut self) -> Self {
        let name = self.name;
        let process = &mut self;
        let opened = process.wait_for_log(&format!("{name} is open"));
        let opened: Value = serde_json::from_str(&opened).unwrap();
        process.address = opened["address"].as_str().unwrap().parse().unwrap();
        process.admin = opened["admin"].as_str().unwrap().parse().unwrap();
        self
    }

    /// Starts it, and waits for nothing.
    pub fn spawn(name: &'static str, settings: &Settings) -> Self {
        Self::run(name, Command::new(binary(name)), settings)
    }

    /// Starts it by a command, and waits for nothing.
    pub fn run(name: &'static str, mut command: Command, settings: &Settings) -> Self {
        let mut child = command
            .env_clear()
            .envs(settings)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let log = Arc::new(Mutex::new(Vec::new()));
        let (stderr, lines) = (child.stderr.take().unwrap(), Arc::clone(&log));
        let reader = std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                lines.lock().unwrap().push(line);
            }
        });
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
        let is_tls = settings.get("HTTPS_ENABLE").is_some_and(|it| it == "true");
        let reader = Some(reader);
        Self { name, child, log, reader, address: nowhere, admin: nowhere, is_tls }
    }

    pub fn is_listen(&self) -> bool {
        self.name == "listen"
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// `http://…` or `https://localhost…`, as the settings have it.
    pub fn url(&self) -> String {
        match self.is_tls {
            true => format!("https://localhost:{}", self.address.port()),
            false => format!("http://{}", self.address),
        }
    }

    pub fn ws_url(&self) -> String {
        self.url().replacen("http", "ws", 1)
    }

    pub fn admin_url(&self) -> String {
        format!("http://{}", self.admin)
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn log(&self) -> String {
        self.log.lock().unwrap().join("\n")
    }

    /// What it has logged up to its end.
    fn whole_log(mut self) -> String {
        if let Some(reader) = self.reader.take() {
            reader.join().unwrap();
        }
        self.log()
    }

    /// Waits for a line with this text, and gives it.
    pub fn wait_for_log(&self, text: &str) -> String {
        let what = format!("{}: a log line with {text:?}", self.name);
        wait_for(&what, || self.log.lock().unwrap().iter().find(|it| it.contains(text)).cloned())
    }

    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.pid()).unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
        if signal == Signal::STOP {
            // Until its last thread has, it goes on.
            wait_for("a stop", || crate::measures::has_stopped(self.pid()).then_some(()));
        }
    }

    /// `kill -9`, and waits until it is gone.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Waits for its end.
    pub fn wait(&mut self) -> ExitStatus {
        let what = format!("the end of {}", self.name);
        wait_for(&what, || self.child.try_wait().unwrap())
    }

    /// Asks it to stop, and waits for its end.
    pub fn stop(mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        self.wait()
    }

    /// Ends it by a signal and starts it anew, while what else runs here goes on.
    pub async fn restart(mut self, signal: Signal, settings: &Settings) -> Self {
        self.signal(signal);
        let settings = settings.clone();
        let restart = move || {
            let ended = self.wait();
            assert!(ended.success() || signal == Signal::KILL, "{ended}");
            Self::start(self.name, &settings)
        };
        tokio::task::spawn_blocking(restart).await.unwrap()
    }

    /// A sum over all lines of a metric, whatever their labels.
    pub async fn metric(&self, name: &str) -> f64 {
        let text = reqwest::get(format!("{}/metrics", self.admin_url()))
            .await
            .unwrap()
            .text()
            .await
            .unwrap();
        let lines = text.lines().filter(|line| {
            line.strip_prefix(name).is_some_and(|rest| rest.starts_with([' ', '{']))
        });
        lines.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).sum()
    }

    /// The status and body of `/readyz`.
    pub async fn readiness(&self) -> (u16, String) {
        let response = reqwest::get(format!("{}/readyz", self.admin_url())).await.unwrap();
        (response.status().as_u16(), response.text().await.unwrap())
    }

    /// Waits until what `/readyz` says fits.
    pub async fn wait_for_readiness(&self, what: &str, fits: impl Fn(u16, &str) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let (status, body) = self.readiness().await;
            if fits(status, &body) {
                return;
            }
            assert!(Instant::now() < deadline, "never became {what}: {status} {body}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Waits until a metric has this value.
    pub async fn wait_for_metric(&self, name: &str, expected: f64) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let now = self.metric(name).await;
            if now == expected {
                return;
            }
            assert!(Instant::now() < deadline, "{name} is {now} and never became {expected}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- {} logged:\n{}", self.name, self.log());
        }
    }
}

/// Waits until `look` finds something. Blocks its thread: for what has no socket to wait on.
pub fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "never came: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A binary of the workspace, built as this test was.
pub fn binary(name: &str) -> PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(build).join(name)
}

/// Builds what the tests start, so that no test ever runs against an old binary. Where all is
/// built already, this takes a moment.
fn build() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let folder = test.parent().and_then(Path::parent).unwrap().to_owned();
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["build", "--quiet", "-p", "listen", "-p", "broadcast", "-p", "cli"]);
    cargo.arg("--target-dir").arg(folder.parent().unwrap());
    if folder.ends_with("release") {
        cargo.arg("--release");
    }
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    assert!(cargo.current_dir(workspace).status().unwrap().success(), "the build failed");
    folder
}
