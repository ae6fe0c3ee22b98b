//! Where a door is: a URL, and the way to it.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs as _};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::{CertificateDer, InvalidDnsNameError, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use tungstenite::http::Uri;

/// How long one address of the host may take to answer.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A door's URL, read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    is_tls: bool,
    /// As in the URL: with brackets around an IPv6 address.
    host: String,
    port: u16,
    /// With the query, if there is one.
    path: String,
}

impl Endpoint {
    /// The URL for HTTP; `path` stands behind the path of the endpoint, if it is not its end yet.
    pub fn http_url(&self, path: &str) -> String {
        let base = self.path.trim_end_matches('/');
        let base = base.strip_suffix(path).unwrap_or(base);
        format!("{}{base}{path}", self.origin("http"))
    }

    /// The URL for WebSocket.
    pub fn ws_url(&self) -> String {
        format!("{}{}", self.origin("ws"), self.path)
    }

    /// Whether the door speaks TLS.
    pub fn is_tls(&self) -> bool {
        self.is_tls
    }

    /// Host and port, as in a `Host` header.
    pub fn authority(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }

    /// The path, with the query, if there is one.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The first address of the host.
    ///
    /// # Errors
    ///
    /// The host has none, or nobody knows it.
    pub fn address(&self) -> io::Result<SocketAddr> {
        let none = || io::Error::new(io::ErrorKind::NotFound, "the host has no address");
        (self.bare_host(), self.port).to_socket_addrs()?.next().ok_or_else(none)
    }

    /// Who has to be there, under TLS.
    ///
    /// # Errors
    ///
    /// No certificate could name this host.
    pub fn server_name(&self) -> Result<ServerName<'static>, InvalidDnsNameError> {
        ServerName::try_from(self.bare_host().to_owned())
    }

    /// How a client trusts those whose certificates end in one of these.
    pub fn tls_config(roots: &[CertificateDer<'static>]) -> ClientConfig {
        let mut store = RootCertStore::empty();
        store.add_parsable_certificates(roots.iter().cloned());
        ClientConfig::builder().with_root_certificates(store).with_no_client_auth()
    }

    fn origin(&self, scheme: &str) -> String {
        let secure = if self.is_tls { "s" } else { "" };
        format!("{scheme}{secure}://{}:{}", self.host, self.port)
    }

    /// Connects, and where the URL says so, checks who is there.
    ///
    /// # Errors
    ///
    /// [`ConnectError`] tells what may pass from what will not.
    pub fn connect(
        &self,
        roots: &[CertificateDer<'static>],
        patience: Duration,
    ) -> Result<Stream, ConnectError> {
        let mut stream = self.dial()?;
        stream.set_read_timeout(Some(patience))?;
        stream.set_write_timeout(Some(patience))?;
        stream.set_nodelay(true)?;
        if !self.is_tls {
            return Ok(Stream::Plain(stream));
        }
        let config = Arc::new(Self::tls_config(roots));
        let mut connection = ClientConnection::new(config, self.server_name()?)?;
        while connection.is_handshaking() {
            connection.complete_io(&mut stream)?;
        }
        Ok(Stream::Tls(Box::new(StreamOwned::new(connection, stream))))
    }

    fn dial(&self) -> io::Result<TcpStream> {
        let mut fault = io::Error::new(io::ErrorKind::NotFound, "the host has no address");
        for address in (self.bare_host(), self.port).to_socket_addrs()? {
            match TcpStream::connect_timeout(&address, CONNECT_TIMEOUT) {
                Ok(stream) => return Ok(stream),
                Err(error) => fault = error,
            }
        }
        Err(fault)
    }

    fn bare_host(&self) -> &str {
        self.host.trim_start_matches('[').trim_end_matches(']')
    }
}

impl FromStr for Endpoint {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Self, EndpointError> {
        let uri: Uri = text.parse().map_err(|_| EndpointError::NotAUrl)?;
        let is_tls = match uri.scheme_str() {
            Some("http" | "ws") => false,
            Some("https" | "wss") => true,
            _ => return Err(EndpointError::NotAUrl),
        };
        let authority = uri.authority().ok_or(EndpointError::NotAUrl)?;
        if authority.as_str().contains('@') {
            return Err(EndpointError::Credentials);
        }
        Ok(Self {
            is_tls,
            host: authority.host().to_owned(),
            port: authority.port_u16().unwrap_or(if is_tls { 443 } else { 80 }),
            path: uri.path_and_query().map_or("/", |path| path.as_str()).to_owned(),
        })
    }
}

/// A connection to a door.
#[derive(Debug)]
pub enum Stream {
    /// As it is.
    Plain(TcpStream),
    /// Under TLS.
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        uninterrupted(|| match self {
            Self::Plain(stream) => stream.read(buffer),
            Self::Tls(stream) => stream.read(buffer),
        })
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        uninterrupted(|| match self {
            Self::Plain(stream) => stream.write(bytes),
            Self::Tls(stream) => stream.write(bytes),
        })
    }

    fn flush(&mut self) -> io::Result<()> {
        uninterrupted(|| match self {
            Self::Plain(stream) => stream.flush(),
            Self::Tls(stream) => stream.flush(),
        })
    }
}

