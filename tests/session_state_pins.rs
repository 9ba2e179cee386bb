//! State that only one server has: its client finds it there, whatever others do, and nobody else does.

mod support;

#[path = "support/faithful.rs"]
mod faithful;

use faithful::faithful_when_pinned;
use support::differential::Script;
use support::frontend::{bind, execute, parse, query, sync};

/// Each statement by itself, so that a server could change hands behind each.
fn told(name: &str, statements: &[&str]) -> Script {
    statements.iter().fold(Script::new(name), |script, sql| script.query(sql))
}

const TEMPORARY: &[&str] = &[
    "CREATE TEMP TABLE a (n int)",
    "INSERT INTO a SELECT generate_series(1, 3)",
    "SELECT count(*) FROM a",
    "CREATE TEMP VIEW v AS SELECT n * 2 AS m FROM a",
    "SELECT sum(m) FROM v",
    "CREATE INDEX ON a (n)",
    "ALTER TABLE a ADD COLUMN x text DEFAULT 'x'",
    "SELECT n + 0, x || '' FROM a ORDER BY n",
    "DROP TABLE a CASCADE",
    "SELECT count(*) FROM a",
    "CREATE FUNCTION pg_temp.f() RETURNS int LANGUAGE sql AS 'SELECT 42'",
    "SELECT pg_temp.f()",
    "DROP FUNCTION pg_temp.f()",
    "CREATE TEMP SEQUENCE s",
    "SELECT nextval('s'), nextval('s')",
    "SELECT currval('s')",
    "DROP SEQUENCE s",
    "CREATE TYPE pg_temp.pair AS (a int, b int)",
    "SELECT (ROW(1, 2)::pg_temp.pair).b",
    "DISCARD TEMP",
    "BEGIN",
    "CREATE TEMP TABLE gone (n int) ON COMMIT DROP",
    "INSERT INTO gone VALUES (1)",
    "SELECT count(*) FROM gone",
    "COMMIT",
    "SELECT count(*) FROM gone",
    "CREATE TEMP TABLE emptied (n int) ON COMMIT DELETE ROWS",
    "BEGIN; INSERT INTO emptied VALUES (1); SELECT count(*) FROM emptied; COMMIT",
    "SELECT count(*) FROM emptied",
    "DROP TABLE emptied",
    "BEGIN",
    "CREATE TEMP TABLE never (n int)",
    "ROLLBACK",
    "SELECT count(*) FROM never",
    "CREATE TEMP TABLE made AS SELECT 7 AS n",
    "SELECT n + 0 FROM made",
    "SET search_path = pg_temp, public",
    "CREATE TABLE also_temporary (n int)",
    "SELECT count(*) FROM also_temporary",
    "DISCARD ALL",
    "SELECT count(*) FROM made",
];

#[test]
fn temporary_objects_stay_with_their_client() {
    let script = told("temporary", TEMPORARY).errors(&["42P01"; 4]);
    faithful_when_pinned(&script);
    let extended = TEMPORARY
        .iter()
        .filter(|sql| !sql.contains("; "))
        .fold(Script::new("temporary, extended"), |script, sql| script.extended(sql, &[]));
    faithful_when_pinned(&extended.errors(&["42P01"; 4]));
}

#[test]
fn advisory_locks_stay_until_the_last_of_them_is_given_back() {
    faithful_when_pinned(
        &told(
            "locks",
            &[
                "SELECT pg_advisory_lock(9001)",
                "SELECT pg_advisory_lock(9001)",
                "SELECT pg_advisory_lock_shared(9001)",
                "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()",
                "SELECT pg_advisory_unlock(9001)",
                "SELECT pg_advisory_unlock(9001)",
                "SELECT pg_advisory_unlock_shared(9001)",
                "SELECT pg_advisory_unlock_shared(9001)",
                "SELECT pg_try_advisory_lock(9001, 1), pg_try_advisory_lock_shared(9001, 2)",
                "SELECT pg_advisory_unlock_all()",
                "SELECT pg_advisory_unlock(9001, 1)",
                "BEGIN",
                "SELECT pg_advisory_lock(9002)",
                "ROLLBACK",
                "SELECT pg_advisory_unlock(9002)",
                "BEGIN",
                "SELECT pg_advisory_lock(9003)",
                "SELECT 1/0",
                "ROLLBACK",
                "SELECT pg_advisory_unlock(9003)",
                "SELECT pg_advisory_unlock(9003)",
                "DO $$ BEGIN PERFORM pg_advisory_lock(9004); END $$",
                "SELECT pg_advisory_unlock(9004)",
                "SELECT pg_advisory_lock(9005); SELECT 1/0",
                "SELECT pg_advisory_unlock(9005)",
                "BEGIN",
                "SELECT pg_advisory_xact_lock(9006)",
                "COMMIT",
                "SELECT pg_advisory_unlock(9006)",
                "SELECT pg_advisory_lock(9007)",
                "DISCARD ALL",
                "SELECT pg_advisory_unlock(9007)",
            ],
        )
        .errors(&["22012", "22012"]),
    );
}

