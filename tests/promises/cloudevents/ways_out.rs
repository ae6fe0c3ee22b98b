//! Every way out of broadcast, read alike: what it shows of an event, whatever its wire looks like.

use std::collections::{BTreeMap, VecDeque};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use serde_json::value::RawValue;

use crate::client::Subscriber;
use crate::cloudevents::event::{Event, Mode, Payload};
use crate::event_stream::EventStream;
use crate::gateway::{PATIENCE, Process, TOKEN};

/// A way out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    Native,
    NativeCursor,
    NativeCloudEvents,
    NativeCloudEventsCursor,
    StreamData,
    StreamCloudEvents,
    Socket,
    Page,
    PhoenixV1,
    PhoenixV2,
    Agent,
    AgentCursor,
}

impl Way {
    pub const ALL: [Self; 12] = [
        Self::Native,
        Self::NativeCursor,
        Self::NativeCloudEvents,
        Self::NativeCloudEventsCursor,
        Self::StreamData,
        Self::StreamCloudEvents,
        Self::Socket,
        Self::Page,
        Self::PhoenixV1,
        Self::PhoenixV2,
        Self::Agent,
        Self::AgentCursor,
    ];

    /// Whether it says where an event is kept.
    fn shows_cursor(self) -> bool {
        !matches!(self, Self::Native | Self::NativeCloudEvents | Self::Agent)
    }

    /// What it shows of an event that went in by a mode.
    pub fn expected(self, event: &Event, mode: Mode) -> Shown {
        let names: &[&str] = match self {
            Self::Native | Self::StreamData => &["type"],
            Self::NativeCursor => &["type", "id", "time", "source"],
            _ => &[],
        };
        let shows = |name: &String| names.is_empty() || names.contains(&name.as_str());
        let attributes = event.attributes_out(mode).into_iter().filter(|(name, _)| shows(name));
        let text = |text: &str| Value::from(text).to_string();
        let data = match (&event.data, self) {
            (Payload::Absent, Self::StreamData) => Some(("data", String::new())),
            (Payload::Absent, _) => None,
            (Payload::Json(json), _) => Some(("data", json.clone())),
            (Payload::Text(plain), Self::StreamData) => Some(("data", plain.clone())),
            (Payload::Text(plain), _) => Some(("data", text(plain))),
            (Payload::Binary(bytes), Self::StreamData) => Some(("data", STANDARD.encode(bytes))),
            (Payload::Binary(bytes), _) => Some(("data_base64", text(&STANDARD.encode(bytes)))),
        };
        Shown {
            attributes: attributes.collect(),
            data: data.map(|(name, text)| (name.to_owned(), text)),
            has_cursor: self.shows_cursor(),
        }
    }
}

/// What is shown of an event.
#[derive(Debug, PartialEq, Eq)]
pub struct Shown {
    attributes: BTreeMap<String, Value>,
    /// The member that holds the data, and its very bytes.
    data: Option<(String, String)>,
    has_cursor: bool,
}

type Members = BTreeMap<String, Box<RawValue>>;

impl Shown {
    /// Reads an object: a CloudEvent, or a native event.
    fn read(text: &str) -> Self {
        let mut members: Members = serde_json::from_str(text).unwrap();
        if let Some(event_type) = members.remove("event") {
            let kind = members.insert("type".to_owned(), event_type).unwrap();
            assert_eq!(kind.get(), "\"event\"");
        }
        let has_cursor = members.remove("cursor").is_some();
        let mut data = ["data", "data_base64"]
            .into_iter()
            .filter_map(|name| Some((name.to_owned(), members.remove(name)?.get().to_owned())));
        let (first, second) = (data.next(), data.next());
        assert_eq!(second, None, "data in both ways");
        let value = |raw: Box<RawValue>| serde_json::from_str(raw.get()).unwrap();
        let attributes = members.into_iter().map(|(name, raw)| (name, value(raw))).collect();
        Self { attributes, data: first, has_cursor }
    }
}

/// Where a reader begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Begin {
    /// With what comes from now on.
    Live,
    /// With what is kept.
    Kept,
}

/// A way out that is being read.
pub struct Output {
    pub way: Way,
    connection: Connection,
    waiting: VecDeque<String>,
}

enum Connection {
    Socket(Subscriber),
    Stream(EventStream),
    /// The query of the next page.
    Page {
        broadcast: String,
        query: String,
    },
}

