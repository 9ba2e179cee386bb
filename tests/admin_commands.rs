//! What the commands of the admin console do to clients and servers, under load and with several workers.

mod support;

use std::thread::JoinHandle;

use rustix::process::Signal;
use support::backend::{Message, first_error, rows};
use support::cluster::{Cluster, DATABASE, Role};
use support::pgvalet::{Builder, Pgvalet};
use support::programs::{Pgbench, Report};
use support::wire::{Client, Login};
use support::{Endpoint, eventually, frontend};

const WORKERS: usize = 2;

fn trusting(cluster: &Cluster) -> Builder {
    Pgvalet::in_front_of(cluster)
        .setting("auth_type = \"trust\"")
        .setting("admin_users = [\"postgres\"]")
        .setting(&format!("workers = {WORKERS}"))
}

fn console(valet: &Pgvalet) -> Client {
    valet.login(&Login::new("postgres", "pgbouncer"))
}

/// Gives a command that must succeed.
#[track_caller]
fn order(console: &mut Client, command: &str) {
    let replies = console.query(command);
    assert_eq!(first_error(&replies), None, "{command}: {replies:?}");
}

/// The message of a command that must fail.
#[track_caller]
fn refusal(console: &mut Client, command: &str) -> String {
    let replies = console.query(command);
    let error = replies.iter().find(|message| message.tag == b'E').unwrap_or_else(|| panic!("{replies:?}"));
    format!("{} {}", error.sqlstate().unwrap_or_default(), error.field(b'M').unwrap_or_default())
}

/// The number in a column of SHOW POOLS for the database `app`.
fn pool(console: &mut Client, column: &str) -> u64 {
    let messages = console.query("SHOW POOLS");
    let columns = messages.iter().find_map(Message::columns).expect("columns");
    let at = columns.iter().position(|name| name == column).expect("the column");
    let all = rows(&messages);
    let row =
        all.iter().find(|row| row[0].as_deref() == Some(DATABASE) && row[1].as_deref() == Some("app_trust"));
    row.map_or(0, |row| row[at].as_deref().unwrap_or_default().parse().expect("a number"))
}

fn sessions(cluster: &Cluster) -> usize {
    let sql = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'app_trust'";
    cluster.value(sql).parse().expect("a number")
}

fn backend(client: &mut Client) -> String {
    client.value("SELECT pg_backend_pid()")
}

#[test]
fn a_pause_waits_for_transactions_and_holds_clients_until_resume() {
    let cluster = Cluster::start();
    let valet = trusting(&cluster).start();
    let mut console = console(&valet);
    // More clients than workers, so that each worker has some.
    let mut clients: Vec<Client> = (0..8).map(|_| valet.client(Role::Trust)).collect();
    for client in &mut clients {
        order(client, "BEGIN");
    }
    assert_eq!(sessions(&cluster), 8);
    for client in &mut clients[1..] {
        order(client, "COMMIT");
    }
    console.send(&frontend::query("PAUSE app"));
    eventually("idle servers to be closed", || (sessions(&cluster) == 1).then_some(()));
    let mut other = valet.login(&Login::new("postgres", "pgvalet"));
    let state = rows(&other.query("SHOW STATE"));
    assert_eq!(state[1][1].as_deref(), Some("no"), "the pooler as a whole goes on");
    // Whoever asks now is held; the transaction goes on, and its end ends the pause's wait.
    for client in &mut clients[1..] {
        client.send(&frontend::query("SELECT 'held'"));
    }
    eventually("clients to be held", || (pool(&mut other, "cl_waiting") == 7).then_some(()));
    assert_eq!(clients[0].value("SELECT 'goes on'"), "goes on");
    order(&mut clients[0], "COMMIT");
    assert_eq!(console.until_ready()[0].command().as_deref(), Some("PAUSE"));
    assert_eq!(sessions(&cluster), 0, "PAUSE returns when all servers are closed");
    clients[0].send(&frontend::query("SELECT 'held'"));
    eventually("the last to be held", || (pool(&mut other, "cl_waiting") == 8).then_some(()));
    assert_eq!(sessions(&cluster), 0);

    order(&mut other, "RESUME app");
    for client in &mut clients {
        assert_eq!(rows(&client.until_ready()), [[Some("held".to_owned())]]);
    }
    assert_eq!(refusal(&mut other, "RESUME app"), "55000 database app is not paused");
}

