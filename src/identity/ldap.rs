//! Directories by LDAP: whether a password is the user's.
//!
//! Owns the conversation: connect, find the user's entry, bind as it. Names of users go into names of entries and into filters
//! only escaped. Invariants: an empty password is never tried, since a directory takes that for nobody's login and says yes;
//! a directory that does not answer holds up only who asks it, and these for [`LIMIT`].

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::alarm::timeout;
use ldap3::{LdapConnAsync, LdapConnSettings, LdapError, Scope, SearchEntry, dn_escape, ldap_escape};
use rustls::{ClientConfig, RootCertStore};
use tokio::sync::Semaphore;
use tokio::task::AbortHandle;

use super::aside::Aside;
use crate::config::hba::Ldap;
use crate::config::hba::ldap::{self, USER, Way};
use crate::config::secret::Password;
use crate::config::tls::cryptography;

/// How long a check may take, the wait for its turn included.
const LIMIT: Duration = Duration::from_secs(10);
/// How long one of several servers may take to be connected to.
const CONNECT: Duration = Duration::from_secs(4);
/// Checks at one directory at the same time.
const AT_ONCE: usize = 16;

/// All directories.
#[derive(Debug, Default)]
pub(super) struct Directories {
    turns: Mutex<HashMap<Vec<String>, Arc<Semaphore>>>,
}

impl Directories {
    /// Whether this is the user's password.
    ///
    /// # Errors
    /// Why nobody can tell, for the log.
    pub(super) async fn check(
        &self,
        aside: &Aside,
        ldap: &Arc<Ldap>,
        user: &str,
        password: &Password,
    ) -> Result<bool, String> {
        if password.as_str().is_empty() || user.is_empty() {
            return Ok(false);
        }
        let turns = {
            let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
            let new = || Arc::new(Semaphore::new(AT_ONCE));
            turns.entry(ldap.servers.clone()).or_insert_with(new).clone()
        };
        let (ldap, user, password) = (ldap.clone(), user.to_owned(), password.clone());
        let work = async move {
            let _turn = turns.acquire_owned().await.map_err(|error| error.to_string())?;
            let mut connection = connect(&ldap).await?;
            connection.check(&ldap, &user, &password).await.map_err(|error| error.to_string())
        };
        let late = || format!("no answer within {} s", LIMIT.as_secs());
        let work = async move { timeout(LIMIT, work).await.unwrap_or_else(|_| Err(late())) };
        let work = aside.begin(work).ok_or("there is no thread for it")?;
        let guard = AbortOnDrop(work.abort_handle());
        let outcome = work.await.map_err(|error| error.to_string())?;
        drop(guard);
        outcome
    }
}

