//! `GET /events` on a WebSocket (WIRE §3.2): what the client wants stands in its request, and what it
//! says is not listened to.

use std::sync::Arc;
use std::task::{Context, Poll, ready};

use jiff::Timestamp;
use shared::principal::Principal;
use shared::tokens::Tokens;

use crate::archive::{Archive, Recovery, Start};
use crate::catch_up::{CatchUp, Turn};
use crate::cloudevents;
use crate::session::Session;
use crate::subscription::Subscription;
use crate::websocket::dialect::{Begin, Dialect, Reaction, Seat};
use crate::websocket::formats::CLOUDEVENTS_WITH_CURSOR;

/// CloudEvents 1.0.2, WebSockets protocol binding §3.1: the JSON format.
pub const SUBPROTOCOL: &str = "cloudevents.json";

/// A client that only listens.
#[derive(Debug)]
struct Listener {
    seat: Seat,
    session: Session,
    catch_up: Option<Box<CatchUp>>,
}

/// Begins with what is asked for.
pub fn begin(archive: &Archive, principal: Arc<Principal>, subscription: Subscription) -> Begin {
    let Subscription { patterns, narrow, start } = subscription;
    // What is accepted once the client has its 101 reaches it: that is answered before we are here.
    let start = match start {
        Start::Live => Start::After(archive.epoch.at(archive.end())),
        start => start,
    };
    Box::new(|seat| {
        let mut session = Session::new(seat.id, principal);
        seat.worker.with_hub(|hub| {
            hub.set_format(seat.id, &CLOUDEVENTS_WITH_CURSOR);
            hub.narrow(seat.id, &narrow);
            session.hold_back();
            session.subscribe(patterns.clone(), hub);
        });
        let catch_up = CatchUp::new(
            &seat.worker,
            &seat.outbox,
            &CLOUDEVENTS_WITH_CURSOR,
            patterns,
            narrow,
            start,
        );
        Box::new(Listener { seat, session, catch_up: Some(Box::new(catch_up)) })
    })
}

impl Dialect for Listener {
    fn receive(&mut self, _: &str) -> Reaction {
        Reaction::default()
    }

    fn receive_binary(&mut self) -> Reaction {
        Reaction::default()
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Reaction> {
        let Some(catch_up) = &mut self.catch_up else { return Poll::Pending };
        Poll::Ready(match ready!(catch_up.poll(cx)) {
            Ok(Turn::Opened(opening)) => match opening.recovered {
                Some(Recovery::Broken { earliest }) => {
                    let epoch = &self.seat.worker.shared.archive.epoch;
                    Reaction::say(cloudevents::gap(epoch, opening.place, earliest))
                }
                _ => Reaction::default(),
            },
            Ok(Turn::Joined(offset)) => {
                self.seat.worker.with_hub(|hub| self.session.join(offset, hub));
                self.catch_up = None;
                Reaction::default()
            }
            Err(error) => Reaction::hang_up(error.into()),
        })
    }

    fn can_go_on(&self) -> bool {
        self.catch_up.as_ref().is_some_and(|it| it.can_go_on())
    }

    fn is_busy(&self) -> bool {
        false
    }

    fn is_settled(&self) -> bool {
        true
    }

    fn judge(&mut self, tokens: &Tokens, now: Timestamp) -> Reaction {
        self.session.judge(tokens, now).map_or_else(Reaction::default, Reaction::hang_up)
    }

    fn leave(&mut self) {
        self.catch_up = None;
        self.seat.worker.with_hub(|hub| self.session.unsubscribe_all(hub));
    }
}
