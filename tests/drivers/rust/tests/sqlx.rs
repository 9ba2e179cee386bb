//! sqlx at its defaults: a pool, a cache of 100 named statements a connection, a rollback when a transaction is dropped.

use futures::TryStreamExt;
use pgvalet_drivers::{away_from, direct, is_direct, rounds, running, url};
use sqlx::postgres::{PgConnectOptions, PgConnection, PgPool, PgPoolOptions};
use sqlx::types::Json;
use sqlx::{AssertSqlSafe, Connection, Executor, FromRow, Row};
use std::collections::HashSet;

#[derive(Debug, PartialEq, FromRow)]
struct Item {
    name: String,
    qty: i32,
}

fn code(error: &sqlx::Error) -> String {
    match error {
        sqlx::Error::Database(error) => error.code().unwrap_or_default().into_owned(),
        other => other.to_string(),
    }
}

async fn pool() -> PgPool {
    PgPool::connect(&url()).await.unwrap()
}

#[tokio::test]
async fn crud_in_a_transaction() {
    direct(
        "DROP TABLE IF EXISTS sqlx_item; CREATE TABLE sqlx_item (name text PRIMARY KEY, qty int NOT NULL)",
    )
    .await;
    let pool = pool().await;
    let mut tx = pool.begin().await.unwrap();
    let done = sqlx::query("INSERT INTO sqlx_item VALUES ($1, $2)")
        .bind("bolt")
        .bind(5)
        .execute(&mut *tx)
        .await
        .unwrap();
    assert_eq!(done.rows_affected(), 1);
    {
        let mut inner = tx.begin().await.unwrap();
        let error =
            sqlx::query("INSERT INTO sqlx_item VALUES ('bolt', 1)").execute(&mut *inner).await.unwrap_err();
        assert!(error.as_database_error().unwrap().is_unique_violation());
        // Dropped: it is rolled back to its savepoint.
    }
    let item: Item =
        sqlx::query_as("UPDATE sqlx_item SET qty = qty + 1 RETURNING *").fetch_one(&mut *tx).await.unwrap();
    assert_eq!(item, Item { name: "bolt".into(), qty: 6 });
    assert!(direct("SELECT name FROM sqlx_item").await.is_empty());
    tx.commit().await.unwrap();
    assert_eq!(direct("SELECT qty FROM sqlx_item").await, ["6"]);
    {
        let mut dropped = pool.begin().await.unwrap();
        sqlx::query("DELETE FROM sqlx_item").execute(&mut *dropped).await.unwrap();
    }
    let count: i64 = sqlx::query_scalar("SELECT count(*) FROM sqlx_item").fetch_one(&pool).await.unwrap();
    assert_eq!(count, 1);
}

