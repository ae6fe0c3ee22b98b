//! `fanfare up`: a whole gateway, and how it ends.

use rustix::process::{Pid, Signal, kill_process};

use super::*;
use crate::signed::{LATER, SECRET, Signer};

/// A gateway by `up`, announced.
struct Up {
    running: Running,
    house: House,
}

impl Up {
    fn start(house: House) -> Self {
        let running = Running::start(fanfare(&house, &["up"]).env_remove("FANFARE_TOKEN"));
        wait_for("the announcement", || running.out().contains("curl").then_some(()));
        Self { running, house }
    }

    /// The line of the announcement with this word in it.
    fn line(&self, word: &str) -> String {
        let out = self.running.out();
        out.lines().find(|line| line.contains(word)).unwrap().to_owned()
    }

    /// Lines pasted into a shell.
    fn paste(&self, lines: &str) -> Command {
        let mut shell = Command::new("sh");
        shell.args(["-c", lines]).current_dir(&self.house.folder);
        shell
    }

    fn pid(&self) -> u32 {
        self.running.child.id()
    }

    /// The process ids of listen and broadcast, as they are now.
    fn children(&self) -> Vec<u32> {
        let path = format!("/proc/{0}/task/{0}/children", self.pid());
        let children = fs::read_to_string(path).unwrap();
        children.split_whitespace().map(|pid| pid.parse().unwrap()).collect()
    }

    fn child(&self, name: &str) -> Option<u32> {
        self.children().into_iter().find(|pid| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            line.split(|byte| *byte == 0).any(|word| word == name.as_bytes())
        })
    }
}

fn signal(pid: u32, signal: Signal) {
    kill_process(Pid::from_raw(i32::try_from(pid).unwrap()).unwrap(), signal).unwrap();
}

/// Gone, or dead and not yet collected by whoever inherited it.
fn is_gone(pid: u32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/stat"));
    status.map_or(true, |status| status.rsplit(") ").next().unwrap().starts_with('Z'))
}

fn house_without_tokens() -> House {
    let house = House::new();
    fs::remove_file(house.tokens_file()).unwrap();
    house
}

#[test]
fn the_lines_that_up_prints_work_when_they_are_pasted() {
    // Whatever the log is set to, nothing of this depends on it.
    for (format, filter) in [("text", "off"), ("json", "debug")] {
        let house = house_without_tokens().set("LOG_FORMAT", format).set("RUST_LOG", filter);
        let up = Up::start(house);
        let token = up.line("export FANFARE_TOKEN=");
        let watch = format!("{token}\n{} --count 1", up.line(" watch "));
        let mut watch = Running::start(&mut up.paste(&watch));
        watch.wait_for_err("watching", 1);
        let (code, out, err) = run(&mut up.paste(&format!("{token}\n{}", up.line("curl "))));
        assert_eq!((code, out.as_str()), (0, r#"{"code":"OK"}"#), "{err}");
        assert!(watch.wait().success());
        let mode = fs::metadata(up.house.tokens_file()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}

#[test]
fn up_takes_signed_tokens_where_its_settings_say_so() {
    let up = Up::start(House::new().with_secret(SECRET).set("JWT_DEFAULT_PUBLISH", ">"));
    let claims = serde_json::json!({"exp": LATER});
    for (signer, status) in [(SECRET, 0), ("of a stranger", 22)] {
        let bearer = format!("Bearer {}", Signer::shared(signer).sign(&claims));
        let curl = up.line("curl ").replace("Basic $FANFARE_TOKEN", "$BEARER");
        assert!(curl.contains("$BEARER"), "{curl}");
        let curl = curl.replacen("curl ", "curl --fail ", 1);
        assert_eq!(run(up.paste(&curl).env("BEARER", bearer)).0, status, "{curl}");
    }
}

#[test]
fn tokens_that_are_there_stay_and_hashed_ones_are_not_guessed() {
    let plain = Up::start(House::new());
    assert!(plain.line("export").ends_with(TOKEN));
    let hashed = format!("sha256:{}\n", "0".repeat(64));
    let up = Up::start(House::new().with_tokens(&hashed));
    assert!(up.line("export").contains("token new"));
    assert_eq!(fs::read_to_string(up.house.tokens_file()).unwrap(), hashed);
    // And what it says instead works, too, within the second that a reload may take.
    let made = format!("{}\nprintf %s \"$FANFARE_TOKEN\"", up.line("export"));
    let token = run(&mut up.paste(&made)).1;
    wait_for("the new token", || {
        let mut curl = up.paste(&up.line("curl "));
        run(curl.env("FANFARE_TOKEN", &token)).1.contains("OK").then_some(())
    });
}

#[test]
fn a_child_that_dies_is_started_again_at_the_same_address() {
    let up = Up::start(house_without_tokens());
    for name in ["listen", "broadcast"] {
        let old = up.child(name).unwrap();
        signal(old, Signal::KILL);
        wait_for("a new child", || up.child(name).filter(|pid| *pid != old));
        let lines = format!("{}\n{}", up.line("export"), up.line("curl "));
        wait_for("the gateway", || run(&mut up.paste(&lines)).1.contains("OK").then_some(()));
    }
}

#[test]
fn a_word_to_stop_ends_both_and_then_up_with_0() {
    for word in [Signal::TERM, Signal::INT] {
        let mut up = Up::start(house_without_tokens());
        let children = up.children();
        assert_eq!(children.len(), 2);
        signal(up.pid(), word);
        assert_eq!(up.running.wait().code(), Some(0));
        assert!(children.into_iter().all(is_gone));
    }
}

#[test]
fn a_hang_up_is_passed_on_and_ends_nobody() {
    let mut up = Up::start(house_without_tokens());
    signal(up.pid(), Signal::HUP);
    up.running.wait_for_err("reading all files again", 2);
    for name in ["listen    | ", "broadcast | "] {
        assert!(up.running.err().contains(name), "{name}");
    }
    assert_eq!(up.running.child.try_wait().unwrap(), None);
}

#[test]
fn nobody_outlives_an_up_that_was_killed() {
    let mut up = Up::start(house_without_tokens());
    let children = up.children();
    signal(up.pid(), Signal::KILL);
    assert_eq!(up.running.wait().signal(), Some(9));
    wait_for("the end of both", || children.iter().all(|pid| is_gone(*pid)).then_some(()));
}

#[test]
fn a_wrong_setting_ends_up_with_78_and_its_name() {
    for (name, flag) in [("PUBLISH_TIMEOUT", "--publish-timeout"), ("MAX_BODY", "--max-body")] {
        let house = House::new().set(name, "nonsense");
        let (code, out, err) = run(&mut fanfare(&house, &["up"]));
        assert_eq!((code, out.as_str()), (78, ""), "{err}");
        assert!(err.contains(flag), "{err}");
    }
}

#[test]
fn an_address_that_is_taken_is_named_before_anything_is_made() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let house = house_without_tokens().set("LISTEN_ADDR", listener.local_addr().unwrap());
    let (code, _, err) = run(&mut fanfare(&house, &["up"]));
    assert_eq!(code, 1);
    assert!(err.contains("LISTEN_ADDR"), "{err}");
    assert!(!house.tokens_file().exists());
}
