//! How a client's texts are read: in which encoding, with which settings, and whether that is certain.
//!
//! Owns no settings and sends none: what is in force the server tells, and what a text sets is judged in `judging`.

use crate::client::relay::Relay;
use crate::client::sql_names::unhex;
use crate::protocol::frame::HEADER;
use crate::protocol::{Header, TxStatus, backend, frontend};
use crate::server::owed::Owed;
use crate::session::settings::{followed, is_role, reading_question};
use crate::session::{Footprint, Reported, Settings, Statement};
use std::sync::Arc;

/// Encodings in which a byte that looks like ASCII can be a part of another character.
const UNSAFE_ENCODINGS: [&[u8]; 7] =
    [b"SJIS", b"BIG5", b"GBK", b"UHC", b"GB18030", b"JOHAB", b"SHIFT_JIS_2004"];

/// Whether it is certain how a client's texts are read: that no byte of its encoding can look like ASCII and not be, and that
/// a backslash is an escape only in strings that say so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Certainty {
    /// It is.
    Sure,
    /// It is not, until its transaction has ended or what is under way is answered.
    NotNow,
    /// It is not, and was not when it was last in no transaction, which is what may hold again when this one ends.
    None,
}

/// How texts are read, and what that follows from.
#[derive(Debug)]
pub(super) struct KnownReading {
    pub(super) settings: Arc<Settings>,
    pub(super) told: Arc<Reported>,
    pub(super) reading: Arc<Settings>,
}

/// Whether the settings are known that decide how a text is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reading {
    Known,
    /// When the replies have come that are due.
    Soon,
    /// Something in the same batch may have set them.
    Unknown,
}

/// What the server says of how it reads a text at this point of the client's batch.
#[derive(Debug)]
pub(super) struct InForce(Settings);

impl Relay {
    /// Takes note of the client's encoding, and of what a backslash is to it, if all is answered that it has sent.
    pub(super) fn note_reading(&mut self, status: TxStatus) {
        let owed = self.lease.as_ref().map(|lease| &lease.owed);
        if owed.is_some_and(|owed| owed.boundaries() > 0 || owed.is_unsynced()) {
            return;
        }
        let is_outside = status == TxStatus::Idle;
        if !is_outside && (self.footprint.can_set() || self.certainty == Certainty::None) {
            // The end of the transaction may bring anything, and what follows on it in a pipeline is read with that.
            return;
        }
        let unsure = self.told.get(b"client_encoding").is_none_or(|name| UNSAFE_ENCODINGS.contains(&name))
            || self.told.get(b"standard_conforming_strings") != Some(b"on");
        self.certainty = match (unsure, is_outside) {
            (false, _) => Certainty::Sure,
            (true, false) => Certainty::NotNow,
            (true, true) => Certainty::None,
        };
    }

    /// Notes that something is under way that may change how its texts are read.
    #[inline]
    pub(super) fn doubt_reading(&mut self) {
        if self.certainty == Certainty::Sure {
            self.certainty = Certainty::NotNow;
        }
    }

    /// Whether it is not certain how its texts are read.
    #[inline]
    pub(super) fn is_unsure(&self) -> bool {
        self.certainty != Certainty::Sure
    }

    /// Whether it is certain where the strings in `text` end.
    pub(super) fn is_sure_of(&self, text: &[u8]) -> bool {
        !self.is_unsure() || text.is_ascii() && !text.contains(&b'\\')
    }

    /// Whether it is known how the server will read a text sent now.
    pub(super) fn how_texts_are_read(&self) -> Reading {
        let Some(lease) = &self.lease else { return Reading::Known };
        let can_set = self.footprint.can_set() || self.footprint.contains(Footprint::LOCAL_SETTINGS);
        if !can_set || lease.owed.is_empty() {
            Reading::Known
        } else if lease.owed.boundaries() > 0 && !lease.owed.is_unsynced() {
            Reading::Soon
        } else {
            Reading::Unknown
        }
    }

