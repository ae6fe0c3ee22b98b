//! Reads a client's WebSocket frames (RFC 6455).
//!
//! Ours, because the library collects an announced frame of any size before its limit applies: a
//! stranger could make it take 512 MiB. Here a frame is refused from its header.

use bytes::{Buf as _, Bytes, BytesMut};

use crate::disconnect::Disconnect;

/// HARDENING: a message may come in so many pieces.
const FRAGMENTS_MAX: u32 = 1024;
/// RFC 6455 §5.5: a control frame carries at most 125 bytes.
const CONTROL_BYTES_MAX: u64 = 125;

/// What a client sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Incoming {
    /// A whole text message, or a binary one that is UTF-8.
    Text(String),
    /// A binary message that is not UTF-8.
    Binary,
    /// A piece of a message that is not whole yet.
    Fragment,
    /// A ping, to be answered with the same bytes.
    Ping(Bytes),
    /// A pong.
    Pong,
    /// The client closes; its code, where it gave one.
    Close(Option<u16>),
}

/// The state between two reads. Holds a buffer only while something is incomplete.
#[derive(Debug)]
pub struct Reader {
    buffer: BytesMut,
    message: Option<Box<Message>>,
    message_bytes_max: usize,
}

/// A message of which pieces have come.
#[derive(Debug)]
struct Message {
    is_text: bool,
    payload: Vec<u8>,
    fragments: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Opcode {
    Continuation,
    Text,
    Binary,
    Close,
    Ping,
    Pong,
}

/// RFC 6455 §5.2, as far as a client's frame has it.
#[derive(Debug, Clone, Copy)]
struct Header {
    is_final: bool,
    opcode: Opcode,
    mask: [u8; 4],
    payload_bytes: u64,
    header_bytes: usize,
}

impl Reader {
    /// Begins after the upgrade, with what came behind it.
    pub fn new(message_bytes_max: usize, first: &[u8]) -> Self {
        Self { buffer: BytesMut::from(first), message: None, message_bytes_max }
    }

    /// Takes in what was read.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// Reads the next frame; `None` until there is more.
    ///
    /// # Errors
    ///
    /// Why the client must go; nothing more can be read then.
    pub fn read(&mut self) -> Result<Option<Incoming>, Disconnect> {
        let Some(header) = Header::parse(&self.buffer)? else { return Ok(self.wait()) };
        self.judge(&header)?;
        let payload_bytes =
            usize::try_from(header.payload_bytes).map_err(|_| Disconnect::MessageTooBig)?;
        if self.buffer.len() - header.header_bytes < payload_bytes {
            return Ok(self.wait());
        }
        self.buffer.advance(header.header_bytes);
        let mut payload = self.buffer.split_to(payload_bytes);
        unmask(&mut payload, header.mask);
        match header.opcode {
            Opcode::Ping => Ok(Some(Incoming::Ping(Bytes::copy_from_slice(&payload)))),
            Opcode::Pong => Ok(Some(Incoming::Pong)),
            Opcode::Close => read_close(&payload).map(|code| Some(Incoming::Close(code))),
            Opcode::Text | Opcode::Binary | Opcode::Continuation => {
                self.collect(&header, &payload).map(Some)
            }
        }
    }

    /// Gives the buffer back while the client has nothing more to say.
    fn wait(&mut self) -> Option<Incoming> {
        if self.buffer.is_empty() {
            self.buffer = BytesMut::new();
        }
        None
    }

    /// Judges a frame by its header and by what came before it.
    fn judge(&self, header: &Header) -> Result<(), Disconnect> {
        let is_control = matches!(header.opcode, Opcode::Close | Opcode::Ping | Opcode::Pong);
        if is_control {
            let is_fit = header.is_final && header.payload_bytes <= CONTROL_BYTES_MAX;
            return if is_fit { Ok(()) } else { Err(Disconnect::Protocol) };
        }
        let collected = match (&self.message, header.opcode) {
            (Some(message), Opcode::Continuation) => {
                if message.fragments >= FRAGMENTS_MAX {
                    return Err(Disconnect::Policy);
                }
                message.payload.len()
            }
            (None, Opcode::Text | Opcode::Binary) => 0,
            // A continuation of nothing, or a new message inside of another.
            _ => return Err(Disconnect::Protocol),
        };
        let room = self.message_bytes_max.saturating_sub(collected);
        if header.payload_bytes > u64::try_from(room).unwrap_or(u64::MAX) {
            return Err(Disconnect::MessageTooBig);
        }
        Ok(())
    }

