//! The admin console: what SHOW shows, to whom, and by which protocol.

mod support;

use std::collections::BTreeMap;

use support::backend::{Message, first_error, rows, tags};
use support::cluster::{Cluster, PASSWORD, Role};
use support::pgvalet::{Builder, Pgvalet};
use support::programs::psql;
use support::tables::{PGBOUNCER, described, expected};
use support::wire::{Client, Login};
use support::{eventually, frontend};

fn trusting(cluster: &Cluster) -> Builder {
    Pgvalet::in_front_of(cluster)
        .setting("auth_type = \"trust\"")
        .setting("admin_users = [\"postgres\"]")
        .setting("workers = 2")
}

fn console(valet: &Pgvalet) -> Client {
    valet.login(&Login::new("postgres", "pgbouncer"))
}

/// A row, by column.
type Row = BTreeMap<String, String>;

fn show(console: &mut Client, what: &str) -> Vec<Row> {
    let messages = console.query(&format!("SHOW {what}"));
    let columns = messages.iter().find_map(Message::columns).unwrap_or_else(|| panic!("{messages:?}"));
    let row = |values: Vec<Option<String>>| {
        columns.iter().cloned().zip(values.into_iter().map(Option::unwrap_or_default)).collect()
    };
    rows(&messages).into_iter().map(row).collect()
}

fn of_database(rows: &[Row], database: &str) -> Row {
    rows.iter().find(|row| row["database"] == database).unwrap_or_else(|| panic!("{rows:?}")).clone()
}

#[test]
fn tables_have_pgbouncers_columns_in_its_order_and_types_by_either_protocol() {
    let valet = trusting(Cluster::shared()).start();
    valet.client(Role::Trust).value("SELECT 1");
    for database in ["pgbouncer", "pgvalet"] {
        let mut console = valet.login(&Login::new("postgres", database));
        for (table, columns) in PGBOUNCER {
            for text in [format!("SHOW {table}"), format!(" show\n{} ; ", table.to_lowercase())] {
                let simple = console.query(&text);
                assert_eq!(described(&simple), expected(columns), "{text}");
                assert_eq!(simple[simple.len() - 2].command().as_deref(), Some("SHOW"));
                let described_too = [
                    frontend::parse("", &text),
                    frontend::bind("", "", &[]),
                    frontend::describe_portal(""),
                    frontend::execute("", 0),
                    frontend::sync(),
                ];
                console.send(&described_too.concat());
                let extended = console.until_ready();
                assert_eq!(described(&extended), expected(columns), "{text}");
                assert_eq!(first_error(&extended), None);
            }
        }
        assert_eq!(console.value("SHOW VERSION"), concat!("pgvalet ", env!("CARGO_PKG_VERSION")));
        assert_eq!(rows(&console.query("SHOW STATE")).len(), 2);
        let help = console.query("SHOW HELP");
        assert_eq!(tags(&help), "NCZ");
        assert!(help[0].field(b'D').is_some_and(|detail| detail.contains("\tSHOW STATS|STATS_TOTALS")));
        let version = console.parameter("server_version").expect("a version");
        assert!(version.ends_with("/bouncer"), "{version}");
    }
}

#[test]
fn counters_tell_what_happened() {
    let cluster = Cluster::start();
    let valet = trusting(&cluster).start();
    let mut client = valet.client(Role::Trust);
    client.query("BEGIN");
    client.query("SELECT pg_sleep(0.05)");
    client.query("COMMIT");
    client.extended("SELECT $1", &[Some("x")]);
    let mut console = console(&valet);
    let stats = of_database(&show(&mut console, "STATS"), "app");
    let total = |name: &str| stats[&format!("total_{name}")].parse::<u64>().expect("a number");
    assert_eq!((total("xact_count"), total("query_count"), total("client_login_count")), (2, 4, 1));
    assert_eq!((total("client_parse_count"), total("bind_count")), (1, 1));
    assert!(total("xact_time") >= total("query_time"), "{stats:?}");
    assert!(total("query_time") >= 50_000, "a query that sleeps 50 ms takes as long: {stats:?}");
    assert!(total("received") > 0 && total("sent") > total("received"), "{stats:?}");

    let totals = of_database(&show(&mut console, "STATS_TOTALS"), "app");
    assert_eq!(totals["query_count"], "4");
    let sums: BTreeMap<String, String> = show(&mut console, "TOTALS")
        .into_iter()
        .map(|row| (row["name"].clone(), row["value"].clone()))
        .collect();
    assert_eq!(sums["total_query_count"], "4");
    assert_eq!(sums.len(), 24);

    // Another host makes another pool: what was counted stays.
    let done = || valet.count_log(&["configuration reloaded"]);
    valet.write_config(&valet.config().replace("host = \"127.0.0.1\"", "host = \"localhost\""));
    console.query("RELOAD");
    eventually("the reload", || (done() == 1).then_some(()));
    client.value("SELECT 1");
    assert_eq!(of_database(&show(&mut console, "STATS"), "app")["total_query_count"], "5");
}

