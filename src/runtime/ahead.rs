//! Derives the keys of plain passwords before anybody logs in with them.
//!
//! A first login that had to wait for its keys would tell that the user exists: nobody unknown is waited for. Invariant: it never
//! takes more than half a core, and no login waits for it.

use crate::client::context::Process;
use crate::config::{AuthType, Config, Secret};
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
