//! Processes that are killed, stopped, and cut off from each other, before eight publishers and
//! subscribers who resume (HARDENING, "Faults we are measured by"): the judge of `history` looks at
//! what became of every event.

use std::sync::atomic::Ordering;
use std::time::Duration;

use rustix::process::Signal;

use crate::client::{Subscriber, fire, let_pass};
use crate::gateway::{Gateway, House};
use crate::history::History;
use crate::link_proxy::open_with_proxy;
use crate::measures::{descriptors, until};
use crate::ports::Port;
use crate::publishers::{Manner, Publishers};
use crate::resuming::{Begin, FENCE, Resuming};

/// Doors that stay where they are when the processes behind them change.
pub struct Doors {
    pub listen: Port,
    pub broadcast: Port,
}

impl Doors {
    pub fn choose() -> Self {
        Self { listen: Port::choose(), broadcast: Port::choose() }
    }

    pub fn house(&self) -> House {
        let house = House::new().set("LISTEN_ADDR", self.listen.address);
        house.set("BROADCAST_ADDR", self.broadcast.address)
    }
}

/// Eight publishers, and four subscribers who have been there from the beginning.
pub struct Load {
    publishers: Publishers,
    subscribers: Vec<Resuming>,
    ws_url: String,
}

impl Load {
    pub async fn begin(gateway: &Gateway) -> Self {
        let ws_url = gateway.broadcast.ws_url();
        let begin = Begin::Now { is_whole: true };
        let subscribers: Vec<_> = (0..4).map(|_| Resuming::begin(&ws_url, &begin)).collect();
        for subscriber in &subscribers {
            subscriber.wait_for_inits(1).await;
        }
        let publishers = Publishers::begin(&gateway.event_url(), &Manner::modest());
        publishers.wait_for_more(20).await;
        Self { publishers, subscribers, ws_url }
    }

    /// Waits until so many more events have their 200.
    pub async fn goes_on(&self) {
        self.publishers.wait_for_more(16).await;
    }

    /// Another one, who begins at the first event or now.
    pub fn join(&mut self, begin: &Begin) {
        self.subscribers.push(Resuming::begin(&self.ws_url, begin));
    }

    /// How often each subscriber has come.
    pub fn inits(&self) -> Vec<u64> {
        self.subscribers.iter().map(Resuming::inits).collect()
    }

    /// Ends it, and judges what happened; a line about it.
    pub async fn judged(mut self, gateway: &Gateway) -> String {
        self.join(&Begin::First);
        for subscriber in &self.subscribers {
            subscriber.wait_for_inits(1).await;
        }
        let fired = self.publishers.stop().await;
        // Nobody publishes any more: what is there now is all.
        fire(gateway, FENCE, "null").await;
        let mut hearings = Vec::new();
        for subscriber in self.subscribers {
            hearings.push(subscriber.hear_the_fence().await);
        }
        History { fired, hearings }.expect_faultless()
    }
}

/// Both processes at doors that stay, and the load.
async fn open(doors: &Doors) -> (Gateway, Load) {
    let gateway = doors.house().open();
    let load = Load::begin(&gateway).await;
    (gateway, load)
}

/// Ends `listen` by a signal and starts it anew.
pub async fn restart_listen(gateway: Gateway, signal: Signal) -> Gateway {
    let Gateway { listen, broadcast, house } = gateway;
    let listen = listen.restart(signal, &house.settings).await;
    Gateway { listen, broadcast, house }
}

#[tokio::test]
async fn broadcast_killed_three_times_under_load_loses_nothing_and_repeats_nothing() {
    let doors = Doors::choose();
    let (mut gateway, load) = open(&doors).await;
    for _ in 0..3 {
        load.goes_on().await;
        gateway = gateway.restart_broadcast(Signal::KILL).await;
        load.goes_on().await;
    }
    load.judged(&gateway).await;
}

#[tokio::test]
async fn listen_killed_under_load_loses_nothing_and_subscribers_notice_nothing() {
    let doors = Doors::choose();
    let (mut gateway, load) = open(&doors).await;
    for _ in 0..3 {
        load.goes_on().await;
        gateway = restart_listen(gateway, Signal::KILL).await;
    }
    load.goes_on().await;
    assert!(load.inits().iter().all(|inits| *inits == 1), "{:?}", load.inits());
    load.judged(&gateway).await;
}

