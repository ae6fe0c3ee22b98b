//! Where a watch stands: what it asks for so that nothing is missed and nothing comes twice.
//!
//! Used by `watch`, which tells it every answer and every event that was shown.
//! It has neither a socket nor a clock.

use std::mem;

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::watch::cursor::Cursor;
use crate::watch::since::Since;

/// Where a watch stands.
#[derive(Debug)]
pub(crate) struct Place {
    start: Start,
    /// Whether a gateway has answered `OK` before.
    has_watched: bool,
}

impl Place {
    /// The place before the first connection; `now` is when the watch began.
    pub(crate) fn new(since: Option<Since>, last: Option<u16>, now: Timestamp) -> Self {
        let start = match (since, last) {
            (Some(Since::First), _) => Start::First,
            (Some(Since::Cursor(cursor)), _) => Start::After(cursor),
            (Some(Since::Time(time)), _) => Start::Since(time),
            // Reckoned once: while a gateway cannot be reached, the beginning must not move on.
            (Some(Since::Ago(duration)), _) => {
                Start::Since(now.checked_sub(duration).unwrap_or(Timestamp::UNIX_EPOCH))
            }
            (None, Some(count)) => Start::Last(count),
            (None, None) => Start::Live,
        };
        Self { start, has_watched: false }
    }

    /// The init message for the next connection (WIRE §1.2, §1.3).
    pub(crate) fn init(&self, authorization: Option<&str>, patterns: &[String]) -> String {
        let start = match &self.start {
            Start::Live => None,
            Start::First => Some(("after", json!("first"))),
            Start::After(cursor) => Some(("after", json!(cursor.as_str()))),
            Start::Since(time) => Some(("since", json!(format!("{time:.6}")))),
            Start::Last(count) => Some(("last", json!(count))),
        };
        let shown = authorization.map(|shown| ("authentication", json!(shown)));
        let members = [("events", json!(patterns)), ("cursor", json!(true))];
        let members = members.into_iter().chain(shown).chain(start);
        let members = members.map(|(name, value)| (name.to_owned(), value));
        Value::Object(members.collect()).to_string()
    }

    /// Takes the answer `OK` to that message, and gives what its reader should be told.
    pub(crate) fn answered(&mut self, answer: &Answer) -> Option<Doubt> {
        let is_return = mem::replace(&mut self.has_watched, true);
        let Some(cursor) = answer.cursor.clone() else {
            // The place stays as it is: what this gateway sends has none in any log.
            return match (is_return, &self.start) {
                (true, _) => Some(Doubt::Unknown),
                (false, Start::Live) => None,
                (false, _) => Some(Doubt::NothingKept),
            };
        };
        let earliest = answer.earliest.clone().unwrap_or_else(|| cursor.clone());
        match (mem::replace(&mut self.start, Start::After(cursor)), answer.recovered) {
            (Start::After(from), Some(false)) => Some(Doubt::Lost { from, earliest }),
            // The gateway before this one gave no place to come back with.
            (Start::Live | Start::Last(_), _) if is_return => Some(Doubt::Unknown),
            _ => None,
        }
    }

    /// Takes a frame whose event was shown.
    pub(crate) fn shown(&mut self, frame: &str) {
        if let Ok(Shown { cursor: Some(cursor) }) = serde_json::from_str(frame) {
            self.start = Start::After(cursor);
        }
    }
}

/// What is asked for first.
#[derive(Debug)]
enum Start {
    /// What comes from now on.
    Live,
    /// The oldest that is kept.
    First,
    /// The first that was accepted then or later.
    Since(Timestamp),
    /// So many of the newest that are kept.
    Last(u16),
    /// What is behind this.
    After(Cursor),
}

/// A gateway's answer to an init message.
#[derive(Debug, Deserialize)]
pub(crate) struct Answer {
    /// `OK`, or why not.
    pub(crate) code: String,
    /// The place just before the first event that can still come.
    cursor: Option<Cursor>,
    recovered: Option<bool>,
    /// The oldest place that could have been asked for.
    earliest: Option<Cursor>,
}

#[derive(Deserialize)]
struct Shown {
    cursor: Option<Cursor>,
}

/// What may be missing from what is shown.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Doubt {
    /// The gateway does not have all that came after the place where we stood.
    #[error(
        "events were lost: the gateway cannot resume after {}; the earliest cursor that it can \
         resume after is {}",
        from.as_str(),
        earliest.as_str()
    )]
    Lost {
        /// Where we stood.
        from: Cursor,
        /// The earliest place that could have been asked for.
        earliest: Cursor,
    },
    /// We were away, and there was no place to come back to.
    #[error("events may have been missed: the gateway gave no cursor to resume after")]
    Unknown,
    /// A gateway that knows no cursors was asked for what it had before.
    #[error("the gateway keeps no events: only those that come from now on are shown")]
    NothingKept,
}

#[cfg(test)]
mod tests;
