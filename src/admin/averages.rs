//! The counters of SHOW STATS, and their averages over time.
//!
//! As in pgbouncer, an average is over what happened since the period before last ended: between one and two
//! `stats_period`s.

use crate::metrics::{Distribution, WorkerStats};
use crate::pool::{Pool, Registry};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The counters of one database, summed over its pools and all workers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sums {
    /// Times a server was given to a client.
    pub assignments: u64,
    /// Transactions.
    pub transactions: u64,
    /// Queries.
    pub queries: u64,
    /// Bytes from clients.
    pub received: u64,
    /// Bytes to clients.
    pub sent: u64,
    /// Microseconds in transactions.
    pub transaction_us: u64,
    /// Microseconds in queries.
    pub query_us: u64,
    /// Microseconds that clients waited.
    pub wait_us: u64,
    /// Parse messages from clients.
    pub client_parses: u64,
    /// Parse messages to servers.
    pub server_parses: u64,
    /// Bind messages.
    pub binds: u64,
    /// Logins.
    pub logins: u64,
}

impl Sums {
    fn add(&mut self, stats: &WorkerStats) {
        let counters = &stats.counters;
        self.assignments += counters.leases.get();
        self.transactions += counters.transactions.get();
        self.queries += counters.queries.get();
        self.received += counters.received.get();
        self.sent += counters.sent.get();
        self.transaction_us += stats.transaction_times.sum_us();
        self.query_us += stats.query_times.sum_us();
        self.wait_us += stats.wait_times.sum_us();
        self.client_parses += counters.client_parses.get();
        self.server_parses += counters.server_parses.get();
        self.binds += counters.binds.get();
        self.logins += counters.logins.get();
    }

    /// The counters in the order of the tables.
    #[must_use]
    pub fn values(&self) -> [u64; 12] {
        [
            self.assignments,
            self.transactions,
            self.queries,
            self.received,
            self.sent,
            self.transaction_us,
            self.query_us,
            self.wait_us,
            self.client_parses,
            self.server_parses,
            self.binds,
            self.logins,
        ]
    }

    /// The sum of both.
    #[must_use]
    pub fn plus(&self, other: &Sums) -> Sums {
        self.each(other, u64::wrapping_add)
    }

    /// What was added since `before`, by second; times for each transaction, query, or server given.
    #[must_use]
    pub fn averages(&self, before: &Sums, elapsed: Duration) -> Sums {
        let more = self.each(before, u64::saturating_sub);
        let us = elapsed.as_micros().max(1);
        let rate = |count: u64| (u128::from(count) * 1_000_000 / us) as u64;
        Sums {
            transaction_us: more.transaction_us.checked_div(more.transactions).unwrap_or(0),
            query_us: more.query_us.checked_div(more.queries).unwrap_or(0),
            wait_us: more.wait_us.checked_div(more.assignments).unwrap_or(0),
            ..more.each(&more, |count, _| rate(count))
        }
    }

    fn each(&self, other: &Sums, f: impl Fn(u64, u64) -> u64) -> Sums {
        Sums {
            assignments: f(self.assignments, other.assignments),
            transactions: f(self.transactions, other.transactions),
            queries: f(self.queries, other.queries),
            received: f(self.received, other.received),
            sent: f(self.sent, other.sent),
            transaction_us: f(self.transaction_us, other.transaction_us),
            query_us: f(self.query_us, other.query_us),
            wait_us: f(self.wait_us, other.wait_us),
            client_parses: f(self.client_parses, other.client_parses),
            server_parses: f(self.server_parses, other.server_parses),
            binds: f(self.binds, other.binds),
            logins: f(self.logins, other.logins),
        }
    }
}

/// The sums of every database with a pool.
pub type ByDatabase = BTreeMap<Arc<str>, Sums>;

/// The counters as they are now.
#[must_use]
pub fn sums(registry: &Registry) -> ByDatabase {
    let mut sums = ByDatabase::new();
    for pool in registry.pools() {
        let sum = sums.entry(pool.key.database.clone()).or_default();
        pool.stats.iter().for_each(|stats| sum.add(stats));
    }
    sums
}

/// A kind of durations of a pool, over all workers.
#[must_use]
pub fn distribution(pool: &Pool, of: impl Fn(&WorkerStats) -> &crate::metrics::Histogram) -> Distribution {
    let mut distribution = Distribution::default();
    pool.stats.iter().for_each(|stats| of(stats).add_to(&mut distribution));
    distribution
}

/// The counters at the ends of the last two periods.
#[derive(Debug)]
pub struct Averages(Mutex<[(Instant, ByDatabase); 2]>);

impl Default for Averages {
    fn default() -> Averages {
        let now = Instant::now();
        Averages(Mutex::new([(now, ByDatabase::new()), (now, ByDatabase::new())]))
    }
}

impl Averages {
    /// Ends a period.
    pub fn tick(&self, registry: &Registry) {
        let now = (Instant::now(), sums(registry));
        let mut periods = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        periods.swap(0, 1);
        periods[1] = now;
    }

    /// What all databases together come to by second.
    #[must_use]
    pub fn overall(&self, current: &ByDatabase) -> Sums {
        let periods = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (since, before) = &periods[0];
        let add = |all: &ByDatabase| all.values().fold(Sums::default(), |sum, more| sum.plus(more));
        add(current).averages(&add(before), since.elapsed())
    }

    /// What each database's `current` comes to by second.
    #[must_use]
    pub fn of(&self, current: &ByDatabase) -> ByDatabase {
        let periods = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (since, before) = &periods[0];
        let elapsed = since.elapsed();
        let average = |(name, sums): (&Arc<str>, &Sums)| {
            let before = before.get(name).copied().unwrap_or_default();
            (name.clone(), sums.averages(&before, elapsed))
        };
        current.iter().map(average).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn averages_are_by_second_and_times_by_what_took_them() {
        let before = Sums { queries: 100, query_us: 5_000, transactions: 50, received: 7, ..Sums::default() };
        let now = Sums {
            queries: 300,
            query_us: 25_000,
            transactions: 150,
            transaction_us: 900,
            assignments: 4,
            wait_us: 10,
            received: 7,
            ..before
        };
        let averages = now.averages(&before, Duration::from_secs(10));
        assert_eq!((averages.queries, averages.query_us), (20, 100));
        assert_eq!((averages.transactions, averages.transaction_us), (10, 9));
        assert_eq!((averages.assignments, averages.wait_us, averages.received), (0, 2, 0));
        assert_eq!(
            before.averages(&now, Duration::ZERO).queries,
            0,
            "counters that went back are no average"
        );
    }
}
