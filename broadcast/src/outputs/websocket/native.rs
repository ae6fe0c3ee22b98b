//! The native protocol on a WebSocket (WIRE §1.2 to 1.4): what a client says, and what it hears.
//!
//! Rules without socket or clock. Whatever a message asks for is decided here; the connection only
//! carries it out.

use std::collections::BTreeSet;
use std::sync::Arc;

use shared::credentials::Credentials;
use shared::pattern::Pattern;
use shared::principal::Principal;
use shared::tokens::Tokens;

use crate::archive::{Opening, Recovery, Start};
use crate::cloudevents::{self, Extension, push_member, push_string};
use crate::cursor::Epoch;
use crate::disconnect::Disconnect;
use crate::hub::{Hub, SessionId};
use crate::outputs::websocket::frame::{HEADER_BYTES_MAX, push_header, push_text};
use crate::outputs::websocket::message::{Message, Refusal, Wish};
use crate::publication::{Format, Placed, Slot};
use crate::session::Session;
use crate::subscription::Subscription;

/// WIRE §1.2: so many failed authentications end the connection.
const FAILURES_MAX: u8 = 3;

/// Events as the 2018 service sent them.
pub static PLAIN: Format = Format::new(Slot::Native, encode_plain);
/// The same with cursor, id, time and source.
pub static WITH_CURSOR: Format = Format::new(Slot::NativeCursor, encode_with_cursor);
/// CloudEvents.
pub static CLOUDEVENTS: Format = Format::new(Slot::CloudEvents, |placed, out| {
    push_text(out, |out| cloudevents::encode(placed, Extension::None, out));
});
/// CloudEvents with cursor.
pub static CLOUDEVENTS_WITH_CURSOR: Format = Format::new(Slot::CloudEventsCursor, |placed, out| {
    push_text(out, |out| cloudevents::encode(placed, Extension::Cursor, out));
});

/// One client's conversation.
#[derive(Debug)]
pub struct Native {
    id: SessionId,
    /// There once the client has proved who it is.
    session: Option<Session>,
    /// The first init that succeeded is behind us.
    has_begun: bool,
    wants_cursor: bool,
    /// How its events are written.
    pub format: &'static Format,
    failures: u8,
}

/// What a message leads to.
#[derive(Debug, PartialEq, Eq)]
pub struct Reaction {
    /// What the client hears: a JSON text.
    pub answer: String,
    /// Why the connection ends after that.
    pub disconnect: Option<Disconnect>,
    /// A credential was refused.
    pub is_refused: bool,
    /// Where the client's events begin, if they are to be read from the log: it is answered when
    /// that is found out, and not before.
    pub start: Option<Start>,
    code: &'static str,
}

/// What a message is judged by.
#[derive(Debug)]
pub struct Court<'a> {
    /// Who may come in.
    pub tokens: &'a Tokens,
    /// The most patterns of a session.
    pub patterns_max: usize,
    /// Where to subscribe.
    pub hub: &'a mut Hub,
    /// The life of the log.
    pub epoch: &'a Epoch,
}

impl Native {
    /// Begins a conversation; with a credential, if the upgrade showed one.
    pub fn new(id: SessionId, principal: Option<Arc<Principal>>) -> Self {
        let session = principal.map(|principal| Session::new(id, principal));
        Self { id, session, has_begun: false, wants_cursor: false, format: &PLAIN, failures: 0 }
    }

    /// The session, once the client has proved who it is.
    pub fn session(&self) -> Option<&Session> {
        self.session.as_ref()
    }

    /// The session, to be judged.
    pub fn session_mut(&mut self) -> Option<&mut Session> {
        self.session.as_mut()
    }

    /// Subscribes a client that has asked in its request, and says nothing here.
    pub fn attach(&mut self, subscription: &Subscription, hub: &mut Hub) {
        self.format = &CLOUDEVENTS_WITH_CURSOR;
        hub.set_format(self.id, self.format);
        hub.narrow(self.id, &subscription.narrow);
        if let Some(session) = &mut self.session {
            session.hold_back();
            session.subscribe(subscription.patterns.clone(), hub);
        }
    }

