//! One decision for every credential: whoever may do a thing may do it by every protocol, and whoever
//! may not, by none. What is expected is one small function; no cell of the table has a rule of its
//! own.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::client::{Subscriber, post};
use crate::decisions::doors::{Cell, Stream, open, publish};
use crate::event_stream::get;
use crate::gateway::{Gateway, House, TOKEN};
use crate::measures::until;
use crate::signed::{LATER, SECRET, Signer, in_seconds, jwks};

mod doors;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    Event,
    Structured,
    Binary,
    Batch,
    NativeInit,
    NativeHeader,
    NativeAuth,
    ServerSentEvents,
    Page,
    EventsSocket,
    Ticket,
    PhoenixParams,
    PhoenixAuthToken,
    PhoenixHeader,
    Agent,
    AgentHeader,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Credential {
    BasicRaw,
    BasicBase64,
    BearerHs256,
    BearerEs256,
    /// Nothing is shown, and an `anonymous` line says what that may do.
    Anonymous,
    /// Nothing is shown, and there is no such line.
    Nothing,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    Publish,
    Subscribe,
    Resume,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Valid,
    Unknown,
    Expired,
    Withdrawn,
    /// Narrowed to publishing.
    PublishesOnly,
    /// Narrowed to subscribing.
    SubscribesOnly,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Done,
    Unauthenticated,
    Forbidden,
}

/// The whole rule.
fn expected(credential: Credential, action: Action, state: State) -> Outcome {
    match (credential, action, state) {
        (Credential::Nothing, ..) | (_, _, State::Unknown | State::Expired | State::Withdrawn) => {
            Outcome::Unauthenticated
        }
        (_, Action::Publish, State::SubscribesOnly)
        | (_, Action::Subscribe | Action::Resume, State::PublishesOnly) => Outcome::Forbidden,
        _ => Outcome::Done,
    }
}

/// How a live stream ends when its credential becomes so; `None` if it notices nothing.
fn end(credential: Credential, state: State) -> Option<(u16, &'static str)> {
    let is_signed = matches!(credential, Credential::BearerHs256 | Credential::BearerEs256);
    match state {
        State::Expired => Some((4401, "token expired")),
        State::Withdrawn => Some((4401, "token withdrawn")),
        // What a token says of itself is never taken back while its key is there.
        State::PublishesOnly if !is_signed => Some((4403, "forbidden")),
        _ => None,
    }
}

impl Protocol {
    const ALL: [Self; 16] = [
        Self::Event,
        Self::Structured,
        Self::Binary,
        Self::Batch,
        Self::NativeInit,
        Self::NativeHeader,
        Self::NativeAuth,
        Self::ServerSentEvents,
        Self::Page,
        Self::EventsSocket,
        Self::Ticket,
        Self::PhoenixParams,
        Self::PhoenixAuthToken,
        Self::PhoenixHeader,
        Self::Agent,
        Self::AgentHeader,
    ];

    fn actions(self) -> &'static [Action] {
        match self {
            Self::Event | Self::Structured | Self::Binary | Self::Batch => &[Action::Publish],
            Self::Agent | Self::AgentHeader => {
                &[Action::Publish, Action::Subscribe, Action::Resume]
            }
            _ => &[Action::Subscribe, Action::Resume],
        }
    }

    fn is_live(self) -> bool {
        self != Self::Page && self.actions().contains(&Action::Subscribe)
    }
}

impl Credential {
    const ALL: [Self; 6] = [
        Self::BasicRaw,
        Self::BasicBase64,
        Self::BearerHs256,
        Self::BearerEs256,
        Self::Anonymous,
        Self::Nothing,
    ];
}

impl State {
    const ALL: [Self; 6] = [
        Self::Valid,
        Self::Unknown,
        Self::Expired,
        Self::Withdrawn,
        Self::PublishesOnly,
        Self::SubscribesOnly,
    ];
}

const RAW: &str = "0123456789abcdef-raw";
const CODED: &str = "0123456789abcdef-coded";

/// A gateway on which credentials have come into a state, and those who made them.
struct Court {
    gateway: Gateway,
    /// Just before the first event that is kept.
    cursor: String,
    shared: Signer,
    signer: Signer,
    stranger: Signer,
}

