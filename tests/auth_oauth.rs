//! Bearer tokens (the method `oauth`): the exchange OAUTHBEARER as PostgreSQL 18 has it, which tokens count, and issuers that
//! change their keys, do not answer, or are asked too often.
//!
//! libpq 18 logs in with them in tests/drivers/tls.

#![cfg(feature = "oauth")]

mod support;

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use support::Endpoint;
use support::backend::Message;
use support::cluster::{Cluster, DATABASE, Role};
use support::frontend::{self, sasl_initial, sasl_response};
use support::install::Install;
use support::memory::occurrences;
use support::pgvalet::{Builder, Pgvalet};
use support::programs::psql_with;
use support::tls::{Authority, Dial, Files, Wanted};
use support::tokens::{ALGORITHMS, SigningKey, encode, key_set};
use support::wire::{Client, Login};

const ISSUER: &str = "https://issuer.test/realm";
const DISCOVERY: &str = "https://issuer.test/realm/.well-known/openid-configuration";

/// Maps of user names; no `@` can stand in a token that PostgreSQL's validator here makes a name of.
const MAPS: &str = "staff /^(.*)@example\\.test$ \\1\nstaff /^(.*)[.]staff$ \\1\n";

/// The files of a configuration: rules, maps, keys.
struct Setup {
    files: Files,
    key: SigningKey,
}

impl Setup {
    fn new() -> Self {
        let (files, key) = (Files::default(), SigningKey::new("first", "ES256"));
        files.write("keys.json", &key_set(&[key.public()]));
        Self { files, key }
    }

    /// pgvalet with these rules. One pool for everybody: only the client's side matters.
    fn builder(&self, rules: &str) -> Builder {
        let (hba, ident) = (self.files.write("hba.conf", rules), self.files.path("ident.conf"));
        self.files.write("ident.conf", MAPS);
        Pgvalet::builder()
            .setting("workers = 1")
            .setting("auth_type = \"hba\"")
            .setting(&format!("auth_hba_file = \"{hba}\""))
            .setting(&format!("auth_ident_file = \"{}\"", ident.display()))
            .database(DATABASE, Cluster::shared(), &["user = \"app_trust\""])
            .all_roles()
    }

    fn start(&self, rules: &str) -> Pgvalet {
        self.builder(rules).start()
    }

    fn token(&self, claims: &Value) -> String {
        self.key.token("ES256", claims)
    }
}

/// A rule for the Unix socket with further options.
fn rule(options: &str) -> String {
    format!(
        "local all all oauth issuer={ISSUER} scope=\"openid db\" validator.audience=pgvalet \
         validator.jwks=keys.json {options}\n"
    )
}

/// Claims that count.
fn claims() -> Value {
    json!({ "iss": ISSUER, "aud": "pgvalet", "sub": "alice", "scope": "openid db", "exp": in_seconds(300) })
}

fn with(name: &str, value: Value) -> Value {
    let mut claims = claims();
    claims[name] = value;
    claims
}

fn without(name: &str) -> Value {
    let mut claims = claims();
    claims.as_object_mut().expect("an object").remove(name);
    claims
}

fn in_seconds(seconds: i64) -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
    i64::try_from(now).expect("a time") + seconds
}

/// A client that has been told which mechanisms there are.
fn asked(client: &mut Client, user: &str) -> Message {
    client.send(&frontend::startup(&[("user", user), ("database", DATABASE)]));
    client.recv()
}

fn bearer(token: &str) -> Vec<u8> {
    sasl_initial("OAUTHBEARER", format!("n,,\u{1}auth=Bearer {token}\u{1}\u{1}").as_bytes())
}

/// Logs in with a token; else what the client is told at the end.
fn login_at(endpoint: &Endpoint, user: &str, token: &str) -> Result<Client, Message> {
    let mut client = Client::connect(endpoint).expect("a connection");
    asked(&mut client, user);
    client.send(&bearer(token));
    let answer = client.recv();
    if answer.body == [0, 0, 0, 0] {
        client.until_ready();
        return Ok(client);
    }
    assert_eq!((answer.tag, &answer.body[..4]), (b'R', &[0, 0, 0, 11][..]), "{answer:?}");
    client.send(&sasl_response(b"\x01"));
    Err(client.until_end().remove(0))
}