    /// Takes a text message.
    pub fn receive(&mut self, text: &str, court: Court<'_>) -> Reaction {
        match Message::read(text) {
            Ok(message) if message.is("unsubscribe") => self.unsubscribe(&message, court),
            Ok(message) if message.is("auth") => self.authenticate(&message, &court),
            Ok(message) => self.init(&message, court),
            Err(code) => Reaction::to("init", Err(code)),
        }
    }

    /// Takes a message that is not even text.
    pub fn receive_binary(&self) -> Reaction {
        Reaction::to("init", Err(Refusal::Syntax))
    }

    fn init(&mut self, message: &Message<'_>, court: Court<'_>) -> Reaction {
        let epoch = court.epoch;
        match self.try_init(message, court) {
            Ok(Accepted { disconnect, start, opening }) => {
                let mut reaction = Reaction { disconnect, start, ..Reaction::to("init", Ok(())) };
                if let Some(opening) = opening {
                    reaction.answer = self.answer_opening(&opening, epoch);
                }
                reaction
            }
            Err(refusal) => self.refuse("init", refusal),
        }
    }

    /// The answer to an init whose events begin there.
    pub fn answer_opening(&self, opening: &Opening, epoch: &Epoch) -> String {
        let mut answer = br#"{"type":"init","code":"OK""#.to_vec();
        if self.wants_cursor {
            push_member("cursor", &epoch.at(opening.place).to_string(), &mut answer);
        }
        match opening.recovered {
            Some(Recovery::Whole) => answer.extend_from_slice(br#","recovered":true"#),
            Some(Recovery::Broken { earliest }) => {
                answer.extend_from_slice(br#","recovered":false"#);
                push_member("earliest", &epoch.at(earliest).to_string(), &mut answer);
            }
            None => {}
        }
        answer.push(b'}');
        String::from_utf8(answer).unwrap_or_default()
    }

    /// The checks stand in the order of WIRE §1.2; nothing changes before the last of them.
    fn try_init(&mut self, message: &Message<'_>, court: Court<'_>) -> Result<Accepted, Refusal> {
        let events = message.events()?;
        let principal = self.principal_of(message, court.tokens)?;
        let session = self.session.as_ref();
        let texts = || events.iter().flatten().map(String::as_str);
        let count = match session {
            Some(session) => session.count_with(texts()),
            None => texts().collect::<BTreeSet<_>>().len(),
        };
        if count > court.patterns_max {
            return Err(Refusal::TooManyEvents);
        }
        let patterns: Result<Vec<Pattern>, _> = texts().map(Pattern::parse).collect();
        let patterns = patterns.map_err(|_| Refusal::Events)?;
        if events.iter().any(Option::is_none) {
            return Err(Refusal::Events);
        }
        if !patterns.iter().all(|pattern| principal.grant.may_subscribe(pattern)) {
            return Err(Refusal::Forbidden);
        }
        // Where to begin and what to send is said once, for all that the session will have.
        let wish = match self.has_begun {
            false => Some(message.wish()?),
            true if message.has_wish() => return Err(Refusal::Resume),
            true => None,
        };
        let id = self.id;
        let session = self.session.get_or_insert_with(|| Session::new(id, Arc::clone(&principal)));
        let disconnect = session.renew(principal);
        let reads_log = wish.as_ref().is_some_and(|wish| wish.start != Start::Live);
        if reads_log {
            session.hold_back();
        }
        session.subscribe(patterns, court.hub);
        let Some(wish) = wish else {
            return Ok(Accepted { disconnect, start: None, opening: None });
        };
        self.has_begun = true;
        self.wants_cursor = wish.wants_cursor;
        self.format = wish.format();
        court.hub.set_format(id, self.format);
        if reads_log {
            return Ok(Accepted { disconnect, start: Some(wish.start), opening: None });
        }
        let opening = wish.wants_cursor.then(|| {
            // With nothing subscribed nobody tells the hub how far the log is; it need not.
            Opening { place: court.hub.learn_position(), recovered: None }
        });
        Ok(Accepted { disconnect, start: None, opening })
    }

    /// Who the message, or else the session, or else an `anonymous` line says it is.
    fn principal_of(
        &self,
        message: &Message<'_>,
        tokens: &Tokens,
    ) -> Result<Arc<Principal>, Refusal> {
        match &self.session {
            _ if message.has_credentials() => Ok(tokens.authenticate(&message.credentials()?)?),
            Some(session) => Ok(Arc::clone(session.principal())),
            None => Ok(tokens.authenticate(&Credentials::Absent)?),
        }
    }

    fn authenticate(&mut self, message: &Message<'_>, court: &Court<'_>) -> Reaction {
        let shown = message.credentials().and_then(|it| Ok(court.tokens.authenticate(&it)?));
        let principal = match shown {
            Ok(principal) => principal,
            Err(refusal) => return self.refuse("auth", refusal),
        };
        let disconnect = match &mut self.session {
            Some(session) => session.renew(principal),
            None => {
                self.session = Some(Session::new(self.id, principal));
                None
            }
        };
        Reaction { disconnect, ..Reaction::to("auth", Ok(())) }
    }

    fn unsubscribe(&mut self, message: &Message<'_>, court: Court<'_>) -> Reaction {
        let events = match message.events() {
            Ok(events) => events,
            Err(refusal) => return self.refuse("unsubscribe", refusal),
        };
        // What can be no pattern was never subscribed.
        let patterns: Vec<Pattern> =
            events.into_iter().flatten().filter_map(|text| Pattern::parse(text).ok()).collect();
        if let Some(session) = &mut self.session {
            session.unsubscribe(patterns.iter(), court.hub);
        }
        Reaction::to("unsubscribe", Ok(()))
    }

    fn refuse(&mut self, to: &str, refusal: Refusal) -> Reaction {
        let mut reaction = Reaction::to(to, Err(refusal));
        if matches!(refusal, Refusal::Auth(_)) {
            self.failures = self.failures.saturating_add(1);
            reaction.is_refused = true;
            reaction.disconnect =
                (self.failures >= FAILURES_MAX).then_some(Disconnect::Unauthenticated);
        }
        reaction
    }
}

/// An init that was found good.
struct Accepted {
    /// Another credential may not have what is subscribed.
    disconnect: Option<Disconnect>,
    /// Where the events begin, if they are to be read from the log.
    start: Option<Start>,
    /// Where they begin, if the client wants to know, and it is known.
    opening: Option<Opening>,
}

impl Wish {
    fn format(&self) -> &'static Format {
        match (self.wants_cloudevents, self.wants_cursor) {
            (false, false) => &PLAIN,
            (false, true) => &WITH_CURSOR,
            (true, false) => &CLOUDEVENTS,
            (true, true) => &CLOUDEVENTS_WITH_CURSOR,
        }
    }
}

impl Reaction {
    /// The code in the answer.
    pub fn code(&self) -> &'static str {
        self.code
    }

