//! What a worker knows of each of its clients: enough to find it, judge it by the clock, and speak to it.

use crate::error::Error;
use crate::pool::Seat;
use crate::routing::Limits;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::{Context, Waker};
use std::time::{Duration, Instant};
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
    /// Nobody is there any more: stop the query.
    Vanished,
    /// End at the next moment at which the client has no server.
    Drain,
}

/// One client, as its worker sees it.
#[derive(Debug)]
pub struct ClientCell {
    /// Name of the database it asked for.
    pub database: Box<str>,
    /// Its user.
    pub user: Box<str>,
    /// Process id in its BackendKeyData.
    pub pid: i32,
    /// Secret in its BackendKeyData.
    pub secret: Box<[u8]>,
    /// Its place in line.
    pub seat: Rc<Seat>,
    /// What it may do for how long.
    pub limits: Cell<Limits>,
    activity: Cell<Activity>,
    since: Cell<Instant>,
    waker: RefCell<Option<Waker>>,
    verdict: RefCell<Option<Verdict>>,
    cancel: RefCell<Option<oneshot::Sender<()>>>,
    /// Whether `verdict` or `cancel` is set: all that a turn of the relay looks at.
    summons: Cell<bool>,
}

impl ClientCell {
    /// A client that has just logged in.
    #[must_use]
    pub fn new(database: &str, user: &str, pid: i32, secret: Box<[u8]>, limits: Limits) -> ClientCell {
        ClientCell {
            database: database.into(),
            user: user.into(),
            pid,
            secret,
            seat: Rc::default(),
            limits: Cell::new(limits),
            activity: Cell::new(Activity::Login),
            since: Cell::new(Instant::now()),
            waker: RefCell::default(),
            verdict: RefCell::default(),
            cancel: RefCell::default(),
            summons: Cell::new(false),
        }
    }

    /// What it is doing.
    #[inline]
    #[must_use]
    pub fn activity(&self) -> Activity {
        self.activity.get()
    }

    /// When it began to do that.
    #[must_use]
    pub fn since(&self) -> Instant {
        self.since.get()
    }

    /// Notes what it is doing from now on.
    #[inline]
    pub fn set_activity(&self, activity: Activity, now: Instant) {
        self.activity.set(activity);
        self.since.set(now);
    }

    /// Keeps the task's waker, so that it can be spoken to.
    pub fn listen(&self, cx: &Context<'_>) {
        let mut waker = self.waker.borrow_mut();
        if !waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            *waker = Some(cx.waker().clone());
        }
    }

    /// Tells the task something; the first word stands, but for [`Verdict::Drain`].
    pub fn tell(&self, verdict: Verdict) {
        let mut told = self.verdict.borrow_mut();
        if matches!(*told, None | Some(Verdict::Drain)) {
            *told = Some(verdict);
        }
        drop(told);
        self.summon();
    }

    /// Passes a cancel request on; `done` is dropped when it has been dealt with.
    pub fn request_cancel(&self, done: oneshot::Sender<()>) {
        *self.cancel.borrow_mut() = Some(done);
        self.summon();
    }

    /// Whether there is something to hear.
    #[inline]
    #[must_use]
    pub fn is_summoned(&self) -> bool {
        self.summons.get()
    }

    /// Takes what was said.
    pub fn hear(&self) -> (Option<Verdict>, Option<oneshot::Sender<()>>) {
        self.summons.set(false);
        (self.verdict.borrow_mut().take(), self.cancel.borrow_mut().take())
    }

    fn summon(&self) {
        self.summons.set(true);
        if let Some(waker) = self.waker.borrow().as_ref() {
            waker.wake_by_ref();
        }
    }

    /// The limit that the client has passed, if any.
    #[must_use]
    pub fn overdue(&self, now: Instant) -> Option<Verdict> {
        use crate::error::Kind;
        let limits = self.limits.get();
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
                        "query_timeout: the query ran for too long and was canceled",
                    )
                    .hint("Make the query faster, or raise query_timeout."),
                )
            }),
            Activity::IdleInTransaction => (limits.idle_transaction_timeout, || {
                Verdict::End(
                    Error::new(
                        Kind::IdleInTransaction,
                        "idle_transaction_timeout: the transaction was idle for too long and was rolled back",
                    )
                    .hint("End transactions soon, or raise idle_transaction_timeout."),
                )
            }),
            Activity::Closing => (Some(CLOSE_GRACE), || Verdict::Vanished),
        };
        (now.saturating_duration_since(self.since.get()) >= limit?).then(verdict)
    }
}
