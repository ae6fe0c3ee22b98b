use futures_util::FutureExt as _;
use shared::link::frame::Terms;
use shared::pattern::Pattern;
use tempfile::TempDir;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use super::*;
use crate::filter::{Filter, Narrow};
use crate::log::keeper::{Durability, Settings};
use crate::log::page::tests::event;
use crate::queues::queue::Bounds;

mod failing;

/// A running log, one link of it, and its workers.
struct House {
    folder: Option<TempDir>,
    archive: Arc<Archive>,
    inbox: Inbox,
    workers: Vec<Worker>,
    /// It runs from the first wait on, so that what is submitted before is one batch.
    log: Option<Log>,
    running: Option<JoinHandle<()>>,
}

/// A worker that keeps what it is fed.
struct Worker {
    feed: mpsc::Receiver<Feed>,
    interest: Arc<Interest>,
}

/// One link's end, as its receiver has it.
#[derive(Default)]
struct Link {
    progress: Arc<Progress>,
    submitted: u64,
}

const PLAIN: Terms = Terms { may_be_retry: false, wants_account: false };
const RETRY: Terms = Terms { may_be_retry: true, wants_account: true };

fn settings(folder: Option<&TempDir>) -> Settings {
    Settings {
        folder: folder.map(|it| it.path().to_owned()).unwrap_or_default(),
        durability: folder.map_or(Durability::Memory, |_| Durability::Written),
        events_max: 1 << 20,
        bytes_max: 1 << 30,
        age_max: Duration::from_secs(3600),
        cache_bytes: 1 << 20,
        queues: Bounds::default(),
    }
}

impl House {
    fn on_disk(interested: &[bool]) -> Self {
        Self::open(Some(tempfile::tempdir().unwrap()), interested)
    }

    fn open(folder: Option<TempDir>, interested: &[bool]) -> Self {
        let opened = Opened::open(&settings(folder.as_ref())).unwrap();
        let archive = Arc::clone(&opened.archive);
        let (mut seats, mut workers) = (Vec::new(), Vec::new());
        for is_interested in interested {
            let (sender, feed) = mpsc::channel(QUEUE_BATCHES_MAX);
            let interest = Arc::new(Interest::new(archive.watch_end()));
            if *is_interested {
                interest.begin();
            }
            seats.push(Seat { feed: sender, interest: Arc::clone(&interest) });
            workers.push(Worker { feed, interest });
        }
        let (log, inbox) = Log::new(opened, seats, Memory::new(1 << 30), Arc::default());
        Self { folder, archive, inbox, workers, log: Some(log), running: None }
    }

    fn run(&mut self) {
        if let Some(log) = self.log.take() {
            self.running = Some(tokio::task::spawn_local(log.run()));
        }
    }

    /// Submits events and waits until the log has had them.
    async fn publish(&mut self, link: &mut Link, terms: Terms, ids: &[&str]) -> Vec<Told> {
        link.submit(&self.inbox, terms, ids).await;
        self.run();
        link.wait().await
    }

    /// Ends the log as a stop does, and opens it again.
    async fn reopen(mut self) -> Self {
        self.run();
        let Self { folder, inbox, workers, running, archive, .. } = self;
        let interested: Vec<bool> = workers.iter().map(|it| it.interest.is_any()).collect();
        drop((inbox, archive));
        running.unwrap().await.unwrap();
        drop(workers);
        Self::open(folder, &interested)
    }

    /// The ids of all kept events by their offsets.
    async fn kept(&self) -> Vec<(u64, String)> {
        let all = Pattern::parse(">").unwrap();
        let filter = Arc::new(Filter::new([&all], Narrow::default()));
        let excerpt = self.archive.read(0, &filter, 1 << 30).await.unwrap();
        let ids = excerpt.events.into_iter();
        ids.map(|(offset, event)| (offset, event.id.to_string())).collect()
    }
}

impl Worker {
    /// What it was fed so far: the offsets of events, questions as 0.
    fn fed(&mut self) -> Vec<u64> {
        let mut offsets = Vec::new();
        while let Ok(feed) = self.feed.try_recv() {
            match feed {
                Feed::Batch(batch) => {
                    offsets.extend(batch.iter().map(|(offset, ..)| offset));
                    for (_, index, _) in batch.iter() {
                        if let Some(tally) = batch.tally(index) {
                            tally.add(1);
                        }
                    }
                }
                Feed::Count(_, tally) => {
                    tally.add(1);
                    offsets.push(0);
                }
                Feed::End => {}
            }
        }
        offsets
    }
}

/// What a link is told of one event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Told {
    Refused(u64),
    /// Its number, its offset, and to how many it was queued as far as that is known.
    Placed(u64, u64, Option<u32>),
}

