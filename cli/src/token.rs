//! `fanfare token`: makes, lists and withdraws tokens. A running gateway follows within a second.

use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Args, Subcommand};
use shared::credentials::Digest;
use shared::pattern::Pattern;
use shared::principal::Principal;
use shared::tokens::file::{lines, parse_line};

use crate::tokens_file;

/// A shorter part of a digest would soon be another token's, too.
const DIGEST_CHARS_MIN: usize = 8;

/// Makes, lists and withdraws tokens; a running gateway follows within a second
#[derive(Debug, Subcommand)]
pub(crate) enum Token {
    New(New),
    List(List),
    Revoke(Revoke),
}

/// Makes a token, and shows its secret this once, on standard output
#[derive(Debug, Args)]
pub(crate) struct New {
    #[command(flatten)]
    place: Place,

    /// What it is called in logs
    #[arg(long)]
    name: Option<String>,

    /// What it may publish: patterns between commas, or `none`; everything where it is left out
    #[arg(long, value_name = "PATTERN,…")]
    publish: Option<String>,

    /// What it may subscribe: patterns between commas, or `none`; everything where it is left out
    #[arg(long, value_name = "PATTERN,…")]
    subscribe: Option<String>,

    /// Whether it opens the operator's functions; only where it may do all else, if left out
    #[arg(long, value_name = "yes|no")]
    admin: Option<String>,

    /// When it ends, in RFC 3339
    #[arg(long, value_name = "TIME")]
    expires: Option<String>,

    /// Keeps only the SHA-256 of the secret in the file
    #[arg(long)]
    hash: bool,
}

/// Lists the tokens, without their secrets
#[derive(Debug, Args)]
pub(crate) struct List {
    #[command(flatten)]
    place: Place,
}

/// Withdraws a token; its sessions end
#[derive(Debug, Args)]
pub(crate) struct Revoke {
    /// The token's name, or the first 8 or more digits of its secret's SHA-256
    token: String,

    #[command(flatten)]
    place: Place,
}

#[derive(Debug, Args)]
struct Place {
    /// The tokens file
    #[arg(long, env = "TOKENS_FILE", value_name = "PATH", default_value = "./tokens/tokens")]
    file: PathBuf,
}

