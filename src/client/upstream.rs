//! From the client to the server: what each message means for the debts of the server.
//!
//! Most messages pass through untouched. Those that name statements are in `naming`; what texts leave behind is judged in `judging`.

use crate::client::cell::Activity;
use crate::client::relay::{Body, End, Leaving, Relay};
use crate::config::PoolMode;
use crate::error::{Error, Kind};
use crate::moment::Moment;
use crate::net::buffer::LARGE;
use crate::protocol::frame::HEADER;
use crate::protocol::{Header, backend, frontend};
use crate::server::owed::Owed;
use crate::session::classify::begins_transaction;
use crate::session::sql_prepare::mentions;
use crate::session::{Footprint, Named};
use std::task::Context;

/// Bytes of our own making that may wait for the server before more of the client's messages are looked at.
const SPILL_LIMIT: usize = LARGE;
/// Unanswered changes of names that one client may have before no more of its messages are looked at.
const NAMINGS_LIMIT: usize = 16_384;
/// Longest Query that is read whole before it is sent, so that what it can leave behind is judged.
const QUERY_LIMIT: usize = 256 << 10;
/// The same for one that may prepare or execute statements.
const STATEMENT_LIMIT: usize = 1 << 20;
/// Names taken back that are remembered for error messages.
pub(super) const UNDONE_NAMES: usize = 64;

/// How it went with one message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// It was dealt with.
    Done,
    /// It is not complete yet.
    NeedMore,
    /// It needs a server.
    NeedServer,
    /// What it means depends on replies that have not come yet.
    NeedReplies,
}

impl Relay {
    /// Deals with the messages that are there. Whether anything happened.
    pub(super) fn scan_client(&mut self, cx: &mut Context<'_>) -> Result<bool, End> {
        let mut progress = false;
        while self.from_client.len() > self.to_server.cursor() {
            if self.to_server.spilled().max(self.to_client.spilled()) > SPILL_LIMIT {
                break;
            }
            if self.request != Body::None {
                self.continue_request();
                self.ask_which_syncs_count();
                progress = true;
                continue;
            }
            let step = match self.lease.is_some() {
                true if self.pass_batch() => Step::Done,
                true => self.forward_message()?,
                false => self.local_message()?,
            };
            match step {
                Step::Done => progress = true,
                Step::NeedMore | Step::NeedReplies => break,
                Step::NeedServer => {
                    if !self.check_out(cx)? {
                        break;
                    }
                    progress = true;
                }
            }
        }
        if progress {
            self.emit_fakes();
            self.settle()?;
        }
        Ok(progress)
    }

    /// The part of what the client sent that was not looked at yet.
    #[inline]
    pub(super) fn input(&self) -> &[u8] {
        &self.from_client.bytes()[self.to_server.cursor()..]
    }

    pub(super) fn continue_request(&mut self) {
        let available = self.input().len();
        self.request = match self.request {
            Body::Forward(left) => {
                let count = left.min(available);
                self.to_server.forward(&mut self.from_client, count);
                if left == count { Body::None } else { Body::Forward(left - count) }
            }
            Body::Discard(left) => {
                let count = left.min(available);
                self.to_server.skip(&mut self.from_client, count);
                if left == count { Body::None } else { Body::Discard(left - count) }
            }
            Body::None => Body::None,
        };
    }

    /// The next header, checked.
    #[inline]
    fn header(&self) -> Result<Option<Header>, End> {
        let Some(header) = Header::parse(self.input())? else { return Ok(None) };
        header.check_frontend()?;
        Ok(Some(header))
    }

    /// Whether the message can be dealt with: it is complete, or it will not be before some of it has moved on.
    pub(super) fn is_ready(&mut self, header: Header) -> bool {
        let available = self.input().len();
        if available >= header.total() {
            return true;
        }
        // What stands in front of it has to be written first.
        self.to_server.is_empty() && self.from_client.len() == self.from_client.capacity()
    }

