//! The doors of a gateway, one adapter a protocol: what a client does there, and what becomes of it.

use std::sync::atomic::{AtomicU32, Ordering};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use futures_util::SinkExt as _;
use reqwest::{RequestBuilder, Url};
use serde_json::{Value, json};
use tokio_tungstenite::connect_async;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::{Error, Message};

use crate::client::Subscriber;
use crate::decisions::{Action, Outcome, Protocol};
use crate::event_stream::EventStream;
use crate::gateway::Gateway;

/// Who comes to a gateway.
#[derive(Clone, Copy)]
pub struct Cell<'a> {
    pub gateway: &'a Gateway,
    /// The value of an `Authorization` header, if anything is shown.
    pub authorization: Option<&'a str>,
    /// Where to resume.
    pub cursor: &'a str,
}

/// What was opened, and is heard.
pub enum Stream {
    Socket(Subscriber),
    /// It has heard an event already, with these data.
    Heard(Subscriber, u64),
    Phoenix(Subscriber),
    ServerSentEvents(EventStream),
    /// The page after a cursor, or the newest event where there is none.
    Page(RequestBuilder),
}

impl Stream {
    /// The data of the next event: a number.
    pub async fn hear(&mut self) -> u64 {
        match self {
            Self::Socket(socket) => number_of(&socket.hear().await),
            Self::Heard(_, number) => *number,
            Self::Phoenix(socket) => {
                let message: Value = serde_json::from_str(&socket.hear().await).unwrap();
                message[4]["data"].as_u64().unwrap_or_else(|| panic!("{message}"))
            }
            Self::ServerSentEvents(stream) => stream.event().await.json().as_u64().unwrap(),
            Self::Page(request) => {
                let page = request.try_clone().unwrap().send().await.unwrap();
                let page: Value = serde_json::from_str(&page.text().await.unwrap()).unwrap();
                page[0]["data"].as_u64().unwrap_or_else(|| panic!("{page}"))
            }
        }
    }
}

fn number_of(event: &str) -> u64 {
    let event: Value = serde_json::from_str(event).unwrap();
    event["data"].as_u64().unwrap_or_else(|| panic!("{event}"))
}

/// Publishes an event of type `b` with this id.
pub async fn publish(cell: &Cell<'_>, protocol: Protocol, id: &str) -> Outcome {
    let listen = cell.gateway.listen.url();
    let event = json!({"specversion": "1.0", "id": id, "source": "/cell", "type": "b"});
    let client = reqwest::Client::new();
    let request = match protocol {
        Protocol::Event => {
            let body = json!({"event": "b", "id": id, "source": "/cell"});
            client.post(format!("{listen}/event")).body(body.to_string())
        }
        Protocol::Structured => client
            .post(format!("{listen}/events"))
            .header("content-type", "application/cloudevents+json")
            .body(event.to_string()),
        Protocol::Binary => client
            .post(format!("{listen}/events"))
            .header("ce-specversion", "1.0")
            .header("ce-id", id)
            .header("ce-source", "/cell")
            .header("ce-type", "b"),
        Protocol::Batch => client
            .post(format!("{listen}/events"))
            .header("content-type", "application/cloudevents-batch+json")
            .body(json!([event]).to_string()),
        Protocol::Agent | Protocol::AgentHeader => {
            let message = json!({"type": "publish", "channel": "b", "event": event});
            return match agent(cell, protocol, message, true).await {
                Ok(_) => Outcome::Done,
                Err(refused) => refused,
            };
        }
        other => panic!("{other:?} is no way in"),
    };
    let (status, body) = send(cell, request).await;
    let code = match &body {
        // A list has one result for each event.
        Value::Array(results) => results[0]["code"].clone(),
        body => body["code"].clone(),
    };
    match (status, code.as_str()) {
        (200, Some("OK")) | (201, _) => Outcome::Done,
        (403, Some("UNAUTHENTICATED")) => Outcome::Unauthenticated,
        (200, Some("FORBIDDEN")) if protocol == Protocol::Batch => Outcome::Forbidden,
        (403, Some("FORBIDDEN")) if protocol != Protocol::Batch => Outcome::Forbidden,
        _ => panic!("{protocol:?}: {status} {body}"),
    }
}

