//! The index of some thousand adjacent events: which pages hold which types and which sources.
//!
//! It grows in memory while the events come, and is written once, when they are enough: the commit
//! of an event appends to one table only. Whoever looks for a rare type reads an index of some
//! kilobytes a segment, and then the pages that it names.

use std::collections::HashMap;

use bytes::{Buf as _, BufMut as _, Bytes};
use bytestring::ByteString;
use shared::event::encoding::Malformed;

use crate::log::page::Page;

/// A segment takes no further page beyond so many events, or so many bytes. Tests look into many
/// segments, and need no million events for it.
const EVENTS_MAX: u64 = if cfg!(test) { 64 } else { 8192 };
const BYTES_MAX: u64 = 8 * 1024 * 1024;

/// The pages, by their first offsets, in which each name occurs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Index {
    pages: HashMap<ByteString, Vec<u64>>,
}

/// A segment that still grows.
#[derive(Debug, Default)]
pub struct Segment {
    /// The offset of its first event; 0 while there is none.
    pub first: u64,
    /// The offset of its last event.
    pub last: u64,
    /// How many events it has.
    pub events: u64,
    /// What they occupy.
    pub bytes: u64,
    /// The latest that any of them was accepted, by the wall clock.
    pub wall_us_max: i64,
    /// By type.
    pub types: Index,
    /// By source.
    pub sources: Index,
}

impl Segment {
    /// Takes a page, with the type and the source of each of its events.
    pub fn add<'a>(&mut self, page: &Page, names: impl Iterator<Item = (&'a str, &'a str)>) {
        if self.events == 0 {
            self.first = page.first;
            self.wall_us_max = page.accepted.wall_us;
        }
        self.last = page.last;
        self.events += page.count();
        self.bytes += u64::try_from(page.bytes.len()).unwrap_or(u64::MAX);
        self.wall_us_max = self.wall_us_max.max(page.accepted.wall_us);
        for (event_type, source) in names {
            self.types.add(event_type, page.first);
            self.sources.add(source, page.first);
        }
    }

    /// Whether it is large enough to be closed.
    pub fn is_full(&self) -> bool {
        self.events >= EVENTS_MAX || self.bytes >= BYTES_MAX
    }
}

/// What tells whether a byte of a segment was changed: of its indexes, or of where it begins and
/// ends, which decides what one goes past without a look.
pub fn checksum((first, last): (u64, u64), types: &[u8], sources: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    for number in [first, last] {
        hasher.update(&number.to_be_bytes());
    }
    hasher.update(types);
    hasher.update(sources);
    hasher.finalize()
}

impl Index {
    fn add(&mut self, name: &str, page: u64) {
        match self.pages.get_mut(name) {
            Some(pages) if pages.last() == Some(&page) => {}
            Some(pages) => pages.push(page),
            None => {
                self.pages.insert(name.into(), vec![page]);
            }
        }
    }

    /// The pages in which a name occurs that is wanted, in order.
    pub fn find(&self, is_wanted: impl Fn(&str) -> bool) -> Vec<u64> {
        let wanted = self.pages.iter().filter(|(name, _)| is_wanted(name));
        let mut pages: Vec<u64> = wanted.flat_map(|(_, pages)| pages.iter().copied()).collect();
        pages.sort_unstable();
        pages.dedup();
        pages
    }

    /// The index as bytes: each name behind its 4-byte length, then the number of its pages and how
    /// far each is from the one before it (from `first` for the first), as 4-byte numbers.
    pub fn encode(&self, first: u64) -> Vec<u8> {
        let mut out = Vec::new();
        let to_u32 = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        for (name, pages) in &self.pages {
            out.put_u32(to_u32(name.len()));
            out.put_slice(name.as_bytes());
            out.put_u32(to_u32(pages.len()));
            let mut last = first;
            for page in pages {
                out.put_u32(u32::try_from(page - last).unwrap_or(u32::MAX));
                last = *page;
            }
        }
        out
    }

    /// Reads an index back.
    ///
    /// # Errors
    ///
    /// [`Malformed`] if it is damaged.
    pub fn decode(mut bytes: Bytes, first: u64) -> Result<Self, Malformed> {
        let mut pages = HashMap::new();
        while !bytes.is_empty() {
            let length = usize::try_from(bytes.try_get_u32()?).map_err(|_| Malformed)?;
            if length > bytes.len() {
                return Err(Malformed);
            }
            let name = ByteString::try_from(bytes.split_to(length)).map_err(|_| Malformed)?;
            let mut last = first;
            let mut places = Vec::new();
            for _ in 0..bytes.try_get_u32()? {
                last = last.saturating_add(u64::from(bytes.try_get_u32()?));
                places.push(last);
            }
            pages.insert(name, places);
        }
        Ok(Self { pages })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::page::tests::{ACCEPTED, event};

    #[test]
    fn an_index_names_the_pages_of_a_name_and_comes_back_as_it_went() {
        let mut segment = Segment::default();
        for (number, event_type) in (10..).zip(["a", "b", "a", "c"]) {
            let event = event(event_type, "1");
            let page = Page::split(number, std::slice::from_ref(&event), ACCEPTED).remove(0);
            segment.add(&page, [(event_type, &*event.source)].into_iter());
        }
        assert_eq!((segment.first, segment.last, segment.events), (10, 13, 4));
        let types = Index::decode(segment.types.encode(10).into(), 10).unwrap();
        assert_eq!(types, segment.types);
        assert_eq!(types.find(|it| it == "a"), [10, 12]);
        assert_eq!(types.find(|it| it != "a"), [11, 13]);
        assert!(types.find(|_| false).is_empty());
        assert_eq!(segment.sources.find(|it| it == "/tests"), [10, 11, 12, 13]);
        let encoded = Bytes::from(segment.types.encode(10));
        assert_eq!(Index::decode(encoded.slice(1..), 10), Err(Malformed));
    }
}
