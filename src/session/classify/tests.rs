//! What statements leave behind, by example.

use super::*;

fn facts() -> CatalogFacts {
    let rows = [
        ["size", "fits", "", ""],
        ["relation", "pgbench_accounts", "1", ""],
        ["relation", "pgbench_branches", "2", ""],
        ["relation", "pgbench_tellers", "3", ""],
        ["relation", "pgbench_history", "4", ""],
        ["relation", "users", "5", ""],
        ["relation", "orders", "6", "s"],
        ["relation", "audited", "7", "w"],
        ["relation", "some_view", "8", "rw"],
        ["relation", "pg_class", "9", "w"],
        ["function", "user_status", "", "a"],
        ["function", "initcap", "", ""],
        ["type", "mood", "", ""],
    ];
    let rows: Vec<Vec<String>> = rows.iter().map(|row| row.map(str::to_owned).to_vec()).collect();
    CatalogFacts::from_rows(&rows)
}

fn judge(sql: &str) -> Footprint {
    classify(sql.as_bytes(), &facts(), false)
}

#[track_caller]
fn all(statements: &[&str], expected: Footprint) {
    for sql in statements {
        let found = judge(sql);
        let names = |footprint: Footprint| footprint.reasons().collect::<Vec<_>>();
        assert_eq!(names(found), names(expected), "{sql}");
    }
}

#[test]
fn ordinary_work_leaves_nothing() {
    all(
        &[
            "",
            " ; -- nothing\n;",
            "SELECT 1",
            "SELECT abalance FROM pgbench_accounts WHERE aid = 4711;",
            "select * from public.users u where u.name like 'a%' escape '!' for update of u nowait",
            "BEGIN; UPDATE pgbench_accounts SET abalance = abalance + 1 WHERE aid = 1; COMMIT",
            "INSERT INTO pgbench_history (tid, bid, aid, delta, mtime) VALUES (1, 2, 3, 4, CURRENT_TIMESTAMP);",
            "insert into users as u (id) values ($1), (default) on conflict (id) do update set a = 1, b = excluded.b \
             returning id, now()",
            "insert into users select a, b from pgbench_accounts a, pgbench_tellers b on conflict do nothing",
            "delete from users using pgbench_accounts a join pgbench_tellers t using (tid) where a.aid = users.id",
            "update only users set (a, b) = (select 1, max(x) from pgbench_tellers) from pgbench_accounts, orders",
            "merge into users u using (select 1 as id) s on u.id = s.id when matched then update set a = 1, b = 2 \
             when not matched then insert (id) values (s.id)",
            "with a as (select 1), b (x) as materialized (select * from a) select * from a, b",
            "with recursive t (n) as (values (1) union all select n + 1 from t where n < 9) select sum(n) from t",
            "with gone as (delete from users where id = $1 returning *) select count(*) from gone",
            "(select 1) union all (select 2 order by 1) limit 3",
            "select * from (users u left join pgbench_accounts a on u.id = a.aid) cross join lateral (select 1) x",
            "select x.* from generate_series(1, 3) with ordinality as x (i, n), unnest(array[1, 2]) y (z)",
            "select * from (values (1, 'a')) as v (id, name)",
            "select * from json_to_recordset('[]') as x (a int, b double precision, c timestamp with time zone)",
            "select '1'::int, $1::varchar(10), cast('x' as text), date '2020-01-01', 'ok'::mood, x::int[] from users x",
            "select extract(epoch from now()), substring('abc' from 1 for 2), trim(both 'x' from 'y')",
            "select * from users where a is not distinct from b and c is distinct from d",
            "select sum(a) filter (where b) over (partition by c order by d rows between 1 preceding and current row) \
             from users window w as (partition by e)",
            "select percentile_cont(0.5) within group (order by a) from users group by grouping sets ((a), (b))",
            "select a[1], b[1:2], array(select 1), row(1, 2), exists (select 1), 1 = any($1), c -> 'd' ->> 'e' from users",
            "select distinct on (a) a as table, b as from from users order by a fetch first 5 rows with ties",
            "select 1 operator(pg_catalog.+) 2, pg_catalog.lower('A'), \"lower\"('A')",
            "select pg_advisory_xact_lock(1), current_setting('a.b', true), pg_notify('a', 'b')",
            "values (1), (2); table users; table only users",
            "select 'set_config(' -- set_config(\n /* nextval('x') */ , $$ ; set a = 1 $$",
            "copy users from stdin; copy public.users (a, b) to stdout with (format csv, force_quote (a))",
            "copy (select * from users) to stdout (format binary)",
            "explain select 1; explain (analyze, format json) select * from users; explain analyze verbose table users",
            "declare c no scroll cursor for select * from users; fetch 10 from c; move c; close c",
            "start transaction read only; savepoint a; release a; rollback to a; end; abort; commit and chain",
            "prepare transaction 'x'; show all; lock table users; notify a, 'b'",
            "set transaction read only; set constraints all deferred",
        ],
        Footprint::NOTHING,
    );
    all(&["set local a.b = 1; set local role x"], Footprint::LOCAL_SETTINGS);
}

