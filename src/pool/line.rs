//! The line of clients that wait for a server, first come, first served.

use crate::moment::Moment;
use crate::pool::Lease;
use crate::server::ServerError;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::{Context, Waker};
use std::time::Duration;
use thiserror::Error;

/// A client's place in line. One a client, used again for each wait.
#[derive(Debug)]
pub struct Seat {
    state: RefCell<State>,
    waker: RefCell<Option<Waker>>,
    /// Number of the client; 0: it has none.
    client: u32,
    arrival: Cell<Moment>,
    deadline: Cell<Option<Moment>>,
    /// Whether the client was told that it waits.
    told: Cell<bool>,
}

#[derive(Debug, Default)]
enum State {
    #[default]
    Away,
    Waiting,
    Granted(Lease),
    Refused(CheckoutError),
}

/// Why a client got no server.
#[derive(Debug, Clone, Error)]
pub enum CheckoutError {
    /// It waited as long as it may; what kept servers away, if anything did.
    #[error("no server became free in time")]
    Timeout(Option<ServerError>),
    /// There will be no server until somebody mends something.
    #[error(transparent)]
    Server(ServerError),
    /// The pool was replaced: ask the router again.
    #[error("the pool was replaced")]
    Moved,
    /// The process ends, and does not wait for those in line.
    #[error("the pooler is shutting down")]
    Shutdown,
}

/// How a place in line stands.
#[derive(Debug)]
pub(crate) enum Outcome {
    Away,
    Waiting,
    Granted(Lease),
    Refused(CheckoutError),
}

impl Default for Seat {
    fn default() -> Seat {
        Seat {
            state: RefCell::default(),
            waker: RefCell::default(),
            client: 0,
            arrival: Cell::new(Moment::now()),
            deadline: Cell::new(None),
            told: Cell::new(false),
        }
    }
}

impl Seat {
    /// The place of the client with this number.
    #[must_use]
    pub fn of(client: u32) -> Seat {
        Seat { client, ..Seat::default() }
    }

    /// Number of the client; 0: it has none.
    #[must_use]
    pub fn client(&self) -> u32 {
        self.client
    }

    /// When the client last got in line.
    #[must_use]
    pub fn arrival(&self) -> Moment {
        self.arrival.get()
    }

    /// Whether the client is in line.
    #[must_use]
    pub fn is_waiting(&self) -> bool {
        matches!(*self.state.borrow(), State::Waiting)
    }

    /// Whether the client has been in line for `limit` and was not told so; it counts as told from now on.
    #[must_use]
    pub fn has_waited(&self, now: Moment, limit: Duration) -> bool {
        let has = self.is_waiting() && now.saturating_duration_since(self.arrival.get()) >= limit;
        has && !self.told.replace(true)
    }

    pub(crate) fn deadline(&self) -> Option<Moment> {
        self.deadline.get()
    }

    pub(crate) fn sit(&self, cx: &Context<'_>, now: Moment, deadline: Option<Moment>) {
        *self.state.borrow_mut() = State::Waiting;
        self.arrival.set(now);
        self.deadline.set(deadline);
        self.told.set(false);
        *self.waker.borrow_mut() = Some(cx.waker().clone());
    }

    /// Looks how the wait stands; takes what there is to take.
    pub(crate) fn look(&self, cx: &Context<'_>) -> Outcome {
        let mut state = self.state.borrow_mut();
        match std::mem::take(&mut *state) {
            State::Away => Outcome::Away,
            State::Granted(lease) => Outcome::Granted(lease),
            State::Refused(error) => Outcome::Refused(error),
            State::Waiting => {
                *state = State::Waiting;
                let mut waker = self.waker.borrow_mut();
                if !waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
                    *waker = Some(cx.waker().clone());
                }
                Outcome::Waiting
            }
        }
    }

    /// Leaves the line; a server that was granted meanwhile is handed back to the caller.
    pub(crate) fn leave(&self) -> Option<Lease> {
        match std::mem::take(&mut *self.state.borrow_mut()) {
            State::Granted(lease) => Some(lease),
            _ => None,
        }
    }

    pub(crate) fn grant(&self, lease: Lease) {
        *self.state.borrow_mut() = State::Granted(lease);
        self.wake();
    }

    pub(crate) fn refuse(&self, error: CheckoutError) {
        *self.state.borrow_mut() = State::Refused(error);
        self.wake();
    }

    fn wake(&self) {
        if let Some(waker) = self.waker.borrow_mut().take() {
            waker.wake();
        }
    }
}

/// A line: seats in the order of their arrival.
pub(crate) type Line = std::collections::VecDeque<Rc<Seat>>;
