//! The native protocol on a WebSocket (WIRE §1.2 to 1.4): what a client says, and what it hears.
//!
//! Rules without socket or clock. Whatever a message asks for is decided here; the connection only
//! carries it out.

use std::sync::Arc;

use actix_http::ws::{OpCode, Parser};
use bytes::BytesMut;
use serde::Deserialize;
use serde_json::value::RawValue;
use shared::credentials::Credentials;
use shared::event::Event;
use shared::json::{is_shallow, present};
use shared::pattern::Pattern;
use shared::principal::Principal;
use shared::tokens::{AuthError, Tokens};

use crate::disconnect::Disconnect;
use crate::hub::{Hub, SessionId};
use crate::publication::Format;
use crate::session::Session;

/// WIRE §1.2: so many failed authentications end the connection.
const FAILURES_MAX: u8 = 3;

/// RFC 6455 §5.2: the longest header of a frame that is not masked.
const HEADER_BYTES_MAX: usize = 10;

/// Events as the 2018 service sent them.
pub static FORMAT: Format = Format::native(encode_event);

/// One client's conversation.
#[derive(Debug)]
pub struct Native {
    id: SessionId,
    /// There once the client has proved who it is.
    session: Option<Session>,
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
}

impl Native {
    /// Begins a conversation; with a credential, if the upgrade showed one.
    pub fn new(id: SessionId, principal: Option<Arc<Principal>>) -> Self {
        let session = principal.map(|principal| Session::new(id, principal));
        Self { id, session, failures: 0 }
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
        match self.try_init(message, court) {
            Ok(disconnect) => Reaction { disconnect, ..Reaction::to("init", Ok(())) },
            Err(refusal) => self.refuse("init", refusal),
        }
    }

