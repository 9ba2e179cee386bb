//! A configuration as it was written, on its way to being checked.
//!
//! Owns what both readers fill: values by section, the place of each, and the problems so far. Single values are right
//! here already, or they became problems; whether they fit together is for `resolve`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::General;
use super::problem::{Place, Problem};
use super::settings::{
    self, DATABASE, DatabaseEntry, GENERAL, NAME, NameEntry, PEER, PeerEntry, USER, UserEntry,
};
use super::units::Scalar;

/// Names that belong to the admin console.
const RESERVED: [&str; 2] = ["pgbouncer", "pgvalet"];

/// A configuration as it was written.
#[derive(Debug, Clone)]
pub(super) struct Draft {
    /// The file on the command line.
    pub(super) path: PathBuf,
    /// Whether it is a pgbouncer.ini.
    pub(super) ini: bool,
    /// What relative paths in it are relative to.
    pub(super) base: PathBuf,
    pub(super) general: General,
    pub(super) databases: BTreeMap<String, DatabaseEntry>,
    pub(super) users: BTreeMap<String, UserEntry>,
    /// By their numbers, as written.
    pub(super) peers: BTreeMap<String, PeerEntry>,
    pub(super) names: BTreeMap<String, NameEntry>,
    /// Where each key and section was set, by its name such as `databases.app.port` or `databases.app`.
    places: BTreeMap<String, Place>,
    pub(super) problems: Vec<Problem>,
    pub(super) warnings: Vec<Problem>,
    /// What an ini says of settings that pgvalet lacks.
    pub(super) passed_over: BTreeMap<String, String>,
    /// The syntax is broken: what seems to be missing may only have been lost.
    pub(super) incomplete: bool,
}

/// A part of the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Section {
    General,
    Database(String),
    User(String),
    Peer(String),
    /// A name by which clients reach pgvalet.
    Name(String),
}

impl Section {
    /// The full name of `key` here.
    pub(super) fn key(&self, key: &str) -> String {
        match self {
            Self::General => key.to_owned(),
            _ => format!("{}.{key}", self.name()),
        }
    }

    /// The full name of the section.
    pub(super) fn name(&self) -> String {
        match self {
            Self::General => String::new(),
            Self::Database(name) => format!("databases.{}", bare(name)),
            Self::User(name) => format!("users.{}", bare(name)),
            Self::Peer(id) => format!("peers.{}", bare(id)),
            Self::Name(name) => format!("client_tls_names.{}", bare(name)),
        }
    }
}

impl Draft {
    /// A draft that says nothing yet; `ini`: with pgbouncer's defaults.
    pub(super) fn new(path: &Path, base: PathBuf, ini: bool) -> Self {
        Self {
            path: path.to_owned(),
            ini,
            base,
            general: settings::defaults(ini),
            databases: BTreeMap::new(),
            users: BTreeMap::new(),
            peers: BTreeMap::new(),
            names: BTreeMap::new(),
            places: BTreeMap::new(),
            problems: Vec::new(),
            warnings: Vec::new(),
            passed_over: BTreeMap::new(),
            incomplete: false,
        }
    }

    /// Opens a section, forgetting what an earlier one of the same name said.
    pub(super) fn open(&mut self, section: &Section, place: &Place) {
        self.places.insert(section.name(), place.clone());
        match section {
            Section::General => {}
            Section::Database(name) => {
                if RESERVED.contains(&name.as_str()) {
                    self.problem(
                        place,
                        section.name(),
                        "this name belongs to the admin console; choose another",
                    );
                }
                self.databases.insert(name.clone(), DatabaseEntry::default());
            }
            Section::User(name) => {
                self.users.insert(name.clone(), UserEntry::default());
            }
            Section::Peer(id) => {
                self.peers.insert(id.clone(), PeerEntry::default());
            }
            Section::Name(name) => {
                self.names.insert(name.clone(), NameEntry::default());
            }
        }
    }

    /// Sets `key` in an opened section, or notes what is wrong with it.
    pub(super) fn set(&mut self, section: &Section, key: &str, scalar: &Scalar, place: &Place) {
        let set = match section {
            Section::General => settings::apply(GENERAL, &mut self.general, key, scalar),
            Section::Database(name) => {
                settings::apply(DATABASE, self.databases.entry(name.clone()).or_default(), key, scalar)
            }
            Section::User(name) => {
                settings::apply(USER, self.users.entry(name.clone()).or_default(), key, scalar)
            }
            Section::Peer(id) => {
                settings::apply(PEER, self.peers.entry(id.clone()).or_default(), key, scalar)
            }
            Section::Name(name) => {
                settings::apply(NAME, self.names.entry(name.clone()).or_default(), key, scalar)
            }
        };
        match set {
            Ok(()) => {
                self.places.insert(section.key(key), place.clone());
            }
            Err(message) => self.problem(place, section.key(key), message),
        }
    }

    /// Where the first of `keys` that was set at all was set; else the file.
    pub(super) fn place(&self, keys: &[&str]) -> Place {
        let set = keys.iter().find_map(|key| self.places.get(*key));
        set.cloned().unwrap_or_else(|| Place::file(&self.path))
    }

    /// Whether the file set `key`.
    pub(super) fn is_set(&self, key: &str) -> bool {
        self.places.contains_key(key)
    }

    /// Forgets where general settings were set, but for `kept`, and gives their names.
    pub(super) fn forget_general(&mut self, kept: &[&str]) -> Vec<String> {
        let is_lost = |key: &String| !key.contains('.') && !kept.contains(&key.as_str());
        let lost: Vec<String> = self.places.keys().filter(|key| is_lost(key)).cloned().collect();
        lost.iter().for_each(|key| drop(self.places.remove(key)));
        lost
    }

    pub(super) fn problem(&mut self, place: &Place, key: impl Into<String>, message: impl Into<String>) {
        self.problems.push(place.problem(key, message));
    }

    /// A problem; in an ini, with which pgbouncer starts all the same, a warning.
    pub(super) fn misfit(&mut self, place: &Place, key: impl Into<String>, message: impl Into<String>) {
        if self.ini {
            self.warning(place, key, message);
        } else {
            self.problem(place, key, message);
        }
    }

    pub(super) fn warning(&mut self, place: &Place, key: impl Into<String>, message: impl Into<String>) {
        self.warnings.push(place.problem(key, message));
    }
}

/// `name` as a part of a dotted key, quoted where TOML wants it.
pub(super) fn bare(name: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
    if !name.is_empty() && name.chars().all(plain) { name.to_owned() } else { super::units::quoted_key(name) }
}
