//! The calls that provoke each answer of the document of HTTP, as tables.

use crate::gateway::{House, TOKEN};

/// A token that may read one type, and publish none.
pub const READER: &str = "0123456789abcdef-reader";

/// A credential that may do everything.
pub const ALL: &str = "Authorization: Basic 0123456789abcdef-all\r\n";
pub const FEW: &str = "Authorization: Basic 0123456789abcdef-reader\r\n";
const PART: &str = "Authorization: Basic 0123456789abcdef-part\r\n";
const WRONG: &str = "Authorization: Basic 0123456789abcdef-wrong\r\n";
pub const BEARER: &str = "Authorization: Bearer 0123456789abcdef-all\r\n";
pub const TWO: &str = "Authorization: Basic 0123456789abcdef-all\r\nAuthorization: Basic x\r\n";
const SSE: &str = "Accept: text/event-stream\r\n";
pub const UPGRADE: &str = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                       Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n";
const OLD_UPGRADE: &str = "Connection: Upgrade\r\nUpgrade: websocket\r\n\
                           Sec-WebSocket-Version: 12\r\n\
                           Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n";
const KEYLESS: &str = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n";
const JSON: &str = "Content-Type: application/json\r\n";
const STRUCTURED: &str = "Content-Type: application/cloudevents+json\r\n";
const BATCH: &str = "Content-Type: application/cloudevents-batch+json\r\n";
const BINARY: &str = "Content-Type: text/plain\r\nce-specversion: 1.0\r\nce-id: 1\r\n\
                      ce-source: /s\r\nce-type: a\r\n";
const GZIP: &str = "Content-Encoding: gzip\r\n";
pub const BROTLI: &str = "Content-Encoding: br\r\n";
pub const GOOD_PAGE: &str = "Origin: https://good.example\r\n";
const BAD_PAGE: &str = "Origin: https://bad.example\r\n";

const NATIVE: &str = r#"{"event":"a","data":{"id":7}}"#;
const EVENT: &str = r#"{"specversion":"1.0","id":"1","source":"/s","type":"a","data":1,"x":true}"#;
const EVENTS: &str = r#"[{"specversion":"1.0","id":"1","source":"/s","type":"a"},{"id":"2"},7]"#;

const TWO_TYPES: &str = r#"[{"specversion":"1.0","id":"1","source":"/s","type":"a"},
    {"specversion":"1.0","id":"2","source":"/s","type":"b"}]"#;

/// One request, and what it is answered.
pub struct Call {
    /// The service whose door it knocks at.
    pub service: &'static str,
    pub method: &'static str,
    pub target: String,
    pub head: String,
    pub body: String,
    /// The status of its answer.
    pub status: u16,
    /// Something that stands in the answer's body.
    pub says: &'static str,
}

impl Call {
    pub fn get(service: &'static str, target: &str) -> Self {
        Self::new(service, "GET", target)
    }

    pub fn new(service: &'static str, method: &'static str, target: &str) -> Self {
        let (target, empty) = (target.to_owned(), String::new);
        Self { service, method, target, head: empty(), body: empty(), status: 200, says: "" }
    }

    pub fn with(mut self, head: &str) -> Self {
        self.head.push_str(head);
        self
    }

    pub fn answered(mut self, status: u16, says: &'static str) -> Self {
        (self.status, self.says) = (status, says);
        self
    }

    /// The request as text.
    pub fn request(&self) -> String {
        let Self { method, target, head, body, .. } = self;
        // An upgrade has no body, not even an empty one.
        let length = match *method {
            "GET" | "HEAD" => String::new(),
            _ => format!("Content-Length: {}\r\n", body.len()),
        };
        format!("{method} {target} HTTP/1.1\r\nHost: test\r\n{head}{length}\r\n{body}")
    }
}

/// The tokens that the calls show, and few patterns.
pub fn house() -> House {
    let tokens = format!(
        "{TOKEN} name=all\n{READER} name=reader publish=none subscribe=a\n\
         0123456789abcdef-part name=part publish=a\n"
    );
    House::new().with_tokens(&tokens).set("MAX_PATTERNS", 2).set("CHANNELS_ENABLE", "true")
}

/// What any gateway answers.
pub fn common() -> Vec<Call> {
    let mut calls = events_in();
    calls.extend(events_out());
    calls.extend(sockets());
    calls.extend(open_doors());
    calls.extend(crate::openapi_streams::channels());
    calls
}

pub type Row<'a> = (&'a str, &'a [&'a str], &'a str, u16, &'static str);

