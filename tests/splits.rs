//! Bytes arrive however they are cut: one at a time or in random pieces, from clients and from servers, in every state.

mod support;
#[path = "support/watch.rs"]
mod watch;

use std::cell::RefCell;
use std::sync::OnceLock;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use support::backend::{self, Message, tags};
use support::cluster::{Cluster, Role};
use support::frontend::{
    bind, close_portal, close_statement, copy_data, copy_done, copy_fail, describe_portal,
    describe_statement, execute, extended, flush, function_call, parse, query, sync, terminate,
};
use support::pgvalet::Pgvalet;
use support::scripted::{Act, ScriptedServer, greeting};
use support::wire::{Client, Login};
use watch::{assert_whole, trusting};

/// One conversation through many states: what is sent at once, and the replies that it earns.
fn conversation() -> Vec<(Vec<u8>, &'static str)> {
    let long = "x".repeat(40_000);
    vec![
        (query("SELECT 1; SELECT 2"), "TDCTDCZ"),
        (query(""), "IZ"),
        (query("SELECT 1 / 0"), "EZ"),
        (extended("SELECT $1::text", &[Some("value")]), "12DCZ"),
        (
            [
                parse("named", "SELECT g FROM generate_series(1, $1::int) AS g"),
                describe_statement("named"),
                bind("portal", "named", &[Some("3")]),
                describe_portal("portal"),
                execute("portal", 2),
                execute("portal", 0),
                close_portal("portal"),
                sync(),
            ]
            .concat(),
            "1tT2TDDsDC3Z",
        ),
        ([bind("", "named", &[Some("1")]), execute("", 0), sync()].concat(), "2DCZ"),
        ([parse("named", "SELECT 1"), bind("", "named", &[]), sync()].concat(), "EZ"),
        ([parse("", "SELECT 1"), flush()].concat(), "1"),
        ([bind("", "", &[]), execute("", 0), sync()].concat(), "2DCZ"),
        ([close_statement("named"), close_statement("never"), sync()].concat(), "33Z"),
        (function_call(177, &[Some("40"), Some("2")]), "VZ"),
        (query("BEGIN"), "CZ"),
        (query("CREATE TEMP TABLE split_rows (x text) ON COMMIT DROP"), "CZ"),
        (query("COPY split_rows FROM STDIN"), "G"),
        (
            [copy_data(b"one\ntw"), copy_data(b"o\n"), sync(), copy_data(b"three\n"), copy_done()].concat(),
            "CZ",
        ),
        (query("COPY split_rows TO STDOUT"), "HdddcCZ"),
        (query("COPY split_rows FROM STDIN"), "G"),
        ([copy_data(b"four\n"), copy_fail("enough")].concat(), "EZ"),
        (query("SELECT 1"), "EZ"),
        (query("ROLLBACK"), "CZ"),
        (extended("SELECT length($1)", &[Some(&long)]), "12DCZ"),
        (query(&format!("SELECT '{long}', 1")), "TDCZ"),
        (
            [query("SELECT 1"), extended("SELECT 2", &[]), sync(), query("SET DateStyle = 'German'")]
                .concat(),
            "TDCZ",
        ),
        (Vec::new(), "12DCZ"),
        (Vec::new(), "Z"),
        (Vec::new(), "CSZ"),
        (query("RESET DateStyle"), "CSZ"),
    ]
}

/// Sends the conversation, cut as `cut` says for each of its parts, and checks every reply.
#[track_caller]
fn converse(client: &mut Client, mut cut: impl FnMut(&mut Client, &[u8])) {
    for (number, (bytes, expected)) in conversation().into_iter().enumerate() {
        cut(client, &bytes);
        let reply: Vec<Message> = (0..expected.len()).map(|_| client.recv()).collect();
        let mut came: Vec<char> = tags(&reply).chars().collect();
        let mut due: Vec<char> = expected.chars().collect();
        // PostgreSQL 14 and later report before CommandComplete or after it, as they please.
        if expected.contains('S') {
            came.sort_unstable();
            due.sort_unstable();
        }
        assert_eq!(came, due, "part {number}: {reply:?}");
    }
}

fn valet() -> &'static Pgvalet {
    static VALET: OnceLock<Pgvalet> = OnceLock::new();
    VALET.get_or_init(|| trusting(Cluster::shared(), 2).start())
}

#[test]
fn a_client_may_send_one_byte_at_a_time() {
    for endpoint in [valet().tcp(), valet().unix()] {
        let login = Role::Trust.login().parameter("application_name", "bytewise").split(Some(1));
        let mut client = Client::login(&endpoint, &login).expect("a login, byte by byte");
        converse(&mut client, |client, bytes| client.send(bytes));
        client.send(&terminate());
        assert_eq!(tags(&client.until_end()), "");
    }
}

#[test]
fn a_password_may_come_one_byte_at_a_time() {
    let valet = Pgvalet::in_front_of(Cluster::shared()).start();
    let mut client =
        Client::login(&valet.tcp(), &Role::Scram.login().split(Some(1))).expect("a login, byte by byte");
    assert_eq!(client.value("SELECT current_user"), "app_scram");
}

#[test]
fn sizes_around_those_of_the_buffers_make_no_difference() {
    let mut client = valet().client(Role::Trust);
    for size in [2, 3, 4, 5, 6, 7, 11, 4095, 16_383, 16_384, 16_385, 39_999] {
        converse(&mut client, |client, bytes| client.send_split(bytes, size));
    }
}

