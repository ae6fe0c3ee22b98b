//! Who takes the messages of one queue in RabbitMQ, one after the other.

use std::sync::Arc;

use futures_util::{FutureExt as _, StreamExt as _};
use lapin::Acker;
use lapin::options::BasicAckOptions;
use shared::amqp::Lane;
use tokio::sync::Notify;

use crate::broker::Sitting;
use crate::disconnect::Disconnect;

/// The consumer of a queue. While it lives nobody else is let in.
#[derive(Debug)]
pub struct Consumer {
    deliveries: lapin::Consumer,
    given: Option<Acker>,
    // The channel goes before the seat is free: fields are dropped in this order.
    #[expect(dead_code, reason = "the channel, until it is dropped")]
    lane: Lane,
    sitting: Sitting,
}

/// A message.
#[derive(Debug)]
pub struct Message {
    /// Whether it may have been given to a consumer before.
    pub is_redelivered: bool,
    /// Its body.
    pub body: Vec<u8>,
}

impl Consumer {
    /// Takes what is delivered on a channel.
    pub(super) fn new(deliveries: lapin::Consumer, lane: Lane, sitting: Sitting) -> Self {
        Self { deliveries, given: None, lane, sitting }
    }

    /// Told when the consumer is to look whether it may stay.
    pub fn look(&self) -> Arc<Notify> {
        self.sitting.look()
    }

    /// The next message, when there is one. What was given before is to be acknowledged first.
    ///
    /// # Errors
    ///
    /// [`Disconnect`]: the queue was removed, or the broker is gone.
    pub async fn next(&mut self) -> Result<Message, Disconnect> {
        match self.deliveries.next().await {
            Some(Ok(delivery)) => {
                self.given = Some(delivery.acker);
                Ok(Message { is_redelivered: delivery.redelivered, body: delivery.data })
            }
            Some(Err(_)) | None => Err(Disconnect::TryAgainLater),
        }
    }

    /// What was given last is written to the client.
    ///
    /// # Errors
    ///
    /// The broker is gone, and will give it again.
    pub async fn acknowledge(&mut self) -> Result<(), Disconnect> {
        let Some(given) = self.given.take() else { return Ok(()) };
        match given.ack(BasicAckOptions::default()).await {
            Ok(true) => Ok(()),
            Ok(false) | Err(_) => Err(Disconnect::TryAgainLater),
        }
    }

    /// The same, without waiting.
    pub fn settle(&mut self) {
        if let Some(given) = self.given.take() {
            // It is put in front of the end of the channel, or there is no channel any more.
            let _ = given.ack(BasicAckOptions::default()).now_or_never();
        }
    }
}
