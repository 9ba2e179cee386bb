//! What is asked of a server before it goes to others: which settings its client leaves in force, and what of the client's
//! is there that only this server has.
//!
//! SQL is not followed. Texts only say that something may have changed, and the names of custom settings, which no view of
//! PostgreSQL lists; what has become of it the server tells. Owns the question and what the answer means.

use super::Footprint;
use super::lexer::{Kind, Lexer, Token};
use super::settings::{ROLE, SESSION_AUTHORIZATION, Settings, quote_literal};
use std::fmt::Write as _;

/// Custom settings of one client that are followed.
pub const MAX_CUSTOM: usize = 256;
/// Longest name of one.
const MAX_NAME: usize = 256;
/// Bytes that the settings of one client may have; with more it stays on its server.
const MAX_BYTES: usize = 256 << 10;

/// Whatever the client has set for its transactions, this one waits for nobody.
const AT_ONCE: &str = "SET TRANSACTION ISOLATION LEVEL READ COMMITTED, NOT DEFERRABLE;";
/// Takes the time limit off the survey itself, but for the first statement; the client's limit is kept in a setting.
const PREPARE: &str = "SELECT pg_catalog.set_config('pgvalet.statement_timeout', \
    pg_catalog.current_setting('statement_timeout'), true), \
    pg_catalog.set_config('statement_timeout', '0', true);";
/// The answer comes in UTF-8; what the client's encoding is every server reports.
const UTF8: &str = "SELECT pg_catalog.set_config('client_encoding', 'UTF8', true);";
const SETTINGS: &str = "SELECT CASE WHEN context OPERATOR(pg_catalog.~~) 'superuser%' THEN 'S' ELSE 's' END, name, setting \
    FROM pg_catalog.pg_settings \
    WHERE pg_catalog.octet_length(setting) OPERATOR(pg_catalog.<=) 16384 AND source OPERATOR(pg_catalog.=) 'session' AND context OPERATOR(pg_catalog.<>) 'internal' \
    AND NOT name OPERATOR(pg_catalog.=) ANY ('{client_encoding,statement_timeout,transaction_isolation,\
    transaction_read_only,transaction_deferrable}'::pg_catalog.text[]);\
    SELECT 't', pg_catalog.current_setting('pgvalet.statement_timeout'), reset_val FROM pg_catalog.pg_settings \
    WHERE name OPERATOR(pg_catalog.=) 'statement_timeout';\
    SELECT 'r', pg_catalog.current_setting('role'), pg_catalog.current_setting('session_authorization'), \
    EXISTS (SELECT FROM pg_catalog.pg_db_role_setting, pg_catalog.unnest(setconfig) c \
    WHERE c OPERATOR(pg_catalog.~~) 'role=%')::pg_catalog.text;\
    SELECT 'p', 'settings', '' FROM pg_catalog.pg_settings WHERE source OPERATOR(pg_catalog.=) 'session' \
    AND (name OPERATOR(pg_catalog.=) 'temp_buffers' \
    OR pg_catalog.octet_length(setting) OPERATOR(pg_catalog.>) 16384 OR context OPERATOR(pg_catalog.=) \
    ANY ('{superuser,superuser-backend}'::pg_catalog.text[]) AND NOT EXISTS (SELECT FROM pg_catalog.pg_roles \
    WHERE rolname OPERATOR(pg_catalog.=) ";
const SETTINGS_END: &str = " AND rolsuper)) LIMIT 1";
/// Who may set what a privilege allows need not see it.
const PRIVILEGES: &str = ";SELECT 'e', '', '' WHERE EXISTS (SELECT FROM pg_catalog.pg_parameter_acl)";
const TEMP: &str = ";SELECT 'p', 'temp', '' WHERE EXISTS (SELECT FROM pg_catalog.pg_depend \
    WHERE refclassid OPERATOR(pg_catalog.=) 'pg_catalog.pg_namespace'::pg_catalog.regclass \
    AND refobjid OPERATOR(pg_catalog.=) pg_catalog.pg_my_temp_schema())";
const LOCKS: &str = ";SELECT 'p', 'locks', '' WHERE EXISTS (SELECT FROM pg_catalog.pg_locks \
    WHERE locktype OPERATOR(pg_catalog.=) 'advisory' AND pid OPERATOR(pg_catalog.=) pg_catalog.pg_backend_pid())";
const CURSORS: &str =
    ";SELECT 'p', 'cursors', '' WHERE EXISTS (SELECT FROM pg_catalog.pg_cursors WHERE is_holdable)";
const LISTEN: &str = ";SELECT 'l', c, '' FROM pg_catalog.pg_listening_channels() c";

