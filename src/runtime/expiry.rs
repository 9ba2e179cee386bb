//! Tells of certificates that are about to expire: in the log once a day, and always in the metrics.

use crate::admin::Admin;
use crate::client::context::Process;
use crate::net::tls::expiry::Expiry;
use std::collections::HashMap;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// How long before its end a certificate is warned of.
const SOON: Duration = Duration::from_secs(14 * DAY);
/// How long until the next warning of the same.
const AGAIN: Duration = Duration::from_secs(DAY);
/// In seconds.
const DAY: u64 = 24 * 3600;

/// What was warned of, and when.
#[derive(Debug, Default)]
pub(super) struct Watch {
    warned: HashMap<Expiry, Instant>,
}

impl Watch {
    /// Looks at the certificates in force.
    pub(super) fn look(&mut self, process: &Process, admin: &Admin) {
        let mut all: Vec<Expiry> = Vec::new();
        all.extend(process.client_tls.get().iter().flat_map(|offer| offer.expiries.clone()));
        all.extend(process.means.tls.get().iter().flat_map(|demand| demand.expiries.clone()));
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs());
        self.warned.retain(|expiry, at| at.elapsed() < AGAIN && all.contains(expiry));
        for expiry in all.iter().filter(|expiry| expiry.at < now + SOON.as_secs()) {
            self.warned.entry(expiry.clone()).or_insert_with(|| {
                warn(expiry, now);
                Instant::now()
            });
        }
        admin.set_expiries(all);
    }
}

fn warn(expiry: &Expiry, now: u64) {
    let (setting, file) = (expiry.setting, expiry.file.display());
    match expiry.at.checked_sub(now) {
        Some(left) => {
            let days = left / DAY;
            tracing::warn!(setting, %file, days, "a certificate expires soon; replace the file");
        }
        None => {
            let days = (now - expiry.at) / DAY;
            tracing::warn!(setting, %file, days, "a certificate has expired, so many days ago; replace the file");
        }
    }
}
