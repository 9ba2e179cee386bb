//! Where session state ends: the limits of what may keep a server, servers that are killed, settings that cannot be brought
//! into force any more, and requests that come at the wrong moment.

mod support;
#[path = "support/watch.rs"]
mod watch;

use support::backend::first_error;
use support::cluster::{Cluster, DATABASE, PASSWORD, Role};
use support::eventually;
use support::frontend;
use support::wire::{Client, Login};
use watch::Console;

/// What ends the session: the SQLSTATE of the last error, after the reply of the statement that came before.
#[track_caller]
fn ended(client: &mut Client) -> String {
    let rest = client.try_until_end().expect("the session ends in good order");
    first_error(&rest).unwrap_or_else(|| panic!("an error ends the session: {rest:?}"))
}

#[track_caller]
fn runs(client: &mut Client, sql: &str) {
    let reply = client.query(sql);
    assert_eq!(first_error(&reply), None, "{sql}: {reply:?}");
}

#[track_caller]
fn fails(client: &mut Client, sql: &str) -> String {
    let reply = client.query(sql);
    first_error(&reply).unwrap_or_else(|| panic!("{sql} fails: {reply:?}"))
}

#[test]
fn what_would_pin_is_refused_if_so_configured() {
    let valet = watch::trusting(Cluster::shared(), 1).setting("pin = \"refuse\"").start();
    for sql in [
        "CREATE TEMP TABLE kept (n int)",
        "SELECT pg_advisory_lock(8001)",
        "DECLARE kept CURSOR WITH HOLD FOR SELECT 1",
    ] {
        let mut client = valet.client(Role::Trust);
        runs(&mut client, sql);
        assert_eq!(ended(&mut client), "0A000", "{sql}");
        let mut next = valet.client(Role::Trust);
        assert_eq!(next.value("SELECT to_regclass('pg_temp.kept') IS NULL"), "t");
        assert_eq!(next.value("SELECT count(*) FROM pg_cursors"), "0");
    }
    let mut client = valet.client(Role::Trust);
    for sql in [
        "BEGIN; CREATE TEMP TABLE t ON COMMIT DROP AS SELECT 1 AS n; SELECT * FROM t; COMMIT",
        "SELECT pg_advisory_lock(8001); SELECT pg_advisory_unlock(8001)",
        "SET work_mem = '7MB'",
        "BEGIN; SELECT pg_advisory_xact_lock(8001); COMMIT",
        // Nobody keeps a server for that.
        "LISTEN kept",
    ] {
        runs(&mut client, sql);
    }
    assert_eq!(client.value("SHOW work_mem"), "7MB");
}

#[test]
fn one_client_more_than_may_keep_a_server_is_ended() {
    let valet = watch::trusting(Cluster::shared(), 3).setting("max_pinned = 1").start();
    let mut first = valet.client(Role::Trust);
    runs(&mut first, "CREATE TEMP TABLE kept (n int)");
    runs(&mut first, "SELECT * FROM kept");
    let mut second = valet.client(Role::Trust);
    runs(&mut second, "CREATE TEMP TABLE kept (n int)");
    assert_eq!(ended(&mut second), "53400");
    runs(&mut first, "SELECT * FROM kept");
    runs(&mut first, "DROP TABLE kept");
    // That it holds nothing any more was asked before this is answered.
    runs(&mut first, "SELECT 1");
    let mut third = valet.client(Role::Trust);
    runs(&mut third, "CREATE TEMP TABLE kept (n int)");
    runs(&mut third, "SELECT * FROM kept");
    third.terminate();
    watch::assert_whole(&valet, 3);
}

#[test]
fn a_client_that_keeps_a_server_for_too_long_is_ended() {
    let valet = watch::trusting(Cluster::shared(), 1).setting("pin_timeout = \"300ms\"").start();
    let mut idle = valet.client(Role::Trust);
    runs(&mut idle, "SELECT 1");
    let mut pinned = valet.client(Role::Trust);
    runs(&mut pinned, "CREATE TEMP TABLE kept (n int)");
    ended(&mut pinned);
    runs(&mut idle, "SELECT 1");
    watch::assert_whole(&valet, 1);
}

