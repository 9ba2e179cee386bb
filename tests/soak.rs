//! A soak: many clients with all kinds of state share fewer servers for long, and each finds its own state after every step
//! and nobody else's. The memory of pgvalet stays flat, and each server that is closed has its reason in the log.
//!
//! Ignored unless asked for: `cargo test --test soak -- --ignored --nocapture`. Environment:
//!
//! - `PGVALET_SOAK_SECONDS`: how long (default 60; 1800 before a release);
//! - `PGVALET_SOAK_CLIENTS`: how many clients (default 500);
//! - `PGVALET_SOAK_PAUSE`: milliseconds that each of them pauses between two steps, on average (default 4000, which takes
//!   about half of one core).

mod support;

#[path = "soak/person.rs"]
mod person;
#[path = "random_conversations/random.rs"]
#[allow(dead_code, reason = "it is made for random conversations")]
mod random;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use person::Person;
use support::backend;
use support::cluster::{Cluster, DATABASE};
use support::pgvalet::Pgvalet;
use support::wire::{Client, Login};

/// Servers of the pool: more than clients keep at the same time.
const POOL_SIZE: usize = 90;
/// Between two looks at the process.
const LOOK: Duration = Duration::from_secs(10);

/// What all have in common.
#[derive(Debug)]
struct Stage {
    valet: Pgvalet,
    clients: usize,
    pause: Duration,
    enough: AtomicBool,
    steps: AtomicU64,
    logins: AtomicU64,
    findings: Mutex<Vec<String>>,
}

/// What the process looked like at one moment.
#[derive(Debug, Clone, Copy)]
struct Look {
    seconds: u64,
    kib: u64,
    files: usize,
}

#[test]
#[ignore = "takes as long as one wants: PGVALET_SOAK_SECONDS"]
fn everybody_finds_their_own_state_and_nobody_elses_for_long() {
    let number = |name: &str, default: u64| {
        std::env::var(name).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name}={text}")))
    };
    let length = Duration::from_secs(number("PGVALET_SOAK_SECONDS", 60));
    let clients = usize::try_from(number("PGVALET_SOAK_CLIENTS", 500)).expect("a number of threads");
    let pause = Duration::from_millis(number("PGVALET_SOAK_PAUSE", 4000));

    let cluster = Cluster::start();
    person::prepare(&cluster);
    let stage = Stage {
        valet: in_front_of(&cluster, clients),
        clients,
        pause,
        enough: AtomicBool::new(false),
        steps: AtomicU64::new(0),
        logins: AtomicU64::new(0),
        findings: Mutex::default(),
    };
    let looks = std::thread::scope(|scope| {
        for number in 0..clients {
            let stage = &stage;
            let build = std::thread::Builder::new().stack_size(256 << 10);
            build.spawn_scoped(scope, move || live(stage, number)).expect("a thread for each client");
        }
        let looks = watch(&stage, length);
        stage.enough.store(true, Ordering::Relaxed);
        looks
    });
    judge(&stage, &cluster, &looks);
}

fn in_front_of(cluster: &Cluster, clients: usize) -> Pgvalet {
    Pgvalet::in_front_of(cluster)
        .setting("auth_type = \"trust\"")
        .setting("admin_users = [\"postgres\"]")
        .setting("log_connections = false")
        .setting("log_disconnections = false")
        .setting("workers = 2")
        .setting(&format!("max_client_conn = {}", clients + 50))
        .setting(&format!("default_pool_size = {POOL_SIZE}"))
        .start()
}

