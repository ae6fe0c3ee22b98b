//! An address that is kept for a child process while `fanfare up` or `fanfare bench` runs.
//!
//! The socket is bound and never listens, so that the child, which binds with `SO_REUSEADDR` as we
//! do, may listen there, and the kernel gives the port to nobody else. That way port 0 is chosen
//! once and outlives the child, and an address that is taken is known before anything is started.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use rustix::net::{
    AddressFamily, SocketFlags, SocketType, bind, getsockname, socket_with, sockopt,
};

/// An address that is ours as long as this lives.
#[derive(Debug)]
pub struct Reservation {
    /// The address, with the port that was chosen.
    pub address: SocketAddr,
    _socket: OwnedFd,
}

impl Reservation {
    /// Takes the address; the system chooses a port in the place of 0.
    ///
    /// # Errors
    ///
    /// Somebody listens there, or the address is not one of this machine's.
    pub fn take(address: SocketAddr) -> io::Result<Self> {
        let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let socket = socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        sockopt::set_socket_reuseaddr(&socket, true)?;
        bind(&socket, &address)?;
        let address = SocketAddr::try_from(getsockname(&socket)?)?;
        Ok(Self { address, _socket: socket })
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn a_reserved_port_can_be_listened_at_again_and_again() {
        let reservation = Reservation::take(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        for _ in 0..2 {
            assert!(TcpListener::bind(reservation.address).is_ok());
        }
    }

    #[test]
    fn an_address_where_somebody_listens_cannot_be_reserved() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        assert!(Reservation::take(listener.local_addr().unwrap()).is_err());
    }
}
