//! Logging in: who gets in by which proof, towards pgvalet and towards PostgreSQL, and what everybody else is told.

mod support;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use support::backend::{Message, first_error};
use support::cluster::{Cluster, DATABASE, PASSWORD, Role};
use support::frontend::{self, PROTOCOL_3_2};
use support::pgvalet::{Builder, Pgvalet};
use support::tables::everything;
use support::wire::{Client, Login, LoginError};
use support::{Endpoint, eventually, scram};

const SALT: &[u8] = b"sixteen bytes :)";

/// The database `app` with one pool for everybody, whose server asks for no password: only the client's side matters.
fn for_anybody(auth_type: &str) -> Builder {
    Pgvalet::builder().setting(&format!("auth_type = \"{auth_type}\"")).database(
        DATABASE,
        Cluster::shared(),
        &["user = \"app_trust\""],
    )
}

fn who(user: &str, password: &str) -> Login {
    Login::new(user, DATABASE).password(password)
}

/// The code of the first Authentication message: 0 Ok, 5 MD5, 10 SASL.
fn first_request(client: &Client) -> u32 {
    let request =
        client.greeting.iter().find(|message| message.tag == b'R').expect("an Authentication message");
    u32::from_be_bytes(request.body[..4].try_into().expect("a code"))
}

fn refused(endpoint: &Endpoint, login: &Login) -> Message {
    match Client::login(endpoint, login) {
        Err(LoginError::Refused(message)) => message,
        other => panic!("{} should have been refused: {other:?}", login.user),
    }
}

#[test]
fn scram_checks_a_plain_secret_and_a_verifier() {
    let valet = for_anybody("scram-sha-256")
        .user("plain", PASSWORD, &[])
        .user("verifier", &scram::verifier(PASSWORD, SALT, 4096), &[])
        .user("few", &scram::verifier(PASSWORD, SALT, 1000), &[])
        .start();
    for user in ["plain", "verifier", "few"] {
        let mut client = valet.login(&who(user, PASSWORD));
        assert_eq!(first_request(&client), 10, "{user}");
        assert_eq!(client.value("SELECT current_user"), "app_trust");
        let error = refused(&valet.tcp(), &who(user, "wrong"));
        assert_eq!(error.sqlstate().as_deref(), Some("28P01"), "{user}: {error:?}");
    }
}

#[test]
fn md5_checks_plain_and_md5_secrets_and_runs_scram_for_a_verifier() {
    let valet = for_anybody("md5")
        .user("plain", PASSWORD, &[])
        .user("hashed", &scram::md5_secret("hashed", PASSWORD), &[])
        .user("verifier", &scram::verifier(PASSWORD, SALT, 4096), &[])
        .start();
    for (user, request) in [("plain", 5), ("hashed", 5), ("verifier", 10)] {
        let mut client = valet.login(&who(user, PASSWORD));
        assert_eq!(first_request(&client), request, "{user}");
        assert_eq!(client.value("SELECT 1"), "1");
        let error = refused(&valet.tcp(), &who(user, "wrong"));
        assert_eq!(error.sqlstate().as_deref(), Some("28P01"), "{user}: {error:?}");
    }
}

#[test]
fn md5_challenges_are_never_the_same() {
    let valet = for_anybody("md5").user("plain", PASSWORD, &[]).start();
    let salt = || {
        let client = valet.login(&who("plain", PASSWORD));
        client.greeting.iter().find(|message| message.tag == b'R').expect("a challenge").body[4..].to_vec()
    };
    assert_ne!(salt(), salt());
}

#[test]
fn trust_asks_known_users_for_nothing_and_lets_nobody_else_in() {
    let valet = for_anybody("trust").user("known", PASSWORD, &[]).start();
    let client = valet.login(&Login::new("known", DATABASE));
    assert_eq!(first_request(&client), 0);
    assert_eq!(refused(&valet.tcp(), &Login::new("stranger", DATABASE)).sqlstate().as_deref(), Some("28P01"));
}

#[test]
fn users_come_from_the_userlist_too() {
    let home = tempfile::tempdir().expect("a temporary directory");
    let file = home.path().join("userlist.txt");
    let verifier = scram::verifier(PASSWORD, SALT, 4096);
    let text = format!(
        "; a comment\n\"by verifier\" \"{verifier}\"\n\"quo\"\"ted\" \"{PASSWORD}\"\n\"both\" \"old\"\n"
    );
    std::fs::write(&file, text).expect("the userlist is written");
    let valet = for_anybody("scram-sha-256")
        .setting(&format!("auth_file = \"{}\"", file.display()))
        .user("both", PASSWORD, &[])
        .start();
    for user in ["by verifier", "quo\"ted", "both"] {
        assert_eq!(valet.login(&who(user, PASSWORD)).value("SELECT 1"), "1", "{user}");
    }
    refused(&valet.tcp(), &who("both", "old"));
}