#[test]
fn sequences_keep_no_server_if_so_configured() {
    let cluster = Cluster::shared();
    cluster.sql("CREATE SEQUENCE unpinned; GRANT ALL ON unpinned TO PUBLIC");
    let valet = watch::trusting(cluster, 1).setting("pin_sequences = false").start();
    let mut client = valet.client(Role::Trust);
    runs(&mut client, "SELECT nextval('unpinned')");
    runs(&mut valet.client(Role::Trust), "SELECT 1");
    assert_eq!(fails(&mut client, "SELECT currval('unpinned')"), "55000");
    runs(&mut client, "BEGIN; SELECT nextval('unpinned'); SELECT currval('unpinned'); COMMIT");
}

/// Whoever looks for the reason why clients wait finds it in the log, once for each time.
#[test]
fn a_pool_whose_servers_are_all_kept_says_so() {
    let valet = watch::trusting(Cluster::shared(), 2).start();
    let said = "every server of the pool is kept by one client";
    let mut keepers = [valet.client(Role::Trust), valet.client(Role::Trust)];
    let mut console = Console::open(&valet);
    for round in 1..=2 {
        for (kept, keeper) in keepers.iter_mut().enumerate() {
            assert_eq!(valet.count_log(&[said]), round - 1, "while one is free");
            runs(keeper, "CREATE TEMP TABLE kept (n int)");
            console.wait_pool("cl_pinned", kept as u64 + 1);
        }
        valet.wait_log(&[said, "pinned=2"]);
        assert_eq!(valet.count_log(&[said]), round);
        for keeper in &mut keepers {
            runs(keeper, "DROP TABLE kept");
        }
        console.wait_pool("cl_pinned", 0);
    }
}

#[test]
fn the_end_of_a_pinned_server_is_the_end_of_its_client_and_of_nobody_else() {
    let cluster = Cluster::start();
    let valet = watch::trusting(&cluster, 2).start();
    for in_transaction in [false, true] {
        let mut other = valet.client(Role::Trust);
        runs(&mut other, "SET work_mem = '9MB'");
        let mut pinned = valet.client(Role::Trust);
        runs(&mut pinned, "CREATE TEMP TABLE kept (n int)");
        let pid = pinned.value("SELECT pg_backend_pid()").parse().expect("a process id");
        if in_transaction {
            runs(&mut pinned, "BEGIN");
        }
        cluster.terminate_backend(pid);
        assert_eq!(ended(&mut pinned), "57P01");
        assert_eq!(other.value("SHOW work_mem"), "9MB");
        other.terminate();
        watch::assert_whole(&valet, 2);
    }
}

/// One server that two clients share in turn, as a superuser.
fn shared_by_two(cluster: &Cluster) -> (support::pgvalet::Pgvalet, Client, Client) {
    let valet = watch::trusting(cluster, 1).start();
    let (one, other) = (valet.client(Role::Postgres), valet.client(Role::Postgres));
    (valet, one, other)
}

#[test]
fn a_role_that_was_dropped_is_its_clients_error_and_nothing_runs_as_somebody_else() {
    let cluster = Cluster::start();
    cluster.sql("CREATE ROLE dropped; CREATE TABLE trace (who text); GRANT ALL ON trace TO PUBLIC");
    let (valet, mut one, mut other) = shared_by_two(&cluster);
    runs(&mut one, "SET ROLE dropped");
    runs(&mut one, "INSERT INTO trace VALUES (current_user)");
    assert_eq!(other.value("SELECT current_user"), "postgres");
    cluster.sql("DROP ROLE dropped");
    for _ in 0..2 {
        assert_eq!(fails(&mut one, "INSERT INTO trace VALUES (current_user)"), "22023");
        assert_eq!(other.value("SELECT current_user"), "postgres");
    }
    assert_eq!(
        first_error(&one.extended("INSERT INTO trace VALUES (current_user)", &[])).as_deref(),
        Some("22023")
    );
    assert_eq!(cluster.value("SELECT string_agg(who, ',') FROM trace"), "dropped");
    cluster.sql("CREATE ROLE dropped; GRANT ALL ON trace TO dropped");
    assert_eq!(one.value("SELECT current_user"), "dropped");
    assert_eq!(other.value("SELECT current_user"), "postgres");
    assert_eq!(valet.count_log(&["its reset failed"]), 0);
}

