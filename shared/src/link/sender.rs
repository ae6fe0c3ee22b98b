//! The sending end of the link: one connection a worker thread, many events in flight.
//!
//! Ways in hand over an [`Event`] and wait for its [`Receipt`], or ask how many sessions one would
//! reach. One task owns the socket: what waits leaves in one write, and one number acknowledges all
//! that came before it. While broadcast is away, all wait here, each until its time-out.

use std::cell::RefCell;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::BytesMut;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use tokio::io::AsyncReadExt as _;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::codec::{Decoder as _, LengthDelimitedCodec};

use crate::event::{Event, EventType};
use crate::link::frame::{self, Frame, Hello, Terms, VERSION};
use crate::link::questions::Questions;
use crate::link::queue::Queue;
use crate::link::{ASK_AFTER, LinkAddress, LinkError, Receipt, SILENCE_MAX, unix};
use crate::memory::Memory;

/// HARDENING: the pause before another try to connect, doubled each time.
const BACKOFF_MIN: Duration = Duration::from_millis(20);
const BACKOFF_MAX: Duration = Duration::from_millis(250);
/// How long the other end may take to say hello.
const HELLO_TIMEOUT: Duration = Duration::from_secs(2);
/// What broadcast sends us is small.
const FRAME_BYTES_MAX: usize = 64 * 1024;
/// One read takes at most so much.
const READ_BYTES: usize = 16 * 1024;

/// What a sender needs to know.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where broadcast is.
    pub address: LinkAddress,
    /// Users, beside our own, that broadcast may run as.
    pub uids: Vec<u32>,
    /// How long an event may wait for its receipt, and a question for its answer.
    pub publish_timeout: Duration,
    /// The largest body that ways in let pass.
    pub body_bytes_max: usize,
}

/// The state of all links of a process, for `/readyz` and metrics.
#[derive(Debug)]
pub struct LinkState {
    connected: AtomicUsize,
    /// From the acceptance of an event to its receipt, in seconds: the oldest of each receipt.
    pub receipt_seconds: Histogram,
}

impl Default for LinkState {
    fn default() -> Self {
        let receipt_seconds = Histogram::new(exponential_buckets(0.000_1, 2.0, 17));
        Self { connected: AtomicUsize::new(0), receipt_seconds }
    }
}

impl LinkState {
    /// How many workers have their link.
    pub fn connected(&self) -> usize {
        self.connected.load(Ordering::Relaxed)
    }
}

/// The sending end of the link. Lives on one thread.
#[derive(Debug, Clone)]
pub struct Sender {
    desk: Rc<Desk>,
}

/// What ways in and the link's task share.
#[derive(Debug)]
struct Desk {
    settings: Settings,
    state: Arc<LinkState>,
    queue: RefCell<Queue>,
    questions: RefCell<Questions>,
    /// Something new waits.
    waiting: Notify,
}

impl Sender {
    /// Starts the task that keeps the connection. It ends when the thread does.
    pub fn start(settings: Settings, memory: Arc<Memory>, state: Arc<LinkState>) -> Self {
        let queue = RefCell::new(Queue::new(settings.publish_timeout, memory));
        let questions = RefCell::new(Questions::new(settings.publish_timeout));
        let desk = Rc::new(Desk { settings, state, queue, questions, waiting: Notify::new() });
        tokio::task::spawn_local(keep_connected(Rc::clone(&desk)));
        Self { desk }
    }

    /// Queues an event, behind all that were queued before. Its receipt is waited for, and the
    /// account if the terms say so, in all for at most the publish time-out.
    ///
    /// An event is not sent if what is returned was dropped before.
    ///
    /// # Errors
    ///
    /// [`LinkError::Unreachable`] if there is no room.
    pub fn send(&self, event: Event, terms: Terms) -> Result<Underway, LinkError> {
        let (reply, answer) = oneshot::channel();
        self.desk.queue.borrow_mut().push(event, terms, reply, Instant::now())?;
        self.desk.waiting.notify_one();
        Ok(Underway { answer })
    }

    /// Asks to how many sessions an event of this type and of so many bytes would be queued, and
    /// waits for the answer for at most the publish time-out.
    ///
    /// Cancel-safe: nothing becomes of a question.
    ///
    /// # Errors
    ///
    /// [`LinkError::Unreachable`] or [`LinkError::TooLarge`], as the event itself would have.
    pub async fn count(&self, event_type: EventType, bytes: usize) -> Result<u32, LinkError> {
        let (reply, answer) = oneshot::channel();
        self.desk.questions.borrow_mut().push(event_type, reply, Instant::now())?;
        self.desk.waiting.notify_one();
        let sessions = answer.await.unwrap_or(Err(LinkError::Unreachable))?;
        // Only a broadcast that has said hello has said what it takes.
        if self.desk.queue.borrow().is_too_large(bytes) {
            return Err(LinkError::TooLarge);
        }
        Ok(sessions)
    }
}

