//! Who may log in: checks of everything that concerns authentication.
//!
//! Owns the way from `auth_hba_file` to its rules, and the checks of users and secrets against the ways to log in.

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::draft::{Draft, Section};
use super::hba::{self, Hba, Ldap};
use super::problem::Place;
use super::tls::{Authorities, SslMode};
use super::{AuthType, Database, General, Secret, SecretKinds, User};

/// The rules of `auth_hba_file`, if `auth_type` wants them.
pub(super) fn rules(draft: &mut Draft) -> Option<Hba> {
    let files = [&mut draft.general.auth_hba_file, &mut draft.general.auth_ident_file];
    for file in files.into_iter().flatten() {
        *file = absolute(&draft.base.join(&*file));
    }
    let general = &draft.general;
    let (rules, maps) = (general.auth_hba_file.clone(), general.auth_ident_file.clone());
    if general.auth_type != AuthType::Hba {
        if rules.is_some() {
            let place = draft.place(&["auth_hba_file"]);
            let message = r#"it is not read, because auth_type is not "hba""#;
            draft.warning(&place, "auth_hba_file", message);
        }
        return None;
    }
    let Some(rules) = rules else {
        let place = draft.place(&["auth_type"]);
        let message = r#"auth_type = "hba" needs a file of rules; set auth_hba_file"#;
        draft.problem(&place, "auth_hba_file", message);
        return None;
    };
    let outcome = hba::read(&rules, maps.as_deref(), &hba::Disk);
    draft.problems.extend(outcome.problems);
    draft.warnings.extend(outcome.warnings);
    Some(outcome.hba)
}

/// Whether what `auth_type` asks for is built in.
fn check_pam(draft: &mut Draft) {
    if draft.general.auth_type == AuthType::Pam && cfg!(not(feature = "pam")) {
        let place = draft.place(&["auth_type"]);
        draft.problem(&place, "auth_type", hba::NO_PAM);
    }
}

/// The directory of `auth_ldap_options`, if `auth_type` wants it.
pub(super) fn ldap(draft: &mut Draft) -> Option<Ldap> {
    let options = draft.general.auth_ldap_options.clone();
    let place = draft.place(&["auth_ldap_options", "auth_type"]);
    match (draft.general.auth_type, options) {
        (AuthType::Ldap, Some(options)) => match Ldap::from_line(&options) {
            Ok(ldap) => {
                if ldap.is_in_the_clear() {
                    let message = "passwords cross the network in the clear on their way to the directory; write ldaptls=1, or ldapscheme=ldaps";
                    draft.warning(&place, "auth_ldap_options", message);
                }
                Some(ldap)
            }
            Err(message) => {
                draft.problem(&place, "auth_ldap_options", message);
                None
            }
        },
        (AuthType::Ldap, None) => {
            let message = r#"auth_type = "ldap" needs a directory; set auth_ldap_options"#;
            draft.problem(&place, "auth_ldap_options", message);
            None
        }
        (_, Some(_)) => {
            let message = r#"it is not used, because auth_type is not "ldap""#;
            draft.warning(&place, "auth_ldap_options", message);
            None
        }
        (_, None) => None,
    }
}

/// The kinds of secrets that users have. Those who look others up are not like them: clients have no reason to know of them.
pub(super) fn kinds<'a>(
    users: impl Iterator<Item = &'a User>,
    general: &General,
    databases: &BTreeMap<String, Arc<Database>>,
) -> SecretKinds {
    let of_databases = databases.values().filter_map(|database| database.auth_user.as_ref());
    let aside: Vec<&String> = general.auth_user.iter().chain(of_databases).collect();
    let mut kinds = SecretKinds::default();
    let users = users.filter(|user| !aside.contains(&&user.name));
    users.filter_map(|user| user.secret.as_ref()).for_each(|secret| kinds.count(secret));
    kinds
}