#[test]
fn everything_can_be_paused_by_command_and_by_signal() {
    let cluster = Cluster::start();
    let valet = trusting(&cluster).start();
    let mut console = console(&valet);
    let mut client = valet.client(Role::Trust);
    order(&mut console, "PAUSE");
    assert_eq!(rows(&console.query("SHOW STATE"))[1][1].as_deref(), Some("yes"));
    assert_eq!(refusal(&mut console, "PAUSE"), "55000 already paused");
    assert_eq!(refusal(&mut console, "PAUSE app"), "55000 already paused");
    client.send(&frontend::query("SELECT 1"));
    eventually("the client to be held", || (pool(&mut console, "cl_waiting") == 1).then_some(()));
    order(&mut console, "RESUME");
    client.until_ready();
    assert_eq!(refusal(&mut console, "RESUME"), "55000 pooler is not paused");

    valet.signal(Signal::USR1);
    eventually("the pause", || {
        (rows(&console.query("SHOW STATE"))[1][1].as_deref() == Some("yes")).then_some(())
    });
    client.send(&frontend::query("SELECT 2"));
    eventually("the client to be held", || (pool(&mut console, "cl_waiting") == 1).then_some(()));
    valet.signal(Signal::USR2);
    assert_eq!(rows(&client.until_ready()), [[Some("2".to_owned())]]);
}

#[test]
fn no_transaction_is_lost_under_pauses_and_reconnects() {
    let cluster = Cluster::start();
    let valet = trusting(&cluster).setting("default_pool_size = 4").start();
    cluster.sql("CREATE TABLE done (x int); GRANT ALL ON done TO PUBLIC");
    let bench = Pgbench {
        clients: 10,
        transactions: 40,
        script: Some("BEGIN;\nINSERT INTO done VALUES (1);\nSELECT pg_sleep(0.001);\nCOMMIT;\n".into()),
        ..Pgbench::default()
    };
    let run = bench.spawn(&valet.tcp(), &Role::Trust.login());
    let mut console = console(&valet);
    let transactions = |console: &mut Client| {
        let stats = rows(&console.query("SHOW STATS"));
        let app = stats.iter().find(|row| row[0].as_deref() == Some("app"));
        app.map_or(0, |row| row[2].as_deref().unwrap_or_default().parse::<u64>().expect("a number"))
    };
    let mut orders = 0;
    while !run.is_finished() {
        for commands in [
            &["PAUSE app", "RESUME app"][..],
            &["RECONNECT app"],
            &["WAIT_CLOSE app"],
            &["PAUSE", "RESUME"],
            &["RELOAD"],
            &["SET default_pool_size = 3", "SET server_lifetime = 1", "SET default_pool_size = 4"],
            &["DISABLE app", "ENABLE app"],
        ] {
            commands.iter().for_each(|command| order(&mut console, command));
            // Orders that follow each other faster than a server is opened would leave nobody any.
            let before = transactions(&mut console);
            eventually("work to go on", || {
                (run.is_finished() || transactions(&mut console) > before + 10).then_some(())
            });
        }
        orders += 1;
    }
    let report = run.join().expect("pgbench runs");
    assert_eq!((report.processed, report.failed), (400, 0), "{:?}", report.output);
    assert!(orders > 0);
    assert_eq!(cluster.value("SELECT count(*) FROM done"), "400");
    let mut whole: Vec<Client> = (0..4).map(|_| valet.client(Role::Trust)).collect();
    whole.iter_mut().for_each(|client| order(client, "BEGIN"));
}

