//! The `fanfare` command.

use std::process::ExitCode;

use clap::Parser;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// An event gateway: trusted back ends fire events, dashboards get them at once
#[derive(Debug, Parser)]
#[command(name = "fanfare", version)]
enum Command {
    /// Takes events in from trusted back ends
    Listen(Box<listen::Config>),
    /// Gives events out to dashboards
    Broadcast(Box<broadcast::config::Config>),
}

fn main() -> ExitCode {
    match shared::settings::read(std::env::args_os()) {
        Ok(Command::Listen(config)) => listen::run(*config),
        Ok(Command::Broadcast(config)) => broadcast::run(*config),
        Err(exit) => exit,
    }
}
