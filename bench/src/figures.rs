//! The figures of a round, and what is made of several rounds: sums, spreads, ratios.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

/// Figures by their keys; what is not known has none.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Figures(BTreeMap<&'static str, f64>);

/// How a figure is shown.
#[derive(Debug)]
pub(crate) struct Kind {
    /// Its name in JSON; what is documented there is never renamed.
    pub(crate) key: &'static str,
    /// Its name in the table.
    pub(crate) title: &'static str,
    /// Digits behind the point, in the table.
    pub(crate) decimals: usize,
    /// Whether any other value than 0 means that something was not delivered as promised.
    pub(crate) is_fault: bool,
    /// What stands for all rounds.
    summary: Summary,
}

/// What stands for all rounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Summary {
    /// The middle: a disturbed round does not count.
    Median,
    /// All together: what went wrong once did go wrong.
    Sum,
    /// The most.
    Most,
}

impl Kind {
    /// Whether it is the server's own, and a ratio means something.
    pub(crate) fn is_compared(&self) -> bool {
        let is_circumstance = self.key.ends_with("_cores") || CIRCUMSTANCES.contains(&self.key);
        !self.is_fault && !is_circumstance
    }
}

/// What belongs to the measurement more than to the server.
const CIRCUMSTANCES: [&str; 5] =
    ["seconds", "memory_bytes_before", "memory_bytes_after", "sent_late_p99_ms", "failed_connects"];

const fn kind(key: &'static str, title: &'static str, decimals: usize) -> Kind {
    Kind { key, title, decimals, is_fault: false, summary: Summary::Median }
}

const fn fault(key: &'static str, title: &'static str) -> Kind {
    Kind { key, title, decimals: 0, is_fault: true, summary: Summary::Sum }
}

/// All figures, in the order of the table.
pub(crate) const KINDS: [Kind; 27] = [
    kind("deliveries_per_s", "deliveries/s", 0),
    kind("posts_per_s", "posts/s", 0),
    kind("connects_per_s", "connects+inits/s", 0),
    kind("latency_p50_ms", "p50 ms", 3),
    kind("latency_p90_ms", "p90 ms", 3),
    kind("latency_p99_ms", "p99 ms", 3),
    kind("latency_p99_9_ms", "p99.9 ms", 3),
    Kind { summary: Summary::Most, ..kind("latency_max_ms", "max ms", 3) },
    kind("sent_late_p99_ms", "sent late, p99 ms", 3),
    kind("cpu_us_per_delivery", "server CPU us a delivery", 3),
    kind("cpu_us_per_post", "server CPU us a post", 3),
    kind("cpu_us_per_connect", "server CPU us a connect", 1),
    kind("memory_bytes_per_session", "memory a session, bytes", 0),
    kind("memory_bytes_before", "memory before, bytes", 0),
    kind("memory_bytes_after", "memory after, bytes", 0),
    kind("server_cores", "server cores", 2),
    kind("client_cores", "client cores", 2),
    kind("others_cores", "others' cores", 2),
    kind("seconds", "seconds measured", 2),
    Kind { summary: Summary::Sum, ..kind("failed_connects", "failed connects", 0) },
    fault("lost", "lost"),
    fault("repeated", "repeated"),
    fault("damaged", "damaged"),
    fault("refused", "refused"),
    fault("unanswered", "unanswered"),
    fault("disconnected", "disconnected"),
    fault("unsent", "unsent"),
];

impl Figures {
    /// Sets a figure; its key is one of [`KINDS`].
    pub(crate) fn set(&mut self, key: &'static str, value: impl Into<Option<f64>>) {
        debug_assert!(KINDS.iter().any(|kind| kind.key == key), "{key} is no figure");
        if let Some(value) = value.into().filter(|value| value.is_finite()) {
            self.0.insert(key, value);
        }
    }

    /// A figure.
    pub(crate) fn value(&self, key: &str) -> Option<f64> {
        self.0.get(key).copied()
    }

    /// What is not as promised.
    pub(crate) fn faults(&self) -> impl Iterator<Item = (&'static Kind, f64)> {
        let faults = KINDS.iter().filter(|kind| kind.is_fault);
        faults.filter_map(|kind| Some((kind, self.value(kind.key).filter(|it| *it != 0.0)?)))
    }

    /// What stands for all rounds: each figure's middle value, the sum of a fault, the latest.
    pub(crate) fn summary(rounds: &[Self]) -> Self {
        Self::over(rounds, |kind, values| match kind.summary {
            Summary::Median => median(values),
            Summary::Sum => (!values.is_empty()).then(|| values.iter().sum()),
            Summary::Most => values.last().copied(),
        })
    }