    fn collect(&mut self, header: &Header, payload: &[u8]) -> Result<Incoming, Disconnect> {
        let mut message = self.message.take().unwrap_or_else(|| {
            let is_text = header.opcode == Opcode::Text;
            Box::new(Message { is_text, payload: Vec::new(), fragments: 0 })
        });
        message.payload.extend_from_slice(payload);
        message.fragments += 1;
        if !header.is_final {
            self.message = Some(message);
            return Ok(Incoming::Fragment);
        }
        match (String::from_utf8(message.payload), message.is_text) {
            (Ok(text), _) => Ok(Incoming::Text(text)),
            (Err(_), true) => Err(Disconnect::NotUtf8),
            (Err(_), false) => Ok(Incoming::Binary),
        }
    }
}

impl Header {
    /// Reads a header; `None` until it is whole.
    fn parse(bytes: &[u8]) -> Result<Option<Self>, Disconnect> {
        let Some((&[first, second], rest)) = bytes.split_first_chunk() else { return Ok(None) };
        let opcode = match first & 0x0f {
            0x0 => Opcode::Continuation,
            0x1 => Opcode::Text,
            0x2 => Opcode::Binary,
            0x8 => Opcode::Close,
            0x9 => Opcode::Ping,
            0xa => Opcode::Pong,
            _ => return Err(Disconnect::Protocol),
        };
        let has_reserved_bits = first & 0x70 != 0;
        let is_masked = second & 0x80 != 0;
        if has_reserved_bits || !is_masked {
            return Err(Disconnect::Protocol);
        }
        let (payload_bytes, rest, length_bytes) = match second & 0x7f {
            126 => {
                let Some((length, rest)) = rest.split_first_chunk() else { return Ok(None) };
                let length = u64::from(u16::from_be_bytes(*length));
                (minimal(length, 126)?, rest, 2)
            }
            127 => {
                let Some((length, rest)) = rest.split_first_chunk() else { return Ok(None) };
                (minimal(u64::from_be_bytes(*length), 0x1_0000)?, rest, 8)
            }
            length => (u64::from(length), rest, 0),
        };
        let header_bytes = 2 + length_bytes + 4;
        // Too large is too large, whether the mask has come or not.
        let mask = rest.first_chunk().copied();
        let is_final = first & 0x80 != 0;
        Ok(mask.map(|mask| Self { is_final, opcode, mask, payload_bytes, header_bytes }))
    }
}

/// RFC 6455 §5.2: the shortest form of a length must be used, and its highest bit is 0.
fn minimal(length: u64, least: u64) -> Result<u64, Disconnect> {
    let is_fit = length >= least && length <= i64::MAX as u64;
    if is_fit { Ok(length) } else { Err(Disconnect::Protocol) }
}

/// RFC 6455 §5.3.
fn unmask(payload: &mut [u8], mask: [u8; 4]) {
    for chunk in payload.chunks_mut(4) {
        for (byte, key) in chunk.iter_mut().zip(mask) {
            *byte ^= key;
        }
    }
}

/// RFC 6455 §5.5.1 and §7.4: nothing, or a code that may be sent and a reason in UTF-8.
fn read_close(payload: &[u8]) -> Result<Option<u16>, Disconnect> {
    let Some((code, reason)) = payload.split_first_chunk() else {
        return if payload.is_empty() { Ok(None) } else { Err(Disconnect::Protocol) };
    };
    let code = u16::from_be_bytes(*code);
    let may_be_sent = matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999);
    if !may_be_sent {
        return Err(Disconnect::Protocol);
    }
    if std::str::from_utf8(reason).is_err() {
        return Err(Disconnect::NotUtf8);
    }
    Ok(Some(code))
}

#[cfg(test)]
mod tests;
