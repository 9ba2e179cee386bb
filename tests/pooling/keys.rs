//! Which pool a client comes to, and what that pool is like: by database and user, with their overrides.

use std::collections::BTreeSet;

use crate::fixture::{Console, Watch, marked, number, open_house, open_house_with, pid, valet};
use crate::support::cluster::{Cluster, DATABASE, PASSWORD, Role};
use crate::support::eventually;
use crate::support::frontend;
use crate::support::pgvalet::Pgvalet;
use crate::support::wire::{Client, Login};

#[test]
fn each_database_and_user_have_a_pool_of_their_own() {
    let cluster = Cluster::shared();
    let valet = open_house()
        .database(DATABASE, cluster, &["pool_size = 1"])
        .database("other", cluster, &["dbname = \"app\"", "pool_size = 1"])
        .start();
    let mut pids = BTreeSet::new();
    for database in [DATABASE, "other"] {
        for role in [Role::Trust, Role::Postgres] {
            let mut client = valet.login(&Login::new(role.name(), database));
            assert_eq!(client.value("SELECT current_user"), role.name());
            pids.insert(pid(&mut client));
        }
    }
    assert_eq!(pids.len(), 4, "no server was shared");
    let pools: Vec<_> = Console::of(&valet)
        .show("POOLS")
        .into_iter()
        .map(|row| format!("{} {} {}", row["database"], row["user"], row["sv_idle"]))
        .collect();
    assert_eq!(pools, ["app app_trust 1", "app postgres 1", "other app_trust 1", "other postgres 1"]);
}

#[test]
fn a_database_with_a_fixed_user_has_one_pool_for_all() {
    let user = format!("user = \"{}\"", Role::Scram.name());
    let password = format!("password = \"{PASSWORD}\"");
    let valet = valet("fixed_user", &["pool_size = 1", &user, &password]).start();
    let mut pids = BTreeSet::new();
    for role in [Role::Trust, Role::Md5, Role::Postgres] {
        let mut client = valet.client(role);
        assert_eq!(client.value("SELECT current_user"), Role::Scram.name());
        pids.insert(pid(&mut client));
    }
    assert_eq!(pids.len(), 1);
    assert_eq!(Console::of(&valet).show("POOLS").len(), 1);
}

#[test]
fn the_fallback_serves_every_name_under_that_name() {
    let cluster = Cluster::shared();
    let valet =
        open_house().database("*", cluster, &[]).database("alias", cluster, &["dbname = \"app\""]).start();
    for (asked, got) in [("postgres", "postgres"), ("template1", "template1"), ("alias", "app")] {
        let mut client = valet.login(&Login::new(Role::Trust.name(), asked));
        assert_eq!(client.value("SELECT current_database()"), got);
    }
    let error = Client::login(&valet.tcp(), &Login::new(Role::Trust.name(), "nowhere"))
        .expect_err("no such database");
    assert_eq!(error.sqlstate().as_deref(), Some("3D000"), "{error}");
}

#[test]
fn a_database_that_is_not_configured_is_refused_with_advice() {
    let valet = valet("unknown_database", &[]).start();
    let error =
        Client::login(&valet.tcp(), &Login::new(Role::Trust.name(), "nowhere")).expect_err("not configured");
    assert_eq!(error.sqlstate().as_deref(), Some("3D000"), "{error}");
    assert!(error.to_string().contains("[databases]"), "{error}");
}

#[test]
fn pool_size_is_the_databases_else_the_users_else_the_default() {
    let cluster = Cluster::shared();
    let valet = open_house_with(&["pool_size = 3"])
        .setting("default_pool_size = 4")
        .database("sized", cluster, &["dbname = \"app\"", "pool_size = 2", &marked("size_database")])
        .database("unsized", cluster, &["dbname = \"app\"", &marked("size_user")])
        .database("default", cluster, &["dbname = \"app\"", &marked("size_default")])
        .start();
    for (role, database, tag, size) in [
        (Role::Postgres, "sized", "size_database", 2),
        (Role::Postgres, "unsized", "size_user", 3),
        (Role::Trust, "default", "size_default", 4),
    ] {
        assert_eq!(most_servers(&valet, &Login::new(role.name(), database), tag), size, "{database}");
    }
}

