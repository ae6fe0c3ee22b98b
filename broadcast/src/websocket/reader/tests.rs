use proptest::prelude::*;

use super::*;

const MAX: usize = 70_000;

/// A client's frame, masked as it must be.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mask = [1, 2, 3, 4];
    let mut bytes = vec![first];
    match payload.len() {
        length @ 0..=125 => bytes.push(0x80 | length as u8),
        length @ 126..=0xffff => {
            bytes.push(0x80 | 126);
            bytes.extend((length as u16).to_be_bytes());
        }
        length => {
            bytes.push(0x80 | 127);
            bytes.extend((length as u64).to_be_bytes());
        }
    }
    bytes.extend(mask);
    bytes.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, key)| byte ^ key));
    bytes
}

fn read(bytes: &[u8]) -> Result<Vec<Incoming>, Disconnect> {
    let mut reader = Reader::new(MAX, bytes);
    let mut all = Vec::new();
    while let Some(incoming) = reader.read()? {
        all.push(incoming);
    }
    Ok(all)
}

#[test]
fn messages_come_whole_whatever_their_length_and_however_they_are_cut() {
    for length in [0, 1, 125, 126, 127, 0xffff, 0x1_0000, MAX] {
        let text = "x".repeat(length);
        let bytes = frame(0x81, text.as_bytes());
        assert_eq!(read(&bytes), Ok(vec![Incoming::Text(text.clone())]), "{length}");
        let mut reader = Reader::new(MAX, &[]);
        for piece in bytes.chunks(1000.min(bytes.len() - 1)) {
            assert_eq!(reader.read(), Ok(None));
            reader.feed(piece);
        }
        assert_eq!(reader.read(), Ok(Some(Incoming::Text(text))));
        assert_eq!(reader.read(), Ok(None));
        assert_eq!(reader.buffer.capacity(), 0, "an idle client holds no buffer");
    }
}

#[test]
fn fragments_are_put_together_with_control_frames_between_them() {
    let bytes = [
        frame(0x01, "ü".as_bytes().split_at(1).0),
        frame(0x89, b"are you there"),
        frame(0x00, "ü".as_bytes().split_at(1).1),
        frame(0x80, b"!"),
        frame(0x8a, b""),
        frame(0x82, b"binary"),
        frame(0x82, b"\xff"),
        frame(0x88, b""),
    ];
    assert_eq!(
        read(&bytes.concat()),
        Ok(vec![
            Incoming::Fragment,
            Incoming::Ping(Bytes::from_static(b"are you there")),
            Incoming::Fragment,
            Incoming::Text("ü!".to_owned()),
            Incoming::Pong,
            Incoming::Text("binary".to_owned()),
            Incoming::Binary,
            Incoming::Close(None),
        ])
    );
}

#[test]
fn a_frame_that_is_too_big_is_refused_from_its_header() {
    let mut header = frame(0x81, &[0; 0x1_0000]);
    header.truncate(14);
    header[2..10].copy_from_slice(&(512_u64 << 20).to_be_bytes());
    assert_eq!(read(&header), Err(Disconnect::MessageTooBig));
    let over = frame(0x81, &[b'x'; MAX + 1]);
    assert_eq!(read(&over[..14]), Err(Disconnect::MessageTooBig));
}

#[test]
fn fragments_count_together_by_bytes_and_by_number() {
    let half = vec![b'x'; MAX / 2 + 1];
    let bytes = [frame(0x01, &half), frame(0x00, &half)].concat();
    assert_eq!(read(&bytes), Err(Disconnect::MessageTooBig));

    let many = |count: usize| {
        let first = frame(0x01, b"x");
        let rest = frame(0x00, b"x").repeat(count - 2);
        [first, rest, frame(0x80, b"x")].concat()
    };
    assert_eq!(read(&many(1024)).map(|all| all.len()), Ok(1024));
    assert_eq!(read(&many(1025)), Err(Disconnect::Policy));
}

#[test]
fn what_breaks_the_protocol_is_told_apart_from_what_is_not_utf_8() {
    let unmasked = vec![0x81, 0x01, b'x'];
    let not_minimal_16 = [vec![0x81, 0xfe, 0, 125], vec![0; 129]].concat();
    let not_minimal_64 = [vec![0x81, 0xff, 0, 0, 0, 0, 0, 0, 0xff, 0xff], vec![0; 10]].concat();
    let highest_bit = [vec![0x81, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 0], vec![0; 10]].concat();
    let table = [
        (unmasked, Disconnect::Protocol),
        (not_minimal_16, Disconnect::Protocol),
        (not_minimal_64, Disconnect::Protocol),
        (highest_bit, Disconnect::Protocol),
        (frame(0xc1, b"x"), Disconnect::Protocol),
        (frame(0xa1, b"x"), Disconnect::Protocol),
        (frame(0x91, b"x"), Disconnect::Protocol),
        (frame(0x83, b"x"), Disconnect::Protocol),
        (frame(0x8b, b"x"), Disconnect::Protocol),
        (frame(0x80, b"x"), Disconnect::Protocol),
        (frame(0x09, b"x"), Disconnect::Protocol),
        (frame(0x89, &[0; 126]), Disconnect::Protocol),
        ([frame(0x01, b"x"), frame(0x81, b"x")].concat(), Disconnect::Protocol),
        (frame(0x81, b"\xff"), Disconnect::NotUtf8),
        ([frame(0x01, b"\xc3"), frame(0x80, b"x")].concat(), Disconnect::NotUtf8),
        (frame(0x88, b"\x03"), Disconnect::Protocol),
        (frame(0x88, &1005_u16.to_be_bytes()), Disconnect::Protocol),
        (frame(0x88, &999_u16.to_be_bytes()), Disconnect::Protocol),
        (frame(0x88, &1004_u16.to_be_bytes()), Disconnect::Protocol),
        (frame(0x88, &1015_u16.to_be_bytes()), Disconnect::Protocol),
        (frame(0x88, &2999_u16.to_be_bytes()), Disconnect::Protocol),
        (frame(0x88, &5000_u16.to_be_bytes()), Disconnect::Protocol),
        (frame(0x88, b"\x03\xe8\xff"), Disconnect::NotUtf8),
    ];
    for (bytes, expected) in table {
        assert_eq!(read(&bytes), Err(expected), "{:02x?}", &bytes[..bytes.len().min(12)]);
    }
}

#[test]
fn a_close_gives_its_code() {
    for code in [1000, 1001, 1011, 3000, 4999] {
        let payload = [&u16::to_be_bytes(code)[..], b"bye"].concat();
        assert_eq!(read(&frame(0x88, &payload)), Ok(vec![Incoming::Close(Some(code))]));
    }
}

proptest! {
    #[test]
    fn any_bytes_are_read_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = read(&bytes);
    }
}
