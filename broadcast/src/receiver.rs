//! The receiving end of the link: what senders send goes to the log, receipts go back.

use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf as _, BytesMut};
use prometheus_client::metrics::counter::Counter;
use shared::event::Event;
use shared::link::frame::{self, Frame, Hello, VERSION};
use shared::link::unix::{Rendezvous, RendezvousError};
use shared::link::{FRAME_BYTES_BESIDE_BODY, LinkAddress, SILENCE_MAX};
use shared::memory::Memory;
use tokio::io::AsyncReadExt as _;
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use tokio_util::codec::{Decoder as _, LengthDelimitedCodec};

use crate::log::{Inbox, Progress, Submission};

/// One read takes at most so much, unless a single frame is larger.
const READ_BYTES: usize = 32 * 1024;
/// What may wait for a sender that does not read.
const OUT_BYTES_MAX: usize = 64 * 1024;
/// Senders at a time: a worker thread of each `listen` has one connection.
const SENDERS_MAX: usize = 1024;
/// How long the accept rests when the process is out of descriptors.
const EXHAUSTED_REST: Duration = Duration::from_millis(100);

/// What a receiver needs to know.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where senders come to.
    pub address: LinkAddress,
    /// The group whose members may come too.
    pub group: Option<u32>,
    /// Users, beside our own, that senders may run as.
    pub uids: Vec<u32>,
    /// The largest body that an event may have come in.
    pub body_bytes_max: usize,
}

/// What all senders' connections share.
#[derive(Debug, Clone)]
struct Parts {
    inbox: Inbox,
    memory: Arc<Memory>,
    frame_bytes_max: usize,
    taken: Counter,
    refused: Counter,
}

/// The place where senders come to.
#[derive(Debug)]
pub struct Receiver {
    rendezvous: Rendezvous,
    uids: Vec<u32>,
    parts: Parts,
}

impl Receiver {
    /// Opens the place. `taken` counts events that went to the log, `refused` those for which
    /// there was no room.
    ///
    /// # Errors
    ///
    /// [`RendezvousError`] says why it cannot be opened.
    pub async fn open(
        settings: Settings,
        inbox: Inbox,
        memory: Arc<Memory>,
        taken: Counter,
        refused: Counter,
    ) -> Result<Self, RendezvousError> {
        let LinkAddress::Unix(path) = settings.address;
        let rendezvous = Rendezvous::open(&path, settings.group).await?;
        let frame_bytes_max = settings.body_bytes_max + FRAME_BYTES_BESIDE_BODY;
        let parts = Parts { inbox, memory, frame_bytes_max, taken, refused };
        Ok(Self { rendezvous, uids: settings.uids, parts })
    }

    /// Serves senders until told to stop; then lets the log finish what it has, tells the senders
    /// up to where that is, and takes the socket away. Arms: a stop; a sender comes.
    pub async fn run(self, mut stop: watch::Receiver<bool>) {
        let mut senders = JoinSet::new();
        let to_senders = stop.clone();
        loop {
            tokio::select! {
                () = stopped(&mut stop) => break,
                accepted = self.rendezvous.accept(&self.uids), if senders.len() < SENDERS_MAX => {
                    match accepted {
                        Ok(stream) => {
                            let sender = Conversation::new(stream, self.parts.clone());
                            senders.spawn_local(sender.run(to_senders.clone()));
                        }
                        Err(error) => {
                            log::error!("no sender can be accepted for now: {error}");
                            tokio::time::sleep(EXHAUSTED_REST).await;
                        }
                    }
                }
                Some(_) = senders.join_next() => {}
            }
        }
        while senders.join_next().await.is_some() {}
    }
}

/// One sender's connection.
struct Conversation {
    reader: OwnedReadHalf,
    writer: OwnedWriteHalf,
    parts: Parts,
    splitter: LengthDelimitedCodec,
    read: BytesMut,
    out: BytesMut,
    progress: Rc<Progress>,
    submitted: u64,
    acknowledged: u64,
    has_greeted: bool,
    last_heard: Instant,
}

impl Conversation {
    fn new(stream: UnixStream, parts: Parts) -> Self {
        let mut out = BytesMut::new();
        let frame_bytes_max = u32::try_from(parts.frame_bytes_max).unwrap_or(u32::MAX);
        Frame::Hello(Hello { version: VERSION, frame_bytes_max }).encode(&mut out);
        let (reader, writer) = stream.into_split();
        Self {
            reader,
            writer,
            splitter: frame::splitter(parts.frame_bytes_max),
            parts,
            read: BytesMut::new(),
            out,
            progress: Rc::default(),
            submitted: 0,
            acknowledged: 0,
            has_greeted: false,
            last_heard: Instant::now(),
        }
    }

