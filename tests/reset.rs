//! What one client left behind in a server never reaches the next one, and what left nothing behind costs nothing.

mod support;
#[path = "support/watch.rs"]
mod watch;

use std::cell::RefCell;
use std::collections::BTreeMap;

use support::backend::first_error;
use support::cluster::{Cluster, DATABASE, Role};
use support::eventually;
use support::frontend;
use support::pgvalet::{Builder, Pgvalet};
use support::programs::{Pgbench, TPC_B, simple_update};
use support::wire::{Client, Login};
use watch::Console;

/// One server for everybody, as a superuser so that nothing is forbidden.
fn one_server(cluster: &Cluster, reset: &str) -> Builder {
    watch::trusting(cluster, 1).setting(&format!("reset = \"{reset}\""))
}

/// How many resets had which reason, in the database of the tests.
fn reasons(valet: &Pgvalet) -> BTreeMap<String, u64> {
    let rows = valet.login(&Login::new("postgres", "pgvalet")).rows("SHOW RESETS");
    let mut found = BTreeMap::new();
    for row in rows {
        if let [Some(database), Some(reason), Some(count)] = &row[..]
            && database == DATABASE
        {
            found.insert(reason.clone(), count.parse().expect("a number"));
        }
    }
    found
}

/// Objects that the dirty statements below use.
fn prepared_cluster() -> Cluster {
    let cluster = Cluster::start();
    for sql in [
        "CREATE FUNCTION hidden_set() RETURNS int LANGUAGE plpgsql AS \
         $$ BEGIN PERFORM set_config('work_mem', '77MB', false); RETURN 1; END $$",
        "CREATE FUNCTION hidden_lock() RETURNS int LANGUAGE sql AS 'SELECT 1 FROM pg_advisory_lock(5)'",
        "CREATE VIEW innocent_view AS SELECT hidden_set() AS x",
        "CREATE TABLE innocent (x int DEFAULT hidden_set(), y int)",
        "CREATE TABLE with_trigger (x int)",
        "CREATE FUNCTION on_insert() RETURNS trigger LANGUAGE plpgsql AS \
         $$ BEGIN PERFORM hidden_set(); RETURN NEW; END $$",
        "CREATE TRIGGER t BEFORE INSERT ON with_trigger FOR EACH ROW EXECUTE FUNCTION on_insert()",
        "CREATE SEQUENCE numbers",
        "CREATE TABLE with_serial (id serial, x int)",
        "CREATE PROCEDURE proc() LANGUAGE sql AS 'SELECT set_config(''work_mem'', ''77MB'', false)'",
    ] {
        cluster.sql(sql);
    }
    cluster
}

const WORK_MEM: (&str, &str) = ("SHOW work_mem", "4MB");
const LOCKS: (&str, &str) =
    ("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()", "0");
const PREPARED: (&str, &str) = ("SELECT count(*) FROM pg_prepared_statements WHERE from_sql", "0");

