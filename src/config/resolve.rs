//! From what was written to what is meant.
//!
//! Owns what concerns more than one value: inheritance between general, user and database, the users of `auth_file`, and
//! the checks of what must fit together. [`pool_mode`] and its neighbours answer, for a client, which of the three holds;
//! they are the only place where that order is decided.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::draft::{Draft, Section};
use super::problem::{Place, Problems};
use super::settings::{DatabaseEntry, UserEntry};
use super::tls::{Authorities, Negotiation, SslMode};
use super::{
    Config, Database, General, Host, PoolMode, Reset, Secret, Source, User, access, names, peers, sources,
    text, userlist,
};

/// How long a client of `user` in `database` keeps a server: the database's word, else the user's, else the general one.
pub fn pool_mode(general: &General, database: &Database, user: Option<&User>) -> PoolMode {
    database.pool_mode.or(user.and_then(|user| user.pool_mode)).unwrap_or(general.pool_mode)
}

/// Servers that the pool of `user` in `database` may have; `None`: no limit. A `pool_size` of the database counts before
/// that of the user.
pub fn pool_size(database: &Database, user: Option<&User>) -> Option<u32> {
    match user.and_then(|user| user.pool_size) {
        Some(size) if !database.pool_size_set => size,
        _ => database.pool_size,
    }
}

/// Servers beyond the pool size for clients that waited; the user's word, else the database's.
pub fn reserve_pool_size(database: &Database, user: Option<&User>) -> u32 {
    user.and_then(|user| user.reserve_pool_size).unwrap_or(database.reserve_pool_size)
}

/// Time that a client may wait for a server: the database's word, else the user's, else the general one.
pub fn query_wait_timeout(general: &General, database: &Database, user: Option<&User>) -> Option<Duration> {
    let own = database.query_wait_timeout.or(user.and_then(|user| user.query_wait_timeout));
    own.unwrap_or(general.query_wait_timeout)
}

/// Time that a query may run: the user's word, else the general one.
pub fn query_timeout(general: &General, user: Option<&User>) -> Option<Duration> {
    user.and_then(|user| user.query_timeout).unwrap_or(general.query_timeout)
}

/// Time that a client may be idle outside a transaction: the user's word, else the general one.
pub fn client_idle_timeout(general: &General, user: Option<&User>) -> Option<Duration> {
    user.and_then(|user| user.client_idle_timeout).unwrap_or(general.client_idle_timeout)
}

/// Time that a client may be idle inside a transaction: the user's word, else the general one.
pub fn idle_transaction_timeout(general: &General, user: Option<&User>) -> Option<Duration> {
    user.and_then(|user| user.idle_transaction_timeout).unwrap_or(general.idle_transaction_timeout)
}

/// Time that a transaction may take: the user's word, else the general one.
pub fn transaction_timeout(general: &General, user: Option<&User>) -> Option<Duration> {
    user.and_then(|user| user.transaction_timeout).unwrap_or(general.transaction_timeout)
}

/// Clients that `user` may have: the user's word, else the general one.
pub fn max_user_client_connections(general: &General, user: Option<&User>) -> Option<u32> {
    user.map_or(general.max_user_client_connections, |user| user.max_user_client_connections)
}

/// Checks the draft as a whole and makes the configuration of it.
pub(super) fn resolve(mut draft: Draft) -> Result<Config, Problems> {
    let source = Source(Arc::new(draft.clone()));
    sources::read(&mut draft);
    let users = users(&mut draft);
    let hba = access::rules(&mut draft);
    let peers = peers::peers(&mut draft);
    let ldap = access::ldap(&mut draft);
    own_files(&mut draft);
    names::resolve(&mut draft);
    if !draft.incomplete {
        check_client_tls(&mut draft);
        check_server_tls(&mut draft);
        check_listeners(&mut draft);
        check_databases(&mut draft);
        access::check(&mut draft, &users, hba.as_ref());
        access::check_files(&mut draft);
        access::check_socket(&mut draft);
        check_reset(&mut draft);
    }
    if !draft.problems.is_empty() {
        // The main file first, then those that it names.
        let main = draft.path.clone();
        draft.problems.sort_by(|a, b| {
            let key = |file: &PathBuf, line| (*file != main, file.clone(), line);
            key(&a.file, a.line).cmp(&key(&b.file, b.line))
        });
        return Err(Problems(draft.problems));
    }
    let mut databases: BTreeMap<String, Arc<Database>> = BTreeMap::new();
    for (name, entry) in std::mem::take(&mut draft.databases) {
        let database = database(&draft.general, &users, name.clone(), entry);
        databases.insert(name, Arc::new(database));
    }
    Ok(Config {
        kinds: access::kinds(users.values(), &draft.general, &databases),
        hba: hba.map(Arc::new),
        ldap: ldap.map(Arc::new),
        fallback: databases.remove("*"),
        databases,
        users: users.into_iter().map(|(name, user)| (name, Arc::new(user))).collect(),
        peers,
        warnings: draft.warnings.iter().map(ToString::to_string).collect(),
        general: draft.general,
        path: draft.path,
        source,
    })
}