impl Token {
    /// Does it.
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        match self {
            Self::New(new) => new.run()?,
            Self::List(list) => list.run()?,
            Self::Revoke(revoke) => revoke.run()?,
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl New {
    fn run(&self) -> anyhow::Result<()> {
        let secret = tokens_file::new_secret()?;
        let shown = match self.hash {
            true => format!("sha256:{}", Digest::of(&secret).to_hex()),
            false => secret.clone(),
        };
        let line = self.line(&shown)?;
        tokens_file::append(&self.place.file, &line)?;
        writeln!(io::stdout(), "{secret}")?;
        let kept = if self.hash { "; only its digest is kept" } else { "" };
        eprintln!("fanfare: the token is in {}{kept}", self.place.file.display());
        Ok(())
    }

    /// The line for the file: read as the gateway will, so that no bad one ever gets there.
    fn line(&self, shown: &str) -> anyhow::Result<String> {
        let attributes = [
            ("name", &self.name),
            ("publish", &self.publish),
            ("subscribe", &self.subscribe),
            ("admin", &self.admin),
            ("expires", &self.expires),
        ];
        let mut line = shown.to_owned();
        for (name, value) in attributes {
            if let Some(value) = value {
                anyhow::ensure!(!value.contains(char::is_whitespace), "--{name} holds a blank");
                line += &format!(" {name}={value}");
            }
        }
        parse_line(line.as_bytes())?.context("a token that is a comment")?;
        Ok(line)
    }
}

impl List {
    fn run(&self) -> anyhow::Result<()> {
        let text = tokens_file::read(&self.place.file)?;
        let mut out = io::stdout().lock();
        writeln!(out, "LINE  KIND       NAME                  PUBLISH  SUBSCRIBE  ADMIN  EXPIRES")?;
        for (number, line) in lines(&text) {
            match parse_line(line) {
                Ok(None) => {}
                Ok(Some(principal)) => {
                    writeln!(out, "{number:<4}  {}", row(&principal, kind(line)))?;
                }
                Err(fault) => writeln!(out, "{number:<4}  {:<9}  {fault}", "faulty")?,
            }
        }
        Ok(())
    }
}

impl Revoke {
    fn run(&self) -> anyhow::Result<()> {
        let mut count = 0;
        tokens_file::change(&self.place.file, |text| {
            let (kept, revoked) = without(text, |principal| self.means(principal));
            count = revoked;
            anyhow::ensure!(revoked > 0, "no token is called that, and no digest begins so");
            Ok(kept)
        })?;
        let lines = if count == 1 { "line is" } else { "lines are" };
        eprintln!("fanfare: {count} {lines} taken out of {}", self.place.file.display());
        Ok(())
    }

    fn means(&self, principal: &Principal) -> bool {
        let hex = self.token.strip_prefix("sha256:").unwrap_or(&self.token).to_lowercase();
        let begins_so =
            |digest: &Digest| hex.len() >= DIGEST_CHARS_MIN && digest.to_hex().starts_with(&hex);
        *principal.name == *self.token || principal.digest.as_ref().is_some_and(begins_so)
    }
}

fn kind(line: &[u8]) -> &'static str {
    let line = line.trim_ascii_start();
    match (line.starts_with(b"sha256:"), line.starts_with(b"anonymous")) {
        (true, _) => "hashed",
        // A secret may begin with this word; then it is longer.
        (_, true) if line.split(u8::is_ascii_whitespace).next() == Some(b"anonymous") => {
            "anonymous"
        }
        _ => "plain",
    }
}

fn row(principal: &Principal, kind: &str) -> String {
    let grant = |patterns: &[Pattern]| match patterns {
        [] => "none".to_owned(),
        patterns => patterns.iter().map(Pattern::as_str).collect::<Vec<_>>().join(","),
    };
    let expires = principal.expires.map_or_else(|| "never".to_owned(), |it| it.to_string());
    let admin = if principal.grant.admin { "yes" } else { "no" };
    let (publish, subscribe) = (grant(&principal.grant.publish), grant(&principal.grant.subscribe));
    let name = principal.name.to_string();
    format!("{kind:<9}  {name:<20}  {publish:<7}  {subscribe:<9}  {admin:<5}  {expires}")
}

/// The text without the lines that are meant, and how many those were. All others stay as they
/// are, to the byte.
fn without(text: &[u8], is_meant: impl Fn(&Principal) -> bool) -> (Vec<u8>, usize) {
    let start_of = |line: &[u8]| line.as_ptr().addr() - text.as_ptr().addr();
    let starts: Vec<usize> = lines(text).map(|(_, line)| start_of(line)).collect();
    let ends = starts.iter().skip(1).copied().chain([text.len()]);
    let mut kept =
        text.get(..starts.first().copied().unwrap_or_default()).unwrap_or_default().to_vec();
    let mut count = 0;
    for ((start, end), (_, line)) in starts.iter().copied().zip(ends).zip(lines(text)) {
        if parse_line(line).ok().flatten().is_some_and(|principal| is_meant(&principal)) {
            count += 1;
        } else {
            kept.extend_from_slice(text.get(start..end).unwrap_or_default());
        }
    }
    (kept, count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_lines_that_are_meant_go() {
        let text = b"\xef\xbb\xbf# all\r\n0123456789abcdef-1 name=a\r\n\n  0123456789abcdef-2  name=b\r0123456789abcdef-3 name=a";
        let (kept, count) = without(text, |principal| principal.name == "a");
        assert_eq!(count, 2);
        assert_eq!(kept, b"\xef\xbb\xbf# all\r\n\n  0123456789abcdef-2  name=b\r");
        assert_eq!(without(text, |_| false), (text.to_vec(), 0));
    }

    #[test]
    fn a_token_is_meant_by_its_name_or_its_digest() {
        let principal = parse_line(b"0123456789abcdef name=billing").unwrap().unwrap();
        let digest = Digest::of("0123456789abcdef").to_hex();
        let table = [
            ("billing", true),
            ("bill", false),
            (&digest, true),
            (&digest[..8], true),
            (&digest[..7], false),
            (&format!("sha256:{}", &digest[..12]), true),
            (&digest[..12].to_uppercase(), true),
            ("0123456789abcdef", false),
        ];
        for (token, expected) in table {
            let place = Place { file: "tokens".into() };
            let revoke = Revoke { token: token.to_owned(), place };
            assert_eq!(revoke.means(&principal), expected, "{token}");
        }
    }

    #[test]
    fn the_kind_of_a_line_is_told_by_its_first_word() {
        for (line, expected) in [
            ("0123456789abcdef", "plain"),
            ("anonymous subscribe=a", "anonymous"),
            ("anonymous-no-longer", "plain"),
            (" sha256:00", "hashed"),
        ] {
            assert_eq!(kind(line.as_bytes()), expected, "{line}");
        }
    }
}
