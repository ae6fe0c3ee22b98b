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
use shared::guard::follower::Violation;
use shared::http::KEEP_ALIVE;
use shared::memory::Held;
use shared::principal::Principal;
use shared::publisher::{Approved, Publication, PublishError};
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
/// More would gain it little, and all others would wait behind them.
const UNDERWAY_MAX: usize = 32;

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
    /// The next request is not one, or does not come; it is told so in its place.
    Violated(Violation),
}

/// An event whose answer waits for those before it.
#[derive(Debug)]
enum Taken {
    Sent(Publication),
    Refused(PublishError),
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
    underway: VecDeque<Taken>,
    answers: Answers,
    /// Due when nothing may have happened for too long. Moved when it is due, not before.
    silence: Pin<Box<Sleep>>,
    last_active: Instant,
}

impl Pipeline {
    fn new(mut guard: Guard, inputs: Data<Inputs>) -> Self {
        let now = Instant::now();
        guard.rely_on_being_told();
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
            last_active: now,
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
                    Intake::Violated(violation) => {
                        self.guard.end(cx, violation);
                        return Poll::Ready(Ok(End::Closed));
                    }
                }
            }
            let is_held_up_no_more = self.is_held_up && self.has_room();
            if !is_held_up_no_more && self.poll_read(cx)?.is_pending() {
                if !self.is_silent(cx) {
                    return Poll::Pending;
                }
                self.intake = Intake::Ended;
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
        self.last_active = Instant::now();
        match read {
            Ok(0) => self.intake = Intake::Ended,
            Ok(_) => {}
            Err(error) => {
                let violation = error.get_ref().and_then(|it| it.downcast_ref());
                self.intake = Intake::Violated(*violation.ok_or(error.kind())?);
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Sends all that is there and can be sent.
    fn take(&mut self) {
        self.is_held_up = false;
        while self.intake == Intake::Open {
            // Empty lines before a request begin nothing (RFC 9112 §2.2).
            let blank = self.read.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
            self.read.advance(blank);
            if self.read.is_empty() {
                return;
            }
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
            let Some(taken) = publish(&self.inputs, &principal, body) else {
                return self.intake = Intake::HandOver;
            };
            self.underway.push_back(taken);
            self.read.advance(end);
            if self.held.bytes() > 0 {
                self.held.resize(0);
            }
        }
    }

    /// Answers the first ones that are decided.
    fn collect(&mut self, cx: &mut Context<'_>) {
        let mut has_answered = false;
        while let Some(published) = self.take_decided(cx) {
            let is_last = self.underway.is_empty()
                && self.read.is_empty()
                && self.inputs.occupancy.is_draining();
            match published {
                Ok(()) => {
                    self.inputs.accepted.inc();
                    self.answers.accept(is_last);
                }
                Err(error) => {
                    let refusal = self.inputs.refuse_event(error);
                    self.answers.refuse(refusal, is_last);
                }
            }
            self.guard.note_answer();
            has_answered = true;
            if is_last {
                self.intake = Intake::Ended;
            }
        }
        // Once for all of them.
        if has_answered {
            self.last_active = Instant::now();
        }
    }

    /// Takes out the first one, if it is decided.
    fn take_decided(&mut self, cx: &mut Context<'_>) -> Option<Result<(), PublishError>> {
        let published = match self.underway.front_mut()? {
            Taken::Sent(publication) => match Pin::new(publication).poll(cx) {
                Poll::Ready(published) => published.map(|_| ()),
                Poll::Pending => return None,
            },
            Taken::Refused(error) => Err(error.clone()),
        };
        self.underway.pop_front();
        Some(published)
    }

    /// Whether there was nothing to do for too long.
    fn is_silent(&mut self, cx: &mut Context<'_>) -> bool {
        let is_idle = self.intake == Intake::Open
            && self.underway.is_empty()
            && self.read.is_empty()
            && self.answers.is_empty();
        if !is_idle {
            return false;
        }
        while self.silence.as_mut().poll(cx).is_ready() {
            let due = self.last_active + KEEP_ALIVE;
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

/// Sends an event; `None` where it would be refused before it took a turn of its token's rate.
fn publish(inputs: &Inputs, principal: &Principal, body: &[u8]) -> Option<Taken> {
    let draft = event::read_draft(&Bytes::copy_from_slice(body)).ok()?;
    let approved = Approved::new(principal, draft).ok()?;
    inputs.publisher.take_turn(principal).ok()?;
    Some(inputs.publisher.publish(approved, false).map_or_else(Taken::Refused, Taken::Sent))
}
