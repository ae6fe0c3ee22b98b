//! Server-Sent Events (WIRE §3.2; WHATWG HTML §9.2): a response that never ends by itself.

use std::cell::{Cell, RefCell};
use std::future::Future as _;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use actix_web::HttpResponse;
use actix_web::body::{BodySize, BoxBody, MessageBody};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use jiff::Timestamp;
use shared::event::Data;
use shared::principal::Principal;
use shared::tokens::Tokens;
use tokio::time::{Instant, Sleep, sleep_until};

use crate::archive::{Opening, Recovery};
use crate::bell::Bell;
use crate::catch_up::{CatchUp, Turn};
use crate::census::Place;
use crate::cloudevents::{self, Extension, GAP};
use crate::disconnect::Disconnect;
use crate::event_stream::{self, COMMENT, COMMENT_EVERY, push_data, push_head};
use crate::hub::SessionId;
use crate::outbox::Outbox;
use crate::publication::{Format, Slot};
use crate::query::Carried;
use crate::session::Session;
use crate::subscription::Subscription;
use crate::tickets::Hold;
use crate::worker::{Output, Worker};

/// What is given to the HTTP server at a time.
const CHUNK_BYTES: usize = 64 * 1024;

/// Events as their data.
pub(in crate::outputs) static DATA: Format = Format::new(Slot::Sse, |placed, out| {
    push_head(&placed.cursor().to_string(), Some(placed.event.event_type.as_str()), out);
    match &placed.event.data {
        Some(Data::Binary(bytes)) => push_data(STANDARD.encode(bytes).as_bytes(), out),
        data => push_data(data.as_ref().map_or(&[], Data::as_bytes), out),
    }
});
/// Events as CloudEvents.
pub(in crate::outputs) static CLOUDEVENTS: Format =
    Format::new(Slot::SseCloudEvents, |placed, out| {
        push_head(&placed.cursor().to_string(), Some(placed.event.event_type.as_str()), out);
        let mut event = Vec::new();
        cloudevents::encode(placed, Extension::Cursor, &mut event);
        push_data(&event, out);
    });

/// The body of a response that is a stream.
pub(in crate::outputs) struct Stream {
    line: Rc<Line>,
    id: SessionId,
    arrival: u64,
    catch_up: Option<Box<CatchUp>>,
    comment: Pin<Box<Sleep>>,
    hold: Option<Hold>,
    has_begun: bool,
    #[expect(dead_code, reason = "the session's place until it is dropped")]
    place: Place,
}

/// What the stream and its worker share.
struct Line {
    worker: Rc<Worker>,
    outbox: Rc<Outbox>,
    session: RefCell<Session>,
    ended: Cell<Option<Disconnect>>,
    bell: Bell,
}

impl Stream {
    /// Begins a stream.
    pub(in crate::outputs) fn new(
        worker: &Rc<Worker>,
        principal: Arc<Principal>,
        subscription: Subscription,
        carried: Carried,
        place: Place,
        hold: Option<Hold>,
    ) -> Self {
        let format = match carried {
            Carried::Data => &DATA,
            Carried::CloudEvent => &CLOUDEVENTS,
        };
        let (limits, memory) = (&worker.shared.limits, &worker.shared.memory);
        let outbox = Rc::new(Outbox::new(limits.outbox_bytes_max, memory));
        // Whether the client's socket is full only the HTTP server knows: the bound always holds.
        outbox.set_stuck(true);
        let Subscription { patterns, narrow, start } = subscription;
        let (id, session) = worker.with_hub(|hub| {
            let id = hub.enter(Rc::clone(&outbox), format);
            hub.narrow(id, &narrow);
            let mut session = Session::new(id, principal);
            session.hold_back();
            session.subscribe(patterns.clone(), hub);
            (id, session)
        });
        let line = Rc::new(Line {
            worker: Rc::clone(worker),
            outbox: Rc::clone(&outbox),
            session: RefCell::new(session),
            ended: Cell::new(None),
            bell: Bell::default(),
        });
        let arrival = worker.enter(id, Rc::<Line>::clone(&line));
        let catch_up = CatchUp::new(worker, &outbox, format, patterns, narrow, start);
        Self {
            line,
            id,
            arrival,
            catch_up: Some(Box::new(catch_up)),
            comment: Box::pin(sleep_until(Instant::now() + COMMENT_EVERY)),
            hold,
            has_begun: false,
            place,
        }
    }

    /// Answers with the stream.
    pub(in crate::outputs) fn into_response(self) -> HttpResponse {
        event_stream::respond("text/event-stream", BoxBody::new(self))
    }

    /// The first word: how long to wait before a reconnect, so that those who were cut off at once
    /// do not all come back at once.
    fn begin(&mut self, out: &mut Vec<u8>) {
        if !std::mem::replace(&mut self.has_begun, true) {
            let retry_ms = fastrand::u32(1000..=5000);
            out.extend_from_slice(format!("retry: {retry_ms}\n\n").as_bytes());
        }
    }