/// What an exchange with a wrong password shows to somebody who wants to know whether the user exists.
#[derive(Debug, PartialEq, Eq)]
struct Shown {
    messages: Vec<(u8, usize)>,
    iterations: Option<String>,
    salt: Option<String>,
    error: String,
}

fn shown(valet: &Pgvalet, user: &str) -> Shown {
    let mut client = Client::connect(&valet.tcp()).expect("pgvalet listens");
    client.send(&frontend::startup(&[("user", user), ("database", DATABASE)]));
    let login = who(user, "surely wrong");
    let Err(LoginError::Refused(error)) = client.authenticate(&login) else {
        panic!("{user} must be refused")
    };
    let texts: Vec<_> =
        client.greeting.iter().map(|message| String::from_utf8_lossy(&message.body).into_owned()).collect();
    let attribute = |name: &str| {
        texts
            .iter()
            .find_map(|text| text.split(',').find_map(|part| part.strip_prefix(name)))
            .map(String::from)
    };
    Shown {
        messages: client.greeting.iter().map(|message| (message.tag, message.body.len())).collect(),
        iterations: attribute("i="),
        salt: attribute("s="),
        error: format!("{error:?}").replace(user, "<user>"),
    }
}

#[test]
fn an_unknown_user_cannot_be_told_from_a_wrong_password() {
    for auth_type in ["scram-sha-256", "md5"] {
        let builder = for_anybody(auth_type).user("plain", PASSWORD, &[]).user(
            "hashed",
            &scram::md5_secret("hashed", PASSWORD),
            &[],
        );
        let builder = match auth_type {
            "md5" => builder,
            _ => builder.user("verifier", &scram::verifier(PASSWORD, SALT, 4096), &[]),
        };
        let valet = builder.start();
        let known = shown(&valet, "plain");
        assert!(known.error.contains("28P01"), "{known:?}");
        for user in ["nobody", "hashed", "verifier", "somebody else"] {
            let other = shown(&valet, user);
            assert_eq!(other, shown(&valet, user), "a second look shows nothing new: {auth_type} {user}");
            let alike = Shown { salt: known.salt.clone(), ..other };
            assert_eq!(alike, known, "{auth_type} {user}");
        }
        assert_eq!(known, shown(&valet, "plain"), "the salt of a plain secret stays, as a stored one would");
        if auth_type == "scram-sha-256" {
            let salt =
                |user: &str| STANDARD.decode(shown(&valet, user).salt.expect("a salt")).expect("base64");
            assert_eq!((salt("nobody").len(), salt("plain").len()), (16, 16));
            assert_ne!(salt("nobody"), salt("somebody else"));
            assert_eq!(known.iterations.as_deref(), Some("4096"));
        }
    }
}

#[test]
fn unknown_users_look_like_the_known_ones_whatever_their_secrets_are() {
    for (secret, auth_type, request, iterations) in [
        (scram::verifier(PASSWORD, SALT, 4096), "md5", 10, Some("4096")),
        (scram::verifier(PASSWORD, SALT, 7000), "md5", 10, Some("7000")),
        (scram::verifier(PASSWORD, SALT, 7000), "scram-sha-256", 10, Some("7000")),
        (scram::md5_secret("known", PASSWORD), "md5", 5, None),
        (PASSWORD.to_owned(), "md5", 5, None),
        (PASSWORD.to_owned(), "scram-sha-256", 10, Some("5000")),
    ] {
        let valet =
            for_anybody(auth_type).setting("scram_iterations = 5000").user("known", &secret, &[]).start();
        let known = shown(&valet, "known");
        assert_eq!(known.iterations.as_deref(), iterations, "{auth_type} {secret}");
        for user in ["nobody", "somebody", "anybody"] {
            let other = shown(&valet, user);
            assert_eq!(Shown { salt: known.salt.clone(), ..other }, known, "{auth_type} {secret}");
        }
        let mut client = Client::connect(&valet.tcp()).expect("pgvalet listens");
        client.send(&frontend::startup(&[("user", "nobody"), ("database", DATABASE)]));
        assert_eq!(client.recv().body[..4], u32::to_be_bytes(request), "{auth_type} {secret}");
    }
}

