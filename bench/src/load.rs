//! The loads: what is done to a server, and what is measured while it is done.

use std::time::Duration;

use clap::Args;
use serde::Serialize;

use crate::contestant::Contestant;
use crate::figures::Figures;
use crate::meter::Used;
use crate::progress::Progress;
use crate::target::Target;

pub(crate) mod fan_out;
pub(crate) mod idle;
pub(crate) mod ingest;
pub(crate) mod rate;
pub(crate) mod storm;

/// A load.
pub(crate) trait Load: Args + Serialize {
    /// Its name, as it is in the command.
    const NAME: &'static str;
    /// Whether every round needs a server that has just been started.
    const NEEDS_FRESH_SERVER: bool = false;

    /// Puts it on a server once.
    fn measure(&self, target: &Target, progress: &mut Progress) -> anyhow::Result<Outcome>;

    /// Whether it can be put on this server.
    fn suits(&self, contestant: Contestant) -> bool {
        contestant != Contestant::Bare
    }

    /// Connections that it has at a time.
    fn connections(&self) -> usize;
}

/// What came of a measurement.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// The figures.
    pub(crate) figures: Figures,
    /// What went wrong, in the server's words.
    pub(crate) complaint: Option<String>,
}

/// What was counted between the beginning and the end.
#[derive(Debug)]
pub(crate) struct Measured {
    /// Whose processors it cost.
    pub(crate) used: Used,
    /// Deliveries to all clients together.
    pub(crate) deliveries: u64,
    /// Acknowledged publications.
    pub(crate) posts: u64,
}

impl Measured {
    /// As figures.
    pub(crate) fn figures(&self) -> Figures {
        let mut figures = Figures::default();
        figures.set("deliveries_per_s", self.used.a_second(self.deliveries));
        figures.set("posts_per_s", self.used.a_second(self.posts));
        figures.set("cpu_us_per_delivery", self.used.micros_each(self.deliveries));
        figures.set("cpu_us_per_post", self.used.micros_each(self.posts));
        report_use(&self.used, &mut figures);
        figures
    }
}

/// How long is measured.
#[derive(Debug, Clone, Copy, Args, Serialize)]
pub(crate) struct Span {
    /// How long to measure, in seconds
    #[arg(long, value_name = "SECONDS", default_value = "5", value_parser = parse_seconds)]
    seconds: f64,

    /// How long to warm up before, in seconds
    #[arg(long, value_name = "SECONDS", default_value = "0.5", value_parser = parse_seconds)]
    warm_up: f64,
}

impl Span {
    /// How long to measure.
    pub(crate) fn seconds(&self) -> Duration {
        Duration::from_secs_f64(self.seconds)
    }

    /// How long to warm up.
    pub(crate) fn warm_up(&self) -> Duration {
        Duration::from_secs_f64(self.warm_up)
    }
}

/// Adds whose processors it cost.
pub(crate) fn report_use(used: &Used, figures: &mut Figures) {
    figures.set("server_cores", used.server.map(|seconds| used.cores(seconds)));
    figures.set("client_cores", used.cores(used.client));
    figures.set("others_cores", used.cores(used.others));
    figures.set("seconds", used.seconds);
}

/// Reads a time in seconds.
pub(crate) fn parse_seconds(text: &str) -> Result<f64, String> {
    let seconds = text.parse::<f64>().ok().filter(|it| (0.05..=3600.0).contains(it));
    seconds.ok_or_else(|| "write seconds, from 0.05 to 3600".to_owned())
}

/// Reads a number of things, one at least, and not more than any machine could have.
pub(crate) fn parse_count(text: &str) -> Result<usize, String> {
    let count = text.parse::<usize>().ok().filter(|it| (1..=1_000_000).contains(it));
    count.ok_or_else(|| "write a number, from 1 to 1000000".to_owned())
}
