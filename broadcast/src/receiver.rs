//! The receiving end of the link: what senders send goes to the log, receipts go back.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf as _, BytesMut};
use prometheus_client::metrics::counter::Counter;
use shared::link::frame::{self, Account, Frame, Hello, Request, VERSION};
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

use crate::cursor::Epoch;
use crate::log::submission::{Arrival, Entry, Inbox, News, Progress, Submission};
use crate::log::tally::Tally;

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
    refused: Counter,
    epoch: Epoch,
}

/// The place where senders come to.
#[derive(Debug)]
pub struct Receiver {
    rendezvous: Rendezvous,
    uids: Vec<u32>,
    parts: Parts,
}

impl Receiver {
    /// Opens the place. `refused` counts events for which there was no room; `epoch` is the life of
    /// the log.
    ///
    /// # Errors
    ///
    /// [`RendezvousError`] says why it cannot be opened.
    pub async fn open(
        settings: Settings,
        inbox: Inbox,
        memory: Arc<Memory>,
        refused: Counter,
        epoch: Epoch,
    ) -> Result<Self, RendezvousError> {
        let LinkAddress::Unix(path) = settings.address;
        let rendezvous = Rendezvous::open(&path, settings.group).await?;
        let frame_bytes_max = settings.body_bytes_max + FRAME_BYTES_BESIDE_BODY;
        let parts = Parts { inbox, memory, frame_bytes_max, refused, epoch };
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
    progress: Arc<Progress>,
    submitted: u64,
    acknowledged: u64,
    /// Events whose publishers wait to hear what became of them, and whom every worker still has to
    /// count.
    uncounted: Vec<Uncounted>,
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
            progress: Arc::default(),
            submitted: 0,
            acknowledged: 0,
            uncounted: Vec::new(),
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
                () = self.progress.moved.notified() => {}
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
        let mut entries = Vec::new();
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
                Frame::Event(number, terms, event) => {
                    bytes += event.size();
                    entries.push(Entry { number, terms, event });
                    self.submitted = number;
                }
                Frame::Request(number, Request::Ping) => {
                    Frame::Answer(number, 0).encode(&mut self.out);
                }
                Frame::Request(number, Request::Count(event_type)) => {
                    // What was sent before the question goes before it.
                    self.submit(std::mem::take(&mut entries), std::mem::take(&mut bytes)).await?;
                    let tally = self.parts.inbox.tally(&self.progress.moved);
                    let asked = Uncounted::Question { number, tally: Arc::clone(&tally) };
                    self.uncounted.push(asked);
                    let question = Submission::Count(event_type, tally);
                    self.parts.inbox.submit(question).await.map_err(io::Error::other)?;
                }
                _ => return Err(io::Error::other("it sent what only broadcast may send")),
            }
        }
        self.submit(entries, bytes).await
    }

    fn greet(&mut self, hello: Hello) -> io::Result<()> {
        if hello.version != VERSION {
            let fault = format!("it speaks version {} and we {VERSION}", hello.version);
            return Err(io::Error::other(fault));
        }
        self.has_greeted = true;
        Ok(())
    }

    async fn submit(&mut self, entries: Vec<Entry>, bytes: usize) -> io::Result<()> {
        if entries.is_empty() {
            return Ok(());
        }
        let progress = Arc::clone(&self.progress);
        let last_number = self.submitted;
        let submission = Submission::Events(Arrival { entries, bytes, last_number, progress });
        self.parts.inbox.submit(submission).await.map_err(io::Error::other)
    }

    fn acknowledge(&mut self) {
        let taken = self.progress.taken();
        for news in self.progress.take_news() {
            match news {
                News::Refused(number) => Frame::Refusal(number).encode(&mut self.out),
                News::Placed { number, offset, tally } => {
                    self.uncounted.push(Uncounted::Event { number, offset, tally });
                }
            }
        }
        let (epoch, out) = (&self.parts.epoch, &mut self.out);
        self.uncounted.retain(|it| !it.tell(epoch, out));
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
        loop {
            let is_taken = self.progress.taken() >= self.submitted;
            self.acknowledge();
            if is_taken && self.uncounted.is_empty() {
                break;
            }
            self.progress.moved.notified().await;
        }
        Frame::Goodbye.encode(&mut self.out);
        while !self.out.is_empty() {
            self.writer.writable().await?;
            self.write()?;
        }
        Ok(())
    }
}

/// What a sender is to be told when every worker has counted.
#[derive(Debug)]
enum Uncounted {
    Event { number: u64, offset: u64, tally: Option<Arc<Tally>> },
    Question { number: u64, tally: Arc<Tally> },
}

impl Uncounted {
    /// Says it if it can be said.
    fn tell(&self, epoch: &Epoch, out: &mut BytesMut) -> bool {
        let tally = match self {
            Self::Event { tally, .. } => tally.as_ref(),
            Self::Question { tally, .. } => Some(tally),
        };
        // An event whose first publisher did not ask was not counted: this time it was queued to
        // nobody.
        let Some(matched) = tally.map_or(Some(0), |tally| tally.total()) else { return false };
        match self {
            Self::Event { number, offset, .. } => {
                let cursor = epoch.at(*offset).to_string().into();
                Frame::Account(*number, Account { cursor, matched }).encode(out);
            }
            Self::Question { number, .. } => Frame::Answer(*number, matched).encode(out),
        }
        true
    }
}

/// Waits for the word to stop; an end of the process that does not say so is one, too.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|is_stopping| *is_stopping).await;
}
