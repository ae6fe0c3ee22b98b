//! WebSocket frames as a client counts them: by their headers alone, wherever reads split them.
//!
//! The client shares the machine with the server that it measures, so a delivery must cost it next
//! to nothing: a header is read, its payload is skipped.

/// RFC 6455 §5.2: what a frame carries.
pub(crate) mod opcode {
    /// Text.
    pub(crate) const TEXT: u8 = 1;
    /// Bytes.
    pub(crate) const BINARY: u8 = 2;
    /// The connection ends.
    pub(crate) const CLOSE: u8 = 8;
    /// An answer is wanted.
    pub(crate) const PING: u8 = 9;
    /// The answer.
    pub(crate) const PONG: u8 = 10;
}

/// RFC 6455 §5.2: two bytes, and eight of an extended length; servers do not mask.
const HEADER_BYTES_MAX: usize = 10;

/// Where in the stream of frames we are.
#[derive(Debug, Default)]
pub(crate) struct Frames {
    /// The beginning of a header that a read has cut.
    head: [u8; HEADER_BYTES_MAX],
    head_bytes: usize,
    /// Of the frame whose payload is being read.
    opcode: u8,
    is_inside: bool,
    is_first: bool,
    payload_left: u64,
}

/// A piece of a frame's payload.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Part<'a> {
    /// What the frame carries.
    pub(crate) opcode: u8,
    /// The piece.
    pub(crate) bytes: &'a [u8],
    /// Whether the payload begins here.
    pub(crate) is_first: bool,
    /// Whether the payload ends here.
    pub(crate) is_last: bool,
}

impl Frames {
    /// Goes over what was read, and shows every piece of payload in it.
    #[inline]
    pub(crate) fn feed<'a>(&mut self, mut bytes: &'a [u8], mut each: impl FnMut(Part<'a>)) {
        loop {
            if self.is_inside {
                let Some(rest) = self.payload(bytes, &mut each) else { return };
                bytes = rest;
            }
            if bytes.is_empty() {
                return;
            }
            if self.head_bytes == 0
                && let Some((header, rest)) = Header::read(bytes)
            {
                self.begin(header);
                bytes = rest;
                continue;
            }
            let Some(rest) = self.cut_header(bytes) else { return };
            bytes = rest;
        }
    }

    /// Takes payload; gives what stands behind it, if it ends here.
    #[inline]
    fn payload<'a>(
        &mut self,
        bytes: &'a [u8],
        each: &mut impl FnMut(Part<'a>),
    ) -> Option<&'a [u8]> {
        let left = usize::try_from(self.payload_left).unwrap_or(usize::MAX);
        let (part, rest, is_last) = match bytes.split_at_checked(left) {
            Some((part, rest)) => (part, rest, true),
            None => (bytes, &[][..], false),
        };
        if is_last || !part.is_empty() {
            each(Part { opcode: self.opcode, bytes: part, is_first: self.is_first, is_last });
            self.is_first = false;
        }
        self.payload_left -= part.len() as u64;
        self.is_inside = !is_last;
        is_last.then_some(rest)
    }

    /// Takes bytes of a header that is not whole in one read; gives what stands behind it.
    fn cut_header<'a>(&mut self, mut bytes: &'a [u8]) -> Option<&'a [u8]> {
        loop {
            let (byte, rest) = bytes.split_first()?;
            *self.head.get_mut(self.head_bytes)? = *byte;
            self.head_bytes += 1;
            bytes = rest;
            if let Some((header, _)) = Header::read(self.head.get(..self.head_bytes)?) {
                self.head_bytes = 0;
                self.begin(header);
                return Some(bytes);
            }
        }
    }

    #[inline]
    fn begin(&mut self, header: Header) {
        self.opcode = header.opcode;
        self.payload_left = header.payload_bytes;
        self.is_inside = true;
        self.is_first = true;
    }
}

struct Header {
    opcode: u8,
    payload_bytes: u64,
}

