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
use crate::session::sql_prepare::{
    Prepare, Prepares, Words, executed, executed_in_strings, may_execute, quote,
};
use crate::session::statements::{key, stamp};
use crate::session::{Footprint, Named, Statement};
use foldhash::fast::RandomState;
use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// Lists the statements that have names of the client's: names in hexadecimal, with what they have in common. Of those
/// that SQL made, `statement` is the text that PREPARE stood in.
const LIST_NAMES: &str = "SELECT pg_catalog.string_agg(pg_catalog.encode(pg_catalog.convert_to(name, \
    pg_catalog.pg_client_encoding()), 'hex'), ','), statement, from_sql::pg_catalog.int4, \
    parameter_types::pg_catalog.oid[]::pg_catalog.text FROM pg_catalog.pg_prepared_statements \
    WHERE pg_catalog.left(name, 8) OPERATOR(pg_catalog.<>) 'pgvalet_' \
    GROUP BY statement, from_sql, parameter_types::pg_catalog.oid[]";
/// Times that the server is asked for names before it is taken to give no answer.
const TRIES: u8 = 4;
/// The name, on the server, of statements and portals that run once.
const ONCE: &[u8] = b"pgvalet_once";

/// The client's names that the server knows, during one lease.
#[derive(Debug, Default)]
pub(super) struct SqlNames {
    /// Few servers have any.
    lists: Option<Box<Lists>>,
    knowledge: Knowledge,
    /// The text that the server was prepared for last may make or drop statements, and is about to be sent.
    upcoming: bool,
    /// Something that pgvalet sent failed: that a name is not there says nothing.
    failed: bool,
    /// How often the server was asked in vain.
    in_vain: u8,
    /// When the server was asked it was not certain what a backslash is.
    unsure: bool,
}

#[derive(Debug, Default)]
struct Lists {
    /// Names given to the server or told by it, with the statements behind them; `None`: an empty one that only makes the
    /// name taken.
    here: HashMap<Box<[u8]>, Option<Arc<Statement>>, RandomState>,
    /// What the server has told of its list.
    told: Vec<Told>,
    told_bytes: usize,
}

/// How far it is known which names there are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Knowledge {
    /// It is.
    #[default]
    Certain,
    /// A text was sent that may have made or dropped statements, and the server was not asked since.
    Doubtful,
    /// The server has been asked and has not answered.
    Asking,
    /// The same, and a text was sent behind the question that may have changed what it will answer.
    Overtaken,
    /// The server did not answer when it was asked.
    Unanswered,
}

/// Statements of one text and types, as the server lists them.
#[derive(Debug)]
struct Told {
    names: Vec<Box<[u8]>>,
    text: Box<[u8]>,
    by_sql: bool,
    types: Vec<u32>,
}

impl SqlNames {
    /// Forgets all: the client has got another server.
    #[inline]
    pub(super) fn clear(&mut self) {
        if self.knowledge != Knowledge::Certain
            || self.upcoming
            || self.failed
            || self.in_vain > 0
            || self.lists.is_some()
        {
            *self = SqlNames::default();
        }
    }

    /// Whether it is not known which names there are.
    #[inline]
    pub(super) fn is_uncertain(&self) -> bool {
        self.knowledge != Knowledge::Certain
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
        if upcoming {
            self.knowledge = match self.knowledge {
                Knowledge::Certain => Knowledge::Doubtful,
                Knowledge::Asking => Knowledge::Overtaken,
                known => known,
            };
        }
        upcoming
    }

    /// Notes that the server has skipped the question, for an error that has nothing to do with it.
    pub(super) fn ask_skipped(&mut self) {
        self.knowledge = Knowledge::Doubtful;
    }

    /// Notes that the server was asked in vain.
    pub(super) fn ask_failed(&mut self) {
        // It may have been a late cancel request of the client's.
        self.in_vain = self.in_vain.saturating_add(1);
        self.knowledge = if self.in_vain < TRIES { Knowledge::Doubtful } else { Knowledge::Unanswered };
    }