    /// The checks stand in the order of WIRE §1.2; nothing changes before the last of them.
    fn try_init(
        &mut self,
        message: &Message<'_>,
        court: Court<'_>,
    ) -> Result<Option<Disconnect>, Refusal> {
        let events = message.events()?;
        let principal = self.principal_of(message, court.tokens)?;
        let session = self.session.as_ref();
        let texts = || events.iter().flatten().map(String::as_str);
        let count = match session {
            Some(session) => session.count_with(texts()),
            None => texts().collect::<std::collections::BTreeSet<_>>().len(),
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
        let id = self.id;
        let session = self.session.get_or_insert_with(|| Session::new(id, Arc::clone(&principal)));
        let disconnect = session.renew(principal);
        session.subscribe(patterns, court.hub);
        Ok(disconnect)
    }

    /// Who the message, or else the session, or else an `anonymous` line says it is.
    fn principal_of(
        &self,
        message: &Message<'_>,
        tokens: &Tokens,
    ) -> Result<Arc<Principal>, Refusal> {
        match (&message.authentication, &self.session) {
            (None, Some(session)) => Ok(Arc::clone(session.principal())),
            (None, None) => Ok(tokens.authenticate(&Credentials::Absent)?),
            (Some(_), _) => Ok(tokens.authenticate(&message.credentials()?)?),
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

impl Reaction {
    /// The code in the answer.
    pub fn code(&self) -> &'static str {
        self.code
    }

    fn to(message: &str, result: Result<(), Refusal>) -> Self {
        let code = result.map_or_else(Refusal::code, |()| "OK");
        let answer = format!(r#"{{"type":"{message}","code":"{code}"}}"#);
        Self { answer, disconnect: None, is_refused: false, code }
    }
}

/// The members of a message that we know. None may stand twice.
#[derive(Default, Deserialize)]
struct Message<'a> {
    #[serde(borrow, rename = "type", default, deserialize_with = "present")]
    kind: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    authentication: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    events: Option<&'a RawValue>,
}

impl<'a> Message<'a> {
    fn read(text: &'a str) -> Result<Self, Refusal> {
        if !is_shallow(text.as_bytes()) {
            return Err(Refusal::Syntax);
        }
        // serde would take a list for a struct, member by member.
        if !text.trim_start_matches([' ', '\t', '\r', '\n']).starts_with('{') {
            let any: Result<&RawValue, _> = serde_json::from_str(text);
            return Err(any.map_or(Refusal::Syntax, |_| Refusal::EventsMissing));
        }
        serde_json::from_str(text).map_err(|_| Refusal::Syntax)
    }

    fn is(&self, kind: &str) -> bool {
        self.kind
            .is_some_and(|it| serde_json::from_str::<String>(it.get()).is_ok_and(|it| it == kind))
    }

    /// The strings of the list; `None` for one that is no Unicode text (half a surrogate pair),
    /// and so can be no type.
    fn events(&self) -> Result<Vec<Option<String>>, Refusal> {
        let events = self.events.ok_or(Refusal::EventsMissing)?;
        let events: Vec<&RawValue> =
            serde_json::from_str(events.get()).map_err(|_| Refusal::EventsMissing)?;
        let read = |event: &RawValue| match event.get().starts_with('"') {
            true => Ok(serde_json::from_str(event.get()).ok()),
            false => Err(Refusal::EventsMissing),
        };
        events.into_iter().map(read).collect()
    }

    fn credentials(&self) -> Result<Credentials, Refusal> {
        let shown = self.authentication.ok_or(Refusal::Auth(AuthError::Unauthenticated))?;
        let shown: String = serde_json::from_str(shown.get())
            .map_err(|_| Refusal::Auth(AuthError::Unauthenticated))?;
        Ok(Credentials::read(&shown))
    }
}

/// Why a message is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Refusal {
    Syntax,
    EventsMissing,
    Auth(AuthError),
    TooManyEvents,
    Events,
    Forbidden,
}

impl Refusal {
    fn code(self) -> &'static str {
        match self {
            Self::Syntax => "INVALID_SYNTAX",
            Self::EventsMissing => "INVALID_EVENTS_MISSING",
            Self::Auth(error) => error.code(),
            Self::TooManyEvents => "TOO_MANY_EVENTS",
            Self::Events => "INVALID_EVENTS",
            Self::Forbidden => "FORBIDDEN",
        }
    }
}

impl From<AuthError> for Refusal {
    fn from(error: AuthError) -> Self {
        Self::Auth(error)
    }
}

/// Appends an event as one text frame; `data` are the publisher's own bytes.
fn encode_event(event: &Event, out: &mut Vec<u8>) {
    const START: &[u8] = br#"{"type":"event","event":"#;
    const DATA: &[u8] = br#","data":"#;
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

/// RFC 6455 §5.2: the header of a server's text frame, final and not masked.
fn push_header(payload_bytes: usize, out: &mut Vec<u8>) {
    const FINAL_TEXT: u8 = 0x81;
    out.push(FINAL_TEXT);
    if let Ok(short @ ..126) = u8::try_from(payload_bytes) {
        out.push(short);
    } else if let Ok(medium) = u16::try_from(payload_bytes) {
        out.push(126);
        out.extend_from_slice(&medium.to_be_bytes());
    } else {
        out.push(127);
        out.extend_from_slice(&u64::try_from(payload_bytes).unwrap_or(u64::MAX).to_be_bytes());
    }
}

/// A frame of its own, such as an answer or a control frame.
pub fn frame(opcode: OpCode, payload: &[u8]) -> Vec<u8> {
    let mut out = BytesMut::with_capacity(payload.len() + HEADER_BYTES_MAX);
    Parser::write_message(&mut out, payload, opcode, true, false);
    out.into()
}

/// A Close frame with its code and reason.
pub fn close_frame(disconnect: Disconnect) -> Vec<u8> {
    let (code, reason) = disconnect.code_and_reason();
    frame(OpCode::Close, &[&code.to_be_bytes(), reason.as_bytes()].concat())
}

#[cfg(test)]
mod tests;
