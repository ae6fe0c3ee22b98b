//! `fanfare completions`: what a shell needs to complete our commands.

use std::io::{self, Write as _};
use std::process::ExitCode;

use clap::{Args, CommandFactory as _};
use clap_complete::{Shell, generate};

/// Writes the completions for a shell to standard output
#[derive(Debug, Args)]
pub(crate) struct Completions {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

impl Completions {
    /// Writes them.
    pub(crate) fn run(&self) -> anyhow::Result<ExitCode> {
        // The generator panics where its output fails, as in a pipe to `head`; memory never does.
        let mut script = Vec::new();
        generate(self.shell, &mut crate::Command::command(), "fanfare", &mut script);
        io::stdout().write_all(&script)?;
        Ok(ExitCode::SUCCESS)
    }
}
