//! Who on this worker is subscribed to what.
//!
//! Owned by one thread: no lock, no await, no log. The worker feeds it the log's batches in order
//! and empties the outboxes that it names as due. A panic in here ends the process, on whosever
//! stack: a hub in the middle of a change would be a silent gap.

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use bytestring::ByteString;
use shared::event::{Event, EventType};
use shared::pattern::Pattern;
use slab::Slab;

use crate::fatal::Fatal;
use crate::filter::{Narrow, SourceRule};
use crate::index::Index;
use crate::interest::Interest;
use crate::outbox::Outbox;
use crate::publication::{Format, Frames, Publication};

/// A session's place in the hub of its worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionId(usize);

impl SessionId {
    /// A number to tell sessions apart in the log of one worker.
    pub fn number(self) -> usize {
        self.0
    }
}

/// The subscriptions of one worker's sessions.
#[derive(Debug, Default)]
pub struct Hub {
    subscribers: Slab<Subscriber>,
    types: Index<SessionId>,
    /// Who wants one source only, by that.
    sources: HashMap<ByteString, Index<SessionId>>,
    /// Who also hears what is published to a channel of that name (WIRE §5).
    channels: Index<SessionId>,
    due: Vec<SessionId>,
    deliveries: u64,
    interest: Arc<Interest>,
    /// The offset of the last event that was offered to whoever wanted it.
    position: u64,
}

#[derive(Debug)]
struct Subscriber {
    outbox: Rc<Outbox>,
    /// Who is told that there is something in the outbox: mostly itself.
    owner: SessionId,
    /// How its events are written; a watcher has none, for it is only told that there are some.
    format: Option<&'static Format>,
    /// How those are written that it hears by a channel.
    channel_format: Option<&'static Format>,
    /// The place after the last event that was offered: each event is offered once, however many
    /// patterns match it.
    next_offset: u64,
    is_due: bool,
    /// What it wants of the types that it is subscribed to; all, if nothing is said.
    narrow: Option<Box<Narrow>>,
}

impl Hub {
    /// A hub that tells there whether it has subscriptions.
    pub fn new(interest: Arc<Interest>) -> Self {
        Self { interest, ..Self::default() }
    }

    /// Takes a session in; it is subscribed to nothing yet.
    pub fn enter(&mut self, outbox: Rc<Outbox>, format: &'static Format) -> SessionId {
        self.insert(outbox, Some(format))
    }

    /// Takes a watcher in, that is due when there is something for it, but is sent nothing.
    pub fn enter_watcher(&mut self, outbox: Rc<Outbox>) -> SessionId {
        self.insert(outbox, None)
    }

    fn insert(&mut self, outbox: Rc<Outbox>, format: Option<&'static Format>) -> SessionId {
        let _fatal = Fatal("the hub");
        let entry = self.subscribers.vacant_entry();
        let id = SessionId(entry.key());
        entry.insert(Subscriber {
            outbox,
            owner: id,
            format,
            channel_format: None,
            next_offset: 0,
            is_due: false,
            narrow: None,
        });
        id
    }

    /// Takes in another subscriber with the same outbox as its owner, who is due in its place.
    pub fn enter_beside(
        &mut self,
        owner: SessionId,
        outbox: Rc<Outbox>,
        format: &'static Format,
    ) -> SessionId {
        let id = self.insert(outbox, Some(format));
        if let Some(subscriber) = self.subscribers.get_mut(id.0) {
            subscriber.owner = owner;
        }
        id
    }

    /// How a session gets the events that it hears by a channel.
    pub fn set_channel_format(&mut self, id: SessionId, format: &'static Format) {
        if let Some(subscriber) = self.subscribers.get_mut(id.0) {
            subscriber.channel_format = Some(format);
        }
    }

    /// Another format for a session, from now on.
    pub fn set_format(&mut self, id: SessionId, format: &'static Format) {
        if let Some(subscriber) = self.subscribers.get_mut(id.0) {
            subscriber.format = Some(format);
        }
    }

