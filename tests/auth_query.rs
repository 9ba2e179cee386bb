//! Users that are in the database and in no file: found by `auth_query`, believed for a moment, and never anybody's way in
//! who is not one.

mod support;

use std::sync::Barrier;

use support::cluster::{Cluster, DATABASE, PASSWORD, Role, StopMode};
use support::frontend;
use support::pgvalet::{Builder, Pgvalet};
use support::wire::{Client, Login, LoginError};
use support::{eventually, programs};

/// One pool for everybody, whose server asks for no password: only the client's side matters. No user is configured.
fn in_front_of(cluster: &Cluster) -> Builder {
    Pgvalet::builder().setting("auth_user = \"postgres\"").database(
        DATABASE,
        cluster,
        &["user = \"app_trust\""],
    )
}

fn who(user: &str, password: &str) -> Login {
    Login::new(user, DATABASE).password(password)
}

fn refused(valet: &Pgvalet, login: &Login) -> (String, String) {
    match Client::login(&valet.tcp(), login) {
        Err(LoginError::Refused(message)) => {
            (message.sqlstate().unwrap_or_default(), message.field(b'M').unwrap_or_default())
        }
        other => panic!("{} should have been refused: {other:?}", login.user),
    }
}

#[test]
fn users_of_the_database_log_in_with_any_kind_of_secret() {
    let cluster = Cluster::shared();
    for (auth_type, roles) in [
        ("scram-sha-256", vec![Role::Scram, Role::Plain]),
        ("md5", vec![Role::Scram, Role::Md5, Role::Plain]),
    ] {
        let valet = in_front_of(cluster).setting(&format!("auth_type = \"{auth_type}\"")).start();
        for role in roles {
            assert_eq!(valet.client(role).value("SELECT current_user"), "app_trust", "{auth_type} {role:?}");
            assert_eq!(refused(&valet, &role.login().password("wrong")).0, "28P01", "{auth_type} {role:?}");
        }
        let output = programs::psql(&valet.tcp(), &Role::Scram.login(), "SELECT 7");
        assert_eq!(output.ok(), "7");
    }
}

#[test]
fn who_may_not_log_in_to_postgresql_cannot_be_told_from_nobody() {
    let cluster = Cluster::start();
    cluster.sql(&format!(
        "CREATE ROLE expired LOGIN PASSWORD '{PASSWORD}' VALID UNTIL '2001-01-01';
         CREATE ROLE valid LOGIN PASSWORD '{PASSWORD}' VALID UNTIL '2101-01-01';
         CREATE ROLE nologin PASSWORD '{PASSWORD}'; CREATE ROLE nopassword LOGIN"
    ));
    let valet = in_front_of(&cluster).start();
    valet.login(&who("valid", PASSWORD));
    let shown = |user: &str| {
        let mut client = Client::connect(&valet.tcp()).expect("pgvalet listens");
        client.send(&frontend::startup(&[("user", user), ("database", DATABASE)]));
        let error = client.authenticate(&who(user, "wrong")).expect_err("refused");
        let lengths: Vec<_> =
            client.greeting.iter().map(|message| (message.tag, message.body.len())).collect();
        (lengths, format!("{error:?}").replace(user, "<user>"))
    };
    let known = shown("valid");
    assert!(known.1.contains("28P01"), "{known:?}");
    for user in ["expired", "nologin", "nopassword", "nobody", "x'; DROP TABLE y; --", &"long".repeat(30)] {
        assert_eq!(shown(user), known, "{user}");
        assert_eq!(refused(&valet, &who(user, PASSWORD)).0, "28P01", "{user}");
    }
}

