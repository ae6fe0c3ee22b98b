//! `queue`: the command that looks after durable queues.

use serde_json::{Value, json};

use super::*;

const READER: &str = "0123456789abcdef-reader";

/// Makes a queue by a consumer that leaves at once.
fn make(gateway: &Gateway, query: &str) {
    let request = crate::queue_stream::ask(&gateway.broadcast, query);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    assert_eq!(runtime.block_on(request.send()).unwrap().status(), 200);
}

fn queue(gateway: &Gateway, arguments: &[&str]) -> (i32, String, String) {
    let url = gateway.broadcast.url();
    run(&mut fanfare(&gateway.house, &[&["queue"], arguments, &["--url", &url]].concat()))
}

#[test]
fn queues_are_listed_and_deleted() {
    let gateway = Gateway::open();
    make(&gateway, "id=wall%2F1+%C3%BC&type=a.*&type=b");
    make(&gateway, "id=other");
    assert_eq!(fire(&gateway, &["a.x", "1"]).0, 0);
    let listed = wait_for("a list without consumers", || {
        let (code, out, err) = queue(&gateway, &["list", "--json"]);
        assert_eq!(code, 0, "{err}");
        let listed: Value = serde_json::from_str(&out).unwrap();
        let queues = listed["queues"].as_array().unwrap().clone();
        queues.iter().all(|it| it["consumers"] == 0 && it["events"] == 1).then_some(queues)
    });
    let named = |index: usize| (&listed[index]["name"], &listed[index]["types"]);
    assert_eq!(named(0), (&json!("other"), &json!([">"])));
    assert_eq!(named(1), (&json!("wall/1 ü"), &json!(["a.*", "b"])));
    let (code, out, _) = queue(&gateway, &["list"]);
    let lines: Vec<_> = out.lines().collect();
    assert_eq!((code, lines.len()), (0, 3), "{out}");
    assert!(lines[0].starts_with("NAME") && lines[2].starts_with("wall/1 ü  1 "), "{out}");
    let (code, out, err) = queue(&gateway, &["delete", "wall/1 ü"]);
    assert_eq!((code, out.as_str()), (0, "OK\n"), "{err}");
    let (code, out, err) = queue(&gateway, &["delete", "wall/1 ü"]);
    assert_eq!((code, out.as_str()), (1, "NOT_FOUND\n"));
    assert!(err.contains("no queue"), "{err}");
    assert_eq!(queue(&gateway, &["list"]).1.lines().count(), 2);
}

#[test]
fn queues_are_listed_under_tls_by_who_trusts_the_certificate() {
    let gateway = house_with_tls().open();
    let (code, out, err) = queue(&gateway, &["list", "--json"]);
    assert_eq!((code, out.as_str()), (0, "{\"queues\":[]}\n"), "{err}");
    let url = gateway.broadcast.url();
    let mut command = fanfare(&gateway.house, &["queue", "list", "--url", &url]);
    let (code, _, err) = run(command.env_remove("FANFARE_CA_FILE"));
    assert_eq!(code, 1);
    assert!(err.contains("UnknownIssuer"), "{err}");
}

#[test]
fn whoever_may_not_administer_is_told_so() {
    let tokens = format!("{TOKEN} name=all\n{READER} name=reader subscribe=a\n");
    let gateway = House::new().with_tokens(&tokens).open();
    let url = gateway.broadcast.url();
    for arguments in [&["queue", "list"] as &[&str], &["queue", "delete", "q"]] {
        let arguments = [arguments, &["--url", &url]].concat();
        for (token, why) in [(READER, "FORBIDDEN"), ("unknown-unknown-unknown", "UNAUTHENTICATED")]
        {
            let mut command = fanfare(&gateway.house, &arguments);
            let (code, out, err) = run(command.env("FANFARE_TOKEN", token));
            assert_eq!((code, out.trim_end()), (1, why), "{err}");
            assert!(!err.contains(token), "{err}");
        }
    }
    let nobody =
        run(&mut fanfare(&gateway.house, &["queue", "list", "--url", "http://127.0.0.1:1"]));
    assert_eq!(nobody.0, 1);
    assert!(nobody.2.contains("refused"), "{}", nobody.2);
    // What answers there is no broadcast.
    let listen = gateway.listen.url();
    let wrong = run(&mut fanfare(&gateway.house, &["queue", "list", "--url", &listen]));
    assert_eq!((wrong.0, wrong.1.as_str()), (1, "NOT_FOUND\n"), "{}", wrong.2);
}