/// A run of pgbench that notes each transaction in the table `done`, and would go on for long.
fn noting(endpoint: &Endpoint, database: &str) -> JoinHandle<Report> {
    let script = "BEGIN;\nINSERT INTO done VALUES (1);\nSELECT pg_sleep(0.001);\nCOMMIT;\n";
    let bench =
        Pgbench { clients: 10, transactions: 100_000, script: Some(script.into()), ..Pgbench::default() };
    bench.spawn(endpoint, &Role::Trust.login().database(database))
}

/// The superuser, past pgvalet.
fn in_database(cluster: &Cluster, database: &str) -> Client {
    Client::login(&cluster.unix(), &Role::Postgres.login().database(database)).expect("a login")
}

fn noted(cluster: &Cluster, database: &str) -> u64 {
    let count = in_database(cluster, database).value("SELECT count(*) FROM done");
    count.parse().expect("a number")
}

#[test]
fn a_shutdown_under_load_ends_each_client_between_two_transactions() {
    let cluster = Cluster::start();
    cluster.sql("CREATE TABLE done (x int); GRANT ALL ON done TO PUBLIC");
    let valet = trusting(&cluster).setting("default_pool_size = 4").start();
    let run = noting(&valet.tcp(), DATABASE);
    eventually("work to be done", || (noted(&cluster, DATABASE) > 50).then_some(()));
    order(&mut console(&valet), "SHUTDOWN WAIT_FOR_SERVERS");
    let report = run.join().expect("pgbench runs");
    assert!(
        report.output.stderr.contains("terminating connection due to administrator command"),
        "{report:?}"
    );
    assert_eq!(report.processed, noted(&cluster, DATABASE), "what was committed is what clients were told");
    assert_eq!(valet.wait_exit().code(), Some(0));

    // Told to wait for clients, it lets them work to their end.
    let valet = trusting(&cluster).setting("default_pool_size = 4").start();
    let login = Role::Trust.login();
    let bench = Pgbench {
        clients: 10,
        transactions: 40,
        script: Some("SELECT pg_sleep(0.001);\n".into()),
        ..Pgbench::default()
    };
    let run = bench.spawn(&valet.tcp(), &login);
    eventually("pgbench to run", || (valet.count_log(&["client logged in"]) >= 10).then_some(()));
    order(&mut console(&valet), "SHUTDOWN WAIT_FOR_CLIENTS");
    let report = run.join().expect("pgbench runs");
    assert_eq!((report.processed, report.failed, report.output.code), (400, 0, Some(0)), "{report:?}");
    assert_eq!(valet.wait_exit().code(), Some(0));
}

#[test]
fn kill_under_load_ends_the_clients_of_one_database_and_no_others() {
    let cluster = Cluster::start();
    for database in [DATABASE, "postgres"] {
        in_database(&cluster, database).query("CREATE TABLE done (x int); GRANT ALL ON done TO PUBLIC");
    }
    let valet = trusting(&cluster).setting("default_pool_size = 4").start();
    let [killed, other] = [DATABASE, "postgres"].map(|database| noting(&valet.tcp(), database));
    let works = |database: &str| {
        let before = noted(&cluster, database);
        eventually("work to be done", || (noted(&cluster, database) > before + 50).then_some(()));
    };
    [DATABASE, "postgres"].into_iter().for_each(works);
    let mut console = console(&valet);
    order(&mut console, "KILL app");
    let report = killed.join().expect("pgbench runs");
    assert!(
        report.output.stderr.contains("terminating connection due to administrator command"),
        "{report:?}"
    );
    // Of each client's last transaction nobody was told.
    let done = noted(&cluster, DATABASE);
    assert!((report.processed..=report.processed + 10).contains(&done), "{done}: {report:?}");
    works("postgres");
    assert!(!other.is_finished(), "the other database's clients go on");
    order(&mut console, "RESUME app");
    let after = Pgbench { transactions: 5, script: Some("SELECT 1;\n".into()), ..Pgbench::default() };
    let report = after.run(&valet.tcp(), &Role::Trust.login());
    assert_eq!((report.processed, report.failed), (40, 0), "{report:?}");
    order(&mut console, "SHUTDOWN");
    drop(other.join());
}

