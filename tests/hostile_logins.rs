//! Attackers on both sides of a login: clients that send what no client would, servers that answer what no server would.
//! Whatever they do, pgvalet goes on serving and keeps nothing of it.

#[path = "support/between.rs"]
mod between;
mod support;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use between::Recorder;
use support::backend::{auth, auth_ok, error_response, ready_for_query};
use support::cluster::{Cluster, DATABASE, PASSWORD, Role};
use support::frontend::{self, frame, sasl_initial, sasl_response, startup};
use support::pgvalet::{Builder, Pgvalet};
use support::tls::{Authority, Dial, Files, Wanted};
use support::wire::{Client, Login, LoginError};
use support::{Endpoint, eventually};

/// pgvalet for one client user, with TLS for those who want it.
struct House {
    valet: Pgvalet,
    _files: Files,
}

impl House {
    fn new(settings: &[&str]) -> Self {
        let files = Files::default();
        let (certificate, key) =
            files.identity("server", &Authority::new("an authority").issue(&Wanted::local()));
        let builder = Pgvalet::in_front_of(Cluster::shared())
            .setting("client_tls_sslmode = \"allow\"")
            .setting(&format!("client_tls_cert_file = \"{certificate}\""))
            .setting(&format!("client_tls_key_file = \"{key}\""))
            .setting("max_failed_logins = 0")
            .setting("log_pooler_errors = false")
            .setting("workers = 1");
        let builder = settings.iter().fold(builder, |builder, line| builder.setting(line));
        Self { valet: builder.start(), _files: files }
    }

    fn serves(&self) {
        assert_eq!(self.valet.client(Role::Scram).value("SELECT 'serves'"), "serves");
    }
}

/// A connection in the clear, or over TLS.
fn connect(valet: &Pgvalet, tls: bool) -> Client {
    match tls {
        true => Client::over(Dial::default().connect(&valet.tcp()).expect("a handshake"), &valet.tcp()),
        false => Client::connect(&valet.tcp()).expect("pgvalet listens"),
    }
}

fn packet() -> Vec<u8> {
    startup(&[("user", "app_scram"), ("database", DATABASE)])
}

/// Sends these messages one after the other, each when something has come in answer to the one before; then what came.
fn play(mut client: Client, messages: &[Vec<u8>]) -> Vec<String> {
    let mut said = Vec::new();
    for message in messages {
        if client.try_send(message).is_err() {
            break;
        }
        match client.try_recv() {
            Ok(Some(answer)) if answer.tag == b'E' => said.push(answer.sqlstate().unwrap_or_default()),
            Ok(Some(answer)) => said.push(char::from(answer.tag).to_string()),
            Ok(None) | Err(_) => break,
        }
    }
    said
}

