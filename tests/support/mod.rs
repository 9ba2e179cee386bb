//! What the integration tests stand on: real PostgreSQL clusters, a pgvalet process, a raw wire client, a scripted server.
//!
//! Nothing here uses pgvalet's own code: a mistake in it must not be able to hide itself. All waiting is for a condition,
//! with a deadline that is far beyond what any machine needs; no test depends on how fast something is.

#![allow(dead_code, reason = "each test binary uses only a part of this")]
#![allow(missing_docs, reason = "the names of protocol builders and accessors say it")]

pub mod backend;
pub mod cluster;
pub mod differential;
pub mod frontend;
pub mod guard;
pub mod install;
pub mod memory;
pub mod pgvalet;
pub mod poolers;
pub mod programs;
pub mod scram;
pub mod scripted;
pub mod stream;
pub mod tables;
pub mod tls;
pub mod tokens;
pub mod transcript;
pub mod wire;

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// How long anything may take before a test gives up on it.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// Begins a statement that only a cancel request ends, and waits until PostgreSQL runs it.
pub fn begin_endless(cluster: &cluster::Cluster, client: &mut wire::Client) {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let tag = format!("endless {} {}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
    client.send(&frontend::query(&format!("/* {tag} */ SELECT pg_sleep(600)")));
    let running =
        format!("SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query LIKE '/* {tag} */%'");
    eventually("the statement to run", || (cluster.value(&running) == "1").then_some(()));
}

/// Waits until `look` finds something; panics with `what` after [`DEADLINE`].
pub fn eventually<T>(what: &str, look: impl FnMut() -> Option<T>) -> T {
    within(DEADLINE, look).unwrap_or_else(|| panic!("waited {DEADLINE:?} in vain for {what}"))
}

/// Waits until `look` finds something, at most `limit`.
pub fn within<T>(limit: Duration, mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let end = Instant::now() + limit;
    loop {
        if let Some(found) = look() {
            return Some(found);
        }
        if Instant::now() >= end {
            return None;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Where something that speaks PostgreSQL's protocol listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Endpoint {
    /// A TCP address.
    Tcp(SocketAddr),
    /// The socket file, `.s.PGSQL.<port>` included.
    Unix(PathBuf),
}

impl Endpoint {
    /// What libpq wants in `host=` and `port=`.
    pub fn libpq(&self) -> (String, u16) {
        match self {
            Self::Tcp(address) => (address.ip().to_string(), address.port()),
            Self::Unix(path) => {
                let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
                let port = name.rsplit('.').next().and_then(|port| port.parse().ok());
                let directory = path.parent().expect("a socket file has a directory");
                (directory.display().to_string(), port.expect("a socket file ends in its port"))
            }
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => path.display().fmt(f),
        }
    }
}
