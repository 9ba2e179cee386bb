//! Limits before anybody has proved who it is: connections that say nothing, or fail again and again, are in nobody's way.

mod support;

use std::io::Read;
use std::net::TcpStream;
use std::time::Duration;

use support::backend::first_error;
use support::cluster::{Cluster, DATABASE, PASSWORD, Role};
use support::pgvalet::{Builder, Pgvalet};
use support::programs::psql_with;
use support::tls::{Authority, Files, Wanted};
use support::wire::{Client, Login, LoginError};
use support::{Endpoint, eventually, frontend, within};

fn builder() -> Builder {
    Pgvalet::builder()
        .setting("admin_users = [\"app_scram\"]")
        .database(DATABASE, Cluster::shared(), &["user = \"app_trust\""])
        .all_roles()
}

fn connect(valet: &Pgvalet) -> Client {
    Client::connect(&valet.tcp()).expect("pgvalet listens")
}

/// Connections that say nothing, so many of which the process has noticed.
fn silent(valet: &Pgvalet, count: usize) -> Vec<Client> {
    let before = valet.open_files();
    let clients: Vec<Client> = (0..count).map(|_| connect(valet)).collect();
    eventually("the connections to be accepted", || (valet.open_files() >= before + count).then_some(()));
    clients
}

fn refusal(valet: &Pgvalet, login: &Login) -> (String, String) {
    match Client::login(&valet.tcp(), login) {
        Err(LoginError::Refused(message)) => {
            (message.sqlstate().unwrap_or_default(), message.field(b'M').unwrap_or_default())
        }
        other => panic!("{} should have been refused: {other:?}", login.user),
    }
}

#[test]
fn half_open_connections_hold_no_place_of_clients() {
    let valet = builder().setting("max_client_conn = 3").start();
    let _silent = silent(&valet, 10);
    let mut clients: Vec<Client> = (0..3).map(|_| valet.client(Role::Plain)).collect();
    for client in &mut clients {
        assert_eq!(client.value("SELECT 1"), "1");
    }
    assert_eq!(refusal(&valet, &Role::Plain.login()).0, "53300");
    // Those who look after pgvalet come in all the same.
    let mut console = valet.login(&Role::Scram.login().database("pgbouncer"));
    assert_eq!(console.rows("SHOW VERSION").len(), 1);
    let owner = Client::login(&valet.unix(), &Login::new("pgbouncer", "pgbouncer"));
    assert_eq!(owner.expect("the owner of the process").rows("SHOW VERSION").len(), 1);
}

#[test]
fn a_login_that_takes_long_makes_room_where_there_is_none() {
    let valet = builder().setting("max_client_logins = 4").start();
    let mut silent = silent(&valet, 4);
    // Over the Unix socket nobody waits for them.
    Client::login(&valet.unix(), &Role::Plain.login()).expect("the Unix socket has no such limit");
    assert_eq!(valet.client(Role::Plain).value("SELECT 1"), "1");
    let first = silent.remove(0).until_end();
    assert_eq!(first_error(&first).as_deref(), Some("57014"), "{first:?}");
    // It was the only one that had to go.
    let mut last = silent.pop().expect("a connection");
    last.send(&frontend::startup(&[("user", "app_plain"), ("database", DATABASE)]));
    last.authenticate(&Role::Plain.login()).expect("it has just taken its time");
}

#[test]
fn more_logins_than_may_be_under_way_have_their_turn_one_after_the_other() {
    let valet = builder().setting("max_client_logins = 2").setting("workers = 2").start();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..10 {
                    assert_eq!(valet.client(Role::Plain).value("SELECT 1"), "1");
                }
            });
        }
    });
    assert_eq!(valet.count_log(&["login refused"]), 0);
}

#[test]
fn an_address_that_fails_again_and_again_is_turned_away_for_a_while() {
    let valet = builder().setting("max_failed_logins = 1").start();
    let wrong = Role::Scram.login().password("wrong");
    for _ in 0..10 {
        assert_eq!(refusal(&valet, &wrong).0, "28P01");
    }
    let (sqlstate, text) = eventually("it to be turned away", || {
        let refusal = refusal(&valet, &wrong);
        (refusal.0 != "28P01").then_some(refusal)
    });
    assert_eq!(
        (sqlstate.as_str(), text.as_str()),
        ("53300", "too many logins from this address have failed")
    );
    valet.wait_log(&["turned away for a while", "max_failed_logins"]);
    Client::login(&valet.unix(), &Role::Scram.login()).expect("the Unix socket has no address");
    eventually("the address to be let in again", || Client::login(&valet.tcp(), &Role::Scram.login()).ok());
}

#[test]
fn what_is_not_a_clients_fault_bars_nobody() {
    let valet = builder().setting("max_failed_logins = 1").setting("max_client_conn = 1").start();
    let client = valet.client(Role::Plain);
    for _ in 0..15 {
        assert!(refusal(&valet, &Role::Plain.login()).1.contains("max_client_conn"));
        client.cancel().send().expect("a cancel request is taken");
    }
    client.terminate();
    eventually("room for another", || Client::login(&valet.tcp(), &Role::Plain.login()).ok());
}

#[test]
fn connections_that_say_nothing_hold_no_shutdown_up() {
    let valet = builder().setting("shutdown_timeout = \"1h\"").start();
    let silent = silent(&valet, 3);
    valet.sigterm();
    assert!(valet.wait_exit().success());
    for mut client in silent {
        assert_eq!(first_error(&client.until_end()).as_deref(), Some("57P01"));
    }
}

#[test]
fn where_there_is_no_place_handshakes_are_few_and_enough_for_those_who_look_after_it() {
    let files = Files::default();
    let (certificate, key) =
        files.identity("server", &Authority::new("an authority").issue(&Wanted::local()));
    let valet = builder()
        .setting("max_client_conn = 1")
        .setting("client_tls_sslmode = \"allow\"")
        .setting(&format!("client_tls_cert_file = \"{certificate}\""))
        .setting(&format!("client_tls_key_file = \"{key}\""))
        .start();
    let environment = [("PGSSLMODE", "require")];
    let _client = valet.client(Role::Plain);
    let Endpoint::Tcp(address) = valet.tcp() else { unreachable!() };
    let ask = || {
        let mut client = Client::connect(&valet.tcp()).expect("pgvalet listens");
        client.send(&frontend::ssl_request());
        (client.recv_byte().expect("an answer"), client)
    };
    // Handshakes that are begun and go no further.
    let begun: Vec<_> = (0..8).map(|_| ask()).collect();
    assert!(begun.iter().all(|(answer, _)| *answer == b'S'));
    assert_eq!(ask().0, b'E', "told in the clear, as PostgreSQL tells who cannot be served");
    // One that begins without asking is not answered at all.
    let mut direct = TcpStream::connect(address).expect("pgvalet listens");
    std::io::Write::write_all(&mut direct, &[0x16, 3, 1]).expect("it is sent");
    let mut rest = Vec::new();
    assert!(matches!(direct.read_to_end(&mut rest), Ok(0) | Err(_)));
    drop(begun);
    let login = Role::Scram.login().database("pgbouncer");
    let output = within(Duration::from_secs(20), || {
        let output = psql_with(&valet.tcp(), &login, &environment, "SHOW VERSION");
        (output.code == Some(0)).then_some(output)
    });
    assert!(output.expect("the console is reached").stdout.contains("pgvalet"));
    let login = Login::new("app_plain", DATABASE).password(PASSWORD);
    let output = psql_with(&valet.tcp(), &login, &environment, "SELECT 1");
    assert!(output.stderr.contains("max_client_conn"), "{output:?}");
}
