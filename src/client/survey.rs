//! What becomes of a server's session between two transactions of its client: settings go with the client, and state that
//! only this server has keeps the client on it.
//!
//! After a transaction that may have left something behind the server is asked, before anybody else gets it. What the
//! client is answered does not wait for that.

use crate::client::cell::Activity;
use crate::client::listening::Ears;
use crate::client::relay::{End, LostTransaction, Relay};
use crate::config::{Pin, Reset};
use crate::error::{Error, Kind};
use crate::moment::Moment;
use crate::pool::{Lease, Pinned};
use crate::protocol::frame::HEADER;
use crate::protocol::{ErrorFields, Header, backend, frontend};
use crate::server::ServerError;
use crate::server::owed::Owed;
use crate::session::footprint::ResetPlan;
use crate::session::settings::{ROLE, SESSION_AUTHORIZATION, followed, is_refusable};
use crate::session::survey::{Asked, Findings, asks_channels, bound_names, custom_names, hints, question};
use crate::session::{Footprint, Settings};
use std::sync::Arc;

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
    aim: Aim,
}

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Aim {
    /// What the session holds; `channels`: also what it listens to.
    State { channels: bool },
    /// That the server sets the marker behind which the shared listener takes over.
    Marker,
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
        let mut found = hints(text);
        if !custom_names(text, &mut self.custom) || !self.is_sure_of(text) {
            // What nobody can ask for is not left to the next client.
            found = found.union(Footprint::EVERYTHING);
        }
        self.note_footprint(found);
    }

    /// The same for a statement that a text executes: the text may give it the names.
    pub(super) fn note_hints_of(&mut self, statement: &[u8], executing: &[u8]) {
        let sets =
            |word: &[u8]| statement.windows(word.len()).any(|window| window.eq_ignore_ascii_case(word));
        if sets(b"set_config") {
            custom_names(statement, &mut self.custom);
            custom_names(executing, &mut self.custom);
        }
        self.note_footprint(hints(statement));
    }

    /// Notes the names of custom settings in a text that may be executed, or give them, before it is known what is prepared.
    pub(super) fn note_prepared_names(&mut self, text: &[u8]) {
        custom_names(text, &mut self.custom);
    }

    /// Notes the names of custom settings among values that are bound.
    pub(super) fn note_bound_values(&mut self, values: &[u8]) {
        bound_names(values, &mut self.custom);
    }

    /// Whether the server has to be asked what its session holds.
    #[inline]
    pub(super) fn survey_is_due(&self) -> bool {
        let surveyed = match &self.pinned {
            None => Footprint::SURVEYED,
            // Whatever ran may have ended what pins.
            Some(pinned) if pinned.kinds().contains(Footprint::CURSORS) => {
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
        let reported = |name: &[u8]| self.lease.as_ref().and_then(|lease| lease.reported.get(name));
        let version = reported(b"server_version").and_then(|text| std::str::from_utf8(text).ok());
        let major = version.map(|text| text.split(|c: char| !c.is_ascii_digit()).next().unwrap_or_default());
        let asked = Asked {
            user: &self.shard.pool.target.user,
            major: major.and_then(|major| major.parse().ok()).unwrap_or(0),
            converts: reported(b"server_encoding") != Some(b"SQL_ASCII"),
        };
        let question = question(done, custom.chain(known), asked);
        let aim = Aim::State { channels: asks_channels(done) };
        if done.contains(Footprint::SETTINGS) && (done.contains(Footprint::ROLE) || self.settings.has_role())
        {
            // A role may have set what this one cannot even see.
            self.left = self.left.union(Footprint::EVERYTHING);
        }
        self.left = self.left.union(self.footprint).without(Footprint::SETTLED_BY_SURVEY);
        self.footprint = Footprint::NOTHING;
        // Whatever is sent before the answer has come needs another one.
        self.is_surveyed = true;
        // It takes the place of the client's unnamed statement.
        self.unnamed_here = false;
        self.shard.counters().surveys.add(1);
        // For the client nothing is going on any more.
        self.set_activity(Activity::Idle, Moment::now());
        self.ask(Survey { question, findings: Findings::default(), error: None, tries: 1, aim });
    }

    /// Has the server set the marker for the shared listener. It is free, and nothing of it changes.
    pub(super) fn ask_for_marker(&mut self, question: String) {
        let findings = Findings::default();
        self.ask(Survey { question, findings, error: None, tries: 1, aim: Aim::Marker });
    }

    fn ask(&mut self, survey: Survey) {
        frontend::query(self.to_server.insert(&mut self.from_client), &survey.question);
        self.owe(Owed::Survey);
        if survey.aim == Aim::Marker {
            self.forget_marker();
        }
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
            if survey.aim == Aim::Marker {
                self.marker_failed();
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
        let Aim::State { channels: has_channels } = survey.aim else { return Ok(()) };
        let mut findings = survey.findings;
        findings.finish();
        let Findings { mut settings, unsure, mut pins, channels, hides } = findings;
        if has_channels {
            self.note_channels(channels);
        }
        if hides {
            pins = pins.union(Footprint::EVERYTHING);
        }
        let was_reset = |name: &str| self.resetting.as_ref().is_some_and(|resets| resets.contains(name));
        for (name, value) in unsure.iter().filter(|(name, _)| !was_reset(name)) {
            if name.contains('.') || self.startup.get(name).is_some() {
                settings.set(name, value);
            }
        }
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
        let Some(lease) = &mut self.lease else { return Ok(()) };
        lease.in_force = if settings == *self.settings { self.settings.clone() } else { Arc::new(settings) };
        if self.would_stay() {
            self.put_settings_in_force();
        }
        Ok(())
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
            let may_fail = lease.in_force.changes(&self.settings).any(|(name, value)| {
                followed(name).is_none() && (is_refusable(name) || !self.shard.was_taken(name, value))
            });
            let has_role = |settings: &Settings| settings.has_role();
            if may_fail
                || self.settings.takes_rights()
                || has_role(&self.settings)
                || has_role(&lease.in_force)
            {
                self.confirming = Some(Box::default());
                self.is_unused = true;
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
        let now = Moment::now();
        self.pinned = None;
        if lease.is_free() {
            lease.checkin(ResetPlan::Full, now);
        } else {
            if !lease.owed.is_empty() {
                // The failed transaction that was being made again is still the client's.
                self.lost = Some(Box::new(LostTransaction { error: None }));
            }
            lease.abandon("it has refused the settings of its client");
        }
        self.set_activity(Activity::Idle, now);
        let error: Error = ServerError::Refused(error.to_vec().into()).into();
        match Header::parse(self.from_client.bytes())? {
            // Whatever it had set, it sets anew, or resets.
            Some(header) if header.tag == b'Q' && self.ends_settings(header) => Ok(()),
            Some(_) => self.fail_request(&error),
            None => Err(End::Fatal(error)),
        }
    }

    /// Whether the client's next request ends a role or setting that it has, or all of them; that is then done.
    fn ends_settings(&mut self, header: Header) -> bool {
        let message = &self.from_client.bytes()[..header.total().min(self.from_client.len())];
        let words: Vec<String> = frontend::read_query(message)
            .split(|byte| byte.is_ascii_whitespace() || matches!(byte, b';' | b'='))
            .filter(|word| !word.is_empty())
            .take(3)
            .map(|word| String::from_utf8_lossy(word).to_ascii_lowercase())
            .collect();
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let mut settings = Settings::clone(&self.settings);
        match words[..] {
            ["discard" | "reset", "all", ..] => settings = Settings::clone(&self.startup),
            ["set" | "reset", "role", ..] | ["set", "session" | "local", "role"] => settings.unset(ROLE),
            ["set" | "reset", "session", "authorization"] => {
                settings.unset(SESSION_AUTHORIZATION);
                settings.unset(ROLE);
            }
            ["set" | "reset", name, ..] => settings.unset(name),
            _ => return false,
        }
        let changes = settings != *self.settings;
        self.settings = Arc::new(settings);
        changes
    }

    /// Whether the client keeps its server, for now at least.
    fn would_stay(&mut self) -> bool {
        let pins = self.pins();
        !pins.is_empty() && (pins != Footprint::LISTEN || self.ears() != Ears::Shared)
    }

    /// Whether something was done to the server, perhaps in a transaction that is open, that no reset undoes.
    pub(super) fn has_made_what_lasts(&self) -> bool {
        self.is_judged() && self.left.union(self.footprint).intersects(Footprint::LASTING)
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
        let mut pins = if self.is_judged() { self.pins() } else { Footprint::NOTHING };
        if pins.contains(Footprint::LISTEN) {
            match self.ears() {
                Ears::Shared => pins = pins.without(Footprint::LISTEN),
                Ears::Moving if pins == Footprint::LISTEN => {
                    self.pinned = None;
                    self.move_ears();
                    return Ok(true);
                }
                Ears::Moving | Ears::Own => {}
            }
        }
        // Nothing makes the server as new again.
        self.spoiled |= pins.contains(Footprint::LASTING);
        if pins.is_empty() {
            self.pinned = None;
            return Ok(false);
        }
        match &mut self.pinned {
            Some(pinned) if pinned.kinds() == pins => {}
            Some(pinned) => pinned.set_kinds(pins),
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
                let server = self.lease.as_ref().and_then(Lease::entry);
                let Some(pinned) = Pinned::new(&self.shard, server, pins) else {
                    let text = format!(
                        "too many clients keep a server for themselves (max_pinned); this one for {reasons}"
                    );
                    return Err(End::Fatal(
                        Error::new(Kind::TooManyPinned, text)
                            .hint("Raise max_pinned, or end such state (DROP, UNLISTEN, CLOSE, unlock) within the transaction."),
                    ));
                };
                tracing::debug!(
                    peer = %self.cell.peer(),
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
            self.listening = None;
            self.pinned = None;
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
            if self.left.union(self.footprint).is_empty() {
                self.pinned = None;
            }
        }
    }
}
