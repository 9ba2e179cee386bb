//! tokio-postgres at its defaults: it prepares every query, pipelines what is asked at once, streams.

use std::collections::HashSet;
use std::pin::pin;

use futures::future::{join_all, try_join_all};
use futures::{SinkExt, StreamExt, TryStreamExt};
use pgvalet_drivers::{away_from, connect, direct, here, is_direct, rounds, running};
use tokio_postgres::binary_copy::BinaryCopyInWriter;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::Type;
use tokio_postgres::{Error, NoTls, SimpleQueryMessage};

fn code(error: &Error) -> &SqlState {
    error.code().unwrap_or_else(|| panic!("no SQLSTATE: {error:?}"))
}

#[tokio::test]
async fn crud_in_a_transaction() {
    direct("DROP TABLE IF EXISTS tp_item; CREATE TABLE tp_item (name text PRIMARY KEY, qty int NOT NULL)")
        .await;
    let mut client = connect(&here()).await;
    let mut tx = client.transaction().await.unwrap();
    assert_eq!(tx.execute("INSERT INTO tp_item VALUES ($1, $2)", &[&"bolt", &5]).await.unwrap(), 1);
    let inner = tx.transaction().await.unwrap();
    let error = inner.execute("INSERT INTO tp_item VALUES ($1, $2)", &[&"bolt", &5]).await.unwrap_err();
    assert_eq!(code(&error), &SqlState::UNIQUE_VIOLATION);
    inner.rollback().await.unwrap();
    assert_eq!(tx.execute("UPDATE tp_item SET qty = qty + 1 WHERE name = $1", &[&"bolt"]).await.unwrap(), 1);
    assert!(direct("SELECT name FROM tp_item").await.is_empty());
    tx.commit().await.unwrap();
    assert_eq!(direct("SELECT qty FROM tp_item").await, ["6"]);
    let tx = client.transaction().await.unwrap();
    tx.execute("DELETE FROM tp_item", &[]).await.unwrap();
    // Dropped without a commit: it is rolled back in front of the next query.
    drop(tx);
    assert_eq!(client.query("SELECT name FROM tp_item", &[]).await.unwrap().len(), 1);
}

#[tokio::test]
async fn prepared_statements_on_both_servers() {
    let client = connect(&here()).await;
    let next = client.prepare("SELECT $1::int + 1, pg_backend_pid()").await.unwrap();
    let upper = client.prepare("SELECT upper($1)").await.unwrap();
    let mut pids = HashSet::new();
    let ask = async |i: i32| {
        let row = client.query_one(&next, &[&i]).await.unwrap();
        assert_eq!(row.get::<_, i32>(0), i + 1);
        assert_eq!(
            client.query_one(&upper, &[&format!("n{i}")]).await.unwrap().get::<_, String>(0),
            format!("N{i}")
        );
        row.get::<_, i32>(1)
    };
    let mut pid = 0;
    for i in 0..rounds() {
        pid = ask(i).await;
        pids.insert(pid);
    }
    pids.insert(away_from(pid, ask(1)).await);
    assert!(is_direct() || pids.len() >= 2);
}

#[tokio::test]
async fn statements_prepared_and_dropped_again_and_again() {
    let client = connect(&here()).await;
    for i in 0..2 * rounds() {
        assert_eq!(
            client.query_one(&format!("SELECT {i} + $1::int"), &[&1]).await.unwrap().get::<_, i32>(0),
            i + 1
        );
    }
}

#[tokio::test]
async fn pipelined_queries_answer_in_order_and_fail_alone() {
    let client = connect(&here()).await;
    let divide = client.prepare("SELECT 100 / $1::int").await.unwrap();
    for _ in 0..5 {
        let divisors: Vec<i32> = (0..rounds()).map(|i| i % 10).collect();
        let answers = join_all(divisors.iter().map(async |by| client.query_one(&divide, &[by]).await)).await;
        for (by, answer) in divisors.iter().zip(answers) {
            match by {
                0 => assert_eq!(code(&answer.unwrap_err()), &SqlState::DIVISION_BY_ZERO),
                by => assert_eq!(answer.unwrap().get::<_, i32>(0), 100 / by),
            }
        }
    }
}

#[tokio::test]
async fn many_clients_at_once() {
    direct("DROP TABLE IF EXISTS tp_count; CREATE TABLE tp_count (id int PRIMARY KEY, n int NOT NULL)").await;
    direct("INSERT INTO tp_count SELECT i, 0 FROM generate_series(0, 4) i").await;
    try_join_all((0..20).map(|worker| async move {
        let mut client = connect(&here()).await;
        for _ in 0..rounds() / 10 {
            let tx = client.transaction().await?;
            tx.execute("UPDATE tp_count SET n = n + $1 WHERE id = $2", &[&1, &(worker % 5)]).await?;
            tx.commit().await?;
        }
        Ok::<_, Error>(())
    }))
    .await
    .unwrap();
    assert_eq!(direct("SELECT sum(n) FROM tp_count").await, [(20 * (rounds() / 10)).to_string()]);
}

#[tokio::test]
async fn portals_read_in_portions() {
    let mut client = connect(&here()).await;
    let tx = client.transaction().await.unwrap();
    let portal = tx.bind("SELECT i FROM generate_series(1, $1::int) i", &[&25]).await.unwrap();
    let other = tx.bind("SELECT -i FROM generate_series(1, 25) i", &[]).await.unwrap();
    let mut sizes = Vec::new();
    let mut sum = 0;
    for _ in 0..3 {
        let rows = tx.query_portal(&portal, 10).await.unwrap();
        let others = tx.query_portal(&other, 10).await.unwrap();
        sizes.push(rows.len());
        sum += rows.iter().chain(&others).map(|row| row.get::<_, i32>(0)).sum::<i32>();
    }
    assert_eq!((sizes, sum), (vec![10, 10, 5], 0));
    tx.commit().await.unwrap();
}

