//! What is limited over several pools, and how many clients there may be.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::fixture::{Console, Watch, marked, open_house_with, pid, valet};
use crate::support::backend::{first_error, rows, tags};
use crate::support::cluster::{Cluster, DATABASE, Role};
use crate::support::frontend;
use crate::support::pgvalet::Pgvalet;
use crate::support::wire::{Client, Login};
use crate::support::{DEADLINE, eventually, within};

#[test]
fn max_db_connections_holds_over_the_pools_of_all_users() {
    let valet = valet("db_cap", &["pool_size = 5", "max_db_connections = 3"]).start();
    let mut holders: Vec<Client> =
        [Role::Trust, Role::Trust, Role::Postgres].iter().map(|role| valet.client(*role)).collect();
    holders.iter_mut().for_each(|client| {
        client.query("BEGIN");
    });
    let mut watch = Watch::new("db_cap");
    watch.wait_for(3);
    // Both pools have room of their own; the database has none.
    let mut waiting: Vec<Client> =
        [Role::Trust, Role::Postgres].iter().map(|role| asking(&valet, *role, DATABASE)).collect();
    let mut console = Console::of(&valet);
    console.wait_for_waiting(2);
    assert_eq!(watch.count(), 3);
    holders.iter_mut().for_each(|client| {
        client.query("COMMIT");
    });
    for client in &mut waiting {
        client.until_ready();
        assert_eq!(rows(&client.until_ready())[0][0].as_deref(), Some("5"));
    }
    assert!(watch.count() <= 3);
    console.wait_for_rest(5, 3);
}

#[test]
fn at_max_db_connections_an_idle_server_of_another_pool_makes_room() {
    let valet = valet("db_evict", &["pool_size = 5", "max_db_connections = 2"]).start();
    let mut watch = Watch::new("db_evict");
    let mut console = Console::of(&valet);
    let mut first = valet.client(Role::Trust);
    let mut second = valet.client(Role::Trust);
    first.query("BEGIN");
    second.query("BEGIN");
    watch.wait_for(2);
    let (kept, evicted) = (pid(&mut first), pid(&mut second));
    second.query("COMMIT");
    console.wait_for_idle_servers(1);
    let mut other = valet.client(Role::Postgres);
    assert_eq!(other.value("SELECT current_user"), "postgres");
    let pids = watch.wait_for(2);
    assert!(pids.contains(&kept) && !pids.contains(&evicted), "{pids:?}");
    // And back again, since what the other one has is idle now.
    assert_eq!(second.value("SELECT current_user"), "app_trust");
    assert!(watch.count() <= 2);
    first.query("COMMIT");
    console.wait_for_rest(3, 2);
}

#[test]
fn at_max_db_connections_a_busy_pool_does_not_starve_another() {
    let valet = valet("db_fair", &["pool_size = 2", "max_db_connections = 2"]).setting("workers = 1").start();
    let enough = AtomicBool::new(false);
    let mut console = Console::of(&valet);
    std::thread::scope(|scope| {
        // Their line is never empty, so none of their servers is ever idle.
        for _ in 0..10 {
            scope.spawn(|| {
                let mut client = valet.client(Role::Trust);
                while !enough.load(Ordering::Relaxed) {
                    client.query("SELECT pg_sleep(0.01)");
                }
            });
        }
        eventually("a line", || (console.pools("cl_waiting") > 4).then_some(()));
        let outcome = Client::login(&valet.tcp(), &Role::Postgres.login());
        enough.store(true, Ordering::Relaxed);
        assert!(outcome.is_ok(), "{:?}", outcome.err());
    });
    assert!(Watch::new("db_fair").count() <= 2);
    console.wait_for_rest(0, 2);
}

#[test]
fn max_db_connections_can_shrink_under_load() {
    let valet = valet("db_shrink", &["max_db_connections = 4"]).setting("workers = 1").start();
    let mut watch = Watch::new("db_shrink");
    let enough = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..10 {
            scope.spawn(|| {
                let mut client = valet.client(Role::Trust);
                while !enough.load(Ordering::Relaxed) {
                    client.query("SELECT pg_sleep(0.01)");
                }
            });
        }
        watch.wait_for(4);
        valet.write_config(&valet.config().replace("max_db_connections = 4", "max_db_connections = 1"));
        valet.sighup();
        let shrunk = within(DEADLINE, || (watch.count() == 1).then_some(()));
        enough.store(true, Ordering::Relaxed);
        assert!(shrunk.is_some(), "{} servers in a database of one", watch.count());
    });
    Console::of(&valet).wait_for_rest(0, 1);
}

