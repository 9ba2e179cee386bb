//! COPY through both protocols, with every message that may come too early, too late or not at all.

#[path = "support/faithful.rs"]
mod faithful;
mod support;

use faithful::{faithful, faithful_in_large};
use support::backend::{rows, tags};
use support::cluster::{Cluster, Role};
use support::differential::Script;
use support::eventually;
use support::frontend::{
    all, bind, copy_data, copy_done, copy_fail, describe_portal, describe_statement, execute, extended,
    flush, frame, function_call, parse, query, sync, terminate,
};
use support::pgvalet::Pgvalet;

/// A script about the table `name (id int)`, empty at its start.
fn about(name: &str) -> Script {
    Script::new(name)
        .setup(&format!("CREATE TABLE {name} (id int)"))
        .before_each(&format!("TRUNCATE {name}"))
        .teardown(&format!("DROP TABLE {name}"))
}

/// The messages that begin a COPY through the extended protocol.
fn start(sql: &str) -> Vec<u8> {
    all(&[parse("", sql), bind("", "", &[]), execute("", 0)])
}

/// Case 38: what PostgreSQL ignores while it takes data.
#[test]
fn sync_and_flush_during_copy_in_are_ignored() {
    faithful(
        &about("copy_ignored")
            .send(query("COPY copy_ignored FROM STDIN"))
            .read(1)
            .pipeline(&[copy_data(b"1\n"), sync(), flush(), sync(), copy_data(b"2\n")])
            .pipeline(&[flush(), copy_done()])
            .ready()
            .pipeline(&[start("COPY copy_ignored FROM STDIN"), flush()])
            .read(3)
            .pipeline(&[sync(), copy_data(b"3\n"), sync(), flush()])
            .pipeline(&[copy_done(), flush()])
            .read(1)
            .send(sync())
            .ready()
            .pipeline(&[
                start("COPY copy_ignored FROM STDIN"),
                sync(),
                sync(),
                copy_data(b"4\n"),
                copy_done(),
                sync(),
            ])
            .ready()
            .query("SELECT id FROM copy_ignored ORDER BY id"),
    );
}

/// Case 38: any other message ends the COPY, and the server with it.
#[test]
fn other_messages_during_copy_in_end_it() {
    let interruptions = [
        ("Parse", parse("", "SELECT 1")),
        ("Execute", execute("", 0)),
        ("Describe", describe_portal("")),
        ("FunctionCall", function_call(177, &[Some("1"), Some("2")])),
        ("Query", query("SELECT 1")),
        ("a batch", extended("SELECT 1", &[])),
        ("a statement", all(&[parse("a", "SELECT 1"), sync()])),
    ];
    let mut script = about("copy_interrupted").errors(&["08P01"; 14]);
    for (client, message) in interruptions {
        script = script
            .client(client)
            .send(query("COPY copy_interrupted FROM STDIN"))
            .read(1)
            .pipeline(&[copy_data(b"1\n"), message])
            .read(2)
            .leave();
    }
    faithful(&script.client("watches").query("SELECT count(*) FROM copy_interrupted"));
}

/// Case 38: data, ends and failures without a COPY are swallowed.
#[test]
fn copy_messages_without_a_copy_are_swallowed() {
    faithful(
        &about("copy_without")
            .errors(&["22P02", "26000"])
            .pipeline(&[copy_data(b"1\n"), copy_done(), copy_fail("nothing"), query("SELECT 'first'")])
            .ready()
            .query("BEGIN")
            .pipeline(&[copy_done(), copy_data(b"2\n"), query("SELECT 'second'"), copy_fail("")])
            .ready()
            .query("COMMIT")
            .send(query("COPY copy_without FROM STDIN"))
            .read(1)
            .send(copy_data(b"no number\n"))
            .ready()
            .pipeline(&[copy_data(b"3\n"), copy_data(b"4\n"), copy_fail("late"), copy_done()])
            .pipeline(&[copy_data(b"5\n"), extended("SELECT 'third'", &[]), copy_done()])
            .ready()
            .pipeline(&[bind("", "nobody", &[]), copy_data(b"6\n"), copy_done(), sync(), copy_done()])
            .ready()
            .query("SELECT id FROM copy_without"),
    );
}

/// Case 38: a failed COPY that was pipelined with what follows, in both protocols.
#[test]
fn a_pipelined_copy_that_fails_does_not_disturb_what_follows() {
    faithful(
        &about("copy_pipelined")
            .errors(&["22P02", "22P02", "57014", "42P01"])
            .pipeline(&[
                query("COPY copy_pipelined FROM STDIN"),
                copy_data(b"1\nx\n"),
                copy_data(b"2\n"),
                copy_done(),
                query("SELECT 'after a query'"),
            ])
            .ready()
            .ready()
            .pipeline(&[
                start("COPY copy_pipelined FROM STDIN"),
                copy_data(b"x\n"),
                copy_done(),
                query("SELECT 'skipped'"),
                sync(),
                query("SELECT 'after a batch'"),
            ])
            .ready()
            .ready()
            .pipeline(&[
                start("COPY copy_pipelined FROM STDIN"),
                copy_data(b"3\n"),
                copy_fail("no more"),
                start("SELECT 'skipped'"),
                sync(),
                start("COPY copy_pipelined FROM STDIN"),
                copy_data(b"4\n"),
                copy_done(),
                start("SELECT 'in the same batch'"),
                sync(),
            ])
            .ready()
            .ready()
            .pipeline(&[
                query("COPY no_such_table FROM STDIN"),
                copy_data(b"5\n"),
                copy_done(),
                query("COPY copy_pipelined FROM STDIN"),
                copy_data(b"6\n"),
                copy_done(),
            ])
            .ready()
            .ready()
            .query("SELECT id FROM copy_pipelined ORDER BY id"),
    );
}

