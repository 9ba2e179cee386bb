//! Names of SQL's statements and defaults that come back, where an independent review found them wrong.

mod support;

#[path = "support/faithful.rs"]
mod faithful;

use faithful::{faithful, faithful_as, faithful_in_large};
use support::backend::first_error;
use support::cluster::{Cluster, DATABASE, PASSWORD, Role};
use support::differential::{How, Script};
use support::frontend::{all, bind, copy_data, copy_done, execute, extended, parse, query, sync};
use support::pgvalet::Pgvalet;

const HOWS: &[How] = &[How::WHOLE, How::BYTEWISE, How::ROTATING];

fn told(name: &str, statements: &[&str]) -> Script {
    statements.iter().fold(Script::new(name), |script, sql| script.query(sql))
}

fn one_server() -> Pgvalet {
    Pgvalet::builder()
        .setting("auth_type = \"trust\"")
        .setting("default_pool_size = 1")
        .user("app_trust", PASSWORD, &[])
        .database(DATABASE, Cluster::shared(), &[])
        .start()
}

#[test]
fn of_two_prepares_for_one_name_the_first_is_it() {
    faithful(
        &told(
            "prepared twice",
            &[
                "PREPARE a AS SELECT 1; PREPARE a AS SELECT 2",
                "EXECUTE a",
                "DEALLOCATE a; PREPARE a AS SELECT 3",
                "EXECUTE a",
            ],
        )
        .errors(&["42P05"]),
    );
}

#[test]
fn a_statement_of_sql_is_read_as_when_it_was_prepared() {
    faithful(
        &told(
            "read as prepared",
            &[
                "SET DateStyle TO 'ISO, MDY'",
                "PREPARE d AS SELECT date '01/02/2024'",
                "SET DateStyle TO 'ISO, DMY'",
                "EXECUTE d",
                "SELECT date '01/02/2024'",
            ],
        )
        .pipeline(&[parse("p", "SELECT date '01/02/2024'"), sync()])
        .ready()
        .query("SET DateStyle TO 'ISO, MDY'")
        .query("EXECUTE p")
        .query("EXECUTE d"),
    );
}

#[test]
fn a_text_longer_than_a_buffer_finds_its_statement() {
    let long = format!("EXECUTE p('{}')", "x".repeat(40_000));
    faithful_in_large(
        &told("long EXECUTE", &["PREPARE p(text) AS SELECT length($1)", &long, "EXECUTE p('x')"])
            .pipeline(&[extended(&long, &[])])
            .ready(),
    );
}

#[test]
fn a_statement_that_is_only_mentioned_does_not_have_to_work_any_more() {
    faithful(
        &Script::new("mentioned")
            .before_each("DROP TABLE IF EXISTS review_gone, review_log")
            .teardown("DROP TABLE IF EXISTS review_gone, review_log")
            .errors(&["42P01"])
            .query("CREATE TABLE review_gone (x int)")
            .query("CREATE TABLE review_log (x int)")
            .pipeline(&[parse("t", "SELECT * FROM review_gone"), sync()])
            .ready()
            .query("DROP TABLE review_gone")
            .query("DO $$ BEGIN EXECUTE 'insert into review_log values (1)'; /* t */ END $$")
            .query("SELECT count(*) FROM review_log")
            .query("BEGIN")
            .query("DO $$ BEGIN EXECUTE 'insert into review_log values (2)'; /* t */ END $$")
            .query("COMMIT")
            .query("SELECT count(*) FROM review_log")
            .query("EXECUTE t")
            .query("SET TimeZone TO 'Asia/Tokyo'; DEALLOCATE ALL /* execute t */")
            .query("SHOW TimeZone"),
    );
}

#[test]
fn what_failed_under_a_savepoint_leaves_nothing_in_the_way() {
    faithful(
        &Script::new("savepoint")
            .before_each("DROP TABLE IF EXISTS review_gone_too")
            .teardown("DROP TABLE IF EXISTS review_gone_too")
            .errors(&["42P01"])
            .query("CREATE TABLE review_gone_too (x int)")
            .query("PREPARE a AS SELECT * FROM review_gone_too")
            .query("PREPARE b AS SELECT 'b'")
            .query("DROP TABLE review_gone_too")
            .query("BEGIN")
            .query("SAVEPOINT s")
            .query("EXECUTE a")
            .query("ROLLBACK TO s")
            .query("EXECUTE b")
            .pipeline(&[parse("x", "SELECT 1"), sync()])
            .ready()
            .query("COMMIT"),
    );
}

