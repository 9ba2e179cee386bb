//! The same wire messages to PostgreSQL and to pgvalet: every reply is the same.
//!
//! Each script is played to PostgreSQL twice first, since only a script that agrees with itself can say something about
//! pgvalet; then to a pgvalet of its own: whole, one byte at a time, and with servers that rotate between the steps.
//! With `PGVALET_DIFFERENTIAL=direct` in the environment only the first part is run.

mod support;

#[path = "differential/copy.rs"]
mod copy;
#[path = "differential/extended.rs"]
mod extended;
#[path = "differential/session.rs"]
mod session;
#[path = "differential/simple.rs"]
mod simple;

use support::cluster::{Cluster, Role};
use support::differential::{How, Script, Side, compare, play};
use support::pgvalet::Pgvalet;
use support::transcript::Entry;

fn check(script: &Script) {
    check_as(script, &[How::BYTEWISE, How::ROTATING], "transaction");
}

/// As [`check`], under session pooling: for scripts whose sessions must keep their servers.
fn check_in_sessions(script: &Script) {
    check_as(script, &[How::BYTEWISE], "session");
}

fn check_as(script: &Script, hows: &[How], pool_mode: &str) {
    let cluster = Cluster::shared();
    let direct = Side::direct(cluster, Role::Trust);
    compare(cluster, script, &direct, &direct, How::WHOLE);
    compare(cluster, script, &direct, &direct, How::BYTEWISE);
    if direct_only() {
        return;
    }
    // One server more than can be in use, for the client that makes them rotate.
    let pool_size = format!("default_pool_size = {}", script.clients() + 1);
    let pool_mode = format!("pool_mode = \"{pool_mode}\"");
    let valet = Pgvalet::in_front_of(cluster).setting(&pool_size).setting(&pool_mode).start();
    let pooled = Side::new("pgvalet", valet.tcp(), Role::Trust.login());
    compare(cluster, script, &direct, &pooled, How::WHOLE);
    for how in hows {
        compare(cluster, script, &direct, &pooled, *how);
    }
}

fn direct_only() -> bool {
    std::env::var("PGVALET_DIFFERENTIAL").is_ok_and(|value| value == "direct")
}

#[test]
fn servers_rotate_when_a_script_asks_for_it() {
    if direct_only() {
        return;
    }
    let cluster = Cluster::shared();
    let valet = Pgvalet::in_front_of(cluster).setting("default_pool_size = 2").start();
    let side = Side::new("pgvalet", valet.tcp(), Role::Trust.login());
    let script = (0..5).fold(Script::new("rotation"), |script, _| script.query("SELECT pg_backend_pid()"));
    let servers: Vec<_> =
        play(cluster, &script, &side, How::ROTATING).iter().filter_map(Entry::first_value).collect();
    assert_eq!(servers.len(), 5);
    assert!(servers.windows(2).all(|pair| pair[0] != pair[1]), "{servers:?}");
}
