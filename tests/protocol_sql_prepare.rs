//! Statements that SQL prepares, executes and deallocates, through both protocols and across servers: they live in one
//! namespace with those of Parse, and follow their client as those do.

#[path = "support/faithful.rs"]
mod faithful;
mod support;

use faithful::faithful;
use support::differential::Script;
use support::frontend::{
    all, bind, close_statement, describe_portal, describe_statement, execute, extended, parse, parse_typed,
    query, sync,
};

/// Bind and Execute of a statement without parameters, without Sync.
fn run(statement: &str) -> Vec<u8> {
    all(&[bind("", statement, &[]), execute("", 0)])
}

/// Case 30: what one transaction prepares, another executes.
#[test]
fn prepare_execute_and_deallocate_in_transactions_of_their_own() {
    faithful(
        &Script::new("PREPARE, EXECUTE, DEALLOCATE")
            .errors(&["26000", "26000"])
            .query("PREPARE add (int, int) AS SELECT $1 + $2 AS sum")
            .query("EXECUTE add (1, 2)")
            .query("EXECUTE add(20, 11 * 2)")
            .query("PREPARE plain AS SELECT 'plain'::text")
            .query("EXECUTE plain")
            .query("execute add (3, 4)")
            .query("DEALLOCATE add")
            .query("EXECUTE add (5, 6)")
            .query("EXECUTE plain")
            .query("DEALLOCATE PREPARE plain")
            .query("EXECUTE plain"),
    );
}

/// Case 30: the same through Parse, Bind, Describe and Execute.
#[test]
fn prepare_execute_and_deallocate_through_the_extended_protocol() {
    faithful(
        &Script::new("PREPARE by Parse")
            .errors(&["26000"])
            .extended("PREPARE add (int, int) AS SELECT $1 + $2 AS sum", &[])
            .extended("EXECUTE add (1, 2)", &[])
            .pipeline(&[
                parse("", "EXECUTE add (3, 4)"),
                describe_statement(""),
                bind("", "", &[]),
                describe_portal(""),
                execute("", 0),
                sync(),
            ])
            .ready()
            .query("EXECUTE add (5, 6)")
            .extended("DEALLOCATE add", &[])
            .extended("EXECUTE add (7, 8)", &[]),
    );
}

/// Case 30: a statement of Parse is executed and deallocated by SQL.
#[test]
fn sql_finds_what_parse_has_prepared() {
    faithful(
        &Script::new("EXECUTE of a Parse")
            .errors(&["26000", "26000", "42P05"])
            .pipeline(&[parse_typed("s", "SELECT $1 * 2 AS double", &[23]), parse("t", "SELECT 't'"), sync()])
            .ready()
            .query("EXECUTE s (21)")
            .extended("EXECUTE s (4)", &[])
            .query("EXECUTE t")
            .query("DEALLOCATE s")
            .pipeline(&[bind("", "s", &[Some("1")]), execute("", 0), sync()])
            .ready()
            .query("EXECUTE s (1)")
            .pipeline(&[run("t"), sync()])
            .ready()
            .query("PREPARE t AS SELECT 'another'")
            .pipeline(&[run("t"), sync()])
            .ready()
            .pipeline(&[parse("s", "SELECT 'new'"), run("s"), sync()])
            .ready()
            .query("EXECUTE s"),
    );
}

/// Case 30: a statement of PREPARE is described, bound and closed by the protocol.
#[test]
fn the_protocol_finds_what_sql_has_prepared() {
    faithful(
        &Script::new("Bind of a PREPARE")
            .errors(&["42P05", "26000", "26000"])
            .query("PREPARE p (int, text) AS SELECT $1 AS number, $2 AS words")
            .pipeline(&[describe_statement("p"), sync()])
            .ready()
            .pipeline(&[
                bind("", "p", &[Some("7"), Some("seven")]),
                describe_portal(""),
                execute("", 0),
                sync(),
            ])
            .ready()
            .pipeline(&[parse("p", "SELECT 'taken'"), sync()])
            .ready()
            .pipeline(&[bind("", "p", &[Some("8"), None]), execute("", 0), sync()])
            .ready()
            .pipeline(&[close_statement("p"), sync()])
            .ready()
            .query("EXECUTE p (1, 'one')")
            .pipeline(&[bind("", "p", &[Some("9"), None]), execute("", 0), sync()])
            .ready()
            .pipeline(&[parse("p", "SELECT 'free'"), run("p"), sync()])
            .ready(),
    );
}

