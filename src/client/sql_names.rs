//! Statements that SQL makes, runs and drops: PREPARE, EXECUTE, DEALLOCATE, which share their names with Parse and Close.
//!
//! SQL knows a statement by the client's own name. So before a text is sent that may mean a statement of the client's, the
//! server is given it under that name; and when a text may have made or dropped some, the server is asked which there are,
//! before anything depends on it and before the server goes to others. What the names stand for is never guessed from
//! SQL; texts only say which names may be meant.

use crate::client::relay::{End, Relay};
use crate::config::Reset;
use crate::error::{Error, Kind};
use crate::protocol::frame::HEADER;
use crate::protocol::{Header, TxStatus, backend, frontend};
use crate::server::owed::Owed;
use crate::session::classify::classify;
use crate::session::footprint::ResetPlan;
use crate::session::sql_prepare::{executed, find_prepare, may_execute, mentions, quote};
use crate::session::statements::stamp;
use crate::session::{Footprint, Named, Statement};
use std::borrow::Cow;
use std::sync::Arc;

/// Lists the statements that have names of the client's. Of those that SQL made, `statement` is the text that PREPARE
/// stood in.
const LIST_NAMES: &str = "SELECT name, statement, from_sql::pg_catalog.int4, \
    parameter_types::pg_catalog.oid[]::pg_catalog.text FROM pg_catalog.pg_prepared_statements \
    WHERE pg_catalog.left(name, 8) OPERATOR(pg_catalog.<>) 'pgvalet_'";
/// The name, on the server, of statements and portals that run once.
const ONCE: &[u8] = b"pgvalet_once";

/// A name that a server knows, with the statement behind it; `None`: an empty one that only makes the name taken.
type Here = (Box<[u8]>, Option<Arc<Statement>>);

/// The client's names that the server knows, during one lease.
#[derive(Debug, Default)]
pub(super) struct SqlNames {
    /// Names given to the server or told by it.
    here: Vec<Here>,
    /// A text was sent that may have made or dropped statements, and the server was not asked since.
    doubtful: bool,
    /// The text that the server was prepared for last is such a text, and is about to be sent.
    upcoming: bool,
    /// The server has been asked and has not answered.
    asking: bool,
    /// The server did not answer when it was asked.
    unanswered: bool,
    /// Something that pgvalet sent failed: that a name is not there says nothing.
    failed: bool,
    told: Vec<Told>,
}

/// A statement as the server lists it.
#[derive(Debug)]
struct Told {
    name: Box<[u8]>,
    text: Box<[u8]>,
    by_sql: bool,
    types: Vec<u32>,
}

impl SqlNames {
    /// Forgets all: the client has got another server.
    pub(super) fn clear(&mut self) {
        *self = SqlNames::default();
    }

    /// Whether the server has to be asked which names there are.
    #[inline]
    pub(super) fn is_doubtful(&self) -> bool {
        self.doubtful
    }

    /// Whether it is not known, for now, which names there are.
    #[inline]
    pub(super) fn is_uncertain(&self) -> bool {
        self.doubtful || self.asking
    }

    /// Notes that something else comes than the text that the server was prepared for.
    #[inline]
    pub(super) fn turn_away(&mut self) {
        self.upcoming = false;
    }

    /// Notes that the text is sent that the server was prepared for. Whether it may make or drop statements.
    #[inline]
    pub(super) fn sent(&mut self) -> bool {
        let upcoming = std::mem::take(&mut self.upcoming);
        self.doubtful |= upcoming;
        upcoming
    }

    /// Notes that the server was asked in vain.
    pub(super) fn ask_failed(&mut self) {
        (self.doubtful, self.unanswered, self.asking) = (true, true, false);
    }

    /// Whether the server is to be asked before it goes to others.
    #[inline]
    pub(super) fn is_to_be_asked(&self) -> bool {
        self.doubtful && !self.unanswered
    }

    /// Notes that something of pgvalet's own failed or was skipped.
    pub(super) fn fail(&mut self) {
        (self.doubtful, self.failed, self.asking) = (true, true, false);
    }

