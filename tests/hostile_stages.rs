//! Attackers who take their time, or send what is well-formed and meant badly: at each stage of a login, after it, through
//! the answers of `auth_query` and in names. Whatever they do, others are served, and nothing of it stays.

mod support;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::time::Duration;

use support::backend::{auth, auth_ok, parameter_status, ready_for_query};
use support::cluster::{Cluster, DATABASE, PASSWORD, Role};
use support::frontend::{self, frame, sasl_initial, startup};
use support::pgvalet::{Builder, Pgvalet};
use support::stream::Stream;
use support::tls::{Authority, Dial, Files, Wanted};
use support::wire::{Client, Login, LoginError};
use support::{Endpoint, eventually};

/// More than a connection that was served leaves behind in any part of pgvalet.
const GROWTH_KIB: u64 = 4 * 1024;

fn with_tls(files: &Files, builder: Builder) -> Builder {
    let (certificate, key) =
        files.identity("server", &Authority::new("an authority").issue(&Wanted::local()));
    builder
        .setting("client_tls_sslmode = \"allow\"")
        .setting(&format!("client_tls_cert_file = \"{certificate}\""))
        .setting(&format!("client_tls_key_file = \"{key}\""))
        .setting("max_failed_logins = 0")
        .setting("log_pooler_errors = false")
        .setting("workers = 1")
}

fn socket(valet: &Pgvalet) -> TcpStream {
    let Endpoint::Tcp(address) = valet.tcp() else { unreachable!() };
    let socket = TcpStream::connect(address).expect("pgvalet listens");
    socket.set_nodelay(true).expect("a socket");
    socket.set_read_timeout(Some(support::DEADLINE)).expect("a socket");
    socket
}

/// Has `attack` done again and again: others are served meanwhile, and in the end pgvalet is as it was.
fn assert_leaves_nothing(valet: &Pgvalet, rounds: usize, mut attack: impl FnMut()) {
    let serves = || assert_eq!(valet.client(Role::Scram).value("SELECT 'serves'"), "serves");
    // What is made at its first use is there then.
    serves();
    attack();
    let files = valet.open_files();
    let before = valet.rss_kib();
    for _ in 0..rounds {
        attack();
        serves();
    }
    eventually("all of them to be gone", || (valet.open_files() <= files).then_some(()));
    let after = valet.rss_kib();
    assert!(after < before + GROWTH_KIB, "{before} KiB, then {after}");
    assert_eq!(valet.count_log(&["panic"]), 0, "{:?}", valet.log());
}

/// The first flight of a TLS client.
fn client_hello() -> Vec<u8> {
    let name = "localhost".try_into().expect("a name");
    let mut session = rustls::ClientConnection::new(Dial::default().config(), name).expect("a client");
    let mut hello = Vec::new();
    while session.wants_write() {
        session.write_tls(&mut hello).expect("memory takes everything");
    }
    hello
}

/// Somebody who comes as far as `said`, reading `heard` bytes on the way, and then sends `rest` one byte now and then.
struct Slow {
    what: &'static str,
    said: Vec<u8>,
    /// Ends what is read before the dripping begins.
    heard: u8,
    rest: Vec<u8>,
}

fn stages() -> Vec<Slow> {
    let packet = startup(&[("user", "app_scram"), ("database", DATABASE)]);
    let first = sasl_initial("SCRAM-SHA-256", b"n,,n=,r=fyko+d2lbbFgONRv9qkxdawL");
    let long = |tag: u8| frame(tag, &[b'x'; 60_000]);
    let half = |bytes: &[u8]| [bytes, &[0; 9_000]].concat();
    vec![
        Slow { what: "the startup packet", said: vec![], heard: 0, rest: frontend::untagged(&[0; 9_000]) },
        Slow { what: "a request for TLS", said: vec![], heard: 0, rest: half(&frontend::ssl_request()[..7]) },
        Slow { what: "TLS", said: frontend::ssl_request(), heard: b'S', rest: half(&client_hello()) },
        Slow { what: "TLS without a request", said: vec![], heard: 0, rest: half(&client_hello()) },
        Slow { what: "the choice of a mechanism", said: packet.clone(), heard: 0, rest: long(b'p') },
        Slow { what: "the proof", said: [packet, first].concat(), heard: 0, rest: long(b'p') },
    ]
}