#[tokio::test]
async fn a_stream_of_rows_left_in_the_middle() {
    let client = connect(&here()).await;
    for _ in 0..5 {
        let parameters: [i32; 1] = [20_000];
        let rows = client.query_raw("SELECT i FROM generate_series(1, $1::int) i", parameters).await.unwrap();
        let first: Vec<i32> = pin!(rows).take(5).map_ok(|row| row.get::<_, i32>(0)).try_collect().await.unwrap();
        assert_eq!(first, [1, 2, 3, 4, 5]);
        assert_eq!(client.query_one("SELECT 1", &[]).await.unwrap().get::<_, i32>(0), 1);
    }
}

#[tokio::test]
async fn copy_in_and_out() {
    direct("DROP TABLE IF EXISTS tp_copy; CREATE TABLE tp_copy (a int PRIMARY KEY, b text)").await;
    let client = connect(&here()).await;
    let sink = client.copy_in("COPY tp_copy FROM STDIN (FORMAT binary)").await.unwrap();
    let mut writer = pin!(BinaryCopyInWriter::new(sink, &[Type::INT4, Type::TEXT]));
    for i in 0..5000 {
        writer.as_mut().write(&[&i, &format!("row {i}")]).await.unwrap();
    }
    assert_eq!(writer.finish().await.unwrap(), 5000);
    assert_eq!(direct("SELECT count(*) FROM tp_copy").await, ["5000"]);
    let text = client.copy_out("COPY (SELECT * FROM tp_copy ORDER BY a) TO STDOUT").await.unwrap();
    let text: Vec<_> = text.try_collect().await.unwrap();
    assert!(text.concat().starts_with(b"0\trow 0\n1\trow 1\n"));
    assert_eq!(text.concat().iter().filter(|byte| **byte == b'\n').count(), 5000);

    // One fails on the server, another is dropped by the client.
    let mut sink = pin!(client.copy_in("COPY tp_copy FROM STDIN").await.unwrap());
    let _ = sink.send(&b"7\tduplicate\n"[..]).await;
    assert_eq!(code(&sink.finish().await.unwrap_err()), &SqlState::UNIQUE_VIOLATION);
    {
        let mut dropped = pin!(client.copy_in("COPY tp_copy FROM STDIN").await.unwrap());
        dropped.send(&b"9999\tdropped\n"[..]).await.unwrap();
    }
    assert_eq!(client.query_one("SELECT count(*) FROM tp_copy", &[]).await.unwrap().get::<_, i64>(0), 5000);
}

#[tokio::test]
async fn simple_queries_with_several_statements() {
    let client = connect(&here()).await;
    let messages =
        client.simple_query("SELECT 1; SELECT 2 UNION ALL SELECT 3; SELECT WHERE false").await.unwrap();
    let shape: String = messages
        .iter()
        .map(|message| match message {
            SimpleQueryMessage::RowDescription(_) => 'T',
            SimpleQueryMessage::Row(_) => 'D',
            SimpleQueryMessage::CommandComplete(_) => 'C',
            _ => '?',
        })
        .collect();
    assert_eq!(shape, "TDCTDDCTC");
    let error = client.batch_execute("SELECT 1; SELECT 1 / 0; SELECT 2").await.unwrap_err();
    assert_eq!(code(&error), &SqlState::DIVISION_BY_ZERO);
}

#[tokio::test]
async fn a_cancel_ends_the_query_and_only_the_query() {
    let client = connect(&here()).await;
    let token = client.cancel_token();
    for _ in 0..3 {
        let sleep = client.batch_execute("SELECT pg_sleep(60) /* tokio cancel */");
        let cancel = async {
            running("tokio cancel").await;
            token.cancel_query(NoTls).await.unwrap();
        };
        let (slept, ()) = tokio::join!(sleep, cancel);
        assert_eq!(code(&slept.unwrap_err()), &SqlState::QUERY_CANCELED);
        assert_eq!(client.query_one("SELECT 1", &[]).await.unwrap().get::<_, i32>(0), 1);
    }
}

#[tokio::test]
async fn a_killed_server_and_a_new_connection() {
    let client = connect(&here()).await;
    let kill = async {
        let pid = running("tokio kill").await;
        direct(&format!("SELECT pg_terminate_backend({pid})")).await;
    };
    let (slept, ()) = tokio::join!(client.batch_execute("SELECT pg_sleep(60) /* tokio kill */"), kill);
    assert_eq!(code(&slept.unwrap_err()), &SqlState::ADMIN_SHUTDOWN);
    assert_eq!(connect(&here()).await.query_one("SELECT 1", &[]).await.unwrap().get::<_, i32>(0), 1);
}

#[tokio::test]
async fn settings_of_the_connection_and_a_refused_password() {
    let mut config = here();
    config.application_name("shop").options("-c search_path=pg_catalog,public -c TimeZone=Asia/Tokyo");
    let client = connect(&config).await;
    for _ in 0..20 {
        let row = client
            .query_one("SELECT current_setting('application_name'), current_setting('search_path'), current_setting('TimeZone')", &[])
            .await
            .unwrap();
        assert_eq!(
            [row.get::<_, &str>(0), row.get(1), row.get(2)],
            ["shop", "pg_catalog,public", "Asia/Tokyo"]
        );
    }
    config.password("wrong");
    let error = config.connect(NoTls).await.err().expect("a refusal");
    assert_eq!(code(&error), &SqlState::INVALID_PASSWORD);
}
