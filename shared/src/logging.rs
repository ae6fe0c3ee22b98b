//! How log lines look: text for people, JSON for machines.
//!
//! Neither ever holds a token or an event's data; that is kept by what is logged, not here.

use std::io::{self, Write};

use env_logger::fmt::Formatter;
use jiff::Timestamp;
use log::Record;
use log::kv::{Key, Value, VisitSource};
use serde_json::{Map, Value as Json};

use crate::settings::LogFormat;

/// Sends log lines to standard error from now on.
pub fn init(format: LogFormat, filter: &str) {
    let mut builder = env_logger::Builder::new();
    // It tells of each event of a watched folder: with the log in there, each line would make another.
    builder.filter_module("notify", log::LevelFilter::Warn);
    // lapin calls each lost connection an error of its own, and shows all that it sends.
    builder.filter_module("lapin", log::LevelFilter::Off);
    builder.filter_module("tracing", log::LevelFilter::Off);
    builder.parse_filters(filter);
    if format == LogFormat::Json {
        builder.format(write_json);
    }
    // A second logger in one process can only come of a test; the first one stays.
    let _ = builder.try_init();
}

fn write_json(out: &mut Formatter, record: &Record<'_>) -> io::Result<()> {
    let mut line = Map::new();
    line.insert("time".to_owned(), format!("{:.3}", Timestamp::now()).into());
    line.insert("level".to_owned(), record.level().as_str().to_lowercase().into());
    line.insert("target".to_owned(), record.target().into());
    line.insert("message".to_owned(), record.args().to_string().into());
    // A line without its pairs is better than no line.
    let _ = record.key_values().visit(&mut Pairs(&mut line));
    serde_json::to_writer(&mut *out, &line)?;
    out.write_all(b"\n")
}

struct Pairs<'a>(&'a mut Map<String, Json>);

impl<'kvs> VisitSource<'kvs> for Pairs<'_> {
    fn visit_pair(&mut self, key: Key<'kvs>, value: Value<'kvs>) -> Result<(), log::kv::Error> {
        self.0.insert(key.to_string(), value.to_string().into());
        Ok(())
    }
}