/// What a client does, what the next one looks at, and what it has to see.
const DIRT: &[(&[&str], (&str, &str))] = &[
    (&["SET work_mem = '77MB'"], WORK_MEM),
    (&["/* SELECT */ sEt\tSESSION work_mem TO '77MB'"], WORK_MEM),
    (&["SELECT 1; SET work_mem = '77MB'; SELECT 2"], WORK_MEM),
    (&["BEGIN", "SET work_mem = '77MB'", "COMMIT"], WORK_MEM),
    (&["SELECT set_config('work_mem', '77MB', false)"], WORK_MEM),
    (&["SELECT pg_catalog . set_config('work_mem', '77MB', false)"], WORK_MEM),
    (&["SELECT \"set_config\"('work_mem', '77MB', false)"], WORK_MEM),
    (&["UPDATE pg_settings SET setting = '77MB' WHERE name = 'work_mem'"], WORK_MEM),
    (&["SELECT hidden_set()"], WORK_MEM),
    (&["SELECT x FROM innocent_view"], WORK_MEM),
    (&["INSERT INTO innocent (y) VALUES (1)"], WORK_MEM),
    (&["INSERT INTO with_trigger VALUES (1)"], WORK_MEM),
    (&["CALL proc()"], WORK_MEM),
    (&["DO $$ BEGIN SET work_mem = '77MB'; END $$"], WORK_MEM),
    (&["EXPLAIN ANALYZE SELECT hidden_set()"], WORK_MEM),
    (&["WITH w AS (SELECT hidden_set()) SELECT * FROM w"], WORK_MEM),
    (&["COPY (SELECT hidden_set()) TO STDOUT"], WORK_MEM),
    (&["SET statement_timeout = 1234"], ("SHOW statement_timeout", "0")),
    (
        &["SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL SERIALIZABLE"],
        ("SHOW default_transaction_isolation", "read committed"),
    ),
    (&["SET search_path = pg_catalog"], ("SHOW search_path", "\"$user\", public")),
    (&["CREATE TEMP TABLE left_behind (x int)"], ("SELECT to_regclass('pg_temp.left_behind') IS NULL", "t")),
    (&["SELECT 1 AS x INTO TEMP left_behind"], ("SELECT to_regclass('pg_temp.left_behind') IS NULL", "t")),
    (
        &["CREATE TABLE pg_temp.left_behind (x int)"],
        ("SELECT to_regclass('pg_temp.left_behind') IS NULL", "t"),
    ),
    (&["SELECT pg_advisory_lock(4711)"], LOCKS),
    (&["SELECT pg_try_advisory_lock_shared(1, 2)"], LOCKS),
    (&["SELECT hidden_lock()"], LOCKS),
    (&["LISTEN news"], ("SELECT count(*) FROM pg_listening_channels()", "0")),
    (&["PREPARE p AS SELECT 1"], PREPARED),
    (
        &["BEGIN", "DECLARE c CURSOR WITH HOLD FOR SELECT 1", "COMMIT"],
        ("SELECT count(*) FROM pg_cursors", "0"),
    ),
    (&["SET ROLE app_md5"], ("SELECT current_user", "postgres")),
    (&["SET SESSION AUTHORIZATION app_md5"], ("SELECT session_user || current_user", "postgrespostgres")),
    (&["SELECT set_config('role', 'app_md5', false)"], ("SELECT current_user", "postgres")),
];

/// Plays each kind of dirt and has the next client look; the reply of the dirt must not be an error.
fn play_dirt(valet: &Pgvalet, run: impl Fn(&mut Client, &[&str])) {
    for (statements, (look, expected)) in DIRT {
        let mut dirty = valet.client(Role::Postgres);
        run(&mut dirty, statements);
        // What only its server has keeps the server for a client as long as it is there.
        let keeps =
            ["pg_temp", "pg_locks", "pg_listening", "pg_cursors"].iter().any(|part| look.contains(part));
        if keeps {
            dirty.terminate();
            assert_eq!(valet.client(Role::Postgres).value(look), *expected, "after {statements:?}");
            continue;
        }
        let mut next = valet.client(Role::Postgres);
        assert_eq!(next.value(look), *expected, "after {statements:?}");
        dirty.terminate();
    }
}

fn simple(client: &mut Client, statements: &[&str]) {
    for sql in statements {
        let reply = client.query(sql);
        assert!(first_error(&reply).is_none(), "{sql}: {reply:?}");
    }
}

#[test]
fn nothing_that_a_client_left_behind_reaches_the_next_one() {
    let cluster = prepared_cluster();
    for (reset, shares) in [("auto", false), ("always", false), ("always", true)] {
        let valet = one_server(&cluster, reset).start();
        // A statement that the server is to keep, which another reset is for than for a server without any.
        let sharer = RefCell::new(valet.client(Role::Postgres));
        let send = |messages: &[Vec<u8>]| {
            sharer.borrow_mut().send(&frontend::all(messages));
            assert_eq!(first_error(&sharer.borrow_mut().until_ready()), None);
        };
        send(&[frontend::parse("shared", "SELECT 1"), frontend::sync()]);
        let share = || {
            if shares {
                send(&[frontend::bind("", "shared", &[]), frontend::execute("", 0), frontend::sync()]);
            }
        };
        play_dirt(&valet, |client, statements| {
            share();
            simple(client, statements);
        });
        // The same by the extended protocol; several statements in one text are not for it.
        play_dirt(&valet, |client, statements| {
            share();
            for sql in statements {
                let single = sql.trim_start_matches("SELECT 1; ").trim_end_matches("; SELECT 2");
                let reply = client.extended(single, &[]);
                assert!(first_error(&reply).is_none(), "{sql}: {reply:?}");
            }
        });
        let closed = valet.count_log(&["its reset failed"]);
        assert_eq!(closed, 0, "no reset failed");
    }
}

#[test]
fn lastval_does_not_tell_what_another_client_drew() {
    let cluster = prepared_cluster();
    for reset in ["auto", "always"] {
        let valet = one_server(&cluster, reset).start();
        for sql in [
            "SELECT nextval('numbers')",
            "INSERT INTO with_serial (x) VALUES (1)",
            "SELECT setval('numbers', 9)",
        ] {
            simple(&mut valet.client(Role::Postgres), &[sql]);
            let reply = valet.client(Role::Postgres).query("SELECT lastval()");
            assert_eq!(first_error(&reply).as_deref(), Some("55000"), "after {sql}: {reply:?}");
        }
    }
}

