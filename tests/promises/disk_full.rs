//! The disk is full, and has room again (HARDENING, "Kept events"): publishers get 503, readers go
//! on, nothing that was acknowledged is lost, and nobody has to restart anything.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use serde_json::json;
use tempfile::TempDir;

use crate::client::{Subscriber, answer, event, post};
use crate::gateway::{Gateway, House, Process};
use crate::measures::{ask_admin, degraded, until};
use crate::replay::{Replay, all_kept, numbers};

/// A file system with so little room, which goes with its owner.
struct SmallDisk {
    folder: TempDir,
}

impl SmallDisk {
    /// None where one may not mount.
    fn mount() -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let options = ["-t", "tmpfs", "-o", "size=4m", "tmpfs"];
        let mounted = Command::new("mount").args(options).arg(folder.path()).status();
        mounted.is_ok_and(|status| status.success()).then_some(Self { folder })
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn grow(&self) {
        let grow = ["-o", "remount,size=64m"];
        assert!(Command::new("mount").args(grow).arg(self.path()).status().unwrap().success());
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: a process of a failed test may still be there.
        let _ = Command::new("umount").arg("-l").arg(self.path()).status();
    }
}

/// Fires numbered events of 64 KiB until one is refused: the accepted, and the next number.
async fn fill(gateway: &Gateway) -> (BTreeSet<u64>, u64) {
    let padding = "x".repeat(64 * 1024);
    let mut accepted = BTreeSet::new();
    // The room that there is holds 64 of them at most, with all that the log needs beside.
    for number in 0..200 {
        let body = format!(r#"{{"event":"a","data":{{"n":{number},"padding":"{padding}"}}}}"#);
        match answer(post(gateway, body).send().await.unwrap()).await {
            (200, _) => assert!(accepted.insert(number)),
            (503, _) => return (accepted, number + 1),
            other => panic!("{other:?}"),
        }
    }
    panic!("the disk never became full");
}

async fn assert_survives_a_full_disk(gateway: &Gateway, relieve: impl FnOnce()) {
    let mut live = Subscriber::subscribe(&gateway.broadcast, &["later"]).await;
    let (accepted, next) = fill(gateway).await;
    assert!(!accepted.is_empty());
    until("broadcast says that it is degraded", async || {
        (!degraded(&gateway.broadcast).await.is_empty()).then_some(())
    })
    .await;
    assert_eq!(ask_admin(&gateway.listen, "/readyz").await.0, 200);
    // Whoever reads goes on: who is there, who comes, and who resumes.
    live.assert_nothing_came().await;
    let after = json!({"after": "first"});
    let mut reading = Replay::begin(&gateway.broadcast, &["a"], after).await;
    assert_eq!(reading.answer["recovered"], true, "{}", reading.text);
    let mut heard = Vec::new();
    for _ in &accepted {
        heard.push(reading.hear_event().await);
    }
    assert_eq!(numbers(&heard).into_iter().collect::<BTreeSet<_>>(), accepted);
    // It is no matter of luck.
    for _ in 0..3 {
        let padding = "x".repeat(64 * 1024);
        let body = format!(r#"{{"event":"a","data":{{"n":{next},"padding":"{padding}"}}}}"#);
        let (status, body) = answer(post(gateway, body).send().await.unwrap()).await;
        assert_eq!(status, 503, "{body}");
    }
    relieve();
    until("an event is taken again", async || {
        let response = post(gateway, r#"{"event":"later","data":1}"#).send().await.unwrap();
        (response.status() == 200).then_some(())
    })
    .await;
    assert_eq!(live.hear().await, event("later", "1"));
    until("it is degraded no more", async || {
        degraded(&gateway.broadcast).await.is_empty().then_some(())
    })
    .await;
    let kept = numbers(&all_kept(gateway, &["a"]).await);
    let once: BTreeSet<u64> = kept.iter().copied().collect();
    assert_eq!(once.len(), kept.len(), "twice: {kept:?}");
    let lost: Vec<_> = accepted.difference(&once).collect();
    assert!(lost.is_empty(), "acknowledged and lost: {lost:?}");
    assert!(!gateway.broadcast.log().contains("panicked"));
}

#[tokio::test]
async fn a_full_disk_costs_publishers_a_503_and_nobody_anything_else() {
    let Some(disk) = SmallDisk::mount() else {
        eprintln!("NOT TESTED ON A FULL DISK: only root may mount one. A limit of file sizes is.");
        assert!(!rustix::process::geteuid().is_root(), "root cannot mount here");
        return;
    };
    let house = House::new().set("DATA_DIR", disk.path().join("data").display());
    let gateway = house.set("PUBLISH_TIMEOUT", "2s").open();
    assert_survives_a_full_disk(&gateway, || disk.grow()).await;
    drop(gateway);
}

/// A gateway whose broadcast may write no file of more than 2 MiB.
fn open_with_small_files() -> Gateway {
    let house = House::new().set("PUBLISH_TIMEOUT", "2s");
    // In units of 512 bytes; who ignores the signal gets an error instead.
    let limit = "trap '' XFSZ; ulimit -S -f 4096";
    let broadcast = Process::start_behind("broadcast", &house.settings, limit);
    let listen = house.listen();
    listen.wait_for_log("the link is up");
    Gateway { listen, broadcast, house }
}

/// The same for everybody: a file that may not grow is a disk that is full.
#[tokio::test]
async fn files_that_may_not_grow_cost_publishers_a_503_and_nobody_anything_else() {
    let gateway = open_with_small_files();
    let pid = gateway.broadcast.pid().to_string();
    let relieve = move || {
        let lifted = Command::new("prlimit").args(["--pid", &pid, "--fsize=unlimited"]).status();
        assert!(lifted.unwrap().success());
    };
    assert_survives_a_full_disk(&gateway, relieve).await;
}

/// An event that did not fit may be sent again, and comes once.
#[tokio::test]
async fn what_a_full_disk_refused_is_taken_when_it_is_sent_again() {
    let gateway = open_with_small_files();
    fill(&gateway).await;
    let mut live = Replay::begin(&gateway.broadcast, &["b"], json!({"cursor": true})).await;
    let padding = "x".repeat(64 * 1024);
    let body =
        format!(r#"{{"event":"b","data":{{"n":1,"padding":"{padding}"}},"id":"i","source":"s"}}"#);
    let refused = post(&gateway, body.clone()).send().await.unwrap();
    assert_eq!(answer(refused).await.0, 503);
    let pid = gateway.broadcast.pid().to_string();
    let lifted = Command::new("prlimit").args(["--pid", &pid, "--fsize=unlimited"]).status();
    assert!(lifted.unwrap().success());
    until("it is taken", async || {
        let response = post(&gateway, body.clone()).send().await.unwrap();
        (response.status() == 200).then_some(())
    })
    .await;
    assert_eq!(numbers(&live.rest(&gateway).await), [1]);
    assert_eq!(numbers(&all_kept(&gateway, &["b"]).await), [1]);
}
