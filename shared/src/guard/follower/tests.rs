use proptest::prelude::*;

use super::*;

const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
const POST: &[u8] = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello";
const CHUNKED: &[u8] = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n\
                         5;x=1\r\nhello\r\n0a\r\n0123456789\r\n0\r\nTrailer: x\r\n\r\n";

fn after(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds)
}

#[test]
fn whole_requests_leave_the_connection_idle_however_they_are_cut() {
    let stream = [GET, POST, CHUNKED, b"\r\n", POST, GET].concat();
    for size in [1, 2, 3, 7, 50, stream.len()] {
        let mut follower = Follower::new(Instant::now());
        let mut heads = 0;
        for piece in stream.chunks(size) {
            heads += follower.see(piece, Instant::now()).unwrap();
        }
        assert_eq!(heads, 5, "pieces of {size}");
        assert!(follower.is_idle(), "pieces of {size}: {follower:?}");
        assert_eq!(follower.deadline(), None);
    }
}

#[test]
fn the_first_head_is_due_from_the_accept_and_later_ones_from_their_first_byte() {
    let start = Instant::now();
    let mut follower = Follower::new(start);
    assert_eq!(follower.deadline(), Some((start + HEAD_TIMEOUT, Violation::HeadTimeout)));
    follower.see(GET, start + after(1.0)).unwrap();
    assert_eq!(follower.deadline(), None);
    follower.see(b"GET", start + after(50.0)).unwrap();
    follower.see(b" /", start + after(55.0)).unwrap();
    assert_eq!(follower.deadline(), Some((start + after(60.0), Violation::HeadTimeout)));
}

/// RFC 9112 §2.2: they may come before any request, and are none.
#[test]
fn empty_lines_before_the_first_head_neither_begin_nor_end_it() {
    let start = Instant::now();
    let mut follower = Follower::new(start);
    assert_eq!(follower.see(b"\r\n\r\n", start + after(1.0)), Ok(0));
    assert_eq!(follower.deadline(), Some((start + HEAD_TIMEOUT, Violation::HeadTimeout)));
    assert_eq!(follower.see(&[b"\r\n\r\n", GET].concat(), start + after(2.0)), Ok(1));
    assert_eq!((follower.is_idle(), follower.deadline()), (true, None));
}

#[test]
fn a_head_that_follows_in_the_same_piece_is_due_too() {
    let start = Instant::now();
    let mut follower = Follower::new(start);
    follower.see(&[POST, b"GET / HT"].concat(), start).unwrap();
    assert_eq!(follower.deadline(), Some((start + HEAD_TIMEOUT, Violation::HeadTimeout)));
}

#[test]
fn a_head_has_16_kib() {
    let head = |bytes: usize| {
        let filler = "x".repeat(bytes - "GET / HTTP/1.1\r\na: \r\n\r\n".len());
        format!("GET / HTTP/1.1\r\na: {filler}\r\n\r\n").into_bytes()
    };
    for size in [1, 1000, 100_000] {
        let see = |head: Vec<u8>| {
            let mut follower = Follower::new(Instant::now());
            head.chunks(size).try_for_each(|it| follower.see(it, Instant::now()).map(|_| ()))
        };
        assert_eq!(see(head(HEAD_BYTES_MAX)), Ok(()), "pieces of {size}");
        assert_eq!(see(head(HEAD_BYTES_MAX + 1)), Err(Violation::HeadTooLarge));
    }
}

#[test]
fn a_body_is_due_after_a_silence_and_by_its_average() {
    let start = Instant::now();
    let mut follower = Follower::new(start);
    let head = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n";
    follower.see(head, start).unwrap();
    assert_eq!(follower.deadline(), Some((start + after(10.0), Violation::BodyTimeout)));
    follower.see(b"x", start + after(6.0)).unwrap();
    assert_eq!(follower.deadline().unwrap().0, start + after(10.0), "1 byte is under 1 KiB/s");
    follower.see(&[0; 20 * 1024 - 1], start + after(9.0)).unwrap();
    assert_eq!(follower.deadline().unwrap().0, start + after(19.0), "silence comes first");
    follower.see(b"x", start + after(18.0)).unwrap();
    let due = follower.deadline().unwrap().0;
    assert!(due >= start + after(20.0) && due < start + after(20.1), "then the average");
}

#[test]
fn what_is_no_http_is_left_to_the_server() {
    let mut follower = Follower::new(Instant::now());
    follower.see(b"\x16\x03\x01\x02\x00\n\n", Instant::now()).unwrap();
    assert_eq!(follower.deadline(), None);
    assert!(!follower.is_idle());
}

#[test]
fn every_answer_states_its_true_length() {
    for violation in Violation::ALL {
        let answer = std::str::from_utf8(violation.answer()).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(&format!("content-length: {}\r\n", body.len())), "{answer}");
        assert_eq!(body, format!("{{\"code\":\"{}\"}}", violation.code()));
    }
}

proptest! {
    #[test]
    fn any_bytes_are_followed_without_panic(
        pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..60), 0..20)
    ) {
        let mut follower = Follower::new(Instant::now());
        for piece in [b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec()]
            .iter().chain(&pieces)
        {
            let _ = follower.see(piece, Instant::now());
        }
    }
}
