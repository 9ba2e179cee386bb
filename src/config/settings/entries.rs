//! The settings of databases, users and peers, and what a file says of each.

use std::path::PathBuf;
use std::time::Duration;

use super::{About, Setting};
use crate::config::units::{
    File, Flag, Hosts, Limit, Maybe, Number, Password, Port, Text, Time, TimeLimit, Unit, Word,
};
use crate::config::{Host, Listen, LoadBalance, Pin, PoolMode, Reset};

/// A database as a file describes it: what is `None` is inherited.
#[derive(Debug, Clone, PartialEq, Default)]
pub(in crate::config) struct DatabaseEntry {
    pub(in crate::config) dbname: Option<String>,
    pub(in crate::config) host: Option<Vec<Host>>,
    pub(in crate::config) port: Option<u16>,
    pub(in crate::config) user: Option<String>,
    pub(in crate::config) password: Option<Password>,
    pub(in crate::config) password_file: Option<Option<PathBuf>>,
    pub(in crate::config) password_env: Option<String>,
    pub(in crate::config) password_command: Option<String>,
    pub(in crate::config) password_cache_time: Option<Duration>,
    pub(in crate::config) auth_user: Option<String>,
    pub(in crate::config) auth_query: Option<String>,
    pub(in crate::config) auth_dbname: Option<String>,
    pub(in crate::config) connect_query: Option<String>,
    pub(in crate::config) client_encoding: Option<String>,
    pub(in crate::config) datestyle: Option<String>,
    pub(in crate::config) timezone: Option<String>,
    pub(in crate::config) application_name: Option<String>,
    pub(in crate::config) pool_mode: Option<PoolMode>,
    pub(in crate::config) pool_size: Option<Option<u32>>,
    pub(in crate::config) min_pool_size: Option<u32>,
    pub(in crate::config) reserve_pool_size: Option<u32>,
    pub(in crate::config) max_db_connections: Option<Option<u32>>,
    pub(in crate::config) max_db_client_connections: Option<Option<u32>>,
    pub(in crate::config) load_balance_hosts: Option<LoadBalance>,
    pub(in crate::config) reset: Option<Reset>,
    pub(in crate::config) pin: Option<Pin>,
    pub(in crate::config) max_pinned: Option<Option<u32>>,
    pub(in crate::config) pin_sequences: Option<bool>,
    pub(in crate::config) listen: Option<Listen>,
    pub(in crate::config) query_wait_timeout: Option<Option<Duration>>,
    pub(in crate::config) server_lifetime: Option<Option<Duration>>,
}

/// A name by which clients reach pgvalet, as a file describes it.
#[derive(Debug, Clone, PartialEq, Default)]
pub(in crate::config) struct NameEntry {
    pub(in crate::config) cert_file: Option<Option<PathBuf>>,
    pub(in crate::config) key_file: Option<Option<PathBuf>>,
    pub(in crate::config) database: Option<String>,
}

/// A user as a file describes it: what is `None` is inherited.
#[derive(Debug, Clone, PartialEq, Default)]
pub(in crate::config) struct UserEntry {
    pub(in crate::config) password: Option<Password>,
    pub(in crate::config) password_file: Option<Option<PathBuf>>,
    pub(in crate::config) password_env: Option<String>,
    pub(in crate::config) pool_mode: Option<PoolMode>,
    pub(in crate::config) pool_size: Option<Option<u32>>,
    pub(in crate::config) reserve_pool_size: Option<u32>,
    pub(in crate::config) max_user_connections: Option<Option<u32>>,
    pub(in crate::config) max_user_client_connections: Option<Option<u32>>,
    pub(in crate::config) query_timeout: Option<Option<Duration>>,
    pub(in crate::config) query_wait_timeout: Option<Option<Duration>>,
    pub(in crate::config) client_idle_timeout: Option<Option<Duration>>,
    pub(in crate::config) idle_transaction_timeout: Option<Option<Duration>>,
    pub(in crate::config) transaction_timeout: Option<Option<Duration>>,
}