/// What attackers try after a good startup packet, and the SQLSTATE that ends it.
fn hostile_logins() -> Vec<(&'static str, bool, Vec<Vec<u8>>, &'static str)> {
    let nonce = "fyko+d2lbbFgONRv9qkxdawL";
    let first = |flag: &str| sasl_initial("SCRAM-SHA-256", format!("{flag},,n=,r={nonce}").as_bytes());
    let plus = |flag: &str| sasl_initial("SCRAM-SHA-256-PLUS", format!("{flag},,n=,r={nonce}").as_bytes());
    let bound = "p=tls-server-end-point";
    let long = [b"n,,n=,r=".to_vec(), vec![b'x'; 60_000]].concat();
    let ended = |message: Vec<u8>| vec![packet(), message];
    vec![
        ("a second startup packet in the exchange", false, ended(packet()), "08P01"),
        ("a query before the login", false, ended(frontend::query("SELECT 1")), "08P01"),
        ("a length of 4 GB", false, ended([&b"p"[..], &[0xff; 4]].concat()), "08P01"),
        ("a length below 4", false, ended([&b"p"[..], &3_u32.to_be_bytes()].concat()), "08P01"),
        ("a message of 64 KB and more", false, ended(frame(b'p', &[b'x'; 70_000])), "08P01"),
        ("an empty message", false, ended(frame(b'p', b"")), "08P01"),
        ("another mechanism", false, ended(sasl_initial("PLAIN", b"\0a\0b")), "08P01"),
        (
            "an authorization identity",
            false,
            ended(sasl_initial("SCRAM-SHA-256", b"n,a=x,n=,r=abc")),
            "0A000",
        ),
        ("a mandatory extension", false, ended(sasl_initial("SCRAM-SHA-256", b"n,,m=x,n=,r=abc")), "0A000"),
        ("binding where there is no channel", false, ended(first(bound)), "08P01"),
        ("PLUS where it was not offered", false, ended(plus(bound)), "08P01"),
        ("somebody who hides that PLUS was offered", true, ended(first("y")), "28000"),
        ("PLUS without its binding", true, ended(plus("n")), "08P01"),
        ("PLUS with another binding", true, ended(plus("p=tls-unique")), "08P01"),
        (
            "a nonce of 60 KB",
            false,
            vec![packet(), sasl_initial("SCRAM-SHA-256", &long), sasl_response(b"x")],
            "08P01",
        ),
        (
            "a nonce that is not the server's",
            false,
            vec![packet(), first("n"), sasl_response(format!("c=biws,r={nonce},p=AAAA").as_bytes())],
            "08P01",
        ),
        (
            "a proof that is no proof",
            false,
            vec![packet(), first("n"), sasl_response(b"c=biws,r=,p=")],
            "08P01",
        ),
        (
            "another channel's binding",
            true,
            vec![packet(), plus(bound), sasl_response(b"c=cD10bHMtc2VydmVyLWVuZC1wb2ludCwsAAAA,r=x,p=AAAA")],
            "",
        ),
    ]
}

#[test]
fn logins_that_break_the_exchange_end_with_a_word_about_it() {
    let house = House::new(&[]);
    for (what, tls, messages, sqlstate) in hostile_logins() {
        let said = play(connect(&house.valet, tls), &messages);
        let last = said.last().cloned().unwrap_or_default();
        let fits = if sqlstate.is_empty() { last.len() == 5 } else { last == sqlstate };
        assert!(fits, "{what}: {said:?}");
        house.serves();
    }
    // Who says that it knows nothing of binding may go on without, as with PostgreSQL.
    let mut client = connect(&house.valet, true);
    client.send(&packet());
    client.authenticate(&Role::Scram.login()).expect("n is honest");
    assert_eq!(house.valet.count_log(&["panic"]), 0);
}

/// What attackers try before any startup packet.
fn hostile_beginnings() -> Vec<Vec<u8>> {
    let (ssl, gss) = (frontend::ssl_request(), frontend::gssenc_request());
    let hello = [&[0x16, 3, 1, 2, 0][..], &[1; 512]].concat();
    vec![
        Vec::new(),
        vec![0; 10_001],
        vec![0xff; 5_000],
        vec![0, 0, 0, 0],
        vec![0x7f, 0xff, 0xff, 0xff, 0, 3, 0, 0],
        [&ssl[..], &ssl, &ssl].concat(),
        [&gss[..], &gss].concat(),
        // Behind a request for encryption something that would have to come encrypted.
        [&ssl[..], &packet()].concat(),
        [&ssl[..], &hello].concat(),
        hello,
        vec![0x16, 3, 1, 0xff, 0xff, 1],
        vec![0x16; 9_000],
        frontend::cancel_request(1, &[0; 4]),
        frontend::cancel_request(-1, &[0xff; 4]),
        frontend::cancel_request(i32::MAX, &[7; 256]),
        startup(&[("options", "-c=")]),
        startup(&[("user", "")]),
        startup(&[("user", "app_scram"), ("options", &"-c a=b ".repeat(1300))]),
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(),
    ]
}

