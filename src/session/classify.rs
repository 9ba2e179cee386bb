//! Judges what a SQL text can leave behind in the session that runs it.
//!
//! Owns the kinds of statements; `query` reads the ones that hold expressions, `names` knows the words. The judgement is
//! one-sided: what is not known to be harmless counts as everything. Code that a statement reaches through relations,
//! operators and types is judged by [`CatalogFacts`].
//!
//! Invariant: text in comments and strings changes nothing, and a text is at least as bad as each of its statements.

use super::lexer::{Kind, Lexer, Token};
use super::{CatalogFacts, Footprint};

mod keywords;
pub(super) mod names;
mod query;

/// What `sql`, without its terminating NUL, can leave in the session.
///
/// `unsure`: see [`Lexer::new`]. [`Footprint::DDL`] means that `facts` are void once the transaction commits.
#[must_use]
pub fn classify(sql: &[u8], facts: &CatalogFacts, unsure: bool) -> Footprint {
    let mut lexer = Lexer::new(sql, unsure);
    let mut found = Footprint::NOTHING;
    loop {
        let first = lexer.next_token();
        match first.kind {
            Kind::End => return found,
            Kind::Semicolon => {}
            Kind::Unknown => return found.union(UNREADABLE),
            _ => found = found.union(statement(first, &mut lexer, facts)),
        }
    }
}

/// Whether a statement in `sql` opens a transaction block, as far as the text can be read with certainty.
///
/// For an early answer only: what truly happened is in the status of ReadyForQuery.
#[must_use]
pub fn begins_transaction(sql: &[u8]) -> bool {
    let mut lexer = Lexer::new(sql, false);
    let mut at_start = true;
    loop {
        let token = lexer.next_token();
        match token.kind {
            Kind::End | Kind::Unknown => return false,
            Kind::Word if at_start && (is(token, b"begin") || is(token, b"start")) => return true,
            kind => at_start = kind == Kind::Semicolon,
        }
    }
}

/// Whether PostgreSQL plans `sql`, one statement, and so minds its columns: not what it calls a utility statement.
#[must_use]
pub fn is_planned(sql: &[u8]) -> bool {
    let first = Lexer::new(sql, false).next_token();
    first.kind == Kind::Open || starts_query(first)
}

/// Everything, and the facts are void.
const ANYTHING: Footprint = Footprint::EVERYTHING.union(Footprint::DDL);

/// The same, and nobody can tell what the text says.
const UNREADABLE: Footprint = ANYTHING.union(Footprint::STATEMENTS);

/// GUCs that clients can set and every version since 14 reports.
const FOLLOWED: [&[u8]; 7] = [
    b"application_name",
    b"client_encoding",
    b"datestyle",
    b"default_transaction_read_only",
    b"intervalstyle",
    b"standard_conforming_strings",
    b"timezone",
];

/// Judges one statement and leaves the lexer behind its semicolon.
fn statement<'a>(first: Token<'a>, lexer: &mut Lexer<'a>, facts: &CatalogFacts) -> Footprint {
    if matches!(first.kind, Kind::Open) {
        return query::judge(first, lexer, facts);
    }
    let mut buffer = [0; 16];
    let head = if first.kind == Kind::Word { fold(first.text, &mut buffer) } else { b"" };
    match head {
        b"select" | b"insert" | b"update" | b"delete" | b"with" | b"values" | b"table" | b"merge" => {
            query::judge(first, lexer, facts)
        }
        b"begin" | b"start" | b"end" | b"abort" | b"savepoint" | b"release" | b"show" | b"fetch"
        | b"move" | b"close" | b"lock" | b"notify" => skip(lexer, Footprint::NOTHING),
        b"commit" | b"rollback" => commit(lexer),
        b"set" => set(lexer),
        b"reset" => reset(lexer),
        b"copy" => query::judge_copy(lexer, facts),
        b"explain" => explain(lexer, facts),
        b"declare" => declare(lexer, facts),
        b"prepare" => prepare(lexer),
        b"execute" => skip(lexer, Footprint::STATEMENTS.union(Footprint::EXECUTES)),
        b"deallocate" => skip(lexer, Footprint::STATEMENTS),
        b"listen" | b"unlisten" => skip(lexer, Footprint::LISTEN),
        b"load" => skip(lexer, Footprint::EVERYTHING.union(Footprint::LASTING)),
        b"discard" | b"call" | b"vacuum" | b"analyze" | b"analyse" | b"checkpoint" => {
            skip(lexer, Footprint::EVERYTHING)
        }
        // Code can prepare statements, and CREATE TABLE AS can execute them.
        b"do" => skip(lexer, ANYTHING.union(Footprint::STATEMENTS)),
        b"create" => create(lexer),
        // DDL, and whatever else there is.
        _ => skip(lexer, ANYTHING),
    }
}

