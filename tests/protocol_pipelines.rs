//! Pipelines: long, mixed, with errors in them, and with both directions full at once.
//!
//! (Divisions have something random in them, since PostgreSQL computes what is constant already at Bind, unless it has
//! taken a generic plan by then; that is different from server to server.)

#[path = "support/faithful.rs"]
mod faithful;
mod support;

use faithful::{faithful, faithful_in_large};
use std::time::Duration;
use support::backend::{Message, rows, tags};
use support::cluster::{Cluster, Role};
use support::differential::Script;
use support::frontend::{
    all, bind, close_portal, close_statement, copy_data, copy_done, describe_portal, describe_statement,
    execute, extended, flush, function_call, parse, query, sync,
};
use support::pgvalet::Pgvalet;
use support::wire::Client;

/// Bind and Execute of a statement with one parameter, without Sync.
fn run(statement: &str, parameter: &str) -> Vec<u8> {
    all(&[bind("", statement, &[Some(parameter)]), execute("", 0)])
}

/// A pgvalet with two servers.
fn two_servers() -> Pgvalet {
    Pgvalet::in_front_of(Cluster::shared())
        .setting("auth_type = \"trust\"")
        .setting("default_pool_size = 2")
        .start()
}

/// Sends in a thread of its own while this one reads `readies` replies up to ReadyForQuery.
#[track_caller]
fn at_once(client: &mut Client, bytes: Vec<u8>, readies: usize) -> Vec<Message> {
    let mut writer = client.writer();
    let sender = std::thread::spawn(move || writer.send(&bytes));
    let messages = (0..readies).flat_map(|_| client.until_ready()).collect();
    sender.join().expect("the thread ends").expect("all was sent");
    messages
}

/// Case 21: libpq's pipeline mode, a Sync behind each statement, and some without.
#[test]
fn a_thousand_messages_between_syncs_and_flushes() {
    let mut script = Script::new("a thousand messages")
        .errors(&["22012", "22012", "22012"])
        .pipeline(&[parse("div", "SELECT 100 / ($1::int + (0 * random())::int)"), sync()])
        .ready();
    for round in 1..4 {
        let mut batch = Vec::new();
        for number in 1..=300 {
            batch.push(run("div", &number.to_string()));
            if number % 7 == 0 {
                batch.push(sync());
            }
            if number % 11 == 0 {
                batch.push(flush());
            }
            if number == 100 * round {
                batch.push(run("div", "0"));
            }
        }
        batch.push(sync());
        script = script.pipeline(&batch);
        for _ in 0..43 {
            script = script.ready();
        }
    }
    faithful_in_large(&script);
}

