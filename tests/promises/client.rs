//! Publishers and subscribers, by libraries that nobody here wrote.

use std::time::{Duration, Instant};

use futures_util::{SinkExt as _, StreamExt as _};
use reqwest::{RequestBuilder, Response, StatusCode};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

use crate::gateway::{Gateway, PATIENCE, Process, TOKEN};

/// `POST /event` with the token that may do everything.
pub fn post(gateway: &Gateway, body: impl Into<reqwest::Body>) -> RequestBuilder {
    post_as(gateway, TOKEN, body)
}

/// `POST /event` with a token.
pub fn post_as(gateway: &Gateway, token: &str, body: impl Into<reqwest::Body>) -> RequestBuilder {
    reqwest::Client::new()
        .post(gateway.event_url())
        .header("authorization", format!("Basic {token}"))
        .body(body)
}

/// `POST /event` with any value of `Authorization`, or none.
pub fn post_with(gateway: &Gateway, authorization: Option<&str>, body: &str) -> RequestBuilder {
    let request = reqwest::Client::new().post(gateway.event_url()).body(body.to_owned());
    match authorization {
        Some(authorization) => request.header("authorization", authorization),
        None => request,
    }
}

/// The body of an answer that says nothing but a code.
pub fn code(code: &str) -> String {
    format!(r#"{{"code":"{code}"}}"#)
}

/// A WebSocket's answer to a message of this kind.
pub fn said(kind: &str, code: &str) -> String {
    format!(r#"{{"type":"{kind}","code":"{code}"}}"#)
}

/// An event as a session sees it.
pub fn event(event_type: &str, data: &str) -> String {
    format!(r#"{{"type":"event","event":"{event_type}","data":{data}}}"#)
}

/// An init message; `events` is JSON.
pub fn init(token: &str, events: &str) -> String {
    format!(r#"{{"authentication":"Basic {token}","events":{events}}}"#)
}

/// Publishes until this is the answer: for what becomes so within a moment.
pub async fn wait_for_answer(gateway: &Gateway, token: &str, status: u16) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let response = post_as(gateway, token, r#"{"event":"a"}"#).send().await.unwrap();
        if response.status() == status {
            return;
        }
        assert!(Instant::now() < deadline, "{} never became {status}", response.status());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Publishes, and expects that it is taken.
pub async fn fire(gateway: &Gateway, event_type: &str, data: &str) {
    let body = format!(r#"{{"event":"{event_type}","data":{data}}}"#);
    let response = post(gateway, body).send().await.unwrap();
    assert_eq!(answer(response).await, (200, r#"{"code":"OK"}"#.to_owned()));
}

/// The status and the body of an answer, which must be JSON as all of ours are.
pub async fn answer(response: Response) -> (u16, String) {
    let status: StatusCode = response.status();
    let kind = response.headers()["content-type"].to_str().unwrap().to_owned();
    assert_eq!(kind, "application/json; charset=utf-8");
    (status.as_u16(), response.text().await.unwrap())
}

/// A WebSocket client.
pub struct Subscriber {
    pub socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
}

impl Subscriber {
    /// Connects, and says nothing yet.
    pub async fn connect(broadcast: &Process) -> Self {
        let (socket, _) = connect_async(broadcast.ws_url() + "/").await.unwrap();
        Self { socket }
    }

    /// Connects with a credential in the upgrade.
    pub async fn connect_as(broadcast: &Process, path: &str, authorization: &str) -> Self {
        let mut request = (broadcast.ws_url() + path).into_client_request().unwrap();
        request.headers_mut().insert("authorization", authorization.parse().unwrap());
        Self { socket: connect_async(request).await.unwrap().0 }
    }

    /// Connects and subscribes with the token that may do everything.
    pub async fn subscribe(broadcast: &Process, events: &[&str]) -> Self {
        Self::subscribe_as(broadcast, TOKEN, events).await
    }

    /// Connects and subscribes with a token.
    pub async fn subscribe_as(broadcast: &Process, token: &str, events: &[&str]) -> Self {
        let mut subscriber = Self::connect(broadcast).await;
        assert_eq!(subscriber.init(token, events).await, said("init", "OK"));
        subscriber
    }

    /// Sends an init message, and gives its answer.
    pub async fn init(&mut self, token: &str, events: &[&str]) -> String {
        let events = serde_json::to_string(events).unwrap();
        self.ask(&format!(r#"{{"authentication":"Basic {token}","events":{events}}}"#)).await
    }

    /// Sends a text, and gives the next one that comes.
    pub async fn ask(&mut self, text: &str) -> String {
        self.say(text).await;
        self.hear().await
    }

    pub async fn say(&mut self, text: &str) {
        self.socket.send(Message::text(text)).await.unwrap();
    }

    /// The next text message.
    pub async fn hear(&mut self) -> String {
        match self.next().await {
            Message::Text(text) => text.to_string(),
            other => panic!("no text came but {other:?}"),
        }
    }

    /// Reads so many events: the numbers that are their data, as they came.
    pub async fn hear_numbers(&mut self, count: usize) -> Vec<u64> {
        let mut numbers = Vec::new();
        for _ in 0..count {
            let event: Value = serde_json::from_str(&self.hear().await).unwrap();
            numbers.push(event["data"].as_u64().unwrap());
        }
        numbers
    }

    /// The next message, but for pings, which must not make the wait for it any longer.
    pub async fn next(&mut self) -> Message {
        let next = async {
            loop {
                match self.receive().await.expect("the connection ended").unwrap() {
                    Message::Ping(_) => {}
                    message => return message,
                }
            }
        };
        tokio::time::timeout(PATIENCE, next).await.expect("nothing came")
    }

    /// The code and the reason of the server's Close, whatever comes before it.
    pub async fn closed(mut self) -> (u16, String) {
        let closed = async {
            loop {
                match self.receive().await {
                    Some(Ok(Message::Close(Some(CloseFrame { code, reason })))) => {
                        return (code.into(), reason.to_string());
                    }
                    Some(Ok(Message::Close(None))) | None | Some(Err(_)) => {
                        panic!("the connection ended without a Close that says why");
                    }
                    Some(Ok(_)) => {}
                }
            }
        };
        tokio::time::timeout(PATIENCE, closed).await.expect("no Close came")
    }

    /// That no event has come: whatever was sent before is behind the answer to this message.
    pub async fn assert_nothing_came(&mut self) {
        let answer = self.ask(r#"{"type":"unsubscribe","events":[]}"#).await;
        assert_eq!(answer, said("unsubscribe", "OK"));
    }

    async fn receive(&mut self) -> Option<Result<Message, Error>> {
        self.socket.next().await
    }
}

/// Lets time pass where there is nothing to wait for: only to show that something does *not*
/// happen. A test that is too quick here proves less, and never fails for it.
pub async fn let_pass(duration: Duration) {
    tokio::time::sleep(duration).await;
}