    /// Offers a session only some of the events of its types. It is not subscribed to any yet.
    pub fn narrow(&mut self, id: SessionId, narrow: &Narrow) {
        if let Some(subscriber) = self.subscribers.get_mut(id.0) {
            // Most want all of them, and pay nothing for those who do not.
            subscriber.narrow = (!narrow.is_open()).then(|| Box::new(narrow.clone()));
        }
    }

    /// Offers a session nothing up to this offset, for it has had that.
    pub fn skip_up_to(&mut self, id: SessionId, offset: u64) {
        if let Some(subscriber) = self.subscribers.get_mut(id.0) {
            subscriber.next_offset = offset + 1;
        }
    }

    /// The offset of the last event that was offered to whoever wanted it.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// The position, also where nothing is subscribed and so nothing comes.
    pub fn learn_position(&mut self) -> u64 {
        self.attend();
        self.neglect();
        self.position
    }

    /// From now on batches come, and the position moves with them: for a subscription, or for who
    /// reads the log until it is there.
    pub fn attend(&mut self) {
        if let Some(end) = self.interest.begin() {
            self.position = self.position.max(end);
        }
    }

    /// Takes one [`Self::attend`] back.
    pub fn neglect(&mut self) {
        self.interest.end();
    }

    /// Takes out a session that is subscribed to nothing any more.
    pub fn leave(&mut self, id: SessionId) {
        let _fatal = Fatal("the hub");
        if self.subscribers.contains(id.0) {
            self.subscribers.remove(id.0);
        }
    }

    /// Subscribes a session to a pattern from now on. The caller never does so twice.
    pub fn subscribe(&mut self, id: SessionId, pattern: &Pattern) {
        let _fatal = Fatal("the hub");
        self.attend();
        match self.only_source(id) {
            Some(source) => self.sources.entry(source).or_default().insert(pattern, id),
            None => self.types.insert(pattern, id),
        }
    }

    /// The one source that a session wants, if that is so.
    fn only_source(&self, id: SessionId) -> Option<ByteString> {
        let narrow = self.subscribers.get(id.0)?.narrow.as_ref()?;
        match narrow.sources.as_slice() {
            [SourceRule::Exact(source)] => Some(source.as_str().into()),
            _ => None,
        }
    }

    /// Takes a subscription back, which must be there.
    pub fn unsubscribe(&mut self, id: SessionId, pattern: &Pattern) {
        let _fatal = Fatal("the hub");
        self.neglect();
        let Some(source) = self.only_source(id) else { return self.types.remove(pattern, id) };
        if let Some(index) = self.sources.get_mut(&source) {
            index.remove(pattern, id);
            if index.is_bare() {
                self.sources.remove(&source);
            }
        }
    }

    /// Subscribes a session to what is of such a type, or is published to such a channel.
    pub fn subscribe_channel(&mut self, id: SessionId, pattern: &Pattern) {
        let _fatal = Fatal("the hub");
        self.attend();
        self.channels.insert(pattern, id);
    }

    /// Takes such a subscription back, which must be there.
    pub fn unsubscribe_channel(&mut self, id: SessionId, pattern: &Pattern) {
        let _fatal = Fatal("the hub");
        self.neglect();
        self.channels.remove(pattern, id);
    }

    /// Offers each event of a batch to the sessions that it matches.
    pub fn publish(&mut self, publication: &Publication) {
        let _fatal = Fatal("the hub");
        let Self { subscribers, types, sources, channels, due, deliveries, position, .. } = self;
        let mut offering = Offering { subscribers, due, deliveries, publication, last: None };
        for (offset, index, event) in publication.iter() {
            let before = *offering.deliveries;
            // What is not behind the position was there before anybody here wanted anything.
            if offset > *position {
                let event_type = event.event_type.as_str();
                for by_type in std::iter::once(&*types).chain(sources.get(&event.source)) {
                    by_type.for_each_match(event_type, &mut |id| {
                        offering.offer(id, offset, index, event, false);
                    });
                }
                if !channels.is_bare() {
                    let named = event.channels().iter().map(EventType::as_str);
                    for name in std::iter::once(event_type).chain(named) {
                        channels.for_each_match(name, &mut |id| {
                            offering.offer(id, offset, index, event, true);
                        });
                    }
                }
            }
            if let Some(tally) = publication.tally(index) {
                let matched = *offering.deliveries - before;
                tally.add(u32::try_from(matched).unwrap_or(u32::MAX));
            }
        }
        *position = publication.last_offset().max(*position);
    }

