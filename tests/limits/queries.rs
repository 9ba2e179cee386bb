//! `query_timeout`, `idle_transaction_timeout` and `client_idle_timeout`: how long a client may do what.

use crate::fixture::{Console, Watch, error_text, open_house_with, pid, valet};
use crate::support::backend::{first_error, tags};
use crate::support::cluster::{Cluster, DATABASE, Role};
use crate::support::frontend;
use crate::support::pgvalet::Pgvalet;
use crate::support::wire::Client;

const ENDLESS: &str = "SELECT pg_sleep(3600)";

#[test]
fn a_query_that_runs_too_long_is_canceled_and_its_client_told() {
    let valet = valet("query_timeout", &["pool_size = 1"]).setting("query_timeout = \"600ms\"").start();
    for query in [frontend::query(ENDLESS), frontend::extended(ENDLESS, &[])] {
        let mut client = valet.client(Role::Trust);
        client.send(&query);
        assert_ended(&mut client, "57014", "query_timeout");
        Watch::new("query_timeout").wait_for_running(ENDLESS, 0);
    }
    // There is room for a server again.
    assert_eq!(valet.client(Role::Trust).value("SELECT 1"), "1");
    Console::of(&valet).wait_for_rest(0, 1);
}

#[test]
fn a_query_that_runs_too_long_takes_its_transaction_with_it() {
    let valet = valet("query_timeout_tx", &["pool_size = 2"]).setting("query_timeout = \"600ms\"").start();
    let mut client = valet.client(Role::Trust);
    client.query("BEGIN");
    client.query("SELECT pg_advisory_xact_lock(470021)");
    client.send(&frontend::query(ENDLESS));
    assert_ended(&mut client, "57014", "query_timeout");
    wait_for_lock(470_021);
    Watch::new("query_timeout_tx").wait_for_idle();
    Console::of(&valet).wait_for_rest(0, 2);
}

#[test]
fn query_timeout_is_about_each_query_and_not_about_the_transaction() {
    let valet = valet("query_timeout_each", &["pool_size = 1"]).setting("query_timeout = \"2s\"").start();
    let mut client = valet.client(Role::Trust);
    client.query("BEGIN");
    for _ in 0..5 {
        assert_eq!(tags(&client.query("SELECT pg_sleep(0.5)")), "TDCZ");
    }
    client.query("COMMIT");
    Console::of(&valet).wait_for_rest(1, 1);
}

#[test]
fn waiting_for_a_server_is_not_running() {
    let valet = open_house_with(&["query_timeout = \"800ms\""])
        .database(DATABASE, Cluster::shared(), &["pool_size = 1", "user = \"app_trust\""])
        .start();
    let (mut holder, mut other) = (valet.client(Role::Trust), valet.client(Role::Postgres));
    holder.query("BEGIN");
    other.send(&frontend::query("SELECT 1"));
    Console::of(&valet).wait_for_waiting(1);
    assert_eq!(tags(&holder.query("SELECT pg_sleep(1.2)")), "TDCZ");
    holder.query("COMMIT");
    assert_eq!(tags(&other.until_ready()), "TDCZ");
    Console::of(&valet).wait_for_rest(2, 1);
}

#[test]
fn a_transaction_that_is_idle_too_long_is_rolled_back_and_its_server_kept() {
    let valet = valet("idle_tx", &["pool_size = 1"]).setting("idle_transaction_timeout = \"600ms\"").start();
    for ending in ["SELECT 1", "SELECT 1/0"] {
        let mut client = valet.client(Role::Trust);
        client.query("BEGIN");
        client.query("SELECT pg_advisory_xact_lock(470022)");
        let server = pid(&mut client);
        client.query(ending);
        assert_ended(&mut client, "25P03", "idle_transaction_timeout");
        wait_for_lock(470_022);
        let mut next = valet.client(Role::Trust);
        assert_eq!(pid(&mut next), server);
        assert_eq!(tags(&next.query("SELECT 1")), "TDCZ");
    }
    Watch::new("idle_tx").wait_for_idle();
    Console::of(&valet).wait_for_rest(0, 1);
}

#[test]
fn the_server_of_a_transaction_that_was_idle_too_long_goes_to_who_waits_for_it() {
    let valet =
        valet("idle_tx_waiter", &["pool_size = 1"]).setting("idle_transaction_timeout = \"600ms\"").start();
    let (mut client, mut other) = (valet.client(Role::Trust), valet.client(Role::Trust));
    client.query("BEGIN");
    assert_eq!(other.value("SELECT 1"), "1");
    assert_ended(&mut client, "25P03", "idle_transaction_timeout");
    Console::of(&valet).wait_for_rest(1, 1);
}

#[test]
fn a_running_query_and_an_idle_session_are_not_idle_transactions() {
    let lines = ["pool_size = 1", "pool_mode = \"session\""];
    let valet = valet("idle_tx_not", &lines).setting("idle_transaction_timeout = \"600ms\"").start();
    let mut client = valet.client(Role::Trust);
    client.query("BEGIN");
    assert_eq!(tags(&client.query("SELECT pg_sleep(1.2)")), "TDCZ");
    client.query("COMMIT");
    let server = pid(&mut client);
    outlast_an_idle_transaction(&valet);
    assert_eq!(pid(&mut client), server);
}

