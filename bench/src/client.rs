//! The client: one thread, one event loop, all subscribers and all publishers of a measurement.

use std::io;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use mio::{Events, Poll, Token};

use crate::figures::Figures;
use crate::interrupt;
use crate::publisher::{Place, Publishers, Shape};
use crate::socket::Socket;
use crate::subscriber::{Scripts, Stage, Subscriber};
use crate::tally::Tally;
use crate::target::Target;
use crate::timer::Timer;

/// The client of one measurement.
#[derive(Debug)]
pub(crate) struct Client<'a> {
    target: &'a Target,
    poll: Poll,
    events: Events,
    buffer: Vec<u8>,
    timer: Timer,
    /// All subscribers; who is gone stays in the list.
    pub(crate) subscribers: Vec<Subscriber>,
    /// What the subscribers of each type say.
    scripts: Vec<Scripts>,
    /// When subscribers became live, since somebody looked last.
    pub(crate) came: Vec<Instant>,
    /// Subscribers that were lost since.
    pub(crate) lost: Vec<usize>,
    live: usize,
    publishers: Publishers,
}

impl<'a> Client<'a> {
    /// A client without a connection.
    pub(crate) fn new(target: &'a Target) -> anyhow::Result<Self> {
        let poll = Poll::new()?;
        let timer = Timer::new(poll.registry(), TIMER)?;
        let none = Shape { connections: 0, pipeline: 0, size: 0, kinds: 0 };
        let publishers = Publishers::connect(target, none, poll.registry(), FIRST_PUBLISHER)?;
        Ok(Self {
            target,
            poll,
            events: Events::with_capacity(1024),
            buffer: vec![0; READ_BYTES],
            timer,
            subscribers: Vec::new(),
            scripts: Vec::new(),
            came: Vec::new(),
            lost: Vec::new(),
            live: 0,
            publishers,
        })
    }

    /// Connects publishers, and waits until all are connected.
    pub(crate) fn connect_publishers(&mut self, shape: Shape) -> anyhow::Result<()> {
        let registry = self.poll.registry();
        self.publishers = Publishers::connect(self.target, shape, registry, FIRST_PUBLISHER)
            .with_context(|| self.at(&self.target.publish.authority))?;
        let deadline = Instant::now() + CONNECT_PATIENCE;
        while !self.publishers.are_connected() {
            anyhow::ensure!(Instant::now() < deadline, "publishers do not get their connections");
            self.turn(TICK, &mut |_, _| {})?;
        }
        Ok(())
    }

    /// Subscribes so many clients, `at_once` at a time, spread over the types, and waits until all
    /// are live. Those are shown what they get that `is_shown` names.
    pub(crate) fn subscribe(
        &mut self,
        count: usize,
        kinds: usize,
        at_once: usize,
        is_shown: impl Fn(usize) -> bool,
    ) -> anyhow::Result<()> {
        let deadline = Instant::now() + CONNECT_PATIENCE;
        self.write_scripts(kinds);
        while self.live < count {
            while self.subscribers.len() < count && self.subscribers.len() - self.live < at_once {
                let index = self.subscribers.len();
                let subscriber = self.dial(index, index % kinds.max(1), is_shown(index))?;
                self.subscribers.push(subscriber);
            }
            anyhow::ensure!(
                Instant::now() < deadline,
                "{}: only {} of {count} clients are subscribed after {} s",
                self.target.name,
                self.live,
                CONNECT_PATIENCE.as_secs()
            );
            self.turn(TICK, &mut |_, _| {})?;
            self.nobody_is_lost()?;
        }
        Ok(())
    }

    /// Connects a subscriber that was lost once more.
    pub(crate) fn redial(&mut self, index: usize) -> anyhow::Result<()> {
        let again = match self.subscribers.get(index) {
            Some(it) => self.dial(index, it.kind, it.is_shown())?,
            None => return Ok(()),
        };
        if let Some(slot) = self.subscribers.get_mut(index) {
            *slot = again;
        }
        Ok(())
    }

    /// Cuts off all subscribers at once.
    pub(crate) fn drop_all(&mut self) {
        self.subscribers.iter_mut().for_each(Subscriber::drop_connection);
        self.came.clear();
        self.lost.clear();
        self.live = 0;
    }

    fn dial(&self, index: usize, kind: usize, is_shown: bool) -> anyhow::Result<Subscriber> {
        let door = &self.target.subscribe;
        let socket = Socket::connect(door, self.poll.registry(), Token(index))
            .with_context(|| self.at(&door.authority))?;
        Ok(Subscriber::new(socket, self.target.dialect, kind, is_shown))
    }

    fn write_scripts(&mut self, kinds: usize) {
        let Target { dialect, subscribe, authorization, .. } = self.target;
        let script = |kind| Scripts {
            opening: dialect.upgrade(subscribe, kind),
            subscription: dialect.subscription(authorization.as_deref(), kind),
        };
        self.scripts = (0..kinds.max(1)).map(script).collect();
    }

    fn nobody_is_lost(&self) -> anyhow::Result<()> {
        let Some(lost) = self.lost.first().and_then(|index| self.subscribers.get(*index)) else {
            return Ok(());
        };
        anyhow::bail!("{}: {}", self.at(&self.target.subscribe.authority), lost.fault())
    }

    fn at(&self, authority: &str) -> String {
        format!("{} at {authority}", self.target.name)
    }

