//! What a review found: one test for each way in which a server came back to the pool other than pgvalet believed.

mod support;

use std::time::Duration;
use support::cluster::{Cluster, DATABASE, PASSWORD, Role};
use support::frontend::{bind, close_statement, execute, parse, sync};
use support::pgvalet::{Builder, Pgvalet};
use support::wire::Client;

/// One server, so that each client gets the one that the client before it had.
fn one_server(reset: &str) -> Builder {
    Pgvalet::builder()
        .setting("auth_type = \"trust\"")
        .setting("default_pool_size = 1")
        .setting(&format!("reset = \"{reset}\""))
        .user("app_trust", PASSWORD, &[])
        .database(DATABASE, Cluster::shared(), &[])
}

#[test]
fn settings_follow_their_client_whatever_the_reset() {
    for reset in ["auto", "always", "never"] {
        let valet = one_server(reset).start();
        let (mut one, mut other) = (valet.client(Role::Trust), valet.client(Role::Trust));
        let usual = other.value("SHOW TimeZone");
        one.query("SET TimeZone = 'Asia/Tokyo'");
        assert_eq!(other.value("SHOW TimeZone"), usual, "{reset}");
        assert_eq!(one.value("SHOW TimeZone"), "Asia/Tokyo", "{reset}");
    }
}

#[test]
fn a_setting_that_a_rollback_undid_is_not_taken_to_be_in_force() {
    let valet = one_server("auto").start();
    let mut leaves = valet.client(Role::Trust);
    let login = Role::Trust.login().parameter("TimeZone", "Asia/Tokyo");
    let mut stays = Client::login(&valet.tcp(), &login).unwrap();
    leaves.query("BEGIN");
    leaves.query("SET TimeZone = 'Asia/Tokyo'");
    leaves.reset();
    assert_eq!(stays.value("SHOW TimeZone"), "Asia/Tokyo");
}

#[test]
fn a_setting_for_one_transaction_in_a_startup_packet_harms_nobody() {
    let valet = one_server("auto").start();
    let login = Role::Trust.login().parameter("options", "-c transaction_read_only=on");
    let mut odd = Client::login(&valet.tcp(), &login).unwrap();
    let mut usual = valet.client(Role::Trust);
    for _ in 0..2 {
        assert_eq!(odd.value("SELECT 1"), "1");
        assert_eq!(usual.value("SHOW transaction_read_only"), "off");
    }
}

#[test]
fn a_reset_query_of_ones_own_comes_on_top_of_the_reset() {
    let valet = one_server("always").setting("server_reset_query = \"SELECT 1\"").start();
    let (mut one, mut other) = (valet.client(Role::Trust), valet.client(Role::Trust));
    one.query("SET work_mem = '7MB'");
    assert_eq!(other.value("SHOW work_mem"), "4MB");
    for client in [&mut one, &mut other] {
        client.send(&[parse("", "SELECT 1"), bind("", "", &[]), execute("", 0), sync()].concat());
        assert!(client.until_ready().iter().all(|message| message.tag != b'E'));
    }
}

#[test]
fn what_is_sent_behind_an_error_costs_no_server_its_statements() {
    let valet = one_server("auto").setting("max_prepared_statements = 2").start();
    let mut client = valet.client(Role::Trust);
    for number in 0..3 {
        let name = format!("s{number}");
        client.send(&[parse(&name, &format!("SELECT {number}")), sync()].concat());
        client.until_ready();
    }
    // The error has come, its Sync has not: what follows is skipped.
    client.send(&[parse("bad", "SELEC"), support::frontend::flush()].concat());
    client.until(b'E');
    for number in 0..3 {
        client.send(&[bind("", &format!("s{number}"), &[]), execute("", 0)].concat());
    }
    client.send(&sync());
    client.until_ready();
    for number in [0, 1, 2, 0, 1, 2] {
        client.send(&[bind("", &format!("s{number}"), &[]), execute("", 0), sync()].concat());
        let replies = client.until_ready();
        assert!(replies.iter().all(|message| message.tag != b'E'), "{number}: {replies:?}");
    }
}

#[test]
fn a_client_that_asks_and_does_not_read_takes_no_memory() {
    let valet = one_server("auto").start();
    let mut client = valet.client(Role::Trust);
    client.shrink_buffers(4096);
    client.set_deadline(Duration::from_secs(1));
    let before = valet.rss_kib();
    // Each Sync is answered by pgvalet itself. 60 MB of them, or until nothing more is taken.
    let batch = sync().repeat(20_000);
    let taken = (0..600).take_while(|_| client.try_send(&batch).is_ok()).count();
    let grown = valet.rss_kib().saturating_sub(before);
    assert!(grown < 20_000, "{grown} KiB for a client that does not read, {taken} batches");
    assert_eq!(valet.client(Role::Trust).value("SELECT 1"), "1");
}

#[test]
fn closes_that_nobody_answers_are_not_piled_up() {
    let valet = one_server("auto").setting("default_pool_size = 2").start();
    let mut client = valet.client(Role::Trust);
    let mut other = valet.client(Role::Trust);
    client.send(&support::frontend::query("BEGIN"));
    client.until_ready();
    client.send(&support::frontend::query("SELECT pg_sleep(60)"));
    let before = valet.rss_kib();
    // Two million of Close, if they were all taken in; what is not read stays with the client.
    let mut writer = client.writer();
    let closes = close_statement("x").repeat(100_000);
    let cancel = client.cancel();
    let writing = std::thread::spawn(move || {
        let _ = (0..20).try_for_each(|_| writer.send(&closes));
    });
    assert_eq!(other.value("SELECT pg_sleep(0.1)"), "");
    let grown = valet.rss_kib().saturating_sub(before);
    assert!(grown < 20_000, "{grown} KiB for what one client has sent");
    cancel.send().unwrap();
    let error = client.until(b'E').pop().unwrap();
    assert_eq!(error.sqlstate().as_deref(), Some("57014"), "what the client sent first is answered first");
    client.until(b'Z');
    client.until(b'3');
    // For the thread, too, the connection is over then.
    client.half_close();
    writing.join().unwrap();
    client.reset();
    assert_eq!(other.value("SELECT 1"), "1");
}

/// A bug on demand, which only debug builds have.
#[test]
fn a_panic_in_one_clients_task_ends_that_client_only() {
    let fault = "SELECT 'a fault'";
    let valet =
        one_server("auto").setting("default_pool_size = 2").environment("PGVALET_FAULT", fault).start();
    let [mut idle, mut working, mut other] = [(); 3].map(|()| valet.client(Role::Trust));
    idle.value("SELECT 1");
    working.query("BEGIN");
    for victims in 1..=3 {
        let mut victim = valet.client(Role::Trust);
        victim.query("BEGIN");
        victim.send(&support::frontend::query(fault));
        victim.until_end();
        valet.wait_log(&["a bug in pgvalet"]);
        assert_eq!(other.value("SELECT 1"), "1", "its server is closed and makes room, time {victims}");
    }
    assert_eq!(working.value("SELECT 'still'"), "still");
    working.query("COMMIT");
    assert_eq!(idle.value("SELECT 'there'"), "there");
    let held = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'app_trust' AND state LIKE 'idle in%'";
    assert_eq!(Cluster::shared().value(held), "0", "nothing stays open on the server");
}
