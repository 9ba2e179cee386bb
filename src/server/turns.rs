//! Which of a database's hosts the next connection goes to.
//!
//! Owns the turns of all lists of hosts, one for each list and port. A database with one host has none.

use crate::config::{Host, LoadBalance};
use crate::server::login::Target;
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

/// The turns of all lists of hosts.
#[derive(Debug, Default)]
pub struct Turns(Mutex<HashMap<(Vec<Host>, u16), usize>>);

impl Turns {
    /// Where in the list of hosts the next connection begins.
    #[must_use]
    pub fn first(&self, target: &Target) -> usize {
        if target.hosts.len() < 2 {
            return 0;
        }
        let mut turns = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let turn = turns.entry((target.hosts.clone(), target.port)).or_insert(0);
        let first = *turn;
        if target.load_balance == LoadBalance::RoundRobin {
            *turn = (first + 1) % target.hosts.len();
        }
        first
    }

    /// Notes which host has answered: without balancing the next connection begins there.
    pub fn answered(&self, target: &Target, host: &Host) {
        if target.hosts.len() < 2 || target.load_balance == LoadBalance::RoundRobin {
            return;
        }
        let at = target.hosts.iter().position(|other| other == host).unwrap_or(0);
        let mut turns = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        turns.insert((target.hosts.clone(), target.port), at);
    }
}
