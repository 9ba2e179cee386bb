//! Another process takes this one's place, or this one another's: what both sides need.
//!
//! `giver` starts the new process and offers it what it begins with, [`taker`] takes that; the conversation that follows is
//! [`crate::handover::link`]. docs/architecture.md has the order of events. Invariant: until the new process says that it can
//! serve, nothing changes in the old one.

mod conduct;
pub(super) mod giver;
pub mod taker;

pub(super) use conduct::Upgrade;

use crate::client::context::{CancelRequest, Messenger};
use crate::handover::{Event, Link};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Which other process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    /// The one whose place this one took.
    Predecessor,
    /// The one that takes this one's place.
    Successor,
}

/// What the supervisor hears of other processes.
#[derive(Debug)]
pub(super) enum Heard {
    /// A new process could begin to serve, and waits for the word; or it could not start, for this reason.
    Started(Result<Newcomer, String>),
    /// Something of a process that serves.
    Of(Side, Event),
}

/// A new process that could begin to serve.
#[derive(Debug)]
pub(super) struct Newcomer {
    /// The connection to it.
    pub(super) stream: UnixStream,
    /// Its process id.
    pub(super) pid: u32,
}

/// The processes that this one talks to.
#[derive(Debug, Default)]
pub(super) struct Links(Mutex<[Option<Arc<Link>>; 2]>);

impl Links {
    /// The conversation with one of them.
    pub(super) fn get(&self, side: Side) -> Option<Arc<Link>> {
        self.lock()[side as usize].clone()
    }

    /// Notes that one of them is there, or is not any more.
    pub(super) fn set(&self, side: Side, link: Option<Arc<Link>>) {
        self.lock()[side as usize] = link;
    }

    /// Passes a cancel request on whose client is not here. One that a client's connection has brought goes to the process to
    /// which clients go, else to the one that still has some; one of the successor's goes on to still older ones.
    pub(super) fn pass(&self, request: CancelRequest) {
        let link = match request.from {
            Messenger::Client => self.get(Side::Successor).or_else(|| self.get(Side::Predecessor)),
            Messenger::Successor => self.get(Side::Predecessor),
            Messenger::Predecessor => None,
        };
        if let Some(link) = link {
            link.cancel(request.pid, request.secret, request.done);
        }
    }

    fn lock(&self) -> MutexGuard<'_, [Option<Arc<Link>>; 2]> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
