//! The bounded queue between the hub and one client.
//!
//! Filled by the hub and by the session's own answers, emptied into the client's socket by its
//! output. It is bounded by bytes, so that a slow reader costs its neighbours neither memory nor
//! delay.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io::IoSlice;
use std::sync::Arc;

use shared::memory::Memory;

use crate::publication::Frames;

/// A place in a shared buffer is worth keeping while it is at least this part of the buffer.
/// Below that, a stuck client would hold much more memory than its bound: its bytes are copied.
const SHARED_PART_MIN: usize = 4;
/// Copies go into one buffer up to this size. What was sent of a buffer is given back with it, so
/// a client that reads slowly but steadily must not have a single one that grows for ever.
const OWN_BYTES_MAX: usize = 64 * 1024;
/// The room for entries that an empty outbox keeps.
const IDLE_ENTRIES_MAX: usize = 4;

/// The queue to one client.
#[derive(Debug)]
pub struct Outbox {
    queue: RefCell<VecDeque<Entry>>,
    bytes: Cell<usize>,
    bytes_max: usize,
    /// The client's socket takes nothing now: what waits may wait for long.
    is_stuck: Cell<bool>,
    is_overflown: Cell<bool>,
    /// The session is ending: only its last frame is still to be written.
    is_closed: Cell<bool>,
    memory: Arc<Memory>,
}

/// Adjacent bytes of some frames.
#[derive(Debug)]
struct Entry {
    frames: Arc<Frames>,
    start: usize,
    end: usize,
}

impl Entry {
    fn len(&self) -> usize {
        self.end - self.start
    }

    fn is_worth_sharing(&self) -> bool {
        self.len() >= self.frames.len() / SHARED_PART_MIN
    }

    /// The same frames in a buffer of their own. A frame that is cut in two is copied whole, or
    /// its second half would look like a frame.
    fn to_own(&self, memory: &Arc<Memory>) -> Self {
        let whole = self.frames.start_of_frame_around(self.start);
        let mut own = Frames::empty(memory);
        let mut start = whole;
        for end in self.frames.ends_within(whole, self.end) {
            own.push_with(|bytes| bytes.extend_from_slice(self.frames.slice(start, end)));
            start = end;
        }
        Self { start: self.start - whole, end: own.len(), frames: Arc::new(own) }
    }
}

impl Outbox {
    /// An empty queue of at most `bytes_max` bytes.
    pub fn new(bytes_max: usize, memory: &Arc<Memory>) -> Self {
        Self {
            queue: RefCell::default(),
            bytes: Cell::new(0),
            bytes_max,
            is_stuck: Cell::new(false),
            is_overflown: Cell::new(false),
            is_closed: Cell::new(false),
            memory: Arc::clone(memory),
        }
    }

    /// Queues one frame out of many.
    ///
    /// The bound holds while the client's socket takes nothing. Until then the reader is not slow,
    /// we have not written yet; what one turn of the worker publishes is bounded there.
    ///
    /// # Errors
    ///
    /// [`SlowConsumer`] if it does not fit; an empty outbox takes any one frame. From then on the
    /// outbox takes nothing more: to leave out a frame and go on would be a gap that nobody is
    /// told of.
    pub fn offer(&self, frames: &Arc<Frames>, index: usize) -> Result<(), SlowConsumer> {
        let (start, end) = frames.range(index);
        let bytes = self.bytes.get() + (end - start);
        let is_full = self.is_stuck.get() && self.bytes.get() > 0 && bytes > self.bytes_max;
        if self.is_overflown.get() || is_full {
            self.is_overflown.set(true);
            return Err(SlowConsumer);
        }
        self.bytes.set(bytes);
        let mut queue = self.queue.borrow_mut();
        if let Some(last) = queue.back_mut()
            && last.end == start
            && Arc::ptr_eq(&last.frames, frames)
        {
            last.end = end;
            return Ok(());
        }
        let entry = Entry { frames: Arc::clone(frames), start, end };
        if self.is_stuck.get() && !entry.is_worth_sharing() {
            append_copy(&mut queue, &entry, &self.memory);
        } else {
            queue.push_back(entry);
        }
        Ok(())
    }

    /// Queues an answer of the session itself.
    ///
    /// # Errors
    ///
    /// [`SlowConsumer`], as [`Self::offer`].
    pub fn answer(&self, frame: Vec<u8>) -> Result<(), SlowConsumer> {
        self.offer(&Arc::new(Frames::of(frame, &self.memory)), 0)
    }

