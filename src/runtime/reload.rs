//! A new configuration comes into force.

use crate::config::{self, Config};
use crate::pool::Registry;
use crate::routing;
use std::path::Path;
use std::sync::Arc;

/// Reads the file again. A bad file changes nothing.
///
/// # Errors
/// Everything that is wrong with it, as text.
pub fn read(path: &Path, old: &Config) -> Result<Arc<Config>, String> {
    let new = config::load(path).map_err(|problems| problems.to_string())?;
    for warning in &new.warnings {
        tracing::warn!("{warning}");
    }
    for (setting, changed) in fixed_at_start(old, &new) {
        if changed {
            tracing::warn!(setting, "this setting cannot change while pgvalet runs; restart it");
        }
    }
    Ok(Arc::new(new))
}

/// Settings that only a restart puts in force.
fn fixed_at_start(old: &Config, new: &Config) -> [(&'static str, bool); 8] {
    let (old, new) = (&old.general, &new.general);
    [
        ("workers", old.workers != new.workers),
        ("listen_addr", old.listen_addr != new.listen_addr),
        ("listen_port", old.listen_port != new.listen_port),
        ("listen_backlog", old.listen_backlog != new.listen_backlog),
        ("so_reuseport", old.so_reuseport != new.so_reuseport),
        ("unix_socket_dir", old.unix_socket_dir != new.unix_socket_dir),
        ("unix_socket_mode", old.unix_socket_mode != new.unix_socket_mode),
        ("log_format", old.log.json != new.log.json),
    ]
}

/// Brings the pools in line with the configuration.
pub fn apply(config: &Arc<Config>, registry: &Registry) {
    registry.apply(config.clone(), |config, key| routing::route(config, &key.database, &key.user));
}
