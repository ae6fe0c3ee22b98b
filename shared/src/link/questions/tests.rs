use bytes::Bytes;
use tokio::sync::oneshot;
use tokio::sync::oneshot::error::TryRecvError;
use tokio_util::codec::Decoder as _;

use super::*;
use crate::link::frame::splitter;

const TIMEOUT: Duration = Duration::from_secs(5);

type Answer = oneshot::Receiver<Result<u32, LinkError>>;

struct Askers {
    questions: Questions,
    start: Instant,
}

impl Askers {
    fn new() -> Self {
        Self { questions: Questions::new(TIMEOUT), start: Instant::now() }
    }

    /// Asks so many seconds after the start.
    fn ask(&mut self, event_type: &'static str, seconds: u64) -> Result<Answer, LinkError> {
        let (reply, answer) = oneshot::channel();
        let now = self.start + Duration::from_secs(seconds);
        self.questions.push(EventType::parse(event_type).unwrap(), reply, now).map(|()| answer)
    }

    /// Sends what there is room for; gives it with its numbers.
    fn send(&mut self) -> Vec<(u64, Request)> {
        let mut bytes = BytesMut::new();
        self.questions.send(&mut bytes);
        requests(bytes)
    }

    fn expire(&mut self, seconds: u64) {
        self.questions.expire(self.start + Duration::from_secs(seconds));
    }
}

fn requests(mut bytes: BytesMut) -> Vec<(u64, Request)> {
    let mut requests = Vec::new();
    while let Some(bytes) = splitter(1000).decode(&mut bytes).unwrap() {
        match Frame::decode(Bytes::from(bytes)).unwrap() {
            Frame::Request(number, request) => requests.push((number, request)),
            other => panic!("{other:?} is no request"),
        }
    }
    requests
}

fn count(event_type: &'static str) -> Request {
    Request::Count(EventType::parse(event_type).unwrap())
}

fn is_open(answer: &mut Answer) -> bool {
    answer.try_recv() == Err(TryRecvError::Empty)
}

#[test]
fn an_answer_goes_to_the_question_of_its_number() {
    let mut askers = Askers::new();
    let (mut first, mut second) = (askers.ask("a", 0).unwrap(), askers.ask("b", 0).unwrap());
    assert_eq!(askers.send(), [(1, count("a")), (2, count("b"))]);
    askers.questions.answer(2, 20);
    assert_eq!(second.try_recv(), Ok(Ok(20)));
    assert!(is_open(&mut first));
    askers.questions.answer(99, 1);
    askers.questions.answer(1, 0);
    assert_eq!(first.try_recv(), Ok(Ok(0)));
}

#[test]
fn pings_are_numbered_along_with_counts() {
    let mut askers = Askers::new();
    let mut first = askers.ask("a", 0).unwrap();
    askers.send();
    let mut bytes = BytesMut::new();
    askers.questions.ping(&mut bytes);
    assert_eq!(requests(bytes), [(2, Request::Ping)]);
    let mut third = askers.ask("a", 0).unwrap();
    assert_eq!(askers.send(), [(3, count("a"))]);
    askers.questions.answer(2, 0);
    assert!(is_open(&mut first) && is_open(&mut third));
    askers.questions.answer(3, 5);
    assert_eq!(third.try_recv(), Ok(Ok(5)));
}

#[test]
fn what_a_broken_link_left_unanswered_is_asked_again_in_its_order() {
    let mut askers = Askers::new();
    let mut answers = ["a", "b", "c"].map(|event_type| askers.ask(event_type, 0).unwrap());
    askers.send();
    let mut waiting = askers.ask("d", 0).unwrap();
    askers.questions.answer(2, 2);
    askers.questions.take_back();
    assert!(is_open(&mut answers[0]) && is_open(&mut answers[2]));
    assert_eq!(askers.send(), [(4, count("a")), (5, count("c")), (6, count("d"))]);
    // An answer of the old connection that comes on the new one would be a lie.
    askers.questions.answer(1, 9);
    assert!(is_open(&mut answers[0]));
    askers.questions.answer(4, 1);
    askers.questions.answer(6, 4);
    assert_eq!(answers[0].try_recv(), Ok(Ok(1)));
    assert_eq!(waiting.try_recv(), Ok(Ok(4)));
}

#[test]
fn a_time_out_is_never_undecided_whether_asked_or_not() {
    let mut askers = Askers::new();
    let mut asked = askers.ask("a", 0).unwrap();
    askers.send();
    let mut waiting = askers.ask("a", 1).unwrap();
    assert_eq!(askers.questions.next_deadline(), Some(askers.start + TIMEOUT));
    askers.expire(4);
    assert!(is_open(&mut asked));
    askers.expire(5);
    assert_eq!(asked.try_recv(), Ok(Err(LinkError::Unreachable)));
    assert!(is_open(&mut waiting));
    let due = askers.start + TIMEOUT + Duration::from_secs(1);
    assert_eq!(askers.questions.next_deadline(), Some(due));
    askers.expire(6);
    assert_eq!(waiting.try_recv(), Ok(Err(LinkError::Unreachable)));
    assert_eq!(askers.questions.next_deadline(), None);
    assert_eq!(askers.questions.asked.len(), 1, "it still takes up room at the other end");
    askers.questions.answer(1, 1);
    assert!(askers.questions.asked.is_empty());
}

#[test]
fn a_question_whose_asker_has_left_is_not_asked() {
    let mut askers = Askers::new();
    drop(askers.ask("a", 0));
    let _stays = askers.ask("b", 0);
    assert_eq!(askers.send(), [(1, count("b"))]);
}

#[test]
fn those_who_wait_and_those_who_have_asked_are_bounded() {
    let mut askers = Askers::new();
    let mut answers: Vec<Answer> = (0..10_000).map(|_| askers.ask("a", 0).unwrap()).collect();
    assert_eq!(askers.ask("a", 0).unwrap_err(), LinkError::Unreachable);
    assert_eq!(askers.send().len(), 1024);
    assert!(askers.send().is_empty());
    answers.push(askers.ask("a", 0).unwrap());
    askers.questions.answer(7, 1);
    assert_eq!(askers.send().len(), 1);
}
