//! The report: a table for people, a JSON document for programs.

use std::fmt::Write as _;

use serde_json::{Map, Value, json};

use crate::figures::{Figures, KINDS, Kind, number};
use crate::load::Load;
use crate::machine::{Machine, PROFILE};
use crate::rounds::{Score, is_client_bound, is_disturbed};
use crate::setup::Setup;

/// A report on a load.
#[derive(Debug)]
pub(crate) struct Report<'a> {
    /// The load's name.
    pub(crate) load: &'static str,
    /// What it was told.
    pub(crate) arguments: Value,
    /// Who did what; ours first.
    pub(crate) scores: &'a [Score],
}

impl<'a> Report<'a> {
    /// A report on what a load has found.
    pub(crate) fn new<L: Load>(
        load: &L,
        setup: &Setup,
        scores: &'a [Score],
    ) -> anyhow::Result<Self> {
        let mut arguments = serde_json::to_value(load)?;
        if let Some(arguments) = arguments.as_object_mut() {
            arguments.insert("rounds".to_owned(), setup.rounds.into());
            arguments.insert("spawn".to_owned(), setup.spawn.into());
            arguments.insert("tls".to_owned(), setup.is_tls().into());
            let set = setup.set.iter().map(|it| (it.name.clone(), it.value.clone().into()));
            arguments.insert("set".to_owned(), Value::Object(set.collect()));
        }
        Ok(Self { load: L::NAME, arguments, scores })
    }

    /// What was not as promised.
    pub(crate) fn faults(&self) -> Vec<String> {
        self.scores.iter().flat_map(Score::faults).collect()
    }

    /// One JSON document; its keys are documented in `docs/bench.md`.
    pub(crate) fn to_json(&self) -> Value {
        let servers: Vec<Value> = self.scores.iter().map(score_json).collect();
        json!({
            "benchmark": self.load,
            "version": env!("CARGO_PKG_VERSION"),
            "machine": Machine::here().to_json(),
            "arguments": self.arguments,
            "servers": servers,
            "ratios": self.ratios_json(),
            "faults": self.faults(),
        })
    }

    fn ratios_json(&self) -> Map<String, Value> {
        let ratios = self.ratios().into_iter();
        ratios.map(|(name, ratio)| (name.to_owned(), Value::Object(ratio.to_json()))).collect()
    }

    /// Our summary by those of each of the others.
    fn ratios(&self) -> Vec<(&'static str, Figures)> {
        let Some((ours, others)) = self.scores.split_first() else { return Vec::new() };
        let ours = ours.summary();
        let ratio = |other: &Score| (other.contestant.name(), ours.ratio_to(&other.summary()));
        others.iter().map(ratio).collect()
    }

    /// A table: a line a figure, a column a server, and the ratios to the others; below it, between
    /// which values the rounds were.
    pub(crate) fn to_table(&self) -> String {
        let mut text = format!("{} — {}\n", self.load, Machine::here().to_line());
        let _ = writeln!(text, "{}\n", arguments_line(&self.arguments));
        text.push_str(&aligned(&self.summary_rows()));
        if self.scores.iter().any(|score| score.rounds.len() > 1) {
            text.push_str("\nleast..most of all rounds\n");
            text.push_str(&aligned(&self.spread_rows()));
        }
        let disturbed = "disturbed by other processes";
        let bound = "the benchmark's own thread was busy, the server may be faster";
        for score in self.scores {
            let notes = [
                note(score, disturbed, "others_cores", is_disturbed),
                note(score, bound, "client_cores", is_client_bound),
            ];
            for note in notes.into_iter().flatten() {
                let _ = writeln!(text, "{note}");
            }
        }
        if PROFILE == "debug" {
            text.push_str("a debug build: its figures say nothing of a gateway\n");
        }
        text
    }

    fn summary_rows(&self) -> Vec<Vec<String>> {
        let summaries: Vec<Figures> = self.scores.iter().map(Score::summary).collect();
        let ratios = self.ratios();
        let names = self.scores.iter().map(|it| it.contestant.name().to_owned());
        let others = ratios.iter().map(|(name, _)| format!("/ {name}"));
        let mut rows = vec![[String::new()].into_iter().chain(names).chain(others).collect()];
        for kind in KINDS.iter().filter(|kind| is_worth_a_line(kind, &summaries)) {
            let mut row = vec![kind.title.to_owned()];
            row.extend(summaries.iter().map(|it| {
                let value = it.value(kind.key);
                value.map_or_else(|| "-".to_owned(), |value| grouped(value, kind.decimals))
            }));
            row.extend(ratios.iter().map(|(_, ratio)| {
                ratio.value(kind.key).map_or_else(String::new, |it| format!("{it:.2}"))
            }));
            rows.push(row);
        }
        rows
    }