    /// Whether the server is to be asked before it goes to others.
    #[inline]
    pub(super) fn is_to_be_asked(&self) -> bool {
        self.knowledge == Knowledge::Doubtful
    }

    /// Notes that something of pgvalet's own failed or was skipped.
    pub(super) fn fail(&mut self) {
        self.failed = true;
        if self.knowledge != Knowledge::Unanswered {
            self.knowledge = Knowledge::Doubtful;
        }
    }

    /// `plan`, and the names dropped.
    pub(super) fn reset(&self, mut plan: ResetPlan) -> ResetPlan {
        if plan == ResetPlan::Nothing && !self.is_empty() {
            plan = ResetPlan::Components(Vec::new());
        }
        let (ResetPlan::Components(statements) | ResetPlan::Sparing(statements)) = &mut plan else {
            return plan;
        };
        for name in self.names() {
            match std::str::from_utf8(name) {
                Ok(name) if name.is_ascii() => {
                    statements.push(Cow::Owned(format!("DEALLOCATE {}", quote(name))))
                }
                // Its encoding may not be that of the reset.
                _ => return ResetPlan::Full,
            }
        }
        plan
    }

    /// What the server has under this name.
    fn get(&self, name: &[u8]) -> Option<&Option<Arc<Statement>>> {
        self.lists.as_ref()?.here.get(name)
    }

    fn put(&mut self, name: &[u8], statement: Option<Arc<Statement>>) {
        self.lists.get_or_insert_default().here.insert(name.into(), statement);
    }

    /// Takes a name out; whether it was there.
    fn remove(&mut self, name: &[u8]) -> bool {
        self.lists.as_mut().is_some_and(|lists| lists.here.remove(name).is_some())
    }

    fn names(&self) -> impl Iterator<Item = &Box<[u8]>> {
        self.lists.iter().flat_map(|lists| lists.here.keys())
    }

