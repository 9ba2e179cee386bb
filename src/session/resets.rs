//! Reads which settings a text takes back to their defaults: RESET, and SET ... TO DEFAULT.
//!
//! A client's defaults are what it logged in with, and the server does not know them. What cannot be read resets nothing.

use super::lexer::{Kind, Lexer, Token};

/// The settings that a text takes back to their defaults.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Resets {
    /// RESET ALL is among them.
    pub all: bool,
    /// Names in lower case.
    pub names: Vec<String>,
    /// Something in the text failed: it may not have come to the resets, or taken them back.
    pub failed: bool,
}

impl Resets {
    /// What `sql` resets.
    #[must_use]
    pub fn of(sql: &[u8]) -> Resets {
        let mut lexer = Lexer::new(sql, false);
        let mut found = Resets::default();
        let mut statement = Vec::new();
        loop {
            let token = lexer.next_token();
            match token.kind {
                Kind::Unknown => return Resets::default(),
                Kind::Semicolon | Kind::End => {
                    found.note(&statement);
                    statement.clear();
                    if token.kind == Kind::End {
                        return found;
                    }
                }
                // A longer statement is none of these.
                _ if statement.len() < 8 => statement.push(token),
                _ => {}
            }
        }
    }

    /// What resets all settings.
    #[must_use]
    pub fn everything() -> Resets {
        Resets { all: true, ..Resets::default() }
    }

    /// Adds what others reset.
    pub fn join(&mut self, other: Resets) {
        self.all |= other.all;
        self.failed |= other.failed;
        self.names.extend(other.names);
    }

    /// Whether it resets nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        !self.all && self.names.is_empty()
    }

    /// Whether it resets the setting of this name, in lower case.
    #[must_use]
    pub fn contains(&self, name: &str) -> bool {
        self.all || self.names.iter().any(|other| other == name)
    }

    fn note(&mut self, statement: &[Token<'_>]) {
        let rest = match statement {
            [first, rest @ ..] if is(first, "reset") => rest,
            [first, rest @ .., last] if is(first, "set") && is(last, "default") => match rest {
                [session, rest @ ..] if is(session, "session") => rest,
                rest => rest,
            },
            _ => return,
        };
        match rest {
            [all] if is(all, "all") => self.all = true,
            [time, zone, ..] if is(time, "time") && is(zone, "zone") => self.names.push("timezone".into()),
            [first, ..] if is(first, "local") => {}
            [first, rest @ ..] if is_name(first) => {
                let mut name = text(first);
                for pair in rest.chunks_exact(2) {
                    if pair[0].kind == Kind::Dot && is_name(&pair[1]) {
                        name = format!("{name}.{}", text(&pair[1]));
                    }
                }
                self.names.push(name);
            }
            _ => {}
        }
    }
}

fn is(token: &Token<'_>, word: &str) -> bool {
    token.kind == Kind::Word && token.text.eq_ignore_ascii_case(word.as_bytes())
}

fn is_name(token: &Token<'_>) -> bool {
    matches!(token.kind, Kind::Word | Kind::Quoted)
}

fn text(token: &Token<'_>) -> String {
    String::from_utf8_lossy(token.text).to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_to_go_back_to_a_default_is_read() {
        for (sql, names) in [
            ("RESET TimeZone", &["timezone"][..]),
            ("reset time zone", &["timezone"]),
            ("set time zone default", &["timezone"]),
            ("SET session work_mem TO DEFAULT; reset \"DateStyle\"", &["work_mem", "datestyle"]),
            ("set a.b = default", &["a.b"]),
            ("reset a.b", &["a.b"]),
            ("set local work_mem to default", &[]),
            ("set work_mem = 1; select 'reset x'", &[]),
        ] {
            assert_eq!(Resets::of(sql.as_bytes()).names, names, "{sql}");
        }
        assert!(Resets::of(b"select 1; RESET ALL").all);
        assert!(Resets::of(b"reset x; select 'never closed").is_empty());
        assert!(Resets::of(b"reset all").contains("anything"));
    }
}
