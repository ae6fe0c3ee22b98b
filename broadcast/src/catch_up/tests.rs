use std::collections::{BTreeMap, VecDeque};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Wake, Waker};
use std::thread::{self, Thread};
use std::time::Duration;

use fastrand::Rng;
use shared::credentials::Credentials;
use shared::failures::Failures;
use shared::memory::Memory;
use shared::reload::Reloaded;
use shared::tokens::TokensFile;
use tempfile::TempDir;

use super::*;
use crate::census::Census;
use crate::hub::SessionId;
use crate::interest::Interest;
use crate::log::keeper::{Durability, Keeper, Opened, Settings};
use crate::log::page::tests::event;
use crate::log::page::{Acceptance, Page};
use crate::metrics::Metrics;
use crate::publication::{Publication, Slot};
use crate::queues::queue::Bounds;
use crate::session::Session;
use crate::worker::{Limits, Shared};

static OFFSETS: Format = Format::new(Slot::Native, |placed, bytes| {
    let padding = placed.event.data.as_ref().map_or(0, |data| data.as_bytes().len());
    bytes.extend_from_slice(format!("{}{:padding$} ", placed.offset, "").as_bytes());
});

const TOKEN: &str = "0123456789abcdef";
/// What a client has room for.
const OUTBOX_BYTES: usize = 16 * 1024;
const TYPES: [&str; 4] = ["keep.a", "keep.b", "other.a", "other.b"];
/// Patterns that come and go; `keep.>` stays.
const PATTERNS: [&str; 4] = ["other.a", "other.*", "keep.a", ">"];

/// A log, a worker of which every step is ours, and one session that resumes.
struct House {
    _folder: TempDir,
    keeper: Keeper,
    worker: Rc<Worker>,
    interest: Arc<Interest>,
    /// Batches that were handed over and that the worker has not taken yet.
    fed: VecDeque<Publication>,
    types: Vec<&'static str>,
}

/// A waker that counts, and that can be waited for.
struct Bell {
    rung: AtomicUsize,
    waiting: Mutex<Thread>,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.rung.fetch_add(1, Ordering::SeqCst);
        self.waiting.lock().unwrap().unpark();
    }
}

impl House {
    fn new(is_on_disk: bool) -> Self {
        Self::with_room_for(is_on_disk, 1 << 20)
    }

    fn with_room_for(is_on_disk: bool, events_max: u64) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let opened = Opened::open(&Settings {
            folder: folder.path().join("log"),
            durability: if is_on_disk { Durability::Written } else { Durability::Memory },
            events_max,
            bytes_max: 1 << 30,
            age_max: Duration::from_secs(3600),
            // Most of what is on the disk has to be read there.
            cache_bytes: if is_on_disk { 16 * 1024 } else { 1 << 30 },
            queues: Bounds::default(),
        });
        let Opened { keeper, archive, tickets, queues, .. } = opened.unwrap();
        let tokens = folder.path().join("tokens");
        std::fs::write(&tokens, format!("{TOKEN}\n")).unwrap();
        let interest = Arc::new(Interest::new(archive.watch_end()));
        let shared = Shared {
            tokens: Reloaded::follow(TokensFile::new(tokens, None)).unwrap(),
            memory: Memory::new(1 << 30),
            census: Census::new(10, None),
            failures: Arc::<Failures>::default(),
            archive,
            tickets,
            queues,
            log: Arc::default(),
            metrics: Arc::<Metrics>::default(),
            limits: Arc::new(Limits {
                init_timeout: None,
                outbox_bytes_max: OUTBOX_BYTES,
                patterns_max: 10,
                message_bytes_max: 1024,
                frames_per_second: 10,
            }),
        };
        let worker = Worker::new(shared, Arc::clone(&interest), Default::default());
        Self { _folder: folder, keeper, worker, interest, fed: VecDeque::new(), types: Vec::new() }
    }

    fn end(&self) -> u64 {
        self.worker.shared.archive.end()
    }

    /// The log keeps some events, and hands them over if the worker wants anything.
    fn commit(&mut self, rng: &mut Rng, count: usize) {
        let first = self.end() + 1;
        let types: Vec<&str> = (0..count).map(|_| TYPES[rng.usize(0..TYPES.len())]).collect();
        let length = if rng.u8(0..10) == 0 { 3000 } else { 100 };
        let data = format!("\"{}\"", "x".repeat(rng.usize(0..length)));
        let events: Vec<_> = types.iter().map(|it| event(it, &data)).collect();
        self.types.extend(types);
        let accepted = Acceptance { wall_us: 0, age_ms: self.keeper.clock().now_ms() };
        self.keeper.append(Page::split(first, &events, accepted), &events).unwrap();
        if self.interest.is_any() {
            let Shared { archive, memory, .. } = &self.worker.shared;
            self.fed.push_back(Publication::new(archive.epoch.clone(), first, events, memory));
        }
    }

    fn type_of(&self, offset: u64) -> &'static str {
        self.types[usize::try_from(offset).unwrap() - 1]
    }
}

