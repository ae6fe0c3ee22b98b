//! `fanfare queue`: lists and deletes durable queues, with a token that may administer.

use std::io::{self, Write as _};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Args, Subcommand};
use gateway::caller::Caller;
use gateway::endpoint::Endpoint;
use serde::Deserialize;
use ureq::typestate::WithoutBody;
use ureq::{Agent, RequestBuilder};

use crate::agent::agent;

/// The most bytes of a list: 10,000 queues with the longest names and some patterns each.
const LIST_BYTES_MAX: u64 = 256 * 1024 * 1024;

/// Lists and deletes durable queues; needs a token that may administer
#[derive(Debug, Subcommand)]
pub(crate) enum Queue {
    List(List),
    Delete(Delete),
}

/// Lists the durable queues: what waits in them, and whether somebody consumes it
#[derive(Debug, Args)]
pub(crate) struct List {
    #[command(flatten)]
    door: Door,

    /// Prints what the gateway answers, which is JSON
    #[arg(long)]
    json: bool,
}

/// Deletes a durable queue with all that waits in it; its consumer is sent away
#[derive(Debug, Args)]
pub(crate) struct Delete {
    /// The name of the queue, as the list shows it
    name: String,

    #[command(flatten)]
    door: Door,
}

#[derive(Debug, Args)]
struct Door {
    /// Where broadcast is; FANFARE_URL where neither is given, else http://127.0.0.1:8081
    #[arg(long, env = "FANFARE_WATCH_URL", value_name = "URL")]
    url: Option<Endpoint>,

    /// One address for both doors, as a proxy in front of them gives
    #[arg(
        long,
        env = "FANFARE_URL",
        value_name = "URL",
        hide = true,
        default_value = "http://127.0.0.1:8081"
    )]
    common_url: Endpoint,

    #[command(flatten)]
    caller: Caller,
}

impl Queue {
    /// Does it.
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        match self {
            Self::List(list) => list.run(),
            Self::Delete(delete) => delete.run(),
        }
    }
}

impl List {
    fn run(&self) -> anyhow::Result<ExitCode> {
        let answer = self.door.ask("/queues", |agent, url| agent.get(url))?;
        if answer.status != 200 {
            return answer.refuse();
        }
        let mut out = io::stdout().lock();
        if self.json {
            writeln!(out, "{}", answer.text)?;
            return Ok(ExitCode::SUCCESS);
        }
        let read: Queues = serde_json::from_str(&answer.text)
            .with_context(|| format!("{} answers not as a gateway does", answer.url))?;
        writeln!(out, "{}", table(&read.queues))?;
        Ok(ExitCode::SUCCESS)
    }
}

impl Delete {
    fn run(&self) -> anyhow::Result<ExitCode> {
        let path = format!("/queues/{}", encode(&self.name));
        let answer = self.door.ask(&path, |agent, url| agent.delete(url))?;
        if answer.status == 404 {
            eprintln!("fanfare: no queue is called that");
        }
        answer.refuse()
    }
}

impl Door {
    fn ask(
        &self,
        path: &str,
        method: impl Fn(&Agent, &str) -> RequestBuilder<WithoutBody>,
    ) -> anyhow::Result<Answer> {
        let url = self.url.as_ref().unwrap_or(&self.common_url).http_url(path);
        let mut request = method(&agent(&self.caller)?, &url);
        if let Some(authorization) = self.caller.authorization() {
            request = request.header("authorization", authorization);
        }
        let mut response = request.call().with_context(|| url.clone())?;
        let status = response.status().as_u16();
        let body = response.body_mut().with_config().limit(LIST_BYTES_MAX);
        let text = body.read_to_string().with_context(|| url.clone())?;
        Ok(Answer { url, status, text })
    }
}

struct Answer {
    url: String,
    status: u16,
    text: String,
}

