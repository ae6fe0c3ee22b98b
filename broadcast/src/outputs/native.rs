//! The native protocol on a WebSocket, and beside it that of an Eventual Agent: carries out what the
//! rules say.

use std::collections::VecDeque;
use std::future::Future as _;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use jiff::{SignedDuration, Timestamp};
use shared::principal::Principal;
use shared::publisher::{Publication, PublishError};
use shared::tokens::Tokens;

use crate::archive::{Opening, Recovery, Start};
use crate::catch_up::{CatchUp, Turn};
use crate::cloudevents;
use crate::disconnect::Disconnect;
use crate::filter::Narrow;
use crate::outputs::native::message::Message;
use crate::outputs::native::rules::{Court, Native, Outcome};
use crate::websocket::dialect::{Begin, Dialect, Reaction, Seat};
use crate::websocket::formats::{CLOUDEVENTS, CLOUDEVENTS_WITH_CURSOR};

pub mod agent;
pub mod message;
pub mod rules;

/// Events of one client that wait to be kept; what it says next waits in its socket.
const UNDERWAY_MAX: usize = 64;
/// Messages that wait until the client has caught up.
const DEFERRED_MAX: usize = 16;
/// So long before a credential ends, who asked for places is told.
const NOTICE: SignedDuration = SignedDuration::from_secs(30);

/// One client's conversation, and what goes on for it.
#[derive(Debug)]
struct Conversation {
    seat: Seat,
    native: Native,
    /// The log, as long as the session still reads it.
    catch_up: Option<Box<CatchUp>>,
    /// It reads for an Eventual Agent.
    is_agents: bool,
    /// What was said in the other of the two ways while it reads.
    deferred: VecDeque<String>,
    /// There is an event to be published among it.
    holds_event: bool,
    underway: VecDeque<Publication>,
    /// The end that the client was told of.
    told: Option<Timestamp>,
}

/// Makes a conversation; with a credential, if the upgrade showed one.
pub fn begin(principal: Option<Arc<Principal>>) -> Begin {
    Box::new(|seat| {
        let native = Native::new(seat.id, principal);
        seat.worker.with_hub(|hub| hub.set_format(seat.id, native.format));
        Box::new(Conversation {
            seat,
            native,
            catch_up: None,
            is_agents: false,
            deferred: VecDeque::new(),
            holds_event: false,
            underway: VecDeque::new(),
            told: None,
        })
    })
}

impl Conversation {
    /// What is read in one format cannot be mixed with another. Another credential has nothing to do
    /// with that; nor has an event that is to be published, unless something before it waits.
    fn has_to_wait(&self, message: &Message<'_>) -> bool {
        let is_agents = message.has_channels();
        let is_free = match is_agents {
            true => message.is("publish") && self.deferred.is_empty(),
            false => message.is("auth"),
        };
        !is_free && (self.is_agents || !self.deferred.is_empty() || is_agents)
    }

    fn hear(&mut self, text: &str) -> Reaction {
        let worker = &self.seat.worker;
        let tokens = worker.shared.tokens.load_full();
        let patterns_max = worker.shared.limits.patterns_max;
        let outcome = worker.with_hub(|hub| {
            let epoch = &worker.shared.archive.epoch;
            self.native.receive(text, Court { tokens: &tokens, patterns_max, hub, epoch })
        });
        if let Some(catch_up) = self.catch_up.as_mut().filter(|_| !self.is_agents)
            && let Some(session) = self.native.session()
        {
            catch_up.set_patterns(session.patterns());
        }
        self.carry_out(outcome)
    }

    fn carry_out(&mut self, outcome: Outcome) -> Reaction {
        let Outcome { answer, mut disconnect, is_refused, start, event, code } = outcome;
        // A client that is let go anyway needs nothing of the log.
        if let Some(start) = start.filter(|_| disconnect.is_none()) {
            self.read_log(start);
            return Reaction::default();
        }
        if let Some(event) = event {
            match self.seat.worker.publisher.publish(event, false) {
                Ok(publication) => self.underway.push_back(publication),
                Err(_) => disconnect = Some(Disconnect::TryAgainLater),
            }
        }
        Reaction {
            answers: answer.into_iter().collect(),
            disconnect,
            is_unauthenticated: is_refused,
            refusal: (code != "OK").then_some(code),
        }
    }

    /// Begins to read the log; until it is known where, nothing that the client says is read.
    fn read_log(&mut self, start: Start) {
        let Some(session) = self.native.session() else { return };
        self.is_agents = session.channels().next().is_some();
        let (patterns, format): (Vec<_>, _) = match (self.is_agents, self.native.wants_cursor) {
            (false, _) => (session.patterns().cloned().collect(), self.native.format),
            (true, false) => (session.channels().cloned().collect(), &CLOUDEVENTS),
            (true, true) => (session.channels().cloned().collect(), &CLOUDEVENTS_WITH_CURSOR),
        };
        let narrow = Narrow { is_by_channel: self.is_agents, ..Narrow::default() };
        let Seat { worker, outbox, .. } = &self.seat;
        let catch_up = CatchUp::new(worker, outbox, format, patterns, narrow, start);
        self.catch_up = Some(Box::new(catch_up));
    }

