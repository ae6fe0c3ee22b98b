use std::task::{Context, Poll, Waker};

use super::*;
use crate::channels::mailbox::TooSlow;

/// Sixteen MiB: more than any test holds.
const MEMORY: usize = 16 * 1024 * 1024;
const CHANNEL: &str = "abcdefghijkl";

const BOUNDS: Bounds = Bounds {
    channels_max: 2,
    clients_max: 3,
    clients_in_all_max: 1000,
    mailbox_bytes_max: 4096,
    waiting_bytes_max: MEMORY,
};

fn house(bounds: Bounds) -> (Arc<Channels>, Arc<Memory>) {
    let memory = Memory::new(MEMORY);
    (Channels::new(bounds, &memory), memory)
}

fn candidate(channel: &str, client: &str, password: &str) -> Candidate {
    let [channel, client, password] = [channel, client, password].map(str::to_owned);
    Candidate { channel, client, password }
}

impl Channels {
    fn enter(self: &Arc<Self>, client: &str) -> Membership {
        self.join(candidate(CHANNEL, client, "")).unwrap()
    }

    fn tell(&self, payload: &str) {
        self.publish(CHANNEL, "", &Message { kind: "t", origin: "xyz", payload }).unwrap();
    }
}

impl Membership {
    /// All that waits for it, as it is written.
    fn taken(&self) -> Result<String, TooSlow> {
        let mut text = String::new();
        let mut cx = Context::from_waker(Waker::noop());
        while let Poll::Ready(bytes) = self.mailbox.poll_take(&mut cx) {
            text.push_str(std::str::from_utf8(&bytes?).unwrap());
        }
        Ok(text)
    }

    /// The same in short: type, origin and payload of each.
    fn heard(&self) -> Vec<String> {
        let text = self.taken().unwrap();
        let blocks = text.split_terminator("\n\n").map(|block| {
            let event: serde_json::Value =
                serde_json::from_str(block.strip_prefix("data: ").unwrap()).unwrap();
            assert_eq!(event["channel_id"], CHANNEL);
            let [kind, origin] = ["type", "origin_id"].map(|it| event[it].as_str().unwrap());
            format!("{kind} {origin} {}", event["payload"])
        });
        blocks.collect()
    }
}

#[test]
fn a_newcomer_hears_the_list_and_then_itself_and_the_others_hear_it() {
    let (channels, _memory) = house(BOUNDS);
    let alice = channels.enter("alice");
    assert_eq!(
        alice.taken().unwrap(),
        "data: {\"channel_id\":\"abcdefghijkl\",\"type\":\"CLIENT_LIST\",\
         \"origin_id\":\"server\",\"payload\":[\"alice\"]}\n\n\
         data: {\"channel_id\":\"abcdefghijkl\",\"type\":\"CONNECT\",\
         \"origin_id\":\"alice\",\"payload\":null}\n\n"
    );
    let bob = channels.enter("bob");
    let carol = channels.enter("Carol");
    channels.tell("1");
    drop(bob);
    channels.tell("2");
    assert_eq!(
        alice.heard(),
        ["CONNECT bob null", "CONNECT Carol null", "t xyz 1", "DISCONNECT bob null", "t xyz 2"]
    );
    assert_eq!(
        carol.heard(),
        [
            "CLIENT_LIST server [\"alice\",\"bob\",\"Carol\"]",
            "CONNECT Carol null",
            "t xyz 1",
            "DISCONNECT bob null",
            "t xyz 2"
        ]
    );
    // Who comes back stands at the end of the list.
    drop(alice);
    let alice = channels.enter("alice");
    assert_eq!(alice.heard()[0], "CLIENT_LIST server [\"Carol\",\"alice\"]");
}

