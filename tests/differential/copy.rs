//! COPY in both directions, through both protocols.

use super::check;
use super::support::differential::Script;
use super::support::frontend::{
    all, bind, copy_data, copy_done, copy_fail, execute, flush, parse, query, sync,
};

#[test]
fn copy_out() {
    check(
        &Script::new("copy out")
            .errors(&["22012"])
            .query("COPY (SELECT g, 'row ' || g FROM generate_series(1, 20) AS g) TO STDOUT")
            .query("COPY (SELECT 1, NULL, 'a,b') TO STDOUT (FORMAT csv, HEADER)")
            .query("COPY (SELECT 1::int4, 'x'::text) TO STDOUT (FORMAT binary)")
            .query("COPY (SELECT 1 WHERE false) TO STDOUT")
            .query("COPY (SELECT 1 / (3 - g) FROM generate_series(1, 5) AS g) TO STDOUT")
            .query("SELECT 'before'; COPY (SELECT 1) TO STDOUT; SELECT 'after'")
            .extended("COPY (SELECT 1) TO STDOUT", &[]),
    );
}

#[test]
fn copy_in() {
    check(
        &Script::new("copy in")
            .errors(&["57014"])
            .setup("CREATE TABLE copy_in (id int, word text)")
            .before_each("TRUNCATE copy_in")
            .teardown("DROP TABLE copy_in")
            .send(query("COPY copy_in FROM STDIN"))
            .read(1)
            .send(copy_data(b"1\tone\n2\ttwo\n"))
            .send(copy_data(b"3\tthr"))
            .send(all(&[copy_data(b"ee\n"), copy_done()]))
            .ready()
            .pipeline(&[query("COPY copy_in FROM STDIN (FORMAT csv)"), copy_data(b"4,four\n"), copy_done()])
            .ready()
            .pipeline(&[query("COPY copy_in FROM STDIN"), copy_done()])
            .ready()
            .send(query("COPY copy_in FROM STDIN"))
            .read(1)
            .send(all(&[copy_data(b"5\tfive\n"), copy_fail("changed my mind")]))
            .ready()
            .query("BEGIN")
            .pipeline(&[query("COPY copy_in FROM STDIN"), copy_data(b"6\tsix\n"), copy_done()])
            .ready()
            .query("ROLLBACK")
            .query("SELECT * FROM copy_in ORDER BY id"),
    );
}

#[test]
fn what_comes_after_a_failed_copy_is_swallowed() {
    check(
        &Script::new("failed copy")
            .errors(&["22P02", "42P01"])
            .setup("CREATE TABLE copy_failed (id int)")
            .before_each("TRUNCATE copy_failed")
            .teardown("DROP TABLE copy_failed")
            .send(query("COPY copy_failed FROM STDIN"))
            .read(1)
            .send(copy_data(b"1\nnot a number\n"))
            .ready()
            // The server has left the copy; the client did not know when it sent these.
            .send(all(&[copy_data(b"2\n"), copy_data(b"3\n"), copy_done()]))
            .query("SELECT count(*) FROM copy_failed")
            .pipeline(&[
                query("COPY no_such_table FROM STDIN"),
                copy_data(b"1\n"),
                copy_done(),
                query("SELECT 'next'"),
            ])
            .ready()
            .ready()
            .send(copy_fail("nothing to fail"))
            .query("SELECT 'still here'"),
    );
}

#[test]
fn copy_in_among_other_statements() {
    check(
        &Script::new("copy in among statements")
            .setup("CREATE TABLE copy_multi (id int)")
            .before_each("TRUNCATE copy_multi")
            .teardown("DROP TABLE copy_multi")
            .send(query("SELECT 1; COPY copy_multi FROM STDIN; SELECT count(*) FROM copy_multi"))
            .read(4)
            .send(all(&[copy_data(b"1\n2\n"), copy_done()]))
            .ready()
            .send(query("COPY copy_multi FROM STDIN; COPY copy_multi FROM STDIN"))
            .read(1)
            .send(all(&[copy_data(b"3\n"), copy_done()]))
            .read(2)
            .send(all(&[copy_data(b"4\n"), copy_done()]))
            .ready()
            .query("SELECT count(*) FROM copy_multi"),
    );
}

#[test]
fn copy_in_through_the_extended_protocol() {
    let start = || all(&[parse("", "COPY copy_extended FROM STDIN"), bind("", "", &[]), execute("", 0)]);
    check(
        &Script::new("extended copy")
            .errors(&["22P02", "57014"])
            .setup("CREATE TABLE copy_extended (id int)")
            .before_each("TRUNCATE copy_extended")
            .teardown("DROP TABLE copy_extended")
            .pipeline(&[start(), sync()])
            .read(3)
            // The Sync above came during the copy and is ignored, like the Flush here.
            .pipeline(&[copy_data(b"1\n"), flush(), copy_data(b"2\n"), copy_done(), sync()])
            .ready()
            .pipeline(&[start(), copy_data(b"3\n"), copy_done(), sync()])
            .ready()
            .pipeline(&[start(), copy_data(b"x\n"), copy_done(), sync()])
            .ready()
            .pipeline(&[start(), copy_fail("no"), sync()])
            .ready()
            .query("SELECT count(*) FROM copy_extended"),
    );
}
