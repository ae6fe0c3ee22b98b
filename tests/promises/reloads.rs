//! The tokens file is followed (WIRE §2): new logins and live sessions go by what it says now.

use std::fs::{self, OpenOptions, Permissions};
use std::io::Write as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::time::{Duration, Instant};

use crate::client::{Subscriber, answer, event, fire, let_pass, post, said, wait_for_answer};
use crate::gateway::{Gateway, House, TOKEN, wait_for};

const FIRST: &str = "0123456789abcdef-first";
const SECOND: &str = "0123456789abcdef-second";

/// WIRE §2 says 1 s, or 1.5 s where the file system tells of no changes. The rest is for a machine
/// on which everything runs at once.
const SOON: Duration = Duration::from_secs(4);

/// What both tables have in common, so that neither looks like half of a file.
fn lines(more: &str) -> String {
    format!("{TOKEN} name=all\n{more}\n")
}

fn write_in_place(house: &House, text: &str) {
    fs::write(house.tokens_file(), text).unwrap();
}

/// After `change` the first token is withdrawn on both doors and the second one works; whoever has
/// another one notices nothing.
async fn assert_followed(gateway: &Gateway, change: impl FnOnce()) {
    let withdrawn = Subscriber::subscribe_as(&gateway.broadcast, FIRST, &["quiet"]).await;
    let mut other = Subscriber::subscribe(&gateway.broadcast, &["quiet"]).await;
    wait_for_answer(gateway, FIRST, 200).await;
    let begin = Instant::now();
    change();
    assert_eq!(withdrawn.closed().await, (4401, "token withdrawn".to_owned()));
    wait_for_answer(gateway, FIRST, 403).await;
    assert!(begin.elapsed() < SOON, "it took {:?}", begin.elapsed());
    wait_for_answer(gateway, SECOND, 200).await;
    let mut late = Subscriber::connect(&gateway.broadcast).await;
    assert_eq!(late.init(FIRST, &["quiet"]).await, said("init", "UNAUTHENTICATED"));
    assert_eq!(late.init(SECOND, &["quiet"]).await, said("init", "OK"));
    fire(gateway, "quiet", "1").await;
    assert_eq!(other.hear().await, event("quiet", "1"));
}

#[tokio::test]
async fn a_write_in_place_is_followed() {
    let gateway = House::new().with_tokens(&lines(FIRST)).open();
    assert_followed(&gateway, || write_in_place(&gateway.house, &lines(SECOND))).await;
}

#[tokio::test]
async fn a_rename_over_the_file_is_followed() {
    let gateway = House::new().with_tokens(&lines(FIRST)).open();
    assert_followed(&gateway, || gateway.house.write_tokens(&lines(SECOND))).await;
}

/// `tokens` → `..data/tokens`, `..data` → a folder of one version; the swap is one rename.
#[tokio::test]
async fn a_symlink_swap_as_in_a_kubernetes_configmap_is_followed() {
    let house = House::new();
    let mount = house.folder.path().join("mount");
    let put = |version: &str, token: &str| {
        fs::create_dir_all(mount.join(version)).unwrap();
        fs::write(mount.join(version).join("tokens"), lines(token)).unwrap();
        symlink(version, mount.join("..data_tmp")).unwrap();
        fs::rename(mount.join("..data_tmp"), mount.join("..data")).unwrap();
    };
    put("..2026_11_21_1", FIRST);
    symlink("..data/tokens", mount.join("tokens")).unwrap();
    let gateway = house.set("TOKENS_FILE", mount.join("tokens").display()).open();
    assert_followed(&gateway, || {
        put("..2026_11_21_2", SECOND);
        fs::remove_dir_all(mount.join("..2026_11_21_1")).unwrap();
    })
    .await;
}

#[tokio::test]
async fn the_last_of_many_quick_changes_wins() {
    let gateway = House::new().with_tokens(&lines(FIRST)).open();
    assert_followed(&gateway, || {
        for round in 0..200 {
            let text = lines(&format!("0123456789abcdef-round-{round}\n{FIRST}"));
            match round % 2 {
                0 => gateway.house.write_tokens(&text),
                _ => write_in_place(&gateway.house, &text),
            }
        }
        gateway.house.write_tokens(&lines(SECOND));
    })
    .await;
}

