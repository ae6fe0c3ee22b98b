//! Waits for events, as a session that is subscribed but is never sent anything: for those who read
//! the log themselves. It is judged, and ended, as any other session.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;

use jiff::Timestamp;
use shared::pattern::Pattern;
use shared::principal::Principal;
use shared::tokens::Tokens;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use crate::disconnect::Disconnect;
use crate::filter::Narrow;
use crate::hub::{Hub, SessionId};
use crate::outbox::Outbox;
use crate::session::Session;
use crate::worker::{Output, Worker};

/// Waits for events. Who is told of one looks into the log.
pub struct Watch {
    watcher: Rc<Watcher>,
    worker: Rc<Worker>,
    id: SessionId,
    arrival: u64,
}

struct Watcher {
    told: Notify,
    over: Notify,
    ended: Cell<Option<Disconnect>>,
    /// None where whoever comes has no credential that could be judged.
    session: RefCell<Option<Session>>,
}

impl Watch {
    /// Waits from now on for what some patterns match.
    pub fn begin(
        worker: &Rc<Worker>,
        principal: Arc<Principal>,
        patterns: &[Pattern],
        narrow: &Narrow,
    ) -> Self {
        Self::enter(worker, |id, hub| {
            let mut session = Session::new(id, principal);
            hub.narrow(id, narrow);
            session.subscribe(patterns.to_vec(), hub);
            Some(session)
        })
    }

    /// Waits for nothing but the end: of all sessions, or of what `patterns` was granted by.
    pub fn judged(worker: &Rc<Worker>, principal: Arc<Principal>, patterns: Vec<Pattern>) -> Self {
        Self::enter(worker, |id, hub| {
            let mut session = Session::new(id, principal);
            session.hold_back();
            session.subscribe(patterns, hub);
            Some(session)
        })
    }

    /// Waits for nothing but the end of all sessions.
    pub fn stay(worker: &Rc<Worker>) -> Self {
        Self::enter(worker, |_, _| None)
    }

    fn enter(
        worker: &Rc<Worker>,
        begin: impl FnOnce(SessionId, &mut Hub) -> Option<Session>,
    ) -> Self {
        let outbox = Rc::new(Outbox::new(1, &worker.shared.memory));
        let (id, session) = worker.with_hub(|hub| {
            let id = hub.enter_watcher(outbox);
            (id, begin(id, hub))
        });
        let session = RefCell::new(session);
        let (told, over, ended) = (Notify::new(), Notify::new(), Cell::new(None));
        let watcher = Rc::new(Watcher { told, over, ended, session });
        let arrival = worker.enter(id, Rc::<Watcher>::clone(&watcher));
        Self { watcher, worker: Rc::clone(worker), id, arrival }
    }

    /// Counts an event that the session was given by another way than the hub.
    pub fn count_delivery(&self) {
        self.worker.count_deliveries(1);
    }

    /// Why the session has ended, if it has.
    pub fn ended(&self) -> Option<Disconnect> {
        self.watcher.ended.get()
    }

    /// Waits until there may be something, or the time is over.
    ///
    /// # Errors
    ///
    /// The session has ended.
    pub async fn wait_until(&self, deadline: Instant) -> Result<(), Disconnect> {
        // Either way one looks.
        let _ = timeout_at(deadline, self.watcher.told.notified()).await;
        self.ended().map_or(Ok(()), Err)
    }

    /// Waits for the end of the session. One task at a time.
    pub async fn end(&self) -> Disconnect {
        loop {
            match self.ended() {
                Some(disconnect) => return disconnect,
                None => self.watcher.over.notified().await,
            }
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let mut session = self.watcher.session.borrow_mut();
        self.worker.with_hub(|hub| {
            if let Some(session) = &mut *session {
                session.unsubscribe_all(hub);
            }
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
        if self.ended.get().is_none() {
            self.ended.set(Some(disconnect));
        }
        self.told.notify_one();
        self.over.notify_one();
    }

    fn judge(&self, tokens: &Tokens, now: Timestamp) -> Option<Disconnect> {
        self.session.borrow_mut().as_mut()?.judge(tokens, now)
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch").field("id", &self.id).finish_non_exhaustive()
    }
}
