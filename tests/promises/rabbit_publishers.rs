//! Publishers at RabbitMQ, who number what they put, and put it again until it is confirmed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use crate::gateway::PATIENCE;
use crate::history::{Answer, Fired};
use crate::rabbit_desk::Desk;

/// Between two messages of one publisher, and before it comes back to a broker that is away.
const PACE: Duration = Duration::from_millis(100);
/// A confirmation that does not come is none.
const CONFIRMED_WITHIN: Duration = Duration::from_secs(10);

/// So many of them, each a task with a connection of its own.
pub struct RabbitPublishers {
    is_over: Arc<AtomicBool>,
    confirmed: Arc<AtomicU64>,
    tasks: JoinSet<(usize, Vec<Fired>)>,
}

/// How a message that was not confirmed is put again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Again {
    /// As the same one.
    WithItsId,
    /// As another one: the broker cannot know the first for the same.
    AsAnother,
}

impl RabbitPublishers {
    /// Begins to put messages of the types `load.<publisher>` into these queues, which are there.
    pub fn begin(url: &str, count: usize, queues: &[&str], again: Again) -> Self {
        let (is_over, confirmed) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let mut tasks = JoinSet::new();
        for number in 0..count {
            let publisher = Publisher {
                number,
                url: url.to_owned(),
                queue: queues[number % queues.len()].to_owned(),
                again,
                is_over: Arc::clone(&is_over),
                confirmed: Arc::clone(&confirmed),
                desk: None,
            };
            tasks.spawn(publisher.put_all());
        }
        Self { is_over, confirmed, tasks }
    }

    /// Waits until so many more than now are confirmed.
    pub async fn wait_for_more(&self, count: u64) {
        let confirmed = || self.confirmed.load(Ordering::SeqCst);
        let due = confirmed() + count;
        let enough = async || (confirmed() >= due).then_some(());
        crate::measures::until("messages that are confirmed", enough).await;
    }

    /// Lets each finish the message it is at, and gives what they put.
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
    queue: String,
    again: Again,
    is_over: Arc<AtomicBool>,
    confirmed: Arc<AtomicU64>,
    desk: Option<Desk>,
}

impl Publisher {
    async fn put_all(mut self) -> (usize, Vec<Fired>) {
        let mut fired: Vec<Fired> = Vec::new();
        let mut number = 0;
        while !self.is_over.load(Ordering::SeqCst) {
            fired.extend(self.put(number).await);
            number += 1;
            tokio::time::sleep(PACE).await;
        }
        (self.number, fired)
    }

    /// Puts a message until it is confirmed; gives what it was put as.
    async fn put(&mut self, number: usize) -> Vec<Fired> {
        let mut fired = vec![self.message(number, 0)];
        let deadline = Instant::now() + PATIENCE;
        loop {
            let attempt = fired.len();
            let message = fired.last_mut().unwrap();
            let answer = timeout(CONFIRMED_WITHIN, self.try_put(message)).await;
            let answer = answer.unwrap_or(Answer::Broken);
            message.answers.push(answer.clone());
            if answer == Answer::Accepted {
                self.confirmed.fetch_add(1, Ordering::SeqCst);
                return fired;
            }
            self.desk = None;
            if Instant::now() > deadline {
                message.answers.push(Answer::Odd(format!("never confirmed: {number}")));
                return fired;
            }
            if self.again == Again::AsAnother {
                fired.push(self.message(number, attempt));
            }
            tokio::time::sleep(PACE).await;
        }
    }

    fn message(&self, number: usize, attempt: usize) -> Fired {
        let (source, id) = (format!("/publisher/{}", self.number), format!("{number}.{attempt}"));
        let padding = "x".repeat(1024);
        Fired {
            event_type: format!("load.{}", self.number),
            data: format!(r#"{{"source":"{source}","id":"{id}","padding":"{padding}"}}"#),
            source,
            id,
            answers: Vec::new(),
        }
    }

    async fn try_put(&mut self, message: &Fired) -> Answer {
        if self.desk.is_none() {
            self.desk = Desk::try_open(&self.url).await.ok();
        }
        let Some(desk) = &self.desk else { return Answer::Broken };
        let mut headers = FieldTable::default();
        let source = AMQPValue::LongString(message.source.as_str().into());
        headers.insert("cloudEvents:source".into(), source);
        let with = BasicProperties::default()
            .with_type(message.event_type.as_str().into())
            .with_message_id(message.id.as_str().into())
            .with_content_type("application/json".into())
            .with_headers(headers);
        match desk.try_put(&self.queue, with, message.data.as_bytes()).await {
            Ok(true) => Answer::Accepted,
            Ok(false) => Answer::Odd("the queue is gone".to_owned()),
            Err(_) => Answer::Broken,
        }
    }
}