/// Case 27: the errors of names, as PostgreSQL words them.
#[test]
fn names_that_are_taken_unknown_or_wrongly_used() {
    faithful(
        &Script::new("errors of EXECUTE")
            .errors(&[
                "42P05", "26000", "26000", "42601", "42601", "42804", "42P01", "26000", "42601", "26000",
            ])
            .query("PREPARE p (int) AS SELECT $1")
            .query("PREPARE p AS SELECT 'again'")
            .query("EXECUTE nobody")
            .query("DEALLOCATE nobody")
            .query("EXECUTE p")
            .query("EXECUTE p (1, 2)")
            .query("EXECUTE p (current_date)")
            .query("PREPARE broken AS SELECT * FROM no_such_table")
            .query("EXECUTE broken")
            .query("PREPARE broken AS SELEC")
            .query("EXECUTE broken")
            .query("EXECUTE p (3)"),
    );
}

/// Case 30: names are identifiers of SQL, but plain bytes for Parse.
#[test]
fn names_are_folded_quoted_and_cut_as_identifiers() {
    let long = "n".repeat(70);
    faithful(
        &Script::new("identifiers")
            .errors(&["26000", "26000"])
            .query("PREPARE Folded AS SELECT 'folded'")
            .query("EXECUTE FOLDED")
            .query("EXECUTE \"folded\"")
            .query("PREPARE \"With \"\"quotes\"\" and; more\" AS SELECT 'quoted'")
            .query("EXECUTE \"With \"\"quotes\"\" and; more\"")
            .pipeline(&[run("With \"quotes\" and; more"), sync()])
            .ready()
            .query("EXECUTE \"Folded\"")
            .pipeline(&[parse("Mixed", "SELECT 'mixed'"), sync()])
            .ready()
            .query("EXECUTE \"Mixed\"")
            .query("EXECUTE Mixed")
            .query("EXECUTE U&\"\\004dixed\"")
            .query(&format!("PREPARE {long} AS SELECT 'long'"))
            .query(&format!("EXECUTE {long}"))
            .pipeline(&[run(&long[..63]), sync()])
            .ready()
            .pipeline(&[run(&long), sync()])
            .ready()
            .query("PREPARE \"all\" AS SELECT 'all'")
            .query("DEALLOCATE \"all\"")
            .query("EXECUTE folded"),
    );
}

/// Case 30: words and comments around a name do not hide it.
#[test]
fn comments_and_blanks_are_no_obstacle() {
    faithful(
        &Script::new("comments")
            .errors(&["26000"])
            .query("/* first */ PREPARE -- second\n c /* third /* nested */ */ (int)\tAS SELECT $1")
            .query("  \n EXECUTE/**/c/**/(1)")
            .query(";; EXECUTE c (2) ;")
            .query("-- last\nDEALLOCATE\tPREPARE\n c -- over")
            .query("EXECUTE c (3)"),
    );
}

/// Case 30: statements are not part of a transaction; only errors keep them from being made or dropped.
#[test]
fn a_rollback_neither_drops_nor_restores_statements() {
    faithful(
        &Script::new("statements and transactions")
            .errors(&["26000", "22012", "25P02", "25P02", "22012", "26000", "22012"])
            .query("BEGIN")
            .query("PREPARE made AS SELECT 'made'")
            .query("ROLLBACK")
            .query("EXECUTE made")
            .query("BEGIN; DEALLOCATE made; ROLLBACK")
            .query("EXECUTE made")
            .query("PREPARE kept AS SELECT 'kept'")
            .query("BEGIN; SELECT 1 / 0")
            .query("EXECUTE kept")
            .query("DEALLOCATE kept")
            .query("ROLLBACK")
            .query("EXECUTE kept")
            .query("PREPARE before AS SELECT 'before'; SELECT 1 / 0; PREPARE behind AS SELECT 'behind'")
            .query("EXECUTE before")
            .query("EXECUTE behind")
            .query("PREPARE fails AS SELECT 1 / (2 - $1::int)")
            .query("EXECUTE fails (1)")
            .query("EXECUTE fails (2)")
            .query("EXECUTE fails (3)"),
    );
}

