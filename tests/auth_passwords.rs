//! Passwords for servers that come from files, the environment and commands.

mod support;

use std::fs;
use std::path::PathBuf;

use support::cluster::{Cluster, DATABASE, PASSWORD, Role};
use support::eventually;
use support::pgvalet::{Builder, Pgvalet};
use support::wire::{Client, Login, LoginError};

/// A directory with secrets in it.
struct Home(tempfile::TempDir);

impl Home {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a temporary directory"))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, text: &str) -> String {
        // As whole files come into place: nobody reads half of one.
        fs::write(self.path("new"), text).expect("the file is written");
        fs::rename(self.path("new"), self.path(name)).expect("the file is renamed");
        self.path(name).display().to_string()
    }

    fn lines(&self, name: &str) -> usize {
        fs::read_to_string(self.path(name)).unwrap_or_default().lines().count()
    }
}

/// Anybody may use the database as the role that needs a password.
fn with(line: &str) -> Builder {
    Pgvalet::builder().setting("auth_type = \"any\"").setting("server_login_retry = \"20ms\"").database(
        DATABASE,
        Cluster::shared(),
        &["user = \"app_scram\"", line],
    )
}

fn anybody() -> Login {
    Login::new("anybody", DATABASE)
}

fn refusal(valet: &Pgvalet, login: &Login) -> String {
    match Client::login(&valet.tcp(), login) {
        Err(LoginError::Refused(message)) => message.field(b'M').expect("a message"),
        other => panic!("it should have been refused: {other:?}"),
    }
}

#[test]
fn a_file_is_read_at_each_login_to_the_server() {
    let home = Home::new();
    let file = home.write("password", "wrong\n");
    let valet = with(&format!("password_file = \"{file}\"")).start();
    assert!(refusal(&valet, &anybody()).contains("password authentication failed for user \"app_scram\""));
    home.write("password", &format!("{PASSWORD}\n"));
    let mut client = eventually("the new password", || Client::login(&valet.tcp(), &anybody()).ok());
    assert_eq!(client.value("SELECT session_user"), "app_scram");
    drop(client);
    fs::remove_file(&file).expect("the file goes");
    Cluster::shared()
        .sql("SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE usename = 'app_scram'");
    let mut client = valet.login(&anybody());
    client.send(&support::frontend::query("SELECT 1"));
    valet.wait_log(&["password_file cannot be used", &file]);
    // Clients are told of it, but not where secrets are.
    let error = client.until_ready();
    assert!(!format!("{error:?}").contains(&file), "{error:?}");
}

#[test]
fn the_environment_can_hold_secrets_of_databases_and_of_users() {
    let builder = with("password_env = \"SERVER_PASSWORD\"").setting("auth_type = \"scram-sha-256\"");
    // The harness writes sections of users with a password; this one has none.
    let home = tempfile::tempdir().expect("a temporary directory");
    let text = builder.text(home.path()) + "\n[users.bob]\npassword_env = \"USER_PASSWORD\"\n";
    let file = Home::new();
    let secret = file.write("carol", "of carol\r\n");
    let text = format!("{text}[users.carol]\npassword_file = \"{secret}\"\n");
    let variables = [("SERVER_PASSWORD", PASSWORD), ("USER_PASSWORD", "of the user")];
    let valet = Pgvalet::with_environment(&text, &variables).expect("pgvalet starts");
    for (user, password) in [("bob", "of the user"), ("carol", "of carol")] {
        let mut client = valet.login(&Login::new(user, DATABASE).password(password));
        assert_eq!(client.value("SELECT session_user"), "app_scram", "{user}");
    }
}

