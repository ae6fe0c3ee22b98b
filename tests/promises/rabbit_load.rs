//! RabbitMQ, `listen` and `broadcast` are killed before eight publishers whose messages the broker
//! confirms: the judge of `history` looks at what became of each.

use rustix::process::Signal;
use serde_json::Value;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::client::fire;
use crate::crashes::{Doors, restart_listen};
use crate::gateway::{Gateway, PATIENCE, TOKEN};
use crate::history::{Fired, Hearing, History, Note};
use crate::rabbit::Rabbit;
use crate::rabbit_desk::Desk;
use crate::rabbit_publishers::{Again, RabbitPublishers};
use crate::resuming::{Begin, FENCE, Resuming};

const PUBLISHERS: usize = 8;
const QUEUES: [&str; 3] = ["load-a", "load-b", "load-c"];

/// A consumer of a queue, who comes back for ever.
fn consume(url: String) -> JoinHandle<Hearing> {
    tokio::spawn(async move {
        let mut ears = Ears::default();
        loop {
            let request = reqwest::Client::new().get(&url);
            let request = request.header("authorization", format!("Basic {TOKEN}"));
            if let Ok(mut response) = request.send().await {
                if response.status() != 200 {
                    // It would stop an EventSource for good.
                    ears.notes.push(Note::Ended(Some(response.status().as_u16())));
                }
                ears.unread.clear();
                while let Ok(Some(chunk)) = response.chunk().await {
                    ears.unread += std::str::from_utf8(&chunk).unwrap();
                    if ears.hear() {
                        return Hearing { is_whole: true, notes: ears.notes };
                    }
                }
                ears.notes.push(Note::Ended(None));
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    })
}

#[derive(Default)]
struct Ears {
    notes: Vec<Note>,
    unread: String,
    seen: std::collections::BTreeSet<String>,
}

impl Ears {
    /// Reads what has come; whether the fence is there.
    fn hear(&mut self) -> bool {
        while let Some(end) = self.unread.find("\n\n") {
            let block: String = self.unread.drain(..end + 2).collect();
            let (is_marked, block) = match block.strip_prefix(": redelivered\n") {
                Some(rest) => (true, rest),
                None => (false, block.as_str()),
            };
            let Some(data) = block.strip_prefix("data: ").map(str::trim_end) else { continue };
            if data == FENCE {
                return true;
            }
            self.note(data, is_marked);
        }
        false
    }

    /// Notes a message as the native protocol would tell it, with its number in the place of a
    /// cursor. What came before may come again, if it says so.
    fn note(&mut self, data: &str, is_marked: bool) {
        if !self.seen.insert(data.to_owned()) && is_marked {
            return;
        }
        let message: Value = serde_json::from_str(data).unwrap();
        let (source, id) = (message["source"].as_str().unwrap(), message["id"].as_str().unwrap());
        let (publisher, number) = (source.rsplit('/').next().unwrap(), self.notes.len() + 1);
        self.notes.push(Note::Event(format!(
            r#"{{"type":"event","event":"load.{publisher}","data":{data},"cursor":"queue-{number}","id":"{id}","time":"2026-11-21T00:00:00Z","source":"{source}"}}"#
        )));
    }
}

#[tokio::test]
async fn queues_lose_nothing_that_was_confirmed_while_the_broker_is_killed_under_load() {
    let mut rabbit = Rabbit::start().await;
    let house = rabbit.house().set("AMQP_URLS", format!("{0},{0}", rabbit.url()));
    let broadcast = house.broadcast();
    let consumers: Vec<_> =
        QUEUES.map(|queue| consume(format!("{}/queue?id={queue}", broadcast.url()))).into();
    let desk = Desk::open(&rabbit.url()).await;
    for queue in QUEUES {
        let is_consumed = async || (desk.look(queue).await? == (0, 1)).then_some(());
        crate::measures::until("a consumer", is_consumed).await;
    }
    let publishers = RabbitPublishers::begin(&rabbit.url(), PUBLISHERS, &QUEUES, Again::AsAnother);
    for _ in 0..2 {
        publishers.wait_for_more(60).await;
        rabbit.kill();
        rabbit.up().await;
    }
    publishers.wait_for_more(60).await;
    let fired = publishers.stop().await;
    let desk = Desk::open(&rabbit.url()).await;
    for (number, (queue, consumer)) in QUEUES.iter().zip(consumers).enumerate() {
        desk.put(queue, FENCE).await;
        let hearing = timeout(PATIENCE, consumer).await.expect("the fence").unwrap();
        // Those who put into this one.
        let fired: Vec<Vec<Fired>> =
            fired.iter().skip(number).step_by(QUEUES.len()).cloned().collect();
        History { fired, hearings: vec![hearing] }.expect_faultless();
    }
}

/// Both processes at doors that stay, and messages of the broker as a way in.
async fn open_consuming(rabbit: &Rabbit, doors: &Doors) -> (Gateway, Vec<Resuming>) {
    let house = doors.house().set("AMQP_URLS", rabbit.url());
    let gateway = house.set("AMQP_CONSUME", QUEUES.join(",")).open();
    let begin = Begin::Now { is_whole: true };
    let subscribers: Vec<_> =
        (0..2).map(|_| Resuming::begin(&gateway.broadcast.ws_url(), &begin)).collect();
    for subscriber in &subscribers {
        subscriber.wait_for_inits(1).await;
    }
    (gateway, subscribers)
}

/// What was confirmed by the broker comes once, whoever dies on the way.
#[tokio::test]
async fn what_the_broker_confirmed_is_fired_once_whoever_is_killed_under_load() {
    let mut rabbit = Rabbit::start().await;
    let doors = Doors::choose();
    let (mut gateway, subscribers) = open_consuming(&rabbit, &doors).await;
    let desk = Desk::open(&rabbit.url()).await;
    for queue in QUEUES {
        let is_consumed = async || (desk.look(queue).await? == (0, 1)).then_some(());
        crate::measures::until("a consumer", is_consumed).await;
    }
    let publishers = RabbitPublishers::begin(&rabbit.url(), PUBLISHERS, &QUEUES, Again::WithItsId);
    publishers.wait_for_more(60).await;
    gateway = restart_listen(gateway, Signal::KILL).await;
    publishers.wait_for_more(60).await;
    rabbit.kill();
    rabbit.up().await;
    publishers.wait_for_more(60).await;
    gateway = gateway.restart_broadcast(Signal::KILL).await;
    publishers.wait_for_more(60).await;
    gateway = restart_listen(gateway, Signal::TERM).await;
    publishers.wait_for_more(60).await;
    let fired = publishers.stop().await;
    let count = fired.iter().flatten().filter(|it| it.is_accepted()).count();
    for subscriber in &subscribers {
        subscriber.wait_for_events(count.try_into().unwrap()).await;
    }
    fire(&gateway, FENCE, "null").await;
    let mut hearings = Vec::new();
    for subscriber in subscribers {
        hearings.push(subscriber.hear_the_fence().await);
    }
    History { fired, hearings }.expect_faultless();
}
