//! Which web pages may come, and read what they get: the rules of `Origin` (RFC 6454) and CORS.

use std::sync::Arc;

use actix_web::http::StatusCode;
use actix_web::http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue, ORIGIN, VARY,
};
use actix_web::{HttpRequest, HttpResponse};

use crate::refusal::Refusal;

/// Web origins whose pages may come.
#[derive(Debug, Clone)]
pub struct Origins {
    /// All, where it is empty.
    pub allowed: Arc<[String]>,
}

impl Origins {
    /// Only browsers send an Origin, and they let no page choose it.
    pub fn judge(&self, request: &HttpRequest) -> Result<(), Refusal> {
        let mut origins = request.headers().get_all(ORIGIN);
        let Some(origin) = origins.next().filter(|_| !self.allowed.is_empty()) else {
            return Ok(());
        };
        let is_allowed =
            |allowed: &String| origin.as_bytes().eq_ignore_ascii_case(allowed.as_bytes());
        if origins.next().is_none() && self.allowed.iter().any(is_allowed) {
            return Ok(());
        }
        Err(Refusal::Forbidden)
    }

    /// Answers what a browser asks before it lets a page of another origin ask (CORS).
    pub fn preflight(
        &self,
        request: &HttpRequest,
        methods: &'static str,
    ) -> Result<HttpResponse, Refusal> {
        if self.allowed.is_empty() || !request.headers().contains_key(ORIGIN) {
            return Err(Refusal::MethodNotAllowed(methods));
        }
        let mut response = HttpResponse::new(StatusCode::NO_CONTENT);
        let headers = response.headers_mut();
        let methods = HeaderValue::from_static(methods);
        headers.insert(ACCESS_CONTROL_ALLOW_METHODS, methods);
        let allowed = HeaderValue::from_static("Authorization, Last-Event-ID");
        headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, allowed);
        Ok(response)
    }

    /// Lets the pages of allowed origins read the answer. Without a list nobody's pages can.
    pub fn share(&self, request: &HttpRequest, response: &mut HttpResponse) {
        if self.allowed.is_empty() {
            return;
        }
        let headers = response.headers_mut();
        headers.insert(VARY, HeaderValue::from_static("Origin"));
        if let Some(origin) = request.headers().get(ORIGIN)
            && self.judge(request).is_ok()
        {
            headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
            let exposed = HeaderValue::from_static("Link, Gateway-Recovered, Gateway-Earliest");
            headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, exposed);
        }
    }
}
