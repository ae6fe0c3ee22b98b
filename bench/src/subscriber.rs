//! One subscriber: it connects, subscribes, and counts what it gets.

use std::io::{self, ErrorKind};

use crate::dialect::Dialect;
use crate::frames::{Frames, Part, append_masked, opcode};
use crate::nats::{self, Lines, Said};
use crate::socket::Socket;

/// A subscriber.
#[derive(Debug)]
pub(crate) struct Subscriber {
    socket: Option<Socket>,
    frames: Frames,
    inbox: Inbox,
    /// What is to be said next, as far as the way there was not open.
    out: Vec<u8>,
    /// The type that it subscribes.
    pub(crate) kind: usize,
}

/// How far a subscriber is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// No connection yet.
    Connecting,
    /// No answer to the upgrade yet.
    Upgrading,
    /// No answer to the subscription yet.
    Subscribing,
    /// Everything that is published from now on has to come.
    Live,
    /// It has lost its connection.
    Gone,
}

/// What a subscriber makes of what it hears.
#[derive(Debug)]
struct Inbox {
    dialect: Dialect,
    stage: Stage,
    deliveries: u64,
    /// Whether somebody wants to see what is delivered, or its count is enough.
    is_shown: bool,
    /// A payload that comes in pieces.
    whole: Vec<u8>,
    lines: Lines,
    reply: Vec<u8>,
    fault: Option<String>,
}

impl Subscriber {
    /// A subscriber whose connection has begun.
    pub(crate) fn new(socket: Socket, dialect: Dialect, kind: usize, is_shown: bool) -> Self {
        let inbox = Inbox {
            dialect,
            stage: Stage::Connecting,
            deliveries: 0,
            is_shown,
            whole: Vec::new(),
            lines: Lines::default(),
            reply: Vec::new(),
            fault: None,
        };
        Self { socket: Some(socket), frames: Frames::default(), inbox, out: Vec::new(), kind }
    }

    /// How far it is.
    pub(crate) fn stage(&self) -> Stage {
        self.inbox.stage
    }

    /// How many deliveries it has had.
    #[inline]
    pub(crate) fn deliveries(&self) -> u64 {
        self.inbox.deliveries
    }

    /// Whether what it gets is looked at, and not only counted.
    pub(crate) fn is_shown(&self) -> bool {
        self.inbox.is_shown
    }

    /// Why it is gone.
    pub(crate) fn fault(&self) -> &str {
        self.inbox.fault.as_deref().unwrap_or("the server ended the connection")
    }

    /// Gives the connection up.
    pub(crate) fn drop_connection(&mut self) {
        if let Some(socket) = self.socket.take() {
            socket.reset();
        }
        self.inbox.stage = Stage::Gone;
    }

    /// Does what can be done now. `scripts` has what to say when connected, and when upgraded.
    pub(crate) fn ready(
        &mut self,
        is_closing: bool,
        buffer: &mut [u8],
        scripts: &Scripts,
        each: &mut impl FnMut(&[u8]),
    ) {
        if let Err(error) = self.advance(is_closing, buffer, scripts, each) {
            self.inbox.fault.get_or_insert_with(|| error.to_string());
            self.drop_connection();
        }
    }

    #[inline]
    fn advance(
        &mut self,
        is_closing: bool,
        buffer: &mut [u8],
        scripts: &Scripts,
        each: &mut impl FnMut(&[u8]),
    ) -> io::Result<()> {
        let Some(socket) = &mut self.socket else { return Ok(()) };
        if self.inbox.stage == Stage::Connecting {
            if !socket.is_connected()? {
                return Ok(());
            }
            self.inbox.stage = Stage::Upgrading;
            self.out.extend_from_slice(&scripts.opening);
        }
        self.write()?;
        loop {
            let Some(socket) = &mut self.socket else { return Ok(()) };
            let count = match socket.receive(buffer) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            let is_drained =
                count < buffer.len() && !is_closing && socket.is_drained_by_short_reads();
            self.hear(buffer.get(..count).unwrap_or_default(), scripts, each);
            if is_drained {
                break;
            }
        }
        if let Some(fault) = &self.inbox.fault {
            return Err(io::Error::other(fault.clone()));
        }
        self.write()
    }

