//! Every way to change a setting: what comes of it is there for its client on whatever server it is served next, and the
//! answers are PostgreSQL's, message by message (docs/session-state.md).

mod support;

#[path = "support/faithful.rs"]
mod faithful;
#[path = "support/watch.rs"]
mod watch;

use faithful::{faithful, faithful_as};
use support::backend::first_error;
use support::cluster::{Cluster, DATABASE, Role};
use support::differential::{How, Script};
use support::frontend::{
    bind, bind_formats, close_statement, describe_portal, execute, flush, parse, query, sync,
};
use support::wire::{Client, Login};
use watch::Console;

/// Each statement by itself, so that a server could change hands behind each.
fn told(name: &str, statements: &[&str]) -> Script {
    statements.iter().fold(Script::new(name), |script, sql| script.query(sql))
}

/// The same by the extended protocol.
fn told_extended(name: &str, statements: &[&str]) -> Script {
    statements.iter().fold(Script::new(name), |script, sql| script.extended(sql, &[]))
}

const HOWS: [How; 3] = [How::WHOLE, How::BYTEWISE, How::ROTATING];

/// What is set in every form, and what shows it.
const FORMS: &[&str] = &[
    "SET work_mem = 7000",
    "SHOW work_mem",
    "SET SESSION work_mem TO '8MB'",
    "SHOW work_mem",
    "SET LOCAL work_mem = '9MB'",
    "SHOW work_mem",
    "SET work_mem TO DEFAULT",
    "SHOW work_mem",
    "SET TIME ZONE 'Asia/Tokyo'",
    "SHOW TimeZone",
    "SET TIME ZONE -7.5",
    "SHOW TimeZone",
    "SET TIME ZONE INTERVAL '+02:00' HOUR TO MINUTE",
    "SHOW TimeZone",
    "SELECT timestamptz '2024-06-01 12:00+00'",
    "SET TIME ZONE LOCAL",
    "SHOW TimeZone",
    "SET SESSION TIME ZONE 'America/New_York'",
    "SHOW TimeZone",
    "RESET TIME ZONE",
    "SHOW TimeZone",
    "SET NAMES 'LATIN1'",
    "SHOW client_encoding",
    "SELECT chr(233)",
    "SET NAMES DEFAULT",
    "SHOW client_encoding",
    "SET SCHEMA 'pg_catalog'",
    "SELECT current_schema()",
    "RESET search_path",
    "SELECT current_schema()",
    "SET search_path = 'with, comma', \"Upper Case\", public",
    "SHOW search_path",
    "SET search_path = ''",
    "SHOW search_path",
    "RESET search_path",
    "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY, ISOLATION LEVEL REPEATABLE READ",
    "SHOW transaction_read_only",
    "SHOW transaction_isolation",
    "SET SESSION CHARACTERISTICS AS TRANSACTION READ WRITE, NOT DEFERRABLE",
    "SHOW transaction_read_only",
    "SHOW transaction_isolation",
    "RESET default_transaction_isolation",
    "SHOW default_transaction_isolation",
    "SET XML OPTION DOCUMENT",
    "SHOW xmloption",
    "SET extra_float_digits = -3",
    "SELECT 0.123456789::float8",
    "SET bytea_output = escape",
    "SELECT '\\x4142ff'::bytea",
    "SET IntervalStyle = iso_8601",
    "SELECT interval '1 day 2 hours'",
    "SET DateStyle = 'German'",
    "SELECT date '2024-02-01'",
    "SET standard_conforming_strings = off",
    "SET escape_string_warning = off",
    "SELECT 'a\\'b'",
    "SET application_name = 'with '' and \\\\ in it'",
    "SHOW application_name",
    "SET standard_conforming_strings = on",
    "SHOW application_name",
    "SET statement_timeout = '1500ms'",
    "SHOW statement_timeout",
    "SET statement_timeout = '2h'",
    "SHOW statement_timeout",
    "SET statement_timeout = 0",
    "SHOW statement_timeout",
    "SET lock_timeout = '3min'",
    "SHOW lock_timeout",
    "SET random_page_cost = 1.5",
    "SHOW random_page_cost",
    "SET enable_seqscan = off",
    "SHOW enable_seqscan",
    "SET default_text_search_config = 'pg_catalog.german'",
    "SELECT to_tsvector('die Katzen')",
    "SET lc_numeric = 'C'",
    "SET client_min_messages = error",
    "DO $$ BEGIN RAISE NOTICE 'not seen'; END $$",
    "SET client_min_messages = notice",
    "DO $$ BEGIN RAISE NOTICE 'seen'; END $$",
    "SET array_nulls = off",
    "SELECT '{NULL}'::text[]",
    "SET transform_null_equals = on",
    "SELECT NULL = NULL",
    "UPDATE pg_settings SET setting = '11MB' WHERE name = 'work_mem'",
    "SHOW work_mem",
    // From 16 on, in which order PostgreSQL reports what one RESET ALL changes depends on what the server has been through.
    "RESET DateStyle",
    "RESET IntervalStyle",
    "RESET ALL",
    "SHOW work_mem",
    "SHOW DateStyle",
    "SHOW TimeZone",
    "SHOW application_name",
    "SET work_mem = '12MB'",
    "DISCARD PLANS",
    "SHOW work_mem",
    "DISCARD TEMP",
    "SHOW work_mem",
    "DISCARD SEQUENCES",
    "SHOW work_mem",
    "DISCARD ALL",
    "SHOW work_mem",
];

