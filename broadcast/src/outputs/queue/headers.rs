//! Headers of queues that an operator may set: CORS, and what a proxy in front needs.

use std::str::FromStr;

use actix_web::http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    CONNECTION, CONTENT_LENGTH, HeaderMap, HeaderName, HeaderValue, TRANSFER_ENCODING,
};

/// What the HTTP server says of the body is its own.
const OURS: [HeaderName; 3] = [CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING];

/// Headers of a stream in place of ours, or beside them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExtraHeaders(Vec<(HeaderName, HeaderValue)>);

impl FromStr for ExtraHeaders {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let lines = text.split('|').map(str::trim).filter(|line| !line.is_empty());
        let headers = lines.map(|line| {
            let (name, value) = line.split_once(':').ok_or("write a header such as Name: value")?;
            let bad_name = |_| format!("{name:?} is no name of a header");
            let name = HeaderName::from_str(name.trim()).map_err(bad_name)?;
            if OURS.contains(&name) {
                return Err(format!("{name} is the server's own"));
            }
            let bad_value = |_| format!("{name} cannot have that value");
            let value = HeaderValue::from_str(value.trim()).map_err(bad_value)?;
            Ok((name, value))
        });
        headers.collect::<Result<_, String>>().map(Self)
    }
}

impl ExtraHeaders {
    /// Puts them in.
    pub fn add_to(&self, headers: &mut HeaderMap) {
        for (name, value) in &self.0 {
            headers.insert(name.clone(), value.clone());
        }
    }
}

/// Reads whose pages may read queues.
///
/// # Errors
///
/// No header can say it.
pub fn parse_origin(text: &str) -> Result<String, String> {
    let is_origin = text == "*" || text.contains("://");
    if is_origin && HeaderValue::from_str(text).is_ok() {
        return Ok(text.to_owned());
    }
    Err("write `*`, or an origin such as https://dashboard.example".to_owned())
}

/// Lets pages of an origin read an answer, as eventsourced did (WIRE §7).
pub fn share(origin: &str, headers: &mut HeaderMap) {
    // It was read as a header's value at the start.
    let Ok(origin) = HeaderValue::from_str(origin) else { return };
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    let methods = HeaderValue::from_static("GET, OPTIONS");
    headers.insert(ACCESS_CONTROL_ALLOW_METHODS, methods);
    let allowed = HeaderValue::from_static("Content-Type, Accept, Cache-Control");
    headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, allowed);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_read_and_the_servers_own_are_not_taken() {
        let extra: ExtraHeaders = " X-A: b: c | Cache-Control:no-cache |".parse().unwrap();
        let mut headers = HeaderMap::new();
        headers.insert(HeaderName::from_static("cache-control"), HeaderValue::from_static("x"));
        extra.add_to(&mut headers);
        for (name, value) in [("x-a", "b: c"), ("cache-control", "no-cache")] {
            assert_eq!(headers.get(name), Some(&HeaderValue::from_static(value)));
        }
        for bad in ["x", "a b: c", "a: \u{7}", "Transfer-Encoding: identity", "connection: close"] {
            assert!(bad.parse::<ExtraHeaders>().is_err(), "{bad}");
        }
    }
}
