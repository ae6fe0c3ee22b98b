//! The settings of `broadcast`.

use std::net::SocketAddr;
use std::num::{NonZeroU32, NonZeroU64};
use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use shared::amqp::settings::Amqp;
use shared::settings::{Common, List, parse_age, parse_duration, parse_list, parse_size};

use crate::config::channels::Channels;
use crate::config::queues::Queues;
use crate::log::keeper::Durability;

pub mod channels;
pub mod queues;

/// Gives events out to dashboards
#[derive(Debug, Clone, Parser)]
#[command(name = "broadcast", version)]
pub struct Config {
    /// Where dashboards come in
    #[arg(long, env = "BROADCAST_ADDR", value_name = "ADDRESS", default_value = "0.0.0.0:8081")]
    pub broadcast_addr: SocketAddr,

    /// Where /livez, /readyz and /metrics are
    #[arg(
        long,
        env = "BROADCAST_ADMIN_ADDR",
        value_name = "ADDRESS",
        default_value = "127.0.0.1:8083"
    )]
    pub broadcast_admin_addr: SocketAddr,

    /// The group, by name or number, whose members may connect to the link's socket
    #[arg(long, env = "LINK_GROUP", value_name = "GROUP", value_parser = parse_group)]
    pub link_group: Option<u32>,

    /// How long a client may take to show a valid credential: a duration, or `off`
    #[arg(long, env = "INIT_TIMEOUT", value_name = "DURATION", default_value = "10s", value_parser = parse_timeout)]
    pub init_timeout: Timeout,

    /// What may wait for one client before it is disconnected as too slow
    #[arg(long, env = "OUTBOX_BYTES", value_name = "SIZE", default_value = "4MiB", value_parser = parse_size)]
    pub outbox_bytes: usize,

    /// The most sessions at a time; the descriptors less 128 where it is not given
    #[arg(long, env = "MAX_SESSIONS", value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..))]
    pub max_sessions: Option<u32>,

    /// The most sessions of one address at a time; no limit where it is not given
    #[arg(long, env = "MAX_SESSIONS_PER_ADDRESS", value_name = "COUNT")]
    pub max_sessions_per_address: Option<NonZeroU32>,

    /// The most patterns of one session
    #[arg(long, env = "MAX_PATTERNS", value_name = "COUNT", default_value = "1000", value_parser = clap::value_parser!(u32).range(1..))]
    pub max_patterns: u32,

    /// The largest message of a client
    #[arg(long, env = "MAX_MESSAGE", value_name = "SIZE", default_value = "64KiB", value_parser = parse_size)]
    pub max_message: usize,

    /// The most WebSocket frames a second of a client that has shown a credential
    #[arg(long, env = "MAX_FRAME_RATE", value_name = "COUNT", default_value = "1000")]
    pub max_frame_rate: NonZeroU32,

    /// Web origins whose pages may connect; all where it is empty
    #[arg(long, env = "ALLOWED_ORIGINS", value_name = "ORIGIN,…", default_value = "", value_parser = parse_list::<String>)]
    pub allowed_origins: List<String>,

    /// Where events are kept
    #[arg(long, env = "DATA_DIR", value_name = "PATH", default_value = "./data")]
    pub data_dir: PathBuf,

    /// What an acknowledged event survives
    #[arg(long, env = "DURABILITY", value_name = "WHAT", default_value = "written")]
    pub durability: Durability,

    /// The most events that are kept
    #[arg(long, env = "LOG_MAX_EVENTS", value_name = "COUNT", default_value = "1000000")]
    pub log_max_events: NonZeroU64,

    /// The most bytes of events that are kept
    #[arg(long, env = "LOG_MAX_BYTES", value_name = "SIZE", default_value = "1GiB", value_parser = parse_size)]
    pub log_max_bytes: usize,

    /// How long events are kept
    #[arg(long, env = "LOG_MAX_AGE", value_name = "DURATION", default_value = "24h", value_parser = parse_age)]
    pub log_max_age: Duration,

    /// The most bytes of the newest events that are in memory, too
    #[arg(long, env = "LOG_CACHE_BYTES", value_name = "SIZE", default_value = "32MiB", value_parser = parse_size)]
    pub log_cache_bytes: usize,

    #[command(flatten)]
    #[expect(missing_docs, reason = "a doc comment here would become the help of the command")]
    pub queues: Queues,

    #[command(flatten)]
    #[expect(missing_docs, reason = "a doc comment here would become the help of the command")]
    pub channels: Channels,

    #[command(flatten)]
    #[expect(missing_docs, reason = "a doc comment here would become the help of the command")]
    pub amqp: Amqp,

    #[command(flatten)]
    #[expect(missing_docs, reason = "a doc comment here would become the help of the command")]
    pub common: Common,
}

/// A duration, or none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeout(pub Option<Duration>);

fn parse_timeout(text: &str) -> Result<Timeout, String> {
    if text == "off" {
        return Ok(Timeout(None));
    }
    parse_duration(text).map(|duration| Timeout(Some(duration))).map_err(|it| it + ", or off")
}

/// A group's number, or its name as the system's table has it.
fn parse_group(text: &str) -> Result<u32, String> {
    if let Ok(number) = text.parse() {
        return Ok(number);
    }
    let table = std::fs::read_to_string("/etc/group").unwrap_or_default();
    let found = table.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(text)).then(|| fields.nth(1)?.parse().ok())?
    });
    found.ok_or_else(|| "there is no such group".to_owned())
}
