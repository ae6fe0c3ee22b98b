//! A session that still reads the log, at its client's pace, before it joins the hub.
//!
//! It reads a little, queues it, and reads on when the client has taken it: a resume of any length
//! costs one excerpt of memory, and holds nobody up. When its place has reached the worker's
//! position it joins the hub in that same turn, with no await in between: no gap, no repeat, and no
//! outbox that fills behind its back.

use std::fmt;
use std::future::Future;
use std::mem;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use shared::pattern::Pattern;

use crate::archive::{Opening, ReadError, Recovery, Start};
use crate::filter::{Filter, Narrow};
use crate::log::reader::Excerpt;
use crate::outbox::Outbox;
use crate::publication::{Format, Frames, Placed};
use crate::worker::Worker;

/// What one excerpt holds, about.
const EXCERPT_BYTES: usize = 32 * 1024;
/// The client has room for the next excerpt while less than this waits for it.
const WAITING_BYTES_MAX: usize = 64 * 1024;

/// A session that still reads the log. While it lives, its worker's position moves.
pub struct CatchUp {
    worker: Rc<Worker>,
    outbox: Rc<Outbox>,
    format: &'static Format,
    patterns: Vec<Pattern>,
    filter: Arc<Filter>,
    /// What is wanted up to here is queued.
    place: u64,
    /// Nothing was queued yet, and it begins with whatever is kept: if that is freed meanwhile, it
    /// begins with what is kept then.
    is_free_to_begin: bool,
    work: Work,
}

/// What is going on.
enum Work {
    /// Finding out where to begin.
    Open(Pin<Box<dyn Future<Output = Result<Opening, ReadError>>>>),
    Nothing,
    Read(Pin<Box<dyn Future<Output = Result<Excerpt, ReadError>>>>),
    /// Read, and not all queued yet.
    Queue(Ready),
}

/// An excerpt as frames.
struct Ready {
    frames: Arc<Frames>,
    offsets: Vec<u64>,
    next: usize,
    place: u64,
}

impl Ready {
    /// What the next frame takes.
    fn next_bytes(&self) -> usize {
        let (start, end) = self.frames.range(self.next);
        end - start
    }
}

/// What became of one turn.
#[derive(Debug, PartialEq, Eq)]
pub enum Turn {
    /// It is known where the stream begins.
    Opened(Opening),
    /// Everything up to this offset is queued, and what follows is live.
    Joined(u64),
}

impl CatchUp {
    /// Begins to read what `patterns` match, from `start` on.
    pub fn new(
        worker: &Rc<Worker>,
        outbox: &Rc<Outbox>,
        format: &'static Format,
        patterns: Vec<Pattern>,
        narrow: Narrow,
        start: Start,
    ) -> Self {
        let live = worker.with_hub(|hub| {
            hub.attend();
            hub.position()
        });
        let filter = Arc::new(Filter::new(&patterns, narrow));
        // At a time, too, it may turn out to begin with the oldest.
        let is_free_to_begin = matches!(start, Start::First | Start::Since(_));
        let (archive, wanted) = (Arc::clone(&worker.shared.archive), Arc::clone(&filter));
        let open = async move { archive.open(&start, &wanted, live).await };
        Self {
            worker: Rc::clone(worker),
            outbox: Rc::clone(outbox),
            format,
            patterns,
            filter,
            place: 0,
            is_free_to_begin,
            work: Work::Open(Box::pin(open)),
        }
    }

    /// Whether it is not known yet where to begin.
    pub fn is_opening(&self) -> bool {
        matches!(self.work, Work::Open(_))
    }