#[test]
fn one_byte_now_and_then_outlasts_the_login_timeout_at_no_stage() {
    let files = Files::default();
    let builder = Pgvalet::in_front_of(Cluster::shared());
    let valet = with_tls(&files, builder).setting("client_login_timeout = \"400ms\"").start();
    // Its first logins are slower than that.
    valet.client(Role::Scram).terminate();
    assert_leaves_nothing(&valet, 2, || {
        std::thread::scope(|scope| {
            let slow: Vec<_> = stages()
                .into_iter()
                .map(|stage| {
                    let valet = &valet;
                    scope.spawn(move || {
                        let mut socket = socket(valet);
                        socket.write_all(&stage.said).expect("pgvalet takes it");
                        if stage.heard != 0 {
                            let mut answer = [0];
                            socket.read_exact(&mut answer).expect("an answer");
                            assert_eq!(answer[0], stage.heard, "{}", stage.what);
                        }
                        // A second and more: the slowness is the attack.
                        let dripped = stage.rest.iter().take_while(|byte| {
                            std::thread::sleep(Duration::from_millis(2));
                            socket.write_all(&[**byte]).is_ok()
                        });
                        let count = dripped.count();
                        assert!(count < stage.rest.len(), "{}: all of it was taken", stage.what);
                    })
                })
                .collect();
            // Who comes meanwhile logs in and works.
            for _ in 0..5 {
                assert_eq!(valet.client(Role::Scram).value("SELECT 1"), "1");
            }
            for thread in slow {
                thread.join().expect("it was ended");
            }
        });
    });
}

/// A TLS record.
fn record(kind: u8, body: &[u8]) -> Vec<u8> {
    [&[kind, 3, 3][..], &(body.len() as u16).to_be_bytes(), body].concat()
}

#[test]
fn what_is_no_tls_ends_its_connection_during_the_handshake_and_after_it() {
    let files = Files::default();
    let valet = with_tls(&files, Pgvalet::in_front_of(Cluster::shared())).start();
    let (handshake, alert, data, change) = (0x16, 0x15, 0x17, 0x14);
    let hello = client_hello();
    let body = &hello[5..];
    let bytewise: Vec<u8> = body.iter().flat_map(|byte| record(handshake, &[*byte])).collect();
    let mut unfinished = body.to_vec();
    // Its length says that there will be 16 MB.
    unfinished[1..4].copy_from_slice(&[0xff; 3]);
    let beginnings = [
        record(data, b"data before a handshake"),
        record(alert, &[2, 40]),
        record(alert, &[1, 0]),
        record(change, &[1]).repeat(5_000),
        record(handshake, &[]).repeat(5_000),
        [&bytewise[..], &record(data, &[0; 100])].concat(),
        [record(handshake, &unfinished), record(handshake, &[0; 16_000]).repeat(20)].concat(),
        [hello.clone(), hello.clone()].concat(),
        [hello.clone(), record(change, &[1]).repeat(5_000)].concat(),
        [hello.clone(), record(data, &[7; 16_384]).repeat(4)].concat(),
        [hello, frontend::query("SELECT 1")].concat(),
    ];
    let sessions = [
        record(data, &[7; 200]),
        record(handshake, &[0, 0, 0, 0]),
        record(alert, &[2, 40]),
        record(change, &[1]).repeat(100),
        frontend::query("SELECT 'in the clear'"),
        vec![0; 20_000],
    ];
    assert_leaves_nothing(&valet, 3, || {
        for beginning in &beginnings {
            for asks in [false, true] {
                let mut socket = socket(&valet);
                if asks {
                    socket.write_all(&frontend::ssl_request()).expect("it is sent");
                    socket.read_exact(&mut [0]).expect("an answer");
                }
                let _ = socket.write_all(beginning);
                let _ = socket.shutdown(std::net::Shutdown::Write);
                let mut said = Vec::new();
                let _ = socket.read_to_end(&mut said);
                let ready = ready_for_query('I');
                assert!(
                    !said.windows(ready.len()).any(|part| part == ready),
                    "nothing of a session was said"
                );
            }
        }
        for bytes in &sessions {
            let stream = Dial::default().connect(&valet.tcp()).expect("a handshake");
            let mut client = Client::login_over(stream, &valet.tcp(), &Role::Scram.login()).expect("a login");
            assert_eq!(client.value("SELECT 1"), "1");
            let Stream::Tls(tls) = client.stream() else { unreachable!("it is TLS") };
            // Past TLS, into the connection, which may have ended by that.
            let _ = (&tls.sock).write_all(bytes);
            let _ = tls.sock.shutdown(std::net::Shutdown::Write);
            let rest = client.try_until_end().unwrap_or_default();
            assert!(rest.iter().all(|message| message.tag != b'D'), "{rest:?}");
        }
    });
    // What anybody can cause is no flood of warnings: that is what log_pooler_errors is for.
    assert_eq!(valet.count_log(&["WARN"]), 0, "{:?}", valet.log());
}

