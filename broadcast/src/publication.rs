//! Events on their way out: a batch in order, encoded once for each wire that somebody wants.
//!
//! Made by the log, handed to every worker, offered by each hub to its outboxes. A client's queue
//! holds places in a batch's bytes, never bytes of its own, while it keeps up.

use std::sync::{Arc, OnceLock};

use shared::event::Event;
use shared::memory::{Held, Memory};

/// A way to write events on a wire. Its bytes are made at most once a batch.
#[derive(Debug)]
pub struct Format {
    /// Which of a batch's slots is this format's.
    slot: Slot,
    /// Appends one event.
    encode: fn(&Event, &mut Vec<u8>),
}

#[derive(Debug, Clone, Copy)]
enum Slot {
    Native,
}

impl Format {
    /// The format of the native protocol.
    pub const fn native(encode: fn(&Event, &mut Vec<u8>)) -> Self {
        Self { slot: Slot::Native, encode }
    }
}

/// What one turn of the log took, in order.
#[derive(Debug)]
pub struct Batch {
    first_offset: u64,
    events: Vec<Event>,
    native: OnceLock<Arc<Frames>>,
    memory: Arc<Memory>,
    held: Held,
}

impl Batch {
    /// What the events occupy, in bytes.
    pub fn bytes(&self) -> usize {
        self.held.bytes()
    }

    /// Puts events in their order; the first has `first_offset`, each further one the next.
    pub fn new(first_offset: u64, events: Vec<Event>, memory: &Arc<Memory>) -> Self {
        let held = memory.hold(events.iter().map(Event::size).sum());
        Self { first_offset, events, native: OnceLock::new(), memory: Arc::clone(memory), held }
    }

    /// The events with their offsets and their places in the frames of every format.
    pub fn iter(&self) -> impl Iterator<Item = (u64, usize, &Event)> {
        let numbered = (self.first_offset..).zip(self.events.iter().enumerate());
        numbered.map(|(offset, (index, event))| (offset, index, event))
    }

    /// The batch as bytes, made by the first who asks.
    pub fn frames(&self, format: &Format) -> &Arc<Frames> {
        let slot = match format.slot {
            Slot::Native => &self.native,
        };
        slot.get_or_init(|| {
            let mut frames = Frames::empty(&self.memory);
            for event in &self.events {
                frames.append(|bytes| (format.encode)(event, bytes));
            }
            frames.settle();
            Arc::new(frames)
        })
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