#[test]
fn averages_are_over_the_last_periods() {
    let valet = trusting(Cluster::shared()).setting("stats_period = \"100ms\"").start();
    let mut client = valet.client(Role::Trust);
    let mut console = console(&valet);
    let average = |console: &mut Client, name: &str| {
        of_database(&show(console, "STATS"), "app")[name].parse::<u64>().expect("a number")
    };
    eventually("an average while something happens", || {
        client.value("SELECT pg_sleep(0.01)");
        (average(&mut console, "avg_query_time") >= 10_000).then_some(())
    });
    eventually("none when nothing has happened for a while", || {
        (average(&mut console, "avg_query_time") == 0 && average(&mut console, "avg_recv") == 0).then_some(())
    });
    assert_ne!(of_database(&show(&mut console, "STATS"), "app")["total_query_time"], "0");
}

#[test]
fn clients_and_servers_are_shown_with_what_they_do_and_with_whom() {
    let cluster = Cluster::start();
    let valet = trusting(&cluster).setting("default_pool_size = 1").start();
    let mut console = console(&valet);
    let named = |name: &str| valet.login(&Role::Trust.login().parameter("application_name", name));
    let (mut busy, mut waiting, idle) = (named("first"), named("second"), named("third"));
    busy.query("BEGIN");
    let pid = busy.value("SELECT pg_backend_pid()");
    waiting.send(&frontend::query("SELECT 1"));
    let clients = eventually("a client to wait", || {
        let clients = show(&mut console, "CLIENTS");
        clients.iter().any(|row| row["state"] == "waiting").then_some(clients)
    });
    let in_state = |state: &str| {
        let mut found = clients.iter().filter(|row| row["state"] == state && row["database"] == "app");
        (found.next().expect("one such client").clone(), found.next().is_none())
    };
    let (active, alone) = in_state("active");
    assert!(alone);
    assert_eq!((&*active["user"], &*active["application_name"]), ("app_trust", "first"));
    assert_eq!((&*active["type"], &*active["addr"], &*active["local_addr"]), ("C", "127.0.0.1", "127.0.0.1"));
    assert_eq!(in_state("waiting").0["application_name"], "second");
    assert_eq!(in_state("waiting").0["link"], "");
    assert!(in_state("idle").1);
    assert!(active["connect_time"].ends_with(" UTC"), "{active:?}");
    assert!(clients.iter().any(|row| row["database"] == "pgbouncer" && row["user"] == "postgres"));

    let servers = show(&mut console, "SERVERS");
    assert_eq!(servers.len(), 1, "{servers:?}");
    let server = &servers[0];
    assert_eq!((&*server["state"], &server["remote_pid"]), ("active", &pid));
    assert_eq!((&server["link"], &server["ptr"]), (&active["ptr"], &active["link"]));
    assert_eq!(server["port"], cluster.port().to_string());

    let pool = of_database(&show(&mut console, "POOLS"), "app");
    let numbers = ["cl_active", "cl_waiting", "sv_active", "sv_idle"].map(|column| pool[column].clone());
    assert_eq!(numbers, ["2", "1", "1", "0"]);
    let lists = show(&mut console, "LISTS");
    let list = |name: &str| lists.iter().find(|row| row["list"] == name).expect("a list")["items"].clone();
    assert_eq!(["used_clients", "login_clients", "used_servers"].map(list), ["4", "0", "1"]);

    busy.query("COMMIT");
    waiting.until_ready();
    let mut named = idle;
    named.query("SET application_name = 'another'");
    named.send(&[frontend::parse("s", "SELECT 1"), frontend::sync()].concat());
    named.until_ready();
    let client = show(&mut console, "CLIENTS").into_iter().find(|row| row["application_name"] == "another");
    assert_eq!(client.expect("the name follows SET")["prepared_statements"], "1");
    assert_eq!(show(&mut console, "SERVERS")[0]["prepared_statements"], "1");
    let sockets = show(&mut console, "SOCKETS");
    assert_eq!(sockets.len(), 5);
    assert!(sockets.iter().any(|row| row["state"] == "sv_idle"), "{sockets:?}");
    let descriptors = show(&mut console, "FDS");
    assert!(descriptors.iter().all(|row| row["fd"] != "0" && row["password"].is_empty()), "{descriptors:?}");
    named.terminate();
    eventually("the client to be gone", || (show(&mut console, "CLIENTS").len() == 3).then_some(()));
}