#[test]
fn attackers_leave_nothing_behind() {
    let house = House::new(&["client_login_timeout = \"2s\""]);
    let Endpoint::Tcp(address) = house.valet.tcp() else { unreachable!() };
    let attack = || {
        for beginning in hostile_beginnings() {
            let mut socket = TcpStream::connect(address).expect("pgvalet listens");
            socket.set_read_timeout(Some(Duration::from_millis(20))).expect("a socket has a time limit");
            let _ = socket.write_all(&beginning).and_then(|()| socket.read(&mut [0; 256]));
        }
        for (_, tls, messages, _) in hostile_logins() {
            play(connect(&house.valet, tls), &messages);
        }
    };
    // What is made at its first use is there then.
    attack();
    house.serves();
    let files = house.valet.open_files();
    let before = house.valet.rss_kib();
    for _ in 0..10 {
        attack();
        house.serves();
    }
    eventually("all of them to be gone", || (house.valet.open_files() <= files).then_some(()));
    let after = house.valet.rss_kib();
    assert!(after < before + 4 * 1024, "{before} KiB, then {after}");
    assert_eq!(house.valet.count_log(&["panic"]), 0);
}

/// A server that asks for SCRAM and goes on as it is told with the nonce of its client. It counts its connections.
fn server_that_says(answer: impl Fn(&str) -> Vec<u8> + Send + 'static) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let address = listener.local_addr().expect("the port is known");
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let mut talk = || -> std::io::Result<()> {
                let mut length = [0; 4];
                stream.read_exact(&mut length)?;
                let mut body = vec![0; u32::from_be_bytes(length) as usize - 4];
                stream.read_exact(&mut body)?;
                stream.write_all(&auth(10, b"SCRAM-SHA-256\0\0"))?;
                let mut header = [0; 5];
                stream.read_exact(&mut header)?;
                let [_, length @ ..] = header;
                let mut first = vec![0; u32::from_be_bytes(length) as usize - 4];
                stream.read_exact(&mut first)?;
                let first = String::from_utf8_lossy(&first).into_owned();
                let nonce = first.split("r=").nth(1).unwrap_or_default();
                count.fetch_add(1, Ordering::Relaxed);
                stream.write_all(&answer(nonce))?;
                stream.read_to_end(&mut Vec::new()).map(drop)
            };
            let _ = talk();
        }
    });
    (address, asked)
}

fn in_front_of(address: SocketAddr) -> Builder {
    Pgvalet::builder()
        .setting("auth_type = \"trust\"")
        .setting("server_tls_sslmode = \"disable\"")
        .setting("server_login_retry = \"1h\"")
        .setting("query_wait_timeout = \"500ms\"")
        .setting("server_connect_timeout = \"3s\"")
        .setting("workers = 1")
        .database_at("hostile", &Endpoint::Tcp(address), &["user = \"u\"", "password = \"secret\""])
        .database(DATABASE, Cluster::shared(), &[])
        .all_roles()
}

type Answer = Box<dyn Fn(&str) -> Vec<u8> + Send>;

