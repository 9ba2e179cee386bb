//! From the client to the server: what each message means for the server's debts, and what is changed on the way.
//!
//! Most messages pass through untouched. Names of statements are replaced, a statement that the server lacks is
//! prepared in front of the message that needs it, and what concerns only the client's names never leaves.

use crate::client::cell::Activity;
use crate::client::relay::{Body, End, Leaving, Relay};
use crate::config::{PoolMode, Reset};
use crate::error::{Error, Kind};
use crate::net::buffer::LARGE;
use crate::protocol::frame::HEADER;
use crate::protocol::{Header, TxStatus, backend, frontend};
use crate::server::owed::{Fake, Naming, Owed};
use crate::server::{Has, Server};
use crate::session::classify::{begins_transaction, classify};
use crate::session::statements::UNKNOWN_NAME;
use crate::session::{Footprint, Statement, Statements};
use std::sync::Arc;
use std::task::Context;
use std::time::Instant;

/// Bytes of our own making that may wait for the server before more of the client's messages are looked at.
const SPILL_LIMIT: usize = LARGE;
/// Longest Parse that is kept, so that its statement can follow the client to other servers.
const PARSE_LIMIT: usize = 1 << 20;
/// Unanswered changes of names that one client may have.
const NAMINGS_LIMIT: usize = 16_384;
/// Names taken back that are remembered for error messages.
const UNDONE_NAMES: usize = 64;
/// Bytes of statements that one client may have prepared.
const STATEMENTS_LIMIT: usize = 64 << 20;

