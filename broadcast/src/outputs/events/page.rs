//! A page of kept events (WIRE §3.2), which can be waited for.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use actix_web::HttpResponse;
use actix_web::body::BoxBody;
use actix_web::http::StatusCode;
use actix_web::http::header::{CONTENT_TYPE, HeaderName, HeaderValue, LINK};
use jiff::Timestamp;
use shared::event::Event;
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
    let Subscription { patterns, narrow, start } = &subscription;
    let filter = Arc::new(Filter::new(patterns, narrow.clone()));
    let opening = archive.open(&start.clone(), &filter, archive.end()).await?;
    let deadline = Instant::now() + rule.wait;
    let mut gathered = Excerpt { events: Vec::new(), place: opening.place };
    gather(worker, &filter, rule.limit, &mut gathered).await?;
    if gathered.events.is_empty() && rule.wait > Duration::ZERO {
        let watch = Watch::begin(worker, principal, &subscription);
        while gathered.events.is_empty() {
            // What came before the watch began is there now; what comes after it tells us.
            gather(worker, &filter, rule.limit, &mut gathered).await?;
            if gathered.events.is_empty() && !watch.wait_until(deadline).await? {
                break;
            }
        }
    }
    Ok(write(worker, &opening, &gathered, query))
}

/// Reads on until the page is full, or there is nothing more.
async fn gather(
    worker: &Worker,
    filter: &Arc<Filter>,
    limit: usize,
    gathered: &mut Excerpt,
) -> Result<(), ReadError> {
    let archive = &worker.shared.archive;
    let mut bytes = 0;
    while gathered.events.len() < limit && bytes < PAGE_BYTES_MAX {
        let before = gathered.place;
        let mut excerpt = archive.read(before, filter, PAGE_BYTES_MAX - bytes).await?;
        let room = limit - gathered.events.len();
        if excerpt.events.len() > room {
            excerpt.events.truncate(room);
            excerpt.place = excerpt.events.last().map_or(before, |(offset, _)| *offset);
        }
        bytes += excerpt.events.iter().map(|(_, event)| Event::size(event)).sum::<usize>();
        gathered.place = excerpt.place;
        gathered.events.append(&mut excerpt.events);
        if excerpt.place == before || excerpt.place >= archive.end() {
            break;
        }
    }
    Ok(())
}

fn write(worker: &Worker, opening: &Opening, gathered: &Excerpt, query: &str) -> HttpResponse {
    let epoch = &worker.shared.archive.epoch;
    let mut body = vec![b'['];
    for (index, (offset, event)) in gathered.events.iter().enumerate() {
        if index > 0 {
            body.push(b',');
        }
        let placed = Placed { epoch, offset: *offset, event };
        cloudevents::encode(&placed, Extension::Cursor, &mut body);
    }
    body.push(b']');
    worker.count_deliveries(gathered.events.len());
    let mut response = HttpResponse::with_body(StatusCode::OK, BoxBody::new(body));
    let headers = response.headers_mut();
    let kind = HeaderValue::from_static("application/cloudevents-batch+json; charset=utf-8");
    headers.insert(CONTENT_TYPE, kind);
    let next = epoch.at(gathered.place);
    let mut add = |name: HeaderName, value: String| {
        // What we put in has no character that a header could not hold.
        if let Ok(value) = HeaderValue::from_str(&value) {
            headers.insert(name, value);
        }
    };
    add(LINK, format!("</events?{query}after={next}>; rel=\"next\""));
    if let Some(Recovery::Broken { earliest }) = opening.recovered {
        add(HeaderName::from_static("gateway-recovered"), "false".to_owned());
        let earliest = epoch.at(earliest).to_string();
        add(HeaderName::from_static("gateway-earliest"), earliest);
    }
    response
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
            hub.narrow(id, subscription.narrow.clone());
            session.subscribe(subscription.patterns.clone(), hub);
            (id, session)
        });
        let session = RefCell::new(session);
        let watcher = Rc::new(Watcher { told: Notify::new(), ended: Cell::new(None), session });
        let arrival = worker.enter(id, Rc::<Watcher>::clone(&watcher));
        Self { watcher, worker: Rc::clone(worker), id, arrival }
    }

    /// Says whether there may be something now, or else the time is over.
    async fn wait_until(&self, deadline: Instant) -> Result<bool, PageError> {
        let is_told = timeout_at(deadline, self.watcher.told.notified()).await.is_ok();
        match self.watcher.ended.get() {
            Some(disconnect) => Err(PageError::Ended(disconnect)),
            None => Ok(is_told),
        }
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