/// The session, and what it must have been given so far.
struct Client {
    session: Session,
    outbox: Rc<Outbox>,
    catch_up: Option<CatchUp>,
    bell: Arc<Bell>,
    /// Each pattern, and behind which offset it is wanted.
    wanted: BTreeMap<&'static str, u64>,
    /// All that was ever queued, and how much of it the client has taken.
    taken: String,
    seen: usize,
    /// What is wanted up to here was queued.
    decided: u64,
}

impl Client {
    fn new(house: &House, start: Start) -> Self {
        let shared = &house.worker.shared;
        let outbox = Rc::new(Outbox::new(OUTBOX_BYTES, &shared.memory));
        outbox.set_stuck(true);
        let principal =
            shared.tokens.load().authenticate(&Credentials::read(&format!("Basic {TOKEN}")));
        let session = house.worker.with_hub(|hub| {
            let id: SessionId = hub.enter(Rc::clone(&outbox), &OFFSETS);
            let mut session = Session::new(id, principal.unwrap());
            session.hold_back();
            session.subscribe(vec![pattern("keep.>")], hub);
            session
        });
        let patterns = session.patterns().cloned().collect();
        let catch_up =
            CatchUp::new(&house.worker, &outbox, &OFFSETS, patterns, Narrow::default(), start);
        let waiting = Mutex::new(thread::current());
        let bell = Arc::new(Bell { rung: AtomicUsize::new(0), waiting });
        let wanted = BTreeMap::from([("keep.>", 0)]);
        let (taken, catch_up) = (String::new(), Some(catch_up));
        Self { session, outbox, catch_up, bell, wanted, taken, seen: 0, decided: 0 }
    }

    /// One turn of the session's task; what the disk is asked for is waited for.
    fn poll(&mut self, house: &House) {
        let Some(catch_up) = &mut self.catch_up else { return };
        let waker = Waker::from(Arc::clone(&self.bell));
        let before = self.bell.rung.load(Ordering::SeqCst);
        match catch_up.poll(&mut Context::from_waker(&waker)) {
            Poll::Pending => {
                while matches!(catch_up.work, Work::Open(_) | Work::Read(_))
                    && self.bell.rung.load(Ordering::SeqCst) == before
                {
                    thread::park_timeout(Duration::from_millis(100));
                }
            }
            Poll::Ready(Ok(Turn::Opened(opening))) => self.decided = opening.place,
            Poll::Ready(Ok(Turn::Joined(place))) => {
                self.check(house, place);
                house.worker.with_hub(|hub| self.session.join(place, hub));
                self.catch_up = None;
            }
            Poll::Ready(Err(error)) => panic!("{error}"),
        }
        if let Some(CatchUp { work, place, .. }) = &self.catch_up {
            let queued = match work {
                Work::Queue(Ready { offsets, next, .. }) => {
                    next.checked_sub(1).map(|at| offsets[at])
                }
                _ => None,
            };
            self.check(house, queued.unwrap_or(*place));
        }
    }

    /// The worker takes a batch.
    fn publish(&mut self, house: &mut House) {
        let Some(batch) = house.fed.pop_front() else { return };
        house.worker.with_hub(|hub| hub.publish(&batch));
        if self.catch_up.is_none() && !self.outbox.is_overflown() {
            let (first, ..) = batch.iter().next().unwrap();
            assert!(first <= self.decided + 1, "a gap behind {} before {first}", self.decided);
            self.check(house, batch.last_offset().max(self.decided));
        }
    }

    /// The client reads so much.
    fn drain(&mut self, bytes: usize) {
        let mut text = self.waiting();
        text.truncate(bytes);
        self.outbox.advance(text.len());
        self.seen = self.seen.saturating_sub(text.len());
        self.taken.push_str(&text);
    }

    fn waiting(&self) -> String {
        let bytes = self.outbox.with_slices(|slices| slices.concat_bytes());
        String::from_utf8(bytes).unwrap()
    }

    /// What was queued since the last look is just what is wanted up to a place.
    fn check(&mut self, house: &House, place: u64) {
        let waiting = self.waiting();
        let queued: Vec<u64> =
            waiting[self.seen..].split_whitespace().map(|it| it.parse().unwrap()).collect();
        self.seen = waiting.len();
        let is_live = self.catch_up.is_none();
        let wants = |offset: &u64| {
            let matches = |text: &str| pattern(text).matches(house.type_of(*offset));
            self.wanted.iter().any(|(text, after)| (is_live || offset > after) && matches(text))
        };
        let expected: Vec<u64> = (self.decided + 1..=place).filter(wants).collect();
        assert_eq!(queued, expected, "behind {} up to {place}", self.decided);
        self.decided = self.decided.max(place);
    }

    /// The client adds a pattern or takes one away.
    fn change(&mut self, house: &House, text: &'static str) {
        if self.catch_up.as_ref().is_some_and(CatchUp::is_opening) {
            return;
        }
        house.worker.with_hub(|hub| {
            if self.wanted.remove(text).is_some() {
                self.session.unsubscribe([pattern(text)].iter(), hub);
            } else {
                // A part of what was wanted before was wanted as long.
                let wider = |(it, _): &(&&str, &u64)| pattern(it).covers(&pattern(text));
                let since = self.wanted.iter().filter(wider).map(|(_, since)| *since).min();
                self.wanted.insert(text, since.unwrap_or_else(|| house.end()));
                self.session.subscribe(vec![pattern(text)], hub);
            }
        });
        if let Some(catch_up) = &mut self.catch_up {
            catch_up.set_patterns(self.session.patterns());
        }
    }
}