impl Court {
    /// All credentials are good, but for that of nobody where `has_anonymous` is false.
    async fn open(has_anonymous: bool) -> Self {
        let signer = Signer::new();
        let house = House::new()
            .set("TRUSTED_PROXIES", "127.0.0.1")
            .set("WORKERS", 1)
            .with_tokens(&lines(State::Valid, has_anonymous))
            .with_secret(SECRET)
            .with_keys(&jwks([&signer]));
        let gateway = house.open();
        let mut first = Subscriber::connect(&gateway.broadcast).await;
        let init =
            json!({"authentication": format!("Basic {TOKEN}"), "events": [], "cursor": true});
        let answer: Value = serde_json::from_str(&first.ask(&init.to_string()).await).unwrap();
        let cursor = answer["cursor"].as_str().unwrap().to_owned();
        fire(&gateway, 0).await;
        let (shared, stranger) = (Signer::shared(SECRET), Signer::new());
        Self { gateway, cursor, shared, signer, stranger }
    }

    /// Brings the credentials that were good into another state.
    fn turn(&self, state: State) {
        let house = &self.gateway.house;
        house.write_tokens(&lines(state, true));
        if state == State::Withdrawn {
            house.write_secret("another secret of more than 32 bytes");
            house.write_keys(&jwks([&self.stranger]));
        }
    }

    /// Both processes have read all that [`turn`](Self::turn) has written.
    async fn turned(&self, state: State) {
        if state == State::Valid {
            return;
        }
        for process in [&self.gateway.listen, &self.gateway.broadcast] {
            process.wait_for_log("the tokens file was read again");
            if state != State::Withdrawn {
                continue;
            }
            let anew = Signer::shared("another secret of more than 32 bytes");
            until("the new keys", async || {
                let token = anew.bearer("new", LATER);
                let cell = self.cell(Some(&token));
                let is_in = match process.is_listen() {
                    true => publish(&cell, Protocol::Event, "new").await == Outcome::Done,
                    false => open(&cell, Protocol::Page, Action::Subscribe).await.is_ok(),
                };
                is_in.then_some(())
            })
            .await;
        }
    }

    fn cell<'a>(&'a self, authorization: Option<&'a str>) -> Cell<'a> {
        Cell { gateway: &self.gateway, authorization, cursor: &self.cursor }
    }

    /// What is shown.
    fn authorization(&self, credential: Credential, state: State, ends: i64) -> Option<String> {
        let signer = match credential {
            Credential::BasicRaw => return Some(format!("Basic {RAW}")),
            Credential::BasicBase64 => {
                return Some(format!("Basic {}", STANDARD.encode(format!("user:{CODED}"))));
            }
            Credential::Anonymous | Credential::Nothing => return None,
            Credential::BearerHs256 if state == State::Unknown => {
                &Signer::shared("a secret that nobody knows of, but us")
            }
            Credential::BearerHs256 => &self.shared,
            Credential::BearerEs256 if state == State::Unknown => &self.stranger,
            Credential::BearerEs256 => &self.signer,
        };
        let granted = |is_granted| if is_granted { vec![">"] } else { vec![] };
        let claims = json!({
            "sub": "mary",
            "exp": ends,
            "publish": granted(state != State::SubscribesOnly),
            "subscribe": granted(state != State::PublishesOnly),
        });
        Some(format!("Bearer {}", signer.sign(&claims)))
    }
}

/// A tokens file in which all but the operator's token are in a state.
fn lines(state: State, has_anonymous: bool) -> String {
    let mut text = format!("{TOKEN} name=all\n");
    let attributes = match state {
        State::Unknown | State::Withdrawn => return text,
        State::Valid => "publish=> subscribe=>",
        State::Expired => "publish=> subscribe=> expires=2020-01-01T00:00:00Z",
        State::PublishesOnly => "publish=> subscribe=none",
        State::SubscribesOnly => "publish=none subscribe=>",
    };
    for secret in [RAW, CODED, "anonymous"] {
        if has_anonymous || secret != "anonymous" {
            writeln!(text, "{secret} {attributes}").unwrap();
        }
    }
    text
}

/// Publishes what subscribers shall hear.
async fn fire(gateway: &Gateway, number: u64) {
    let body = json!({"event": "a", "data": number, "source": "/feeder"}).to_string();
    assert_eq!(post(gateway, body).send().await.unwrap().status(), 200);
}

