//! TLS with clients: who gets in in which mode, by which version, and what no client may do.

mod support;

use std::io::{Read, Write};
use std::net::TcpStream;

use rustls::HandshakeKind;
use rustls::version::{TLS12, TLS13};
use support::backend::first_error;
use support::cluster::{Cluster, DATABASE, Role};
use support::frontend::{self, copy_data, copy_done, query};
use support::pgvalet::{Builder, Pgvalet};
use support::programs::{Output, psql_with};
use support::stream::Stream;
use support::tls::{Authority, Dial, Files, Identity, Wanted};
use support::wire::{Client, Login, LoginError};
use support::{Endpoint, eventually};

/// The first byte of a TLS record that says what is wrong.
const ALERT: u8 = 0x15;

/// An authority, a certificate of it for this machine, and the files of both.
struct Setup {
    authority: Authority,
    files: Files,
}

impl Setup {
    fn new() -> Self {
        Self::with(&Wanted::local())
    }

    fn with(wanted: &Wanted) -> Self {
        let (authority, files) = (Authority::new("clients' authority"), Files::default());
        files.identity("server", &authority.issue(wanted));
        files.write("ca.crt", &authority.pem);
        Self { authority, files }
    }

    fn path(&self, name: &str) -> String {
        self.files.path(name).display().to_string()
    }

    /// pgvalet in front of the shared cluster, with this `client_tls_sslmode`.
    fn builder(&self, mode: &str) -> Builder {
        Pgvalet::in_front_of(Cluster::shared())
            .setting(&format!("client_tls_sslmode = \"{mode}\""))
            .setting(&format!("client_tls_cert_file = \"{}\"", self.path("server.crt")))
            .setting(&format!("client_tls_key_file = \"{}\"", self.path("server.key")))
    }

    fn start(&self, mode: &str) -> Pgvalet {
        self.builder(mode).start()
    }

    /// An identity signed by the authority, as files.
    fn client(&self, name: &str, wanted: &Wanted) -> (Identity, String, String) {
        let identity = self.authority.issue(wanted);
        let (certificate, key) = self.files.identity(name, &identity);
        (identity, certificate, key)
    }
}

/// psql's description of its connection, with `PGSSLMODE` and more.
fn conninfo(endpoint: &Endpoint, mode: &str, more: &[(&str, &str)]) -> Output {
    let environment = [&[("PGSSLMODE", mode)], more].concat();
    psql_with(endpoint, &Role::Scram.login(), &environment, "\\conninfo")
}

#[track_caller]
fn encrypted(output: Output) {
    let said = output.ok();
    assert!(said.contains("SSL connection"), "{said}");
}

#[track_caller]
fn plain(output: Output) {
    let said = output.ok();
    assert!(said.contains("You are connected") && !said.contains("SSL connection"), "{said}");
}

#[track_caller]
fn failed(output: &Output, why: &str) {
    assert_eq!(output.code, Some(2), "{output:?}");
    assert!(output.stderr.contains(why), "{output:?}");
}

fn login_over(valet: &Pgvalet, dial: &Dial) -> Client {
    let stream = dial.connect(&valet.tcp()).unwrap_or_else(|error| panic!("handshake: {error}"));
    Client::login_over(stream, &valet.tcp(), &Role::Scram.login())
        .unwrap_or_else(|error| panic!("login: {error}"))
}

fn session(client: &Client) -> &rustls::ClientConnection {
    match client.stream() {
        Stream::Tls(stream) => &stream.conn,
        other => panic!("no TLS: {other:?}"),
    }
}

