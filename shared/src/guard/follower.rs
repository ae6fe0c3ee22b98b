//! Where in a request a client is, and until when it must move on.
//!
//! Follows RFC 9112 framing just enough to know heads from bodies. It decides no request: where
//! it and the HTTP server should ever differ, only a deadline is judged wrongly.

use std::time::Duration;

use tokio::time::Instant;

/// HARDENING: a larger head is refused.
pub const HEAD_BYTES_MAX: usize = 16 * 1024;
/// HARDENING: a head must be complete after so long; the first from the accept.
pub const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// WIRE §1.1: the longest silence inside a body.
const BODY_SILENCE: Duration = Duration::from_secs(10);
/// WIRE §1.1: from when on the average counts.
const BODY_GRACE: Duration = Duration::from_secs(10);
/// WIRE §1.1: the least average speed of a body.
const BODY_BYTES_PER_SECOND: u32 = 1024;
/// The HTTP server below takes no more headers than these.
const HEADERS_MAX: usize = 96;

/// The place of one connection in its requests.
#[derive(Debug)]
pub struct Follower {
    state: State,
    /// The head so far, where it did not come in one piece.
    head: Vec<u8>,
}

#[derive(Debug)]
enum State {
    /// Between requests.
    Idle,
    /// Inside a head.
    Head { since: Instant },
    /// Inside a body.
    Body { framing: Framing, progress: Progress },
    /// The bytes are not HTTP, or no longer.
    Lost,
}

#[derive(Debug)]
enum Framing {
    Length(u64),
    Chunked(Chunk),
    /// Until the end of the stream.
    Open,
}

/// RFC 9112 §7.1.
#[derive(Debug)]
enum Chunk {
    Size {
        value: u64,
        is_extension: bool,
    },
    Data {
        left: u64,
    },
    /// The line end after the data, and then the next size.
    DataEnd,
    Trailer {
        line_bytes: u64,
    },
}

#[derive(Debug)]
struct Progress {
    since: Instant,
    last_byte: Instant,
    bytes: u64,
}

impl Follower {
    /// Begins with the accept: the first head is due from now on.
    pub fn new(now: Instant) -> Self {
        Self { state: State::Head { since: now }, head: Vec::new() }
    }

    /// Whether no request is under way.
    pub fn is_idle(&self) -> bool {
        match self.state {
            State::Idle => true,
            State::Head { .. } => self.head.is_empty(),
            State::Body { .. } | State::Lost => false,
        }
    }

    /// Takes in what was read; says how many heads were completed by it.
    ///
    /// # Errors
    ///
    /// [`Violation::HeadTooLarge`].
    pub fn see(&mut self, mut bytes: &[u8], now: Instant) -> Result<usize, Violation> {
        let mut heads = 0;
        while !bytes.is_empty() {
            if self.is_idle() {
                // Empty lines before a request are allowed (RFC 9112 §2.2) and begin nothing.
                let start = bytes.iter().position(|byte| !matches!(byte, b'\r' | b'\n'));
                let Some(start) = start else { return Ok(heads) };
                bytes = bytes.get(start..).unwrap_or_default();
            }
            bytes = match &mut self.state {
                State::Idle => {
                    self.state = State::Head { since: now };
                    bytes
                }
                State::Head { .. } => {
                    let Some(rest) = self.see_head(bytes, now)? else { return Ok(heads) };
                    heads += 1;
                    rest
                }
                State::Body { framing, progress } => {
                    let (rest, is_done) = framing.see(bytes);
                    progress.last_byte = now;
                    let seen = bytes.len() - rest.len();
                    progress.bytes += u64::try_from(seen).unwrap_or(u64::MAX);
                    if is_done {
                        self.state = State::Idle;
                    }
                    rest
                }
                State::Lost => return Ok(heads),
            };
        }
        Ok(heads)
    }

