//! One connection of the limit.

use std::io::{self, Read as _, Write as _};

use mio::net::TcpStream;

use crate::limit::stream::Stream;

/// A connection.
#[derive(Debug)]
pub(crate) struct Connection {
    socket: TcpStream,
    pub(crate) role: Role,
    /// What came of a request that is not whole yet.
    pub(crate) cut: Vec<u8>,
    /// Up to where a subscriber has its stream.
    pub(crate) at: u64,
    /// Its socket is full; we are told when it is not.
    pub(crate) is_blocked: bool,
}

/// What a connection is for, and how far it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    Publisher,
    Upgrading,
    Upgraded,
    Subscribed { stream: usize },
}

impl Connection {
    pub(crate) fn new(socket: TcpStream, role: Role) -> Self {
        Self { socket, role, cut: Vec::new(), at: 0, is_blocked: false }
    }

    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.socket.read(buffer)
    }

    /// Says something short. Answers are taken: our client never has more on its way than fits.
    pub(crate) fn say(&mut self, bytes: &[u8]) {
        if !bytes.is_empty() {
            // One who is gone is noticed by the next read.
            let _ = self.socket.write(bytes);
        }
    }

    /// Writes what waits in the stream, as far as there is room.
    #[inline]
    pub(crate) fn write_from(&mut self, stream: &Stream) {
        let waiting = stream.from(self.at);
        if waiting.is_empty() {
            return;
        }
        match self.socket.write(waiting) {
            Ok(count) => {
                self.at += count as u64;
                self.is_blocked = count < waiting.len();
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.is_blocked = true,
            // One who is gone is noticed by the next read, and waits for nothing.
            Err(_) => self.at = stream.end(),
        }
    }
}
