//! What agents publish and hear (WIRE 5): the event as it was meant, once, in order, kept with its
//! channels; and nothing lost where a process dies.

use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::agents::{INVALID, assert_quiet, done, hear, publishing, subscribe};
use crate::channels::masked;
use crate::client::{Subscriber, event, fire, said};
use crate::crashes::Doors;
use crate::event_stream::EventStream;
use crate::gateway::{Gateway, House, PATIENCE, Process, TOKEN};
use crate::history::{Answer, Fired, History};
use crate::replay::{all_kept, cursor_of, fire_padded, init, numbers};
use crate::resuming::{Begin, FENCE, Resuming};

/// Publishes from a connection of its own, and waits until it is accepted. What was accepted just
/// before may still come to it: its worker has not seen it yet.
async fn publish(broadcast: &Process, channels: Value, event_type: &str, data: Value) {
    let mut client = Subscriber::connect(broadcast).await;
    let listening = json!({"type": "subscribe", "channels": event_type, "token": TOKEN});
    client.say(&listening.to_string()).await;
    client.say(&publishing(channels, event_type, data.clone()).to_string()).await;
    while hear(&mut client).await["data"] != data {}
}

#[tokio::test]
async fn an_event_comes_out_as_it_was_meant_and_what_was_left_out_is_filled_in() {
    let gateway = Gateway::open();
    let mut client = subscribe(&gateway.broadcast, json!("t")).await;
    for (sent, due) in [
        // The README's, with all it has.
        (
            r#"{"specversion":"1.0","type":"t","source":"/a","id":"1","time":"2022-09-01T10:00:00.000Z","datacontenttype":"application/json","data":{"b": 1.00,"a":[]},"subject":"s","meta":{"by": {"x":1.50}}}"#,
            r#"{"specversion":"1.0","id":"1","source":"/a","type":"t","subject":"s","time":"2022-09-01T10:00:00.000Z","datacontenttype":"application/json","meta":{"by": {"x":1.50}},"data":{"b": 1.00,"a":[]}}"#,
        ),
        // Its code's: data and meta are text.
        (
            r#"{"type":"t","source":"/a","id":"2","time":"2022-09-01T10:00:00Z","data":"{\"x\":1}","meta":"m"}"#,
            r#"{"specversion":"1.0","id":"2","source":"/a","type":"t","time":"2022-09-01T10:00:00Z","datacontenttype":"application/json","meta":"m","data":"{\"x\":1}"}"#,
        ),
        (
            r#"{"type":"t","source":"/a","id":"3","time":"2022-09-01T10:00:00Z","data":null}"#,
            r#"{"specversion":"1.0","id":"3","source":"/a","type":"t","time":"2022-09-01T10:00:00Z","datacontenttype":"application/json","data":null}"#,
        ),
        (
            r#"{"type":"t","source":"/a","id":"4","time":"2022-09-01T10:00:00Z","datacontenttype":"text/plain","data":"hello"}"#,
            r#"{"specversion":"1.0","id":"4","source":"/a","type":"t","time":"2022-09-01T10:00:00Z","datacontenttype":"text/plain","data":"hello"}"#,
        ),
    ] {
        let message = format!(r#"{{"type":"publish","channels":["t"],"event":{sent}}}"#);
        assert_eq!(client.ask(&message).await, due);
    }
    // A time that is none becomes now.
    for (id, time) in
        [(5, ""), (6, r#","time":1662026400"#), (7, r#","time":{}"#), (8, r#","time":null"#)]
    {
        let message = format!(
            r#"{{"type":"publish","channel":"t","event":{{"type":"t","source":"/a","id":"{id}"{time}}}}}"#
        );
        client.say(&message).await;
        let event = hear(&mut client).await;
        let time: jiff::Timestamp = event["time"].as_str().unwrap().parse().unwrap();
        assert!(jiff::Timestamp::now().duration_since(time).abs() < PATIENCE.try_into().unwrap());
        assert_eq!(event.as_object().unwrap().get("data"), None);
    }
}

#[tokio::test]
async fn an_event_reaches_a_session_once_by_its_type_or_a_named_channel() {
    let gateway = Gateway::open();
    let broadcast = &gateway.broadcast;
    for (channels, hears) in [
        (json!("room"), true),
        (json!("other"), true),
        (json!("chat.message"), true),
        (json!(["room", "other", "chat.message", "chat.*", "global"]), true),
        (json!("r.*"), false),
        (json!("chat"), false),
    ] {
        let mut client = subscribe(broadcast, channels.clone()).await;
        publish(broadcast, json!(["room", "other", "room"]), "chat.message", json!(channels)).await;
        if hears {
            assert_eq!(hear(&mut client).await["data"], channels);
        }
        assert_quiet(&mut client).await;
    }
}

#[tokio::test]
async fn every_other_way_out_goes_by_the_type_alone() {
    let gateway = Gateway::open();
    let broadcast = &gateway.broadcast;
    let mut by_type = Subscriber::subscribe(broadcast, &["t"]).await;
    let mut by_name = Subscriber::subscribe(broadcast, &["room"]).await;
    let mut stream_by_type = EventStream::open(broadcast, "type=t").await;
    let mut stream_by_name = EventStream::open(broadcast, "type=room").await;
    publish(broadcast, json!(["room"]), "t", json!(1)).await;
    publish(broadcast, json!(["t"]), "room", json!(2)).await;
    assert_eq!(by_type.hear().await, event("t", "1"));
    assert_eq!(by_name.hear().await, event("room", "2"));
    assert_eq!(stream_by_type.event().await.text(), "1");
    assert_eq!(stream_by_name.event().await.text(), "2");
    by_type.assert_nothing_came().await;
    by_name.assert_nothing_came().await;
    assert_eq!(numbers(&all_kept(&gateway, &["room"]).await), [2]);
}

#[tokio::test]
async fn native_and_agent_subscriptions_on_one_connection_bring_an_event_once() {
    let gateway = Gateway::open();
    let mut client = Subscriber::subscribe(&gateway.broadcast, &["both", "native"]).await;
    let channels = json!({"type": "subscribe", "channels": ["both", "agent"]});
    done(&mut client, &channels).await;
    fire(&gateway, "native", "1").await;
    assert_eq!(client.hear().await, event("native", "1"));
    fire(&gateway, "agent", "2").await;
    assert_eq!(hear(&mut client).await["data"], 2);
    fire(&gateway, "both", "3").await;
    // What it has asked for in both ways it is told as on every other way out.
    assert_eq!(client.hear().await, event("both", "3"));
    assert_quiet(&mut client).await;
    done(&mut client, &json!({"type": "unsubscribe", "channels": ["both", "agent"]})).await;
    fire(&gateway, "both", "4").await;
    assert_eq!(client.hear().await, event("both", "4"));
}

#[tokio::test]
async fn channels_are_kept_with_the_event_and_a_first_subscribe_can_resume() {
    let doors = Doors::choose();
    let gateway = doors.house().open();
    for number in 0..6 {
        let channels = [json!("room"), json!(["x", "other"])];
        publish(&gateway.broadcast, channels[number % 2].clone(), "t", json!(number)).await;
    }
    let gateway = gateway.restart_broadcast(Signal::KILL).await;
    let kept = all_kept(&gateway, &["t"]).await;
    let second = cursor_of(&kept[2]);
    let time = kept[4]["time"].as_str().unwrap().to_owned();
    for (channels, member, value, due) in [
        ("room", "after", json!("first"), vec![0, 2, 4]),
        ("room", "after", json!(second), vec![4]),
        ("room", "last", json!(2), vec![2, 4]),
        ("other", "since", json!(time), vec![5]),
        ("t", "after", json!("first"), vec![0, 1, 2, 3, 4, 5]),
        ("other", "last", json!(10), vec![1, 3, 5]),
        ("room", "cursor", json!(true), vec![]),
        ("nobody", "after", json!("first"), vec![]),
    ] {
        let mut client = Subscriber::connect(&gateway.broadcast).await;
        let subscribe =
            json!({"type": "subscribe", "channels": channels, member: value, "token": TOKEN});
        client.say(&subscribe.to_string()).await;
        let has_cursor = member != "last";
        for number in due {
            let event = hear(&mut client).await;
            assert_eq!(event["data"], number, "{subscribe}");
            assert_eq!(event.get("cursor").is_some(), has_cursor, "{subscribe}");
        }
        // Once, and at the first subscribe.
        assert_eq!(client.ask(&subscribe.to_string()).await, INVALID, "{subscribe}");
        let more = json!({"type": "subscribe", "channels": "live"});
        done(&mut client, &more).await;
        fire(&gateway, "live", "7").await;
        let live = hear(&mut client).await;
        assert_eq!((&live["data"], live.get("cursor").is_some()), (&json!(7), has_cursor));
    }
    let mut client = Subscriber::connect(&gateway.broadcast).await;
    for (member, value) in [("after", json!("x")), ("last", json!(10_001)), ("cursor", json!(1))] {
        let subscribe =
            json!({"type": "subscribe", "channels": "t", member: value, "token": TOKEN});
        assert_eq!(client.ask(&subscribe.to_string()).await, INVALID, "{subscribe}");
    }
    // A place that is not there is told, as on the other ways out of CloudEvents.
    let lost = json!({"type": "subscribe", "channels": "t", "after": "zzzzzz-1", "token": TOKEN});
    let gap = hear_after(&mut client, &lost).await;
    assert_eq!((&gap["type"], &gap["data"]["recovered"]), (&json!("gateway.gap"), &json!(false)));
}

async fn hear_after(client: &mut Subscriber, message: &Value) -> Value {
    client.say(&message.to_string()).await;
    hear(client).await
}

#[tokio::test]
async fn what_one_client_publishes_keeps_its_order_between_all_that_it_says() {
    let gateway = House::new().set("MAX_FRAME_RATE", 1_000_000).open();
    let mut native = Subscriber::subscribe(&gateway.broadcast, &["t"]).await;
    let mut client = subscribe(&gateway.broadcast, json!("room")).await;
    for number in 0..1000 {
        client.say(&publishing(json!("room"), "t", json!(number)).to_string()).await;
    }
    assert_eq!(native.hear_numbers(1000).await, Vec::from_iter(0..1000));
    assert_eq!(client.hear_numbers(1000).await, Vec::from_iter(0..1000));
    // The same event again is a retry, and comes once; another source's is another one.
    client.say(&publishing(json!("room"), "t", json!(999)).to_string()).await;
    client.say(&publishing(json!("room"), "t", json!(1000)).to_string()).await;
    assert_eq!(client.hear_numbers(1).await, [1000]);
}

#[tokio::test]
async fn an_event_that_cannot_be_kept_ends_the_connection_with_1013() {
    let house = House::new();
    let limit = "trap '' XFSZ; ulimit -S -f 4096";
    let broadcast = Process::start_behind("broadcast", &house.settings, limit);
    let mut client = subscribe(&broadcast, json!("t")).await;
    let padding = "x".repeat(20 * 1024);
    let mut heard = 0;
    let close = loop {
        assert!(heard < 200, "there is room for ever");
        let data = json!({"n": heard, "padding": padding});
        client.say(&publishing(json!("t"), "t", data).to_string()).await;
        match client.next().await {
            message if message.is_text() => heard += 1,
            close => break close,
        }
    };
    let tokio_tungstenite::tungstenite::Message::Close(Some(close)) = close else {
        panic!("{close:?}");
    };
    assert_eq!((close.code.into(), close.reason.as_str()), (1013u16, "try again later"));
    assert!(heard > 0);
    // Who only reads is not concerned.
    let mut reader = subscribe(&broadcast, json!("t")).await;
    assert_quiet(&mut reader).await;
}

#[tokio::test]
async fn an_agent_that_asks_for_places_gets_them_as_an_extension() {
    let gateway = Gateway::open();
    let mut client = Subscriber::connect(&gateway.broadcast).await;
    let subscribe = json!({"type": "subscribe", "channels": "t", "cursor": true, "token": TOKEN});
    done(&mut client, &subscribe).await;
    let mut message = publishing(json!("t"), "t", json!(1));
    message["event"]["time"] = json!("2026-11-21T12:00:00Z");
    let due = r#"{"specversion":"1.0","id":"1","source":"/agent","type":"t","time":"2026-11-21T12:00:00Z","cursor":"_","datacontenttype":"application/json","data":1}"#;
    assert_eq!(masked(&client.ask(&message.to_string()).await), due);
}

/// An agent that publishes, and takes for kept what it hears of it; whatever it has not heard when
/// its connection breaks it sends again.
struct Publisher {
    ws_url: String,
    number: usize,
    after: String,
    fired: Vec<Fired>,
}

/// So many events are under way at a time.
const WINDOW: usize = 8;

impl Publisher {
    fn fired(&self) -> Fired {
        let (publisher, number) = (self.number, self.fired.len());
        Fired {
            event_type: format!("load.{publisher}"),
            source: format!("/publisher/{publisher}"),
            id: number.to_string(),
            data: format!(r#"{{"number": {number}.0}}"#),
            answers: Vec::new(),
        }
    }

    async fn run(mut self, count: usize) -> Vec<Fired> {
        while self.fired.len() < count {
            let begun = self.fired.len();
            for _ in 0..WINDOW {
                self.fired.push(self.fired());
            }
            while self.fired[begun..].iter().any(|it| !it.is_accepted()) {
                if self.connection(begun).await.is_none() {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
        }
        self.fired
    }

    /// One connection: sends what is not heard yet, and hears it; `None` where it breaks.
    async fn connection(&mut self, begun: usize) -> Option<()> {
        use futures_util::{SinkExt as _, StreamExt as _};
        use tokio_tungstenite::tungstenite::Message;
        let url = format!("{}/", self.ws_url);
        let (mut socket, _) = tokio_tungstenite::connect_async(url).await.ok()?;
        let own = format!("load.{}", self.number);
        let subscribe =
            json!({"type": "subscribe", "channels": own, "after": self.after, "token": TOKEN});
        socket.send(Message::text(subscribe.to_string())).await.ok()?;
        for fired in self.fired[begun..].iter_mut().filter(|it| !it.is_accepted()) {
            let Fired { event_type, source, id, data, .. } = &*fired;
            let message = format!(
                r#"{{"type":"publish","channels":["x"],"event":{{"type":"{event_type}","source":"{source}","id":"{id}","data":{data}}}}}"#
            );
            fired.answers.push(Answer::Broken);
            socket.send(Message::text(message)).await.ok()?;
        }
        while self.fired[begun..].iter().any(|it| !it.is_accepted()) {
            let heard = tokio::time::timeout(PATIENCE, socket.next()).await.expect("silence");
            let Message::Text(text) = heard?.ok()? else { continue };
            let event: Value = serde_json::from_str(&text).unwrap();
            self.after = cursor_of(&event);
            let number: usize = event["id"].as_str().unwrap().parse().unwrap();
            self.fired[number].answers.push(Answer::Accepted);
        }
        Some(())
    }
}

#[tokio::test]
async fn what_agents_publish_and_hear_is_lost_nowhere_while_broadcast_is_killed() {
    let doors = Doors::choose();
    let mut gateway = doors.house().open();
    let ws_url = gateway.broadcast.ws_url();
    let begin = Begin::Now { is_whole: true };
    let subscribers: Vec<_> = (0..3).map(|_| Resuming::begin(&ws_url, &begin)).collect();
    for subscriber in &subscribers {
        subscriber.wait_for_inits(1).await;
    }
    let mut publishing = JoinSet::new();
    for number in 0..4 {
        let (ws_url, after) = (ws_url.clone(), "first".to_owned());
        let publisher = Publisher { ws_url, number, after, fired: Vec::new() };
        publishing.spawn(async move { (number, publisher.run(400).await) });
    }
    for (signal, heard) in [(Signal::KILL, 200), (Signal::TERM, 500), (Signal::KILL, 800)] {
        subscribers[0].wait_for_events(heard).await;
        gateway = gateway.restart_broadcast(signal).await;
    }
    let mut fired = publishing.join_all().await;
    fired.sort_by_key(|(number, _)| *number);
    let fired = fired.into_iter().map(|(_, fired)| fired).collect();
    fire(&gateway, FENCE, "null").await;
    let mut hearings = Vec::new();
    for subscriber in subscribers.into_iter().chain([Resuming::begin(&ws_url, &Begin::First)]) {
        hearings.push(subscriber.hear_the_fence().await);
    }
    History { fired, hearings }.expect_faultless();
}

#[tokio::test]
async fn what_is_said_in_the_other_way_waits_for_a_resume_and_then_is_done() {
    let gateway = Gateway::open();
    fire_padded(&gateway, "t", 0..300, 4_000).await;
    let resume = json!({"type": "subscribe", "channels": "t", "after": "first", "token": TOKEN});
    let resume = resume.to_string();
    let more = init(TOKEN, &["n"], json!({}));
    let native = init(TOKEN, &["t"], json!({"after": "first"}));
    let subscribe = json!({"type": "subscribe", "channels": "n"});
    for (first, second) in [(resume.clone(), more), (native, subscribe.to_string())] {
        let is_agents = first == resume;
        let mut published = publishing(json!("n"), "n", json!(1));
        published["event"]["id"] = json!(first);
        let mut client = Subscriber::connect(&gateway.broadcast).await;
        for message in [&first, &second, &published.to_string()] {
            client.say(message).await;
        }
        if !is_agents {
            assert!(client.hear().await.contains(r#""recovered":true"#));
        }
        let mut heard = Vec::new();
        while heard.len() < 300 {
            heard.push(serde_json::from_str(&client.hear().await).unwrap());
        }
        assert_eq!(numbers(&heard), Vec::from_iter(0..300));
        if is_agents {
            assert_eq!(client.hear().await, said("init", "OK"));
        }
        let event: Value = serde_json::from_str(&client.hear().await).unwrap();
        assert_eq!((&event["data"], event.get("specversion").is_none()), (&json!(1), is_agents));
        assert_quiet(&mut client).await;
        publish(&gateway.broadcast, json!("n"), "other", json!(is_agents)).await;
        if !is_agents {
            assert_eq!(hear(&mut client).await["type"], "other");
        }
        assert_quiet(&mut client).await;
    }
}
