//! The sending end of the link: one connection a worker thread, many events in flight.
//!
//! Ways in hand over an [`Event`] and wait for its [`Receipt`]. One task owns the socket: what
//! waits leaves in one write, and one number acknowledges all that came before it. While broadcast
//! is away, events wait here, each until its time-out.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::BytesMut;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use tokio::net::UnixStream;
use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::codec::{Decoder as _, LengthDelimitedCodec};

use crate::event::Event;
use crate::link::frame::{self, Frame, Hello, Request, VERSION};
use crate::link::{
    ASK_AFTER, FRAME_BYTES_BESIDE_BODY, IN_FLIGHT_BYTES_MAX, IN_FLIGHT_EVENTS_MAX, LinkAddress,
    LinkError, Receipt, SILENCE_MAX, unix,
};
use crate::memory::{Held, Memory};

/// Events that wait for the link on one worker; beyond it a publisher is refused at once.
const WAITING_EVENTS_MAX: usize = 10_000;
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
    /// How long an event may wait for its receipt.
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
    queue: Rc<Queue>,
}

#[derive(Debug)]
struct Queue {
    settings: Settings,
    memory: Arc<Memory>,
    state: Arc<LinkState>,
    entries: RefCell<Entries>,
    /// Something new waits.
    waiting: Notify,
}

#[derive(Debug, Default)]
struct Entries {
    /// Not sent yet, in order.
    waiting: VecDeque<Entry>,
    /// Sent and not decided, in order of their numbers.
    in_flight: VecDeque<(u64, Entry)>,
    in_flight_bytes: usize,
    last_number: u64,
    frame_bytes_max: usize,
}

#[derive(Debug)]
struct Entry {
    event: Event,
    #[expect(dead_code, reason = "on the account until it is dropped")]
    held: Held,
    bytes: usize,
    accepted: Instant,
    deadline: Instant,
    /// Taken when the publisher was answered before the event was decided.
    publisher: Option<oneshot::Sender<Result<Receipt, LinkError>>>,
}

impl Entry {
    fn answer(&mut self, answer: Result<Receipt, LinkError>) {
        if let Some(publisher) = self.publisher.take() {
            // A publisher that has left needs no answer.
            let _ = publisher.send(answer);
        }
    }

    fn is_given_up(&self) -> bool {
        self.publisher.as_ref().is_none_or(oneshot::Sender::is_closed)
    }
}

impl Sender {
    /// Starts the task that keeps the connection. It ends when the thread does.
    pub fn start(settings: Settings, memory: Arc<Memory>, state: Arc<LinkState>) -> Self {
        let queue = Rc::new(Queue {
            settings,
            memory,
            state,
            entries: RefCell::default(),
            waiting: Notify::new(),
        });
        tokio::task::spawn_local(keep_connected(Rc::clone(&queue)));
        Self { queue }
    }

    /// Sends an event and waits for its receipt, in all at most the publish time-out.
    ///
    /// Cancel-safe: an event whose publisher leaves before it was sent is not sent.
    ///
    /// # Errors
    ///
    /// [`LinkError`] says whether the event may have been taken.
    pub async fn send(&self, event: Event) -> Result<Receipt, LinkError> {
        let (publisher, answer) = oneshot::channel();
        self.queue.push(event, publisher)?;
        answer.await.unwrap_or(Err(LinkError::Undecided))
    }
}

impl Queue {
    fn push(
        &self,
        event: Event,
        publisher: oneshot::Sender<Result<Receipt, LinkError>>,
    ) -> Result<(), LinkError> {
        let mut entries = self.entries.borrow_mut();
        // The full rule: who waits already goes first, who comes now is refused and may retry.
        if entries.waiting.len() >= WAITING_EVENTS_MAX || self.memory.is_short() {
            return Err(LinkError::Unreachable);
        }
        let bytes = event.size();
        let held = self.memory.hold(bytes);
        let accepted = Instant::now();
        let deadline = accepted + self.settings.publish_timeout;
        entries.waiting.push_back(Entry {
            event,
            held,
            bytes,
            accepted,
            deadline,
            publisher: Some(publisher),
        });
        self.waiting.notify_one();
        Ok(())
    }
}

impl Entries {
    /// Moves what there is room for into flight, and appends its frames.
    fn send(&mut self, out: &mut BytesMut) {
        while let Some(entry) = self.waiting.front() {
            let has_room = self.in_flight.len() < IN_FLIGHT_EVENTS_MAX
                && self.in_flight_bytes + entry.bytes <= IN_FLIGHT_BYTES_MAX;
            if !has_room && !self.in_flight.is_empty() {
                return;
            }
            let Some(mut entry) = self.waiting.pop_front() else { return };
            if entry.is_given_up() {
                continue;
            }
            if entry.bytes + FRAME_BYTES_BESIDE_BODY / 2 > self.frame_bytes_max {
                entry.answer(Err(LinkError::TooLarge));
                continue;
            }
            self.last_number += 1;
            frame::encode_event(self.last_number, &entry.event, out);
            self.in_flight_bytes += entry.bytes;
            self.in_flight.push_back((self.last_number, entry));
        }
    }

