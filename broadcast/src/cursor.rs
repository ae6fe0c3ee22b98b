//! The place of an event in the log, as clients are told it: `<epoch>-<offset>` (WIRE §0).
//!
//! Within an epoch an offset names one event for ever. Clients keep cursors and show them again;
//! to them they are opaque.

use std::fmt;
use std::str::FromStr;

use bytestring::ByteString;

/// One life of a log: a new log, or one of which nobody knows whether it is the same, has a new one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Epoch(ByteString);

/// Letters and digits of an epoch: 36^8 are enough that no two logs have the same by chance.
const EPOCH_BYTES: usize = 8;
/// What is read as an epoch may be longer: a later version may make longer ones.
const EPOCH_BYTES_MAX: usize = 32;
const ALPHABET: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";

impl Epoch {
    /// One that no log had before.
    pub fn random() -> Self {
        let mut rng = fastrand::Rng::new();
        let mut letter = || *rng.choice(ALPHABET.iter()).unwrap_or(&b'0');
        let text: Vec<u8> = (0..EPOCH_BYTES).map(|_| letter()).collect();
        Self(String::from_utf8_lossy(&text).as_ref().into())
    }

    /// The epoch as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The cursor of an offset in this epoch.
    pub fn at(&self, offset: u64) -> Cursor {
        Cursor { epoch: self.clone(), offset }
    }
}

impl FromStr for Epoch {
    type Err = CursorError;

    fn from_str(text: &str) -> Result<Self, CursorError> {
        let is_ours = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        if text.is_empty() || text.len() > EPOCH_BYTES_MAX || !text.bytes().all(is_ours) {
            return Err(CursorError);
        }
        Ok(Self(text.into()))
    }
}

/// The place of an event in the log; as the beginning of a stretch, the place just before it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cursor {
    /// The life of the log that gave it.
    pub epoch: Epoch,
    /// The place in it: 1 is the first event's.
    pub offset: u64,
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.epoch.as_str(), self.offset)
    }
}

impl FromStr for Cursor {
    type Err = CursorError;

    fn from_str(text: &str) -> Result<Self, CursorError> {
        let (epoch, offset) = text.split_once('-').ok_or(CursorError)?;
        // A number has one way to be written, and `+1` is none of it.
        let is_plain = offset.bytes().all(|byte| byte.is_ascii_digit())
            && (offset == "0" || !offset.starts_with('0'));
        let offset = offset.parse().ok().filter(|_| is_plain).ok_or(CursorError)?;
        Ok(Self { epoch: epoch.parse()?, offset })
    }
}

/// The text is no cursor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a cursor")]
pub struct CursorError;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_comes_back_as_it_went() {
        let epoch = Epoch::random();
        for offset in [0, 1, u64::MAX] {
            let cursor = epoch.at(offset);
            assert_eq!(cursor.to_string().parse(), Ok(cursor));
        }
        assert_eq!("k3f9a2-1842".parse::<Cursor>().map(|it| it.offset), Ok(1842));
        assert_ne!(Epoch::random(), Epoch::random());
    }

    #[test]
    fn other_text_is_no_cursor() {
        let long = format!("{}-1", "a".repeat(33));
        for bad in [
            "", "-", "a", "a-", "-1", "a-01", "a-+1", "a--1", "a-1-1", "A-1", "a b-1", "ü-1",
            "a-1 ",
        ] {
            assert_eq!(bad.parse::<Cursor>(), Err(CursorError), "{bad:?}");
        }
        for bad in [long.as_str(), "a-18446744073709551616", "first"] {
            assert_eq!(bad.parse::<Cursor>(), Err(CursorError), "{bad:?}");
        }
    }
}
