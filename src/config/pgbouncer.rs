//! Reads a pgbouncer.ini.
//!
//! Owns the ini's syntax (sections, comments, `%include`, connection strings) and what is special about pgbouncer's
//! settings: those that mean one of ours under another name, and those that pgvalet does not have. Where the file says
//! nothing, pgbouncer's defaults hold. Relative paths are taken from the working directory, as pgbouncer does.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::access;
use super::draft::{Draft, Section};
use super::loose;
use super::missing::{self, Missing};
use super::problem::{Place, nearest};
use super::settings;
use super::text;
use super::units::{Flag, Scalar, Unit};
use super::{General, Host, LoadBalance, Reset};

/// Files within files; deeper is taken for a circle.
const MAX_DEPTH: usize = 10;

/// Whether `text` looks like a pgbouncer.ini rather than TOML.
pub(super) fn is_ini(text: &str) -> bool {
    let mut lines = text.lines().map(str::trim);
    lines.any(|line| line == "[pgbouncer]" || line.starts_with("%include ") || line.starts_with(';'))
}

/// Reads `text`, the content of the ini file `path`.
pub(super) fn read(path: &Path, text: &str) -> Draft {
    let mut reader = Reader {
        draft: Draft::new(path, PathBuf::new(), true),
        part: Part::None,
        begun: false,
        told: BTreeSet::new(),
        reset_always: false,
    };
    reader.lines(path, text, 0);
    reader.finish();
    reader.draft
}

/// The section that a line stands in.
enum Part {
    None,
    Pgbouncer,
    Databases,
    Users,
    Peers,
    Unknown,
}

struct Reader {
    draft: Draft,
    part: Part,
    /// Whether there was a `[pgbouncer]`.
    begun: bool,
    /// Settings that pgvalet lacks and that were told already.
    told: BTreeSet<String>,
    reset_always: bool,
}

impl Reader {
    fn lines(&mut self, file: &Path, text: &str, depth: usize) {
        for (index, line) in text.lines().enumerate() {
            let place = Place::line(file, index + 1);
            let line = line.trim();
            if line.is_empty() || line.starts_with(['#', ';']) {
                continue;
            }
            if text::is_broken(line) {
                self.broken(&place, text::NOT_UTF8);
                continue;
            }
            if let Some(name) = line.strip_prefix("%include").filter(|rest| rest.starts_with([' ', '\t'])) {
                self.include(&place, Path::new(name.trim()), depth);
            } else if let Some(rest) = line.strip_prefix('[') {
                match rest.split_once(']') {
                    Some((name, _)) => self.enter(&place, name),
                    None => self.broken(&place, "the ] of the section's name is missing"),
                }
            } else {
                match key_value(line) {
                    Some((key, value)) => self.entry(&place, &key, value),
                    None => {
                        self.broken(&place, "neither [section], key = value, %include file nor a comment")
                    }
                }
            }
        }
    }

    fn include(&mut self, place: &Place, file: &Path, depth: usize) {
        if depth == MAX_DEPTH {
            self.draft.problem(
                place,
                "%include",
                "files include each other more than 10 deep; is it a circle?",
            );
            self.draft.incomplete = true;
            return;
        }
        match text::read(file) {
            Ok(text) => self.lines(file, &text, depth + 1),
            Err(error) => {
                self.draft.problem(place, "%include", format!("cannot read {}: {error}", file.display()));
                self.draft.incomplete = true;
            }
        }
    }

    fn enter(&mut self, place: &Place, name: &str) {
        self.part = match name {
            "pgbouncer" => {
                if std::mem::replace(&mut self.begun, true) {
                    self.begin_again(place);
                }
                Part::Pgbouncer
            }
            "databases" => Part::Databases,
            "users" => Part::Users,
            "peers" => Part::Peers,
            _ => {
                let near = nearest(name, ["pgbouncer", "databases", "users", "peers"]).unwrap_or("pgbouncer");
                self.draft.problem(
                    place,
                    format!("[{name}]"),
                    format!("unknown section; did you mean [{near}]?"),
                );
                Part::Unknown
            }
        };
    }

