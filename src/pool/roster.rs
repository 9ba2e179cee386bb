//! The servers of a pool as those who look see them.
//!
//! A server enters the roster when it has logged in and leaves it when it is dropped; the lock is taken for that only. In
//! between its worker notes what becomes of it by relaxed stores into the server's own entry.

use crate::moment::Moment;
use crate::net::stream::Address;
use crate::net::tls::cipher::Cipher;
use crate::pool::{Pool, lock};
use crate::server::Server;
use crate::server::cancel::CancelGate;
use crate::session::Footprint;
use slab::Slab;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

/// Numbers clients and servers: each number is given once in the life of a process (until two thousand million of them
/// have come and gone).
pub fn next_id() -> u32 {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    // Never negative in a column of type int4, and never 0, which means nobody.
    (NEXT.fetch_add(1, Ordering::Relaxed) & 0x7fff_ffff).max(1)
}

/// What becomes of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Duty {
    /// Nobody has it.
    Idle,
    /// A client has it.
    Active,
    /// It is being reset, checked or rolled back.
    Tested,
}

/// The servers of one pool.
#[derive(Debug, Default)]
pub struct Roster(Mutex<Slab<Arc<Entry>>>);

/// One server.
#[derive(Debug)]
pub struct Entry {
    /// Its number.
    pub id: u32,
    /// Where it is.
    pub address: Address,
    /// Our end of the connection.
    pub local: Option<Address>,
    /// The number of its descriptor.
    pub fd: i32,
    /// What the connection is encrypted with.
    pub cipher: Cipher,
    /// Process id of the backend.
    pub pid: i32,
    /// When it logged in.
    pub connected_at: SystemTime,
    /// What it called itself then.
    pub application_name: Box<str>,
    /// Of which generation of the pool's servers it is.
    generation: AtomicU32,
    /// Cancel requests on their way to it.
    cancels: Arc<CancelGate>,
    duty: AtomicU8,
    /// Number of the client that has it, or had it last.
    client: AtomicU32,
    /// When it was last given to a client, as [`Moment::micros`]; 0: never.
    lent_at: AtomicU64,
    prepared: AtomicU32,
    /// What keeps its client on it, as [`Footprint::bits`].
    pins: AtomicU32,
}

/// A server's place in the roster, until dropped.
#[derive(Debug)]
pub struct Enrolled {
    pool: Arc<Pool>,
    key: usize,
    entry: Arc<Entry>,
}

impl Roster {
    /// All servers, as they are now.
    #[must_use]
    pub fn entries(&self) -> Vec<Arc<Entry>> {
        lock(&self.0).iter().map(|(_, entry)| entry.clone()).collect()
    }

    /// Looks at all servers, one by one.
    pub fn for_each(&self, mut look: impl FnMut(&Entry)) {
        lock(&self.0).iter().for_each(|(_, entry)| look(entry));
    }
}

impl Entry {
    /// What becomes of it.
    #[must_use]
    pub fn duty(&self) -> Duty {
        match self.duty.load(Ordering::Relaxed) {
            0 => Duty::Idle,
            1 => Duty::Active,
            _ => Duty::Tested,
        }
    }

    /// The client that has it.
    #[must_use]
    pub fn client(&self) -> Option<u32> {
        let client = self.client.load(Ordering::Relaxed);
        (self.duty() == Duty::Active && client != 0).then_some(client)
    }

    /// How long ago it was last given to a client.
    #[must_use]
    pub fn lent_ago(&self, now: Moment) -> Option<Duration> {
        let at = self.lent_at.load(Ordering::Relaxed);
        (at != 0).then(|| Duration::from_micros(now.micros().saturating_sub(at)))
    }

    /// Statements that pgvalet had prepared on it when it last came back.
    #[must_use]
    pub fn prepared(&self) -> u32 {
        self.prepared.load(Ordering::Relaxed)
    }

    /// What keeps its client on it, if anything.
    #[must_use]
    pub fn pins(&self) -> Footprint {
        Footprint::from_bits(self.pins.load(Ordering::Relaxed))
    }

    /// Notes what keeps its client on it.
    pub(crate) fn set_pins(&self, pins: Footprint) {
        self.pins.store(pins.bits(), Ordering::Relaxed);
    }

    /// Of which generation of the pool's servers it is.
    #[inline]
    #[must_use]
    pub fn generation(&self) -> u32 {
        self.generation.load(Ordering::Relaxed)
    }

    /// Has it replaced as soon as it is free.
    pub fn outdate(&self) {
        // No pool lives to see this generation.
        self.generation.store(u32::MAX, Ordering::Relaxed);
    }

    /// Cancel requests on their way to it.
    #[must_use]
    pub fn cancels(&self) -> u32 {
        self.cancels.pending()
    }
}

impl Enrolled {
    /// Enters a server that has logged in.
    pub(crate) fn new(pool: &Arc<Pool>, server: &Server, generation: u32) -> Enrolled {
        let application_name = server.reported.get(b"application_name").unwrap_or_default();
        let entry = Arc::new(Entry {
            id: next_id(),
            address: server.stream.peer().unwrap_or_else(|| server.address.address.clone()),
            local: server.stream.local(),
            fd: server.stream.fd(),
            cipher: server.stream.cipher(),
            pid: server.key.pid,
            connected_at: SystemTime::now(),
            application_name: String::from_utf8_lossy(application_name).into(),
            generation: AtomicU32::new(generation),
            cancels: server.cancels.clone(),
            duty: AtomicU8::new(2),
            client: AtomicU32::new(0),
            lent_at: AtomicU64::new(0),
            prepared: AtomicU32::new(0),
            pins: AtomicU32::new(0),
        });
        let key = lock(&pool.roster.0).insert(entry.clone());
        Enrolled { pool: pool.clone(), key, entry }
    }

    /// Notes what becomes of the server.
    #[inline]
    pub(crate) fn set_duty(&self, duty: Duty) {
        let duty = match duty {
            Duty::Idle => 0,
            Duty::Active => 1,
            Duty::Tested => 2,
        };
        self.entry.duty.store(duty, Ordering::Relaxed);
    }

    /// Notes to whom the server is given.
    #[inline]
    pub(crate) fn lend(&self, client: u32, now: Moment) {
        self.set_duty(Duty::Active);
        self.entry.client.store(client, Ordering::Relaxed);
        self.entry.lent_at.store(now.micros(), Ordering::Relaxed);
    }

    /// Notes how many statements are prepared on it.
    #[inline]
    pub(crate) fn set_prepared(&self, count: usize) {
        self.entry.prepared.store(count as u32, Ordering::Relaxed);
    }

    /// What those who look see of it.
    pub(crate) fn entry(&self) -> &Arc<Entry> {
        &self.entry
    }

    /// Whether the pool wants servers younger than this one.
    #[inline]
    pub(crate) fn is_outdated(&self) -> bool {
        self.entry.generation() != self.pool.generation()
    }
}

impl Drop for Enrolled {
    fn drop(&mut self) {
        lock(&self.pool.roster.0).try_remove(self.key);
    }
}