    /// Reads on in the log, as far as the client has room.
    fn catch_up(&mut self, cx: &mut Context<'_>) -> Poll<Reaction> {
        let Some(catch_up) = &mut self.catch_up else { return Poll::Pending };
        Poll::Ready(match ready!(catch_up.poll(cx)) {
            Ok(Turn::Opened(opening)) => self.open(&opening),
            Ok(Turn::Joined(offset)) => {
                if let Some(session) = self.native.session_mut() {
                    self.seat.worker.with_hub(|hub| session.join(offset, hub));
                }
                self.catch_up = None;
                Reaction::default()
            }
            Err(error) => Reaction::hang_up(error.into()),
        })
    }

    /// Tells the client where its events begin.
    fn open(&self, opening: &Opening) -> Reaction {
        let epoch = &self.seat.worker.shared.archive.epoch;
        match opening.recovered {
            _ if !self.is_agents => Reaction::say(self.native.answer_opening(opening, epoch)),
            Some(Recovery::Broken { earliest }) => {
                Reaction::say(cloudevents::gap(epoch, opening.place, earliest))
            }
            _ => Reaction::default(),
        }
    }

    /// Hears what became of published events, in their order.
    fn hear_receipts(&mut self, cx: &mut Context<'_>) -> Poll<Reaction> {
        let Some(first) = self.underway.front_mut() else { return Poll::Pending };
        let published = ready!(Pin::new(first).poll(cx));
        self.underway.pop_front();
        Poll::Ready(match published {
            Ok(_) => Reaction::default(),
            Err(PublishError::Forbidden | PublishError::TooLarge) => {
                Reaction::hang_up(Disconnect::Policy)
            }
            Err(PublishError::Unreachable | PublishError::Undecided(_)) => {
                Reaction::hang_up(Disconnect::TryAgainLater)
            }
        })
    }
}

impl Dialect for Conversation {
    fn receive(&mut self, text: &str) -> Reaction {
        if self.catch_up.is_some()
            && let Ok(message) = Message::read(text)
            && self.has_to_wait(&message)
        {
            // An event that waits keeps even a Close waiting: it must not be lost by that.
            self.holds_event |= message.is("publish");
            self.deferred.push_back(text.to_owned());
            return Reaction::default();
        }
        self.hear(text)
    }

    fn receive_binary(&mut self) -> Reaction {
        let outcome = self.native.receive_binary();
        self.carry_out(outcome)
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Reaction> {
        if let Poll::Ready(reaction) = self.hear_receipts(cx) {
            return Poll::Ready(reaction);
        }
        if self.catch_up.is_some() {
            return self.catch_up(cx);
        }
        let next = self.deferred.pop_front();
        self.holds_event &= !self.deferred.is_empty();
        match next {
            Some(text) => Poll::Ready(self.hear(&text)),
            None => Poll::Pending,
        }
    }

    fn can_go_on(&self) -> bool {
        self.catch_up.as_ref().is_some_and(|it| it.can_go_on())
    }

    fn is_busy(&self) -> bool {
        self.catch_up.as_ref().is_some_and(|it| it.is_opening())
            || self.underway.len() >= UNDERWAY_MAX
            || self.deferred.len() >= DEFERRED_MAX
            || self.holds_event
    }

    fn is_settled(&self) -> bool {
        self.native.session().is_some()
    }

    fn judge(&mut self, tokens: &Tokens, now: Timestamp) -> Reaction {
        let Some(session) = self.native.session_mut() else { return Reaction::default() };
        if let Some(disconnect) = session.judge(tokens, now) {
            return Reaction::hang_up(disconnect);
        }
        let ends = session.principal().expires.filter(|_| self.native.wants_cursor);
        let Some(ends) = ends.filter(|ends| self.told != Some(*ends)) else {
            return Reaction::default();
        };
        let rest = ends.duration_since(now);
        if rest > NOTICE {
            return Reaction::default();
        }
        self.told = Some(ends);
        // Rounded up: there is a little less left than that.
        let seconds = rest.as_secs() + i64::from(rest.subsec_nanos() > 0);
        Reaction::say(format!(r#"{{"type":"expiring","in":"{seconds}s"}}"#))
    }

    fn leave(&mut self) {
        self.catch_up = None;
        self.deferred.clear();
        if let Some(session) = self.native.session_mut() {
            self.seat.worker.with_hub(|hub| session.unsubscribe_all(hub));
        }
    }
}
