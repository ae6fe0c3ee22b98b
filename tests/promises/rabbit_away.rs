//! Durable queues while RabbitMQ is away (WIRE 7): requests wait, for a 503 would stop an
//! `EventSource` for good.

use reqwest::Response;
use rustix::process::Signal;
use tokio::task::JoinHandle;

use crate::browser::Browser;
use crate::client::{answer, let_pass};
use crate::event_stream::ticket;
use crate::gateway::{House, Process, TOKEN};
use crate::measures::{degraded, until};
use crate::queue_stream::{QueueStream, ask, ask_as, ask_plainly, data, listed};
use crate::rabbit::Rabbit;
use crate::rabbit_desk::Desk;
use crate::wire::{Wire, header_of, status};

const READER: &str = "0123456789abcdef-reader";

/// A request for a queue that waits.
async fn waiting(broadcast: &Process, token: &str, name: &str) -> JoinHandle<Response> {
    let request = ask_as(broadcast, token, &format!("id={name}"));
    let waiting = tokio::spawn(async move { request.send().await.unwrap() });
    wait_for_seat(broadcast, name, true).await;
    waiting
}

/// Waits until somebody has a queue, or nobody.
async fn wait_for_seat(broadcast: &Process, name: &str, is_taken: bool) {
    until("a seat", async || {
        let found = listed(broadcast).await.iter().any(|it| it["name"] == name);
        (found == is_taken).then_some(())
    })
    .await;
}

/// A broadcast whose broker is not there.
fn open() -> (Rabbit, House, Process) {
    let rabbit = Rabbit::prepare();
    let tokens = format!("{TOKEN} name=all\n{READER} name=r subscribe=> publish=none\n");
    let house = rabbit.house().with_tokens(&tokens);
    let broadcast = house.broadcast();
    (rabbit, house, broadcast)
}

#[tokio::test]
async fn without_its_broker_broadcast_starts_says_so_and_serves_everything_else() {
    let rabbit = Rabbit::prepare();
    let house = rabbit.house().set("CORS_ALLOW_ORIGIN", "https://a.example");
    let broadcast = house.broadcast();
    assert_eq!(degraded(&broadcast).await, ["broker away"]);
    let _waiting = waiting(&broadcast, TOKEN, "q").await;
    for (method, due) in [("OPTIONS", 204), ("POST", 405), ("HEAD", 405), ("PUT", 405)] {
        let mut wire = Wire::connect(&broadcast).await;
        wire.send(format!("{method} /queue?id=q HTTP/1.1\r\nHost: test\r\n\r\n")).await;
        let head = wire.read_head().await;
        assert_eq!(status(&head), due, "{head}");
        let origin = header_of(&head, "access-control-allow-origin");
        assert_eq!(origin, Some("https://a.example"), "{head}");
    }
    assert_eq!(ask_plainly(&broadcast, "id=q").send().await.unwrap().status(), 401);
    let stranger = ask_as(&broadcast, "no-such-token-000000", "id=q");
    assert_eq!(stranger.send().await.unwrap().status(), 401);
    assert_eq!(ask(&broadcast, "").send().await.unwrap().status(), 503);
    // Who asks for what cannot be done now is told.
    let request = reqwest::Client::new().delete(format!("{}/queues/q", broadcast.url()));
    let request = request.header("authorization", format!("Basic {TOKEN}"));
    assert_eq!(answer(request.send().await.unwrap()).await.0, 503);
}

#[tokio::test]
async fn requests_that_wait_end_with_their_token_and_with_broadcast() {
    let (_rabbit, house, broadcast) = open();
    let withdrawn = waiting(&broadcast, READER, "a").await;
    let stays = waiting(&broadcast, TOKEN, "b").await;
    house.write_tokens(&format!("{TOKEN} name=all\n# nobody else\n"));
    assert_eq!(withdrawn.await.unwrap().status(), 401);
    wait_for_seat(&broadcast, "a", false).await;
    assert!(!stays.is_finished());
    assert!(broadcast.stop().success());
    // A 503 would stop an `EventSource` for good: it has a stream, which ends.
    assert_eq!(QueueStream::begin(stays.await.unwrap()).await.ended().await, Vec::<String>::new());
}

