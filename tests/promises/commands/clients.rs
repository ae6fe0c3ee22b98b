//! `fire`, `watch`, `health`: the commands that call a gateway.

use super::*;

#[test]
fn what_is_fired_is_watched_byte_for_byte_plain_and_under_tls() {
    for house in [House::new(), house_with_tls()] {
        let gateway = house.open();
        let mut watch = watch(&gateway, &["order.*", "--count", "1"]);
        let (code, out, err) = fire(&gateway, &["order.paid", r#"{"id": 7.00, "id":8}"#]);
        assert_eq!((code, out.as_str()), (0, "OK\n"), "{err}");
        assert!(watch.wait().success());
        let line = wait_for("the event", || watch.out().strip_suffix('\n').map(str::to_owned));
        let expected = r#"{"type":"event","event":"order.paid","data":{"id": 7.00, "id":8},"#;
        let rest = line.strip_prefix(expected).unwrap_or_else(|| panic!("{line}"));
        let places =
            ["cursor", "id", "time", "source"].map(|it| rest.find(&format!(r#""{it}":""#)));
        assert!(places.iter().all(Option::is_some) && places.is_sorted(), "{line}");
        assert!(rest.ends_with(r#""source":"/all"}"#), "{line}");
    }
}

#[test]
fn without_its_certificate_a_gateway_is_not_trusted() {
    let gateway = house_with_tls().open();
    for (command, url) in [("fire", gateway.listen.url()), ("watch", gateway.broadcast.ws_url())] {
        let mut command = fanfare(&gateway.house, &[command, "--url", &url, "a"]);
        let (code, _, err) = run(command.env_remove("FANFARE_CA_FILE"));
        assert_eq!(code, 1, "{err}");
        assert!(err.contains("UnknownIssuer"), "{err}");
    }
}

#[test]
fn a_watch_comes_back_when_broadcast_does() {
    let gateway = Gateway::open();
    let watch = watch(&gateway, &["a"]);
    let Gateway { listen, broadcast, house } = gateway;
    let house = house.set("BROADCAST_ADDR", broadcast.address());
    broadcast.kill();
    watch.wait_for_err("trying again", 1);
    let gateway = Gateway { broadcast: house.broadcast(), listen, house };
    watch.wait_for_err("watching", 2);
    assert_eq!(fire(&gateway, &["a"]).0, 0);
    wait_for("the event", || watch.out().contains(r#""event":"a""#).then_some(()));
}

#[test]
fn a_watch_ends_when_its_token_is_withdrawn() {
    let gateway = Gateway::open();
    let mut watch = watch(&gateway, &["a"]);
    gateway.house.write_tokens("fedcba9876543210\n");
    assert_eq!(watch.wait().code(), Some(1));
    watch.wait_for_err("4401 token withdrawn", 1);
}

#[test]
fn a_watch_whose_reader_has_left_ends_without_a_word() {
    let gateway = Gateway::open();
    let url = gateway.broadcast.ws_url();
    let mut command = fanfare(&gateway.house, &["watch", "--url", &url, ">"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let err = collect(child.stderr.take().unwrap());
    wait_for("the watch", || err.lock().unwrap().contains("watching").then_some(()));
    let status = wait_for("its end", || {
        assert_eq!(fire(&gateway, &["a"]).0, 0);
        child.try_wait().unwrap()
    });
    assert!(status.success(), "{status}");
    assert_eq!(err.lock().unwrap().lines().count(), 1);
}

#[test]
fn refusals_have_an_exit_code_and_say_why() {
    let gateway = Gateway::open();
    let (listen, broadcast) = (gateway.listen.url(), gateway.broadcast.ws_url());
    let unknown = "unknown-unknown-unknown";
    let table: [(&[&str], &str, i32, &str); 8] = [
        (&["fire", "--url", &listen, "a", "nonsense"], TOKEN, 65, "not JSON"),
        (&["fire", "--url", &listen, "a", "1} {"], TOKEN, 65, "not JSON"),
        (&["fire", "--url", &listen, "a"], unknown, 1, "UNAUTHENTICATED"),
        (&["fire", "--url", &listen, ""], TOKEN, 1, "INVALID_BODY"),
        (&["fire", "--url", "http://127.0.0.1:1", "a"], TOKEN, 1, "refused"),
        (&["watch", "--url", &broadcast, "a"], unknown, 1, "UNAUTHENTICATED"),
        (&["watch", "--url", &broadcast, ""], TOKEN, 1, "INVALID_EVENTS"),
        (&["watch", "--url", &listen, "a"], TOKEN, 1, "404"),
    ];
    for (arguments, token, expected, why) in table {
        let (code, out, err) = run(fanfare(&gateway.house, arguments).env("FANFARE_TOKEN", token));
        assert_eq!(code, expected, "{arguments:?}: {out}{err}");
        assert!(out.contains(why) || err.contains(why), "{arguments:?}: {out}{err}");
        assert!(!out.contains(token) && !err.contains(token), "{arguments:?}: {out}{err}");
    }
}

#[test]
fn health_tells_whether_a_door_can_serve() {
    let house = House::new();
    let listen = house.listen();
    let (listen_admin, nobody) = (listen.admin_url(), "127.0.0.1:1");
    let listen_admin = listen_admin.trim_start_matches("http://");
    let health = |broadcast_admin: &str, door: &[&str]| {
        let mut command = fanfare(&house, &[&["health"], door].concat());
        command.env("LISTEN_ADMIN_ADDR", listen_admin);
        run(command.env("BROADCAST_ADMIN_ADDR", broadcast_admin)).0
    };
    assert_eq!(health(nobody, &["listen"]), 1);
    let broadcast = house.broadcast();
    listen.wait_for_log("the link is up");
    let broadcast_admin = broadcast.admin_url();
    let broadcast_admin = broadcast_admin.trim_start_matches("http://");
    for (admin, door, expected) in [
        (broadcast_admin, &["listen"] as &[&str], 0),
        (broadcast_admin, &["broadcast"], 0),
        (broadcast_admin, &[], 0),
        (nobody, &["broadcast"], 1),
        (nobody, &[], 1),
        (nobody, &["listen"], 0),
    ] {
        assert_eq!(health(admin, door), expected, "{admin} {door:?}");
    }
}

#[test]
fn help_shows_no_token_of_the_environment() {
    let house = House::new();
    for command in ["fire", "watch"] {
        let (code, out, _) = run(&mut fanfare(&house, &[command, "--help"]));
        assert_eq!(code, 0);
        assert!(out.contains("FANFARE_TOKEN") && !out.contains(TOKEN), "{out}");
    }
}

#[test]
fn completions_are_written_for_a_shell() {
    let (code, out, _) = run(&mut fanfare(&House::new(), &["completions", "bash"]));
    assert_eq!(code, 0);
    assert!(out.contains("_fanfare()"), "{out}");
}
