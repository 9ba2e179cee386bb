//! Statements that are shared between clients, or parsed once more for the same client on another server: their text must
//! mean what it meant to who prepared it, when it was prepared.

#[path = "support/faithful.rs"]
mod faithful;
mod support;

use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use faithful::faithful;
use support::differential::Script;
use support::frontend::{all, bind, describe_statement, execute, frame, parse, parse_typed, query, sync};
use support::transcript::Normalisation;

/// Whoever creates a schema has PostgreSQL read all prepared statements anew, in all sessions of the cluster, under the
/// settings of that moment: nobody who minds that runs meanwhile.
static SCHEMAS: RwLock<()> = RwLock::new(());

fn no_schema_is_created() -> RwLockReadGuard<'static, ()> {
    SCHEMAS.read().unwrap_or_else(PoisonError::into_inner)
}

fn schemas_are_created() -> RwLockWriteGuard<'static, ()> {
    SCHEMAS.write().unwrap_or_else(PoisonError::into_inner)
}

/// Bind and Execute of a statement without parameters, without Sync.
fn run(statement: &str) -> Vec<u8> {
    all(&[bind("", statement, &[]), execute("", 0)])
}

/// Each of two clients prepares the same text under a setting of its own, and both run it in turn.
fn two_clients(name: &str, setting: &str, values: [&str; 2], sql: &str) -> Script {
    let mut script = Script::new(name);
    for (client, value) in [("one", values[0]), ("other", values[1])] {
        script = script.client(client).parameter(setting, value).pipeline(&[parse("s", sql), sync()]).ready();
    }
    for client in ["one", "other", "other", "one"] {
        script = script.client(client).pipeline(&[describe_statement("s"), run("s"), sync()]).ready();
    }
    script
}

/// One client prepares a text, changes a setting, and runs what it has prepared, again and again.
fn one_client(name: &str, before: &str, after: &str, sql: &str) -> Script {
    before_and_after(Script::new(name), before, after, sql)
}

fn before_and_after(script: Script, before: &str, after: &str, sql: &str) -> Script {
    let mut script = script.query(before).pipeline(&[parse("s", sql), parse("", sql), sync()]).ready();
    script = script.pipeline(&[run("s"), run(""), sync()]).ready();
    script = script.pipeline(&[parse("later", sql), sync()]).ready();
    script = script.query(after);
    for _ in 0..3 {
        script = script.pipeline(&[run("s"), run("later"), sync()]).ready();
    }
    script.pipeline(&[parse("new", sql), run("new"), run("s"), sync()]).ready()
}

/// Case 28: constants are read when a text is parsed, as the settings of that moment say.
#[test]
fn dates_in_texts_are_those_of_the_client_that_wrote_them() {
    let _guard = no_schema_is_created();
    let sql = "SELECT '01/02/2024'::date - '2024-01-01'::date";
    faithful(&two_clients("two DateStyles", "DateStyle", ["ISO, MDY", "ISO, DMY"], sql));
}

/// Case 28.
#[test]
fn times_in_texts_are_in_the_zone_of_the_client_that_wrote_them() {
    let _guard = no_schema_is_created();
    let sql = "SELECT extract(epoch FROM '2024-07-01 12:00'::timestamptz)";
    faithful(&two_clients("two zones", "TimeZone", ["Europe/Berlin", "Asia/Tokyo"], sql));
}

/// Case 28.
#[test]
fn intervals_in_texts_are_read_in_the_style_of_the_client_that_wrote_them() {
    let _guard = no_schema_is_created();
    let sql = "SELECT extract(epoch FROM '-1 2:03:04'::interval)";
    faithful(&two_clients("two styles", "IntervalStyle", ["postgres", "sql_standard"], sql));
}

/// Case 28.
#[test]
fn backslashes_in_texts_are_read_as_their_client_has_set_it() {
    let _guard = no_schema_is_created();
    let sql = "SELECT length('a\\\\b')";
    let script = two_clients("two ways", "standard_conforming_strings", ["on", "off"], sql);
    faithful(&script.client("one").query("SELECT 1"));
}

