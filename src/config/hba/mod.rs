//! Reads pg_hba.conf and pg_ident.conf: who may log in from where, and how they prove it.
//!
//! Owns the files' format and what their lines mean, as typed rules. Does not own which rule holds for a connection:
//! that is `auth::hba`. Both formats are PostgreSQL's ("The pg_hba.conf File", "User Name Maps"); a method that pgvalet
//! does not have is an error and never a weaker method. Every problem is told with its file and line.

use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::problem::{Place, Problem};

mod ident;
pub mod ldap;
mod line;
pub mod oauth;
mod options;
mod tokens;

pub use ldap::Ldap;
pub use oauth::OAuth;

/// What is said of the method pam where it is not built in.
pub const NO_PAM: &str =
    "this pgvalet was built without pam; build it with the feature pam, which needs libpam";

/// The rules of a pg_hba.conf and the maps of a pg_ident.conf, in the order of the files.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Hba {
    /// The first rule that matches decides.
    pub rules: Vec<Rule>,
    /// Lines of all maps.
    pub maps: Vec<Mapping>,
}

/// A line of pg_hba.conf.
#[derive(Debug, Clone, PartialEq)]
pub struct Rule {
    /// Where it stands, as `file:line`.
    pub place: String,
    /// Connections that it is about.
    pub origin: Origin,
    /// Databases that it is about: any of these.
    pub databases: Vec<DatabasePattern>,
    /// Users that it is about: any of these.
    pub users: Vec<UserPattern>,
    /// How they prove who they are.
    pub method: Method,
    /// What is asked of their certificate besides.
    pub client_certificate: ClientCertificate,
}

/// Where connections come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// The Unix socket.
    Local,
    /// TCP.
    Host {
        /// Encrypted or not.
        encryption: Encryption,
        /// From where.
        addresses: Addresses,
    },
}

/// Which encryption a rule is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encryption {
    /// `host`, `hostnogssenc`: with or without.
    Any,
    /// `hostssl`.
    Tls,
    /// `hostnossl`.
    NoTls,
    /// `hostgssenc`: never here.
    Gss,
}

/// Addresses of clients.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Addresses {
    /// Everybody's.
    All,
    /// Those of this machine.
    SameHost,
    /// Those of the networks that this machine is directly on.
    SameNet,
    /// A network; both of one family.
    Network {
        /// An address in it.
        address: IpAddr,
        /// The bits that count.
        mask: IpAddr,
    },
    /// Those that a name stands for.
    Name(String),
}

/// Databases by name.
#[derive(Debug, Clone, PartialEq)]
pub enum DatabasePattern {
    /// All, but not physical replication.
    All,
    /// The one with the user's name.
    SameUser,
    /// Those with the name of a role that the user is a member of.
    SameRole,
    /// Physical replication.
    Replication,
    /// The one of this name.
    Name(String),
    /// Those whose name matches.
    Regex(Pattern),
}

/// Users by name.
#[derive(Debug, Clone, PartialEq)]
pub enum UserPattern {
    /// All.
    All,
    /// Members of this role.
    Group(String),
    /// The one of this name.
    Name(String),
    /// Those whose name matches.
    Regex(Pattern),
}

/// How a client proves who it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Method {
    /// Not at all.
    Trust,
    /// It cannot.
    Reject,
    /// By SCRAM-SHA-256.
    ScramSha256,
    /// By an MD5 challenge, or SCRAM where the secret is a verifier.
    Md5,
    /// By its password in the clear.
    Password,
    /// By the operating system's user at the other end of the Unix socket.
    Peer {
        /// The map of user names; `None`: the names must be equal.
        map: Option<String>,
    },
    /// By its certificate.
    Certificate {
        /// The map of user names; `None`: the names must be equal.
        map: Option<String>,
        /// Which name of the certificate.
        name: CertificateName,
    },
    /// By its password in the clear, which a directory knows.
    Ldap(Arc<Ldap>),
    /// By its password in the clear, which the operating system's PAM knows.
    Pam {
        /// The service of PAM.
        service: String,
    },
    /// By a bearer token of OAuth 2.0.
    OAuth(Arc<OAuth>),
}

impl Method {
    /// The map of user names that it asks for.
    fn map(&self) -> Option<&str> {
        match self {
            Method::Peer { map } | Method::Certificate { map, .. } => map.as_deref(),
            Method::OAuth(oauth) => oauth.map.as_deref(),
            _ => None,
        }
    }
}

/// What a rule asks of a client's certificate besides its method.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientCertificate {
    /// Nothing.
    NotAsked,
    /// That a trusted authority signed it (`clientcert=verify-ca`).
    VerifyCa,
    /// That it is the user's own besides (`clientcert=verify-full`).
    VerifyFull(CertificateName),
}

/// Which name of a certificate counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CertificateName {
    /// The common name.
    Cn,
    /// The whole distinguished name, in the form of RFC 2253.
    Dn,
}