#[test]
fn each_candidate_that_is_not_let_in_is_told_the_first_reason() {
    use ChannelError::*;
    let long = "x".repeat(256);
    let table = [
        ("abcdefghijkl", "bob", "secret", None),
        ("abcdefghijkl", "bo", "", Some(BadClient)),
        ("abcdefghijk", "bob", "secret", Some(BadChannel)),
        ("abcdefghijklm", "bob", "secret", Some(BadChannel)),
        ("", "", "", Some(BadChannel)),
        ("äöüäöü", "bob", "", Some(TooManyChannels)),
        ("äöüäöüabcdef", "bob", "", Some(BadChannel)),
        ("abcdefghijk", "b", &long, Some(BadChannel)),
        ("abcdefghijkl", "b", &long, Some(BadClient)),
        ("abcdefghijkl", &long, &long, Some(LongClient)),
        ("abcdefghijkl", "bob", &long, Some(LongPassword)),
        ("abcdefghijkl", "bob", "wrong", Some(WrongPassword)),
        ("abcdefghijkl", "ALICE", "wrong", Some(WrongPassword)),
        ("abcdefghijkl", "ALICE", "secret", Some(TakenClient)),
        ("ABCDEFGHIJKL", "alice", "wrong", Some(TooManyChannels)),
        ("ABCDEFGHIJKL", "bo", "wrong", Some(BadClient)),
        ("opentoeverya", "bob", "anything", None),
        ("opentoeverya", "bob", &long, Some(LongPassword)),
    ];
    for (channel, client, password, error) in table {
        let (channels, _memory) = house(BOUNDS);
        let _alice = channels.join(candidate(CHANNEL, "alice", "secret")).unwrap();
        let _open = channels.join(candidate("opentoeverya", "alice", "")).unwrap();
        let joined = channels.join(candidate(channel, client, password));
        assert_eq!(joined.map(|_| ()).err(), error, "{channel} {client} {password}");
        assert_eq!(channels.count(), 2, "{channel} {client} {password}");
    }
}

#[test]
fn each_message_that_is_not_told_is_refused_for_the_first_reason() {
    use ChannelError::*;
    let table = [
        (CHANNEL, "t", "xyz", "secret", None),
        (CHANNEL, "t", "xyz", "", Some(WrongPassword)),
        (CHANNEL, "t", "xyz", "Secret", Some(WrongPassword)),
        (CHANNEL, "CONNECT", "server", "secret", None),
        ("abcdefghijk", "", "xy", "", Some(BadChannel)),
        ("nobodyisther", "", "xy", "", Some(BadType)),
        ("nobodyisther", "t", "xy", "", Some(BadOrigin)),
        ("nobodyisther", "t", "xyz", "", Some(NoChannel)),
        (CHANNEL, "", "xy", "", Some(BadType)),
        (CHANNEL, "t", "xy", "", Some(BadOrigin)),
    ];
    let (channels, memory) = house(BOUNDS);
    let alice = channels.join(candidate(CHANNEL, "alice", "secret")).unwrap();
    alice.taken().unwrap();
    for (channel, kind, origin, password, error) in table {
        let message = Message { kind, origin, payload: "1" };
        assert_eq!(channels.publish(channel, password, &message).err(), error, "{kind} {origin}");
        let heard = alice.heard();
        let due = format!("{kind} {origin} 1");
        assert_eq!(heard, Vec::from_iter(error.is_none().then_some(due)));
    }
    assert_eq!(memory.held(), 0);
}

#[test]
fn client_ids_are_one_whatever_their_case() {
    for (one, other, is_same) in [
        ("alice", "ALICE", true),
        ("aLiCe", "AlIcE", true),
        ("jürgen", "JÜRGEN", true),
        ("οδος", "ΟΔΟΣ", true),
        ("οδοσ", "ΟΔΟΣ", true),
        ("οδοσ", "οδος", true),
        ("straße", "STRASSE", true),
        ("straße", "STRAẞE", true),
        ("Ωmega", "ωMEGA", true),
        ("яков", "ЯКОВ", true),
        ("alice", "alicf", false),
        ("jürgen", "jurgen", false),
        ("alice", "alice ", false),
    ] {
        let (channels, _memory) = house(BOUNDS);
        let _one = channels.enter(one);
        let error = channels.join(candidate(CHANNEL, other, "")).map(|_| ()).err();
        assert_eq!(error, is_same.then_some(ChannelError::TakenClient), "{one} {other}");
    }
}

