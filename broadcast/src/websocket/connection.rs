//! One client's connection after the upgrade, as its task and its worker share it.
//!
//! The worker writes what the hub has queued, without waking the task. Only where the client's
//! socket is full does the task wait for it, and then the worker keeps its hands off.

use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use actix_http::ws::OpCode;
use jiff::Timestamp;
use shared::socket::Socket;
use shared::tokens::Tokens;
use tokio::io::AsyncWrite as _;
use tokio::time::Instant;

use crate::bell::Bell;
use crate::disconnect::Disconnect;
use crate::hub::SessionId;
use crate::outbox::Outbox;
use crate::websocket::dialect::{Begin, Dialect, Reaction, Seat};
use crate::websocket::frame;
use crate::worker::{Output, Shared, Worker};

/// HARDENING: a close that takes longer becomes a reset.
pub(super) const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// What the task and the worker share.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) id: SessionId,
    pub(super) socket: RefCell<Socket>,
    pub(super) outbox: Rc<Outbox>,
    pub(super) dialect: RefCell<Box<dyn Dialect>>,
    pub(super) phase: Cell<Phase>,
    /// When a byte last moved, or the socket became full; of use only while it is.
    moved: Cell<Instant>,
    pub(super) bell: Bell,
    pub(super) worker: Rc<Worker>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    Open,
    /// Our Close is queued or sent; theirs has not come.
    Closing {
        until: Instant,
    },
    /// Both Closes are there; ours may still have to be written.
    Closed {
        until: Instant,
    },
    /// There is nobody to write to.
    Broken,
}

impl Connection {
    /// Takes a place in the worker's hub.
    pub(super) fn new(worker: Rc<Worker>, socket: Socket, begin: Begin) -> Rc<Self> {
        let Shared { limits, memory, .. } = &worker.shared;
        let outbox = Rc::new(Outbox::new(limits.outbox_bytes_max, memory));
        let id = worker.with_hub(|hub| hub.enter_watcher(Rc::clone(&outbox)));
        let seat = Seat { id, worker: Rc::clone(&worker), outbox: Rc::clone(&outbox) };
        Rc::new(Self {
            id,
            socket: RefCell::new(socket),
            outbox,
            dialect: RefCell::new(begin(seat)),
            phase: Cell::new(Phase::Open),
            moved: Cell::new(Instant::now()),
            bell: Bell::default(),
            worker,
        })
    }

    /// Takes note of whether the client's socket is full.
    pub(super) fn set_stuck(&self, is_stuck: bool) {
        if is_stuck && !self.outbox.is_stuck() {
            self.moved.set(Instant::now());
        }
        self.outbox.set_stuck(is_stuck);
    }

    /// When a byte last moved, if the client's socket is full.
    pub(super) fn stuck_since(&self) -> Option<Instant> {
        self.outbox.is_stuck().then(|| self.moved.get())
    }

    /// Writes what the socket takes. `Pending`: it takes no more now.
    pub(super) fn poll_flush(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut socket = self.socket.borrow_mut();
        let mut socket = Pin::new(&mut *socket);
        while self.outbox.bytes() > 0 {
            let written = self.outbox.with_slices(|slices| match slices {
                // What waits is mostly in one piece, and the kernel takes that more cheaply.
                [one] => socket.as_mut().poll_write(cx, one),
                many => socket.as_mut().poll_write_vectored(cx, many),
            });
            match written {
                Poll::Ready(Ok(written)) if written > 0 => {
                    self.outbox.advance(written);
                    if self.outbox.is_stuck() {
                        self.moved.set(Instant::now());
                    }
                }
                Poll::Ready(_) => {
                    self.phase.set(Phase::Broken);
                    return Poll::Ready(());
                }
                Poll::Pending => return Poll::Pending,
            }
        }
        // Under TLS, what was taken may still wait for the socket below.
        socket.poll_flush(cx).map(|flushed| {
            if flushed.is_err() {
                self.phase.set(Phase::Broken);
            }
        })
    }

    /// Says that nothing more comes from us.
    pub(super) fn poll_shutdown(&self, cx: &mut Context<'_>) {
        // The connection ends in any case, at the latest by its time-out.
        let _ = Pin::new(&mut *self.socket.borrow_mut()).poll_shutdown(cx);
    }

    /// Queues an answer of our own; the client that has no room for it reads too slowly.
    pub(super) fn answer(&self, frame: Vec<u8>) {
        if self.outbox.answer(frame).is_err() {
            self.hang_up(Disconnect::SlowConsumer);
        }
    }

    /// Queues text messages.
    pub(super) fn say(&self, answers: &[String]) {
        for answer in answers {
            self.answer(frame::frame(OpCode::Text, answer.as_bytes()));
        }
    }

    /// Nothing more is offered to it. Its place in the hub stays until the task ends, or another
    /// session could get the same id meanwhile.
    pub(super) fn unsubscribe_all(&self) {
        self.dialect.borrow_mut().leave();
    }
}

impl Output for Connection {
    /// Called by the worker, not by the task: a socket that is full wakes the task, which then
    /// waits for it. While it waits, the worker keeps its hands off, or the wake-up would be lost.
    fn flush(&self) {
        if self.outbox.is_overflown() {
            self.hang_up(Disconnect::SlowConsumer);
        }
        if self.outbox.is_stuck() {
            return;
        }
        let flushed = self.poll_flush(&mut Context::from_waker(Waker::noop()));
        self.set_stuck(flushed.is_pending());
        if flushed.is_pending() || self.phase.get() == Phase::Broken {
            self.bell.ring();
        }
    }

    fn hang_up(&self, disconnect: Disconnect) {
        if self.phase.get() != Phase::Open {
            return;
        }
        let (code, reason) = disconnect.code_and_reason();
        log::debug!(session = self.id.number(), code; "hanging up: {reason}");
        self.worker.shared.metrics.disconnect(disconnect);
        self.phase.set(Phase::Closing { until: Instant::now() + CLOSE_TIMEOUT });
        self.unsubscribe_all();
        let close = frame::close_frame(disconnect);
        if disconnect.gives_up_queue() {
            self.outbox.replace_with(close);
        } else {
            self.outbox.close_with(close);
        }
        self.bell.ring();
    }

    fn judge(&self, tokens: &Tokens, now: Timestamp) -> Option<Disconnect> {
        let Reaction { answers, disconnect, .. } = self.dialect.borrow_mut().judge(tokens, now);
        if self.phase.get() == Phase::Open && !answers.is_empty() {
            self.say(&answers);
            self.bell.ring();
        }
        disconnect
    }
}
