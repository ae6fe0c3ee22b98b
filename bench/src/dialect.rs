//! What is said to a server, and in which words: our own wire, and those of the peers.

use crate::frames::{append_masked, opcode};
use crate::nats;
use crate::socket::Door;

/// Which server's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dialect {
    /// `POST /event`, and an init over WebSocket.
    Fanfare,
    /// nchan: `POST` to a channel; a WebSocket on it is subscribed at once.
    Nchan,
    /// NATS: its own protocol, over TCP and inside WebSocket frames.
    Nats,
}

/// A publication, ready but for what differs from one to the next.
#[derive(Debug)]
pub(crate) struct Template {
    bytes: Vec<u8>,
    sequence_at: usize,
    due_at: usize,
}

/// The type of the events that belong together; types are numbered from 0.
pub(crate) fn type_name(kind: usize) -> String {
    format!("bench.t{kind:04}")
}

impl Dialect {
    /// What begins a subscriber's connection.
    pub(crate) fn upgrade(self, door: &Door, kind: usize) -> Vec<u8> {
        let path = match self {
            Self::Nchan => format!("/sub/{}", type_name(kind)),
            Self::Fanfare | Self::Nats => format!("{}/", door.path),
        };
        format!(
            "GET {path} HTTP/1.1\r\nHost: {}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: ZmFuZmFyZS1iZW5jaC0wMQ==\r\n\r\n",
            door.authority
        )
        .into_bytes()
    }

    /// What subscribes, once the upgrade is made; nothing where that has done it.
    pub(crate) fn subscription(self, authorization: Option<&str>, kind: usize) -> Option<Vec<u8>> {
        let mut frame = Vec::new();
        match self {
            Self::Fanfare => {
                let mut init = serde_json::json!({"events": [type_name(kind)]});
                if let (Some(shown), Some(init)) = (authorization, init.as_object_mut()) {
                    init.insert("authentication".to_owned(), shown.into());
                }
                append_masked(opcode::TEXT, init.to_string().as_bytes(), &mut frame);
            }
            Self::Nats => {
                let text = format!("{}SUB {} 1\r\n{}", nats::HELLO, type_name(kind), nats::PING);
                append_masked(opcode::BINARY, text.as_bytes(), &mut frame);
            }
            Self::Nchan => return None,
        }
        Some(frame)
    }

    /// What a publisher says before its first publication.
    pub(crate) fn greeting(self) -> &'static str {
        match self {
            Self::Nats => nats::HELLO,
            Self::Fanfare | Self::Nchan => "",
        }
    }
}

