//! A page of kept events (WIRE §3.2), which can be waited for.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use actix_web::HttpResponse;
use actix_web::http::StatusCode;
use actix_web::http::header::{CONTENT_TYPE, HeaderName, HeaderValue, LINK};
use shared::http::held_json;
use shared::principal::Principal;
use tokio::time::Instant;

use crate::archive::{Opening, ReadError, Recovery};
use crate::disconnect::Disconnect;
use crate::filter::Filter;
use crate::listing::Listing;
use crate::query::PageRule;
use crate::subscription::Subscription;
use crate::watch::Watch;
use crate::worker::Worker;

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
        let Subscription { patterns, narrow, .. } = &subscription;
        let watch = Watch::begin(worker, principal, patterns, narrow);
        loop {
            // What came before the watch began is there now; what comes after it tells us. Events of
            // other types tell nobody: without a look now and then, the place could be freed.
            page.fill(&filter).await?;
            let now = Instant::now();
            if !page.is_empty() || !page.is_at_end || now >= deadline {
                break;
            }
            let until = deadline.min(now + LOOK_EVERY);
            watch.wait_until(until).await.map_err(PageError::Ended)?;
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
