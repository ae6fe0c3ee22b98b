//! The document of HTTP, held against what the doors do: each status of each operation is provoked,
//! and its answer judged by the document.

use std::collections::BTreeSet;

use futures_util::future::join_all;
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::client::Subscriber;
use crate::event_stream::{EventStream, ticket};
use crate::gateway::{Gateway, House, Process, TOKEN};
use crate::openapi_book::{Answer, Book, Operation, ask};
use crate::openapi_calls::{self as calls, Call};
use crate::pipely;
use crate::queue_stream::{QueueStream, ask_plainly};
use crate::specification::{ASYNCAPI, OPENAPI};
use crate::wire::{Wire, header_of, status, upgrade_request};

/// Of one event of a batch: that it alone passes what the link carries, and that the link is lost
/// right between two of them. No call from outside brings that about at will.
const UNPROVOKED: [(u16, &str); 3] =
    [(200, "BODY_TOO_LARGE"), (503, "BODY_TOO_LARGE"), (503, "OK")];

fn door<'a>(gateway: &'a Gateway, service: &str) -> Vec<&'a Process> {
    match service {
        "listen" => vec![&gateway.listen],
        "broadcast" => vec![&gateway.broadcast],
        _ => vec![&gateway.listen, &gateway.broadcast],
    }
}

/// A request without a credential or a body, in one piece.
fn plain(method: &str, path: &str) -> String {
    format!("{method} {path} HTTP/1.1\r\nHost: test\r\nContent-Length: 0\r\n\r\n")
}

async fn play_common(book: &mut Book) {
    let gateway = calls::house().set("MAX_BODY", "4KiB").open();
    let _alice = pipely::join(&gateway.broadcast, "alice", "secret").await;
    for call in calls::common() {
        for process in door(&gateway, call.service) {
            book.play(process, &call).await;
        }
    }
    // A ticket whose token goes.
    let ticket = ticket(&gateway.broadcast, calls::READER).await;
    let stream = EventStream::open_by(&gateway.broadcast, &ticket, "").await;
    gateway.house.write_tokens(&format!("{TOKEN} name=all\n# nobody else\n"));
    stream.ended().await;
    let target = format!("/events?ticket={ticket}&");
    let head = "Accept: text/event-stream\r\n";
    let gone = Call { target, status: 204, ..Call::get("broadcast", "/events").with(head) };
    book.play(&gateway.broadcast, &gone).await;
}

/// One queue with a consumer, where there can be no other.
async fn play_queues(book: &mut Book) {
    let gateway = calls::house().set("MAX_QUEUES", 1).set("QUEUE_PATTERN", "${query:id}").open();
    let broadcast = &gateway.broadcast;
    // The name that stands in the document's path, so that this can be asked for as it is.
    let held = QueueStream::open(broadcast, "id={name}").await;
    for call in crate::openapi_streams::queues() {
        book.play(broadcast, &call).await;
    }
    assert_eq!(held.ended().await, Vec::<String>::new());
    let ticket = ticket(broadcast, calls::READER).await;
    let query = format!("id=q&ticket={ticket}");
    let stream = QueueStream::of(ask_plainly(broadcast, &query)).await;
    gateway.house.write_tokens(&format!("{TOKEN} name=all\n# nobody else\n"));
    stream.ended().await;
    let gone = Call { status: 204, ..Call::get("broadcast", &format!("/queue?{query}")) };
    book.play(broadcast, &gone).await;
}

async fn play_origins(book: &mut Book) {
    let gateway = calls::house().set("ALLOWED_ORIGINS", "https://good.example").open();
    for call in calls::of_pages() {
        book.play(&gateway.broadcast, &call).await;
    }
}

/// No `broadcast`; and a token that asks too often.
async fn play_without_broadcast(book: &mut Book) {
    let listen = calls::house().set("PUBLISH_TIMEOUT", "100ms").set("RATE_LIMIT", "5/s").listen();
    for call in calls::without_broadcast() {
        book.play(&listen, &call).await;
    }
    for call in calls::too_often() {
        let path = call.target.clone();
        let of = (call.service.to_owned(), call.method.to_owned(), path);
        // The rate allows some at once.
        for round in 0.. {
            let answer = ask(&listen, "listen", "POST", &call.request()).await;
            book.check(&of, &answer);
            if status(&answer.head) == 429 {
                break;
            }
            assert!(round < 100, "never too often");
        }
    }
}

/// A `broadcast` that gives no receipts.
async fn play_without_receipts(book: &mut Book) {
    let gateway = calls::house().set("PUBLISH_TIMEOUT", "300ms").open();
    gateway.broadcast.signal(Signal::STOP);
    for call in calls::without_receipts() {
        book.play(&gateway.listen, &call).await;
    }
}

