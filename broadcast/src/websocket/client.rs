//! The task of one client: reads what it says, and keeps the time.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use actix_http::ws::OpCode;
use bytes::Bytes;
use shared::occupancy::Admission;
use shared::socket::Socket;
use tokio::io::{AsyncRead as _, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

use crate::census::Place;
use crate::disconnect::Disconnect;
use crate::pace::Pace;
use crate::patience::{Due, Patience};
use crate::tickets::Hold;
use crate::websocket::Beginning;
use crate::websocket::connection::{CLOSE_TIMEOUT, Connection, Phase};
use crate::websocket::dialect::Reaction;
use crate::websocket::frame;
use crate::websocket::reader::{Incoming, Reader};
use crate::worker::{Output, Worker};

/// What is read and thrown away after our Close; a client that sends more is not waited for.
const DISCARD_BYTES_MAX: usize = 1024 * 1024;
/// HARDENING: frames before a credential was shown.
const NEWCOMER_FRAMES: (u32, u32) = (100, 100);
/// HARDENING: pings a second, and at once.
const PINGS: (u32, u32) = (10, 50);
/// Reads in a row before the other tasks of the thread have a turn.
const READS_A_TURN: usize = 8;

/// The task of one connection. Dropping it ends the connection.
#[derive(Debug)]
pub struct Client {
    connection: Rc<Connection>,
    reader: Reader,
    timer: Pin<Box<Sleep>>,
    arrival: u64,
    place: Place,
    patience: Patience,
    frames: Pace,
    pings: Pace,
    /// An answer that waits, because its address guesses tokens; nothing is read meanwhile.
    held_back: Option<(Instant, Reaction)>,
    /// The ticket that let it in.
    hold: Option<Hold>,
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
        Beginning { place, hold, begin }: Beginning,
    ) -> Self {
        admission.unleash();
        let now = Instant::now();
        let connection = Connection::new(Rc::clone(&worker), socket, begin);
        let limits = &worker.shared.limits;
        let patience = Patience::new(limits.init_timeout, now);
        let (rate, burst) = NEWCOMER_FRAMES;
        let mut client = Self {
            arrival: worker.enter(connection.id, Rc::<Connection>::clone(&connection)),
            connection,
            reader: Reader::new(limits.message_bytes_max, first),
            timer: Box::pin(sleep_until(patience.next(None))),
            place,
            patience,
            frames: Pace::new(rate, burst, now.into_std()),
            pings: Pace::new(PINGS.0, PINGS.1, now.into_std()),
            held_back: None,
            hold,
            discarded: 0,
            is_deaf: false,
            admission,
        };
        if client.connection.dialect.borrow().is_settled() {
            client.settle();
        } else {
            worker.expect(client.arrival, client.connection.id);
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
            self.patience.settle();
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
                    self.patience.hear(Instant::now());
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
        while self.held_back.is_none() && !self.is_deaf && !self.is_busy() {
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
                self.connection.answer(frame::frame(OpCode::Pong, &payload));
            }
            Incoming::Pong | Incoming::Fragment => {}
            Incoming::Text(text) => {
                let reaction = self.connection.dialect.borrow_mut().receive(&text);
                self.weigh(reaction);
            }
            Incoming::Binary => {
                let reaction = self.connection.dialect.borrow_mut().receive_binary();
                self.weigh(reaction);
            }
        }
    }

    /// Carries out what is to be done; later, if its address guesses credentials.
    fn weigh(&mut self, reaction: Reaction) {
        if self.connection.dialect.borrow().is_settled() {
            self.settle();
        }
        if reaction.is_unauthenticated {
            let now = Instant::now();
            let client = self.place.client();
            let failures = &self.connection.worker.shared.failures;
            if let Some(penalty) = failures.record(client, now.into_std()) {
                self.held_back = Some((now + penalty, reaction));
                return;
            }
        }
        self.react(reaction);
    }

    fn react(&self, reaction: Reaction) {
        if let Some(code) = reaction.refusal {
            self.connection.worker.shared.metrics.refuse(code);
        }
        self.connection.say(&reaction.answers);
        if let Some(disconnect) = reaction.disconnect {
            self.connection.hang_up(disconnect);
        }
    }

    /// Goes on with what takes time.
    fn follow(&mut self, cx: &mut Context<'_>) {
        let was_busy = self.is_busy();
        // Behind an answer that is held back nothing else is said.
        while self.connection.phase.get() == Phase::Open && self.held_back.is_none() {
            let polled = self.connection.dialect.borrow_mut().poll(cx);
            let Poll::Ready(reaction) = polled else { break };
            self.weigh(reaction);
        }
        if was_busy && !self.is_busy() {
            // What the client has said meanwhile can be read now.
            cx.waker().wake_by_ref();
        }
    }

    /// Answers the client's Close; after both, TCP ends at once (RFC 6455 §7.1.1).
    fn close_back(&mut self, code: Option<u16>) {
        let until = Instant::now() + CLOSE_TIMEOUT;
        if self.connection.phase.get() == Phase::Open {
            self.connection.unsubscribe_all();
            let code = code.map(u16::to_be_bytes);
            let payload = code.as_ref().map_or(&[][..], <[u8; 2]>::as_slice);
            let close = frame::frame(OpCode::Close, payload);
            self.connection.outbox.close_with(close);
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
                let next = self.patience.next(self.connection.stuck_since());
                self.held_back.as_ref().map_or(next, |(until, _)| next.min(*until))
            }
        }
    }

    /// Reads what has come. While an answer is held back nothing is read, so nothing else would wake
    /// the task: when its time has come, the reading goes on in the same turn.
    fn listen(&mut self, now: Instant, cx: &mut Context<'_>) {
        if self.connection.phase.get() != Phase::Open {
            self.held_back = None;
        }
        if let Some((_, reaction)) = self.held_back.take_if(|(until, _)| *until <= now) {
            self.react(reaction);
        }
        // What came behind the upgrade request, or behind what was held back, is there already.
        self.read_frames();
        let mut reads = 0;
        while self.is_reading() && self.poll_read(cx).is_ready() {
            reads += 1;
            if reads == READS_A_TURN {
                cx.waker().wake_by_ref();
                return;
            }
        }
    }

    /// Writes what the socket takes; ready when the last word is written.
    fn write(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let is_stuck = self.connection.poll_flush(cx).is_pending();
        self.connection.set_stuck(is_stuck);
        let phase = self.connection.phase.get();
        let is_done = matches!(phase, Phase::Closed { .. }) && !is_stuck;
        if is_done || (self.is_deaf && !is_stuck) {
            self.connection.poll_shutdown(cx);
        }
        if is_done || phase == Phase::Broken { Poll::Ready(()) } else { Poll::Pending }
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
            Phase::Closing { .. } | Phase::Closed { .. } => {
                // Whoever was let go is no longer waited for: the next may come.
                self.settle();
                return Poll::Pending;
            }
            Phase::Open => {}
        }
        if self.hold.as_ref().is_some_and(Hold::is_superseded) {
            self.connection.hang_up(Disconnect::Policy);
        }
        let is_listened_to = !self.is_busy();
        match self.patience.judge(is_listened_to, self.connection.stuck_since(), now) {
            Due::Nothing => {}
            Due::Ping => self.connection.answer(frame::frame(OpCode::Ping, b"")),
            Due::Disconnect(disconnect) => self.connection.hang_up(disconnect),
        }
        Poll::Pending
    }

    fn is_reading(&self) -> bool {
        let is_over = matches!(self.connection.phase.get(), Phase::Closed { .. } | Phase::Broken);
        !is_over && self.held_back.is_none() && !self.is_busy()
    }

    fn is_busy(&self) -> bool {
        self.connection.dialect.borrow().is_busy()
    }
}

impl Future for Client {
    type Output = ();

    /// Reads, writes, keeps the time, until the connection is over.
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        this.connection.bell.remember(cx.waker());
        loop {
            let now = Instant::now();
            this.listen(now, cx);
            this.follow(cx);
            if this.tick(now).is_ready() || this.write(cx).is_ready() {
                return Poll::Ready(());
            }
            // What was written has made room.
            if this.connection.phase.get() == Phase::Open
                && this.connection.dialect.borrow().can_go_on()
            {
                cx.waker().wake_by_ref();
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
