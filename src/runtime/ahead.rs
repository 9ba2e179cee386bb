//! What logins will need, made before anybody logs in: the keys of plain passwords, and the secret of mock authentication.
//!
//! A first login that had to wait for its keys would tell that the user exists: nobody unknown is waited for. Invariant: it never
//! takes more than half a core, and no login waits for it.

use crate::auth::mock::MockSecret;
use crate::client::context::Process;
use crate::config::{AuthType, Config, Secret};
use sha2::{Digest, Sha256};
use std::sync::{Arc, Weak};
use std::time::Instant;

/// Derives, on a thread of its own, what SCRAM logins under this configuration will need. It ends when that is done, or with
/// the process.
pub(super) fn derive(config: &Arc<Config>, process: &Arc<Process>) {
    let wants_keys = matches!(config.general.auth_type, AuthType::ScramSha256 | AuthType::Hba);
    if !wants_keys || config.kinds.plain == 0 {
        return;
    }
    let (config, process) = (config.clone(), Arc::downgrade(process));
    let thread =
        std::thread::Builder::new().name("derive-ahead".into()).spawn(move || work(&config, &process));
    if let Err(error) = thread {
        tracing::warn!(%error, "keys are not derived ahead of logins: no thread could be started");
    }
}

fn work(config: &Config, process: &Weak<Process>) {
    let iterations = config.general.scram_iterations;
    for user in config.users.values() {
        let Some(Secret::Plain(password)) = &user.secret else { continue };
        let Some(process) = process.upgrade() else { return };
        let begun = Instant::now();
        process.keys.get_or_derive(password, &process.mock.salt(&user.name), iterations);
        drop(process);
        std::thread::sleep(begun.elapsed());
    }
    tracing::debug!(users = config.kinds.plain, "keys derived ahead of logins");
}

/// The secret behind mock authentication. It comes from the users' secrets, so that an unknown user is shown the same
/// salt after a restart, as a known one is; nobody outside can guess it.
pub(super) fn mock_secret(config: &Config) -> MockSecret {
    let mut hash = Sha256::new();
    hash.update(b"pgvalet mock authentication");
    let mut any = false;
    for user in config.users.values() {
        hash.update(user.name.as_bytes());
        any |= user.secret.is_some();
        match &user.secret {
            Some(Secret::Plain(password)) => hash.update(password.as_str().as_bytes()),
            Some(Secret::Md5(digest)) => hash.update(digest.0),
            Some(Secret::Scram(verifier)) => hash.update(verifier.stored_key),
            None => {}
        }
    }
    if !any {
        let mut random = [0; 32];
        // Without users there is nothing to tell apart.
        let _ = getrandom::fill(&mut random);
        hash.update(random);
    }
    MockSecret::new(hash.finalize().into())
}
