//! From the server to the client: which reply is whose, and what it tells.
//!
//! Rows are passed on without being looked at. Only what changes the state of the session is read: ReadyForQuery,
//! ErrorResponse, ParameterStatus, and the few command tags that empty a server's statements.

use crate::client::relay::{Body, End, Relay};
use crate::client::upstream::UNDONE_NAMES;
use crate::config::Reset;
use crate::protocol::frame::HEADER;
use crate::protocol::{ErrorFields, Header, TxStatus, backend};
use crate::server::ServerError;
use crate::server::owed::{Owed, OwedQueue, Purpose, Verdict};
use crate::session::settings::followed;
use crate::session::statements::{CHANGED_NAME, SERVER_PREFIX, UNKNOWN_PREFIX};
use crate::session::{Reported, ResultShape, Settings};
use bytes::BytesMut;
use std::sync::Arc;

/// Longest message from a server that pgvalet has to read whole.
const WHOLE_LIMIT: usize = 8 << 20;

impl Relay {
    /// Deals with the messages that are there.
    pub(super) fn scan_server(&mut self) -> Result<(), End> {
        loop {
            if self.reply != Body::None {
                self.continue_reply();
            } else {
                self.pass_usual();
            }
            let input = &self.from_server.bytes()[self.to_client.cursor()..];
            if input.is_empty() {
                break;
            }
            let header = match Header::parse(input) {
                Ok(Some(header)) => header,
                Ok(None) => break,
                Err(_) => return self.server_lost(ServerError::Protocol("invalid message length")),
            };
            let available = input.len();
            let Some(lease) = self.lease.as_mut() else { break };
            match header.tag {
                b'Z' | b'S' | b'E' | b'C' | b'N' | b'A' if available < header.total() => {
                    if header.total() > WHOLE_LIMIT {
                        return self.server_lost(ServerError::Protocol("an overlong message"));
                    }
                    if self.to_client.is_empty() {
                        self.from_server.grow(header.total());
                    }
                    break;
                }
                b'Z' => {
                    let status = input.get(HEADER).and_then(|&byte| TxStatus::from_byte(byte));
                    let Some(status) = status.filter(|_| header.body == 1) else {
                        return self.server_lost(ServerError::Protocol("malformed ReadyForQuery"));
                    };
                    if self.listening.is_some() && self.holds_ready(status) {
                        break;
                    }
                    let Some(lease) = self.lease.as_mut() else { break };
                    lease.status = status;
                    let answered = Own::of(&lease.owed);
                    match lease.owed.ready() {
                        Verdict::Forward => {
                            if self.resetting.is_some() || self.discarding {
                                self.after_reset(status);
                            }
                            if self.is_unsure() {
                                self.note_reading(status);
                            }
                            self.shard.counters().queries.add(1);
                            self.pass_reply(header);
                        }
                        Verdict::Swallow => {
                            self.drop_reply(header);
                            if self.cell.is_summoned() {
                                // A cancel request may wait for that.
                                self.cell.summon();
                            }
                            match answered {
                                Own::Restore => self.end_of_reset(),
                                Own::Survey => {
                                    // It has changed nothing; what was reset the client was told its own of.
                                    self.end_survey()?;
                                    self.emit_fakes();
                                    continue;
                                }
                                Own::Settings => self.settings_confirmed()?,
                                Own::Other => {}
                            }
                            if !self.lease.as_ref().is_some_and(|lease| lease.owed.is_setting()) {
                                self.tell_news();
                            }
                        }
                        Verdict::Violation => {
                            return self.server_lost(ServerError::Protocol(
                                "a ReadyForQuery that nothing asked for",
                            ));
                        }
                    }
                }
                b'E' => {
                    if !self.error_response(header)? {
                        return Ok(());
                    }
                }
                b'S' => {
                    if !self.parameter_status(header) {
                        return self.server_lost(ServerError::Protocol("malformed ParameterStatus"));
                    }
                }
                b'A' => self.notification(header),
                b'N' => {
                    if lease.owed.swallowing() {
                        self.drop_reply(header)
                    } else {
                        self.pass_reply(header)
                    }
                }
                b'T' | b'n' | b'D' if lease.owed.wants_whole(header.tag) => {
                    if available < header.total() {
                        if header.total() > WHOLE_LIMIT {
                            return self.server_lost(ServerError::Protocol("an overlong message"));
                        }
                        if self.to_client.is_empty() {
                            self.from_server.grow(header.total());
                        }
                        break;
                    }
                    if header.tag == b'D' {
                        if lease.owed.is_survey() {
                            self.note_finding(header);
                        } else if lease.owed.tells_reading() {
                            self.note_in_force(header);
                        } else {
                            self.note_name(header);
                        }
                        self.drop_reply(header);
                    } else if !self.note_shape(header)? {
                        return Ok(());
                    }
                }
                tag => {
                    if tag == b'1' {
                        lease.confirm_prepared();
                    }
                    let has_told = tag == b'C' && lease.owed.is_listing();
                    let verdict = lease.owed.reply(tag);
                    if tag == b'C' && input.get(HEADER) == Some(&b'D') {
                        self.note_command(header);
                    }
                    if has_told {
                        self.settle_names()?;
                    }
                    match verdict {
                        Verdict::Forward => self.pass_reply(header),
                        Verdict::Swallow => self.drop_reply(header),
                        Verdict::Violation => {
                            return self.server_lost(ServerError::Protocol("a reply that nothing asked for"));
                        }
                    }
                }
            }
            self.emit_fakes();
        }
        self.settle()
    }

