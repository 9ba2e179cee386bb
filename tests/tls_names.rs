//! Clients choose by the name that they connect to (SNI): the certificate that they are shown, and the database that they get.

mod support;

use std::io;
use std::net::TcpStream;

use rustls::{ClientConnection, StreamOwned};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use support::cluster::{Cluster, DATABASE, Role};
use support::pgvalet::{Builder, Pgvalet};
use support::programs::psql_with;
use support::stream::Stream;
use support::tls::{Authority, Dial, Files, Identity, Wanted};
use support::wire::{Client, LoginError};
use support::{Endpoint, frontend};

struct Setup {
    authority: Authority,
    files: Files,
}

impl Setup {
    fn new() -> Self {
        let (authority, files) = (Authority::new("names"), Files::default());
        let setup = Self { authority, files };
        setup.files.write("ca.crt", &setup.authority.pem);
        setup.issue("usual", "localhost");
        setup
    }

    fn issue(&self, file: &str, name: &str) -> Identity {
        let identity = self.authority.issue(&Wanted::new(name).dns(name));
        self.files.identity(file, &identity);
        identity
    }

    fn path(&self, name: &str) -> String {
        self.files.path(name).display().to_string()
    }

    fn builder(&self) -> Builder {
        Pgvalet::in_front_of(Cluster::shared())
            .setting("client_tls_sslmode = \"require\"")
            .setting(&format!("client_tls_cert_file = \"{}\"", self.path("usual.crt")))
            .setting(&format!("client_tls_key_file = \"{}\"", self.path("usual.key")))
    }

    /// A section for a name with a certificate of this file.
    fn shown(&self, file: &str) -> [String; 2] {
        [
            format!("cert_file = \"{}\"", self.path(&format!("{file}.crt"))),
            format!("key_file = \"{}\"", self.path(&format!("{file}.key"))),
        ]
    }
}

/// A connection to `name`, with its handshake done.
fn dial(valet: &Pgvalet, name: &str) -> Stream {
    let Endpoint::Tcp(address) = valet.tcp() else { panic!("TLS goes over TCP") };
    let mut socket = TcpStream::connect(address).expect("a connection");
    io::Write::write_all(&mut socket, &frontend::ssl_request()).expect("a request");
    let mut answer = [0];
    io::Read::read_exact(&mut socket, &mut answer).expect("an answer");
    let Stream::Tcp(socket) = Stream::tcp(socket).expect("a socket") else { unreachable!("it is TCP") };
    let name = ServerName::try_from(name.to_owned()).expect("a name");
    let session = ClientConnection::new(Dial::default().config(), name).expect("a session");
    let mut stream = StreamOwned::new(session, socket);
    while stream.conn.is_handshaking() {
        stream.conn.complete_io(&mut stream.sock).expect("a handshake");
    }
    Stream::Tls(Box::new(stream))
}

fn certificate(stream: &Stream) -> CertificateDer<'static> {
    let Stream::Tls(stream) = stream else { panic!("no TLS") };
    stream.conn.peer_certificates().expect("a certificate")[0].clone().into_owned()
}

fn der(identity: &Identity) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(identity.certificate.as_bytes()).expect("a certificate")
}

fn login(valet: &Pgvalet, name: &str, database: &str) -> Result<Client, LoginError> {
    Client::login_over(dial(valet, name), &valet.tcp(), &Role::Scram.login().database(database))
}

#[test]
fn the_certificate_is_that_of_the_name() {
    let setup = Setup::new();
    let (shop, any) = (setup.issue("shop", "shop.db.test"), setup.issue("any", "*.db.test"));
    let usual = setup.issue("usual", "localhost");
    let lines = |file| setup.shown(file);
    let (own, pattern) = (lines("shop"), lines("any"));
    let valet = setup
        .builder()
        .name("shop.db.test", &[&own[0], &own[1]])
        .name("*.db.test", &[&pattern[0], &pattern[1]])
        .start();
    for (name, shown) in [
        ("shop.db.test", &shop),
        ("SHOP.db.test", &shop),
        ("other.db.test", &any),
        ("db.test", &usual),
        ("a.b.db.test", &usual),
        ("localhost", &usual),
        // No name is sent for an address.
        ("127.0.0.1", &usual),
    ] {
        assert!(certificate(&dial(&valet, name)) == der(shown), "{name}");
        login(&valet, name, DATABASE).unwrap_or_else(|error| panic!("{name}: {error}"));
    }

    // libpq binds its password to the certificate that it was shown.
    let (host, port) = valet.tcp().libpq();
    let root = setup.path("ca.crt");
    for name in ["shop.db.test", "other.db.test"] {
        let environment = [
            ("PGHOST", name),
            ("PGHOSTADDR", &host),
            ("PGSSLMODE", "verify-full"),
            ("PGSSLROOTCERT", &root),
            ("PGCHANNELBINDING", "require"),
        ];
        let output = psql_with(
            &Endpoint::Tcp(format!("{host}:{port}").parse().expect("an address")),
            &Role::Scram.login(),
            &environment,
            "SELECT 'welcome'",
        );
        assert!(output.stdout.contains("welcome"), "{name}: {output:?}");
    }

    // New files count by themselves, for each name.
    let newer = setup.issue("shop", "shop.db.test");
    valet.wait_log(&["certificates and keys were read again"]);
    support::eventually("the new certificate", || {
        (certificate(&dial(&valet, "shop.db.test")) == der(&newer)).then_some(())
    });
    assert!(certificate(&dial(&valet, "other.db.test")) == der(&any));
}