/// What may be anything.
const ANYTHING: Footprint = Footprint::EVERYTHING.union(Footprint::EXECUTES);

/// Whether the channels are asked for, after what can have left `done` behind.
#[must_use]
pub fn asks_channels(done: Footprint) -> bool {
    done.intersects(ANYTHING.union(Footprint::LISTEN))
}

/// What the question depends on besides what was done.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// The user that the server was logged in as.
    pub user: &'a str,
    /// Major version of the server.
    pub major: u32,
    /// Whether the database has an encoding, so that the answer can come in UTF-8.
    pub converts: bool,
}

/// The question, as one simple Query: after what can have left `done` behind, with these custom settings.
#[must_use]
pub fn question<'a>(done: Footprint, custom: impl Iterator<Item = &'a str>, asked: Asked<'_>) -> String {
    let utf8 = if asked.converts { UTF8 } else { "" };
    let user = quote_literal(asked.user);
    let mut sql = format!("{AT_ONCE}{PREPARE}{utf8}{SETTINGS}{user}{SETTINGS_END}");
    if asked.major >= 15 {
        sql.push_str(PRIVILEGES);
    }
    let mut separator = ";SELECT CASE WHEN pg_catalog.octet_length(v) OPERATOR(pg_catalog.>) 16384 THEN 'p' ELSE 'c' END, \
         CASE WHEN pg_catalog.octet_length(v) OPERATOR(pg_catalog.>) 16384 THEN 'settings' ELSE n END, \
         CASE WHEN pg_catalog.octet_length(v) OPERATOR(pg_catalog.>) 16384 THEN '' ELSE v END FROM (SELECT n, pg_catalog.current_setting(n, true) AS v FROM (VALUES (";
    for name in custom {
        let _ = write!(sql, "{separator}{}", quote_literal(name));
        separator = "), (";
    }
    if separator == "), (" {
        sql.push_str(")) w(n)) c WHERE v IS NOT NULL");
    }
    let anything = done.intersects(ANYTHING);
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
    /// What of that may as well be what it started with: nobody can tell.
    pub unsure: Settings,
    /// State that only this server has.
    pub pins: Footprint,
    /// Channels that the session listens to.
    pub channels: Vec<String>,
    /// There may be more that does not show.
    pub hides: bool,
}

impl Findings {
    /// The answer is complete: keeps no more of it than is to go along.
    pub fn finish(&mut self) {
        let bytes: usize = self.settings.iter().map(|(name, value)| name.len() + value.len()).sum();
        if bytes > MAX_BYTES {
            self.pins = self.pins.union(Footprint::STUCK_SETTINGS);
            let large: Vec<String> = self
                .settings
                .iter()
                .map(|(name, _)| name.to_owned())
                .filter(|name| name.contains('.'))
                .collect();
            large.iter().for_each(|name| self.settings.unset(name));
        }
    }