#[test]
fn keys_of_plain_passwords_are_there_before_the_first_login() {
    let builder = (0..20).fold(for_anybody("scram-sha-256"), |builder, number| {
        builder.user(&format!("user{number}"), PASSWORD, &[])
    });
    let valet = builder.setting("log_level = \"debug\"").start();
    valet.wait_log(&["keys derived ahead of logins", "users=20"]);
    valet.write_config(&valet.config().replace("[users.\"user7\"]", "[users.\"new\"]"));
    valet.sighup();
    eventually("the keys of a new configuration", || {
        (valet.count_log(&["keys derived ahead of logins"]) == 2).then_some(())
    });
    valet.login(&who("new", PASSWORD));
}

#[test]
fn passwords_in_the_clear_are_taken_over_the_unix_socket_and_not_over_the_network() {
    let valet = for_anybody("plain")
        .user("plain", PASSWORD, &[])
        .user("hashed", &scram::md5_secret("hashed", PASSWORD), &[])
        .user("verifier", &scram::verifier(PASSWORD, SALT, 4096), &[])
        .start();
    for user in ["plain", "hashed", "verifier"] {
        let client = Client::login(&valet.unix(), &who(user, PASSWORD)).expect("the right password");
        assert_eq!(first_request(&client), 3, "{user}");
        assert_eq!(
            refused(&valet.unix(), &who(user, "wrong")).sqlstate().as_deref(),
            Some("28P01"),
            "{user}"
        );
        let error = refused(&valet.tcp(), &who(user, PASSWORD));
        assert_eq!(error.sqlstate().as_deref(), Some("28000"), "{error:?}");
    }
    assert_eq!(refused(&valet.unix(), &who("nobody", "wrong")).sqlstate().as_deref(), Some("28P01"));
    let empty = refused(&valet.unix(), &who("plain", ""));
    assert_eq!(empty.field(b'M').as_deref(), Some("empty password returned by client"));
}

#[test]
fn any_takes_every_name_and_reject_none() {
    let valet = for_anybody("any").start();
    assert_eq!(valet.login(&Login::new("whoever", DATABASE)).value("SELECT current_user"), "app_trust");
    let valet = for_anybody("reject").user("known", PASSWORD, &[]).start();
    assert_eq!(refused(&valet.tcp(), &who("known", PASSWORD)).sqlstate().as_deref(), Some("28000"));
}

#[test]
fn an_unknown_user_learns_nothing_of_databases() {
    let valet = for_anybody("scram-sha-256").user("known", PASSWORD, &[]).start();
    let login = |user: &str, password: &str| Login::new(user, "no such database").password(password);
    for (user, password) in [("stranger", PASSWORD), ("known", "wrong")] {
        assert_eq!(refused(&valet.tcp(), &login(user, password)).sqlstate().as_deref(), Some("28P01"));
    }
    let error = refused(&valet.tcp(), &login("known", PASSWORD));
    assert_eq!(error.sqlstate().as_deref(), Some("3D000"), "{error:?}");
}

#[test]
fn every_method_of_the_server_is_answered() {
    let cluster = Cluster::shared();
    let clients = Pgvalet::builder().setting("auth_type = \"trust\"").user("anybody", PASSWORD, &[]);
    let valet = [Role::Scram, Role::Md5, Role::Plain, Role::Trust].iter().fold(clients, |builder, role| {
        let user = format!("user = \"{}\"", role.name());
        let password = format!("password = \"{PASSWORD}\"");
        builder.database(role.name(), cluster, &["dbname = \"app\"", &user, &password])
    });
    let valet = valet
        .database(
            "hash for md5",
            cluster,
            &[
                "dbname = \"app\"",
                "user = \"app_md5\"",
                &format!("password = \"{}\"", scram::md5_secret("app_md5", PASSWORD)),
            ],
        )
        .start();
    for (database, user) in [
        ("app_scram", "app_scram"),
        ("app_md5", "app_md5"),
        ("app_plain", "app_plain"),
        ("app_trust", "app_trust"),
        ("hash for md5", "app_md5"),
    ] {
        let mut client = valet.login(&Login::new("anybody", database));
        assert_eq!(client.value("SELECT session_user"), user);
    }
}