#[test]
fn settings_databases_and_users_are_shown_as_they_are_in_force() {
    let valet = trusting(Cluster::shared())
        .setting("query_wait_timeout = \"2min\"")
        .setting("listen_backlog = 77")
        .database("small", Cluster::shared(), &["dbname = \"app\"", "pool_size = 3", "user = \"postgres\""])
        .user("limited", PASSWORD, &["max_user_connections = 4", "pool_mode = \"session\""])
        .start();
    let mut console = console(&valet);
    let config = show(&mut console, "CONFIG");
    let setting = |key: &str| config.iter().find(|row| row["key"] == key).expect(key).clone();
    assert_eq!(setting("query_wait_timeout")["value"], "120");
    assert_eq!(setting("query_wait_timeout")["changeable"], "yes");
    assert_eq!(
        (&*setting("listen_backlog")["value"], &*setting("listen_backlog")["changeable"]),
        ("77", "no")
    );
    assert_eq!(setting("max_client_conn")["value"], "10000");
    assert_eq!(setting("pool_mode")["value"], "transaction");
    assert_eq!(setting("log_connections")["value"], "1");

    let databases = show(&mut console, "DATABASES");
    let small = databases.iter().find(|row| row["name"] == "small").expect("the database").clone();
    assert_eq!((&*small["database"], &*small["force_user"], &*small["pool_size"]), ("app", "postgres", "3"));
    assert_eq!((&*small["host"], &*small["paused"], &*small["disabled"]), ("127.0.0.1", "0", "0"));
    let names: Vec<&str> = databases.iter().map(|row| &*row["name"]).collect();
    assert_eq!(names, ["app", "pgbouncer", "postgres", "small"]);

    let users = show(&mut console, "USERS");
    let limited = users.iter().find(|row| row["name"] == "limited").expect("the user");
    assert_eq!((&*limited["max_user_connections"], &*limited["pool_mode"]), ("4", "session"));
    // Clients of the console are somebody's clients too.
    let postgres = users.iter().find(|row| row["name"] == "postgres").expect("the user");
    assert_eq!(postgres["current_client_connections"], "1");
}

#[test]
fn several_commands_in_one_text_are_answered_up_to_the_first_that_is_wrong() {
    let valet = trusting(Cluster::shared()).start();
    let mut console = console(&valet);
    let replies = console.query("/* of a dashboard */ SHOW VERSION; SHOW STATE; nonsense; SHOW POOLS");
    assert_eq!(tags(&replies), "TDCTDDCEZ");
    assert_eq!(first_error(&replies).as_deref(), Some("42601"));
    let text = replies[7].field(b'M').expect("a message");
    assert_eq!(text, "invalid command 'nonsense', use SHOW HELP;");
    assert_eq!(tags(&console.query("")), "IZ");
    assert_eq!(tags(&console.query(" ; -- nothing")), "IZ");
    assert_eq!(first_error(&console.query("SHOW nosuch")).as_deref(), Some("42601"));
    assert_eq!(first_error(&console.query("SUSPEND")).as_deref(), Some("42601"));
    let login = Login::new("postgres", "pgbouncer");
    let shown = psql(&valet.tcp(), &login, "SHOW VERSION; SHOW STATE").ok();
    assert_eq!(shown.lines().count(), 3, "{shown}");
}