/// `COMMIT PREPARED` can bring DDL into force that another session made.
fn commit(lexer: &mut Lexer<'_>) -> Footprint {
    let next = lexer.next_token();
    skip_from(next, lexer, if is(next, b"prepared") { Footprint::DDL } else { Footprint::NOTHING })
}

fn set(lexer: &mut Lexer<'_>) -> Footprint {
    let first = lexer.next_token();
    let second = lexer.next_token();
    if second.kind == Kind::Dot {
        return custom(first, lexer);
    }
    // local.x and the like are names of settings.
    let prefix = second.kind == Kind::Word && !is(second, b"to") || second.kind == Kind::Quoted;
    let found = if prefix && (is(first, b"local") || is(first, b"transaction") || is(first, b"constraints")) {
        if is(first, b"local") { Footprint::LOCAL_SETTINGS } else { Footprint::NOTHING }
    } else if prefix && is(first, b"session") {
        let third = lexer.next_token();
        if third.kind == Kind::Dot {
            return custom(second, lexer);
        }
        let found = session_setting(second, third);
        return skip_from(third, lexer, found);
    } else {
        session_setting(first, second)
    };
    skip_from(second, lexer, found)
}

/// What `SET first second ...` leaves behind.
fn session_setting(first: Token<'_>, second: Token<'_>) -> Footprint {
    let assigned = is(second, b"to") || second.kind == Kind::Operator && second.text == b"=";
    let followed = if assigned {
        is_followed(first)
    } else {
        is(first, b"time") && is(second, b"zone") || is(first, b"names") && second.kind != Kind::Dot
    };
    if followed {
        Footprint::FOLLOWED_SETTINGS
    } else if is_name(first, b"role")
        || is(first, b"authorization")
        || is_name(first, b"session_authorization")
    {
        Footprint::ROLE
    } else {
        Footprint::SETTINGS
    }
}

/// A setting `first.x`, behind its dot. The name has to be found in the text again to ask what came of it
/// (`session::survey::custom_names`): one that is not plain may be anything.
fn custom(first: Token<'_>, lexer: &mut Lexer<'_>) -> Footprint {
    let mut plain = is_plain(first);
    loop {
        plain &= is_plain(lexer.next_token());
        let next = lexer.next_token();
        if next.kind != Kind::Dot {
            let found = if plain { Footprint::SETTINGS } else { Footprint::EVERYTHING };
            return skip_from(next, lexer, found);
        }
    }
}

/// Whether it is a name of letters, digits and underscores.
fn is_plain(token: Token<'_>) -> bool {
    matches!(token.kind, Kind::Word | Kind::Quoted) && is_plain_name(token.text)
}

fn is_plain_name(name: &[u8]) -> bool {
    name.first().is_some_and(|byte| byte.is_ascii_alphabetic() || *byte == b'_')
        && name.iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'_')
}

fn reset(lexer: &mut Lexer<'_>) -> Footprint {
    let first = lexer.next_token();
    let second = lexer.next_token();
    if second.kind == Kind::Dot {
        return custom(first, lexer);
    }
    let alone = matches!(second.kind, Kind::Semicolon | Kind::End);
    let found = if alone && is_followed(first) || is(first, b"time") && is(second, b"zone") {
        Footprint::FOLLOWED_SETTINGS
    } else if is_name(first, b"role")
        || is_name(first, b"session_authorization")
        || is(first, b"session") && is(second, b"authorization")
    {
        Footprint::ROLE
    } else {
        Footprint::SETTINGS
    };
    skip_from(second, lexer, found)
}

fn explain(lexer: &mut Lexer<'_>, facts: &CatalogFacts) -> Footprint {
    let mut token = lexer.next_token();
    while is(token, b"analyze") || is(token, b"analyse") || is(token, b"verbose") {
        token = lexer.next_token();
    }
    if token.kind == Kind::Open {
        let mut ahead = lexer.clone();
        let inner = ahead.next_token();
        if inner.kind != Kind::Open && !starts_query(inner) {
            if !skip_parenthesis(lexer) {
                return skip(lexer, Footprint::EVERYTHING);
            }
            token = lexer.next_token();
        }
    }
    if token.kind == Kind::Open || starts_query(token) {
        query::judge(token, lexer, facts)
    } else {
        // EXPLAIN of CREATE TABLE AS, EXECUTE, DECLARE.
        match token {
            _ if is(token, b"create") => create(lexer),
            _ if is(token, b"execute") => {
                skip_from(token, lexer, Footprint::STATEMENTS.union(Footprint::EXECUTES))
            }
            _ => skip_from(token, lexer, Footprint::EVERYTHING),
        }
    }
}

