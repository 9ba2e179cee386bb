//! What a login has to know of the machine: its network addresses, its users, and the addresses behind host names.
//!
//! Nothing here holds a worker up: what can take time runs on a thread of its own, with a limit.

use std::collections::HashMap;
use std::net::{IpAddr, ToSocketAddrs};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::alarm::timeout;
use nix::ifaddrs::getifaddrs;
use nix::sys::socket::SockaddrStorage;
use nix::unistd::{Uid, User};
use tokio::sync::oneshot;

/// How long the addresses of a name are believed; pgbouncer's `dns_max_ttl`.
const BELIEVED: Duration = Duration::from_secs(15);
/// How long a look-up may take.
const LIMIT: Duration = Duration::from_secs(5);

/// The addresses of this machine with their netmasks.
///
/// # Errors
/// The system's.
pub fn interfaces() -> std::io::Result<Vec<(IpAddr, IpAddr)>> {
    let both = |interface: nix::ifaddrs::InterfaceAddress| {
        Some((ip(interface.address.as_ref()?)?, ip(interface.netmask.as_ref()?)?))
    };
    Ok(getifaddrs()?.filter_map(both).collect())
}

fn ip(address: &SockaddrStorage) -> Option<IpAddr> {
    let four = address.as_sockaddr_in().map(|address| IpAddr::V4(address.ip()));
    four.or_else(|| address.as_sockaddr_in6().map(|address| IpAddr::V6(address.ip())))
}

/// The name of an operating system's user; `None` if there is none, or if nobody could tell in time.
pub async fn os_user(uid: u32) -> Option<String> {
    aside("os-user", move || User::from_uid(Uid::from_raw(uid)).ok().flatten().map(|user| user.name))
        .await
        .flatten()
}

/// Addresses behind host names, looked up at most every 15 seconds, one look-up a name at a time.
#[derive(Debug, Default)]
pub struct HostNames {
    known: Mutex<HashMap<String, Arc<Known>>>,
}

#[derive(Debug, Default)]
struct Known {
    found: tokio::sync::Mutex<Option<(Instant, Option<Vec<IpAddr>>)>>,
}

impl HostNames {
    /// The addresses of `name`, which may have none; `None` where nobody could tell. Names come from the configuration, so there
    /// are few.
    pub async fn addresses(&self, name: &str) -> Option<Vec<IpAddr>> {
        let known = {
            let mut all = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            all.entry(name.to_owned()).or_default().clone()
        };
        let mut found = known.found.lock().await;
        match &*found {
            Some((at, addresses)) if at.elapsed() < BELIEVED => addresses.clone(),
            _ => {
                let addresses = look_up(name).await;
                *found = Some((Instant::now(), addresses.clone()));
                addresses
            }
        }
    }
}

/// What the system's libraries say of a name that is known to have no address.
const NO_ADDRESS: [&str; 3] =
    ["Name or service not known", "No address associated with hostname", "Name does not resolve"];

async fn look_up(name: &str) -> Option<Vec<IpAddr>> {
    let asked = name.to_owned();
    let found = aside("host-name", move || {
        let addresses = (asked.as_str(), 0).to_socket_addrs()?;
        std::io::Result::Ok(addresses.map(|address| address.ip()).collect())
    });
    match found.await {
        Some(Ok(addresses)) => Some(addresses),
        Some(Err(error)) if NO_ADDRESS.iter().any(|text| error.to_string().contains(text)) => {
            tracing::warn!(name, "a host name in auth_hba_file has no address; its line matches nobody");
            Some(Vec::new())
        }
        Some(Err(error)) => {
            tracing::warn!(name, %error, "a host name in auth_hba_file cannot be looked up; its line lets nobody in");
            None
        }
        None => {
            tracing::warn!(
                name,
                "a host name in auth_hba_file could not be looked up in time; its line lets nobody in"
            );
            None
        }
    }
}

/// Runs `work` on a thread of its own; `None` if it takes longer than [`LIMIT`].
///
/// Not one of the threads that derive keys: the system's name services can hang, and logins by password must go on.
async fn aside<T: Send + 'static>(name: &str, work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    let (sender, answer) = oneshot::channel();
    let thread = std::thread::Builder::new().name(name.into()).spawn(move || {
        let _ = sender.send(work());
    });
    if let Err(error) = thread {
        tracing::warn!(%error, "no thread could be started");
        return None;
    }
    timeout(LIMIT, answer).await.ok()?.ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
    }

    #[test]
    fn the_loopback_interface_is_among_this_machines() {
        let loopback = |(address, mask): &(IpAddr, IpAddr)| {
            address.is_loopback() && *mask == "255.0.0.0".parse::<IpAddr>().unwrap()
        };
        assert!(interfaces().unwrap().iter().any(loopback));
    }

    #[test]
    fn user_0_is_root_and_others_may_be_nobody() {
        assert_eq!(run(os_user(0)).as_deref(), Some("root"));
        assert_eq!(run(os_user(4_000_000_000)), None);
    }

    #[test]
    fn host_names_have_addresses_or_none() {
        let names = HostNames::default();
        let addresses = run(names.addresses("localhost")).unwrap();
        assert!(!addresses.is_empty() && addresses.iter().all(IpAddr::is_loopback), "{addresses:?}");
        // Without a name server nobody can tell.
        assert_eq!(run(names.addresses("no such.name.invalid")).unwrap_or_default(), Vec::<IpAddr>::new());
        assert_eq!(run(names.addresses("localhost")), Some(addresses));
    }
}
