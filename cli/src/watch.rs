//! `fanfare watch`: shows events as they come.

use std::io::{self, IsTerminal as _, Write as _};
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use gateway::caller::Caller;
use gateway::endpoint::{ConnectError, Endpoint, Stream};
use jiff::Timestamp;
use rustls::pki_types::CertificateDer;
use tungstenite::handshake::HandshakeError;
use tungstenite::protocol::CloseFrame;
use tungstenite::{Error, Message, WebSocket, client};

use crate::watch::line::Style;
use crate::watch::place::{Answer, Place};
use crate::watch::since::Since;

mod cursor;
mod line;
mod place;
mod since;

/// WIRE §1.4: broadcast pings a silent client every 30 s; twice that without a word is a loss.
const SILENCE_MAX: Duration = Duration::from_secs(75);
const PAUSE_FIRST: Duration = Duration::from_millis(250);
const PAUSE_MAX: Duration = Duration::from_secs(15);
/// WIRE §1.3: no gateway gives more of the newest events at once.
const LAST_MAX: u16 = 10_000;

/// Shows events as they come: coloured on a terminal, one JSON a line into a pipe
///
/// A connection that is lost is made again, and goes on after the last event that was shown: what
/// was fired meanwhile comes then. Where the gateway no longer has it, standard error says so. In a
/// pipe every line has its cursor, with which --since goes on after this command itself was ended.
#[derive(Debug, Args)]
pub(crate) struct Watch {
    /// Which events: types, or patterns such as 'order.*' and '>'
    #[arg(required = true, value_name = "PATTERN")]
    patterns: Vec<String>,

    /// Begins earlier: a duration such as 10m, `first` for all that is kept, a cursor for what came
    /// after it, or a time in RFC 3339
    #[arg(long, value_name = "WHEN")]
    since: Option<Since>,

    /// Begins with so many of the newest events that are kept, up to 10000
    #[arg(long, value_name = "COUNT", conflicts_with = "since", value_parser = parse_last)]
    last: Option<u16>,

    /// Where broadcast is; FANFARE_URL where neither is given, else ws://127.0.0.1:8081
    #[arg(long, env = "FANFARE_WATCH_URL", value_name = "URL")]
    url: Option<Endpoint>,

    /// One address for both doors, as a proxy in front of them gives
    #[arg(
        long,
        env = "FANFARE_URL",
        value_name = "URL",
        hide = true,
        default_value = "ws://127.0.0.1:8081"
    )]
    common_url: Endpoint,

    #[command(flatten)]
    caller: Caller,

    /// Ends after so many events
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
}

