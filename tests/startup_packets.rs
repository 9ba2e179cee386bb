//! The first packets of a connection, broken in every way: each ends in a clear FATAL, and nothing stays behind.

mod support;

use support::backend::{Message, first_error};
use support::cluster::{Cluster, DATABASE, PASSWORD, Role};
use support::frontend::{self, PROTOCOL_3_0, SSL_REQUEST};
use support::pgvalet::{Builder, Pgvalet};
use support::wire::{Client, Login};
use support::{Endpoint, eventually};

/// Longest startup packet that PostgreSQL takes.
const LONGEST: usize = 10_000;

fn builder() -> Builder {
    Pgvalet::builder()
        .setting("auth_type = \"trust\"")
        .setting("admin_users = [\"boss\"]")
        .user("boss", PASSWORD, &[])
        .user("known", PASSWORD, &[])
        .database(DATABASE, Cluster::shared(), &["user = \"app_trust\""])
}

/// Everything that comes in answer to these bytes, up to the end of the connection.
fn answer(endpoint: &Endpoint, bytes: &[u8], split: Option<usize>) -> Vec<Message> {
    let mut client = Client::connect(endpoint).expect("pgvalet listens");
    client.split = split;
    // pgvalet may have ended the connection before all is written.
    let _ = client.try_send(bytes);
    client.until_end()
}

fn assert_fatal(what: &str, messages: &[Message], sqlstate: &str) {
    assert_eq!(messages.len(), 1, "{what}: {messages:?}");
    assert_eq!(messages[0].sqlstate().as_deref(), Some(sqlstate), "{what}: {messages:?}");
    assert_eq!(messages[0].field(b'S').as_deref(), Some("FATAL"), "{what}");
    assert!(messages[0].field(b'M').is_some_and(|text| !text.is_empty()), "{what}");
}

/// A packet with this length field, whatever its real length.
fn with_length(length: u32, rest: &[u8]) -> Vec<u8> {
    [&length.to_be_bytes()[..], rest].concat()
}

fn body(parameters: &[u8]) -> Vec<u8> {
    frontend::untagged(&[&PROTOCOL_3_0.to_be_bytes()[..], parameters].concat())
}

/// A login whose packet is this long, filled up with blanks in `options`.
fn of_length(length: usize) -> Vec<u8> {
    let packet = |blanks: usize| {
        frontend::startup(&[("user", "known"), ("database", DATABASE), ("options", &" ".repeat(blanks))])
    };
    packet(length - packet(0).len())
}

fn malformed() -> Vec<(&'static str, Vec<u8>, &'static str)> {
    let startup = |parameters: &[(&str, &str)]| {
        let base = [("user", "known"), ("database", DATABASE)];
        frontend::startup(&[&base[..], parameters].concat())
    };
    vec![
        ("length 0", with_length(0, &[]), "08P01"),
        ("length 3", with_length(3, &[]), "08P01"),
        ("length 7", with_length(7, &[0, 3, 0]), "08P01"),
        ("the highest length", with_length(u32::MAX, &[0; 64]), "08P01"),
        ("the highest signed length", with_length(0x7fff_ffff, &[0; 64]), "08P01"),
        ("one byte too long", with_length(10_001, &PROTOCOL_3_0.to_be_bytes()), "08P01"),
        ("no parameters and no end", body(b""), "08P01"),
        ("a name without end", body(b"user"), "08P01"),
        ("a value without end", body(b"user\0known"), "08P01"),
        ("no terminator", body(b"user\0known\0"), "08P01"),
        ("bytes behind the terminator", body(b"user\0known\0\0x"), "08P01"),
        ("no user", body(b"database\0app\0\0"), "28000"),
        ("an empty user", body(b"user\0\0database\0app\0\0"), "28000"),
        ("nothing but the terminator", body(b"\0"), "28000"),
        (
            "an encryption request with a body",
            with_length(12, &[&SSL_REQUEST.to_be_bytes()[..], b"abcd"].concat()),
            "08P01",
        ),
        ("a cancel request without a key", frontend::cancel_request(1, b""), "08P01"),
        ("a cancel request with a huge key", frontend::cancel_request(1, &[7; 257]), "08P01"),
        ("options that set nothing", startup(&[("options", "-c=")]), "08P01"),
        ("options with an empty name", startup(&[("options", "--=x")]), "08P01"),
        ("options that end in -c", startup(&[("options", "-c")]), "08P01"),
        ("options without a value", startup(&[("options", "-c work_mem")]), "08P01"),
        ("a switch that is not one of a session", startup(&[("options", "--")]), "08P01"),
        ("words", startup(&[("options", "work_mem=1MB")]), "08P01"),
        ("protocol 2", frontend::startup_version(0x0002_0000, &[("user", "known")]), "0A000"),
        ("replication that is no boolean", startup(&[("replication", "maybe")]), "22023"),
        (
            "a database that is not there",
            frontend::startup(&[("user", "known"), ("database", "nowhere")]),
            "3D000",
        ),
        ("a query", frontend::query("SELECT 1"), "08P01"),
        ("HTTP", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(), "08P01"),
    ]
}

#[test]
fn every_malformed_packet_ends_in_a_clear_fatal_however_it_is_cut() {
    let valet = builder().start();
    for (what, packet, sqlstate) in malformed() {
        for endpoint in [valet.tcp(), valet.unix()] {
            for split in [None, Some(1)] {
                assert_fatal(what, &answer(&endpoint, &packet, split), sqlstate);
            }
        }
    }
    assert_eq!(valet.count_log(&["a bug in pgvalet"]), 0);
    assert_eq!(valet.login(&Login::new("known", DATABASE)).value("SELECT 'alive'"), "alive");
}

