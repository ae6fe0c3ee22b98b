//! Connections to RabbitMQ (AMQP 0-9-1): made, watched, and made again.
//!
//! Used by both processes, each for its own purpose. lapin speaks the protocol; that a connection
//! comes back, and how long one waits for it, is decided here.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use lapin::{Channel, Connection};
use rustls::ClientConfig;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use crate::amqp::url::AmqpUrl;
use crate::amqp::wire::Cut;

mod frames;
pub mod settings;
pub mod url;
pub mod wire;

/// A frame that is larger is not looked at. RabbitMQ's are 128 KiB at most, unless it is told otherwise.
const FRAME_BYTES_MAX: usize = 1024 * 1024;
/// RabbitMQ lets a connection have so many channels.
const CHANNELS_MAX: usize = 2047;
/// How long a connection, or an answer on one, may take.
pub const PATIENCE: Duration = Duration::from_secs(5);
/// How often one looks whether a connection is still there.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How long one waits before the next attempt: the first time, and at most.
const BACKOFF_MIN: Duration = Duration::from_millis(200);
const BACKOFF_MAX: Duration = Duration::from_secs(5);
/// A connection that has lived so long had no part in the trouble before.
const SETTLED: Duration = Duration::from_secs(10);

/// A connection that is there.
#[derive(Debug)]
pub struct Live {
    connection: Connection,
    begun: Instant,
    channels: AtomicUsize,
    #[expect(dead_code, reason = "ends the connection when it is dropped")]
    cut: Cut,
}

/// A channel of a connection, until it is dropped.
#[derive(Debug)]
pub struct Lane {
    /// The channel.
    pub channel: Channel,
    /// The connection.
    pub live: Arc<Live>,
}

/// A connection that is made again whenever it is lost. It is given up with the last clone.
#[derive(Debug, Clone)]
pub struct Node {
    live: watch::Receiver<Option<Arc<Live>>>,
}

impl Node {
    /// Connects from now on, in a task of this thread.
    pub fn follow(url: AmqpUrl, tls: Arc<ClientConfig>) -> Self {
        let (told, live) = watch::channel(None);
        tokio::task::spawn_local(keep(url, tls, told));
        Self { live }
    }

    /// The connection, if it is there.
    pub fn live(&self) -> Option<Arc<Live>> {
        self.live.borrow().as_ref().filter(|live| live.is_up()).cloned()
    }

    /// Waits until something has changed.
    pub async fn change(&mut self) {
        if self.live.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// Keeps one connection until nobody wants it any more.
async fn keep(url: AmqpUrl, tls: Arc<ClientConfig>, told: watch::Sender<Option<Arc<Live>>>) {
    let mut backoff = BACKOFF_MIN;
    let mut is_known = false;
    while !told.is_closed() {
        match wire::open(&url, &tls, PATIENCE).await {
            Ok((connection, cut)) => {
                log::info!(broker:% = url; "connected to the broker");
                let begun = Instant::now();
                let channels = AtomicUsize::new(0);
                let live = Arc::new(Live { connection, begun, channels, cut });
                told.send_replace(Some(Arc::clone(&live)));
                while live.is_up() && !told.is_closed() {
                    tokio::time::sleep(LOOK_EVERY).await;
                }
                told.send_replace(None);
                if told.is_closed() {
                    return;
                }
                log::warn!(broker:% = url; "the connection to the broker was lost");
                is_known = true;
                if begun.elapsed() > SETTLED {
                    backoff = BACKOFF_MIN;
                }
            }
            Err(error) => {
                // Once: it will be so for a while.
                let level = if is_known { log::Level::Debug } else { log::Level::Warn };
                log::log!(level, broker:% = url; "the broker cannot be reached: {error}");
                is_known = true;
            }
        }
        // Those who lost it together do not all come back together.
        tokio::time::sleep(backoff.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
        backoff = (backoff * 2).min(BACKOFF_MAX);
    }
}

impl Live {
    /// Whether it is still there.
    pub fn is_up(&self) -> bool {
        self.connection.status().connected()
    }

    /// Since when it is there.
    pub fn begun(&self) -> Instant {
        self.begun
    }

    /// How many channels it has.
    pub fn channels(&self) -> usize {
        self.channels.load(Ordering::Relaxed)
    }

    /// Whether it may have another one: the broker may grant fewer than we would take.
    pub fn has_room(&self) -> bool {
        let granted = match usize::from(self.connection.configuration().channel_max()) {
            // AMQP 0-9-1 §1.8.2.6: no limit of the broker's own.
            0 => CHANNELS_MAX,
            granted => granted.min(CHANNELS_MAX),
        };
        self.channels() < granted
    }

    /// Opens a channel.
    ///
    /// # Errors
    ///
    /// There are too many, or the connection is lost.
    pub async fn open(self: &Arc<Self>) -> Result<Lane, lapin::Error> {
        let opened = patient(self.connection.create_channel()).await?;
        self.channels.fetch_add(1, Ordering::Relaxed);
        Ok(Lane { channel: opened, live: Arc::clone(self) })
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        self.live.channels.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Waits for an answer of the broker, not for ever.
///
/// # Errors
///
/// What the broker says, or that it says nothing.
pub async fn patient<T>(
    answer: impl Future<Output = Result<T, lapin::Error>>,
) -> Result<T, lapin::Error> {
    let silence = |_| lapin::Error::from(std::io::Error::from(std::io::ErrorKind::TimedOut));
    timeout(PATIENCE, answer).await.map_err(silence)?
}

/// What the broker refuses, and why: a code of AMQP and a text. None for what is wrong with the
/// connection.
pub fn refusal(error: &lapin::Error) -> Option<(u16, String)> {
    match error.kind() {
        lapin::ErrorKind::ProtocolError(refusal) if error.is_amqp_soft_error() => {
            Some((refusal.get_id(), refusal.get_message().to_string()))
        }
        _ => None,
    }
}