fn login(valet: &Pgvalet, user: &str, token: &str) -> Result<Client, Message> {
    login_at(&valet.unix(), user, token)
}

#[track_caller]
fn refused(valet: &Pgvalet, user: &str, token: &str, why: &str) {
    let before = valet.count_log(&["a bearer token does not count", why]);
    let error = login(valet, user, token).expect_err(why);
    assert_eq!(error.sqlstate().as_deref(), Some("28000"), "{why}: {error:?}");
    let told = format!("OAuth bearer authentication failed for user \"{user}\"");
    assert_eq!(error.field(b'M').as_deref(), Some(&*told), "{why}");
    support::eventually(why, || {
        (valet.count_log(&["a bearer token does not count", why]) > before).then_some(())
    });
}

#[test]
fn a_token_of_every_algorithm_lets_its_user_in() {
    let setup = Setup::new();
    let keys: Vec<_> =
        ALGORITHMS.iter().map(|(algorithm, _)| (*algorithm, SigningKey::new(algorithm, algorithm))).collect();
    let public: Vec<Value> = keys.iter().map(|(_, key)| key.public()).collect();
    // What is not known here is passed over.
    let others =
        [json!({ "kty": "oct", "k": "c2VjcmV0", "kid": "secret" }), json!({ "kty": "new" }), json!(1)];
    setup.files.write("keys.json", &key_set(&[public, others.to_vec()].concat()));
    let valet = setup.start(&rule(""));
    for (algorithm, key) in &keys {
        let mut client = login(&valet, "alice", &key.token(algorithm, &claims())).expect(algorithm);
        assert_eq!(client.value("SELECT current_user"), "app_trust", "{algorithm}");
        // Without the key's name, all that fit are tried.
        let header = json!({ "alg": algorithm });
        login(&valet, "alice", &key.token_with(&header, &claims())).expect(algorithm);
    }
    // One algorithm alone.
    let valet = setup.start(&rule("validator.algorithms=ES384"));
    for (algorithm, key) in &keys {
        let token = key.token(algorithm, &claims());
        match *algorithm {
            "ES384" => drop(login(&valet, "alice", &token).expect(algorithm)),
            _ => refused(&valet, "alice", &token, "validator.algorithms"),
        }
    }
}

#[test]
fn a_token_is_gone_when_it_was_checked() {
    let setup = Setup::new();
    let good = setup.token(&with("jti", json!("as good as gold")));
    let expired = setup.token(&with("exp", json!(1)));
    let forged = SigningKey::new("first", "ES256").token("ES256", &claims());
    let valet = setup.start(&rule(""));
    for _ in 0..3 {
        login(&valet, "alice", &good).expect("a good one").value("SELECT 1");
        login(&valet, "alice", &forged).expect_err("a forged one");
        login(&valet, "alice", &expired).expect_err("an old one");
    }
    let takes_passwords = setup.start(&rule("validator.as_password=1"));
    for _ in 0..3 {
        let login = |token| {
            let login = Login::new("alice", DATABASE).password(token);
            Client::login(&takes_passwords.unix(), &login)
        };
        login(&good).expect("a good one").value("SELECT 1");
        login(&forged).expect_err("a forged one");
        login(&expired).expect_err("an old one");
    }
    for (valet, token) in [&valet, &takes_passwords]
        .iter()
        .flat_map(|valet| [&good, &forged, &expired].map(|token| (valet, token)))
    {
        let parts: Vec<_> = token.split('.').collect();
        // The signature is what nobody else can make; what it signs may be read by itself.
        assert_eq!(occurrences(valet.pid(), parts[2].as_bytes()), 0, "{token}");
        assert_eq!(occurrences(valet.pid(), parts[1].as_bytes()), 0, "{token}");
    }
}

