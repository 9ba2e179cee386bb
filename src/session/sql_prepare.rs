//! Reads the SQL that makes, runs and drops prepared statements: PREPARE, EXECUTE, DEALLOCATE.
//!
//! Owns only what the texts say. What statements there are in the end is asked of the server: code on the server can make
//! and drop them too. A text that cannot be read with certainty gives `None`, or mentions everything.

use super::lexer::{Kind, Lexer, MAX_IDENTIFIER, Token};
use foldhash::fast::RandomState;
use std::collections::{HashMap, HashSet};

/// A PREPARE: all of it, and the statement behind its AS.
pub type Prepare<'a> = (&'a [u8], &'a [u8]);

/// The PREPAREs of a text. Of several for one name it is the first for which the name was free: the others have failed.
#[derive(Debug, Default)]
pub struct Prepares<'a> {
    by_name: HashMap<Box<[u8]>, Prepare<'a>, RandomState>,
    /// The only one, whatever it is called.
    only: Option<Prepare<'a>>,
}

impl<'a> Prepares<'a> {
    /// Reads `text`, which is what PostgreSQL shows as the source of a statement: the whole string it came in. There are
    /// none in a text that cannot be read with certainty.
    #[must_use]
    pub fn of(text: &'a [u8]) -> Prepares<'a> {
        Prepares::read(text).unwrap_or_default()
    }

    /// The one that makes the statement `name`.
    #[must_use]
    pub fn get(&self, name: &[u8]) -> Option<Prepare<'a>> {
        self.only.or_else(|| self.by_name.get(name).copied())
    }