#[test]
fn a_password_that_cannot_be_made_from_what_is_configured_is_said_so() {
    let cluster = Cluster::shared();
    let verifier = scram::verifier(PASSWORD, SALT, 4096);
    let hash = format!("password = \"{}\"", scram::md5_secret("app_plain", PASSWORD));
    let valet = Pgvalet::builder()
        .setting("auth_type = \"trust\"")
        .database(DATABASE, cluster, &[])
        .database("hash", cluster, &["dbname = \"app\"", "user = \"app_plain\"", &hash])
        .database("nothing", cluster, &["dbname = \"app\"", "user = \"app_plain\""])
        .user("app_scram", &verifier, &[])
        .user("app_md5", &verifier, &[])
        .start();
    for (client, database, user, reason) in [
        ("app_scram", DATABASE, "app_scram", "another SCRAM verifier of this user than pgvalet"),
        ("app_md5", DATABASE, "app_md5", "a SCRAM verifier cannot answer an md5 request"),
        ("app_scram", "hash", "app_plain", "only a hash of it is configured"),
        ("app_scram", "nothing", "app_plain", "set `password` of the database, or of the user"),
    ] {
        let error = refused(&valet.tcp(), &Login::new(client, database));
        let text = error.field(b'M').expect("a message");
        assert!(text.contains(reason) && text.contains(user), "{text}");
        assert_eq!(error.sqlstate().as_deref(), Some("08001"), "{error:?}");
        valet.wait_log(&["cannot open a server", user, reason]);
    }
    // Where the configuration alone shows it, pgvalet does not even start.
    let line = format!("password = \"{verifier}\"");
    let failure =
        for_anybody("trust").database("fixed", cluster, &["user = \"app_scram\"", &line]).try_start();
    let log = failure.expect_err("refused").log.join("\n");
    assert!(log.contains("a SCRAM verifier cannot log in to a server"), "{log}");
}

#[test]
fn the_servers_own_refusal_reaches_the_client() {
    let cluster = Cluster::shared();
    let valet = Pgvalet::builder()
        .setting("auth_type = \"trust\"")
        .user("anybody", PASSWORD, &[])
        .database(
            "wrong password",
            cluster,
            &["dbname = \"app\"", "user = \"app_scram\"", "password = \"wrong\""],
        )
        .database("no database", cluster, &["dbname = \"nowhere\"", "user = \"app_trust\""])
        .start();
    for (database, sqlstate) in [("wrong password", "28P01"), ("no database", "3D000")] {
        let error = refused(&valet.tcp(), &Login::new("anybody", database));
        assert_eq!(error.sqlstate().as_deref(), Some(sqlstate), "{error:?}");
    }
}

/// What a client answers to the server's challenge.
type Answer<'a> = dyn Fn(&str) -> Vec<u8> + 'a;

/// One login by SASL, message by message: the first one as given, then the answer to the server's challenge. Returns what
/// the peer says of it in the end: SQLSTATE, message and detail, `None` if it just ends the connection or lets the client in.
fn sasl_outcome(endpoint: &Endpoint, first: &[u8], last: Option<&Answer<'_>>) -> Option<(String, String)> {
    let mut client = Client::connect(endpoint).expect("something listens");
    client.send(&frontend::startup(&[("user", Role::Scram.name()), ("database", DATABASE)]));
    assert_eq!(client.recv().body[..4], 10_u32.to_be_bytes(), "SASL is asked for");
    client.send(first);
    let mut answer = client.try_recv().ok().flatten()?;
    if let (b'R', Some(last)) = (answer.tag, last) {
        let challenge = String::from_utf8_lossy(&answer.body[4..]).into_owned();
        client.send(&last(&challenge));
        answer = client.try_recv().ok().flatten()?;
    }
    if answer.tag == b'E' {
        assert_eq!(answer.field(b'S').as_deref(), Some("FATAL"), "{answer:?}");
        assert!(client.until_end().is_empty(), "the error is the last word");
    }
    let text = answer.field(b'M').unwrap_or_else(|| format!("{answer:?}"));
    let detail = answer.field(b'D').map_or_else(String::new, |detail| format!(" ({detail})"));
    Some((answer.sqlstate().unwrap_or_default(), text + &detail))
}

fn initial(response: &[u8]) -> Vec<u8> {
    frontend::sasl_initial("SCRAM-SHA-256", response)
}

/// A SASLInitialResponse with a length of its own choice.
fn initial_of_length(length: u32, response: &[u8]) -> Vec<u8> {
    frontend::frame(b'p', &[b"SCRAM-SHA-256\0", &length.to_be_bytes()[..], response].concat())
}