#[test]
fn every_form_of_set_is_kept() {
    faithful(&told("forms of SET", FORMS));
}

#[test]
fn every_form_of_set_is_kept_in_the_extended_protocol() {
    faithful(&told_extended("forms of SET, extended", FORMS));
}

#[test]
fn settings_end_with_what_they_were_made_in() {
    faithful(
        &told(
            "blocks",
            &[
                "BEGIN",
                "SET work_mem = '5MB'",
                "COMMIT AND CHAIN",
                "SHOW work_mem",
                "SET work_mem = '6MB'",
                "ROLLBACK AND CHAIN",
                "SHOW work_mem",
                "SET app.chained = 'yes'",
                "SELECT 1/0",
                "COMMIT",
                "SELECT coalesce(current_setting('app.chained', true), '')",
                "BEGIN",
                "SAVEPOINT a",
                "SET work_mem = '7MB'",
                "SET app.depth = 'one'",
                "SAVEPOINT b",
                "SET work_mem = '8MB'",
                "SET app.depth = 'two'",
                "SELECT 1/0",
                "ROLLBACK TO b",
                "SHOW work_mem",
                "SHOW app.depth",
                "RELEASE a",
                "COMMIT",
                "SHOW work_mem",
                "SHOW app.depth",
                "BEGIN",
                "SET LOCAL work_mem = '20MB'",
                "SET work_mem = '21MB'",
                "SHOW work_mem",
                "COMMIT",
                "SHOW work_mem",
                "BEGIN; SET work_mem = '22MB'; COMMIT; BEGIN; SET work_mem = '23MB'; ROLLBACK; SHOW work_mem",
                "SHOW work_mem",
                "SET work_mem = '24MB'; SET app.depth = 'three'; SELECT 1/0; SET work_mem = '25MB'",
                "SHOW work_mem",
                "SHOW app.depth",
                "BEGIN",
                "RESET work_mem",
                "SHOW work_mem",
                "ROLLBACK",
                "SHOW work_mem",
                "BEGIN",
                "RESET ALL",
                "SAVEPOINT s",
                "SET work_mem = '26MB'",
                "ROLLBACK TO s",
                "SHOW work_mem",
                "COMMIT",
                "SHOW work_mem",
                "SET work_mem = 'nonsense'",
                "SET no_such_setting = 1",
                "SHOW work_mem",
                "CREATE OR REPLACE FUNCTION pg_temp.with_setting() RETURNS text LANGUAGE sql SET work_mem = '30MB' \
                 AS $$ SELECT current_setting('work_mem') $$; \
                 SELECT pg_temp.with_setting(); DISCARD TEMP",
                "SHOW work_mem",
            ],
        )
        .errors(&["22012", "22012", "22012", "22023", "42704"]),
    );
}

