//! The rounds: everybody in turn, again and again, so that what disturbs the machine disturbs all.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use rustix::process::{Resource, getrlimit};

use crate::contestant::{Contestant, Running};
use crate::figures::Figures;
use crate::interrupt;
use crate::load::Load;
use crate::processes::{machine_time, name_of, with_descendants};
use crate::progress::Progress;
use crate::setup::Setup;

/// What one contestant did in all rounds.
#[derive(Debug)]
pub(crate) struct Score {
    /// Who.
    pub(crate) contestant: Contestant,
    /// The rounds, in order.
    pub(crate) rounds: Vec<Figures>,
    /// The server's processes, with their names; all that it had in all rounds.
    pub(crate) processes: BTreeMap<u32, String>,
    /// What went wrong, in the server's words.
    pub(crate) complaints: Vec<String>,
}

impl Score {
    /// What stands for all rounds.
    pub(crate) fn summary(&self) -> Figures {
        Figures::summary(&self.rounds)
    }

    /// What was not as promised, in a sentence each.
    pub(crate) fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        for (number, figures) in (1..).zip(&self.rounds) {
            for (kind, value) in figures.faults() {
                let name = self.contestant.name();
                faults.push(format!("{name}, round {number}: {} {value}", kind.title));
            }
        }
        faults.extend(self.complaints.iter().map(|it| format!("{}: {it}", self.contestant.name())));
        faults
    }
}

/// Whether others took so much of the machine that the round says little.
pub(crate) fn is_disturbed(figures: &Figures) -> bool {
    figures.value("others_cores").is_some_and(|cores| cores > BUSY_CORES)
}

/// Whether the client had so much to do that the server may have waited for it.
pub(crate) fn is_client_bound(figures: &Figures) -> bool {
    figures.value("client_cores").is_some_and(|cores| cores > CLIENT_CORES)
}

/// Measures everybody.
pub(crate) fn run<L: Load>(
    load: &L,
    setup: &Setup,
    progress: &mut Progress,
) -> anyhow::Result<Vec<Score>> {
    has_descriptors(load.connections())?;
    let contestants: Vec<_> =
        setup.contestants()?.into_iter().filter(|it| load.suits(*it)).collect();
    let mut kept: Vec<Option<Running>> = contestants.iter().map(|_| None).collect();
    let mut scores: Vec<Score> = contestants
        .iter()
        .map(|it| Score {
            contestant: *it,
            rounds: Vec::new(),
            processes: BTreeMap::new(),
            complaints: Vec::new(),
        })
        .collect();
    for round in 1..=setup.rounds {
        for (slot, score) in kept.iter_mut().zip(&mut scores) {
            let name = score.contestant.name();
            progress.stage(&format!("round {round} of {}, {name}:", setup.rounds));
            if L::NEEDS_FRESH_SERVER {
                *slot = None;
            }
            let running = match slot {
                Some(running) => running,
                None => slot.insert(score.contestant.start(setup).context(name)?),
            };
            wait_for_quiet(setup.quiet(), progress)?;
            let outcome = match load.measure(&running.target, progress) {
                Err(error) if error.is::<interrupt::Interrupted>() => return Err(error),
                // A process that has ended explains more than the connection that broke.
                Err(error) => return Err(died(running).unwrap_or(error)),
                Ok(outcome) => outcome,
            };
            running.is_alive()?;
            score.processes.extend(named(&running.target.pids));
            score.rounds.push(outcome.figures);
            score.complaints.extend(outcome.complaint);
        }
    }
    progress.clear();
    Ok(scores)
}

/// Why the server's processes cannot answer, if that is so. Who was killed now is seen to have ended
/// a moment after its connections.
fn died(running: &mut Running) -> Option<anyhow::Error> {
    let deadline = Instant::now() + DEATH_PATIENCE;
    while Instant::now() < deadline {
        if let Err(error) = running.is_alive() {
            return Some(error);
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    None
}

fn named(pids: &[u32]) -> impl Iterator<Item = (u32, String)> {
    let pids = with_descendants(pids).into_iter();
    pids.filter_map(|pid| Some((pid, name_of(pid)?)))
}

/// Waits until others leave the machine alone, and not for long.
fn wait_for_quiet(patience: Duration, progress: &mut Progress) -> anyhow::Result<()> {
    let deadline = Instant::now() + patience;
    while Instant::now() < deadline {
        interrupt::check()?;
        let (before, begun) = (machine_time(), Instant::now());
        std::thread::sleep(GLANCE.min(patience));
        let Some((before, after)) = before.zip(machine_time()) else { return Ok(()) };
        let cores = after.saturating_sub(before).as_secs_f64() / begun.elapsed().as_secs_f64();
        if cores < BUSY_CORES {
            return Ok(());
        }
        progress.say("waiting for other processes");
    }
    Ok(())
}

/// A client needs a descriptor for each connection, and the server too.
fn has_descriptors(connections: usize) -> anyhow::Result<()> {
    shared::descriptors::raise();
    let limit = getrlimit(Resource::Nofile).current.and_then(|it| usize::try_from(it).ok());
    if let Some(limit) = limit {
        let room = limit.saturating_sub(RESERVED);
        anyhow::ensure!(
            connections <= room,
            "{connections} connections are too many for {limit} descriptors: raise `ulimit -n`"
        );
    }
    Ok(())
}

/// More than this, and a figure says less than it seems.
const BUSY_CORES: f64 = 0.35;
/// The client is one thread.
const CLIENT_CORES: f64 = 0.9;
const DEATH_PATIENCE: Duration = Duration::from_millis(300);
const GLANCE: Duration = Duration::from_millis(400);
/// What a gateway keeps back for itself; it has as many as we have.
const RESERVED: usize = 160;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_is_named_with_its_round() {
        let (mut good, mut bad) = (Figures::default(), Figures::default());
        good.set("lost", 0.0);
        bad.set("lost", 7.0);
        bad.set("others_cores", 1.0);
        bad.set("client_cores", 0.95);
        assert!(!is_disturbed(&good) && is_disturbed(&bad));
        assert!(!is_client_bound(&good) && is_client_bound(&bad));
        let score = Score {
            contestant: Contestant::Nats,
            rounds: vec![good, bad],
            processes: BTreeMap::new(),
            complaints: vec!["-ERR".to_owned()],
        };
        assert_eq!(score.faults(), ["nats, round 2: lost 7", "nats: -ERR"]);
    }
}
