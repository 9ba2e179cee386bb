//! From the text of a query to the commands in it.
//!
//! Words are separated by white space and comments; a name with other characters is quoted as in SQL, a value may be quoted
//! as an identifier or as a string. Key words are read in any case. Several commands may stand in one text, with semicolons
//! between them.

use crate::admin::tables::Show;
use crate::error::{Error, Kind};

/// What to do about clients and servers when the process is to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shutdown {
    /// End at once.
    Now,
    /// End when every transaction has ended.
    WaitForServers,
    /// End when every client has left by itself.
    WaitForClients,
}

/// A command of the console.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Nothing.
    Empty,
    /// A table.
    Show(Show),
    /// A setting of the session, which drivers ask for; it has this value.
    Parameter(&'static str, &'static str),
    /// `SELECT 1`, by which drivers see whether a connection is alive.
    SelectOne,
    /// `BEGIN`: drivers open transactions unasked.
    Begin,
    /// `COMMIT`.
    Commit,
    /// `ROLLBACK`.
    Rollback,
    /// A setting of the session, which has no effect here.
    SetSession,
    /// Changes a setting of the process.
    Set {
        /// Its name.
        key: String,
        /// Its new value.
        value: String,
    },
    /// Reads the configuration again.
    Reload,
    /// Pauses a database or all.
    Pause(Option<String>),
    /// Goes on with a database or all.
    Resume(Option<String>),
    /// Refuses new clients of a database.
    Disable(String),
    /// Lets clients in again.
    Enable(String),
    /// Ends all clients of a database, or all, and pauses it.
    Kill(Option<String>),
    /// Ends one client.
    KillClient(u32),
    /// Replaces the servers of a database, or all, as they become free.
    Reconnect(Option<String>),
    /// Waits until servers that are to be closed have been.
    WaitClose(Option<String>),
    /// Has a new process take this one's place.
    Upgrade,
    /// Ends the process.
    Shutdown(Shutdown),
}

/// What drivers ask of a session, by lower-case name.
const PARAMETERS: [(&str, &str); 8] = [
    ("client_encoding", "UTF8"),
    ("datestyle", "ISO, MDY"),
    ("extra_float_digits", "2"),
    ("server_version", concat!(env!("CARGO_PKG_VERSION"), "/bouncer")),
    ("standard_conforming_strings", "on"),
    ("timezone", "UTC"),
    ("transaction_isolation", "read committed"),
    ("default_transaction_isolation", "read committed"),
];

/// Settings of a session that drivers make unasked and that have no meaning here.
const SESSION_SETTINGS: [&str; 9] = [
    "application_name",
    "client_encoding",
    "client_min_messages",
    "datestyle",
    "extra_float_digits",
    "intervalstyle",
    "search_path",
    "statement_timeout",
    "timezone",
];

/// The commands of a text, with the text of each; at least one, which may be [`Command::Empty`]. What is wrong with a
/// command stands in its place: those before it count.
pub fn parse(sql: &str) -> Vec<Result<Command, Error>> {
    let mut commands: Vec<_> = split(sql)
        .into_iter()
        .map(|(text, words)| words.and_then(|words| command(&words)).ok_or_else(|| invalid(text)))
        .filter(|command| !matches!(command, Ok(Command::Empty)))
        .map(|command| command.and_then(check))
        .collect();
    if commands.is_empty() {
        commands.push(Ok(Command::Empty));
    }
    commands
}

fn invalid(text: &str) -> Error {
    Error::new(Kind::Syntax, format!("invalid command '{}', use SHOW HELP;", text.trim()))
}

/// What the words cannot tell: an argument that has no meaning.
fn check(command: Command) -> Result<Command, Error> {
    match command {
        Command::Disable(name) | Command::Enable(name) if name.is_empty() => {
            Err(Error::new(Kind::Syntax, "a database is required"))
        }
        Command::KillClient(0) => Err(Error::new(Kind::Syntax, "invalid client pointer supplied")
            .hint("SHOW CLIENTS has the number of each client in its column id.")),
        command => Ok(command),
    }
}

/// One word of a command.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Word {
    Bare(String),
    Quoted(String),
    Equals,
}

impl Word {
    /// What a bare word says as a key word.
    fn keyword(&self) -> Option<String> {
        match self {
            Word::Bare(word) => Some(word.to_ascii_lowercase()),
            Word::Quoted(_) | Word::Equals => None,
        }
    }

