//! One client's connection after the upgrade.
//!
//! Shared between its task, which reads and keeps the time, and its worker, which writes what the
//! hub has queued without waking the task.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use actix_http::ws::OpCode;
use bytes::Bytes;
use jiff::Timestamp;
use shared::principal::Principal;
use shared::server::Admission;
use shared::socket::Socket;
use shared::tokens::Tokens;
use tokio::io::{AsyncRead as _, AsyncWrite as _, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

use crate::census::Place;
use crate::disconnect::Disconnect;
use crate::hub::SessionId;
use crate::outbox::Outbox;
use crate::outputs::websocket::native::{self, Court, Native, Reaction};
use crate::outputs::websocket::reader::{Incoming, Reader};
use crate::pace::Pace;
use crate::worker::{Output, Worker};

/// WIRE §1.4: a silent client is pinged after so long.
const PING_AFTER: Duration = Duration::from_secs(30);
/// WIRE §1.4: and let go after so long.
const SILENCE_MAX: Duration = Duration::from_secs(60);
/// HARDENING: an outbox of which no byte moved for so long ends its session.
const STALL_MAX: Duration = Duration::from_secs(15);
/// HARDENING: a close that takes longer becomes a reset.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);
/// What is read and thrown away after our Close; a client that sends more is not waited for.
const DISCARD_BYTES_MAX: usize = 1024 * 1024;
/// HARDENING: frames before a credential was shown.
const NEWCOMER_FRAMES: (u32, u32) = (100, 100);
/// HARDENING: pings a second, and at once.
const PINGS: (u32, u32) = (10, 50);
/// Reads in a row before the other tasks of the thread have a turn.
const READS_A_TURN: usize = 8;

/// What the task and the worker share.
#[derive(Debug)]
struct Connection {
    id: SessionId,
    socket: RefCell<Socket>,
    outbox: Rc<Outbox>,
    native: RefCell<Native>,
    phase: Cell<Phase>,
    /// When a byte last moved, while some wait.
    moved: Cell<Instant>,
    waker: RefCell<Option<Waker>>,
    worker: Rc<Worker>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
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
    /// Writes what the socket takes. `Pending`: it takes no more now.
    fn poll_flush(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut socket = self.socket.borrow_mut();
        let mut socket = Pin::new(&mut *socket);
        loop {
            if self.outbox.bytes() == 0 {
                break;
            }
            let written =
                self.outbox.with_slices(|slices| socket.as_mut().poll_write_vectored(cx, slices));
            match written {
                Poll::Ready(Ok(written)) if written > 0 => {
                    self.outbox.advance(written);
                    self.moved.set(Instant::now());
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
    fn poll_shutdown(&self, cx: &mut Context<'_>) {
        // The connection ends in any case, at the latest by its time-out.
        let _ = Pin::new(&mut *self.socket.borrow_mut()).poll_shutdown(cx);
    }

    /// Queues an answer of our own; the client that has no room for it reads too slowly.
    fn answer(&self, frame: Vec<u8>) {
        let was_empty = self.outbox.bytes() == 0;
        if self.outbox.answer(frame).is_err() {
            self.hang_up(Disconnect::SlowConsumer);
        } else if was_empty {
            self.moved.set(Instant::now());
        }
    }

    fn wake(&self) {
        if let Some(waker) = &*self.waker.borrow() {
            waker.wake_by_ref();
        }
    }

    /// Nothing more is offered to it. Its place in the hub stays until the task ends, or another
    /// session could get the same id meanwhile.
    fn unsubscribe_all(&self) {
        if let Some(session) = self.native.borrow_mut().session_mut() {
            self.worker.with_hub(|hub| session.unsubscribe_all(hub));
        }
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
        if self.outbox.bytes() > 0 {
            self.moved.set(Instant::now());
        }
        let flushed = self.poll_flush(&mut Context::from_waker(Waker::noop()));
        if flushed.is_pending() {
            self.outbox.set_stuck(true);
        }
        if flushed.is_pending() || self.phase.get() == Phase::Broken {
            self.wake();
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
        let close = native::close_frame(disconnect);
        if disconnect.gives_up_queue() || self.outbox.answer(close.clone()).is_err() {
            self.outbox.replace_with(close);
        }
        self.wake();
    }

    fn judge(&self, tokens: &Tokens, now: Timestamp) -> Option<Disconnect> {
        self.native.borrow_mut().session_mut()?.judge(tokens, now)
    }
}

/// The task of one connection. Dropping it ends the connection.
#[derive(Debug)]
pub struct Client {
    connection: Rc<Connection>,
    reader: Reader,
    timer: Pin<Box<Sleep>>,
    arrival: u64,
    place: Place,
    frames: Pace,
    pings: Pace,
    last_heard: Instant,
    is_pinged: bool,
    init_deadline: Option<Instant>,
    /// An answer that waits, because its address guesses tokens; nothing is read meanwhile.
    held_back: Option<(Instant, Reaction)>,
    discarded: usize,
    /// Nothing that comes is understood any more; it is only taken off the socket, for unread
    /// bytes would turn the end into a reset that can overtake our Close.
    is_deaf: bool,
    #[expect(dead_code, reason = "the connection's place until it is dropped")]
    admission: Admission,
}

impl Client {
    /// Takes over a connection that was upgraded. `first` came behind the request.
    pub fn new(
        worker: Rc<Worker>,
        (socket, mut admission): (Socket, Admission),
        first: &Bytes,
        place: Place,
        principal: Option<Arc<Principal>>,
    ) -> Self {
        admission.unleash();
        let now = Instant::now();
        let limits = Arc::clone(&worker.shared.limits);
        let memory = &worker.shared.memory;
        let outbox = Rc::new(Outbox::new(limits.outbox_bytes_max, memory));
        let id = worker.with_hub(|hub| hub.enter(Rc::clone(&outbox), &native::FORMAT));
        let is_known = principal.is_some();
        let connection = Rc::new(Connection {
            id,
            socket: RefCell::new(socket),
            outbox,
            native: RefCell::new(Native::new(id, principal)),
            phase: Cell::new(Phase::Open),
            moved: Cell::new(now),
            waker: RefCell::default(),
            worker: Rc::clone(&worker),
        });
        let init_deadline = limits.init_timeout.map(|timeout| now + timeout);
        let (rate, burst) = NEWCOMER_FRAMES;
        let mut client = Self {
            arrival: worker.enter(id, Rc::<Connection>::clone(&connection)),
            connection,
            reader: Reader::new(limits.message_bytes_max, first),
            timer: Box::pin(sleep_until(now + PING_AFTER)),
            place,
            frames: Pace::new(rate, burst, now.into_std()),
            pings: Pace::new(PINGS.0, PINGS.1, now.into_std()),
            last_heard: now,
            is_pinged: false,
            init_deadline,
            held_back: None,
            discarded: 0,
            is_deaf: false,
            admission,
        };
        if is_known {
            client.settle();
        } else {
            worker.expect(client.arrival, id);
        }
        client
    }

    /// Ends a session whose task has panicked: a last word, if the socket takes it.
    pub fn apologise(output: &dyn Output) {
        output.hang_up(Disconnect::Internal);
        output.flush();
    }

    /// The worker that it belongs to.
    pub fn worker(&self) -> Rc<Worker> {
        Rc::clone(&self.connection.worker)
    }

    /// The worker's hold on the connection.
    pub fn output(&self) -> Rc<dyn Output> {
        Rc::<Connection>::clone(&self.connection)
    }

    fn settle(&mut self) {
        if self.place.settle() {
            self.init_deadline = None;
            self.connection.worker.settle(self.arrival);
            let rate = self.connection.worker.shared.limits.frames_per_second;
            self.frames.set(rate, rate);
        }
    }

    /// Reads once; `Pending` if nothing has come.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let worker = Rc::clone(&self.connection.worker);
        worker.with_scratch(|scratch| {
            let mut buf = ReadBuf::new(scratch);
            let mut socket = self.connection.socket.borrow_mut();
            let read = Pin::new(&mut *socket).poll_read(cx, &mut buf);
            drop(socket);
            match read {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(())) if !buf.filled().is_empty() => {
                    self.last_heard = Instant::now();
                    self.is_pinged = false;
                    self.hear(buf.filled());
                }
                Poll::Ready(_) => self.connection.phase.set(Phase::Broken),
            }
            Poll::Ready(())
        })
    }

    fn hear(&mut self, bytes: &[u8]) {
        if self.connection.phase.get() != Phase::Open {
            self.discarded += bytes.len();
            if self.discarded > DISCARD_BYTES_MAX {
                self.connection.phase.set(Phase::Broken);
            }
        }
        if !self.is_deaf {
            self.reader.feed(bytes);
            self.read_frames();
        }
    }

    fn read_frames(&mut self) {
        while self.held_back.is_none() && !self.is_deaf {
            match self.reader.read() {
                Ok(None) => return,
                Ok(Some(incoming)) => self.take(incoming),
                Err(disconnect) => {
                    // Where the next frame begins, nobody knows any more.
                    self.connection.hang_up(disconnect);
                    self.is_deaf = true;
                }
            }
        }
    }

    fn take(&mut self, incoming: Incoming) {
        let now = Instant::now().into_std();
        let is_open = self.connection.phase.get() == Phase::Open;
        match incoming {
            Incoming::Close(code) => self.close_back(code),
            _ if !is_open => {}
            _ if !self.frames.take(now) => self.connection.hang_up(Disconnect::Policy),
            Incoming::Ping(_) if !self.pings.take(now) => {
                self.connection.hang_up(Disconnect::Policy);
            }
            Incoming::Ping(payload) => {
                self.connection.answer(native::frame(OpCode::Pong, &payload));
            }
            Incoming::Pong | Incoming::Fragment => {}
            Incoming::Text(text) => self.receive(&text),
            Incoming::Binary => {
                let reaction = self.connection.native.borrow().receive_binary();
                self.react(reaction);
            }
        }
    }

    fn receive(&mut self, text: &str) {
        let worker = Rc::clone(&self.connection.worker);
        let tokens = worker.shared.tokens.load_full();
        let patterns_max = worker.shared.limits.patterns_max;
        let reaction = worker.with_hub(|hub| {
            let court = Court { tokens: &tokens, patterns_max, hub };
            self.connection.native.borrow_mut().receive(text, court)
        });
        if self.connection.native.borrow().session().is_some() {
            self.settle();
        }
        if reaction.is_refused {
            let now = Instant::now();
            let client = self.place.client();
            if let Some(penalty) = worker.shared.failures.record(client, now.into_std()) {
                self.held_back = Some((now + penalty, reaction));
                return;
            }
        }
        self.react(reaction);
    }

    fn react(&mut self, reaction: Reaction) {
        let code = reaction.code();
        if code != "OK" {
            self.connection.worker.shared.metrics.refuse(code);
        }
        self.connection.answer(native::frame(OpCode::Text, reaction.answer.as_bytes()));
        if let Some(disconnect) = reaction.disconnect {
            self.connection.hang_up(disconnect);
        }
    }

    /// Answers the client's Close; after both, TCP ends at once (RFC 6455 §7.1.1).
    fn close_back(&mut self, code: Option<u16>) {
        let until = Instant::now() + CLOSE_TIMEOUT;
        if self.connection.phase.get() == Phase::Open {
            self.connection.unsubscribe_all();
            let code = code.map(u16::to_be_bytes);
            let payload = code.as_ref().map_or(&[][..], <[u8; 2]>::as_slice);
            let close = native::frame(OpCode::Close, payload);
            if self.connection.outbox.answer(close.clone()).is_err() {
                self.connection.outbox.replace_with(close);
            }
        }
        self.connection.phase.set(Phase::Closed { until });
        self.is_deaf = true;
    }

    /// When there is something to do though nothing happens.
    fn next_deadline(&self) -> Instant {
        match self.connection.phase.get() {
            Phase::Closing { until } | Phase::Closed { until } => until,
            Phase::Broken => Instant::now(),
            Phase::Open => {
                let silence = if self.is_pinged { SILENCE_MAX } else { PING_AFTER };
                let stalls = self.connection.outbox.is_stuck();
                let stall = stalls.then(|| self.connection.moved.get() + STALL_MAX);
                let held_back = self.held_back.as_ref().map(|(until, _)| *until);
                [self.init_deadline, stall, held_back]
                    .into_iter()
                    .flatten()
                    .fold(self.last_heard + silence, Instant::min)
            }
        }
    }

    /// Does what is due; ready when the connection is over.
    fn tick(&mut self, now: Instant) -> Poll<()> {
        match self.connection.phase.get() {
            Phase::Broken => return Poll::Ready(()),
            Phase::Closing { until } | Phase::Closed { until } if now >= until => {
                if self.connection.outbox.bytes() > 0 {
                    self.connection.socket.borrow().abort();
                }
                return Poll::Ready(());
            }
            Phase::Closing { .. } | Phase::Closed { .. } => return Poll::Pending,
            Phase::Open => {}
        }
        if let Some((_, reaction)) = self.held_back.take_if(|(until, _)| *until <= now) {
            self.react(reaction);
            self.read_frames();
        }
        if self.init_deadline.is_some_and(|deadline| deadline <= now) {
            self.connection.hang_up(Disconnect::InitTimeout);
        } else if self.connection.outbox.is_stuck()
            && self.connection.moved.get() + STALL_MAX <= now
        {
            self.connection.hang_up(Disconnect::SlowConsumer);
        } else if self.last_heard + SILENCE_MAX <= now {
            self.connection.hang_up(Disconnect::Silent);
        } else if self.last_heard + PING_AFTER <= now && !self.is_pinged {
            self.is_pinged = true;
            self.connection.answer(native::frame(OpCode::Ping, b""));
        }
        Poll::Pending
    }

    fn is_reading(&self) -> bool {
        let is_over = matches!(self.connection.phase.get(), Phase::Closed { .. } | Phase::Broken);
        !is_over && self.held_back.is_none()
    }
}

impl Future for Client {
    type Output = ();

    /// Reads, writes, keeps the time, until the connection is over.
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        remember(&this.connection.waker, cx.waker());
        // What came behind the upgrade request is there already.
        this.read_frames();
        let mut reads = 0;
        while this.is_reading() && this.poll_read(cx).is_ready() {
            reads += 1;
            if reads == READS_A_TURN {
                cx.waker().wake_by_ref();
                break;
            }
        }
        loop {
            let now = Instant::now();
            if this.tick(now).is_ready() {
                return Poll::Ready(());
            }
            let is_stuck = this.connection.poll_flush(cx).is_pending();
            this.connection.outbox.set_stuck(is_stuck);
            let phase = this.connection.phase.get();
            let is_done = matches!(phase, Phase::Closed { .. }) && !is_stuck;
            if is_done || (this.is_deaf && !is_stuck) {
                this.connection.poll_shutdown(cx);
            }
            if is_done || phase == Phase::Broken {
                return Poll::Ready(());
            }
            let deadline = this.next_deadline();
            if this.timer.deadline() != deadline {
                this.timer.as_mut().reset(deadline);
            }
            if this.timer.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
        }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let Connection { id, worker, .. } = &*self.connection;
        self.connection.unsubscribe_all();
        worker.with_hub(|hub| hub.leave(*id));
        worker.leave(*id, self.arrival);
    }
}

fn remember(kept: &RefCell<Option<Waker>>, waker: &Waker) {
    let mut kept = kept.borrow_mut();
    if !kept.as_ref().is_some_and(|kept| kept.will_wake(waker)) {
        *kept = Some(waker.clone());
    }
}