    /// `plan`, and the names dropped.
    pub(super) fn reset(&self, plan: ResetPlan) -> ResetPlan {
        let mut statements = match plan {
            ResetPlan::Full => return plan,
            plan if self.here.is_empty() => return plan,
            ResetPlan::Nothing => Vec::new(),
            ResetPlan::Components(statements) => statements,
        };
        for (name, _) in &self.here {
            match std::str::from_utf8(name) {
                Ok(name) if name.is_ascii() => {
                    statements.push(Cow::Owned(format!("DEALLOCATE {}", quote(name))))
                }
                // Its encoding may not be that of the reset.
                _ => return ResetPlan::Full,
            }
        }
        ResetPlan::Components(statements)
    }

    fn get(&self, name: &[u8]) -> Option<&Option<Arc<Statement>>> {
        self.here.iter().find(|(other, _)| **other == *name).map(|(_, statement)| statement)
    }

    fn put(&mut self, name: &[u8], statement: Option<Arc<Statement>>) {
        self.here.retain(|(other, _)| **other != *name);
        self.here.push((name.into(), statement));
    }
}

/// What has to be done for a name before a text is sent.
enum Need {
    /// It is to be gone.
    Nothing,
    /// It is to be taken, whatever it stands for.
    Name,
    /// The statement is to be there.
    Statement(Arc<Statement>),
}

impl Relay {
    /// Prepares the server for a text that was judged to concern statements of SQL's. `false` while that depends on
    /// replies that have not come yet.
    pub(super) fn meet_names(&mut self, text: &[u8], found: Footprint, in_query: bool) -> bool {
        if self.shard.with_policy(|policy| policy.reset) == Reset::Never {
            return true;
        }
        if text.windows(8).any(|window| window.eq_ignore_ascii_case(b"pgvalet_")) {
            // It can name what other clients have prepared: nothing on this server is relied on any more.
            self.note_footprint(Footprint::EVERYTHING);
            if let Some(lease) = &mut self.lease {
                lease.doubt_prepared();
            }
        }
        let Some(lease) = &self.lease else { return true };
        let (is_failed, unsynced) = (lease.status == TxStatus::Failed, lease.owed.is_unsynced());
        // A batch is to fail as a whole.
        let may_sync = in_query && lease.owed.may_sync();
        let answers_come = lease.owed.boundaries() > 0 && !unsynced;
        let needs = if is_failed && lease.owed.is_empty() { Vec::new() } else { self.needs(text) };
        if !needs.is_empty() {
            if answers_come || !self.names_are_certain() {
                return false;
            }
            needs.into_iter().for_each(|(name, need)| self.supply(&name, need));
            if may_sync {
                frontend::sync(self.to_server.insert(&mut self.from_client));
                self.owe(Owed::OwnSync);
            }
        }
        let changes = |word: &[u8]| text.windows(word.len()).any(|window| window.eq_ignore_ascii_case(word));
        self.sql_names.upcoming =
            found.contains(Footprint::EVERYTHING) || changes(b"prepare") || changes(b"deallocate");
        true
    }

    /// The names that `text` may mean and that the server does not have as the client has them.
    fn needs(&self, text: &[u8]) -> Vec<(Box<[u8]>, Need)> {
        let executes = may_execute(text);
        let mut needs = Vec::new();
        for (name, named) in
            self.statements.iter().filter(|(name, _)| !name.starts_with(b"pgvalet_") && mentions(text, name))
        {
            let wanted = Some(named.statement.id());
            let is_met = match self.sql_names.get(name) {
                None => false,
                Some(None) => !executes,
                Some(Some(there)) => Some(there.id()) == wanted,
            };
            if !is_met {
                let statement = || Need::Statement(named.statement.clone());
                needs.push((name.into(), if executes { statement() } else { Need::Name }));
            }
        }
        let closed = |name: &[u8]| self.statements.get(name).is_none() && !self.sql_names.doubtful;
        let stale = self.sql_names.here.iter().filter(|(name, _)| closed(name) && mentions(text, name));
        needs.extend(stale.map(|(name, _)| (name.clone(), Need::Nothing)));
        needs
    }