/// A door that is full says so to every request, whatever it asks for.
async fn play_full(book: &mut Book) {
    for (service, name) in [("listen", "listen"), ("broadcast", "broadcast")] {
        let house = calls::house();
        let process = Process::start_limited(name, &house.settings, 140);
        let mut kept = Vec::new();
        let operations = book.operations().into_iter().filter(|it| it.0 == service);
        for operation in operations {
            let (_, method, path) = &operation;
            let is_socket = matches!(path.as_str(), "/" | "/socket/websocket");
            let request = if is_socket { upgrade_request(path, "") } else { plain(method, path) };
            for round in 0.. {
                let mut wire = Wire::connect(&process).await;
                wire.send(&request).await;
                let head = wire.read_head().await;
                let length = header_of(&head, "content-length").map_or(0, |it| it.parse().unwrap());
                let length = if method == "HEAD" { 0 } else { length };
                let body = String::from_utf8(wire.read_exact(length).await).unwrap();
                if status(&head) == 503 {
                    book.check(&operation, &Answer { head, body });
                    break;
                }
                kept.push(wire);
                assert!(round < 140, "never full");
            }
        }
    }
}

/// Requests whose head ends only when `broadcast` is stopping.
async fn play_stopping(book: &mut Book) {
    let gateway = calls::house().set("WORKERS", 1).open();
    let session = Subscriber::subscribe(&gateway.broadcast, &["a"]).await;
    let operations: Vec<Operation> = book.operations().into_iter().collect();
    let operations = operations.iter().filter(|it| {
        it.0 == "broadcast" && book.operation(it).unwrap()["responses"].get("503").is_some()
    });
    let mut kept = Vec::new();
    for operation in operations.filter(|(_, method, _)| method != "HEAD") {
        let (_, method, path) = operation;
        let is_socket = matches!(path.as_str(), "/" | "/socket/websocket");
        let request = if is_socket { upgrade_request(path, "") } else { plain(method, path) };
        let mut wire = Wire::connect(&gateway.broadcast).await;
        let begun = request.strip_suffix("\r\n").unwrap().to_owned();
        wire.send(&begun).await;
        kept.push((operation, wire));
    }
    gateway.broadcast.signal(Signal::TERM);
    // Its worker takes nothing more when it has said so to its sessions.
    assert_eq!(session.closed().await.0, 1012);
    for (operation, mut wire) in kept {
        wire.send("\r\n").await;
        let (head, body) = wire.read_answer().await;
        book.check(operation, &Answer { head, body });
    }
}

/// Heads that are too large, or do not end.
async fn play_bad_heads(book: &mut Book) {
    let gateway = calls::house().open();
    let mut tries = Vec::new();
    for operation in book.operations() {
        for filling in [String::new(), "x".repeat(20_000)] {
            for process in door(&gateway, &operation.0) {
                let (service, method, path) = operation.clone();
                let filling = filling.clone();
                tries.push(async move {
                    let request = format!("{method} {path} HTTP/1.1\r\nHost: test\r\nX: {filling}");
                    // The answer comes from below the server, which does not know the method.
                    let answer = ask(process, &service, "", &request).await;
                    let expected = if filling.is_empty() { 408 } else { 431 };
                    assert_eq!(status(&answer.head), expected);
                    ((service, method, path), answer)
                });
            }
        }
    }
    for (operation, mut answer) in join_all(tries).await {
        if operation.1 == "HEAD" {
            answer.body.clear();
        }
        book.check(&operation, &answer);
    }
}

/// Bodies that were announced and do not come.
async fn play_slow_bodies(book: &mut Book) {
    let gateway = calls::house().open();
    let requests = calls::without_bodies();
    let tries = requests.iter().map(async |call| {
        let process = door(&gateway, call.service)[0];
        (call, ask(process, call.service, call.method, &call.head).await)
    });
    for (call, answer) in join_all(tries).await {
        assert_eq!(status(&answer.head), 408);
        let of = (call.service.to_owned(), call.method.to_owned(), call.target.clone());
        book.check(&of, &answer);
    }
}

