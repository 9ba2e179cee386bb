//! Plays a script to PostgreSQL and to a pgvalet of its own, in every way: each answer is the same.
//!
//! Included by the test binaries that need it. A script is played to PostgreSQL twice first, since only one that agrees
//! with itself can say something about pgvalet. With `PGVALET_DIFFERENTIAL=direct` in the environment nothing else is done.

#![allow(dead_code, reason = "each test binary uses only a part of this")]

use crate::support::cluster::{Cluster, DATABASE, Role};
use crate::support::differential::{How, Script, Side, compare};
use crate::support::pgvalet::Pgvalet;
use crate::support::wire::Login;

/// The database of pgvalet that is [`DATABASE`] with a server more, for scripts that are crowded.
const CROWDED: &str = "crowded";

/// The same answers whole, one byte at a time, with another server for each transaction, and with other clients that take
/// every server that is given back, at every step.
#[track_caller]
pub fn faithful(script: &Script) {
    faithful_with(script, &[]);
}

/// The same with further settings of pgvalet.
#[track_caller]
pub fn faithful_with(script: &Script, settings: &[&str]) {
    faithful_as(script, Role::Trust.login(), settings, &[How::WHOLE, How::BYTEWISE, How::ROTATING]);
}

/// The same, not one byte at a time: for scripts that send much.
#[track_caller]
pub fn faithful_in_large(script: &Script) {
    faithful_as(script, Role::Trust.login(), &[], &[How::WHOLE, How::ROTATING]);
}

/// The same for a script whose clients keep their servers: others take what is left.
#[track_caller]
pub fn faithful_when_pinned(script: &Script) {
    faithful_as(script, Role::Trust.login(), &[], &[How::WHOLE, How::BYTEWISE]);
}

/// The same for a login of one's own.
#[track_caller]
pub fn faithful_as(script: &Script, login: Login, settings: &[&str], hows: &[How]) {
    let cluster = Cluster::shared();
    let direct = Side::new(&format!("PostgreSQL {}", cluster.major()), cluster.tcp(), login.clone());
    compare(cluster, script, &direct, &direct, How::WHOLE);
    if direct_only() {
        return;
    }
    // With one client: two servers, one of which other clients have.
    let pool_size = |more: usize| format!("pool_size = {}", script.clients() + more);
    let builder = Pgvalet::builder()
        .all_roles()
        .setting("auth_type = \"trust\"")
        .database(DATABASE, cluster, &[&pool_size(1)])
        .database(CROWDED, cluster, &[&format!("dbname = \"{DATABASE}\""), &pool_size(2)]);
    let valet = settings.iter().fold(builder, |builder, line| builder.setting(line)).start();
    for how in hows {
        compare(cluster, script, &direct, &Side::new("pgvalet", valet.tcp(), login.clone()), *how);
    }
    let crowded = Side::new("pgvalet, crowded", valet.tcp(), login.database(CROWDED));
    compare(cluster, &script.clone().crowded(), &direct, &crowded, How::ROTATING);
}

/// Whether only PostgreSQL is asked.
pub fn direct_only() -> bool {
    std::env::var("PGVALET_DIFFERENTIAL").is_ok_and(|value| value == "direct")
}
