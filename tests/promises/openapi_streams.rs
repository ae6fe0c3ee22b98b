//! The calls that provoke the answers of queues and channels, as tables.

use crate::openapi_calls::{ALL, BEARER, BROTLI, Call, FEW, GOOD_PAGE, TWO, UPGRADE, rows};

const SECRET: &str = "Authorization: Password secret\r\n";
/// Pipely's routes.
const CHANNELS: [&str; 2] = ["/subscribe", "/publish"];

/// What is answered of queues, where `{name}` is one that has a consumer, and no other may be made.
pub fn queues() -> Vec<Call> {
    let (list, one) = ("/queues", "/queues/{name}");
    let mut calls = rows(
        "broadcast",
        "GET",
        &[
            (list, &[ALL], "", 200, r#""consumers":1"#),
            ("/queue?id={name}", &[ALL], "", 503, "MAX_CONSUMERS_EXCEEDED"),
            ("/queue?id=other", &[ALL], "", 503, "TOO_MANY_QUEUES"),
            ("/queue", &[ALL], "", 503, "PARAMETER_MISSING"),
            ("/queue?id=amq.x", &[ALL], "", 503, "INVALID_QUEUE_NAME"),
            ("/queue?id=q&type=", &[ALL], "", 400, "INVALID_EVENTS"),
            ("/queue?id=q&type=a&type=b&type=c", &[ALL], "", 400, "TOO_MANY_EVENTS"),
            ("/queue?id=q&format=x", &[ALL], "", 400, "INVALID_REQUEST"),
            ("/queue?id=q&cursor=true", &[ALL, "Last-Event-ID: x\r\n"], "", 400, "INVALID_RESUME"),
            ("/queue?id=q", &[], "", 401, "UNAUTHENTICATED"),
            ("/queue?id=q", &[BEARER], "", 401, "AUTH_UNRECOGNIZED_SCHEME"),
            ("/queue?id=q&type=secret", &[FEW], "", 403, "FORBIDDEN"),
        ],
    );
    for (method, path) in [("GET", list), ("DELETE", one)] {
        calls.extend(rows(
            "broadcast",
            method,
            &[
                (path, &[TWO], "", 400, "INVALID_REQUEST"),
                (path, &[], "", 401, "UNAUTHENTICATED"),
                (path, &[BEARER], "", 401, "AUTH_UNRECOGNIZED_SCHEME"),
                (path, &[FEW], "", 403, "FORBIDDEN"),
            ],
        ));
    }
    let deleted = [(one, &[ALL][..], "", 200, "OK"), (one, &[ALL], "", 404, "NOT_FOUND")];
    calls.extend(rows("broadcast", "DELETE", &deleted));
    for path in [list, one] {
        let refused = (path, &[GOOD_PAGE][..], "", 405, "METHOD_NOT_ALLOWED");
        calls.extend(rows("broadcast", "OPTIONS", &[refused]));
    }
    calls.extend(rows("broadcast", "OPTIONS", &[("/queue", &[], "", 204, "")]));
    calls.extend(rows("broadcast", "GET", &[("/queue?id={name}", &[FEW], "", 200, "")]));
    // It goes as soon as it is known that its consumer has.
    calls.extend(rows("broadcast", "DELETE", &[(one, &[ALL], "", 200, "OK")]));
    calls
}

/// Pipely's channels: in one of them is alice, and its password is `secret`.
pub fn channels() -> Vec<Call> {
    let ask = "/subscribe?channelId=abcdefghijkl&clientId=bob&password=";
    let right = &(ask.to_owned() + "secret");
    let mut calls = rows(
        "broadcast",
        "GET",
        &[
            (right, &[], "", 200, ""),
            ("/subscribe", &[], "", 400, "channel id"),
            (right, &[UPGRADE], "", 400, "INVALID_REQUEST"),
            (ask, &[], "", 401, "invalid channel password"),
        ],
    );
    let body = r#"{"channel_id":"abcdefghijkl","type":"t","origin_id":"bob","payload":[1]}"#;
    let other = &body.replace("abcdefghijkl", "mnopqrstuvwx");
    let big = &body.replace("[1]", &format!("\"{}\"", "x".repeat(5_000)));
    let one = "/publish";
    calls.extend(rows(
        "broadcast",
        "POST",
        &[
            (one, &[SECRET], body, 200, ""),
            (one, &[SECRET], "{", 400, "not a valid JSON"),
            (one, &[SECRET, UPGRADE], body, 400, "INVALID_REQUEST"),
            (one, &[], body, 401, "invalid channel password"),
            (one, &[SECRET], other, 404, "does not exist"),
            (one, &[SECRET], big, 413, "too large"),
            (one, &[SECRET, BROTLI], body, 415, "encoding"),
        ],
    ));
    for path in CHANNELS {
        calls.push(Call::new("broadcast", "OPTIONS", path).answered(204, ""));
    }
    calls
}
