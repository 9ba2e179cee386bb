//! How many servers there may be: exact counts over all workers.

use crate::moment::Moment;
use crate::pool::{Pool, lock};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// How long a claim stands unless it is renewed: a few sweeps.
const CLAIM: Duration = Duration::from_millis(300);

/// A number of servers and its limit.
#[derive(Debug)]
pub struct Group {
    count: AtomicU32,
    /// `u32::MAX`: none.
    limit: AtomicU32,
    /// Whether there can be a claim: all that is looked at as a rule.
    is_claimed: AtomicBool,
    claim: Mutex<Option<Claim>>,
}

/// A pool without any server wants the next place of a full group.
#[derive(Debug)]
struct Claim {
    /// The pool, by its address.
    pool: usize,
    lapses_at: Moment,
}

impl Group {
    /// An empty group; `None`: no limit.
    #[must_use]
    pub fn new(limit: Option<u32>) -> Group {
        Group {
            count: AtomicU32::new(0),
            limit: AtomicU32::new(limit.unwrap_or(u32::MAX)),
            is_claimed: AtomicBool::new(false),
            claim: Mutex::default(),
        }
    }

    /// Servers in it.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.count.load(Ordering::Relaxed)
    }

    /// Changes the limit; servers beyond it stay until they are released.
    pub fn set_limit(&self, limit: Option<u32>) {
        self.limit.store(limit.unwrap_or(u32::MAX), Ordering::Relaxed);
    }

    /// Whether it has more servers than it may have.
    #[must_use]
    pub fn is_over(&self, extra: u32) -> bool {
        self.count() > self.limit.load(Ordering::Relaxed).saturating_add(extra)
    }

    /// Whether nothing more fits in.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.count() >= self.limit.load(Ordering::Relaxed)
    }

    /// Keeps the next place for a pool, for a moment. The first claim stands.
    pub(crate) fn claim(&self, pool: &Pool, now: Moment) {
        let mut claim = lock(&self.claim);
        if claim.as_ref().is_none_or(|other| other.pool == address(pool) || other.lapses_at <= now) {
            *claim = Some(Claim { pool: address(pool), lapses_at: now + CLAIM });
            self.is_claimed.store(true, Ordering::Relaxed);
        }
    }

    /// Whether the next place is kept for another pool.
    #[inline]
    pub(crate) fn is_kept_from(&self, pool: &Pool, now: Moment) -> bool {
        self.is_claimed.load(Ordering::Relaxed)
            && lock(&self.claim)
                .as_ref()
                .is_some_and(|claim| claim.pool != address(pool) && claim.lapses_at > now)
    }

    fn claim_met(&self, pool: &Pool) {
        if self.is_claimed.load(Ordering::Relaxed) {
            let mut claim = lock(&self.claim);
            if claim.as_ref().is_some_and(|claim| claim.pool == address(pool)) {
                *claim = None;
                self.is_claimed.store(false, Ordering::Relaxed);
            }
        }
    }

    fn enter(&self, extra: u32) -> bool {
        let limit = self.limit.load(Ordering::Relaxed).saturating_add(extra);
        let one_more = |count| (count < limit).then(|| count + 1);
        self.count.fetch_update(Ordering::AcqRel, Ordering::Relaxed, one_more).is_ok()
    }

    /// Leaves if at least `minimum` stay; whether it left.
    fn leave_above(&self, minimum: u32) -> bool {
        let one_less = |count| (count > minimum).then(|| count - 1);
        self.count.fetch_update(Ordering::AcqRel, Ordering::Relaxed, one_less).is_ok()
    }

    /// Leaves if there are more than there may be; whether it left.
    fn leave_if_over(&self, extra: u32) -> bool {
        self.is_over(extra) && self.leave_above(self.limit.load(Ordering::Relaxed).saturating_add(extra))
    }

    fn leave(&self) {
        self.count.fetch_sub(1, Ordering::AcqRel);
    }
}

/// The right to have one server: a place in its pool, its database and its user.
///
/// A server is closed because there are too many, or because it is idle, only once its place was given up: several
/// workers look at the same count at the same moment, and each server closed has to be one of those too many.
#[derive(Debug)]
pub struct Permit {
    pool: Arc<Pool>,
    /// The place that was given up already; the server is being closed.
    left: Option<Place>,
}

/// Which of its groups a permit left before its server was closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Pool,
    Database,
    User,
}

impl Permit {
    /// Takes a place everywhere or nowhere; in the pool up to `extra` beyond its size.
    pub(crate) fn take(pool: &Arc<Pool>, extra: u32) -> Option<Permit> {
        if !pool.size.enter(extra) {
            return None;
        }
        if !pool.database.enter(0) {
            pool.size.leave();
            return None;
        }
        if !pool.user.enter(0) {
            pool.database.leave();
            pool.size.leave();
            return None;
        }
        pool.database.claim_met(pool);
        pool.user.claim_met(pool);
        Some(Permit { pool: pool.clone(), left: None })
    }

    /// The pool in which it is a place.
    pub(crate) fn pool(&self) -> &Arc<Pool> {
        &self.pool
    }

    /// Gives up the place in the pool if at least `minimum` servers stay in it. Whether the server is to be closed.
    pub(crate) fn give_up_above(&mut self, minimum: u32) -> bool {
        if self.left.is_none() && self.pool.size.leave_above(minimum) {
            self.left = Some(Place::Pool);
        }
        self.left.is_some()
    }

    /// Gives up a place where there are more servers than there may be: in the pool beyond its size by more than `extra`,
    /// in its database, of its user. Whether the server is to be closed.
    #[inline]
    pub(crate) fn give_up_surplus(&mut self, extra: u32) -> bool {
        if self.left.is_none() {
            self.left = if self.pool.size.leave_if_over(extra) {
                Some(Place::Pool)
            } else if self.pool.database.leave_if_over(0) {
                Some(Place::Database)
            } else if self.pool.user.leave_if_over(0) {
                Some(Place::User)
            } else {
                None
            };
        }
        self.left.is_some()
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let groups = [
            (Place::Pool, &self.pool.size),
            (Place::Database, &self.pool.database),
            (Place::User, &self.pool.user),
        ];
        groups
            .into_iter()
            .filter(|(place, _)| self.left != Some(*place))
            .for_each(|(_, group)| group.leave());
    }
}

fn address(pool: &Pool) -> usize {
    std::ptr::from_ref(pool) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_is_exact_over_threads() {
        let group = Group::new(Some(100));
        let entered: usize = std::thread::scope(|scope| {
            let tasks: Vec<_> =
                (0..8).map(|_| scope.spawn(|| (0..100).filter(|_| group.enter(0)).count())).collect();
            tasks.into_iter().map(|task| task.join().unwrap()).sum()
        });
        assert_eq!((entered, group.count()), (100, 100));
        assert!(group.is_full() && !group.is_over(0));
        assert!(group.enter(1) && !group.enter(1));
        assert!(group.is_over(0) && !group.is_over(1));
    }

    #[test]
    fn exactly_the_surplus_leaves_over_threads() {
        let group = Group::new(None);
        (0..100).for_each(|_| assert!(group.enter(0)));
        group.set_limit(Some(30));
        let left: usize = std::thread::scope(|scope| {
            let leave = || (0..100).filter(|_| group.leave_if_over(5)).count();
            let tasks: Vec<_> = (0..8).map(|_| scope.spawn(leave)).collect();
            tasks.into_iter().map(|task| task.join().unwrap()).sum()
        });
        assert_eq!((left, group.count()), (65, 35));
    }
}
