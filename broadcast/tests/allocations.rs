//! What deliveries and idle sessions cost in allocations: counts that do not depend on the machine.
//!
//! A program of its own, for the allocator that counts is the whole program's. The worker, its
//! hub, the outboxes and the clients' tasks are the real ones, on real sockets; only the HTTP
//! server before the upgrade and the log are left out. All of it is on the test's own thread, and
//! only that is counted.

#![allow(clippy::unwrap_used, reason = "tests may panic: that is how they fail")]

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use allocation_counter::{AllocationInfo, measure};
use broadcast::census::Census;
use broadcast::hub::SessionId;
use broadcast::interest::Interest;
use broadcast::log::keeper::{Durability, Opened, Settings};
use broadcast::log::{Feed, QUEUE_BATCHES_MAX};
use broadcast::metrics::Metrics;
use broadcast::outbox::Outbox;
use broadcast::outputs::native;
use broadcast::outputs::native::rules::{self, Native};
use broadcast::publication::Publication;
use broadcast::queues::queue::Bounds;
use broadcast::session::Session;
use broadcast::websocket::Beginning;
use broadcast::websocket::client::Client;
use broadcast::worker::{Limits, Shared, Worker};
use bytes::Bytes;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;
use shared::event::{Data, Event, EventType, Json, Time};
use shared::memory::Memory;
use shared::occupancy::{Admission, Leashes, Occupancy};
use shared::principal::Principal;
use shared::reload::Reloaded;
use shared::socket::Socket;
use shared::tokens::TokensFile;
use tempfile::TempDir;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::mpsc;
use tokio::task::{LocalSet, spawn_local, yield_now};

/// More than any test has.
const SESSIONS_MAX: usize = 1000;
/// Events of a batch.
const EVENTS: u64 = 10;
/// What a batch may allocate: two for each event that is encoded, and the growth of its bytes.
const A_BATCH_MAX: u64 = 2 * EVENTS + 15;
/// One of them as a session gets it: a header of two bytes, and the text.
const FRAME_BYTES: usize = 2 + r#"{"type":"event","event":"a","data":1}"#.len();

/// A worker and its clients.
struct House {
    runtime: Runtime,
    tasks: LocalSet,
    worker: Rc<Worker>,
    feed: mpsc::Sender<Feed>,
    /// The clients' ends of their connections.
    clients: Vec<TcpStream>,
    principal: Arc<Principal>,
    occupancy: Arc<Occupancy>,
    next_offset: u64,
    _folder: TempDir,
}

impl House {
    fn new() -> Self {
        shared::descriptors::raise();
        let folder = tempfile::tempdir().unwrap();
        let shared = shared(&folder);
        let principal = Arc::clone(shared.tokens.load().principals().next().unwrap());
        let interest = Arc::new(Interest::new(shared.archive.watch_end()));
        let worker = Worker::new(shared, interest, Counter::default());
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let tasks = LocalSet::new();
        let (feed, fed) = mpsc::channel(QUEUE_BATCHES_MAX);
        tasks.spawn_local(Rc::clone(&worker).run(fed));
        let occupancy = Occupancy::new(SESSIONS_MAX);
        Self {
            runtime,
            tasks,
            worker,
            feed,
            clients: Vec::new(),
            principal,
            occupancy,
            next_offset: 1,
            _folder: folder,
        }
    }

