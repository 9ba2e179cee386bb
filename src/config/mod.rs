//! The checked configuration: what the files said, as it was meant.
//!
//! Owns the types that the rest of the program reads. A [`Config`] is correct by type: whoever holds one never has to
//! ask whether a number is in range, a name exists or two settings fit together. It is immutable; a reload makes a new
//! one.
//!
//! The way there: `file` reads the TOML, `pgbouncer` an ini; both fill a `draft`, value by value, through the one table in
//! [`settings`] and the kinds of values in `units`; [`resolve`] adds the userlist, checks what must fit together and makes
//! the [`Config`]. Every step notes what is wrong as a [`Problem`] and goes on.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

mod access;
mod change;
mod convert;
mod draft;
mod file;
pub mod hba;
mod loose;
mod missing;
pub mod names;
pub mod peers;
mod pgbouncer;
mod problem;
mod process;
pub mod resolve;
pub mod secret;
pub mod settings;
mod sources;
mod text;
pub mod tls;
mod units;
pub mod userlist;

pub use change::{Change, Source, set, tellable};
pub use convert::convert;
pub use hba::Hba;
pub use peers::Peer;
pub use problem::{Problem, Problems};
pub use process::{Facility, Log, Syslog, Tcp};
pub use secret::{Secret, SecretKinds};
pub use sources::{PasswordSource, trimmed};

/// Reads and checks the configuration file `path`: TOML, or a pgbouncer.ini (by its ending, else by its content).
///
/// # Errors
/// Everything that is wrong with the file and with the files that it names, each with its place and what would be right.
pub fn load(path: &Path) -> Result<Config, Problems> {
    resolve::resolve(read_draft(path)?)
}

fn read_draft(path: &Path) -> Result<draft::Draft, Problems> {
    let unreadable = |message: String| Problems(vec![problem::Place::file(path).problem("", message)]);
    let text =
        text::read(path).map_err(|error| unreadable(format!("cannot read the configuration: {error}")))?;
    let ini = match path.extension().and_then(|extension| extension.to_str()) {
        Some("ini") => true,
        Some("toml") => false,
        _ => pgbouncer::is_ini(&text),
    };
    if ini {
        return Ok(pgbouncer::read(path, &text));
    }
    match text.lines().position(text::is_broken) {
        None => Ok(file::read(path, &text)),
        Some(index) => Err(Problems(vec![problem::Place::line(path, index + 1).problem("", text::NOT_UTF8)])),
    }
}

/// Everything pgvalet was told.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// The file this came from, as given on the command line.
    pub path: PathBuf,
    /// Settings of the process and defaults of every pool.
    pub general: General,
    /// Databases by the name that clients use, without the fallback.
    pub databases: BTreeMap<String, Arc<Database>>,
    /// The database `*`: serves every name that `databases` lacks, under that name.
    pub fallback: Option<Arc<Database>>,
    /// Users by name, from the TOML and from `auth_file`.
    pub users: BTreeMap<String, Arc<User>>,
    /// The processes that share this one's address, by their numbers.
    pub peers: BTreeMap<u16, Peer>,
    /// What kinds of secrets the users have.
    pub kinds: SecretKinds,
    /// The rules of `auth_hba_file`; there if `auth_type` is [`AuthType::Hba`].
    pub hba: Option<Arc<Hba>>,
    /// The directory of `auth_ldap_options`; there if `auth_type` is [`AuthType::Ldap`].
    pub ldap: Option<Arc<hba::Ldap>>,
    /// What is worth telling the operator, though it stops nothing.
    pub warnings: Vec<String>,
    /// What it was made of, for a change to one setting.
    pub source: Source,
}

impl Config {
    /// The database that a client gets who asks for `name`: the one of that name, else the fallback.
    pub fn database(&self, name: &str) -> Option<Arc<Database>> {
        self.databases.get(name).or(self.fallback.as_ref()).cloned()
    }

    /// Whether the file is a pgbouncer.ini.
    pub fn is_ini(&self) -> bool {
        self.source.0.ini
    }

    /// The user `name`, if known.
    pub fn user(&self, name: &str) -> Option<Arc<User>> {
        self.users.get(name).cloned()
    }
}