/// Case 35: several of them in one Query.
#[test]
fn several_of_them_in_one_query() {
    faithful(
        &Script::new("multi-statement PREPARE")
            .errors(&["26000", "26000"])
            .query(
                "PREPARE a AS SELECT 'a'; EXECUTE a; DEALLOCATE a; PREPARE a AS SELECT 'second a'; EXECUTE a",
            )
            .query("EXECUTE a; PREPARE b (int) AS SELECT $1; EXECUTE b (1)")
            .query("SELECT 'first'; EXECUTE b (2); SELECT 'last'")
            .query("BEGIN; EXECUTE b (3)")
            .query("EXECUTE a; COMMIT; EXECUTE b (4)")
            .query("SELECT 1; DEALLOCATE b; SELECT 2")
            .query("EXECUTE b (5)")
            .query("SELECT 1; DEALLOCATE ALL")
            .query("EXECUTE a"),
    );
}

/// Case 30: DEALLOCATE ALL in all its forms.
#[test]
fn deallocate_all_drops_the_statements_of_both_kinds() {
    let mut script = Script::new("DEALLOCATE ALL").errors(&["26000"; 8]);
    for command in ["DEALLOCATE ALL", "deallocate prepare all", "/* now */ DEALLOCATE ALL;", "DISCARD ALL"] {
        script = script
            .query("PREPARE by_sql AS SELECT 'by SQL'")
            .pipeline(&[parse("by_parse", "SELECT 'by Parse'"), sync()])
            .ready()
            .query(command)
            .query("EXECUTE by_sql")
            .pipeline(&[run("by_parse"), sync()])
            .ready();
    }
    faithful(&script);
}

/// Case 30: the same through Parse.
#[test]
fn deallocate_all_through_the_extended_protocol() {
    let mut script = Script::new("DEALLOCATE ALL by Parse").errors(&["26000"; 6]);
    for command in ["DEALLOCATE ALL", "DEALLOCATE PREPARE ALL", "DISCARD ALL"] {
        script = script
            .query("PREPARE by_sql AS SELECT 'by SQL'")
            .pipeline(&[parse("by_parse", "SELECT 'by Parse'"), sync()])
            .ready()
            .extended(command, &[])
            .query("EXECUTE by_sql")
            .pipeline(&[run("by_parse"), sync()])
            .ready();
    }
    faithful(&script);
}

/// Case 30: what DISCARD leaves.
#[test]
fn discard_plans_sequences_and_temp_leave_the_statements() {
    let mut script = Script::new("DISCARD")
        .errors(&["25001", "25001"])
        .query("PREPARE by_sql AS SELECT 'by SQL'")
        .pipeline(&[parse("by_parse", "SELECT 'by Parse'"), sync()])
        .ready();
    for command in [
        "DISCARD PLANS",
        "DISCARD SEQUENCES",
        "DISCARD TEMP",
        "BEGIN; DISCARD ALL",
        "ROLLBACK",
        "SELECT 1; DISCARD ALL",
    ] {
        script = script.query(command);
        if !command.starts_with("BEGIN") {
            script = script.query("EXECUTE by_sql").pipeline(&[run("by_parse"), sync()]).ready();
        }
    }
    faithful(&script);
}

/// Case 30: in a pipeline every command sees what stands in front of it.
#[test]
fn pipelined_commands_keep_their_order() {
    faithful(
        &Script::new("pipelined PREPARE")
            .errors(&["26000", "26000", "42P05"])
            .pipeline(&[
                query("PREPARE q AS SELECT 'one'"),
                query("EXECUTE q"),
                query("DEALLOCATE q"),
                query("EXECUTE q"),
                query("PREPARE q AS SELECT 'two'"),
                query("EXECUTE q"),
            ])
            .ready()
            .ready()
            .ready()
            .ready()
            .ready()
            .ready()
            .pipeline(&[
                query("DEALLOCATE q"),
                parse("q", "SELECT 'three'"),
                run("q"),
                sync(),
                query("EXECUTE q"),
                query("DEALLOCATE q"),
                run("q"),
                sync(),
                parse("q", "SELECT 'four'"),
                sync(),
                query("PREPARE q AS SELECT 'five'"),
                query("EXECUTE q"),
            ])
            .ready()
            .ready()
            .ready()
            .ready()
            .ready()
            .ready()
            .ready()
            .ready()
            .query("EXECUTE q"),
    );
}