/// Cases 21, 25 and 33: everything that there is, in one write.
#[test]
fn every_kind_of_message_in_one_pipeline() {
    let mut script = Script::new("every kind of message")
        .setup("CREATE TABLE every_kind (id int)")
        .before_each("TRUNCATE every_kind")
        .teardown("DROP TABLE every_kind")
        .errors(&["22012", "22012", "22012"]);
    for round in 0..3 {
        let [first, second] = [format!("first{round}"), format!("second{round}")];
        script = script
            .pipeline(&[
                query("BEGIN; SELECT 1"),
                parse(&first, "INSERT INTO every_kind VALUES ($1) RETURNING id"),
                describe_statement(&first),
                run(&first, "1"),
                sync(),
                function_call(177, &[Some("1"), Some("2")]),
                query("COPY every_kind FROM STDIN"),
                copy_data(b"2\n3\n"),
                copy_done(),
                bind("p", &first, &[Some("4")]),
                describe_portal("p"),
                execute("p", 1),
                close_portal("p"),
                flush(),
                query("COPY (SELECT id FROM every_kind) TO STDOUT"),
                sync(),
                extended("COMMIT", &[]),
                query(""),
                query("SELECT 1 / 0"),
                parse(&second, "SELECT count(*) FROM every_kind WHERE id = $1"),
                run(&second, "4"),
                close_statement(&first),
                close_statement("nothing"),
                run(&second, "2"),
                sync(),
                sync(),
                query("SELECT 2; SELECT 3"),
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
            .ready()
            .ready();
    }
    faithful(&script.query("SELECT id FROM every_kind ORDER BY id"));
}

/// Case 23: each batch fails at another place, and nothing of it stays.
#[test]
fn batches_that_fail_at_every_place() {
    const MESSAGES: usize = 6;
    let mut script = Script::new("failing batches")
        .setup("CREATE TABLE failing (id int)")
        .before_each("TRUNCATE failing")
        .teardown("DROP TABLE failing")
        .pipeline(&[
            parse("ins", "INSERT INTO failing VALUES ($1)"),
            parse("div", "INSERT INTO failing VALUES (1 / ($1::int + (0 * random())::int))"),
            sync(),
        ])
        .ready();
    let mut errors = Vec::new();
    let mut batches = Vec::new();
    for place in 0..=MESSAGES {
        for number in 0..MESSAGES {
            batches.push(if number == place {
                errors.push("22012");
                run("div", "0")
            } else {
                run("ins", &(10 * place + number).to_string())
            });
        }
        batches.push(sync());
    }
    script = script.pipeline(&batches);
    for _ in 0..=MESSAGES {
        script = script.ready();
    }
    faithful(&script.errors(&errors).query("SELECT id FROM failing ORDER BY id"));
}

/// Case 45: a pipeline that comes in pieces, each of which may be a part of a message.
#[test]
fn a_pipeline_in_pieces_with_servers_that_change() {
    let batch = all(&[
        parse("s", "SELECT $1::text"),
        run("s", "one"),
        sync(),
        query("SELECT 'two'"),
        run("s", "three"),
        flush(),
        close_statement("s"),
        sync(),
        extended("SELECT $1", &[Some("four")]),
    ]);
    for size in [2, 3, 5, 13, 29] {
        let mut script = Script::new("a pipeline in pieces");
        for piece in batch.chunks(size) {
            script = script.send(piece);
        }
        faithful(&script.ready().ready().ready().ready());
    }
}

/// Case 46: a client that sends far more than anything holds before it reads, as libpq's pipeline mode allows.
#[test]
fn both_directions_full_at_once() {
    const QUERIES: usize = 300;
    let valet = two_servers();
    let mut client = valet.client(Role::Trust);
    client.shrink_buffers(200_000);
    let word = "x".repeat(60_000);
    // What is sent is answered with as much, so that both sides of both connections are full.
    let simple: Vec<_> = (0..QUERIES).map(|_| query(&format!("SELECT '{word}'"))).collect();
    let messages = at_once(&mut client, simple.concat(), QUERIES);
    assert!(rows(&messages).iter().all(|row| row[0].as_deref() == Some(&word)));
    assert_eq!(tags(&messages), "TDCZ".repeat(QUERIES));

    let extended: Vec<_> = (0..QUERIES).map(|_| run("echo", &word)).collect();
    let batch = [parse("echo", "SELECT $1::text"), extended.concat(), sync()].concat();
    let messages = at_once(&mut client, batch, 1);
    assert!(rows(&messages).iter().all(|row| row[0].as_deref() == Some(&word)));
    assert_eq!(tags(&messages), format!("1{}Z", "2DC".repeat(QUERIES)));
    assert_eq!(client.value("SELECT 'and on'"), "and on");
}

/// Case 46: whoever does not read is no burden for others, and gets everything when it does.
#[test]
fn a_client_that_does_not_read_for_long_is_given_all_of_it_in_the_end() {
    const ROWS: usize = 300_000;
    let valet = two_servers();
    let (mut slow, mut other) = (valet.client(Role::Trust), valet.client(Role::Trust));
    slow.send(&query(&format!("SELECT g, repeat('y', 100) FROM generate_series(1, {ROWS}) AS g")));
    for number in 0..50 {
        assert_eq!(other.value(&format!("SELECT {number}")), number.to_string());
    }
    let messages = slow.until_ready();
    assert_eq!(messages.len(), ROWS + 3);
}

/// Case 46: a client that never reads while it sends is held up, and takes no memory.
#[test]
fn a_client_that_only_sends_is_held_up() {
    let valet = two_servers();
    let mut client = valet.client(Role::Trust);
    let mut other = valet.client(Role::Trust);
    client.shrink_buffers(200_000);
    client.set_deadline(Duration::from_secs(1));
    assert_eq!(other.value("SELECT 1"), "1");
    let before = valet.rss_kib();
    let batch = query("SELECT repeat('z', 1000)").repeat(1_000);
    let taken = (0..10_000).take_while(|_| client.try_send(&batch).is_ok()).count();
    assert!(taken < 10_000, "nobody held it up");
    let grown = valet.rss_kib().saturating_sub(before);
    assert!(grown < 8_192, "{grown} KiB for a client that does not read, {taken} batches");
    assert_eq!(other.value("SELECT 'others go on'"), "others go on");
}

/// Case 24: a batch that no server could be had for is answered up to its Sync, and the pipeline goes on.
#[test]
fn a_batch_that_waited_too_long_fails_alone() {
    let valet = Pgvalet::in_front_of(Cluster::shared())
        .setting("auth_type = \"trust\"")
        .setting("default_pool_size = 1")
        .setting("query_wait_timeout = \"300ms\"")
        .start();
    let (mut holder, mut client) = (valet.client(Role::Trust), valet.client(Role::Trust));
    client.send(&all(&[parse("s", "SELECT $1::text"), sync()]));
    assert_eq!(tags(&client.until_ready()), "1Z");
    holder.query("BEGIN");
    client.send(&all(&[run("s", "late"), describe_statement("s"), query("SELECT 'skipped'"), sync()]));
    assert_eq!(tags(&client.until_ready()), "EZ");
    client.send(&all(&[parse("new", "SELECT 'not parsed'"), close_statement("s"), sync()]));
    assert_eq!(tags(&client.until_ready()), "EZ");
    holder.query("COMMIT");
    // Nothing of what was skipped has happened.
    client.send(&all(&[run("s", "there"), parse("new", "SELECT 'now'"), sync()]));
    let messages = client.until_ready();
    assert_eq!((tags(&messages).as_str(), rows(&messages)), ("2DC1Z", vec![vec![Some("there".to_string())]]));
}
