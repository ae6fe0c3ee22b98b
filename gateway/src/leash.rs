//! What ties processes to the `fanfare up` or `fanfare bench` that started them: they end when it does.
//!
//! Even a `kill -9` of it, which it cannot act on, must leave nobody behind who holds its ports.
//! The kernel is asked by the child itself; to ask for it before the child's program starts would
//! need `unsafe`.

use std::io;

use rustix::process::{Signal, getppid, set_parent_process_death_signal};

/// How a `fanfare` tells a child its own process id.
pub const VARIABLE: &str = "FANFARE_PARENT_PID";

/// Asks to be told to stop when the parent dies, if the parent is a `fanfare`.
///
/// # Errors
///
/// [`LeashError`]: then nothing would end this process when its parent ends.
pub fn put_on() -> Result<(), LeashError> {
    let Ok(parent) = std::env::var(VARIABLE) else { return Ok(()) };
    set_parent_process_death_signal(Some(Signal::TERM))
        .map_err(|error| LeashError::Refused(error.into()))?;
    // It may have died before we asked.
    let now = getppid().map(|pid| pid.as_raw_nonzero().to_string());
    if now.as_ref() == Some(&parent) { Ok(()) } else { Err(LeashError::Orphan) }
}

/// Why a process cannot be tied to its parent.
#[derive(Debug, thiserror::Error)]
pub enum LeashError {
    /// The system does not tell us of the parent's death.
    #[error("no word of the parent's death")]
    Refused(#[source] io::Error),
    /// The parent is dead already.
    #[error("the fanfare that started this has ended")]
    Orphan,
}