#[test]
fn a_changed_password_is_noticed_at_the_next_failed_login() {
    let cluster = Cluster::start();
    cluster.sql("CREATE ROLE changing LOGIN PASSWORD 'one'");
    let valet = in_front_of(&cluster).setting("auth_query_cache_time = \"1h\"").start();
    valet.login(&who("changing", "one"));
    cluster.sql("ALTER ROLE changing PASSWORD 'two'");
    eventually("the new password to be noticed", || {
        Client::login(&valet.tcp(), &who("changing", "two")).ok()
    });
    assert_eq!(refused(&valet, &who("changing", "one")).0, "28P01");
    cluster.sql("DROP ROLE changing");
    assert_eq!(refused(&valet, &who("changing", "wrong")).0, "28P01");
    eventually("the user's end to be noticed", || Client::login(&valet.tcp(), &who("changing", "two")).err());
    cluster.sql("CREATE ROLE changing LOGIN PASSWORD 'three'");
    eventually("the user's return to be noticed", || {
        Client::login(&valet.tcp(), &who("changing", "three")).ok()
    });
}

#[test]
fn equal_questions_are_asked_once_and_answers_are_kept() {
    let cluster = Cluster::builder().config("log_statement = 'all'").start();
    let valet =
        in_front_of(&cluster).setting("auth_query_cache_time = \"1h\"").setting("workers = 2").start();
    let asked = || cluster.log().matches("FROM pg_catalog.pg_authid u").count();
    let start = Barrier::new(20);
    std::thread::scope(|scope| {
        for _ in 0..20 {
            scope.spawn(|| {
                start.wait();
                valet.client(Role::Scram);
            });
        }
    });
    assert_eq!(asked(), 1);
    for _ in 0..5 {
        refused(&valet, &who("nobody", PASSWORD));
    }
    let log = cluster.log();
    assert!(log.matches("'nobody'").count() <= 5, "{log}");
    valet.client(Role::Scram);
    assert_eq!(cluster.log().matches("$1 = 'app_scram'").count(), 1, "it is still believed");
}

#[test]
fn a_query_that_hangs_or_fails_is_told_and_holds_nobody_else_up() {
    let cluster = Cluster::shared();
    let hanging = "auth_query = \"SELECT $1::text, pg_sleep(3600)::text\"";
    let wrong = "auth_query = \"SELECT nothing FROM nowhere WHERE $1 = ''\"";
    let twice = "auth_query = \"SELECT $1::text, 'x' FROM generate_series(1, 2)\"";
    let database = |builder: Builder, name: &str, line: &str| {
        builder.database(name, cluster, &["user = \"app_trust\"", "dbname = \"app\"", line])
    };
    let builder = in_front_of(cluster).setting("workers = 1").setting("auth_query_timeout = \"300ms\"").user(
        "filed",
        PASSWORD,
        &[],
    );
    let builder = database(builder, "hanging", hanging);
    let builder = database(builder, "wrong", wrong);
    let valet = database(builder, "twice", twice).start();
    std::thread::scope(|scope| {
        let hung: Vec<_> = (0..10)
            .map(|number| {
                let login = who(&format!("user{number}"), PASSWORD).database("hanging");
                let valet = &valet;
                scope.spawn(move || refused(valet, &login))
            })
            .collect();
        assert_eq!(valet.login(&who("filed", PASSWORD).database("hanging")).value("SELECT 1"), "1");
        for thread in hung {
            let (sqlstate, text) = thread.join().expect("no panic");
            assert_eq!(
                (sqlstate.as_str(), text.as_str()),
                ("08001", "cannot look up users: auth_query failed")
            );
        }
    });
    for (database, reason) in [("wrong", "nowhere"), ("twice", "more than one row")] {
        assert_eq!(refused(&valet, &who("x", PASSWORD).database(database)).0, "08001");
        valet.wait_log(&["cannot be looked up", database, reason]);
    }
    valet.client(Role::Scram);
}

