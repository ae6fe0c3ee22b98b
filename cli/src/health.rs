//! `fanfare health`: whether a door can serve, for a container's HEALTHCHECK.

use std::io::{self, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, ValueEnum};
use ureq::Agent;

/// A probe that takes longer is a no.
const TIMEOUT: Duration = Duration::from_secs(3);

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

/// One of the two processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Door {
    /// Takes events in.
    Listen,
    /// Gives events out.
    Broadcast,
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

impl Door {
    /// The name of its command, and of its lines in the log.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Listen => "listen",
            Self::Broadcast => "broadcast",
        }
    }
}

/// Asks the operator's door of a process whether it can serve.
///
/// # Errors
///
/// What it answered instead, or why it did not.
pub(crate) fn probe(address: SocketAddr) -> Result<String, String> {
    let agent: Agent = Agent::config_builder()
        .http_status_as_error(false)
        .timeout_global(Some(TIMEOUT))
        .proxy(None)
        .build()
        .into();
    let url = format!("http://{}/readyz", reachable(address));
    let mut response = agent.get(url).call().map_err(|error| error.to_string())?;
    let answer = response.body_mut().read_to_string().map_err(|error| error.to_string())?;
    if response.status() == 200 { Ok(answer) } else { Err(answer) }
}

/// An address to connect to: `0.0.0.0` is one to listen on only.
pub(crate) fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_address_to_listen_on_has_one_to_connect_to() {
        for (listened, connected) in
            [("0.0.0.0:1", "127.0.0.1:1"), ("[::]:1", "[::1]:1"), ("10.0.0.1:1", "10.0.0.1:1")]
        {
            assert_eq!(reachable(listened.parse().unwrap()).to_string(), connected);
        }
    }
}