    /// Passes on, in one piece, the whole messages that concern nobody but the client.
    #[inline]
    fn pass_usual(&mut self) {
        let Some(lease) = &mut self.lease else { return };
        let input = &self.from_server.bytes()[self.to_client.cursor()..];
        let mut passed = 0;
        while let Some(rest) = input.get(passed..)
            && let Ok(Some(header)) = Header::parse(rest)
            && rest.len() >= header.total()
            // Some commands whose tags begin with D change what the server has.
            && (header.tag != b'C' || rest.get(HEADER) != Some(&b'D'))
            && lease.owed.take_usual(header.tag)
        {
            passed += header.total();
        }
        if passed > 0 {
            self.to_client.forward(&mut self.from_server, passed);
        }
    }

    /// Gives the replies that are due and that no server is asked for.
    #[inline(always)]
    pub(super) fn emit_fakes(&mut self) {
        if self.lease.as_ref().is_some_and(|lease| lease.owed.namings() > 0) {
            self.emit_due_fakes();
        }
    }

    fn emit_due_fakes(&mut self) {
        let Some(lease) = self.lease.as_mut() else { return };
        while lease.owed.next_kept() {
            self.to_client.insert(&mut self.from_server).extend_from_slice(&backend::CLOSE_COMPLETE);
        }
    }

    #[inline]
    pub(super) fn pass_reply(&mut self, header: Header) {
        self.reply = Body::Forward(header.total());
        self.continue_reply();
    }

    #[inline]
    pub(super) fn drop_reply(&mut self, header: Header) {
        self.reply = Body::Discard(header.total());
        self.continue_reply();
    }

    #[inline]
    fn continue_reply(&mut self) {
        let available = self.from_server.len() - self.to_client.cursor();
        self.reply = match self.reply {
            Body::Forward(left) => {
                let count = left.min(available);
                self.to_client.forward(&mut self.from_server, count);
                if left == count { Body::None } else { Body::Forward(left - count) }
            }
            Body::Discard(left) => {
                let count = left.min(available);
                self.to_client.skip(&mut self.from_server, count);
                if left == count { Body::None } else { Body::Discard(left - count) }
            }
            Body::None => Body::None,
        };
    }

    /// An ErrorResponse, complete. False if it was the server's last word.
    fn error_response(&mut self, header: Header) -> Result<bool, End> {
        let cursor = self.to_client.cursor();
        let body = &self.from_server.bytes()[cursor + HEADER..cursor + header.total()];
        if ErrorFields::new(body).is_fatal() {
            let error = ServerError::Refused(body.to_vec().into());
            self.drop_reply(header);
            self.server_lost(ServerError::Lost(Some(Box::new(error))))?;
            return Ok(false);
        }
        if self.keeps_error(header) {
            self.drop_reply(header);
            return Ok(true);
        }
        let body = &self.from_server.bytes()[cursor + HEADER..cursor + header.total()];
        if let Some(end) = self.is_broken_off(body) {
            return Err(end);
        }
        let mentions_us = names_a_statement(body);
        if let Some(resets) = &mut self.resetting {
            resets.failed = true;
        }
        let mut undone = Vec::new();
        let Some(lease) = self.lease.as_mut() else { return Ok(false) };
        let verdict = lease.owed.error(|failed, owed| undone.push((failed, owed)));
        if matches!(verdict, Verdict::Forward) {
            self.shard.stats().errors.count(ErrorFields::new(body).code());
        }
        match verdict {
            Verdict::Swallow => self.drop_reply(header),
            Verdict::Forward if mentions_us => {
                let body = body.to_vec();
                self.drop_reply(header);
                let parsed = undone.iter().find_map(|(failed, owed)| match owed {
                    Owed::Parse(naming) if *failed => Some(&*naming.name),
                    _ => None,
                });
                let renamed = self.with_own_names(&body, parsed);
                self.to_client.insert(&mut self.from_server).extend_from_slice(&renamed);
            }
            Verdict::Forward => self.pass_reply(header),
            Verdict::Violation => {
                let error = ServerError::Refused(body.to_vec().into());
                self.drop_reply(header);
                self.server_lost(ServerError::Lost(Some(Box::new(error))))?;
                return Ok(false);
            }
        }
        undone.into_iter().for_each(|(failed, owed)| self.undo(failed, owed));
        // What waited may be skipped.
        self.statements.set_awaited(None);
        self.ask_which_syncs_count();
        Ok(true)
    }