#[test]
fn an_operator_that_runs_code_is_seen_through() {
    let cluster = prepared_cluster();
    cluster.sql("CREATE FUNCTION negative(x int) RETURNS int LANGUAGE sql AS 'SELECT hidden_set()'");
    cluster.sql("CREATE OPERATOR @#@ (RIGHTARG = int, FUNCTION = negative)");
    let valet = one_server(&cluster, "auto").start();
    simple(&mut valet.client(Role::Postgres), &["SELECT @#@ 5"]);
    assert_eq!(valet.client(Role::Postgres).value("SHOW work_mem"), "4MB");
}

#[test]
fn a_statement_prepared_before_leaves_its_mark_whenever_it_runs() {
    let cluster = prepared_cluster();
    let valet = one_server(&cluster, "auto").start();
    let mut dirty = valet.client(Role::Postgres);
    let parse = frontend::parse("later", "SELECT set_config('work_mem', $1, false)");
    dirty.send(&frontend::all(&[parse, frontend::sync()]));
    dirty.until_ready();
    let mut next = valet.client(Role::Postgres);
    assert_eq!(next.value("SHOW work_mem"), "4MB");
    let run = [frontend::bind("", "later", &[Some("77MB")]), frontend::execute("", 0), frontend::sync()];
    dirty.send(&frontend::all(&run));
    assert_eq!(first_error(&dirty.until_ready()), None);
    assert_eq!(next.value("SHOW work_mem"), "4MB");
}

#[test]
fn a_clients_own_prepared_statements_survive_the_resets_of_others() {
    let cluster = prepared_cluster();
    let valet = one_server(&cluster, "auto").start();
    let mut client = valet.client(Role::Postgres);
    client.send(&frontend::all(&[frontend::parse("mine", "SELECT 40 + $1::int"), frontend::sync()]));
    client.until_ready();
    for _ in 0..3 {
        simple(&mut valet.client(Role::Postgres), &["SET work_mem = '77MB'"]);
        let run = [frontend::bind("", "mine", &[Some("2")]), frontend::execute("", 0), frontend::sync()];
        client.send(&frontend::all(&run));
        let reply = client.until_ready();
        assert_eq!(support::backend::rows(&reply), [[Some("42".to_string())]], "{reply:?}");
    }
}

#[test]
fn a_client_that_leaves_in_its_transaction_leaves_nothing_behind() {
    let cluster = prepared_cluster();
    for reset in ["auto", "always"] {
        let valet = one_server(&cluster, reset).start();
        for statements in [
            &["BEGIN", "SET work_mem = '77MB'", "SELECT pg_advisory_lock(4711)", "LISTEN x"][..],
            &["BEGIN", "SELECT pg_advisory_lock(4711)", "SAVEPOINT s", "SELECT hidden_set()"],
        ] {
            for orderly in [true, false] {
                let mut dirty = valet.client(Role::Postgres);
                simple(&mut dirty, statements);
                if orderly {
                    dirty.terminate()
                } else {
                    dirty.reset()
                }
                let mut next = valet.client(Role::Postgres);
                for (look, expected) in
                    [WORK_MEM, LOCKS, ("SELECT count(*) FROM pg_listening_channels()", "0")]
                {
                    assert_eq!(next.value(look), expected, "{statements:?}");
                }
            }
        }
    }
}

#[test]
fn resets_are_counted_by_their_reason() {
    let cluster = prepared_cluster();
    let valet = one_server(&cluster, "auto").start();
    for (statements, reason) in [
        (&["SELECT nextval('numbers')"][..], "sequences"),
        (&["SELECT pg_advisory_lock(1)"], "locks"),
        (&["LISTEN x"], "listen"),
        (&["BEGIN", "DECLARE c CURSOR WITH HOLD FOR SELECT 1", "COMMIT"], "cursors"),
        (&["PREPARE p AS SELECT 1"], "statements"),
        (&["DO 'BEGIN END'"], "everything"),
        (&["SELECT hidden_set()"], "everything"),
    ] {
        let before = reasons(&valet).get(reason).copied().unwrap_or(0);
        let mut client = valet.client(Role::Postgres);
        simple(&mut client, statements);
        client.terminate();
        eventually(reason, || {
            (reasons(&valet).get(reason).copied().unwrap_or(0) == before + 1).then_some(())
        });
    }
}

