//! Counters. Each is written by one worker and read by whoever looks; nothing here is shared between two writers.

use std::sync::atomic::{AtomicU64, Ordering};

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

/// Reasons for a reset that are counted apart; the last one takes every further one.
pub const RESET_REASONS: usize = 17;

macro_rules! counters {
    ($(#[$outer:meta])* $name:ident { $($(#[$doc:meta])* $field:ident,)* }) => {
        $(#[$outer])*
        #[derive(Debug, Default)]
        pub struct $name {
            $($(#[$doc])* pub $field: Counter,)*
        }

        impl $name {
            /// The names of the counters, in order.
            pub const NAMES: &'static [&'static str] = &[$(stringify!($field)),*];

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
        /// Microseconds between the lease and the end of a transaction.
        transaction_us,
        /// Microseconds that clients waited for a server.
        wait_us,
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
        /// Errors that pgvalet itself gave to clients.
        pooler_errors,
        /// Servers lost while a client had them.
        lost_servers,
        /// Cancel requests passed on.
        cancels,
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
