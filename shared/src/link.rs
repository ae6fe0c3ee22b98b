//! The road from `listen` to `broadcast`: what travels on it, and what can go wrong.
//!
//! `listen` holds a [`sender::Sender`] on each worker thread; `broadcast` has the other end. A
//! [`Receipt`] is broadcast's word that it has the event; nothing less makes a 200.

use std::fmt;
use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::str::FromStr;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::sync::oneshot;

use crate::event::Event;
use crate::link::frame::{Account, Terms};

mod asker;
pub mod frame;
mod questions;
mod queue;
pub mod sender;
pub mod unix;

/// HARDENING: unacknowledged events on one connection.
pub const IN_FLIGHT_EVENTS_MAX: usize = 1024;
/// HARDENING: unacknowledged bytes on one connection; an empty link takes any one event.
pub const IN_FLIGHT_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Unanswered questions on one connection, beside pings.
pub const UNANSWERED_MAX: usize = 1024;
/// What an event needs on the link beside the body it came in.
pub const FRAME_BYTES_BESIDE_BODY: usize = 64 * 1024;
/// A side that hears nothing for so long asks whether the other is there.
pub const ASK_AFTER: Duration = Duration::from_secs(2);
/// A side that hears nothing for so long, though it asked, gives the connection up.
pub const SILENCE_MAX: Duration = Duration::from_secs(10);

/// Those who wait on one worker, for events and for questions each; beyond it one is refused at
/// once.
const WAITING_MAX: usize = 10_000;

/// Linux: `sun_path` holds 108 bytes with the final NUL.
const SOCKET_PATH_BYTES_MAX: usize = 107;

/// What events travel on to the log: the link, or where the log is at home, a shorter one.
pub trait Road {
    /// Sends an event, behind all that were sent before.
    ///
    /// # Errors
    ///
    /// [`LinkError::Unreachable`] if there is no room.
    fn send(&self, event: Event, terms: Terms) -> Result<Underway, LinkError>;
}

/// An event on its way: ends with its receipt, or with an error that says whether it may have been
/// taken.
#[derive(Debug)]
pub struct Underway {
    answer: oneshot::Receiver<Result<Receipt, LinkError>>,
}

impl Underway {
    /// What waits for this answer.
    pub fn new(answer: oneshot::Receiver<Result<Receipt, LinkError>>) -> Self {
        Self { answer }
    }
}

impl Future for Underway {
    type Output = Result<Receipt, LinkError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let answer = std::task::ready!(Pin::new(&mut self.answer).poll(cx));
        Poll::Ready(answer.unwrap_or(Err(LinkError::Undecided)))
    }
}

/// Broadcast has the event: it has its place in the order, and is in every worker's queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt {
    /// What became of it, where the publisher asked for that.
    pub account: Option<Account>,
}

/// Why there is no receipt, or no answer to a question.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// Nothing was sent that has an effect: broadcast could not be reached in time, or has no room.
    #[error("broadcast cannot be reached")]
    Unreachable,
    /// The event was sent, and no receipt came, or not the account that was asked for: it may or
    /// may not have been taken.
    #[error("broadcast did not answer for the event")]
    Undecided,
    /// The event is larger than the other end takes.
    #[error("the event is too large for broadcast")]
    TooLarge,
}

/// Where listen and broadcast meet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkAddress {
    /// A Unix socket.
    Unix(PathBuf),
}

impl FromStr for LinkAddress {
    type Err = LinkAddressError;

    fn from_str(text: &str) -> Result<Self, LinkAddressError> {
        let path = text.strip_prefix("unix:").ok_or(LinkAddressError::UnknownKind)?;
        match path.len() {
            0 => Err(LinkAddressError::UnknownKind),
            1..=SOCKET_PATH_BYTES_MAX => Ok(Self::Unix(path.into())),
            _ => Err(LinkAddressError::PathTooLong),
        }
    }
}

impl fmt::Display for LinkAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// Why text is no address of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LinkAddressError {
    /// It is not of a kind that we have.
    #[error("write unix: and the path of a socket")]
    UnknownKind,
    /// The system takes no longer path for a socket.
    #[error("the path of a Unix socket has at most {SOCKET_PATH_BYTES_MAX} bytes")]
    PathTooLong,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_names_its_kind_and_fits_the_system() {
        assert_eq!("unix:./a.sock".parse(), Ok(LinkAddress::Unix("./a.sock".into())));
        for bad in ["", "unix:", "./a.sock", "nats:host"] {
            assert_eq!(bad.parse::<LinkAddress>(), Err(LinkAddressError::UnknownKind), "{bad}");
        }
        let long = format!("unix:{}", "x".repeat(108));
        assert_eq!(long.parse::<LinkAddress>(), Err(LinkAddressError::PathTooLong));
        assert!(format!("unix:{}", "x".repeat(107)).parse::<LinkAddress>().is_ok());
    }
}