#[test]
fn the_extended_protocol_is_spoken_as_postgresql_speaks_it() {
    let valet = trusting(Cluster::shared()).start();
    let mut console = console(&valet);
    // A named statement, described, run twice, closed.
    console.send(
        &[
            frontend::parse("lists", "SHOW LISTS"),
            frontend::describe_statement("lists"),
            frontend::bind("a", "lists", &[]),
            frontend::describe_portal("a"),
            frontend::execute("a", 0),
            frontend::bind("", "lists", &[]),
            frontend::execute("", 4),
            frontend::execute("", 0),
            frontend::close_statement("lists"),
            frontend::sync(),
        ]
        .concat(),
    );
    let replies = console.until_ready();
    let all = "D".repeat(14);
    assert_eq!(tags(&replies), format!("1tT2T{all}C2DDDDs{}C3Z", "D".repeat(10)));

    // Flush sends what there is, without ReadyForQuery.
    console.send(&[frontend::parse("", "SHOW VERSION"), frontend::flush()].concat());
    assert_eq!(tags(&console.until(b'1')), "1");
    console.send(&[frontend::bind("", "", &[]), frontend::execute("", 0), frontend::sync()].concat());
    assert_eq!(tags(&console.until_ready()), "2DCZ");

    // After an error everything is skipped up to Sync.
    for (messages, sqlstate) in [
        ([frontend::bind("", "lists", &[]), frontend::execute("", 0)].concat(), "26000"),
        ([frontend::execute("none", 0), frontend::parse("", "SHOW POOLS")].concat(), "34000"),
        (frontend::parse("", "SHOW POOLS; SHOW STATS"), "42601"),
        (frontend::parse("", "SELECT 2"), "42601"),
        ([frontend::parse("", "SHOW POOLS"), frontend::bind("", "", &[Some("x")])].concat(), "08P01"),
        ([frontend::parse("twice", "SHOW POOLS"), frontend::parse("twice", "SHOW POOLS")].concat(), "42P05"),
        (frontend::function_call(1, &[]), "0A000"),
    ] {
        console.send(&[messages, frontend::sync()].concat());
        let replies = console.until_ready();
        assert_eq!(first_error(&replies).as_deref(), Some(sqlstate), "{replies:?}");
        if sqlstate == "0A000" {
            // A FunctionCall ends its own batch.
            console.until_ready();
        }
    }
    // A batch has ended its portals.
    console
        .send(&[frontend::parse("", "SHOW STATE"), frontend::bind("p", "", &[]), frontend::sync()].concat());
    console.until_ready();
    console.send(&[frontend::execute("p", 0), frontend::sync()].concat());
    assert_eq!(first_error(&console.until_ready()).as_deref(), Some("34000"));
}

#[test]
fn results_are_binary_for_those_who_ask() {
    let valet = trusting(Cluster::shared()).start();
    let mut console = console(&valet);
    valet.client(Role::Trust).value("SELECT 1");
    let binary = |sql: &str| {
        [
            frontend::parse("", sql),
            frontend::bind_formats("", "", &[], &[], &[1]),
            frontend::describe_portal(""),
            frontend::execute("", 0),
            frontend::sync(),
        ]
        .concat()
    };
    console.send(&binary("SHOW LISTS"));
    let replies = console.until_ready();
    let values: Vec<_> = replies.iter().filter_map(Message::values).collect();
    assert_eq!(values[1][0].as_deref(), Some(&b"users"[..]));
    assert_eq!(values[2][1].as_deref(), Some(&[0, 0, 0, 0][..]), "peers, as an int4");
    console.send(&binary("SHOW STATS_TOTALS"));
    let replies = console.until_ready();
    let values: Vec<_> = replies.iter().filter_map(Message::values).collect();
    // numeric: digits, weight, sign, scale; then the one digit.
    assert_eq!(values[0][3].as_deref(), Some(&[0, 1, 0, 0, 0, 0, 0, 0, 0, 1][..]), "one query");
}

#[test]
fn drivers_find_what_they_look_for() {
    let valet = trusting(Cluster::shared()).start();
    let mut console = console(&valet);
    for (sql, tag) in [
        ("SET application_name = 'x'", "SET"),
        ("SET extra_float_digits = 3", "SET"),
        ("BEGIN", "BEGIN"),
        ("COMMIT", "COMMIT"),
        ("BEGIN ISOLATION LEVEL READ COMMITTED", "BEGIN"),
        ("ROLLBACK", "ROLLBACK"),
    ] {
        assert_eq!(console.query(sql)[0].command().as_deref(), Some(tag));
    }
    assert_eq!(console.value("SELECT 1"), "1");
    assert_eq!(console.value("SHOW TRANSACTION ISOLATION LEVEL"), "read committed");
    assert_eq!(console.value("SHOW client_encoding"), "UTF8");
    // The status of a transaction is what a driver takes it to be.
    assert_eq!(console.query("BEGIN").pop().and_then(|message| message.ready()), Some('T'));
    assert_eq!(console.query("nonsense").pop().and_then(|message| message.ready()), Some('E'));
    assert_eq!(first_error(&console.query("SHOW POOLS")).as_deref(), Some("25P02"));
    assert_eq!(console.query("COMMIT")[0].command().as_deref(), Some("ROLLBACK"));
    assert_eq!(first_error(&console.query("SHOW POOLS")), None);
}

