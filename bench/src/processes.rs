//! What the system tells of processes: time on a processor, memory, and who listens at a port.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::Path;
use std::time::Duration;

/// Time that a process has had a processor, its threads together; nothing where it is not known.
pub(crate) fn processor_time(pid: u32) -> Option<Duration> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).ok()?;
    let mut nanos = 0;
    for task in tasks.flatten() {
        // A thread that ends between the two has used next to nothing since.
        let Ok(text) = fs::read_to_string(task.path().join("schedstat")) else { continue };
        nanos += parse_schedstat(&text)?;
    }
    if nanos > 0 {
        return Some(Duration::from_nanos(nanos));
    }
    // A kernel without scheduler statistics counts in ticks.
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let stat = Stat::parse(&text)?;
    Some(ticks(stat.ticks))
}

/// Time that all processors of this machine have worked, whoever for.
pub(crate) fn machine_time() -> Option<Duration> {
    let text = fs::read_to_string("/proc/stat").ok()?;
    parse_machine_ticks(&text).map(ticks)
}

/// Memory of a process in bytes; what it shares with others counts by its part of it.
pub(crate) fn memory(pid: u32) -> Option<u64> {
    parse_pss(&fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?)
}

/// These processes and all that they have started, and so on.
pub(crate) fn with_descendants(roots: &[u32]) -> Vec<u32> {
    let mut all: BTreeSet<u32> = roots.iter().copied().collect();
    let Ok(entries) = fs::read_dir("/proc") else { return roots.to_vec() };
    let pids = entries.flatten().filter_map(|it| it.file_name().to_str()?.parse::<u32>().ok());
    let parents: Vec<(u32, u32)> = pids
        .filter_map(|pid| {
            let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
            Some((pid, Stat::parse(&text)?.parent))
        })
        .collect();
    loop {
        let before = all.len();
        let found = parents.iter().filter(|(_, parent)| all.contains(parent)).map(|(pid, _)| *pid);
        all.extend(found.collect::<Vec<_>>());
        if all.len() == before {
            return all.into_iter().collect();
        }
    }
}

/// What a process is called; nothing where there is none.
pub(crate) fn name_of(pid: u32) -> Option<String> {
    Some(fs::read_to_string(format!("/proc/{pid}/comm")).ok()?.trim_end().to_owned())
}

/// Whether a process is a gateway's, by its own name or that of its executable.
pub(crate) fn is_gateway(pid: u32) -> bool {
    let executable = fs::read_link(format!("/proc/{pid}/exe")).ok();
    let executable = executable.as_deref().and_then(Path::file_name).and_then(OsStr::to_str);
    // One that was replaced while it runs.
    let executable = executable.map(|name| name.trim_end_matches(" (deleted)"));
    let is_one = |name: &str| GATEWAY.contains(&name);
    name_of(pid).is_some_and(|name| is_one(&name)) || executable.is_some_and(is_one)
}

/// The processes that listen at an address of this machine.
pub(crate) fn listeners(address: SocketAddr) -> Vec<u32> {
    if !is_ours(address.ip()) {
        return Vec::new();
    }
    let mut sockets = BTreeSet::new();
    for table in ["/proc/net/tcp", "/proc/net/tcp6"] {
        let text = fs::read_to_string(table).unwrap_or_default();
        sockets.extend(listening_inodes(&text, address.port()));
    }
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.flatten().filter_map(|it| it.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| holds_one_of(*pid, &sockets)).collect()
}

/// An address that we can bind to is one of this machine's.
pub(crate) fn is_ours(ip: IpAddr) -> bool {
    ip.is_loopback() || UdpSocket::bind((ip, 0)).is_ok()
}

fn holds_one_of(pid: u32, sockets: &BTreeSet<u64>) -> bool {
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
    entries.flatten().any(|entry| {
        let inode = fs::read_link(entry.path()).ok().and_then(|link| socket_inode(&link));
        inode.is_some_and(|inode| sockets.contains(&inode))
    })
}

fn socket_inode(link: &Path) -> Option<u64> {
    link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}

/// proc(5), `/proc/net/tcp`: the local address is the second field, the state the fourth (0A is
/// listening), the inode the tenth.
fn listening_inodes(table: &str, port: u16) -> Vec<u64> {
    let row = |line: &str| {
        let mut fields = line.split_ascii_whitespace();
        let local = fields.nth(1)?;
        let state = fields.nth(1)?;
        let inode = fields.nth(5)?.parse().ok()?;
        let local_port = u16::from_str_radix(local.rsplit(':').next()?, 16).ok()?;
        (state == "0A" && local_port == port).then_some(inode)
    };
    table.lines().filter_map(row).collect()
}

