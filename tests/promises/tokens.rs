//! The tokens file (WIRE §2): what its lines mean, on both doors.

use jiff::{SignedDuration, Timestamp};

use crate::client::{
    Subscriber, answer, code, event, fire, init, post_as, post_with, said, wait_for_answer,
};
use crate::gateway::{Gateway, House, Process, TOKEN};

const OTHER: &str = "0123456789abcdef-other";

/// The code of a publication, and that of an init, with this token.
async fn codes(gateway: &Gateway, token: &str, event_type: &str) -> (String, String) {
    let body = format!(r#"{{"event":"{event_type}"}}"#);
    let published = answer(post_as(gateway, token, body).send().await.unwrap()).await.1;
    let mut subscriber = Subscriber::connect(&gateway.broadcast).await;
    (published, subscriber.init(token, &[event_type]).await)
}

fn both(published: &str, subscribed: &str) -> (String, String) {
    (code(published), said("init", subscribed))
}

#[tokio::test]
async fn lines_end_in_lf_crlf_or_cr_and_blanks_comments_and_a_byte_order_mark_are_skipped() {
    let text = "\u{feff}first-0123456789\r\nsecond-0123456789\rthird-0123456789\n\n \t \n\
                # comment-0123456789\n  #indented-0123456789\n  blanks-0123456789 \t\n\
                \ttabbed-0123456789\tname=tabs\nümläut-0123456789\nfinal-0123456789";
    let gateway = House::new().with_tokens(text).open();
    for name in ["first", "second", "third", "blanks", "tabbed", "ümläut", "final"] {
        let token = format!("{name}-0123456789");
        assert_eq!(codes(&gateway, &token, "a").await, both("OK", "OK"), "{token}");
    }
    for token in ["comment-0123456789", "#indented-0123456789", "#"] {
        let expected = both("UNAUTHENTICATED", "UNAUTHENTICATED");
        assert_eq!(codes(&gateway, token, "a").await, expected, "{token}");
    }
}

#[tokio::test]
async fn a_hashed_line_admits_the_secret_and_not_its_hash() {
    // printf %s 0123456789abcdef-other | sha256sum
    let hash = "a658ef908c4c3b06ef604e44f490fdde9827357cf0bdc51847d8d8d75468d37c";
    let line = format!("sha256:{hash} name=wall-display\n");
    let gateway = House::new().with_tokens(&line).open();
    assert_eq!(codes(&gateway, OTHER, "a").await, both("OK", "OK"));
    for wrong in [hash, &format!("sha256:{hash}"), TOKEN] {
        let expected = both("UNAUTHENTICATED", "UNAUTHENTICATED");
        assert_eq!(codes(&gateway, wrong, "a").await, expected, "{wrong}");
    }
}

#[tokio::test]
async fn attributes_stand_in_any_order_and_narrow_what_a_token_may_do() {
    let tokens = "subscribe=none-only publish=order.*,invoice.> subscribe=none name=billing\n\
                  publish-none-only subscribe=order.> publish=none expires=2999-06-30T00:00:00Z\n\
                  0123456789abcdef-default admin=no name=default\n";
    let gateway = House::new().with_tokens(tokens).open();
    for (token, event_type, expected) in [
        ("subscribe=none-only", "order.paid", both("OK", "FORBIDDEN")),
        ("subscribe=none-only", "invoice.a.b", both("OK", "FORBIDDEN")),
        ("subscribe=none-only", "order.a.b", both("FORBIDDEN", "FORBIDDEN")),
        ("publish-none-only", "order.paid", both("FORBIDDEN", "OK")),
        ("publish-none-only", "other", both("FORBIDDEN", "FORBIDDEN")),
        ("0123456789abcdef-default", "anything", both("OK", "OK")),
    ] {
        let seen = codes(&gateway, token, event_type).await;
        assert_eq!(seen, expected, "{token} {event_type}");
    }
}

#[tokio::test]
async fn a_subscription_is_granted_only_where_one_grant_covers_it_whole() {
    let tokens = format!("{OTHER} subscribe=order.*,invoice.>,plain,*.log\n");
    let gateway = House::new().with_tokens(&tokens).open();
    for (pattern, expected) in [
        ("order.paid", "OK"),
        ("order.*", "OK"),
        ("invoice.*", "OK"),
        ("invoice.>", "OK"),
        ("invoice.*.x.>", "OK"),
        ("plain", "OK"),
        ("*.log", "OK"),
        ("order.log", "OK"),
        ("order.>", "FORBIDDEN"),
        ("order.*.*", "FORBIDDEN"),
        ("invoice", "FORBIDDEN"),
        ("*", "FORBIDDEN"),
        ("*.*", "FORBIDDEN"),
        (">", "FORBIDDEN"),
        ("plain.*", "FORBIDDEN"),
    ] {
        let mut subscriber = Subscriber::connect(&gateway.broadcast).await;
        let answer = subscriber.init(OTHER, &[pattern]).await;
        assert_eq!(answer, said("init", expected), "{pattern}");
    }
}

/// The others work, and the log names the line and never what stands on it.
#[tokio::test]
async fn a_bad_line_is_left_out_with_a_warning_that_names_its_number_and_not_its_content() {
    let bad = [
        "tooshort-secret",
        "badattr-secret-0123456789 color=mauve-secret",
        "badword-secret-0123456789 loose-secret",
        "badadmin-secret-0123456789 admin=maybe-secret",
        "badexpiry-secret-0123456789 expires=tomorrow-secret",
        "badgrant-secret-0123456789 publish=a,,secret",
        "badname-secret-0123456789 name=",
        "twice-secret-0123456789 name=a name=secret",
        "sha256:secret0123456789abcdef",
    ];
    // Line 1 is good, and so the first bad one is line 2.
    let gateway = House::new().with_tokens(&format!("{TOKEN}\n{}\n", bad.join("\n"))).open();
    assert_eq!(codes(&gateway, TOKEN, "a").await, both("OK", "OK"));
    for line in bad {
        let token = line.split(' ').next().unwrap();
        let response = post_as(&gateway, token, r#"{"event":"a"}"#).send().await.unwrap();
        assert_eq!(answer(response).await, (403, code("UNAUTHENTICATED")), "{line}");
        let mut subscriber = Subscriber::connect(&gateway.broadcast).await;
        let answer = subscriber.init(token, &["a"]).await;
        assert_eq!(answer, said("init", "UNAUTHENTICATED"), "{line}");
    }
    for process in [&gateway.listen, &gateway.broadcast] {
        for number in 2..bad.len() + 2 {
            let warning = process.wait_for_log(&format!("line {number}: "));
            assert!(warning.contains(r#""level":"warn""#), "{warning}");
        }
        assert!(!process.log().contains("line 1: "));
        assert!(!process.log().contains("secret"), "the log shows a line's content");
    }
}

#[tokio::test]
async fn a_repeated_secret_is_one_token_and_a_contradicted_one_none() {
    let tokens = format!(
        "{TOKEN} name=a publish=b\n{OTHER} name=x\n{TOKEN} publish=b name=a\n{OTHER} name=y\n"
    );
    let gateway = House::new().with_tokens(&tokens).open();
    assert_eq!(codes(&gateway, TOKEN, "b").await, both("OK", "OK"));
    let expected = both("UNAUTHENTICATED", "UNAUTHENTICATED");
    assert_eq!(codes(&gateway, OTHER, "b").await, expected);
    for process in [&gateway.listen, &gateway.broadcast] {
        process.wait_for_log("line 4: ");
        assert!(!process.log().contains("line 3: "));
    }
}

#[tokio::test]
async fn an_expired_token_is_like_an_unknown_one() {
    let tokens = format!("{OTHER} expires=2020-01-01T00:00:00Z\n{TOKEN}\n");
    let gateway = House::new().with_tokens(&tokens).open();
    let expected = both("UNAUTHENTICATED", "UNAUTHENTICATED");
    assert_eq!(codes(&gateway, OTHER, "a").await, expected);
}

/// The sessions are there before the time is set: a slow machine proves less, and fails nothing.
#[tokio::test]
async fn a_token_whose_time_comes_is_refused_and_its_live_sessions_are_closed() {
    let gateway = House::new().with_tokens(&format!("{OTHER}\n{TOKEN}\n")).open();
    let dying = Subscriber::subscribe_as(&gateway.broadcast, OTHER, &["quiet"]).await;
    let idle = Subscriber::subscribe_as(&gateway.broadcast, OTHER, &[]).await;
    let mut living = Subscriber::subscribe(&gateway.broadcast, &["quiet"]).await;
    let soon = Timestamp::now() + SignedDuration::from_secs(2);
    gateway.house.write_tokens(&format!("{OTHER} expires={soon}\n{TOKEN}\n"));
    for session in [dying, idle] {
        assert_eq!(session.closed().await, (4401, "token expired".to_owned()));
    }
    wait_for_answer(&gateway, OTHER, 403).await;
    fire(&gateway, "quiet", "1").await;
    assert_eq!(living.hear().await, event("quiet", "1"));
}

#[tokio::test]
async fn without_an_anonymous_line_nobody_gets_in_without_a_token() {
    let gateway = Gateway::open();
    let response = post_with(&gateway, None, r#"{"event":"a"}"#).send().await.unwrap();
    assert_eq!(answer(response).await, (403, code("UNAUTHENTICATED")));
    let mut subscriber = Subscriber::connect(&gateway.broadcast).await;
    let answer = subscriber.ask(r#"{"events":["a"]}"#).await;
    assert_eq!(answer, said("init", "UNAUTHENTICATED"));
}

#[tokio::test]
async fn an_anonymous_line_is_what_those_get_who_show_nothing_on_both_doors() {
    let tokens = format!("{TOKEN}\nanonymous subscribe=public.> publish=inbox\n");
    let gateway = House::new().with_tokens(&tokens).open();
    for (event_type, expected) in [("inbox", (200, "OK")), ("other", (403, "FORBIDDEN"))] {
        let body = format!(r#"{{"event":"{event_type}"}}"#);
        let answer = answer(post_with(&gateway, None, &body).send().await.unwrap()).await;
        assert_eq!(answer, (expected.0, code(expected.1)), "{event_type}");
    }
    let mut subscriber = Subscriber::connect(&gateway.broadcast).await;
    let answer = subscriber.ask(r#"{"events":["public.a","other"]}"#).await;
    assert_eq!(answer, said("init", "FORBIDDEN"));
    assert_eq!(subscriber.ask(r#"{"events":["public.a"]}"#).await, said("init", "OK"));
    fire(&gateway, "public.a", "1").await;
    assert_eq!(subscriber.hear().await, event("public.a", "1"));
    // Whoever is in as nobody in particular may still say who it is.
    assert_eq!(subscriber.ask(&init(TOKEN, r#"["other"]"#)).await, said("init", "OK"));
}

#[tokio::test]
async fn a_wrong_credential_is_never_treated_as_none() {
    let gateway = House::new().with_tokens("anonymous\n").open();
    for (authorization, expected) in [
        ("", "UNAUTHENTICATED"),
        ("Basic", "UNAUTHENTICATED"),
        ("Basic anonymous", "UNAUTHENTICATED"),
        ("Basic 0123456789abcdef-unknown", "UNAUTHENTICATED"),
        ("Bearer 0123456789abcdef", "AUTH_UNRECOGNIZED_SCHEME"),
    ] {
        let request = post_with(&gateway, Some(authorization), r#"{"event":"a"}"#);
        let answer = answer(request.send().await.unwrap()).await;
        assert_eq!(answer, (403, code(expected)), "{authorization:?}");
        let mut subscriber = Subscriber::connect(&gateway.broadcast).await;
        let message = format!(r#"{{"authentication":"{authorization}","events":["a"]}}"#);
        let answer = subscriber.ask(&message).await;
        assert_eq!(answer, said("init", expected), "{authorization:?}");
    }
}

#[tokio::test]
async fn an_empty_file_is_valid_and_admits_nobody() {
    let gateway = House::new().with_tokens("").open();
    let expected = both("UNAUTHENTICATED", "UNAUTHENTICATED");
    assert_eq!(codes(&gateway, TOKEN, "a").await, expected);
    for process in [&gateway.listen, &gateway.broadcast] {
        assert_eq!(process.readiness().await, (200, r#"{"status":"ready"}"#.to_owned()));
    }
}

#[test]
fn a_file_that_is_missing_or_unreadable_at_start_stops_the_process_with_78() {
    for name in ["listen", "broadcast"] {
        for file in ["missing", "folder"] {
            let house = House::new();
            std::fs::create_dir(house.folder.path().join("folder")).unwrap();
            let path = house.folder.path().join(file);
            let settings = house.set("TOKENS_FILE", path.display()).settings;
            let mut process = Process::spawn(name, &settings);
            assert_eq!(process.wait().code(), Some(78), "{name} {file}");
            process.wait_for_log("TOKENS_FILE");
        }
    }
}