/// An event on its way: ends with its receipt, or with an error that says whether it may have been
/// taken.
#[derive(Debug)]
pub struct Underway {
    answer: oneshot::Receiver<Result<Receipt, LinkError>>,
}

impl Future for Underway {
    type Output = Result<Receipt, LinkError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let answer = std::task::ready!(Pin::new(&mut self.answer).poll(cx));
        Poll::Ready(answer.unwrap_or(Err(LinkError::Undecided)))
    }
}

impl Desk {
    /// Answers those whose time is over.
    fn expire(&self, now: Instant) {
        self.queue.borrow_mut().expire(now);
        self.questions.borrow_mut().expire(now);
    }

    /// When the next time is over.
    fn next_deadline(&self) -> Option<Instant> {
        let next = [self.queue.borrow().next_deadline(), self.questions.borrow().next_deadline()];
        next.into_iter().flatten().min()
    }

    /// The connection has ended.
    fn lose(&self) {
        self.queue.borrow_mut().lose();
        self.questions.borrow_mut().take_back();
    }
}

/// Connects, converses, and comes again, for as long as the thread lives.
async fn keep_connected(desk: Rc<Desk>) {
    let mut backoff = BACKOFF_MIN;
    let mut is_reported = false;
    loop {
        match expire_while(&desk, Conversation::begin(&desk)).await {
            Ok(conversation) => {
                log::info!("the link is up");
                (backoff, is_reported) = (BACKOFF_MIN, false);
                desk.state.connected.fetch_add(1, Ordering::Relaxed);
                let ended = conversation.run().await;
                desk.state.connected.fetch_sub(1, Ordering::Relaxed);
                log::warn!("the link is down: {ended}");
                desk.lose();
            }
            Err(error) if !is_reported => {
                is_reported = true;
                log::warn!("broadcast cannot be reached, trying on: {error}");
            }
            Err(_) => {}
        }
        let pause = backoff.mul_f64(0.5 + fastrand::f64() / 2.0);
        expire_while(&desk, tokio::time::sleep(pause)).await;
        backoff = (backoff * 2).min(BACKOFF_MAX);
    }
}

/// Waits for something else, and answers those whose time is over meanwhile. Arms: what is waited
/// for; somebody new, whose time may be the next to be over; the next time that is over.
async fn expire_while<T>(desk: &Desk, awaited: impl Future<Output = T>) -> T {
    const NOBODY_WAITS: Duration = Duration::from_secs(60);
    tokio::pin!(awaited);
    loop {
        let next = desk.next_deadline();
        tokio::select! {
            biased;
            output = &mut awaited => return output,
            () = desk.waiting.notified() => {}
            () = sleep_until(next.unwrap_or_else(|| Instant::now() + NOBODY_WAITS)) => {
                desk.expire(Instant::now());
            }
        }
    }
}

/// One connection, from hello to its end.
struct Conversation<'a> {
    desk: &'a Desk,
    reader: OwnedReadHalf,
    writer: OwnedWriteHalf,
    splitter: LengthDelimitedCodec,
    read: BytesMut,
    out: BytesMut,
    last_heard: Instant,
    is_asked: bool,
}

impl<'a> Conversation<'a> {
    /// Connects and exchanges hellos.
    async fn begin(desk: &'a Desk) -> io::Result<Self> {
        let LinkAddress::Unix(path) = &desk.settings.address;
        let (reader, writer) = unix::connect(path, &desk.settings.uids).await?.into_split();
        let mut conversation = Self {
            desk,
            reader,
            writer,
            splitter: frame::splitter(FRAME_BYTES_MAX),
            read: BytesMut::new(),
            out: BytesMut::new(),
            last_heard: Instant::now(),
            is_asked: false,
        };
        let frame_bytes_max = u32::try_from(FRAME_BYTES_MAX).unwrap_or(u32::MAX);
        Frame::Hello(Hello { version: VERSION, frame_bytes_max }).encode(&mut conversation.out);
        let hello = timeout(HELLO_TIMEOUT, conversation.expect_hello());
        let hello = hello.await.map_err(|_| io::Error::other("it does not say hello"))??;
        if hello.version != VERSION {
            let fault = format!("it speaks version {} and we {VERSION}", hello.version);
            return Err(io::Error::other(fault));
        }
        let frame_bytes_max = usize::try_from(hello.frame_bytes_max).unwrap_or(usize::MAX);
        if frame_bytes_max < desk.settings.body_bytes_max {
            log::warn!("broadcast's MAX_BODY is smaller than ours: larger events are refused");
        }
        desk.queue.borrow_mut().set_frame_bytes_max(frame_bytes_max);
        Ok(conversation)
    }

