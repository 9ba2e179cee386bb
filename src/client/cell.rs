//! What a worker knows of each of its clients: enough to find it, judge it by the clock, and speak to it.

use crate::client::cancel_keys::CancelKey;
use crate::error::Error;
use crate::metrics::Ended;
use crate::moment::Moment;
use crate::net::Stream;
use crate::net::stream::Address;
use crate::net::tls::cipher::Cipher;
use crate::pool::roster::next_id;
use crate::pool::{Seat, WaitingCancel};
use crate::protocol::startup::{Replication, Startup};
use crate::routing::Limits;
use crate::session::Reported;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::{Duration, SystemTime};
use tokio::sync::oneshot;

/// How long a client that closed its connection in mid-query may still be owed something. A half-closed socket looks
/// just like one whose client is gone.
const CLOSE_GRACE: Duration = Duration::from_secs(1);

/// What a client is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activity {
    /// Logging in.
    Login,
    /// Outside a transaction, with nothing asked.
    Idle,
    /// The same, and it keeps its server for itself.
    Pinned,
    /// In line for a server.
    Waiting,
    /// A server works for it.
    Active,
    /// It has a server and asks nothing of it.
    IdleInTransaction,
    /// It closed its end while a server works for it.
    Closing,
}

/// What the worker tells a client's task to do.
#[derive(Debug)]
pub enum Verdict {
    /// End with this error.
    End(Error),
    /// Tell the client that it waits for a server.
    Waits,
    /// Nobody is there any more: stop the query.
    Vanished,
    /// End at the next moment at which the client has no server.
    Drain,
    /// Go to the process that takes this one's place, at the next moment at which that can be done.
    Move,
    /// That process is gone: stay.
    Stay,
}

/// Where a client comes from and what it came for.
#[derive(Debug, Clone)]
pub struct Origin {
    /// Its end of the connection.
    pub peer: Address,
    /// Our end.
    pub local: Option<Address>,
    /// The number of the connection's descriptor.
    pub fd: i32,
    /// What the connection is encrypted with.
    pub cipher: Cipher,
    /// What kind of replication it asked for: `none`, `physical` or `logical`.
    pub replication: &'static str,
    /// What it calls itself at its login.
    pub application_name: Box<str>,
    /// When it logged in.
    pub connected_at: SystemTime,
}

impl Origin {
    /// The origin of a client that logs in just now.
    #[must_use]
    pub fn of(stream: &Stream, startup: &Startup, peer: &Address) -> Origin {
        Origin {
            peer: peer.clone(),
            local: stream.local(),
            fd: stream.fd(),
            cipher: stream.cipher(),
            replication: match startup.replication() {
                Ok(Some(Replication::Physical)) => "physical",
                Ok(Some(Replication::Logical)) => "logical",
                _ => "none",
            },
            application_name: startup.get("application_name").unwrap_or_default().into(),
            connected_at: SystemTime::now(),
        }
    }
}

/// What others are told of a client.
#[derive(Debug, Clone)]
pub struct ClientInfo {
    /// Its number.
    pub id: u32,
    /// Name of the database it asked for.
    pub database: Box<str>,
    /// Its user.
    pub user: Box<str>,
    /// Where it comes from.
    pub origin: Origin,
    /// What it calls itself.
    pub application_name: Box<str>,
    /// What it is doing.
    pub activity: Activity,
    /// For how long.
    pub since: Duration,
    /// Its prepared statements.
    pub prepared: u32,
}

/// One client, as its worker sees it.
#[derive(Debug)]
pub struct ClientCell {
    /// Name of the database it asked for.
    pub database: Box<str>,
    /// Its user.
    pub user: Box<str>,
    /// What its BackendKeyData says.
    pub key: CancelKey,
    /// Its place in line.
    pub seat: Rc<Seat>,
    /// What it may do for how long.
    limits: RefCell<Rc<Limits>>,
    activity: Cell<Activity>,
    since: Cell<Moment>,
    /// When its transaction began, while it has one.
    began: Cell<Moment>,
    origin: Origin,
    /// What it has been told of its settings; empty until its first query.
    told: RefCell<Option<Arc<Reported>>>,
    prepared: Cell<u32>,
    waker: RefCell<Option<Waker>>,
    /// What it is to hear; few clients ever do.
    said: RefCell<Option<Box<Said>>>,
    /// Whether it is to listen: all that a turn of the relay looks at.
    summons: Cell<bool>,
}

