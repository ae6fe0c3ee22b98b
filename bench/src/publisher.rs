//! The publishers: connections that are kept, with several publications on their way on each.

use std::collections::VecDeque;
use std::io::{self, ErrorKind};

use mio::{Registry, Token};

use crate::dialect::{Dialect, Number, Template};
use crate::nats::{self, Lines, Said};
use crate::socket::Socket;
use crate::subscriber::first_line;
use crate::tally::Tally;
use crate::target::Target;

/// All publishers of a measurement.
#[derive(Debug)]
pub(crate) struct Publishers {
    all: Vec<Publisher>,
    templates: Vec<Template>,
    pipeline: usize,
    first_token: usize,
    tally: Tally,
}

/// Which publisher it is, and where it connects once more if it has to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place<'a> {
    /// The server.
    pub(crate) target: &'a Target,
    /// The event loop.
    pub(crate) registry: &'a Registry,
    /// Its number.
    pub(crate) index: usize,
}

/// How publishers are made.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shape {
    /// Connections.
    pub(crate) connections: usize,
    /// Publications on their way on each.
    pub(crate) pipeline: usize,
    /// Bytes of an event's data.
    pub(crate) size: usize,
    /// Types, from 0.
    pub(crate) kinds: usize,
}

impl Publishers {
    /// Begins to connect.
    pub(crate) fn connect(
        target: &Target,
        shape: Shape,
        registry: &Registry,
        first_token: usize,
    ) -> io::Result<Self> {
        let make = |index| {
            let socket = Socket::connect(&target.publish, registry, Token(first_token + index))?;
            Ok(Publisher::new(socket, target.dialect))
        };
        let template = |kind| {
            let shown = target.authorization.as_deref();
            Template::new(target.dialect, &target.publish, shown, kind, shape.size)
        };
        Ok(Self {
            all: (0..shape.connections).map(make).collect::<io::Result<_>>()?,
            templates: (0..shape.kinds).map(template).collect(),
            pipeline: shape.pipeline,
            first_token,
            tally: Tally::new(shape.kinds),
        })
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.all.len()
    }

    /// What became of what was published so far.
    pub(crate) fn tally(&self) -> &Tally {
        &self.tally
    }

    /// Whether all have their connection.
    pub(crate) fn are_connected(&self) -> bool {
        self.all.iter().all(|publisher| publisher.is_connected)
    }

    /// Publications without an answer.
    pub(crate) fn in_flight(&self) -> usize {
        self.all.iter().map(|publisher| publisher.in_flight.len()).sum()
    }

    /// The same of a type.
    pub(crate) fn in_flight_of(&self, kind: usize) -> u64 {
        let of_kind = |it: &Publisher| it.in_flight.iter().filter(|it| **it == kind).count() as u64;
        self.all.iter().map(of_kind).sum()
    }

    /// How many more this one may have on their way.
    #[inline]
    pub(crate) fn room(&self, index: usize) -> usize {
        self.all.get(index).map_or(0, |it| self.pipeline.saturating_sub(it.in_flight.len()))
    }

    /// The one with the most room, from this one on; none where all are full.
    pub(crate) fn roomiest(&self, from: usize) -> Option<usize> {
        let count = self.all.len().max(1);
        let order = (0..count).map(|step| (from + step) % count);
        order
            .filter(|index| self.room(*index) > 0)
            .min_by_key(|index| self.pipeline - self.room(*index))
    }

    /// Puts a publication of this type on its way; it leaves with [`Publishers::flush`].
    #[inline]
    pub(crate) fn push(&mut self, index: usize, kind: usize, due_nanos: u64) {
        let (Some(publisher), Some(template)) = (self.all.get_mut(index), self.templates.get(kind))
        else {
            return;
        };
        template.append(Number { sequence: self.tally.sent, due_nanos }, &mut publisher.out);
        publisher.in_flight.push_back(kind);
        publisher.unflushed += 1;
        self.tally.sent += 1;
    }

    /// Writes what was pushed.
    #[inline]
    pub(crate) fn flush(&mut self, index: usize) -> io::Result<()> {
        self.all.get_mut(index).map_or(Ok(()), Publisher::flush)
    }

