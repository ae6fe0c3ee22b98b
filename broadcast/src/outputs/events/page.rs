//! A page of kept events (WIRE §3.2), which can be waited for.

use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use actix_web::HttpResponse;
use actix_web::body::{BodySize, BoxBody, MessageBody};
use actix_web::http::StatusCode;
use actix_web::http::header::{CONTENT_TYPE, HeaderName, HeaderValue, LINK};
use bytes::Bytes;
use jiff::Timestamp;
use shared::memory::Held;
use shared::principal::Principal;
use shared::tokens::Tokens;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use crate::archive::{Opening, ReadError, Recovery};
use crate::cloudevents::{self, Extension};
use crate::disconnect::Disconnect;
use crate::filter::Filter;
use crate::hub::SessionId;
use crate::log::reader::Excerpt;
use crate::outbox::Outbox;
use crate::outputs::events::PageRule;
use crate::publication::Placed;
use crate::session::Session;
use crate::subscription::Subscription;
use crate::worker::{Output, Worker};

/// A page takes no further event beyond so many bytes.
const PAGE_BYTES_MAX: usize = 1024 * 1024;
/// So many readings make a page, at most: it may be empty, and the next one goes on behind it.
const READINGS_MAX: usize = 64;
/// How often one looks while a page is waited for, though nobody was told.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// How often a page begins anew because retention was faster.
const ATTEMPTS_MAX: usize = 8;

/// Answers with a page; `query` is what the next page's query begins with.
///
/// # Errors
///
/// [`PageError`] says why there is none.
pub async fn answer(
    worker: &Rc<Worker>,
    principal: Arc<Principal>,
    subscription: Subscription,
    rule: PageRule,
    query: &str,
) -> Result<HttpResponse, PageError> {
    let archive = &worker.shared.archive;
    let filter = Arc::new(Filter::new(&subscription.patterns, subscription.narrow.clone()));
    let deadline = Instant::now() + rule.wait;
    let mut opening = archive.open(&subscription.start, &filter, archive.end()).await?;
    let mut page = Page::begin(worker, opening.place, rule.limit);
    let mut attempts = 1..ATTEMPTS_MAX;
    while let Err(error) = page.fill(&filter).await {
        // What was kept a moment ago may not be any more: it begins with what is kept now.
        if error != ReadError::Freed || !page.is_empty() || attempts.next().is_none() {
            return Err(error.into());
        }
        opening = archive.open(&subscription.start, &filter, archive.end()).await?;
        page.place = opening.place;
    }
    // Where there is more to look through, the next page goes on with it at once.
    if page.is_empty() && page.is_at_end && rule.wait > Duration::ZERO {
        let watch = Watch::begin(worker, principal, &subscription);
        loop {
            // What came before the watch began is there now; what comes after it tells us. Events of
            // other types tell nobody: without a look now and then, the place could be freed.
            page.fill(&filter).await?;
            let now = Instant::now();
            if !page.is_empty() || !page.is_at_end || now >= deadline {
                break;
            }
            watch.wait_until(deadline.min(now + LOOK_EVERY)).await?;
        }
    }
    Ok(page.into_response(&opening, query))
}

/// A page that is being written.
struct Page<'a> {
    worker: &'a Worker,
    /// There is nothing else for it up to this offset.
    place: u64,
    /// That is the end of the log.
    is_at_end: bool,
    room: usize,
    count: usize,
    body: Vec<u8>,
    held: Held,
}

impl<'a> Page<'a> {
    fn begin(worker: &'a Worker, place: u64, limit: usize) -> Self {
        let held = worker.shared.memory.hold(0);
        Self { worker, place, is_at_end: false, room: limit, count: 0, body: vec![b'['], held }
    }

    fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Reads on until the page is full, or there is nothing more, or it was long enough.
    async fn fill(&mut self, filter: &Arc<Filter>) -> Result<(), ReadError> {
        let archive = &self.worker.shared.archive;
        self.is_at_end = false;
        for _ in 0..READINGS_MAX {
            if self.room == 0 || self.body.len() >= PAGE_BYTES_MAX {
                break;
            }
            let before = self.place;
            let excerpt = archive.read(before, filter, PAGE_BYTES_MAX - self.body.len()).await?;
            self.take(excerpt);
            self.is_at_end = self.place == before || self.place >= archive.end();
            if self.is_at_end {
                break;
            }
            // What is in memory is read without a pause: others have their turn.
            tokio::task::yield_now().await;
        }
        Ok(())
    }