fn database(
    general: &General,
    users: &BTreeMap<String, User>,
    name: String,
    entry: DatabaseEntry,
) -> Database {
    let startup = [
        ("client_encoding", entry.client_encoding),
        ("datestyle", entry.datestyle),
        ("timezone", entry.timezone),
        ("application_name", entry.application_name),
    ];
    // A verifier checks clients; it cannot log in to a server.
    let known = entry.user.as_ref().and_then(|user| users.get(user)).and_then(|user| user.secret.clone());
    let known = known.filter(|secret| !matches!(secret, Secret::Scram(_)));
    let pool_size = entry.pool_size.unwrap_or(general.default_pool_size);
    let min_pool_size = entry.min_pool_size.unwrap_or(general.min_pool_size);
    Database {
        name,
        dbname: entry.dbname,
        hosts: entry.host.unwrap_or_else(|| vec![Host::Tcp("127.0.0.1".into())]),
        port: entry.port.unwrap_or(5432),
        user: entry.user,
        password: entry.password.map(|password| password.secret).or(known),
        auth_user: entry.auth_user.or_else(|| general.auth_user.clone()),
        auth_query: entry.auth_query.or_else(|| general.auth_query.clone()),
        auth_dbname: entry.auth_dbname.or_else(|| general.auth_dbname.clone()),
        password_source: sources::of_database(
            entry.password_file,
            entry.password_command,
            entry.password_cache_time,
        ),
        connect_query: entry.connect_query,
        startup: startup.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect(),
        pool_size,
        pool_size_set: entry.pool_size.is_some(),
        min_pool_size: min_pool_size.min(pool_size.unwrap_or(u32::MAX)),
        reserve_pool_size: entry.reserve_pool_size.unwrap_or(general.reserve_pool_size),
        pool_mode: entry.pool_mode,
        reset: entry.reset.unwrap_or(general.reset),
        pin: entry.pin.unwrap_or(general.pin),
        max_pinned: entry.max_pinned.unwrap_or(general.max_pinned),
        pin_sequences: entry.pin_sequences.unwrap_or(general.pin_sequences),
        listen: entry.listen.unwrap_or(general.listen),
        max_db_connections: entry.max_db_connections.unwrap_or(general.max_db_connections),
        max_db_client_connections: entry
            .max_db_client_connections
            .unwrap_or(general.max_db_client_connections),
        load_balance: entry.load_balance_hosts.unwrap_or_default(),
        query_wait_timeout: entry.query_wait_timeout,
        server_lifetime: entry.server_lifetime.unwrap_or(general.server_lifetime),
    }
}

fn user(general: &General, name: String, entry: UserEntry) -> User {
    User {
        name,
        secret: entry.password.map(|password| password.secret),
        pool_size: entry.pool_size,
        reserve_pool_size: entry.reserve_pool_size,
        pool_mode: entry.pool_mode,
        max_user_connections: entry.max_user_connections.unwrap_or(general.max_user_connections),
        max_user_client_connections: entry
            .max_user_client_connections
            .unwrap_or(general.max_user_client_connections),
        query_timeout: entry.query_timeout,
        query_wait_timeout: entry.query_wait_timeout,
        client_idle_timeout: entry.client_idle_timeout,
        idle_transaction_timeout: entry.idle_transaction_timeout,
        transaction_timeout: entry.transaction_timeout,
    }
}

/// The users of the configuration and of its `auth_file`.
fn users(draft: &mut Draft) -> BTreeMap<String, User> {
    let mut users = BTreeMap::new();
    for (name, entry) in &draft.users {
        users.insert(name.clone(), user(&draft.general, name.clone(), entry.clone()));
    }
    let Some(written) = draft.general.auth_file.take() else {
        return users;
    };
    let file = draft.base.join(&written);
    draft.general.auth_file = Some(std::path::absolute(&file).unwrap_or_else(|_| file.clone()));
    let place = draft.place(&["auth_file"]);
    match text::read(&file) {
        Ok(text) => {
            access::warn_if_open(draft, &place, "auth_file", &file);
            userlist_users(draft, &file, &text, &mut users);
        }
        Err(error) => {
            let message = format!("cannot read {}: {error}", file.display());
            draft.misfit(&place, "auth_file", message);
            // Its users are unknown, so nothing can be said of users that seem to lack.
            draft.incomplete = true;
        }
    }
    users
}

