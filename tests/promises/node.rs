//! Programs in Node that use the official clients of our protocols (`tests/npm`).

use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use crate::gateway::PATIENCE;

/// The folder of the clients, and of the programs that use them.
pub fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("npm")
}

/// A program that runs: it says one JSON text a line, and may be told lines. It ends with the test.
pub struct Program {
    child: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
}

impl Program {
    /// Starts a script of `tests/npm`.
    pub fn start(script: &str, arguments: &[&str]) -> Self {
        let path = folder().join(script);
        let mut command = Command::new("node");
        command.arg(path).args(arguments).current_dir(folder());
        Self::run(command)
    }

    /// Starts any program.
    pub fn run(mut command: Command) -> Self {
        let command = command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().expect("the program is there: ./test installs it");
        let (input, output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        Self { child, input, output: BufReader::new(output).lines() }
    }

    /// Tells it a line.
    pub async fn tell(&mut self, line: &str) {
        self.input.write_all(format!("{line}\n").as_bytes()).await.unwrap();
    }

    /// The next line that it says; `None` at its end.
    pub async fn next_line(&mut self) -> Option<String> {
        let line = tokio::time::timeout(PATIENCE, self.output.next_line()).await;
        line.expect("the program says something in time").unwrap()
    }

    /// The next line, as JSON.
    pub async fn hear(&mut self) -> Value {
        let line = self.next_line().await.expect("the program still runs");
        serde_json::from_str(&line).unwrap_or_else(|_| panic!("not JSON: {line}"))
    }

    /// Waits for its end; it must be a good one.
    pub async fn end(mut self) {
        drop(self.input);
        let ended = tokio::time::timeout(PATIENCE, self.child.wait()).await;
        assert!(ended.expect("the program ends").unwrap().success());
    }
}