/// Checks that somebody can log in, and tells of those who cannot.
pub(super) fn check(draft: &mut Draft, users: &BTreeMap<String, User>, rules: Option<&Hba>) {
    check_any(draft);
    check_pam(draft);
    check_auth_query(draft, users);
    check_tls(draft, rules);
    if matches!(draft.general.auth_type, AuthType::Trust | AuthType::Any)
        && !draft.general.admin_users.is_empty()
    {
        let place = draft.place(&["admin_users"]);
        let message = "with this auth_type nobody proves a name: whoever can connect can be an admin";
        draft.warning(&place, "admin_users", message);
    }
    let is_looked_up = looks_users_up(draft);
    if !is_looked_up && rules.is_some_and(Hba::asks_for_groups) {
        let place = draft.place(&["auth_hba_file"]);
        let message = "it asks for the roles of users, which only auth_query can tell: lines with +ROLE or samerole \
            match nobody, or everybody if they reject; set auth_user";
        draft.warning(&place, "auth_hba_file", message);
    }
    let asks_for_passwords = match draft.general.auth_type {
        AuthType::ScramSha256 | AuthType::Md5 | AuthType::Password => true,
        AuthType::Hba => rules.is_some_and(|rules| !rules.asks_for_no_password()),
        AuthType::Peer
        | AuthType::Certificate
        | AuthType::Ldap
        | AuthType::Pam
        | AuthType::Trust
        | AuthType::Any
        | AuthType::Reject => false,
    };
    if !asks_for_passwords {
        return;
    }
    if !is_looked_up && !users.values().any(|user| user.secret.is_some()) {
        let place = draft.place(&["auth_file"]);
        let message = r#"no client could log in: no user has a password; add a user with password = "...", or set auth_file"#;
        let ini = "no client could log in: no user has a password; set auth_file to a file of lines such as \"app\" \"secret\"";
        if draft.ini {
            draft.warning(&place, "users", ini);
        } else {
            draft.problem(&place, "users", message);
        }
        return;
    }
    for user in users.values() {
        let message = match &user.secret {
            None if rules.is_none() && !is_looked_up => "this user has no password and cannot log in",
            Some(Secret::Md5(_)) if draft.general.auth_type == AuthType::ScramSha256 => {
                "this user has an md5 hash and cannot log in by SCRAM; store the password or a verifier, or set auth_type"
            }
            _ => continue,
        };
        let name = Section::User(user.name.clone()).name();
        let place = draft.place(&[&name, "auth_file"]);
        draft.warning(&place, name, message);
    }
}

/// Certificates and encrypted connections need TLS.
fn check_tls(draft: &mut Draft, rules: Option<&Hba>) {
    let tls = &draft.general.client_tls;
    let (has_tls, has_authorities) = (tls.sslmode != SslMode::Disable, tls.ca_file.is_some());
    let key = if draft.general.auth_type == AuthType::Certificate { "auth_type" } else { "auth_hba_file" };
    let asks = key == "auth_type" || rules.is_some_and(Hba::asks_for_certificates);
    let place = draft.place(&[key]);
    if asks && !(has_tls && has_authorities) {
        let message = "clients are asked for certificates, which nobody can check; set client_tls_sslmode, \
            client_tls_cert_file and client_tls_key_file, and client_tls_ca_file to the authority of the certificates";
        draft.problem(&place, key, message);
    } else if !has_tls && rules.is_some_and(Hba::asks_for_tls) {
        let message = "lines with hostssl match nobody, because client_tls_sslmode is \"disable\"";
        draft.warning(&place, key, message);
    }
}

/// Whether users of any database are looked up.
fn looks_users_up(draft: &Draft) -> bool {
    draft.general.auth_user.is_some() || draft.databases.values().any(|entry| entry.auth_user.is_some())
}

/// Checks who looks users up, and where.
fn check_auth_query(draft: &mut Draft, users: &BTreeMap<String, User>) {
    let mut problems = Vec::new();
    let mut warnings = Vec::new();
    let mut misfits = Vec::new();
    let general = (Section::General, &draft.general.auth_user, &draft.general.auth_dbname);
    let databases = draft
        .databases
        .iter()
        .map(|(name, entry)| (Section::Database(name.clone()), &entry.auth_user, &entry.auth_dbname));
    for (section, auth_user, auth_dbname) in std::iter::once(general).chain(databases) {
        let key = section.key("auth_dbname");
        if let Some(name) = auth_dbname
            && !draft.databases.contains_key(name)
            && !draft.databases.contains_key("*")
        {
            let message = format!("there is no database {name:?}; add [databases.{name}], or name another");
            misfits.push((draft.place(&[&key]), key, message));
        }
        let key = section.key("auth_user");
        let secret =
            auth_user.as_ref().and_then(|user| users.get(user)).and_then(|user| user.secret.as_ref());
        if matches!(secret, Some(Secret::Scram(_))) {
            let message = "a SCRAM verifier cannot log in to a server; store this user's password itself";
            problems.push(draft.place(&[&key]).problem(&key, message));
        }
    }
    if !looks_users_up(draft) && (draft.is_set("auth_query") || draft.is_set("auth_dbname")) {
        let place = draft.place(&["auth_query", "auth_dbname"]);
        warnings.push(place.problem("auth_query", "it is not used, because auth_user is not set"));
    }
    let is_anywhere = draft.general.auth_user.is_some() && draft.general.auth_dbname.is_none();
    if is_anywhere && draft.databases.contains_key("*") {
        let message = "with a database \"*\" it runs in whatever database a client names; set auth_dbname";
        warnings.push(draft.place(&["auth_user"]).problem("auth_dbname", message));
    }
    draft.problems.extend(problems);
    draft.warnings.extend(warnings);
    for (place, key, message) in misfits {
        draft.misfit(&place, key, message);
    }
}

