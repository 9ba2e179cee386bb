//! All pools of the process, and one worker's shards of them.

use crate::config::{Config, Host};
use crate::metrics::WorkerStats;
use crate::moment::Moment;
use crate::pool::budget::Group;
use crate::pool::catalog::Catalog;
use crate::pool::keeper::Job;
use crate::pool::memory::Unused;
use crate::pool::orders::Orders;
use crate::pool::{CheckoutError, Policy, Pool, PoolKey, Pooled, Shard, lock};
use crate::server::login::Target;
use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use tokio::sync::mpsc::UnboundedSender;

/// Users whose pool a worker remembers for each database: where anybody may come, names are without number.
const KNOWN_USERS: usize = 1024;

/// A server on its way to another worker.
#[derive(Debug)]
pub struct Parcel {
    pub(crate) pool: Arc<Pool>,
    pub(crate) server: Box<Pooled>,
}

/// What the clients of one worker have prepared in one pool.
#[derive(Debug, Clone)]
pub struct StatementInfo {
    /// The pool.
    pub key: PoolKey,
    /// Different statements that are kept for the next client that prepares the same.
    pub count: usize,
    /// Bytes that they take.
    pub bytes: usize,
}

/// What a pool should be like, according to the configuration.
#[derive(Debug, Clone, PartialEq)]
pub struct Blueprint {
    /// Its name.
    pub key: PoolKey,
    /// Where its servers are.
    pub target: Target,
    /// How it behaves.
    pub policy: Policy,
    /// Servers of the database, over all its pools.
    pub max_db_connections: Option<u32>,
    /// Servers of the user, over all pools.
    pub max_user_connections: Option<u32>,
}

/// All pools, by name. Touched at logins and reloads, never by a transaction.
#[derive(Debug)]
pub struct Registry {
    workers: usize,
    /// Counts the configurations that were put in force.
    generation: AtomicU64,
    pub(super) inner: Mutex<Inner>,
}

#[derive(Debug)]
pub(super) struct Inner {
    config: Arc<Config>,
    pub(super) orders: Orders,
    pub(super) pools: HashMap<PoolKey, Arc<Pool>>,
    pub(super) databases: HashMap<Arc<str>, Arc<Group>>,
    pub(super) users: HashMap<Arc<str>, Arc<Group>>,
    /// By where the database is: what one user changes in a catalog holds for all.
    pub(super) catalogs: HashMap<(Vec<Host>, u16, String), Arc<Catalog>>,
    /// What was counted, also by pools that were replaced: counters never go back.
    pub(super) stats: HashMap<PoolKey, Arc<[WorkerStats]>>,
    pub(super) unused: Unused,
}

impl Registry {
    /// Without pools yet.
    #[must_use]
    pub fn new(workers: usize, config: Arc<Config>) -> Registry {
        let inner = Inner {
            config,
            orders: Orders::default(),
            pools: HashMap::new(),
            databases: HashMap::new(),
            users: HashMap::new(),
            catalogs: HashMap::new(),
            stats: HashMap::new(),
            unused: Unused::default(),
        };
        Registry { workers, generation: AtomicU64::new(0), inner: Mutex::new(inner) }
    }

    /// The pool that `plan` wants under the configuration in force, made if it is not there. `None` if it wants none.
    /// Limits and policy follow the plan; a pool whose target differs is replaced.
    pub fn pool(&self, plan: impl FnOnce(&Config) -> Option<Blueprint>) -> Option<Arc<Pool>> {
        let mut inner = lock(&self.inner);
        let blueprint = plan(&inner.config)?;
        Some(inner.pool(self.workers, blueprint))
    }

    /// A pool that nobody else knows, for one client that needs a server of its own. The limits of its database and its
    /// user hold for it.
    pub(crate) fn private_pool(&self, plan: impl FnOnce(&Config) -> Option<Blueprint>) -> Option<Arc<Pool>> {
        let mut inner = lock(&self.inner);
        let blueprint = plan(&inner.config)?;
        let pool = inner.make_pool(self.workers, blueprint);
        inner.orders.made_private(&pool);
        Some(pool)
    }