    /// The ErrorResponse of this body, with the client's names for statements in place of ours; `parsed` is the name in
    /// the Parse that failed, if it was one.
    fn with_own_names(&self, body: &[u8], parsed: Option<&[u8]>) -> BytesMut {
        let mut fields = Vec::with_capacity(body.len());
        let has_changed = body.windows(CHANGED_NAME.len()).any(|window| window == CHANGED_NAME);
        for (field, text) in ErrorFields::new(body).iter() {
            // Drivers know this error by its SQLSTATE and routine, and prepare anew.
            let replaced = match field {
                _ if !has_changed => None,
                b'C' => Some("0A000"),
                b'M' => Some("cached plan must not change result type"),
                b'F' => Some("plancache.c"),
                b'R' => Some("RevalidateCachedQuery"),
                b'S' | b'V' => None,
                _ => continue,
            };
            let text = String::from_utf8_lossy(text);
            fields.push(field);
            match replaced {
                Some(text) => fields.extend_from_slice(text.as_bytes()),
                None if field == b'M' => fields.extend_from_slice(self.rename(&text, parsed).as_bytes()),
                None => fields.extend_from_slice(text.as_bytes()),
            }
            fields.push(0);
        }
        fields.push(0);
        let mut message = BytesMut::with_capacity(fields.len() + HEADER);
        message.extend_from_slice(b"E");
        message.extend_from_slice(&((fields.len() + 4) as u32).to_be_bytes());
        message.extend_from_slice(&fields);
        message
    }

    fn rename(&self, text: &str, parsed: Option<&[u8]>) -> String {
        if text.contains(UNKNOWN_PREFIX) {
            return text.replacen(UNKNOWN_PREFIX, "", 1);
        }
        let Some(at) = text.find(SERVER_PREFIX) else { return text.to_owned() };
        let rest = &text[at + SERVER_PREFIX.len()..];
        let digits = rest.find(|c: char| !c.is_ascii_hexdigit()).unwrap_or(rest.len());
        let name = u64::from_str_radix(&rest[..digits], 16).ok().and_then(|id| {
            if parsed.is_some() {
                return parsed;
            }
            let undone = self.undone_names.iter().find(|(undone, _)| *undone == id).map(|(_, name)| &**name);
            undone.or_else(|| self.statements.name_of(id))
        });
        match name {
            Some(name) => format!("{}{}{}", &text[..at], String::from_utf8_lossy(name), &rest[digits..]),
            None => text.to_owned(),
        }
    }

    /// The columns of a statement that pgvalet asked for, complete. False if the server was given up.
    fn note_shape(&mut self, header: Header) -> Result<bool, End> {
        let Some(lease) = self.lease.as_mut() else { return Ok(false) };
        let cursor = self.to_client.cursor();
        let body = &self.from_server.bytes()[cursor + HEADER..cursor + header.total()];
        let shape = match header.tag {
            b'n' => Some(ResultShape::NO_ROWS),
            _ => ResultShape::of_row_description(body),
        };
        let (Some(shape), Some(of)) = (shape, lease.owed.take_shape()) else {
            return self.server_lost(ServerError::Protocol("malformed RowDescription")).map(|()| false);
        };
        lease.note_shape(of.id, of.stamp, shape);
        self.drop_reply(header);
        if let Purpose::Prepared(name) = &of.purpose {
            self.statements.note_shape(name, of.stamp, shape);
        }
        Ok(true)
    }

