//! The newest pages, in memory: who is not far behind is answered without the disk.

use std::collections::VecDeque;

use crate::log::page::Page;

/// The newest pages, in order and without a gap.
#[derive(Debug)]
pub struct Recent {
    pages: VecDeque<Page>,
    bytes: usize,
    bytes_max: usize,
    /// The offset behind which every kept event is here.
    after: u64,
}

impl Recent {
    /// Holds nothing yet: what is kept up to `last` is elsewhere.
    pub fn new(bytes_max: usize, last: u64) -> Self {
        Self { pages: VecDeque::new(), bytes: 0, bytes_max, after: last }
    }

    /// Puts a newer page behind the others.
    pub fn push(&mut self, page: Page) {
        self.bytes += page.bytes.len();
        self.pages.push_back(page);
        while self.bytes > self.bytes_max && self.drop_oldest() {}
    }

    /// Puts an older page before the others, while there is room for it.
    pub fn push_older(&mut self, page: Page) -> bool {
        if self.bytes + page.bytes.len() > self.bytes_max {
            return false;
        }
        self.bytes += page.bytes.len();
        self.after = page.first - 1;
        self.pages.push_front(page);
        true
    }

    fn drop_oldest(&mut self) -> bool {
        let Some(page) = self.pages.pop_front() else { return false };
        self.bytes -= page.bytes.len();
        self.after = page.last;
        true
    }

    /// The offset behind which every kept event is here.
    pub fn after(&self) -> u64 {
        self.after
    }

    /// The oldest page.
    pub fn oldest(&self) -> Option<&Page> {
        self.pages.front()
    }

    /// Gives up the oldest page, where nothing else keeps it.
    pub fn free_oldest(&mut self) {
        self.drop_oldest();
    }

    /// The pages with the events behind an offset, the oldest first, up to so many bytes but at
    /// least one; `None` if some of them are not here.
    pub fn behind(&self, offset: u64, bytes_max: usize) -> Option<Vec<Page>> {
        if offset < self.after {
            return None;
        }
        let from = self.pages.partition_point(|page| page.last <= offset);
        let mut bytes = 0;
        let pages = self.pages.iter().skip(from).take_while(|page| {
            let has_room = bytes == 0 || bytes + page.bytes.len() <= bytes_max;
            bytes += page.bytes.len();
            has_room
        });
        Some(pages.cloned().collect())
    }

    /// The pages with the events up to an offset, the newest first, up to so many bytes but at least
    /// one.
    pub fn before(&self, offset: u64, bytes_max: usize) -> Vec<Page> {
        let count = self.pages.partition_point(|page| page.first <= offset);
        let mut bytes = 0;
        let pages = self.pages.iter().take(count).rev().take_while(|page| {
            let has_room = bytes == 0 || bytes + page.bytes.len() <= bytes_max;
            bytes += page.bytes.len();
            has_room
        });
        pages.cloned().collect()
    }

    /// All pages, the newest first.
    pub fn newest_first(&self) -> impl Iterator<Item = &Page> {
        self.pages.iter().rev()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::page::tests::{ACCEPTED, event};

    fn page(offset: u64) -> Page {
        Page::split(offset, &[event("a", "1")], ACCEPTED).remove(0)
    }

    fn firsts(pages: Option<Vec<Page>>) -> Option<Vec<u64>> {
        Some(pages?.iter().map(|page| page.first).collect())
    }

    #[test]
    fn the_newest_are_held_up_to_the_bound() {
        let size = page(1).bytes.len();
        let mut recent = Recent::new(3 * size, 10);
        assert_eq!(firsts(recent.behind(10, 1000)), Some(vec![]));
        assert_eq!(recent.behind(9, 1000), None);
        for offset in 11..=13 {
            recent.push(page(offset));
        }
        assert_eq!(firsts(recent.behind(10, 1000 * size)), Some(vec![11, 12, 13]));
        recent.push(page(14));
        assert_eq!(recent.behind(10, 1000), None);
        assert_eq!(firsts(recent.behind(11, 2 * size)), Some(vec![12, 13]));
        assert_eq!(firsts(recent.behind(12, 1)), Some(vec![13]));
        assert_eq!(firsts(recent.behind(14, 1)), Some(vec![]));
        assert_eq!(recent.newest_first().map(|it| it.first).collect::<Vec<_>>(), [14, 13, 12]);
        let before = |offset, bytes| firsts(Some(recent.before(offset, bytes))).unwrap();
        assert_eq!(before(13, 1000), [13, 12]);
        assert_eq!((before(99, 1), before(11, 1000)), (vec![14], vec![]));
        recent.free_oldest();
        assert_eq!((recent.after(), recent.oldest().map(|it| it.first)), (12, Some(13)));
    }

    #[test]
    fn older_pages_are_put_before_while_there_is_room() {
        let mut recent = Recent::new(2 * page(1).bytes.len(), 10);
        assert!(recent.push_older(page(10)) && recent.push_older(page(9)));
        assert!(!recent.push_older(page(8)));
        assert_eq!(firsts(recent.behind(8, 1000)), Some(vec![9, 10]));
    }
}