/// What a client's task is to hear.
#[derive(Debug, Default)]
struct Said {
    verdict: Option<Verdict>,
    /// Cancel the query.
    cancel: Option<CancelWish>,
}

/// A cancel request for the client.
#[derive(Debug)]
pub struct CancelWish {
    /// Dropped when it has been dealt with.
    pub done: oneshot::Sender<()>,
    /// It was looked at, and has to wait.
    pub waiting: Option<WaitingCancel>,
}

impl ClientCell {
    /// A client that has just logged in.
    #[must_use]
    pub fn new(database: &str, user: &str, key: CancelKey, limits: Rc<Limits>, origin: Origin) -> ClientCell {
        let now = Moment::now();
        let cell = ClientCell {
            database: database.into(),
            user: user.into(),
            key,
            seat: Rc::new(Seat::of(next_id())),
            limits: RefCell::default(),
            activity: Cell::new(Activity::Login),
            since: Cell::new(now),
            began: Cell::new(now),
            origin,
            told: RefCell::default(),
            prepared: Cell::new(0),
            waker: RefCell::default(),
            said: RefCell::default(),
            summons: Cell::new(false),
        };
        cell.limit(limits);
        cell
    }

    /// Puts limits in force.
    pub fn limit(&self, mut limits: Rc<Limits>) {
        if self.origin.replication != "none" {
            // A stream of WAL is no query that takes too long.
            let limits = Rc::make_mut(&mut limits);
            (limits.query_timeout, limits.transaction_timeout) = (None, None);
        }
        self.limits.replace(limits);
    }

    /// How long it may stand in line.
    #[inline]
    #[must_use]
    pub fn query_wait_timeout(&self) -> Option<Duration> {
        self.limits.borrow().query_wait_timeout
    }

    /// Where it comes from.
    #[must_use]
    pub fn origin(&self) -> &Origin {
        &self.origin
    }

    /// Its end of the connection.
    #[must_use]
    pub fn peer(&self) -> &Address {
        &self.origin.peer
    }

    /// What it is doing.
    #[inline]
    #[must_use]
    pub fn activity(&self) -> Activity {
        self.activity.get()
    }

    /// When it began to do that.
    #[must_use]
    pub fn since(&self) -> Moment {
        self.since.get()
    }

    /// Notes what it is doing from now on, and tells what that puts an end to.
    #[inline]
    pub fn set_activity(&self, activity: Activity, now: Moment) -> Ended {
        use Activity::{Active, Idle, IdleInTransaction, Pinned};
        let (before, since) = (self.activity.replace(activity), self.since.replace(now));
        let mut ended = Ended::default();
        if activity == Active && !matches!(before, Active | IdleInTransaction) {
            self.began.set(now);
        }
        if before == Active && matches!(activity, Idle | Pinned | IdleInTransaction) {
            ended.query = Some(now.micros_since(since));
        }
        if matches!(before, Active | IdleInTransaction) && matches!(activity, Idle | Pinned) {
            ended.transaction = Some(now.micros_since(self.began.get()));
        }
        ended
    }

    /// Notes what others may want to know of it, at the end of a transaction.
    #[inline]
    pub fn note(&self, prepared: usize, told: &Arc<Reported>) {
        self.prepared.set(prepared as u32);
        if !self.told.borrow().as_ref().is_some_and(|known| Arc::ptr_eq(known, told)) {
            *self.told.borrow_mut() = Some(told.clone());
        }
    }

