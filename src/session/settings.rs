//! The settings of a session, and what a server reports of them.
//!
//! [`Settings`] is what a client has set on top of what every session of its pool starts with. A server carries the
//! settings in force on it; equal pointers mean that nothing has to be sent. [`Reported`] is what PostgreSQL tells of
//! itself by ParameterStatus, and what a client has been told.

use std::fmt::Write as _;
use std::sync::Arc;

/// Parameters that a client can set and whose value some version of PostgreSQL reports: where it does, a change is seen
/// without understanding any SQL.
pub const FOLLOWED: [&str; 9] = [
    "application_name",
    "client_encoding",
    "DateStyle",
    "default_transaction_read_only",
    "IntervalStyle",
    "scram_iterations",
    "search_path",
    "standard_conforming_strings",
    "TimeZone",
];

/// Settings that decide how a text is read, in lower case and order.
const READING: [&str; 16] = [
    "array_nulls",
    "backslash_quote",
    "client_encoding",
    "datestyle",
    "default_text_search_config",
    "intervalstyle",
    "lc_monetary",
    "lc_numeric",
    "lc_time",
    ROLE,
    "search_path",
    SESSION_AUTHORIZATION,
    "standard_conforming_strings",
    "timezone",
    "transform_null_equals",
    "xmloption",
];

/// Asks which settings decide how a text is read now: their names in lower case, their values in hexadecimal, and whether the
/// session has set them. Roles do not show among them.
#[must_use]
pub fn reading_question() -> String {
    format!(
        "SELECT pg_catalog.lower(name), pg_catalog.encode(pg_catalog.convert_to(setting, 'UTF8'), 'hex'), \
         source OPERATOR(pg_catalog.=) 'session' FROM pg_catalog.pg_settings \
         WHERE pg_catalog.lower(name) OPERATOR(pg_catalog.=) ANY ('{{{}}}'::pg_catalog.text[])",
        READING.join(",")
    )
}

/// Settings whose values a server can refuse though another has taken them: it depends on the catalog, on rights, or on what
/// the session has done before.
const REFUSABLE: [&str; 6] = [
    "default_table_access_method",
    "default_tablespace",
    "default_text_search_config",
    "session_replication_role",
    "temp_buffers",
    "temp_tablespaces",
];

/// Whether a server can refuse a value of this setting, given in lower case, though another one has taken it. (A
/// procedural language takes the names that begin with its own when it is loaded.)
#[must_use]
pub fn is_refusable(name: &str) -> bool {
    REFUSABLE.contains(&name) || name.starts_with("pl") && name.contains('.')
}

/// The setting that a client names itself by; servers take any value.
const NAME: &str = "application_name";
/// Bytes of it that count (PostgreSQL's NAMEDATALEN - 1).
const MAX_NAME: usize = 63;
/// The setting by which PostgreSQL ends a session that is idle for too long.
const IDLE_TIMEOUT: &str = "idle_session_timeout";
/// What `SET ROLE` sets, as a name in [`Settings`].
pub const ROLE: &str = "role";
/// What `SET SESSION AUTHORIZATION` sets, as a name in [`Settings`].
pub const SESSION_AUTHORIZATION: &str = "session_authorization";

/// Whether it is one of those two, given in lower case.
#[must_use]
pub fn is_role(name: &str) -> bool {
    matches!(name, ROLE | SESSION_AUTHORIZATION)
}

/// The name under which a followed parameter is reported, for any spelling of it.
#[must_use]
pub fn followed(name: &str) -> Option<&'static str> {
    FOLLOWED.into_iter().find(|known| known.eq_ignore_ascii_case(name))
}

/// Settings on top of the pool's, sorted by lower-case name. Cheap to compare and to share.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Settings {
    entries: Vec<(Box<str>, Box<str>)>,
    /// `idle_session_timeout` is among them: it is looked for at the end of every transaction.
    ends_idle: bool,
    /// One of them takes rights that may be taken away.
    takes_rights: bool,
}