    /// Takes in one row of the answer; `user` is the one that the server was logged in as.
    pub fn note(&mut self, row: &[&[u8]], user: &str) {
        let Some([kind, name, value]) = row.first_chunk::<3>() else { return };
        let (Ok(name), Ok(value)) = (std::str::from_utf8(name), std::str::from_utf8(value)) else {
            // What cannot be read cannot be set elsewhere.
            self.pins = self.pins.union(Footprint::STUCK_SETTINGS);
            return;
        };
        match *kind {
            b"s" => self.settings.set(name, value),
            b"S" => {
                self.settings.set(name, value);
                self.settings.note_rights();
            }
            // Empty is also what is left of one that was reset.
            b"c" if value.is_empty() => self.unsure.set(name, value),
            b"c" => self.settings.set(name, value),
            b"t" if milliseconds(name) == value.parse().ok() => self.unsure.set("statement_timeout", name),
            b"t" => self.settings.set("statement_timeout", name),
            b"r" => {
                // Where ALTER ROLE or ALTER DATABASE give somebody a role, `none` is not what all start with.
                if name == "none" && row.get(3) != Some(&&b"true"[..]) {
                    self.unsure.set(ROLE, name);
                } else {
                    self.settings.set(ROLE, name);
                }
                if value != user {
                    self.settings.set(SESSION_AUTHORIZATION, value);
                }
            }
            b"l" => {
                self.channels.push(name.to_owned());
                self.pins = self.pins.union(Footprint::LISTEN);
            }
            b"e" => self.hides = true,
            b"p" => {
                let kinds = [
                    ("temp", Footprint::TEMP),
                    ("locks", Footprint::LOCKS),
                    ("cursors", Footprint::CURSORS),
                    ("settings", Footprint::STUCK_SETTINGS),
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

/// What a text asks of sequences and of the random generator, as far as it shows, code in strings included.
#[must_use]
pub fn hints(text: &[u8]) -> Footprint {
    let has = |word: &[u8]| text.windows(word.len()).any(|window| window.eq_ignore_ascii_case(word));
    let mut found = Footprint::NOTHING;
    if has(b"nextval") || has(b"setval") {
        found = found.union(Footprint::SEQUENCES).union(Footprint::NEXTVAL);
    }
    if has(b"currval") || has(b"lastval") {
        found = found.union(Footprint::CURRVAL);
    }
    if has(b"setseed") || sets_seed(text) {
        found = found.union(Footprint::LASTING);
    }
    found
}

/// Whether a text may set `seed`: nothing that shows settings shows it.
fn sets_seed(text: &[u8]) -> bool {
    let seeds = text.windows(4).enumerate().filter(|(_, window)| window.eq_ignore_ascii_case(b"seed"));
    let mut ends = seeds.map(|(at, _)| (at, text.get(at + 4)));
    ends.any(|(at, after)| !after.is_some_and(|byte| is_word(*byte)) && names_setting(&text[..at]))
}

/// Whether what comes behind `before` may be the name of a setting: it stands behind a quote, or behind SET.
fn names_setting(before: &[u8]) -> bool {
    const WORDS: [&[u8]; 6] = [b"'", b"\"", b"set", b"session", b"local", b"reset"];
    let before = before.trim_ascii_end();
    let ends = |word: &&[u8]| {
        before.len() >= word.len() && before[before.len() - word.len()..].eq_ignore_ascii_case(word)
    };
    WORDS.iter().any(ends)
}

/// Adds the names of custom settings that `text` may set, in lower case: what stands behind SET and RESET, strings that
/// are such a name as a whole, and what code in strings has of these. `false` if there may be more of them.
pub fn custom_names(text: &[u8], into: &mut Vec<Box<str>>) -> bool {
    let mut lexer = Lexer::lenient(text);
    let mut complete = true;
    // Behind SET or RESET, perhaps with SESSION or LOCAL.
    let mut is_set = false;
    let mut token = lexer.next_token();
    loop {
        match token.kind {
            Kind::End => return complete,
            Kind::Unknown => {
                scan_code(lexer.rest(), into);
                return false;
            }
            Kind::String => {
                let content = token.text.strip_suffix(b"'").unwrap_or(token.text);
                if !content.contains(&b'.') {
                } else if content.split(|byte| *byte == b'.').all(is_name) {
                    complete &= add(content, into);
                } else {
                    scan_code(content, into);
                }
                is_set = false;
            }
            Kind::Word | Kind::Quoted if is_set && !is_scope(token) => {
                let mut name = token.text.to_vec();
                token = lexer.next_token();
                while token.kind == Kind::Dot {
                    name.push(b'.');
                    name.extend_from_slice(lexer.next_token().text);
                    token = lexer.next_token();
                }
                if name.contains(&b'.') {
                    complete &= name.split(|byte| *byte == b'.').all(is_name) && add(&name, into);
                }
                is_set = false;
                continue;
            }
            Kind::Word => is_set = is_set || is(token, b"set") || is(token, b"reset"),
            _ => is_set = false,
        }
        token = lexer.next_token();
    }
}

fn is(token: Token<'_>, word: &[u8]) -> bool {
    token.kind == Kind::Word && token.text.eq_ignore_ascii_case(word)
}

fn is_scope(token: Token<'_>) -> bool {
    is(token, b"session") || is(token, b"local")
}

/// Whether it can be a part of a name as it stands.
fn is_name(part: &[u8]) -> bool {
    part.first().is_some_and(|byte| byte.is_ascii_alphabetic() || *byte == b'_')
        && part.iter().all(|byte| is_word(*byte) || *byte == b'$')
}

/// Adds a name, given in any case; `false` if there is no room for it.
fn add(name: &[u8], into: &mut Vec<Box<str>>) -> bool {
    let name = String::from_utf8_lossy(name).to_ascii_lowercase();
    if into.iter().any(|known| **known == *name) {
        return true;
    }
    let fits = name.len() <= MAX_NAME && into.len() < MAX_CUSTOM;
    if fits {
        into.push(name.into());
    }
    fits
}

/// Adds what can be the name of a custom setting in code that is not read: a name with dots behind a quote, or behind SET.
fn scan_code(code: &[u8], into: &mut Vec<Box<str>>) {
    for (start, name) in dotted_names(code) {
        if names_setting(&code[..start]) {
            add(&name, into);
        }
    }
}

/// Adds everything in values that are bound which can be the name of a custom setting.
pub fn bound_names(values: &[u8], into: &mut Vec<Box<str>>) {
    for (_, name) in dotted_names(values) {
        add(&name, into);
    }
}

/// Names joined by dots, wherever they stand, with where they begin.
fn dotted_names(bytes: &[u8]) -> Vec<(usize, Vec<u8>)> {
    let (mut at, mut found) = (0, Vec::new());
    while let Some(next) = bytes.get(at..).and_then(|rest| rest.iter().position(|byte| *byte == b'.')) {
        let dot = at + next;
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
        found.push((start, bytes[start..end].iter().copied().filter(|byte| *byte != b'"').collect()));
    }
    found
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

    const ASKED: Asked<'_> = Asked { user: "app", major: 15, converts: true };

    fn names(text: &str) -> (Vec<String>, bool) {
        let mut found = Vec::new();
        let complete = custom_names(text.as_bytes(), &mut found);
        (found.into_iter().map(String::from).collect(), complete)
    }

    #[test]
    fn names_of_custom_settings_are_found_however_they_are_written() {
        let found = |text: &str| match names(text) {
            (names, true) => names,
            (names, false) => panic!("{text}: not all of {names:?}"),
        };
        assert_eq!(found("SET app.Tenant = 'x.y'"), ["app.tenant", "x.y"]);
        assert_eq!(found("set \"App\".\"user_id\" to 1; RESET session b . c"), ["app.user_id", "b.c"]);
        assert_eq!(found("set app/* . */.\n t to 1; set local a.l = 2"), ["app.t", "a.l"]);
        assert_eq!(found("set \"app.t$x\" to 1"), ["app.t$x"]);
        assert_eq!(found("select set_config('a.b.c', $1, false), t.column from s.t"), ["a.b.c"]);
        assert_eq!(
            found("do $$ begin set session a.b = 1; perform set_config('c.d', t.e, false); end $$"),
            ["a.b", "c.d"]
        );
        assert_eq!(found("set work_mem = 1.5; select .5, 1., x.y"), Vec::<String>::new());
        assert_eq!(found("set a.b = 1; set a.b = 2; set A.B = 3"), ["a.b"]);
    }

    #[test]
    fn what_cannot_be_kept_is_told() {
        for text in ["set \"a b\".c = 1", "set \"app.té\" = 1", "set a.b = 'never closed"] {
            assert!(!names(text).1, "{text}");
        }
        assert!(!names(&format!("set a.{} = 1", "b".repeat(MAX_NAME))).1);
        let many: String = (0..1000).map(|n| format!("set a.b{n} = 1;")).collect();
        let (found, complete) = names(&many);
        assert_eq!((found.len(), complete), (MAX_CUSTOM, false));
    }

    #[test]
    fn names_are_found_among_values() {
        let mut found = Vec::new();
        bound_names(b"\0\0\0\x0aapp.tenant\0\0\0\x01x", &mut found);
        assert_eq!(found, ["app.tenant".into()]);
    }

    #[test]
    fn only_what_can_have_changed_is_asked() {
        let plain = question(Footprint::SETTINGS, std::iter::empty(), ASKED);
        assert!(!plain.contains("pg_locks") && !plain.contains("VALUES"));
        let custom = question(Footprint::LOCKS, ["a.b", "c.d"].into_iter(), ASKED);
        assert!(custom.contains("(VALUES ('a.b'), ('c.d')) w(n)") && custom.contains("pg_locks"));
        let all = question(Footprint::EVERYTHING, std::iter::empty(), ASKED);
        assert!(
            ["pg_locks", "pg_depend", "pg_cursors", "pg_listening"].iter().all(|part| all.contains(part))
        );
    }

    #[test]
    fn what_shows_of_sequences_and_the_seed_is_seen() {
        assert_eq!(hints(b"select NextVal('s'), 1"), Footprint::SEQUENCES.union(Footprint::NEXTVAL));
        assert_eq!(hints(b"do $$ select lastval() $$"), Footprint::CURRVAL);
        for text in [
            "set seed = 0.5",
            "SET SESSION seed to 1",
            "select set_config('seed', $1, false)",
            "select setseed(1)",
        ] {
            assert_eq!(hints(text.as_bytes()), Footprint::LASTING, "{text}");
        }
        assert_eq!(hints(b"insert into seeds select seed from set_of_seeds"), Footprint::NOTHING);
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
        let unsure: Vec<_> = found.unsure.iter().collect();
        assert_eq!(unsure, [("a.b", ""), ("role", "none"), ("statement_timeout", "5s")]);
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
