//! The bare handler: what the HTTP server under the gateway does when nothing else is done.

use std::net::SocketAddr;

use actix_web::{App, HttpResponse, HttpServer, web};
use clap::Args;
use gateway::leash;

use crate::machine::worker_count;

/// Answers every POST with 200, and does nothing else
#[derive(Debug, Args)]
pub(crate) struct BareServer {
    /// Where
    address: SocketAddr,
}

impl BareServer {
    /// Serves until it is told to stop.
    pub(crate) fn run(&self) -> anyhow::Result<()> {
        leash::put_on()?;
        let address = self.address;
        actix_web::rt::System::new().block_on(async move {
            let app = || App::new().route("/event", web::post().to(answer));
            HttpServer::new(app).workers(worker_count()).backlog(4096).bind(address)?.run().await?;
            Ok(())
        })
    }
}

/// The body is read, as every handler that uses it does.
async fn answer(_body: web::Bytes) -> HttpResponse {
    HttpResponse::Ok().content_type("application/json; charset=utf-8").body(r#"{"code":"OK"}"#)
}
