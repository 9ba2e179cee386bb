//! The one table of settings: name, kind, default, whether a reload applies it, and what it does.
//!
//! Everything that has to know the settings derives from it: both file readers, `convert`, the check of
//! docs/configuration.md, and SHOW CONFIG. A new setting is one entry here and one field in [`General`] (or in
//! `DatabaseEntry` or `UserEntry` with its resolution in `resolve`).

use std::time::Duration;

use serde::Deserialize;

use super::problem::nearest;
use super::tls::{ClientTls, Negotiation, ServerTls, SslMode};
use super::units::{
    Addresses, CheckQuery, Directory, File, FileMode, Flag, Limit, LogFormat, LogLevel, MillisLimit, Names,
    Number, OptionalAddress, OptionalText, Pause, PeerId, Port, Protocols, Roots, Scalar, Suites, Text, Time,
    TimeLimit, Unit, Word, Workers,
};
use super::{
    AuthType, Config, Facility, General, Listen, ListenerLost, Log, Pin, PoolMode, Reset, Tcp, missing,
};

/// A setting, as documentation and SHOW CONFIG see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct About {
    /// Its name in both file formats.
    pub name: &'static str,
    /// The kind of its value.
    pub kind: &'static str,
    /// Its default, as it would be written in TOML; empty if it has none.
    pub default: &'static str,
    /// pgbouncer's default where it differs; it holds in a pgbouncer.ini.
    pub pgbouncer: Option<&'static str>,
    /// Whether a reload applies a new value; else a restart does.
    pub reload: bool,
    /// What it does.
    pub doc: &'static str,
}

/// The settings of the process and of all pools: the top level of the TOML, `[pgbouncer]` of an ini.
pub fn general() -> impl Iterator<Item = About> {
    GENERAL.iter().map(|setting| setting.about)
}

/// The settings of a database: `[databases.NAME]`.
pub fn database() -> impl Iterator<Item = About> {
    DATABASE.iter().map(|setting| setting.about)
}

/// The settings of a user: `[users.NAME]`.
pub fn user() -> impl Iterator<Item = About> {
    USER.iter().map(|setting| setting.about)
}

/// The settings of a peer: `[peers.ID]`.
pub fn peer() -> impl Iterator<Item = About> {
    PEER.iter().map(|setting| setting.about)
}

/// The settings of a name by which clients reach pgvalet: `[client_tls_names.NAME]`.
pub fn name() -> impl Iterator<Item = About> {
    NAME.iter().map(|setting| setting.about)
}

/// Every general setting with its value in `general`, as it would be written in TOML.
pub fn values(general: &General) -> impl Iterator<Item = (About, String)> {
    GENERAL.iter().map(|setting| (setting.about, (setting.write)(general).unwrap_or_default()))
}

/// A setting in force, as an ini would write it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InForce {
    /// Its name.
    pub name: &'static str,
    /// Its value.
    pub value: String,
    /// The value where the file says nothing.
    pub default: String,
    /// Whether it can be changed without a restart.
    pub reload: bool,
}

/// Every general setting by name; with a pgbouncer.ini also those that pgvalet has no use for.
pub fn in_force(config: &Config) -> Vec<InForce> {
    super::change::in_force(config)
}

/// A setting of `T`: what is told about it, and how it gets in and out.
pub(super) struct Setting<T> {
    pub(super) about: About,
    read: fn(&mut T, &Scalar) -> Result<(), String>,
    pub(super) write: fn(&T) -> Option<String>,
}

/// Reads `scalar` into the setting `key` of `target`.
pub(super) fn apply<T>(
    table: &[Setting<T>],
    target: &mut T,
    key: &str,
    scalar: &Scalar,
) -> Result<(), String> {
    match table.iter().find(|setting| setting.about.name == key) {
        Some(setting) => (setting.read)(target, scalar),
        None => Err(unknown(key, table.iter().map(|setting| setting.about.name))),
    }
}

