//! What `fanfare up` says once the gateway is open: lines to paste into another terminal.

use std::borrow::Cow;
use std::fmt;
use std::net::SocketAddr;
use std::path::Path;

/// What is to be said.
#[derive(Debug)]
pub(crate) struct Announcement<'a> {
    /// Where events come in.
    pub(crate) listen: SocketAddr,
    /// Where events go out.
    pub(crate) broadcast: SocketAddr,
    /// A secret that may do everything, if the tokens file has one in plain text.
    pub(crate) secret: Option<String>,
    /// Where that file is.
    pub(crate) tokens_file: &'a Path,
    /// The certificate, where TLS is on.
    pub(crate) certificate: Option<&'a Path>,
    /// How this program is called from here.
    pub(crate) program: &'a str,
}

impl fmt::Display for Announcement<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let secure = if self.certificate.is_some() { "s" } else { "" };
        let (listen, broadcast) = (self.host(self.listen), self.host(self.broadcast));
        writeln!(f, "\nThe gateway is open. Ctrl-C stops it.\n")?;
        writeln!(f, "  events come in at  http{secure}://{listen}/event")?;
        writeln!(f, "  and go out at      ws{secure}://{broadcast}/")?;
        writeln!(f, "\nIn two other terminals, in this folder, first the token:\n")?;
        match &self.secret {
            Some(secret) => writeln!(f, "  export FANFARE_TOKEN={}", quote(secret))?,
            None => self.tell_how_to_get_a_token(f)?,
        }
        let mut cacert = String::new();
        if let Some(certificate) = self.certificate {
            let path = certificate.display().to_string();
            writeln!(f, "  export FANFARE_CA_FILE={}", quote(&path))?;
            cacert = "--cacert \"$FANFARE_CA_FILE\" ".to_owned();
        }
        writeln!(f, "\nthen in the one, to see every event:\n")?;
        let program = self.program;
        writeln!(f, "  {program} watch --url ws{secure}://{broadcast} '>'")?;
        writeln!(f, "\nand in the other, to fire one:\n")?;
        writeln!(
            f,
            "  curl {cacert}-H \"Authorization: Basic $FANFARE_TOKEN\" \
             -d '{{\"event\":\"hello\",\"data\":{{\"from\":\"curl\"}}}}' \
             http{secure}://{listen}/event\n"
        )
    }
}

impl Announcement<'_> {
    fn tell_how_to_get_a_token(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.tokens_file.display().to_string();
        writeln!(f, "  # {path} shows none that may do everything; this adds one:")?;
        let path = quote(&path);
        writeln!(f, "  export FANFARE_TOKEN=$({} token new --file {path})", self.program)
    }

    /// A certificate for development names `localhost`, and seldom an address.
    fn host(&self, address: SocketAddr) -> String {
        match self.certificate {
            Some(_) if address.ip().is_loopback() => format!("localhost:{}", address.port()),
            _ => address.to_string(),
        }
    }
}

/// How a program is called from the folder where we are: by its name, or a path from here.
pub(crate) fn pasteable(program: &Path) -> String {
    let name = program.file_name().map(Path::new).unwrap_or(program);
    let folders = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&folders).map(|it| it.join(name)).find(|it| it.is_file());
    if found.and_then(|it| it.canonicalize().ok()).is_some_and(|it| it == program) {
        return quote(&name.display().to_string()).into_owned();
    }
    let here = std::env::current_dir().ok();
    let path = match here.and_then(|here| program.strip_prefix(here).ok()) {
        Some(relative) => format!("./{}", relative.display()),
        None => program.display().to_string(),
    };
    quote(&path).into_owned()
}

/// Text as one word for a POSIX shell.
fn quote(text: &str) -> Cow<'_, str> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"./-_:+,@%".contains(&byte);
    if !text.is_empty() && text.bytes().all(is_plain) {
        return text.into();
    }
    format!("'{}'", text.replace('\'', r"'\''")).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn announce(secret: Option<&str>, certificate: Option<&str>) -> String {
        Announcement {
            listen: SocketAddr::from(([127, 0, 0, 1], 8080)),
            broadcast: SocketAddr::from(([127, 0, 0, 1], 8081)),
            secret: secret.map(str::to_owned),
            tokens_file: Path::new("./tokens/tokens"),
            certificate: certificate.map(Path::new),
            program: "./fanfare",
        }
        .to_string()
    }

    #[test]
    fn the_token_stands_in_the_environment_and_on_no_command_line() {
        let text = announce(Some("0123456789abcdef"), None);
        assert!(text.contains("  export FANFARE_TOKEN=0123456789abcdef\n"), "{text}");
        assert_eq!(text.matches("0123456789abcdef").count(), 1, "{text}");
        assert!(text.contains("  ./fanfare watch --url ws://127.0.0.1:8081 '>'\n"), "{text}");
        assert!(text.contains(" http://127.0.0.1:8080/event\n"), "{text}");
    }

    #[test]
    fn without_a_plain_token_it_says_how_to_make_one() {
        let text = announce(None, None);
        let line = "export FANFARE_TOKEN=$(./fanfare token new --file ./tokens/tokens)";
        assert!(text.contains(line), "{text}");
    }

    #[test]
    fn with_tls_the_lines_name_the_certificate_and_localhost() {
        let text = announce(Some("0123456789abcdef"), Some("./certs/cert.crt"));
        for part in [
            "export FANFARE_CA_FILE=./certs/cert.crt",
            "wss://localhost:8081",
            "--cacert \"$FANFARE_CA_FILE\"",
            "https://localhost:8080/event",
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
    }

    #[test]
    fn whatever_a_shell_would_read_is_quoted() {
        for (text, quoted) in
            [("abc-1", "abc-1"), ("a$b", "'a$b'"), ("a'b", r"'a'\''b'"), ("", "''")]
        {
            assert_eq!(quote(text), quoted);
        }
    }
}
