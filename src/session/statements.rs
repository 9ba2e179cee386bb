//! Prepared statements: what a client calls them, what servers call them, and the texts in between.
//!
//! A statement's text and parameter types are interned, so that clients which prepare the same share one [`Statement`],
//! and a server needs it only once. Its name on servers is derived from its id, which is unique in the process and never
//! used again.

use crate::protocol::frame::cstr;
use crate::session::lexer::MAX_IDENTIFIER;
use crate::session::{Footprint, Settings};
use foldhash::fast::RandomState;
use lru::LruCache;
use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Prefix of the names of statements on servers.
pub const SERVER_PREFIX: &str = "pgvalet_";

/// In front of a name that the client has no statement for: no server ever has one for the two together, and what the
/// server says of it is told to the client without this.
pub const UNKNOWN_PREFIX: &str = "pgvalet_unknown_";

/// Another such name; takes the place of a statement whose columns are not those that the client knows any more.
pub const CHANGED_NAME: &[u8] = b"pgvalet_changed";

static NEXT_ID: AtomicU64 = AtomicU64::new(1);
static NEXT_STAMP: AtomicU64 = AtomicU64::new(1);

/// The next moment of the process in which something is prepared, later than all before.
#[must_use]
pub fn stamp() -> u64 {
    NEXT_STAMP.fetch_add(1, Ordering::Relaxed)
}

/// The columns of a statement's result, as far as PostgreSQL forbids that they change under a client (`equalRowTypes`):
/// names, types, type modifiers. 0 for a statement without result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ResultShape(u64);

impl ResultShape {
    /// Of a statement that returns no rows (NoData).
    pub const NO_ROWS: ResultShape = ResultShape(0);

    /// The sum itself, for another process.
    #[must_use]
    pub fn sum(self) -> u64 {
        self.0
    }

    /// From the sum that another process made the same way: its [`ResultShape::example`] is the same.
    #[must_use]
    pub fn of_sum(sum: u64) -> ResultShape {
        ResultShape(sum)
    }

    /// The sum of a fixed example: where two processes have the same, so are their other sums.
    #[must_use]
    pub fn example() -> u64 {
        let row = b"\0\x02name\0\0\0\0\x01\0\x02\0\0\0\x13\0\x40\xff\xff\xff\xff\0\0x\0\0\0\0\0\0\0\0\0\0\x17\0\x04\0\0\0\x07\0\x01";
        ResultShape::of_row_description(row).map_or(0, ResultShape::sum)
    }

    /// From the body of a RowDescription; `None` if it is malformed.
    #[must_use]
    pub fn of_row_description(body: &[u8]) -> Option<ResultShape> {
        let (&count, mut rest) = body.split_first_chunk::<2>()?;
        let mut hasher = foldhash::fast::FixedState::default().build_hasher();
        for _ in 0..u16::from_be_bytes(count) {
            let (name, column) = cstr(rest)?;
            // Table, attribute, type, length, modifier, format.
            let (column, more) = column.split_first_chunk::<18>()?;
            hasher.write(name);
            hasher.write(&column[6..10]);
            hasher.write(&column[12..16]);
            rest = more;
        }
        Some(ResultShape(hasher.finish() | 1))
    }
}

/// What one of a client's names stands for.
#[derive(Debug, Clone)]
pub struct Named {
    /// The statement.
    pub statement: Arc<Statement>,
    /// When the client prepared it.
    pub stamp: u64,
    /// The columns it had then, once the server has told.
    pub shape: Option<ResultShape>,
}

/// One statement as it was parsed.
#[derive(Debug)]
pub struct Statement {
    id: u64,
    name: Box<[u8]>,
    /// The body of its Parse behind the name: text, NUL, parameter types.
    rest: Box<[u8]>,
    /// The whole PREPARE, of a statement that SQL made. It has the client's name on servers.
    sql: Option<Box<[u8]>>,
    /// Settings under which the text was understood.
    scope: Arc<Settings>,
    /// What it can leave behind, with the generation of the catalog facts that said so.
    footprint: AtomicU64,
}

