//! The client against a server that misbehaves.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::time::{Duration, Instant};

use super::*;
use crate::contestant::plain_door;
use crate::dialect::Dialect;

/// A server that ends each connection after so many answers.
fn serve(answers: usize) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            for _ in 0..answers {
                if stream.read(&mut [0; 4096]).unwrap_or(0) == 0 {
                    break;
                }
                let answer = "HTTP/1.1 200 OK\r\nContent-Length: 13\r\n\r\n{\"code\":\"OK\"}";
                let _ = stream.write_all(answer.as_bytes());
            }
        }
    });
    address
}

/// Publishes one after the other until so many are acknowledged.
fn publish(address: SocketAddr, count: u64) -> anyhow::Result<u64> {
    let target = Target {
        name: "test",
        dialect: Dialect::Fanfare,
        publish: plain_door(address),
        subscribe: plain_door(address),
        authorization: None,
        pids: Vec::new(),
        session_pids: Vec::new(),
    };
    let mut client = Client::new(&target)?;
    client.connect_publishers(Shape { connections: 1, pipeline: 1, size: 1, kinds: 1 })?;
    let deadline = Instant::now() + Duration::from_secs(20);
    while client.tally().accepted < count {
        assert!(Instant::now() < deadline, "{:?}", client.tally());
        if client.publishers().room(0) > 0 {
            client.publishers().push(0, 0, 0);
            client.publishers().flush(0)?;
        }
        client.turn(TICK, &mut |_, _| {})?;
    }
    let tally = client.tally();
    assert_eq!(tally.kind(0).perhaps, tally.unanswered);
    Ok(tally.accepted)
}

#[test]
fn a_publisher_whose_connection_is_ended_goes_on_with_another() {
    assert_eq!(publish(serve(2), 9).unwrap(), 9);
}

#[test]
fn a_server_that_ends_every_connection_without_an_answer_is_given_up() {
    assert!(publish(serve(0), 1).is_err());
}