    /// Takes in bytes of a head; returns what follows it, or `None` while it goes on.
    fn see_head<'a>(
        &mut self,
        bytes: &'a [u8],
        now: Instant,
    ) -> Result<Option<&'a [u8]>, Violation> {
        let known = self.head.len();
        let Some(end) = find_head_end(&self.head, bytes) else {
            if known + bytes.len() > HEAD_BYTES_MAX {
                return Err(Violation::HeadTooLarge);
            }
            self.head.extend_from_slice(bytes);
            return Ok(None);
        };
        let (last, rest) = bytes.split_at_checked(end).unwrap_or((bytes, &[]));
        if known + last.len() > HEAD_BYTES_MAX {
            return Err(Violation::HeadTooLarge);
        }
        self.state = if known == 0 {
            State::after_head(last, now)
        } else {
            self.head.extend_from_slice(last);
            State::after_head(&std::mem::take(&mut self.head), now)
        };
        Ok(Some(rest))
    }

    /// Until when the next byte must come, and what it is otherwise.
    pub fn deadline(&self) -> Option<(Instant, Violation)> {
        match &self.state {
            State::Idle | State::Lost => None,
            State::Head { since } => Some((*since + HEAD_TIMEOUT, Violation::HeadTimeout)),
            State::Body { progress, .. } => Some((progress.deadline(), Violation::BodyTimeout)),
        }
    }
}

impl Progress {
    /// The earlier of: too long a silence, and the instant at which the average falls too low.
    fn deadline(&self) -> Instant {
        let bytes = u32::try_from(self.bytes).unwrap_or(u32::MAX);
        let paid_for = Duration::from_secs(1) * bytes / BODY_BYTES_PER_SECOND;
        let too_slow = self.since + paid_for.max(BODY_GRACE);
        too_slow.min(self.last_byte + BODY_SILENCE)
    }
}

impl State {
    fn after_head(head: &[u8], now: Instant) -> Self {
        let Some(framing) = Framing::of(head) else { return Self::Lost };
        if matches!(framing, Framing::Length(0)) {
            return Self::Idle;
        }
        Self::Body { framing, progress: Progress { since: now, last_byte: now, bytes: 0 } }
    }
}

impl Framing {
    /// RFC 9112 §6.3; `None` where the head is not HTTP/1.x.
    fn of(head: &[u8]) -> Option<Self> {
        let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
        let mut request = httparse::Request::new(&mut headers);
        if !request.parse(head).ok()?.is_complete() {
            return None;
        }
        let mut framing = Self::Length(0);
        for header in request.headers.iter() {
            let has = |word: &[u8]| header.value.trim_ascii().eq_ignore_ascii_case(word);
            if header.name.eq_ignore_ascii_case("transfer-encoding") && has(b"chunked") {
                return Some(Self::Chunked(Chunk::size()));
            }
            if header.name.eq_ignore_ascii_case("upgrade") && has(b"websocket") {
                framing = Self::Open;
            }
            if header.name.eq_ignore_ascii_case("content-length") && !matches!(framing, Self::Open)
            {
                let text = std::str::from_utf8(header.value).ok()?;
                framing = Self::Length(text.trim().parse().ok()?);
            }
        }
        Some(framing)
    }

    /// Takes in bytes; returns what follows the body, and whether it is over.
    fn see<'a>(&mut self, bytes: &'a [u8]) -> (&'a [u8], bool) {
        match self {
            Self::Length(left) => {
                let rest = skip(bytes, left);
                (rest, *left == 0)
            }
            Self::Chunked(chunk) => {
                let mut rest = bytes;
                while !rest.is_empty() {
                    let is_over;
                    (rest, is_over) = chunk.see(rest);
                    if is_over {
                        return (rest, true);
                    }
                }
                (rest, false)
            }
            Self::Open => (&[], false),
        }
    }
}

impl Chunk {
    fn size() -> Self {
        Self::Size { value: 0, is_extension: false }
    }