fn userlist_users(draft: &mut Draft, file: &Path, text: &str, users: &mut BTreeMap<String, User>) {
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    for (line, read) in userlist::read(text) {
        let place = Place::line(file, line);
        let (name, secret) = match read {
            Ok(read) => read,
            Err(message) => {
                draft.misfit(&place, "", message);
                continue;
            }
        };
        let first = seen.insert(name.clone(), line);
        if let Some(first) = first {
            draft.misfit(&place, &name, format!("line {first} has this user already; keep one of the two"));
        }
        // pgbouncer writes users that have no password with an empty one.
        let secret = match secret.as_str() {
            "" => None,
            secret => match Secret::parse(secret) {
                Ok(secret) => Some(secret),
                Err(error) => {
                    draft.problem(&place, &name, error.to_string());
                    continue;
                }
            },
        };
        let known = users
            .entry(name.clone())
            .or_insert_with(|| user(&draft.general, name.clone(), UserEntry::default()));
        // Of several lines the last one counts, as in pgbouncer.
        if known.secret.is_some() && first.is_none() {
            let key = Section::User(name).key("password");
            draft.warning(
                &place,
                key,
                "the configuration file has a password for this user too, and that one counts",
            );
        } else {
            known.secret = secret;
        }
    }
}

fn check_listeners(draft: &mut Draft) {
    if draft.general.listen_addr.is_empty() && draft.general.unix_socket_dir.is_none() {
        let place = draft.place(&["listen_addr", "unix_socket_dir"]);
        let message =
            r#"nothing to listen on; set listen_addr, for example to "127.0.0.1", or unix_socket_dir"#;
        draft.problem(&place, "listen_addr", message);
    }
}

/// Makes the paths of certificates, keys and the process's own files absolute.
fn own_files(draft: &mut Draft) {
    let General { client_tls, server_tls, log, pidfile, .. } = &mut draft.general;
    let plain = [
        &mut log.file,
        pidfile,
        &mut client_tls.key_file,
        &mut client_tls.cert_file,
        &mut client_tls.ca_file,
        &mut server_tls.key_file,
        &mut server_tls.cert_file,
    ];
    let authorities = match &mut server_tls.authorities {
        Some(Authorities::File(file)) => Some(file),
        _ => None,
    };
    for file in plain.into_iter().flatten().chain(authorities) {
        let path = draft.base.join(&*file);
        *file = std::path::absolute(&path).unwrap_or(path);
    }
}

/// Whether clients can ask for this database.
pub(super) fn has_database(draft: &Draft, name: &str) -> bool {
    draft.databases.contains_key(name) || draft.databases.contains_key("*")
}

fn check_server_tls(draft: &mut Draft) {
    let tls = draft.general.server_tls.clone();
    if tls.sslmode == SslMode::Disable {
        return;
    }
    let place = draft.place(&["server_tls_sslmode"]);
    if tls.sslmode >= SslMode::VerifyCa && tls.authorities.is_none() {
        let message = "not set, but server_tls_sslmode asks for servers' certificates; name the file of their authorities";
        draft.problem(&place, "server_tls_ca_file", message);
    }
    if tls.sslmode == SslMode::VerifyCa && tls.authorities == Some(Authorities::System) {
        let message = "anybody can get a certificate from the system's authorities; write server_tls_sslmode = \"verify-full\"";
        draft.problem(&place, "server_tls_ca_file", message);
    }
    if tls.crl_file.is_some() && tls.sslmode < SslMode::VerifyCa {
        let place = draft.place(&["server_tls_crl_file"]);
        let message = "servers' certificates are not looked at; write server_tls_sslmode = \"verify-full\"";
        draft.problem(&place, "server_tls_crl_file", message);
    }
    if tls.negotiation == Negotiation::Direct && tls.sslmode < SslMode::Require {
        let place = draft.place(&["server_tls_sslnegotiation"]);
        let message = "direct TLS cannot give way to none; write server_tls_sslmode = \"require\", or better";
        draft.problem(&place, "server_tls_sslnegotiation", message);
    }
    let pair = [("server_tls_cert_file", &tls.cert_file), ("server_tls_key_file", &tls.key_file)];
    for ((key, file), (other, its)) in [(pair[0], pair[1]), (pair[1], pair[0])] {
        if file.is_none() && its.is_some() {
            let place = draft.place(&[other]);
            draft.problem(
                &place,
                key,
                format!("not set, but {other} is; a certificate and its key go together"),
            );
        }
    }
    if let Some(file) = &tls.key_file {
        let place = draft.place(&["server_tls_key_file"]);
        access::warn_if_open(draft, &place, "server_tls_key_file", file);
    }
}

