//! What two processes say to each other while one takes the place of the other.
//!
//! Written as MessagePack with the names of fields, so that a newer version can add some: whoever does not know them passes over
//! them, and what is missing has its default. What cannot be understood that way gets another [`PROTOCOL`]. Secrets are
//! among it; it travels between processes of one user only.

use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;
use std::time::SystemTime;
use zeroize::ZeroizeOnDrop;

/// The version of this conversation. Both sides have to have the same.
pub const PROTOCOL: u32 = 1;

/// Names and values.
pub type Pairs = Vec<(String, String)>;

/// One thing said.
#[derive(Debug, Serialize, Deserialize)]
pub enum Message {
    /// New to old, first of all.
    Hello {
        /// Its [`PROTOCOL`].
        protocol: u32,
        /// Its version, for the log.
        version: String,
        /// Its process id.
        pid: u32,
    },
    /// Old to new: there will be nothing; why.
    Refused(String),
    /// Old to new: what the new one listens on. The descriptors come with it: the listeners in order, then the one for
    /// metrics.
    Offer(Offer),
    /// Old to new: what logins have taught.
    Learnt(Lessons),
    /// Old to new: with what clients are greeted, so that the first logins wait for no server.
    Greetings(Vec<Greeting>),
    /// New to old: it could begin to serve.
    Ready,
    /// New to old: it cannot start; why.
    Failed(String),
    /// Old to new: begin to serve.
    Go,
    /// Old to new: a client, with its connection as a descriptor.
    Client(Box<ClientState>),
    /// New to old: it ends as it was told to, and nobody needs to step in.
    Farewell,
    /// A cancel request for somebody whom the speaker does not know.
    Cancel {
        /// Number of the request.
        id: u64,
        /// Process id that it names.
        pid: i32,
        /// Secret that it shows.
        secret: ByteBuf,
    },
    /// The cancel request of this number has been dealt with.
    Canceled(u64),
}

/// What the new process begins with.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Offer {
    /// For each listener, whether it is a Unix socket whose file goes with it.
    pub listeners: Vec<bool>,
    /// Whether the last descriptor is where metrics are served.
    pub metrics: bool,
    /// How the speaker sums up the columns of a result: the sum of a fixed example.
    pub shapes: u64,
    /// Everything is paused.
    #[serde(default)]
    pub all_paused: bool,
    /// Databases that are paused.
    #[serde(default)]
    pub paused: Vec<String>,
    /// Databases that are disabled.
    #[serde(default)]
    pub disabled: Vec<String>,
}

/// What servers report to clients that log in with certain settings.
#[derive(Debug, Serialize, Deserialize)]
pub struct Greeting {
    /// Name of the database for clients.
    pub database: String,
    /// User on the server.
    pub user: String,
    /// Where the servers are: it is good for no others.
    pub place: String,
    /// The settings.
    pub settings: Pairs,
    /// What they report.
    pub reported: Reports,
}

/// Names and values as servers report them.
pub type Reports = Vec<(ByteBuf, ByteBuf)>;

/// What logins have taught: keys and secrets of users who are in no file.
#[derive(Default, Serialize, Deserialize)]
pub struct Lessons {
    /// Keys.
    pub keys: Vec<LearntKeys>,
    /// Secrets.
    pub secrets: Vec<LearntSecret>,
}

/// The keys of a user for one verifier. Wiped when dropped.
#[derive(Serialize, Deserialize, ZeroizeOnDrop)]
pub struct LearntKeys {
    /// Who vouches for the verifier.
    pub witness: String,
    /// The user.
    pub user: String,
    /// The verifier's salt.
    #[zeroize(skip)]
    pub salt: ByteBuf,
    /// The verifier's count.
    pub iterations: u32,
    /// The client's key.
    pub client_key: [u8; 32],
    /// The server's key.
    pub server_key: [u8; 32],
}

/// The secret of a user on one server. Wiped when dropped.
#[derive(Serialize, Deserialize, ZeroizeOnDrop)]
pub struct LearntSecret {
    /// Who vouches for it.
    pub witness: String,
    /// Hosts; a directory begins with `/`.
    pub hosts: Vec<String>,
    /// Port.
    pub port: u16,
    /// The user.
    pub user: String,
    /// The secret, as `pg_authid` would have it.
    pub secret: String,
}

impl std::fmt::Debug for Lessons {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Lessons({}, {})", self.keys.len(), self.secrets.len())
    }
}

/// A client between two requests, outside a transaction and without a server.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct ClientState {
    /// Name of the database it asked for.
    pub database: String,
    /// Its user.
    pub user: String,
    /// Process id in its BackendKeyData.
    pub pid: i32,
    /// Secret in its BackendKeyData.
    pub secret: ByteBuf,
    /// Its end of the connection: an address and port, or the path of our Unix socket.
    pub peer: String,
    /// What it called itself at its login.
    pub application_name: String,
    /// When it logged in.
    pub connected_at: Option<SystemTime>,
    /// The settings it logged in with.
    pub startup: Pairs,
    /// Its settings, if they are others by now.
    pub settings: Option<Pairs>,
    /// One of them takes rights that may be taken away. Missing in what older versions send.
    #[serde(default)]
    pub takes_rights: bool,
    /// What servers report under the settings that it logged in with.
    pub startup_reported: Reports,
    /// What it has been told, if that is something else.
    pub told: Option<Reports>,
    /// Its prepared statements, the unnamed one among them.
    pub statements: Vec<StatementState>,
    /// It has asked for `currval` or `lastval`.
    pub asks_currval: bool,
    /// What it has sent and nobody has looked at.
    pub input: ByteBuf,
}

/// One of a client's prepared statements.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct StatementState {
    /// The client's name for it.
    pub name: ByteBuf,
    /// The body of its Parse behind the name.
    pub rest: ByteBuf,
    /// The whole PREPARE, of a statement that SQL made.
    pub sql: Option<ByteBuf>,
    /// Settings under which its text was understood.
    pub scope: Pairs,
    /// Its columns, summed up.
    pub shape: Option<u64>,
}
