//! What the process is told of sockets and of its log.

use std::path::PathBuf;
use std::time::Duration;

/// TCP options for client and server sockets. `None`: the system's default.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Tcp {
    /// Whether keepalive probes are sent.
    pub keepalive: bool,
    /// Probes before the connection counts as dead.
    pub keepcnt: Option<u32>,
    /// Idle time before the first probe.
    pub keepidle: Option<Duration>,
    /// Time between probes.
    pub keepintvl: Option<Duration>,
    /// Time that sent data may stay unacknowledged.
    pub user_timeout: Option<Duration>,
    /// Bytes of the kernel's buffers, for each direction.
    pub socket_buffer: Option<u32>,
}

/// What is logged, how, and where to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Log {
    /// A `tracing` filter such as `info` or `info,pgvalet::pool=debug`.
    pub level: String,
    /// How much more than `level` says: 1 debug, from 2 on trace.
    pub verbose: u32,
    /// One JSON object a line instead of text.
    pub json: bool,
    /// A file, besides standard error; an absolute path.
    pub file: Option<PathBuf>,
    /// Syslog, besides standard error.
    pub syslog: Syslog,
    /// Log each client's login.
    pub connections: bool,
    /// Log each client's end.
    pub disconnections: bool,
    /// Log the errors that pgvalet itself sends to clients.
    pub pooler_errors: bool,
    /// Log averages at the end of each `stats_period`.
    pub stats: bool,
}

/// The log in syslog.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Syslog {
    /// Whether it goes there.
    pub on: bool,
    /// The program's name there.
    pub ident: String,
    /// What kind of program it is.
    pub facility: Facility,
}

/// Facilities of syslog, by their numbers there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[allow(missing_docs)]
pub enum Facility {
    User = 1,
    #[default]
    Daemon = 3,
    Auth = 4,
    AuthPriv = 10,
    Local0 = 16,
    Local1,
    Local2,
    Local3,
    Local4,
    Local5,
    Local6,
    Local7,
}