/// Opens a stream of events of type `a`, from now or from the cursor on.
pub async fn open(cell: &Cell<'_>, protocol: Protocol, action: Action) -> Result<Stream, Outcome> {
    let is_resume = action == Action::Resume;
    let after = if is_resume { format!("&after={}", cell.cursor) } else { String::new() };
    match protocol {
        Protocol::NativeInit | Protocol::NativeHeader | Protocol::NativeAuth => {
            native(cell, protocol, is_resume).await
        }
        Protocol::ServerSentEvents => {
            let request = get(cell, &format!("/events?type=a{after}"));
            stream(request.header("accept", "text/event-stream"), cell).await
        }
        Protocol::Page => {
            let start = if is_resume { after } else { "&last=1".to_owned() };
            let request = get(cell, &format!("/events?type=a{start}"));
            judge(send(cell, request.try_clone().unwrap()).await)?;
            let request = with_head(cell, request);
            Ok(Stream::Page(request))
        }
        Protocol::EventsSocket => {
            // It is live once it has its 101.
            let socket = upgrade(cell, &format!("/events?type=a{after}"), true, None).await?;
            Ok(Stream::Socket(socket))
        }
        Protocol::Ticket => {
            let url = format!("{}/tickets", cell.gateway.broadcast.url());
            let answer = judge(send(cell, reqwest::Client::new().post(url)).await)?;
            let ticket = answer["ticket"].as_str().unwrap();
            let request = get(cell, &format!("/events?type=a&ticket={ticket}{after}"));
            let request = request.header("accept", "text/event-stream");
            stream(request, &Cell { authorization: None, ..*cell }).await
        }
        Protocol::PhoenixParams | Protocol::PhoenixAuthToken | Protocol::PhoenixHeader => {
            phoenix(cell, protocol, is_resume).await
        }
        Protocol::Agent | Protocol::AgentHeader => {
            let mut message = json!({"type": "subscribe", "channels": ["a"]});
            if is_resume {
                message["after"] = cell.cursor.into();
            }
            agent(cell, protocol, message, !is_resume).await
        }
        other => panic!("{other:?} is no way out"),
    }
}

async fn native(cell: &Cell<'_>, by: Protocol, is_resume: bool) -> Result<Stream, Outcome> {
    let mut socket = upgrade(cell, "/", by == Protocol::NativeHeader, None).await?;
    let mut init = json!({"events": ["a"]});
    if is_resume {
        init["after"] = cell.cursor.into();
    }
    if let Some(authorization) = cell.authorization {
        match by {
            Protocol::NativeInit => init["authentication"] = authorization.into(),
            Protocol::NativeAuth => {
                let auth = json!({"type": "auth", "authentication": authorization});
                judge_code(&socket.ask(&auth.to_string()).await)?;
            }
            _ => {}
        }
    }
    judge_code(&socket.ask(&init.to_string()).await)?;
    Ok(Stream::Socket(socket))
}

async fn phoenix(cell: &Cell<'_>, by: Protocol, is_resume: bool) -> Result<Stream, Outcome> {
    let mut url = Url::parse("ws://localhost/socket/websocket?vsn=2.0.0").unwrap();
    let mut offered = None;
    if let Some(authorization) = cell.authorization {
        if by == Protocol::PhoenixParams {
            url.query_pairs_mut().append_pair("token", authorization);
        } else if by == Protocol::PhoenixAuthToken {
            let encoded = STANDARD_NO_PAD.encode(authorization);
            offered = Some(format!("phoenix, base64url.bearer.phx.{encoded}"));
        }
    }
    let path = format!("{}?{}", url.path(), url.query().unwrap());
    let mut socket = upgrade(cell, &path, by == Protocol::PhoenixHeader, offered).await?;
    let payload = if is_resume { json!({"cursor": cell.cursor}) } else { json!({}) };
    let join = json!(["1", "1", "source:/feeder", "phx_join", payload]).to_string();
    let reply: Value = serde_json::from_str(&socket.ask(&join).await).unwrap();
    let (status, response) = (&reply[4]["status"], &reply[4]["response"]);
    match (status.as_str(), response["reason"].as_str()) {
        (Some("ok"), _) => {}
        (Some("error"), Some("unauthenticated")) => return Err(Outcome::Unauthenticated),
        (Some("error"), Some("forbidden")) => return Err(Outcome::Forbidden),
        _ => panic!("{reply}"),
    }
    if is_resume {
        // What a join has missed is in its reply.
        let number = response["messages"][0]["data"].as_u64();
        return Ok(Stream::Heard(socket, number.unwrap_or_else(|| panic!("{reply}"))));
    }
    Ok(Stream::Phoenix(socket))
}

