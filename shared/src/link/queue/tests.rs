use bytes::Bytes;
use tokio::sync::oneshot;
use tokio::sync::oneshot::error::TryRecvError;

use super::*;
use crate::event::{Data, EventType, Json, Time};

const TIMEOUT: Duration = Duration::from_secs(5);

/// What a publisher gets who asked for nothing more.
const RECEIPT: Receipt = Receipt { account: None };

const WITH_ACCOUNT: Terms = Terms { may_be_retry: false, wants_account: true };

type Answer = oneshot::Receiver<Result<Receipt, LinkError>>;

struct Publishers {
    queue: Queue,
    memory: Arc<Memory>,
    start: Instant,
}

impl Publishers {
    fn new() -> Self {
        let memory = Memory::new(100 << 20);
        let queue = Queue::new(TIMEOUT, Arc::clone(&memory));
        Self { queue, memory, start: Instant::now() }
    }

    /// Publishes so many bytes, so many seconds after the start.
    fn publish(&mut self, bytes: usize, seconds: u64) -> Answer {
        self.publish_with(Terms::default(), bytes, seconds)
    }

    fn publish_with(&mut self, terms: Terms, bytes: usize, seconds: u64) -> Answer {
        let (reply, answer) = oneshot::channel();
        let now = self.start + Duration::from_secs(seconds);
        if let Err(error) = self.queue.push(event(bytes), terms, reply, now) {
            let (refused, answer) = oneshot::channel();
            refused.send(Err(error)).unwrap();
            return answer;
        }
        answer
    }

    /// Sends what there is room for; says how many went.
    fn send(&mut self) -> usize {
        let before = self.queue.in_flight.len();
        self.queue.send(&mut BytesMut::new());
        self.queue.in_flight.len() - before
    }

    fn expire(&mut self, seconds: u64) {
        self.queue.expire(self.start + Duration::from_secs(seconds));
    }
}

fn event(bytes: usize) -> Event {
    Event {
        event_type: EventType::parse("a").unwrap(),
        data: Some(Data::Json(Json::from_checked(Bytes::from(vec![b'1'; bytes])))),
        id: "1".into(),
        source: "/x".into(),
        subject: None,
        time: Time::now(),
        publisher: "x".into(),
        attributes: None,
    }
}

fn account(matched: u32) -> Account {
    Account { cursor: format!("k3f9a2-{matched}").into(), matched }
}

/// What a publisher gets who asked for an account.
fn accounted(matched: u32) -> Result<Result<Receipt, LinkError>, TryRecvError> {
    Ok(Ok(Receipt { account: Some(account(matched)) }))
}

fn is_open(answer: &mut Answer) -> bool {
    answer.try_recv() == Err(TryRecvError::Empty)
}

#[test]
fn one_number_answers_all_that_came_before_it() {
    let mut publishers = Publishers::new();
    let mut answers: Vec<Answer> = (0..3).map(|_| publishers.publish(10, 0)).collect();
    assert_eq!(publishers.send(), 3);
    assert_eq!(publishers.queue.acknowledge(2), Some(publishers.start));
    assert_eq!(answers[0].try_recv(), Ok(Ok(RECEIPT)));
    assert_eq!(answers[1].try_recv(), Ok(Ok(RECEIPT)));
    assert!(is_open(&mut answers[2]));
    publishers.queue.acknowledge(3);
    assert_eq!(answers[2].try_recv(), Ok(Ok(RECEIPT)));
    assert_eq!((publishers.queue.in_flight_bytes, publishers.memory.held()), (0, 0));
}

#[test]
fn flight_is_bounded_by_events_and_by_bytes() {
    let mut publishers = Publishers::new();
    let answers: Vec<Answer> = (0..1100).map(|_| publishers.publish(10, 0)).collect();
    assert_eq!(publishers.send(), 1024);
    publishers.queue.acknowledge(24);
    assert_eq!(publishers.send(), 24);
    drop(answers);

    let mut publishers = Publishers::new();
    let _answers: Vec<Answer> = (0..10).map(|_| publishers.publish(1 << 20, 0)).collect();
    assert_eq!(publishers.send(), 7, "with what they need beside their data");
}