#[test]
fn nothing_that_is_set_anywhere_changes_what_the_query_means() {
    let cluster = Cluster::start();
    cluster.sql(
        "CREATE SCHEMA evil; CREATE TABLE evil.pg_authid (rolname text, rolpassword text);
         INSERT INTO evil.pg_authid VALUES ('intruder', 'open');
         ALTER ROLE postgres SET search_path = evil, pg_catalog;
         ALTER DATABASE app SET search_path = evil, pg_catalog;
         CREATE SCHEMA lookup; CREATE FUNCTION lookup.who(text, OUT text, OUT text) LANGUAGE sql SECURITY DEFINER
         AS $$ SELECT $1, 'by function' $$",
    );
    let query = "auth_query = \"SELECT rolname, rolpassword FROM pg_authid WHERE rolname = $1\"";
    let function = "auth_query = \"SELECT * FROM lookup.who($1)\"";
    let fixed = ["user = \"app_trust\"", "dbname = \"app\""];
    let valet = Pgvalet::builder()
        .setting("auth_user = \"postgres\"")
        .database(DATABASE, &cluster, &[fixed[0], query])
        .database("function", &cluster, &[fixed[0], fixed[1], function])
        .start();
    valet.client(Role::Scram);
    assert_eq!(refused(&valet, &who("intruder", "open")).0, "28P01");
    valet.login(&who("anybody", "by function").database("function"));
    // Settings of clients come and go on other connections.
    let mut client = valet.login(&Role::Scram.login().parameter("search_path", "evil,pg_catalog"));
    assert_eq!(client.value("SHOW search_path"), "evil,pg_catalog");
    assert_eq!(refused(&valet, &who("intruder", "open")).0, "28P01");
}

#[test]
fn a_database_that_is_not_there_is_nobodys_news() {
    let cluster = Cluster::shared();
    let valet = in_front_of(cluster).database("*", cluster, &["user = \"app_trust\""]).start();
    let unknown = refused(&valet, &who("app_scram", PASSWORD).database("no such database"));
    let wrong = refused(&valet, &who("app_scram", "wrong"));
    assert_eq!(unknown, wrong);
    valet.login(&Role::Scram.login().database("postgres"));
}

#[test]
fn look_ups_can_have_a_database_of_their_own_and_outlive_its_restart() {
    let cluster = Cluster::start();
    let valet = in_front_of(&cluster)
        .setting("auth_dbname = \"directory\"")
        .setting("auth_query_cache_time = 0")
        .setting("admin_users = [\"app_scram\"]")
        .database("directory", &cluster, &["dbname = \"postgres\""])
        .start();
    valet.client(Role::Scram);
    let mut console = valet.login(&Role::Scram.login().database("pgvalet"));
    assert_eq!(console.rows("SHOW VERSION").len(), 1);
    cluster.stop(StopMode::Fast);
    assert_eq!(refused(&valet, &Role::Scram.login()).0, "08001");
    cluster.start_again();
    eventually("logins to work again", || Client::login(&valet.tcp(), &Role::Scram.login()).ok());
}

#[test]
fn rules_can_ask_for_the_roles_of_a_user() {
    let cluster = Cluster::start();
    cluster.sql(
        "CREATE ROLE \"odd, \"\"role\"\"\"; CREATE ROLE staff; GRANT staff TO \"odd, \"\"role\"\"\";
         GRANT \"odd, \"\"role\"\"\" TO app_scram; CREATE ROLE banned; GRANT banned TO app_plain",
    );
    let home = tempfile::tempdir().expect("a temporary directory");
    let hba = home.path().join("hba.conf");
    let rules =
        "host all +banned all reject\nhost all +staff all scram-sha-256\nhost all app_plain all trust\n";
    std::fs::write(&hba, rules).expect("the rules are written");
    let settings = ["auth_type = \"hba\"".to_owned(), format!("auth_hba_file = \"{}\"", hba.display())];
    let builder = settings.iter().fold(in_front_of(&cluster), |builder, line| builder.setting(line));
    let valet = builder.start();
    valet.client(Role::Scram);
    assert_eq!(refused(&valet, &Role::Md5.login()).0, "28000");
    let (sqlstate, text) = refused(&valet, &Role::Plain.login());
    assert!(sqlstate == "28000" && text.contains("pg_hba.conf rejects"), "{text}");

    // Without anybody who could tell, the line that admits does not match, and the one that rejects does.
    let builder = settings.iter().fold(Pgvalet::in_front_of(&cluster), |builder, line| builder.setting(line));
    let valet = builder.start();
    valet.wait_log(&["asks for the roles of users", "auth_user"]);
    let (_, text) = refused(&valet, &Role::Scram.login());
    assert!(text.contains("pg_hba.conf rejects"), "{text}");
}

