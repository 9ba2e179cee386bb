//! pgbouncer and pgvalet with the same limits and timeouts: what is served, what has to wait, what is told and closed.
//!
//! Each story is played to both, and what came of it is compared. Where pgvalet does otherwise on purpose, the story says so;
//! docs/migrating-from-pgbouncer.md has the reasons.

mod support;

use support::backend::{Message, rows};
use support::cluster::Cluster;
use support::poolers::{Pooler, Program};
use support::wire::{Client, Login, LoginError};
use support::{eventually, frontend};

/// Both poolers in front of a cluster, each with these lines of `[databases]`, `[users]` and `[pgbouncer]`.
fn both(cluster: &Cluster, databases: &[&str], users: &[&str], general: &[&str]) -> [Pooler; 2] {
    let at = format!("host=127.0.0.1 port={}", cluster.port());
    let databases: Vec<String> = databases.iter().map(|line| line.replace("@AT@", &at)).collect();
    let ini = format!(
        "[databases]\n{}\n[users]\n{}\n[pgbouncer]\nunix_socket_dir = @HOME@\nauth_type = trust\nauth_file = users\n\
         admin_users = postgres\npool_mode = transaction\nserver_check_delay = 30\n{}\n",
        databases.join("\n"),
        users.join("\n"),
        general.join("\n"),
    );
    let list = "\"postgres\" \"\"\n\"app_trust\" \"\"\n";
    Program::BOTH.map(|program| Pooler::start(program, &ini, &[("users", list)]))
}

/// Plays a story to both and compares what it gives.
#[track_caller]
fn compare<T: PartialEq + std::fmt::Debug>(poolers: &[Pooler; 2], story: impl Fn(&Pooler) -> T) {
    let [theirs, ours] = poolers;
    assert_eq!(story(theirs), story(ours), "pgbouncer's and pgvalet's");
}

fn login(pooler: &Pooler, user: &str, database: &str) -> Client {
    pooler.login(&Login::new(user, database))
}

/// The words up to the first colon of the first error; pgvalet's have more behind them.
fn words(messages: &[Message]) -> Option<String> {
    let text = messages.iter().find(|message| message.tag == b'E').and_then(|message| message.field(b'M'))?;
    Some(text.split(": ").next().unwrap_or_default().to_owned())
}

/// What a query comes to: its value, or the words of its error.
fn outcome(client: &mut Client, sql: &str) -> Result<String, Option<String>> {
    client.send(&frontend::query(sql));
    let mut messages = Vec::new();
    // pgbouncer closes the connection behind some errors where pgvalet goes on.
    while let Ok(Some(message)) = client.try_recv() {
        let is_last = message.tag == b'Z';
        messages.push(message);
        if is_last {
            break;
        }
    }
    match messages.iter().any(|message| message.tag == b'E') {
        true => Err(words(&messages)),
        false => Ok(rows(&messages).first().and_then(|row| row[0].clone()).unwrap_or_default()),
    }
}

/// What a table of the console says in some columns, by its first.
fn shown(pooler: &Pooler, table: &str, name: &str, columns: &[&str]) -> Vec<Option<String>> {
    let messages = pooler.console().query(&format!("SHOW {table}"));
    let names = messages.iter().find_map(Message::columns).unwrap_or_else(|| panic!("{messages:?}"));
    let all = rows(&messages);
    let row = all.iter().find(|row| row[0].as_deref() == Some(name)).unwrap_or_else(|| panic!("{all:?}"));
    let at = |column: &&str| names.iter().position(|other| other == column).expect("the column");
    columns.iter().map(|column| row[at(column)].clone()).collect()
}

/// Servers that the pooler says a user has.
fn servers(pooler: &Pooler, user: &str) -> String {
    let all = pooler.console().rows("SHOW SERVERS");
    all.iter().filter(|row| row[1].as_deref() == Some(user)).count().to_string()
}