#[tokio::test]
async fn cached_statements_on_both_servers() {
    let mut connection = PgConnection::connect(&url()).await.unwrap();
    let mut pids = HashSet::new();
    let mut ask = async |i: i32| {
        let row =
            sqlx::query("SELECT $1 + 1, pg_backend_pid()").bind(i).fetch_one(&mut connection).await.unwrap();
        assert_eq!(row.get::<i32, _>(0), i + 1);
        let up: String =
            sqlx::query_scalar("SELECT upper($1)").bind("n").fetch_one(&mut connection).await.unwrap();
        assert_eq!(up, "N");
        row.get::<i32, _>(1)
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
async fn more_statements_than_the_cache_holds() {
    let mut connection = PgConnection::connect(&url()).await.unwrap();
    for _ in 0..2 {
        for i in 0..rounds() {
            let sql = AssertSqlSafe(format!("SELECT {i} + $1"));
            let sum: i32 = sqlx::query_scalar(sql).bind(1).fetch_one(&mut connection).await.unwrap();
            assert_eq!(sum, i + 1);
        }
    }
    connection.clear_cached_statements().await.unwrap();
    let one: i32 = sqlx::query_scalar("SELECT 0 + $1").bind(1).fetch_one(&mut connection).await.unwrap();
    assert_eq!(one, 1);
}

#[tokio::test]
async fn errors_keep_their_code_and_the_connection() {
    let mut connection = PgConnection::connect(&url()).await.unwrap();
    for _ in 0..20 {
        let divided = sqlx::query("SELECT 1 / $1").bind(0).fetch_one(&mut connection).await;
        assert_eq!(code(&divided.unwrap_err()), "22012");
        let missing =
            sqlx::query("SELECT * FROM nowhere WHERE a = $1").bind(0).fetch_one(&mut connection).await;
        assert_eq!(code(&missing.unwrap_err()), "42P01");
        let one: i32 = sqlx::query_scalar("SELECT $1").bind(1).fetch_one(&mut connection).await.unwrap();
        assert_eq!(one, 1);
    }
}

#[tokio::test]
async fn a_stream_of_rows_and_one_left_in_the_middle() {
    let mut connection = PgConnection::connect(&url()).await.unwrap();
    {
        let rows = sqlx::query("SELECT i FROM generate_series(1, $1) i").bind(10_000).fetch(&mut connection);
        let total =
            rows.try_fold(0_i64, async |sum, row| Ok(sum + i64::from(row.get::<i32, _>(0)))).await.unwrap();
        assert_eq!(total, 50_005_000);
    }
    for _ in 0..5 {
        let mut rows =
            sqlx::query("SELECT i FROM generate_series(1, $1) i").bind(10_000).fetch(&mut connection);
        assert_eq!(rows.try_next().await.unwrap().unwrap().get::<i32, _>(0), 1);
        drop(rows);
        let one: i32 = sqlx::query_scalar("SELECT 1").fetch_one(&mut connection).await.unwrap();
        assert_eq!(one, 1);
    }
}

#[tokio::test]
async fn copy_in_and_out() {
    direct("DROP TABLE IF EXISTS sqlx_copy; CREATE TABLE sqlx_copy (a int PRIMARY KEY, b text)").await;
    let mut connection = PgConnection::connect(&url()).await.unwrap();
    let lines: String = (0..5000).map(|i| format!("{i}\trow {i}\n")).collect();
    let mut copy = connection.copy_in_raw("COPY sqlx_copy FROM STDIN").await.unwrap();
    copy.send(lines.as_bytes()).await.unwrap();
    assert_eq!(copy.finish().await.unwrap(), 5000);
    let out: Vec<_> = connection
        .copy_out_raw("COPY (SELECT * FROM sqlx_copy ORDER BY a) TO STDOUT")
        .await
        .unwrap()
        .try_collect()
        .await
        .unwrap();
    assert_eq!(out.concat(), lines.as_bytes());
    let mut copy = connection.copy_in_raw("COPY sqlx_copy FROM STDIN").await.unwrap();
    copy.send(&b"9999\thalf\n"[..]).await.unwrap();
    copy.abort("changed my mind").await.unwrap();
    let count: i64 =
        sqlx::query_scalar("SELECT count(*) FROM sqlx_copy").fetch_one(&mut connection).await.unwrap();
    assert_eq!(count, 5000);
}

#[tokio::test]
async fn types_come_back_as_they_went() {
    let mut connection = PgConnection::connect(&url()).await.unwrap();
    for _ in 0..10 {
        let row = sqlx::query("SELECT $1, $2, $3, $4, $5")
            .bind(vec![0_u8, 255])
            .bind(vec!["a,b".to_string(), "c\"d".into()])
            .bind(None::<String>)
            .bind(i64::MAX)
            .bind(Json(vec![1, 2]))
            .fetch_one(&mut connection)
            .await
            .unwrap();
        assert_eq!(row.get::<Vec<u8>, _>(0), [0, 255]);
        assert_eq!(row.get::<Vec<String>, _>(1), ["a,b", "c\"d"]);
        assert_eq!(row.get::<Option<String>, _>(2), None);
        assert_eq!(row.get::<i64, _>(3), i64::MAX);
        assert_eq!(row.get::<Json<Vec<i32>>, _>(4).0, [1, 2]);
    }
}

#[tokio::test]
async fn a_pool_of_tasks_counts_each_transaction_once() {
    direct("DROP TABLE IF EXISTS sqlx_count; CREATE TABLE sqlx_count (id int PRIMARY KEY, n int NOT NULL)")
        .await;
    direct("INSERT INTO sqlx_count SELECT i, 0 FROM generate_series(0, 4) i").await;
    let pool = PgPoolOptions::new().max_connections(10).connect(&url()).await.unwrap();
    let tasks = (0..20).map(|worker| {
        let pool = pool.clone();
        tokio::spawn(async move {
            for _ in 0..rounds() / 10 {
                let mut tx = pool.begin().await.unwrap();
                let update = sqlx::query("UPDATE sqlx_count SET n = n + $1 WHERE id = $2");
                update.bind(1).bind(worker % 5).execute(&mut *tx).await.unwrap();
                tx.commit().await.unwrap();
            }
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.unwrap();
    }
    assert_eq!(direct("SELECT sum(n) FROM sqlx_count").await, [(20 * (rounds() / 10)).to_string()]);
}

#[tokio::test]
async fn simple_queries_with_several_statements() {
    let mut connection = PgConnection::connect(&url()).await.unwrap();
    let rows = connection.fetch_all("SELECT 1; SELECT 2 UNION ALL SELECT 3").await.unwrap();
    assert_eq!(rows.len(), 3);
    assert_eq!(code(&connection.execute("SELECT 1; SELECT 1 / 0").await.unwrap_err()), "22012");
    connection.ping().await.unwrap();
}

#[tokio::test]
async fn a_killed_server_and_the_pool_goes_on() {
    let pool = pool().await;
    let kill = async {
        let pid = running("sqlx kill").await;
        direct(&format!("SELECT pg_terminate_backend({pid})")).await;
    };
    let (slept, ()) = tokio::join!(pool.execute("SELECT pg_sleep(60) /* sqlx kill */"), kill);
    assert_eq!(code(&slept.unwrap_err()), "57P01");
    for i in 0..10 {
        let n: i32 = sqlx::query_scalar("SELECT $1").bind(i).fetch_one(&pool).await.unwrap();
        assert_eq!(n, i);
    }
}

#[tokio::test]
async fn settings_of_the_connection() {
    let options: PgConnectOptions = url().parse().unwrap();
    let options = options.application_name("shop").options([("search_path", "pg_catalog,public")]);
    let mut connection = PgConnection::connect_with(&options).await.unwrap();
    for _ in 0..20 {
        let row = sqlx::query("SELECT current_setting('application_name'), current_setting('search_path'), current_setting('TimeZone')")
            .fetch_one(&mut connection)
            .await
            .unwrap();
        // sqlx itself asks for UTC.
        assert_eq!([row.get::<&str, _>(0), row.get(1), row.get(2)], ["shop", "pg_catalog,public", "UTC"]);
    }
}
