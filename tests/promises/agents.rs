//! An Eventual Agent on the native socket (WIRE 5): what is its message, who may send it, and what
//! it hears of it.

use serde_json::{Value, json};

use crate::client::{Subscriber, fire, said};
use crate::gateway::{Gateway, House, Process, TOKEN};
use crate::replay::all_kept;

/// What is answered to whatever cannot be done.
pub const INVALID: &str = "\"Invalid Request\"";

const READER: &str = "0123456789abcdef-reader";
const SECRET: &str = "an-old-secret-of-an-eventual-agent";
/// `{}`, signed with it.
const JWT: &str =
    "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.e30.M_RjMYXZ9Cc-Jo8fjAtduMT3mqtLrJLGe3M00zIN1NQ";

/// Says something that succeeds, and so is not answered: the next answer is to what comes after.
pub async fn done(client: &mut Subscriber, message: &Value) {
    client.say(&message.to_string()).await;
    let answer = client.ask(r#"{"type":"nothing","channel":"a"}"#).await;
    assert_eq!(answer, INVALID, "to {message}");
}

/// A connection with these channels.
pub async fn subscribe(broadcast: &Process, channels: Value) -> Subscriber {
    let mut client = Subscriber::connect(broadcast).await;
    done(&mut client, &json!({"type": "subscribe", "channels": channels, "token": TOKEN})).await;
    client
}

/// A message that publishes.
pub fn publishing(channels: Value, event_type: &str, data: Value) -> Value {
    let event =
        json!({"type": event_type, "source": "/agent", "id": data.to_string(), "data": data});
    json!({"type": "publish", "channels": channels, "event": event, "token": TOKEN})
}

/// The next event.
pub async fn hear(client: &mut Subscriber) -> Value {
    let event: Value = serde_json::from_str(&client.hear().await).unwrap();
    assert_eq!(event["specversion"], "1.0", "{event}");
    event
}

/// Shows that nothing has come that was accepted before.
pub async fn assert_quiet(client: &mut Subscriber) {
    assert_eq!(client.ask(r#"{"type":"nothing","channel":"a"}"#).await, INVALID);
}

#[tokio::test]
async fn a_message_that_names_channels_is_an_agents_and_any_other_a_native_one() {
    let gateway = Gateway::open();
    let messages = [
        (r#"{"type":"ping","channel":"a"}"#, INVALID.to_owned()),
        (r#"{"type":"init","channels":["a"],"events":["a"]}"#, INVALID.to_owned()),
        (r#"{"channels":["a"]}"#, INVALID.to_owned()),
        (r#"{"type":7,"channels":["a"]}"#, INVALID.to_owned()),
        (r#"{"type":"subscribe"}"#, said("init", "INVALID_EVENTS_MISSING")),
        (r#"{"type":"publish","event":{}}"#, said("init", "INVALID_EVENTS_MISSING")),
        (r#"{"type":"subscribe","channels":["a"]"#, said("init", "INVALID_SYNTAX")),
        (r#"["subscribe"]"#, said("init", "INVALID_EVENTS_MISSING")),
    ];
    let mut client = Subscriber::connect(&gateway.broadcast).await;
    for (message, answer) in &messages {
        assert_eq!(client.ask(message).await, *answer, "{message}");
    }
    // An unsubscribe is either's.
    let mut client = Subscriber::subscribe(&gateway.broadcast, &["n"]).await;
    done(&mut client, &json!({"type": "subscribe", "channels": "a"})).await;
    let native = client.ask(r#"{"type":"unsubscribe","events":["n"]}"#).await;
    assert_eq!(native, said("unsubscribe", "OK"));
    done(&mut client, &json!({"type": "unsubscribe", "channels": ["a"]})).await;
    for (message, answer) in &messages {
        assert_eq!(client.ask(message).await, *answer, "after an init: {message}");
    }
    assert_eq!(client.init(TOKEN, &["n"]).await, said("init", "OK"));
    for event_type in ["a", "n"] {
        fire(&gateway, event_type, "1").await;
    }
    assert_eq!(client.hear().await, r#"{"type":"event","event":"n","data":1}"#);
    assert_quiet(&mut client).await;
}

#[tokio::test]
async fn channels_are_a_text_or_a_list_of_types_and_patterns_and_global_is_all() {
    let gateway = Gateway::open();
    for (member, channels, heard) in [
        ("channel", json!("order.paid"), vec![1]),
        ("channel", json!(["order.paid", "invoice"]), vec![1, 3]),
        ("channels", json!("order.paid"), vec![1]),
        ("channels", json!(["order.paid", "invoice", "order.paid"]), vec![1, 3]),
        ("channels", json!(["order.*"]), vec![1, 2]),
        ("channels", json!(["order.>", "order.paid", "global"]), vec![1, 2, 3, 4]),
        ("channels", json!("global"), vec![1, 2, 3, 4]),
    ] {
        let mut client = Subscriber::connect(&gateway.broadcast).await;
        let subscribe = json!({"type": "subscribe", member: channels, "token": TOKEN});
        done(&mut client, &subscribe).await;
        let types = ["order.paid", "order.refunded", "invoice", "other"];
        for (event_type, number) in types.iter().zip(1..) {
            fire(&gateway, event_type, &number.to_string()).await;
        }
        for number in heard {
            assert_eq!(hear(&mut client).await["data"], number, "{subscribe}");
        }
        // What is taken away, and only that, is heard no more.
        done(&mut client, &json!({"type": "unsubscribe", member: channels})).await;
        fire(&gateway, "order.paid", "5").await;
        assert_quiet(&mut client).await;
    }
}

#[tokio::test]
async fn what_cannot_be_done_is_an_invalid_request_and_changes_nothing() {
    let tokens = format!("{TOKEN} name=all\n{READER} name=reader publish=a,x subscribe=a,b.*\n");
    let gateway = House::new().with_tokens(&tokens).set("MAX_PATTERNS", 3).open();
    let mut client = Subscriber::connect(&gateway.broadcast).await;
    done(&mut client, &json!({"type": "subscribe", "channels": "a", "token": READER})).await;
    let long = "x".repeat(256);
    for channels in [
        json!([]),
        json!(""),
        json!(null),
        json!(7),
        json!({}),
        json!(["a", 7]),
        json!(["a", ""]),
        json!(["a", "\u{7}"]),
        json!(long),
        json!("global"),
        json!(">"),
        json!(["a", "c"]),
        json!(["b.1", "b.2", "b.3"]),
    ] {
        let message = json!({"type": "subscribe", "channels": channels}).to_string();
        assert_eq!(client.ask(&message).await, INVALID, "{message}");
    }
    let good = json!({"type": "a", "source": "/s", "id": "1"});
    let without = |name: &str| {
        let mut event = good.clone();
        event.as_object_mut().unwrap().remove(name);
        event
    };
    let with = |name: &str, value: Value| {
        let mut event = good.clone();
        event[name] = value;
        event
    };
    for (channels, event) in [
        (json!([]), good.clone()),
        (json!("b.1"), good.clone()),
        (json!(["a", "b.1"]), good.clone()),
        (json!("a b\u{7}"), good.clone()),
        (json!(vec!["x"; 3]), with("type", json!("b.1"))),
        (json!("a"), json!(null)),
        (json!("a"), json!("text")),
        (json!("a"), json!([])),
        (json!("a"), without("type")),
        (json!("a"), without("source")),
        (json!("a"), without("id")),
        (json!("a"), with("id", json!(""))),
        (json!("a"), with("source", json!(7))),
        (json!("a"), with("specversion", json!("0.3"))),
        (json!("a"), with("time", json!("yesterday"))),
        (json!("a"), with("datacontenttype", json!("no type"))),
        (json!("a"), with("Meta", json!(1))),
        (json!("a"), with("meta", json!([1]))),
    ] {
        let message = json!({"type": "publish", "channels": channels, "event": event}).to_string();
        assert_eq!(client.ask(&message).await, INVALID, "{message}");
    }
    assert_eq!(client.ask(r#"{"type":"publish","channels":"a"}"#).await, INVALID);
    assert!(all_kept(&gateway, &[">"]).await.iter().all(|it| it["event"] != "a"));
    let mut message = json!({"type": "publish", "channels": ["x", "a"], "event": good});
    client.say(&message.to_string()).await;
    assert_eq!(hear(&mut client).await["id"], "1");
    message["event"]["id"] = json!("2");
    client.say(&message.to_string()).await;
    assert_eq!(hear(&mut client).await["id"], "2");
}

#[tokio::test]
async fn a_credential_is_in_the_message_or_the_sessions_and_a_bad_one_ends_it() {
    let tokens = format!("{TOKEN} name=all\n{READER} name=reader publish=none subscribe=b\n");
    let gateway = House::new().with_tokens(&tokens).open();
    let with = |token: Value| json!({"type": "subscribe", "channels": "a", "token": token});
    for good in [json!(TOKEN), json!(format!("Basic {TOKEN}"))] {
        let mut client = Subscriber::connect(&gateway.broadcast).await;
        done(&mut client, &with(good.clone())).await;
        // From now on it is the session's.
        done(&mut client, &json!({"type": "subscribe", "channels": "c"})).await;
        let publish = json!({"type": "publish", "channels": "c", "event":
            {"type": "d", "source": "/s", "id": good, "data": 1}});
        client.say(&publish.to_string()).await;
        assert_eq!(hear(&mut client).await["id"], good);
        let init = client.ask(r#"{"events":["n"]}"#).await;
        assert_eq!(init, said("init", "OK"));
    }
    let mut by_header =
        Subscriber::connect_as(&gateway.broadcast, "/", &format!("Basic {TOKEN}")).await;
    done(&mut by_header, &json!({"type": "subscribe", "channels": "a"})).await;
    let unauthenticated = (4401, "unauthenticated".to_owned());
    let bad = [
        json!("0123456789abcdef-nobody"),
        json!(format!("Bearer {TOKEN}")),
        json!(format!("Other {TOKEN}")),
        json!(format!("{TOKEN} more")),
        json!(JWT),
        json!(""),
        json!(7),
        json!(null),
    ];
    for token in &bad {
        let mut client = Subscriber::connect(&gateway.broadcast).await;
        client.say(&with(token.clone()).to_string()).await;
        assert_eq!(client.closed().await, unauthenticated, "{token}");
        // Nor does it help to have shown a good one before.
        let mut client = Subscriber::subscribe(&gateway.broadcast, &["a"]).await;
        client.say(&with(token.clone()).to_string()).await;
        assert_eq!(client.closed().await, unauthenticated, "{token}");
    }
    for kind in ["subscribe", "unsubscribe", "publish"] {
        let mut client = Subscriber::connect(&gateway.broadcast).await;
        let event = json!({"type": "a", "source": "/s", "id": "1"});
        let message = json!({"type": kind, "channels": "a", "event": event});
        client.say(&message.to_string()).await;
        assert_eq!(client.closed().await, unauthenticated, "{kind}");
    }
}

#[tokio::test]
async fn sessions_of_agents_end_with_their_token_and_with_their_grants() {
    let lines =
        |grants: &str| format!("{TOKEN} name=all\n{READER} name=reader subscribe={grants}\n");
    let gateway = House::new().with_tokens(&lines("a,b")).open();
    let open = async |channel: &str| {
        let mut client = Subscriber::connect(&gateway.broadcast).await;
        let message = json!({"type": "subscribe", "channels": channel, "token": READER});
        done(&mut client, &message).await;
        client
    };
    let (narrowed, mut kept) = (open("b").await, open("a").await);
    gateway.house.write_tokens(&lines("a"));
    assert_eq!(narrowed.closed().await, (4403, "forbidden".to_owned()));
    assert_quiet(&mut kept).await;
    gateway.house.write_tokens(&format!("{TOKEN} name=all\n"));
    assert_eq!(kept.closed().await, (4401, "token withdrawn".to_owned()));
}

#[tokio::test]
async fn the_originals_tokens_without_claims_may_do_what_the_settings_say() {
    let house = House::new();
    let secret = house.folder.path().join("secret");
    std::fs::write(&secret, format!("{SECRET}\n")).unwrap();
    let with = json!({"type": "subscribe", "channels": "chat.a", "token": JWT});
    let house = house.set("JWT_SECRET_FILE", secret.display());
    let strict = house.broadcast();
    let mut client = Subscriber::connect(&strict).await;
    client.say(&with.to_string()).await;
    assert_eq!(client.closed().await, (4401, "unauthenticated".to_owned()));
    strict.kill();
    let house = house.set("JWT_REQUIRE_EXP", "false").set("JWT_DEFAULT_PUBLISH", "chat.>,note");
    let gateway = house.set("JWT_DEFAULT_SUBSCRIBE", "chat.*").open();
    for token in [JWT.to_owned(), format!("Bearer {JWT}")] {
        let mut client = Subscriber::connect(&gateway.broadcast).await;
        let say = |kind: &str, channel: &str| {
            json!({"type": kind, "channels": channel, "token": token, "event":
                {"type": "note", "source": "/s", "id": token, "data": {"say": "hello"}}})
        };
        done(&mut client, &say("subscribe", "chat.a")).await;
        for refused in [say("subscribe", "note"), say("subscribe", "global"), say("publish", "x")] {
            assert_eq!(client.ask(&refused.to_string()).await, INVALID);
        }
        client.say(&say("publish", "chat.a").to_string()).await;
        assert_eq!(hear(&mut client).await["data"], json!({"say": "hello"}));
    }
    // Another signature is none.
    let forged =
        json!({"type": "subscribe", "channels": "chat.a", "token": JWT.replace("M_R", "N_R")});
    let mut client = Subscriber::connect(&gateway.broadcast).await;
    client.say(&forged.to_string()).await;
    assert_eq!(client.closed().await, (4401, "unauthenticated".to_owned()));
    assert!(!gateway.broadcast.log().contains(JWT));
}

#[tokio::test]
async fn without_a_token_an_agent_is_what_the_anonymous_line_says() {
    let tokens = format!("{TOKEN} name=all\nanonymous subscribe=chat.> publish=chat.a\n");
    let gateway = House::new().with_tokens(&tokens).open();
    let mut client = Subscriber::connect(&gateway.broadcast).await;
    done(&mut client, &json!({"type": "subscribe", "channels": ["chat.a", "chat.b"]})).await;
    let publish = |channel: &str| {
        json!({"type": "publish", "channel": channel, "event":
            {"type": "chat.a", "source": "/s", "id": channel, "data": 1}})
    };
    client.say(&publish("chat.a").to_string()).await;
    assert_eq!(hear(&mut client).await["id"], "chat.a");
    assert_eq!(client.ask(&publish("chat.b").to_string()).await, INVALID);
    let global = json!({"type": "subscribe", "channels": "global"});
    assert_eq!(client.ask(&global.to_string()).await, INVALID);
}
