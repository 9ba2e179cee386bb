//! Prepared statements on their way to the server: the client's names are replaced by the server's, and a statement that
//! the server lacks is prepared in front of the message that needs it.
//!
//! What concerns only the client's names never leaves. Each change of a name is taken back if the server never comes to
//! the message that made it.
//!
//! A client must see the tables as they were when it prepared, or an error (PostgreSQL's "cached plan must not change
//! result type"). So a Parse always goes to the server, the columns that the statement has then are asked for behind it,
//! and what a server has prepared for others is used only if its columns are the same.

use crate::client::reading::Reading;
use crate::client::relay::{Body, End, Relay};
use crate::client::upstream::Step;
use crate::error::{Error, Kind};
use crate::protocol::frame::HEADER;
use crate::protocol::{Header, TxStatus, frontend};
use crate::server::owed::{Naming, Owed, Purpose, ShapeOf};
use crate::server::{Has, Server};
use crate::session::classify::is_planned;
use crate::session::statements::{CHANGED_NAME, UNKNOWN_PREFIX, stamp};
use crate::session::{Footprint, Named, ResultShape, Statement, Statements};
use std::sync::Arc;

/// Longest Parse that is kept, so that its statement can follow the client to other servers.
const PARSE_LIMIT: usize = 1 << 20;
/// The same where it has a name, which a longer one could not keep.
const NAMED_PARSE_LIMIT: usize = 16 << 20;
/// Bytes of statements that one client may have prepared.
pub(super) const STATEMENTS_LIMIT: usize = 64 << 20;

impl Relay {
    pub(super) fn forward_parse(&mut self, header: Header) -> Result<Step, End> {
        if self.input().len() < header.total() {
            let is_unnamed = self.input().get(HEADER) == Some(&0);
            if header.total() <= if is_unnamed { PARSE_LIMIT } else { NAMED_PARSE_LIMIT } {
                if self.to_server.is_empty() {
                    self.from_client.grow(header.total());
                }
                return Ok(Step::NeedMore);
            }
            return self.stream_parse(header);
        }
        let reading = self.how_texts_are_read();
        let is_named = self.input().get(HEADER).is_some_and(|byte| *byte != 0);
        let scope = match is_named && reading != Reading::Soon {
            true => self.reading_in_force(reading),
            false => Some(self.reading()),
        };
        let Some(scope) = scope else { return Ok(Step::NeedReplies) };
        let message = &self.from_client.bytes()[self.to_server.cursor()..][..header.total()];
        let Some((name, rest)) = frontend::read_parse(&message[HEADER..]) else {
            // Malformed: the server says so.
            self.owe(Owed::Parse(Box::new(Naming { name: b"?"[..].into(), previous: None, prepares: None })));
            self.pass(header);
            return Ok(Step::Done);
        };
        let name: Box<[u8]> = name.into();
        if reading == Reading::Soon && !name.is_empty() {
            return Ok(Step::NeedReplies);
        }
        // What no server reports can decide how a text is read, too.
        let is_own = self.in_force.is_some() || self.may_have_unreported() || reading == Reading::Unknown;
        let statement = match is_own {
            true => Statement::unshared(rest, scope),
            false => self.shard.interner.borrow_mut().intern(rest, &scope),
        };
        // One name for each statement, so that errors about it can tell which.
        let statement = match !name.is_empty() && self.statements.has_id(statement.id()) {
            true => Statement::unshared(statement.rest(), statement.scope().clone()),
            false => statement,
        };
        if !self.judge_statement(&statement) || !name.is_empty() && !self.names_are_certain() {
            return Ok(Step::NeedReplies);
        }
        self.shard.counters().client_parses.add(1);
        let named = Named { statement, stamp: stamp(), shape: None };
        if name.is_empty() {
            self.shard.counters().server_parses.add(1);
            let previous = self.statements.set(b"", Some(named));
            self.unnamed_here = true;
            self.owe(Owed::Parse(Box::new(Naming { name, previous, prepares: None })));
            self.pass(header);
            return Ok(Step::Done);
        }
        let step = self.parse_named(header, name, named)?;
        if step == Step::Done {
            self.in_force = None;
        }
        Ok(step)
    }