#[test]
fn an_empty_link_takes_any_one_event() {
    let mut publishers = Publishers::new();
    let _large = [publishers.publish(9 << 20, 0), publishers.publish(9 << 20, 0)];
    assert_eq!(publishers.send(), 1);
}

#[test]
fn those_who_wait_are_bounded_in_number_and_in_memory() {
    let mut publishers = Publishers::new();
    let _answers: Vec<Answer> = (0..10_000).map(|_| publishers.publish(1, 0)).collect();
    assert_eq!(publishers.publish(1, 0).try_recv(), Ok(Err(LinkError::Unreachable)));

    let mut publishers = Publishers::new();
    let _large: Vec<Answer> = (0..7).map(|_| publishers.publish(10 << 20, 0)).collect();
    assert_eq!(publishers.publish(1, 0).try_recv(), Ok(Err(LinkError::Unreachable)));
}

#[test]
fn a_time_out_says_whether_the_event_was_sent() {
    let mut publishers = Publishers::new();
    let mut sent = publishers.publish(10, 0);
    publishers.send();
    let mut waiting = publishers.publish(10, 1);
    assert_eq!(publishers.queue.next_deadline(), Some(publishers.start + TIMEOUT));
    publishers.expire(4);
    assert!(is_open(&mut sent));
    publishers.expire(5);
    assert_eq!(sent.try_recv(), Ok(Err(LinkError::Undecided)));
    assert!(is_open(&mut waiting));
    let due = publishers.start + TIMEOUT + Duration::from_secs(1);
    assert_eq!(publishers.queue.next_deadline(), Some(due));
    publishers.expire(6);
    assert_eq!(waiting.try_recv(), Ok(Err(LinkError::Unreachable)));
    assert_eq!(publishers.queue.next_deadline(), None);
    assert_eq!(publishers.queue.in_flight.len(), 1, "it still takes up room at the other end");
}

#[test]
fn a_broken_link_leaves_the_sent_undecided_and_keeps_the_waiting() {
    let mut publishers = Publishers::new();
    let mut sent = publishers.publish(10, 0);
    publishers.send();
    let mut waiting = publishers.publish(10, 0);
    publishers.queue.lose();
    assert_eq!(sent.try_recv(), Ok(Err(LinkError::Undecided)));
    assert!(is_open(&mut waiting));
    assert_eq!(publishers.queue.in_flight_bytes, 0);
    assert_eq!(publishers.send(), 1);
}

#[test]
fn what_was_not_taken_at_a_goodbye_goes_again_in_its_order() {
    let mut publishers = Publishers::new();
    let mut answers: Vec<Answer> = (0..2).map(|_| publishers.publish(10, 0)).collect();
    publishers.send();
    answers.push(publishers.publish(10, 0));
    publishers.queue.take_back();
    assert_eq!(publishers.queue.in_flight_bytes, 0);
    assert_eq!(publishers.send(), 3);
    publishers.queue.acknowledge(4);
    assert_eq!(answers[0].try_recv(), Ok(Ok(RECEIPT)));
    assert_eq!(answers[1].try_recv(), Ok(Ok(RECEIPT)));
    assert!(is_open(&mut answers[2]));
}

#[test]
fn one_event_can_be_refused_among_others() {
    let mut publishers = Publishers::new();
    let mut answers: Vec<Answer> = (0..3).map(|_| publishers.publish(10, 0)).collect();
    publishers.send();
    publishers.queue.refuse(2);
    publishers.queue.refuse(99);
    assert_eq!(answers[1].try_recv(), Ok(Err(LinkError::Unreachable)));
    publishers.queue.acknowledge(3);
    assert_eq!(answers[2].try_recv(), Ok(Ok(RECEIPT)));
    assert_eq!(publishers.queue.in_flight_bytes, 0);
}

#[test]
fn an_event_whose_publisher_has_left_is_not_sent() {
    let mut publishers = Publishers::new();
    drop(publishers.publish(10, 0));
    let _stays = publishers.publish(10, 0);
    assert_eq!(publishers.send(), 1);
}