/// Settings that only a superuser may set, of one who is none any more. PostgreSQL itself would let it keep them.
#[test]
fn nothing_runs_without_a_setting_that_its_client_may_not_set_any_more() {
    let cluster = Cluster::start();
    cluster.sql(
        "CREATE ROLE fallen SUPERUSER LOGIN; CREATE TABLE trace (what text); GRANT ALL ON trace TO PUBLIC",
    );
    let valet = watch::trusting(&cluster, 1).user("fallen", PASSWORD, &[]).start();
    let login = Login::new("fallen", DATABASE);
    let (mut one, mut other) = (valet.login(&login), valet.login(&login));
    runs(&mut one, "SET log_min_duration_statement = '77s'");
    runs(&mut one, "INSERT INTO trace SELECT current_setting('log_min_duration_statement')");
    assert_eq!(other.value("SHOW log_min_duration_statement"), "-1");
    cluster.sql("ALTER ROLE fallen NOSUPERUSER");
    for _ in 0..2 {
        assert_eq!(fails(&mut one, "INSERT INTO trace VALUES ('without')"), "42501");
        assert_eq!(other.value("SELECT count(*) FROM trace"), "1");
    }
    runs(&mut one, "RESET ALL");
    runs(&mut one, "INSERT INTO trace VALUES ('reset')");
    assert_eq!(cluster.value("SELECT string_agg(what, ',') FROM trace"), "77s,reset");
}

#[test]
fn a_client_whose_role_was_dropped_can_go_on_with_another() {
    let cluster = Cluster::start();
    cluster.sql("CREATE ROLE dropped");
    let (_valet, mut one, mut other) = shared_by_two(&cluster);
    for (way_out, user) in
        [("RESET ROLE", "postgres"), ("set role none;", "postgres"), ("DISCARD ALL", "postgres")]
    {
        runs(&mut one, "SET ROLE dropped");
        assert_eq!(other.value("SELECT current_user"), "postgres");
        cluster.sql("DROP ROLE dropped");
        runs(&mut one, way_out);
        assert_eq!(other.value("SELECT current_user"), "postgres");
        assert_eq!(one.value("SELECT current_user"), user);
        runs(&mut one, "RESET ROLE");
        cluster.sql("CREATE ROLE dropped");
    }
}

#[test]
fn a_schema_that_was_dropped_is_where_the_client_looks_still() {
    let cluster = Cluster::start();
    cluster.sql("CREATE SCHEMA dropped; CREATE TABLE dropped.here (n int)");
    let (_valet, mut one, mut other) = shared_by_two(&cluster);
    runs(&mut one, "SET search_path = dropped");
    runs(&mut one, "SELECT * FROM here");
    assert_eq!(other.value("SHOW search_path"), "\"$user\", public");
    cluster.sql("DROP SCHEMA dropped CASCADE");
    assert_eq!(fails(&mut one, "SELECT * FROM here"), "42P01");
    assert_eq!(one.value("SHOW search_path"), "dropped");
    runs(&mut other, "CREATE TABLE IF NOT EXISTS public.elsewhere (n int)");
    assert_eq!(fails(&mut one, "SELECT * FROM elsewhere"), "42P01");
}

