use super::*;

const LIVE: &str = r#"{"cursor":true,"events":["a"]}"#;
const OK: &str = r#"{"type":"init","code":"OK"}"#;
const OK_AT_7: &str = r#"{"type":"init","code":"OK","cursor":"k-7"}"#;

fn place(since: Option<&str>, last: Option<u16>) -> Place {
    let now = Timestamp::from_second(1_769_860_800).unwrap();
    Place::new(since.map(|since| since.parse().unwrap()), last, now)
}

fn init(place: &Place) -> String {
    place.init(None, &["a".to_owned()])
}

/// The init message of a watch that goes on after this place.
fn after(cursor: &str) -> String {
    format!(r#"{{"after":"{cursor}","cursor":true,"events":["a"]}}"#)
}

fn answered(place: &mut Place, answer: &str) -> Option<Doubt> {
    place.answered(&serde_json::from_str(answer).unwrap())
}

fn event(cursor: &str) -> String {
    format!(r#"{{"type":"event","event":"a","data":{{"cursor":"k-99"}},"cursor":"{cursor}"}}"#)
}

fn lost(from: &str, earliest: &str) -> Doubt {
    Doubt::Lost { from: from.parse().unwrap(), earliest: earliest.parse().unwrap() }
}

#[test]
fn the_first_init_asks_for_what_the_command_line_says() {
    let table = [
        (None, None, LIVE.to_owned()),
        (Some("first"), None, after("first")),
        (Some("k-3"), None, after("k-3")),
        (Some("10m"), None, LIVE.replace("]}", r#"],"since":"2026-01-31T11:50:00.000000Z"}"#)),
        (
            Some("2026-01-31T12:00:00.1234567+01:00"),
            None,
            LIVE.replace("]}", r#"],"since":"2026-01-31T11:00:00.123456Z"}"#),
        ),
        (None, Some(0), LIVE.replace("]}", r#"],"last":0}"#)),
        (None, Some(10_000), LIVE.replace("]}", r#"],"last":10000}"#)),
    ];
    for (since, last, expected) in table {
        assert_eq!(init(&place(since, last)), expected);
    }
}

#[test]
fn an_init_shows_the_credential_if_there_is_one() {
    let patterns = ["a".to_owned(), "b.>".to_owned()];
    let expected = r#"{"authentication":"Basic t\"","cursor":true,"events":["a","b.>"]}"#;
    assert_eq!(place(None, None).init(Some("Basic t\""), &patterns), expected);
}

#[test]
fn a_watch_comes_back_after_the_newest_place_it_knows() {
    for (since, last) in [(None, None), (Some("first"), None), (None, Some(5))] {
        let mut place = place(since, last);
        let begun = init(&place);
        assert_eq!(init(&place), begun, "a connection that failed changes nothing");
        assert_eq!(answered(&mut place, OK_AT_7), None);
        assert_eq!(init(&place), after("k-7"));
        place.shown(&event("k-9"));
        assert_eq!(init(&place), after("k-9"));
        let recovered = OK_AT_7.replace("k-7\"", "k-9\",\"recovered\":true");
        assert_eq!(answered(&mut place, &recovered), None);
        assert_eq!(init(&place), after("k-9"));
    }
}

#[test]
fn what_could_not_be_recovered_is_told_with_the_earliest_cursor() {
    let table = [
        (r#""cursor":"m-0","recovered":false,"earliest":"m-0""#, "m-0", "m-0"),
        (r#""cursor":"k-9","recovered":false,"earliest":"k-8""#, "k-8", "k-9"),
        (r#""cursor":"k-9","recovered":false"#, "k-9", "k-9"),
    ];
    for (members, earliest, place_then) in table {
        let mut place = place(Some("k-3"), None);
        let answer = format!(r#"{{"type":"init","code":"OK",{members}}}"#);
        assert_eq!(answered(&mut place, &answer), Some(lost("k-3", earliest)));
        assert_eq!(init(&place), after(place_then));
    }
    let sentence = lost("k-3", "m-0").to_string();
    assert!(
        sentence.ends_with("resume after k-3; the earliest cursor that it can resume after is m-0")
    );
}

#[test]
fn a_gateway_without_cursors_is_watched_as_before() {
    for (since, first) in [(None, None), (Some("first"), Some(Doubt::NothingKept))] {
        let mut place = place(since, None);
        let begun = init(&place);
        assert_eq!(answered(&mut place, OK), first);
        place.shown(r#"{"type":"event","event":"a","data":1}"#);
        assert_eq!(init(&place), begun);
        assert_eq!(answered(&mut place, OK), Some(Doubt::Unknown));
        assert_eq!(answered(&mut place, OK), Some(Doubt::Unknown));
    }
}

#[test]
fn a_place_outlives_a_gateway_without_cursors_and_begins_with_one() {
    let mut old = place(None, None);
    assert_eq!(answered(&mut old, OK_AT_7), None);
    assert_eq!(answered(&mut old, OK), Some(Doubt::Unknown));
    assert_eq!(init(&old), after("k-7"));

    let mut new = place(None, None);
    assert_eq!(answered(&mut new, OK), None);
    assert_eq!(answered(&mut new, OK_AT_7), Some(Doubt::Unknown));
    assert_eq!(init(&new), after("k-7"));
}

#[test]
fn what_is_no_cursor_moves_nothing() {
    let mut place = place(Some("k-3"), None);
    for frame in ["", "[]", r#"{"cursor":7}"#, r#"{"cursor":"\u001b[2J-1"}"#, r#"{"cursor":null}"#]
    {
        place.shown(frame);
        assert_eq!(init(&place), after("k-3"), "{frame}");
    }
}