    /// Queues a last frame behind all that waits; where there is no room for it, in its place.
    pub fn close_with(&self, last: Vec<u8>) {
        if self.answer(last.clone()).is_err() {
            self.replace_with(last);
        }
        self.is_closed.set(true);
    }

    /// Gives up all that no byte of was sent, and queues a last frame. A frame that is cut in two
    /// keeps its second half, or the client could not read the last one.
    pub fn replace_with(&self, last: Vec<u8>) {
        self.is_closed.set(true);
        let mut queue = self.queue.borrow_mut();
        queue.truncate(1);
        if let Some(front) = queue.front_mut() {
            match front.frames.end_of_frame_around(front.start) {
                Some(end) => {
                    front.end = end;
                    // What was given up must not be held on to for the sake of half a frame.
                    *front = front.to_own(&self.memory);
                }
                None => queue.clear(),
            }
        }
        let frames = Arc::new(Frames::of(last, &self.memory));
        queue.push_back(Entry { start: 0, end: frames.len(), frames });
        self.bytes.set(queue.iter().map(Entry::len).sum());
    }

    /// Gives up all that waits: the session ends without a last word.
    pub fn give_up(&self) {
        self.close();
        self.queue.borrow_mut().clear();
        self.bytes.set(0);
    }

    /// The session is ending: no room can be won by ending it.
    pub fn close(&self) {
        self.is_closed.set(true);
    }

    /// Says whether the client's socket takes bytes now. While it does not, what waits is kept in
    /// copies where it would otherwise hold on to much larger buffers.
    pub fn set_stuck(&self, is_stuck: bool) {
        if is_stuck && !self.is_stuck.get() {
            for entry in self.queue.borrow_mut().iter_mut() {
                if !entry.is_worth_sharing() {
                    *entry = entry.to_own(&self.memory);
                }
            }
        }
        self.is_stuck.set(is_stuck);
    }

    /// Whether the client's socket took no more bytes the last time.
    pub fn is_stuck(&self) -> bool {
        self.is_stuck.get()
    }

    /// Whether something was offered that did not fit.
    pub fn is_overflown(&self) -> bool {
        self.is_overflown.get()
    }

    /// Whether the session is ending, and no room can be won by ending it.
    pub fn is_closed(&self) -> bool {
        self.is_closed.get()
    }

    /// The bound.
    pub fn bytes_max(&self) -> usize {
        self.bytes_max
    }

    /// Bytes that wait.
    pub fn bytes(&self) -> usize {
        self.bytes.get()
    }

    /// Shows as much of what waits as fits into one vectored write.
    pub fn with_slices<R>(&self, write: impl FnOnce(&[IoSlice<'_>]) -> R) -> R {
        const SLICES_MAX: usize = 64;
        let queue = self.queue.borrow();
        let mut slices = [IoSlice::new(&[]); SLICES_MAX];
        let mut count = 0;
        for (slice, entry) in slices.iter_mut().zip(queue.iter()) {
            *slice = IoSlice::new(entry.frames.slice(entry.start, entry.end));
            count += 1;
        }
        write(slices.get(..count).unwrap_or_default())
    }

    /// Takes off what was written.
    pub fn advance(&self, mut written: usize) {
        let mut queue = self.queue.borrow_mut();
        self.bytes.set(self.bytes.get().saturating_sub(written));
        while written > 0 {
            let Some(front) = queue.front_mut() else { return };
            if front.len() > written {
                front.start += written;
                return;
            }
            written -= front.len();
            queue.pop_front();
        }
        if queue.is_empty() && queue.capacity() > IDLE_ENTRIES_MAX {
            queue.shrink_to(0);
        }
    }
}

/// Copies an entry behind the last one, into the same buffer where that is ours alone.
fn append_copy(queue: &mut VecDeque<Entry>, entry: &Entry, memory: &Arc<Memory>) {
    if let Some(last) = queue.back_mut()
        && last.end == last.frames.len()
        && last.frames.len() < OWN_BYTES_MAX
        && let Some(own) = Arc::get_mut(&mut last.frames)
    {
        let copied = entry.frames.slice(entry.start, entry.end);
        own.push_with(|bytes| bytes.extend_from_slice(copied));
        last.end = own.len();
        return;
    }
    queue.push_back(entry.to_own(memory));
}

/// The client reads more slowly than its events come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the client reads too slowly")]
pub struct SlowConsumer;

#[cfg(test)]
mod tests;
