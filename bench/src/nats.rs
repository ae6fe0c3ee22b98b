//! The NATS protocol as far as a benchmark needs it: lines, and payloads behind some of them.

/// A line that is longer is none of a sane server. The greeting has about 500 bytes.
const LINE_BYTES_MAX: usize = 64 * 1024;

/// What a client says first. Acknowledgements are asked for by PING, a batch at a time.
pub(crate) const HELLO: &str = "CONNECT {\"verbose\":false,\"pedantic\":false,\"lang\":\"fanfare\",\"version\":\"1\",\"protocol\":1}\r\n";
/// Answered with PONG once everything before it is done.
pub(crate) const PING: &str = "PING\r\n";
/// The answer to the server's PING.
pub(crate) const PONG: &str = "PONG\r\n";

/// Where in the stream of lines and payloads we are.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    /// The beginning of a line that a read has cut.
    line: Vec<u8>,
    payload_left: usize,
    is_first: bool,
    /// What is left of the line end behind a payload.
    end_left: usize,
}

/// What the server said.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Said<'a> {
    /// A piece of a message's payload.
    Message { bytes: &'a [u8], is_first: bool, is_last: bool },
    /// It wants to hear from us.
    Ping,
    /// All that we said before our PING is done.
    Pong,
    /// It refuses something.
    Error(String),
}

impl Lines {
    /// Goes over what was read, and shows what was said.
    pub(crate) fn feed<'a>(&mut self, mut bytes: &'a [u8], mut each: impl FnMut(Said<'a>)) {
        while !bytes.is_empty() {
            if self.payload_left > 0 {
                let (part, rest) =
                    bytes.split_at_checked(self.payload_left).unwrap_or((bytes, &[]));
                self.payload_left -= part.len();
                let is_last = self.payload_left == 0;
                each(Said::Message { bytes: part, is_first: self.is_first, is_last });
                self.is_first = false;
                bytes = rest;
            } else if self.end_left > 0 {
                let skipped = self.end_left.min(bytes.len());
                self.end_left -= skipped;
                bytes = bytes.get(skipped..).unwrap_or_default();
            } else {
                bytes = self.line(bytes, &mut each);
            }
        }
    }

    fn line<'a>(&mut self, bytes: &'a [u8], each: &mut impl FnMut(Said<'a>)) -> &'a [u8] {
        let Some((line, rest)) =
            memchr::memchr(b'\n', bytes).and_then(|end| bytes.split_at_checked(end + 1))
        else {
            if self.line.len() + bytes.len() <= LINE_BYTES_MAX {
                self.line.extend_from_slice(bytes);
            }
            return &[];
        };
        if self.line.is_empty() {
            self.act(line.trim_ascii_end(), each);
        } else {
            let mut whole = std::mem::take(&mut self.line);
            whole.extend_from_slice(line);
            self.act(whole.trim_ascii_end(), each);
        }
        rest
    }

    fn act<'a>(&mut self, line: &[u8], each: &mut impl FnMut(Said<'a>)) {
        if line.starts_with(b"MSG ") {
            let size = line.rsplit(|byte| *byte == b' ').next().unwrap_or_default();
            self.payload_left = size.iter().fold(0_usize, |sum, digit| {
                sum.saturating_mul(10).saturating_add(usize::from(digit.wrapping_sub(b'0')))
            });
            self.is_first = true;
            self.end_left = 2;
            if self.payload_left == 0 {
                each(Said::Message { bytes: &[], is_first: true, is_last: true });
            }
        } else if line == b"PING" {
            each(Said::Ping);
        } else if line == b"PONG" {
            each(Said::Pong);
        } else if line.starts_with(b"-ERR") {
            each(Said::Error(String::from_utf8_lossy(line).into_owned()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STREAM: &[u8] =
        b"INFO {\"a\":1}\r\nPONG\r\nMSG a.b 1 5\r\nhello\r\nPING\r\nMSG a 1 reply 0\r\n\r\n\
        MSG a 1 11\r\nPING\r\nMSG \r\r\n-ERR 'Slow Consumer'\r\nPONG\r\n";

    fn heard(step: usize) -> Vec<String> {
        let mut lines = Lines::default();
        let (mut heard, mut payload) = (Vec::new(), Vec::new());
        for piece in STREAM.chunks(step) {
            lines.feed(piece, |said| match said {
                Said::Message { bytes, is_first, is_last } => {
                    assert_eq!(is_first, payload.is_empty());
                    payload.extend_from_slice(bytes);
                    if is_last {
                        heard.push(String::from_utf8(std::mem::take(&mut payload)).unwrap());
                    }
                }
                Said::Ping => heard.push("ping".to_owned()),
                Said::Pong => heard.push("pong".to_owned()),
                Said::Error(text) => heard.push(text),
            });
        }
        heard
    }

    #[test]
    fn lines_and_payloads_are_the_same_wherever_reads_split_them() {
        let expected =
            ["pong", "hello", "ping", "", "PING\r\nMSG \r", "-ERR 'Slow Consumer'", "pong"];
        for step in 1..=STREAM.len() {
            assert_eq!(heard(step), expected, "in reads of {step}");
        }
    }
}
