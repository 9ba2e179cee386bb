//! Logging in to servers in the name of clients whose password pgvalet does not know: what their own login has shown is
//! enough, and it survives what happens to connections, pools and configurations.

mod support;

use support::cluster::{Cluster, DATABASE, PASSWORD, Role};
use support::pgvalet::{Builder, Pgvalet};
use support::wire::{Client, Login, LoginError};
use support::{eventually, frontend};

/// Every user on a pool of its own, with what `auth_query` gives and nothing else.
fn looked_up(cluster: &Cluster) -> Builder {
    Pgvalet::builder().setting("auth_user = \"postgres\"").setting("auth_type = \"md5\"").database(
        DATABASE,
        cluster,
        &[],
    )
}

fn verifier(cluster: &Cluster, role: &str) -> String {
    cluster.value(&format!("SELECT rolpassword FROM pg_authid WHERE rolname = '{role}'"))
}

fn refusal(valet: &Pgvalet, login: &Login) -> String {
    match Client::login(&valet.tcp(), login) {
        Err(LoginError::Refused(message)) => message.field(b'M').expect("a message"),
        other => panic!("{} should have been refused: {other:?}", login.user),
    }
}

/// Runs a query that may fail, or find the connection gone.
fn attempt(client: &mut Client, sql: &str) {
    let _ = client.try_send(&frontend::query(sql));
    while let Ok(Some(message)) = client.try_recv() {
        if message.tag == b'Z' {
            break;
        }
    }
}

/// Ends all sessions of a role.
fn end_sessions(cluster: &Cluster, role: &str) {
    cluster.sql(&format!(
        "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE usename = '{role}'"
    ));
}

#[test]
fn users_that_auth_query_finds_log_in_to_the_server_as_themselves() {
    let cluster = Cluster::shared();
    let valet = looked_up(cluster).start();
    for role in [Role::Scram, Role::Md5, Role::Trust] {
        if role == Role::Trust {
            // No password, and so no login by one.
            assert!(refusal(&valet, &role.login()).contains("password authentication failed"));
            continue;
        }
        assert_eq!(valet.client(role).value("SELECT session_user"), role.name());
    }
    // The verifier of this role is one of SCRAM, but PostgreSQL asks it for the password in the clear.
    let text = refusal(&valet, &Role::Plain.login());
    assert!(text.contains("the server wants"), "{text}");
}

#[test]
fn keys_survive_lost_servers_and_reloads() {
    let cluster = Cluster::start();
    let valet = looked_up(&cluster).setting("log_level = \"debug\"").start();
    let mut client = valet.client(Role::Scram);
    let first = client.value("SELECT pg_backend_pid()");
    end_sessions(&cluster, "app_scram");
    assert_ne!(client.value("SELECT pg_backend_pid()"), first);
    // Another target means another pool.
    valet.write_config(
        &valet.config().replace("[databases.\"app\"]", "[databases.\"app\"]\napplication_name = \"other\""),
    );
    valet.sighup();
    valet.wait_log(&["configuration reloaded"]);
    assert_eq!(client.value("SELECT session_user || current_setting('application_name')"), "app_scramother");
}

#[test]
fn a_changed_password_needs_one_login_with_it() {
    let cluster = Cluster::builder().hba("host all rotating all scram-sha-256").start();
    cluster.sql("CREATE ROLE rotating LOGIN PASSWORD 'one'");
    let valet = looked_up(&cluster).setting("auth_query_cache_time = 0").start();
    let login = |password: &str| Login::new("rotating", DATABASE).password(password);
    let mut old = valet.login(&login("one"));
    assert_eq!(old.value("SELECT 1"), "1");
    cluster.sql("ALTER ROLE rotating PASSWORD 'two'");
    end_sessions(&cluster, "rotating");
    let log = eventually("the server to refuse the old key", || {
        attempt(&mut old, "SELECT 1");
        valet.log().into_iter().find(|line| line.contains("cannot open a server"))
    });
    assert!(log.contains("after a change of it they have to log in again"), "{log}");
    let mut new = valet.login(&login("two"));
    assert_eq!(new.value("SELECT session_user"), "rotating");
}

#[test]
fn a_verifier_in_a_file_is_enough_once_its_user_has_logged_in() {
    let cluster = Cluster::shared();
    let home = tempfile::tempdir().expect("a temporary directory");
    let hba = home.path().join("hba.conf");
    std::fs::write(&hba, "local all all trust\nhost all all all scram-sha-256\n")
        .expect("the rules are written");
    let valet = Pgvalet::builder()
        .setting("auth_type = \"hba\"")
        .setting(&format!("auth_hba_file = \"{}\"", hba.display()))
        .database(DATABASE, cluster, &[])
        .database("shared", cluster, &["dbname = \"app\"", "user = \"app_scram\""])
        .user("app_scram", &verifier(cluster, "app_scram"), &[])
        .user("other", PASSWORD, &[])
        .start();
    let trusted = |user: &str, database: &str| Client::login(&valet.unix(), &Login::new(user, database));
    for (user, database) in [("app_scram", DATABASE), ("other", "shared")] {
        let Err(LoginError::Refused(message)) = trusted(user, database) else {
            panic!("{user} must be refused")
        };
        let text = message.field(b'M').expect("a message");
        assert!(text.contains("nobody has logged in to pgvalet with its password"), "{text}");
    }
    assert_eq!(valet.client(Role::Scram).value("SELECT session_user"), "app_scram");
    for (user, database) in [("app_scram", DATABASE), ("other", "shared")] {
        let mut client = trusted(user, database).unwrap_or_else(|error| panic!("{user}: {error}"));
        assert_eq!(client.value("SELECT session_user"), "app_scram");
    }
}

#[test]
fn a_wrong_password_teaches_nothing() {
    let cluster = Cluster::shared();
    let valet = Pgvalet::builder()
        .database(DATABASE, cluster, &[])
        .database("shared", cluster, &["dbname = \"app\"", "user = \"app_scram\""])
        .user("app_scram", &verifier(cluster, "app_scram"), &[])
        .user("other", PASSWORD, &[])
        .start();
    assert!(
        refusal(&valet, &Role::Scram.login().password("wrong")).contains("password authentication failed")
    );
    let text = refusal(&valet, &Login::new("other", "shared").password(PASSWORD));
    assert!(text.contains("nobody has logged in"), "{text}");
}

#[test]
fn what_was_learnt_is_in_no_log() {
    let cluster = Cluster::shared();
    let verifier = verifier(cluster, "app_scram");
    let valet = looked_up(cluster).setting("log_level = \"trace\"").start();
    valet.client(Role::Scram).value("SELECT 1");
    valet.client(Role::Md5).value("SELECT 1");
    let log = valet.log().join("\n");
    for secret in [PASSWORD, verifier.split(':').next_back().expect("a key"), "SCRAM-SHA-256$"] {
        assert!(!log.contains(secret), "{log}");
    }
}
