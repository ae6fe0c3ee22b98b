//! What a client asks for in a query (WIRE §3.2), the same for every way out that has one.

use std::str::FromStr as _;
use std::time::Duration;

use actix_web::HttpRequest;
use shared::pattern::Pattern;
use shared::principal::Principal;

use crate::archive::Start;
use crate::cursor::Cursor;
use crate::filter::{Narrow, SourceRule};
use crate::subscription::Subscription;

/// WIRE §3.2: events of a page where nothing is said.
const LIMIT: usize = 100;
/// Events of a page, whatever is said.
const LIMIT_MAX: usize = 1000;
/// WIRE §3.2: the longest that a page can be waited for.
const WAIT_MAX: Duration = Duration::from_secs(30);

/// What a query asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Query {
    types: Vec<String>,
    sources: Vec<String>,
    subject: Option<String>,
    after: Option<String>,
    since: Option<String>,
    last: Option<String>,
    limit: Option<String>,
    wait: Option<String>,
    format: Option<String>,
    cursor: Option<String>,
}

/// Why a query cannot be answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QueryError {
    /// A parameter is malformed, or stands twice.
    Invalid,
    /// Where to begin is malformed.
    Resume,
    /// A type can be no type and no pattern.
    Events,
    /// More patterns than a session may have.
    TooManyEvents,
    /// A type is not granted.
    Forbidden,
}

/// How a page is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageRule {
    /// The most events.
    pub limit: usize,
    /// How long to wait for the first of them.
    pub wait: Duration,
}

/// What Server-Sent Events carry.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Carried {
    /// The data of the event.
    #[default]
    Data,
    /// The whole event as a CloudEvent.
    CloudEvent,
}

impl Query {
    /// Reads a query string. What we do not know is ignored.
    ///
    /// # Errors
    ///
    /// [`QueryError`] if something that can be there once is there twice.
    pub fn read(text: &str) -> Result<Self, QueryError> {
        let mut query = Self::default();
        for (name, value) in form_urlencoded::parse(text.as_bytes()) {
            let value = value.into_owned();
            let (place, twice) = match &*name {
                "type" => {
                    query.types.push(value);
                    continue;
                }
                "source" => {
                    query.sources.push(value);
                    continue;
                }
                "subject" => (&mut query.subject, QueryError::Invalid),
                "after" => (&mut query.after, QueryError::Resume),
                "since" => (&mut query.since, QueryError::Resume),
                "last" => (&mut query.last, QueryError::Resume),
                "limit" => (&mut query.limit, QueryError::Invalid),
                "wait" => (&mut query.wait, QueryError::Invalid),
                "format" => (&mut query.format, QueryError::Invalid),
                "cursor" => (&mut query.cursor, QueryError::Invalid),
                _ => continue,
            };
            if place.replace(value).is_some() {
                return Err(twice);
            }
        }
        Ok(query)
    }

    /// What is subscribed, judged by the grants of who asks.
    ///
    /// # Errors
    ///
    /// [`QueryError`] says what is wrong or not granted.
    pub fn subscription(
        &self,
        request: &HttpRequest,
        principal: &Principal,
        patterns_max: usize,
        is_stream: bool,
    ) -> Result<Subscription, QueryError> {
        if self.sources.len() > patterns_max {
            return Err(QueryError::TooManyEvents);
        }
        let patterns = self.patterns(principal, patterns_max)?;
        let otherwise = if is_stream { Start::Live } else { Start::First };
        let start = self.start(request, is_stream)?.unwrap_or(otherwise);
        let sources = self.sources.iter().map(|text| SourceRule::parse(text)).collect();
        let subject = self.subject.as_deref().map(Into::into);
        Ok(Subscription {
            patterns,
            narrow: Narrow { sources, subject, ..Narrow::default() },
            start,
        })
    }

    /// The types that are asked for, judged by the grants of who asks: all of these where none is named.
    ///
    /// # Errors
    ///
    /// [`QueryError`] says what is wrong or not granted.
    pub fn patterns(
        &self,
        principal: &Principal,
        patterns_max: usize,
    ) -> Result<Vec<Pattern>, QueryError> {
        if self.types.len() > patterns_max {
            return Err(QueryError::TooManyEvents);
        }
        if self.types.is_empty() {
            return Ok(principal.grant.subscribe.clone());
        }
        let named: Result<Vec<Pattern>, _> =
            self.types.iter().map(|text| Pattern::parse(text.as_str())).collect();
        let patterns = named.map_err(|_| QueryError::Events)?;
        let is_granted = |pattern: &Pattern| principal.grant.may_subscribe(pattern);
        if patterns.iter().all(is_granted) { Ok(patterns) } else { Err(QueryError::Forbidden) }
    }

    /// Where to begin. What a browser has seen last goes before the query, which stays the same at each
    /// reconnect.
    fn start(&self, request: &HttpRequest, is_stream: bool) -> Result<Option<Start>, QueryError> {
        if is_stream && let Some(cursor) = seen_last(request)? {
            return Ok(Some(Start::After(cursor)));
        }
        let (after, since) = (self.after.as_deref(), self.since.as_deref());
        Start::read(after, since, self.last.as_deref()).map_err(|_| QueryError::Resume)
    }

    /// Whether the places of events are asked for.
    ///
    /// # Errors
    ///
    /// It is neither `true` nor `false`.
    pub fn has_cursor(&self) -> Result<bool, QueryError> {
        match self.cursor.as_deref() {
            None | Some("false") => Ok(false),
            Some("true") => Ok(true),
            Some(_) => Err(QueryError::Invalid),
        }
    }