#[test]
fn psql_gets_what_both_sides_modes_allow() {
    let setup = Setup::new();
    let ca = setup.path("ca.crt");
    let root = [("PGSSLROOTCERT", ca.as_str())];

    let valet = setup.start("disable");
    for mode in ["disable", "allow", "prefer"] {
        plain(conninfo(&valet.tcp(), mode, &[]));
    }
    failed(&conninfo(&valet.tcp(), "require", &[]), "server does not support SSL");

    for accepting in ["allow", "prefer"] {
        let valet = setup.start(accepting);
        plain(conninfo(&valet.tcp(), "disable", &[]));
        plain(conninfo(&valet.tcp(), "allow", &[]));
        encrypted(conninfo(&valet.tcp(), "prefer", &[]));
        encrypted(conninfo(&valet.tcp(), "require", &[]));
        encrypted(conninfo(&valet.tcp(), "verify-ca", &root));
        encrypted(conninfo(&valet.tcp(), "verify-full", &root));
    }

    let valet = setup.start("require");
    failed(&conninfo(&valet.tcp(), "disable", &[]), "connections without TLS are refused");
    for mode in ["allow", "prefer", "require"] {
        encrypted(conninfo(&valet.tcp(), mode, &[]));
    }
    encrypted(conninfo(&valet.tcp(), "verify-full", &root));
    // A Unix socket goes without.
    plain(conninfo(&valet.unix(), "prefer", &[]));
    let refused = Client::login(&valet.tcp(), &Role::Scram.login());
    assert_eq!(refused.expect_err("it has no TLS").sqlstate().as_deref(), Some("28000"));
}

#[test]
fn psql_finds_out_about_certificates_that_do_not_fit() {
    let setup = Setup::new();
    let ca = setup.path("ca.crt");
    let other = setup.files.write("other.crt", &Authority::new("somebody else").pem);

    let valet = setup.start("prefer");
    failed(&conninfo(&valet.tcp(), "verify-ca", &[("PGSSLROOTCERT", &other)]), "certificate verify failed");

    let expired = Setup::with(&Wanted::local().expired());
    let valet = expired.start("prefer");
    let root = expired.path("ca.crt");
    failed(&conninfo(&valet.tcp(), "verify-ca", &[("PGSSLROOTCERT", &root)]), "certificate verify failed");
    encrypted(conninfo(&valet.tcp(), "require", &[]));

    setup.files.identity("server", &setup.authority.issue(&Wanted::new("elsewhere").dns("elsewhere.test")));
    let valet = setup.start("prefer");
    let root = [("PGSSLROOTCERT", ca.as_str())];
    encrypted(conninfo(&valet.tcp(), "verify-ca", &root));
    failed(&conninfo(&valet.tcp(), "verify-full", &root), "does not match host name");
}

#[test]
fn certificates_of_clients_are_demanded_and_verified() {
    let setup = Setup::new();
    let (_, certificate, key) = setup.client("good", &Wanted::new("app_scram"));
    let (_, expired, expired_key) = setup.client("old", &Wanted::new("app_scram").expired());
    let stranger = Authority::new("somebody else").issue(&Wanted::new("app_scram"));
    let (strange, strange_key) = setup.files.identity("strange", &stranger);
    let authorities = format!("client_tls_ca_file = \"{}\"", setup.path("ca.crt"));
    let identity =
        |certificate: &str, key: &str| [("PGSSLCERT", certificate.to_owned()), ("PGSSLKEY", key.to_owned())];
    let connect = |valet: &Pgvalet, certificate: &str, key: &str| {
        let identity = identity(certificate, key);
        let environment: Vec<(&str, &str)> =
            identity.iter().map(|(name, value)| (*name, value.as_str())).collect();
        conninfo(&valet.tcp(), "require", &environment)
    };

    for mode in ["verify-ca", "verify-full"] {
        let valet = setup.builder(mode).setting(&authorities).start();
        encrypted(connect(&valet, &certificate, &key));
        failed(&conninfo(&valet.tcp(), "require", &[]), "certificate required");
        failed(&connect(&valet, &strange, &strange_key), "unknown ca");
        failed(&connect(&valet, &expired, &expired_key), "certificate expired");
        failed(&conninfo(&valet.tcp(), "disable", &[]), "connections without TLS are refused");
    }

    // With an authority a certificate may be shown, and then it has to be good.
    let valet = setup.builder("prefer").setting(&authorities).start();
    encrypted(conninfo(&valet.tcp(), "require", &[]));
    encrypted(connect(&valet, &certificate, &key));
    failed(&connect(&valet, &strange, &strange_key), "unknown ca");

    // Without one, nobody asks.
    let valet = setup.start("require");
    encrypted(connect(&valet, &strange, &strange_key));
}