#[test]
fn a_command_is_run_once_for_its_time_and_again_when_its_password_fails() {
    let home = Home::new();
    let password = home.write("password", "wrong");
    let runs = home.path("runs").display().to_string();
    let command = format!("echo $PGUSER $PGDATABASE $PGPORT >> {runs}; cat {password}");
    let valet = with(&format!("password_command = \"{command}\"\npassword_cache_time = \"1h\"")).start();
    assert!(refusal(&valet, &anybody()).contains("password authentication failed for user \"app_scram\""));
    home.write("password", PASSWORD);
    let first = eventually("the new password", || Client::login(&valet.tcp(), &anybody()).ok());
    let before = home.lines("runs");
    let mut clients: Vec<Client> = (0..5).map(|_| valet.login(&anybody())).collect();
    clients.push(first);
    for client in &mut clients {
        client.query("BEGIN");
        assert_eq!(client.value("SELECT session_user"), "app_scram");
    }
    assert_eq!(home.lines("runs"), before, "five more servers needed no further run");
    let told = fs::read_to_string(&runs).expect("what the command was told");
    let line = format!("app_scram app {}", Cluster::shared().port());
    assert!(told.lines().all(|told| told == line), "{told}");
    assert!(!valet.log().join("\n").contains(PASSWORD));
}

#[test]
fn a_command_without_a_fixed_user_is_told_whose_password_is_wanted() {
    let home = Home::new();
    home.write("app_scram", PASSWORD);
    let line = format!("password_command = \"cat {}/$PGUSER\"", home.path("").display());
    let valet = Pgvalet::builder()
        .setting("auth_type = \"trust\"")
        .database(DATABASE, Cluster::shared(), &[&line])
        .user("app_scram", "known here only", &[])
        .user("app_plain", "known here only", &[])
        .start();
    assert_eq!(valet.login(&Login::new("app_scram", DATABASE)).value("SELECT session_user"), "app_scram");
    let text = refusal(&valet, &Login::new("app_plain", DATABASE));
    assert!(text.contains("password_command: it failed (exit status: 1)"), "{text}");
}

#[test]
fn a_command_that_hangs_holds_nobody_else_up() {
    let valet = with("password_command = \"exec sleep 15\"")
        .setting("workers = 1")
        .setting("auth_type = \"trust\"")
        .setting("server_connect_timeout = \"300ms\"")
        .setting("query_wait_timeout = \"1s\"")
        .user("app_trust", PASSWORD, &[])
        .database("other", Cluster::shared(), &["dbname = \"app\"", "user = \"app_trust\""])
        .start();
    std::thread::scope(|scope| {
        let hung: Vec<_> =
            (0..5).map(|_| scope.spawn(|| refusal(&valet, &Login::new("app_trust", DATABASE)))).collect();
        for _ in 0..5 {
            let mut client = valet.login(&Role::Trust.login().database("other"));
            assert_eq!(client.value("SELECT 1"), "1");
        }
        for thread in hung {
            let text = thread.join().expect("no panic");
            assert!(text.contains("server_connect_timeout"), "{text}");
        }
    });
}

#[test]
fn a_command_that_hangs_is_not_started_again_while_it_runs() {
    let home = Home::new();
    let runs = home.path("runs").display().to_string();
    let go = home.path("go").display().to_string();
    home.write("password", PASSWORD);
    let password = home.path("password").display().to_string();
    let command = format!("echo run >> {runs}; until test -e {go}; do sleep 0.02; done; cat {password}");
    let valet = with(&format!("password_command = \"{command}\"\npassword_cache_time = \"1h\""))
        .setting("server_connect_timeout = \"50ms\"")
        .setting("query_wait_timeout = \"300ms\"")
        .start();
    for _ in 0..3 {
        Client::login(&valet.tcp(), &anybody()).expect_err("the command hangs");
    }
    assert_eq!(home.lines("runs"), 1, "logins that gave up have started no other");
    home.write("go", "");
    let mut client =
        eventually("what it printed to be used", || Client::login(&valet.tcp(), &anybody()).ok());
    assert_eq!((client.value("SELECT session_user").as_str(), home.lines("runs")), ("app_scram", 1));
}