#[test]
fn a_pause_that_waits_is_taken_back_by_a_cancel_request_and_by_resume() {
    let cluster = Cluster::start();
    let valet = trusting(&cluster).start();
    let mut holder = valet.client(Role::Trust);
    order(&mut holder, "BEGIN");
    let mut waiting = console(&valet);
    let mut other = console(&valet);
    let is_paused = |console: &mut Client| {
        let databases = rows(&console.query("SHOW DATABASES"));
        let app =
            databases.iter().find(|row| row[0].as_deref() == Some("app")).expect("the database").clone();
        (app[15].as_deref() == Some("1")).then_some(())
    };
    waiting.send(&frontend::query("PAUSE app"));
    eventually("the pause", || is_paused(&mut other));
    waiting.cancel().send().expect("a cancel request is taken");
    assert_eq!(first_error(&waiting.until_ready()).as_deref(), Some("57014"));
    assert_eq!(is_paused(&mut other), None);
    assert_eq!(valet.client(Role::Trust).value("SELECT 1"), "1");

    waiting.send(&frontend::query("PAUSE app"));
    eventually("the pause", || is_paused(&mut other));
    order(&mut other, "RESUME app");
    assert_eq!(first_error(&waiting.until_ready()).as_deref(), Some("55000"));
    order(&mut holder, "COMMIT");
}

#[test]
fn a_pause_that_somebody_else_gave_is_not_taken_back_by_a_cancel_request() {
    let cluster = Cluster::start();
    let valet = trusting(&cluster).start();
    let mut holder = valet.client(Role::Trust);
    order(&mut holder, "BEGIN");
    let (mut first, mut second) = (console(&valet), console(&valet));
    first.send(&frontend::query("PAUSE app"));
    valet.wait_log(&["given on the admin console", "Pause"]);
    second.send(&frontend::query("PAUSE app"));
    eventually("the second pause", || {
        (valet.count_log(&["given on the admin console", "Pause"]) == 2).then_some(())
    });
    second.cancel().send().expect("a cancel request is taken");
    assert_eq!(first_error(&second.until_ready()).as_deref(), Some("57014"));
    order(&mut holder, "COMMIT");
    let answer = first.until_ready();
    assert_eq!(answer[0].command().as_deref(), Some("PAUSE"), "the first pause holds: {answer:?}");
    order(&mut second, "RESUME app");
}

#[test]
fn a_disabled_database_keeps_its_clients_and_takes_no_new_ones() {
    let cluster = Cluster::start();
    let valet = trusting(&cluster).start();
    let mut console = console(&valet);
    let mut old = valet.client(Role::Trust);
    order(&mut console, "DISABLE app");
    let refused = Client::login(&valet.tcp(), &Role::Trust.login()).expect_err("nobody is let in");
    assert_eq!(refused.sqlstate().as_deref(), Some("55000"));
    assert_eq!(old.value("SELECT 'served'"), "served");
    valet.login(&Role::Trust.login().database("postgres")).value("SELECT 1");
    order(&mut console, "ENABLE app");
    valet.client(Role::Trust).value("SELECT 1");
    assert_eq!(refusal(&mut console, "DISABLE"), "42601 a database is required");
    assert_eq!(refusal(&mut console, "ENABLE nosuch"), "3D000 no such database: nosuch");
    assert_eq!(refusal(&mut console, "DISABLE pgbouncer"), "55000 cannot disable admin db: pgbouncer");
}

