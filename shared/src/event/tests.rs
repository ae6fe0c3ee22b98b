use super::*;

#[test]
fn a_type_has_1_to_255_bytes_and_no_control_characters() {
    for good in ["a", "order.paid", "order.*", "ü", " ", "a b", &"x".repeat(255)] {
        assert!(EventType::parse(good).is_ok(), "{good:?}");
    }
    let long = "x".repeat(256);
    let bad = ["", &long, "a\0", "a\n", "\u{7f}", "\u{85}", "\u{9f}", "\u{2028}", "\u{2029}"];
    for bad in bad {
        assert!(EventType::parse(bad).is_err(), "{bad:?}");
    }
}

#[test]
fn a_time_is_rfc_3339_and_keeps_its_text() {
    for good in [
        "2026-11-21T12:00:00Z",
        "2026-11-21t12:00:00z",
        "2026-11-21T12:00:00.123456789+01:00",
        "1985-04-12T23:20:50.52Z",
        "1990-12-31T23:59:60Z",
        "1937-01-01T12:00:27.87+00:20",
        "2026-11-21T12:00:00-00:00",
        "2026-11-21T12:00:00+23:59",
        "2026-11-21T12:00:00.123456789123456789Z",
        "0000-01-01T00:00:00Z",
        "0000-01-01T00:00:00+23:59",
        "9999-12-31T23:59:59.999999Z",
        "9999-12-31T23:59:59-23:59",
        "2024-02-29T00:00:00Z",
    ] {
        assert_eq!(Time::parse(good).map(|time| time.as_str().to_owned()), Ok(good.into()));
    }
    for bad in [
        "",
        "now",
        "2026-11-21",
        "2026-11-21 12:00:00Z",
        "2026-11-21T12:00:00",
        "2026-11-21T12:00Z",
        "2026-13-21T12:00:00Z",
        "2026-02-30T12:00:00Z",
        "2026-11-21T25:00:00Z",
        "2026-11-21T12:00:00.Z",
        "2026-11-21T12:00:00+0100",
        "2026-11-21T12:00:00Z[UTC]",
        "2026-W01-1T12:00:00Z",
        "2026-11-21T12:00:00+24:00",
        "2026-11-21T12:00:00+01:60",
        "2026-11-21T24:00:00Z",
        "2026-11-21T12:00:61Z",
        "2025-02-29T00:00:00Z",
        "2026-00-01T00:00:00Z",
        "-001-01-01T00:00:00Z",
    ] {
        assert_eq!(Time::parse(bad), Err(TimeError), "{bad}");
    }
}

#[test]
fn a_time_is_a_moment_as_near_as_one_can_be_told() {
    let us = |text: &str| Time::parse(text).unwrap().wall_us();
    assert_eq!(us("1970-01-01T00:00:01.0000019999Z"), 1_000_001);
    assert_eq!(us("1970-01-01T01:00:00.5+01:00"), 500_000);
    assert_eq!(us("9999-12-31T23:59:59Z"), Timestamp::MAX.as_microsecond());
}

#[test]
fn the_present_is_a_valid_time() {
    let now = Time::now();
    assert_eq!(Time::parse(now.as_str()), Ok(now.clone()), "{now:?}");
}

#[test]
fn data_is_never_shown() {
    let json = Json::from_checked(Bytes::from_static(b"{\"card\":4242}"));
    let (text, binary) = ("4242".into(), Bytes::from_static(b"4242"));
    for data in [Data::Json(json), Data::Text(text), Data::Binary(binary)] {
        assert!(!format!("{data:?}").contains("4242"));
    }
}
