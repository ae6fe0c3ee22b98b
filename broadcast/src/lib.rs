//! Gives events out to dashboards: takes them from the link, in one order, to every session that
//! subscribed to them.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::process::ExitCode;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use actix_service::{ServiceFactory as _, fn_service, map_config};
use actix_web::dev::AppConfig;
use actix_web::{App, web};
use prometheus_client::registry::Registry;
use shared::address::Network;
use shared::admin::{Admin, Readiness};
use shared::amqp::Node;
use shared::failures::Failures;
use shared::guard::Guard;
use shared::memory::Memory;
use shared::metrics::Common;
use shared::occupancy::Occupancy;
use shared::process::{Files, StartError, catch_signals, until_stopped};
use shared::server::{self, Server};
use shared::{descriptors, http, process};
use tokio::sync::mpsc;

use crate::broker::Broker;
use crate::census::Census;
use crate::channels::Channels;
use crate::config::Config;
use crate::config::queues::Engine;
use crate::intake::Intake;
use crate::interest::Interest;
use crate::log::keeper::{self, Opened};
use crate::log::{Feed, QUEUE_BATCHES_MAX, Seat};
use crate::metrics::Metrics;
use crate::origins::Origins;
use crate::outputs::{Outputs, queue};
use crate::worker::{Limits, Shared, Worker};

pub mod admission;
pub mod archive;
pub mod bell;
pub mod broker;
pub mod catch_up;
pub mod census;
pub mod channels;
pub mod clerk;
pub mod cloudevents;
pub mod config;
pub mod cursor;
pub mod direct;
pub mod disconnect;
pub mod event_stream;
pub mod fatal;
pub mod filter;
pub mod hub;
pub mod index;
pub mod intake;
pub mod interest;
pub mod listing;
pub mod log;
pub mod metrics;
pub mod origins;
pub mod outbox;
pub mod outputs;
pub mod pace;
pub mod patience;
pub mod places;
pub mod publication;
pub mod query;
pub mod queues;
pub mod receiver;
pub mod refusal;
pub mod session;
pub mod subscription;
pub mod tickets;
pub mod watch;
pub mod websocket;
pub mod worker;

/// Runs the process until it has stopped.
pub fn run(config: Config) -> ExitCode {
    process::run(&config.common.clone(), serve(config))
}

async fn serve(config: Config) -> Result<(), StartError> {
    let signals = catch_signals()?;
    let connections_max = descriptors::raise();
    let files = Files::follow(&config.common)?;
    let mut registry = shared::metrics::registry();
    let opened = Opened::open(&kept(&config))?;
    let broker = broker(&config)?;
    let parts = Parts::new(config, &files, connections_max, &opened, &mut registry, broker);
    let config = &parts.config;
    let occupancy = Arc::new(OnceLock::new());
    let admin = parts.admin(registry, Arc::clone(&occupancy));
    let admin = admin.open(config.broadcast_admin_addr).await.map_err(|error| {
        let (setting, address) = ("BROADCAST_ADMIN_ADDR", config.broadcast_admin_addr);
        StartError::Door { setting, address, error }
    })?;
    let (seats, feeds): (Vec<_>, Vec<_>) = (0..config.common.worker_count())
        .map(|_| {
            let (feed, fed) = mpsc::channel(QUEUE_BATCHES_MAX);
            let interest = Arc::new(Interest::new(parts.shared.archive.watch_end()));
            (Seat { feed, interest: Arc::clone(&interest) }, Some((fed, interest)))
        })
        .unzip();
    let settings = server::Settings {
        address: config.broadcast_addr,
        workers: feeds.len(),
        connections_max,
        tls: files.tls.clone(),
    };
    let server = parts.open(settings, feeds).await.map_err(|error| {
        let (setting, address) = ("BROADCAST_ADDR", config.broadcast_addr);
        StartError::Door { setting, address, error }
    })?;
    let (queues, metrics) = (Arc::clone(&opened.queues), Arc::clone(&parts.shared.metrics));
    let intake = Intake::start(parts.intake(seats, opened)).await?;
    let tending = tokio::task::spawn_local(Arc::clone(&queues).tend(metrics));
    let _ = occupancy.set(Arc::clone(server.occupancy()));
    ::log::info!(address:% = server.address(), admin:% = admin.address(); "broadcast is open");
    until_stopped(signals, &files).await;
    drain(server, intake, config.common.drain_timeout).await;
    tending.abort();
    queues.save_all().await;
    ::log::info!("broadcast has stopped");
    Ok(())
}

/// What is kept, and how.
fn kept(config: &Config) -> keeper::Settings {
    let to_u64 = |size: usize| u64::try_from(size).unwrap_or(u64::MAX);
    keeper::Settings {
        folder: config.data_dir.clone(),
        durability: config.durability,
        events_max: config.log_max_events.get(),
        bytes_max: to_u64(config.log_max_bytes),
        age_max: config.log_max_age,
        cache_bytes: config.log_cache_bytes,
        queues: config.queues.bounds(),
    }
}

/// The way to RabbitMQ, where queues are there.
fn broker(config: &Config) -> Result<Option<Arc<Broker>>, StartError> {
    if config.queues.queue_engine != Engine::Amqp {
        return Ok(None);
    }
    // RabbitMQ counts in milliseconds, and its clients in 31 bits.
    if i32::try_from(config.queues.queue_expires.as_millis()).is_err() {
        let fault = "RabbitMQ keeps no queue for more than 24 days".to_owned();
        return Err(StartError::Setting { setting: "QUEUE_EXPIRES".to_owned(), fault });
    }
    let tls = config.amqp.tls()?;
    let nodes = config.amqp.nodes()?;
    let nodes = nodes.map(|url| Node::follow(url, Arc::clone(&tls))).collect();
    Ok(Some(Broker::new(nodes, config.queues.queue_expires)))
}

