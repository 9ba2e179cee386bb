//! Transactions as PostgreSQL ends them: in one Query, at Sync, in two phases, and with large objects and function calls in
//! them.

#[path = "support/faithful.rs"]
mod faithful;
mod support;

use faithful::faithful;
use support::differential::Script;
use support::frontend::{
    all, bind, close_portal, describe_portal, execute, extended, flush, function_call, parse, query, sync,
};
use support::transcript::Normalisation;

/// Object ids of functions, the same in every PostgreSQL.
const LO_OPEN: u32 = 952;
const LO_CLOSE: u32 = 953;
const LO_READ: u32 = 954;
const LO_WRITE: u32 = 955;
const LO_LSEEK: u32 = 956;
const LO_CREATE: u32 = 715;
const LO_UNLINK: u32 = 964;
const LO_TELL: u32 = 958;

/// Bind and Execute of a statement without parameters, without Sync.
fn run(statement: &str) -> Vec<u8> {
    all(&[bind("", statement, &[]), execute("", 0)])
}

/// Case 35: only ReadyForQuery says whether a transaction is open.
#[test]
fn transactions_that_open_and_close_anywhere_in_a_query() {
    faithful(
        &Script::new("transactions anywhere")
            .setup("CREATE TABLE anywhere (id int)")
            .before_each("TRUNCATE anywhere")
            .teardown("DROP TABLE anywhere")
            .errors(&["22012", "25001", "25P02", "22012"])
            .query("INSERT INTO anywhere VALUES (1); BEGIN; INSERT INTO anywhere VALUES (2)")
            .query("ROLLBACK; INSERT INTO anywhere VALUES (3); BEGIN; SELECT 1 / 0; COMMIT")
            .query("COMMIT; BEGIN; INSERT INTO anywhere VALUES (4); COMMIT; BEGIN")
            .query("VACUUM anywhere")
            .query("SELECT 'failed'")
            .query("ROLLBACK;;; ; SELECT 'over' /* ; BEGIN */ -- ; BEGIN")
            .query("DO $$ BEGIN COMMIT; PERFORM 1; ROLLBACK; END $$")
            .query("BEGIN; BEGIN; COMMIT; COMMIT; SELECT 'warned'")
            .query("SELECT 'BEGIN'; SELECT $tag$; BEGIN; $tag$")
            .query(
                "BEGIN; INSERT INTO anywhere VALUES (5); END; INSERT INTO anywhere VALUES (6); SELECT 1 / 0",
            )
            .query("SELECT id FROM anywhere ORDER BY id"),
    );
}

/// Case 35: COPY in the middle of several statements that open and close transactions.
#[test]
fn copy_among_statements_that_open_and_close_transactions() {
    use support::frontend::{copy_data, copy_done, copy_fail};
    faithful(
        &Script::new("COPY among transactions")
            .setup("CREATE TABLE copy_anywhere (id int)")
            .before_each("TRUNCATE copy_anywhere")
            .teardown("DROP TABLE copy_anywhere")
            .errors(&["57014"])
            .pipeline(&[
                query("BEGIN; COPY copy_anywhere FROM STDIN; COMMIT; COPY copy_anywhere FROM STDIN; BEGIN"),
                copy_data(b"1\n"),
                copy_done(),
                copy_data(b"2\n"),
                copy_done(),
            ])
            .ready()
            .query("COPY (SELECT id FROM copy_anywhere ORDER BY id) TO STDOUT; COMMIT; SELECT ''")
            .pipeline(&[
                query("COPY copy_anywhere FROM STDIN; COMMIT; COPY copy_anywhere FROM STDIN; SELECT 'not reached'"),
                copy_data(b"3\n"),
                copy_done(),
                copy_data(b"4\n"),
                copy_fail("enough"),
            ])
            .ready()
            .query("SELECT id FROM copy_anywhere ORDER BY id"),
    );
}

/// Case 36: a chained transaction is one more, on the same server.
#[test]
fn commit_and_chain_keeps_the_transaction() {
    faithful(
        &Script::new("AND CHAIN")
            .setup("CREATE TABLE chained (id int)")
            .before_each("TRUNCATE chained")
            .teardown("DROP TABLE chained")
            .errors(&["22012", "22012", "25P01"])
            .query("BEGIN ISOLATION LEVEL REPEATABLE READ; INSERT INTO chained VALUES (1)")
            .query("COMMIT AND CHAIN")
            .query("SHOW transaction_isolation")
            .extended("INSERT INTO chained VALUES (2)", &[])
            .extended("COMMIT AND CHAIN", &[])
            .query("INSERT INTO chained VALUES (3); SELECT 1 / 0")
            .query("COMMIT AND CHAIN")
            .query("INSERT INTO chained VALUES (4); ROLLBACK AND CHAIN; INSERT INTO chained VALUES (5)")
            .query("SELECT 1 / 0")
            .extended("ROLLBACK AND CHAIN", &[])
            .query("INSERT INTO chained VALUES (6)")
            .query("COMMIT AND NO CHAIN")
            .query("COMMIT AND CHAIN")
            .query("SELECT id FROM chained ORDER BY id"),
    );
}