/// Ends a task when nobody waits for it any more.
struct AbortOnDrop(AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A connection to a directory.
struct Connection {
    ldap: ldap3::Ldap,
    /// What reads and writes its socket.
    _driver: AbortOnDrop,
}

/// Connects to the first server that can be.
async fn connect(ldap: &Ldap) -> Result<Connection, String> {
    let is_tls = ldap.starttls || ldap.servers.iter().any(|server| server.starts_with("ldaps"));
    let tls = if is_tls { Some(Arc::new(tls()?)) } else { None };
    let mut trouble = String::new();
    for server in &ldap.servers {
        let mut settings = LdapConnSettings::new().set_starttls(ldap.starttls);
        if let Some(tls) = &tls {
            settings = settings.set_config(tls.clone());
        }
        let outcome = match timeout(CONNECT, LdapConnAsync::with_settings(settings, server)).await {
            Ok(outcome) => outcome.map_err(|error| error.to_string()),
            Err(_) => Err("no answer".into()),
        };
        match outcome {
            Ok((connection, ldap)) => {
                let driver = tokio::spawn(connection.drive());
                return Ok(Connection { ldap, _driver: AbortOnDrop(driver.abort_handle()) });
            }
            Err(error) => trouble += &format!("{server}: {error}; "),
        }
    }
    Err(trouble.trim_end_matches("; ").to_owned())
}

fn tls() -> Result<ClientConfig, String> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    let builder = ClientConfig::builder_with_provider(Arc::new(cryptography()));
    let builder = builder.with_safe_default_protocol_versions().map_err(|error| error.to_string())?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

impl Connection {
    async fn check(&mut self, ldap: &Ldap, user: &str, password: &Password) -> Result<bool, LdapError> {
        match &ldap.way {
            Way::Simple { prefix, suffix } => match simple_name(prefix, suffix, user) {
                Some(name) => self.is_password_of(&name, password.as_str()).await,
                None => Ok(false),
            },
            Way::Search { base, scope, filter, bind_dn, bind_password } => {
                if !bind_dn.is_empty() {
                    self.ldap.simple_bind(bind_dn, bind_password).await?.success()?;
                }
                let filter = filter.replace(USER, &ldap_escape(user));
                let scope = match scope {
                    ldap::Scope::Base => Scope::Base,
                    ldap::Scope::One => Scope::OneLevel,
                    ldap::Scope::Subtree => Scope::Subtree,
                };
                // "1.1": no attributes, only the entries' names.
                let (found, _) = self.ldap.search(base, scope, &filter, vec!["1.1"]).await?.success()?;
                let mut found = found.into_iter().filter(|entry| !entry.is_ref() && !entry.is_intermediate());
                let name = found.next().map(|entry| SearchEntry::construct(entry).dn);
                match (name, found.next()) {
                    (Some(name), None) if !name.is_empty() => {
                        self.is_password_of(&name, password.as_str()).await
                    }
                    (Some(_), Some(_)) => {
                        tracing::warn!(
                            user,
                            "the directory has several entries for this user, so it is none"
                        );
                        Ok(false)
                    }
                    _ => {
                        // Takes as long as for a user that exists.
                        let nobody = format!("cn=pgvalet-nobody,{base}");
                        let _ = self.is_password_of(&nobody, password.as_str()).await;
                        Ok(false)
                    }
                }
            }
        }
    }

    async fn is_password_of(&mut self, name: &str, password: &str) -> Result<bool, LdapError> {
        const SUCCESS: u32 = 0;
        // What directories say to a wrong password: invalidCredentials, and for entries that are not there or that
        // nobody logs in as, noSuchObject, inappropriateAuthentication, invalidDNSyntax.
        const WRONG: [u32; 4] = [49, 32, 48, 34];
        let result = self.ldap.simple_bind(name, password).await?;
        match result.rc {
            SUCCESS => Ok(true),
            code if WRONG.contains(&code) => Ok(false),
            _ => result.success().map(|_| false),
        }
    }
}

/// The name of a user's entry; `None` if no entry can have it.
fn simple_name(prefix: &str, suffix: &str, user: &str) -> Option<String> {
    // `uid=...,dc=...` is made of names and values. Other forms, such as `...@example.net`, know no way to escape.
    if prefix.ends_with('=') {
        return Some(format!("{prefix}{}{suffix}", dn_escape(user)));
    }
    let special = |character: char| character.is_control() || ",+\"\\<>;=#/@*()".contains(character);
    (!user.contains(special)).then(|| format!("{prefix}{user}{suffix}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_users_name_stays_a_name() {
        assert_eq!(simple_name("uid=", ",dc=x", "bob").as_deref(), Some("uid=bob,dc=x"));
        let odd = simple_name("uid=", ",dc=x", "bob,ou=admins").unwrap();
        assert_eq!(odd, "uid=bob\\2cou\\3dadmins,dc=x");
        assert_eq!(simple_name("", "@example.net", "bob").as_deref(), Some("bob@example.net"));
        assert_eq!(simple_name("EXAMPLE\\", "", "bob").as_deref(), Some("EXAMPLE\\bob"));
        for odd in ["bob@other", "a\\b", "bob,ou=admins", "x\0"] {
            assert_eq!(simple_name("", "@example.net", odd), None, "{odd:?}");
        }
        assert_eq!(ldap_escape("*)(uid=*"), "\\2a\\29\\28uid=\\2a");
    }
}