    fn write(&mut self) -> io::Result<()> {
        self.out.append(&mut self.inbox.reply);
        let Some(socket) = &mut self.socket else { return Ok(()) };
        socket.write_on()?;
        while !self.out.is_empty() {
            match socket.send(&self.out) {
                Ok(count) => drop(self.out.drain(..count)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    #[inline]
    fn hear(&mut self, bytes: &[u8], scripts: &Scripts, each: &mut impl FnMut(&[u8])) {
        let Self { frames, inbox, .. } = self;
        if inbox.stage == Stage::Upgrading {
            return self.hear_upgrade(bytes, scripts, each);
        }
        // By far the most of what is heard: a delivery that is only counted.
        let is_only_counted =
            inbox.stage == Stage::Live && !inbox.is_shown && inbox.dialect != Dialect::Nats;
        frames.feed(bytes, |part| {
            if is_only_counted && part.opcode == opcode::TEXT {
                inbox.deliveries += u64::from(part.is_last);
            } else {
                inbox.hear(&part, each);
            }
        });
    }

    fn hear_upgrade(&mut self, bytes: &[u8], scripts: &Scripts, each: &mut impl FnMut(&[u8])) {
        let inbox = &mut self.inbox;
        inbox.whole.extend_from_slice(bytes);
        let Some(end) = memchr::memmem::find(&inbox.whole, b"\r\n\r\n") else {
            if inbox.whole.len() > ANSWER_BYTES_MAX {
                inbox.fault = Some("the answer to the upgrade has no end".to_owned());
            }
            return;
        };
        let answer = std::mem::take(&mut inbox.whole);
        if !answer.starts_with(b"HTTP/1.1 101") {
            inbox.fault = Some(format!("the upgrade was refused: {}", first_line(&answer)));
            return;
        }
        match &scripts.subscription {
            Some(subscription) => {
                inbox.stage = Stage::Subscribing;
                inbox.reply.extend_from_slice(subscription);
            }
            None => inbox.stage = Stage::Live,
        }
        let rest = answer.get(end + 4..).unwrap_or_default();
        self.frames.feed(rest, |part| inbox.hear(&part, each));
    }
}

impl Inbox {
    fn hear(&mut self, part: &Part<'_>, each: &mut impl FnMut(&[u8])) {
        match part.opcode {
            opcode::TEXT | opcode::BINARY | 0 if self.dialect == Dialect::Nats => {
                self.hear_nats(part, each);
            }
            opcode::TEXT if self.stage == Stage::Live && !self.is_shown => {
                self.deliveries += u64::from(part.is_last);
            }
            _ => {
                let mut whole = std::mem::take(&mut self.whole);
                if whole.is_empty() && part.is_last {
                    self.hear_whole(part.opcode, part.bytes, each);
                } else {
                    whole.extend_from_slice(part.bytes);
                    if part.is_last {
                        self.hear_whole(part.opcode, &whole, each);
                        whole.clear();
                    }
                }
                self.whole = whole;
            }
        }
    }

    fn hear_whole(&mut self, opcode: u8, payload: &[u8], each: &mut impl FnMut(&[u8])) {
        match opcode {
            opcode::TEXT if self.stage == Stage::Subscribing => {
                if memchr::memmem::find(payload, br#""code":"OK""#).is_some() {
                    self.stage = Stage::Live;
                } else {
                    let answer = String::from_utf8_lossy(payload);
                    self.fault = Some(format!("the subscription was refused: {answer}"));
                }
            }
            opcode::TEXT => {
                self.deliveries += 1;
                each(payload);
            }
            opcode::PING => append_masked(opcode::PONG, payload, &mut self.reply),
            opcode::CLOSE => {
                let code = payload.first_chunk().map_or(1005, |code| u16::from_be_bytes(*code));
                let reason = String::from_utf8_lossy(payload.get(2..).unwrap_or_default());
                self.fault = Some(format!("the server closed with {code} {reason}"));
            }
            _ => {}
        }
    }

    fn hear_nats(&mut self, part: &Part<'_>, each: &mut impl FnMut(&[u8])) {
        let Self { stage, deliveries, is_shown, whole, lines, reply, fault, .. } = self;
        lines.feed(part.bytes, |said| match said {
            Said::Message { is_last, .. } if !*is_shown => *deliveries += u64::from(is_last),
            Said::Message { bytes, is_first: true, is_last: true } => {
                *deliveries += 1;
                each(bytes);
            }
            Said::Message { bytes, is_last, .. } => {
                whole.extend_from_slice(bytes);
                if is_last {
                    *deliveries += 1;
                    each(whole);
                    whole.clear();
                }
            }
            Said::Ping => append_masked(opcode::BINARY, nats::PONG.as_bytes(), reply),
            Said::Pong => *stage = Stage::Live,
            Said::Error(text) => *fault = Some(text),
        });
    }
}

/// What a subscriber says, step by step.
#[derive(Debug)]
pub(crate) struct Scripts {
    /// The upgrade.
    pub(crate) opening: Vec<u8>,
    /// What subscribes; nothing where the upgrade has done that.
    pub(crate) subscription: Option<Vec<u8>>,
}

/// The head of an answer is shorter than this, ours as well as the peers'.
const ANSWER_BYTES_MAX: usize = 16 * 1024;

/// For a message: the first line of an answer, and its body.
pub(crate) fn first_line(answer: &[u8]) -> String {
    let text = String::from_utf8_lossy(answer);
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let line = head.lines().next().unwrap_or_default();
    format!("{line} {}", body.chars().take(200).collect::<String>()).trim().to_owned()
}
