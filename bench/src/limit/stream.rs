//! The events of one type as they are on the wire, one after the other, for all its subscribers.

use crate::frames::append_text_header;
use crate::limit::connection::Connection;

/// A stream.
#[derive(Debug, Default)]
pub(crate) struct Stream {
    /// What somebody still waits for.
    bytes: Vec<u8>,
    /// Where in the stream these begin.
    begin: u64,
    /// Indices of its connections.
    pub(crate) subscribers: Vec<usize>,
    is_fresh: bool,
}

impl Stream {
    /// Adds an event. True if it is the first since the last delivery.
    #[inline]
    pub(crate) fn publish(&mut self, body: &[u8]) -> bool {
        if self.subscribers.is_empty() {
            return false;
        }
        let members = body.get(1..).unwrap_or_default();
        append_text_header(PREFIX.len() + members.len(), &mut self.bytes);
        self.bytes.extend_from_slice(PREFIX);
        self.bytes.extend_from_slice(members);
        !std::mem::replace(&mut self.is_fresh, true)
    }

    /// What stands from here to the end.
    #[inline]
    pub(crate) fn from(&self, at: u64) -> &[u8] {
        let skipped = usize::try_from(at - self.begin).unwrap_or(usize::MAX);
        self.bytes.get(skipped..).unwrap_or_default()
    }

    /// Where the stream ends.
    pub(crate) fn end(&self) -> u64 {
        self.begin + self.bytes.len() as u64
    }

    /// Writes to everybody what waits, and forgets what nobody waits for.
    pub(crate) fn deliver(&mut self, connections: &mut [Option<Box<Connection>>]) {
        self.is_fresh = false;
        let end = self.end();
        let mut least = end;
        for index in &self.subscribers {
            let Some(it) = connections.get_mut(*index).and_then(Option::as_mut) else { continue };
            if !it.is_blocked {
                it.write_from(self);
            }
            least = least.min(it.at);
        }
        if least == end {
            self.bytes.clear();
            self.begin = end;
        } else if least - self.begin > FORGET_BYTES {
            let forgotten = usize::try_from(least - self.begin).unwrap_or_default();
            self.bytes.drain(..forgotten);
            self.begin = least;
        }
    }

    /// One subscriber is gone.
    pub(crate) fn leave(&mut self, index: usize) {
        self.subscribers.retain(|it| *it != index);
        if self.subscribers.is_empty() {
            self.begin = self.end();
            self.bytes = Vec::new();
        }
    }
}

const PREFIX: &[u8] = b"{\"type\":\"event\",";
const FORGET_BYTES: u64 = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_framed_as_the_gateway_frames_it() {
        let mut stream = Stream::default();
        assert!(!stream.publish(br#"{"event":"a","data":1}"#));
        stream.subscribers.push(0);
        assert!(stream.publish(br#"{"event":"a","data":1}"#));
        assert!(!stream.publish(br#"{"event":"b"}"#));
        let expected = b"\x81\x25{\"type\":\"event\",\"event\":\"a\",\"data\":1}\x81\x1c{\"type\":\"event\",\"event\":\"b\"}";
        assert_eq!(stream.from(0), expected);
        assert_eq!(stream.from(39), &expected[39..]);
        stream.leave(0);
        assert_eq!((stream.from(stream.end()), stream.end()), (&[][..], 69));
    }
}