#[test]
fn two_clients_see_each_others_locks() {
    faithful_when_pinned(
        &Script::new("two lockers")
            .client("main")
            .query("SELECT pg_advisory_lock(9100)")
            .client("other")
            .query("SELECT pg_try_advisory_lock(9100)")
            .query("SELECT pg_try_advisory_lock(9101)")
            .client("main")
            .query("SELECT pg_try_advisory_lock(9101)")
            .query("SELECT pg_advisory_unlock(9100)")
            .client("other")
            .query("SELECT pg_try_advisory_lock(9100)")
            .query("SELECT pg_advisory_unlock_all()")
            .client("main")
            .query("SELECT pg_try_advisory_lock(9101)")
            .query("SELECT pg_advisory_unlock(9101)"),
    );
}

/// The server is still being asked what is left of the cursor when the next statement comes.
#[test]
fn what_comes_right_behind_the_end_of_a_cursor_is_kept() {
    let script = Script::new("right behind")
        .setup("CREATE FUNCTION behind(name text, value text) RETURNS text LANGUAGE sql AS 'SELECT set_config(name, value, false)'")
        .teardown("DROP FUNCTION behind(text, text)");
    let rounds = (0..8).fold(script, |script, round| {
        script
            .query("BEGIN; DECLARE held CURSOR WITH HOLD FOR SELECT 1; COMMIT")
            .query("CLOSE held")
            .query(&format!("SELECT behind('app.behind', '{round}')"))
            .query("SELECT current_setting('app.behind')")
    });
    faithful_when_pinned(&rounds);
}

/// What ends a pin without being asked about it ends it for good.
#[test]
fn what_follows_on_discard_all_is_kept() {
    let rounds = (0..4).fold(Script::new("behind DISCARD ALL"), |script, round| {
        script
            .query("BEGIN; DECLARE held CURSOR WITH HOLD FOR SELECT 1; COMMIT")
            .query("DISCARD ALL")
            .query(&format!("SELECT 1 FROM pg_advisory_lock({round}), set_config('app.' || 'x', 'y', false)"))
            .query("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()")
            .query(&format!("SELECT pg_advisory_unlock({round})"))
    });
    faithful_when_pinned(&rounds);
}

#[test]
fn held_cursors_stay_until_they_are_closed() {
    faithful_when_pinned(
        &told(
            "cursors",
            &[
                "DECLARE outside CURSOR WITH HOLD FOR SELECT generate_series(1, 5)",
                "FETCH outside",
                "FETCH outside",
                "MOVE 1 IN outside",
                "FETCH ALL FROM outside",
                "CLOSE outside",
                "FETCH outside",
                "BEGIN",
                "DECLARE kept SCROLL CURSOR WITH HOLD FOR SELECT generate_series(1, 5)",
                "DECLARE lost CURSOR FOR SELECT 1",
                "FETCH 3 FROM kept",
                "COMMIT",
                "FETCH BACKWARD 1 FROM kept",
                "FETCH lost",
                "BEGIN",
                "FETCH kept",
                "ROLLBACK",
                "FETCH kept",
                "CLOSE ALL",
                "FETCH kept",
                "BEGIN",
                "DECLARE never CURSOR WITH HOLD FOR SELECT 1",
                "ROLLBACK",
                "FETCH never",
                "BEGIN",
                "DECLARE failing CURSOR WITH HOLD FOR SELECT 1 / (g - 3) FROM generate_series(1, 5) g",
                "COMMIT",
                "FETCH failing",
                "SELECT 'on'",
            ],
        )
        .errors(&["34000", "34000", "34000", "34000", "22012", "34000"])
        .pipeline(&[
            parse("d", "DECLARE by_parse CURSOR WITH HOLD FOR SELECT 10 + generate_series(1, 3)"),
            bind("", "d", &[]),
            execute("", 0),
            sync(),
            query("FETCH by_parse"),
        ])
        .ready()
        .ready()
        .extended("FETCH by_parse", &[])
        .pipeline(&[query("FETCH by_parse"), query("CLOSE by_parse"), query("FETCH by_parse")])
        .ready()
        .ready()
        .ready()
        .errors(&["34000"]),
    );
}