#[test]
fn defaults_come_back_however_they_were_reset() {
    let login = Role::Trust.login().parameter("TimeZone", "Asia/Tokyo").parameter("DateStyle", "German");
    let script = Script::new("resets")
        .before_each("DROP TABLE IF EXISTS review_copy")
        .teardown("DROP TABLE IF EXISTS review_copy")
        .errors(&["22012", "22012", "22012"])
        .query("CREATE TABLE review_copy (x int)")
        .pipeline(&[query("RESET TimeZone"), query("RESET DateStyle"), query("SHOW TimeZone")])
        .ready()
        .ready()
        .ready()
        .query("SHOW DateStyle")
        .query("SET TimeZone TO 'Europe/Berlin'")
        .query("RESET TimeZone; SELECT 1/0")
        .query("SHOW TimeZone")
        .query("BEGIN")
        .query("RESET TimeZone")
        .query("SHOW TimeZone")
        .query("ROLLBACK")
        .query("SHOW TimeZone")
        .query("BEGIN; RESET TimeZone; SELECT 1/0")
        .query("ROLLBACK")
        .query("SHOW TimeZone")
        .query("BEGIN")
        .query("SET LOCAL TimeZone TO 'UTC'")
        .pipeline(&[
            parse("", "SELECT 1"),
            bind("first", "", &[]),
            parse("reset", "RESET TimeZone"),
            execute("first", 0),
            sync(),
        ])
        .ready()
        .query("SHOW TimeZone")
        .query("COMMIT")
        .query("SHOW TimeZone")
        .send(query("COPY review_copy FROM STDIN; RESET TimeZone"))
        .read(1)
        .send(all(&[copy_data(b"1\n"), copy_done()]))
        .ready()
        .query("SHOW TimeZone")
        .query("SET TimeZone TO 'UTC'")
        .query("RESET ALL; SELECT 1/0")
        .query("SHOW TimeZone")
        .query("DISCARD ALL")
        .query("SHOW TimeZone")
        .query("SHOW DateStyle");
    faithful_as(&script, login.clone(), &[], HOWS);
    faithful_as(&script, login, &["pool_mode = \"session\""], &[How::WHOLE]);
}

#[test]
fn what_a_name_stood_for_before_does_not_excuse_what_it_stands_for_now() {
    let valet = one_server();
    let (mut one, mut other) = (valet.client(Role::Trust), valet.client(Role::Trust));
    let fresh = other.value("SHOW work_mem");
    one.query("PREPARE a AS SELECT 1");
    one.query("DEALLOCATE a; PREPARE a AS SELECT set_config('work_mem', '123MB', false); EXECUTE a");
    assert_eq!(other.value("SHOW work_mem"), fresh);
    one.send(&all(&[
        parse("", "PREPARE leaked AS SELECT 'of one'"),
        bind("", "", &[]),
        parse("x", "SELECT 1"),
        execute("", 0),
        sync(),
    ]));
    one.until_ready();
    assert_eq!(first_error(&other.query("EXECUTE leaked")).as_deref(), Some("26000"));
}

#[test]
fn nobody_prepares_in_the_name_of_another() {
    let valet = one_server();
    let (mut one, mut other) = (valet.client(Role::Trust), valet.client(Role::Trust));
    let run = all(&[bind("", "s", &[]), execute("", 0), sync()]);
    other.send(&all(&[parse("s", "SELECT 'mine' AS x"), sync()]));
    other.until_ready();
    let name = one.value("SELECT name FROM pg_prepared_statements");
    one.query(&format!("DEALLOCATE {name}; PREPARE {name} AS SELECT 'evil' AS x"));
    other.send(&run);
    let replies = other.until_ready();
    assert_eq!(support::backend::rows(&replies), [[Some("mine".to_owned())]]);
}

#[test]
fn thousands_of_names_in_one_text_are_listed_once() {
    let valet = one_server();
    let mut client = valet.client(Role::Trust);
    let text: String = (0..1500).map(|n| format!("PREPARE name_{n} AS SELECT {n};")).collect();
    assert!(first_error(&client.query(&text)).is_none());
    assert_eq!(client.value("EXECUTE name_1499"), "1499");
    assert_eq!(client.value("EXECUTE name_0"), "0");
}
