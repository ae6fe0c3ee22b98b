//! From when on events are wished for, as `--since` says it.

use std::str::FromStr;
use std::time::Duration;

use jiff::Timestamp;
use shared::event::Time;
use shared::settings;

use crate::watch::cursor::Cursor;

/// From when on events are wished for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Since {
    /// From the oldest that is kept.
    First,
    /// From the one behind this.
    Cursor(Cursor),
    /// From the first that was accepted then or later.
    Time(Timestamp),
    /// From the first that was accepted so long ago or later.
    Ago(Duration),
}

impl FromStr for Since {
    type Err = SinceError;

    fn from_str(text: &str) -> Result<Self, SinceError> {
        if text == "first" {
            return Ok(Self::First);
        }
        if let Ok(cursor) = text.parse() {
            return Ok(Self::Cursor(cursor));
        }
        if Time::parse(text).is_ok() {
            return text.parse().map(Self::Time).map_err(|_| SinceError);
        }
        settings::parse_duration(text).map(Self::Ago).map_err(|_| SinceError)
    }
}

/// The text says no time and no place. It is not shown: it may be anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "write a duration of at most a day such as 10m, the word first, a cursor such as k3f9a2-1842, \
     or a time such as 2026-01-31T12:00:00Z"
)]
pub(crate) struct SinceError;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn since_is_a_duration_a_time_a_cursor_or_first() {
        let noon = Timestamp::from_second(1_769_860_800).unwrap();
        let table = [
            ("first", Since::First),
            ("k3f9a2-1842", Since::Cursor("k3f9a2-1842".parse().unwrap())),
            ("2026-01", Since::Cursor("2026-01".parse().unwrap())),
            ("10m", Since::Ago(Duration::from_secs(600))),
            ("1h30m", Since::Ago(Duration::from_secs(5_400))),
            ("24h", Since::Ago(Duration::from_secs(86_400))),
            ("2026-01-31T12:00:00Z", Since::Time(noon)),
            ("2026-01-31T13:00:00.000+01:00", Since::Time(noon)),
        ];
        for (text, expected) in table {
            assert_eq!(text.parse(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn since_is_nothing_else() {
        for text in [
            "",
            "First",
            "yesterday",
            "10",
            "0s",
            "-10m",
            "25h",
            "k3f9a2",
            "2026-01-31",
            "2026-01-31T12:00:00",
            "2026-01-31 12:00:00Z",
            "2026-02-30T12:00:00Z",
        ] {
            assert_eq!(text.parse::<Since>(), Err(SinceError), "{text}");
        }
    }
}
