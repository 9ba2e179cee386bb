//! `auth_type = "hba"`: the same rules let the same clients in that PostgreSQL itself lets in.

mod support;

use std::fs;
use std::path::PathBuf;

use support::cluster::{Cluster, DATABASE, PASSWORD, Role};
use support::pgvalet::{Builder, Pgvalet};
use support::wire::{Client, Login, LoginError};
use support::{Endpoint, programs, scram};

const SALT: &[u8] = b"sixteen bytes :)";

/// A directory with rules in it.
struct Rules(tempfile::TempDir);

impl Rules {
    fn new(hba: &str) -> Self {
        let rules = Self(tempfile::tempdir().expect("a temporary directory"));
        rules.write("hba.conf", hba);
        rules
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).expect("the file is written");
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// One pool for everybody, whose server asks for no password: only the client's side matters.
    fn builder(&self) -> Builder {
        Pgvalet::builder()
            .setting("auth_type = \"hba\"")
            .setting(&format!("auth_hba_file = \"{}\"", self.path("hba.conf").display()))
            .database(DATABASE, Cluster::shared(), &["user = \"app_trust\""])
            .database("other", Cluster::shared(), &["user = \"app_trust\"", "dbname = \"app\""])
            .all_roles()
    }
}

fn refused(endpoint: &Endpoint, login: &Login) -> (String, String) {
    match Client::login(endpoint, login) {
        Err(LoginError::Refused(message)) => {
            (message.sqlstate().unwrap_or_default(), message.field(b'M').unwrap_or_default())
        }
        other => panic!("{} should have been refused: {other:?}", login.user),
    }
}

/// The code of the first Authentication message: 0 Ok, 3 cleartext, 5 MD5, 10 SASL.
fn first_request(client: &Client) -> u32 {
    let request =
        client.greeting.iter().find(|message| message.tag == b'R').expect("an Authentication message");
    u32::from_be_bytes(request.body[..4].try_into().expect("a code"))
}

#[test]
fn the_first_rule_that_matches_decides_and_asks_for_its_method() {
    let rules = Rules::new(
        "# who may come in\n\
         local  all    all                            md5\n\
         host   other  all        127.0.0.1/32        trust\n\
         host   all    app_plain  127.0.0.1 \\\n    255.255.255.255  password\n\
         host   app    /^app_m    samehost            md5\n\
         host   all    @names     localhost           scram-sha-256\n\
         host   all    postgres   all                 reject\n",
    );
    rules.write("names", "app_scram # and nobody else\n");
    let valet = rules.builder().start();
    let request = |endpoint: &Endpoint, role: Role, database: &str| {
        let login = role.login().database(database);
        first_request(&Client::login(endpoint, &login).unwrap_or_else(|error| panic!("{role:?}: {error}")))
    };
    let (tcp, unix) = (valet.tcp(), valet.unix());
    assert_eq!(request(&unix, Role::Plain, DATABASE), 5);
    assert_eq!(request(&tcp, Role::Scram, "other"), 0);
    assert_eq!(request(&tcp, Role::Plain, DATABASE), 3);
    assert_eq!(request(&tcp, Role::Md5, DATABASE), 5);
    assert_eq!(request(&tcp, Role::Scram, DATABASE), 10);
    for (role, method) in [(Role::Plain, "password"), (Role::Md5, "md5"), (Role::Scram, "scram")] {
        let (sqlstate, text) = refused(&tcp, &role.login().password("wrong"));
        assert_eq!(sqlstate, "28P01", "{method}: {text}");
    }
    let output = programs::psql(&tcp, &Role::Plain.login(), "SELECT current_user");
    assert_eq!(output.ok(), "app_trust");
}