    /// A second `[pgbouncer]`: pgbouncer starts from its defaults again, but for what has none.
    fn begin_again(&mut self, place: &Place) {
        const KEPT: [&str; 6] =
            ["user", "auth_file", "auth_ident_file", "auth_user", "auth_dbname", "auth_ldap_options"];
        let old = std::mem::replace(&mut self.draft.general, settings::defaults(true));
        self.draft.general = General {
            user: old.user,
            auth_file: old.auth_file,
            auth_ident_file: old.auth_ident_file,
            auth_user: old.auth_user,
            auth_dbname: old.auth_dbname,
            auth_ldap_options: old.auth_ldap_options,
            ..settings::defaults(true)
        };
        let mut lost = self.draft.forget_general(&KEPT);
        lost.extend(std::mem::take(&mut self.draft.passed_over).into_keys());
        if std::mem::take(&mut self.reset_always) {
            lost.push("server_reset_query_always".into());
        }
        if !lost.is_empty() {
            let message = format!(
                "there was one already, and as in pgbouncer this one takes back what it set: {}; write one [pgbouncer]",
                lost.join(", ")
            );
            self.draft.warning(place, "[pgbouncer]", message);
        }
    }

    fn broken(&mut self, place: &Place, message: &str) {
        self.draft.problem(place, "", message);
        self.draft.incomplete = true;
    }

    fn entry(&mut self, place: &Place, key: &str, value: &str) {
        match self.part {
            Part::None => {
                self.broken(place, "a setting before the first section; write [pgbouncer] above it")
            }
            Part::Pgbouncer => self.general(place, key, value),
            Part::Databases => self.pairs(place, Section::Database(key.to_owned()), value),
            Part::Users => self.pairs(place, Section::User(key.to_owned()), value),
            Part::Peers => self.pairs(place, Section::Peer(key.to_owned()), value),
            Part::Unknown => {}
        }
    }

    fn general(&mut self, place: &Place, key: &str, value: &str) {
        let (meant, why) = loose::general(key, value);
        let value = &*meant;
        if let Some(why) = why {
            self.tell(place, key, why);
        }
        let scalar = Scalar::Text(value.to_owned());
        if key == "server_reset_query_always" {
            match Flag::read(&scalar) {
                Ok(always) => self.reset_always = always,
                Err(message) => self.draft.problem(place, key, message),
            }
            return;
        }
        if key == "unix_socket_dir" && !value.is_empty() && !value.starts_with('@') {
            // Like all paths of an ini, from the working directory.
            let directory = access::absolute(Path::new(value)).display().to_string();
            return self.draft.set(&Section::General, key, &Scalar::Text(directory), place);
        }
        if missing::why(key).is_some() {
            self.draft.passed_over.insert(key.to_owned(), value.to_owned());
        }
        match missing::general(key, value) {
            None => self.draft.set(&Section::General, key, &scalar, place),
            Some(Missing::Harmless) => {}
            Some(Missing::Told(why)) => self.tell(place, key, why),
        }
    }

    /// A line of `[databases]`, `[users]` or `[peers]`: a name and its connection string. A later line replaces an earlier one.
    fn pairs(&mut self, place: &Place, section: Section, text: &str) {
        self.draft.open(&section, place);
        let pairs = match pairs(text) {
            Ok(pairs) => pairs,
            Err(message) => return self.draft.problem(place, section.name(), message),
        };
        for (key, value) in pairs {
            let key = if key == "reserve_pool" { "reserve_pool_size".into() } else { key };
            if !missing::is_unset(&key, &value) {
                self.draft.set(&section, &key, &Scalar::Text(value), place);
            }
        }
    }

    /// Warns of `key`, once.
    fn tell(&mut self, place: &Place, key: &str, why: &str) {
        if self.told.insert(key.to_owned()) {
            self.draft.warning(place, key, why);
        }
    }

    /// What follows from several lines, or from the lack of one.
    fn finish(&mut self) {
        let draft = &mut self.draft;
        if !draft.is_set("reset") {
            // Our automatic reset replaces the bare `server_reset_query`: it gives at least the same, in every mode.
            if draft.general.server_reset_query.is_empty() {
                draft.general.reset = Reset::Never;
            } else if self.reset_always {
                draft.general.reset = Reset::Always;
            }
        }
        let several = |hosts: &Option<Vec<Host>>| hosts.as_ref().is_some_and(|hosts| hosts.len() > 1);
        for database in draft.databases.values_mut().filter(|database| several(&database.host)) {
            database.load_balance_hosts.get_or_insert(LoadBalance::RoundRobin);
        }
        let mut homeless = Vec::new();
        for (name, database) in draft.databases.iter_mut().filter(|(_, database)| database.host.is_none()) {
            match &draft.general.unix_socket_dir {
                Some(directory) => database.host = Some(vec![Host::Unix(directory.clone())]),
                None => homeless.push(Section::Database(name.clone())),
            }
        }
        for section in homeless {
            let place = draft.place(&[&section.name()]);
            draft.problem(
                &place,
                section.key("host"),
                "not set, and unix_socket_dir is empty; write host=127.0.0.1",
            );
        }
    }
}