/// Settings of the process, and the defaults for what databases and users do not override.
///
/// Durations of `None` mean "no limit"; counts of `None` mean "no limit".
#[derive(Debug, Clone, PartialEq)]
pub struct General {
    /// Number of worker threads.
    pub workers: usize,
    /// TCP addresses to listen on; empty for none.
    pub listen_addr: Vec<IpAddr>,
    /// Port of the TCP listeners and in the name of the Unix socket.
    pub listen_port: u16,
    /// Length of the kernel's accept queue.
    pub listen_backlog: u32,
    /// Let several pgvalet processes listen on the same port.
    pub so_reuseport: bool,
    /// The number of this process among its peers; 0: it has none.
    pub peer_id: u16,
    /// Directory for `.s.PGSQL.<port>`; `None` for no Unix socket.
    pub unix_socket_dir: Option<PathBuf>,
    /// Permissions of the Unix socket.
    pub unix_socket_mode: u32,
    /// Group of the Unix socket, by name.
    pub unix_socket_group: Option<String>,
    /// The system user to become at the start.
    pub user: Option<String>,
    /// File for the process id; an absolute path.
    pub pidfile: Option<PathBuf>,

    /// How long a client keeps a server.
    pub pool_mode: PoolMode,
    /// Clients at the same time, over all databases.
    pub max_client_conn: u32,
    /// TCP connections that may be logging in at the same time.
    pub max_client_logins: Option<u32>,
    /// Logins of one address that may fail in a second.
    pub max_failed_logins: Option<u32>,
    /// Servers a pool may have.
    pub default_pool_size: Option<u32>,
    /// Servers a pool keeps open.
    pub min_pool_size: u32,
    /// Servers beyond `default_pool_size` for clients that waited `reserve_pool_timeout`.
    pub reserve_pool_size: u32,
    /// How long a client waits before the reserve opens; `None`: the reserve is never used.
    pub reserve_pool_timeout: Option<Duration>,
    /// Servers a database may have, over all its pools.
    pub max_db_connections: Option<u32>,
    /// Servers a user may have, over all pools.
    pub max_user_connections: Option<u32>,
    /// Clients a database may have.
    pub max_db_client_connections: Option<u32>,
    /// Clients a user may have, over all databases.
    pub max_user_client_connections: Option<u32>,
    /// Lend the server that was idle longest instead of the one used last.
    pub server_round_robin: bool,
    /// Statements prepared on one server before the least recently used is closed.
    pub max_prepared_statements: u32,

    /// How clients prove who they are.
    pub auth_type: AuthType,
    /// File of further users and their secrets; an absolute path.
    pub auth_file: Option<PathBuf>,
    /// File of rules for [`AuthType::Hba`]; an absolute path.
    pub auth_hba_file: Option<PathBuf>,
    /// File of user name maps for `auth_hba_file`; an absolute path.
    pub auth_ident_file: Option<PathBuf>,
    /// The directory of [`AuthType::Ldap`], as it was written.
    pub auth_ldap_options: Option<String>,
    /// The user that looks users up; `None`: they are in files only.
    pub auth_user: Option<String>,
    /// The query that does it; `None`: the one of PostgreSQL's own roles.
    pub auth_query: Option<String>,
    /// The database of the configuration that it runs in; `None`: the one that the client asks for.
    pub auth_dbname: Option<String>,
    /// Limit for a look-up.
    pub auth_query_timeout: Option<Duration>,
    /// How long what was found is believed.
    pub auth_query_cache_time: Duration,
    /// Iterations of SCRAM verifiers that pgvalet makes from plain secrets.
    pub scram_iterations: u32,
    /// Users who may do everything on the admin console.
    pub admin_users: Vec<String>,
    /// Users who may look at the admin console.
    pub stats_users: Vec<String>,

