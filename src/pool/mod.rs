//! Pools: the servers of one database and user, who has them, who waits for them.
//!
//! A [`Pool`] is one for the process. Its servers live in per-worker shards ([`Shard`]) under one exact budget; on the
//! path of a transaction a worker touches only its own shard. Servers move between workers in two rare ways: a worker
//! with a waiting client takes over an idle server of another ([`Shard::checkout`]), and a worker whose server comes
//! back hands it over to another's older waiter ([`Lease::checkin`]). Neither sleeps past the other: a waiter is
//! published before idle servers are looked at, an idle server is put down before the waiters are looked at, both with
//! sequentially consistent fences in between.
//!
//! [`keeper`] owns the servers that no client has, [`sweep`] looks after deadlines, [`registry`] knows all pools.

pub mod budget;
pub mod catalog;
pub mod greetings;
pub mod keeper;
pub mod lease;
pub mod line;
pub mod member;
pub mod memory;
pub(crate) mod moves;
pub mod names;
pub mod orders;
pub mod pinned;
pub mod registry;
pub mod roster;
pub mod shard;
pub mod sweep;
pub mod waiting_cancel;

pub use lease::{Lease, Pooled};
pub use line::{CheckoutError, Seat};
pub use member::Member;
pub use memory::Memory;
pub use names::Names;
pub use pinned::Pinned;
pub use registry::{Registry, Shards};
pub use roster::{Duty, Roster};
pub use shard::Shard;
pub use waiting_cancel::WaitingCancel;

use crate::config::{Listen, ListenerLost, Pin, PoolMode, Reset};
use crate::metrics::WorkerStats;
use crate::moment::Moment;
use crate::pool::budget::{Group, Permit};
use crate::pool::catalog::Catalog;
use crate::server::ServerError;
use crate::server::login::Target;
use crate::session::{Reported, Settings};
use deadpool::unmanaged;
use lru::LruCache;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

/// Another pool has taken its place.
const RETIRED: u8 = 1;
/// No client is given a server.
const PAUSED: u8 = 2;
/// Another process takes over: no more servers are kept than there are clients left.
const LEAVING: u8 = 4;
/// Servers that one worker can hold for a pool without a size limit.
const UNLIMITED: u32 = 10_000;
/// Sets of startup settings whose effect is remembered.
const ACCEPTED_SETTINGS: NonZeroUsize = NonZeroUsize::new(1024).unwrap();

/// Which pool: the database as clients call it, and the user on the server.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PoolKey {
    /// Name of the database for clients.
    pub database: Arc<str>,
    /// User on the server.
    pub user: Arc<str>,
}

/// What may change on a reload without a new pool.
#[derive(Debug, Clone, PartialEq)]
pub struct Policy {
    /// Servers; `None`: no limit.
    pub size: Option<u32>,
    /// Servers kept open.
    pub min_size: u32,
    /// Servers beyond `size` for those who waited `reserve_timeout`.
    pub reserve: u32,
    /// See `reserve`; `None`: never.
    pub reserve_timeout: Option<Duration>,
    /// How long a client keeps a server.
    pub mode: PoolMode,
    /// Clients may not use the simple query protocol.
    pub extended_only: bool,
    /// Lend the server that was idle longest.
    pub round_robin: bool,
    /// What happens between two clients.
    pub reset: Reset,
    /// What happens to a client that needs its server for itself.
    pub pin: Pin,
    /// Clients that may do so.
    pub max_pinned: Option<u32>,
    /// See the setting of this name.
    pub pin_sequences: bool,
    /// Who listens for clients that LISTEN.
    pub listen: Listen,
    /// What becomes of them when the shared listener is lost.
    pub listener_lost: ListenerLost,
    /// See the setting of this name.
    pub notification_buffer: usize,
    /// The statements of a full reset.
    pub reset_query: String,
    /// See the setting `catalog_probe_interval`.
    pub probe_interval: Duration,
    /// Statement that shows an idle server to be alive.
    pub check_query: Option<String>,
    /// How long a server may be idle before it is checked.
    pub check_delay: Duration,
    /// Age at which a server is closed.
    pub lifetime: Option<Duration>,
    /// Idle time after which a server is closed.
    pub idle_timeout: Option<Duration>,
    /// First pause after a failed connect.
    pub login_retry: Duration,
    /// How long the pool is remembered when nobody uses it.
    pub memory: Memory,
}

