//! What a client says in the native protocol (WIRE §1.2 and 1.3): its messages, read.

use serde::Deserialize;
use serde_json::value::RawValue;
use shared::credentials::Credentials;
use shared::json::{is_shallow, present};
use shared::tokens::AuthError;

use crate::archive::Start;

/// The members of a message that we know. None may stand twice.
#[derive(Debug, Default, Deserialize)]
pub struct Message<'a> {
    #[serde(borrow, rename = "type", default, deserialize_with = "present")]
    kind: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    authentication: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    events: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    cursor: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    after: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    since: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    last: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    format: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    channel: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    channels: Option<&'a RawValue>,
}

/// What a client asks for beyond plain events (WIRE §1.3).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wish {
    /// Every event with its cursor.
    pub wants_cursor: bool,
    /// CloudEvents in place of native events.
    pub wants_cloudevents: bool,
    /// Where to begin.
    pub start: Start,
}

impl<'a> Message<'a> {
    /// Reads a text message.
    ///
    /// # Errors
    ///
    /// [`Refusal`] names what it is not.
    pub fn read(text: &'a str) -> Result<Self, Refusal> {
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

    /// Whether it names channels: then it is an Eventual Agent's (WIRE §5), and not of this protocol.
    pub fn has_channels(&self) -> bool {
        self.channel.is_some() || self.channels.is_some()
    }

    /// The channels that it names, if all of them are text, and there is one.
    pub fn channels(&self) -> Option<Vec<String>> {
        let mut channels = Vec::new();
        let given = [self.channel, self.channels].into_iter().flatten();
        for named in given.filter(|it| it.get() != "null") {
            if named.get().starts_with('[') {
                channels.extend(serde_json::from_str::<Vec<String>>(named.get()).ok()?);
            } else {
                channels.push(serde_json::from_str(named.get()).ok()?);
            }
        }
        (!channels.is_empty()).then_some(channels)
    }

    /// Whether its `type` is this one.
    pub fn is(&self, kind: &str) -> bool {
        self.kind
            .is_some_and(|it| serde_json::from_str::<String>(it.get()).is_ok_and(|it| it == kind))
    }

    /// The strings of the list; `None` for one that is no Unicode text (half a surrogate pair),
    /// and so can be no type.
    ///
    /// # Errors
    ///
    /// There is no such list.
    pub fn events(&self) -> Result<Vec<Option<String>>, Refusal> {
        let events = self.events.ok_or(Refusal::EventsMissing)?;
        let events: Vec<&RawValue> =
            serde_json::from_str(events.get()).map_err(|_| Refusal::EventsMissing)?;
        let read = |event: &RawValue| match event.get().starts_with('"') {
            true => Ok(serde_json::from_str(event.get()).ok()),
            false => Err(Refusal::EventsMissing),
        };
        events.into_iter().map(read).collect()
    }

    /// Whether it shows a credential, be it a good one or not.
    pub fn has_credentials(&self) -> bool {
        self.authentication.is_some()
    }

    /// What it asks for beyond plain events.
    ///
    /// # Errors
    ///
    /// [`Refusal::Resume`] if any of it is malformed, or says twice where to begin.
    pub fn wish(&self) -> Result<Wish, Refusal> {
        let wants_cursor = match self.cursor.map(RawValue::get) {
            None | Some("false") => false,
            Some("true") => true,
            Some(_) => return Err(Refusal::Resume),
        };
        let wants_cloudevents = match self.format {
            None => false,
            Some(format) if text(format)? == "cloudevents" => true,
            Some(_) => return Err(Refusal::Resume),
        };
        let (after, since) = (self.after.map(text), self.since.map(text));
        let (after, since) = (after.transpose()?, since.transpose()?);
        let last = self.last.map(RawValue::get);
        let start = Start::read(after.as_deref(), since.as_deref(), last);
        let start = start.map_err(|_| Refusal::Resume)?.unwrap_or(Start::Live);
        // Who resumes will want to resume again.
        let is_resume = matches!(start, Start::First | Start::After(_) | Start::Since(_));
        Ok(Wish { wants_cursor: wants_cursor || is_resume, wants_cloudevents, start })
    }

    /// Whether it asks for anything beyond plain events, be it malformed or not.
    pub fn has_wish(&self) -> bool {
        [self.cursor, self.after, self.since, self.last, self.format].iter().any(Option::is_some)
    }

    /// The credential that it shows.
    ///
    /// # Errors
    ///
    /// It shows none, or something that is no text.
    pub fn credentials(&self) -> Result<Credentials, Refusal> {
        let shown = self.authentication.ok_or(Refusal::Auth(AuthError::Unauthenticated))?;
        let shown: String = serde_json::from_str(shown.get())
            .map_err(|_| Refusal::Auth(AuthError::Unauthenticated))?;
        Ok(Credentials::read(&shown))
    }
}

/// A string.
fn text(value: &RawValue) -> Result<String, Refusal> {
    serde_json::from_str(value.get()).map_err(|_| Refusal::Resume)
}

/// Why a message is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// Not JSON, or not text.
    Syntax,
    /// No list of strings under `events`.
    EventsMissing,
    /// The credential is no good.
    Auth(AuthError),
    /// More patterns than a session may have.
    TooManyEvents,
    /// Something that can be no pattern.
    Events,
    /// Not granted.
    Forbidden,
    /// A wish beyond plain events that is malformed, or comes too late.
    Resume,
}

impl Refusal {
    /// The code that the client hears.
    pub fn code(self) -> &'static str {
        match self {
            Self::Syntax => "INVALID_SYNTAX",
            Self::EventsMissing => "INVALID_EVENTS_MISSING",
            Self::Auth(error) => error.code(),
            Self::TooManyEvents => "TOO_MANY_EVENTS",
            Self::Events => "INVALID_EVENTS",
            Self::Forbidden => "FORBIDDEN",
            Self::Resume => "INVALID_RESUME",
        }
    }
}

impl From<AuthError> for Refusal {
    fn from(error: AuthError) -> Self {
        Self::Auth(error)
    }
}