#[test]
fn a_login_waits_for_no_server_once_one_worker_knows_the_greeting() {
    let valet = for_anybody("trust")
        .setting("workers = 4")
        .setting("default_pool_size = 1")
        // The first login waits for a server to be opened, on however busy a machine; whoever else waits, waits in vain.
        .setting("query_wait_timeout = \"5s\"")
        .user("known", PASSWORD, &[])
        .start();
    let mut holder = valet.login(&Login::new("known", DATABASE));
    holder.query("BEGIN");
    // Enough of them for every worker.
    let others: Vec<Client> = (0..30).map(|_| valet.login(&Login::new("known", DATABASE))).collect();
    assert_eq!(others.len(), 30);
}

#[test]
fn malformed_sasl_is_answered_as_postgresql_answers_it() {
    let cluster = Cluster::shared();
    let valet = Pgvalet::in_front_of(cluster).start();
    let first = b"n,,n=,r=rOprNGfwEbeRWgbNEkqO";
    let long_nonce = [b"n,,n=,r=".to_vec(), vec![b'x'; 60_000]].concat();
    let firsts: Vec<(&str, Vec<u8>)> = vec![
        ("authorization identity", initial(b"n,a=admin,n=,r=abc")),
        ("mandatory extension", initial(b"n,,m=ext,n=,r=abc")),
        ("channel binding that was not offered", initial(b"p=tls-server-end-point,,n=,r=abc")),
        ("unknown binding flag", initial(b"x,,n=,r=abc")),
        ("no user attribute", initial(b"n,,r=abc")),
        ("no nonce", initial(b"n,,n=")),
        ("attribute without =", initial(b"n,,n,r=abc")),
        ("unprintable nonce", initial(b"n,,n=,r=a\x01b")),
        ("zero byte", initial(b"n,,n=,r=a\0bc")),
        ("no response bytes", initial(b"")),
        ("only a comma", initial(b",")),
        ("only the header", initial(b"n,,")),
        ("another mechanism", frontend::sasl_initial("SCRAM-SHA-1", first)),
        ("no mechanism", frontend::frame(b'p', b"")),
        ("mechanism without end", frontend::frame(b'p', b"SCRAM-SHA-256")),
        ("no length", frontend::frame(b'p', b"SCRAM-SHA-256\0")),
        ("length beyond the message", initial_of_length(0x7fff_ffff, first)),
        ("length shorter than the message", initial_of_length(3, first)),
        ("not a password message", frontend::query("SELECT 1")),
        ("a second startup message", frontend::startup(&[("user", "postgres"), ("database", DATABASE)])),
    ];
    for (what, bytes) in &firsts {
        let truth = sasl_outcome(&cluster.tcp(), bytes, None);
        let ours = sasl_outcome(&valet.tcp(), bytes, None);
        assert_eq!(code(&ours), code(&truth), "{what}: {ours:?} where PostgreSQL says {truth:?}");
        assert!(ours.is_some(), "{what}: something is said");
    }
    // PostgreSQL takes what these say, or ends the connection without a word; neither hurts.
    for bytes in
        [initial(&long_nonce), initial_of_length(u32::MAX, first), frontend::frame(b'p', &[0; 70_000])]
    {
        sasl_outcome(&valet.tcp(), &bytes, None);
    }

    let nonce_of = |challenge: &str| challenge.split(',').next().unwrap_or_default()[2..].to_string();
    let proof = STANDARD.encode([7; 32]);
    type Last<'a> = (&'a str, Box<Answer<'a>>);
    let right = move |challenge: &str| format!("c=biws,r={},p={proof}", nonce_of(challenge));
    let lasts: Vec<Last<'_>> = vec![
        (
            "wrong proof",
            Box::new({
                let right = right.clone();
                move |c: &str| frontend::sasl_response(right(c).as_bytes())
            }),
        ),
        (
            "another nonce",
            Box::new(|_| {
                frontend::sasl_response(format!("c=biws,r=other,p={}", STANDARD.encode([7; 32])).as_bytes())
            }),
        ),
        (
            "another binding",
            Box::new({
                let right = right.clone();
                move |c: &str| frontend::sasl_response(right(c).replace("biws", "eSws").as_bytes())
            }),
        ),
        (
            "no proof",
            Box::new(move |c: &str| frontend::sasl_response(format!("c=biws,r={}", nonce_of(c)).as_bytes())),
        ),
        (
            "short proof",
            Box::new(move |c: &str| {
                frontend::sasl_response(format!("c=biws,r={},p=AAAA", nonce_of(c)).as_bytes())
            }),
        ),
        (
            "garbage behind",
            Box::new({
                let right = right.clone();
                move |c: &str| frontend::sasl_response(format!("{},x=y", right(c)).as_bytes())
            }),
        ),
        ("empty", Box::new(|_| frontend::sasl_response(b""))),
        (
            "zero byte",
            Box::new({
                let right = right.clone();
                move |c: &str| frontend::sasl_response(format!("{}\0", right(c)).as_bytes())
            }),
        ),
        ("a query", Box::new(|_| frontend::query("SELECT 1"))),
    ];
    for (what, last) in &lasts {
        let truth = sasl_outcome(&cluster.tcp(), &initial(first), Some(last));
        let ours = sasl_outcome(&valet.tcp(), &initial(first), Some(last));
        assert_eq!(ours, truth, "{what}");
    }
    assert_eq!(valet.client(Role::Scram).value("SELECT 'alive'"), "alive");
}