#[test]
fn who_is_turned_away_is_told_so_in_postgresqls_words() {
    let hba = "local all all trust\nhost all app_trust all reject\nhost nothing all all trust\n";
    let rules = Rules::new(hba);
    let valet = rules.builder().start();
    // PostgreSQL's own pg_hba.conf, with what the harness adds behind never reached.
    let truth = Cluster::builder().hba("local all all trust").hba("host all app_trust all reject").start();
    let ours = refused(&valet.tcp(), &Role::Trust.login());
    let theirs = refused(&truth.tcp(), &Role::Trust.login());
    assert_eq!(ours, theirs);
    let replication = |login: Login| login.parameter("replication", "true");
    assert_eq!(
        refused(&valet.tcp(), &replication(Role::Trust.login())),
        (
            "28000".into(),
            "no pg_hba.conf entry for replication connection from host \"127.0.0.1\", user \"app_trust\", no encryption"
                .into()
        )
    );
    assert_eq!(
        refused(&valet.tcp(), &Role::Md5.login()),
        (
            "28000".into(),
            "no pg_hba.conf entry for host \"127.0.0.1\", user \"app_md5\", database \"app\", no encryption"
                .into()
        )
    );
}

#[test]
fn every_rule_decides_as_postgresqls_own_does() {
    let lines = [
        "host \"all\" app_scram all trust",
        "host all \"all\" all trust",
        "host all +app_scram all trust",
        "host app,nothing app_md5,app_scram 127.0.0.0/8 trust",
        "host /^ap{2}$ /_scram$ samenet trust",
        "host sameuser all all trust",
        "host samerole all all trust",
        "host all all 127.0.0.2/32 trust",
        "host all all 127.0.0.2/31 trust",
        "host all all 126.0.0.1/7 trust",
        "hostssl all all all trust",
        "hostnossl all all all trust",
        "host all all ::1/128 trust",
        "host all all localhost trust",
        "hostnossl replication app_scram all trust",
        "host ALL all all trust",
        "host all App_scram all trust",
    ];
    let rules = Rules::new("host all all all reject\n");
    let valet = rules.builder().start();
    let truth = Cluster::builder().hba("local all all trust").start();
    for line in lines {
        // PostgreSQL 15 knows no expressions in pg_hba.conf.
        if line.contains("/^") && truth.major() < 16 {
            continue;
        }
        let text = format!("local all all trust\n{line}\nhost all all all reject\n");
        rules.write("hba.conf", &text);
        valet.sighup();
        fs::write(truth.data_dir().join("pg_hba.conf"), &text).expect("pg_hba.conf is written");
        let mut superuser = Client::login(&truth.unix(), &Role::Postgres.login()).expect("a superuser");
        let before = superuser.value("SELECT pg_conf_load_time()");
        superuser.query("SELECT pg_reload_conf()");
        support::eventually("PostgreSQL to reload", || {
            let mut fresh = Client::login(&truth.unix(), &Role::Postgres.login()).ok()?;
            (fresh.value("SELECT pg_conf_load_time()") != before).then_some(())
        });
        support::eventually("pgvalet to reload", || {
            let reloads = valet.count_log(&["configuration reloaded"]);
            let wanted = lines.iter().filter(|known| !known.contains("/^") || truth.major() >= 16);
            let position = wanted.into_iter().position(|known| *known == line).expect("it is there");
            (reloads > position).then_some(())
        });
        for role in [Role::Scram, Role::Md5] {
            let (ours, theirs) =
                (Client::login(&valet.tcp(), &role.login()), Client::login(&truth.tcp(), &role.login()));
            assert_eq!(ours.is_ok(), theirs.is_ok(), "{line}, {role:?}: {ours:?}\n{theirs:?}");
        }
    }
}

#[test]
fn peer_takes_the_operating_systems_word_and_maps_it() {
    let rules = Rules::new(
        "local other all peer map=people\n\
         local all   all peer\n",
    );
    rules.write(
        "ident.conf",
        "people /^(r)oo(t)$ nobody\npeople root app_md5\npeople /^(.*)oot$ app_t\\1ust\n",
    );
    let valet = rules
        .builder()
        .setting(&format!("auth_ident_file = \"{}\"", rules.path("ident.conf").display()))
        .user("root", PASSWORD, &[])
        .start();
    let me = String::from_utf8(std::process::Command::new("id").arg("-un").output().expect("id runs").stdout);
    if me.expect("a name").trim() != "root" {
        eprintln!("skipped: the maps are made for root");
        return;
    }
    let unix = valet.unix();
    let enters = |user: &str, database: &str| Client::login(&unix, &Login::new(user, database));
    for (user, database) in [("root", DATABASE), ("app_md5", "other"), ("app_trust", "other")] {
        let client = enters(user, database).unwrap_or_else(|error| panic!("{user} to {database}: {error}"));
        assert_eq!(first_request(&client), 0);
    }
    for (user, database) in [("app_md5", DATABASE), ("root", "other"), ("app_scram", "other")] {
        let (sqlstate, text) = refused(&unix, &Login::new(user, database));
        assert_eq!(
            (sqlstate.as_str(), text),
            ("28000", format!("Peer authentication failed for user \"{user}\""))
        );
    }
    valet.wait_log(&["may not be this user", "root", "app_scram"]);
}

