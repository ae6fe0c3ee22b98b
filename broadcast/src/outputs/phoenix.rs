//! Phoenix channels (WIRE §4), as Relayman's clients speak them: a topic is a source, an event's name
//! its type, and what it carries the CloudEvent.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll};

use actix_web::HttpRequest;
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use jiff::Timestamp;
use serde_json::value::RawValue;
use shared::cloudevents;
use shared::credentials::Credentials;
use shared::memory::Held;
use shared::principal::Principal;
use shared::tokens::{AuthError, Tokens};

use crate::archive::Start;
use crate::disconnect::Disconnect;
use crate::outputs::phoenix::message::{Message, NO_REF, Version, end, refusal, reply, write};
use crate::outputs::phoenix::topic::{Join, MESSAGES_MAX, News, Topic};
use crate::publication::{Format, Placed, Slot};
use crate::session::Session;
use crate::websocket::dialect::{Begin, Dialect, Reaction, Seat};
use crate::websocket::frame::push_text;
use crate::websocket::offered;

pub mod message;
mod topic;

/// The subprotocol that newer clients offer.
const SUBPROTOCOL: &str = "phoenix";
/// Before a credential in the place of a subprotocol.
const BEARER: &str = "base64url.bearer.phx.";
/// What a topic is called: this, and the source.
const SOURCE: &str = "source:";

/// Events as objects.
pub static V1: Format =
    Format::new(Slot::PhoenixV1, |placed, out| encode(Version::V1, placed, out));
/// Events as lists.
pub static V2: Format =
    Format::new(Slot::PhoenixV2, |placed, out| encode(Version::V2, placed, out));

/// Without a `join_ref` a message is the same for all who have joined, as Phoenix's broadcasts are.
fn encode(version: Version, placed: &Placed<'_>, out: &mut Vec<u8>) {
    let event = placed.event;
    let topic = serde_json::Value::from([SOURCE, &event.source].concat()).to_string();
    let cursor = placed.cursor().to_string();
    let put = |out: &mut Vec<u8>| cloudevents::encode(event, Some(&cursor), out);
    push_text(out, |out| {
        write(version, (NO_REF, NO_REF), &topic, event.event_type.as_str(), put, out);
    });
}

/// So many patterns of its grants each topic may have, when a connection has as many as it may.
const PATTERNS_A_TOPIC: usize = 10;

/// What a client has asked for in its request.
#[derive(Debug)]
pub struct Asked {
    /// The subprotocol that it gets.
    pub subprotocol: Option<&'static str>,
    version: Version,
    shown: Credentials,
}

impl Asked {
    /// Reads a request; `None` for a version that we do not speak.
    pub fn read(request: &HttpRequest) -> Option<Self> {
        let (mut vsn, mut token) = (None, None);
        for (name, value) in form_urlencoded::parse(request.query_string().as_bytes()) {
            // Of a name that stands twice the client's own library has put the last there.
            match &*name {
                "vsn" => vsn = Some(value),
                "token" => token = Some(value),
                _ => {}
            }
        }
        let mut bearers = offered(request.headers()).filter_map(|it| it.strip_prefix(BEARER));
        let bearer = bearers.next().filter(|_| bearers.next().is_none());
        let shown = match (token, bearer) {
            (Some(token), _) => Credentials::read_bare(&token),
            (None, Some(bearer)) => {
                decode(bearer).map_or(Credentials::Malformed, |it| Credentials::read_bare(&it))
            }
            (None, None) => Credentials::Absent,
        };
        let has_offered = offered(request.headers()).any(|it| it == SUBPROTOCOL);
        Some(Self {
            subprotocol: has_offered.then_some(SUBPROTOCOL),
            version: Version::of(vsn.as_deref())?,
            shown,
        })
    }

    /// Decides who has asked. What is refused may be good when a topic is joined.
    ///
    /// # Errors
    ///
    /// [`AuthError`].
    pub fn authenticate(&self, tokens: &Tokens) -> Result<Arc<Principal>, AuthError> {
        tokens.authenticate(&self.shown)
    }

    /// Whether anything was shown.
    pub fn has_shown(&self) -> bool {
        self.shown != Credentials::Absent
    }
}

/// Clients write the alphabet of standard base64 there, whatever its name says.
fn decode(text: &str) -> Option<String> {
    let text = text.trim_end_matches('=');
    let decoded = STANDARD_NO_PAD.decode(text).or_else(|_| URL_SAFE_NO_PAD.decode(text)).ok();
    String::from_utf8(decoded?).ok()
}

