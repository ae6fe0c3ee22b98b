//! Publishers who number what they fire, and send each event again until it has its 200.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use reqwest::Client;
use serde_json::Value;
use tokio::task::JoinSet;
use tokio::time::{Interval, MissedTickBehavior};

use crate::gateway::{PATIENCE, TOKEN};
use crate::history::{Answer, Fired};

/// So many of them, each a task that fires one event after the other until it is told to stop.
pub struct Publishers {
    is_over: Arc<AtomicBool>,
    accepted: Arc<AtomicU64>,
    tasks: JoinSet<(usize, Vec<Fired>)>,
}

/// How they go about it.
#[derive(Debug, Clone)]
pub struct Manner {
    pub count: usize,
    /// Between two events of one publisher; without it, as fast as it can.
    pub pace: Option<Duration>,
    /// Bytes of data, about.
    pub size: usize,
}

impl Manner {
    /// Eight publishers with 40 events a second together, so that many tests may do it at a time.
    pub fn modest() -> Self {
        Self { count: 8, pace: Some(Duration::from_millis(200)), size: 1024 }
    }
}

impl Publishers {
    /// Begins to fire events of the types `load.<publisher>` at a `POST /event`.
    pub fn begin(url: &str, manner: &Manner) -> Self {
        let (is_over, accepted) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let mut tasks = JoinSet::new();
        for number in 0..manner.count {
            let publisher = Publisher {
                number,
                url: url.to_owned(),
                client: Client::builder().timeout(PATIENCE).build().unwrap(),
                size: manner.size,
                is_over: Arc::clone(&is_over),
                accepted: Arc::clone(&accepted),
            };
            let pace = manner.pace;
            tasks.spawn(async move { (number, publisher.fire_all(pace).await) });
        }
        Self { is_over, accepted, tasks }
    }

    /// How many have their 200.
    pub fn accepted(&self) -> u64 {
        self.accepted.load(Ordering::SeqCst)
    }

    /// Waits until so many more than now have their 200.
    pub async fn wait_for_more(&self, count: u64) {
        let due = self.accepted() + count;
        let enough = async || (self.accepted() >= due).then_some(());
        crate::measures::until("events that are accepted", enough).await;
    }

    /// Lets each finish the event it is at, and gives what they fired.
    pub async fn stop(self) -> Vec<Vec<Fired>> {
        self.is_over.store(true, Ordering::SeqCst);
        let mut fired = self.tasks.join_all().await;
        fired.sort_by_key(|(number, _)| *number);
        fired.into_iter().map(|(_, fired)| fired).collect()
    }
}

struct Publisher {
    number: usize,
    url: String,
    client: Client,
    size: usize,
    is_over: Arc<AtomicBool>,
    accepted: Arc<AtomicU64>,
}

impl Publisher {
    async fn fire_all(self, pace: Option<Duration>) -> Vec<Fired> {
        let mut pace = pace.map(steady);
        let mut fired = Vec::new();
        while !self.is_over.load(Ordering::SeqCst) {
            if let Some(pace) = &mut pace {
                pace.tick().await;
            }
            fired.push(self.fire(fired.len()).await);
        }
        fired
    }

    async fn fire(&self, number: usize) -> Fired {
        let padding = "x".repeat(self.size);
        let mut event = Fired {
            event_type: format!("load.{}", self.number),
            source: format!("/publisher/{}", self.number),
            id: number.to_string(),
            data: format!(r#"{{"number": {number}, "padding": "{padding}"}}"#),
            answers: Vec::new(),
        };
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            let answer = self.send(&event).await;
            event.answers.push(answer.clone());
            if answer == Answer::Accepted {
                self.accepted.fetch_add(1, Ordering::SeqCst);
                return event;
            }
            if tokio::time::Instant::now() > deadline {
                event.answers.push(Answer::Odd(format!("never accepted: {number}")));
            }
            if matches!(event.answers.last(), Some(Answer::Odd(_))) {
                return event;
            }
            // As a client would: not at once, where at once it was refused.
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn send(&self, event: &Fired) -> Answer {
        let Fired { event_type, source, id, data, .. } = event;
        let body =
            format!(r#"{{"event":"{event_type}","data":{data},"id":"{id}","source":"{source}"}}"#);
        let request = self.client.post(&self.url).header("authorization", format!("Basic {TOKEN}"));
        let Ok(response) = request.body(body).send().await else { return Answer::Broken };
        let status = response.status().as_u16();
        let Ok(body) = response.text().await else { return Answer::Broken };
        judge_answer(status, &body, event)
    }
}

fn judge_answer(status: u16, body: &str, event: &Fired) -> Answer {
    let parsed: Value = serde_json::from_str(body).unwrap_or_default();
    let is_named = parsed["id"] == event.id && parsed["source"] == event.source;
    match status {
        200 if body == r#"{"code":"OK"}"# => Answer::Accepted,
        503 if body == r#"{"code":"UNAVAILABLE"}"# => Answer::Refused,
        503 if parsed["accepted"] == "unknown" && is_named => Answer::Undecided,
        _ => Answer::Odd(format!("{status} {body}")),
    }
}

/// Ticks that come late are not made up for: the rate is the most, not the least.
fn steady(pace: Duration) -> Interval {
    let mut ticks = tokio::time::interval(pace);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}