    fn to(message: &str, result: Result<(), Refusal>) -> Self {
        let code = result.map_or_else(Refusal::code, |()| "OK");
        let answer = format!(r#"{{"type":"{message}","code":"{code}"}}"#);
        Self { answer, disconnect: None, is_refused: false, start: None, code }
    }
}

const START: &[u8] = br#"{"type":"event","event":"#;
const DATA: &[u8] = br#","data":"#;

/// Appends an event as one text frame; `data` are the publisher's own bytes.
fn encode_plain(placed: &Placed<'_>, out: &mut Vec<u8>) {
    let event = placed.event;
    let event_type = serde_json::Value::from(event.event_type.as_str()).to_string();
    let data = event.data.as_ref().map(|data| data.as_bytes().as_ref());
    let length =
        START.len() + event_type.len() + data.map_or(0, |data| DATA.len() + data.len()) + 1;
    out.reserve(length + HEADER_BYTES_MAX);
    push_header(length, out);
    out.extend_from_slice(START);
    out.extend_from_slice(event_type.as_bytes());
    if let Some(data) = data {
        out.extend_from_slice(DATA);
        out.extend_from_slice(data);
    }
    out.push(b'}');
}

/// Appends an event with its cursor, id, time and source.
fn encode_with_cursor(placed: &Placed<'_>, out: &mut Vec<u8>) {
    push_text(out, |out| {
        let event = placed.event;
        out.extend_from_slice(START);
        push_string(event.event_type.as_str(), out);
        if let Some(data) = &event.data {
            out.extend_from_slice(DATA);
            out.extend_from_slice(data.as_bytes());
        }
        push_member("cursor", &placed.cursor().to_string(), out);
        push_member("id", &event.id, out);
        push_member("time", event.time.as_str(), out);
        push_member("source", &event.source, out);
        out.push(b'}');
    });
}

#[cfg(test)]
mod tests;
