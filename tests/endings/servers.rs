//! Servers that end, one by one and all together: who is told, and that the client stays where it can.

use crate::support::backend::{Message, first_error, tags};
use crate::support::cluster::{Cluster, Role, StopMode};
use crate::support::frontend::{bind, copy_data, copy_done, execute, extended, flush, parse, query, sync};
use crate::support::pgvalet::Pgvalet;
use crate::support::wire::{Client, Login, LoginError};
use crate::support::{eventually, within};
use crate::watch::{Console, assert_whole, trusting, wait_sessions};

/// The server that the client has, or would get next in a pool of one.
fn pid_of(client: &mut Client) -> i32 {
    client.value("SELECT pg_backend_pid()").parse().expect("a process id")
}

/// Ends a server and waits until PostgreSQL has forgotten it.
fn end_server(cluster: &Cluster, pid: i32) {
    cluster.terminate_backend(pid);
    wait_sessions(cluster, &format!("pid = {pid}"), 0);
}

#[track_caller]
fn status(messages: &[Message]) -> Option<char> {
    messages.last().and_then(Message::ready)
}

fn scene(pool_size: usize) -> (Cluster, Pgvalet) {
    let cluster = Cluster::start();
    let valet = trusting(&cluster, pool_size).setting("server_login_retry = \"50ms\"").start();
    (cluster, valet)
}

#[test]
fn no_client_hears_of_a_server_that_ends_while_idle() {
    let (cluster, valet) = scene(1);
    let mut client = valet.client(Role::Trust);
    for round in 1..=3 {
        let pid = pid_of(&mut client);
        end_server(&cluster, pid);
        eventually("pgvalet to notice", || (valet.count_log(&["server closed"]) == round).then_some(()));
        assert_ne!(pid_of(&mut client), pid);
    }
    assert_whole(&valet, 1);
}

#[test]
fn a_server_that_ends_in_a_query_is_reported_in_its_own_words_and_the_client_stays() {
    let (cluster, valet) = scene(1);
    let mut client = valet.client(Role::Trust);
    for message in [query("SELECT pg_sleep(600)"), extended("SELECT pg_sleep(600)", &[])] {
        let pid = pid_of(&mut client);
        client.send(&message);
        wait_sessions(&cluster, "state = 'active' AND query LIKE '%pg_sleep%'", 1);
        cluster.terminate_backend(pid);
        let reply = client.until_ready();
        let error = reply.iter().find(|message| message.tag == b'E').expect("an error");
        assert_eq!(error.sqlstate().as_deref(), Some("57P01"));
        assert_eq!(error.field(b'M').as_deref(), Some("terminating connection due to administrator command"));
        assert_eq!(status(&reply), Some('I'));
        assert_ne!(pid_of(&mut client), pid);
    }
    assert_whole(&valet, 1);
}

#[test]
fn a_transaction_whose_server_ended_is_failed_until_the_client_ends_it() {
    let (cluster, valet) = scene(1);
    let mut client = valet.client(Role::Trust);
    cluster.sql("CREATE TABLE lost (x int)");
    for (next, end, tag) in [
        (query("INSERT INTO lost VALUES (2)"), "ROLLBACK", "ROLLBACK"),
        (extended("INSERT INTO lost VALUES (2)", &[]), "ROLLBACK", "ROLLBACK"),
        // What PostgreSQL does to a failed transaction.
        (query("INSERT INTO lost VALUES (2)"), "COMMIT", "ROLLBACK"),
    ] {
        client.query("BEGIN");
        client.query("INSERT INTO lost VALUES (1)");
        let pid = pid_of(&mut client);
        end_server(&cluster, pid);
        // The server's own error, once.
        client.send(&next);
        let reply = client.until_ready();
        assert_eq!((first_error(&reply).as_deref(), status(&reply)), (Some("57P01"), Some('E')), "{reply:?}");
        for message in [query("SELECT 1"), extended("SELECT 1", &[]), query("SELECT 1; SELECT 2")] {
            client.send(&message);
            let reply = client.until_ready();
            assert_eq!(
                (first_error(&reply).as_deref(), status(&reply)),
                (Some("25P02"), Some('E')),
                "{reply:?}"
            );
        }
        let reply = client.query(end);
        assert_eq!(reply[0].command().as_deref(), Some(tag), "{reply:?}");
        assert_eq!((tags(&reply).as_str(), status(&reply)), ("CZ", Some('I')));
        assert_eq!(client.value("SELECT count(*) FROM lost"), "0");
    }
    assert_whole(&valet, 1);
}

#[test]
fn an_idle_client_whose_transaction_was_lost_can_roll_back_first() {
    let (cluster, valet) = scene(1);
    let mut client = valet.client(Role::Trust);
    client.query("BEGIN");
    let pid = pid_of(&mut client);
    end_server(&cluster, pid);
    let reply = client.query("ROLLBACK");
    assert_eq!((first_error(&reply).as_deref(), status(&reply)), (Some("57P01"), Some('E')), "{reply:?}");
    assert_eq!(tags(&client.query("ROLLBACK")), "CZ");
    assert_eq!(client.value("SELECT 1"), "1");
    // And one that leaves instead takes nothing with it.
    client.query("BEGIN");
    let pid = pid_of(&mut client);
    end_server(&cluster, pid);
    client.terminate();
    assert_whole(&valet, 1);
}