/// One client after the other, each with a session of its own.
fn live(stage: &Stage, number: usize) {
    let mut seed = u64::try_from(number).expect("a small number");
    // Not all at once.
    std::thread::sleep(stage.pause * u32::try_from(number).expect("a small number") / 100);
    while !stage.enough.load(Ordering::Relaxed) {
        stage.logins.fetch_add(1, Ordering::Relaxed);
        let mut person = match Person::arrive(&stage.valet, number, seed) {
            Ok(person) => person,
            Err(finding) => return stage.note(finding),
        };
        seed = seed.wrapping_add(1_000_003);
        loop {
            std::thread::sleep(person.pause(stage.pause));
            if stage.enough.load(Ordering::Relaxed) {
                return person.leave();
            }
            stage.steps.fetch_add(1, Ordering::Relaxed);
            match person.step() {
                Ok(true) => {}
                Ok(false) => {
                    person.vanish();
                    break;
                }
                Err(finding) => {
                    stage.note(format!("client {number}: {finding}; it had said:{}", person.recent()));
                    break;
                }
            }
        }
    }
}

impl Stage {
    fn note(&self, finding: String) {
        println!("FINDING: {finding}");
        self.findings.lock().unwrap_or_else(PoisonError::into_inner).push(finding);
    }
}

/// Looks at the process now and then until the time is over.
fn watch(stage: &Stage, length: Duration) -> Vec<Look> {
    let start = Instant::now();
    let mut looks = Vec::new();
    while start.elapsed() < length {
        std::thread::sleep(LOOK.min(length));
        let look = Look {
            seconds: start.elapsed().as_secs(),
            kib: stage.valet.rss_kib(),
            files: stage.valet.open_files(),
        };
        println!(
            "{:5} s: {} KiB, {} files, {} steps, {} logins",
            look.seconds,
            look.kib,
            look.files,
            stage.steps.load(Ordering::Relaxed),
            stage.logins.load(Ordering::Relaxed)
        );
        looks.push(look);
    }
    looks
}

fn judge(stage: &Stage, cluster: &Cluster, looks: &[Look]) {
    let findings = stage.findings.lock().unwrap_or_else(PoisonError::into_inner);
    assert!(findings.is_empty(), "{} findings:\n{}", findings.len(), findings.join("\n"));
    println!(
        "{} clients in {} logins made {} steps",
        stage.clients,
        counted(&stage.logins),
        counted(&stage.steps)
    );

    // Every connection that PostgreSQL has seen was opened by pgvalet, and what is not there any more it closed for a reason.
    let mut console =
        Client::login(&stage.valet.tcp(), &Login::new("postgres", "pgvalet")).expect("the admin console");
    let counter = |console: &mut Client, name: &str| -> u64 {
        let messages = console.query("SHOW COUNTERS");
        let columns = messages.iter().find_map(backend::Message::columns).expect("a table has columns");
        let at = columns.iter().position(|column| column == name).unwrap_or_else(|| panic!("no {name}"));
        backend::rows(&messages)
            .iter()
            .filter(|row| row[0].as_deref() == Some(DATABASE))
            .map(|row| row[at].as_deref().unwrap_or_default().parse::<u64>().expect("a number"))
            .sum()
    };
    let (closes, lost) = (counter(&mut console, "closes"), counter(&mut console, "lost_servers"));
    let reasons = stage.valet.count_log(&["server closed", "reason="]) as u64;
    let said_lost = stage.valet.count_log(&["server lost", "reason="]) as u64;
    println!(
        "servers closed: {closes}, of them with a reason: {reasons}; lost: {lost}, said so: {said_lost}"
    );
    assert_eq!((reasons + said_lost, lost), (closes, said_lost), "each has its reason in the log");
    assert_eq!(lost, 0, "nobody ended a server");
    assert!(!cluster.log().contains("PANIC") && !cluster.log().contains("terminated by signal"));

    // Memory: the last fifth against the second one, when all pools and caches are filled.
    let fifth = looks.len() / 5;
    if fifth >= 3 {
        let mean = |looks: &[Look]| looks.iter().map(|look| look.kib).sum::<u64>() / looks.len() as u64;
        let (early, late) = (mean(&looks[fifth..2 * fifth]), mean(&looks[looks.len() - fifth..]));
        println!("memory: {early} KiB in the second fifth, {late} KiB in the last");
        assert!(late <= early + early / 10 + 1024, "memory has grown from {early} to {late} KiB");
    }
}

fn counted(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}