    /// Answers all publishers up to this number; says when the first of them came.
    fn acknowledge(&mut self, highest: u64) -> Option<Instant> {
        let oldest = self.in_flight.front().map(|(_, entry)| entry.accepted);
        while self.in_flight.front().is_some_and(|(number, _)| *number <= highest) {
            let Some((_, mut entry)) = self.in_flight.pop_front() else { break };
            self.in_flight_bytes -= entry.bytes;
            entry.answer(Ok(Receipt));
        }
        oldest
    }

    /// Broadcast has no room for the event of this number.
    fn refuse(&mut self, refused: u64) {
        let Ok(at) = self.in_flight.binary_search_by_key(&refused, |(number, _)| *number) else {
            return;
        };
        if let Some((_, mut entry)) = self.in_flight.remove(at) {
            self.in_flight_bytes -= entry.bytes;
            entry.answer(Err(LinkError::Unreachable));
        }
    }

    /// Broadcast took none of what is in flight: it goes again, in the same order.
    fn take_back(&mut self) {
        self.in_flight_bytes = 0;
        while let Some((_, entry)) = self.in_flight.pop_back() {
            self.waiting.push_front(entry);
        }
    }

    /// The connection broke: nobody knows whether broadcast has what was in flight.
    fn lose(&mut self) {
        self.in_flight_bytes = 0;
        for (_, mut entry) in self.in_flight.drain(..) {
            entry.answer(Err(LinkError::Undecided));
        }
    }

    /// Answers publishers whose time is over. What is in flight stays there until it is decided,
    /// for it still takes up room at the other end.
    fn expire(&mut self, now: Instant) {
        for (_, entry) in &mut self.in_flight {
            if entry.deadline > now {
                break;
            }
            entry.answer(Err(LinkError::Undecided));
        }
        while self.waiting.front().is_some_and(|entry| entry.deadline <= now) {
            let Some(mut entry) = self.waiting.pop_front() else { return };
            entry.answer(Err(LinkError::Unreachable));
        }
    }

    /// When the next publisher's time is over. All have the same time-out, so the queues are in
    /// order of it.
    fn next_deadline(&self) -> Option<Instant> {
        let in_flight = self.in_flight.iter().map(|(_, entry)| entry);
        let undecided = in_flight.clone().find(|entry| entry.publisher.is_some());
        let deadlines = undecided.into_iter().chain(self.waiting.front());
        deadlines.map(|entry| entry.deadline).min()
    }
}

/// Connects, converses, and comes again, for as long as the thread lives.
async fn keep_connected(queue: Rc<Queue>) {
    let mut backoff = BACKOFF_MIN;
    let mut is_reported = false;
    loop {
        match Conversation::begin(&queue).await {
            Ok(conversation) => {
                log::info!("the link is up");
                (backoff, is_reported) = (BACKOFF_MIN, false);
                queue.state.connected.fetch_add(1, Ordering::Relaxed);
                let ended = conversation.run().await;
                queue.state.connected.fetch_sub(1, Ordering::Relaxed);
                log::warn!("the link is down: {ended}");
                queue.entries.borrow_mut().lose();
            }
            Err(error) if !is_reported => {
                is_reported = true;
                log::warn!("broadcast cannot be reached, trying on: {error}");
            }
            Err(_) => {}
        }
        let pause = backoff.mul_f64(0.5 + fastrand::f64() / 2.0);
        wait_and_expire(&queue, Instant::now() + pause).await;
        backoff = (backoff * 2).min(BACKOFF_MAX);
    }
}

/// Sleeps, and answers those whose time is over meanwhile.
async fn wait_and_expire(queue: &Queue, until: Instant) {
    while Instant::now() < until {
        let next = queue.entries.borrow().next_deadline().unwrap_or(until);
        sleep_until(next.min(until)).await;
        queue.entries.borrow_mut().expire(Instant::now());
    }
}

/// One connection, from hello to its end.
struct Conversation<'a> {
    queue: &'a Queue,
    stream: UnixStream,
    splitter: LengthDelimitedCodec,
    read: BytesMut,
    out: BytesMut,
    last_heard: Instant,
    is_asked: bool,
    requests: u64,
}