/// As with PostgreSQL's `ssl_crl_file`: who is on the list is out, and so is everybody whose authority has no list in force.
#[test]
fn certificates_that_were_revoked_do_not_count() {
    let setup = Setup::new();
    let identity = |serial| setup.authority.issue(&Wanted::new("app_scram").serial(serial));
    let (good, bad) = (identity(7), identity(8));
    let list = |text: &str| setup.files.write("revoked.crl", text);
    let file = list(&setup.authority.revoke(&[8], 4000));
    let valet = setup
        .builder("verify-full")
        .setting(&format!("client_tls_ca_file = \"{}\"", setup.path("ca.crt")))
        .setting(&format!("client_tls_crl_file = \"{file}\""))
        .start();
    let why = |identity: &Identity| {
        let dial = Dial::default().version(&TLS12).identity(identity);
        dial.connect(&valet.tcp()).err().map_or_else(String::new, |error| error.to_string())
    };
    let replace = |text: &str, said: &str| {
        let known = valet.count_log(&[said]);
        list(text);
        eventually("the new list to be read", || (valet.count_log(&[said]) > known).then_some(()));
    };
    let (in_force, refused) = ("certificates and keys were read again", "TLS stays as it was");
    assert_eq!(why(&good), "");
    assert!(why(&bad).contains("Revoked"), "{}", why(&bad));

    // The next list counts when it is there, for who connects then.
    replace(&setup.authority.revoke(&[7], 4000), in_force);
    assert_eq!(why(&bad), "");
    assert!(why(&good).contains("Revoked"), "{}", why(&good));

    // What is no list changes nothing.
    replace("nonsense", refused);
    assert_eq!(why(&bad), "");

    for (text, said) in [
        (setup.authority.revoke(&[], 2025), "the list of revoked certificates has expired"),
        (Authority::new("somebody else").revoke(&[], 4000), "has no list of the authority"),
    ] {
        replace(&text, in_force);
        assert!(!why(&good).is_empty() && !why(&bad).is_empty());
        valet.wait_log(&["TLS failed", said]);
    }
}

#[test]
fn both_versions_and_both_kinds_of_keys_work() {
    for wanted in [Wanted::local(), Wanted::local().rsa()] {
        let setup = Setup::with(&wanted);
        let valet = setup.start("require");
        for version in [&TLS12, &TLS13] {
            let mut client = login_over(&valet, &Dial::default().version(version));
            assert_eq!(session(&client).protocol_version(), Some(version.version));
            assert_eq!(client.value("SELECT current_user"), Role::Scram.name());
        }
        encrypted(conninfo(&valet.tcp(), "verify-full", &[("PGSSLROOTCERT", &setup.path("ca.crt"))]));
    }
}

#[test]
fn versions_and_cipher_suites_are_those_of_the_configuration() {
    let setup = Setup::new();
    let valet = setup.builder("require").setting("client_tls_protocols = \"tlsv1.3\"").start();
    assert!(Dial::default().version(&TLS12).connect(&valet.tcp()).is_err());
    login_over(&valet, &Dial::default().version(&TLS13));
    let valet = setup
        .builder("require")
        .setting("client_tls_protocols = \"tlsv1.2\"")
        .setting("client_tls_ciphers = \"ECDHE-ECDSA-CHACHA20-POLY1305\"")
        .start();
    assert!(Dial::default().version(&TLS13).connect(&valet.tcp()).is_err());
    let client = login_over(&valet, &Dial::default());
    let suite = session(&client).negotiated_cipher_suite().expect("a suite").suite();
    assert_eq!(format!("{suite:?}"), "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256");
    let valet = setup.builder("require").setting("client_tls13_ciphers = \"TLS_AES_128_GCM_SHA256\"").start();
    let client = login_over(&valet, &Dial::default());
    let suite = session(&client).negotiated_cipher_suite().expect("a suite").suite();
    assert_eq!(format!("{suite:?}"), "TLS13_AES_128_GCM_SHA256");
}