/// What to say of a key that no setting has.
fn unknown<'a>(key: &str, names: impl Iterator<Item = &'a str>) -> String {
    if let Some(why) = missing::why(key) {
        return format!("unknown key; pgbouncer has it, but {why}");
    }
    match nearest(key, names) {
        Some(name) => format!("unknown key; did you mean {name}?"),
        None => "unknown key; docs/configuration.md lists all that there are".into(),
    }
}

/// The general settings where a file says nothing; `ini`: with pgbouncer's defaults where they differ.
pub(super) fn defaults(ini: bool) -> General {
    let mut general = blank();
    for setting in GENERAL {
        let about = setting.about;
        let default = if ini { about.pgbouncer.unwrap_or(about.default) } else { about.default };
        let scalar = toml::de::ValueDeserializer::parse(default).and_then(Scalar::deserialize);
        let read = scalar
            .map_err(|error| error.to_string())
            .and_then(|scalar| (setting.read)(&mut general, &scalar));
        // A default that does not parse is a slip in the table below; the tests of this module find it.
        debug_assert!(read.is_ok(), "default of {}: {read:?}", about.name);
    }
    general
}

macro_rules! setting {
    ($name:ident: $unit:ty = $default:literal $(/ $pgbouncer:literal)?, $when:ident, $doc:literal) => {
        setting!($name => $name: $unit = $default $(/ $pgbouncer)?, $when, $doc)
    };
    ($name:ident => $($field:ident).+: $unit:ty = $default:literal $(/ $pgbouncer:literal)?, $when:ident, $doc:literal) => {
        Setting {
            about: About {
                name: stringify!($name),
                kind: <$unit as Unit>::KIND,
                default: $default,
                pgbouncer: setting!(@pgbouncer $($pgbouncer)?),
                reload: setting!(@when $when),
                doc: $doc,
            },
            read: |target, scalar| {
                target.$($field).+ = <$unit>::read(scalar)?;
                Ok(())
            },
            write: |target| <$unit>::write(&target.$($field).+),
        }
    };
    (@pgbouncer) => { None };
    (@pgbouncer $default:literal) => { Some($default) };
    (@when reload) => { true };
    (@when restart) => { false };
}

mod entries;

pub(super) use entries::{DATABASE, DatabaseEntry, NAME, NameEntry, PEER, PeerEntry, USER, UserEntry};

