//! The operator's door: `/livez`, `/readyz`, `/metrics`, on an address of its own.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use actix_web::dev::{AppConfig, ServiceFactory as _};
use actix_web::http::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use actix_web::http::{Method, StatusCode};
use actix_web::{App, HttpRequest, HttpResponse, web};
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;

use crate::http;
use crate::server::{self, Server};

/// Scrapes and probes; more at a time are refused.
const CONNECTIONS_MAX: usize = 256;

/// Whether a door can serve now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Readiness {
    /// It serves; what is wrong all the same is named.
    Ready(Vec<String>),
    /// It cannot serve, for this reason.
    NotReady(&'static str),
}

/// What the operator's door shows.
pub struct Admin {
    readiness: Box<dyn Fn() -> Readiness + Send + Sync>,
    refresh: Box<dyn Fn() + Send + Sync>,
    registry: Mutex<Registry>,
}

impl Admin {
    /// `readiness` is asked for every probe, `refresh` before every scrape.
    pub fn new(
        registry: Registry,
        readiness: impl Fn() -> Readiness + Send + Sync + 'static,
        refresh: impl Fn() + Send + Sync + 'static,
    ) -> Arc<Self> {
        Arc::new(Self {
            readiness: Box::new(readiness),
            refresh: Box::new(refresh),
            registry: Mutex::new(registry),
        })
    }

    /// Opens the door.
    ///
    /// # Errors
    ///
    /// The address cannot be had.
    pub async fn open(self: Arc<Self>, address: SocketAddr) -> io::Result<Server> {
        let settings =
            server::Settings { address, workers: 1, connections_max: CONNECTIONS_MAX, tls: None };
        Server::open(settings, move |_, _| {
            let admin = Arc::clone(&self);
            async move {
                let app = App::new()
                    .app_data(web::Data::from(admin))
                    .default_service(web::route().to(answer));
                let app = actix_service::map_config(app, |()| AppConfig::default());
                let service = http::builder(Duration::from_secs(1)).finish(app).new_service(());
                // The making of a service from an app cannot fail; it has no state to lose.
                let service = service.await.unwrap_or_else(|()| std::process::abort());
                http::serve(service)
            }
        })
        .await
    }

    fn ready(&self) -> HttpResponse {
        match (self.readiness)() {
            Readiness::Ready(degraded) if degraded.is_empty() => {
                http::json(StatusCode::OK, r#"{"status":"ready"}"#)
            }
            Readiness::Ready(degraded) => {
                let body = serde_json::json!({ "status": "ready", "degraded": degraded });
                http::json(StatusCode::OK, body.to_string())
            }
            Readiness::NotReady(reason) => {
                let body = serde_json::json!({ "status": "not ready", "reason": reason });
                http::json(StatusCode::SERVICE_UNAVAILABLE, body.to_string())
            }
        }
    }

    fn metrics(&self) -> HttpResponse {
        (self.refresh)();
        let mut text = String::new();
        let registry = self.registry.lock().unwrap_or_else(PoisonError::into_inner);
        if encode(&mut text, &registry).is_err() {
            return http::refusal(StatusCode::INTERNAL_SERVER_ERROR, "INTERNAL");
        }
        let mut response = http::json(StatusCode::OK, text);
        let text =
            HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");
        response.headers_mut().insert(CONTENT_TYPE, text);
        response
    }
}

async fn answer(request: HttpRequest, admin: web::Data<Admin>) -> HttpResponse {
    let is_read = matches!(*request.method(), Method::GET | Method::HEAD);
    match request.path() {
        "/livez" | "/readyz" | "/metrics" if !is_read => {
            let mut response = http::refusal(StatusCode::METHOD_NOT_ALLOWED, "METHOD_NOT_ALLOWED");
            response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            response
        }
        "/livez" => http::json(StatusCode::OK, r#"{"status":"alive"}"#),
        "/readyz" => admin.ready(),
        "/metrics" => admin.metrics(),
        _ => http::refusal(StatusCode::NOT_FOUND, "NOT_FOUND"),
    }
}

impl fmt::Debug for Admin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Admin")
    }
}
