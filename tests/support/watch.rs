//! What tests look at while pgvalet works: the tables of its admin console, and PostgreSQL's own view of its sessions.
//!
//! Included by the test binaries that need it. All of them use the pool of [`Role::Trust`] in [`DATABASE`].

#![allow(dead_code, reason = "each test binary uses only a part of this")]
#![allow(missing_docs, reason = "as in the rest of the harness")]

use std::collections::HashSet;

use crate::support::backend::{Message, first_error};
use crate::support::cluster::{Cluster, DATABASE, Role};
use crate::support::pgvalet::{Builder, Pgvalet};
use crate::support::wire::{Client, Login};
use crate::support::{eventually, frontend};

/// A pgvalet with one worker that asks nobody for a password, so that only what a test is about takes time.
pub fn trusting(cluster: &Cluster, pool_size: usize) -> Builder {
    Pgvalet::in_front_of(cluster)
        .setting("auth_type = \"trust\"")
        .setting("admin_users = [\"postgres\"]")
        .setting("workers = 1")
        .setting(&format!("default_pool_size = {pool_size}"))
}

/// A session on the admin console.
#[derive(Debug)]
pub struct Console(Client);

impl Console {
    pub fn open(valet: &Pgvalet) -> Self {
        Self(valet.login(&Login::new("postgres", "pgvalet")))
    }

    /// A counter of SHOW COUNTERS for the database `app`.
    #[track_caller]
    pub fn stat(&mut self, counter: &str) -> u64 {
        self.number("SHOW COUNTERS", &[DATABASE], counter)
    }

    /// A number of SHOW POOLS for the pool of the tests.
    #[track_caller]
    pub fn pool(&mut self, column: &str) -> u64 {
        self.number("SHOW POOLS", &[DATABASE, Role::Trust.name()], column)
    }

    #[track_caller]
    pub fn wait_pool(&mut self, column: &str, number: u64) {
        eventually(&format!("{column} to be {number}"), || (self.pool(column) == number).then_some(()));
    }

    #[track_caller]
    pub fn wait_stat(&mut self, counter: &str, at_least: u64) {
        eventually(&format!("{counter} to reach {at_least}"), || {
            (self.stat(counter) >= at_least).then_some(())
        });
    }

    /// A column of a table.
    #[track_caller]
    pub fn column(&mut self, table: &str, column: &str) -> Vec<String> {
        let messages = self.0.query(table);
        let columns = messages.iter().find_map(Message::columns).expect("a table has columns");
        let at = columns.iter().position(|name| name == column).expect("the column is there");
        let rows = crate::support::backend::rows(&messages);
        rows.into_iter().map(|mut row| row.swap_remove(at).unwrap_or_default()).collect()
    }

    /// The number in `column` of the row whose first columns are `key`; 0 if there is no such row yet.
    #[track_caller]
    fn number(&mut self, table: &str, key: &[&str], column: &str) -> u64 {
        let messages = self.0.query(table);
        let columns = messages.iter().find_map(Message::columns).expect("a table has columns");
        let at = columns
            .iter()
            .position(|name| name == column)
            .unwrap_or_else(|| panic!("{column} in {columns:?}"));
        let rows = crate::support::backend::rows(&messages);
        let row =
            rows.iter().find(|row| row.iter().zip(key).all(|(value, key)| value.as_deref() == Some(key)));
        row.map_or(0, |row| row[at].as_deref().unwrap_or("").parse().expect("a number"))
    }
}

/// Shows that nothing has leaked: the pool can lend all its servers at once, each to a client in a clean state.
#[track_caller]
pub fn assert_whole(valet: &Pgvalet, pool_size: usize) {
    let mut clients: Vec<Client> = (0..pool_size).map(|_| valet.client(Role::Trust)).collect();
    let mut servers = HashSet::new();
    for client in &mut clients {
        assert_eq!(first_error(&client.query("BEGIN")), None);
        servers.insert(client.value("SELECT pg_backend_pid()"));
    }
    assert_eq!(servers.len(), pool_size, "servers that can be lent at once");
    for client in &mut clients {
        let last = client.query("COMMIT").pop().and_then(|message| message.ready());
        assert_eq!(last, Some('I'));
    }
}

/// Waits until PostgreSQL has as many sessions of the pool as `count` that meet an SQL condition.
#[track_caller]
pub fn wait_sessions(cluster: &Cluster, condition: &str, count: usize) {
    let sql = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE usename = '{}' AND application_name <> 'watch' AND ({condition})",
        Role::Trust.name()
    );
    eventually(&format!("{count} sessions with {condition}"), || {
        (cluster.value(&sql) == count.to_string()).then_some(())
    });
}

/// Holds one advisory lock in PostgreSQL, for statements of a test to stop at.
#[derive(Debug)]
pub struct Barrier {
    holder: Client,
    number: u32,
}

impl Barrier {
    pub fn close(cluster: &Cluster, number: u32) -> Self {
        let mut holder = cluster.client(Role::Postgres);
        holder.rows(&format!("SELECT pg_advisory_lock({number})"));
        Self { holder, number }
    }

    /// SQL that goes on only when the barrier has been opened; its lock is gone with its transaction.
    pub fn sql(&self) -> String {
        format!("SELECT pg_advisory_xact_lock_shared({})", self.number)
    }

    /// Waits until a statement stands at the barrier.
    #[track_caller]
    pub fn wait_reached(&mut self) {
        let sql = format!(
            "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = {} AND NOT granted",
            self.number
        );
        eventually("a statement to reach the barrier", || (self.holder.value(&sql) != "0").then_some(()));
    }

    pub fn open(mut self) {
        self.holder.rows("SELECT pg_advisory_unlock_all()");
        self.holder.send(&frontend::terminate());
    }
}
