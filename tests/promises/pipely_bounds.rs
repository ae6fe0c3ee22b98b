//! What Pipely's channels may cost (WIRE 6): bounds, slow clients, many at once, and that nothing is
//! left behind.

use futures_util::future::join_all;
use serde_json::json;
use tokio::net::TcpSocket;

use crate::client::Subscriber;
use crate::event_stream::EventStream;
use crate::gateway::Process;
use crate::measures::{descriptors, until};
use crate::pipely::{
    CHANNEL, connect, disconnect, hears, house, join, list, message, publish, query, said,
    subscribe, tell,
};
use crate::wire::Wire;

/// A client that takes nothing, on a socket with the least room to receive.
async fn join_narrow(broadcast: &Process, client: &str) -> Wire {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(1).unwrap();
    let mut wire = Wire { stream: socket.connect(broadcast.address()).await.unwrap() };
    let target = format!("/subscribe?{}", query(client, ""));
    wire.send(format!("GET {target} HTTP/1.1\r\nHost: test\r\n\r\n")).await;
    let head = wire.read_head().await;
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    wire
}

/// Waits until nobody is there, and nothing of anybody.
async fn all_gone(broadcast: &Process) {
    for name in [
        "fanfare_channels",
        "fanfare_sessions",
        "fanfare_connections",
        "fanfare_outbox_bytes",
        "fanfare_memory_held_bytes",
    ] {
        broadcast.wait_for_metric(name, 0.0).await;
    }
}

#[tokio::test]
async fn there_are_so_many_channels_and_clients_and_no_more() {
    let house = house().set("MAX_CHANNELS", 2).set("MAX_CHANNEL_CLIENTS", 2);
    let broadcast = house.broadcast();
    let ask = async |channel: &str, client: &str| {
        let query = format!("channelId={channel}&clientId={client}");
        let response = subscribe(&broadcast, &query).send().await.unwrap();
        let is_refused = response.status() == 503;
        assert_eq!(response.headers().contains_key("retry-after"), is_refused, "{response:?}");
        match response.status().as_u16() {
            200 => Ok(response),
            _ => Err(said(response).await),
        }
    };
    let full = |text: &str| Err((503, format!("{text}\n")));
    let mut alice = join(&broadcast, "alice", "").await;
    let bob = ask(CHANNEL, "bob").await.unwrap();
    assert_eq!(ask(CHANNEL, "carol").await.map(|_| ()), full("too many clients in channel"));
    let other = ask("mnopqrstuvwx", "bob").await.unwrap();
    assert_eq!(ask("thirdchannel", "bob").await.map(|_| ()), full("too many channels"));
    // What is wrong is told before, and who is there is told of nobody who was refused.
    assert_eq!(ask("thirdchannel", "bo").await.unwrap_err().0, 400);
    drop(bob);
    hears(&mut alice, &[list(&["alice"]), connect("alice"), connect("bob"), disconnect("bob")])
        .await;
    let _carol = ask(CHANNEL, "carol").await.unwrap();
    hears(&mut alice, &[connect("carol")]).await;
    drop(other);
    broadcast.wait_for_metric("fanfare_channels", 1.0).await;
    ask("thirdchannel", "bob").await.unwrap();
}

