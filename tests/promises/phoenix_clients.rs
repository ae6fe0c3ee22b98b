//! The official clients of Phoenix channels, unchanged, in Node and in a real browser: the one that
//! Relayman's time had, and the current one (WIRE 4).

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::browser::Browser;
use crate::client::fire;
use crate::crashes::Doors;
use crate::gateway::{Gateway, House, Process, TOKEN};
use crate::measures::until;
use crate::node::{Program, folder};
use crate::replay::fire_numbers;

const VERSIONS: [&str; 2] = ["phoenix-1.5.3", "phoenix"];
const READER: &str = "0123456789abcdef-reader";

/// Options of a client that shows a token as all versions can.
fn params(token: &str) -> Value {
    json!({"params": {"token": token}, "heartbeatIntervalMs": 200})
}

fn start(version: &str, broadcast: &Process, options: &Value, header: Option<&str>) -> Program {
    let (url, options) = (format!("{}/socket", broadcast.ws_url()), options.to_string());
    let arguments = [version, &url, &options].into_iter().chain(header).collect::<Vec<_>>();
    Program::start("phoenix.js", &arguments)
}

async fn expect(program: &mut Program, due: Value) {
    assert_eq!(program.hear().await, due);
}

/// The next event of the type `a`, whatever the connection has been through before it.
async fn next_number(program: &mut Program) -> u64 {
    loop {
        let said = program.hear().await;
        match said[0].as_str().unwrap() {
            "event" if said[1] == "a" => return said[2].as_u64().unwrap(),
            "joined" | "closed" => {}
            _ => panic!("{said}"),
        }
    }
}

async fn expect_numbers(program: &mut Program, due: std::ops::Range<u64>) {
    for number in due {
        assert_eq!(next_number(program).await, number);
    }
}

#[tokio::test]
async fn the_official_clients_join_hear_push_beat_leave_and_join_again() {
    let gateway = Gateway::open();
    fire_numbers(&gateway, "a", 0..3).await;
    for (version, first) in VERSIONS.into_iter().zip([3, 6]) {
        let mut program = start(version, &gateway.broadcast, &params(TOKEN), None);
        expect(&mut program, json!(["joined", first])).await;
        expect_numbers(&mut program, 0..first).await;
        fire(&gateway, "a", &first.to_string()).await;
        expect(&mut program, json!(["event", "a", first])).await;
        program.tell("push").await;
        expect(&mut program, json!(["pushed", "unsupported"])).await;
        program.tell("beat").await;
        expect(&mut program, json!(["beat", "ok"])).await;
        program.tell("leave").await;
        expect(&mut program, json!(["left"])).await;
        // What comes while it is away is in the answer to its next join; and a second join takes
        // the place of the first.
        fire(&gateway, "a", &(first + 1).to_string()).await;
        program.tell("join").await;
        expect(&mut program, json!(["joined", 1])).await;
        expect(&mut program, json!(["event", "a", first + 1])).await;
        program.tell("join").await;
        expect(&mut program, json!(["left"])).await;
        expect(&mut program, json!(["joined", 0])).await;
        fire(&gateway, "a", &(first + 2).to_string()).await;
        expect(&mut program, json!(["event", "a", first + 2])).await;
        program.tell("beat").await;
        expect(&mut program, json!(["beat", "ok"])).await;
        program.end().await;
    }
}

#[tokio::test]
async fn the_official_clients_get_all_behind_their_cursor_however_much_that_is() {
    for version in VERSIONS {
        let gateway = Gateway::open();
        fire_numbers(&gateway, "a", 0..130).await;
        let mut program = start(version, &gateway.broadcast, &params(TOKEN), None);
        expect(&mut program, json!(["joined", 100])).await;
        expect_numbers(&mut program, 30..130).await;
        fire_numbers(&gateway, "a", 130..450).await;
        expect_numbers(&mut program, 130..450).await;
        program.tell("rewind").await;
        expect(&mut program, json!(["left"])).await;
        expect(&mut program, json!(["joined", 100])).await;
        expect_numbers(&mut program, 130..450).await;
        fire(&gateway, "a", "450").await;
        expect(&mut program, json!(["event", "a", 450])).await;
        program.end().await;
    }
}

#[tokio::test]
async fn the_official_clients_miss_and_repeat_nothing_over_restarts_of_broadcast() {
    let doors = Doors::choose();
    let mut gateway = doors.house().open();
    let mut programs: Vec<_> =
        VERSIONS.iter().map(|it| start(it, &gateway.broadcast, &params(TOKEN), None)).collect();
    for program in &mut programs {
        expect(program, json!(["joined", 0])).await;
    }
    let mut next = 0;
    for signal in [Signal::KILL, Signal::TERM, Signal::KILL] {
        fire_numbers(&gateway, "a", next..next + 20).await;
        gateway = gateway.restart_broadcast(signal).await;
        fire_numbers(&gateway, "a", next + 20..next + 150).await;
        for program in &mut programs {
            expect_numbers(program, next..next + 150).await;
        }
        next += 150;
    }
    for program in programs {
        program.end().await;
    }
}

