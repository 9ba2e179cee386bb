//! Counters: STATS, STATS_TOTALS, STATS_AVERAGES, TOTALS; of pgvalet's own COUNTERS, PINS and RESETS.

use crate::admin::averages::{ByDatabase, Sums, sums};
use crate::admin::table::{Column, Row, Type};
use crate::admin::{Admin, CONSOLE};
use crate::metrics::{PoolCounters, ResetReasons, WorkerStats};
use crate::session::Footprint;
use Type::{Int8, Numeric, Text};
use std::collections::BTreeMap;
use std::sync::Arc;

pub(super) const STATS: &[Column] = &[
    ("database", Text),
    ("total_server_assignment_count", Numeric),
    ("total_xact_count", Numeric),
    ("total_query_count", Numeric),
    ("total_received", Numeric),
    ("total_sent", Numeric),
    ("total_xact_time", Numeric),
    ("total_query_time", Numeric),
    ("total_wait_time", Numeric),
    ("total_client_parse_count", Numeric),
    ("total_server_parse_count", Numeric),
    ("total_bind_count", Numeric),
    ("total_client_login_count", Numeric),
    ("avg_server_assignment_count", Numeric),
    ("avg_xact_count", Numeric),
    ("avg_query_count", Numeric),
    ("avg_recv", Numeric),
    ("avg_sent", Numeric),
    ("avg_xact_time", Numeric),
    ("avg_query_time", Numeric),
    ("avg_wait_time", Numeric),
    ("avg_client_parse_count", Numeric),
    ("avg_server_parse_count", Numeric),
    ("avg_bind_count", Numeric),
    ("avg_client_login_count", Numeric),
];

pub(super) const STATS_TOTALS: &[Column] = &[
    ("database", Text),
    ("server_assignment_count", Numeric),
    ("xact_count", Numeric),
    ("query_count", Numeric),
    ("bytes_received", Numeric),
    ("bytes_sent", Numeric),
    ("xact_time", Numeric),
    ("query_time", Numeric),
    ("wait_time", Numeric),
    ("client_parse_count", Numeric),
    ("server_parse_count", Numeric),
    ("bind_count", Numeric),
    ("client_login_count", Numeric),
];

pub(super) const STATS_AVERAGES: &[Column] = &[
    ("database", Text),
    ("server_assignment_count", Numeric),
    ("xact_count", Numeric),
    ("query_count", Numeric),
    ("bytes_received", Numeric),
    ("bytes_sent", Numeric),
    ("xact_time", Numeric),
    ("query_time", Numeric),
    ("wait_time", Numeric),
    ("avg_client_parse_count", Numeric),
    ("avg_server_parse_count", Numeric),
    ("avg_bind_count", Numeric),
    ("avg_client_login_count", Numeric),
];

pub(super) const TOTALS: &[Column] = &[("name", Text), ("value", Numeric)];

/// The names in TOTALS, behind `total_` and `avg_`.
const TOTAL_NAMES: [&str; 12] = [
    "server_assignment_count",
    "xact_count",
    "query_count",
    "client_bytes",
    "server_bytes",
    "xact_time",
    "query_time",
    "wait_time",
    "ps_client_parse_count",
    "ps_server_parse_count",
    "ps_bind_count",
    "client_login_count",
];

pub(super) const COUNTERS: &[Column] = &counters();
pub(super) const PINS: &[Column] = &[("database", Text), ("reason", Text), ("pins", Int8)];
pub(super) const RESETS: &[Column] = &[("database", Text), ("reason", Text), ("resets", Int8)];

/// `database`, and every counter that there is.
const fn counters() -> [Column; PoolCounters::NAMES.len() + 1] {
    let mut columns = [("database", Text); PoolCounters::NAMES.len() + 1];
    let mut at = 0;
    while at < PoolCounters::NAMES.len() {
        columns[at + 1] = (PoolCounters::NAMES[at], Int8);
        at += 1;
    }
    columns
}

