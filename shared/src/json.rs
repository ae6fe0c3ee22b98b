//! What we ask of JSON before it is let in.
//!
//! Used wherever text from a stranger is read. serde_json checks the grammar; what it does not
//! check when it skips over a value is its depth and its UTF-8, and both are done here.

use serde::de::IgnoredAny;
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

/// HARDENING, "JSON and names": arrays and objects nest at most so deep, the outermost counted.
pub const NESTING_MAX: usize = 128;

/// Whether arrays and objects in `text` nest at most [`NESTING_MAX`] deep.
///
/// Looks at brackets outside of strings only, and so also answers for text that is not JSON;
/// its grammar must be judged beside it.
pub fn is_shallow(text: &[u8]) -> bool {
    let mut depth = 0_usize;
    let mut rest = text;
    while let Some((&byte, after)) = rest.split_first() {
        rest = match byte {
            b'{' | b'[' => {
                depth += 1;
                if depth > NESTING_MAX {
                    return false;
                }
                after
            }
            b'}' | b']' => {
                depth = depth.saturating_sub(1);
                after
            }
            b'"' => after_string(after),
            _ => after,
        };
    }
    true
}

/// What follows the string whose opening quote stands before `text`.
fn after_string(mut text: &[u8]) -> &[u8] {
    while let Some(at) = memchr::memchr2(b'"', b'\\', text) {
        let is_escape = text.get(at) == Some(&b'\\');
        text = text.get(at + 1 + usize::from(is_escape)..).unwrap_or_default();
        if !is_escape {
            return text;
        }
    }
    &[]
}

/// For a member that may be absent, as its `deserialize_with`: serde reads a `null` into an `Option`
/// as its absence, and for us the two differ.
///
/// # Errors
///
/// Those of the deserializer.
pub fn present<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<&'de RawValue>, D::Error> {
    Deserialize::deserialize(deserializer).map(Some)
}

/// Appends a JSON string.
pub fn push_string(value: &str, out: &mut Vec<u8>) {
    // Writing into memory does not fail, and a string has no key that is none.
    let _ = serde_json::to_writer(&mut *out, value);
}

/// Appends a comma, a name that needs no escapes, and a string.
pub fn push_member(name: &str, value: &str, out: &mut Vec<u8>) {
    push_name(name, out);
    push_string(value, out);
}

/// Appends a comma, a name that needs no escapes, and its colon.
pub fn push_name(name: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(b",\"");
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"\":");
}

/// Checks that `text` is one JSON value in UTF-8, nested at most [`NESTING_MAX`] deep.
///
/// # Errors
///
/// [`JsonError`] names what is wrong.
pub fn check(text: &[u8]) -> Result<(), JsonError> {
    let text = std::str::from_utf8(text).map_err(|_| JsonError::NotJson)?;
    if !is_shallow(text.as_bytes()) {
        return Err(JsonError::TooDeep);
    }
    serde_json::from_str::<IgnoredAny>(text).map_err(|_| JsonError::NotJson)?;
    Ok(())
}

/// Why text is not the JSON that we take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum JsonError {
    /// It is not JSON (RFC 8259), or not UTF-8.
    #[error("not JSON")]
    NotJson,
    /// It nests deeper than [`NESTING_MAX`].
    #[error("nested deeper than {NESTING_MAX}")]
    TooDeep,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nesting_is_counted_outside_of_strings() {
        let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        assert!(is_shallow(nested(128).as_bytes()));
        assert!(!is_shallow(nested(129).as_bytes()));
        let quoted = format!(r#""\"{}""#, "[".repeat(500));
        assert!(is_shallow(quoted.as_bytes()));
        let flat = "[],".repeat(500);
        assert!(is_shallow(flat.as_bytes()));
        let after_escape = format!(r#"["\\",{}"#, "[".repeat(128));
        assert!(!is_shallow(after_escape.as_bytes()));
    }

    #[test]
    fn only_json_in_utf_8_passes() {
        let good: [&[u8]; 7] =
            [b"null", b" 1 ", b"-0.5e+10", br#""\ud800""#, b"{}", br#"{"a":1,"a":2}"#, b"[[]]"];
        for good in good {
            assert_eq!(check(good), Ok(()), "{}", String::from_utf8_lossy(good));
        }
        let bad: [&[u8]; 13] = [
            b"",
            b"NaN",
            b"Infinity",
            b"-",
            b"01",
            b"[1,]",
            b"{} {}",
            b"\xef\xbb\xbf{}",
            b"\"\xff\"",
            b"\"\n\"",
            b"{a:1}",
            b"\"\\x\"",
            b"t\0r\0u\0e\0",
        ];
        for bad in bad {
            assert_eq!(check(bad), Err(JsonError::NotJson), "{}", String::from_utf8_lossy(bad));
        }
    }
}