#[test]
fn set_config_is_followed_whatever_it_is_given() {
    let oid_bool = 16;
    let oid_text = 25;
    let binary = |name: &str, value: &str, local: u8| {
        bind_formats("", "b", &[1], &[Some(name.as_bytes()), Some(value.as_bytes()), Some(&[local])], &[])
    };
    faithful(
        &told(
            "set_config",
            &[
                "SELECT set_config('work_mem', '5MB', false)",
                "SHOW work_mem",
                "SELECT set_config('work_mem', '6MB', true)",
                "SHOW work_mem",
                "SELECT pg_catalog.\"set_config\"('app.cat', 'a', false)",
                "SHOW app.cat",
                "SELECT set_config(n, v, false) FROM (VALUES ('app.from_rows', 'x'), ('app.other_row', 'y')) r(n, v)",
                "SELECT current_setting('app.from_rows') || current_setting('app.other_row')",
                "WITH s AS (SELECT set_config('app.cte', 'z', false)) SELECT * FROM s",
                "SHOW app.cte",
                "SELECT set_config('app.nested', set_config('app.inner', 'deep', false), false)",
                "SELECT current_setting('app.nested') || current_setting('app.inner')",
                "SELECT set_config('APP.Upper', 'u', false)",
                "SELECT current_setting('app.upper')",
                "SELECT set_config('app.quoted', 'it''s \\ \"all\"', false)",
                "SHOW app.quoted",
                "SELECT set_config('app.json', '{\"a.b\": [1, 2]}', false)",
                "SELECT current_setting('app.json')::json -> 'a.b'",
                "SELECT set_config('app.unicode', 'caf\u{e9} \u{20ac} \u{1f600}', false)",
                "SHOW app.unicode",
                "SELECT set_config('app.long', repeat('x', 10000), false)",
                "SELECT length(current_setting('app.long'))",
                "SELECT set_config('app.newline', E'a\\nb\\tc', false)",
                "SHOW app.newline",
                "SET app.a.b.c = 'three dots'",
                "SHOW app.a.b.c",
            ],
        )
        .pipeline(&[
            parse("t", "SELECT set_config($1, $2, false)"),
            bind("", "t", &[Some("app.text"), Some("one")]),
            execute("", 0),
            bind("", "t", &[Some("app.text_too"), Some("two")]),
            execute("", 0),
            sync(),
        ])
        .ready()
        .query("SHOW app.text")
        .query("SHOW app.text_too")
        .pipeline(&[
            support::frontend::parse_typed("b", "SELECT set_config($1, $2, $3)", &[oid_text, oid_text, oid_bool]),
            binary("app.of_bytes", "three", 0),
            describe_portal(""),
            execute("", 0),
            binary("app.not_kept", "four", 1),
            execute("", 0),
            sync(),
        ])
        .ready()
        .query("SHOW app.of_bytes")
        .query("SELECT coalesce(current_setting('app.not_kept', true), '')")
        .pipeline(&[bind("", "t", &[Some("work_mem"), Some("33MB")]), execute("", 0), sync()])
        .ready()
        .query("SHOW work_mem")
        .pipeline(&[bind("", "t", &[Some("no_such_thing"), Some("1")]), execute("", 0), sync()])
        .ready()
        .query("SHOW work_mem")
        .errors(&["42704"]),
    );
}