#[test]
fn max_user_connections_holds_over_the_pools_of_all_databases() {
    let cluster = Cluster::shared();
    let tag = marked("user_cap");
    let valet = open_house_with(&["max_user_connections = 2"])
        .database("one", cluster, &["dbname = \"app\"", &tag])
        .database("two", cluster, &["dbname = \"app\"", &tag])
        .start();
    let login = |role: Role, database: &str| Login::new(role.name(), database);
    let mut holders: Vec<Client> =
        ["one", "two"].iter().map(|database| valet.login(&login(Role::Postgres, database))).collect();
    holders.iter_mut().for_each(|client| {
        client.query("BEGIN");
    });
    let mut watch = Watch::new("user_cap");
    watch.wait_for(2);
    let mut console = Console::of(&valet);
    let mut waiting = asking(&valet, Role::Postgres, "one");
    console.wait_for_waiting(1);
    assert_eq!(watch.count(), 2);
    // Other users are not concerned.
    assert_eq!(valet.login(&login(Role::Trust, "one")).value("SELECT 1"), "1");
    // The place that the other database's server leaves is taken, though that server is not old.
    holders[1].query("COMMIT");
    waiting.until_ready();
    assert_eq!(rows(&waiting.until_ready())[0][0].as_deref(), Some("5"));
    holders[0].query("COMMIT");
    assert!(watch.count() <= 3);
    console.wait_for_rest(3, 3);
}

#[test]
fn a_user_limit_of_its_own_comes_before_the_general_one() {
    let valet = open_house_with(&["max_user_connections = 2"])
        .setting("max_user_connections = 1")
        .setting("query_wait_timeout = \"300ms\"")
        .database(DATABASE, Cluster::shared(), &["pool_size = 5", &marked("user_cap_own")])
        .start();
    for (role, limit) in [(Role::Postgres, 2), (Role::Trust, 1)] {
        let mut clients: Vec<Client> = (0..3).map(|_| valet.client(role)).collect();
        let granted = clients
            .iter_mut()
            .filter_map(|client| first_error(&client.query("BEGIN")).is_none().then_some(()));
        assert_eq!(granted.count(), limit, "{role:?}");
    }
}

#[test]
fn one_client_more_than_max_client_conn_is_refused() {
    let valet = valet("clients_cap", &["pool_size = 1"]).setting("max_client_conn = 3").start();
    let mut clients: Vec<Client> = (0..3).map(|_| valet.client(Role::Trust)).collect();
    for endpoint in [valet.tcp(), valet.unix()] {
        let error = Client::login(&endpoint, &Role::Trust.login()).expect_err("one too many");
        assert_eq!(error.sqlstate().as_deref(), Some("53300"), "{error}");
        assert!(error.to_string().contains("max_client_conn"), "{error}");
    }
    clients.iter_mut().for_each(|client| assert_eq!(client.value("SELECT 1"), "1"));
    clients.pop().expect("a client").terminate();
    eventually("room for another", || Client::login(&valet.tcp(), &Role::Trust.login()).ok());
}

#[test]
fn a_cancel_request_works_when_no_more_clients_are_allowed() {
    let valet = valet("clients_cap_cancel", &["pool_size = 2"]).setting("max_client_conn = 2").start();
    let (mut first, mut second) = (valet.client(Role::Trust), valet.client(Role::Trust));
    let mut watch = Watch::new("clients_cap_cancel");
    for client in [&mut first, &mut second] {
        client.send(&frontend::query("SELECT pg_sleep(3600)"));
    }
    watch.wait_for_running("SELECT pg_sleep(3600)", 2);
    first.cancel().send().expect("a cancel request is taken");
    assert_eq!(first_error(&first.until_ready()).as_deref(), Some("57014"));
    watch.wait_for_running("SELECT pg_sleep(3600)", 1);
    second.cancel().send().expect("a cancel request is taken");
    assert_eq!(tags(&second.until_ready()), "TEZ");
    watch.wait_for_idle();
}

/// A client that logs in and asks something; either may have to wait for a server.
fn asking(valet: &Pgvalet, role: Role, database: &str) -> Client {
    let mut client = Client::connect(&valet.tcp()).expect("pgvalet listens");
    let startup = frontend::startup(&[("user", role.name()), ("database", database)]);
    client.send(&frontend::all(&[startup, frontend::query("SELECT 5")]));
    client
}
