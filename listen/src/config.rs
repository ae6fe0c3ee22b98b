//! The settings of `listen`.

use std::net::SocketAddr;
use std::time::Duration;

use clap::Parser;
use shared::amqp::settings::Amqp;
use shared::settings::{Common, List, Rate, parse_duration, parse_list};

use crate::inputs::amqp::QueueName;

/// Takes events in from trusted back ends
#[derive(Debug, Clone, Parser)]
#[command(name = "listen", version)]
pub struct Config {
    /// Where publishers come in
    #[arg(long, env = "LISTEN_ADDR", value_name = "ADDRESS", default_value = "0.0.0.0:8080")]
    pub listen_addr: SocketAddr,

    /// Where /livez, /readyz and /metrics are
    #[arg(
        long,
        env = "LISTEN_ADMIN_ADDR",
        value_name = "ADDRESS",
        default_value = "127.0.0.1:8082"
    )]
    pub listen_admin_addr: SocketAddr,

    /// How long an event may wait for broadcast to take it
    #[arg(long, env = "PUBLISH_TIMEOUT", value_name = "DURATION", default_value = "5s", value_parser = parse_duration)]
    pub publish_timeout: Duration,

    /// Requests of one token: `off`, or a number a second
    #[arg(long, env = "RATE_LIMIT", value_name = "RATE", default_value = "off")]
    pub rate_limit: Rate,

    /// Queues of RabbitMQ whose messages are fired
    #[arg(long, env = "AMQP_CONSUME", value_name = "QUEUE,…", default_value = "", value_parser = parse_list::<QueueName>)]
    pub amqp_consume: List<QueueName>,

    #[command(flatten)]
    #[expect(missing_docs, reason = "a doc comment here would become the help of the command")]
    pub amqp: Amqp,

    #[command(flatten)]
    #[expect(missing_docs, reason = "a doc comment here would become the help of the command")]
    pub common: Common,
}
