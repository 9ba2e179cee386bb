//! Tables change under prepared statements: who prepared before sees PostgreSQL's error, who prepared after the new table,
//! on whatever server.

use super::*;

/// A pool of rotating servers and a table `name (x int)` with one row, in a transaction of its own.
fn pool_with(name: &str) -> Rotating {
    let pool = Rotating::start(&[]);
    pool.cluster.sql(&format!("CREATE TABLE {name} AS SELECT 1 AS x"));
    pool.cluster.sql(&format!("GRANT ALL ON {name} TO PUBLIC"));
    pool
}

/// SQLSTATE, message and routine of the one error in a reply.
fn error(messages: &[Message]) -> [Option<String>; 3] {
    let found: Vec<_> = messages.iter().filter(|message| message.tag == b'E').collect();
    assert_eq!(found.len(), 1, "{messages:?}");
    [b'C', b'M', b'R'].map(|field| found[0].field(field))
}

fn changed_error() -> [Option<String>; 3] {
    ["0A000", "cached plan must not change result type", "RevalidateCachedQuery"]
        .map(|text| Some(text.into()))
}

const ADD: &str = "ALTER x TYPE text, ADD y int DEFAULT 2";

#[test]
fn who_prepares_after_a_table_changed_never_sees_the_old_plan() {
    let mut pool = pool_with("changed_after");
    let text = "SELECT * FROM changed_after";
    let mut old = pool.client();
    exchange(&mut old, &[parse("s", text), sync()]);
    for _ in 0..2 {
        assert_eq!(one(&exchange(&mut old, &[run("s"), sync()])), "1");
        pool.rotate();
    }
    pool.cluster.sql(&format!("ALTER TABLE changed_after {ADD}"));
    let mut new = pool.client();
    for name in ["first", "second"] {
        let reply = exchange(&mut new, &[parse(name, text), describe_statement(name), run(name), sync()]);
        assert_eq!(tags(&reply), "1tT2DCZ", "{reply:?}");
        pool.rotate();
        let reply = exchange(&mut new, &[run(name), sync()]);
        assert_eq!(tags(&reply), "2DCZ", "{reply:?}");
    }
}

#[test]
fn who_prepared_before_sees_what_postgres_shows_on_every_server() {
    for (table, through) in [("changed_directly", false), ("changed_through", true)] {
        let mut pool = pool_with(table);
        let text = format!("SELECT * FROM {table}");
        let mut direct = pool.cluster.client(Role::Trust);
        let mut old = pool.client();
        for client in [&mut direct, &mut old] {
            exchange(client, &[parse("s", &text), sync()]);
        }
        let ddl = format!("ALTER TABLE {table} {ADD}");
        let owner = Role::Postgres;
        if through {
            pool.valet.client(owner).query(&ddl);
        } else {
            pool.cluster.sql(&ddl);
        }
        // This one has another client's copy of the statement, from after the change.
        let mut new = pool.client();
        exchange(&mut new, &[parse("other", &text), sync()]);
        let shown = error(&exchange(&mut direct, &[run("s"), sync()]));
        assert_eq!(shown, changed_error());
        for round in 0..4 {
            let reply = exchange(&mut old, &[run("s"), sync()]);
            assert_eq!(error(&reply), shown, "{table}, round {round}");
            assert_eq!(tags(&reply), "EZ", "no row of a table that it was not told of");
            let reply = exchange(&mut old, &[describe_statement("s"), sync()]);
            assert_eq!(error(&reply), shown, "{table}, round {round}");
            assert_eq!(tags(&exchange(&mut new, &[run("other"), sync()])), "2DCZ");
            pool.rotate();
        }
        let reply = exchange(&mut old, &[close_statement("s"), parse("s", &text), run("s"), sync()]);
        assert_eq!(tags(&reply), "312DCZ", "prepared anew");
    }
}

#[test]
fn nothing_is_written_by_a_statement_whose_columns_have_changed() {
    let mut pool = pool_with("changed_written");
    let text = "INSERT INTO changed_written SELECT 7 RETURNING *";
    let mut old = pool.client();
    exchange(&mut old, &[parse("s", text), sync()]);
    pool.cluster.sql("ALTER TABLE changed_written ADD y int");
    for _ in 0..3 {
        let reply = exchange(&mut old, &[run("s"), sync()]);
        assert_eq!(error(&reply), changed_error());
        pool.rotate();
    }
    assert_eq!(pool.cluster.value("SELECT count(*) FROM changed_written"), "1");
}

#[test]
fn the_error_fails_the_transaction_and_the_client_goes_on() {
    let mut pool = pool_with("changed_inside");
    let mut old = pool.client();
    exchange(&mut old, &[parse("s", "SELECT * FROM changed_inside"), parse("back", "ROLLBACK"), sync()]);
    pool.valet.client(Role::Postgres).query(&format!("ALTER TABLE changed_inside {ADD}"));
    for _ in 0..3 {
        pool.rotate();
        old.query("BEGIN");
        let reply = exchange(&mut old, &[run("s"), sync()]);
        assert_eq!(error(&reply), changed_error());
        assert_eq!(reply.last().and_then(Message::ready), Some('E'));
        let reply = exchange(&mut old, &[run("s"), sync()]);
        assert_eq!(first_error(&reply).as_deref(), Some("25P02"));
        assert_eq!(tags(&exchange(&mut old, &[run("back"), sync()])), "2CZ");
        assert_eq!(old.value("SELECT 'alive'"), "alive");
    }
}

