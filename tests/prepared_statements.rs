//! Prepared statements in transaction pooling: a client finds its statements on whatever server it gets, under its own
//! names, and nobody else's.
//!
//! Servers rotate between the steps of the tests, so that no statement is where the client prepared it.

#[path = "prepared_statements/changed.rs"]
mod changed;
#[path = "prepared_statements/forgotten.rs"]
mod forgotten;
mod support;
#[path = "support/watch.rs"]
mod watch;

use support::backend::{Message, first_error, rows, tags};
use support::cluster::{Cluster, Role};
use support::frontend::{
    bind, close_statement, describe_portal, describe_statement, execute, parse, parse_typed, query, sync,
};
use support::pgvalet::Pgvalet;
use support::wire::Client;
use watch::{Console, trusting};

/// A pool of two servers of which the test's clients get now one, now the other.
struct Rotating {
    cluster: &'static Cluster,
    valet: Pgvalet,
    /// Has one of the servers.
    holding: Client,
    free: Client,
}

impl Rotating {
    fn start(settings: &[&str]) -> Self {
        let cluster = Cluster::shared();
        let builder = trusting(cluster, 2).setting("reset = \"never\"");
        let valet = settings.iter().fold(builder, |builder, line| builder.setting(line)).start();
        let (mut holding, free) = (valet.client(Role::Trust), valet.client(Role::Trust));
        holding.rows("BEGIN; SELECT 1");
        Self { cluster, valet, holding, free }
    }

    fn client(&self) -> Client {
        self.valet.client(Role::Trust)
    }

    /// From now on clients get the other server.
    fn rotate(&mut self) {
        self.free.rows("BEGIN; SELECT 1");
        self.holding.query("COMMIT");
        std::mem::swap(&mut self.holding, &mut self.free);
    }
}

/// Bind and Execute of a statement without parameters, without Sync.
fn run(statement: &str) -> Vec<u8> {
    [bind("", statement, &[]), execute("", 0)].concat()
}

#[track_caller]
fn one(messages: &[Message]) -> String {
    match &rows(messages)[..] {
        [row] => row[0].clone().unwrap_or_default(),
        _ => panic!("not one row: {messages:?}"),
    }
}

/// Sends messages and takes everything up to ReadyForQuery.
#[track_caller]
fn exchange(client: &mut Client, messages: &[Vec<u8>]) -> Vec<Message> {
    client.send(&messages.concat());
    client.until_ready()
}

#[track_caller]
fn expect_error(messages: &[Message], sqlstate: &str, message: &str) {
    let error = messages.iter().find(|message| message.tag == b'E').unwrap_or_else(|| panic!("{messages:?}"));
    let found = (error.sqlstate().unwrap_or_default(), error.field(b'M').unwrap_or_default());
    assert_eq!(found, (sqlstate.to_string(), message.to_string()));
}

#[test]
fn the_servers_of_these_tests_rotate() {
    let mut pool = Rotating::start(&[]);
    let mut client = pool.client();
    let pids: Vec<String> = (0..6)
        .map(|_| {
            pool.rotate();
            client.value("SELECT pg_backend_pid()")
        })
        .collect();
    assert!(pids.windows(2).all(|pair| pair[0] != pair[1]), "{pids:?}");
}

#[test]
fn a_named_statement_follows_its_client() {
    let mut pool = Rotating::start(&[]);
    let mut client = pool.client();
    assert_eq!(
        tags(&exchange(
            &mut client,
            &[parse_typed("add", "SELECT $1 + $2, pg_backend_pid()", &[23, 23]), sync()]
        )),
        "1Z"
    );
    let mut pids = Vec::new();
    for number in 0..6 {
        pool.rotate();
        let reply = exchange(
            &mut client,
            &[bind("", "add", &[Some("40"), Some(&number.to_string())]), execute("", 0), sync()],
        );
        assert_eq!(tags(&reply), "2DCZ", "no reply to what pgvalet itself prepared");
        let row = rows(&reply).remove(0);
        assert_eq!(row[0], Some((40 + number).to_string()));
        pids.push(row[1].clone());
    }
    assert!(pids.windows(2).all(|pair| pair[0] != pair[1]), "{pids:?}");
    let mut console = Console::open(&pool.valet);
    assert_eq!(console.stat("server_parses"), 2, "once on each server");
}