    /// A message of a client that has no server.
    fn local_message(&mut self) -> Result<Step, End> {
        let Some(header) = self.header()? else { return Ok(Step::NeedMore) };
        match header.tag {
            b'X' => {
                self.leaving = Leaving::Terminated;
                let rest = self.input().len();
                self.from_client.advance(rest);
                return Ok(Step::Done);
            }
            // Malformed: a server says so.
            b'S' | b'H' if header.body > 0 && !self.skip_to_sync => {}
            b'S' => {
                let status = self.status_without_server();
                self.skip_to_sync = false;
                self.request = Body::Discard(header.total());
                backend::ready_for_query(self.to_client.insert(&mut self.from_server), status);
                self.look_for_mail();
                return Ok(Step::Done);
            }
            // Flush has nothing to flush; COPY data comes behind an error that has ended its COPY.
            b'H' | b'd' | b'c' | b'f' => {
                self.request = Body::Discard(header.total());
                return Ok(Step::Done);
            }
            _ if self.skip_to_sync => {
                self.request = Body::Discard(header.total());
                return Ok(Step::Done);
            }
            _ => {}
        }
        if !self.is_ready(header) {
            return Ok(Step::NeedMore);
        }
        if self.leaving == Leaving::Draining {
            let error = Error::new(Kind::Shutdown, "terminating connection due to administrator command");
            return Err(End::Fatal(error));
        }
        let message = &self.input()[..header.total().min(self.input().len())];
        if header.tag == b'C'
            && self.lost.is_none()
            && let Some((kind @ (b'S' | b'P'), name)) = frontend::read_target(&message[HEADER..])
        {
            if kind == b'S' {
                let name: Box<[u8]> = name.into();
                self.statements.set(&name, None);
            }
            self.request = Body::Discard(header.total());
            self.to_client.insert(&mut self.from_server).extend_from_slice(&backend::CLOSE_COMPLETE);
            return Ok(Step::Done);
        }
        if header.tag == b'Q' && self.shard.with_policy(|policy| policy.extended_only) {
            return Err(End::Fatal(no_simple_queries()));
        }
        if matches!(header.tag, b'Q' | b'P') && self.is_refused_by_mode(header) {
            let error =
                Error::new(Kind::NoTransactions, "transaction blocks not allowed in statement pooling mode")
                    .hint("Use pool_mode = \"transaction\" for this database.");
            self.fail_request(&error)?;
            return Ok(Step::Done);
        }
        Ok(Step::NeedServer)
    }

    /// Whether statement pooling forbids the Query or Parse that comes next.
    fn is_refused_by_mode(&self, header: Header) -> bool {
        if self.shard.with_policy(|policy| policy.mode) != PoolMode::Statement {
            return false;
        }
        let message = &self.input()[..header.total().min(self.input().len())];
        let sql = match header.tag {
            b'Q' => frontend::read_query(message),
            _ => frontend::read_parse(&message[HEADER..])
                .map_or(&[][..], |(_, rest)| rest.split(|&byte| byte == 0).next().unwrap_or(&[])),
        };
        begins_transaction(sql)
    }

    /// Passes on, in one piece, the messages that come behind a Bind as a rule and mean nothing but their answers. Whether
    /// there were any.
    #[inline]
    fn pass_batch(&mut self) -> bool {
        let is_plain = self.cell.activity() == Activity::Active
            && self.bound_resets.is_none()
            && self.resetting.is_none()
            && self.confirming.is_none()
            && self.survey.is_none()
            && !self.asked_for_replies;
        let Some(lease) = self.lease.as_mut().filter(|lease| is_plain && lease.owed.is_plain()) else {
            return false;
        };
        let input = &self.from_client.bytes()[self.to_server.cursor()..];
        let mut passed = 0;
        while let Some(rest) = input.get(passed..)
            && let Ok(Some(header)) = Header::parse(rest)
            && rest.len() >= header.total()
            && header.check_frontend().is_ok()
        {
            let owed = match (header.tag, rest.get(HEADER)) {
                (b'E', _) => Owed::Execute,
                (b'D', Some(b'P')) => Owed::DescribePortal,
                (b'S', _) if header.body == 0 => Owed::Sync,
                _ => break,
            };
            let _ = lease.owed.push(owed);
            passed += header.total();
        }
        if passed > 0 {
            self.is_unused = false;
            self.to_server.forward(&mut self.from_client, passed);
        }
        passed > 0
    }

