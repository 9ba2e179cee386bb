//! Servers that break the protocol, or say things that nobody asked for: pgvalet does not panic, closes such a server,
//! tells the client clearly or serves it by another server, and passes on what may come at any time.

mod support;
#[path = "support/watch.rs"]
mod watch;

use support::backend::{
    Message, command_complete, data_row, error_response, first_error, notice_response, notification_response,
    parameter_status, parse_complete, ready_for_query, row_description, tags,
};
use support::eventually;
use support::frontend::{extended, frame, query};
use support::pgvalet::{Builder, Pgvalet};
use support::scripted::{Act, Gate, GateKey, ScriptedServer};
use support::wire::{Client, Login};

/// A complete answer to a simple query.
fn done(tag: &str) -> Vec<u8> {
    [command_complete(tag), ready_for_query('I')].concat()
}

/// A connection whose first query is pgvalet's own look at the catalog, as the first one of each pool is.
fn first(acts: Vec<Act>) -> Vec<Act> {
    let mut all = vec![Act::Login, Act::ExpectTag(b'Q'), Act::Send(done("SELECT 0"))];
    all.extend(acts);
    all
}

/// A connection that serves whatever comes.
fn good() -> Vec<Act> {
    vec![Act::Login, Act::Serve("GOOD")]
}

fn in_front_of(server: &ScriptedServer) -> Builder {
    Pgvalet::builder()
        .setting("auth_type = \"trust\"")
        .setting("admin_users = [\"u\"]")
        .setting("workers = 1")
        .setting("default_pool_size = 1")
        .setting("reset = \"never\"")
        .setting("server_login_retry = \"20ms\"")
        .user("u", "secret", &[])
        .database_at("d", &server.tcp(), &[])
}

fn login(valet: &Pgvalet) -> Client {
    valet.login(&Login::new("u", "d"))
}

#[track_caller]
fn assert_good(client: &mut Client) {
    let reply = client.query("SELECT 1");
    assert_eq!(reply[0].command().as_deref(), Some("GOOD"), "{reply:?}");
}

#[track_caller]
fn assert_no_panic(valet: &Pgvalet) {
    assert_eq!(valet.count_log(&["panic"]), 0, "{:?}", valet.log());
    assert!(valet.exit_status().is_none(), "pgvalet runs");
}

/// Lets a server answer the client's query with these bytes and then wait to be closed. The client must get an error
/// with a SQLSTATE; it is served by another server afterwards, after a new login if it had to end.
#[track_caller]
fn answers_with(what: &str, answer: Vec<u8>) -> Vec<Message> {
    let server = ScriptedServer::start(vec![
        first(vec![Act::ExpectTag(b'Q'), Act::Send(answer), Act::ExpectEnd]),
        good(),
    ]);
    let valet = in_front_of(&server).start();
    let mut client = login(&valet);
    client.send(&query("SELECT 1"));
    let mut got = Vec::new();
    let stays = loop {
        match client.try_recv() {
            Ok(Some(message)) => {
                let last = message.tag == b'Z';
                got.push(message);
                if last {
                    break true;
                }
            }
            Ok(None) => break false,
            Err(error) if error.kind() == std::io::ErrorKind::TimedOut => {
                panic!("{what}: the client hangs: {got:?}")
            }
            Err(_) => break false,
        }
    };
    assert!(first_error(&got).is_some_and(|sqlstate| sqlstate.len() == 5), "{what}: {got:?}");
    if stays {
        assert_good(&mut client);
    }
    assert_good(&mut login(&valet));
    assert_no_panic(&valet);
    drop((client, valet));
    server.finish();
    got
}

#[test]
fn messages_that_do_not_exist_close_the_server() {
    for tag in [b'?', 0, 255, b'Q', b'R', b'K', b'v', b'1', b'2', b'3', b's', b't', b'n', b'V', b'p'] {
        answers_with(&format!("tag {tag}"), frame(tag, b"what\0"));
    }
}

