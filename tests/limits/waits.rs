//! `query_wait_timeout`: how long a client waits for a server.

use crate::fixture::{Console, error_text, marked, open_house_with, valet};
use crate::support::backend::{first_error, rows, tags};
use crate::support::cluster::{Cluster, Role};
use crate::support::frontend;
use crate::support::pgvalet::Pgvalet;
use crate::support::wire::{Client, Login};

#[test]
fn a_client_that_waits_too_long_is_told_what_to_do_and_goes_on() {
    let valet = impatient("wait_simple");
    let mut holder = holding(&valet);
    let mut client = valet.client(Role::Trust);
    for _ in 0..2 {
        let reply = client.query("SELECT 1");
        assert_eq!(tags(&reply), "EZ");
        assert_waited_too_long(&error_text(&reply), "ERROR");
        assert_eq!(reply[1].ready(), Some('I'));
    }
    let mut console = Console::of(&valet);
    assert_eq!(console.pools("cl_waiting"), 0);
    holder.query("COMMIT");
    assert_eq!(client.value("SELECT 1"), "1");
    console.wait_for_rest(2, 1);
}

#[test]
fn a_batch_that_waits_too_long_is_skipped_to_its_sync() {
    let valet = impatient("wait_batch");
    let mut holder = holding(&valet);
    let mut client = valet.client(Role::Trust);
    let reply = client.extended("SELECT 1", &[]);
    assert_eq!(tags(&reply), "EZ");
    assert_waited_too_long(&error_text(&reply), "ERROR");

    // The error comes before the Sync, and what stands between is answered by nothing.
    client.send(&frontend::all(&[frontend::parse("s", "SELECT 1"), frontend::flush()]));
    assert_eq!(client.recv().sqlstate().as_deref(), Some("53300"));
    client.send(&frontend::all(&[
        frontend::bind("", "s", &[]),
        frontend::execute("", 0),
        frontend::flush(),
        frontend::query("SELECT 'skipped like all up to Sync'"),
        frontend::sync(),
    ]));
    assert_eq!(tags(&client.until_ready()), "Z");

    // Two batches in a pipeline: each waits for itself.
    let batch = frontend::extended("SELECT 2", &[]);
    client.send(&frontend::all(&[batch.clone(), batch]));
    assert_eq!(tags(&client.until_ready()), "EZ");
    holder.query("COMMIT");
    let second = client.until_ready();
    assert!(["EZ", "12DCZ"].contains(&&*tags(&second)), "{second:?}");

    // The statement was never prepared.
    client.send(&frontend::all(&[frontend::bind("", "s", &[]), frontend::sync()]));
    assert_eq!(first_error(&client.until_ready()).as_deref(), Some("26000"));
    assert_eq!(rows(&client.extended("SELECT 3", &[])), [[Some("3".to_string())]]);
    Console::of(&valet).wait_for_rest(2, 1);
}

#[test]
fn a_login_that_needs_a_server_does_not_wait_longer_than_a_query() {
    let valet = impatient("wait_login");
    let mut holder = holding(&valet);
    // Values that no server has accepted yet.
    let login = Role::Trust.login().parameter("IntervalStyle", "iso_8601");
    let error = Client::login(&valet.tcp(), &login).expect_err("there is no server");
    assert_eq!(error.sqlstate().as_deref(), Some("53300"), "{error}");
    assert_eq!(Console::of(&valet).pools("cl_waiting"), 0);
    holder.query("COMMIT");
    assert_eq!(valet.login(&login).value("SHOW IntervalStyle"), "iso_8601");
    Console::of(&valet).wait_for_rest(1, 1);
}

#[test]
fn a_hundred_clients_that_wait_in_vain_all_leave_the_line() {
    let valet = impatient("wait_many");
    let mut holder = valet.client(Role::Trust);
    let mut clients: Vec<Client> = (0..100).map(|_| valet.client(Role::Trust)).collect();
    holder.query("BEGIN");
    clients.iter_mut().for_each(|client| client.send(&frontend::query("SELECT 1")));
    for client in &mut clients {
        assert_waited_too_long(&error_text(&client.until_ready()), "ERROR");
    }
    let mut console = Console::of(&valet);
    assert_eq!(console.pools("cl_waiting"), 0);
    assert_eq!(console.stat("pooler_errors"), 100);
    holder.query("COMMIT");
    clients.iter_mut().for_each(|client| assert_eq!(client.value("SELECT 1"), "1"));
    console.wait_for_rest(101, 1);
}

#[test]
fn the_databases_query_wait_timeout_comes_before_the_users_and_that_before_the_general_one() {
    let cluster = Cluster::shared();
    let tag = marked("wait_overrides");
    let base = ["dbname = \"app\"", "pool_size = 1", "user = \"app_trust\"", &tag];
    let database = |more: &[&'static str]| [&base[..], more].concat();
    let valet = open_house_with(&["query_wait_timeout = \"100ms\""])
        .setting("query_wait_timeout = \"1h\"")
        .database("patient", cluster, &database(&["query_wait_timeout = \"2h\""]))
        .database("plain", cluster, &database(&[]))
        .database("impatient", cluster, &database(&["query_wait_timeout = \"150ms\""]))
        .start();
    let login = |role: Role, name: &str| Login::new(role.name(), name);
    let names = ["patient", "plain", "impatient"];
    let mut holders: Vec<_> = names.iter().map(|name| valet.login(&login(Role::Trust, name))).collect();
    let mut others: Vec<_> = [
        (Role::Postgres, "patient"),
        (Role::Trust, "plain"),
        (Role::Postgres, "plain"),
        (Role::Trust, "impatient"),
    ]
    .iter()
    .map(|(role, name)| valet.login(&login(*role, name)))
    .collect();
    holders.iter_mut().for_each(|holder| {
        holder.query("BEGIN");
    });
    let mut console = Console::of(&valet);
    // Two wait as long as it takes: for the database, or because nothing shorter is said.
    others[..2].iter_mut().for_each(|client| client.send(&frontend::query("SELECT 1")));
    console.wait_for_waiting(2);
    for client in &mut others[2..] {
        for _ in 0..2 {
            assert_waited_too_long(&error_text(&client.query("SELECT 1")), "ERROR");
        }
    }
    assert_eq!(console.pools("cl_waiting"), 2);
    holders.iter_mut().for_each(|holder| {
        holder.query("COMMIT");
    });
    others[..2].iter_mut().for_each(|client| assert_eq!(tags(&client.until_ready()), "TDCZ"));
    console.wait_for_rest(7, 3);
}

fn impatient(tag: &str) -> Pgvalet {
    valet(tag, &["pool_size = 1"]).setting("query_wait_timeout = \"300ms\"").setting("workers = 1").start()
}

/// A client that has the only server.
fn holding(valet: &Pgvalet) -> Client {
    let mut holder = valet.client(Role::Trust);
    assert_eq!(tags(&holder.query("BEGIN")), "CZ");
    holder
}

#[track_caller]
fn assert_waited_too_long(error: &str, severity: &str) {
    assert!(error.starts_with(&format!("{severity}: 53300 ")), "{error}");
    assert!(error.contains("query_wait_timeout") && error.contains("pool_size"), "{error}");
}
