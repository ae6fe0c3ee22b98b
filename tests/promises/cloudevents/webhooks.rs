//! The handshake of a webhook's sender (HTTP 1.1 Web Hooks for Event Delivery 1.0.2 §4).

use reqwest::{Method, Response};

use crate::gateway::{Gateway, House};

async fn ask(gateway: &Gateway, headers: &[(&str, &str)]) -> Response {
    let url = format!("{}/events", gateway.listen.url());
    let request = reqwest::Client::new().request(Method::OPTIONS, url);
    let request = headers.iter().fold(request, |it, (name, value)| it.header(*name, *value));
    let response = request.send().await.unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["allow"], "POST");
    response
}

fn header<'a>(response: &'a Response, name: &str) -> Option<&'a str> {
    response.headers().get(name).map(|it| it.to_str().unwrap())
}

#[tokio::test]
async fn a_sender_that_asks_may_come_and_is_told_how_often() {
    let free = Gateway::open();
    let limited = House::new().set("RATE_LIMIT", "100/s").open();
    let origin = ("WebHook-Request-Origin", "eventemitter.example.com");
    let questions = [
        vec![origin],
        vec![origin, ("WebHook-Request-Rate", "120")],
        vec![origin, ("WebHook-Request-Callback", "https://example.com/confirm?id=1&key=x")],
        vec![("webhook-request-ORIGIN", "eventemitter.example.com")],
        // A credential is not asked for, and a wrong one not judged.
        vec![origin, ("authorization", "Basic unknown-0123456789abcdef")],
    ];
    for question in &questions {
        for (gateway, rate) in [(&free, "*"), (&limited, "6000")] {
            let response = ask(gateway, question).await;
            let origin = header(&response, "webhook-allowed-origin");
            assert_eq!(origin, Some("eventemitter.example.com"), "{question:?}");
            assert_eq!(header(&response, "webhook-allowed-rate"), Some(rate), "{question:?}");
            assert_eq!(response.text().await.unwrap(), "");
        }
    }
}

#[tokio::test]
async fn without_an_origin_no_permission_is_given() {
    let gateway = Gateway::open();
    for question in [vec![], vec![("WebHook-Request-Rate", "120")]] {
        let response = ask(&gateway, &question).await;
        assert_eq!(header(&response, "webhook-allowed-origin"), None);
        assert_eq!(header(&response, "webhook-allowed-rate"), None);
    }
}
