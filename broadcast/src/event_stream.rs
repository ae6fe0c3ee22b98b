//! The bytes of Server-Sent Events (WHATWG HTML §9.2), for every way out that writes them.

use std::time::Duration;

use actix_http::ConnectionType;
use actix_web::HttpResponse;
use actix_web::body::BoxBody;
use actix_web::http::StatusCode;
use actix_web::http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue};

/// WIRE §3.2: how often a client hears something, though nothing happens.
pub const COMMENT_EVERY: Duration = Duration::from_secs(15);
/// What it hears then.
pub const COMMENT: &[u8] = b":\n\n";

/// Answers with a stream: nobody between us and the client is to hold it up.
pub fn respond(content_type: &'static str, body: BoxBody) -> HttpResponse {
    let mut response = HttpResponse::with_body(StatusCode::OK, body);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, no-transform"));
    let buffering = HeaderName::from_static("x-accel-buffering");
    headers.insert(buffering, HeaderValue::from_static("no"));
    // What follows a stream on its connection would wait for ever.
    response.head_mut().set_connection_type(ConnectionType::Close);
    response
}

/// Appends what stands before the data.
pub fn push_head(cursor: &str, event_type: Option<&str>, out: &mut Vec<u8>) {
    out.extend_from_slice(b"id: ");
    out.extend_from_slice(cursor.as_bytes());
    out.push(b'\n');
    if let Some(event_type) = event_type {
        out.extend_from_slice(b"event: ");
        out.extend_from_slice(event_type.as_bytes());
        out.push(b'\n');
    }
}

/// Appends the data, a field for each line of them, and the end of the event. Lines end with CR, LF
/// or both.
pub fn push_data(data: &[u8], out: &mut Vec<u8>) {
    let mut rest = data;
    loop {
        let end = memchr::memchr2(b'\r', b'\n', rest);
        let (line, after) = rest.split_at(end.unwrap_or(rest.len()));
        out.extend_from_slice(b"data: ");
        out.extend_from_slice(line);
        out.push(b'\n');
        if end.is_none() {
            break;
        }
        rest = after.strip_prefix(b"\r\n").or_else(|| after.get(1..)).unwrap_or_default();
    }
    out.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_line_of_the_data_is_a_field() {
        let table = [
            ("1", "data: 1\n\n"),
            ("", "data: \n\n"),
            ("{\n}", "data: {\ndata: }\n\n"),
            ("a\r\nb\rc\n", "data: a\ndata: b\ndata: c\ndata: \n\n"),
            ("\r\r\n", "data: \ndata: \ndata: \n\n"),
        ];
        for (data, expected) in table {
            let mut out = Vec::new();
            push_data(data.as_bytes(), &mut out);
            assert_eq!(String::from_utf8(out).unwrap(), expected, "{data:?}");
        }
    }
}
