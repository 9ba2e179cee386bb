//! Random conversations of several clients with few servers: each client is answered as if it had PostgreSQL to itself.
//!
//! A seed makes a script. It is played to PostgreSQL, where each client has a session of its own, and to a pgvalet of its
//! own, where all share one to three servers; each client's replies must be the same, message by message. After that the
//! servers must be as new. Environment:
//!
//! - `PGVALET_CONVERSATIONS`: how many (default 120, and 80 about what only one server has);
//! - `PGVALET_SEED`: the first seed, the others follow (default 1);
//! - `PGVALET_TOPICS`: what else to talk about, such as `ddl,prepare` (see `vocabulary`).
//!
//! What differs is made shorter and printed with its seed; `PGVALET_SEED=7 PGVALET_CONVERSATIONS=1` plays one again.

mod support;

#[path = "random_conversations/generate.rs"]
mod generate;
#[path = "random_conversations/ledger.rs"]
mod ledger;
#[path = "random_conversations/play.rs"]
mod play;
#[path = "random_conversations/random.rs"]
mod random;
#[path = "random_conversations/script.rs"]
mod script;
#[path = "random_conversations/traces.rs"]
mod traces;
#[path = "random_conversations/verdict.rs"]
mod verdict;
#[path = "random_conversations/vocabulary.rs"]
mod vocabulary;

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use play::{Limits, Transcript, play};
use script::Script;
use support::cluster::{Cluster, Role};
use support::differential::Side;
use support::pgvalet::Pgvalet;
use support::wire::Client;

const CONVERSATIONS: u64 = 120;
const CONVERSATIONS_WITH_STATE: u64 = 80;
const THREADS: usize = 3;
/// For a reply that is due.
const DEADLINE: Duration = Duration::from_secs(20);
/// The same, in the search for a shorter script: there nothing is lost if it is too short.
const SHORT_DEADLINE: Duration = Duration::from_secs(3);
const SHRINKING: Duration = Duration::from_secs(90);

#[test]
fn each_client_is_answered_as_if_it_had_postgresql_to_itself() {
    converse("talk", CONVERSATIONS, false);
}

/// Temporary tables, locks, cursors, sequences: what keeps a client on a server, and what ends it. And notifications.
#[test]
fn each_client_finds_the_state_of_its_session_again() {
    converse("state", CONVERSATIONS_WITH_STATE, true);
}

fn converse(name: &str, conversations: u64, with_state: bool) {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().expect("a number"));
    let first = number("PGVALET_SEED").unwrap_or(1);
    let count = number("PGVALET_CONVERSATIONS").unwrap_or(conversations);
    let next = AtomicU64::new(0);
    let findings = Mutex::new(Vec::new());
    let cluster = Cluster::shared();
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let (next, findings) = (&next, &findings);
            scope.spawn(move || {
                let stage = Stage::build(cluster, &format!("{name}{thread}"), with_state);
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    if index >= count {
                        return;
                    }
                    if let Err(finding) = stage.conversation(first + index) {
                        eprintln!("{finding}");
                        findings.lock().expect("no thread panicked").push(first + index);
                    }
                }
            });
        }
    });
    let findings = findings.into_inner().expect("no thread panicked");
    assert!(findings.is_empty(), "conversations went wrong, see above: seeds {findings:?}");
}

/// A database for one conversation at a time.
struct Stage<'a> {
    cluster: &'a Cluster,
    database: String,
    /// What a new session of it carries.
    fresh: traces::State,
    /// Whether sessions are to hold what only one server has.
    with_state: bool,
}

impl<'a> Stage<'a> {
    fn build(cluster: &'a Cluster, database: &str, with_state: bool) -> Self {
        let owner = Role::Trust.name();
        cluster.sql(&format!("CREATE DATABASE {database} OWNER {owner}"));
        let login = Role::Trust.login().database(database);
        let mut session = Client::login(&cluster.tcp(), &login).expect("the owner logs in");
        let fresh = traces::state(&mut session);
        (0..generate::MOST_CLIENTS).for_each(|client| drop(session.rows(&vocabulary::build(client))));
        session.terminate();
        Self { cluster, database: database.into(), fresh, with_state }
    }

