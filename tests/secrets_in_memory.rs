//! What a secret leaves behind in memory once it has done its work: nothing.
//!
//! The memory of the process is read as a debugger would, and as a core file would keep it.

mod support;

use support::cluster::{Cluster, DATABASE, PASSWORD, Role};
use support::frontend;
use support::memory::occurrences;
use support::pgvalet::{Builder, Pgvalet};
use support::tls::{Authority, Dial, Files, Wanted};
use support::wire::{Client, Login};
use support::{eventually, scram};

const SECRET: &str = "correct horse battery staple";

/// Somebody who logs in with the secret; pgvalet itself does not need to know it.
fn in_front_of(auth_type: &str) -> Builder {
    Pgvalet::builder()
        .setting(&format!("auth_type = \"{auth_type}\""))
        .setting("workers = 1")
        .user("somebody", &scram::verifier(SECRET, b"some salt for it", 4096), &[])
        .database(DATABASE, Cluster::shared(), &["user = \"app_trust\""])
}

fn somebody() -> Login {
    Login::new("somebody", DATABASE).password(SECRET)
}

#[test]
fn a_password_in_the_clear_is_gone_when_it_was_checked() {
    let valet = in_front_of("password").start();
    for _ in 0..3 {
        let mut client = Client::login(&valet.unix(), &somebody()).expect("it is the right one");
        assert_eq!(client.value("SELECT 1"), "1");
    }
    let wrong = somebody().password(&format!("{SECRET}, but another"));
    Client::login(&valet.unix(), &wrong).expect_err("it is the wrong one");
    assert_eq!(occurrences(valet.pid(), SECRET.as_bytes()), 0);
}

#[test]
fn a_password_that_came_over_tls_is_gone_too() {
    let files = Files::default();
    let (certificate, key) =
        files.identity("server", &Authority::new("an authority").issue(&Wanted::local()));
    let valet = in_front_of("password")
        .setting("client_tls_sslmode = \"allow\"")
        .setting(&format!("client_tls_cert_file = \"{certificate}\""))
        .setting(&format!("client_tls_key_file = \"{key}\""))
        .start();
    for _ in 0..3 {
        let stream = Dial::default().connect(&valet.tcp()).expect("a handshake");
        let mut client = Client::login_over(stream, &valet.tcp(), &somebody()).expect("it is the right one");
        assert_eq!(client.value("SELECT 1"), "1");
    }
    assert_eq!(occurrences(valet.pid(), SECRET.as_bytes()), 0);
}

#[test]
fn a_part_of_a_password_goes_with_its_connection() {
    let valet = in_front_of("password").start();
    let message = frontend::frame(b'p', SECRET.repeat(1000).as_bytes());
    // As far as it goes into a first buffer, and further.
    for sent in [10_000, 20_000, message.len() - 1] {
        let mut client = Client::connect(&valet.unix()).expect("pgvalet listens");
        client.send(&frontend::startup(&[("user", "somebody"), ("database", DATABASE)]));
        client.recv();
        client.send(&message[..sent]);
        let is_there = || occurrences(valet.pid(), SECRET.as_bytes()) > 0;
        eventually("it to be read", || is_there().then_some(()));
        drop(client);
        eventually("it to be gone", || (!is_there()).then_some(()));
    }
}

#[test]
fn a_password_that_the_configuration_has_no_more_is_gone() {
    let valet = in_front_of("scram-sha-256").user("other", "an old password", &[]).start();
    valet.login(&Login::new("other", DATABASE).password("an old password"));
    assert!(occurrences(valet.pid(), b"an old password") > 0);
    valet.write_config(&valet.config().replace("an old password", "some new one"));
    valet.sighup();
    valet.wait_log(&["configuration reloaded"]);
    // The last one who holds the old configuration lets it go.
    valet.login(&Login::new("other", DATABASE).password("some new one"));
    eventually("it to be gone", || (occurrences(valet.pid(), b"an old password") == 0).then_some(()));
}

#[test]
fn what_auth_query_finds_is_gone_from_what_the_server_sent() {
    let valet = Pgvalet::builder()
        .setting("auth_user = \"postgres\"")
        .setting("workers = 1")
        .setting("auth_query = \"SELECT $1::text, reverse('elpats yrettab')\"")
        .database(DATABASE, Cluster::shared(), &["user = \"app_trust\""])
        .start();
    valet.login(&Login::new("somebody", DATABASE).password("battery staple"));
    // It is kept for the next login and for servers; the value as it stands in a row, behind its length, is not.
    assert!(occurrences(valet.pid(), b"battery staple") > 0);
    assert_eq!(occurrences(valet.pid(), b"\x0ebattery staple"), 0);
}

#[test]
fn the_password_of_a_file_is_gone_when_the_server_has_it() {
    let files = Files::default();
    let file = files.write("password", PASSWORD);
    for role in [Role::Scram, Role::Md5, Role::Plain] {
        let lines = [format!("user = \"{}\"", role.name()), format!("password_file = \"{file}\"")];
        let valet = Pgvalet::builder()
            .setting("auth_type = \"trust\"")
            .setting("workers = 1")
            .user("somebody", "x", &[])
            .database(DATABASE, Cluster::shared(), &[&lines[0], &lines[1]])
            .start();
        let mut client = valet.login(&Login::new("somebody", DATABASE));
        assert_eq!(client.value("SELECT current_user"), role.name());
        assert_eq!(occurrences(valet.pid(), PASSWORD.as_bytes()), 0, "{role:?}");
    }
}