/// Case 28: a setting that no server reports.
#[test]
fn tables_are_looked_up_in_the_search_path_of_the_client() {
    let _guard = schemas_are_created();
    let script =
        two_clients("two paths", "search_path", ["path_one", "path_other"], "SELECT * FROM shared_name");
    faithful(
        &script
            .setup("CREATE SCHEMA path_one; CREATE TABLE path_one.shared_name AS SELECT 1 AS number")
            .setup("CREATE SCHEMA path_other; CREATE TABLE path_other.shared_name AS SELECT 'x' AS word, 2 AS more")
            .setup("GRANT USAGE ON SCHEMA path_one, path_other TO PUBLIC")
            .setup("GRANT SELECT ON ALL TABLES IN SCHEMA path_one, path_other TO PUBLIC")
            .teardown("DROP SCHEMA path_one, path_other CASCADE"),
    );
}

/// Case 28: settings of the parser that few know.
#[test]
fn what_null_means_is_what_the_client_has_set() {
    let _guard = no_schema_is_created();
    let sql = "SELECT count(*) FROM (VALUES (NULL::int), (1)) AS v (x) WHERE x = NULL";
    faithful(&two_clients(
        "two nulls",
        "options",
        ["-c transform_null_equals=on", "-c transform_null_equals=off"],
        sql,
    ));
    let sql = "SELECT '{NULL}'::text[] = ARRAY['NULL']";
    faithful(&two_clients("null in arrays", "options", ["-c array_nulls=on", "-c array_nulls=off"], sql));
}

/// Case 28: what a client's own types mean when they are not given, and when they are.
#[test]
fn parameter_types_tell_statements_apart() {
    let _guard = no_schema_is_created();
    let mut script = Script::new("types").errors(&["22P02"; 4]);
    for (client, types) in [("none", &[][..]), ("int", &[23]), ("unknown", &[0]), ("float", &[701])] {
        script = script
            .client(client)
            .pipeline(&[
                parse_typed("s", "SELECT pg_typeof($1 + 1), $1 + 1", types),
                describe_statement("s"),
                sync(),
            ])
            .ready();
    }
    for client in ["float", "unknown", "int", "none"] {
        script = script
            .client(client)
            .pipeline(&[bind("", "s", &[Some("7")]), execute("", 0), sync()])
            .ready()
            .pipeline(&[bind("", "s", &[Some("x")]), execute("", 0), sync()])
            .ready();
    }
    faithful(&script);
}

/// Case 28: where the setting is not known to anybody yet when the statement is parsed.
#[test]
fn a_statement_is_read_as_what_was_set_in_front_of_it_in_its_batch() {
    let _guard = no_schema_is_created();
    let sql = "SELECT '01/02/2024'::date - '2024-01-01'::date";
    let set = |style: &str| all(&[parse("", &format!("SET DateStyle = 'ISO, {style}'")), run("")]);
    let thrice = |mut script: Script, names: &[&str]| {
        for _ in 0..3 {
            let runs: Vec<Vec<u8>> = names.iter().map(|name| run(name)).collect();
            script = script.pipeline(&[all(&runs), sync()]).ready();
        }
        script
    };
    let batch = [set("DMY"), parse("d", sql), run("d"), set("MDY"), parse("m", sql), run("m"), sync()];
    faithful(&thrice(Script::new("one batch").pipeline(&batch).ready(), &["d", "m"]));
    // More than one of them, and one that is not prepared for a failure in front of it.
    let batch = [set("DMY"), parse("d", sql), parse("e", sql), describe_statement("e"), sync()];
    let script = Script::new("several").pipeline(&batch).ready();
    let failing = [set("MDY"), parse("", "SELECT 1/0"), run(""), parse("m", sql), run("m"), sync()];
    let script = script.errors(&["22012"]).pipeline(&failing).ready();
    faithful(&thrice(script.pipeline(&[parse("m", sql), sync()]).ready(), &["d", "e", "m"]));
    // A pipeline that goes on behind it.
    let batch = [set("DMY"), parse("d", sql), sync(), set("MDY"), parse("m", sql), sync(), run("d"), sync()];
    let script = Script::new("a pipeline").pipeline(&batch).ready().ready().ready();
    faithful(&thrice(script, &["m", "d"]));
}