impl Watch {
    /// Watches until it is interrupted, or has seen enough.
    pub(crate) fn run(mut self) -> anyhow::Result<ExitCode> {
        let endpoint = self.url.clone().unwrap_or_else(|| self.common_url.clone());
        let roots = self.caller.roots()?;
        let style = Style::of(io::stdout().is_terminal());
        let mut place = Place::new(self.since.take(), self.last, Timestamp::now());
        let mut pause = PAUSE_FIRST;
        loop {
            let ended = match self.subscribe(&endpoint, &roots, &place) {
                Ok((socket, answer)) => {
                    eprintln!("fanfare: watching {}", endpoint.ws_url());
                    if let Some(doubt) = place.answered(&answer) {
                        eprintln!("fanfare: {}: {doubt}", endpoint.ws_url());
                    }
                    pause = PAUSE_FIRST;
                    self.show(socket, style, &mut place)
                }
                Err(end) => Err(end),
            };
            let reason = match ended {
                Ok(()) => return Ok(ExitCode::SUCCESS),
                Err(End::Output(error)) => return Err(error.into()),
                Err(End::Refused(reason)) => anyhow::bail!("{}: {reason}", endpoint.ws_url()),
                Err(End::Lost(reason)) => reason,
            };
            // All who were cut off at once must not come back at once.
            let jittered = pause.mul_f64(0.5 + fastrand::f64() / 2.0);
            eprintln!("fanfare: {}: {reason}; trying again soon", endpoint.ws_url());
            std::thread::sleep(jittered);
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    fn subscribe(
        &self,
        endpoint: &Endpoint,
        roots: &[CertificateDer<'static>],
        place: &Place,
    ) -> Result<(WebSocket<Stream>, Answer), End> {
        let stream = endpoint.connect(roots, SILENCE_MAX)?;
        let (mut socket, _) = client(endpoint.ws_url(), stream).map_err(|error| match error {
            HandshakeError::Failure(error) => End::from(error),
            HandshakeError::Interrupted(_) => End::Lost("no answer in time".to_owned()),
        })?;
        let init = place.init(self.caller.authorization().as_deref(), &self.patterns);
        socket.send(Message::text(init))?;
        match serde_json::from_str::<Answer>(&next_text(&mut socket)?) {
            Ok(answer) if answer.code == "OK" => Ok((socket, answer)),
            Ok(answer) => Err(End::Refused(explain(&answer.code))),
            Err(_) => Err(End::Refused("it does not answer as a gateway does".to_owned())),
        }
    }

    /// Shows what comes; returns once it was enough.
    fn show(
        &mut self,
        mut socket: WebSocket<Stream>,
        style: Style,
        place: &mut Place,
    ) -> Result<(), End> {
        let mut out = io::stdout().lock();
        while self.count != Some(0) {
            let frame = next_text(&mut socket)?;
            let line = style.line(&frame);
            out.write_all(line.as_bytes()).and_then(|()| out.flush()).map_err(End::Output)?;
            place.shown(&frame);
            self.count = self.count.map(|count| count.saturating_sub(1));
        }
        // We have what we came for, whatever the other side says to a goodbye.
        let _ = socket.close(None);
        let _ = socket.flush();
        Ok(())
    }
}

fn parse_last(text: &str) -> Result<u16, String> {
    let count = text.parse().ok().filter(|count| *count <= LAST_MAX);
    count.ok_or_else(|| format!("write a number from 0 to {LAST_MAX}"))
}

fn next_text(socket: &mut WebSocket<Stream>) -> Result<String, End> {
    loop {
        match socket.read()? {
            Message::Text(text) => return Ok(text.to_string()),
            Message::Close(frame) => return Err(End::closed(frame)),
            // Pings are answered by the library, with the next read.
            _ => {}
        }
    }
}

fn explain(code: &str) -> String {
    let hint = match code {
        "UNAUTHENTICATED" => "the token is missing or unknown; set FANFARE_TOKEN",
        "FORBIDDEN" => "the token may not subscribe to this",
        "INVALID_EVENTS" => "one of these can be no event type and no pattern",
        "INVALID_RESUME" => "the gateway cannot begin where --since or --last says",
        _ => return code.to_owned(),
    };
    format!("{code}: {hint}")
}

/// Why it does not go on.
#[derive(Debug)]
enum End {
    /// The connection is gone; another one may do.
    Lost(String),
    /// The gateway does not want us as we are.
    Refused(String),
    /// Nobody reads what we show.
    Output(io::Error),
}

impl End {
    /// WIRE §1.4: which closes mean that the same client may come back.
    fn closed(frame: Option<CloseFrame>) -> Self {
        let Some(frame) = frame else { return Self::Lost("closed".to_owned()) };
        let (code, reason) = (u16::from(frame.code), frame.reason);
        match code {
            1002 | 1007..=1009 | 4400..=4499 => Self::Refused(format!("closed, {code} {reason}")),
            _ => Self::Lost(format!("closed, {code} {reason}")),
        }
    }
}

impl From<ConnectError> for End {
    fn from(error: ConnectError) -> Self {
        match error {
            ConnectError::Unreachable(error) => Self::Lost(error.to_string()),
            ConnectError::Untrusted(fault) => Self::Refused(fault),
        }
    }
}

impl From<Error> for End {
    fn from(error: Error) -> Self {
        match error {
            Error::Http(answer) if answer.status().is_client_error() => Self::Refused(format!(
                "{}; is this broadcast? FANFARE_WATCH_URL or --url names it",
                answer.status()
            )),
            Error::Io(error) if error.kind() == io::ErrorKind::WouldBlock => {
                Self::Lost("nothing was heard for too long".to_owned())
            }
            error => Self::Lost(error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_are_at_most_10_000() {
        for (text, expected) in [("0", 0), ("7", 7), ("10000", 10_000)] {
            assert_eq!(parse_last(text), Ok(expected), "{text}");
        }
        for text in ["", "-1", "10001", "65536", "many"] {
            assert_eq!(parse_last(text), Err("write a number from 0 to 10000".to_owned()));
        }
    }

    #[test]
    fn a_refused_place_is_explained() {
        assert!(explain("INVALID_RESUME").contains("--since or --last"));
    }

    #[test]
    fn only_some_closes_mean_come_back() {
        let table = [
            (1001, false),
            (1002, true),
            (1008, true),
            (1009, true),
            (1011, false),
            (1012, false),
            (1013, false),
            (4401, true),
            (4403, true),
        ];
        for (code, expected) in table {
            let end = End::closed(Some(CloseFrame { code: code.into(), reason: "why".into() }));
            assert_eq!(matches!(end, End::Refused(_)), expected, "{code}");
        }
    }
}
