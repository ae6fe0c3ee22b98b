//! The physical limit: the smallest server for the same wire.
//!
//! One thread, one event loop, no JSON, no authentication, no log, no bound to anything. Everything
//! that waits for a client leaves in one write. What a real gateway adds has to be paid on top.

use std::collections::HashMap;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;

use clap::Args;
use gateway::leash;
use memchr::memmem;
use mio::net::TcpListener;
use mio::{Events, Interest, Poll, Token};
use socket2::{Domain, Socket, Type};

use crate::frames::append_text_header;
use crate::limit::connection::{Connection, Role};
use crate::limit::stream::Stream;

mod connection;
mod stream;

/// Serves as little as can be, as fast as can be
#[derive(Debug, Args)]
pub(crate) struct LimitServer {
    /// Where publishers come in
    publish: SocketAddr,

    /// Where subscribers come in
    subscribe: SocketAddr,
}

impl LimitServer {
    /// Serves until it is ended.
    pub(crate) fn run(&self) -> anyhow::Result<()> {
        leash::put_on()?;
        shared::descriptors::raise();
        let mut poll = Poll::new()?;
        let mut doors = [listen(self.publish)?, listen(self.subscribe)?];
        for (token, door) in [PUBLISH, SUBSCRIBE].into_iter().zip(&mut doors) {
            poll.registry().register(door, token, Interest::READABLE)?;
        }
        let [publish, subscribe] = doors;
        let mut server = Server::default();
        let mut events = Events::with_capacity(1024);
        let mut buffer = vec![0; READ_BYTES];
        loop {
            match poll.poll(&mut events, None) {
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                done => done?,
            }
            for event in &events {
                match event.token() {
                    PUBLISH => server.accept(&publish, &poll, Role::Publisher)?,
                    SUBSCRIBE => server.accept(&subscribe, &poll, Role::Upgrading)?,
                    Token(index) => server.serve(index, event.is_read_closed(), &mut buffer),
                }
            }
            server.deliver();
        }
    }
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(4096)?;
    Ok(TcpListener::from_std(socket.into()))
}

#[derive(Default)]
struct Server {
    /// Boxed: a table of them all would grow by doubling, and their memory could not be told.
    connections: Vec<Option<Box<Connection>>>,
    free: Vec<usize>,
    streams: Vec<Stream>,
    /// Streams by the type of their events.
    names: HashMap<Vec<u8>, usize>,
    /// Streams that have something new.
    fresh: Vec<usize>,
    /// Answers of one turn to one publisher.
    answers: Vec<u8>,
}

impl Server {
    fn accept(&mut self, door: &TcpListener, poll: &Poll, role: Role) -> io::Result<()> {
        loop {
            let (mut socket, _) = match door.accept() {
                Ok(accepted) => accepted,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                // The client has left before we came.
                Err(error) if error.kind() == ErrorKind::ConnectionAborted => continue,
                Err(error) => return Err(error),
            };
            socket.set_nodelay(true)?;
            let index = self.free.pop().unwrap_or(self.connections.len());
            let both = Interest::READABLE | Interest::WRITABLE;
            poll.registry().register(&mut socket, Token(index), both)?;
            let connection = Some(Box::new(Connection::new(socket, role)));
            match self.connections.get_mut(index) {
                Some(slot) => *slot = connection,
                None => self.connections.push(connection),
            }
        }
    }

    /// Reads all that is there. Readiness is told once each time it comes, so nothing may be left.
    fn serve(&mut self, index: usize, is_closing: bool, buffer: &mut [u8]) {
        self.write_on(index);
        loop {
            let Some(connection) = self.connections.get_mut(index).and_then(Option::as_mut) else {
                return;
            };
            let count = match connection.read(buffer) {
                Ok(0) => return self.leave(index),
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(_) => return self.leave(index),
            };
            let bytes = buffer.get(..count).unwrap_or_default();
            if connection.cut.is_empty() {
                self.hear(index, bytes);
            } else {
                let mut whole = std::mem::take(&mut connection.cut);
                whole.extend_from_slice(bytes);
                self.hear(index, &whole);
            }
            if count < buffer.len() && !is_closing {
                return;
            }
        }
    }

    fn hear(&mut self, index: usize, bytes: &[u8]) {
        let Some(connection) = self.connections.get_mut(index).and_then(Option::as_mut) else {
            return;
        };
        match connection.role {
            Role::Publisher => self.publications(index, bytes),
            Role::Upgrading if memmem::find(bytes, b"\r\n\r\n").is_some() => {
                connection.role = Role::Upgraded;
                connection.say(UPGRADED);
            }
            Role::Upgrading => connection.cut = bytes.to_vec(),
            Role::Upgraded => self.subscribe(index, bytes),
            Role::Subscribed { .. } => {}
        }
    }