#[test]
fn lengths_that_cannot_be_close_the_server() {
    for length in [0_u32, 1, 3, 0x8000_0000, u32::MAX] {
        for tag in [b'C', b'D', b'Z', b'E', b'S', b'?'] {
            let mut bytes = vec![tag];
            bytes.extend(length.to_be_bytes());
            bytes.extend([0; 16]);
            answers_with(&format!("length {length} of {tag}"), bytes);
        }
    }
}

#[test]
fn malformed_messages_that_pgvalet_reads_close_the_server() {
    for (what, bytes) in [
        ("no status", frame(b'Z', b"")),
        ("a long status", frame(b'Z', b"II")),
        ("an unknown status", frame(b'Z', b"x")),
        ("an empty ParameterStatus", frame(b'S', b"")),
        ("a ParameterStatus without value", frame(b'S', b"name\0")),
        ("a ParameterStatus without end", frame(b'S', b"name\0value")),
    ] {
        answers_with(what, bytes);
    }
}

#[test]
fn messages_without_measure_close_the_server() {
    // Announced, never sent: nobody waits for 2 GB of an error message.
    for tag in [b'S', b'E', b'N', b'A', b'Z'] {
        let mut bytes = vec![tag];
        bytes.extend(0x7fff_ffff_u32.to_be_bytes());
        bytes.extend([b'x'; 100_000]);
        answers_with(&format!("2 GB of {}", tag as char), bytes);
    }
}

#[test]
fn a_large_parameter_status_is_passed_on_and_told_to_the_next() {
    let value = "x".repeat(500_000);
    let answer = [parameter_status("application_name", &value), done("FIRST")].concat();
    let server = ScriptedServer::start(vec![
        first(vec![Act::ExpectTag(b'Q'), Act::Send(answer), Act::Serve("GOOD")]),
        good(),
    ]);
    let valet = in_front_of(&server).start();
    let mut client = login(&valet);
    let reply = client.query("SELECT 1");
    assert_eq!(tags(&reply), "SCZ");
    assert_eq!(reply[0].parameter(), Some(("application_name".into(), value)));
    assert_good(&mut client);
    assert_no_panic(&valet);
}

#[test]
fn an_error_without_sqlstate_is_passed_on() {
    for body in [
        &b"\0"[..],
        b"",
        b"Mno code\0\0",
        b"SERROR\0Mno code\0\0",
        b"M",
        b"SERROR",
        b"\xff\xff\0\0",
        b"C\0\0",
    ] {
        let server = ScriptedServer::start(vec![
            first(vec![
                Act::ExpectTag(b'Q'),
                Act::Send([frame(b'E', body), ready_for_query('I')].concat()),
                Act::Serve("GOOD"),
            ]),
            good(),
        ]);
        let valet = in_front_of(&server).start();
        let mut client = login(&valet);
        let reply = client.query("SELECT 1");
        assert_eq!(tags(&reply), "EZ", "{body:?}");
        assert_good(&mut client);
        assert_no_panic(&valet);
    }
}

#[test]
fn what_comes_behind_ready_for_query_closes_the_server_and_reaches_nobody() {
    for (what, more) in [
        ("a second answer", done("STRAY")),
        ("a ReadyForQuery", ready_for_query('I')),
        ("a row", data_row(&[Some("stray")])),
        ("part of a message", b"D\0\0".to_vec()),
        ("nonsense", b"nonsense nonsense".to_vec()),
    ] {
        let server = ScriptedServer::start(vec![
            first(vec![Act::ExpectTag(b'Q'), Act::Send([done("FIRST"), more].concat()), Act::ExpectEnd]),
            good(),
        ]);
        let valet = in_front_of(&server).start();
        let (mut client, mut next) = (login(&valet), login(&valet));
        assert_eq!(tags(&client.query("SELECT 1")), "CZ", "{what}");
        let reply = next.query("SELECT 2");
        assert_eq!(reply[0].command().as_deref(), Some("GOOD"), "{what}: {reply:?}");
        assert_good(&mut client);
        assert_no_panic(&valet);
        drop((client, next, valet));
        server.finish();
    }
}