#[test]
fn kill_ends_all_clients_of_a_database_and_holds_new_ones() {
    let cluster = Cluster::start();
    let valet = trusting(&cluster).start();
    let mut console = console(&valet);
    let mut other = valet.login(&Role::Trust.login().database("postgres"));
    let mut killed: Vec<Client> = (0..6).map(|_| valet.client(Role::Trust)).collect();
    order(&mut killed[0], "BEGIN");
    killed[1].send(&frontend::query("SELECT pg_sleep(1000)"));
    eventually("the query to run", || {
        let sql =
            "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(1000)' AND state = 'active'";
        (cluster.value(sql) != "0").then_some(())
    });
    order(&mut console, "KILL app");
    for client in &mut killed {
        assert_eq!(first_error(&client.until_end()).as_deref(), Some("57P01"));
    }
    eventually("the servers to be closed", || {
        let sql = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'app_trust' AND datname = 'app'";
        (cluster.value(sql) == "0").then_some(())
    });
    assert_eq!(other.value("SELECT 'untouched'"), "untouched");
    let mut new = valet.client(Role::Trust);
    new.send(&frontend::query("SELECT 'resumed'"));
    eventually("the new client to be held", || (pool(&mut console, "cl_waiting") == 1).then_some(()));
    order(&mut console, "RESUME app");
    assert_eq!(rows(&new.until_ready()), [[Some("resumed".to_owned())]]);
    assert_eq!(refusal(&mut console, "KILL nosuch"), "3D000 no such database: nosuch");
    assert_eq!(refusal(&mut console, "KILL pgbouncer"), "55000 cannot kill admin db: pgbouncer");
}

#[test]
fn one_client_can_be_ended_by_its_number() {
    let valet = trusting(Cluster::shared()).start();
    let mut console = console(&valet);
    let mut clients: Vec<Client> = (0..4).map(|_| valet.client(Role::Trust)).collect();
    let shown = rows(&console.query("SHOW CLIENTS"));
    let ids: Vec<String> = shown
        .iter()
        .filter(|row| row[2].as_deref() == Some("app"))
        .map(|row| row[20].clone().expect("an id"))
        .collect();
    assert_eq!(ids.len(), 4);
    for id in &ids[..2] {
        order(&mut console, &format!("KILL_CLIENT {id}"));
    }
    let left = |console: &mut Client| {
        let shown = rows(&console.query("SHOW CLIENTS"));
        shown.iter().filter(|row| row[2].as_deref() == Some("app")).count()
    };
    eventually("two to be gone", || (left(&mut console) == 2).then_some(()));
    let (gone, served) = clients.split_at_mut(2);
    // They were numbered in the order in which they came.
    for client in gone {
        assert_eq!(first_error(&client.until_end()).as_deref(), Some("57P01"));
    }
    for client in served {
        assert_eq!(client.value("SELECT 1"), "1");
    }
    assert_eq!(refusal(&mut console, &format!("KILL_CLIENT {}", ids[0])), "55000 client not found");
    assert_eq!(refusal(&mut console, "KILL_CLIENT x"), "42601 invalid client pointer supplied");
    // An operator can end a session of the console too.
    let mut doomed = self::console(&valet);
    let shown = rows(&console.query("SHOW CLIENTS"));
    let newest = shown.last().expect("a client")[20].clone().expect("an id");
    order(&mut console, &format!("KILL_CLIENT {newest}"));
    assert_eq!(first_error(&doomed.until_end()).as_deref(), Some("57P01"));
}

#[test]
fn reconnect_replaces_servers_when_they_are_free_and_wait_close_waits_for_that() {
    let cluster = Cluster::start();
    let valet = trusting(&cluster).setting("default_pool_size = 2").start();
    let mut console = console(&valet);
    let (mut busy, mut idle) = (valet.client(Role::Trust), valet.client(Role::Trust));
    order(&mut busy, "BEGIN");
    let old = [backend(&mut busy), backend(&mut idle)];
    order(&mut console, "WAIT_CLOSE app");
    order(&mut console, "RECONNECT app");
    let new = backend(&mut idle);
    assert!(!old.contains(&new), "the idle server was replaced");
    assert_eq!(backend(&mut busy), old[0], "a transaction keeps its server");
    let servers = rows(&console.query("SHOW SERVERS"));
    let needed = servers.iter().filter(|row| row[13].as_deref() == Some("1")).count();
    assert_eq!(needed, 1, "close_needed: {servers:?}");
    console.send(&frontend::query("WAIT_CLOSE app"));
    order(&mut busy, "COMMIT");
    assert_eq!(console.until_ready()[0].command().as_deref(), Some("WAIT_CLOSE"));
    assert!(!old.contains(&backend(&mut busy)));
    order(&mut console, "RECONNECT");
    order(&mut console, "WAIT_CLOSE");
    assert_ne!(backend(&mut idle), new);
    assert_eq!(refusal(&mut console, "RECONNECT nosuch"), "3D000 no such database: nosuch");
}