    /// What a server goes through between two clients.
    pub reset: Reset,
    /// The statements of a full reset.
    pub server_reset_query: String,
    /// What happens to a client whose session holds what only its server has.
    pub pin: Pin,
    /// Clients of a pool that may keep a server for themselves; `None`: all.
    pub max_pinned: Option<u32>,
    /// Time that such a client may be idle.
    pub pin_timeout: Option<Duration>,
    /// Whether `nextval` and `setval` make a client keep its server, for `currval` and `lastval`.
    pub pin_sequences: bool,
    /// Who listens for clients that LISTEN.
    pub listen: Listen,
    /// What becomes of clients whose shared listener was lost.
    pub listener_lost: ListenerLost,
    /// Bytes of notifications that may wait for one client.
    pub notification_buffer: u32,
    /// How long what the catalog says of triggers, views and functions is believed before it is read again.
    pub catalog_probe_interval: Duration,
    /// Query that shows an idle server to be alive; `None`: no check.
    pub server_check_query: Option<String>,
    /// Idle time after which a server is checked.
    pub server_check_delay: Duration,
    /// Age after which a server is closed once it is free.
    pub server_lifetime: Option<Duration>,
    /// Idle time after which a server is closed.
    pub server_idle_timeout: Option<Duration>,
    /// Time after which an unused pool of a database without an entry of its own is forgotten.
    pub autodb_idle_timeout: Option<Duration>,
    /// The same for every pool.
    pub pool_idle_timeout: Option<Duration>,
    /// Limit for connecting and logging in to a server.
    pub server_connect_timeout: Option<Duration>,
    /// First pause after a failed connect; doubles up to 16 times itself.
    pub server_login_retry: Duration,
    /// How often the names of servers are looked up again; `None`: never.
    pub dns_max_ttl: Option<Duration>,
    /// End session-pooled clients between transactions whose server is to be replaced.
    pub server_fast_close: bool,

    /// Add the client's address to its `application_name`.
    pub application_name_add_host: bool,
    /// Startup parameters that are passed over.
    pub ignore_startup_parameters: Vec<String>,
    /// End clients that use the simple query protocol.
    pub disable_pqexec: bool,
    /// Notice for everybody who has logged in.
    pub login_notify_message: Option<String>,

    /// Limit for a client's login.
    pub client_login_timeout: Option<Duration>,
    /// Time a query may run.
    pub query_timeout: Option<Duration>,
    /// Time a client may wait for a server.
    pub query_wait_timeout: Option<Duration>,
    /// Time after which a client in line is told that it waits; `None`: it is not told.
    pub query_wait_notify: Option<Duration>,
    /// Limit for delivering a cancel request.
    pub cancel_wait_timeout: Option<Duration>,
    /// Time a client may be idle outside a transaction.
    pub client_idle_timeout: Option<Duration>,
    /// Time a client may be idle inside a transaction.
    pub idle_transaction_timeout: Option<Duration>,
    /// Time a transaction may take.
    pub transaction_timeout: Option<Duration>,
    /// Time that running transactions get when pgvalet shuts down.
    pub shutdown_timeout: Option<Duration>,
    /// Time that clients which a new process cannot have may stay; `None`: no limit.
    pub upgrade_timeout: Option<Duration>,
    /// Where metrics are served; `None`: nowhere.
    pub metrics_listen: Option<SocketAddr>,
    /// Over how long the averages of SHOW STATS are taken.
    pub stats_period: Duration,

    /// TLS with clients.
    pub client_tls: tls::ClientTls,
    /// TLS with servers.
    pub server_tls: tls::ServerTls,

    /// TCP keepalive and timeouts, on both sides.
    pub tcp: Tcp,
    /// What is logged, and how.
    pub log: Log,
}

/// A database as clients see it, with its overrides resolved.
#[derive(Debug, Clone, PartialEq)]
pub struct Database {
    /// The name that clients use; `*` for the fallback.
    pub name: String,
    /// The name on the server; `None`: the one that the client asked for.
    pub dbname: Option<String>,
    /// Where the server is.
    pub hosts: Vec<Host>,
    /// Which of them a new server connection goes to first.
    pub load_balance: LoadBalance,
    /// Port of the server, also in the name of its Unix socket.
    pub port: u16,
    /// A fixed server user: all clients of the database share one pool. `None`: each client's own user.
    pub user: Option<String>,
    /// Password of the fixed server user.
    pub password: Option<Secret>,
    /// See [`General::auth_user`].
    pub auth_user: Option<String>,
    /// See [`General::auth_query`].
    pub auth_query: Option<String>,
    /// See [`General::auth_dbname`].
    pub auth_dbname: Option<String>,
    /// Where the server's password comes from at each login, in place of `password`.
    pub password_source: Option<PasswordSource>,
    /// Statements run on a server right after its login.
    pub connect_query: Option<String>,
    /// Settings sent in the startup packet to the server, as (name, value).
    pub startup: Vec<(String, String)>,
    /// Servers a pool of this database may have; `None`: no limit.
    pub pool_size: Option<u32>,
    /// Whether `pool_size` was set for this database (it then wins over a user's `pool_size`).
    pub pool_size_set: bool,
    /// Servers a pool of this database keeps open.
    pub min_pool_size: u32,
    /// See [`General::reserve_pool_size`].
    pub reserve_pool_size: u32,
    /// `None`: the user's or the general one.
    pub pool_mode: Option<PoolMode>,
    /// See [`General::reset`].
    pub reset: Reset,
    /// See [`General::pin`].
    pub pin: Pin,
    /// See [`General::max_pinned`].
    pub max_pinned: Option<u32>,
    /// See [`General::pin_sequences`].
    pub pin_sequences: bool,
    /// See [`General::listen`].
    pub listen: Listen,
    /// Servers of this database over all its pools.
    pub max_db_connections: Option<u32>,
    /// See [`General::max_db_client_connections`].
    pub max_db_client_connections: Option<u32>,
    /// `None`: the user's or the general one; `Some(None)`: no limit.
    pub query_wait_timeout: Option<Option<Duration>>,
    /// See [`General::server_lifetime`].
    pub server_lifetime: Option<Duration>,
}

