use proptest::prelude::*;

use super::*;

fn memory() -> Arc<Memory> {
    Memory::new(1 << 30)
}

fn frames(texts: &[&str], memory: &Arc<Memory>) -> Arc<Frames> {
    let mut frames = Frames::empty(memory);
    for text in texts {
        frames.push_with(|bytes| bytes.extend_from_slice(text.as_bytes()));
    }
    Arc::new(frames)
}

fn waiting(outbox: &Outbox) -> String {
    outbox.with_slices(|slices| {
        slices.iter().map(|slice| String::from_utf8(slice.to_vec()).unwrap()).collect()
    })
}

#[test]
fn adjacent_frames_of_a_batch_leave_in_one_piece() {
    let memory = memory();
    let outbox = Outbox::new(100, &memory);
    let batch = frames(&["a", "bb", "ccc"], &memory);
    for index in 0..3 {
        outbox.offer(&batch, index).unwrap();
    }
    assert_eq!(outbox.with_slices(|slices| slices.len()), 1);
    assert_eq!((waiting(&outbox).as_str(), outbox.bytes()), ("abbccc", 6));
}

#[test]
fn places_that_only_look_adjacent_are_told_apart() {
    let memory = memory();
    let outbox = Outbox::new(100, &memory);
    let (first, second) = (frames(&["abc", "def"], &memory), frames(&["ghi", "jkl"], &memory));
    outbox.offer(&first, 0).unwrap();
    outbox.offer(&second, 1).unwrap();
    assert_eq!(waiting(&outbox), "abcjkl");
}

#[test]
fn frames_that_are_not_meant_for_a_client_are_left_out() {
    let memory = memory();
    let outbox = Outbox::new(100, &memory);
    let batch = frames(&["a", "bb", "ccc"], &memory);
    outbox.offer(&batch, 0).unwrap();
    outbox.offer(&batch, 2).unwrap();
    assert_eq!(waiting(&outbox), "accc");
}

#[test]
fn what_was_written_is_taken_off_wherever_it_was_cut() {
    let memory = memory();
    let outbox = Outbox::new(100, &memory);
    let batch = frames(&["abc", "def"], &memory);
    outbox.offer(&batch, 0).unwrap();
    outbox.offer(&frames(&["ghi"], &memory), 0).unwrap();
    outbox.advance(2);
    assert_eq!((waiting(&outbox).as_str(), outbox.bytes()), ("cghi", 4));
    outbox.advance(2);
    assert_eq!(waiting(&outbox), "hi");
    outbox.advance(2);
    assert_eq!((waiting(&outbox).as_str(), outbox.bytes()), ("", 0));
    drop(batch);
    assert_eq!(memory.held(), 0, "what was sent is given back");
}

#[test]
fn a_full_outbox_takes_nothing_more_but_an_empty_one_any_one_frame() {
    let memory = memory();
    let outbox = Outbox::new(4, &memory);
    outbox.set_stuck(true);
    let batch = frames(&["123456", "7", "8"], &memory);
    assert_eq!(outbox.offer(&batch, 0), Ok(()));
    assert_eq!(outbox.offer(&batch, 1), Err(SlowConsumer));
    outbox.advance(6);
    assert_eq!(outbox.offer(&batch, 2), Err(SlowConsumer), "a gap would be silent");
    assert!(outbox.is_overflown());
}

#[test]
fn a_client_whose_socket_still_takes_bytes_is_not_slow() {
    let memory = memory();
    let outbox = Outbox::new(4, &memory);
    let batch = frames(&["1234", "5678", "9"], &memory);
    assert_eq!(outbox.offer(&batch, 0), Ok(()));
    assert_eq!(outbox.offer(&batch, 1), Ok(()));
    assert!(!outbox.is_stuck());
    outbox.set_stuck(true);
    assert!(outbox.is_stuck());
    assert_eq!(outbox.offer(&batch, 2), Err(SlowConsumer));
}

#[test]
fn the_bound_is_inclusive() {
    let memory = memory();
    let outbox = Outbox::new(4, &memory);
    outbox.set_stuck(true);
    let batch = frames(&["12", "34", "5"], &memory);
    assert_eq!(outbox.offer(&batch, 0), Ok(()));
    assert_eq!(outbox.offer(&batch, 1), Ok(()));
    assert_eq!(outbox.offer(&batch, 2), Err(SlowConsumer));
}

#[test]
fn a_last_frame_follows_the_rest_of_the_frame_that_was_cut() {
    let memory = memory();
    for is_stuck in [false, true] {
        for (written, expected) in
            [(0, "X"), (1, "bcX"), (3, "X"), (4, "efX"), (6, "X"), (7, "hiX")]
        {
            let outbox = Outbox::new(100, &memory);
            let filler = "-".repeat(60);
            let batch = frames(&["abc", "def", &filler], &memory);
            outbox.offer(&batch, 0).unwrap();
            outbox.offer(&batch, 1).unwrap();
            outbox.offer(&frames(&["ghi"], &memory), 0).unwrap();
            outbox.advance(written);
            outbox.set_stuck(is_stuck);
            outbox.replace_with(b"X".to_vec());
            assert_eq!(waiting(&outbox), expected, "{written} {is_stuck}");
            assert_eq!(outbox.bytes(), expected.len());
        }
    }
}

