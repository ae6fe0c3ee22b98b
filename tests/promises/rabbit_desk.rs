//! Another program at RabbitMQ: it puts messages into queues, and looks at them.

use lapin::options::{
    BasicConsumeOptions, BasicGetOptions, BasicPublishOptions, ConfirmSelectOptions,
    QueueBindOptions, QueueDeclareOptions, QueueDeleteOptions,
};
use lapin::protocol::{AMQPErrorKind, AMQPSoftError};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties, Consumer, ErrorKind};

/// A connection with a channel on which what is put is confirmed.
pub struct Desk {
    connection: Connection,
    channel: Channel,
}

impl Desk {
    /// Connects, which must succeed.
    pub async fn open(url: &str) -> Self {
        Self::try_open(url).await.unwrap()
    }

    /// Connects.
    pub async fn try_open(url: &str) -> lapin::Result<Self> {
        // A lone slash is no place for this client. Its buffers are as large as its frames.
        let url = format!("{url}%2f?frame_max=8192");
        let connection = Connection::connect(&url, ConnectionProperties::default()).await?;
        let channel = connection.create_channel().await?;
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
        Ok(Self { connection, channel })
    }

    /// Puts a text into a queue, which must be there.
    pub async fn put(&self, queue: &str, body: impl AsRef<[u8]>) {
        self.put_with(queue, BasicProperties::default(), body).await;
    }

    /// The same with what goes with it.
    pub async fn put_with(&self, queue: &str, with: BasicProperties, body: impl AsRef<[u8]>) {
        assert!(self.try_put(queue, with, body.as_ref()).await.unwrap(), "there is no {queue}");
    }

    /// Puts a lasting message into a queue, and waits for the confirmation. Whether there is one.
    pub async fn try_put(
        &self,
        queue: &str,
        with: BasicProperties,
        body: &[u8],
    ) -> lapin::Result<bool> {
        let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
        let with = with.with_delivery_mode(2);
        let put = self.channel.basic_publish("".into(), short(queue), options, body, with);
        let confirmation = put.await?.await?;
        Ok(confirmation.is_ack() && confirmation.take_message().is_none())
    }

    /// Makes a durable queue with these arguments.
    pub async fn declare(&self, queue: &str, arguments: &[(&str, AMQPValue)]) -> lapin::Result<()> {
        let mut table = FieldTable::default();
        for (name, value) in arguments {
            table.insert(short(name), value.clone());
        }
        // A refusal ends the channel.
        let channel = self.connection.create_channel().await?;
        let options = QueueDeclareOptions::durable();
        channel.queue_declare(short(queue), options, table).await.map(drop)
    }

    /// How many messages wait in a queue, and how many consumers it has; nothing if there is none.
    pub async fn look(&self, queue: &str) -> Option<(u32, u32)> {
        let channel = self.connection.create_channel().await.unwrap();
        let options = QueueDeclareOptions::default().passive();
        match channel.queue_declare(short(queue), options, FieldTable::default()).await {
            Ok(queue) => Some((queue.message_count(), queue.consumer_count())),
            Err(error) => match error.kind() {
                ErrorKind::ProtocolError(error)
                    if *error.kind() == AMQPErrorKind::Soft(AMQPSoftError::NOTFOUND) =>
                {
                    None
                }
                _ => panic!("{error}"),
            },
        }
    }

    /// Becomes a consumer of a queue, until it is dropped.
    pub async fn consume(&self, queue: &str) -> (Channel, Consumer) {
        let channel = self.connection.create_channel().await.unwrap();
        let options = BasicConsumeOptions::default();
        let consumer =
            channel.basic_consume(short(queue), "".into(), options, FieldTable::default());
        let consumer = consumer.await.unwrap();
        (channel, consumer)
    }

    /// Binds a queue to an exchange.
    pub async fn bind(&self, queue: &str, exchange: &str, key: &str) {
        let options = QueueBindOptions::default();
        let bound = self.channel.queue_bind(
            short(queue),
            short(exchange),
            short(key),
            options,
            FieldTable::default(),
        );
        bound.await.unwrap();
    }

    /// Gives an exchange a message.
    pub async fn publish(&self, exchange: &str, key: &str, body: &[u8]) {
        let (options, with) = (BasicPublishOptions::default(), BasicProperties::default());
        let put = self.channel.basic_publish(short(exchange), short(key), options, body, with);
        assert!(put.await.unwrap().await.unwrap().is_ack());
    }

    /// Removes a queue.
    pub async fn delete(&self, queue: &str) {
        let options = QueueDeleteOptions::default();
        self.channel.queue_delete(short(queue), options).await.unwrap();
    }

    /// Takes a message out of a queue.
    pub async fn take(&self, queue: &str) -> Option<Vec<u8>> {
        let options = BasicGetOptions { no_ack: true };
        let taken = self.channel.basic_get(short(queue), options).await.unwrap();
        taken.map(|taken| taken.delivery.data)
    }
}

fn short(text: &str) -> ShortString {
    ShortString::try_new(text).unwrap()
}