#[test]
fn a_server_that_ends_in_copy_in_swallows_no_query_that_follows() {
    let (cluster, valet) = scene(1);
    cluster.sql("CREATE TABLE copied (x text)");
    let mut client = valet.client(Role::Trust);
    for in_transaction in [false, true] {
        if in_transaction {
            client.query("BEGIN");
        }
        let pid = pid_of(&mut client);
        client.send(&query("COPY copied FROM STDIN"));
        client.until(b'G');
        client.send(&copy_data(b"one\n"));
        cluster.terminate_backend(pid);
        let reply = client.until_ready();
        let expected = if in_transaction { 'E' } else { 'I' };
        assert_eq!(
            (first_error(&reply).as_deref(), status(&reply)),
            (Some("57P01"), Some(expected)),
            "{reply:?}"
        );
        // The client may have sent all this before it read the error.
        client.send(&[copy_data(b"two\n"), copy_done(), query("ROLLBACK")].concat());
        assert_eq!(tags(&client.until_ready()).replace('N', ""), "CZ");
        assert_eq!(client.value("SELECT count(*) FROM copied"), "0");
    }
    assert_whole(&valet, 1);
}

#[test]
fn a_server_that_ends_in_copy_out_ends_the_copy_with_an_error() {
    let (cluster, valet) = scene(1);
    let mut client = valet.client(Role::Trust);
    let pid = pid_of(&mut client);
    client.send(&query("COPY (SELECT g, pg_sleep(g - 1) FROM generate_series(1, 600) AS g) TO STDOUT"));
    wait_sessions(&cluster, "state = 'active' AND wait_event = 'PgSleep'", 1);
    cluster.terminate_backend(pid);
    let reply = client.until_ready();
    assert_eq!(first_error(&reply).as_deref(), Some("57P01"), "{reply:?}");
    assert_ne!(pid_of(&mut client), pid);
    assert_whole(&valet, 1);
}

#[test]
fn a_server_that_ends_in_a_batch_fails_the_batch() {
    let (cluster, valet) = scene(1);
    let mut client = valet.client(Role::Trust);
    let pid = pid_of(&mut client);
    client.send(&[parse("", "SELECT 1"), bind("", "", &[]), execute("", 0), flush()].concat());
    client.until(b'C');
    end_server(&cluster, pid);
    let error = client.recv();
    assert_eq!(error.sqlstate().as_deref(), Some("57P01"), "{error:?}");
    // The rest of the batch is skipped, as after every error.
    client.send(&[bind("", "", &[]), execute("", 0), sync()].concat());
    assert_eq!(tags(&client.until_ready()), "Z");
    assert_ne!(pid_of(&mut client), pid);
    assert_whole(&valet, 1);
}

#[test]
fn a_server_that_ends_with_several_requests_unanswered_leaves_no_client_in_doubt() {
    let (cluster, valet) = scene(1);
    let mut client = valet.client(Role::Trust);
    let pid = pid_of(&mut client);
    client.send(&[query("SELECT pg_sleep(600)"), query("SELECT 1"), query("SELECT 2")].concat());
    wait_sessions(&cluster, "state = 'active' AND query LIKE '%pg_sleep%'", 1);
    cluster.terminate_backend(pid);
    // Which of them were done cannot be said, so this client ends; it hears why.
    assert_eq!(first_error(&client.until_end()).as_deref(), Some("57P01"));
    assert_whole(&valet, 1);
}

#[test]
fn a_backend_that_crashes_takes_no_client_along() {
    let (cluster, valet) = scene(3);
    let mut clients: Vec<Client> = (0..4).map(|_| valet.client(Role::Trust)).collect();
    let [running, in_transaction, also_running, idle] = &mut clients[..] else {
        unreachable!("there are four")
    };
    in_transaction.query("BEGIN");
    let pid = {
        running.query("BEGIN");
        let pid = pid_of(running);
        running.query("COMMIT");
        pid
    };
    running.send(&query("SELECT pg_sleep(600)"));
    also_running.send(&query("SELECT pg_sleep(600)"));
    wait_sessions(&cluster, "state = 'active' AND query LIKE '%pg_sleep%'", 2);
    cluster.crash_backend(pid);
    for client in [running, also_running] {
        let reply = client.until_ready();
        let sqlstate = first_error(&reply).expect("an error");
        assert!(["57P02", "08006"].contains(&sqlstate.as_str()), "{reply:?}");
        assert_eq!(status(&reply), Some('I'));
    }
    let reply = in_transaction.query("SELECT 1");
    assert_eq!(status(&reply), Some('E'), "{reply:?}");
    in_transaction.query("ROLLBACK");
    // PostgreSQL refuses logins with 57P03 while it recovers; that is nobody's error here.
    assert_eq!(idle.value("SELECT 'idle'"), "idle");
    for client in &mut clients {
        assert_eq!(client.value("SELECT 'goes on'"), "goes on");
    }
    assert_whole(&valet, 3);
}