    /// A ParameterStatus, complete. False if it is malformed.
    fn parameter_status(&mut self, header: Header) -> bool {
        let Some(lease) = self.lease.as_mut() else { return false };
        let cursor = self.to_client.cursor();
        let body = &self.from_server.bytes()[cursor + HEADER..cursor + header.total()];
        let Some((name, value)) = backend::read_parameter_status(body) else { return false };
        // A Query that was answered in advance runs all the same: what it sets is the client's.
        let swallow = lease.owed.swallowing() && !lease.owed.is_answered();
        // With `never` nobody has judged what runs: a report may be the client's own doing.
        let judged = self.shard.with_policy(|policy| policy.reset) != Reset::Never;
        let mut reading_changed = false;
        let is_news = Reported::record(&mut lease.reported, name, value);
        if !swallow && (self.discarding || self.resetting.is_some()) {
            let name: Box<[u8]> = name.into();
            if let Some((key, own)) = self.default_of(&name) {
                self.take_default(&key);
                self.drop_reply(header);
                if Reported::record(&mut self.told, &name, &own) {
                    let (name, own) = (String::from_utf8_lossy(&name), String::from_utf8_lossy(&own));
                    backend::parameter_status(self.to_client.insert(&mut self.from_server), &name, &own);
                }
                return true;
            }
        }
        let Some(lease) = self.lease.as_mut() else { return false };
        let cursor = self.to_client.cursor();
        let body = &self.from_server.bytes()[cursor + HEADER..cursor + header.total()];
        let Some((name, value)) = backend::read_parameter_status(body) else { return false };
        if !swallow {
            Reported::record(&mut self.told, name, value);
            reading_changed = name == b"client_encoding" || name == b"standard_conforming_strings";
        }
        if is_news && !swallow && judged && !self.footprint.can_set() {
            // The server's configuration was reloaded: what holds for the pool has changed, not what the client set.
            self.shard.forget_accepted();
        } else if is_news && !swallow && !self.discarding {
            let name = std::str::from_utf8(name).ok().and_then(followed);
            if let (Some(name), Ok(value)) = (name, std::str::from_utf8(value)) {
                let mut settings = Settings::clone(&self.settings);
                settings.set(name, value);
                self.settings = Arc::new(settings);
                lease.in_force = self.settings.clone();
            }
        }
        if swallow {
            self.drop_reply(header);
        } else {
            self.pass_reply(header);
        }
        // Until all is answered that it has sent.
        if reading_changed {
            self.doubt_reading();
        }
        true
    }

    /// A CommandComplete that begins with D, complete: some of them empty a server's statements.
    fn note_command(&mut self, header: Header) {
        let cursor = self.to_client.cursor();
        let tag = &self.from_server.bytes()[cursor + HEADER..cursor + header.total()];
        let is_discard = tag == b"DISCARD ALL\0";
        if tag == b"DISCARD SEQUENCES\0" {
            return self.sequences_gone();
        }
        if !is_discard && tag != b"DEALLOCATE ALL\0" {
            return;
        }
        let Some(lease) = self.lease.as_mut() else { return };
        // The unnamed statement stays, and so does what is pipelined behind the command.
        let (mut names, ids) = lease.owed.statements_gone();
        names.push(Box::default());
        // What is bound behind it in the same batch fails for its name.
        let room = UNDONE_NAMES.saturating_sub(self.undone_names.len());
        let gone = self.statements.iter().map(|(name, named)| (named.statement.id(), name.into()));
        self.undone_names.extend(gone.take(room));
        lease.keep_only(&ids);
        let kept: Vec<_> = names.iter().map(|name| self.statements.get(name).cloned()).collect();
        self.statements.clear();
        for (name, statement) in names.iter().zip(kept) {
            self.statements.set(name, statement);
        }
        if is_discard {
            let is_last = lease.owed.is_last();
            lease.in_force = Arc::default();
            self.settings = self.startup.clone();
            self.discarding = true;
            self.all_gone(is_last);
        }
    }
}

/// What of pgvalet's own a ReadyForQuery answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Own {
    Restore,
    Survey,
    Settings,
    Other,
}

impl Own {
    #[inline]
    fn of(owed: &OwedQueue) -> Own {
        match () {
            () if owed.is_restoring() => Own::Restore,
            () if owed.is_survey() => Own::Survey,
            () if owed.is_setting() => Own::Settings,
            () => Own::Other,
        }
    }
}

/// Whether it is an error about a statement that has a name of ours.
fn names_a_statement(body: &[u8]) -> bool {
    let fields = ErrorFields::new(body);
    let prefix = SERVER_PREFIX.as_bytes();
    matches!(fields.code(), b"26000" | b"42P05" | b"08P01")
        && fields.get(b'M').is_some_and(|text| text.windows(prefix.len()).any(|window| window == prefix))
}
