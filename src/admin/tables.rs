//! The tables that SHOW gives.

use crate::config::PoolMode;
use crate::metrics::PoolCounters;
use crate::pool::Registry;
use crate::protocol::backend;
use crate::session::Footprint;
use bytes::BytesMut;
use std::collections::BTreeMap;

const TEXT: u32 = 25;
const INT8: u32 = 20;

/// A result of text and whole numbers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Table {
    columns: Vec<(&'static str, u32)>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// One row of one column.
    #[must_use]
    pub fn single(column: &'static str, value: &str) -> Table {
        Table { columns: vec![(column, TEXT)], rows: vec![vec![value.to_owned()]] }
    }

    /// Appends RowDescription and DataRows.
    pub fn write(&self, out: &mut BytesMut) {
        backend::row_description(out, self.columns.iter().copied());
        for row in &self.rows {
            backend::data_row(out, row.iter().map(|value| Some(value.as_str())));
        }
    }
}

/// SHOW STATS: counters since the start, by database.
#[must_use]
pub fn stats(registry: &Registry) -> Table {
    let mut by_database: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for pool in registry.pools() {
        let sums = by_database
            .entry(pool.key.database.to_string())
            .or_insert_with(|| vec![0; PoolCounters::NAMES.len()]);
        for branch in &pool.branches {
            for (sum, value) in sums.iter_mut().zip(branch.counters.values()) {
                *sum = sum.wrapping_add(value);
            }
        }
    }
    let mut columns = vec![("database", TEXT)];
    columns.extend(PoolCounters::NAMES.iter().map(|name| (*name, INT8)));
    let rows = by_database
        .into_iter()
        .map(|(database, sums)| std::iter::once(database).chain(sums.iter().map(u64::to_string)).collect())
        .collect();
    Table { columns, rows }
}

/// SHOW POOLS: what each pool looks like now.
#[must_use]
pub fn pools(registry: &Registry) -> Table {
    let columns = vec![
        ("database", TEXT),
        ("user", TEXT),
        ("cl_waiting", INT8),
        ("sv_active", INT8),
        ("sv_idle", INT8),
        ("maxwait", INT8),
        ("maxwait_us", INT8),
        ("pool_mode", TEXT),
    ];
    let row = |pool: std::sync::Arc<crate::pool::Pool>| {
        let status = pool.status();
        let mode = match pool.policy().mode {
            PoolMode::Session => "session",
            PoolMode::Transaction => "transaction",
            PoolMode::Statement => "statement",
        };
        vec![
            pool.key.database.to_string(),
            pool.key.user.to_string(),
            status.waiting.to_string(),
            status.servers.saturating_sub(status.idle).to_string(),
            status.idle.to_string(),
            status.oldest_wait.as_secs().to_string(),
            status.oldest_wait.subsec_micros().to_string(),
            mode.to_owned(),
        ]
    };
    Table { columns, rows: registry.pools().into_iter().map(row).collect() }
}

/// SHOW RESETS: how often each kind of state made a reset necessary, by database.
#[must_use]
pub fn resets(registry: &Registry) -> Table {
    let mut counts: BTreeMap<(String, usize), u64> = BTreeMap::new();
    for pool in registry.pools() {
        for index in 0..Footprint::ALL_REASONS.len() {
            let count: u64 = pool.branches.iter().map(|branch| branch.reset_reasons.get(index)).sum();
            *counts.entry((pool.key.database.to_string(), index)).or_default() += count;
        }
    }
    let rows = counts
        .into_iter()
        .filter(|(_, count)| *count > 0)
        .map(|((database, index), count)| {
            vec![database, Footprint::ALL_REASONS[index].to_owned(), count.to_string()]
        })
        .collect();
    Table { columns: vec![("database", TEXT), ("reason", TEXT), ("resets", INT8)], rows }
}

/// SHOW WORKERS: clients by worker.
#[must_use]
pub fn workers(loads: &[u32]) -> Table {
    let rows =
        loads.iter().enumerate().map(|(worker, load)| vec![worker.to_string(), load.to_string()]).collect();
    Table { columns: vec![("worker", INT8), ("clients", INT8)], rows }
}