#[test]
fn settings_made_in_pipelines_follow() {
    faithful(
        &Script::new("pipelines")
            // Everything at once: two queries, a batch, and a look.
            .pipeline(&[
                query("SET work_mem = '5MB'"),
                query("SET app.piped = 'one'"),
                parse("", "SET SESSION enable_sort = off"),
                bind("", "", &[]),
                execute("", 0),
                sync(),
                query("SHOW enable_sort"),
            ])
            .ready()
            .ready()
            .ready()
            .ready()
            .query("SHOW work_mem")
            .query("SHOW app.piped")
            .query("SHOW enable_sort")
            // One batch is one transaction: an error takes all of it back.
            .pipeline(&[
                parse("", "SET work_mem = '6MB'"),
                bind("", "", &[]),
                execute("", 0),
                parse("", "SET app.piped = 'two'"),
                bind("", "", &[]),
                execute("", 0),
                parse("", "SELECT 1/0"),
                bind("", "", &[]),
                execute("", 0),
                sync(),
            ])
            .ready()
            .query("SHOW work_mem")
            .query("SHOW app.piped")
            // Two batches: the first stays.
            .pipeline(&[
                parse("", "SET work_mem = '7MB'"),
                bind("", "", &[]),
                execute("", 0),
                sync(),
                parse("", "SELECT 1/0"),
                bind("", "", &[]),
                execute("", 0),
                sync(),
                query("SHOW work_mem"),
            ])
            .ready()
            .ready()
            .ready()
            .query("SHOW work_mem")
            // A Flush in between.
            .pipeline(&[parse("s", "SET app.piped = 'three'"), bind("", "s", &[]), execute("", 0), flush()])
            .read(3)
            .pipeline(&[bind("", "s", &[]), execute("", 0), close_statement("s"), sync()])
            .ready()
            .query("SHOW app.piped")
            .pipeline(&[
                query("BEGIN"),
                query("SET app.piped = 'four'"),
                query("COMMIT"),
                query("SHOW app.piped"),
            ])
            .ready()
            .ready()
            .ready()
            .ready()
            .query("SHOW app.piped")
            .errors(&["22012", "22012"]),
    );
}

#[test]
fn statements_prepared_by_sql_set_what_they_say() {
    faithful(&told(
        "EXECUTE sets",
        &[
            "PREPARE lit AS SELECT set_config('app.literal', 'one', false)",
            "EXECUTE lit",
            "SHOW app.literal",
            "PREPARE par (text, text) AS SELECT set_config($1, $2, false)",
            "EXECUTE par ('app.parameter', 'two')",
            "SHOW app.parameter",
            "EXECUTE par ('work_mem', '9MB')",
            "SHOW work_mem",
            "BEGIN",
            "DECLARE c CURSOR FOR SELECT set_config('app.cursor', 'three', false)",
            "FETCH c",
            "COMMIT",
            "SHOW app.cursor",
        ],
    ));
}

#[test]
fn two_clients_with_different_settings_do_not_disturb_each_other() {
    let script = Script::new("two clients");
    let turn = |script: Script, n: usize| {
        script
            .client("main")
            .query(&format!("SET work_mem = '{}MB'", 10 + n))
            .client("other")
            .query(&format!("SET work_mem = '{}MB'; SET app.who = 'other {n}'", 50 + n))
            .client("main")
            .query("SHOW work_mem")
            .query("SELECT coalesce(current_setting('app.who', true), '')")
            .client("other")
            .query("SHOW work_mem")
            .query("SHOW app.who")
            .query("RESET app.who")
            .client("main")
            .query("SET app.who = 'main'")
            .query("SHOW app.who")
            .client("other")
            .query("SELECT coalesce(current_setting('app.who', true), '')")
            .client("main")
            .query("RESET ALL")
    };
    faithful(&(0..3).fold(script, turn));
}