#[test]
fn an_event_that_the_other_end_would_not_take_is_refused_here() {
    let mut publishers = Publishers::new();
    publishers.queue.set_frame_bytes_max(FRAME_BYTES_BESIDE_BODY + 1000);
    let mut large = publishers.publish(40_000, 0);
    let _small = publishers.publish(10_000, 0);
    assert_eq!(publishers.send(), 1);
    assert_eq!(large.try_recv(), Ok(Err(LinkError::TooLarge)));
}

#[test]
fn whoever_wants_an_account_waits_for_it_and_nobody_else_does() {
    let mut publishers = Publishers::new();
    let mut first = publishers.publish_with(WITH_ACCOUNT, 10, 0);
    let mut plain = publishers.publish(10, 0);
    let mut second = publishers.publish_with(WITH_ACCOUNT, 10, 0);
    assert_eq!(publishers.send(), 3);
    publishers.queue.acknowledge(3);
    assert_eq!(plain.try_recv(), Ok(Ok(RECEIPT)));
    assert!(is_open(&mut first) && is_open(&mut second));
    // Accounts have no order.
    publishers.queue.account(3, account(7));
    assert_eq!(second.try_recv(), accounted(7));
    assert!(is_open(&mut first));
    publishers.queue.account(1, account(0));
    assert_eq!(first.try_recv(), accounted(0));
    assert!(publishers.queue.unaccounted.is_empty());
    // What nobody waits for is not looked at.
    publishers.queue.account(1, account(1));
    publishers.queue.account(99, account(1));
}

#[test]
fn an_event_that_waits_for_its_account_takes_up_no_room() {
    let mut publishers = Publishers::new();
    let _large = publishers.publish_with(WITH_ACCOUNT, 9 << 20, 0);
    let _next = publishers.publish_with(WITH_ACCOUNT, 9 << 20, 0);
    assert_eq!(publishers.send(), 1);
    publishers.queue.acknowledge(1);
    assert_eq!(publishers.queue.in_flight_bytes, 0);
    assert_eq!(publishers.send(), 1);
    publishers.queue.acknowledge(2);
    assert_eq!(publishers.memory.held(), 0);
}

#[test]
fn those_who_wait_for_accounts_are_bounded_with_those_who_wait_for_the_link() {
    let mut publishers = Publishers::new();
    let mut answers = Vec::new();
    for _ in 0..9 {
        answers.extend((0..1000).map(|_| publishers.publish_with(WITH_ACCOUNT, 1, 0)));
        assert_eq!(publishers.send(), 1000);
        publishers.queue.acknowledge(u64::MAX);
    }
    answers.extend((0..1000).map(|_| publishers.publish(1, 0)));
    assert_eq!(publishers.publish(1, 0).try_recv(), Ok(Err(LinkError::Unreachable)));
    publishers.queue.account(1, account(1));
    assert!(is_open(&mut publishers.publish(1, 0)));
}

#[test]
fn an_account_may_come_before_the_receipt() {
    let mut publishers = Publishers::new();
    let mut answers: Vec<Answer> =
        (0..3).map(|_| publishers.publish_with(WITH_ACCOUNT, 10, 0)).collect();
    publishers.send();
    publishers.queue.account(2, account(4));
    assert_eq!(answers[1].try_recv(), accounted(4));
    assert_eq!(publishers.queue.in_flight.len(), 2);
    publishers.queue.acknowledge(3);
    publishers.queue.account(1, account(1));
    publishers.queue.account(3, account(3));
    assert_eq!(answers[0].try_recv(), accounted(1));
    assert_eq!(answers[2].try_recv(), accounted(3));
    assert_eq!((publishers.queue.in_flight_bytes, publishers.memory.held()), (0, 0));
}

