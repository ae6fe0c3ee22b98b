//! What ties `listen` and `broadcast` to the `fanfare up` that started them: they end when it does.
//!
//! Even a `kill -9` of `up`, which it cannot act on, must leave nobody behind who holds its ports.
//! The kernel is asked by the child itself; to ask for it before the child's program starts would
//! need `unsafe`.

use anyhow::Context as _;
use rustix::process::{Signal, getppid, set_parent_process_death_signal};

/// How `fanfare up` tells a child its own process id.
pub(crate) const VARIABLE: &str = "FANFARE_UP_PID";

/// Asks to be told to stop when the parent dies, if the parent is a `fanfare up`.
pub(crate) fn put_on() -> anyhow::Result<()> {
    let Ok(parent) = std::env::var(VARIABLE) else { return Ok(()) };
    set_parent_process_death_signal(Some(Signal::TERM)).context("no word of the parent's death")?;
    // It may have died before we asked.
    let now = getppid().map(|pid| pid.as_raw_nonzero().to_string());
    anyhow::ensure!(now.as_ref() == Some(&parent), "the fanfare up that started this has ended");
    Ok(())
}