    /// Each figure by this one of another server.
    pub(crate) fn ratio_to(&self, other: &Self) -> Self {
        let ratio = |(key, value): (&&'static str, &f64)| {
            let is_compared = KINDS.iter().any(|kind| kind.key == *key && kind.is_compared());
            let other = other.value(key).filter(|other| *other != 0.0 && is_compared)?;
            Some((*key, value / other))
        };
        Self(self.0.iter().filter_map(ratio).collect())
    }

    /// The least and the most of each figure.
    pub(crate) fn spread(rounds: &[Self]) -> (Self, Self) {
        let least = Self::over(rounds, |_, values| values.first().copied());
        (least, Self::over(rounds, |_, values| values.last().copied()))
    }

    fn over(rounds: &[Self], choose: impl Fn(&Kind, &[f64]) -> Option<f64>) -> Self {
        let figure = |kind: &Kind| {
            let mut values: Vec<f64> = rounds.iter().filter_map(|it| it.value(kind.key)).collect();
            values.sort_by(f64::total_cmp);
            Some((kind.key, choose(kind, &values)?))
        };
        Self(KINDS.iter().filter_map(figure).collect())
    }

    /// As JSON: whole numbers where they are whole, four digits otherwise.
    pub(crate) fn to_json(&self) -> Map<String, Value> {
        self.0.iter().map(|(key, value)| ((*key).to_owned(), number(*value))).collect()
    }
}

/// A number as JSON, without digits that mean nothing.
pub(crate) fn number(value: f64) -> Value {
    if value.fract() == 0.0 && value.abs() < 1e15 {
        json!(value as i64)
    } else {
        json!((value * 1e4).round() / 1e4)
    }
}

/// The middle of sorted values; of two, what lies between them.
fn median(sorted: &[f64]) -> Option<f64> {
    let upper = sorted.get(sorted.len() / 2)?;
    let lower = sorted.get((sorted.len() - 1) / 2)?;
    Some(f64::midpoint(*lower, *upper))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures(posts: f64, lost: f64) -> Figures {
        let mut figures = Figures::default();
        figures.set("posts_per_s", posts);
        figures.set("lost", lost);
        figures
    }

    #[test]
    fn the_median_is_the_middle() {
        for (sorted, expected) in [
            (&[][..], None),
            (&[1.0][..], Some(1.0)),
            (&[1.0, 3.0][..], Some(2.0)),
            (&[1.0, 2.0, 9.0][..], Some(2.0)),
        ] {
            assert_eq!(median(sorted), expected);
        }
    }

    #[test]
    fn rounds_are_summed_up_in_any_order() {
        let rounds = [figures(30.0, 0.0), figures(10.0, 0.0), figures(20.0, 2.0)];
        let summary = Figures::summary(&rounds);
        assert_eq!(summary.value("posts_per_s"), Some(20.0));
        // Lost in one round of three is lost.
        assert_eq!(summary.value("lost"), Some(2.0));
        let (least, most) = Figures::spread(&rounds);
        assert_eq!(
            (least.value("posts_per_s"), most.value("posts_per_s")),
            (Some(10.0), Some(30.0))
        );
        assert_eq!(summary.value("deliveries_per_s"), None);
    }

    #[test]
    fn the_latest_of_all_rounds_is_the_latest() {
        let rounds = [1.0, 9.0, 2.0].map(|latest| {
            let mut figures = Figures::default();
            figures.set("latency_max_ms", latest);
            figures.set("failed_connects", latest);
            figures
        });
        let summary = Figures::summary(&rounds);
        assert_eq!(summary.value("latency_max_ms"), Some(9.0));
        assert_eq!(summary.value("failed_connects"), Some(12.0));
    }

    #[test]
    fn a_ratio_is_of_what_both_have_and_of_no_fault() {
        let ratio = figures(20.0, 1.0).ratio_to(&figures(40.0, 1.0));
        assert_eq!(ratio, Figures([("posts_per_s", 0.5)].into()));
        assert_eq!(figures(1.0, 0.0).ratio_to(&figures(0.0, 0.0)), Figures::default());
    }

    #[test]
    fn what_is_not_known_is_left_out_and_a_fault_is_named() {
        let mut figures = figures(1.5, 3.0);
        figures.set("cpu_us_per_post", None);
        figures.set("server_cores", f64::NAN);
        let faults: Vec<_> = figures.faults().map(|(kind, value)| (kind.key, value)).collect();
        assert_eq!(faults, [("lost", 3.0)]);
        let json = Value::Object(figures.to_json()).to_string();
        assert_eq!(json, r#"{"lost":3,"posts_per_s":1.5}"#);
    }

    #[test]
    fn no_key_stands_twice() {
        let keys: std::collections::BTreeSet<_> = KINDS.iter().map(|kind| kind.key).collect();
        assert_eq!(keys.len(), KINDS.len());
    }
}
