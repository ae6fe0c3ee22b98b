//! `fanfare health`: whether a door can serve, for a container's HEALTHCHECK.

use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::process::ExitCode;

use clap::Args;
use gateway::readiness::{Door, probe};

/// Asks /readyz whether a process can serve, and exits with 0 or 1
#[derive(Debug, Args)]
pub(crate) struct Health {
    /// Which process; both where it is left out
    #[arg(value_enum)]
    door: Option<Door>,

    #[command(flatten)]
    admin: AdminAddresses,
}

/// Where the operator's doors are.
#[derive(Debug, Args)]
pub(crate) struct AdminAddresses {
    /// Where listen's /readyz and /metrics are
    #[arg(
        long,
        env = "LISTEN_ADMIN_ADDR",
        value_name = "ADDRESS",
        default_value = "127.0.0.1:8082"
    )]
    pub(crate) listen_admin_addr: SocketAddr,

    /// Where broadcast's /readyz and /metrics are
    #[arg(
        long,
        env = "BROADCAST_ADMIN_ADDR",
        value_name = "ADDRESS",
        default_value = "127.0.0.1:8083"
    )]
    pub(crate) broadcast_admin_addr: SocketAddr,
}

impl Health {
    /// Asks, and says what each of them answered.
    pub(crate) fn run(&self) -> anyhow::Result<ExitCode> {
        let AdminAddresses { listen_admin_addr, broadcast_admin_addr } = self.admin;
        let doors = [(Door::Broadcast, broadcast_admin_addr), (Door::Listen, listen_admin_addr)];
        let mut exit = ExitCode::SUCCESS;
        let asked = doors.into_iter().filter(|(door, _)| self.door.is_none_or(|it| it == *door));
        for (door, address) in asked {
            let answer = match probe(address) {
                Ok(answer) => answer,
                Err(answer) => {
                    exit = ExitCode::FAILURE;
                    answer
                }
            };
            writeln!(io::stdout(), "{}: {answer}", door.name())?;
        }
        Ok(exit)
    }
}
