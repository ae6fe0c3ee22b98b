//! Whether a process of a gateway can serve, asked at its operator's door.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use clap::ValueEnum;
use ureq::Agent;

/// A probe that takes longer is a no.
const TIMEOUT: Duration = Duration::from_secs(3);

/// One of the two processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Door {
    /// Takes events in.
    Listen,
    /// Gives events out.
    Broadcast,
}

impl Door {
    /// The name of its command, and of its lines in the log.
    pub fn name(self) -> &'static str {
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
pub fn probe(address: SocketAddr) -> Result<String, String> {
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
pub fn reachable(address: SocketAddr) -> SocketAddr {
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