    fn publications(&mut self, index: usize, mut bytes: &[u8]) {
        self.answers.clear();
        while let Some((body, rest)) = split_request(bytes) {
            if let Some(stream) = event_type(body).and_then(|name| self.names.get(name))
                && let Some(it) = self.streams.get_mut(*stream)
                && it.publish(body)
            {
                self.fresh.push(*stream);
            }
            self.answers.extend_from_slice(ANSWER);
            bytes = rest;
        }
        if let Some(connection) = self.connections.get_mut(index).and_then(Option::as_mut) {
            connection.cut = bytes.to_vec();
            connection.say(&self.answers);
        }
    }

    /// Our own client's init: one type, a mask of zeros.
    fn subscribe(&mut self, index: usize, bytes: &[u8]) {
        let Some(connection) = self.connections.get_mut(index).and_then(Option::as_mut) else {
            return;
        };
        let name = memmem::find(bytes, EVENTS)
            .and_then(|at| bytes.get(at + EVENTS.len()..))
            .and_then(|name| name.get(..memchr::memchr(b'"', name)?));
        let Some(name) = name else {
            connection.cut = bytes.to_vec();
            return;
        };
        let new = self.streams.len();
        let stream = *self.names.entry(name.to_vec()).or_insert(new);
        if stream == new {
            self.streams.push(Stream::default());
        }
        let Some(it) = self.streams.get_mut(stream) else { return };
        it.subscribers.push(index);
        connection.role = Role::Subscribed { stream };
        connection.at = it.end();
        connection.say(&text_frame(b"{\"type\":\"init\",\"code\":\"OK\"}"));
    }

    fn write_on(&mut self, index: usize) {
        let Some(connection) = self.connections.get_mut(index).and_then(Option::as_mut) else {
            return;
        };
        if let Role::Subscribed { stream } = connection.role
            && connection.is_blocked
            && let Some(stream) = self.streams.get(stream)
        {
            connection.is_blocked = false;
            connection.write_from(stream);
        }
    }

    /// Writes to every client of a stream all that waits for it.
    fn deliver(&mut self) {
        for stream in self.fresh.drain(..) {
            if let Some(stream) = self.streams.get_mut(stream) {
                stream.deliver(&mut self.connections);
            }
        }
    }

    fn leave(&mut self, index: usize) {
        let Some(connection) = self.connections.get_mut(index).and_then(Option::take) else {
            return;
        };
        self.free.push(index);
        if let Role::Subscribed { stream } = connection.role
            && let Some(stream) = self.streams.get_mut(stream)
        {
            stream.leave(index);
        }
    }
}

/// The body of the first request, if it is whole, and what stands behind it.
fn split_request(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let head_bytes = memmem::find(bytes, b"\r\n\r\n")? + 4;
    let length = memmem::find(bytes.get(..head_bytes)?, LENGTH)? + LENGTH.len();
    let digits = bytes.get(length..)?.iter().take_while(|byte| byte.is_ascii_digit());
    let body_bytes = digits.fold(0_usize, |sum, digit| sum * 10 + usize::from(digit - b'0'));
    let (request, rest) = bytes.split_at_checked(head_bytes + body_bytes)?;
    Some((request.get(head_bytes..)?, rest))
}

/// Our own client's body: `{"event":"T",…`.
fn event_type(body: &[u8]) -> Option<&[u8]> {
    let name = body.get(b"{\"event\":\"".len()..)?;
    name.get(..memchr::memchr(b'"', name)?)
}

fn text_frame(text: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    append_text_header(text.len(), &mut frame);
    frame.extend_from_slice(text);
    frame
}

const PUBLISH: Token = Token(usize::MAX - 2);
const SUBSCRIBE: Token = Token(usize::MAX - 3);
const READ_BYTES: usize = 256 * 1024;
const LENGTH: &[u8] = b"Content-Length: ";
const EVENTS: &[u8] = b"\"events\":[\"";
const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 13\r\ncontent-type: application/json; charset=utf-8\r\ndate: Sat, 21 Nov 2026 12:00:00 GMT\r\n\r\n{\"code\":\"OK\"}";
const UPGRADED: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-accept: ggf7Y2+rIRvX5tcdj1Bew/+KMk0=\r\n\r\n";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_taken_when_it_is_whole() {
        let one = b"POST /event HTTP/1.1\r\nContent-Length: 15\r\n\r\n{\"event\":\"a.b\"}";
        let two = [&one[..], one].concat();
        let (body, rest) = split_request(&two).unwrap();
        assert_eq!((event_type(body), rest), (Some(&b"a.b"[..]), &one[..]));
        assert_eq!(split_request(&one[..one.len() - 1]), None);
    }
}
