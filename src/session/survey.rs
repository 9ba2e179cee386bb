//! What is asked of a server before it goes to others: which settings its client leaves in force, and what of the client's
//! is there that only this server has.
//!
//! SQL is not followed. Texts only say that something may have changed, and the names of custom settings, which no view of
//! PostgreSQL lists; what has become of it the server tells. Owns the question and what the answer means.

use super::Footprint;
use super::settings::{ROLE, SESSION_AUTHORIZATION, Settings, quote_literal};
use std::fmt::Write as _;

/// Custom settings of one client that are followed.
pub const MAX_CUSTOM: usize = 64;
/// Longest name of one.
const MAX_NAME: usize = 128;

/// Takes the time limit off the survey itself, but for the first statement; the client's limit is kept in a setting. The
/// answer comes in UTF-8 (what the client's encoding is every server reports).
const PREPARE: &str = "SELECT pg_catalog.set_config('pgvalet.statement_timeout', \
    pg_catalog.current_setting('statement_timeout'), true), \
    pg_catalog.set_config('statement_timeout', '0', true), pg_catalog.set_config('client_encoding', 'UTF8', true);";
const SETTINGS: &str = "SELECT 's', name, setting FROM pg_catalog.pg_settings \
    WHERE source OPERATOR(pg_catalog.=) 'session' AND context OPERATOR(pg_catalog.<>) 'internal' \
    AND NOT name OPERATOR(pg_catalog.=) ANY ('{client_encoding,statement_timeout,transaction_isolation,transaction_read_only,\
    transaction_deferrable}'::pg_catalog.text[]);\
    SELECT 't', pg_catalog.current_setting('pgvalet.statement_timeout'), reset_val FROM pg_catalog.pg_settings \
    WHERE name OPERATOR(pg_catalog.=) 'statement_timeout';\
    SELECT 'r', pg_catalog.current_setting('role'), pg_catalog.current_setting('session_authorization')";
const TEMP: &str = ";SELECT 'p', 'temp', '' WHERE EXISTS (SELECT FROM pg_catalog.pg_depend \
    WHERE refclassid OPERATOR(pg_catalog.=) 'pg_catalog.pg_namespace'::pg_catalog.regclass \
    AND refobjid OPERATOR(pg_catalog.=) pg_catalog.pg_my_temp_schema())";
const LOCKS: &str = ";SELECT 'p', 'locks', '' WHERE EXISTS (SELECT FROM pg_catalog.pg_locks \
    WHERE locktype OPERATOR(pg_catalog.=) 'advisory' AND pid OPERATOR(pg_catalog.=) pg_catalog.pg_backend_pid())";
const CURSORS: &str =
    ";SELECT 'p', 'cursors', '' WHERE EXISTS (SELECT FROM pg_catalog.pg_cursors WHERE is_holdable)";
const LISTEN: &str =
    ";SELECT 'p', 'listen', '' WHERE EXISTS (SELECT FROM pg_catalog.pg_listening_channels())";

/// The question, as one simple Query: after what can have left `done` behind, with these custom settings.
#[must_use]
pub fn question<'a>(done: Footprint, custom: impl Iterator<Item = &'a str>) -> String {
    let mut sql = format!("{PREPARE}{SETTINGS}");
    let mut separator = ";SELECT 'c', n, pg_catalog.current_setting(n, true) FROM (VALUES (";
    for name in custom {
        let _ = write!(sql, "{separator}{}", quote_literal(name));
        separator = "), (";
    }
    if separator == "), (" {
        sql.push_str(")) v(n)");
    }
    let anything = done.intersects(Footprint::EVERYTHING.union(Footprint::EXECUTES));
    for (kind, part) in [
        (Footprint::TEMP, TEMP),
        (Footprint::LOCKS, LOCKS),
        (Footprint::CURSORS, CURSORS),
        (Footprint::LISTEN, LISTEN),
    ] {
        if anything || done.contains(kind) {
            sql.push_str(part);
        }
    }
    sql
}

/// The answer.
#[derive(Debug, Default)]
pub struct Findings {
    /// What the session has set on top of what it started with.
    pub settings: Settings,
    /// State that only this server has.
    pub pins: Footprint,
}

impl Findings {
    /// Takes in one row of the answer; `user` is the one that the server was logged in as.
    pub fn note(&mut self, row: &[&[u8]], user: &str) {
        let Some([kind, name, value]) = row.first_chunk::<3>() else { return };
        let (Ok(name), Ok(value)) = (std::str::from_utf8(name), std::str::from_utf8(value)) else { return };
        match *kind {
            b"s" => self.settings.set(name, value),
            // An empty value is what is left of one that was reset.
            b"c" if !value.is_empty() => self.settings.set(name, value),
            b"t" if milliseconds(name) != value.parse().ok() => self.settings.set("statement_timeout", name),
            b"r" => {
                if name != "none" {
                    self.settings.set(ROLE, name);
                }
                if value != user {
                    self.settings.set(SESSION_AUTHORIZATION, value);
                }
            }
            b"p" => {
                let kinds = [
                    ("temp", Footprint::TEMP),
                    ("locks", Footprint::LOCKS),
                    ("cursors", Footprint::CURSORS),
                    ("listen", Footprint::LISTEN),
                ];
                if let Some((_, kind)) = kinds.into_iter().find(|(known, _)| *known == name) {
                    self.pins = self.pins.union(kind);
                }
            }
            _ => {}
        }
    }
}

/// A time as PostgreSQL shows it, such as `5s`.
fn milliseconds(shown: &str) -> Option<u64> {
    let digits = shown.find(|c: char| !c.is_ascii_digit()).unwrap_or(shown.len());
    let unit = match &shown[digits..] {
        "" | "ms" => 1,
        "s" => 1_000,
        "min" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return None,
    };
    shown[..digits].parse::<u64>().ok()?.checked_mul(unit)
}