#[test]
fn pool_mode_is_the_databases_else_the_users_else_the_general_one() {
    let cluster = Cluster::shared();
    let valet = open_house_with(&["pool_mode = \"session\""])
        .setting("pool_mode = \"transaction\"")
        .database("own", cluster, &["dbname = \"app\"", "pool_mode = \"statement\""])
        .database("inherits", cluster, &["dbname = \"app\""])
        .start();
    for (role, database, mode) in [
        (Role::Postgres, "own", "statement"),
        (Role::Postgres, "inherits", "session"),
        (Role::Trust, "inherits", "transaction"),
    ] {
        let mut client = valet.login(&Login::new(role.name(), database));
        client.value("SELECT 1");
        let pools = Console::of(&valet).show("POOLS");
        let pool = pools.iter().find(|row| row["database"] == database && row["user"] == role.name());
        let pool = pool.expect("the pool is listed");
        assert_eq!(pool["pool_mode"], mode);
        assert_eq!(pool["sv_active"] == "1", mode == "session", "{pool:?}");
    }
}

#[test]
fn tcp_and_unix_sockets_work_on_both_sides() {
    let cluster = Cluster::shared();
    let valet = open_house()
        .database_at("by_tcp", &cluster.tcp(), &["dbname = \"app\"", &marked("sockets")])
        .database_at("by_unix", &cluster.unix(), &["dbname = \"app\"", &marked("sockets")])
        .start();
    let mut watch = Watch::new("sockets");
    for endpoint in [valet.tcp(), valet.unix()] {
        for (database, server_side) in [("by_tcp", "127.0.0.1"), ("by_unix", "NULL")] {
            let login = Login::new(Role::Trust.name(), database);
            let mut client =
                Client::login(&endpoint, &login).unwrap_or_else(|error| panic!("{endpoint}: {error}"));
            assert_eq!(client.value("SELECT inet_server_addr()"), server_side);
            // Large enough for many reads and writes on each leg.
            let text = "x".repeat(300_000);
            assert_eq!(client.value(&format!("SELECT '{text}'")), text);
            client.send(&frontend::query("SELECT pg_sleep(3600)"));
            watch.wait_for_running("SELECT pg_sleep(3600)", 1);
            client.cancel().send().expect("a cancel request is taken");
            let reply = client.until_ready();
            assert_eq!(crate::support::backend::first_error(&reply).as_deref(), Some("57014"));
            client.terminate();
        }
    }
}

/// How many servers the pool gives to clients that all want one for a transaction.
fn most_servers(valet: &Pgvalet, login: &Login, tag: &str) -> usize {
    const CLIENTS: usize = 8;
    let mut console = Console::of(valet);
    let mut clients: Vec<Client> = (0..CLIENTS).map(|_| valet.login(login)).collect();
    clients.iter_mut().for_each(|client| client.send(&frontend::query("BEGIN")));
    let mut watch = Watch::new(tag);
    // As many as there will be: the others are in line, and no server is being opened for them.
    eventually("every client to have a server or to wait", || {
        let pools = console.show("POOLS");
        let pool = pools.iter().find(|row| row["database"] == login.database && row["user"] == login.user)?;
        let in_use = ["sv_active", "sv_tested", "sv_login"].map(|column| number(pool, column) as usize);
        let (active, waiting) = (in_use.iter().sum::<usize>(), number(pool, "cl_waiting") as usize);
        (active + waiting == CLIENTS && watch.count() == active).then_some(active)
    })
}

#[test]
fn a_pool_size_of_0_is_no_limit() {
    let cluster = Cluster::start();
    let valet = open_house().database(DATABASE, &cluster, &[]).setting("default_pool_size = 0").start();
    let mut clients: Vec<Client> = (0..25).map(|_| valet.client(Role::Trust)).collect();
    for client in &mut clients {
        assert_eq!(client.query("BEGIN")[0].command().as_deref(), Some("BEGIN"));
    }
}
