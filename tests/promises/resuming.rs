//! A subscriber who comes back for ever, and goes on where it was.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinHandle;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{WebSocketStream, client_async};

use crate::gateway::{PATIENCE, TOKEN};
use crate::history::{Hearing, Note};
use crate::measures::until;

/// The type of the event at which it ends: nothing that was fired before comes after it.
pub const FENCE: &str = "fence";

/// A task that keeps a `Hearing`.
pub struct Resuming {
    inits: Arc<AtomicU64>,
    events: Arc<AtomicU64>,
    task: JoinHandle<Hearing>,
}

/// What it asks for when it comes for the first time.
#[derive(Debug, Clone)]
pub enum Begin {
    /// What is fired from now on. Whoever fires only then makes it see all.
    Now { is_whole: bool },
    /// All that is kept.
    First,
}

impl Resuming {
    /// Subscribes what `Publishers` fire.
    pub fn begin(ws_url: &str, begin: &Begin) -> Self {
        Self::begin_at_pace(ws_url, begin, Duration::ZERO)
    }

    /// The same on a socket with the least room to receive, and with a rest after each event.
    pub fn begin_at_pace(ws_url: &str, begin: &Begin, pace: Duration) -> Self {
        let (inits, events) = (Arc::<AtomicU64>::default(), Arc::<AtomicU64>::default());
        let (is_whole, after) = match begin {
            Begin::Now { is_whole } => (*is_whole, None),
            Begin::First => (true, Some("first".to_owned())),
        };
        let ears = Ears {
            url: ws_url.to_owned() + "/",
            address: ws_url.trim_start_matches("ws://").parse().unwrap(),
            after,
            pace,
            hearing: Hearing { is_whole, notes: Vec::new() },
            inits: Arc::clone(&inits),
            events: Arc::clone(&events),
        };
        Self { inits, events, task: tokio::spawn(ears.listen()) }
    }

    /// Waits until it has been let in so often.
    pub async fn wait_for_inits(&self, count: u64) {
        let inits = async || (self.inits.load(Ordering::SeqCst) >= count).then_some(());
        until("a subscriber that is back", inits).await;
    }

    /// How often it has been let in.
    pub fn inits(&self) -> u64 {
        self.inits.load(Ordering::SeqCst)
    }

    /// Waits until it has so many events.
    pub async fn wait_for_events(&self, count: u64) {
        let events = async || (self.events.load(Ordering::SeqCst) >= count).then_some(());
        until("events that are heard", events).await;
    }

    /// What it has got, up to the fence.
    pub async fn hear_the_fence(mut self) -> Hearing {
        let ended = tokio::time::timeout(PATIENCE, &mut self.task).await;
        ended.unwrap_or_else(|_| panic!("a subscriber has not heard the fence")).unwrap()
    }
}

impl Drop for Resuming {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The state of its task.
struct Ears {
    url: String,
    address: SocketAddr,
    after: Option<String>,
    pace: Duration,
    hearing: Hearing,
    inits: Arc<AtomicU64>,
    events: Arc<AtomicU64>,
}

impl Ears {
    async fn listen(mut self) -> Hearing {
        loop {
            if self.connection().await {
                return self.hearing;
            }
            // As a client would: not at once, where there may be nobody.
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// One connection, from its beginning to its end; whether the fence has come.
    async fn connection(&mut self) -> bool {
        let Ok(mut socket) = self.connect().await else { return false };
        let mut init = json!({
            "authentication": format!("Basic {TOKEN}"),
            "events": ["load.*", FENCE],
            "cursor": true,
        });
        if let Some(after) = &self.after {
            init["after"] = after.as_str().into();
        }
        if socket.send(Message::text(init.to_string())).await.is_err() {
            return false;
        }
        let mut is_let_in = false;
        loop {
            match socket.next().await {
                Some(Ok(Message::Text(text))) if is_let_in => {
                    if self.hear(&text) {
                        return true;
                    }
                    if !self.pace.is_zero() {
                        tokio::time::sleep(self.pace).await;
                    }
                }
                Some(Ok(Message::Text(answer))) => {
                    is_let_in = true;
                    self.note_init(&answer);
                }
                Some(Ok(Message::Close(close))) => {
                    let code = close.map(|close| close.code.into());
                    self.hearing.notes.push(Note::Ended(code));
                    return false;
                }
                Some(Ok(_)) => {}
                None | Some(Err(_)) => {
                    self.hearing.notes.push(Note::Ended(None));
                    return false;
                }
            }
        }
    }

    async fn connect(&self) -> Result<WebSocketStream<TcpStream>, Error> {
        let socket = TcpSocket::new_v4()?;
        if !self.pace.is_zero() {
            socket.set_recv_buffer_size(1)?;
        }
        let stream = socket.connect(self.address).await?;
        Ok(client_async(&self.url, stream).await?.0)
    }

    fn note_init(&mut self, answer: &str) {
        let notes = [Note::Asked(self.after.clone()), Note::Init(answer.to_owned())];
        self.hearing.notes.extend(notes);
        self.inits.fetch_add(1, Ordering::SeqCst);
        let answer: Value = serde_json::from_str(answer).unwrap_or_default();
        // Whoever hears nothing before it is cut off goes on from here all the same.
        if let Some(cursor) = answer["cursor"].as_str() {
            self.after = Some(cursor.to_owned());
        }
    }

    /// Notes an event; whether it is the fence.
    fn hear(&mut self, text: &str) -> bool {
        let event: Value = serde_json::from_str(text).unwrap_or_default();
        if event["event"] == FENCE {
            return true;
        }
        if let Some(cursor) = event["cursor"].as_str() {
            self.after = Some(cursor.to_owned());
        }
        self.hearing.notes.push(Note::Event(text.to_owned()));
        self.events.fetch_add(1, Ordering::SeqCst);
        false
    }
}
