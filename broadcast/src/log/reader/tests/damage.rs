//! What is damaged on the disk is told as damaged, and never read as other events.

use super::*;

/// A log of four segments of single events, of which half are of type `a`.
fn house() -> House {
    let mut house = House::open(10_000);
    for number in 0..256 {
        let event_type = if number % 2 == 0 { "a" } else { "b" };
        house.append(0, vec![event(event_type, &number.to_string())], 1000 + number);
    }
    house
}

fn wish(pattern: &'static str) -> Wish {
    Wish { patterns: vec![(pattern, 0)], sources: vec!["*"], subject: None }
}

impl House {
    fn change(&self, sql: &str) {
        let connection = Connection::open(self.path()).unwrap();
        assert!(connection.execute(sql, []).unwrap() > 0, "{sql} changes nothing");
    }

    fn blob(&self, sql: &str) -> Vec<u8> {
        let connection = Connection::open(self.path()).unwrap();
        connection.query_row(sql, [], |row| row.get(0)).unwrap()
    }

    /// Changes each byte of a blob in turn, and says what becomes of a walk for a pattern.
    fn flip(&mut self, table: &str, column: &str, first: u64, pattern: &'static str) {
        let row = format!("FROM {table} WHERE first = {first}");
        let whole = self.blob(&format!("SELECT {column} {row}"));
        let connection = Connection::open(self.path()).unwrap();
        let sql = format!("UPDATE {table} SET {column} = ?1 WHERE first = {first}");
        for at in 0..whole.len() {
            let mut changed = whole.clone();
            changed[at] ^= 1 << (at % 8);
            connection.execute(&sql, [&changed]).unwrap();
            let walked = self.walk(0, &wish(pattern).filter(), 1 << 20);
            assert!(walked.is_err(), "byte {at} of {column} in {table}");
        }
        connection.execute(&sql, [&whole]).unwrap();
        assert!(self.walk(0, &wish(pattern).filter(), 1 << 20).is_ok());
    }
}

#[test]
fn a_changed_byte_of_a_page_is_told() {
    house().flip("pages", "events", 101, "a");
}

#[test]
fn a_changed_byte_of_an_index_is_told() {
    let mut house = house();
    house.flip("segments", "types", 65, "a");
    house.flip("segments", "sources", 65, "a");
}

/// A number that says where a page or a segment is decides what is found in it, too.
#[test]
fn a_changed_number_is_told() {
    for sql in [
        "UPDATE pages SET first = 1000 WHERE first = 101",
        "UPDATE pages SET last = 102 WHERE first = 101",
        "UPDATE pages SET wall_us = 7 WHERE first = 101",
        "UPDATE pages SET age_ms = 7 WHERE first = 101",
        "UPDATE pages SET checksum = 7 WHERE first = 101",
        "UPDATE segments SET checksum = 7 WHERE first = 65",
        "UPDATE segments SET last = 200 WHERE first = 65",
        "UPDATE segments SET last = 100 WHERE first = 65",
        "UPDATE segments SET first = 66 WHERE first = 65",
        "UPDATE segments SET first = 64 WHERE first = 65",
    ] {
        let mut house = house();
        house.change(sql);
        assert!(house.walk(0, &wish("a").filter(), 1 << 20).is_err(), "{sql}");
        let back = house.reading.look_back(256, 256, &wish("a").filter());
        assert!(back.is_err(), "{sql}, backwards");
    }
}

#[test]
fn a_page_that_the_index_names_and_that_is_lost_is_told() {
    let mut house = house();
    house.change("DELETE FROM pages WHERE first BETWEEN 101 AND 105");
    assert!(house.walk(0, &wish("a").filter(), 1 << 20).is_err());
    assert!(house.walk(110, &wish("a").filter(), 1 << 20).is_ok(), "what is behind can be read");
    assert!(house.walk(105, &wish("a").filter(), 1 << 20).is_ok(), "directly behind it, too");
    assert!(house.reading.look_back(256, 256, &wish("a").filter()).is_err());
}

#[test]
fn pages_whose_index_is_lost_are_told() {
    let mut house = house();
    house.change("DELETE FROM segments WHERE first = 65");
    assert!(house.walk(0, &wish("a").filter(), 1 << 20).is_err());
}

/// A damaged page stops those who come to it, and nobody else.
#[test]
fn what_is_behind_a_damaged_page_can_be_read() {
    let mut house = house();
    house.change("UPDATE pages SET checksum = 7 WHERE first = 101");
    assert!(house.walk(100, &wish("a").filter(), 1 << 20).is_err());
    assert_eq!(house.walk(101, &wish("a").filter(), 1 << 20).unwrap().len(), 77);
    assert_eq!(house.walk(0, &wish("b").filter(), 1 << 20).unwrap().len(), 128);
}
