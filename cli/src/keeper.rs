//! The keeper of one child process: starts it, starts it again when it died, passes signals on.
//!
//! Used by `up`, which has two. A child that never became ready is not started again: its settings
//! are wrong, and it has said so. One that was ready and died is, after a pause that grows.

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use gateway::leash;
use gateway::readiness::{Door, probe};
use rustix::process::{Pid, Signal, kill_process};
use shared::settings::EXIT_CONFIG;
use shared::signals::Wish;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, ChildStderr, Command};
use tokio::sync::{mpsc, watch};
use tokio::time::sleep;

/// How often a child is asked whether it is ready yet.
const PROBE_EVERY: Duration = Duration::from_millis(50);
/// A child that lived so long died of something new.
const STEADY_AFTER: Duration = Duration::from_secs(30);
const PAUSE_FIRST: Duration = Duration::from_millis(100);
/// The pauses of these many restarts in a row add up to about a minute.
const RESTARTS_MAX: u32 = 10;

/// What to keep, and how to start it.
#[derive(Debug)]
pub(crate) struct Keeper {
    /// Which of the two.
    pub(crate) door: Door,
    /// Our own executable.
    pub(crate) program: PathBuf,
    /// What the child finds in its environment beside what we have in ours.
    pub(crate) settings: Vec<(&'static str, String)>,
    /// Where it says whether it is ready.
    pub(crate) admin: SocketAddr,
    /// What to pass on to it.
    pub(crate) wishes: mpsc::Receiver<Wish>,
    /// True once the child was ready for the first time.
    pub(crate) ready: watch::Sender<bool>,
}

/// How one life of the child ended.
struct Life {
    code: u8,
    was_asked_to_stop: bool,
}

impl Keeper {
    /// Keeps the child until it is told to stop, or is beyond help. Gives the exit code.
    pub(crate) async fn keep(mut self) -> u8 {
        let mut restarts = 0;
        loop {
            let born = Instant::now();
            let life = match self.live().await {
                Ok(life) => life,
                Err(error) => {
                    self.say(&format!("cannot be started: {error}"));
                    return 1;
                }
            };
            if life.was_asked_to_stop || life.code == EXIT_CONFIG || !*self.ready.borrow() {
                return life.code;
            }
            restarts = if born.elapsed() > STEADY_AFTER { 1 } else { restarts + 1 };
            if restarts > RESTARTS_MAX {
                self.say("died too often; it is not started again");
                return life.code.max(1);
            }
            let pause = (PAUSE_FIRST * 2_u32.pow(restarts - 1)).min(Duration::from_secs(15));
            self.say(&format!("died (exit code {}); starting it again", life.code));
            if self.is_stopped_within(pause).await {
                return 0;
            }
        }
    }

    /// One life of the child, from start to end.
    async fn live(&mut self) -> std::io::Result<Life> {
        let mut child = self.spawn()?;
        let pump = child.stderr.take().map(|lines| tokio::spawn(pump(self.door, lines)));
        let mut was_asked_to_stop = false;
        // Its end, what is wished of it, and, until it is ready once, whether it is.
        let status = loop {
            tokio::select! {
                status = child.wait() => break status?,
                wish = self.wishes.recv() => match wish {
                    Some(Wish::Reload) => signal(&child, Signal::HUP),
                    Some(Wish::Stop) | None => {
                        was_asked_to_stop = true;
                        signal(&child, Signal::TERM);
                    }
                },
                () = until_ready(self.admin), if !*self.ready.borrow() => {
                    self.ready.send_replace(true);
                }
            }
        };
        // Its last words matter most; whoever else holds its end of the pipe does not.
        if let Some(pump) = pump {
            let _ = tokio::time::timeout(Duration::from_secs(1), pump).await;
        }
        Ok(Life { code: code_of(status), was_asked_to_stop })
    }

    fn spawn(&self) -> std::io::Result<Child> {
        Command::new(&self.program)
            .arg(self.door.name())
            .envs(self.settings.iter().map(|(name, value)| (name, value)))
            .env(leash::VARIABLE, std::process::id().to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            // A Ctrl-C is for us: as a second word to stop it would end the child at once.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
    }

    async fn is_stopped_within(&mut self, pause: Duration) -> bool {
        let wait = async { while self.wishes.recv().await == Some(Wish::Reload) {} };
        tokio::time::timeout(pause, wait).await.is_ok()
    }

    fn say(&self, what: &str) {
        write_line(self.door, what.as_bytes());
    }
}

async fn until_ready(admin: SocketAddr) {
    loop {
        let probed = tokio::task::spawn_blocking(move || probe(admin));
        if matches!(probed.await, Ok(Ok(_))) {
            return;
        }
        sleep(PROBE_EVERY).await;
    }
}

/// Passes on what the child logs, each line with its name.
async fn pump(door: Door, stderr: ChildStderr) {
    let mut reader = BufReader::new(stderr);
    let mut line = Vec::new();
    while matches!(reader.read_until(b'\n', &mut line).await, Ok(1..)) {
        write_line(door, line.trim_ascii_end());
        line.clear();
    }
}

fn write_line(door: Door, line: &[u8]) {
    let prefix = format!("{:<9} | ", door.name());
    let line = [prefix.as_bytes(), line, b"\n"].concat();
    // A terminal that is gone is no reason to stop.
    let _ = std::io::stderr().lock().write_all(&line);
}

fn signal(child: &Child, signal: Signal) {
    let pid = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
    if let Some(pid) = pid {
        // It may have ended just now; we will see.
        let _ = kill_process(pid, signal);
    }
}

/// As a shell has it: 128 and the number of the signal that ended it.
fn code_of(status: ExitStatus) -> u8 {
    use std::os::unix::process::ExitStatusExt as _;
    let code = status.code().or_else(|| status.signal().map(|signal| signal + 128));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1)
}