#[test]
fn servers_that_break_the_exchange_are_given_up_and_cost_nothing() {
    let first = |text: &'static str| -> Answer {
        Box::new(move |nonce| auth(11, text.replace("NONCE", nonce).as_bytes()))
    };
    let cases: Vec<(&str, Answer, &str)> = vec![
        ("ten million rounds and one", first("r=NONCEx,s=c2FsdA==,i=10000001"), "iteration"),
        ("two thousand million rounds", first("r=NONCEx,s=c2FsdA==,i=2147483647"), "iteration"),
        ("no rounds", first("r=NONCEx,s=c2FsdA==,i=0"), "iteration"),
        ("less than no rounds", first("r=NONCEx,s=c2FsdA==,i=-1"), "iteration"),
        ("rounds beyond any number", first("r=NONCEx,s=c2FsdA==,i=99999999999999999999"), "iteration"),
        ("another nonce", first("r=another,s=c2FsdA==,i=4096"), "Nonce"),
        ("nothing added to the nonce", first("r=NONCE,s=c2FsdA==,i=4096"), "Nonce"),
        ("no salt", first("r=NONCEx,i=4096"), "SCRAM"),
        ("a salt that is none", first("r=NONCEx,s=%%,i=4096"), "SCRAM"),
        ("an extension", first("m=x,r=NONCEx,s=c2FsdA==,i=4096"), "SCRAM"),
        ("nothing", first(""), "SCRAM"),
        ("an end before its time", Box::new(|_| auth(12, b"v=AAAA")), "SCRAM"),
        ("that it is all right", Box::new(|_| [auth_ok(), ready_for_query('I')].concat()), ""),
        ("a length of 4 GB", Box::new(|_| [&b"R"[..], &[0xff; 4]].concat()), ""),
        ("a length below 4", Box::new(|_| [&b"R"[..], &3_u32.to_be_bytes()].concat()), ""),
        ("less than a request", Box::new(|_| frame(b'R', &[0, 0])), ""),
        ("an error without a code", Box::new(|_| frame(b'E', b"\0")), ""),
        ("a row", Box::new(|_| frame(b'D', &[0, 0])), ""),
        ("an error that names nothing", Box::new(|_| error_response("FATAL", "", "")), ""),
    ];
    for (what, answer, expected) in cases {
        let (address, asked) = server_that_says(answer);
        let valet = in_front_of(address).start();
        let error = Client::login(&valet.tcp(), &Login::new("app_trust", "hostile")).expect_err(what);
        assert!(matches!(&error, LoginError::Refused(_)), "{what}: {error}");
        // The reason, and not that it took too long: nothing was derived for it.
        assert!(error.to_string().contains(expected), "{what}: {error}");
        assert!(asked.load(Ordering::Relaxed) > 0, "{what}");
        assert_eq!(valet.client(Role::Trust).value("SELECT 1"), "1", "{what}");
        assert_eq!(valet.count_log(&["panic"]), 0, "{what}: {:?}", valet.log());
    }
}

#[test]
fn a_nonce_of_any_length_does_no_harm() {
    let long =
        |nonce: &str| auth(11, format!("r={nonce}{},s=c2FsdA==,i=4096", "x".repeat(60_000)).as_bytes());
    let (address, asked) = server_that_says(long);
    let valet = in_front_of(address).start();
    let error =
        Client::login(&valet.tcp(), &Login::new("app_trust", "hostile")).expect_err("it goes no further");
    assert!(matches!(error, LoginError::Refused(_)), "{error}");
    assert!(asked.load(Ordering::Relaxed) > 0);
    assert_eq!(valet.client(Role::Trust).value("SELECT 1"), "1");
    assert_eq!(valet.count_log(&["panic"]), 0);
}

/// What comes in the clear behind the server's yes to TLS may be of somebody in between.
#[test]
fn what_a_server_says_before_the_handshake_does_not_count() {
    let injected = [&b"S"[..], &auth_ok(), &ready_for_query('I')].concat();
    let recorder = Recorder::that_first_answers(Cluster::shared(), &injected);
    let valet = Pgvalet::builder()
        .setting("auth_type = \"trust\"")
        .setting("server_tls_sslmode = \"require\"")
        .setting("server_login_retry = \"1h\"")
        .database_on(
            "odd",
            "127.0.0.1",
            recorder.port(),
            &["dbname = \"app\"", "password = \"x\"", "user = \"u\""],
        )
        .user("app_scram", PASSWORD, &[])
        .start();
    let error = Client::login(&valet.tcp(), &Login::new("app_scram", "odd")).expect_err("it is no server");
    assert!(error.to_string().contains("TLS with the server failed"), "{error}");
}
