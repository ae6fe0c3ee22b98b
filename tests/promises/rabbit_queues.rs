//! Durable queues in RabbitMQ (WIRE 7): how they are declared, consumed, shared out and refused.

use lapin::types::AMQPValue;
use rustix::process::Signal;
use tokio::net::TcpSocket;

use crate::client::answer;
use crate::gateway::{House, Process, TOKEN};
use crate::measures::{degraded, until};
use crate::queue_stream::{
    INVALID, MISSING, QueueStream, TAKEN, again, ask, ask_as, data, listed, refusal,
};
use crate::rabbit::Rabbit;
use crate::rabbit_desk::Desk;
use crate::wire::{Wire, status};

const READER: &str = "0123456789abcdef-reader";

/// A broadcast with its queues in the shared broker, and another program there.
async fn open() -> (House, Process, Desk) {
    let rabbit = Rabbit::shared();
    let house = rabbit.house();
    let broadcast = house.broadcast();
    (house, broadcast, Desk::open(&rabbit.url()).await)
}

/// Waits until a queue has so many messages and consumers.
async fn wait_for_queue(desk: &Desk, queue: &str, due: (u32, u32)) {
    let what = format!("{queue} with {due:?}");
    until(&what, async || (desk.look(queue).await == Some(due)).then_some(())).await;
}

/// Asks the operators' door to queues.
async fn delete(broadcast: &Process, name: &str) -> (u16, String) {
    let request = reqwest::Client::new().delete(format!("{}/queues/{name}", broadcast.url()));
    let request = request.header("authorization", format!("Basic {TOKEN}"));
    answer(request.send().await.unwrap()).await
}

#[tokio::test]
async fn a_queue_is_declared_as_eventsourced_did_and_stays_when_its_consumer_goes() {
    let rabbit = Rabbit::shared();
    let desk = Desk::open(&rabbit.url()).await;
    for (name, setting, expires_ms) in
        [("made-1800", None, 1_800_000), ("made-77", Some(77), 77_000)]
    {
        let mut house = rabbit.house();
        if let Some(seconds) = setting {
            house = house.set("QUEUE_EXPIRES", seconds);
        }
        let broadcast = house.broadcast();
        let stream = QueueStream::open(&broadcast, &format!("id={name}")).await;
        wait_for_queue(&desk, name, (0, 1)).await;
        desk.declare(name, &[("x-expires", AMQPValue::LongInt(expires_ms))]).await.unwrap();
        for other in [vec![], vec![("x-expires", AMQPValue::LongInt(expires_ms + 1))]] {
            let refused = desk.declare(name, &other).await.unwrap_err().to_string();
            assert!(refused.contains("inequivalent arg 'x-expires'"), "{refused}");
        }
        drop(stream);
        wait_for_queue(&desk, name, (0, 0)).await;
    }
}

#[tokio::test]
async fn a_queue_that_is_declared_otherwise_is_refused_in_the_brokers_words() {
    let (_house, broadcast, desk) = open().await;
    desk.declare("otherwise", &[]).await.unwrap();
    for _ in 0..2 {
        let (status, reason, code) =
            refusal(ask(&broadcast, "id=otherwise").send().await.unwrap()).await;
        assert_eq!((status, code), (503, "QUEUE_REFUSED"));
        assert!(
            reason.starts_with(
                "Exception (406) Reason: \"PRECONDITION_FAILED - inequivalent arg 'x-expires' for \
                 queue 'otherwise' in vhost '/'"
            ),
            "{reason}"
        );
    }
    // The connection, which others use, is none the worse for it.
    QueueStream::open(&broadcast, "id=beside-otherwise").await;
    broadcast.wait_for_log("connected to the broker");
    assert!(!broadcast.log().contains("was lost"));
}

#[tokio::test]
async fn a_text_message_is_written_as_eventsourced_did() {
    let (_house, broadcast, desk) = open().await;
    let mut stream = QueueStream::open(&broadcast, "id=framing").await;
    assert_eq!(stream.header("content-type"), Some("text/event-stream; charset=utf-8"));
    for (body, block) in [
        (&b"{\"a\":1}"[..], "data: {\"a\":1}\n\n"),
        (b"two\nlines\n\n", "data: two\ndata: lines\n\n"),
        (b"cr\r\nlf\rx", "data: cr\ndata: lfx\n\n"),
        (b"", "data: \n\n"),
        (b" \n ", "data: \n\n"),
        (b"   sp  ", "data: sp\n\n"),
        (b"\ttab\t", "data: \ttab\t\n\n"),
        (b"\xc3\xbc", "data: \u{fc}\n\n"),
        (b"a\n\nb", "data: a\ndata: \ndata: b\n\n"),
        (
            b"{ odd message\ndata: !\n :\n! }",
            "data: { odd message\ndata: data: !\ndata:  :\ndata: ! }\n\n",
        ),
    ] {
        desk.put("framing", body).await;
        assert_eq!(stream.message().await, block, "{body:?}");
    }
    wait_for_queue(&desk, "framing", (0, 1)).await;
}

