//! What belongs together: POOLS, DATABASES, USERS, LISTS, STATE; of pgvalet's own WORKERS.

use crate::admin::table::{Column, Row, Type, Value};
use crate::admin::{Admin, CONSOLE};
use crate::config::{Config, Database, Host, LoadBalance, PoolMode, resolve};
use crate::pool::{Duty, Pool};
use Type::{Int4, Text};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

pub(super) const POOLS: &[Column] = &[
    ("database", Text),
    ("user", Text),
    ("cl_active", Int4),
    ("cl_waiting", Int4),
    ("cl_active_cancel_req", Int4),
    ("cl_waiting_cancel_req", Int4),
    ("sv_active", Int4),
    ("sv_active_cancel", Int4),
    ("sv_being_canceled", Int4),
    ("sv_idle", Int4),
    ("sv_used", Int4),
    ("sv_tested", Int4),
    ("sv_login", Int4),
    ("maxwait", Int4),
    ("maxwait_us", Int4),
    ("pool_mode", Text),
    ("load_balance_hosts", Text),
    // Not one of pgbouncer's.
    ("cl_pinned", Int4),
];

pub(super) const DATABASES: &[Column] = &[
    ("name", Text),
    ("host", Text),
    ("port", Int4),
    ("database", Text),
    ("force_user", Text),
    ("pool_size", Int4),
    ("min_pool_size", Int4),
    ("reserve_pool_size", Int4),
    ("server_lifetime", Int4),
    ("pool_mode", Text),
    ("load_balance_hosts", Text),
    ("max_connections", Int4),
    ("current_connections", Int4),
    ("max_client_connections", Int4),
    ("current_client_connections", Int4),
    ("paused", Int4),
    ("disabled", Int4),
];

pub(super) const USERS: &[Column] = &[
    ("name", Text),
    ("pool_size", Text),
    ("reserve_pool_size", Text),
    ("pool_mode", Text),
    ("max_user_connections", Int4),
    ("current_connections", Int4),
    ("max_user_client_connections", Int4),
    ("current_client_connections", Int4),
];

pub(super) const WORKERS: &[Column] =
    &[("worker", Int4), ("clients", Int4), ("cl_waiting", Int4), ("servers", Int4), ("sv_idle", Int4)];

/// The servers of a pool by what becomes of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Servers {
    /// Clients have them.
    pub active: u32,
    /// Nobody has them.
    pub idle: u32,
    /// They are being reset, checked or rolled back.
    pub tested: u32,
    /// They are being opened.
    pub login: u32,
    /// Cancel requests are on their way to them.
    pub being_canceled: u32,
    /// The cancel requests on their way.
    pub cancels: u32,
}

impl Servers {
    /// Counts the servers of a pool.
    #[must_use]
    pub fn of(pool: &Pool) -> Servers {
        let mut servers = Servers::default();
        let mut open = 0;
        pool.roster().for_each(|entry| {
            open += 1;
            let cancels = entry.cancels();
            servers.cancels += cancels;
            match entry.duty() {
                _ if cancels > 0 => servers.being_canceled += 1,
                Duty::Active => servers.active += 1,
                Duty::Idle => servers.idle += 1,
                Duty::Tested => servers.tested += 1,
            }
        });
        servers.login = pool.status().servers.saturating_sub(open);
        servers
    }
}

/// Logged-in clients of a pool.
pub(crate) fn clients_of(pool: &Pool) -> u32 {
    pool.stats.iter().fold(0, |sum, stats| sum.wrapping_add(stats.clients.get()))
}

impl Admin {
    pub(super) fn pools(&self) -> Vec<Row> {
        let mut rows: Vec<Row> = self.registry.pools().iter().map(|pool| pool_row(pool)).collect();
        let mut console: Row = vec![CONSOLE.into(), CONSOLE.into(), self.census.consoles().into()];
        console.extend(std::iter::repeat_n(Value::Number(0), POOLS.len() - 6));
        console.extend(["statement".into(), Value::Null, Value::Number(0)]);
        rows.push(console);
        rows
    }

