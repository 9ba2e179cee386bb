//! Every kind of state, however it was made and however its client ended: the next client on that server has a session that
//! is like a fresh one. (tests/reset.rs has the ways in which code can be hidden.)

mod support;
#[path = "support/watch.rs"]
mod watch;

use std::collections::BTreeSet;
use std::sync::OnceLock;

use support::backend::first_error;
use support::cluster::{Cluster, DATABASE, PASSWORD, Role};

use support::eventually;
use support::frontend::{self, bind, execute, parse, query, sync};
use support::pgvalet::Pgvalet;
use support::wire::{Client, Login};

/// What a session carries that is not in the database, but for the statements that pgvalet prepares under its own names.
const STATE: &str = "SELECT 'setting ' || name || ' = ' || coalesce(setting, '') || ' from ' || source FROM pg_settings \
         WHERE name NOT LIKE 'plpgsql.%' AND name NOT LIKE 'transaction\\_%' \
     UNION ALL SELECT 'custom ' || n || ' = ' || current_setting(n, true) FROM (VALUES ('leak.a'), ('leak.b.c'), \
         ('leak.spaced'), ('leak.executed'), ('leak.many70'), ('leak.of_function'), ('l\u{e9}ak.a'), ('leak$.a'), \
         ('leak.base')) v(n) WHERE current_setting(n, true) <> '' \
     UNION ALL SELECT 'long ' || current_setting(repeat('l', 60) || '.' || repeat('m', 60) || '.' || repeat('n', 60), true) \
         WHERE current_setting(repeat('l', 60) || '.' || repeat('m', 60) || '.' || repeat('n', 60), true) <> '' \
     UNION ALL SELECT 'statement ' || name FROM pg_prepared_statements WHERE name NOT LIKE 'pgvalet\\_%' \
     UNION ALL SELECT 'cursor ' || name FROM pg_cursors WHERE name <> '' \
     UNION ALL SELECT 'channel ' || channel FROM pg_listening_channels() AS channel \
     UNION ALL SELECT 'lock ' || locktype || ' ' || mode FROM pg_locks \
         WHERE pid = pg_backend_pid() AND locktype NOT IN ('relation', 'virtualxid') \
     UNION ALL SELECT 'temporary ' || relname FROM pg_class WHERE relnamespace = pg_my_temp_schema() \
     UNION ALL SELECT 'user ' || session_user || ' as ' || current_user";

fn state(session: &mut Client) -> BTreeSet<String> {
    session.rows(STATE).into_iter().map(|mut row| row.remove(0).unwrap_or_default()).collect()
}

