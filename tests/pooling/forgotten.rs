//! Pools that nobody uses are forgotten, with all that was counted for them.

use crate::fixture::{Console, open_house};
use crate::support::cluster::{Cluster, DATABASE, Role};
use crate::support::eventually;
use crate::support::pgvalet::{Builder, Pgvalet};
use crate::support::wire::{Client, LoginError};

/// A house whose pools lose their servers soon.
fn forgetful() -> Builder {
    open_house()
        .setting("server_idle_timeout = \"100ms\"")
        .setting("server_login_retry = \"10ms\"")
        .database(DATABASE, Cluster::shared(), &[])
        .database("*", Cluster::shared(), &[])
}

fn names(console: &mut Console) -> Vec<String> {
    let pools = console.show("POOLS");
    pools.into_iter().map(|mut row| row.remove("database").unwrap_or_default()).collect()
}

fn metrics(valet: &Pgvalet) -> String {
    let line = valet.wait_log(&["metrics are served"]);
    let (_, address) = line.split_once("address=").expect("the log has the address");
    let address = address.trim_matches('"');
    let mut stream = std::net::TcpStream::connect(address).expect("metrics are served");
    std::io::Write::write_all(&mut stream, b"GET /metrics HTTP/1.0\r\n\r\n").expect("a request is taken");
    std::io::read_to_string(stream).expect("metrics are text")
}

#[test]
fn logins_to_databases_that_do_not_exist_leave_nothing() {
    let valet = forgetful().setting("metrics_listen = \"127.0.0.1:0\"").start();
    let mut kept = valet.client(Role::Trust);
    kept.query("SELECT 1");
    for number in 0..100 {
        let login = Role::Trust.login().database(&format!("nowhere_{number}"));
        match Client::login(&valet.tcp(), &login) {
            Err(LoginError::Refused(message)) => assert_eq!(message.sqlstate().as_deref(), Some("3D000")),
            other => panic!("{other:?}"),
        }
    }
    let mut console = Console::of(&valet);
    eventually("the made-up names to be forgotten", || (names(&mut console) == [DATABASE]).then_some(()));
    assert!(!metrics(&valet).contains("nowhere_"));
    assert_eq!(console.show("STATS").len(), 1);
    assert_eq!(kept.value("SELECT 1"), "1");
}

#[test]
fn a_pool_behind_the_star_is_forgotten_after_autodb_idle_timeout() {
    let valet = forgetful().setting("autodb_idle_timeout = \"200ms\"").start();
    let mut console = Console::of(&valet);
    let mut client = valet.login(&Role::Trust.login().database("template1"));
    client.query("SELECT 1");
    valet.client(Role::Trust).query("SELECT 1");
    valet.login(&Role::Trust.login().database("postgres")).query("SELECT 1");
    // What still has a client is not forgotten, nor what has an entry of its own.
    eventually("the unused pool to be forgotten", || {
        (names(&mut console) == [DATABASE, "template1"]).then_some(())
    });
    assert_eq!(client.value("SELECT 1"), "1");
    client.terminate();
    eventually("the pool to be forgotten", || (names(&mut console) == [DATABASE]).then_some(()));
    // It comes back as new.
    let mut client = valet.login(&Role::Trust.login().database("template1"));
    assert_eq!(client.value("SELECT 1"), "1");
    let logins =
        |row: &crate::fixture::Row| row["database"] == "template1" && row["total_client_login_count"] == "1";
    assert!(console.show("STATS").iter().any(logins));
}

#[test]
fn pool_idle_timeout_holds_for_every_pool() {
    let valet = forgetful().setting("pool_idle_timeout = \"200ms\"").start();
    let mut console = Console::of(&valet);
    valet.client(Role::Trust).query("SELECT 1");
    eventually("the pool to be forgotten", || names(&mut console).is_empty().then_some(()));
    assert_eq!(valet.client(Role::Trust).value("SELECT 1"), "1");
}
