use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use super::*;

/// A file with one number a line; "bad" is no number.
#[derive(Debug)]
struct Numbers(PathBuf);

impl Source for Numbers {
    type Value = Vec<u32>;

    fn what(&self) -> &'static str {
        "numbers"
    }

    fn paths(&self) -> Vec<PathBuf> {
        vec![self.0.clone()]
    }

    fn parse(&self, contents: &[Vec<u8>]) -> Result<Parsed<Vec<u32>>, String> {
        let text = String::from_utf8(contents[0].clone()).unwrap();
        let value: Result<Vec<u32>, _> = text.lines().map(str::parse).collect();
        let value = value.map_err(|_| "not a number".to_owned())?;
        Ok(Parsed { value, warnings: vec![], is_cut_short: !text.ends_with('\n') })
    }

    fn withdraws_all(&self, old: &Vec<u32>, new: &Vec<u32>) -> bool {
        !old.is_empty() && new.is_empty()
    }

    fn is_secret(&self, _: usize) -> bool {
        false
    }
}

fn follow(path: &Path) -> Arc<Reloaded<Vec<u32>>> {
    Reloaded::follow(Numbers(path.to_owned())).unwrap()
}

/// Waits for a fact that must come true; the limit is only there to end a test that fails.
fn wait_until(what: &str, mut is_true: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !is_true() {
        assert!(Instant::now() < deadline, "never: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_change_in_place_by_rename_and_by_symlink_is_taken() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("numbers");
    fs::write(&path, "1\n").unwrap();
    let reloaded = follow(&path);
    assert_eq!(**reloaded.load(), [1]);

    fs::write(&path, "2\n").unwrap();
    wait_until("written in place", || **reloaded.load() == [2]);

    fs::write(folder.path().join("new"), "3\n").unwrap();
    fs::rename(folder.path().join("new"), &path).unwrap();
    wait_until("renamed over", || **reloaded.load() == [3]);

    for (version, number) in [("v1", 4), ("v2", 5)] {
        fs::create_dir(folder.path().join(version)).unwrap();
        fs::write(folder.path().join(version).join("numbers"), format!("{number}\n")).unwrap();
    }
    symlink("v1", folder.path().join("data")).unwrap();
    symlink("data/numbers", folder.path().join("link")).unwrap();
    fs::rename(folder.path().join("link"), &path).unwrap();
    wait_until("became a symlink", || **reloaded.load() == [4]);
    symlink("v2", folder.path().join("data.new")).unwrap();
    fs::rename(folder.path().join("data.new"), folder.path().join("data")).unwrap();
    wait_until("symlink swapped", || **reloaded.load() == [5]);
}

#[test]
fn the_last_of_many_quick_changes_wins() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("numbers");
    fs::write(&path, "0\n").unwrap();
    let reloaded = follow(&path);
    for number in 1..=200 {
        fs::write(&path, format!("{number}\n")).unwrap();
    }
    wait_until("the last one", || **reloaded.load() == [200]);
    assert!(reloaded.counts().taken.load(Ordering::Relaxed) < 100, "not every one is read");
}

#[test]
fn what_is_missing_or_wrong_keeps_the_last_good_value() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("numbers");
    fs::write(&path, "1\n").unwrap();
    let reloaded = follow(&path);

    fs::rename(&path, folder.path().join("away")).unwrap();
    wait_until("missed", || reloaded.fault().is_some());
    assert_eq!(**reloaded.load(), [1]);
    fs::rename(folder.path().join("away"), &path).unwrap();
    wait_until("back", || reloaded.fault().is_none());

    fs::write(&path, "bad\n").unwrap();
    wait_until("refused", || reloaded.fault().is_some_and(|it| it.contains("not a number")));
    assert_eq!(**reloaded.load(), [1]);
    fs::remove_file(&path).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &path,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR,
        0,
    )
    .unwrap();
    wait_until("a pipe refused", || reloaded.fault().is_some_and(|it| it.contains("regular")));
    fs::remove_file(&path).unwrap();
    fs::write(&path, "7\n").unwrap();
    wait_until("good again", || **reloaded.load() == [7] && reloaded.fault().is_none());
}

#[test]
fn a_file_that_looks_half_written_is_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("numbers");
    fs::write(&path, "1\n").unwrap();
    let reloaded = follow(&path);
    let begun = Instant::now();
    fs::write(&path, "").unwrap();
    wait_until("emptied at last", || reloaded.load().is_empty());
    assert!(begun.elapsed() >= STABLE_IF_SUSPICIOUS, "an empty file was acted on too soon");
}

#[test]
fn a_missing_file_stops_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let error = Reloaded::follow(Numbers(folder.path().join("none"))).unwrap_err();
    assert!(matches!(error, LoadError::Read(ReadError::Unreadable(..))), "{error}");
}

#[test]
fn being_asked_reads_a_file_that_looks_unchanged() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("numbers");
    fs::write(&path, "1\n").unwrap();
    let reloaded = follow(&path);
    reloaded.ask();
    wait_until("read again", || reloaded.counts().taken.load(Ordering::Relaxed) == 1);
}
