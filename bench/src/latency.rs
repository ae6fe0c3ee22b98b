//! Latencies, and what share of them is below which.

use std::time::Duration;

use hdrhistogram::Histogram;

use crate::figures::Figures;

/// Latencies that were seen.
#[derive(Debug)]
pub(crate) struct Latencies(Histogram<u64>);

impl Latencies {
    /// Empty: from a microsecond to two minutes, three digits.
    pub(crate) fn new() -> anyhow::Result<Self> {
        Ok(Self(Histogram::new_with_bounds(1, NANOS_MAX, 3)?))
    }

    /// Adds one; longer ones than two minutes count as two minutes.
    #[inline]
    pub(crate) fn record(&mut self, nanos: u64) {
        self.0.saturating_record(nanos.max(1));
    }

    /// Adds the same so many times.
    pub(crate) fn record_many(&mut self, nanos: u64, count: u64) {
        self.0.saturating_record_n(nanos.max(1), count);
    }

    /// The latency that this share, 0 to 1, stays within, in milliseconds.
    pub(crate) fn quantile_ms(&self, share: f64) -> Option<f64> {
        (!self.0.is_empty()).then(|| self.0.value_at_quantile(share) as f64 / 1e6)
    }

    /// Adds the usual shares to the figures.
    pub(crate) fn report(&self, figures: &mut Figures) {
        for (key, share) in [
            ("latency_p50_ms", 0.5),
            ("latency_p90_ms", 0.9),
            ("latency_p99_ms", 0.99),
            ("latency_p99_9_ms", 0.999),
            ("latency_max_ms", 1.0),
        ] {
            figures.set(key, self.quantile_ms(share));
        }
    }
}

/// A time as the histogram counts it.
pub(crate) fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

const NANOS_MAX: u64 = 120_000_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_what_they_say() {
        let mut latencies = Latencies::new().unwrap();
        assert_eq!(latencies.quantile_ms(0.5), None);
        for millis in 1..=1000 {
            latencies.record(millis * 1_000_000);
        }
        for (share, expected) in [(0.5, 500.0), (0.9, 900.0), (0.99, 990.0), (1.0, 1000.0)] {
            let value = latencies.quantile_ms(share).unwrap();
            assert!((value / expected - 1.0).abs() < 2e-3, "{share}: {value}");
        }
    }

    #[test]
    fn what_is_beyond_all_bounds_is_counted_all_the_same() {
        let mut latencies = Latencies::new().unwrap();
        latencies.record(0);
        latencies.record(u64::MAX);
        assert!(latencies.quantile_ms(1.0).is_some_and(|it| it > 100_000.0));
    }
}
