//! Replication connections: each has a server of its own, and PostgreSQL's own programs work through it.

mod support;

use support::Endpoint;
use support::cluster::{Cluster, PASSWORD, Role};
use support::eventually;
use support::frontend;
use support::pgvalet::Pgvalet;
use support::programs::{program, psql};
use support::wire::{Client, Login, LoginError};

/// A cluster that decodes its WAL; its replication connections may be many.
fn publisher() -> Cluster {
    let settings = ["wal_level = logical", "max_wal_senders = 20", "synchronous_commit = on"];
    let cluster = settings.iter().fold(Cluster::builder(), |builder, line| builder.config(line)).start();
    cluster.sql("CREATE TABLE t (id int PRIMARY KEY, word text)");
    cluster
}

fn login(kind: &str) -> Login {
    Role::Postgres.login().parameter("replication", kind)
}

/// What a command of the replication protocol answers, as text: tags and bodies.
fn answers(client: &mut Client, command: &str) -> Vec<String> {
    client.query(command).iter().map(|message| format!("{message:?}")).collect()
}

#[test]
fn pg_basebackup_makes_a_backup_that_verifies() {
    let cluster = publisher();
    cluster.sql("INSERT INTO t SELECT n, 'word ' || n FROM generate_series(1, 1000) n");
    let valet = Pgvalet::in_front_of(&cluster).setting("default_pool_size = 1").start();
    let directory = tempfile::tempdir().unwrap();
    let target = directory.path().join("backup");
    let target = target.to_str().unwrap();
    // Two connections at once, though the pool has one server: the backup, and the WAL beside it.
    let arguments = ["-D", target, "-X", "stream", "-c", "fast"];
    program("pg_basebackup", &valet.tcp(), &Role::Postgres.login(), &arguments).ok();
    program("pg_verifybackup", &valet.tcp(), &Role::Postgres.login(), &[target]).ok();
}

#[test]
fn pg_receivewal_streams_up_to_the_end_that_was_asked_for() {
    let cluster = publisher();
    let valet = Pgvalet::in_front_of(&cluster).start();
    let directory = tempfile::tempdir().unwrap();
    let place = directory.path().to_str().unwrap();
    let connection = ["-D", place, "--no-loop", "--no-sync"];
    program(
        "pg_receivewal",
        &valet.tcp(),
        &Role::Postgres.login(),
        &[&connection[..], &["-S", "slot", "--create-slot"]].concat(),
    )
    .ok();
    cluster.sql("INSERT INTO t SELECT n, 'word ' || n FROM generate_series(1, 1000) n");
    let end = cluster.value("SELECT pg_current_wal_lsn()");
    let (segment, received) = (
        cluster.value(&format!("SELECT file_name FROM pg_walfile_name_offset('{end}')")),
        cluster.value(&format!("SELECT file_offset FROM pg_walfile_name_offset('{end}')")),
    );
    // Something is written behind the end, so that it is reached.
    cluster.sql("INSERT INTO t VALUES (0, 'behind')");
    let until = ["-S", "slot", "--endpos", &end];
    program("pg_receivewal", &valet.tcp(), &Role::Postgres.login(), &[&connection[..], &until].concat()).ok();
    let received: usize = received.parse().unwrap();
    let theirs = std::fs::read(cluster.data_dir().join("pg_wal").join(&segment)).unwrap();
    let ours = std::fs::read(directory.path().join(segment + ".partial")).unwrap();
    assert!(received > 8192 && ours[..received] == theirs[..received], "{received} bytes of WAL");
}

#[test]
fn pg_recvlogical_reads_changes() {
    let cluster = publisher();
    if cluster.value("SELECT count(*) FROM pg_available_extensions WHERE name = 'pgcrypto'") == "0" {
        // Without contrib there is no test_decoding; pgoutput is tested by the subscription.
        return;
    }
    let valet = Pgvalet::in_front_of(&cluster).start();
    let slot = ["-d", "app", "-S", "slot"];
    let run = |more: &[&str]| {
        program("pg_recvlogical", &valet.tcp(), &Role::Postgres.login(), &[&slot[..], more].concat()).ok()
    };
    run(&["--create-slot", "-P", "test_decoding"]);
    cluster.sql("INSERT INTO t VALUES (1, 'one')");
    let end = cluster.value("SELECT pg_current_wal_lsn()");
    cluster.sql("INSERT INTO t VALUES (2, 'two')");
    let changes = run(&["--start", "-f", "-", "--endpos", &end, "--no-loop"]);
    assert!(changes.contains("id[integer]:1 word[text]:'one'"), "{changes}");
    assert!(!changes.contains("'two'"), "{changes}");
    run(&["--drop-slot"]);
}