#[test]
fn a_setting_whose_name_cannot_be_found_again_is_everything() {
    all(
        &[
            "select set_config($1, 'c', false)",
            "select set_config('a.' || 'b', 'c', false)",
            "select set_config(setting_name => 'a.b', new_value => 'c', is_local => false)",
            "select set_config('a b.c', 'c', false)",
        ],
        Footprint::EVERYTHING.union(Footprint::SETTINGS),
    );
}

#[test]
fn what_cannot_be_told_is_everything() {
    all(
        &[
            "select my_function()",
            "select other.lower('x')",
            "select initcap('a')",
            "set \"a b\".c = 1",
            "reset a.\"b-c\"",
            "select x.nextval from to_regclass('s') as x",
            "select ('s'::regclass).nextval",
            "select $1.nextval",
            "select o.user_status from orders o",
            "select distinct on (a) my_function(a) from users",
            "select * from unknown_table",
            "select * from users, unknown_table",
            "select * from users key, unknown_table",
            "select * from users set, unknown_table",
            "select * from users values, unknown_table",
            "select * from users join users b on values, unknown_table",
            "select * from (users join unknown_table on true)",
            "select * from some_view",
            "select some_view from users",
            "select * from users where id in (select id from some_view)",
            "with users as (select * from unknown_table) select 1",
            "with t as (select * from t) select * from t",
            "with t as (select 1) select * from other.t",
            "select * from (with t as (select 1) select * from t) x, t",
            "with t as (select 1) delete from t",
            "insert into audited values (1)",
            "update audited set a = 1",
            "delete from audited",
            "merge into audited using users on true when matched then delete",
            "copy audited from stdin",
            "insert into some_view values (1)",
            "update pg_class set relname = 'x'",
            "select 'a'::unknown_type",
            "select unknown_type 'a'",
            "select cast(1 as unknown_type)",
            "select varchar(10) 'a'",
            "select * from json_to_record('{}') as x (a unknown_type)",
            "select * from users tablesample my_method(1)",
            "select query_to_xml('select 1', true, true, '')",
            "copy users from '/tmp/x'; copy users to program 'x'",
            "copy users from stdin where my_function()",
            "copy (select my_function()) to stdout",
            "declare c cursor for select my_function()",
            "call p()",
            "discard all",
            "vacuum",
            "analyze users",
            "select * from \"Users\"",
        ],
        Footprint::EVERYTHING,
    );
}

#[test]
fn a_backslash_is_plain_where_that_is_sure() {
    let judge = |unsure: bool| classify(br"select 'a\', 1 --'", &facts(), unsure);
    assert_eq!(judge(false), Footprint::NOTHING);
    assert!(judge(true).contains(Footprint::EVERYTHING));
}

#[test]
fn ddl_voids_the_facts() {
    all(
        &[
            "create table t (a int)",
            "CREATE TEMP TABLE t AS SELECT 1",
            "alter table t add b int; select 1",
            "select 1; drop table t",
            "grant select on t to u",
            "comment on table t is 'x'",
            "truncate users",
            "select 1 into t",
            "select my_function() into t from users",
            "explain analyze create table t as select 1",
            "select my_function(); create table t (a int)",
            "frobnicate",
        ],
        Footprint::EVERYTHING.union(Footprint::DDL),
    );
    let unreadable = Footprint::EVERYTHING.union(Footprint::DDL).union(Footprint::STATEMENTS);
    all(&["do $$ begin end $$", "select u&'a'", "select 'never closed; create table t (a int)"], unreadable);
    all(&["create table t as execute a"], unreadable.union(Footprint::EXECUTES));
    all(&["commit prepared 'x'", "rollback prepared 'x'"], Footprint::DDL);
}

