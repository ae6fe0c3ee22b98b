//! Tells a plain event from everything else that a client may send.

/// More headers than a plain event has.
const HEADERS_MAX: usize = 32;

/// Headers that ask for more than taking the event, or that frame its body in another way.
const DEMANDS: [&str; 8] = [
    "transfer-encoding",
    "content-encoding",
    "upgrade",
    "expect",
    "prefer",
    "te",
    "trailer",
    "http2-settings",
];

/// What the next bytes of a connection are.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Seen<'a> {
    /// The beginning of a head.
    Part,
    /// A request that asks for no more than that an event be taken.
    Event(Plain<'a>),
    /// Anything else.
    Other,
}

/// A plain event.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Plain<'a> {
    pub(super) authorization: Option<&'a [u8]>,
    /// How many bytes the body has.
    pub(super) length: usize,
    /// How many bytes are before it.
    pub(super) body_at: usize,
}

/// Looks at the beginning of `bytes`.
pub(super) fn look(bytes: &[u8]) -> Seen<'_> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut request = httparse::Request::new(&mut headers);
    let body_at = match request.parse(bytes) {
        Ok(httparse::Status::Complete(body_at)) => body_at,
        // The guard has the limit of a head.
        Ok(httparse::Status::Partial) => return Seen::Part,
        Err(_) => return Seen::Other,
    };
    let target = (request.method, request.path, request.version);
    if target != (Some("POST"), Some("/event"), Some(1)) {
        return Seen::Other;
    }
    match read_headers(request.headers) {
        Some((authorization, length)) => Seen::Event(Plain { authorization, length, body_at }),
        None => Seen::Other,
    }
}

/// The credential and the length of the body; `None` if a header is more than plain, or stands
/// twice.
fn read_headers<'a>(headers: &[httparse::Header<'a>]) -> Option<(Option<&'a [u8]>, usize)> {
    let (mut authorization, mut length, mut host) = (None, None, None);
    for header in headers {
        let is = |name: &str| header.name.eq_ignore_ascii_case(name);
        if is("host") {
            if host.replace(header.value).is_some() {
                return None;
            }
        } else if is("authorization") {
            if authorization.replace(header.value).is_some() {
                return None;
            }
        } else if is("content-length") {
            if length.replace(read_length(header.value)?).is_some() {
                return None;
            }
        } else if is("connection") {
            // Any other word ends the connection, or names a header of this one hop.
            header.value.eq_ignore_ascii_case(b"keep-alive").then_some(())?;
        } else if DEMANDS.into_iter().any(is) {
            return None;
        }
    }
    // RFC 9112 §3.2: there must be one.
    host?;
    Some((authorization, length?))
}

/// RFC 9110 §8.6: digits, and nothing else.
fn read_length(value: &[u8]) -> Option<usize> {
    let is_number = value.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(value).ok().filter(|_| is_number)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: &[u8] =
        b"POST /event HTTP/1.1\r\nhost: a\r\nAuthorization: Basic x\r\ncontent-length: 2\r\n\r\n{}";

    #[test]
    fn a_plain_event_is_seen_once_its_head_is_whole() {
        let body_at = PLAIN.len() - 2;
        for end in 0..body_at {
            assert_eq!(look(&PLAIN[..end]), Seen::Part, "{end}");
        }
        let event = || Plain { authorization: Some(b"Basic x"), length: 2, body_at };
        for bytes in [&PLAIN[..body_at], PLAIN, &PLAIN.repeat(2)] {
            assert_eq!(look(bytes), Seen::Event(event()));
        }
    }

    #[test]
    fn whatever_asks_for_more_is_something_else() {
        let plain = std::str::from_utf8(PLAIN).unwrap();
        for (what, becomes) in [
            ("POST", "GET"),
            ("/event", "/event?dry_run=true"),
            ("/event", "/events"),
            ("HTTP/1.1", "HTTP/1.0"),
            ("HTTP/1.1", "HTTP/1.1\r\nrubbish"),
            ("host: a", "x: a"),
            ("host: a", "host: a\r\nHost: a"),
            ("host: a", "host: a\r\nHost: b"),
            ("host: a", "host: a\r\nExpect: 100-continue"),
            ("host: a", "host: a\r\nconnection: close"),
            ("host: a", "host: a\r\nconnection: keep-alive, upgrade"),
            ("host: a", "host: a\r\nUpgrade: websocket"),
            ("host: a", "host: a\r\nprefer: return=representation"),
            ("host: a", "host: a\r\ncontent-encoding: gzip"),
            ("host: a", "host: a\r\ntransfer-encoding: chunked"),
            ("host: a", "host: a\r\nauthorization: Basic y"),
            ("host: a", "host: a\r\ncontent-length: 2"),
            ("content-length: 2", "content-length: +2"),
            ("content-length: 2", "content-length: 99999999999999999999"),
            ("content-length: 2", "x: 2"),
        ] {
            let other = plain.replace(what, becomes);
            assert_ne!(other, plain);
            assert_eq!(look(other.as_bytes()), Seen::Other, "{becomes}");
        }
        let kept = plain.replace("host: a", "host: a\r\nConnection: Keep-Alive");
        assert!(matches!(look(kept.as_bytes()), Seen::Event(_)));
        let many = plain.replace("host: a", &("host: a".to_owned() + &"\r\na: b".repeat(40)));
        assert_eq!(look(many.as_bytes()), Seen::Other);
    }
}