#[test]
fn the_recipe_of_the_documentation_works_without_a_superuser() {
    let cluster = Cluster::start();
    let docs = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/authentication.md");
    let docs = std::fs::read_to_string(docs).expect("the documentation");
    let block = |start: &str| {
        let (_, rest) = docs.split_once(start).expect("the block is there");
        rest.split_once("\n```").expect("the block ends").0.to_owned()
    };
    cluster.sql(&block("```sql\n"));
    let query = format!("auth_query{}", block("```toml\nauth_query"));
    let valet = Pgvalet::builder()
        .setting("auth_user = \"pgvalet_lookup\"")
        .setting(&query)
        .database(DATABASE, &cluster, &["user = \"app_trust\""])
        .user("pgvalet_lookup", "secret", &[])
        .start();
    valet.client(Role::Scram);
    assert_eq!(refused(&valet, &who("postgres", PASSWORD)).0, "28P01");
}

/// A cluster where the role `victim` has a database of hers and the owner of another one answers for her as he likes.
fn with_a_forger() -> (Cluster, String) {
    let cluster = Cluster::builder().hba("host all victim all scram-sha-256").start();
    cluster.sql(
        "CREATE ROLE victim SUPERUSER LOGIN PASSWORD 'real secret'; CREATE ROLE attacker LOGIN PASSWORD 'forged';
         CREATE SCHEMA lookup;
         CREATE FUNCTION lookup.who(text, OUT text, OUT text) LANGUAGE sql SECURITY DEFINER
         AS $$ SELECT rolname::text, rolpassword FROM pg_catalog.pg_authid WHERE rolname = $1 $$",
    );
    cluster.sql("CREATE DATABASE evil");
    let verifier = cluster.value("SELECT rolpassword FROM pg_authid WHERE rolname = 'attacker'");
    (cluster, verifier)
}

fn forge(cluster: &Cluster, secret: &str) {
    let mut evil =
        Client::login(&cluster.unix(), &Role::Postgres.login().database("evil")).expect("the owner");
    evil.query("CREATE SCHEMA IF NOT EXISTS lookup");
    evil.query(&format!(
        "CREATE OR REPLACE FUNCTION lookup.who(text, OUT text, OUT text) LANGUAGE sql AS $$ SELECT $1, '{secret}' $$"
    ));
}

fn asked_in_each_database(cluster: &Cluster) -> Builder {
    Pgvalet::builder()
        .setting("auth_user = \"postgres\"")
        .setting("auth_query = \"SELECT * FROM lookup.who($1)\"")
        .setting("auth_query_cache_time = 0")
        .setting("server_login_retry = \"20ms\"")
        .setting("workers = 1")
        .database(DATABASE, cluster, &[])
        .database("evil", cluster, &[])
}

#[test]
fn what_one_database_vouches_for_opens_no_other_and_locks_nobody_out() {
    let (cluster, verifier) = with_a_forger();
    let valet = asked_in_each_database(&cluster).start();
    for secret in [verifier.as_str(), "forged"] {
        forge(&cluster, secret);
        let mut real = valet.login(&who("victim", "real secret"));
        assert_eq!(real.value("SELECT session_user"), "victim");
        // The forger is let in to pgvalet, whose users he is asked about, and to no server.
        let forged = Client::login(&valet.tcp(), &who("victim", "forged").database("evil"));
        let error = forged.expect_err("no server takes the forged secret");
        assert!(
            !matches!(error.sqlstate().as_deref(), None | Some("28P01")) || secret == "forged",
            "{error}"
        );
        // What she has shown is still good when her server has gone.
        cluster.sql("SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE usename = 'victim'");
        let mut again = valet.login(&who("victim", "real secret"));
        assert_eq!(again.value("SELECT session_user"), "victim");
    }
}

