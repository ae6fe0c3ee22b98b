//! The link's socket, and strangers on it (HARDENING, "The link").

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::{Duration, Instant};

use crate::client::{Subscriber, answer, fire, post};
use crate::gateway::{Gateway, House, PATIENCE, Process};
use crate::measures::{ask_admin, peak_memory};

#[test]
fn the_folder_is_closed_to_others_and_so_is_the_socket() {
    let house = House::new();
    let _broadcast = house.broadcast();
    let mode = |path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode(house.socket().parent().unwrap().to_owned()), 0o700);
    assert_eq!(mode(house.socket()), 0o600);
}

#[test]
fn a_group_may_be_let_in_by_a_setting() {
    let house = House::new();
    let group = rustix::process::getgid().as_raw();
    let house = house.set("LINK_GROUP", group);
    let _broadcast = house.broadcast();
    let mode = |path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode(house.socket().parent().unwrap().to_owned()), 0o750);
    assert_eq!(mode(house.socket()), 0o660);
}

#[tokio::test]
async fn a_socket_of_a_dead_process_is_taken_away() {
    let house = House::new();
    fs::create_dir(house.socket().parent().unwrap()).unwrap();
    // Nobody listens there any more, and the file stays.
    drop(UnixListener::bind(house.socket()).unwrap());
    assert!(house.socket().exists());
    let gateway = house.open();
    fire(&gateway, "a", "1").await;
}

