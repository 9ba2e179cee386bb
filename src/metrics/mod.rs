//! Counters. Each is written by one worker and read by whoever looks; nothing here is shared between two writers.

pub mod errors;
pub mod histogram;

pub use errors::ErrorClasses;
pub use histogram::{Distribution, Histogram};

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// A counter with one writer. An add is a plain load and store, not a locked instruction.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `count`. Only the counter's own worker may call it.
    #[inline]
    pub fn add(&self, count: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(count), Ordering::Relaxed);
    }

    /// The current value.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A number that goes up and down, with one writer.
#[derive(Debug, Default)]
pub struct Gauge(AtomicU32);

impl Gauge {
    /// Adds one. Only the gauge's own worker may call it.
    pub fn increment(&self) {
        self.0.store(self.get().wrapping_add(1), Ordering::Relaxed);
    }

    /// Takes one away. Only the gauge's own worker may call it.
    pub fn decrement(&self) {
        self.0.store(self.get().wrapping_sub(1), Ordering::Relaxed);
    }

    /// The current value.
    #[must_use]
    pub fn get(&self) -> u32 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Reasons for a reset that are counted apart; the last one takes every further one.
pub const RESET_REASONS: usize = 17;

macro_rules! counters {
    ($(#[$outer:meta])* $name:ident { $($(#[doc = $doc:literal])* $field:ident,)* }) => {
        $(#[$outer])*
        #[derive(Debug, Default)]
        pub struct $name {
            $($(#[doc = $doc])* pub $field: Counter,)*
        }

        impl $name {
            /// The names of the counters, in order.
            pub const NAMES: &'static [&'static str] = &[$(stringify!($field)),*];

            /// What the counters count, in the same order.
            pub const HELP: &'static [&'static str] = &[$(concat!($($doc),*)),*];

            /// The values of the counters, in the order of their names.
            #[must_use]
            pub fn values(&self) -> Vec<u64> {
                vec![$(self.$field.get()),*]
            }
        }
    };
}

counters! {
    /// What one worker counts for one pool.
    PoolCounters {
        /// Times a server was lent to a client.
        leases,
        /// Transactions that ended.
        transactions,
        /// Queries and batches answered.
        queries,
        /// Bytes from clients.
        received,
        /// Bytes to clients.
        sent,
        /// Clients that had to wait for a server.
        waits,
        /// Parse messages from clients.
        client_parses,
        /// Parse messages sent to servers.
        server_parses,
        /// Bind messages from clients.
        binds,
        /// Client logins.
        logins,
        /// Resets done, of any kind.
        resets,
        /// Resets done by the full reset query.
        full_resets,
        /// Resets that failed, which closed the server.
        failed_resets,
        /// Servers opened.
        connects,
        /// Attempts to open a server that failed.
        failed_connects,
        /// Servers closed.
        closes,
        /// Idle servers taken over from another worker.
        takeovers,
        /// Servers handed over to another worker's waiting client.
        handovers,
        /// Times a client's settings had to be sent to a server.
        setting_syncs,
        /// Times a server was asked what its client had left in the session.
        surveys,
        /// Times a client began to keep a server for itself.
        pins,
        /// Notifications that the shared listener brought to clients.
        notifications,
        /// Errors that pgvalet itself gave to clients.
        pooler_errors,
        /// Servers lost while a client had them.
        lost_servers,
        /// Cancel requests passed on.
        cancels,
    }
}

/// All that one worker counts for one pool: for its name, so that it goes on where a reload replaces the pool.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct WorkerStats {
    /// Plain counters.
    pub counters: PoolCounters,
    /// Time from the first message of a query to its ReadyForQuery.
    pub query_times: Histogram,
    /// Time from the first message of a transaction to its end.
    pub transaction_times: Histogram,
    /// Time that clients who had to wait for a server waited.
    pub wait_times: Histogram,
    /// Resets by reason.
    pub reset_reasons: ResetReasons,
    /// Clients that began to keep a server for themselves, by reason.
    pub pin_reasons: ResetReasons,
    /// Errors that clients got, pgvalet's own included.
    pub errors: ErrorClasses,
    /// Clients that are logged in.
    pub clients: Gauge,
}

/// What ended when a client turned to something else.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Ended {
    /// A query, and how long it took in microseconds.
    pub query: Option<u64>,
    /// A transaction, and how long it took in microseconds.
    pub transaction: Option<u64>,
}

impl WorkerStats {
    /// Counts the times of what ended.
    #[inline]
    pub fn note(&self, ended: Ended) {
        if let Some(time) = ended.query {
            self.query_times.observe(time);
        }
        if let Some(time) = ended.transaction {
            self.transaction_times.observe(time);
        }
    }
}

/// Resets by what made them necessary.
#[derive(Debug, Default)]
pub struct ResetReasons([Counter; RESET_REASONS]);

impl ResetReasons {
    /// Counts the reason at `index`.
    pub fn count(&self, index: usize) {
        self.0[index.min(RESET_REASONS - 1)].add(1);
    }

    /// How often the reason at `index` was counted.
    #[must_use]
    pub fn get(&self, index: usize) -> u64 {
        self.0.get(index).map_or(0, Counter::get)
    }
}