    /// Does what can be done now. A server may end a connection, as nginx does after 1,000 requests:
    /// what was on its way there stays unanswered, and the publisher goes on with another.
    pub(crate) fn ready(
        &mut self,
        place: Place<'_>,
        is_closing: bool,
        buffer: &mut [u8],
    ) -> io::Result<()> {
        let Some(publisher) = self.all.get_mut(place.index) else { return Ok(()) };
        let was_connected = publisher.is_connected;
        match publisher.ready(is_closing, buffer, &mut self.tally) {
            Err(error) if was_connected || publisher.is_connected => {
                let fruitless = if publisher.is_answered { 0 } else { publisher.fruitless + 1 };
                if fruitless > FRUITLESS_MAX {
                    return Err(error);
                }
                self.tally.give_up(publisher.in_flight.drain(..));
                let token = Token(self.first_token + place.index);
                let socket = Socket::connect(&place.target.publish, place.registry, token)?;
                *publisher = Publisher::new(socket, place.target.dialect);
                publisher.fruitless = fruitless;
                Ok(())
            }
            done => done,
        }
    }

    /// Ends all connections.
    pub(crate) fn close(self) {
        for publisher in self.all {
            publisher.socket.reset();
        }
    }
}

#[derive(Debug)]
struct Publisher {
    socket: Socket,
    dialect: Dialect,
    is_connected: bool,
    out: Vec<u8>,
    /// The types of what has no answer yet, in order.
    in_flight: VecDeque<usize>,
    unflushed: usize,
    /// NATS: how many each PONG that is to come acknowledges.
    batches: VecDeque<usize>,
    lines: Lines,
    /// The beginning of an answer that a read has cut.
    cut: Vec<u8>,
    /// Whether anything was answered on this connection.
    is_answered: bool,
    /// Connections before this one, in a row, on which nothing was.
    fruitless: u8,
}

impl Publisher {
    fn new(socket: Socket, dialect: Dialect) -> Self {
        Self {
            socket,
            dialect,
            is_connected: false,
            out: dialect.greeting().as_bytes().to_vec(),
            in_flight: VecDeque::new(),
            unflushed: 0,
            batches: VecDeque::new(),
            lines: Lines::default(),
            cut: Vec::new(),
            is_answered: false,
            fruitless: 0,
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.unflushed > 0 && self.dialect == Dialect::Nats {
            self.out.extend_from_slice(nats::PING.as_bytes());
            self.batches.push_back(self.unflushed);
        }
        self.unflushed = 0;
        if !self.is_connected {
            return Ok(());
        }
        match self.write() {
            // The event loop tells of the end as well, and there it is dealt with.
            Err(error)
                if matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset) =>
            {
                Ok(())
            }
            done => done,
        }
    }