#[test]
fn at_max_db_connections_an_idle_server_makes_room_and_a_busy_one_does_not() {
    let cluster = Cluster::shared();
    let poolers =
        both(cluster, &["app = @AT@ dbname=app"], &[], &["max_db_connections = 1", "query_wait_timeout = 1"]);
    compare(&poolers, |pooler| {
        let (mut first, mut second) = (login(pooler, "postgres", "app"), login(pooler, "app_trust", "app"));
        let mut told = vec![
            outcome(&mut first, "SELECT 'the only server'"),
            outcome(&mut second, "SELECT 'in its place'"),
        ];
        told.push(Ok(servers(pooler, "postgres")));
        told.push(outcome(&mut second, "BEGIN"));
        told.push(outcome(&mut first, "SELECT 'waits in vain'"));
        told.push(outcome(&mut second, "COMMIT"));
        told.push(outcome(&mut login(pooler, "postgres", "app"), "SELECT 'served'"));
        (told, shown(pooler, "DATABASES", "app", &["max_connections", "current_connections"]))
    });
}

#[test]
fn max_user_connections_holds_over_all_databases_of_a_user() {
    let cluster = Cluster::shared();
    let databases = ["app = @AT@ dbname=app", "other = @AT@ dbname=postgres"];
    let poolers =
        both(cluster, &databases, &["app_trust = max_user_connections=1"], &["query_wait_timeout = 1"]);
    compare(&poolers, |pooler| {
        let (mut first, mut second) =
            (login(pooler, "app_trust", "app"), login(pooler, "app_trust", "other"));
        let mut told =
            vec![outcome(&mut first, "SELECT 'one'"), outcome(&mut second, "SELECT 'in its place'")];
        told.push(Ok(servers(pooler, "app_trust")));
        told.push(outcome(&mut second, "BEGIN"));
        told.push(outcome(&mut first, "SELECT 'waits in vain'"));
        // Others have nothing to do with it.
        told.push(outcome(&mut login(pooler, "postgres", "app"), "SELECT 'another user'"));
        told
    });
}

#[test]
fn the_reserve_serves_whoever_has_waited_and_no_more_than_it_has() {
    let cluster = Cluster::shared();
    let databases = ["app = @AT@ dbname=app pool_size=1 reserve_pool=1"];
    let poolers = both(cluster, &databases, &[], &["reserve_pool_timeout = 1", "query_wait_timeout = 4"]);
    compare(&poolers, |pooler| {
        let mut holder = login(pooler, "postgres", "app");
        let mut told = vec![outcome(&mut holder, "BEGIN")];
        let mut second = login(pooler, "postgres", "app");
        told.push(outcome(&mut second, "BEGIN; SELECT 'from the reserve'").map(|_| "served".into()));
        let mut third = login(pooler, "postgres", "app");
        told.push(outcome(&mut third, "SELECT 'too late'"));
        told.push(Ok(servers(pooler, "postgres")));
        told
    });
}

#[test]
fn servers_are_closed_when_they_are_idle_or_old() {
    let cluster = Cluster::shared();
    for limit in ["server_idle_timeout = 1", "server_lifetime = 1"] {
        let poolers = both(cluster, &["app = @AT@ dbname=app"], &[], &[limit]);
        compare(&poolers, |pooler| {
            let mut client = login(pooler, "app_trust", "app");
            let served = outcome(&mut client, "SELECT 'served'");
            eventually("the server to be closed", || (servers(pooler, "app_trust") == "0").then_some(()));
            (served, outcome(&mut client, "SELECT 'again'"))
        });
    }
}

#[test]
fn who_is_idle_or_slow_to_log_in_is_closed_with_the_same_words() {
    let cluster = Cluster::shared();
    let general = ["client_idle_timeout = 1", "client_login_timeout = 1"];
    let poolers = both(cluster, &["app = @AT@ dbname=app"], &[], &general);
    compare(&poolers, |pooler| {
        let mut idle = login(pooler, "app_trust", "app");
        let mut silent = Client::connect(&pooler.socket()).expect("it listens");
        [words(&idle.until_end()), words(&silent.until_end())]
    });
}