/// The first number is the time on a processor, in nanoseconds.
fn parse_schedstat(text: &str) -> Option<u64> {
    text.split_ascii_whitespace().next()?.parse().ok()
}

fn parse_pss(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}

/// proc(5), `/proc/stat`: everything but the fourth (idle) and the fifth (waiting for a disk), up
/// to the eighth; guests are in the first already.
fn parse_machine_ticks(text: &str) -> Option<u64> {
    let line = text.lines().next()?.strip_prefix("cpu ")?;
    let fields = line.split_ascii_whitespace().take(8).map(str::parse::<u64>);
    let fields: Vec<u64> = fields.collect::<Result<_, _>>().ok()?;
    let idle: u64 = fields.iter().skip(3).take(2).sum();
    Some(fields.iter().sum::<u64>().saturating_sub(idle))
}

fn ticks(count: u64) -> Duration {
    let a_second = rustix::param::clock_ticks_per_second().max(1);
    Duration::from_micros(count.saturating_mul(1_000_000) / a_second)
}

/// What we want of `/proc/PID/stat`.
#[derive(Debug, PartialEq, Eq)]
struct Stat {
    parent: u32,
    /// In user space and in the kernel together.
    ticks: u64,
}

impl Stat {
    /// The name, in parentheses, may hold anything; what follows is counted from behind it.
    fn parse(text: &str) -> Option<Self> {
        let mut fields = text.rsplit_once(')')?.1.split_ascii_whitespace();
        let parent = fields.nth(1)?.parse().ok()?;
        let user: u64 = fields.nth(9)?.parse().ok()?;
        let system: u64 = fields.next()?.parse().ok()?;
        Some(Self { parent, ticks: user + system })
    }
}

/// What our processes are called: both are `fanfare`, or each has an executable of its own.
const GATEWAY: [&str; 3] = ["fanfare", "listen", "broadcast"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_read_whatever_its_name_is() {
        let text = "7 (a) b (c) S 3 7 7 0 -1 4194560 1 2 3 4 150 25 0 0 20 0 4 0 9";
        assert_eq!(Stat::parse(text), Some(Stat { parent: 3, ticks: 175 }));
        assert_eq!(Stat::parse("7 (a) S"), None);
    }

    #[test]
    fn the_time_of_the_machine_is_without_waiting() {
        let text = "cpu  10 20 30 1000 500 1 2 3 99 0\ncpu0 1 1 1\n";
        assert_eq!(parse_machine_ticks(text), Some(66));
        assert_eq!(parse_machine_ticks("intr 1"), None);
    }

    #[test]
    fn memory_and_time_are_read_in_their_units() {
        let rollup = "55-7f [rollup]\nRss:  900 kB\nPss:             512 kB\nPss_Dirty: 1 kB\n";
        assert_eq!(parse_pss(rollup), Some(512 * 1024));
        assert_eq!(parse_schedstat("123456789 5 6\n"), Some(123_456_789));
        assert_eq!(parse_schedstat(""), None);
    }

    #[test]
    fn who_listens_is_told_by_port_and_state() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
             0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1 0 100 0 0 10 0\n\
             1: 0100007F:1F90 0100007F:C000 01 00000000:00000000 00:00000000 00000000     0        0 4712 1 0 100 0 0 10 0\n\
             2: 00000000:1F91 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4713 1 0 100 0 0 10 0\n";
        assert_eq!(listening_inodes(table, 8080), [4711]);
        assert_eq!(listening_inodes(table, 8081), [4713]);
        assert_eq!(socket_inode(Path::new("socket:[4711]")), Some(4711));
        assert_eq!(socket_inode(Path::new("pipe:[4711]")), None);
    }

    #[test]
    fn we_are_found_by_our_own_port() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        assert_eq!(listeners(listener.local_addr().unwrap()), [std::process::id()]);
        // A listener is not a gateway yet.
        assert!(name_of(std::process::id()).is_some() && !is_gateway(std::process::id()));
        assert!(memory(std::process::id()).is_some_and(|bytes| bytes > 0));
        assert!(with_descendants(&[1]).contains(&std::process::id()));
    }
}