    fn read(text: &'a [u8]) -> Option<Prepares<'a>> {
        let mut lexer = Lexer::lenient(text);
        let (mut by_name, mut only, mut count) = (HashMap::<_, _, RandomState>::default(), None, 0);
        loop {
            let (first, end) = statement_start(&mut lexer)?;
            if end {
                return Some(Prepares { by_name, only: only.filter(|_| count == 1) });
            }
            let start = text.len() - lexer.rest().len() - first.text.len();
            if is(first, b"deallocate") || is(first, b"discard") {
                match dropped(&mut lexer) {
                    Dropped::All => by_name.clear(),
                    Dropped::One(name) => drop(by_name.remove(&name)),
                    Dropped::None => {}
                }
            }
            if !is(first, b"prepare") {
                skip_statement(&mut lexer)?;
                continue;
            }
            let called = lexer.next_token();
            if !skip_to_as(&mut lexer)? {
                continue;
            }
            let body = text.len() - lexer.rest().len();
            let end = skip_statement(&mut lexer)?;
            let prepare = (&text[start..end], &text[body..end]);
            (only, count) = (Some(prepare), count + 1);
            if let Some(name) = identifier(called) {
                by_name.entry(name).or_insert(prepare);
            }
        }
    }
}

/// What a DEALLOCATE or DISCARD drops.
enum Dropped {
    None,
    One(Box<[u8]>),
    All,
}

fn dropped(lexer: &mut Lexer<'_>) -> Dropped {
    let mut ahead = lexer.clone();
    let mut token = ahead.next_token();
    if is(token, b"prepare") {
        token = ahead.next_token();
    }
    if is(token, b"all") {
        return Dropped::All;
    }
    identifier(token).map_or(Dropped::None, Dropped::One)
}

/// Skips the types of a PREPARE and its AS; `false` if there is none: PREPARE TRANSACTION, or nothing that PostgreSQL
/// would have taken.
fn skip_to_as(lexer: &mut Lexer<'_>) -> Option<bool> {
    let mut depth = 0_usize;
    loop {
        let token = lexer.next_token();
        match token.kind {
            _ if depth == 0 && is(token, b"as") => return Some(true),
            Kind::Open => depth += 1,
            Kind::Close => depth = depth.checked_sub(1)?,
            Kind::Semicolon | Kind::End | Kind::Unknown => return Some(false),
            _ => {}
        }
    }
}

/// The names behind every EXECUTE in `text`.
#[must_use]
pub fn executed(text: &[u8]) -> Option<Vec<Box<[u8]>>> {
    let mut lexer = Lexer::lenient(text);
    let mut names = Vec::new();
    loop {
        let token = lexer.next_token();
        match token.kind {
            Kind::End => return Some(names),
            Kind::Unknown => return None,
            _ if is(token, b"execute") => names.push(identifier(lexer.next_token())?),
            _ => {}
        }
    }
}

/// The names behind every EXECUTE in the strings of `text`, which functions may run; `None` if there is no telling.
#[must_use]
pub fn executed_in_strings(text: &[u8]) -> Option<Vec<Box<[u8]>>> {
    let mut names = Vec::new();
    collect_from_strings(text, 0, &mut names).then_some(names)
}

/// Strings inside of strings that are looked into.
const MAX_QUOTING: usize = 4;

fn collect_from_strings(text: &[u8], depth: usize, names: &mut Vec<Box<[u8]>>) -> bool {
    if !may_execute(text) {
        return true;
    }
    let mut lexer = Lexer::lenient(text);
    let mut before = None;
    loop {
        let token = lexer.next_token();
        match token.kind {
            // 'EXECUTE ' || name
            Kind::End => return depth == 0 || before != Some(true),
            // Words of a sentence, say, in which nothing is executed.
            Kind::Unknown => return !may_execute(lexer.rest()),
            Kind::String if may_execute(token.text) => {
                let content = content_of(token.text);
                if depth == MAX_QUOTING || !collect_from_strings(&content, depth + 1, names) {
                    return false;
                }
            }
            // As PL/pgSQL has it: a text to run, which begins like something else or may be anything.
            Kind::String if depth > 0 && before == Some(true) && begins_otherwise(token.text) => {}
            Kind::String | Kind::Param if depth > 0 && before == Some(true) => return false,
            _ if depth > 0 && before == Some(true) => names.extend(identifier(token)),
            _ => {}
        }
        before = Some(is(token, b"execute"));
    }
}

/// Whether a string, whatever is appended to it, begins with a word, and EXECUTE is not in it.
fn begins_otherwise(string: &[u8]) -> bool {
    let content = content_of(string);
    let text = content.trim_ascii_start();
    let end = text.iter().position(|byte| !byte.is_ascii_alphabetic());
    end.is_some_and(|end| end > 0 && text[end].is_ascii_whitespace()) && !may_execute(text)
}

/// What a string holds, given as the lexer gives it.
fn content_of(string: &[u8]) -> Vec<u8> {
    if string.last() == Some(&b'$') {
        let tag = string[1..].iter().position(|byte| *byte == b'$').map_or(0, |at| at + 2);
        return string.get(tag..string.len().saturating_sub(tag)).unwrap_or_default().to_vec();
    }
    let inner = string.strip_suffix(b"'").unwrap_or(string);
    let mut content = Vec::with_capacity(inner.len());
    let mut bytes = inner.iter().peekable();
    while let Some(&byte) = bytes.next() {
        content.push(byte);
        if byte == b'\'' && bytes.peek() == Some(&&b'\'') {
            bytes.next();
        }
    }
    content
}

/// Whether `text` can mean the statement `name`: the name stands in it, in whatever place and case.
#[must_use]
pub fn mentions(text: &[u8], name: &[u8]) -> bool {
    if name.is_empty() || has_escapes(text) {
        return true;
    }
    // Inside quotes a quote is doubled.
    let doubled: Vec<u8> =
        name.iter().flat_map(|&byte| if byte == b'"' { vec![byte, byte] } else { vec![byte] }).collect();
    let is_part = |byte: Option<&u8>| byte.is_some_and(|byte| is_word_byte(*byte));
    text.windows(doubled.len()).enumerate().any(|(at, window)| {
        window.eq_ignore_ascii_case(&doubled)
            && !is_part(at.checked_sub(1).and_then(|before| text.get(before)))
            && (may_be_cut(name) || !is_part(text.get(at + doubled.len())))
    })
}

/// The words of a text, for [`mentions`] of many names.
#[derive(Debug)]
pub struct Words<'a> {
    text: &'a [u8],
    /// In lower case; `None` if there is no telling.
    words: Option<HashSet<Vec<u8>, RandomState>>,
}

