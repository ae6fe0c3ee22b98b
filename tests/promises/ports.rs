//! A port of a test's own, for a process that is to come back at its address.
//!
//! It lies below what the system gives out by itself, so that nobody gets it while the process is
//! away; and its number is held, for as long as this lives, against all other tests that choose.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr as UnixAddr, UnixListener};

/// The address, and what keeps others from it.
pub struct Port {
    pub address: SocketAddr,
    _held: UnixListener,
}

impl Port {
    pub fn choose() -> Self {
        let begin = std::process::id() as u16 % COUNT;
        let mut numbers = (0..COUNT).map(|step| FIRST + (begin + step) % COUNT);
        numbers.find_map(Self::hold).expect("a free port")
    }

    fn hold(number: u16) -> Option<Self> {
        // A name without a file: it is free again when its holder is gone, however it went.
        let name = UnixAddr::from_abstract_name(format!("fanfare-test-port-{number}")).unwrap();
        let held = UnixListener::bind_addr(&name).ok()?;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, number));
        TcpListener::bind(address).ok()?;
        Some(Self { address, _held: held })
    }
}

/// Linux: the system gives out ports from 32768 upwards (`ip_local_port_range`).
const FIRST: u16 = 16_000;
const COUNT: u16 = 16_000;
