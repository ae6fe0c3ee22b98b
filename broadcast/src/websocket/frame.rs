//! Frames that we send (RFC 6455 §5.2): whole, and not masked.

use actix_http::ws::{OpCode, Parser};
use bytes::BytesMut;

use crate::disconnect::Disconnect;

/// RFC 6455 §5.2: the longest header of a frame that is not masked.
pub const HEADER_BYTES_MAX: usize = 10;

/// Appends a text frame of what `put` appends.
pub fn push_text(out: &mut Vec<u8>, put: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    put(out);
    let mut header = Vec::with_capacity(HEADER_BYTES_MAX);
    push_header(out.len() - start, &mut header);
    out.splice(start..start, header);
}

/// RFC 6455 §5.2: the header of a server's text frame, final and not masked.
pub fn push_header(payload_bytes: usize, out: &mut Vec<u8>) {
    const FINAL_TEXT: u8 = 0x81;
    out.push(FINAL_TEXT);
    if let Ok(short @ ..126) = u8::try_from(payload_bytes) {
        out.push(short);
    } else if let Ok(medium) = u16::try_from(payload_bytes) {
        out.push(126);
        out.extend_from_slice(&medium.to_be_bytes());
    } else {
        out.push(127);
        out.extend_from_slice(&u64::try_from(payload_bytes).unwrap_or(u64::MAX).to_be_bytes());
    }
}

/// A frame of its own, such as an answer or a control frame.
pub fn frame(opcode: OpCode, payload: &[u8]) -> Vec<u8> {
    let mut out = BytesMut::with_capacity(payload.len() + HEADER_BYTES_MAX);
    Parser::write_message(&mut out, payload, opcode, true, false);
    out.into()
}

/// A Close frame with its code and reason.
pub fn close_frame(disconnect: Disconnect) -> Vec<u8> {
    let (code, reason) = disconnect.code_and_reason();
    frame(OpCode::Close, &[&code.to_be_bytes(), reason.as_bytes()].concat())
}
