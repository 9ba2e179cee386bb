//! Cancel requests for clients of other processes behind the same address.
//!
//! Whatever spreads connections over the processes gives a cancel request to any of them. The key says whose client it means
//! ([`peer_key`]); to that process it is passed on, as pgbouncer passes it on. Invariant: no more than a peer's `pool_size` are
//! on their way to it, and each for `LIMIT` at most.

use crate::alarm::timeout;
use crate::config::{Config, Peer};
use crate::net::Stream;
use crate::net::connect::connect;
use crate::protocol::{frontend, peer_key};
use bytes::BytesMut;
use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::Semaphore;

/// How long a peer gets to take a cancel request.
const LIMIT: Duration = Duration::from_secs(10);

/// What becomes of a cancel request.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// Its client is one of this process, if there is such a client. The secret is the one that the client was told.
    Here(Vec<u8>),
    /// It is passed on to this peer, with this secret.
    Peer(u16, [u8; 4]),
    /// It leads nowhere; why.
    Nowhere(&'static str),
}

/// Where a cancel request goes.
pub(super) fn way(config: &Config, pid: i32, secret: Vec<u8>) -> Way {
    let own = config.general.peer_id;
    if own == 0 {
        return Way::Here(secret);
    }
    let peer = peer_key::peer_of(pid);
    if peer == own {
        return Way::Here(peer_key::settled(&secret));
    }
    if !config.peers.contains_key(&peer) {
        return Way::Nowhere("there is no such peer");
    }
    match peer_key::passed_on(&secret) {
        Some(secret) => Way::Peer(peer, secret),
        None => Way::Nowhere("it was passed on too often"),
    }
}

/// The requests on their way to peers. One for the process.
#[derive(Debug, Default)]
pub struct PeerPools(Mutex<BTreeMap<u16, Arc<PeerPool>>>);

/// The requests on their way to one peer.
#[derive(Debug)]
pub struct PeerPool {
    places: Semaphore,
    size: Option<u32>,
    waiting: AtomicU32,
    active: AtomicU32,
}

impl PeerPools {
    /// Requests that wait, and requests on their way, by peer.
    #[must_use]
    pub fn counts(&self) -> BTreeMap<u16, [u32; 2]> {
        let pools = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count =
            |pool: &PeerPool| [pool.waiting.load(Ordering::Relaxed), pool.active.load(Ordering::Relaxed)];
        pools.iter().map(|(id, pool)| (*id, count(pool))).collect()
    }

    /// Passes a request on and waits until the peer has dealt with it.
    ///
    /// # Errors
    /// The socket's, or `TimedOut`.
    pub(super) async fn pass(
        &self,
        config: &Config,
        id: u16,
        peer: &Peer,
        pid: i32,
        secret: &[u8],
    ) -> io::Result<()> {
        let pool = self.pool(id, peer.pool_size);
        let delivery = async {
            let waiting = Count::of(&pool.waiting);
            // It is never closed.
            let _place = pool.places.acquire().await;
            drop(waiting);
            let _active = Count::of(&pool.active);
            deliver(config, peer, pid, secret).await
        };
        timeout(LIMIT, delivery).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }

    fn pool(&self, id: u16, size: Option<u32>) -> Arc<PeerPool> {
        let mut pools = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(pool) = pools.get(&id).filter(|pool| pool.size == size) {
            return pool.clone();
        }
        let places = size.map_or(Semaphore::MAX_PERMITS, |size| size as usize);
        let (waiting, active) = (AtomicU32::new(0), AtomicU32::new(0));
        let pool = Arc::new(PeerPool { places: Semaphore::new(places), size, waiting, active });
        pools.insert(id, pool.clone());
        pool
    }
}

async fn deliver(config: &Config, peer: &Peer, pid: i32, secret: &[u8]) -> io::Result<()> {
    let mut stream = Stream::Plain(connect(&peer.host, peer.port, &config.general.tcp).await?);
    let mut out = BytesMut::new();
    frontend::cancel(&mut out, pid, secret);
    stream.write_all(&out).await?;
    // The answer is nothing but the end of the stream.
    let mut nothing = [0; 64];
    while stream.read(&mut nothing).await? > 0 {}
    Ok(())
}

/// One more, for as long as it lasts.
struct Count<'a>(&'a AtomicU32);

impl Count<'_> {
    fn of(count: &AtomicU32) -> Count<'_> {
        count.fetch_add(1, Ordering::Relaxed);
        Count(count)
    }
}

impl Drop for Count<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
