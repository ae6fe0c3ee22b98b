//! The settings of durable queues (WIRE §7).

use std::num::{NonZeroU32, NonZeroU64};
use std::time::Duration;

use clap::{Args, ValueEnum};
use shared::settings::{parse_seconds, parse_size};

use crate::outputs::queue::headers::ExtraHeaders;
use crate::outputs::queue::name::NamePattern;
use crate::places::is_taken;
use crate::queues::queue::Bounds;

/// What can be told of queues.
#[derive(Debug, Clone, Args)]
pub struct Queues {
    /// Where queues are: a path; `/` is every path that nothing else has
    #[arg(long, env = "QUEUE_PATH", value_name = "PATH", default_value = "/queue", value_parser = parse_queue_path)]
    pub queue_path: String,

    /// How a request names its queue: text, `${query:NAME}` and `${cookie:NAME}`
    #[arg(long, env = "QUEUE_PATTERN", value_name = "PATTERN", default_value = "${query:id}")]
    pub queue_pattern: NamePattern,

    /// Seconds that a queue lives without a consumer; or a duration
    #[arg(long, env = "QUEUE_EXPIRES", value_name = "SECONDS", default_value = "1800", value_parser = parse_seconds)]
    pub queue_expires: Duration,

    /// Where queues are: in the log, or in RabbitMQ
    #[arg(long, env = "QUEUE_ENGINE", value_name = "ENGINE", default_value = "embedded")]
    pub queue_engine: Engine,

    /// The most events that wait in one queue, and beyond the log's own bound are kept for queues
    #[arg(long, env = "QUEUE_MAX_EVENTS", value_name = "COUNT", default_value = "1000000")]
    pub queue_max_events: NonZeroU64,

    /// The most bytes of them
    #[arg(long, env = "QUEUE_MAX_BYTES", value_name = "SIZE", default_value = "1GiB", value_parser = parse_size)]
    pub queue_max_bytes: usize,

    /// The most queues in the log
    #[arg(long, env = "MAX_QUEUES", value_name = "COUNT", default_value = "10000")]
    pub max_queues: NonZeroU32,

    /// Web pages of which origin may read queues: `*` or one origin; no CORS headers where it is not
    /// given
    #[arg(long, env = "CORS_ALLOW_ORIGIN", value_name = "ORIGIN", value_parser = crate::outputs::queue::headers::parse_origin)]
    pub cors_allow_origin: Option<String>,

    /// Further headers of a queue's stream, or other values of its own: `Name: value`, between `|`
    #[arg(long, env = "QUEUE_HEADERS", value_name = "HEADER|…", default_value = "")]
    pub queue_headers: ExtraHeaders,
}

fn parse_queue_path(text: &str) -> Result<String, String> {
    let path = parse_path(text)?;
    if is_taken(&path) { Err("something else is there".to_owned()) } else { Ok(path) }
}

/// Where queues are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Engine {
    /// In the log: a queue is a place in it.
    Embedded,
    /// In RabbitMQ.
    Amqp,
}

impl Queues {
    /// The bounds of queues in the log.
    pub fn bounds(&self) -> Bounds {
        Bounds {
            queues_max: usize::try_from(self.max_queues.get()).unwrap_or(usize::MAX),
            events_max: self.queue_max_events.get(),
            bytes_max: u64::try_from(self.queue_max_bytes).unwrap_or(u64::MAX),
            expires: self.queue_expires,
        }
    }
}

/// Reads the path of a resource: it begins with a slash, and ends without one.
fn parse_path(text: &str) -> Result<String, String> {
    let is_plain = |byte: u8| byte.is_ascii_graphic() && !b"?#%".contains(&byte);
    if !text.starts_with('/') || !text.bytes().all(is_plain) {
        return Err("a path begins with / and has no ?, # or %".to_owned());
    }
    let path = text.trim_end_matches('/');
    Ok(if path.is_empty() { "/".to_owned() } else { path.to_owned() })
}
