//! Opening servers: in the background, several at once, with pauses after failures, up to a minimum, and the reserve.

use crate::fixture::{Console, Watch, error_text, marked, open_house, open_house_with, pid, valet};
use crate::support::backend;
use crate::support::cluster::{Cluster, DATABASE, Role, StopMode};
use crate::support::eventually;
use crate::support::frontend;
use crate::support::scripted::{Act, Gate, ScriptedServer, greeting};
use crate::support::wire::{Client, Login};

#[test]
fn twenty_clients_at_once_get_twenty_servers() {
    let valet = valet("twenty", &["pool_size = 20"]).start();
    let mut clients: Vec<Client> = (0..20).map(|_| valet.client(Role::Trust)).collect();
    clients.iter_mut().for_each(|client| client.send(&frontend::query("BEGIN")));
    clients.iter_mut().for_each(|client| assert_eq!(backend::tags(&client.until_ready()), "CZ"));
    Watch::new("twenty").wait_for(20);
    clients.iter_mut().for_each(|client| client.send(&frontend::query("COMMIT")));
    clients.iter_mut().for_each(|client| assert_eq!(backend::tags(&client.until_ready()), "CZ"));
    Console::of(&valet).wait_for_rest(20, 20);
}

#[test]
fn several_connects_are_under_way_at_once() {
    // Nobody is let in before the test says so: all of them have to be under way together.
    let (scripts, keys): (Vec<_>, Vec<_>) = (0..8)
        .map(|_| {
            let (gate, key) = Gate::new();
            (vec![Act::Startup, Act::Wait(gate), Act::Send(greeting()), Act::Serve("SELECT 0")], key)
        })
        .unzip();
    let server = ScriptedServer::start(scripts);
    let valet =
        open_house().setting("workers = 1").database_at(DATABASE, &server.tcp(), &["pool_size = 8"]).start();
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..8).map(|_| scope.spawn(|| valet.client(Role::Trust))).collect();
        eventually("eight connects", || (server.startups().len() == 8).then_some(()));
        drop(keys);
        for client in clients {
            client.join().expect("the client logged in").terminate();
        }
    });
}

#[test]
fn a_connect_that_hangs_keeps_nobody_from_other_servers() {
    let (gate, _key) = Gate::new();
    let server = ScriptedServer::start(vec![
        vec![Act::Startup, Act::Wait(gate)],
        vec![Act::Login, Act::Serve("SELECT 0")],
    ]);
    let valet =
        open_house().setting("workers = 1").database_at(DATABASE, &server.tcp(), &["pool_size = 2"]).start();
    std::thread::scope(|scope| {
        let first = scope.spawn(|| valet.client(Role::Trust));
        eventually("the connect that hangs", || (server.startups().len() == 1).then_some(()));
        let mut second = valet.client(Role::Trust);
        assert_eq!(backend::tags(&second.query("SELECT")), "CZ");
        first.join().expect("the client that came first has a server too").terminate();
    });
}

#[test]
fn the_client_that_asked_for_a_server_may_leave_and_the_next_one_gets_it() {
    let (gate, key) = Gate::new();
    let server = ScriptedServer::start(vec![vec![
        Act::Startup,
        Act::Wait(gate),
        Act::Send(greeting()),
        Act::Serve("SELECT 0"),
    ]]);
    let valet = open_house().database_at(DATABASE, &server.tcp(), &["pool_size = 1"]).start();
    let mut console = Console::of(&valet);
    let mut first = Client::connect(&valet.tcp()).expect("pgvalet listens");
    first.send(&frontend::startup(&[("user", Role::Trust.name()), ("database", DATABASE)]));
    eventually("the connect", || (server.startups().len() == 1).then_some(()));
    drop(first);
    key.open();
    let mut second = valet.client(Role::Trust);
    assert_eq!(backend::tags(&second.query("SELECT")), "CZ");
    assert_eq!(console.stat("connects"), 1);
    console.wait_for_rest(1, 1);
}