    /// Takes other patterns from now on: what was not wanted before is wanted from the log's end
    /// on, as for a session that is live.
    pub fn set_patterns<'a>(&mut self, patterns: impl Iterator<Item = &'a Pattern>) {
        let patterns: Vec<Pattern> = patterns.cloned().collect();
        if patterns == self.patterns {
            return;
        }
        let end = self.worker.shared.archive.end();
        let mut filter = Filter::new([], self.filter.narrow.clone());
        for pattern in &patterns {
            // A part of what was wanted before was wanted as long.
            let wider = self.patterns.iter().filter(|it| it.covers(pattern));
            let since = wider.map(|it| self.filter.wanted_behind(it)).min();
            filter.add(pattern, since.unwrap_or(end));
        }
        self.filter = Arc::new(filter);
        self.patterns = patterns;
        // What was found by the old patterns, and is not queued yet, is looked for again.
        if let Work::Queue(ready) = &self.work
            && let Some(queued) = ready.next.checked_sub(1)
        {
            self.place = ready.offsets.get(queued).copied().unwrap_or(self.place);
        }
        if !self.is_opening() {
            self.work = Work::Nothing;
        }
    }

    /// Whether the next turn can do something though nothing has happened.
    pub fn can_go_on(&self) -> bool {
        match &self.work {
            Work::Open(_) | Work::Read(_) => false,
            Work::Nothing => self.has_room(0),
            // To look again at a frame that does not fit would be a turn without end.
            Work::Queue(ready) => self.has_room(ready.next_bytes()),
        }
    }

    fn has_room(&self, bytes: usize) -> bool {
        let waiting = self.outbox.bytes();
        waiting == 0 || waiting + bytes <= WAITING_BYTES_MAX.min(self.outbox.bytes_max() / 2)
    }

    /// Does one turn. `Pending`: the disk is waited for, which will wake the task; or the client,
    /// and then there is [something to do](Self::can_go_on) once its outbox has room.
    ///
    /// # Errors
    ///
    /// [`ReadError`]: the session cannot go on.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Turn, ReadError>> {
        match &mut self.work {
            Work::Open(open) => {
                let opened = std::task::ready!(open.as_mut().poll(cx));
                self.work = Work::Nothing;
                Poll::Ready(opened.map(|opening| {
                    self.place = opening.place;
                    let is_oldest = opening.place <= self.worker.shared.archive.kept_from();
                    self.is_free_to_begin = (self.is_free_to_begin && is_oldest)
                        || matches!(opening.recovered, Some(Recovery::Broken { .. }));
                    Turn::Opened(opening)
                }))
            }
            Work::Read(read) => {
                let excerpt = std::task::ready!(read.as_mut().poll(cx));
                self.take(excerpt, cx)
            }
            Work::Queue(_) => {
                self.queue();
                self.yield_now(cx)
            }
            Work::Nothing => self.read(cx),
        }
    }

    /// Whether nothing is left between its place and what is live.
    fn is_there(&self) -> bool {
        matches!(self.work, Work::Nothing)
            && self.place >= self.worker.with_hub(|hub| hub.position())
    }

    fn read(&mut self, cx: &mut Context<'_>) -> Poll<Result<Turn, ReadError>> {
        if self.is_there() {
            return Poll::Ready(Ok(Turn::Joined(self.place)));
        }
        if !self.has_room(0) {
            return Poll::Pending;
        }
        let archive = Arc::clone(&self.worker.shared.archive);
        // What is new is read at once, on this thread: nothing can come between it and the joining.
        match archive.read_recent(self.place, &self.filter, EXCERPT_BYTES) {
            Ok(Some(excerpt)) => self.take(Ok(excerpt), cx),
            Ok(None) => {
                let (place, filter) = (self.place, Arc::clone(&self.filter));
                let read = async move { archive.read(place, &filter, EXCERPT_BYTES).await };
                self.work = Work::Read(Box::pin(read));
                self.poll(cx)
            }
            Err(error) => self.take(Err(error), cx),
        }
    }

    fn take(
        &mut self,
        excerpt: Result<Excerpt, ReadError>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Turn, ReadError>> {
        let excerpt = match excerpt {
            Ok(excerpt) => excerpt,
            Err(ReadError::Freed) if self.is_free_to_begin => {
                self.place = self.place.max(self.worker.shared.archive.kept_from());
                self.work = Work::Nothing;
                return self.yield_now(cx);
            }
            Err(error) => return Poll::Ready(Err(error)),
        };
        let Excerpt { events, place } = excerpt;
        if events.is_empty() {
            self.place = place;
            self.work = Work::Nothing;
        } else {
            let archive = &self.worker.shared.archive;
            let placed = events.iter().map(|(offset, event)| Placed {
                epoch: &archive.epoch,
                offset: *offset,
                event,
            });
            let frames = self.format.frames(placed, &self.worker.shared.memory);
            let offsets = events.iter().map(|(offset, _)| *offset).collect();
            self.work = Work::Queue(Ready { frames, offsets, next: 0, place });
            self.queue();
        }
        // It joins in this very turn, before anything else can be published.
        if self.is_there() {
            return Poll::Ready(Ok(Turn::Joined(self.place)));
        }
        self.yield_now(cx)
    }

    /// Queues what the outbox has room for.
    fn queue(&mut self) {
        let Work::Queue(mut ready) = mem::replace(&mut self.work, Work::Nothing) else { return };
        let begun = ready.next;
        while ready.next < ready.offsets.len()
            && self.has_room(ready.next_bytes())
            && self.outbox.offer(&ready.frames, ready.next).is_ok()
        {
            ready.next += 1;
        }
        self.worker.count_deliveries(ready.next - begun);
        self.is_free_to_begin &= ready.next == 0;
        if ready.next == ready.offsets.len() {
            self.place = ready.place;
        } else {
            self.work = Work::Queue(ready);
        }
    }

    /// Others have their turn before the next one, if there is something to do in it.
    fn yield_now(&self, cx: &mut Context<'_>) -> Poll<Result<Turn, ReadError>> {
        if self.can_go_on() {
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    }
}

impl Drop for CatchUp {
    fn drop(&mut self) {
        self.worker.with_hub(|hub| hub.neglect());
    }
}

impl fmt::Debug for CatchUp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CatchUp").field("place", &self.place).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
