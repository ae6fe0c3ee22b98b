//! Events on their way out: a batch in order, encoded once for each wire that somebody wants.
//!
//! Made by the log, handed to every worker, offered by each hub to its outboxes. A client's queue
//! holds places in its bytes, never bytes of its own, while it keeps up.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use shared::event::Event;
use shared::memory::{Held, Memory};

use crate::cursor::{Cursor, Epoch};
use crate::log::tally::Tally;

/// A way to write events on a wire. The bytes of a publication are made at most once for each.
#[derive(Debug)]
pub struct Format {
    /// Which of a publication's slots is this format's.
    slot: Slot,
    /// Appends one event.
    encode: fn(&Placed<'_>, &mut Vec<u8>),
    /// Events that were written so, since the process began.
    encoded: AtomicU64,
}

/// The formats that there are.
#[derive(Debug, Clone, Copy)]
pub enum Slot {
    /// The native protocol.
    Native,
    /// The native protocol, with cursors.
    NativeCursor,
    /// CloudEvents on a WebSocket.
    CloudEvents,
    /// CloudEvents on a WebSocket, with cursors.
    CloudEventsCursor,
    /// Server-Sent Events that are the data.
    Sse,
    /// Server-Sent Events that are CloudEvents.
    SseCloudEvents,
    /// Phoenix channels, as objects.
    PhoenixV1,
    /// Phoenix channels, as lists.
    PhoenixV2,
}

const SLOTS: usize = 8;

/// An event and its place.
#[derive(Debug, Clone, Copy)]
pub struct Placed<'a> {
    /// The life of the log.
    pub epoch: &'a Epoch,
    /// The place in it.
    pub offset: u64,
    /// The event.
    pub event: &'a Event,
}

impl Placed<'_> {
    /// The place as clients are told it.
    pub fn cursor(&self) -> Cursor {
        self.epoch.at(self.offset)
    }
}

impl Format {
    /// A format that appends one event so.
    pub const fn new(slot: Slot, encode: fn(&Placed<'_>, &mut Vec<u8>)) -> Self {
        Self { slot, encode, encoded: AtomicU64::new(0) }
    }

    /// What it is called in metrics.
    pub fn name(&self) -> &'static str {
        match self.slot {
            Slot::Native => "native",
            Slot::NativeCursor => "native-cursor",
            Slot::CloudEvents => "cloudevents",
            Slot::CloudEventsCursor => "cloudevents-cursor",
            Slot::Sse => "sse",
            Slot::SseCloudEvents => "sse-cloudevents",
            Slot::PhoenixV1 => "phoenix-v1",
            Slot::PhoenixV2 => "phoenix-v2",
        }
    }

    /// Events that were written so, since the process began.
    pub fn encoded(&self) -> u64 {
        self.encoded.load(Ordering::Relaxed)
    }

    /// Events as frames, one behind the other.
    pub fn frames<'a>(
        &self,
        events: impl Iterator<Item = Placed<'a>>,
        memory: &Arc<Memory>,
    ) -> Arc<Frames> {
        let mut frames = Frames::empty(memory);
        for event in events {
            frames.append(|bytes| (self.encode)(&event, bytes));
        }
        frames.settle();
        // Once for many events: all threads share the count.
        let count = u64::try_from(frames.ends.len()).unwrap_or_default();
        self.encoded.fetch_add(count, Ordering::Relaxed);
        Arc::new(frames)
    }
}

/// What one commit of the log took, in order, on its way out.
#[derive(Debug)]
pub struct Publication {
    epoch: Epoch,
    first_offset: u64,
    events: Vec<Event>,
    tallies: Vec<(usize, Arc<Tally>)>,
    formatted: [OnceLock<Arc<Frames>>; SLOTS],
    memory: Arc<Memory>,
    held: Held,
}

impl Publication {
    /// Puts events in their order; the first has `first_offset`, each further one the next.
    pub fn new(epoch: Epoch, first_offset: u64, events: Vec<Event>, memory: &Arc<Memory>) -> Self {
        let held = memory.hold(events.iter().map(Event::size).sum());
        Self {
            epoch,
            first_offset,
            events,
            tallies: Vec::new(),
            formatted: Default::default(),
            memory: Arc::clone(memory),
            held,
        }
    }

