//! Kept events as a list of CloudEvents: what a page is, and what a Phoenix join is answered with.

use std::sync::Arc;

use shared::memory::{Held, Memory};

use crate::archive::{Archive, Opening, ReadError, Start};
use crate::cloudevents::{self, Extension};
use crate::filter::Filter;
use crate::log::reader::Excerpt;
use crate::publication::Placed;

/// A list takes no further event beyond so many bytes.
const BYTES_MAX: usize = 1024 * 1024;
/// So many readings make a list, at most: it may be empty, and the next one goes on behind it.
const READINGS_MAX: usize = 64;
/// How often a list begins anew because retention was faster.
const ATTEMPTS_MAX: usize = 8;

/// A list that is being written.
#[derive(Debug)]
pub struct Listing {
    archive: Arc<Archive>,
    /// There is nothing else for it up to this offset.
    pub place: u64,
    /// That is the end of the log.
    pub is_at_end: bool,
    /// The events in it.
    pub count: usize,
    room: usize,
    body: Vec<u8>,
    held: Held,
}

impl Listing {
    /// Begins where `start` says, and reads at most so many events.
    ///
    /// # Errors
    ///
    /// [`ReadError`]: the log cannot be read.
    pub async fn begin(
        archive: &Arc<Archive>,
        memory: &Arc<Memory>,
        start: &Start,
        filter: &Arc<Filter>,
        count_max: usize,
    ) -> Result<(Self, Opening), ReadError> {
        let mut opening = archive.open(start, filter, archive.end()).await?;
        let mut listing = Self {
            archive: Arc::clone(archive),
            place: opening.place,
            is_at_end: false,
            count: 0,
            room: count_max,
            body: vec![b'['],
            held: memory.hold(0),
        };
        let mut attempts = 1..ATTEMPTS_MAX;
        while let Err(error) = listing.fill(filter).await {
            // What was kept a moment ago may not be any more: it begins with what is kept now.
            if error != ReadError::Freed || !listing.is_empty() || attempts.next().is_none() {
                return Err(error);
            }
            opening = archive.open(start, filter, archive.end()).await?;
            listing.place = opening.place;
        }
        Ok((listing, opening))
    }

    /// Whether there is no event in it.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Whether no other event goes into it.
    pub fn is_full(&self) -> bool {
        self.room == 0 || self.body.len() >= BYTES_MAX
    }

    /// Reads on until the list is full, or there is nothing more, or it was long enough.
    ///
    /// # Errors
    ///
    /// [`ReadError`]: the log cannot be read.
    pub async fn fill(&mut self, filter: &Arc<Filter>) -> Result<(), ReadError> {
        self.is_at_end = false;
        for _ in 0..READINGS_MAX {
            if self.is_full() {
                break;
            }
            let before = self.place;
            let bytes_max = BYTES_MAX - self.body.len();
            let excerpt = self.archive.read(before, filter, bytes_max).await?;
            self.take(excerpt);
            self.is_at_end = self.place == before || self.place >= self.archive.end();
            if self.is_at_end {
                break;
            }
            // What is in memory is read without a pause: others have their turn.
            tokio::task::yield_now().await;
        }
        Ok(())
    }

    /// Writes what was found: events share the bytes of their neighbours, and are not held on to.
    fn take(&mut self, excerpt: Excerpt) {
        let is_more = excerpt.events.len() > self.room;
        for (offset, event) in excerpt.events.iter().take(self.room) {
            if self.count > 0 {
                self.body.push(b',');
            }
            let placed = Placed { epoch: &self.archive.epoch, offset: *offset, event };
            cloudevents::encode(&placed, Extension::Cursor, &mut self.body);
            self.count += 1;
            self.place = *offset;
        }
        self.room -= excerpt.events.len().min(self.room);
        if !is_more {
            self.place = excerpt.place;
        }
        self.held.resize(self.body.capacity());
    }

    /// The list as JSON, and its place on the account of memory.
    pub fn into_json(mut self) -> (Vec<u8>, Held) {
        self.body.push(b']');
        (self.body, self.held)
    }
}