    /// Puts a configuration in force: limits change in place, other changes make a new pool and drain the old one, and a
    /// pool that `plan` has no place for any more is drained. No login can bring the old configuration back.
    pub fn apply(&self, config: Arc<Config>, plan: impl Fn(&Config, &PoolKey) -> Option<Blueprint>) {
        let mut inner = lock(&self.inner);
        let keys: Vec<PoolKey> = inner.pools.keys().cloned().collect();
        for key in keys {
            match plan(&config, &key) {
                Some(blueprint) if blueprint.key == key => {
                    inner.pool(self.workers, blueprint);
                }
                _ => inner.retire(&key),
            }
        }
        inner.config = config;
        self.generation.fetch_add(1, Ordering::SeqCst);
    }

    /// The configuration in force.
    #[must_use]
    pub fn config(&self) -> Arc<Config> {
        lock(&self.inner).config.clone()
    }

    /// How many workers share the pools.
    #[must_use]
    pub fn workers(&self) -> usize {
        self.workers
    }

    /// All pools in use, by name.
    #[must_use]
    pub fn pools(&self) -> Vec<Arc<Pool>> {
        let mut pools: Vec<_> = lock(&self.inner).pools.values().cloned().collect();
        pools.sort_by(|one, other| one.key.cmp(&other.key));
        pools
    }

    /// Clients that have servers which are to be closed as soon as they are free.
    #[must_use]
    pub fn clients_of_outdated(&self) -> HashSet<u32> {
        let mut found = HashSet::new();
        for pool in self.all_pools() {
            pool.roster.for_each(|entry| {
                if pool.is_retired() || pool.is_outdated(entry) {
                    found.extend(entry.client());
                }
            });
        }
        found
    }

    /// Lets pools of this server user connect at once, although it failed a moment ago: what was missing is there now.
    pub(crate) fn retry_connects(&self, user: &str) {
        let inner = lock(&self.inner);
        let pools = inner.pools.values().filter(|pool| &*pool.key.user == user);
        pools.for_each(|pool| pool.connect_succeeded());
    }

    /// Closes one idle server of another pool that stands in the way of `pool`: its database or its user may have no
    /// more servers. Whether one was found.
    pub(crate) fn evict_idle_for(&self, pool: &Arc<Pool>) -> bool {
        let (database_full, user_full) = (pool.database.is_full(), pool.user.is_full());
        let in_the_way = |other: &&Arc<Pool>| {
            !Arc::ptr_eq(other, pool)
                && (database_full && Arc::ptr_eq(&other.database, &pool.database)
                    || user_full && Arc::ptr_eq(&other.user, &pool.user))
        };
        let inner = lock(&self.inner);
        let mut branches = inner.pools.values().filter(in_the_way).flat_map(|other| other.branches.iter());
        branches.any(|branch| match branch.idle.try_remove() {
            Ok(mut pooled) => {
                pooled.server.farewell();
                true
            }
            Err(_) => false,
        })
    }
}

impl Inner {
    fn pool(&mut self, workers: usize, blueprint: Blueprint) -> Arc<Pool> {
        if let Some(pool) = self.pools.get(&blueprint.key) {
            if pool.target == blueprint.target && pool.set_policy(blueprint.policy.clone()) {
                pool.database.set_limit(blueprint.max_db_connections);
                pool.user.set_limit(blueprint.max_user_connections);
                return pool.clone();
            }
            self.retire(&blueprint.key);
        }
        let pool = self.make_pool(workers, blueprint);
        self.pools.insert(pool.key.clone(), pool.clone());
        pool
    }

    fn make_pool(&mut self, workers: usize, blueprint: Blueprint) -> Arc<Pool> {
        let Blueprint { key, target, policy, max_db_connections, max_user_connections } = blueprint;
        let database = group(&mut self.databases, &key.database, max_db_connections);
        let user = group(&mut self.users, &key.user, max_user_connections);
        let place = (target.hosts.clone(), target.port, target.dbname.clone());
        let catalog = self.catalogs.entry(place).or_default().clone();
        let fresh = || (0..workers).map(|_| WorkerStats::default()).collect();
        let stats = self.stats.entry(key.clone()).or_insert_with(fresh).clone();
        let pool = Arc::new(Pool::new(key, target, policy, database, user, catalog, stats));
        self.orders.apply(&pool);
        pool
    }