#[test]
fn a_handshake_is_not_begun_again() {
    let files = Files::default();
    let valet = with_tls(&files, Pgvalet::in_front_of(Cluster::shared())).start();
    let Endpoint::Tcp(address) = valet.tcp() else { unreachable!() };
    let mut child = Command::new("openssl")
        .args(["s_client", "-tls1_2", "-starttls", "postgres", "-connect", &address.to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("openssl is there");
    // Its command to renegotiate.
    child.stdin.take().expect("it listens").write_all(b"R\n").expect("it is there");
    let output = child.wait_with_output().expect("it ends");
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(said.contains("RENEGOTIATING"), "{said}");
    assert!(said.contains("no renegotiation") || said.contains("unexpected message"), "{said}");
    assert_eq!(valet.client(Role::Scram).value("SELECT 1"), "1");
}

/// A server that goes through SCRAM as it should, up to its last word, which is this.
fn server_that_ends_with(last: Vec<u8>) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let address = listener.local_addr().expect("the port is known");
    let packet = |stream: &mut TcpStream, header: usize| -> std::io::Result<Vec<u8>> {
        let mut head = vec![0; header];
        stream.read_exact(&mut head)?;
        let length = head[header - 4..].iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte));
        let mut body = vec![0; length - 4];
        stream.read_exact(&mut body)?;
        Ok(body)
    };
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let mut talk = || -> std::io::Result<()> {
                packet(&mut stream, 4)?;
                stream.write_all(&auth(10, b"SCRAM-SHA-256\0\0"))?;
                let first = String::from_utf8_lossy(&packet(&mut stream, 5)?).into_owned();
                let nonce = first.split("r=").nth(1).unwrap_or_default();
                stream.write_all(&auth(11, format!("r={nonce}more,s=c2FsdA==,i=4096").as_bytes()))?;
                packet(&mut stream, 5)?;
                stream.write_all(&last)?;
                stream.read_to_end(&mut Vec::new()).map(drop)
            };
            let _ = talk();
        }
    });
    address
}

/// Who does not know the password cannot pose as the server, even if it is shown a proof: the client gets no session.
#[test]
fn a_server_that_cannot_prove_itself_gets_no_client() {
    let welcome = [auth_ok(), parameter_status("server_version", "18.0"), ready_for_query('I')].concat();
    let signature = |text: &str| auth(12, text.as_bytes());
    let wrong = format!("v={}=", "A".repeat(43));
    let cases: Vec<(&str, Vec<Vec<u8>>)> = vec![
        ("another signature", vec![signature(&wrong), welcome.clone()]),
        ("a short signature", vec![signature("v=AAAA"), welcome.clone()]),
        ("no signature", vec![signature("v="), welcome.clone()]),
        ("one that is no base64", vec![signature("v=%%%%"), welcome.clone()]),
        ("an error instead", vec![signature("e=other-error"), welcome.clone()]),
        ("something in front", vec![signature(&format!("x=y,{wrong}")), welcome.clone()]),
        ("nothing at all", vec![signature(""), welcome.clone()]),
        ("no last word", vec![welcome.clone()]),
        ("another first word", vec![auth(11, b"r=x,s=c2FsdA==,i=4096"), welcome.clone()]),
        ("the question again", vec![auth(10, b"SCRAM-SHA-256\0\0"), welcome.clone()]),
        ("a wish for the password itself", vec![auth(3, b""), welcome]),
    ];
    for (what, last) in cases {
        let address = server_that_ends_with(last.concat());
        let valet = Pgvalet::builder()
            .setting("auth_type = \"trust\"")
            .setting("log_level = \"trace\"")
            .setting("server_tls_sslmode = \"disable\"")
            .setting("server_login_retry = \"1h\"")
            .setting("query_wait_timeout = \"500ms\"")
            .setting("workers = 1")
            .database_at(
                "hostile",
                &Endpoint::Tcp(address),
                &["user = \"u\"", "password = \"the servers secret\""],
            )
            .database(DATABASE, Cluster::shared(), &[])
            .all_roles()
            .start();
        let error = Client::login(&valet.tcp(), &Login::new("app_trust", "hostile")).expect_err(what);
        assert!(matches!(&error, LoginError::Refused(_)), "{what}: {error}");
        assert_eq!(valet.client(Role::Trust).value("SELECT 1"), "1", "{what}");
        for words in ["panic", "the servers secret"] {
            assert_eq!(valet.count_log(&[words]), 0, "{what}: {:?}", valet.log());
        }
    }
}