/// Another process behind the same address, as a file describes it: what is `None` is inherited.
#[derive(Debug, Clone, PartialEq, Default)]
pub(in crate::config) struct PeerEntry {
    pub(in crate::config) host: Option<Vec<Host>>,
    pub(in crate::config) port: Option<u16>,
    pub(in crate::config) pool_size: Option<Option<u32>>,
}

/// The settings of a database. An empty default is inherited: from the user, or from the general setting.
#[rustfmt::skip]
pub(in crate::config) static DATABASE: &[Setting<DatabaseEntry>] = &[
    setting!(dbname: Maybe<Text> = "", reload,
        "Name of the database on the server; default: the name that the client asked for."),
    setting!(host: Maybe<Hosts> = r#""127.0.0.1""#, reload,
        "Where the server is: a name, an address, the directory of a Unix socket (`@name`: in the abstract namespace), or several of these, tried in order. Default in a pgbouncer.ini: the Unix socket in `unix_socket_dir`."),
    setting!(port: Maybe<Port<1>> = "5432", reload,
        "Port of the server, also in the name of its Unix socket."),
    setting!(load_balance_hosts: Maybe<Word<LoadBalance>> = "", reload,
        "Which of several hosts a new server connection goes to: the next in turn (`round-robin`), or the one that answered last (`disable`). Where it cannot be reached, the others are tried. Default: `disable`; in a pgbouncer.ini: `round-robin`."),
    setting!(user: Maybe<Text> = "", reload,
        "A fixed server user: all clients of the database share one pool. Default: each client's own user, with a pool each."),
    setting!(password: Maybe<Password> = "", reload,
        "Password of the fixed `user`; default: the one that `[users]` or `auth_file` has for it."),
    setting!(password_file: Maybe<File> = "", reload,
        "File that holds the password and nothing else; read at each login to the server."),
    setting!(password_env: Maybe<Text> = "", reload,
        "Environment variable that holds the password."),
    setting!(password_command: Maybe<Text> = "", reload,
        "Command for the shell that prints the password, such as a token; it finds PGHOST, PGPORT, PGUSER and PGDATABASE in its environment."),
    setting!(password_cache_time: Maybe<Time> = "", reload,
        "How long the output of `password_command` is used; default: `\"1min\"`."),
    setting!(auth_user: Maybe<Text> = "", reload,
        "Overrides the general `auth_user`."),
    setting!(auth_query: Maybe<Text> = "", reload,
        "Overrides the general `auth_query`."),
    setting!(auth_dbname: Maybe<Text> = "", reload,
        "Overrides the general `auth_dbname`."),
    setting!(pool_mode: Maybe<Word<PoolMode>> = "", reload,
        "Overrides the user's and the general `pool_mode`."),
    setting!(pool_size: Maybe<Limit> = "", reload,
        "Overrides the user's `pool_size` and `default_pool_size`."),
    setting!(min_pool_size: Maybe<Number<0>> = "", reload,
        "Overrides the general `min_pool_size`."),
    setting!(reserve_pool_size: Maybe<Number<0>> = "", reload,
        "Overrides the general `reserve_pool_size`."),
    setting!(max_db_connections: Maybe<Limit> = "", reload,
        "Overrides the general `max_db_connections`."),
    setting!(max_db_client_connections: Maybe<Limit> = "", reload,
        "Overrides the general `max_db_client_connections`."),
    setting!(reset: Maybe<Word<Reset>> = "", reload,
        "Overrides the general `reset`."),
    setting!(pin: Maybe<Word<Pin>> = "", reload,
        "Overrides the general `pin`."),
    setting!(max_pinned: Maybe<Limit> = "", reload,
        "Overrides the general `max_pinned`."),
    setting!(pin_sequences: Maybe<Flag> = "", reload,
        "Overrides the general `pin_sequences`."),
    setting!(listen: Maybe<Word<Listen>> = "", reload,
        "Overrides the general `listen`."),
    setting!(query_wait_timeout: Maybe<TimeLimit> = "", reload,
        "Overrides the user's and the general `query_wait_timeout`."),
    setting!(server_lifetime: Maybe<TimeLimit> = "", reload,
        "Overrides the general `server_lifetime`."),
    setting!(connect_query: Maybe<Text> = "", reload,
        "Statements that a server runs right after its login."),
    setting!(client_encoding: Maybe<Text> = "", reload,
        "Setting that servers start with."),
    setting!(datestyle: Maybe<Text> = "", reload,
        "Setting that servers start with."),
    setting!(timezone: Maybe<Text> = "", reload,
        "Setting that servers start with."),
    setting!(application_name: Maybe<Text> = "", reload,
        "Setting that servers start with."),
];