#[tokio::test]
async fn who_leaves_while_it_waits_leaves_its_queue_to_the_next() {
    let (_rabbit, _house, broadcast) = open();
    let mut wire = Wire::connect(&broadcast).await;
    wire.send(format!(
        "GET /queue?id=left HTTP/1.1\r\nHost: test\r\nAuthorization: Basic {TOKEN}\r\n\r\n"
    ))
    .await;
    wait_for_seat(&broadcast, "left", true).await;
    drop(wire);
    wait_for_seat(&broadcast, "left", false).await;
    waiting(&broadcast, TOKEN, "left").await.abort();
}

#[tokio::test]
async fn what_waited_for_the_broker_is_served_when_it_comes_and_comes_back() {
    let (mut rabbit, _house, broadcast) = open();
    let waiting_for_it = waiting(&broadcast, TOKEN, "first").await;
    rabbit.up().await;
    let mut first = QueueStream::begin(waiting_for_it.await.unwrap()).await;
    assert_eq!(degraded(&broadcast).await, Vec::<String>::new());
    let desk = Desk::open(&rabbit.url()).await;
    for number in 0..3 {
        desk.put("first", number.to_string()).await;
        assert_eq!(first.message().await, data(&number.to_string()));
    }
    let second = QueueStream::open(&broadcast, "id=second").await;
    for number in 0..3 {
        // The first two of them wait in the broker.
        desk.put("second", format!("s{number}")).await;
    }
    rabbit.kill();
    first.ended().await;
    second.ended().await;
    broadcast.wait_for_log("the connection to the broker was lost");
    assert_eq!(degraded(&broadcast).await, ["broker away"]);
    let comes_back = waiting(&broadcast, TOKEN, "first").await;
    let comes_back_too = waiting(&broadcast, TOKEN, "second").await;
    rabbit.up().await;
    let mut first = QueueStream::begin(comes_back.await.unwrap()).await;
    QueueStream::begin(comes_back_too.await.unwrap()).await;
    let desk = Desk::open(&rabbit.url()).await;
    desk.put("first", "again").await;
    // The broker may not have heard of the last acknowledgements, and then says so.
    loop {
        let message = first.message().await;
        if message == data("again") {
            break;
        }
        assert!(message.starts_with(": redelivered\n"), "{message}");
    }
}

#[tokio::test]
async fn a_frozen_broker_is_taken_for_dead_and_found_again() {
    let mut rabbit = Rabbit::prepare();
    rabbit.up().await;
    let house = rabbit.house().set("AMQP_URLS", format!("{}?heartbeat=2", rabbit.url()));
    let broadcast = house.broadcast();
    let stream = QueueStream::open(&broadcast, "id=frozen").await;
    rabbit.signal(Signal::STOP);
    stream.ended().await;
    let comes_back = waiting(&broadcast, TOKEN, "frozen").await;
    let never = waiting(&broadcast, TOKEN, "other").await;
    // For longer than the broker is given to notice that somebody has left.
    let_pass(std::time::Duration::from_secs(7)).await;
    assert!(!comes_back.is_finished());
    assert!(!never.is_finished());
    rabbit.signal(Signal::CONT);
    for stream in [comes_back, never] {
        QueueStream::begin(stream.await.unwrap()).await;
    }
    // It is stopped in time, whatever the broker does.
    rabbit.signal(Signal::STOP);
    assert!(broadcast.stop().success());
    rabbit.signal(Signal::CONT);
}

#[tokio::test]
async fn a_browsers_event_source_survives_the_brokers_death_and_return() {
    let mut rabbit = Rabbit::start().await;
    let house = rabbit.house();
    let broadcast = house.broadcast();
    let browser = Browser::open(&format!("{}/healthz", broadcast.url())).await;
    let script = r#"
        window.heard = [];
        window.source = new EventSource("/queue?id=page&ticket=TICKET");
        window.source.onmessage = event => { window.heard.push(event.data); };
    "#;
    browser.run(&script.replace("TICKET", &ticket(&broadcast, TOKEN).await)).await;
    for number in 1..=3 {
        wait_for_seat(&broadcast, "page", true).await;
        let desk = Desk::open(&rabbit.url()).await;
        until("a queue", async || desk.look("page").await).await;
        desk.put("page", number.to_string()).await;
        until("what the page has to hear", async || {
            let heard = browser.run("return window.heard;").await;
            (heard.as_array().unwrap().last()? == &number.to_string()).then_some(())
        })
        .await;
        rabbit.kill();
        // The page comes back before the broker does, and waits.
        wait_for_seat(&broadcast, "page", false).await;
        wait_for_seat(&broadcast, "page", true).await;
        rabbit.up().await;
    }
    assert_eq!(browser.run("return window.source.readyState < 2;").await, true);
    browser.close().await;
}