#[test]
fn each_kind_of_state_is_told_apart() {
    let followed = Footprint::FOLLOWED_SETTINGS;
    all(
        &[
            "set application_name = 'x'",
            "set session DateStyle to iso, dmy",
            "set time zone 'UTC'",
            "set session time zone local",
            "set names 'utf8'",
            "set \"TimeZone\" to default",
            "reset timezone",
            "reset time zone",
            "set client_encoding to 'utf8'; select 1",
        ],
        followed,
    );
    all(
        &[
            "set work_mem = '1MB'",
            "set session search_path to a, b",
            "set schema 'x'",
            "set local.a = 1",
            "set transaction.a = 1",
            "set session.a to 1",
            "set time.zone = 1",
            "set session characteristics as transaction read only",
            "set xml option document",
            "reset all",
            "reset a.b",
            "reset timezone.x",
            "set timezone.x = 1",
            "set names.x = 1",
        ],
        Footprint::SETTINGS,
    );
    all(
        &[
            "set role x",
            "set session role x",
            "set role = x",
            "set session authorization x",
            "set session authorization default",
            "set session_authorization = 'x'",
            "reset role",
            "reset session authorization",
        ],
        Footprint::ROLE,
    );
    all(&["select nextval('s')", "select setval('s', 1)"], Footprint::SEQUENCES.union(Footprint::NEXTVAL));
    all(&["select currval('s'), lastval()"], Footprint::CURRVAL);
    all(&["insert into orders values (1)"], Footprint::SEQUENCES);
    all(
        &[
            "select set_config('a.b', $1, false)",
            "select pg_catalog.set_config('work_mem', '1MB', true)",
            "set a.b.c = 1",
            "set session \"a\".b to 1",
            "reset a.b",
        ],
        Footprint::SETTINGS,
    );
    all(&["load 'x'"], Footprint::EVERYTHING.union(Footprint::LASTING));
    all(&["copy orders from stdin", "update orders set id = default"], Footprint::SEQUENCES);
    all(&["update orders set a = 1", "delete from orders"], Footprint::NOTHING);
    all(&["select pg_advisory_lock(1)", "select pg_catalog.pg_try_advisory_lock(1, 2)"], Footprint::LOCKS);
    all(&["listen a", "unlisten *"], Footprint::LISTEN);
    all(&["declare c cursor with hold for select 1"], Footprint::CURSORS);
    all(&["declare c cursor without hold for select 1"], Footprint::NOTHING);
    let statements = Footprint::STATEMENTS;
    all(&["prepare a as select 1", "prepare transaction as select 1", "deallocate all"], statements);
    all(&["execute a", "explain analyze execute a(1)"], statements.union(Footprint::EXECUTES));
}

#[test]
fn without_facts_only_what_holds_no_expression_is_known() {
    let judge = |sql: &str| classify(sql.as_bytes(), &CatalogFacts::unknown(), false);
    assert_eq!(judge("select 1"), Footprint::EVERYTHING);
    assert_eq!(judge("begin; set local a = 1; commit"), Footprint::LOCAL_SETTINGS);
    assert!(judge("select 1 into t").contains(Footprint::DDL));
    assert!(!judge("insert into t values (1)").contains(Footprint::DDL));
}

#[test]
fn nesting_and_names_beyond_what_fits_are_unknown() {
    let nested = |depth: usize| format!("select {}1{}", "(".repeat(depth), ")".repeat(depth));
    assert_eq!(judge(&nested(20)), Footprint::NOTHING);
    assert_eq!(judge(&nested(200)), Footprint::EVERYTHING);
    let tables = |count: usize| {
        let list: Vec<String> = (0..count).map(|number| format!("t{number} as (select 1)")).collect();
        format!("with {} select 1", list.join(", "))
    };
    assert_eq!(judge(&tables(10)), Footprint::NOTHING);
    assert_eq!(judge(&tables(30)), Footprint::EVERYTHING);
}

#[test]
fn a_transaction_block_is_seen_where_it_opens() {
    for sql in ["begin", "/* x */ START TRANSACTION", "select 1; begin work"] {
        assert!(begins_transaction(sql.as_bytes()), "{sql}");
    }
    for sql in ["select 'begin'", "commit", "select begin", "", "prepare begin as select 1"] {
        assert!(!begins_transaction(sql.as_bytes()), "{sql}");
    }
}
