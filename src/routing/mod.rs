//! From what a client asks for to the pool that serves it.
//!
//! Pure look-ups in the configuration. Replicas, health and failover will be decided here.

use crate::config::{Config, Database, General, PasswordSource, Secret, User, resolve};
use crate::directory::Source;
use crate::pool::registry::Blueprint;
use crate::pool::{Memory, Policy, PoolKey};
use crate::server::login::Target;
use std::sync::Arc;
use std::time::Duration;

/// The databases that are the admin console.
pub const ADMIN_DATABASES: [&str; 2] = ["pgvalet", "pgbouncer"];

/// The limits that hold for one client.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Limits {
    /// See the setting of this name.
    pub query_timeout: Option<Duration>,
    /// See the setting of this name.
    pub query_wait_timeout: Option<Duration>,
    /// See the setting of this name.
    pub client_idle_timeout: Option<Duration>,
    /// See the setting of this name.
    pub idle_transaction_timeout: Option<Duration>,
    /// See the setting of this name.
    pub transaction_timeout: Option<Duration>,
    /// See the setting of this name.
    pub pin_timeout: Option<Duration>,
}

/// What serves a user on a database, if the configuration knows the database.
#[must_use]
pub fn route(config: &Config, database_name: &str, user_name: &str) -> Option<Blueprint> {
    let database = config.database(database_name)?;
    Some(blueprint(config, &database, database_name, user_name))
}

/// What serves a physical replication connection. It belongs to a server, not to a database, and PostgreSQL ignores the
/// database it names (its own programs name `replication`): a name that the configuration does not know will do if all
/// databases are on one server.
#[must_use]
pub fn route_physical(config: &Config, database_name: &str, user_name: &str) -> Option<Blueprint> {
    route(config, database_name, user_name).or_else(|| {
        let mut databases = config.databases.iter();
        let (name, first) = databases.next()?;
        let is_there = |database: &Database| (&database.hosts, database.port) == (&first.hosts, first.port);
        databases.all(|(_, database)| is_there(database)).then(|| blueprint(config, first, name, user_name))
    })
}

/// The pools that the configuration keeps at `min_pool_size` from the start: those with a fixed server user.
#[must_use]
pub fn standing(config: &Config) -> Vec<Blueprint> {
    let fixed = config.databases.iter().filter_map(|(name, database)| {
        let user = database.user.as_ref()?;
        (database.min_pool_size > 0).then(|| blueprint(config, database, name, user))
    });
    fixed.collect()
}

fn blueprint(config: &Config, database: &Database, database_name: &str, user_name: &str) -> Blueprint {
    let general = &config.general;
    let user = config.user(user_name);
    let user = user.as_deref();
    let server_user = database.user.as_deref().unwrap_or(user_name);
    let is_automatic = !config.databases.contains_key(database_name);
    let of_automatic = general.autodb_idle_timeout.filter(|_| is_automatic);
    // The configuration itself asks for these at every start.
    let is_standing = !is_automatic && database.user.is_some() && database.min_pool_size > 0;
    let idle_timeout =
        [of_automatic, general.pool_idle_timeout].into_iter().flatten().min().filter(|_| !is_standing);
    let only_if_used = is_automatic || database.user.is_none() && user.is_none();
    // A user's overrides are about the user's own pool.
    let own = if database.user.is_none() { user } else { None };
    Blueprint {
        key: PoolKey { database: database_name.into(), user: server_user.into() },
        target: Target {
            witness: witness(config, database_name, server_user),
            hosts: database.hosts.clone(),
            load_balance: database.load_balance,
            port: database.port,
            dbname: database.dbname.clone().unwrap_or_else(|| database_name.to_owned()),
            user: server_user.to_owned(),
            secret: secret(config, database, server_user),
            password_source: password_source(database, server_user),
            startup: database.startup.clone(),
            connect_query: database.connect_query.clone(),
            tcp: general.tcp.clone(),
            tls: general.server_tls.clone(),
            timeout: general.server_connect_timeout,
            max_prepared: general.max_prepared_statements,
        },
        policy: policy(general, database, own, Memory { idle_timeout, only_if_used }),
        max_db_connections: database.max_db_connections,
        max_user_connections: config
            .user(server_user)
            .and_then(|user| user.max_user_connections)
            .or(general.max_user_connections),
    }
}

/// Where users are looked up who want to log in to a database, if they are.
#[must_use]
pub fn user_source(config: &Config, database_name: &str) -> Option<Arc<Source>> {
    let general = &config.general;
    // The admin console is no database, whatever a fallback entry says: the general settings hold for it, and its users are
    // looked up only in a database that is named for that.
    let is_console = ADMIN_DATABASES.contains(&database_name);
    if is_console && general.auth_dbname.is_none() {
        return None;
    }
    let wanted = if is_console { None } else { config.database(database_name) };
    let of_wanted = |own: fn(&Database) -> &Option<String>, general: &Option<String>| match &wanted {
        Some(database) => own(database).clone(),
        None => general.clone(),
    };
    let auth_user = of_wanted(|database| &database.auth_user, &general.auth_user)?;
    let query = of_wanted(|database| &database.auth_query, &general.auth_query);
    let name = of_wanted(|database| &database.auth_dbname, &general.auth_dbname);
    let name = name.unwrap_or_else(|| database_name.to_owned());
    let database = config.database(&name)?;
    let secret = match &database.user {
        Some(user) if *user == auth_user => secret(config, &database, &auth_user),
        _ => config.user(&auth_user).and_then(|user| user.secret.clone()),
    };
    let asks_for_groups = config.hba.as_ref().is_some_and(|rules| rules.asks_for_groups());
    let query = query.unwrap_or_else(|| auth_query(asks_for_groups));
    let mut startup: Vec<(String, String)> =
        AUTH_SETTINGS.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    if let Some(limit) = general.auth_query_timeout {
        startup.push(("statement_timeout".into(), limit.as_millis().max(1).to_string()));
    }
    let target = Target {
        witness: "configuration".into(),
        hosts: database.hosts.clone(),
        load_balance: database.load_balance,
        port: database.port,
        dbname: database.dbname.clone().unwrap_or_else(|| name.clone()),
        user: auth_user.clone(),
        secret,
        password_source: password_source(&database, &auth_user),
        startup,
        connect_query: None,
        tcp: general.tcp.clone(),
        tls: general.server_tls.clone(),
        timeout: general.server_connect_timeout,
        max_prepared: 0,
    };
    Some(Arc::new(Source {
        name: (name, auth_user),
        target,
        query,
        timeout: general.auth_query_timeout,
        cache_time: general.auth_query_cache_time,
    }))
}

