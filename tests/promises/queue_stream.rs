//! A consumer of a durable queue, who reads every byte of its stream.

use std::collections::VecDeque;

use reqwest::{RequestBuilder, Response};
use serde_json::Value;

use crate::client::answer;
use crate::gateway::{Gateway, PATIENCE, Process, TOKEN};
use crate::measures::until;

/// What a stream begins with.
pub const BANNER: &str = ": SSE stream\n\n";

/// The stream of a queue.
pub struct QueueStream {
    response: Response,
    unread: String,
    blocks: VecDeque<String>,
}

/// `GET` of a queue's path with a query, with the token that may do everything.
pub fn ask(broadcast: &Process, query: &str) -> RequestBuilder {
    ask_as(broadcast, TOKEN, query)
}

/// The same with a token.
pub fn ask_as(broadcast: &Process, token: &str, query: &str) -> RequestBuilder {
    ask_plainly(broadcast, query).header("authorization", format!("Basic {token}"))
}

/// The same without a credential.
pub fn ask_plainly(broadcast: &Process, query: &str) -> RequestBuilder {
    reqwest::Client::new().get(format!("{}/queue?{query}", broadcast.url()))
}

impl QueueStream {
    /// Opens the stream of a queue, which must have no consumer.
    pub async fn open(broadcast: &Process, query: &str) -> Self {
        Self::of(ask(broadcast, query)).await
    }

    /// Opens it as soon as the consumer before is known to be gone.
    pub async fn open_when_free(broadcast: &Process, query: &str) -> Self {
        let opened = async || match ask(broadcast, query).send().await {
            Ok(response) if response.status() == 200 => Some(response),
            Ok(response) => {
                assert_eq!(refusal(response).await, TAKEN);
                None
            }
            // Nobody is there, for now.
            Err(_) => None,
        };
        let response = until("a queue without a consumer", opened).await;
        Self::begin(response).await
    }

    /// Sends a request, which must be answered with a stream.
    pub async fn of(request: RequestBuilder) -> Self {
        let response = request.send().await.unwrap();
        let status = response.status();
        if status != 200 {
            panic!("{status}: {:?}", refusal(response).await);
        }
        Self::begin(response).await
    }

    /// What an answer brings, which must be a stream.
    pub async fn begin(response: Response) -> Self {
        let mut stream = Self { response, unread: String::new(), blocks: VecDeque::new() };
        // First bytes come at once.
        assert_eq!(stream.block().await.as_deref(), Some(BANNER));
        stream
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.response.headers().get(name).map(|it| it.to_str().unwrap())
    }

    /// The next block as it was written, its empty line too; none at the end of the stream.
    pub async fn block(&mut self) -> Option<String> {
        loop {
            if let Some(block) = self.blocks.pop_front() {
                return Some(block);
            }
            let chunk = tokio::time::timeout(PATIENCE, self.response.chunk()).await;
            let Ok(Some(chunk)) = chunk.expect("nothing came") else { return None };
            self.unread += std::str::from_utf8(&chunk).unwrap();
            while let Some(end) = self.unread.find("\n\n") {
                self.blocks.push_back(self.unread.drain(..end + 2).collect());
            }
        }
    }

    /// The next message, without comments that only keep the stream alive: these must not make the
    /// wait for it any longer.
    pub async fn message(&mut self) -> String {
        let next = async {
            loop {
                let block = self.block().await.expect("the stream has ended");
                if block != ":\n\n" {
                    return block;
                }
            }
        };
        tokio::time::timeout(PATIENCE, next).await.expect("no message came")
    }

    /// So many messages.
    pub async fn messages(&mut self, count: usize) -> Vec<String> {
        let mut messages = Vec::new();
        for _ in 0..count {
            messages.push(self.message().await);
        }
        messages
    }

    /// Waits for its end, and gives what came before it. The end must be a good one.
    pub async fn ended(mut self) -> Vec<String> {
        let mut rest = Vec::from(std::mem::take(&mut self.blocks));
        loop {
            let chunk = tokio::time::timeout(PATIENCE, self.response.chunk()).await;
            let Some(chunk) = chunk.expect("it goes on").unwrap() else { break };
            self.unread += std::str::from_utf8(&chunk).unwrap();
        }
        rest.extend(self.unread.split_inclusive("\n\n").map(str::to_owned));
        rest
    }
}

/// A message whose data are this line.
pub fn data(text: &str) -> String {
    format!("data: {text}\n\n")
}

/// The same, given before.
pub fn again(text: &str) -> String {
    format!(": redelivered\ndata: {text}\n\n")
}

/// Messages whose data are these numbers.
pub fn numbered(range: std::ops::Range<u64>) -> Vec<String> {
    range.map(|number| data(&number.to_string())).collect()
}

/// A status, `X-Status-Reason`, and the code of a refusal.
pub type Refused = (u16, &'static str, &'static str);

/// It has a consumer.
pub const TAKEN: Refused = (503, "server: max consumers exceeded", "MAX_CONSUMERS_EXCEEDED");
/// Part of its name is not there.
pub const MISSING: Refused = (503, "request parameter(s) missing", "PARAMETER_MISSING");
/// That is no name.
pub const INVALID: Refused = (503, "invalid queue name", "INVALID_QUEUE_NAME");

/// Why a request was refused.
pub async fn refusal(response: Response) -> Refused {
    let leak = |text: &str| &*Box::leak(text.to_owned().into_boxed_str());
    let reason = response.headers().get("x-status-reason").map(|it| it.to_str().unwrap());
    let reason = leak(reason.unwrap_or_default());
    let (status, body) = answer(response).await;
    let body: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(body.as_object().unwrap().len(), 1, "{body}");
    (status, reason, leak(body["code"].as_str().unwrap()))
}

/// The queues as operators see them.
pub async fn listed(broadcast: &Process) -> Vec<Value> {
    let request = reqwest::Client::new().get(format!("{}/queues", broadcast.url()));
    let response = request.header("authorization", format!("Basic {TOKEN}")).send().await.unwrap();
    let (status, body) = answer(response).await;
    assert_eq!(status, 200, "{body}");
    let body: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(body.as_object().unwrap().len(), 1, "{body}");
    body["queues"].as_array().unwrap().clone()
}

/// Waits until a queue is listed with these members.
pub async fn wait_for_listing(broadcast: &Process, name: &str, due: &[(&str, u64)]) -> Value {
    until(&format!("{name} with {due:?}"), async || {
        let queue = listed(broadcast).await.into_iter().find(|it| it["name"] == name)?;
        due.iter().all(|(member, value)| queue[*member] == *value).then_some(queue)
    })
    .await
}

/// Makes a queue, in which nobody consumes then.
pub async fn make(gateway: &Gateway, name: &str, query: &str) {
    drop(QueueStream::open(&gateway.broadcast, &format!("id={name}&{query}")).await);
    wait_for_listing(&gateway.broadcast, name, &[("consumers", 0)]).await;
}