/// signal(7): a wait on a socket with a time limit ends with an error where the process was stopped
/// and goes on, as by Ctrl-Z and `fg`. Nothing is wrong with the connection then.
fn uninterrupted<T>(mut step: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match step() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            done => return done,
        }
    }
}

/// Why text is no endpoint. Never holds the text: people put passwords into URLs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EndpointError {
    /// It is no URL of ours.
    #[error("write a URL such as http://127.0.0.1:8080 or wss://events.example")]
    NotAUrl,
    /// It holds a user or a password.
    #[error("a token does not belong in a URL; set FANFARE_TOKEN")]
    Credentials,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Nobody answers; somebody may, later.
    #[error("{0}")]
    Unreachable(io::Error),
    /// Who answers is not who they should be, or speaks no TLS.
    #[error("{0}")]
    Untrusted(String),
}

impl From<io::Error> for ConnectError {
    fn from(error: io::Error) -> Self {
        // rustls hands its own errors through the stream as invalid data.
        match error.kind() {
            io::ErrorKind::InvalidData => Self::Untrusted(explain(&error.to_string())),
            _ => Self::Unreachable(error),
        }
    }
}

impl From<rustls::Error> for ConnectError {
    fn from(error: rustls::Error) -> Self {
        Self::Untrusted(explain(&error.to_string()))
    }
}

impl From<InvalidDnsNameError> for ConnectError {
    fn from(error: InvalidDnsNameError) -> Self {
        Self::Untrusted(error.to_string())
    }
}

fn explain(fault: &str) -> String {
    let hint = if fault.contains("CaUsedAsEndEntity") {
        ": make it with basicConstraints=CA:FALSE, as certs/README.md shows"
    } else if fault.contains("UnknownIssuer") {
        ": name its certificate with --ca-file or FANFARE_CA_FILE"
    } else {
        ""
    };
    format!("{fault}{hint}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_url_serves_both_protocols() {
        let table = [
            ("http://a:1", "http://a:1/event", "ws://a:1/"),
            ("ws://a:1/", "http://a:1/event", "ws://a:1/"),
            ("https://a", "https://a:443/event", "wss://a:443/"),
            ("wss://[::1]:9/x", "https://[::1]:9/x/event", "wss://[::1]:9/x"),
            ("http://a:1/event", "http://a:1/event", "ws://a:1/event"),
        ];
        for (text, http, ws) in table {
            let endpoint: Endpoint = text.parse().unwrap();
            assert_eq!(endpoint.http_url("/event"), http, "{text}");
            assert_eq!(endpoint.ws_url(), ws, "{text}");
        }
    }

    #[test]
    fn what_is_no_url_of_ours_is_refused() {
        for (text, expected) in [
            ("", EndpointError::NotAUrl),
            ("localhost:8080", EndpointError::NotAUrl),
            ("ftp://a", EndpointError::NotAUrl),
            ("http://", EndpointError::NotAUrl),
            ("http://user:secret@a", EndpointError::Credentials),
        ] {
            assert_eq!(text.parse::<Endpoint>(), Err(expected), "{text}");
        }
    }
}