    /// Lets so many clients in, each subscribed.
    fn join(&mut self, count: usize) {
        let mut clients = Vec::with_capacity(count);
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        self.tasks.block_on(&self.runtime, async {
            for _ in 0..count {
                let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
                let (taken, address) = listener.accept().unwrap();
                taken.set_nonblocking(true).unwrap();
                let place = self.worker.shared.census.enter(address.ip()).unwrap();
                let principal = Some(Arc::clone(&self.principal));
                let begin = native::begin(principal);
                let beginning = Beginning { place, hold: None, begin };
                let socket = Socket::Plain(tokio::net::TcpStream::from_std(taken).unwrap());
                let admission = self.admission();
                let worker = Rc::clone(&self.worker);
                spawn_local(Client::new(worker, (socket, admission), &Bytes::new(), beginning));
                client.set_nonblocking(true).unwrap();
                // A mask of zeros is a mask.
                let init = *b"\x81\x90\0\0\0\0{\"events\":[\"a\"]}";
                (&client).write_all(&init).unwrap();
                read(&client, 2 + r#"{"type":"init","code":"OK"}"#.len()).await;
                clients.push(client);
            }
        });
        self.clients.append(&mut clients);
    }

    /// A place at the door.
    fn admission(&self) -> Admission {
        let is_refused = self.occupancy.enter().unwrap();
        Admission::new(Arc::clone(&self.occupancy), &Leashes::default(), is_refused).0
    }

    /// Batches as the log makes them.
    fn batches(&mut self, count: usize) -> Vec<Arc<Publication>> {
        let epoch = self.worker.shared.archive.epoch.clone();
        let batch = |_| {
            let events = (0..EVENTS).map(|_| event()).collect();
            let first = self.next_offset;
            self.next_offset += EVENTS;
            let memory = &self.worker.shared.memory;
            Arc::new(Publication::new(epoch.clone(), first, events, memory))
        };
        (0..count).map(batch).collect()
    }

    /// Publishes batches, so many at once, and waits each time until all clients have them.
    fn deliver(&self, batches: Vec<Arc<Publication>>, at_once: usize) {
        let events = usize::try_from(EVENTS).unwrap();
        self.tasks.block_on(&self.runtime, async {
            let mut batches = batches.into_iter();
            while batches.len() > 0 {
                let mut bytes = 0;
                for batch in batches.by_ref().take(at_once) {
                    self.feed.try_send(Feed::Batch(batch)).unwrap();
                    bytes += events * FRAME_BYTES;
                }
                for client in &self.clients {
                    read(client, bytes).await;
                }
            }
        });
    }

    /// What deliveries cost once everything has the room that it needs. The house is gone before
    /// that is judged: a panic beside a worker ends the process, and nobody would read why.
    fn measure_deliveries(mut self, batches: usize, at_once: usize) -> AllocationInfo {
        let warm_up = self.batches(at_once * 4);
        self.deliver(warm_up, at_once);
        let batches = self.batches(batches);
        measure(|| self.deliver(batches, at_once))
    }
}

fn shared(folder: &TempDir) -> Shared {
    let path = folder.path().join("tokens");
    std::fs::write(&path, "0123456789abcdef name=all\n").unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    let kept = Settings {
        folder: folder.path().to_owned(),
        durability: Durability::Memory,
        events_max: 1,
        bytes_max: 1 << 20,
        age_max: Duration::from_secs(3600),
        cache_bytes: 1 << 20,
        queues: Bounds::default(),
    };
    let opened = Opened::open(&kept).unwrap();
    let limits = Limits {
        init_timeout: None,
        outbox_bytes_max: 1 << 20,
        patterns_max: 1000,
        message_bytes_max: 64 * 1024,
        frames_per_second: 100,
    };
    Shared {
        tokens: Reloaded::follow(TokensFile::new(path, None)).unwrap(),
        memory: Memory::new(1 << 30),
        census: Census::new(SESSIONS_MAX, None),
        failures: Arc::default(),
        archive: opened.archive,
        tickets: opened.tickets,
        queues: opened.queues,
        log: Arc::default(),
        metrics: Metrics::register(&mut Registry::default()),
        limits: Arc::new(limits),
    }
}

fn event() -> Event {
    Event {
        event_type: EventType::parse("a").unwrap(),
        data: Some(Data::Json(Json::from_checked(Bytes::from_static(b"1")))),
        id: "1".into(),
        source: "/test".into(),
        subject: None,
        time: Time::parse("2026-11-21T12:00:00Z").unwrap(),
        publisher: "test".into(),
        attributes: None,
    }
}

/// Takes so many bytes off a socket, while the worker has its turns.
async fn read(mut client: &TcpStream, mut bytes: usize) {
    let mut buf = [0; 4096];
    while bytes > 0 {
        let room = buf.len().min(bytes);
        match client.read(buf.get_mut(..room).unwrap_or_default()) {
            Ok(0) => unreachable!("the session has ended"),
            Ok(read) => bytes -= read,
            Err(error) if error.kind() == ErrorKind::WouldBlock => yield_now().await,
            Err(error) => unreachable!("{error}"),
        }
    }
}

/// A batch costs the allocations that its bytes need, however many sessions it goes to.
#[test]
fn a_delivery_allocates_nothing() {
    const BATCHES: usize = 50;
    let costs = [50, 400].map(|sessions| {
        let mut house = House::new();
        house.join(sessions);
        let cost = house.measure_deliveries(BATCHES, 1).count_total;
        eprintln!("{cost} allocations for {BATCHES} batches of {EVENTS} events to {sessions}");
        cost
    });
    // Eight times the sessions, and not one allocation more a batch.
    let [few, many] = costs;
    assert!(many < few + BATCHES as u64, "{costs:?}");
    assert!(many <= A_BATCH_MAX * BATCHES as u64, "{costs:?}");
}

/// What waits at once for a session, out of many batches, needs a longer queue for the moment: it
/// grows from 4 places to 8, 16 and so on, and is given back when it is empty.
#[test]
fn a_burst_of_many_batches_costs_a_session_the_growth_of_its_queue() {
    const AT_ONCE: usize = 16;
    const BURSTS: usize = 10;
    const SESSIONS: usize = 200;
    const A_SESSION_MAX: u64 = 3;
    let mut house = House::new();
    house.join(SESSIONS);
    let cost = house.measure_deliveries(AT_ONCE * BURSTS, AT_ONCE).count_total;
    eprintln!("{cost} allocations for {BURSTS} bursts of {AT_ONCE} batches to {SESSIONS}");
    let batches = A_BATCH_MAX * (AT_ONCE * BURSTS) as u64;
    assert!(cost <= batches + A_SESSION_MAX * (BURSTS * SESSIONS) as u64, "{cost}");
}

/// What an idle session with one subscription takes from the heap, with its task and its socket's
/// place in the event loop.
#[test]
fn an_idle_session_takes_less_than_2_kib() {
    const SESSIONS: usize = 400;
    let mut house = House::new();
    house.join(1);
    let cost = measure(|| house.join(SESSIONS));
    let bytes = usize::try_from(cost.bytes_current).unwrap() / SESSIONS;
    let kept = cost.count_current as f64 / SESSIONS as f64;
    eprintln!("{bytes} bytes in {kept} allocations a session; {cost:?}");
    for (what, bytes) in [
        ("its task's state, with the reader", size_of::<Client>()),
        ("its conversation, with the session", size_of::<Native>()),
        ("the session", size_of::<Session>()),
        ("its outbox", size_of::<Outbox>()),
        ("its socket", size_of::<Socket>()),
        ("its number among those who are subscribed", size_of::<SessionId>()),
    ] {
        eprintln!("  {what}: {bytes} bytes");
    }
    let memory = Memory::new(1 << 30);
    let entered = measure(|| {
        house.worker.with_hub(|hub| {
            for _ in 0..SESSIONS {
                hub.enter(Rc::new(Outbox::new(1, &memory)), &rules::PLAIN);
            }
        });
    });
    let place = usize::try_from(entered.bytes_current).unwrap() / SESSIONS;
    eprintln!("  an outbox with its place in the hub: {place} bytes");
    // As above: it is judged when the worker is gone.
    drop(house);
    assert!(bytes < 2 * 1024, "{bytes} bytes a session");
}