#[test]
fn the_database_may_be_that_of_the_name() {
    let setup = Setup::new();
    let cluster = Cluster::shared();
    let valet = setup
        .builder()
        .setting("admin_users = [\"app_scram\"]")
        .database("shop", cluster, &["dbname = \"app\"", "connect_query = \"SET app.place = 'shop'\""])
        .database("x_store_x", cluster, &["dbname = \"app\"", "connect_query = \"SET app.place = 'store'\""])
        .name("shop.test", &["database = \"shop\""])
        .name("*.db.test", &["database = \"x_*_x\""])
        .start();
    let is = |name: &str, asked: &str| {
        let mut client = login(&valet, name, asked).unwrap_or_else(|error| panic!("{name}: {error}"));
        client.value("SELECT coalesce(current_setting('app.place', true), '')")
    };
    assert_eq!(is("shop.test", "app"), "shop");
    assert_eq!(is("shop.test", "nothing_like_it"), "shop");
    assert_eq!(is("Store.db.test", "app"), "store");
    assert_eq!(is("localhost", "app"), "");
    let error = login(&valet, "other.db.test", "app").expect_err("there is no database x_other_x");
    assert_eq!(error.sqlstate().as_deref(), Some("3D000"), "{error}");
    // The console stays what it is.
    let mut console = login(&valet, "shop.test", "pgvalet").expect("the console");
    assert!(!console.rows("SHOW POOLS").is_empty());
}

#[test]
fn sections_that_mean_nothing_are_refused_and_told() {
    let setup = Setup::new();
    let own = setup.shown("usual");
    let builder = setup
        .builder()
        .name("a b", &["database = \"app\""])
        .name("*", &["database = \"app\""])
        .name("empty.test", &[])
        .name("half.test", &[&own[0]])
        .name("none.test", &["database = \"no_such\""])
        .name("star.test", &["database = \"*\""])
        .name("slip.test", &["cert_fiel = \"x\""]);
    let log = builder.try_start().expect_err("it is refused").log.join("\n");
    for (key, said) in [
        ("\"a b\"", "no name of a host"),
        ("\"*\"", "no name of a host"),
        ("\"empty.test\"", "says nothing"),
        ("\"half.test\".key_file", "go together"),
        ("\"none.test\".database", "there is no database"),
        ("\"star.test\".database", "which has none"),
        ("\"slip.test\".cert_fiel", "did you mean cert_file?"),
    ] {
        let is_told = |line: &str| line.contains(&format!("client_tls_names.{key}")) && line.contains(said);
        assert!(log.lines().any(is_told), "{key}: {said}\n{log}");
    }
}

#[test]
fn certificates_that_expire_are_told_of() {
    let setup = Setup::new();
    setup.files.identity("old", &setup.authority.issue(&Wanted::new("old.test").dns("old.test").expired()));
    let own = setup.shown("old");
    let valet = setup
        .builder()
        .setting("metrics_listen = \"127.0.0.1:0\"")
        .name("old.test", &[&own[0], &own[1]])
        .start();
    valet.wait_log(&["a certificate has expired", "client_tls_names.cert_file", "old.crt"]);
    let line = valet.wait_log(&["metrics are served", "address="]);
    let address = line.split_once("address=").expect("an address").1.trim_matches('"').to_owned();
    let mut stream = TcpStream::connect(address).expect("the endpoint listens");
    let request = b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    io::Write::write_all(&mut stream, request).expect("a request");
    let mut text = String::new();
    io::Read::read_to_string(&mut stream, &mut text).expect("text");
    let gauge = |setting: &str, file: &str| {
        let labels = format!("{{setting=\"{setting}\",file=\"{}\"}} ", setup.path(file));
        let name = "pgvalet_tls_certificate_expiry_timestamp_seconds";
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(&labels));
        line.unwrap_or_else(|| panic!("{labels}\n{text}")).parse::<f64>().expect("a number")
    };
    // 2021-01-01, as the harness makes expired ones.
    assert!((gauge("client_tls_names.cert_file", "old.crt") - 1_609_459_200.0).abs() < 1.0);
    assert!(gauge("client_tls_cert_file", "usual.crt") > 4_000_000_000.0);
    assert_eq!(valet.count_log(&["usual.crt"]), 0);
}