/// What a text asks of sequences, as far as it shows, code in strings included.
#[must_use]
pub fn sequence_hints(text: &[u8]) -> Footprint {
    let has = |word: &[u8]| text.windows(word.len()).any(|window| window.eq_ignore_ascii_case(word));
    let mut found = Footprint::NOTHING;
    if has(b"nextval") || has(b"setval") {
        found = found.union(Footprint::SEQUENCES).union(Footprint::NEXTVAL);
    }
    if has(b"currval") || has(b"lastval") {
        found = found.union(Footprint::CURRVAL);
    }
    found
}

/// Adds everything in `bytes` that can be the name of a custom setting, in lower case: names joined by dots, wherever they
/// stand.
pub fn custom_names(bytes: &[u8], into: &mut Vec<Box<str>>) {
    let mut at = 0;
    while let Some(found) = bytes.get(at..).and_then(|rest| rest.iter().position(|byte| *byte == b'.')) {
        let dot = at + found;
        let start = start_of_word(bytes, dot);
        let mut end = end_of_word(bytes, dot + 1);
        at = end.max(dot + 1);
        if start == dot || end == dot + 1 {
            continue;
        }
        while bytes.get(end) == Some(&b'.') && end_of_word(bytes, end + 1) > end + 1 {
            end = end_of_word(bytes, end + 1);
            at = end;
        }
        let name: String = bytes[start..end]
            .iter()
            .filter(|byte| **byte != b'"')
            .map(|byte| char::from(byte.to_ascii_lowercase()))
            .collect();
        let is_new = !into.iter().any(|known| **known == *name);
        if is_new && name.len() <= MAX_NAME && into.len() < MAX_CUSTOM {
            into.push(name.into());
        }
    }
}

/// Where the word that ends at `end`, perhaps in quotes, begins; `end` if there is none.
fn start_of_word(bytes: &[u8], end: usize) -> usize {
    let inner = if end > 0 && bytes[end - 1] == b'"' { end - 1 } else { end };
    let length = bytes[..inner].iter().rev().take_while(|byte| is_word(**byte)).count();
    match inner - length {
        _ if length == 0 => end,
        start if bytes[start].is_ascii_digit() => end,
        start if inner < end && start > 0 && bytes[start - 1] == b'"' => start - 1,
        start => start,
    }
}

/// Where the word that begins at `start`, perhaps in quotes, ends; `start` if there is none.
fn end_of_word(bytes: &[u8], start: usize) -> usize {
    let inner = start + usize::from(bytes.get(start) == Some(&b'"'));
    let length = bytes.get(inner..).unwrap_or(&[]).iter().take_while(|byte| is_word(**byte)).count();
    let end = inner + length;
    match bytes.get(inner) {
        _ if length == 0 => start,
        Some(byte) if byte.is_ascii_digit() => start,
        _ if inner > start && bytes.get(end) == Some(&b'"') => end + 1,
        _ => end,
    }
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(text: &str) -> Vec<String> {
        let mut found = Vec::new();
        custom_names(text.as_bytes(), &mut found);
        found.into_iter().map(String::from).collect()
    }

    #[test]
    fn names_with_dots_are_found_wherever_they_stand() {
        assert_eq!(names("SET app.Tenant = 'x.y'"), ["app.tenant", "x.y"]);
        assert_eq!(names("set \"App\".\"user_id\" to 1"), ["app.user_id"]);
        assert_eq!(names("select set_config('a.b.c', $1, false)"), ["a.b.c"]);
        assert_eq!(names("\0\0\0\x0aapp.tenant\0\0\0\x01"), ["app.tenant"]);
        assert_eq!(names("set work_mem = 1.5; select .5, 1., x."), Vec::<String>::new());
        assert_eq!(names("a.b a.b A.B"), ["a.b"]);
        assert_eq!(names(&"a.b".repeat(0)), Vec::<String>::new());
        let many: String = (0..1000).map(|n| format!("a.b{n} ")).collect();
        assert_eq!(names(&many).len(), MAX_CUSTOM);
    }

    #[test]
    fn only_what_can_have_changed_is_asked() {
        let plain = question(Footprint::SETTINGS, std::iter::empty());
        assert!(!plain.contains("pg_locks") && !plain.contains("VALUES"));
        let custom = question(Footprint::LOCKS, ["a.b", "c.d"].into_iter());
        assert!(custom.contains("(VALUES ('a.b'), ('c.d')) v(n)") && custom.contains("pg_locks"));
        let all = question(Footprint::EVERYTHING, std::iter::empty());
        assert!(
            ["pg_locks", "pg_depend", "pg_cursors", "pg_listening"].iter().all(|part| all.contains(part))
        );
    }

    #[test]
    fn an_answer_is_read() {
        let mut found = Findings::default();
        for row in [
            ["s", "TimeZone", "UTC"],
            ["c", "a.b", ""],
            ["c", "a.c", "x"],
            ["t", "5s", "5000"],
            ["r", "none", "app"],
            ["p", "locks", ""],
        ] {
            found.note(&row.map(str::as_bytes), "app");
        }
        let settings: Vec<_> = found.settings.iter().collect();
        assert_eq!(settings, [("a.c", "x"), ("timezone", "UTC")]);
        assert_eq!(found.pins, Footprint::LOCKS);
        found.note(&["t", "1min", "0"].map(str::as_bytes), "app");
        found.note(&["r", "boss", "other"].map(str::as_bytes), "app");
        let settings: Vec<_> = found.settings.iter().collect();
        assert_eq!(
            settings[1..4],
            [("role", "boss"), ("session_authorization", "other"), ("statement_timeout", "1min")]
        );
    }
}