    fn spread_rows(&self) -> Vec<Vec<String>> {
        let spreads: Vec<_> =
            self.scores.iter().map(|score| Figures::spread(&score.rounds)).collect();
        let mut rows = Vec::new();
        for kind in KINDS.iter().filter(|kind| kind.is_compared()) {
            let cells = spreads.iter().map(|(least, most)| {
                let shown =
                    |figures: &Figures| Some(grouped(figures.value(kind.key)?, kind.decimals));
                Some(format!("{}..{}", shown(least)?, shown(most)?))
            });
            let cells: Vec<Option<String>> = cells.collect();
            if cells.iter().any(Option::is_some) {
                let cells = cells.into_iter().map(|cell| cell.unwrap_or_else(|| "-".to_owned()));
                rows.push([kind.title.to_owned()].into_iter().chain(cells).collect());
            }
        }
        rows
    }
}

/// Says in which rounds somebody took much of the machine.
fn note(score: &Score, text: &str, key: &str, is_so: impl Fn(&Figures) -> bool) -> Option<String> {
    let rounds = (1..).zip(&score.rounds).filter(|(_, figures)| is_so(figures));
    let rounds: Vec<String> = rounds
        .map(|(number, figures)| {
            let cores = figures.value(key).unwrap_or_default();
            format!("round {number} ({cores:.2} cores)")
        })
        .collect();
    let name = score.contestant.name();
    (!rounds.is_empty()).then(|| format!("{text}: {name}, {}", rounds.join(", ")))
}

fn score_json(score: &Score) -> Value {
    let rounds = score.rounds.iter().map(|figures| {
        let mut round = figures.to_json();
        round.insert("is_disturbed".to_owned(), is_disturbed(figures).into());
        round.insert("is_client_bound".to_owned(), is_client_bound(figures).into());
        Value::Object(round)
    });
    let (least, most) = Figures::spread(&score.rounds);
    let spread = KINDS.iter().filter_map(|kind| {
        let (least, most) = (least.value(kind.key)?, most.value(kind.key)?);
        Some((kind.key.to_owned(), json!([number(least), number(most)])))
    });
    let processes = score.processes.iter().map(|(pid, name)| json!({"pid": pid, "name": name}));
    json!({
        "name": score.contestant.name(),
        "workers": score.contestant.workers(),
        "processes": processes.collect::<Vec<_>>(),
        "rounds": rounds.collect::<Vec<_>>(),
        "median": score.summary().to_json(),
        "spread": spread.collect::<Map<_, _>>(),
    })
}

/// Faults have a line only where there is one; but that nothing was lost is always said.
fn is_worth_a_line(kind: &Kind, summaries: &[Figures]) -> bool {
    let mut values = summaries.iter().filter_map(|it| it.value(kind.key));
    match kind.key {
        "lost" | "refused" => values.next().is_some(),
        "seconds" | "memory_bytes_before" | "memory_bytes_after" => false,
        "failed_connects" => values.any(|it| it > 0.0),
        _ if kind.is_fault => values.any(|it| it > 0.0),
        // Where nobody knows it, the line says so.
        _ => values.next().is_some() || (kind.key == "server_cores"),
    }
}

/// A number with its thousands apart.
fn grouped(value: f64, decimals: usize) -> String {
    let text = format!("{value:.decimals$}");
    let (whole, rest) =
        text.split_once('.').map_or((text.as_str(), ""), |(whole, rest)| (whole, rest));
    let (sign, digits) = whole.strip_prefix('-').map_or(("", whole), |digits| ("-", digits));
    let mut grouped = String::from(sign);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    if rest.is_empty() { grouped } else { format!("{grouped}.{rest}") }
}

/// Columns under one another: the first to the left, the others to the right.
fn aligned(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or_default();
    let width = |column| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell: &String| cell.chars().count()).max().unwrap_or_default()
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (index, (cell, width)) in row.iter().zip(&widths).enumerate() {
            let _ = match index {
                0 => write!(line, "{cell:<width$}"),
                _ => write!(line, "  {cell:>width$}"),
            };
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

fn arguments_line(arguments: &Value) -> String {
    let Some(arguments) = arguments.as_object() else { return String::new() };
    let mut words = Vec::new();
    for (name, value) in arguments {
        match value {
            Value::Object(inner) => {
                words.extend(inner.iter().map(|(name, value)| {
                    format!("{name} {}", value.to_string().trim_matches('"'))
                }));
            }
            value => words.push(format!("{name} {value}")),
        }
    }
    words.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped_by_thousands() {
        for (value, decimals, expected) in [
            (0.0, 0, "0"),
            (999.4, 0, "999"),
            (1234.5678, 2, "1,234.57"),
            (-1_234_567.0, 0, "-1,234,567"),
            (0.345, 3, "0.345"),
        ] {
            assert_eq!(grouped(value, decimals), expected);
        }
    }

    #[test]
    fn columns_are_under_one_another() {
        let row = |cells: [&str; 3]| cells.map(str::to_owned).to_vec();
        let text = aligned(&[row(["", "a", "/ b"]), row(["posts/s", "1,000", ""])]);
        assert_eq!(text, "             a  / b\nposts/s  1,000\n");
    }
}