/// Calls from rows: target, headers, body, status, what the answer says.
/// Calls of one method, a row each.
pub fn rows(service: &'static str, method: &'static str, rows: &[Row<'_>]) -> Vec<Call> {
    let call = |(target, heads, body, status, says): &Row<'_>| Call {
        body: (*body).to_owned(),
        ..Call::new(service, method, target).with(&heads.concat()).answered(*status, says)
    };
    rows.iter().map(call).collect()
}

fn events_in() -> Vec<Call> {
    let big = format!(r#"{{"event":"a","data":"{}"}}"#, "x".repeat(5_000));
    let representation = "Prefer: return=representation\r\n";
    let protobuf = "Content-Type: application/cloudevents+protobuf\r\n";
    let one = "/event";
    let mut calls = rows(
        "listen",
        "POST",
        &[
            (one, &[ALL], NATIVE, 200, r#"{"code":"OK"}"#),
            (one, &[ALL, representation], NATIVE, 200, "cursor"),
            ("/event?dry_run=true", &[ALL], NATIVE, 200, "OK"),
            ("/event?dry_run=true", &[ALL, representation], NATIVE, 200, "matched"),
            (one, &[ALL], "{", 400, "INVALID_BODY"),
            (one, &[TWO], NATIVE, 400, "INVALID_REQUEST"),
            ("/event?dry_run=1", &[ALL], NATIVE, 400, "INVALID_REQUEST"),
            (one, &[], NATIVE, 403, "UNAUTHENTICATED"),
            (one, &[WRONG], NATIVE, 403, "UNAUTHENTICATED"),
            (one, &[BEARER], NATIVE, 403, "AUTH_UNRECOGNIZED_SCHEME"),
            (one, &[FEW], NATIVE, 403, "FORBIDDEN"),
            (one, &[ALL], &big, 413, "BODY_TOO_LARGE"),
            (one, &[ALL, BROTLI], NATIVE, 415, "UNSUPPORTED_MEDIA"),
        ],
    );
    let many = "/events";
    calls.extend(rows(
        "listen",
        "POST",
        &[
            (many, &[ALL, STRUCTURED], EVENT, 201, r#""x":true"#),
            (many, &[ALL, JSON], r#"{"id":"2","source":"/s","type":"a"}"#, 201, "specversion"),
            (many, &[ALL, BINARY], "text", 201, ""),
            (many, &[ALL, BATCH], EVENTS, 200, r#""code":"INVALID""#),
            (many, &[ALL, BATCH], "[]", 200, "[]"),
            (many, &[FEW, BATCH], EVENTS, 200, "FORBIDDEN"),
            ("/events?dry_run=true", &[ALL, STRUCTURED], EVENT, 200, r#"{"code":"OK"}"#),
            (many, &[ALL, STRUCTURED], r#"{"time":"soon"}"#, 400, "is not RFC 3339"),
            (many, &[ALL, BATCH], "7", 400, "is not a list"),
            ("/events?dry_run=", &[ALL, STRUCTURED], EVENT, 400, "INVALID_REQUEST"),
            (many, &[ALL, STRUCTURED, GZIP], "no gzip", 400, "INVALID_BODY"),
            (many, &[STRUCTURED], EVENT, 403, "UNAUTHENTICATED"),
            (many, &[BEARER, STRUCTURED], EVENT, 403, "AUTH_UNRECOGNIZED_SCHEME"),
            (many, &[FEW, STRUCTURED], EVENT, 403, "FORBIDDEN"),
            (many, &[ALL, BINARY], &big, 413, "BODY_TOO_LARGE"),
            (many, &[ALL, protobuf], EVENT, 415, "UNSUPPORTED_MEDIA"),
            (many, &[ALL], EVENT, 415, "UNSUPPORTED_MEDIA"),
            (many, &[ALL, STRUCTURED, BROTLI], EVENT, 415, "UNSUPPORTED_MEDIA"),
        ],
    ));
    let asks = "WebHook-Request-Origin: sender.example\r\nWebHook-Request-Rate: 120\r\n";
    calls.extend(rows(
        "listen",
        "OPTIONS",
        &[(many, &[], "", 200, ""), (many, &[asks], "", 200, "")],
    ));
    calls
}

fn events_out() -> Vec<Call> {
    let offers = "Sec-WebSocket-Protocol: cloudevents.json, other\r\n";
    let mut calls = rows(
        "broadcast",
        "GET",
        &[
            ("/events", &[ALL], "", 200, r#""specversion":"1.0""#),
            ("/events?type=a&limit=1&wait=0", &[ALL], "", 200, "cursor"),
            ("/events?after=zzzzzz-7", &[ALL], "", 200, ""),
            ("/events?type=a", &[ALL, SSE], "", 200, ""),
            ("/events?format=cloudevents&after=first", &[ALL, SSE], "", 200, ""),
            ("/events", &[ALL, UPGRADE], "", 101, ""),
            ("/events?type=a", &[ALL, UPGRADE, offers], "", 101, ""),
            ("/events?after=x", &[ALL], "", 400, "INVALID_RESUME"),
            ("/events?type=", &[ALL, SSE], "", 400, "INVALID_EVENTS"),
            ("/events?type=a&type=b&type=c", &[ALL], "", 400, "TOO_MANY_EVENTS"),
            ("/events?wait=31", &[ALL], "", 400, "INVALID_REQUEST"),
            ("/events", &[TWO], "", 400, "INVALID_REQUEST"),
            ("/events", &[ALL, KEYLESS], "", 400, "INVALID_REQUEST"),
            ("/events", &[], "", 401, "UNAUTHENTICATED"),
            ("/events?ticket=none", &[SSE], "", 401, "UNAUTHENTICATED"),
            ("/events", &[BEARER, SSE], "", 401, "AUTH_UNRECOGNIZED_SCHEME"),
            ("/events?type=secret", &[FEW], "", 403, "FORBIDDEN"),
            ("/events", &[WRONG, UPGRADE], "", 403, "UNAUTHENTICATED"),
            ("/events", &[BEARER, UPGRADE], "", 403, "AUTH_UNRECOGNIZED_SCHEME"),
            ("/events", &[ALL, OLD_UPGRADE], "", 426, "UPGRADE_REQUIRED"),
        ],
    );
    calls.extend(rows(
        "broadcast",
        "POST",
        &[
            ("/tickets", &[ALL], "", 200, "ticket"),
            ("/tickets", &[TWO], "", 400, "INVALID_REQUEST"),
            ("/tickets", &[], "", 401, "UNAUTHENTICATED"),
            ("/tickets", &[BEARER], "", 401, "AUTH_UNRECOGNIZED_SCHEME"),
        ],
    ));
    for path in ["/events", "/tickets"] {
        let refused = (path, &[GOOD_PAGE][..], "", 405, "METHOD_NOT_ALLOWED");
        calls.extend(rows("broadcast", "OPTIONS", &[refused]));
    }
    calls
}

fn sockets() -> Vec<Call> {
    let mut calls = Vec::new();
    for path in ["/", "/socket/websocket"] {
        calls.extend(rows(
            "broadcast",
            "GET",
            &[
                (path, &[UPGRADE], "", 101, ""),
                (path, &[UPGRADE, "Sec-WebSocket-Protocol: phoenix\r\n"], "", 101, ""),
                (path, &[KEYLESS], "", 400, "INVALID_REQUEST"),
                (path, &[UPGRADE, TWO], "", 400, "INVALID_REQUEST"),
                (path, &[UPGRADE, WRONG], "", 403, "UNAUTHENTICATED"),
                (path, &[UPGRADE, BEARER], "", 403, "AUTH_UNRECOGNIZED_SCHEME"),
                (path, &[], "", 426, "UPGRADE_REQUIRED"),
                (path, &[OLD_UPGRADE], "", 426, "UPGRADE_REQUIRED"),
            ],
        ));
    }
    let phoenix = [
        ("/socket/websocket?vsn=1.0.0", 101, ""),
        ("/socket/websocket?vsn=2.0.7&token=any", 101, ""),
        ("/socket/websocket?vsn=3.0.0", 403, "FORBIDDEN"),
    ];
    for (target, status, says) in phoenix {
        calls.push(Call::get("broadcast", target).with(UPGRADE).answered(status, says));
    }
    calls
}

/// What everybody is told, and operators.
fn open_doors() -> Vec<Call> {
    let mut calls = Vec::new();
    for path in ["/healthz", "/openapi.json", "/asyncapi.json"] {
        for service in ["listen", "broadcast"] {
            calls.push(Call::new(service, "GET", path));
            calls.push(Call::new(service, "HEAD", path));
        }
    }
    for path in ["/livez", "/readyz", "/metrics"] {
        calls.push(Call::new("admin", "GET", path));
        calls.push(Call::new("admin", "HEAD", path));
    }
    calls
}

/// What web pages are answered, where a list says which may come.
pub fn of_pages() -> Vec<Call> {
    let mut calls = Vec::new();
    for path in ["/events", "/tickets", "/queue", "/queues", "/queues/{name}"] {
        for (page, status, says) in [(GOOD_PAGE, 204, ""), (BAD_PAGE, 403, "FORBIDDEN")] {
            let asked = Call::new("broadcast", "OPTIONS", path).with(page);
            calls.push(asked.answered(status, says));
        }
    }
    for (method, target, status) in [
        ("GET", "/events", 200),
        ("POST", "/tickets", 200),
        ("GET", "/queue?id=q", 200),
        ("GET", "/queues", 200),
        ("DELETE", "/queues/{name}", 404),
    ] {
        for (page, status, says) in [(GOOD_PAGE, status, ""), (BAD_PAGE, 403, "FORBIDDEN")] {
            let done = Call::new("broadcast", method, target).with(page).with(ALL);
            calls.push(done.answered(status, says));
        }
    }
    for (method, path) in [("GET", "/subscribe"), ("POST", "/publish")] {
        for (page, status, says) in [(GOOD_PAGE, 400, "\n"), (BAD_PAGE, 403, "FORBIDDEN")] {
            let done = Call::new("broadcast", method, path).with(page);
            calls.push(done.answered(status, says));
        }
        for (page, status, says) in [(GOOD_PAGE, 204, ""), (BAD_PAGE, 403, "FORBIDDEN")] {
            let asked = Call::new("broadcast", "OPTIONS", path).with(page);
            calls.push(asked.answered(status, says));
        }
    }
    for path in ["/", "/socket/websocket"] {
        let refused = Call::get("broadcast", path).with(UPGRADE).with(BAD_PAGE);
        calls.push(refused.answered(403, "FORBIDDEN"));
    }
    for (path, status) in [("/healthz", 200), ("/", 426)] {
        calls.push(Call::get("broadcast", path).with(GOOD_PAGE).answered(status, ""));
    }
    calls
}

/// What publishers are answered while `broadcast` is away.
pub fn without_broadcast() -> Vec<Call> {
    let mut calls = rows(
        "listen",
        "POST",
        &[
            ("/event", &[ALL], NATIVE, 503, "UNAVAILABLE"),
            ("/event?dry_run=true", &[ALL], NATIVE, 503, "UNAVAILABLE"),
            ("/events", &[ALL, STRUCTURED], EVENT, 503, "UNAVAILABLE"),
            ("/events", &[ALL, BATCH], EVENTS, 503, r#""id":"2","code":"INVALID""#),
            ("/events", &[PART, BATCH], TWO_TYPES, 503, "FORBIDDEN"),
        ],
    );
    calls.push(Call::get("admin", "/readyz").answered(503, "not ready"));
    calls.push(Call::new("admin", "HEAD", "/readyz").answered(503, ""));
    calls.push(Call::get("listen", "/healthz"));
    calls.extend(rows(
        "listen",
        "OPTIONS",
        &[("/events", &["WebHook-Request-Origin: sender.example\r\n"], "", 200, "")],
    ));
    calls
}

/// Heads that announce a body which never comes: the head is the whole request.
pub fn without_bodies() -> Vec<Call> {
    let call = |service, path: &str, kind: &str| {
        let head =
            format!("POST {path} HTTP/1.1\r\nHost: test\r\n{ALL}{kind}Content-Length: 9\r\n\r\n");
        Call::new(service, "POST", path).with(&head)
    };
    vec![
        call("listen", "/event", ""),
        call("listen", "/events", STRUCTURED),
        call("broadcast", "/publish", ""),
    ]
}

/// What publishers are answered while `broadcast` takes what comes and says nothing.
pub fn without_receipts() -> Vec<Call> {
    rows(
        "listen",
        "POST",
        &[
            ("/event", &[ALL], NATIVE, 503, r#""accepted":"unknown""#),
            ("/events", &[ALL, STRUCTURED], EVENT, 503, r#""accepted":"unknown""#),
            ("/events", &[ALL, BATCH], EVENTS, 503, r#""accepted":"unknown""#),
        ],
    )
}

/// What a token that asks too often sends, again and again.
pub fn too_often() -> Vec<Call> {
    let call = |target, head| Call::new("listen", "POST", target).with(ALL).with(head);
    vec![call("/event", ""), call("/events", STRUCTURED)]
}