/// The general settings: `name: Unit = default / pgbouncer's default`.
#[rustfmt::skip] // one setting, one paragraph
pub(super) static GENERAL: &[Setting<General>] = &[
    setting!(workers: Workers = r#""auto""#, restart,
        "Worker threads; `\"auto\"` is one for every two cores, which leaves room for PostgreSQL or clients on the same machine. On a machine of its own, one for each core."),
    setting!(listen_addr: Addresses = r#"["127.0.0.1"]"# / "[]", restart,
        "TCP addresses to listen on; `\"*\"` is every address (`0.0.0.0` and `::`), `[]` is none."),
    setting!(listen_port: Port<0> = "6432", restart,
        "TCP port, also in the name of the Unix socket; 0 is any free port."),
    setting!(listen_backlog: Number<1> = "4096" / "128", restart,
        "Connections that may wait in the kernel to be accepted."),
    setting!(so_reuseport: Flag = "false", restart,
        "Let several processes listen on the same port, and the kernel spread connections over them; for cancel requests see `peer_id`."),
    setting!(peer_id: PeerId = "0", restart,
        "Number of this process among those that share an address (`[peers]`), 1 to 16383; 0: it shares none."),
    setting!(unix_socket_dir: Directory = r#""""# / r#""/tmp""#, restart,
        "Directory of the Unix socket `.s.PGSQL.<listen_port>`; empty for none. A name that begins with `@` is one in the abstract namespace, without a file and its permissions."),
    setting!(unix_socket_mode: FileMode = r#""0777""#, restart,
        "Permissions of the Unix socket."),
    setting!(unix_socket_group: OptionalText = r#""""#, restart,
        "Group of the Unix socket, by name; empty for that of the process."),
    setting!(user: OptionalText = r#""""#, restart,
        "User to change to at the start, before sockets and files are opened; pgvalet must have been started as root, or as that user. Default: none."),
    setting!(pidfile: File = r#""""#, restart,
        "File that holds the process id while pgvalet runs; `--daemon` needs it. Default: none."),

    setting!(pool_mode: Word<PoolMode> = r#""transaction""# / r#""session""#, reload,
        "How long a client keeps a server: until it leaves, until its transaction ends, or until its statement ends."),
    setting!(max_client_conn: Number<1> = "10000" / "100", reload,
        "Clients at the same time, once they have logged in; one more is refused. The admin console is not counted."),
    setting!(max_client_logins: Limit = "1000", reload,
        "TCP connections that may be logging in at the same time; 0: no limit. One more waits; if a login takes more than 3 s then, it is ended: the longest one of the address that has most."),
    setting!(max_failed_logins: Limit = "100", reload,
        "Logins of one address (of IPv6: one /64) that may fail in a second, and ten times as many at once; beyond that, its connections are turned away. 0: no limit."),
    setting!(default_pool_size: Limit = "20", reload,
        "Servers that one pool may have; 0: no limit. A pool is a database and a user, or a database with a fixed `user`."),
    setting!(min_pool_size: Number<0> = "0", reload,
        "Servers that a pool keeps open even if nobody needs them."),
    setting!(reserve_pool_size: Number<0> = "0", reload,
        "Further servers for a pool whose clients have waited `reserve_pool_timeout`."),
    setting!(reserve_pool_timeout: TimeLimit = r#""5s""#, reload,
        "How long a client waits before the reserve opens; 0: never."),
    setting!(max_db_connections: Limit = "0", reload,
        "Servers that one database may have over all its pools; 0: no limit."),
    setting!(max_user_connections: Limit = "0", reload,
        "Servers that one user may have over all pools; 0: no limit."),
    setting!(max_db_client_connections: Limit = "0", reload,
        "Clients that one database may have; one more is refused. 0: no limit."),
    setting!(max_user_client_connections: Limit = "0", reload,
        "Clients that one user may have over all databases; one more is refused. 0: no limit."),
    setting!(server_round_robin: Flag = "false", reload,
        "Lend the server that was idle longest, so that all get the same load; else the one used last, so that few get most."),
    setting!(max_prepared_statements: Number<0> = "200", reload,
        "Statements kept prepared on one server; the least recently used makes room."),

    setting!(auth_type: Word<AuthType> = r#""scram-sha-256""# / r#""md5""#, reload,
        "How clients prove who they are; [authentication.md](authentication.md) has the details."),
    setting!(auth_file: File = r#""""#, reload,
        "File of users and secrets, one `\"user\" \"secret\"` a line; relative to the directory of the configuration file. Default: none."),
    setting!(auth_hba_file: File = r#""""#, reload,
        "File of rules in the format of pg_hba.conf, for `auth_type = \"hba\"`. Default: none."),
    setting!(auth_ident_file: File = r#""""#, reload,
        "File of user name maps in the format of pg_ident.conf, for `map=` in `auth_hba_file`. Default: none."),
    setting!(auth_ldap_options: OptionalText = r#""""#, reload,
        "Options of PostgreSQL's method `ldap`, for `auth_type = \"ldap\"`, such as `ldapurl=\"ldaps://host/dc=example,dc=net?uid?sub\"`. Default: none."),
    setting!(auth_user: OptionalText = r#""""#, reload,
        "Server user that looks up, by `auth_query`, users whose secret is in no file; empty: nobody does."),
    setting!(auth_query: OptionalText = r#""""#, reload,
        "Query that gives the name, the secret and, if wanted, the roles (`text[]`) of the user `$1`; empty: one of `pg_authid` that honours `VALID UNTIL`."),
    setting!(auth_dbname: OptionalText = r#""""#, reload,
        "Name, in `[databases]`, of the database that `auth_query` runs in; empty: the one that the client asks for."),
    setting!(auth_query_timeout: TimeLimit = r#""5s""#, reload,
        "Time that looking up a user may take; 0: no limit."),
    setting!(auth_query_cache_time: Time = r#""10s""#, reload,
        "How long a user that was looked up is believed to be so. After a failed login it is looked up again sooner."),
    setting!(scram_iterations: Number<1> = "4096", reload,
        "Iterations for SCRAM with secrets that are stored plain."),
    setting!(admin_users: Names = "[]", reload,
        "Users who may do everything on the admin console."),
    setting!(stats_users: Names = "[]", reload,
        "Users who may look at the admin console."),

    setting!(reset: Word<Reset> = r#""auto""#, reload,
        "What a server goes through between two clients: the least that makes it as new, a full reset that spares only the prepared statements which clients share, or nothing."),
    setting!(server_reset_query: Text = r#""DISCARD ALL""#, reload,
        "What a full reset runs after `DISCARD ALL`, if it is anything else."),
    setting!(pin: Word<Pin> = r#""allow""#, reload,
        "What happens to a client whose session holds what only its server has (docs/session-state.md): it keeps the server, or it is ended."),
    setting!(max_pinned: Limit = "0", reload,
        "Clients of a pool that may keep a server for themselves; one more is ended. 0: no limit."),
    setting!(pin_timeout: TimeLimit = "0", reload,
        "Time that a client may be idle while it keeps a server for itself; 0: no limit."),
    setting!(pin_sequences: Flag = "true", reload,
        "Whether calling `nextval` or `setval` makes a client keep its server, so that `currval` and `lastval` answer."),
    setting!(listen: Word<Listen> = r#""shared""#, reload,
        "Who listens for clients that LISTEN: one connection for each database, so that they hold no server; or the server that they then keep."),
    setting!(listener_lost: Word<ListenerLost> = r#""end""#, reload,
        "What becomes of clients that LISTEN when the shared listener is lost: they are ended, as they would be without pgvalet; or they stay and miss what was notified meanwhile."),
    setting!(notification_buffer: Number<1> = "8388608", reload,
        "Bytes of notifications that may wait for one client; one that does not take them is ended."),
    setting!(catalog_probe_interval: Time = r#""30s""#, reload,
        "How long what the catalog says of triggers, views and functions is believed; `reset = \"auto\"` relies on it."),
    setting!(server_check_query: CheckQuery = r#""<empty>""#, reload,
        "Query that shows an idle server to be alive; `\"<empty>\"` is the empty query, `\"\"` is no check."),
    setting!(server_check_delay: Time = r#""30s""#, reload,
        "Idle time after which a server is checked before it is used; 0: always."),
    setting!(server_lifetime: TimeLimit = r#""1h""#, reload,
        "Age after which a server is closed as soon as it is free; 0: none."),
    setting!(server_idle_timeout: TimeLimit = r#""10min""#, reload,
        "Idle time after which a server is closed; 0: none."),
    setting!(autodb_idle_timeout: TimeLimit = r#""1h""#, reload,
        "Time after which a pool of a database that only `*` stands for is forgotten, with what was counted for it, once it has neither clients nor servers; 0: never."),
    setting!(pool_idle_timeout: TimeLimit = "0", reload,
        "The same for every pool; 0: never."),
    setting!(server_connect_timeout: TimeLimit = r#""15s""#, reload,
        "Time that connecting and logging in to a server may take; 0: no limit."),
    setting!(server_login_retry: Pause = r#""1s""# / r#""15s""#, reload,
        "Pause after a failed connect; it doubles with each further failure, up to 16 times this."),
    setting!(dns_max_ttl: TimeLimit = r#""15s""#, reload,
        "How often the names of servers are looked up again. A server at an address that its name had in none of two lookups is replaced as soon as it is free; 0: never."),
    setting!(server_fast_close: Flag = "false", reload,
        "Under session pooling, end a client between two transactions if its server is to be replaced (`RECONNECT`, a changed configuration), instead of waiting until it leaves."),

    setting!(application_name_add_host: Flag = "false", reload,
        "Add the client's address to the `application_name` that it logs in with."),
    setting!(ignore_startup_parameters: Names = "[]", reload,
        "Startup parameters that are passed over when a client logs in, also within `options`; all others follow the client."),
    setting!(disable_pqexec: Flag = "false", reload,
        "End clients that use the simple query protocol, which takes several statements in one text; those that only use the extended one go on."),
    setting!(login_notify_message: OptionalText = r#""""#, reload,
        "Notice that every client gets when it has logged in; empty: none."),

    setting!(client_login_timeout: TimeLimit = r#""1min""#, reload,
        "Time a client may take to log in; 0: no limit."),
    setting!(query_timeout: TimeLimit = "0", reload,
        "Time a query may run; 0: no limit."),
    setting!(query_wait_timeout: TimeLimit = r#""2min""#, reload,
        "Time a client may wait for a server; 0: no limit."),
    setting!(query_wait_notify: TimeLimit = r#""5s""#, reload,
        "Time that a client waits for a server before it is told so in a notice; 0: it is not told."),
    setting!(cancel_wait_timeout: TimeLimit = r#""10s""#, reload,
        "Time that delivering a cancel request may take; 0: no limit."),
    setting!(client_idle_timeout: TimeLimit = "0", reload,
        "Time a client may be idle outside a transaction; 0: no limit."),
    setting!(idle_transaction_timeout: TimeLimit = "0", reload,
        "Time a client may be idle inside a transaction; 0: no limit."),
    setting!(transaction_timeout: TimeLimit = "0", reload,
        "Time a transaction may take; 0: no limit."),
    setting!(shutdown_timeout: TimeLimit = r#""1min""# / "0", reload,
        "Time that running transactions get when pgvalet shuts down; 0: as long as they take."),

    setting!(upgrade_timeout: TimeLimit = "0", reload,
        "Time that clients which cannot go to a new process (UPGRADE) may stay with the old one; 0: as long as they like."),

    setting!(client_tls_sslmode => client_tls.sslmode: Word<SslMode> = r#""disable""#, reload,
        "Whether clients may use TLS (`allow`, `prefer`: the same), must (`require`), or must show a certificate of an authority in `client_tls_ca_file` too (`verify-ca`, `verify-full`: the same). Unix sockets go without."),
    setting!(client_tls_key_file => client_tls.key_file: File = r#""""#, reload,
        "Private key for TLS with clients: PEM, not encrypted. Read again when it changes, like the next two."),
    setting!(client_tls_cert_file => client_tls.cert_file: File = r#""""#, reload,
        "Certificate of that key, and the certificates between it and its authority: PEM."),
    setting!(client_tls_ca_file => client_tls.ca_file: File = r#""""#, reload,
        "Authorities of clients' certificates: PEM. With it clients are asked for a certificate, and one that they show must be valid."),
    setting!(client_tls_crl_file => client_tls.crl_file: File = r#""""#, reload,
        "What the authorities in `client_tls_ca_file` have revoked: PEM, with a list of each of them that is in force. Read again when it changes. Empty: nobody is asked what is revoked."),
    setting!(client_tls_protocols => client_tls.protocols: Protocols = r#""secure""#, reload,
        "Versions of TLS with clients: `tlsv1.2`, `tlsv1.3`; `secure` is both."),
    setting!(client_tls_ciphers => client_tls.ciphers: Suites<false> = r#""default""#, reload,
        "Cipher suites of TLS 1.2 with clients, by their names in the standards or in OpenSSL, with commas or colons between; `default` is all, which are all safe."),
    setting!(client_tls13_ciphers => client_tls.tls13_ciphers: Suites<true> = r#""default""#, reload,
        "The same for TLS 1.3."),

    setting!(server_tls_sslmode => server_tls.sslmode: Word<SslMode> = r#""prefer""#, reload,
        "Whether TLS is used with servers: never, where they insist (`allow`), where they can (`prefer`), always (`require`); always, with a certificate of an authority in `server_tls_ca_file` (`verify-ca`), made out to `host` (`verify-full`). Unix sockets go without."),
    setting!(server_tls_sslnegotiation => server_tls.negotiation: Word<Negotiation> = r#""postgres""#, reload,
        "How TLS begins with servers: they are asked first, or (PostgreSQL 17 or later) it begins at once, which saves a round trip."),
    setting!(server_tls_ca_file => server_tls.authorities: Roots = r#""""#, reload,
        "Authorities of servers' certificates: PEM, or `\"system\"` for those that the operating system trusts. Read again when it changes, like the next three."),
    setting!(server_tls_crl_file => server_tls.crl_file: File = r#""""#, reload,
        "What those authorities have revoked, as `client_tls_crl_file`; for `verify-ca` and `verify-full`."),
    setting!(server_tls_cert_file => server_tls.cert_file: File = r#""""#, reload,
        "Certificate that servers are shown if they ask for one: PEM."),
    setting!(server_tls_key_file => server_tls.key_file: File = r#""""#, reload,
        "Private key of that certificate: PEM, not encrypted."),
    setting!(server_tls_protocols => server_tls.protocols: Protocols = r#""secure""#, reload,
        "Versions of TLS with servers: `tlsv1.2`, `tlsv1.3`; `secure` is both."),
    setting!(server_tls_ciphers => server_tls.ciphers: Suites<false> = r#""default""#, reload,
        "Cipher suites of TLS 1.2 with servers; see `client_tls_ciphers`."),
    setting!(server_tls13_ciphers => server_tls.tls13_ciphers: Suites<true> = r#""default""#, reload,
        "The same for TLS 1.3."),

    setting!(metrics_listen: OptionalAddress = r#""""#, restart,
        "Address and port where `/metrics` (for Prometheus), `/healthz` and `/readyz` are served over HTTP, such as `127.0.0.1:9127`; port 0 is any free port, empty is nowhere."),
    setting!(stats_period: Pause = r#""1min""#, reload,
        "Over how long the averages of SHOW STATS are taken: what happened in the last one to two periods."),

    setting!(tcp_keepalive => tcp.keepalive: Flag = "true", restart,
        "Send TCP keepalive probes, to clients and servers."),
    setting!(tcp_keepcnt => tcp.keepcnt: Limit = "0", restart,
        "Unanswered probes after which a connection is dead; 0: the system's default."),
    setting!(tcp_keepidle => tcp.keepidle: TimeLimit = "0", restart,
        "Idle time before the first probe; 0: the system's default."),
    setting!(tcp_keepintvl => tcp.keepintvl: TimeLimit = "0", restart,
        "Time between probes; 0: the system's default."),
    setting!(tcp_user_timeout => tcp.user_timeout: MillisLimit = "0", restart,
        "Time that sent data may stay unacknowledged; 0: the system's default."),
    setting!(tcp_socket_buffer => tcp.socket_buffer: Limit = "0", restart,
        "Bytes of the kernel's buffers of each connection, one for each direction; 0: the system sizes them."),

    setting!(log_level => log.level: LogLevel = r#""info""#, reload,
        "How much is logged: `error`, `warn`, `info`, `debug`, `trace`, or a filter such as `info,pgvalet::pool=debug`. What the TLS library notes by itself is there only if the filter names it (`info,rustls=debug`), or with `-v`."),
    setting!(log_format => log.json: LogFormat = r#""text""#, restart,
        "Lines of text, or one JSON object a line."),
    setting!(verbose => log.verbose: Number<0> = "0", reload,
        "How much more is logged than `log_level` says: 1 is `debug`, 2 or more `trace`; the same as `-v` on the command line."),
    setting!(logfile => log.file: File = r#""""#, reload,
        "File that the log is written to, besides standard error; opened anew by a reload. Default: none."),
    setting!(syslog => log.syslog.on: Flag = "false", restart,
        "Write the log to syslog, besides standard error."),
    setting!(syslog_ident => log.syslog.ident: Text = r#""pgvalet""# / r#""pgbouncer""#, restart,
        "Name of the program in syslog."),
    setting!(syslog_facility => log.syslog.facility: Word<Facility> = r#""daemon""#, restart,
        "Facility of the log in syslog."),
    setting!(log_connections => log.connections: Flag = "true", reload,
        "Log each client's login."),
    setting!(log_disconnections => log.disconnections: Flag = "true", reload,
        "Log each client's end, and why."),
    setting!(log_pooler_errors => log.pooler_errors: Flag = "true", reload,
        "Log the errors that pgvalet itself sends to clients."),
    setting!(log_stats => log.stats: Flag = "true", reload,
        "Log the averages over all databases at the end of each `stats_period`."),
];

