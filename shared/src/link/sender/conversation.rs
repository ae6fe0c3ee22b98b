//! One connection of the [`sender`](crate::link::sender), from hello to its end.

use std::io;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::AsyncReadExt as _;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::codec::{Decoder as _, LengthDelimitedCodec};

use crate::link::frame::{self, Frame, Hello, VERSION};
use crate::link::sender::Desk;
use crate::link::{ASK_AFTER, LinkAddress, SILENCE_MAX, unix};

/// How long the other end may take to say hello.
const HELLO_TIMEOUT: Duration = Duration::from_secs(2);
/// What broadcast sends us is small.
const FRAME_BYTES_MAX: usize = 64 * 1024;
/// One read takes at most so much.
const READ_BYTES: usize = 16 * 1024;

/// One connection, from hello to its end.
pub(super) struct Conversation<'a> {
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
    pub(super) async fn begin(desk: &'a Desk) -> io::Result<Self> {
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
    pub(super) async fn run(mut self) -> io::Error {
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
