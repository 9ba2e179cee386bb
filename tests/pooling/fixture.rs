//! What the tests of pools and of limits share: pgvalet with servers that can be told from everybody else's, its admin
//! console as a table of numbers, and a look at PostgreSQL past pgvalet.

#![allow(dead_code, reason = "each test binary uses only a part of this")]

use std::collections::{BTreeMap, BTreeSet};

use crate::support::backend::{self, Message};
use crate::support::cluster::{Cluster, DATABASE, PASSWORD, Role};
use crate::support::eventually;
use crate::support::pgvalet::{Builder, Pgvalet};
use crate::support::wire::{Client, Login};

/// pgvalet with the database `app` of the shared cluster, which lets everybody in. Its servers call themselves `tag`.
pub fn valet(tag: &str, database: &[&str]) -> Builder {
    open_house().database(DATABASE, Cluster::shared(), &[&[&*marked(tag)], database].concat())
}

/// pgvalet without a database, which lets everybody in.
pub fn open_house() -> Builder {
    open_house_with(&[])
}

/// The same, with overrides for the user `postgres`.
pub fn open_house_with(postgres: &[&str]) -> Builder {
    let house = Pgvalet::builder()
        .setting("workers = 4")
        .setting("auth_type = \"trust\"")
        .setting("admin_users = [\"postgres\"]")
        .user(Role::Postgres.name(), PASSWORD, postgres);
    let others = Role::ALL.iter().filter(|role| **role != Role::Postgres);
    others.fold(house, |builder, role| builder.user(role.name(), PASSWORD, &[]))
}

/// The line of a database whose servers call themselves `tag`.
pub fn marked(tag: &str) -> String {
    format!("application_name = \"{tag}\"")
}

/// A session of the admin console.
#[derive(Debug)]
pub struct Console(Client);

/// A row of a SHOW table, by column.
pub type Row = BTreeMap<String, String>;

impl Console {
    pub fn of(valet: &Pgvalet) -> Self {
        Self(valet.login(&Login::new(Role::Postgres.name(), "pgvalet").password(PASSWORD)))
    }

    /// The rows of a SHOW table, without the console's own.
    pub fn show(&mut self, what: &str) -> Vec<Row> {
        let messages = self.0.query(&format!("SHOW {what}"));
        let columns = messages.iter().find_map(Message::columns).expect("a SHOW has columns");
        let row = |values: Vec<Option<String>>| {
            columns.iter().cloned().zip(values.into_iter().map(Option::unwrap_or_default)).collect()
        };
        let rows = backend::rows(&messages).into_iter().map(row);
        rows.filter(|row: &Row| row.get("database").is_none_or(|name| name != "pgbouncer")).collect()
    }

    /// Servers that are at work, for clients or for pgvalet itself.
    pub fn busy(&mut self) -> u64 {
        let columns = ["sv_active", "sv_tested", "sv_login", "sv_being_canceled"];
        let pools = self.show("POOLS");
        pools.iter().flat_map(|row| columns.map(|column| number(row, column))).sum()
    }

    /// A counter of SHOW COUNTERS, over all databases.
    pub fn stat(&mut self, counter: &str) -> u64 {
        self.show("COUNTERS").iter().map(|row| number(row, counter)).sum()
    }

    /// A number of SHOW POOLS, over all pools.
    pub fn pools(&mut self, column: &str) -> u64 {
        self.show("POOLS").iter().map(|row| number(row, column)).sum()
    }

    /// Clients of all workers, this console included.
    pub fn clients(&mut self) -> u64 {
        self.show("WORKERS").iter().map(|row| number(row, "clients")).sum()
    }

    /// Waits until so many clients are in line.
    #[track_caller]
    pub fn wait_for_waiting(&mut self, count: u64) {
        eventually(&format!("{count} clients in line"), || (self.pools("cl_waiting") == count).then_some(()));
    }

