//! Prepared statements on their way to the server: the client's names are replaced by the server's, and a statement that
//! the server lacks is prepared in front of the message that needs it.
//!
//! What concerns only the client's names never leaves. Each change of a name is taken back if the server never comes to
//! the message that made it.

use crate::client::relay::{Body, End, Relay};
use crate::client::upstream::Step;
use crate::error::{Error, Kind};
use crate::protocol::frame::HEADER;
use crate::protocol::{Header, TxStatus, frontend};
use crate::server::owed::{Fake, Naming, Owed};
use crate::server::{Has, Server};
use crate::session::statements::UNKNOWN_NAME;
use crate::session::{Footprint, Statement, Statements};
use std::sync::Arc;

/// Longest Parse that is kept, so that its statement can follow the client to other servers.
const PARSE_LIMIT: usize = 1 << 20;
/// Bytes of statements that one client may have prepared.
const STATEMENTS_LIMIT: usize = 64 << 20;

impl Relay {
    pub(super) fn forward_parse(&mut self, header: Header) -> Result<Step, End> {
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
    pub(super) fn forward_target(&mut self, header: Header) -> Result<Step, End> {
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
