//! Fan-out at full speed: as many deliveries as there can be.
//!
//! Publishers keep the gateway busy, but never so far ahead of the slowest client that it would be
//! disconnected as too slow: at most a window of events is undelivered.

use std::time::{Duration, Instant};

use clap::Args;
use serde::Serialize;

use crate::client::{AT_ONCE, Client, TICK};
use crate::dialect::Number;
use crate::load::{Load, Measured, Outcome, Span, parse_count};
use crate::meter::Meter;
use crate::patience::Patience;
use crate::progress::Progress;
use crate::publisher::Shape;
use crate::subscriber::Stage;
use crate::target::Target;

/// Fan-out at full speed: deliveries a second
#[derive(Debug, Args, Serialize)]
pub(crate) struct FanOut {
    /// Subscribers
    #[arg(long, value_name = "COUNT", default_value = "100", value_parser = parse_count)]
    clients: usize,

    /// Bytes of an event's data
    #[arg(long, value_name = "BYTES", default_value = "150", value_parser = parse_count)]
    size: usize,

    /// Event types; the clients are spread over them
    #[arg(long, value_name = "COUNT", default_value = "1", value_parser = parse_count)]
    types: usize,

    /// Connections of publishers
    #[arg(long, value_name = "COUNT", default_value = "64", value_parser = parse_count)]
    connections: usize,

    /// Posts on their way on each of them
    #[arg(long, value_name = "COUNT", default_value = "4", value_parser = parse_count)]
    pipeline: usize,

    #[command(flatten)]
    #[serde(flatten)]
    span: Span,
}

impl Load for FanOut {
    const NAME: &'static str = "fan-out";

    fn measure(&self, target: &Target, progress: &mut Progress) -> anyhow::Result<Outcome> {
        anyhow::ensure!(self.types <= self.clients, "--types: each needs a client");
        let mut client = Client::new(target)?;
        client.subscribe(self.clients, self.types, AT_ONCE, |index| index % SAMPLE == 0)?;
        client.connect_publishers(Shape {
            connections: self.connections,
            pipeline: self.pipeline,
            size: self.size,
            kinds: self.types,
        })?;
        let mut race = Race::new(self);
        let measured = race.run(self, target, &mut client, progress)?;
        let mut figures = measured.figures();
        client.account(&mut figures);
        figures.set("damaged", race.damaged(&client) as f64);
        let complaint = client.complaint();
        client.close();
        Ok(Outcome { figures, complaint })
    }

    fn connections(&self) -> usize {
        self.clients + self.connections
    }
}

/// How far everybody is.
struct Race {
    /// The most undelivered events of a type.
    window: u64,
    kinds: Vec<Kind>,
    next: usize,
    /// Of the subscribers that are shown what they get: the sum over all its numbers.
    sums: Vec<u64>,
}

/// How far the events of a type are.
#[derive(Default)]
struct Kind {
    sent: u64,
    /// Delivered to all its subscribers, when somebody looked last.
    delivered: u64,
    /// The sum over the numbers of all that was sent.
    sum: u64,
}

impl Race {
    fn new(plan: &FanOut) -> Self {
        Self {
            window: (WINDOW_BYTES / plan.size.max(1)).clamp(16, 2000) as u64,
            kinds: (0..plan.types).map(|_| Kind::default()).collect(),
            next: 0,
            sums: vec![0; plan.clients],
        }
    }

    fn run(
        &mut self,
        plan: &FanOut,
        target: &Target,
        client: &mut Client<'_>,
        progress: &mut Progress,
    ) -> anyhow::Result<Measured> {
        let mut meter = Meter::new(target);
        progress.say("warming up");
        self.warm_up(plan.span.warm_up(), client)?;
        let until = Instant::now() + plan.span.seconds();
        meter.start();
        let before = (client.deliveries(), client.publishers().tally().accepted);
        while Instant::now() < until {
            self.step(client)?;
            progress.tick(|| format!("{} deliveries", client.deliveries() - before.0));
        }
        let measured = Measured {
            used: meter.read(),
            deliveries: client.deliveries() - before.0,
            posts: client.publishers().tally().accepted - before.1,
        };
        let mut patience = Patience::new(Instant::now());
        while !client.is_settled() && patience.lasts(client.progress(), Instant::now()) {
            self.turn(client)?;
        }
        Ok(measured)
    }

