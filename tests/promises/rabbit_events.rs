//! RabbitMQ as a way in: messages of its queues are fired (`AMQP_CONSUME`), by the AMQP protocol
//! binding of CloudEvents.

use lapin::BasicProperties;
use lapin::types::{AMQPValue, DecimalValue, FieldArray, FieldTable};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::client::let_pass;
use crate::gateway::{Gateway, House};
use crate::measures::{degraded, until};
use crate::rabbit::Rabbit;
use crate::rabbit_desk::Desk;
use crate::replay::{Replay, numbers};

fn text(value: &str) -> AMQPValue {
    AMQPValue::LongString(value.into())
}

/// A house whose `listen` takes what is in these queues of the shared broker.
fn house(queues: &str) -> House {
    let house = House::new().set("AMQP_URLS", Rabbit::shared().url());
    house.set("AMQP_CONSUME", queues)
}

/// Both processes, another program at the broker, and who hears every event whole.
async fn open(queue: &str) -> (Gateway, Desk, Replay) {
    let gateway = house(queue).open();
    let desk = Desk::open(&Rabbit::shared().url()).await;
    for queue in queue.split(", ") {
        wait_for_consumer(&desk, queue).await;
    }
    let hearing = Replay::begin(&gateway.broadcast, &[">"], json!({"format": "cloudevents"})).await;
    (gateway, desk, hearing)
}

/// Waits until a queue is there and consumed.
async fn wait_for_consumer(desk: &Desk, queue: &str) {
    let is_there = async || (desk.look(queue).await?.1 == 1).then_some(());
    until("a queue that is consumed", is_there).await;
}

fn with_headers(headers: &[(&str, AMQPValue)]) -> BasicProperties {
    let mut table = FieldTable::default();
    for (name, value) in headers {
        table.insert((*name).into(), value.clone());
    }
    BasicProperties::default().with_headers(table)
}

/// Checks that an event has these members; `null` stands for none.
fn assert_members(event: &Value, due: &Value) {
    for (name, value) in due.as_object().unwrap() {
        assert_eq!(event[name], *value, "{name} in {event}");
    }
}

#[tokio::test]
async fn a_message_is_an_event_by_its_properties_and_its_body() {
    let (_gateway, desk, mut hearing) = open("plain").await;
    let none = BasicProperties::default;
    let of = |kind: &str| none().with_content_type(kind.into());
    // Seconds of the year 2026.
    let all = of("text/plain")
        .with_type("order.paid".into())
        .with_message_id("m-1".into())
        .with_timestamp(1_795_000_000);
    for (with, body, due) in [
        (
            none(),
            &b"{\"a\": 1.50}"[..],
            json!({"type": "plain", "source": "/amqp/plain",
            "datacontenttype": "application/json", "data": {"a": 1.5}}),
        ),
        (none(), b"two words", json!({"datacontenttype": "text/plain", "data": "two words"})),
        (
            none(),
            b"\xff\x00",
            json!({"datacontenttype": "application/octet-stream",
            "data": null, "data_base64": "/wA="}),
        ),
        (none(), b"", json!({"datacontenttype": null, "data": null, "data_base64": null})),
        (of("application/json"), b"[1]", json!({"data": [1]})),
        (of("application/vnd.a+json; charset=utf-8"), b"7", json!({"data": 7})),
        (of("text/csv"), b"1;2", json!({"datacontenttype": "text/csv", "data": "1;2"})),
        (of("image/png"), b"{}", json!({"data_base64": "e30="})),
        (none().with_content_encoding("utf-8".into()), b"1", json!({"data": 1})),
        (
            all,
            b"1",
            json!({"type": "order.paid", "id": "m-1", "data": "1",
            "time": "2026-11-18T11:06:40Z"}),
        ),
    ] {
        desk.put_with("plain", with, body).await;
        let event = hearing.hear_event().await;
        assert_members(&event, &due);
        assert!(!event["id"].as_str().unwrap().is_empty());
    }
}

#[tokio::test]
async fn a_routing_key_is_a_type_where_nothing_else_is() {
    let (_gateway, desk, mut hearing) = open("routed").await;
    desk.bind("routed", "amq.topic", "routed.#").await;
    desk.publish("amq.topic", "routed.order.paid", b"1").await;
    assert_eq!(hearing.hear_event().await["type"], "routed.order.paid");
}

