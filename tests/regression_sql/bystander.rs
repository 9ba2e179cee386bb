//! Another client of the same pool, with settings of its own that nobody else may have, and nobody else's.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::support::backend::first_error;
use crate::support::pgvalet::Pgvalet;
use crate::support::wire::{Client, Login};
use crate::{DATABASE, USER};

/// What it has set, and what it must not have.
const LOOK: &str = "SELECT session_user, current_user, current_setting('search_path'), current_setting('DateStyle'), \
    current_setting('work_mem'), current_setting('bystander.mine', true), current_setting('transaction_isolation'), \
    current_setting('enable_seqscan'), (SELECT count(*) FROM pg_catalog.pg_class WHERE relnamespace = pg_catalog.pg_my_temp_schema()), \
    (SELECT count(*) FROM pg_catalog.pg_listening_channels()), \
    (SELECT count(*) FROM pg_catalog.pg_cursors WHERE name <> ''), \
    (SELECT count(*) FROM pg_catalog.pg_locks WHERE pid = pg_catalog.pg_backend_pid() AND locktype = 'advisory')";

/// Between two looks: it is there to be in the way, not to take the processor.
const PAUSE: Duration = Duration::from_millis(15);

/// Runs until it is stopped.
#[derive(Debug)]
pub struct Bystander {
    enough: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Bystander {
    pub fn start(valet: &Pgvalet) -> Self {
        let enough = Arc::new(AtomicBool::new(false));
        let mut client = valet.login(&Login::new(USER, DATABASE));
        for sql in ["SET search_path = pg_catalog", "SET work_mem = '5MB'", "SET bystander.mine = 'yes'"] {
            assert_eq!(first_error(&client.query(sql)), None, "{sql}");
        }
        let stop = Arc::clone(&enough);
        let thread = std::thread::spawn(move || look_around(&mut client, &stop));
        Self { enough, thread }
    }

    /// Panics if it has seen anything.
    pub fn stop(self) {
        self.enough.store(true, Ordering::Relaxed);
        self.thread.join().expect("a client that does nothing wrong is left in peace");
    }
}

fn look_around(client: &mut Client, enough: &AtomicBool) {
    let mine = client.rows(LOOK);
    while !enough.load(Ordering::Relaxed) {
        client.rows("BEGIN");
        let seen = client.rows(LOOK);
        client.rows("COMMIT");
        assert_eq!(seen, mine, "somebody else's session");
        std::thread::sleep(PAUSE);
    }
}
