//! The system calls of a process that write, as strace saw them.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::gateway::{House, Process, wait_for};

/// What writes to a socket, in all its forms.
const WRITES: &str = "write,writev,sendto,sendmsg,sendmmsg";

/// A process that is watched from its start on.
pub struct Trace {
    file: PathBuf,
}

impl Trace {
    /// Starts a process under strace, and waits until its doors are open.
    pub fn start(name: &'static str, house: &House) -> (Process, Self) {
        let version = Command::new("strace").arg("-V").stdout(Stdio::null()).status();
        assert!(version.is_ok_and(|it| it.success()), "strace is needed: ./test installs it");
        let file = house.folder.path().join(format!("{name}.trace"));
        // `-D`: the tracer is the one that is started beside, so that the process keeps its id and
        // its parent. Only what writes is stopped at, so the rest goes as fast as ever.
        let strace = format!(
            "exec strace -D -f -qq -yy --seccomp-bpf -e trace={WRITES} -e signal=none -o '{}' \"$0\"",
            file.display()
        );
        let process = Process::start_behind(name, &house.settings, &strace);
        (process, Self { file })
    }

    /// The calls so far that hold a text, in order. A call that another thread came between is two
    /// lines, of which only the first says on what.
    pub fn calls(&self, text: &str) -> Vec<String> {
        let trace = String::from_utf8_lossy(&fs::read(&self.file).unwrap()).into_owned();
        let whole = trace.lines().filter(|line| line.contains(text) && !line.contains("resumed>"));
        whole.map(str::to_owned).collect()
    }

    /// Waits until so many calls hold a text: strace tells of a call a moment after it was made.
    pub fn wait_for(&self, text: &str, count: usize) {
        let what = format!("{count} calls with {text:?}");
        wait_for(&what, || (self.calls(text).len() >= count).then_some(()));
    }
}

/// The connections that a process has taken at its door, as strace writes them.
pub fn taken_at(process: &Process) -> String {
    format!("<TCP:[{}->", process.address())
}

/// The connections of the link.
pub const LINK: &str = "<UNIX-STREAM:[";
