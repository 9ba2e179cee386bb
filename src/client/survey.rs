//! What becomes of a server's session between two transactions of its client: settings go with the client, and state that
//! only this server has keeps the client on it.
//!
//! After a transaction that may have left something behind the server is asked, before anybody else gets it. What the
//! client is answered does not wait for that.

use crate::client::cell::Activity;
use crate::client::relay::{End, Relay};
use crate::config::{Pin, Reset};
use crate::error::{Error, Kind};
use crate::pool::Pinned;
use crate::protocol::frame::HEADER;
use crate::protocol::{ErrorFields, Header, backend, frontend};
use crate::server::ServerError;
use crate::server::owed::Owed;
use crate::session::footprint::ResetPlan;
use crate::session::settings::followed;
use crate::session::survey::{Findings, custom_names, question, sequence_hints};
use crate::session::{Footprint, Reported, Settings};
use std::sync::Arc;
use std::time::Instant;

/// Times that a survey is tried which a late cancel request of the client's has hit.
const TRIES: u32 = 4;
/// `query_canceled`
const CANCELED: &[u8] = b"57014";

/// A survey that the server has not answered yet.
#[derive(Debug)]
pub(super) struct Survey {
    question: String,
    findings: Findings,
    error: Option<Box<[u8]>>,
    tries: u32,
}

/// Settings that the server may refuse, and what it said.
#[derive(Debug, Default)]
pub(super) struct Confirming {
    error: Option<Box<[u8]>>,
}

impl Relay {
    /// Notes what a text shows of what it may do, though it is not certain what it does: names of custom settings, and
    /// what it asks of sequences.
    pub(super) fn note_hints(&mut self, text: &[u8]) {
        custom_names(text, &mut self.custom);
        let hints = sequence_hints(text);
        if !hints.is_empty() {
            self.note_footprint(hints);
        }
    }

    /// Notes the names of custom settings among values that are bound.
    pub(super) fn note_custom(&mut self, bytes: &[u8]) {
        custom_names(bytes, &mut self.custom);
    }

    /// Whether the server has to be asked what its session holds.
    #[inline]
    pub(super) fn survey_is_due(&self) -> bool {
        let surveyed = match &self.pinned {
            None => Footprint::SURVEYED,
            // Whatever ran may have ended what pins.
            Some(pinned) if pinned.kinds.contains(Footprint::CURSORS) => {
                return !self.is_surveyed && self.is_judged();
            }
            Some(_) => Footprint::SURVEYED.union(Footprint::DDL),
        };
        self.footprint.intersects(surveyed) && self.is_judged()
    }

    fn is_judged(&self) -> bool {
        self.shard.with_policy(|policy| policy.reset) != Reset::Never
    }

    /// Asks the server, which is at rest and in no transaction.
    pub(super) fn send_survey(&mut self) {
        let custom = self.custom.iter().map(|name| &**name);
        let known = self.settings.iter().map(|(name, _)| name).filter(|name| name.contains('.'));
        let known: Vec<&str> =
            known.filter(|name| !self.custom.iter().any(|custom| **custom == **name)).collect();
        // While it is pinned, all that pins has to be asked for again.
        let done = self.footprint.union(self.left.intersection(Footprint::PINS));
        let question = question(done, custom.chain(known));
        self.left = self.left.union(self.footprint).without(Footprint::SETTLED_BY_SURVEY);
        self.footprint = Footprint::NOTHING;
        // It takes the place of the client's unnamed statement.
        self.unnamed_here = false;
        self.shard.counters().surveys.add(1);
        self.ask(Survey { question, findings: Findings::default(), error: None, tries: 1 });
    }

    fn ask(&mut self, survey: Survey) {
        frontend::query(self.to_server.insert(&mut self.from_client), &survey.question);
        self.owe(Owed::Survey);
        self.survey = Some(Box::new(survey));
    }