#[tokio::test]
async fn cloudevents_headers_are_attributes_by_both_prefixes_and_of_all_kinds() {
    let (_gateway, desk, mut hearing) = open("binary").await;
    for prefix in ["cloudEvents:", "cloudEvents_"] {
        let name = |name: &str| format!("{prefix}{name}");
        let headers = [
            (name("specversion"), text("1.0")),
            (name("id"), text("e-1")),
            (name("source"), AMQPValue::LongString(prefix.replace(':', "-").into())),
            (name("type"), text("order.refunded")),
            (name("subject"), text("\u{fc}")),
            (name("time"), AMQPValue::Timestamp(1_795_000_000)),
            (name("dataschema"), text("https://schema.example/a")),
            (name("flag"), AMQPValue::Boolean(true)),
            (name("tiny"), AMQPValue::ShortShortInt(-1)),
            (name("tinyu"), AMQPValue::ShortShortUInt(255)),
            (name("small"), AMQPValue::ShortInt(-2)),
            (name("smallu"), AMQPValue::ShortUInt(65535)),
            (name("int"), AMQPValue::LongInt(i32::MIN)),
            (name("intu"), AMQPValue::LongUInt(7)),
            (name("long"), AMQPValue::LongLongInt(i64::from(i32::MAX))),
            // No attribute: it has no prefix.
            ("x-other".to_owned(), AMQPValue::Double(1.5)),
        ];
        let headers: Vec<_> =
            headers.iter().map(|(name, it)| (name.as_str(), it.clone())).collect();
        let with = with_headers(&headers).with_content_type("application/json".into());
        // The headers are right where the properties say otherwise.
        let with = with.with_type("other".into()).with_message_id("other".into());
        desk.put_with("binary", with, "{\"n\":1}").await;
        let event = hearing.hear_event().await;
        let source = prefix.replace(':', "-");
        assert_members(
            &event,
            &json!({"specversion": "1.0", "id": "e-1", "source": source,
                "type": "order.refunded", "subject": "\u{fc}", "time": "2026-11-18T11:06:40Z",
                "dataschema": "https://schema.example/a", "flag": true, "tiny": -1, "tinyu": 255,
                "small": -2, "smallu": 65535, "int": i32::MIN, "intu": 7, "long": i32::MAX,
                "datacontenttype": "application/json", "data": {"n": 1}}),
        );
        assert!(event.get("x-other").is_none());
    }
}

#[tokio::test]
async fn a_structured_message_is_its_event() {
    let (_gateway, desk, mut hearing) = open("structured").await;
    let event = json!({"specversion": "1.0", "id": "s-1", "source": "/s", "type": "order.sent",
        "data": {"a": 1}, "extra": "more"});
    for kind in ["application/cloudevents+json", "Application/CloudEvents+JSON; charset=UTF-8"] {
        let mut event = event.clone();
        event["id"] = kind.into();
        let with = BasicProperties::default().with_content_type(kind.into());
        // The event's own type is right.
        desk.put_with("structured", with.with_type("other".into()), event.to_string()).await;
        assert_members(&hearing.hear_event().await, &event);
    }
}

/// Every message that is no event goes to the dead letters, and none holds up those behind it.
#[tokio::test]
async fn a_message_that_is_no_event_is_rejected_and_counted() {
    let rabbit = Rabbit::shared();
    let desk = Desk::open(&rabbit.url()).await;
    let letters =
        [("x-dead-letter-exchange", text("")), ("x-dead-letter-routing-key", text("poison-dead"))];
    desk.declare("poison", &letters).await.unwrap();
    desk.declare("poison-dead", &[]).await.unwrap();
    let gateway = house("poison").set("MAX_BODY", "1KiB").open();
    wait_for_consumer(&desk, "poison").await;
    let mut hearing = Replay::begin(&gateway.broadcast, &[">"], json!({})).await;
    let none = BasicProperties::default;
    let of = |kind: &str| none().with_content_type(kind.into());
    let header = |name: &str, value: AMQPValue| with_headers(&[(name, value)]);
    let decimal = DecimalValue { scale: 1, value: 15 };
    let poison: Vec<(BasicProperties, Vec<u8>)> = vec![
        (none().with_content_encoding("gzip".into()), b"1".into()),
        (of("application/json"), b"{".into()),
        (of("application/json"), "[".repeat(200).into()),
        (of("no media type"), b"1".into()),
        (of("application/cloudevents+json"), b"{}".into()),
        (of("application/cloudevents+json"), b"\xff".into()),
        (of("application/cloudevents-batch+json"), b"[]".into()),
        (of("application/cloudevents+avro"), b"1".into()),
        (none().with_type("a\u{1}".into()), b"1".into()),
        (header("cloudEvents:type", text("")), b"1".into()),
        (header("cloudEvents:specversion", text("0.3")), b"1".into()),
        (header("cloudEvents:time", text("yesterday")), b"1".into()),
        (header("cloudEvents:time", AMQPValue::LongInt(7)), b"1".into()),
        (header("cloudEvents:source", text("a b")), b"1".into()),
        (header("cloudEvents:Upper", text("a")), b"1".into()),
        (header("cloudEvents:data", text("a")), b"1".into()),
        (header("cloudEvents:datacontenttype", text("text/plain")), b"1".into()),
        (header("cloudEvents:bytes", AMQPValue::LongString(vec![0xff].into())), b"1".into()),
        (header("cloudEvents:long", AMQPValue::LongLongInt(1 << 40)), b"1".into()),
        (header("cloudEvents:real", AMQPValue::Double(1.5)), b"1".into()),
        (header("cloudEvents:decimal", AMQPValue::DecimalValue(decimal)), b"1".into()),
        (header("cloudEvents:nothing", AMQPValue::Void), b"1".into()),
        (header("cloudEvents:list", AMQPValue::FieldArray(FieldArray::default())), b"1".into()),
        (header("cloudEvents:map", AMQPValue::FieldTable(FieldTable::default())), b"1".into()),
        (none(), vec![b'7'; 1025]),
    ];
    for (count, (with, body)) in poison.iter().enumerate() {
        desk.put_with("poison", with.clone(), body).await;
        let due = count as f64 + 1.0;
        let rejected = async || {
            let now = gateway.listen.metric("fanfare_amqp_messages_rejected_total").await;
            let fired = gateway.listen.metric("fanfare_amqp_messages_fired_total").await;
            assert_eq!(fired, 0.0, "{with:?} {body:?} was fired");
            (now == due).then_some(())
        };
        until(&format!("{with:?} is rejected"), rejected).await;
        let dead = until("a dead letter", async || desk.take("poison-dead").await).await;
        assert_eq!(dead, *body, "{with:?}");
    }
    desk.put("poison", "1").await;
    assert_eq!(hearing.hear_event().await["event"], "poison");
    gateway.listen.wait_for_metric("fanfare_amqp_messages_fired_total", 1.0).await;
    assert_eq!(desk.look("poison").await, Some((0, 1)));
    assert_eq!(desk.take("poison-dead").await, None);
}

