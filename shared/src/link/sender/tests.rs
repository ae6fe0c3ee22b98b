use std::io::{Read as _, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};

use bytes::BytesMut;
use tokio::task::{JoinHandle, LocalSet, spawn_local};
use tokio_util::codec::Decoder as _;

use super::*;
use crate::event::Time;
use crate::link::Receipt;
use crate::link::frame::{self, Account, Frame, Hello, Request, VERSION};

const WITH_ACCOUNT: Terms = Terms { may_be_retry: false, wants_account: true };

fn event(id: &str) -> Event {
    Event {
        event_type: EventType::parse("a".to_owned()).unwrap(),
        data: None,
        id: id.into(),
        source: "/billing".into(),
        subject: None,
        time: Time::now(),
        publisher: "billing".into(),
        attributes: None,
    }
}

/// A broadcast in the hands of the test: what it does, it has done when the call returns.
struct Broadcast {
    stream: UnixStream,
    read: BytesMut,
}

impl Broadcast {
    async fn accept(listener: &UnixListener) -> Self {
        loop {
            if let Ok((stream, _)) = listener.accept() {
                stream.set_nonblocking(true).unwrap();
                let mut broadcast = Self { stream, read: BytesMut::new() };
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

    /// Waits for the next frame, but for the hello.
    async fn hear(&mut self) -> Frame {
        loop {
            let frame = frame::splitter(1 << 20).decode(&mut self.read).unwrap();
            match frame.map(|bytes| Frame::decode(bytes.freeze()).unwrap()) {
                Some(Frame::Hello(_)) => {}
                Some(frame) => return frame,
                None => self.fill().await,
            }
        }
    }

    /// Waits for the next frame, which must be an event; says its number.
    async fn expect(&mut self, id: &str) -> u64 {
        match self.hear().await {
            Frame::Event(number, _, event) if event.id == id => number,
            other => panic!("not the event {id} but {other:?}"),
        }
    }

    async fn fill(&mut self) {
        let mut bytes = [0; 4096];
        match self.stream.read(&mut bytes) {
            Ok(0) => panic!("listen has hung up"),
            Ok(count) => self.read.extend_from_slice(&bytes[..count]),
            Err(_) => tokio::time::sleep(Duration::from_millis(1)).await,
        }
    }
}

/// A sender, and the place where its broadcast is to be.
struct Listen {
    sender: Sender,
    listener: UnixListener,
    _folder: tempfile::TempDir,
}

impl Listen {
    fn start() -> Self {
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
        let sender = Sender::start(settings, Memory::new(1 << 20), Arc::default());
        Self { sender, listener, _folder: folder }
    }

    async fn accept(&self) -> Broadcast {
        Broadcast::accept(&self.listener).await
    }

    fn send(&self, id: &str, terms: Terms) -> JoinHandle<Result<Receipt, LinkError>> {
        let (sender, event) = (self.sender.clone(), event(id));
        spawn_local(async move { sender.send(event, terms)?.await })
    }

    fn count(&self, bytes: usize) -> JoinHandle<Result<u32, LinkError>> {
        let (sender, event_type) = (self.sender.clone(), EventType::parse("a").unwrap());
        spawn_local(async move { sender.count(event_type, bytes).await })
    }
}

async fn run(test: impl Future<Output = ()>) {
    let local = LocalSet::new();
    tokio::time::timeout(Duration::from_secs(60), local.run_until(test)).await.unwrap();
}

#[tokio::test]
async fn a_broadcast_that_hangs_up_is_heard_out_before_its_link_is_given_up() {
    run(async {
        let listen = Listen::start();
        let send = |id: &str| listen.send(id, Terms::default());
        let mut broadcast = listen.accept().await;
        let (first, second) = (send("first"), send("second"));
        broadcast.expect("first").await;
        broadcast.expect("second").await;
        // The first was taken, the second was not; and before anybody has looked, a third comes,
        // which finds nobody to be written to.
        broadcast.say(&[Frame::Receipt(1), Frame::Goodbye]);
        drop(broadcast);
        let third = send("third");
        assert_eq!(first.await.unwrap(), Ok(Receipt { account: None }));
        let mut broadcast = listen.accept().await;
        // Numbers go on: two and three have become four and five.
        assert_eq!(broadcast.expect("second").await, 4);
        assert_eq!(broadcast.expect("third").await, 5);
        broadcast.say(&[Frame::Receipt(5)]);
        assert_eq!(second.await.unwrap(), Ok(Receipt { account: None }));
        assert_eq!(third.await.unwrap(), Ok(Receipt { account: None }));
    })
    .await;
}

#[tokio::test]
async fn a_broadcast_that_says_hello_and_goodbye_at_once_has_taken_nothing() {
    run(async {
        let listen = Listen::start();
        let first = listen.send("first", Terms::default());
        for _ in 0..2 {
            // It stops while it is being connected to, and leaves unread what it was sent.
            let mut stopping = listen.accept().await;
            stopping.say(&[Frame::Goodbye]);
        }
        let mut broadcast = listen.accept().await;
        let number = broadcast.expect("first").await;
        broadcast.say(&[Frame::Receipt(number)]);
        assert_eq!(first.await.unwrap(), Ok(Receipt { account: None }));
    })
    .await;
}

#[tokio::test]
async fn an_account_reaches_its_publisher_and_a_broken_link_leaves_the_rest_undecided() {
    run(async {
        let listen = Listen::start();
        let mut broadcast = listen.accept().await;
        let (first, second) = (listen.send("1", WITH_ACCOUNT), listen.send("2", WITH_ACCOUNT));
        broadcast.expect("1").await;
        broadcast.expect("2").await;
        let account = Account { cursor: "k3f9a2-1842".into(), matched: 3 };
        broadcast.say(&[Frame::Receipt(2), Frame::Account(1, account.clone())]);
        assert_eq!(first.await.unwrap(), Ok(Receipt { account: Some(account) }));
        drop(broadcast);
        assert_eq!(second.await.unwrap(), Err(LinkError::Undecided));
    })
    .await;
}

#[tokio::test]
async fn a_question_outlives_its_link_and_is_answered_on_the_next() {
    run(async {
        let listen = Listen::start();
        let mut broadcast = listen.accept().await;
        let count = listen.count(10);
        let request = Request::Count(EventType::parse("a").unwrap());
        assert_eq!(broadcast.hear().await, Frame::Request(1, request.clone()));
        drop(broadcast);
        let mut broadcast = listen.accept().await;
        assert_eq!(broadcast.hear().await, Frame::Request(2, request));
        broadcast.say(&[Frame::Answer(2, 7)]);
        assert_eq!(count.await.unwrap(), Ok(7));
        // This broadcast takes frames of 1 MiB.
        let count = listen.count(1 << 20);
        assert!(matches!(broadcast.hear().await, Frame::Request(3, _)));
        broadcast.say(&[Frame::Answer(3, 7)]);
        assert_eq!(count.await.unwrap(), Err(LinkError::TooLarge));
    })
    .await;
}
