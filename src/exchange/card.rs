//! A listener as those who look see it.

use super::Place;
use std::sync::atomic::{AtomicI32, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// What becomes of a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Nobody listens, so there is no connection.
    Closed,
    /// There will be one.
    Connecting,
    /// It is there.
    Listening,
    /// The database is paused.
    Paused,
}

/// One database that somebody has listened to. Its counters go on for as long as the process.
#[derive(Debug)]
pub struct Card {
    /// The database.
    pub place: Place,
    state: AtomicU8,
    pid: AtomicI32,
    user: Mutex<Arc<str>>,
    channels: AtomicU32,
    clients: AtomicU32,
    received: AtomicU64,
    connects: AtomicU64,
    losses: AtomicU64,
}

impl Card {
    pub(super) fn new(place: &Place) -> Card {
        Card {
            place: place.clone(),
            state: AtomicU8::new(0),
            pid: AtomicI32::new(0),
            user: Mutex::new("".into()),
            channels: AtomicU32::new(0),
            clients: AtomicU32::new(0),
            received: AtomicU64::new(0),
            connects: AtomicU64::new(0),
            losses: AtomicU64::new(0),
        }
    }

    /// What becomes of it.
    #[must_use]
    pub fn state(&self) -> State {
        match self.state.load(Ordering::Relaxed) {
            0 => State::Closed,
            1 => State::Connecting,
            2 => State::Listening,
            _ => State::Paused,
        }
    }

    /// Process id of its backend; 0 while there is none.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.pid.load(Ordering::Relaxed)
    }

    /// The user that it has logged in as.
    #[must_use]
    pub fn user(&self) -> Arc<str> {
        self.user.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Channels that it listens to.
    #[must_use]
    pub fn channels(&self) -> u32 {
        self.channels.load(Ordering::Relaxed)
    }

    /// Clients that it listens for.
    #[must_use]
    pub fn clients(&self) -> u32 {
        self.clients.load(Ordering::Relaxed)
    }

    /// Notifications that came in.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// Connections that were opened.
    #[must_use]
    pub fn connects(&self) -> u64 {
        self.connects.load(Ordering::Relaxed)
    }

    /// Connections that were lost while somebody listened.
    #[must_use]
    pub fn losses(&self) -> u64 {
        self.losses.load(Ordering::Relaxed)
    }

    pub(super) fn set_state(&self, state: State) {
        let state = match state {
            State::Closed => 0,
            State::Connecting => 1,
            State::Listening => 2,
            State::Paused => 3,
        };
        self.state.store(state, Ordering::Relaxed);
        if state != 2 {
            self.pid.store(0, Ordering::Relaxed);
        }
    }

    pub(super) fn connected(&self, pid: i32, user: &Arc<str>) {
        *self.user.lock().unwrap_or_else(PoisonError::into_inner) = user.clone();
        self.connects.fetch_add(1, Ordering::Relaxed);
        self.set_state(State::Listening);
        self.pid.store(pid, Ordering::Relaxed);
    }

    pub(super) fn lost(&self) {
        self.losses.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn received_one(&self) {
        self.received.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn set_counts(&self, channels: usize, clients: usize) {
        self.channels.store(channels as u32, Ordering::Relaxed);
        self.clients.store(clients as u32, Ordering::Relaxed);
    }
}
