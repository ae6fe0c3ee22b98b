//! Gives events out to dashboards: takes them from the link, in one order, to every session that
//! subscribed to them.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::process::ExitCode;
use std::rc::Rc;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use actix_service::{ServiceFactory as _, fn_service, map_config};
use actix_web::dev::AppConfig;
use actix_web::{App, web};
use prometheus_client::registry::Registry;
use shared::address::Network;
use shared::admin::{Admin, Readiness};
use shared::failures::Failures;
use shared::guard::Guard;
use shared::memory::Memory;
use shared::metrics::Common;
use shared::process::{Files, StartError, until_stopped};
use shared::server::{self, Occupancy, Server};
use shared::{descriptors, http, process};
use tokio::sync::{mpsc, watch};

use crate::census::Census;
use crate::config::Config;
use crate::log::{Feed, Log, QUEUE_BATCHES_MAX};
use crate::metrics::Metrics;
use crate::outputs::{Outputs, websocket};
use crate::receiver::Receiver;
use crate::worker::{Limits, Shared, Worker};

pub mod census;
pub mod config;
pub mod disconnect;
pub mod fatal;
pub mod hub;
pub mod log;
pub mod metrics;
pub mod outbox;
pub mod outputs;
pub mod pace;
pub mod patience;
pub mod publication;
pub mod receiver;
pub mod session;
pub mod worker;

/// Runs the process until it has stopped.
pub fn run(config: Config) -> ExitCode {
    process::run(&config.common.clone(), serve(config))
}

async fn serve(config: Config) -> Result<(), StartError> {
    let connections_max = descriptors::raise();
    let files = Files::follow(&config.common)?;
    let mut registry = shared::metrics::registry();
    let parts = Parts::new(config, &files, connections_max, &mut registry);
    let config = &parts.config;
    let occupancy = Arc::new(OnceLock::new());
    let admin = parts.admin(registry, Arc::clone(&occupancy));
    let admin = admin.open(config.broadcast_admin_addr).await.map_err(|error| {
        let (setting, address) = ("BROADCAST_ADMIN_ADDR", config.broadcast_admin_addr);
        StartError::Door { setting, address, error }
    })?;
    let (feeds, receivers): (Vec<_>, Vec<_>) =
        (0..config.common.worker_count()).map(|_| mpsc::channel(QUEUE_BATCHES_MAX)).unzip();
    let settings = server::Settings {
        address: config.broadcast_addr,
        workers: receivers.len(),
        connections_max,
        tls: files.tls.clone(),
    };
    let server = parts.open(settings, receivers).await.map_err(|error| {
        let (setting, address) = ("BROADCAST_ADDR", config.broadcast_addr);
        StartError::Door { setting, address, error }
    })?;
    let (stop, stopping) = watch::channel(false);
    let receiver = parts.receiver(feeds).await?;
    let receiving = tokio::task::spawn_local(receiver.run(stopping));
    let _ = occupancy.set(Arc::clone(server.occupancy()));
    ::log::info!(address:% = server.address(), admin:% = admin.address(); "broadcast is open");
    until_stopped(&files).await?;
    drain(server, stop, receiving, config.common.drain_timeout).await;
    ::log::info!("broadcast has stopped");
    Ok(())
}

/// Takes nothing in any more, gives out all that was acknowledged, and closes the sessions.
async fn drain(
    server: Server,
    stop: watch::Sender<bool>,
    mut receiving: tokio::task::JoinHandle<()>,
    patience: Duration,
) {
    let begun = tokio::time::Instant::now();
    server.stop_accepting();
    stop.send_replace(true);
    // With the last sender's connection the log's inbox goes, and the workers get the end. A
    // sender that does not take its goodbye must not keep it from the sessions.
    if tokio::time::timeout(patience / 2, &mut receiving).await.is_err() {
        ::log::warn!("the link did not end in time");
        receiving.abort();
    }
    server.drain(patience.saturating_sub(begun.elapsed())).await;
}

/// What the workers share.
#[derive(Debug, Clone)]
struct Parts {
    config: Arc<Config>,
    shared: Shared,
    common_metrics: Arc<Common>,
    allowed_origins: Arc<[String]>,
    trusted_proxies: Arc<[Network]>,
}

