//! Who may come in: the limits that hold for connections before they have proved who they are.
//!
//! Owns the count of connections that are logging in and of those that have logged in, and what each address has failed at
//! lately. Invariants: connections that have proved nothing hold no place of those who have; so many are there at a time and no more;
//! when room is short it is made where most are, by the one that has taken longest. Unix sockets are not limited here: the
//! permissions of their file say who may knock.

use crate::alarm::timeout;
use crate::net::stream::Address;
use lru::LruCache;
use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{Notify, oneshot};

/// How long a login may take before it has to make room for others, where there is none.
const GRACE: Duration = Duration::from_secs(3);
/// Handshakes that may be under way while there is no place for another client.
const LATE: u32 = 8;
/// Addresses whose failures are remembered.
const ADDRESSES: usize = 10_000;
/// Failures that an address may have at once are those of so many seconds.
const BURST: f64 = 10.0;

/// The limits, as configured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Connections that may be logging in; `None`: no limit.
    pub logins: Option<u32>,
    /// Logins of one address that may fail in a second; `None`: no limit.
    pub failures: Option<u32>,
    /// Clients that have logged in.
    pub clients: u32,
}

/// The door that all workers share.
#[derive(Debug)]
pub struct Door {
    inner: Mutex<Inner>,
    /// Told when a login has ended one way or another.
    left: Notify,
    /// Clients that have logged in, those of the admin console excepted.
    clients: AtomicU32,
    /// TLS handshakes under way although there is no place for another client.
    late: AtomicU32,
    counters: Counters,
}

/// What has happened at the door since the start.
#[derive(Debug, Default)]
pub struct Counters {
    /// Connections turned away because their address had failed too often.
    pub barred: AtomicU64,
    /// Logins ended to make room for others.
    pub evicted: AtomicU64,
}

#[derive(Debug)]
struct Inner {
    limits: Limits,
    /// By numbers that are never used again.
    logins: HashMap<u64, Login>,
    next: u64,
    /// Logins of each address, the oldest first.
    by_address: HashMap<IpAddr, VecDeque<u64>>,
    failures: LruCache<IpAddr, Failures>,
    closed: bool,
}

/// A connection that is logging in.
#[derive(Debug)]
struct Login {
    address: IpAddr,
    since: Instant,
    /// Tells it to end.
    evict: oneshot::Sender<()>,
}

/// What an address may still fail at.
#[derive(Debug)]
struct Failures {
    left: f64,
    at: Instant,
    /// The log has been told that it is barred.
    told: bool,
}

/// Leave to log in; given back when dropped.
#[derive(Debug)]
pub struct Ticket {
    door: Arc<Door>,
    /// Its number, where it counts.
    place: Option<u64>,
    failed: bool,
    evicted: Option<oneshot::Receiver<()>>,
}

/// The place of a client that has logged in; given back when dropped.
#[derive(Debug)]
pub struct Place(Arc<Door>);

/// Leave for a handshake, while it lasts.
#[derive(Debug)]
pub struct Handshake(Option<Arc<Door>>);

/// The address has failed too often lately.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Barred {
    /// Whether it was not before: something for the log.
    pub is_news: bool,
}

impl Door {
    /// A door with these limits.
    #[must_use]
    pub fn new(limits: Limits) -> Door {
        let inner = Inner {
            limits,
            logins: HashMap::new(),
            next: 0,
            by_address: HashMap::new(),
            failures: LruCache::unbounded(),
            closed: false,
        };
        Door {
            inner: Mutex::new(inner),
            left: Notify::new(),
            clients: AtomicU32::new(0),
            late: AtomicU32::new(0),
            counters: Counters::default(),
        }
    }

    /// Puts other limits in force. Who is in stays.
    pub fn set_limits(&self, limits: Limits) {
        self.lock().limits = limits;
        self.left.notify_waiters();
    }

    /// Ends all that are logging in: the process shuts down.
    pub fn close(&self) {
        let mut inner = self.lock();
        inner.closed = true;
        inner.by_address.clear();
        for (_, login) in inner.logins.drain() {
            let _ = login.evict.send(());
        }
    }

    /// Whether it was closed.
    pub fn is_closed(&self) -> bool {
        self.lock().closed
    }

    /// Lets a connection in as soon as there is room.
    ///
    /// # Errors
    /// It is not let in at all.
    pub async fn enter(self: &Arc<Door>, peer: &Address) -> Result<Ticket, Barred> {
        let Address::Tcp(address) = peer else {
            return Ok(Ticket { door: self.clone(), place: None, failed: false, evicted: None });
        };
        let address = network(address.ip());
        loop {
            let left = self.left.notified();
            let wait = match self.lock().try_enter(address, Instant::now()) {
                Entry::In(place, evicted, made_room) => {
                    self.counters.evicted.fetch_add(u64::from(made_room), Ordering::Relaxed);
                    let (place, evicted) = (Some(place), Some(evicted));
                    return Ok(Ticket { door: self.clone(), place, failed: false, evicted });
                }
                Entry::Barred(barred) => {
                    self.counters.barred.fetch_add(1, Ordering::Relaxed);
                    return Err(barred);
                }
                Entry::Wait(wait) => wait,
            };
            let _ = timeout(wait, left).await;
        }
    }

