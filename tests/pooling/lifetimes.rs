//! The end of servers: by age, by idleness, by a check that finds them dead.

use crate::fixture::{Console, Watch, open_house, pid, valet};
use crate::support::backend::{self, tags};
use crate::support::cluster::{Cluster, DATABASE, Role};
use crate::support::eventually;
use crate::support::frontend;
use crate::support::scripted::{Act, ScriptedServer, greeting};
use crate::support::wire::Client;

#[test]
fn a_server_older_than_server_lifetime_is_closed_when_it_is_free() {
    let valet = valet("lifetime", &["pool_size = 1", "server_lifetime = \"400ms\""]).start();
    let mut watch = Watch::new("lifetime");
    let mut client = valet.client(Role::Trust);
    client.query("BEGIN");
    let first = pid(&mut client);
    // It outlives its time in the hands of a client.
    client.query("SELECT pg_sleep(0.6)");
    assert_eq!(pid(&mut client), first);
    assert!(watch.pids().contains(&first));
    client.query("COMMIT");
    eventually("the old server to go", || (!watch.pids().contains(&first)).then_some(()));
    // And without any client: whatever is idle grows old too.
    let second = pid(&mut client);
    assert_ne!(second, first);
    eventually("the second server to go", || (!watch.pids().contains(&second)).then_some(()));
    let mut console = Console::of(&valet);
    assert!(console.stat("closes") >= 2);
    console.wait_for_rest(1, 0);
}

#[test]
fn a_server_of_session_pooling_is_not_closed_for_its_age_while_its_client_is_there() {
    let lines = ["pool_size = 1", "pool_mode = \"session\"", "server_lifetime = \"200ms\""];
    let valet = valet("lifetime_session", &lines).start();
    let mut client = valet.client(Role::Trust);
    let own = pid(&mut client);
    client.query("SELECT pg_sleep(0.4)");
    assert_eq!(pid(&mut client), own);
    client.terminate();
    Watch::new("lifetime_session").wait_for(0);
    Console::of(&valet).wait_for_rest(0, 0);
}

#[test]
fn servers_that_are_idle_for_server_idle_timeout_are_closed() {
    let valet = valet("idle_timeout", &["pool_size = 5"]).setting("server_idle_timeout = \"300ms\"").start();
    let mut watch = Watch::new("idle_timeout");
    let mut clients: Vec<Client> = (0..5).map(|_| valet.client(Role::Trust)).collect();
    clients.iter_mut().for_each(|client| {
        client.query("BEGIN");
    });
    watch.wait_for(5);
    let kept = pid(&mut clients[0]);
    for client in &mut clients[1..] {
        client.query("COMMIT");
    }
    assert_eq!(watch.wait_for(1).first(), Some(&kept), "what a client has is not idle");
    clients[0].query("COMMIT");
    watch.wait_for(0);
    assert_eq!(tags(&clients[0].query("SELECT 1")), "TDCZ");
    Console::of(&valet).wait_for_rest(5, 1);
}

#[test]
fn a_check_that_fails_closes_the_server_and_no_client_notices() {
    let sick = [backend::error_response("ERROR", "58030", "the disk is gone"), backend::ready_for_query('I')]
        .concat();
    let well = [backend::command_complete("SELECT 0"), backend::ready_for_query('I')].concat();
    let server = ScriptedServer::start(vec![
        vec![
            Act::Startup,
            Act::Send(greeting()),
            // The catalog.
            Act::SkipTo(b'Q'),
            Act::Send(well),
            Act::Expect(frontend::query("SELECT 'well?'")),
            Act::Send(sick),
            Act::ExpectEnd,
        ],
        vec![Act::Login, Act::Serve("SELECT 0")],
    ]);
    let valet = open_house()
        .setting("server_check_query = \"SELECT 'well?'\"")
        .setting("server_check_delay = \"100ms\"")
        .database_at(DATABASE, &server.tcp(), &["pool_size = 1"])
        .start();
    let mut client = valet.client(Role::Trust);
    valet.wait_log(&["server_check_query failed", "the disk is gone"]);
    assert_eq!(tags(&client.query("SELECT")), "CZ");
    assert_eq!(Console::of(&valet).stat("lost_servers"), 0);
}

#[test]
fn a_server_that_hangs_is_found_by_the_check_and_no_client_gets_it() {
    let valet = valet("frozen", &["pool_size = 2"])
        .setting("server_check_query = \"SELECT 'alive?'\"")
        .setting("server_check_delay = \"100ms\"")
        .start();
    let mut console = Console::of(&valet);
    let mut client = valet.client(Role::Trust);
    let frozen = pid(&mut client);
    console.wait_for_rest(1, 1);
    let number = frozen.parse().expect("a process id");
    Cluster::shared().freeze_backend(number, true);
    // Idle no more: the check has it.
    eventually("the check", || {
        (console.pools("sv_idle") == 0 && console.pools("sv_tested") == 1).then_some(())
    });
    let other = pid(&mut client);
    assert_ne!(other, frozen);
    Cluster::shared().freeze_backend(number, false);
    console.wait_for_rest(1, 2);
}

#[test]
fn a_checked_server_still_ends_at_server_idle_timeout() {
    let valet = valet("checked_idle", &["pool_size = 1"])
        .setting("server_check_delay = \"100ms\"")
        .setting("server_idle_timeout = \"500ms\"")
        .start();
    valet.client(Role::Trust).terminate();
    Watch::new("checked_idle").wait_for(0);
    Console::of(&valet).wait_for_rest(0, 0);
}

#[test]
fn a_server_that_ends_while_idle_is_replaced_unnoticed() {
    let valet = valet("ended_idle", &["pool_size = 1"]).start();
    let mut client = valet.client(Role::Trust);
    let mut console = Console::of(&valet);
    for round in 0..3 {
        let old = pid(&mut client);
        console.wait_for_rest(1, 1);
        Cluster::shared().terminate_backend(old.parse().expect("a process id"));
        let seen = || valet.count_log(&["server closed", "ended while idle"]) > round;
        eventually("pgvalet to see it", || seen().then_some(()));
        assert_ne!(pid(&mut client), old);
    }
    assert_eq!(console.stat("lost_servers"), 0);
    console.wait_for_rest(1, 1);
}