/// A line of pg_ident.conf.
#[derive(Debug, Clone, PartialEq)]
pub struct Mapping {
    /// Where it stands, as `file:line`.
    pub place: String,
    /// The name of its map.
    pub map: String,
    /// The name outside: the operating system's, or a certificate's.
    pub system: SystemUser,
    /// The user that it may be.
    pub user: MappedUser,
}

/// The outer name of a mapping.
#[derive(Debug, Clone, PartialEq)]
pub enum SystemUser {
    /// This one.
    Name(String),
    /// Those that match.
    Regex(Pattern),
}

/// The inner name of a mapping.
#[derive(Debug, Clone, PartialEq)]
pub enum MappedUser {
    /// As in a rule.
    Pattern(UserPattern),
    /// What stands before `\1`, and after: between them goes what the outer name's first parentheses matched.
    Capture(String, String),
}

/// A regular expression; equal if its text is.
#[derive(Debug, Clone)]
pub struct Pattern(regex::Regex);

impl Pattern {
    fn new(text: &str) -> Result<Pattern, String> {
        regex::Regex::new(text).map(Pattern).map_err(|error| {
            // The last line says what is wrong; those above draw the place.
            let text = error.to_string();
            text.lines().last().unwrap_or_default().trim().to_owned()
        })
    }

    /// Whether it matches some part of `name`.
    #[must_use]
    pub fn matches(&self, name: &str) -> bool {
        self.0.is_match(name)
    }

    /// What its first parentheses match in `name`: `None` if it does not match; empty if they took no part in it.
    #[must_use]
    pub fn capture<'n>(&self, name: &'n str) -> Option<&'n str> {
        let captures = self.0.captures(name)?;
        Some(captures.get(1).map_or("", |found| found.as_str()))
    }

    fn has_parentheses(&self) -> bool {
        self.0.captures_len() > 1
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Pattern) -> bool {
        self.0.as_str() == other.0.as_str()
    }
}

impl Hba {
    /// Whether a rule or a map asks which roles a user is a member of.
    #[must_use]
    pub fn asks_for_groups(&self) -> bool {
        let group = |user: &UserPattern| matches!(user, UserPattern::Group(_));
        self.maps.iter().any(|line| matches!(&line.user, MappedUser::Pattern(user) if group(user)))
            || self.rules.iter().any(|rule| {
                rule.users.iter().any(group) || rule.databases.contains(&DatabasePattern::SameRole)
            })
    }

    /// Whether a rule asks clients for a certificate.
    #[must_use]
    pub fn asks_for_certificates(&self) -> bool {
        self.rules.iter().any(|rule| {
            matches!(rule.method, Method::Certificate { .. })
                || rule.client_certificate != ClientCertificate::NotAsked
        })
    }

    /// Whether a rule is about encrypted connections only.
    #[must_use]
    pub fn asks_for_tls(&self) -> bool {
        let is_tls = |rule: &Rule| matches!(rule.origin, Origin::Host { encryption: Encryption::Tls, .. });
        self.rules.iter().any(is_tls)
    }

    /// Whether nobody can log in by a password.
    #[must_use]
    pub fn asks_for_no_password(&self) -> bool {
        let asks = |rule: &Rule| matches!(rule.method, Method::ScramSha256 | Method::Md5 | Method::Password);
        !self.rules.iter().any(asks)
    }
}

/// What the files are read from.
pub trait Files {
    /// The text of a file.
    ///
    /// # Errors
    /// Why it cannot be read.
    fn read(&self, path: &Path) -> io::Result<String>;

    /// The files of a directory whose names end in `.conf` and do not start with a dot, in order.
    ///
    /// # Errors
    /// Why it cannot be read.
    fn conf_files(&self, path: &Path) -> io::Result<Vec<PathBuf>>;
}

/// The file system.
#[derive(Debug)]
pub struct Disk;

impl Files for Disk {
    fn read(&self, path: &Path) -> io::Result<String> {
        std::fs::read_to_string(path)
    }

    fn conf_files(&self, path: &Path) -> io::Result<Vec<PathBuf>> {
        let mut files = Vec::new();
        for entry in std::fs::read_dir(path)? {
            let path = entry?.path();
            if is_conf_name(&path) && path.is_file() {
                files.push(path);
            }
        }
        files.sort();
        Ok(files)
    }
}

/// What was read, and what is wrong with it.
#[derive(Debug, Default)]
pub struct Outcome {
    /// The rules, as far as they could be read; of no use if there are problems.
    pub hba: Hba,
    /// What is wrong.
    pub problems: Vec<Problem>,
    /// What is worth a look.
    pub warnings: Vec<Problem>,
}

