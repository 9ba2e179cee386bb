//! Names by which clients reach pgvalet (SNI), and what they get there: `[client_tls_names.NAME]`.
//!
//! Owns the meaning of these sections: which name counts, and that what they say fits together.

use std::path::PathBuf;

use super::draft::{Draft, Section};
use super::settings::NameEntry;
use super::tls::SslMode;
use super::{access, resolve};

/// What clients get who connect to a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServedName {
    /// The name in lower case; a `*` in front of the first dot stands for one part of a name.
    pub pattern: String,
    /// The certificate that they are shown, and its key.
    pub identity: Option<Identity>,
    /// The database that they get, in place of the one that they ask for; a `*` in it is what that in the name stands for.
    pub database: Option<String>,
}

/// The files of a certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The certificate, with its chain.
    pub cert_file: PathBuf,
    /// Its private key.
    pub key_file: PathBuf,
}

/// The entry for a name that a client connects to, with what the `*` stands for: the name itself counts before a pattern.
#[must_use]
pub fn of<'n>(names: &[ServedName], name: &'n str) -> Option<(usize, &'n str)> {
    let exact = names.iter().position(|served| served.pattern.eq_ignore_ascii_case(name));
    if let Some(at) = exact {
        return Some((at, ""));
    }
    let (part, rest) = name.split_once('.')?;
    let fits = |served: &ServedName| {
        served.pattern.strip_prefix("*.").is_some_and(|end| end.eq_ignore_ascii_case(rest))
    };
    names.iter().position(fits).map(|at| (at, part))
}

/// The database that a client gets who connects to `name`, if the configuration says so.
#[must_use]
pub fn database(names: &[ServedName], name: &str) -> Option<String> {
    let (at, part) = of(names, name)?;
    let database = names.get(at)?.database.as_ref()?;
    Some(database.replace('*', &part.to_ascii_lowercase()))
}

/// Brings the sections into the settings of TLS, and checks them.
pub(super) fn resolve(draft: &mut Draft) {
    let entries = std::mem::take(&mut draft.names);
    for (name, entry) in entries {
        match served(draft, &name, &entry) {
            Ok(served) => draft.general.client_tls.names.push(served),
            Err((key, message)) => {
                let section = Section::Name(name);
                let (key, section) = (section.key(key), section.name());
                let place = draft.place(&[&key, &section]);
                draft.problem(&place, key.trim_end_matches('.'), message);
            }
        }
    }
    if draft.general.client_tls.sslmode == SslMode::Disable && !draft.general.client_tls.names.is_empty() {
        let place = draft.place(&["client_tls_sslmode"]);
        let message = "they are not used, because client_tls_sslmode is \"disable\"";
        draft.warning(&place, "client_tls_names", message);
    }
}

/// The entry as it is meant; else the key that is wrong, and what is wrong with it.
fn served(draft: &mut Draft, name: &str, entry: &NameEntry) -> Result<ServedName, (&'static str, String)> {
    let plain = name.strip_prefix("*.").unwrap_or(name);
    let is_name = |part: &str| {
        !part.is_empty() && part.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_'))
    };
    if !plain.split('.').all(is_name) || (plain != name && !plain.contains('.')) {
        let message = "it is no name of a host; write one such as db.example.com, or *.db.example.com";
        return Err(("", message.into()));
    }
    let cert_file = entry.cert_file.clone().flatten();
    let key_file = entry.key_file.clone().flatten();
    let identity = match (cert_file, key_file) {
        (Some(cert_file), Some(key_file)) => {
            let absolute = |file: PathBuf| access::absolute(&draft.base.join(file));
            Some(Identity { cert_file: absolute(cert_file), key_file: absolute(key_file) })
        }
        (None, None) => None,
        (Some(_), None) => return Err(("key_file", "not set, but cert_file is; they go together".into())),
        (None, Some(_)) => return Err(("cert_file", "not set, but key_file is; they go together".into())),
    };
    if let Some(identity) = &identity {
        let key = Section::Name(name.to_owned()).key("key_file");
        let place = draft.place(&[&key]);
        access::warn_if_open(draft, &place, &key, &identity.key_file);
    }
    match &entry.database {
        None if identity.is_none() => {
            return Err(("", "it says nothing; set cert_file and key_file, or database".into()));
        }
        Some(database) if database.contains('*') && plain == name => {
            return Err(("database", "a * stands for that in the name, which has none".into()));
        }
        Some(database) if !database.contains('*') && !resolve::has_database(draft, database) => {
            return Err(("database", format!("there is no database {database:?}; name one of [databases]")));
        }
        _ => {}
    }
    Ok(ServedName { pattern: name.to_ascii_lowercase(), identity, database: entry.database.clone() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(all: &[(&str, &str)]) -> Vec<ServedName> {
        let named = |(pattern, database): &(&str, &str)| ServedName {
            pattern: (*pattern).into(),
            identity: None,
            database: Some((*database).into()),
        };
        all.iter().map(named).collect()
    }

    #[test]
    fn a_name_counts_before_a_pattern_and_a_star_is_one_part() {
        let names = names(&[("*.db.test", "*"), ("shop.db.test", "store"), ("*.x.test", "all_*_x")]);
        let database = |name: &str| database(&names, name);
        assert_eq!(database("shop.db.test").as_deref(), Some("store"));
        assert_eq!(database("SHOP.DB.test").as_deref(), Some("store"));
        assert_eq!(database("Other.db.test").as_deref(), Some("other"));
        assert_eq!(database("a.x.test").as_deref(), Some("all_a_x"));
        for name in ["db.test", "a.b.db.test", "db", "", ".db.test.", "xdb.test"] {
            assert_eq!(database(name), None, "{name}");
        }
    }
}
