//! The admin console, on the databases `pgbouncer` and `pgvalet`: commands in, tables out.
//!
//! It looks at what the pools and workers publish and never stands in the way of a transaction. [`command`] reads what is
//! asked, [`session`] speaks the protocol, [`tables`] has a file for each kind of table, [`averages`] the counters of SHOW
//! STATS over time, [`http`] and [`prometheus`] the endpoint for monitoring. What the console makes the process do goes through [`Control`].

pub mod averages;
pub mod command;
pub mod http;
pub mod prometheus;
pub mod session;
pub mod table;
pub mod tables;

use crate::client::census::Census;
use crate::client::context::{Console, ConsoleSession, Report};
use crate::client::door::Door;
use crate::client::peers::PeerPools;
use crate::error::{Error, Kind};
use crate::exchange::Exchange;
use crate::net::tls::expiry::Expiry;
use crate::pool::{Names, Registry};
use crate::protocol::ErrorMessage;
use averages::Averages;
use bytes::BytesMut;
use command::{Command, Shutdown};
use session::Session;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use table::{Column, Row, Type};

/// How often a command that waits looks whether it is done.
const LOOK: Duration = Duration::from_millis(10);
/// The name of the console's own database in tables, and its user.
pub const CONSOLE: &str = "pgbouncer";

/// Something that takes a while.
pub type Pending<'a, T> = Pin<Box<dyn Future<Output = T> + 'a>>;

/// What the console can make the process do.
pub trait Control: Send + Sync + std::fmt::Debug {
    /// Reads the configuration again; all that is wrong with it otherwise.
    fn reload(&self) -> Pending<'_, Result<(), String>>;
    /// Changes a setting; a word about it, or what is wrong with it.
    fn set<'a>(&'a self, key: &'a str, value: &'a str) -> Pending<'a, Result<Option<String>, String>>;
    /// Has a new process take this one's place; why it did not.
    fn upgrade(&self) -> Pending<'_, Result<(), String>>;
    /// Begins to shut down.
    fn shut_down(&self, how: Shutdown);
    /// Clients of each worker.
    fn worker_loads(&self) -> Vec<u32>;
    /// Has every worker tell of itself.
    fn reports(&self) -> Pending<'_, Vec<Report>>;
    /// Has every worker look after all pools, because an order was given.
    fn stir(&self) -> Pending<'_, ()>;
    /// Ends all clients of a database, or all.
    fn kill<'a>(&'a self, database: Option<&'a str>) -> Pending<'a, ()>;
    /// Ends one client; whether there is one of this number.
    fn kill_client(&self, id: u32) -> Pending<'_, bool>;
}

/// The console of a process.
#[derive(Debug)]
pub struct Admin {
    registry: Arc<Registry>,
    census: Arc<Census>,
    peers: Arc<PeerPools>,
    door: Arc<Door>,
    exchange: Arc<Exchange>,
    names: Arc<Names>,
    control: Box<dyn Control>,
    averages: Averages,
    /// Rows that sessions of `stats_users` have in memory.
    kept: AtomicUsize,
    draining: AtomicBool,
    /// When certificates expire, for the metrics.
    expiries: Mutex<Vec<Expiry>>,
}

/// Why new clients cannot be served.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unready {
    /// The process shuts down.
    #[error("shutting down")]
    ShuttingDown,
    /// Every pool fails to open server connections. Who asks need not be anybody in particular, so the errors are in the log.
    #[error("no server can be reached; the log of pgvalet says why")]
    NoServer,
}

/// What a command comes to.
#[derive(Debug, Default)]
pub struct Answer {
    /// Rows, of the columns that the command has.
    pub rows: Vec<Row>,
    /// The tag of CommandComplete.
    pub tag: String,
    /// What is said besides.
    pub notices: Vec<Notice>,
}

/// Something said besides.
#[derive(Debug)]
pub struct Notice {
    severity: &'static str,
    message: String,
    detail: Option<&'static str>,
}

impl Notice {
    pub(crate) fn write(&self, out: &mut BytesMut) {
        let Notice { severity, message, detail } = self;
        ErrorMessage { severity, code: "00000", message, detail: *detail, hint: None }.write(out);
    }
}

impl Answer {
    /// Just a tag.
    #[must_use]
    pub fn tag(tag: &str) -> Answer {
        Answer { tag: tag.into(), ..Answer::default() }
    }