    /// How texts are read, as far as the server has told.
    pub(super) fn reading(&mut self) -> Arc<Settings> {
        if let Some(known) = &self.reading
            && Arc::ptr_eq(&known.settings, &self.settings)
            && Arc::ptr_eq(&known.told, &self.told)
        {
            return known.reading.clone();
        }
        let reading = self.settings.reading(&self.told);
        let reading = match &self.reading {
            Some(known) if *known.reading == reading => known.reading.clone(),
            _ => self.shard.share_reading(reading),
        };
        let (settings, told) = (self.settings.clone(), self.told.clone());
        self.reading = Some(Box::new(KnownReading { settings, told, reading: reading.clone() }));
        reading
    }

    /// How the named statement that comes next is read, for good: on other servers too. `None` while the server is asked,
    /// because something in the transaction may have set what it does not report, or has not yet.
    pub(super) fn reading_in_force(&mut self, reading: Reading) -> Option<Arc<Settings>> {
        let Some(lease) = &self.lease else { return Some(self.reading()) };
        let cannot_tell =
            lease.status == TxStatus::Failed || lease.owed.is_skipping() || lease.owed.copying_in();
        let is_answered = lease.owed.is_empty();
        match &self.in_force {
            Some(told) if is_answered => Some(self.shard.share_reading(told.0.clone())),
            Some(_) => None,
            None if cannot_tell || reading != Reading::Unknown && !self.may_have_unreported() => {
                Some(self.reading())
            }
            None => {
                self.ask_reading();
                None
            }
        }
    }

    /// Whether a setting may be in force that no server reports.
    pub(super) fn may_have_unreported(&self) -> bool {
        self.footprint.intersects(Footprint::UNREPORTED)
    }

    fn ask_reading(&mut self) {
        // Roles do not show among the settings.
        let mut roles = Settings::default();
        for (name, value) in self.settings.iter().filter(|(name, _)| is_role(name)) {
            roles.set(name, value);
        }
        self.in_force = Some(Box::new(InForce(roles)));
        self.run_once(reading_question().as_bytes(), Owed::InForce);
        self.to_server.insert(&mut self.from_client).extend_from_slice(&frontend::FLUSH);
    }

    /// Takes in one setting of the answer, complete.
    pub(super) fn note_in_force(&mut self, header: Header) {
        let cursor = self.to_client.cursor();
        let body = &self.from_server.bytes()[cursor + HEADER..cursor + header.total()];
        let row = backend::read_data_row(body);
        let (Some(in_force), Some([name, value, is_set])) = (&mut self.in_force, row.as_deref()) else {
            return;
        };
        let (Ok(name), Some(Ok(value))) =
            (std::str::from_utf8(name), unhex(value).map(|value| String::from_utf8(value.into())))
        else {
            return;
        };
        let is_reported = || followed(name).is_some_and(|name| self.told.get(name.as_bytes()).is_some());
        if *is_set == b"t" || is_reported() {
            in_force.0.set(name, &value);
        }
    }

    /// Has the server read a statement as it was read when its client prepared it, whatever the client has set since.
    pub(super) fn read_as(&mut self, statement: &Statement, prepare: impl FnOnce(&mut Relay, &Statement)) {
        let current = self.reading();
        // In a failed transaction nothing can be set, and only what ends it can be prepared.
        if self.lease.as_ref().is_some_and(|lease| lease.status == TxStatus::Failed) {
            return prepare(self, statement);
        }
        if Arc::ptr_eq(&current, statement.scope()) {
            return prepare(self, statement);
        }
        for step in current.reading_steps(statement.scope()) {
            self.run_once(step.as_bytes(), Owed::Own(b'C'));
        }
        prepare(self, statement);
        for step in statement.scope().reading_steps(&current) {
            self.run_once(step.as_bytes(), Owed::Own(b'C'));
        }
    }
}
