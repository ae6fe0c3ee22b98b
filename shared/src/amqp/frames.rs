//! What a broker sends, made readable for lapin: it gives up a whole connection over one message whose
//! names are not UTF-8, or whose headers are nested so deep that reading them would end the process.
//!
//! Anybody who may put a message into a queue could do that, and the message would come again on the
//! next connection. RabbitMQ looks at neither. So the bytes that cannot be read are made question marks,
//! and what is nested too deep is made bytes: nothing changes its length.

use std::io;
use std::ops::Range;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::io::poll_read_buf;

/// AMQP 0-9-1 §2.3.5: type, channel, size; and behind the payload an octet.
const FRAME_HEADER_BYTES: usize = 7;
const FRAME_METHOD: u8 = 1;
const FRAME_HEADER: u8 = 2;
/// Methods that say why something ends: `connection.close`, `channel.close`. The broker cuts their text
/// where it is too long, also in the middle of a character.
const CONNECTION_CLOSE: [u8; 4] = [0, 10, 0, 50];
const CHANNEL_CLOSE: [u8; 4] = [0, 20, 0, 40];
/// Methods that bring a message: `basic.return`, `basic.deliver`.
const RETURN: [u8; 4] = [0, 60, 0, 50];
const DELIVER: [u8; 4] = [0, 60, 0, 60];
/// No library nests its headers so deep.
const DEPTH_MAX: usize = 16;

/// A connection to a broker, read frame by frame.
#[derive(Debug)]
pub(super) struct Frames<T> {
    inner: T,
    unread: BytesMut,
    /// Of the bytes in `unread` so many can be given on.
    ready: usize,
    /// Of a frame that needs no look so many have not come yet.
    passing: usize,
}

impl<T> Frames<T> {
    pub(super) fn new(inner: T) -> Self {
        Self { inner, unread: BytesMut::new(), ready: 0, passing: 0 }
    }

    /// Makes readable what has come whole.
    fn look(&mut self) {
        loop {
            let passed = self.passing.min(self.unread.len() - self.ready);
            self.ready += passed;
            self.passing -= passed;
            let rest = self.unread.get_mut(self.ready..).unwrap_or_default();
            let Some((&[kind, _, _, a, b, c, d], _)) =
                rest.split_first_chunk::<FRAME_HEADER_BYTES>()
            else {
                return;
            };
            let size = usize::try_from(u32::from_be_bytes([a, b, c, d])).unwrap_or(usize::MAX);
            let whole = size.saturating_add(FRAME_HEADER_BYTES + 1);
            if !matches!(kind, FRAME_METHOD | FRAME_HEADER) || size > super::FRAME_BYTES_MAX {
                // Bodies are anything; and what is too large lapin refuses.
                self.passing = whole;
                continue;
            }
            let Some(payload) = rest.get_mut(FRAME_HEADER_BYTES..whole) else { return };
            let _ = Walk { bytes: payload, at: 0 }.frame(kind);
            self.ready += whole;
        }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Frames<T> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        while this.ready == 0 {
            if ready!(poll_read_buf(Pin::new(&mut this.inner), cx, &mut this.unread))? == 0 {
                return Poll::Ready(Ok(()));
            }
            this.look();
        }
        let count = this.ready.min(out.remaining());
        out.put_slice(this.unread.get(..count).unwrap_or_default());
        this.unread.advance(count);
        this.ready -= count;
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Frames<T> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().inner).poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_shutdown(cx)
    }
}

/// A walk through a frame. It ends early where the frame is not what it says: lapin will tell.
struct Walk<'a> {
    bytes: &'a mut [u8],
    at: usize,
}

impl Walk<'_> {
    fn frame(&mut self, kind: u8) -> Option<()> {
        if kind == FRAME_HEADER {
            return self.properties();
        }
        let (method, _) = self.bytes.split_first_chunk()?;
        match *method {
            DELIVER => {
                self.at = 4;
                self.short_text()?;
                // The tag, and whether it was delivered before.
                self.skip(9)?;
            }
            RETURN => {
                self.at = 6;
                self.short_text()?;
            }
            CONNECTION_CLOSE | CHANNEL_CLOSE => {
                // The code.
                self.at = 6;
                return self.short_text();
            }
            _ => return Some(()),
        }
        self.short_text()?;
        self.short_text()
    }

    /// AMQP 0-9-1 §4.2.6.1: class, weight, size, flags; then what the flags say.
    fn properties(&mut self) -> Option<()> {
        self.skip(12)?;
        let flags = u16::from_be_bytes(self.take::<2>()?);
        let mut kinds = "ssTbbssssLssss".bytes().enumerate();
        kinds.try_for_each(|(number, kind)| {
            if flags & (0x8000 >> number) == 0 {
                return Some(());
            }
            match kind {
                b's' => self.short_text(),
                b'b' => self.skip(1),
                b'L' => self.skip(8),
                _ => {
                    let inside = self.long()?;
                    self.table(inside, 0)
                }
            }
        })
    }

    fn table(&mut self, inside: Range<usize>, depth: usize) -> Option<()> {
        self.at = inside.start;
        while self.at < inside.end {
            self.short_text()?;
            self.value(depth)?;
        }
        Some(())
    }

    /// A value with its type, as RabbitMQ has them.
    fn value(&mut self, depth: usize) -> Option<()> {
        let [kind] = self.take()?;
        let type_at = self.at - 1;
        match kind {
            b't' | b'b' | b'B' => self.skip(1),
            b's' | b'u' | b'U' => self.skip(2),
            b'I' | b'i' | b'f' => self.skip(4),
            b'D' => self.skip(5),
            b'l' | b'L' | b'd' | b'T' => self.skip(8),
            b'S' | b'x' => {
                self.at = self.long()?.end;
                Some(())
            }
            b'F' | b'A' if depth == DEPTH_MAX => {
                // It has the same length as bytes.
                *self.bytes.get_mut(type_at)? = b'x';
                self.at = self.long()?.end;
                Some(())
            }
            b'F' => {
                let inside = self.long()?;
                self.table(inside, depth + 1)
            }
            b'A' => {
                let inside = self.long()?;
                self.at = inside.start;
                while self.at < inside.end {
                    self.value(depth + 1)?;
                }
                Some(())
            }
            b'V' => Some(()),
            _ => None,
        }
    }

    /// A text with its length in one octet: what is not UTF-8 is made so.
    fn short_text(&mut self) -> Option<()> {
        let [length] = self.take()?;
        let (start, end) = (self.at, self.at + usize::from(length));
        let text = self.bytes.get_mut(start..end)?;
        if std::str::from_utf8(text).is_err() {
            for byte in text.iter_mut().filter(|byte| !byte.is_ascii()) {
                *byte = b'?';
            }
        }
        self.at = end;
        Some(())
    }

    /// What stands behind a length in four octets.
    fn long(&mut self) -> Option<Range<usize>> {
        let length = usize::try_from(u32::from_be_bytes(self.take()?)).ok()?;
        let end = self.at.checked_add(length).filter(|end| *end <= self.bytes.len())?;
        Some(self.at..end)
    }

    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, _) = self.bytes.get(self.at..)?.split_first_chunk()?;
        self.at += N;
        Some(*taken)
    }

    fn skip(&mut self, count: usize) -> Option<()> {
        self.at += count;
        (self.at <= self.bytes.len()).then_some(())
    }
}

#[cfg(test)]
mod tests;