    fn parse_named(&mut self, header: Header, name: Box<[u8]>, named: Named) -> Result<Step, End> {
        let statement = named.statement.clone();
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
            let taken = existing.statement.clone();
            if taken.sql().is_some() {
                self.supply_sql(&name, &taken);
                self.owe(Owed::Parse(Box::new(Naming { name, previous: Some(existing), prepares: None })));
                self.pass(header);
                return Ok(Step::Done);
            }
            if self.lease.as_mut().is_some_and(|lease| !matches!(lease.has(taken.id()), Has::Yes(_))) {
                self.prepare(&taken, Purpose::Noted);
            }
            self.owe(Owed::Parse(Box::new(Naming { name, previous: Some(existing), prepares: None })));
            let out = self.to_server.insert(&mut self.from_client);
            frontend::parse(out, taken.name(), statement.rest());
            self.drop_message(header);
            return Ok(Step::Done);
        }
        if self.statements.bytes() + statement.rest().len() > STATEMENTS_LIMIT {
            let error = Error::new(Kind::TooLarge, "too many prepared statements for one connection")
                .hint("Close statements that are not needed any more.");
            return Err(End::Fatal(error));
        }
        // What the server may have of it is from before.
        self.expect_statement(statement.id(), named.stamp);
        self.shard.counters().server_parses.add(1);
        let purpose =
            if is_planned(statement.text()) { Purpose::Prepared(name.clone()) } else { Purpose::Noted };
        let of = ShapeOf { id: statement.id(), stamp: named.stamp, purpose };
        let previous = self.statements.set(&name, Some(named));
        self.owe(Owed::Parse(Box::new(Naming { name, previous, prepares: Some(statement.id()) })));
        frontend::parse(self.to_server.insert(&mut self.from_client), statement.name(), statement.rest());
        self.ask_shape(&statement, of);
        self.drop_message(header);
        Ok(Step::Done)
    }

    /// A Parse too long to be kept passes through, if it is for the unnamed statement and this lease.
    fn stream_parse(&mut self, header: Header) -> Result<Step, End> {
        self.footprint = self.footprint.union(Footprint::EVERYTHING).union(Footprint::DDL);
        if self.input().get(HEADER) != Some(&0) {
            let error =
                Error::new(Kind::TooLarge, "a named prepared statement may not be longer than 16 MiB")
                    .hint("Send it unnamed, or pass the data as parameters.");
            return Err(End::Fatal(error));
        }
        let previous = self.statements.set(b"", None);
        self.unnamed_here = true;
        self.owe(Owed::Parse(Box::new(Naming { name: Box::default(), previous, prepares: None })));
        self.pass(header);
        Ok(Step::Done)
    }

    pub(super) fn forward_bind(&mut self, header: Header) -> Result<Step, End> {
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
        self.sql_names.turn_away();
        if name.is_empty() && self.unnamed_here {
            if self.lease.as_ref().is_some_and(|lease| lease.owed.unnamed_is_unsettled()) {
                // If it is skipped, the server may have another client's.
                return Ok(Step::NeedReplies);
            }
            if let Some(named) = self.statements.get(b"").cloned()
                && !self.judge_statement(&named.statement)
            {
                return Ok(Step::NeedReplies);
            }
            self.note_bound();
            self.owe(Owed::Bind);
            self.pass(header);
            return Ok(Step::Done);
        }
        // Most portals have no name, and an empty box takes no memory.
        let portal: Box<[u8]> = portal.into();
        if !self.sql_names.is_uncertain()
            && let Some(statement) = ready_statement(&self.statements, self.lease.as_deref_mut(), name)
        {
            if !self.judge_statement(&statement) {
                return Ok(Step::NeedReplies);
            }
            self.bind(header, &portal, statement.name(), names);
            return Ok(Step::Done);
        }
        let name: Box<[u8]> = name.into();
        let Some(server_name) = self.server_name(&name) else { return Ok(Step::NeedReplies) };
        self.bind(header, &portal, &server_name, names);
        Ok(Step::Done)
    }

    /// A portal that makes or drops statements may be executed at any later time: only a full reset is sure then.
    #[inline]
    fn note_bound(&mut self) {
        if self.sql_names.sent() {
            self.note_footprint(Footprint::EVERYTHING);
        }
    }

    /// Sends a Bind with the server's name for its statement; `names` is the length of the client's names.
    #[inline]
    fn bind(&mut self, header: Header, portal: &[u8], server_name: &[u8], names: usize) {
        self.note_bound();
        self.owe(Owed::Bind);
        let rest = header.body as usize - names;
        frontend::bind_prefix(self.to_server.insert(&mut self.from_client), portal, server_name, rest);
        self.to_server.skip(&mut self.from_client, HEADER + names);
        self.request = if rest == 0 { Body::None } else { Body::Forward(rest) };
        if !self.input().is_empty() {
            self.continue_request();
        }
    }

    /// What the server calls the statement that the client calls `name`; it is made sure to be there, with the columns
    /// that the client knows. `None` while that depends on replies that have not come yet.
    fn server_name(&mut self, name: &[u8]) -> Option<Box<[u8]>> {
        if !name.is_empty() && !self.names_are_certain() {
            return None;
        }
        let lease = self.lease.as_ref()?;
        let told_by_server = match lease.owed.unsettled(name) {
            Some((_, false)) => return None,
            Some((_, true)) => true,
            None => false,
        };
        let Some(named) = self.statements.get(name).cloned() else {
            if name.is_empty() {
                if lease.owed.may_destroy_unnamed() {
                    return None;
                }
                // Another client may have left one there: this one has none.
                frontend::close_statement(self.to_server.insert(&mut self.from_client), b"");
                self.owe(Owed::Evict(0));
                return Some(Box::default());
            }
            return Some([UNKNOWN_PREFIX.as_bytes(), name].concat().into());
        };
        let statement = &named.statement;
        let reading = self.how_texts_are_read();
        if !self.judge_statement(statement) {
            return None;
        }
        if statement.sql().is_some() {
            self.supply_sql(name, statement);
            return Some(name.into());
        }
        if name.is_empty() {
            self.shard.counters().server_parses.add(1);
            self.read_as(&named.statement, |relay, statement| {
                relay.owe(Owed::Prepare(0));
                frontend::parse(relay.to_server.insert(&mut relay.from_client), b"", statement.rest());
            });
            self.unnamed_here = true;
            return Some(Box::default());
        }
        // If the batch that prepares it fails before it comes to that, this message is to fail too.
        let has = self.lease.as_mut()?.has(statement.id());
        if told_by_server {
            // Unless it was closed again to make room.
            let is_kept = has != Has::No && !self.lease.as_ref()?.owed.evicts(statement.id());
            return is_kept.then(|| statement.name().into());
        }
        if !matches!(has, Has::Yes(_)) && reading == Reading::Soon {
            return None;
        }
        let known = named.shape.filter(|shape| *shape != ResultShape::NO_ROWS);
        match (has, known) {
            // It is prepared by what was sent, and its columns are waited for.
            (Has::Yes(found), Some(_)) if found.shape.is_none() && self.awaits(statement) => None,
            (Has::Yes(found), Some(known)) if found.shape.is_some_and(|shape| shape != known) => {
                // Only what was prepared for this very message tells which columns it has now: they may have changed back.
                if self.statements.set_awaited(None) == Some(found.stamp) {
                    return Some(self.changed_name(statement));
                }
                self.prepare_and_wait(statement);
                None
            }
            (Has::Yes(_), _) => Some(statement.name().into()),
            (Has::Perhaps | Has::No, Some(_)) => {
                self.prepare_and_wait(statement);
                None
            }
            (Has::Perhaps | Has::No, None) => {
                self.prepare(statement, Purpose::Noted);
                Some(statement.name().into())
            }
        }
    }

    fn awaits(&self, statement: &Statement) -> bool {
        self.lease.as_ref().is_some_and(|lease| lease.owed.awaits(statement.id()))
    }

    /// Prepares a statement and has the server tell its columns at once: what needs it is sent only if they are still
    /// those that the client knows. A round trip, the first time that a server gets a statement.
    fn prepare_and_wait(&mut self, statement: &Statement) {
        let stamp = self.prepare(statement, Purpose::Awaited);
        self.statements.set_awaited(Some(stamp));
        self.to_server.insert(&mut self.from_client).extend_from_slice(&frontend::FLUSH);
    }

    /// The name to ask the server for when a statement has other columns than the client knows: one that makes it fail.
    fn changed_name(&self, statement: &Statement) -> Box<[u8]> {
        // In a failed transaction everything fails, and for that reason.
        let failed = self.lease.as_ref().is_some_and(|lease| lease.status == TxStatus::Failed);
        if failed { statement.name().into() } else { CHANGED_NAME.into() }
    }

    /// Prepares a statement in front of the message that needs it, at the moment that is returned.
    fn prepare(&mut self, statement: &Statement, purpose: Purpose) -> u64 {
        let (id, stamp) = (statement.id(), stamp());
        self.expect_statement(id, stamp);
        self.shard.counters().server_parses.add(1);
        self.read_as(statement, |relay, statement| {
            relay.owe(Owed::Prepare(id));
            let out = relay.to_server.insert(&mut relay.from_client);
            frontend::parse(out, statement.name(), statement.rest());
            relay.ask_shape(statement, ShapeOf { id, stamp, purpose });
        });
        stamp
    }

    /// Asks which columns a statement has that was just prepared.
    fn ask_shape(&mut self, statement: &Statement, of: ShapeOf) {
        self.owe(Owed::Shape(Box::new(of)));
        frontend::describe_statement(self.to_server.insert(&mut self.from_client), statement.name());
    }

    /// Makes room for a statement that is about to be prepared on the server, and its name free.
    fn expect_statement(&mut self, id: u64, stamp: u64) {
        let Some(lease) = &mut self.lease else { return };
        let is_tracked = lease.has(id) != Has::No;
        if is_tracked || lease.owed.evicts(id) {
            // Whether it is there or not, after a Close it is not.
            let name = Statement::name_of(id);
            frontend::close_statement(self.to_server.insert(&mut self.from_client), name.as_bytes());
            self.owe(Owed::Evict(id));
        }
        if !is_tracked {
            self.make_room();
        }
        if let Some(lease) = &mut self.lease {
            lease.will_have(id, stamp);
        }
    }

    /// Closes the server's least recently used statements while it has as many as it may have.
    fn make_room(&mut self) {
        while let Some(lease) = self.lease.as_mut().filter(|lease| lease.is_full())
            && let Some((id, _)) = lease.prepared.pop_lru()
        {
            let name = Statement::name_of(id);
            frontend::close_statement(self.to_server.insert(&mut self.from_client), name.as_bytes());
            self.owe(Owed::Evict(id));
        }
    }

    /// A Describe or Close.
    pub(super) fn forward_target(&mut self, header: Header) -> Result<Step, End> {
        let message = &self.from_client.bytes()[self.to_server.cursor()..];
        let body = message.get(HEADER..header.total()).unwrap_or(&[]);
        let is_describe = header.tag == b'D';
        match frontend::read_target(body) {
            Some((b'S', name)) if is_describe => {
                let name: Box<[u8]> = name.into();
                if name.is_empty() && self.unnamed_here {
                    if self.lease.as_ref().is_some_and(|lease| lease.owed.unnamed_is_unsettled()) {
                        return Ok(Step::NeedReplies);
                    }
                    self.owe(Owed::DescribeStatement);
                    self.pass(header);
                    return Ok(Step::Done);
                }
                let Some(server_name) = self.server_name(&name) else { return Ok(Step::NeedReplies) };
                if *server_name == *CHANGED_NAME
                    && let Some(named) = self.statements.get(&name)
                {
                    // The parameters are told before the columns are looked at.
                    let there = named.statement.name();
                    frontend::describe_statement(self.to_server.insert(&mut self.from_client), there);
                    self.owe(Owed::DescribeParameters);
                }
                self.owe(Owed::DescribeStatement);
                frontend::describe_statement(self.to_server.insert(&mut self.from_client), &server_name);
                self.drop_message(header);
            }
            Some((b'S', name)) => {
                // Closing a name is the client's own matter: the server keeps the statement for the next one.
                let name: Box<[u8]> = name.into();
                if !name.is_empty() && !self.names_are_certain() {
                    return Ok(Step::NeedReplies);
                }
                self.unnamed_here &= !name.is_empty();
                let previous = self.statements.set(&name, None);
                if let Some(named) = previous.as_ref().filter(|_| !name.is_empty()) {
                    self.remember_name(named.statement.id(), name.clone());
                }
                self.owe(Owed::Kept(Box::new(Naming { name, previous, prepares: None })));
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
    let named = statements.get(name)?;
    match server.has(named.statement.id()) {
        Has::Yes(found) if found.shape.is_some() && found.shape == named.shape => {
            Some(named.statement.clone())
        }
        _ => None,
    }
}
