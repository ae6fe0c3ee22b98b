//! Reads a request's body, bounded and unpacked.
//!
//! Used by every way in, in both processes. Deadlines are the guard's business; here is the limit of size, which
//! counts what the body unpacks to, so that a small body cannot become a large one in memory.

use std::io::Read as _;
use std::sync::Arc;

use crate::memory::{Held, Memory};
use actix_web::HttpRequest;
use actix_web::http::header::{CONTENT_ENCODING, CONTENT_LENGTH, UPGRADE};
use actix_web::web::Payload;
use bytes::{Bytes, BytesMut};
use flate2::bufread::{MultiGzDecoder, ZlibDecoder};
use futures_util::StreamExt as _;

/// A whole body, on the account of memory until it is dropped.
#[derive(Debug)]
pub struct Body {
    /// The bytes, unpacked.
    pub bytes: Bytes,
    /// Their place on the account.
    pub held: Held,
}

/// How a body is packed (RFC 9110 §8.4.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// Not at all.
    Identity,
    /// The gzip format.
    Gzip,
    /// The zlib format, which HTTP calls deflate.
    Deflate,
}

impl Encoding {
    /// Reads it from a request's head.
    ///
    /// # Errors
    ///
    /// [`BodyError::UnsupportedEncoding`] for any other, and for several.
    pub fn of(request: &HttpRequest) -> Result<Self, BodyError> {
        let mut values = request.headers().get_all(CONTENT_ENCODING);
        let Some(value) = values.next() else { return Ok(Self::Identity) };
        if values.next().is_some() {
            return Err(BodyError::UnsupportedEncoding);
        }
        let value = value.as_bytes().trim_ascii();
        let named = [
            (b"identity".as_slice(), Self::Identity),
            (b"gzip", Self::Gzip),
            (b"deflate", Self::Deflate),
        ];
        let found = named.into_iter().find(|(name, _)| value.eq_ignore_ascii_case(name));
        found.map(|(_, encoding)| encoding).ok_or(BodyError::UnsupportedEncoding)
    }
}

/// Reads the whole body, of at most `bytes_max` bytes packed and unpacked.
///
/// # Errors
///
/// [`BodyError`] says what the client did.
pub async fn read(
    request: &HttpRequest,
    mut payload: Payload,
    encoding: Encoding,
    bytes_max: usize,
    memory: &Arc<Memory>,
) -> Result<Body, BodyError> {
    let announced = announced_length(request);
    if announced.is_some_and(|length| length > bytes_max) {
        return Err(BodyError::TooLarge);
    }
    // A client that also offers to upgrade gets its body read to the end of the stream by the
    // HTTP server; the announced length is what counts (RFC 9110 §7.8: an upgrade may be ignored).
    let wanted = announced.filter(|_| request.headers().contains_key(UPGRADE));
    let mut packed = BytesMut::new();
    let mut first: Option<Bytes> = None;
    let mut held = memory.hold(0);
    while wanted.is_none_or(|wanted| length_of(first.as_ref(), &packed) < wanted) {
        let Some(chunk) = payload.next().await else { break };
        let chunk = chunk.map_err(|_| BodyError::Broken)?;
        if length_of(first.as_ref(), &packed) + chunk.len() > bytes_max {
            return Err(BodyError::TooLarge);
        }
        held.resize(length_of(first.as_ref(), &packed) + chunk.len());
        if held.is_in_need() {
            return Err(BodyError::NoRoom);
        }
        // Most bodies come in one piece, which is kept as it is.
        match first.take() {
            None if packed.is_empty() => first = Some(chunk),
            earlier => {
                packed.extend_from_slice(&earlier.unwrap_or_default());
                packed.extend_from_slice(&chunk);
            }
        }
    }
    let mut packed = first.unwrap_or_else(|| packed.freeze());
    if let Some(wanted) = wanted {
        packed.truncate(wanted);
    }
    let bytes = unpack(packed, encoding, bytes_max)?;
    held.resize(bytes.len());
    Ok(Body { bytes, held })
}

fn announced_length(request: &HttpRequest) -> Option<usize> {
    request.headers().get(CONTENT_LENGTH)?.to_str().ok()?.trim().parse().ok()
}

fn length_of(first: Option<&Bytes>, packed: &BytesMut) -> usize {
    first.map_or(packed.len(), Bytes::len)
}

/// Unpacks at most one byte more than is allowed: a bomb is let go before it unfolds. (The HTTP
/// library would unpack each piece whole, and count afterwards.)
fn unpack(packed: Bytes, encoding: Encoding, bytes_max: usize) -> Result<Bytes, BodyError> {
    let limit = u64::try_from(bytes_max).unwrap_or(u64::MAX).saturating_add(1);
    let mut unpacked = Vec::new();
    let read = match encoding {
        Encoding::Identity => return Ok(packed),
        Encoding::Gzip => MultiGzDecoder::new(&*packed).take(limit).read_to_end(&mut unpacked),
        Encoding::Deflate => ZlibDecoder::new(&*packed).take(limit).read_to_end(&mut unpacked),
    };
    if unpacked.len() > bytes_max {
        return Err(BodyError::TooLarge);
    }
    read.map_err(|_| BodyError::Corrupt)?;
    Ok(unpacked.into())
}

/// Why there is no body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// It is packed in a way that we do not unpack.
    #[error("the content encoding is not supported")]
    UnsupportedEncoding,
    /// It is larger than allowed, packed or unpacked.
    #[error("the body is too large")]
    TooLarge,
    /// It is not what its encoding says.
    #[error("the body cannot be unpacked")]
    Corrupt,
    /// Memory is short: bodies that are under way and events that wait go first.
    #[error("there is no room for the body now")]
    NoRoom,
    /// The client left in the middle of it.
    #[error("the body broke off")]
    Broken,
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use flate2::Compression;
    use flate2::write::{GzEncoder, ZlibEncoder};

    use super::*;

    fn gzip(bytes: &[u8]) -> Bytes {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap().into()
    }

    fn deflate(bytes: &[u8]) -> Bytes {
        let mut encoder = ZlibEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap().into()
    }

    #[test]
    fn what_was_packed_comes_out_as_it_was() {
        let body = Bytes::from_static(b"{\"event\":\"a\"}");
        for (packed, encoding) in [
            (body.clone(), Encoding::Identity),
            (gzip(&body), Encoding::Gzip),
            (deflate(&body), Encoding::Deflate),
        ] {
            assert_eq!(unpack(packed, encoding, 13), Ok(body.clone()), "{encoding:?}");
        }
    }

    #[test]
    fn a_bomb_is_too_large_and_rubbish_is_corrupt() {
        let bomb = vec![0; 1 << 20];
        assert_eq!(unpack(gzip(&bomb), Encoding::Gzip, 1000), Err(BodyError::TooLarge));
        assert_eq!(unpack(deflate(&bomb), Encoding::Deflate, 1000), Err(BodyError::TooLarge));
        let rubbish = Bytes::from_static(b"rubbish");
        assert_eq!(unpack(rubbish.clone(), Encoding::Gzip, 1000), Err(BodyError::Corrupt));
        assert_eq!(unpack(rubbish, Encoding::Deflate, 1000), Err(BodyError::Corrupt));
        let cut = gzip(b"abc").slice(..12);
        assert_eq!(unpack(cut, Encoding::Gzip, 1000), Err(BodyError::Corrupt));
    }
}