/// Something to read the defaults into; nothing of it stays.
fn blank() -> General {
    General {
        workers: 1,
        listen_addr: Vec::new(),
        listen_port: 0,
        listen_backlog: 0,
        so_reuseport: false,
        peer_id: 0,
        unix_socket_dir: None,
        unix_socket_mode: 0,
        unix_socket_group: None,
        user: None,
        pidfile: None,
        pool_mode: PoolMode::Transaction,
        max_client_conn: 0,
        max_client_logins: None,
        max_failed_logins: None,
        default_pool_size: None,
        min_pool_size: 0,
        reserve_pool_size: 0,
        reserve_pool_timeout: None,
        max_db_connections: None,
        max_user_connections: None,
        max_db_client_connections: None,
        max_user_client_connections: None,
        server_round_robin: false,
        max_prepared_statements: 0,
        auth_type: AuthType::ScramSha256,
        auth_file: None,
        auth_hba_file: None,
        auth_ident_file: None,
        auth_ldap_options: None,
        auth_user: None,
        auth_query: None,
        auth_dbname: None,
        auth_query_timeout: None,
        auth_query_cache_time: Duration::ZERO,
        scram_iterations: 0,
        admin_users: Vec::new(),
        stats_users: Vec::new(),
        reset: Reset::Auto,
        pin: Pin::Allow,
        max_pinned: None,
        pin_timeout: None,
        pin_sequences: true,
        listen: Listen::Shared,
        listener_lost: ListenerLost::End,
        notification_buffer: 0,
        server_reset_query: String::new(),
        catalog_probe_interval: Duration::ZERO,
        server_check_query: None,
        server_check_delay: Duration::ZERO,
        server_lifetime: None,
        server_idle_timeout: None,
        autodb_idle_timeout: None,
        pool_idle_timeout: None,
        server_connect_timeout: None,
        server_login_retry: Duration::ZERO,
        dns_max_ttl: None,
        server_fast_close: false,
        application_name_add_host: false,
        ignore_startup_parameters: Vec::new(),
        disable_pqexec: false,
        login_notify_message: None,
        client_login_timeout: None,
        query_timeout: None,
        query_wait_timeout: None,
        query_wait_notify: None,
        cancel_wait_timeout: None,
        client_idle_timeout: None,
        idle_transaction_timeout: None,
        transaction_timeout: None,
        shutdown_timeout: None,
        upgrade_timeout: None,
        client_tls: ClientTls::default(),
        server_tls: ServerTls::default(),
        stats_period: Duration::ZERO,
        metrics_listen: None,
        tcp: Tcp::default(),
        log: Log::default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_default_parses_in_both_formats() {
        let (toml, ini) = (defaults(false), defaults(true));
        assert_eq!((toml.pool_mode, ini.pool_mode), (PoolMode::Transaction, PoolMode::Session));
        assert_eq!((toml.max_client_conn, ini.max_client_conn), (10_000, 100));
        assert_eq!(toml.server_check_query.as_deref(), Some(""));
        assert!(ini.listen_addr.is_empty() && !toml.listen_addr.is_empty());
    }

    #[test]
    fn defaults_are_written_as_they_stand_in_the_table() {
        for (about, value) in values(&defaults(false)).filter(|(about, _)| about.name != "workers") {
            assert_eq!(value, about.default, "{}", about.name);
        }
    }

    #[test]
    fn no_name_is_in_a_table_twice() {
        for mut names in [
            general().map(|about| about.name).collect::<Vec<_>>(),
            database().map(|about| about.name).collect(),
            user().map(|about| about.name).collect(),
        ] {
            let before = names.len();
            names.sort_unstable();
            names.dedup();
            assert_eq!(names.len(), before);
        }
    }
}