#[test]
fn state_with_a_reset_of_its_own_does_not_cost_the_server_its_prepared_statements() {
    let cluster = prepared_cluster();
    let valet = one_server(&cluster, "auto").start();
    let mut client = valet.client(Role::Postgres);
    client.send(&frontend::all(&[frontend::parse("s", "SELECT 1"), frontend::sync()]));
    client.until_ready();
    simple(&mut client, &["SELECT nextval('numbers')", "LISTEN x", "SELECT pg_advisory_lock(1)"]);
    client.terminate();
    let mut next = valet.client(Role::Postgres);
    assert_eq!(next.value("SELECT count(*) FROM pg_listening_channels()"), "0");
    assert_ne!(next.value("SELECT count(*) FROM pg_prepared_statements"), "0");
    let mut console = Console::open(&valet);
    assert_eq!(console.stat("full_resets"), 0);
    assert_eq!(console.stat("resets"), 1);
}

#[test]
fn work_that_leaves_nothing_behind_needs_no_reset() {
    let cluster = Cluster::start();
    let login = Login::new("postgres", DATABASE);
    Pgbench::initialise(&cluster.tcp(), &login, 1);
    let valet = one_server(&cluster, "auto").setting("default_pool_size = 5").start();
    // A thread for each client: pgbench prepares blockingly, which would wait for servers that its own clients hold.
    let bench = Pgbench { clients: 10, threads: 10, transactions: 20, ..Pgbench::default() };
    for protocol in ["simple", "extended", "prepared"] {
        // As pgbench -S, with -N, and without either.
        for script in [None, Some(simple_update()), Some(TPC_B.to_string())] {
            let arguments = vec!["-D".into(), "scale=1".into()];
            let report = Pgbench { protocol, script, arguments, ..bench.clone() }.run(&valet.tcp(), &login);
            assert_eq!((report.processed, report.failed), (200, 0), "{protocol}: {:?}", report.output);
        }
    }
    let mut client = valet.client(Role::Postgres);
    simple(
        &mut client,
        &[
            "SELECT 1",
            "",
            "SELECT now(), current_user, pg_backend_pid(), version()",
            "BEGIN; SELECT abalance FROM pgbench_accounts WHERE aid = 1 FOR UPDATE; COMMIT",
            "SET LOCAL work_mem = '77MB'",
            "SHOW work_mem",
            "SET TimeZone = 'Asia/Tokyo'",
            "SELECT pg_advisory_xact_lock(1)",
            "COPY (SELECT 1) TO STDOUT",
            "EXPLAIN SELECT * FROM pgbench_accounts",
        ],
    );
    assert_eq!(reasons(&valet), BTreeMap::new());
    let mut console = Console::open(&valet);
    assert_eq!(console.stat("resets"), 0);
    assert!(console.stat("leases") >= 1800, "{}", console.stat("leases"));
}

/// One that is under way has been counted as full already.
fn all_resets_are_full(console: &mut Console) {
    eventually("all resets to be full", || {
        (console.stat("resets") == console.stat("full_resets")).then_some(())
    });
}

#[test]
fn always_resets_after_each_lease() {
    let cluster = Cluster::shared();
    let valet = one_server(cluster, "always").start();
    let mut client = valet.client(Role::Trust);
    let pid = client.value("SELECT pg_backend_pid()");
    for _ in 0..4 {
        assert_eq!(client.value("SELECT pg_backend_pid()"), pid, "the server stays");
    }
    let mut console = Console::open(&valet);
    console.wait_stat("full_resets", 5);
    eventually("a DISCARD ALL to be the last word", || {
        (cluster.value(&format!("SELECT query FROM pg_stat_activity WHERE pid = {pid}")) == "DISCARD ALL")
            .then_some(())
    });
    all_resets_are_full(&mut console);
}

#[test]
fn always_spares_the_statements_that_clients_share() {
    let cluster = Cluster::shared();
    let valet = one_server(cluster, "always").start();
    let mut client = valet.client(Role::Trust);
    client.send(&frontend::all(&[frontend::parse("s", "SELECT $1::int"), frontend::sync()]));
    client.until_ready();
    let mut console = Console::open(&valet);
    let parses = console.stat("server_parses");
    for number in 0..5 {
        // What the client prepared by SQL goes all the same, and comes back for it alone.
        simple(&mut client, &[&format!("PREPARE p{number} AS SELECT {number}")]);
        let run = [frontend::bind("", "s", &[Some("7")]), frontend::execute("", 0), frontend::sync()];
        client.send(&frontend::all(&run));
        assert_eq!(support::backend::rows(&client.until_ready()), [[Some("7".to_string())]]);
        assert_eq!(valet.client(Role::Trust).value(PREPARED.0), "0");
    }
    assert_eq!(console.stat("server_parses"), parses, "the server kept the statement");
    assert_eq!(client.value("EXECUTE p0"), "0");
    // A name that no text shows.
    let function = "CREATE OR REPLACE FUNCTION prepares() RETURNS void LANGUAGE plpgsql AS \
                    $$ BEGIN EXECUTE 'PREPARE hidden AS SELECT 1'; END $$";
    simple(&mut client, &[function, "SELECT prepares()"]);
    assert_eq!(valet.client(Role::Trust).value(PREPARED.0), "0");
    cluster.sql("DROP FUNCTION prepares()");
    all_resets_are_full(&mut console);
}