#[test]
fn tokens_that_are_not_good_let_nobody_in() {
    let setup = Setup::new();
    let valet = setup.start(&rule("validator.leeway=5"));
    for good in [
        claims(),
        with("aud", json!(["somebody", "pgvalet"])),
        with("nbf", json!(in_seconds(3))),
        with("exp", json!(in_seconds(-3))),
        with("scope", json!("more db openid")),
        with("scp", json!(["openid", "db"])),
    ] {
        login(&valet, "alice", &setup.token(&good)).unwrap_or_else(|error| panic!("{good}: {error:?}"));
    }
    for (bad, why) in [
        (with("exp", json!(in_seconds(-10))), "it has expired"),
        (without("exp"), "it has no claim \\\"exp\\\""),
        (with("exp", json!("soon")), "exp"),
        (with("nbf", json!(in_seconds(60))), "not valid yet"),
        (with("iss", json!("https://issuer.test")), "another issuer"),
        (with("iss", json!(format!("{ISSUER}/"))), "another issuer"),
        (without("iss"), "it has no claim \\\"iss\\\""),
        (with("aud", json!("somebody")), "issued for somebody else"),
        (without("aud"), "it has no claim \\\"aud\\\""),
        (with("scope", json!("openid dbx")), "the scope \\\"db\\\""),
        (without("scope"), "the scope \\\"openid\\\""),
        (without("sub"), "no claim \\\"sub\\\""),
        (with("sub", json!("")), "no claim \\\"sub\\\""),
        (with("sub", json!(7)), "no claim \\\"sub\\\""),
    ] {
        refused(&valet, "alice", &setup.token(&bad), why);
    }
    // Nor are forged ones.
    let good = setup.token(&claims());
    let (message, signature) = good.rsplit_once('.').expect("three parts");
    let (header, _) = message.split_once('.').expect("three parts");
    let other = encode(&with("sub", json!("bob")));
    refused(&valet, "bob", &format!("{header}.{other}.{signature}"), "its signature is wrong");
    refused(&valet, "alice", &format!("{message}."), "its signature is wrong");
    refused(&valet, "alice", &format!("{message}.AAAA"), "its signature is wrong");
    let none = encode(&json!({ "alg": "none" }));
    refused(&valet, "alice", &format!("{none}.{}.", encode(&claims())), "no valid JSON Web Token");
    let hmac = encode(&json!({ "alg": "HS256", "kid": "first" }));
    refused(&valet, "alice", &format!("{hmac}.{}.AAAA", encode(&claims())), "validator.algorithms");
    let stranger = SigningKey::new("first", "ES256").token("ES256", &claims());
    refused(&valet, "alice", &stranger, "its signature is wrong");
    let unnamed = SigningKey::new("", "ES256").token_with(&json!({ "alg": "ES256" }), &claims());
    refused(&valet, "alice", &unnamed, "no key of its issuer fits");
    let rsa = SigningKey::new("first", "RS256").token("RS256", &claims());
    refused(&valet, "alice", &rsa, "no key of its issuer fits");
    let critical = json!({ "alg": "ES256", "kid": "first", "crit": ["x"], "x": 1 });
    refused(&valet, "alice", &setup.key.token_with(&critical, &claims()), "critical");
    for garbage in ["x", "a.b", "a.b.c", "....", &"x".repeat(60_000)] {
        refused(&valet, "alice", garbage, "no valid JSON Web Token");
    }
    // A good one of somebody else's.
    let error = login(&valet, "bob", &good).expect_err("it is alice's");
    assert_eq!(error.sqlstate().as_deref(), Some("28000"));
    login(&valet, "alice", &good).expect("after all that");
    let leaked = valet.log().iter().filter(|line| line.contains(signature)).count();
    assert_eq!(leaked, 0, "no token is logged");
}