    async fn expect_hello(&mut self) -> io::Result<Hello> {
        self.write()?;
        loop {
            if let Some(bytes) = self.splitter.decode(&mut self.read)? {
                return match Frame::decode(bytes.freeze()).map_err(io::Error::other)? {
                    Frame::Hello(hello) => Ok(hello),
                    _ => Err(io::Error::other("it does not begin with a hello")),
                };
            }
            self.read.reserve(READ_BYTES);
            check_read(self.reader.read_buf(&mut self.read).await)?;
        }
    }

    /// Converses until the connection ends. Arms, in this order: something came (receipts that
    /// have come go before time-outs that have passed, so that a process that was stopped and goes
    /// on gives no false time-out); room to write; something new waits; a time-out.
    async fn run(mut self) -> io::Error {
        loop {
            // With its hello broadcast may have said its goodbye already.
            if let Err(error) = self.hear() {
                return error;
            }
            if let Err(error) = self.turn() {
                return self.hear_out().await.unwrap_or(error);
            }
            let ask_at = self.last_heard + if self.is_asked { SILENCE_MAX } else { ASK_AFTER };
            let next = self.desk.next_deadline().unwrap_or(ask_at).min(ask_at);
            self.read.reserve(READ_BYTES);
            let heard = tokio::select! {
                biased;
                read = self.reader.read_buf(&mut self.read) => check_read(read),
                ready = self.writer.writable(), if !self.out.is_empty() => ready,
                () = self.desk.waiting.notified() => Ok(()),
                () = sleep_until(next) => {
                    // After a SIGCONT the timers are due before the event loop has looked at the
                    // sockets (epoll_wait ends with EINTR): it looks once before anything expires.
                    tokio::task::yield_now().await;
                    self.fill()
                }
            };
            if let Err(error) = heard {
                return error;
            }
        }
    }

    /// Nothing can be written any more. What broadcast said before it hung up still counts: its
    /// last receipts, and that it took nothing after them.
    async fn hear_out(&mut self) -> Option<io::Error> {
        let heard = async {
            loop {
                let read = self.reader.read_buf(&mut self.read).await;
                if let Err(error) = check_read(read).and_then(|()| self.hear()) {
                    return error;
                }
            }
        };
        // Who hung up has said all there is; a socket that fails otherwise is not waited for.
        timeout(HELLO_TIMEOUT, heard).await.ok()
    }

    /// What there is to do whenever the task runs.
    fn turn(&mut self) -> io::Result<()> {
        let now = Instant::now();
        self.desk.expire(now);
        self.desk.queue.borrow_mut().send(&mut self.out);
        let mut questions = self.desk.questions.borrow_mut();
        questions.send(&mut self.out);
        let silence = now - self.last_heard;
        if silence >= SILENCE_MAX {
            return Err(io::Error::other("broadcast is silent"));
        }
        if silence >= ASK_AFTER && !self.is_asked {
            self.is_asked = true;
            questions.ping(&mut self.out);
        }
        drop(questions);
        self.write()
    }

    /// Writes what the socket takes.
    fn write(&mut self) -> io::Result<()> {
        while !self.out.is_empty() {
            match self.writer.try_write(&self.out) {
                Ok(written) => bytes::Buf::advance(&mut self.out, written),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Reads what is there, without waiting.
    fn fill(&mut self) -> io::Result<()> {
        match self.reader.try_read_buf(&mut self.read) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            read => check_read(read),
        }
    }

    /// Takes in what has come whole.
    fn hear(&mut self) -> io::Result<()> {
        while let Some(bytes) = self.splitter.decode(&mut self.read)? {
            self.last_heard = Instant::now();
            self.is_asked = false;
            let mut queue = self.desk.queue.borrow_mut();
            match Frame::decode(bytes.freeze()).map_err(io::Error::other)? {
                Frame::Receipt(highest) => {
                    // Once a receipt, not once an event: the histogram takes a lock.
                    if let Some(oldest) = queue.acknowledge(highest) {
                        let seconds = oldest.elapsed().as_secs_f64();
                        self.desk.state.receipt_seconds.observe(seconds);
                    }
                }
                Frame::Refusal(number) => queue.refuse(number),
                Frame::Account(number, account) => queue.account(number, account),
                Frame::Answer(number, count) => {
                    self.desk.questions.borrow_mut().answer(number, count);
                }
                Frame::Goodbye => {
                    queue.take_back();
                    return Err(io::Error::other("broadcast is stopping"));
                }
                Frame::Hello(_) | Frame::Event(..) | Frame::Request(..) => {
                    return Err(io::Error::other("broadcast sent what only listen may send"));
                }
            }
        }
        Ok(())
    }
}

/// A read of nothing is the end.
fn check_read(read: io::Result<usize>) -> io::Result<()> {
    if read? == 0 { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(()) }
}

#[cfg(test)]
mod tests;
