//! Pipely's channels (WIRE §6): made by their first client, with its password, and gone with their
//! last. Nothing of them is kept, and no event of the log goes through them.
//!
//! Clients are on every worker, so a channel is a list of mailboxes behind one lock: whoever publishes
//! puts the same bytes into each, in the same order for all.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use shared::credentials::Digest;
use shared::json::{push_name, push_string};
use shared::memory::Memory;

use crate::channels::mailbox::{Account, Mailbox, Posted};
use crate::event_stream::push_data;

pub mod mailbox;

/// WIRE §6: so long is the id of a channel, in bytes.
pub const CHANNEL_BYTES: usize = 12;
/// WIRE §6: so long is the id of a client at least, in bytes.
pub const CLIENT_BYTES_MIN: usize = 3;
/// What a name or a password may have, in bytes.
pub const TEXT_BYTES_MAX: usize = 255;
/// WIRE §6: who tells the list of clients.
const SERVER: &str = "server";

/// The bounds of channels.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// The most channels.
    pub channels_max: usize,
    /// The most clients of one.
    pub clients_max: usize,
    /// The most clients of all: they show no token, and must leave room for those who do.
    pub clients_in_all_max: usize,
    /// What may wait for one client.
    pub mailbox_bytes_max: usize,
    /// What may wait for all of them.
    pub waiting_bytes_max: usize,
}

/// All channels.
#[derive(Debug)]
pub struct Channels {
    bounds: Bounds,
    account: Account,
    open: Mutex<Open>,
}

/// The channels that somebody has joined.
#[derive(Debug, Default)]
struct Open {
    channels: HashMap<String, Channel>,
    /// In all of them.
    clients: usize,
}

#[derive(Debug)]
struct Channel {
    password: Option<Digest>,
    /// In the order in which they came.
    clients: Vec<Client>,
}

#[derive(Debug)]
struct Client {
    id: String,
    /// The same whatever its case: no other may have it.
    folded: String,
    mailbox: Arc<Mailbox>,
}

/// Who wants to join a channel.
#[derive(Debug, Clone)]
pub struct Candidate {
    /// The channel.
    pub channel: String,
    /// Who it is.
    pub client: String,
    /// What is shown; nothing is as good as an empty one.
    pub password: String,
}

/// What is published.
#[derive(Debug)]
pub struct Message<'a> {
    /// Its kind.
    pub kind: &'a str,
    /// Who is said to have sent it.
    pub origin: &'a str,
    /// JSON, as it came.
    pub payload: &'a str,
}

/// Why something cannot be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ChannelError {
    /// The channel's id has another length.
    #[error("channel id must be twelve characters long")]
    BadChannel,
    /// The client's id is too short.
    #[error("client id must not be shorter than three characters")]
    BadClient,
    /// The client's id is too long.
    #[error("client id must not be longer than 255 characters")]
    LongClient,
    /// The password is too long.
    #[error("channel password must not be longer than 255 characters")]
    LongPassword,
    /// Another client has that id.
    #[error("client id already used in channel")]
    TakenClient,
    /// The password is another.
    #[error("invalid channel password")]
    WrongPassword,
    /// There is no such channel.
    #[error("channel with given id does not exist")]
    NoChannel,
    /// There are as many channels as there may be.
    #[error("too many channels")]
    TooManyChannels,
    /// There are as many clients as there may be in this one.
    #[error("too many clients in channel")]
    TooManyClients,
    /// There are as many clients as there may be in all of them.
    #[error("too many clients")]
    TooManyClientsInAll,
    /// Too much waits for clients who do not read.
    #[error("no room for messages now")]
    NoRoom,
    /// The message has no kind.
    #[error("invalid event type, must not be shorter than one character")]
    BadType,
    /// Who is said to have sent it has too short a name.
    #[error("origin id must not be shorter than three characters")]
    BadOrigin,
}

/// A client's place in its channel, until it is dropped.
#[derive(Debug)]
pub struct Membership {
    channels: Arc<Channels>,
    channel: String,
    /// What waits for it.
    pub mailbox: Arc<Mailbox>,
}