#[test]
fn direct_tls_has_to_name_the_protocol() {
    let setup = Setup::new();
    let valet = setup.start("prefer");
    let mut client = login_over(&valet, &Dial::default().direct().alpn("postgresql"));
    assert_eq!(session(&client).alpn_protocol(), Some(&b"postgresql"[..]));
    assert_eq!(client.value("SELECT 1"), "1");

    let dial = Dial::default().direct();
    let stream = dial.connect(&valet.tcp()).expect("the handshake itself succeeds");
    let mut client = Client::over(stream, &valet.tcp());
    assert_eq!(client.try_until_end().map(|messages| messages.len()).unwrap_or(0), 0);
    valet.wait_log(&["TLS failed", "ALPN"]);

    // A name that is not ours ends the handshake in either way; none is fine where TLS was negotiated.
    assert!(Dial::default().direct().alpn("h2").connect(&valet.tcp()).is_err());
    assert!(Dial::default().alpn("h2").connect(&valet.tcp()).is_err());
    login_over(&valet, &Dial::default().alpn("postgresql"));

    // Nobody is there who would understand it.
    let valet = setup.start("disable");
    let mut socket = socket(&valet);
    socket.write_all(&[0x16, 3, 1, 0, 5, 1, 0, 0, 1, 0]).expect("it is sent");
    assert_eq!(socket.read(&mut [0; 16]).unwrap_or(0), 0);
}

fn socket(valet: &Pgvalet) -> TcpStream {
    let Stream::Tcp(stream) = Stream::connect(&valet.tcp()).expect("it listens") else {
        unreachable!("it is TCP")
    };
    stream
}

/// CVE-2021-23222, CVE-2021-3935: what came in the clear must not count as having come encrypted.
#[test]
fn bytes_in_front_of_the_handshake_are_refused() {
    let setup = Setup::new();
    let valet = setup.start("prefer");
    let mut client = Client::connect(&valet.tcp()).expect("it listens");
    let startup = frontend::startup(&[("user", "app_scram"), ("database", DATABASE)]);
    client.send(&[frontend::ssl_request(), startup].concat());
    let messages = client.until_end();
    assert_eq!(first_error(&messages).as_deref(), Some("08P01"));
    let error = &messages[0];
    assert!(format!("{error:?}").contains("received unencrypted data after SSL request"), "{error:?}");

    // Sent a moment later they are no handshake either.
    let mut socket = socket(&valet);
    socket.write_all(&frontend::ssl_request()).expect("it is sent");
    let mut answer = [0];
    socket.read_exact(&mut answer).expect("an answer");
    assert_eq!(answer, *b"S");
    socket.write_all(&query("SELECT 1")).expect("it is sent");
    let mut said = Vec::new();
    let _ = socket.read_to_end(&mut said);
    assert!(said.is_empty() || said[0] == ALERT, "{said:?}");
    valet.wait_log(&["TLS failed"]);
    login_over(&valet, &Dial::default());
}

#[test]
fn encryption_is_asked_for_once() {
    let setup = Setup::new();
    let valet = setup.start("prefer");
    // Inside TLS.
    for request in [frontend::ssl_request(), frontend::gssenc_request()] {
        let stream = Dial::default().connect(&valet.tcp()).expect("a handshake");
        let mut client = Client::over(stream, &valet.tcp());
        client.send(&request);
        let messages = client.until_end();
        assert_eq!(first_error(&messages).as_deref(), Some("08P01"));
    }
    // GSSAPI first, as libpq does.
    let mut socket = socket(&valet);
    socket.write_all(&frontend::gssenc_request()).expect("it is sent");
    let mut answer = [0];
    socket.read_exact(&mut answer).expect("an answer");
    assert_eq!(answer, *b"N");
    socket.write_all(&frontend::ssl_request()).expect("it is sent");
    socket.read_exact(&mut answer).expect("an answer");
    assert_eq!(answer, *b"S");
}

