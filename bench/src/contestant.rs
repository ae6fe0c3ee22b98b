//! Who is measured, and how each of them is started.

use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::process::Command;
use std::time::Duration;

use anyhow::Context as _;
use gateway::reservation::Reservation;
use tempfile::TempDir;

use crate::child::{Child, ourselves};
use crate::dialect::Dialect;
use crate::machine::worker_count;
use crate::setup::Setup;
use crate::socket::Door;
use crate::target::Target;
use crate::{peers, spawned};

/// Who is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Contestant {
    /// The gateway.
    Fanfare,
    /// The smallest server for the same wire.
    Limit,
    /// A handler that only answers.
    Bare,
    /// nginx with nchan.
    Nchan,
    /// nats-server.
    Nats,
}

/// A server that runs, and what has to live as long. Fields are dropped in this order.
#[derive(Debug)]
pub(crate) struct Running {
    /// The server.
    pub(crate) target: Target,
    children: Vec<Child>,
    _reservations: Vec<Reservation>,
    _folder: Option<TempDir>,
}

impl Running {
    /// A server that was here before us, and stays.
    pub(crate) fn found(target: Target) -> Self {
        Self { target, children: Vec::new(), _reservations: Vec::new(), _folder: None }
    }

    /// Fails if one of its processes has ended, which is the reason of whatever else went wrong.
    pub(crate) fn is_alive(&mut self) -> anyhow::Result<()> {
        self.children.iter_mut().try_for_each(Child::is_alive)
    }

    /// A server of our own. The children are stopped one after the other, in this order.
    pub(crate) fn started(
        target: Target,
        children: Vec<Child>,
        reservations: Vec<Reservation>,
        folder: TempDir,
    ) -> Self {
        Self { target, children, _reservations: reservations, _folder: Some(folder) }
    }
}

impl Contestant {
    /// Its name in the report.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Fanfare => "fanfare",
            Self::Limit => "limit",
            Self::Bare => "bare",
            Self::Nchan => "nchan",
            Self::Nats => "nats",
        }
    }

    /// Its workers, where the benchmark has a say in that.
    pub(crate) fn workers(self) -> Option<usize> {
        match self {
            Self::Limit => Some(1),
            Self::Bare | Self::Nchan => Some(worker_count()),
            Self::Fanfare | Self::Nats => None,
        }
    }

    /// Starts it, or finds it where it runs already, and waits until it can serve.
    pub(crate) fn start(self, setup: &Setup) -> anyhow::Result<Running> {
        match self {
            Self::Fanfare if setup.spawn => spawned::start(setup),
            Self::Fanfare => setup.running_gateway(),
            Self::Limit => start_own("limit-server", self),
            Self::Bare => start_own("bare-server", self),
            Self::Nchan => peers::nchan(),
            Self::Nats => peers::nats(),
        }
    }
}

/// Starts a server that is hidden in this executable.
fn start_own(subcommand: &str, contestant: Contestant) -> anyhow::Result<Running> {
    let folder = folder()?;
    let [publish, subscribe] = [reserve()?, reserve()?];
    let mut doors = vec![publish.address];
    if contestant == Contestant::Limit {
        doors.push(subscribe.address);
    }
    let mut command = Command::new(ourselves()?);
    command.args(["bench", subcommand]).args(doors.iter().map(SocketAddr::to_string));
    let mut child = Child::start(contestant.name(), &mut command, folder.path())?;
    child.wait_until(|| doors.iter().all(|door| answers(*door)))?;
    let target = Target {
        name: contestant.name(),
        dialect: Dialect::Fanfare,
        publish: plain_door(publish.address),
        subscribe: plain_door(subscribe.address),
        authorization: Some(format!("Basic {FILLER}")),
        pids: vec![child.pid()],
        session_pids: vec![child.pid()],
    };
    Ok(Running::started(target, vec![child], vec![publish, subscribe], folder))
}

/// Nobody looks at it; it is as long as a token, so that requests are.
const FILLER: &str = "0123456789abcdef0123456789abcdef";

/// A port of our own on this machine.
pub(crate) fn reserve() -> anyhow::Result<Reservation> {
    Reservation::take((Ipv4Addr::LOCALHOST, 0).into()).context("no port is free")
}

/// A folder that is gone when the benchmark is.
pub(crate) fn folder() -> anyhow::Result<TempDir> {
    tempfile::Builder::new().prefix("fanfare-bench-").tempdir().context("no temporary folder")
}

/// A door without TLS, at the root.
pub(crate) fn plain_door(address: SocketAddr) -> Door {
    Door { address, authority: address.to_string(), path: String::new(), tls: None }
}

/// Whether somebody takes connections there.
pub(crate) fn answers(address: SocketAddr) -> bool {
    TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_ok()
}