/// Case 36: what one server has prepared to commit, another commits.
#[test]
fn prepared_transactions_are_ended_on_any_server() {
    faithful(
        &Script::new("two phases")
            .setup("CREATE TABLE two_phases (id int)")
            .before_each("TRUNCATE two_phases")
            .teardown("DROP TABLE two_phases")
            .errors(&["42710", "42704", "25001", "22012", "42704"])
            .query("BEGIN; INSERT INTO two_phases VALUES (1)")
            .query("PREPARE TRANSACTION 'gid_one'")
            .query("SELECT count(*) FROM two_phases")
            .query("BEGIN; INSERT INTO two_phases VALUES (2)")
            .query("PREPARE TRANSACTION 'gid_one'")
            .query("SELECT 'rolled back by the error'")
            .query("COMMIT PREPARED 'gid_one'")
            .query("COMMIT PREPARED 'gid_one'")
            .query("BEGIN; INSERT INTO two_phases VALUES (3)")
            .extended("PREPARE TRANSACTION 'gid_two'", &[])
            .client("other")
            .query("BEGIN")
            .query("ROLLBACK PREPARED 'gid_two'")
            .query("ROLLBACK")
            .extended("ROLLBACK PREPARED 'gid_two'", &[])
            .client("main")
            .query("BEGIN; INSERT INTO two_phases VALUES (4)")
            .query("SELECT 1 / 0")
            .query("PREPARE TRANSACTION 'gid_three'")
            .query("COMMIT PREPARED 'gid_three'")
            .query("BEGIN; INSERT INTO two_phases VALUES (5); PREPARE TRANSACTION 'gid_four'; SELECT 'next'")
            .query("COMMIT PREPARED 'gid_four'")
            .query("SELECT id FROM two_phases ORDER BY id"),
    );
}

/// Case 22: what is checked at the end of a batch fails at its Sync, behind the replies of all its messages.
#[test]
fn an_error_at_sync_comes_behind_all_replies() {
    let insert = |value: &str| all(&[bind("", "ins", &[Some(value)]), execute("", 0)]);
    faithful(
        &Script::new("deferred constraint")
            .setup("CREATE TABLE deferred (id int PRIMARY KEY DEFERRABLE INITIALLY DEFERRED)")
            .before_each("TRUNCATE deferred")
            .teardown("DROP TABLE deferred")
            .errors(&["23505", "23505", "23505", "23505"])
            .pipeline(&[parse("ins", "INSERT INTO deferred VALUES ($1)"), sync()])
            .ready()
            .pipeline(&[insert("1"), insert("1"), sync(), insert("2"), sync()])
            .ready()
            .ready()
            .pipeline(&[insert("2"), sync(), parse("after", "SELECT 'after'"), run("after"), sync()])
            .ready()
            .ready()
            .query("INSERT INTO deferred VALUES (3); INSERT INTO deferred VALUES (3)")
            .query("BEGIN")
            .pipeline(&[insert("4"), insert("4"), sync()])
            .ready()
            .pipeline(&[extended("COMMIT", &[]), run("after"), sync()])
            .ready()
            .ready()
            .query("SELECT id FROM deferred ORDER BY id"),
    );
}

/// Case 33: a Query among messages that wait for their Sync.
#[test]
fn begin_and_commit_inside_a_batch() {
    faithful(
        &Script::new("BEGIN in a batch")
            .setup("CREATE TABLE batch_tx (id int)")
            .before_each("TRUNCATE batch_tx")
            .teardown("DROP TABLE batch_tx")
            .errors(&["22012", "22012"])
            .pipeline(&[
                parse("begin", "BEGIN"),
                parse("commit", "COMMIT"),
                parse("ins", "INSERT INTO batch_tx VALUES (1)"),
                parse("div", "SELECT 1 / ($1::int + (0 * random())::int)"),
                sync(),
            ])
            .ready()
            .pipeline(&[
                run("begin"),
                run("ins"),
                run("commit"),
                bind("", "div", &[Some("0")]),
                execute("", 0),
                sync(),
            ])
            .ready()
            .pipeline(&[
                run("ins"),
                run("commit"),
                run("ins"),
                bind("", "div", &[Some("0")]),
                execute("", 0),
                sync(),
            ])
            .ready()
            .pipeline(&[run("begin"), run("ins"), sync()])
            .ready()
            .pipeline(&[run("ins"), flush()])
            .read(2)
            .pipeline(&[run("commit"), sync()])
            .ready()
            .query("SELECT count(*) FROM batch_tx"),
    );
}