#[test]
fn scram_binds_to_the_channel() {
    for wanted in [Wanted::local(), Wanted::local().rsa()] {
        let setup = Setup::with(&wanted);
        let valet = setup.start("prefer");
        encrypted(conninfo(&valet.tcp(), "require", &[("PGCHANNELBINDING", "require")]));
        encrypted(conninfo(&valet.tcp(), "require", &[("PGCHANNELBINDING", "disable")]));
        failed(&conninfo(&valet.tcp(), "disable", &[("PGCHANNELBINDING", "require")]), "channel binding");
        let wrong = Role::Scram.login().password("wrong");
        let environment = [("PGSSLMODE", "require"), ("PGCHANNELBINDING", "require")];
        failed(&psql_with(&valet.tcp(), &wrong, &environment, "SELECT 1"), "password authentication failed");
    }
}

#[test]
fn sessions_are_resumed_unless_certificates_are_asked_for() {
    let setup = Setup::new();
    let kinds = |valet: &Pgvalet| {
        [&TLS12, &TLS13].map(|version| {
            let dial = Dial::default().version(version);
            let config = dial.config();
            [(); 2].map(|()| {
                let stream = dial.connect_with(&valet.tcp(), config.clone()).expect("a handshake");
                let mut client =
                    Client::login_over(stream, &valet.tcp(), &Role::Scram.login()).expect("a login");
                assert_eq!(client.value("SELECT 1"), "1");
                session(&client).handshake_kind().expect("it is done")
            })
        })
    };
    let resumed = [HandshakeKind::Full, HandshakeKind::Resumed];
    assert_eq!(kinds(&setup.start("require")), [resumed, resumed]);
    let authorities = format!("client_tls_ca_file = \"{}\"", setup.path("ca.crt"));
    let valet = setup.builder("require").setting(&authorities).start();
    assert_eq!(kinds(&valet), [[HandshakeKind::Full; 2]; 2]);
}

#[test]
fn a_cancel_request_comes_over_tls_too() {
    let setup = Setup::new();
    let valet = setup.start("require");
    let mut client = login_over(&valet, &Dial::default());
    let cancel = client.cancel();
    client.send(&query("SELECT pg_sleep(600)"));
    let cluster = Cluster::shared();
    let running =
        "SELECT count(*) FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(600)' AND state = 'active'";
    eventually("the query to run", || (cluster.value(running) == "1").then_some(()));
    let stream = Dial::default().connect(&valet.tcp()).expect("a handshake");
    let mut canceler = Client::over(stream, &valet.tcp());
    canceler.send(&frontend::cancel_request(cancel.pid, &cancel.key));
    assert!(canceler.until_end().is_empty());
    let messages = client.until_ready();
    assert_eq!(first_error(&messages).as_deref(), Some("57014"));
}

#[test]
fn what_was_decrypted_with_something_else_is_not_forgotten() {
    let setup = Setup::new();
    let valet = setup.builder("require").setting("default_pool_size = 1").start();
    for version in [&TLS12, &TLS13] {
        let mut client = login_over(&valet, &Dial::default().version(version));
        // Many queries in one record.
        let queries: Vec<u8> = (0..300).flat_map(|n| query(&format!("SELECT {n}"))).collect();
        client.send(&queries);
        for n in 0..300 {
            let messages = client.until_ready();
            let row = messages.iter().find(|message| message.tag == b'D').expect("a row");
            assert_eq!(&row.body[6..], n.to_string().as_bytes());
        }
        // One query in many records.
        client.send_split(&query("SELECT 'in pieces'"), 1);
        let messages = client.until_ready();
        assert!(messages.iter().any(|message| message.tag == b'D' && message.body.ends_with(b"in pieces")));
    }
}

