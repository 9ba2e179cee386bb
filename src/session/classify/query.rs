//! Statements that hold expressions: SELECT, INSERT, UPDATE, DELETE, MERGE, VALUES, TABLE, WITH, COPY.
//!
//! Not a parser: it accepts more than SQL, and knows just enough of the grammar to find every function call, every type
//! that text is converted to, and every relation. A construct it does not know ends in [`Unsure`]. Nothing is allocated.

use super::keywords::Keyword;
use super::{is, skip, skip_from, skip_parenthesis};
use crate::session::catalog::CatalogFacts;
use crate::session::footprint::Footprint;
use crate::session::lexer::{Kind, Lexer, Token};

mod resolve;
mod words;

/// Judges the statement that starts with `first` and leaves the lexer behind its semicolon.
pub(super) fn judge<'a>(first: Token<'a>, lexer: &mut Lexer<'a>, facts: &CatalogFacts) -> Footprint {
    if !facts.operators_clean() {
        return skip_from(first, lexer, Footprint::EVERYTHING);
    }
    Scanner::new(facts, Clause::Start).run(first, lexer, false).0
}

/// The same for `COPY`, whose options hold no expressions.
pub(super) fn judge_copy(lexer: &mut Lexer<'_>, facts: &CatalogFacts) -> Footprint {
    if !facts.operators_clean() {
        return skip(lexer, Footprint::EVERYTHING);
    }
    let mut scanner = Scanner::new(facts, Clause::Start);
    let mut token = lexer.next_token();
    if token.kind == Kind::Open {
        let (found, at_end) = scanner.run(token, lexer, true);
        return if at_end { found } else { found.union(copy_options(lexer, b"stdout")) };
    }
    let mut name = token;
    let mut after = lexer.next_token();
    while matches!(token.kind, Kind::Word | Kind::Quoted) && after.kind == Kind::Dot {
        token = lexer.next_token();
        name = token;
        after = lexer.next_token();
    }
    if after.kind == Kind::Open {
        if !skip_parenthesis(lexer) {
            return skip(lexer, Footprint::EVERYTHING);
        }
        after = lexer.next_token();
    }
    let (role, place): (_, &[u8]) = match (is(after, b"from"), is(after, b"to")) {
        (true, _) => (Role::Write, b"stdin"),
        (_, true) => (Role::Read, b"stdout"),
        _ => return skip_from(after, lexer, Footprint::EVERYTHING),
    };
    scanner.inserts = true;
    scanner.chain = Chain { role, parts: 2, name, qualifier: name, flags: 0, calls: false };
    match scanner.resolve() {
        Ok(()) if matches!(name.kind, Kind::Word | Kind::Quoted) => {
            scanner.found.union(copy_options(lexer, place))
        }
        _ => skip(lexer, Footprint::EVERYTHING),
    }
}

/// `STDIN` or `STDOUT`, and options: never a file, a program or a condition.
fn copy_options(lexer: &mut Lexer<'_>, place: &[u8]) -> Footprint {
    let token = lexer.next_token();
    if !is(token, place) {
        return skip_from(token, lexer, Footprint::EVERYTHING);
    }
    let mut ahead = lexer.clone();
    loop {
        let token = ahead.next_token();
        match token.kind {
            Kind::Semicolon | Kind::End => break,
            Kind::Word if is(token, b"where") => return skip(lexer, Footprint::EVERYTHING),
            Kind::Unknown => return skip(lexer, Footprint::EVERYTHING),
            _ => {}
        }
    }
    skip(lexer, Footprint::NOTHING)
}

/// Whether it is a plain string with the plain name of a setting, perhaps of several parts.
fn names_setting(token: Token<'_>) -> bool {
    // The text of a string begins behind its first quote.
    let name = token.text.strip_suffix(b"'");
    token.kind == Kind::String
        && name.is_some_and(|name| name.split(|byte| *byte == b'.').all(super::is_plain_name))
}

/// The statement is beyond this reader.
struct Unsure;

/// Nesting of parentheses and brackets, and names of common table expressions, that fit; more is unknown.
const MAX_DEPTH: usize = 24;
const MAX_CTES: usize = 12;

/// An open parenthesis or bracket; the first is the statement itself.
#[derive(Debug, Clone, Copy)]
struct Frame {
    place: Place,
    clause: Clause,
    /// Common table expressions that were known when it was opened.
    ctes: u8,
    recursive: bool,
}

/// What a parenthesis is there for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Statement,
    /// Grouping, a subquery, a list.
    Group,
    /// Arguments of a function; FROM can be part of its syntax.
    Call,
    /// `CAST (x AS type)`.
    Cast,
    /// A common table expression.
    Body,
    /// A subquery or join where a relation can stand.
    Tables,
    /// Columns of an alias, perhaps with types.
    Columns,
    Bracket,
}

