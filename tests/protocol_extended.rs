//! The extended protocol, message by message as PostgreSQL answers it, while other clients take every server that comes
//! free.

#[path = "support/faithful.rs"]
mod faithful;
mod support;

use faithful::{faithful, faithful_in_large};
use support::differential::Script;
use support::frontend::{
    all, bind, close_portal, close_statement, copy_data, copy_done, copy_fail, describe_portal,
    describe_statement, execute, extended, flush, frame, function_call, parse, parse_typed, query, sync,
    terminate,
};
use support::transcript::Normalisation;

/// Executes all rows, as a negative limit does.
const NEGATIVE_LIMIT: u32 = u32::MAX;

/// Bind and Execute of a statement without parameters, without Sync.
fn run(statement: &str) -> Vec<u8> {
    all(&[bind("", statement, &[]), execute("", 0)])
}

/// Case 21: as asyncpg and postgres.js do it, the statement is described first, and then bound as its types demand.
#[test]
fn parse_describe_flush_and_then_bind_execute_sync() {
    let mut script = Script::new("described, then bound");
    for (name, number) in [("", 1), ("named", 2), ("", 3), ("", 4), ("again", 5)] {
        script = script
            .pipeline(&[parse(name, "SELECT $1::int + 1, $2::text"), describe_statement(name), flush()])
            .read(3)
            .pipeline(&[
                bind("", name, &[Some(&number.to_string()), Some("x")]),
                describe_portal(""),
                execute("", 0),
                sync(),
            ])
            .ready();
    }
    script = script
        .pipeline(&[describe_statement("named"), flush()])
        .read(2)
        .pipeline(&[bind("", "named", &[Some("9"), None]), execute("", 0), sync()])
        .ready()
        .pipeline(&[parse("", "SELECT 'unused'"), describe_statement(""), flush()])
        .read(3)
        .send(sync())
        .ready();
    faithful(&script);
}

/// Case 21: a portal that waits for its Sync keeps its server, whether the client has asked for replies or not.
#[test]
fn a_bound_portal_waits_for_its_sync() {
    faithful(
        &Script::new("portal without Sync")
            .pipeline(&[parse("", "SELECT g FROM generate_series(1, 4) AS g"), bind("p", "", &[]), flush()])
            .read(2)
            .pipeline(&[execute("p", 1), flush()])
            .read(2)
            .pipeline(&[execute("p", 2), flush()])
            .read(3)
            .pipeline(&[execute("p", 0), close_portal("p"), sync()])
            .ready()
            // Nothing is answered before the Sync.
            .send(parse("", "SELECT 'in pieces'"))
            .send(bind("", "", &[]))
            .send(execute("", 0))
            .send(sync())
            .ready()
            .pipeline(&[close_statement("nothing"), flush()])
            .read(1)
            .pipeline(&[extended("SELECT 'behind a Close'", &[])])
            .ready(),
    );
}

/// Case 22: what pgvalet prepares in the middle of a client's batch commits nothing of it.
#[test]
fn a_batch_is_one_transaction_whatever_has_to_be_prepared_in_its_middle() {
    let start = Script::new("nothing commits a batch")
        .setup("CREATE TABLE unsynced_batch (id int)")
        .before_each("TRUNCATE unsynced_batch")
        .teardown("DROP TABLE unsynced_batch")
        .errors(&["22012", "22012", "26000", "22012"])
        .pipeline(&[parse("ins", "INSERT INTO unsynced_batch VALUES ($1)"), sync()])
        .ready()
        .pipeline(&[
            parse("div", "SELECT 1 / ($1::int + (0 * random())::int)"),
            parse("sel", "SELECT count(*) FROM unsynced_batch"),
            sync(),
        ])
        .ready();
    let insert = |number: &str| all(&[bind("", "ins", &[Some(number)]), execute("", 0)]);
    let divide = |number: &str| all(&[bind("", "div", &[Some(number)]), execute("", 0)]);
    faithful(
        &start
            .pipeline(&[insert("1"), run("sel"), divide("0"), insert("2"), sync()])
            .ready()
            .pipeline(&[run("sel"), sync()])
            .ready()
            .pipeline(&[insert("3"), flush()])
            .read(2)
            .pipeline(&[describe_statement("sel"), flush()])
            .read(2)
            .pipeline(&[divide("0"), sync()])
            .ready()
            .pipeline(&[insert("4"), run("unknown"), sync()])
            .ready()
            .pipeline(&[insert("5"), parse("late", "SELECT 'late'"), run("late"), divide("0"), sync()])
            .ready()
            .pipeline(&[insert("6"), divide("1"), run("sel"), sync()])
            .ready()
            .query("SELECT id FROM unsynced_batch"),
    );
}

