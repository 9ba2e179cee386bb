//! Cancel requests: they stop the query of the client that they name, and nothing else.

mod support;
#[path = "support/watch.rs"]
mod watch;

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use support::backend::first_error;
use support::cluster::{Cluster, Role};
use support::eventually;
use support::frontend;
use support::frontend::{execute, extended, flush, parse, query, sync};
use support::pgvalet::Pgvalet;
use support::wire::{Client, LoginError};
use watch::{Barrier, Console, assert_whole, trusting, wait_sessions};

/// A statement that only a cancel request ends.
const ENDLESS: &str = "SELECT pg_sleep(600)";

#[track_caller]
fn assert_canceled(client: &mut Client) {
    let reply = client.until_ready();
    assert_eq!(first_error(&reply).as_deref(), Some("57014"), "{reply:?}");
}

#[test]
fn the_query_that_runs_is_canceled_and_no_other() {
    let cluster = Cluster::start();
    let valet = trusting(&cluster, 4).start();
    let mut clients: Vec<Client> = (0..3).map(|_| valet.client(Role::Trust)).collect();
    for (number, client) in clients.iter_mut().enumerate() {
        client.send(&query(&format!("/* {number} */ {ENDLESS}")));
    }
    wait_sessions(&cluster, "state = 'active' AND query LIKE '%pg_sleep%'", 3);
    clients[1].cancel().send().expect("the request is taken");
    assert_canceled(&mut clients[1]);
    wait_sessions(&cluster, "state = 'active' AND query LIKE '%pg_sleep%'", 2);
    assert_eq!(clients[1].value("SELECT 'goes on'"), "goes on");
    for number in [0, 2] {
        clients[number].cancel().send().expect("the request is taken");
        assert_canceled(&mut clients[number]);
    }
    assert_whole(&valet, 4);
}

/// In front of the query there are the client's settings: if they were canceled, the query would run without them.
#[test]
fn a_request_that_comes_while_settings_are_put_in_force_waits_for_the_query() {
    let cluster = Cluster::start();
    cluster.sql("CREATE ROLE actor");
    let valet = trusting(&cluster, 1).start();
    let mut console = Console::open(&valet);
    // The ones are sent in front of the query; whether the other can be taken is asked first.
    for setting in ["SET work_mem = '7MB'", "SET ROLE actor"] {
        let (mut one, mut other) = (valet.client(Role::Postgres), valet.client(Role::Postgres));
        assert_eq!(first_error(&one.query(setting)), None);
        let server = other.value("SELECT pg_backend_pid()").parse().expect("a process id");
        cluster.freeze_backend(server, true);
        one.send(&query(ENDLESS));
        let cancel = one.cancel();
        std::thread::scope(|scope| {
            scope.spawn(|| cancel.send().expect("the request is taken"));
            eventually("the request to wait", || {
                let waiting = console.column("SHOW POOLS", "cl_waiting_cancel_req");
                waiting.contains(&"1".to_string()).then_some(())
            });
            cluster.freeze_backend(server, false);
            let reply = one.until_ready();
            assert_eq!(first_error(&reply).as_deref(), Some("57014"), "{setting}: {reply:?}");
            let severity =
                reply.iter().find(|message| message.tag == b'E').and_then(|error| error.field(b'V'));
            assert_eq!(severity.as_deref(), Some("ERROR"), "{setting}");
        });
        assert_eq!(one.value("SELECT current_setting('work_mem') = '7MB' OR current_user = 'actor'"), "t");
    }
    assert!(console.column("SHOW POOLS", "cl_waiting_cancel_req").iter().all(|count| count == "0"));
    assert_eq!(valet.count_log(&["server lost"]), 0);
}

#[test]
fn extended_queries_and_transactions_are_canceled_too() {
    let cluster = Cluster::start();
    let valet = trusting(&cluster, 1).start();
    let mut client = valet.client(Role::Trust);
    let running = |count| wait_sessions(&cluster, "state = 'active' AND query LIKE '%pg_sleep%'", count);
    client.send(&extended(ENDLESS, &[]));
    running(1);
    client.cancel().send().expect("the request is taken");
    assert_canceled(&mut client);
    client.query("BEGIN");
    client.send(&[parse("", ENDLESS), frontend::bind("", "", &[]), execute("", 0), flush()].concat());
    running(1);
    client.cancel().send().expect("the request is taken");
    let reply = client.until(b'E');
    assert_eq!(first_error(&reply).as_deref(), Some("57014"));
    client.send(&sync());
    assert_eq!(client.until_ready().last().and_then(|message| message.ready()), Some('E'));
    assert_eq!(first_error(&client.query("SELECT 1")).as_deref(), Some("25P02"));
    client.query("ROLLBACK");
    assert_eq!(client.value("SELECT 1"), "1");
}

