//! Who is logged in, counted over all workers: by database, and by the user that the client is.
//!
//! Touched at logins and when clients leave, never by a transaction. Clients of the admin console are counted for those who
//! look, and for no limit.

use crate::config::{Config, resolve};
use crate::error::{Error, Kind};
use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Counts clients.
#[derive(Debug, Default)]
pub struct Census(Mutex<Counts>);

#[derive(Debug, Default)]
struct Counts {
    databases: HashMap<Box<str>, u32>,
    users: HashMap<Box<str>, u32>,
    /// Of the admin console, by user.
    consoles: HashMap<Box<str>, u32>,
}

/// A client of the admin console; counted out again when dropped.
#[derive(Debug)]
pub struct OnConsole(Arc<Census>, Box<str>);

/// A client that was counted; counted out again when dropped.
#[derive(Debug)]
pub struct Counted {
    census: Arc<Census>,
    /// `None` once somebody else sees to it.
    names: Option<(Box<str>, Box<str>)>,
}

impl Census {
    /// Counts a client in, if its database and its user may have one more.
    ///
    /// # Errors
    /// Which limit it was.
    pub fn enter(self: &Arc<Census>, config: &Config, database: &str, user: &str) -> Result<Counted, Error> {
        let (of_database, known) = (config.database(database), config.user(user));
        let by_database = of_database
            .map_or(config.general.max_db_client_connections, |entry| entry.max_db_client_connections);
        let by_user = resolve::max_user_client_connections(&config.general, known.as_deref());
        let mut counts = self.counts();
        let is_full = |counts: &HashMap<Box<str>, u32>, name: &str, limit: Option<u32>| {
            limit.is_some_and(|limit| counts.get(name).copied().unwrap_or(0) >= limit)
        };
        if is_full(&counts.databases, database, by_database) {
            return Err(exceeded("max_db_client_connections"));
        }
        if is_full(&counts.users, user, by_user) {
            return Err(exceeded("max_user_client_connections"));
        }
        counts.enter(database, user);
        Ok(Counted { census: self.clone(), names: Some((database.into(), user.into())) })
    }

    /// Counts a client in that was let in already, by another process: no limit holds for it. [`Census::leave`] counts it out.
    pub fn admit(&self, database: &str, user: &str) {
        self.counts().enter(database, user);
    }

    /// Counts a client out whose [`Counted`] was handed over.
    pub fn leave(&self, database: &str, user: &str) {
        let mut counts = self.counts();
        let Counts { databases, users, .. } = &mut *counts;
        count_out(databases, database);
        count_out(users, user);
    }

    /// Counts a client of the admin console in.
    pub fn enter_console(self: &Arc<Census>, user: &str) -> OnConsole {
        *self.counts().consoles.entry(user.into()).or_default() += 1;
        OnConsole(self.clone(), user.into())
    }

    /// Clients of the admin console.
    #[must_use]
    pub fn consoles(&self) -> u32 {
        self.counts().consoles.values().sum()
    }

    /// Clients of a user, over all databases, the admin console included.
    #[must_use]
    pub fn of_user(&self, name: &str) -> u32 {
        let counts = self.counts();
        let of = |counts: &HashMap<Box<str>, u32>| counts.get(name).copied().unwrap_or(0);
        of(&counts.users) + of(&counts.consoles)
    }

    /// Names of the users who are logged in.
    #[must_use]
    pub fn users(&self) -> BTreeSet<Box<str>> {
        let counts = self.counts();
        counts.users.keys().chain(counts.consoles.keys()).cloned().collect()
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Counts {
    fn enter(&mut self, database: &str, user: &str) {
        for (counts, name) in [(&mut self.databases, database), (&mut self.users, user)] {
            match counts.get_mut(name) {
                Some(count) => *count += 1,
                None => drop(counts.insert(name.into(), 1)),
            }
        }
    }
}

impl Counted {
    /// From now on whoever registers the client counts it out, by [`Census::leave`].
    pub fn hand_over(mut self) {
        self.names = None;
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        if let Some((database, user)) = &self.names {
            self.census.leave(database, user);
        }
    }
}

impl Drop for OnConsole {
    fn drop(&mut self) {
        count_out(&mut self.0.counts().consoles, &self.1);
    }
}

fn count_out(counts: &mut HashMap<Box<str>, u32>, name: &str) {
    if let Some(count) = counts.get_mut(name) {
        *count = count.saturating_sub(1);
        if *count == 0 {
            counts.remove(name);
        }
    }
}

fn exceeded(limit: &str) -> Error {
    Error::new(Kind::TooManyClients, format!("client connections exceeded ({limit})"))
        .hint("Close connections that are not in use, or raise the limit.")
}