/// Case 28: settings that no server reports, and that are gone when the transaction ends.
#[test]
fn a_statement_is_read_as_what_was_set_for_its_transaction() {
    let _guard = no_schema_is_created();
    let sql = "SELECT count(*) FROM (VALUES (NULL::int), (1)) AS v (x) WHERE x = NULL";
    for (name, set) in [
        ("local", "SET LOCAL transform_null_equals = on"),
        ("session", "SET transform_null_equals = on"),
        ("function", "SELECT set_config('transform_null_equals', 'on', true)"),
        ("code", "DO $$ BEGIN EXECUTE 'SET LOCAL transform_null_equals = on'; END $$"),
    ] {
        let mut script = Script::new(name).query("BEGIN").query(set);
        script = script.pipeline(&[parse("s", sql), describe_statement("s"), sync()]).ready().query("COMMIT");
        for _ in 0..3 {
            script = script.pipeline(&[run("s"), sync()]).ready();
        }
        faithful(&script.pipeline(&[parse("t", sql), run("t"), sync()]).ready());
    }
}

/// Case 28: a statement that goes to another server after a SET is still the one that was parsed before it.
#[test]
fn a_later_datestyle_does_not_change_dates_that_were_read_before() {
    let _guard = no_schema_is_created();
    let sql = "SELECT '01/02/2024'::date - '2024-01-01'::date";
    faithful(&one_client("DateStyle later", "SET DateStyle = 'ISO, MDY'", "SET DateStyle = 'ISO, DMY'", sql));
}

/// Case 28.
#[test]
fn a_later_zone_does_not_change_times_that_were_read_before() {
    let _guard = no_schema_is_created();
    let sql = "SELECT extract(epoch FROM '2024-07-01 12:00'::timestamptz)";
    faithful(&one_client("zone later", "SET TimeZone = 'Europe/Berlin'", "SET TimeZone = 'Asia/Tokyo'", sql));
}

/// Case 28.
#[test]
fn a_later_standard_conforming_strings_does_not_change_texts_that_were_read_before() {
    let _guard = no_schema_is_created();
    let sql = "SELECT length('a\\\\b')";
    let quiet = Script::new("strings later").parameter("options", "-c escape_string_warning=off");
    let [on, off] = ["on", "off"].map(|value| format!("SET standard_conforming_strings = {value}"));
    faithful(&before_and_after(quiet, &on, &off, sql));
}

/// Case 28.
#[test]
fn a_later_client_encoding_does_not_change_bytes_that_were_read_before() {
    let _guard = no_schema_is_created();
    let text = |name: &str| frame(b'P', &[name.as_bytes(), b"\0SELECT length('\xfc')\0\0\0"].concat());
    let mut script = Script::new("encoding later")
        .parameter("client_encoding", "LATIN1")
        .pipeline(&[text("s"), text(""), sync()])
        .ready()
        .pipeline(&[run("s"), run(""), sync()])
        .ready()
        .query("SET client_encoding = 'UTF8'");
    for _ in 0..3 {
        script = script.pipeline(&[run("s"), sync()]).ready();
    }
    faithful(
        &script.pipeline(&[parse("s2", "SELECT length('\u{fc}')"), run("s2"), run("s"), sync()]).ready(),
    );
}

/// Case 28: within a transaction that is rolled back, too.
#[test]
fn a_setting_of_a_transaction_counts_for_what_is_parsed_in_it() {
    let _guard = no_schema_is_created();
    let sql = "SELECT '01/02/2024'::date - '2024-01-01'::date";
    let mut script = Script::new("SET LOCAL and Parse")
        .query("SET DateStyle = 'ISO, MDY'")
        .query("BEGIN; SET LOCAL DateStyle = 'ISO, DMY'")
        .pipeline(&[parse("inside", sql), sync()])
        .ready()
        .query("COMMIT")
        .pipeline(&[parse("outside", sql), sync()])
        .ready();
    for _ in 0..3 {
        script = script.pipeline(&[run("inside"), run("outside"), sync()]).ready();
    }
    faithful(&script);
}

/// Case 28: what a client has set for one transaction is not in what others prepare.
#[test]
fn a_setting_of_a_transaction_does_not_count_for_others() {
    let _guard = no_schema_is_created();
    let dates = "SELECT '01/02/2024'::date - '2024-01-01'::date";
    let nulls = "SELECT count(*) FROM (VALUES (NULL::int), (1)) AS v (x) WHERE x = NULL";
    for (name, set, sql) in [
        ("SET LOCAL DateStyle", "SET LOCAL DateStyle = 'ISO, DMY'", dates),
        ("set_config", "SELECT set_config('DateStyle', 'ISO, DMY', true)", dates),
        ("SET LOCAL transform_null_equals", "SET LOCAL transform_null_equals = on", nulls),
    ] {
        let mut script = Script::new(name)
            .client("sets")
            .query("BEGIN")
            .query(set)
            .pipeline(&[parse("s", sql), run("s"), sync()])
            .ready()
            .query("COMMIT");
        for client in ["other", "third"] {
            script = script
                .client(client)
                .pipeline(&[parse("s", sql), run("s"), sync()])
                .ready()
                .pipeline(&[run("s"), sync()])
                .ready();
        }
        faithful(&script);
    }
}

