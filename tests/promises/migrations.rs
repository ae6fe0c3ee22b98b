//! The pages of `docs/migrate`: each starts a gateway with the settings that it tells, runs what a
//! user of the original would, and what comes is what is shown.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::client::fire;
use crate::event_stream::EventStream;
use crate::gateway::{Gateway, TOKEN};
use crate::play::Play;
use crate::rabbit::Rabbit;
use crate::transcript::Names;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/migrate")
}

/// Plays a page. Gives how many of its blocks were run.
async fn play(name: &str) -> usize {
    play_on(Play::before(Names::new()), name).await
}

async fn play_on(stage: Play, name: &str) -> usize {
    let page = fs::read_to_string(folder().join(name)).unwrap();
    stage.play(&format!("docs/migrate/{name}"), &page).await
}

#[tokio::test]
async fn clients_of_event_server_go_over_as_their_page_says() {
    assert!(play("event-server.md").await >= 5);
}

#[tokio::test]
async fn clients_of_relayman_go_over_as_their_page_says() {
    assert!(play("relayman.md").await >= 5);
}

#[tokio::test]
async fn clients_of_the_eventual_agent_go_over_as_their_page_says() {
    assert!(play("eventual-agent.md").await >= 5);
}

#[tokio::test]
async fn clients_of_eventsourced_go_over_as_their_page_says() {
    let stage = Play::before(Names::new()).beside(Rabbit::start().await);
    assert!(play_on(stage, "eventsourced.md").await >= 9);
}

#[tokio::test]
async fn clients_of_pipely_go_over_as_their_page_says() {
    assert!(play("pipely.md").await >= 4);
}

/// A page that nobody plays could say anything.
#[test]
fn every_page_of_migration_is_played_and_stands_in_the_index() {
    let source = include_str!("migrations.rs");
    let index = fs::read_to_string(folder().join("README.md")).unwrap();
    let mut count = 0;
    for entry in fs::read_dir(folder()).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if name != "README.md" {
            assert!(source.contains(&format!("\"{name}\")")), "{name} is not played");
            assert!(index.contains(&format!("({name})")), "{name} is not in the index");
            count += 1;
        }
    }
    assert_eq!(count, 5);
}

/// What eventsourced told at `/debug/vars` (WIRE 8).
#[tokio::test]
async fn the_figures_of_eventsourced_are_among_the_metrics() {
    let gateway = Gateway::open();
    let broadcast = &gateway.broadcast;
    let queue = format!("{}/queue?id=a&type=a", broadcast.url());
    let request = reqwest::Client::new().get(queue);
    let request = request.header("authorization", format!("Basic {TOKEN}"));
    let _consumer = EventStream::of(request).await;
    assert_eq!(broadcast.metric("fanfare_amqp_connections").await, 0.0);
    assert_eq!(broadcast.metric("fanfare_events_delivered_total").await, 0.0);
    for count in [1.0, 2.0] {
        fire(&gateway, "a", "1").await;
        broadcast.wait_for_metric("fanfare_events_delivered_total", count).await;
    }
    broadcast.wait_for_metric("fanfare_sessions", 1.0).await;
    let start = broadcast.metric("fanfare_start_time_seconds").await;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
    assert!(start <= now && now - start < 3600.0, "{start} {now}");
}
