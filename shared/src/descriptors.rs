//! How many files and sockets the process may have.

use rustix::process::{Resource, getrlimit, setrlimit};

/// HARDENING: kept back from clients for files, the link, and refusals.
const RESERVED: usize = 128;

/// Raises the limit as far as the system lets us; says how many connections there may be.
pub fn raise() -> usize {
    let mut limit = getrlimit(Resource::Nofile);
    let before = limit.current;
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        log::warn!("the limit of descriptors stays at {before:?}: {error}");
        limit.current = before;
    }
    // No limit at all is none that a count could reach.
    let descriptors = limit.current.and_then(|it| usize::try_from(it).ok()).unwrap_or(1 << 20);
    let connections = descriptors.saturating_sub(RESERVED).max(1);
    log::info!(descriptors, connections; "descriptors");
    connections
}
