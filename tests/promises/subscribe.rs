//! The native WebSocket (WIRE §1.2 to 1.4), row by row.

use crate::client::{Subscriber, fire};
use crate::gateway::Gateway;

#[tokio::test]
async fn an_event_reaches_who_subscribed_to_it_byte_for_byte() {
    let gateway = Gateway::open();
    let mut subscriber = Subscriber::subscribe(&gateway.broadcast, &["order.paid"]).await;
    fire(&gateway, "order.paid", r#"{"id": 7.00, "id":8}"#).await;
    let expected = r#"{"type":"event","event":"order.paid","data":{"id": 7.00, "id":8}}"#;
    assert_eq!(subscriber.hear().await, expected);
}