/// Case 30: within one batch of the extended protocol.
#[test]
fn a_batch_that_prepares_by_sql_and_binds_by_the_protocol() {
    faithful(
        &Script::new("PREPARE and Bind in one batch")
            .errors(&["26000", "26000"])
            .pipeline(&[
                parse("", "PREPARE inner_one (int) AS SELECT $1 + 1"),
                run(""),
                bind("", "inner_one", &[Some("1")]),
                execute("", 0),
                describe_statement("inner_one"),
                parse("", "EXECUTE inner_one (2)"),
                run(""),
                parse("", "DEALLOCATE inner_one"),
                run(""),
                bind("", "inner_one", &[Some("3")]),
                execute("", 0),
                sync(),
            ])
            .ready()
            .query("EXECUTE inner_one (4)"),
    );
}

/// Case 30: a command that is itself a prepared statement.
#[test]
fn execute_as_a_prepared_statement_of_its_own() {
    faithful(
        &Script::new("nested EXECUTE")
            .errors(&["26000", "26000"])
            .query("PREPARE p (int) AS SELECT $1 AS one")
            .pipeline(&[parse("runs_p", "EXECUTE p (5)"), describe_statement("runs_p"), sync()])
            .ready()
            .pipeline(&[run("runs_p"), sync()])
            .ready()
            .pipeline(&[run("runs_p"), sync()])
            .ready()
            .pipeline(&[parse("drops_p", "DEALLOCATE p"), run("drops_p"), sync()])
            .ready()
            .pipeline(&[run("runs_p"), sync()])
            .ready()
            .query("PREPARE p (int) AS SELECT $1 + 100 AS one")
            .pipeline(&[run("runs_p"), sync()])
            .ready()
            .pipeline(&[run("drops_p"), sync()])
            .ready()
            .query("EXECUTE p (1)"),
    );
}

/// Case 30: the other commands that execute.
#[test]
fn execute_inside_other_commands() {
    faithful(
        &Script::new("EXPLAIN EXECUTE")
            .setup("CREATE TABLE executed (id int)")
            .before_each("TRUNCATE executed; DROP TABLE IF EXISTS made_by_execute")
            .teardown("DROP TABLE executed, made_by_execute")
            .query("PREPARE ins (int) AS INSERT INTO executed VALUES ($1) RETURNING id")
            .query("EXECUTE ins (1)")
            .query("EXPLAIN (COSTS OFF) EXECUTE ins (2)")
            .query("PREPARE sel AS SELECT id FROM executed ORDER BY id")
            .query("CREATE TABLE made_by_execute AS EXECUTE sel")
            .query("SELECT id + 0 AS id FROM made_by_execute")
            .query("EXECUTE ins (3)")
            .query("EXECUTE sel"),
    );
}

/// Case 30: two clients have namespaces of their own.
#[test]
fn two_clients_use_the_same_names() {
    faithful(
        &Script::new("two clients")
            .errors(&["26000"])
            .client("one")
            .query("PREPARE p AS SELECT 'of one'")
            .client("other")
            .query("PREPARE p AS SELECT 'of the other'")
            .client("one")
            .query("EXECUTE p")
            .client("other")
            .query("EXECUTE p")
            .query("DEALLOCATE ALL")
            .query("EXECUTE p")
            .client("one")
            .query("EXECUTE p"),
    );
}

/// Case 30: a statement that code on the server prepares, where no text shows it.
#[test]
fn what_code_on_the_server_prepares_and_deallocates() {
    faithful(
        &Script::new("hidden PREPARE")
            .errors(&["26000"])
            .query("DO $$ BEGIN EXECUTE 'PREPARE hidden AS SELECT ''hidden'''; END $$")
            .query("EXECUTE hidden")
            .pipeline(&[run("hidden"), sync()])
            .ready()
            .query("DO $$ BEGIN EXECUTE 'DEALLOCATE hidden'; END $$")
            .query("EXECUTE hidden"),
    );
}