#[test]
fn clients_wait_out_an_absence_of_the_server() {
    let cluster = Cluster::start();
    let valet = open_house()
        .setting("server_login_retry = \"50ms\"")
        .database(DATABASE, &cluster, &["pool_size = 4"])
        .start();
    let mut console = Console::of(&valet);
    let mut clients: Vec<Client> = (0..10).map(|_| valet.client(Role::Trust)).collect();
    cluster.stop(StopMode::Fast);
    // What is sent to a server before its end is known cannot be sent again.
    console.wait_for_rest(10, 0);
    clients.iter_mut().for_each(|client| client.send(&frontend::query("SELECT 7")));
    console.wait_for_stat("failed_connects", 4);
    cluster.start_again();
    for client in &mut clients {
        assert_eq!(backend::rows(&client.until_ready())[0][0].as_deref(), Some("7"));
    }
    console.wait_for_rest(10, 4);
}

#[test]
fn connects_that_fail_together_count_as_one_failure() {
    // If each of them doubled the pause, the next try would come long after the deadline of the clients.
    let refusal = backend::error_response("FATAL", "57P03", "the database system is starting up");
    let (mut scripts, keys): (Vec<_>, Vec<_>) = (0..8)
        .map(|_| {
            let (gate, key) = Gate::new();
            (vec![Act::Startup, Act::Wait(gate), Act::Send(refusal.clone())], key)
        })
        .unzip();
    scripts.extend((0..8).map(|_| vec![Act::Login, Act::Serve("SELECT 0")]));
    let server = ScriptedServer::start(scripts);
    let valet = open_house()
        .setting("workers = 1")
        .setting("server_login_retry = \"2500ms\"")
        .database_at(DATABASE, &server.tcp(), &["pool_size = 8"])
        .start();
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..8).map(|_| scope.spawn(|| valet.client(Role::Trust))).collect();
        eventually("eight connects", || (server.startups().len() == 8).then_some(()));
        drop(keys);
        for client in clients {
            client.join().expect("the client logged in").terminate();
        }
    });
    assert_eq!(Console::of(&valet).stat("failed_connects"), 8);
}

#[test]
fn after_a_failure_nobody_tries_again_before_the_pause_is_over() {
    let cluster = Cluster::start();
    let valet = open_house()
        .setting("server_login_retry = \"1h\"")
        .setting("workers = 1")
        .database(DATABASE, &cluster, &["pool_size = 1"])
        .start();
    let mut clients: Vec<Client> = (0..3).map(|_| valet.client(Role::Trust)).collect();
    // Not before: the first login waits for a server.
    valet.login(&Login::new("postgres", "pgbouncer")).query("SET query_wait_timeout = 0.15");
    cluster.stop(StopMode::Fast);
    let mut console = Console::of(&valet);
    console.wait_for_rest(3, 0);
    for client in &mut clients {
        let error = error_text(&client.query("SELECT 1"));
        assert!(error.starts_with("ERROR: 08001 "), "{error}");
        assert!(error.contains("cannot connect to 127.0.0.1:"), "{error}");
    }
    assert_eq!(console.stat("failed_connects"), 1);
    console.wait_for_rest(3, 0);
}

#[test]
fn what_only_a_person_can_mend_is_told_at_once_in_the_servers_words() {
    let cluster = Cluster::shared();
    let valet = open_house()
        .setting("server_login_retry = \"1h\"")
        .database("gone", cluster, &["dbname = \"no_such_database\""])
        .database("locked", cluster, &["dbname = \"app\"", "user = \"app_scram\"", "password = \"wrong\""])
        .start();
    for (database, sqlstate) in [("gone", "3D000"), ("locked", "28P01")] {
        for _ in 0..2 {
            let error = Client::login(&valet.tcp(), &Login::new(Role::Trust.name(), database))
                .expect_err("no server");
            assert_eq!(error.sqlstate().as_deref(), Some(sqlstate), "{error}");
        }
    }
    Console::of(&valet).wait_for_rest(0, 0);
}