impl<'a> Words<'a> {
    /// Reads `text`.
    #[must_use]
    pub fn of(text: &'a [u8]) -> Words<'a> {
        let words = || {
            let runs = text.split(|byte| !is_word_byte(*byte));
            runs.filter(|run| !run.is_empty()).map(<[u8]>::to_ascii_lowercase).collect()
        };
        Words { text, words: (!has_escapes(text)).then(words) }
    }

    /// Whether the text can mean the statement `name`.
    #[must_use]
    pub fn mention(&self, name: &[u8]) -> bool {
        let Some(words) = &self.words else { return true };
        if name.is_empty() || may_be_cut(name) || !name.iter().all(|byte| is_word_byte(*byte)) {
            return mentions(self.text, name);
        }
        if name.iter().any(u8::is_ascii_uppercase) {
            return words.contains(&name.to_ascii_lowercase());
        }
        words.contains(name)
    }
}

fn has_escapes(text: &[u8]) -> bool {
    text.windows(3).any(|window| window.eq_ignore_ascii_case(b"u&\""))
}

fn is_word_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte >= 0x80
}

/// One that fills the length of an identifier may be cut off from a longer one.
fn may_be_cut(name: &[u8]) -> bool {
    name.len() + 4 > MAX_IDENTIFIER
}

/// Whether `text` has the word EXECUTE anywhere, in code in strings too.
#[must_use]
pub fn may_execute(text: &[u8]) -> bool {
    text.windows(7).any(|window| window.eq_ignore_ascii_case(b"execute"))
}

/// `name` as SQL writes it.
#[must_use]
pub fn quote(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// The first token of the next statement that is not empty; with `true` at the end of the text.
fn statement_start<'a>(lexer: &mut Lexer<'a>) -> Option<(Token<'a>, bool)> {
    loop {
        let token = lexer.next_token();
        match token.kind {
            Kind::Semicolon => {}
            Kind::Unknown => return None,
            kind => return Some((token, kind == Kind::End)),
        }
    }
}

/// Skips to the end of a statement; where that is.
fn skip_statement(lexer: &mut Lexer<'_>) -> Option<usize> {
    loop {
        let at = lexer.position();
        match lexer.next_token().kind {
            Kind::Semicolon | Kind::End => return Some(at),
            Kind::Unknown => return None,
            _ => {}
        }
    }
}

/// A name as PostgreSQL understands it: folded if it is not quoted, and cut.
fn identifier(token: Token<'_>) -> Option<Box<[u8]>> {
    let mut name = match token.kind {
        Kind::Word => token.text.to_ascii_lowercase(),
        Kind::Quoted => {
            let mut name = Vec::with_capacity(token.text.len());
            let mut bytes = token.text.iter();
            while let Some(&byte) = bytes.next() {
                name.push(byte);
                if byte == b'"' {
                    bytes.next();
                }
            }
            name
        }
        _ => return None,
    };
    if name.len() > MAX_IDENTIFIER {
        let text = std::str::from_utf8(&name).ok()?;
        let end = (0..=MAX_IDENTIFIER).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0);
        name.truncate(end);
    }
    Some(name.into())
}

