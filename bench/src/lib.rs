//! How fast a gateway is, measured from outside: `fanfare bench`.
//!
//! One thread with one event loop is all publishers and all subscribers (`client`). A `load` is what
//! it does to a server; a `contestant` is a server it is done to: the gateway, the physical `limit`,
//! the `peers`. `rounds` has everybody in turn; `report` shows medians.

use std::io::Write as _;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use shared::settings::EXIT_CONFIG;

use crate::bare::BareServer;
use crate::child::Leashed;
use crate::limit::LimitServer;
use crate::load::Load;
use crate::progress::Progress;
use crate::report::Report;
use crate::setup::Setup;

mod bare;
mod child;
mod client;
mod contestant;
mod contradictions;
mod dialect;
mod figures;
mod frames;
mod interrupt;
mod latency;
mod limit;
mod load;
mod machine;
mod meter;
mod nats;
mod patience;
mod peers;
mod processes;
mod progress;
mod publisher;
mod report;
mod rounds;
mod setup;
mod socket;
mod spawned;
mod subscriber;
mod tally;
mod target;
mod timer;

/// Measures how fast a gateway is: one that runs, or with --spawn one of its own
///
/// Exits with 0 only if nothing was lost, refused or cut off.
#[derive(Debug, Args)]
pub struct Bench {
    #[command(subcommand)]
    mode: Mode,
}

#[derive(Debug, Subcommand)]
enum Mode {
    /// Fan-out at full speed: deliveries a second
    FanOut(Run<load::fan_out::FanOut>),
    /// A fixed rate: the latency of each delivery from when its event was due
    Rate(Run<load::rate::Rate>),
    /// Ingest: acknowledged posts a second, with nobody subscribed
    Ingest(Run<load::ingest::Ingest>),
    /// Idle: memory of a session that is subscribed and silent, and connects a second
    Idle(Run<load::idle::Idle>),
    /// Reconnect storm: all clients are cut off at once, and come back as fast as they can
    Storm(Run<load::storm::Storm>),
    /// Serves as little as can be, as fast as can be
    #[command(hide = true)]
    LimitServer(LimitServer),
    /// Answers every POST with 200, and does nothing else
    #[command(hide = true)]
    BareServer(BareServer),
    /// Runs a program so that it ends when the benchmark does
    #[command(hide = true)]
    Leashed(Leashed),
}

/// A load, and whom it is put on.
#[derive(Debug, Args)]
struct Run<L: Args> {
    #[command(flatten)]
    load: L,

    #[command(flatten)]
    setup: Setup,
}

impl Bench {
    /// Measures, and shows what came of it.
    ///
    /// # Errors
    ///
    /// A server cannot be reached or started, or refuses us.
    pub fn run(&self) -> anyhow::Result<ExitCode> {
        match &self.mode {
            Mode::FanOut(run) => run.run(),
            Mode::Rate(run) => run.run(),
            Mode::Ingest(run) => run.run(),
            Mode::Idle(run) => run.run(),
            Mode::Storm(run) => run.run(),
            Mode::LimitServer(server) => server.run().map(|()| ExitCode::SUCCESS),
            Mode::BareServer(server) => server.run().map(|()| ExitCode::SUCCESS),
            Mode::Leashed(leashed) => leashed.run().map(|()| ExitCode::SUCCESS),
        }
    }
}

impl<L: Load> Run<L> {
    fn run(&self) -> anyhow::Result<ExitCode> {
        if let Some(text) = &self.setup.contradiction.0 {
            eprintln!("fanfare: {text}");
            return Ok(ExitCode::from(EXIT_CONFIG));
        }
        interrupt::catch()?;
        let mut progress = Progress::new(self.setup.progress);
        let scores = rounds::run(&self.load, &self.setup, &mut progress);
        progress.clear();
        let scores = match scores {
            Err(error) if error.is::<interrupt::Interrupted>() => {
                return Ok(ExitCode::from(interrupt::EXIT_INTERRUPTED));
            }
            scores => scores?,
        };
        let report = Report::new(&self.load, &self.setup, &scores)?;
        let mut out = std::io::stdout().lock();
        if self.setup.json {
            writeln!(out, "{:#}", report.to_json())?;
        } else {
            write!(out, "{}", report.to_table())?;
        }
        let faults = report.faults();
        for fault in &faults {
            eprintln!("fanfare: {fault}");
        }
        Ok(ExitCode::from(u8::from(!faults.is_empty())))
    }
}
