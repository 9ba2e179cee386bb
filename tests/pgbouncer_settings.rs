//! Settings that pgbouncer has: who is let in and how greeted, how long things may take, which server is lent.

mod support;

use std::collections::BTreeSet;

use support::backend::{Message, first_error, rows};
use support::cluster::{Cluster, DATABASE, PASSWORD, Role};
use support::pgvalet::{Builder, Pgvalet};
use support::programs::psql;
use support::wire::{Client, Login};
use support::{Endpoint, begin_endless, eventually, frontend};

fn trusting(cluster: &Cluster) -> Builder {
    with_consoles(Pgvalet::in_front_of(cluster))
}

/// The same with the users `app_trust` and `postgres` only, who have these lines each.
fn with_users(cluster: &Cluster, trust: &str, postgres: &str) -> Builder {
    let bare = Pgvalet::builder().database(DATABASE, cluster, &[]).database("postgres", cluster, &[]);
    with_consoles(bare.user("app_trust", PASSWORD, &[trust]).user("postgres", PASSWORD, &[postgres]))
}

fn with_consoles(builder: Builder) -> Builder {
    builder.setting("auth_type = \"trust\"").setting("admin_users = [\"postgres\"]").setting("workers = 2")
}

fn console(valet: &Pgvalet) -> Client {
    valet.login(&Login::new("postgres", "pgbouncer"))
}

/// Column `column` of the row of `table` that begins with `name`.
fn cell(console: &mut Client, table: &str, name: &str, column: &str) -> String {
    let messages = console.query(&format!("SHOW {table}"));
    let columns = messages.iter().find_map(Message::columns).expect("columns");
    let at = columns.iter().position(|other| other == column).expect("the column");
    let all = rows(&messages);
    let row = all.iter().find(|row| row[0].as_deref() == Some(name)).unwrap_or_else(|| panic!("{all:?}"));
    row[at].clone().unwrap_or_default()
}

fn notices(messages: &[Message]) -> Vec<String> {
    messages.iter().filter(|message| message.tag == b'N').filter_map(|message| message.field(b'M')).collect()
}

#[track_caller]
fn refused(valet: &Pgvalet, login: &Login) -> String {
    let error = Client::login(&valet.tcp(), login).expect_err("one too many");
    assert_eq!(error.sqlstate().as_deref(), Some("53300"));
    error.to_string()
}

#[test]
fn a_database_has_as_many_clients_as_max_db_client_connections_says() {
    let valet = trusting(Cluster::shared())
        .setting("max_db_client_connections = 3")
        .database("small", Cluster::shared(), &["dbname = \"app\"", "max_db_client_connections = 2"])
        .start();
    let mut console = console(&valet);
    let login = |database: &str| Role::Trust.login().database(database);
    let mut clients: Vec<Client> =
        ["small", "small", "app", "app", "app"].map(|name| valet.login(&login(name))).into();
    for name in ["small", "app"] {
        let text = refused(&valet, &login(name));
        assert!(text.contains("client connections exceeded (max_db_client_connections)"), "{text}");
    }
    assert_eq!(cell(&mut console, "DATABASES", "small", "max_client_connections"), "2");
    assert_eq!(cell(&mut console, "DATABASES", "app", "max_client_connections"), "3");
    assert_eq!(cell(&mut console, "DATABASES", "small", "current_client_connections"), "2");
    clients.remove(0).terminate();
    eventually("the place to be free", || {
        (cell(&mut console, "DATABASES", "small", "current_client_connections") == "1").then_some(())
    });
    assert_eq!(valet.login(&login("small")).value("SELECT 1"), "1");
}

#[test]
fn a_user_has_as_many_clients_as_max_user_client_connections_says() {
    let valet = with_users(Cluster::shared(), "max_user_client_connections = 1", "")
        .setting("max_user_client_connections = 2")
        .start();
    let mut console = console(&valet);
    let first = valet.client(Role::Trust);
    let text = refused(&valet, &Role::Trust.login().database("postgres"));
    assert!(text.contains("client connections exceeded (max_user_client_connections)"), "{text}");
    let postgres = Login::new("postgres", DATABASE);
    let _others = [valet.login(&postgres), valet.login(&postgres)];
    refused(&valet, &postgres);
    // The console is counted where one looks, and by no limit.
    for (user, limit, clients) in [("app_trust", "1", "1"), ("postgres", "2", "3")] {
        assert_eq!(cell(&mut console, "USERS", user, "max_user_client_connections"), limit);
        assert_eq!(cell(&mut console, "USERS", user, "current_client_connections"), clients);
    }
    // The console holds no place, and a login that fails keeps none.
    drop(self::console(&valet));
    first.terminate();
    eventually("the place to be free", || {
        (cell(&mut console, "USERS", "app_trust", "current_client_connections") == "0").then_some(())
    });
    assert!(Client::login(&valet.tcp(), &Role::Trust.login().parameter("nosuch_parameter", "x")).is_err());
    assert_eq!(valet.client(Role::Trust).value("SELECT 1"), "1");
}