#[test]
fn an_account_that_does_not_come_in_time_leaves_the_event_undecided() {
    let mut publishers = Publishers::new();
    let mut early = publishers.publish_with(WITH_ACCOUNT, 10, 0);
    let mut late = publishers.publish_with(WITH_ACCOUNT, 10, 1);
    publishers.send();
    publishers.queue.acknowledge(2);
    assert_eq!(publishers.queue.next_deadline(), Some(publishers.start + TIMEOUT));
    publishers.expire(5);
    assert_eq!(early.try_recv(), Ok(Err(LinkError::Undecided)));
    let due = publishers.start + TIMEOUT + Duration::from_secs(1);
    assert_eq!(publishers.queue.next_deadline(), Some(due));
    publishers.queue.account(1, account(1));
    publishers.queue.account(2, account(2));
    assert_eq!(late.try_recv(), accounted(2));
    assert_eq!(publishers.queue.next_deadline(), None);
}

#[test]
fn nobody_waits_for_an_account_whose_publisher_was_answered_or_has_left() {
    let mut publishers = Publishers::new();
    let mut over = publishers.publish_with(WITH_ACCOUNT, 10, 0);
    let left = publishers.publish_with(WITH_ACCOUNT, 10, 4);
    publishers.send();
    publishers.expire(5);
    assert_eq!(over.try_recv(), Ok(Err(LinkError::Undecided)));
    drop(left);
    publishers.queue.acknowledge(2);
    assert!(publishers.queue.unaccounted.is_empty());
}

#[test]
fn a_broken_link_leaves_those_undecided_who_wait_for_their_accounts() {
    let mut publishers = Publishers::new();
    let mut taken = publishers.publish_with(WITH_ACCOUNT, 10, 0);
    let mut sent = publishers.publish_with(WITH_ACCOUNT, 10, 0);
    publishers.send();
    publishers.queue.acknowledge(1);
    let mut waiting = publishers.publish_with(WITH_ACCOUNT, 10, 0);
    publishers.queue.lose();
    assert_eq!(taken.try_recv(), Ok(Err(LinkError::Undecided)));
    assert_eq!(sent.try_recv(), Ok(Err(LinkError::Undecided)));
    assert!(is_open(&mut waiting));
    assert_eq!(publishers.send(), 1);
    publishers.queue.account(3, account(3));
    assert_eq!(waiting.try_recv(), accounted(3));
}

#[test]
fn at_a_goodbye_what_has_its_receipt_does_not_go_again() {
    let mut publishers = Publishers::new();
    let mut taken = publishers.publish_with(WITH_ACCOUNT, 10, 0);
    let mut again = publishers.publish_with(WITH_ACCOUNT, 10, 0);
    publishers.send();
    publishers.queue.acknowledge(1);
    publishers.queue.take_back();
    publishers.queue.lose();
    assert_eq!(taken.try_recv(), Ok(Err(LinkError::Undecided)));
    assert_eq!(publishers.send(), 1);
    publishers.queue.acknowledge(3);
    publishers.queue.account(3, account(1));
    assert_eq!(again.try_recv(), accounted(1));
}

#[test]
fn an_event_can_be_refused_whose_publisher_wants_an_account() {
    let mut publishers = Publishers::new();
    let mut answers: Vec<Answer> =
        (0..2).map(|_| publishers.publish_with(WITH_ACCOUNT, 10, 0)).collect();
    publishers.send();
    publishers.queue.refuse(1);
    assert_eq!(answers[0].try_recv(), Ok(Err(LinkError::Unreachable)));
    publishers.queue.acknowledge(2);
    publishers.queue.refuse(2);
    assert_eq!(answers[1].try_recv(), Ok(Err(LinkError::Unreachable)));
}

#[test]
fn terms_go_with_their_event() {
    let mut publishers = Publishers::new();
    let table = [
        Terms::default(),
        WITH_ACCOUNT,
        Terms { may_be_retry: true, wants_account: false },
        Terms { may_be_retry: true, wants_account: true },
    ];
    for (number, terms) in (1..).zip(table) {
        let _answer = publishers.publish_with(terms, 10, 0);
        let mut sent = BytesMut::new();
        publishers.queue.send(&mut sent);
        let mut expected = BytesMut::new();
        let (_, entry) = publishers.queue.in_flight.back().unwrap();
        frame::encode_event(number, terms, &entry.event, &mut expected);
        assert_eq!(sent, expected);
    }
}