#[test]
fn a_wrong_secret_or_a_stranger_is_ignored() {
    let cluster = Cluster::start();
    let valet = trusting(&cluster, 1).start();
    let mut client = valet.client(Role::Trust);
    let mut barrier = Barrier::close(&cluster, 1);
    client.send(&query(&barrier.sql()));
    barrier.wait_reached();
    let right = client.cancel();
    let mut wrong = right.clone();
    wrong.key[0] ^= 1;
    wrong.send().expect("the connection is just closed");
    for key in [&[][..], &right.key[..3], &[0; 256]] {
        let mut wrong = right.clone();
        wrong.key = key.to_vec();
        // Whether such a packet is answered or not, nothing comes of it.
        let _ = wrong.send();
    }
    for pid in [0, -1, i32::MAX, right.pid + 1, right.pid | (1 << 20)] {
        let mut wrong = right.clone();
        wrong.pid = pid;
        let _ = wrong.send();
    }
    assert_eq!(Console::open(&valet).stat("cancels"), 0, "nothing was passed on");
    barrier.open();
    assert_eq!(first_error(&client.until_ready()), None);
}

#[test]
fn an_idle_clients_request_does_nothing() {
    let cluster = Cluster::start();
    let valet = trusting(&cluster, 1).setting("reset = \"never\"").start();
    let (mut idle, mut next) = (valet.client(Role::Trust), valet.client(Role::Trust));
    assert_eq!(idle.value("SELECT 1"), "1");
    let mut barrier = Barrier::close(&cluster, 1);
    // The next client has the very server that the idle one had.
    next.send(&query(&barrier.sql()));
    barrier.wait_reached();
    for _ in 0..20 {
        idle.cancel().send().expect("the request is taken");
    }
    barrier.open();
    assert_eq!(first_error(&next.until_ready()), None);
    // In a transaction, between two statements, it does nothing either.
    idle.query("BEGIN");
    idle.cancel().send().expect("the request is taken");
    assert_eq!(idle.value("SELECT 2"), "2");
    idle.query("COMMIT");
    assert_eq!(Console::open(&valet).stat("cancels"), 0, "nothing was passed on");
}

#[test]
fn a_late_request_never_hits_the_next_client() {
    const ROUNDS: u32 = 250;
    let cluster = Cluster::start();
    for reset in ["never", "always"] {
        let valet = trusting(&cluster, 1).setting(&format!("reset = \"{reset}\"")).start();
        let (mut canceling, mut victim) = (valet.client(Role::Trust), valet.client(Role::Trust));
        // One that certainly comes in time, however busy the machine is.
        let mut barrier = Barrier::close(&cluster, 7_001);
        canceling.send(&query(&barrier.sql()));
        barrier.wait_reached();
        canceling.cancel().send().expect("the request is taken");
        assert_canceled(&mut canceling);
        barrier.open();
        let (stop, hits, done) = (AtomicBool::new(false), AtomicU32::new(0), AtomicU32::new(0));
        std::thread::scope(|scope| {
            // The victim's statements are short and many: each gets the server right behind a canceled one.
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let reply = victim.query("SELECT pg_sleep(0.0005)");
                    if let Some(sqlstate) = first_error(&reply) {
                        assert_eq!(sqlstate, "57014");
                        hits.fetch_add(1, Ordering::Relaxed);
                    }
                    done.fetch_add(1, Ordering::Relaxed);
                }
            });
            for round in 0..ROUNDS {
                // Short statements, so that requests come before, during and after them.
                let cancel = canceling.cancel();
                let sender = scope.spawn(move || cancel.send());
                let reply = canceling.query(&format!("SELECT pg_sleep({})", f64::from(round % 8) / 4000.0));
                assert!(first_error(&reply).is_none_or(|sqlstate| sqlstate == "57014"), "{reply:?}");
                sender.join().expect("no panic").expect("the request is taken");
            }
            stop.store(true, Ordering::Relaxed);
        });
        assert_eq!(hits.load(Ordering::Relaxed), 0, "with reset = {reset}");
        assert!(done.load(Ordering::Relaxed) > 0);
    }
}

