//! lapin over a socket of our own: with our TLS, and a time-out that leaves nothing behind.
//!
//! lapin's own way to connect cannot be given up, and without a second library of cryptography its
//! TLS is none: it would send the password in the clear.

use std::io;
use std::net::{Shutdown, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_rs::traits::Reactor;
use async_rs::util::RuntimeParts;
use async_rs::{Runtime, Tokio};
use futures_util::Stream;
use lapin::tcp::AsyncTcpStream;
use lapin::uri::AMQPScheme;
use lapin::{Connection, ConnectionProperties};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsConnector;
use tokio_util::compat::{Compat, TokioAsyncReadCompatExt as _};

use crate::amqp::frames::Frames;
use crate::amqp::url::AmqpUrl;

/// A socket, or TLS over one.
trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}
type Wire = Compat<Box<dyn Duplex>>;

/// Tokio's clock, with streams of our own.
#[derive(Clone, Debug)]
struct Clock(Tokio);

impl Reactor for Clock {
    type TcpStream = Wire;
    type Sleep = tokio::time::Sleep;

    // lapin never asks for it: it is given a stream.
    fn register<H: io::Read + io::Write + Send + 'static>(
        &self,
        _: H,
    ) -> io::Result<impl futures_io::AsyncRead + futures_io::AsyncWrite + Send + Unpin + 'static>
    {
        Err::<Wire, _>(io::ErrorKind::Unsupported.into())
    }

    fn sleep(&self, duration: Duration) -> Self::Sleep {
        self.0.sleep(duration)
    }

    fn interval(
        &self,
        duration: Duration,
    ) -> impl Stream<Item = std::time::Instant> + Send + 'static {
        self.0.interval(duration)
    }

    // Nor for this.
    fn tcp_connect_addr(
        &self,
        _: SocketAddr,
    ) -> impl Future<Output = io::Result<Self::TcpStream>> + Send + 'static {
        std::future::ready(Err(io::ErrorKind::Unsupported.into()))
    }
}

/// Closes the socket under lapin when it is dropped, whatever lapin's thread is doing.
#[derive(Debug)]
pub struct Cut(socket2::Socket);

impl Drop for Cut {
    fn drop(&mut self) {
        // A socket that is closed already is as good.
        let _ = self.0.shutdown(Shutdown::Both);
    }
}

/// Connects to a broker, and says who we are.
///
/// # Errors
///
/// It cannot be reached, does not know us, or takes longer than that.
pub async fn open(
    url: &AmqpUrl,
    tls: &Arc<ClientConfig>,
    within: Duration,
) -> Result<(Connection, Cut), lapin::Error> {
    let timed_out = |_| lapin::Error::from(io::Error::from(io::ErrorKind::TimedOut));
    let deadline = Instant::now() + within;
    let (stream, cut) = timeout_at(deadline, dial(url, tls)).await.map_err(timed_out)??;
    let stream = Mutex::new(Some(stream));
    let runtime = Runtime::new(RuntimeParts::new(Tokio::current(), Clock(Tokio::current())));
    let name = concat!("fanfare ", env!("CARGO_PKG_VERSION"));
    let properties = ConnectionProperties::default().with_connection_name(name.into());
    let greeted = Connection::connector(
        url.uri().clone(),
        runtime,
        async move |_, _| {
            // It asks once: to connect again is our business.
            let taken = stream.lock().unwrap_or_else(PoisonError::into_inner).take();
            let stream = taken.ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected))?;
            Ok(AsyncTcpStream::Plain(stream.compat()))
        },
        properties,
    );
    let connection = timeout_at(deadline, greeted).await.map_err(timed_out)??;
    Ok((connection, cut))
}

async fn dial(url: &AmqpUrl, tls: &Arc<ClientConfig>) -> io::Result<(Box<dyn Duplex>, Cut)> {
    let authority = &url.uri().authority;
    let stream = TcpStream::connect((authority.host.as_str(), authority.port)).await?;
    stream.set_nodelay(true)?;
    let cut = Cut(socket2::SockRef::from(&stream).try_clone()?);
    Ok(match url.uri().scheme {
        AMQPScheme::AMQP => (Box::new(Frames::new(stream)), cut),
        AMQPScheme::AMQPS => {
            let name = ServerName::try_from(authority.host.clone()).map_err(io::Error::other)?;
            let stream = TlsConnector::from(Arc::clone(tls)).connect(name, stream).await?;
            (Box::new(Frames::new(stream)), cut)
        }
    })
}