    pub(super) fn retire(&mut self, key: &PoolKey) {
        // Its shards, and the leases out of them, keep it for as long as it has servers or clients.
        if let Some(pool) = self.pools.remove(key) {
            pool.retire();
            self.orders.left(&pool);
        }
    }
}

fn group(groups: &mut HashMap<Arc<str>, Arc<Group>>, name: &Arc<str>, limit: Option<u32>) -> Arc<Group> {
    let group = groups.entry(name.clone()).or_insert_with(|| Arc::new(Group::new(limit)));
    group.set_limit(limit);
    group.clone()
}

/// One worker's shards, made when they are first needed.
#[derive(Debug)]
pub struct Shards {
    /// All pools of the process.
    pub registry: Arc<Registry>,
    worker: usize,
    jobs: UnboundedSender<(Rc<Shard>, Job)>,
    siblings: Rc<[UnboundedSender<Parcel>]>,
    shards: RefCell<HashMap<PoolKey, Rc<Shard>>>,
    /// What clients were given lately, so that the next login of the same kind asks nobody.
    known: RefCell<Known>,
    /// Shards of retired pools that may still have servers or clients.
    leaving: RefCell<Vec<Rc<Shard>>>,
}

/// Shards by database and user, as clients name them, under one configuration.
#[derive(Debug, Default)]
struct Known {
    generation: u64,
    shards: HashMap<Box<str>, HashMap<Box<str>, Rc<Shard>>>,
}

/// The worker's end of its keeper.
pub(crate) type Jobs = UnboundedSender<(Rc<Shard>, Job)>;
/// The keeper's end.
pub(crate) type JobsReceiver = tokio::sync::mpsc::UnboundedReceiver<(Rc<Shard>, Job)>;

/// A channel between a worker and its keeper.
#[must_use]
pub(crate) fn jobs() -> (Jobs, JobsReceiver) {
    tokio::sync::mpsc::unbounded_channel()
}

impl Shards {
    /// No shards yet. `siblings` are the mailboxes of all workers, in order.
    #[must_use]
    pub(crate) fn new(
        registry: Arc<Registry>,
        worker: usize,
        jobs: Jobs,
        siblings: Vec<UnboundedSender<Parcel>>,
    ) -> Shards {
        Shards {
            registry,
            worker,
            jobs,
            siblings: siblings.into(),
            shards: RefCell::default(),
            known: RefCell::default(),
            leaving: RefCell::default(),
        }
    }

    /// The same as [`shard`](Shards::shard) for a client that names this database and this user, which is all that `plan`
    /// goes by.
    pub fn shard_for(
        &self,
        database: &str,
        user: &str,
        plan: impl FnOnce(&Config) -> Option<Blueprint>,
    ) -> Option<Rc<Shard>> {
        // What is put in force while the pool is looked up makes it unknown again.
        let generation = self.registry.generation.load(Ordering::SeqCst);
        if self.known.borrow().generation != generation {
            *self.known.borrow_mut() = Known { generation, ..Known::default() };
        }
        let known = self.known.borrow().shards.get(database).and_then(|users| users.get(user)).cloned();
        if let Some(shard) = known
            && !shard.pool.is_retired()
        {
            return Some(shard);
        }
        let shard = self.shard(plan)?;
        let mut known = self.known.borrow_mut();
        let users = known.shards.entry(database.into()).or_default();
        if users.len() >= KNOWN_USERS {
            users.clear();
        }
        users.insert(user.into(), shard.clone());
        Some(shard)
    }

    /// This worker's shard of the pool that `plan` wants under the configuration in force.
    pub fn shard(&self, plan: impl FnOnce(&Config) -> Option<Blueprint>) -> Option<Rc<Shard>> {
        self.registry.pool(plan).map(|pool| self.shard_of(pool))
    }