#[test]
fn who_waits_gets_no_server_that_is_to_be_replaced() {
    let cluster = Cluster::start();
    let valet = trusting(&cluster).setting("default_pool_size = 1").start();
    let mut console = console(&valet);
    // On one worker or on two: the server goes to its own line, or is handed to another's.
    for _ in 0..6 {
        let (mut busy, mut waiting) = (valet.client(Role::Trust), valet.client(Role::Trust));
        order(&mut busy, "BEGIN");
        let old = backend(&mut busy);
        waiting.send(&frontend::query("SELECT pg_backend_pid()"));
        eventually("a client to wait", || (pool(&mut console, "cl_waiting") == 1).then_some(()));
        order(&mut console, "RECONNECT app");
        order(&mut busy, "COMMIT");
        assert_ne!(rows(&waiting.until_ready())[0][0], Some(old));
    }
}

#[test]
fn a_setting_holds_at_once_and_until_the_next_reload() {
    let cluster = Cluster::start();
    let valet = trusting(&cluster).setting("default_pool_size = 1").start();
    let mut console = console(&valet);
    let value = |console: &mut Client, key: &str| {
        let config = rows(&console.query("SHOW CONFIG"));
        config.iter().find(|row| row[0].as_deref() == Some(key)).expect("the setting")[1]
            .clone()
            .unwrap_or_default()
    };
    let mut holder = valet.client(Role::Trust);
    order(&mut holder, "BEGIN");
    let mut second = valet.client(Role::Trust);
    second.send(&frontend::query("SELECT 'served'"));
    eventually("the second to wait", || (pool(&mut console, "cl_waiting") == 1).then_some(()));
    let replies = console.query("SET default_pool_size = '2'");
    assert_eq!(replies[0].command().as_deref(), Some("SET default_pool_size=2"));
    assert_eq!(rows(&second.until_ready()), [[Some("served".to_owned())]]);
    assert_eq!(value(&mut console, "default_pool_size"), "2");
    order(&mut console, "SET query_wait_timeout TO 7");
    assert_eq!(value(&mut console, "query_wait_timeout"), "7");
    order(&mut console, "RELOAD");
    assert_eq!(value(&mut console, "default_pool_size"), "1");

    for (command, detail) in [
        ("SET nosuch = 1", "unknown key"),
        ("SET pol_mode = session", "did you mean pool_mode"),
        ("SET default_pool_size = x", "is not a number"),
        ("SET listen_port = 3", "restart"),
        ("SET server_reset_query = ''", "it is empty"),
    ] {
        let replies = console.query(command);
        let error = replies.iter().find(|message| message.tag == b'E').expect("an error");
        assert_eq!(error.field(b'M').as_deref(), Some("SET failed"), "{command}");
        assert!(error.field(b'D').is_some_and(|text| text.contains(detail)), "{command}: {error:?}");
    }
    // What pgbouncer has and pgvalet has no use for is taken, with a word about it.
    let replies = console.query("SET pkt_buf = 8192");
    assert_eq!(replies[0].tag, b'N', "{replies:?}");
    assert_eq!(first_error(&replies), None);
}

#[test]
fn a_reload_of_a_bad_file_says_what_is_wrong() {
    let valet = trusting(Cluster::shared()).start();
    let mut console = console(&valet);
    order(&mut console, "RELOAD");
    valet.write_config(&format!("pol_mode = \"session\"\n{}", valet.config()));
    let text = refusal(&mut console, "RELOAD");
    assert!(text.starts_with("F0000 ") && text.contains("pgvalet.toml:1:"), "{text}");
    assert!(text.contains("did you mean pool_mode"), "{text}");
}