#[tokio::test]
async fn both_killed_at_once_under_load_lose_nothing() {
    let doors = Doors::choose();
    let (mut gateway, load) = open(&doors).await;
    for _ in 0..2 {
        load.goes_on().await;
        let Gateway { listen, broadcast, house } = gateway;
        listen.signal(Signal::KILL);
        let broadcast = broadcast.restart(Signal::KILL, &house.settings).await;
        let listen = listen.restart(Signal::KILL, &house.settings).await;
        gateway = Gateway { listen, broadcast, house };
        load.goes_on().await;
    }
    load.judged(&gateway).await;
}

#[tokio::test]
async fn sigterm_of_either_under_load_loses_nothing() {
    let doors = Doors::choose();
    let (mut gateway, load) = open(&doors).await;
    for _ in 0..2 {
        load.goes_on().await;
        gateway = gateway.restart_broadcast(Signal::TERM).await;
        load.goes_on().await;
        gateway = restart_listen(gateway, Signal::TERM).await;
    }
    load.goes_on().await;
    load.judged(&gateway).await;
}

#[tokio::test]
async fn broadcast_stopped_for_5_seconds_under_load_loses_nothing() {
    let doors = Doors::choose();
    let (gateway, load) = open(&doors).await;
    gateway.broadcast.signal(Signal::STOP);
    let_pass(Duration::from_secs(5)).await;
    gateway.broadcast.signal(Signal::CONT);
    load.goes_on().await;
    // Nobody took it for dead.
    assert!(load.inits().iter().all(|inits| *inits == 1), "{:?}", load.inits());
    load.judged(&gateway).await;
}

#[tokio::test]
async fn a_link_that_is_cut_and_frozen_under_load_loses_nothing() {
    let house = House::new().set("PUBLISH_TIMEOUT", "1s");
    let (gateway, proxy) = open_with_proxy(house);
    let load = Load::begin(&gateway).await;
    for _ in 0..3 {
        proxy.cut();
        load.goes_on().await;
    }
    let manners = proxy.manners();
    for bytes in [1, 50, 500, 5000] {
        manners.events_left.store(bytes, Ordering::SeqCst);
        load.goes_on().await;
    }
    for held in [&manners.holds_events, &manners.holds_receipts] {
        held.store(true, Ordering::SeqCst);
        let_pass(Duration::from_millis(1500)).await;
        held.store(false, Ordering::SeqCst);
        load.goes_on().await;
        // What is sent again overtakes what was held.
        held.store(true, Ordering::SeqCst);
        let_pass(Duration::from_millis(1500)).await;
        proxy.cut();
        held.store(false, Ordering::SeqCst);
        load.goes_on().await;
    }
    load.judged(&gateway).await;
}

/// Who joins while broadcast dies and comes back has all of it, too.
#[tokio::test]
async fn sessions_that_join_between_crashes_have_no_gap_and_no_repeat() {
    let doors = Doors::choose();
    let (mut gateway, mut load) = open(&doors).await;
    for _ in 0..2 {
        for begin in [Begin::First, Begin::Now { is_whole: false }, Begin::First] {
            load.goes_on().await;
            load.join(&begin);
        }
        gateway = gateway.restart_broadcast(Signal::KILL).await;
    }
    load.goes_on().await;
    load.judged(&gateway).await;
}

/// Connects, subscribes, and goes: the politer half says so.
async fn short_session(gateway: &Gateway, number: usize) {
    let mut session = Subscriber::subscribe(&gateway.broadcast, &["a"]).await;
    if number.is_multiple_of(2) {
        // The other side may be the quicker one to end it.
        let _ = session.socket.close(None).await;
    }
}

#[tokio::test]
async fn ten_thousand_short_sessions_leave_nothing_behind() {
    let gateway = Gateway::open();
    futures_util::future::join_all((0..50).map(|it| short_session(&gateway, it))).await;
    let all_gone = async || {
        gateway.broadcast.wait_for_metric("fanfare_sessions", 0.0).await;
        gateway.broadcast.wait_for_metric("fanfare_connections", 0.0).await;
        gateway.broadcast.wait_for_metric("fanfare_outbox_bytes", 0.0).await;
        gateway.broadcast.wait_for_metric("fanfare_memory_held_bytes", 0.0).await;
    };
    all_gone().await;
    let before = descriptors(&gateway.broadcast);
    for round in 0..100 {
        let sessions = (0..100).map(|it| short_session(&gateway, round * 100 + it));
        futures_util::future::join_all(sessions).await;
    }
    all_gone().await;
    until("all descriptors", async || {
        // The scrape's own connection may be there, or not.
        (descriptors(&gateway.broadcast) <= before + 1).then_some(())
    })
    .await;
    assert_eq!(gateway.broadcast.metric("fanfare_session_panics_total").await, 0.0);
}