impl Statement {
    fn new(rest: &[u8], scope: Arc<Settings>) -> Arc<Statement> {
        let id = NEXT_ID.fetch_add(1, Ordering::Relaxed);
        let name = format!("{SERVER_PREFIX}{id:x}").into_bytes().into();
        Arc::new(Statement { id, name, rest: rest.into(), sql: None, scope, footprint: AtomicU64::new(0) })
    }

    /// A statement that SQL made: the whole PREPARE, what is behind its AS, and the settings that it is read under.
    #[must_use]
    pub fn by_sql(prepare: &[u8], body: &[u8], scope: Arc<Settings>) -> Arc<Statement> {
        let id = NEXT_ID.fetch_add(1, Ordering::Relaxed);
        let rest = [body, b"\0\0\0"].concat().into();
        let name = Box::default();
        Arc::new(Statement { id, name, rest, sql: Some(prepare.into()), scope, footprint: AtomicU64::new(0) })
    }

    /// The whole PREPARE, of a statement that SQL made.
    #[must_use]
    pub fn sql(&self) -> Option<&[u8]> {
        self.sql.as_deref()
    }

    /// A statement that no other client is given, whatever it prepares.
    #[must_use]
    pub fn unshared(rest: &[u8], scope: Arc<Settings>) -> Arc<Statement> {
        Statement::new(rest, scope)
    }

    /// Unique in the process, for ever.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Its name on servers; empty for one that SQL made.
    #[must_use]
    pub fn name(&self) -> &[u8] {
        &self.name
    }

    /// The name that a server has for the statement `id`.
    #[must_use]
    pub fn name_of(id: u64) -> String {
        format!("{SERVER_PREFIX}{id:x}")
    }

    /// The body of its Parse behind the name.
    #[must_use]
    pub fn rest(&self) -> &[u8] {
        &self.rest
    }

    /// The settings under which its text was understood.
    #[must_use]
    pub fn scope(&self) -> &Arc<Settings> {
        &self.scope
    }

    /// Its text.
    #[must_use]
    pub fn text(&self) -> &[u8] {
        self.rest.split(|&byte| byte == 0).next().unwrap_or(&[])
    }

    /// What it can leave behind, judged by `judge` at most once for each generation of the catalog facts.
    pub fn footprint(&self, generation: u32, judge: impl FnOnce(&[u8]) -> Footprint) -> Footprint {
        let known = self.footprint.load(Ordering::Relaxed);
        if known >> 32 == u64::from(generation) && generation != 0 {
            return Footprint::from_bits(known as u32);
        }
        let footprint = judge(self.text());
        self.footprint.store(u64::from(generation) << 32 | u64::from(footprint.bits()), Ordering::Relaxed);
        footprint
    }
}

/// A worker's statements of one pool, within a budget of bytes; the least recently used goes first.
#[derive(Debug)]
pub struct Interner {
    statements: LruCache<u64, Arc<Statement>>,
    hasher: RandomState,
    bytes: usize,
    budget: usize,
}

impl Interner {
    /// An empty one that keeps at most `budget` bytes.
    #[must_use]
    pub fn new(budget: usize) -> Interner {
        Interner { statements: LruCache::unbounded(), hasher: RandomState::default(), bytes: 0, budget }
    }

    /// How many statements it keeps, and their bytes.
    #[must_use]
    pub fn held(&self) -> (usize, usize) {
        (self.statements.len(), self.bytes)
    }

    /// The one statement of this text, these parameter types (`rest`) and settings that read it the same way.
    pub fn intern(&mut self, rest: &[u8], scope: &Arc<Settings>) -> Arc<Statement> {
        let key = self.hasher.hash_one(rest);
        if let Some(known) = self.statements.get(&key)
            && *known.rest == *rest
            && same_scope(&known.scope, scope)
        {
            return known.clone();
        }
        let statement = Statement::new(rest, scope.clone());
        self.bytes += cost(&statement);
        if let Some((_, replaced)) = self.statements.push(key, statement.clone()) {
            self.bytes -= cost(&replaced);
        }
        while self.bytes > self.budget
            && let Some((_, evicted)) = self.statements.pop_lru()
        {
            self.bytes -= cost(&evicted);
        }
        statement
    }
}

