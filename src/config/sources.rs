//! Secrets that stand somewhere else than in the configuration: in a file, in the environment, or in what a command prints.
//!
//! Owns the settings `password_file`, `password_env` and `password_command`. What does not change while pgvalet runs is read
//! here; the file and the command of a database are kept for each login to its server.

use std::path::{Path, PathBuf};
use std::time::Duration;

use zeroize::Zeroizing;

use super::access;
use super::draft::{Draft, Section};
use super::units::{Password, Scalar, Unit};

/// How long the output of a `password_command` is used, if the configuration does not say.
const CACHE_TIME: Duration = Duration::from_secs(60);

/// Where the password for a server comes from, at each login.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PasswordSource {
    /// A file that holds nothing else; an absolute path.
    File(PathBuf),
    /// A command for the shell that prints it.
    Command {
        /// The command.
        command: String,
        /// How long its output is used.
        cache_time: Duration,
    },
}

/// The settings of one database or user.
struct Settings {
    section: Section,
    password: bool,
    file: Option<PathBuf>,
    variable: Option<String>,
    command: bool,
}

/// Brings the secrets in that can be had now, and checks the others.
pub(super) fn read(draft: &mut Draft) {
    let databases = draft.databases.iter().map(|(name, entry)| Settings {
        section: Section::Database(name.clone()),
        password: entry.password.is_some(),
        file: entry.password_file.clone().flatten(),
        variable: entry.password_env.clone(),
        command: entry.password_command.is_some(),
    });
    let users = draft.users.iter().map(|(name, entry)| Settings {
        section: Section::User(name.clone()),
        password: entry.password.is_some(),
        file: entry.password_file.clone().flatten(),
        variable: entry.password_env.clone(),
        command: false,
    });
    let all: Vec<Settings> = databases.chain(users).collect();
    warn_of_open_configuration(draft, &all);
    for settings in all {
        read_one(draft, &settings);
    }
}

fn read_one(draft: &mut Draft, settings: &Settings) {
    let Settings { section, password, file, variable, command } = settings;
    let count = [*password, file.is_some(), variable.is_some(), *command].iter().filter(|set| **set).count();
    if count > 1 {
        let place = draft.place(&[&section.name()]);
        let message =
            "password, password_file, password_env and password_command exclude each other; keep one";
        draft.problem(&place, section.key("password"), message);
        return;
    }
    let (key, text) = match (file, variable) {
        (Some(file), _) => {
            let path = access::absolute(&draft.base.join(file));
            if let Section::Database(name) = section
                && let Some(entry) = draft.databases.get_mut(name)
            {
                entry.password_file = Some(Some(path.clone()));
            }
            let key = section.key("password_file");
            let place = draft.place(&[&key]);
            access::warn_if_open(draft, &place, &key, &path);
            let text = std::fs::read_to_string(&path).map(Zeroizing::new);
            (key, text.map_err(|error| format!("cannot read {}: {error}", path.display())))
        }
        (None, Some(variable)) => {
            let message = |_| format!("the environment has no variable {variable} with text in it");
            (section.key("password_env"), std::env::var(variable).map(Zeroizing::new).map_err(message))
        }
        (None, None) => return,
    };
    let secret = text.and_then(|text| Password::read(&Scalar::Text(trimmed(&text).to_owned())));
    match (secret, section) {
        (Ok(secret), Section::User(name)) => {
            if let Some(entry) = draft.users.get_mut(name) {
                entry.password = Some(secret);
            }
        }
        // A file may have another password by the time of a login.
        (Ok(secret), Section::Database(name)) if file.is_none() => {
            if let Some(entry) = draft.databases.get_mut(name) {
                entry.password = Some(secret);
            }
        }
        (Ok(_), _) => {}
        (Err(message), _) => {
            let place = draft.place(&[&key]);
            draft.problem(&place, &key, message);
            // Whoever seems to have no password would only be told of this again.
            draft.incomplete = true;
        }
    }
}

/// What a database's entry says of its password at each login.
pub(super) fn of_database(
    file: Option<Option<PathBuf>>,
    command: Option<String>,
    cache_time: Option<Duration>,
) -> Option<PasswordSource> {
    let cache_time = cache_time.unwrap_or(CACHE_TIME);
    let command = command.map(|command| PasswordSource::Command { command, cache_time });
    file.flatten().map(PasswordSource::File).or(command)
}

/// The text without the line end that editors and commands put behind it.
pub fn trimmed(text: &str) -> &str {
    let text = text.strip_suffix('\n').unwrap_or(text);
    text.strip_suffix('\r').unwrap_or(text)
}

fn warn_of_open_configuration(draft: &mut Draft, all: &[Settings]) {
    if all.iter().any(|settings| settings.password) {
        let path: &Path = &draft.path.clone();
        let place = super::problem::Place::file(path);
        access::warn_if_open(draft, &place, "password", path);
    }
}