/// Case 38: data that fail with a Sync in front of them or behind them, whatever comes next: the server is told all of it
/// before it has come to what fails, or the client sees that it reads first, or everything goes at once.
#[test]
fn a_copy_that_fails_around_a_sync_does_not_disturb_what_follows() {
    let simple = || query("COPY copy_around FROM STDIN");
    let begun = || start("COPY copy_around FROM STDIN");
    let (good, bad, batch) = (copy_data(b"1\n"), copy_data(b"2\n"), start("SELECT 'in a batch'"));
    let asked = query("SELECT 'asked'");
    // What begins it, what follows, how many ReadyForQuery that makes.
    type Case = (Vec<u8>, Vec<Vec<u8>>, usize);
    let cases: &[Case] = &[
        (simple(), vec![bad.clone(), good.clone(), sync(), asked.clone()], 3),
        (simple(), vec![bad.clone(), sync(), batch.clone(), sync()], 3),
        (simple(), vec![good.clone(), sync(), bad.clone(), sync(), copy_done(), asked.clone()], 3),
        (simple(), vec![bad.clone(), sync(), good.clone(), copy_done(), asked.clone()], 3),
        (simple(), vec![bad.clone(), sync(), sync(), good.clone(), sync(), copy_done()], 4),
        (
            simple(),
            vec![good.clone(), sync(), bad.clone(), good.clone(), batch.clone(), sync(), asked.clone()],
            3,
        ),
        (simple(), vec![bad.clone(), sync(), good.clone(), sync(), batch.clone(), sync(), asked.clone()], 5),
        (begun(), vec![bad.clone(), good.clone(), sync(), asked.clone()], 2),
        (begun(), vec![bad.clone(), batch.clone(), sync(), asked.clone()], 2),
        (begun(), vec![good.clone(), sync(), bad.clone(), copy_done(), sync()], 1),
        (
            begun(),
            vec![bad.clone(), sync(), good.clone(), copy_done(), batch.clone(), sync(), asked.clone()],
            3,
        ),
        (
            begun(),
            vec![good.clone(), sync(), bad.clone(), copy_done(), batch.clone(), sync(), asked.clone()],
            2,
        ),
        (begun(), vec![sync(), bad.clone(), sync(), good.clone(), sync(), asked.clone()], 3),
        (begun(), vec![good.clone(), sync(), bad.clone(), batch.clone(), sync(), asked.clone()], 2),
        (begun(), vec![bad.clone(), sync(), good.clone(), batch.clone(), sync(), asked.clone()], 3),
    ];
    for (gated, together) in [(true, false), (false, false), (false, true)] {
        let mut script = Script::new("copy_around")
            .setup(
                "CREATE TABLE copy_around (id int);
                CREATE FUNCTION copy_around() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN
                    PERFORM pg_advisory_xact_lock_shared(3817);
                    IF NEW.id = 2 THEN RAISE invalid_text_representation; END IF;
                    RETURN NEW;
                END$$;
                CREATE TRIGGER gate BEFORE INSERT ON copy_around FOR EACH ROW EXECUTE FUNCTION copy_around()",
            )
            .teardown("DROP TABLE copy_around; DROP FUNCTION copy_around")
            .errors(&["22P02"].repeat(cases.len()));
        for (head, sent, readies) in cases {
            if gated {
                script = script.client("holds the gate").query("BEGIN; SELECT pg_advisory_xact_lock(3817)");
            }
            script = script.client("copies");
            script = match together {
                true => script.send([head.clone(), sent.concat()].concat()),
                false => script.pipeline(&[head.clone(), flush()]).read(if head[0] == b'Q' { 1 } else { 3 }),
            };
            if !together {
                script = script.pipeline(sent);
            }
            if gated {
                script = script.client("holds the gate").query("COMMIT").client("copies");
            }
            for _ in 0..*readies {
                script = script.ready();
            }
            script = script.query("SELECT count(*) FROM copy_around");
        }
        faithful(&script);
    }
}