impl Admin {
    /// The counters of all databases; the console, which has no counters, has a row of its own.
    fn sums(&self) -> ByDatabase {
        let mut sums = sums(&self.registry);
        sums.insert(CONSOLE.into(), Sums::default());
        sums
    }

    pub(super) fn stats(&self) -> Vec<Row> {
        let sums = self.sums();
        let averages = self.averages.of(&sums);
        let row = |(name, sums): (&Arc<str>, &Sums)| {
            let averages = averages.get(name).copied().unwrap_or_default();
            let name = std::iter::once((**name).into());
            name.chain(sums.values().map(Into::into)).chain(averages.values().map(Into::into)).collect()
        };
        sums.iter().map(row).collect()
    }

    pub(super) fn stats_totals(&self) -> Vec<Row> {
        rows(&self.sums())
    }

    pub(super) fn stats_averages(&self) -> Vec<Row> {
        rows(&self.averages.of(&self.sums()))
    }

    pub(super) fn totals(&self) -> Vec<Row> {
        let add = |all: &ByDatabase| all.values().fold(Sums::default(), |sum, more| sum.plus(more));
        let (totals, averages) = (add(&self.sums()), self.averages.overall(&self.sums()));
        let rows = |prefix: &'static str, sums: Sums| {
            let rows = TOTAL_NAMES.into_iter().zip(sums.values());
            rows.map(move |(name, value)| vec![format!("{prefix}_{name}").into(), value.into()])
        };
        rows("total", totals).chain(rows("avg", averages)).collect()
    }

    /// The averages over all databases in one line, as pgbouncer logs them.
    #[must_use]
    pub fn stats_line(&self) -> String {
        let Sums {
            assignments: _,
            transactions,
            queries,
            received,
            sent,
            transaction_us,
            query_us,
            wait_us,
            client_parses,
            server_parses,
            binds,
            logins,
        } = self.averages.overall(&sums(&self.registry));
        format!(
            "stats: {transactions} xacts/s, {queries} queries/s, {client_parses} client parses/s, {server_parses} server parses/s, \
             {binds} binds/s, {logins} client logins/s, in {received} B/s, out {sent} B/s, xact {transaction_us} us, \
             query {query_us} us, wait {wait_us} us"
        )
    }

    pub(super) fn counters(&self) -> Vec<Row> {
        let mut by_database: BTreeMap<Arc<str>, Vec<u64>> = BTreeMap::new();
        for pool in self.registry.pools() {
            let none = || vec![0; PoolCounters::NAMES.len()];
            let sums = by_database.entry(pool.key.database.clone()).or_insert_with(none);
            for stats in &*pool.stats {
                let values = stats.counters.values();
                sums.iter_mut().zip(values).for_each(|(sum, value)| *sum = sum.wrapping_add(value));
            }
        }
        let row = |(database, sums): (Arc<str>, Vec<u64>)| {
            std::iter::once((*database).into()).chain(sums.into_iter().map(Into::into)).collect()
        };
        by_database.into_iter().map(row).collect()
    }

    /// How often each reason was counted, by database.
    pub(super) fn reasons(&self, of: impl Fn(&WorkerStats) -> &ResetReasons) -> Vec<Row> {
        let mut counts: BTreeMap<(Arc<str>, usize), u64> = BTreeMap::new();
        for pool in self.registry.pools() {
            for index in 0..Footprint::ALL_REASONS.len() {
                let count: u64 = pool.stats.iter().map(|stats| of(stats).get(index)).sum();
                *counts.entry((pool.key.database.clone(), index)).or_default() += count;
            }
        }
        let happened = counts.into_iter().filter(|(_, count)| *count > 0);
        happened
            .map(|((database, index), count)| {
                vec![(*database).into(), Footprint::ALL_REASONS[index].into(), count.into()]
            })
            .collect()
    }
}

fn rows(sums: &ByDatabase) -> Vec<Row> {
    let row = |(name, sums): (&Arc<str>, &Sums)| {
        std::iter::once((**name).into()).chain(sums.values().map(Into::into)).collect()
    };
    sums.iter().map(row).collect()
}