#[test]
fn a_message_that_may_come_at_any_time_is_waited_for_behind_ready_for_query() {
    for (what, message) in [
        ("a notice", notice_response("NOTICE", "00000", "late")),
        ("a notification", notification_response(7, "channel", "payload")),
        ("a parameter", parameter_status("in_hot_standby", "on")),
    ] {
        let (gate, key) = Gate::new();
        let (beginning, end) = message.split_at(message.len() / 2);
        let server = ScriptedServer::start(vec![first(vec![
            Act::ExpectTag(b'Q'),
            Act::Send([&done("FIRST"), beginning].concat()),
            Act::Wait(gate),
            Act::Send(end.to_vec()),
            Act::Serve("GOOD"),
        ])]);
        let valet = in_front_of(&server).start();
        let (mut client, mut next) = (login(&valet), login(&valet));
        assert_eq!(tags(&client.query("SELECT 1")), "CZ", "{what}");
        key.open();
        assert_eq!(client.recv().encode(), message, "{what}");
        let reply = next.query("SELECT 2");
        assert_eq!(reply.iter().find_map(Message::command).as_deref(), Some("GOOD"), "{what}: {reply:?}");
        assert_eq!(valet.count_log(&["server lost"]), 0, "{what}");
    }
}

#[test]
fn what_an_idle_server_says_unasked_reaches_nobody() {
    for (what, bytes) in [
        ("an answer", done("STRAY")),
        ("a ReadyForQuery", ready_for_query('T')),
        ("an error", error_response("ERROR", "XX000", "stray")),
        ("FATAL", error_response("FATAL", "57P01", "terminating connection due to administrator command")),
        ("an unknown message", frame(b'?', b"")),
        ("a bad length", b"S\0\0\0\0".to_vec()),
        ("half a message", b"S\0\0\0\x20half".to_vec()),
        ("a message of 2 GB", [&b"N\x7f\xff\xff\xff"[..], &[0; 50_000]].concat()),
    ] {
        let (gate, key) = Gate::new();
        let server = ScriptedServer::start(vec![
            first(vec![
                Act::ExpectTag(b'Q'),
                Act::Send(done("FIRST")),
                Act::Wait(gate),
                Act::Send(bytes),
                Act::ExpectEnd,
            ]),
            good(),
        ]);
        let valet = in_front_of(&server).start();
        let mut client = login(&valet);
        assert_eq!(tags(&client.query("SELECT 1")), "CZ", "{what}");
        key.open();
        valet.wait_log(&["server closed"]);
        assert_good(&mut client);
        assert_no_panic(&valet);
        drop((client, valet));
        server.finish();
    }
}

#[test]
fn a_server_that_closes_while_idle_is_replaced_without_a_word() {
    for reset in [false, true] {
        let (gate, key) = Gate::new();
        let mut acts = vec![Act::ExpectTag(b'Q'), Act::Send(done("FIRST")), Act::Wait(gate)];
        if reset {
            acts.push(Act::Reset);
        }
        let server = ScriptedServer::start(vec![first(acts), good()]);
        let valet = in_front_of(&server).start();
        let mut client = login(&valet);
        assert_eq!(tags(&client.query("SELECT 1")), "CZ");
        key.open();
        valet.wait_log(&["server closed"]);
        assert_good(&mut client);
        drop((client, valet));
        server.finish();
    }
}