/// `CREATE TABLE ... AS EXECUTE` runs a prepared statement.
fn create(lexer: &mut Lexer<'_>) -> Footprint {
    let mut ahead = lexer.clone();
    let found = skip(lexer, ANYTHING);
    loop {
        let token = ahead.next_token();
        match token.kind {
            Kind::Semicolon | Kind::End | Kind::Unknown => return found,
            _ if is(token, b"execute") => {
                return found.union(Footprint::STATEMENTS).union(Footprint::EXECUTES);
            }
            _ => {}
        }
    }
}

/// A cursor's query runs at FETCH, in the same transaction, or at COMMIT if it is held.
fn declare(lexer: &mut Lexer<'_>, facts: &CatalogFacts) -> Footprint {
    let mut token = lexer.next_token();
    let mut found = Footprint::NOTHING;
    let mut before = token;
    while !is(token, b"for") || is(before, b"declare") {
        if is(token, b"hold") && !is(before, b"without") {
            found = Footprint::CURSORS;
        }
        if !matches!(token.kind, Kind::Word | Kind::Quoted) {
            return skip_from(token, lexer, Footprint::EVERYTHING);
        }
        before = token;
        token = lexer.next_token();
    }
    let query = lexer.next_token();
    if query.kind == Kind::Open || starts_query(query) {
        found.union(query::judge(query, lexer, facts))
    } else {
        skip_from(query, lexer, Footprint::EVERYTHING)
    }
}

fn prepare(lexer: &mut Lexer<'_>) -> Footprint {
    let (first, second) = (lexer.next_token(), lexer.next_token());
    if is(first, b"transaction") && second.kind == Kind::String {
        skip(lexer, Footprint::NOTHING)
    } else {
        skip_from(second, lexer, Footprint::STATEMENTS)
    }
}

fn starts_query(token: Token<'_>) -> bool {
    const STARTS: [&[u8]; 8] =
        [b"select", b"insert", b"update", b"delete", b"with", b"values", b"table", b"merge"];
    STARTS.iter().any(|start| is(token, start))
}

/// Skips to the closing parenthesis; `false` if the statement ends before it.
fn skip_parenthesis(lexer: &mut Lexer<'_>) -> bool {
    let mut depth = 1_usize;
    while depth > 0 {
        // Looks before it takes, so that the end of the statement stays.
        let mut ahead = lexer.clone();
        match ahead.next_token().kind {
            Kind::Open => depth += 1,
            Kind::Close => depth -= 1,
            Kind::Semicolon | Kind::End | Kind::Unknown => return false,
            _ => {}
        }
        *lexer = ahead;
    }
    true
}

/// Skips the rest of a statement that leaves `found` behind.
fn skip(lexer: &mut Lexer<'_>, found: Footprint) -> Footprint {
    let next = lexer.next_token();
    skip_from(next, lexer, found)
}

/// The same, with `token` taken already. `INTO` that belongs to no INSERT or MERGE makes a table.
fn skip_from<'a>(mut token: Token<'a>, lexer: &mut Lexer<'a>, found: Footprint) -> Footprint {
    let mut makes_table = false;
    let mut before = token;
    loop {
        match token.kind {
            Kind::Semicolon | Kind::End => break,
            Kind::Unknown => return found.union(UNREADABLE),
            Kind::Word => {
                makes_table |= is(token, b"into") && !is(before, b"insert") && !is(before, b"merge")
            }
            _ => {}
        }
        before = token;
        token = lexer.next_token();
    }
    if makes_table && found.contains(Footprint::EVERYTHING) { found.union(Footprint::DDL) } else { found }
}

/// Whether `token` is the unquoted word `word`, given in lower case.
fn is(token: Token<'_>, word: &[u8]) -> bool {
    token.kind == Kind::Word && token.text.eq_ignore_ascii_case(word)
}

/// The same for the name of a setting: quotes and case do not matter.
fn is_name(token: Token<'_>, name: &[u8]) -> bool {
    matches!(token.kind, Kind::Word | Kind::Quoted) && token.text.eq_ignore_ascii_case(name)
}

fn is_followed(token: Token<'_>) -> bool {
    FOLLOWED.iter().any(|name| is_name(token, name))
}

/// `text` in lower case, or nothing if it does not fit.
fn fold<'b>(text: &[u8], buffer: &'b mut [u8]) -> &'b [u8] {
    let Some(folded) = buffer.get_mut(..text.len()) else { return b"" };
    folded.copy_from_slice(text);
    folded.make_ascii_lowercase();
    folded
}

#[cfg(test)]
mod tests;