impl Channels {
    /// No channels yet.
    pub fn new(bounds: Bounds, memory: &Arc<Memory>) -> Arc<Self> {
        let share = Memory::new(bounds.waiting_bytes_max);
        let account = Account { memory: Arc::clone(memory), share };
        Arc::new(Self { bounds, account, open: Mutex::default() })
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many channels there are.
    pub fn count(&self) -> usize {
        self.open().channels.len()
    }

    /// Lets a client into a channel, and makes the channel where there is none. It is told who is
    /// there, and then all are told of it.
    ///
    /// # Errors
    ///
    /// [`ChannelError`] says why it cannot be let in.
    pub fn join(self: &Arc<Self>, candidate: Candidate) -> Result<Membership, ChannelError> {
        let Candidate { channel: id, client, password } = candidate;
        check_channel(&id)?;
        match client.len() {
            ..CLIENT_BYTES_MIN => return Err(ChannelError::BadClient),
            CLIENT_BYTES_MIN..=TEXT_BYTES_MAX => {}
            _ => return Err(ChannelError::LongClient),
        }
        if password.len() > TEXT_BYTES_MAX {
            return Err(ChannelError::LongPassword);
        }
        let mut open = self.open();
        let Open { channels, clients } = &mut *open;
        if !channels.contains_key(&id) && channels.len() >= self.bounds.channels_max {
            return Err(ChannelError::TooManyChannels);
        }
        if *clients >= self.bounds.clients_in_all_max {
            return Err(ChannelError::TooManyClientsInAll);
        }
        let made = || Channel {
            password: (!password.is_empty()).then(|| Digest::of(&password)),
            clients: Vec::new(),
        };
        let channel = channels.entry(id.clone()).or_insert_with(made);
        channel.admit(&password)?;
        let folded = fold(&client);
        if channel.clients.iter().any(|other| other.folded == folded) {
            return Err(ChannelError::TakenClient);
        }
        if channel.clients.len() >= self.bounds.clients_max {
            return Err(ChannelError::TooManyClients);
        }
        let mailbox = Arc::new(Mailbox::new(self.bounds.mailbox_bytes_max));
        let connect = Message { kind: "CONNECT", origin: &client, payload: "null" };
        let connect = connect.written(&id);
        channel.tell_all(&Posted::of(connect.clone(), &self.account));
        let (id_of_client, to_client) = (client, Arc::clone(&mailbox));
        channel.clients.push(Client { id: id_of_client, folded, mailbox: to_client });
        *clients += 1;
        let list = Message { kind: "CLIENT_LIST", origin: SERVER, payload: &channel.list() };
        // Both at once: what is alone always has room, however long the list is.
        mailbox.put(&Posted::of([list.written(&id), connect].concat(), &self.account));
        Ok(Membership { channels: Arc::clone(self), channel: id, mailbox })
    }

    /// Tells a message to all clients of a channel.
    ///
    /// # Errors
    ///
    /// [`ChannelError`] says why not.
    pub fn publish(
        &self,
        id: &str,
        password: &str,
        message: &Message<'_>,
    ) -> Result<(), ChannelError> {
        check_channel(id)?;
        if message.kind.is_empty() {
            return Err(ChannelError::BadType);
        }
        if message.origin.len() < CLIENT_BYTES_MIN {
            return Err(ChannelError::BadOrigin);
        }
        // It is written before anybody has to wait for that.
        let posted = Posted::of(message.written(id), &self.account);
        let open = self.open();
        let channel = open.channels.get(id).ok_or(ChannelError::NoChannel)?;
        channel.admit(password)?;
        if self.account.share.is_exceeded() {
            return Err(ChannelError::NoRoom);
        }
        channel.tell_all(&posted);
        Ok(())
    }

    fn leave(&self, id: &str, mailbox: &Arc<Mailbox>) {
        let mut open = self.open();
        let Open { channels, clients } = &mut *open;
        let Some(channel) = channels.get_mut(id) else { return };
        let is_it = |client: &Client| Arc::ptr_eq(&client.mailbox, mailbox);
        let Some(place) = channel.clients.iter().position(is_it) else { return };
        let client = channel.clients.remove(place);
        *clients -= 1;
        if channel.clients.is_empty() {
            channels.remove(id);
            return;
        }
        let disconnect = Message { kind: "DISCONNECT", origin: &client.id, payload: "null" };
        channel.tell_all(&Posted::of(disconnect.written(id), &self.account));
    }
}

fn check_channel(id: &str) -> Result<(), ChannelError> {
    if id.len() == CHANNEL_BYTES { Ok(()) } else { Err(ChannelError::BadChannel) }
}

/// A name without its case. Letter by letter, and up as well as down: some letters have two forms in
/// lower case, such as the Greek sigma, and which one it is may depend on its neighbours.
fn fold(name: &str) -> String {
    let upper = name.chars().flat_map(char::to_lowercase).flat_map(char::to_uppercase);
    upper.flat_map(char::to_lowercase).collect()
}

impl Channel {
    /// Passwords are compared as digests, in constant time.
    fn admit(&self, password: &str) -> Result<(), ChannelError> {
        let is_right =
            self.password.as_ref().is_none_or(|digest| digest.matches(&Digest::of(password)));
        if is_right { Ok(()) } else { Err(ChannelError::WrongPassword) }
    }

    /// The ids of its clients as JSON.
    fn list(&self) -> String {
        let mut list = vec![b'['];
        for (index, client) in self.clients.iter().enumerate() {
            if index > 0 {
                list.push(b',');
            }
            push_string(&client.id, &mut list);
        }
        list.push(b']');
        // All of it is text.
        String::from_utf8(list).unwrap_or_default()
    }

    fn tell_all(&self, posted: &Arc<Posted>) {
        for client in &self.clients {
            client.mailbox.put(posted);
        }
    }
}

impl Message<'_> {
    /// The message as the bytes of an event.
    fn written(&self, channel: &str) -> Vec<u8> {
        let mut text = b"{\"channel_id\":".to_vec();
        push_string(channel, &mut text);
        for (name, value) in [("type", self.kind), ("origin_id", self.origin)] {
            push_name(name, &mut text);
            push_string(value, &mut text);
        }
        push_name("payload", &mut text);
        text.extend_from_slice(self.payload.as_bytes());
        text.push(b'}');
        let mut bytes = Vec::with_capacity(text.len() + 16);
        push_data(&text, &mut bytes);
        bytes
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        self.channels.leave(&self.channel, &self.mailbox);
    }
}

#[cfg(test)]
mod tests;