impl Template {
    /// A publication whose data have `size` bytes, or the few more that its numbers need.
    pub(crate) fn new(
        dialect: Dialect,
        door: &Door,
        authorization: Option<&str>,
        kind: usize,
        size: usize,
    ) -> Self {
        let data = |padding: &str| {
            format!(r#"{{"{SEQUENCE}":"{:010}","{DUE}":"{:015}","pad":"{padding}"}}"#, 0, 0)
        };
        let data = data(&"x".repeat(size.saturating_sub(data("").len())));
        let name = type_name(kind);
        let (host, path) = (&door.authority, &door.path);
        let bytes = match dialect {
            Dialect::Nats => format!("PUB {name} {}\r\n{data}\r\n", data.len()),
            Dialect::Nchan => format!(
                "POST /pub/{name} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n\
                 Content-Length: {}\r\n\r\n{data}",
                data.len()
            ),
            Dialect::Fanfare => {
                let body = format!(r#"{{"event":"{name}","data":{data}}}"#);
                let shown = authorization
                    .map(|shown| format!("Authorization: {shown}\r\n"))
                    .unwrap_or_default();
                format!(
                    "POST {path}/event HTTP/1.1\r\nHost: {host}\r\n{shown}\
                     Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
                    body.len()
                )
            }
        }
        .into_bytes();
        let place = |name: &str| find(&bytes, name).unwrap_or(bytes.len());
        Self { sequence_at: place(SEQUENCE), due_at: place(DUE), bytes }
    }

    /// Appends the publication with this number, due so many nanoseconds after the beginning.
    #[inline]
    pub(crate) fn append(&self, number: Number, out: &mut Vec<u8>) {
        let begin = out.len();
        out.extend_from_slice(&self.bytes);
        let places = [
            (self.sequence_at, SEQUENCE_DIGITS, number.sequence),
            (self.due_at, DUE_DIGITS, number.due_nanos),
        ];
        for (at, digits, value) in places {
            if let Some(slot) = out.get_mut(begin + at..begin + at + digits) {
                write_digits(slot, value);
            }
        }
    }
}

/// What tells one publication from the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Number {
    /// Its place among all that were published.
    pub(crate) sequence: u64,
    /// When it was due, counted from the beginning.
    pub(crate) due_nanos: u64,
}

impl Number {
    /// Finds the numbers in what was delivered, whatever the server has put around the data.
    pub(crate) fn read(delivered: &[u8]) -> Option<Self> {
        let head = delivered.get(..HEAD_BYTES_MAX).unwrap_or(delivered);
        let digits = |name: &str, count: usize| {
            let at = find(head, name)?;
            head.get(at..at + count)?.iter().try_fold(0_u64, |sum, byte| {
                byte.is_ascii_digit().then(|| sum * 10 + u64::from(byte - b'0'))
            })
        };
        Some(Self {
            sequence: digits(SEQUENCE, SEQUENCE_DIGITS)?,
            due_nanos: digits(DUE, DUE_DIGITS)?,
        })
    }
}

/// Where the value of a member with this name begins.
fn find(bytes: &[u8], name: &str) -> Option<usize> {
    let key = format!(r#""{name}":""#);
    Some(memchr::memmem::find(bytes, key.as_bytes())? + key.len())
}

fn write_digits(slot: &mut [u8], mut value: u64) {
    for digit in slot.iter_mut().rev() {
        *digit = b'0' + u8::try_from(value % 10).unwrap_or_default();
        value /= 10;
    }
}

const SEQUENCE: &str = "sequence";
const SEQUENCE_DIGITS: usize = 10;
const DUE: &str = "due";
const DUE_DIGITS: usize = 15;
/// The numbers stand at the head of the data; nobody puts more than this before them.
const HEAD_BYTES_MAX: usize = 512;

#[cfg(test)]
mod tests {
    use super::*;

    fn door() -> Door {
        Door {
            address: ([127, 0, 0, 1], 1).into(),
            authority: "a:1".to_owned(),
            path: "/x".to_owned(),
            tls: None,
        }
    }

    #[test]
    fn a_publication_carries_its_numbers_in_every_dialect() {
        let number = Number { sequence: 12_345, due_nanos: 9_876_543_210 };
        for dialect in [Dialect::Fanfare, Dialect::Nchan, Dialect::Nats] {
            let template = Template::new(dialect, &door(), Some("Basic secret"), 7, 150);
            let mut out = b"before".to_vec();
            template.append(number, &mut out);
            assert_eq!(Number::read(&out), Some(number), "{dialect:?}");
            assert!(memchr::memmem::find(&out, b"bench.t0007").is_some());
        }
    }

    #[test]
    fn the_data_have_the_size_that_was_asked_for() {
        for (asked, given) in [(150, 150), (4096, 4096), (1, 58)] {
            let template = Template::new(Dialect::Nats, &door(), None, 0, asked);
            let text = String::from_utf8(template.bytes).unwrap();
            let data = text.lines().nth(1).unwrap();
            assert_eq!(data.len(), given);
            assert!(text.starts_with(&format!("PUB bench.t0000 {given}\r\n")));
            serde_json::from_str::<serde_json::Value>(data).unwrap();
        }
    }

    #[test]
    fn what_carries_no_numbers_is_seen() {
        for text in ["", "{}", r#"{"sequence":"12"}"#, r#"{"sequence":"000000000x","due":"1"}"#] {
            assert_eq!(Number::read(text.as_bytes()), None);
        }
    }
}