/// Where in its query a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Clause {
    Start,
    /// Not in a query.
    Expression,
    /// Between SELECT and FROM.
    Targets,
    /// In a list of relations: a comma leads to the next one.
    From,
    /// In one relation, or a join.
    Joined,
    /// Behind the relations.
    Rest,
    Insert,
    Update,
    Delete,
    Merge,
    CteName,
    CteAs,
    CteBody,
    CteNext,
    ColumnName,
    ColumnType,
}

/// What the next name stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Expect {
    Nothing,
    Read,
    Write,
    Cte,
    Type,
}

/// What the token before was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Last {
    Start,
    Name,
    Keyword(Keyword),
    /// A dot behind a name.
    Dot,
    /// A dot behind something else, where a name is a field or a function.
    FieldDot,
    Number,
    String,
    /// The end of a function's arguments.
    CallClose,
    Close,
    Other,
}

/// A name, perhaps qualified, that the next token may turn into a call.
#[derive(Debug, Clone, Copy)]
struct Chain<'a> {
    role: Role,
    parts: u8,
    qualifier: Token<'a>,
    name: Token<'a>,
    /// Of the last part.
    flags: u8,
    /// The last part could call a user's function without a parenthesis.
    calls: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Plain,
    /// Cannot be a function: a parenthesis behind it lists columns.
    Alias,
    Read,
    Write,
    Type,
}

struct Scanner<'a, 'f> {
    facts: &'f CatalogFacts,
    frames: [Frame; MAX_DEPTH],
    depth: usize,
    /// Names of common table expressions, and whether they can be seen yet.
    ctes: [(Token<'a>, bool); MAX_CTES],
    cte_count: u8,
    last: Last,
    expect: Expect,
    chain: Chain<'a>,
    found: Footprint,
    /// The target of the statement gets new rows, so its defaults run.
    inserts: bool,
    /// A target has a sequence, and DEFAULT is asked for.
    has_sequence: bool,
    has_default: bool,
    /// Where the call of set_config stands whose first argument must be a name that can be found in the text again.
    setting: SettingName,
}

/// How much of `set_config('name',` is still to come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SettingName {
    Nothing,
    Comma,
    Name,
}

impl<'a, 'f> Scanner<'a, 'f> {
    fn new(facts: &'f CatalogFacts, clause: Clause) -> Scanner<'a, 'f> {
        let none = Token { kind: Kind::End, text: &[] };
        let frame = Frame { place: Place::Statement, clause, ctes: 0, recursive: false };
        Scanner {
            facts,
            frames: [frame; MAX_DEPTH],
            depth: 0,
            ctes: [(none, false); MAX_CTES],
            cte_count: 0,
            last: Last::Start,
            expect: Expect::Nothing,
            chain: Chain { role: Role::Plain, parts: 0, qualifier: none, name: none, flags: 0, calls: false },
            found: Footprint::NOTHING,
            inserts: false,
            has_sequence: false,
            has_default: false,
            setting: SettingName::Nothing,
        }
    }

    /// Reads to the end of the statement, or to `TO` outside parentheses; whether it was the end.
    fn run(&mut self, first: Token<'a>, lexer: &mut Lexer<'a>, until_to: bool) -> (Footprint, bool) {
        let mut token = first;
        loop {
            if matches!(token.kind, Kind::Semicolon | Kind::End) {
                let complete = self.end_chain().is_ok() && self.depth == 0 && self.expect == Expect::Nothing;
                if self.has_sequence && self.has_default {
                    self.found = self.found.union(Footprint::SEQUENCES);
                }
                return (if complete { self.found } else { Footprint::EVERYTHING }, true);
            }
            if until_to && self.depth == 0 && is(token, b"to") {
                return (self.found, false);
            }
            if self.step(token).is_err() {
                return (skip_from(token, lexer, self.found.union(Footprint::EVERYTHING)), true);
            }
            token = lexer.next_token();
        }
    }

    #[inline]
    fn step(&mut self, token: Token<'a>) -> Result<(), Unsure> {
        self.setting = match self.setting {
            SettingName::Nothing => SettingName::Nothing,
            SettingName::Name if names_setting(token) => SettingName::Comma,
            SettingName::Comma if token.kind == Kind::Comma => SettingName::Nothing,
            _ => return Err(Unsure),
        };
        if matches!(token.kind, Kind::Word | Kind::Quoted) {
            return self.name(token);
        }
        if self.last == Last::Keyword(Keyword::With) {
            return Err(Unsure);
        }
        match token.kind {
            Kind::Dot => {
                self.last = match self.last {
                    Last::Name => Last::Dot,
                    Last::CallClose | Last::Close | Last::Number => Last::FieldDot,
                    _ => return Err(Unsure),
                };
                return Ok(());
            }
            Kind::Open => return self.open(),
            Kind::String => return self.string(),
            _ => {}
        }
        match self.last {
            Last::Dot if token.kind == Kind::Operator && self.chain.role == Role::Plain => {}
            Last::FieldDot if token.kind == Kind::Operator => {}
            Last::Dot | Last::FieldDot => return Err(Unsure),
            _ => self.end_chain()?,
        }
        self.last = match token.kind {
            Kind::Close => return self.close(false),
            Kind::CloseBracket => return self.close(true),
            Kind::Comma => return self.comma(),
            Kind::Cast => {
                self.expect_now(Expect::Type)?;
                Last::Other
            }
            Kind::Unknown => return Err(Unsure),
            _ if self.expect != Expect::Nothing => return Err(Unsure),
            Kind::OpenBracket => {
                self.push(Place::Bracket, Clause::Expression)?;
                Last::Other
            }
            Kind::Number | Kind::Param => Last::Number,
            _ => Last::Other,
        };
        self.leave_start();
        Ok(())
    }

