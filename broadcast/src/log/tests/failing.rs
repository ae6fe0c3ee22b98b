//! What becomes of events that cannot be kept, of those that hang on them, and of the others.

use rusqlite::Connection;

use super::*;
use crate::log::identity::DATABASE_NAME;

impl House {
    /// From now on the database refuses what `what` says, as a full disk does.
    fn break_disk(&self, what: &str) {
        let sql = format!(
            "CREATE TRIGGER broken BEFORE {what} BEGIN SELECT RAISE(ABORT, 'no room'); END"
        );
        self.connection().execute_batch(&sql).unwrap();
    }

    fn mend_disk(&self) {
        self.connection().execute_batch("DROP TRIGGER broken").unwrap();
    }

    fn connection(&self) -> Connection {
        Connection::open(self.folder.as_ref().unwrap().path().join(DATABASE_NAME)).unwrap()
    }

    fn is_failing(&self) -> bool {
        self.archive.health().is_failing.load(Ordering::Relaxed)
    }
}

#[actix_web::test]
async fn a_failed_commit_refuses_all_that_hangs_on_it_and_nothing_else() {
    let mut house = House::on_disk(&[true]);
    let (mut one, mut other) = (Link::default(), Link::default());
    house.publish(&mut one, RETRY, &["kept"]).await;
    assert_eq!(house.workers[0].fed(), [1]);
    house.break_disk("INSERT ON pages");
    // One that was kept, new ones, and repeats of the new ones on the same link and another.
    one.submit(&house.inbox, RETRY, &["kept", "new", "new"]).await;
    one.submit(&house.inbox, PLAIN, &["kept", "new"]).await;
    other.submit(&house.inbox, RETRY, &["new", "kept"]).await;
    let told = [one.wait().await, other.wait().await];
    assert_eq!(told[0], [Refused(3), Refused(4), Refused(5), Refused(6), Placed(2, 1, Some(1))]);
    assert_eq!(told[1], [Refused(1), Placed(2, 1, Some(1))]);
    assert!(house.is_failing());
    assert_eq!(house.workers[0].fed(), Vec::<u64>::new(), "nobody sees what is not kept");
    assert_eq!((house.archive.end(), named(&house.kept().await)), (1, vec![(1, "kept")]));
}

#[actix_web::test]
async fn what_was_refused_is_forgotten_and_its_offsets_are_never_given_again() {
    let mut house = House::on_disk(&[true]);
    let mut link = Link::default();
    house.publish(&mut link, RETRY, &["1"]).await;
    house.break_disk("INSERT ON pages");
    for number in [2, 4] {
        let told = house.publish(&mut link, RETRY, &["2", "3"]).await;
        assert_eq!(told, [Refused(number), Refused(number + 1)]);
    }
    // Retries of what is kept are answered all the while.
    assert_eq!(house.publish(&mut link, RETRY, &["1"]).await, [Placed(6, 1, None)]);
    house.mend_disk();
    assert_eq!(house.publish(&mut link, RETRY, &["3", "2"]).await.len(), 2);
    assert!(!house.is_failing());
    assert_eq!(house.workers[0].fed(), [1, 6, 7]);
    assert_eq!(named(&house.kept().await), [(1, "1"), (6, "3"), (7, "2")]);
    assert_eq!(house.publish(&mut link, RETRY, &["2"]).await, [Placed(9, 7, Some(1))]);
    // The range that was never kept is no gap: a cursor from before it goes on behind it.
    let mut house = house.reopen().await;
    let mut link = Link::default();
    assert_eq!(house.publish(&mut link, RETRY, &["3", "1"]).await.len(), 2);
    house.publish(&mut link, PLAIN, &["4"]).await;
    assert_eq!(named(&house.kept().await), [(1, "1"), (6, "3"), (7, "2"), (8, "4")]);
}

/// Where the bounds cannot be kept, nothing more is taken either: but what is there stays whole,
/// and readers are not told that it is gone once it turns out that it is not.
#[actix_web::test]
async fn a_commit_that_cannot_free_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let mut house = House::open(Some(folder), &[]);
    let mut link = Link::default();
    for number in 0..40 {
        house.publish(&mut link, PLAIN, &[&number.to_string()]).await;
    }
    let folder = {
        let House { folder, inbox, running, archive, .. } = house;
        drop((inbox, archive));
        running.unwrap().await.unwrap();
        folder
    };
    let bounds = Settings { events_max: 10, ..settings(folder.as_ref()) };
    let opened = Opened::open(&bounds).unwrap();
    let archive = Arc::clone(&opened.archive);
    let (log, inbox) = Log::new(opened, Vec::new(), Memory::new(1 << 30), Arc::default());
    let log = Some(log);
    let mut house = House { folder, archive, inbox, workers: Vec::new(), log, running: None };
    let mut link = Link::default();
    house.break_disk("DELETE ON pages");
    assert_eq!(house.publish(&mut link, PLAIN, &["x"]).await, [Refused(1)]);
    assert_eq!((house.archive.earliest(), house.kept().await.len()), (0, 40));
    house.mend_disk();
    assert_eq!(house.publish(&mut link, PLAIN, &["y"]).await, []);
    assert_eq!(house.archive.earliest(), 16);
}

/// While nothing comes, the log finds out by itself that it can write again.
#[actix_web::test]
async fn a_log_that_is_failing_notices_that_it_can_write_again() {
    let mut house = House::on_disk(&[]);
    let mut link = Link::default();
    house.publish(&mut link, PLAIN, &["1"]).await;
    house.break_disk("INSERT ON pages");
    house.publish(&mut link, PLAIN, &["2"]).await;
    assert!(house.is_failing());
    house.mend_disk();
    let health = async {
        while house.is_failing() {
            tokio::task::yield_now().await;
        }
    };
    assert!(tokio::time::timeout(Duration::from_secs(5), health).await.is_ok());
}

/// What the log has to know again is damaged: it does not begin as if that had never been.
#[actix_web::test]
async fn a_damaged_page_among_the_newest_is_told_at_the_start() {
    let mut house = House::on_disk(&[]);
    let mut link = Link::default();
    house.publish(&mut link, PLAIN, &["1"]).await;
    house.publish(&mut link, PLAIN, &["2"]).await;
    let House { folder, inbox, running, archive, .. } = house;
    drop((inbox, archive));
    running.unwrap().await.unwrap();
    let connection = Connection::open(folder.as_ref().unwrap().path().join(DATABASE_NAME)).unwrap();
    for (column, value) in [("events", "x'00'"), ("last", "5"), ("age_ms", "123456789")] {
        let row = "FROM pages WHERE first = 1";
        connection.execute_batch(&format!("CREATE TEMP TABLE whole AS SELECT * {row}")).unwrap();
        let sql = format!("UPDATE pages SET {column} = {value} WHERE first = 1");
        connection.execute(&sql, []).unwrap();
        assert!(Opened::open(&settings(folder.as_ref())).is_err(), "{column}");
        let sql = format!("DELETE {row}; INSERT INTO pages SELECT * FROM whole; DROP TABLE whole");
        connection.execute_batch(&sql).unwrap();
    }
    assert!(Opened::open(&settings(folder.as_ref())).is_ok());
}