#[test]
fn malformed_packets_leave_nothing_behind() {
    let valet = builder().setting("workers = 1").start();
    let mut console = valet.login(&Login::new("boss", "pgvalet"));
    valet.login(&Login::new("known", DATABASE)).terminate();
    let clients = |console: &mut Client| -> String {
        console.rows("SHOW WORKERS").iter().filter_map(|row| row[1].clone()).collect()
    };
    eventually("the first client to be gone", || (clients(&mut console) == "1").then_some(()));
    let before = valet.open_files();
    let packets = malformed();
    for _ in 0..10 {
        for (_, packet, _) in &packets {
            answer(&valet.tcp(), packet, None);
            // And some are never finished: the client goes away in the middle of its packet.
            let mut client = Client::connect(&valet.tcp()).expect("pgvalet listens");
            client.send(&packet[..packet.len() / 2]);
            client.reset();
        }
    }
    eventually("all of them to be gone", || {
        (clients(&mut console) == "1" && valet.open_files() == before).then_some(())
    });
}

#[test]
fn the_longest_startup_packet_is_taken_and_one_byte_more_is_not() {
    let valet = builder().start();
    for split in [None, Some(997)] {
        let mut client = Client::connect(&valet.tcp()).expect("pgvalet listens");
        client.split = split;
        client.send(&of_length(LONGEST));
        client.until_ready();
        assert_fatal("too long", &answer(&valet.tcp(), &of_length(LONGEST + 1), split), "08P01");
    }
}

#[test]
fn a_login_may_come_in_single_bytes() {
    let valet = Pgvalet::in_front_of(Cluster::shared()).start();
    for endpoint in [valet.tcp(), valet.unix()] {
        let mut client = Client::connect(&endpoint).expect("pgvalet listens");
        client.split = Some(1);
        for request in [frontend::gssenc_request(), frontend::ssl_request()] {
            client.send(&request);
            assert_eq!(client.recv_byte().expect("an answer"), b'N');
        }
        let login = Role::Scram.login();
        client.send(&frontend::startup(&[
            ("user", &login.user),
            ("database", DATABASE),
            ("options", "-c work_mem=5MB"),
        ]));
        client.authenticate(&login).expect("login");
        assert_eq!(client.value("SHOW work_mem"), "5MB");
    }
}

#[test]
fn everything_that_a_login_needs_may_come_at_once() {
    let valet = builder().start();
    let mut client = Client::connect(&valet.tcp()).expect("pgvalet listens");
    let startup = frontend::startup(&[("user", "known"), ("database", DATABASE)]);
    client.send(&frontend::all(&[startup, frontend::query("SELECT 'behind the login'")]));
    client.until_ready();
    let messages = client.until_ready();
    assert!(format!("{messages:?}").contains("behind the login"), "{messages:?}");
}

#[test]
fn direct_tls_is_refused_without_text_that_no_tls_client_could_read() {
    let valet = builder().start();
    let hello = [&[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3][..], &[9; 500]].concat();
    assert!(answer(&valet.tcp(), &hello, None).is_empty());
}

#[test]
fn whoever_is_slow_in_any_part_of_the_login_is_ended() {
    let valet = Pgvalet::in_front_of(Cluster::shared()).setting("client_login_timeout = \"250ms\"").start();
    let startup = frontend::startup(&[("user", Role::Scram.name()), ("database", DATABASE)]);
    let beginnings: [(&str, Vec<u8>); 5] = [
        ("nothing", vec![]),
        ("half a length", vec![0, 0]),
        ("half a startup packet", startup[..20].to_vec()),
        ("only a request for encryption", frontend::ssl_request()),
        ("no password", startup.clone()),
    ];
    for (what, bytes) in beginnings {
        let mut client = Client::connect(&valet.tcp()).expect("pgvalet listens");
        client.send(&bytes);
        if bytes == frontend::ssl_request() {
            client.recv_byte().expect("an answer");
        }
        let last = client.until_end();
        assert_eq!(first_error(&last).as_deref(), Some("57014"), "{what}: {last:?}");
        assert_eq!(last.last().and_then(|message| message.field(b'S')).as_deref(), Some("FATAL"), "{what}");
    }
    // One byte now and then does not help.
    let mut client = Client::connect(&valet.tcp()).expect("pgvalet listens");
    let mut writer = client.writer();
    let drip = std::thread::spawn(move || {
        let huge = with_length(9_999, &[0; 9_995]);
        huge.iter().all(|byte| {
            std::thread::sleep(std::time::Duration::from_millis(5));
            writer.send(&[*byte]).is_ok()
        })
    });
    assert_eq!(first_error(&client.until_end()).as_deref(), Some("57014"));
    drop(client);
    assert!(!drip.join().expect("the thread does not panic"), "the connection ended before the packet did");
}

#[test]
fn too_many_clients_are_told_so() {
    let valet = builder().setting("max_client_conn = 2").start();
    let one = valet.login(&Login::new("known", DATABASE));
    let two = valet.login(&Login::new("known", DATABASE));
    let error = Client::login(&valet.tcp(), &Login::new("known", DATABASE)).expect_err("one too many");
    assert_eq!(error.sqlstate().as_deref(), Some("53300"), "{error}");
    one.terminate();
    two.terminate();
    eventually("the places to be free", || Client::login(&valet.tcp(), &Login::new("known", DATABASE)).ok());
}