/// Names, and how each kind of state is made: statements for the simple protocol. All succeed outside a transaction, and
/// those without a `;` in one.
const DIRT: &[(&str, &str)] = &[
    ("setting", "SET work_mem = '77MB'"),
    ("set_config", "SELECT set_config('enable_sort', 'off', false)"),
    ("reported setting", "SET DateStyle = 'German'"),
    ("reported setting by function", "SELECT set_config('TimeZone', 'Asia/Tokyo', false)"),
    ("encoding", "SET NAMES 'LATIN1'"),
    ("read only", "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY, ISOLATION LEVEL SERIALIZABLE"),
    ("time limit", "SET statement_timeout = '77s'"),
    ("search path", "SET search_path = pg_catalog"),
    ("several settings", "SET work_mem = '77MB'; SET TimeZone = 'Asia/Tokyo'; SET leak.a = 'x'"),
    ("custom setting", "SET leak.a = 'x'"),
    ("custom setting, spaced", "SET /* so */ leak . /* far */ spaced = 'x'"),
    ("custom setting, deep", "SET leak.b.c = 'x'"),
    ("custom setting, quoted", "SET \"LEAK\".\"A\" = 'x'"),
    ("custom setting, accents", "SET l\u{e9}ak.a = 'x'"),
    ("custom setting, dollar", "SET leak$.a = 'x'"),
    ("custom setting, escapes", "SELECT set_config(E'leak\\x2ea', 'x', false)"),
    ("custom setting, unicode", "SELECT set_config(U&'leak\\002ea', 'x', false)"),
    ("custom setting, made up", "SELECT set_config('leak' || '.' || 'a', 'x', false)"),
    (
        "custom setting, from rows",
        "SELECT set_config(n, v, false) FROM (VALUES ('leak.' || 'a', 'x')) r(n, v)",
    ),
    ("custom setting, hidden", "SELECT hidden_custom()"),
    ("custom setting, DO", "DO $$ BEGIN EXECUTE 'SET leak' || '.a = ''x'''; END $$"),
    (
        "custom setting, prepared",
        "PREPARE leak AS SELECT set_config('leak.executed', 'x', false); EXECUTE leak",
    ),
    ("custom setting with a default", "SET leak.base = 'x'"),
    ("custom setting with a default, emptied", "SET leak.base = ''"),
    ("custom setting in COPY", "COPY (SELECT set_config('leak.a', 'x', false)) TO STDOUT"),
    ("custom setting in EXPLAIN", "EXPLAIN ANALYZE SELECT set_config('leak.a', 'x', false)"),
    ("hidden setting", "SELECT hidden_setting()"),
    ("hidden role", "SELECT hidden_role()"),
    ("role", "SET ROLE app_md5"),
    ("role by function", "SELECT set_config('role', 'app_md5', false)"),
    ("authorization", "SET SESSION AUTHORIZATION app_md5"),
    ("authorization and role", "SET SESSION AUTHORIZATION app_md5; SET work_mem = '77MB'"),
    ("secret setting, then a role", "SET dynamic_library_path = '/nowhere'; SET ROLE app_md5"),
    (
        "secret setting, then an authorization",
        "SET dynamic_library_path = '/nowhere'; SET SESSION AUTHORIZATION app_md5",
    ),
    ("temporary table", "CREATE TEMP TABLE left_behind (n int)"),
    ("temporary function", "CREATE FUNCTION pg_temp.left_behind() RETURNS int LANGUAGE sql AS 'SELECT 1'"),
    ("lock", "SELECT pg_advisory_lock(7001)"),
    ("two-key lock", "SELECT pg_try_advisory_lock_shared(7, 2)"),
    ("hidden lock", "SELECT hidden_lock()"),
    ("held cursor", "DECLARE left_behind CURSOR WITH HOLD FOR SELECT 1"),
    ("channel", "LISTEN left_behind"),
    ("statement", "PREPARE left_behind AS SELECT 1"),
    ("sequence", "SELECT nextval('numbers')"),
    ("library", "LOAD 'auto_explain'"),
    (
        "everything",
        "SET work_mem = '77MB'; SET ROLE app_md5; CREATE TEMP TABLE left_behind (n int); \
        SELECT pg_advisory_lock(7009); LISTEN left_behind; PREPARE left_behind AS SELECT 1; SET leak.a = 'x'",
    ),
];

/// How a client ends what it has begun.
const ENDS: &[&str] = &[
    "it stays",
    "Terminate",
    "Terminate right behind",
    "reset",
    "reset right behind",
    "in a transaction: COMMIT, then it stays",
    "in a transaction: ROLLBACK, then it stays",
    "in a transaction: an error, then it stays",
    "in a transaction: Terminate",
    "in a transaction: reset",
    "in a transaction: an error, then reset",
    "in a transaction: reset while a query runs",
    "by the extended protocol",
    "by the extended protocol: reset before Sync",
    "and an error in one text",
    "COMMIT and an error in one text",
    "SAVEPOINT, ROLLBACK TO, COMMIT, then it stays",
    "a query is canceled, then it stays",
    "in a transaction: a query is canceled, then COMMIT, then it stays",
    "in a transaction: a query is canceled, then reset",
    "query_timeout",
    "in a transaction: query_timeout",
    "in a transaction: idle_transaction_timeout",
];

/// What is also ended by time limits: they take their time.
const TIMED: &[&str] = &[
    "setting",
    "role",
    "temporary table",
    "lock",
    "held cursor",
    "channel",
    "statement",
    "sequence",
    "library",
    "everything",
];

/// Users of pgvalet whose time is short; on the server all are postgres.
const HURRIED: &str = "hurried";
const IMPATIENT: &str = "impatient";

/// A pgvalet with one server.
fn valet(cluster: &Cluster) -> Pgvalet {
    Pgvalet::builder()
        .database(DATABASE, cluster, &["user = \"postgres\"", &format!("password = \"{PASSWORD}\"")])
        .user("postgres", PASSWORD, &[])
        .user(HURRIED, PASSWORD, &["query_timeout = \"200ms\""])
        .user(IMPATIENT, PASSWORD, &["idle_transaction_timeout = \"200ms\""])
        .setting("auth_type = \"trust\"")
        .setting("workers = 1")
        .setting("default_pool_size = 1")
        .start()
}

/// A query that runs for long, and names its pgvalet.
fn endless(valet: &Pgvalet) -> String {
    format!("SELECT pg_sleep(100) /* {} */", valet.pid())
}

