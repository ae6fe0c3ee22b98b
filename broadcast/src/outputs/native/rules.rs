//! The rules of the native protocol (WIRE §1.2 to 1.4): what a client says, and what it hears.
//!
//! Without socket or clock. Whatever a message asks for is decided here, and carried out by others.

use std::collections::BTreeSet;
use std::sync::Arc;

use shared::cloudevents::push_data;
use shared::credentials::Credentials;
use shared::event::{Data, Event};
use shared::json::{push_member, push_string};
use shared::pattern::Pattern;
use shared::principal::Principal;
use shared::publisher::Approved;
use shared::tokens::Tokens;

use crate::archive::{Opening, Start};
use crate::cloudevents::push_recovery;
use crate::cursor::Epoch;
use crate::disconnect::Disconnect;
use crate::hub::{Hub, SessionId};
use crate::outputs::native::message::{Message, Refusal, Wish};
use crate::publication::{Format, Placed, Slot};
use crate::session::Session;
use crate::websocket::formats::{CLOUDEVENTS, CLOUDEVENTS_WITH_CURSOR};
use crate::websocket::frame::{HEADER_BYTES_MAX, push_header, push_text};

/// WIRE §1.2: so many failed authentications end the connection.
const FAILURES_MAX: u8 = 3;

/// Events as the 2018 service sent them.
pub static PLAIN: Format = Format::new(Slot::Native, encode_plain);
/// The same with cursor, id, time and source.
pub static WITH_CURSOR: Format = Format::new(Slot::NativeCursor, encode_with_cursor);
/// One client's conversation.
#[derive(Debug)]
pub struct Native {
    pub(super) id: SessionId,
    /// There once the client has proved who it is.
    pub(super) session: Option<Session>,
    /// The first init that succeeded is behind us.
    pub(super) has_begun: bool,
    /// Whether it is told places.
    pub wants_cursor: bool,
    /// How its events are written.
    pub format: &'static Format,
    failures: u8,
}

/// What a message leads to.
#[derive(Debug)]
pub struct Outcome {
    /// What the client hears, if anything: a JSON text.
    pub answer: Option<String>,
    /// Why the connection ends after that.
    pub disconnect: Option<Disconnect>,
    /// A credential was refused.
    pub is_refused: bool,
    /// Where the client's events begin, if they are to be read from the log: it is answered when
    /// that is found out, and not before.
    pub start: Option<Start>,
    /// An event that is to be published.
    pub event: Option<Approved>,
    pub(super) code: &'static str,
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

    /// Takes a text message.
    pub fn receive(&mut self, text: &str, court: Court<'_>) -> Outcome {
        match Message::read(text) {
            Ok(message) if message.has_channels() => self.obey(text, &message, court),
            Ok(message) if message.is("unsubscribe") => self.unsubscribe(&message, court),
            Ok(message) if message.is("auth") => self.authenticate(&message, &court),
            Ok(message) => self.init(&message, court),
            Err(code) => Outcome::to("init", Err(code)),
        }
    }

    /// Takes a message that is not even text.
    pub fn receive_binary(&self) -> Outcome {
        Outcome::to("init", Err(Refusal::Syntax))
    }

    fn init(&mut self, message: &Message<'_>, court: Court<'_>) -> Outcome {
        let epoch = court.epoch;
        match self.try_init(message, court) {
            Ok(Accepted { disconnect, start, opening }) => {
                let mut outcome = Outcome { disconnect, start, ..Outcome::to("init", Ok(())) };
                if let Some(opening) = opening {
                    outcome.answer = Some(self.answer_opening(&opening, epoch));
                }
                outcome
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
        push_recovery(opening, epoch, &mut answer);
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
        let hears_channels = session.is_some_and(|session| session.channels().next().is_some());
        // What it hears by its channels is live already, and must not be overtaken.
        if hears_channels && wish.as_ref().is_some_and(|wish| wish.start != Start::Live) {
            return Err(Refusal::Resume);
        }
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

    fn authenticate(&mut self, message: &Message<'_>, court: &Court<'_>) -> Outcome {
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
        Outcome { disconnect, ..Outcome::to("auth", Ok(())) }
    }

    fn unsubscribe(&mut self, message: &Message<'_>, court: Court<'_>) -> Outcome {
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
        Outcome::to("unsubscribe", Ok(()))
    }

    fn refuse(&mut self, to: &str, refusal: Refusal) -> Outcome {
        let mut outcome = Outcome::to(to, Err(refusal));
        if matches!(refusal, Refusal::Auth(_)) {
            self.failures = self.failures.saturating_add(1);
            outcome.is_refused = true;
            outcome.disconnect =
                (self.failures >= FAILURES_MAX).then_some(Disconnect::Unauthenticated);
        }
        outcome
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

impl Outcome {
    /// The code in the answer.
    pub fn code(&self) -> &'static str {
        self.code
    }

    fn to(message: &str, result: Result<(), Refusal>) -> Self {
        let code = result.map_or_else(Refusal::code, |()| "OK");
        let answer = format!(r#"{{"type":"{message}","code":"{code}"}}"#);
        Self { answer: Some(answer), code, ..Self::nothing() }
    }

    /// Nothing is to be done.
    pub(super) fn nothing() -> Self {
        Self {
            answer: None,
            disconnect: None,
            is_refused: false,
            start: None,
            event: None,
            code: "OK",
        }
    }
}

const START: &[u8] = br#"{"type":"event","event":"#;
const DATA: &[u8] = br#","data":"#;

/// Appends an event as one text frame; `data` are the publisher's own bytes.
fn encode_plain(placed: &Placed<'_>, out: &mut Vec<u8>) {
    let event = placed.event;
    let data = match &event.data {
        None => None,
        Some(Data::Json(json)) => Some(json.as_bytes()),
        Some(Data::Text(_) | Data::Binary(_)) => {
            return push_text(out, |out| {
                push_event(event, out);
                out.push(b'}');
            });
        }
    };
    let event_type = serde_json::Value::from(event.event_type.as_str()).to_string();
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

/// Appends an event but for its end.
fn push_event(event: &Event, out: &mut Vec<u8>) {
    out.extend_from_slice(START);
    push_string(event.event_type.as_str(), out);
    push_data(event.data.as_ref(), out);
}

/// Appends an event with its cursor, id, time and source.
fn encode_with_cursor(placed: &Placed<'_>, out: &mut Vec<u8>) {
    push_text(out, |out| {
        let event = placed.event;
        push_event(event, out);
        push_member("cursor", &placed.cursor().to_string(), out);
        push_member("id", &event.id, out);
        push_member("time", event.time.as_str(), out);
        push_member("source", &event.source, out);
        out.push(b'}');
    });
}

#[cfg(test)]
mod tests;