    fn rows(rows: Vec<Row>) -> Answer {
        Answer { rows, ..Answer::tag("SHOW") }
    }
}

impl Command {
    /// The columns of its result, if it has one.
    #[must_use]
    pub fn columns(&self) -> Option<&'static [Column]> {
        match self {
            Command::Show(show) => show.columns(),
            Command::Parameter(name, _) => tables::parameter_columns(name),
            Command::SelectOne => Some(&[("?column?", Type::Int4)]),
            _ => None,
        }
    }

    /// Whether only `admin_users` may give it.
    #[must_use]
    pub fn needs_admin(&self) -> bool {
        match self {
            Command::Empty
            | Command::Parameter(..)
            | Command::SelectOne
            | Command::Begin
            | Command::Commit
            | Command::Rollback
            | Command::SetSession => false,
            Command::Show(show) => show.needs_admin(),
            _ => true,
        }
    }
}

impl Admin {
    /// A console that looks at these pools.
    #[must_use]
    pub fn new(
        registry: Arc<Registry>,
        census: Arc<Census>,
        peers: Arc<PeerPools>,
        door: Arc<Door>,
        exchange: Arc<Exchange>,
        names: Arc<Names>,
        control: Box<dyn Control>,
    ) -> Admin {
        Admin {
            registry,
            census,
            peers,
            door,
            exchange,
            names,
            control,
            averages: Averages::default(),
            kept: AtomicUsize::new(0),
            draining: AtomicBool::new(false),
            expiries: Mutex::default(),
        }
    }

    /// Takes note that the process shuts down, or goes on after all.
    pub fn set_draining(&self, draining: bool) {
        self.draining.store(draining, Ordering::Relaxed);
    }

    /// Takes note of when the certificates in force expire.
    pub fn set_expiries(&self, expiries: Vec<Expiry>) {
        *self.expiries.lock().unwrap_or_else(PoisonError::into_inner) = expiries;
    }

    fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// Begins a new period of averages.
    pub fn tick(&self) {
        self.averages.tick(&self.registry);
    }

    fn shut_down(&self, how: Shutdown) {
        self.control.shut_down(how);
    }

    async fn run(self: &Arc<Self>, command: &Command) -> Result<Answer, Error> {
        match command {
            Command::Empty => Ok(Answer::default()),
            Command::Show(show) => self.show(*show).await,
            Command::Parameter(_, value) => Ok(Answer::rows(vec![vec![(*value).into()]])),
            Command::SelectOne => Ok(Answer { rows: vec![vec![1u32.into()]], ..Answer::tag("SELECT 1") }),
            Command::Begin => Ok(Answer::tag("BEGIN")),
            Command::Commit => Ok(Answer::tag("COMMIT")),
            Command::Rollback => Ok(Answer::tag("ROLLBACK")),
            Command::SetSession => Ok(Answer::tag("SET")),
            Command::Set { key, value } => self.set(key, value).await,
            Command::Reload => {
                self.control.reload().await.map_err(|problems| Error::new(Kind::Configuration, problems))?;
                Ok(Answer::tag("RELOAD"))
            }
            Command::Resume(database) => self.resume(database.as_deref()).await,
            Command::Disable(database) => self.set_disabled(database, true),
            Command::Enable(database) => self.set_disabled(database, false),
            Command::Kill(database) => self.kill(database.as_deref()).await,
            Command::KillClient(id) => {
                if self.control.kill_client(*id).await {
                    Ok(Answer::tag("KILL_CLIENT"))
                } else {
                    Err(Error::new(Kind::WrongState, "client not found")
                        .hint("SHOW CLIENTS has the number of each client in its column id."))
                }
            }
            Command::Reconnect(database) => {
                self.check_database(database.as_deref(), "reconnect")?;
                self.registry.renew(database.as_deref());
                self.control.stir().await;
                Ok(Answer::tag("RECONNECT"))
            }
            Command::WaitClose(database) => {
                self.check_database(database.as_deref(), "wait in")?;
                while !self.registry.is_renewed(database.as_deref()) {
                    crate::alarm::sleep(LOOK).await;
                }
                Ok(Answer::tag("WAIT_CLOSE"))
            }
            Command::Upgrade => {
                self.control.upgrade().await.map_err(|reason| {
                    Error::new(
                        Kind::WrongState,
                        format!("the upgrade failed, this process goes on: {reason}"),
                    )
                })?;
                Ok(Answer::tag("UPGRADE"))
            }
            // Both are the session's: the one can be canceled, the other is done when the answer has been sent.
            Command::Pause(_) => Ok(Answer::tag("PAUSE")),
            Command::Shutdown(_) => Ok(Answer::tag("SHUTDOWN")),
        }
    }