impl Header {
    /// The header, if it is whole, and what stands behind it.
    #[inline]
    fn read(bytes: &[u8]) -> Option<(Self, &[u8])> {
        let (first, payload_bytes, rest) = match bytes {
            [first, 126, high, low, rest @ ..] => {
                (first, u64::from(u16::from_be_bytes([*high, *low])), rest)
            }
            [first, 127, rest @ ..] => {
                let (length, rest) = rest.split_first_chunk()?;
                (first, u64::from_be_bytes(*length), rest)
            }
            [_, 126, ..] => return None,
            [first, short, rest @ ..] => (first, u64::from(short & 127), rest),
            _ => return None,
        };
        Some((Self { opcode: first & 15, payload_bytes }, rest))
    }
}

/// Appends a client's frame. The mask is zero: it protects proxies from pages, and we are no page.
pub(crate) fn append_masked(opcode: u8, payload: &[u8], out: &mut Vec<u8>) {
    out.push(0x80 | opcode);
    match (u8::try_from(payload.len()), u16::try_from(payload.len())) {
        (Ok(short @ 0..=125), _) => out.push(0x80 | short),
        (_, Ok(length)) => {
            out.push(0x80 | 126);
            out.extend_from_slice(&length.to_be_bytes());
        }
        _ => {
            out.push(0x80 | 127);
            out.extend_from_slice(&(payload.len() as u64).to_be_bytes());
        }
    }
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(payload);
}

/// Appends the header of a server's text frame.
pub(crate) fn append_text_header(payload_bytes: usize, out: &mut Vec<u8>) {
    out.push(0x80 | opcode::TEXT);
    match (u8::try_from(payload_bytes), u16::try_from(payload_bytes)) {
        (Ok(short @ 0..=125), _) => out.push(short),
        (_, Ok(length)) => {
            out.push(126);
            out.extend_from_slice(&length.to_be_bytes());
        }
        _ => {
            out.push(127);
            out.extend_from_slice(&(payload_bytes as u64).to_be_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Frames of every kind of header, and how many of them are text.
    fn stream() -> (Vec<u8>, Vec<Vec<u8>>) {
        let mut wire = Vec::new();
        let mut texts = Vec::new();
        for bytes in [0, 1, 125, 126, 300, 65_535, 65_536, 7] {
            let text = vec![b'x'; bytes];
            append_text_header(bytes, &mut wire);
            wire.extend_from_slice(&text);
            texts.push(text);
            wire.extend_from_slice(&[0x89, 2, b'h', b'i']);
        }
        (wire, texts)
    }

    fn read(wire: &[u8], step: usize) -> Vec<Vec<u8>> {
        let mut frames = Frames::default();
        let (mut texts, mut open) = (Vec::new(), None);
        for piece in wire.chunks(step) {
            frames.feed(piece, |part| {
                if part.opcode != opcode::TEXT {
                    return;
                }
                if part.is_first {
                    assert!(open.replace(Vec::new()).is_none());
                }
                open.as_mut().unwrap().extend_from_slice(part.bytes);
                if part.is_last {
                    texts.push(open.take().unwrap());
                }
            });
        }
        assert!(open.is_none());
        texts
    }

    #[test]
    fn frames_are_the_same_wherever_reads_split_them() {
        let (wire, texts) = stream();
        for step in [1, 2, 3, 5, 9, 11, 127, 4096, wire.len()] {
            assert!(read(&wire, step) == texts, "in reads of {step}");
        }
    }

    #[test]
    fn a_clients_frame_is_masked_with_zeros() {
        let mut out = Vec::new();
        append_masked(opcode::TEXT, b"{}", &mut out);
        assert_eq!(out, [0x81, 0x82, 0, 0, 0, 0, b'{', b'}']);
        for (bytes, header) in [(125, 2), (126, 4), (65_535, 4), (65_536, 10)] {
            let mut out = Vec::new();
            append_masked(opcode::BINARY, &vec![0; bytes], &mut out);
            assert_eq!(out.len(), header + 4 + bytes);
        }
    }
}