#[test]
fn a_driver_that_prepares_everything_reads_the_tables() {
    let valet = trusting(Cluster::shared()).start();
    let (host, port) = valet.tcp().libpq();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let text = format!("host={host} port={port} user=postgres dbname=pgbouncer");
        let (client, connection) =
            tokio_postgres::connect(&text, tokio_postgres::NoTls).await.expect("a connection");
        tokio::spawn(connection);
        let pools = client.query("SHOW POOLS", &[]).await.expect("rows");
        let console = pools.iter().find(|row| row.get::<_, &str>("database") == "pgbouncer").expect("a row");
        assert_eq!(console.get::<_, i32>("cl_active"), 1);
        assert_eq!(console.get::<_, Option<&str>>("load_balance_hosts"), None);
        let lists = client.query("SHOW LISTS;", &[]).await.expect("rows");
        assert_eq!(lists.len(), 14);
        let error = client.query("SHOW nosuch", &[]).await.expect_err("no such table");
        assert_eq!(error.code().map(tokio_postgres::error::SqlState::code), Some("42601"));
    });
}

#[test]
fn who_runs_the_process_is_let_in_over_its_socket_without_a_password() {
    let valet = trusting(Cluster::shared()).setting("auth_type = \"scram-sha-256\"").start();
    let owner = Login::new("pgbouncer", "pgbouncer");
    let mut console = Client::login(&valet.unix(), &owner).expect("the owner is let in");
    assert_eq!(console.query("RELOAD")[0].command().as_deref(), Some("RELOAD"));
    assert!(Client::login(&valet.tcp(), &owner).is_err(), "not from elsewhere");
    for (user, database) in [("postgres", "pgbouncer"), ("pgbouncer", "app")] {
        assert!(Client::login(&valet.unix(), &Login::new(user, database)).is_err(), "{user} in {database}");
    }
}

#[test]
fn clients_that_keep_a_server_are_counted_by_what_keeps_them() {
    let valet = trusting(Cluster::shared()).start();
    let mut client = valet.client(Role::Trust);
    client.query("CREATE TEMP TABLE kept (x int)");
    let mut console = console(&valet);
    let pins = eventually("the client to keep its server", || {
        let pins = show(&mut console, "PINS");
        (!pins.is_empty()).then_some(pins)
    });
    assert!(pins.iter().all(|row| row["database"] == "app" && row["pins"] == "1"), "{pins:?}");
    let clients = show(&mut console, "CLIENTS");
    assert_eq!(of_database(&clients, "app")["state"], "active", "it has a server");
    let keeps = |console: &mut Client| {
        let tables =
            ["CLIENTS", "SERVERS"].map(|table| of_database(&show(console, table), "app")["pinned"].clone());
        (tables, of_database(&show(console, "POOLS"), "app")["cl_pinned"].clone())
    };
    let (reasons, pinned) = keeps(&mut console);
    assert_eq!((reasons, &*pinned), (["temp".into(), "temp".into()], "1"));
    client.query("SELECT pg_advisory_lock(77)");
    eventually("both reasons to be shown", || (keeps(&mut console).0 == ["temp, locks"; 2]).then_some(()));
    client.query("DISCARD ALL");
    eventually("nothing to keep it any more", || {
        (keeps(&mut console) == ([String::new(), String::new()], "0".into())).then_some(())
    });
}

#[test]
fn who_may_only_look_changes_nothing() {
    let valet = trusting(Cluster::shared())
        .setting("stats_users = [\"watcher\"]")
        .user("watcher", PASSWORD, &[])
        .start();
    let mut watcher = valet.login(&Login::new("watcher", "pgbouncer"));
    for command in [
        "PAUSE",
        "PAUSE app",
        "RESUME",
        "RESUME app",
        "UPGRADE",
        "KILL",
        "KILL app",
        "KILL_CLIENT 1",
        "RELOAD",
        "RECONNECT",
        "RECONNECT app",
        "WAIT_CLOSE",
        "WAIT_CLOSE app",
        "DISABLE app",
        "ENABLE app",
        "SET query_timeout = 1",
        "SHUTDOWN",
        "SHUTDOWN WAIT_FOR_CLIENTS",
        "SHOW FDS",
    ] {
        let replies = watcher.query(command);
        assert_eq!(first_error(&replies).as_deref(), Some("42501"), "{command}");
        assert_eq!(replies[0].field(b'M').as_deref(), Some("admin access needed"));
        let replies = watcher.extended(command, &[]);
        assert_eq!(first_error(&replies).as_deref(), Some("42501"), "{command}");
    }
    for (table, _) in PGBOUNCER.iter().filter(|(table, _)| *table != "FDS") {
        assert_eq!(first_error(&watcher.query(&format!("SHOW {table}"))), None);
    }
}