    fn write(&mut self) -> io::Result<()> {
        self.socket.write_on()?;
        while !self.out.is_empty() {
            match self.socket.send(&self.out) {
                Ok(count) => drop(self.out.drain(..count)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn ready(&mut self, is_closing: bool, buffer: &mut [u8], tally: &mut Tally) -> io::Result<()> {
        if !self.is_connected {
            self.is_connected = self.socket.is_connected()?;
            if !self.is_connected {
                return Ok(());
            }
        }
        if let Err(error) = self.write() {
            // What was answered before the end can still be read.
            if !is_closing {
                return Err(error);
            }
        }
        loop {
            let count = match self.socket.receive(buffer) {
                Ok(0) => {
                    let last = tally.last_refusal.as_deref().unwrap_or("nothing was refused");
                    let text = format!("the server closed a publisher's connection; {last}");
                    return Err(io::Error::new(ErrorKind::UnexpectedEof, text));
                }
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            self.is_answered = true;
            self.hear(buffer.get(..count).unwrap_or_default(), tally);
            if count < buffer.len() && !is_closing && self.socket.is_drained_by_short_reads() {
                return Ok(());
            }
        }
    }

    fn hear(&mut self, bytes: &[u8], tally: &mut Tally) {
        if self.dialect == Dialect::Nats {
            return self.hear_nats(bytes, tally);
        }
        if self.cut.is_empty() {
            let rest = self.answers(bytes, tally);
            self.cut.extend_from_slice(rest);
        } else {
            let mut whole = std::mem::take(&mut self.cut);
            whole.extend_from_slice(bytes);
            let rest = self.answers(&whole, tally);
            self.cut = rest.to_vec();
        }
    }

    /// Reads answers; gives what is left, the beginning of one.
    fn answers<'a>(&mut self, mut bytes: &'a [u8], tally: &mut Tally) -> &'a [u8] {
        while !bytes.is_empty() {
            if let Some((answer, rest)) = known_answer(bytes, tally.answer_bytes) {
                debug_assert!(answer.len() == tally.answer_bytes);
                tally.accept(self.in_flight.pop_front());
                bytes = rest;
                continue;
            }
            let Some((answer, rest)) = split_answer(bytes) else { return bytes };
            if answer.starts_with(b"HTTP/1.1 2") {
                tally.answer_bytes = if answer.ends_with(OK) { answer.len() } else { 0 };
                tally.accept(self.in_flight.pop_front());
            } else {
                let kind = self.in_flight.pop_front();
                tally.refuse(kind, may_be_taken(answer), first_line(answer));
            }
            bytes = rest;
        }
        bytes
    }

    fn hear_nats(&mut self, bytes: &[u8], tally: &mut Tally) {
        let Self { lines, in_flight, batches, out, .. } = self;
        lines.feed(bytes, |said| match said {
            Said::Pong => {
                for _ in 0..batches.pop_front().unwrap_or_default() {
                    tally.accept(in_flight.pop_front());
                }
            }
            Said::Ping => out.extend_from_slice(nats::PONG.as_bytes()),
            Said::Error(text) => tally.refuse(None, false, text),
            Said::Message { .. } => {}
        });
    }
}

/// So often in a row may a server end a connection without any answer.
const FRUITLESS_MAX: u8 = 3;
/// How our own good answers end.
const OK: &[u8] = br#"{"code":"OK"}"#;

/// An answer of the length that is known, if it is a good one.
#[inline]
fn known_answer(bytes: &[u8], length: usize) -> Option<(&[u8], &[u8])> {
    let (answer, rest) = bytes.split_at_checked(length)?;
    (answer.starts_with(b"HTTP/1.1 200") && answer.ends_with(OK)).then_some((answer, rest))
}

/// The gateway says so where nobody knows; what another server, or a proxy, has failed in, may have
/// been taken before.
fn may_be_taken(answer: &[u8]) -> bool {
    answer.starts_with(b"HTTP/1.1 5")
        && (memchr::memmem::find(answer, br#""accepted":"unknown""#).is_some()
            || memchr::memmem::find(answer, br#""code":"#).is_none())
}

/// The first answer, if it is whole, and what stands behind it.
fn split_answer(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let head_bytes = memchr::memmem::find(bytes, b"\r\n\r\n")? + 4;
    let head = String::from_utf8_lossy(bytes.get(..head_bytes)?).to_ascii_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length:"));
    let body_bytes = length.and_then(|length| length.trim().parse().ok()).unwrap_or(0_usize);
    bytes.split_at_checked(head_bytes + body_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_split_off_when_it_is_whole() {
        let wire = b"HTTP/1.1 202 Accepted\r\nContent-Length: 3\r\n\r\nabcHTTP/1.1 200 OK\r\n";
        let (answer, rest) = split_answer(wire).unwrap();
        assert!(answer.ends_with(b"\r\n\r\nabc"));
        assert_eq!(rest, b"HTTP/1.1 200 OK\r\n");
        assert_eq!(split_answer(rest), None);
        assert_eq!(split_answer(&wire[..wire.len() - 20]), None);
    }

    #[test]
    fn what_a_server_has_refused_for_certain_is_not_taken() {
        for (answer, expected) in [
            ("HTTP/1.1 503 No\r\n\r\n{\"code\":\"X\",\"accepted\":\"unknown\"}", true),
            ("HTTP/1.1 502 Bad Gateway\r\n\r\n", true),
            ("HTTP/1.1 503 No\r\n\r\n{\"code\":\"X\"}", false),
            ("HTTP/1.1 401 No\r\n\r\n", false),
        ] {
            assert_eq!(may_be_taken(answer.as_bytes()), expected, "{answer}");
        }
    }

    #[test]
    fn a_known_answer_is_still_looked_at() {
        let good = b"HTTP/1.1 200 OK\r\n\r\n{\"code\":\"OK\"}";
        let bad = b"HTTP/1.1 503 No\r\n\r\n{\"code\":\"OK\"}";
        assert!(known_answer(good, good.len()).is_some());
        assert!(known_answer(bad, bad.len()).is_none());
        assert!(known_answer(&good[1..], good.len()).is_none());
    }
}
