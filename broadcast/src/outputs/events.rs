//! `GET /events`: kept and live events as one resource (WIRE §3.2): Server-Sent Events, a page, a
//! WebSocket.

use actix_web::http::header::{ACCEPT, HeaderMap};

pub mod page;
pub mod socket;
pub mod sse;

/// Whether a request asks for Server-Sent Events.
pub fn wants_sse(headers: &HeaderMap) -> bool {
    let accepted = headers.get_all(ACCEPT).filter_map(|value| value.to_str().ok());
    let mut kinds = accepted.flat_map(|value| value.split(','));
    kinds.any(|kind| {
        let name = kind.split(';').next().unwrap_or_default().trim();
        name.eq_ignore_ascii_case("text/event-stream")
    })
}
