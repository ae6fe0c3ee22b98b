//! The machine that was measured on: a figure without it means nothing.

use std::fs;

use serde_json::{Value, json};

/// What the report says of the machine.
#[derive(Debug)]
pub(crate) struct Machine {
    cores: usize,
    cpu: String,
    kernel: String,
}

impl Machine {
    /// This one.
    pub(crate) fn here() -> Self {
        let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let uname = rustix::system::uname();
        Self {
            cores: cores(),
            cpu: cpu_model(&text),
            kernel: format!(
                "{} {}",
                uname.sysname().to_string_lossy(),
                uname.release().to_string_lossy()
            ),
        }
    }

    /// As JSON.
    pub(crate) fn to_json(&self) -> Value {
        json!({"cores": self.cores, "cpu": self.cpu, "kernel": self.kernel, "profile": PROFILE})
    }

    /// In a line.
    pub(crate) fn to_line(&self) -> String {
        let Self { cores, cpu, kernel } = self;
        format!("{cores} cores, {cpu}, {kernel}, fanfare {}", env!("CARGO_PKG_VERSION"))
    }
}

/// So many workers as the gateway has by default: half the cores, rounded up.
pub(crate) fn worker_count() -> usize {
    cores().div_ceil(2)
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

fn cpu_model(cpuinfo: &str) -> String {
    let line = cpuinfo.lines().find(|line| line.starts_with("model name"));
    let model = line.and_then(|line| line.split_once(':')).map(|(_, model)| model.trim());
    model.unwrap_or(std::env::consts::ARCH).to_owned()
}

/// How this executable was built. What a debug build measures says nothing of a gateway.
pub(crate) const PROFILE: &str = if cfg!(debug_assertions) { "debug" } else { "release" };

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_processor_without_a_name_is_named_by_its_kind() {
        assert_eq!(cpu_model("processor: 0\nmodel name\t: AMD EPYC\n"), "AMD EPYC");
        assert_eq!(cpu_model("processor: 0\n"), std::env::consts::ARCH);
    }
}
