//! Simple queries, transactions, errors and notices.

use super::check;
use super::support::differential::Script;
use super::support::frontend::{bind, describe_portal, describe_statement, execute, parse, sync};

#[test]
fn simple_queries() {
    check(
        &Script::new("simple queries")
            .query("SELECT 1")
            .query("SELECT 'text'::text AS a, NULL::int AS b, 1.50::numeric AS c, true AS d, '\\x00ff'::bytea AS e")
            .query("SELECT g FROM generate_series(1, 5) AS g")
            .query("SELECT 1 WHERE false")
            .query("SELECT")
            .query("VALUES (1, 'one'), (2, 'two')")
            .query("SELECT date '2024-02-29', timestamptz '2024-02-29 12:00+02', interval '1 day 2 hours'"),
    );
}

#[test]
fn several_statements_in_one_query() {
    check(
        &Script::new("several statements")
            .errors(&["22012", "22012"])
            .setup("CREATE TABLE multi (id int)")
            .before_each("TRUNCATE multi")
            .teardown("DROP TABLE multi")
            .query("SELECT 1; SELECT 2 AS two; SELECT 3")
            .query(
                "INSERT INTO multi VALUES (1); INSERT INTO multi VALUES (2), (3); SELECT count(*) FROM multi",
            )
            .query("INSERT INTO multi VALUES (4); SELECT 1 / 0; INSERT INTO multi VALUES (5)")
            .query("SELECT count(*) FROM multi")
            .query("INSERT INTO multi VALUES (6); COMMIT; INSERT INTO multi VALUES (7); SELECT 1 / 0")
            .query("SELECT id FROM multi ORDER BY id"),
    );
}

#[test]
fn empty_queries() {
    check(
        &Script::new("empty queries")
            .query("")
            .query(";")
            .query("  -- only a comment\n")
            .query(";;SELECT 1;;")
            .query("/* nothing /* nested */ */")
            .extended("", &[])
            .pipeline(&[
                parse("", ""),
                describe_statement(""),
                bind("", "", &[]),
                describe_portal(""),
                sync(),
            ])
            .ready(),
    );
}

#[test]
fn errors_keep_all_their_fields() {
    check(
        &Script::new("errors")
            .errors(&["42601", "42P01", "42883", "23505", "23514", "22P02", "22012", "P0042"])
            .setup("CREATE TABLE errors (id int PRIMARY KEY, positive int CHECK (positive > 0))")
            .setup("INSERT INTO errors VALUES (1, 1)")
            .teardown("DROP TABLE errors")
            .query("SELEC 1")
            .query("SELECT * FROM no_such_table")
            .query("SELECT no_such_function(1)")
            .query("INSERT INTO errors VALUES (1, 1)")
            .query("INSERT INTO errors VALUES (2, -1)")
            .query("SELECT 'abc'::int")
            .query("SELECT 1 / 0")
            .query("DO $$ BEGIN RAISE 'mine' USING errcode = 'P0042', detail = 'd', hint = 'h', column = 'c'; END $$")
            .query("SELECT 1"),
    );
}

#[test]
fn transactions() {
    check(
        &Script::new("transactions")
            .errors(&["25006", "25P02", "22012"])
            .setup("CREATE TABLE tx (id int)")
            .before_each("TRUNCATE tx")
            .teardown("DROP TABLE tx")
            .query("BEGIN")
            .query("INSERT INTO tx VALUES (1)")
            .query("COMMIT")
            .query("BEGIN ISOLATION LEVEL SERIALIZABLE READ ONLY")
            .query("INSERT INTO tx VALUES (2)")
            .query("SELECT 'in a failed transaction'")
            .query("ROLLBACK")
            .query("START TRANSACTION")
            .query("SELECT 1 / 0")
            .query("COMMIT")
            .query("COMMIT")
            .query("ROLLBACK")
            .query("BEGIN")
            .query("BEGIN")
            .query("INSERT INTO tx VALUES (3)")
            .query("COMMIT AND CHAIN")
            .query("INSERT INTO tx VALUES (4)")
            .query("ROLLBACK AND CHAIN")
            .query("ROLLBACK")
            .query("SELECT id FROM tx ORDER BY id"),
    );
}