/// Has a client run it.
fn begin_endless(client: &mut Client, valet: &Pgvalet, watcher: &mut Client) {
    let sql = endless(valet);
    client.send(&query(&sql));
    let asleep =
        format!("SELECT count(*) FROM pg_stat_activity WHERE query = '{sql}' AND wait_event = 'PgSleep'");
    eventually("the query to run", || (watcher.value(&asleep) != "0").then_some(()));
}

/// Sends statements to a client whose time may be up with each of them, until it is.
fn run_out_of_time(valet: &Pgvalet, user: &str, statements: &[&str]) {
    let mut client = valet.login(&Login::new(user, DATABASE));
    for sql in statements {
        if client.try_send(&query(sql)).is_err() {
            return;
        }
        loop {
            match client.try_recv() {
                Ok(Some(message)) if message.ready().is_some() => break,
                Ok(Some(_)) => {}
                _ => return,
            }
        }
    }
    let _ = client.try_until_end();
}

fn shared() -> &'static Cluster {
    static SHARED: OnceLock<Cluster> = OnceLock::new();
    SHARED.get_or_init(prepared)
}

fn prepared() -> Cluster {
    let cluster = Cluster::start();
    for sql in [
        "CREATE FUNCTION hidden_setting() RETURNS text LANGUAGE sql AS $$ SELECT set_config('work_mem', '77MB', false) $$",
        "CREATE FUNCTION hidden_custom() RETURNS text LANGUAGE sql AS $$ SELECT set_config('leak.of_function', 'x', false) $$",
        "CREATE FUNCTION hidden_role() RETURNS text LANGUAGE sql AS $$ SELECT set_config('role', 'app_md5', false) $$",
        "CREATE FUNCTION hidden_lock() RETURNS int LANGUAGE sql AS 'SELECT 1 FROM pg_advisory_lock(7005)'",
        "CREATE SEQUENCE numbers",
        "ALTER ROLE postgres SET leak.base = 'the default'",
        "ALTER ROLE postgres SET lock_timeout = '44s'",
    ] {
        cluster.sql(sql);
    }
    cluster
}

/// Plays one of [`DIRT`] and ends it one of [`ENDS`]; a client that stays is given back.
fn make(cluster: &mut Client, valet: &Pgvalet, dirt: &str, end: &str) -> Option<Client> {
    match end {
        "query_timeout" => {
            run_out_of_time(valet, HURRIED, &[dirt, &endless(valet)]);
            return None;
        }
        "in a transaction: query_timeout" => {
            run_out_of_time(valet, HURRIED, &["BEGIN", dirt, &endless(valet)]);
            return None;
        }
        "in a transaction: idle_transaction_timeout" => {
            run_out_of_time(valet, IMPATIENT, &["BEGIN", dirt]);
            return None;
        }
        _ => {}
    }
    let mut client = valet.client(Role::Postgres);
    let run = |client: &mut Client, sql: &str| drop(client.query(sql));
    let cancel = |client: &mut Client, cluster: &mut Client| {
        begin_endless(client, valet, cluster);
        client.cancel().send().expect("the request is taken");
        assert_eq!(first_error(&client.until_ready()).as_deref(), Some("57014"));
    };
    // A text of several statements is a transaction, unless it says otherwise.
    let says_otherwise = dirt.contains("; ") && (dirt.contains("EXECUTE leak"));
    match end {
        _ if says_otherwise && end.starts_with("by") => return None,
        "it stays" | "Terminate" | "reset" => run(&mut client, dirt),
        "a query is canceled, then it stays" => {
            run(&mut client, dirt);
            cancel(&mut client, cluster);
        }
        "Terminate right behind" => {
            client.send(&[query(dirt), frontend::terminate()].concat());
            let _ = client.try_until_end();
            return None;
        }
        "reset right behind" => {
            client.send(&query(dirt));
            client.reset();
            return None;
        }
        "by the extended protocol" | "by the extended protocol: reset before Sync" => {
            let mut messages = Vec::new();
            for sql in dirt.split("; ") {
                messages.extend([parse("", sql), bind("", "", &[]), execute("", 0)].concat());
            }
            if end.ends_with("Sync") {
                client.send(&[messages, frontend::flush()].concat());
                client.reset();
                return None;
            }
            client.send(&[messages, sync()].concat());
            client.until_ready();
        }
        "and an error in one text" => run(&mut client, &format!("{dirt}; SELECT 1/0")),
        "COMMIT and an error in one text" => run(&mut client, &format!("{dirt}; COMMIT; SELECT 1/0")),
        _ => {
            run(&mut client, "BEGIN");
            if end.starts_with("SAVEPOINT") {
                run(&mut client, "SAVEPOINT s");
            }
            run(&mut client, dirt);
            match end {
                "in a transaction: COMMIT, then it stays" => run(&mut client, "COMMIT"),
                "in a transaction: ROLLBACK, then it stays" => run(&mut client, "ROLLBACK"),
                "in a transaction: an error, then it stays" => {
                    run(&mut client, "SELECT 1/0");
                    run(&mut client, "COMMIT");
                }
                "in a transaction: an error, then reset" => run(&mut client, "SELECT 1/0"),
                "in a transaction: reset while a query runs" => {
                    begin_endless(&mut client, valet, cluster);
                }
                "in a transaction: a query is canceled, then COMMIT, then it stays" => {
                    cancel(&mut client, cluster);
                    run(&mut client, "COMMIT");
                }
                "in a transaction: a query is canceled, then reset" => cancel(&mut client, cluster),
                "SAVEPOINT, ROLLBACK TO, COMMIT, then it stays" => {
                    run(&mut client, "ROLLBACK TO s");
                    run(&mut client, "COMMIT");
                }
                _ => {}
            }
        }
    }
    if end.contains("Terminate") {
        client.terminate();
    } else if end.contains("reset") {
        client.reset();
    } else {
        return Some(client);
    }
    None
}