#[test]
fn a_shutdown_ends_at_once_or_waits_for_clients_as_it_is_told() {
    // WAIT_FOR_SERVERS is played in tests/lifecycle.rs.
    let cluster = Cluster::start();
    let valet = trusting(&cluster).start();
    let mut busy = valet.client(Role::Trust);
    order(&mut busy, "BEGIN");
    assert_eq!(console(&valet).query("SHUTDOWN")[0].command().as_deref(), Some("SHUTDOWN"));
    assert_eq!(valet.wait_exit().code(), Some(0));
    eventually("the server to be closed", || (sessions(&cluster) == 0).then_some(()));

    let valet = trusting(&cluster).start();
    let (tcp, mut first, mut second) = (valet.tcp(), valet.client(Role::Trust), valet.client(Role::Trust));
    order(&mut console(&valet), "SHUTDOWN WAIT_FOR_CLIENTS");
    valet.wait_log(&["waiting for all clients to leave"]);
    assert!(Client::connect(&tcp).is_err(), "nobody is let in any more");
    assert_eq!(first.value("SELECT 'served'"), "served");
    first.terminate();
    assert_eq!(second.value("SELECT 'served'"), "served");
    assert_eq!(valet.exit_status(), None);
    second.terminate();
    assert_eq!(valet.wait_exit().code(), Some(0));
}

#[test]
fn told_twice_to_wait_for_clients_it_goes_on_waiting() {
    let cluster = Cluster::start();
    let valet = trusting(&cluster).start();
    let mut client = valet.client(Role::Trust);
    order(&mut client, "BEGIN");
    let mut console = console(&valet);
    order(&mut console, "SHUTDOWN WAIT_FOR_CLIENTS");
    valet.wait_log(&["waiting for all clients to leave"]);
    order(&mut console, "SHUTDOWN WAIT_FOR_CLIENTS");
    // What is asked next is dealt with after that.
    order(&mut console, "SET query_timeout = 5");
    assert_eq!(client.value("SELECT 'still here'"), "still here");
    order(&mut client, "COMMIT");
    client.terminate();
    assert_eq!(valet.wait_exit().code(), Some(0));
}

#[test]
fn what_is_asked_while_transactions_end_is_answered_and_shutdown_ends_at_once() {
    let cluster = Cluster::start();
    let valet = trusting(&cluster).setting("shutdown_timeout = 0").start();
    let mut client = valet.client(Role::Trust);
    order(&mut client, "BEGIN");
    let (mut console, mut other) = (console(&valet), console(&valet));
    order(&mut console, "SHUTDOWN WAIT_FOR_SERVERS");
    valet.wait_log(&["transactions may finish"]);
    for command in ["RELOAD", "SET query_timeout = 5"] {
        let text = format!("{:?}", other.query(command));
        assert!(text.contains("pgvalet is shutting down"), "{text}");
    }
    order(&mut console, "SHUTDOWN WAIT_FOR_SERVERS");
    assert!(refusal(&mut other, "RELOAD").contains("shutting down"));
    assert_eq!(client.value("SELECT 'still here'"), "still here");
    order(&mut other, "SHUTDOWN");
    assert_eq!(valet.wait_exit().code(), Some(0));
}

#[test]
fn kill_without_a_name_leaves_consoles_alone() {
    let valet = trusting(Cluster::shared()).start();
    let (mut first, mut second) = (console(&valet), console(&valet));
    let mut clients: Vec<Client> = (0..4).map(|_| valet.client(Role::Trust)).collect();
    order(&mut first, "KILL");
    for client in &mut clients {
        assert_eq!(first_error(&client.until_end()).as_deref(), Some("57P01"));
    }
    assert_eq!(
        rows(&second.query("SHOW STATE"))[1][1].as_deref(),
        Some("yes"),
        "it pauses all, as KILL does"
    );
    order(&mut second, "RESUME");
    assert_eq!(valet.client(Role::Trust).value("SELECT 1"), "1");
}

