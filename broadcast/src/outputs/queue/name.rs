//! How a request names its queue: text with placeholders for its query and its cookies.

use std::str::FromStr;

use actix_web::http::header::{COOKIE, HeaderMap};

/// AMQP 0-9-1 §1.1: a short string.
const NAME_BYTES_MAX: usize = 255;
/// RabbitMQ keeps such names for itself.
const RESERVED: &str = "amq.";

/// A name with placeholders.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamePattern(Vec<Part>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    Query(String),
    Cookie(String),
}

impl FromStr for NamePattern {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        // WIRE §7: so that a long pattern can be laid out.
        let text = text.replace([' ', '\n', '\r', '\t'], "");
        let (mut parts, mut rest) = (Vec::new(), text.as_str());
        while let Some((before, behind)) = rest.split_once("${") {
            if !before.is_empty() {
                parts.push(Part::Text(before.to_owned()));
            }
            let (placeholder, after) =
                behind.split_once('}').ok_or("a placeholder ends with a brace")?;
            parts.push(match placeholder.split_once(':') {
                Some(("query", name)) if !name.is_empty() => Part::Query(name.to_owned()),
                Some(("cookie", name)) if !name.is_empty() => Part::Cookie(name.to_owned()),
                _ => return Err("a placeholder is ${query:NAME} or ${cookie:NAME}"),
            });
            rest = after;
        }
        if !rest.is_empty() {
            parts.push(Part::Text(rest.to_owned()));
        }
        if parts.is_empty() { Err("a pattern is not empty") } else { Ok(Self(parts)) }
    }
}

impl NamePattern {
    /// The name of the queue that a request asks for.
    ///
    /// # Errors
    ///
    /// [`NameError`] says why there is none.
    pub fn name(&self, query: &str, headers: &HeaderMap) -> Result<String, NameError> {
        let mut name = String::new();
        for part in &self.0 {
            match part {
                Part::Text(text) => name.push_str(text),
                Part::Query(wanted) => {
                    let mut pairs = form_urlencoded::parse(query.as_bytes());
                    let found = pairs.find(|(name, _)| name == wanted);
                    let (_, value) = found.ok_or(NameError::Missing)?;
                    push(&mut name, &value)?;
                }
                Part::Cookie(wanted) => {
                    let value = cookie(headers, wanted).ok_or(NameError::Missing)?;
                    push(&mut name, value)?;
                }
            }
        }
        let is_reserved =
            name.get(..RESERVED.len()).is_some_and(|start| start.eq_ignore_ascii_case(RESERVED));
        if name.is_empty() || name.len() > NAME_BYTES_MAX || is_reserved {
            return Err(NameError::Invalid);
        }
        Ok(name)
    }
}

fn push(name: &mut String, value: &str) -> Result<(), NameError> {
    if value.is_empty() {
        return Err(NameError::Missing);
    }
    name.push_str(value);
    Ok(())
}

/// The first cookie of a name (RFC 6265 §5.4).
fn cookie<'a>(headers: &'a HeaderMap, wanted: &str) -> Option<&'a str> {
    let lines = headers.get_all(COOKIE).filter_map(|value| value.to_str().ok());
    let pairs = lines.flat_map(|line| line.split(';')).filter_map(|pair| pair.split_once('='));
    let mut values = pairs.filter(|(name, _)| name.trim() == wanted);
    values.next().map(|(_, value)| value.trim().trim_matches('"'))
}

/// Why a request names no queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Something that the name is made of is not there.
    #[error("request parameter(s) missing")]
    Missing,
    /// No queue can have that name.
    #[error("invalid queue name")]
    Invalid,
}

#[cfg(test)]
mod tests {
    use actix_web::http::header::HeaderValue;

    use super::*;

    fn name(pattern: &str, query: &str, cookies: &'static str) -> Result<String, NameError> {
        let mut headers = HeaderMap::new();
        headers.insert(COOKIE, HeaderValue::from_static(cookies));
        pattern.parse::<NamePattern>().unwrap().name(query, &headers)
    }

    #[test]
    fn a_name_is_made_of_text_query_and_cookies() {
        for (pattern, query, cookies, expected) in [
            ("${query:id}", "id=wall&id=two", "", "wall"),
            ("${query:id}", "x=1&id=a%20b+c%2Fd", "", "a b c/d"),
            (" ${ query : oid }\n - ${cookie:sid} ", "oid=ABC", "sid=123", "ABC-123"),
            ("queue-${query:id}-${cookie:sid}-name", "id=1", "a=2; sid=3", "queue-1-3-name"),
            ("${cookie:sid}", "", "sid=\"quoted\"; sid=second", "quoted"),
            ("fixed", "", "", "fixed"),
        ] {
            assert_eq!(name(pattern, query, cookies), Ok(expected.to_owned()), "{pattern}");
        }
    }

    #[test]
    fn any_part_that_is_missing_is_missing_and_a_bad_name_is_bad() {
        for (query, cookies) in [("", "sid=1"), ("id=1", ""), ("id=", "sid=1"), ("id=1", "sid=")] {
            let made = name("${query:id}-${cookie:sid}-n", query, cookies);
            assert_eq!(made, Err(NameError::Missing), "{query} {cookies}");
        }
        for bad in ["aMq.foo", "amq.", &"x".repeat(256)] {
            assert_eq!(name("${query:id}", &format!("id={bad}"), ""), Err(NameError::Invalid));
        }
        let longest = "x".repeat(255);
        assert_eq!(name("${query:id}", &format!("id={longest}"), ""), Ok(longest));
        assert_eq!(name("${query:id}", "id=amqp", ""), Ok("amqp".to_owned()));
    }

    #[test]
    fn a_pattern_that_cannot_be_read_is_none() {
        for bad in ["", " \n", "${query:id", "${path:1}", "${query:}", "${id}"] {
            assert!(bad.parse::<NamePattern>().is_err(), "{bad}");
        }
    }
}