#[test]
fn clients_without_a_server_only_wait_while_postgres_is_away() {
    for mode in [StopMode::Fast, StopMode::Immediate] {
        let (cluster, valet) = scene(2);
        let mut clients: Vec<Client> = (0..20).map(|_| valet.client(Role::Trust)).collect();
        for client in &mut clients {
            assert_eq!(client.value("SELECT 1"), "1");
        }
        cluster.stop(mode);
        let mut console = Console::open(&valet);
        for client in clients.iter_mut().skip(5) {
            client.send(&query("SELECT 'after'"));
        }
        console.wait_pool("cl_waiting", 15);
        // Attempts to connect go on, and none of their failures reaches a client.
        let failed = console.stat("failed_connects");
        console.wait_stat("failed_connects", failed + 2);
        std::thread::scope(|scope| {
            // Its settings are new, so that a server has to tell what they come to.
            let new =
                Role::Trust.login().parameter("DateStyle", "German").parameter("extra_float_digits", "1");
            let login = scope.spawn({
                let valet = &valet;
                move || valet.login(&new).value("SHOW DateStyle")
            });
            console.wait_pool("cl_waiting", 16);
            cluster.start_again();
            assert_eq!(login.join().expect("no panic"), "German, DMY");
        });
        for client in clients.iter_mut().skip(5) {
            let reply = client.until_ready();
            assert_eq!(tags(&reply), "TDCZ", "{reply:?}");
        }
        for client in &mut clients {
            assert_eq!(client.value("SELECT 2"), "2");
        }
        assert_whole(&valet, 2);
    }
}

#[test]
fn a_pgvalet_that_starts_before_postgres_serves_when_it_comes() {
    let cluster = Cluster::start();
    cluster.stop(StopMode::Fast);
    let valet = trusting(&cluster, 2).setting("server_login_retry = \"50ms\"").start();
    std::thread::scope(|scope| {
        let logins: Vec<_> =
            (0..5).map(|_| scope.spawn(|| valet.client(Role::Trust).value("SELECT 'served'"))).collect();
        valet.wait_log(&["cannot open a server"]);
        cluster.start_again();
        for login in logins {
            assert_eq!(login.join().expect("no panic"), "served");
        }
    });
}

#[test]
fn clients_in_a_transaction_hear_of_a_restart_in_postgres_words() {
    let (cluster, valet) = scene(2);
    let (mut in_transaction, mut running) = (valet.client(Role::Trust), valet.client(Role::Trust));
    in_transaction.query("BEGIN");
    running.send(&query("SELECT pg_sleep(600)"));
    wait_sessions(&cluster, "state = 'active' AND query LIKE '%pg_sleep%'", 1);
    cluster.restart(StopMode::Fast);
    assert_eq!(first_error(&running.until_ready()).as_deref(), Some("57P01"));
    assert_eq!(running.value("SELECT 1"), "1");
    let reply = in_transaction.query("SELECT 1");
    assert_eq!((first_error(&reply).as_deref(), status(&reply)), (Some("57P01"), Some('E')));
    assert_eq!(tags(&in_transaction.query("ROLLBACK")), "CZ");
    assert_eq!(in_transaction.value("SELECT 2"), "2");
    assert_whole(&valet, 2);
}

#[test]
fn why_postgres_refuses_a_login_reaches_the_client_in_its_own_words() {
    let cluster = Cluster::start();
    cluster.sql("ALTER ROLE app_md5 CONNECTION LIMIT 0");
    let valet = trusting(&cluster, 2)
        .setting("server_login_retry = \"50ms\"")
        .setting("query_wait_timeout = \"500ms\"")
        .database("missing", &cluster, &["dbname = \"no_such_database\""])
        .database("refused", &cluster, &["dbname = \"app\"", "user = \"app_scram\"", "password = \"wrong\""])
        .start();
    for (login, sqlstate) in [
        (Role::Trust.login().database("missing"), "3D000"),
        (Role::Trust.login().database("refused"), "28P01"),
        // It may get better by itself, so the client waits as long as it may, and then hears the reason.
        (Role::Md5.login(), "53300"),
    ] {
        for _ in 0..2 {
            let refused = Client::login(&valet.tcp(), &login).expect_err("there is no server");
            assert_eq!(refused.sqlstate().as_deref(), Some(sqlstate), "{refused}");
            assert!(
                matches!(&refused, LoginError::Refused(message) if message.field(b'V').as_deref() == Some("FATAL"))
            );
        }
    }
    // Mended, it works without anyone touching pgvalet.
    cluster.sql("ALTER ROLE app_md5 CONNECTION LIMIT -1");
    cluster.value("SELECT 1");
    cluster.client(Role::Postgres).query("CREATE DATABASE no_such_database");
    for login in [Role::Md5.login(), Login::new(Role::Trust.name(), "missing")] {
        let client = within(crate::support::DEADLINE, || Client::login(&valet.tcp(), &login).ok());
        assert_eq!(client.expect("it is mended").value("SELECT 1"), "1");
    }
}