    /// Its number.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.seat.client()
    }

    /// What others are told of it.
    #[must_use]
    pub fn info(&self, now: Moment) -> ClientInfo {
        let told = self.told.borrow();
        let named = told.as_ref().and_then(|told| told.get(b"application_name"));
        let named = named.map(|name| String::from_utf8_lossy(name).into());
        ClientInfo {
            id: self.id(),
            database: self.database.clone(),
            user: self.user.clone(),
            origin: self.origin.clone(),
            application_name: named.unwrap_or_else(|| self.origin.application_name.clone()),
            activity: self.activity.get(),
            since: now.saturating_duration_since(self.since.get()),
            prepared: self.prepared.get(),
        }
    }

    /// Keeps the task's waker, so that it can be spoken to.
    pub fn listen(&self, cx: &Context<'_>) {
        let mut waker = self.waker.borrow_mut();
        if !waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            *waker = Some(cx.waker().clone());
        }
    }

    /// Whether it has stood in line for `limit` and is to be told so; true once for each wait.
    #[must_use]
    pub fn has_waited(&self, now: Moment, limit: Duration) -> bool {
        self.activity.get() == Activity::Waiting && self.seat.has_waited(now, limit)
    }

    /// Tells the task something; the first word stands, but for those that wait for a moment and [`Verdict::Waits`].
    pub fn tell(&self, verdict: Verdict) {
        let mut said = self.said.borrow_mut();
        let told = &mut said.get_or_insert_default().verdict;
        let waits_for_a_moment = matches!(*told, Some(Verdict::Drain | Verdict::Move | Verdict::Stay));
        if matches!(*told, None | Some(Verdict::Waits))
            || waits_for_a_moment && !matches!(verdict, Verdict::Waits)
        {
            *told = Some(verdict);
        }
        drop(said);
        self.summon();
    }

    /// Passes a cancel request on; `done` is dropped when it has been dealt with.
    pub fn request_cancel(&self, done: oneshot::Sender<()>) {
        self.said.borrow_mut().get_or_insert_default().cancel = Some(CancelWish { done, waiting: None });
        self.summon();
    }

    /// Puts a cancel request off until the client's task has its next turn.
    pub fn put_off(&self, wish: CancelWish) {
        self.said.borrow_mut().get_or_insert_default().cancel = Some(wish);
        self.stay_summoned();
    }

    /// Whether there is something to hear.
    #[inline]
    #[must_use]
    pub fn is_summoned(&self) -> bool {
        self.summons.get()
    }

    /// Takes what was said.
    pub fn hear(&self) -> (Option<Verdict>, Option<CancelWish>) {
        self.summons.set(false);
        let said = self.said.take().map(|said| *said).unwrap_or_default();
        (said.verdict, said.cancel)
    }

    /// Has the task take its turn and hear what there is.
    pub fn summon(&self) {
        self.summons.set(true);
        if let Some(waker) = self.waker.borrow().as_ref() {
            waker.wake_by_ref();
        }
    }

    /// Has the task hear what there is whenever it has its next turn.
    pub fn stay_summoned(&self) {
        self.summons.set(true);
    }

    /// The limit that the client has passed, if any.
    #[must_use]
    pub fn overdue(&self, now: Moment) -> Option<Verdict> {
        use crate::error::Kind;
        let limits = self.limits.borrow();
        let in_transaction = matches!(self.activity.get(), Activity::Active | Activity::IdleInTransaction);
        if in_transaction
            && let Some(limit) = limits.transaction_timeout
            && now.saturating_duration_since(self.began.get()) >= limit
        {
            let error = Error::new(
                Kind::TransactionTimeout,
                "transaction timeout: the transaction took too long and was rolled back (transaction_timeout)",
            );
            return Some(Verdict::End(
                error.hint("Make the transaction shorter, or raise transaction_timeout."),
            ));
        }
        let (limit, verdict): (_, fn() -> Verdict) = match self.activity.get() {
            Activity::Login | Activity::Waiting => return None,
            Activity::Idle => (limits.client_idle_timeout, || {
                Verdict::End(
                    Error::new(
                        Kind::IdleSession,
                        "client_idle_timeout: the connection was idle for too long",
                    )
                    .hint("Reconnect, or raise client_idle_timeout."),
                )
            }),
            Activity::Pinned => (limits.pin_timeout, || {
                Verdict::End(
                    Error::new(
                        Kind::PinTimeout,
                        "pin_timeout: the connection was idle for too long while it kept a server for itself",
                    )
                    .hint("End what keeps the server (temporary tables, LISTEN, advisory locks, cursors WITH HOLD), or raise pin_timeout."),
                )
            }),
            Activity::Active => (limits.query_timeout, || {
                Verdict::End(
                    Error::new(
                        Kind::QueryTimeout,
                        "query timeout: the query ran for too long and was canceled (query_timeout)",
                    )
                    .hint("Make the query faster, or raise query_timeout."),
                )
            }),
            Activity::IdleInTransaction => (limits.idle_transaction_timeout, || {
                Verdict::End(
                    Error::new(
                        Kind::IdleInTransaction,
                        "idle transaction timeout: the transaction was idle for too long and was rolled back (idle_transaction_timeout)",
                    )
                    .hint("End transactions soon, or raise idle_transaction_timeout."),
                )
            }),
            Activity::Closing => (Some(CLOSE_GRACE), || Verdict::Vanished),
        };
        (now.saturating_duration_since(self.since.get()) >= limit?).then(verdict)
    }
}