#[test]
fn a_client_that_is_idle_too_long_is_told_so() {
    let valet = valet("client_idle", &["pool_size = 2"]).setting("client_idle_timeout = \"600ms\"").start();
    let mut fresh = valet.client(Role::Trust);
    assert_ended(&mut fresh, "57P05", "client_idle_timeout");
    let mut used = valet.client(Role::Trust);
    assert_eq!(used.value("SELECT 1"), "1");
    assert_ended(&mut used, "57P05", "client_idle_timeout");
    Console::of(&valet).wait_for_rest(0, 2);
}

#[test]
fn who_waits_works_or_is_in_a_transaction_is_not_idle() {
    let valet =
        valet("client_not_idle", &["pool_size = 2"]).setting("client_idle_timeout = \"800ms\"").start();
    let mut clients: Vec<Client> = (0..3).map(|_| valet.client(Role::Trust)).collect();
    clients[0].query("BEGIN");
    clients[1].send(&frontend::query("SELECT pg_sleep(2.5)"));
    clients[2].send(&frontend::query("SELECT 1"));
    // Others come later, are idle, and go.
    for _ in 0..2 {
        assert_ended(&mut valet.client(Role::Trust), "57P05", "client_idle_timeout");
    }
    assert_eq!(tags(&clients[0].query("COMMIT")), "CZ");
    for client in &mut clients[1..] {
        assert_eq!(tags(&client.until_ready()), "TDCZ");
    }
}

#[test]
fn an_idle_session_gives_its_server_back_reset() {
    let lines = ["pool_size = 1", "pool_mode = \"session\""];
    let valet = valet("client_idle_session", &lines).setting("client_idle_timeout = \"600ms\"").start();
    let mut client = valet.client(Role::Trust);
    let server = pid(&mut client);
    client.query("SELECT pg_advisory_lock(470023)");
    assert_ended(&mut client, "57P05", "client_idle_timeout");
    let mut next = valet.client(Role::Trust);
    assert_eq!(
        next.value("SELECT pg_try_advisory_lock(470023)::text || pg_backend_pid()"),
        format!("true{server}")
    );
    next.terminate();
    wait_for_lock(470_023);
    Console::of(&valet).wait_for_rest(0, 1);
}

#[test]
fn a_users_limits_come_before_the_general_ones() {
    let own = ["query_timeout", "idle_transaction_timeout", "client_idle_timeout"]
        .map(|name| format!("{name} = \"600ms\""));
    let valet = open_house_with(&own.each_ref().map(String::as_str))
        .setting("query_timeout = \"1h\"")
        .setting("idle_transaction_timeout = \"1h\"")
        .setting("client_idle_timeout = \"1h\"")
        .database(DATABASE, Cluster::shared(), &[])
        .start();
    let mut others: Vec<Client> = (0..3).map(|_| valet.client(Role::Trust)).collect();
    others[0].send(&frontend::query("SELECT pg_sleep(3)"));
    others[1].query("BEGIN");

    let mut running = valet.client(Role::Postgres);
    running.send(&frontend::query(ENDLESS));
    assert_ended(&mut running, "57014", "query_timeout");
    let mut in_transaction = valet.client(Role::Postgres);
    in_transaction.query("BEGIN");
    assert_ended(&mut in_transaction, "25P03", "idle_transaction_timeout");
    assert_ended(&mut valet.client(Role::Postgres), "57P05", "client_idle_timeout");

    assert_eq!(tags(&others[0].until_ready()), "TDCZ");
    assert_eq!(tags(&others[1].query("COMMIT")), "CZ");
    assert_eq!(others[2].value("SELECT 1"), "1");
    Console::of(&valet).wait_for_rest(3, 20);
}

#[test]
fn a_user_can_be_without_a_limit_that_all_others_have() {
    let valet = open_house_with(&["client_idle_timeout = 0"])
        .setting("client_idle_timeout = \"600ms\"")
        .database(DATABASE, Cluster::shared(), &[])
        .start();
    let mut free = valet.client(Role::Postgres);
    for _ in 0..2 {
        assert_ended(&mut valet.client(Role::Trust), "57P05", "client_idle_timeout");
    }
    assert_eq!(free.value("SELECT 1"), "1");
}

#[test]
fn new_limits_hold_for_clients_that_are_there_already() {
    let valet = valet("limits_reload", &[]).setting("client_idle_timeout = \"1h\"").start();
    let mut client = valet.client(Role::Trust);
    assert_eq!(client.value("SELECT 1"), "1");
    valet.write_config(&valet.config().replace("\"1h\"", "\"200ms\""));
    valet.sighup();
    assert_ended(&mut client, "57P05", "client_idle_timeout");
}

/// The session has ended with one error: this one, which names the setting and says what to do.
#[track_caller]
fn assert_ended(client: &mut Client, sqlstate: &str, setting: &str) {
    let last = client.until_end();
    assert_eq!(first_error(&last).as_deref(), Some(sqlstate), "{last:?}");
    let error = error_text(&last);
    assert!(error.starts_with("FATAL: "), "{error}");
    assert!(error.contains(setting) && error.contains(&format!("raise {setting}")), "{error}");
}

/// Waits until nobody has the advisory lock.
#[track_caller]
fn wait_for_lock(key: i64) {
    let mut direct = Cluster::shared().client(Role::Postgres);
    assert_eq!(tags(&direct.query(&format!("SELECT pg_advisory_xact_lock({key})"))), "TDCZ");
}

/// Waits as long as another client needs to be ended for an idle transaction.
fn outlast_an_idle_transaction(valet: &Pgvalet) {
    let login = Role::Postgres.login();
    let mut other = valet.login(&login);
    other.query("BEGIN");
    assert_ended(&mut other, "25P03", "idle_transaction_timeout");
}