#[test]
fn a_statement_is_described_on_a_server_that_has_never_seen_it() {
    let mut pool = Rotating::start(&[]);
    let mut client = pool.client();
    exchange(&mut client, &[parse("typed", "SELECT $1::int AS number, $2::text AS words"), sync()]);
    exchange(&mut client, &[parse("silent", "SET LOCAL work_mem = '1MB'"), sync()]);
    pool.rotate();
    let reply = exchange(&mut client, &[describe_statement("typed"), describe_statement("silent"), sync()]);
    assert_eq!(tags(&reply), "tTtnZ");
    assert_eq!(reply[1].columns().expect("columns"), ["number", "words"]);
    pool.rotate();
    let reply = exchange(
        &mut client,
        &[bind("p", "typed", &[Some("1"), None]), describe_portal("p"), execute("p", 0), sync()],
    );
    assert_eq!(tags(&reply), "2TDCZ");
}

#[test]
fn the_unnamed_statement_lives_across_transactions_and_servers() {
    let mut pool = Rotating::start(&[]);
    let mut client = pool.client();
    exchange(&mut client, &[parse("", "SELECT 'mine'"), sync()]);
    for _ in 0..3 {
        pool.rotate();
        // Somebody else's unnamed statement is on that server now.
        let mut other = pool.client();
        assert_eq!(one(&other.extended("SELECT 'other'", &[])), "other");
        assert_eq!(one(&exchange(&mut client, &[run(""), sync()])), "mine");
    }
    pool.rotate();
    assert_eq!(tags(&exchange(&mut client, &[describe_statement(""), sync()])), "tTZ");
    // A simple query destroys it, as in PostgreSQL.
    client.query("SELECT 1");
    pool.rotate();
    expect_error(
        &exchange(&mut client, &[run(""), sync()]),
        "26000",
        "unnamed prepared statement does not exist",
    );
}

#[test]
fn nobody_sees_the_statements_of_another() {
    let mut pool = Rotating::start(&[]);
    let (mut one_client, mut other) = (pool.client(), pool.client());
    exchange(&mut one_client, &[parse("s", "SELECT 'one'"), parse("", "SELECT 'one, unnamed'"), sync()]);
    expect_error(
        &exchange(&mut other, &[run("s"), sync()]),
        "26000",
        "prepared statement \"s\" does not exist",
    );
    expect_error(
        &exchange(&mut other, &[run(""), sync()]),
        "26000",
        "unnamed prepared statement does not exist",
    );
    exchange(&mut other, &[parse("s", "SELECT 'other'"), sync()]);
    for _ in 0..2 {
        pool.rotate();
        assert_eq!(one(&exchange(&mut one_client, &[run("s"), sync()])), "one");
        assert_eq!(one(&exchange(&mut other, &[run("s"), sync()])), "other");
        assert_eq!(one(&exchange(&mut one_client, &[run(""), sync()])), "one, unnamed");
    }
    other.terminate();
    assert_eq!(one(&exchange(&mut one_client, &[run("s"), sync()])), "one");
    // The same text, parsed with other types, is another statement.
    let mut typed = pool.client();
    exchange(&mut one_client, &[parse_typed("t", "SELECT pg_typeof($1)", &[23]), sync()]);
    exchange(&mut typed, &[parse_typed("t", "SELECT pg_typeof($1)", &[25]), sync()]);
    let call = [bind("", "t", &[Some("1")]), execute("", 0), sync()];
    assert_eq!(one(&exchange(&mut one_client, &call)), "integer");
    assert_eq!(one(&exchange(&mut typed, &call)), "text");
}

