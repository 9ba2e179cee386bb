//! Reloads while clients log in, wait in line and hold servers: nobody is hurt, nothing leaks, and the new limits are exact.

mod support;

#[path = "pooling/fixture.rs"]
mod fixture;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};

use fixture::{Console, Watch, error_text, marked, open_house, pid, valet};
use support::backend::first_error;
use support::cluster::{Cluster, DATABASE, Role};
use support::frontend;
use support::pgvalet::Pgvalet;
use support::wire::{Client, LoginError};
use support::{DEADLINE, eventually, within};

/// Puts another configuration in force, and waits until it is.
#[track_caller]
fn reload(valet: &Pgvalet, text: &str) {
    let done = || valet.count_log(&["configuration reloaded"]);
    let before = done();
    valet.write_config(text);
    valet.sighup();
    eventually("the reload", || (done() > before).then_some(()));
}

fn with_pool_size(text: &str, size: usize) -> String {
    let lines = text.lines().map(|line| match line.split_once(" = ") {
        Some(("pool_size", _)) => format!("pool_size = {size}"),
        _ => line.to_owned(),
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// Clients that hold a server each.
fn holders(valet: &Pgvalet, count: usize) -> Vec<Client> {
    (0..count).map(|_| holder(valet)).collect()
}

fn holder(valet: &Pgvalet) -> Client {
    let mut client = valet.client(Role::Trust);
    assert_eq!(first_error(&client.query("BEGIN")), None);
    client
}

/// Lets them all go at the same moment, as far as that can be had.
fn let_go(clients: &mut [Client]) {
    clients.iter_mut().for_each(|client| client.send(&frontend::query("COMMIT")));
    for client in clients {
        client.until_ready();
    }
}

/// As many clients as may have a server at a time get one, one more waits, and the console says the same.
#[track_caller]
fn assert_room_for(valet: &Pgvalet, console: &mut Console, size: usize) {
    let mut clients = holders(valet, size);
    let pids: BTreeSet<String> = clients.iter_mut().map(pid).collect();
    assert_eq!(pids.len(), size);
    let mut one_more = valet.client(Role::Trust);
    one_more.send(&frontend::query("SELECT 'served'"));
    console.wait_for_waiting(1);
    assert_eq!((console.pools("sv_active"), console.pools("sv_idle")), (size as u64, 0));
    let_go(&mut clients);
    assert_eq!(first_error(&one_more.until_ready()), None);
}

/// What the console calls idle is all that PostgreSQL has.
#[track_caller]
fn assert_agree(console: &mut Console, watch: &mut Watch) {
    let mut counts = (0, 0);
    let agree = within(DEADLINE, || {
        counts = (watch.count() as u64, console.pools("sv_idle"));
        (counts.0 == counts.1).then_some(())
    });
    assert!(agree.is_some(), "PostgreSQL and SHOW POOLS count {counts:?} servers");
}

#[test]
fn a_pool_made_smaller_closes_exactly_the_idle_servers_it_has_too_many() {
    let valet = valet("smaller", &["pool_size = 16"]).start();
    let mut console = Console::of(&valet);
    let mut watch = Watch::new("smaller");
    let large = valet.config();
    for round in 1..=8 {
        let mut clients = holders(&valet, 16);
        watch.wait_for(16);
        let_go(&mut clients);
        console.wait_for_idle_servers(16);
        // All workers sweep at about the same moment.
        reload(&valet, &with_pool_size(&large, 8));
        eventually("the surplus to be closed", || (watch.count() <= 8).then_some(()));
        let connects = console.stat("connects");
        let mut clients = holders(&valet, 8);
        assert_eq!(watch.count(), 8);
        assert_eq!(
            console.stat("connects"),
            connects,
            "round {round}: none was closed that there was room for"
        );
        let_go(&mut clients);
        reload(&valet, &large);
    }
}

#[test]
fn servers_beyond_new_limits_of_database_and_user_are_closed_while_idle() {
    for limit in ["max_db_connections", "max_user_connections"] {
        let valet = valet("capped", &["pool_size = 6"]).start();
        let mut console = Console::of(&valet);
        let mut watch = Watch::new("capped");
        let mut clients = holders(&valet, 6);
        let_go(&mut clients);
        console.wait_for_idle_servers(6);
        let text = valet.config();
        reload(&valet, &format!("{limit} = 2\n{text}"));
        watch.wait_for(2);
        console.wait_for_idle_servers(2);
        assert_room_for(&valet, &mut console, 2);
        assert_eq!(console.stat("connects"), 6, "{limit}");
        reload(&valet, &text);
        assert_room_for(&valet, &mut console, 6);
        drop(clients);
        console.wait_for_rest(0, 6);
    }
}

#[test]
fn leases_are_kept_and_those_in_line_are_served_whatever_the_new_size() {
    let valet = valet("resized", &["pool_size = 3"]).start();
    let mut console = Console::of(&valet);
    let mut watch = Watch::new("resized");
    let text = valet.config();
    // Forty is more than the pool was made for: it is replaced.
    for size in [1, 5, 40, 2] {
        reload(&valet, &text);
        eventually("what is left of the last size to be closed", || (watch.count() <= 3).then_some(()));
        let mut clients = holders(&valet, 3);
        let pids: Vec<String> = clients.iter_mut().map(pid).collect();
        let mut in_line: Vec<Client> = (0..4).map(|_| valet.client(Role::Trust)).collect();
        in_line.iter_mut().for_each(|client| client.send(&frontend::query("SELECT 'served'")));
        console.wait_for_waiting(4);
        reload(&valet, &with_pool_size(&text, size));
        assert_eq!(clients.iter_mut().map(pid).collect::<Vec<_>>(), pids, "size {size}");
        let_go(&mut clients);
        for client in &mut in_line {
            assert_eq!(first_error(&client.until_ready()), None, "size {size}");
        }
        eventually("the surplus to be closed", || (watch.count() <= size).then_some(()));
        assert_room_for(&valet, &mut console, size);
        drop((clients, in_line));
        console.wait_for_rest(0, size as u64);
        assert_agree(&mut console, &mut watch);
    }
}

#[test]
fn a_users_own_limits_can_change_while_its_servers_are_in_use() {
    let user = "[users.app_trust]";
    let valet = open_house().database(DATABASE, Cluster::shared(), &[&marked("own_limits")]).start();
    let mut console = Console::of(&valet);
    let text = valet.config();
    let with = |line: &str| {
        text.replace(&user.replace("app_trust", "\"app_trust\""), &format!("[users.\"app_trust\"]\n{line}"))
    };
    assert_ne!(with("pool_size = 4"), text);
    reload(&valet, &with("pool_size = 4"));
    assert_room_for(&valet, &mut console, 4);
    let mut clients = holders(&valet, 4);
    reload(&valet, &with("pool_size = 4\nmax_user_connections = 2"));
    let mut waits = valet.client(Role::Trust);
    waits.send(&frontend::query("SELECT 'served'"));
    console.wait_for_waiting(1);
    let_go(&mut clients);
    assert_eq!(first_error(&waits.until_ready()), None);
    assert_room_for(&valet, &mut console, 2);
    reload(&valet, &with("pool_mode = \"session\"\npool_size = 3"));
    assert_room_for_sessions(&valet, &mut console, 3);
    drop((clients, waits));
    console.wait_for_rest(0, 3);
}

/// The same as [`assert_room_for`] in session pooling.
#[track_caller]
fn assert_room_for_sessions(valet: &Pgvalet, console: &mut Console, size: usize) {
    let mut clients: Vec<Client> = (0..size).map(|_| valet.client(Role::Trust)).collect();
    let pids: BTreeSet<String> = clients.iter_mut().map(pid).collect();
    assert_eq!(pids.len(), size);
    let mut one_more = valet.client(Role::Trust);
    one_more.send(&frontend::query("SELECT 'served'"));
    console.wait_for_waiting(1);
    drop(clients);
    assert_eq!(first_error(&one_more.until_ready()), None);
}

#[test]
fn min_pool_size_comes_into_force_for_pools_whose_clients_are_on_any_worker() {
    // The client of several tries is not always on the first worker.
    for tag in ["minimum 1", "minimum 2", "minimum 3", "minimum 4"] {
        let valet = valet(tag, &["pool_size = 6"]).start();
        let mut client = valet.client(Role::Trust);
        client.value("SELECT 1");
        reload(&valet, &format!("min_pool_size = 4\n{}", valet.config()));
        Watch::new(tag).wait_for(4);
    }
}

#[test]
fn a_login_that_waits_for_a_server_goes_on_with_the_pool_that_takes_the_place_of_its_own() {
    let (from, to) = (Cluster::start(), Cluster::start());
    let line = ["pool_size = 1"];
    let valet = open_house().database(DATABASE, &from, &line).start();
    let mut console = Console::of(&valet);
    let mut holder = holder(&valet);
    // Nobody has logged in with such settings before, so a server has to be asked.
    let login = Role::Trust.login().parameter("search_path", "pg_catalog");
    let text = valet.config();
    std::thread::scope(|scope| {
        let newcomer = scope.spawn(|| Client::login(&valet.tcp(), &login));
        console.wait_for_waiting(1);
        reload(&valet, &text.replace(&format!("port = {}", from.port()), &format!("port = {}", to.port())));
        let mut client = newcomer.join().expect("it does not panic").expect("it is let in");
        assert_eq!(client.value("SELECT current_setting('port')"), to.port().to_string());
        assert_eq!(client.value("SHOW search_path"), "pg_catalog");
    });
    assert_eq!(holder.value("SELECT current_setting('port')"), from.port().to_string());
    holder.query("COMMIT");
    // What has no place any more ends the wait with the reason.
    holder.query("BEGIN");
    let login = Role::Trust.login().parameter("search_path", "public");
    std::thread::scope(|scope| {
        let newcomer = scope.spawn(|| Client::login(&valet.tcp(), &login));
        console.wait_for_waiting(1);
        reload(&valet, &text.replace("[databases.\"app\"]", "[databases.\"other\"]"));
        let refused = newcomer.join().expect("it does not panic").expect_err("the database is gone");
        assert_eq!(refused.sqlstate().as_deref(), Some("3D000"), "{refused}");
    });
    holder.query("COMMIT");
    drop(holder);
    console.wait_for_rest(0, 0);
}

#[test]
fn a_storm_of_reloads_leaks_nothing_and_only_the_last_one_counts() {
    let valet = valet("storm", &["pool_size = 3"]).start();
    let mut watch = Watch::new("storm");
    let text = valet.config();
    let variants = [
        with_pool_size(&text, 1),
        with_pool_size(&text, 40),
        format!("min_pool_size = 2\nreserve_pool_size = 2\nreserve_pool_timeout = \"10ms\"\n{text}"),
        format!("max_db_connections = 1\n{text}"),
        format!("max_user_connections = 2\npool_mode = \"session\"\n{text}"),
        text.replace("[databases.\"app\"]", "[databases.\"elsewhere\"]"),
        text.replace("\"storm\"", "\"another\""),
        text.clone(),
    ];
    let enough = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for number in 0..16 {
            let (valet, enough) = (&valet, &enough);
            scope.spawn(move || {
                while !enough.load(Ordering::Relaxed) {
                    one_visit(valet, number % 4);
                }
            });
        }
        for variant in variants.iter().cycle().take(variants.len() * 4) {
            reload(&valet, variant);
        }
        enough.store(true, Ordering::Relaxed);
    });
    let mut console = Console::of(&valet);
    console.wait_for_rest(0, 3);
    assert_agree(&mut console, &mut watch);
    Watch::new("another").wait_for(0);
    assert_room_for(&valet, &mut console, 3);
    valet.sigterm();
    assert_eq!(valet.wait_exit().code(), Some(0));
    watch.wait_for(0);
}

/// One client's stay: it may be refused for want of its database, and for nothing else.
fn one_visit(valet: &Pgvalet, kind: usize) {
    // Each kind waits for a server at its login when the pool is new. (application_name is what the test counts by.)
    let zone = ["UTC", "Europe/Lisbon", "Asia/Tokyo", "America/Lima"][kind];
    let login = Role::Trust.login().parameter("TimeZone", zone);
    let mut client = match Client::login(&valet.tcp(), &login) {
        Ok(client) => client,
        Err(LoginError::Refused(message)) if message.sqlstate().as_deref() == Some("3D000") => return,
        Err(error) => panic!("a login was refused: {error}"),
    };
    for sql in
        ["SELECT 1", "BEGIN", "SELECT 2", "COMMIT", "SELECT set_config('search_path', 'public', false)"]
    {
        client.send(&frontend::query(sql));
        if kind == 3 && sql == "SELECT 2" {
            return; // It leaves in a transaction, with a query under way.
        }
        loop {
            let message = client.recv();
            match message.tag {
                b'Z' => break,
                b'E' => {
                    assert_eq!(message.sqlstate().as_deref(), Some("3D000"), "{}", error_text(&[message]));
                    return;
                }
                _ => {}
            }
        }
    }
    client.terminate();
}