#[test]
fn nothing_runs_under_other_settings_when_a_value_is_refused_that_was_taken_before() {
    let cluster = Cluster::start();
    cluster.sql("CREATE TEXT SEARCH CONFIGURATION public.odd (COPY = pg_catalog.simple)");
    cluster.sql("CREATE TABLE trace (who text)");
    let (_valet, mut one, mut other) = shared_by_two(&cluster);
    runs(
        &mut one,
        "SET default_text_search_config = 'public.odd'; SET work_mem = '7MB'; SET app.tenant = 'one'",
    );
    for _ in 0..2 {
        assert_eq!(other.value("SHOW work_mem"), "4MB");
        assert_eq!(one.value("SHOW work_mem"), "7MB");
    }
    assert_eq!(other.value("SHOW work_mem"), "4MB");
    cluster.sql("DROP TEXT SEARCH CONFIGURATION public.odd");
    let reply = one.query("INSERT INTO trace SELECT current_setting('app.tenant', true)");
    assert_eq!(first_error(&reply).as_deref(), Some("22023"), "{reply:?}");
    assert_eq!(other.value("SHOW work_mem"), "4MB");
    let running = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' AND query LIKE 'INSERT%'";
    eventually("the server to have ended", || (cluster.value(running) == "0").then_some(()));
    assert_eq!(cluster.value("SELECT count(*) FROM trace"), "0", "{reply:?}");
    let is_error =
        |message: &support::backend::Message| message.tag != b'E' || message.body.starts_with(b"SERROR");
    assert!(reply.iter().all(is_error), "the session goes on: {reply:?}");
}

#[test]
fn what_one_client_did_to_a_server_is_no_error_of_the_next() {
    let cluster = Cluster::start();
    let (_valet, mut one, mut other) = shared_by_two(&cluster);
    // PostgreSQL takes no other value once a temporary table was used.
    runs(&mut other, "CREATE TEMP TABLE t (n int)");
    runs(&mut other, "INSERT INTO t VALUES (1)");
    runs(&mut other, "DROP TABLE t");
    runs(&mut other, "SET work_mem = '9MB'");
    let reply = one.query("SET temp_buffers = 200");
    assert_eq!(first_error(&reply).as_deref(), Some("22023"));
    runs(&mut one, "SET work_mem = '7MB'");
    assert_eq!(other.value("SHOW work_mem"), "9MB");
    assert_eq!(one.value("SHOW work_mem"), "7MB");
}

#[test]
fn temp_buffers_keep_their_client_on_its_server_and_reach_nobody_else() {
    let cluster = Cluster::start();
    let (_valet, mut one, mut other) = shared_by_two(&cluster);
    runs(&mut other, "SET work_mem = '9MB'");
    for sql in
        ["SET temp_buffers = 200", "CREATE TEMP TABLE t (n int)", "INSERT INTO t VALUES (1)", "DROP TABLE t"]
    {
        runs(&mut one, sql);
    }
    assert_eq!(one.value("SHOW temp_buffers"), "1600kB");
    one.terminate();
    assert_eq!(other.value("SHOW temp_buffers"), "8MB");
    assert_eq!(other.value("SHOW work_mem"), "9MB");
}

#[test]
fn a_clients_own_time_limit_does_not_hit_what_pgvalet_asks() {
    let (valet, mut one, mut other) = shared_by_two(Cluster::shared());
    runs(&mut one, "SET work_mem = '7MB'; SET app.tenant = 'one'");
    let _ = one.query("SET statement_timeout = '2ms'");
    for _ in 0..20 {
        assert_eq!(other.value("SHOW work_mem"), "4MB");
        let _ = one.query("SELECT pg_sleep(1)");
    }
    assert_eq!(first_error(&one.query("SELECT pg_sleep(1)")).as_deref(), Some("57014"));
    let _ = one.query("SET statement_timeout = 0");
    assert_eq!(one.value("SHOW app.tenant"), "one");
    assert_eq!(valet.count_log(&["its reset failed"]), 0);
}

