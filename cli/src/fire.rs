//! `fanfare fire`: publishes one event.

use std::io::{self, Read as _, Write as _};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use gateway::caller::Caller;
use gateway::endpoint::Endpoint;
use serde::Deserialize;
use shared::json;
use ureq::Agent;

use crate::agent::agent;

/// sysexits.h, `EX_DATAERR`: what we were given to send is wrong.
const EXIT_DATA: u8 = 65;
/// A gateway that asks for more patience than this is asked again all the same.
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// Publishes an event, prints the answer's code, and exits with 0 only if it was accepted
#[derive(Debug, Args)]
pub(crate) struct Fire {
    /// The event's type, such as order.paid
    #[arg(value_name = "TYPE")]
    event_type: String,

    /// The event's data: JSON, passed on byte for byte; `-` reads it from standard input
    #[arg(allow_hyphen_values = true)]
    data: Option<String>,

    /// Where listen is
    #[arg(long, env = "FANFARE_URL", value_name = "URL", default_value = "http://127.0.0.1:8080")]
    url: Endpoint,

    #[command(flatten)]
    caller: Caller,

    /// The event's id; with the same id and source, it counts as the same event
    #[arg(long)]
    id: Option<String>,

    /// Where the event comes from; a slash and the token's name where it is left out
    #[arg(long)]
    source: Option<String>,

    /// What the event is about
    #[arg(long)]
    subject: Option<String>,

    /// When it happened, in RFC 3339; now where it is left out
    #[arg(long)]
    time: Option<String>,

    /// How often to send it again while the gateway is unavailable
    #[arg(long, value_name = "COUNT", default_value_t = 0)]
    retry: u32,
}

impl Fire {
    /// Publishes.
    pub(crate) fn run(mut self) -> anyhow::Result<ExitCode> {
        let data = self.read_data().context("standard input")?;
        if data.as_ref().is_some_and(|data| json::check(data.as_bytes()).is_err()) {
            eprintln!(
                "fanfare: the data is not JSON; in a shell, put it in single quotes: \
                 '{{\"id\":7}}', and text in both: '\"text\"'"
            );
            return Ok(ExitCode::from(EXIT_DATA));
        }
        let agent = agent(&self.caller)?;
        loop {
            let answer = self.post(&agent, &self.body(data.as_deref()))?;
            let (Some(pause), 1..) = (answer.retry_after, self.retry) else {
                writeln!(io::stdout(), "{}", answer.code)?;
                return Ok(ExitCode::from(u8::from(answer.status != 200)));
            };
            eprintln!("fanfare: {}; sending it again", answer.code);
            self.retry -= 1;
            // By these the gateway can tell that it is the same event.
            self.id = answer.id.or(self.id);
            self.source = answer.source.or(self.source);
            std::thread::sleep(pause.min(PAUSE_MAX));
        }
    }

    fn read_data(&self) -> io::Result<Option<String>> {
        if self.data.as_deref() != Some("-") {
            return Ok(self.data.clone());
        }
        let mut text = String::new();
        io::stdin().read_to_string(&mut text)?;
        Ok(Some(text))
    }

    /// The data is spliced in as it is: parsing it would change its numbers and drop duplicates.
    fn body(&self, data: Option<&str>) -> String {
        let mut body = format!(r#"{{"event":{}"#, quote(&self.event_type));
        let named = [
            ("id", &self.id),
            ("source", &self.source),
            ("subject", &self.subject),
            ("time", &self.time),
        ];
        for (name, value) in named {
            if let Some(value) = value {
                body += &format!(r#","{name}":{}"#, quote(value));
            }
        }
        if let Some(data) = data {
            body += &format!(r#","data":{data}"#);
        }
        body + "}"
    }

    fn post(&self, agent: &Agent, body: &str) -> anyhow::Result<Answer> {
        let url = self.url.http_url("/event");
        let mut request = agent.post(&url).header("content-type", "application/json");
        if let Some(authorization) = self.caller.authorization() {
            request = request.header("authorization", authorization);
        }
        let mut response = request.send(body).with_context(|| url.clone())?;
        let status = response.status().as_u16();
        let seconds =
            response.headers().get("retry-after").and_then(|it| it.to_str().ok()?.parse().ok());
        let text = response.body_mut().read_to_string().with_context(|| url.clone())?;
        let read: Body = serde_json::from_str(&text)
            .ok()
            .with_context(|| format!("{url} answers {status}, and not as a gateway does"))?;
        let retry_after = seconds.filter(|_| status == 503).map(Duration::from_secs);
        Ok(Answer { status, retry_after, code: read.code, id: read.id, source: read.source })
    }
}

fn quote(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

struct Answer {
    status: u16,
    code: String,
    /// How long to wait before the same event may be sent again, where that can help.
    retry_after: Option<Duration>,
    id: Option<String>,
    source: Option<String>,
}

#[derive(Deserialize)]
struct Body {
    code: String,
    id: Option<String>,
    source: Option<String>,
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        fire: Fire,
    }

    fn body(arguments: &[&str]) -> String {
        let fire = Line::parse_from([&["fire"], arguments].concat()).fire;
        let data = fire.read_data().unwrap();
        fire.body(data.as_deref())
    }

    #[test]
    fn the_body_holds_the_data_byte_for_byte() {
        let table: [(&[&str], &str); 5] = [
            (&["a"], r#"{"event":"a"}"#),
            (&["a\"b", "null"], r#"{"event":"a\"b","data":null}"#),
            (&["a", "-1.00"], r#"{"event":"a","data":-1.00}"#),
            (&["a", r#"{"x": 1,"x":2}"#], r#"{"event":"a","data":{"x": 1,"x":2}}"#),
            (
                &["a", "1", "--id", "7", "--source", "/s", "--subject", "é", "--time", "t"],
                r#"{"event":"a","id":"7","source":"/s","subject":"é","time":"t","data":1}"#,
            ),
        ];
        for (arguments, expected) in table {
            assert_eq!(body(arguments), expected);
        }
    }
}
