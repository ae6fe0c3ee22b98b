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
    place: Place,
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

    /// How many channels it has.
    fn channels(&self) -> usize {
        self.channels.load(Ordering::Relaxed)
    }

    /// Whether it may have another one: the broker may grant fewer than we would take.
    fn has_room(&self) -> bool {
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
    async fn open(self: &Arc<Self>) -> Result<Lane, lapin::Error> {
        // Counted first: of many that come at once, not all see the same connection as the emptiest.
        let place = Place::on(self);
        let channel = patient(self.connection.create_channel()).await?;
        Ok(Lane { channel, place })
    }
}

/// Opens a channel on the connection that has fewest, of those that are there; waits while there is
/// none, or all that are there are full and another may come.
///
/// # Errors
///
/// [`Full`]: all are there, and full.
pub async fn lane(nodes: &[Node]) -> Result<Lane, Full> {
    loop {
        let mut lives: Vec<Arc<Live>> = nodes.iter().filter_map(Node::live).collect();
        let are_all_there = lives.len() == nodes.len();
        lives.retain(|live| live.has_room());
        lives.sort_by_key(|live| live.channels());
        let mut is_full = are_all_there;
        for live in &lives {
            match live.open().await {
                Ok(lane) => return Ok(lane),
                // Others were quicker, it has not heard yet of one that was left, or it was lost: the
                // next look tells.
                Err(_) => is_full = false,
            }
        }
        if is_full {
            return Err(Full);
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// No connection may have another channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("channel id space exhausted")]
pub struct Full;

impl Lane {
    /// Since when its connection is there.
    pub fn begun(&self) -> Instant {
        self.place.0.begun
    }
}

/// A channel in the count of its connection, until it is dropped.
#[derive(Debug)]
struct Place(Arc<Live>);

impl Place {
    fn on(live: &Arc<Live>) -> Self {
        live.channels.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(live))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.channels.fetch_sub(1, Ordering::Relaxed);
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