#[test]
fn the_exchange_is_postgresqls() {
    let setup = Setup::new();
    let valet = setup.start(&rule(""));
    let started = || {
        let mut client = Client::connect(&valet.unix()).expect("a connection");
        let offered = asked(&mut client, "alice");
        assert_eq!((offered.tag, &offered.body[..]), (b'R', &b"\0\0\0\x0aOAUTHBEARER\0\0"[..]));
        client
    };
    // Without a token the client is told where there are some, says that it has understood, and is sent away.
    for value in ["", "Bearer", "Basic YTpi", "Bearer a,b"] {
        let mut client = started();
        let first = format!("n,,\u{1}auth={value}\u{1}\u{1}");
        client.send(&sasl_initial("OAUTHBEARER", first.as_bytes()));
        let failure = format!(
            "{{ \"status\": \"invalid_token\", \"openid-configuration\": \"{DISCOVERY}\", \"scope\": \"openid db\" }}"
        );
        let expected = [&[0, 0, 0, 11], failure.as_bytes()].concat();
        assert_eq!(client.recv().body, expected, "{value}");
        client.send(&sasl_response(b"\x01"));
        let end = client.until_end();
        let told: Vec<_> = [b'S', b'C', b'M'].iter().filter_map(|field| end[0].field(*field)).collect();
        assert_eq!(
            told,
            ["FATAL", "28000", "OAuth bearer authentication failed for user \"alice\""],
            "{value}"
        );
    }
    // A first message may follow an empty challenge.
    let mut client = started();
    let token = setup.token(&claims());
    client.send(&frontend::frame(b'p', b"OAUTHBEARER\0\xff\xff\xff\xff"));
    assert_eq!(client.recv().body, [0, 0, 0, 11]);
    client.send(&sasl_response(format!("y,,\u{1}host=x\u{1}auth=bearer {token}\u{1}\u{1}").as_bytes()));
    assert_eq!(client.recv().body, [0, 0, 0, 0]);
    client.until_ready();

    for (message, code, said) in [
        (sasl_initial("SCRAM-SHA-256", b"n,,n=,r=x"), "08P01", "client selected an invalid SASL"),
        (sasl_initial("OAUTHBEARER", b""), "08P01", "malformed OAUTHBEARER message"),
        (sasl_initial("OAUTHBEARER", b"p=x,,\x01"), "08P01", "malformed OAUTHBEARER message"),
        (sasl_initial("OAUTHBEARER", b"n,a=bob,\x01"), "0A000", "client uses authorization identity"),
        (frontend::query("SELECT 1"), "08P01", "expected SASL response"),
    ] {
        let mut client = started();
        client.send(&message);
        let end = client.until_end();
        assert_eq!(end[0].sqlstate().as_deref(), Some(code), "{said}: {end:?}");
        assert!(end[0].field(b'M').is_some_and(|text| text.starts_with(said)), "{said}: {end:?}");
    }
    let mut client = started();
    client.send(&bearer("x"));
    client.recv();
    client.send(&bearer(&token));
    assert_eq!(client.until_end()[0].sqlstate().as_deref(), Some("08P01"), "a second try is none");
}

