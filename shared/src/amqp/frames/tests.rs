use tokio::io::AsyncReadExt as _;

use super::*;

fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
    let size = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&[kind, 0, 1], &size[..], payload, &[0xce]].concat()
}

/// A content header with these flags and properties.
fn header(flags: u16, properties: &[u8]) -> Vec<u8> {
    let fixed = [0, 60, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
    frame(FRAME_HEADER, &[&fixed, &flags.to_be_bytes()[..], properties].concat())
}

fn short(text: &[u8]) -> Vec<u8> {
    [&[u8::try_from(text.len()).unwrap()], text].concat()
}

fn long(bytes: &[u8]) -> Vec<u8> {
    [&u32::try_from(bytes.len()).unwrap().to_be_bytes()[..], bytes].concat()
}

/// A table in a table in a table.
fn nested(depth: usize, innermost: u8) -> Vec<u8> {
    let mut value = Vec::from([b'V']);
    for level in 0..depth {
        let kind = if level == 0 { innermost } else { b'F' };
        let inside = [&short(b"k")[..], &value].concat();
        value = [&[kind], &long(&inside)[..]].concat();
    }
    value
}

/// What comes out where this goes in, so many bytes at a time.
async fn through(bytes: &[u8], step: usize) -> Vec<u8> {
    let (mut ours, theirs) = tokio::io::duplex(step);
    let sent = bytes.to_vec();
    let sending = async move { tokio::io::AsyncWriteExt::write_all(&mut ours, &sent).await };
    let mut frames = Frames::new(theirs);
    let mut out = Vec::new();
    let (sent, read) = tokio::join!(sending, frames.read_to_end(&mut out));
    sent.unwrap();
    read.unwrap();
    out
}

#[tokio::test]
async fn what_lapin_cannot_read_is_made_readable_and_all_else_passes_as_it_is() {
    let bad = short(b"a\xffb");
    let good = short("ü".as_bytes());
    let fixed = short(b"a?b");
    let deliver = |consumer: &[u8], exchange: &[u8], key: &[u8]| {
        frame(FRAME_METHOD, &[&DELIVER, consumer, &[0; 9], exchange, key].concat())
    };
    let headers = |key: &[u8], value: &[u8]| {
        let table = [&short(b"n")[..], b"I\0\0\0\x07", key, value].concat();
        [long(&table), short(b"text")].concat()
    };
    let flags = 0x2000 | 0x0400;
    let value = [&b"S"[..], &long(b"\xff\xfe")].concat();
    let table: [(Vec<u8>, Vec<u8>); 8] = [
        (header(0x8000, &bad), header(0x8000, &fixed)),
        (
            header(0xc000, &[&good[..], &bad].concat()),
            header(0xc000, &[good, fixed.clone()].concat()),
        ),
        (header(flags, &headers(&bad, &value)), header(flags, &headers(&fixed, &value))),
        (deliver(&short(b"c"), &bad, &bad), deliver(&short(b"c"), &fixed, &fixed)),
        (
            frame(FRAME_METHOD, &[&RETURN[..], &[1, 56], &bad, &bad, &bad].concat()),
            frame(FRAME_METHOD, &[&RETURN[..], &[1, 56], &fixed, &fixed, &fixed].concat()),
        ),
        // A body may look like anything; so may what lies about its length.
        (frame(3, &bad), frame(3, &bad)),
        (header(0x2000, &[0xff; 8]), header(0x2000, &[0xff; 8])),
        (
            frame(FRAME_METHOD, b"\x00\x0a\x00\x0a\xff"),
            frame(FRAME_METHOD, b"\x00\x0a\x00\x0a\xff"),
        ),
    ];
    let sent: Vec<u8> = table.iter().flat_map(|(sent, _)| sent.clone()).collect();
    let due: Vec<u8> = table.iter().flat_map(|(_, due)| due.clone()).collect();
    for step in [1, 7, 64, 4096] {
        assert_eq!(through(&sent, step).await, due, "{step} bytes at a time");
    }
}

#[tokio::test]
async fn headers_that_are_nested_too_deep_are_bytes() {
    let of = |value: &[u8]| header(0x2000, &long(&[&short(b"k")[..], value].concat()));
    let deep = of(&nested(DEPTH_MAX, b'F'));
    assert_eq!(through(&deep, 4096).await, deep);
    let (too_deep, due) = (of(&nested(DEPTH_MAX + 1, b'F')), of(&nested(DEPTH_MAX + 1, b'x')));
    assert_eq!(through(&too_deep, 4096).await, due);
}

/// RabbitMQ cuts the text of a refusal where it is too long, whatever stands there.
#[tokio::test]
async fn the_last_words_of_a_broker_are_readable_wherever_they_were_cut() {
    for method in [CONNECTION_CLOSE, CHANNEL_CLOSE] {
        let close = |text: &[u8]| {
            frame(FRAME_METHOD, &[&method[..], &[1, 0x94], &short(text), &[0; 4]].concat())
        };
        let cut = close(b"no queue '\xc3...");
        assert_eq!(through(&cut, 64).await, close(b"no queue '?..."));
        let whole = close("no queue 'ü'".as_bytes());
        assert_eq!(through(&whole, 64).await, whole);
    }
}