impl Settings {
    /// The value set for `name`, given in lower case.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        let at = self.entries.binary_search_by(|(key, _)| (**key).cmp(name)).ok()?;
        Some(&self.entries[at].1)
    }

    /// Sets `name` to `value`, whatever it was.
    pub fn set(&mut self, name: &str, value: &str) {
        let name = name.to_ascii_lowercase();
        self.ends_idle |= name == IDLE_TIMEOUT;
        match self.entries.binary_search_by(|(key, _)| (**key).cmp(&name)) {
            Ok(at) => self.entries[at].1 = value.into(),
            Err(at) => self.entries.insert(at, (name.into(), value.into())),
        }
    }

    /// Notes that one of them takes rights that may be taken away.
    pub fn note_rights(&mut self) {
        self.takes_rights = true;
    }

    /// Whether a server may refuse one of them although it was in force on others.
    #[must_use]
    pub fn takes_rights(&self) -> bool {
        self.takes_rights
    }

    /// Names, in lower case, and values.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.entries.iter().map(|(name, value)| (&**name, &**value))
    }

    /// Takes `name`, given in lower case, out.
    pub fn unset(&mut self, name: &str) {
        self.entries.retain(|(key, _)| &**key != name);
        self.ends_idle &= name != IDLE_TIMEOUT;
    }

    /// Whether a session with these settings can end while nobody uses it.
    #[inline]
    #[must_use]
    pub fn ends_idle(&self) -> bool {
        self.ends_idle
    }

    /// What of it decides how texts are read, with what a server has just reported of that: it can be set for a
    /// transaction only.
    #[must_use]
    pub fn reading(&self, reported: &Reported) -> Settings {
        let mut settings = Settings::default();
        for name in READING {
            if let Some(value) = self.get(name) {
                settings.set(name, value);
            }
        }
        for name in FOLLOWED {
            let key = name.to_ascii_lowercase();
            if let Some(Ok(value)) = reported.get(name.as_bytes()).map(std::str::from_utf8)
                && READING.contains(&&*key)
            {
                settings.set(&key, value);
            }
        }
        settings
    }

    /// Whether a role or session authorization is set.
    #[must_use]
    pub fn has_role(&self) -> bool {
        self.get(ROLE).is_some() || self.get(SESSION_AUTHORIZATION).is_some()
    }

    /// What `wanted` sets and `self` does not set to the same value.
    pub fn changes<'a>(&'a self, wanted: &'a Settings) -> impl Iterator<Item = (&'a str, &'a str)> {
        wanted.iter().filter(|(name, value)| self.get(name) != Some(value))
    }

    /// The settings of a client that differs by an empty `application_name` only, and the name. `None` where there is none, or
    /// one that a server would report otherwise than it was given: it cuts and replaces what is too long or not ASCII.
    #[must_use]
    pub fn without_plain_name(&self) -> Option<(Settings, &str)> {
        let name = self.get(NAME).filter(|name| !name.is_empty() && name.len() <= MAX_NAME)?;
        let is_plain = name.bytes().all(|byte| (b' '..=b'~').contains(&byte));
        is_plain.then(|| {
            let mut nameless = self.clone();
            nameless.set(NAME, "");
            (nameless, name)
        })
    }

    /// Whether nothing is set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The statements that turn a session with `self` in force into one with `wanted`: one simple Query.
    ///
    /// `set_config` is used and not SET, because it takes the value of a list (search_path) as it stands. A role is left
    /// first and taken last: it may lack the right to set the rest.
    #[must_use]
    pub fn difference(&self, wanted: &Settings) -> String {
        let mut sql = String::new();
        let roles = |settings: &'_ Settings| {
            [SESSION_AUTHORIZATION, ROLE].map(|name| settings.get(name).map(|value| (name, value.to_owned())))
        };
        let (had, wants) = (roles(self), roles(wanted));
        let leaves = had != [None, None] && self != wanted;
        if self.entries.iter().any(|(name, _)| name.starts_with("default_transaction_")) && self != wanted {
            // What one client has set for its transactions must not have this one wait.
            sql.push_str("SET TRANSACTION ISOLATION LEVEL READ COMMITTED, NOT DEFERRABLE;");
        }
        if self.get("statement_timeout").is_some() && self != wanted {
            sql.push_str("SET LOCAL statement_timeout = 0;");
        }
        if leaves {
            sql.push_str("RESET ROLE;RESET SESSION AUTHORIZATION;");
        }
        let drops = |name: &str| !is_role(name) && wanted.get(name).is_none();
        let resets = self.iter().any(|(name, _)| drops(name));
        if resets {
            // Of single settings PostgreSQL asks whether they may be reset now; this always works.
            sql.push_str("RESET ALL;");
        }
        let mut separator = "SELECT ";
        let wanted_now = wanted.iter().filter(|(name, value)| resets || self.get(name) != Some(value));
        for (name, value) in wanted_now.filter(|(name, _)| !is_role(name)) {
            let _ = write!(sql, "{separator}{}", set_config(name, value, false));
            separator = ", ";
        }
        if leaves || had == [None, None] {
            for (name, value) in wants.into_iter().flatten() {
                if separator == ", " {
                    sql.push(';');
                }
                let _ = write!(sql, "SELECT {}", set_config(name, &value, false));
                separator = ", ";
            }
        }
        sql
    }

    /// Statements, each to be run by itself, after which texts are read as with `wanted` in force instead of `self`, until
    /// the transaction ends or the opposite steps are taken. Both are what [`reading`](Settings::reading) gave; roles stay.
    #[must_use]
    pub fn reading_steps(&self, wanted: &Settings) -> Vec<String> {
        let matters = |name: &str| !is_role(name);
        let dropped = self.entries.iter().filter(|(name, _)| matters(name) && wanted.get(name).is_none());
        let resets = dropped.map(|(name, _)| format!("SET LOCAL {} TO DEFAULT", quote_setting(name)));
        let changed = self.changes(wanted).filter(|(name, _)| matters(name));
        let changed: Vec<String> = changed.map(|(name, value)| set_config(name, value, true)).collect();
        let sets = (!changed.is_empty()).then(|| format!("SELECT {}", changed.join(", ")));
        resets.chain(sets).collect()
    }
}

