//! Takes events in from trusted back ends, and hands them to `broadcast` over the link.

use std::collections::BTreeSet;
use std::io;
use std::process::ExitCode;
use std::rc::Rc;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use actix_service::{fn_service, map_config};
use actix_web::dev::{AppConfig, ServiceFactory as _};
use actix_web::{App, web};
use prometheus_client::registry::Registry;
use shared::address::Network;
use shared::admin::{Admin, Readiness};
use shared::amqp::Node;
use shared::failures::Failures;
use shared::link::sender::{self, LinkState, Sender};
use shared::memory::Memory;
use shared::metrics::Common;
use shared::occupancy::Occupancy;
use shared::process::{Files, StartError, catch_signals, until_stopped};
use shared::publisher::{Publisher, Rates};
use shared::server::{self, Server};
use shared::{descriptors, http, process};
use tokio::sync::watch;
use tokio::task::JoinSet;

pub use crate::config::Config;
use crate::inputs::Inputs;
use crate::inputs::amqp::{self, Consuming, QueueName};
use crate::metrics::Metrics;

pub mod config;
pub mod inputs;
pub mod metrics;
pub mod pipeline;
pub mod prefer;

/// How long the answer to a request whose body was not read may take to reach its client.
/// With less than half a second, the HTTP server would leak the socket.
const LINGER: Duration = Duration::from_secs(1);
/// HARDENING: what is in flight at a stop may take so long.
const FINISH_TIMEOUT: Duration = Duration::from_secs(5);

/// Runs the process until it has stopped.
pub fn run(config: Config) -> ExitCode {
    process::run(&config.common.clone(), serve(config))
}

async fn serve(config: Config) -> Result<(), StartError> {
    let signals = catch_signals()?;
    let connections_max = descriptors::raise();
    let files = Files::follow(&config.common)?;
    let mut registry = shared::metrics::registry();
    let nodes = nodes(&config)?;
    let parts = Parts::new(config, &files, &mut registry, nodes.clone());
    let config = &parts.config;
    let occupancy = Arc::new(OnceLock::new());
    let admin = parts.admin(registry, Arc::clone(&occupancy));
    let admin = admin.open(config.listen_admin_addr).await.map_err(|error| StartError::Door {
        setting: "LISTEN_ADMIN_ADDR",
        address: config.listen_admin_addr,
        error,
    })?;
    let settings = server::Settings {
        address: config.listen_addr,
        workers: config.common.worker_count(),
        connections_max,
        tls: files.tls.clone(),
    };
    let server = parts.open(settings).await.map_err(|error| StartError::Door {
        setting: "LISTEN_ADDR",
        address: config.listen_addr,
        error,
    })?;
    let _ = occupancy.set(Arc::clone(server.occupancy()));
    log::info!(address:% = server.address(), admin:% = admin.address(); "listen is open");
    let queues = parts.consume(nodes);
    until_stopped(signals, &files).await;
    let patience = FINISH_TIMEOUT.min(config.common.drain_timeout);
    tokio::join!(queues.stop(patience), server.drain(patience));
    log::info!("listen has stopped");
    Ok(())
}

/// Connections to RabbitMQ, where its queues are consumed.
fn nodes(config: &Config) -> Result<Vec<Node>, StartError> {
    if config.amqp_consume.0.is_empty() {
        return Ok(Vec::new());
    }
    let tls = config.amqp.tls()?;
    Ok(config.amqp.nodes()?.map(|url| Node::follow(url, Arc::clone(&tls))).collect())
}

/// Queues of RabbitMQ that are being consumed.
struct Queues {
    stop: watch::Sender<bool>,
    tasks: JoinSet<()>,
}

impl Queues {
    /// Takes nothing more, and waits for what is under way.
    async fn stop(mut self, patience: Duration) {
        self.stop.send_replace(true);
        let ended = async { while self.tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(patience, ended).await.is_err() {
            log::warn!("messages that are under way will be delivered again");
        }
    }
}

/// What the workers share.
#[derive(Debug, Clone)]
struct Parts {
    config: Arc<Config>,
    files: Files,
    memory: Arc<Memory>,
    link: Arc<LinkState>,
    rates: Option<Arc<Rates>>,
    failures: Arc<Failures>,
    metrics: Arc<Metrics>,
    common_metrics: Arc<Common>,
    trusted_proxies: Arc<[Network]>,
    /// Connections to RabbitMQ, where its queues are consumed.
    nodes: Vec<Node>,
}

impl Parts {
    fn new(config: Config, files: &Files, registry: &mut Registry, nodes: Vec<Node>) -> Self {
        let memory = Memory::new(config.common.memory_limit);
        let link: Arc<LinkState> = Arc::default();
        Self {
            files: files.clone(),
            rates: config.rate_limit.0.map(|count| Arc::new(Rates::per_second(count))),
            failures: Arc::default(),
            metrics: Metrics::register(registry, &link),
            common_metrics: Arc::new(Common::register(registry, files, Arc::clone(&memory))),
            trusted_proxies: config.common.trusted_proxies.0.as_slice().into(),
            memory,
            link,
            nodes,
            config: Arc::new(config),
        }
    }