    fn conversation(&self, seed: u64) -> Result<(), String> {
        let script = generate::script(seed, self.with_state);
        let truth = self.ask_postgresql(&script);
        if let Some(flaw) = verdict::flaw(&truth) {
            return Err(format!(
                "PostgreSQL itself does not go through with seed {seed}:\n{script:?}\n{flaw}"
            ));
        }
        let Err(finding) = self.ask_pgvalet(&script, &truth, DEADLINE) else { return Ok(()) };
        if let Some(flicker) = verdict::difference(&truth, &self.ask_postgresql(&script)) {
            return Err(format!(
                "PostgreSQL itself is not the same twice with seed {seed}:\n{script:?}\n{flicker}"
            ));
        }
        let mut last = finding;
        let shortest = verdict::shrink(&script, SHRINKING, |script| {
            let truth = self.ask_postgresql(script);
            if verdict::flaw(&truth).is_some() {
                return false;
            }
            match self.ask_pgvalet(script, &truth, SHORT_DEADLINE) {
                Ok(()) => false,
                Err(finding) => {
                    last = finding;
                    true
                }
            }
        });
        Err(format!("====== pgvalet differs from PostgreSQL: PGVALET_SEED={seed}\n{shortest:?}\n{last}"))
    }

    fn ask_postgresql(&self, script: &Script) -> Vec<Transcript> {
        self.set_tables(script);
        let side = Side::new("PostgreSQL", self.cluster.tcp(), Role::Trust.login().database(&self.database));
        play(script, &side, Limits { servers: usize::MAX, deadline: DEADLINE, cut: false, keepers: 0 })
    }

    fn ask_pgvalet(&self, script: &Script, truth: &[Transcript], deadline: Duration) -> Result<(), String> {
        self.set_tables(script);
        let setup = script.setup;
        let valet = Pgvalet::builder()
            .database(&self.database, self.cluster, &[])
            .all_roles()
            .setting("auth_type = \"trust\"")
            .setting("admin_users = [\"postgres\"]")
            .setting(&format!("default_pool_size = {}", setup.pool_size))
            // Where it is not about what keeps a client on its server, they share as few as there are.
            .setting(&format!("pin_sequences = {}", self.with_state))
            .setting(&format!("workers = {}", setup.workers))
            .setting(&format!("max_prepared_statements = {}", setup.max_prepared_statements))
            .setting(&format!("reset = \"{}\"", setup.reset))
            .start();
        let login = Role::Trust.login().database(&self.database);
        let side = Side::new("pgvalet", valet.tcp(), login.clone());
        let limits = Limits { servers: setup.pool_size, deadline, cut: true, keepers: setup.keepers };
        let seen = play(script, &side, limits);
        let log = || {
            let log: Vec<_> = valet.log().into_iter().filter(|line| !line.contains(" INFO ")).collect();
            format!("log of pgvalet:\n{}", log.join("\n"))
        };
        if let Some(difference) = verdict::difference(truth, &seen) {
            return Err(format!("{difference}\n{}", log()));
        }
        traces::look(&self.fresh, &valet, &login, setup.pool_size)
            .map_err(|found| format!("{found}\n{}", log()))
    }

    /// Makes all tables as they were. Waits for sessions that are still ending; one that never ends is a leak.
    fn set_tables(&self, script: &Script) {
        let login = Role::Trust.login().database(&self.database);
        let mut session = Client::login(&self.cluster.tcp(), &login).expect("the owner logs in");
        let restoring: String = (0..script.clients).map(vocabulary::restore).collect();
        session.rows(&format!("SET lock_timeout = '15s'; {restoring}"));
        session.terminate();
    }
}