    /// How a page is asked for.
    ///
    /// # Errors
    ///
    /// It is malformed.
    pub fn page(&self) -> Result<PageRule, QueryError> {
        let limit = self.limit.as_deref().map_or(Some(LIMIT), number).filter(|limit| *limit > 0);
        let wait = self.wait.as_deref().map_or(Some(0), number);
        let wait = wait.and_then(|it| u64::try_from(it).ok()).map(Duration::from_secs);
        Ok(PageRule {
            limit: limit.ok_or(QueryError::Invalid)?.min(LIMIT_MAX),
            wait: wait.filter(|wait| *wait <= WAIT_MAX).ok_or(QueryError::Invalid)?,
        })
    }

    /// What Server-Sent Events are to carry.
    ///
    /// # Errors
    ///
    /// There is no such format.
    pub fn carried(&self) -> Result<Carried, QueryError> {
        match self.format.as_deref() {
            None | Some("data") => Ok(Carried::Data),
            Some("cloudevents") => Ok(Carried::CloudEvent),
            Some(_) => Err(QueryError::Invalid),
        }
    }
}

/// What a browser has seen last, as it says in a header (WHATWG HTML §9.2.4).
///
/// # Errors
///
/// It is no place.
pub fn seen_last(request: &HttpRequest) -> Result<Option<Cursor>, QueryError> {
    let seen = request.headers().get("last-event-id").filter(|it| !it.is_empty());
    let Some(last) = seen else { return Ok(None) };
    let last = last.to_str().map_err(|_| QueryError::Resume)?;
    Cursor::from_str(last).map(Some).map_err(|_| QueryError::Resume)
}

/// A query without what says where to begin, and without a secret: what makes a stream this stream.
pub fn without_start(query: &str) -> String {
    let mut rest = form_urlencoded::Serializer::new(String::new());
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        if !matches!(&*name, "after" | "since" | "last" | "ticket") {
            rest.append_pair(&name, &value);
        }
    }
    let rest = rest.finish();
    if rest.is_empty() { rest } else { rest + "&" }
}

fn number(text: &str) -> Option<usize> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

#[cfg(test)]
mod tests {
    use actix_web::test::TestRequest;
    use shared::principal::Grant;

    use super::*;

    fn principal(subscribe: &[&str]) -> Principal {
        let pattern = |text: &&str| Pattern::parse((*text).to_owned()).unwrap();
        let subscribe = subscribe.iter().map(pattern).collect();
        Principal {
            name: "p".into(),
            grant: Grant { publish: Vec::new(), subscribe, admin: false },
            expires: None,
            digest: None,
            key: None,
            source: "/p".into(),
        }
    }

    fn read(query: &str, last_event_id: Option<&str>) -> Result<Subscription, QueryError> {
        let mut request = TestRequest::default();
        if let Some(id) = last_event_id {
            request = request.insert_header(("last-event-id", id));
        }
        let principal = principal(&["a.>", "b"]);
        Query::read(query)?.subscription(&request.to_http_request(), &principal, 3, true)
    }

    #[test]
    fn where_to_begin_is_said_once_and_what_a_browser_has_seen_goes_first() {
        let after = |text: &str| Start::After(text.parse().unwrap());
        let table = [
            ("", None, Start::Live),
            ("after=e-7", None, after("e-7")),
            ("after=first", None, Start::First),
            ("last=10000", None, Start::Last(10_000)),
            ("since=1970-01-01T00:00:01Z", None, Start::Since(1_000_000)),
            ("after=e-7", Some("e-9"), after("e-9")),
            ("last=3", Some("e-9"), after("e-9")),
            ("after=e-7", Some(""), after("e-7")),
        ];
        for (query, last_event_id, start) in table {
            assert_eq!(read(query, last_event_id).map(|it| it.start), Ok(start), "{query}");
        }
        for query in [
            "after=",
            "after=x",
            "last=10001",
            "last=-1",
            "last=1&last=2",
            "since=now",
            "after=e-7&last=3",
            "after=first&after=first",
        ] {
            assert_eq!(read(query, None), Err(QueryError::Resume), "{query}");
        }
        assert_eq!(read("", Some("x")), Err(QueryError::Resume));
    }

    #[test]
    fn types_are_granted_or_else_all_that_is_granted_is_meant() {
        let patterns = |query: &str| -> Result<Vec<String>, QueryError> {
            let subscription = read(query, None)?;
            Ok(subscription.patterns.iter().map(|it| it.as_str().to_owned()).collect())
        };
        assert_eq!(patterns("type=a.x&type=b").unwrap(), ["a.x", "b"]);
        assert_eq!(patterns("other=1").unwrap(), ["a.>", "b"]);
        assert_eq!(patterns("type=c"), Err(QueryError::Forbidden));
        assert_eq!(patterns("type="), Err(QueryError::Events));
        assert_eq!(patterns("type=b&type=b&type=b&type=b"), Err(QueryError::TooManyEvents));
    }

    #[test]
    fn a_page_is_bounded() {
        let page = |query: &str| Query::read(query).unwrap().page().map(|it| (it.limit, it.wait));
        assert_eq!(page(""), Ok((100, Duration::ZERO)));
        assert_eq!(page("limit=7&wait=30"), Ok((7, Duration::from_secs(30))));
        assert_eq!(page("limit=99999"), Ok((1000, Duration::ZERO)));
        for query in ["limit=0", "limit=x", "limit=-1", "wait=31", "wait=1.5"] {
            assert_eq!(page(query), Err(QueryError::Invalid), "{query}");
        }
    }

    #[test]
    fn the_next_page_is_asked_for_like_this_one() {
        assert_eq!(without_start("type=a.%3E&after=e-1&limit=3"), "type=a.%3E&limit=3&");
        assert_eq!(without_start("after=e-1"), "");
    }
}