/// Walks all cells of a credential in a state; gives how many there are.
async fn walk(court: &Court, credential: Credential, state: State) -> usize {
    let ends = if state == State::Expired { in_seconds(-1) } else { LATER };
    let shown = court.authorization(credential, state, ends);
    let cell = court.cell(shown.as_deref());
    let (mut count, mut published) = (0, Vec::new());
    for protocol in Protocol::ALL {
        for action in protocol.actions() {
            let what = format!("{credential:?} {state:?}: {action:?} by {protocol:?}");
            let observed = if *action == Action::Publish {
                let id = format!("{credential:?}-{state:?}-{protocol:?}");
                let observed = publish(&cell, protocol, &id).await;
                published.extend((observed == Outcome::Done).then_some(id));
                observed
            } else {
                match open(&cell, protocol, *action).await {
                    Ok(mut stream) => {
                        // It hears what it has asked for: the first event of all, or the next.
                        let number = if *action == Action::Resume { 0 } else { count as u64 + 1 };
                        if *action == Action::Subscribe {
                            fire(&court.gateway, number).await;
                        }
                        assert_eq!(stream.hear().await, number, "{what}");
                        Outcome::Done
                    }
                    Err(refused) => refused,
                }
            };
            assert_eq!(observed, expected(credential, *action, state), "{what}");
            count += 1;
        }
    }
    assert_kept(court, &format!("{credential:?}-{state:?}-"), published).await;
    count
}

/// Of the events with such ids these are kept, and no others.
async fn assert_kept(court: &Court, prefix: &str, mut expected: Vec<String>) {
    expected.sort();
    let what = format!("{expected:?} and no others");
    until(&what, async || {
        let page = get(&court.gateway.broadcast, "type=b&after=first&limit=1000").send().await;
        let page: Value = serde_json::from_str(&page.unwrap().text().await.unwrap()).unwrap();
        let ids = page.as_array().unwrap().iter().map(|event| event["id"].as_str().unwrap());
        let mut ids: Vec<String> =
            ids.filter(|id| id.starts_with(prefix)).map(str::to_owned).collect();
        ids.sort();
        (ids == expected).then_some(())
    })
    .await;
}

#[tokio::test]
async fn every_credential_may_do_the_same_by_every_protocol() {
    let nobody = Court::open(false).await;
    let mut count = 0;
    for state in State::ALL {
        let court = Court::open(true).await;
        court.turn(state);
        court.turned(state).await;
        for credential in Credential::ALL {
            let court = if credential == Credential::Nothing { &nobody } else { &court };
            count += walk(court, credential, state).await;
        }
    }
    println!("{count} cells");
    // Ways to publish: 6; to hear: 12, from now or from then; 6 credentials in 6 states.
    assert_eq!(count, (6 + 12 * 2) * 6 * 6);
}

#[tokio::test]
async fn every_live_stream_ends_with_its_credential() {
    let mut count = 0;
    for state in State::ALL.into_iter().filter(|state| *state != State::Unknown) {
        let court = Court::open(true).await;
        let mut streams = Vec::new();
        // Long enough for all to be opened, however busy the machine is.
        let ends = if state == State::Expired { in_seconds(15) } else { LATER };
        for credential in Credential::ALL.into_iter().filter(|it| *it != Credential::Nothing) {
            let shown = court.authorization(credential, State::Valid, ends);
            let cell = court.cell(shown.as_deref());
            for protocol in Protocol::ALL.into_iter().filter(|it| it.is_live()) {
                let opened = open(&cell, protocol, Action::Subscribe).await;
                let what = format!("{credential:?} {state:?} {protocol:?}");
                streams.push((what, credential, opened.unwrap()));
            }
        }
        court.turn(state);
        count += streams.len();
        let mut stay = Vec::new();
        for (what, credential, stream) in streams {
            let Some(expected) = end(credential, state) else {
                stay.push((what, stream));
                continue;
            };
            match stream {
                Stream::Socket(socket) | Stream::Phoenix(socket) | Stream::Heard(socket, _) => {
                    let (code, reason) = socket.closed().await;
                    assert_eq!((code, reason.as_str()), expected, "{what}");
                }
                Stream::ServerSentEvents(stream) => stream.ended().await,
                Stream::Page(_) => unreachable!("a page is no stream"),
            }
        }
        court.turned(state).await;
        fire(&court.gateway, 7).await;
        for (what, mut stream) in stay {
            assert_eq!(stream.hear().await, 7, "{what}");
        }
    }
    println!("{count} streams");
    assert_eq!(count, 11 * 5 * 5);
}