/// Plays a part of [`DIRT`]; each part has a server of its own.
fn play(part: usize) {
    let cluster = shared();
    let fresh = state(&mut cluster.client(Role::Postgres));
    let mut findings = Vec::new();
    let valet = valet(cluster);
    let mut watcher = cluster.client(Role::Postgres);
    for (name, dirt) in DIRT.iter().skip(part).step_by(PARTS) {
        for end in ENDS.iter().filter(|end| !end.contains("timeout") || TIMED.contains(name)) {
            let stayed = make(&mut watcher, &valet, dirt, end);
            let mut next = valet.client(Role::Postgres);
            // One that keeps its server has to go first.
            let pins = ["temporary", "lock", "cursor", "channel", "sequence", "library", "everything"];
            let stayed = match stayed {
                Some(client) if pins.iter().any(|kind| name.contains(kind)) => {
                    client.terminate();
                    None
                }
                stayed => stayed,
            };
            let found = state(&mut next);
            let reply = next.query("SELECT lastval()");
            let answered = first_error(&reply).is_none_or(|sqlstate| sqlstate != "55000");
            if found != fresh || answered {
                let more: Vec<_> = found.difference(&fresh).collect();
                let less: Vec<_> = fresh.difference(&found).collect();
                findings.push(format!("{name}: {end}: {more:?} in place of {less:?}, lastval: {answered}"));
            }
            next.terminate();
            drop(stayed);
        }
    }
    assert!(findings.is_empty(), "{} leaks:\n{}", findings.len(), findings.join("\n"));
}

const PARTS: usize = 4;

#[test]
fn whatever_a_client_did_and_however_it_ended_the_next_one_has_a_fresh_session() {
    play(0);
}

#[test]
fn whatever_a_client_did_and_however_it_ended_the_next_one_has_a_fresh_session_2() {
    play(1);
}

#[test]
fn whatever_a_client_did_and_however_it_ended_the_next_one_has_a_fresh_session_3() {
    play(2);
}

#[test]
fn whatever_a_client_did_and_however_it_ended_the_next_one_has_a_fresh_session_4() {
    play(3);
}

#[test]
fn more_custom_settings_than_are_followed_do_not_leak() {
    let cluster = shared();
    let fresh = state(&mut cluster.client(Role::Postgres));
    let valet = watch::trusting(cluster, 1).start();
    let many: Vec<_> = (0..71).map(|n| format!("SET leak.many{n} = 'x'")).collect();
    let long = format!("SET {}.{}.{} = 'x'", "l".repeat(60), "m".repeat(60), "n".repeat(60));
    for dirt in [many.join("; "), long.clone(), format!("BEGIN; {}; COMMIT", many.join("; "))] {
        let mut client = valet.client(Role::Postgres);
        assert_eq!(first_error(&client.query(&dirt)), None);
        let found = state(&mut valet.client(Role::Postgres));
        assert_eq!(found.difference(&fresh).collect::<Vec<_>>(), Vec::<&String>::new(), "{}", &dirt[..60]);
    }
}