#[test]
fn a_change_that_the_result_does_not_show_goes_unnoticed() {
    let mut pool = pool_with("changed_elsewhere");
    let mut old = pool.client();
    exchange(&mut old, &[parse("s", "SELECT x FROM changed_elsewhere"), sync()]);
    exchange(&mut old, &[parse("w", "UPDATE changed_elsewhere SET x = x + 1"), sync()]);
    pool.valet.client(Role::Postgres).query("ALTER TABLE changed_elsewhere ADD y int");
    for round in 1..5 {
        assert_eq!(one(&exchange(&mut old, &[run("s"), sync()])), round.to_string());
        assert_eq!(tags(&exchange(&mut old, &[run("w"), sync()])), "2CZ");
        pool.rotate();
    }
}

#[test]
fn a_pipeline_goes_on_behind_a_statement_that_has_changed() {
    let mut pool = pool_with("changed_piped");
    let mut old = pool.client();
    exchange(&mut old, &[parse("s", "SELECT * FROM changed_piped"), parse("t", "SELECT 't'"), sync()]);
    pool.valet.client(Role::Postgres).query(&format!("ALTER TABLE changed_piped {ADD}"));
    for _ in 0..3 {
        pool.rotate();
        old.send(&[run("t"), run("s"), run("t"), sync(), run("t"), sync(), query("SELECT 1")].concat());
        assert_eq!(tags(&old.until_ready()), "2DCEZ");
        assert_eq!(tags(&old.until_ready()), "2DCZ");
        assert_eq!(tags(&old.until_ready()), "TDCZ");
    }
}

#[test]
fn many_clients_prepare_the_same_and_all_of_them_are_served() {
    let mut pool = pool_with("changed_shared");
    let text = "SELECT * FROM changed_shared";
    let mut clients: Vec<_> = (0..6).map(|_| pool.client()).collect();
    for client in &mut clients {
        exchange(client, &[parse("s", text), sync()]);
    }
    for _ in 0..4 {
        for client in &mut clients {
            assert_eq!(one(&exchange(client, &[run("s"), sync()])), "1");
        }
        pool.rotate();
    }
}

#[test]
fn a_table_that_has_changed_back_is_as_it_was_on_every_server() {
    let mut pool = pool_with("changed_back_and_forth");
    let text = "SELECT * FROM changed_back_and_forth";
    let (mut direct, mut old) = (pool.cluster.client(Role::Trust), pool.client());
    for client in [&mut direct, &mut old] {
        exchange(client, &[parse("s", text), sync()]);
    }
    for round in 0..3 {
        // From now on the server has the statement only with the other columns.
        pool.rotate();
        pool.cluster.sql("ALTER TABLE changed_back_and_forth ADD y int");
        for client in [&mut direct, &mut old] {
            let batch = [run("s"), run("s"), sync(), describe_statement("s"), run("s"), sync()];
            client.send(&batch.concat());
            assert_eq!(error(&client.until_ready()), changed_error(), "round {round}");
            let reply = client.until_ready();
            assert_eq!((tags(&reply).as_str(), error(&reply)), ("tEZ", changed_error()), "round {round}");
        }
        pool.cluster.sql("ALTER TABLE changed_back_and_forth DROP y");
        for client in [&mut direct, &mut old] {
            let reply = exchange(client, &[describe_statement("s"), run("s"), sync()]);
            assert_eq!(tags(&reply), "tT2DCZ", "round {round}: {reply:?}");
        }
    }
}

#[test]
fn a_table_may_change_back_within_a_transaction() {
    let mut pool = pool_with("changed_within");
    pool.cluster.sql("ALTER TABLE changed_within OWNER TO app_trust");
    let (mut direct, mut old) = (pool.cluster.client(Role::Trust), pool.client());
    for client in [&mut direct, &mut old] {
        exchange(client, &[parse("s", "SELECT * FROM changed_within"), sync()]);
    }
    pool.rotate();
    for client in [&mut direct, &mut old] {
        client.query("BEGIN; ALTER TABLE changed_within ADD y int; SAVEPOINT changed");
        assert_eq!(error(&exchange(client, &[run("s"), sync()])), changed_error());
        assert_eq!(first_error(&exchange(client, &[run("s"), sync()])).as_deref(), Some("25P02"));
        client.query("ROLLBACK TO changed; ALTER TABLE changed_within DROP y");
        assert_eq!(tags(&exchange(client, &[run("s"), run("s"), sync()])), "2DC2DCZ");
        client.query("ROLLBACK");
    }
}
