//! How long a client keeps its server: transaction, session and statement pooling.

use crate::fixture::{Console, Watch, error_text, pid, valet};
use crate::support::backend::{first_error, rows, tags};
use crate::support::cluster::Role;
use crate::support::frontend;
use crate::support::wire::Client;

#[test]
fn in_transaction_pooling_a_server_is_kept_until_the_transaction_ends() {
    let valet = valet("mode_transaction", &["pool_size = 1"]).start();
    let (mut first, mut second) = (valet.client(Role::Trust), valet.client(Role::Trust));
    let shared = pid(&mut first);
    first.query("BEGIN");
    let mut console = Console::of(&valet);
    second.send(&frontend::query("SELECT pg_backend_pid()"));
    console.wait_for_waiting(1);
    assert_eq!(pid(&mut first), shared, "the server stays between the statements of a transaction");
    assert_eq!(tags(&first.query("SELECT 1/0")), "EZ");
    assert_eq!(console.pools("cl_waiting"), 1, "a failed transaction keeps its server too");
    first.query("ROLLBACK");
    assert_eq!(rows(&second.until_ready())[0][0].as_deref(), Some(&*shared));
    console.wait_for_rest(2, 1);
}

#[test]
fn in_session_pooling_a_server_is_kept_until_the_client_leaves() {
    let valet = valet("mode_session", &["pool_size = 1", "pool_mode = \"session\""]).start();
    let (mut first, mut second) = (valet.client(Role::Trust), valet.client(Role::Trust));
    let shared = pid(&mut first);
    first.query("SET work_mem = '5MB'");
    first.query("CREATE TEMP TABLE own (x int)");
    let mut console = Console::of(&valet);
    second.send(&frontend::query("SELECT pg_backend_pid()"));
    console.wait_for_waiting(1);
    assert_eq!(first.value("SHOW work_mem"), "5MB");
    assert_eq!(pid(&mut first), shared);
    assert_eq!(console.pools("cl_waiting"), 1);
    first.terminate();
    assert_eq!(rows(&second.until_ready())[0][0].as_deref(), Some(&*shared), "the same server, reset");
    assert_ne!(second.value("SHOW work_mem"), "5MB");
    assert_eq!(second.value("SELECT to_regclass('pg_temp.own')"), "NULL");
    second.terminate();
    console.wait_for_rest(0, 1);
}

#[test]
fn a_session_that_ends_in_a_transaction_leaves_no_trace_of_it() {
    let valet = valet("mode_session_gone", &["pool_size = 1", "pool_mode = \"session\""]).start();
    let mut first = valet.client(Role::Trust);
    first.query("BEGIN");
    first.query("SELECT pg_advisory_xact_lock(470011)");
    drop(first);
    let mut second = valet.client(Role::Trust);
    assert_eq!(second.value("SELECT pg_try_advisory_lock(470011)"), "t");
    assert_eq!(tags(&second.query("SELECT 1")), "TDCZ");
    second.terminate();
    Console::of(&valet).wait_for_rest(0, 1);
    Watch::new("mode_session_gone").wait_for_idle();
}

#[test]
fn in_statement_pooling_single_statements_run() {
    let valet = statement_pooling("mode_statement");
    let mut client = valet.client(Role::Trust);
    assert_eq!(client.value("SELECT 1"), "1");
    assert_eq!(rows(&client.extended("SELECT $1 || 'b'", &[Some("a")])), [[Some("ab".to_string())]]);
    assert_eq!(tags(&client.query("SELECT 1; SELECT 2")), "TDCTDCZ");
    Console::of(&valet).wait_for_rest(1, 1);
}

#[test]
fn in_statement_pooling_a_transaction_block_is_refused_and_the_client_goes_on() {
    let valet = statement_pooling("mode_statement_begin");
    let mut client = valet.client(Role::Trust);
    let before = Console::of(&valet).stat("leases");
    for sql in ["BEGIN", "start transaction", "/* a comment */ BEGIN", "SELECT 1; BEGIN"] {
        let reply = client.query(sql);
        assert_eq!(tags(&reply), "EZ", "{sql}");
        assert_refused(&error_text(&reply), "ERROR");
        assert_eq!(reply[1].ready(), Some('I'));

        let reply = client.extended(sql, &[]);
        assert_eq!(tags(&reply), "EZ", "{sql}: everything up to Sync is skipped");
        assert_refused(&error_text(&reply), "ERROR");
        assert_eq!(reply[1].ready(), Some('I'));
    }
    assert_eq!(Console::of(&valet).stat("leases"), before, "no server was troubled");
    assert_usable(&mut client);
    Console::of(&valet).wait_for_rest(1, 1);
}

#[test]
fn in_statement_pooling_a_transaction_block_that_was_not_foreseen_ends_the_session_with_the_reason() {
    let valet = statement_pooling("mode_statement_hidden");
    let mut client = valet.client(Role::Trust);
    // The first statement of the batch has brought the server, so only what the server says shows the block.
    client.send(&frontend::all(&[
        frontend::parse("", "SELECT 1"),
        frontend::bind("", "", &[]),
        frontend::execute("", 0),
        frontend::parse("", "BEGIN"),
        frontend::bind("", "", &[]),
        frontend::execute("", 0),
        frontend::sync(),
    ]));
    let reply = client.until_end();
    assert_refused(&error_text(&reply), "FATAL");
    assert_usable(&mut valet.client(Role::Trust));
    Console::of(&valet).wait_for_rest(0, 1);
    Watch::new("mode_statement_hidden").wait_for_idle();
}

fn statement_pooling(tag: &str) -> crate::support::pgvalet::Pgvalet {
    valet(tag, &["pool_size = 1", "pool_mode = \"statement\""]).start()
}

#[track_caller]
fn assert_refused(error: &str, severity: &str) {
    assert!(error.starts_with(&format!("{severity}: 0A000 ")), "{error}");
    assert!(error.contains("statement pooling") && error.contains("pool_mode"), "{error}");
}

#[track_caller]
fn assert_usable(client: &mut Client) {
    assert_eq!(client.value("SELECT 1"), "1");
    assert_eq!(first_error(&client.extended("SELECT 1", &[])), None);
}