#[test]
fn sequences_answer_what_they_were_asked() {
    let script = told(
        "sequences",
        &[
            "SELECT nextval('numbers')",
            "SELECT currval('numbers'), lastval()",
            "SELECT setval('numbers', 40)",
            "SELECT currval('numbers')",
            "BEGIN; SELECT nextval('numbers'); ROLLBACK",
            "SELECT currval('numbers'), lastval()",
            "DISCARD SEQUENCES",
            "SELECT lastval()",
            "SELECT setval('numbers', 50, false)",
            "SELECT nextval('numbers')",
            "SELECT lastval()",
            "DISCARD ALL",
            "SELECT currval('numbers')",
        ],
    )
    .setup("CREATE SEQUENCE numbers")
    .setup("GRANT ALL ON numbers TO PUBLIC")
    .before_each("ALTER SEQUENCE numbers RESTART")
    .errors(&["55000", "55000"])
    .extended("SELECT nextval($1)", &[Some("numbers")])
    .extended("SELECT currval($1)", &[Some("numbers")])
    .query("DO $$ BEGIN PERFORM nextval('numbers'); END $$")
    .query("SELECT currval('numbers')")
    .teardown("DROP SEQUENCE numbers");
    faithful_when_pinned(&script);
}

#[test]
fn a_client_that_asks_for_lastval_gets_it_in_its_transaction_and_later_ones() {
    let script = told(
        "serial",
        &[
            "BEGIN",
            "INSERT INTO with_serial (x) VALUES (1)",
            "SELECT lastval()",
            "COMMIT",
            "SELECT lastval()",
            "INSERT INTO with_serial (x) VALUES (1)",
            "SELECT lastval(), currval(pg_get_serial_sequence('with_serial', 'id'))",
        ],
    )
    .setup("CREATE TABLE with_serial (id serial, x int)")
    .before_each("TRUNCATE with_serial RESTART IDENTITY")
    .teardown("DROP TABLE with_serial");
    faithful_when_pinned(&script);
}

#[test]
fn a_pinned_clients_settings_and_statements_are_as_ever() {
    faithful_when_pinned(
        &Script::new("pinned")
            .parameter("work_mem", "6MB")
            .query("CREATE TEMP TABLE here (n int)")
            .pipeline(&[parse("", "SELECT count(*) FROM here"), sync()])
            .ready()
            .pipeline(&[bind("", "", &[]), execute("", 0), sync()])
            .ready()
            .query("SET work_mem = '7MB'")
            .query("SHOW work_mem")
            .pipeline(&[parse("", "SELECT 2"), sync()])
            .ready()
            .query("SHOW work_mem")
            .pipeline(&[bind("", "", &[]), execute("", 0), sync()])
            .ready()
            .query("RESET work_mem")
            .query("SHOW work_mem")
            .query("SET app.pinned = 'one'")
            .query("SHOW app.pinned")
            .query("BEGIN; SET app.pinned = 'two'; ROLLBACK")
            .query("SHOW app.pinned")
            .query("PREPARE p AS SELECT n + 0 FROM here")
            .query("EXECUTE p")
            .query("DEALLOCATE p")
            .query("DROP TABLE here")
            .query("SHOW app.pinned")
            .query("SHOW work_mem")
            // A Query takes the unnamed statement away.
            .errors(&["26000"]),
    );
}

#[test]
fn notifications_come_to_whoever_listens() {
    faithful_when_pinned(
        &Script::new("listen")
            .query("LISTEN news")
            .query("SELECT 1")
            .query("NOTIFY news, 'by myself'")
            .query("BEGIN; NOTIFY news, 'never'; ROLLBACK")
            .query("SELECT pg_listening_channels()")
            .query("UNLISTEN news")
            .query("NOTIFY news, 'nobody'")
            .query("SELECT pg_listening_channels()"),
    );
}