/// The settings of a name by which clients reach pgvalet.
#[rustfmt::skip]
pub(in crate::config) static NAME: &[Setting<NameEntry>] = &[
    setting!(cert_file: Maybe<File> = "", reload,
        "Certificate that is shown to clients who connect to this name, with its chain; default: that of `client_tls_cert_file`."),
    setting!(key_file: Maybe<File> = "", reload,
        "The private key of `cert_file`."),
    setting!(database: Maybe<Text> = "", reload,
        "Database, of `[databases]`, that clients get who connect to this name, in place of the one that they ask for (but for the admin console); a `*` in it is what the `*` of the name stands for."),
];

/// The settings of a user. An empty default is inherited: from the database, or from the general setting.
#[rustfmt::skip]
pub(in crate::config) static USER: &[Setting<UserEntry>] = &[
    setting!(password: Maybe<Password> = "", reload,
        "The user's secret: the password, `md5` and its hash, or a `SCRAM-SHA-256$` verifier as in `pg_authid`."),
    setting!(password_file: Maybe<File> = "", reload,
        "File that holds the secret and nothing else; read at start and at each reload."),
    setting!(password_env: Maybe<Text> = "", reload,
        "Environment variable that holds the secret."),
    setting!(pool_mode: Maybe<Word<PoolMode>> = "", reload,
        "Overrides the general `pool_mode`."),
    setting!(pool_size: Maybe<Limit> = "", reload,
        "Overrides `default_pool_size` in databases that have no `pool_size` of their own."),
    setting!(reserve_pool_size: Maybe<Number<0>> = "", reload,
        "Overrides the database's and the general `reserve_pool_size`."),
    setting!(max_user_connections: Maybe<Limit> = "", reload,
        "Overrides the general `max_user_connections`."),
    setting!(max_user_client_connections: Maybe<Limit> = "", reload,
        "Overrides the general `max_user_client_connections`."),
    setting!(query_timeout: Maybe<TimeLimit> = "", reload,
        "Overrides the general `query_timeout`."),
    setting!(query_wait_timeout: Maybe<TimeLimit> = "", reload,
        "Overrides the general `query_wait_timeout`."),
    setting!(client_idle_timeout: Maybe<TimeLimit> = "", reload,
        "Overrides the general `client_idle_timeout`."),
    setting!(idle_transaction_timeout: Maybe<TimeLimit> = "", reload,
        "Overrides the general `idle_transaction_timeout`."),
    setting!(transaction_timeout: Maybe<TimeLimit> = "", reload,
        "Overrides the general `transaction_timeout`."),
];

/// The settings of a peer.
#[rustfmt::skip]
pub(in crate::config) static PEER: &[Setting<PeerEntry>] = &[
    setting!(host: Maybe<Hosts> = "", reload,
        "Where that process itself listens, past whatever spreads connections: a name, an address, or the directory of a Unix socket."),
    setting!(port: Maybe<Port<1>> = "6432", reload,
        "Its port there, also in the name of its Unix socket."),
    setting!(pool_size: Maybe<Limit> = "", reload,
        "Cancel requests that may be on their way to it at once; default: `default_pool_size`. 0: no limit."),
];