    /// Writes what was found: events share the bytes of their neighbours, and are not held on to.
    fn take(&mut self, excerpt: Excerpt) {
        let epoch = &self.worker.shared.archive.epoch;
        let is_more = excerpt.events.len() > self.room;
        for (offset, event) in excerpt.events.iter().take(self.room) {
            if self.count > 0 {
                self.body.push(b',');
            }
            let placed = Placed { epoch, offset: *offset, event };
            cloudevents::encode(&placed, Extension::Cursor, &mut self.body);
            self.count += 1;
            self.place = *offset;
        }
        self.room -= excerpt.events.len().min(self.room);
        if !is_more {
            self.place = excerpt.place;
        }
        self.held.resize(self.body.capacity());
    }

    fn into_response(mut self, opening: &Opening, query: &str) -> HttpResponse {
        let epoch = &self.worker.shared.archive.epoch;
        self.body.push(b']');
        self.worker.count_deliveries(self.count);
        let Self { body, held, place, .. } = self;
        let body = Body { bytes: Some(body.into()), held };
        let mut response = HttpResponse::with_body(StatusCode::OK, BoxBody::new(body));
        let headers = response.headers_mut();
        let kind = HeaderValue::from_static("application/cloudevents-batch+json; charset=utf-8");
        headers.insert(CONTENT_TYPE, kind);
        let mut add = |name: HeaderName, value: String| {
            // What we put in has no character that a header could not hold.
            if let Ok(value) = HeaderValue::from_str(&value) {
                headers.insert(name, value);
            }
        };
        add(LINK, format!("</events?{query}after={}>; rel=\"next\"", epoch.at(place)));
        if let Some(Recovery::Broken { earliest }) = opening.recovered {
            add(HeaderName::from_static("gateway-recovered"), "false".to_owned());
            let earliest = epoch.at(earliest).to_string();
            add(HeaderName::from_static("gateway-earliest"), earliest);
        }
        response
    }
}

/// A page on its way, on the account of memory until the client has it.
struct Body {
    bytes: Option<Bytes>,
    held: Held,
}

impl MessageBody for Body {
    type Error = Infallible;

    fn size(&self) -> BodySize {
        BodySize::Sized(self.bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
    }

    fn poll_next(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, Infallible>>> {
        let bytes = self.bytes.take();
        self.held.resize(bytes.as_ref().map_or(0, Bytes::len));
        Poll::Ready(bytes.map(Ok))
    }
}

/// Waits for an event, as a session that is subscribed but never sent anything.
struct Watch {
    watcher: Rc<Watcher>,
    worker: Rc<Worker>,
    id: SessionId,
    arrival: u64,
}

struct Watcher {
    told: Notify,
    ended: Cell<Option<Disconnect>>,
    session: RefCell<Session>,
}

impl Watch {
    fn begin(worker: &Rc<Worker>, principal: Arc<Principal>, subscription: &Subscription) -> Self {
        let outbox = Rc::new(Outbox::new(1, &worker.shared.memory));
        let (id, session) = worker.with_hub(|hub| {
            let id = hub.enter_watcher(outbox);
            let mut session = Session::new(id, principal);
            hub.narrow(id, &subscription.narrow);
            session.subscribe(subscription.patterns.clone(), hub);
            (id, session)
        });
        let session = RefCell::new(session);
        let watcher = Rc::new(Watcher { told: Notify::new(), ended: Cell::new(None), session });
        let arrival = worker.enter(id, Rc::<Watcher>::clone(&watcher));
        Self { watcher, worker: Rc::clone(worker), id, arrival }
    }

    /// Waits until there may be something, or the time is over.
    async fn wait_until(&self, deadline: Instant) -> Result<(), PageError> {
        // Either way one looks.
        let _ = timeout_at(deadline, self.watcher.told.notified()).await;
        self.watcher.ended.get().map_or(Ok(()), |disconnect| Err(PageError::Ended(disconnect)))
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let mut session = self.watcher.session.borrow_mut();
        self.worker.with_hub(|hub| {
            session.unsubscribe_all(hub);
            hub.leave(self.id);
        });
        self.worker.leave(self.id, self.arrival);
    }
}

impl Output for Watcher {
    fn flush(&self) {
        self.told.notify_one();
    }

    fn hang_up(&self, disconnect: Disconnect) {
        self.ended.set(Some(disconnect));
        self.told.notify_one();
    }

    fn judge(&self, tokens: &Tokens, now: Timestamp) -> Option<Disconnect> {
        self.session.borrow_mut().judge(tokens, now)
    }
}

/// Why there is no page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PageError {
    /// The log cannot be read.
    Unreadable,
    /// Whoever waited may not wait any longer.
    Ended(Disconnect),
}

impl From<ReadError> for PageError {
    fn from(_: ReadError) -> Self {
        Self::Unreadable
    }
}
