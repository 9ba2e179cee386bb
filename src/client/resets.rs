//! RESET and DISCARD ALL: a client goes back to what it logged in with, where the server would go back to its own.
//!
//! Behind the client's statement goes one of pgvalet's own that sets the client's defaults again. What the server reports
//! in between is not the client's value.

use crate::client::relay::Relay;
use crate::protocol::frontend;
use crate::server::owed::Owed;
use crate::session::resets::Resets;
use crate::session::{Footprint, Settings};
use std::sync::Arc;

impl Relay {
    /// What a text resets of what the client logged in with.
    pub(super) fn resets_of(&self, sql: &[u8], found: Footprint) -> Resets {
        if self.startup.is_empty()
            || !found.intersects(Footprint::FOLLOWED_SETTINGS.union(Footprint::SETTINGS))
        {
            return Resets::default();
        }
        Resets::of(sql)
    }

    /// Puts the client's defaults in force again behind a Query that was sent.
    pub(super) fn restore(&mut self, resets: Resets) {
        let Some(sql) = self.restoration(&resets) else { return };
        frontend::query(self.to_server.insert(&mut self.from_client), &sql);
        // Whether the text before it was rolled back is not known yet: the server is made as new before it goes to others.
        self.note_footprint(Footprint::SETTINGS);
        self.owe(Owed::Restore);
        self.resetting = Some(Box::new(resets));
    }

    /// The same behind an Execute, in the client's batch.
    pub(super) fn restore_in_batch(&mut self, resets: &Resets) {
        if let Some(sql) = self.restoration(resets) {
            self.note_footprint(Footprint::SETTINGS);
            self.run_once(sql.as_bytes(), Owed::Own(b'C'));
        }
    }

    fn restoration(&self, resets: &Resets) -> Option<String> {
        let mut wanted = Settings::default();
        self.startup
            .iter()
            .filter(|(name, _)| resets.contains(name))
            .for_each(|(name, value)| wanted.set(name, value));
        (!wanted.is_empty()).then(|| Settings::default().difference(&wanted))
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