    fn admin(&self, registry: Registry, occupancy: Arc<OnceLock<Arc<Occupancy>>>) -> Arc<Admin> {
        let (probed, scraped) = (self.clone(), self.clone());
        let seen = Arc::clone(&occupancy);
        Admin::new(
            registry,
            move || probed.readiness(occupancy.get()),
            move || {
                let up = i64::try_from(scraped.link.connected()).unwrap_or(i64::MAX);
                scraped.metrics.links_up.set(up);
                if let Some(occupancy) = seen.get() {
                    scraped.common_metrics.refresh(occupancy);
                }
            },
        )
    }

    fn readiness(&self, occupancy: Option<&Arc<Occupancy>>) -> Readiness {
        match occupancy {
            None => Readiness::NotReady("starting"),
            Some(occupancy) if occupancy.is_draining() => Readiness::NotReady("draining"),
            Some(_) if self.link.connected() == 0 => Readiness::NotReady("no link to broadcast"),
            Some(_) => {
                let is_away =
                    !self.nodes.is_empty() && self.nodes.iter().all(|it| it.live().is_none());
                let broker = is_away.then(|| "broker away".to_owned());
                Readiness::Ready(self.common_metrics.degraded().into_iter().chain(broker).collect())
            }
        }
    }

    /// Begins to fire what is in queues of RabbitMQ, if some were named.
    fn consume(&self, nodes: Vec<Node>) -> Queues {
        let (stop, stopping) = watch::channel(false);
        let named = self.config.amqp_consume.0.clone();
        if named.is_empty() {
            return Queues { stop, tasks: JoinSet::new() };
        }
        let consuming = Rc::new(Consuming {
            nodes,
            publisher: Publisher::new(Arc::clone(&self.files.tokens), None, self.sender()),
            metrics: Arc::clone(&self.metrics),
            body_bytes_max: self.config.common.max_body,
            memory: Arc::clone(&self.memory),
        });
        let mut tasks = JoinSet::new();
        // Two consumers of ours on one queue would lose its order.
        let named: BTreeSet<QueueName> = named.into_iter().collect();
        for queue in named {
            tasks.spawn_local(amqp::consume(Rc::clone(&consuming), queue, stopping.clone()));
        }
        Queues { stop, tasks }
    }

    /// A link to broadcast, for this thread.
    fn sender(&self) -> Sender {
        let settings = sender::Settings {
            address: self.config.common.link.clone(),
            uids: self.config.common.link_uids.0.clone(),
            publish_timeout: self.config.publish_timeout,
            body_bytes_max: self.config.common.max_body,
        };
        Sender::start(settings, Arc::clone(&self.memory), Arc::clone(&self.link))
    }

    async fn open(&self, settings: server::Settings) -> io::Result<Server> {
        let parts = self.clone();
        Server::open(settings, move |worker, occupancy| {
            let inputs = web::Data::new(parts.inputs_of(worker, occupancy));
            async move {
                let (expecting, overlapping) = (inputs.clone(), inputs.clone());
                let expect = fn_service(move |request| inputs::expect(request, expecting.clone()));
                let app =
                    App::new().app_data(inputs).default_service(web::route().to(inputs::answer));
                let app = map_config(app, |()| AppConfig::default());
                let service =
                    http::builder(LINGER).expect(expect).finish(app).new_service(()).await;
                // An app that has no state of its own cannot fail to be made.
                let serve =
                    Rc::new(http::serve(service.unwrap_or_else(|()| std::process::abort())));
                move |guard| {
                    let (inputs, serve) = (overlapping.clone(), Rc::clone(&serve));
                    async move {
                        if let Some(guard) = pipeline::serve(guard, inputs).await {
                            serve(guard).await;
                        }
                    }
                }
            }
        })
        .await
    }

    fn inputs_of(&self, worker: usize, occupancy: Arc<Occupancy>) -> Inputs {
        Inputs {
            publisher: Publisher::new(
                Arc::clone(&self.files.tokens),
                self.rates.clone(),
                self.sender(),
            ),
            publish_timeout: self.config.publish_timeout,
            rate: self.config.rate_limit.0,
            body_bytes_max: self.config.common.max_body,
            memory: Arc::clone(&self.memory),
            accepted: self.metrics.accepted_by(worker),
            metrics: Arc::clone(&self.metrics),
            failures: Arc::clone(&self.failures),
            trusted_proxies: Arc::clone(&self.trusted_proxies),
            occupancy,
        }
    }
}