#[tokio::test]
async fn a_second_broadcast_ends_with_a_clear_message_and_the_first_goes_on() {
    let gateway = Gateway::open();
    let mut subscriber = Subscriber::subscribe(&gateway.broadcast, &["a"]).await;
    let mut settings = gateway.house.settings.clone();
    let other = gateway.house.folder.path().join("other").display().to_string();
    settings.insert("DATA_DIR".to_owned(), other);
    let mut second = Process::spawn("broadcast", &settings);
    assert_eq!(second.wait().code(), Some(1));
    second.wait_for_log("LINK: another broadcast is running");
    assert!(gateway.house.socket().exists());
    fire(&gateway, "a", "1").await;
    assert_eq!(subscriber.hear().await, r#"{"type":"event","event":"a","data":1}"#);
    assert!(!gateway.listen.log().contains("the link is down"));
}

#[test]
fn what_is_no_socket_is_left_alone() {
    let house = House::new();
    fs::create_dir(house.socket().parent().unwrap()).unwrap();
    fs::write(house.socket(), "precious").unwrap();
    let mut broadcast = Process::spawn("broadcast", &house.settings);
    assert_eq!(broadcast.wait().code(), Some(1));
    broadcast.wait_for_log("is not a socket");
    assert_eq!(fs::read_to_string(house.socket()).unwrap(), "precious");
}

#[test]
fn at_its_end_broadcast_takes_its_socket_away() {
    let house = House::new();
    assert!(house.broadcast().stop().success());
    assert!(!house.socket().exists());
}

#[test]
fn at_its_end_broadcast_leaves_what_another_has_put_there() {
    let house = House::new();
    let broadcast = house.broadcast();
    fs::remove_file(house.socket()).unwrap();
    let _others = UnixListener::bind(house.socket()).unwrap();
    assert!(broadcast.stop().success());
    assert!(fs::symlink_metadata(house.socket()).unwrap().file_type().is_socket());
}

/// The first frame of a side: its length, its kind, who it is, its version, its longest frame.
fn hello(version: u16) -> Vec<u8> {
    let mut frame = vec![0, 0, 0, 14, 1];
    frame.extend(b"fanfare");
    frame.extend(version.to_be_bytes());
    frame.extend(65_536_u32.to_be_bytes());
    frame
}

fn stranger(house: &House) -> UnixStream {
    let stream = UnixStream::connect(house.socket()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

#[tokio::test]
async fn a_stranger_on_the_socket_ends_its_own_connection_and_nothing_else() {
    let gateway = Gateway::open();
    let mut subscriber = Subscriber::subscribe(&gateway.broadcast, &["a"]).await;
    let before = peak_memory(&gateway.broadcast);
    let framed = |bytes: &[u8]| [&(bytes.len() as u32).to_be_bytes()[..], bytes].concat();
    let greeted = |bytes: &[u8]| [hello(3), framed(bytes)].concat();
    let mut event = vec![2];
    event.extend(1_u64.to_be_bytes());
    // No terms.
    event.push(0);
    let table = [
        ("another protocol", b"GET / HTTP/1.1\r\nHost: test\r\n\r\n".to_vec()),
        ("a frame that is too long", 0x7fff_ffff_u32.to_be_bytes().to_vec()),
        ("too long after the hello", [hello(3), vec![0xff; 4]].concat()),
        ("another version", hello(1)),
        ("version 0", hello(0)),
        ("no hello", framed(&[5, 0, 0, 0, 0, 0, 0, 0, 1, 1])),
        ("an empty frame", greeted(&[])),
        ("two hellos", hello(3).repeat(2)),
        ("a hello of somebody else", framed(b"\x01fanfarf\0\x01\0\0\0\0")),
        ("an unknown kind", greeted(&[99])),
        ("a receipt", greeted(&[3, 0, 0, 0, 0, 0, 0, 0, 1])),
        ("an event without fields", greeted(&[&event[..], &[0]].concat())),
        (
            "an event that lies about a length",
            greeted(&[&event[..], &[5, 1, 255, 0, 0, 0]].concat()),
        ),
        ("an unknown request", greeted(&[5, 0, 0, 0, 0, 0, 0, 0, 1, 9])),
        ("garbage", (0..4096_u32).map(|it| (it * 7919 % 251) as u8).collect()),
    ];
    for (what, bytes) in table {
        let begun = Instant::now();
        let mut stream = stranger(&gateway.house);
        // It may hang up before it has read all of it.
        let _ = stream.write_all(&bytes);
        let mut heard = Vec::new();
        if let Err(error) = stream.read_to_end(&mut heard) {
            assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{what}: {error}");
        }
        assert!(hello_of_broadcast(&heard), "{what}: {heard:?}");
        // Ended for what it said, not for its silence after that.
        assert!(begun.elapsed() < Duration::from_secs(5), "{what}: {:?}", begun.elapsed());
    }
    let grown = peak_memory(&gateway.broadcast) - before;
    assert!(grown < 8 * 1024 * 1024, "{grown} bytes more");
    fire(&gateway, "a", "1").await;
    assert_eq!(subscriber.hear().await, r#"{"type":"event","event":"a","data":1}"#);
    assert!(!gateway.listen.log().contains("the link is down"));
}

/// Whether nothing but a hello was said.
fn hello_of_broadcast(heard: &[u8]) -> bool {
    heard.len() == 18 && heard[4..12] == *b"\x01fanfare"
}

#[tokio::test]
async fn a_link_may_come_one_byte_at_a_time() {
    let house = House::new();
    let _broadcast = house.broadcast();
    let mut stream = stranger(&house);
    let ping = [0, 0, 0, 10, 5, 0, 0, 0, 0, 0, 0, 0, 42, 1];
    for byte in [hello(3), ping.to_vec()].concat() {
        stream.write_all(&[byte]).unwrap();
    }
    let mut heard = [0; 18 + 17];
    stream.read_exact(&mut heard).unwrap();
    // The hello, and the answer with the number of the question and a count of none.
    assert!(hello_of_broadcast(&heard[..18]));
    assert_eq!(heard[18..], [0, 0, 0, 13, 6, 0, 0, 0, 0, 0, 0, 0, 42, 0, 0, 0, 0]);
}

#[tokio::test]
async fn a_stranger_who_says_nothing_is_let_go() {
    let house = House::new();
    let broadcast = house.broadcast();
    let mut stream = stranger(&house);
    let begun = Instant::now();
    let mut heard = Vec::new();
    stream.read_to_end(&mut heard).unwrap();
    assert!((9..25).contains(&begun.elapsed().as_secs()), "{:?}", begun.elapsed());
    broadcast.wait_for_log("the sender is silent");
}

#[tokio::test]
async fn several_listens_share_one_broadcast() {
    let gateway = Gateway::open();
    let mut subscriber = Subscriber::subscribe(&gateway.broadcast, &["a"]).await;
    let Gateway { listen, broadcast, house } = gateway;
    let second = house.listen();
    second.wait_for_log("the link is up");
    for (number, listen) in [listen, second].into_iter().enumerate() {
        let body = format!(r#"{{"event":"a","data":{number}}}"#);
        let request = reqwest::Client::new().post(format!("{}/event", listen.url())).body(body);
        let authorization = format!("Basic {}", crate::gateway::TOKEN);
        let response = request.header("authorization", authorization).send().await.unwrap();
        assert_eq!(answer(response).await.0, 200);
        assert!(subscriber.hear().await.ends_with(&format!(r#""data":{number}}}"#)));
        assert!(listen.stop().success());
    }
    drop(broadcast);
}

#[tokio::test]
async fn whoever_comes_while_broadcast_is_away_waits_and_then_gets_503() {
    let house = House::new().set("PUBLISH_TIMEOUT", "1s");
    let Gateway { listen, broadcast, house } = house.open();
    assert!(broadcast.stop().success());
    listen.wait_for_log("the link is down");
    let begun = Instant::now();
    let url = format!("{}/event", listen.url());
    let request = reqwest::Client::new().post(url).body(r#"{"event":"a"}"#);
    let authorization = format!("Basic {}", crate::gateway::TOKEN);
    let response = request.header("authorization", authorization).send().await.unwrap();
    assert!(begun.elapsed() >= Duration::from_millis(950), "{:?}", begun.elapsed());
    assert_eq!(response.headers()["retry-after"], "1");
    // It was never sent: nothing is unknown about it.
    assert_eq!(answer(response).await, (503, r#"{"code":"UNAVAILABLE"}"#.to_owned()));
    let (status, body) = ask_admin(&listen, "/readyz").await;
    assert_eq!((status, body.contains("no link to broadcast")), (503, true), "{body}");
    drop(house);
}

#[tokio::test]
async fn whoever_comes_while_broadcast_restarts_is_held_and_answered_200() {
    let house = House::new().set("PUBLISH_TIMEOUT", "30s");
    let Gateway { listen, broadcast, house } = house.open();
    broadcast.kill();
    listen.wait_for_log("the link is down");
    let broadcast = Process::spawn("broadcast", &house.settings);
    let gateway = Gateway { listen, broadcast, house };
    let mut held = tokio::task::JoinSet::new();
    for number in 0..50 {
        let request = post(&gateway, format!(r#"{{"event":"a","data":{number}}}"#));
        held.spawn(async move { request.send().await.unwrap().status().as_u16() });
    }
    gateway.broadcast.wait_for_log("broadcast is open");
    let opened = Instant::now();
    while let Some(status) = held.join_next().await {
        assert_eq!(status.unwrap(), 200);
    }
    // HARDENING: 1 s; the rest is for a busy machine.
    assert!(opened.elapsed() < Duration::from_secs(3), "{:?}", opened.elapsed());
}

#[tokio::test]
async fn when_listen_is_killed_subscribers_notice_nothing() {
    let gateway = Gateway::open();
    let mut subscriber = Subscriber::subscribe(&gateway.broadcast, &["a"]).await;
    fire(&gateway, "a", "1").await;
    subscriber.hear().await;
    let Gateway { listen, broadcast, house } = gateway;
    listen.kill();
    subscriber.assert_nothing_came().await;
    let listen = house.listen();
    let opened = Instant::now();
    let gateway = Gateway { listen, broadcast, house };
    fire(&gateway, "a", "2").await;
    // HARDENING: half a second; the rest is for a busy machine.
    assert!(opened.elapsed() < Duration::from_secs(2), "{:?}", opened.elapsed());
    assert_eq!(subscriber.hear().await, r#"{"type":"event","event":"a","data":2}"#);
}
