//! A fixed rate: how late a delivery is, counted from when its event was due.
//!
//! The schedule knows no mercy: a sender or a server that falls behind makes every event after it
//! late, and each of them counts (no coordinated omission).

use std::time::{Duration, Instant};

use clap::Args;
use serde::Serialize;

use crate::client::{AT_ONCE, Client, TICK};
use crate::dialect::Number;
use crate::latency::{Latencies, nanos};
use crate::load::{Load, Measured, Outcome, Span, parse_count};
use crate::meter::Meter;
use crate::patience::Patience;
use crate::progress::Progress;
use crate::publisher::Shape;
use crate::target::Target;

/// A fixed rate: the latency of each delivery from when its event was due
#[derive(Debug, Args, Serialize)]
pub(crate) struct Rate {
    /// Events a second
    #[arg(long, value_name = "EVENTS", default_value = "20", value_parser = parse_rate)]
    rate: f64,

    /// Subscribers
    #[arg(long, value_name = "COUNT", default_value = "1000", value_parser = parse_count)]
    clients: usize,

    /// Bytes of an event's data
    #[arg(long, value_name = "BYTES", default_value = "150", value_parser = parse_count)]
    size: usize,

    /// Connections of publishers
    #[arg(long, value_name = "COUNT", default_value = "8", value_parser = parse_count)]
    connections: usize,

    /// Posts on their way on each of them
    #[arg(long, value_name = "COUNT", default_value = "64", value_parser = parse_count)]
    pipeline: usize,

    #[command(flatten)]
    #[serde(flatten)]
    span: Span,
}

impl Load for Rate {
    const NAME: &'static str = "rate";

    fn measure(&self, target: &Target, progress: &mut Progress) -> anyhow::Result<Outcome> {
        let mut client = Client::new(target)?;
        client.subscribe(self.clients, 1, AT_ONCE, |_| true)?;
        client.connect_publishers(Shape {
            connections: self.connections,
            pipeline: self.pipeline,
            size: self.size,
            kinds: 1,
        })?;
        // What connecting has left to do is done before the first event.
        client.rest(Duration::from_millis(300))?;
        let mut meter = Meter::new(target);
        let schedule = Schedule::new(self.rate, &self.span, Instant::now() + TICK);
        let mut pace = Pace::new(schedule)?;
        let measured = pace.run(&mut meter, &mut client, progress)?;
        pace.count_what_did_not_come(self.clients as u64, Instant::now());
        let mut figures = measured.figures();
        pace.latencies.report(&mut figures);
        figures.set("sent_late_p99_ms", pace.lateness.quantile_ms(0.99));
        client.account(&mut figures);
        figures.set("damaged", pace.damaged as f64);
        figures.set("unsent", (pace.schedule.total - pace.next) as f64);
        let complaint = client.complaint();
        client.close();
        Ok(Outcome { figures, complaint })
    }

    fn connections(&self) -> usize {
        self.clients + self.connections
    }
}

/// When which event is due.
#[derive(Debug, Clone, Copy)]
struct Schedule {
    begun: Instant,
    interval: Duration,
    /// Events that only warm up.
    skipped: u64,
    /// All events.
    total: u64,
}

impl Schedule {
    fn new(rate: f64, span: &Span, begun: Instant) -> Self {
        let skipped = (span.warm_up().as_secs_f64() * rate).ceil().max(1.0) as u64;
        let measured = (span.seconds().as_secs_f64() * rate).round().max(1.0) as u64;
        let interval = Duration::from_secs_f64(1.0 / rate);
        Self { begun, interval, skipped, total: skipped + measured }
    }

    fn due(&self, event: u64) -> Instant {
        self.begun + Duration::from_nanos(self.due_nanos(event))
    }

    fn due_nanos(&self, event: u64) -> u64 {
        u64::try_from(self.interval.as_nanos()).unwrap_or(u64::MAX).saturating_mul(event)
    }

    /// Just before this event: where what is used by the events before it ends.
    fn just_before(&self, event: u64) -> Instant {
        self.due(event).checked_sub(self.interval / 4).unwrap_or(self.begun)
    }
}

/// How far the schedule is.
struct Pace {
    schedule: Schedule,
    next: u64,
    /// Of each event that is measured, to how many clients it came.
    deliveries: Vec<u64>,
    damaged: u64,
    latencies: Latencies,
    /// How late we were ourselves.
    lateness: Latencies,
}

impl Pace {
    fn new(schedule: Schedule) -> anyhow::Result<Self> {
        let (latencies, lateness) = (Latencies::new()?, Latencies::new()?);
        let measured = usize::try_from(schedule.total - schedule.skipped)?;
        let deliveries = vec![0; measured];
        Ok(Self { schedule, next: 0, deliveries, damaged: 0, latencies, lateness })
    }

