//! Some adjacent events of the log as bytes: what is written, read and held in memory as a whole.
//!
//! A commit of many events is many small pages, so that whoever looks for one event reads its
//! neighbours and not the whole commit; a commit of one event is one page.

use bytes::{Buf as _, BufMut as _, Bytes};
use shared::event::Event;
use shared::event::encoding::{self, Malformed};

/// A page takes no further event beyond so many, or so many bytes.
const EVENTS_MAX: u64 = 64;
const BYTES_MAX: usize = 64 * 1024;

/// Some adjacent events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// The offset of the first.
    pub first: u64,
    /// The offset of the last.
    pub last: u64,
    /// When they were accepted.
    pub accepted: Acceptance,
    /// Each event behind its length, a 4-byte big-endian number.
    pub bytes: Bytes,
}

/// When events were accepted, by two clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Acceptance {
    /// Microseconds since 1970, as the wall clock said: for those who ask by it.
    pub wall_us: i64,
    /// Milliseconds of the log's own clock, which only goes forward: for their age.
    pub age_ms: i64,
}

impl Page {
    /// The events of one commit as pages, the first event at `first`.
    pub fn split(first: u64, events: &[Event], accepted: Acceptance) -> Vec<Self> {
        let mut pages = Vec::new();
        let (mut start, mut bytes) = (first, Vec::new());
        let mut next = first;
        for event in events {
            put(event, &mut bytes);
            next += 1;
            if next - start >= EVENTS_MAX || bytes.len() >= BYTES_MAX {
                pages.push(Self::of(start, next, &mut bytes, accepted));
                start = next;
            }
        }
        if next > start {
            pages.push(Self::of(start, next, &mut bytes, accepted));
        }
        pages
    }

    fn of(first: u64, next: u64, bytes: &mut Vec<u8>, accepted: Acceptance) -> Self {
        // Pages stay in memory for long: no room to grow is kept with them.
        let exact = std::mem::take(bytes).into_boxed_slice();
        Self { first, last: next - 1, accepted, bytes: Bytes::from(exact) }
    }

    /// How many events there are.
    pub fn count(&self) -> u64 {
        self.last + 1 - self.first
    }

    /// What tells whether a byte of it was changed.
    pub fn checksum(&self) -> u32 {
        let mut hasher = crc32fast::Hasher::new();
        for number in [self.first, self.last] {
            hasher.update(&number.to_be_bytes());
        }
        for number in [self.accepted.wall_us, self.accepted.age_ms] {
            hasher.update(&number.to_be_bytes());
        }
        hasher.update(&self.bytes);
        hasher.finalize()
    }

    /// The events with their offsets, in order. They share the page's bytes.
    ///
    /// # Errors
    ///
    /// [`Malformed`] if the page is damaged.
    pub fn events(&self) -> Result<Vec<(u64, Event)>, Malformed> {
        let mut rest = self.bytes.clone();
        let mut events = Vec::new();
        for offset in self.first..=self.last {
            let length = usize::try_from(rest.try_get_u32()?).map_err(|_| Malformed)?;
            if length > rest.len() {
                return Err(Malformed);
            }
            events.push((offset, encoding::decode(rest.split_to(length))?));
        }
        if rest.is_empty() { Ok(events) } else { Err(Malformed) }
    }
}

fn put(event: &Event, out: &mut Vec<u8>) {
    let start = out.len();
    out.put_u32(0);
    encoding::encode(event, out);
    let length = u32::try_from(out.len() - start - 4).unwrap_or(u32::MAX);
    if let Some(prefix) = out.get_mut(start..start + 4) {
        prefix.copy_from_slice(&length.to_be_bytes());
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use shared::event::{Data, EventType, Json, Time};

    use super::*;

    pub(crate) const ACCEPTED: Acceptance = Acceptance { wall_us: 1_000_000, age_ms: 1000 };

    pub(crate) fn event(event_type: &str, data: &str) -> Event {
        Event {
            event_type: EventType::parse(event_type.to_owned()).unwrap(),
            data: Some(Data::Json(Json::from_checked(Bytes::copy_from_slice(data.as_bytes())))),
            id: data.into(),
            source: "/tests".into(),
            subject: None,
            time: Time::now(),
            publisher: "tests".into(),
            attributes: None,
        }
    }

    #[test]
    fn events_come_back_from_pages_that_are_bounded() {
        let events: Vec<Event> = (0..200).map(|it| event("a", &it.to_string())).collect();
        let pages = Page::split(11, &events, ACCEPTED);
        assert_eq!(pages.iter().map(Page::count).collect::<Vec<_>>(), [64, 64, 64, 8]);
        let back: Vec<(u64, Event)> = pages.iter().flat_map(|it| it.events().unwrap()).collect();
        assert_eq!(back, (11..).zip(events).collect::<Vec<_>>());
    }

    #[test]
    fn a_large_event_ends_its_page() {
        let large = event("a", &format!("\"{}\"", "x".repeat(BYTES_MAX)));
        let pages = Page::split(1, &[event("a", "1"), large, event("a", "2")], ACCEPTED);
        assert_eq!(pages.iter().map(Page::count).collect::<Vec<_>>(), [2, 1]);
    }

    #[test]
    fn a_damaged_page_is_an_error() {
        let page = Page::split(1, &[event("a", "1")], ACCEPTED).remove(0);
        for end in 0..page.bytes.len() {
            let cut = Page { bytes: page.bytes.slice(..end), ..page.clone() };
            assert!(cut.events().is_err(), "cut at {end}");
        }
        assert!(Page { last: 2, ..page }.events().is_err());
    }
}
