//! A page of kept events (WIRE §3.2), which can be waited for.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use actix_web::HttpResponse;
use actix_web::http::StatusCode;
use actix_web::http::header::{CONTENT_TYPE, HeaderName, HeaderValue, LINK};
use jiff::Timestamp;
use shared::http::held_json;
use shared::principal::Principal;
use shared::tokens::Tokens;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use crate::archive::{Opening, ReadError, Recovery};
use crate::disconnect::Disconnect;
use crate::filter::Filter;
use crate::hub::SessionId;
use crate::listing::Listing;
use crate::outbox::Outbox;
use crate::outputs::events::PageRule;
use crate::session::Session;
use crate::subscription::Subscription;
use crate::worker::{Output, Worker};

/// How often one looks while a page is waited for, though nobody was told.
const LOOK_EVERY: Duration = Duration::from_secs(5);
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
    let (archive, memory) = (&worker.shared.archive, &worker.shared.memory);
    let filter = Arc::new(Filter::new(&subscription.patterns, subscription.narrow.clone()));
    let deadline = Instant::now() + rule.wait;
    let start = &subscription.start;
    let (mut page, opening) = Listing::begin(archive, memory, start, &filter, rule.limit).await?;
    // Who waits is not sent away while there is more to look through; others go on with the next page.
    while page.is_empty() && !page.is_at_end && Instant::now() < deadline {
        page.fill(&filter).await?;
    }
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
    Ok(respond(worker, page, &opening, query))
}

fn respond(worker: &Worker, page: Listing, opening: &Opening, query: &str) -> HttpResponse {
    let epoch = &worker.shared.archive.epoch;
    worker.count_deliveries(page.count);
    let place = page.place;
    let (body, held) = page.into_json();
    let mut response = held_json(StatusCode::OK, body.into(), held);
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
