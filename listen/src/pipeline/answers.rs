//! The answers of one connection on their way out: all that are ready leave in one write.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use actix_web::HttpResponse;
use actix_web::body::MessageBody as _;
use bytes::{BufMut as _, BytesMut};
use jiff::fmt::rfc2822::DateTimePrinter;
use tokio::io::AsyncWrite;
use tokio_util::io::poll_write_buf;

use crate::inputs::ACCEPTED;

/// With more than this a client has not taken its answers for a while.
const BYTES_MANY: usize = 64 * 1024;

/// What was not written yet.
#[derive(Debug, Default)]
pub(super) struct Answers {
    out: BytesMut,
    is_unflushed: bool,
    date: Date,
}

impl Answers {
    /// An event was taken. The last answer says that the connection ends.
    pub(super) fn accept(&mut self, is_last: bool) {
        self.out.put_slice(b"HTTP/1.1 200 OK");
        self.end_head(ACCEPTED.len(), is_last);
        self.out.put_slice(b"content-type: application/json; charset=utf-8\r\n\r\n");
        self.out.put_slice(ACCEPTED.as_bytes());
    }

    /// An event was refused.
    pub(super) fn refuse(&mut self, refusal: HttpResponse, is_last: bool) {
        let (refusal, body) = refusal.into_parts();
        let (status, headers) = (refusal.status(), refusal.headers());
        let body = body.try_into_bytes().unwrap_or_default();
        self.out.put_slice(b"HTTP/1.1 ");
        self.out.put_slice(status.as_str().as_bytes());
        self.out.put_slice(b" ");
        self.out.put_slice(status.canonical_reason().unwrap_or_default().as_bytes());
        self.end_head(body.len(), is_last);
        for (name, value) in headers {
            self.out.put_slice(name.as_str().as_bytes());
            self.out.put_slice(b": ");
            self.out.put_slice(value.as_bytes());
            self.out.put_slice(b"\r\n");
        }
        self.out.put_slice(b"\r\n");
        self.out.put_slice(&body);
    }

    /// Whether none waits.
    pub(super) fn is_empty(&self) -> bool {
        self.out.is_empty() && !self.is_unflushed
    }

    /// Whether so many wait that no more should be asked for.
    pub(super) fn are_many(&self) -> bool {
        self.out.len() > BYTES_MANY
    }

    /// The headers that every answer has.
    fn end_head(&mut self, length: usize, is_last: bool) {
        self.out.put_slice(b"\r\ncontent-length: ");
        self.out.put_slice(length.to_string().as_bytes());
        self.out.put_slice(b"\r\ndate: ");
        self.out.put_slice(self.date.now().as_bytes());
        self.out.put_slice(if is_last { b"\r\nconnection: close\r\n" } else { b"\r\n" });
    }

    /// Writes what the client takes; ready when nothing is left.
    pub(super) fn poll_write<W: AsyncWrite + Unpin>(
        &mut self,
        writer: &mut W,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        while !self.out.is_empty() {
            if ready!(poll_write_buf(Pin::new(&mut *writer), cx, &mut self.out))? == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.is_unflushed = true;
        }
        if self.is_unflushed {
            ready!(Pin::new(writer).poll_flush(cx))?;
            self.is_unflushed = false;
        }
        Poll::Ready(Ok(()))
    }
}

/// The time of an answer (RFC 9110 §6.6.1), written anew each second.
#[derive(Debug, Default)]
struct Date {
    second: Option<u64>,
    text: String,
}

impl Date {
    fn now(&mut self) -> &str {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        if self.second != Some(since.as_secs()) {
            self.second = Some(since.as_secs());
            let seconds = i64::try_from(since.as_secs()).unwrap_or_default();
            let now = jiff::Timestamp::from_second(seconds).unwrap_or_default();
            let printed = DateTimePrinter::new().timestamp_to_rfc9110_string(&now);
            self.text = printed.unwrap_or_default();
        }
        &self.text
    }
}
