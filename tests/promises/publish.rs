//! `POST /event` (WIRE §1.1), row by row.

use crate::client::{answer, post};
use crate::gateway::Gateway;

#[tokio::test]
async fn an_event_is_accepted() {
    let gateway = Gateway::open();
    let response = post(&gateway, r#"{"event":"order.paid","data":{"id":7}}"#).send().await;
    assert_eq!(answer(response.unwrap()).await, (200, r#"{"code":"OK"}"#.to_owned()));
}