/// The servers of one database and user, over all workers.
#[derive(Debug)]
pub struct Pool {
    /// Its name.
    pub key: PoolKey,
    /// Where its servers are.
    pub target: Target,
    /// Servers, open and being opened.
    pub(crate) size: Group,
    /// The same over all pools of the database.
    pub(crate) database: Arc<Group>,
    /// The same over all pools of the user.
    pub(crate) user: Arc<Group>,
    policy: Mutex<Arc<Policy>>,
    /// One bit for each worker that has clients waiting (workers beyond 63 share the last).
    waiting: AtomicU64,
    /// `RETIRED`, `PAUSED`: what a checkout looks at.
    standing: AtomicU8,
    /// Servers of an earlier generation are closed when they are free.
    generation: AtomicU32,
    pub(crate) roster: Roster,
    /// The worker that keeps the minimum: the first that used the pool, for as long as there is the pool.
    caretaker: OnceLock<usize>,
    pub(crate) branches: Box<[Branch]>,
    /// What each worker counts.
    pub stats: Arc<[WorkerStats]>,
    trouble: Mutex<Trouble>,
    /// Clients that keep a server for themselves.
    pub(crate) pinned: AtomicU32,
    waiting_cancels: AtomicU32,
    /// What servers reported under settings that clients log in with. One for all workers, so that a login waits for no
    /// server where another worker knows the greeting.
    pub(crate) accepted: Mutex<LruCache<Arc<Settings>, Arc<Reported>>>,
    /// What is known of the database's catalog.
    pub(crate) catalog: Arc<Catalog>,
}

/// What a pool has on one worker and others may look at.
#[derive(Debug)]
#[repr(align(128))]
pub struct Branch {
    /// Servers that no client has.
    pub(crate) idle: unmanaged::Pool<Box<Pooled>>,
    /// When the first in line arrived, as [`Moment::micros`]; `u64::MAX`: nobody waits.
    pub(crate) oldest: AtomicU64,
    /// Clients in line.
    pub(crate) waiters: AtomicU32,
}

#[derive(Debug, Default)]
struct Trouble {
    failures: u32,
    retry_at: Option<Moment>,
    last: Option<ServerError>,
}

/// What a pool looks like at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Status {
    /// Servers, open and being opened.
    pub servers: u32,
    /// Servers that no client has.
    pub idle: u32,
    /// Clients in line.
    pub waiting: u32,
    /// How long the first in line has waited.
    pub oldest_wait: Duration,
}

impl Pool {
    pub(crate) fn new(
        key: PoolKey,
        target: Target,
        policy: Policy,
        database: Arc<Group>,
        user: Arc<Group>,
        catalog: Arc<Catalog>,
        stats: Arc<[WorkerStats]>,
    ) -> Pool {
        let workers = stats.len();
        let capacity = policy.capacity() as usize;
        let branch = |_| Branch {
            idle: unmanaged::Pool::new(capacity),
            oldest: AtomicU64::new(u64::MAX),
            waiters: AtomicU32::new(0),
        };
        Pool {
            key,
            target,
            size: Group::new(policy.size),
            database,
            user,
            policy: Mutex::new(Arc::new(policy)),
            waiting: AtomicU64::new(0),
            standing: AtomicU8::new(0),
            generation: AtomicU32::new(0),
            roster: Roster::default(),
            caretaker: OnceLock::new(),
            branches: (0..workers).map(branch).collect(),
            stats,
            trouble: Mutex::default(),
            pinned: AtomicU32::new(0),
            waiting_cancels: AtomicU32::new(0),
            accepted: Mutex::new(LruCache::new(ACCEPTED_SETTINGS)),
            catalog,
        }
    }

    /// The policy in force.
    #[must_use]
    pub fn policy(&self) -> Arc<Policy> {
        lock(&self.policy).clone()
    }

    /// Puts another policy in force; whether the pool can live with it. If not, it must be retired.
    pub(crate) fn set_policy(&self, policy: Policy) -> bool {
        if policy.capacity() as usize > self.branches[0].idle.status().max_size {
            return false;
        }
        self.size.set_limit(policy.size);
        *lock(&self.policy) = Arc::new(policy);
        true
    }

    /// Whether another pool has taken its place.
    #[inline]
    #[must_use]
    pub fn is_retired(&self) -> bool {
        self.standing.load(Ordering::Relaxed) & RETIRED != 0
    }

    pub(crate) fn retire(&self) {
        self.standing.fetch_or(RETIRED, Ordering::SeqCst);
    }

    /// Whether its servers are closed as they become free, and clients wait until it is resumed.
    #[inline]
    #[must_use]
    pub fn is_paused(&self) -> bool {
        self.standing.load(Ordering::Relaxed) & PAUSED != 0
    }

    pub(crate) fn set_paused(&self, paused: bool) {
        if paused {
            self.standing.fetch_or(PAUSED, Ordering::SeqCst);
        } else {
            self.standing.fetch_and(!PAUSED, Ordering::SeqCst);
        }
    }

