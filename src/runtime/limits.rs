//! What the system allows the process.

use crate::config::Config;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Descriptors beside those of clients and servers: listeners, epoll, logs, cancel requests.
const OTHERS: u64 = 200;

/// Raises the limit of open files as far as it goes, and warns if it does not go far enough.
pub fn raise_open_files(config: &Config) {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        tracing::warn!(%error, "cannot raise the limit of open files");
    }
    let allowed = maximum.or(current).unwrap_or(u64::MAX);
    let servers: u64 =
        config.databases.values().map(|database| u64::from(database.pool_size.unwrap_or(0))).sum();
    let wanted = u64::from(config.general.max_client_conn) + servers + OTHERS;
    if wanted > allowed {
        tracing::warn!(
            allowed,
            wanted,
            "max_client_conn and the pools need more open files than the system allows; raise the limit (ulimit -n, LimitNOFILE)"
        );
    }
}