#[tokio::test]
async fn every_documented_answer_is_given_as_documented() {
    let mut book = Book::open();
    play_common(&mut book).await;
    play_queues(&mut book).await;
    play_origins(&mut book).await;
    play_without_broadcast(&mut book).await;
    play_without_receipts(&mut book).await;
    play_full(&mut book).await;
    play_stopping(&mut book).await;
    play_slow_bodies(&mut book).await;
    play_bad_heads(&mut book).await;
    let mut missing = Vec::new();
    for of in book.operations() {
        for code in book.operation(&of).unwrap()["responses"].as_object().unwrap().keys() {
            let seen = (of.clone(), code.parse().unwrap());
            // On `/events` the same method is asked of both services, and each has its own answers.
            let is_others = of.1 == "OPTIONS"
                && of.2 == "/events"
                && (of.0 == "listen") != (code == "200")
                && !matches!(code.as_str(), "408" | "431" | "503");
            if !is_others && !book.seen.contains(&seen) {
                missing.push(seen);
            }
        }
    }
    assert!(missing.is_empty(), "never seen: {missing:#?}");
    let mut missing = book.missing_codes();
    for (status, code) in UNPROVOKED {
        missing.remove(&("POST /events".to_owned(), status, code.to_owned()));
    }
    assert!(missing.is_empty(), "never seen: {missing:#?}");
}

#[tokio::test]
async fn every_other_method_and_path_is_answered_as_documented() {
    const METHODS: [&str; 9] =
        ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "BREW"];
    let book = Book::open();
    let gateway = calls::house().open();
    let mut walked = 0;
    let paths = book.document["paths"].as_object().unwrap();
    let nothing = json!({});
    let others = ["/elsewhere", "/event/x", "/socket"].map(|path| (path, &nothing));
    for (path, item) in paths.iter().map(|(path, item)| (path.as_str(), item)).chain(others) {
        for service in ["listen", "broadcast", "admin"] {
            let other = &item["x-other-methods"][service];
            let expected =
                if other.is_null() { &book.document["x-other-paths"][service] } else { other };
            for method in METHODS {
                let of = (service.to_owned(), method.to_owned(), path.to_owned());
                if book.operation(&of).is_some() && service != "admin" || is_read(&of, item) {
                    continue;
                }
                for process in door(&gateway, service) {
                    let answer = ask(process, service, method, &plain(method, path)).await;
                    let what = format!("{service} {method} {path}: {}", answer.head);
                    assert_eq!(status(&answer.head), expected["status"], "{what}");
                    if let Some(allow) = expected["allow"].as_str() {
                        assert_eq!(header_of(&answer.head, "allow"), Some(allow), "{what}");
                    }
                    walked += 1;
                }
            }
        }
    }
    assert!(walked > 300, "only {walked}");
}

/// Whether it is what an operator's door gives.
fn is_read((service, method, _): &Operation, item: &Value) -> bool {
    let is_admins = item["x-other-methods"].get("admin").is_some();
    service == "admin" && is_admins && matches!(method.as_str(), "GET" | "HEAD")
}

/// The paths in the table of a source file, after `before` and up to the table's end.
fn paths_in(source: &str, table: &str, before: &str) -> BTreeSet<String> {
    let table = source.split(table).nth(1).unwrap().split("\n];").next().unwrap();
    let named = table.split(before).skip(1).filter_map(|rest| {
        let path = rest.split([',', ')']).next().unwrap().trim();
        match path {
            "documents::OPENAPI_PATH" => Some("/openapi.json".to_owned()),
            "documents::ASYNCAPI_PATH" => Some("/asyncapi.json".to_owned()),
            _ => Some(path.strip_prefix("\"/")?.strip_suffix('"').map(|it| format!("/{it}"))?),
        }
    });
    named.collect()
}

#[test]
fn every_route_is_documented_and_every_documented_path_is_a_route() {
    let book = Book::open();
    let documented = |service: &str| -> BTreeSet<String> {
        book.operations().into_iter().filter(|it| it.0 == service).map(|it| it.2).collect()
    };
    let listen = include_str!("../../listen/src/inputs.rs");
    let routes = paths_in(listen, "const ROUTES: &[Route] = &[", "path: ");
    assert_eq!(routes, documented("listen"));
    let broadcast = include_str!("../../broadcast/src/places.rs");
    let mut places = paths_in(broadcast, "const PLACES: &[(&str, Behind)] = &[", "\n    (");
    // Every path that nobody else has.
    places.insert("/".to_owned());
    // Where a setting says, and below the list.
    places.extend(["/queue", "/queues/{name}"].map(str::to_owned));
    assert_eq!(places, documented("broadcast"));
    let admin = include_str!("../../shared/src/admin.rs");
    for path in documented("admin") {
        assert!(admin.contains(&format!("\"{path}\" => ")), "{path}");
    }
}

#[tokio::test]
async fn both_doors_give_both_documents_to_everybody() {
    let gateway = House::new().open();
    for process in [&gateway.listen, &gateway.broadcast] {
        for (path, text) in [("/openapi.json", OPENAPI), ("/asyncapi.json", ASYNCAPI)] {
            let answer = ask(process, "", "GET", &plain("GET", path)).await;
            assert_eq!(status(&answer.head), 200);
            assert_eq!(answer.body, text);
        }
    }
}
