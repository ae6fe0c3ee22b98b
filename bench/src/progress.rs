//! The line on standard error that says how far the benchmark is.

use std::io::{IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

/// One line that is written over and over; nothing where nobody would see it.
#[derive(Debug)]
pub(crate) struct Progress {
    is_shown: bool,
    stage: String,
    written: Option<Instant>,
}

impl Progress {
    /// Shown on a terminal, or where it is asked for.
    pub(crate) fn new(is_wanted: bool) -> Self {
        let is_shown = is_wanted || std::io::stderr().is_terminal();
        Self { is_shown, stage: String::new(), written: None }
    }

    /// What is done now.
    pub(crate) fn stage(&mut self, text: &str) {
        text.clone_into(&mut self.stage);
        self.say("");
    }

    /// How far that is.
    pub(crate) fn say(&mut self, detail: &str) {
        if self.is_shown {
            let line = format!("\r\x1b[K{} {detail}", self.stage);
            // A terminal that is gone is no reason to stop.
            let _ = std::io::stderr().lock().write_all(line.as_bytes());
            self.written = Some(Instant::now());
        }
    }

    /// The same, a few times a second at most.
    #[inline]
    pub(crate) fn tick(&mut self, detail: impl FnOnce() -> String) {
        if self.is_shown && self.written.is_none_or(|it| it.elapsed() > PAUSE) {
            self.say(&detail());
        }
    }

    /// Makes room for what comes instead.
    pub(crate) fn clear(&mut self) {
        if self.is_shown {
            let _ = std::io::stderr().lock().write_all(b"\r\x1b[K");
        }
    }
}

const PAUSE: Duration = Duration::from_millis(250);