/// The SQLSTATE; the text of a broken packet may be ours.
fn code(outcome: &Option<(String, String)>) -> Option<&str> {
    outcome.as_ref().map(|(code, _)| code.as_str())
}

#[test]
fn lengths_that_cannot_be_end_a_login_without_being_believed() {
    let valet = Pgvalet::in_front_of(Cluster::shared()).start();
    for length in [u32::MAX, 0x7fff_ffff, 70_000, 3, 0] {
        let bytes = [&b"p"[..], &length.to_be_bytes(), b"SCRAM"].concat();
        let outcome = sasl_outcome(&valet.tcp(), &bytes, None);
        assert_eq!(code(&outcome), Some("08P01"), "{length}: {outcome:?}");
    }
}

#[test]
fn a_client_may_send_its_first_sasl_message_late() {
    let valet = Pgvalet::in_front_of(Cluster::shared()).start();
    for endpoint in [Cluster::shared().tcp(), valet.tcp()] {
        let mut client = Client::connect(&endpoint).expect("something listens");
        client.send(&frontend::startup(&[("user", Role::Scram.name()), ("database", DATABASE)]));
        client.recv();
        client.send(&initial_of_length(u32::MAX, b""));
        let empty = client.recv();
        assert_eq!(empty.body, 11_u32.to_be_bytes(), "{empty:?}");
        let (exchange, first) = scram::Scram::start(PASSWORD);
        client.send(&frontend::sasl_response(first.as_bytes()));
        let challenge = client.recv();
        let (answer, expected) =
            exchange.answer(&String::from_utf8_lossy(&challenge.body[4..])).expect("a challenge");
        client.send(&frontend::sasl_response(answer.as_bytes()));
        let last = client.recv();
        expected.check(&String::from_utf8_lossy(&last.body[4..])).expect("the server proves itself");
        client.until_ready();
    }
}

#[test]
fn a_version_that_nobody_speaks_is_negotiated_once() {
    let valet = for_anybody("trust").user("known", PASSWORD, &[]).start();
    let login = Login::new("known", DATABASE)
        .version(0x0003_270f)
        .parameter("_pq_.test_protocol_negotiation", "on")
        .parameter("_pq_.other", "");
    let mut client = valet.login(&login);
    let tags: Vec<u8> = client.greeting.iter().map(|message| message.tag).collect();
    assert_eq!(tags.iter().filter(|tag| **tag == b'v').count(), 1, "{:?}", client.greeting);
    assert_eq!(tags[0], b'v', "it comes before the authentication");
    let negotiation = &client.greeting[0].body;
    let expected = [
        &PROTOCOL_3_2.to_be_bytes()[..],
        &2_u32.to_be_bytes(),
        b"_pq_.test_protocol_negotiation\0_pq_.other\0",
    ];
    assert_eq!(*negotiation, expected.concat());
    assert_eq!(client.value("SELECT 1"), "1");

    for version in [frontend::PROTOCOL_3_0, PROTOCOL_3_2] {
        let client = valet.login(&Login::new("known", DATABASE).version(version));
        assert!(client.greeting.iter().all(|message| message.tag != b'v'), "{:?}", client.greeting);
    }
    let client = valet.login(&Login::new("known", DATABASE).parameter("_pq_.x", "1"));
    assert_eq!(client.greeting[0].tag, b'v', "an unknown option alone is reason enough");
}

#[test]
fn negotiation_comes_before_a_request_for_a_password() {
    let valet = for_anybody("scram-sha-256").user("known", PASSWORD, &[]).start();
    let client = valet.login(&who("known", PASSWORD).version(0x0003_270f));
    let tags: Vec<u8> = client.greeting.iter().map(|message| message.tag).collect();
    assert_eq!(tags[..4], *b"vRRR", "{:?}", client.greeting);
    assert_eq!(tags.iter().filter(|tag| **tag == b'v').count(), 1);
}

