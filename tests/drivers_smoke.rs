//! Programs and drivers as people use them, at their defaults, many clients on few servers.

mod support;
#[path = "support/watch.rs"]
mod watch;

use std::collections::HashSet;
use std::io::Cursor;
use std::pin::pin;

use support::cluster::{Cluster, DATABASE, PASSWORD, Role};
use support::eventually;
use support::pgvalet::Pgvalet;
use support::programs::{Pgbench, TPC_B, psql};
use support::wire::Login;
use tokio_postgres::binary_copy::BinaryCopyInWriter;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::Type;
use tokio_postgres::{Client, Config, NoTls};
use watch::Console;

/// 20 clients on 5 servers, with pgbench's tables.
fn bench_cluster() -> Cluster {
    let cluster = Cluster::start();
    Pgbench::initialise(&cluster.tcp(), &Role::Postgres.login(), 2);
    cluster
}

#[test]
fn psql_works_over_tcp_and_unix() {
    let valet = Pgvalet::in_front_of(Cluster::shared()).start();
    for endpoint in [valet.tcp(), valet.unix()] {
        for role in [Role::Scram, Role::Md5, Role::Plain] {
            let login = role.login();
            assert_eq!(psql(&endpoint, &login, "SELECT current_user").ok(), role.name());
            assert_eq!(psql(&endpoint, &login, "BEGIN; SELECT 1; COMMIT").ok(), "1");
            assert_eq!(psql(&endpoint, &login, "\\d pg_class").code, Some(0), "a backslash command");
            assert_eq!(psql(&endpoint, &login, "COPY (VALUES (1), (2)) TO STDOUT").ok(), "1\n2");
            let failed = psql(&endpoint, &login, "SELECT 1 / 0");
            assert_eq!(failed.code, Some(1));
            assert!(failed.stderr.contains("division by zero"), "{failed:?}");
            let refused = psql(&endpoint, &role.login().password("wrong"), "SELECT 1");
            assert_eq!(refused.code, Some(2));
            assert!(refused.stderr.contains("password authentication failed"), "{refused:?}");
        }
    }
}

#[test]
fn psql_uses_the_admin_console() {
    let valet = watch::trusting(Cluster::shared(), 2).start();
    let console = Login::new("postgres", "pgvalet");
    assert!(psql(&valet.tcp(), &console, "SHOW VERSION").ok().starts_with("pgvalet "));
    assert_eq!(psql(&valet.tcp(), &console, "SHOW POOLS").code, Some(0));
    assert_eq!(psql(&valet.tcp(), &console, "RELOAD").code, Some(0));
}

#[test]
fn pgbench_runs_in_every_protocol_with_many_clients_on_few_servers() {
    let cluster = bench_cluster();
    let valet = watch::trusting(&cluster, 5).setting("workers = 2").start();
    let login = Role::Postgres.login();
    let history =
        || -> u64 { cluster.value("SELECT count(*) FROM pgbench_history").parse().expect("a number") };
    for protocol in ["simple", "extended", "prepared"] {
        // A thread for each client: pgbench prepares blockingly, which would wait for servers that its own clients hold.
        let bench = Pgbench { clients: 20, threads: 20, transactions: 20, protocol, ..Pgbench::default() };
        let report = bench.run(&valet.tcp(), &login);
        assert_eq!((report.processed, report.failed), (400, 0), "{protocol}: {:?}", report.output);
        let before = history();
        let report = Pgbench { script: Some(TPC_B.into()), ..bench }.run(&valet.unix(), &login);
        assert_eq!((report.processed, report.failed), (400, 0), "{protocol}: {:?}", report.output);
        assert_eq!(history() - before, 400, "each transaction once");
    }
    // Every transaction was whole: the sums agree.
    let sum = |table: &str, column: &str| cluster.value(&format!("SELECT sum({column}) FROM {table}"));
    let accounts = sum("pgbench_accounts", "abalance");
    assert_eq!(accounts, sum("pgbench_tellers", "tbalance"));
    assert_eq!(accounts, sum("pgbench_branches", "bbalance"));
    assert_eq!(accounts, sum("pgbench_history", "delta"));
    let servers =
        "SELECT count(*) FROM pg_stat_activity WHERE datname = 'app' AND application_name = 'pgbench'";
    assert!(cluster.value(servers).parse::<u32>().expect("a number") <= 5);
}

