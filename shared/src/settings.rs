//! What the settings of both processes have in common, and how their values are written.
//!
//! Flag before environment before default. A value that is given and wrong stops the process:
//! nothing is guessed.

use std::error::Error as _;
use std::ffi::OsString;
use std::io::Write as _;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::process::ExitCode;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use bytesize::ByteSize;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Args, Parser, ValueEnum};
use jiff::SignedDuration;

use crate::address::Network;
use crate::bearer::{Bearer, KeyFiles, Rules};
use crate::link::LinkAddress;
use crate::pattern::Pattern;
use crate::reload::LoadError;

/// The exit code for settings that are wrong (sysexits.h: `EX_CONFIG`).
pub const EXIT_CONFIG: u8 = 78;

/// Far more than any machine has, and far from where sums of sizes would wrap.
const SIZE_MAX: usize = 1 << 40;

/// What both processes can be told.
#[derive(Debug, Clone, Args)]
pub struct Common {
    /// Where listen and broadcast meet: `unix:` and the path of a socket
    #[arg(long, env = "LINK", value_name = "ADDRESS", default_value = "unix:./sockets/link.sock")]
    pub link: LinkAddress,

    /// User ids, beside our own, that the other end of the link may have
    #[arg(long, env = "LINK_UIDS", value_name = "UID,…", default_value = "", value_parser = parse_list::<u32>)]
    pub link_uids: List<u32>,

    /// The file with one token a line; it is followed while we run
    #[arg(long, env = "TOKENS_FILE", value_name = "PATH", default_value = "./tokens/tokens")]
    pub tokens_file: PathBuf,

    /// The file with the secret of signed tokens (JWT, HS256); followed while we run
    #[arg(long, env = "JWT_SECRET_FILE", value_name = "PATH")]
    pub jwt_secret_file: Option<PathBuf>,

    /// The file with the public keys of signed tokens (RS256, ES256, EdDSA): a JWKS, or PEM;
    /// followed while we run
    #[arg(long, env = "JWT_KEYS_FILE", value_name = "PATH")]
    pub jwt_keys_file: Option<PathBuf>,

    /// Whether a signed token must say when it ends
    #[arg(long, env = "JWT_REQUIRE_EXP", value_name = "true|false", default_value = "true",
          num_args = 0..=1, default_missing_value = "true", action = clap::ArgAction::Set)]
    pub jwt_require_exp: bool,

    /// Whom a signed token must be meant for: one of these; all where it is empty
    #[arg(long, env = "JWT_AUDIENCE", value_name = "NAME,…", default_value = "", value_parser = parse_list::<String>)]
    pub jwt_audience: List<String>,

    /// Who must have made a signed token
    #[arg(long, env = "JWT_ISSUER", value_name = "NAME", value_parser = parse_name)]
    pub jwt_issuer: Option<String>,

    /// What a signed token may publish that does not say: patterns
    #[arg(long, env = "JWT_DEFAULT_PUBLISH", value_name = "PATTERN,…", default_value = "", value_parser = parse_list::<Pattern>)]
    pub jwt_default_publish: List<Pattern>,

    /// What a signed token may subscribe that does not say: patterns
    #[arg(long, env = "JWT_DEFAULT_SUBSCRIBE", value_name = "PATTERN,…", default_value = "", value_parser = parse_list::<Pattern>)]
    pub jwt_default_subscribe: List<Pattern>,

    /// Whether the door speaks TLS (1.2 and 1.3)
    #[arg(long, env = "HTTPS_ENABLE", value_name = "true|false", default_value = "false",
          num_args = 0..=1, default_missing_value = "true", action = clap::ArgAction::Set)]
    pub https_enable: bool,

    /// The certificate chain in PEM; followed together with the key
    #[arg(long, env = "CERT_FILE", value_name = "PATH", default_value = "./certs/cert.crt")]
    pub cert_file: PathBuf,

    /// The private key in PEM
    #[arg(long, env = "KEY_FILE", value_name = "PATH", default_value = "./certs/cert.key")]
    pub key_file: PathBuf,

    /// The largest body of a request, unpacked
    #[arg(long, env = "MAX_BODY", value_name = "SIZE", default_value = "1MiB", value_parser = parse_size)]
    pub max_body: usize,

    /// What queues and bodies may hold in all: from 60 % of it publishers are refused, above it
    /// the largest queues are closed
    #[arg(long, env = "MEMORY_LIMIT", value_name = "SIZE", default_value = "1GiB", value_parser = parse_size)]
    pub memory_limit: usize,

    /// Proxies whose word on the client's address is believed: addresses or networks
    #[arg(long, env = "TRUSTED_PROXIES", value_name = "CIDR,…", default_value = "", value_parser = parse_list::<Network>)]
    pub trusted_proxies: List<Network>,

    /// Threads that serve connections; one for two cores where it is not given
    #[arg(long, env = "WORKERS", value_name = "COUNT", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub workers: Option<u16>,

    /// How long a stop may take before what is left is cut off
    #[arg(long, env = "DRAIN_TIMEOUT", value_name = "DURATION", default_value = "10s", value_parser = parse_duration)]
    pub drain_timeout: Duration,

    /// How log lines are written
    #[arg(long, env = "LOG_FORMAT", value_name = "FORMAT", default_value = "text")]
    pub log_format: LogFormat,

    /// Which log lines are written: a level, or `module=level` pairs
    #[arg(long, env = "RUST_LOG", value_name = "FILTER", default_value = "info", value_parser = parse_filter)]
    pub rust_log: String,
}