/// Names that would mean something to SQL, to a terminal, to a log or to a file system, if any of them read it as its own.
fn hostile_names() -> Vec<Vec<u8>> {
    let mut names: Vec<Vec<u8>> = [
        "x' OR '1'='1",
        "'; SELECT pg_sleep(100); --",
        "\"; DROP TABLE x; --",
        "$1",
        "$$",
        "\\",
        "app_scram ",
        " app_scram",
        "APP_SCRAM",
        "app_scram\n",
        "a\nINFO forged line",
        "a\r\x1b[2J\x07",
        "%s%n%x",
        "{0}",
        "../../etc/passwd",
        "*",
        "all",
        "+app_scram",
        "/^.*",
        "\u{202e}gnp",
        "\u{feff}app_scram",
        "app_scram\u{ad}",
        "pgbouncer",
        "postgres",
    ]
    .map(|name| name.as_bytes().to_vec())
    .into();
    names.push(vec![0xff, 0xfe, b'x']);
    names.push(vec![0xc0, 0x80]);
    names.push(vec![b'n'; 9_000]);
    names
}

fn named(user: &[u8], database: &[u8]) -> Vec<u8> {
    let parts: [&[u8]; 9] = [
        &frontend::PROTOCOL_3_0.to_be_bytes(),
        b"user\0",
        user,
        b"\0",
        b"database\0",
        database,
        b"\0",
        b"\0",
        b"",
    ];
    frontend::untagged(&parts.concat())
}

#[test]
fn names_are_names_whatever_they_look_like() {
    let cluster = Cluster::shared();
    // Users are looked up: their names go to the server.
    let valet = Pgvalet::builder()
        .setting("auth_user = \"postgres\"")
        .setting("auth_query_cache_time = 0")
        .setting("max_failed_logins = 0")
        .setting("workers = 1")
        .database(DATABASE, cluster, &["user = \"app_trust\""])
        .start();
    let attempt = |user: &[u8], database: &[u8]| {
        let mut client = Client::connect(&valet.tcp()).expect("pgvalet listens");
        client.send(&named(user, database));
        let login = Login::new("x", DATABASE).password("wrong");
        let shown = String::from_utf8_lossy(user).into_owned();
        let error = client.authenticate(&login).expect_err(&shown);
        let sqlstate = error.sqlstate().unwrap_or_default();
        assert!(["28P01", "28000", "08P01", "3D000"].contains(&&*sqlstate), "{shown}: {error}");
    };
    assert_leaves_nothing(&valet, 2, || {
        for name in hostile_names() {
            if name != b"postgres" {
                attempt(&name, DATABASE.as_bytes());
            }
            if name.len() < 9_000 && name != b"pgbouncer" {
                attempt(b"app_scram", &name);
            }
        }
    });
    // One line each, and nothing in it that a terminal would act on.
    for line in valet.log() {
        assert!(!line.starts_with("INFO forged"), "{line:?}");
        assert!(!line.contains(['\x1b', '\x07', '\r', '\u{202e}']), "{line:?}");
    }
    let known = cluster.value("SELECT count(*) FROM pg_roles WHERE rolname = 'app_scram'");
    assert_eq!(known, "1");
}