#[test]
fn messages_of_every_length_around_a_buffer_pass() {
    let mut client = valet().client(Role::Trust);
    for length in (16_340..16_420).step_by(3).chain([32_767, 32_768, 65_530, 65_536, 65_541, 200_000]) {
        let value = "y".repeat(length);
        assert_eq!(client.value(&format!("SELECT length('{value}')")), length.to_string());
        let reply = client.extended("SELECT $1", &[Some(&value)]);
        assert_eq!(backend::rows(&reply), [[Some(value)]]);
        assert_eq!(client.value(&format!("SELECT length(repeat('z', {length}))")), length.to_string());
        let row = client.value(&format!("SELECT repeat('z', {length})"));
        assert!(row.len() == length && row.bytes().all(|byte| byte == b'z'), "a row of {length} bytes");
    }
}

#[test]
fn random_cuts_make_no_difference() {
    let client = RefCell::new(valet().client(Role::Trust));
    let config = Config { cases: 40, failure_persistence: None, ..Config::default() };
    let sizes = prop::collection::vec(prop_oneof![1_usize..8, 1_usize..200, 1_usize..20_000], 1..12);
    TestRunner::new(config)
        .run(&sizes, |sizes| {
            let mut sizes = sizes.into_iter().cycle();
            converse(&mut client.borrow_mut(), |client, mut bytes| {
                while !bytes.is_empty() {
                    let (piece, rest) = bytes.split_at(sizes.next().unwrap_or(1).min(bytes.len()));
                    client.send(piece);
                    bytes = rest;
                }
            });
            Ok(())
        })
        .unwrap_or_else(|failure| panic!("{failure}"));
    assert_whole(valet(), 2);
}

#[test]
fn a_cut_at_every_byte_of_a_pipeline_makes_no_difference() {
    let mut client = valet().client(Role::Trust);
    let pipeline = [
        query("SELECT 'first'"),
        parse("cut", "SELECT $1::int"),
        bind("", "cut", &[Some("5")]),
        execute("", 0),
        close_statement("cut"),
        sync(),
        query("SELECT 'last'"),
    ]
    .concat();
    for at in 0..=pipeline.len() {
        let (one, other) = pipeline.split_at(at);
        client.send(one);
        client.send(other);
        let replies = [client.until_ready(), client.until_ready(), client.until_ready()].concat();
        assert_eq!(tags(&replies), "TDCZ12DC3ZTDCZ", "cut at {at}");
    }
}

/// What the scripted server says to one request, and what the client is to get of it, byte for byte.
fn answers() -> Vec<Vec<u8>> {
    let done = |tag: &str| [backend::command_complete(tag), backend::ready_for_query('I')].concat();
    let rows = |count: usize, length: usize| {
        let row = backend::data_row(&[Some(&"r".repeat(length)), None]);
        [backend::row_description(&["a", "b"]), row.repeat(count), done("SELECT")].concat()
    };
    vec![
        done("SHORT"),
        rows(3, 10),
        [backend::empty_query_response(), backend::ready_for_query('I')].concat(),
        [
            backend::notice_response("NOTICE", "00000", "hear"),
            backend::notification_response(4711, "c", "p"),
            done("N"),
        ]
        .concat(),
        [backend::error_response("ERROR", "22012", "no"), backend::ready_for_query('I')].concat(),
        [rows(1, 20_000), Vec::new()].concat(),
    ]
}

/// Plays every answer to a client of its own, cut into pieces of this size on the way from the server.
fn play_in_pieces(size: usize) {
    let mut acts = vec![
        Act::Login,
        Act::ExpectTag(b'Q'),
        Act::Send([backend::command_complete("SELECT 0"), backend::ready_for_query('I')].concat()),
    ];
    for answer in answers() {
        acts.extend([Act::ExpectTag(b'Q'), Act::SendSplit(answer, size)]);
    }
    acts.push(Act::ExpectEnd);
    let server = ScriptedServer::start(vec![acts]);
    let valet = Pgvalet::builder()
        .setting("auth_type = \"trust\"")
        .setting("default_pool_size = 1")
        .setting("reset = \"never\"")
        .user("u", "secret", &[])
        .database_at("d", &server.tcp(), &[])
        .start();
    let mut client = valet.login(&Login::new("u", "d"));
    for answer in answers() {
        // Nothing after which pgvalet would ask the server about the catalog.
        let got: Vec<u8> = client.query("SELECT 1").iter().flat_map(Message::encode).collect();
        assert!(got == answer, "pieces of {size}: {:?}", String::from_utf8_lossy(&got));
    }
    client.terminate();
    drop(valet);
    server.finish();
}

#[test]
fn a_server_may_send_one_byte_at_a_time() {
    play_in_pieces(1);
}

#[test]
fn a_server_may_send_pieces_of_any_size() {
    for size in [2, 3, 4, 5, 6, 7, 9, 13, 1000, 16_384] {
        play_in_pieces(size);
    }
}

#[test]
fn a_server_may_log_pgvalet_in_one_byte_at_a_time() {
    let done = [backend::command_complete("OK"), backend::ready_for_query('I')].concat();
    let server = ScriptedServer::start(vec![vec![
        Act::Startup,
        Act::SendSplit(greeting(), 1),
        Act::ExpectTag(b'Q'),
        Act::SendSplit(done.clone(), 1),
        Act::ExpectTag(b'Q'),
        Act::SendSplit(done, 1),
        Act::ExpectEnd,
    ]]);
    let valet = Pgvalet::builder()
        .setting("auth_type = \"trust\"")
        .setting("reset = \"never\"")
        .user("u", "secret", &[])
        .database_at("d", &server.tcp(), &[])
        .start();
    let mut client = valet.login(&Login::new("u", "d").split(Some(1)));
    assert_eq!(client.query("SELECT 1")[0].command().as_deref(), Some("OK"));
    assert_eq!(client.parameter("server_version").as_deref(), Some("17.0"));
    drop((client, valet));
    server.finish();
}
