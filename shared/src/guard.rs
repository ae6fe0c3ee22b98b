//! The guarded stream under every HTTP connection.
//!
//! Stands between the socket and the HTTP server, which has no deadline for a body, times only
//! the first head of a connection, and takes heads of up to 128 KiB. The guard follows the framing
//! of what is read, so that a client that dribbles or stalls is answered and let go.

use std::cell::{Cell, RefCell};
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

use crate::guard::flushes::Flushes;
use crate::guard::follower::{Follower, Violation};
use crate::occupancy::Admission;
use crate::socket::Socket;

pub mod flushes;
pub mod follower;

/// HARDENING: a client that takes no byte of its answer for so long is let go.
const WRITE_STALL: Duration = Duration::from_secs(15);

/// What is read and thrown away after an answer that came early: unread bytes would turn the close
/// into a reset, and a reset can overtake the answer.
const DISCARD_BYTES_MAX: usize = 1024 * 1024;

/// A connection under guard.
#[derive(Debug)]
pub struct Guard {
    socket: Socket,
    follower: Follower,
    read_timer: Option<Pin<Box<Sleep>>>,
    write_timer: Option<Pin<Box<Sleep>>>,
    /// Heads that are complete and not answered.
    owed: usize,
    /// Whether whoever writes says how many answers that were; otherwise a write settles all.
    is_told: bool,
    /// Bytes of a body that came after its answer.
    unwanted: usize,
    /// Seen, and to be read once more.
    unread: Bytes,
    leash: Rc<Leash>,
    admission: Admission,
    flushes: Rc<Flushes>,
}

impl Guard {
    /// Puts a connection that was just accepted under guard.
    pub fn new(socket: Socket, leash: Rc<Leash>, admission: Admission) -> Self {
        Self {
            socket,
            follower: Follower::new(Instant::now()),
            read_timer: None,
            write_timer: None,
            owed: 0,
            is_told: false,
            unwanted: 0,
            unread: Bytes::new(),
            leash,
            admission,
            flushes: Rc::default(),
        }
    }

    /// The connection's place among all.
    pub fn admission(&self) -> &Admission {
        &self.admission
    }

    /// When what is written is with the kernel.
    pub fn flushes(&self) -> &Rc<Flushes> {
        &self.flushes
    }

    /// The socket below.
    pub fn socket(&self) -> &Socket {
        &self.socket
    }

    /// Lets go of a connection that speaks another protocol from now on.
    pub fn into_parts(self) -> (Socket, Admission) {
        (self.socket, self.admission)
    }

    /// From now on is told which answers were written, and leaves it to who tells it to [say what a
    /// violation is answered](Self::end), once all before it is answered.
    pub fn rely_on_being_told(&mut self) {
        self.is_told = true;
    }

    /// An answer is on its way.
    pub fn note_answer(&mut self) {
        self.owed = self.owed.saturating_sub(1);
    }

    /// Gives back what was read last, for somebody who does not tell: the next reads begin with it.
    pub fn unread(&mut self, bytes: Bytes) {
        self.unread = bytes;
        self.is_told = false;
    }

    /// Answers a violation, where it can be told apart from other answers, and ends the connection.
    fn refuse(&mut self, cx: &mut Context<'_>, violation: Violation) -> io::Error {
        log::debug!("a client was let go: {violation}");
        self.admission.note(violation);
        // A body that fails belongs to a request that waits for its answer; a head that fails is a
        // request of its own, and must not be answered before one that came earlier.
        if !self.is_told && (self.owed > 0) == (violation == Violation::BodyTimeout) {
            self.end(cx, violation);
        }
        io::Error::new(io::ErrorKind::TimedOut, violation)
    }

    /// Says why the connection ends, and ends it.
    pub fn end(&mut self, cx: &mut Context<'_>, violation: Violation) {
        self.discard(cx);
        // Best effort: the socket's buffer is empty, and the connection ends anyway.
        let _ = Pin::new(&mut self.socket).poll_write(cx, violation.answer());
        let _ = Pin::new(&mut self.socket).poll_shutdown(cx);
    }

