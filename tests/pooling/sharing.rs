//! One pool, many clients, several workers: the number of servers is exact, the order fair.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::fixture::{Console, Watch, number, pid, valet};
use crate::support::backend::first_error;
use crate::support::cluster::{Cluster, Role};
use crate::support::frontend;
use crate::support::pgvalet::Pgvalet;
use crate::support::wire::Client;
use crate::support::{DEADLINE, eventually, within};

#[test]
fn one_server_serves_a_hundred_clients_of_four_workers() {
    let valet = valet("exactly_one", &["pool_size = 1"]).start();
    let pids = crowd(&valet, "exactly_one", 100, 5, 1);
    assert_eq!(pids.len(), 1, "one backend served everybody: {pids:?}");
    let mut console = Console::of(&valet);
    assert_eq!(console.stat("connects"), 1);
    assert!(console.stat("takeovers") + console.stat("handovers") > 0, "the server went round");
    console.wait_for_rest(0, 1);
}

#[test]
fn three_servers_serve_a_hundred_clients_of_four_workers() {
    let valet = valet("exactly_three", &["pool_size = 3"]).start();
    let pids = crowd(&valet, "exactly_three", 100, 10, 3);
    assert!((1..=3).contains(&pids.len()), "{pids:?}");
    let mut console = Console::of(&valet);
    assert!(console.stat("connects") <= 3);
    console.wait_for_rest(0, 3);
}

#[test]
fn an_idle_server_goes_to_whichever_worker_has_a_client_for_it() {
    let valet = valet("takeover", &["pool_size = 1"]).start();
    let mut console = Console::of(&valet);
    let mut clients = clients_of_several_workers(&valet, &mut console);
    let pids: BTreeSet<_> = clients.iter_mut().map(pid).collect();
    assert_eq!(pids.len(), 1);
    assert!(console.stat("takeovers") > 0);
    assert_eq!(console.stat("connects"), 1);
}

#[test]
fn an_idle_server_of_another_worker_that_has_ended_meanwhile_is_noticed_by_no_client() {
    let valet = valet("takeover_dead", &["pool_size = 2"]).start();
    let mut console = Console::of(&valet);
    let mut watch = Watch::new("takeover_dead");
    let mut clients = clients_of_several_workers(&valet, &mut console);
    for round in 0..10 {
        // Two servers, put down by two clients, perhaps on two workers.
        let (one, others) = clients.split_at_mut(1);
        one[0].query("BEGIN");
        others[0].query("SELECT 1");
        one[0].query("COMMIT");
        let pids = watch.pids();
        pids.iter().for_each(|pid| Cluster::shared().terminate_backend(pid.parse().expect("a number")));
        // Their last words have been sent before they are off the list; the sweep need not have heard them yet.
        eventually("the backends to end", || watch.pids().is_disjoint(&pids).then_some(()));
        for client in &mut clients {
            assert_eq!(first_error(&client.query("SELECT 1")), None, "round {round}");
        }
        assert!(watch.count() <= 2);
        clients.rotate_left(1);
    }
    console.wait_for_rest(clients.len() as u64, 2);
}

#[test]
fn a_server_that_comes_back_is_handed_to_those_who_wait_on_other_workers() {
    let valet = valet("handover", &["pool_size = 1"]).start();
    let mut console = Console::of(&valet);
    let mut clients = clients_of_several_workers(&valet, &mut console);
    // Another worker may be faster and take the server over, so it is tried until a hand-over was seen.
    eventually("a hand-over", || {
        let (holder, others) = clients.split_first_mut().expect("there are clients");
        holder.query("BEGIN");
        others.iter_mut().for_each(|client| client.send(&frontend::query("SELECT 1")));
        console.wait_for_waiting(others.len() as u64);
        holder.query("COMMIT");
        for client in others {
            client.until_ready();
        }
        (console.stat("handovers") > 0).then_some(())
    });
    assert_eq!(console.stat("connects"), 1);
    console.wait_for_rest(clients.len() as u64, 1);
}