#[test]
fn a_login_is_changed_as_the_configuration_says() {
    let valet = trusting(Cluster::shared())
        .setting("application_name_add_host = true")
        .setting("ignore_startup_parameters = [\"extra_float_digits\", \"work_mem\"]")
        .setting("login_notify_message = \"You are talking to a pooler.\"")
        .start();
    let name = |login: &Login| valet.login(login).value("SHOW application_name");
    let named = name(&Role::Trust.login().parameter("application_name", "shop"));
    assert!(named.starts_with("shop - 127.0.0.1:"), "{named}");
    let nameless = name(&Role::Trust.login());
    assert!(nameless.starts_with("app - 127.0.0.1:"), "{nameless}");
    let mut over_unix = Client::login(&valet.unix(), &Role::Trust.login()).expect("a login");
    assert!(over_unix.value("SHOW application_name").starts_with("app - unix:"));
    over_unix.query("SET application_name = 'own'");
    assert_eq!(over_unix.value("SHOW application_name"), "own");

    let login = Role::Trust
        .login()
        .parameter("extra_float_digits", "3")
        .parameter("options", "-c work_mem=77MB -c statement_timeout=7s");
    let mut client = valet.login(&login);
    assert_eq!(client.value("SHOW extra_float_digits"), "1");
    assert_ne!(client.value("SHOW work_mem"), "77MB");
    assert_eq!(client.value("SHOW statement_timeout"), "7s", "what is not ignored follows the client");

    for database in [DATABASE, "pgbouncer"] {
        let mut client = Client::connect(&valet.tcp()).expect("pgvalet listens");
        client.send(&frontend::startup(&[("user", "postgres"), ("database", database)]));
        assert_eq!(notices(&client.until_ready()), ["You are talking to a pooler."]);
    }
}

#[test]
fn names_that_all_differ_cost_no_server_at_a_login() {
    for add_host in [true, false] {
        let valet = trusting(Cluster::shared())
            .setting(&format!("application_name_add_host = {add_host}"))
            .setting("default_pool_size = 1")
            .start();
        let login = |name: &str| {
            Client::login(&valet.tcp(), &Role::Trust.login().parameter("application_name", name))
        };
        let mut holder = login("holder").expect("a login");
        holder.query("BEGIN");
        assert_eq!(first_error(&console(&valet).query("SET query_wait_timeout = 0.1")), None);
        let mut clients: Vec<Client> =
            (0..5).map(|number| login(&format!("client's {number}")).expect("no server is needed")).collect();
        for (number, client) in clients.iter().enumerate() {
            let name = client.parameter("application_name").expect("it is reported");
            let expected = format!("client's {number}");
            assert!(
                if add_host { name.starts_with(&format!("{expected} - 127.")) } else { name == expected },
                "{name}"
            );
        }
        // What a server would report otherwise than it was given, one is asked for.
        assert!(login("né").is_err(), "the only server is taken");
        holder.query("COMMIT");
        let told = clients[3].parameter("application_name").expect("it is reported");
        assert_eq!(clients[3].value("SHOW application_name"), told);
        assert_eq!(holder.value("SELECT 1"), "1");
        let unnamed = valet.login(&Role::Trust.login());
        let name = unnamed.parameter("application_name").unwrap_or_default();
        assert!(if add_host { name.starts_with("app - ") } else { name.is_empty() }, "{name}");
    }
}