#[tokio::test]
async fn a_queue_has_one_consumer_here_and_anywhere() {
    let (_house, broadcast, desk) = open().await;
    let mut first = QueueStream::open(&broadcast, "id=single").await;
    for _ in 0..2 {
        assert_eq!(refusal(ask(&broadcast, "id=single").send().await.unwrap()).await, TAKEN);
    }
    // Another broadcast on the same broker.
    let other_house = Rabbit::shared().house();
    let other = other_house.broadcast();
    let refused = until("a refusal", async || {
        Some(refusal(ask(&other, "id=single").send().await.unwrap()).await)
    });
    assert_eq!(refused.await, TAKEN);
    // Who was there does not notice.
    desk.put("single", "1").await;
    assert_eq!(first.message().await, data("1"));
    drop(first);
    let mut next = QueueStream::open_when_free(&broadcast, "id=single").await;
    desk.put("single", "2").await;
    assert_eq!(next.message().await, data("2"));
    // Another program's consumer counts as well.
    let expires = [("x-expires", AMQPValue::LongInt(1_800_000))];
    desk.declare("elsewhere", &expires).await.unwrap();
    let consumer = desk.consume("elsewhere").await;
    assert_eq!(refusal(ask(&broadcast, "id=elsewhere").send().await.unwrap()).await, TAKEN);
    drop(consumer);
    QueueStream::open_when_free(&broadcast, "id=elsewhere").await;
}

#[tokio::test]
async fn a_request_without_a_name_or_with_a_bad_one_is_refused_with_503() {
    let pattern = "n-${query:id}-${cookie:sid}";
    let house = Rabbit::shared().house().set("QUEUE_PATTERN", pattern);
    let broadcast = house.broadcast();
    let with = |query: &str, cookie: &str| ask(&broadcast, query).header("cookie", cookie);
    for (query, cookie, due) in [
        ("", "sid=1", MISSING),
        ("id=1", "other=1", MISSING),
        ("id=", "sid=1", MISSING),
        (&*format!("id={}", "x".repeat(255)), "sid=1", INVALID),
    ] {
        assert_eq!(refusal(with(query, cookie).send().await.unwrap()).await, due, "{query}");
    }
    QueueStream::of(with("id=1", "sid=2")).await;
    let desk = Desk::open(&Rabbit::shared().url()).await;
    wait_for_queue(&desk, "n-1-2", (0, 0)).await;
    let broadcast = Rabbit::shared().house().broadcast();
    let reserved = ask(&broadcast, "id=AMQ.gen").send().await.unwrap();
    assert_eq!(refusal(reserved).await, INVALID);
}

/// A stream of a queue whose client has the least room and reads nothing.
async fn open_unread(broadcast: &Process, queue: &str) -> Wire {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(1).unwrap();
    let mut wire = Wire { stream: socket.connect(broadcast.address()).await.unwrap() };
    wire.send(format!(
        "GET /queue?id={queue} HTTP/1.1\r\nHost: test\r\nAuthorization: Basic {TOKEN}\r\n\r\n"
    ))
    .await;
    wire.read_head().await;
    wire
}

/// Messages that are known by their first character fill a queue; it is waited for that no more go
/// to a client that does not read. Gives how many have not gone.
async fn fill(desk: &Desk, queue: &str) -> u32 {
    for number in 0..40u8 {
        let first = char::from(b'A' + number);
        desk.put(queue, format!("{first}{}", "x".repeat(256 * 1024))).await;
    }
    let mut before = None;
    until("a queue that stands still", async || {
        let now = desk.look(queue).await.unwrap();
        crate::client::let_pass(std::time::Duration::from_millis(300)).await;
        let stands = before.replace(now) == Some(now);
        stands.then_some(now.0)
    })
    .await
}

/// One message is with the client's connection, unacknowledged; what waits is behind it.
#[tokio::test]
async fn what_was_not_written_to_a_client_is_given_to_the_next_and_nothing_else() {
    let (_house, broadcast, desk) = open().await;
    let wire = open_unread(&broadcast, "unread").await;
    let waiting = fill(&desk, "unread").await;
    assert!((1..39).contains(&waiting), "{waiting} wait");
    drop(wire);
    let mut next = QueueStream::open_when_free(&broadcast, "id=unread").await;
    let due = 40 - u8::try_from(waiting).unwrap() - 1;
    for number in due..40 {
        let message = next.message().await;
        let text = format!("{}{}", char::from(b'A' + number), "x".repeat(256 * 1024));
        let expected = if number == due { again(&text) } else { data(&text) };
        assert!(message == expected, "{number}: {}", &message[..40]);
    }
    wait_for_queue(&desk, "unread", (0, 1)).await;
}