#[test]
fn a_client_in_line_is_taken_out_of_it() {
    let cluster = Cluster::start();
    let valet = trusting(&cluster, 1).start();
    let mut console = Console::open(&valet);
    let (mut holder, mut waiting) = (valet.client(Role::Trust), valet.client(Role::Trust));
    cluster.sql("CREATE TABLE never_written (x int)");
    holder.query("BEGIN");
    for round in 0..3 {
        if round == 1 {
            waiting.send(&extended("INSERT INTO never_written VALUES (1)", &[]));
        } else {
            waiting.send(&query("INSERT INTO never_written VALUES (1)"));
        }
        console.wait_pool("cl_waiting", 1);
        waiting.cancel().send().expect("the request is taken");
        assert_canceled(&mut waiting);
        assert_eq!(console.pool("cl_waiting"), 0);
    }
    holder.query("COMMIT");
    assert_eq!(waiting.value("SELECT count(*) FROM never_written"), "0");
    assert_eq!(console.stat("cancels"), 0, "the holder's server was left alone");
    assert_whole(&valet, 1);
}

#[test]
fn a_client_that_leaves_the_line_lets_the_others_advance() {
    let cluster = Cluster::start();
    let valet = trusting(&cluster, 1).start();
    let mut console = Console::open(&valet);
    let mut clients: Vec<Client> = (0..4).map(|_| valet.client(Role::Trust)).collect();
    clients[0].query("BEGIN");
    for (number, client) in clients.iter_mut().enumerate().skip(1) {
        client.send(&query(&format!("SELECT {number}")));
        console.wait_pool("cl_waiting", number as u64);
    }
    clients[2].cancel().send().expect("the request is taken");
    assert_canceled(&mut clients[2]);
    clients[0].query("COMMIT");
    for number in [1, 3] {
        assert_eq!(first_error(&clients[number].until_ready()), None);
    }
}

#[test]
fn requests_are_taken_when_no_more_clients_are() {
    let cluster = Cluster::start();
    let valet = trusting(&cluster, 1).setting("max_client_conn = 2").start();
    let (mut running, _other) = (valet.client(Role::Trust), valet.client(Role::Trust));
    running.send(&query(ENDLESS));
    wait_sessions(&cluster, "state = 'active' AND query LIKE '%pg_sleep%'", 1);
    let refused = Client::login(&valet.tcp(), &Role::Trust.login()).expect_err("it is full");
    assert!(
        matches!(&refused, LoginError::Refused(message) if message.sqlstate().as_deref() == Some("53300")),
        "{refused}"
    );
    running.cancel().send().expect("the request is taken");
    assert_canceled(&mut running);
    assert_eq!(running.value("SELECT 1"), "1");
}

#[test]
fn requests_reach_clients_of_every_worker() {
    let cluster = Cluster::start();
    let valet = trusting(&cluster, 12).setting("workers = 4").start();
    let mut clients: Vec<Client> = (0..12).map(|_| valet.client(Role::Trust)).collect();
    assert!(spread(&clients) > 1, "the clients are on several workers");
    for client in &mut clients {
        client.send(&query(ENDLESS));
    }
    wait_sessions(&cluster, "state = 'active' AND query LIKE '%pg_sleep%'", 12);
    for client in &mut clients {
        // Each connection of a cancel request is given to any worker.
        client.cancel().send().expect("the request is taken");
        assert_canceled(client);
    }
    assert_whole(&valet, 12);
}

/// How many workers have one of these clients, as far as their process ids tell them apart.
fn spread(clients: &[Client]) -> usize {
    let mut workers: Vec<i32> = clients.iter().map(|client| client.pid() >> 20).collect();
    workers.sort_unstable();
    workers.dedup();
    workers.len()
}

#[test]
fn a_flood_of_requests_harms_nobody() {
    let cluster = Cluster::start();
    let valet: Pgvalet = trusting(&cluster, 2).start();
    let (mut worker, mut target) = (valet.client(Role::Trust), valet.client(Role::Trust));
    target.send(&query(ENDLESS));
    wait_sessions(&cluster, "state = 'active' AND query LIKE '%pg_sleep%'", 1);
    let cancel = target.cancel();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                (0..25).for_each(|_| cancel.send().expect("each connection is closed in good order"))
            });
        }
        for number in 0..100 {
            assert_eq!(worker.value(&format!("SELECT {number}")), number.to_string());
        }
    });
    assert_canceled(&mut target);
    assert_whole(&valet, 2);
}
