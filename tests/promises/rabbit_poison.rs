//! Messages that no library would put into RabbitMQ, and that the broker hands on as they are: they
//! harm nobody but themselves.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use serde_json::json;

use crate::gateway::House;
use crate::measures::until;
use crate::queue_stream::{QueueStream, data};
use crate::rabbit::Rabbit;
use crate::rabbit_desk::Desk;
use crate::replay::Replay;

/// AMQP 0-9-1 by hand: a publisher on its first channel.
struct Raw(TcpStream);

impl Raw {
    async fn open() -> Self {
        let url = Rabbit::shared().url();
        let address = url.rsplit('@').next().unwrap().trim_end_matches('/');
        let mut raw = Self(TcpStream::connect(address).await.unwrap());
        raw.0.write_all(b"AMQP\0\0\x09\x01").await.unwrap();
        raw.hear().await;
        let login = [&long(b"")[..], &short(b"PLAIN"), &long(b"\0guest\0guest"), &short(b"en_US")];
        raw.say(0, [10, 11], &login.concat()).await;
        raw.hear().await;
        raw.say(0, [10, 31], &[7, 255, 0, 2, 0, 0, 0, 0]).await;
        raw.say(0, [10, 40], &[&short(b"/")[..], &[0, 0]].concat()).await;
        raw.hear().await;
        raw.say(1, [20, 10], &[0]).await;
        raw.hear().await;
        raw
    }

    async fn frame(&mut self, kind: u8, channel: u8, payload: &[u8]) {
        let frame = [&[kind, 0, channel], &long(payload)[..], &[0xce]].concat();
        self.0.write_all(&frame).await.unwrap();
    }

    async fn say(&mut self, channel: u8, method: [u8; 2], arguments: &[u8]) {
        let [class, method] = method;
        self.frame(1, channel, &[&[0, class, 0, method], arguments].concat()).await;
    }

    /// Reads a frame.
    async fn hear(&mut self) {
        let mut header = [0; 7];
        self.0.read_exact(&mut header).await.unwrap();
        let size = u32::from_be_bytes(header[3..].try_into().unwrap());
        self.0.read_exact(&mut vec![0; size as usize + 1]).await.unwrap();
    }

    /// Publishes a number with these properties.
    async fn put(&mut self, exchange: &str, key: &[u8], properties: &(u16, Vec<u8>), body: u8) {
        let target = [&[0, 0], &short(exchange.as_bytes())[..], &short(key), &[0]].concat();
        self.say(1, [60, 40], &target).await;
        let (flags, properties) = properties;
        let size = [0, 60, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
        self.frame(2, 1, &[&size, &flags.to_be_bytes()[..], properties].concat()).await;
        self.frame(3, 1, &[body]).await;
    }
}

fn short(text: &[u8]) -> Vec<u8> {
    [&[u8::try_from(text.len()).unwrap()], text].concat()
}

fn long(bytes: &[u8]) -> Vec<u8> {
    [&u32::try_from(bytes.len()).unwrap().to_be_bytes()[..], bytes].concat()
}

/// Properties of which each would end the connection of who reads it strictly, or its process.
fn poison() -> Vec<(u16, Vec<u8>)> {
    let header = |key: &[u8], value: &[u8]| (0x2000, long(&[&short(key), value].concat()));
    let mut nested = Vec::from(b"V");
    for _ in 0..3_000 {
        nested = [&b"F"[..], &long(&[&short(b"")[..], &nested].concat())].concat();
    }
    vec![
        (0x8000, short(b"text/\xff\xfe")),
        (0x0080, short(b"id-\xff")),
        (0x0020, short(b"type-\xff")),
        header(b"k\xff", b"V"),
        header(b"k", &[&b"S"[..], &long(b"\xff")].concat()),
        header(b"k", b"s\xff\xff"),
        header(b"k", &nested),
    ]
}

#[tokio::test]
async fn a_message_of_odd_bytes_is_delivered_like_any_other_and_costs_no_connection() {
    let house = Rabbit::shared().house();
    let broadcast = house.broadcast();
    let mut stream = QueueStream::open(&broadcast, "id=odd").await;
    let desk = Desk::open(&Rabbit::shared().url()).await;
    desk.bind("odd", "amq.fanout", "").await;
    let mut raw = Raw::open().await;
    for (number, properties) in poison().iter().enumerate() {
        let digit = b'0' + u8::try_from(number).unwrap();
        raw.put("", b"odd", properties, digit).await;
        assert_eq!(stream.message().await, data(&number.to_string()), "{properties:?}");
    }
    raw.put("amq.fanout", b"key-\xff", &(0, Vec::new()), b'k').await;
    assert_eq!(stream.message().await, data("k"));
    assert!(!broadcast.log().contains("was lost"));
}

#[tokio::test]
async fn a_message_of_odd_bytes_stops_no_queue_that_is_a_way_in() {
    let house = House::new().set("AMQP_URLS", Rabbit::shared().url());
    let gateway = house.set("AMQP_CONSUME", "odd-in").open();
    let desk = Desk::open(&Rabbit::shared().url()).await;
    let consumed = async || (desk.look("odd-in").await?.1 == 1).then_some(());
    until("a queue that is consumed", consumed).await;
    let mut hearing = Replay::begin(&gateway.broadcast, &[">"], json!({})).await;
    let mut raw = Raw::open().await;
    for properties in poison() {
        raw.put("", b"odd-in", &properties, b'1').await;
    }
    raw.put("", b"odd-in", &(0, Vec::new()), b'7').await;
    while hearing.hear_event().await["data"] != 7 {}
    assert!(!gateway.listen.log().contains("was lost"));
    until("an empty queue", async || (desk.look("odd-in").await? == (0, 1)).then_some(())).await;
}