#[test]
fn keys_go_when_another_verifier_is_vouched_for() {
    let (cluster, forged) = with_a_forger();
    let real = cluster.value("SELECT rolpassword FROM pg_authid WHERE rolname = 'victim'");
    let valet = asked_in_each_database(&cluster).start();
    forge(&cluster, &real);
    valet.login(&who("victim", "real secret").database("evil")).terminate();
    cluster.sql("SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE usename = 'victim'");
    forge(&cluster, &forged);
    // The first login with the forged verifier takes the place of hers; it opens no server.
    let login = || Client::login(&valet.tcp(), &who("victim", "forged").database("evil")).ok();
    let mut client = eventually("the forged verifier to be looked up", login);
    client.send(&frontend::query("SELECT session_user"));
    let replies = client.until_ready();
    assert!(format!("{replies:?}").contains("the server wants a password"), "{replies:?}");
}

#[test]
fn users_of_the_console_are_looked_up_only_where_it_was_said() {
    let cluster = Cluster::start();
    // Whoever may make databases would otherwise answer for the console's users.
    cluster.sql("CREATE DATABASE pgbouncer");
    let mut forger =
        Client::login(&cluster.unix(), &Role::Postgres.login().database("pgbouncer")).expect("the owner");
    forger.query("CREATE SCHEMA lookup");
    forger.query(
        "CREATE FUNCTION lookup.who(text, OUT text, OUT text) LANGUAGE sql AS $$ SELECT $1, 'forged' $$",
    );
    let valet = Pgvalet::builder()
        .setting("auth_user = \"postgres\"")
        .setting("auth_query = \"SELECT * FROM lookup.who($1)\"")
        .setting("admin_users = [\"boss\"]")
        .database("*", &cluster, &["user = \"app_trust\""])
        .start();
    for name in ["pgbouncer", "pgvalet"] {
        assert_eq!(refused(&valet, &who("boss", "forged").database(name)).0, "28P01", "{name}");
    }
}

#[test]
fn with_md5_unknown_users_look_like_those_of_the_database() {
    let cluster = Cluster::shared();
    let valet = Pgvalet::builder()
        .setting("auth_type = \"md5\"")
        .setting("auth_user = \"postgres\"")
        .user("postgres", PASSWORD, &[])
        .database(DATABASE, cluster, &["user = \"app_trust\""])
        .start();
    let shown = |user: &str| {
        let mut client = Client::connect(&valet.tcp()).expect("pgvalet listens");
        client.send(&frontend::startup(&[("user", user), ("database", DATABASE)]));
        client.authenticate(&who(user, "wrong")).expect_err("refused");
        client.greeting.iter().map(|message| (message.tag, message.body.len())).collect::<Vec<_>>()
    };
    let known = shown("app_scram");
    for number in 0..20 {
        assert_eq!(
            shown(&format!("nobody{number}")),
            known,
            "the secret of who looks users up shows nothing"
        );
    }
    // Once somebody with an md5 secret was seen, a part of the unknown names looks like that, each of them always the same.
    let md5 = shown("app_md5");
    assert_ne!(md5, known);
    let looks: Vec<_> = (0..20).map(|number| shown(&format!("nobody{number}"))).collect();
    assert!(looks.contains(&md5) && looks.contains(&known), "{looks:?}");
    let again: Vec<_> = (0..20).map(|number| shown(&format!("nobody{number}"))).collect();
    assert_eq!(looks, again);
}
