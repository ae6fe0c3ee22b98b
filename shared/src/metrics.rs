//! Metrics that both processes have.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use prometheus_client::encoding::{EncodeLabel as _, EncodeLabelSet, LabelSetEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

use crate::guard::follower::Violation;
use crate::memory::Memory;
use crate::occupancy::Occupancy;
use crate::process::Files;
use crate::reload::Counts;

/// One label with a name that is known when we are compiled.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Label(pub &'static str, pub String);

impl EncodeLabelSet for Label {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> Result<(), std::fmt::Error> {
        (self.0, self.1.as_str()).encode(encoder.encode_label())
    }
}

/// Opens a registry that says which program it is.
pub fn registry() -> Registry {
    let mut registry = Registry::with_prefix("fanfare");
    let build = Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]);
    registry.register("build", "The version of the program", build);
    let start = Gauge::<f64, AtomicU64>::default();
    start.set(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64());
    registry.register("start_time_seconds", "When the process began, in Unix time", start);
    registry
}

/// What both processes show, read from where it lives before each scrape.
#[derive(Debug)]
pub struct Common {
    files: Files,
    memory: Arc<Memory>,
    reloads: Family<ReloadLabels, Counter>,
    let_go: Family<Label, Counter>,
    connections: Gauge,
    memory_held: Gauge,
    certificate_end: Gauge,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReloadLabels {
    file: &'static str,
    result: &'static str,
}

impl Common {
    /// Registers them.
    pub fn register(registry: &mut Registry, files: &Files, memory: Arc<Memory>) -> Self {
        let common = Self {
            files: files.clone(),
            memory,
            reloads: Family::default(),
            let_go: Family::default(),
            connections: Gauge::default(),
            memory_held: Gauge::default(),
            certificate_end: Gauge::default(),
        };
        registry.register(
            "reloads",
            "Times a followed file was read again, by result",
            common.reloads.clone(),
        );
        registry.register(
            "clients_let_go",
            "Clients whose request came too slowly or was too large, by code",
            common.let_go.clone(),
        );
        registry.register(
            "connections",
            "Connections of all kinds that are open",
            common.connections.clone(),
        );
        registry.register(
            "memory_held_bytes",
            "Bytes in queues and bodies, as accounted against MEMORY_LIMIT",
            common.memory_held.clone(),
        );
        registry.register(
            "certificate_not_after_seconds",
            "End of the certificate in seconds since 1970; 0 without TLS",
            common.certificate_end.clone(),
        );
        common
    }

    /// Brings them up to now.
    pub fn refresh(&self, occupancy: &Occupancy) {
        let to_gauge = |value: usize| i64::try_from(value).unwrap_or(i64::MAX);
        self.connections.set(to_gauge(occupancy.connections()));
        self.memory_held.set(to_gauge(self.memory.held()));
        for violation in Violation::ALL {
            let counter = self.let_go.get_or_create(&Label("code", violation.code().to_owned()));
            counter.inc_by(occupancy.violations(violation).saturating_sub(counter.get()));
        }
        self.refresh_reloads("tokens", self.files.tokens.counts());
        if let Some(bearer) = &self.files.bearer {
            self.refresh_reloads("keys", bearer.keys.counts());
        }
        if let Some(tls) = &self.files.tls {
            self.certificate_end.set(tls.load().not_after);
            self.refresh_reloads("certificate", tls.counts());
        }
    }

    fn refresh_reloads(&self, file: &'static str, counts: &Counts) {
        for (result, count) in [("taken", &counts.taken), ("refused", &counts.refused)] {
            let counter = self.reloads.get_or_create(&ReloadLabels { file, result });
            let now = count.load(Ordering::Relaxed);
            counter.inc_by(now.saturating_sub(counter.get()));
        }
    }

    /// What is wrong with the files of the process, for `/readyz`.
    pub fn degraded(&self) -> Vec<String> {
        let mut degraded = Vec::new();
        if let Some(fault) = self.files.tokens.fault() {
            degraded.push(format!("tokens file: {fault}"));
        }
        let keys = self.files.bearer.as_ref().and_then(|bearer| bearer.keys.fault());
        degraded.extend(keys.map(|fault| format!("keys of signed tokens: {fault}")));
        if let Some(tls) = &self.files.tls {
            degraded.extend(tls.fault().map(|fault| format!("certificate: {fault}")));
            if tls.load().is_expired() {
                degraded.push("certificate: it has expired".to_owned());
            }
        }
        degraded
    }
}