impl Answer {
    /// Prints the answer's code; success only if the gateway says so.
    fn refuse(&self) -> anyhow::Result<ExitCode> {
        let Self { url, status, text } = self;
        let read: Code = serde_json::from_str(text)
            .ok()
            .with_context(|| format!("{url} answers {status}, and not as a gateway does"))?;
        writeln!(io::stdout(), "{}", read.code)?;
        Ok(ExitCode::from(u8::from(*status != 200)))
    }
}

#[derive(Deserialize)]
struct Code {
    code: String,
}

#[derive(Deserialize)]
struct Queues {
    queues: Vec<Row>,
}

/// One queue of the answer.
#[derive(Deserialize)]
struct Row {
    name: String,
    /// Of a queue in RabbitMQ the gateway knows no more than its consumer.
    #[serde(default)]
    types: Vec<String>,
    events: Option<u64>,
    bytes: Option<u64>,
    dropped: Option<u64>,
    consumers: u64,
    expires_in: Option<String>,
}

fn number(number: Option<u64>) -> String {
    number.map_or_else(|| "-".to_owned(), |number| number.to_string())
}

/// A line for each queue below a line of titles, all as wide as they have to be.
fn table(queues: &[Row]) -> String {
    let titles =
        ["NAME", "EVENTS", "BYTES", "DROPPED", "CONSUMERS", "EXPIRES", "TYPES"].map(str::to_owned);
    let rows = queues.iter().map(|row| {
        [
            plain(&row.name),
            number(row.events),
            number(row.bytes),
            number(row.dropped),
            row.consumers.to_string(),
            row.expires_in.clone().unwrap_or_else(|| "never".to_owned()),
            row.types.iter().map(|it| plain(it)).collect::<Vec<_>>().join(","),
        ]
    });
    let rows: Vec<[String; 7]> = [titles].into_iter().chain(rows).collect();
    let mut widths = [0; 7];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let line = |row: &[String; 7]| {
        let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// A name may be anything, and a terminal obeys control characters.
fn plain(text: &str) -> String {
    text.chars().map(|it| if it.is_control() { '\u{fffd}' } else { it }).collect()
}

/// Percent-encodes all that is not unreserved (RFC 3986 §2.3).
fn encode(name: &str) -> String {
    let mut text = String::new();
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            text.push(char::from(byte));
        } else {
            text += &format!("%{byte:02X}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_encoded_whole() {
        for (name, encoded) in [
            ("wall-1_a.b~", "wall-1_a.b~"),
            ("a b/c?d#e%", "a%20b%2Fc%3Fd%23e%25"),
            ("ü+", "%C3%BC%2B"),
        ] {
            assert_eq!(encode(name), encoded);
        }
    }

    #[test]
    fn a_table_is_as_wide_as_what_is_in_it() {
        let answer = r#"{"queues":[
            {"name":"wall\u001b[1m","types":["a.>","b"],"cursor":"e-1","events":12,"bytes":3456,
             "dropped":0,"consumers":1},
            {"name":"b","types":[">"],"cursor":"e-1","events":0,"bytes":0,"dropped":7,
             "consumers":0,"expires_in":"1800s"}]}"#;
        let read: Queues = serde_json::from_str(answer).unwrap();
        let shown = table(&read.queues);
        let due: [Vec<&str>; 3] = [
            vec!["NAME", "EVENTS", "BYTES", "DROPPED", "CONSUMERS", "EXPIRES", "TYPES"],
            vec!["wall\u{fffd}[1m", "12", "3456", "0", "1", "never", "a.>,b"],
            vec!["b", "0", "0", "7", "0", "1800s", ">"],
        ];
        let words = |line| str::split_whitespace(line).collect::<Vec<_>>();
        assert_eq!(shown.lines().map(words).collect::<Vec<_>>(), due);
        let starts = shown.lines().map(|line| {
            let last = line.rsplit(' ').next().unwrap();
            line.chars().count() - last.chars().count()
        });
        assert!(starts.collect::<Vec<_>>().windows(2).all(|two| two[0] == two[1]), "{shown}");
        assert_eq!(table(&[]).lines().count(), 1);
    }
}