#[test]
fn pgbench_with_a_connection_for_each_transaction() {
    let cluster = bench_cluster();
    let valet = Pgvalet::in_front_of(&cluster).setting("default_pool_size = 3").start();
    let bench = Pgbench { clients: 8, transactions: 10, arguments: vec!["-C".into()], ..Pgbench::default() };
    let report = bench.run(&valet.tcp(), &Role::Scram.login());
    // Its tables are the superuser's, open to all by the cluster's default privileges.
    assert_eq!((report.processed, report.failed), (80, 0), "{:?}", report.output);
}

/// A tokio-postgres session, with its connection running beside it.
async fn connect(valet: &Pgvalet, role: Role) -> Client {
    let (host, port) = valet.tcp().libpq();
    let mut config = Config::new();
    config.host(&host).port(port).user(role.name()).password(PASSWORD).dbname(DATABASE);
    let (client, connection) = config.connect(NoTls).await.expect("login");
    tokio::spawn(connection);
    client
}

fn run<T>(test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.expect("a runtime").block_on(test)
}

#[test]
fn tokio_postgres_prepares_once_and_runs_on_any_server() {
    let valet = Pgvalet::in_front_of(Cluster::shared()).setting("default_pool_size = 3").start();
    run(async {
        let mut clients = Vec::new();
        for _ in 0..12 {
            clients.push(connect(&valet, Role::Scram).await);
        }
        let mut tasks = Vec::new();
        for (number, client) in clients.into_iter().enumerate() {
            tasks.push(tokio::spawn(async move {
                let number = i32::try_from(number).expect("small");
                let add =
                    client.prepare("SELECT $1::int4 + $2::int4, pg_backend_pid()").await.expect("prepared");
                let text = client.prepare("SELECT $1::text || 'x'").await.expect("prepared");
                let mut servers = HashSet::new();
                for round in 0..20 {
                    let row = client.query_one(&add, &[&number, &round]).await.expect("a row");
                    assert_eq!(row.get::<_, i32>(0), number + round);
                    servers.insert(row.get::<_, i32>(1));
                    let row = client.query_one(&text, &[&number.to_string()]).await.expect("a row");
                    assert_eq!(row.get::<_, String>(0), format!("{number}x"));
                }
                servers
            }));
        }
        let mut servers = HashSet::new();
        for task in tasks {
            servers.extend(task.await.expect("the task does not panic"));
        }
        assert!(servers.len() <= 3, "{servers:?}");
    });
}

#[test]
fn tokio_postgres_keeps_its_transactions_whole() {
    let cluster = Cluster::shared();
    cluster.sql("CREATE TABLE drivers_tx (n int)");
    let valet = Pgvalet::in_front_of(cluster).setting("default_pool_size = 2").start();
    run(async {
        let mut client = connect(&valet, Role::Scram).await;
        let other = connect(&valet, Role::Scram).await;
        let transaction = client.transaction().await.expect("BEGIN");
        transaction.execute("INSERT INTO drivers_tx VALUES ($1)", &[&1_i32]).await.expect("an insert");
        let seen: i64 = other.query_one("SELECT count(*) FROM drivers_tx", &[]).await.expect("a row").get(0);
        assert_eq!(seen, 0, "not yet");
        transaction.rollback().await.expect("ROLLBACK");

        let mut transaction = client.transaction().await.expect("BEGIN");
        transaction.execute("INSERT INTO drivers_tx VALUES (2)", &[]).await.expect("an insert");
        let savepoint = transaction.transaction().await.expect("SAVEPOINT");
        let error = savepoint.execute("SELECT 1 / 0", &[]).await.expect_err("an error");
        assert_eq!(error.code(), Some(&SqlState::DIVISION_BY_ZERO));
        savepoint.rollback().await.expect("ROLLBACK TO");
        transaction.commit().await.expect("COMMIT");
        // Dropped: rolled back by the driver.
        drop(client.transaction().await.expect("BEGIN"));
        let rows = other.query("SELECT n FROM drivers_tx", &[]).await.expect("rows");
        assert_eq!(rows.iter().map(|row| row.get::<_, i32>(0)).collect::<Vec<_>>(), [2]);
    });
}