#[test]
fn a_command_is_done_whether_or_not_its_sender_stays_for_the_answer() {
    let valet = trusting(Cluster::shared()).start();
    for number in 1..=20 {
        let mut console = console(&valet);
        console.send(&frontend::query(&format!("SET query_timeout = {number}")));
        console.half_close();
        let _ = console.try_until_end();
    }
    eventually("all to be done", || (valet.count_log(&["setting changed"]) == 20).then_some(()));
}

#[test]
fn physical_replication_by_another_name_is_disabled_with_its_database() {
    let cluster = Cluster::builder().hba("host replication all all trust").start();
    let valet = Pgvalet::builder()
        .setting("auth_type = \"trust\"")
        .setting("admin_users = [\"postgres\"]")
        .database(DATABASE, &cluster, &["user = \"postgres\""])
        .all_roles()
        .start();
    let mut console = console(&valet);
    let login = Login::new("postgres", "replication").parameter("replication", "true");
    valet.login(&login);
    order(&mut console, "DISABLE app");
    let error = Client::login(&valet.tcp(), &login).expect_err("the database is disabled");
    assert!(error.to_string().contains("database \"app\" is disabled"), "{error}");
    order(&mut console, "ENABLE app");
    valet.login(&login);
}

#[test]
fn long_answers_come_whole_and_in_pieces() {
    let valet = trusting(Cluster::shared()).setting("stats_users = [\"app_trust\"]").start();
    let clients: Vec<Client> = (0..100).map(|_| valet.client(Role::Trust)).collect();
    let mut console = valet.login(&Login::new("app_trust", "pgbouncer"));
    // Far more than is gathered at a time.
    let replies = console.query(&"SHOW CLIENTS;".repeat(50));
    assert_eq!(rows(&replies).len(), 50 * (clients.len() + 1));
    assert_eq!(replies.iter().filter(|message| message.tag == b'C').count(), 50);
    let replies = console.extended("SHOW CLIENTS", &[]);
    assert_eq!(rows(&replies).len(), clients.len() + 1);
    console.send(&frontend::all(&[
        frontend::parse("", "SHOW CLIENTS"),
        frontend::bind("", "", &[]),
        frontend::execute("", 70),
        frontend::execute("", 70),
        frontend::sync(),
    ]));
    let tags: String = console.until_ready().iter().map(|message| message.tag as char).collect();
    assert_eq!(tags, format!("12{}s{}CZ", "D".repeat(70), "D".repeat(clients.len() + 1 - 70)));
    // What fails in the middle ends the rest.
    let replies = console.query("SHOW CLIENTS; SHOW NOTHING; SHOW CLIENTS");
    assert_eq!((rows(&replies).len(), first_error(&replies).is_some()), (clients.len() + 1, true));
    assert_eq!(replies.last().expect("ReadyForQuery").tag, b'Z');
}

#[test]
fn what_a_stats_user_asks_for_takes_little_memory() {
    let valet = trusting(Cluster::shared()).setting("stats_users = [\"app_trust\"]").start();
    let _clients: Vec<Client> = (0..200).map(|_| valet.client(Role::Trust)).collect();
    let before = valet.rss_kib();
    let mut console = valet.login(&Login::new("app_trust", "pgbouncer"));
    console.shrink_buffers(4096);
    // All of it would be some 100 MB.
    console.send(&frontend::query(&"SHOW CLIENTS;".repeat(1000)));
    // Nobody reads: what is not taken is not made.
    let mut other = self::console(&valet);
    for _ in 0..20 {
        assert_eq!(rows(&other.query("SHOW VERSION")).len(), 1);
    }
    let most = valet.rss_kib();
    assert!(most < before + 24 * 1024, "{before} KiB, then {most}");
    console.until(b'C');
}
