//! What becomes of pools that nobody uses: they are forgotten, with all that was counted for them.
//!
//! A name that a client makes up gets a pool behind a database `*`, and so does a user that only the server can refuse. Invariant:
//! such a pool leaves nothing when it is gone, so that no number of logins makes the process, or what it tells monitoring,
//! grow for good. A pool with a client, a server or somebody in line is never forgotten; one that a login has just found
//! sends it to a new one, as after a reload.

use crate::metrics::PoolCounters;
use crate::moment::Moment;
use crate::pool::registry::Inner;
use crate::pool::{ConnectState, Pool, PoolKey, Registry, lock};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

/// How long a pool is remembered that has neither clients nor servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// Time after which it is forgotten; `None`: never.
    pub idle_timeout: Option<Duration>,
    /// Whether it is forgotten at once if it never had a server: its name may have been made up.
    pub only_if_used: bool,
}

/// Pools without clients and servers: since when, and how many logins there had been by then.
pub(super) type Unused = HashMap<PoolKey, (Moment, u64)>;

impl Registry {
    /// Forgets the pools that were not used for long enough. To be called about once a second.
    pub fn forget_unused(&self, now: Moment) {
        let mut inner = lock(&self.inner);
        let mut unused = Unused::new();
        let mut forgotten = Vec::new();
        for (key, pool) in &inner.pools {
            if pool.is_used() {
                continue;
            }
            let logins = pool.count(|counters| counters.logins.get());
            let known = inner.unused.get(key).copied().filter(|(_, before)| *before == logins);
            let (since, _) = known.unwrap_or((now, logins));
            if pool.is_to_be_forgotten(now.saturating_duration_since(since), now) {
                forgotten.push(key.clone());
            } else {
                unused.insert(key.clone(), (since, logins));
            }
        }
        inner.unused = unused;
        for key in forgotten {
            tracing::debug!(database = &*key.database, user = &*key.user, "an unused pool is forgotten");
            inner.retire(&key);
            inner.stats.remove(&key);
        }
        // What only pools that are gone had, those that a client had to itself included. Without a pool there is no server to count.
        let Inner { pools, stats, .. } = &mut *inner;
        stats.retain(|key, stats| pools.contains_key(key) || Arc::strong_count(stats) > 1);
        inner.databases.retain(|_, group| Arc::strong_count(group) > 1);
        inner.users.retain(|_, group| Arc::strong_count(group) > 1);
        inner.catalogs.retain(|_, catalog| Arc::strong_count(catalog) > 1);
    }
}

impl Pool {
    fn is_used(&self) -> bool {
        let status = self.status();
        status.servers > 0 || status.waiting > 0 || self.stats.iter().any(|stats| stats.clients.get() > 0)
    }

    fn is_to_be_forgotten(&self, unused_for: Duration, now: Moment) -> bool {
        let memory = self.policy().memory;
        if memory.idle_timeout.is_some_and(|limit| unused_for >= limit) {
            return true;
        }
        // While its failure is remembered, whoever asks again is told without asking the server.
        memory.only_if_used
            && self.count(|counters| counters.connects.get()) == 0
            && !matches!(self.connect_state(now), ConnectState::Pausing(_))
    }

    fn count(&self, of: impl Fn(&PoolCounters) -> u64) -> u64 {
        self.stats.iter().map(|stats| of(&stats.counters)).sum()
    }
}
