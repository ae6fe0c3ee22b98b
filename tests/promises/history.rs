//! What publishers were answered and subscribers got, and the judge of it.
//!
//! A history is plain values: `publishers` and `resuming` fill it from real processes, and `tests`
//! from imagination, so that each fault is known to be found.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

/// All that happened to one log.
#[derive(Debug, Clone, Default)]
pub struct History {
    /// For each publisher what it fired, in its order: the next only when the last had its 200.
    pub fired: Vec<Vec<Fired>>,
    /// One for each subscriber.
    pub hearings: Vec<Hearing>,
}

/// One event, however often it had to be sent.
#[derive(Debug, Clone)]
pub struct Fired {
    pub event_type: String,
    pub source: String,
    pub id: String,
    /// JSON.
    pub data: String,
    pub answers: Vec<Answer>,
}

/// What one `POST` was answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    Accepted,
    /// 503: it is not taken.
    Refused,
    /// 503, `"accepted":"unknown"`, with the id and the source that were sent.
    Undecided,
    /// There was no connection, or it broke.
    Broken,
    /// What must not be.
    Odd(String),
}

/// What one subscriber got, over all its connections.
#[derive(Debug, Clone, Default)]
pub struct Hearing {
    /// Whether it was there, or began at the first event, so that all must have come.
    pub is_whole: bool,
    pub notes: Vec<Note>,
}

/// One thing that a subscriber saw.
#[derive(Debug, Clone)]
pub enum Note {
    /// An init was sent, with this in `after`.
    Asked(Option<String>),
    /// The answer to it.
    Init(String),
    /// An event, as it was written.
    Event(String),
    /// The connection ended: the code of a Close, if there was one.
    Ended(Option<u16>),
}

/// A place in a log.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cursor {
    pub epoch: String,
    pub offset: u64,
}

/// What the judge finds. Numbers: of the subscriber, of the publisher, of its event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// A publisher got an answer that it must not get.
    OddAnswer(String),
    /// Answered 200, and missing.
    Lost { subscriber: usize, event: Name },
    /// One event came again.
    Twice { subscriber: usize, event: Name },
    /// One cursor came again.
    CursorTwice { subscriber: usize, cursor: Cursor },
    /// A cursor is not behind the one before it.
    Order { subscriber: usize, cursor: Cursor },
    /// A publisher's acknowledged events came in another order than it fired them.
    PublisherOrder { subscriber: usize, event: Name },
    /// An event has not the same cursor for everyone.
    Disagreement { subscriber: usize, event: Name },
    /// Nobody sent this.
    Invented { subscriber: usize, text: String },
    /// Somebody sent it otherwise.
    Altered { subscriber: usize, text: String },
    /// It was told not to come back.
    SentAway { subscriber: usize, close_code: u16 },
    /// The log is another one.
    Epoch { subscriber: usize, cursor: Cursor },
    /// A cursor of this log was not recovered, or an init refused.
    Unrecovered { subscriber: usize, answer: String },
}

/// An event: the numbers of its publisher, and of it there.
pub type Name = (usize, usize);

impl History {
    /// All faults. One subscriber at least must be whole, or what all have missed is not seen.
    pub fn judge(&self) -> Vec<Fault> {
        let mut faults = self.odd_answers();
        let mut places = BTreeMap::new();
        let mut heard = Vec::new();
        for subscriber in 0..self.hearings.len() {
            let events = self.read(subscriber, &mut faults);
            self.judge_order(subscriber, &events, &mut faults);
            for (event, cursor) in &events {
                if places.entry(*event).or_insert(cursor.clone()) != cursor {
                    faults.push(Fault::Disagreement { subscriber, event: *event });
                }
            }
            heard.push(events.into_iter().map(|(event, _)| event).collect::<BTreeSet<_>>());
        }
        for (subscriber, heard) in heard.iter().enumerate() {
            self.judge_losses(subscriber, heard, &places, &mut faults);
        }
        faults
    }

    /// Ends the test if there is a fault, and says in a line what happened.
    #[track_caller]
    pub fn expect_faultless(&self) -> String {
        let faults = self.judge();
        let some = &faults[..faults.len().min(10)];
        assert!(faults.is_empty(), "{} faults in {}: {some:#?}", faults.len(), self.summary());
        self.summary()
    }

    /// Counts of what was fired and heard.
    pub fn summary(&self) -> String {
        let answers = || self.fired.iter().flatten().flat_map(|it| &it.answers);
        let count = |wanted: Answer| answers().filter(|it| **it == wanted).count();
        let notes = || self.hearings.iter().flat_map(|it| &it.notes);
        let events = notes().filter(|it| matches!(it, Note::Event(_))).count();
        let ends = notes().filter(|it| matches!(it, Note::Ended(_))).count();
        format!(
            "{} events: {} accepted, {} refused, {} undecided, {} broken; {} subscribers: {events} \
             deliveries, {ends} connections lost",
            self.fired.iter().flatten().count(),
            count(Answer::Accepted),
            count(Answer::Refused),
            count(Answer::Undecided),
            count(Answer::Broken),
            self.hearings.len(),
        )
    }

    fn event(&self, name: Name) -> &Fired {
        &self.fired[name.0][name.1]
    }

    fn names(&self) -> impl Iterator<Item = Name> {
        let publishers = self.fired.iter().enumerate();
        publishers.flat_map(|(publisher, fired)| (0..fired.len()).map(move |it| (publisher, it)))
    }