#[test]
fn a_server_that_closes_in_mid_message_ends_the_client_only_if_it_has_part_of_it() {
    let row = data_row(&[Some(&"r".repeat(50_000))]);
    let rows = [row_description(&["x"]), row.clone(), row[..30_000].to_vec()].concat();
    let short = b"C\0\0\0\x20SEL".to_vec();
    for (what, answer, keeps) in [("in a row", rows, false), ("in a short message", short, true)] {
        let server = ScriptedServer::start(vec![
            first(vec![Act::ExpectTag(b'Q'), Act::Send(answer), Act::Reset]),
            good(),
        ]);
        let valet = in_front_of(&server).start();
        let mut client = login(&valet);
        client.send(&query("SELECT 1"));
        if keeps {
            let reply = client.until_ready();
            assert!(first_error(&reply).is_some(), "{what}: {reply:?}");
            assert_good(&mut client);
        } else {
            // Nothing can be said in the middle of a row; that the row is cut short must show.
            let end = loop {
                match client.try_recv() {
                    Ok(Some(message)) => {
                        assert!("TDE".contains(char::from(message.tag)), "{what}: {message:?}")
                    }
                    end => break end,
                }
            };
            assert!(
                end.as_ref().is_err_and(|error| error.kind() != std::io::ErrorKind::TimedOut),
                "{what}: {end:?}"
            );
        }
        assert_good(&mut login(&valet));
        assert_no_panic(&valet);
    }
}

#[test]
fn fatal_in_a_query_is_passed_on_word_for_word() {
    let got = answers_with("FATAL", error_response("FATAL", "57P01", "in words of its own"));
    assert_eq!(got[0].field(b'M').as_deref(), Some("in words of its own"));
    assert_eq!(got[0].sqlstate().as_deref(), Some("57P01"));
}

#[test]
fn notices_and_notifications_pass_at_any_time() {
    let told =
        [notice_response("NOTICE", "00000", "hear"), notification_response(7, "channel", "payload")].concat();
    let answer = [
        &told[..],
        &row_description(&["x"]),
        &told,
        &data_row(&[Some("1")]),
        &told,
        &command_complete("SELECT 1"),
        &told,
        &ready_for_query('I'),
    ]
    .concat();
    let server =
        ScriptedServer::start(vec![first(vec![Act::ExpectTag(b'Q'), Act::Send(answer), Act::Serve("GOOD")])]);
    let valet = in_front_of(&server).start();
    let mut client = login(&valet);
    assert_eq!(tags(&client.query("SELECT 1")), "NATNADNACNAZ");
    assert_good(&mut client);
}

#[test]
fn parameters_may_change_at_any_time_and_the_client_learns_of_it() {
    let told = |value: &str| parameter_status("in_hot_standby", value);
    let answer = [
        told("on"),
        row_description(&["x"]),
        told("off"),
        told("on"),
        data_row(&[Some("1")]),
        command_complete("SELECT 1"),
        ready_for_query('I'),
    ];
    let server = ScriptedServer::start(vec![first(vec![
        Act::ExpectTag(b'Q'),
        Act::Send(answer.concat()),
        Act::Serve("GOOD"),
    ])]);
    let valet = in_front_of(&server).start();
    let (mut client, mut other) = (login(&valet), login(&valet));
    assert_eq!(tags(&client.query("SELECT 1")), "STSSDCZ");
    assert_good(&mut client);
    // The other client is told before its first reply, and once.
    let reply = other.query("SELECT 2");
    assert_eq!(tags(&reply), "SCZ");
    assert_eq!(reply[0].parameter(), Some(("in_hot_standby".into(), "on".into())));
    assert_good(&mut other);
}