#[test]
fn a_reset_goes_back_to_what_the_client_logged_in_with() {
    let logged_in = |name: &str| {
        Script::new(name)
            .parameter("application_name", "mine")
            .parameter("TimeZone", "Asia/Tokyo")
            .parameter("search_path", "pg_catalog")
            .parameter("work_mem", "6MB")
            .parameter("app.tenant", "seven")
            .parameter("options", "-c statement_timeout=77s --enable_sort=off -c app.other=eight")
    };
    let shows = [
        "application_name",
        "TimeZone",
        "search_path",
        "work_mem",
        "app.tenant",
        "statement_timeout",
        "enable_sort",
        "app.other",
    ];
    let show =
        |script: Script| shows.iter().fold(script, |script, name| script.query(&format!("SHOW {name}")));
    let mut script = show(logged_in("defaults of one's own"));
    for change in [
        "SET work_mem = '9MB'",
        "RESET work_mem",
        "SET app.tenant = 'nine'",
        "RESET app.tenant",
        "SET TimeZone = 'Asia/Kolkata'; SET statement_timeout = '5s'; SET app.other = 'x'",
        "RESET ALL",
        "BEGIN; SET work_mem = '10MB'; SET app.tenant = 'ten'; ROLLBACK",
        "SET search_path TO public",
        "SET search_path TO DEFAULT",
        "SET statement_timeout = 0",
        "DISCARD ALL",
        "SET work_mem TO DEFAULT",
    ] {
        script = show(script.query(change));
        script = show(script.query("BEGIN").query(change)).query("ROLLBACK");
        if change == "DISCARD ALL" {
            // Not allowed in a transaction.
            script = script.errors(&["25001"]).errors(&["25P02"; 8]);
        }
    }
    faithful(&script);
}

#[test]
fn defaults_of_roles_and_databases_are_the_ground_that_settings_stand_on() {
    let cluster = Cluster::shared();
    cluster.sql("CREATE ROLE ground_user LOGIN");
    cluster.sql("CREATE DATABASE ground_db");
    for sql in [
        "ALTER ROLE ground_user SET work_mem = '5MB'",
        "ALTER ROLE ground_user SET app.tenant = 'of the role'",
        "ALTER DATABASE ground_db SET statement_timeout = '55s'",
        "ALTER DATABASE ground_db SET search_path = pg_catalog",
        "ALTER ROLE ground_user IN DATABASE ground_db SET enable_sort = off",
    ] {
        cluster.sql(sql);
    }
    let shows = ["work_mem", "app.tenant", "statement_timeout", "search_path", "enable_sort"];
    let show =
        |script: Script| shows.iter().fold(script, |script, name| script.query(&format!("SHOW {name}")));
    let mut script = show(Script::new("ground"));
    for change in [
        "SET work_mem = '9MB'",
        "RESET work_mem",
        "SET app.tenant = 'x'",
        "RESET app.tenant",
        "SET app.tenant = ''",
        "SET app.tenant TO DEFAULT",
        "SET statement_timeout = 0",
        "SET search_path = public",
        "SET enable_sort = on",
        "RESET ALL",
        "SET work_mem = '4MB'",
        "DISCARD ALL",
    ] {
        script = show(script.query(change));
    }
    let database = "ground_db";
    let login = Login::new("ground_user", database);
    faithful_in(cluster, &script, &login, database);
}

/// Faithful in a database of one's own.
fn faithful_in(cluster: &Cluster, script: &Script, login: &Login, database: &str) {
    use support::differential::{Side, compare};
    use support::pgvalet::Pgvalet;
    let direct = Side::new("PostgreSQL", cluster.tcp(), login.clone());
    compare(cluster, script, &direct, &direct, How::WHOLE);
    if faithful::direct_only() {
        return;
    }
    let valet = Pgvalet::builder()
        .user(&login.user, "none", &[])
        .setting("auth_type = \"trust\"")
        .database(database, cluster, &["pool_size = 2"])
        .start();
    for how in HOWS {
        compare(cluster, script, &direct, &Side::new("pgvalet", valet.tcp(), login.clone()), how);
    }
}

