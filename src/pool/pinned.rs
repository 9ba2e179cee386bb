//! Clients that keep a server for themselves, because its session holds what no other server has.

use crate::pool::roster::Entry;
use crate::pool::{Pool, Shard};
use crate::session::Footprint;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// One of them; dropped when the client lets go of the server.
#[derive(Debug)]
pub struct Pinned {
    pool: Arc<Pool>,
    /// The server, as those who look see it.
    server: Option<Arc<Entry>>,
    kinds: Footprint,
}

impl Pinned {
    /// Counts one more in; `None` if there are as many as there may be (`max_pinned`).
    #[must_use]
    pub fn new(shard: &Rc<Shard>, server: Option<Arc<Entry>>, kinds: Footprint) -> Option<Pinned> {
        let limit = shard.with_policy(|policy| policy.max_pinned).unwrap_or(u32::MAX);
        let pool = shard.pool.clone();
        let more = |count: u32| (count < limit).then_some(count + 1);
        let before = pool.pinned.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok()?;
        shard.count_pin(kinds);
        if shard.policy().size.is_some_and(|size| before + 1 >= size) {
            tracing::warn!(
                database = &*pool.key.database,
                user = &*pool.key.user,
                pinned = before + 1,
                "every server of the pool is kept by one client: others wait until one lets go (max_pinned, pin_timeout)"
            );
        }
        let mut pinned = Pinned { pool, server, kinds };
        pinned.set_kinds(kinds);
        Some(pinned)
    }

    /// What keeps it.
    #[inline]
    #[must_use]
    pub fn kinds(&self) -> Footprint {
        self.kinds
    }

    /// Notes what keeps it now.
    pub fn set_kinds(&mut self, kinds: Footprint) {
        self.kinds = kinds;
        if let Some(server) = &self.server {
            server.set_pins(kinds);
        }
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        self.pool.pinned.fetch_sub(1, Ordering::Relaxed);
        if let Some(server) = &self.server {
            server.set_pins(Footprint::NOTHING);
        }
    }
}