fn cost(statement: &Statement) -> usize {
    let sql = statement.sql.as_ref().map_or(0, |sql| sql.len());
    size_of::<Statement>() + statement.rest.len() + statement.name.len() + sql + 64
}

/// Whether two sessions understand a text alike.
fn same_scope(one: &Arc<Settings>, other: &Arc<Settings>) -> bool {
    Arc::ptr_eq(one, other) || one == other
}

/// As much of a name as PostgreSQL tells it from others by (`NAMEDATALEN - 1` bytes).
#[inline]
#[must_use]
pub fn key(name: &[u8]) -> &[u8] {
    &name[..name.len().min(MAX_IDENTIFIER)]
}

/// A client's names for its statements.
#[derive(Debug, Default)]
pub struct Statements {
    unnamed: Option<Named>,
    /// The others: many clients have none.
    names: Option<Box<Names>>,
}

#[derive(Debug, Default)]
struct Names {
    named: HashMap<Box<[u8]>, Named, RandomState>,
    /// Their ids.
    ids: HashSet<u64, RandomState>,
    bytes: usize,
    awaited: Option<u64>,
}

impl Statements {
    /// The statement that the client calls `name`; empty for the unnamed one.
    #[must_use]
    pub fn get(&self, name: &[u8]) -> Option<&Named> {
        if name.is_empty() { self.unnamed.as_ref() } else { self.names.as_ref()?.named.get(key(name)) }
    }

    /// Makes `name` stand for a statement or for nothing; what it stood for.
    pub fn set(&mut self, name: &[u8], named: Option<Named>) -> Option<Named> {
        if name.is_empty() {
            return std::mem::replace(&mut self.unnamed, named);
        }
        if named.is_none() && self.names.is_none() {
            return None;
        }
        self.names.get_or_insert_default().set(key(name), named)
    }

    /// Whether one of the names stands for the statement of this id.
    #[must_use]
    pub fn has_id(&self, id: u64) -> bool {
        self.names.as_ref().is_some_and(|names| names.ids.contains(&id))
    }

    /// Notes the columns of what the client called `name` at the moment `stamp`, if it still does.
    pub fn note_shape(&mut self, name: &[u8], stamp: u64, shape: ResultShape) {
        let named = self.names.as_mut().and_then(|names| names.named.get_mut(key(name)));
        if let Some(named) = named.filter(|named| named.stamp == stamp) {
            named.shape = Some(shape);
        }
    }

    /// Notes when a server prepared a named statement whose columns the client's next message waits for; what was noted.
    pub fn set_awaited(&mut self, stamp: Option<u64>) -> Option<u64> {
        std::mem::replace(&mut self.names.as_mut()?.awaited, stamp)
    }

    /// The client's name for the statement of this id.
    #[must_use]
    pub fn name_of(&self, id: u64) -> Option<&[u8]> {
        self.iter().find(|(_, named)| named.statement.id == id).map(|(name, _)| name)
    }

    /// The named statements.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &Named)> {
        self.names.iter().flat_map(|names| names.named.iter()).map(|(name, named)| (&**name, named))
    }

    /// Forgets all names.
    pub fn clear(&mut self) {
        *self = Statements::default();
    }

    /// How many named statements there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.names.as_ref().map_or(0, |names| names.named.len())
    }

    /// Whether there is no named statement.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes that the client's named statements take.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.names.as_ref().map_or(0, |names| names.bytes)
    }
}