#[test]
fn a_pause_waits_for_transactions_holds_clients_and_lets_them_go() {
    let cluster = Cluster::shared();
    let databases = ["app = @AT@ dbname=app", "whole = @AT@ dbname=app pool_mode=session"];
    let poolers = both(cluster, &databases, &[], &["query_wait_timeout = 100"]);
    compare(&poolers, |pooler| {
        let mut told = Vec::new();
        let (mut busy, mut held) = (login(pooler, "app_trust", "app"), login(pooler, "app_trust", "app"));
        told.push(outcome(&mut busy, "BEGIN"));
        let mut console = pooler.console();
        console.send(&frontend::query("PAUSE app"));
        eventually("the pause", || {
            (shown(pooler, "DATABASES", "app", &["paused"]) == [Some("1".into())]).then_some(())
        });
        held.send(&frontend::query("SELECT 'held'"));
        let waiting = || shown(pooler, "POOLS", "app", &["cl_active", "cl_waiting", "sv_active", "sv_idle"]);
        eventually("the client to be held", || (waiting()[1].as_deref() == Some("1")).then_some(()));
        told.push(Ok(format!("{:?}", waiting())));
        told.push(outcome(&mut busy, "SELECT 'goes on'"));
        told.push(outcome(&mut busy, "COMMIT"));
        told.push(Ok(console.until_ready()[0].command().unwrap_or_default()));
        told.push(Ok(servers(pooler, "app_trust")));
        // Under session pooling it waits for the client to leave.
        let mut session = login(pooler, "app_trust", "whole");
        told.push(outcome(&mut session, "SELECT 'a session'"));
        console.send(&frontend::query("PAUSE whole"));
        eventually("the pause", || {
            (shown(pooler, "DATABASES", "whole", &["paused"]) == [Some("1".into())]).then_some(())
        });
        told.push(outcome(&mut session, "SELECT 'goes on'"));
        session.terminate();
        told.push(Ok(console.until_ready()[0].command().unwrap_or_default()));
        pooler.console().query("RESUME app");
        told.push(Ok(rows(&held.until_ready())[0][0].clone().unwrap_or_default()));
        told
    });
}

#[test]
fn reconnect_replaces_servers_when_they_are_free() {
    let cluster = Cluster::shared();
    let poolers = both(cluster, &["app = @AT@ dbname=app"], &[], &[]);
    compare(&poolers, |pooler| {
        let (mut busy, mut idle) = (login(pooler, "app_trust", "app"), login(pooler, "postgres", "app"));
        let pid = |client: &mut Client| client.value("SELECT pg_backend_pid()");
        busy.query("BEGIN");
        let before = [pid(&mut busy), pid(&mut idle)];
        let mut console = pooler.console();
        let mut told = vec![console.query("RECONNECT app")[0].command()];
        let in_transaction = pid(&mut busy) == before[0];
        let mut other = pooler.console();
        other.send(&frontend::query("WAIT_CLOSE app"));
        let new = pid(&mut idle) == before[1];
        busy.query("COMMIT");
        told.push(other.until_ready()[0].command());
        (told, in_transaction, new, pid(&mut busy) == before[0])
    });
}

/// The primary message with which a login is refused, up to a colon, and whether the connection ended by it.
fn refusal(pooler: &Pooler, login: &Login) -> String {
    match Client::login(&pooler.socket(), login) {
        Err(LoginError::Refused(message)) => {
            let text = message.field(b'M').unwrap_or_default();
            text.split(": ").next().unwrap_or_default().to_owned()
        }
        other => panic!("{:?}: {other:?}", pooler.program),
    }
}

#[test]
fn limits_on_clients_are_told_with_the_same_words() {
    let cluster = Cluster::shared();
    let poolers = both(cluster, &["app = @AT@ dbname=app"], &[], &["max_client_conn = 2"]);
    compare(&poolers, |pooler| {
        let login = Login::new("app_trust", "app");
        let _clients = [pooler.login(&login), pooler.login(&login)];
        // The console is for when there are too many.
        let said = refusal(pooler, &login);
        (said, shown(pooler, "LISTS", "databases", &["items"]))
    });
}

#[test]
fn a_killed_client_is_closed_and_new_ones_wait() {
    let cluster = Cluster::shared();
    let poolers = both(cluster, &["app = @AT@ dbname=app"], &[], &[]);
    compare(&poolers, |pooler| {
        let mut client = login(pooler, "app_trust", "app");
        client.query("SELECT 1");
        let mut console = pooler.console();
        let said = console.query("KILL app")[0].command();
        let end = client.until_end();
        let is_told = words(&end).is_some();
        let paused = shown(pooler, "DATABASES", "app", &["paused"]);
        console.query("RESUME app");
        (said, is_told, paused, outcome(&mut login(pooler, "app_trust", "app"), "SELECT 'again'"))
    });
}
