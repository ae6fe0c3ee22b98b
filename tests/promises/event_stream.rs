//! `GET /events` over HTTP, read as it comes: blocks of Server-Sent Events, and pages.

use reqwest::{RequestBuilder, Response};
use serde_json::Value;

use crate::gateway::{PATIENCE, Process, TOKEN};

/// A stream of Server-Sent Events.
pub struct EventStream {
    response: Response,
    unread: Vec<u8>,
}

/// What stands between two empty lines.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Block {
    pub id: Option<String>,
    pub event: Option<String>,
    /// One for each line.
    pub data: Vec<String>,
    pub retry: Option<u64>,
    pub comments: usize,
}

impl EventStream {
    /// Opens a stream with the token that may do everything.
    pub async fn open(broadcast: &Process, query: &str) -> Self {
        Self::of(get(broadcast, query).header("accept", "text/event-stream")).await
    }

    /// Opens a stream by a ticket.
    pub async fn open_by(broadcast: &Process, ticket: &str, query: &str) -> Self {
        Self::of(by_ticket(broadcast, ticket, query)).await
    }

    /// Sends a request, which must be answered with a stream.
    pub async fn of(request: RequestBuilder) -> Self {
        Self::try_of(request).await.unwrap_or_else(|refused| panic!("{refused:?}"))
    }

    /// Sends a request; gives the status and the body of an answer that is no stream.
    pub async fn try_of(request: RequestBuilder) -> Result<Self, (u16, String)> {
        let response = request.send().await.unwrap();
        let status = response.status().as_u16();
        if status != 200 {
            return Err((status, response.text().await.unwrap()));
        }
        let kind = response.headers()["content-type"].to_str().unwrap();
        assert!(kind.starts_with("text/event-stream"), "{kind}");
        let mut stream = Self { response, unread: Vec::new() };
        // First bytes come at once; and with them the stream is live.
        assert!(stream.read().await, "it ends at once");
        Ok(stream)
    }

    pub fn header(&self, name: &str) -> &str {
        self.response.headers()[name].to_str().unwrap()
    }

    /// The next block of any kind; none at the end of the stream.
    pub async fn next_block(&mut self) -> Option<Block> {
        loop {
            if let Some(end) = self.unread.windows(2).position(|two| two == b"\n\n") {
                let block: Vec<u8> = self.unread.drain(..end + 2).collect();
                return Some(Block::parse(std::str::from_utf8(&block).unwrap()));
            }
            if !self.read().await {
                return None;
            }
        }
    }

    /// The next event, without what only keeps the stream alive.
    pub async fn event(&mut self) -> Block {
        loop {
            let block = self.next_block().await.expect("the stream has ended");
            if !block.data.is_empty() {
                return block;
            }
        }
    }

    /// Waits for its end; a broken connection is an end, too.
    pub async fn ended(mut self) {
        while self.next_block().await.is_some() {}
    }

    /// Reads what comes next; whether anything does.
    async fn read(&mut self) -> bool {
        let chunk = tokio::time::timeout(PATIENCE, self.response.chunk()).await;
        match chunk.expect("nothing came") {
            Ok(Some(chunk)) => self.unread.extend(chunk),
            Ok(None) | Err(_) => return false,
        }
        true
    }
}

impl Block {
    fn parse(text: &str) -> Self {
        let mut block = Self::default();
        assert!(!text.contains('\r'), "{text:?}");
        for line in text.lines().filter(|line| !line.is_empty()) {
            let (name, value) = line.split_once(':').unwrap_or((line, ""));
            let value = value.strip_prefix(' ').unwrap_or(value).to_owned();
            match name {
                "" => block.comments += 1,
                "id" => block.id = Some(value),
                "event" => block.event = Some(value),
                "data" => block.data.push(value),
                "retry" => block.retry = Some(value.parse().unwrap()),
                other => panic!("{other:?} is no field"),
            }
        }
        block
    }

    /// The data as a client sees them.
    pub fn text(&self) -> String {
        self.data.join("\n")
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text()).unwrap()
    }
}

/// `GET /events` with the token that may do everything.
pub fn get(broadcast: &Process, query: &str) -> RequestBuilder {
    get_as(broadcast, TOKEN, query)
}

/// `GET /events` with a token.
pub fn get_as(broadcast: &Process, token: &str, query: &str) -> RequestBuilder {
    reqwest::Client::new()
        .get(format!("{}/events?{query}", broadcast.url()))
        .header("authorization", format!("Basic {token}"))
}

/// `GET /events` for a stream, by a ticket.
pub fn by_ticket(broadcast: &Process, ticket: &str, query: &str) -> RequestBuilder {
    reqwest::Client::new()
        .get(format!("{}/events?ticket={ticket}&{query}", broadcast.url()))
        .header("accept", "text/event-stream")
}

/// `POST /tickets` with a token.
pub async fn ticket(broadcast: &Process, token: &str) -> String {
    let request = reqwest::Client::new().post(format!("{}/tickets", broadcast.url()));
    let response = request.header("authorization", format!("Basic {token}")).send().await.unwrap();
    let (status, body) = crate::client::answer(response).await;
    assert_eq!(status, 200, "{body}");
    let answer: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(answer.as_object().unwrap().len(), 1, "{body}");
    let ticket = answer["ticket"].as_str().unwrap().to_owned();
    // It goes into a query as it is.
    let is_plain =
        |character: char| character.is_ascii_alphanumeric() || "-_.~".contains(character);
    assert!(ticket.len() >= 16 && ticket.chars().all(is_plain), "{ticket}");
    ticket
}
