//! What the system and the operator's door tell about a process.

use std::fs;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::gateway::{PATIENCE, Process};

/// The most memory that the process ever had, in bytes.
pub fn peak_memory(process: &Process) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", process.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

/// How many files and sockets the process has open.
pub fn descriptors(process: &Process) -> usize {
    fs::read_dir(format!("/proc/{}/fd", process.pid())).unwrap().count()
}

/// The processor time that the process has used so far.
pub fn processor_time(process: &Process) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{}/stat", process.pid())).unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    // Linux: a tick is 10 ms for user space, whatever the kernel's own is.
    Duration::from_millis(ticks * 10)
}

/// Asks the operator's door: the status and the body.
pub async fn ask_admin(process: &Process, path: &str) -> (u16, String) {
    let response = reqwest::get(format!("{}{path}", process.admin_url())).await.unwrap();
    (response.status().as_u16(), response.text().await.unwrap())
}

/// What `/readyz` names as degraded.
pub async fn degraded(process: &Process) -> Vec<String> {
    let (status, body) = ask_admin(process, "/readyz").await;
    assert_eq!(status, 200, "{body}");
    let body: Value = serde_json::from_str(&body).unwrap();
    let degraded = body["degraded"].as_array().cloned().unwrap_or_default();
    degraded.iter().map(|it| it.as_str().unwrap().to_owned()).collect()
}

/// Waits until `look` finds something, without blocking the thread.
pub async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(Instant::now() < deadline, "never came: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Whether all threads of a process have stopped, or are held by who traces them (proc(5)).
pub fn has_stopped(pid: u32) -> bool {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let stat =
        |task: std::io::Result<fs::DirEntry>| fs::read_to_string(task.unwrap().path().join("stat"));
    let is_stopped =
        |stat: String| stat.rsplit_once(") ").is_some_and(|(_, it)| it.starts_with(['T', 't']));
    tasks.map(stat).all(|stat| stat.is_ok_and(is_stopped))
}
