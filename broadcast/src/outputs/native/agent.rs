//! The messages of an Eventual Agent on the same WebSocket (WIRE §5): subscribe, unsubscribe, publish.
//!
//! What succeeds is not answered; what cannot be done gets one sentence, as the original had it.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde::Deserialize;
use serde_json::value::RawValue;
use shared::cloudevents::reader::{Flavour, read_for};
use shared::credentials::Credentials;
use shared::event::{Attributes, EventType};
use shared::json::present;
use shared::pattern::Pattern;
use shared::principal::{GLOBAL, Principal};
use shared::publisher::Approved;

use crate::archive::Start;
use crate::disconnect::Disconnect;
use crate::outputs::native::message::Message;
use crate::outputs::native::rules::{Court, Native, Outcome};
use crate::session::Session;
use crate::websocket::formats::{CLOUDEVENTS, CLOUDEVENTS_WITH_CURSOR};

/// What is answered to whatever cannot be done: a JSON string.
const INVALID: &str = "\"Invalid Request\"";

/// The members beside those that the native protocol has, too.
#[derive(Deserialize)]
struct AgentMessage<'a> {
    #[serde(borrow, default, deserialize_with = "present")]
    token: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    event: Option<&'a RawValue>,
}

/// Why a message leads to nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// It cannot be done.
    Invalid,
    /// Its credential is no good, or there is none.
    Unauthenticated,
}

impl Native {
    /// Does what a message asks for.
    pub(super) fn obey(&mut self, text: &str, message: &Message<'_>, court: Court<'_>) -> Outcome {
        match self.try_obey(text, message, court) {
            Ok(outcome) => outcome,
            Err(Fault::Invalid) => Outcome {
                answer: Some(INVALID.to_owned()),
                code: "INVALID_REQUEST",
                ..Outcome::nothing()
            },
            Err(Fault::Unauthenticated) => Outcome {
                disconnect: Some(Disconnect::Unauthenticated),
                is_refused: true,
                code: "UNAUTHENTICATED",
                ..Outcome::nothing()
            },
        }
    }

    fn try_obey(
        &mut self,
        text: &str,
        message: &Message<'_>,
        court: Court<'_>,
    ) -> Result<Outcome, Fault> {
        let is_known = ["subscribe", "unsubscribe", "publish"].iter().any(|it| message.is(it));
        let more: AgentMessage<'_> = serde_json::from_str(text).map_err(|_| Fault::Invalid)?;
        if !is_known {
            return Err(Fault::Invalid);
        }
        let principal = self.who_says(more.token, &court)?;
        // Whoever has proved who they are is a session, even if the rest cannot be done.
        let id = self.id;
        let session = self.session.get_or_insert_with(|| Session::new(id, Arc::clone(&principal)));
        let channels = message.channels().ok_or(Fault::Invalid)?;
        if message.is("publish") {
            return publish(&principal, more.event.ok_or(Fault::Invalid)?, channels);
        }
        let patterns = channels.iter().map(|it| pattern(it)).collect::<Option<Vec<_>>>();
        let patterns = patterns.ok_or(Fault::Invalid)?;
        let start = if message.is("unsubscribe") {
            session.unsubscribe_channels(patterns.iter(), court.hub);
            None
        } else {
            self.hear_channels(message, &principal, patterns, court)?
        };
        // Only now: what is refused changes nothing.
        let disconnect = self.session.as_mut().and_then(|session| session.renew(principal));
        Ok(Outcome { disconnect, start, ..Outcome::nothing() })
    }

    /// Who the message, or else the session, or else an `anonymous` line says it is.
    fn who_says(
        &self,
        token: Option<&RawValue>,
        court: &Court<'_>,
    ) -> Result<Arc<Principal>, Fault> {
        let shown = match (token, &self.session) {
            (Some(token), _) => {
                let token: Result<String, _> = serde_json::from_str(token.get());
                Credentials::read_bare(&token.map_err(|_| Fault::Unauthenticated)?)
            }
            (None, Some(session)) => return Ok(Arc::clone(session.principal())),
            (None, None) => Credentials::Absent,
        };
        court.tokens.authenticate(&shown).map_err(|_| Fault::Unauthenticated)
    }

    /// Subscribes; says where the events begin, if they are to be read from the log.
    fn hear_channels(
        &mut self,
        message: &Message<'_>,
        principal: &Principal,
        patterns: Vec<Pattern>,
        court: Court<'_>,
    ) -> Result<Option<Start>, Fault> {
        let session = self.session.as_mut().ok_or(Fault::Unauthenticated)?;
        let texts = patterns.iter().map(Pattern::as_str);
        let is_granted = patterns.iter().all(|pattern| principal.grant.may_subscribe(pattern));
        if !is_granted || session.count_with_channels(texts) > court.patterns_max {
            return Err(Fault::Invalid);
        }
        // As with an init, where to begin is said once, before anything is heard.
        let is_first = !self.has_begun && session.channels().next().is_none();
        let wish = match message.has_wish() {
            false => None,
            true if !is_first => return Err(Fault::Invalid),
            true => Some(message.wish().map_err(|_| Fault::Invalid)?),
        };
        if let Some(wish) = &wish {
            self.wants_cursor = wish.wants_cursor;
        }
        if is_first {
            let format = if self.wants_cursor { &CLOUDEVENTS_WITH_CURSOR } else { &CLOUDEVENTS };
            court.hub.set_channel_format(self.id, format);
        } else if session.channels().next().is_none() {
            court.hub.set_channel_format(self.id, &CLOUDEVENTS);
        }
        let start = wish.map(|wish| wish.start).filter(|start| *start != Start::Live);
        if start.is_some() {
            session.hold_back();
        }
        session.subscribe_channels(patterns, court.hub);
        Ok(start)
    }
}

/// `global` is every event.
fn pattern(channel: &str) -> Option<Pattern> {
    Pattern::parse(if channel == GLOBAL { ">" } else { channel }.to_owned()).ok()
}

fn publish(
    principal: &Principal,
    event: &RawValue,
    channels: Vec<String>,
) -> Result<Outcome, Fault> {
    let channels: BTreeSet<String> = channels.into_iter().collect();
    if channels.len() > Attributes::CHANNELS_MAX {
        return Err(Fault::Invalid);
    }
    let channels: Result<Vec<EventType>, _> = channels.into_iter().map(EventType::parse).collect();
    let channels = channels.map_err(|_| Fault::Invalid)?;
    let draft = read_for(event.get(), Flavour::Agent, channels).map_err(|_| Fault::Invalid)?;
    let event = Approved::new(principal, draft).map_err(|_| Fault::Invalid)?;
    Ok(Outcome { event: Some(event), ..Outcome::nothing() })
}