/// Case 23: all of it is skipped up to the Sync, whatever it is.
#[test]
fn after_an_error_everything_is_skipped_up_to_sync() {
    let rest = [
        parse("skipped", "SELECT 1"),
        parse("", "SELECT 'not this one'"),
        bind("p", "kept", &[]),
        describe_statement("kept"),
        describe_portal("p"),
        execute("p", 0),
        close_portal("p"),
        close_statement("kept"),
        flush(),
        query("SELECT 'skipped'"),
        query("DEALLOCATE ALL"),
        function_call(177, &[Some("1"), Some("2")]),
        copy_data(b"nothing\n"),
        copy_done(),
        copy_fail("no"),
    ];
    let mut script = Script::new("skipped to Sync")
        .errors(&["26000", "26000", "26000", "26000", "22012"])
        .pipeline(&[parse("kept", "SELECT 'kept'"), parse("", "SELECT 'unnamed'"), sync()])
        .ready()
        .send(bind("", "nobody", &[]))
        .pipeline(&rest)
        .send(sync())
        .ready()
        .pipeline(&[run("kept"), run(""), sync()])
        .ready()
        .pipeline(&[bind("", "nobody", &[]), flush()])
        .read(1);
    for message in &rest {
        script = script.send(message.clone());
    }
    faithful(
        &script
            .send(sync())
            .ready()
            .pipeline(&[run("kept"), run(""), sync()])
            .ready()
            .pipeline(&[bind("", "skipped", &[]), sync(), query("SELECT 'next'")])
            .ready()
            .ready()
            .query("BEGIN")
            .pipeline(&[bind("", "nobody", &[]), query("COMMIT"), sync()])
            .ready()
            .query("ROLLBACK")
            .pipeline(&[extended("SELECT 1 / 0", &[]), extended("SELECT 'after'", &[])])
            .ready()
            .ready(),
    );
}

/// Case 23: a Query that is skipped does not destroy the unnamed statement, though a Query that runs does.
#[test]
fn a_skipped_query_leaves_the_unnamed_statement() {
    faithful(
        &Script::new("skipped Query and the unnamed statement")
            .errors(&["26000", "26000"])
            .pipeline(&[parse("", "SELECT 'unnamed'"), sync()])
            .ready()
            .pipeline(&[bind("", "nobody", &[]), query("SELECT 'skipped'"), sync()])
            .ready()
            .pipeline(&[run(""), sync()])
            .ready()
            .query("SELECT 'runs'")
            .pipeline(&[run(""), sync()])
            .ready(),
    );
}

/// Case 23: Terminate and the end of the connection count, also where all else is skipped.
#[test]
fn terminate_acts_where_all_else_is_skipped() {
    faithful(
        &Script::new("Terminate behind an error")
            .setup("CREATE TABLE skipped_end (id int)")
            .before_each("TRUNCATE skipped_end")
            .teardown("DROP TABLE skipped_end")
            .errors(&["22012", "26000", "26000"])
            .client("in a batch")
            .pipeline(&[
                extended("INSERT INTO skipped_end VALUES (1)", &[]),
                parse("", "INSERT INTO skipped_end SELECT 1 / ($1::int + (0 * random())::int)"),
                bind("", "", &[Some("0")]),
                execute("", 0),
                query("INSERT INTO skipped_end VALUES (2)"),
                terminate(),
            ])
            .end()
            .client("behind a Flush")
            .pipeline(&[bind("", "nobody", &[]), flush()])
            .read(1)
            .pipeline(&[query("INSERT INTO skipped_end VALUES (3)"), terminate()])
            .end()
            .client("half closed")
            .pipeline(&[bind("", "nobody", &[]), query("INSERT INTO skipped_end VALUES (4)")])
            .half_close()
            .end()
            .client("watches")
            .query("SELECT id FROM skipped_end"),
    );
}