/// Killed where it stands, broadcast leaves in its socket what it had written: that, and no less,
/// is what it had acknowledged.
#[tokio::test]
async fn what_was_acknowledged_was_written() {
    let (house, broadcast, desk) = open().await;
    let mut wire = open_unread(&broadcast, "written").await;
    fill(&desk, "written").await;
    broadcast.kill();
    let seen = String::from_utf8(wire.read_to_end().await).unwrap();
    // All that is in the stream, whatever chunks it came in.
    let whole: Vec<char> = (b'A'..b'A' + 40)
        .map(char::from)
        .filter(|first| seen.contains(&format!("data: {first}x")))
        .collect();
    let broadcast = house.broadcast();
    let mut next = QueueStream::open_when_free(&broadcast, "id=written").await;
    let message = next.message().await;
    assert!(message.starts_with(": redelivered\ndata: "), "{}", &message[..40]);
    let first = message.chars().nth(": redelivered\ndata: ".len()).unwrap();
    // The last that the client saw, and saw in part only.
    assert_eq!(whole.last(), Some(&first), "{whole:?}");
}

#[tokio::test]
async fn clients_are_spread_over_the_connections_and_refused_when_all_are_full() {
    let rabbit = Rabbit::shared();
    let url = format!("{}?channel_max=2", rabbit.url());
    let house = rabbit.house().set("AMQP_URLS", format!("{url},{url}"));
    let broadcast = house.broadcast();
    until("two connections", async || {
        (broadcast.log().matches("connected to the broker").count() == 2).then_some(())
    })
    .await;
    let mut streams = Vec::new();
    for number in 0..4 {
        streams.push(QueueStream::open(&broadcast, &format!("id=spread-{number}")).await);
    }
    let refused = refusal(ask(&broadcast, "id=spread-4").send().await.unwrap()).await;
    let due = "Exception (504) Reason: \"channel id space exhausted\"";
    assert_eq!(refused, (503, due, "TOO_MANY_CHANNELS"));
    drop(streams.pop());
    let stream = until("a channel that is free", async || {
        let response = ask(&broadcast, "id=spread-4").send().await.unwrap();
        if response.status() == 200 {
            return Some(QueueStream::begin(response).await);
        }
        assert_eq!(refusal(response).await.2, "TOO_MANY_CHANNELS");
        None
    });
    stream.await;
}

#[tokio::test]
async fn who_may_have_a_queue_is_known_by_its_name() {
    let tokens = format!("{TOKEN} name=all\n{READER} name=r publish=none subscribe=wall.*\n");
    let house = Rabbit::shared().house().with_tokens(&tokens);
    let broadcast = house.broadcast();
    for (name, may) in [
        ("wall.hall", true),
        ("wall.hall.left", false),
        ("desk", false),
        // What names more than it may have.
        ("wall.>", false),
        ("%3E", false),
        // No type of an event: only who may have everything.
        ("wall.%01", false),
    ] {
        let response = ask_as(&broadcast, READER, &format!("id={name}")).send().await.unwrap();
        if may {
            QueueStream::begin(response).await;
        } else {
            assert_eq!(response.status(), 403, "{name}");
        }
    }
    QueueStream::open(&broadcast, "id=%3E").await;
}

#[tokio::test]
async fn operators_see_what_is_consumed_here_and_delete_any_queue() {
    let (_house, broadcast, desk) = open().await;
    let stream = QueueStream::open(&broadcast, "id=listed%2Fa%20b").await;
    let queues = listed(&broadcast).await;
    assert_eq!(queues, [serde_json::json!({"name": "listed/a b", "consumers": 1})]);
    assert_eq!(delete(&broadcast, "listed%2Fa%20b").await.0, 200);
    assert_eq!(stream.ended().await, Vec::<String>::new());
    assert_eq!(desk.look("listed/a b").await, None);
    assert_eq!(delete(&broadcast, "listed%2Fa%20b").await.0, 404);
    let gone = async || listed(&broadcast).await.is_empty().then_some(());
    until("a list without it", gone).await;
    desk.declare("nobody-consumes", &[]).await.unwrap();
    desk.put("nobody-consumes", "1").await;
    assert_eq!(delete(&broadcast, "nobody-consumes").await.0, 200);
    assert_eq!(desk.look("nobody-consumes").await, None);
}

