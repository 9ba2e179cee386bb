//! diesel-async at its defaults: it caches statements that it prepared by name, and pipelines on request.

use diesel::prelude::*;
use diesel::result::{DatabaseErrorKind, Error};
use diesel::sql_types::{Integer, Text};
use diesel_async::{AsyncConnection, AsyncPgConnection, RunQueryDsl, SimpleAsyncConnection};
use futures::TryStreamExt;
use futures::future::join_all;
use pgvalet_drivers::{away_from, direct, is_direct, rounds, url};
use std::collections::HashSet;

diesel::table! {
    diesel_author (id) {
        id -> Integer,
        name -> Text,
    }
}

diesel::table! {
    diesel_book (id) {
        id -> Integer,
        title -> Text,
        copies -> Integer,
        author_id -> Integer,
    }
}

diesel::joinable!(diesel_book -> diesel_author (author_id));
diesel::allow_tables_to_appear_in_same_query!(diesel_author, diesel_book);

#[derive(QueryableByName)]
struct Next {
    #[diesel(sql_type = Integer)]
    next: i32,
    #[diesel(sql_type = Integer)]
    pid: i32,
}

async fn connect() -> AsyncPgConnection {
    AsyncPgConnection::establish(&url()).await.unwrap()
}

#[tokio::test]
async fn crud_joins_and_transactions() {
    direct("DROP TABLE IF EXISTS diesel_book, diesel_author").await;
    direct("CREATE TABLE diesel_author (id serial PRIMARY KEY, name text UNIQUE NOT NULL)").await;
    direct(
        "CREATE TABLE diesel_book (id serial PRIMARY KEY, title text NOT NULL, copies int NOT NULL DEFAULT 0,
         author_id int NOT NULL REFERENCES diesel_author)",
    )
    .await;
    let mut connection = connect().await;
    let insert =
        |name: &'static str| diesel::insert_into(diesel_author::table).values(diesel_author::name.eq(name));
    let ann: i32 = insert("Ann").returning(diesel_author::id).get_result(&mut connection).await.unwrap();
    let books: Vec<_> = ["One", "Two"]
        .map(|title| (diesel_book::title.eq(title), diesel_book::author_id.eq(ann)))
        .into_iter()
        .collect();
    assert_eq!(
        diesel::insert_into(diesel_book::table).values(&books).execute(&mut connection).await.unwrap(),
        2
    );

    let outcome = connection.transaction(async |connection| {
        insert("Bob").execute(connection).await?;
        // A nested transaction is a savepoint.
        let nested = connection.transaction(async |connection| insert("Ann").execute(connection).await).await;
        assert!(matches!(nested, Err(Error::DatabaseError(DatabaseErrorKind::UniqueViolation, _))));
        diesel::update(diesel_book::table.filter(diesel_book::title.eq("One")))
            .set(diesel_book::copies.eq(diesel_book::copies + 3))
            .execute(connection)
            .await
    });
    assert_eq!(outcome.await, Ok(1));
    let undone = connection.transaction::<(), Error, _>(async |connection| {
        insert("Nobody").execute(connection).await?;
        Err(Error::RollbackTransaction)
    });
    assert_eq!(undone.await, Err(Error::RollbackTransaction));

    let joined: Vec<(String, i32, String)> = diesel_book::table
        .inner_join(diesel_author::table)
        .select((diesel_book::title, diesel_book::copies, diesel_author::name))
        .order(diesel_book::title)
        .load(&mut connection)
        .await
        .unwrap();
    assert_eq!(joined, [("One".into(), 3, "Ann".into()), ("Two".into(), 0, "Ann".into())]);
    assert_eq!(direct("SELECT name FROM diesel_author ORDER BY name").await, ["Ann", "Bob"]);
    assert_eq!(diesel::delete(diesel_book::table).execute(&mut connection).await.unwrap(), 2);
}

#[tokio::test]
async fn cached_statements_on_both_servers() {
    let mut connection = connect().await;
    let mut pids = HashSet::new();
    let mut ask = async |i: i32| {
        let row: Next = diesel::sql_query("SELECT $1 + 1 AS next, pg_backend_pid() AS pid")
            .bind::<Integer, _>(i)
            .get_result(&mut connection)
            .await
            .unwrap();
        assert_eq!(row.next, i + 1);
        let up: String =
            diesel::select(diesel::dsl::sql::<Text>("upper(").bind::<Text, _>(format!("n{i}")).sql(")"))
                .get_result(&mut connection)
                .await
                .unwrap();
        assert_eq!(up, format!("N{i}"));
        row.pid
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
async fn pipelined_queries_answer_in_order_and_fail_alone() {
    let connection = connect().await;
    let answers = join_all((0..rounds()).map(|i| {
        let mut connection = &connection;
        async move {
            diesel::select(diesel::dsl::sql::<Integer>("100 / ").bind::<Integer, _>(i % 10))
                .get_result::<i32>(&mut connection)
                .await
        }
    }))
    .await;
    for (i, answer) in (0..rounds()).zip(answers) {
        match i % 10 {
            0 => assert!(answer.unwrap_err().to_string().contains("division by zero")),
            by => assert_eq!(answer.unwrap(), 100 / by),
        }
    }
}

#[tokio::test]
async fn a_stream_of_rows_and_a_batch_of_statements() {
    let mut connection = connect().await;
    for _ in 0..3 {
        let rows = diesel::sql_query("SELECT i AS next, 0 AS pid FROM generate_series(1, $1) i")
            .bind::<Integer, _>(5000)
            .load_stream::<Next>(&mut connection)
            .await
            .unwrap();
        let sum = rows.try_fold(0, async |sum, row| Ok(sum + row.next)).await.unwrap();
        assert_eq!(sum, 12_502_500);
        connection.batch_execute("SELECT 1; SELECT 2").await.unwrap();
        assert!(connection.batch_execute("SELECT 1; SELECT 1 / 0").await.is_err());
    }
}
