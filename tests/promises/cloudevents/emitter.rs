//! The official `cloudevents` package of npm sends to us in all its modes, and reads what we give out.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::cloudevents::Reader;
use crate::gateway::{Gateway, TOKEN};
use crate::node::Program;

/// What the package makes of it: it says of each emission how it was sent, what was answered, and
/// which event it was.
struct Emission {
    name: String,
    status: Option<u64>,
    event: Value,
}

async fn hear(program: &mut Program) -> Option<Emission> {
    let mut said = program.hear().await;
    if said["done"] == true {
        return None;
    }
    Some(Emission {
        name: said["name"].as_str().unwrap().to_owned(),
        status: said["status"].as_u64(),
        event: said["event"].take(),
    })
}

#[tokio::test]
async fn every_event_of_the_official_package_arrives_whole_in_every_mode() {
    let gateway = Gateway::open();
    let mut reader = Reader::open(&gateway).await;
    let arguments = [gateway.listen.url() + "/events", TOKEN.to_owned()];
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let mut program = Program::start("emit.js", &arguments);
    let mut modes: BTreeMap<String, usize> = BTreeMap::new();
    while let Some(Emission { name, status, event }) = hear(&mut program).await {
        assert!(status.is_none_or(|it| [200, 201].contains(&it)), "{name}: {status:?} {event}");
        let out = reader.next().await;
        assert_eq!(out, event, "{name}");
        *modes.entry(name.split(' ').next().unwrap().to_owned()).or_default() += 1;
    }
    program.end().await;
    let sent: Vec<(&str, usize)> = modes.iter().map(|(mode, count)| (&**mode, *count)).collect();
    let expected = [("batch", 13), ("binary", 13), ("structured", 13), ("transport", 24)];
    assert_eq!(sent, expected);
}

#[tokio::test]
async fn the_official_package_reads_our_pages_as_batches_of_events() {
    let gateway = Gateway::open();
    let sink = gateway.listen.url() + "/events";
    let mut program = Program::start("emit.js", &[&sink, TOKEN]);
    while hear(&mut program).await.is_some() {}
    program.end().await;
    let mut program = Program::start("read_pages.js", &[TOKEN]);
    let mut reader = Reader::open(&gateway).await;
    let mut count = 0;
    let mut after = "first".to_owned();
    loop {
        let url = format!("{}/events?limit=40&after={after}", gateway.broadcast.url());
        program.tell(&url).await;
        let before = count;
        loop {
            let said = program.hear().await;
            if said["done"] == true {
                break;
            }
            let expected = reader.next().await;
            for (name, value) in expected.as_object().unwrap() {
                assert_eq!(&said[name], value, "{said}");
            }
            after = said["cursor"].as_str().unwrap().to_owned();
            count += 1;
        }
        if count == before {
            break;
        }
    }
    program.end().await;
    assert_eq!(count, 63);
}