impl Parts {
    fn new(config: Config, files: &Files, connections_max: usize, registry: &mut Registry) -> Self {
        let memory = Memory::new(config.common.memory_limit);
        let to_count = |count: u32| usize::try_from(count).unwrap_or(usize::MAX);
        let sessions_max = config.max_sessions.map_or(connections_max, to_count);
        let per_address_max = config.max_sessions_per_address.map(u32::from);
        let limits = Limits {
            init_timeout: config.init_timeout.0,
            outbox_bytes_max: config.outbox_bytes,
            patterns_max: to_count(config.max_patterns),
            message_bytes_max: config.max_message,
            frames_per_second: config.max_frame_rate.get(),
        };
        let shared = Shared {
            tokens: Arc::clone(&files.tokens),
            census: Census::new(sessions_max, per_address_max),
            failures: Arc::<Failures>::default(),
            metrics: Metrics::register(registry),
            limits: Arc::new(limits),
            memory: Arc::clone(&memory),
        };
        Self {
            shared,
            common_metrics: Arc::new(Common::register(registry, files, memory)),
            allowed_origins: config.allowed_origins.0.as_slice().into(),
            trusted_proxies: config.common.trusted_proxies.0.as_slice().into(),
            config: Arc::new(config),
        }
    }

    fn admin(&self, registry: Registry, occupancy: Arc<OnceLock<Arc<Occupancy>>>) -> Arc<Admin> {
        let (probed, scraped) = (self.clone(), self.clone());
        let seen = Arc::clone(&occupancy);
        let readiness = move || match occupancy.get() {
            None => Readiness::NotReady("starting"),
            Some(occupancy) if occupancy.is_draining() => Readiness::NotReady("draining"),
            Some(_) => Readiness::Ready(probed.common_metrics.degraded()),
        };
        Admin::new(registry, readiness, move || {
            let to_gauge = |value: usize| i64::try_from(value).unwrap_or(i64::MAX);
            let Shared { metrics, census, memory, .. } = &scraped.shared;
            metrics.sessions.set(to_gauge(census.sessions()));
            metrics.newcomers.set(to_gauge(census.newcomers()));
            metrics.outbox_bytes.set(to_gauge(memory.held()));
            if let Some(occupancy) = seen.get() {
                scraped.common_metrics.refresh(occupancy);
            }
        })
    }

    async fn receiver(&self, feeds: Vec<mpsc::Sender<Feed>>) -> Result<Receiver, StartError> {
        let Shared { memory, metrics, .. } = &self.shared;
        let inbox = Log::start(feeds, Arc::clone(memory)).map_err(StartError::System)?;
        let settings = receiver::Settings {
            address: self.config.common.link.clone(),
            group: self.config.link_group,
            uids: self.config.common.link_uids.0.clone(),
            body_bytes_max: self.config.common.max_body,
        };
        let (taken, refused) = (metrics.taken.clone(), metrics.turned_away.clone());
        Ok(Receiver::open(settings, inbox, Arc::clone(memory), taken, refused).await?)
    }

    async fn open(
        &self,
        settings: server::Settings,
        feeds: Vec<mpsc::Receiver<Feed>>,
    ) -> io::Result<Server> {
        let parts = self.clone();
        let feeds: Vec<_> = feeds.into_iter().map(Some).collect();
        let feeds = Arc::new(Mutex::new(feeds));
        Server::open(settings, move |index, occupancy| {
            let delivered = parts.shared.metrics.delivered_by(index);
            let worker = Worker::new(parts.shared.clone(), delivered);
            let mut feeds = feeds.lock().unwrap_or_else(PoisonError::into_inner);
            let feed = feeds.get_mut(index).and_then(Option::take);
            let outputs = web::Data::new(Outputs {
                worker: Rc::clone(&worker),
                allowed_origins: Arc::clone(&parts.allowed_origins),
                trusted_proxies: Arc::clone(&parts.trusted_proxies),
                occupancy,
            });
            serve_worker(worker, feed, outputs)
        })
        .await
    }
}

/// Makes what serves connections on one worker thread, and starts its feeding.
async fn serve_worker(
    worker: Rc<Worker>,
    feed: Option<mpsc::Receiver<Feed>>,
    outputs: web::Data<Outputs>,
) -> impl Fn(Guard) -> Pin<Box<dyn Future<Output = ()>>> {
    if let Some(feed) = feed {
        tokio::task::spawn_local(Rc::clone(&worker).run(feed));
    }
    let app = move || {
        let outputs = outputs.clone();
        let app = App::new().app_data(outputs).default_service(web::route().to(outputs::answer));
        map_config(app, |()| AppConfig::default())
    };
    // An app that has no state of its own cannot fail to be made.
    let upgrading = app().new_service(()).await.unwrap_or_else(|()| std::process::abort());
    let upgrading = Rc::new(upgrading);
    let upgrade = fn_service(move |(request, framed)| {
        websocket::take_over(Rc::clone(&upgrading), Rc::clone(&worker), request, framed)
    });
    // Less than half a second to linger would leak the socket; none at all does not.
    let builder = http::builder(Duration::ZERO).h1_allow_half_closed(false).upgrade(upgrade);
    let service = builder.finish(app()).new_service(()).await;
    http::serve(service.unwrap_or_else(|()| std::process::abort()))
}
