//! Overlaps the events of one connection (RFC 9112 §9.3.2).
//!
//! The HTTP server answers a request before it looks at the next one, so that each of many that
//! came at once would wait for a receipt of its own. Here all that came whole and plain go to
//! broadcast together, and their answers leave together, in order. Only events are taken that can
//! be sent: whatever else comes, and every fault, is left to the HTTP server with the rest of the
//! connection, and is judged and answered there as on any other.

use std::collections::VecDeque;
use std::future::{Future as _, poll_fn};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use actix_web::web::Data;
use bytes::{Buf as _, Bytes, BytesMut};
use shared::credentials::Credentials;
use shared::guard::Guard;
use shared::http::KEEP_ALIVE;
use shared::memory::Held;
use shared::principal::Principal;
use shared::publisher::Publication;
use tokio::io::AsyncWrite as _;
use tokio::time::{Instant, Sleep, sleep_until};
use tokio_util::io::poll_read_buf;

use crate::inputs::{Inputs, event};
use crate::pipeline::answers::Answers;
use crate::pipeline::head::{Plain, Seen};

mod answers;
mod head;

/// One read takes at most so much, about.
const READ_BYTES: usize = 16 * 1024;
/// Events of one connection that wait for their receipts; what else it sends waits in its socket.
const UNDERWAY_MAX: usize = 256;

/// Serves a connection for as long as only plain events come. Gives it back for the HTTP server
/// from the first other request on; `None` once it has ended.
pub async fn serve(guard: Guard, inputs: Data<Inputs>) -> Option<Guard> {
    if guard.admission().is_refused {
        return Some(guard);
    }
    let mut pipeline = Pipeline::new(guard, inputs);
    match poll_fn(|cx| pipeline.poll(cx)).await {
        Ok(End::Closed) => None,
        Ok(End::HandOver) => {
            let Pipeline { mut guard, read, .. } = pipeline;
            guard.unread(read.freeze());
            Some(guard)
        }
        Err(error) => {
            log::debug!("a connection ended: {error}");
            None
        }
    }
}

/// How a connection ends here.
#[derive(Debug)]
enum End {
    Closed,
    HandOver,
}

/// What is still taken in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Intake {
    Open,
    /// The next request is for the HTTP server, once all before it are answered.
    HandOver,
    /// No more comes: the client has closed its side, or was told that we shall.
    Ended,
}

#[derive(Debug)]
struct Pipeline {
    guard: Guard,
    inputs: Data<Inputs>,
    intake: Intake,
    /// Not taken yet.
    read: BytesMut,
    /// On the account of memory while a body comes.
    held: Held,
    /// What was read may hold more events, for which there was no room.
    is_held_up: bool,
    /// In the order of their requests.
    underway: VecDeque<Publication>,
    answers: Answers,
    /// Due when the client may have been silent for too long. Moved when it is due, not before.
    silence: Pin<Box<Sleep>>,
    last_heard: Instant,
}

impl Pipeline {
    fn new(guard: Guard, inputs: Data<Inputs>) -> Self {
        let now = Instant::now();
        Self {
            guard,
            held: inputs.memory.hold(0),
            is_held_up: false,
            inputs,
            intake: Intake::Open,
            read: BytesMut::new(),
            underway: VecDeque::new(),
            answers: Answers::default(),
            silence: Box::pin(sleep_until(now + KEEP_ALIVE)),
            last_heard: now,
        }
    }