impl Common {
    /// What verifies signed tokens; `None` where no key is named.
    ///
    /// # Errors
    ///
    /// A file is no good.
    pub fn bearer(&self) -> Result<Option<Arc<Bearer>>, LoadError> {
        let (secret, public) = (self.jwt_secret_file.clone(), self.jwt_keys_file.clone());
        if secret.is_none() && public.is_none() {
            return Ok(None);
        }
        let rules = Rules {
            requires_exp: self.jwt_require_exp,
            audiences: self.jwt_audience.0.clone(),
            issuer: self.jwt_issuer.clone(),
            default_publish: self.jwt_default_publish.0.clone(),
            default_subscribe: self.jwt_default_subscribe.0.clone(),
        };
        Bearer::follow(KeyFiles { secret, public }, rules).map(Some)
    }

    /// The number of threads to serve connections with. Two processes share the machine, and more
    /// threads than cores make smaller batches of the same work.
    pub fn worker_count(&self) -> usize {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        self.workers.map_or(cores.div_ceil(2), usize::from)
    }
}

/// How log lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// One line of words.
    Text,
    /// One JSON object a line.
    Json,
}

/// A comma-separated list of values; may be empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct List<T>(pub Vec<T>);

/// So many a second; `off` is the absence of a rate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate(pub Option<NonZeroU32>);

impl FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "off" {
            return Ok(Self(None));
        }
        let count = text.strip_suffix("/s").and_then(|count| count.parse().ok());
        count.map(|count| Self(Some(count))).ok_or_else(|| "write off, or 100/s".to_owned())
    }
}

/// Reads a duration such as `5s`, `200ms`, `1m`; more than nothing, at most a day.
///
/// # Errors
///
/// One sentence that shows how it is written.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let duration = read_duration(text, "5s or 200ms")?;
    if duration > Duration::from_secs(86_400) {
        return Err("a duration is more than nothing and at most a day".to_owned());
    }
    Ok(duration)
}

/// Reads how long something is kept, such as `24h` or `7d`; more than nothing, at most ten years.
///
/// # Errors
///
/// One sentence that shows how it is written.
pub fn parse_age(text: &str) -> Result<Duration, String> {
    const DAY: u64 = 86_400;
    let age = match text.strip_suffix('d').map(str::parse::<u64>) {
        Some(Ok(days)) if days > 0 => Duration::from_secs(days.saturating_mul(DAY)),
        _ => read_duration(text, "24h or 7d")?,
    };
    if age > Duration::from_secs(3660 * DAY) {
        return Err("nothing is kept for more than ten years".to_owned());
    }
    Ok(age)
}

/// Reads how many seconds something takes: a number, or a duration; at least one.
///
/// # Errors
///
/// One sentence that shows how it is written.
pub fn parse_seconds(text: &str) -> Result<Duration, String> {
    match text.parse::<u32>() {
        Ok(seconds) if seconds > 0 => parse_age(&format!("{seconds}s")),
        _ => match parse_age(text)? {
            age if age >= Duration::from_secs(1) => Ok(age),
            _ => Err("it is a second at least".to_owned()),
        },
    }
}

fn read_duration(text: &str, example: &str) -> Result<Duration, String> {
    let how = || format!("write a duration such as {example}");
    let duration: SignedDuration = text.parse().map_err(|_| how())?;
    let duration = Duration::try_from(duration).map_err(|_| how())?;
    if duration.is_zero() {
        return Err("a duration is more than nothing and at most a day".to_owned());
    }
    Ok(duration)
}

/// Reads a size such as `64KiB`, `1MiB`, `1GiB`, or a number of bytes; more than nothing.
///
/// # Errors
///
/// One sentence that shows how it is written.
pub fn parse_size(text: &str) -> Result<usize, String> {
    let size: ByteSize =
        text.parse().map_err(|_| "write a size such as 64KiB or 1MiB".to_owned())?;
    match usize::try_from(size.as_u64()) {
        Ok(bytes @ 1..=SIZE_MAX) => Ok(bytes),
        _ => Err("a size is more than nothing and at most 1TiB".to_owned()),
    }
}

/// Reads values between commas; nothing at all is an empty list.
///
/// # Errors
///
/// The fault of the first value that is wrong.
pub fn parse_list<T: FromStr<Err: std::fmt::Display>>(text: &str) -> Result<List<T>, String> {
    let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
    let values: Result<Vec<T>, String> = (1..)
        .zip(parts)
        .map(|(number, part)| {
            part.parse().map_err(|fault: T::Err| format!("value {number}: {fault}"))
        })
        .collect();
    values.map(List)
}