#[test]
fn large_results_and_copy_go_both_ways() {
    let setup = Setup::new();
    let valet = setup.start("require");
    Cluster::shared().sql("CREATE TABLE tls_copy (n int, filler text)");
    for (version, split) in [(&TLS12, 70_000), (&TLS13, 70_000), (&TLS13, 100)] {
        let mut client = login_over(&valet, &Dial::default().version(version));
        // Rows that are longer than every buffer.
        let value = client.value("SELECT string_agg(md5(i::text), '') FROM generate_series(1, 200000) i");
        assert_eq!(value.len(), 32 * 200_000);
        client.query("TRUNCATE tls_copy");
        let rows: Vec<u8> =
            (0..5_000).flat_map(|n| format!("{n}\t{}\n", "x".repeat(n % 200)).into_bytes()).collect();
        client.send(&query("COPY tls_copy FROM STDIN"));
        client.until(b'G');
        let data: Vec<u8> = rows.chunks(30_000).flat_map(copy_data).chain(copy_done()).collect();
        client.send_split(&data, split);
        client.until_ready();
        let messages = client.query("COPY (SELECT * FROM tls_copy ORDER BY n) TO STDOUT");
        let back: Vec<u8> = messages
            .iter()
            .filter(|message| message.tag == b'd')
            .flat_map(|message| message.body.clone())
            .collect();
        assert!(back == rows, "{} bytes came back of {}", back.len(), rows.len());
    }
}

#[test]
fn new_certificates_come_into_force_by_themselves_and_bad_ones_do_not() {
    let setup = Setup::new();
    let valet = setup.start("require");
    let certificate = || {
        let client = login_over(&valet, &Dial::default());
        session(&client).peer_certificates().expect("a certificate")[0].to_vec()
    };
    let first = certificate();
    let mut old = login_over(&valet, &Dial::default());

    // The key is not that of the certificate, until it is replaced too.
    let identity = setup.authority.issue(&Wanted::local());
    setup.files.write("server.crt", &identity.certificate);
    valet.wait_log(&["TLS stays as it was", "client_tls_cert_file", "server.crt"]);
    assert_eq!(certificate(), first);
    setup.files.write("server.key", &identity.key);
    valet.wait_log(&["certificates and keys were read again"]);
    let second = certificate();
    assert_ne!(second, first);

    // On SIGHUP too, with the rest of the configuration in force all the same.
    setup.files.write("server.key", "nothing");
    valet.wait_log(&["TLS stays as it was", "server.key", "no private key"]);
    let more = valet.config() + "\n[users.later]\npassword = \"x\"\n";
    valet.write_config(&more);
    valet.sighup();
    valet.wait_log(&["configuration reloaded"]);
    assert_eq!(certificate(), second);
    let stream = Dial::default().connect(&valet.tcp()).expect("a handshake");
    let refused = Client::login_over(stream, &valet.tcp(), &Login::new("later", DATABASE).password("wrong"));
    assert!(matches!(refused, Err(LoginError::Refused(_))), "{refused:?}");
    assert_eq!(old.value("SELECT 1"), "1");
}

#[test]
fn a_reload_that_cannot_have_its_tls_changes_nothing() {
    let setup = Setup::new();
    let valet = setup.start("allow");
    let before = valet.config();
    let more = before.replace("client_tls_sslmode = \"allow\"", "client_tls_sslmode = \"require\"")
        + "\n[users.later]\npassword = \"x\"\n";
    assert_ne!(more, before);
    setup.files.write("server.key", "nothing");
    valet.write_config(&more);
    valet.sighup();
    valet.wait_log(&["TLS cannot be set up", "server.key", "nothing was changed"]);
    assert_eq!(valet.count_log(&["configuration reloaded"]), 0);
}