/// One client's conversation.
struct Socket {
    seat: Seat,
    version: Version,
    /// What is judged at each join, until it was good once.
    shown: Credentials,
    /// Without subscriptions of its own; there once the client has proved who it is.
    session: Option<Session>,
    topics: BTreeMap<String, Topic>,
    /// The answer to a join, which waits for room, and its place on the account of memory.
    answered: Option<(Vec<String>, Held)>,
}

/// Makes a conversation; with a credential, if the upgrade showed a good one.
pub fn begin(asked: Asked, principal: Option<Arc<Principal>>) -> Begin {
    let Asked { version, shown, .. } = asked;
    Box::new(move |seat| {
        let session = principal.map(|principal| Session::new(seat.id, principal));
        let topics = BTreeMap::new();
        Box::new(Socket { seat, version, shown, session, topics, answered: None })
    })
}

impl Socket {
    fn authenticate(&mut self) -> Option<Arc<Principal>> {
        if let Some(session) = &self.session {
            return Some(Arc::clone(session.principal()));
        }
        let principal = self.seat.worker.shared.tokens.load().authenticate(&self.shown).ok()?;
        self.session = Some(Session::new(self.seat.id, Arc::clone(&principal)));
        Some(principal)
    }

    fn format(&self) -> &'static Format {
        match self.version {
            Version::V1 => &V1,
            Version::V2 => &V2,
        }
    }

    /// The topic that reads the log: one at a time, however many have joined. Whose join is waited for
    /// goes first; while an answer waits for room, nobody goes.
    fn working(&self) -> Option<&str> {
        if self.answered.is_some() {
            return None;
        }
        let is_opening = self.is_opening();
        let is_next = |topic: &Topic| topic.is_at_work() && topic.is_opening() == is_opening;
        self.topics.iter().find(|(_, topic)| is_next(topic)).map(|(name, _)| name.as_str())
    }

    fn is_opening(&self) -> bool {
        self.topics.values().any(Topic::is_opening)
    }

    fn handle(&mut self, message: &Message<'_>) -> Reaction {
        let (version, raw_topic) = (self.version, message.raw_topic);
        let (join_ref, reference) = (message.join_ref, message.reference);
        let unmatched =
            || refuse(refusal(version, (NO_REF, reference), raw_topic, "unmatched topic"));
        match (&*message.event, self.topics.get(&message.topic)) {
            ("heartbeat", _) if message.topic == "phoenix" => {
                Reaction::say(reply(version, (NO_REF, reference), raw_topic, "ok", b"{}"))
            }
            ("phx_join", _) => match message.topic.strip_prefix(SOURCE) {
                Some(source) if !source.is_empty() && !message.has_long_topic() => {
                    self.join(message, source)
                }
                _ => unmatched(),
            },
            ("phx_leave", None) => {
                Reaction::say(reply(version, (join_ref, reference), raw_topic, "ok", b"{}"))
            }
            ("phx_leave", Some(topic)) => {
                let joined = topic.join.join_ref.clone();
                let is_meant = join_ref == NO_REF || *joined == *join_ref;
                // One that is stale has raced with a join: it is over already.
                if !is_meant {
                    return Reaction::default();
                }
                self.topics.remove(&message.topic);
                Reaction {
                    answers: vec![
                        reply(version, (&joined, reference), raw_topic, "ok", b"{}"),
                        end(version, &joined, raw_topic, "phx_close"),
                    ],
                    ..Reaction::default()
                }
            }
            (_, Some(topic)) => {
                let refs = (&*topic.join.join_ref, reference);
                refuse(refusal(version, refs, raw_topic, "unsupported"))
            }
            (_, None) => unmatched(),
        }
    }

    /// Whether there is no room for another topic: each has all that is granted.
    fn is_full_for(&self, principal: &Principal) -> bool {
        let topics_max = self.seat.worker.shared.limits.patterns_max;
        let patterns = (self.topics.len() + 1) * principal.grant.subscribe.len();
        let is_first = self.topics.is_empty();
        !is_first && (self.topics.len() >= topics_max || patterns > topics_max * PATTERNS_A_TOPIC)
    }

    /// Begins to join. A channel that was joined before ends, whatever becomes of this one.
    fn join(&mut self, message: &Message<'_>, source: &str) -> Reaction {
        let superseded =
            self.topics.remove(&message.topic).map(|topic| topic.join.join_ref.clone());
        let start = read_start(message.payload);
        let refused = match (self.authenticate(), start) {
            (None, _) => "unauthenticated",
            (Some(principal), _) if principal.grant.subscribe.is_empty() => "forbidden",
            (Some(_), None) => "invalid cursor",
            (Some(principal), _) if self.is_full_for(&principal) => "too many channels joined",
            (Some(principal), Some(start)) => {
                let join = Join {
                    source: source.to_owned(),
                    join_ref: message.join_ref.into(),
                    reference: message.reference.into(),
                    raw_topic: message.raw_topic.into(),
                    start,
                    superseded,
                };
                let topic = Topic::new(&self.seat, principal, self.format(), join);
                self.topics.insert(message.topic.clone(), topic);
                return Reaction::default();
            }
        };
        let refs = (message.join_ref, message.reference);
        let mut reaction = refuse(refusal(self.version, refs, message.raw_topic, refused));
        let closed = superseded.map(|it| end(self.version, &it, message.raw_topic, "phx_close"));
        reaction.answers.extend(closed);
        reaction
    }
}