fn is(token: Token<'_>, word: &[u8]) -> bool {
    token.kind == Kind::Word && token.text.eq_ignore_ascii_case(word)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str, name: &str) -> Option<(String, String)> {
        let text_of = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        Prepares::of(text.as_bytes()).get(name.as_bytes()).map(|(all, body)| (text_of(all), text_of(body)))
    }

    #[test]
    fn what_strings_execute_is_found_or_not_told() {
        let names = |text: &str| {
            let found = executed_in_strings(text.as_bytes())?;
            Some(found.iter().map(|name| String::from_utf8_lossy(name).into_owned()).collect::<Vec<_>>())
        };
        let some = |names: &[&str]| Some(names.iter().map(ToString::to_string).collect::<Vec<_>>());
        assert_eq!(names("select f('execute q (2, 2)')"), some(&["q"]));
        assert_eq!(
            names("select f('explain execute \"Q\"; execute r(''execute s'')')"),
            some(&["Q", "r", "s"])
        );
        assert_eq!(names("do $a$ begin perform f($$execute q$$); end $a$"), some(&["q"]));
        assert_eq!(names("execute q('nothing')"), some(&[]));
        assert_eq!(names("select f('execute ' || n)"), None);
        assert_eq!(names("do $$ begin execute 'select 1'; end $$"), some(&[]));
        assert_eq!(names("do $$ begin execute 'select 1; execute q'; end $$"), some(&["q"]));
        for unclear in ["'exe' || 'cute q'", "'' || text", "'/**/execu' || 'te q'", "$1"] {
            assert_eq!(names(&format!("do $a$ begin execute {unclear}; end $a$")), None, "{unclear}");
        }
        assert_eq!(names("select 1"), some(&[]));
    }

    #[test]
    fn a_prepare_is_found_by_its_name() {
        let both = |all: &str, body: &str| Some((all.to_owned(), body.to_owned()));
        assert_eq!(found("PREPARE a AS SELECT 1", "a"), both("PREPARE a AS SELECT 1", " SELECT 1"));
        assert_eq!(
            found("/* x */ prepare A (int, numeric(3, 1)) as select ';' ; select 2", "a"),
            both("prepare A (int, numeric(3, 1)) as select ';'", " select ';'")
        );
        for text in [r"PREPARE q AS SELECT E'it\'s'", r"PREPARE q AS SELECT 'ends in \'"] {
            assert_eq!(found(text, "q"), both(text, &text[12..]), "{text}");
        }
        assert_eq!(
            found("prepare a as select 1; prepare b as select 2; prepare a as select 3", "a"),
            both("prepare a as select 1", " select 1")
        );
        for again in ["deallocate a", "DEALLOCATE PREPARE \"a\"", "discard all", "deallocate all"] {
            let text =
                format!("prepare a as select 1; prepare b as select 2; {again}; prepare a as select 3");
            assert_eq!(found(&text, "a"), both("prepare a as select 3", " select 3"));
        }
        assert_eq!(
            found("prepare \"a \"\"b;\" as select 1;", "a \"b;"),
            both("prepare \"a \"\"b;\" as select 1", " select 1")
        );
    }

    #[test]
    fn the_only_prepare_is_it_whatever_it_is_called() {
        assert!(found("select 1; prepare whatever as select 2", "a").is_some());
        assert!(found("prepare b as select 1; prepare c as select 2", "a").is_none());
        assert!(found("prepare transaction 'a'", "a").is_none());
        assert!(found("select 1", "a").is_none());
        assert!(found("prepare a as select 'open", "a").is_none());
    }

    #[test]
    fn names_are_folded_unquoted_and_cut() {
        let names = |text: &str| {
            executed(text.as_bytes()).map(|names| {
                names.iter().map(|name| String::from_utf8(name.to_vec()).unwrap()).collect::<Vec<_>>()
            })
        };
        assert_eq!(names("EXECUTE Foo(1); explain execute \"B\"\"c\"").unwrap(), ["foo", "B\"c"]);
        assert_eq!(names(&format!("execute {}", "n".repeat(70))).unwrap(), ["n".repeat(63)]);
        assert_eq!(names("select 'execute x'").unwrap(), Vec::<String>::new());
        assert_eq!(names("execute u&\"x\""), None);
        assert_eq!(names("execute 'x'"), None);
    }

    #[test]
    fn a_mention_is_a_whole_name_anywhere() {
        for (text, name, expected) in [
            ("execute a1", "a1", true),
            ("execute A1(3)", "a1", true),
            ("do $$ begin execute 'deallocate a1'; end $$", "a1", true),
            ("execute a10", "a1", false),
            ("execute ba1", "a1", false),
            ("execute \"x\"\"y\"", "x\"y", true),
            ("execute u&\"\\0061\"", "a", true),
            ("execute ", "a", false),
        ] {
            assert_eq!(mentions(text.as_bytes(), name.as_bytes()), expected, "{text}");
            assert_eq!(Words::of(text.as_bytes()).mention(name.as_bytes()), expected, "{text}");
        }
        let cut = "n".repeat(63);
        assert!(mentions(format!("execute {cut}nnn").as_bytes(), cut.as_bytes()));
        assert!(Words::of(format!("execute {cut}nnn").as_bytes()).mention(cut.as_bytes()));
        assert!(Words::of(b"execute Mixed").mention(b"MIXED"));
    }
}