/// A function that is told what to run, as PostgreSQL's own tests have it.
#[test]
fn code_that_is_told_to_execute_finds_what_the_client_has_prepared() {
    faithful(
        &Script::new("EXECUTE in a string")
            .setup("CREATE FUNCTION told(text) RETURNS SETOF text LANGUAGE plpgsql AS 'BEGIN RETURN QUERY EXECUTE $1; END'")
            .teardown("DROP FUNCTION told(text)")
            .query("PREPARE q (int) AS SELECT 'q'::text || $1")
            .query("SELECT told('execute q (2)')")
            .extended("SELECT told('execute q (3)')", &[])
            .query("DO $$ BEGIN PERFORM told('EXECUTE q(4)'); END $$")
            .query("DO $$ BEGIN EXECUTE 'EXECUTE q(5)'; END $$")
            .query("DEALLOCATE q"),
    );
}

/// A backslash in a plain string is nothing special, unless the client has said otherwise.
#[test]
fn statements_with_backslashes_follow() {
    faithful(
        &Script::new("backslashes")
            .errors(&["26000"])
            .query(r"PREPARE q AS SELECT 'some\more', E'it\'s'")
            .query("EXECUTE q")
            .query("DEALLOCATE q")
            .query(r"PREPARE q AS SELECT 'ends in \'")
            .query("EXECUTE q")
            .query("DEALLOCATE q")
            .query("SET standard_conforming_strings = off; SET escape_string_warning = off")
            .query(r"SELECT 'it\'s'")
            .query(r"SELECT 'it\'; PREPARE q AS SELECT 1 --'")
            .query("EXECUTE q")
            .query("BEGIN")
            .query("SET LOCAL standard_conforming_strings = on")
            .query(r"SELECT 'ends in \'")
            .query("COMMIT")
            .query(r"SELECT 'it\'s'"),
    );
}

/// Case 25: a statement of SQL whose server was given to others in between is still described and bound correctly after
/// its pool's servers were all used by others.
#[test]
fn a_loop_of_executes_as_drivers_write_them() {
    let mut script = Script::new("a loop of EXECUTE")
        .setup("CREATE TABLE looped (id int PRIMARY KEY, word text)")
        .before_each("TRUNCATE looped")
        .teardown("DROP TABLE looped")
        .query("PREPARE looped_in (int, text) AS INSERT INTO looped VALUES ($1, $2)")
        .query("PREPARE looped_out (int) AS SELECT word FROM looped WHERE id = $1");
    for number in 0..6 {
        script = script
            .query("BEGIN")
            .query(&format!("EXECUTE looped_in ({number}, 'word ''{number}''')"))
            .query("COMMIT")
            .query(&format!("EXECUTE looped_out ({number})"))
            .send(extended(&format!("EXECUTE looped_out ({number})"), &[]))
            .ready();
    }
    faithful(&script);
}

/// Case 30: what SQL has prepared is there, though the batch fails in which the server was to be asked about it.
#[test]
fn a_failing_batch_behind_prepare_does_not_hide_what_it_has_prepared() {
    let batch = |name| all(&[bind("", "", &[]), parse(name, "SELECT 'of the batch'"), sync()]);
    faithful(
        &Script::new("prepare and a failing batch")
            .errors(&["26000", "26000", "26000"])
            .pipeline(&[query("PREPARE behind AS SELECT 'prepared'"), batch("other")])
            .ready()
            .ready()
            .query("EXECUTE behind")
            .pipeline(&[query("DEALLOCATE behind"), batch("behind")])
            .ready()
            .ready()
            .query("EXECUTE behind"),
    );
}

/// Case 30: code in a DO block may prepare, so the server is asked about it: once.
#[test]
fn a_do_block_through_the_extended_protocol() {
    faithful(
        &Script::new("DO by Parse")
            .extended("DO $$ BEGIN PERFORM 1; END $$", &[])
            .extended("DO $$ BEGIN EXECUTE 'PREPARE in_do AS SELECT 1'; END $$", &[])
            .query("EXECUTE in_do")
            .pipeline(&[parse("named", "DO $$ BEGIN PERFORM 2; END $$"), run("named"), run("named"), sync()])
            .ready()
            .pipeline(&[run("named"), sync()])
            .ready(),
    );
}