/// PostgreSQL 18 comes without a validator, so the smallest one is built for it.
#[test]
fn the_messages_are_those_of_postgresql_18() {
    if Install::of_major(18).is_none() {
        eprintln!("not compared with PostgreSQL 18, which is not here: tests/run.sh fetches it");
        return;
    }
    let truth = Cluster::builder().major(18).start();
    let library = truth.data_dir().join("validator.so");
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/auth_oauth/validator.c");
    let built = Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&library).arg(source).status();
    assert!(built.expect("a C compiler").success());
    std::fs::set_permissions(&library, std::fs::Permissions::from_mode(0o755)).expect("a mode");
    let rules = format!(
        "host all postgres all trust\nlocal all all oauth issuer={ISSUER} scope=\"openid db\" map=staff\n"
    );
    std::fs::write(truth.data_dir().join("pg_hba.conf"), rules).expect("pg_hba.conf is written");
    std::fs::write(truth.data_dir().join("pg_ident.conf"), MAPS).expect("pg_ident.conf is written");
    truth.configure(&format!("oauth_validator_libraries = '{}'", library.display()));
    truth.reload();

    let setup = Setup::new();
    let valet = setup.start(&rule("map=staff"));
    let good = setup.token(&with("sub", json!("app_trust.staff")));
    let unmapped = setup.token(&with("sub", json!("postgres.staff")));
    use Say::{Empty, First, Next, Other};
    let conversations: &[&[Say]] = &[
        &[First("n,,\u{1}auth=Bearer TOKEN\u{1}\u{1}")],
        &[First("y,,\u{1}host=a\u{1}auth=bearer  TOKEN\u{1}port=\u{1}\u{1}")],
        &[Empty, Next("n,,\u{1}auth=Bearer TOKEN\u{1}\u{1}")],
        &[Empty, Next("")],
        &[First("n,,\u{1}auth=Bearer UNMAPPED\u{1}\u{1}"), Next("\u{1}")],
        &[First("n,,\u{1}auth=\u{1}\u{1}"), Next("\u{1}")],
        &[First("n,,\u{1}auth=\u{1}\u{1}"), Next("")],
        &[First("n,,\u{1}auth=\u{1}\u{1}"), Next("\u{1}\u{1}")],
        &[First("n,,\u{1}auth=\u{1}\u{1}"), First("n,,\u{1}auth=Bearer TOKEN\u{1}\u{1}")],
        &[First("n,,\u{1}auth=Bearer a,b\u{1}\u{1}"), Next("\u{1}")],
        &[First("n,,\u{1}auth=Basic TOKEN\u{1}\u{1}"), Next("\u{1}")],
        &[First("n,,\u{1}auth=Bearer =\u{1}\u{1}"), Next("\u{1}")],
        &[First("n,,\u{1}auth=Bearer a=b\u{1}\u{1}"), Next("\u{1}")],
        &[First("")],
        &[First("x")],
        &[First("n")],
        &[First("n;")],
        &[First("n,x")],
        &[First("n,a=bob,\u{1}")],
        &[First("n,,")],
        &[First("n,,a")],
        &[First("n,,\u{1}")],
        &[First("p=tls-unique,,\u{1}auth=x\u{1}\u{1}")],
        &[First("n,,\u{1}auth=x")],
        &[First("n,,\u{1}auth=x\u{1}")],
        &[First("n,,\u{1}\u{1}")],
        &[First("n,,\u{1}host=x\u{1}\u{1}")],
        &[First("n,,\u{1}auth\u{1}\u{1}")],
        &[First("n,,\u{1}=x\u{1}\u{1}")],
        &[First("n,,\u{1}a-b=x\u{1}\u{1}")],
        &[First("n,,\u{1}auth=\u{7f}\u{1}\u{1}")],
        &[First("n,,\u{1}auth=x\0\u{1}\u{1}")],
        &[First("n,,\u{1}auth=x\u{1}auth=x\u{1}\u{1}")],
        &[First("n,,\u{1}auth=x\u{1}\u{1}x")],
        &[Other("SCRAM-SHA-256")],
    ];
    for conversation in conversations {
        let theirs = transcript(&truth.unix(), conversation, "good-app_trust.staff", "bad");
        let ours = transcript(&valet.unix(), conversation, &good, &unmapped);
        assert_eq!(ours, theirs, "{conversation:?}");
    }
}

