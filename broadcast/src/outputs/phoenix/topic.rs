//! One joined topic: the events of one source, kept ones first.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use shared::json::push_member;
use shared::memory::Held;
use shared::principal::Principal;

use crate::archive::{Opening, ReadError, Start};
use crate::catch_up::{CatchUp, Turn};
use crate::cloudevents::push_recovery;
use crate::filter::{Filter, Narrow, SourceRule};
use crate::hub::SessionId;
use crate::listing::Listing;
use crate::outputs::phoenix::message::Ref;
use crate::publication::Format;
use crate::session::Session;
use crate::websocket::dialect::Seat;

/// WIRE §4: so many kept events are in the answer to a join, at most; what else was asked for
/// follows it.
pub(super) const MESSAGES_MAX: usize = 100;
/// Events of such types would be taken for control messages: the second is what the official client
/// calls the replies to itself.
const CONTROL: &[&str] = &["phx_", "chan_reply_"];

/// What a topic is joined with.
pub(super) struct Join {
    pub(super) source: String,
    pub(super) join_ref: Ref,
    pub(super) reference: Ref,
    pub(super) raw_topic: Box<str>,
    pub(super) start: Start,
    /// The join of the channel that this one takes the place of.
    pub(super) superseded: Option<Ref>,
}

/// A joined topic.
pub(super) struct Topic {
    pub(super) join: Join,
    pub(super) session: Session,
    seat: Seat,
    format: &'static Format,
    narrow: Narrow,
    work: Work,
}

type Listed = Result<(Listing, Opening), ReadError>;

/// What is going on.
enum Work {
    /// The kept events for the answer are being read.
    Open(Pin<Box<dyn Future<Output = Listed>>>),
    /// What is behind the answer, which has ended at this offset, is being read.
    CatchUp(Box<CatchUp>, u64),
    Nothing,
}

/// What there is to say.
pub(super) enum News {
    /// The join is answered so.
    Joined(Vec<u8>, Held),
    /// Everything is live.
    Live,
    /// The topic's events cannot be read on.
    Failed,
}

impl Topic {
    /// Begins to join, with all that is granted.
    pub(super) fn new(
        seat: &Seat,
        principal: Arc<Principal>,
        format: &'static Format,
        join: Join,
    ) -> Self {
        let narrow = Narrow {
            sources: vec![SourceRule::Exact(join.source.clone())],
            spared: CONTROL,
            ..Narrow::default()
        };
        let patterns = principal.grant.subscribe.clone();
        let filter = Arc::new(Filter::new(&patterns, narrow.clone()));
        let session = seat.worker.with_hub(|hub| {
            let id = hub.enter_beside(seat.id, Rc::clone(&seat.outbox), format);
            hub.narrow(id, &narrow);
            let mut session = Session::new(id, principal);
            session.hold_back();
            session.subscribe(patterns, hub);
            session
        });
        let shared = &seat.worker.shared;
        let (archive, memory) = (Arc::clone(&shared.archive), Arc::clone(&shared.memory));
        let start = join.start.clone();
        let open = async move {
            let (mut listing, opening) =
                Listing::begin(&archive, &memory, &start, &filter, MESSAGES_MAX).await?;
            // However far apart they are: what is kept belongs into the answer.
            while !listing.is_full() && !listing.is_at_end {
                listing.fill(&filter).await?;
            }
            Ok((listing, opening))
        };
        let work = Work::Open(Box::pin(open));
        Self { join, session, seat: seat.clone(), format, narrow, work }
    }

    /// Whether the join is not answered yet.
    pub(super) fn is_opening(&self) -> bool {
        matches!(self.work, Work::Open(_))
    }

    /// Whether it reads the log.
    pub(super) fn is_at_work(&self) -> bool {
        !matches!(self.work, Work::Nothing)
    }

    /// Whether there is something to do though nothing has happened.
    pub(super) fn can_go_on(&self) -> bool {
        matches!(&self.work, Work::CatchUp(catch_up, _) if catch_up.can_go_on())
    }

    /// Goes on.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<News> {
        match &mut self.work {
            Work::Nothing => Poll::Pending,
            Work::Open(open) => {
                let opened = ready!(open.as_mut().poll(cx));
                self.work = Work::Nothing;
                Poll::Ready(opened.map_or(News::Failed, |(listing, opening)| {
                    let (response, held) = self.answer(listing, &opening);
                    News::Joined(response, held)
                }))
            }
            Work::CatchUp(catch_up, end) => Poll::Ready(match ready!(catch_up.poll(cx)) {
                // It begins where the answer has ended; what follows must still be there. That it
                // is not whole, the answer has said: what is lost is lost, and need not be in front.
                Ok(Turn::Opened(opening)) if opening.place == *end => News::Live,
                Ok(Turn::Joined(offset)) => {
                    self.work = Work::Nothing;
                    self.seat.worker.with_hub(|hub| self.session.join(offset, hub));
                    News::Live
                }
                Ok(Turn::Opened(_)) | Err(_) => News::Failed,
            }),
        }
    }

    /// The answer to the join; from there on the events follow one by one.
    fn answer(&mut self, listing: Listing, opening: &Opening) -> (Vec<u8>, Held) {
        let Seat { worker, outbox, .. } = &self.seat;
        let epoch = &worker.shared.archive.epoch;
        let (end, place) = (listing.place, epoch.at(listing.place));
        worker.count_deliveries(listing.count);
        let mut response = br#"{"messages":"#.to_vec();
        let (messages, held) = listing.into_json();
        response.extend_from_slice(&messages);
        push_member("cursor", &place.to_string(), &mut response);
        push_recovery(opening, epoch, &mut response);
        response.push(b'}');
        let patterns = self.session.patterns().cloned().collect();
        let (narrow, start) = (self.narrow.clone(), Start::After(place));
        let catch_up = CatchUp::new(worker, outbox, self.format, patterns, narrow, start);
        self.work = Work::CatchUp(Box::new(catch_up), end);
        (response, held)
    }

    fn id(&self) -> SessionId {
        self.session.id()
    }
}

impl Drop for Topic {
    fn drop(&mut self) {
        self.work = Work::Nothing;
        let id = self.id();
        self.seat.worker.with_hub(|hub| {
            self.session.unsubscribe_all(hub);
            hub.leave(id);
        });
    }
}
