//! The meter of a measurement: how long it took, and whose processors it cost.

use std::time::{Duration, Instant};

use crate::processes::{machine_time, processor_time, with_descendants};
use crate::target::Target;

/// A meter that runs.
#[derive(Debug)]
pub(crate) struct Meter {
    pids: Vec<u32>,
    begun: Instant,
    readings: Readings,
}

/// What was used between two readings.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Used {
    /// How long it took.
    pub(crate) seconds: f64,
    /// Processor seconds of the server's processes, where they are known.
    pub(crate) server: Option<f64>,
    /// Processor seconds of this process.
    pub(crate) client: f64,
    /// Processor seconds of everybody else on this machine.
    pub(crate) others: f64,
}

#[derive(Debug, Clone, Copy)]
struct Readings {
    server: Option<Duration>,
    client: Duration,
    machine: Duration,
}

impl Meter {
    /// A meter for this server. To find all its processes takes a while, to begin anew does not.
    pub(crate) fn new(target: &Target) -> Self {
        let pids = with_descendants(&target.pids);
        let readings = Readings::take(&pids);
        Self { pids, begun: Instant::now(), readings }
    }

    /// Begins.
    pub(crate) fn start(&mut self) {
        self.readings = Readings::take(&self.pids);
        self.begun = Instant::now();
    }

    /// What was used since.
    pub(crate) fn read(&self) -> Used {
        let seconds = self.begun.elapsed().as_secs_f64();
        self.readings.until(Readings::take(&self.pids), seconds)
    }
}

impl Used {
    /// Processor microseconds of the server for each of so many things.
    pub(crate) fn micros_each(&self, count: u64) -> Option<f64> {
        self.server.filter(|_| count > 0).map(|seconds| seconds * 1e6 / count as f64)
    }

    /// So many things in this time, a second.
    pub(crate) fn a_second(&self, count: u64) -> f64 {
        count as f64 / self.seconds.max(f64::MIN_POSITIVE)
    }

    /// Cores' worth of a processor time.
    pub(crate) fn cores(&self, processor_seconds: f64) -> f64 {
        processor_seconds / self.seconds.max(f64::MIN_POSITIVE)
    }
}

impl Readings {
    fn take(pids: &[u32]) -> Self {
        let times: Option<Vec<Duration>> = pids.iter().map(|pid| processor_time(*pid)).collect();
        Self {
            server: times.filter(|times| !times.is_empty()).map(|times| times.iter().sum()),
            client: processor_time(std::process::id()).unwrap_or_default(),
            machine: machine_time().unwrap_or_default(),
        }
    }

    fn until(self, later: Self, seconds: f64) -> Used {
        let between = |from: Duration, to: Duration| to.saturating_sub(from).as_secs_f64();
        let server = self.server.zip(later.server).map(|(from, to)| between(from, to));
        let client = between(self.client, later.client);
        let machine = between(self.machine, later.machine);
        // The machine counts in ticks, so that the difference can be a little below nothing.
        let others = (machine - client - server.unwrap_or_default()).max(0.0);
        Used { seconds, server, client, others }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn readings(server: Option<u64>, client: u64, machine: u64) -> Readings {
        let millis = Duration::from_millis;
        Readings { server: server.map(millis), client: millis(client), machine: millis(machine) }
    }

    #[test]
    fn what_others_use_is_what_is_left() {
        let used = readings(Some(100), 50, 1000).until(readings(Some(600), 250, 2000), 2.0);
        assert_eq!(used.server, Some(0.5));
        assert!((used.others - 0.3).abs() < 1e-9);
        assert!((used.cores(used.others) - 0.15).abs() < 1e-9);
        assert_eq!(used.micros_each(1000), Some(500.0));
        assert_eq!(used.micros_each(0), None);
        assert_eq!(used.a_second(10), 5.0);
    }

    #[test]
    fn an_unknown_server_costs_an_unknown_amount() {
        let used = readings(None, 0, 0).until(readings(None, 10, 5), 1.0);
        assert_eq!((used.server, used.others), (None, 0.0));
        assert_eq!(used.micros_each(5), None);
    }
}
