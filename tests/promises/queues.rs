//! `GET /queue` (WIRE 7): names, bytes, headers and refusals of a durable queue in the log.

use serde_json::{Value, json};

use crate::client::{answer, code, fire, post};
use crate::gateway::{Gateway, House, Process, TOKEN};
use crate::queue_stream::{
    INVALID, MISSING, QueueStream, TAKEN, ask, ask_plainly, data, listed, make, refusal,
    wait_for_listing,
};
use crate::wire::{Wire, header_of, status};

/// A request on a plain socket.
fn request(method: &str, target: &str, more: &str) -> String {
    format!("{method} {target} HTTP/1.1\r\nHost: test\r\n{more}\r\n")
}

fn authorized(method: &str, target: &str, more: &str) -> String {
    request(method, target, &format!("Authorization: Basic {TOKEN}\r\n{more}"))
}

/// Fires CloudEvents.
async fn fire_events(gateway: &Gateway, events: Value) {
    let request = reqwest::Client::new().post(format!("{}/events", gateway.listen.url()));
    let request = request.header("authorization", format!("Basic {TOKEN}"));
    let request = request.header("content-type", "application/cloudevents-batch+json");
    assert_eq!(request.body(events.to_string()).send().await.unwrap().status(), 200);
}

#[tokio::test]
async fn a_queues_stream_is_on_the_wire_byte_for_byte_what_eventsourced_wrote() {
    let gateway = Gateway::open();
    let mut wire = Wire::connect(&gateway.broadcast).await;
    wire.send(authorized("GET", "/queue?id=wall", "")).await;
    let head = wire.read_head().await;
    let mut lines: Vec<_> = head.trim_end().lines().map(str::to_lowercase).collect();
    assert_eq!(lines.remove(0), "http/1.1 200 ok");
    lines.retain(|line| !line.starts_with("date: "));
    lines.sort();
    let due = [
        "cache-control: no-cache, no-transform",
        "connection: close",
        "content-type: text/event-stream; charset=utf-8",
        "transfer-encoding: chunked",
        "x-accel-buffering: no",
    ];
    assert_eq!(lines, due);
    for (fired, chunk) in [
        (None, "E\r\n: SSE stream\n\n\r\n"),
        (Some("7"), "9\r\ndata: 7\n\n\r\n"),
        (Some(r#"{"a": 1.50,"a":2}"#), "19\r\ndata: {\"a\": 1.50,\"a\":2}\n\n\r\n"),
    ] {
        if let Some(fired) = fired {
            fire(&gateway, "any.type", fired).await;
        }
        let bytes = wire.read_exact(chunk.len()).await;
        assert_eq!(String::from_utf8(bytes).unwrap(), chunk);
    }
}

#[tokio::test]
async fn blanks_and_line_ends_are_what_eventsourced_made_of_them() {
    let gateway = Gateway::open();
    let mut stream = QueueStream::open(&gateway.broadcast, "id=q").await;
    let table = [
        ("{\"a\":1}", "data: {\"a\":1}\n\n"),
        ("two\nlines\n\n", "data: two\ndata: lines\n\n"),
        ("cr\r\nlf\rx", "data: cr\ndata: lfx\n\n"),
        ("", "data: \n\n"),
        ("  \n ", "data: \n\n"),
        ("   sp  ", "data: sp\n\n"),
        ("\ttab\t", "data: \ttab\t\n\n"),
        ("\n\na\n\nb", "data: a\ndata: \ndata: b\n\n"),
    ];
    // The last is cut by its own empty line in no way that a reader of blocks would see.
    for (number, (text, block)) in table.into_iter().enumerate() {
        let event = json!([{"specversion": "1.0", "id": number.to_string(), "source": "/s",
            "type": "a", "datacontenttype": "text/plain", "data": text}]);
        fire_events(&gateway, event).await;
        assert_eq!(stream.message().await, block, "{text:?}");
    }
}

#[tokio::test]
async fn data_are_themselves_and_bytes_are_base64() {
    let gateway = Gateway::open();
    let mut stream = QueueStream::open(&gateway.broadcast, "id=q&type=a").await;
    let mut whole =
        QueueStream::open(&gateway.broadcast, "id=w&type=a&format=cloudevents&cursor=true").await;
    let event = |id: &str| json!({"specversion": "1.0", "id": id, "source": "/s", "type": "a"});
    let with = |id: &str, kind: &str, name: &str, value: &str| {
        let mut event = event(id);
        (event["datacontenttype"], event[name]) = (json!(kind), json!(value));
        event
    };
    let mut number = event("1");
    number["data"] = json!({"n": 1});
    fire_events(
        &gateway,
        json!([
            number,
            with("2", "text/plain", "data", "two\nlines"),
            with("3", "application/octet-stream", "data_base64", "AAEC"),
            event("4"),
        ]),
    )
    .await;
    let due = [
        data(r#"{"n":1}"#),
        "data: two\ndata: lines\n\n".to_owned(),
        data("AAEC"),
        "data: \n\n".to_owned(),
    ];
    assert_eq!(stream.messages(4).await, due);
    // The whole events are those of every other way out.
    let page = crate::event_stream::get(&gateway.broadcast, "type=a").send().await.unwrap();
    let page: Vec<Value> = serde_json::from_str(&page.text().await.unwrap()).unwrap();
    assert_eq!(page.len(), 4);
    for event in page {
        let cursor = event["cursor"].as_str().unwrap();
        let message = whole.message().await;
        let json = message.strip_prefix(&format!("id: {cursor}\ndata: ")).unwrap();
        assert_eq!(serde_json::from_str::<Value>(json).unwrap(), event);
    }
}

#[tokio::test]
async fn a_quiet_queue_has_a_comment_every_15_seconds() {
    let gateway = Gateway::open();
    let mut stream = QueueStream::open(&gateway.broadcast, "id=q").await;
    assert_eq!(stream.block().await.as_deref(), Some(":\n\n"));
}

#[tokio::test]
async fn a_queue_is_named_by_its_query_and_cookies() {
    for (pattern, query, cookie, name) in [
        ("${query:id}", "id=a%20b%2Fc+%C3%BC&id=second", "", "a b/c ü"),
        (" ${query : oid }\n-${cookie:sid} ", "oid=ABC", "x=1; sid=123", "ABC-123"),
        ("queue-${query:id}-${cookie:sid}-name", "id=1", "sid=\"3\"", "queue-1-3-name"),
        ("fixed", "", "", "fixed"),
    ] {
        let gateway = House::new().set("QUEUE_PATTERN", pattern).open();
        let stream = QueueStream::of(ask(&gateway.broadcast, query).header("cookie", cookie)).await;
        assert_eq!(listed(&gateway.broadcast).await[0]["name"], name);
        drop(stream);
    }
}

#[tokio::test]
async fn what_names_no_queue_is_refused_with_a_reason() {
    let long = format!("id={}", "x".repeat(256));
    let longest = format!("id={}", "x".repeat(255));
    let pattern = "${query:id}-${cookie:sid}-n";
    for (pattern, query, cookie, refused) in [
        ("${query:id}", "", "", Some(MISSING)),
        ("${query:id}", "id=", "", Some(MISSING)),
        ("${query:id}", "ID=x", "", Some(MISSING)),
        (pattern, "id=1", "", Some(MISSING)),
        (pattern, "", "sid=1", Some(MISSING)),
        (pattern, "id=1", "sid=", Some(MISSING)),
        ("${query:id}", "id=amq.x", "", Some(INVALID)),
        ("${query:id}", "id=aMq.", "", Some(INVALID)),
        ("${query:id}", &long, "", Some(INVALID)),
        ("${query:id}", &longest, "", None),
        ("${query:id}", "id=amqp", "", None),
    ] {
        let gateway = House::new().set("QUEUE_PATTERN", pattern).open();
        let response = ask(&gateway.broadcast, query).header("cookie", cookie);
        let response = response.send().await.unwrap();
        match refused {
            Some(refused) => assert_eq!(refusal(response).await, refused, "{pattern} {query}"),
            None => assert_eq!(response.status(), 200, "{query}"),
        }
    }
}

#[tokio::test]
async fn a_query_that_cannot_be_answered_is_refused_and_makes_no_queue() {
    let gateway = House::new().set("MAX_PATTERNS", 2).open();
    for (query, last_event_id, told) in [
        ("id=q&type=", "", "INVALID_EVENTS"),
        ("id=q&type=a&type=b&type=c", "", "TOO_MANY_EVENTS"),
        ("id=q&format=xml", "", "INVALID_REQUEST"),
        ("id=q&cursor=1", "", "INVALID_REQUEST"),
        ("id=q&cursor=true", "nonsense", "INVALID_RESUME"),
    ] {
        let request = ask(&gateway.broadcast, query).header("last-event-id", last_event_id);
        assert_eq!(answer(request.send().await.unwrap()).await, (400, code(told)), "{query}");
    }
    assert_eq!(listed(&gateway.broadcast).await, Vec::<Value>::new());
    // Without places on the wire that header is none of ours.
    QueueStream::of(ask(&gateway.broadcast, "id=q").header("last-event-id", "nonsense")).await;
}

#[tokio::test]
async fn options_are_204_and_other_methods_405() {
    let gateway = Gateway::open();
    // Whoever asks, and whatever for.
    for target in ["/queue", "/queue?id=q", "/Queue/"] {
        let (head, _) = Wire::exchange(&gateway.broadcast, request("OPTIONS", target, "")).await;
        assert_eq!((status(&head), header_of(&head, "allow")), (204, None), "{head}");
    }
    for method in ["HEAD", "POST", "PUT", "DELETE", "PATCH"] {
        let mut wire = Wire::connect(&gateway.broadcast).await;
        wire.send(authorized(method, "/queue?id=q", "Content-Length: 0\r\n")).await;
        let head = wire.read_head().await;
        assert_eq!(status(&head), 405, "{method}");
        assert_eq!(header_of(&head, "allow"), Some("GET, OPTIONS"), "{method}");
    }
    let upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                   Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n";
    let (head, _) =
        Wire::exchange(&gateway.broadcast, authorized("GET", "/queue?id=q", upgrade)).await;
    assert_eq!(status(&head), 400);
    assert_eq!(listed(&gateway.broadcast).await, Vec::<Value>::new());
}

/// Of each kind: a stream, every refusal of this page, a preflight, another method.
#[tokio::test]
async fn every_answer_says_whose_pages_may_read_it_and_none_does_by_default() {
    const CORS: [&str; 3] = [
        "access-control-allow-origin",
        "access-control-allow-methods",
        "access-control-allow-headers",
    ];
    let allowed = "Content-Type, Accept, Cache-Control";
    for origin in [None, Some("*"), Some("https://good.example")] {
        let house = House::new().set("MAX_QUEUES", 1);
        let house = match origin {
            Some(origin) => house.set("CORS_ALLOW_ORIGIN", origin),
            None => house,
        };
        let gateway = house.open();
        let url = format!("{}/queue", gateway.broadcast.url());
        let (client, page) = (reqwest::Client::new(), ("origin", "https://good.example"));
        let held = ask(&gateway.broadcast, "id=q").header(page.0, page.1).send().await.unwrap();
        let mut answers = vec![(200, held)];
        for (status, request) in [
            (503, ask(&gateway.broadcast, "id=q")),
            (503, ask(&gateway.broadcast, "id=other")),
            (503, ask(&gateway.broadcast, "")),
            (503, ask(&gateway.broadcast, "id=amq.x")),
            (401, ask_plainly(&gateway.broadcast, "id=q")),
            (400, ask(&gateway.broadcast, "id=q&type=")),
            (204, client.request(reqwest::Method::OPTIONS, &url)),
            (405, client.post(&url)),
            (405, client.head(&url)),
        ] {
            answers.push((status, request.header(page.0, page.1).send().await.unwrap()));
        }
        let due = origin.map(|origin| [origin, "GET, OPTIONS", allowed]);
        for (status, answer) in answers {
            assert_eq!(answer.status(), status);
            let told = CORS.map(|name| answer.headers().get(name).map(|it| it.to_str().unwrap()));
            assert_eq!(told, due.map_or([None; 3], |due| due.map(Some)), "{status} {origin:?}");
        }
        // Of nothing but queues.
        let healthz = reqwest::get(format!("{}/healthz", gateway.broadcast.url())).await.unwrap();
        assert!(healthz.headers().get(CORS[0]).is_none());
    }
}

#[tokio::test]
async fn headers_of_the_stream_are_set_or_replaced() {
    let headers = "Cache-Control: no-cache | X-Served-By: fanfare|";
    let gateway = House::new().set("QUEUE_HEADERS", headers).open();
    let stream = QueueStream::open(&gateway.broadcast, "id=q").await;
    assert_eq!(stream.header("cache-control"), Some("no-cache"));
    assert_eq!(stream.header("x-served-by"), Some("fanfare"));
    assert_eq!(stream.header("x-accel-buffering"), Some("no"));
    let refused = ask(&gateway.broadcast, "id=q").send().await.unwrap();
    assert!(refused.headers().get("x-served-by").is_none());
    assert_eq!(refusal(refused).await, TAKEN);
}

#[tokio::test]
async fn queues_are_where_the_setting_says() {
    for (place, targets) in [
        ("/sse/stream", vec!["/sse/stream", "/SSE/stream/"]),
        // As eventsourced: whatever nothing else has.
        ("/", vec!["/", "/any/path", "/queue"]),
    ] {
        let gateway = House::new().set("QUEUE_PATH", place).open();
        let url = gateway.broadcast.url();
        let get = |target: &str| {
            let request = reqwest::Client::new().get(format!("{url}{target}"));
            request.header("authorization", format!("Basic {TOKEN}"))
        };
        for (number, target) in targets.iter().enumerate() {
            QueueStream::of(get(&format!("{target}?id={number}"))).await;
        }
        assert_eq!(listed(&gateway.broadcast).await.len(), targets.len());
        // WebSockets are where they were.
        let mut subscriber = crate::client::Subscriber::subscribe(&gateway.broadcast, &["a"]).await;
        fire(&gateway, "a", "1").await;
        assert_eq!(subscriber.hear().await, crate::client::event("a", "1"));
        let elsewhere = get("/healthz").send().await.unwrap();
        assert_eq!(elsewhere.status(), 200);
        if place != "/" {
            assert_eq!(get("/queue?id=q").send().await.unwrap().status(), 426);
        }
    }
}

#[tokio::test]
async fn queues_are_listed_with_what_waits_in_them() {
    let gateway = House::new().set("QUEUE_EXPIRES", 3600).open();
    make(&gateway, "b", "type=a.*&type=x").await;
    let _stream = QueueStream::open(&gateway.broadcast, "id=a").await;
    for event_type in ["a.b", "x", "y"] {
        assert_eq!(
            post(&gateway, format!(r#"{{"event":"{event_type}"}}"#)).send().await.unwrap().status(),
            200
        );
    }
    wait_for_listing(&gateway.broadcast, "a", &[("events", 0)]).await;
    let listed = listed(&gateway.broadcast).await;
    let [first, second] = [&listed[0], &listed[1]];
    assert_eq!((&first["name"], &second["name"]), (&json!("a"), &json!("b")));
    assert_eq!((&first["types"], &second["types"]), (&json!([">"]), &json!(["a.*", "x"])));
    assert_eq!((&first["consumers"], &second["consumers"]), (&json!(1), &json!(0)));
    assert_eq!((&second["events"], &second["dropped"]), (&json!(2), &json!(0)));
    assert!(second["bytes"].as_u64().unwrap() > 0 && first["bytes"] == 0);
    assert!(first.get("expires_in").is_none());
    let left: u64 =
        second["expires_in"].as_str().unwrap().strip_suffix('s').unwrap().parse().unwrap();
    assert!((3000..=3600).contains(&left), "{left}");
    assert!(crate::history::Cursor::parse(first["cursor"].as_str().unwrap()).is_some());
    gateway.broadcast.wait_for_metric("fanfare_queues", 2.0).await;
}

#[test]
fn a_path_of_queues_that_is_taken_stops_the_process() {
    for path in ["/events", "/Tickets/", "/queues", "/queues/x", "/socket/websocket", "queue"] {
        let house = House::new().set("QUEUE_PATH", path);
        let (ended, log) = Process::try_start("broadcast", &house.settings).err().unwrap();
        assert_eq!(ended.code(), Some(78), "{path}");
        assert!(log.contains("QUEUE_PATH") || log.contains("--queue-path"), "{log}");
    }
}
