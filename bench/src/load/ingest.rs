//! Ingest: acknowledged posts, with nobody subscribed.

use std::time::Instant;

use clap::Args;
use serde::Serialize;

use crate::client::{Client, TICK};
use crate::contestant::Contestant;
use crate::figures::Figures;
use crate::load::{Load, Outcome, Span, parse_count, report_use};
use crate::meter::Meter;
use crate::patience::Patience;
use crate::progress::Progress;
use crate::publisher::Shape;
use crate::target::Target;

/// Ingest: acknowledged posts a second, with nobody subscribed
#[derive(Debug, Args, Serialize)]
pub(crate) struct Ingest {
    /// Connections of publishers
    #[arg(long, value_name = "COUNT", default_value = "16", value_parser = parse_count)]
    connections: usize,

    /// Posts on their way on each of them
    #[arg(long, value_name = "COUNT", default_value = "4", value_parser = parse_count)]
    pipeline: usize,

    /// Bytes of an event's data
    #[arg(long, value_name = "BYTES", default_value = "150", value_parser = parse_count)]
    size: usize,

    #[command(flatten)]
    #[serde(flatten)]
    span: Span,
}

impl Load for Ingest {
    const NAME: &'static str = "ingest";

    fn measure(&self, target: &Target, progress: &mut Progress) -> anyhow::Result<Outcome> {
        let mut client = Client::new(target)?;
        client.connect_publishers(Shape {
            connections: self.connections,
            pipeline: self.pipeline,
            size: self.size,
            kinds: 1,
        })?;
        let mut meter = Meter::new(target);
        let from = Instant::now() + self.span.warm_up();
        let until = from + self.span.seconds();
        while Instant::now() < from {
            self.step(&mut client)?;
        }
        meter.start();
        let before = client.publishers().tally().accepted;
        while Instant::now() < until {
            self.step(&mut client)?;
            progress.tick(|| format!("{} posts", client.publishers().tally().accepted - before));
        }
        let used = meter.read();
        let posts = client.publishers().tally().accepted - before;
        let mut patience = Patience::new(Instant::now());
        while client.publishers().in_flight() > 0
            && patience.lasts(client.progress(), Instant::now())
        {
            client.turn(TICK, &mut |_, _| {})?;
        }
        let mut figures = Figures::default();
        figures.set("posts_per_s", used.a_second(posts));
        figures.set("cpu_us_per_post", used.micros_each(posts));
        report_use(&used, &mut figures);
        client.account_publishers(&mut figures);
        let complaint = client.complaint();
        client.close();
        Ok(Outcome { figures, complaint })
    }

    fn suits(&self, _contestant: Contestant) -> bool {
        true
    }

    fn connections(&self) -> usize {
        self.connections
    }
}

impl Ingest {
    fn step(&self, client: &mut Client<'_>) -> anyhow::Result<()> {
        for index in 0..self.connections {
            let room = client.publishers().room(index);
            // Half a pipeline at a time, as a publisher with batches of its own does.
            if room * 2 < self.pipeline {
                continue;
            }
            for _ in 0..room {
                client.publishers().push(index, 0, 0);
            }
            client.publishers().flush(index)?;
        }
        client.turn(TICK, &mut |_, _| {})
    }
}