/// Case 25: replies of statements that the server knows already stand where PostgreSQL's would.
#[test]
fn replies_keep_their_order_when_another_client_has_prepared_the_same() {
    let rows = "SELECT g FROM generate_series(1, 200) AS g";
    faithful(
        &Script::new("order of replies")
            .errors(&["22012", "42P05"])
            .client("first")
            .pipeline(&[
                parse("x", rows),
                parse("y", "SELECT 1 / ($1::int + (0 * random())::int)"),
                run("x"),
                sync(),
            ])
            .ready()
            .client("second")
            .pipeline(&[
                parse("a", rows),
                run("a"),
                parse("b", "SELECT 1 / ($1::int + (0 * random())::int)"),
                close_statement("a"),
                parse("a", "SELECT 'new a'"),
                run("a"),
                describe_statement("b"),
                close_statement("b"),
                close_statement("b"),
                parse("b", rows),
                bind("p", "b", &[]),
                execute("p", 150),
                parse("c", rows),
                execute("p", 150),
                sync(),
            ])
            .ready()
            .pipeline(&[
                parse("d", "SELECT 1 / ($1::int + (0 * random())::int)"),
                bind("", "d", &[Some("0")]),
                execute("", 0),
                close_statement("c"),
                parse("e", rows),
                sync(),
                parse("e", rows),
                close_statement("c"),
                run("e"),
                sync(),
                parse("e", rows),
                parse("f", rows),
                sync(),
            ])
            .ready()
            .ready()
            .ready()
            .pipeline(&[run("a"), run("e"), sync()])
            .ready(),
    );
}

/// Case 27: portals and statements have names of their own.
#[test]
fn portals_and_statements_of_the_same_name() {
    faithful(
        &Script::new("same names")
            .errors(&["42P03", "34000", "34000", "42P05"])
            .pipeline(&[
                parse("n", "SELECT $1::int"),
                bind("n", "n", &[Some("1")]),
                close_portal("n"),
                sync(),
            ])
            .ready()
            .pipeline(&[bind("n", "n", &[Some("2")]), execute("n", 0), close_statement("none"), sync()])
            .ready()
            .pipeline(&[bind("n", "n", &[Some("3")]), bind("n", "n", &[Some("4")]), execute("n", 0), sync()])
            .ready()
            .pipeline(&[bind("", "n", &[Some("5")]), bind("", "n", &[Some("6")]), execute("", 0), sync()])
            .ready()
            .query("BEGIN")
            .pipeline(&[bind("n", "n", &[Some("7")]), close_statement("n"), execute("n", 0), sync()])
            .ready()
            .query("COMMIT")
            .pipeline(&[execute("unknown", 0), sync()])
            .ready()
            .pipeline(&[describe_portal("unknown"), sync()])
            .ready()
            .pipeline(&[parse("n", "SELECT 'first'"), parse("n", "SELECT 'second'"), sync()])
            .ready()
            .pipeline(&[run("n"), sync()])
            .ready(),
    );
}

/// Case 27: names are bytes, of which PostgreSQL looks at the first 63.
#[test]
fn names_of_any_form() {
    let long = "l".repeat(63);
    let [longer, other] = [format!("{long}1"), format!("{long}2")];
    let longest = "x".repeat(5_000);
    faithful(
        &Script::new("names")
            .errors(&["26000", "42P05", "26000", "26000"])
            .pipeline(&[parse("with \"quotes\" and blanks", "SELECT 'quoted'"), sync()])
            .ready()
            .pipeline(&[run("with \"quotes\" and blanks"), sync()])
            .ready()
            .pipeline(&[parse("n\u{e4}me", "SELECT 'not ASCII'"), run("n\u{e4}me"), run("N\u{c4}ME"), sync()])
            .ready()
            .pipeline(&[
                parse(&longest, "SELECT 'long'"),
                bind(&longest, &longest, &[]),
                execute(&longest, 0),
                sync(),
            ])
            .ready()
            .pipeline(&[close_portal(&longest), close_statement(&longest), sync()])
            .ready()
            .pipeline(&[parse(&longer, "SELECT 'longer'"), sync()])
            .ready()
            .pipeline(&[run(&other), run(&long), sync()])
            .ready()
            .pipeline(&[parse(&other, "SELECT 'taken'"), sync()])
            .ready()
            .pipeline(&[close_statement(&other), run(&longer), sync()])
            .ready()
            .pipeline(&[bind("", &longest, &[]), sync()])
            .ready(),
    );
}

