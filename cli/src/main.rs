//! The `fanfare` command: one file a subcommand.

use std::io::{self, ErrorKind};
use std::process::ExitCode;

use clap::Parser;
use gateway::leash;

mod agent;
mod check;
mod completions;
mod fire;
mod health;
mod keeper;
mod queue;
mod token;
mod tokens_file;
mod up;
mod watch;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// An event gateway: trusted back ends fire events, dashboards get them at once
#[derive(Debug, Parser)]
#[command(name = "fanfare", version)]
enum Command {
    Up(up::Up),
    Listen(Box<listen::Config>),
    Broadcast(Box<broadcast::config::Config>),
    Fire(fire::Fire),
    Watch(watch::Watch),
    #[command(subcommand)]
    Token(token::Token),
    #[command(subcommand)]
    Queue(queue::Queue),
    Check(check::Check),
    Health(health::Health),
    Bench(Box<bench::Bench>),
    Completions(completions::Completions),
}

fn main() -> ExitCode {
    match shared::settings::read(std::env::args_os()) {
        Ok(command) => run(command).unwrap_or_else(|error| report(&error)),
        Err(exit) => exit,
    }
}

fn run(command: Command) -> anyhow::Result<ExitCode> {
    // A second installation can only come of running twice in one process, and changes nothing.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    match command {
        Command::Listen(config) => {
            leash::put_on()?;
            Ok(listen::run(*config))
        }
        Command::Broadcast(config) => {
            leash::put_on()?;
            Ok(broadcast::run(*config))
        }
        Command::Up(up) => up.run(),
        Command::Fire(fire) => fire.run(),
        Command::Watch(watch) => watch.run(),
        Command::Token(token) => token.run(),
        Command::Queue(queue) => queue.run(),
        Command::Check(check) => check.run(),
        Command::Health(health) => health.run(),
        Command::Bench(bench) => bench.run(),
        Command::Completions(completions) => completions.run(),
    }
}

/// A reader that has left, as in `fanfare watch '>' | head -1`, is no fault of ours.
fn report(error: &anyhow::Error) -> ExitCode {
    if error.downcast_ref::<io::Error>().is_some_and(|it| it.kind() == ErrorKind::BrokenPipe) {
        return ExitCode::SUCCESS;
    }
    eprintln!("fanfare: {error:#}");
    ExitCode::FAILURE
}