/// Whoever may write what `auth_query` reads can let people in as he likes, and do nothing else.
#[test]
fn answers_of_auth_query_are_survived_whatever_they_are() {
    let cluster = Cluster::start();
    let stored = format!("{}=", "A".repeat(43));
    let large = "i".repeat(3_000_000);
    let secrets = [
        "''".to_owned(),
        "'SCRAM-SHA-256$'".into(),
        "'SCRAM-SHA-256$4096:c2FsdA==$short:short'".into(),
        format!("'SCRAM-SHA-256$0:c2FsdA==${stored}:{stored}'"),
        format!("'SCRAM-SHA-256$2147483647:c2FsdA==${stored}:{stored}'"),
        format!("'SCRAM-SHA-256$99999999999:c2FsdA==${stored}:{stored}'"),
        format!("'SCRAM-SHA-256$4096:%%${stored}:{stored}'"),
        format!("'SCRAM-SHA-256$4096:' || repeat('QUFB', 100000) || '${stored}:{stored}'"),
        format!("'md5{}'", "0".repeat(32)),
        "'md5'".into(),
        "E'line\\nbreak'".into(),
        format!("'{large}'"),
    ];
    let mut queries: Vec<String> = secrets
        .iter()
        .enumerate()
        .map(|(number, secret)| format!("CREATE FUNCTION answers{number}(text, OUT text, OUT text) LANGUAGE sql AS $$ SELECT $1, {secret} $$; "))
        .collect();
    cluster.sql(&queries.concat());
    queries = (0..secrets.len()).map(|number| format!("SELECT * FROM answers{number}($1)")).collect();
    for query in [
        "SELECT NULL::text, NULL::text WHERE $1 <> ''",
        "SELECT $1, NULL::text",
        "SELECT NULL::text, 'x' WHERE $1 <> ''",
        "SELECT 'another', 'right' WHERE $1 <> ''",
        "SELECT $1::text",
        "SELECT $1, 'right', NULL::text, 4, 5",
        "SELECT $1, 'right', 'no array'",
        "SELECT $1, 'right', '{{a,b},{c,d}}'",
        "SELECT $1, 'right', ARRAY[NULL, 'x']::text[]",
        "SELECT 1, 2 WHERE $1 <> ''",
        "SELECT FROM pg_class WHERE $1 <> ''",
        "SELECT $1, repeat('x', 1000) FROM generate_series(1, 20000)",
        "SELECT $1, pg_notify('app', 'x')::text",
        "SELECT set_config('role', 'app_scram', false), 'right' WHERE $1 <> ''",
        "CREATE TABLE IF NOT EXISTS made AS SELECT 1",
        "LISTEN app",
        "COPY (SELECT 1) TO STDOUT",
        "COPY made FROM STDIN",
        "SELECT 1/0, $1",
        "",
    ] {
        queries.push(query.to_owned());
    }
    let builder = Pgvalet::builder()
        .setting("auth_user = \"postgres\"")
        .setting("auth_query_cache_time = 0")
        .setting("auth_query_timeout = \"5s\"")
        .setting("max_failed_logins = 0")
        .setting("workers = 1")
        .setting("log_level = \"trace\"")
        .user("app_scram", PASSWORD, &[]);
    let fixed = ["user = \"app_trust\"", "dbname = \"app\""];
    let builder = builder.database(DATABASE, &cluster, &[fixed[0], "auth_query = \"\""]);
    let builder = queries.iter().enumerate().fold(builder, |builder, (number, query)| {
        let line = format!("auth_query = \"{query}\"");
        builder.database(&format!("db{number}"), &cluster, &[fixed[0], fixed[1], &line])
    });
    let valet = builder.start();
    assert_leaves_nothing(&valet, 2, || {
        for (number, query) in queries.iter().enumerate() {
            let login = Login::new("somebody", &format!("db{number}")).password("not that");
            let Err(error) = Client::login(&valet.tcp(), &login) else { panic!("let in by {query}") };
            assert!(error.sqlstate().is_some() || query.contains("2147483647"), "{query}: {error}");
        }
    });
    assert_eq!(valet.count_log(&["right"]), 0, "secrets are not logged: {:?}", valet.log());
}
