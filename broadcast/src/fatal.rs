//! Parts of the process that must not fail alone.

/// While it lives, a panic on this thread's stack ends the process: a hub or a log that stopped in
/// the middle of a change would go on with a wrong order or a silent gap.
#[derive(Debug)]
pub struct Fatal(
    /// What must not fail.
    pub &'static str,
);

impl Drop for Fatal {
    fn drop(&mut self) {
        if std::thread::panicking() {
            log::error!("{} has failed: the process ends", self.0);
            std::process::abort();
        }
    }
}