    /// A message of a client that has a server.
    fn forward_message(&mut self) -> Result<Step, End> {
        let header = match self.header() {
            Ok(Some(header)) => header,
            Ok(None) => return Ok(Step::NeedMore),
            Err(end) => return self.last_message(end),
        };
        if matches!(self.cell.activity(), Activity::Idle | Activity::IdleInTransaction | Activity::Pinned) {
            self.set_activity(Activity::Active, Moment::recent());
        }
        if self.is_held() {
            return Ok(Step::NeedReplies);
        }
        self.is_unused = false;
        self.is_surveyed = false;
        if self.lease.as_ref().is_some_and(|lease| self.asked_for_replies || !lease.owed.is_plain())
            && let Some(step) = self.special_message(header)?
        {
            return Ok(step);
        }
        if let Some(lease) = &self.lease {
            if lease.owed.namings() > NAMINGS_LIMIT && !matches!(header.tag, b'd' | b'c' | b'f' | b'X') {
                self.ask_for_replies();
                return Ok(Step::NeedReplies);
            }
            self.asked_for_replies = false;
        }
        match header.tag {
            b'd' => {
                let is_wanted = self.lease.as_ref().is_some_and(|lease| !lease.owed.is_empty());
                if is_wanted {
                    self.owe(Owed::CopyData);
                }
                self.pass_or_drop(header, is_wanted);
            }
            b'c' | b'f' => {
                let is_wanted = self.lease.as_ref().is_some_and(|lease| !lease.owed.is_empty());
                if is_wanted {
                    self.owe(Owed::CopyEnd);
                }
                self.pass_or_drop(header, is_wanted);
            }
            b'X' => {
                self.leaving = Leaving::Terminated;
                let rest = self.input().len();
                self.to_server.skip(&mut self.from_client, rest);
            }
            _ => {
                if !self.is_ready(header) {
                    return Ok(Step::NeedMore);
                }
                return self.forward_request(header);
            }
        }
        Ok(Step::Done)
    }

    /// A message that ends the session: what is owed for those in front of it comes first.
    fn last_message(&mut self, end: End) -> Result<Step, End> {
        if self.lease.as_ref().is_none_or(|lease| lease.owed.is_empty() || lease.owed.expects_copy_data()) {
            return Err(end);
        }
        self.ask_for_replies();
        Ok(Step::NeedReplies)
    }

    /// Whether nothing of what the client sends may go on yet: settings of its own are being brought into force, or the
    /// server is about to go to others.
    #[inline]
    fn is_held(&self) -> bool {
        (self.resetting.is_some() || self.confirming.is_some() || self.survey.is_some())
            && self.lease.as_ref().is_some_and(|lease| !lease.owed.is_empty() && !lease.owed.copying_in())
    }

    /// Has the server send what it holds back until a Sync, once for each time that the limit is reached.
    pub(super) fn ask_for_replies(&mut self) {
        if !self.asked_for_replies {
            self.asked_for_replies = true;
            self.to_server.insert(&mut self.from_client).extend_from_slice(&frontend::FLUSH);
        }
    }

    pub(super) fn forward_request(&mut self, header: Header) -> Result<Step, End> {
        match header.tag {
            b'Q' => {
                if self.shard.with_policy(|policy| policy.extended_only) {
                    return Err(End::Fatal(no_simple_queries()));
                }
                if !self.is_whole_query(header) {
                    return Ok(Step::NeedMore);
                }
                if self.lease.as_ref().is_some_and(|lease| lease.owed.is_unsynced()) {
                    // PostgreSQL 18.4 reports `I` after it and fails the next statement with "unexpected state STARTED".
                    self.spoiled = true;
                }
                if !self.judge_query(header) {
                    return Ok(Step::NeedReplies);
                }
                let resets = self.query_resets(header);
                if resets.is_some() && self.lease.as_ref().is_some_and(|lease| lease.owed.boundaries() > 0) {
                    return Ok(Step::NeedReplies);
                }
                let unnamed = self.statements.set(b"", None);
                let may_forget = forgets_statements(&self.input()[HEADER..]);
                if let Some(lease) = self.lease.as_mut().filter(|_| may_forget) {
                    lease.doubt_prepared();
                }
                let _ = self.sql_names.sent();
                self.owe(Owed::Query(unnamed.map(Box::new)));
                if let Some(resets) = resets {
                    self.begin_reset(resets);
                }
            }
            b'S' => self.owe(Owed::Sync),
            b'E' => {
                self.owe(Owed::Execute);
                if self.bound_resets.is_some() {
                    self.pass(header);
                    self.restore_in_batch();
                    return Ok(Step::Done);
                }
            }
            b'P' => return self.forward_parse(header),
            b'B' => return self.forward_bind(header),
            b'D' | b'C' => return self.forward_target(header),
            // It earns nothing, and opens no batch that is not open already.
            b'H' => {}
            _ => {
                self.footprint = self.footprint.union(Footprint::EVERYTHING);
                self.owe(Owed::FunctionCall);
            }
        }
        self.pass(header);
        Ok(Step::Done)
    }

    /// Whether as much of a Query is there as is to be read of it; if not, makes room for the rest.
    fn is_whole_query(&mut self, header: Header) -> bool {
        if self.input().len() >= header.total() {
            return true;
        }
        let limit =
            if begins_with_statement(&self.input()[HEADER..]) { STATEMENT_LIMIT } else { QUERY_LIMIT };
        if header.total() > limit {
            return true;
        }
        if self.to_server.is_empty() {
            self.from_client.grow(header.total());
        }
        false
    }

