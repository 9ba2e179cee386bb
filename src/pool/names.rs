//! Names of servers, looked up again and again: what is at an address that its name has left is replaced.
//!
//! Connections themselves are made to whatever the system says at that moment; what is kept here is only for noticing a
//! change, as when a database fails over by DNS. An address counts as gone when two lookups in a row did not have it, so that
//! a server that answers with a part of its addresses at a time does not cost all connections. A lookup that fails
//! changes nothing.

use crate::alarm::{sleep, timeout};
use crate::config::Host;
use crate::net::stream::Address;
use crate::pool::{Pool, Registry};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::net::lookup_host;

/// How long one lookup may take.
const LIMIT: Duration = Duration::from_secs(10);
/// How soon a change of the setting is noticed.
const LOOK: Duration = Duration::from_secs(1);

/// The names of servers and what they stood for when last looked up.
#[derive(Debug, Default)]
pub struct Names(Mutex<BTreeMap<String, Known>>);

/// What is known of a name.
#[derive(Debug, Clone, Default)]
struct Known {
    current: BTreeSet<IpAddr>,
    /// `None`: it has been looked up once.
    previous: Option<BTreeSet<IpAddr>>,
    next: Option<Instant>,
}

impl Known {
    fn note(&mut self, found: BTreeSet<IpAddr>) {
        let before = std::mem::replace(&mut self.current, found);
        self.previous = (!before.is_empty()).then_some(before);
    }

    /// Whether the name has left this address for good.
    fn has_left(&self, address: IpAddr) -> bool {
        let was_there = |lookup: &BTreeSet<IpAddr>| lookup.contains(&address);
        self.previous.as_ref().is_some_and(|previous| !was_there(previous)) && !was_there(&self.current)
    }
}

impl Names {
    /// Each name, the time until it is looked up again, and its addresses.
    #[must_use]
    pub fn known(&self) -> Vec<(String, Duration, Vec<IpAddr>)> {
        let now = Instant::now();
        let left =
            |known: &Known| known.next.map_or(Duration::ZERO, |next| next.saturating_duration_since(now));
        let entry = |(name, known): (&String, &Known)| {
            (name.clone(), left(known), known.current.iter().copied().collect())
        };
        self.lock().iter().map(entry).collect()
    }

    /// Whether a server at `address` is at none of these hosts any more.
    fn have_left(&self, hosts: &[Host], address: IpAddr) -> bool {
        let known = self.lock();
        hosts.iter().all(|host| match host {
            Host::Unix(_) => true,
            Host::Tcp(name) => match name.parse::<IpAddr>() {
                Ok(own) => own != address,
                Err(_) => known.get(name).is_some_and(|known| known.has_left(address)),
            },
        })
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Known>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Looks the names of all servers up, every `dns_max_ttl`, and has servers replaced that are where no name leads any more.
pub async fn watch(names: Arc<Names>, registry: Arc<Registry>) {
    let mut last: Option<Instant> = None;
    loop {
        let ttl = registry.config().general.dns_max_ttl;
        match ttl {
            Some(ttl) if last.is_none_or(|last| last.elapsed() >= ttl) => {
                last = Some(Instant::now());
                let pools = registry.all_pools();
                look_up(&names, &pools, ttl).await;
                pools.iter().for_each(|pool| outdate(&names, pool));
            }
            _ => sleep(ttl.map_or(LOOK, |ttl| ttl.min(LOOK))).await,
        }
    }
}

async fn look_up(names: &Names, pools: &[Arc<Pool>], ttl: Duration) {
    let hosts = pools.iter().filter(|pool| !pool.is_retired()).flat_map(|pool| &pool.target.hosts);
    let wanted: BTreeSet<&str> = hosts
        .filter_map(|host| match host {
            Host::Tcp(name) if name.parse::<IpAddr>().is_err() => Some(name.as_str()),
            _ => None,
        })
        .collect();
    names.lock().retain(|name, _| wanted.contains(name.as_str()));
    for name in wanted {
        let found = match timeout(LIMIT, lookup_host((name, 0))).await {
            Ok(Ok(found)) => found.map(|address| address.ip()).collect::<BTreeSet<_>>(),
            Ok(Err(error)) => {
                tracing::debug!(name, %error, "a name could not be looked up");
                BTreeSet::new()
            }
            Err(_) => BTreeSet::new(),
        };
        let mut known = names.lock();
        let known = known.entry(name.to_owned()).or_default();
        known.next = Some(Instant::now() + ttl);
        if !found.is_empty() {
            known.note(found);
        }
    }
}

/// Has the servers of a pool replaced, as they become free, that are where none of its hosts is.
fn outdate(names: &Names, pool: &Pool) {
    let mut gone = BTreeSet::new();
    pool.roster().for_each(|entry| {
        if let Address::Tcp(address) = &entry.address
            && !pool.is_outdated(entry)
            && names.have_left(&pool.target.hosts, address.ip())
        {
            entry.outdate();
            gone.insert(address.ip());
        }
    });
    for address in gone {
        let (database, user) = (&*pool.key.database, &*pool.key.user);
        tracing::info!(database, user, %address, "its name leads elsewhere now: its servers are replaced");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(addresses: &[&str]) -> BTreeSet<IpAddr> {
        addresses.iter().map(|address| address.parse().unwrap()).collect()
    }

    #[test]
    fn an_address_is_gone_when_two_lookups_did_not_have_it() {
        let mut known = Known::default();
        let old: IpAddr = "10.0.0.1".parse().unwrap();
        known.note(set(&["10.0.0.1"]));
        assert!(!known.has_left(old));
        known.note(set(&["10.0.0.2"]));
        assert!(!known.has_left(old), "it may be there again next time");
        known.note(set(&["10.0.0.2"]));
        assert!(known.has_left(old));
        assert!(!known.has_left("10.0.0.2".parse().unwrap()));
        known.note(set(&["10.0.0.1"]));
        assert!(!known.has_left(old));
    }

    #[test]
    fn a_server_stays_while_any_of_its_hosts_may_be_there() {
        let names = Names::default();
        let address: IpAddr = "10.0.0.1".parse().unwrap();
        let hosts = [Host::Tcp("a.example".into()), Host::Tcp("10.0.0.1".into())];
        assert!(!names.have_left(&hosts, address), "an address never leaves");
        assert!(!names.have_left(&hosts[..1], address), "nothing is known of the name yet");
        for _ in 0..3 {
            names.lock().entry("a.example".into()).or_default().note(set(&["10.0.0.9"]));
        }
        assert!(names.have_left(&hosts[..1], address));
        assert!(!names.have_left(&hosts, address));
    }
}