/// How it went with one message.
enum Step {
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
                progress = true;
                continue;
            }
            let step = if self.lease.is_some() { self.forward_message()? } else { self.local_message()? };
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
    fn input(&self) -> &[u8] {
        &self.from_client.bytes()[self.to_server.cursor()..]
    }

    fn continue_request(&mut self) {
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
    fn is_ready(&mut self, header: Header) -> bool {
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
            b'S' => {
                let status = self.status_without_server();
                self.skip_to_sync = false;
                self.request = Body::Discard(header.total());
                backend::ready_for_query(self.to_client.insert(&mut self.from_server), status);
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
        if matches!(header.tag, b'Q' | b'P') && self.is_refused_by_mode(header) {
            let error =
                Error::new(Kind::NoTransactions, "transaction blocks are not allowed in statement pooling")
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

    /// A message of a client that has a server.
    fn forward_message(&mut self) -> Result<Step, End> {
        let Some(header) = self.header()? else { return Ok(Step::NeedMore) };
        if matches!(self.cell.activity(), Activity::Idle | Activity::IdleInTransaction) {
            self.set_activity(Activity::Active, Instant::now());
        }
        if let Some(lease) = &self.lease {
            if lease.owed.is_skipping() && !matches!(header.tag, b'S' | b'X') {
                // The server would ignore it.
                self.request = Body::Discard(header.total());
                self.continue_request();
                return Ok(Step::Done);
            }
            if lease.owed.namings() > NAMINGS_LIMIT {
                let error = Error::new(Kind::TooLarge, "too many unanswered Parse and Close messages")
                    .hint("Read replies before sending more.");
                return Err(End::Fatal(error));
            }
        }
        match header.tag {
            b'd' => {
                let is_wanted = self.lease.as_ref().is_some_and(|lease| !lease.owed.is_empty());
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

    fn forward_request(&mut self, header: Header) -> Result<Step, End> {
        match header.tag {
            b'Q' => {
                if self.lease.as_ref().is_some_and(|lease| lease.owed.is_unsynced()) {
                    // PostgreSQL 18.4 reports `I` after it and fails the next statement with "unexpected state STARTED".
                    self.spoiled = true;
                }
                self.judge_query(header);
                self.statements.set(b"", None);
                let may_forget = closes_statements(&self.input()[HEADER..]);
                if let Some(lease) = self.lease.as_mut().filter(|_| may_forget) {
                    lease.doubt_prepared();
                }
                self.owe(Owed::Query);
            }
            b'S' => self.owe(Owed::Sync),
            b'E' => self.owe(Owed::Execute),
            b'P' => return self.forward_parse(header),
            b'B' => return self.forward_bind(header),
            b'D' | b'C' => return self.forward_target(header),
            b'H' => {
                if let Some(lease) = &mut self.lease {
                    lease.owed.flush_sent();
                }
            }
            _ => {
                self.footprint = self.footprint.union(Footprint::EVERYTHING);
                self.owe(Owed::FunctionCall);
            }
        }
        self.pass(header);
        Ok(Step::Done)
    }

    /// Passes the message on as it is; the part that has not come yet follows.
    #[inline]
    fn pass(&mut self, header: Header) {
        self.request = Body::Forward(header.total());
        self.continue_request();
    }

    fn pass_or_drop(&mut self, header: Header, is_wanted: bool) {
        self.request = if is_wanted { Body::Forward(header.total()) } else { Body::Discard(header.total()) };
        self.continue_request();
    }

    /// Leaves the whole message, which is complete, out.
    fn drop_message(&mut self, header: Header) {
        self.to_server.skip(&mut self.from_client, header.total());
    }

    /// Notes what the server will owe for a message.
    #[inline]
    fn owe(&mut self, owed: Owed) {
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
                    if self.undone_names.len() < UNDONE_NAMES {
                        self.undone_names.push((id, naming.name.clone()));
                    }
                }
                if naming.name.is_empty() {
                    // A Parse that fails destroys the unnamed statement; one that is skipped does not.
                    self.unnamed_here = false;
                    self.statements.set(b"", if failed { None } else { naming.previous });
                } else {
                    self.statements.set(&naming.name, naming.previous);
                }
            }
            Owed::Fake(_, naming) => {
                self.statements.set(&naming.name, naming.previous);
            }
            Owed::Prepare(0) => self.unnamed_here = false,
            Owed::Prepare(id) => {
                lease.prepared.pop(&id);
            }
            Owed::Evict(id) if id != 0 => {
                // Whether it is there or not was not certain for one that was closed to be prepared again.
                lease.prepared.put(id, Some(0));
            }
            _ => {}
        }
    }

    /// Notes what a Query can leave behind.
    #[inline]
    fn judge_query(&mut self, header: Header) {
        if self.shard.with_policy(|policy| policy.reset) != Reset::Auto {
            return;
        }
        let input = self.input();
        let found = if input.len() < header.total() {
            // Too long to be read whole.
            Footprint::EVERYTHING.union(Footprint::DDL)
        } else {
            let sql = frontend::read_query(&input[..header.total()]);
            self.shard.with_facts(|generation, facts| match self.unsafe_encoding {
                true => classify(sql, facts, true),
                false => {
                    self.shard.shapes.borrow_mut().footprint(sql, generation, || classify(sql, facts, false))
                }
            })
        };
        self.note_footprint(found);
    }

    /// Notes what executing a statement can leave behind.
    fn judge_statement(&mut self, statement: &Statement) {
        if self.shard.with_policy(|policy| policy.reset) != Reset::Auto {
            return;
        }
        let found = self.shard.with_facts(|generation, facts| match self.unsafe_encoding {
            true => classify(statement.text(), facts, true),
            false => statement.footprint(generation, |sql| classify(sql, facts, false)),
        });
        self.note_footprint(found);
    }

    fn note_footprint(&mut self, found: Footprint) {
        self.footprint = self.footprint.union(found);
        // It may be the encoding that is set: what follows in the pipeline may be in another one.
        self.unsafe_encoding |= found.contains(Footprint::FOLLOWED_SETTINGS);
    }

    fn forward_parse(&mut self, header: Header) -> Result<Step, End> {
        if self.input().len() < header.total() {
            if header.total() <= PARSE_LIMIT {
                if self.to_server.is_empty() {
                    self.from_client.grow(header.total());
                }
                return Ok(Step::NeedMore);
            }
            return self.stream_parse(header);
        }
        let message = &self.from_client.bytes()[self.to_server.cursor()..][..header.total()];
        let Some((name, rest)) = frontend::read_parse(&message[HEADER..]) else {
            // Malformed: the server says so.
            self.owe(Owed::Parse(Box::new(Naming { name: b"?"[..].into(), previous: None, prepares: None })));
            self.pass(header);
            return Ok(Step::Done);
        };
        self.shard.counters().client_parses.add(1);
        let name: Box<[u8]> = name.into();
        let statement = self.shard.interner.borrow_mut().intern(rest, &self.settings);
        self.judge_statement(&statement);
        if name.is_empty() {
            self.shard.counters().server_parses.add(1);
            let previous = self.statements.set(b"", Some(statement));
            self.unnamed_here = true;
            self.owe(Owed::Parse(Box::new(Naming { name, previous, prepares: None })));
            self.pass(header);
            return Ok(Step::Done);
        }
        self.parse_named(header, name, statement)
    }

    fn parse_named(
        &mut self,
        header: Header,
        name: Box<[u8]>,
        statement: Arc<Statement>,
    ) -> Result<Step, End> {
        let unsettled = self.lease.as_ref().is_some_and(|lease| lease.owed.unsettled(&name).is_some());
        if unsettled {
            return Ok(Step::NeedReplies);
        }
        if let Some(existing) = self.statements.get(&name).cloned() {
            // What is still to be answered may be a DEALLOCATE ALL, which frees the name.
            if self
                .lease
                .as_ref()
                .is_some_and(|lease| lease.owed.boundaries() > 0 && !lease.owed.copying_in())
            {
                return Ok(Step::NeedReplies);
            }
            // The server refuses it, in PostgreSQL's own order of checks, because it has a statement of that name.
            self.prepare_on_server(&existing);
            self.owe(Owed::Parse(Box::new(Naming {
                name,
                previous: Some(existing.clone()),
                prepares: None,
            })));
            let out = self.to_server.insert(&mut self.from_client);
            frontend::parse(out, existing.name(), statement.rest());
            self.drop_message(header);
            return Ok(Step::Done);
        }
        if self.statements.bytes() + statement.rest().len() > STATEMENTS_LIMIT {
            let error = Error::new(Kind::TooLarge, "too many prepared statements for one connection")
                .hint("Close statements that are not needed any more.");
            return Err(End::Fatal(error));
        }
        let Some(lease) = &mut self.lease else { return Ok(Step::NeedServer) };
        let (has, status) = (lease.has(statement.id()), lease.status);
        let previous = self.statements.set(&name, Some(statement.clone()));
        if has == Has::Yes && status != TxStatus::Failed {
            let naming = Box::new(Naming { name, previous, prepares: None });
            self.owe(Owed::Fake(Fake::ParseComplete, naming));
            self.drop_message(header);
            return Ok(Step::Done);
        }
        // In a failed transaction the server refuses it before it sees that it has it.
        let prepares = (has != Has::Yes).then(|| statement.id());
        if prepares.is_some() {
            self.expect_statement(has, statement.id());
        }
        self.shard.counters().server_parses.add(1);
        self.owe(Owed::Parse(Box::new(Naming { name, previous, prepares })));
        frontend::parse(self.to_server.insert(&mut self.from_client), statement.name(), statement.rest());
        self.drop_message(header);
        Ok(Step::Done)
    }

    /// A Parse too long to be kept passes through, if it is for the unnamed statement and this lease.
    fn stream_parse(&mut self, header: Header) -> Result<Step, End> {
        self.footprint = self.footprint.union(Footprint::EVERYTHING).union(Footprint::DDL);
        if self.input().get(HEADER) != Some(&0) {
            let error = Error::new(Kind::TooLarge, "a named prepared statement may not be longer than 1 MiB")
                .hint("Send it unnamed, or pass the data as parameters.");
            return Err(End::Fatal(error));
        }
        let previous = self.statements.set(b"", None);
        self.unnamed_here = true;
        self.owe(Owed::Parse(Box::new(Naming { name: Box::default(), previous, prepares: None })));
        self.pass(header);
        Ok(Step::Done)
    }

    fn forward_bind(&mut self, header: Header) -> Result<Step, End> {
        let available = self.input().len().min(header.total());
        let message = &self.from_client.bytes()[self.to_server.cursor()..][..available];
        let Some((portal, name, names)) = frontend::read_bind(&message[HEADER..]) else {
            if available < header.total() {
                let error = Error::new(Kind::TooLarge, "the names in a Bind message are too long");
                return Err(End::Fatal(error));
            }
            self.owe(Owed::Bind);
            self.pass(header);
            return Ok(Step::Done);
        };
        self.shard.counters().binds.add(1);
        if name.is_empty() && self.unnamed_here {
            if let Some(statement) = self.statements.get(b"").cloned() {
                self.judge_statement(&statement);
            }
            self.owe(Owed::Bind);
            self.pass(header);
            return Ok(Step::Done);
        }
        // Most portals have no name, and an empty box takes no memory.
        let portal: Box<[u8]> = portal.into();
        if let Some(statement) = ready_statement(&self.statements, self.lease.as_deref_mut(), name) {
            self.judge_statement(&statement);
            self.bind(header, &portal, statement.name(), names);
            return Ok(Step::Done);
        }
        let name: Box<[u8]> = name.into();
        let Some(server_name) = self.server_name(&name) else { return Ok(Step::NeedReplies) };
        self.bind(header, &portal, &server_name, names);
        Ok(Step::Done)
    }

    /// Sends a Bind with the server's name for its statement; `names` is the length of the client's names.
    #[inline]
    fn bind(&mut self, header: Header, portal: &[u8], server_name: &[u8], names: usize) {
        self.owe(Owed::Bind);
        let rest = header.body as usize - names;
        frontend::bind_prefix(self.to_server.insert(&mut self.from_client), portal, server_name, rest);
        self.to_server.skip(&mut self.from_client, HEADER + names);
        self.request = if rest == 0 { Body::None } else { Body::Forward(rest) };
        if !self.input().is_empty() {
            self.continue_request();
        }
    }

    /// What the server calls the statement that the client calls `name`; it is made sure to be there. `None` while that
    /// depends on replies that have not come yet.
    fn server_name(&mut self, name: &[u8]) -> Option<Box<[u8]>> {
        let lease = self.lease.as_ref()?;
        let told_by_server = match lease.owed.unsettled(name) {
            Some((_, false)) => return None,
            Some((_, true)) => true,
            None => false,
        };
        let Some(statement) = self.statements.get(name).cloned() else {
            if name.is_empty() {
                // Another client may have left one there: this one has none.
                frontend::close_statement(self.to_server.insert(&mut self.from_client), b"");
                self.owe(Owed::Evict(0));
                return Some(Box::default());
            }
            self.unknown_name = name.into();
            return Some(UNKNOWN_NAME.into());
        };
        self.judge_statement(&statement);
        if name.is_empty() {
            self.shard.counters().server_parses.add(1);
            self.owe(Owed::Prepare(0));
            frontend::parse(self.to_server.insert(&mut self.from_client), b"", statement.rest());
            self.unnamed_here = true;
            return Some(Box::default());
        }
        // If the batch that prepares it fails before it comes to that, this message is to fail too.
        if !told_by_server {
            self.prepare_on_server(&statement);
        }
        Some(statement.name().into())
    }

    /// Prepares a statement in front of the message that needs it, unless the server has it.
    fn prepare_on_server(&mut self, statement: &Arc<Statement>) {
        let Some(lease) = &mut self.lease else { return };
        let has = lease.has(statement.id());
        if has == Has::Yes {
            return;
        }
        self.expect_statement(has, statement.id());
        self.shard.counters().server_parses.add(1);
        self.owe(Owed::Prepare(statement.id()));
        frontend::parse(self.to_server.insert(&mut self.from_client), statement.name(), statement.rest());
    }

    /// Makes room for a statement that is about to be prepared on the server, and its name free.
    fn expect_statement(&mut self, has: Has, id: u64) {
        if has == Has::Perhaps {
            // Whether it is there or not, after a Close it is not.
            let name = Statement::name_of(id);
            frontend::close_statement(self.to_server.insert(&mut self.from_client), name.as_bytes());
            self.owe(Owed::Evict(id));
        } else {
            self.make_room();
        }
        if let Some(lease) = &mut self.lease {
            lease.will_have(id);
        }
    }

    /// Closes the server's least recently used statement if it has as many as it may have.
    fn make_room(&mut self) {
        let Some(lease) = &mut self.lease else { return };
        if lease.prepared.len() < lease.prepared.cap().get() {
            return;
        }
        if let Some((id, _)) = lease.prepared.pop_lru() {
            let name = Statement::name_of(id);
            frontend::close_statement(self.to_server.insert(&mut self.from_client), name.as_bytes());
            self.owe(Owed::Evict(id));
        }
    }

    /// A Describe or Close.
    fn forward_target(&mut self, header: Header) -> Result<Step, End> {
        let message = &self.from_client.bytes()[self.to_server.cursor()..];
        let body = message.get(HEADER..header.total()).unwrap_or(&[]);
        let is_describe = header.tag == b'D';
        match frontend::read_target(body) {
            Some((b'S', name)) if is_describe => {
                let name: Box<[u8]> = name.into();
                if name.is_empty() && self.unnamed_here {
                    self.owe(Owed::DescribeStatement);
                    self.pass(header);
                    return Ok(Step::Done);
                }
                let Some(server_name) = self.server_name(&name) else { return Ok(Step::NeedReplies) };
                self.owe(Owed::DescribeStatement);
                frontend::describe_statement(self.to_server.insert(&mut self.from_client), &server_name);
                self.drop_message(header);
            }
            Some((b'S', name)) => {
                // Closing a name is the client's own matter: the server keeps the statement for the next one.
                let name: Box<[u8]> = name.into();
                self.unnamed_here &= !name.is_empty();
                let previous = self.statements.set(&name, None);
                self.owe(Owed::Fake(
                    Fake::CloseComplete,
                    Box::new(Naming { name, previous, prepares: None }),
                ));
                self.drop_message(header);
            }
            _ => {
                self.owe(if is_describe { Owed::DescribePortal } else { Owed::Close });
                self.pass(header);
            }
        }
        Ok(Step::Done)
    }
}

/// The statement of a name that is settled, if the server has it: the common case, without further ado.
#[inline]
fn ready_statement(
    statements: &Statements,
    server: Option<&mut Server>,
    name: &[u8],
) -> Option<Arc<Statement>> {
    let server = server?;
    if name.is_empty() || server.owed.namings() > 0 {
        return None;
    }
    let statement = statements.get(name)?;
    (server.has(statement.id()) == Has::Yes).then(|| statement.clone())
}

/// Whether a Query may be a DEALLOCATE or DISCARD. One that hides behind other statements is found by its reply.
#[inline]
fn closes_statements(sql: &[u8]) -> bool {
    let begins = |word: &[u8]| sql.get(..word.len()).is_some_and(|start| start.eq_ignore_ascii_case(word));
    begins(b"deallocate") || begins(b"discard")
}