/// A user as pgvalet knows it.
#[derive(Debug, Clone, PartialEq)]
pub struct User {
    /// The user's name.
    pub name: String,
    /// What the user's password is checked against; `None`: this user cannot log in with a password.
    pub secret: Option<Secret>,
    /// Servers in a pool of this user; `None`: the database's; `Some(None)`: no limit.
    pub pool_size: Option<Option<u32>>,
    /// `None`: the database's.
    pub reserve_pool_size: Option<u32>,
    /// `None`: the general one.
    pub pool_mode: Option<PoolMode>,
    /// Servers of this user over all pools; `None`: no limit.
    pub max_user_connections: Option<u32>,
    /// Clients of this user over all databases; `None`: no limit.
    pub max_user_client_connections: Option<u32>,
    /// Overrides of the general timeouts: `None` the general one, `Some(None)` no limit.
    pub query_timeout: Option<Option<Duration>>,
    /// See `query_timeout`.
    pub query_wait_timeout: Option<Option<Duration>>,
    /// See `query_timeout`.
    pub client_idle_timeout: Option<Option<Duration>>,
    /// See `query_timeout`.
    pub idle_transaction_timeout: Option<Option<Duration>>,
    /// See `query_timeout`.
    pub transaction_timeout: Option<Option<Duration>>,
}

/// How long a client keeps a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PoolMode {
    /// Until the client leaves.
    Session,
    /// Until its transaction ends.
    Transaction,
    /// Until its statement ends; transactions of several statements are refused.
    Statement,
}

/// How clients prove who they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuthType {
    /// SCRAM-SHA-256.
    ScramSha256,
    /// MD5 challenge; SCRAM for users whose secret is a SCRAM verifier.
    Md5,
    /// The password in the clear; over TLS or the Unix socket only.
    Password,
    /// The operating system's user at the other end of the Unix socket.
    Peer,
    /// A certificate whose common name is the user.
    Certificate,
    /// The password in the clear, which a directory knows; over TLS or the Unix socket only.
    Ldap,
    /// The password in the clear, which the operating system's PAM knows; over TLS or the Unix socket only.
    Pam,
    /// Any known user, without a password.
    Trust,
    /// Anybody under any name, without a password.
    Any,
    /// Nobody.
    Reject,
    /// As the rules of `auth_hba_file` say.
    Hba,
}

/// What a server goes through between two clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reset {
    /// The least that makes it as new for what its client can have done.
    Auto,
    /// The full reset, each time.
    Always,
    /// Nothing.
    Never,
}

/// What happens to a client whose session holds what only its server has: temporary tables, session-level advisory locks,
/// cursors `WITH HOLD`, channels listened to, what `currval` answers, loaded libraries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pin {
    /// It keeps the server for as long as that lives.
    Allow,
    /// It is ended.
    Refuse,
}

/// Which of several hosts a new server connection goes to first. Where it cannot be reached, the others are tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LoadBalance {
    /// The one that answered last, at first the first.
    #[default]
    Disable,
    /// The next in turn.
    RoundRobin,
}

/// Who listens for a client that LISTENs between its transactions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Listen {
    /// One connection for all clients of a database.
    Shared,
    /// The server on which it said so, which it keeps.
    Pin,
}

/// What becomes of clients for which a connection listened that was lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ListenerLost {
    /// They are ended, as they would be with a connection of their own.
    End,
    /// They stay; what was notified meanwhile is lost to them.
    Keep,
}

/// Where a server listens.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Host {
    /// Host name or address.
    Tcp(String),
    /// Directory of the Unix socket.
    Unix(PathBuf),
}
