//! Which servers are measured, and how the result is shown: what all loads have in common.

use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Args, ValueEnum};
use gateway::caller::Caller;
use gateway::endpoint::Endpoint;

use crate::contestant::{Contestant, Running};
use crate::contradictions::Contradiction;
use crate::dialect::Dialect;
use crate::processes::{is_gateway, listeners, name_of};
use crate::socket::{Door, Tls};
use crate::target::Target;

/// What all loads have in common.
#[derive(Debug, Args)]
pub(crate) struct Setup {
    #[command(flatten)]
    pub(crate) contradiction: Contradiction,

    /// Where listen is
    #[arg(long, env = "FANFARE_URL", value_name = "URL", default_value = "http://127.0.0.1:8080")]
    listen: Endpoint,

    /// Where broadcast is
    #[arg(
        long,
        env = "FANFARE_WATCH_URL",
        value_name = "URL",
        default_value = "ws://127.0.0.1:8081"
    )]
    broadcast: Endpoint,

    #[command(flatten)]
    caller: Caller,

    /// Starts a gateway for the benchmark, with all settings at their defaults
    #[arg(long)]
    pub(crate) spawn: bool,

    /// A setting for that gateway, such as DURABILITY=memory; may stand several times
    #[arg(long, value_name = "NAME=VALUE", requires = "spawn")]
    pub(crate) set: Vec<Setting>,

    /// That gateway speaks TLS
    #[arg(long, requires = "spawn")]
    pub(crate) tls: bool,

    /// A process of the gateway that runs, where it is not found by its port; may stand several times
    #[arg(long, value_name = "PID", conflicts_with = "spawn")]
    pid: Vec<u32>,

    /// Measures the physical limit beside it: the smallest server for the same wire. For ingest also
    /// a handler that only answers. On this machine, without TLS
    #[arg(long)]
    limit: bool,

    /// Measures another server beside it, from its Debian package, on this machine and without TLS; may
    /// stand several times
    #[arg(long, value_enum, value_name = "PEER")]
    peer: Vec<Peer>,

    /// How often everybody is measured, in turn
    #[arg(long, value_name = "COUNT", default_value = "3", value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub(crate) rounds: u16,

    /// How long to wait, at most, for other processes to leave the machine alone, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    quiet: u16,

    /// Prints one JSON document
    #[arg(long)]
    pub(crate) json: bool,

    /// Says on standard error how far it is, even where that is no terminal
    #[arg(long)]
    pub(crate) progress: bool,
}

/// A server to measure beside ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Peer {
    /// nginx with nchan (nginx-light and libnginx-mod-nchan)
    Nchan,
    /// NATS over WebSocket (nats-server)
    Nats,
}

/// A setting and its value.
#[derive(Debug, Clone)]
pub(crate) struct Setting {
    pub(crate) name: String,
    pub(crate) value: String,
}

impl Setup {
    /// Everybody who is to be measured, ours first.
    pub(crate) fn contestants(&self) -> anyhow::Result<Vec<Contestant>> {
        let mut all = vec![Contestant::Fanfare];
        if self.limit {
            all.extend([Contestant::Limit, Contestant::Bare]);
        }
        for peer in &self.peer {
            let contestant = match peer {
                Peer::Nchan => Contestant::Nchan,
                Peer::Nats => Contestant::Nats,
            };
            if !all.contains(&contestant) {
                all.push(contestant);
            }
        }
        anyhow::ensure!(
            all.len() == 1 || self.rounds >= ROUNDS_MIN,
            "--rounds: a comparison needs {ROUNDS_MIN} at least"
        );
        Ok(all)
    }

    /// Whether subscribers come in under TLS.
    pub(crate) fn is_tls(&self) -> bool {
        if self.spawn { self.tls } else { self.broadcast.is_tls() }
    }

    /// How long to wait for a quiet machine.
    pub(crate) fn quiet(&self) -> Duration {
        Duration::from_secs(self.quiet.into())
    }

    /// The gateway that runs already.
    pub(crate) fn running_gateway(&self) -> anyhow::Result<Running> {
        let (publish, subscribe) = (self.door(&self.listen)?, self.door(&self.broadcast)?);
        let (pids, session_pids) = self.processes(&publish, &subscribe)?;
        let target = Target {
            name: Contestant::Fanfare.name(),
            dialect: Dialect::Fanfare,
            publish,
            subscribe,
            authorization: self.caller.authorization(),
            pids,
            session_pids,
        };
        Ok(Running::found(target))
    }

    /// The gateway's processes, and those of them that hold the sessions. None where they are not
    /// known: those of a proxy in front of it, or only half of them, would be a false account.
    fn processes(&self, publish: &Door, subscribe: &Door) -> anyhow::Result<(Vec<u32>, Vec<u32>)> {
        if !self.pid.is_empty() {
            let unknown = self.pid.iter().find(|pid| name_of(**pid).is_none());
            if let Some(pid) = unknown {
                anyhow::bail!("--pid {pid}: there is no such process");
            }
            return Ok((self.pid.clone(), self.pid.clone()));
        }
        let found = |door: &Door| -> Vec<u32> {
            listeners(door.address).into_iter().filter(|pid| is_gateway(*pid)).collect()
        };
        let (mut pids, session_pids) = (found(publish), found(subscribe));
        if pids.is_empty() || session_pids.is_empty() {
            return Ok((Vec::new(), Vec::new()));
        }
        pids.extend(&session_pids);
        pids.sort_unstable();
        pids.dedup();
        Ok((pids, session_pids))
    }

    fn door(&self, endpoint: &Endpoint) -> anyhow::Result<Door> {
        let tls = if endpoint.is_tls() {
            let config = Endpoint::tls_config(&self.caller.roots()?);
            Some(Tls { config: Arc::new(config), name: endpoint.server_name()? })
        } else {
            None
        };
        let address = endpoint.address().with_context(|| endpoint.authority())?;
        let path = endpoint.path().trim_end_matches('/').to_owned();
        Ok(Door { address, authority: endpoint.authority(), path, tls })
    }
}

impl FromStr for Setting {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, value) = text.split_once('=').unwrap_or_default();
        if name.is_empty() {
            return Err("write NAME=VALUE, such as DURABILITY=memory".to_owned());
        }
        Ok(Self { name: name.to_owned(), value: value.to_owned() })
    }
}

/// With fewer, one disturbance would be the median.
const ROUNDS_MIN: u16 = 3;