    /// A shard of a pool of its own, for one client that needs a server to itself.
    pub fn private_shard(&self, plan: impl FnOnce(&Config) -> Option<Blueprint>) -> Option<Rc<Shard>> {
        let pool = self.registry.private_pool(plan)?;
        Some(Shard::new(pool, self.worker, self.jobs.clone(), self.siblings.clone()))
    }

    fn shard_of(&self, pool: Arc<Pool>) -> Rc<Shard> {
        let mut shards = self.shards.borrow_mut();
        if let Some(shard) = shards.get(&pool.key) {
            if Arc::ptr_eq(&shard.pool, &pool) {
                return shard.clone();
            }
            self.leaving.borrow_mut().push(shard.clone());
        }
        let key = pool.key.clone();
        let shard = Shard::new(pool, self.worker, self.jobs.clone(), self.siblings.clone());
        shards.insert(key, shard.clone());
        shard
    }

    /// Takes in a server from another worker.
    pub fn receive(&self, parcel: Parcel, now: Moment) {
        let Parcel { pool, server } = parcel;
        let shard = if pool.is_retired() {
            let leaving = self.leaving.borrow();
            let known = leaving
                .iter()
                .chain(self.shards.borrow().values())
                .find(|shard| Arc::ptr_eq(&shard.pool, &pool))
                .cloned();
            match known {
                Some(shard) => shard,
                None => return,
            }
        } else {
            self.shard_of(pool)
        };
        match shard.moved(server) {
            Some(server) => shard.admit(server, now),
            None => shard.demand(now),
        }
    }

    /// Sweeps all shards, and lets go of those whose pool was replaced and is empty.
    pub fn sweep(&self, now: Moment) {
        let mut all: Vec<_> = self.shards.borrow().values().cloned().collect();
        all.extend(self.leaving.borrow().iter().cloned());
        for shard in all {
            super::sweep::sweep(&shard, now);
            let starved =
                !shard.line.borrow().is_empty() && !shard.pool.size.is_full() && shard.connecting.get() == 0;
            if starved && (shard.pool.database.is_full() || shard.pool.user.is_full()) {
                if shard.pool.size.count() == 0 {
                    shard.pool.claim_place(now);
                }
                self.registry.evict_idle_for(&shard.pool);
            }
        }
        let is_done = |shard: &Rc<Shard>| shard.pool.is_retired() && Rc::strong_count(shard) == 1;
        self.leaving.borrow_mut().retain(|shard| !is_done(shard));
        let mut shards = self.shards.borrow_mut();
        let retired: Vec<PoolKey> =
            shards.iter().filter(|(_, shard)| shard.pool.is_retired()).map(|(key, _)| key.clone()).collect();
        if !retired.is_empty() {
            self.known.take();
        }
        for key in retired {
            self.leaving.borrow_mut().extend(shards.remove(&key));
        }
    }

    /// Sends everybody in line away, because the process ends and waits for nobody who has no server.
    pub fn dismiss_waiters(&self) {
        let (shards, leaving) = (self.shards.borrow(), self.leaving.borrow());
        shards.values().chain(leaving.iter()).for_each(|shard| shard.refuse_all(&CheckoutError::Shutdown));
    }

    /// Says goodbye to all idle servers of this worker, because the process ends.
    pub fn close_idle(&self) {
        for shard in self.shards.borrow().values().chain(self.leaving.borrow().iter()) {
            while let Ok(mut pooled) = shard.pool.branches[self.worker].idle.try_remove() {
                pooled.server.farewell();
            }
        }
    }

    /// What clients have prepared in each of this worker's shards.
    #[must_use]
    pub fn statements(&self) -> Vec<StatementInfo> {
        let of = |shard: &Rc<Shard>| {
            let (count, bytes) = shard.interner.borrow().held();
            StatementInfo { key: shard.pool.key.clone(), count, bytes }
        };
        self.shards.borrow().values().map(of).collect()
    }

    /// Looks after all shards now, because an order was given: closes what is to be closed, serves those in line.
    pub fn stir(&self, now: Moment) {
        self.sweep(now);
    }

    /// Takes the policies in that a reload has changed.
    pub fn refresh(&self) {
        self.shards.borrow().values().for_each(|shard| shard.refresh_policy());
    }
}