/// Whether the client has room for these answers, as large as they are.
fn fits(Seat { outbox, .. }: &Seat, (answers, _): &(Vec<String>, Held)) -> bool {
    let bytes: usize = answers.iter().map(String::len).sum();
    outbox.bytes() == 0 || outbox.bytes() + bytes <= outbox.bytes_max()
}

/// Says no.
fn refuse(answer: String) -> Reaction {
    Reaction { refusal: Some("INVALID_REQUEST"), ..Reaction::say(answer) }
}

/// Where to begin, as the join says it: behind a cursor, or with the last that are kept.
fn read_start(payload: &RawValue) -> Option<Start> {
    #[derive(serde::Deserialize)]
    struct Payload {
        cursor: Option<String>,
    }
    if !payload.get().starts_with('{') {
        return Some(Start::Last(MESSAGES_MAX));
    }
    let payload: Payload = serde_json::from_str(payload.get()).ok()?;
    match payload.cursor {
        None => Some(Start::Last(MESSAGES_MAX)),
        Some(cursor) => Start::read(Some(&cursor), None, None).ok()?,
    }
}

impl Dialect for Socket {
    fn receive(&mut self, text: &str) -> Reaction {
        match Message::read(self.version, text) {
            Some(message) if !message.has_long_refs() => self.handle(&message),
            _ => Reaction::hang_up(Disconnect::Unreadable),
        }
    }

    fn receive_binary(&mut self) -> Reaction {
        Reaction::hang_up(Disconnect::Unreadable)
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Reaction> {
        let version = self.version;
        if let Some((answers, _)) = self.answered.take_if(|answered| fits(&self.seat, answered)) {
            return Poll::Ready(Reaction { answers, ..Reaction::default() });
        }
        let Some(name) = self.working().map(str::to_owned) else { return Poll::Pending };
        let Some(topic) = self.topics.get_mut(&name) else { return Poll::Pending };
        let Poll::Ready(news) = topic.poll(cx) else { return Poll::Pending };
        let Join { join_ref, reference, raw_topic, .. } = &topic.join;
        Poll::Ready(match news {
            News::Live => Reaction::default(),
            News::Joined(response, held) => {
                let joined = reply(version, (join_ref, reference), raw_topic, "ok", &response);
                let superseded = topic.join.superseded.take();
                let closed =
                    superseded.map(|it| end(version, &it, &topic.join.raw_topic, "phx_close"));
                // It is said when there is room for it, and nothing else is done until then: who joins
                // many topics and reads slowly would have to go for the answers alone.
                self.answered = Some((std::iter::once(joined).chain(closed).collect(), held));
                Reaction::default()
            }
            News::Failed => {
                let failed = end(version, join_ref, raw_topic, "phx_error");
                self.topics.remove(&name);
                Reaction::say(failed)
            }
        })
    }

    fn can_go_on(&self) -> bool {
        if let Some(answered) = &self.answered {
            return fits(&self.seat, answered);
        }
        let working = self.working().and_then(|name| self.topics.get(name));
        working.is_some_and(Topic::can_go_on)
    }

    /// As in Phoenix, a join is answered before anything else is listened to.
    fn is_busy(&self) -> bool {
        self.is_opening() || self.answered.is_some()
    }

    fn is_settled(&self) -> bool {
        self.session.is_some()
    }

    fn judge(&mut self, tokens: &Tokens, now: Timestamp) -> Reaction {
        let topics = self.topics.values_mut().map(|topic| &mut topic.session);
        let mut sessions = self.session.iter_mut().chain(topics);
        let disconnect = sessions.find_map(|session| session.judge(tokens, now));
        disconnect.map_or_else(Reaction::default, Reaction::hang_up)
    }

    fn leave(&mut self) {
        self.topics.clear();
        self.answered = None;
    }
}

impl fmt::Debug for Socket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Socket").field("version", &self.version).finish_non_exhaustive()
    }
}