    /// Passes the message on as it is; the part that has not come yet follows.
    #[inline]
    pub(super) fn pass(&mut self, header: Header) {
        self.request = Body::Forward(header.total());
        self.continue_request();
    }

    fn pass_or_drop(&mut self, header: Header, is_wanted: bool) {
        self.request = if is_wanted { Body::Forward(header.total()) } else { Body::Discard(header.total()) };
        self.continue_request();
    }

    /// Leaves the whole message, which is complete, out.
    pub(super) fn drop_message(&mut self, header: Header) {
        self.to_server.skip(&mut self.from_client, header.total());
    }

    /// Notes what the server will owe for a message.
    #[inline]
    pub(super) fn owe(&mut self, owed: Owed) {
        let Some(lease) = &mut self.lease else { return };
        if let Some(skipped) = lease.owed.push(owed) {
            self.undo(false, skipped);
        }
    }

    /// Takes back what was done for a message that the server failed at or will never come to.
    pub(super) fn undo(&mut self, failed: bool, owed: Owed) {
        let Some(lease) = &mut self.lease else { return };
        match owed {
            Owed::Parse(naming) => {
                if let Some(id) = naming.prepares {
                    lease.prepared.pop(&id);
                    self.remember_name(id, naming.name.clone());
                }
                // A Parse that fails destroys the unnamed statement; one that is skipped does not.
                let destroyed = failed && naming.name.is_empty();
                self.take_back(&naming.name, if destroyed { None } else { naming.previous });
            }
            Owed::Kept(naming) => self.take_back(&naming.name, naming.previous),
            Owed::Query(unnamed) => self.take_back(b"", unnamed.map(|unnamed| *unnamed)),
            // It was prepared, but its columns are not known.
            Owed::Shape(of) if lease.prepared.contains(&of.id) => lease.doubt(of.id),
            Owed::Own(_) => self.sql_names.fail(),
            Owed::Question(_) | Owed::Names if failed => self.sql_names.ask_failed(),
            Owed::Names => self.sql_names.ask_skipped(),
            Owed::InForce => self.in_force = None,
            Owed::Prepare(0) => self.unnamed_here = false,
            Owed::Prepare(id) => {
                lease.prepared.pop(&id);
            }
            Owed::Evict(id) if id != 0 => {
                // Whether it is there or not was not certain for one that was closed to be prepared again.
                lease.doubt(id);
            }
            _ => {}
        }
    }

    /// Remembers a name that is taken back or closed while the server may still say something about its statement.
    pub(super) fn remember_name(&mut self, id: u64, name: Box<[u8]>) {
        if self.lease.as_ref().is_none_or(|lease| lease.owed.is_empty()) {
            return;
        }
        if self.undone_names.len() >= UNDONE_NAMES {
            self.undone_names.remove(0);
        }
        self.undone_names.push((id, name));
    }

    /// Makes `name` stand for what it stood for before a change that did not happen; a later change has that before it now.
    fn take_back(&mut self, name: &[u8], previous: Option<Named>) {
        self.unnamed_here &= !name.is_empty();
        let Some(lease) = &mut self.lease else { return };
        if let Some(previous) = lease.owed.hand_on(name, previous) {
            self.statements.set(name, previous);
        }
    }
}

/// What a client is told that uses the simple query protocol where it may not; the first words are pgbouncer's.
#[cold]
fn no_simple_queries() -> Error {
    Error::new(
        Kind::Unsupported,
        "PQexec disallowed: the simple query protocol is switched off (disable_pqexec)",
    )
    .hint("Use the extended query protocol: parameters, or a driver's prepared statements.")
}

/// Whether a text begins with a statement that prepares or executes, or with a comment that may hide one.
fn begins_with_statement(sql: &[u8]) -> bool {
    const WORDS: [&[u8]; 8] =
        [b"prepare", b"execute", b"deallocate", b"explain", b"create", b"do", b"--", b"/*"];
    let sql = sql.trim_ascii_start();
    let begins = |word: &&[u8]| sql.get(..word.len()).is_some_and(|start| start.eq_ignore_ascii_case(word));
    WORDS.iter().any(begins)
}

/// Whether a Query may be DEALLOCATE ALL or DISCARD ALL. One that hides behind other statements is found by its reply.
#[inline]
fn forgets_statements(sql: &[u8]) -> bool {
    let begins = |word: &[u8]| sql.get(..word.len()).is_some_and(|start| start.eq_ignore_ascii_case(word));
    (begins(b"deallocate") || begins(b"discard")) && mentions(sql, b"all")
}