    /// With counts for those events, by their index, whose publishers ask.
    pub fn with_tallies(self, tallies: Vec<(usize, Arc<Tally>)>) -> Self {
        Self { tallies, ..self }
    }

    /// What the events occupy, in bytes.
    pub fn bytes(&self) -> usize {
        self.held.bytes()
    }

    /// The offset of the last event.
    pub fn last_offset(&self) -> u64 {
        self.first_offset + u64::try_from(self.events.len()).unwrap_or_default() - 1
    }

    /// The events with their offsets and their places in the frames of every format.
    pub fn iter(&self) -> impl Iterator<Item = (u64, usize, &Event)> {
        let numbered = (self.first_offset..).zip(self.events.iter().enumerate());
        numbered.map(|(offset, (index, event))| (offset, index, event))
    }

    /// The count of the event at an index, if its publisher asks.
    pub fn tally(&self, index: usize) -> Option<&Tally> {
        if self.tallies.is_empty() {
            return None;
        }
        let at = self.tallies.binary_search_by_key(&index, |(index, _)| *index).ok()?;
        self.tallies.get(at).map(|(_, tally)| &**tally)
    }

    /// Adds the part of a worker to which this does not go.
    pub fn count_none(&self) {
        for (_, tally) in &self.tallies {
            tally.add(0);
        }
    }

    /// The events as bytes, made by the first who asks.
    pub fn frames(&self, format: &Format) -> Option<&Arc<Frames>> {
        let slot = self.formatted.get(format.slot as usize)?;
        Some(slot.get_or_init(|| {
            let placed =
                self.iter().map(|(offset, _, event)| Placed { epoch: &self.epoch, offset, event });
            format.frames(placed, &self.memory)
        }))
    }
}

/// Frames of one wire, one behind the other, on the account of memory.
#[derive(Debug)]
pub struct Frames {
    bytes: Vec<u8>,
    /// Where each frame ends.
    ends: Vec<usize>,
    held: Held,
}

impl Frames {
    /// No frames yet.
    pub fn empty(memory: &Arc<Memory>) -> Self {
        Self { bytes: Vec::new(), ends: Vec::new(), held: memory.hold(0) }
    }

    /// One frame.
    pub fn of(frame: Vec<u8>, memory: &Arc<Memory>) -> Self {
        let held = memory.hold(frame.capacity());
        Self { ends: vec![frame.len()], bytes: frame, held }
    }

    /// Appends what `encode` appends, as one frame.
    pub fn push_with(&mut self, encode: impl FnOnce(&mut Vec<u8>)) {
        self.append(encode);
        self.settle();
    }

    fn append(&mut self, encode: impl FnOnce(&mut Vec<u8>)) {
        encode(&mut self.bytes);
        self.ends.push(self.bytes.len());
    }

    /// Enters what it has grown to: once for many frames, for all threads share the account.
    fn settle(&mut self) {
        self.held.resize(self.bytes.capacity());
    }

    /// Where the frame of this index lies.
    pub fn range(&self, index: usize) -> (usize, usize) {
        let end_of = |index: Option<usize>| index.and_then(|index| self.ends.get(index)).copied();
        let start = end_of(index.checked_sub(1)).unwrap_or(0);
        (start, end_of(Some(index)).unwrap_or(start))
    }

    /// The bytes between two places.
    pub fn slice(&self, start: usize, end: usize) -> &[u8] {
        self.bytes.get(start..end).unwrap_or_default()
    }

    /// How many bytes there are.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether there is no frame.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// The start of the frame that begins at `place` or has it as an inner byte.
    pub fn start_of_frame_around(&self, place: usize) -> usize {
        let ended = self.ends.partition_point(|&end| end <= place);
        ended.checked_sub(1).and_then(|index| self.ends.get(index)).copied().unwrap_or(0)
    }

    /// The end of the frame of which `place` is an inner byte; `None` if a frame begins there.
    pub fn end_of_frame_around(&self, place: usize) -> Option<usize> {
        match self.ends.binary_search(&place) {
            Ok(_) => None,
            Err(_) if place == 0 => None,
            Err(index) => self.ends.get(index).copied(),
        }
    }

    /// The places between `start` and `end` at which frames end.
    pub fn ends_within(&self, start: usize, end: usize) -> impl Iterator<Item = usize> {
        let from = self.ends.partition_point(|&it| it <= start);
        self.ends.iter().skip(from).copied().take_while(move |&it| it <= end)
    }
}