#[test]
fn disable_pqexec_ends_clients_that_use_simple_queries_and_no_others() {
    let valet = trusting(Cluster::shared()).setting("disable_pqexec = true").start();
    let mut client = valet.client(Role::Trust);
    let replies = client.extended("SELECT $1::text", &[Some("served")]);
    assert_eq!(rows(&replies), [[Some("served".to_owned())]]);
    // At rest and in a transaction; the server of the latter is not lost.
    client.send(&frontend::query("SELECT 1; SELECT 2"));
    let mut in_transaction = valet.client(Role::Trust);
    in_transaction.extended("BEGIN", &[]);
    in_transaction.send(&frontend::query("COMMIT"));
    for client in [&mut client, &mut in_transaction] {
        let end = client.until_end();
        assert_eq!(first_error(&end).as_deref(), Some("0A000"));
        let message = end[0].field(b'M').expect("an error has a message");
        assert!(message.starts_with("PQexec disallowed"), "{message}");
    }
    // The console speaks both, and switches it back on.
    let mut console = console(&valet);
    assert_eq!(first_error(&console.query("SET disable_pqexec = 0")), None);
    assert_eq!(valet.client(Role::Trust).value("SELECT 'simple'"), "simple");
}

#[test]
fn sockets_in_the_abstract_namespace_serve_and_lead_to_servers() {
    let name = format!("@pgvalet-test-{}", std::process::id());
    let inner = trusting(Cluster::shared()).setting(&format!("unix_socket_dir = \"{name}\"")).start();
    let Endpoint::Tcp(address) = inner.tcp() else { panic!("TCP has an address") };
    let socket = Endpoint::Unix(format!("{name}/.s.PGSQL.{}", address.port()).into());
    assert_eq!(psql(&socket, &Role::Trust.login(), "SELECT 'served'").ok(), "served");
    // Only one can have the name.
    let line = format!("unix_socket_dir = \"{name}\"");
    let port = format!("listen_port = {}", address.port());
    let second =
        trusting(Cluster::shared()).setting(&line).setting("listen_addr = []").setting(&port).try_start();
    let said = second.err().map(|failure| failure.log.join("\n")).unwrap_or_default();
    assert!(said.contains("another process listens there"), "{said}");
    // As a server's host, cancel requests included.
    let outer =
        with_consoles(Pgvalet::builder().database_on(DATABASE, &name, address.port(), &[]).all_roles())
            .start();
    let mut client = outer.client(Role::Trust);
    begin_endless(Cluster::shared(), &mut client);
    client.cancel().send().expect("a cancel request is taken");
    assert_eq!(first_error(&client.until_ready()).as_deref(), Some("57014"));
    assert_eq!(cell(&mut console(&outer), "DATABASES", DATABASE, "host"), name);
    // A new process gets it as it gets a file.
    let answer = console(&inner).query("UPGRADE");
    assert_eq!(answer[0].command().as_deref(), Some("UPGRADE"), "{answer:?}");
    assert_eq!(inner.wait_exit().code(), Some(0));
    let log = inner.wait_log(&["another process has taken over", "pid="]);
    let pid = log.split("pid=").nth(1).and_then(|pid| pid.trim().parse().ok()).expect("a process id");
    inner.succeeded_by(pid);
    assert_eq!(psql(&socket, &Role::Trust.login(), "SELECT 'still'").ok(), "still");
}

#[test]
fn who_waits_for_long_is_told_so_once() {
    let valet = trusting(Cluster::shared())
        .setting("default_pool_size = 1")
        .setting("query_wait_notify = \"100ms\"")
        .start();
    let (mut busy, mut waiting) = (valet.client(Role::Trust), valet.client(Role::Trust));
    busy.query("BEGIN");
    waiting.send(&frontend::query("SELECT 'served'"));
    let notice = waiting.recv();
    assert_eq!(notice.tag, b'N', "{notice:?}");
    assert_eq!(
        notice.field(b'M').as_deref(),
        Some("No server connection available in postgres backend, client being queued")
    );
    busy.query("SELECT pg_sleep(0.5)");
    busy.query("COMMIT");
    let replies = waiting.until_ready();
    assert_eq!(notices(&replies), Vec::<String>::new());
    assert_eq!(rows(&replies), [[Some("served".to_owned())]]);
    // The next wait is another one.
    busy.query("BEGIN");
    waiting.send(&frontend::query("SELECT 'again'"));
    assert_eq!(waiting.recv().tag, b'N');
    busy.query("COMMIT");
    assert_eq!(rows(&waiting.until_ready()), [[Some("again".to_owned())]]);
}

