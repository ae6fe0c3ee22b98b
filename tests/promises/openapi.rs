//! The document of HTTP, held against what the doors do: each status of each operation is provoked,
//! and its answer judged by the document.

use std::collections::BTreeSet;

use futures_util::future::join_all;
use jsonschema::Draft;
use serde_json::{Value, json};
use tokio::net::TcpStream;

use crate::gateway::{Gateway, House, Process, TOKEN};
use crate::openapi_calls::{self as calls, Call};
use crate::specification::{OPENAPI, faults, judge, read};
use crate::wire::{Wire, header_of, status, upgrade_request};

/// Headers that belong to the transport, and to no operation.
const TRANSPORT: [&str; 5] =
    ["content-length", "content-type", "date", "connection", "transfer-encoding"];

/// An operation of a service: the service, the method, the path.
type Operation = (String, String, String);

/// The document, and which of its answers were seen.
pub struct Book {
    document: Value,
    seen: BTreeSet<(Operation, u16)>,
}

/// An answer from the wire.
struct Answer {
    head: String,
    body: String,
}

impl Book {
    fn open() -> Self {
        Self { document: read(OPENAPI), seen: BTreeSet::new() }
    }

    /// Every operation that is documented, once for each of its services.
    fn operations(&self) -> BTreeSet<Operation> {
        let mut found = BTreeSet::new();
        for (path, item) in self.document["paths"].as_object().unwrap() {
            for (method, operation) in item.as_object().unwrap() {
                for tag in operation["tags"].as_array().into_iter().flatten() {
                    let service = tag.as_str().unwrap().to_owned();
                    found.insert((service, method.to_uppercase(), path.clone()));
                }
            }
        }
        found
    }

    fn operation(&self, (service, method, path): &Operation) -> Option<&Value> {
        let operation = self.document["paths"].get(path)?.get(method.to_lowercase())?;
        operation["tags"].as_array()?.contains(&json!(service)).then_some(operation)
    }

    /// Judges an answer by the document, and takes note of it.
    fn check(&mut self, of: &Operation, answer: &Answer) {
        let Answer { head, body } = answer;
        let status = status(head);
        let what = format!("{of:?}: {head}{body}");
        let operation = self.operation(of).unwrap_or_else(|| panic!("not documented: {what}"));
        let response = operation["responses"].get(status.to_string());
        let response = response.unwrap_or_else(|| panic!("no such answer is documented: {what}"));
        self.check_headers(response, head, &what);
        let kind = header_of(head, "content-type").map(|it| it.split(';').next().unwrap().trim());
        match (response["content"].as_object(), kind) {
            (Some(content), Some(kind)) => {
                let media = content.get(kind).unwrap_or_else(|| panic!("{kind}: {what}"));
                let value = match kind.ends_with("json") {
                    true => serde_json::from_str(body).unwrap(),
                    false => json!(body),
                };
                let judge = judge(&self.document, Draft::Draft202012, &media["schema"]);
                assert_eq!(faults(&judge, &value), "", "{what}");
            }
            // What is answered to HEAD, and a binary event that was taken, have none.
            _ => assert!(body.is_empty(), "{what}"),
        }
        self.seen.insert((of.clone(), status));
    }

    fn check_headers(&self, response: &Value, head: &str, what: &str) {
        let empty = serde_json::Map::new();
        let documented = response["headers"].as_object().unwrap_or(&empty);
        for (name, header) in documented {
            let shared = header["$ref"].as_str().map(|it| it.trim_start_matches('#'));
            let header = shared.map_or(header, |it| self.document.pointer(it).unwrap());
            let Some(value) = header_of(head, name) else {
                assert_ne!(header["required"], true, "{name} is not there: {what}");
                continue;
            };
            let value = match header["schema"]["type"] == "integer" {
                true => json!(value.parse::<u64>().unwrap()),
                false => json!(value),
            };
            let judge = judge(&self.document, Draft::Draft202012, &header["schema"]);
            assert_eq!(faults(&judge, &value), "", "{name}: {what}");
        }
        for (name, _) in head.lines().filter_map(|line| line.split_once(": ")) {
            let is_known = TRANSPORT.contains(&name.to_lowercase().as_str())
                || documented.keys().any(|it| it.eq_ignore_ascii_case(name));
            assert!(is_known, "{name} is not documented: {what}");
        }
    }

    /// Makes a call, and judges its answer.
    async fn play(&mut self, process: &Process, call: &Call) {
        let answer = ask(process, call.service, call.method, &call.request()).await;
        let path = call.target.split('?').next().unwrap().to_owned();
        let of = (call.service.to_owned(), call.method.to_owned(), path);
        let got = status(&answer.head);
        assert_eq!(got, call.status, "{}\n{}{}", call.request(), answer.head, answer.body);
        assert!(answer.body.contains(call.says), "{}\n{}", call.request(), answer.body);
        self.check(&of, &answer);
    }
}

/// Sends a request, and reads its answer: of a stream, and of a HEAD, no more than its head.
async fn ask(process: &Process, service: &str, method: &str, request: &str) -> Answer {
    let admin = process.admin_url().replace("http://", "");
    let address = if service == "admin" { admin } else { process.address().to_string() };
    let mut wire = Wire { stream: TcpStream::connect(address).await.unwrap() };
    wire.send(request).await;
    if method == "HEAD" {
        return Answer { head: wire.read_head().await, body: String::new() };
    }
    let (head, body) = wire.read_answer().await;
    Answer { head, body }
}

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
    for call in calls::common() {
        for process in door(&gateway, call.service) {
            book.play(process, &call).await;
        }
    }
    // A ticket whose token goes.
    let ticket = crate::event_stream::ticket(&gateway.broadcast, calls::READER).await;
    let stream = crate::event_stream::EventStream::open_by(&gateway.broadcast, &ticket, "").await;
    gateway.house.write_tokens(&format!("{TOKEN} name=all\n# nobody else\n"));
    stream.ended().await;
    let target = format!("/events?ticket={ticket}&");
    let head = "Accept: text/event-stream\r\n";
    let gone = Call { target, status: 204, ..Call::get("broadcast", "/events").with(head) };
    book.play(&gateway.broadcast, &gone).await;
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

#[tokio::test]
async fn every_documented_answer_is_given_as_documented() {
    let mut book = Book::open();
    play_common(&mut book).await;
    play_origins(&mut book).await;
    play_without_broadcast(&mut book).await;
    play_full(&mut book).await;
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
}

#[tokio::test]
async fn every_other_method_and_path_is_answered_as_documented() {
    const METHODS: [&str; 9] =
        ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "BREW"];
    let book = Book::open();
    let gateway = Gateway::open();
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
    let broadcast = include_str!("../../broadcast/src/outputs.rs");
    let mut places = paths_in(broadcast, "const PLACES: &[(&str, Behind)] = &[", "\n    (");
    // Every path that nobody else has.
    places.insert("/".to_owned());
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
        for (path, text) in
            [("/openapi.json", OPENAPI), ("/asyncapi.json", crate::specification::ASYNCAPI)]
        {
            let answer = ask(process, "", "GET", &plain("GET", path)).await;
            assert_eq!(status(&answer.head), 200);
            assert_eq!(answer.body, text);
        }
    }
}
