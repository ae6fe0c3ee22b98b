use std::io::{Read as _, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};

use tokio::task::{LocalSet, spawn_local};

use super::*;
use crate::event::{EventType, Time};

fn event(id: &str) -> Event {
    Event {
        event_type: EventType::parse("a".to_owned()).unwrap(),
        data: None,
        id: id.into(),
        source: "/billing".into(),
        subject: None,
        time: Time::now(),
        publisher: "billing".into(),
    }
}

/// A broadcast in the hands of the test: what it does, it has done when the call returns.
struct Broadcast {
    stream: UnixStream,
}

impl Broadcast {
    async fn accept(listener: &UnixListener) -> Self {
        loop {
            if let Ok((stream, _)) = listener.accept() {
                stream.set_nonblocking(true).unwrap();
                let mut broadcast = Self { stream };
                let hello = Hello { version: VERSION, frame_bytes_max: 1 << 20 };
                broadcast.say(&[Frame::Hello(hello)]);
                return broadcast;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    fn say(&mut self, frames: &[Frame]) {
        let mut bytes = BytesMut::new();
        frames.iter().for_each(|frame| frame.encode(&mut bytes));
        self.stream.write_all(&bytes).unwrap();
    }

    /// Waits until an event with this id has come.
    async fn expect(&mut self, id: &str) {
        let mut heard = Vec::new();
        while !heard.windows(id.len()).any(|bytes| bytes == id.as_bytes()) {
            let mut bytes = [0; 4096];
            match self.stream.read(&mut bytes) {
                Ok(count) => heard.extend_from_slice(&bytes[..count]),
                Err(_) => tokio::time::sleep(Duration::from_millis(1)).await,
            }
        }
    }
}

#[tokio::test]
async fn a_broadcast_that_hangs_up_is_heard_out_before_its_link_is_given_up() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("link.sock");
    let listener = UnixListener::bind(&path).unwrap();
    listener.set_nonblocking(true).unwrap();
    let settings = Settings {
        address: LinkAddress::Unix(path),
        uids: Vec::new(),
        publish_timeout: Duration::from_secs(20),
        body_bytes_max: 1 << 20,
    };
    let local = LocalSet::new();
    let done = local.run_until(async move {
        let sender = Sender::start(settings, Memory::new(1 << 20), Arc::default());
        let send = |id: &str| {
            let (sender, event) = (sender.clone(), event(id));
            spawn_local(async move { sender.send(event).await })
        };
        let mut broadcast = Broadcast::accept(&listener).await;
        let (first, second) = (send("first"), send("second"));
        broadcast.expect("second").await;
        // The first was taken, the second was not; and before anybody has looked, a third comes,
        // which finds nobody to be written to.
        broadcast.say(&[Frame::Receipt(1), Frame::Goodbye]);
        drop(broadcast);
        let third = send("third");
        assert_eq!(first.await.unwrap(), Ok(Receipt));
        let mut broadcast = Broadcast::accept(&listener).await;
        broadcast.expect("third").await;
        // Numbers go on: two and three have become four and five.
        broadcast.say(&[Frame::Receipt(5)]);
        assert_eq!(second.await.unwrap(), Ok(Receipt));
        assert_eq!(third.await.unwrap(), Ok(Receipt));
    });
    tokio::time::timeout(Duration::from_secs(60), done).await.unwrap();
}