    /// Arms: there is room again for what is there already; something comes; silence. Receipts and
    /// the client's taking of its answers wake it, too.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<End>> {
        loop {
            self.take();
            self.collect(cx);
            let is_flushed = self.answers.poll_write(&mut self.guard, cx)?.is_ready();
            if is_flushed && self.underway.is_empty() {
                match self.intake {
                    Intake::Open => {}
                    Intake::HandOver => return Poll::Ready(Ok(End::HandOver)),
                    Intake::Ended => {
                        ready!(Pin::new(&mut self.guard).poll_shutdown(cx))?;
                        return Poll::Ready(Ok(End::Closed));
                    }
                }
            }
            let is_held_up_no_more = self.is_held_up && self.has_room();
            if !is_held_up_no_more && self.poll_read(cx)?.is_pending() {
                return if self.is_silent(cx) {
                    Poll::Ready(Ok(End::Closed))
                } else {
                    Poll::Pending
                };
            }
        }
    }

    /// A client that does not take its answers is not listened to either.
    fn has_room(&self) -> bool {
        self.underway.len() < UNDERWAY_MAX && !self.answers.are_many()
    }

    /// Reads once, if there is room.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.intake != Intake::Open || !self.has_room() {
            return Poll::Pending;
        }
        self.read.reserve(READ_BYTES);
        let Poll::Ready(read) = poll_read_buf(Pin::new(&mut self.guard), cx, &mut self.read) else {
            if self.read.is_empty() {
                // A connection that is idle costs no buffer.
                self.read = BytesMut::new();
            }
            return Poll::Pending;
        };
        if read? == 0 {
            self.intake = Intake::Ended;
        }
        self.last_heard = Instant::now();
        Poll::Ready(Ok(()))
    }

    /// Sends all that is there and can be sent.
    fn take(&mut self) {
        self.is_held_up = false;
        while self.intake == Intake::Open && !self.read.is_empty() {
            if !self.has_room() {
                self.is_held_up = true;
                return;
            }
            let event = match head::look(&self.read) {
                Seen::Part => return,
                // The HTTP server says in its answer that the connection ends.
                Seen::Event(event) if !self.inputs.occupancy.is_draining() => event,
                _ => return self.intake = Intake::HandOver,
            };
            // A stranger is refused before the body has come.
            let Some(principal) = admit(&self.inputs, &event) else {
                return self.intake = Intake::HandOver;
            };
            let end = event.body_at + event.length;
            let Some(body) = self.read.get(event.body_at..end) else {
                self.held.resize(self.read.len());
                return;
            };
            let Some(publication) = publish(&self.inputs, &principal, body) else {
                return self.intake = Intake::HandOver;
            };
            self.underway.push_back(publication);
            self.read.advance(end);
            if self.held.bytes() > 0 {
                self.held.resize(0);
            }
        }
    }

    /// Answers the first ones that are decided.
    fn collect(&mut self, cx: &mut Context<'_>) {
        while let Some(first) = self.underway.front_mut() {
            let Poll::Ready(published) = Pin::new(first).poll(cx) else { return };
            self.underway.pop_front();
            let is_last = self.underway.is_empty()
                && self.read.is_empty()
                && self.inputs.occupancy.is_draining();
            match published {
                Ok(_) => {
                    self.inputs.accepted.inc();
                    self.answers.accept(is_last);
                }
                Err(error) => {
                    let refusal = event::refuse_event(&self.inputs, error);
                    self.answers.refuse(refusal, is_last);
                }
            }
            if is_last {
                self.intake = Intake::Ended;
            }
        }
    }

    /// Whether the client has asked for nothing for too long.
    fn is_silent(&mut self, cx: &mut Context<'_>) -> bool {
        if !self.underway.is_empty() || !self.read.is_empty() {
            return false;
        }
        while self.silence.as_mut().poll(cx).is_ready() {
            let due = self.last_heard + KEEP_ALIVE;
            if due <= Instant::now() {
                return true;
            }
            self.silence.as_mut().reset(due);
        }
        false
    }
}

/// Who sends an event, if its body is worth waiting for.
fn admit(inputs: &Inputs, event: &Plain<'_>) -> Option<Arc<Principal>> {
    if inputs.memory.is_short() || event.length > inputs.body_bytes_max {
        return None;
    }
    let shown = Credentials::from_headers(event.authorization.into_iter()).ok()?;
    inputs.publisher.authenticate(&shown).ok()
}

/// Sends an event; `None` where it would be refused, for whatever reason.
fn publish(inputs: &Inputs, principal: &Principal, body: &[u8]) -> Option<Publication> {
    let draft = event::read_draft(&Bytes::copy_from_slice(body)).ok()?;
    if !principal.grant.may_publish(&draft.event_type) {
        return None;
    }
    // Nothing is left to be refused for but that there is no room: nobody takes two turns.
    inputs.publisher.take_turn(principal).ok()?;
    inputs.publisher.publish(principal, draft, false).ok()
}
