//! A recorder of streams: every message that passes is judged by the document of streams, and one
//! that is not documented fails its test.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use jsonschema::{Draft, Validator};
use serde_json::{Value, json};
use tokio_tungstenite::connect_async;

use crate::client::Subscriber;
use crate::event_stream::{Block, EventStream};
use crate::gateway::Process;
use crate::specification::{ASYNCAPI, judge, read};

/// Which way a message goes: what `broadcast` sends, or what it receives.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Way {
    Sent,
    Received,
}

/// The messages of one channel in one direction, by name, each with its judge.
type Known = Vec<(String, Validator)>;

/// The document, and what was seen of it.
pub struct Recorder {
    known: BTreeMap<(String, Way), Known>,
    seen: RefCell<BTreeSet<(String, String)>>,
}

impl Recorder {
    pub fn new() -> Self {
        let document = read(ASYNCAPI);
        let mut known: BTreeMap<(String, Way), Known> = BTreeMap::new();
        for operation in document["operations"].as_object().unwrap().values() {
            let way = if operation["action"] == "send" { Way::Sent } else { Way::Received };
            let last = |value: &Value| {
                value["$ref"].as_str().unwrap().rsplit('/').next().unwrap().to_owned()
            };
            let channel = last(&operation["channel"]);
            for message in operation["messages"].as_array().unwrap() {
                let name = last(message);
                let payload = &document["components"]["messages"][&name]["payload"];
                let judge = judge(&document, Draft::Draft7, payload);
                known.entry((channel.clone(), way)).or_default().push((name, judge));
            }
        }
        Self { known, seen: RefCell::default() }
    }

    /// Takes a message, which must be one that is documented there.
    pub fn record(&self, channel: &str, way: Way, message: &Value) {
        let known = &self.known[&(channel.to_owned(), way)];
        let fits = known.iter().filter(|(_, judge)| judge.is_valid(message));
        let names: Vec<&String> = fits.map(|(name, _)| name).collect();
        assert!(!names.is_empty(), "{channel}, {way:?}: not documented: {message}");
        let seen = names.into_iter().map(|name| (channel.to_owned(), name.clone()));
        self.seen.borrow_mut().extend(seen);
    }

    /// Whether a message would be taken.
    pub fn knows(&self, channel: &str, way: Way, message: &Value) -> bool {
        self.known[&(channel.to_owned(), way)].iter().any(|(_, judge)| judge.is_valid(message))
    }

    /// What was documented and never came.
    pub fn missing(&self) -> Vec<(String, String)> {
        let seen = self.seen.borrow();
        let all = self.known.iter().flat_map(|((channel, _), known)| {
            known.iter().map(move |(name, _)| (channel.clone(), name.clone()))
        });
        all.filter(|it| !seen.contains(it)).collect()
    }
}

/// A WebSocket whose every message is recorded.
pub struct Recorded<'a> {
    recorder: &'a Recorder,
    channel: &'static str,
    session: Subscriber,
}

impl<'a> Recorded<'a> {
    /// Connects to a path, with its query.
    pub async fn open(
        recorder: &'a Recorder,
        channel: &'static str,
        broadcast: &Process,
        path: &str,
    ) -> Self {
        let (socket, _) = connect_async(broadcast.ws_url() + path).await.unwrap();
        Self { recorder, channel, session: Subscriber { socket } }
    }

    pub async fn say(&mut self, message: Value) {
        self.recorder.record(self.channel, Way::Received, &message);
        self.session.say(&message.to_string()).await;
    }

    /// Says what is no message of this protocol, to hear how that is refused.
    pub async fn blurt(&mut self, text: &str) {
        if let Ok(message) = serde_json::from_str(text) {
            let is_known = self.recorder.knows(self.channel, Way::Received, &message);
            assert!(!is_known, "{text} is documented");
        }
        self.session.say(text).await;
    }

    pub async fn hear(&mut self) -> Value {
        let text = self.session.hear().await;
        let message = serde_json::from_str(&text).unwrap();
        self.recorder.record(self.channel, Way::Sent, &message);
        message
    }

    pub async fn ask(&mut self, message: Value) -> Value {
        self.say(message).await;
        self.hear().await
    }
}

/// Reads a stream up to a block that fits, and records every one.
pub async fn read_to(
    recorder: &Recorder,
    channel: &str,
    stream: &mut EventStream,
    fits: impl Fn(&Block) -> bool,
) -> Block {
    loop {
        let block = stream.next_block().await.expect("the stream goes on");
        recorder.record(channel, Way::Sent, &as_message(&block));
        if fits(&block) {
            return block;
        }
    }
}

/// A block as the document writes it: its fields as members.
fn as_message(block: &Block) -> Value {
    let Block { id, event, data, retry, comments } = block;
    let mut message = json!({});
    let mut put = |name: &str, value: Option<Value>| {
        if let Some(value) = value {
            message[name] = value;
        }
    };
    put("id", id.as_ref().map(|it| json!(it)));
    put("event", event.as_ref().map(|it| json!(it)));
    put("data", (!data.is_empty()).then(|| json!(data.join("\n"))));
    put("retry", retry.map(|it| json!(it)));
    put("comment", (*comments > 0).then(|| json!("")));
    message
}
