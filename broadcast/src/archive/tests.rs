use super::*;

/// An archive of epoch `now` that has 11 to 20, all in memory.
fn archive(whole_from: u64) -> Arc<Archive> {
    Archive::new("now".parse().unwrap(), (10, 20), whole_from, Recent::new(1, 20), Vec::new())
}

#[test]
fn a_cursor_is_recovered_where_all_that_follows_it_is_kept() {
    const WHOLE: Option<Recovery> = Some(Recovery::Whole);
    const BROKEN: Option<Recovery> = Some(Recovery::Broken { earliest: 10 });
    let table = [
        ("now-10", 10, WHOLE),
        ("now-15", 15, WHOLE),
        ("now-20", 20, WHOLE),
        // Older than the log: what is kept follows.
        ("now-9", 10, BROKEN),
        ("now-0", 10, BROKEN),
        // Beyond its end, or of another epoch: only what is live follows.
        ("now-21", 18, BROKEN),
        ("then-15", 18, BROKEN),
    ];
    for (cursor, place, recovered) in table {
        let opening = archive(0).resume(&cursor.parse().unwrap(), 18);
        assert_eq!(opening, Opening { place, recovered }, "{cursor}");
    }
}

#[test]
fn a_cursor_before_a_loss_is_not_whole_but_what_is_kept_follows() {
    let broken = Some(Recovery::Broken { earliest: 15 });
    let archive = archive(15);
    for (offset, place, recovered) in
        [(15, 15, Some(Recovery::Whole)), (14, 14, broken), (10, 10, broken), (3, 10, broken)]
    {
        let cursor = archive.epoch.at(offset);
        assert_eq!(archive.resume(&cursor, 20), Opening { place, recovered }, "{offset}");
    }
}
