//! A client's connection: plain or under TLS, never waiting.

use std::io::{self, Read as _, Write as _};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use mio::net::TcpStream;
use mio::{Interest, Registry, Token};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection};
use socket2::SockRef;

/// Where a door is, and how it is spoken to.
#[derive(Debug, Clone)]
pub(crate) struct Door {
    /// Where it is.
    pub(crate) address: SocketAddr,
    /// For the `Host` header.
    pub(crate) authority: String,
    /// What stands before the paths of the protocol, without a slash at the end.
    pub(crate) path: String,
    /// There where it speaks TLS.
    pub(crate) tls: Option<Tls>,
}

/// How a door is trusted.
#[derive(Debug, Clone)]
pub(crate) struct Tls {
    /// Whom to trust.
    pub(crate) config: Arc<ClientConfig>,
    /// Who has to be there.
    pub(crate) name: ServerName<'static>,
}

/// A connection.
#[derive(Debug)]
pub(crate) struct Socket {
    stream: TcpStream,
    session: Option<Box<ClientConnection>>,
}

impl Socket {
    /// Begins to connect. Readiness of both kinds is told, once each time it comes.
    pub(crate) fn connect(door: &Door, registry: &Registry, token: Token) -> io::Result<Self> {
        let mut stream = TcpStream::connect(door.address)?;
        registry.register(&mut stream, token, Interest::READABLE | Interest::WRITABLE)?;
        let session = match &door.tls {
            None => None,
            Some(tls) => {
                let session = ClientConnection::new(Arc::clone(&tls.config), tls.name.clone());
                let mut session = session.map_err(io::Error::other)?;
                session.set_buffer_limit(None);
                Some(Box::new(session))
            }
        };
        Ok(Self { stream, session })
    }

    /// Whether the connection stands. What went wrong otherwise is an error.
    pub(crate) fn is_connected(&self) -> io::Result<bool> {
        if let Some(error) = self.stream.take_error()? {
            return Err(error);
        }
        match self.stream.peer_addr() {
            Ok(_) => {
                self.stream.set_nodelay(true)?;
                Ok(true)
            }
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Reads what is there; `WouldBlock` where nothing is.
    #[inline]
    pub(crate) fn receive(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(session) = &mut self.session else { return self.stream.read(buffer) };
        loop {
            match session.reader().read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                done => return done,
            }
            let read = session.read_tls(&mut self.stream)?;
            session.process_new_packets().map_err(io::Error::other)?;
            while session.wants_write() {
                session.write_tls(&mut self.stream)?;
            }
            if read == 0 {
                return Ok(0);
            }
        }
    }

    /// Whether a read that did not fill its buffer has left nothing behind.
    #[inline]
    pub(crate) fn is_drained_by_short_reads(&self) -> bool {
        self.session.is_none()
    }

    /// Writes as much as there is room for.
    pub(crate) fn send(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Some(session) = &mut self.session else { return self.stream.write(bytes) };
        let taken = session.writer().write(bytes)?;
        self.write_on()?;
        Ok(taken)
    }

    /// Writes what TLS still holds, as far as there is room.
    pub(crate) fn write_on(&mut self) -> io::Result<()> {
        let Some(session) = &mut self.session else { return Ok(()) };
        while session.wants_write() {
            match session.write_tls(&mut self.stream) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Ends the connection by a reset: no port is kept waiting, so that rounds do not use them up.
    pub(crate) fn reset(self) {
        // It may be gone already.
        let _ = SockRef::from(&self.stream).set_linger(Some(Duration::ZERO));
    }
}