#[test]
fn min_pool_size_is_there_before_any_client_and_kept() {
    let valet = valet("minimum", &["user = \"app_trust\"", "min_pool_size = 3", "pool_size = 5"]).start();
    let mut watch = Watch::new("minimum");
    let pids = watch.wait_for(3);
    let mut console = Console::of(&valet);
    assert_eq!(console.stat("leases"), 0);
    let victim = pids.first().expect("three backends").clone();
    Cluster::shared().terminate_backend(victim.parse().expect("a process id"));
    eventually("another server", || {
        let now = watch.pids();
        (now.len() == 3 && !now.contains(&victim)).then_some(())
    });
    console.wait_for_rest(0, 3);
}

#[test]
fn min_pool_size_outlives_server_idle_timeout() {
    let valet = valet("minimum_idle", &["user = \"app_trust\"", "min_pool_size = 2", "pool_size = 5"])
        .setting("server_idle_timeout = \"200ms\"")
        .start();
    let mut watch = Watch::new("minimum_idle");
    let mut clients: Vec<Client> = (0..5).map(|_| valet.client(Role::Trust)).collect();
    clients.iter_mut().for_each(|client| {
        client.query("BEGIN");
    });
    watch.wait_for(5);
    let mut console = Console::of(&valet);
    let connects = console.stat("connects");
    drop(clients);
    watch.wait_for(2);
    console.wait_for_rest(0, 2);
    assert_eq!(console.stat("connects"), connects, "none was opened in place of one that should have stayed");
}

#[test]
fn the_reserve_opens_for_those_who_waited_for_reserve_pool_timeout() {
    let valet = valet("reserve", &["pool_size = 2", "reserve_pool_size = 1"])
        .setting("reserve_pool_timeout = \"200ms\"")
        .start();
    let mut clients: Vec<Client> = (0..4).map(|_| valet.client(Role::Trust)).collect();
    for client in &mut clients[..2] {
        client.query("BEGIN");
    }
    clients[2].query("BEGIN");
    clients[3].send(&frontend::query("SELECT pg_backend_pid()"));
    let mut console = Console::of(&valet);
    console.wait_for_waiting(1);
    let pids = Watch::new("reserve").wait_for(3);
    let third = pid(&mut clients[2]);
    clients[2].query("COMMIT");
    assert_eq!(backend::rows(&clients[3].until_ready())[0][0].as_deref(), Some(&*third));
    assert!(pids.contains(&third));
    for client in &mut clients[..2] {
        client.query("COMMIT");
    }
    console.wait_for_rest(4, 3);
}

#[test]
fn without_reserve_pool_timeout_the_reserve_stays_shut() {
    let valet =
        valet("no_reserve", &["pool_size = 1", "reserve_pool_size = 1", "query_wait_timeout = \"300ms\""])
            .setting("reserve_pool_timeout = 0")
            .start();
    let (mut holder, mut other) = (valet.client(Role::Trust), valet.client(Role::Trust));
    holder.query("BEGIN");
    assert_eq!(backend::first_error(&other.query("SELECT 1")).as_deref(), Some("53300"));
    assert_eq!(Watch::new("no_reserve").count(), 1);
}

#[test]
fn a_user_can_have_a_reserve_of_its_own() {
    let valet = open_house_with(&["reserve_pool_size = 2"])
        .setting("reserve_pool_timeout = \"100ms\"")
        .setting("query_wait_timeout = \"5s\"")
        .database(DATABASE, Cluster::shared(), &["pool_size = 1", &marked("user_reserve")])
        .start();
    let mut clients: Vec<Client> = (0..3).map(|_| valet.client(Role::Postgres)).collect();
    clients.iter_mut().for_each(|client| assert_eq!(backend::tags(&client.query("BEGIN")), "CZ"));
    Watch::new("user_reserve").wait_for(3);
}