impl Output {
    /// Opens a way out for the type `matrix.*` and the source `/matrix`.
    pub async fn open(broadcast: &Process, way: Way, begin: Begin) -> Self {
        let credential = format!("Basic {TOKEN}");
        let kept = if begin == Begin::Kept { r#","last":100"# } else { "" };
        let after = if begin == Begin::Kept { "&after=first" } else { "" };
        let mut waiting = VecDeque::new();
        let connection = match way {
            Way::Native => native(broadcast, kept).await,
            Way::NativeCursor => native(broadcast, &format!(r#","cursor":true{kept}"#)).await,
            Way::NativeCloudEvents => {
                native(broadcast, &format!(r#","format":"cloudevents"{kept}"#)).await
            }
            Way::NativeCloudEventsCursor => {
                let more = format!(r#","format":"cloudevents","cursor":true{kept}"#);
                native(broadcast, &more).await
            }
            Way::StreamData => stream(broadcast, &format!("type=matrix.*{after}")).await,
            Way::StreamCloudEvents => {
                stream(broadcast, &format!("type=matrix.*&format=cloudevents{after}")).await
            }
            Way::Socket => {
                let path = format!("/events?type=matrix.*{after}");
                Connection::Socket(Subscriber::connect_as(broadcast, &path, &credential).await)
            }
            Way::Page => Connection::Page {
                broadcast: broadcast.url(),
                query: "type=matrix.*&limit=7&wait=20".to_owned(),
            },
            Way::PhoenixV1 | Way::PhoenixV2 => {
                let (socket, messages) = join(broadcast, way == Way::PhoenixV2).await;
                waiting.extend(messages);
                Connection::Socket(socket)
            }
            Way::Agent => agent(broadcast, kept).await,
            Way::AgentCursor => agent(broadcast, &format!(r#","cursor":true{kept}"#)).await,
        };
        Self { way, connection, waiting }
    }

    /// What it shows of the next event.
    pub async fn next(&mut self) -> Shown {
        loop {
            if let Some(text) = self.waiting.pop_front() {
                return Shown::read(&text);
            }
            match &mut self.connection {
                Connection::Socket(socket) => {
                    let text = socket.hear().await;
                    self.waiting.push_back(unwrap(self.way, &text));
                }
                Connection::Stream(stream) => {
                    let block = stream.event().await;
                    if self.way == Way::StreamCloudEvents {
                        self.waiting.push_back(block.text());
                        continue;
                    }
                    let event_type = Value::from(block.event.clone().unwrap());
                    return Shown {
                        attributes: [("type".to_owned(), event_type)].into(),
                        data: Some(("data".to_owned(), block.text())),
                        has_cursor: block.id.is_some(),
                    };
                }
                Connection::Page { broadcast, query } => {
                    let (events, next) = page(broadcast, query).await;
                    self.waiting.extend(events);
                    *query = next;
                }
            }
        }
    }
}

async fn native(broadcast: &Process, more: &str) -> Connection {
    let mut socket = Subscriber::connect(broadcast).await;
    let init = format!(r#"{{"authentication":"Basic {TOKEN}","events":["matrix.*"]{more}}}"#);
    let answer: Value = serde_json::from_str(&socket.ask(&init).await).unwrap();
    assert_eq!((&answer["type"], &answer["code"]), (&"init".into(), &"OK".into()), "{answer}");
    Connection::Socket(socket)
}

async fn stream(broadcast: &Process, query: &str) -> Connection {
    Connection::Stream(EventStream::open(broadcast, query).await)
}

/// What succeeds is not answered here: the answer to something else tells when it is live.
async fn agent(broadcast: &Process, more: &str) -> Connection {
    let mut socket = Subscriber::connect(broadcast).await;
    socket
        .say(&format!(r#"{{"type":"subscribe","channels":["matrix.*"],"token":"{TOKEN}"{more}}}"#))
        .await;
    if !more.contains("last") {
        socket.assert_nothing_came().await;
    }
    Connection::Socket(socket)
}

/// Joins the topic, and gives what its answer holds already.
async fn join(broadcast: &Process, is_v2: bool) -> (Subscriber, Vec<String>) {
    let vsn = if is_v2 { "&vsn=2.0.0" } else { "" };
    let url = format!("{}/socket/websocket?token={TOKEN}{vsn}", broadcast.ws_url());
    let (socket, _) = tokio_tungstenite::connect_async(url).await.unwrap();
    let mut socket = Subscriber { socket };
    let join = match is_v2 {
        false => r#"{"topic":"source:/matrix","event":"phx_join","payload":{},"ref":"1"}"#,
        true => r#"["1","1","source:/matrix","phx_join",{}]"#,
    };
    let reply = socket.ask(join).await;
    let way = if is_v2 { Way::PhoenixV2 } else { Way::PhoenixV1 };
    let payload = members(&unwrap(way, &reply));
    assert_eq!(payload["status"].get(), "\"ok\"", "{reply}");
    let response = members(payload["response"].get());
    let messages: Vec<Box<RawValue>> = serde_json::from_str(response["messages"].get()).unwrap();
    (socket, messages.into_iter().map(|it| it.get().to_owned()).collect())
}

fn members(text: &str) -> Members {
    serde_json::from_str(text).unwrap()
}

/// The event in a message, as its wire wraps it.
fn unwrap(way: Way, text: &str) -> String {
    let (event, payload) = match way {
        Way::PhoenixV1 => {
            let mut members = members(text);
            (members["event"].get().to_owned(), members.remove("payload").unwrap())
        }
        Way::PhoenixV2 => {
            let mut parts: Vec<Box<RawValue>> = serde_json::from_str(text).unwrap();
            assert_eq!(parts.len(), 5, "{text}");
            (parts[3].get().to_owned(), parts.pop().unwrap())
        }
        _ => return text.to_owned(),
    };
    // An event is called by its type.
    let is_reply = event == "\"phx_reply\"";
    assert!(is_reply || members(payload.get())["type"].get() == event, "{text}");
    payload.get().to_owned()
}

/// A page of kept events, and the query of the next one.
async fn page(broadcast: &str, query: &str) -> (Vec<String>, String) {
    let request = reqwest::Client::new().get(format!("{broadcast}/events?{query}"));
    let request = request.header("authorization", format!("Basic {TOKEN}")).timeout(PATIENCE);
    let response = request.send().await.unwrap();
    assert_eq!(response.status(), 200);
    let kind = response.headers()["content-type"].to_str().unwrap();
    assert!(kind.starts_with("application/cloudevents-batch+json"), "{kind}");
    let link = response.headers()["link"].to_str().unwrap();
    let next = link.strip_prefix("</events?").unwrap().strip_suffix(">; rel=\"next\"").unwrap();
    let next = next.to_owned();
    let events: Vec<Box<RawValue>> = serde_json::from_str(&response.text().await.unwrap()).unwrap();
    (events.into_iter().map(|it| it.get().to_owned()).collect(), next)
}