    /// Whether nothing is to be said of it: it is neither replaced nor paused, and its clients stay.
    #[inline]
    pub(crate) fn is_in_order(&self) -> bool {
        self.standing.load(Ordering::Relaxed) == 0
    }

    /// Whether a server that is free is one too many, because the pool's clients go to another process.
    pub(crate) fn is_deserted(&self) -> bool {
        self.standing.load(Ordering::Relaxed) & LEAVING != 0
            && self.size.count() > self.stats.iter().map(|stats| stats.clients.get()).sum()
    }

    pub(crate) fn set_leaving(&self, leaving: bool) {
        if leaving {
            self.standing.fetch_or(LEAVING, Ordering::SeqCst);
        } else {
            self.standing.fetch_and(!LEAVING, Ordering::SeqCst);
        }
    }

    /// The generation of its servers: older ones are closed as they become free.
    #[inline]
    #[must_use]
    pub(crate) fn generation(&self) -> u32 {
        self.generation.load(Ordering::Relaxed)
    }

    /// Has all its servers replaced as they become free.
    pub(crate) fn renew(&self) {
        self.generation.fetch_add(1, Ordering::SeqCst);
    }

    /// Its servers, for those who look.
    #[must_use]
    pub fn roster(&self) -> &Roster {
        &self.roster
    }

    /// Whether a server of it is to be closed as soon as it is free.
    #[must_use]
    pub fn has_outdated(&self) -> bool {
        let (mut found, generation) = (false, self.generation());
        self.roster.for_each(|entry| found |= entry.generation() != generation || self.is_retired());
        found
    }

    /// Whether `worker` looks after what is not about one worker's clients. The first to ask does.
    pub(crate) fn is_kept_by(&self, worker: usize) -> bool {
        *self.caretaker.get_or_init(|| worker) == worker
    }

    /// A snapshot for those who look.
    #[must_use]
    pub fn status(&self) -> Status {
        let oldest = self.branches.iter().map(|branch| branch.oldest.load(Ordering::Relaxed)).min();
        Status {
            servers: self.size.count(),
            idle: self.branches.iter().map(|branch| branch.idle.status().available as u32).sum(),
            waiting: self.branches.iter().map(|branch| branch.waiters.load(Ordering::Relaxed)).sum(),
            oldest_wait: match oldest {
                Some(arrival) if arrival != u64::MAX => {
                    Duration::from_micros(Moment::now().micros().saturating_sub(arrival))
                }
                _ => Duration::ZERO,
            },
        }
    }

    /// Clients that keep a server for themselves.
    #[must_use]
    pub fn pinned_clients(&self) -> u32 {
        self.pinned.load(Ordering::Relaxed)
    }

    /// Cancel requests that wait until the server has come to the query that they are for.
    #[must_use]
    pub fn waiting_cancels(&self) -> u32 {
        self.waiting_cancels.load(Ordering::Relaxed)
    }

    /// What of it is on one worker: clients in line, servers, idle servers.
    #[must_use]
    pub fn seen_by(&self, worker: usize) -> [u32; 3] {
        let Some(branch) = self.branches.get(worker) else { return [0; 3] };
        let servers = branch.idle.status();
        [branch.waiters.load(Ordering::Relaxed), servers.size as u32, servers.available as u32]
    }

    /// Whether a server of it is to be closed as soon as it is free.
    #[must_use]
    pub fn is_outdated(&self, entry: &roster::Entry) -> bool {
        entry.generation() != self.generation()
    }

    /// Takes a place for one more server, beyond the pool's size by up to `extra`.
    pub(crate) fn try_permit(self: &Arc<Pool>, extra: u32, now: Moment) -> Option<Permit> {
        let is_kept = self.database.is_kept_from(self, now) || self.user.is_kept_from(self, now);
        if is_kept { None } else { Permit::take(self, extra) }
    }

    /// Asks for the next place in the full groups that keep the pool from having any server.
    pub(crate) fn claim_place(&self, now: Moment) {
        let groups = [&self.database, &self.user].into_iter().filter(|group| group.is_full());
        groups.for_each(|group| group.claim(self, now));
    }

    /// Whether a server has to go: its group is full, and another pool has none.
    #[inline]
    pub(crate) fn owes_a_place(&self, now: Moment) -> bool {
        [&self.database, &self.user].into_iter().any(|group| group.is_kept_from(self, now) && group.is_full())
    }

    pub(crate) fn wait_bit(worker: usize) -> u64 {
        1 << worker.min(63)
    }