    fn expect_now(&mut self, what: Expect) -> Result<(), Unsure> {
        if self.expect != Expect::Nothing {
            return Err(Unsure);
        }
        self.expect = what;
        Ok(())
    }

    #[inline]
    fn frame(&mut self) -> &mut Frame {
        &mut self.frames[self.depth]
    }

    /// A frame whose first token starts no query holds none, unless a SELECT comes later.
    fn leave_start(&mut self) {
        if self.frame().clause == Clause::Start {
            self.frame().clause = Clause::Expression;
        }
    }

    fn string(&mut self) -> Result<(), Unsure> {
        if self.expect != Expect::Nothing || matches!(self.last, Last::CallClose | Last::Number | Last::Dot) {
            return Err(Unsure);
        }
        if self.last == Last::Name {
            // A name before a string is the type that it is converted to.
            if !matches!(self.chain.role, Role::Plain | Role::Alias) {
                return Err(Unsure);
            }
            self.chain.role = Role::Type;
            self.end_chain()?;
        }
        self.last = Last::String;
        self.leave_start();
        Ok(())
    }

    fn comma(&mut self) -> Result<(), Unsure> {
        if self.expect != Expect::Nothing {
            return Err(Unsure);
        }
        self.last = Last::Other;
        match self.frame().clause {
            Clause::From => self.expect = Expect::Read,
            Clause::CteNext => {
                self.frame().clause = Clause::CteName;
                self.expect = Expect::Cte;
            }
            Clause::ColumnType => self.frame().clause = Clause::ColumnName,
            Clause::CteAs | Clause::CteBody | Clause::CteName => return Err(Unsure),
            _ => {}
        }
        Ok(())
    }

    fn open(&mut self) -> Result<(), Unsure> {
        let clause = self.frame().clause;
        let in_from = matches!(clause, Clause::From | Clause::Joined);
        let place = match self.last {
            _ if clause == Clause::CteBody => Place::Body,
            Last::Name => match self.chain.role {
                Role::Plain | Role::Read => {
                    self.call()?;
                    Place::Call
                }
                Role::Alias => Place::Columns,
                Role::Write | Role::Type => {
                    self.end_chain()?;
                    Place::Group
                }
            },
            Last::Keyword(Keyword::Cast) => Place::Cast,
            _ if self.expect == Expect::Read => Place::Tables,
            _ if self.expect != Expect::Nothing => return Err(Unsure),
            Last::Keyword(Keyword::As) if in_from => Place::Columns,
            Last::String | Last::Number | Last::Dot | Last::FieldDot => return Err(Unsure),
            _ => Place::Group,
        };
        match (clause, place) {
            (Clause::Start, Place::Tables) => self.frame().clause = Clause::Joined,
            (Clause::Start, _) if matches!(self.frame().place, Place::Call | Place::Cast) => {
                self.frame().clause = Clause::Expression;
            }
            (Clause::Start | Clause::CteNext, _) => self.frame().clause = Clause::Rest,
            _ => {}
        }
        let inner = if place == Place::Columns { Clause::ColumnName } else { Clause::Start };
        self.last = Last::Other;
        self.push(place, inner)
    }

    fn push(&mut self, place: Place, clause: Clause) -> Result<(), Unsure> {
        if self.depth + 1 == MAX_DEPTH {
            return Err(Unsure);
        }
        self.depth += 1;
        self.frames[self.depth] = Frame { place, clause, ctes: self.cte_count, recursive: false };
        Ok(())
    }

    fn close(&mut self, bracket: bool) -> Result<(), Unsure> {
        let frame = *self.frame();
        let unfinished =
            matches!(frame.clause, Clause::CteName | Clause::CteAs | Clause::CteBody | Clause::CteNext);
        if self.depth == 0
            || unfinished
            || self.expect != Expect::Nothing
            || bracket != (frame.place == Place::Bracket)
        {
            return Err(Unsure);
        }
        self.depth -= 1;
        self.cte_count = frame.ctes;
        if frame.place == Place::Body {
            self.frame().clause = Clause::CteNext;
            if let Some(cte) = usize::from(frame.ctes).checked_sub(1) {
                self.ctes[cte].1 = true;
            }
        }
        self.last = if frame.place == Place::Call { Last::CallClose } else { Last::Close };
        Ok(())
    }
}