fn check_client_tls(draft: &mut Draft) {
    let tls = draft.general.client_tls.clone();
    if tls.sslmode == SslMode::Disable {
        return;
    }
    let place = draft.place(&["client_tls_sslmode"]);
    for (key, file) in [("client_tls_key_file", &tls.key_file), ("client_tls_cert_file", &tls.cert_file)] {
        if file.is_none() {
            let message = "not set, but client_tls_sslmode asks for TLS; name the file, or disable TLS";
            draft.problem(&place, key, message);
        }
    }
    if tls.sslmode >= SslMode::VerifyCa && tls.ca_file.is_none() {
        let message = "not set, but client_tls_sslmode asks for clients' certificates; name the file of their authorities";
        draft.problem(&place, "client_tls_ca_file", message);
    }
    if tls.crl_file.is_some() && tls.ca_file.is_none() {
        let place = draft.place(&["client_tls_crl_file"]);
        let message =
            "clients are not asked for certificates; set client_tls_ca_file to the file of their authorities";
        draft.problem(&place, "client_tls_crl_file", message);
    }
    if let Some(file) = &tls.key_file {
        let place = draft.place(&["client_tls_key_file"]);
        access::warn_if_open(draft, &place, "client_tls_key_file", file);
    }
}

fn check_databases(draft: &mut Draft) {
    if draft.databases.is_empty() {
        let place = Place::file(&draft.path);
        let example = "there is no database; add one, for example:\n\
             \x20   [databases.app]\n\
             \x20   host = \"127.0.0.1\"\n\
             \x20   dbname = \"app\"";
        let ini = "there is no database; add one, for example:\n\
             \x20   [databases]\n\
             \x20   app = host=127.0.0.1 dbname=app";
        // pgbouncer starts with nothing but its console, as the file that its package installs says.
        if draft.ini {
            draft.warning(&place, "databases", ini);
        } else {
            draft.problem(&place, "databases", example);
        }
    }
    let mut problems = Vec::new();
    let mut warnings = Vec::new();
    let mut misfits = Vec::new();
    for (name, entry) in &draft.databases {
        let section = Section::Database(name.clone());
        let (min, size) = (section.key("min_pool_size"), section.key("pool_size"));
        let min_pool_size = entry.min_pool_size.unwrap_or(draft.general.min_pool_size);
        let pool_size = entry.pool_size.unwrap_or(draft.general.default_pool_size);
        if let Some(pool_size) = pool_size.filter(|pool_size| min_pool_size > *pool_size) {
            let place = draft.place(&[&min, &size, "min_pool_size", "default_pool_size"]);
            let message = format!(
                "{min_pool_size} is more than the pool size of {pool_size}; lower it, or raise the other"
            );
            misfits.push((place, min, message));
        }
        let key = section.key("password");
        if matches!(&entry.password, Some(password) if matches!(password.secret, Secret::Scram(_))) {
            let message = "a SCRAM verifier cannot log in to a server; write the password itself";
            problems.push(draft.place(&[&key]).problem(&key, message));
        } else if (entry.password.is_some() || entry.password_file.is_some()) && entry.user.is_none() {
            let key = if entry.password_file.is_some() { section.key("password_file") } else { key };
            let message = "it is not used: the database has no fixed user; add user, or remove it";
            warnings.push(draft.place(&[&key]).problem(&key, message));
        }
    }
    draft.problems.extend(problems);
    draft.warnings.extend(warnings);
    for (place, key, message) in misfits {
        draft.misfit(&place, key, message);
    }
}

fn check_reset(draft: &mut Draft) {
    if !draft.general.server_reset_query.is_empty() {
        return;
    }
    let resets = |reset: Option<Reset>| reset.unwrap_or(draft.general.reset) != Reset::Never;
    if draft.general.reset != Reset::Never || draft.databases.values().any(|entry| resets(entry.reset)) {
        let place = draft.place(&["server_reset_query"]);
        draft.problem(
            &place,
            "server_reset_query",
            r#"it is empty; write "DISCARD ALL", or reset = "never" for no reset"#,
        );
    }
}