impl<'a> Conversation<'a> {
    /// Connects and exchanges hellos.
    async fn begin(queue: &'a Queue) -> io::Result<Self> {
        let LinkAddress::Unix(path) = &queue.settings.address;
        let mut conversation = Self {
            queue,
            stream: unix::connect(path, &queue.settings.uids).await?,
            splitter: frame::splitter(FRAME_BYTES_MAX),
            read: BytesMut::new(),
            out: BytesMut::new(),
            last_heard: Instant::now(),
            is_asked: false,
            requests: 0,
        };
        let frame_bytes_max = u32::try_from(FRAME_BYTES_MAX).unwrap_or(u32::MAX);
        Frame::Hello(Hello { version: VERSION, frame_bytes_max }).encode(&mut conversation.out);
        let hello = timeout(HELLO_TIMEOUT, conversation.expect_hello());
        let hello = hello.await.map_err(|_| io::Error::other("it does not say hello"))??;
        if hello.version != VERSION {
            let fault = format!("it speaks version {} and we {VERSION}", hello.version);
            return Err(io::Error::other(fault));
        }
        let mut entries = queue.entries.borrow_mut();
        entries.frame_bytes_max = usize::try_from(hello.frame_bytes_max).unwrap_or(usize::MAX);
        if entries.frame_bytes_max < queue.settings.body_bytes_max {
            log::warn!("broadcast's MAX_BODY is smaller than ours: larger events are refused");
        }
        drop(entries);
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
            self.stream.readable().await?;
            self.fill()?;
        }
    }

    /// Converses until the connection ends. Arms, in this order: something came (receipts that
    /// have come go before time-outs that have passed, so that a process that was stopped and goes
    /// on gives no false time-out); room to write; something new waits; a time-out.
    async fn run(mut self) -> io::Error {
        loop {
            if let Err(error) = self.turn() {
                return self.hear_out().await.unwrap_or(error);
            }
            let ask_at = self.last_heard + if self.is_asked { SILENCE_MAX } else { ASK_AFTER };
            let next = self.queue.entries.borrow().next_deadline().unwrap_or(ask_at).min(ask_at);
            let heard = tokio::select! {
                biased;
                ready = self.stream.readable() => ready.and_then(|()| self.hear()),
                ready = self.stream.writable(), if !self.out.is_empty() => ready,
                () = self.queue.waiting.notified() => Ok(()),
                () = sleep_until(next) => {
                    // After a SIGCONT the timers are due before the event loop has looked at the
                    // sockets (epoll_wait ends with EINTR): it looks once before anything expires.
                    tokio::task::yield_now().await;
                    self.hear()
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
                if let Err(error) = self.stream.readable().await.and_then(|()| self.hear()) {
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
        let mut entries = self.queue.entries.borrow_mut();
        entries.expire(now);
        entries.send(&mut self.out);
        drop(entries);
        let silence = now - self.last_heard;
        if silence >= SILENCE_MAX {
            return Err(io::Error::other("broadcast is silent"));
        }
        if silence >= ASK_AFTER && !self.is_asked {
            self.is_asked = true;
            self.requests += 1;
            Frame::Request(self.requests, Request::Ping).encode(&mut self.out);
        }
        self.write()
    }

    /// Writes what the socket takes.
    fn write(&mut self) -> io::Result<()> {
        while !self.out.is_empty() {
            match self.stream.try_write(&self.out) {
                Ok(written) => bytes::Buf::advance(&mut self.out, written),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Reads what has come.
    fn fill(&mut self) -> io::Result<()> {
        self.read.reserve(READ_BYTES);
        match self.stream.try_read_buf(&mut self.read) {
            Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
            _ => Ok(()),
        }
    }

    fn hear(&mut self) -> io::Result<()> {
        self.fill()?;
        while let Some(bytes) = self.splitter.decode(&mut self.read)? {
            self.last_heard = Instant::now();
            self.is_asked = false;
            let mut entries = self.queue.entries.borrow_mut();
            match Frame::decode(bytes.freeze()).map_err(io::Error::other)? {
                Frame::Receipt(highest) => {
                    // Once a receipt, not once an event: the histogram takes a lock.
                    if let Some(oldest) = entries.acknowledge(highest) {
                        let seconds = oldest.elapsed().as_secs_f64();
                        self.queue.state.receipt_seconds.observe(seconds);
                    }
                }
                Frame::Refusal(number) => entries.refuse(number),
                Frame::Goodbye => {
                    entries.take_back();
                    return Err(io::Error::other("broadcast is stopping"));
                }
                Frame::Answer(_) => {}
                Frame::Hello(_) | Frame::Event(..) | Frame::Request(..) => {
                    return Err(io::Error::other("broadcast sent what only listen may send"));
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
