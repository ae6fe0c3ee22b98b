//! The wish to stop: Ctrl-C, SIGTERM, SIGHUP. The benchmark ends in order then, and its children with it.

use std::sync::atomic::{AtomicBool, Ordering};

use shared::signals::Signals;

static IS_WISHED: AtomicBool = AtomicBool::new(false);

/// Somebody wants the benchmark to stop.
#[derive(Debug, thiserror::Error)]
#[error("interrupted")]
pub(crate) struct Interrupted;

/// Catches signals from now on. A second one ends the process at once; the leash sees to the rest.
pub(crate) fn catch() -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let signals = {
        let _guard = runtime.enter();
        Signals::catch()?
    };
    std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
        runtime.block_on(watch(signals));
    })?;
    Ok(())
}

async fn watch(mut signals: Signals) {
    loop {
        // Whichever: there is nothing to read again, and a terminal that is gone wants no figures.
        signals.next().await;
        if IS_WISHED.swap(true, Ordering::Relaxed) {
            std::process::exit(EXIT_INTERRUPTED.into());
        }
    }
}

/// Fails if the benchmark has to stop.
pub(crate) fn check() -> Result<(), Interrupted> {
    if IS_WISHED.load(Ordering::Relaxed) { Err(Interrupted) } else { Ok(()) }
}

/// As a shell has it: 128 and the number of SIGINT.
pub(crate) const EXIT_INTERRUPTED: u8 = 130;