/// Says something as an Eventual Agent. What succeeds is not answered: so there is a message behind it
/// that is, or else an event is waited for.
async fn agent(
    cell: &Cell<'_>,
    by: Protocol,
    mut message: Value,
    is_fenced: bool,
) -> Result<Stream, Outcome> {
    let is_by_header = by == Protocol::AgentHeader;
    let mut socket = upgrade(cell, "/", is_by_header, None).await?;
    if let Some(authorization) = cell.authorization.filter(|_| !is_by_header) {
        message["token"] = authorization.into();
    }
    socket.say(&message.to_string()).await;
    if is_fenced {
        // The connection may have ended already; why is heard below.
        let fence = Message::text(r#"{"type":"unsubscribe","events":[]}"#);
        let _ = socket.socket.send(fence).await;
    }
    match socket.next().await {
        Message::Text(text) if text.as_str() == r#""Invalid Request""# => Err(Outcome::Forbidden),
        Message::Text(text) if is_fenced => {
            assert_eq!(text.as_str(), r#"{"type":"unsubscribe","code":"OK"}"#);
            Ok(Stream::Socket(socket))
        }
        Message::Text(event) => Ok(Stream::Heard(socket, number_of(event.as_str()))),
        Message::Close(Some(close)) if u16::from(close.code) == 4401 => {
            Err(Outcome::Unauthenticated)
        }
        other => panic!("{other:?}"),
    }
}

/// Each comes from an address of its own, or those who are refused would be made to wait.
fn address() -> String {
    static LAST: AtomicU32 = AtomicU32::new(0);
    let [_, b, c, d] = LAST.fetch_add(1, Ordering::Relaxed).to_be_bytes();
    format!("10.{b}.{c}.{d}")
}

fn get(cell: &Cell<'_>, path: &str) -> RequestBuilder {
    reqwest::Client::new().get(format!("{}{path}", cell.gateway.broadcast.url()))
}

fn with_head(cell: &Cell<'_>, request: RequestBuilder) -> RequestBuilder {
    let request = request.header("x-forwarded-for", address());
    match cell.authorization {
        Some(authorization) => request.header("authorization", authorization),
        None => request,
    }
}

async fn send(cell: &Cell<'_>, request: RequestBuilder) -> (u16, Value) {
    let response = with_head(cell, request).send().await.unwrap();
    let status = response.status().as_u16();
    (status, serde_json::from_str(&response.text().await.unwrap()).unwrap_or_default())
}

/// Opens a stream, or says how it was refused.
async fn stream(request: RequestBuilder, cell: &Cell<'_>) -> Result<Stream, Outcome> {
    let request = with_head(cell, request);
    // Asked once: a ticket is good for one stream at a time.
    match EventStream::try_of(request).await {
        Ok(stream) => Ok(Stream::ServerSentEvents(stream)),
        Err((status, body)) => {
            let body = serde_json::from_str(&body).unwrap_or_default();
            Err(judge((status, body)).unwrap_err())
        }
    }
}

/// Whether a plain request to broadcast was refused (WIRE 3.2).
fn judge((status, body): (u16, Value)) -> Result<Value, Outcome> {
    match (status, body["code"].as_str()) {
        (200, _) => Ok(body),
        (401, Some("UNAUTHENTICATED")) => Err(Outcome::Unauthenticated),
        (403, Some("FORBIDDEN")) => Err(Outcome::Forbidden),
        _ => panic!("{status} {body}"),
    }
}

/// Whether a message was refused.
fn judge_code(answer: &str) -> Result<(), Outcome> {
    let answer: Value = serde_json::from_str(answer).unwrap();
    match answer["code"].as_str() {
        Some("OK") => Ok(()),
        Some("UNAUTHENTICATED") => Err(Outcome::Unauthenticated),
        Some("FORBIDDEN") => Err(Outcome::Forbidden),
        _ => panic!("{answer}"),
    }
}

/// Upgrades, with the credential in the head where `is_shown`.
async fn upgrade(
    cell: &Cell<'_>,
    path: &str,
    is_shown: bool,
    offered: Option<String>,
) -> Result<Subscriber, Outcome> {
    let mut request =
        format!("{}{path}", cell.gateway.broadcast.ws_url()).into_client_request().unwrap();
    let headers = request.headers_mut();
    headers.insert("x-forwarded-for", address().parse().unwrap());
    if let Some(authorization) = cell.authorization.filter(|_| is_shown) {
        headers.insert("authorization", authorization.parse().unwrap());
    }
    if let Some(offered) = offered {
        headers.insert("sec-websocket-protocol", offered.parse().unwrap());
    }
    match connect_async(request).await {
        Ok((socket, _)) => Ok(Subscriber { socket }),
        Err(Error::Http(response)) => {
            let body = response.body().clone().unwrap_or_default();
            let body: Value = serde_json::from_slice(&body).unwrap_or_default();
            match (response.status().as_u16(), body["code"].as_str()) {
                (403, Some("UNAUTHENTICATED")) => Err(Outcome::Unauthenticated),
                (403, Some("FORBIDDEN")) => Err(Outcome::Forbidden),
                refused => panic!("{refused:?}"),
            }
        }
        Err(other) => panic!("{other}"),
    }
}