    fn text(&self) -> String {
        match self {
            Word::Bare(word) | Word::Quoted(word) => word.clone(),
            Word::Equals => "=".into(),
        }
    }
}

fn command(words: &[Word]) -> Option<Command> {
    let Some((first, rest)) = words.split_first() else { return Some(Command::Empty) };
    let keywords: Vec<String> = rest.iter().map(|word| word.keyword().unwrap_or_default()).collect();
    let keywords: Vec<&str> = keywords.iter().map(String::as_str).collect();
    // A database, or nothing.
    let name = || match rest {
        [] => Some(None),
        [Word::Equals] => None,
        [name] => Some(Some(name.text())),
        _ => None,
    };
    Some(match (first.keyword()?.as_str(), &keywords[..]) {
        ("show", ["transaction", "isolation", "level"]) => {
            Command::Parameter("transaction_isolation", "read committed")
        }
        ("show", [what]) => match Show::named(what) {
            Some(show) => Command::Show(show),
            None => PARAMETERS
                .iter()
                .find(|(name, _)| name == what)
                .map(|(name, value)| Command::Parameter(name, value))?,
        },
        ("select", ["1"]) => Command::SelectOne,
        ("begin", _) | ("start", ["transaction", ..]) => Command::Begin,
        ("commit" | "end", _) => Command::Commit,
        ("rollback" | "abort", _) => Command::Rollback,
        ("discard", ["all"]) | ("reset", ["all"]) => Command::SetSession,
        ("set", ["session" | "local" | "transaction", ..]) => Command::SetSession,
        ("set", [key, ..]) if SESSION_SETTINGS.contains(key) => Command::SetSession,
        ("set", [key, separator, ..]) if !key.is_empty() && rest.len() >= 2 => {
            if rest[1] != Word::Equals && *separator != "to" {
                return None;
            }
            let value: Vec<String> = rest[2..].iter().map(Word::text).collect();
            Command::Set { key: (*key).to_owned(), value: value.join(" ") }
        }
        ("reload", []) => Command::Reload,
        ("pause", _) => Command::Pause(name()?),
        ("resume", _) => Command::Resume(name()?),
        ("disable", _) => Command::Disable(name()?.unwrap_or_default()),
        ("enable", _) => Command::Enable(name()?.unwrap_or_default()),
        ("kill", _) => Command::Kill(name()?),
        ("kill_client", _) => Command::KillClient(name()?.and_then(|id| id.parse().ok()).unwrap_or_default()),
        ("reconnect", _) => Command::Reconnect(name()?),
        ("wait_close", _) => Command::WaitClose(name()?),
        ("upgrade", []) => Command::Upgrade,
        ("shutdown", []) => Command::Shutdown(Shutdown::Now),
        ("shutdown", ["wait_for_servers"]) => Command::Shutdown(Shutdown::WaitForServers),
        ("shutdown", ["wait_for_clients"]) => Command::Shutdown(Shutdown::WaitForClients),
        _ => return None,
    })
}

/// The commands of a text, each as written and as words; `None` in place of the words where a quote is never closed.
fn split(sql: &str) -> Vec<(&str, Option<Vec<Word>>)> {
    let mut commands = Vec::new();
    let (mut words, mut begin, mut at) = (Some(Vec::new()), 0, 0);
    while let Some(c) = sql[at..].chars().next() {
        let rest = &sql[at..];
        if c == ';' {
            commands.push((&sql[begin..at], words.replace(Vec::new())));
            at += 1;
            begin = at;
        } else if c.is_whitespace() {
            at += c.len_utf8();
        } else if rest.starts_with("--") {
            at += rest.find('\n').unwrap_or(rest.len());
        } else if rest.starts_with("/*") {
            at += comment(rest);
        } else if c == '=' {
            words.iter_mut().for_each(|words| words.push(Word::Equals));
            at += 1;
        } else if c == '\'' || c == '"' {
            match quoted(rest, c) {
                Some((text, length)) => {
                    words.iter_mut().for_each(|words| words.push(Word::Quoted(text.clone())));
                    at += length;
                }
                None => {
                    words = None;
                    at = sql.len();
                }
            }
        } else {
            let ends = |c: char| c.is_whitespace() || matches!(c, ';' | '=' | '\'' | '"');
            let length = rest.find(ends).unwrap_or(rest.len());
            words.iter_mut().for_each(|words| words.push(Word::Bare(rest[..length].to_owned())));
            at += length;
        }
    }
    commands.push((&sql[begin..], words));
    commands
}

