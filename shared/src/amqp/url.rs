//! Where a broker is, and who we are there.

use std::fmt;
use std::str::FromStr;

use lapin::uri::{AMQPScheme, AMQPUri};

/// What is asked of a connection where its URL says nothing: a broker that is gone without a word is
/// noticed in about 20 s, and a connection costs little memory.
const HEARTBEAT_S: u16 = 10;
const FRAME_BYTES_MAX: u32 = 32 * 1024;

/// The URL of a broker. Its password is shown nowhere.
#[derive(Clone, PartialEq, Eq)]
pub struct AmqpUrl(AMQPUri);

impl AmqpUrl {
    /// What lapin needs.
    pub fn uri(&self) -> &AMQPUri {
        &self.0
    }
}

impl FromStr for AmqpUrl {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const HOW: &str = "write a URL such as amqp://user:password@host:5672/vhost";
        // What is wrong with it is not said in lapin's words: they could show the password.
        let mut uri: AMQPUri = text.parse().map_err(|_| HOW)?;
        let (_, address) = text.split_once("://").ok_or(HOW)?;
        let host = address.split(['/', '?']).next().unwrap_or_default();
        let host = host.rsplit_once('@').map_or(host, |(_, host)| host);
        // lapin takes an IPv6 address for no host at all.
        if let Some((address, _)) = host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            address.parse::<std::net::Ipv6Addr>().map_err(|_| HOW)?;
            address.clone_into(&mut uri.authority.host);
        }
        uri.query.heartbeat.get_or_insert(HEARTBEAT_S);
        uri.query.frame_max.get_or_insert(FRAME_BYTES_MAX);
        // A lone slash is the broker's default, as every other client has it.
        if uri.vhost.is_empty() {
            "/".clone_into(&mut uri.vhost);
        }
        Ok(Self(uri))
    }
}

impl fmt::Display for AmqpUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.0.scheme == AMQPScheme::AMQPS { "amqps" } else { "amqp" };
        let (host, port) = (&self.0.authority.host, self.0.authority.port);
        match host.contains(':') {
            true => write!(f, "{scheme}://[{host}]:{port}"),
            false => write!(f, "{scheme}://{host}:{port}"),
        }
    }
}

impl fmt::Debug for AmqpUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_says_where_and_shows_no_password() {
        for (text, shown, vhost) in [
            ("amqp://guest:secret@127.0.0.1:5672/", "amqp://127.0.0.1:5672", "/"),
            ("amqp://guest:secret@10.0.0.10:5673/test", "amqp://10.0.0.10:5673", "test"),
            ("amqps://broker.example", "amqps://broker.example:5671", "/"),
            ("amqp://u:p@[::1]:5999/%2f", "amqp://[::1]:5999", "/"),
        ] {
            let url: AmqpUrl = text.parse().unwrap();
            assert_eq!((url.to_string(), url.uri().vhost.as_str()), (shown.to_owned(), vhost));
            assert!(!format!("{url:?}").contains("secret"));
            assert_eq!(url.uri().query.heartbeat, Some(HEARTBEAT_S));
        }
        let with_words: AmqpUrl = "amqp://h/?heartbeat=3&frame_max=4096".parse().unwrap();
        assert_eq!(with_words.uri().query.heartbeat, Some(3));
        for bad in ["", "127.0.0.1:5672", "http://h/", "amqp://[x]/", "amqp://u:se cret@/x y:z"] {
            let refused = bad.parse::<AmqpUrl>().err().unwrap_or("taken");
            assert!(refused.starts_with("write a URL"), "{bad}: {refused}");
        }
    }
}
