//! A server that is measured: where it is, in which words, and which processes it is.

use crate::dialect::Dialect;
use crate::socket::Door;

/// A server.
#[derive(Debug)]
pub(crate) struct Target {
    /// Its name in the report.
    pub(crate) name: &'static str,
    /// Its words.
    pub(crate) dialect: Dialect,
    /// Where publishers come in.
    pub(crate) publish: Door,
    /// Where subscribers come in.
    pub(crate) subscribe: Door,
    /// What is shown as `Authorization`.
    pub(crate) authorization: Option<String>,
    /// Its processes; none where they are unknown, or on another machine.
    pub(crate) pids: Vec<u32>,
    /// Those that hold the sessions.
    pub(crate) session_pids: Vec<u32>,
}