#[test]
fn a_transaction_ends_at_transaction_timeout_whatever_it_does() {
    let cluster = Cluster::shared();
    let valet =
        with_users(cluster, "", "transaction_timeout = 0").setting("transaction_timeout = \"400ms\"").start();
    let ends = |client: &mut Client| {
        let last = client.until_end();
        assert_eq!(first_error(&last).as_deref(), Some("25P04"));
        let text = last.last().and_then(|message| message.field(b'M')).unwrap_or_default();
        assert!(text.starts_with("transaction timeout"), "{text}");
    };
    let mut idle = valet.client(Role::Trust);
    idle.query("BEGIN");
    ends(&mut idle);
    let mut busy = valet.client(Role::Trust);
    busy.send(&frontend::query("SELECT pg_sleep(1000)"));
    ends(&mut busy);
    let mut lively = valet.client(Role::Trust);
    lively.query("BEGIN");
    let mut last = Vec::new();
    while first_error(&last).is_none() {
        lively.send(&frontend::query("SELECT pg_sleep(0.01)"));
        last.clear();
        while let Ok(Some(message)) = lively.try_recv() {
            let is_ready = message.tag == b'Z';
            last.push(message);
            if is_ready {
                break;
            }
        }
    }
    assert_eq!(first_error(&last).as_deref(), Some("25P04"));
    // It is about transactions, and about users who have no word of their own.
    let mut exempt = valet.login(&Login::new("postgres", DATABASE));
    exempt.query("BEGIN");
    assert_eq!(first_error(&exempt.query("SELECT pg_sleep(0.7)")), None);
    exempt.query("COMMIT");
    eventually("what ran to be canceled", || {
        let sql =
            "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(1000)' AND state = 'active'";
        (cluster.value(sql) == "0").then_some(())
    });
}

#[test]
fn server_fast_close_ends_sessions_between_transactions_when_their_server_is_to_be_replaced() {
    for fast in [true, false] {
        let cluster = Cluster::start();
        let valet = trusting(&cluster)
            .setting("pool_mode = \"session\"")
            .setting(&format!("server_fast_close = {fast}"))
            .start();
        let mut console = console(&valet);
        let (mut idle, mut busy) = (valet.client(Role::Trust), valet.client(Role::Trust));
        idle.value("SELECT 1");
        busy.query("BEGIN");
        console.query("RECONNECT app");
        let new = valet.client(Role::Trust).value("SELECT 'new ones are served'");
        assert_eq!(new, "new ones are served");
        if fast {
            assert_eq!(first_error(&idle.until_end()).as_deref(), Some("57P01"));
            assert_eq!(busy.value("SELECT 'not interrupted'"), "not interrupted");
            busy.send(&frontend::query("COMMIT"));
            let last = busy.until_end();
            assert_eq!(last[0].command().as_deref(), Some("COMMIT"), "{last:?}");
            assert_eq!(first_error(&last).as_deref(), Some("57P01"));
        } else {
            busy.query("COMMIT");
            for client in [&mut idle, &mut busy] {
                assert_eq!(client.value("SELECT 'stays'"), "stays");
            }
        }
    }
}

#[test]
fn server_round_robin_lends_every_idle_server_in_turn() {
    for (round_robin, different) in [(false, 1), (true, 4)] {
        let valet = trusting(Cluster::shared())
            .setting("workers = 1")
            .setting("default_pool_size = 4")
            .setting(&format!("server_round_robin = {round_robin}"))
            .start();
        let mut all: Vec<Client> = (0..4).map(|_| valet.client(Role::Trust)).collect();
        all.iter_mut().for_each(|client| drop(client.query("BEGIN")));
        all.iter_mut().for_each(|client| drop(client.query("COMMIT")));
        let mut served = || all[0].value("SELECT pg_backend_pid()");
        let first: Vec<String> = (0..4).map(|_| served()).collect();
        assert_eq!(first.iter().collect::<BTreeSet<_>>().len(), different, "{first:?}");
        let second: Vec<String> = (0..4).map(|_| served()).collect();
        assert_eq!(first, second, "the same order again");
    }
}