    fn odd_answers(&self) -> Vec<Fault> {
        let answers = self.fired.iter().flatten().flat_map(|fired| &fired.answers);
        let odd = answers.filter_map(|answer| match answer {
            Answer::Odd(what) => Some(Fault::OddAnswer(what.clone())),
            _ => None,
        });
        odd.collect()
    }

    /// The events of a subscriber that are what somebody sent, with their cursors.
    fn read(&self, subscriber: usize, faults: &mut Vec<Fault>) -> Vec<(Name, Cursor)> {
        let sent: BTreeMap<_, _> = self
            .names()
            .map(|name| ((self.event(name).source.as_str(), self.event(name).id.as_str()), name))
            .collect();
        let mut events = Vec::new();
        let mut asked = &None;
        for note in &self.hearings[subscriber].notes {
            match note {
                Note::Asked(after) => asked = after,
                Note::Init(answer) => {
                    if !is_recovered(answer, asked.as_deref()) {
                        faults.push(Fault::Unrecovered { subscriber, answer: answer.clone() });
                    }
                }
                Note::Event(text) => {
                    let event: Value = serde_json::from_str(text).unwrap_or_default();
                    let name = (text_of(&event, "source"), text_of(&event, "id"));
                    let Some(name) = sent.get(&name) else {
                        faults.push(Fault::Invented { subscriber, text: text.clone() });
                        continue;
                    };
                    match self.event(*name).cursor_in(text, &event) {
                        Some(cursor) => events.push((*name, cursor)),
                        None => faults.push(Fault::Altered { subscriber, text: text.clone() }),
                    }
                }
                // WIRE 1.4: these may come back as they are.
                Note::Ended(None | Some(1001 | 1012 | 1013)) => {}
                Note::Ended(Some(close_code)) => {
                    faults.push(Fault::SentAway { subscriber, close_code: *close_code });
                }
            }
        }
        events
    }

    fn judge_order(&self, subscriber: usize, events: &[(Name, Cursor)], faults: &mut Vec<Fault>) {
        let mut seen = BTreeSet::new();
        let mut cursors = BTreeSet::new();
        let mut last: Option<&Cursor> = None;
        let mut furthest = BTreeMap::new();
        for (event, cursor) in events {
            if !seen.insert(event) {
                faults.push(Fault::Twice { subscriber, event: *event });
                continue;
            }
            let is_new = cursors.insert(cursor);
            let fault = match last {
                _ if !is_new => Some(Fault::CursorTwice { subscriber, cursor: cursor.clone() }),
                Some(last) if last.epoch != cursor.epoch => {
                    Some(Fault::Epoch { subscriber, cursor: cursor.clone() })
                }
                Some(last) if last.offset >= cursor.offset => {
                    Some(Fault::Order { subscriber, cursor: cursor.clone() })
                }
                _ => None,
            };
            faults.extend(fault);
            last = Some(cursor);
            let (publisher, number) = *event;
            if self.event(*event).is_accepted()
                && furthest.insert(publisher, number).is_some_and(|before| before > number)
            {
                faults.push(Fault::PublisherOrder { subscriber, event: *event });
            }
        }
    }

    fn judge_losses(
        &self,
        subscriber: usize,
        heard: &BTreeSet<Name>,
        places: &BTreeMap<Name, Cursor>,
        faults: &mut Vec<Fault>,
    ) {
        let begin = self.hearings[subscriber].begin();
        for event in self.names() {
            // It may have been before this subscriber's time.
            let is_due = match (&begin, places.get(&event)) {
                (Some(begin), Some(place)) => place.offset > begin.offset,
                (None, _) | (_, None) => true,
            };
            if is_due && self.event(event).is_accepted() && !heard.contains(&event) {
                faults.push(Fault::Lost { subscriber, event });
            }
        }
    }
}

impl Fired {
    pub fn is_accepted(&self) -> bool {
        self.answers.contains(&Answer::Accepted)
    }

    /// The cursor in a delivery of this event, if that is byte for byte what it has to be.
    fn cursor_in(&self, text: &str, event: &Value) -> Option<Cursor> {
        let Self { event_type, source, id, data, .. } = self;
        let (cursor, time) = (text_of(event, "cursor"), text_of(event, "time"));
        let due = format!(
            r#"{{"type":"event","event":"{event_type}","data":{data},"cursor":"{cursor}","id":"{id}","time":"{time}","source":"{source}"}}"#
        );
        (due == text && !time.is_empty()).then(|| Cursor::parse(cursor))?
    }
}

impl Hearing {
    /// The place behind which all is due, if it is not the beginning.
    fn begin(&self) -> Option<Cursor> {
        if self.is_whole {
            return None;
        }
        let first = self.notes.iter().find_map(|note| match note {
            Note::Init(answer) => Some(answer),
            _ => None,
        });
        let answer: Value = serde_json::from_str(first?).unwrap_or_default();
        Cursor::parse(text_of(&answer, "cursor"))
    }
}

impl Cursor {
    pub fn parse(text: &str) -> Option<Self> {
        let (epoch, offset) = text.split_once('-')?;
        Some(Self { epoch: epoch.to_owned(), offset: offset.parse().ok()? })
    }
}

/// Whether an init was answered as it must be: a place, and for one that resumes that it is whole.
fn is_recovered(answer: &str, after: Option<&str>) -> bool {
    let answer: Value = serde_json::from_str(answer).unwrap_or_default();
    let is_ok = answer["code"] == "OK" && Cursor::parse(text_of(&answer, "cursor")).is_some();
    is_ok && (after.is_none() || answer["recovered"] == true)
}

fn text_of<'a>(value: &'a Value, member: &str) -> &'a str {
    value[member].as_str().unwrap_or_default()
}

#[cfg(test)]
mod tests;
