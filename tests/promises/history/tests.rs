//! The judge of histories is judged: each fault, made up, is found, and nothing else.

use crate::history::{Answer, Cursor, Fault, Fired, Hearing, History, Note};

/// Two publishers with three events each, all accepted.
fn fired() -> Vec<Vec<Fired>> {
    let one = |publisher: usize, number: usize| Fired {
        event_type: "load".to_owned(),
        source: format!("/publisher/{publisher}"),
        id: number.to_string(),
        data: format!("{{\"n\": {number}.0}}"),
        answers: vec![Answer::Accepted],
    };
    [0, 1].map(|publisher| [0, 1, 2].map(|number| one(publisher, number)).into()).into()
}

fn event(publisher: usize, number: usize, offset: u64) -> Note {
    Note::Event(format!(
        r#"{{"type":"event","event":"load","data":{{"n": {number}.0}},"cursor":"e-{offset}","id":"{number}","time":"2026-11-21T00:00:00Z","source":"/publisher/{publisher}"}}"#
    ))
}

fn init(offset: u64) -> Note {
    Note::Init(format!(r#"{{"type":"init","code":"OK","cursor":"e-{offset}"}}"#))
}

/// All six events, at the offsets 1 to 6.
fn events() -> Vec<Note> {
    [(0, 0, 1), (1, 0, 2), (0, 1, 3), (0, 2, 4), (1, 1, 5), (1, 2, 6)]
        .map(|(publisher, number, offset)| event(publisher, number, offset))
        .into()
}

fn hearing(notes: Vec<Note>) -> Hearing {
    Hearing { is_whole: true, notes: [vec![Note::Asked(None), init(0)], notes].concat() }
}

/// What is found where a first subscriber got this, and a second one all.
fn faults(notes: Vec<Note>) -> Vec<Fault> {
    History { fired: fired(), hearings: vec![hearing(notes), hearing(events())] }.judge()
}

fn cursor(epoch: &str, offset: u64) -> Cursor {
    Cursor { epoch: epoch.to_owned(), offset }
}

#[test]
fn a_history_in_which_all_came_once_and_in_order_has_no_fault() {
    assert_eq!(faults(events()), []);
}

#[test]
fn a_subscriber_that_resumed_has_no_fault() {
    let mut notes = events();
    let recovered = r#"{"type":"init","code":"OK","cursor":"e-3","recovered":true}"#;
    let resumed = [
        Note::Ended(Some(1012)),
        Note::Asked(Some("e-3".to_owned())),
        Note::Init(recovered.to_owned()),
    ];
    notes.splice(3..3, resumed);
    assert_eq!(faults(notes), []);
}

#[test]
fn what_was_acknowledged_and_is_missing_is_lost() {
    for missing in 0..6 {
        let mut notes = events();
        notes.remove(missing);
        let lost = faults(notes);
        assert!(matches!(lost[..], [Fault::Lost { subscriber: 0, .. }]), "{lost:?}");
    }
}

#[test]
fn what_nobody_got_is_lost_for_everybody() {
    let mut notes = events();
    notes.pop();
    let hearings = vec![hearing(notes.clone()), hearing(notes)];
    let lost = [0, 1].map(|subscriber| Fault::Lost { subscriber, event: (1, 2) });
    assert_eq!(History { fired: fired(), hearings }.judge(), lost);
}

#[test]
fn what_was_not_acknowledged_may_be_missing_and_may_be_there() {
    for answer in [Answer::Refused, Answer::Undecided, Answer::Broken] {
        for there in [false, true] {
            let mut fired = fired();
            fired[1][2].answers = vec![answer.clone()];
            let mut notes = events();
            if !there {
                notes.pop();
            }
            let history = History { fired, hearings: vec![hearing(notes), hearing(events())] };
            assert_eq!(history.judge(), []);
        }
    }
}

#[test]
fn only_what_is_behind_its_beginning_is_due_to_one_that_joined_late() {
    let late = |from: usize| {
        let notes = events().split_off(from);
        let notes = [vec![Note::Asked(None), init(3)], notes].concat();
        let hearings = vec![Hearing { is_whole: false, notes }, hearing(events())];
        History { fired: fired(), hearings }.judge()
    };
    assert_eq!(late(3), []);
    assert_eq!(late(4), [Fault::Lost { subscriber: 0, event: (0, 2) }]);
}

#[test]
fn an_event_that_comes_again_is_found_whatever_its_cursor() {
    for offset in [6, 7] {
        let mut notes = events();
        notes.push(event(1, 2, offset));
        let found = faults(notes);
        assert!(found.contains(&Fault::Twice { subscriber: 0, event: (1, 2) }), "{found:?}");
    }
}

#[test]
fn a_cursor_that_comes_again_is_found() {
    let mut notes = events();
    notes[5] = event(1, 2, 5);
    let found = faults(notes);
    assert!(
        found.contains(&Fault::CursorTwice { subscriber: 0, cursor: cursor("e", 5) }),
        "{found:?}"
    );
}

#[test]
fn a_cursor_that_goes_back_is_found() {
    let mut notes = events();
    notes.swap(0, 1);
    assert_eq!(faults(notes), [Fault::Order { subscriber: 0, cursor: cursor("e", 1) }]);
}

#[test]
fn a_publishers_events_in_another_order_are_found() {
    let swapped = || {
        let mut notes = events();
        notes[2] = event(0, 2, 3);
        notes[3] = event(0, 1, 4);
        hearing(notes)
    };
    let history = History { fired: fired(), hearings: vec![swapped(), swapped()] };
    let found = [0, 1].map(|subscriber| Fault::PublisherOrder { subscriber, event: (0, 1) });
    assert_eq!(history.judge(), found);
}

#[test]
fn subscribers_that_disagree_on_a_cursor_are_found() {
    let mut notes = events();
    notes[5] = event(1, 2, 7);
    assert_eq!(faults(notes), [Fault::Disagreement { subscriber: 1, event: (1, 2) }]);
}

#[test]
fn what_nobody_sent_is_an_invention() {
    for text in [
        r#"{"type":"event","event":"load","data":1,"cursor":"e-7","id":"9","time":"t","source":"/publisher/0"}"#,
        r#"{"type":"event","event":"load","data":1,"cursor":"e-7","id":"1","time":"t","source":"/x"}"#,
        r#"{"type":"event","event":"load","data":1}"#,
        "half of a mess",
    ] {
        let mut notes = events();
        notes.push(Note::Event(text.to_owned()));
        assert_eq!(faults(notes), [Fault::Invented { subscriber: 0, text: text.to_owned() }]);
    }
}

#[test]
fn what_was_sent_otherwise_is_altered() {
    for (sent, altered) in [("2.0", "2"), ("load", "Load"), ("\"data\"", "\"date\""), ("e-6", "e6")]
    {
        let mut notes = events();
        let Some(Note::Event(text)) = notes.pop() else { panic!() };
        notes.push(Note::Event(text.replacen(sent, altered, 1)));
        let found = faults(notes);
        let is_altered = |it: &Fault| matches!(it, Fault::Altered { subscriber: 0, .. });
        assert!(found.iter().any(is_altered), "{altered}: {found:?}");
    }
}

#[test]
fn another_epoch_is_found() {
    let mut notes = events();
    let Some(Note::Event(text)) = notes.pop() else { panic!() };
    notes.push(Note::Event(text.replace("e-6", "f-6")));
    let found = faults(notes);
    assert!(found.contains(&Fault::Epoch { subscriber: 0, cursor: cursor("f", 6) }), "{found:?}");
}

#[test]
fn a_resume_that_is_not_whole_is_found() {
    for answer in [
        r#"{"type":"init","code":"OK","cursor":"e-6","recovered":false,"earliest":"e-3"}"#,
        r#"{"type":"init","code":"OK","cursor":"e-6"}"#,
        r#"{"type":"init","code":"OK"}"#,
        r#"{"type":"init","code":"INVALID_RESUME"}"#,
    ] {
        let mut notes = events();
        notes.extend([Note::Asked(Some("e-6".to_owned())), Note::Init(answer.to_owned())]);
        let answer = answer.to_owned();
        assert_eq!(faults(notes), [Fault::Unrecovered { subscriber: 0, answer }]);
    }
}

#[test]
fn an_answer_that_must_not_be_is_found() {
    let mut fired = fired();
    fired[0][0].answers.insert(0, Answer::Odd("500".to_owned()));
    let history = History { fired, hearings: vec![hearing(events())] };
    assert_eq!(history.judge(), [Fault::OddAnswer("500".to_owned())]);
}

#[test]
fn a_subscriber_that_is_told_not_to_come_back_is_found() {
    for (close_code, is_fault) in [(1001, false), (1012, false), (1013, false), (1011, true)] {
        let mut notes = events();
        notes.push(Note::Ended(Some(close_code)));
        let due = is_fault.then_some(Fault::SentAway { subscriber: 0, close_code });
        assert_eq!(faults(notes), Vec::from_iter(due));
    }
}
