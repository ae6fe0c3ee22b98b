//! Where CloudEvents end: methods, sizes, counts, encodings.

use std::io::Write as _;

use flate2::Compression;
use flate2::write::{GzEncoder, ZlibEncoder};
use reqwest::Method;

use crate::cloudevents::{Reader, STRUCTURED, answer, code, event, faulty, send, send_binary};
use crate::gateway::{Gateway, House, TOKEN};
use crate::wire::{Wire, status};

#[tokio::test]
async fn other_methods_are_told_which_there_are() {
    let gateway = Gateway::open();
    for method in ["GET", "HEAD", "PUT", "PATCH", "DELETE", "PROPFIND"] {
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        let url = format!("{}/events", gateway.listen.url());
        let request = reqwest::Client::new().request(method.clone(), url);
        let response = request.header("content-type", STRUCTURED).send().await.unwrap();
        assert_eq!(response.status(), 405, "{method}");
        let allowed: Vec<&str> =
            response.headers()["allow"].to_str().unwrap().split(", ").collect();
        assert!(allowed.contains(&"POST") && allowed.contains(&"OPTIONS"), "{allowed:?}");
        assert_eq!(response.headers()["content-type"], "application/json; charset=utf-8");
        let body = response.text().await.unwrap();
        let expected = if method == Method::HEAD { "" } else { r#"{"code":"METHOD_NOT_ALLOWED"}"# };
        assert_eq!(body, expected, "{method}");
    }
}

#[tokio::test]
async fn a_hundred_extensions_are_taken_and_one_more_is_a_fault() {
    let gateway = Gateway::open();
    let extensions = |count: usize| -> String {
        (0..count).map(|number| format!(r#","x{number}":{number}"#)).collect()
    };
    let (status, said) = answer(send(&gateway, STRUCTURED, event("i", &extensions(101)))).await;
    assert_eq!((status, faulty(&said)), (400, vec!["x100"]));
    assert_eq!(answer(send(&gateway, STRUCTURED, event("j", &extensions(100)))).await.0, 201);
    // The HTTP server takes 96 headers, and has some of its own use.
    let names: Vec<String> = (0..80).map(|number| format!("ce-x{number}")).collect();
    let headers: Vec<(&str, &[u8])> = names.iter().map(|name| (name.as_str(), &b"v"[..])).collect();
    assert_eq!(answer(send_binary(&gateway, &headers)).await.0, 201);
    let mut reader = Reader::open(&gateway).await;
    assert_eq!(reader.expect("j").await["x99"], 99);
    assert_eq!(reader.expect("i").await["x79"], "v");
}

#[tokio::test]
async fn faults_are_told_up_to_a_bound() {
    let gateway = Gateway::open();
    let faults: String = (0..5000).map(|number| format!(r#","X{number}":1"#)).collect();
    let (status, said) = answer(send(&gateway, STRUCTURED, event("i", &faults))).await;
    assert_eq!(status, 400);
    assert_eq!(faulty(&said).len(), 100);
    // Nor are more told of a single attribute.
    let (status, said) =
        answer(send(&gateway, STRUCTURED, event("i", &r#","x":1"#.repeat(5000)))).await;
    assert_eq!((status, faulty(&said)), (400, vec!["x"]));
    assert_eq!(said["errors"]["x"].as_array().unwrap().len(), 100);
}

#[tokio::test]
async fn a_head_of_64_kib_is_too_large_and_one_below_16_is_taken() {
    let gateway = Gateway::open();
    let request = |bytes: usize| {
        let value = "v".repeat(1000);
        let more: String =
            (0..bytes / 1000).map(|number| format!("ce-x{number}: {value}\r\n")).collect();
        format!(
            "POST /events HTTP/1.1\r\nHost: test\r\nAuthorization: Basic {TOKEN}\r\n\
             ce-specversion: 1.0\r\nce-id: i\r\nce-source: /s\r\nce-type: t\r\n{more}\
             Content-Length: 0\r\n\r\n"
        )
    };
    for bytes in [17_000, 64_000] {
        let (head, _) = Wire::exchange(&gateway.listen, request(bytes)).await;
        assert_eq!(status(&head), 431, "{bytes}: {head}");
    }
    let (head, _) = Wire::exchange(&gateway.listen, request(15_000)).await;
    assert_eq!(status(&head), 201, "{head}");
    let event = Reader::open(&gateway).await.expect("i").await;
    assert_eq!(event["x14"].as_str().unwrap().len(), 1000);
}

#[tokio::test]
async fn a_body_over_the_limit_is_too_large_in_every_mode() {
    let gateway = House::new().set("MAX_BODY", "4KiB").open();
    let too_large = (413, code("BODY_TOO_LARGE"));
    let data = "x".repeat(5000);
    let structured = event("i", &format!(r#","data":"{data}""#));
    for kind in [STRUCTURED, "application/json", "application/cloudevents-batch+json"] {
        assert_eq!(answer(send(&gateway, kind, structured.clone())).await, too_large, "{kind}");
    }
    let binary = send_binary(&gateway, &[("content-type", b"text/plain")]).body(data);
    assert_eq!(answer(binary).await, too_large);
    let headers = [("ce-id", &b"fits"[..]), ("content-type", b"text/plain")];
    let binary = send_binary(&gateway, &headers).body("x".repeat(4096));
    assert_eq!(answer(binary).await.0, 201);
    assert_eq!(Reader::open(&gateway).await.expect("fits").await["data"], "x".repeat(4096));
}

#[tokio::test]
async fn a_body_may_be_packed_and_is_measured_unpacked() {
    let gateway = House::new().set("MAX_BODY", "4KiB").open();
    let gzip = |text: &str| {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(text.as_bytes()).unwrap();
        encoder.finish().unwrap()
    };
    let deflate = |text: &str| {
        let mut encoder = ZlibEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(text.as_bytes()).unwrap();
        encoder.finish().unwrap()
    };
    let bomb = event("bomb", &format!(r#","data":"{}""#, "x".repeat(100_000)));
    let batch = format!("[{}]", event("batch", ""));
    let unsupported = code("UNSUPPORTED_MEDIA");
    let table = [
        (STRUCTURED, "gzip", gzip(&event("gzip", "")), 201, None),
        (STRUCTURED, "deflate", deflate(&event("deflate", "")), 201, None),
        (STRUCTURED, "identity", event("identity", "").into_bytes(), 201, None),
        ("application/cloudevents-batch+json", "gzip", gzip(&batch), 200, None),
        (STRUCTURED, "br", event("br", "").into_bytes(), 415, Some(unsupported.clone())),
        (STRUCTURED, "gzip, gzip", gzip(&event("two", "")), 415, Some(unsupported)),
        (STRUCTURED, "gzip", b"rubbish".to_vec(), 400, Some(code("INVALID_BODY"))),
        (STRUCTURED, "gzip", gzip(&bomb), 413, Some(code("BODY_TOO_LARGE"))),
    ];
    for (kind, encoding, body, status, expected) in table {
        let request = send(&gateway, kind, body).header("content-encoding", encoding);
        let (answered, said) = answer(request).await;
        assert_eq!(answered, status, "{encoding}: {said}");
        assert!(expected.is_none_or(|it| it == said), "{encoding}: {said}");
    }
    let headers = [("ce-id", &b"packed"[..]), ("content-type", b"text/plain")];
    let binary = send_binary(&gateway, &headers).header("content-encoding", "gzip");
    assert_eq!(answer(binary.body(gzip("data"))).await.0, 201);
    let mut reader = Reader::open(&gateway).await;
    for id in ["gzip", "deflate", "identity", "batch"] {
        reader.expect(id).await;
    }
    assert_eq!(reader.expect("packed").await["data"], "data");
}

#[tokio::test]
async fn what_cannot_be_kept_now_may_come_again() {
    let gateway = House::new().set("PUBLISH_TIMEOUT", "300ms").open();
    let Gateway { listen, broadcast, house: _house } = gateway;
    broadcast.kill();
    let post = |kind: &str, body: String| {
        let request = reqwest::Client::new().post(format!("{}/events", listen.url()));
        let request = request.header("authorization", format!("Basic {TOKEN}"));
        request.header("content-type", kind.to_owned()).body(body)
    };
    for kind in [STRUCTURED, "application/json"] {
        let response = post(kind, event("i", "")).send().await.unwrap();
        assert!(response.headers().contains_key("retry-after"), "{kind}");
        let (status, said) = crate::cloudevents::read(response).await;
        assert_eq!((status, &said["code"]), (503, &"UNAVAILABLE".into()), "{kind}: {said}");
    }
    let body = format!(r#"[{},{{"id":"bad"}}]"#, event("i", ""));
    let response = post("application/cloudevents-batch+json", body).send().await.unwrap();
    assert!(response.headers().contains_key("retry-after"));
    let (status, said) = crate::cloudevents::read(response).await;
    // A success is said of what is kept alone.
    assert_eq!(status, 503, "{said}");
    let codes = [&said[0]["code"], &said[1]["code"]];
    assert_eq!(codes, ["UNAVAILABLE", "INVALID"], "{said}");
}

#[tokio::test]
async fn who_comes_too_often_is_told_when_to_come_again() {
    let gateway = House::new().set("RATE_LIMIT", "1/s").open();
    let refused = loop {
        let response = send(&gateway, STRUCTURED, event("i", "")).send().await.unwrap();
        if response.status() != 201 {
            break response;
        }
    };
    assert!(refused.headers().contains_key("retry-after"));
    assert_eq!(crate::cloudevents::read(refused).await, (429, code("RATE_LIMITED")));
}