    async fn run(mut self, stop: watch::Receiver<bool>) {
        log::info!("a sender has come");
        match self.converse(stop).await {
            Ok(()) => log::info!("a sender was told to come again"),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                log::info!("a sender has gone");
            }
            Err(error) => log::warn!("a sender's link has ended: {error}"),
        }
    }

    /// Arms: a stop; the log has moved; room to write; something came; silence.
    async fn converse(&mut self, mut stop: watch::Receiver<bool>) -> io::Result<()> {
        loop {
            self.acknowledge();
            self.write()?;
            let silent_at = self.last_heard + SILENCE_MAX;
            self.read.reserve(READ_BYTES);
            tokio::select! {
                // What came goes before the silence that it ends.
                biased;
                () = stopped(&mut stop) => return self.say_goodbye().await,
                () = self.progress.moved() => {}
                ready = self.writer.writable(), if !self.out.is_empty() => ready?,
                // A sender that does not read is not listened to either.
                read = self.reader.read_buf(&mut self.read), if self.out.len() < OUT_BYTES_MAX => {
                    if read? == 0 {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                    self.hear().await?;
                }
                () = sleep_until(silent_at) => return Err(io::Error::other("the sender is silent")),
            }
        }
    }

    /// Hands over what has come whole.
    async fn hear(&mut self) -> io::Result<()> {
        self.last_heard = Instant::now();
        let mut events = Vec::new();
        let mut bytes = 0;
        // One look for all that came at once: a loop over single events must not ask anew.
        let is_short = self.parts.memory.is_short();
        while let Some(frame) = self.splitter.decode(&mut self.read)? {
            let frame = Frame::decode(frame.freeze()).map_err(io::Error::other)?;
            match frame {
                Frame::Hello(hello) if !self.has_greeted => self.greet(hello)?,
                _ if !self.has_greeted => {
                    return Err(io::Error::other("it does not begin with a hello"));
                }
                Frame::Event(number, ..) if is_short => {
                    self.parts.refused.inc();
                    Frame::Refusal(number).encode(&mut self.out);
                }
                Frame::Event(number, _, event) => {
                    bytes += event.size();
                    events.push(event);
                    self.submitted = number;
                }
                Frame::Request(number, frame::Request::Ping) => {
                    Frame::Answer(number, 0).encode(&mut self.out);
                }
                _ => return Err(io::Error::other("it sent what only broadcast may send")),
            }
        }
        self.submit(events, bytes).await
    }

    fn greet(&mut self, hello: Hello) -> io::Result<()> {
        if hello.version != VERSION {
            let fault = format!("it speaks version {} and we {VERSION}", hello.version);
            return Err(io::Error::other(fault));
        }
        self.has_greeted = true;
        Ok(())
    }

    async fn submit(&mut self, events: Vec<Event>, bytes: usize) -> io::Result<()> {
        if events.is_empty() {
            return Ok(());
        }
        self.parts.taken.inc_by(u64::try_from(events.len()).unwrap_or_default());
        let progress = Rc::clone(&self.progress);
        let submission = Submission { events, bytes, last_number: self.submitted, progress };
        self.parts.inbox.submit(submission).await.map_err(io::Error::other)
    }

    fn acknowledge(&mut self) {
        let taken = self.progress.taken();
        if taken > self.acknowledged {
            self.acknowledged = taken;
            Frame::Receipt(taken).encode(&mut self.out);
        }
    }

    fn write(&mut self) -> io::Result<()> {
        while !self.out.is_empty() {
            match self.writer.try_write(&self.out) {
                Ok(written) => self.out.advance(written),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Waits for the log, then says up to where it has come, and that nothing more is taken.
    async fn say_goodbye(&mut self) -> io::Result<()> {
        while self.progress.taken() < self.submitted {
            self.progress.moved().await;
        }
        self.acknowledge();
        Frame::Goodbye.encode(&mut self.out);
        while !self.out.is_empty() {
            self.writer.writable().await?;
            self.write()?;
        }
        Ok(())
    }
}

/// Waits for the word to stop; an end of the process that does not say so is one, too.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|is_stopping| *is_stopping).await;
}