/// Nobody is called nothing: such an issuer would refuse every token in silence.
fn parse_name(text: &str) -> Result<String, String> {
    if text.is_empty() { Err("a name is not empty".to_owned()) } else { Ok(text.to_owned()) }
}

/// env_logger ignores what it cannot read; we do not.
fn parse_filter(text: &str) -> Result<String, String> {
    env_filter::Builder::new().try_parse(text).map_err(|error| error.to_string())?;
    Ok(text.to_owned())
}

/// Reads the settings from the command line and the environment.
///
/// # Errors
///
/// The exit code, after help, version, or one sentence on what is wrong was printed.
pub fn read<P: Parser>(arguments: impl IntoIterator<Item = OsString>) -> Result<P, ExitCode> {
    P::try_parse_from(arguments).map_err(|error| {
        // Nothing is left to be done about a terminal that is gone.
        let is_fault = error.use_stderr()
            && error.kind() != ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand;
        if is_fault {
            let _ = writeln!(std::io::stderr(), "{}", describe(&error));
        } else {
            let _ = error.print();
        }
        if error.use_stderr() { ExitCode::from(EXIT_CONFIG) } else { ExitCode::SUCCESS }
    })
}

/// One sentence that names the setting. HARDENING: no argument is ever printed, for it may be a
/// token that somebody put in the wrong place; so this is not clap's own text.
pub fn describe(error: &clap::Error) -> String {
    let named = match error.get(ContextKind::InvalidArg) {
        Some(ContextValue::String(named)) => named.as_str(),
        _ => "",
    };
    if error.kind() == ErrorKind::UnknownArgument {
        return "an argument is unknown; --help shows those that there are".to_owned();
    }
    let flag = named.split(' ').next().unwrap_or_default();
    let setting = flag.trim_start_matches('-').to_uppercase().replace('-', "_");
    let fault = match (error.source(), error.get(ContextKind::ValidValue)) {
        (Some(fault), _) => fault.to_string(),
        (None, Some(ContextValue::Strings(values))) if !values.is_empty() => {
            format!("write {}", values.join(" or "))
        }
        _ => error.kind().as_str().unwrap_or("it cannot be read").to_owned(),
    };
    match flag.starts_with("--") {
        true => format!("{setting} ({flag}): {fault}"),
        // A word that is no flag: which one it is, --help can tell.
        false => format!("{fault}; --help shows how it is written"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Parser)]
    struct Some {
        #[arg(long, env = "TEST_MAX_BODY", value_parser = parse_size)]
        test_max_body: Option<usize>,
        #[arg(long, env = "TEST_LOG_FORMAT")]
        test_log_format: Option<LogFormat>,
        #[arg(long, env = "TEST_ADDR")]
        test_addr: Option<std::net::SocketAddr>,
    }

    #[test]
    fn a_wrong_value_is_named_in_one_sentence() {
        let table = [
            ("--test-max-body=hidden", "TEST_MAX_BODY (--test-max-body): write a size"),
            ("--test-log-format=hidden", "TEST_LOG_FORMAT (--test-log-format): write text or json"),
            ("--test-addr=hidden", "TEST_ADDR (--test-addr): invalid socket address"),
            ("--hidden", "an argument is unknown; --help shows"),
            ("hidden", "an argument is unknown; --help shows"),
        ];
        for (argument, expected) in table {
            let error = Some::try_parse_from(["test", argument]).unwrap_err();
            let sentence = describe(&error);
            assert!(sentence.starts_with(expected), "{sentence}");
            assert!(!sentence.contains("hidden"), "{sentence}");
            assert_eq!(sentence.lines().count(), 1);
        }
    }

    #[test]
    fn durations_are_written_with_their_unit() {
        for (text, millis) in [("5s", 5000), ("200ms", 200), ("1m", 60_000), ("1h30m", 5_400_000)] {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for text in ["", "5", "-5s", "0s", "five", "25h", "5 parsecs"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_are_written_with_their_unit_or_in_bytes() {
        for (text, bytes) in [("64KiB", 65_536), ("1MiB", 1 << 20), ("1GiB", 1 << 30), ("10", 10)] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for text in ["", "0", "-1", "much", "1 parsec"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_rate_is_off_or_a_number_a_second() {
        assert_eq!("off".parse(), Ok(Rate(None)));
        assert_eq!("100/s".parse(), Ok(Rate(NonZeroU32::new(100))));
        for text in ["", "0/s", "100", "-1/s", "1/m"] {
            assert!(text.parse::<Rate>().is_err(), "{text}");
        }
    }

    #[test]
    fn lists_may_be_empty_and_name_what_is_wrong() {
        assert_eq!(parse_list::<u32>(""), Ok(List(vec![])));
        assert_eq!(parse_list::<u32>("1, 2"), Ok(List(vec![1, 2])));
        assert!(parse_list::<u32>("1,x").unwrap_err().starts_with("value 2: "));
    }
}