impl Names {
    fn set(&mut self, name: &[u8], named: Option<Named>) -> Option<Named> {
        let previous = match named {
            Some(named) => {
                self.bytes += name.len() + cost(&named.statement);
                self.ids.insert(named.statement.id);
                self.named.insert(name.into(), named)
            }
            None => self.named.remove(name),
        };
        if let Some(previous) = &previous {
            self.bytes -= name.len() + cost(&previous.statement);
            if self.named.get(name).is_none_or(|now| now.statement.id != previous.statement.id) {
                self.ids.remove(&previous.statement.id);
            }
        }
        previous
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scope(list: &[(&str, &str)]) -> Arc<Settings> {
        let mut settings = Settings::default();
        list.iter().for_each(|(name, value)| settings.set(name, value));
        Arc::new(settings)
    }

    #[test]
    fn the_same_text_is_one_statement_and_types_and_settings_tell_apart() {
        let mut interner = Interner::new(1 << 20);
        let plain = scope(&[]);
        let one = interner.intern(b"select 1\0\0\0", &plain);
        assert!(Arc::ptr_eq(&one, &interner.intern(b"select 1\0\0\0", &scope(&[]))));
        assert_ne!(one.id(), interner.intern(b"select 1\0\0\x01\0\0\0\x17", &plain).id());
        assert_ne!(one.id(), interner.intern(b"select 1\0\0\0", &scope(&[("search_path", "other")])).id());
        assert_eq!(one.text(), b"select 1");
    }

    #[test]
    fn the_budget_holds_and_what_clients_use_lives_on() {
        let mut interner = Interner::new(1000);
        let kept = interner.intern(b"select 0\0\0\0", &scope(&[]));
        for number in 1..100 {
            interner.intern(format!("select {number}\0\0\0").as_bytes(), &scope(&[]));
            assert!(interner.bytes <= 1000);
        }
        assert!(interner.statements.len() < 10);
        assert_eq!(kept.text(), b"select 0");
    }

    #[test]
    fn columns_are_told_apart_by_what_must_not_change() {
        let column = |name: &str, table: u32, kind: u32, modifier: i32, format: u16| {
            let mut out = [name.as_bytes(), b"\0"].concat();
            out.extend(table.to_be_bytes());
            out.extend(1_u16.to_be_bytes());
            out.extend(kind.to_be_bytes());
            out.extend(4_u16.to_be_bytes());
            out.extend(modifier.to_be_bytes());
            out.extend(format.to_be_bytes());
            out
        };
        let body =
            |columns: &[Vec<u8>]| [&(columns.len() as u16).to_be_bytes()[..], &columns.concat()].concat();
        let shape = |columns: &[Vec<u8>]| ResultShape::of_row_description(&body(columns)).unwrap();
        let one = shape(&[column("a", 7, 23, -1, 0)]);
        assert_eq!(one, shape(&[column("a", 8, 23, -1, 1)]), "table and format do not matter");
        for other in [column("b", 7, 23, -1, 0), column("a", 7, 25, -1, 0), column("a", 7, 23, 9, 0)] {
            assert_ne!(one, shape(&[other]));
        }
        assert_ne!(one, shape(&[column("a", 7, 23, -1, 0), column("a", 7, 23, -1, 0)]));
        assert_ne!(shape(&[]), ResultShape::NO_ROWS, "no columns are not no rows");
        assert_eq!(ResultShape::of_row_description(b"\0\x01a\0"), None);
    }

    #[test]
    fn names_come_and_go_and_are_accounted_for() {
        let mut interner = Interner::new(1000);
        let mut statements = Statements::default();
        let statement = interner.intern(b"select 1\0\0\0", &scope(&[]));
        let one = Named { statement, stamp: stamp(), shape: None };
        assert!(statements.set(b"a", Some(one.clone())).is_none());
        assert!(statements.set(b"", Some(one.clone())).is_none());
        let bytes = statements.bytes();
        assert!(statements.set(b"a", Some(one.clone())).is_some());
        assert_eq!((statements.len(), statements.bytes()), (1, bytes));
        assert!(statements.set(b"a", None).is_some());
        assert_eq!((statements.len(), statements.bytes()), (0, 0));
        assert!(statements.get(b"").is_some());
    }
}