/// Case 27: what a client says itself is not taken for one of pgvalet's own names.
#[test]
fn texts_that_look_like_names_of_pgvalet_stay_as_they_are() {
    let mut script = Script::new("names like pgvalet's")
        .pipeline(&[parse("mine", "SELECT 'mine'"), run("mine"), parse("pgvalet_1", "SELECT 'same'"), sync()])
        .ready();
    let mut errors = Vec::new();
    for number in 1..40 {
        script = script.query(&format!("SELECT 'pgvalet_{number:x}'::int"));
        errors.push("22P02");
    }
    faithful(
        &script
            .pipeline(&[run("pgvalet_1"), run("pgvalet_2"), sync()])
            .ready()
            .pipeline(&[run("pgvalet_unknown"), sync()])
            .ready()
            .query("SELECT 'pgvalet_unknown'::int")
            .errors(&errors)
            .errors(&["26000", "26000", "22P02"]),
    );
}

/// Case 31: row limits, several portals at a time, and what ends a portal.
#[test]
fn portals_interleave_and_end() {
    let series = "SELECT g FROM generate_series(1, 3) AS g";
    faithful(
        &Script::new("portals")
            .setup("CREATE TABLE portal_rows (id int)")
            .before_each("TRUNCATE portal_rows")
            .teardown("DROP TABLE portal_rows")
            .errors(&["34000", "34000"])
            .query("BEGIN")
            .pipeline(&[
                parse("s", series),
                bind("exact", "s", &[]),
                bind("negative", "s", &[]),
                execute("exact", 3),
                execute("exact", 3),
                execute("negative", NEGATIVE_LIMIT),
                sync(),
            ])
            .ready()
            .pipeline(&[
                parse("ins", "INSERT INTO portal_rows SELECT g FROM generate_series(1, 3) AS g RETURNING id"),
                bind("w", "ins", &[]),
                execute("w", 1),
                bind("r", "s", &[]),
                execute("r", 1),
                execute("w", 1),
                execute("r", 1),
                execute("w", 0),
                sync(),
            ])
            .ready()
            .query("SAVEPOINT a")
            .pipeline(&[bind("inner", "s", &[]), execute("inner", 1), sync()])
            .ready()
            .query("ROLLBACK TO a")
            .pipeline(&[execute("inner", 1), sync()])
            .ready()
            .query("ROLLBACK")
            .query("BEGIN")
            .pipeline(&[
                parse("", "SHOW search_path"),
                bind("show", "", &[]),
                execute("show", 0),
                execute("show", 0),
                sync(),
            ])
            .ready()
            .query("ROLLBACK")
            .pipeline(&[bind("p", "s", &[]), execute("p", 1), execute("p", 1), sync()])
            .ready()
            .pipeline(&[execute("p", 1), sync()])
            .ready(),
    );
}

/// Case 34: as many parameters as there can be.
#[test]
fn as_many_parameters_as_there_can_be() {
    let count = 65_535;
    let types = vec![25; count];
    let values: Vec<String> = (1..=count).map(|number| number.to_string()).collect();
    let values: Vec<Option<&str>> = values.iter().map(|value| Some(value.as_str())).collect();
    let sql = "SELECT $1 || '-' || $32768 || '-' || $65535";
    faithful_in_large(
        &Script::new("parameters")
            .errors(&["08P01"])
            .pipeline(&[parse_typed("many", sql, &types), describe_statement("many"), sync()])
            .ready()
            .pipeline(&[bind("", "many", &values), execute("", 0), sync()])
            .ready()
            .pipeline(&[
                bind("", "many", &values),
                execute("", 0),
                bind("", "many", &values),
                execute("", 0),
                sync(),
            ])
            .ready()
            .pipeline(&[bind("", "many", &values[1..]), execute("", 0), sync()])
            .ready()
            .pipeline(&[parse_typed("", sql, &types), bind("", "", &values), execute("", 0), sync()])
            .ready(),
    );
}

