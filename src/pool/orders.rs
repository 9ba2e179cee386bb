//! What an operator orders of pools: to pause and go on, to refuse new clients, to replace their servers.
//!
//! An order holds for a database, or for all; also for pools that are made while it holds. It is carried out by the
//! workers: what they have leased comes back first. [`Registry::is_at_rest`] and [`Registry::is_renewed`] tell when they
//! are done.

use crate::pool::registry::{Inner, Registry};
use crate::pool::{Pool, lock};
use std::collections::HashSet;
use std::sync::{Arc, Weak};

/// The orders in force.
#[derive(Debug, Default)]
pub(super) struct Orders {
    all_paused: bool,
    paused: HashSet<Box<str>>,
    disabled: HashSet<Box<str>>,
    /// Clients go to another process.
    leaving_process: bool,
    /// Pools that were replaced or removed, for as long as they have servers or clients.
    leaving: Vec<Weak<Pool>>,
    /// Pools of one client each. No order concerns them once their server is open.
    private: Vec<Weak<Pool>>,
}

impl Orders {
    /// Whether a pool of this database is to be paused.
    fn is_paused(&self, database: &str) -> bool {
        self.all_paused || self.paused.contains(database)
    }

    /// Has a pool follow the orders.
    pub(super) fn apply(&self, pool: &Pool) {
        pool.set_paused(self.is_paused(&pool.key.database));
        pool.set_leaving(self.leaving_process);
    }

    /// Takes note of a pool that was retired.
    pub(super) fn left(&mut self, pool: &Arc<Pool>) {
        self.leaving.retain(|other| other.strong_count() > 0);
        self.leaving.push(Arc::downgrade(pool));
    }

    /// Takes note of a pool that one client has to itself.
    pub(super) fn made_private(&mut self, pool: &Arc<Pool>) {
        self.private.retain(|other| other.strong_count() > 0);
        self.private.push(Arc::downgrade(pool));
    }
}

impl Registry {
    /// Pauses a database, or all: its clients wait for servers, and its servers are closed as they come back. Whether that
    /// is new.
    pub fn pause(&self, database: Option<&str>) -> bool {
        let mut inner = lock(&self.inner);
        let is_new = match database {
            Some(name) => inner.orders.paused.insert(name.into()),
            None => !std::mem::replace(&mut inner.orders.all_paused, true),
        };
        inner.follow_orders();
        is_new
    }

    /// Takes the pause of a database, or the one of all, back. Whether there was one. The workers have to be told to look
    /// after those who wait.
    pub fn resume(&self, database: Option<&str>) -> bool {
        let mut inner = lock(&self.inner);
        let was_paused = match database {
            Some(name) => inner.orders.paused.remove(name),
            None => std::mem::take(&mut inner.orders.all_paused),
        };
        inner.follow_orders();
        was_paused
    }

    /// Whether everything is paused.
    #[must_use]
    pub fn is_all_paused(&self) -> bool {
        lock(&self.inner).orders.all_paused
    }

    /// Whether a database was paused by its name.
    #[must_use]
    pub fn is_paused(&self, database: &str) -> bool {
        lock(&self.inner).orders.paused.contains(database)
    }

    /// Refuses new clients of a database, or lets them in again.
    pub fn set_disabled(&self, database: &str, disabled: bool) {
        let orders = &mut lock(&self.inner).orders;
        if disabled {
            orders.disabled.insert(database.into());
        } else {
            orders.disabled.remove(database);
        }
    }

    /// Whether new clients of a database are refused.
    #[must_use]
    pub fn is_disabled(&self, database: &str) -> bool {
        lock(&self.inner).orders.disabled.contains(database)
    }

    /// Has free servers closed for which there are no clients any more, because those go to another process; or not.
    pub fn set_leaving(&self, leaving: bool) {
        let mut inner = lock(&self.inner);
        inner.orders.leaving_process = leaving;
        inner.follow_orders();
    }

    /// Whether all is paused, the databases that are, and those that are disabled.
    #[must_use]
    pub fn orders(&self) -> (bool, Vec<String>, Vec<String>) {
        let orders = &lock(&self.inner).orders;
        let names = |set: &HashSet<Box<str>>| set.iter().map(|name| name.to_string()).collect();
        (orders.all_paused, names(&orders.paused), names(&orders.disabled))
    }

    /// Takes over the orders of another process: whether all is paused, what is paused, what is disabled.
    pub fn follow(&self, all_paused: bool, paused: &[String], disabled: &[String]) {
        if all_paused {
            self.pause(None);
        }
        for name in paused {
            self.pause(Some(name));
        }
        disabled.iter().for_each(|name| self.set_disabled(name, true));
    }

    /// Has the servers of a database, or of all, replaced as they become free.
    pub fn renew(&self, database: Option<&str>) {
        lock(&self.inner).pools_of(database).for_each(|pool| pool.renew());
    }

    /// Whether a database, or all together, has no server, neither open nor being opened.
    #[must_use]
    pub fn is_at_rest(&self, database: Option<&str>) -> bool {
        let inner = lock(&self.inner);
        inner.pools_of(database).all(|pool| pool.size.count() == 0)
            && inner.leaving(database).all(|pool| pool.size.count() == 0)
    }

    /// Whether a database, or all together, has no server that is to be closed as soon as it is free.
    #[must_use]
    pub fn is_renewed(&self, database: Option<&str>) -> bool {
        let inner = lock(&self.inner);
        inner.pools_of(database).all(|pool| !pool.has_outdated())
            && inner.leaving(database).all(|pool| pool.size.count() == 0)
    }

    /// All pools, by name; behind them those that were replaced or removed and still have servers, and those that belong to
    /// one client each.
    #[must_use]
    pub fn all_pools(&self) -> Vec<Arc<Pool>> {
        let mut pools = self.pools();
        let inner = lock(&self.inner);
        pools.extend(inner.leaving(None));
        pools.extend(inner.orders.private.iter().filter_map(Weak::upgrade));
        pools
    }
}

impl Inner {
    fn follow_orders(&self) {
        for pool in self.pools_of(None) {
            self.orders.apply(pool);
        }
    }

    fn pools_of(&self, database: Option<&str>) -> impl Iterator<Item = &Arc<Pool>> {
        let is_meant = move |pool: &&Arc<Pool>| database.is_none_or(|name| *pool.key.database == *name);
        self.pools.values().filter(is_meant)
    }

    fn leaving(&self, database: Option<&str>) -> impl Iterator<Item = Arc<Pool>> {
        let is_meant = move |pool: &Arc<Pool>| database.is_none_or(|name| *pool.key.database == *name);
        self.orders.leaving.iter().filter_map(Weak::upgrade).filter(is_meant)
    }
}