/// A message of a client, with `TOKEN` for a good token and `UNMAPPED` for somebody else's.
#[derive(Debug)]
enum Say {
    /// The mechanism, and the first message.
    First(&'static str),
    /// The mechanism alone.
    Empty,
    /// A further message.
    Next(&'static str),
    /// Another mechanism.
    Other(&'static str),
}

/// What a server answers to these messages.
fn transcript(endpoint: &Endpoint, conversation: &[Say], token: &str, unmapped: &str) -> Vec<String> {
    let mut client = Client::connect(endpoint).expect("a connection");
    let mut answers = vec![asked(&mut client, "app_trust")];
    let filled = |text: &str| text.replace("TOKEN", token).replace("UNMAPPED", unmapped).into_bytes();
    for message in conversation {
        client.send(&match message {
            Say::First(text) => sasl_initial("OAUTHBEARER", &filled(text)),
            Say::Empty => frontend::frame(b'p', b"OAUTHBEARER\0\xff\xff\xff\xff"),
            Say::Next(text) => sasl_response(&filled(text)),
            Say::Other(mechanism) => sasl_initial(mechanism, b"n,,n=,r=x"),
        });
        answers.extend(client.try_recv().expect("an answer"));
    }
    let told = |answer: &Message| match answer.tag {
        b'E' => {
            let fields: Vec<_> = b"SCMD".iter().map(|field| answer.field(*field)).collect();
            format!("{fields:?}")
        }
        tag => format!("{} {}", char::from(tag), String::from_utf8_lossy(&answer.body)),
    };
    answers.iter().map(told).collect()
}

#[test]
fn users_are_mapped_from_a_claim() {
    let setup = Setup::new();
    let valet = setup.start(&rule("map=staff validator.user_claim=email"));
    let token = setup.token(&with("email", json!("alice@example.test")));
    login(&valet, "alice", &token).expect("mapped");
    for user in ["bob", "alice@example.test"] {
        login(&valet, user, &token).expect_err(user);
    }
    login(&valet, "alice", &setup.token(&claims())).expect_err("there is no such claim");
}

#[test]
fn tokens_do_not_cross_the_network_in_the_clear() {
    let setup = Setup::new();
    let authority = Authority::new("servers'");
    let (certificate, key) = setup.files.identity("server", &authority.issue(&Wanted::local()));
    let valet = setup
        .builder(&rule("").replace("local all all", "host all all all"))
        .setting("client_tls_sslmode = \"prefer\"")
        .setting(&format!("client_tls_cert_file = \"{certificate}\""))
        .setting(&format!("client_tls_key_file = \"{key}\""))
        .start();
    let mut plain = Client::connect(&valet.tcp()).expect("a connection");
    let answer = asked(&mut plain, "alice");
    assert_eq!(answer.sqlstate().as_deref(), Some("28000"), "{answer:?}");
    assert!(valet.count_log(&["oauth", "tokens are taken over TLS only"]) > 0, "the rule is warned of");

    let stream = Dial::default().connect(&valet.tcp()).expect("a handshake");
    let mut client = Client::over(stream, &valet.tcp());
    asked(&mut client, "alice");
    client.send(&bearer(&setup.token(&claims())));
    assert_eq!(client.recv().body, [0, 0, 0, 0]);
    client.until_ready();
}

#[test]
fn a_token_may_be_the_password_where_the_rule_says_so() {
    let setup = Setup::new();
    let valet = setup.start(&rule("validator.as_password=1"));
    let psql = |user: &str, token: &str| {
        psql_with(&valet.unix(), &Login::new(user, DATABASE).password(token), &[], "SELECT 'welcome'")
    };
    assert_eq!(psql("alice", &setup.token(&claims())).ok(), "welcome");
    for (user, token) in
        [("bob", setup.token(&claims())), ("alice", setup.token(&without("exp"))), ("alice", "x".into())]
    {
        let output = psql(user, &token);
        let told = format!("OAuth bearer authentication failed for user \"{user}\"");
        assert!(output.stderr.contains(&told), "{output:?}");
    }
}

/// An issuer's web server, which says what it is asked for and answers as it is told to.
struct Web {
    address: String,
    asked: Receiver<String>,
    /// The answer to each path; none: the connection is left open without one.
    answers: Arc<Mutex<Vec<(String, String)>>>,
    /// Connections that got no answer.
    open: Arc<Mutex<Vec<TcpStream>>>,
}

impl Web {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = format!("http://{}", listener.local_addr().expect("an address"));
        let (sender, asked) = channel();
        let (answers, open) = (Arc::default(), Arc::default());
        let (known, kept) = (Arc::clone(&answers), Arc::clone(&open));
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                serve(stream, &sender, &known, &kept);
            }
        });
        Self { address, asked, answers, open }
    }

    fn answer(&self, path: &str, status: &str, body: &str) {
        let answer =
            format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len());
        let mut answers = self.answers.lock().expect("unharmed");
        answers.retain(|(known, _)| known != path);
        answers.push((path.into(), answer));
    }

    /// The paths that were asked for since the last call.
    fn asked(&self) -> Vec<String> {
        self.asked.try_iter().collect()
    }
}

