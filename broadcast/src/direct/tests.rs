use tokio::task::LocalSet;

use super::*;
use crate::log::page::tests::event;
use crate::log::submission::Inbox;

/// A road, and the log's end of it.
struct House {
    road: DirectRoad,
    inbox: Option<Inbox>,
    submissions: tokio::sync::mpsc::Receiver<Submission>,
}

impl House {
    fn new() -> Self {
        let (inbox, submissions) = Inbox::new(1);
        let log = Opening::default();
        log.set(inbox.downgrade()).unwrap();
        let road = DirectRoad::new(log, Memory::new(1 << 30));
        Self { road, inbox: Some(inbox), submissions }
    }

    fn send(&self, event_type: &str) -> Underway {
        self.road.send(event(event_type, "1"), Terms::default()).unwrap()
    }

    /// What comes to the log next: types with their numbers, and where to answer.
    async fn take(&mut self) -> (Vec<(u64, String)>, Arc<Progress>) {
        let Some(Submission::Events(arrival)) = self.submissions.recv().await else {
            panic!("events come");
        };
        let read = |entry: &Entry| (entry.number, entry.event.event_type.to_string());
        (arrival.entries.iter().map(read).collect(), arrival.progress)
    }
}

const TAKEN: Result<Receipt, LinkError> = Ok(Receipt { account: None });

#[tokio::test]
async fn what_is_sent_comes_in_order_and_is_answered_when_the_log_has_it() {
    let local = LocalSet::new();
    local
        .run_until(async {
            let mut house = House::new();
            let sent = ["a", "b", "c"].map(|it| house.send(it));
            let (entries, progress) = house.take().await;
            let expected = [(1, "a".into()), (2, "b".into()), (3, "c".into())];
            assert_eq!(entries, expected);
            progress.move_to(3, vec![News::Refused(2)]);
            let [first, second, third] = sent;
            assert_eq!(first.await, TAKEN);
            assert_eq!(second.await, Err(LinkError::Unreachable));
            assert_eq!(third.await, TAKEN);
        })
        .await;
}

/// A log that has ended takes nothing, and a number that it never saw is not one of those that it has
/// gone past.
#[tokio::test]
async fn what_was_not_handed_over_is_never_said_to_be_kept() {
    let local = LocalSet::new();
    local
        .run_until(async {
            let mut house = House::new();
            let before = house.send("a");
            let (_, progress) = house.take().await;
            drop(house.inbox.take());
            let after = house.send("b");
            assert_eq!(after.await, Err(LinkError::Unreachable));
            progress.move_to(9, Vec::new());
            assert_eq!(before.await, TAKEN);
            assert_eq!(house.send("c").await, Err(LinkError::Unreachable));
        })
        .await;
}

#[tokio::test]
async fn those_who_wait_are_on_the_account_of_memory() {
    let local = LocalSet::new();
    local
        .run_until(async {
            let mut house = House::new();
            let memory = Arc::clone(&house.road.memory);
            let sent = house.send("a");
            assert!(memory.held() > 0);
            let (_, progress) = house.take().await;
            progress.move_to(1, Vec::new());
            assert_eq!(sent.await, TAKEN);
            assert_eq!(memory.held(), 0);
        })
        .await;
}