    /// A place for a client that has logged in, if there is one.
    pub fn seat(self: &Arc<Door>) -> Option<Place> {
        let limit = self.lock().limits.clients;
        let taken = self.clients.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |clients| {
            (clients < limit).then_some(clients + 1)
        });
        taken.is_ok().then(|| Place(self.clone()))
    }

    /// Whether there is no place for another client.
    pub fn is_full(&self) -> bool {
        self.clients.load(Ordering::Relaxed) >= self.lock().limits.clients
    }

    /// Leave for a TLS handshake, which costs more than all else before a login. Where there is no place for another
    /// client, a few may go on: cancel requests come encrypted too, and so do those who look after pgvalet.
    pub fn handshake(self: &Arc<Door>) -> Option<Handshake> {
        if !self.is_full() {
            return Some(Handshake(None));
        }
        let taken = self
            .late
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |late| (late < LATE).then_some(late + 1));
        taken.is_ok().then(|| Handshake(Some(self.clone())))
    }

    /// Connections over TCP that are logging in.
    pub fn logins(&self) -> usize {
        self.lock().logins.len()
    }

    /// What has happened so far.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What becomes of somebody at the door.
#[derive(Debug)]
enum Entry {
    /// In, as this number; what tells it to leave; whether somebody else had to.
    In(u64, oneshot::Receiver<()>, bool),
    Barred(Barred),
    /// There may be room when this time has passed.
    Wait(Duration),
}

impl Inner {
    fn try_enter(&mut self, address: IpAddr, now: Instant) -> Entry {
        if let Some(barred) = self.barred(address, now) {
            return Entry::Barred(barred);
        }
        let limit = self.limits.logins.map_or(usize::MAX, |limit| limit as usize);
        let mut made_room = false;
        if self.logins.len() >= limit {
            let oldest = self.oldest_of_most();
            let since = oldest.and_then(|oldest| self.logins.get(&oldest)).map_or(now, |login| login.since);
            let age = now.saturating_duration_since(since);
            match oldest {
                Some(oldest) if age >= GRACE => {
                    if let Some(login) = self.remove(oldest, true, now) {
                        let _ = login.evict.send(());
                    }
                    made_room = true;
                }
                _ => return Entry::Wait(GRACE.saturating_sub(age)),
            }
        }
        let (evict, evicted) = oneshot::channel();
        let place = self.next;
        self.next += 1;
        self.logins.insert(place, Login { address, since: now, evict });
        self.by_address.entry(address).or_default().push_back(place);
        Entry::In(place, evicted, made_room)
    }

    /// The login that has taken longest, of the address that has most.
    fn oldest_of_most(&self) -> Option<u64> {
        self.by_address.values().max_by_key(|logins| logins.len())?.front().copied()
    }

    /// Takes a login out, if it is still there.
    fn remove(&mut self, place: u64, failed: bool, now: Instant) -> Option<Login> {
        let login = self.logins.remove(&place)?;
        if let Some(logins) = self.by_address.get_mut(&login.address) {
            logins.retain(|login| *login != place);
            if logins.is_empty() {
                self.by_address.remove(&login.address);
            }
        }
        if failed {
            self.failed(login.address, now);
        }
        Some(login)
    }

    fn barred(&mut self, address: IpAddr, now: Instant) -> Option<Barred> {
        let limit = f64::from(self.limits.failures?);
        let failures = self.failures.get_mut(&address)?;
        failures.recover(limit, now);
        if failures.left >= 1.0 {
            return None;
        }
        Some(Barred { is_news: !std::mem::replace(&mut failures.told, true) })
    }

    fn failed(&mut self, address: IpAddr, now: Instant) {
        let Some(limit) = self.limits.failures.map(f64::from) else { return };
        let fresh = || Failures { left: limit * BURST, at: now, told: false };
        let failures = self.failures.get_or_insert_mut(address, fresh);
        failures.recover(limit, now);
        failures.left = (failures.left - 1.0).max(0.0);
        if self.failures.len() > ADDRESSES {
            self.failures.pop_lru();
        }
    }
}

impl Failures {
    fn recover(&mut self, limit: f64, now: Instant) {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.left = (self.left + passed * limit).min(limit * BURST);
        self.at = now;
        // Half of it back: the next time it is barred is another time.
        self.told &= self.left < limit * BURST / 2.0;
    }
}

