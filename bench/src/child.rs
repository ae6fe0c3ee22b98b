//! A child process that ends when we do, whatever way that is.

use std::ffi::OsString;
use std::fs::File;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::Args;
use gateway::leash;
use rustix::process::{Pid, Signal, kill_process};

/// A child process; it is ended when this is dropped.
#[derive(Debug)]
pub(crate) struct Child {
    name: &'static str,
    process: std::process::Child,
    said: PathBuf,
}

impl Child {
    /// Starts this program with these words. What it says is written into a file in the folder.
    ///
    /// `program` is ourselves, or puts on the leash by [`Leashed`].
    pub(crate) fn start(
        name: &'static str,
        command: &mut Command,
        folder: &Path,
    ) -> anyhow::Result<Self> {
        let said = folder.join(format!("{name}.log"));
        let file = File::create(&said).with_context(|| said.display().to_string())?;
        let process = command
            .current_dir(folder)
            .env(leash::VARIABLE, std::process::id().to_string())
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            // A Ctrl-C is for us: we end our children in order.
            .process_group(0)
            .spawn()
            .with_context(|| format!("{name} cannot be started"))?;
        Ok(Self { name, process, said })
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Waits until this is so; fails if the child ends before, or nobody can wait any longer.
    pub(crate) fn wait_until(&mut self, mut is_so: impl FnMut() -> bool) -> anyhow::Result<()> {
        let deadline = Instant::now() + START_PATIENCE;
        while !is_so() {
            crate::interrupt::check()?;
            self.is_alive()?;
            if Instant::now() > deadline {
                anyhow::bail!("{} does not become ready: {}", self.name, self.last_words());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// Fails if it has ended.
    pub(crate) fn is_alive(&mut self) -> anyhow::Result<()> {
        if let Some(status) = self.process.try_wait()? {
            let how = match (status.signal(), status.code()) {
                (Some(signal), _) => format!("signal {signal}"),
                (None, code) => format!("exit code {}", code.unwrap_or_default()),
            };
            anyhow::bail!("{} ended ({how}): {}", self.name, self.last_words());
        }
        Ok(())
    }

    fn last_words(&self) -> String {
        let text = std::fs::read_to_string(&self.said).unwrap_or_default();
        let lines: Vec<&str> = text.lines().rev().take(5).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join("; ")
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        let pid = i32::try_from(self.process.id()).ok().and_then(Pid::from_raw);
        if let Some(pid) = pid {
            // It may have ended already.
            let _ = kill_process(pid, Signal::TERM);
        }
        let deadline = Instant::now() + STOP_PATIENCE;
        while Instant::now() < deadline {
            if !matches!(self.process.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Runs a program of somebody else so that it ends when the benchmark does
#[derive(Debug, Args)]
pub(crate) struct Leashed {
    /// The program and its arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<OsString>,
}

impl Leashed {
    /// A command that runs the program so.
    pub(crate) fn command(program: &Path) -> anyhow::Result<Command> {
        let mut command = Command::new(ourselves()?);
        command.args(["bench", "leashed", "--"]).arg(program);
        Ok(command)
    }

    /// Becomes the program.
    pub(crate) fn run(&self) -> anyhow::Result<()> {
        leash::put_on()?;
        let mut words = self.command.iter();
        let program = words.next().context("no program")?;
        let error = Command::new(program).args(words).env_remove(leash::VARIABLE).exec();
        Err(error).with_context(|| program.to_string_lossy().into_owned())
    }
}

/// This executable.
pub(crate) fn ourselves() -> anyhow::Result<PathBuf> {
    std::env::current_exe().context("where this program is")
}

const START_PATIENCE: Duration = Duration::from_secs(30);
/// A gateway that has nobody to serve stops at once; nobody should have to wait for longer.
const STOP_PATIENCE: Duration = Duration::from_secs(5);