#[test]
fn several_hosts_share_new_connections_or_the_first_that_answers_has_them() {
    let cluster = Cluster::builder()
        .config("listen_addresses = '127.0.0.1,127.0.0.2,127.0.0.3'")
        .hba("host all all 127.0.0.0/8 trust")
        .start();
    let port = cluster.port();
    let hosts = "127.0.0.1, 127.0.0.2, 127.0.0.3";
    // Nothing listens on the port at the first address.
    let gap = "127.0.0.9, 127.0.0.2, 127.0.0.3";
    let valet = trusting(&cluster)
        .database_on("spread", hosts, port, &["dbname = \"app\"", "load_balance_hosts = \"round-robin\""])
        .database_on("first", hosts, port, &["dbname = \"app\""])
        .database_on("gap", gap, port, &["dbname = \"app\"", "load_balance_hosts = \"disable\""])
        .start();
    let addresses = |database: &str| {
        let mut all: Vec<Client> =
            (0..6).map(|_| valet.login(&Role::Trust.login().database(database))).collect();
        let mut of = |client: &mut Client| {
            client.query("BEGIN");
            client.value("SELECT host(inet_server_addr())")
        };
        let mut found: Vec<String> = all.iter_mut().map(&mut of).collect();
        found.sort();
        found
    };
    let spread: Vec<String> = addresses("spread");
    assert_eq!(spread, ["127.0.0.1", "127.0.0.1", "127.0.0.2", "127.0.0.2", "127.0.0.3", "127.0.0.3"]);
    assert_eq!(addresses("first"), ["127.0.0.1"; 6]);
    assert_eq!(addresses("gap"), ["127.0.0.2"; 6]);
    let mut console = console(&valet);
    for (database, shown) in [("spread", "round-robin"), ("first", "disable"), ("app", "")] {
        assert_eq!(cell(&mut console, "DATABASES", database, "load_balance_hosts"), shown);
    }
    assert_eq!(cell(&mut console, "POOLS", "spread", "load_balance_hosts"), "round-robin");
}

#[test]
fn a_cancel_request_that_is_not_taken_ends_at_cancel_wait_timeout() {
    let cluster = Cluster::start();
    let valet = trusting(&cluster).setting("cancel_wait_timeout = \"200ms\"").start();
    let mut client = valet.client(Role::Trust);
    client.send(&frontend::query("SELECT pg_sleep(1000)"));
    let is_running =
        "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(1000)' AND state = 'active'";
    eventually("the query to run", || (cluster.value(is_running) != "0").then_some(()));
    // Connections to it are made by the kernel, and nobody answers.
    let file = std::fs::read_to_string(cluster.data_dir().join("postmaster.pid")).expect("it runs");
    let postmaster = file.lines().next().and_then(|line| line.parse().ok()).expect("a number");
    cluster.freeze_backend(postmaster, true);
    client.cancel().send().expect("the client's end of it is closed in time");
    valet.wait_log(&["a cancel request could not be delivered", "timed out"]);
    cluster.freeze_backend(postmaster, false);
    client.cancel().send().expect("a cancel request is taken");
    assert_eq!(first_error(&client.until_ready()).as_deref(), Some("57014"));
}

#[test]
fn statistics_are_logged_at_the_end_of_each_period() {
    let valet = trusting(Cluster::shared()).setting("stats_period = \"1s\"").start();
    let mut client = valet.client(Role::Trust);
    eventually("a second of work", || {
        client.query("SELECT 1");
        (valet.count_log(&["stats: ", " xacts/s, ", " B/s, xact ", " us, wait "]) > 0).then_some(())
    });
    let quiet =
        trusting(Cluster::shared()).setting("stats_period = \"100ms\"").setting("log_stats = false").start();
    let mut console = console(&quiet);
    let mut client = quiet.client(Role::Trust);
    eventually("some periods", || {
        client.query("SELECT 1");
        let average = cell(&mut console, "STATS", "app", "avg_query_count");
        (average != "0").then_some(())
    });
    assert_eq!(quiet.count_log(&["stats: "]), 0);
}

#[test]
fn names_of_servers_are_looked_up_again_and_servers_stay_that_are_where_they_lead() {
    let cluster = Cluster::shared();
    let valet = trusting(cluster)
        .setting("dns_max_ttl = \"50ms\"")
        .database_on("named", "localhost", cluster.port(), &["dbname = \"app\""])
        .start();
    let mut client = valet.login(&Role::Trust.login().database("named"));
    let server = client.value("SELECT pg_backend_pid()");
    let mut console = console(&valet);
    eventually("the name to be known", || {
        let hosts = console.rows("SHOW DNS_HOSTS");
        let addresses = hosts.first().and_then(|row| row[2].clone()).unwrap_or_default();
        addresses.contains("127.0.0.1").then_some(())
    });
    assert_eq!(console.rows("SHOW DNS_HOSTS")[0][0].as_deref(), Some("localhost"));
    assert_eq!(cell(&mut console, "LISTS", "dns_names", "items"), "1");
    // Three lookups are enough to miss an address twice.
    client.query("SELECT pg_sleep(0.4)");
    assert_eq!(client.value("SELECT pg_backend_pid()"), server);
}