    /// Waits until so many servers are idle.
    #[track_caller]
    pub fn wait_for_idle_servers(&mut self, count: u64) {
        eventually(&format!("{count} idle servers"), || (self.pools("sv_idle") == count).then_some(()));
    }

    /// Waits until a counter of SHOW COUNTERS is at least `least`.
    #[track_caller]
    pub fn wait_for_stat(&mut self, counter: &str, least: u64) -> u64 {
        eventually(&format!("{counter} of at least {least}"), || {
            let now = self.stat(counter);
            (now >= least).then_some(now)
        })
    }

    /// Waits until nothing is in use: nobody in line, every server idle and at most `servers` of them, and beside this
    /// console only `clients` clients.
    #[track_caller]
    pub fn wait_for_rest(&mut self, clients: u64, servers: u64) {
        let mut state = (0, 0, 0, 0);
        let at_rest = crate::support::within(crate::support::DEADLINE, || {
            state = (
                self.pools("cl_waiting"),
                self.busy(),
                self.pools("sv_idle"),
                self.clients().saturating_sub(1),
            );
            (state.0 == 0 && state.1 == 0 && state.2 <= servers && state.3 == clients).then_some(())
        });
        assert!(at_rest.is_some(), "something leaked: (waiting, active, idle, clients) are {state:?}");
    }
}

/// A column as a number.
pub fn number(row: &Row, column: &str) -> u64 {
    row.get(column).unwrap_or_else(|| panic!("no {column} in {row:?}")).parse().expect("a number")
}

/// A direct session that sees the backends of the servers that call themselves `tag`.
#[derive(Debug)]
pub struct Watch {
    client: Client,
    tag: String,
}

impl Watch {
    pub fn new(tag: &str) -> Self {
        Self::on(Cluster::shared(), tag)
    }

    pub fn on(cluster: &Cluster, tag: &str) -> Self {
        Self { client: cluster.client(Role::Postgres), tag: tag.into() }
    }

    /// Process ids of the backends.
    pub fn pids(&mut self) -> BTreeSet<String> {
        self.select("pid", "true").into_iter().collect()
    }

    pub fn count(&mut self) -> usize {
        self.pids().len()
    }

    /// Waits until there are exactly so many backends.
    #[track_caller]
    pub fn wait_for(&mut self, count: usize) -> BTreeSet<String> {
        let what = format!("{count} backends of {}", self.tag);
        eventually(&what, || Some(self.pids()).filter(|pids| pids.len() == count))
    }

    /// Waits until no backend works or holds a transaction open.
    #[track_caller]
    pub fn wait_for_idle(&mut self) {
        eventually("all backends to be idle", || {
            self.select("pid", "state <> 'idle'").is_empty().then_some(())
        });
    }

    /// Waits until exactly so many backends run `query`.
    #[track_caller]
    pub fn wait_for_running(&mut self, query: &str, count: usize) {
        let condition = format!("state = 'active' AND query = '{}'", query.replace('\'', "''"));
        eventually(&format!("{count} backends that run {query}"), || {
            (self.select("pid", &condition).len() == count).then_some(())
        });
    }

    fn select(&mut self, column: &str, condition: &str) -> Vec<String> {
        let sql = format!(
            "SELECT {column} FROM pg_stat_activity WHERE application_name = '{}' AND {condition}",
            self.tag
        );
        self.client.rows(&sql).into_iter().filter_map(|mut row| row.pop().flatten()).collect()
    }
}

/// The process id of the backend that serves the client just now.
#[track_caller]
pub fn pid(client: &mut Client) -> String {
    client.value("SELECT pg_backend_pid()")
}

/// The message of the first error among some messages.
pub fn error_text(messages: &[Message]) -> String {
    let error = messages.iter().find(|message| message.tag == b'E').expect("an error");
    let field = |kind| error.field(kind).unwrap_or_default();
    format!("{}: {} {} {}", field(b'S'), field(b'C'), field(b'M'), field(b'H'))
}
