//! A new configuration comes into force.

use crate::config::{self, Config, General, settings};
use crate::pool::Registry;
use crate::routing;
use std::path::Path;
use std::sync::Arc;

/// Reads the file again. A bad file changes nothing.
///
/// # Errors
/// Everything that is wrong with it, as text.
pub fn read(path: &Path, old: &Config) -> Result<Arc<Config>, String> {
    let mut new = config::load(path).map_err(|problems| problems.to_string())?;
    for warning in &new.warnings {
        tracing::warn!("{warning}");
    }
    for setting in keep_fixed(&old.general, &mut new.general) {
        tracing::warn!(setting, "this setting cannot change while pgvalet runs; restart it");
    }
    Ok(Arc::new(new))
}

/// Keeps the settings that only a restart puts in force as they are; the names of those that were to change.
pub(super) fn keep_fixed(old: &General, new: &mut General) -> Vec<&'static str> {
    let wanted = settings::values(new);
    let changed = settings::values(old)
        .zip(wanted)
        .filter(|((about, old), (_, new))| !about.reload && old != new)
        .map(|((about, _), _)| about.name)
        .collect();
    new.workers = old.workers;
    new.listen_addr.clone_from(&old.listen_addr);
    new.listen_port = old.listen_port;
    new.listen_backlog = old.listen_backlog;
    new.so_reuseport = old.so_reuseport;
    new.peer_id = old.peer_id;
    new.unix_socket_dir.clone_from(&old.unix_socket_dir);
    new.unix_socket_mode = old.unix_socket_mode;
    new.unix_socket_group.clone_from(&old.unix_socket_group);
    new.user.clone_from(&old.user);
    new.pidfile.clone_from(&old.pidfile);
    new.tcp.clone_from(&old.tcp);
    new.metrics_listen = old.metrics_listen;
    new.log.json = old.log.json;
    new.log.syslog.clone_from(&old.log.syslog);
    changed
}

/// Brings the pools in line with the configuration.
pub fn apply(config: &Arc<Config>, registry: &Registry) {
    registry.apply(config.clone(), |config, key| routing::route(config, &key.database, &key.user));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_only_a_restart_changes_stays_and_is_named() {
        let read = |settings: &str| {
            let text = format!("{settings}\n[databases.a]\n[users.b]\npassword = \"c\"\n");
            let home = tempfile::tempdir().unwrap();
            let file = home.path().join("pgvalet.toml");
            std::fs::write(&file, text).unwrap();
            config::load(&file).unwrap().general
        };
        let old = read("");
        let mut new = read(
            "workers = 7\nlisten_addr = [\"127.0.0.2\"]\nlisten_port = 1\nlisten_backlog = 2\nso_reuseport = true\npeer_id = 3\n\
             unix_socket_dir = \"/\"\nunix_socket_mode = \"0700\"\nunix_socket_group = \"g\"\nuser = \"u\"\npidfile = \"/p\"\ntcp_keepalive = false\n\
             tcp_keepcnt = 3\ntcp_keepidle = 4\ntcp_keepintvl = 5\ntcp_user_timeout = 6\ntcp_socket_buffer = 4096\nmetrics_listen = \"127.0.0.1:7\"\nlog_format = \"json\"\n\
             syslog = true\nsyslog_ident = \"i\"\nsyslog_facility = \"user\"\n\
             query_timeout = 8\n",
        );
        let named = keep_fixed(&old, &mut new);
        let fixed: Vec<&str> =
            settings::general().filter(|about| !about.reload).map(|about| about.name).collect();
        assert_eq!(named, fixed);
        let differ: Vec<&str> = settings::values(&old)
            .zip(settings::values(&new))
            .filter(|(old, new)| old != new)
            .map(|((about, _), _)| about.name)
            .collect();
        assert_eq!(differ, ["query_timeout"]);
    }
}