/// Splits `key = value`; the key may be a name in double quotes.
fn key_value(line: &str) -> Option<(String, &str)> {
    let (key, rest) = match line.strip_prefix('"') {
        Some(mut rest) => {
            let mut key = String::new();
            loop {
                let (before, after) = rest.split_once('"')?;
                key.push_str(before);
                match after.strip_prefix('"') {
                    Some(after) => {
                        key.push('"');
                        rest = after;
                    }
                    None => break (key, after),
                }
            }
        }
        None => {
            let allowed = |c: char| c.is_alphanumeric() || matches!(c, '_' | '.' | '-' | '*');
            let end = line.find(|c| !allowed(c))?;
            (line[..end].to_owned(), &line[end..])
        }
    };
    let value = rest.trim_start().strip_prefix('=')?.trim();
    (!key.is_empty()).then_some((key, value))
}

/// Splits a connection string. Values may stand in single quotes, with a quote inside doubled; a backslash is a character
/// like any other, other than to libpq.
fn pairs(text: &str) -> Result<Vec<(String, String)>, String> {
    let mut pairs: Vec<(String, String)> = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let end = rest.find(|c: char| c == '=' || c.is_whitespace()).unwrap_or(rest.len());
        let key = &rest[..end];
        let after = rest[end..].trim_start().strip_prefix('=');
        let Some(after) = after.filter(|_| !key.is_empty()) else {
            // The word itself stays untold: it may be the rest of a password.
            let place = pairs
                .last()
                .map_or("the line begins".to_owned(), |(key, _)| format!("{key}=... is followed"));
            return Err(format!(
                "{place} by a word that is no key=value pair; a value with spaces needs single quotes"
            ));
        };
        let (value, after) =
            value(after.trim_start()).ok_or_else(|| format!("the quote after {key}= is not closed"))?;
        if value.is_empty() {
            return Err(format!("{key} is empty; write a value or leave it out"));
        }
        pairs.push((key.to_owned(), value));
        rest = after.trim_start();
    }
    Ok(pairs)
}

/// The value that `text` starts with, and what follows it.
fn value(text: &str) -> Option<(String, &str)> {
    let Some(quoted) = text.strip_prefix('\'') else {
        let end = text.find(char::is_whitespace).unwrap_or(text.len());
        return Some((text[..end].to_owned(), &text[end..]));
    };
    let mut value = String::new();
    let mut chars = quoted.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        match (c, chars.peek().copied()) {
            ('\'', Some((_, '\''))) => value.extend(chars.next().map(|(_, c)| c)),
            ('\'', _) => return Some((value, &quoted[at + 1..])),
            _ => value.push(c),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn keys_are_names_or_quoted() {
        assert_eq!(key_value("app = host=a"), Some(("app".into(), "host=a")));
        assert_eq!(key_value("*="), Some(("*".into(), "")));
        assert_eq!(key_value(r#""my ""db"" 1" = x"#), Some((r#"my "db" 1"#.into(), "x")));
        assert_eq!(key_value("two words = x"), None);
        assert_eq!(key_value("= x"), None);
        assert_eq!(key_value(r#""open = x"#), None);
    }

    #[test]
    fn connection_strings_take_doubled_quotes_and_no_escapes() {
        let read = pairs(r"host = 10.0.0.1 password='it''s \\ b\c\'  dbname=a\b").unwrap();
        let expected = [("host", "10.0.0.1"), ("password", r"it's \\ b\c\"), ("dbname", r"a\b")];
        assert_eq!(read, expected.map(|(key, value)| (key.to_owned(), value.to_owned())));
        assert_eq!(pairs("").unwrap(), []);
        for wrong in ["host", "host=", "host='open", "=x", "host=''", r"password='a\'b'"] {
            assert!(pairs(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn the_format_shows_in_the_content() {
        assert!(is_ini("; hello\n[databases]\n"));
        assert!(is_ini("# hello\n[databases]\na =\n[pgbouncer]\n"));
        assert!(!is_ini("# hello\n[databases.app]\ndbname = \"x\"\n"));
    }

    proptest! {
        #[test]
        fn no_text_makes_the_reader_panic(text in "([\\[\\]%'\"=;\\\\ a-z\n]|\\PC)*") {
            let _ = (pairs(&text), key_value(&text));
            let _ = read(Path::new("x.ini"), &text.replace("%include", ""));
        }

        #[test]
        fn quoted_values_come_back(value in ".+") {
            let text = format!("password='{}' port=1", value.replace('\'', "''"));
            prop_assert_eq!(&pairs(&text).unwrap()[0].1, &value);
        }
    }
}