/// Case 28: neither is what it has set a moment before, in the same pipeline, when no reply can have told of it.
#[test]
fn a_setting_in_the_same_pipeline_does_not_count_for_others() {
    let sql = "SELECT '01/02/2024'::date - '2024-01-01'::date";
    let set = "SET DateStyle = 'ISO, DMY'";
    let by_batch = |command: &str| all(&[parse("", command), run("")]);
    let begin = all(&[query("BEGIN"), query("SET LOCAL DateStyle = 'ISO, DMY'")]);
    for (name, before, readies) in [
        ("SET and Parse in a pipeline", query(set), 1),
        ("SET and Parse in a batch", by_batch(set), 0),
        ("SET LOCAL and Parse in a batch", by_batch("SET LOCAL DateStyle = 'ISO, DMY'"), 0),
        ("set_config and Parse in a batch", by_batch("SELECT set_config('DateStyle', 'ISO, DMY', true)"), 0),
        ("SET LOCAL and Parse in a pipeline", begin, 2),
    ] {
        let mut script = Script::new(name).client("sets").pipeline(&[
            before,
            parse("s", sql),
            run("s"),
            sync(),
            query("ROLLBACK"),
        ]);
        for _ in 0..readies + 2 {
            script = script.ready();
        }
        for client in ["other", "sets", "third"] {
            let again = format!("{client} again");
            script = script
                .client(client)
                .pipeline(&[parse(&again, sql), run(&again), sync()])
                .ready()
                .pipeline(&[run(&again), sync()])
                .ready();
        }
        if name.ends_with("in a pipeline") {
            // In one batch pgvalet cannot tell how the server read it, and has it read anew on another server.
            script = script.client("sets").pipeline(&[run("s"), sync()]).ready();
        }
        faithful(&script);
    }
}

/// Case 28: so does a setting that no server reports.
#[test]
fn a_search_path_of_a_transaction_is_not_kept_for_later() {
    let _guard = schemas_are_created();
    let mut script = Script::new("SET LOCAL search_path")
        .setup("CREATE SCHEMA path_local; CREATE TABLE path_local.local_name AS SELECT 'local' AS place")
        .setup("CREATE TABLE local_name AS SELECT 'global' AS place")
        .setup("GRANT USAGE ON SCHEMA path_local TO PUBLIC; GRANT SELECT ON path_local.local_name TO PUBLIC")
        .teardown("DROP SCHEMA path_local CASCADE; DROP TABLE local_name")
        .query("BEGIN; SET LOCAL search_path = path_local")
        .pipeline(&[parse("s", "SELECT place FROM local_name"), run("s"), sync()])
        .ready()
        .query("COMMIT");
    for _ in 0..3 {
        script = script.pipeline(&[run("s"), sync()]).ready();
    }
    faithful(&script.pipeline(&[parse("t", "SELECT place FROM local_name"), run("t"), sync()]).ready());
}

/// Case 29: who prepares after a table has changed never sees the plan of before.
#[test]
fn a_statement_prepared_after_a_table_changed_has_its_new_columns() {
    let _guard = no_schema_is_created();
    // (A UNION, so that the description does not name the table, which each play makes anew.)
    let sql = "TABLE changing UNION TABLE changing";
    faithful(
        &Script::new("prepared after DDL")
            .before_each("DROP TABLE IF EXISTS changing; CREATE TABLE changing AS SELECT 1 AS x")
            .before_each("GRANT ALL ON changing TO PUBLIC; ALTER TABLE changing OWNER TO app_trust")
            .teardown("DROP TABLE changing")
            .client("old")
            .pipeline(&[parse("s", sql), run("s"), sync()])
            .ready()
            .pipeline(&[run("s"), sync()])
            .ready()
            .client("changes")
            .query("ALTER TABLE changing ALTER x TYPE text, ADD y int DEFAULT 2")
            .client("new")
            .pipeline(&[parse("s", sql), describe_statement("s"), run("s"), sync()])
            .ready()
            .pipeline(&[run("s"), sync()])
            .ready()
            .pipeline(&[parse("t", sql), run("t"), run("s"), sync()])
            .ready(),
    );
}