/// Case 32: a transaction that has failed is ended by any means, and takes in nothing that it would refuse.
#[test]
fn a_failed_transaction_is_ended_by_statements_of_any_kind() {
    // What refuses a statement that has to be prepared first is not the same line of PostgreSQL.
    let mut script = Script::new("failed transactions")
        .ignore(Normalisation::ErrorSource)
        .pipeline(&[
            parse("back", "ROLLBACK"),
            parse("commit", "COMMIT"),
            parse("to", "ROLLBACK TO SAVEPOINT a"),
            parse("work", "SELECT 'work'"),
            sync(),
        ])
        .ready();
    let mut errors = Vec::new();
    for ending in ["back", "commit"] {
        script = script
            .query("BEGIN; SAVEPOINT a; SELECT 1 / 0")
            .pipeline(&[run("work"), sync()])
            .ready()
            .pipeline(&[parse("new", "SELECT 'new'"), sync()])
            .ready()
            .pipeline(&[run("to"), run("work"), sync()])
            .ready()
            .query("SELECT 1 / 0")
            .pipeline(&[describe_portal("none"), sync()])
            .ready()
            .pipeline(&[run(ending), run("work"), sync()])
            .ready();
        errors.extend(["22012", "25P02", "25P02", "22012", "34000"]);
    }
    faithful(&script.errors(&errors).pipeline(&[run("work"), sync()]).ready());
}

/// Case 37: large objects, as libpq works with them.
#[test]
fn large_objects_by_function_call() {
    // (An id of the client's choice, so that both plays see the same.)
    let id = "990001";
    faithful(
        &Script::new("large objects")
            .before_each("SELECT lo_unlink(oid) FROM pg_largeobject_metadata WHERE oid = 990001")
            .errors(&["42704", "42704"])
            .send(function_call(LO_CREATE, &[Some(id)]))
            .ready()
            .query("BEGIN")
            .send(function_call(LO_OPEN, &[Some(id), Some("393216")]))
            .ready()
            .send(function_call(LO_WRITE, &[Some("0"), Some(&"large ".repeat(3_000))]))
            .ready()
            .send(function_call(LO_TELL, &[Some("0")]))
            .ready()
            .pipeline(&[
                function_call(LO_LSEEK, &[Some("0"), Some("6"), Some("0")]),
                function_call(LO_READ, &[Some("0"), Some("12")]),
                function_call(LO_CLOSE, &[Some("0")]),
            ])
            .ready()
            .ready()
            .ready()
            .query("COMMIT")
            .query("SELECT length(lo_get(990001)), lo_get(990001, 0, 5)")
            .query("BEGIN")
            .send(function_call(LO_OPEN, &[Some(id), Some("262144")]))
            .ready()
            .query("COMMIT")
            // The descriptor is gone with its transaction.
            .send(function_call(LO_READ, &[Some("0"), Some("12")]))
            .ready()
            .send(function_call(LO_UNLINK, &[Some(id)]))
            .ready()
            .query("SELECT lo_get(990001)"),
    );
}

/// Case 37: function calls among other messages.
#[test]
fn function_calls_in_pipelines() {
    const INT4_PLUS: u32 = 177;
    const INT4_DIVIDE: u32 = 154;
    faithful(
        &Script::new("function calls in pipelines")
            .errors(&["22012", "22012", "26000"])
            .pipeline(&[
                parse("s", "SELECT 's'"),
                run("s"),
                sync(),
                function_call(INT4_PLUS, &[Some("1"), Some("2")]),
                function_call(INT4_DIVIDE, &[Some("1"), Some("0")]),
                query("BEGIN"),
                function_call(INT4_PLUS, &[Some("3"), Some("4")]),
                run("s"),
                sync(),
                function_call(INT4_DIVIDE, &[Some("1"), Some("0")]),
                extended("ROLLBACK", &[]),
                bind("", "nobody", &[]),
                function_call(INT4_PLUS, &[Some("5"), Some("6")]),
                sync(),
                function_call(INT4_PLUS, &[Some("7"), Some("8")]),
            ])
            .ready()
            .ready()
            .ready()
            .ready()
            .ready()
            .ready()
            .ready()
            .ready()
            .ready()
            .ready()
            .pipeline(&[close_portal(""), run("s"), sync()])
            .ready(),
    );
}