#[test]
fn a_channel_is_made_with_its_first_password_and_anew_with_another() {
    let (channels, _memory) = house(BOUNDS);
    let joined = |client: &str, password: &str| {
        channels.join(candidate(CHANNEL, client, password)).map_err(|error| error.to_string())
    };
    let wrong = "invalid channel password";
    let alice = joined("alice", "one").unwrap();
    let bob = joined("bob", "one").unwrap();
    drop(alice);
    assert_eq!(joined("alice", "two").map(|_| ()).unwrap_err(), wrong);
    drop(bob);
    assert_eq!(channels.count(), 0);
    let alice = joined("alice", "two").unwrap();
    assert_eq!(joined("bob", "one").map(|_| ()).unwrap_err(), wrong);
    drop(alice);
    let _alice = joined("alice", "").unwrap();
    let _bob = joined("bob", "anything").unwrap();
    let _carol = joined("carol", "").unwrap();
}

#[test]
fn channels_and_their_clients_are_bounded_and_room_is_given_back() {
    let (channels, _memory) = house(BOUNDS);
    let join = |channel: &str, client: &str| channels.join(candidate(channel, client, ""));
    let first: Vec<_> = ["one", "two", "three"].map(|it| join(CHANNEL, it).unwrap()).into();
    assert_eq!(join(CHANNEL, "four").unwrap_err(), ChannelError::TooManyClients);
    // An id that is taken is told before.
    assert_eq!(join(CHANNEL, "ONE").unwrap_err(), ChannelError::TakenClient);
    let second = join("mnopqrstuvwx", "one").unwrap();
    assert_eq!(join("thirdchannel", "one").unwrap_err(), ChannelError::TooManyChannels);
    assert_eq!(join("thirdchannel", "o").unwrap_err(), ChannelError::BadClient);
    drop(second);
    let _third = join("thirdchannel", "one").unwrap();
    drop(first);
    let _again = join(CHANNEL, "four").unwrap();
    assert_eq!(channels.count(), 2);
}

#[test]
fn who_does_not_read_is_let_go_alone() {
    let (channels, memory) = house(BOUNDS);
    let (slow, quick) = (channels.enter("slow"), channels.enter("quick"));
    quick.taken().unwrap();
    let payload = format!("\"{}\"", "x".repeat(1000));
    for round in 0..8 {
        channels.tell(&payload);
        assert_eq!(quick.heard().len(), 1, "{round}");
    }
    assert!(slow.mailbox.is_overflown() && !quick.mailbox.is_overflown());
    assert_eq!(slow.taken(), Err(TooSlow));
    assert_eq!(memory.held(), 0, "what it has not read is thrown away");
    channels.tell("1");
    assert_eq!(slow.taken(), Err(TooSlow), "there is no way back");
    drop(slow);
    assert_eq!(quick.heard(), ["t xyz 1", "DISCONNECT slow null"]);
}

#[test]
fn a_mailbox_holds_up_to_its_bound_and_any_one_message_when_it_is_empty() {
    let (channels, _memory) = house(BOUNDS);
    let alice = channels.enter("alice");
    alice.taken().unwrap();
    channels.tell(&format!("\"{}\"", "x".repeat(8000)));
    assert_eq!(alice.heard().len(), 1);
    channels.tell("");
    let rest = alice.taken().unwrap().len();
    for (more, is_too_much) in [(0, false), (1, true)] {
        let alone = format!("\"{}\"", "x".repeat(2048 - rest - 2));
        channels.tell(&alone);
        channels.tell(&format!("{alone}{}", " ".repeat(more)));
        assert_eq!(alice.taken().is_err(), is_too_much, "{more}");
    }
}

/// The list of many clients is longer than what may wait for one.
#[test]
fn a_newcomer_has_room_for_the_whole_list_and_its_own_coming() {
    let (channels, _memory) = house(Bounds { clients_max: 1000, mailbox_bytes_max: 64, ..BOUNDS });
    let members: Vec<_> =
        (0..100).map(|number| channels.enter(&format!("client-{number}"))).collect();
    let heard = members.last().unwrap().heard();
    assert_eq!(heard.len(), 2);
    assert!(heard[0].ends_with("\"client-98\",\"client-99\"]"), "{}", heard[0]);
    assert_eq!(heard[1], "CONNECT client-99 null");
}

