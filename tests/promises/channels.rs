//! A Phoenix client that says exactly what a test wants it to (WIRE 4).

use serde_json::{Value, json};
use tokio_tungstenite::connect_async;
use tokio_tungstenite::tungstenite::Error;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::http::HeaderName;

use crate::client::{Subscriber, fire};
use crate::gateway::{Gateway, Process, TOKEN};

/// The topic of what the token of the tests publishes.
pub const ALL: &str = "source:/all";

/// What a door said to a handshake: the subprotocol that it chose, or the status of its refusal.
pub type Handshake = Result<(Subscriber, Option<String>), u16>;

/// Asks for a channel connection with this query and these headers.
pub async fn shake_hands(broadcast: &Process, query: &str, headers: &[(&str, &str)]) -> Handshake {
    let url = format!("{}/socket/websocket{query}", broadcast.ws_url());
    let mut request = url.into_client_request().unwrap();
    for (name, value) in headers {
        let name: HeaderName = name.parse().unwrap();
        request.headers_mut().insert(name, value.parse().unwrap());
    }
    match connect_async(request).await {
        Ok((socket, response)) => {
            let chosen = response.headers().get("sec-websocket-protocol");
            let chosen = chosen.map(|it| it.to_str().unwrap().to_owned());
            Ok((Subscriber { socket }, chosen))
        }
        Err(Error::Http(response)) => Err(response.status().as_u16()),
        Err(other) => panic!("{other}"),
    }
}

/// Version 2, with the token that may do everything.
pub async fn open(broadcast: &Process) -> Subscriber {
    open_as(broadcast, TOKEN).await
}

/// Version 2, with a token.
pub async fn open_as(broadcast: &Process, token: &str) -> Subscriber {
    let query = format!("?token={token}&vsn=2.0.0");
    shake_hands(broadcast, &query, &[]).await.unwrap_or_else(|status| panic!("{status}")).0
}

/// Joins, and gives the status and the response.
pub async fn join(client: &mut Subscriber, topic: &str, payload: Value) -> (String, Value) {
    let reply = client.ask(&json!(["j", "j", topic, "phx_join", payload]).to_string()).await;
    let reply: Value = serde_json::from_str(&reply).unwrap();
    assert_eq!(reply[0], "j", "{reply}");
    assert_eq!(reply[1], "j", "{reply}");
    assert_eq!(reply[2], *topic, "{reply}");
    assert_eq!(reply[3], "phx_reply", "{reply}");
    (reply[4]["status"].as_str().unwrap().to_owned(), reply[4]["response"].clone())
}

/// Joins, which must be granted; gives the response.
pub async fn join_ok(client: &mut Subscriber, topic: &str, payload: Value) -> Value {
    let (status, response) = join(client, topic, payload).await;
    assert_eq!(status, "ok", "{response}");
    response
}

/// The next event: its topic, its name and the CloudEvent.
pub async fn hear(client: &mut Subscriber) -> (String, String, Value) {
    let message: Value = serde_json::from_str(&client.hear().await).unwrap();
    assert_eq!((&message[0], &message[1]), (&Value::Null, &Value::Null), "{message}");
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    (text(&message[2]), text(&message[3]), message[4].clone())
}

/// All events up to now, on a connection that has joined what this token publishes.
pub async fn rest(gateway: &Gateway, client: &mut Subscriber) -> Vec<Value> {
    fire(gateway, "fence", "null").await;
    let mut events = Vec::new();
    loop {
        let (_, name, event) = hear(client).await;
        if name == "fence" {
            return events;
        }
        events.push(event);
    }
}

/// Shows that nothing has come: whatever was sent before is behind this answer.
pub async fn assert_quiet(client: &mut Subscriber) {
    let answer = client.ask(r#"[null,"quiet","phoenix","heartbeat",{}]"#).await;
    let due = r#"[null,"quiet","phoenix","phx_reply",{"status":"ok","response":{}}]"#;
    assert_eq!(answer, due);
}

/// A text in which no cursor says where it is.
pub fn masked(text: &str) -> String {
    let mut parts = text.split(r#""cursor":""#);
    let first = parts.next().unwrap().to_owned();
    parts.fold(first, |masked, part| {
        let (cursor, rest) = part.split_once('"').unwrap();
        let (epoch, offset) = cursor.split_once('-').expect("a cursor");
        assert!(!epoch.is_empty() && offset.parse::<u64>().is_ok(), "{cursor}");
        format!(r#"{masked}"cursor":"_"{rest}"#)
    })
}