/// The name of a setting as SQL writes it. A custom name such as a.b is two identifiers.
fn quote_setting(name: &str) -> String {
    name.split('.').map(quote_identifier).collect::<Vec<_>>().join(".")
}

fn set_config(name: &str, value: &str, is_local: bool) -> String {
    format!("pg_catalog.set_config({}, {}, {is_local})", quote_literal(name), quote_literal(value))
}

/// A literal that means the same whatever `standard_conforming_strings` is.
#[must_use]
pub fn quote_literal(text: &str) -> String {
    if !text.is_ascii() {
        // In some client encodings a byte of it could swallow a quote or a backslash: it travels as digits.
        let hex: String = text.bytes().map(|byte| format!("{byte:02x}")).collect();
        return format!("pg_catalog.convert_from(pg_catalog.decode('{hex}', 'hex'), 'UTF8')");
    }
    let prefix = if text.contains('\\') { "E" } else { "" };
    format!("{prefix}'{}'", text.replace('\\', "\\\\").replace('\'', "''"))
}

fn quote_identifier(text: &str) -> String {
    format!("\"{}\"", text.replace('"', "\"\""))
}

/// Name and value of a parameter, in the encoding they came in.
type Parameter = (Box<[u8]>, Box<[u8]>);

/// What a server has reported by ParameterStatus, sorted by name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reported {
    entries: Vec<Parameter>,
}

impl Reported {
    /// The value last reported for `name`.
    #[must_use]
    pub fn get(&self, name: &[u8]) -> Option<&[u8]> {
        let at = self.entries.binary_search_by(|(key, _)| (**key).cmp(name)).ok()?;
        Some(&self.entries[at].1)
    }

    /// Takes a report in; whether it says something new.
    pub fn record(this: &mut Arc<Reported>, name: &[u8], value: &[u8]) -> bool {
        match this.entries.binary_search_by(|(key, _)| (**key).cmp(name)) {
            Ok(at) if *this.entries[at].1 == *value => return false,
            Ok(at) => Arc::make_mut(this).entries[at].1 = value.into(),
            Err(at) => Arc::make_mut(this).entries.insert(at, (name.into(), value.into())),
        }
        true
    }