#[test]
fn no_setting_is_told_to_hold_whose_tls_does_not() {
    let setup = Setup::new();
    let missing = setup.path("missing.crt");
    let valet = setup
        .builder("allow")
        .setting("admin_users = [\"app_scram\"]")
        .setting("server_tls_sslmode = \"prefer\"")
        .start();
    let mut console = valet.login(&Role::Scram.login().database("pgbouncer"));
    let mut shown = |name: &str| {
        let rows = console.rows("SHOW CONFIG");
        rows.into_iter().find(|row| row[0].as_deref() == Some(name)).expect("the setting")[1].clone()
    };
    let before = valet.config();
    let require = before.replace("\"allow\"", "\"require\"").replace("server.crt", "missing.crt");
    let full = before.replace("\"prefer\"", &format!("\"verify-full\"\nserver_tls_ca_file = \"{missing}\""));
    for (config, name, was) in
        [(require, "client_tls_sslmode", "allow"), (full, "server_tls_sslmode", "prefer")]
    {
        assert_ne!(config, before);
        valet.write_config(&config);
        let mut admin = valet.login(&Role::Scram.login().database("pgbouncer"));
        let replies = admin.query("RELOAD");
        assert_eq!(first_error(&replies).as_deref(), Some("F0000"), "{replies:?}");
        assert!(format!("{replies:?}").contains("missing.crt"), "{replies:?}");
        assert_eq!(shown(name).as_deref(), Some(was));
    }
    valet.write_config(&before);
    let mut admin = valet.login(&Role::Scram.login().database("pgbouncer"));
    setup.files.write("server.key", "nothing");
    let replies = admin.query("SET client_tls_sslmode = require");
    assert!(first_error(&replies).is_some(), "{replies:?}");
    assert_eq!(shown("client_tls_sslmode").as_deref(), Some("allow"));
    // What does not touch TLS is not held up by it.
    assert_eq!(first_error(&admin.query("SET query_timeout = 77")), None);
    assert_eq!(valet.client(Role::Scram).value("SELECT 1"), "1");
}

#[test]
fn who_looks_sees_what_a_connection_is_encrypted_with() {
    let setup = Setup::new();
    let valet = setup.builder("allow").setting("admin_users = [\"app_scram\"]").start();
    let mut old = login_over(&valet, &Dial::default().version(&TLS12));
    let mut new = login_over(&valet, &Dial::default().version(&TLS13));
    let mut plain = valet.client(Role::Md5);
    let mut console = valet.login(&Role::Scram.login().database("pgbouncer"));
    for client in [&mut old, &mut new, &mut plain] {
        client.value("SELECT 1");
    }
    let mut column = |table: &str| -> Vec<String> {
        let rows = console.rows(&format!("SHOW {table}"));
        let mut shown: Vec<_> = rows.into_iter().map(|row| row[17].clone().unwrap_or_default()).collect();
        shown.sort();
        shown
    };
    let clients = column("CLIENTS");
    assert_eq!(clients[..2], ["", ""], "{clients:?}");
    assert!(clients[2].starts_with("TLSv1.2/ECDHE-ECDSA-") && clients[2].contains("/ECDH="), "{clients:?}");
    assert!(clients[3].starts_with("TLSv1.3/TLS_") && clients[3].contains("/ECDH="), "{clients:?}");
    assert!(column("SERVERS").iter().all(String::is_empty));
}

#[test]
fn a_start_with_unusable_files_fails_and_says_why() {
    let setup = Setup::new();
    let other = setup.authority.issue(&Wanted::local());
    setup.files.write("server.key", &other.key);
    let failure = setup.builder("require").try_start().expect_err("the key is not that of the certificate");
    let log = failure.log.join("\n");
    assert!(log.contains("client_tls_cert_file") && log.contains("server.crt"), "{log}");
}

#[test]
fn half_open_handshakes_end_with_the_login_timeout_and_hold_nobody_up() {
    let setup = Setup::new();
    let valet =
        setup.builder("require").setting("client_login_timeout = \"1s\"").setting("workers = 1").start();
    let mut slow: Vec<TcpStream> = (0..20)
        .map(|n| {
            let mut socket = socket(&valet);
            socket.write_all(&frontend::ssl_request()).expect("it is sent");
            let mut answer = [0];
            socket.read_exact(&mut answer).expect("an answer");
            assert_eq!(answer, *b"S");
            // Nothing, or the beginning of a ClientHello.
            socket.write_all(&[0x16, 3, 1, 2, 0, 1, 0][..n % 8]).expect("it is sent");
            socket
        })
        .collect();
    let mut client = login_over(&valet, &Dial::default());
    assert_eq!(client.value("SELECT 1"), "1");
    for socket in &mut slow {
        assert_eq!(socket.read(&mut [0; 64]).unwrap_or(0), 0, "it is closed without a word");
    }
    valet.wait_log(&["client_login_timeout"]);
    assert_eq!(client.value("SELECT 2"), "2");
}