    fn supply(&mut self, name: &[u8], need: Need) {
        if self.sql_names.get(name).is_some() {
            frontend::close_statement(self.to_server.insert(&mut self.from_client), name);
            self.owe(Owed::Own(b'3'));
            self.sql_names.here.retain(|(other, _)| **other != *name);
        }
        let statement = match need {
            Need::Nothing => return,
            Need::Name => None,
            Need::Statement(statement) => Some(statement),
        };
        self.footprint = self.footprint.union(Footprint::STATEMENTS);
        match &statement {
            None => {
                frontend::parse(self.to_server.insert(&mut self.from_client), name, b"\0\0\0");
                self.owe(Owed::Own(b'1'));
            }
            Some(statement) => match statement.sql() {
                None => {
                    frontend::parse(self.to_server.insert(&mut self.from_client), name, statement.rest());
                    self.owe(Owed::Own(b'1'));
                }
                Some(sql) => self.run_once(sql, Owed::Own(b'C')),
            },
        }
        self.sql_names.put(name, statement);
    }

    /// Runs a statement of ours, as a part of the client's batch or of one of our own.
    pub(super) fn run_once(&mut self, sql: &[u8], execute: Owed) {
        let out = self.to_server.insert(&mut self.from_client);
        // It may be left from one that failed.
        frontend::close_statement(out, ONCE);
        frontend::parse(out, ONCE, &[sql, b"\0\0\0"].concat());
        frontend::run(out, ONCE, ONCE);
        frontend::close_portal(out, ONCE);
        frontend::close_statement(out, ONCE);
        for owed in
            [Owed::Own(b'3'), Owed::Own(b'1'), Owed::Own(b'2'), execute, Owed::Own(b'3'), Owed::Own(b'3')]
        {
            self.owe(owed);
        }
    }

    /// Makes the statement of a name that SQL made known to the server. `false` while the names are not certain.
    pub(super) fn supply_sql(&mut self, name: &[u8], statement: &Arc<Statement>) {
        let is_there = matches!(self.sql_names.get(name), Some(Some(there)) if there.id() == statement.id());
        if !is_there {
            self.supply(name, Need::Statement(statement.clone()));
        }
    }

    /// Whether it is certain what the client's names stand for; if not, the server is asked.
    pub(super) fn names_are_certain(&mut self) -> bool {
        if !self.sql_names.is_uncertain() {
            return true;
        }
        let Some(lease) = &self.lease else { return true };
        if lease.status == TxStatus::Failed {
            // It answers no question, and whatever is meant fails, unless what is to be answered first ends that.
            return lease.owed.boundaries() == 0;
        }
        if !self.sql_names.asking {
            self.ask_names();
        }
        false
    }

    /// Asks the server which statements have names of the client's.
    pub(super) fn ask_names(&mut self) {
        let may_sync = self.lease.as_ref().is_some_and(|lease| lease.owed.may_sync());
        // What is sent from now on may change what the list will say.
        (self.sql_names.doubtful, self.sql_names.asking) = (false, true);
        self.sql_names.unanswered = false;
        self.sql_names.told.clear();
        self.run_once(LIST_NAMES.as_bytes(), Owed::Names);
        let out = self.to_server.insert(&mut self.from_client);
        if may_sync {
            frontend::sync(out);
            self.owe(Owed::OwnSync);
        } else {
            out.extend_from_slice(&frontend::FLUSH);
        }
    }

    /// Takes in one line of the list, complete.
    pub(super) fn note_name(&mut self, header: Header) {
        let cursor = self.to_client.cursor();
        let body = &self.from_server.bytes()[cursor + HEADER..cursor + header.total()];
        if let Some([name, text, by_sql, types]) = backend::read_data_row(body).as_deref() {
            let types = types
                .split(|byte| !byte.is_ascii_digit())
                .filter_map(|digits| std::str::from_utf8(digits).ok().and_then(|digits| digits.parse().ok()));
            self.sql_names.told.push(Told {
                name: (*name).into(),
                text: (*text).into(),
                by_sql: *by_sql == b"1",
                types: types.collect(),
            });
        }
    }