#[test]
fn a_role_that_is_a_default_is_gone_back_to() {
    let cluster = Cluster::shared();
    cluster.sql(
        "CREATE ROLE ground_boss; CREATE ROLE ground_other; \
         CREATE ROLE ground_worker LOGIN IN ROLE ground_boss, ground_other",
    );
    cluster.sql("ALTER ROLE ground_worker SET role = ground_boss");
    let script = told(
        "default role",
        &[
            "SELECT session_user, current_user",
            "SET ROLE NONE",
            "SELECT session_user, current_user",
            "RESET ROLE",
            "SELECT session_user, current_user",
            "SET ROLE ground_other",
            "SELECT session_user, current_user",
            "SET work_mem = '8MB'",
            "SELECT session_user, current_user",
            "SET ROLE NONE",
            "DISCARD ALL",
            "SELECT session_user, current_user",
        ],
    )
    .client("other")
    .query("SELECT session_user, current_user")
    .client("main")
    .query("SET ROLE NONE")
    .client("other")
    .query("SELECT session_user, current_user")
    .client("main")
    .query("SELECT session_user, current_user");
    faithful_in(cluster, &script, &Login::new("ground_worker", DATABASE), DATABASE);
}

#[test]
fn roles_and_authorizations_follow_in_every_protocol() {
    let cluster = Cluster::shared();
    cluster.sql("CREATE ROLE who_boss; CREATE ROLE who_worker IN ROLE who_boss; CREATE TABLE who_only (n int); ALTER TABLE who_only OWNER TO who_boss; REVOKE ALL ON who_only FROM PUBLIC");
    let who = "SELECT session_user, current_user";
    let script = told(
        "who",
        &[
            "BEGIN",
            "SET LOCAL ROLE who_worker",
            who,
            "COMMIT",
            who,
            "BEGIN",
            "SET LOCAL SESSION AUTHORIZATION who_worker",
            who,
            "ROLLBACK",
            who,
            "SET SESSION ROLE who_boss",
            who,
            "SELECT count(*) FROM who_only",
            "SET ROLE NONE",
            who,
            "SELECT set_config('session_authorization', 'who_boss', false)",
            who,
            "SET ROLE who_worker",
            "SELECT count(*) FROM who_only",
            "SET SESSION AUTHORIZATION DEFAULT",
            who,
            "SET SESSION AUTHORIZATION who_worker; SET ROLE who_boss; SELECT 1/0",
            who,
            "SET SESSION AUTHORIZATION who_worker; SET ROLE who_boss",
            who,
            "RESET ROLE",
            who,
            "RESET ALL",
            who,
            "RESET SESSION AUTHORIZATION",
            who,
        ],
    )
    .errors(&["42501", "22012"])
    .pipeline(&[parse("r", "SET ROLE who_boss"), bind("", "r", &[]), execute("", 0), sync()])
    .ready()
    .extended(who, &[])
    .pipeline(&[
        query("SET ROLE who_worker"),
        query(who),
        query("BEGIN"),
        query("RESET ROLE"),
        query("ROLLBACK"),
        query(who),
    ])
    .ready()
    .ready()
    .ready()
    .ready()
    .ready()
    .ready()
    .query(who)
    .query("DO $$ BEGIN SET ROLE who_boss; END $$")
    .query(who);
    faithful_as(&script, Role::Postgres.login(), &[], &HOWS);
}

/// Nothing has to be sent to a server on which another client with the same settings was before.
#[test]
fn equal_settings_of_many_clients_cost_nothing() {
    let valet = watch::trusting(Cluster::shared(), 1).start();
    let mut console = Console::open(&valet);
    let mut clients: Vec<Client> = (0..5).map(|_| valet.client(Role::Trust)).collect();
    for client in &mut clients {
        for sql in ["SET work_mem = '9MB'", "SET search_path = pg_catalog, public", "SET app.tenant = 'one'"]
        {
            assert_eq!(first_error(&client.query(sql)), None, "{sql}");
        }
    }
    // What the last SET left was reset.
    clients[0].query("SELECT 1");
    let before = console.stat("setting_syncs");
    for _ in 0..10 {
        for client in &mut clients {
            assert_eq!(
                client.value("SELECT current_setting('work_mem') || current_setting('app.tenant')"),
                "9MBone"
            );
        }
    }
    assert_eq!(console.stat("setting_syncs"), before);
    assert_eq!(clients[0].value("SET work_mem = '8MB'; SHOW work_mem"), "8MB");
    assert_eq!(clients[1].value("SHOW work_mem"), "9MB");
    assert!(console.stat("setting_syncs") > before, "what differs is sent");
}