#[test]
fn news_on_an_idle_server_are_told_with_the_next_reply() {
    let (gate, key) = Gate::new();
    let server = ScriptedServer::start(vec![first(vec![
        Act::ExpectTag(b'Q'),
        Act::Send(done("FIRST")),
        Act::Wait(gate),
        Act::Send(
            [notice_response("NOTICE", "00000", "nobody"), parameter_status("in_hot_standby", "on")].concat(),
        ),
        Act::Serve("GOOD"),
    ])]);
    let valet = in_front_of(&server).start();
    let mut client = login(&valet);
    assert_eq!(tags(&client.query("SELECT 1")), "CZ");
    key.open();
    // No log tells when pgvalet has read it, but from some query on the client knows.
    let reply = eventually("the news", || {
        let reply = client.query("SELECT 2");
        (reply.len() > 2).then_some(reply)
    });
    let news = reply.iter().find_map(Message::parameter).expect("a ParameterStatus");
    assert_eq!(news, ("in_hot_standby".into(), "on".into()));
    assert_good(&mut client);
    assert_eq!(valet.count_log(&["server closed"]), 0);
}

#[test]
fn replies_that_do_not_fit_the_batch_close_the_server() {
    for (what, answer) in [
        ("BindComplete first", frame(b'2', b"")),
        ("a row before its time", [parse_complete(), data_row(&[None])].concat()),
        ("ParseComplete twice", [parse_complete(), parse_complete()].concat()),
        ("ReadyForQuery too early", [parse_complete(), ready_for_query('I')].concat()),
    ] {
        let server = ScriptedServer::start(vec![
            first(vec![Act::SkipTo(b'S'), Act::Send(answer), Act::ExpectEnd]),
            good(),
        ]);
        let valet = in_front_of(&server).start();
        let mut client = login(&valet);
        client.send(&extended("SELECT 1", &[]));
        let reply = client.until_ready();
        assert!(first_error(&reply).is_some(), "{what}: {reply:?}");
        assert_good(&mut client);
        assert_no_panic(&valet);
        drop((client, valet));
        server.finish();
    }
}

#[test]
fn a_server_that_is_starting_ends_nobody_who_waits() {
    let starting = || {
        vec![Act::Startup, Act::Send(error_response("FATAL", "57P03", "the database system is starting up"))]
    };
    let server = ScriptedServer::start(vec![
        starting(),
        starting(),
        starting(),
        starting(),
        first(vec![Act::Serve("GOOD")]),
    ]);
    let valet = in_front_of(&server).start();
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..5).map(|_| scope.spawn(|| assert_good(&mut login(&valet)))).collect();
        for client in clients {
            client.join().expect("served");
        }
    });
    assert_eq!(valet.count_log(&["cannot open a server"]), 4);
}

#[test]
fn a_login_that_breaks_the_protocol_ends_nobody_who_waits() {
    let bad = [
        frame(b'?', b"x"),
        frame(b'R', b""),
        frame(b'R', &[0, 0, 0, 99]),
        b"R\0\0\0\0".to_vec(),
        b"R\xff\xff\xff\xff".to_vec(),
        done("TOO EARLY"),
        b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(),
        Vec::new(),
    ];
    let mut scripts: Vec<Vec<Act>> =
        bad.iter().map(|bytes| vec![Act::Startup, Act::Send(bytes.clone())]).collect();
    scripts.push(first(vec![Act::Serve("GOOD")]));
    let server = ScriptedServer::start(scripts);
    let valet = in_front_of(&server).start();
    // Some of these no waiting would mend, so a login may be told. It can try again, and nothing is broken by it.
    let mut client = eventually("a login", || Client::login(&valet.tcp(), &Login::new("u", "d")).ok());
    assert_good(&mut client);
    assert_eq!(valet.count_log(&["cannot open a server"]), bad.len());
    assert_no_panic(&valet);
}

#[test]
fn a_server_that_says_nothing_while_connecting_holds_up_nobody_for_ever() {
    let (gate, key): (Gate, GateKey) = Gate::new();
    let server =
        ScriptedServer::start(vec![vec![Act::Startup, Act::Wait(gate)], first(vec![Act::Serve("GOOD")])]);
    let valet = in_front_of(&server).setting("server_connect_timeout = \"200ms\"").start();
    assert_good(&mut login(&valet));
    assert_eq!(valet.count_log(&["cannot open a server"]), 1);
    key.open();
}