#[test]
fn a_subscription_follows_its_publisher_through_pgvalet() {
    let (cluster, subscriber) = (publisher(), publisher());
    let valet = Pgvalet::in_front_of(&cluster).setting("default_pool_size = 1").start();
    cluster.sql("INSERT INTO t VALUES (1, 'before')");
    cluster.sql("CREATE PUBLICATION p FOR TABLE t");
    let (host, port) = valet.tcp().libpq();
    let connection = format!(
        "host={host} port={port} user=postgres dbname=app password='{PASSWORD}' application_name=follower"
    );
    let create =
        format!("CREATE SUBSCRIPTION s CONNECTION '{}' PUBLICATION p", connection.replace('\'', "''"));
    psql(&subscriber.tcp(), &Role::Postgres.login(), &create).ok();
    let rows = || subscriber.value("SELECT coalesce(string_agg(word, ',' ORDER BY id), '') FROM t");
    eventually("the rows that were there are copied", || (rows() == "before").then_some(()));
    cluster.sql("INSERT INTO t VALUES (2, 'after')");
    cluster.sql("UPDATE t SET word = 'changed' WHERE id = 1");
    eventually("changes follow", || (rows() == "changed,after").then_some(()));
    let known = cluster.value("SELECT count(*) FROM pg_stat_replication WHERE application_name = 'follower'");
    assert_eq!(known, "1", "the server sees the client's own startup parameters");
    psql(&subscriber.tcp(), &Role::Postgres.login(), "DROP SUBSCRIPTION s").ok();
    assert_eq!(cluster.value("SELECT count(*) FROM pg_replication_slots"), "0");
}

#[test]
fn commands_of_the_replication_protocol_answer_as_they_do_directly() {
    let cluster = publisher();
    let valet = Pgvalet::in_front_of(&cluster).start();
    let commands = [
        "SHOW wal_level",
        "SHOW application_name",
        "TIMELINE_HISTORY 9999",
        "START_REPLICATION SLOT nowhere PHYSICAL 0/0",
        "START_REPLICATION PHYSICAL FFFFFFFF/0",
        "no command",
        "CREATE_REPLICATION_SLOT one TEMPORARY PHYSICAL",
        "DROP_REPLICATION_SLOT one",
    ];
    for kind in ["true", "1", "on", "yes", "database"] {
        let session = login(kind).parameter("application_name", "same");
        let mut direct = Client::login(&cluster.tcp(), &session).unwrap();
        let mut through = Client::login(&valet.tcp(), &session).unwrap();
        // One after the other: a slot exists once.
        let of = |client: &mut Client| commands.map(|command| answers(client, command));
        assert_eq!(of(&mut through), of(&mut direct), "{kind}");
        // The system and its timeline; the position moves.
        let identity = |client: &mut Client| client.rows("IDENTIFY_SYSTEM")[0][..2].to_vec();
        assert_eq!(identity(&mut through), identity(&mut direct), "{kind}");
        let sql = "SELECT 1; SELECT 'two'";
        assert_eq!(answers(&mut through, sql), answers(&mut direct, sql), "{kind}: SQL");
        // The extended protocol is not spoken there; PostgreSQL ends the connection, or not, as it likes.
        let batch = [frontend::parse("", "SELECT 1"), frontend::sync()].concat();
        for client in [&mut direct, &mut through] {
            client.send(&batch);
        }
        let said = |client: &mut Client| client.recv().sqlstate();
        assert_eq!(said(&mut through), said(&mut direct), "{kind}: extended protocol");
    }
}

#[test]
fn no_replication_is_wanted_by_a_parameter_that_says_so() {
    let valet = Pgvalet::in_front_of(Cluster::shared()).start();
    for kind in ["false", "off", "no", "0", "f"] {
        let mut client = Client::login(&valet.tcp(), &login(kind)).unwrap();
        assert_eq!(client.extended("SELECT 1", &[]).len(), 5, "{kind}: an ordinary session");
    }
}

#[test]
fn a_value_that_means_nothing_is_refused_as_postgres_does() {
    let valet = Pgvalet::in_front_of(Cluster::shared()).start();
    for kind in ["maybe", "o", "", "databas", "2"] {
        let fields = |endpoint: &Endpoint| match Client::login(endpoint, &login(kind)) {
            Err(LoginError::Refused(message)) => b"SCMH".map(|field| message.field(field)),
            other => panic!("{kind}: {other:?}"),
        };
        assert_eq!(fields(&valet.tcp()), fields(&Cluster::shared().tcp()), "{kind}");
    }
}