#[tokio::test]
async fn clients_of_channels_are_sessions_and_leave_half_of_them_to_others() {
    let house = house().set("MAX_SESSIONS", 4);
    let broadcast = house.broadcast();
    let _alice = join(&broadcast, "alice", "").await;
    let bob = join(&broadcast, "bob", "").await;
    let refused = subscribe(&broadcast, &query("carol", "")).send().await.unwrap();
    assert_eq!(refused.headers()["access-control-allow-origin"], "*");
    assert_eq!(refused.headers()["retry-after"], "1");
    assert_eq!(said(refused).await, (503, "too many clients\n".to_owned()));
    // Who tells something is none.
    tell(&broadcast, "", message("t", "xyz", "1")).await;
    let _with_a_token = Subscriber::subscribe(&broadcast, &["a"]).await;
    let _another = Subscriber::subscribe(&broadcast, &["a"]).await;
    drop(bob);
    broadcast.wait_for_metric("fanfare_sessions", 3.0).await;
    let _third = Subscriber::subscribe(&broadcast, &["a"]).await;
    let refused = subscribe(&broadcast, &query("carol", "")).send().await.unwrap();
    assert_eq!(refused.status(), 503);
    assert_eq!(refused.text().await.unwrap(), r#"{"code":"TOO_MANY_SESSIONS"}"#);
}

#[tokio::test]
async fn names_and_passwords_may_have_255_bytes() {
    let house = house();
    let broadcast = house.broadcast();
    let (client, password) = ("ä".repeat(127) + "a", "ö".repeat(127) + "o");
    let mut longest = join(&broadcast, &client, &password).await;
    hears(&mut longest, &[list(&[&client]), connect(&client)]).await;
    let request = publish(&broadcast, message("t", "xyz", "1"));
    let shown = reqwest::header::HeaderValue::from_bytes(format!("Password {password}").as_bytes());
    let response = request.header("authorization", shown.unwrap()).send().await.unwrap();
    assert_eq!(said(response).await, (200, String::new()));
}

/// The list of who is there is longer than what may wait for a client.
#[tokio::test]
async fn a_newcomer_hears_the_list_however_long_it_is() {
    let house = house().set("OUTBOX_BYTES", "64KiB");
    let broadcast = house.broadcast();
    let names: Vec<_> = (0..300).map(|number| format!("{number:0>250}")).collect();
    let mut members = Vec::new();
    for name in &names {
        members.push(join(&broadcast, name, "").await);
    }
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let last = members.last_mut().unwrap();
    hears(last, &[list(&names), connect(names[299])]).await;
    tell(&broadcast, "", message("t", "xyz", "1")).await;
    hears(last, &[message("t", "xyz", "1")]).await;
}

#[tokio::test]
async fn a_client_that_reads_too_slowly_is_let_go_alone_and_the_others_are_told() {
    let house = house().set("OUTBOX_BYTES", "64KiB");
    let broadcast = house.broadcast();
    let mut quick = join(&broadcast, "quick", "").await;
    let mut slow = join_narrow(&broadcast, "slow").await;
    hears(&mut quick, &[list(&["quick"]), connect("quick"), connect("slow")]).await;
    let padding = "x".repeat(60_000);
    let mut has_gone = false;
    // More than the sockets and the mailbox hold.
    for number in 0..400 {
        let told = message("t", "xyz", &format!("[{number},\"{padding}\"]"));
        tell(&broadcast, "", told.clone()).await;
        let mut next = quick.event().await.text();
        if next != told {
            assert_eq!((next, has_gone), (disconnect("slow"), false));
            has_gone = true;
            next = quick.event().await.text();
        }
        assert_eq!(next, told);
    }
    if !has_gone {
        // It is waited for, as any client that does not take its answer.
        hears(&mut quick, &[disconnect("slow")]).await;
    }
    broadcast.wait_for_metric("fanfare_slow_consumers_total", 1.0).await;
    broadcast.wait_for_metric("fanfare_sessions", 1.0).await;
    // What it has got ends in the middle: it cannot be taken for all there was.
    let got = slow.read_to_end().await;
    assert!(!got.ends_with(b"0\r\n\r\n"));
    tell(&broadcast, "", message("t", "xyz", "1")).await;
    hears(&mut quick, &[message("t", "xyz", "1")]).await;
    let mut again = join(&broadcast, "slow", "").await;
    hears(&mut again, &[list(&["quick", "slow"]), connect("slow")]).await;
}

/// A publisher is told when its clients do not read, before anybody is let go and long before those
/// who fire events are refused.
#[tokio::test]
async fn what_waits_for_clients_of_channels_is_a_part_of_the_memory() {
    let house = house().set("MEMORY_LIMIT", "1MiB").set("OUTBOX_BYTES", "64MiB");
    let broadcast = house.broadcast();
    let _slow = join_narrow(&broadcast, "slow").await;
    let body = message("t", "xyz", &format!("\"{}\"", "x".repeat(100_000)));
    let refused = until("a refusal", async || {
        let response = publish(&broadcast, body.clone()).send().await.unwrap();
        (response.status() != 200).then_some(response)
    })
    .await;
    assert_eq!(refused.headers()["retry-after"], "1");
    let due = (503, "no room for messages now\n".to_owned());
    assert_eq!(said(refused).await, due);
}

/// Pipely itself was locked up for ever by 50.
#[tokio::test]
async fn clients_that_come_at_the_same_moment_are_all_served_in_one_order() {
    for count in [50, 500] {
        let house = house();
        let broadcast = house.broadcast();
        let names: Vec<_> = (0..count).map(|number| format!("client-{number}")).collect();
        let mut members: Vec<EventStream> =
            join_all(names.iter().map(|name| join(&broadcast, name, ""))).await;
        tell(&broadcast, "", message("end", "xyz", "null")).await;
        let mut orders = Vec::new();
        for (member, name) in members.iter_mut().zip(&names) {
            let first = member.event().await.json();
            assert_eq!(first["type"], "CLIENT_LIST");
            let there: Vec<_> = first["payload"].as_array().unwrap().clone();
            assert_eq!(there.last(), Some(&json!(name)));
            // Those who came before, and then those who are told of: the same order for all.
            let mut order = there[..there.len() - 1].to_vec();
            loop {
                let event = member.event().await.json();
                if event["type"] == "end" {
                    break;
                }
                assert_eq!(event["type"], "CONNECT");
                order.push(event["origin_id"].clone());
            }
            orders.push(order);
        }
        assert_eq!(orders[0].len(), count);
        for order in &orders {
            assert_eq!(*order, orders[0]);
        }
        drop(members);
        all_gone(&broadcast).await;
    }
}

#[tokio::test]
async fn clients_that_come_and_go_leave_nothing_behind() {
    let house = house();
    let broadcast = house.broadcast();
    let visit = async |number: usize| {
        let query = format!("channelId=channel-{:04}&clientId=client-{number}", number % 7);
        drop(EventStream::of(subscribe(&broadcast, &query)).await);
        let body = message("t", "xyz", "1").replace(CHANNEL, &format!("channel-{:04}", number % 7));
        let told = publish(&broadcast, body).send().await.unwrap().status().as_u16();
        assert!([200, 404].contains(&told), "{told}");
    };
    join_all((0..50).map(visit)).await;
    all_gone(&broadcast).await;
    let before = descriptors(&broadcast);
    for round in 0..10 {
        join_all((0..100).map(|it| visit(round * 100 + it))).await;
    }
    all_gone(&broadcast).await;
    until("all descriptors", async || {
        // The scrape's own connection may be there, or not.
        (descriptors(&broadcast) <= before + 1).then_some(())
    })
    .await;
    assert_eq!(broadcast.metric("fanfare_session_panics_total").await, 0.0);
    assert_eq!(broadcast.metric("fanfare_slow_consumers_total").await, 0.0);
}