impl Ticket {
    /// Ends when the login has to, to make room for others.
    pub fn evicted(&mut self) -> impl Future<Output = ()> + use<> {
        let evicted = self.evicted.take();
        async move {
            let told = match evicted {
                Some(evicted) => evicted.await,
                None => std::future::pending().await,
            };
            // Nobody will tell it any more.
            if told.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// The client has proved who it is: it is not among those that log in any more.
    pub fn pass(&mut self) {
        self.failed = false;
        self.leave();
    }

    /// The client is to blame for what the login came to.
    pub fn fail(&mut self) {
        self.failed = true;
    }

    fn leave(&mut self) {
        if let Some(place) = self.place.take() {
            self.door.lock().remove(place, self.failed, Instant::now());
            self.door.left.notify_one();
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.leave();
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.clients.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for Handshake {
    fn drop(&mut self) {
        if let Some(door) = &self.0 {
            door.late.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// Whom an address stands for: of IPv6, everybody has a network of 64 bits.
fn network(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(six) => {
            let [a, b, c, d, ..] = six.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = "192.0.2.1";
    const OTHER: &str = "192.0.2.2";

    fn inner(logins: u32, failures: u32) -> Inner {
        let limits = Limits { logins: Some(logins), failures: Some(failures), clients: 1 };
        Door::new(limits).inner.into_inner().unwrap()
    }

    fn ip(text: &str) -> IpAddr {
        network(text.parse().unwrap())
    }

    /// The number of a login that gets in, and what would tell it to leave.
    fn enter(inner: &mut Inner, address: &str, now: Instant) -> Result<(u64, oneshot::Receiver<()>), Entry> {
        match inner.try_enter(ip(address), now) {
            Entry::In(place, evicted, _) => Ok((place, evicted)),
            other => Err(other),
        }
    }

    fn is_evicted(evicted: &mut oneshot::Receiver<()>) -> bool {
        evicted.try_recv() == Ok(())
    }

    #[test]
    fn room_is_made_by_the_oldest_of_the_address_that_has_most() {
        let (mut inner, now) = (inner(4, 100), Instant::now());
        let at = |seconds| now + Duration::from_secs(seconds);
        let (_, mut first) = enter(&mut inner, OTHER, now).unwrap();
        let mut many: Vec<_> = (1..4).map(|second| enter(&mut inner, ONE, at(second)).unwrap().1).collect();
        let full = enter(&mut inner, OTHER, at(3));
        assert!(matches!(full, Err(Entry::Wait(wait)) if wait == GRACE - Duration::from_secs(2)));
        assert!(enter(&mut inner, OTHER, at(4)).is_ok());
        assert!(is_evicted(&mut many[0]) && !is_evicted(&mut many[1]) && !is_evicted(&mut first));
        assert_eq!(inner.logins.len(), 4);
    }

    #[test]
    fn who_has_left_is_not_taken_for_another() {
        let (mut inner, now) = (inner(1, 100), Instant::now());
        let (gone, _) = enter(&mut inner, ONE, now).unwrap();
        let (place, _evicted) = enter(&mut inner, ONE, now + GRACE).unwrap();
        assert!(inner.remove(gone, true, now).is_none());
        assert!(inner.logins.contains_key(&place));
        assert!(inner.remove(place, false, now).is_some());
        assert!(inner.logins.is_empty() && inner.by_address.is_empty());
    }

    #[test]
    fn an_address_that_fails_too_often_is_barred_until_time_has_passed() {
        let (mut inner, now) = (inner(10, 2), Instant::now());
        for _ in 0..20 {
            assert!(inner.barred(ip(ONE), now).is_none());
            inner.failed(ip(ONE), now);
        }
        assert_eq!(inner.barred(ip(ONE), now), Some(Barred { is_news: true }));
        assert_eq!(inner.barred(ip(ONE), now), Some(Barred { is_news: false }));
        assert_eq!(inner.barred(ip(OTHER), now), None);
        let later = now + Duration::from_millis(600);
        assert_eq!(inner.barred(ip(ONE), later), None, "one of two a second");
        inner.failed(ip(ONE), later);
        assert_eq!(inner.barred(ip(ONE), later), Some(Barred { is_news: false }));
        inner.limits.failures = None;
        assert_eq!(inner.barred(ip(ONE), later), None);
    }

    #[test]
    fn addresses_of_one_network_of_ipv6_are_one_and_what_is_remembered_is_bounded() {
        assert_eq!(ip("2001:db8:1:2::3"), ip("2001:db8:1:2:ffff::4"));
        assert_ne!(ip("2001:db8:1:2::3"), ip("2001:db8:1:3::3"));
        let (mut inner, now) = (inner(10, 1), Instant::now());
        for number in 0..2 * ADDRESSES as u32 {
            inner.failed(IpAddr::V4(number.into()), now);
        }
        assert_eq!(inner.failures.len(), ADDRESSES);
    }

    #[test]
    fn places_are_given_back() {
        let door = Arc::new(Door::new(Limits { logins: None, failures: None, clients: 1 }));
        let place = door.seat();
        assert!(place.is_some() && door.seat().is_none() && door.is_full());
        drop(place);
        assert!(!door.is_full() && door.seat().is_some());
    }
}
