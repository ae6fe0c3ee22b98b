//! The name of an event's place in the gateway's log.

use std::str::FromStr;

use serde::Deserialize;

/// `<epoch>-<offset>`, as the gateway wrote it (WIRE §0).
///
/// What is in it is the gateway's business. The form is checked so that a slip of the hand is told
/// at the start, and so that what a server sends can be shown on a terminal.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct Cursor(String);

impl Cursor {
    /// The cursor as text.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Cursor {
    type Err = CursorError;

    fn from_str(text: &str) -> Result<Self, CursorError> {
        text.to_owned().try_into()
    }
}

impl TryFrom<String> for Cursor {
    type Error = CursorError;

    fn try_from(text: String) -> Result<Self, CursorError> {
        let (epoch, offset) = text.split_once('-').ok_or(CursorError)?;
        let is_epoch = !epoch.is_empty() && epoch.bytes().all(|it| it.is_ascii_alphanumeric());
        let is_offset = !offset.is_empty() && offset.bytes().all(|it| it.is_ascii_digit());
        if is_epoch && is_offset { Ok(Self(text)) } else { Err(CursorError) }
    }
}

/// The text names no place in a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a cursor is written as in k3f9a2-1842")]
pub(crate) struct CursorError;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_an_epoch_and_an_offset() {
        for good in ["k3f9a2-1842", "a-0", "0-0", "K-18446744073709551615"] {
            assert_eq!(good.parse::<Cursor>().map(|it| it.as_str().to_owned()), Ok(good.into()));
        }
        for bad in ["", "-", "a", "a-", "-1", "a-b", "a-1-2", "a--1", "a-+1", "é-1", "\u{1b}-1"] {
            assert_eq!(bad.parse::<Cursor>(), Err(CursorError), "{bad:?}");
        }
    }
}
