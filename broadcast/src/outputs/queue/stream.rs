//! The stream of one queue: a message is written, acknowledged, and then comes the next one.

use std::cell::RefCell;
use std::future::Future;
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
use shared::event::Data;
use shared::guard::flushes::Flushes;
use tokio::sync::Notify;
use tokio::time::{Instant, Sleep, sleep_until};

use crate::broker;
use crate::census::Place;
use crate::cloudevents::{self, Extension, GAP};
use crate::disconnect::Disconnect;
use crate::event_stream::{self, COMMENT, COMMENT_EVERY, push_data};
use crate::outputs::queue::headers::ExtraHeaders;
use crate::publication::Placed;
use crate::query::Carried;
use crate::queues::consumer::{self, Consumer, Delivery};
use crate::tickets::Hold;
use crate::watch::Watch;

/// WIRE §7: what a stream begins with.
const BANNER: &[u8] = b": SSE stream\n\n";
/// What stands before a message that may have been given before.
const REDELIVERED: &[u8] = b": redelivered\n";

/// What messages come from.
pub(in crate::outputs) enum Source {
    /// A queue in the log.
    Log(Consumer),
    /// A queue in RabbitMQ, and the session of who consumes it.
    Broker(Box<broker::consumer::Consumer>, Rc<Watch>),
}

/// How messages are written.
#[derive(Debug, Clone, Copy, Default)]
pub(in crate::outputs) struct Carrying {
    /// What of an event.
    pub(in crate::outputs) carried: Carried,
    /// Whether its place goes with it, so that the client can say what it has seen.
    pub(in crate::outputs) has_ids: bool,
}

/// The body of a response that is the stream of a queue.
pub(in crate::outputs) struct Stream {
    /// Until it has ended.
    delivery: Option<Pin<Box<dyn Future<Output = ()>>>>,
    pipe: Rc<Pipe>,
    comment: Pin<Box<Sleep>>,
    #[expect(dead_code, reason = "the session's place until it is dropped")]
    place: Place,
}

/// What is on its way to the client.
struct Pipe {
    bytes: RefCell<Vec<u8>>,
    flushes: Rc<Flushes>,
}

impl Pipe {
    /// Gives bytes to the HTTP server; says in which moment.
    fn write(&self, bytes: &[u8]) -> u64 {
        self.bytes.borrow_mut().extend_from_slice(bytes);
        self.flushes.now()
    }
}

impl Stream {
    /// Begins a stream.
    pub(in crate::outputs) fn new(
        source: Source,
        carrying: Carrying,
        flushes: Rc<Flushes>,
        hold: Option<Hold>,
        place: Place,
    ) -> Self {
        let pipe = Rc::new(Pipe { bytes: RefCell::default(), flushes });
        pipe.write(BANNER);
        let delivery = deliver(source, carrying, Rc::clone(&pipe), hold);
        Self {
            delivery: Some(Box::pin(delivery)),
            pipe,
            comment: Box::pin(sleep_until(Instant::now() + COMMENT_EVERY)),
            place,
        }
    }

    /// Answers with the stream.
    pub(in crate::outputs) fn into_response(self, extra: &ExtraHeaders) -> HttpResponse {
        respond(BoxBody::new(self), extra)
    }
}

/// A stream that ends as it begins.
pub(in crate::outputs) fn ended(extra: &ExtraHeaders) -> HttpResponse {
    respond(BoxBody::new(BANNER), extra)
}

fn respond(body: BoxBody, extra: &ExtraHeaders) -> HttpResponse {
    let mut response = event_stream::respond("text/event-stream; charset=utf-8", body);
    extra.add_to(response.headers_mut());
    response
}

/// Takes messages and writes them until there is a reason to end. Arms: the session has ended; the
/// consumer has to go; the source has no more.
async fn deliver(source: Source, carrying: Carrying, pipe: Rc<Pipe>, hold: Option<Hold>) {
    let watch = source.watch();
    let tenure = source.tenure();
    let is_superseded = || hold.as_ref().is_some_and(Hold::is_superseded);
    tokio::select! {
        biased;
        _ = watch.end() => {}
        () = tenure.end(is_superseded) => {}
        _ = pass_on(source, carrying, &pipe) => {}
    }
}

async fn pass_on(source: Source, carrying: Carrying, pipe: &Pipe) -> Result<(), Disconnect> {
    let mut writing = Writing { source, pipe, moment: None };
    loop {
        let mut frame = Vec::new();
        writing.source.next(carrying, &mut frame).await?;
        let moment = pipe.write(&frame);
        writing.moment = Some(moment);
        pipe.flushes.pass(moment).await;
        writing.moment = None;
        writing.source.acknowledge().await?;
    }
}

/// How long a consumer may stay.
enum Tenure {
    Log(consumer::Tenure),
    Broker(Arc<Notify>),
}

impl Tenure {
    /// Waits until it has to go.
    async fn end(&self, is_taken_over: impl Fn() -> bool) {
        match self {
            Self::Log(tenure) => tenure.end(is_taken_over).await,
            Self::Broker(look) => {
                while !is_taken_over() {
                    look.notified().await;
                }
            }
        }
    }
}

impl Source {
    fn watch(&self) -> Rc<Watch> {
        match self {
            Self::Log(consumer) => consumer.watch(),
            Self::Broker(_, watch) => Rc::clone(watch),
        }
    }

    fn tenure(&self) -> Tenure {
        match self {
            Self::Log(consumer) => Tenure::Log(consumer.tenure()),
            Self::Broker(consumer, _) => Tenure::Broker(consumer.look()),
        }
    }