#[test]
fn tokio_postgres_copies_in_and_out() {
    let cluster = Cluster::shared();
    cluster.sql("CREATE TABLE drivers_copy (n int, t text)");
    let valet = Pgvalet::in_front_of(cluster).setting("default_pool_size = 1").start();
    run(async {
        let client = connect(&valet, Role::Scram).await;
        let sink = client.copy_in("COPY drivers_copy FROM STDIN (FORMAT binary)").await.expect("COPY");
        let mut writer = pin!(BinaryCopyInWriter::new(sink, &[Type::INT4, Type::TEXT]));
        for number in 0..20_000_i32 {
            writer.as_mut().write(&[&number, &format!("some text of row {number}")]).await.expect("a row");
        }
        assert_eq!(writer.finish().await.expect("COPY"), 20_000);
        // Not read to its end: the driver throws the rest away, and the session goes on.
        drop(client.copy_out("COPY drivers_copy TO STDOUT").await.expect("COPY"));
        let count: i64 =
            client.query_one("SELECT count(*) FROM drivers_copy", &[]).await.expect("a row").get(0);
        assert_eq!(count, 20_000);
        // A copy that is given up leaves nothing.
        drop(client.copy_in::<_, Cursor<Vec<u8>>>("COPY drivers_copy FROM STDIN").await.expect("COPY"));
        let count: i64 =
            client.query_one("SELECT count(*) FROM drivers_copy", &[]).await.expect("a row").get(0);
        assert_eq!(count, 20_000);
    });
    let all = psql(&valet.tcp(), &Role::Scram.login(), "COPY drivers_copy TO STDOUT").ok();
    assert_eq!(all.lines().count(), 20_000);
    assert_eq!(all.lines().last(), Some("19999\tsome text of row 19999"));
}

#[test]
fn tokio_postgres_cancels_its_own_query() {
    let valet = watch::trusting(Cluster::shared(), 2).start();
    run(async {
        let client = connect(&valet, Role::Trust).await;
        let token = client.cancel_token();
        let query = tokio::spawn(async move { (client.simple_query("SELECT pg_sleep(600)").await, client) });
        let mut console = tokio::task::spawn_blocking({
            let console = Console::open(&valet);
            move || {
                let mut console = console;
                watch::wait_sessions(
                    Cluster::shared(),
                    "state = 'active' AND query LIKE '%pg_sleep(600)%'",
                    1,
                );
                console.wait_pool("sv_active", 1);
                console
            }
        })
        .await
        .expect("the query runs");
        token.cancel_query(NoTls).await.expect("the request is taken");
        let (outcome, client) = query.await.expect("the task does not panic");
        assert_eq!(outcome.expect_err("canceled").code(), Some(&SqlState::QUERY_CANCELED));
        client.simple_query("SELECT 'alive'").await.expect("the session goes on");
        eventually("the cancel to be counted", || (console.stat("cancels") == 1).then_some(()));
    });
}

#[test]
fn tokio_postgres_pipelines() {
    let valet = Pgvalet::in_front_of(Cluster::shared()).setting("default_pool_size = 2").start();
    run(async {
        let client = connect(&valet, Role::Scram).await;
        let statement = client.prepare("SELECT $1::int4").await.expect("prepared");
        let numbers: Vec<i32> = (0..200).collect();
        // All are sent before the first answer is looked at; one of them fails, and only that one.
        let queries = numbers.iter().map(|number| {
            let (client, statement) = (&client, &statement);
            Box::pin(async move {
                if *number == 77 {
                    let error =
                        client.query_one("SELECT 1 / ($1::int4 - 77)", &[number]).await.expect_err("fails");
                    assert_eq!(error.code(), Some(&SqlState::DIVISION_BY_ZERO));
                    return *number;
                }
                client.query_one(statement, &[number]).await.expect("a row").get::<_, i32>(0)
            })
        });
        assert_eq!(join_all(queries.collect()).await, numbers);
    });
}

/// Polls all of them together, in order.
async fn join_all<F: Future + Unpin>(mut futures: Vec<F>) -> Vec<F::Output> {
    let mut outputs: Vec<Option<F::Output>> = futures.iter().map(|_| None).collect();
    std::future::poll_fn(|cx| {
        for (future, output) in futures.iter_mut().zip(&mut outputs) {
            if output.is_none()
                && let std::task::Poll::Ready(value) = std::pin::Pin::new(future).poll(cx)
            {
                *output = Some(value);
            }
        }
        if outputs.iter().all(Option::is_some) {
            std::task::Poll::Ready(())
        } else {
            std::task::Poll::Pending
        }
    })
    .await;
    outputs.into_iter().map(|output| output.expect("all are ready")).collect()
}
