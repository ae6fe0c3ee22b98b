use proptest::prelude::*;

use super::*;

fn encoded(event: &Event) -> Bytes {
    let mut out = Vec::new();
    encode(event, &mut out);
    out.into()
}

fn json(value: impl Into<serde_json::Value>) -> Json {
    Json::from_checked(value.into().to_string().into())
}

fn data() -> impl Strategy<Value = Option<Data>> {
    prop_oneof![
        Just(None),
        any::<String>().prop_map(|it| Some(Data::Json(json(it)))),
        any::<String>().prop_map(|it| Some(Data::Text(it.into()))),
        any::<Vec<u8>>().prop_map(|it| Some(Data::Binary(it.into()))),
    ]
}

fn attributes() -> impl Strategy<Value = Option<Arc<Attributes>>> {
    let extension = ("[a-z0-9]{1,255}", any::<i32>())
        .prop_map(|(name, value)| (ByteString::from(name), json(value)));
    let channel = "[a-z.]{1,255}".prop_map(|it| EventType::parse(it).unwrap());
    let attributes = (
        prop::option::of("[a-z]{1,9}/[a-z]{1,9}"),
        prop::option::of(".{1,40}"),
        prop::collection::vec(extension, 0..=Attributes::EXTENSIONS_MAX),
        prop::collection::vec(channel, 0..=Attributes::CHANNELS_MAX),
    );
    attributes.prop_map(|(content_type, schema, extensions, channels)| {
        let attributes = Attributes {
            content_type: content_type.map(Into::into),
            schema: schema.map(Into::into),
            extensions,
            channels,
        };
        (!attributes.is_empty()).then(|| Arc::new(attributes))
    })
}

prop_compose! {
    fn event()(
        event_type in "[^\\pC\\u{2028}\\u{2029}]{1,40}",
        data in data(),
        id in ".{1,40}",
        source in ".{1,40}",
        subject in prop::option::of(".{0,40}"),
        attributes in attributes(),
    ) -> Event {
        Event {
            event_type: EventType::parse(event_type).unwrap(),
            data,
            id: id.into(),
            source: source.into(),
            subject: subject.map(Into::into),
            time: Time::now(),
            publisher: "p".into(),
            attributes,
        }
    }
}

proptest! {
    /// The order of extensions and channels included.
    #[test]
    fn an_event_is_read_back_as_it_was_written(event in event()) {
        prop_assert_eq!(decode(encoded(&event)), Ok(event));
    }

    /// A cut event is malformed at every place, and never another event.
    #[test]
    fn an_event_that_was_cut_is_malformed(event in event(), cut in any::<prop::sample::Index>()) {
        let bytes = encoded(&event);
        let cut = bytes.slice(..cut.index(bytes.len()));
        prop_assert_eq!(decode(cut), Err(Malformed));
    }

    #[test]
    fn rubbish_is_never_a_panic(bytes in any::<Vec<u8>>()) {
        let _ = decode(bytes.into());
    }
}

#[test]
fn as_many_fields_as_an_event_can_have_are_counted() {
    let channel = |number: usize| EventType::parse(format!("c{number}")).unwrap();
    let extension = |number: usize| (format!("x{number}").into(), json(7));
    let attributes = Attributes {
        content_type: Some("image/png".into()),
        schema: Some("https://x.test/s".into()),
        extensions: (0..Attributes::EXTENSIONS_MAX).map(extension).collect(),
        channels: (0..Attributes::CHANNELS_MAX).map(channel).collect(),
    };
    let event = Event {
        event_type: channel(0),
        data: Some(Data::Binary(Bytes::from_static(b"\0"))),
        id: "i".into(),
        source: "/s".into(),
        subject: Some("s".into()),
        time: Time::now(),
        publisher: "p".into(),
        attributes: Some(Arc::new(attributes)),
    };
    let bytes = encoded(&event);
    assert_eq!(usize::from(bytes[0]), 5 + 2 + 2 + 200, "the count is one byte");
    assert_eq!(decode(bytes), Ok(event));
}

#[test]
fn a_field_that_stands_twice_or_is_unknown_is_malformed() {
    let event = |fields: &[(u8, &[u8])]| {
        let mut out = vec![u8::try_from(fields.len()).unwrap()];
        fields.iter().for_each(|(tag, value)| put_field(&mut out, *tag, value));
        decode(out.into())
    };
    let required: [(u8, &[u8]); 5] = [
        (FIELD_TYPE, b"t"),
        (FIELD_ID, b"i"),
        (FIELD_SOURCE, b"/s"),
        (FIELD_TIME, b"2026-11-21T12:00:00Z"),
        (FIELD_PUBLISHER, b"p"),
    ];
    let with = |more: &[(u8, &'static [u8])]| event(&[&required[..], more].concat());
    assert!(with(&[]).is_ok());
    assert!(with(&[(FIELD_EXTENSION, b"\x01a1"), (FIELD_EXTENSION, b"\x01b2")]).is_ok());
    assert!(with(&[(FIELD_CHANNEL, b"a"), (FIELD_CHANNEL, b"b")]).is_ok());
    let bad: [&[(u8, &'static [u8])]; 9] = [
        &[(FIELD_ID, b"i")],
        &[(FIELD_CONTENT_TYPE, b"a/b"), (FIELD_CONTENT_TYPE, b"a/b")],
        &[(FIELD_SCHEMA, b"a:b"), (FIELD_SCHEMA, b"a:b")],
        &[(FIELD_DATA, b"1"), (FIELD_DATA, b"1")],
        &[(FIELD_EXTENSION, b"")],
        &[(FIELD_EXTENSION, b"\x05ab")],
        &[(FIELD_CHANNEL, b"")],
        &[(FIELD_CONTENT_TYPE, b"\xff")],
        &[(99, b"")],
    ];
    for more in bad {
        assert_eq!(with(more), Err(Malformed), "{more:?}");
    }
    assert_eq!(event(&required[1..]), Err(Malformed));
}