#[test]
fn other_major_versions_are_refused() {
    let valet = for_anybody("trust").user("known", PASSWORD, &[]).start();
    for version in [0x0002_0000, 0x0004_0000, 0x0001_0000, 0, 0xffff_ffff] {
        let error = refused(&valet.tcp(), &Login::new("known", DATABASE).version(version));
        assert_eq!(error.sqlstate().as_deref(), Some("0A000"), "{version:x}: {error:?}");
        assert_eq!(error.field(b'S').as_deref(), Some("FATAL"));
    }
}

#[test]
fn cancel_keys_are_as_long_as_the_protocol_allows_and_work() {
    let cluster = Cluster::shared();
    let valet = for_anybody("trust").user("known", PASSWORD, &[]).start();
    for (version, lengths) in [(frontend::PROTOCOL_3_0, 4..=4), (PROTOCOL_3_2, 16..=256)] {
        let mut client = valet.login(&Login::new("known", DATABASE).version(version));
        let cancel = client.cancel();
        assert!(lengths.contains(&cancel.key.len()), "{version:x}: {} bytes", cancel.key.len());
        let mark = format!("SELECT pg_sleep(600) /* {version} */");
        client.send(&frontend::query(&mark));
        eventually("the query to run", || {
            let sql =
                format!("SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query = '{mark}'");
            (cluster.value(&sql) == "1").then_some(())
        });
        let mut forged = cancel.clone();
        forged.key[0] ^= 1;
        forged.send().expect("a wrong key is taken, and ignored");
        cancel.send().expect("the request is taken");
        assert_eq!(first_error(&client.until_ready()).as_deref(), Some("57014"));
    }
}

#[test]
fn encryption_is_declined_once_for_each_kind_in_either_order() {
    let valet = for_anybody("trust").user("known", PASSWORD, &[]).start();
    let (ssl, gss) = (frontend::ssl_request(), frontend::gssenc_request());
    let startup = frontend::startup(&[("user", "known"), ("database", DATABASE)]);
    for requests in [vec![], vec![&ssl], vec![&gss], vec![&ssl, &gss], vec![&gss, &ssl]] {
        let mut client = Client::connect(&valet.tcp()).expect("pgvalet listens");
        for request in requests {
            client.send(request);
            assert_eq!(client.recv_byte().expect("one byte"), b'N');
        }
        client.send(&startup);
        client.until_ready();
    }
    for requests in [[&ssl, &ssl], [&gss, &gss]] {
        let mut client = Client::connect(&valet.tcp()).expect("pgvalet listens");
        client.send(requests[0]);
        assert_eq!(client.recv_byte().expect("one byte"), b'N');
        client.send(requests[1]);
        let messages = client.until_end();
        assert_eq!(first_error(&messages).as_deref(), Some("08P01"), "{messages:?}");
    }
}

#[test]
fn there_is_one_startup_message_in_a_connection() {
    let valet = for_anybody("trust").user("known", PASSWORD, &[]).user("other", PASSWORD, &[]).start();
    let mut client = valet.login(&Login::new("known", DATABASE));
    client.send(&frontend::startup(&[("user", "other"), ("database", DATABASE)]));
    let messages = client.until_end();
    assert_eq!(first_error(&messages).as_deref(), Some("08P01"), "{messages:?}");
    assert_eq!(messages.len(), 1);
}

#[test]
fn the_console_is_for_those_who_are_named() {
    let valet = for_anybody("scram-sha-256")
        .setting("admin_users = [\"boss\"]")
        .setting("stats_users = \"watcher\"")
        .user("boss", PASSWORD, &[])
        .user("watcher", PASSWORD, &[])
        .user("known", PASSWORD, &[])
        .start();
    let console = |user: &str, database: &str| Login::new(user, database).password(PASSWORD);
    for database in ["pgvalet", "pgbouncer"] {
        let error = refused(&valet.tcp(), &console("known", database));
        assert_eq!(error.sqlstate().as_deref(), Some("28000"), "{error:?}");
        let error = refused(&valet.tcp(), &console("boss", database).password("wrong"));
        assert_eq!(error.sqlstate().as_deref(), Some("28P01"), "{error:?}");
        refused(&valet.tcp(), &console("stranger", database));

        let mut watcher = valet.login(&console("watcher", database));
        for table in ["POOLS", "STATS", "RESETS", "WORKERS", "VERSION"] {
            watcher.rows(&format!("SHOW {table};"));
        }
        for command in ["RELOAD", "SHUTDOWN"] {
            assert_eq!(first_error(&watcher.query(command)).as_deref(), Some("42501"), "{command}");
        }
        assert_eq!(first_error(&watcher.query("DROP TABLE x")).as_deref(), Some("42601"));
        watcher.rows("SHOW POOLS");

        let mut boss = valet.login(&console("boss", database));
        assert_eq!(boss.query("RELOAD")[0].command().as_deref(), Some("RELOAD"));
    }
    valet.wait_log(&["configuration reloaded"]);
}

