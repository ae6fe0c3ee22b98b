//! How the task of a client reads the log for it, before it joins what is live.

use std::rc::Rc;
use std::task::{Context, Poll};

use crate::archive::{Opening, Recovery, Start};
use crate::catch_up::{CatchUp, Turn};
use crate::cloudevents;
use crate::filter::Narrow;
use crate::outputs::websocket::client::Client;
use crate::outputs::websocket::connection::{Connection, Phase};
use crate::outputs::websocket::frame;
use crate::subscription::Subscription;
use crate::worker::Output as _;

impl Client {
    /// Begins with what the client has asked for in its request.
    pub(super) fn attach(&mut self, subscription: Subscription) {
        let worker = Rc::clone(&self.connection.worker);
        worker.with_hub(|hub| self.connection.native.borrow_mut().attach(&subscription, hub));
        let Subscription { narrow, start, .. } = subscription;
        self.read_log(narrow, start);
    }

    /// Begins to read the log; until it is known where, nothing that the client says is read.
    pub(super) fn read_log(&mut self, narrow: Narrow, start: Start) {
        let Connection { worker, outbox, native, .. } = &*self.connection;
        let native = native.borrow();
        let patterns =
            native.session().map_or_else(Vec::new, |it| it.patterns().cloned().collect());
        let catch_up = CatchUp::new(worker, outbox, native.format, patterns, narrow, start);
        self.catch_up = Some(Box::new(catch_up));
    }

    /// Reads on in the log, as far as the client has room.
    pub(super) fn follow(&mut self, cx: &mut Context<'_>) {
        while let Some(catch_up) = &mut self.catch_up {
            if self.connection.phase.get() != Phase::Open {
                self.catch_up = None;
                return;
            }
            match catch_up.poll(cx) {
                Poll::Pending => return,
                Poll::Ready(Ok(Turn::Opened(opening))) => {
                    self.open(&opening);
                    // What the client has said meanwhile can be read now.
                    cx.waker().wake_by_ref();
                }
                Poll::Ready(Ok(Turn::Joined(offset))) => {
                    let worker = &self.connection.worker;
                    if let Some(session) = self.connection.native.borrow_mut().session_mut() {
                        worker.with_hub(|hub| session.join(offset, hub));
                    }
                    self.catch_up = None;
                }
                Poll::Ready(Err(error)) => self.connection.hang_up(error.into()),
            }
        }
    }

    /// Tells the client where its events begin.
    fn open(&self, opening: &Opening) {
        let epoch = &self.connection.worker.shared.archive.epoch;
        let mut out = Vec::new();
        match opening.recovered {
            _ if !self.is_attached => {
                let answer = self.connection.native.borrow().answer_opening(opening, epoch);
                frame::push_text(&mut out, |out| out.extend_from_slice(answer.as_bytes()));
            }
            Some(Recovery::Broken { earliest }) => frame::push_text(&mut out, |out| {
                cloudevents::encode_gap(epoch, opening.place, earliest, out);
            }),
            _ => return,
        }
        self.connection.answer(out);
    }
}