    /// Takes in one row of the answer, complete.
    pub(super) fn note_finding(&mut self, header: Header) {
        let Some(survey) = &mut self.survey else { return };
        let cursor = self.to_client.cursor();
        let body = &self.from_server.bytes()[cursor + HEADER..cursor + header.total()];
        if let Some(row) = backend::read_data_row(body) {
            survey.findings.note(&row, &self.shard.pool.target.user);
        }
    }

    /// Keeps an ErrorResponse that answers a survey or settings that might be refused: what follows from it is decided when
    /// the server is ready again.
    pub(super) fn keeps_error(&mut self, header: Header) -> bool {
        let Some(lease) = &self.lease else { return false };
        let place = match () {
            () if lease.owed.is_survey() => self.survey.as_mut().map(|survey| &mut survey.error),
            () if lease.owed.is_setting() => self.confirming.as_mut().map(|confirming| &mut confirming.error),
            () => None,
        };
        let Some(place) = place else { return false };
        let cursor = self.to_client.cursor();
        *place = Some(self.from_server.bytes()[cursor + HEADER..cursor + header.total()].into());
        true
    }

    /// The survey is answered: its settings are the client's, and what pins is known.
    pub(super) fn end_survey(&mut self) -> Result<(), End> {
        let Some(survey) = self.survey.take() else { return Ok(()) };
        if let Some(error) = survey.error {
            if ErrorFields::new(&error).code() == CANCELED && survey.tries < TRIES {
                let tries = survey.tries + 1;
                self.ask(Survey { findings: Findings::default(), error: None, tries, ..*survey });
                return Ok(());
            }
            self.spoiled = true;
            let error = Error::new(
                Kind::ServerLost,
                "the state of the session could not be read, so it cannot go on",
            )
            .detail(ServerError::Refused(error.to_vec().into()).to_string());
            return Err(End::Fatal(error));
        }
        let Findings { mut settings, pins } = survey.findings;
        if let Some(encoding) = self.settings.get("client_encoding") {
            settings.set("client_encoding", encoding);
        }
        self.shard.note_taken(&settings);
        let mut own = settings.clone();
        for (name, value) in self.startup.iter().filter(|(name, _)| settings.get(name).is_none()) {
            // It was reset, which for the client means this.
            own.set(name, value);
        }
        self.resetting = None;
        if *self.settings != own {
            self.settings = Arc::new(own);
        }
        self.left = self.left.union(pins);
        self.is_surveyed = true;
        let Some(lease) = &mut self.lease else { return Ok(()) };
        lease.in_force = if settings == *self.settings { self.settings.clone() } else { Arc::new(settings) };
        self.tell_defaults();
        if !self.pins().is_empty() {
            self.put_settings_in_force();
        }
        Ok(())
    }

    /// Tells the client those of its defaults that hold again though no server has reported them.
    fn tell_defaults(&mut self) {
        let Some(lease) = &self.lease else { return };
        let restored = lease.in_force.changes(&self.settings).filter_map(|(name, _)| followed(name));
        let restored: Vec<&str> = restored.collect();
        for name in restored {
            if let Some(value) = self.startup_reported.clone().get(name.as_bytes())
                && Reported::record(&mut self.told, name.as_bytes(), value)
            {
                let value = String::from_utf8_lossy(value);
                backend::parameter_status(self.to_client.insert(&mut self.from_server), name, &value);
            }
        }
    }

    /// Brings the client's settings into force on the server that it has, in front of what comes next.
    pub(super) fn put_settings_in_force(&mut self) {
        let Some(lease) = &mut self.lease else { return };
        if Arc::ptr_eq(&lease.in_force, &self.settings) {
            return;
        }
        let difference = lease.in_force.difference(&self.settings);
        if !difference.is_empty() {
            self.shard.counters().setting_syncs.add(1);
            let may_fail = lease
                .in_force
                .changes(&self.settings)
                .any(|(name, value)| followed(name).is_none() && !self.shard.was_taken(name, value));
            let has_role = |settings: &Settings| settings.has_role();
            if may_fail || has_role(&self.settings) || has_role(&lease.in_force) {
                self.confirming = Some(Box::default());
            }
            frontend::query(self.to_server.insert(&mut self.from_client), &difference);
            lease.owed.push(Owed::Settings);
        }
        lease.in_force = self.settings.clone();
    }