#[test]
fn late_cancel_requests_cost_nothing_of_the_session() {
    let (valet, mut one, mut other) = shared_by_two(Cluster::shared());
    let cancel = one.cancel();
    for round in 0..60 {
        one.send(&frontend::query(&format!("SET app.round = 'r{round}'")));
        let thread = std::thread::spawn({
            let cancel = cancel.clone();
            move || drop(cancel.send())
        });
        let reply = one.until_ready();
        let was_set = first_error(&reply).is_none();
        assert!(was_set || first_error(&reply).as_deref() == Some("57014"), "{reply:?}");
        thread.join().expect("it was sent");
        assert_eq!(
            other.value("SELECT coalesce(current_setting('app.round', true), '')"),
            "",
            "round {round}"
        );
        if was_set {
            assert_eq!(one.value("SHOW app.round"), format!("r{round}"));
        }
    }
    assert_eq!(valet.count_log(&["server lost"]), 0);
}

#[test]
fn a_new_configuration_of_the_server_is_the_ground_that_settings_stand_on() {
    let cluster = Cluster::start();
    let (_valet, mut one, mut other) = shared_by_two(&cluster);
    runs(&mut one, "SET work_mem = '7MB'");
    runs(&mut other, "SHOW work_mem");
    cluster.configure("work_mem = '5MB'\ntimezone = 'Asia/Tokyo'\nstatement_timeout = '66s'");
    cluster.reload();
    eventually("the server to have read it", || (other.value("SHOW work_mem") == "5MB").then_some(()));
    assert_eq!(one.value("SHOW work_mem"), "7MB");
    assert_eq!(other.value("SHOW TimeZone"), "Asia/Tokyo");
    assert_eq!(one.value("SHOW TimeZone"), "Asia/Tokyo");
    assert_eq!(one.value("SHOW statement_timeout"), "66s");
    runs(&mut one, "RESET work_mem");
    assert_eq!(one.value("SHOW work_mem"), "5MB");
    runs(&mut one, "SET statement_timeout = 0");
    assert_eq!(other.value("SHOW statement_timeout"), "66s");
    assert_eq!(one.value("SHOW statement_timeout"), "0");
}

#[test]
fn bytes_that_are_no_utf8_keep_their_client_on_its_server_and_do_not_leak() {
    let cluster = Cluster::start();
    cluster.sql("CREATE DATABASE bytes ENCODING 'SQL_ASCII' TEMPLATE template0");
    let valet = watch::trusting(&cluster, 1).database("bytes", &cluster, &[]).start();
    let login = Login::new("postgres", "bytes");
    let (mut one, mut other) = (valet.login(&login), valet.login(&login));
    runs(&mut one, "SELECT set_config('app.bytes', convert_from('\\xe9'::bytea, 'SQL_ASCII'), false)");
    let bytes =
        "SELECT encode(convert_to(coalesce(current_setting('app.bytes', true), ''), 'SQL_ASCII'), 'hex')";
    // It cannot be set elsewhere: the client stays where it is.
    assert_eq!(one.value(bytes), "e9");
    one.terminate();
    assert_eq!(other.value(bytes), "");
}

#[test]
fn a_reported_setting_that_was_rolled_back_with_its_client_is_not_taken_for_set() {
    let (valet, mut one, mut other) = shared_by_two(Cluster::shared());
    runs(&mut one, "SET TimeZone = 'Asia/Tokyo'");
    for orderly in [true, false] {
        runs(&mut other, "BEGIN");
        runs(&mut other, "SET TimeZone = 'Asia/Tokyo'");
        if orderly {
            other.terminate();
        } else {
            other.reset();
        }
        assert_eq!(one.value("SHOW TimeZone"), "Asia/Tokyo");
        other = valet.client(Role::Postgres);
        assert_eq!(other.value("SHOW TimeZone"), "UTC");
    }
}
