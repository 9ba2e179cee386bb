//! Logs: text or JSON lines on standard error.

use crate::config::Log;
use std::sync::OnceLock;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Registry, fmt, reload};

static FILTER: OnceLock<reload::Handle<EnvFilter, Registry>> = OnceLock::new();

/// Sets logging up; once in the life of the process.
pub fn start(log: &Log) {
    let (filter, handle) = reload::Layer::new(filter(log));
    let _ = FILTER.set(handle);
    let text = (!log.json).then(|| fmt::layer().with_writer(std::io::stderr).with_ansi(false));
    let json = log.json.then(|| fmt::layer().json().flatten_event(true).with_writer(std::io::stderr));
    // A second start in one process (tests do that) keeps the first logger.
    let _ = tracing_subscriber::registry().with(filter).with(text).with(json).try_init();
    std::panic::set_hook(Box::new(|panic| {
        tracing::error!(%panic, "a bug in pgvalet: the task ends, please report this");
    }));
}

/// Puts another level in force.
pub fn set_level(log: &Log) {
    if let Some(handle) = FILTER.get() {
        let _ = handle.reload(filter(log));
    }
}

/// The filter was checked when the configuration was read.
fn filter(log: &Log) -> EnvFilter {
    EnvFilter::try_new(&log.level).unwrap_or_else(|_| EnvFilter::new("info"))
}