    /// What is reported to a client that differs by its `application_name` only, if servers report that.
    #[must_use]
    pub fn renamed(self: &Arc<Reported>, name: &str) -> Arc<Reported> {
        let mut renamed = self.clone();
        if self.get(NAME.as_bytes()).is_some() {
            Self::record(&mut renamed, NAME.as_bytes(), name.as_bytes());
        }
        renamed
    }

    /// All names and values.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.entries.iter().map(|(name, value)| (&**name, &**value))
    }

    /// What someone who was told `told` has to be told now.
    pub fn news<'a>(&'a self, told: &'a Reported) -> impl Iterator<Item = (&'a [u8], &'a [u8])> {
        self.iter().filter(|(name, value)| told.get(name) != Some(value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(list: &[(&str, &str)]) -> Settings {
        let mut settings = Settings::default();
        list.iter().for_each(|(name, value)| settings.set(name, value));
        settings
    }

    #[test]
    fn only_the_difference_is_sent() {
        let now = settings(&[("DateStyle", "ISO"), ("work_mem", "1MB"), ("a.b", "x")]);
        let wanted = settings(&[("datestyle", "German"), ("work_mem", "1MB"), ("TimeZone", "UTC")]);
        assert_eq!(
            now.difference(&wanted),
            "RESET ALL;SELECT pg_catalog.set_config('datestyle', 'German', false), \
             pg_catalog.set_config('timezone', 'UTC', false), pg_catalog.set_config('work_mem', '1MB', false)"
        );
        let more = settings(&[("DateStyle", "ISO"), ("work_mem", "2MB"), ("a.b", "x"), ("role", "boss")]);
        assert_eq!(
            now.difference(&more),
            "SELECT pg_catalog.set_config('work_mem', '2MB', false);SELECT pg_catalog.set_config('role', 'boss', false)"
        );
        assert_eq!(
            more.difference(&now),
            "RESET ROLE;RESET SESSION AUTHORIZATION;SELECT pg_catalog.set_config('work_mem', '1MB', false)"
        );
        assert_eq!(now.difference(&now), "");
    }

    #[test]
    fn values_cannot_break_out_of_their_quotes() {
        let wanted = settings(&[("application_name", r"a'b\"), ("search_path", "\"$user\", public")]);
        assert_eq!(
            Settings::default().difference(&wanted),
            r#"SELECT pg_catalog.set_config('application_name', E'a''b\\', false), "#.to_owned()
                + r#"pg_catalog.set_config('search_path', '"$user", public', false)"#
        );
    }

    #[test]
    fn what_is_not_ascii_travels_as_digits() {
        let wanted = settings(&[("application_name", "é")]);
        assert_eq!(
            Settings::default().difference(&wanted),
            "SELECT pg_catalog.set_config('application_name', \
             pg_catalog.convert_from(pg_catalog.decode('c3a9', 'hex'), 'UTF8'), false)"
        );
    }

    #[test]
    fn only_a_name_that_servers_report_as_it_is_can_be_told_apart() {
        let named = |name: &str| settings(&[("application_name", name), ("work_mem", "1MB")]);
        let longest = "x".repeat(MAX_NAME);
        for plain in ["a b's \\ ~", &longest] {
            let settings = named(plain);
            assert_eq!(settings.without_plain_name(), Some((named(""), plain)));
        }
        for other in ["", "é", "a\nb", &format!("{longest}x")] {
            assert_eq!(named(other).without_plain_name(), None, "{other:?}");
        }
        assert_eq!(settings(&[("work_mem", "1MB")]).without_plain_name(), None);
    }

    #[test]
    fn a_report_of_the_same_value_is_no_news() {
        let mut server = Arc::new(Reported::default());
        assert!(Reported::record(&mut server, b"TimeZone", b"UTC"));
        let told = server.clone();
        assert!(!Reported::record(&mut server, b"TimeZone", b"UTC"));
        assert!(Arc::ptr_eq(&told, &server));
        assert!(Reported::record(&mut server, b"TimeZone", b"Asia/Tokyo"));
        assert_eq!(server.news(&told).collect::<Vec<_>>(), [(&b"TimeZone"[..], &b"Asia/Tokyo"[..])]);
        assert_eq!(told.get(b"TimeZone"), Some(&b"UTC"[..]));
    }
}
