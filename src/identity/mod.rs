//! Others who know users: issuers of tokens, directories, the operating system.
//!
//! Owns the conversations with them, and that these cost nobody anything: they run on a thread of their own (`Aside`), each
//! within a limit. Who has to prove what to whom is for `client::authentication`. Invariant: whatever the other side does, a
//! question is answered in time, and what cannot be asked lets nobody in.

use std::sync::{Arc, OnceLock};

use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

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
    aside: Aside,
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

/// A thread for what must not run on a worker; it starts when it is first needed.
#[derive(Debug, Default)]
struct Aside(OnceLock<Option<Running>>);

#[derive(Debug)]
struct Running {
    runtime: Handle,
    /// The thread ends when this is dropped.
    _alive: oneshot::Sender<()>,
}

/// Threads on which names are looked up; one hangs as long as the system does.
const LOOK_UPS: usize = 8;

impl Aside {
    /// Begins `work` there; it goes on whether anybody waits for it or not. `None` if there is no thread.
    fn begin<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Option<JoinHandle<T>> {
        let running = self.0.get_or_init(|| match start() {
            Ok(running) => Some(running),
            Err(error) => {
                tracing::error!(%error, "the thread for those who know users cannot be started");
                None
            }
        });
        running.as_ref().map(|running| running.runtime.spawn(work))
    }
}

fn start() -> std::io::Result<Running> {
    let runtime = Builder::new_current_thread()
        .enable_all()
        .thread_name("identity-names")
        .max_blocking_threads(LOOK_UPS)
        .build()?;
    let handle = runtime.handle().clone();
    let (alive, gone) = oneshot::channel();
    let work = move || {
        // An error says that the other end was dropped, which is what is waited for.
        let _ = runtime.block_on(gone);
        runtime.shutdown_background();
    };
    std::thread::Builder::new().name("identity".into()).spawn(work)?;
    Ok(Running { runtime: handle, _alive: alive })
}