#[tokio::test]
async fn a_token_is_shown_as_a_parameter_a_header_a_subprotocol_or_not_at_all() {
    let tokens = format!("{TOKEN} name=all\n{READER} name=reader publish=none subscribe=a\n");
    let gateway = House::new().with_tokens(&tokens).open();
    fire_numbers(&gateway, "a", 0..1).await;
    let auth_token = |token: &str| json!({"authToken": token});
    let basic = format!("Basic {READER}");
    let refused = |reason: &str| json!(["refused", reason]);
    let joined = json!(["joined", 1]);
    for version in VERSIONS {
        // Older versions know no `authToken`.
        let by_auth_token = match version {
            "phoenix" => joined.clone(),
            _ => refused("unauthenticated"),
        };
        for (options, header, due) in [
            (params(READER), None, &joined),
            (params(&basic), None, &joined),
            (json!({}), Some(basic.as_str()), &joined),
            (json!({}), None, &refused("unauthenticated")),
            (params("0123456789abcdef-nobody"), None, &refused("unauthenticated")),
            (auth_token(READER), None, &by_auth_token),
        ] {
            let mut program = start(version, &gateway.broadcast, &options, header);
            expect(&mut program, due.clone()).await;
        }
    }
    gateway.house.write_tokens(&format!("{tokens}anonymous subscribe=a publish=none\n"));
    // They come back by themselves, with what they have to show.
    for version in VERSIONS {
        until("a stranger is let in", async || {
            let mut program = start(version, &gateway.broadcast, &json!({}), None);
            (program.hear().await == joined).then_some(())
        })
        .await;
    }
    let log = gateway.broadcast.log();
    assert!(!log.contains(READER) && !log.contains("base64url.bearer"), "{log}");
}

#[tokio::test]
async fn a_withdrawn_token_ends_the_session_and_a_client_that_waits_is_let_in_again() {
    let all = format!("{TOKEN} name=all\n");
    let with = |grants: &str| format!("{all}{READER} name=reader subscribe={grants}\n");
    let gateway = House::new().with_tokens(&with("a,b")).open();
    let mut programs: Vec<_> =
        VERSIONS.iter().map(|it| start(it, &gateway.broadcast, &params(READER), None)).collect();
    for program in &mut programs {
        expect(program, json!(["joined", 0])).await;
    }
    fire(&gateway, "b", "1").await;
    for (tokens, closed) in
        [(with("a"), json!(["closed", 4403])), (all.clone(), json!(["closed", 4401]))]
    {
        gateway.house.write_tokens(&tokens);
        for program in &mut programs {
            if closed[1] == 4403 {
                expect(program, json!(["event", "b", 1])).await;
            }
            expect(program, closed.clone()).await;
            let came_back = program.hear().await;
            let due = [json!(["joined", 0]), json!(["refused", "unauthenticated"])];
            assert_eq!(came_back, due[usize::from(closed[1] == 4401)]);
        }
    }
    fire(&gateway, "a", "2").await;
    gateway.house.write_tokens(&with("a"));
    for program in &mut programs {
        loop {
            let said = program.hear().await;
            if said == json!(["joined", 1]) {
                break;
            }
            // Its joins are refused, and its time without a credential may end.
            let is_due = said[0] == "refused" || said == json!(["closed", 4401]);
            assert!(is_due, "{said}");
        }
        expect(program, json!(["event", "a", 2])).await;
    }
}

/// All events that a page has heard.
async fn heard(browser: &Browser) -> Vec<u64> {
    let said = browser.run("return window.said;").await;
    let said = said.as_array().unwrap().iter();
    said.filter(|it| it[0] == "event").map(|it| it[2].as_u64().unwrap()).collect()
}

async fn expect_in_page(browser: &Browser, what: &str, due: &Value) {
    until(what, async || {
        let said = browser.run("return window.said.at(-1);").await;
        (said == *due).then_some(())
    })
    .await;
}

#[tokio::test]
async fn in_a_browser_the_official_clients_resume_over_restarts_and_end_with_their_token() {
    let doors = Doors::choose();
    let with_reader = format!("{TOKEN} name=all\n{READER} name=reader subscribe=a\n");
    let channel = std::fs::read_to_string(folder().join("channel.js")).unwrap();
    for version in VERSIONS {
        let mut gateway = doors.house().with_tokens(&with_reader).open();
        let browser = Browser::open(&format!("{}/healthz", gateway.broadcast.url())).await;
        let bundle = format!("node_modules/{version}/priv/static/phoenix.js");
        let bundle = std::fs::read_to_string(folder().join(bundle)).unwrap();
        browser.run(&format!("{bundle}; window.Phoenix = Phoenix;")).await;
        let options = match version {
            "phoenix" => json!({"authToken": READER}),
            _ => params(READER),
        };
        let begin = format!(
            "{channel}; window.said = [];
             const say = (what) => window.said.push(what);
             follow(Phoenix.Socket, '/socket', {options}, 'source:/all', say);"
        );
        fire_numbers(&gateway, "a", 0..2).await;
        browser.run(&begin).await;
        expect_in_page(&browser, "what is kept", &json!(["event", "a", 1])).await;
        for (signal, next) in [(Signal::KILL, 2), (Signal::TERM, 152)] {
            gateway = gateway.restart_broadcast(signal).await;
            fire_numbers(&gateway, "a", next..next + 150).await;
            let last = next + 149;
            expect_in_page(&browser, "what came meanwhile", &json!(["event", "a", last])).await;
        }
        assert_eq!(heard(&browser).await, Vec::from_iter(0..302));
        gateway.house.write_tokens(&format!("{TOKEN} name=all\n"));
        let refused = json!(["refused", "unauthenticated"]);
        expect_in_page(&browser, "a refusal", &refused).await;
        let said = browser.run("return window.said;").await;
        assert!(said.as_array().unwrap().contains(&json!(["closed", 4401])), "{said}");
        browser.close().await;
    }
}
