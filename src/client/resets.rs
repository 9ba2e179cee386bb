//! RESET and DISCARD ALL: a client goes back to what it logged in with, where the server would go back to its own.
//!
//! When the client's Query has been answered, or behind its Execute, one of pgvalet's own sets the client's defaults again.
//! What the server reports in between is not the client's value.

use crate::client::relay::Relay;
use crate::config::PoolMode;
use crate::protocol::{TxStatus, backend, frontend};
use crate::server::owed::Owed;
use crate::session::resets::Resets;
use crate::session::settings::{followed, quote_literal};
use crate::session::{Footprint, Reported, Settings};
use std::sync::Arc;

impl Relay {
    /// What a text resets of what the client logged in with.
    pub(super) fn resets_of(&self, sql: &[u8], found: Footprint) -> Resets {
        if self.startup.is_empty()
            || !found.intersects(Footprint::FOLLOWED_SETTINGS.union(Footprint::SETTINGS))
            || !self.is_sure_of(sql)
        {
            return Resets::default();
        }
        Resets::of(sql)
    }

    /// Notes that a Query is sent which resets this. What comes behind it is held until the client's defaults are in force
    /// again.
    pub(super) fn begin_reset(&mut self, resets: Resets) {
        self.note_footprint(Footprint::SETTINGS);
        match &mut self.resetting {
            Some(known) => known.join(resets),
            None => self.resetting = Some(Box::new(resets)),
        }
    }

    /// A Query of the client's has been answered: if it has reset something, puts the client's defaults in force.
    pub(super) fn after_reset(&mut self, status: TxStatus) {
        if std::mem::take(&mut self.discarding) {
            self.tell_defaults(&Resets::everything());
        }
        let Some(resets) = self.resetting.take() else { return };
        if status != TxStatus::Failed && !resets.failed {
            self.tell_defaults(&resets);
        }
        self.resetting = Some(resets);
        let Some(resets) = &self.resetting else { return };
        let is_session = self.shard.with_policy(|policy| policy.mode) == PoolMode::Session;
        match status {
            // Whatever it was is rolled back, and when the transaction has ended the server is asked.
            TxStatus::Failed => self.resetting = None,
            // The server goes to others; before that it is asked what holds.
            TxStatus::Idle if !is_session => {}
            TxStatus::Idle | TxStatus::InTransaction => match self.restoration(resets) {
                Some(sql) => {
                    frontend::query(self.to_server.insert(&mut self.from_client), &sql);
                    self.owe(Owed::Restore);
                }
                None => self.resetting = None,
            },
        }
    }

    /// Tells the client its defaults, in front of the ReadyForQuery, where the server has nothing new to report.
    fn tell_defaults(&mut self, resets: &Resets) {
        let startup = self.startup.clone();
        for (key, value) in startup.iter().filter(|(key, _)| resets.contains(key)) {
            let Some(name) = followed(key) else { continue };
            let own = self.startup_reported.get(name.as_bytes()).unwrap_or(value.as_bytes()).to_vec();
            let is_reported = self.told.get(name.as_bytes()).is_some();
            if is_reported && Reported::record(&mut self.told, name.as_bytes(), &own) {
                let own = String::from_utf8_lossy(&own);
                backend::parameter_status(self.to_client.insert(&mut self.from_server), name, &own);
            }
        }
    }

    /// Puts the client's defaults in force behind an Execute, in the client's batch, if a statement that was bound can have
    /// reset them.
    pub(super) fn restore_in_batch(&mut self) {
        let Some(resets) = self.bound_resets.take() else { return };
        if let Some(sql) = self.restoration(&resets) {
            self.note_footprint(Footprint::SETTINGS);
            self.run_once(sql.as_bytes(), Owed::Own(b'C'));
        }
        // The portal may be executed again, or another one that was bound before.
        self.bound_resets = Some(resets);
    }

    /// Notes that a statement was bound which resets this.
    pub(super) fn note_bound_resets(&mut self, resets: Resets) {
        match &mut self.bound_resets {
            Some(known) => known.join(resets),
            None => self.bound_resets = Some(Box::new(resets)),
        }
    }

    /// The statement that sets those of the client's defaults again that are not set: whether what reset them took effect,
    /// or was rolled back, the server knows.
    fn restoration(&self, resets: &Resets) -> Option<String> {
        let wanted = self.startup.iter().filter(|(name, _)| resets.contains(name));
        let wanted: Vec<String> = wanted
            .map(|(name, value)| format!("({}, {})", quote_literal(name), quote_literal(value)))
            .collect();
        (!wanted.is_empty()).then(|| {
            format!(
                "SELECT pg_catalog.set_config(w.n, w.v, false) FROM (VALUES {}) w(n, v) LEFT JOIN \
                 pg_catalog.pg_settings s ON pg_catalog.lower(s.name) OPERATOR(pg_catalog.=) w.n WHERE CASE WHEN \
                 s.name IS NULL THEN coalesce(pg_catalog.current_setting(w.n, true), '') OPERATOR(pg_catalog.=) '' \
                 ELSE s.source OPERATOR(pg_catalog.<>) 'session' END",
                wanted.join(", ")
            )
        })
    }

    /// The client's defaults are in force again.
    pub(super) fn end_of_reset(&mut self) {
        self.resetting = None;
        if let Some(lease) = self.lease.as_mut() {
            lease.in_force = self.settings.clone();
        }
    }

    /// What the client is told when a server reports `name`: its own default, if it is on its way back to that.
    pub(super) fn default_of(&self, name: &[u8]) -> Option<(String, Box<[u8]>)> {
        let is_back = |name: &str| {
            self.discarding || self.resetting.as_ref().is_some_and(|resets| resets.contains(name))
        };
        if !self.discarding && self.resetting.is_none() {
            return None;
        }
        let name = std::str::from_utf8(name).ok()?;
        let key = name.to_ascii_lowercase();
        let value = self.startup.get(&key).filter(|_| is_back(&key))?;
        let told = self.startup_reported.get(name.as_bytes()).unwrap_or(value.as_bytes());
        Some((key, told.into()))
    }

    /// The client's own default of this name holds again.
    pub(super) fn take_default(&mut self, key: &str) {
        if let Some(value) = self.startup.get(key)
            && self.settings.get(key) != Some(value)
        {
            let mut settings = Settings::clone(&self.settings);
            settings.set(key, value);
            self.settings = Arc::new(settings);
        }
    }
}