#[test]
fn a_name_that_is_taken_is_refused_with_that_name() {
    let mut pool = Rotating::start(&[]);
    let mut client = pool.client();
    exchange(&mut client, &[parse("twice", "SELECT 'first'"), sync()]);
    for _ in 0..3 {
        let reply = exchange(&mut client, &[parse("twice", "SELECT 'second'"), sync()]);
        expect_error(&reply, "42P05", "prepared statement \"twice\" already exists");
        pool.rotate();
    }
    let same_text = exchange(&mut client, &[parse("twice", "SELECT 'first'"), sync()]);
    expect_error(&same_text, "42P05", "prepared statement \"twice\" already exists");
    assert_eq!(one(&exchange(&mut client, &[run("twice"), sync()])), "first");
    // In one batch, too: the second Parse fails, and takes nothing of the first with it.
    let reply = exchange(
        &mut client,
        &[parse("batch", "SELECT 'a'"), parse("batch", "SELECT 'b'"), run("batch"), sync()],
    );
    assert_eq!(tags(&reply), "1EZ");
    pool.rotate();
    assert_eq!(one(&exchange(&mut client, &[run("batch"), sync()])), "a");
}

#[test]
fn an_unknown_name_is_refused_with_that_name() {
    let mut pool = Rotating::start(&[]);
    let mut client = pool.client();
    for name in ["nothing", "pgvalet_1", "S_1"] {
        let message = format!("prepared statement \"{name}\" does not exist");
        expect_error(&exchange(&mut client, &[run(name), sync()]), "26000", &message);
        expect_error(&exchange(&mut client, &[describe_statement(name), sync()]), "26000", &message);
        pool.rotate();
    }
    assert_eq!(tags(&exchange(&mut client, &[close_statement("nothing"), sync()])), "3Z");
    assert_eq!(client.value("SELECT 'still here'"), "still here");
}

#[test]
fn a_parse_that_fails_leaves_no_statement() {
    let mut pool = Rotating::start(&[]);
    let mut client = pool.client();
    let reply = exchange(&mut client, &[parse("broken", "SELECT no_such_column"), run("broken"), sync()]);
    assert_eq!((tags(&reply).as_str(), first_error(&reply).as_deref()), ("EZ", Some("42703")));
    for _ in 0..2 {
        let reply = exchange(&mut client, &[run("broken"), sync()]);
        expect_error(&reply, "26000", "prepared statement \"broken\" does not exist");
        pool.rotate();
    }
    assert_eq!(tags(&exchange(&mut client, &[close_statement("broken"), sync()])), "3Z");
    assert_eq!(tags(&exchange(&mut client, &[parse("broken", "SELECT 'mended'"), sync()])), "1Z");
    assert_eq!(one(&exchange(&mut client, &[run("broken"), sync()])), "mended");

    // What was wrong when it was tried first can be right later, for anybody.
    let later = "SELECT * FROM comes_later";
    assert_eq!(
        first_error(&exchange(&mut client, &[parse("later", later), sync()])).as_deref(),
        Some("42P01")
    );
    pool.cluster.sql("CREATE TABLE comes_later AS SELECT 'there' AS x");
    let mut other = pool.client();
    for client in [&mut client, &mut other] {
        assert_eq!(one(&exchange(client, &[parse("later", later), run("later"), sync()])), "there");
    }
}

#[test]
fn a_parse_that_is_skipped_leaves_no_statement_and_takes_none_away() {
    let mut pool = Rotating::start(&[]);
    let mut client = pool.client();
    exchange(&mut client, &[parse("kept", "SELECT 'kept'"), parse("", "SELECT 'unnamed'"), sync()]);
    let reply = exchange(
        &mut client,
        &[
            query("SELECT 1 / 0"),
            parse("first", "SELECT 1 / 0"),
            // Fails: PostgreSQL computes constants when it plans.
            bind("", "first", &[]),
            execute("", 0),
            // All that follows the error is skipped, the Close of a statement as well.
            parse("skipped", "SELECT 'skipped'"),
            close_statement("kept"),
            parse("", "SELECT 'skipped too'"),
            sync(),
        ],
    );
    assert_eq!(tags(&reply), "EZ", "the simple query");
    assert_eq!(tags(&client.until_ready()), "1EZ");
    for _ in 0..2 {
        pool.rotate();
        expect_error(
            &exchange(&mut client, &[run("skipped"), sync()]),
            "26000",
            "prepared statement \"skipped\" does not exist",
        );
        assert_eq!(one(&exchange(&mut client, &[run("kept"), sync()])), "kept");
    }
    assert_eq!(tags(&exchange(&mut client, &[parse("skipped", "SELECT 'now'"), sync()])), "1Z");
    assert_eq!(one(&exchange(&mut client, &[run("skipped"), sync()])), "now");
}