#[test]
fn a_replication_server_is_closed_with_its_client_and_counts_outside_the_pool() {
    let cluster = publisher();
    let valet = Pgvalet::in_front_of(&cluster).setting("default_pool_size = 1").start();
    let mut stream = Client::login(&valet.tcp(), &login("true")).unwrap();
    let mut other = valet.client(Role::Postgres);
    assert_eq!(other.value("SELECT 1"), "1", "the pool has its one server still");
    let start = cluster.value("SELECT pg_current_wal_lsn()");
    stream.send(&frontend::query(&format!("START_REPLICATION PHYSICAL {start}")));
    stream.until(b'W');
    let senders = || cluster.value("SELECT count(*) FROM pg_stat_replication");
    assert_eq!(senders(), "1");
    stream.reset();
    eventually("the WAL sender ends", || (senders() == "0").then_some(()));
    assert_eq!(other.value("SELECT 1"), "1");

    let quiet = Client::login(&valet.tcp(), &login("database")).unwrap();
    let backends = || cluster.value("SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'walsender'");
    assert_eq!(backends(), "1");
    quiet.terminate();
    eventually("the server is not kept", || (backends() == "0").then_some(()));
}

#[test]
fn a_stream_ends_when_the_client_ends_the_copy() {
    let cluster = publisher();
    let valet = Pgvalet::in_front_of(&cluster).start();
    let mut client = Client::login(&valet.tcp(), &login("true")).unwrap();
    let start = cluster.value("SELECT pg_current_wal_lsn()");
    for _ in 0..2 {
        client.send(&frontend::query(&format!("START_REPLICATION PHYSICAL {start}")));
        client.until(b'W');
        client.send(&frontend::copy_done());
        client.until_ready();
    }
    assert_eq!(client.rows("IDENTIFY_SYSTEM").len(), 1);
}

#[test]
fn a_cancel_request_stops_the_stream() {
    let cluster = publisher();
    let valet = Pgvalet::in_front_of(&cluster).start();
    let mut client = Client::login(&valet.tcp(), &login("true")).unwrap();
    let start = cluster.value("SELECT pg_current_wal_lsn()");
    client.send(&frontend::query(&format!("START_REPLICATION PHYSICAL {start}")));
    client.until(b'W');
    client.cancel().send().unwrap();
    let error = client.until(b'E').pop().unwrap();
    assert_eq!(error.sqlstate().as_deref(), Some("57014"));
}

#[test]
fn limits_on_server_connections_hold_for_replication() {
    let cluster = publisher();
    let valet = Pgvalet::builder()
        .all_roles()
        .database("app", &cluster, &["max_db_connections = 1"])
        .setting("catalog_probe_interval = \"1h\"")
        .start();
    let first = Client::login(&valet.tcp(), &login("true")).unwrap();
    let refused = Client::login(&valet.tcp(), &login("true")).unwrap_err();
    assert_eq!(refused.sqlstate().as_deref(), Some("53300"));
    first.terminate();
    eventually("the place is free again", || Client::login(&valet.tcp(), &login("true")).ok());
}

#[test]
fn a_server_that_refuses_says_so_itself() {
    let cluster = publisher();
    let valet = Pgvalet::in_front_of(&cluster).start();
    let plain = Role::Scram.login().parameter("replication", "database");
    let refusal = |endpoint: &Endpoint| Client::login(endpoint, &plain).unwrap_err().sqlstate();
    assert_eq!(refusal(&valet.tcp()), refusal(&cluster.tcp()));
    assert_eq!(refusal(&valet.tcp()).as_deref(), Some("42501"));
    let nowhere = login("database").database("nowhere");
    assert_eq!(Client::login(&valet.tcp(), &nowhere).unwrap_err().sqlstate().as_deref(), Some("3D000"));
}

#[test]
fn a_shutdown_does_not_wait_for_a_stream() {
    let cluster = publisher();
    let valet = Pgvalet::in_front_of(&cluster).start();
    let mut client = Client::login(&valet.tcp(), &login("true")).unwrap();
    let start = cluster.value("SELECT pg_current_wal_lsn()");
    client.send(&frontend::query(&format!("START_REPLICATION PHYSICAL {start}")));
    client.until(b'W');
    valet.sigterm();
    let last = client.until_end().pop().unwrap();
    assert_eq!((last.field(b'S').as_deref(), last.sqlstate().as_deref()), (Some("FATAL"), Some("57P01")));
    assert!(valet.wait_exit().success());
}
