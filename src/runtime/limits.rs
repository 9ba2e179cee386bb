//! What the system allows the process.

use crate::config::Config;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Descriptors beside those of clients and servers: listeners, epoll, logs, cancel requests.
const OTHERS: u64 = 200;

/// Raises the limit of open files as far as it goes; a warning if it does not go far enough.
pub fn raise_open_files(config: &Config) -> Option<String> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    // If it cannot be raised, what is allowed is what it was.
    let raised = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).is_ok();
    let allowed = if raised { maximum } else { current }.unwrap_or(u64::MAX);
    let servers: u64 =
        config.databases.values().map(|database| u64::from(database.pool_size.unwrap_or(0))).sum();
    let logins = u64::from(config.general.max_client_logins.unwrap_or(0));
    let wanted = u64::from(config.general.max_client_conn) + logins + servers + OTHERS;
    (wanted > allowed).then(|| {
        format!(
            "max_client_conn and the pools need {wanted} open files and the system allows {allowed}; raise the limit \
             (ulimit -n, LimitNOFILE)"
        )
    })
}