#[test]
fn no_secret_reaches_the_log_at_any_level() {
    let cluster = Cluster::shared();
    let verifier = scram::verifier(PASSWORD, SALT, 4096);
    let hash = scram::md5_secret("hashed", PASSWORD);
    let secret = format!("password = \"{PASSWORD}\"");
    for auth_type in ["scram-sha-256", "md5"] {
        let valet = Pgvalet::builder()
            .setting("log_level = \"trace\"")
            .setting(&format!("auth_type = \"{auth_type}\""))
            .user("plain", PASSWORD, &[])
            .user("hashed", &hash, &[])
            .user("verifier", &verifier, &[])
            .database("scram", cluster, &["dbname = \"app\"", "user = \"app_scram\"", &secret])
            .database("clear", cluster, &["dbname = \"app\"", "user = \"app_plain\"", &secret])
            .database("md5", cluster, &["dbname = \"app\"", "user = \"app_md5\"", &secret])
            .start();
        for (user, database) in
            [("plain", "scram"), ("verifier", "clear"), ("plain", "md5"), ("hashed", "md5")]
        {
            let _ = Client::login(&valet.tcp(), &Login::new(user, database).password(PASSWORD))
                .map(Client::terminate);
            let _ = Client::login(&valet.tcp(), &Login::new(user, database).password("my wrong try"));
        }
        valet.sighup();
        valet.wait_log(&["configuration reloaded"]);
        valet.sigterm();
        valet.wait_exit();
        assert!(valet.count_log(&["TRACE"]) + valet.count_log(&["DEBUG"]) > 0, "there is much in the log");
        let stored = verifier.rsplit(['$', ':']).take(2).map(String::from);
        let secrets = [PASSWORD.to_string(), "my wrong try".into(), hash[3..].into(), verifier.clone()];
        for secret in secrets.into_iter().chain(stored) {
            assert_eq!(valet.count_log(&[&secret]), 0, "{secret}");
        }
    }
}

#[test]
fn no_secret_is_shown_to_anybody() {
    let cluster = Cluster::shared();
    let verifier = scram::verifier(PASSWORD, SALT, 4096);
    let hash = scram::md5_secret("hashed", PASSWORD);
    let secret = format!("password = \"{PASSWORD}\"");
    let valet = Pgvalet::builder()
        .setting("auth_type = \"md5\"")
        .setting("admin_users = [\"plain\"]")
        .setting("metrics_listen = \"127.0.0.1:0\"")
        .user("plain", PASSWORD, &[])
        .user("hashed", &hash, &[])
        .user("verifier", &verifier, &[])
        .database("scram", cluster, &["dbname = \"app\"", "user = \"app_scram\"", &secret])
        .database("command", cluster, &["user = \"u\"", "password_command = \"echo my-own-secret\""])
        .start();
    let clients: Vec<_> = ["plain", "hashed", "verifier"]
        .map(|user| valet.login(&Login::new(user, "scram").password(PASSWORD)))
        .into();
    let mut console = valet.login(&Login::new("plain", "pgbouncer").password(PASSWORD));
    let mut said = everything(&mut console);
    let line = valet.wait_log(&["metrics are served", "address="]);
    let address = line.split_once("address=").expect("an address").1.trim_matches('"').to_owned();
    let mut stream = std::net::TcpStream::connect(address).expect("the endpoint listens");
    std::io::Write::write_all(&mut stream, b"GET /metrics HTTP/1.0\r\n\r\n").expect("it is sent");
    std::io::Read::read_to_string(&mut stream, &mut said).expect("it answers");
    assert!(said.contains("pgvalet_build_info"));
    let stored = verifier.rsplit(['$', ':']).take(2).map(String::from);
    let secrets = [PASSWORD.to_string(), "my-own-secret".into(), hash[3..].into(), verifier.clone()];
    for secret in secrets.into_iter().chain(stored) {
        assert!(!said.contains(&secret), "{secret}");
    }
    drop(clients);
}