    /// Takes in at least one byte of `bytes`, which is not empty.
    fn see<'a>(&mut self, bytes: &'a [u8]) -> (&'a [u8], bool) {
        if let Self::Data { left } = self {
            let rest = skip(bytes, left);
            if *left == 0 {
                *self = Self::DataEnd;
            }
            return (rest, false);
        }
        let Some((&byte, rest)) = bytes.split_first() else { return (bytes, false) };
        let mut is_over = false;
        match self {
            Self::Size { value: 0, .. } if byte == b'\n' => *self = Self::Trailer { line_bytes: 0 },
            Self::Size { value, .. } if byte == b'\n' => *self = Self::Data { left: *value },
            Self::Size { value, is_extension } => match char::from(byte).to_digit(16) {
                Some(digit) if !*is_extension => {
                    *value = value.saturating_mul(16).saturating_add(u64::from(digit));
                }
                _ => *is_extension |= byte != b'\r',
            },
            Self::DataEnd if byte == b'\n' => *self = Self::size(),
            Self::Trailer { line_bytes: 0 } if byte == b'\n' => is_over = true,
            Self::Trailer { line_bytes } if byte == b'\n' => *line_bytes = 0,
            Self::Trailer { line_bytes } => *line_bytes += u64::from(byte != b'\r'),
            Self::DataEnd | Self::Data { .. } => {}
        }
        (rest, is_over)
    }
}

/// Leaves out up to `left` bytes, and counts them off.
fn skip<'a>(bytes: &'a [u8], left: &mut u64) -> &'a [u8] {
    let count = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
    *left -= u64::try_from(count).unwrap_or(u64::MAX);
    bytes.get(count..).unwrap_or_default()
}

/// Where in `new` the head ends that began with `known`: after an empty line.
fn find_head_end(known: &[u8], new: &[u8]) -> Option<usize> {
    let from = known.len().saturating_sub(3);
    let tail = known.get(from..).unwrap_or_default();
    let byte = |at: usize| match at.checked_sub(tail.len()) {
        Some(at) => new.get(at).copied(),
        None => tail.get(at).copied(),
    };
    memchr::memchr_iter(b'\n', new).find_map(|at| {
        let end = tail.len() + at;
        let before = |distance: usize| end.checked_sub(distance).and_then(byte);
        let is_empty_line = match before(1) {
            Some(b'\n') => true,
            Some(b'\r') => before(2) == Some(b'\n'),
            _ => false,
        };
        is_empty_line.then_some(at + 1)
    })
}

/// What a client did that is not waited for any longer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// The head is larger than [`HEAD_BYTES_MAX`].
    #[error("the request's head is too large")]
    HeadTooLarge,
    /// The head was not complete in time.
    #[error("the request's head came too slowly")]
    HeadTimeout,
    /// The body stalled or dribbled.
    #[error("the request's body came too slowly")]
    BodyTimeout,
}

impl Violation {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::HeadTooLarge, Self::HeadTimeout, Self::BodyTimeout];

    /// The code that the client gets.
    pub fn code(self) -> &'static str {
        match self {
            Self::HeadTooLarge => "HEAD_TOO_LARGE",
            Self::HeadTimeout => "HEAD_TIMEOUT",
            Self::BodyTimeout => "BODY_TIMEOUT",
        }
    }

    /// The whole answer: the server above cannot give one, for it waits for the client.
    pub fn answer(self) -> &'static [u8] {
        match self {
            Self::HeadTooLarge => {
                b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-length: 25\r\n\
                  content-type: application/json; charset=utf-8\r\nconnection: close\r\n\r\n\
                  {\"code\":\"HEAD_TOO_LARGE\"}"
            }
            Self::HeadTimeout => {
                b"HTTP/1.1 408 Request Timeout\r\ncontent-length: 23\r\n\
                  content-type: application/json; charset=utf-8\r\nconnection: close\r\n\r\n\
                  {\"code\":\"HEAD_TIMEOUT\"}"
            }
            Self::BodyTimeout => {
                b"HTTP/1.1 408 Request Timeout\r\ncontent-length: 23\r\n\
                  content-type: application/json; charset=utf-8\r\nconnection: close\r\n\r\n\
                  {\"code\":\"BODY_TIMEOUT\"}"
            }
        }
    }
}

#[cfg(test)]
mod tests;