impl Link {
    async fn submit(&mut self, inbox: &Inbox, terms: Terms, ids: &[&str]) {
        let mut entries = Vec::new();
        for id in ids {
            self.submitted += 1;
            entries.push(Entry { number: self.submitted, terms, event: event("a", id) });
        }
        let progress = Arc::clone(&self.progress);
        let bytes = entries.iter().map(|it| it.event.size()).sum();
        let last_number = self.submitted;
        let submission = Submission::Events(Arrival { entries, bytes, last_number, progress });
        inbox.submit(submission).await.unwrap();
    }

    /// Waits until all is taken; gives what was told.
    async fn wait(&self) -> Vec<Told> {
        while self.progress.taken() < self.submitted {
            self.progress.moved.notified().await;
        }
        let mut told: Vec<Told> = self.progress.take_news().into_iter().map(Told::of).collect();
        told.sort_unstable();
        told
    }
}

impl Told {
    fn of(news: News) -> Self {
        match news {
            News::Refused(number) => Self::Refused(number),
            News::Placed { number, offset, tally } => {
                Self::Placed(number, offset, tally.and_then(|it| it.total()))
            }
        }
    }
}

use Told::{Placed, Refused};

fn named(kept: &[(u64, String)]) -> Vec<(u64, &str)> {
    kept.iter().map(|(offset, id)| (*offset, id.as_str())).collect()
}

#[actix_web::test]
async fn offsets_follow_the_order_of_submission_on_disk_and_in_memory() {
    for folder in [Some(tempfile::tempdir().unwrap()), None] {
        let mut house = House::open(folder, &[true]);
        let (mut one, mut other) = (Link::default(), Link::default());
        one.submit(&house.inbox, PLAIN, &["1", "2"]).await;
        other.submit(&house.inbox, PLAIN, &["3"]).await;
        one.submit(&house.inbox, PLAIN, &["4"]).await;
        house.run();
        assert_eq!((one.wait().await, other.wait().await), (vec![], vec![]));
        house.publish(&mut other, PLAIN, &["5"]).await;
        assert_eq!(house.workers[0].fed(), [1, 2, 3, 4, 5]);
        let expected = [(1, "1"), (2, "2"), (3, "3"), (4, "4"), (5, "5")];
        assert_eq!(named(&house.kept().await), expected);
        assert_eq!(house.archive.end(), 5);
    }
}

#[actix_web::test]
async fn a_retry_has_the_place_of_the_first_in_its_batch_later_and_on_another_link() {
    for folder in [Some(tempfile::tempdir().unwrap()), None] {
        let mut house = House::open(folder, &[false]);
        let (mut one, mut other) = (Link::default(), Link::default());
        one.submit(&house.inbox, RETRY, &["1", "2", "1"]).await;
        other.submit(&house.inbox, RETRY, &["2", "3"]).await;
        house.run();
        let placed = |number, offset| Placed(number, offset, Some(0));
        assert_eq!(one.wait().await, [placed(1, 1), placed(2, 2), placed(3, 1)]);
        assert_eq!(other.wait().await, [placed(1, 2), placed(2, 3)]);
        assert_eq!(house.publish(&mut other, RETRY, &["1"]).await, [placed(3, 1)]);
        // The same identity without the wish to be recognised is another event; the first stays.
        assert_eq!(house.publish(&mut one, PLAIN, &["1"]).await, []);
        assert_eq!(house.publish(&mut one, RETRY, &["1"]).await, [placed(5, 1)]);
        assert_eq!(named(&house.kept().await), [(1, "1"), (2, "2"), (3, "3"), (4, "1")]);
    }
}

#[actix_web::test]
async fn a_retry_is_recognised_after_a_restart() {
    let mut house = House::on_disk(&[true]);
    let mut link = Link::default();
    house.publish(&mut link, PLAIN, &["1", "2"]).await;
    let mut house = house.reopen().await;
    let mut link = Link::default();
    assert_eq!(house.publish(&mut link, RETRY, &["2"]).await, [Placed(1, 2, None)]);
    assert_eq!(house.workers[0].fed(), Vec::<u64>::new(), "it is not delivered again");
    house.publish(&mut link, PLAIN, &["3"]).await;
    assert_eq!(named(&house.kept().await), [(1, "1"), (2, "2"), (3, "3")]);
}