fn serve(
    mut stream: TcpStream,
    asked: &Sender<String>,
    answers: &Mutex<Vec<(String, String)>>,
    open: &Mutex<Vec<TcpStream>>,
) {
    let mut lines = BufReader::new(stream.try_clone().expect("a socket")).lines().map_while(Result::ok);
    let Some(first) = lines.next() else { return };
    let path = first.split(' ').nth(1).unwrap_or_default().to_owned();
    for line in lines {
        if line.is_empty() {
            break;
        }
    }
    let answer = answers.lock().expect("unharmed").iter().find(|(known, _)| *known == path).cloned();
    match answer {
        Some((_, answer)) => drop(stream.write_all(answer.as_bytes())),
        None => open.lock().expect("unharmed").push(stream),
    }
    let _ = asked.send(path);
}

#[test]
fn keys_are_found_by_discovery_and_asked_for_once() {
    let setup = Setup::new();
    let web = Web::start();
    let issuer = format!("{}/realm", web.address);
    let document = json!({ "issuer": issuer, "jwks_uri": format!("{}/keys", web.address) });
    web.answer("/realm/.well-known/openid-configuration", "200 OK", &document.to_string());
    web.answer("/keys", "200 OK", &key_set(&[setup.key.public()]));
    let valet = setup.start(&format!(
        "local all all oauth issuer={issuer} scope=\"openid db\" validator.audience=pgvalet\n"
    ));
    let good = setup.token(&with("iss", json!(issuer)));
    for _ in 0..5 {
        login(&valet, "alice", &good).expect("a good token");
    }
    // Names of keys that nobody has lead to no storm of questions.
    let unknown = SigningKey::new("unknown", "ES256").token("ES256", &with("iss", json!(issuer)));
    for _ in 0..5 {
        refused(&valet, "alice", &unknown, "no key of its issuer fits");
    }
    assert_eq!(web.asked(), ["/realm/.well-known/openid-configuration", "/keys"]);
    login(&valet, "alice", &good).expect("a good token");
}

#[test]
fn an_issuer_in_trouble_lets_nobody_in_and_holds_nobody_up() {
    let setup = Setup::new();
    let web = Web::start();
    let rule = |path: &str| {
        format!(
            "local all app_scram scram-sha-256\n\
             local all all oauth issuer={ISSUER} scope=db validator.audience=pgvalet validator.jwks={}{path}\n",
            web.address
        )
    };
    web.answer("/error", "500 Internal Server Error", "");
    web.answer("/elsewhere", "302 Found", "");
    web.answer("/nonsense", "200 OK", "<html>");
    web.answer("/empty", "200 OK", "{\"keys\": []}");
    web.answer("/large", "200 OK", &" ".repeat(2 << 20));
    let token = setup.token(&claims());
    for (path, why) in [
        ("/error", "500"),
        ("/elsewhere", "redirects are not followed"),
        ("/nonsense", "not JSON"),
        ("/empty", "no key in it"),
        ("/large", "length limit exceeded"),
    ] {
        let valet = setup.start(&rule(path));
        refused(&valet, "alice", &token, why);
        refused(&valet, "alice", &token, why);
        assert_eq!(web.asked(), [path], "it is left alone for a while");
    }

    let valet = setup.start(&rule("/never"));
    let mut waiting = Client::connect(&valet.unix()).expect("a connection");
    asked(&mut waiting, "alice");
    waiting.send(&bearer(&token));
    assert_eq!(web.asked.recv().expect("the issuer is asked"), "/never");
    // There is one worker, and it goes on.
    Client::login(&valet.unix(), &Role::Scram.login()).expect("somebody else");
    web.open.lock().expect("unharmed").clear();
    assert_eq!(waiting.recv().body[..4], [0, 0, 0, 11], "then the token does not count");
}