    pub(super) fn databases(&self) -> Vec<Row> {
        let config = self.registry.config();
        let pools = self.registry.pools();
        let mut databases: BTreeMap<Arc<str>, Arc<Database>> = BTreeMap::new();
        for (name, database) in &config.databases {
            databases.insert(name.as_str().into(), database.clone());
        }
        // Those that `*` serves are there once somebody has asked for them.
        for pool in &pools {
            if let Some(database) = config.database(&pool.key.database) {
                databases.entry(pool.key.database.clone()).or_insert(database);
            }
        }
        let row = |(name, database): (&Arc<str>, &Arc<Database>)| {
            let own = || pools.iter().filter(|pool| pool.key.database == *name);
            let clients: u32 = own().map(|pool| clients_of(pool)).sum();
            let servers: u32 = own().map(|pool| pool.status().servers).sum();
            let dbname = database.dbname.as_deref().unwrap_or(name);
            vec![
                (**name).into(),
                hosts(&database.hosts).into(),
                u32::from(database.port).into(),
                dbname.into(),
                database.user.as_deref().into(),
                database.pool_size.unwrap_or(0).into(),
                database.min_pool_size.into(),
                database.reserve_pool_size.into(),
                database.server_lifetime.map_or(0, |limit| limit.as_secs()).into(),
                database.pool_mode.map(mode_name).into(),
                balance(&database.hosts, database.load_balance),
                database.max_db_connections.unwrap_or(0).into(),
                servers.into(),
                database.max_db_client_connections.unwrap_or(0).into(),
                clients.into(),
                self.registry.is_paused(name).into(),
                self.registry.is_disabled(name).into(),
            ]
        };
        let mut rows: Vec<Row> = databases.iter().map(row).collect();
        let zero = || Value::Number(0);
        let console = vec![
            CONSOLE.into(),
            Value::Null,
            u32::from(config.general.listen_port).into(),
            CONSOLE.into(),
            CONSOLE.into(),
            2u32.into(),
            zero(),
            zero(),
            config.general.server_lifetime.map_or(0, |limit| limit.as_secs()).into(),
            "statement".into(),
            Value::Null,
            config.general.max_db_connections.unwrap_or(0).into(),
            zero(),
            config.general.max_db_client_connections.unwrap_or(0).into(),
            self.census.consoles().into(),
            zero(),
            zero(),
        ];
        // By name, as pgbouncer has it.
        rows.insert(databases.keys().filter(|name| &***name < CONSOLE).count(), console);
        rows
    }

    pub(super) fn users(&self) -> Vec<Row> {
        let config = self.registry.config();
        let mut servers: BTreeMap<Arc<str>, u32> = BTreeMap::new();
        for pool in self.registry.pools() {
            *servers.entry(pool.key.user.clone()).or_default() += pool.status().servers;
        }
        // Those that were looked up are there for as long as they have clients or servers.
        let mut names: BTreeSet<Box<str>> = known_users(&config).map(Into::into).collect();
        names.extend(self.census.users());
        names.extend(servers.keys().map(|name| (**name).into()));
        let limit = |limit: Option<Option<u32>>| limit.map(|limit| limit.unwrap_or(0).to_string());
        let row = |name: Box<str>| {
            let user = config.user(&name);
            let user = user.as_deref();
            let connections =
                user.map_or(config.general.max_user_connections, |user| user.max_user_connections);
            vec![
                (*name).into(),
                limit(user.and_then(|user| user.pool_size)).unwrap_or_default().into(),
                user.and_then(|user| user.reserve_pool_size)
                    .map(|size| size.to_string())
                    .unwrap_or_default()
                    .into(),
                user.and_then(|user| user.pool_mode).map(mode_name).into(),
                connections.unwrap_or(0).into(),
                servers.get(&*name).copied().unwrap_or(0).into(),
                resolve::max_user_client_connections(&config.general, user).unwrap_or(0).into(),
                self.census.of_user(&name).into(),
            ]
        };
        names.into_iter().map(row).collect()
    }

