//! The document of HTTP as a judge: of each answer, and of which answers were never seen.

use std::collections::BTreeSet;

use jsonschema::Draft;
use serde_json::{Value, json};
use tokio::net::TcpStream;

use crate::gateway::Process;
use crate::openapi_calls::Call;
use crate::specification::{OPENAPI, faults, judge, read};
use crate::wire::{Wire, header_of, status};

/// Headers that belong to the transport, and to no operation.
const TRANSPORT: [&str; 5] =
    ["content-length", "content-type", "date", "connection", "transfer-encoding"];

/// An operation of a service: the service, the method, the path.
pub type Operation = (String, String, String);

/// The document, and which of its answers were seen.
pub struct Book {
    pub document: Value,
    pub seen: BTreeSet<(Operation, u16)>,
    /// The codes that stood in them.
    codes: BTreeSet<(Operation, u16, String)>,
}

/// An answer from the wire.
pub struct Answer {
    pub head: String,
    pub body: String,
}

impl Book {
    pub fn open() -> Self {
        Self { document: read(OPENAPI), seen: BTreeSet::new(), codes: BTreeSet::new() }
    }

    /// Every operation that is documented, once for each of its services.
    pub fn operations(&self) -> BTreeSet<Operation> {
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

    pub fn operation(&self, (service, method, path): &Operation) -> Option<&Value> {
        let operation = self.document["paths"].get(path)?.get(method.to_lowercase())?;
        operation["tags"].as_array()?.contains(&json!(service)).then_some(operation)
    }

    /// Judges an answer by the document, and takes note of it.
    pub fn check(&mut self, of: &Operation, answer: &Answer) {
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
                let codes = codes_in(&value).into_iter();
                self.codes.extend(codes.map(|code| (of.clone(), status, code)));
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

    /// The codes that are documented, and that nobody was answered. Of an operation that both doors
    /// have, it is enough that one of them gives it.
    pub fn missing_codes(&self) -> BTreeSet<(String, u16, String)> {
        let place = |(_, method, path): &Operation| format!("{method} {path}");
        let mut missing = BTreeSet::new();
        for of in self.operations() {
            let responses = self.operation(&of).unwrap()["responses"].as_object().unwrap();
            for (status, response) in responses {
                let content = response["content"].as_object();
                for media in content.into_iter().flat_map(|it| it.values()) {
                    let mut codes = BTreeSet::new();
                    codes_of(&self.document, &media["schema"], &mut codes);
                    let status: u16 = status.parse().unwrap();
                    missing.extend(codes.into_iter().map(|code| (place(&of), status, code)));
                }
            }
        }
        for (of, status, code) in &self.codes {
            missing.remove(&(place(of), *status, code.clone()));
        }
        missing
    }

    /// Makes a call, and judges its answer.
    pub async fn play(&mut self, process: &Process, call: &Call) {
        let answer = ask(process, call.service, call.method, &call.request()).await;
        let path = call.target.split('?').next().unwrap().to_owned();
        let of = (call.service.to_owned(), call.method.to_owned(), path);
        let got = status(&answer.head);
        assert_eq!(got, call.status, "{}\n{}{}", call.request(), answer.head, answer.body);
        assert!(answer.body.contains(call.says), "{}\n{}", call.request(), answer.body);
        self.check(&of, &answer);
    }
}

/// The codes in an answer, or in each result of a batch.
fn codes_in(answer: &Value) -> Vec<String> {
    let results = answer.as_array().into_iter().flatten();
    let code = |it: &Value| it["code"].as_str().map(str::to_owned);
    results.chain([answer]).filter_map(code).collect()
}

/// The codes that a schema allows.
fn codes_of(document: &Value, schema: &Value, found: &mut BTreeSet<String>) {
    if let Some(target) = schema["$ref"].as_str() {
        let target = target.trim_start_matches('#');
        return codes_of(document, document.pointer(target).unwrap(), found);
    }
    for inner in schema["anyOf"].as_array().into_iter().flatten().chain(schema.get("items")) {
        codes_of(document, inner, found);
    }
    let code = &schema["properties"]["code"];
    let codes = code["enum"].as_array().into_iter().flatten().chain(code.get("const"));
    found.extend(codes.filter_map(|it| it.as_str().map(str::to_owned)));
}

/// Sends a request, and reads its answer: of a stream, and of a HEAD, no more than its head.
pub async fn ask(process: &Process, service: &str, method: &str, request: &str) -> Answer {
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
