use tempfile::TempDir;

use super::*;

const BOOT: &str = "boot-1";
const OTHER_BOOT: &str = "boot-2";

fn database(path: &Path) {
    fs::File::options().create(true).append(true).open(path.join(DATABASE_NAME)).unwrap();
}

fn begin(path: &Path, kept: Kept, is_synced: bool, boot: &str) -> (Identity, Beginning) {
    database(path);
    Identity::begin(Folder::take(path).unwrap(), kept, is_synced, boot).unwrap()
}

fn kept(last: u64, starts: u64) -> Kept {
    Kept { last, age_ms: 0, starts }
}

/// A folder whose log was opened once and reached 100.
fn used(is_synced: bool) -> (TempDir, Beginning) {
    let folder = tempfile::tempdir().unwrap();
    let (_, first) = begin(folder.path(), kept(0, 0), is_synced, BOOT);
    (folder, first)
}

#[test]
fn a_restart_keeps_epoch_and_offsets() {
    let (folder, first) = used(false);
    let (_, second) = begin(folder.path(), kept(100, 1), false, BOOT);
    assert_eq!((&second.epoch, second.last, second.whole_from), (&first.epoch, 100, 0));
    // A start that was cut short between the file and the database.
    let (_, third) = begin(folder.path(), kept(100, 1), false, BOOT);
    assert_eq!((third.epoch, third.clock), (first.epoch, first.clock));
}

#[test]
fn after_a_power_loss_no_offset_that_may_have_been_given_is_given_again() {
    let (folder, first) = used(false);
    let (_, second) = begin(folder.path(), kept(100, 1), false, OTHER_BOOT);
    assert_eq!(second.epoch, first.epoch);
    assert_eq!((second.last, second.whole_from), (RESERVE, RESERVE));
}

#[test]
fn a_start_after_a_power_loss_that_gave_no_offset_is_remembered() {
    let (folder, _) = used(false);
    begin(folder.path(), kept(100, 1), false, OTHER_BOOT);
    let (_, third) = begin(folder.path(), kept(100, 2), false, OTHER_BOOT);
    assert_eq!((third.last, third.whole_from), (RESERVE, RESERVE));
}

#[test]
fn a_start_after_a_power_loss_that_was_cut_short_forgets_nothing_of_it() {
    let (folder, first) = used(false);
    begin(folder.path(), kept(100, 1), false, OTHER_BOOT);
    // The database's count of starts was not raised.
    let (_, third) = begin(folder.path(), kept(100, 1), false, OTHER_BOOT);
    assert_eq!((third.epoch, third.last, third.whole_from), (first.epoch, RESERVE, RESERVE));
}

#[test]
fn another_epoch_begins_whole() {
    let (folder, first) = used(false);
    begin(folder.path(), kept(100, 1), false, OTHER_BOOT);
    let (_, third) = begin(folder.path(), kept(99, 2), false, OTHER_BOOT);
    assert_ne!(third.epoch, first.epoch);
    assert_eq!((third.last, third.whole_from), (99, 0));
}

#[test]
fn an_older_database_after_a_stop_has_another_epoch() {
    let (folder, first) = used(false);
    let (identity, _) = begin(folder.path(), kept(100, 1), false, BOOT);
    identity.end(120).unwrap();
    assert_ne!(begin(folder.path(), kept(119, 2), false, BOOT).1.epoch, first.epoch);
}

#[test]
fn another_database_file_has_another_epoch() {
    let (folder, first) = used(false);
    let path = folder.path().join(DATABASE_NAME);
    fs::rename(&path, folder.path().join("other")).unwrap();
    assert_ne!(begin(folder.path(), kept(100, 1), false, BOOT).1.epoch, first.epoch);
}

#[test]
fn what_was_synced_is_whole_in_another_boot() {
    let (folder, _) = used(true);
    let (_, second) = begin(folder.path(), kept(100, 1), false, OTHER_BOOT);
    assert_eq!((second.last, second.whole_from), (100, 0));
    let (folder, _) = used(false);
    let (identity, _) = begin(folder.path(), kept(100, 1), false, BOOT);
    identity.end(120).unwrap();
    let (_, third) = begin(folder.path(), kept(120, 2), false, OTHER_BOOT);
    assert_eq!((third.last, third.whole_from), (120, 0));
}

#[test]
fn a_copy_of_a_folder_has_another_epoch() {
    let (folder, first) = used(false);
    let copy = tempfile::tempdir().unwrap();
    fs::copy(folder.path().join(NAME), copy.path().join(NAME)).unwrap();
    let (_, second) = begin(copy.path(), kept(100, 1), false, BOOT);
    assert_ne!(second.epoch, first.epoch);
    assert_eq!(second.last, 100);
}

#[test]
fn an_older_copy_written_over_the_files_has_another_epoch() {
    let (folder, first) = used(false);
    let older = fs::read(folder.path().join(NAME)).unwrap();
    let (_, second) = begin(folder.path(), kept(100, 1), false, BOOT);
    assert_eq!(second.epoch, first.epoch);
    fs::write(folder.path().join(NAME), older).unwrap();
    let (_, third) = begin(folder.path(), kept(50, 1), false, BOOT);
    assert_ne!(third.epoch, first.epoch);
}

#[test]
fn an_older_database_beside_a_newer_identity_has_another_epoch() {
    let (folder, first) = used(false);
    begin(folder.path(), kept(100, 1), false, BOOT);
    begin(folder.path(), kept(200, 2), false, BOOT);
    for (last, starts) in [(100, 2), (300, 2), (199, 3)] {
        assert_ne!(begin(folder.path(), kept(last, starts), false, BOOT).1.epoch, first.epoch);
    }
    let (_, fourth) = begin(folder.path(), kept(50, 1), false, BOOT);
    assert_ne!(fourth.epoch, first.epoch);
}

#[test]
fn offsets_are_reserved_ahead() {
    let (folder, _) = used(false);
    let (mut identity, _) = begin(folder.path(), kept(100, 1), false, BOOT);
    identity.reserve(100 + RESERVE / 2).unwrap();
    assert_eq!(identity.record.reserved, 100 + RESERVE);
    identity.reserve(101 + RESERVE / 2).unwrap();
    drop(identity);
    let (_, next) = begin(folder.path(), kept(100, 2), false, OTHER_BOOT);
    assert_eq!(next.last, 101 + RESERVE / 2 + RESERVE);
}

#[test]
fn a_folder_has_one_owner_at_a_time() {
    let folder = tempfile::tempdir().unwrap();
    let first = Folder::take(folder.path()).unwrap();
    assert!(matches!(Folder::take(folder.path()), Err(FolderError::Taken(_))));
    drop(first);
    assert!(Folder::take(folder.path()).is_ok());
}

#[test]
fn a_damaged_identity_begins_a_new_epoch() {
    let (folder, first) = used(false);
    fs::write(folder.path().join(NAME), "{").unwrap();
    assert_ne!(begin(folder.path(), kept(1, 1), false, BOOT).1.epoch, first.epoch);
}