    /// Workers other than `worker` with clients in line, as bits.
    #[inline]
    pub(crate) fn others_waiting(&self, worker: usize) -> u64 {
        self.waiting.load(Ordering::Relaxed) & !Self::wait_bit(worker)
    }

    /// The worker other than `worker` whose first in line arrived first, with that arrival.
    pub(crate) fn oldest_elsewhere(&self, worker: usize) -> Option<(usize, u64)> {
        let branches = self.branches.iter().enumerate().filter(|(other, _)| *other != worker);
        branches
            .map(|(other, branch)| (other, branch.oldest.load(Ordering::Acquire)))
            .filter(|(_, arrival)| *arrival != u64::MAX)
            .min_by_key(|(_, arrival)| *arrival)
    }

    /// Publishes the arrival of the first in `worker`'s line, `None` when it is empty.
    pub(crate) fn publish_line(&self, worker: usize, oldest: Option<u64>, waiters: usize) {
        let branch = &self.branches[worker];
        branch.waiters.store(waiters as u32, Ordering::Relaxed);
        branch.oldest.store(oldest.unwrap_or(u64::MAX), Ordering::SeqCst);
        let bit = Self::wait_bit(worker);
        let was = self.waiting.load(Ordering::SeqCst) & bit != 0;
        if oldest.is_some() && !was {
            self.waiting.fetch_or(bit, Ordering::SeqCst);
        } else if oldest.is_none() && was && worker < 63 {
            self.waiting.fetch_and(!bit, Ordering::SeqCst);
        }
    }

    /// Whether a connect may be tried now, and whether the last ones failed.
    pub(crate) fn connect_state(&self, now: Moment) -> ConnectState {
        let trouble = lock(&self.trouble);
        match (trouble.retry_at, &trouble.last) {
            (Some(at), Some(last)) if now < at => ConnectState::Pausing(last.clone()),
            (Some(_), _) => ConnectState::Probing,
            (None, _) => ConnectState::Fine,
        }
    }

    /// The last failure to connect, while connecting fails.
    #[must_use]
    pub fn last_failure(&self) -> Option<ServerError> {
        lock(&self.trouble).last.clone()
    }

    pub(crate) fn connect_failed(&self, error: ServerError, now: Moment) {
        let policy = self.policy();
        let mut trouble = lock(&self.trouble);
        if trouble.retry_at.is_some_and(|at| now < at) {
            // Connects that were under way together fail together: that is one failure.
            trouble.last = Some(error);
            return;
        }
        // What only a person can mend is asked for at an even pace, so that the mending shows soon.
        let doublings = if error.is_transient() { trouble.failures.min(4) } else { 0 };
        let pause = policy.login_retry * (1 << doublings);
        trouble.retry_at = Some(now + jitter(pause));
        trouble.failures = trouble.failures.saturating_add(1);
        trouble.last = Some(error);
    }

    pub(crate) fn connect_succeeded(&self) {
        *lock(&self.trouble) = Trouble::default();
    }
}

impl Policy {
    /// Servers that the pool can ever have under this policy.
    fn capacity(&self) -> u32 {
        self.size.map_or(UNLIMITED, |size| size.saturating_add(self.reserve).clamp(16, UNLIMITED))
    }
}

/// Whether a connect may be tried.
#[derive(Debug, Clone)]
pub(crate) enum ConnectState {
    /// The last one went well.
    Fine,
    /// The last one failed a while ago: one may try.
    Probing,
    /// The last one failed a moment ago.
    Pausing(ServerError),
}

/// A mutex whose holder panicked still holds a value that is whole: all that is done under ours is assignments.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// `duration`, up to a tenth shorter, so that what began together does not end together.
pub(crate) fn jitter(duration: Duration) -> Duration {
    shortened(duration, random())
}

/// `duration`, by a part of a tenth shorter that `random` decides.
pub(crate) fn shortened(duration: Duration, random: u16) -> Duration {
    duration - duration / 10 / (1 << 16) * u32::from(random)
}

/// Any number; without randomness things end together, and nothing worse happens.
pub(crate) fn random() -> u16 {
    getrandom::u32().unwrap_or(0) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_shortened_by_up_to_a_tenth() {
        let hour = Duration::from_secs(3600);
        assert_eq!(shortened(hour, 0), hour);
        assert_eq!(shortened(hour, 1 << 15).as_secs(), 3420);
        assert!(shortened(hour, u16::MAX) > hour - hour / 10);
        // A duration may be as long as the configuration can say.
        let longest = Duration::from_secs(u64::MAX / 1_000);
        assert!(shortened(longest, u16::MAX) > longest / 10 * 9);
        assert_eq!(shortened(Duration::ZERO, u16::MAX), Duration::ZERO);
    }
}