#[test]
fn those_who_wait_are_served_in_the_order_of_their_arrival() {
    Cluster::shared()
        .sql("CREATE TABLE pooling_fifo (client int, served timestamptz DEFAULT clock_timestamp())");
    let valet = valet("fifo", &["pool_size = 1"]).setting("workers = 1").start();
    let mut console = Console::of(&valet);
    let mut holder = valet.client(Role::Trust);
    holder.query("BEGIN");
    let mut clients: Vec<Client> = (0..10).map(|_| valet.client(Role::Trust)).collect();
    for (number, client) in clients.iter_mut().enumerate() {
        client.send(&frontend::query(&format!("INSERT INTO pooling_fifo VALUES ({number})")));
        console.wait_for_waiting(number as u64 + 1);
    }
    // Who leaves the line costs nobody behind it a place.
    drop(clients.remove(4));
    console.wait_for_waiting(9);
    let mut canceled = clients.remove(6);
    canceled.cancel().send().expect("a cancel request is taken");
    assert_eq!(first_error(&canceled.until_ready()).as_deref(), Some("57014"));
    assert_eq!(console.pools("cl_waiting"), 8);
    holder.query("COMMIT");
    for client in &mut clients {
        assert_eq!(client.until_ready()[0].command().as_deref(), Some("INSERT 0 1"));
    }
    let served =
        Cluster::shared().value("SELECT string_agg(client::text, ' ' ORDER BY served) FROM pooling_fifo");
    assert_eq!(served, "0 1 2 3 5 6 8 9");
}

#[test]
fn a_pool_that_shrinks_under_load_has_no_server_too_many() {
    let valet = valet("shrinking", &["pool_size = 4"]).setting("workers = 1").start();
    let mut watch = Watch::new("shrinking");
    let enough = AtomicBool::new(false);
    std::thread::scope(|scope| {
        // The line is never empty.
        for _ in 0..20 {
            scope.spawn(|| {
                let mut client = valet.client(Role::Trust);
                while !enough.load(Ordering::Relaxed) {
                    client.query("SELECT pg_sleep(0.01)");
                }
            });
        }
        watch.wait_for(4);
        valet.write_config(&valet.config().replace("pool_size = 4", "pool_size = 1"));
        valet.sighup();
        let shrunk = within(DEADLINE, || (watch.count() == 1).then_some(()));
        enough.store(true, Ordering::Relaxed);
        assert!(shrunk.is_some(), "{} servers in a pool of one", watch.count());
    });
    Console::of(&valet).wait_for_rest(0, 1);
}

/// So many clients at once, each in transactions of two statements, none of whom stops before all have had `rounds`
/// transactions: whoever starves ends the test. Never are there more than `limit` backends. The backends that served.
fn crowd(valet: &Pgvalet, tag: &str, count: usize, rounds: usize, limit: usize) -> BTreeSet<String> {
    let satisfied = AtomicUsize::new(0);
    let mut watch = Watch::new(tag);
    std::thread::scope(|scope| {
        let work = || {
            let _guard = StopOnPanic(&satisfied, count);
            let mut client = valet.client(Role::Trust);
            let mut pids = BTreeSet::new();
            let mut done = 0;
            while satisfied.load(Ordering::Relaxed) < count {
                client.query("BEGIN");
                pids.insert(pid(&mut client));
                client.query("COMMIT");
                done += 1;
                if done == rounds {
                    satisfied.fetch_add(1, Ordering::Relaxed);
                }
            }
            client.terminate();
            pids
        };
        let tasks: Vec<_> = (0..count).map(|_| scope.spawn(work)).collect();
        while !tasks.iter().all(|task| task.is_finished()) {
            let now = watch.count();
            assert!(now <= limit, "{now} backends at a time, {limit} allowed");
            std::thread::yield_now();
        }
        tasks.into_iter().flat_map(|task| task.join().expect("a client's thread does not panic")).collect()
    })
}

/// Lets the others of a crowd go when one of them fails.
struct StopOnPanic<'a>(&'a AtomicUsize, usize);

impl Drop for StopOnPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.fetch_add(self.1, Ordering::Relaxed);
        }
    }
}

/// Enough clients that at least two workers have some.
fn clients_of_several_workers(valet: &Pgvalet, console: &mut Console) -> Vec<Client> {
    let mut clients: Vec<Client> = Vec::new();
    eventually("clients on two workers", || {
        clients.extend((0..8).map(|_| valet.client(Role::Trust)));
        let busy = console.show("WORKERS").iter().filter(|row| number(row, "clients") > 1).count();
        (busy >= 2).then_some(())
    });
    clients
}