#[test]
fn names_are_escaped_and_payloads_are_as_they_came() {
    let (channels, _memory) = house(BOUNDS);
    let alice = channels.enter("a\"\n\u{1}\u{2028}");
    let taken = alice.taken().unwrap();
    assert!(taken.contains("\"payload\":[\"a\\\"\\n\\u0001\u{2028}\"]"), "{taken}");
    for payload in [
        "1.0",
        "12345678901234567890",
        "{ \"b\":1, \"a\":2, \"a\":3 }",
        "\"<&>\"",
        "\"\\u003c\"",
        "null",
    ] {
        channels.tell(payload);
        let taken = alice.taken().unwrap();
        assert!(taken.ends_with(&format!("\"payload\":{payload}}}\n\n")), "{taken}");
    }
    channels.tell("[\n1,\r\n2]");
    let taken = alice.taken().unwrap();
    assert!(taken.ends_with("\"payload\":[\ndata: 1,\ndata: 2]}\n\n"), "{taken}");
}

/// Clients of all threads come, tell something and go: each hears all in the order of all.
#[test]
fn clients_of_several_threads_hear_one_order() {
    let bounds = Bounds { clients_max: 100, mailbox_bytes_max: MEMORY, ..BOUNDS };
    let (channels, memory) = house(bounds);
    let witnesses = ["one", "two"].map(|it| channels.enter(it));
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let channels = &channels;
            scope.spawn(move || {
                for round in 0..200 {
                    let member = channels.enter(&format!("client-{thread}"));
                    channels.tell(&format!("[{thread},{round}]"));
                    drop(member);
                }
            });
        }
    });
    let [one, two] = witnesses.each_ref().map(|it| it.heard());
    assert_eq!(one[3..], two[2..], "from where the second has come");
    let count = |kind: &str| one.iter().filter(|it| it.starts_with(kind)).count();
    assert_eq!((count("CONNECT client"), count("t "), count("DISCONNECT")), (800, 800, 800));
    drop(witnesses);
    assert_eq!((channels.count(), memory.held()), (0, 0));
}

#[test]
fn nothing_is_left_behind() {
    let (channels, memory) = house(Bounds { channels_max: 100, ..BOUNDS });
    for round in 0..1000 {
        let id = format!("channel-{:04}", round % 50);
        let first = channels.join(candidate(&id, "first", "secret")).unwrap();
        let second = channels.join(candidate(&id, "second", "secret")).unwrap();
        assert!(channels.join(candidate(&id, "third", "wrong")).is_err());
        let message = Message { kind: "t", origin: "xyz", payload: "[1]" };
        channels.publish(&id, "secret", &message).unwrap();
        drop(first);
        drop(second);
        assert_eq!((channels.count(), memory.held()), (0, 0));
    }
}

#[test]
fn clients_of_all_channels_leave_room_for_those_with_a_token() {
    let (channels, _memory) = house(Bounds { clients_in_all_max: 2, ..BOUNDS });
    let join = |id: &str, client: &str| channels.join(candidate(id, client, ""));
    let first = join("channel-0001", "one").unwrap();
    let _second = join("channel-0002", "two").unwrap();
    assert_eq!(join("channel-0001", "three").err(), Some(ChannelError::TooManyClientsInAll));
    drop(first);
    assert!(join("channel-0002", "three").is_ok());
}

#[test]
fn what_waits_for_all_of_them_is_a_part_of_what_may() {
    let (channels, memory) = house(Bounds { waiting_bytes_max: 2000, ..BOUNDS });
    let slow = channels.join(candidate("channel-0001", "slow", "")).unwrap();
    let payload = format!("\"{}\"", "x".repeat(1500));
    let message = Message { kind: "t", origin: "xyz", payload: &payload };
    for is_taken in [true, false, false] {
        let told = channels.publish("channel-0001", "", &message);
        assert_eq!(told, if is_taken { Ok(()) } else { Err(ChannelError::NoRoom) });
    }
    drop(slow);
    assert_eq!(memory.held(), 0);
}