#[tokio::test]
async fn a_stream_ends_with_the_token_and_with_broadcast_and_its_queue_is_free() {
    let tokens = format!("{TOKEN} name=all\n{READER} name=r\n");
    let house = Rabbit::shared().house().with_tokens(&tokens);
    let broadcast = house.broadcast();
    let stream = QueueStream::of(ask_as(&broadcast, READER, "id=withdrawn")).await;
    house.write_tokens(&format!("{TOKEN} name=all\n# nobody else\n"));
    stream.ended().await;
    let stream = QueueStream::open_when_free(&broadcast, "id=withdrawn").await;
    let broadcast = broadcast.restart(Signal::TERM, &house.settings).await;
    stream.ended().await;
    QueueStream::open_when_free(&broadcast, "id=withdrawn").await;
}

#[tokio::test]
async fn amqps_is_for_brokers_whose_certificate_is_trusted() {
    let rabbit = Rabbit::shared();
    let house = rabbit.house().set("AMQP_URLS", rabbit.secure_url());
    let house = house.set("AMQP_CA_FILE", rabbit.ca_file().display());
    let broadcast = house.broadcast();
    let mut stream = QueueStream::open(&broadcast, "id=secure").await;
    Desk::open(&rabbit.url()).await.put("secure", "1").await;
    assert_eq!(stream.message().await, data("1"));
    // Signed by another, and plain where TLS is.
    let stranger = Rabbit::prepare();
    let plain = rabbit.secure_url().replace("amqps:", "amqp:");
    let swapped = rabbit.url().replace("amqp:", "amqps:");
    for (url, ca_file) in [
        (rabbit.secure_url(), Some(stranger.ca_file())),
        (rabbit.secure_url(), None),
        (plain, Some(rabbit.ca_file())),
        (swapped, Some(rabbit.ca_file())),
    ] {
        let mut house = rabbit.house().set("AMQP_URLS", url);
        if let Some(ca_file) = ca_file {
            house = house.set("AMQP_CA_FILE", ca_file.display());
        }
        let broadcast = house.broadcast();
        broadcast.wait_for_log("the broker cannot be reached");
        assert_eq!(degraded(&broadcast).await, ["broker away"]);
    }
}

#[tokio::test]
async fn a_ca_file_that_holds_none_stops_the_start() {
    let house = House::new().set("QUEUE_ENGINE", "amqp");
    let path = house.tokens_file();
    let house = house.set("AMQP_CA_FILE", path.with_file_name("none.pem").display());
    let (ended, log) = Process::try_start("broadcast", &house.settings).err().unwrap();
    assert_eq!(ended.code(), Some(78), "{log}");
    assert!(log.contains("AMQP_CA_FILE"), "{log}");
}

/// Of the broker's refusals the first is told; the password is in none, on no level.
#[tokio::test]
async fn a_wrong_password_is_a_broker_that_is_away_and_no_password_is_ever_logged() {
    let rabbit = Rabbit::shared();
    for (password, is_right) in [("guest", true), ("Zq7wrongPassword", false)] {
        let url = rabbit.url().replace("guest@", &format!("{password}@"));
        let house = rabbit.house().set("AMQP_URLS", &url).set("RUST_LOG", "trace");
        let mut broadcast = house.broadcast();
        if is_right {
            QueueStream::open(&broadcast, "id=password").await;
        } else {
            broadcast.wait_for_log("Login was refused");
            assert_eq!(degraded(&broadcast).await, ["broker away"]);
        }
        broadcast.signal(Signal::TERM);
        broadcast.wait();
        broadcast.wait_for_log("has stopped");
        let log = broadcast.log();
        assert!(log.contains(r#""level":"trace""#), "nothing was searched");
        for shown in [format!(":{password}"), format!("\\u0000{password}"), url] {
            assert!(!log.contains(&shown), "{shown} in {log}");
        }
        assert!(is_right || !log.contains(password), "{log}");
    }
}

#[tokio::test]
async fn other_methods_are_refused_and_a_preflight_is_answered() {
    let house = Rabbit::shared().house().set("CORS_ALLOW_ORIGIN", "*");
    let broadcast = house.broadcast();
    for (method, due) in [("OPTIONS", 204), ("POST", 405), ("DELETE", 405)] {
        let request = format!("{method} /queue?id=h HTTP/1.1\r\nHost: test\r\n\r\n");
        let mut wire = Wire::connect(&broadcast).await;
        wire.send(request).await;
        let head = wire.read_head().await;
        assert_eq!(status(&head), due, "{head}");
        assert!(head.to_lowercase().contains("access-control-allow-origin: *"), "{head}");
    }
}
