//! How many sessions there are, in all workers, and how many may be.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use shared::address;

/// HARDENING: at most this part of the sessions may be without a credential.
const NEWCOMERS_PART: usize = 10;
/// HARDENING: but never fewer than these.
const NEWCOMERS_MIN: usize = 100;

/// The count of one process.
#[derive(Debug)]
pub struct Census {
    sessions: AtomicUsize,
    newcomers: AtomicUsize,
    sessions_max: usize,
    per_address_max: Option<u32>,
    /// Kept only where there is a limit to judge by it.
    by_address: Mutex<HashMap<IpAddr, u32>>,
}

impl Census {
    /// Begins with nobody.
    pub fn new(sessions_max: usize, per_address_max: Option<u32>) -> Arc<Self> {
        Arc::new(Self {
            sessions: AtomicUsize::new(0),
            newcomers: AtomicUsize::new(0),
            sessions_max,
            per_address_max,
            by_address: Mutex::default(),
        })
    }

    /// Sessions, now.
    pub fn sessions(&self) -> usize {
        self.sessions.load(Ordering::Relaxed)
    }

    /// Sessions without a credential, now.
    pub fn newcomers(&self) -> usize {
        self.newcomers.load(Ordering::Relaxed)
    }

    /// Whether there are more sessions without a credential than there may be.
    pub fn has_too_many_newcomers(&self) -> bool {
        self.newcomers() > NEWCOMERS_MIN.max(self.sessions_max / NEWCOMERS_PART)
    }

    /// Gives a session its place, until the returned value is dropped; `None` if there is none.
    pub fn enter(self: &Arc<Self>, client: IpAddr) -> Option<Place> {
        let client = address::group(client);
        if self.sessions.fetch_add(1, Ordering::Relaxed) >= self.sessions_max
            || !self.count_address(client)
        {
            self.sessions.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        self.newcomers.fetch_add(1, Ordering::Relaxed);
        Some(Place { census: Arc::clone(self), client, is_newcomer: true })
    }

    fn count_address(&self, client: IpAddr) -> bool {
        let Some(max) = self.per_address_max else { return true };
        let mut by_address = self.by_address.lock().unwrap_or_else(PoisonError::into_inner);
        let count = by_address.entry(client).or_insert(0);
        let has_room = *count < max;
        *count += u32::from(has_room);
        has_room
    }
}

/// The place of one session.
#[derive(Debug)]
pub struct Place {
    census: Arc<Census>,
    client: IpAddr,
    is_newcomer: bool,
}

impl Place {
    /// The address of its client.
    pub fn client(&self) -> IpAddr {
        self.client
    }

    /// The session has shown a credential, or was let go for want of one. Says whether that is
    /// news.
    pub fn settle(&mut self) -> bool {
        let is_news = std::mem::take(&mut self.is_newcomer);
        if is_news {
            self.census.newcomers.fetch_sub(1, Ordering::Relaxed);
        }
        is_news
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.settle();
        self.census.sessions.fetch_sub(1, Ordering::Relaxed);
        if self.census.per_address_max.is_some() {
            let by_address = &self.census.by_address;
            let mut by_address = by_address.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(count) = by_address.get_mut(&self.client) {
                *count -= 1;
                if *count == 0 {
                    by_address.remove(&self.client);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(host: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, host])
    }

    #[test]
    fn places_are_limited_and_given_back() {
        let census = Census::new(2, None);
        let (first, second) = (census.enter(client(1)), census.enter(client(1)));
        assert!(first.is_some() && second.is_some() && census.enter(client(1)).is_none());
        drop(first);
        assert!(census.enter(client(1)).is_some());
        drop(second);
        assert_eq!((census.sessions(), census.newcomers()), (0, 0));
    }

    #[test]
    fn an_address_may_have_its_own_limit() {
        let census = Census::new(10, Some(1));
        let first = census.enter(client(1));
        assert!(census.enter(client(1)).is_none());
        assert!(census.enter(client(2)).is_some());
        drop(first);
        assert!(census.enter(client(1)).is_some());
        assert!(census.by_address.lock().unwrap().is_empty());
    }

    #[test]
    fn newcomers_are_a_tenth_but_a_hundred_at_least() {
        for (sessions_max, newcomers_max) in [(150, 100), (3000, 300)] {
            let census = Census::new(sessions_max, None);
            let mut places: Vec<Place> =
                (0..newcomers_max).map(|_| census.enter(client(1)).unwrap()).collect();
            assert!(!census.has_too_many_newcomers());
            let mut one_more = census.enter(client(1)).unwrap();
            assert!(census.has_too_many_newcomers());
            assert!(one_more.settle() && !one_more.settle());
            assert!(!census.has_too_many_newcomers());
            places.clear();
        }
    }
}