    /// Appends the next message.
    async fn next(&mut self, carrying: Carrying, out: &mut Vec<u8>) -> Result<(), Disconnect> {
        match self {
            Self::Log(consumer) => push(&consumer.next().await?, carrying, out),
            Self::Broker(consumer, watch) => {
                let message = consumer.next().await?;
                watch.count_delivery();
                if message.is_redelivered {
                    out.extend_from_slice(REDELIVERED);
                }
                push_text(&message.body, out);
            }
        }
        Ok(())
    }

    /// What was taken last is written to the client.
    async fn acknowledge(&mut self) -> Result<(), Disconnect> {
        match self {
            Self::Log(consumer) => consumer.acknowledge().await,
            Self::Broker(consumer, _) => consumer.acknowledge().await?,
        }
        Ok(())
    }

    /// The same, without waiting.
    fn settle(&mut self) {
        match self {
            Self::Log(consumer) => {
                consumer.settle();
            }
            Self::Broker(consumer, _) => consumer.settle(),
        }
    }
}

/// A source whose message may be on its way to the client.
struct Writing<'a> {
    source: Source,
    pipe: &'a Pipe,
    moment: Option<u64>,
}

impl Drop for Writing<'_> {
    /// A client that leaves as soon as it has its message must not get it again.
    fn drop(&mut self) {
        if self.moment.is_some_and(|moment| self.pipe.flushes.has_passed(moment)) {
            self.source.settle();
        }
    }
}

/// Appends a message.
fn push(delivery: &Delivery, carrying: Carrying, out: &mut Vec<u8>) {
    let (is_redelivered, cursor, event) = match delivery {
        Delivery::Gap { place, earliest } => {
            // What follows is behind this: a client that says so has heard of the gap.
            if carrying.has_ids {
                out.extend_from_slice(format!("id: {place}\n").as_bytes());
            }
            out.extend_from_slice(format!("event: {GAP}\n").as_bytes());
            let mut gap = Vec::new();
            cloudevents::push_gap(&earliest.to_string(), &mut gap);
            return push_data(&gap, out);
        }
        Delivery::Event { is_redelivered, cursor, event } => (*is_redelivered, cursor, event),
    };
    if is_redelivered {
        out.extend_from_slice(REDELIVERED);
    }
    if carrying.has_ids {
        out.extend_from_slice(format!("id: {cursor}\n").as_bytes());
    }
    match (carrying.carried, &event.data) {
        (Carried::CloudEvent, _) => {
            let mut encoded = Vec::new();
            let placed = Placed { epoch: &cursor.epoch, offset: cursor.offset, event };
            cloudevents::encode(&placed, Extension::Cursor, &mut encoded);
            push_text(&encoded, out);
        }
        (Carried::Data, Some(Data::Binary(bytes))) => {
            push_text(STANDARD.encode(bytes).as_bytes(), out);
        }
        (Carried::Data, data) => push_text(data.as_ref().map_or(&[], Data::as_bytes), out),
    }
}

/// Appends a message's text as eventsourced did: blanks and newlines at both ends are dropped, CRLF is
/// LF, a lone CR is nothing.
fn push_text(text: &[u8], out: &mut Vec<u8>) {
    let text: Vec<u8> = text.iter().copied().filter(|byte| *byte != b'\r').collect();
    let is_blank = |byte: &u8| matches!(byte, b' ' | b'\n');
    let start = text.iter().position(|byte| !is_blank(byte)).unwrap_or(text.len());
    let end = text.iter().rposition(|byte| !is_blank(byte)).map_or(start, |last| last + 1);
    push_data(text.get(start..end).unwrap_or_default(), out);
}

impl MessageBody for Stream {
    type Error = io::Error;

    fn size(&self) -> BodySize {
        BodySize::Stream
    }

    fn poll_next(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, io::Error>>> {
        let this = self.get_mut();
        if let Some(delivery) = &mut this.delivery
            && delivery.as_mut().poll(cx).is_ready()
        {
            this.delivery = None;
        }
        let mut out = this.pipe.bytes.take();
        if out.is_empty() && this.delivery.is_some() && this.comment.as_mut().poll(cx).is_ready() {
            out.extend_from_slice(COMMENT);
        }
        if out.is_empty() {
            return if this.delivery.is_some() { Poll::Pending } else { Poll::Ready(None) };
        }
        this.comment.as_mut().reset(Instant::now() + COMMENT_EVERY);
        // It is asked again in any case; the timer has to know who waits.
        let _ = this.comment.as_mut().poll(cx);
        Poll::Ready(Some(Ok(out.into())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_written_as_the_original_did() {
        for (text, expected) in [
            ("{\"a\":1}", "data: {\"a\":1}\n\n"),
            ("two\nlines\n\n", "data: two\ndata: lines\n\n"),
            ("cr\r\nlf\rx", "data: cr\ndata: lfx\n\n"),
            ("", "data: \n\n"),
            ("  \n ", "data: \n\n"),
            ("   sp  ", "data: sp\n\n"),
            ("\ttab\t", "data: \ttab\t\n\n"),
            ("a\r", "data: a\n\n"),
            (
                "{ odd message\ndata: !\n :\n! }",
                "data: { odd message\ndata: data: !\ndata:  :\ndata: ! }\n\n",
            ),
        ] {
            let mut out = Vec::new();
            push_text(text.as_bytes(), &mut out);
            assert_eq!(String::from_utf8(out).unwrap(), expected, "{text:?}");
        }
    }
}