    async fn set(&self, key: &str, value: &str) -> Result<Answer, Error> {
        let word = self.control.set(key, value).await.map_err(|problem| {
            let detail = Some(problem.into_boxed_str());
            Error { detail, ..Error::new(Kind::InvalidValue, "SET failed") }
        })?;
        let notice = |message| Notice { severity: "WARNING", message, detail: None };
        Ok(Answer {
            notices: word.into_iter().map(notice).collect(),
            ..Answer::tag(&format!("SET {key}={}", crate::config::tellable(key, value)))
        })
    }

    /// Pauses. Whether it was not paused before: then whoever asked may take it back.
    fn begin_pause(&self, database: Option<&str>) -> Result<bool, Error> {
        self.check_database(database, "pause")?;
        let already = || Error::new(Kind::WrongState, "already paused");
        if self.registry.is_all_paused() {
            return Err(already());
        }
        let is_new = self.registry.pause(database);
        if !is_new && database.is_none() { Err(already()) } else { Ok(is_new) }
    }

    /// Waits until every server of what was paused has been closed.
    async fn await_pause(&self, database: Option<&str>) -> Result<Answer, Error> {
        self.control.stir().await;
        while !self.registry.is_at_rest(database) {
            let still = match database {
                Some(name) => self.registry.is_paused(name),
                None => self.registry.is_all_paused(),
            };
            if !still {
                return Err(Error::new(Kind::WrongState, "the pause was taken back by RESUME"));
            }
            crate::alarm::sleep(LOOK).await;
        }
        Ok(Answer::tag("PAUSE"))
    }

    /// Takes a pause back whose PAUSE was canceled while it waited.
    fn take_back_pause(&self, database: Option<&str>) {
        self.registry.resume(database);
        // The next sweep serves those who wait.
    }

    async fn resume(&self, database: Option<&str>) -> Result<Answer, Error> {
        self.check_known(database)?;
        if !self.registry.resume(database) {
            let text = match database {
                Some(name) => format!("database {name} is not paused"),
                None => "pooler is not paused".into(),
            };
            return Err(Error::new(Kind::WrongState, text));
        }
        self.control.stir().await;
        Ok(Answer::tag("RESUME"))
    }

    fn set_disabled(&self, database: &str, disabled: bool) -> Result<Answer, Error> {
        let verb = if disabled { "disable" } else { "enable" };
        self.check_database(Some(database), verb)?;
        self.registry.set_disabled(database, disabled);
        Ok(Answer::tag(if disabled { "DISABLE" } else { "ENABLE" }))
    }

    /// Ends all clients; new ones wait for RESUME.
    async fn kill(&self, database: Option<&str>) -> Result<Answer, Error> {
        self.check_database(database, "kill")?;
        self.registry.pause(database);
        self.control.kill(database).await;
        self.control.stir().await;
        Ok(Answer::tag("KILL"))
    }

    fn check_database(&self, database: Option<&str>, verb: &str) -> Result<(), Error> {
        match database {
            Some(name) if crate::routing::ADMIN_DATABASES.contains(&name) => {
                Err(Error::new(Kind::WrongState, format!("cannot {verb} admin db: {name}")))
            }
            database => self.check_known(database),
        }
    }

    fn check_known(&self, database: Option<&str>) -> Result<(), Error> {
        let is_known = |name: &str| {
            crate::routing::ADMIN_DATABASES.contains(&name)
                || self.registry.config().database(name).is_some()
                || self.registry.pools().iter().any(|pool| *pool.key.database == *name)
        };
        match database {
            Some(name) if !is_known(name) => {
                Err(Error::new(Kind::UnknownDatabase, format!("no such database: {name}"))
                    .hint("SHOW DATABASES lists them."))
            }
            _ => Ok(()),
        }
    }
}

impl Console for Admin {
    fn open(self: Arc<Self>, is_admin: bool) -> Box<dyn ConsoleSession> {
        Box::new(Session::new(self, is_admin))
    }
}