/// Case 38: a COPY that is prepared once, and run on any server.
#[test]
fn a_copy_as_a_named_statement() {
    let mut script = about("copy_named")
        .pipeline(&[
            parse("in", "COPY copy_named FROM STDIN"),
            parse("out", "COPY (SELECT id FROM copy_named ORDER BY id) TO STDOUT"),
            describe_statement("in"),
            describe_statement("out"),
            sync(),
        ])
        .ready();
    for number in 1..4 {
        script = script
            .pipeline(&[bind("", "in", &[]), execute("", 0), flush()])
            .read(2)
            .pipeline(&[copy_data(format!("{number}\n").as_bytes()), copy_done(), sync()])
            .ready()
            .pipeline(&[bind("", "out", &[]), execute("", 0), bind("", "out", &[]), execute("", 0), sync()])
            .ready();
    }
    faithful(&script);
}

/// Case 38: rows cut anywhere, data of every size, empty messages, and the old mark of the end.
#[test]
fn data_is_cut_wherever_the_client_likes() {
    let text: String = (0..20_000).map(|number| format!("{number}\n")).collect();
    let mut script = about("copy_cut").send(query("COPY copy_cut FROM STDIN")).read(1);
    for piece in text.as_bytes().chunks(7_777) {
        script = script.pipeline(&[copy_data(piece), copy_data(b"")]);
    }
    script = script
        .send(copy_done())
        .ready()
        .pipeline(&[query("COPY copy_cut FROM STDIN"), copy_data(text.as_bytes()), copy_done()])
        .ready()
        .pipeline(&[query("COPY copy_cut FROM STDIN"), copy_data(b"1\n\\.\n"), copy_done()])
        .ready()
        .query("SELECT count(*), sum(id) FROM copy_cut")
        .query("COPY (SELECT id, repeat('x', id % 50) FROM copy_cut ORDER BY id) TO STDOUT");
    faithful_in_large(&script);
}

/// Cases 38 and 44: a client that ends in the middle of its data, politely or not, has copied nothing.
#[test]
fn a_client_that_ends_in_its_copy_has_copied_nothing() {
    let mut script = about("copy_ended");
    for (client, rest) in [
        ("between messages", Vec::new()),
        ("with Terminate", terminate()),
        ("in a message", frame(b'd', b"2\n3\n")[..6].to_vec()),
        ("in a header", frame(b'd', b"2\n3\n")[..3].to_vec()),
    ] {
        script = script
            .client(client)
            .send(query("COPY copy_ended FROM STDIN"))
            .read(1)
            .send(copy_data(b"1\n"))
            .send(rest)
            .leave();
    }
    faithful(&script.client("watches").query("LOCK copy_ended; SELECT 1"));
    let cluster = Cluster::shared();
    cluster.sql("CREATE TABLE copy_left (id int)");
    let valet = Pgvalet::in_front_of(cluster).setting("default_pool_size = 1").start();
    for end in [copy_data(b"2\n")[..5].to_vec(), copy_data(b"2\n"), terminate()] {
        let mut client = valet.client(Role::Trust);
        client.send(&all(&[query("COPY copy_left FROM STDIN"), copy_data(b"1\n"), end]));
        client.until(b'G');
        drop(client);
        // The only server of the pool is free again, or another one in its place.
        let mut next = valet.client(Role::Trust);
        assert_eq!(next.value("SELECT count(*) FROM copy_left"), "0");
    }
    eventually("all of them to have ended", || {
        let sql =
            "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'COPY copy_left%' AND state = 'active'";
        (cluster.value(sql) == "0").then_some(())
    });
    assert_eq!(cluster.value("SELECT count(*) FROM copy_left"), "0");
}

/// Cases 38 and 46: COPY in both directions at once, in two clients that fill each other's servers.
#[test]
fn copies_in_and_out_go_on_side_by_side() {
    const ROWS: usize = 200_000;
    let cluster = Cluster::shared();
    cluster.sql("CREATE TABLE copy_streams (id int, word text)");
    let valet = Pgvalet::in_front_of(cluster).setting("default_pool_size = 2").start();
    let text: String = (0..ROWS).map(|number| format!("{number}\tword {number}\n")).collect();
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let mut client = valet.client(Role::Trust);
                client.send(&query("COPY copy_streams FROM STDIN"));
                client.until(b'G');
                for piece in text.as_bytes().chunks(50_000) {
                    client.send(&copy_data(piece));
                }
                client.send(&copy_done());
                assert_eq!(tags(&client.until_ready()), "CZ");
            });
        }
    });
    let out = |sql: &str| {
        let mut client = valet.client(Role::Trust);
        client.send(&query(sql));
        let messages = client.until_ready();
        messages
            .iter()
            .filter(|message| message.tag == b'd')
            .map(|message| message.body.clone())
            .collect::<Vec<_>>()
    };
    std::thread::scope(|scope| {
        let all = scope.spawn(|| out("COPY (SELECT * FROM copy_streams ORDER BY id) TO STDOUT"));
        let once = scope.spawn(|| out("COPY (SELECT DISTINCT * FROM copy_streams ORDER BY id) TO STDOUT"));
        assert_eq!(all.join().expect("it has read all").len(), 2 * ROWS);
        assert!(once.join().expect("it has read all").concat() == text.as_bytes());
    });
    let mut client = valet.client(Role::Trust);
    assert_eq!(rows(&client.query("SELECT count(*) FROM copy_streams")), [[Some((2 * ROWS).to_string())]]);
}
