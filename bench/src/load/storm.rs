//! The storm: everybody is cut off at once, and comes back at once.

use std::time::{Duration, Instant};

use clap::Args;
use serde::Serialize;

use crate::client::{AT_ONCE, Client, TICK};
use crate::figures::Figures;
use crate::latency::{Latencies, nanos};
use crate::load::{Load, Outcome, parse_count, report_use};
use crate::meter::Meter;
use crate::progress::Progress;
use crate::target::Target;

/// Reconnect storm: all clients are cut off at once, and come back as fast as they can
#[derive(Debug, Args, Serialize)]
pub(crate) struct Storm {
    /// Subscribers
    #[arg(long, value_name = "COUNT", default_value = "1000", value_parser = parse_count)]
    clients: usize,

    /// How often they are cut off
    #[arg(long, value_name = "COUNT", default_value = "5", value_parser = parse_count)]
    times: usize,
}

impl Load for Storm {
    const NAME: &'static str = "storm";

    fn measure(&self, target: &Target, progress: &mut Progress) -> anyhow::Result<Outcome> {
        let mut client = Client::new(target)?;
        client.subscribe(self.clients, 1, AT_ONCE, |_| false)?;
        let mut waits = Waits { until_live: Latencies::new()?, failures: 0, missing: 0 };
        let meter = Meter::new(target);
        let mut storming = Duration::ZERO;
        for time in 1..=self.times {
            progress.say(&format!("cut off {time} of {}", self.times));
            storming += waits.storm(&mut client)?;
        }
        let used = meter.read();
        let connects = (self.clients * self.times) as u64 - waits.missing;
        let mut figures = Figures::default();
        figures.set("connects_per_s", connects as f64 / storming.as_secs_f64());
        figures.set("cpu_us_per_connect", used.micros_each(connects));
        figures.set("failed_connects", waits.failures as f64);
        waits.until_live.report(&mut figures);
        report_use(&used, &mut figures);
        figures.set("disconnected", waits.missing as f64);
        let complaint = client.complaint();
        client.close();
        Ok(Outcome { figures, complaint })
    }

    fn connections(&self) -> usize {
        self.clients
    }
}

struct Waits {
    /// From the cut to the subscription.
    until_live: Latencies,
    /// Attempts in vain; each was followed by another.
    failures: u64,
    /// Clients that did not come back in time.
    missing: u64,
}

impl Waits {
    /// One storm; how long it took until the last one was back.
    fn storm(&mut self, client: &mut Client<'_>) -> anyhow::Result<Duration> {
        let count = client.subscribers.len();
        client.drop_all();
        let cut = Instant::now();
        for index in 0..count {
            client.redial(index)?;
        }
        let mut next_redial = cut;
        while client.live() < count && cut.elapsed() < PATIENCE {
            client.turn(TICK, &mut |_, _| {})?;
            for when in client.came.drain(..) {
                self.until_live.record(nanos(when.saturating_duration_since(cut)));
            }
            // A door that is shut is not knocked at without a pause.
            if client.lost.is_empty() || Instant::now() < next_redial {
                continue;
            }
            next_redial = Instant::now() + REDIAL_PAUSE;
            for index in std::mem::take(&mut client.lost) {
                self.failures += 1;
                client.redial(index)?;
            }
        }
        self.missing += (count - client.live()) as u64;
        Ok(cut.elapsed())
    }
}

/// Between attempts in vain.
const REDIAL_PAUSE: Duration = Duration::from_millis(20);
/// Who is not back by then is given up.
const PATIENCE: Duration = Duration::from_secs(30);