/// Length of the comment, which may hold others, at the start of `text`.
fn comment(text: &str) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < text.len() {
        let rest = &text.as_bytes()[at..];
        if rest.starts_with(b"/*") {
            (depth, at) = (depth + 1, at + 2);
        } else if rest.starts_with(b"*/") {
            (depth, at) = (depth - 1, at + 2);
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    text.len()
}

/// What stands between the quotes at the start of `text`, in which a doubled quote stands for one, and its length with
/// them.
fn quoted(text: &str, quote: char) -> Option<(String, usize)> {
    let mut found = String::new();
    let mut chars = text.char_indices().skip(1).peekable();
    while let Some((at, c)) = chars.next() {
        if c != quote {
            found.push(c);
        } else if chars.next_if(|(_, next)| *next == quote).is_some() {
            found.push(quote);
        } else {
            return Some((found, at + 1));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn one(sql: &str) -> Command {
        match &parse(sql)[..] {
            [Ok(command)] => command.clone(),
            other => panic!("{sql}: {other:?}"),
        }
    }

    fn refusal(sql: &str) -> String {
        parse(sql).pop().and_then(Result::err).map(|error| error.message).unwrap_or_default()
    }

    #[test]
    fn commands_are_read_in_any_case_with_comments_and_semicolons() {
        assert_eq!(one("SHOW STATS"), Command::Show(Show::Stats));
        assert_eq!(one("  show\tstats_totals ; "), Command::Show(Show::StatsTotals));
        assert_eq!(one("/* by /* x */ y */ Show -- pools;\n pools;"), Command::Show(Show::Pools));
        assert_eq!(one(";;"), Command::Empty);
        assert_eq!(one(" -- nothing"), Command::Empty);
    }

    #[test]
    fn names_are_taken_as_they_are_written() {
        assert_eq!(one("PAUSE App"), Command::Pause(Some("App".into())));
        assert_eq!(one("pause \"a \"\"b\"\";\""), Command::Pause(Some("a \"b\";".into())));
        assert_eq!(one("kill my-db.1"), Command::Kill(Some("my-db.1".into())));
        assert_eq!(one("RESUME"), Command::Resume(None));
    }

    #[test]
    fn settings_are_set_with_an_equals_sign_or_to() {
        let set = |key: &str, value: &str| Command::Set { key: key.into(), value: value.into() };
        assert_eq!(one("SET default_pool_size = 33"), set("default_pool_size", "33"));
        assert_eq!(one("set default_pool_size='3''4'"), set("default_pool_size", "3'4"));
        assert_eq!(one("SET Pool_Mode to session;"), set("pool_mode", "session"));
        assert_eq!(one("SET admin_users = a, b"), set("admin_users", "a, b"));
        assert_eq!(one("SET server_check_query="), set("server_check_query", ""));
        assert_eq!(one("SET application_name = 'x'"), Command::SetSession);
    }

    #[test]
    fn what_is_not_understood_is_said_with_its_text() {
        assert_eq!(refusal("SHOW nosuch;"), "invalid command 'SHOW nosuch', use SHOW HELP;");
        assert_eq!(refusal("PAUSE app extra"), "invalid command 'PAUSE app extra', use SHOW HELP;");
        assert_eq!(refusal("SUSPEND"), "invalid command 'SUSPEND', use SHOW HELP;");
        assert_eq!(refusal("PAUSE 'app"), "invalid command 'PAUSE 'app', use SHOW HELP;");
        assert_eq!(refusal("SHUTDOWN soon"), "invalid command 'SHUTDOWN soon', use SHOW HELP;");
        assert_eq!(refusal("DISABLE"), "a database is required");
        assert_eq!(refusal("KILL_CLIENT x"), "invalid client pointer supplied");
    }

    #[test]
    fn several_commands_are_read_up_to_what_is_wrong() {
        let commands = parse("SHOW STATE; nonsense; SHOW POOLS");
        assert!(matches!(
            &commands[..],
            [Ok(Command::Show(Show::State)), Err(_), Ok(Command::Show(Show::Pools))]
        ));
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(sql in "([a-z_'\";=/*-]|\\s|\\PC)*") {
            prop_assert!(!parse(&sql).is_empty());
        }
    }
}