    /// Waits for something to happen, this long at most, and does what can be done then. `each` is
    /// shown deliveries, with the number of their subscriber.
    pub(crate) fn turn(
        &mut self,
        patience: Duration,
        each: &mut impl FnMut(usize, &[u8]),
    ) -> anyhow::Result<()> {
        interrupt::check()?;
        match self.poll.poll(&mut self.events, Some(patience)) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(()),
            done => done?,
        }
        for event in &self.events {
            let Token(token) = event.token();
            let is_closing = event.is_read_closed() || event.is_error();
            if let Some(subscriber) = self.subscribers.get_mut(token) {
                let before = subscriber.stage();
                let Some(scripts) = self.scripts.get(subscriber.kind) else { continue };
                let mut each = |payload: &[u8]| each(token, payload);
                subscriber.ready(is_closing, &mut self.buffer, scripts, &mut each);
                match subscriber.stage() {
                    after if after == before => {}
                    Stage::Live => {
                        self.live += 1;
                        self.came.push(Instant::now());
                    }
                    Stage::Gone => {
                        self.live -= usize::from(before == Stage::Live);
                        self.lost.push(token);
                    }
                    _ => {}
                }
            } else if event.token() == TIMER {
                self.timer.clear()?;
            } else if let Some(index) = token.checked_sub(FIRST_PUBLISHER) {
                let at = Place { target: self.target, registry: self.poll.registry(), index };
                let done = self.publishers.ready(at, is_closing, &mut self.buffer);
                done.with_context(|| self.at(&self.target.publish.authority))?;
            }
        }
        Ok(())
    }

    /// Ends the next [`Client::turn`] at this time, to the microsecond.
    pub(crate) fn wake_at(&mut self, when: Instant) -> io::Result<()> {
        self.timer.set(when)
    }

    /// Reads what comes for so long. Who is lost meanwhile is accounted for as such.
    pub(crate) fn rest(&mut self, time: Duration) -> anyhow::Result<()> {
        let until = Instant::now() + time;
        while let Some(left) = until.checked_duration_since(Instant::now()) {
            self.turn(left.min(TICK), &mut |_, _| {})?;
        }
        Ok(())
    }

    /// The publishers.
    #[inline]
    pub(crate) fn publishers(&mut self) -> &mut Publishers {
        &mut self.publishers
    }

    /// How many subscribers are live.
    pub(crate) fn live(&self) -> usize {
        self.live
    }

    /// Whether every live subscriber has all that was acknowledged, and nothing is unanswered.
    pub(crate) fn is_settled(&self) -> bool {
        let tally = self.publishers.tally();
        self.publishers.in_flight() == 0
            && self.subscribers.iter().all(|it| {
                it.stage() == Stage::Gone || it.deliveries() >= tally.kind(it.kind).accepted
            })
    }

    /// Deliveries to all subscribers together.
    pub(crate) fn deliveries(&self) -> u64 {
        self.subscribers.iter().map(Subscriber::deliveries).sum()
    }

    /// Everything that has come so far: deliveries, and answers.
    pub(crate) fn progress(&self) -> u64 {
        let tally = self.publishers.tally();
        self.deliveries() + tally.accepted + tally.refused + tally.unanswered
    }

    /// What became of what was published.
    pub(crate) fn tally(&self) -> &Tally {
        self.publishers.tally()
    }

    /// Holds what every subscriber got against what was acknowledged. What may have been taken
    /// without our knowing may be delivered, too: that is no repetition.
    pub(crate) fn account(&self, figures: &mut Figures) {
        let tally = self.publishers.tally();
        let (mut lost, mut repeated) = (0, 0);
        for subscriber in &self.subscribers {
            let kind = tally.kind(subscriber.kind);
            let most = kind.accepted + kind.perhaps + self.publishers.in_flight_of(subscriber.kind);
            lost += kind.accepted.saturating_sub(subscriber.deliveries());
            repeated += subscriber.deliveries().saturating_sub(most);
        }
        figures.set("lost", lost as f64);
        figures.set("repeated", repeated as f64);
        self.account_publishers(figures);
        figures.set("disconnected", self.gone() as f64);
    }

    /// Subscribers that were cut off.
    pub(crate) fn gone(&self) -> usize {
        self.subscribers.iter().filter(|it| it.stage() == Stage::Gone).count()
    }

    /// Accounts for the publishers alone.
    pub(crate) fn account_publishers(&self, figures: &mut Figures) {
        figures.set("refused", self.publishers.tally().refused as f64);
        let unanswered = self.publishers.tally().unanswered + self.publishers.in_flight() as u64;
        figures.set("unanswered", unanswered as f64);
    }

    /// What went wrong, in the server's words, if something did.
    pub(crate) fn complaint(&self) -> Option<String> {
        let gone = self.subscribers.iter().find(|it| it.stage() == Stage::Gone);
        let refusal = self.publishers.tally().last_refusal.clone();
        refusal.or_else(|| gone.map(|it| it.fault().to_owned()))
    }

    /// Ends all connections.
    pub(crate) fn close(mut self) {
        self.drop_all();
        self.publishers.close();
    }
}

/// The longest wait of an event loop that has to look at a clock.
pub(crate) const TICK: Duration = Duration::from_millis(10);
/// So many connect at a time where nobody measures that: well below what a kernel queues.
pub(crate) const AT_ONCE: usize = 128;

const CONNECT_PATIENCE: Duration = Duration::from_secs(60);
const READ_BYTES: usize = 256 * 1024;
const FIRST_PUBLISHER: usize = 1 << 32;
const TIMER: Token = Token(1 << 40);

#[cfg(test)]
mod tests;
