//! Limits of logins on both sides: `client_login_timeout`, `server_connect_timeout`, `server_login_retry`.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::fixture::{Console, error_text, open_house, valet};
use crate::support::backend::{self, first_error, tags};
use crate::support::cluster::{DATABASE, PASSWORD, Role};
use crate::support::scripted::{Act, ScriptedServer, greeting};
use crate::support::wire::{Client, Login};
use crate::support::{frontend, scram};

#[test]
fn a_login_that_stops_half_way_ends_at_client_login_timeout() {
    let valet = valet("login_timeout", &["pool_size = 1"])
        .setting("auth_type = \"scram-sha-256\"")
        .setting("client_login_timeout = \"2s\"")
        .setting("max_client_conn = 8")
        .start();
    let startup = frontend::startup(&[("user", Role::Trust.name()), ("database", DATABASE)]);
    let stages: [(&str, Vec<u8>); 5] = [
        ("nothing", Vec::new()),
        ("part of a length", startup[..3].to_vec()),
        ("part of a startup packet", startup[..20].to_vec()),
        ("a request for encryption", frontend::ssl_request()),
        ("a startup packet", startup.clone()),
    ];
    let mut clients: Vec<(&str, Client)> = Vec::new();
    for (stage, bytes) in stages {
        let mut client = Client::connect(&valet.tcp()).expect("pgvalet listens");
        client.send(&bytes);
        if stage == "a request for encryption" {
            assert_eq!(client.recv_byte().expect("an answer"), b'N');
        }
        clients.push((stage, client));
    }
    let mut first_message = Client::connect(&valet.unix()).expect("pgvalet listens");
    first_message.send(&startup);
    first_message.recv();
    first_message.send(&frontend::sasl_initial("SCRAM-SHA-256", b"n,,n=,r=0123456789abcdefghijklmn"));
    first_message.recv();
    clients.push(("the first message of SCRAM", first_message));
    for (stage, client) in &mut clients {
        let last = client.until_end();
        let error = error_text(&last);
        assert!(
            error.starts_with("FATAL: 57014 ") && error.contains("client_login_timeout"),
            "{stage}: {error}"
        );
    }
    let mut console = Console::of(&valet);
    console.wait_for_rest(0, 0);
    assert_eq!(valet.client(Role::Trust).value("SELECT 1"), "1");
}

/// So many rounds take so long that a worker that did them itself would do nothing else meanwhile.
#[test]
fn a_password_that_takes_long_to_prepare_holds_up_nobody_else() {
    let valet = valet("slow_secret", &["user = \"app_trust\""])
        .setting("auth_type = \"scram-sha-256\"")
        .setting("scram_iterations = 300000")
        .setting("workers = 1")
        .user("quick", &scram::verifier(PASSWORD, b"salt of a verifier", 4096), &[])
        .start();
    let mut other = valet.login(&Login::new("quick", DATABASE).password(PASSWORD));
    other.query("SELECT 1");
    let mut client = Client::connect(&valet.tcp()).expect("pgvalet listens");
    client.send(&frontend::startup(&[("user", Role::Trust.name()), ("database", DATABASE)]));
    let is_ready = AtomicBool::new(false);
    let served = std::thread::scope(|scope| {
        let login = scope.spawn(|| {
            let challenge = client.recv();
            is_ready.store(true, Ordering::Relaxed);
            challenge
        });
        let mut served = 0;
        while !is_ready.load(Ordering::Relaxed) {
            other.query("SELECT 1");
            served += 1;
        }
        assert_eq!(login.join().expect("it does not panic").tag, b'R');
        served
    });
    assert!(served > 10, "{served} queries while the keys were derived");
}

#[test]
fn client_login_timeout_does_not_concern_those_who_have_logged_in() {
    let valet = valet("login_timeout_past", &[]).setting("client_login_timeout = \"1500ms\"").start();
    let mut client = valet.client(Role::Trust);
    let mut console = Console::of(&valet);
    for _ in 0..2 {
        let mut slow = Client::connect(&valet.tcp()).expect("pgvalet listens");
        assert_eq!(first_error(&slow.until_end()).as_deref(), Some("57014"));
    }
    assert_eq!(client.value("SELECT 1"), "1");
    console.wait_for_rest(1, 1);
}

#[test]
fn a_server_that_does_not_answer_is_given_up_and_the_next_one_serves() {
    let server = ScriptedServer::start(vec![
        vec![Act::Startup, Act::ExpectEnd],
        vec![Act::Startup, Act::Send(backend::auth(3, &[])), Act::ExpectTag(b'p'), Act::ExpectEnd],
        vec![Act::Startup, Act::Send(greeting()[..100].to_vec()), Act::ExpectEnd],
        vec![Act::Login, Act::Serve("SELECT 0")],
    ]);
    let valet = open_house()
        .setting("server_connect_timeout = \"300ms\"")
        .setting("server_login_retry = \"50ms\"")
        .database_at(DATABASE, &server.tcp(), &["pool_size = 1"])
        .start();
    let mut client = valet.client(Role::Trust);
    assert_eq!(tags(&client.query("SELECT")), "CZ");
    let mut console = Console::of(&valet);
    assert_eq!(console.stat("failed_connects"), 3);
    assert_eq!(valet.count_log(&["cannot open a server", "server_connect_timeout"]), 3);
    console.wait_for_rest(1, 1);
    drop(valet);
    server.finish();
}

#[test]
fn who_waits_for_a_server_that_does_not_answer_is_told_that() {
    // It accepts (in the kernel) and never says a word.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let endpoint = crate::support::Endpoint::Tcp(listener.local_addr().expect("its port"));
    let valet = open_house()
        .setting("server_connect_timeout = \"100ms\"")
        .setting("server_login_retry = \"1h\"")
        .setting("query_wait_timeout = \"500ms\"")
        .database_at(DATABASE, &endpoint, &["pool_size = 1"])
        .start();
    for _ in 0..2 {
        let error = Client::login(&valet.tcp(), &Role::Trust.login()).expect_err("no server");
        assert_eq!(error.sqlstate().as_deref(), Some("08001"), "{error}");
        assert!(error.to_string().contains("server_connect_timeout"), "{error}");
    }
    let mut console = Console::of(&valet);
    assert_eq!(console.stat("failed_connects"), 1, "server_login_retry is an hour");
    console.wait_for_rest(0, 0);
}

#[test]
fn a_server_that_is_full_or_starting_is_asked_again() {
    let refuse =
        |sqlstate: &str| vec![Act::Startup, Act::Send(backend::error_response("FATAL", sqlstate, "not now"))];
    let server = ScriptedServer::start(vec![
        refuse("53300"),
        refuse("57P03"),
        vec![Act::Login, Act::Serve("SELECT 0")],
    ]);
    let valet = open_house()
        .setting("server_login_retry = \"50ms\"")
        .database_at(DATABASE, &server.tcp(), &["pool_size = 1"])
        .start();
    let mut client = valet.client(Role::Trust);
    assert_eq!(tags(&client.query("SELECT")), "CZ");
    assert_eq!(Console::of(&valet).stat("failed_connects"), 2);
    drop((client, valet));
    server.finish();
}