/// Reads a pg_hba.conf, and a pg_ident.conf if there is one.
#[must_use]
pub fn read(hba: &Path, ident: Option<&Path>, files: &dyn Files) -> Outcome {
    let mut outcome = Outcome::default();
    for line in tokens::lines(hba, files, &mut outcome.problems) {
        match line::rule(&line, &mut outcome.warnings) {
            Ok(rule) => outcome.hba.rules.push(rule),
            Err(message) => outcome.problems.push(line.place.problem("", message)),
        }
    }
    if outcome.hba.rules.is_empty() && outcome.problems.is_empty() {
        let message =
            "nobody can log in: the file has no rule; write one such as: host all all all scram-sha-256";
        outcome.problems.push(Place::file(hba).problem("", message));
    }
    let lines = ident.map(|ident| tokens::lines(ident, files, &mut outcome.problems));
    for line in lines.into_iter().flatten() {
        match ident::mapping(&line) {
            Ok(mapping) => outcome.hba.maps.push(mapping),
            Err(message) => outcome.problems.push(line.place.problem("", message)),
        }
    }
    check_maps(&mut outcome, ident);
    outcome
}

/// Warns of maps that rules name and that no line defines.
fn check_maps(outcome: &mut Outcome, ident: Option<&Path>) {
    let defined: Vec<&str> = outcome.hba.maps.iter().map(|line| line.map.as_str()).collect();
    for rule in &outcome.hba.rules {
        let Some(map) = rule.method.map() else { continue };
        if !defined.contains(&map) {
            let message = match ident {
                Some(ident) => format!("nobody matches: {} has no line for the map {map:?}", ident.display()),
                None => format!("nobody matches: auth_ident_file is not set, so there is no map {map:?}"),
            };
            let (file, line) = rule.place.rsplit_once(':').unwrap_or((&rule.place, ""));
            let place = Place { file: file.into(), line: line.parse().ok() };
            outcome.warnings.push(place.problem("map", message));
        }
    }
}

fn is_conf_name(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.ends_with(".conf") && !name.starts_with('.')
}

fn written(place: &Place) -> String {
    match place.line {
        Some(line) => format!("{}:{line}", place.file.display()),
        None => place.file.display().to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    /// Files in memory.
    pub(super) struct Memory(BTreeMap<PathBuf, String>);

    impl Memory {
        pub(super) fn new(files: &[(&str, &str)]) -> Memory {
            Memory(files.iter().map(|(name, text)| (PathBuf::from(name), (*text).to_owned())).collect())
        }
    }

    impl Files for Memory {
        fn read(&self, path: &Path) -> io::Result<String> {
            self.0.get(path).cloned().ok_or_else(|| io::ErrorKind::NotFound.into())
        }

        fn conf_files(&self, path: &Path) -> io::Result<Vec<PathBuf>> {
            let files = self.0.keys().filter(|file| file.parent() == Some(path) && is_conf_name(file));
            let files: Vec<PathBuf> = files.cloned().collect();
            if files.is_empty() { Err(io::ErrorKind::NotFound.into()) } else { Ok(files) }
        }
    }

    /// The one rule of a file.
    #[cfg(feature = "oauth")]
    pub(super) fn only(text: &str) -> Result<Rule, String> {
        let mut outcome = hba(text);
        match outcome.problems.pop() {
            Some(problem) => Err(problem.message),
            None => Ok(outcome.hba.rules.remove(0)),
        }
    }

    fn hba(text: &str) -> Outcome {
        read(Path::new("/hba"), None, &Memory::new(&[("/hba", text)]))
    }

    #[test]
    fn a_file_without_rules_is_an_error() {
        assert!(hba("# nothing\n").problems[0].message.contains("no rule"));
        let missing = read(Path::new("/none"), None, &Memory::new(&[]));
        assert!(missing.problems[0].message.contains("cannot read"), "{:?}", missing.problems);
    }

    #[test]
    fn all_problems_of_both_files_are_told_with_their_lines() {
        let files = Memory::new(&[
            ("/hba", "host all all all md6\n\nlocal all\nlocal all all peer map=m\n"),
            ("/ident", "m\nm /( x\n"),
        ]);
        let outcome = read(Path::new("/hba"), Some(Path::new("/ident")), &files);
        let places: Vec<_> =
            outcome.problems.iter().map(|problem| (problem.file.to_str().unwrap(), problem.line)).collect();
        assert_eq!(places, [("/hba", Some(1)), ("/hba", Some(3)), ("/ident", Some(1)), ("/ident", Some(2))]);
        assert_eq!(outcome.warnings.len(), 1);
        assert_eq!((outcome.warnings[0].line, outcome.warnings[0].key.as_str()), (Some(4), "map"));
    }

    #[test]
    fn it_is_known_whether_groups_and_passwords_are_asked_for() {
        assert!(hba("local all +g peer").hba.asks_for_groups());
        assert!(hba("local samerole all peer").hba.asks_for_groups());
        assert!(!hba("local all \"+g\",/+ peer").hba.asks_for_groups());
        assert!(hba("local all all peer\nlocal all all trust").hba.asks_for_no_password());
        assert!(!hba("local all all peer\nlocal all all password").hba.asks_for_no_password());
    }
}