    /// The list is complete: the client's names are what it says.
    pub(super) fn settle_names(&mut self) -> Result<(), End> {
        let SqlNames { here, doubtful, upcoming, failed, told, .. } = std::mem::take(&mut self.sql_names);
        (self.sql_names.doubtful, self.sql_names.upcoming) = (doubtful, upcoming);
        for (name, statement) in &here {
            let was_there = self.statements.get(name).is_some_and(|named| {
                statement.as_ref().is_none_or(|statement| statement.id() == named.statement.id())
            });
            if was_there && !failed && !told.iter().any(|told| told.name == *name) {
                self.statements.set(name, None);
            }
        }
        for told in told {
            let before = here.iter().find(|(name, _)| *name == told.name).map(|(_, statement)| statement);
            let statement = match before {
                Some(None) if told.text.is_empty() => None,
                Some(Some(statement)) if told.is(statement) => Some(statement.clone()),
                _ => Some(self.take_over(&told)?),
            };
            self.sql_names.put(&told.name, statement);
        }
        Ok(())
    }

    /// Makes a statement the client's that the server has under a name of the client's.
    fn take_over(&mut self, told: &Told) -> Result<Arc<Statement>, End> {
        if self.statements.bytes() + told.text.len() > super::naming::STATEMENTS_LIMIT {
            let error = Error::new(Kind::TooLarge, "too many prepared statements for one connection")
                .hint("Deallocate statements that are not needed any more.");
            return Err(End::Fatal(error));
        }
        let statement = if told.by_sql {
            match find_prepare(&told.text, &told.name) {
                Some((all, body)) => Statement::by_sql(all, body),
                None => {
                    tracing::warn!(
                        database = &*self.cell.database,
                        user = &*self.cell.user,
                        statement = %String::from_utf8_lossy(&told.name).escape_debug(),
                        "a PREPARE could not be read: its statement ends with the transaction"
                    );
                    return Ok(Statement::by_sql(&told.text, &[]));
                }
            }
        } else {
            let mut rest = told.text.to_vec();
            rest.push(0);
            rest.extend_from_slice(&(told.types.len() as u16).to_be_bytes());
            told.types.iter().for_each(|kind| rest.extend_from_slice(&kind.to_be_bytes()));
            let scope = self.reading();
            self.shard.interner.borrow_mut().intern(&rest, &scope)
        };
        let named = Named { statement: statement.clone(), stamp: stamp(), shape: None };
        self.statements.set(&told.name, Some(named));
        Ok(statement)
    }

    /// What a text leaves behind that was judged to run statements prepared elsewhere, if they are all the client's own.
    pub(super) fn resolve_executed(&self, text: &[u8], found: Footprint) -> Footprint {
        // What a name stands for may be changed by the same text, or before a portal is executed: then only a full reset
        // is sure.
        let is_sure = executed(text).is_some() && !self.sql_names.is_uncertain() && !self.sql_names.upcoming;
        if !found.contains(Footprint::EXECUTES) || !is_sure {
            return found;
        }
        let Some(names) = executed(text) else { return found };
        let mut resolved = found.without(Footprint::EXECUTES);
        for name in names {
            let Some(named) = self.statements.get(&name) else { return found };
            let body = named.statement.text();
            if body.is_empty() {
                return found;
            }
            let judged = self.shard.with_facts(|_, facts| classify(body, facts, self.unsafe_encoding));
            resolved = resolved.union(judged);
        }
        resolved
    }
}

impl Told {
    /// Whether it is this statement.
    fn is(&self, statement: &Statement) -> bool {
        match statement.sql() {
            Some(sql) => {
                self.by_sql && find_prepare(&self.text, &self.name).is_some_and(|(all, _)| all == sql)
            }
            None => !self.by_sql && *self.text == *statement.text(),
        }
    }
}