#[test]
fn a_bad_file_at_a_reload_keeps_the_old_rules() {
    let rules = Rules::new("host all app_md5 all trust\n");
    let valet = rules.builder().start();
    valet.login(&Role::Md5.login());
    rules.write(
        "hba.conf",
        "host all app_scram all trust\nhost all all 10.0.0.0/40 md5\nhosts all all all md5\n",
    );
    valet.sighup();
    valet.wait_log(&["reload failed"]);
    valet.wait_log(&["hba.conf:2", "up to 32"]);
    valet.wait_log(&["hba.conf:3", "did you mean host?"]);
    valet.login(&Role::Md5.login());
    assert_eq!(refused(&valet.tcp(), &Role::Scram.login()).0, "28000");
    rules.write("hba.conf", "host all app_scram all trust\n");
    valet.sighup();
    valet.wait_log(&["configuration reloaded"]);
    valet.login(&Role::Scram.login());
    assert_eq!(refused(&valet.tcp(), &Role::Md5.login()).0, "28000");
}

#[test]
fn a_file_with_errors_stops_the_start_and_tells_them_all() {
    let rules = Rules::new("host all all all\nlocal all all radius\n");
    let failure = rules.builder().try_start().expect_err("pgvalet does not start");
    let log = failure.log.join("\n");
    assert!(log.contains("hba.conf:1: the method is missing"), "{log}");
    assert!(log.contains("hba.conf:2: pgvalet does not have the method radius"), "{log}");
}

#[test]
fn an_unknown_user_cannot_be_told_from_a_wrong_password() {
    let rules =
        Rules::new("host app all all scram-sha-256\nhost other all all password\nlocal all all md5\n");
    let verifier = scram::verifier(PASSWORD, SALT, 4096);
    let valet = rules.builder().user("verifier", &verifier, &[]).start();
    for database in [DATABASE, "other"] {
        let shown = |user: &str| {
            let mut client = Client::connect(&valet.tcp()).expect("pgvalet listens");
            client.send(&support::frontend::startup(&[("user", user), ("database", database)]));
            let error = client.authenticate(&Login::new(user, database).password("wrong"));
            let lengths: Vec<_> =
                client.greeting.iter().map(|message| (message.tag, message.body.len())).collect();
            (lengths, format!("{error:?}").replace(user, "<user>"))
        };
        let known = shown("app_scram");
        assert!(known.1.contains("28P01"), "{known:?}");
        for user in ["verifier", "nobody", "someone"] {
            assert_eq!(shown(user), known, "{database} {user}");
        }
    }
}

#[test]
fn the_console_is_not_reached_by_the_rules_for_replication() {
    let home = tempfile::tempdir().expect("a temporary directory");
    let hba = home.path().join("hba.conf");
    let rules = "host pgbouncer,pgvalet all all reject\nhost replication all all trust\nhost all all all scram-sha-256\n";
    std::fs::write(&hba, rules).expect("the rules are written");
    let valet = Pgvalet::in_front_of(Cluster::shared())
        .setting("auth_type = \"hba\"")
        .setting(&format!("auth_hba_file = \"{}\"", hba.display()))
        .setting("admin_users = [\"app_scram\"]")
        .start();
    for database in ["pgbouncer", "pgvalet"] {
        for (replication, sqlstate) in [(None, "28000"), (Some("true"), "0A000"), (Some("database"), "0A000")]
        {
            let login = Login::new("app_scram", database);
            let login = replication.iter().fold(login, |login, value| login.parameter("replication", value));
            let error = Client::login(&valet.tcp(), &login).expect_err("the console is closed");
            assert_eq!(error.sqlstate().as_deref(), Some(sqlstate), "{database} {replication:?}: {error}");
        }
    }
}
