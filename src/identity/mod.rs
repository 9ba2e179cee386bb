//! Others who know users: issuers of tokens, directories, the operating system.
//!
//! Owns the conversations with them, and that these cost nobody anything: they run on a thread of their own (`Aside`), each
//! within a limit. Who has to prove what to whom is for `client::authentication`. Invariant: whatever the other side does, a
//! question is answered in time, and what cannot be asked lets nobody in.

use std::sync::Arc;

#[cfg(any(feature = "oauth", feature = "ldap"))]
mod aside;
#[cfg(feature = "oauth")]
mod fetch;
#[cfg(feature = "oauth")]
mod jwk;
#[cfg(feature = "ldap")]
mod ldap;
#[cfg(feature = "oauth")]
mod oauth;
#[cfg(feature = "pam")]
mod pam;

#[cfg(not(feature = "pam"))]
use crate::config::hba;
use crate::config::hba::{Ldap, OAuth};
use crate::config::secret::Password;

/// Everybody who can be asked. One for the process.
#[derive(Debug, Default)]
pub struct Identities {
    #[cfg(any(feature = "oauth", feature = "ldap"))]
    aside: aside::Aside,
    #[cfg(feature = "oauth")]
    issuers: oauth::Issuers,
    #[cfg(feature = "ldap")]
    directories: ldap::Directories,
    #[cfg(feature = "pam")]
    pam: pam::Pam,
}

impl Identities {
    /// The user that a bearer token names, as its issuer knows it.
    ///
    /// # Errors
    /// Why the token does not count, for the log.
    #[cfg(feature = "oauth")]
    pub async fn token_user(&self, token: &str, oauth: &OAuth) -> Result<String, String> {
        self.issuers.user(&self.aside, token, oauth).await
    }

    /// Without OAuth, nobody.
    ///
    /// # Errors
    /// Always: the configuration refuses the method.
    #[cfg(not(feature = "oauth"))]
    pub async fn token_user(&self, _: &str, _: &OAuth) -> Result<String, String> {
        Err("this pgvalet was built without oauth".into())
    }
}

impl Identities {
    /// Whether a directory says that this is the user's password.
    ///
    /// # Errors
    /// Why nobody can tell, for the log.
    #[cfg(feature = "ldap")]
    pub async fn ldap(&self, ldap: &Arc<Ldap>, user: &str, password: &Password) -> Result<bool, String> {
        self.directories.check(&self.aside, ldap, user, password).await
    }

    /// Without LDAP, nobody can tell.
    ///
    /// # Errors
    /// Always: the configuration refuses the method.
    #[cfg(not(feature = "ldap"))]
    pub async fn ldap(&self, _: &Arc<Ldap>, _: &str, _: &Password) -> Result<bool, String> {
        Err("this pgvalet was built without ldap".into())
    }
}

impl Identities {
    /// Whether a service of PAM lets this user in with this password, from this host.
    ///
    /// # Errors
    /// Why nobody can tell, for the log.
    #[cfg(feature = "pam")]
    pub async fn pam(
        &self,
        service: &str,
        user: &str,
        password: &Password,
        host: String,
    ) -> Result<bool, String> {
        self.pam.check(service, user, password, host).await
    }

    /// Without PAM, nobody can tell.
    ///
    /// # Errors
    /// Always: the configuration refuses the method.
    #[cfg(not(feature = "pam"))]
    pub async fn pam(&self, _: &str, _: &str, _: &Password, _: String) -> Result<bool, String> {
        Err(hba::NO_PAM.into())
    }
}
