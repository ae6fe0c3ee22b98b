//! Who is at the other end: the address of a client, behind proxies that are trusted.
//!
//! Used to count failures by address and in the log. Without a trusted proxy, forwarding headers
//! are a stranger's claim and are ignored.

use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

/// A network in CIDR notation; a lone address is a network of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    prefix: u32,
}

impl Network {
    /// Whether the address is in the network.
    pub fn contains(&self, address: IpAddr) -> bool {
        let shared = |bits: u32, differing: u128| {
            // Shifting by all bits of the type overflows: an empty prefix shares everything.
            self.prefix == 0 || differing >> (bits - self.prefix) == 0
        };
        match (self.address, address) {
            (IpAddr::V4(ours), IpAddr::V4(theirs)) => {
                shared(32, u128::from(ours.to_bits() ^ theirs.to_bits()))
            }
            (IpAddr::V6(ours), IpAddr::V6(theirs)) => {
                shared(128, ours.to_bits() ^ theirs.to_bits())
            }
            _ => false,
        }
    }
}

impl FromStr for Network {
    type Err = NetworkError;

    fn from_str(text: &str) -> Result<Self, NetworkError> {
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| NetworkError)?;
        let bits = if address.is_ipv4() { 32 } else { 128 };
        let prefix = match prefix {
            Some(prefix) => prefix.parse().map_err(|_| NetworkError)?,
            None => bits,
        };
        if prefix > bits { Err(NetworkError) } else { Ok(Self { address, prefix }) }
    }
}

/// The text is no address and no network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("write an address such as 10.0.0.1 or a network such as 10.0.0.0/8")]
pub struct NetworkError;

/// The client's address: the peer's, or where the peer is a trusted proxy, the last one in
/// `X-Forwarded-For` or `Forwarded` (RFC 7239 §4) that is not itself a trusted proxy.
pub fn of_client<'a>(
    peer: IpAddr,
    forwarded: impl Iterator<Item = &'a str>,
    trusted: &[Network],
) -> IpAddr {
    let is_trusted = |address: IpAddr| trusted.iter().any(|network| network.contains(address));
    let mut client = peer.to_canonical();
    let mut hops: Vec<&str> = forwarded.flat_map(|value| value.split(',')).collect();
    while is_trusted(client) {
        let Some(hop) = hops.pop() else { break };
        let Some(address) = parse_hop(hop) else { break };
        client = address.to_canonical();
    }
    client
}

/// One hop, as `203.0.113.7`, `[2001:db8::1]:4711` or `for="[2001:db8::1]";proto=https`.
fn parse_hop(hop: &str) -> Option<IpAddr> {
    let node = hop
        .split(';')
        .map(str::trim)
        .find_map(|pair| match pair.split_once('=') {
            Some((key, node)) if key.eq_ignore_ascii_case("for") => Some(node),
            Some(_) => None,
            None => Some(pair),
        })?
        .trim_matches('"');
    if let Some(bracketed) = node.strip_prefix('[') {
        return bracketed.split(']').next()?.parse().ok();
    }
    node.parse().ok().or_else(|| node.split_once(':')?.0.parse().ok())
}

/// What failures are counted by: a whole /64 for IPv6, for one host can take any address in it.
pub fn group(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(address) => {
            let network = address.to_bits() & !u128::from(u64::MAX);
            IpAddr::V6(Ipv6Addr::from_bits(network))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_network_holds_what_shares_its_prefix() {
        let table = [
            ("10.0.0.0/8", "10.255.0.1", true),
            ("10.0.0.0/8", "11.0.0.1", false),
            ("0.0.0.0/0", "1.2.3.4", true),
            ("127.0.0.1", "127.0.0.1", true),
            ("127.0.0.1", "127.0.0.2", false),
            ("2001:db8::/32", "2001:db8:1::1", true),
            ("2001:db8::/32", "2001:db9::1", false),
            ("10.0.0.0/8", "::1", false),
        ];
        for (network, address, expected) in table {
            let network: Network = network.parse().unwrap();
            assert_eq!(network.contains(ip(address)), expected, "{network:?} {address}");
        }
        for bad in ["", "10.0.0", "10.0.0.0/33", "10.0.0.0/x", "::/129"] {
            assert_eq!(bad.parse::<Network>(), Err(NetworkError), "{bad}");
        }
    }

    #[test]
    fn only_trusted_proxies_are_believed() {
        let trusted: Vec<Network> = ["10.0.0.0/8".parse().unwrap()].into();
        let table = [
            ("1.2.3.4", "9.9.9.9", "1.2.3.4"),
            ("10.0.0.1", "9.9.9.9", "9.9.9.9"),
            ("10.0.0.1", "6.6.6.6, 9.9.9.9, 10.0.0.2", "9.9.9.9"),
            ("10.0.0.1", "nonsense", "10.0.0.1"),
            ("10.0.0.1", "", "10.0.0.1"),
            ("10.0.0.1", "for=9.9.9.9;proto=https", "9.9.9.9"),
            ("10.0.0.1", "for=\"[2001:db8::1]:4711\"", "2001:db8::1"),
            ("10.0.0.1", "9.9.9.9:4711", "9.9.9.9"),
            ("::ffff:10.0.0.1", "9.9.9.9", "9.9.9.9"),
        ];
        for (peer, header, expected) in table {
            let client = of_client(ip(peer), std::iter::once(header), &trusted);
            assert_eq!(client, ip(expected), "{peer} {header}");
        }
        assert_eq!(of_client(ip("10.0.0.1"), std::iter::once("9.9.9.9"), &[]), ip("10.0.0.1"));
    }

    #[test]
    fn ipv6_is_counted_by_64() {
        assert_eq!(group(ip("2001:db8::1:2:3:4")), ip("2001:db8::"));
        assert_eq!(group(ip("10.1.2.3")), ip("10.1.2.3"));
    }
}