    /// Reads on in the log, as far as the client has room; says what there is to say of its begin.
    fn follow(&mut self, out: &mut Vec<u8>, cx: &mut Context<'_>) {
        while let Some(catch_up) = &mut self.catch_up {
            match catch_up.poll(cx) {
                Poll::Pending => return,
                Poll::Ready(Ok(Turn::Opened(opening))) => self.open(&opening, out),
                Poll::Ready(Ok(Turn::Joined(offset))) => {
                    let mut session = self.line.session.borrow_mut();
                    self.line.worker.with_hub(|hub| session.join(offset, hub));
                    drop(session);
                    self.catch_up = None;
                }
                Poll::Ready(Err(error)) => {
                    self.line.hang_up(error.into());
                    self.catch_up = None;
                }
            }
        }
    }

    /// A client that loses its connection before its first event comes back to where it began: so
    /// it is told that place at once. An id without data is no event (WHATWG HTML §9.2.6).
    fn open(&self, opening: &Opening, out: &mut Vec<u8>) {
        let epoch = &self.line.worker.shared.archive.epoch;
        let place = epoch.at(opening.place).to_string();
        match opening.recovered {
            Some(Recovery::Broken { earliest }) => {
                push_head(&place, Some(GAP), out);
                let mut gap = Vec::new();
                cloudevents::push_gap(&epoch.at(earliest).to_string(), &mut gap);
                push_data(&gap, out);
            }
            _ => {
                push_head(&place, None, out);
                out.push(b'\n');
            }
        }
    }

    /// Takes what waits for the client, as much as goes into one chunk.
    fn take(&self, out: &mut Vec<u8>) {
        let outbox = &self.line.outbox;
        let before = out.len();
        outbox.with_slices(|slices| {
            for slice in slices {
                let room = CHUNK_BYTES.saturating_sub(out.len() - before);
                out.extend_from_slice(slice.get(..room).unwrap_or(slice));
            }
        });
        outbox.advance(out.len() - before);
    }

    /// A comment, if nothing was said for too long.
    fn comment(&mut self, out: &mut Vec<u8>, cx: &mut Context<'_>) {
        if out.is_empty() && self.comment.as_mut().poll(cx).is_ready() {
            out.extend_from_slice(COMMENT);
        }
        if !out.is_empty() {
            self.comment.as_mut().reset(Instant::now() + COMMENT_EVERY);
            // It is asked again in any case; the timer has to know who waits.
            let _ = self.comment.as_mut().poll(cx);
        }
    }
}

impl MessageBody for Stream {
    type Error = io::Error;

    fn size(&self) -> BodySize {
        BodySize::Stream
    }

    /// Asked only while the client's socket takes what there is.
    fn poll_next(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, io::Error>>> {
        let this = self.get_mut();
        this.line.bell.remember(cx.waker());
        let mut out = Vec::new();
        if this.hold.as_ref().is_some_and(Hold::is_superseded) {
            return Poll::Ready(None);
        }
        match this.line.ended.get() {
            Some(disconnect) if disconnect.gives_up_queue() => {
                // Cut off, or the client would take what it has for all there was.
                return Poll::Ready(Some(Err(io::ErrorKind::ConnectionAborted.into())));
            }
            Some(_) => this.take(&mut out),
            None => {
                this.begin(&mut out);
                this.follow(&mut out, cx);
                this.take(&mut out);
                this.comment(&mut out, cx);
            }
        }
        if this.catch_up.as_ref().is_some_and(|it| it.can_go_on()) {
            cx.waker().wake_by_ref();
        }
        if !out.is_empty() {
            return Poll::Ready(Some(Ok(out.into())));
        }
        if this.line.ended.get().is_some() { Poll::Ready(None) } else { Poll::Pending }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let worker = &self.line.worker;
        self.line.unsubscribe_all();
        worker.with_hub(|hub| hub.leave(self.id));
        worker.leave(self.id, self.arrival);
    }
}

impl Line {
    fn unsubscribe_all(&self) {
        let mut session = self.session.borrow_mut();
        self.worker.with_hub(|hub| session.unsubscribe_all(hub));
    }
}

impl Output for Line {
    fn flush(&self) {
        if self.outbox.is_overflown() {
            self.hang_up(Disconnect::SlowConsumer);
        }
        self.bell.ring();
    }

    fn hang_up(&self, disconnect: Disconnect) {
        if self.ended.get().is_some() {
            return;
        }
        self.ended.set(Some(disconnect));
        if disconnect.gives_up_queue() {
            self.outbox.give_up();
        } else {
            self.outbox.close();
        }
        self.worker.shared.metrics.disconnect(disconnect);
        self.unsubscribe_all();
        self.bell.ring();
    }

    fn judge(&self, tokens: &Tokens, now: Timestamp) -> Option<Disconnect> {
        self.session.borrow_mut().judge(tokens, now)
    }
}
