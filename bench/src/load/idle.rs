//! Idle: what a session costs that is subscribed and hears nothing.

use std::time::{Duration, Instant};

use clap::Args;
use serde::Serialize;

use crate::client::{AT_ONCE, Client};
use crate::figures::Figures;
use crate::load::{Load, Outcome, parse_count, parse_seconds, report_use};
use crate::meter::Meter;
use crate::processes::{memory, with_descendants};
use crate::progress::Progress;
use crate::target::Target;

/// Idle: memory of a session that is subscribed and silent, and connects a second
#[derive(Debug, Args, Serialize)]
pub(crate) struct Idle {
    /// Subscribers
    #[arg(long, value_name = "COUNT", default_value = "5000", value_parser = parse_count)]
    clients: usize,

    /// How long they are silent before memory is read, in seconds
    #[arg(long, value_name = "SECONDS", default_value = "2", value_parser = parse_seconds)]
    hold: f64,
}

impl Load for Idle {
    const NAME: &'static str = "idle";
    /// What sessions leave behind in the allocator would be what the next ones get for nothing.
    const NEEDS_FRESH_SERVER: bool = true;

    fn measure(&self, target: &Target, progress: &mut Progress) -> anyhow::Result<Outcome> {
        let mut client = Client::new(target)?;
        // What the server makes only once is made for these. They stay, so that those that are
        // measured get nothing that others have left behind.
        let first = FIRST.min(self.clients);
        client.subscribe(first, 1, AT_ONCE, |_| false)?;
        client.rest(Duration::from_secs_f64(self.hold / 2.0))?;
        let before = memory_of(target);
        let meter = Meter::new(target);
        let begun = Instant::now();
        client.subscribe(first + self.clients, 1, AT_ONCE, |_| false)?;
        let seconds = begun.elapsed().as_secs_f64();
        let used = meter.read();
        progress.say(&format!("{} sessions", client.live()));
        client.rest(Duration::from_secs_f64(self.hold))?;
        let after = memory_of(target);
        let mut figures = Figures::default();
        figures.set("connects_per_s", self.clients as f64 / seconds);
        figures.set("cpu_us_per_connect", used.micros_each(self.clients as u64));
        figures.set("memory_bytes_before", before.map(|bytes| bytes as f64));
        figures.set("memory_bytes_after", after.map(|bytes| bytes as f64));
        let grown = before.zip(after).map(|(before, after)| after as f64 - before as f64);
        figures.set("memory_bytes_per_session", grown.map(|bytes| bytes / self.clients as f64));
        report_use(&used, &mut figures);
        figures.set("disconnected", client.gone() as f64);
        let complaint = client.complaint();
        client.close();
        Ok(Outcome { figures, complaint })
    }

    fn connections(&self) -> usize {
        FIRST.min(self.clients) + self.clients
    }
}

/// Memory of the processes that hold the sessions, in bytes.
fn memory_of(target: &Target) -> Option<u64> {
    let pids = with_descendants(&target.session_pids);
    let all: Option<Vec<u64>> = pids.iter().map(|pid| memory(*pid)).collect();
    all.filter(|all| !all.is_empty()).map(|all| all.iter().sum())
}

const FIRST: usize = 200;