/// Case 29: who prepared before sees what PostgreSQL shows: the error, until it prepares again.
#[test]
fn a_statement_prepared_before_a_table_changed_is_refused() {
    let _guard = no_schema_is_created();
    let sql = "SELECT * FROM changed_under_it";
    faithful(
        &Script::new("prepared before DDL")
            .before_each(
                "DROP TABLE IF EXISTS changed_under_it; CREATE TABLE changed_under_it AS SELECT 1 AS x",
            )
            .before_each(
                "GRANT ALL ON changed_under_it TO PUBLIC; ALTER TABLE changed_under_it OWNER TO app_trust",
            )
            .teardown("DROP TABLE changed_under_it")
            .errors(&["0A000"; 5])
            // The line is not known to who stands in for PostgreSQL.
            .ignore(Normalisation::ErrorSource)
            .client("old")
            .pipeline(&[parse("s", sql), run("s"), sync()])
            .ready()
            .query("SELECT 1")
            .client("changes")
            .query("ALTER TABLE changed_under_it ALTER x TYPE text, ADD y int DEFAULT 2")
            .client("old")
            .pipeline(&[run("s"), sync()])
            .ready()
            .pipeline(&[run("s"), sync()])
            .ready()
            .pipeline(&[describe_statement("s"), sync()])
            .ready()
            .query("BEGIN")
            .pipeline(&[run("s"), sync()])
            .ready()
            .query("ROLLBACK")
            .pipeline(&[parse("new", sql), run("new"), sync()])
            .ready()
            .pipeline(&[run("s"), sync()])
            .ready()
            .pipeline(&[run("new"), sync()])
            .ready(),
    );
}

/// Case 29: a change that leaves the columns alike disturbs nobody.
#[test]
fn a_change_that_leaves_the_columns_alike_is_not_seen() {
    let _guard = no_schema_is_created();
    let sql = "SELECT x FROM changed_alike";
    let mut script = Script::new("harmless DDL")
        .before_each("DROP TABLE IF EXISTS changed_alike; CREATE TABLE changed_alike AS SELECT 1 AS x")
        .before_each("GRANT ALL ON changed_alike TO PUBLIC; ALTER TABLE changed_alike OWNER TO app_trust")
        .teardown("DROP TABLE changed_alike")
        .client("reader")
        .pipeline(&[parse("s", sql), run("s"), sync()])
        .ready();
    for change in ["ADD y int", "DROP y", "ADD CHECK (x > 0)", "ALTER x SET NOT NULL"] {
        script = script
            .client("changes")
            .query(&format!("ALTER TABLE changed_alike {change}"))
            .client("reader")
            .pipeline(&[run("s"), sync()])
            .ready()
            .pipeline(&[run("s"), sync()])
            .ready();
    }
    faithful(&script);
}

/// Case 29: a client that changes the table itself, in the transaction that runs the statement.
#[test]
fn a_client_that_changes_the_table_itself() {
    let _guard = no_schema_is_created();
    let sql = "SELECT * FROM changed_by_itself";
    faithful(
        &Script::new("own DDL")
            .before_each("DROP TABLE IF EXISTS changed_by_itself")
            .teardown("DROP TABLE IF EXISTS changed_by_itself")
            .errors(&["42P01", "0A000", "42P01", "0A000"])
            .ignore(Normalisation::ErrorSource)
            .pipeline(&[parse("s", sql), sync()])
            .ready()
            .query("CREATE TABLE changed_by_itself AS SELECT 1 AS x")
            .pipeline(&[parse("s", sql), run("s"), sync()])
            .ready()
            .query("BEGIN; ALTER TABLE changed_by_itself ADD y text")
            .pipeline(&[run("s"), sync()])
            .ready()
            .query("ROLLBACK")
            .pipeline(&[run("s"), sync()])
            .ready()
            .query("DROP TABLE changed_by_itself")
            .pipeline(&[run("s"), sync()])
            .ready()
            .query("CREATE TABLE changed_by_itself AS SELECT 'again'::text AS x")
            .pipeline(&[run("s"), sync()])
            .ready()
            .query("DROP TABLE changed_by_itself; CREATE TABLE changed_by_itself AS SELECT 3 AS x")
            .pipeline(&[run("s"), sync()])
            .ready(),
    );
}