#[test]
fn savepoints() {
    check(
        &Script::new("savepoints")
            .errors(&["25P01", "22012", "25P02", "3B001"])
            .query("SAVEPOINT outside")
            .query("BEGIN")
            .query("SAVEPOINT a")
            .query("SELECT 1 / 0")
            .query("SAVEPOINT b")
            .query("ROLLBACK TO a")
            .query("SELECT 'alive'")
            .query("RELEASE a")
            .query("ROLLBACK TO a")
            .query("END"),
    );
}

#[test]
fn transactions_that_begin_and_end_inside_queries() {
    check(
        &Script::new("transactions inside queries")
            .errors(&["22012", "22012"])
            .query("BEGIN; SELECT 1")
            .query("SELECT 2; COMMIT; BEGIN; SELECT 3")
            .query("SELECT 1 / 0; COMMIT")
            .query("ROLLBACK; SELECT 4")
            .query("BEGIN; SELECT 5; COMMIT; SELECT 1 / 0")
            .query("SELECT 6"),
    );
}

#[test]
fn two_clients_in_transactions_of_their_own() {
    check(
        &Script::new("two clients")
            .errors(&["22012"])
            .setup("CREATE TABLE two (id int)")
            .before_each("TRUNCATE two")
            .teardown("DROP TABLE two")
            .client("a")
            .query("BEGIN")
            .query("INSERT INTO two VALUES (1)")
            .client("b")
            .query("SELECT count(*) FROM two")
            .query("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM two")
            .client("a")
            .query("COMMIT")
            .query("SELECT count(*) FROM two")
            .client("b")
            .query("SELECT count(*) FROM two")
            .query("SELECT 1 / 0")
            .client("a")
            .query("SELECT 'not failed here'")
            .client("b")
            .query("ROLLBACK")
            .query("SELECT count(*) FROM two"),
    );
}

#[test]
fn cursors_in_a_transaction() {
    check(
        &Script::new("cursors")
            .errors(&["34000"])
            .query("BEGIN; DECLARE c CURSOR FOR SELECT g FROM generate_series(1, 10) AS g")
            .query("FETCH 3 FROM c")
            .pipeline(&[execute("c", 2), describe_portal("c"), sync()])
            .ready()
            .query("MOVE 2 IN c")
            .query("FETCH ALL c; CLOSE c")
            .query("COMMIT")
            .query("FETCH 1 FROM c"),
    );
}

#[test]
fn notices() {
    check(
        &Script::new("notices")
            .errors(&["22012"])
            .query("DO $$ BEGIN RAISE NOTICE 'one'; RAISE WARNING 'two' USING hint = 'h'; RAISE INFO 'three'; END $$")
            .query("SET LOCAL work_mem = '1MB'")
            .query("DROP TABLE IF EXISTS not_there")
            .extended("DROP TABLE IF EXISTS not_there", &[])
            .query("BEGIN")
            .query("DO $$ BEGIN RAISE NOTICE 'before'; PERFORM 1 / 0; END $$")
            .query("ROLLBACK")
            .query("SET LOCAL client_min_messages = error; DROP TABLE IF EXISTS not_there"),
    );
}

#[test]
fn messages_larger_than_any_buffer() {
    let large = "x".repeat(100_000);
    check(
        &Script::new("large messages")
            .query("SELECT repeat('y', 300000)")
            .query("SELECT g, repeat('z', 100) FROM generate_series(1, 3000) AS g")
            .extended("SELECT length($1), $1", &[Some(&large)])
            .query(&format!("SELECT length('{large}')"))
            .query("COPY (SELECT repeat('c', 70000) FROM generate_series(1, 3)) TO STDOUT")
            .query("SELECT 'small again'"),
    );
}