    /// Until so much time has passed, and all that was on its way then has come: only from there on
    /// do as many events leave the gateway as enter it.
    fn warm_up(&mut self, time: Duration, client: &mut Client<'_>) -> anyhow::Result<()> {
        let from = Instant::now() + time;
        while Instant::now() < from {
            self.step(client)?;
        }
        let sent: Vec<u64> = self.kinds.iter().map(|kind| kind.sent).collect();
        let deadline = Instant::now() + STEADY_PATIENCE;
        while Instant::now() < deadline && !self.has_all_come(&sent, client) {
            self.step(client)?;
        }
        Ok(())
    }

    /// Whether so many events of each type have come to all its subscribers.
    fn has_all_come(&self, sent: &[u64], client: &Client<'_>) -> bool {
        let tally = client.tally();
        client.subscribers.iter().filter(|it| it.stage() != Stage::Gone).all(|it| {
            let sent = sent.get(it.kind).copied().unwrap_or_default();
            it.deliveries() >= sent.saturating_sub(tally.kind(it.kind).failed)
        })
    }

    fn step(&mut self, client: &mut Client<'_>) -> anyhow::Result<()> {
        self.fill(client)?;
        self.turn(client)
    }

    fn turn(&mut self, client: &mut Client<'_>) -> anyhow::Result<()> {
        client.turn(TICK, &mut |index, payload| {
            if let (Some(sum), Some(number)) = (self.sums.get_mut(index), Number::read(payload)) {
                *sum = sum.wrapping_add(mix(number.sequence));
            }
        })
    }

    /// Publishes on every connection that has room, until the window is full.
    fn fill(&mut self, client: &mut Client<'_>) -> anyhow::Result<()> {
        for index in 0..client.publishers().len() {
            let mut is_blocked = false;
            for _ in 0..client.publishers().room(index) {
                is_blocked = !self.has_room(client);
                let Some(kind) = self.kinds.get_mut(self.next).filter(|_| !is_blocked) else {
                    break;
                };
                let publishers = client.publishers();
                kind.sum = kind.sum.wrapping_add(mix(publishers.tally().sent));
                kind.sent += 1;
                publishers.push(index, self.next, 0);
                self.next = (self.next + 1) % self.kinds.len();
            }
            client.publishers().flush(index)?;
            if is_blocked {
                return Ok(());
            }
        }
        Ok(())
    }

    fn has_room(&mut self, client: &Client<'_>) -> bool {
        let types = self.kinds.len();
        let failed = client.tally().kind(self.next).failed;
        let Some(kind) = self.kinds.get_mut(self.next) else { return false };
        // What was refused, or was never answered, is waited for no longer.
        let sent = kind.sent.saturating_sub(failed);
        if sent.saturating_sub(kind.delivered) >= self.window {
            let of_kind = client.subscribers.iter().skip(self.next).step_by(types);
            let live = of_kind.filter(|it| it.stage() != Stage::Gone);
            let least = live.map(|it| it.deliveries()).min().unwrap_or(kind.sent);
            kind.delivered = least.min(kind.sent);
        }
        sent.saturating_sub(kind.delivered) < self.window
    }

    /// Of the subscribers that were looked at, those that did not get exactly what was sent. Where
    /// something was refused, nobody can tell.
    fn damaged(&self, client: &Client<'_>) -> usize {
        let looked_at = client.subscribers.iter().zip(&self.sums).filter(|(it, _)| it.is_shown());
        let is_damaged = |(it, sum): &(&crate::subscriber::Subscriber, &u64)| {
            let kind = self.kinds.get(it.kind);
            kind.is_some_and(|kind| it.deliveries() == kind.sent && **sum != kind.sum)
        };
        looked_at.filter(is_damaged).count()
    }
}

/// Spreads a number over all bits, so that no other set of as many numbers has the same sum.
fn mix(sequence: u64) -> u64 {
    let mixed = (sequence + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed ^ (mixed >> 29)
}

/// A quarter of what may wait for a client by default.
const WINDOW_BYTES: usize = 1 << 20;
/// How long the gateway has to get to where as much leaves it as enters it.
const STEADY_PATIENCE: Duration = Duration::from_secs(20);
/// One subscriber in so many is shown what it gets, and not only counted.
const SAMPLE: usize = 97;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_tell_sets_of_numbers_apart() {
        let sum =
            |numbers: &[u64]| numbers.iter().fold(0_u64, |sum, it| sum.wrapping_add(mix(*it)));
        assert_eq!(sum(&[1, 2, 3]), sum(&[3, 1, 2]));
        assert_ne!(sum(&[0, 3]), sum(&[1, 2]));
        assert_ne!(sum(&[5, 5]), sum(&[4, 6]));
    }
}