#[actix_web::test]
async fn an_account_is_complete_when_every_worker_has_counted_or_wants_nothing() {
    let table: [(&[bool], &[Option<u32>]); 6] = [
        (&[], &[Some(0)]),
        (&[false], &[Some(0)]),
        (&[true], &[None, Some(1)]),
        (&[false, false], &[Some(0)]),
        (&[true, false], &[None, Some(1)]),
        (&[true, true], &[None, None, Some(2)]),
    ];
    for (interested, totals) in table {
        let mut house = House::on_disk(interested);
        let mut link = Link::default();
        link.submit(&house.inbox, RETRY, &["1"]).await;
        house.run();
        while link.progress.taken() < 1 {
            link.progress.moved.notified().await;
        }
        let news = link.progress.take_news().remove(0);
        let News::Placed { tally: Some(tally), .. } = news else { panic!("{news:?}") };
        let counted = house.inbox.tally(&Arc::new(Notify::new()));
        let question = Submission::Count(event("a", "1").event_type, Arc::clone(&counted));
        house.inbox.submit(question).await.unwrap();
        // What comes behind the question is taken behind it.
        house.publish(&mut link, PLAIN, &["2"]).await;
        let mut seen = vec![tally.total()];
        assert_eq!(counted.total(), totals[0], "{interested:?}");
        for (worker, _) in house.workers.iter_mut().zip(interested).filter(|(_, it)| **it) {
            assert_eq!(worker.fed(), [1, 0, 2], "{interested:?}");
            seen.push(tally.total());
        }
        assert_eq!(seen, totals, "{interested:?}");
        assert_eq!(counted.total(), totals.last().copied().flatten(), "{interested:?}");
    }
}

/// A worker that has ended counts for nothing, and holds nobody up.
#[actix_web::test]
async fn an_account_is_complete_without_a_worker_that_is_gone() {
    let mut house = House::on_disk(&[true]);
    house.workers.clear();
    let mut link = Link::default();
    assert_eq!(house.publish(&mut link, RETRY, &["1"]).await, [Placed(1, 1, Some(0))]);
}

/// A retry that comes on another link while the first account is not complete yet: that link, too,
/// is told when it is.
#[actix_web::test]
async fn every_link_that_waits_for_an_account_is_told_when_it_is_complete() {
    let mut house = House::on_disk(&[true]);
    let (mut one, mut other) = (Link::default(), Link::default());
    assert_eq!(house.publish(&mut one, RETRY, &["1"]).await, [Placed(1, 1, None)]);
    assert_eq!(house.publish(&mut other, RETRY, &["1"]).await, [Placed(1, 1, None)]);
    // Whatever was told until now is heard.
    for link in [&one, &other] {
        let _ = link.progress.moved.notified().now_or_never();
    }
    assert_eq!(house.workers[0].fed(), [1]);
    for link in [one, other] {
        let told = tokio::time::timeout(Duration::from_secs(5), link.progress.moved.notified());
        assert!(told.await.is_ok());
    }
}

#[actix_web::test]
async fn the_end_comes_behind_all_events_and_the_next_log_goes_on() {
    let mut house = House::on_disk(&[true, false]);
    let mut link = Link::default();
    link.submit(&house.inbox, PLAIN, &["1", "2"]).await;
    house.run();
    drop(house.inbox.clone());
    let House { folder, inbox, mut workers, running, archive, .. } = house;
    drop((inbox, archive));
    running.unwrap().await.unwrap();
    for (worker, expected) in workers.iter_mut().zip([vec!["batch", "end"], vec!["end"]]) {
        let mut fed = Vec::new();
        while let Some(feed) = worker.feed.recv().await {
            fed.push(match feed {
                Feed::Batch(_) => "batch",
                Feed::Count(..) => "count",
                Feed::End => "end",
            });
        }
        assert_eq!(fed, expected);
    }
    let mut house = House::open(folder, &[]);
    house.publish(&mut link, PLAIN, &["3"]).await;
    assert_eq!(named(&house.kept().await), [(1, "1"), (2, "2"), (3, "3")]);
}

/// The log waits for a worker whose queue is full; but what it has for it can be read by then, or a
/// session that begins in between would miss it.
#[actix_web::test]
async fn a_batch_can_be_read_before_a_worker_has_it() {
    let folder = tempfile::tempdir().unwrap();
    let opened = Opened::open(&settings(Some(&folder))).unwrap();
    let archive = Arc::clone(&opened.archive);
    let (feed, mut fed) = mpsc::channel(1);
    let interest = Arc::new(Interest::new(archive.watch_end()));
    interest.begin();
    let seats = vec![Seat { feed, interest }];
    let (log, inbox) = Log::new(opened, seats, Memory::new(1 << 30), Arc::default());
    let running = tokio::task::spawn_local(log.run());
    let mut link = Link::default();
    link.submit(&inbox, PLAIN, &["1"]).await;
    link.wait().await;
    link.submit(&inbox, PLAIN, &["2"]).await;
    while archive.end() < 2 {
        tokio::task::yield_now().await;
    }
    assert_eq!(link.progress.taken(), 1, "no receipt before the worker has it");
    for offset in 1..=2 {
        let Some(Feed::Batch(batch)) = fed.recv().await else { panic!("no batch") };
        assert_eq!(batch.last_offset(), offset);
    }
    link.wait().await;
    drop(inbox);
    assert!(matches!(fed.recv().await, Some(Feed::End)));
    running.await.unwrap();
}