    /// Settings that might have been refused are answered. If they were refused, that is what the client's statement comes
    /// to: it does not run under others.
    pub(super) fn settings_confirmed(&mut self) -> Result<(), End> {
        let Some(confirming) = self.confirming.take() else { return Ok(()) };
        let Some(error) = confirming.error else {
            self.shard.note_taken(&self.settings);
            return Ok(());
        };
        let Some(lease) = self.lease.take() else { return Ok(()) };
        let now = Instant::now();
        self.pinned = None;
        if lease.is_free() {
            lease.checkin(ResetPlan::Full, now);
        }
        self.set_activity(Activity::Idle, now);
        self.fail_request(&ServerError::Refused(error.to_vec().into()).into())
    }

    /// What keeps the client on its server.
    fn pins(&self) -> Footprint {
        let all = self.left.union(self.footprint);
        let mut pins = all.intersection(Footprint::PINS);
        let asks = all.contains(Footprint::NEXTVAL) || self.asks_currval;
        if !asks || !self.shard.with_policy(|policy| policy.pin_sequences) {
            pins = pins.without(Footprint::SEQUENCES);
        }
        pins
    }

    /// Whether the client keeps the server that it has, which is free.
    pub(super) fn stays(&mut self) -> Result<bool, End> {
        self.asks_currval |= self.footprint.contains(Footprint::CURRVAL);
        let pins = if self.is_judged() { self.pins() } else { Footprint::NOTHING };
        // Nothing unloads a library.
        self.spoiled |= pins.contains(Footprint::LOAD);
        if pins.is_empty() {
            self.pinned = None;
            return Ok(false);
        }
        match &mut self.pinned {
            Some(pinned) => pinned.kinds = pins,
            None => {
                let reasons: Vec<&str> = pins.reasons().collect();
                let reasons = reasons.join(", ");
                if self.shard.with_policy(|policy| policy.pin) == Pin::Refuse {
                    let text =
                        format!("the session holds {reasons}, which would keep its server from others");
                    return Err(End::Fatal(
                        Error::new(Kind::Unsupported, text)
                            .hint("pin = \"refuse\" is set for this database: use such state within one transaction only, or set pin = \"allow\"."),
                    ));
                }
                let Some(pinned) = Pinned::new(&self.shard, pins) else {
                    let text = format!(
                        "too many clients keep a server for themselves (max_pinned); this one for {reasons}"
                    );
                    return Err(End::Fatal(
                        Error::new(Kind::TooManyPinned, text)
                            .hint("Raise max_pinned, or end such state (DROP, UNLISTEN, CLOSE, unlock) within the transaction."),
                    ));
                };
                tracing::debug!(
                    database = &*self.cell.database,
                    user = &*self.cell.user,
                    reason = reasons,
                    "client keeps its server"
                );
                self.pinned = Some(Box::new(pinned));
            }
        }
        self.custom = Vec::new();
        Ok(true)
    }

    /// The server was made as new by the client itself; `is_last`: nothing was sent behind that.
    pub(super) fn all_gone(&mut self, is_last: bool) {
        if is_last {
            self.footprint = Footprint::NOTHING;
            self.left = Footprint::NOTHING;
        }
        if self.is_session_pooled() {
            self.begin_reset(crate::session::resets::Resets::everything());
        }
    }

    /// The server has forgotten what `currval` and `lastval` answer.
    pub(super) fn sequences_gone(&mut self) {
        if self.lease.as_ref().is_some_and(|lease| lease.owed.is_last()) {
            let gone = Footprint::SEQUENCES.union(Footprint::NEXTVAL);
            self.footprint = self.footprint.without(gone);
            self.left = self.left.without(gone);
        }
    }
}