    fn discard(&mut self, cx: &mut Context<'_>) {
        let mut scratch = [0; 4096];
        let mut discarded = 0;
        while discarded < DISCARD_BYTES_MAX {
            let mut buf = ReadBuf::new(&mut scratch);
            match Pin::new(&mut self.socket).poll_read(cx, &mut buf) {
                Poll::Ready(Ok(())) if !buf.filled().is_empty() => discarded += buf.filled().len(),
                _ => return,
            }
        }
    }

    fn poll_idle(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.leash.is_ending.get() && self.follower.is_idle() {
            // The end of the stream, as if the client had closed: the server hangs up politely.
            return Poll::Ready(Ok(()));
        }
        self.leash.remember(cx.waker());
        if let Some((deadline, violation)) = self.follower.deadline()
            && poll_timer(&mut self.read_timer, deadline, cx).is_ready()
        {
            return Poll::Ready(Err(self.refuse(cx, violation)));
        }
        Poll::Pending
    }

    /// Under TLS, what was taken may wait for the socket below, and that must end, too.
    fn time(
        &mut self,
        flushed: Poll<io::Result<()>>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        if flushed.is_pending() {
            return self.poll_stalled(cx).map(Err);
        }
        self.write_timer = None;
        flushed
    }

    fn poll_stalled(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        let timer = self
            .write_timer
            .get_or_insert_with(|| Box::pin(sleep_until(Instant::now() + WRITE_STALL)));
        timer.as_mut().poll(cx).map(|()| io::ErrorKind::TimedOut.into())
    }

    fn note_written(&mut self, buf: &[u8]) {
        self.write_timer = None;
        // An interim answer is none (RFC 9110 §15.2).
        if !self.is_told && !buf.starts_with(b"HTTP/1.1 100 ") {
            self.owed = 0;
        }
    }
}

impl AsyncRead for Guard {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.unread.is_empty() {
            let count = self.unread.len().min(buf.remaining());
            buf.put_slice(&self.unread.split_to(count));
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        if Pin::new(&mut self.socket).poll_read(cx, buf)?.is_pending() {
            return self.poll_idle(cx);
        }
        let new = buf.filled().get(before..).unwrap_or_default();
        let this = &mut *self;
        match this.follower.see(new, Instant::now()) {
            Ok(heads) => {
                this.owed += heads;
                let is_unwanted = this.owed == 0 && !this.follower.is_idle();
                this.unwanted = if is_unwanted { this.unwanted + new.len() } else { 0 };
                if this.unwanted > DISCARD_BYTES_MAX {
                    return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
                }
                Poll::Ready(Ok(()))
            }
            Err(violation) => Poll::Ready(Err(this.refuse(cx, violation))),
        }
    }
}

impl AsyncWrite for Guard {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match Pin::new(&mut self.socket).poll_write(cx, buf) {
            Poll::Ready(written) => {
                self.note_written(buf);
                Poll::Ready(written)
            }
            Poll::Pending => self.poll_stalled(cx).map(Err),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.socket).poll_flush(cx);
        if matches!(flushed, Poll::Ready(Ok(()))) {
            self.flushes.note();
        }
        self.time(flushed, cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shut = Pin::new(&mut self.socket).poll_shutdown(cx);
        self.time(shut, cx)
    }
}

/// Waits for `deadline` with a timer that is made once and then moved.
fn poll_timer(
    timer: &mut Option<Pin<Box<Sleep>>>,
    deadline: Instant,
    cx: &mut Context<'_>,
) -> Poll<()> {
    let timer = timer.get_or_insert_with(|| Box::pin(sleep_until(deadline)));
    if timer.deadline() != deadline {
        timer.as_mut().reset(deadline);
    }
    timer.as_mut().poll(cx)
}

/// What the server can tell a connection from outside.
#[derive(Debug, Default)]
pub struct Leash {
    is_ending: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

impl Leash {
    /// Ends the connection as soon as no request is under way.
    pub fn close_when_idle(&self) {
        self.is_ending.set(true);
        if let Some(waker) = self.waker.borrow_mut().take() {
            waker.wake();
        }
    }

    fn remember(&self, waker: &Waker) {
        let mut kept = self.waker.borrow_mut();
        if !kept.as_ref().is_some_and(|kept| kept.will_wake(waker)) {
            *kept = Some(waker.clone());
        }
    }
}