/// With `any`, a client's name means nothing: the databases must say whose servers it gets.
fn check_any(draft: &mut Draft) {
    if draft.general.auth_type != AuthType::Any {
        return;
    }
    let nameless: Vec<String> = draft
        .databases
        .iter()
        .filter(|(_, entry)| entry.user.is_none())
        .map(|(name, _)| Section::Database(name.clone()).key("user"))
        .collect();
    for key in nameless {
        let place = draft.place(&[key.trim_end_matches(".user")]);
        let message = r#"auth_type = "any" takes any name, so a database needs a fixed user to let anybody in; set user"#;
        draft.misfit(&place, key, message);
    }
}

/// Warns if every user of the machine can read a file of secrets.
pub(super) fn warn_if_open(draft: &mut Draft, place: &Place, key: &str, file: &Path) {
    let Ok(metadata) = std::fs::metadata(file) else {
        return;
    };
    if metadata.permissions().mode() & 0o004 != 0 {
        let message =
            format!("every user of this machine can read the secrets; run: chmod o-r {}", file.display());
        draft.warning(place, key, message);
    }
}

/// Warns of a file that decides who gets in and that every user of the machine can change.
fn warn_if_anybody_writes(draft: &mut Draft, place: &Place, key: &str, file: &Path) {
    let Ok(metadata) = std::fs::metadata(file) else {
        return;
    };
    if metadata.permissions().mode() & 0o002 != 0 {
        let message = format!(
            "every user of this machine can change it, and so decide who gets in; run: chmod o-w {}",
            file.display()
        );
        draft.warning(place, key, message);
    }
}

/// Warns of files of rules, users and certificates that everybody can change.
pub(super) fn check_files(draft: &mut Draft) {
    let General { auth_file, auth_hba_file, auth_ident_file, client_tls, server_tls, .. } = &draft.general;
    let authorities = match &server_tls.authorities {
        Some(Authorities::File(file)) => Some(file),
        _ => None,
    };
    let files: Vec<(&str, PathBuf)> = [
        ("auth_file", auth_file.as_ref()),
        ("auth_hba_file", auth_hba_file.as_ref()),
        ("auth_ident_file", auth_ident_file.as_ref()),
        ("client_tls_ca_file", client_tls.ca_file.as_ref()),
        ("client_tls_crl_file", client_tls.crl_file.as_ref()),
        ("client_tls_cert_file", client_tls.cert_file.as_ref()),
        ("client_tls_key_file", client_tls.key_file.as_ref()),
        ("server_tls_ca_file", authorities),
        ("server_tls_crl_file", server_tls.crl_file.as_ref()),
        ("server_tls_key_file", server_tls.key_file.as_ref()),
    ]
    .into_iter()
    .filter_map(|(key, file)| Some((key, file?.clone())))
    .collect();
    for (key, file) in files {
        let place = draft.place(&[key]);
        warn_if_anybody_writes(draft, &place, key, &file);
    }
    let path = draft.path.clone();
    warn_if_anybody_writes(draft, &Place::file(&path), "", &path);
}

/// Warns of a Unix socket that is in the wrong hands, or whose permissions are all that protects the databases.
pub(super) fn check_socket(draft: &mut Draft) {
    let Some(directory) = draft.general.unix_socket_dir.clone() else {
        return;
    };
    let mode = std::fs::metadata(&directory).map_or(0, |metadata| metadata.permissions().mode());
    if mode & 0o1002 == 0o002 {
        let place = draft.place(&["unix_socket_dir"]);
        let message = format!(
            "every user of this machine can put a socket of their own in place of it and ask for passwords; run: chmod +t {}",
            directory.display()
        );
        draft.warning(&place, "unix_socket_dir", message);
    }
    // Who comes with an ini has it the same way from pgbouncer.
    if draft.ini || !matches!(draft.general.auth_type, AuthType::Trust | AuthType::Any) {
        return;
    }
    if directory.as_os_str().as_bytes().starts_with(b"@") {
        let place = draft.place(&["unix_socket_dir", "auth_type"]);
        let message = "with this auth_type every user of this machine gets in, since an abstract socket has no permissions; write a directory with unix_socket_mode, or another auth_type";
        draft.warning(&place, "unix_socket_dir", message);
    } else if draft.general.unix_socket_mode & 0o002 != 0 {
        let place = draft.place(&["unix_socket_mode", "auth_type"]);
        let message = r#"with this auth_type every user of this machine gets in; write unix_socket_mode = "0770" and a unix_socket_group, or another auth_type"#;
        draft.warning(&place, "unix_socket_mode", message);
    }
}

pub(super) fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}