    fn run(
        &mut self,
        meter: &mut Meter,
        client: &mut Client<'_>,
        progress: &mut Progress,
    ) -> anyhow::Result<Measured> {
        let (from, until) = (
            self.schedule.just_before(self.schedule.skipped),
            self.schedule.just_before(self.schedule.total),
        );
        self.run_until(from, client, progress)?;
        meter.start();
        let before = (client.deliveries(), client.publishers().tally().accepted);
        self.run_until(until, client, progress)?;
        let measured = Measured {
            used: meter.read(),
            deliveries: client.deliveries() - before.0,
            posts: client.publishers().tally().accepted - before.1,
        };
        let mut patience = Patience::new(Instant::now());
        while patience.lasts(client.progress(), Instant::now()) {
            self.send_what_is_due(client)?;
            if self.next == self.schedule.total && client.is_settled() {
                break;
            }
            self.turn(client)?;
        }
        Ok(measured)
    }

    fn run_until(
        &mut self,
        until: Instant,
        client: &mut Client<'_>,
        progress: &mut Progress,
    ) -> anyhow::Result<()> {
        while Instant::now() < until {
            self.send_what_is_due(client)?;
            // An event that is due already waits for an answer, not for the clock.
            let due = Some(self.schedule.due(self.next)).filter(|due| *due > Instant::now());
            client.wake_at(due.map_or(until, |due| due.min(until)))?;
            self.turn(client)?;
            progress.tick(|| format!("{} deliveries", client.deliveries()));
        }
        Ok(())
    }

    fn send_what_is_due(&mut self, client: &mut Client<'_>) -> anyhow::Result<()> {
        while self.next < self.schedule.total && Instant::now() >= self.schedule.due(self.next) {
            let from = usize::try_from(self.next).unwrap_or_default();
            // All full: it is sent as soon as there is room, and its due time stays.
            let Some(index) = client.publishers().roomiest(from) else { return Ok(()) };
            client.publishers().push(index, 0, self.schedule.due_nanos(self.next));
            client.publishers().flush(index)?;
            if self.next >= self.schedule.skipped {
                self.lateness.record(nanos(self.schedule.due(self.next).elapsed()));
            }
            self.next += 1;
        }
        Ok(())
    }

    fn turn(&mut self, client: &mut Client<'_>) -> anyhow::Result<()> {
        client.turn(TICK, &mut |_, payload| {
            let Some(number) = Number::read(payload) else {
                self.damaged += 1;
                return;
            };
            if number.sequence >= self.schedule.skipped {
                let due = self.schedule.begun + Duration::from_nanos(number.due_nanos);
                self.latencies.record(nanos(due.elapsed()));
                let place = usize::try_from(number.sequence - self.schedule.skipped).ok();
                if let Some(count) = place.and_then(|place| self.deliveries.get_mut(place)) {
                    *count += 1;
                }
            }
        })
    }

    /// What did not come by the end is as late as that at least. Without it a server that stands
    /// still would have perfect latencies.
    fn count_what_did_not_come(&mut self, clients: u64, end: Instant) {
        for (event, count) in (self.schedule.skipped..).zip(&self.deliveries) {
            let age = end.saturating_duration_since(self.schedule.due(event));
            self.latencies.record_many(nanos(age), clients.saturating_sub(*count));
        }
    }
}

fn parse_rate(text: &str) -> Result<f64, String> {
    let rate = text.parse::<f64>().ok().filter(|it| (0.1..=1e6).contains(it));
    rate.ok_or_else(|| "write events a second, from 0.1 to 1000000".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_event_has_its_time_whatever_became_of_those_before_it() {
        let begun = Instant::now();
        let schedule =
            Schedule { begun, interval: Duration::from_millis(50), skipped: 10, total: 110 };
        assert_eq!(schedule.due(0), begun);
        assert_eq!(schedule.due(20), begun + Duration::from_secs(1));
        assert_eq!(schedule.due_nanos(20), 1_000_000_000);
        assert_eq!(schedule.just_before(2), begun + Duration::from_micros(87_500));
    }

    #[test]
    fn a_server_that_stands_still_has_no_good_latencies() {
        let begun = Instant::now();
        let schedule =
            Schedule { begun, interval: Duration::from_millis(100), skipped: 1, total: 11 };
        let mut pace = Pace::new(schedule).unwrap();
        pace.latencies.record(1_000_000);
        pace.deliveries[0] = 1;
        pace.count_what_did_not_come(2, begun + Duration::from_secs(6));
        for (share, expected) in [(0.04, 1.0), (0.06, 5000.0), (1.0, 5900.0)] {
            let value = pace.latencies.quantile_ms(share).unwrap();
            assert!((value / expected - 1.0).abs() < 2e-3, "{share}: {value}");
        }
    }
}
