//! What a client and we say to each other on a WebSocket: the part of a protocol that is its own.
//!
//! Implemented by ways out, carried out by the task of the connection.

use std::rc::Rc;
use std::task::{Context, Poll};

use jiff::Timestamp;
use shared::tokens::Tokens;

use crate::disconnect::Disconnect;
use crate::hub::SessionId;
use crate::outbox::Outbox;
use crate::worker::Worker;

/// One client's conversation.
///
/// Nothing in here hangs up or writes to the client: it says what is to be done, and fills the outbox
/// with events. It is never called while it runs.
pub trait Dialect: std::fmt::Debug {
    /// Takes a text message.
    fn receive(&mut self, text: &str) -> Reaction;

    /// Takes a message that is not even text.
    fn receive_binary(&mut self) -> Reaction;

    /// Goes on with what takes time, such as reading the log. Asked again until it is pending; what
    /// it waits for wakes the task.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Reaction>;

    /// Whether there is something to do though nothing has happened: the client has made room.
    fn can_go_on(&self) -> bool;

    /// Whether what the client says next has to wait.
    fn is_busy(&self) -> bool;

    /// Whether the client has shown a credential.
    fn is_settled(&self) -> bool;

    /// Judges the session by a table of tokens, at a time.
    fn judge(&mut self, tokens: &Tokens, now: Timestamp) -> Reaction;

    /// The session ends: nothing more is to be offered to it.
    fn leave(&mut self);
}

/// What a conversation has to do with.
#[derive(Debug, Clone)]
pub struct Seat {
    /// The connection's place in the hub.
    pub id: SessionId,
    /// The worker that it belongs to.
    pub worker: Rc<Worker>,
    /// Where what is for the client waits.
    pub outbox: Rc<Outbox>,
}

/// What is to be done.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Reaction {
    /// What the client hears, each a text message.
    pub answers: Vec<String>,
    /// Why the connection ends after that.
    pub disconnect: Option<Disconnect>,
    /// A credential was refused.
    pub is_unauthenticated: bool,
    /// The code of what was refused.
    pub refusal: Option<&'static str>,
}

impl Reaction {
    /// To say one thing.
    pub fn say(answer: String) -> Self {
        Self { answers: vec![answer], ..Self::default() }
    }

    /// To hang up.
    pub fn hang_up(disconnect: Disconnect) -> Self {
        Self { disconnect: Some(disconnect), ..Self::default() }
    }
}

/// Makes a conversation once there is a connection.
pub type Begin = Box<dyn FnOnce(Seat) -> Box<dyn Dialect>>;