    /// How many sessions would be offered an event of a type.
    pub fn count(&self, event_type: &str) -> u32 {
        let mut ids: Vec<SessionId> = Vec::new();
        for index in [&self.types, &self.channels].into_iter().chain(self.sources.values()) {
            index.for_each_match(event_type, &mut |id| ids.push(id));
        }
        // One event reaches a connection once, however many subscribers it has.
        let owner = |id: &SessionId| self.subscribers.get(id.0).filter(|it| it.format.is_some());
        let mut ids: Vec<SessionId> = ids.iter().filter_map(owner).map(|it| it.owner).collect();
        ids.sort_unstable();
        ids.dedup();
        u32::try_from(ids.len()).unwrap_or(u32::MAX)
    }

    /// Takes the sessions whose outboxes have something new.
    pub fn take_due(&mut self, taken: &mut Vec<SessionId>) {
        taken.append(&mut self.due);
        for id in taken {
            if let Some(subscriber) = self.subscribers.get_mut(id.0) {
                subscriber.is_due = false;
            }
        }
    }

    /// Takes the number of deliveries since the last time.
    pub fn take_deliveries(&mut self) -> u64 {
        std::mem::take(&mut self.deliveries)
    }

    /// The session for which most bytes wait, but for those that are ending.
    pub fn fullest(&self) -> Option<SessionId> {
        let sessions = self.subscribers.iter().filter(|(_, it)| !it.outbox.is_closed());
        let fullest = sessions.max_by_key(|(_, it)| it.outbox.bytes());
        fullest.filter(|(_, it)| it.outbox.bytes() > 0).map(|(_, it)| it.owner)
    }
}

/// A publication on its way to the sessions.
struct Offering<'a> {
    subscribers: &'a mut Slab<Subscriber>,
    due: &'a mut Vec<SessionId>,
    deliveries: &'a mut u64,
    publication: &'a Publication,
    /// The frames of the format that was asked for last: mostly all sessions have the same.
    last: Option<(&'static Format, &'a Arc<Frames>)>,
}

impl Offering<'_> {
    fn offer(
        &mut self,
        id: SessionId,
        offset: u64,
        index: usize,
        event: &Event,
        is_by_channel: bool,
    ) {
        let Some(subscriber) = self.subscribers.get_mut(id.0) else { return };
        if subscriber.next_offset > offset {
            return;
        }
        subscriber.next_offset = offset + 1;
        if subscriber.narrow.as_ref().is_some_and(|narrow| !narrow.admits(event)) {
            return;
        }
        let wanted = subscriber.channel_format.filter(|_| is_by_channel).or(subscriber.format);
        if let Some(wanted) = wanted {
            let frames = match self.last {
                Some((format, frames)) if std::ptr::eq(format, wanted) => frames,
                _ => {
                    let Some(frames) = self.publication.frames(wanted) else { return };
                    frames
                }
            };
            self.last = Some((wanted, frames));
            if subscriber.outbox.offer(frames, index).is_ok() {
                *self.deliveries += 1;
            }
        }
        // An overflown one is due as well: its output must hang up.
        let owner = subscriber.owner;
        if owner == id {
            return subscriber.mark_due(owner, self.due);
        }
        if let Some(owning) = self.subscribers.get_mut(owner.0) {
            owning.mark_due(owner, self.due);
        }
    }
}

impl Subscriber {
    fn mark_due(&mut self, id: SessionId, due: &mut Vec<SessionId>) {
        if !self.is_due {
            self.is_due = true;
            due.push(id);
        }
    }
}

#[cfg(test)]
mod tests;
