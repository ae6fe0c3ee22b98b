//! What a client would like: of an answer (RFC 7240), or a dry run.
//!
//! Used by every way in. A preference binds nobody: one that we do not know, or that is malformed,
//! is ignored. A dry run that was meant and is not understood must not fire an event.

use actix_web::http::header::HeaderMap;

/// Whether the client would like to hear in the answer what became of its request (§4.2).
pub fn wants_representation(headers: &HeaderMap) -> bool {
    let lines = headers.get_all("prefer").map(|line| line.as_bytes());
    let mut preferences = lines.flat_map(|line| split(line, b',')).map(read);
    // §2: of a preference that is given more than once the first counts.
    let first = preferences.find(|(name, _)| name.eq_ignore_ascii_case(b"return"));
    first.is_some_and(|(_, value)| value == b"representation")
}

/// Whether the query asks for a dry run. A client that means one and writes it in another way must
/// not fire by accident, so that is refused.
///
/// # Errors
///
/// [`InvalidQuery`].
pub fn wants_dry_run(query: &str) -> Result<bool, InvalidQuery> {
    let mut named = form_urlencoded::parse(query.as_bytes()).filter(|(name, _)| name == "dry_run");
    match (named.next().as_ref().map(|(_, value)| value.as_ref()), named.next()) {
        (None | Some("false"), None) => Ok(false),
        (Some("true"), None) => Ok(true),
        _ => Err(InvalidQuery),
    }
}

/// The query says something of a dry run, and neither yes nor no.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("dry_run is neither true nor false")]
pub struct InvalidQuery;

/// The name and the value of a preference, without its parameters. No value is an empty one.
fn read(preference: &[u8]) -> (&[u8], Vec<u8>) {
    let named = split(preference, b';').next().unwrap_or_default();
    let mut parts = named.splitn(2, |&byte| byte == b'=').map(<[u8]>::trim_ascii);
    (parts.next().unwrap_or_default(), parts.next().map(unquote).unwrap_or_default())
}

/// Splits where a separator stands outside of quoted strings.
fn split(text: &[u8], separator: u8) -> impl Iterator<Item = &[u8]> {
    let (mut is_quoted, mut is_escaped) = (false, false);
    text.split(move |&byte| {
        if is_escaped {
            is_escaped = false;
        } else if byte == b'"' {
            is_quoted = !is_quoted;
        } else if byte == b'\\' {
            is_escaped = is_quoted;
        }
        byte == separator && !is_quoted
    })
}

/// RFC 9110 §5.6.4: what a quoted string means; anything else means itself.
pub(crate) fn unquote(word: &[u8]) -> Vec<u8> {
    let [b'"', inner @ .., b'"'] = word else { return word.to_vec() };
    let mut meant = Vec::with_capacity(inner.len());
    let mut bytes = inner.iter();
    while let Some(&byte) = bytes.next() {
        let escaped = if byte == b'\\' { bytes.next() } else { None };
        meant.push(*escaped.unwrap_or(&byte));
    }
    meant
}

#[cfg(test)]
mod tests {
    use actix_web::http::header::{HeaderName, HeaderValue};

    use super::*;

    fn wants(lines: &[&[u8]]) -> bool {
        let mut headers = HeaderMap::new();
        for line in lines {
            let value = HeaderValue::from_bytes(line).unwrap();
            headers.append(HeaderName::from_static("prefer"), value);
        }
        wants_representation(&headers)
    }

    #[test]
    fn a_representation_is_asked_for_in_any_form_that_the_law_allows() {
        let table: [&[&[u8]]; 17] = [
            &[b"return=representation"],
            &[b"  return=representation  "],
            &[b"return = representation"],
            &[b"return\t=\trepresentation"],
            &[b"Return=representation"],
            &[b"RETURN=representation"],
            &[b"return=\"representation\""],
            &[b"return=\"rep\\resentation\""],
            &[b"return=representation; depth=1"],
            &[b"return=representation;a;b=\"c,d;e\""],
            &[b"respond-async, return=representation"],
            &[b"respond-async,,return=representation,"],
            &[b"wait=10; x=\"a, \\\", return=minimal\", return=representation"],
            &[b"respond-async", b"return=representation"],
            &[b"\xff\xfe", b"return=representation"],
            &[b"x=\"never closed, return=minimal", b"return=representation"],
            &[b"return=representation, return=minimal", b"return=minimal"],
        ];
        for lines in table {
            assert!(wants(lines), "{:?}", lines.iter().map(|it| it.escape_ascii().to_string()));
        }
    }

    #[test]
    fn whatever_else_is_preferred_is_ignored() {
        let table: [&[&[u8]]; 19] = [
            &[],
            &[b""],
            &[b"return"],
            &[b"return="],
            &[b"return=\"\""],
            &[b"return=\""],
            &[b"return=minimal"],
            &[b"return=Representation"],
            &[b"return=representations"],
            &[b"return=represen tation"],
            &[b"return==representation"],
            &[b"xreturn=representation"],
            &[b"x return=representation"],
            &[b"representation"],
            &[b"respond-async; return=representation"],
            &[b"x=\"return=representation\""],
            &[b"x=\", return=representation, \""],
            &[b"x=\"never closed, return=representation"],
            &[b"return=minimal", b"return=representation"],
        ];
        for lines in table {
            assert!(!wants(lines), "{:?}", lines.iter().map(|it| it.escape_ascii().to_string()));
        }
    }

    #[test]
    fn a_dry_run_is_asked_for_exactly_or_the_request_is_refused() {
        let table = [
            ("", Ok(false)),
            ("a=dry_run", Ok(false)),
            ("a=dry_run=true", Ok(false)),
            ("dry=true", Ok(false)),
            ("DRY_RUN=true", Ok(false)),
            ("dry_run=false", Ok(false)),
            ("dry_run=true", Ok(true)),
            ("&&a=b&dry_run=true&c", Ok(true)),
            ("dry%5Frun=tru%65", Ok(true)),
            ("%64ry_run=%66alse", Ok(false)),
            ("dry_run", Err(InvalidQuery)),
            ("dry_run=", Err(InvalidQuery)),
            ("dry_run=1", Err(InvalidQuery)),
            ("dry_run=True", Err(InvalidQuery)),
            ("dry_run=true+", Err(InvalidQuery)),
            ("dry_run=true%20", Err(InvalidQuery)),
            ("dry_run=%ff", Err(InvalidQuery)),
            ("dry_run=true=", Err(InvalidQuery)),
            ("dry_run=true&dry_run=true", Err(InvalidQuery)),
            ("dry_run=false&dry_run=false", Err(InvalidQuery)),
            ("dry_run=false&a=b&dry%5frun=true", Err(InvalidQuery)),
            ("dry_run=true&dry_run", Err(InvalidQuery)),
        ];
        for (query, expected) in table {
            assert_eq!(wants_dry_run(query), expected, "{query}");
        }
    }
}