/// DISCARD ALL asks nobody whether advisory locks may be given back; the function does.
#[test]
fn always_resets_where_a_part_of_it_is_forbidden() {
    let cluster = prepared_cluster();
    cluster.sql("REVOKE EXECUTE ON FUNCTION pg_advisory_unlock_all() FROM PUBLIC");
    let valet = one_server(&cluster, "always").start();
    let mut client = valet.client(Role::Trust);
    client.send(&frontend::all(&[frontend::parse("s", "SELECT pg_backend_pid()"), frontend::sync()]));
    client.until_ready();
    let run = [frontend::bind("", "s", &[]), frontend::execute("", 0), frontend::sync()];
    let pids: std::collections::BTreeSet<_> = (0..3)
        .map(|_| {
            client.send(&frontend::all(&run));
            support::backend::rows(&client.until_ready())
        })
        .collect();
    assert_eq!(pids.len(), 1, "the server stays");
    simple(&mut client, &["SET work_mem = '77MB'"]);
    assert_eq!(valet.client(Role::Trust).value("SHOW work_mem"), "4MB");
    assert_eq!(Console::open(&valet).stat("failed_resets"), 0);
}

#[test]
fn a_reset_query_of_ones_own_is_what_is_sent() {
    let valet = one_server(Cluster::shared(), "always")
        .setting("server_reset_query = \"SELECT set_config('work_mem', '9MB', false)\"")
        .start();
    let mut client = valet.client(Role::Trust);
    client.value("SHOW work_mem");
    assert_eq!(client.value("SHOW work_mem"), "9MB");
}

#[test]
fn never_sends_nothing() {
    let cluster = Cluster::shared();
    let valet = one_server(cluster, "never").start();
    let mut client = valet.client(Role::Trust);
    simple(&mut client, &["SET work_mem = '77MB'"]);
    let mut next = valet.client(Role::Trust);
    assert_eq!(next.value("SHOW work_mem"), "77MB", "it was asked for");
    let pid = next.value("SELECT pg_backend_pid()");
    let mark = "SELECT 'the last word'";
    simple(&mut next, &[mark]);
    assert_eq!(valet.client(Role::Trust).value("SELECT pg_backend_pid()"), pid);
    simple(&mut next, &[mark]);
    let mut console = Console::open(&valet);
    assert_eq!((console.stat("resets"), console.stat("leases") >= 5), (0, true));
    assert_eq!(cluster.value(&format!("SELECT query FROM pg_stat_activity WHERE pid = {pid}")), mark);
    assert_eq!(reasons(&valet), BTreeMap::new());
}

#[test]
fn a_failed_reset_closes_the_server() {
    for query in ["SELECT 1/0", "BEGIN", "no SQL at all"] {
        let valet = one_server(Cluster::shared(), "always")
            .setting(&format!("server_reset_query = \"{query}\""))
            .start();
        let mut client = valet.client(Role::Trust);
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..3 {
            let pid = client.value("SELECT pg_backend_pid()");
            assert!(seen.insert(pid), "{query}: each server serves once");
        }
        valet.wait_log(&["server closed", "its reset failed", "database=", "user="]);
        if query != "BEGIN" {
            Console::open(&valet).wait_stat("failed_resets", 3);
        }
    }
}

#[test]
fn a_database_may_have_a_reset_of_its_own() {
    let cluster = Cluster::shared();
    let valet = one_server(cluster, "always")
        .database("loose", cluster, &["dbname = \"app\"", "reset = \"never\""])
        .start();
    for (database, expected) in [(DATABASE, "4MB"), ("loose", "77MB")] {
        let login = Role::Trust.login().database(database);
        simple(&mut valet.login(&login), &["SET work_mem = '77MB'"]);
        assert_eq!(valet.login(&login).value("SHOW work_mem"), expected, "{database}");
    }
}