#[tokio::test]
async fn each_live_session_is_judged_by_what_its_token_may_do_now() {
    let gateway = House::new()
        .with_tokens(&lines(
            "withdrawn-0123456789\nexpired-0123456789\nnarrowed-0123456789\n\
             untouched-0123456789 subscribe=order.>\nidling-0123456789\n\
             spared-0123456789\nwidened-0123456789 subscribe=order.>\nanonymous",
        ))
        .open();
    let subscribe = async |name: &str, events: &[&str]| {
        let token = format!("{name}-0123456789");
        Subscriber::subscribe_as(&gateway.broadcast, &token, events).await
    };
    let withdrawn = subscribe("withdrawn", &["order.paid"]).await;
    let expired = subscribe("expired", &["order.paid"]).await;
    let narrowed = subscribe("narrowed", &["order.paid", "other"]).await;
    let idle = subscribe("idling", &[]).await;
    let mut nobody = Subscriber::connect(&gateway.broadcast).await;
    assert_eq!(nobody.ask(r#"{"events":["order.paid"]}"#).await, said("init", "OK"));
    let mut stay = Vec::new();
    for name in ["untouched", "spared", "widened"] {
        stay.push(subscribe(name, &["order.paid"]).await);
    }
    gateway.house.write_tokens(&lines(
        "expired-0123456789 expires=2020-01-01T00:00:00Z\n\
         narrowed-0123456789 subscribe=order.>\nuntouched-0123456789 subscribe=order.>\n\
         spared-0123456789 subscribe=order.>\nwidened-0123456789",
    ));
    for (session, expected) in [
        (withdrawn, (4401, "token withdrawn")),
        (expired, (4401, "token expired")),
        (narrowed, (4403, "forbidden")),
        (idle, (4401, "token withdrawn")),
        (nobody, (4401, "token withdrawn")),
    ] {
        let (code, reason) = session.closed().await;
        assert_eq!((code, reason.as_str()), expected);
    }
    fire(&gateway, "order.paid", "1").await;
    for session in &mut stay {
        assert_eq!(session.hear().await, event("order.paid", "1"));
    }
    for (session, expected) in stay.iter_mut().zip(["FORBIDDEN", "FORBIDDEN", "OK"]) {
        let answer = session.ask(r#"{"events":["other"]}"#).await;
        assert_eq!(answer, said("init", expected));
    }
}

/// Empties the file, thinks about it, and appends a byte at a time; never pauses for as long as a
/// change must have been stable. Says whether that was so: on a busy machine the writer itself may
/// be held up.
async fn write_slowly(path: &Path, text: &str) -> bool {
    let mut file = OpenOptions::new().write(true).truncate(true).open(path).unwrap();
    let mut last = Instant::now();
    // 800 ms for a file that withdraws every token.
    let_pass(Duration::from_millis(500)).await;
    let mut was_steady = last.elapsed() < Duration::from_millis(700);
    for byte in text.bytes() {
        file.write_all(&[byte]).unwrap();
        last = Instant::now();
        let_pass(Duration::from_millis(20)).await;
        was_steady &= last.elapsed() < Duration::from_millis(150);
    }
    was_steady
}

#[tokio::test]
async fn a_half_written_file_is_not_acted_on() {
    let gateway = House::new().with_tokens(&lines(FIRST)).open();
    let text = lines(FIRST) + SECOND + "\n";
    for _ in 0..20 {
        let mut session = Subscriber::subscribe_as(&gateway.broadcast, FIRST, &["a"]).await;
        let mut all = Subscriber::subscribe(&gateway.broadcast, &["a"]).await;
        if write_slowly(&gateway.house.tokens_file(), &text).await {
            wait_for_answer(&gateway, SECOND, 200).await;
            for session in [&mut session, &mut all] {
                assert_eq!(session.hear().await, r#"{"type":"event","event":"a"}"#);
            }
            return;
        }
        gateway.house.write_tokens(&lines(FIRST));
        wait_for_answer(&gateway, SECOND, 403).await;
        wait_for_answer(&gateway, FIRST, 200).await;
    }
    panic!("this machine is too busy to write a file steadily");
}

#[tokio::test]
async fn a_file_that_is_missing_or_unreadable_keeps_the_last_good_table_until_it_is_back() {
    let house = House::new();
    let root = house.folder.path().to_owned();
    let (folder, file) = (root.join("folder"), root.join("folder/tokens"));
    fs::create_dir(&folder).unwrap();
    fs::write(&file, lines(FIRST)).unwrap();
    let gateway = house.set("TOKENS_FILE", file.display()).open();
    let mut session = Subscriber::subscribe_as(&gateway.broadcast, FIRST, &["a"]).await;
    // The file is gone; something else stands in its place; its folder is gone, and comes back as
    // it was.
    for (moved, takes_its_place) in [(&file, false), (&file, true), (&folder, false)] {
        fs::rename(moved, root.join("aside")).unwrap();
        if takes_its_place {
            fs::create_dir(moved).unwrap();
        }
        for process in [&gateway.listen, &gateway.broadcast] {
            let is_degraded = |status, body: &str| {
                status == 200 && body.contains(r#""degraded":["#) && body.contains("tokens file")
            };
            process.wait_for_readiness("degraded", is_degraded).await;
            let error = process.wait_for_log("the tokens file was not taken");
            assert!(error.contains(r#""level":"error""#), "{error}");
        }
        assert_eq!(answer(post(&gateway, r#"{"event":"a"}"#).send().await.unwrap()).await.0, 200);
        assert_eq!(session.hear().await, r#"{"type":"event","event":"a"}"#);
        Subscriber::subscribe_as(&gateway.broadcast, FIRST, &["a"]).await;
        if takes_its_place {
            fs::remove_dir(moved).unwrap();
        }
        fs::rename(root.join("aside"), moved).unwrap();
        for process in [&gateway.listen, &gateway.broadcast] {
            let is_ready = |status, body: &str| status == 200 && body == r#"{"status":"ready"}"#;
            process.wait_for_readiness("ready", is_ready).await;
        }
    }
    session.assert_nothing_came().await;
}

#[tokio::test]
async fn a_reload_warns_by_line_number_and_never_shows_the_content() {
    let gateway = House::new().with_tokens(&lines(FIRST)).open();
    gateway.house.write_tokens(&lines("shortsecret\nbad-secret-0123456789 color=secret"));
    for process in [&gateway.listen, &gateway.broadcast] {
        for number in [2, 3] {
            process.wait_for_log(&format!("line {number}: "));
        }
        assert!(!process.log().contains("secret"));
    }
}

#[tokio::test]
async fn an_empty_file_withdraws_every_token() {
    let gateway = Gateway::open();
    let session = Subscriber::subscribe(&gateway.broadcast, &["a"]).await;
    write_in_place(&gateway.house, "");
    assert_eq!(session.closed().await, (4401, "token withdrawn".to_owned()));
    wait_for_answer(&gateway, TOKEN, 403).await;
}

#[tokio::test]
async fn a_file_that_others_can_read_is_warned_of_at_start_and_at_reload() {
    const WARNING: &str = "can be read by everybody";
    let house = House::new();
    let open_to_all = Permissions::from_mode(0o644);
    fs::set_permissions(house.tokens_file(), open_to_all.clone()).unwrap();
    let gateway = house.open();
    let processes = [&gateway.listen, &gateway.broadcast];
    for process in processes {
        assert!(process.wait_for_log(WARNING).contains(r#""level":"warn""#));
    }
    gateway.house.write_tokens(&lines(FIRST));
    wait_for_answer(&gateway, FIRST, 200).await;
    fs::set_permissions(gateway.house.tokens_file(), open_to_all).unwrap();
    for process in processes {
        wait_for("a second warning", || {
            (process.log().matches(WARNING).count() == 2).then_some(())
        });
    }
}
