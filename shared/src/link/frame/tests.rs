use proptest::prelude::*;
use tokio_util::codec::Decoder as _;

use super::*;
use crate::event::{Data, Json, Time};

const ALL_TERMS: Terms = Terms { may_be_retry: true, wants_account: true };

fn event(event_type: &str, data: Option<&str>, subject: Option<&str>) -> Event {
    Event {
        event_type: EventType::parse(event_type.to_owned()).unwrap(),
        data: data.map(|it| Data::Json(Json::from_checked(Bytes::copy_from_slice(it.as_bytes())))),
        id: "id-1".into(),
        source: "/billing".into(),
        subject: subject.map(Into::into),
        time: Time::now(),
        publisher: "billing".into(),
        attributes: None,
    }
}

fn round_trip(frame: &Frame) -> Frame {
    let mut bytes = BytesMut::new();
    frame.encode(&mut bytes);
    let whole = splitter(1 << 20).decode(&mut bytes).unwrap().unwrap();
    assert!(bytes.is_empty());
    Frame::decode(whole.freeze()).unwrap()
}

#[test]
fn every_frame_comes_back_as_it_went() {
    let frames = [
        Frame::Hello(Hello { version: VERSION, frame_bytes_max: 7 }),
        Frame::Event(1, Terms::default(), event("order.paid", Some("{\"id\":7}"), None)),
        Frame::Event(u64::MAX, ALL_TERMS, event("ü", None, Some("a subject"))),
        Frame::Receipt(3),
        Frame::Refusal(4),
        Frame::Request(5, Request::Ping),
        Frame::Request(5, Request::Count(EventType::parse("order.paid").unwrap())),
        Frame::Answer(6, 9),
        Frame::Account(7, Account { cursor: "k3f9a2-1842".into(), matched: 3 }),
        Frame::Goodbye,
    ];
    for frame in frames {
        assert_eq!(round_trip(&frame), frame);
    }
}

#[test]
fn a_frame_that_is_too_long_is_refused_from_its_length() {
    let mut bytes = BytesMut::from(&[0x20, 0, 0, 0][..]);
    assert!(splitter(1 << 20).decode(&mut bytes).is_err());
}

#[test]
fn a_damaged_frame_is_an_error() {
    let mut good = BytesMut::new();
    encode_event(1, ALL_TERMS, &event("order.paid", Some("1"), None), &mut good);
    let good = good.split_off(4).freeze();
    assert!(Frame::decode(good.clone()).is_ok());
    for end in 0..good.len() {
        assert_eq!(Frame::decode(good.slice(..end)), Err(FrameError::Malformed), "cut at {end}");
    }
    for bad in [&[][..], &[0], &[99], &[3, 0], &[7, 7], &[1, b'x'], &[5, 0, 0, 0, 0, 0, 0, 0, 0, 9]]
    {
        assert_eq!(Frame::decode(Bytes::copy_from_slice(bad)), Err(FrameError::Malformed));
    }
}

proptest! {
    #[test]
    fn any_bytes_are_decoded_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = Frame::decode(bytes.into());
    }

    #[test]
    fn any_event_comes_back_as_it_went(
        number in any::<u64>(),
        event_type in "[^\\p{Cc}\u{2028}\u{2029}]{1,60}",
        data in prop::option::of(".*"),
        subject in prop::option::of(".*"),
    ) {
        let event = event(&event_type, data.as_deref(), subject.as_deref());
        let frame = Frame::Event(number, ALL_TERMS, event);
        prop_assert_eq!(round_trip(&frame), frame);
    }
}