/// Cases 1 and 42: messages that are wrong are answered by PostgreSQL itself.
#[test]
fn malformed_messages_are_answered_as_postgresql_does() {
    let start = Script::new("malformed messages")
        .errors(&["08P01", "08P01", "26000", "08P01", "08P01", "08P01", "08P01", "08P01"]);
    let messages = [
        frame(b'P', b"no end"),
        frame(b'P', b"name\0SELECT 1\0\0\x05"),
        frame(b'B', b"\0\0\0\x01"),
        frame(b'B', b"portal"),
        frame(b'D', b"X\0"),
        frame(b'C', b"Q\0"),
        frame(b'E', b"\0\0"),
        frame(b'S', b"too much"),
    ];
    let script = messages.into_iter().fold(start, |script, message| {
        script.pipeline(&[message, sync()]).ready().query("SELECT 'still here'")
    });
    faithful(&script);
}

/// Case 1: a type of message that there is not ends the session, behind the replies to what came before it.
#[test]
fn messages_of_types_to_come_end_the_session() {
    let before: [&[Vec<u8>]; 4] = [
        &[],
        &[query("SELECT 'first'")],
        &[parse("", "SELECT 'not synced'"), bind("", "", &[]), execute("", 0)],
        &[bind("", "nobody", &[]), query("SELECT 'skipped'")],
    ];
    for sent in before {
        let mut script = Script::new("messages of types to come").ignore(Normalisation::ErrorSource);
        for (client, tag) in [("?", b'?'), ("password", b'p'), ("z", b'z')] {
            script = script
                .errors(if sent.len() == 2 { &["26000", "08P01"] } else { &["08P01"] })
                .client(client)
                .pipeline(&[sent.concat(), frame(tag, b"what"), query("SELECT 'too late'")])
                .end();
        }
        faithful(&script);
    }
}

/// Case 23: what stands behind an error is skipped up to the client's own Sync, whatever pgvalet has to ask meanwhile.
#[test]
fn nothing_of_pgvalets_own_ends_the_skipping() {
    faithful(
        &Script::new("skipped INSERT")
            .setup("CREATE TABLE skipped (id int)")
            .before_each("TRUNCATE skipped; GRANT ALL ON skipped TO PUBLIC")
            .teardown("DROP TABLE skipped")
            .errors(&["34000"])
            .pipeline(&[
                execute("", 0),
                query("SELECT 'unfinished"),
                close_statement("a"),
                parse("", "INSERT INTO skipped VALUES (1)"),
                bind("", "", &[]),
                execute("", 0),
                sync(),
            ])
            .ready()
            .query("SELECT count(*) FROM skipped"),
    );
}

/// Case 32: nothing is asked in a transaction that has failed.
#[test]
fn a_prepared_commit_ends_a_failed_transaction_that_has_run_code() {
    let code = "DO $$ BEGIN PERFORM set_config('DateStyle', 'ISO, MDY', false); END $$";
    faithful(
        &Script::new("COMMIT after DO")
            .errors(&["08P01"])
            .query("BEGIN")
            .pipeline(&[parse("s1", code), bind("", "s1", &[Some("4")]), sync()])
            .ready()
            .pipeline(&[parse("s2", "COMMIT"), bind("p2", "s2", &[]), execute("p2", 3), sync()])
            .ready(),
    );
}

/// Case 26: the unnamed statement of a skipped Parse is nobody else's.
#[test]
fn a_skipped_parse_does_not_lead_to_another_clients_statement() {
    faithful(
        &Script::new("unnamed statements of two")
            .errors(&["34000", "26000"])
            .client("one")
            .pipeline(&[parse("", "SELECT 42 AS secret"), sync()])
            .ready()
            .client("other")
            .pipeline(&[
                execute("nope", 0),
                parse("", "SELECT 1"),
                sync(),
                bind("", "", &[]),
                execute("", 0),
                sync(),
            ])
            .ready()
            .ready(),
    );
}

/// Case 20: a statement may be long and keep its name.
#[test]
fn a_long_statement_follows_its_client_by_name() {
    let long = format!("SELECT length('{}') + $1::int", "x".repeat(5 << 20));
    faithful_in_large(
        &Script::new("long statement")
            .pipeline(&[parse("long", &long), sync()])
            .ready()
            .pipeline(&[bind("", "long", &[Some("1")]), execute("", 0), sync()])
            .ready()
            .query("SELECT 1")
            .pipeline(&[bind("", "long", &[Some("2")]), execute("", 0), sync()])
            .ready(),
    );
}
