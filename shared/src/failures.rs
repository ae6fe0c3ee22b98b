//! Wrong credentials, counted by address, so that guessing becomes slow.
//!
//! Asked by every door before it answers a refusal. A correct token is never delayed, and a token
//! is never locked: both would let a stranger shut others out.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::address;

/// HARDENING: so many failures in [`WINDOW`] are answered at once.
const FREE: u32 = 20;
/// The time after which an address's count begins anew.
const WINDOW: Duration = Duration::from_secs(60);
/// How long a refusal beyond [`FREE`] waits.
pub const PENALTY: Duration = Duration::from_secs(1);
/// The most addresses that are remembered; beyond it one at random is forgotten.
const ADDRESSES_MAX: usize = 10_000;

/// Failures by address.
#[derive(Debug, Default)]
pub struct Failures {
    by_address: Mutex<HashMap<IpAddr, Count>>,
}

#[derive(Debug)]
struct Count {
    since: Instant,
    failures: u32,
}

impl Failures {
    /// Counts a failure, and says how long its answer must wait.
    pub fn record(&self, client: IpAddr, now: Instant) -> Option<Duration> {
        let mut by_address = self.by_address.lock().unwrap_or_else(PoisonError::into_inner);
        let client = address::group(client);
        if by_address.len() >= ADDRESSES_MAX && !by_address.contains_key(&client) {
            forget_one(&mut by_address);
        }
        let count = by_address.entry(client).or_insert(Count { since: now, failures: 0 });
        if now.duration_since(count.since) >= WINDOW {
            *count = Count { since: now, failures: 0 };
        }
        count.failures = count.failures.saturating_add(1);
        (count.failures > FREE).then_some(PENALTY)
    }
}

/// At random, so that a stranger with many addresses cannot choose whom we forget.
fn forget_one(by_address: &mut HashMap<IpAddr, Count>) {
    let at = fastrand::usize(..by_address.len());
    if let Some(&forgotten) = by_address.keys().nth(at) {
        by_address.remove(&forgotten);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_21st_failure_in_a_minute_waits_and_a_minute_later_none_does() {
        let failures = Failures::default();
        let (client, now) = ("10.0.0.1".parse().unwrap(), Instant::now());
        for _ in 0..20 {
            assert_eq!(failures.record(client, now), None);
        }
        assert_eq!(failures.record(client, now), Some(PENALTY));
        assert_eq!(failures.record("10.0.0.2".parse().unwrap(), now), None);
        assert_eq!(failures.record(client, now + WINDOW), None);
    }

    #[test]
    fn a_64_of_ipv6_is_one_address() {
        let (failures, now) = (Failures::default(), Instant::now());
        for host in 0..20_u16 {
            let client = format!("2001:db8::{host:x}").parse().unwrap();
            assert_eq!(failures.record(client, now), None);
        }
        assert_eq!(failures.record("2001:db8::ffff".parse().unwrap(), now), Some(PENALTY));
    }

    #[test]
    fn the_table_is_bounded() {
        let (failures, now) = (Failures::default(), Instant::now());
        for host in 0..20_000_u32 {
            failures.record(IpAddr::V4(host.into()), now);
        }
        assert_eq!(failures.by_address.lock().unwrap().len(), ADDRESSES_MAX);
    }
}