trait ConcatBytes {
    fn concat_bytes(&self) -> Vec<u8>;
}

impl ConcatBytes for [std::io::IoSlice<'_>] {
    fn concat_bytes(&self) -> Vec<u8> {
        self.iter().flat_map(|it| it.to_vec()).collect()
    }
}

fn pattern(text: &str) -> Pattern {
    Pattern::parse(text.to_owned()).unwrap()
}

/// Batches come and are published, the client reads and does not read, patterns come and go, in
/// any order: each event that is wanted is queued once, in order, over the seam to what is live.
#[test]
fn history_and_live_events_come_once_and_in_order() {
    for seed in 0..40 {
        let mut rng = Rng::with_seed(seed);
        let mut house = House::new(seed % 4 != 0);
        for _ in 0..rng.usize(0..60) {
            let count = rng.usize(1..40);
            house.commit(&mut rng, count);
        }
        let place = rng.u64(0..=house.end());
        let start = Start::After(house.worker.shared.archive.epoch.at(place));
        let mut client = Client::new(&house, start);
        for _ in 0..rng.usize(0..600) {
            match rng.u8(0..16) {
                0..2 => {
                    let count = rng.usize(1..20);
                    house.commit(&mut rng, count);
                }
                // A live client mostly reads what it gets.
                2..5 => {
                    if client.catch_up.is_none() && rng.u8(0..50) > 0 {
                        client.drain(usize::MAX);
                    }
                    client.publish(&mut house);
                }
                5..10 => client.poll(&house),
                10..15 => client.drain(rng.usize(0..OUTBOX_BYTES)),
                _ => client.change(&house, PATTERNS[rng.usize(0..PATTERNS.len())]),
            }
            if client.outbox.is_overflown() {
                break;
            }
        }
        let mut turns = 0;
        while client.catch_up.is_some() || !house.fed.is_empty() {
            client.drain(usize::MAX);
            client.poll(&house);
            client.publish(&mut house);
            turns += 1;
            assert!(turns < 100_000, "it ends");
        }
        if !client.outbox.is_overflown() {
            client.drain(usize::MAX);
            let all: Vec<u64> =
                client.taken.split_whitespace().map(|it| it.parse().unwrap()).collect();
            assert!(all.is_sorted_by(|one, next| one < next), "seed {seed}");
            let kept =
                (place + 1..=house.end()).filter(|it| house.type_of(*it).starts_with("keep."));
            assert!(kept.into_iter().all(|it| all.contains(&it)), "seed {seed}");
        }
    }
}

/// A client that stops reading in the middle of its history costs nothing until it reads on.
#[test]
fn a_client_that_takes_nothing_keeps_nobody_busy() {
    let mut rng = Rng::with_seed(1);
    let mut house = House::new(true);
    for _ in 0..100 {
        house.commit(&mut rng, 30);
    }
    let mut client = Client::new(&house, Start::First);
    let can_go_on = |client: &Client| client.catch_up.as_ref().is_some_and(CatchUp::can_go_on);
    for _ in 0..100 {
        client.poll(&house);
    }
    let rung = client.bell.rung.load(Ordering::SeqCst);
    for _ in 0..10 {
        client.poll(&house);
        assert!(!can_go_on(&client), "there is nothing to do for it");
    }
    assert_eq!(client.bell.rung.load(Ordering::SeqCst), rung, "it did not wake itself");
    client.drain(usize::MAX);
    assert!(can_go_on(&client), "there is, once there is room");
}

/// Retention passes a client that reads slower than events come: it is told, and not given a gap.
#[test]
fn a_client_that_retention_passes_is_told() {
    for is_on_disk in [true, false] {
        let mut rng = Rng::with_seed(2);
        let mut house = House::with_room_for(is_on_disk, 1000);
        for _ in 0..50 {
            house.commit(&mut rng, 20);
        }
        let mut client = Client::new(&house, Start::First);
        while client.waiting().is_empty() {
            client.poll(&house);
        }
        // What it has in hand may go on up to the end of now.
        let end = house.end();
        while house.worker.shared.archive.earliest() <= end {
            house.commit(&mut rng, 20);
        }
        client.drain(usize::MAX);
        let mut catch_up = client.catch_up.take().unwrap();
        let waker = Waker::from(Arc::clone(&client.bell));
        let ended = loop {
            client.drain(usize::MAX);
            match catch_up.poll(&mut Context::from_waker(&waker)) {
                Poll::Ready(ended) => break ended,
                Poll::Pending => thread::park_timeout(Duration::from_millis(10)),
            }
        };
        assert_eq!(ended, Err(ReadError::Freed), "{is_on_disk}");
        drop(catch_up);
        assert!(!house.interest.is_any(), "it is missed by nobody");
    }
}