    fn is_empty(&self) -> bool {
        self.lists.as_ref().is_none_or(|lists| lists.here.is_empty())
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
    ///
    /// A statement itself is given to the server only where it is certain that it is executed: one that is merely mentioned
    /// may not be preparable any more, and that is no error of this text.
    fn needs(&self, text: &[u8]) -> Vec<(Box<[u8]>, Need)> {
        if self.statements.is_empty() && self.sql_names.is_empty() {
            return Vec::new();
        }
        let words = Words::of(text);
        let executed = executed(text).filter(|_| self.is_sure_of(text));
        let executed = executed.map(HashSet::<Box<[u8]>, RandomState>::from_iter);
        let dynamic = executed.is_none() && may_execute(text);
        // What functions and DO blocks may run.
        let in_strings = executed_in_strings(text).filter(|_| self.is_sure_of(text));
        let mut needs = Vec::new();
        for (name, named) in
            self.statements.iter().filter(|(name, _)| !name.starts_with(b"pgvalet_") && words.mention(name))
        {
            let executes = executed.as_ref().map_or(dynamic, |names| names.contains(name))
                || in_strings.as_ref().is_none_or(|names| names.iter().any(|executed| **executed == *name));
            let is_met = match self.sql_names.get(name) {
                None => false,
                Some(None) => !executes,
                Some(Some(there)) => there.id() == named.statement.id(),
            };
            if !is_met {
                let statement = || Need::Statement(named.statement.clone());
                needs.push((name.into(), if executes { statement() } else { Need::Name }));
            }
        }
        let knows = !matches!(self.sql_names.knowledge, Knowledge::Doubtful | Knowledge::Unanswered);
        let closed = |name: &[u8]| self.statements.get(name).is_none() && knows;
        let stale = self.sql_names.names().filter(|name| closed(name) && words.mention(name));
        needs.extend(stale.map(|name| (name.clone(), Need::Nothing)));
        needs
    }

    fn supply(&mut self, name: &[u8], need: Need) {
        if self.sql_names.remove(name) {
            frontend::close_statement(self.to_server.insert(&mut self.from_client), name);
            self.owe(Owed::Own(b'3'));
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
            Some(statement) => self.read_as(statement, |relay, statement| match statement.sql() {
                None => {
                    frontend::parse(relay.to_server.insert(&mut relay.from_client), name, statement.rest());
                    relay.owe(Owed::Own(b'1'));
                }
                Some(sql) => relay.run_once(sql, Owed::Own(b'C')),
            }),
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
        // That the question was skipped says nothing about what else was sent.
        let own = if matches!(execute, Owed::Names) { Owed::Question } else { Owed::Own };
        for owed in [own(b'3'), own(b'1'), own(b'2'), execute, own(b'3'), own(b'3')] {
            self.owe(owed);
        }
    }

    /// Makes the statement of a name that SQL made known to the server. `false` while the names are not certain.
    pub(super) fn supply_sql(&mut self, name: &[u8], statement: &Arc<Statement>) {
        let name = key(name);
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
        match self.sql_names.knowledge {
            Knowledge::Certain => true,
            Knowledge::Asking | Knowledge::Overtaken => false,
            Knowledge::Doubtful => {
                self.ask_names();
                false
            }
            Knowledge::Unanswered => {
                // It will not answer the next time either. What is there stays with this server, which goes with it.
                self.spoiled = true;
                true
            }
        }
    }

    /// Asks the server which statements have names of the client's.
    pub(super) fn ask_names(&mut self) {
        let may_sync = self.lease.as_ref().is_some_and(|lease| lease.owed.may_sync());
        // What is sent from now on may change what the list will say.
        self.sql_names.knowledge = Knowledge::Asking;
        self.sql_names.unsure = self.is_unsure();
        if let Some(lists) = &mut self.sql_names.lists {
            lists.told.clear();
            lists.told_bytes = 0;
        }
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
        if let Some([names, text, by_sql, types]) = backend::read_data_row(body).as_deref() {
            let lists = self.sql_names.lists.get_or_insert_default();
            lists.told_bytes += body.len();
            if lists.told_bytes > super::naming::STATEMENTS_LIMIT {
                // Too many: noted, and not kept.
                return;
            }
            let types = types
                .split(|byte| !byte.is_ascii_digit())
                .filter_map(|digits| std::str::from_utf8(digits).ok().and_then(|digits| digits.parse().ok()));
            lists.told.push(Told {
                names: names.split(|byte| *byte == b',').filter_map(unhex).collect(),
                text: (*text).into(),
                by_sql: *by_sql == b"1",
                types: types.collect(),
            });
        }
    }

    /// The list is complete: the client's names are what it says.
    pub(super) fn settle_names(&mut self) -> Result<(), End> {
        let SqlNames { lists, knowledge, upcoming, failed, unsure, .. } = std::mem::take(&mut self.sql_names);
        let Lists { here, told, told_bytes } = lists.map(|lists| *lists).unwrap_or_default();
        if told_bytes > super::naming::STATEMENTS_LIMIT {
            return Err(End::Fatal(too_many()));
        }
        self.sql_names.upcoming = upcoming;
        if knowledge == Knowledge::Overtaken {
            self.sql_names.knowledge = Knowledge::Doubtful;
        }
        let there: HashSet<&[u8], RandomState> =
            told.iter().flat_map(|told| &told.names).map(|name| &**name).collect();
        for (name, statement) in &here {
            let was_there = self.statements.get(name).is_some_and(|named| {
                statement.as_ref().is_none_or(|statement| statement.id() == named.statement.id())
            });
            if was_there && !failed && !there.contains(&**name) {
                self.statements.set(name, None);
            }
        }
        for told in &told {
            let is_read = told.by_sql && !(unsure && told.text.contains(&b'\\'));
            let prepares = if is_read { Prepares::of(&told.text) } else { Prepares::default() };
            for name in &told.names {
                let prepare = prepares.get(name);
                let statement = match here.get(name) {
                    Some(None) if told.text.is_empty() => None,
                    Some(Some(statement)) if told.is(statement, prepare) => Some(statement.clone()),
                    _ => Some(self.take_over(told, name, prepare)?),
                };
                self.sql_names.put(name, statement);
            }
        }
        Ok(())
    }

    /// Makes a statement the client's that the server has under a name of the client's.
    fn take_over(
        &mut self,
        told: &Told,
        name: &[u8],
        prepare: Option<Prepare<'_>>,
    ) -> Result<Arc<Statement>, End> {
        let length = prepare.map_or(told.text.len(), |(all, _)| all.len());
        if self.statements.bytes() + length > super::naming::STATEMENTS_LIMIT {
            return Err(End::Fatal(too_many()));
        }
        let scope = self.reading();
        let statement = match prepare {
            Some((all, body)) => Statement::by_sql(all, body, scope),
            None if told.by_sql => {
                tracing::warn!(
                    peer = %self.cell.peer(),
                    database = &*self.cell.database,
                    user = &*self.cell.user,
                    statement = %String::from_utf8_lossy(name).escape_debug(),
                    "a PREPARE could not be read: its statement ends with the transaction"
                );
                return Ok(Statement::by_sql(&told.text, &[], scope));
            }
            None => {
                let mut rest = told.text.to_vec();
                rest.push(0);
                rest.extend_from_slice(&(told.types.len() as u16).to_be_bytes());
                told.types.iter().for_each(|kind| rest.extend_from_slice(&kind.to_be_bytes()));
                let statement = self.shard.interner.borrow_mut().intern(&rest, &scope);
                if self.statements.has_id(statement.id()) {
                    Statement::unshared(&rest, scope)
                } else {
                    statement
                }
            }
        };
        let named = Named { statement: statement.clone(), stamp: stamp(), shape: None };
        self.statements.set(name, Some(named));
        Ok(statement)
    }

    /// Notes what the statements may do that a text executes.
    pub(super) fn note_executed_hints(&mut self, text: &[u8]) {
        if !may_execute(text) {
            return;
        }
        for name in executed(text).unwrap_or_default() {
            if let Some(named) = self.statements.get(&name) {
                let statement = named.statement.clone();
                self.note_hints_of(statement.text(), text);
            }
        }
    }

    /// What a text leaves behind that was judged to run statements prepared elsewhere, if they are all the client's own.
    pub(super) fn resolve_executed(&self, text: &[u8], found: Footprint) -> Footprint {
        // What a name stands for may be changed by the same text, or before a portal is executed: then only a full reset
        // is sure.
        let is_sure = executed(text).is_some()
            && self.is_sure_of(text)
            && !self.sql_names.is_uncertain()
            && !self.sql_names.upcoming;
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
            let judged = self.shard.with_facts(|_, facts| classify(body, facts, self.is_unsure()));
            resolved = resolved.union(judged);
        }
        resolved
    }
}

impl Told {
    /// Whether it is this statement.
    fn is(&self, statement: &Statement, prepare: Option<Prepare<'_>>) -> bool {
        match statement.sql() {
            Some(sql) => prepare.is_some_and(|(all, _)| all == sql),
            None => !self.by_sql && *self.text == *statement.text(),
        }
    }
}

pub(super) fn unhex(digits: &[u8]) -> Option<Box<[u8]>> {
    let (pairs, _) = digits.as_chunks::<2>();
    let byte = |pair: &[u8; 2]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    pairs.iter().map(byte).collect()
}

fn too_many() -> Error {
    Error::new(Kind::TooLarge, "too many prepared statements for one connection")
        .hint("Deallocate statements that are not needed any more.")
}