#[test]
fn a_stuck_client_does_not_hold_on_to_large_buffers() {
    let memory = memory();
    let outbox = Outbox::new(1 << 20, &memory);
    let filler = "-".repeat(100_000);
    for is_stuck in [false, true] {
        outbox.set_stuck(is_stuck);
        for _ in 0..10 {
            outbox.offer(&frames(&["abc", &filler], &memory), 0).unwrap();
        }
    }
    assert!(memory.held() < 5_000, "{} bytes for 60", memory.held());
    assert_eq!(waiting(&outbox), "abc".repeat(20));
}

#[test]
fn a_copy_never_goes_behind_what_the_client_must_not_get() {
    let memory = memory();
    let outbox = Outbox::new(1 << 20, &memory);
    let filler = "-".repeat(1000);
    outbox.offer(&frames(&["abc", "def"], &memory), 0).unwrap();
    outbox.set_stuck(true);
    outbox.offer(&frames(&["x", &filler], &memory), 0).unwrap();
    assert_eq!(waiting(&outbox), "abcx");
}

#[test]
fn a_client_that_reads_slowly_but_steadily_gives_back_what_it_got() {
    let memory = memory();
    let outbox = Outbox::new(1 << 20, &memory);
    let filler = "-".repeat(10_000);
    outbox.set_stuck(true);
    for number in 0..20_000 {
        outbox.offer(&frames(&["0123456789", &filler], &memory), 0).unwrap();
        if number > 100 {
            outbox.advance(10);
        }
    }
    assert!(memory.held() < 4 * OWN_BYTES_MAX, "{} bytes for 1,010", memory.held());
}

#[test]
fn an_ending_session_gives_back_all_but_its_last_frames() {
    let memory = memory();
    let outbox = Outbox::new(1 << 20, &memory);
    let filler = "-".repeat(100_000);
    outbox.offer(&frames(&[&filler, "abc"], &memory), 0).unwrap();
    outbox.advance(99_990);
    outbox.replace_with(b"X".to_vec());
    assert!(outbox.is_closed());
    assert_eq!(waiting(&outbox), "----------X");
    assert!(memory.held() > 100_000, "the frame that was cut is kept whole");
    outbox.advance(10);
    assert!(memory.held() < 1_000, "{}", memory.held());

    let outbox = Outbox::new(1 << 20, &memory);
    let large = frames(&["abc", &filler], &memory);
    outbox.offer(&large, 0).unwrap();
    outbox.offer(&large, 1).unwrap();
    drop(large);
    outbox.advance(1);
    outbox.replace_with(b"X".to_vec());
    assert_eq!(waiting(&outbox), "bcX");
    assert!(memory.held() < 1_000, "{}", memory.held());
}

#[test]
fn a_last_frame_goes_behind_what_waits_or_in_its_place() {
    let memory = memory();
    for (bytes_max, expected) in [(100, "abcX"), (3, "X")] {
        let outbox = Outbox::new(bytes_max, &memory);
        outbox.offer(&frames(&["abc"], &memory), 0).unwrap();
        outbox.set_stuck(true);
        outbox.close_with(b"X".to_vec());
        assert_eq!(waiting(&outbox), expected);
        assert!(outbox.is_closed());
    }
}

#[test]
fn a_buffer_that_many_wait_for_is_counted_once_and_given_back() {
    let memory = memory();
    for is_stuck in [false, true] {
        let batch = frames(&["abc", "d"], &memory);
        let one = memory.held();
        let outboxes: Vec<Outbox> = (0..100).map(|_| Outbox::new(100, &memory)).collect();
        for outbox in &outboxes {
            outbox.set_stuck(is_stuck);
            outbox.offer(&batch, 0).unwrap();
        }
        assert_eq!(memory.held(), one, "a large part of a buffer is not copied");
        drop((batch, outboxes));
        assert_eq!(memory.held(), 0);
    }
}

proptest! {
    #[test]
    fn a_client_gets_what_was_offered_in_order_however_it_reads(
        steps in prop::collection::vec((0..4_usize, 0..20_usize, any::<bool>()), 0..200)
    ) {
        let memory = memory();
        let outbox = Outbox::new(1 << 20, &memory);
        let filler = "-".repeat(200);
        let (mut expected, mut got) = (String::new(), String::new());
        for (number, (offered, read, is_stuck)) in steps.into_iter().enumerate() {
            let text = format!("<{number}>");
            let batch = frames(&[&text, &text, &text, &filler], &memory);
            for index in 0..offered {
                outbox.offer(&batch, index).unwrap();
                expected += if index == 3 { &filler } else { &text };
            }
            outbox.set_stuck(is_stuck);
            let seen = waiting(&outbox);
            let read = read.min(seen.len());
            got += &seen[..read];
            outbox.advance(read);
        }
        while outbox.bytes() > 0 {
            let seen = waiting(&outbox);
            outbox.advance(seen.len());
            got += &seen;
        }
        prop_assert_eq!(got, expected);
    }
}
