//! Options that contradict one another. They are wrong usage, as one that does not exist is.
//!
//! Only clap knows what came from the command line and what from the environment, so it is asked while
//! it still has its matches. What is found is told later: of its own errors none would name it.

use clap::parser::ValueSource;
use clap::{ArgMatches, Args, Command, Error, FromArgMatches};
use gateway::endpoint::Endpoint;

use crate::processes::is_ours;
use crate::setup::{Peer, Setting};

/// What contradicts itself, in a sentence, if anything does.
#[derive(Debug)]
pub(crate) struct Contradiction(pub(crate) Option<String>);

impl Args for Contradiction {
    fn augment_args(command: Command) -> Command {
        command
    }

    fn augment_args_for_update(command: Command) -> Command {
        command
    }
}

impl FromArgMatches for Contradiction {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, Error> {
        let found = spawned_and_found(matches).or_else(|| uneven(matches)).or_else(|| set(matches));
        Ok(Self(found))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

/// Where a gateway is and who calls it says nothing to one that is started for the benchmark. The
/// environment may say it all the same: it is there for the other commands.
fn spawned_and_found(matches: &ArgMatches) -> Option<String> {
    let is_told = |id: &&str| matches.value_source(id) == Some(ValueSource::CommandLine);
    let told = ["listen", "broadcast", "token", "ca_file"].into_iter().find(is_told)?;
    matches.get_flag("spawn").then(|| {
        format!("--{} is for a gateway that runs: not with --spawn", told.replace('_', "-"))
    })
}

/// The others speak without TLS, and on this machine: against anything else no ratio means anything.
fn uneven(matches: &ArgMatches) -> Option<String> {
    let is_compared = matches.get_flag("limit") || matches.get_many::<Peer>("peer").is_some();
    if !is_compared {
        return None;
    }
    if matches.get_flag("tls") {
        return Some("--limit and --peer speak without TLS: not with --tls".to_owned());
    }
    if matches.get_flag("spawn") {
        return None;
    }
    let doors = ["listen", "broadcast"].into_iter().filter_map(|id| matches.get_one(id));
    doors.filter_map(|door: &Endpoint| uneven_door(door)).next()
}

fn uneven_door(door: &Endpoint) -> Option<String> {
    let authority = door.authority();
    if door.is_tls() {
        return Some(format!("--limit and --peer speak without TLS, {authority} with it"));
    }
    // What has no address is told of when it is measured.
    let address = door.address().ok()?;
    (!is_ours(address.ip()))
        .then(|| format!("--limit and --peer are on this machine, {authority} is not"))
}

fn set(matches: &ArgMatches) -> Option<String> {
    matches.get_many::<Setting>("set")?.find_map(|Setting { name, .. }| {
        if OURS.contains(&name.as_str()) {
            Some(format!("--set {name}: the benchmark sets it itself"))
        } else if KNOWN.contains(&name.as_str()) {
            None
        } else {
            Some(format!("--set {name}: neither listen nor broadcast has such a setting"))
        }
    })
}

/// Settings of a gateway that is started for the benchmark.
const OURS: [&str; 10] = [
    "BROADCAST_ADDR",
    "BROADCAST_ADMIN_ADDR",
    "CERT_FILE",
    "DATA_DIR",
    "HTTPS_ENABLE",
    "KEY_FILE",
    "LINK",
    "LISTEN_ADDR",
    "LISTEN_ADMIN_ADDR",
    "TOKENS_FILE",
];
/// All others that the two processes have.
const KNOWN: [&str; 46] = [
    "ALLOWED_ORIGINS",
    "AMQP_CA_FILE",
    "AMQP_CONSUME",
    "AMQP_URLS",
    "CHANNELS_ENABLE",
    "CORS_ALLOW_ORIGIN",
    "DRAIN_TIMEOUT",
    "DURABILITY",
    "INIT_TIMEOUT",
    "JWT_AUDIENCE",
    "JWT_DEFAULT_PUBLISH",
    "JWT_DEFAULT_SUBSCRIBE",
    "JWT_ISSUER",
    "JWT_KEYS_FILE",
    "JWT_REQUIRE_EXP",
    "JWT_SECRET_FILE",
    "LINK_GROUP",
    "LINK_UIDS",
    "LOG_CACHE_BYTES",
    "LOG_FORMAT",
    "LOG_MAX_AGE",
    "LOG_MAX_BYTES",
    "LOG_MAX_EVENTS",
    "MAX_BODY",
    "MAX_CHANNELS",
    "MAX_CHANNEL_CLIENTS",
    "MAX_FRAME_RATE",
    "MAX_MESSAGE",
    "MAX_PATTERNS",
    "MAX_QUEUES",
    "MAX_SESSIONS",
    "MAX_SESSIONS_PER_ADDRESS",
    "MEMORY_LIMIT",
    "OUTBOX_BYTES",
    "PUBLISH_TIMEOUT",
    "QUEUE_ENGINE",
    "QUEUE_EXPIRES",
    "QUEUE_HEADERS",
    "QUEUE_MAX_BYTES",
    "QUEUE_MAX_EVENTS",
    "QUEUE_PATH",
    "QUEUE_PATTERN",
    "RATE_LIMIT",
    "RUST_LOG",
    "TRUSTED_PROXIES",
    "WORKERS",
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;

    use clap::Parser;

    use super::*;
    use crate::setup::Setup;

    #[derive(Debug, Parser)]
    struct Command {
        #[command(flatten)]
        setup: Setup,
    }

    fn refusal(arguments: &[&str]) -> String {
        let command = Command::try_parse_from(["bench"].iter().chain(arguments)).unwrap();
        command.setup.contradiction.0.unwrap_or_default()
    }

    #[test]
    fn what_contradicts_itself_is_wrong_usage() {
        let table: [(&[&str], &str); 11] = [
            (&["--spawn", "--listen", "http://127.0.0.1:1"], "--listen"),
            (&["--spawn", "--broadcast", "ws://127.0.0.1:1"], "--broadcast"),
            (&["--spawn", "--token", "secret"], "--token"),
            (&["--spawn", "--ca-file", "x.pem"], "--ca-file"),
            (&["--spawn", "--tls", "--limit"], "without TLS"),
            (&["--spawn", "--tls", "--peer", "nats"], "without TLS"),
            (&["--limit", "--listen", "https://127.0.0.1:1"], "without TLS"),
            (&["--peer", "nchan", "--broadcast", "wss://127.0.0.1:1"], "without TLS"),
            (&["--limit", "--listen", "http://192.0.2.1:1"], "this machine"),
            (&["--spawn", "--set", "DATA_DIR=/tmp"], "DATA_DIR"),
            (&["--spawn", "--set", "DURABILTY=memory"], "DURABILTY"),
        ];
        for (arguments, said) in table {
            let refusal = refusal(arguments);
            assert!(refusal.contains(said), "{arguments:?}: {refusal}");
            assert!(!refusal.contains("secret"));
        }
    }

    #[test]
    fn what_does_not_is_taken() {
        let table: [&[&str]; 5] = [
            &[],
            &["--spawn", "--tls", "--set", "DURABILITY=memory", "--set", "WORKERS=2"],
            &["--spawn", "--limit", "--peer", "nats"],
            &["--limit"],
            &["--listen", "https://192.0.2.1:1", "--token", "secret"],
        ];
        for arguments in table {
            assert_eq!(refusal(arguments), "", "{arguments:?}");
        }
    }

    #[test]
    fn every_setting_of_the_two_processes_is_known() {
        let mut declared = BTreeSet::new();
        for file in [
            "shared/src/settings.rs",
            "listen/src/config.rs",
            "broadcast/src/config.rs",
            "broadcast/src/config/queues.rs",
            "shared/src/amqp/settings.rs",
            "broadcast/src/config/channels.rs",
        ] {
            let path = format!("{}/../{file}", env!("CARGO_MANIFEST_DIR"));
            let source = fs::read_to_string(path).unwrap();
            let names = source.split("env = \"").skip(1).map(|rest| rest.split('"').next());
            declared.extend(names.map(|name| name.unwrap().to_owned()));
        }
        declared.retain(|name| !name.starts_with("TEST_"));
        let known: BTreeSet<_> = OURS.iter().chain(&KNOWN).map(|it| (*it).to_owned()).collect();
        assert_eq!(known, declared);
    }
}