/// Takes nothing in any more, gives out all that was acknowledged, and closes the sessions.
async fn drain(server: Server, intake: Intake, patience: Duration) {
    let begun = tokio::time::Instant::now();
    server.stop_accepting();
    intake.stop(patience / 2).await;
    server.drain(patience.saturating_sub(begun.elapsed())).await;
}

/// What the workers share.
#[derive(Debug, Clone)]
struct Parts {
    config: Arc<Config>,
    shared: Shared,
    common_metrics: Arc<Common>,
    origins: Origins,
    queue: Arc<queue::Rules>,
    channels: Option<Arc<Channels>>,
    trusted_proxies: Arc<[Network]>,
}

impl Parts {
    fn new(
        config: Config,
        files: &Files,
        connections_max: usize,
        opened: &Opened,
        registry: &mut Registry,
        broker: Option<Arc<Broker>>,
    ) -> Self {
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
            archive: Arc::clone(&opened.archive),
            tickets: Arc::clone(&opened.tickets),
            queues: Arc::clone(&opened.queues),
            log: Arc::default(),
        };
        Self {
            shared,
            common_metrics: Arc::new(Common::register(registry, files, Arc::clone(&memory))),
            origins: Origins { allowed: config.allowed_origins.0.as_slice().into() },
            channels: config.channels.channels_enable.then(|| {
                let bounds = channels::Bounds {
                    channels_max: to_count(config.channels.max_channels.get()),
                    clients_max: to_count(config.channels.max_channel_clients.get()),
                    clients_in_all_max: (sessions_max / 2).max(1),
                    mailbox_bytes_max: config.outbox_bytes,
                    waiting_bytes_max: config.common.memory_limit / 4,
                };
                Channels::new(bounds, &memory)
            }),
            queue: Arc::new(queue::Rules {
                path: config.queues.queue_path.clone(),
                pattern: config.queues.queue_pattern.clone(),
                allow_origin: config.queues.cors_allow_origin.clone(),
                headers: config.queues.queue_headers.clone(),
                broker,
            }),
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
            Some(_) => Readiness::Ready(probed.degraded()),
        };
        Admin::new(registry, readiness, move || {
            let to_gauge = |value: usize| i64::try_from(value).unwrap_or(i64::MAX);
            let Shared { metrics, census, memory, .. } = &scraped.shared;
            metrics.sessions.set(to_gauge(census.sessions()));
            metrics.newcomers.set(to_gauge(census.newcomers()));
            metrics.outbox_bytes.set(to_gauge(memory.held()));
            if let Some(broker) = &scraped.queue.broker {
                metrics.amqp_connections.set(to_gauge(broker.connections()));
            }
            let open = scraped.channels.as_ref();
            metrics.channels.set(to_gauge(open.map_or(0, |channels| channels.count())));
            outputs::FORMATS.iter().for_each(|format| metrics.refresh_encoded(format));
            if let Some(occupancy) = seen.get() {
                scraped.common_metrics.refresh(occupancy);
            }
        })
    }

    fn degraded(&self) -> Vec<String> {
        let health = self.shared.archive.health();
        let broker = self.queue.broker.as_ref();
        let log = [
            (broker.is_some_and(|it| it.connections() == 0), "broker away"),
            (health.is_failing.load(Ordering::Relaxed), "log not writable"),
            (health.is_damaged.load(Ordering::Relaxed), "log damaged"),
        ];
        let log = log.into_iter().filter(|(is_so, _)| *is_so).map(|(_, what)| what.to_owned());
        self.common_metrics.degraded().into_iter().chain(log).collect()
    }

    fn intake(&self, workers: Vec<Seat>, opened: Opened) -> intake::Settings {
        let Shared { memory, metrics, log, .. } = &self.shared;
        let receiver = receiver::Settings {
            address: self.config.common.link.clone(),
            group: self.config.link_group,
            uids: self.config.common.link_uids.0.clone(),
            body_bytes_max: self.config.common.max_body,
        };
        intake::Settings {
            receiver,
            workers,
            memory: Arc::clone(memory),
            opened,
            direct: Arc::clone(log),
            metrics: Arc::clone(metrics),
            patience: self.config.common.drain_timeout / 2,
        }
    }

    async fn open(
        &self,
        settings: server::Settings,
        feeds: Vec<Option<Fed>>,
    ) -> io::Result<Server> {
        let parts = self.clone();
        let feeds = Arc::new(Mutex::new(feeds));
        Server::open(settings, move |index, occupancy| {
            let mut feeds = feeds.lock().unwrap_or_else(PoisonError::into_inner);
            let (feed, interest) = feeds.get_mut(index).and_then(Option::take).unzip();
            let delivered = parts.shared.metrics.delivered_by(index);
            let worker = Worker::new(parts.shared.clone(), interest.unwrap_or_default(), delivered);
            let outputs = web::Data::new(Outputs {
                worker: Rc::clone(&worker),
                origins: parts.origins.clone(),
                queue: Arc::clone(&parts.queue),
                channels: parts.channels.clone(),
                body_bytes_max: parts.config.common.max_body,
                trusted_proxies: Arc::clone(&parts.trusted_proxies),
                occupancy,
            });
            serve_worker(worker, feed, outputs)
        })
        .await
    }
}

/// A worker's end of the log: its queue, and where to say what it wants.
type Fed = (mpsc::Receiver<Feed>, Arc<Interest>);

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