    pub(super) fn lists(&self) -> Vec<Row> {
        let config = self.registry.config();
        let pools = self.registry.all_pools();
        let connections: u32 = self.control.worker_loads().iter().sum();
        let clients: u32 = pools.iter().map(|pool| clients_of(pool)).sum::<u32>() + self.census.consoles();
        let servers: u32 = pools.iter().map(|pool| pool.status().servers).sum();
        let users: BTreeSet<&str> = known_users(&config).collect();
        let counts: [(&str, Value); 14] = [
            ("databases", (config.databases.len() + 1).into()),
            ("users", users.len().into()),
            ("peers", config.peers.len().into()),
            ("pools", (self.registry.pools().len() + 1).into()),
            ("peer_pools", self.peers.counts().len().into()),
            ("free_clients", 0u32.into()),
            ("used_clients", connections.into()),
            ("login_clients", connections.saturating_sub(clients).into()),
            ("free_servers", 0u32.into()),
            ("used_servers", servers.into()),
            ("dns_names", self.names.known().len().into()),
            ("dns_zones", 0u32.into()),
            ("dns_queries", 0u32.into()),
            ("dns_pending", 0u32.into()),
        ];
        counts.into_iter().map(|(name, count)| vec![name.into(), count]).collect()
    }

    pub(super) fn dns_hosts(&self) -> Vec<Row> {
        let row = |(name, left, addresses): (String, Duration, Vec<IpAddr>)| {
            let addresses: Vec<String> = addresses.iter().map(IpAddr::to_string).collect();
            vec![name.into(), left.as_secs().into(), addresses.join(",").into()]
        };
        self.names.known().into_iter().map(row).collect()
    }

    pub(super) fn state(&self) -> Vec<Row> {
        let (active, paused) = if self.registry.is_all_paused() { ("no", "yes") } else { ("yes", "no") };
        vec![vec!["active".into(), active.into()], vec!["paused".into(), paused.into()]]
    }

    pub(super) fn workers(&self) -> Vec<Row> {
        let pools = self.registry.all_pools();
        let row = |(worker, clients): (usize, u32)| {
            let mut counts = [0; 3];
            for pool in &pools {
                let seen = pool.seen_by(worker);
                counts.iter_mut().zip(seen).for_each(|(sum, count)| *sum += count);
            }
            let [waiting, servers, idle] = counts;
            vec![worker.into(), clients.into(), waiting.into(), servers.into(), idle.into()]
        };
        self.control.worker_loads().into_iter().enumerate().map(row).collect()
    }
}

/// The users that the configuration names, those among them that only log in to servers of a database, and the console's.
fn known_users(config: &Config) -> impl Iterator<Item = &str> {
    let looks_up = |database: &Database| database.auth_user != config.general.auth_user;
    let of_databases = config.databases.values().flat_map(move |database| {
        [database.user.as_deref(), database.auth_user.as_deref().filter(|_| looks_up(database))]
    });
    config.users.keys().map(String::as_str).chain(of_databases.flatten()).chain([CONSOLE])
}

fn pool_row(pool: &Pool) -> Row {
    let status = pool.status();
    let servers = Servers::of(pool);
    vec![
        (*pool.key.database).into(),
        (*pool.key.user).into(),
        clients_of(pool).saturating_sub(status.waiting).into(),
        status.waiting.into(),
        servers.cancels.into(),
        pool.waiting_cancels().into(),
        servers.active.into(),
        servers.cancels.into(),
        servers.being_canceled.into(),
        servers.idle.into(),
        0u32.into(),
        servers.tested.into(),
        servers.login.into(),
        status.oldest_wait.as_secs().into(),
        status.oldest_wait.subsec_micros().into(),
        mode_name(pool.policy().mode).into(),
        balance(&pool.target.hosts, pool.target.load_balance),
        pool.pinned_clients().into(),
    ]
}

/// How connections are spread over several hosts.
fn balance(hosts: &[Host], how: LoadBalance) -> Value {
    match how {
        _ if hosts.len() < 2 => Value::Null,
        LoadBalance::RoundRobin => "round-robin".into(),
        LoadBalance::Disable => "disable".into(),
    }
}

/// A pool mode by its name.
pub(crate) fn mode_name(mode: PoolMode) -> &'static str {
    match mode {
        PoolMode::Session => "session",
        PoolMode::Transaction => "transaction",
        PoolMode::Statement => "statement",
    }
}

/// Hosts as a list.
pub(super) fn hosts(hosts: &[Host]) -> String {
    let name = |host: &Host| match host {
        Host::Tcp(name) => name.clone(),
        Host::Unix(directory) => directory.display().to_string(),
    };
    hosts.iter().map(name).collect::<Vec<_>>().join(",")
}