/// While broadcast is away the broker keeps what was put, whatever becomes of listen.
#[tokio::test]
async fn a_message_is_acknowledged_when_broadcast_has_it_and_not_before() {
    let Gateway { listen, broadcast, house } = house("receipts").open();
    let desk = Desk::open(&Rabbit::shared().url()).await;
    wait_for_consumer(&desk, "receipts").await;
    broadcast.kill();
    for number in 0..5 {
        let with = BasicProperties::default().with_message_id(format!("r-{number}").into());
        desk.put_with("receipts", with, format!("{{\"n\":{number}}}")).await;
    }
    let taken = async || (desk.look("receipts").await? == (0, 1)).then_some(());
    until("messages that are under way", taken).await;
    let_pass(std::time::Duration::from_millis(500)).await;
    assert_eq!(listen.metric("fanfare_amqp_messages_fired_total").await, 0.0);
    let listen = listen.restart(Signal::KILL, &house.settings).await;
    until("messages that are under way again", taken).await;
    let broadcast = house.broadcast();
    listen.wait_for_metric("fanfare_amqp_messages_fired_total", 5.0).await;
    assert_eq!(desk.look("receipts").await, Some((0, 1)));
    let gateway = Gateway { listen, broadcast, house };
    let mut kept =
        Replay::begin(&gateway.broadcast, &["receipts"], json!({"after": "first"})).await;
    assert_eq!(numbers(&kept.rest(&gateway).await), [0, 1, 2, 3, 4]);
}

#[tokio::test]
async fn queues_are_made_where_there_are_none_and_each_is_consumed() {
    let (gateway, desk, mut hearing) = open("several-a, several-b").await;
    for queue in ["several-a", "several-b"] {
        wait_for_consumer(&desk, queue).await;
        desk.put(queue, "1").await;
        assert_eq!(hearing.hear_event().await["type"], queue);
    }
    // Another listen takes part: a message is fired by one of them.
    let other = gateway.house.listen();
    until("two consumers", async || (desk.look("several-a").await?.1 == 2).then_some(())).await;
    for number in 0..4 {
        desk.put("several-a", number.to_string()).await;
        hearing.hear_event().await;
    }
    assert!(other.stop().success());
    // One that is removed is made again.
    desk.delete("several-a").await;
    wait_for_consumer(&desk, "several-a").await;
    desk.put("several-a", "again").await;
    assert_eq!(hearing.hear_event().await["data"], "again");
}

#[tokio::test]
async fn listen_waits_for_its_broker_and_serves_everything_else() {
    let mut rabbit = Rabbit::prepare();
    let house = House::new().set("AMQP_URLS", rabbit.url()).set("AMQP_CONSUME", "late");
    let gateway = house.open();
    assert_eq!(degraded(&gateway.listen).await, ["broker away"]);
    let mut hearing = Replay::begin(&gateway.broadcast, &[">"], json!({})).await;
    crate::client::fire(&gateway, "a", "1").await;
    assert_eq!(hearing.hear_event().await["event"], "a");
    rabbit.up().await;
    let desk = Desk::open(&rabbit.url()).await;
    wait_for_consumer(&desk, "late").await;
    assert_eq!(degraded(&gateway.listen).await, Vec::<String>::new());
    desk.put("late", "1").await;
    assert_eq!(hearing.hear_event().await["event"], "late");
    rabbit.signal(Signal::STOP);
    assert!(gateway.listen.stop().success());
    rabbit.signal(Signal::CONT);
}
