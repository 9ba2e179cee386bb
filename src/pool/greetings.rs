//! What clients are greeted with, for another process that takes this one's place, and from it.
//!
//! Without it the first login there with certain settings would have a server try them, and wait for one where all are in use.

use crate::config::Config;
use crate::handover::message::{Greeting, Pairs, Reports};
use crate::pool::registry::Blueprint;
use crate::pool::{Pool, Registry, lock};
use crate::session::{Reported, Settings};
use serde_bytes::ByteBuf;
use std::sync::Arc;

/// Greetings that are handed over at most, over all pools.
const MOST: usize = 10_000;

impl Registry {
    /// What clients are greeted with.
    #[must_use]
    pub fn greetings(&self) -> Vec<Greeting> {
        let mut greetings = Vec::new();
        for pool in self.pools() {
            let place = place(&pool);
            let accepted = lock(&pool.accepted);
            let left = MOST - greetings.len();
            // Oldest first: so they come to lie there in the same order.
            greetings.extend(accepted.iter().take(left).map(|(settings, reported)| Greeting {
                database: pool.key.database.to_string(),
                user: pool.key.user.to_string(),
                place: place.clone(),
                settings: pairs(settings),
                reported: reports(reported),
            }));
        }
        greetings.reverse();
        greetings
    }

    /// Takes over what another process greets clients with, for pools that `plan` still has and whose servers are the same.
    pub fn take_greetings(
        &self,
        greetings: Vec<Greeting>,
        plan: impl Fn(&Config, &str, &str) -> Option<Blueprint>,
    ) {
        for greeting in greetings {
            let Some(pool) = self.pool(|config| plan(config, &greeting.database, &greeting.user)) else {
                continue;
            };
            if *pool.key.user == *greeting.user && place(&pool) == greeting.place {
                let reported = Arc::new(reported(&greeting.reported));
                lock(&pool.accepted).put(Arc::new(settings(&greeting.settings)), reported);
            }
        }
    }
}

fn place(pool: &Pool) -> String {
    let target = &pool.target;
    format!("{:?} {} {:?} {:?}", target.hosts, target.port, target.dbname, target.startup)
}

/// Settings as they travel.
#[must_use]
pub fn pairs(settings: &Settings) -> Pairs {
    settings.iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

/// Settings that have travelled.
#[must_use]
pub fn settings(pairs: &Pairs) -> Settings {
    let mut settings = Settings::default();
    pairs.iter().for_each(|(name, value)| settings.set(name, value));
    settings
}

/// Reports as they travel.
#[must_use]
pub fn reports(reported: &Reported) -> Reports {
    let bytes = |bytes: &[u8]| ByteBuf::from(bytes);
    reported.iter().map(|(name, value)| (bytes(name), bytes(value))).collect()
}

/// Reports that have travelled.
#[must_use]
pub fn reported(reports: &Reports) -> Reported {
    let mut reported = Arc::new(Reported::default());
    for (name, value) in reports {
        Reported::record(&mut reported, name, value);
    }
    Arc::unwrap_or_clone(reported)
}