#[test]
fn a_failed_parse_of_the_unnamed_statement_destroys_the_old_one() {
    let mut pool = Rotating::start(&[]);
    let mut client = pool.client();
    exchange(&mut client, &[parse("", "SELECT 'old'"), sync()]);
    exchange(&mut client, &[parse("", "SELECT broken"), sync()]);
    pool.rotate();
    expect_error(
        &exchange(&mut client, &[run(""), sync()]),
        "26000",
        "unnamed prepared statement does not exist",
    );
}

#[test]
fn a_closed_name_can_be_used_again() {
    let mut pool = Rotating::start(&[]);
    let mut client = pool.client();
    for round in 0..4 {
        let text = format!("SELECT 'round {round}'");
        assert_eq!(tags(&exchange(&mut client, &[parse("again", &text), sync()])), "1Z");
        pool.rotate();
        assert_eq!(one(&exchange(&mut client, &[run("again"), sync()])), format!("round {round}"));
        assert_eq!(tags(&exchange(&mut client, &[close_statement("again"), sync()])), "3Z");
        expect_error(
            &exchange(&mut client, &[run("again"), sync()]),
            "26000",
            "prepared statement \"again\" does not exist",
        );
    }
    // In one batch, with replies in their order.
    let reply = exchange(
        &mut client,
        &[
            parse("b", "SELECT 1"),
            run("b"),
            close_statement("b"),
            parse("b", "SELECT 2"),
            run("b"),
            close_statement("b"),
            sync(),
        ],
    );
    assert_eq!(tags(&reply), "12DC312DC3Z");
    assert_eq!(rows(&reply).concat(), [Some("1".to_string()), Some("2".to_string())]);
}

#[test]
fn replies_that_no_server_gives_keep_their_place() {
    let pool = Rotating::start(&[]);
    let (mut client, mut other) = (pool.client(), pool.client());
    // The server knows the statement from another client, so this Parse never reaches it.
    exchange(&mut other, &[parse("theirs", "SELECT g FROM generate_series(1, 3) AS g"), sync()]);
    for name in ["a", "b"] {
        let reply = exchange(
            &mut client,
            &[
                query("SELECT 'before'"),
                parse(name, "SELECT g FROM generate_series(1, 3) AS g"),
                run(name),
                close_statement("whatever"),
                run(name),
                sync(),
            ],
        );
        assert_eq!(tags(&reply), "TDCZ");
        assert_eq!(tags(&client.until_ready()), "12DDDC32DDDCZ");
    }
}

#[test]
fn nothing_that_can_fail_is_put_into_a_failed_transaction() {
    let mut pool = Rotating::start(&[]);
    let mut client = pool.client();
    exchange(&mut client, &[parse("back", "ROLLBACK"), parse("work", "SELECT 'work'"), sync()]);
    pool.rotate();
    client.query("BEGIN");
    client.query("SELECT 1 / 0");
    let reply = exchange(&mut client, &[run("work"), sync()]);
    assert_eq!(first_error(&reply).as_deref(), Some("25P02"));
    assert_eq!(reply.last().and_then(Message::ready), Some('E'));
    let reply = exchange(&mut client, &[run("back"), sync()]);
    assert_eq!(tags(&reply), "2CZ", "{reply:?}");
    assert_eq!(reply.last().and_then(Message::ready), Some('I'));
    assert_eq!(one(&exchange(&mut client, &[run("work"), sync()])), "work");
}

#[test]
fn statements_work_with_every_kind_of_reset() {
    for reset in ["reset = \"auto\"", "reset = \"always\""] {
        let mut pool = Rotating::start(&[reset]);
        let mut client = pool.client();
        exchange(&mut client, &[parse("kept", "SELECT 'kept'"), sync()]);
        for _ in 0..4 {
            pool.rotate();
            assert_eq!(one(&exchange(&mut client, &[run("kept"), sync()])), "kept", "{reset}");
        }
    }
}