/// Who vouches for what a login of this user to this database shows: the configuration, or what its users are looked up in.
/// What one of them has vouched for is used for nothing that another one would have to vouch for.
#[must_use]
pub fn witness(config: &Config, database_name: &str, user_name: &str) -> String {
    if config.user(user_name).is_some_and(|user| user.secret.is_some()) {
        return "configuration".into();
    }
    let Some(source) = user_source(config, database_name) else { return String::new() };
    let Target { hosts, port, dbname, .. } = &source.target;
    // The roles of a whole server, which nobody but its superusers can forge.
    let is_catalog = source.query == auth_query(true) || source.query == auth_query(false);
    if is_catalog {
        format!("roles of {hosts:?} {port}")
    } else {
        format!("{dbname:?} of {hosts:?} {port}: {}", source.query)
    }
}

/// Settings under which users are looked up: nothing that a database or a role has set decides what a query means.
const AUTH_SETTINGS: [(&str, &str); 3] =
    [("search_path", "pg_catalog"), ("client_encoding", "UTF8"), ("application_name", "pgvalet auth_query")];

/// The query where none is configured: PostgreSQL's own roles, as PostgreSQL itself takes their passwords.
fn auth_query(with_groups: bool) -> String {
    let groups = if with_groups {
        ", ARRAY(WITH RECURSIVE up(roleid) AS (\
           SELECT m.roleid FROM pg_catalog.pg_auth_members m WHERE m.member OPERATOR(pg_catalog.=) u.oid \
           UNION SELECT m.roleid FROM pg_catalog.pg_auth_members m \
           JOIN up ON m.member OPERATOR(pg_catalog.=) up.roleid) \
         SELECT g.rolname::pg_catalog.text FROM pg_catalog.pg_authid g \
         JOIN up ON g.oid OPERATOR(pg_catalog.=) up.roleid)"
    } else {
        ""
    };
    format!(
        "SELECT u.rolname, CASE WHEN u.rolvaliduntil OPERATOR(pg_catalog.<) pg_catalog.now() \
         THEN NULL ELSE u.rolpassword END{groups} FROM pg_catalog.pg_authid u \
         WHERE u.rolname OPERATOR(pg_catalog.=) $1 AND u.rolcanlogin"
    )
}

/// What logs in to the server: the database's password, or what is known of the user.
fn secret(config: &Config, database: &Database, server_user: &str) -> Option<Secret> {
    let of_user = || config.user(server_user).and_then(|user| user.secret.clone());
    database.password.clone().or_else(of_user)
}

/// Where the password of a server's user comes from at each login. A file is about the fixed user; a command is told about
/// whom it is.
fn password_source(database: &Database, server_user: &str) -> Option<PasswordSource> {
    let is_meant = match (&database.password_source, &database.user) {
        (_, Some(user)) => user == server_user,
        (Some(PasswordSource::Command { .. }), None) => true,
        (_, None) => false,
    };
    database.password_source.clone().filter(|_| is_meant)
}

fn policy(general: &General, database: &Database, user: Option<&User>, memory: Memory) -> Policy {
    Policy {
        memory,
        size: resolve::pool_size(database, user),
        min_size: database.min_pool_size,
        reserve: resolve::reserve_pool_size(database, user),
        reserve_timeout: general.reserve_pool_timeout,
        mode: resolve::pool_mode(general, database, user),
        extended_only: general.disable_pqexec,
        round_robin: general.server_round_robin,
        reset: database.reset,
        pin: database.pin,
        max_pinned: database.max_pinned,
        pin_sequences: database.pin_sequences,
        listen: database.listen,
        listener_lost: general.listener_lost,
        notification_buffer: general.notification_buffer as usize,
        reset_query: general.server_reset_query.clone(),
        probe_interval: general.catalog_probe_interval,
        check_query: general.server_check_query.clone(),
        check_delay: general.server_check_delay,
        lifetime: database.server_lifetime,
        idle_timeout: general.server_idle_timeout,
        login_retry: general.server_login_retry,
    }
}

/// The limits of a user on a database.
#[must_use]
pub fn limits(config: &Config, database_name: &str, user_name: &str) -> Limits {
    let general = &config.general;
    let user = config.user(user_name);
    let user = user.as_deref();
    let database = config.database(database_name);
    Limits {
        query_timeout: resolve::query_timeout(general, user),
        query_wait_timeout: match &database {
            Some(database) => resolve::query_wait_timeout(general, database, user),
            None => general.query_wait_timeout,
        },
        client_idle_timeout: resolve::client_idle_timeout(general, user),
        idle_transaction_timeout: resolve::idle_transaction_timeout(general, user),
        transaction_timeout: resolve::transaction_timeout(general, user),
        pin_timeout: general.pin_timeout,
    }
}
