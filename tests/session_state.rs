//! Session state is still there for its client after other clients' transactions went over every server of the pool, and
//! the answers are PostgreSQL's, message by message (docs/session-state.md).

mod support;

#[path = "support/faithful.rs"]
mod faithful;

use faithful::{faithful, faithful_as, faithful_when_pinned};
use support::cluster::{Cluster, Role};
use support::differential::{How, Script};
use support::frontend::{bind, execute, parse, sync};

/// Each statement by itself, so that a server could change hands behind each.
fn told(name: &str, statements: &[&str]) -> Script {
    statements.iter().fold(Script::new(name), |script, sql| script.query(sql))
}

#[test]
fn settings_that_no_server_reports_follow() {
    faithful(&told(
        "unreported settings",
        &[
            "SET work_mem = '7MB'",
            "SHOW work_mem",
            "SET SESSION statement_timeout TO '77s'",
            "SHOW statement_timeout",
            "SHOW work_mem",
            "SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL SERIALIZABLE",
            "SHOW transaction_isolation",
            "SET search_path = pg_catalog, public",
            "SHOW search_path",
            "SET SCHEMA 'public'",
            "SHOW search_path",
            "SELECT set_config('work_mem', '9MB', false)",
            "SHOW work_mem",
            "SET extra_float_digits = 3",
            "SELECT 0.1::float4",
            "RESET work_mem",
            "SHOW work_mem",
            "SET statement_timeout TO DEFAULT",
            "SHOW statement_timeout",
            "RESET ALL",
            "SHOW search_path",
            "SHOW default_transaction_isolation",
        ],
    ));
}

#[test]
fn settings_follow_transactions() {
    faithful(
        &told(
            "settings in transactions",
            &[
                "BEGIN",
                "SET work_mem = '7MB'",
                "SHOW work_mem",
                "COMMIT",
                "SHOW work_mem",
                "BEGIN",
                "SET work_mem = '8MB'",
                "ROLLBACK",
                "SHOW work_mem",
                "BEGIN",
                "SET work_mem = '9MB'",
                "SAVEPOINT s",
                "SET work_mem = '10MB'",
                "ROLLBACK TO s",
                "COMMIT",
                "SHOW work_mem",
                "BEGIN",
                "SET LOCAL work_mem = '11MB'",
                "SHOW work_mem",
                "COMMIT",
                "SHOW work_mem",
                "BEGIN",
                "SET work_mem = '12MB'",
                "SET LOCAL work_mem = '13MB'",
                "COMMIT",
                "SHOW work_mem",
                "SET work_mem = '14MB'; SELECT 1/0",
                "SHOW work_mem",
                "SET work_mem = '15MB'; COMMIT; SELECT 1/0",
                "SHOW work_mem",
            ],
        )
        .errors(&["22012", "22012"]),
    );
}

#[test]
fn custom_settings_follow() {
    faithful(
        &told(
            "custom settings",
            &[
                "SET app.tenant = 'one'",
                "SHOW app.tenant",
                "SELECT set_config('app.tenant', 'two', false), set_config('app.\"odd', 'x', true)",
                "SHOW app.tenant",
                "SELECT set_config('app.tenant', 'two', false)",
                "SHOW app.tenant",
                "SELECT set_config('app.' || 'other', 'three', true)",
                "SET \"App\".\"User\" TO 'four'",
                "SELECT current_setting('app.user')",
                "BEGIN; SET app.tenant = 'five'; ROLLBACK",
                "SHOW app.tenant",
                "RESET app.tenant",
                "SELECT coalesce(current_setting('app.tenant', true), '')",
                "DO $$ BEGIN PERFORM set_config('app.from_do', 'six', false); END $$",
                "SHOW app.from_do",
            ],
        )
        .errors(&["42602"])
        .pipeline(&[
            parse("set", "SELECT set_config($1, $2, false)"),
            bind("", "set", &[Some("app.bound"), Some("seven")]),
            execute("", 0),
            sync(),
        ])
        .ready()
        .query("SHOW app.bound"),
    );
}

#[test]
fn roles_follow() {
    Cluster::shared().sql("CREATE ROLE follows_boss; CREATE ROLE follows_worker IN ROLE follows_boss");
    let script = told(
        "roles",
        &[
            "SET ROLE follows_worker",
            "SELECT current_user",
            "SET work_mem = '7MB'",
            "SELECT current_user, current_setting('work_mem')",
            "SET ROLE follows_boss",
            "SELECT current_user",
            "BEGIN; SET ROLE follows_worker; ROLLBACK",
            "SELECT current_user",
            "RESET ROLE",
            "SELECT current_user = session_user",
            "SET ROLE no_such_role",
            "SELECT current_user = session_user",
            "SELECT set_config('role', 'follows_boss', false)",
            "SELECT current_user",
            "SET SESSION AUTHORIZATION follows_worker",
            "SELECT session_user, current_user",
            "SET ROLE follows_boss",
            "SELECT session_user, current_user",
            "RESET SESSION AUTHORIZATION",
            "SELECT session_user, current_user",
            "SET ROLE follows_boss",
            "DISCARD ALL",
            "SELECT current_user = session_user",
        ],
    );
    let hows = [How::WHOLE, How::BYTEWISE, How::ROTATING];
    faithful_as(&script.errors(&["22023"]), Role::Postgres.login(), &[], &hows);
}

#[test]
fn what_only_one_server_has_keeps_its_client_there() {
    faithful_when_pinned(
        &told(
            "pins",
            &[
                "CREATE TEMP TABLE kept (n int)",
                "INSERT INTO kept VALUES (1)",
                "SELECT n + 0 FROM kept",
                "BEGIN; INSERT INTO kept VALUES (2); ROLLBACK",
                "SELECT n + 0 FROM kept",
                "DROP TABLE kept",
                "SELECT n + 0 FROM kept",
                "SELECT 2 AS n INTO TEMP kept",
                "SELECT n + 0 FROM kept",
                "DISCARD TEMP",
                "SELECT n + 0 FROM kept",
                "SELECT pg_advisory_lock(4711), pg_advisory_lock(4711)",
                "SELECT pg_advisory_unlock(4711)",
                "SELECT pg_advisory_unlock(4711)",
                "SELECT pg_advisory_unlock(4711)",
                "SELECT pg_try_advisory_lock_shared(1, 2)",
                "SELECT pg_advisory_unlock_shared(1, 2)",
                "BEGIN",
                "DECLARE held CURSOR WITH HOLD FOR SELECT generate_series(1, 4)",
                "COMMIT",
                "FETCH 2 FROM held",
                "SELECT 1",
                "FETCH 1 FROM held",
                "CLOSE held",
                "FETCH 1 FROM held",
                "CREATE SEQUENCE IF NOT EXISTS counted",
                "SELECT setval('counted', 41)",
                "SELECT nextval('counted')",
                "SELECT currval('counted'), lastval()",
                "DISCARD SEQUENCES",
                "SELECT lastval()",
                "DROP SEQUENCE counted",
            ],
        )
        .errors(&["42P01", "42P01", "34000", "55000"]),
    );
}
